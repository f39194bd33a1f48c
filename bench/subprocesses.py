"""What is measured in processes of their own: peak memory, compilation, and several runs that train at once.

python -m bench.subprocesses LOOP CONFIG_FILES... begins a loop and prints what that took, as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import harmonic_mean

import torch

import sweep
from bench.our_loop import LENGTH, OurLoop
from bench.plain_loop import PlainLoop
from config import ROOT, UserError, load
from config.study import PlannedRun
from training.lifecycle import open_corpus
from training.machine import Machine
from training.run_folder import read_log

LOOPS = {"plain": PlainLoop, "ours": OurLoop}
SLICE = 5  # seconds at least that are measured of runs at once, which train already


def started(name, words):
    """Peak memory of a loop, and how long its compilation takes: with nothing cached, and once more."""
    with tempfile.TemporaryDirectory() as cache:
        cold = start(name, words, cache)
        kept = start(name, words, cache) if cold["compile_seconds"] is not None else cold
    return {
        "peak_memory_bytes": cold["peak_memory_bytes"],
        "compile_cold_seconds": cold["compile_seconds"],
        "compile_kept_seconds": kept["compile_seconds"],
    }


def start(name, words, cache):
    """What `begin` finds in a new process; UserError with its last line where it fails."""
    process = subprocess.run(
        [sys.executable, "-P", "-m", "bench.subprocesses", name, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": cache},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if process.returncode:
        said = process.stderr.strip().splitlines() or ["it said nothing"]
        raise UserError(f"a process of its own for the {name} loop failed: {said[-1]}")
    return json.loads(process.stdout.splitlines()[-1])


def begin(name, words):
    """Begin a loop in this process and take three steps; returns what that took."""
    config = load(words)
    machine = Machine.choose(config)
    loop = LOOPS[name](config, open_corpus(config, machine), machine)
    loop.train_step()
    if machine.kind == "cuda":  # what trying kernels took while compiling is not the steps'
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        loop.train_step()
    peak = machine.peak_memory()
    compiling = loop.compile_seconds() if name == "ours" else None
    return {"compile_seconds": compiling, "peak_memory_bytes": peak}


def runs_at_once(config, words, numbers):
    """A row a number of runs that train at once: {jobs, steps_per_second of each}."""
    for jobs in numbers:
        with tempfile.TemporaryDirectory() as folder:
            runs = [endless(config, words, Path(folder), seed) for seed in range(1, jobs + 1)]
            yield {"jobs": jobs, "steps_per_second": rates(runs)}
        print(f"{jobs} at once: measured", flush=True)


def endless(config, words, folder, seed):
    """A run like that of the configuration, which goes on until it is stopped and evaluates once."""
    options = {name: getattr(config, name) for name in ("lr_decay_iters", "noise_steps", "min_lr")}
    options |= dict.fromkeys(("max_iters", "eval_interval", "checkpoint_interval"), LENGTH)
    options |= {"eval_tokens": 1, "eval_train_tokens": 1, "sample_tokens": 0, "plot": False}
    options |= {"seed": seed, "out_dir": folder / f"seed{seed}"}
    kept = [word for word in words if not word.startswith(tuple(f"--{name}=" for name in options))]
    own = [*kept, *(f"--{name}={value}" for name, value in options.items())]
    return PlannedRun("run", seed, own, load(own))


def rates(runs):
    """Steps a second of each of some runs that train at once, over SLICE seconds and one log line at least."""
    processes = [sweep.start(run, len(runs)) for run in runs]
    try:
        begun = wait_for(runs, processes, [2 * run.config.log_interval for run in runs])
        time.sleep(SLICE)
        wait_for(runs, processes, [steps + 1 for steps in begun])
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [rate(run, first) for run, first in zip(runs, begun)]


def wait_for(runs, processes, wanted):
    """The iteration that each run has logged, once it is the wanted one; UserError where one has ended."""
    while True:
        steps = [sweep.reached(run) for run in runs]
        if all(step >= want for step, want in zip(steps, wanted)):
            return steps
        for run, process in zip(runs, processes):
            if process.poll() is not None:
                raise UserError(f"a run of {len(runs)} ended: {sweep.last_line(sweep.output_of(run))}")
        time.sleep(sweep.POLL)


def rate(run, first):
    """Steps a second of a run after a logged iteration, by its log, whose lines are of equally many steps."""
    events = [event for event in read_log(run.folder)[0] if event["kind"] == "train" and event["iter"] > first]
    return harmonic_mean(event["tokens_per_second"] for event in events) / run.config.tokens_per_iter


if __name__ == "__main__":
    print(json.dumps(begin(sys.argv[1], sys.argv[2:])))
