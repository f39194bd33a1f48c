"""From a source text to a prepared corpus: download, encode, split, write. No torch.

A prepared corpus is a folder with train.bin, val.bin (test.bin where it has three parts), each token a
little-endian uint16, and meta.json, written last, which says what they are:

    format       1
    name, unit   the corpus, and what a token is: "character" or "byte"
    vocabulary   the symbols in code-point order; a token is an index into it
    splits       {"train": {"tokens": n, "sha256": of train.bin}, ...}, in the text's order
    source       {"from": path or URL, "sha256": of the source's bytes}
"""

import argparse
import contextlib
import hashlib
import io
import itertools
import time
from pathlib import Path

import numpy as np

from config import ROOT, UserError
from files import replacing, write_json

FORMAT = 1
CHUNK = 1 << 22  # characters or bytes held at a time
CODE_POINTS = 0x110000
HALVES = {"train": 0.9, "val": 0.1}


def options(description, **extra):
    """The parser of a prepare script: --source and --force, and what is its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--source", metavar="PATH_OR_URL", help="take the text from here")
    parser.add_argument("--force", action="store_true", help="prepare again what is prepared")
    for name, settings in extra.items():
        parser.add_argument(name, **settings)
    return parser


def prepared(folder):
    """Whether a folder holds a prepared corpus; says so, since the scripts then have nothing to do."""
    if not (Path(folder) / "meta.json").is_file():
        return False
    print(f"{shown(Path(folder))} is prepared already; --force prepares it again")
    return True


def read_characters(streams):
    """The characters of UTF-8 streams, one after the other, as chunks of code points.

    Line ends are made "\\n", as by Python's text mode, and a byte order mark is dropped. streams: pairs
    (name, function that opens a binary file). UserError where the bytes are not UTF-8.
    """
    for name, open_stream in streams:
        with open_stream() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as text:
            try:
                while chunk := text.read(CHUNK):
                    yield code_points(chunk)
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{name} is not UTF-8 ({error.reason}): convert it, for instance by"
                    f" iconv -f latin1 -t utf-8 {name} > text.txt"
                ) from None


def code_points(text):
    """A string as an array of code points: uint8 where it is ASCII, else uint32."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4"))


def write_corpus(folder, chunks, source, unit="character", splits=None):
    """Encode a text and write it as a prepared corpus.

    chunks: function that yields the text as arrays of code points (or bytes); it is called twice, once
        for the vocabulary and once to encode, so that a text of any length passes through a few MB.
    source: for meta.json, {"from": ..., "sha256": ...}.
    splits: {name: fraction} in the text's order; 90 % train and the rest val unless given.
    Returns the meta dict. UserError where a text is empty or has more than 65,536 symbols.
    """
    folder, splits = Path(folder), splits or HALVES
    symbols, length = take_stock(chunks())
    if not 0 < len(symbols) <= 1 << 16:
        raise UserError(
            f"{source['from']}: {len(symbols):,} distinct symbols in {length:,}; a corpus has 1 to 65,536"
        )
    lengths = split_lengths(length, splits)
    if not all(lengths.values()):
        empty = min(lengths, key=lengths.get)
        raise UserError(f"{source['from']}: {length} {unit}s are too few, the {empty} split would be empty")
    table = np.zeros(CODE_POINTS, np.dtype("<u2"))
    table[symbols] = np.arange(len(symbols))

    (folder / "meta.json").unlink(missing_ok=True)
    rest, parts = (table[chunk] for chunk in chunks()), {}
    for name, count in lengths.items():
        taken, rest = take(rest, count)
        parts[name] = {"tokens": count, "sha256": write_tokens(folder / f"{name}.bin", taken)}
    meta = {
        "format": FORMAT,
        "name": folder.name,
        "unit": unit,
        "vocab_size": len(symbols),
        "vocabulary": [chr(symbol) for symbol in symbols] if unit == "character" else symbols.tolist(),
        "splits": parts,
        "source": source,
    }
    write_json(folder / "meta.json", meta)
    return meta


def take_stock(chunks):
    """(the distinct code points in ascending order, the number of symbols)."""
    seen, length = np.zeros(CODE_POINTS, bool), 0
    for chunk in chunks:
        seen[chunk] = True
        length += len(chunk)
    return np.flatnonzero(seen), length


def split_lengths(length, splits):
    """{name: tokens}: each boundary is int(length * the fractions so far), the last part is the rest.

    For 90/10 this is nanoGPT's int(n * 0.9) to the token, for 90/5/5 of 100 MB it is 90M, 5M and 5M.
    """
    fractions = list(itertools.accumulate(splits.values()))
    edges = [0, *(int(length * round(fraction, 9)) for fraction in fractions[:-1]), length]
    return {name: stop - start for name, start, stop in zip(splits, edges, edges[1:])}


def take(chunks, count):
    """(an iterator over the first `count` tokens of `chunks`, an iterator over what follows it).

    The second is to be used once the first is exhausted.
    """
    left_over = []

    def first():
        missing = count
        while missing:
            chunk = next(chunks)
            yield chunk[:missing]
            if len(chunk) > missing:
                left_over.append(chunk[missing:])
            missing -= min(missing, len(chunk))

    def rest():
        yield from left_over
        yield from chunks

    return first(), rest()


def write_tokens(path, chunks):
    """Write uint16 arrays one after the other; returns the file's SHA-256."""
    digest = hashlib.sha256()
    with replacing(path) as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()


def describe(folder, meta):
    """The line with which a prepare script ends."""
    counts = ", ".join(f"{name} {part['tokens']:,}" for name, part in meta["splits"].items())
    print(f"{shown(folder)}: {meta['vocab_size']} symbols; {counts} {meta['unit']}s")


def fetch(urls, sha256, target, source=None):
    """(path of a file with this SHA-256, where it is from): `source` if given, else a download to `target`.

    urls: mirrors, tried in order. source: a path or URL that takes their place. sha256: None takes any.
    A file at `target` that already has the hash is used as it is. Nothing appears at `target` but a file
    with the hash. UserError where the hash is another, or every mirror failed, with each one's reason.
    """
    if source and "://" not in source:
        return check_hash(Path(source), sha256), Path(source).name
    target = Path(target)
    if not source and target.is_file() and hash_of(target) == sha256:
        return target, target.name
    failures = []
    for url in [source] if source else urls:
        try:
            download(url, sha256, target)
            return target, url
        except DownloadError as error:
            failures.append(f"{url} ({error})")
    raise UserError(
        f"{target.name} could not be had from {'; '.join(failures)}. If you have the file, use"
        f" python {shown(target.parent / 'prepare.py')} --source=PATH; config/quickstart.py needs no download"
    )


def shown(path):
    """A path as its reader would type it: from the repository's root where it lies there."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def check_hash(path, sha256):
    if not path.is_file():
        raise UserError(f"--source={path}: no such file")
    if sha256 and (actual := hash_of(path)) != sha256:
        raise UserError(
            f"--source={path}: its SHA-256 is {actual}, this corpus has {sha256};"
            " for a text of your own use python data/text_char/prepare.py FILE"
        )
    return path


def hash_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DownloadError(Exception):
    """Why one mirror failed, in a few words."""


def download(url, sha256, target, attempts=3, wait=1.0, timeout=30):
    """Download `url` to `target`, which appears only whole and with the right SHA-256.

    A fault that may pass (5xx, 408, 429, time-out, broken connection) is tried `attempts` times,
    with waits of 1, 2, 4, ... times `wait` seconds; a refusal (other 4xx) or a wrong hash is final.
    """
    import requests

    for attempt in range(attempts):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            return download_once(url, sha256, target, timeout)
        except requests.RequestException as error:
            status = getattr(error.response, "status_code", None)
            reason = f"HTTP {status}" if status else type(error).__name__
            if status is not None and status < 500 and status not in (408, 429):
                break
    raise DownloadError(reason)


def download_once(url, sha256, target, timeout):
    import requests
    from tqdm import tqdm

    digest, received = hashlib.sha256(), 0
    with requests.get(url, stream=True, timeout=timeout) as response, contextlib.ExitStack() as stack:
        response.raise_for_status()
        size = int(response.headers.get("Content-Length", 0)) or None
        bar = stack.enter_context(tqdm(total=size, unit="B", unit_scale=True, desc=target.name, disable=None))
        file = stack.enter_context(replacing(target))
        for piece in response.iter_content(1 << 16):
            file.write(piece)
            digest.update(piece)
            received += len(piece)
            bar.update(len(piece))
        if sha256 and digest.hexdigest() != sha256:
            raise DownloadError(f"{received:,} bytes of another SHA-256, {digest.hexdigest()[:12]}...")
