"""A run folder: its files, its lock, its log, its checkpoints. It explains itself and is written atomically.

    config.json   every option                   run.json      machine, versions, corpus, seeds
    log.jsonl     one event per line             last.pt       everything that a resume needs
    best.pt       the best evaluation's weights  result.json   how the run ended; present only if it did
    previous.pt   the last.pt before this one, until the run has ended
    start.pt      only with init_from: the weights that it gave, before NoisyTune
    sharpness.json   only if training.sharpness has measured it
    tensorboard/, wandb/   only with the options that feed the log to them (training/mirrors.py)
    lock          held while a process trains

What is read is verified: a JSON file by its shape and its crc32, a checkpoint by its archive's CRCs, the log by
those that the checkpoint and result.json have of it. Readers need no torch; only the checkpoints import it.
"""

import contextlib
import hashlib
import json
import math
import os
import shlex
import sys
import zipfile
import zlib
from pathlib import Path
from types import NoneType

from config import UserError, identity, recorded, user_path
from data.files import (
    NUMBER,
    files_like,
    is_file,
    lock,
    make_folder,
    misfit,
    naming,
    read_json,
    remove,
    replacing,
    say_if_large,
    sealed,
    sync_folder,
    temporaries,
    write_json,
)
from data.meta import fault_in, same_corpus

ADVICE = "choose another --out_dir, or begin afresh with --overwrite=True"
CHECKPOINTS = ("last.pt", "previous.pt")  # the newest first
OWN_FILES = (  # in the order in which they go: what an interruption leaves is no run, yet known as a run's
    *("config.json", "result.json", "sharpness.json", *CHECKPOINTS, "best.pt", "start.pt", "log.jsonl"),
    "run.json",
)
EVENT_FILES = "tensorboard/events.out.tfevents.*"  # of option tensorboard

LENGTHS = {"max_iters", "warmup_iters", "lr_decay_iters", "noise_steps"}  # max_iters, and what follows from it
OPTIONS = {"dataset?": str, "seed": int, "max_iters": int}  # of config.json; `recorded` checks all
MACHINE = {"device": str, "dtype": str, "threads": int, "name": (str, NoneType)}
ABOUT = {
    **{"machine": MACHINE, "corpus": dict, "parameters": int, "versions": dict},
    "resumed": [{"iter": int, "machine": MACHINE, "lost?": {str: str}}],
    "init_from?": (dict, NoneType),
}
RESULT = {
    **{"status": str, "best_val_loss": NUMBER, "best_iter": (int, NoneType)},
    **{"iterations": int, "tokens": int, "seconds": (int, float)},
}
LOSSES = dict.fromkeys(("final_train_loss", "minibatch_loss_last100", "final_val_loss"), NUMBER)
ENDED = {  # what result.json has beside, by its status
    "finished": {**LOSSES, "best_val_loss": (int, float)},
    "diverged": {"diverged_at": int},
}
MODEL = {"config": dict, "state": dict}
RESUMED = {"model": MODEL, "step": int, "seconds": (int, float), "optimizer": dict, "log?": [int]}
BEST = {"model": MODEL, "iter": int, "val_loss": float}
STATES = {"last.pt": RESUMED, "previous.pt": RESUMED, "best.pt": BEST}
EVENT = {"kind": str, "iter": int}  # and other numbers
EVENTS = {"eval": {"train_loss": NUMBER, "val_loss": NUMBER}, "train": {"loss": NUMBER}}  # by their kind


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
        self._lock = lock(self.path / "lock")
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
                mirror.close()
        finally:
            if self._lock:
                self._lock.release()

    def check_ours(self):
        """UserError where the folder holds anything, and neither a run nor what is left of one."""
        if not self.path.is_dir() or is_run(self.path):
            return
        ours = {"lock", *(path.name for path in temporaries(self.path, OWN_FILES))}
        if others := sorted(path.name for path in self.path.iterdir() if path.name not in ours):
            held = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            raise UserError(f"{self.path} holds {held}, and no run: choose a new or an empty --out_dir")

    def read(self, name):
        """The value in a JSON file of the folder, or None."""
        return READERS[name](self.path)

    def write(self, name, value):
        """Write a JSON file of the folder. result.json has the CRC-32 of the log too, and ends previous.pt."""
        self.sync_log()
        ended = name == "result.json"
        crc = {"log_crc32": zlib.crc32(b"".join(log_lines(self.path)))} if ended else {}
        write_json(self.path / name, sealed(finite({**value, **crc})))
        if ended:
            remove(self.path, ["previous.pt"])

    def can_resume(self, config, corpus_meta):
        """Whether a run of this config continues here: True to resume, False to begin.

        A run of another config or another corpus is refused with what differs; config.overwrite removes it. One
        that differs in being shorter alone is made longer.
        """
        if config.overwrite:
            remove(self.path, [*OWN_FILES, *files_like(self.path, EVENT_FILES)])
        there, about = self.read("config.json"), self.read("run.json")
        left = [name for name in (*CHECKPOINTS, "best.pt", "result.json") if (self.path / name).exists()]
        if there is None and not left:
            return False
        if there is None or about is None:
            held = ", ".join(left) or "config.json"
            raise UserError(f"{self.path} holds {held} without both config.json and run.json; {ADVICE}")
        longer = only_longer(self.changed(config), config)
        if not longer:
            self.check_config(config)
        if not same_corpus(about["corpus"], corpus_meta):
            raise UserError(f"{self.path} holds a run on other data of the same name; {ADVICE}")
        if longer and (self.read("result.json") or {}).get("status") != "diverged":
            if self.load_last()[0] is None:
                raise UserError(f"{self.path} has no checkpoint to go on from: its last.pt is gone")
            self.lengthen(config)
        return True

    def changed(self, config):
        """{option: (its value in the folder's config.json, here)} of those that make it another experiment."""
        here, there = identity(config), identity(self.read("config.json"))
        return {name: (there[name], here[name]) for name in here if here[name] != there[name]}

    def check_config(self, config, advice=None):
        """UserError where the folder's config.json is another experiment's; it names what differs."""
        if changed := self.changed(config):
            keys = ", ".join(f"{name} ({old!r} there, {new!r} here)" for name, (old, new) in changed.items())
            advice = advice or further(changed, config, self.path) or ADVICE
            if changed.keys() == {"activation"}:  # of a run from before there was the option
                was = changed["activation"][0]
                advice = f"to go on with it, with other dropout masks on a CPU, add --activation={was}"
            raise UserError(f"{self.path} holds a run of another config: {keys}; {advice}")

    def lengthen(self, config):
        """Give the run the length of a config, and take away how it ended; run.json tells of it."""
        there, about = self.read("config.json"), self.read("run.json")
        step = {"from": there.max_iters, "to": config.max_iters}
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
                with contextlib.suppress(Exception):
                    mirror.close()
                print(f"{type(mirror).__name__} is left out from here on: {error}", file=sys.stderr, flush=True)

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
    return set() if config.noise_schedule in ("linear", "cosine") else {"noise_steps"}


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


def in_order(lines, crcs):
    """Those of the lines that have these CRC-32s, each once and in their order."""
    places, last, kept = {crc: place for place, crc in enumerate(crcs)}, -1, []
    for line in lines:
        if (place := places.get(zlib.crc32(line), -1)) > last:
            kept.append(line)
            last = place
    return kept


def is_run(folder):
    """Whether a folder holds a run, or what is left of one: by either file that says so, however damaged the
    other is."""
    for name, mark in (("run.json", "machine"), ("config.json", "noise_sigma")):
        try:
            if mark in (read_json(folder / name) or {}):
                return True
        except (UserError, TypeError, OSError):
            continue
    return False


def read_config(folder):
    """The Config in a run's config.json, or None where there is none; UserError where it is damaged."""
    path = Path(folder) / "config.json"
    options = read_json(path, OPTIONS)
    return None if options is None else recorded(options, path)


def config_of(folder):
    """The Config of a run; UserError where its folder has none."""
    if config := read_config(folder):
        return config
    raise UserError(f"{folder} is no run folder: it lacks config.json{runs_beneath(folder)}")


def runs_beneath(folder, most=3):
    """The runs in a folder and as deep as a study has them, as a hint."""
    patterns = [deep * "*/" + "run.json" for deep in (1, 2, 3)]
    found = sorted(str(about.parent) for pattern in patterns for about in Path(folder).glob(pattern))
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f", but runs beneath it: {', '.join(found[:most])}{more}" if found else ""


def read_about(folder):
    """What a run's run.json holds, or None where there is none; UserError where it is damaged."""
    path = Path(folder) / "run.json"
    about = read_json(path, ABOUT)
    if about and (wrong := fault_in(about["corpus"])):
        raise UserError(f"{path} is damaged, in its corpus's {wrong}: restore it")
    return about


def read_result(folder):
    """What a run's result.json holds, or None while it has not ended; UserError where it is damaged."""
    path = Path(folder) / "result.json"
    result = read_json(path, RESULT)
    if result is None:
        return None
    if result["status"] not in ENDED:
        raise UserError(f"{path} is damaged: status is {result['status']!r}; restore it")
    if found := misfit(result, ENDED[result["status"]]):
        raise UserError(f"{path} is damaged: {found}; restore it")
    return result


READERS = {"config.json": read_config, "run.json": read_about, "result.json": read_result}


def load_checkpoint(path):
    """The state in a checkpoint, on the CPU, or None where there is none. Tensors and plain values only.

    UserError where the file is damaged, or holds anything else.
    """
    return load_hashed(path)[0]


def load_hashed(path):
    """(what `load_checkpoint` gives, the SHA-256 of the very bytes that it was read from or None)."""
    import torch

    path = Path(path)
    if not is_file(path):
        return None, None
    say_if_large([path])
    with open(path, "rb") as file:  # once: a run in progress may replace the file
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            if zipfile.ZipFile(file).testzip():
                raise ValueError("a CRC is another")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of a dozen types, as the damage has it
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                raise
            raise UserError(
                f"{path} is damaged or no checkpoint of this code:"
                " restore it, or begin afresh with --overwrite=True"
            ) from None
    if found := misfit(state, STATES.get(path.name, dict)):
        raise UserError(f"{path} is no checkpoint of this code: {found}; restore it")
    return state, digest


def best_checkpoint(folder):
    """(path, checkpoint) of a run's best weights, or of its last where there are no best; UserError where
    there are neither."""
    for name in ("best.pt", "last.pt"):
        path = Path(folder) / name
        if checkpoint := load_checkpoint(path):
            return path, checkpoint
    raise UserError(f"{folder} has no weights yet, neither best.pt nor last.pt: train it further")


def corpus_meta(folder):
    """The meta of the corpus of a run, from its run.json, or of an exported model, from its corpus.json;
    UserError where there is neither, or it is damaged."""
    found = [path for name in ("run.json", "corpus.json") if (path := Path(folder) / name).is_file()]
    if not found:
        raise UserError(
            f"{folder} is no run folder: it has no run.json that describes a corpus, nor the corpus.json of an"
            f" exported model{runs_beneath(folder)}"
        )
    if found[0].name == "run.json":
        meta = read_about(folder)["corpus"]
        if meta["unit"] == "text":
            raise UserError(f"{folder} is a run of training.classify, whose log.jsonl has all that it measured")
        return meta
    meta = read_json(found[0])
    if wrong := fault_in(meta):
        raise UserError(f"{found[0]} is damaged, in its corpus's {wrong}: restore it")
    return meta


def corpus_title(meta):
    """The name of a corpus of this meta, and which part of it there is where it is not whole."""
    part = meta.get("partial")
    return meta["name"] + (f", the first {part['tokens']:,} {meta['unit']}s" if part else "")


def log_lines(folder):
    """The lines of log.jsonl, as bytes with their ends; none where there is no log."""
    path = Path(folder) / "log.jsonl"
    return path.read_bytes().splitlines(keepends=True) if is_file(path) else []


def read_log(folder):
    """(events of log.jsonl, whether it is damaged; then damaged lines are left out); no log is ([], False)."""
    lines, result = log_lines(folder), read_result(folder)
    events = [event for event in map(parse_event, lines) if event]
    crc = (result or {}).get("log_crc32")
    return events, len(events) < len(lines) or crc not in (None, zlib.crc32(b"".join(lines)))


def parse_event(line):
    """The event of a log line; None where it is cut short or damaged."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if misfit(event, EVENT) or misfit(event, EVENTS.get(event["kind"], {})):
        return None
    return None if misfit({**event, "kind": 0}, {str: NUMBER}) else event


def find_runs(folders):
    """The run folders at or below `folders`, sorted; UserError for a folder that does not exist. One that
    may not be read is said and left out."""
    marks = {"config.json", "result.json", *CHECKPOINTS, "best.pt"}  # without any, a run has only just begun
    found = set()
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"no such folder: {folder}")
        for path, folders_in, files in os.walk(folder, onerror=leave_out):
            names = {*folders_in, *files}
            if names & {"run.json", "log.jsonl"} and names & marks:
                found.add(Path(path))
    return sorted(found)


def leave_out(error):
    """Say what is left out."""
    print(f"left out: {error}", file=sys.stderr)


def finite(value):
    """JSON has no NaN and no infinity: they become null, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
