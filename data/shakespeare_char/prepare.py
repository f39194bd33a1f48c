"""tinyshakespeare by characters: 1,115,394 of them, 65 distinct; the first 90 % train, the rest val."""

import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))

from data import build, download  # noqa: E402

SIZE = 1_115_394  # bytes
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
URLS = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "https://raw.githubusercontent.com/jcjohnson/torch-rnn/master/data/tiny-shakespeare.txt",
)


def main(argv, folder=HERE):
    arguments = build.options(__doc__).parse_args(argv)
    if not arguments.force and build.prepared(folder):
        return
    text, origin = download.fetch(URLS, SHA256, folder / "input.txt", arguments.source, SIZE)
    meta = build.write_corpus(
        folder,
        lambda: build.read_characters([(text, lambda: open(text, "rb"))]),
        source={"from": origin, "sha256": SHA256},
    )
    build.report(folder, meta)


if __name__ == "__main__":
    build.run(main, HERE)
