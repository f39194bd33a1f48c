"""Exact losses: the mean over fixed windows that cover a split, in float32, without dropout or draws.

    python -m training.evaluate RUN        the whole splits, for a run's best and last weights

Train comes last, since it takes longest; it is the part that the run was trained on (the option train_tokens).
RUN may also be an exported model, of a corpus under data/.
"""

import contextlib
import math
import sys

import torch

from config import UserError, run_script, user_path
from data.corpus import Corpus, is_path
from data.meta import same_corpus
from model import GPT
from training import gpt2
from training.machine import best_device, enough_memory, keep_float32, out_of_memory
from training.run_files import config_of, corpus_meta, corpus_title, load_checkpoint
from training.shape import parameter_count, saved_shape


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
            loss = model(x, y)[1]
            # On a CPU a small tensor that stays may lie in the place of large ones, which then need another.
            losses.append(loss.item() if loss.device.type == "cpu" else loss)
            counts.append(y.numel())
    model.train(mode)
    losses, weights = (torch.tensor([*map(float, each)], dtype=torch.float64) for each in (losses, counts))
    return float(losses @ weights / weights.sum())


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
    """The same as text: nats a token, and bits."""
    unit = corpus_meta["unit"]
    of, character = (" a token", "character") if unit == "token" else ("", unit)
    return f"{nats:.4f} nats{of}, {bits(nats, corpus_meta, split):.4f} bits a {character}"


def model_in(checkpoint, meta, path):
    """The model whose weights a checkpoint holds, on the CPU. meta: of its corpus; path: for the UserError
    where it holds none for that corpus."""
    weights = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(weights.get(key), dict) for key in ("config", "state")
    ):
        raise UserError(f"{path} holds no model of this code: restore it")
    shape = saved_shape(weights["config"], path)
    if shape.vocab_size != len(meta["vocabulary"]):
        raise UserError(f"{path} does not match the vocabulary in its run.json: restore it")
    check_weights(weights["state"], shape, path)
    try:
        model = GPT.from_weights(weights)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise UserError(f"{path} holds other tensors than its model has: restore it") from None
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise UserError(f"{path} holds weights that are not finite: restore it")
    return model


def check_weights(state, shape, path):
    """UserError, before a model is built for them, where weights cannot be those of a GPT of this shape."""
    values = list(state.values())
    if not all(isinstance(value, torch.Tensor) and value.dtype == torch.float32 for value in values):
        raise UserError(f"{path} holds weights that are no float32: restore it")
    there, wanted = sum(value.numel() for value in values), parameter_count(shape, shape.vocab_size)
    if there != wanted or len(values) < shape.n_layer:
        raise UserError(f"{path} holds {there:,} weights, where its shape makes it {wanted:,}: restore it")


def exported_model(folder, meta):
    """`gpt2.read(folder)`; UserError where that is no model for the corpus of its corpus.json, `meta`, or not
    as it was exported."""
    model, weights = gpt2.read(folder)
    if meta.get("weights_sha256", weights["sha256"]) != weights["sha256"]:
        raise UserError(
            f"{folder / weights['file']} is damaged, or not what was exported, by the SHA-256 in"
            " corpus.json: restore it, or export it again"
        )
    if model.config.vocab_size != len(meta["vocabulary"]):
        raise UserError(f"{folder} does not match the vocabulary in its corpus.json: restore it")
    return model, weights


def main(argv):
    if len(argv) != 1:
        raise UserError("which run? python -m training.evaluate out/quickstart/full/baseline/seed1")
    folder = user_path(argv[0])
    meta = corpus_meta(folder)
    device = best_device()
    keep_float32()
    with enough_memory(device, "let no other process use it"):
        corpus = open_corpus(folder, meta, device)
        models = models_in(folder, meta)
        print(corpus_title(corpus.meta))
        for split in sorted(corpus.tokens, key=lambda split: split == "train"):
            for name, model in models.items():
                loss = mean_loss(model.to(device), corpus.windows(split, model.config.block_size))
                print(f"{name}, {split}: {with_bits(loss, corpus.meta, split)}", flush=True)
    return 0


def open_corpus(folder, meta, device):
    """The corpus of a run or an exported model; UserError where it is another than it was trained on."""
    dataset, train_tokens = dataset_of(folder, meta)
    if is_path(dataset) and not (user_path(dataset) / "meta.json").is_file():  # its prepare.py may be anyone's
        raise UserError(f"{folder} was trained on {dataset}, which is not prepared: run its prepare.py first")
    corpus = Corpus(dataset, device, train_tokens)
    if not same_corpus(corpus.meta, meta):
        raise UserError(f"{corpus.folder} is not the corpus that {folder} was trained on")
    return corpus


def dataset_of(folder, meta):
    """(the dataset of a run, as it was given, or of an exported model, by its name; its train_tokens)."""
    if gpt2.is_model(folder):
        return meta["name"], meta.get("train_tokens")
    config = config_of(folder)
    return config.dataset, config.train_tokens


def models_in(folder, meta):
    """{name of the weights: model} of a run or an exported model."""
    if gpt2.is_model(folder):
        return {"weights": exported_model(folder, meta)[0]}
    checkpoints = {name: load_checkpoint(folder / f"{name}.pt") for name in ("best", "last")}
    if not any(checkpoints.values()):
        raise UserError(f"{folder} has no checkpoint yet, neither best.pt nor last.pt")
    if missing := [f"{name}.pt" for name in checkpoints if not checkpoints[name]]:
        print(f"{folder} has no {missing[0]}", file=sys.stderr)
    return {
        f"{name} weights": model_in(checkpoint, meta, folder / f"{name}.pt")
        for name, checkpoint in checkpoints.items()
        if checkpoint
    }


if __name__ == "__main__":
    run_script(main, __doc__)
