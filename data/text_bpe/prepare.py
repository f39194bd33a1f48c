"""Your own text in GPT-2's BPE: python data/text_bpe/prepare.py my.txt [more.txt ...]

UTF-8 files, one after the other; the first 90 % of the characters train, the rest val. --vocabulary takes the
tokens from a rank file of tiktoken, which may hold any byte-level BPE, and needs no network.
"""

import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))

from data import build, subword  # noqa: E402
from data.text_char.prepare import TEXTS, obtained, streams  # noqa: E402

COMMAND = "python data/text_bpe/prepare.py my.txt [more.txt ...]"


def main(argv, folder=HERE):
    arguments = build.options(__doc__, **TEXTS, **subword.OPTION).parse_intermixed_args(argv)
    vocabulary = arguments.vocabulary and subword.read_vocabulary(arguments.vocabulary)
    texts, source = obtained(arguments, folder, COMMAND)
    if not arguments.force and subword.prepared(folder, vocabulary, source["sha256"]):
        return
    vocabulary = vocabulary or subword.gpt2_vocabulary()
    meta = subword.write_corpus(folder, lambda: build.read_text(streams(texts)), vocabulary, source)
    build.report(folder, meta)


if __name__ == "__main__":
    build.run(main, HERE)
