"""TinyStories in GPT-2's BPE: 2.7 million short stories by GPT-4, 2.2 GB, in its own splits.

Stories end with <|endoftext|>, which is one token. --source takes the folder, or the URL of a folder, that has
both files; --vocabulary takes the tokens from a rank file of tiktoken. Eldan and Li 2023, arXiv:2305.07759.
"""

import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))

from data import build, download, subword  # noqa: E402
from data.text_char.prepare import sha256, streams  # noqa: E402

URL = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"
FILES = {  # of a split: its name, bytes and SHA-256
    "train": (
        "TinyStoriesV2-GPT4-train.txt",
        2_227_753_162,
        "6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
    ),
    "val": (
        "TinyStoriesV2-GPT4-valid.txt",
        22_502_601,
        "6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d",
    ),
}


def main(argv, folder=HERE):
    arguments = build.options(__doc__, source="FOLDER_OR_URL", **subword.OPTION).parse_args(argv)
    vocabulary = arguments.vocabulary and subword.read_vocabulary(arguments.vocabulary)
    if not arguments.force and subword.prepared(folder, vocabulary):
        return
    vocabulary = vocabulary or subword.gpt2_vocabulary()
    paths = {split: obtained(*file, arguments.source, folder) for split, file in FILES.items()}
    parts = {split: lambda path=path: build.read_text(streams([path])) for split, path in paths.items()}
    source = {"from": " ".join(path.name for path in paths.values()), "sha256": sha256(paths.values())}
    build.report(folder, subword.write_corpus(folder, parts, vocabulary, source, ends=True))


def obtained(name, size, sha256, source, folder):
    """The path of one of the files."""
    source = source and f"{source}/{name}"
    return download.fetch([f"{URL}/{name}"], sha256, folder / name, source, size, held="its folder")[0]


if __name__ == "__main__":
    build.run(main, HERE)
