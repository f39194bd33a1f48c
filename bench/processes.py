"""What bench.py measures in separate processes: how a loop starts, and several runs that train at once."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import sweep
import train
from bench.loops import LENGTH, LOOPS, clock
from config import ROOT, UserError, load
from config.study import PlannedRun
from training import step as training
from training.machine import Machine
from training.run_folder import read_log
from training.terminal import Signals

SLICE = 15  # seconds at most that are measured of runs at once, which train already


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
    code = "import sys, processes; processes.begin(sys.argv[1], sys.argv[2:])"
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
    """Begin a loop in this process, take three steps, and print what that took, as JSON."""
    config = load(words)
    machine = Machine.choose(config)
    corpus = train.open_corpus(config, machine)
    loop = LOOPS[name](config, corpus, machine)
    loop.train_step()
    if machine.kind == "cuda":  # what trying kernels took while compiling is not the steps'
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        loop.train_step()
    found = {"compile_seconds": None, "peak_memory_bytes": machine.peak_memory()}
    if loop.model.compiled:
        found["compile_seconds"] = loop.rehearsed - 2 * clock(
            lambda: training.accumulate(loop.training), machine
        )
    print(json.dumps(found))


def runs_at_once(config, words, numbers):
    """A row a number of runs that train at once: {jobs, steps_per_second of each}, by equal slices of each."""
    for jobs in numbers:
        with tempfile.TemporaryDirectory() as folder:
            runs = [endless(config, words, Path(folder), seed) for seed in range(1, jobs + 1)]
            yield {"jobs": jobs, "steps_per_second": rates(runs)}
        print(f"{jobs} at once: measured", flush=True)


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
