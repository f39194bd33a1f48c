"""What a training step costs: train.py's against a plain loop, and whether the two train alike; and sampling.

    python bench.py config/shakespeare_baseline.py config/cpu.py --max_iters=300

The plain loop trains the same model from the same initial weights, eagerly in float32, with AdamW not
fused, and builds each batch from the memory map, one row after the other. Both train max_iters iterations
with each of three seeds, taking turns in one process, so that what else the machine does meets both alike.

Sampling is one text, from one token to a full context, as sample.py draws it and with the whole context
computed anew for each token.
"""

import dataclasses
import time
from statistics import mean, median, stdev

import numpy as np
import torch

import train
import training
from config import UserError, load, run_script
from evaluate import mean_loss
from machine import Machine
from model import GPT, choose
from noise import stream_seed
from runs import corpus_title

SEEDS = 3
TURNS = 10  # at most, a seed


def main(argv):
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        return 0
    config = load(argv)
    if config.max_iters < 2:
        raise UserError("bench.py wants max_iters of 2 or more: the first turn warms up")
    machine = Machine.choose(config)
    corpus = train.open_corpus(config, machine)
    turns = np.diff(np.linspace(0, config.max_iters, min(TURNS, config.max_iters) + 1).astype(int)).tolist()
    loops = {"plain loop": PlainLoop, "train.py": OurLoop}
    times = {name: [] for name in loops}  # seconds a step, one entry a turn after a seed's first
    losses = {name: [] for name in loops}  # a list a seed: mean loss of each turn, then the val loss
    tokens = config.tokens_per_iter
    print(f"{machine}; {corpus_title(corpus.meta)}, {tokens:,} tokens a step, {len(turns)} turns a seed")
    if config.noisy:
        print("the plain loop has no noise: with this config compare the times, not the losses")
    for seed in range(config.seed, config.seed + SEEDS):
        seeded = dataclasses.replace(config, seed=seed, data_seed=seed)
        pair = {name: loop(seeded, corpus, machine) for name, loop in loops.items()}
        curves = {name: [] for name in loops}
        for number, steps in enumerate(turns):
            for name, loop in pair.items():
                seconds, loss = timed(loop, steps, machine)
                if number:  # the first turn warms up
                    times[name].append(seconds)
                curves[name].append(loss)
        for name, loop in pair.items():
            losses[name].append(
                [*curves[name], mean_loss(loop.model, corpus.windows("val", config.block_size))]
            )
    report_times(times, tokens)
    report_losses(losses, turns)
    report_sampling(GPT.from_weights(pair["train.py"].model.weights(), machine.device).eval(), machine)
    return 0


class PlainLoop:
    """The loop that people write, as the docstring above says."""

    def __init__(self, config, corpus, machine):
        self.config, self.device = config, machine.device
        self.model = GPT.create(
            training.model_config(config, corpus), stream_seed(config.seed, "init"), machine.device
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameter_groups(config.weight_decay),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
        )
        self.generator = torch.Generator().manual_seed(stream_seed(config.seed, "plain loop"))
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
    for name, seconds in times.items():
        print(
            f"{name:>11}: {median(seconds) * 1e3:8.1f} ms a step (turns from {min(seconds) * 1e3:.1f} to"
            f" {max(seconds) * 1e3:.1f}), {tokens / median(seconds):9,.0f} tokens/s"
        )
    ratios = [a / b for a, b in zip(times["plain loop"], times["train.py"])]
    print(f"      ratio: {median(ratios):.2f} (turns from {min(ratios):.2f} to {max(ratios):.2f})")


def report_losses(losses, turns):
    print(f"mean loss of each turn, mean ± sd over {SEEDS} seeds:")
    names = [f"to iteration {end:,}" for end in np.cumsum(turns)] + ["val loss at the end"]
    for row, name in enumerate(names):
        cells = []
        for label, curves in losses.items():
            values = [curve[row] for curve in curves]
            cells.append(f"{label} {mean(values):.4f} ± {stdev(values):.4f}")
        print(f"{name:>20}: {', '.join(cells)}")


@torch.no_grad()
def sample_plainly(model, idx, length, generators):
    """`GPT.generate`, but without a cache and no further than a full context."""
    for _ in range(length):
        token = choose(model(idx)[0][:, -1], generators, 1.0, None)
        idx = torch.cat((idx, token.to(idx.device)), dim=1)
    return idx


def report_sampling(model, machine):
    size = model.config.block_size
    loops = {"plain loop": sample_plainly, "sample.py": GPT.generate}
    rates = {}
    for name, loop in loops.items():
        for length in (min(8, size), size):  # the first warms up
            idx = torch.zeros((1, 1), dtype=torch.int64, device=machine.device)
            synchronize(machine)
            began = time.perf_counter()
            loop(model, idx, length, [torch.Generator().manual_seed(0)])
            synchronize(machine)
            rates[name] = length / (time.perf_counter() - began)
    rows = ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in rates.items())
    ratio = rates["sample.py"] / rates["plain loop"]
    print(f"sampling {size} tokens in float32: {rows}, ratio {ratio:.1f}")


if __name__ == "__main__":
    run_script(main)
