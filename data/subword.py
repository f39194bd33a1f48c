"""Corpora of subwords: byte-level BPE as GPT-2 has it, by tiktoken. No torch.

Their meta.json differs from that of characters (data/meta.py) as follows:

    unit         "token"
    vocabulary   the bytes of each token, decoded as latin-1: the ranks in their order, then the special ones
    pattern      the regular expression that cuts a text before the merges
    special      the special tokens' names; as text they are encoded as any other text is
    splits       {"train": {"tokens": n, "characters": of the split's text, "sha256": ...}, ...}
    source       {..., "vocabulary": {"from": file or encoding, "sha256": of its rank file}}
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config import UserError, given, user_path
from data import build
from data.files import shown
from data.meta import read_meta

# GPT-2's (encoder.py of github.com/openai/gpt-2), the contractions in one group.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ENDOFTEXT = "<|endoftext|>"
GPT2_TOKENS = {0: "!", 198: "\n", 220: " ", 262: " the", 995: " world", 31373: "hello", 50256: ENDOFTEXT}
OPTION = {
    "--vocabulary": {
        "metavar": "FILE",
        "type": given,
        "help": "take the tokens from this rank file of tiktoken",
    }
}
MOST = (1 << 16) - 1  # ranks: with ENDOFTEXT they fill a uint16


@dataclass(frozen=True)
class Vocabulary:
    """tokens: the bytes of each, by rank, without special ones. origin: where they are from."""

    tokens: list
    origin: str

    @property
    def sha256(self):
        """Of the tokens as a rank file."""
        lines = (b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(self.tokens))
        return hashlib.sha256(b"".join(lines)).hexdigest()


def read_vocabulary(path):
    """The Vocabulary in a rank file of tiktoken: a line a token, its bytes in base64 and its rank.

    tiktoken's own reader would keep a copy by the file's name, and go on using it when the file has changed.
    UserError unless the ranks are 0, 1, ..., every byte is a token, and there are 65,535 at most.
    """
    path, option = user_path(path), f"--vocabulary={path}"
    if not path.is_file():
        raise UserError(f"{option}: no such file")
    ranks, lines = {}, path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError:
            raise UserError(
                f"{option}, line {number}: {line[:40]!r} is not the base64 of a token and its rank"
            ) from None
    if sorted(ranks.values()) != list(range(len(lines))):
        raise UserError(f"{option}: its {len(lines):,} lines have not the ranks 0, 1, 2, ... and a token each")
    if len(ranks) > MOST:
        raise UserError(f"{option}: {len(ranks):,} tokens, and a corpus has {MOST:,} at most and {ENDOFTEXT}")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise UserError(
            f"{option}: {len(missing)} of the 256 single bytes are no tokens, the first of them"
            f" {bytes(missing[:1])!r}, so that it cannot encode every text"
        )
    return Vocabulary(sorted(ranks, key=ranks.get), path.name)


def gpt2_vocabulary():
    """GPT-2's Vocabulary, which tiktoken downloads unless TIKTOKEN_CACHE_DIR has it; UserError if it cannot."""
    import tiktoken

    try:
        encoding = tiktoken.get_encoding("gpt2")
    except Exception as error:  # of requests, of the disk, or a wrong hash
        raise UserError(
            f"tiktoken could not get GPT-2's vocabulary ({type(error).__name__}): set TIKTOKEN_CACHE_DIR to a"
            " folder in which it kept it where there was a network, or add --vocabulary=FILE, a rank file of"
            " tiktoken (docs/corpora.md)"
        ) from None
    ranks = encoding.n_vocab - len(encoding.special_tokens_set)
    return Vocabulary([encoding.decode_single_token_bytes(rank) for rank in range(ranks)], "gpt2 of tiktoken")


def is_gpt2s(meta):
    """Whether the tokens of a corpus are GPT-2's, by their number and some of them."""
    tokens = meta["vocabulary"]
    return len(tokens) == 50_257 and all(tokens[rank] == token for rank, token in GPT2_TOKENS.items())


def prepared(folder, vocabulary, sha256=None):
    """Whether a folder holds a corpus prepared with this Vocabulary, None for any; as `build.prepared`."""
    meta = read_meta(Path(folder))
    there = meta and meta["source"].get("vocabulary", {"from": meta["unit"] + "s", "sha256": None})
    if there and vocabulary and there["sha256"] != vocabulary.sha256:
        raise UserError(
            f"{shown(Path(folder))} holds tokens of another vocabulary, {there['from']}: --force replaces it"
        )
    return build.prepared(folder, sha256)


def write_corpus(folder, text, vocabulary, source, ends=False):
    """Encode a text and write it as a prepared corpus. No token reaches over the end of a split.

    text: function that yields strings, or {name of a split: such a function}; it is called twice, once to
        measure and once to encode, so that a text of any length that has
        spaces or line ends passes through a few MB.
    ends: whether an ENDOFTEXT in it is the special token, the end of a document, and not text as any other.
    Other arguments, errors and result: as `build.write_corpus`.
    """
    entries = {
        "unit": "token",
        "vocab_size": len(vocabulary.tokens) + 1,
        "vocabulary": [*(token.decode("latin-1") for token in vocabulary.tokens), ENDOFTEXT],
        "pattern": PATTERN,
        "special": [ENDOFTEXT],
    }
    lengths = build.measure(text, None, source)
    encoder, special = encoding(entries), {ENDOFTEXT} if ends else set()

    def tokens(pieces, bar):
        for piece in at_spaces(pieces):
            bar.update(len(piece))
            try:
                found = encoder.encode(piece, allowed_special=special, disallowed_special=())
            except ValueError as error:  # of some hundred thousand blanks in a row
                raise UserError(
                    f"{source['from']}: tiktoken cannot encode it ({error}): shorten runs of blanks"
                ) from None
            yield np.array(found, "<u2")

    def parts(bar):
        for name, pieces in build.in_splits(text, lengths):
            yield name, {"characters": lengths[name]}, tokens(pieces, bar)

    origin = {"vocabulary": {"from": vocabulary.origin, "sha256": vocabulary.sha256}}
    with tqdm(total=sum(lengths.values()), unit="char", unit_scale=True, desc="encoding", disable=None) as bar:
        return build.write_splits(folder, entries, parts(bar), {"source": {**source, **origin}})


def at_spaces(pieces):
    """Pieces of a text cut elsewhere, so that their tokens are those of the whole.

    PATTERN cuts between what is no white space and a space or line end, whatever is around them.
    """
    rest = ""
    for piece in pieces:
        old = max(1, len(rest))
        rest += piece
        place = next((i for i in range(len(rest) - 1, old - 1, -1) if is_cut(rest, i)), 0)
        if place:
            yield rest[:place]
            rest = rest[place:]
    if rest:
        yield rest


def is_cut(text, place):
    return text[place] in " \n" and not text[place - 1].isspace()


def encoding(meta):
    """The tiktoken.Encoding of a corpus of this meta. Its encode_ordinary takes special tokens for text."""
    import tiktoken

    special = {name: meta["vocabulary"].index(name) for name in meta["special"]}
    ranked = meta["vocabulary"][: len(meta["vocabulary"]) - len(special)]
    ranks = {symbol.encode("latin-1"): rank for rank, symbol in enumerate(ranked)}
    pattern = meta["pattern"]
    return tiktoken.Encoding("of a corpus", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
