"""What a training step costs: train.py's against a plain loop, and what each ingredient adds to it.

    python bench.py [config files] [--key=value] [--out=DIR]
    python bench.py config/shakespeare_noise.py config/cpu.py

Everything is measured in turns within one process, warmed up and synchronised, so that what else the machine
does meets all alike: a step of the plain loop (plain.py says what it is) and of train.py as the configuration
has it; a step with and without each kind of noise, dropout, augmentation, clipping, logging and diagnosis;
evaluations, checkpoints and samples. In processes of their own: peak memory, and compilation with an empty
cache and with the one that it left. The tables are printed, and DIR (out/bench) gets bench.json, the seconds of
every turn, from which plot.py draws them.

    --losses       instead: whether the two loops train alike, max_iters iterations with each of three seeds
    --profile      instead: the operations of train.py's step that take longest, and a trace by PyTorch's
                   profiler, DIR/trace.json for chrome://tracing
    --jobs=1,2,4   instead: runs an hour by how many train at once, as sweep.py starts them; DIR/jobs.json
"""

import contextlib
import dataclasses
import gc
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch

import sweep
import train
import training
from config import ROOT, UserError, load, run_script, settle
from costs import NAMES, plain_text, tables_of
from evaluate import mean_loss
from files import write_json
from machine import Machine, versions
from model import GPT
from plain import EVAL_BATCHES, PlainLoop, sample_plainly
from progress import Signals
from runs import RunFolder, corpus_title, read_log
from study import PlannedRun
from tables import Table

TURNS = 7  # of steps, after one that warms up
LONG_TURNS = 3  # of what takes long: evaluations, samples
TURN = 0.15  # seconds that a turn of steps is to take
MOST_STEPS = 50  # a turn
LENGTH = 100_000  # iterations, more than are measured of any run
SEEDS = 3  # that --losses trains
TOP = 12  # operations that --profile prints
SLICE = 15  # seconds at most that --jobs measures, of runs that train already


def main(argv):
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        return 0
    options, words = read_options(argv)
    config = load(words)
    machine = Machine.choose(config)
    corpus = train.open_corpus(config, machine)
    out = Path(options.get("out", "out/bench"))
    print(f"{machine}; {corpus_title(corpus.meta)}, {config.tokens_per_iter:,} tokens a step", flush=True)
    if "losses" in options:
        compare_losses(config, corpus, machine)
    elif "profile" in options:
        profile(config, corpus, machine, out)
    elif "jobs" in options:
        together = {"jobs": runs_at_once(config, words, machine, counts(options["jobs"]))}
        write_json(out / "jobs.json", about(config, corpus, machine) | together)
        print(plain_text(tables_of(out)[-1]))
    else:
        measure(config, words, corpus, machine, out)
    return 0


def read_options(argv):
    """({bench.py's own options: their values}, the words that are config.load's)."""
    options, words = {}, []
    for word in argv:
        match = re.fullmatch(r"--(?:(losses|profile)|(out|jobs)=(.+))", word)
        if match:
            options[match[1] or match[2]] = match[3]
        else:
            words.append(word)
    if len({"losses", "profile", "jobs"} & set(options)) > 1:
        raise UserError("--losses, --profile and --jobs are measurements of their own: one at a time")
    if "jobs" in options:
        counts(options["jobs"])
    return options, words


def counts(text):
    """The numbers in --jobs=1,2,4."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UserError(f"--jobs={text} is not a list of numbers from 1 on, such as 1,2,4,8")
    return [int(number) for number in text.split(",")]


def about(config, corpus, machine):
    """What was measured, and on what."""
    model = GPT.empty(training.model_config(config, corpus))
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
    parts = {
        "loops": lambda: measure_loops(loops, machine),
        "evaluation": lambda: measure_evaluation(loops, machine),
        "checkpoint": lambda: measure_checkpoint(loops["ours"], out),
        "sampling": lambda: measure_sampling(loops["ours"], machine),
        "started": lambda: {name: started(name, words, machine) for name in loops},
        "ingredients": lambda: measure_ingredients(config, corpus, machine, out),
    }
    for name, part in parts.items():
        began = time.perf_counter()
        record[name] = part()
        write_json(out / "bench.json", record)
        print(f"{name}: measured in {time.perf_counter() - began:.0f} s", flush=True)
    print()
    for table in tables_of(out):
        print(plain_text(table))


# The loops and their turns.


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
            self.rehearsed = clock(lambda: train.rehearse(t), machine)

    def train_step(self):
        t = self.training
        training.train_step(t)
        if self.folder and (t.step - 1) % t.config.log_interval == 0:
            train.log(t, self.folder)
        return t.trace[t.step - 1, 0]


LOOPS = {"plain": PlainLoop, "ours": OurLoop}


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


def steps_in_turns(loops, machine):
    """{name: the seconds a step of each turn} of loops; each takes as many steps a turn as fill TURN seconds,
    MOST_STEPS and a twentieth of its run at most."""
    counts = {}
    for name, loop in loops.items():
        loop.train_step()
        second = clock(loop.train_step, machine)
        counts[name] = max(1, min(int(TURN / second), MOST_STEPS, loop.config.max_iters // 20))
    works = {name: steps(loop, counts[name]) for name, loop in loops.items()}
    seconds = in_turns(works, TURNS, machine)
    return {name: [second / counts[name] for second in seconds[name]] for name in loops}


def steps(loop, count):
    def work():
        for _ in range(count):
            loop.train_step()

    return work


def measure_loops(loops, machine):
    seconds = steps_in_turns(loops, machine)
    return {name: {"dtype": loop.machine.dtype, "seconds": seconds[name]} for name, loop in loops.items()}


# What each ingredient adds.

QUIET = {  # a step without noise, augmentation and diagnosis
    **{"noise_sigma": 0.0, "noise_eta": 0.0, "noise_schedule": "exponential", "noise_draw": "gaussian"},
    **{"noise_scale": "absolute", "noise_where": "all", "noise_point": "gradient"},
    **{"noise_before_clip": False, "noise_anticorrelated": False, "reset_below_sigma": 0.0},
    **{"input_noise": 0.0, "diagnose_interval": 0, "init_from": None},
}
NOISE = {
    "noise_sigma": 1e-4,
    "noise_gamma": 0.9999,
}  # so little that no weight goes astray; the cost is the same


def ingredients(config):
    """[(name, the knobs of a step with it, those of the step without it, every how many steps it comes)].

    The knobs are beside those of QUIET and of the configuration.
    """
    rate = config.dropout or 0.2
    noises = {
        "noise: gaussian, exponential": {},
        "noise: gaussian, inverse": {"noise_schedule": "inverse", "noise_sigma": 0.0, "noise_eta": 1e-8},
        "noise: gaussian, under its floor": {"noise_gamma": 0.0},
        **{f"noise: {draw}": {"noise_draw": draw} for draw in ("uniform", "laplace")},
        **{f"noise: scale {scale}": {"noise_scale": scale} for scale in ("global", "tensor")},
        "noise: anticorrelated": {"noise_anticorrelated": True},
        **{
            f"noise: {point.replace('_', ' ')}": {"noise_point": point}
            for point in ("first_moment", "second_moment", "second_moment_mean", "weights", "learning_rate")
        },
    }
    log, look, rare = config.log_interval, config.diagnose_interval or 100, 10**9  # rare: none that is timed
    return [
        *((name, NOISE | knobs, {}, 1) for name, knobs in noises.items()),
        (f"dropout {rate:g}", {"dropout": rate}, {"dropout": 0.0}, 1),
        ("augmentation", {"input_noise": 0.1}, {}, 1),
        ("clipping", {"grad_clip": config.grad_clip or 1.0}, {"grad_clip": 0.0}, 1),
        (f"logging, every {log} steps", {"log_interval": 1}, {}, log),
        ("diagnosis: its moments", {"diagnose_interval": rare}, {}, 1),
        (f"diagnosis: measured, every {look} steps", {"diagnose_interval": 1}, {}, look),
    ]


def measure_ingredients(config, corpus, machine, out):
    """A row an ingredient that this configuration can have: the seconds of a step with it, and without."""

    def loop(knobs, folder=None):
        return OurLoop(settle(dataclasses.asdict(config) | QUIET | knobs), corpus, machine, folder)

    rows, plain = [], loop({})
    with run_folder(out) as folder:
        for name, knobs, others, every in ingredients(config):
            try:
                measured = loop(knobs, folder if "log_interval" in knobs else None)
            except UserError:  # SGD has no second moment, a batch of one no halves
                continue
            pair = {"with": measured, "without": loop(others) if others else plain}
            row = {"name": name, "knobs": knobs, "others": others, "every": every}
            rows.append(row | steps_in_turns(pair, machine))
            del measured, pair
            gc.collect()
    return rows


@contextlib.contextmanager
def run_folder(out):
    """A run folder for a while, on the disk that `out` is on."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix="measuring") as path, RunFolder(path) as folder:
        yield folder


# What is done now and then.


def measure_evaluation(loops, machine):
    """Evaluations as train.py has them, and of random batches as the plain loop has them: as many as have about
    as many tokens, and wanted_batches is how many such scripts take."""
    t, plain = loops["ours"].training, loops["plain"]
    windows = t.corpus.windows("val", t.config.block_size, t.config.eval_tokens)
    tokens = sum(y.numel() for _, y in windows)
    batches = max(1, min(EVAL_BATCHES, tokens // (t.config.batch_size * t.config.block_size)))
    works = {
        "exact": lambda: training.val_loss(t),
        "train": lambda: training.train_loss(t),
        "random": lambda: plain.evaluate("val", batches, narrow=False),
    }
    if plain.machine.dtype != "float32":
        works["plain"] = lambda: plain.evaluate("val", batches)
    seconds = in_turns(works, LONG_TURNS, machine)
    sizes = {"exact_tokens": tokens, "val_tokens": len(t.corpus.tokens["val"]) - 1}
    numbers = {"random_batches": batches, "wanted_batches": EVAL_BATCHES}
    return sizes | numbers | {f"{name}_seconds": seconds[name] for name in works}


def measure_checkpoint(loop, out):
    t = loop.training
    with run_folder(out) as folder:
        works = {
            "seconds": lambda: train.checkpoint(t, folder),
            "best_seconds": lambda: folder.save("best.pt", {"model": t.model.weights(), **t.best}),
        }
        seconds = in_turns(works, TURNS, t.machine)
        sizes = [(folder.path / name).stat().st_size for name in ("last.pt", "best.pt")]
    return seconds | dict(zip(("bytes", "best_bytes"), sizes))


def measure_sampling(loop, machine):
    """One text, from one token to a full context, in float32."""
    model = GPT.from_weights(loop.model.weights(), machine.device).eval()
    size = model.config.block_size

    def sample(draw):
        idx = torch.zeros((1, 1), dtype=torch.int64, device=machine.device)
        draw(model, idx, size, [torch.Generator().manual_seed(0)])

    works = {"cached": lambda: sample(GPT.generate), "plain": lambda: sample(sample_plainly)}
    seconds = in_turns(works, LONG_TURNS, machine)
    return {"tokens": size} | {f"{name}_seconds": seconds[name] for name in works}


# What is measured in processes of their own.


def started(name, words, machine):
    """Peak memory of a loop, and how long its compilation takes: with nothing cached, and once more."""
    with tempfile.TemporaryDirectory() as cache:
        cold = start(name, words, cache)
        kept = start(name, words, cache) if cold["compile_seconds"] is not None else cold
    seconds = {
        f"compile_{label}_seconds": found["compile_seconds"]
        for label, found in (("cold", cold), ("kept", kept))
    }
    return {"peak_memory_bytes": cold["peak_memory_bytes"], **seconds}


def start(name, words, cache):
    """What `begin` finds in a new process; UserError with its last line where it fails."""
    code = "import sys, bench; bench.begin(sys.argv[1], sys.argv[2:])"
    process = subprocess.run(
        [sys.executable, "-P", "-c", code, name, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": cache},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if process.returncode:
        said = process.stderr.strip().splitlines() or ["it said nothing"]
        raise UserError(f"a process of its own for the {name} loop failed: {said[-1]}")
    return json.loads(process.stdout.splitlines()[-1])


def begin(name, words):
    """Begin a loop in this process, take three steps and an evaluation, and print what that took, as JSON."""
    config = load(words)
    machine = Machine.choose(config)
    corpus = train.open_corpus(config, machine)
    loop = LOOPS[name](config, corpus, machine)
    for _ in range(3):
        loop.train_step()
    mean_loss(loop.model, itertools.islice(corpus.windows("val", config.block_size), 1))
    found = {"compile_seconds": None, "peak_memory_bytes": machine.peak_memory()}
    if loop.model.compiled:
        found["compile_seconds"] = loop.rehearsed - 2 * clock(
            lambda: training.accumulate(loop.training), machine
        )
    print(json.dumps(found))


def runs_at_once(config, words, machine, numbers):
    """[{jobs, steps_per_second of each of them}]: runs that train at once, by equal slices of each."""
    rows = []
    for jobs in numbers:
        with tempfile.TemporaryDirectory() as folder:
            runs = [endless(config, words, Path(folder), seed) for seed in range(1, jobs + 1)]
            rows.append({"jobs": jobs, "steps_per_second": rates(runs)})
        print(f"{jobs} at once: measured", flush=True)
    return rows


def endless(config, words, folder, seed):
    """A run like that of the configuration, which goes on until it is stopped and evaluates once."""
    rare, place = LENGTH, folder / f"seed{seed}"
    knobs = {"seed": seed, "out_dir": place, "max_iters": rare, "lr_decay_iters": config.lr_decay_iters}
    knobs |= {"noise_steps": config.noise_steps, "eval_interval": rare, "checkpoint_interval": rare}
    knobs |= {
        "min_lr": config.min_lr,
        "eval_tokens": 1,
        "eval_train_tokens": 1,
        "sample_tokens": 0,
        "plot": False,
    }
    kept = [word for word in words if not word.startswith(tuple(f"--{name}=" for name in knobs))]
    own = [*kept, *(f"--{name}={value}" for name, value in knobs.items())]
    return PlannedRun("run", seed, own, load(own))


def rates(runs):
    """Steps a second of each of some runs that train at once, each over an equal slice of its iterations."""
    config = runs[0].config
    slice_of = max(2 * config.log_interval, config.lr_decay_iters // 20)
    with Signals("stopping") as signals:
        processes = [sweep.start(run, len(runs)) for run in runs]
        try:
            begun = wait_for(runs, processes, signals, 2 * config.log_interval)
            done = wait_for(runs, processes, signals, slice_of, begun, time.monotonic() + SLICE)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    return [rate(run, *span) for run, span in zip(runs, zip(begun, done))]


def wait_for(runs, processes, signals, count, since=None, until=math.inf):
    """The iteration that each run has logged once all have logged `count` more than `since`, their start if it
    is None; or at the time `until`, once each has logged some more. UserError where one has ended."""
    since = since or [0] * len(runs)
    while True:
        now = [sweep.reached(run) for run in runs]
        least = min(b - a for a, b in zip(since, now))
        if least >= count or (least and time.monotonic() > until):
            return now
        if signals.caught:
            raise SystemExit(128 + signals.caught)
        for run, process in zip(runs, processes):
            if process.poll() is not None:
                raise UserError(f"a run of {len(runs)} ended: {sweep.last_line(sweep.output_of(run))}")
        time.sleep(sweep.POLL)


def rate(run, first, last):
    """Steps a second of a run between two logged iterations, by its log."""
    seconds, at = 0.0, first
    for event in read_log(run.folder)[0]:
        if event["kind"] == "train" and first < event["iter"] <= last:
            seconds += (event["iter"] - at) * run.config.tokens_per_iter / event["tokens_per_second"]
            at = event["iter"]
    return (last - first) / seconds


# In place of the tables.


def profile(config, corpus, machine, out):
    """Write a trace of five of train.py's steps, and print what takes longest: kernels on a card, operators
    elsewhere, each without those that it calls."""
    from torch.profiler import ProfilerActivity

    loop, count = OurLoop(config, corpus, machine), 5
    steps(loop, 3)()
    card = machine.kind == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if card else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        clock(steps(loop, count), machine)
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / ".trace.json"
    profiler.export_chrome_trace(str(unfinished))
    os.replace(unfinished, out / "trace.json")
    print(plain_text(top_operations(profiler.key_averages(), count, card)))
    print(f"written: {out / 'trace.json'}")


def top_operations(events, count, card):
    """The operations that take longest, of a profile of `count` steps."""
    wanted = "CUDA" if card else "CPU"
    own = [
        (event.self_device_time_total if card else event.self_cpu_time_total, event)
        for event in events
        if event.device_type.name == wanted and not getattr(event, "is_user_annotation", False)
    ]
    total = sum(microseconds for microseconds, _ in own)
    own.sort(key=lambda pair: -pair[0])
    rows = [
        [event.key[:70], f"{us / count / 1e3:.3f}", f"{event.count / count:.1f}", f"{100 * us / total:.1f}"]
        for us, event in own[:TOP]
    ]
    where = "kernels on the card" if card else "operators on the CPU"
    columns = ["", "ms a step", "calls a step", "%"]
    return Table(f"The {where} that take longest, of {total / count / 1e3:.1f} ms a step", columns, rows, [])


def compare_losses(config, corpus, machine):
    """Train both loops with each of a few seeds, in turns, and print how their losses differ."""
    ends = np.linspace(0, config.max_iters, min(10, config.max_iters) + 1).astype(int)
    losses = {name: [] for name in LOOPS}  # a list a seed: mean loss of each turn, then the val loss
    if config.noisy:
        print("the plain loop has no noise: with this configuration the losses are not to be compared")
    for seed in range(config.seed, config.seed + SEEDS):
        seeded = dataclasses.replace(config, seed=seed, data_seed=seed)
        loops = {name: kind(seeded, corpus, machine) for name, kind in LOOPS.items()}
        curves = {name: [] for name in loops}
        for count in np.diff(ends):
            for name, loop in loops.items():
                curves[name].append(mean([float(loop.train_step()) for _ in range(count)]))
        for name, loop in loops.items():
            val = mean_loss(loop.model, corpus.windows("val", config.block_size))
            losses[name].append([*curves[name], val])
    print(plain_text(loss_table(losses, ends)))


def loss_table(losses, ends):
    names = [f"mean loss to iteration {end:,}" for end in ends[1:]] + ["val loss at the end"]
    rows = []
    for row, name in enumerate(names):
        values = [[curve[row] for curve in curves] for curves in losses.values()]
        rows.append([name, *(f"{mean(seeds):.4f} ± {stdev(seeds):.4f}" for seeds in values)])
    return Table(f"Mean ± sd over {SEEDS} seeds", ["", *(NAMES[name] for name in losses)], rows, [])


if __name__ == "__main__":
    run_script(main)
