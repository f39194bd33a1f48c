"""text8 by characters: 100,000,000 of Wikipedia's English in a to z and space; 90 M train, 5 M val, 5 M test.

--source takes text8 or text8.zip; with --partial, the first part of text8 alone.
"""

import os
import string
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))

from data import build, unzip  # noqa: E402

TEXT8 = unzip.ZippedText(
    name="text8",
    unit="character",
    size=100_000_000,
    sha256="6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
    zip_size=31_344_016,
    zip_sha256="a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    urls=(
        "http://mattmahoney.net/dc/text8.zip",
        "https://mattmahoney.net/dc/text8.zip",
        "https://data.deepai.org/text8.zip",
        "http://web.archive.org/web/2020/http://mattmahoney.net/dc/text8.zip",
    ),
    opening=b" anarchism originated as a term of abuse",
    symbols=f" {string.ascii_lowercase}".encode(),
)


def main(argv, folder=HERE):
    unzip.prepare(TEXT8, __doc__, argv, folder)


if __name__ == "__main__":
    build.run(main, HERE)
