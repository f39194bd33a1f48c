"""What makes train.py fast, undone one choice at a time.

With a choice undone, a step, an evaluation or a sample computes the same by PyTorch's defaults, or by the usual
code: equal except for rounding, and for which numbers dropout, batches and noise draw.
"""

import contextlib
import math
from dataclasses import replace
from unittest.mock import patch

import torch
from torch.nn import functional as F

import model
from bench.loops import OurLoop, batch_by_rows
from data import corpus as corpora
from training import step as training


class Undone(OurLoop):
    """train.py's step with functions replaced: others are {(module, name of a function): another one}."""

    def __init__(self, config, corpus, machine, others):
        super().__init__(config, corpus, machine)
        self.others = others

    def train_step(self):
        with replaced(self.others):
            return super().train_step()


@contextlib.contextmanager
def replaced(others):
    with contextlib.ExitStack() as stack:
        for (module, name), other in others.items():
            stack.enter_context(patch.object(module, name, other))
        yield


def step_choices(config, corpus, machine):
    """{a choice: a function that makes a loop without it}, of those that are taken here."""
    setting = config, corpus, machine
    eager_cpu = machine.kind == "cpu" and not machine.compile
    plainly = eager_cpu and (machine.dtype != "float32" or config.dropout)
    usual_noise = config.noisy and not (config.noise_before_clip or config.noise_anticorrelated)
    usual_noise &= (config.noise_target, config.noise_scale) == ("gradient", "absolute")
    usual_noise &= (config.noise_distribution, config.noise_params) == ("gaussian", "all")

    def undone(module, **functions):
        return lambda: Undone(*setting, {(module, name): other for name, other in functions.items()})

    found = [
        (machine.dtype, machine.dtype != "float32", lambda: in_float32(*setting)),
        ("16 bits through float32", machine.through_float32, undone(model, product=by_its_own_kernel)),
        ("blocks compiled", machine.compile, lambda: OurLoop(config, corpus, replace(machine, compile=False))),
        ("attention fused", machine.kind == "cuda", lambda: with_plain_attention(*setting)),
        ("attention by plain products", plainly, undone(model, plain_attention=fused_attention)),
        ("its scale and mask within a product", plainly, undone(model, plain_attention=attention_in_parts)),
        ("four dropout masks a draw", eager_cpu and config.dropout, undone(model, dropout=F.dropout)),
        ("AdamW fused", config.optimizer == "adamw", lambda: with_unfused_optimizer(*setting)),
        ("a batch by one index", not config.input_noise, undone(training, batch=drawn_by_rows(config))),
        ("noise by one draw", usual_noise, undone(training, add_noise=noise_by_tensors)),
    ]
    return {name: make for name, taken, make in found if taken}


def evaluation_choices(machine):
    """{a choice: the functions that undo it}, of those that are taken here."""
    if machine.kind != "cpu":
        return {}
    found = {
        "windows as many as the cache holds": {(corpora, "batch_tokens"): lambda device, vocab_size: 1 << 15}
    }
    if torch.backends.mkldnn.is_available():
        found["float32 products by oneDNN, GELU within"] = {
            (torch.backends.mkldnn, "is_available"): lambda: False
        }
    return found


def sampling_choices(machine):
    """{a choice: the functions that undo it}, of those that are taken here."""
    if machine.kind != "cpu":
        return {}
    return {
        "matrices column by column": {(model.GPT, "for_sampling"): lambda gpt, device: gpt.to(device).eval()}
    }


def in_float32(config, corpus, machine):
    return OurLoop(config, corpus, replace(machine, dtype="float32"))


def by_its_own_kernel(operation, *operands, **options):
    """`model.product` without a look at what the CPU has instructions for."""
    return operation(*operands, **options)


def with_plain_attention(*setting):
    loop = OurLoop(*setting)
    for block in loop.model.blocks:
        block.attn.fused = False
    return loop


def with_unfused_optimizer(*setting):
    with replaced({(training, "make_optimizer"): unfused_adamw}):
        return OurLoop(*setting)


def unfused_adamw(config, model, scaled=False):
    """PyTorch's default for the device: tensor by tensor on a CPU, a few kernels for all on a card."""
    groups = model.parameter_groups(config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))


def fused_attention(q, k, v, p):
    return model.product(F.scaled_dot_product_attention, q, k, v, dropout_p=p, is_causal=True)


def attention_in_parts(q, k, v, p):
    """As it is written in teaching: product, scale, mask, softmax, dropout, product."""
    T = q.shape[2]
    future = torch.ones((T, T), dtype=torch.bool, device=q.device).triu(1)
    scores = model.product(torch.matmul, q, k.transpose(2, 3)) / math.sqrt(q.shape[3])
    shares = scores.masked_fill(future, -math.inf).softmax(-1)
    return model.product(torch.matmul, model.dropout(shares, p), v)


def drawn_by_rows(config):
    """`training.batch`, but row by row from the memory map, as the plain loop's."""
    generator = torch.Generator().manual_seed(config.data_seed)

    def batch(t, micro_step):
        return batch_by_rows(t.config, t.corpus.folder, "train", generator, t.machine)

    return batch


@torch.no_grad()
def noise_by_tensors(t, grad_norm):
    """The loop that anyone writes: a draw and a sum for each tensor, and no norm."""
    sigma = t.noise.sigma(t.step)
    for parameter in t.model.parameters():
        parameter.grad.add_(torch.randn_like(parameter), alpha=sigma)
    return torch.zeros_like(grad_norm)
