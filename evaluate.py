"""Exact losses: the mean over fixed windows that cover a split, in float32, without dropout or draws.

python evaluate.py RUN        the whole splits, for a run's best and last weights
"""

import contextlib
import math

import torch

from config import UserError, run_script
from data.corpus import Corpus
from files import read_json
from model import GPT
from runs import corpus_title, load_checkpoint


@torch.no_grad()
def mean_loss(model, batches):
    """Mean cross-entropy in nats a token over batches of (x, y), each token weighed alike.

    The model is put in evaluation mode for it and back into the mode it was in. No autocast, and a
    compiled model runs eagerly, since compiling it for float32 would cost more than it saves.
    """
    mode = model.training
    model.eval()
    losses, counts = [], []
    with eagerly(model):
        for x, y in batches:
            losses.append(model(x, y)[1])
            counts.append(y.numel())
    model.train(mode)
    weights = torch.tensor(counts, dtype=torch.float64)
    return float(torch.stack(losses).cpu().double() @ weights / weights.sum())


def eagerly(model):
    """A context in which a compiled model runs as if it were not."""
    return torch.compiler.set_stance("force_eager") if model.compiled else contextlib.nullcontext()


def bits(nats, corpus_meta, split):
    """A mean loss over tokens of a split, in nats, as bits a character, or a byte where bytes are the tokens.

    bits = nats / ln 2 * tokens / characters, both of the whole split: 1 for 1 unless tokens are subwords.
    A split's first token, which nothing predicts, is so counted in at the mean loss of the others.
    """
    part = corpus_meta["splits"][split]
    return nats / math.log(2) * (part["tokens"] / part.get("characters", part["tokens"]))


def with_bits(nats, corpus_meta, split):
    """The same in words: nats a token, and bits."""
    unit = corpus_meta["unit"]
    of, character = (" a token", "character") if unit == "token" else ("", unit)
    return f"{nats:.4f} nats{of}, {bits(nats, corpus_meta, split):.4f} bits a {character}"


def model_in(checkpoint, corpus_meta, path):
    """The model whose weights a checkpoint holds, on the CPU; UserError, with the checkpoint's path, where
    it holds none for that corpus."""
    try:
        model = GPT.from_weights(checkpoint["model"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        raise UserError(f"{path} holds no model of this code: restore it") from None
    if model.config.vocab_size != len(corpus_meta["vocabulary"]):
        raise UserError(f"{path} has not the vocabulary of its run.json: restore it")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise UserError(f"{path} holds weights that are not finite: restore it")
    return model


def main(argv):
    if argv in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    if len(argv) != 1:
        raise UserError("which run? python evaluate.py out/quickstart/seed1")
    config, run = (read_json(f"{argv[0]}/{name}.json") for name in ("config", "run"))
    if config is None or run is None:
        raise UserError(f"{argv[0]} is no run folder: it lacks config.json or run.json")
    corpus = Corpus(config["dataset"])
    if corpus.meta["splits"] != run["corpus"]["splits"]:
        raise UserError(f"{corpus.folder} is not the corpus that {argv[0]} was trained on")
    checkpoints = {name: load_checkpoint(f"{argv[0]}/{name}.pt") for name in ("best", "last")}
    if not any(checkpoints.values()):
        raise UserError(f"{argv[0]} has no checkpoint yet, neither best.pt nor last.pt")
    print(corpus_title(corpus.meta))
    for name, checkpoint in checkpoints.items():
        if checkpoint is None:
            continue
        model = model_in(checkpoint, corpus.meta, f"{argv[0]}/{name}.pt")
        for split in corpus.tokens:
            loss = mean_loss(model, corpus.windows(split, config["block_size"]))
            print(f"{name} weights, {split}: {with_bits(loss, corpus.meta, split)}")
    return 0


if __name__ == "__main__":
    run_script(main)
