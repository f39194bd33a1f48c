"""WikiText-103 by characters: its raw text, 103 million words of Wikipedia's best articles, in its own splits.

--source takes wikitext-103-raw-v1.zip. Merity et al. 2016, arXiv:1609.07843.
"""

import os
import sys
from functools import partial
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))

from data import build, download, unzip  # noqa: E402

SIZE = 191_984_949  # bytes of the zip
SHA256 = "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794"
URLS = (  # the second is a copy at a fixed revision, the third the first publisher's, which may be closed
    "https://wikitext.smerity.com/wikitext-103-raw-v1.zip",
    "https://huggingface.co/datasets/mattdangerw/wikitext-103-raw/resolve/"
    "3555105b17ae31cc619a136fac72dbe2865c3738/wikitext-103-raw-v1.zip",
    "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-raw-v1.zip",
)
MEMBERS = {
    "train": "wikitext-103-raw/wiki.train.raw",
    "val": "wikitext-103-raw/wiki.valid.raw",
    "test": "wikitext-103-raw/wiki.test.raw",
}


def main(argv, folder=HERE):
    arguments = build.options(__doc__).parse_args(argv)
    if not arguments.force and build.prepared(folder):
        return
    archive, source = obtained(arguments, folder)
    meta = build.write_corpus(folder, parts(archive, build.read_characters), source)
    build.report(folder, meta)


def obtained(arguments, folder):
    """(path of the zip, "source" of meta.json)."""
    path, origin = download.fetch(URLS, SHA256, folder / f"{folder.name}.zip", arguments.source, SIZE)
    return path, {"from": origin, "sha256": SHA256}


def parts(archive, read):
    """{split: function that reads it by build.read_text or build.read_characters}."""
    streams = {split: [(name, partial(unzip.opened, archive, name))] for split, name in MEMBERS.items()}
    return {split: partial(read, stream) for split, stream in streams.items()}


if __name__ == "__main__":
    build.run(main, HERE)
