"""From a source text to a prepared corpus: encode, split, write. No torch.

A prepared corpus is a folder with train.bin, val.bin (test.bin where it has three parts), each token a
little-endian uint16, and meta.json, written last, which says what they are (data/meta.py).
"""

import codecs
import contextlib
import hashlib
import io
import itertools
import shlex
import sys
from pathlib import Path

import numpy as np

from config import Parser, UserError, command, given, run_script
from data.files import lock, replacing, shown, temporaries, write_json
from data.meta import FORMAT, MOST_SYMBOLS, read_meta, vocabulary_sha256

CHUNK = 1 << 22  # characters or bytes held at a time
CODE_POINTS = 0x110000
SPLITS = {"train": 0.9, "val": 0.1}


def options(description, source="PATH_OR_URL", **extra):
    """The parser of a prepare script's command line: --source, --force and the script's own options."""
    parser = Parser(prog=command(shown(Path(sys.argv[0]))), description=description)
    parser.add_argument("--source", metavar=source, type=given, help="take the text from here")
    parser.add_argument("--force", action="store_true", help="prepare again what is prepared")
    for name, settings in extra.items():
        parser.add_argument(name, **settings)
    return parser


def run(main, folder):
    """Run the `main(argv)` of a prepare script as `config.run_script` does, with the folder's lock."""

    def alone(argv):
        if {"--help", "-h"} & {*argv}:
            return main(argv)
        with preparing(folder):
            return main(argv)

    run_script(alone)


@contextlib.contextmanager
def preparing(folder):
    """Hold the lock of a corpus's folder, so that one process at a time prepares it; says that it waits.

    What a killed one has left half written of it is removed.
    """
    held = lock(folder / "lock")
    if held is None:
        print(f"waiting for another process, which prepares {shown(folder)}", flush=True)
        held = lock(folder / "lock", seconds=-1)
    try:
        written = ["train.bin", "val.bin", "test.bin", "meta.json", "input.txt"]
        for path in temporaries(folder, [*written, f"{folder.name}.zip", f"{folder.name}.source"]):
            path.unlink()
        yield
    finally:
        held.release()


def prepared(folder, sha256=None):
    """Whether a folder holds a prepared corpus; prints it, since a script then has nothing to do.

    sha256: of the text that it should hold; UserError where it holds another. None: any will do.
    """
    folder = Path(folder)
    if not (meta := read_meta(folder)):
        return False
    if sha256 and meta["source"]["sha256"] != sha256:
        raise UserError(f"{shown(folder)} holds another text, {text_of(meta)}: --force replaces it")
    for name, part in meta["splits"].items():
        path = folder / f"{name}.bin"
        if not path.is_file() or path.stat().st_size != 2 * part["tokens"]:
            print(f"{shown(folder)} has lost or changed {path.name}, and is prepared again")
            return False
    print(f"{shown(folder)} is prepared already; --force prepares it again")
    return True


def text_of(meta):
    """Where the text of a prepared corpus is from, and which part of it where it is not whole."""
    partial = meta.get("partial")
    first = f" (the first {partial['tokens']:,} {meta['unit']}s of {partial['of']:,})" if partial else ""
    return meta["source"]["from"] + first


def read_characters(streams):
    """What `read_text` gives, as arrays of code points."""
    return map(code_points, read_text(streams))


def read_text(streams):
    """The text of UTF-8 streams, one after the other, in pieces.

    Line ends are made "\\n", as by Python's text mode, and a byte order mark is dropped. streams: pairs
    (name, function that opens a binary file). UserError where the bytes are not UTF-8.
    """
    for name, open_stream in streams:
        with open_stream() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as text:
            try:
                while piece := text.read(CHUNK):
                    yield piece
            except UnicodeDecodeError as error:
                with open_stream() as raw:
                    mend = conversion(name, raw.read(1000))
                raise UserError(f"{name} is not UTF-8 ({error.reason}): {mend}") from None


def conversion(path, head):
    """How to make a text UTF-8, in a file of another name. head: its first bytes."""
    marks = {"utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}  # before utf-16, whose mark begins as theirs
    marks |= {"utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)}
    marked = next((name for name, mark in marks.items() if head.startswith(mark)), None)
    if not marked and (b"\0" in head or head.startswith((b"\x1f\x8b", b"PK", b"%PDF", b"BZh", b"\xfd7zXZ"))):
        return "it is no text, or one without a byte order mark: unpack it, or save it as UTF-8"
    target = Path(path).with_suffix(".utf8.txt")
    names = [shlex.quote(str(name)) for name in (path, target)]
    how = f"iconv -f {marked or 'latin1'} -t utf-8 {' > '.join(names)}"
    return f"convert it, for instance by {how}"


def code_points(text):
    """A string as an array of code points: uint8 where it is ASCII, else uint32."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4"))


def write_corpus(folder, chunks, source, unit="character", splits=None, whole=None):
    """Encode a text and write it as a prepared corpus.

    chunks: function that yields the text as arrays of code points (or bytes), or {name of a split: such a
        function}; it is called twice, once for the vocabulary and once to encode, so that a text of any length
        passes through a few MB.
    source: for meta.json, {"from": ..., "sha256": ...}.
    splits: {name: fraction} in the text's order; 90 % train and the rest val unless given.
    whole: where the text is the first part of a longer one, that one's length, for meta.json.
    Returns the meta dict. UserError where a text is empty or has more than 65,536 symbols.
    """
    seen = np.zeros(CODE_POINTS, bool)
    lengths = measure(chunks, splits, source, unit, lambda chunk: seen.__setitem__(chunk, True))
    symbols = np.flatnonzero(seen)
    if len(symbols) > MOST_SYMBOLS:
        raise UserError(f"{source['from']}: {len(symbols):,} distinct symbols; a corpus has 65,536 at most")
    table = np.zeros(CODE_POINTS, np.dtype("<u2"))
    table[symbols] = np.arange(len(symbols))
    parts = ((name, {}, (table[piece] for piece in pieces)) for name, pieces in in_splits(chunks, lengths))
    vocabulary = {
        "unit": unit,
        "vocab_size": len(symbols),
        "vocabulary": [chr(symbol) for symbol in symbols] if unit == "character" else symbols.tolist(),
    }
    partial = {"partial": {"tokens": sum(lengths.values()), "of": whole}} if whole else {}
    return write_splits(folder, vocabulary, parts, {"source": source, **partial})


def measure(chunks, splits, source, unit="character", look=lambda chunk: None):
    """{split: its length} of a text, as `write_corpus` has it; `look` is called with each chunk.

    UserError where a split is empty.
    """
    lengths = {}
    for name, read in (chunks if isinstance(chunks, dict) else {"": chunks}).items():
        lengths[name] = 0
        for chunk in read():
            look(chunk)
            lengths[name] += len(chunk)
    if "" in lengths:
        lengths = split_lengths(lengths[""], splits or SPLITS)
    if not all(lengths.values()):
        empty, length = min(lengths, key=lengths.get), sum(lengths.values())
        raise UserError(f"{source['from']}: {length} {unit}s are too few, the {empty} split would be empty")
    return lengths


def in_splits(chunks, lengths):
    """(name, iterator over its pieces) of each split, to be used up in turn. lengths: from `measure`."""
    reads = chunks.values() if isinstance(chunks, dict) else [chunks]
    pieces = cut(itertools.chain.from_iterable(read() for read in reads), lengths)
    for name, group in itertools.groupby(pieces, key=lambda pair: pair[0]):
        yield name, (piece for _, piece in group)


def write_splits(folder, vocabulary, parts, source):
    """Write the files of a prepared corpus, meta.json last; returns the meta dict.

    vocabulary, source: the entries of meta.json before and after the splits.
    parts: triples (name of a split, what meta.json has of it beside the count and the hash of its tokens, those
        as uint16 arrays), each used up before the next is taken.
    """
    folder = Path(folder)
    (folder / "meta.json").unlink(missing_ok=True)
    splits = {}
    for name, facts, tokens in parts:
        count, digest = write_tokens(folder / f"{name}.bin", tokens)
        splits[name] = {"tokens": count, **facts, "sha256": digest}
    digest = {"vocabulary_sha256": vocabulary_sha256(vocabulary)}
    meta = {"format": FORMAT, "name": folder.name, **vocabulary, **digest, "splits": splits, **source}
    write_json(folder / "meta.json", meta)
    return meta


def split_lengths(length, splits):
    """{name: tokens}: each boundary is int(length * the fractions so far), the last part is the rest.

    For 90/10 this is nanoGPT's int(n * 0.9) to the token, for 90/5/5 of 100 MB it is 90M, 5M and 5M.
    """
    fractions = list(itertools.accumulate(splits.values()))
    edges = [0, *(int(length * round(fraction, 9)) for fraction in fractions[:-1]), length]
    return {name: stop - start for name, start, stop in zip(splits, edges, edges[1:])}


def cut(chunks, lengths):
    """Yield (split, piece): chunks of tokens cut where a split of {split: tokens} ends."""
    chunks, chunk = iter(chunks), ()
    for name, missing in lengths.items():
        while missing:
            chunk = chunk if len(chunk) else next(chunks)
            piece, chunk = chunk[:missing], chunk[missing:]
            missing -= len(piece)
            yield name, piece


def write_tokens(path, chunks):
    """Write uint16 arrays one after the other; returns (the number of tokens, the file's SHA-256)."""
    count, digest = 0, hashlib.sha256()
    with replacing(path) as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            count += len(chunk)
    return count, digest.hexdigest()


def report(folder, meta):
    """Print what was prepared."""
    counts = ", ".join(f"{name} {part['tokens']:,}" for name, part in meta["splits"].items())
    print(f"{shown(folder)}: {text_of(meta)}, {meta['vocab_size']} symbols; {counts} {meta['unit']}s")
