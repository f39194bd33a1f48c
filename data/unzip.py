"""A corpus that comes as one text in a zip, read byte by byte: enwik8 and text8, whole or in part. No torch."""

import contextlib
import hashlib
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from config import UserError
from data import build, download

SPLITS = {"train": 0.9, "val": 0.05, "test": 0.05}
PARTIAL = {"--partial": {"action": "store_true", "help": "prepare a shorter text of it, given by --source"}}
OTHER_TEXT = "another text is prepared by python data/text_char/prepare.py FILE"


@dataclass(frozen=True)
class ZippedText:
    name: str  # of the corpus, and of the zip's one member
    unit: str  # what a byte is: "byte" or "character"
    size: int  # bytes
    sha256: str
    zip_size: int
    zip_sha256: str
    urls: tuple  # where the zip is to be had
    opening: bytes  # how the text begins
    symbols: bytes  # the bytes that may occur in it


def prepare(text, description, argv, folder):
    """Prepare a ZippedText in `folder` as the command line says, 90 % train, 5 % val and 5 % test.

    --partial, with --source: a shorter text, taken for the first bytes of this one, and recorded as such.
    UserError where the source is another text, so far as can be known.
    """
    arguments = build.options(description, **PARTIAL).parse_args(argv)
    if arguments.partial and not arguments.source:
        raise UserError(f"--partial needs --source=PATH_OR_URL, the first part of {text.name}")
    if not arguments.partial and not arguments.force and build.prepared(folder, text.sha256):
        return
    with obtained(text, arguments.source, folder) as (path, origin):
        found = examine(text, path, arguments)
        if arguments.partial and not arguments.force and build.prepared(folder, found["sha256"]):
            return
        meta = build.write_corpus(
            folder,
            lambda: (np.frombuffer(piece, np.uint8) for piece in read_text(path, text.name, text.size)),
            source={"from": origin, **found},
            unit=text.unit,
            splits=SPLITS,
            whole=text.size if arguments.partial else None,
        )
    build.report(folder, meta)


@contextlib.contextmanager
def obtained(text, source, folder):
    """(path, where it is from) of the zip or the text. What a --source=URL brought is removed at the end."""
    if not source:
        target = folder / f"{text.name}.zip"
        yield download.fetch(text.urls, text.zip_sha256, target, size=text.zip_size)
        return
    target = folder / f"{text.name}.source"
    try:
        yield download.fetch((), None, target, source, most=text.size)
    finally:
        target.unlink(missing_ok=True)


def examine(text, path, arguments):
    """{"bytes": n, "sha256": ...} of the text in a file; UserError unless it is the one that is asked for."""
    digest, size, head, strange = hashlib.sha256(), 0, b"", b""
    for piece in read_text(path, text.name, text.size):
        digest.update(piece)
        size += len(piece)
        head += piece[: len(text.opening) - len(head)]
        strange = strange or piece.translate(None, text.symbols)[:1]
    where, found = arguments.source or path, {"bytes": size, "sha256": digest.hexdigest()}
    if not arguments.partial and found["sha256"] != text.sha256:
        raise UserError(
            f"{where}: {size:,} bytes of SHA-256 {found['sha256']}, but {text.name} has {text.size:,}"
            f" of SHA-256 {text.sha256}; its first part alone is prepared by --partial, {OTHER_TEXT}"
        )
    if arguments.partial and size == text.size:
        raise UserError(f"{where}: {size:,} bytes are all that {text.name} has: leave out --partial")
    if arguments.partial and (strange or head != text.opening[:size]):
        why = f"holds {strange!r}" if strange else f"begins with {head!r}, not {text.opening!r}"
        raise UserError(f"{where} is not the beginning of {text.name}, since it {why}; {OTHER_TEXT}")
    return found


def read_text(path, name, most):
    """The bytes of a plain file, or of the member `name` of a zip, in pieces; nothing is unpacked to the disk.

    UserError where the text is longer than `most` bytes, or the zip is damaged or has not that one member.
    """
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        with zipfile.ZipFile(path) if zipped else contextlib.nullcontext() as archive:
            size = member(archive, name).file_size if zipped else path.stat().st_size
            if size > most:
                raise UserError(f"{path}: {size:,} bytes are more than the {most:,} of {name or 'such a file'}")
            with archive.open(name) if zipped else open(path, "rb") as file:
                while piece := file.read(build.CHUNK):
                    yield piece
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: a zip that cannot be read ({str(error) or 'it ends early'})") from None


@contextlib.contextmanager
def opened(path, name):
    """The member `name` of a zip that is known to be whole, as an open file."""
    with zipfile.ZipFile(path) as archive, archive.open(member(archive, name)) as file:
        yield file


def member(archive, name):
    """The entry of the one member called `name`; UserError where there is none, or more than one."""
    names = archive.namelist()
    if (count := names.count(name)) != 1:
        others = ", ".join(repr(other[:40]) for other in names[:3]) or "none"
        raise UserError(f"{archive.filename}: needs one member {name!r} and has {count}, among {others}")
    entry = archive.getinfo(name)
    # bz2 and lzma are left out, since zipfile inflates a piece of theirs to any length at once.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{archive.filename}: its {name!r} is compressed by other than deflate")
    return entry
