"""What a training step costs: train.py's against a plain loop, and what each ingredient adds to it.

    python -m bench [config files] [--key=value] [--out=DIR]
    python -m bench config/shakespeare_noise.py config/cpu.py

Everything is measured interleaved within one process, warmed up and synchronized, so that other load on the
machine affects all alike: a step of the plain loop (plain_loop.py) and of train.py as configured and without
noise; evaluations, checkpoints and samples; a step with and without each kind of noise, dropout, augmentation,
clipping, logging and diagnosis; on a CPU, our operators beside PyTorch's. Measured in processes of their own:
peak memory, and compilation with an empty cache and with the one that it left. The tables are printed, and DIR
(out/bench) gets bench.json, the seconds of every turn, for plot.py.

    --losses       instead: whether the two loops train alike, max_iters iterations with each of three seeds
    --profile      instead: the operations in both loops' steps that take longest, by PyTorch's profiler, and
                   the trace of train.py's, DIR/trace.json for chrome://tracing
    --jobs=1,2,4   instead: runs per hour by how many train at once, as sweep.py starts them; DIR/jobs.json
"""

import argparse
import dataclasses
import os
import re
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev

import torch.profiler

from bench.measure import (
    measure_checkpoint,
    measure_evaluation,
    measure_ingredients,
    measure_operators,
    measure_sampling,
    run_folder,
    without_noise,
)
from bench.our_loop import OurLoop, new_model
from bench.report import NAMES, print_tables
from bench.subprocesses import LOOPS, runs_at_once, started
from bench.turns import clock, repeated, steps_in_turns
from config import UserError, load, run_script
from data.files import write_json
from training.evaluate import mean_loss
from training.lifecycle import open_corpus
from training.machine import Machine, versions
from training.run_folder import corpus_title

SEEDS = 3  # that --losses trains
TOP = 12  # operations that --profile shows


def main(argv):
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        return 0
    options, words = read_options(argv)
    config = load(words)
    machine = Machine.choose(config)
    corpus = open_corpus(config, machine)
    print(f"{machine}; {corpus_title(corpus.meta)}, {config.tokens_per_iter:,} tokens a step", flush=True)
    if options.losses:
        compare_losses(config, corpus, machine)
    elif options.profile:
        profile(config, corpus, machine, options.out)
    elif options.jobs:
        rows = runs_at_once(config, words, options.jobs)
        write_part_by_part(options.out / "jobs.json", about(config, corpus, machine), "jobs", rows)
        print_tables(options.out)
    else:
        measure(config, words, corpus, machine, options.out)
    return 0


def read_options(argv):
    """(the bench's own options, the words that are config.load's)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--losses", action="store_true")
    instead.add_argument("--profile", action="store_true")
    instead.add_argument("--jobs", type=counts)
    try:
        return parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; python -m bench --help shows how it is used") from None


def counts(text):
    """The numbers in --jobs=1,2,4."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UserError(f"--jobs={text} is not a list of numbers from 1 on, such as 1,2,4,8")
    return [int(number) for number in text.split(",")]


def about(config, corpus, machine):
    """What was measured, and on what."""
    model = new_model(config, corpus, machine)
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.record(),
        "versions": versions(),
        "config": dataclasses.asdict(config),
        "corpus": corpus_title(corpus.meta),
        "parameters": model.parameter_count(),
        "flops_per_token": model.flops_per_token(),
        "tokens_per_step": config.tokens_per_iter,
    }


def measure(config, words, corpus, machine, out):
    """Measure part by part; after each, bench.json has it, so that what is cut short is not lost."""
    record = about(config, corpus, machine)
    loops = {name: kind(config, corpus, machine) for name, kind in LOOPS.items()}
    ours, plain = loops["ours"], loops["plain"]
    quiet = {"quiet": OurLoop(without_noise(config), corpus, machine)} if config.noisy else {}
    parts = {
        "loops": lambda: measure_loops(loops | quiet, machine, out),
        "evaluation": lambda: measure_evaluation(ours, plain, machine),
        "checkpoint": lambda: measure_checkpoint(ours, out),
        "sampling": lambda: measure_sampling(ours.model, machine),
        "started": lambda: {name: started(name, words) for name in loops},
    }
    for name, part in parts.items():
        began = time.perf_counter()
        record[name] = part()
        write_json(out / "bench.json", record)
        print(f"{name}: measured in {time.perf_counter() - began:.0f} s", flush=True)
    rows = measure_ingredients(config, corpus, machine, out)
    write_part_by_part(out / "bench.json", record, "ingredients", rows)
    write_part_by_part(out / "bench.json", record, "operators", measure_operators(config, machine))
    print_tables(out)


def write_part_by_part(path, record, name, rows):
    """Write a record with more and more rows under a name, as they are measured."""
    record[name] = []
    for row in rows:
        record[name].append(row)
        write_json(path, record)


def measure_loops(loops, machine, out):
    """A step of each loop. Ours log meanwhile, since the plain loop fetches its loss as often."""
    ours = [loop for name, loop in loops.items() if name != "plain"]
    with run_folder(out) as folder:
        for loop in ours:
            loop.folder = folder
        seconds = steps_in_turns(loops, machine)
    for loop in ours:
        loop.folder = None
    return {name: {"dtype": loop.machine.dtype, "seconds": seconds[name]} for name, loop in loops.items()}


def profile(config, corpus, machine, out):
    """Print what takes longest in five steps of each loop, by PyTorch's profiler; ours leave a trace too."""
    column = "self_cuda_time_total" if machine.kind == "cuda" else "self_cpu_time_total"
    for name, kind in LOOPS.items():
        loop = kind(config, corpus, machine)
        repeated(loop.train_step, 3)()
        with torch.profiler.profile() as profiler:
            clock(repeated(loop.train_step, 5), machine)
        print(f"\nfive steps of the {NAMES[name]}")
        print(profiler.key_averages().table(sort_by=column, row_limit=TOP, max_name_column_width=40))
    out.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(out / ".trace.json"))
    os.replace(out / ".trace.json", out / "trace.json")
    print(f"written: {out / 'trace.json'}")


def compare_losses(config, corpus, machine):
    """Train both loops with each of a few seeds, in turns, and print mean ± sd over seeds of their losses."""
    if config.noisy:
        print("the plain loop has no noise: with this configuration the losses are not to be compared")
    names = ("train loss, last tenth of the iterations", "val loss at the end")
    losses = {name: {loop: [] for loop in LOOPS} for name in names}
    for seed in range(config.seed, config.seed + SEEDS):
        seeded = dataclasses.replace(config, seed=seed, data_seed=seed)
        loops = {name: kind(seeded, corpus, machine) for name, kind in LOOPS.items()}
        steps = [[loop.train_step() for loop in loops.values()] for _ in range(config.max_iters)]
        last = torch.tensor(steps[-max(1, config.max_iters // 10) :]).mean(0)
        for (name, loop), train_loss in zip(loops.items(), last.tolist()):
            val_loss = mean_loss(loop.model, corpus.windows("val", config.block_size))
            for kind, loss in zip(names, (train_loss, val_loss)):
                losses[kind][name].append(loss)
    for kind, of_loops in losses.items():
        means = [f"{NAMES[name]} {mean(seeds):.4f} ± {stdev(seeds):.4f}" for name, seeds in of_loops.items()]
        print(f"{kind}: {', '.join(means)} ({SEEDS} seeds)")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that nothing is left behind
    run_script(main)
