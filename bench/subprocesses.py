"""Processes of their own: with a time limit, and what is measured in them: peak memory, compilation, and
several runs that train at once.

python -m bench.subprocesses LOOP CONFIG_FILES... begins a loop, says READY, takes steps for the seconds that it
reads from its input, and prints what that took, as JSON.
"""

import contextlib
import json
import os
import signal
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


@contextlib.contextmanager
def opened(words, **environment):
    """A Python command that finds our code; at the end it is killed, and all in its session."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | environment
    process = subprocess.Popen(
        [sys.executable, "-P", *words], env=environment, start_new_session=True, text=True, errors="replace",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        kill(process)


def kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


def ended(words, seconds):
    """(exit status, None where it took longer; the lines that it said until then) of a Python command."""
    if seconds <= 0:
        return None, ["no time was left for it"]
    with opened(words) as process:
        try:
            said = process.communicate(timeout=seconds)[0]
            return process.returncode, said.strip().splitlines() or ["it said nothing"]
        except subprocess.TimeoutExpired as late:
            said = (late.output or b"").decode(errors="replace")
            return None, [*said.strip().splitlines(), f"it took longer than its {seconds:.0f} seconds"]


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
    with contextlib.ExitStack() as stack:
        command = ["-m", "bench.subprocesses", name, *words]
        processes = [stack.enter_context(opened(command, **environment)) for _ in range(jobs)]
        for process in processes:
            read_until(READY, process, name)
        for process in processes:
            with contextlib.suppress(BrokenPipeError):  # of one that has ended: its last line is read below
                os.write(process.stdin.fileno(), f"{seconds}\n".encode())
        return [json.loads(read_until("{", process, name)) for process in processes]


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
