"""meta.json, which says what a prepared corpus is. No torch.

Its entries:

    format       1
    name, unit   the corpus, and what a token is: "character", "byte", or a subword, "token" (data/subword.py);
                 of a task (data/texts.py), whose splits are examples, "text"
    vocab_size   the number of symbols, at most 65,536
    vocabulary   the symbols in code-point order; a token is an index into it. Of a task, its labels
    vocabulary_sha256   of the entries that give the tokens their MEANING; older corpora have none
    splits       {"train": {"tokens": n, "sha256": of train.bin}, ...}, in the text's order
    source       {"from": path or URL, "sha256": of the source's bytes}
    partial      only where the text is the first part of a corpus: {"tokens": n, "of": the whole's}
"""

import hashlib
import json
import re

from config import UserError
from data.files import read_json, shown

FORMAT = 1
MOST_SYMBOLS = 1 << 16
MEANING = ("unit", "vocabulary", "pattern", "special")  # the last two of subwords alone
SYMBOLS = {  # unit: whether a value is one of its symbols
    "character": lambda symbol: isinstance(symbol, str) and len(symbol) == 1,
    "byte": lambda symbol: type(symbol) is int and 0 <= symbol < 256,
    "token": lambda symbol: isinstance(symbol, str) and all(ord(byte) < 256 for byte in symbol),
    "text": lambda symbol: isinstance(symbol, str),
}


def read_meta(folder):
    """The meta of a prepared corpus, or None where its folder has none; UserError where it is damaged."""
    path, mend = folder / "meta.json", "prepare it again with --force"
    if not path.is_file():
        return None
    try:
        meta = read_json(path)
    except UserError as error:
        raise UserError(f"{error}: {mend}") from None
    if wrong := fault_in(meta):
        raise UserError(f"{shown(path)} is damaged or of another version, in its {wrong}: {mend}")
    return meta


def fault_in(meta):
    """The first entry of a meta that is missing or wrong; None where it describes a corpus."""
    for entry, holds in RULES.items():
        try:
            right = holds(meta)
        except (AttributeError, IndexError, KeyError, TypeError):  # it lacks what the rule looks at
            right = False
        if not right:
            return entry
    return None


def is_count(value):
    return type(value) is int and value > 0


def is_vocabulary(meta):
    symbols = meta["vocabulary"]
    return (
        isinstance(symbols, list)
        and is_count(meta["vocab_size"])
        and meta["vocab_size"] == len(symbols) <= MOST_SYMBOLS
        and all(map(SYMBOLS[meta["unit"]], symbols))
        and (meta["unit"] == "token" or symbols == sorted(set(symbols)))
    )


def is_tokenizer(meta):
    """Whether subwords have what encodes a text, their special tokens last."""
    first = len(meta["vocabulary"]) - len(meta["special"])
    return isinstance(meta["pattern"], str) and meta["special"] == meta["vocabulary"][first:]


def is_split(name, part):
    return (
        re.fullmatch(r"[\w-]+", name)
        and is_count(part["tokens"])
        and is_count(part.get("characters", 1))
        and re.fullmatch(r"[0-9a-f]{64}", part["sha256"])
    )


def is_source(value):
    return all(isinstance(value[entry], str) for entry in ("from", "sha256"))


RULES = {  # entry: whether that of a meta is as it should be; each relies on those before it
    "format": lambda meta: is_count(meta["format"]) and meta["format"] == FORMAT,
    "name": lambda meta: isinstance(meta["name"], str),
    "unit": lambda meta: meta["unit"] in SYMBOLS,
    "vocabulary": is_vocabulary,
    "vocabulary_sha256": lambda meta: meta.get("vocabulary_sha256", found := vocabulary_sha256(meta)) == found,
    "pattern or special": lambda meta: meta["unit"] != "token" or is_tokenizer(meta),
    "splits": lambda meta: (
        {"train", "val"} <= meta["splits"].keys() and all(is_split(*split) for split in meta["splits"].items())
    ),
    "source": lambda meta: is_source(meta["source"]),
    "source's vocabulary": lambda meta: is_source(meta["source"].get("vocabulary", meta["source"])),
    "partial": lambda meta: all(
        is_count(meta.get("partial", {"tokens": 1, "of": 1})[n]) for n in ("tokens", "of")
    ),
}


def vocabulary_sha256(meta):
    return hashlib.sha256(json.dumps([meta.get(entry) for entry in MEANING]).encode()).hexdigest()


def same_corpus(meta, other):
    """Whether two metas are of the same tokens, which mean the same."""
    return all(meta.get(entry) == other.get(entry) for entry in ("splits", *MEANING))
