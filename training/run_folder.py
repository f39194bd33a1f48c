"""The folder of the run that this process trains: its lock, what is written there, and what may go on in it.

All is written atomically. training/run_files.py tells what the files are, and reads them.
"""

import contextlib
import json
import math
import os
import shlex
import sys
import zlib

from config import WITHOUT_STEPS, UserError, identity, unlike, user_path
from data.files import (
    files_like,
    lock,
    make_folder,
    naming,
    remove,
    replacing,
    sealed,
    sync_folder,
    temporaries,
    write_json,
)
from data.meta import same_corpus
from training.run_files import (
    CHECKPOINTS,
    EVENT_FILES,
    OWN_FILES,
    is_run,
    load_checkpoint,
    log_lines,
    parse_event,
    read_about,
    read_config,
    read_log,
    read_result,
)

ADVICE = "choose another --out_dir, or begin afresh with --overwrite=True"
LENGTHS = {"max_iters", "warmup_iters", "lr_decay_iters", "noise_steps"}  # max_iters, and what follows from it


class RunFolder:
    """The folder of the run that this process trains, locked within a with-statement.

    UserError where another process trains into it, or it holds anything and no run; then it is not touched.
    writes: False for those processes of one run that only read from its folder, and hold no lock.
    """

    def __init__(self, path, writes=True):
        self.path, self.writes = user_path(path), writes
        self._lock = self._log = None
        self.mirrors = []  # training.mirrors: what else the log's events are fed to

    def __enter__(self):
        if not self.writes:
            return self
        self.check_ours()
        try:
            make_folder(self.path)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{self.path} is a file, or lies in one: choose another --out_dir") from None
        self._lock = lock(self.path / "lock", seconds=1)  # one who only looks holds it for a moment
        if self._lock is None:
            raise UserError(
                f"another process is training into {self.path}: wait for it, or choose another --out_dir"
            )
        for half_written in temporaries(self.path, OWN_FILES):
            half_written.unlink()
        return self

    def __exit__(self, *_):
        if self._log:
            with contextlib.suppress(OSError):  # of a line that could not be written, which was said then
                self._log.close()
        try:
            for mirror in self.mirrors:
                close(mirror)
        finally:
            if self._lock:
                self._lock.release()

    def check_ours(self):
        """UserError where the folder holds anything, and neither a run nor what is left of one."""
        if not self.path.is_dir() or is_run(self.path):
            return
        ours = {"lock", *(path.name for path in temporaries(self.path, OWN_FILES))}
        if (self.path / "lock").exists():  # what a run left that was to be overwritten
            ours |= {"figures", "tensorboard", "wandb"}
        if others := sorted(path.name for path in self.path.iterdir() if path.name not in ours):
            held = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            raise UserError(f"{self.path} holds {held}, and no run: choose a new or an empty --out_dir")

    def write(self, name, value):
        """Write a JSON file of the folder. result.json has the CRC-32 of the log too, and ends previous.pt."""
        self.sync_log()
        ended = name == "result.json"
        crc = {"log_crc32": zlib.crc32(b"".join(log_lines(self.path)))} if ended else {}
        write_json(self.path / name, sealed(finite({**value, **crc})))
        if ended:
            remove(self.path, ["previous.pt"])

    def prepare(self, config, corpus_meta):
        """Make ready for a run of this config; returns True to resume the one that is here, False to begin.

        A run of another config or another corpus is refused with what differs; config.overwrite removes it, and
        one that has done no step is removed too. One that differs in being shorter alone is made longer.
        """
        if config.overwrite:
            self.clear()
        there, about = read_config(self.path), read_about(self.path)
        left = [name for name in (*CHECKPOINTS, "best.pt", "result.json") if (self.path / name).exists()]
        if there is None and not left:
            return False
        if there is None or about is None:
            held = ", ".join(left) or "config.json"
            raise UserError(f"{self.path} holds {held} without both config.json and run.json; {ADVICE}")
        if self.changed(config) and self.is_idle():
            print(f"{self.path}: a run of another config that did no step is here no more", flush=True)
            self.clear()
            return False
        longer = only_longer(self.changed(config), config)
        if not longer:
            self.check_config(config)
        if not same_corpus(about["corpus"], corpus_meta):
            raise UserError(f"{self.path} holds a run on other data of the same name; {ADVICE}")
        if longer and (read_result(self.path) or {}).get("status") != "diverged":
            if self.load_last()[0] is None:
                raise UserError(f"{self.path} has no checkpoint to go on from: its last.pt is gone")
            self.lengthen(config)
        return True

    def clear(self):
        remove(self.path, [*OWN_FILES, *files_like(self.path, EVENT_FILES)])

    def is_idle(self):
        """Whether the run has done no step that it could go on from, for want of memory say."""
        if any((self.path / name).exists() for name in (*CHECKPOINTS, "result.json")):
            return False
        best = self.load("best.pt") or {"iter": 0}
        return best["iter"] == 0 and all(event["iter"] == 0 for event in read_log(self.path)[0])

    def changed(self, config):
        """{option: (its value in the folder's config.json, here)} of those that make it another experiment."""
        return unlike(identity(config), identity(read_config(self.path)))

    def check_config(self, config, advice=None):
        """UserError where the folder's config.json is another experiment's that has begun; it names what
        differs."""
        if (changed := self.changed(config)) and not self.is_idle():
            keys = ", ".join(f"{name} ({old!r} there, {new!r} here)" for name, (old, new) in changed.items())
            advice = advice or further(changed, config, self.path) or ADVICE
            if changed.keys() == {"activation"}:  # of a run from before there was the option
                was = changed["activation"][0]
                advice = f"to go on with it, with other dropout masks on a CPU, add --activation={was}"
            raise UserError(f"{self.path} holds a run of another config: {keys}; {advice}")

    def lengthen(self, config):
        """Give the run the length of a config, and take away how it ended; run.json tells of it."""
        there, about = read_config(self.path), read_about(self.path)
        end, interval = there.max_iters, config.eval_interval
        if end % interval and (self.load("best.pt") or {}).get("iter") == end:
            raise UserError(
                f"{self.path} has its best weights at its end, iteration {end:,}, where a longer run is not"
                f" evaluated: add --eval_interval={math.gcd(end, interval)}"
            )
        step = {"from": end, "to": config.max_iters}
        earlier = [each for each in about.get("lengthened", []) if each != step]  # of a kill just after this
        remove(self.path, ["result.json", "sharpness.json"])
        self.write("run.json", {**about, "lengthened": [*earlier, step]})
        length = {"max_iters": config.max_iters, "noise_steps": config.noise_steps}
        self.write("config.json", vars(there) | length)
        print(f"{self.path}: to be trained further, from {step['from']:,} iterations to {step['to']:,}")

    def append(self, event):
        """Write one event to the log; it has left this process when this returns."""
        path = self.path / "log.jsonl"
        try:
            if self._log is None:
                self._log = open(path, "a", encoding="utf-8", newline="\n")
            self._log.write(json.dumps(finite(event), allow_nan=False) + "\n")
            self._log.flush()
        except OSError as error:
            raise naming(path, error) from None
        for mirror in [*self.mirrors]:
            try:
                mirror.feed(event)
            except Exception as error:  # of another's package: the log goes on without it
                self.mirrors.remove(mirror)
                print(f"{type(mirror).__name__} is left out from here on: {error}", file=sys.stderr, flush=True)
                close(mirror)

    def sync_log(self):
        try:
            if self._log:
                os.fsync(self._log.fileno())
        except OSError as error:
            raise naming(self.path / "log.jsonl", error) from None

    def cut_log(self, step, before=None):
        """Drop what a resume at `step` will write again: events from `step` on, and damaged lines.

        before: the CRC-32 of each line that there was when the checkpoint of this step was written; None where
        that is not known. Returns, in words, what is lost of them; None for nothing.
        """
        lines = [line for line in log_lines(self.path) if (event := parse_event(line)) and event["iter"] < step]
        kept = lines if before is None else in_order(lines, before)
        with replacing(self.path / "log.jsonl") as file:
            file.writelines(kept)
        lost, strange = len(kept if before is None else before) - len(kept), len(lines) - len(kept)
        if lost or strange:
            return f"log.jsonl has lost {lost} of {len(before)} lines, and {strange} not its own are left out"
        return None

    def save(self, name, state):
        """Save a checkpoint, a nest of dicts, lists, tensors and plain values. last.pt becomes previous.pt."""
        import torch

        self.sync_log()
        keep = self.path / "previous.pt" if name == "last.pt" else None
        with replacing(self.path / name, keep=keep) as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # of its archive, in the place of the one that it met when writing
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def save_last(self, state):
        """Save what a resume needs as last.pt, with the CRC-32 of each line that the resume will keep."""
        lines = log_lines(self.path)
        while lines and (event := parse_event(lines[-1])) and event["iter"] >= state["step"]:
            lines.pop()  # the evaluation of this step
        self.save("last.pt", {**state, "log": [zlib.crc32(line) for line in lines]})

    def load(self, name):
        return load_checkpoint(self.path / name)

    def load_last(self):
        """(last.pt's state, None); where it is damaged or lost, that of previous.pt, and why, in words. The
        state is None where there is neither; UserError where neither is whole."""
        last, previous = (self.path / name for name in CHECKPOINTS)
        try:
            if (state := load_checkpoint(last)) or not previous.exists():
                return state, None
            why = f"{last} is lost"
        except UserError as error:
            if not previous.exists():
                raise
            why = str(error).partition(":")[0]
        return load_checkpoint(previous), why

    def take_previous(self):
        """Put previous.pt in the place of a damaged last.pt."""
        last, previous = (self.path / name for name in CHECKPOINTS)
        os.replace(previous, last)
        sync_folder(self.path)


def only_longer(changed, config):
    """Whether the steps so far are those of a longer run: where its length is all that changed, and changes no
    schedule."""
    old, new = changed.get("max_iters", (0, 0))
    follows = config.program == "classify"  # whose learning rate falls to 0 at max_iters
    return old < new and not follows and changed.keys() - unused(config) == {"max_iters"}


def unused(config):
    """The options that follow from max_iters and that this run's schedules do not have."""
    return {"noise_steps"} if config.noise_schedule in WITHOUT_STEPS else set()


def further(changed, config, path):
    """How a run is trained further where being longer changes its schedules, in words; None of another run."""
    old, new = changed.get("max_iters", (0, 0))
    if config.program != "train" or old >= new or not changed.keys() <= LENGTHS:
        return None
    others = changed.keys() - {"max_iters"} - unused(config)
    keep = " ".join(f"--{name}={changed[name][0]}" for name in changed if name in others)
    return (
        f"to train it further with its own schedules add {keep}, and with new ones start from its best weights,"
        f" by --init_from={shlex.quote(str(path))} and another --out_dir"
    )


def close(mirror):
    """A failure of another package's is said, and ends no run."""
    try:
        mirror.close()
    except Exception as error:
        print(f"{type(mirror).__name__} was not closed: {error}", file=sys.stderr, flush=True)


def in_order(lines, crcs):
    """Those of the lines that have these CRC-32s, each once and in their order."""
    places, last, kept = {crc: place for place, crc in enumerate(crcs)}, -1, []
    for line in lines:
        if (place := places.get(zlib.crc32(line), -1)) > last:
            kept.append(line)
            last = place
    return kept


def finite(value):
    """JSON has no NaN and no infinity: they become null, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
