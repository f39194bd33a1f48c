"""Your own text by characters: python data/text_char/prepare.py my.txt [more.txt ...]

UTF-8 files, one after the other; the first 90 % train, the rest val.
"""

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from config import UserError  # noqa: E402
from data import build, download  # noqa: E402

COMMAND = "python data/text_char/prepare.py my.txt [more.txt ...]"


def main(argv, folder=HERE):
    parser = build.options(__doc__, texts={"nargs": "*", "metavar": "TEXT", "type": Path})
    arguments = parser.parse_args(argv)
    if not arguments.texts and not arguments.source:
        raise UserError(f"text_char is your own text, and none was named: {COMMAND}")
    for text in arguments.texts:
        if not text.is_file():
            raise UserError(f"no such file: {text}")
    texts = arguments.texts
    if arguments.source:
        texts = [*texts, download.fetch([], None, folder / "input.txt", arguments.source)[0]]
    source = {"from": " ".join(text.name for text in texts), "sha256": sha256(texts)}
    if not arguments.force and build.prepared(folder, source["sha256"]):
        return
    meta = build.write_corpus(
        folder,
        lambda: build.read_characters([(text, lambda text=text: open(text, "rb")) for text in texts]),
        source=source,
    )
    build.report(folder, meta)


def sha256(texts):
    """Of the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for text in texts:
        with open(text, "rb") as file:
            while piece := file.read(build.CHUNK):
                digest.update(piece)
    return digest.hexdigest()


if __name__ == "__main__":
    build.run(main, HERE)
