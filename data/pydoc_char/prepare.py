"""The Python language reference that every CPython carries (pydoc_data.topics), by characters.

The topics in sorted order, a blank line between them; nothing is downloaded. The text, and so its
hash, is another in each Python version.
"""

import hashlib
import io
import os
import platform
import sys
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))

from config import UserError  # noqa: E402
from data import build  # noqa: E402


def main(argv, folder=HERE):
    arguments = build.options(__doc__).parse_args(argv)
    if arguments.source:
        raise UserError(
            "pydoc_char has one source, Python itself; for a text of your own use"
            " python data/text_char/prepare.py FILE"
        )
    if not arguments.force and build.prepared(folder):
        return
    text = reference()
    meta = build.write_corpus(
        folder,
        lambda: build.read_characters([("pydoc_data.topics", lambda: io.BytesIO(text))]),
        source={
            "from": f"pydoc_data.topics of Python {platform.python_version()}",
            "sha256": hashlib.sha256(text).hexdigest(),
        },
    )
    build.report(folder, meta)


def reference():
    """The language reference as UTF-8."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError(
            "this Python carries no language reference (pydoc_data.topics): use one from python.org,"
            " or a text of your own by python data/text_char/prepare.py FILE"
        ) from None
    return "\n\n".join(topics[name] for name in sorted(topics)).encode()


if __name__ == "__main__":
    build.run(main, HERE)
