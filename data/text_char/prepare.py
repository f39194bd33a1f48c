"""Your own text by characters: python data/text_char/prepare.py my.txt [more.txt ...]

UTF-8 files, one after the other; the first 90 % train, the rest val.
"""

import hashlib
import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))

from config import UserError, user_path  # noqa: E402
from data import build, download  # noqa: E402

TEXTS = {"texts": {"nargs": "*", "metavar": "TEXT"}}
COMMAND = "python data/text_char/prepare.py my.txt [more.txt ...]"


def main(argv, folder=HERE):
    parser = build.options(__doc__, **TEXTS)
    arguments = parser.parse_intermixed_args(argv)
    texts, source = obtained(arguments, folder, COMMAND)
    if not arguments.force and build.prepared(folder, source["sha256"]):
        return
    meta = build.write_corpus(folder, lambda: build.read_characters(streams(texts)), source)
    build.report(folder, meta)


def obtained(arguments, folder, command):
    """(the paths of the texts that a command line names, "source" of meta.json)."""
    texts = [user_path(text) for text in arguments.texts]
    if not texts and not arguments.source:
        raise UserError(f"{folder.name} is your own text, and none was named: {command}")
    for text in texts:
        if not text.is_file():
            raise UserError(f"{text} is no file, or none that can be read twice")
    names = [text.name for text in texts]
    if arguments.source:
        path, origin = download.fetch([], None, folder / f"{folder.name}.source", arguments.source)
        texts, names = [*texts, path], [*names, origin]
    return texts, {"from": " ".join(names), "sha256": sha256(texts)}


def streams(texts):
    return [(text, lambda text=text: open(text, "rb")) for text in texts]


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
