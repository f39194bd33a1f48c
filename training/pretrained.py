"""The weights that a run starts from (the option init_from): those of another run, or of a folder in the
Hugging Face GPT-2 format.

What the two models have in common is carried over; the rest keeps its fresh initial values:

    wte.weight     the rows of the symbols that both vocabularies have, by symbol, not by index
    wpe.weight     the first positions, as many as both have
    all the rest   whole: n_layer, n_head, n_embd, bias and activation must be the source's

A folder that training.export wrote has its vocabulary with it. Any other needs a corpus of as many tokens, and
rows are carried over one by one; if there are 50,257, they must be GPT-2's.

The optimizer and its schedules start anew. A run needs its source until its own first checkpoint.
"""

from dataclasses import dataclass

import torch

from config import Config, UserError, differences, source_wanted, user_path
from data.corpus import symbol_indices
from data.subword import is_gpt2s
from model import GPT
from training import gpt2
from training.evaluate import exported_model, model_in
from training.run_files import CHECKPOINTS, corpus_meta, corpus_title, load_hashed, read_config

SHAPE = ("n_layer", "n_head", "n_embd", "bias", "activation")


@dataclass(frozen=True)
class Source:
    """Weights to start from.

    meta: of the corpus whose vocabulary they have. record: for run.json, where they are from, the SHA-256 of
    their file and, of a run, how it was trained.
    """

    model: GPT
    meta: dict
    record: dict


def needs_source(config):
    """Whether a run of this config needs the weights of init_from: not once its folder holds a checkpoint of
    its own or a result. UserError where they are needed and there is no such folder."""
    own = user_path(config.out_dir)
    begun = not config.overwrite and any((own / name).exists() for name in (*CHECKPOINTS, "result.json"))
    if config.init_from is None or begun:
        return False
    if not user_path(config.init_from).is_dir():
        raise UserError(f"init_from={config.init_from!r} is no folder: {source_wanted(config.init_from)}")
    return True


def read_source(config, meta):
    """The Source of a run of this config on a corpus of this meta, or None where it needs none.

    UserError where init_from is no run with best weights and no such model, or of another shape.
    """
    if not needs_source(config):
        return None
    folder = user_path(config.init_from)
    source = exported(config, folder, meta) if gpt2.is_model(folder) else best_of_run(config, folder)
    check_shape(config, source.model.config)
    return source


def best_of_run(config, folder):
    """The Source made of a run's best weights."""
    meta, path = corpus_meta(folder), folder / "best.pt"
    checkpoint, digest = load_hashed(path)
    if checkpoint is None:
        raise UserError(f"init_from={config.init_from!r} has no best.pt to start from: restore it")
    model = model_in(checkpoint, meta, path)
    record = {
        "run": config.init_from,
        "file": path.name,
        "sha256": digest,
        "iter": checkpoint.get("iter"),
        "val_loss": checkpoint.get("val_loss"),
        "corpus": corpus_title(meta),
        "knobs": differences(read_config(folder) or Config()),
    }
    return Source(model, meta, record)


def exported(config, folder, meta):
    """The Source made of a model in the Hugging Face GPT-2 format, for a corpus of this meta."""
    if (folder / "corpus.json").is_file():
        meta = corpus_meta(folder)
        model, weights = exported_model(folder, meta)
    else:
        model, weights = gpt2.read(folder)
        if meta["unit"] != "token" or meta["vocab_size"] != model.config.vocab_size:
            raise UserError(
                f"init_from={config.init_from!r} has no vocabulary that fits {meta['name']}: without a"
                f" corpus.json its {model.config.vocab_size:,} symbols are tokens, for a corpus of as many"
                " tokens, as --dataset=shakespeare_bpe is of GPT-2's"
            )
        if meta["vocab_size"] == gpt2.SHAPE["vocab_size"] and not is_gpt2s(meta):
            raise UserError(
                f"init_from={config.init_from!r} is taken for a model of GPT-2's 50,257 tokens, and those of"
                f" {meta['name']} are others: prepare it with GPT-2's vocabulary"
            )
    return Source(model, meta, {"run": config.init_from, **weights, "iter": None, "val_loss": None})


def check_shape(config, there):
    """UserError that names the options in which the source's blocks are of another shape."""
    changed = [name for name in SHAPE if getattr(config, name) != getattr(there, name)]
    if changed:
        here = ", ".join(f"{name}={getattr(config, name)}" for name in changed)
        hint = " ".join(f"--{name}={getattr(there, name)}" for name in changed)
        raise UserError(f"init_from={config.init_from!r} is a model of another shape than {here}: use {hint}")


@torch.no_grad()
def carry_over(source, model, meta):
    """Give `model`, of a corpus of this meta, the source's weights; returns run.json's record of it."""
    theirs = dict(source.model.named_parameters())
    mine_of, their_of = symbol_indices(meta), symbol_indices(source.meta)
    shared = [symbol for symbol in mine_of if symbol in their_of]
    positions = min(model.config.block_size, source.model.config.block_size)
    for name, mine in model.named_parameters():
        values = theirs[name].to(mine.device)
        if name == "wte.weight":
            mine[[mine_of[symbol] for symbol in shared]] = values[[their_of[symbol] for symbol in shared]]
        elif name == "wpe.weight":
            mine[:positions] = values[:positions]
        else:
            mine.copy_(values)
    symbols = {"carried": len(shared), "fresh": len(mine_of) - len(shared), "left": len(their_of) - len(shared)}
    rows = {"carried": positions, "fresh": model.config.block_size - positions}
    return {**source.record, "symbols": symbols, "positions": rows}


def describe(record):
    """The record as a line for the terminal."""
    symbols, positions = record["symbols"], record["positions"]
    when = "" if record["iter"] is None else f", iteration {record['iter']}"
    return (
        f"weights from {record['run']}, {record['file']}{when}: {symbols['carried']:,} symbols carried"
        f" over, {symbols['fresh']:,} fresh, {symbols['left']:,} left behind;"
        f" {positions['carried']:,} positions carried over, {positions['fresh']:,} fresh"
    )


def check_same(record, recorded, path):
    """UserError unless the weights are those that the run in `path` began from.

    record: of `carry_over` now. recorded: that of the run's run.json.
    """
    if record is None or record["sha256"] != (recorded or {}).get("sha256"):
        source = (record or recorded or {}).get("run", "its init_from")
        raise UserError(
            f"{path} began from other weights than {source} has now, by the SHA-256 in its run.json: restore"
            " them, or begin afresh with --overwrite=True"
        )
