"""Atomic files, JSON of a known shape, hashes, locks: a reader sees the old file or the new one, never half."""

import contextlib
import errno
import hashlib
import json
import os
import re
import sys
import time
import zlib
from pathlib import Path
from types import NoneType

import filelock

from config import ROOT, UserError, quoted

FAILING = (errno.EIO, errno.ENOSPC, errno.EDQUOT)  # of a disk, not of what a file system cannot do
WINDOWS = os.name == "nt"
NUMBER = (int, float, NoneType)  # of a shape: JSON has no NaN and no infinity, they are null
LARGE = 500 * 10**6  # bytes of files that are read in one go


@contextlib.contextmanager
def replacing(path, mode="wb", keep=None, **options):
    """Open a temporary file beside `path`; on success it takes the path's place, on failure it goes.

    The bytes are on the disk before the name changes, and the name is before this ends, so that a power cut
    leaves whole files, and of two that are written one after the other never the second alone. keep: a second
    name that the old file keeps. An OSError names the path.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        make_folder(path.parent)
        temporary.unlink(missing_ok=True)  # a link planted there would be written through
        with open(temporary, mode.replace("w", "x"), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            keep_as(path, keep)
        take_place(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise naming(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def take_place(temporary, path):
    """os.replace; on Windows, which replaces no file that someone is reading, again for a second or so."""
    for _ in range(20 if WINDOWS else 0):
        try:
            return os.replace(temporary, path)
        except PermissionError:
            time.sleep(0.05)
    return os.replace(temporary, path)


def keep_as(path, name):
    """Give a file a second name; where the file system has no such names, move it."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError as error:
        if error.errno in FAILING:
            raise
        os.replace(path, name)


def naming(path, error):
    """An OSError of the system's that names a file, this one where it named none."""
    if error.errno and error.filename is None:
        error.filename = str(path)
    return error


def make_folder(path):
    """Make a folder and those above it, their names on the disk when this ends."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in new:
        sync_folder(folder.parent)


def sync_folder(path):
    """Have the names in a folder on the disk, as fsync has a file's bytes, where the system can do it."""
    if WINDOWS or not os.access(path, os.R_OK):
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno in FAILING:
            raise naming(path, error) from None
    finally:
        os.close(folder)


def remove(folder, names):
    """Remove files of a folder, in this order even after a power cut."""
    for name in names:
        if (path := folder / name).exists() or path.is_symlink():
            path.unlink()
            sync_folder(folder)


def files_like(folder, pattern):
    """The names in a folder that a pattern matches, such as "tensorboard/*"."""
    return [path.relative_to(folder) for path in folder.glob(pattern)]


def temporaries(folder, names):
    """The temporary files that killed processes have left of these files."""
    known = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.\d+\.tmp")
    return [path for path in folder.glob(".*.tmp") if known.fullmatch(path.name)]


def write_json(path, value):
    """Write `value` as JSON in UTF-8, one key a line, atomically. NaN and infinity are refused."""
    with replacing(path, "w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def read_json(path, shape=None):
    """The JSON value in a file, or None where there is no file; UserError where it is no JSON, has been changed
    since `sealed`, or has not the shape (see `misfit`)."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # half a pair of surrogates is no text
    except FileNotFoundError:
        is_file(path)
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if isinstance(value, dict) and SEAL & value.keys():
        written, _ = (value.pop(key, None) for key in ("crc32", "verified_by"))
        if written != crc32(value):
            raise UserError(f"{path} is damaged: it is not as it was written, by its crc32; restore it")
    if shape and (found := misfit(value, shape)):
        raise UserError(f"{path} is damaged: {found}; restore it")
    return value


def is_file(path):
    """Whether there is a file; UserError where something else is in its place, or a link that leads nowhere."""
    if os.path.lexists(path) and not os.path.isfile(path):
        raise UserError(f"{path} is no file, or a link that leads to none: restore it")
    return os.path.isfile(path)


SEAL = {"crc32", "verified_by"}  # the second says that the first must be there


def sealed(value):
    """A dict with the CRC-32 of what it holds, by which `read_json` knows a change."""
    return {**value, "verified_by": "crc32", "crc32": crc32(value)}


def crc32(value):
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def misfit(value, shape, at="it"):
    """In words, the first place where a JSON value has not a shape; None where it has.

    A shape is a type or a tuple of types (an int is no bool, and has 64 bits at most), a list of the shape of
    each item, {key: shape of its value}, or {str: shape of every value}. A key that ends with "?" may be left
    out; other keys may be there.
    """
    if isinstance(shape, dict) and isinstance(value, dict):
        wanted = dict.fromkeys(value, shape[str]) if str in shape else shape
        found = (misfit_of_key(value, key, part, at) for key, part in wanted.items())
    elif isinstance(shape, list) and isinstance(value, list):
        found = (misfit(item, shape[0], f"an entry of {at}") for item in value)
    else:
        fits = not isinstance(shape, (dict, list)) and isinstance(value, shape)
        fits &= isinstance(value, bool) == (shape is bool)
        fits &= not isinstance(value, int) or abs(value) < 1 << 63
        found = [None if fits else f"{at} is {quoted(value, 40)}"]
    return next(filter(None, found), None)


def misfit_of_key(value, key, shape, at):
    name = key.removesuffix("?")
    if name in value:
        return misfit(value[name], shape, name)
    return f"{at} has no {name}" if name == key else None


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


def lock(path, seconds=0):
    """A lock on a file that one process at a time can hold, to be released; the system releases it when the
    process ends. None where another process holds it for so many seconds, -1 for as long as it takes."""
    held = filelock.FileLock(path)
    try:
        held.acquire(timeout=seconds)
    except filelock.Timeout:
        return None
    return held
