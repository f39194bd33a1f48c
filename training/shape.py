"""The shape of a GPT by arithmetic: whether it can be, what it takes to train it. Nothing is built for it."""

from dataclasses import fields

from config import UserError, quoted
from model import GELU, GPTConfig
from training.machine import memory_of

SIZES = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
MOST, MOST_LAYERS = 10**12, 10_000
SLOW_TO_BUILD = {"parameters": 2 * 10**8, "layers": 500}  # takes seconds


def parameter_count(shape, vocab_size):
    """Parameters of a GPT, the tied matrix once. shape: a Config or a GPTConfig."""
    C = shape.n_embd
    norm = C + C * shape.bias
    block = 12 * C * C + 9 * C * shape.bias + 2 * norm
    return (vocab_size + shape.block_size) * C + shape.n_layer * block + norm


def training_bytes(config, vocab_size, processes=1):
    """Bytes that training takes in each process at the least: four a weight, a gradient and each moment of the
    optimizer, the history's three numbers an iteration, the logits of a micro-step."""
    tokens = config.batch_size // processes * config.block_size
    floats = {"sgd": 2 + (config.beta1 > 0), "lion": 3}.get(config.optimizer, 4)
    return 4 * (floats * parameter_count(config, vocab_size) + 3 * config.max_iters + tokens * vocab_size)


def check_memory(config, machine, vocab_size=1):
    """UserError where a run of this config cannot fit into the memory of its device, or its model, which is
    made on the CPU, into that of the CPU. vocab_size: 1 as long as it is not known."""
    count = parameter_count(config, vocab_size)
    for device, need in (
        (machine.device, training_bytes(config, vocab_size, machine.processes)),
        ("cpu", 4 * count),
    ):
        if need > (there := memory_of(device)):
            raise UserError(
                f"{count:,} parameters, {config.tokens_per_iter:,} tokens an iteration and"
                f" {config.max_iters:,} iterations take {need / 1e9:,.1f} GB at the least, and {device} has"
                f" {there / 1e9:,.1f} GB: make n_embd, n_layer, batch_size, block_size or max_iters smaller"
            )


def slow_to_build(shape, vocab_size):
    """Whether it takes seconds to give a GPT its first weights."""
    count = parameter_count(shape, vocab_size)
    return count > SLOW_TO_BUILD["parameters"] or shape.n_layer > SLOW_TO_BUILD["layers"]


def check_size(name, value, where):
    """UserError where one of SIZES is no size."""
    most = MOST_LAYERS if name == "n_layer" else MOST
    if type(value) is not int or not 1 <= value <= most:
        raise UserError(f"{where}: {name}={quoted(value)} is no number from 1 to {most:,}")


def saved_shape(values, where):
    """The GPTConfig that a checkpoint has of its model; UserError where it lacks a value, has one more or one
    that cannot be."""
    if set(values) != {field.name for field in fields(GPTConfig)}:
        raise UserError(f"{where} holds no model of this code: restore it")
    for name in SIZES:
        check_size(name, values[name], where)
    if values["n_embd"] % values["n_head"]:
        raise UserError(f"{where}: n_embd={values['n_embd']} is not a multiple of n_head={values['n_head']}")
    if (
        type(values["dropout"]) is not float
        or not 0 <= values["dropout"] < 1
        or type(values["bias"]) is not bool
    ):
        raise UserError(f"{where}: dropout or bias is none: restore it")
    if values["activation"] not in (*GELU,):
        raise UserError(
            f"{where} has the activation {quoted(values['activation'])}: models here have {', '.join(GELU)}"
        )
    return GPTConfig(**values)
