"""Train the missing runs of a study, several at a time.

    python sweep.py config/study/table1_shakespeare.py [overlay.py ...] [--key=value ...] [options]

    --jobs=K             processes at once (1), which share the CPU's threads, and the cards if
                         CUDA_VISIBLE_DEVICES lists several
    --time-budget=S      stop after S seconds, each run at a checkpoint; the same command continues
    --seeds=1-8          in place of the study's own
    --arms=a,b           only these arms, and what they are compared with
    --plot               draw the study's figures when all its runs are done
    --dry-run            show the arms, the seeds, what exists and what is left
    --list               print a complete command line for every missing run

Runs lie in out/<study>/<overlays>/<arm>/seed<n>. Finished ones are left alone, interrupted ones continue. A run
that fails, or is left out since its folder is damaged, stops no other. Several sweeps may work on one study.

Exit status: 0 all runs are done, 1 a run failed, 2 a mistake in the command, 4 time is up and runs are
missing, 128 + n stopped by signal n.
"""

import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

from tqdm import tqdm

from config import OPTIONS, ROOT, Parser, UserError, counted, did_you_mean, run_script, user_path
from config.study import parse_seeds, read_study
from data.files import write_json
from training.status import Pace, check_runs, damaged, is_free, outcome, reached, result_of, state_of
from training.terminal import Signals, StatusLine
from training.worker import last_line, output_of, start

FAILED, TIME_IS_UP = 1, 4  # exit status
STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)  # exit status of a run that was asked to, at work or not yet
clock = tqdm.format_interval  # 12:34, or 3:12:34 from an hour on
POLL = 0.2  # seconds between looks at the processes
SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_LINES = 1, 30  # at how far the runs are: on a terminal, in a file


def main(argv):
    arguments, study = read_command(argv)
    check_runs(study.runs)
    if not arguments.dry_run:
        study.folder.mkdir(parents=True, exist_ok=True)
        write_json(study.folder / "study.json", study.record())
    if arguments.list:
        bad = damaged(study.runs)
        for run, error in bad:
            print(f"{run} is left out: {error}", file=sys.stderr)
        for run in study.runs:
            if not result_of(run) and not any(run is each for each, _ in bad):
                print(shlex.join(["python", *run.config.command.split(), *run.words]))
        return FAILED if bad else 0
    describe(study, arguments.jobs)
    if arguments.dry_run:
        return 0
    sweep = Sweep(study, arguments.jobs, arguments.time_budget)
    sweep.run()
    return sweep.report() or (draw(study) if arguments.plot else 0)


def read_command(argv):
    """(sweep.py's own options, the study); other --key=value words are for the runs."""
    parser = Parser(prog="python sweep.py", add_help=False)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--time-budget", type=float, default=math.inf)
    for name in ("seeds", "arms"):
        parser.add_argument(f"--{name}")
    for name in ("plot", "dry-run", "list"):
        parser.add_argument(f"--{name}", action="store_true")
    arguments, rest = parser.parse_known_intermixed_args(argv)
    options = [word for word in rest if word.startswith("-")]
    arguments.files += [word for word in rest if word not in options]  # argparse leaves those behind an option
    if not arguments.files:
        raise UserError("which study? python sweep.py config/study/quickstart.py --jobs=2 --plot")
    if not 1 <= arguments.jobs <= 1024 or not arguments.time_budget > 0:
        raise UserError("--jobs is a number from 1 to 1024, --time-budget one above 0")
    own = [name.replace("_", "-") for name in vars(arguments) if name != "files"]
    for word in options:
        name = word.lstrip("-").partition("=")[0]
        if name not in OPTIONS and (near := did_you_mean(name, own)):
            raise UserError(f"{word}: sweep.py has no such option{near}")
    file, *overlays = arguments.files
    seeds = None if arguments.seeds is None else parse_seeds(arguments.seeds)
    arms = None if arguments.arms is None else arguments.arms.split(",")
    return arguments, read_study(file, overlays, options, seeds, arms)


def describe(study, jobs):
    """The arms, the seeds, what exists and what is left."""
    arms, seeds = (list(dict.fromkeys(getattr(run, name) for run in study.runs)) for name in ("arm", "seed"))
    print(f"{study.title} ({study.label}): {counted(len(arms), 'arm')}, seeds {', '.join(map(str, seeds))}")
    width = max(map(len, arms))
    for arm in arms:
        states = [state_of(run) for run in study.runs if run.arm == arm]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        print(f"  {arm:<{width}}  {counts}")
    for run, error in damaged(study.runs):
        print(f"  {run} is left out: {error}")
    left, seconds = sum(result_of(run) is None for run in study.runs), Pace(study.runs, jobs).seconds_left()
    known = "" if seconds is None or not left else f"; about {clock(seconds)} left, {jobs} at a time"
    print(f"{left} of {len(study.runs)} runs are left, in {study.folder}{known}", flush=True)


class Sweep:
    """The processes that train a study's missing runs, and what became of them."""

    def __init__(self, study, jobs, budget):
        self.study, self.jobs = study, jobs
        self.deadline = time.monotonic() + budget
        self.failed = damaged(study.runs)  # (run, what was said last), of those that failed on the way too
        self.waiting = [run for run in study.runs if not any(run is bad for bad, _ in self.failed)]
        self.running = {}  # run's folder -> (run, process)
        self.told = set()  # the folders of the runs that were asked to stop
        self.signal = None
        self.pace = Pace(study.runs, jobs)
        self.line, self.shown = StatusLine(), time.monotonic()

    def run(self):
        with Signals("stopping each run at its next step") as signals, self.line:
            try:
                while self.waiting or self.running:
                    self.signal = signals.caught
                    if self.stopping:
                        self.stop()
                    self.collect()
                    self.start()
                    self.show()
                    time.sleep(POLL)
            finally:
                for _, process in self.running.values():
                    process.kill()

    @property
    def stopping(self):
        return self.signal or time.monotonic() > self.deadline

    def stop(self):
        """Ask each run to stop at its next step; once, since a second time would mean at once."""
        self.waiting.clear()
        for folder, (_, process) in self.running.items():
            if folder not in self.told:
                self.told.add(folder)
                process.terminate()

    def start(self):
        """Start the first of the waiting runs that are free, as many as there are places."""
        for run in list(self.waiting):
            if len(self.running) >= self.jobs:
                return
            if result_of(run):  # of an earlier sweep, or of another one
                self.waiting.remove(run)
            elif is_free(run) and not self.awaits(run):
                self.waiting.remove(run)
                self.running[run.folder] = (run, start(run, self.jobs, self.free_card()))

    def awaits(self, run):
        """Whether it is to start from a run of this study that has not ended yet."""
        ahead = {each.folder.resolve() for each in (*self.waiting, *(run for run, _ in self.running.values()))}
        return bool(run.config.init_from) and user_path(run.config.init_from).resolve() in ahead

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
                self.line.print_above(f"{run}: {outcome(result)}")
            elif not is_free(run):  # another sweep was first
                self.waiting += [] if self.stopping else [run]
            elif os.name == "nt" and folder in self.told:  # ended at once, with the exit status of a failure
                continue
            elif not (self.stopping and process.returncode in STOPPED):
                self.failed.append((run, f"{last_line(output_of(run))} ({output_of(run)})"))
                self.line.print_above(f"{run}: failed with exit status {process.returncode}")

    def show(self):
        """Which runs train, how far they are and how long it takes still."""
        plain = self.line.disable
        if time.monotonic() - self.shown > (SECONDS_BETWEEN_LINES if plain else SECONDS_BETWEEN_LOOKS):
            self.shown = time.monotonic()
            text = self.progress(shutil.get_terminal_size().columns - 1)
            (self.line.print_above if plain else self.line.set_description_str)(text)

    def progress(self, width):
        """For instance "42 %  2/6 runs  1:20 left  baseline/seed2 61 %  +1", in at most `width` characters."""
        ended = sum(result_of(run) is not None for run in self.study.runs)
        seconds = self.pace.seconds_left()
        text = f"{100 * self.pace.done() // self.pace.total} %  {ended}/{len(self.study.runs)} runs"
        text += "" if seconds is None else f"  {clock(seconds)} left"
        for number, (run, _) in enumerate(self.running.values()):
            far = 100 * reached(run) // run.config.max_iters
            part = f"  {run.arm}/seed{run.seed} {'starts' if far == 0 else f'{far} %' if far < 100 else 'ends'}"
            if len(text + part) + len("  +99") > width:
                return f"{text}  +{len(self.running) - number}"
            text += part
        return text

    def report(self):
        """Say how it ended; returns the exit status."""
        results = [result_of(run) for run in self.study.runs]
        left = results.count(None)
        diverged = sum(bool(result) and result["status"] == "diverged" for result in results)
        print(f"{len(results) - left} of {len(results)} runs are done, {diverged} of them diverged", flush=True)
        for run, error in self.failed:
            print(f"{run} failed: {error}", file=sys.stderr)
        if self.signal:
            return 128 + self.signal
        return FAILED if self.failed else TIME_IS_UP if left else 0


def draw(study):
    print(f"drawing {study.folder}", flush=True)
    drawn = subprocess.run([sys.executable, str(ROOT / "plot.py"), study.folder], check=False)
    return FAILED if drawn.returncode else 0


if __name__ == "__main__":
    run_script(main, __doc__)
