"""A prepared corpus: its tokens on the training device, batches as a function of a seed, fixed windows."""

import importlib
from pathlib import Path

import numpy as np
import torch

from config import ROOT, UserError, did_you_mean
from data.building import FORMAT
from files import read_json


def corpus_folder(dataset):
    """The folder of a dataset: a path as it is, a name under data/; prepared now if it is not yet."""
    folder = Path(dataset) if "/" in dataset or "\\" in dataset else ROOT / "data" / dataset
    if (folder / "meta.json").is_file():
        return folder
    if not (folder / "prepare.py").is_file():
        known = sorted(path.parent.name for path in (ROOT / "data").glob("*/prepare.py"))
        raise UserError(
            f"dataset={dataset!r} is neither a folder under data/ ({', '.join(known)}) nor the path of a"
            f" prepared corpus{did_you_mean(dataset, known)}"
        )
    print(f"{dataset} is not prepared yet: python data/{dataset}/prepare.py", flush=True)
    importlib.import_module(f"data.{dataset}.prepare").main([])
    return folder


class Corpus:
    """The splits of a prepared corpus as uint16 tokens, mapped from their files or on a device.

    meta: what prepare wrote (data/building.py says what). UserError where files do not match it.
    """

    def __init__(self, dataset, device="cpu"):
        self.folder = corpus_folder(dataset)
        self.meta = read_json(self.folder / "meta.json")
        if self.meta.get("format") != FORMAT:
            raise self.damaged(f"is of format {self.meta.get('format')}, not {FORMAT}")
        self.tokens = {name: self.load(name).to(device) for name in self.meta["splits"]}

    def load(self, split):
        """A split as a mapped int16 tensor: torch indexes no uint16 on every device, so `widen` undoes
        the sign that tokens from 32,768 up get by it."""
        path, count = self.folder / f"{split}.bin", self.meta["splits"][split]["tokens"]
        if not path.is_file() or path.stat().st_size != 2 * count:
            raise self.damaged(f"lacks {count:,} tokens in {split}.bin")
        return torch.from_numpy(np.memmap(path, np.int16, mode="c"))

    def damaged(self, what):
        return UserError(f"{self.folder} {what}: python {self.folder / 'prepare.py'} --force")

    def check_length(self, block_size):
        """UserError unless every split holds a window of block_size tokens and its targets."""
        for split, tokens in self.tokens.items():
            if len(tokens) <= block_size:
                raise UserError(
                    f"the {split} split of {self.meta['name']} has {len(tokens):,} tokens, and a window of"
                    f" block_size={block_size} wants {block_size + 1:,}: use a smaller block_size or more text"
                )

    def batch(self, seed, batch_size, block_size):
        """Training inputs and targets, each (batch_size, block_size) int64 on the corpus's device.

        Windows start anywhere in the train split, independently and uniformly; their starts are drawn
        on the CPU from `seed` alone, so that every device sees the same batches.
        """
        tokens = self.tokens["train"]
        starts = np.random.default_rng(seed).integers(len(tokens) - block_size, size=batch_size)
        starts = torch.from_numpy(starts)
        if tokens.device.type == "cuda":
            starts = starts.pin_memory().to(tokens.device, non_blocking=True)
        rows = widen(tokens.unfold(0, block_size + 1, 1)[starts.to(tokens.device)])
        return rows[:, :-1], rows[:, 1:]

    def windows(self, split, block_size, most_tokens=None, batch_tokens=1 << 13):
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
        table = tokens.unfold(0, block_size + 1, 1)
        for part in starts.split(max(1, batch_tokens // block_size)):
            rows = widen(table[part])
            yield rows[:, :-1], rows[:, 1:]
        if not capped and whole * block_size < targets:
            row = widen(tokens[whole * block_size :])[None]
            yield row[:, :-1], row[:, 1:]

    def decode(self, tokens):
        """The text of a list of tokens; bytes that are no UTF-8 are shown as replacement characters."""
        symbols = [self.meta["vocabulary"][token] for token in tokens]
        return bytes(symbols).decode(errors="replace") if self.meta["unit"] == "byte" else "".join(symbols)


def widen(tokens):
    """int16 tokens as they are stored, as the int64 that embeddings and losses take."""
    return tokens.long() & 0xFFFF
