"""enwik8 by bytes: 100,000,000 of an English Wikipedia dump, 205 distinct; 90 M train, 5 M val, 5 M test.

--source takes enwik8 or enwik8.zip; with --partial, the first part of enwik8 alone.
"""

import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))

from data import build, unzip  # noqa: E402

ENWIK8 = unzip.ZippedText(
    name="enwik8",
    unit="byte",
    size=100_000_000,
    sha256="2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
    zip_size=36_445_475,
    zip_sha256="547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
    urls=(
        "http://mattmahoney.net/dc/enwik8.zip",
        "https://mattmahoney.net/dc/enwik8.zip",
        "https://data.deepai.org/enwik8.zip",
    ),
    opening=(  # as far as its third line, so that other line ends are found
        b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.3/"'
        b' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        b' xsi:schemaLocation="http://www.mediawiki.org/xml/export-0.3/'
        b' http://www.mediawiki.org/xml/export-0.3.xsd" version="0.3" xml:lang="en">\n  <siteinfo>\n'
    ),
    symbols=bytes(range(256)),
)


def main(argv, folder=HERE):
    unzip.prepare(ENWIK8, __doc__, argv, folder)


if __name__ == "__main__":
    build.run(main, HERE)
