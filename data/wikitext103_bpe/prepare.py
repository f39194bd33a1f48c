"""WikiText-103 in GPT-2's BPE: its raw text, 103 million words of Wikipedia's best articles, in its own splits.

--source takes wikitext-103-raw-v1.zip. --vocabulary takes the tokens from a rank file of tiktoken.
"""

import os
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))

from data import build, subword  # noqa: E402
from data.wikitext103_char.prepare import obtained, parts  # noqa: E402


def main(argv, folder=HERE):
    arguments = build.options(__doc__, **subword.OPTION).parse_args(argv)
    vocabulary = arguments.vocabulary and subword.read_vocabulary(arguments.vocabulary)
    if not arguments.force and subword.prepared(folder, vocabulary):
        return
    vocabulary = vocabulary or subword.gpt2_vocabulary()
    archive, source = obtained(arguments, folder)
    meta = subword.write_corpus(folder, parts(archive, build.read_text), vocabulary, source)
    build.report(folder, meta)


if __name__ == "__main__":
    build.run(main, HERE)
