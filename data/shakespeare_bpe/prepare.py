"""tinyshakespeare in GPT-2's BPE, 50,257 tokens; the first 90 % of its characters train, the rest val.

--vocabulary takes them from a rank file of tiktoken, which may hold any byte-level BPE, and needs no network.
"""

import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))

from data import build, download, subword  # noqa: E402
from data.shakespeare_char.prepare import SHA256, SIZE, URLS  # noqa: E402


def main(argv, folder=HERE):
    arguments = build.options(__doc__, **subword.OPTION).parse_args(argv)
    vocabulary = arguments.vocabulary and subword.read_vocabulary(arguments.vocabulary)
    if not arguments.force and subword.prepared(folder, vocabulary):
        return
    vocabulary = vocabulary or subword.gpt2_vocabulary()
    text, origin = download.fetch(URLS, SHA256, folder / "input.txt", arguments.source, SIZE)
    meta = subword.write_corpus(
        folder,
        lambda: build.read_text([(text, lambda: open(text, "rb"))]),
        vocabulary,
        source={"from": origin, "sha256": SHA256},
    )
    build.report(folder, meta)


if __name__ == "__main__":
    build.run(main, HERE)
