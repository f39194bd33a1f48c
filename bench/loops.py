"""The two loops that bench.py measures against each other, and how they take turns.

The plain loop is written as such loops usually are. It trains the same model from the same initial weights,
eagerly, with unfused AdamW, in the usual precision: on CUDA under autocast to bfloat16 (float16 with a scaler
on a card without bfloat16), elsewhere in float32. It builds each batch from the memory map row by row,
evaluates on random batches, and samples with the whole context computed anew for each token.
"""

import contextlib
import math
import time
from dataclasses import replace

import numpy as np
import torch

import train
from model import GPT, choose
from noise import stream_seed
from training import step as training
from training.machine import best_dtype

TURNS = 7  # of steps, after one that warms up
LONG_TURNS = 3  # of what takes long: steps of a second and more, evaluations, samples
TURN = 0.15  # seconds that a turn of steps is to take
MOST_STEPS = 50  # a turn
LENGTH = 100_000  # iterations, more than are measured of any run
EVAL_BATCHES = 200  # random ones of each of two splits, an evaluation: nanoGPT's eval_iters, and the paper's


class PlainLoop:
    def __init__(self, config, corpus, machine):
        self.config, self.folder = config, corpus.folder
        dtype = best_dtype(machine.device) if machine.kind == "cuda" else "float32"
        self.machine = replace(machine, dtype=dtype, compile=False)
        self.machine.apply()
        self.model = GPT.create(
            training.model_config(config, corpus), stream_seed(config.seed, "init"), machine.device
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameter_groups(config.weight_decay),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
        )
        self.scaler = self.machine.scaler()
        self.generator = torch.Generator().manual_seed(stream_seed(config.seed, "plain loop"))
        self.step = 0

    def batch(self, split="train"):
        return batch_by_rows(self.config, self.folder, split, self.generator, self.machine)

    def train_step(self):
        """One iteration; returns its mean loss, which is fetched every log_interval iterations."""
        config, parts, loss = self.config, self.config.gradient_accumulation_steps, 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = training.learning_rate(self.step, config)
        for _ in range(parts):
            with self.machine.autocast():
                part = self.model(*self.batch())[1] / parts
            self.scaler.scale(part).backward()
            loss += part.detach()
        if config.grad_clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.step % config.log_interval == 0:
            loss.item()
        self.step += 1
        return loss

    @torch.no_grad()
    def evaluate(self, split, batches, narrow=True):
        """The mean loss of so many random batches. narrow: in training's precision, or else in float32."""
        self.model.eval()
        losses = torch.zeros(batches)
        for number in range(batches):
            with self.machine.autocast() if narrow else contextlib.nullcontext():
                losses[number] = self.model(*self.batch(split))[1].item()
        self.model.train()
        return losses.mean().item()


def batch_by_rows(config, folder, split, generator, machine):
    """Inputs and targets of random windows, each (batch_size, block_size), one after the other from the map."""
    B, T = config.batch_size, config.block_size
    data = np.memmap(folder / f"{split}.bin", dtype=np.uint16, mode="r")
    if split == "train":
        data = data[: config.train_tokens]
    starts = torch.randint(len(data) - T, (B,), generator=generator)
    x = torch.stack([torch.from_numpy(data[i : i + T].astype(np.int64)) for i in starts])
    y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + T].astype(np.int64)) for i in starts])
    if machine.kind == "cuda":
        x, y = x.pin_memory(), y.pin_memory()
    return [part.to(machine.device, non_blocking=True) for part in (x, y)]


@torch.no_grad()
def sample_plainly(model, idx, length, generators):
    """`GPT.generate`, but without a cache: the same texts, everything before computed anew for each token."""
    size = model.config.block_size
    first = max(0, idx.shape[1] - size)
    for _ in range(length):
        if idx.shape[1] - first > size:
            first = idx.shape[1] - max(1, size // 2)
        logits, _ = model(idx[:, first:])
        token = choose(logits[:, -1], generators, 1.0, None)
        idx = torch.cat((idx, token.to(idx.device)), dim=1)
    return idx


class OurLoop:
    """train.py's own step, for up to LENGTH iterations of whatever length the run is.

    folder: of a run, into which it logs as train.py does; None for no log. rehearsed: seconds that compiling
    took, two forward and backward passes with it; None where nothing is compiled.
    """

    def __init__(self, config, corpus, machine, folder=None):
        self.config, self.machine, self.folder, self.rehearsed = config, machine, folder, None
        self.training = t = training.Training(config, corpus, machine)
        self.model = t.model
        t.trace = torch.full((LENGTH, 4), math.nan, device=machine.device)
        if machine.compile:
            # Many loops share a block's code: no rate of dropout may become symbolic, none run eagerly unsaid.
            torch._dynamo.config.specialize_float = True
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            self.rehearsed = clock(lambda: train.rehearse(t), machine)

    def train_step(self):
        t = self.training
        training.train_step(t)
        if self.folder and (t.step - 1) % t.config.log_interval == 0:
            train.log(t, self.folder)
        return t.trace[t.step - 1, 0]


LOOPS = {"plain": PlainLoop, "ours": OurLoop}


# Turns.


def clock(work, machine):
    """Seconds that `work` takes, on the device too."""
    machine.synchronize()
    began = time.perf_counter()
    work()
    machine.synchronize()
    return time.perf_counter() - began


def in_turns(works, turns, machine):
    """{name: the seconds of each turn} of functions called in turns, the other way round every second time.

    The first turn warms up, and does not count.
    """
    seconds = {name: [] for name in works}
    for turn in range(turns + 1):
        for name in list(works)[:: 1 if turn % 2 else -1]:
            took = clock(works[name], machine)
            if turn:
                seconds[name].append(took)
    return seconds


def steps_in_turns(loops, machine, long_turns=LONG_TURNS):
    """{name: the seconds a step of each turn} of loops; each takes as many steps a turn as fill TURN seconds,
    MOST_STEPS and a twentieth of its run at most. long_turns: where a step takes more than a second."""
    counts, turns = {}, TURNS
    for name, loop in loops.items():
        loop.train_step()
        second = clock(loop.train_step, machine)
        counts[name] = max(1, min(int(TURN / second), MOST_STEPS, loop.config.max_iters // 20))
        turns = long_turns if second > 1 else turns
    works = {name: steps(loop, counts[name]) for name, loop in loops.items()}
    seconds = in_turns(works, turns, machine)
    return {name: [second / counts[name] for second in seconds[name]] for name in loops}


def steps(loop, count):
    def work():
        for _ in range(count):
            loop.train_step()

    return work
