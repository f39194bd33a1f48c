"""The parts of a measurement: ingredients of a step, evaluations, checkpoints, samples."""

import contextlib
import dataclasses
import tempfile

import torch

from bench.our_loop import OurLoop
from bench.plain_loop import sample_plainly
from bench.turns import LONG_TURNS, TURNS, in_turns, steps_in_turns
from config import Config, UserError, settle
from model import GPT
from training.run_folder import RunFolder

EVAL_BATCHES = 200  # random ones, an evaluation of a split: nanoGPT's eval_iters, and the paper's

# A step without noise, augmentation and diagnosis: their options' defaults.
KINDS = ("noise", "noisytune", "input_noise", "reset_below", "diagnose", "init_from")
QUIET = {field.name: field.default for field in dataclasses.fields(Config) if field.name.startswith(KINDS)}

# So little noise that no weight goes astray; the cost is that of more. All schedules cost the same.
NOISE = {"noise_sigma": 1e-4, "noise_gamma": 0.9999}
NOISES = {
    "gaussian": {},
    "under its floor": {"noise_gamma": 0.0},
    "laplace": {"noise_distribution": "laplace"},
    "scale tensor": {"noise_scale": "tensor"},
    "in the first moment": {"noise_target": "first_moment"},
    "in the weights": {"noise_target": "weights"},
}


def without_noise(config, **options):
    return settle(dataclasses.asdict(config) | QUIET | options)


def ingredients(config, kind):
    """{name: (options of a step with it, those of the step without it, every how many steps it comes)}.

    The options are beside QUIET and the configuration's own. What a CPU does once a parameter, whatever the
    batch, is measured in a small step: in a long one it is lost among the differences from turn to turn.
    A card (kind: of device), which is given work ahead, has the configuration's own.
    """
    small = {"batch_size": min(2, config.batch_size), "gradient_accumulation_steps": 1} if kind == "cpu" else {}
    log, look, rate = config.log_interval, config.diagnose_interval or 100, config.dropout or 0.2
    return {
        **{f"noise: {name}": (NOISE | options | small, small, 1) for name, options in NOISES.items()},
        f"dropout {rate:g}": ({"dropout": rate}, {"dropout": 0.0}, 1),
        "clipping": ({"grad_clip": config.grad_clip or 1.0} | small, {"grad_clip": 0.0} | small, 1),
        f"logging, every {log} steps": ({"log_interval": 1} | small, small, log),
        f"diagnosis, every {look} steps": ({"diagnose_interval": 1}, {}, look),
    }


def measure_ingredients(config, corpus, machine, folder):
    """A row an ingredient that this configuration can have: the seconds of a step with it, and without."""
    for name, (options, others, every) in ingredients(config, machine.kind).items():
        try:
            configs = [without_noise(config, **part) for part in (options, others)]
        except UserError:  # such as noise in a moment that the optimizer has not
            continue
        logged = folder if "log_interval" in options else None
        loops = [OurLoop(part, corpus, machine, log) for part, log in zip(configs, (logged, None))]
        pair = dict(zip(("with", "without"), loops))
        if all(one.model.compiled == machine.compile for one in pair.values()):  # or else it was said
            yield {"name": name, "every": every} | steps_in_turns(pair, machine)


@contextlib.contextmanager
def run_folder(out):
    """A run folder for a while, on the disk that `out` is on."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix="measuring") as path, RunFolder(path) as folder:
        yield folder


def measure_loops(loops, machine):
    seconds = steps_in_turns(loops, machine)
    return {name: {"dtype": loop.machine.dtype, "seconds": seconds[name]} for name, loop in loops.items()}


def measure_evaluation(ours, plain, machine):
    """An exact evaluation as train.py has it, and of random batches as the plain loop has them.

    There are as many batches as have about as many tokens; wanted_batches is how many such scripts take.
    """
    config, corpus = ours.config, ours.corpus
    tokens = sum(y.numel() for _, y in corpus.windows("val", config.block_size, config.eval_tokens))
    batches = max(1, min(EVAL_BATCHES, tokens // (config.batch_size * config.block_size)))
    works = {"exact_seconds": ours.val_loss, "random_seconds": lambda: plain.evaluate("val", batches)}
    sizes = {"exact_tokens": tokens, "val_tokens": len(corpus.tokens["val"]) - 1}
    numbers = {"random_batches": batches, "wanted_batches": EVAL_BATCHES}
    return sizes | numbers | in_turns(works, LONG_TURNS, machine)


def measure_checkpoint(ours):
    seconds = in_turns({"seconds": lambda: ours.checkpoint(ours.folder)}, TURNS, ours.machine)
    return seconds | {"bytes": (ours.folder.path / "last.pt").stat().st_size}


def measure_sampling(model, machine):
    """As many tokens as the context has: from one on, and after a full context, which both cut to its half."""
    weights, size = model.weights(), model.config.block_size
    cached = GPT.from_weights(weights).for_sampling(machine.device)
    plain = GPT.from_weights(weights, machine.device).eval()
    record = {"tokens": size}
    for part, start in (("begun", 1), ("full", size)):
        idx = torch.zeros((1, start), dtype=torch.int64, device=machine.device)
        works = {
            f"{part}_cached_seconds": lambda idx=idx: cached.generate(idx, size, [torch.Generator()]),
            f"{part}_plain_seconds": lambda idx=idx: sample_plainly(plain, idx, size, [torch.Generator()]),
        }
        record |= in_turns(works, LONG_TURNS, machine)
    return record
