"""The process that trains one run of a study, for sweep.py. No torch."""

import os
import subprocess
import sys

from config import ROOT, cores
from training.terminal import SWEEP

TRAIN = [sys.executable, str(ROOT / "train.py")]


def start(run, jobs, card=None):
    """A process that trains one run, as long as this one is there; in a session of its own, so that a Ctrl-C is
    ours to pass on."""
    environment = os.environ | {SWEEP: str(os.getpid())} | ({"CUDA_VISIBLE_DEVICES": card} if card else {})
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    words = [] if run.config.threads else [f"--threads={max(1, cores() // jobs)}"]
    with open(output_of(run), "a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*program(run), *run.words, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    process.card = card
    return process


def program(run):
    """The command of a run's program; a module's finds it in PYTHONPATH."""
    return TRAIN if run.config.program == "train" else [sys.executable, "-P", *run.config.command.split()]


def output_of(run):
    return run.folder.parent / f"{run.folder.name}.txt"


def last_line(path):
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
