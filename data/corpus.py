"""A prepared corpus: its tokens on the training device, batches as a function of a seed, fixed windows.

`encode`, `decode` and `symbol_indices` need only its meta.json, which a run folder has a copy of.
"""

import hashlib
import runpy

import numpy as np
import torch

from config import ROOT, UserError, command, did_you_mean, user_path
from data.build import preparing
from data.files import shown
from data.meta import read_meta
from data.subword import encoding

TASKS = "glue"  # data/glue/ is no corpus of a GPT


def is_path(dataset):
    return "/" in dataset or "\\" in dataset


def corpus_folder(dataset):
    """The folder of a dataset: a path as it is, a name under data/; prepared now if it is not yet."""
    folder = user_path(dataset) if is_path(dataset) else ROOT / "data" / dataset
    if (folder / "meta.json").is_file():
        return folder
    if dataset == TASKS:
        raise UserError(f"{TASKS} holds tasks of texts, for {command('-m', 'training.classify', '--task=rte')}")
    if not (folder / "prepare.py").is_file():
        known = sorted({path.parent.name for path in (ROOT / "data").glob("*/prepare.py")} - {TASKS})
        raise UserError(
            f"dataset={dataset!r} is neither a folder under data/ ({', '.join(known)}) nor the path of a"
            f" prepared corpus{did_you_mean(dataset, known)}"
        )
    with preparing(folder):  # several runs may be started at once
        if not (folder / "meta.json").is_file():
            script = folder / "prepare.py"
            print(f"preparing {dataset}, as {command(shown(script))} does", flush=True)
            names = runpy.run_path(str(script))
            if "main" not in names:
                raise UserError(f"{shown(script)} has no main(argv): docs/corpora.md has one")
            names["main"]([])
    return folder


class Corpus:
    """The splits of a prepared corpus as uint16 tokens, mapped from their files or on a device.

    meta: what prepare wrote (data/meta.py says what). UserError where files do not match it.
    """

    def __init__(self, dataset, device="cpu", train_tokens=None):
        self.folder = corpus_folder(dataset)
        self.meta = read_meta(self.folder)
        if self.meta is None:
            raise self.damaged("has lost its meta.json")
        if self.meta["unit"] == "text":
            taken = command("-m", "training.classify", f"--task={shown(self.folder)}")
            raise UserError(f"{shown(self.folder)} is a task of texts: {taken} trains on it")
        self.tokens = {name: self.load(name).to(device) for name in self.meta["splits"]}
        if train_tokens is not None:
            self.limit(train_tokens)

    def load(self, split):
        """A split as a mapped int16 tensor; torch does not index uint16 on every device."""
        path, part = self.folder / f"{split}.bin", self.meta["splits"][split]
        changed = self.damaged(f"has lost or changed {split}.bin, of {part['tokens']:,} tokens")
        if not path.is_file():
            raise changed
        with open(path, "rb") as file:  # once: a script may replace the file
            if hashlib.file_digest(file, "sha256").hexdigest() != part["sha256"]:
                raise changed
            tokens = np.memmap(file, "<u2", mode="c")
        if len(tokens) != part["tokens"] or tokens.max() >= self.meta["vocab_size"]:
            raise self.damaged(f"has a meta.json that is not of its {split}.bin")
        return torch.from_numpy(tokens.view(np.int16))

    def limit(self, train_tokens):
        """Keep only the first tokens of the train split; UserError where it has fewer."""
        there = len(self.tokens["train"])
        if train_tokens > there:
            raise UserError(
                f"train_tokens={train_tokens:,}, and the train split of {self.meta['name']} has {there:,}:"
                " leave it out to train on all of them"
            )
        self.tokens["train"] = self.tokens["train"][:train_tokens]

    def damaged(self, what):
        return UserError(f"{shown(self.folder)} {what}: prepare it again with --force")

    def check_length(self, block_size):
        """UserError unless every split holds a window of block_size tokens and its targets."""
        for split, tokens in self.tokens.items():
            if len(tokens) <= block_size:
                raise UserError(
                    f"the {split} split of {self.meta['name']} has {len(tokens):,} tokens, and a window of"
                    f" block_size={block_size} needs {block_size + 1:,}: use a smaller block_size or more text"
                )

    def batch(self, seed, batch_size, block_size):
        """Training inputs and targets, each (batch_size, block_size) int64 on the corpus's device.

        Windows start anywhere in the train split, independently and uniformly; their starts are drawn
        on the CPU from `seed` alone, so that every device sees the same batches.
        """
        tokens = self.tokens["train"]
        starts = np.random.default_rng(seed).integers(len(tokens) - block_size, size=batch_size)
        return inputs_and_targets(tokens, to_device(torch.from_numpy(starts), tokens.device), block_size)

    def noised(self, x, seed, p):
        """Inputs x (B, T) with each symbol, with probability p, replaced by a draw from the train split's
        unigram distribution (Xie et al. 2017, arXiv:1703.02573): the symbol at a uniform place in it.

        Drawn on the CPU from `seed` alone, as the batches are.
        """
        tokens, draw = self.tokens["train"], np.random.default_rng(seed)
        places = np.where(draw.random(x.shape) < p, draw.integers(len(tokens), size=x.shape), -1)
        places = to_device(torch.from_numpy(places), x.device)
        return torch.where(places < 0, x, unsigned(tokens[places.clamp(min=0)]))

    def windows(self, split, block_size, most_tokens=None):
        """Fixed inputs and targets that cover a split, for evaluation: yields (x, y) batches, (B, T).

        Windows of block_size lie end to end, the last one shorter, so that every token but the first is
        predicted once. Where that is more than most_tokens, as many whole windows as fit are taken, at
        equal distances. Everything is a function of the arguments; nothing is drawn.
        """
        tokens = self.tokens[split]
        targets = len(tokens) - 1
        whole = targets // block_size
        capped = most_tokens is not None and targets > most_tokens
        kept = max(1, most_tokens // block_size) if capped else whole
        starts = torch.arange(kept, device=tokens.device) * whole // kept * block_size
        for part in starts.split(max(1, batch_tokens(tokens.device, self.meta["vocab_size"]) // block_size)):
            yield inputs_and_targets(tokens, part, block_size)
        if not capped and (rest := targets - whole * block_size):
            yield inputs_and_targets(tokens, torch.tensor([targets - rest], device=tokens.device), rest)


def decode(tokens, meta):
    """The text of a list of tokens; bytes that are no UTF-8 are shown as replacement characters."""
    symbols = [meta["vocabulary"][token] for token in tokens]
    if meta["unit"] == "token":
        return "".join(symbols).encode("latin-1").decode(errors="replace")
    return bytes(symbols).decode(errors="replace") if meta["unit"] == "byte" else "".join(symbols)


def encode(text, meta):
    """The tokens of a text, as a list; of its UTF-8 bytes where they are the corpus's symbols.

    UserError that names every character which the vocabulary lacks. A byte of a file or a command line
    that was no UTF-8 stands in `text` as Python's surrogateescape has it; subwords have a replacement
    character for it, and the name of a special token is a text to them as any other.
    """
    if meta["unit"] == "token":
        return encoding(meta).encode_ordinary(text)
    index = {symbol: token for token, symbol in enumerate(meta["vocabulary"])}
    symbols = {character: character for character in text}
    if meta["unit"] == "byte":
        symbols = {character: character.encode(errors="surrogateescape") for character in text}
    if unknown := [c for c, parts in symbols.items() if any(part not in index for part in parts)]:
        raise UserError(
            f"the vocabulary of {meta['name']} lacks {', '.join(map(repr, unknown))}; it has"
            f" {shown_vocabulary(meta)}"
        )
    return [index[part] for character in text for part in symbols[character]]


def shown_vocabulary(meta, most=256):
    """The symbols on one line, the first `most` of them where there are more."""
    symbols = meta["vocabulary"][:most]
    text = repr(bytes(symbols) if meta["unit"] == "byte" else "".join(symbols))
    return text if len(meta["vocabulary"]) <= most else f"{text} and {len(meta['vocabulary']) - most:,} more"


def symbol_indices(meta):
    """{symbol: token}, such that corpora of characters, bytes and subwords can be compared: a byte under 128 is
    the ASCII character that it encodes, and any other byte no character; a subword is the text that it
    encodes, which may be one character, or where it encodes none its byte or bytes."""
    return {as_text(symbol, meta["unit"]): token for token, symbol in enumerate(meta["vocabulary"])}


def as_text(symbol, unit):
    """A symbol as `symbol_indices` has it."""
    if unit == "character":
        return symbol
    data = bytes([symbol]) if unit == "byte" else symbol.encode("latin-1")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data[0] if len(data) == 1 else data


def batch_tokens(device, vocab_size):
    """Tokens in a batch of windows: many on a GPU (logits of 1 GB at most), few on a CPU, to save memory."""
    return min(1 << 15, (1 << 28) // vocab_size) if device.type == "cuda" else 1 << 11


def inputs_and_targets(tokens, starts, length):
    """Windows of int16 tokens from `starts`, and the same one token on: (len(starts), length) int64 each."""
    offsets = torch.arange(length + 1, device=tokens.device)
    rows = unsigned(tokens[starts[:, None] + offsets])
    return rows[:, :-1], rows[:, 1:]


def unsigned(tokens):
    """int16 tokens as the int64 that they stand for: the mask undoes the sign."""
    return tokens.long() & 0xFFFF


def to_device(indices, device):
    """A CPU tensor on `device`, without waiting for the device."""
    if device.type == "cuda":
        return indices.pin_memory().to(device, non_blocking=True)
    return indices.to(device)
