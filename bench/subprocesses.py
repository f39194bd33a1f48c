"""What is measured in processes of their own: peak memory, compilation, and several runs that train at once.

python -m bench.subprocesses LOOP CONFIG_FILES... begins a loop, says READY, takes steps for the seconds that it
reads from its input, and prints what that took, as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import torch

from bench.our_loop import OurLoop
from bench.plain_loop import PlainLoop
from config import ROOT, UserError, cores, load
from training.lifecycle import open_corpus
from training.machine import Machine

LOOPS = {"plain": PlainLoop, "ours": OurLoop}
READY = "ready\n"
SLICE = 5  # seconds that are measured of runs at once


def started(name, words):
    """Peak memory of a loop, and how long its compilation takes with nothing cached."""
    with tempfile.TemporaryDirectory() as cache:
        (found,) = at_once(name, words, TORCHINDUCTOR_CACHE_DIR=cache)
    return {name: found[name] for name in ("peak_memory_bytes", "compile_seconds")}


def runs_at_once(config, words, numbers):
    """A row a number of runs that train at once, which share the CPU as sweep.py's do: {jobs, steps_per_second
    of each}."""
    for jobs in numbers:
        own = [] if config.threads else [f"--threads={max(1, cores() // jobs)}"]
        rates = [found["steps_per_second"] for found in at_once("ours", [*words, *own], jobs, SLICE)]
        yield {"jobs": jobs, "steps_per_second": rates}


def at_once(name, words, jobs=1, seconds=0, **environment):
    """What `begin` finds in each of so many new processes, whose measured steps begin together."""
    command = [sys.executable, "-P", "-m", "bench.subprocesses", name, *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(jobs)]
    try:
        for process in processes:
            read_until(READY, process, name)
        for process in processes:
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
        return [json.loads(read_until("{", process, name)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def read_until(start, process, name):
    """The line that begins so; UserError with the last one where it does not come."""
    last = "it said nothing"
    for line in process.stdout:
        if line.startswith(start):
            return line
        last = line.strip() or last
    raise UserError(f"a process of its own for the {name} loop failed: {last}")


def begin(name, words):
    """Begin a loop in this process and take steps, three before it is READY; returns what that took."""
    config = load(words)
    machine = Machine.choose(config)
    loop = LOOPS[name](config, open_corpus(config, machine), machine)
    loop.train_step()
    if machine.kind == "cuda":  # what trying kernels took while compiling is not the steps'
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        loop.train_step()
    machine.synchronize()
    print(READY, end="", flush=True)
    seconds, steps, began = float(input()), 0, time.perf_counter()
    while not steps or time.perf_counter() - began < seconds:
        loop.train_step()
        steps += 1
    machine.synchronize()
    return {
        "steps_per_second": steps / (time.perf_counter() - began),
        "peak_memory_bytes": machine.peak_memory(),
        "compile_seconds": loop.compile_seconds() if name == "ours" else None,
    }


if __name__ == "__main__":
    print(json.dumps(begin(sys.argv[1], sys.argv[2:])))
