"""The files of a run folder, which explains itself, and how they are read.

    config.json   every option                   run.json      machine, versions, corpus, seeds
    log.jsonl     one event per line             last.pt       everything that a resume needs
    best.pt       the best evaluation's weights  result.json   how the run ended; present only if it did
    previous.pt   the last.pt before this one, until the run has ended
    start.pt      only with init_from: the weights that it gave, before NoisyTune
    sharpness.json   only if training.sharpness has measured it
    tensorboard/, wandb/   only with the options that feed the log to them (training/mirrors.py)
    lock          held while a process trains (training/run_folder.py)

What is read is verified: a JSON file by its shape and its crc32, a checkpoint by its archive's CRCs, the log by
those that the checkpoint and result.json have of it. Readers need no torch; only the checkpoints import it.
"""

import hashlib
import json
import os
import sys
import zipfile
import zlib
from pathlib import Path
from types import NoneType

from config import UserError, recorded
from data.files import NUMBER, is_file, misfit, read_json, say_if_large
from data.meta import fault_in

CHECKPOINTS = ("last.pt", "previous.pt")  # the newest first
OWN_FILES = (  # in the order in which they go: what an interruption leaves is no run, yet known as a run's
    *("config.json", "result.json", "sharpness.json", *CHECKPOINTS, "best.pt", "start.pt", "log.jsonl"),
    "run.json",
)
EVENT_FILES = "tensorboard/events.out.tfevents.*"  # of option tensorboard

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
    found, seen = set(), set()
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"no such folder: {folder}")
        for path, folders_in, files in os.walk(folder, onerror=leave_out, followlinks=True):
            if (real := os.path.realpath(path)) in seen:  # a link back, or to what is read already
                folders_in.clear()
                continue
            seen.add(real)
            names = {*folders_in, *files}
            if names & {"run.json", "log.jsonl"} and names & marks:
                found.add(Path(path))
    return sorted(found)


def leave_out(error):
    """Say what is left out."""
    print(f"left out: {error}", file=sys.stderr)
