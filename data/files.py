"""Atomic files, hashes and locks: a reader sees the old file or the new one, never half of either."""

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path

from config import ROOT, UserError


@contextlib.contextmanager
def replacing(path, mode="wb", **options):
    """Open a temporary file beside `path`; on success it takes the path's place, on failure it goes.

    The bytes are on the disk before the name changes, so that a power cut leaves a whole file too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    """Write `value` as JSON in UTF-8, one key a line, atomically. NaN and infinity are refused."""
    with replacing(path, "w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def read_json(path):
    """The JSON value in a file, or None where there is no file; UserError where it is no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def hash_of(path):
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown(path):
    """A path as its reader would type it: from the repository's root where it lies there."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def lock(path, wait=False):
    """An open file that one process at a time can hold; the system lets go of it when the process ends.

    wait: until it is free. Otherwise None where another process holds it.
    """
    file = open(path, "a")
    while not held(file, wait):
        if not wait:
            file.close()
            return None
    return file


def held(file, wait):
    """Whether an open file is locked for this process now; Windows gives up waiting after ten seconds."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            file.close()
            raise
        return False
    return True
