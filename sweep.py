"""Train the missing runs of a study, several at a time.

    python sweep.py config/study/table1_shakespeare.py [overlay.py ...] [--key=value ...] [options]

    --jobs=K             processes at once (1), which share the CPU's threads, and the cards if
                         CUDA_VISIBLE_DEVICES lists several
    --time-budget=S      stop after S seconds, each run at a checkpoint; the same command continues
    --seeds=1-8          in place of the study's own
    --arms=a,b           only these arms, and what they are compared with
    --dry-run            show the arms, the seeds, what exists and what is left
    --list               print a complete command line for every missing run

Runs lie in out/<study>/<overlays>/<arm>/seed<n>. Finished ones are left alone, interrupted ones continue. A run
that fails does not stop the others; its output is beside its folder. Several sweeps may work on one study.

Exit status: 0 all runs are done, 1 a run failed, 2 a mistake in the command, 4 time is up and runs are
missing, 128 + n stopped by signal n.
"""

import argparse
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from config import ROOT, UserError, cores, run_script, source_wanted
from config.study import parse_seeds, read_study
from data.files import lock, read_json, write_json
from training.run_folder import RunFolder, parse_event
from training.terminal import Signals

FAILED, TIME_IS_UP = 1, 4  # exit status
STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)  # exit status of a run that was asked to, at work or not yet
POLL = 0.2  # seconds between looks at the processes


def main(argv):
    arguments, options = read_arguments(argv)
    file, *overlays = arguments.files
    seeds = parse_seeds(arguments.seeds) if arguments.seeds else None
    study = read_study(file, overlays, options, seeds, arguments.arms and arguments.arms.split(","))
    check_folders(study.runs)
    if not arguments.dry_run:
        study.folder.mkdir(parents=True, exist_ok=True)
        write_json(study.folder / "study.json", study.record())
    if arguments.list:
        for run in study.runs:
            if not result_of(run):
                print(command_of(run))
        return 0
    describe(study, arguments.jobs)
    if arguments.dry_run:
        return 0
    sweep = Sweep(study, arguments.jobs, arguments.time_budget)
    sweep.run()
    return sweep.report()


def read_arguments(argv):
    """(the options of sweep.py, the --key=value words that are for the runs)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--time-budget", type=float, default=math.inf)
    parser.add_argument("--seeds")
    parser.add_argument("--arms")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--list", action="store_true")
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        raise SystemExit(0)
    try:
        arguments, rest = parser.parse_known_intermixed_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; python sweep.py --help shows how it is used") from None
    if not arguments.files:
        raise UserError("which study? python sweep.py config/study/table1_shakespeare.py config/cpu.py")
    if arguments.jobs < 1 or arguments.time_budget <= 0:
        raise UserError("--jobs and --time-budget are numbers above 0")
    return arguments, rest


def check_folders(runs):
    """UserError, before any work, where a folder holds a run of another config, or where that which a run is to
    start from is neither there nor among the runs."""
    planned = {run.folder.resolve() for run in runs}
    for source in {run.config.init_from for run in runs if not run.folder.exists()} - {None}:
        place = Path(source).expanduser().resolve()
        if not place.is_dir() and place not in planned:
            raise UserError(f"the runs start from {source}, which is not there yet: {source_wanted(source)}")
    for run in runs:
        if (run.folder / "config.json").is_file():
            RunFolder(run.folder).check_config(run.config)


def result_of(run):
    return read_json(run.folder / "result.json")


def command_of(run):
    return shlex.join(["python", "train.py", *run.words])


def reached(run):
    """The last iteration in a run's log, 0 without one; only the log's end is read."""
    try:
        with open(run.folder / "log.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().split(b"\n")
    except OSError:
        return 0
    events = [parse_event(line) for line in lines]
    return max((event["iter"] for event in events if event), default=0)


def is_free(run):
    """Whether no process, of this sweep or another, trains into a run's folder."""
    if not run.folder.is_dir():
        return True
    held = lock(run.folder / "lock")
    if held:
        held.close()
    return held is not None


def describe(study, jobs):
    """The arms, the seeds, what exists and what is left."""
    arms, seeds = (list(dict.fromkeys(getattr(run, name) for run in study.runs)) for name in ("arm", "seed"))
    print(f"{study.title} ({study.name}, {study.size}): {len(arms)} arms, seeds {', '.join(map(str, seeds))}")
    width = max(map(len, arms))
    for arm in arms:
        states = [state_of(run) for run in study.runs if run.arm == arm]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        print(f"  {arm:<{width}}  {counts}")
    left = sum(result_of(run) is None for run in study.runs)
    print(
        f"{left} of {len(study.runs)} runs are left, in {study.folder}; {time_left(study.runs, jobs)}",
        flush=True,
    )


def state_of(run):
    if result := result_of(run):
        return result["status"]
    if not is_free(run):
        return "running"
    return "interrupted" if (run.folder / "config.json").is_file() else "missing"


def time_left(runs, jobs):
    """How long the missing runs take, by the seconds an iteration of those that ended took."""
    results = [result for run in runs if (result := result_of(run)) and result["iterations"]]
    if not results:
        return "how long they take is known when one has ended"
    pace = sum(result["seconds"] for result in results) / sum(result["iterations"] for result in results)
    iterations = sum(run.config.max_iters - reached(run) for run in runs if not result_of(run))
    return f"about {iterations * pace / jobs / 60:,.0f} minutes, {jobs} at a time"


class Sweep:
    """The processes that train a study's missing runs, and what became of them."""

    def __init__(self, study, jobs, budget):
        self.study, self.jobs = study, jobs
        self.deadline = time.monotonic() + budget
        self.waiting = list(study.runs)
        self.running = {}  # run's folder -> (run, process)
        self.told = set()  # the folders of the runs that were asked to stop
        self.failed = []  # (run, the last line of its output)
        self.signal = None

    def run(self):
        with Signals("stopping each run at its next step") as signals, self.bar() as bar:
            try:
                while self.waiting or self.running:
                    self.signal = signals.caught
                    if self.stopping:
                        self.stop()
                    self.collect()
                    self.start()
                    self.show(bar)
                    time.sleep(POLL)
            finally:
                for _, process in self.running.values():
                    process.kill()

    def stop(self):
        """Ask each run to stop at its next step; once, since a second time would mean at once."""
        self.waiting.clear()
        for folder, (_, process) in self.running.items():
            if folder not in self.told:
                self.told.add(folder)
                process.terminate()

    @property
    def stopping(self):
        return self.signal or time.monotonic() > self.deadline

    def bar(self):
        form = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
        total = sum(run.config.max_iters for run in self.study.runs)
        initial = sum(self.share(run) for run in self.study.runs)
        terminal = sys.stderr.isatty()
        return tqdm(total=total, initial=initial, bar_format=form, disable=not terminal, leave=False)

    def share(self, run):
        """The iterations of a run that need not be done any more."""
        return run.config.max_iters if result_of(run) else reached(run)

    def start(self):
        """Start the first of the waiting runs that are free, as many as there are places."""
        for run in list(self.waiting):
            if len(self.running) >= self.jobs:
                return
            if result_of(run):  # of an earlier sweep, or of another one
                self.waiting.remove(run)
            elif is_free(run):
                self.waiting.remove(run)
                self.running[run.folder] = (run, start(run, self.jobs, self.free_card()))

    def free_card(self):
        """The card of those in CUDA_VISIBLE_DEVICES that fewest of the running processes have; None of one."""
        cards = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        taken = [process.card for _, process in self.running.values()]
        return min(cards, key=taken.count) if len(cards) > 1 else None

    def collect(self):
        """Take note of the processes that have ended."""
        for folder, (run, process) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[folder]
            if result := result_of(run):
                say(f"{run}: {outcome(result)}")
            elif not is_free(run):  # another sweep was first
                self.waiting += [] if self.stopping else [run]
            elif not (self.stopping and process.returncode in STOPPED):
                self.failed.append((run, last_line(output_of(run))))
                say(f"{run}: failed with exit status {process.returncode}")

    def show(self, bar):
        if bar.disable:
            return
        now = ", ".join(f"{run} {reached(run) / run.config.max_iters:.0%}" for run, _ in self.running.values())
        ended = sum(result_of(run) is not None for run in self.study.runs)
        bar.n = sum(self.share(run) for run in self.study.runs)
        bar.set_postfix_str(f"{ended}/{len(self.study.runs)} runs; {now}")

    def report(self):
        """Say how it ended; returns the exit status."""
        results = [result_of(run) for run in self.study.runs]
        left = results.count(None)
        diverged = sum(bool(result) and result["status"] == "diverged" for result in results)
        print(f"{len(results) - left} of {len(results)} runs are done, {diverged} of them diverged")
        for run, error in self.failed:
            print(f"{run} failed: {error} ({output_of(run)})", file=sys.stderr)
        if self.signal:
            return 128 + self.signal
        if self.failed:
            return FAILED
        return TIME_IS_UP if left else 0


def say(line):
    tqdm.write(line)
    sys.stdout.flush()


def start(run, jobs, card=None):
    """A process that trains one run; in a session of its own, so that a Ctrl-C is ours to pass on."""
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": card} if card else {})
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    words = [] if run.config.threads else [f"--threads={max(1, cores() // jobs)}"]
    with open(output_of(run), "a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *run.words, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    process.card = card
    return process


def output_of(run):
    return run.folder.parent / f"{run.folder.name}.txt"


def last_line(path):
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def outcome(result):
    if result["status"] == "diverged":
        return f"diverged at iteration {result['diverged_at']:,}"
    best, final = result["best_val_loss"], result["final_val_loss"]
    return f"best val loss {best:.4f}, final {final:.4f}, {result['seconds']:.0f} s"


if __name__ == "__main__":
    run_script(main)
