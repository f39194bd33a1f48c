"""The parts of a measurement: ingredients of a step, evaluations, checkpoints, samples, operators."""

import contextlib
import dataclasses
import tempfile
from functools import partial

import torch
from torch.nn import functional as F

from bench.our_loop import OurLoop
from bench.plain_loop import sample_plainly
from bench.turns import LONG_TURNS, TURNS, in_turns, repeated_in_turns, steps_in_turns
from config import Config, UserError, settle
from model import GPT
from training import operators
from training.run_folder import RunFolder

EVAL_BATCHES = 200  # random ones, an evaluation of a split: nanoGPT's eval_iters, and the paper's

# A step without noise, augmentation and diagnosis: their options' defaults.
KINDS = ("noise", "input_noise", "reset_below", "diagnose", "init_from")
QUIET = {field.name: field.default for field in dataclasses.fields(Config) if field.name.startswith(KINDS)}

# So little noise that no weight goes astray; the cost is that of more. All schedules cost the same.
NOISE = {"noise_sigma": 1e-4, "noise_gamma": 0.9999}
NOISES = {
    "gaussian": {},
    "under its floor": {"noise_gamma": 0.0},
    "uniform": {"noise_distribution": "uniform"},
    "laplace": {"noise_distribution": "laplace"},
    "scale global": {"noise_scale": "global"},
    "scale tensor": {"noise_scale": "tensor"},
    "anticorrelated": {"noise_anticorrelated": True},
    "in the first moment": {"noise_target": "first_moment"},
    "in the second moment": {"noise_target": "second_moment"},
    "in the weights": {"noise_target": "weights"},
    "as a learning rate": {"noise_target": "learning_rate"},
}


def without_noise(config, **options):
    return settle(dataclasses.asdict(config) | QUIET | options)


def small_batch(config, kind):
    """The options of the step in which is measured what a CPU does once a parameter, whatever the batch.

    In a long step it would be lost among the differences from turn to turn. A card, which is given work ahead,
    has the configuration's own.
    """
    return {"batch_size": min(2, config.batch_size), "gradient_accumulation_steps": 1} if kind == "cpu" else {}


def ingredients(config, kind):
    """{name: (options of a step with it, those of the step without it, every how many steps it comes)}.

    The options are beside QUIET and the configuration's own. kind: of device.
    """
    small, rate = small_batch(config, kind), config.dropout or 0.2
    log, look, rare = config.log_interval, config.diagnose_interval or 100, 10**9  # rare: none that is timed
    return {
        **{f"noise: {name}": (NOISE | options | small, small, 1) for name, options in NOISES.items()},
        f"dropout {rate:g}": ({"dropout": rate}, {"dropout": 0.0}, 1),
        "augmentation": ({"input_noise": 0.1}, {}, 1),
        "clipping": ({"grad_clip": config.grad_clip or 1.0} | small, {"grad_clip": 0.0} | small, 1),
        f"logging, every {log} steps": ({"log_interval": 1} | small, small, log),
        "diagnosis: its moments": ({"diagnose_interval": rare} | small, small, 1),
        f"diagnosis: measured, every {look} steps": ({"diagnose_interval": 1}, {}, look),
    }


def measure_ingredients(config, corpus, machine, out):
    """A row an ingredient that this configuration can have: the seconds of a step with it, and without."""

    def loop(options, folder=None):
        return OurLoop(without_noise(config, **options), corpus, machine, folder)

    with run_folder(out) as folder:
        for name, (options, others, every) in ingredients(config, machine.kind).items():
            try:
                pair = {"with": loop(options, folder if "log_interval" in options else None)}
            except UserError:  # SGD has no second moment, a batch of one no halves
                continue
            pair["without"] = loop(others)
            if all(one.model.compiled == machine.compile for one in pair.values()):  # or else it was said
                yield {"name": name, "every": every} | steps_in_turns(pair, machine)


@contextlib.contextmanager
def run_folder(out):
    """A run folder for a while, on the disk that `out` is on."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix="measuring") as path, RunFolder(path) as folder:
        yield folder


def measure_evaluation(ours, plain, machine):
    """An exact evaluation as train.py has it, and of random batches as the plain loop has them.

    There are as many batches as have about as many tokens; wanted_batches is how many such scripts take.
    """
    config, corpus = ours.config, ours.corpus
    tokens = sum(y.numel() for _, y in corpus.windows("val", config.block_size, config.eval_tokens))
    batches = max(1, min(EVAL_BATCHES, tokens // (config.batch_size * config.block_size)))
    works = {"exact": ours.val_loss, "random": lambda: plain.evaluate("val", batches)}
    seconds = in_turns(works, LONG_TURNS, machine)
    sizes = {"exact_tokens": tokens, "val_tokens": len(corpus.tokens["val"]) - 1}
    numbers = {"random_batches": batches, "wanted_batches": EVAL_BATCHES}
    return sizes | numbers | {f"{name}_seconds": seconds[name] for name in works}


def measure_checkpoint(ours, out):
    with run_folder(out) as folder:
        seconds = in_turns({"": lambda: ours.checkpoint(folder)}, TURNS, ours.machine)[""]
        return {"seconds": seconds, "bytes": (folder.path / "last.pt").stat().st_size}


def measure_sampling(model, machine):
    """As many tokens as the context has: from one on, and after a full context, which both cut to its half."""
    weights, size = model.weights(), model.config.block_size
    ways = {
        "cached": (GPT.from_weights(weights).for_sampling(machine.device), GPT.generate),
        "plain": (GPT.from_weights(weights, machine.device).eval(), sample_plainly),
    }
    record = {"tokens": size}
    for part, start in (("begun", 1), ("full", size)):
        works = {name: sampling(*way, start) for name, way in ways.items()}
        seconds = in_turns(works, LONG_TURNS, machine)
        record |= {f"{part}_{name}_seconds": seconds[name] for name in works}
    return record


def sampling(model, sample, start):
    """A function that samples one text in float32, after `start` tokens."""
    idx = torch.zeros((1, start), dtype=torch.int64, device=model.wte.weight.device)
    return lambda: sample(model, idx, model.config.block_size, [torch.Generator().manual_seed(0)])


def operator_pairs(config):
    """{name: (our operator for a CPU, the usual one, whether it is in training, inputs)}, sized as in one
    micro-step; inputs in bfloat16 are for autocast."""
    B, T, C, H = config.batch_size, config.block_size, config.n_embd, config.n_head
    generator, layer, rate = torch.Generator().manual_seed(1), torch.nn.Linear(C, 4 * C), config.dropout or 0.2
    x, scores = (torch.randn(shape, generator=generator) for shape in ((B, T, C), (B * H, T, T)))
    qkv = torch.randn((3, B, H, T, C // H), generator=generator).bfloat16()
    usual_gelu = partial(F.gelu, approximate="tanh")
    usual_attention = partial(F.scaled_dot_product_attention, is_causal=True)
    return {
        "dropout": (partial(operators.dropout, p=rate), partial(F.dropout, p=rate), True, [scores]),
        "linear, bfloat16": (partial(operators.linear, layer=layer), layer, True, [x.bfloat16()]),
        "attention, bfloat16": (partial(operators.attention, p=0.0), usual_attention, True, qkv),
        "linear and GELU, evaluation": (
            *(partial(operators.linear_gelu, layer=layer), lambda x: usual_gelu(layer(x)), False, [x]),
        ),
    }


def operate(operator, training, inputs):
    """What an operator gives for inputs; in training, its gradients too."""
    inputs = [part.detach().requires_grad_(training) for part in inputs]
    with torch.autocast("cpu", torch.bfloat16, inputs[0].itemsize == 2), torch.set_grad_enabled(training):
        found = operator(*inputs)
    return [found, *(torch.autograd.grad(found.sum(), inputs) if training else ())]


def measure_operators(config, machine):
    """A row an operator, the seconds of each turn; none on a card, where they are PyTorch's own."""
    for name, (ours, usual, *how) in operator_pairs(config).items() if machine.kind == "cpu" else ():
        works = {"ours": partial(operate, ours, *how), "torch": partial(operate, usual, *how)}
        yield {"name": name} | repeated_in_turns(works, machine)
