"""Atomic files, hashes and locks: a reader sees the old file or the new one, never half of either."""

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path

import filelock

from config import ROOT, UserError

LARGE = 500 * 10**6  # bytes of files that are read in one go


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


def say_if_large(paths):
    """The bytes of some files in all; says so first where it takes seconds to read them."""
    size = sum(path.stat().st_size for path in paths)
    if size > LARGE:
        print(f"reading {shown(paths[0])}, {size / 1e9:.1f} GB", file=sys.stderr, flush=True)
    return size


def shown(path):
    """A path as its reader would type it: from the repository's root where it lies there."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def lock(path, wait=False):
    """A lock on a file that one process at a time can hold, to be released; the system releases it when the
    process ends. wait: until it is free. Otherwise None where another process holds it."""
    held = filelock.FileLock(path)
    try:
        held.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        return None
    return held
