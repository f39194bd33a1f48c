"""A run folder: its files, its lock, its log, its checkpoints. It explains itself and is written atomically.

    config.json   every option                   run.json      machine, versions, corpus, seeds
    log.jsonl     one event per line             last.pt       everything that a resume needs
    best.pt       the best evaluation's weights  result.json   how the run ended; present only if it did
    start.pt      only with init_from: the weights that it gave, before NoisyTune
    sharpness.json   only if training.sharpness has measured it
    lock          held while a process trains

Readers need no torch; only the checkpoints import it.
"""

import hashlib
import json
import math
import os
from pathlib import Path

from config import UserError, identity, recorded
from data.files import lock, read_json, replacing, write_json
from data.meta import fault_in

ADVICE = "choose another --out_dir, or begin afresh with --overwrite=True"
OWN_FILES = (
    *("config.json", "run.json", "log.jsonl", "start.pt", "last.pt", "best.pt", "result.json"),
    "sharpness.json",
)


class RunFolder:
    """The folder of the run that this process trains, locked within a with-statement.

    UserError where another process trains into it. writes: False for those processes of one run that only
    read from its folder, and hold no lock.
    """

    def __init__(self, path, writes=True):
        self.path, self.writes = Path(path).expanduser(), writes
        self._lock = self._log = None

    def __enter__(self):
        if not self.writes:
            return self
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{self.path} is a file, or lies in one: choose another --out_dir") from None
        self._lock = lock(self.path / "lock")
        if self._lock is None:
            raise UserError(
                f"another process is training into {self.path}: wait for it, or choose another --out_dir"
            )
        for half_written in self.path.glob(".*.tmp"):  # by a process that was killed
            half_written.unlink()
        return self

    def __exit__(self, *_):
        if self._log:
            self._log.close()
        if self._lock:
            self._lock.release()

    def read(self, name):
        """The value in a JSON file of the folder, or None."""
        return read_json(self.path / name)

    def write(self, name, value):
        write_json(self.path / name, finite(value))

    def can_resume(self, config, corpus_meta):
        """Whether a run of this config continues here: True to resume, False to begin.

        A run of another config or another corpus is refused with what differs; config.overwrite removes it.
        """
        if config.overwrite:
            for name in OWN_FILES:  # config.json first: without it, what an interruption leaves is no run
                (self.path / name).unlink(missing_ok=True)
        there, about = self.read("config.json"), self.read("run.json")
        left = [name for name in ("last.pt", "best.pt", "result.json") if (self.path / name).exists()]
        if there is None and not left:
            return False
        if there is None or about is None:
            held = ", ".join(left) or "config.json"
            raise UserError(f"{self.path} holds {held} without both config.json and run.json; {ADVICE}")
        if not isinstance(about, dict) or not isinstance(about.get("corpus"), dict) or "machine" not in about:
            raise UserError(f"{self.path / 'run.json'} is damaged: restore it; or {ADVICE}")
        self.check_config(config)
        if about["corpus"].get("splits") != corpus_meta["splits"]:
            raise UserError(f"{self.path} holds a run on other data of the same name; {ADVICE}")
        return True

    def check_config(self, config):
        """UserError where the folder's config.json is another experiment's; it names what differs."""
        here, there = identity(config), identity(recorded(self.read("config.json")))
        changed = [name for name in here if here[name] != there[name]]
        if changed:
            keys = ", ".join(f"{name} ({there[name]!r} there, {here[name]!r} here)" for name in changed)
            raise UserError(f"{self.path} holds a run of another config: {keys}; {ADVICE}")

    def append(self, event):
        """Write one event to the log; it has left this process when this returns."""
        if self._log is None:
            self._log = open(self.path / "log.jsonl", "a", encoding="utf-8", newline="\n")
        self._log.write(json.dumps(finite(event), allow_nan=False) + "\n")
        self._log.flush()

    def cut_log(self, step):
        """Drop what a resume at `step` will write again: events from `step` on and a truncated last line."""
        events, _ = read_log(self.path)
        with replacing(self.path / "log.jsonl", "w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(event) + "\n" for event in events if event["iter"] < step)

    def save(self, name, state):
        """Save a checkpoint, a nest of dicts, lists, tensors and plain values."""
        import torch

        if self._log:
            os.fsync(self._log.fileno())
        with replacing(self.path / name) as file:
            torch.save(state, file)

    def load(self, name):
        return load_checkpoint(self.path / name)


def load_checkpoint(path):
    """The state in a checkpoint, on the CPU, or None where there is none. Tensors and plain values only.

    UserError where the file is damaged, or holds anything else.
    """
    return load_hashed(path)[0]


def load_hashed(path):
    """(what `load_checkpoint` gives, the SHA-256 of the very bytes that it was read from or None)."""
    import torch

    if not Path(path).is_file():
        return None, None
    with open(path, "rb") as file:  # once: a run in progress may replace the file
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        try:
            return torch.load(file, map_location="cpu", weights_only=True), digest
        except Exception as error:  # of a dozen types, as the damage has it
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                raise
            raise UserError(
                f"{path} is damaged or no checkpoint of this code:"
                " restore it, or begin afresh with --overwrite=True"
            ) from None


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
            " exported model"
        )
    meta = read_json(found[0])
    if found[0].name == "run.json":
        meta = meta.get("corpus") if isinstance(meta, dict) else None
    if wrong := fault_in(meta):
        raise UserError(f"{found[0]} is damaged, in its corpus's {wrong}: restore it")
    return meta


def corpus_title(meta):
    """The name of a corpus of this meta, and which part of it there is where it is not whole."""
    part = meta.get("partial")
    return meta["name"] + (f", the first {part['tokens']:,} {meta['unit']}s" if part else "")


def read_log(folder):
    """(events of log.jsonl, whether a line was truncated and is left out); no log is ([], False)."""
    path = Path(folder) / "log.jsonl"
    if not path.is_file():
        return [], False
    events = [parse_event(line) for line in path.read_bytes().split(b"\n") if line]
    whole = [event for event in events if event is not None]
    return whole, len(whole) < len(events)


def parse_event(line):
    """The event of a log line; None where it is truncated."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"kind", "iter"} <= event.keys() else None


def find_runs(folders):
    """The run folders at or below `folders`, sorted; UserError for a folder that does not exist."""
    found = set()
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"no such folder: {folder}")
        found.update(path.parent for path in folder.rglob("run.json"))
    return sorted(path for path in found if (path / "config.json").is_file())


def finite(value):
    """JSON has no NaN and no infinity: they become null, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
