"""What a training step costs: train.py's against a plain loop, and whether the two train alike.

    python bench.py config/shakespeare_baseline.py config/cpu.py --max_iters=300

The plain loop trains the same model from the same initial weights, eagerly in float32, with AdamW not
fused, and builds each batch from the memory map, one row after the other. Both train max_iters iterations
with each of three seeds, taking turns in one process, so that what else the machine does meets both alike.
"""

import dataclasses
import time
from statistics import mean, median, stdev

import numpy as np
import torch

import train
from config import load, run_script
from data.corpus import Corpus
from evaluate import mean_loss
from machine import Machine
from model import GPT
from noise import stream_seed

SEEDS = 3
TURNS = 10  # at most, a seed


def main(argv):
    config = load(argv)
    machine = Machine.choose(config)
    corpus = Corpus(config.dataset, machine.device)
    corpus.check_length(config.block_size)
    turns = min(TURNS, config.max_iters)
    turn = config.max_iters // turns
    loops = {"plain loop": PlainLoop, "train.py": OurLoop}
    times = {name: [] for name in loops}  # seconds a step, one entry a turn
    losses = {name: [] for name in loops}  # a list a seed: mean loss of each turn, then the val loss
    print(f"{machine}; {corpus.meta['name']}, {config.tokens_per_iter:,} tokens a step, turns of {turn} steps")
    for seed in range(config.seed, config.seed + SEEDS):
        seeded = dataclasses.replace(config, seed=seed, data_seed=seed)
        pair = {name: loop(seeded, corpus, machine) for name, loop in loops.items()}
        curves = {name: [] for name in loops}
        for _ in range(turns):
            for name, loop in pair.items():
                seconds, loss = timed(loop, turn, machine)
                times[name].append(seconds)
                curves[name].append(loss)
        for name, loop in pair.items():
            losses[name].append(
                [*curves[name], mean_loss(loop.model, corpus.windows("val", config.block_size))]
            )
    report_times(times, config.tokens_per_iter)
    report_losses(losses, turn, turns)
    return 0


class PlainLoop:
    """The loop that people write, as the docstring above says."""

    def __init__(self, config, corpus, machine):
        self.config, self.device = config, machine.device
        self.model = GPT.create(
            train.model_config(config, corpus), stream_seed(config.seed, "init"), machine.device
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameter_groups(config.weight_decay),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.path, self.step = corpus.folder / "train.bin", 0

    def batch(self):
        B, T = self.config.batch_size, self.config.block_size
        data = np.memmap(self.path, dtype=np.uint16, mode="r")
        starts = torch.randint(len(data) - T, (B,), generator=self.generator)
        x = torch.stack([torch.from_numpy(data[i : i + T].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + T].astype(np.int64)) for i in starts])
        return x.to(self.device), y.to(self.device)

    def train_step(self):
        for group in self.optimizer.param_groups:
            group["lr"] = train.learning_rate(self.step, self.config)
        parts, loss = self.config.gradient_accumulation_steps, 0.0
        for _ in range(parts):
            part = self.model(*self.batch())[1] / parts
            part.backward()
            loss += part.item()
        if self.config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss


class OurLoop:
    """train.py's own step."""

    def __init__(self, config, corpus, machine):
        self.training = train.Training(config, corpus, machine)
        self.model = self.training.model
        train.rehearse(self.training)

    def train_step(self):
        train.train_step(self.training)
        return self.training.trace[self.training.step - 1, 0]


def timed(loop, steps, machine):
    """(seconds a step, mean loss) of `steps` training steps."""
    synchronize(machine)
    began = time.perf_counter()
    losses = [loop.train_step() for _ in range(steps)]
    synchronize(machine)
    seconds = (time.perf_counter() - began) / steps
    return seconds, mean(map(float, losses))


def synchronize(machine):
    if machine.kind != "cpu":
        getattr(torch, machine.kind).synchronize()


def report_times(times, tokens):
    """The first turn, which warms up, is left out."""
    medians = {name: median(seconds[1:]) for name, seconds in times.items()}
    for name, seconds in times.items():
        least, most = min(seconds[1:]), max(seconds[1:])
        print(
            f"{name:>11}: {medians[name] * 1e3:8.1f} ms a step (turns from {least * 1e3:.1f} to"
            f" {most * 1e3:.1f}), {tokens / medians[name]:9,.0f} tokens/s"
        )
    ratios = [a / b for a, b in zip(times["plain loop"][1:], times["train.py"][1:])]
    print(f"      ratio: {median(ratios):.2f} (turns from {min(ratios):.2f} to {max(ratios):.2f})")


def report_losses(losses, turn, turns):
    print(f"mean loss of each turn, mean ± sd over {SEEDS} seeds:")
    names = [f"to iteration {turn * (i + 1):,}" for i in range(turns)] + ["val loss at the end"]
    for row, name in enumerate(names):
        cells = []
        for label, curves in losses.items():
            values = [curve[row] for curve in curves]
            cells.append(f"{label} {mean(values):.4f} ± {stdev(values):.4f}")
        print(f"{name:>20}: {', '.join(cells)}")


if __name__ == "__main__":
    run_script(main)
