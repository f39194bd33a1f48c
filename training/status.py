"""Where the runs of a study stand, as their folders tell it: result, iterations, state, time left. No torch.

`run` is a config.study.PlannedRun: its folder may not be there yet.
"""

import contextlib
import os
import time

from config import UserError, source_wanted, user_path
from data.files import lock
from training.run_files import parse_event, read_about, read_config, read_result
from training.run_folder import RunFolder

TAIL = 4096  # bytes at the end of a log that hold its last event
SETTLED = 2  # seconds of progress before the time left is told by them


def result_of(run):
    """What result.json says of a run that has ended, finished or diverged; None before, and of a damaged
    one."""
    with contextlib.suppress(UserError):
        return read_result(run.folder)


def damage(run):
    """What is wrong with a run's folder, in a line; None where nothing is."""
    try:
        read_result(run.folder)
        read_config(run.folder)
        read_about(run.folder)
    except UserError as error:
        return str(error)


def outcome(result):
    """A result in one line."""
    if result["status"] == "diverged":
        return f"diverged at iteration {result['diverged_at']:,}"
    best, final = result["best_val_loss"], result["final_val_loss"]
    final = "not finite" if final is None else f"{final:.4f}"
    score = f", val score {result['final_val_score']:.4f}" if "final_val_score" in result else ""
    return f"best val loss {best:.4f}, final {final}{score}, {result['seconds']:.0f} s"


def damaged(runs):
    """[(run, what is wrong)] of those whose folder is damaged."""
    return [(run, error) for run in runs if (error := damage(run))]


def reached(run):
    """The last iteration in a run's log, 0 without one; only the log's end is read."""
    try:
        with open(run.folder / "log.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return 0
    steps = [event["iter"] for event in map(parse_event, lines) if event]
    return max((step for step in steps if step <= run.config.max_iters), default=0)


def done(run):
    """The iterations of a run that need not be done any more."""
    return run.config.max_iters if result_of(run) else reached(run)


def is_free(run):
    """Whether no process trains into a run's folder."""
    if not (run.folder / "lock").is_file():
        return True
    try:
        held = lock(run.folder / "lock")
    except OSError:  # of a disk that may only be read
        return True
    if held:
        held.release()
    return held is not None


def state_of(run):
    """finished, diverged, damaged, running, interrupted or missing."""
    if damage(run):
        return "damaged"
    if result := result_of(run):
        return result["status"]
    if not is_free(run):
        return "running"
    return "interrupted" if (run.folder / "config.json").is_file() else "missing"


class Pace:
    """How long some runs still take, `jobs` at a time: by how fast they advance while this is asked, and before
    that is known by the pace of those that have ended."""

    def __init__(self, runs, jobs):
        self.runs, self.jobs = runs, jobs
        self.total = sum(run.config.max_iters for run in runs)
        self.at_first = self.done()
        self.began = None  # (when an advance was first seen, the iterations done then)

    def done(self):
        return sum(map(done, self.runs))

    def seconds_left(self):
        """None before anything is known."""
        now, so_far = time.monotonic(), self.done()
        if self.began is None and so_far > self.at_first:
            self.began = now, so_far
        since, before = self.began or (now, so_far)
        if so_far > before and now - since > SETTLED:
            return (self.total - so_far) * (now - since) / (so_far - before)
        results = [result for run in self.runs if (result := result_of(run)) and result["iterations"]]
        if not results:
            return None
        pace = sum(result["seconds"] for result in results) / sum(result["iterations"] for result in results)
        return (self.total - so_far) * pace / self.jobs


def check_runs(runs):
    """UserError, before any work, where a folder holds a run of another config, if only in its length, or where
    that which a run is to start from is neither there nor an earlier one of the runs. A damaged folder is no
    reason."""
    earlier = set()
    for run in runs:
        source = run.config.init_from
        if source and not run.folder.exists():
            place = user_path(source).resolve()
            if not place.is_dir() and place not in earlier:
                wanted = source_wanted(source)
                raise UserError(f"the runs start from {source}, which is not there yet: {wanted}")
        earlier.add(run.folder.resolve())
        if not damage(run) and (run.folder / "config.json").is_file():
            advice = f"delete or rename {run.folder}, or give the study another name"
            RunFolder(run.folder).check_config(run.config, advice)
            if (every := read_config(run.folder).eval_interval) != run.config.eval_interval:
                raise UserError(
                    f"{run.folder} has an evaluation every {every} iterations, and the lowest of many is not"
                    f" that of a few: give --eval_interval={every}, or {advice}"
                )
