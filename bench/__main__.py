"""What a training step costs: train.py's against a plain loop, and what each ingredient adds to it.

    python -m bench [config files] [--key=value] [--out=DIR]

In one process, in turns, since other load on the machine then affects all alike: a step of the plain loop
(plain_loop.py) and of train.py with and without noise; evaluations, checkpoints and samples; a step with and
without kinds of noise, dropout, clipping, logging and diagnosis. In processes of their own: peak memory and
compilation. The tables are printed; DIR (out/bench) gets bench.json, the seconds of every turn, for plot.py.

    --losses=8     instead: whether the two loops train alike, max_iters iterations with each of so many seeds
    --profile      instead: the operations in both loops' steps that take longest, by PyTorch's profiler, and
                   the trace of train.py's, DIR/trace.json for chrome://tracing
    --jobs=1,2,4   instead: runs per hour by how many train at once; DIR/jobs.json
"""

import dataclasses
import os
import re
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev

from config import Config, Parser, UserError, load, run_script, spin_less, user_path

if __name__ == "__main__":
    spin_less()  # as train.py, before torch is loaded

import pandas as pd
import torch.profiler

from analysis.statistics import difference
from bench.measure import (
    measure_checkpoint,
    measure_evaluation,
    measure_ingredients,
    measure_loops,
    measure_sampling,
    run_folder,
    without_noise,
)
from bench.our_loop import OurLoop
from bench.plain_loop import PlainLoop
from bench.report import NAMES, print_tables
from bench.subprocesses import LOOPS, runs_at_once, started
from bench.turns import clock
from data.files import make_folder, write_json
from training.evaluate import mean_loss
from training.lifecycle import open_corpus
from training.machine import Machine, versions
from training.run import new_model
from training.run_files import corpus_title

TOP = 12  # operations that --profile shows


def main(argv):
    options, words = read_options(argv)
    config = load(words)
    if options.losses:
        check_plain(config)
    machine = Machine.choose(config)
    corpus = open_corpus(config, machine)
    if not options.losses:
        make_folder(options.out)
    print(f"{machine}; {corpus_title(corpus.meta)}, {config.tokens_per_iter:,} tokens a step", flush=True)
    if options.losses:
        compare_losses(config, corpus, machine, options.losses)
    elif options.profile:
        profile(config, corpus, machine, options.out)
    else:
        record = {
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine.record(),
            "versions": versions(),
            "config": dataclasses.asdict(config),
            "corpus": corpus_title(corpus.meta),
            "parameters": new_model(config, corpus, machine.device).parameter_count(),
            "tokens_per_step": config.tokens_per_iter,
        }
        if options.jobs:
            parts = {"jobs": lambda: runs_at_once(config, words, options.jobs)}
            write_parts(options.out / "jobs.json", record, parts)
        else:
            with run_folder(options.out) as folder:
                parts = parts_of(config, words, corpus, machine, folder)
                write_parts(options.out / "bench.json", record, parts)
        print_tables(options.out)
    return 0


def read_options(argv):
    """(the bench's own options, the words that are config.load's)."""
    parser = Parser(prog="python -m bench", add_help=False)
    parser.add_argument("--out", type=user_path, default=Path("out/bench"))
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--losses", type=seeds)
    instead.add_argument("--profile", action="store_true")
    instead.add_argument("--jobs", type=counts)
    return parser.parse_known_args(argv)


def seeds(text):
    """The number in --losses=8."""
    if not re.fullmatch(r"[2-9]|[1-9]\d{1,3}", text):
        raise UserError(f"--losses={text} is not a number of seeds, from 2 on")
    return int(text)


def counts(text):
    """The numbers in --jobs=1,2,4."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UserError(f"--jobs={text} is not a list of numbers from 1 on, such as 1,2,4,8")
    return [int(number) for number in text.split(",")]


def parts_of(config, words, corpus, machine, folder):
    """{name in bench.json: a function that measures it}. Our loops log into the run folder, since the plain one
    fetches its loss as often."""
    plain, ours = PlainLoop(config, corpus, machine), OurLoop(config, corpus, machine, folder)
    loops = {"plain": plain, "ours": ours}
    if config.noisy:
        loops["quiet"] = OurLoop(without_noise(config), corpus, machine, folder)
    return {
        "loops": lambda: measure_loops(loops, machine),
        "evaluation": lambda: measure_evaluation(ours, plain, machine),
        "checkpoint": lambda: measure_checkpoint(ours),
        "sampling": lambda: measure_sampling(ours.model, machine),
        "started": lambda: {name: started(name, words) for name in LOOPS},
        "ingredients": lambda: measure_ingredients(config, corpus, machine, folder),
    }


def write_parts(path, record, parts):
    """Measure part by part; after each, and each row of one, the record is written, so that none is lost."""
    for name, part in parts.items():
        record[name] = found = part()
        if isinstance(found, Iterator):
            record[name] = []
            for row in found:
                record[name].append(row)
                write_json(path, record)
        write_json(path, record)
        print(f"{name}: measured", flush=True)


def profile(config, corpus, machine, out):
    """Print what takes longest in five steps of each loop, by PyTorch's profiler; ours leave a trace too."""
    column = "self_cuda_time_total" if machine.kind == "cuda" else "self_cpu_time_total"
    for name, kind in LOOPS.items():
        loop = kind(config, corpus, machine)
        clock(loop.train_step, machine, 3)
        with torch.profiler.profile() as profiler:
            clock(loop.train_step, machine, 5)
        print(f"\nfive steps of the {NAMES[name]}")
        print(profiler.key_averages().table(sort_by=column, row_limit=TOP, max_name_column_width=40))
    out.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(out / ".trace.json"))
    os.replace(out / ".trace.json", out / "trace.json")
    print(f"written: {out / 'trace.json'}")


def check_plain(config):
    """UserError where the plain loop cannot train as a config says."""
    if config.noisy:
        raise UserError("--losses: the plain loop has no noise: use a config without it")
    for name in ("optimizer", "input_noise", "init_from"):
        if (value := getattr(config, name)) != getattr(Config, name):
            raise UserError(f"--losses: the plain loop cannot train with {name}={value!r}: leave it out")


def compare_losses(config, corpus, machine, seeds):
    """Train both loops with each of so many seeds, in turns; print mean ± sd over seeds of their losses, and
    ours minus the plain one's, paired by seed, with its 95 % interval."""
    losses = {"train loss, last tenth of the iterations": [], "val loss at the end": []}  # a row a seed
    for seed in range(config.seed, config.seed + seeds):
        seeded = dataclasses.replace(config, seed=seed, data_seed=seed)
        loops = [kind(seeded, corpus, machine) for kind in LOOPS.values()]
        steps = torch.tensor([[loop.train_step() for loop in loops] for _ in range(config.max_iters)])
        val = [mean_loss(loop.model, corpus.windows("val", config.block_size)) for loop in loops]
        for rows, row in zip(losses.values(), (steps[-max(1, config.max_iters // 10) :].mean(0).tolist(), val)):
            rows.append(row)
    for kind, rows in losses.items():
        columns = dict(zip(LOOPS, zip(*rows)))
        means = [f"{NAMES[name]} {mean(column):.4f} ± {stdev(column):.4f}" for name, column in columns.items()]
        ours, plain = (pd.Series(columns[name]) for name in ("ours", "plain"))
        found = difference(ours, plain)
        print(
            f"{kind}: {', '.join(means)} ({seeds} seeds);"
            f" difference {found['mean']:+.4f} ± {found['half_width']:.4f}, p = {found['p']:.3g}"
        )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that nothing is left behind
    run_script(main, __doc__)
