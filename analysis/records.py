"""Runs as a table: one loader for live run folders and for the committed records. pandas, no torch.

    records = read(["results"])            or ["out/quickstart"], or any mixture, at or below the folders
    records.runs                           a row a run
    records.curves                         a row a logged event
    records.studies                        {(study, size): what its study.json holds}
    some = records.of(study="mechanism", size="cpu", arm="noise")       Records again
    losses(some.runs, "best_val_loss")     {seed: loss} as a Series, of the runs that finished
    some.curve("eval", "val_loss")         a frame, iteration x seed
    arms(records)                          a row an arm: its reference, its seeds, what was lost

Columns of `runs`, missing values NaN:
    study, size, arm, seed     of a loose run, of no study, study and size are ""
    folder                     where it lies, or would lie, as out/<study>/<size>/<arm>/seed<n>
    status                     finished, diverged or unfinished
    setting                    equal for the runs of a study that may be compared: SHARED, the training tokens,
                               the kind of device. The arms of a study are each of one setting.
    description, corpus        in words: the size of model and run; the corpus, and which part of it
    corpus_name, unit, data (SHA-256 of the training tokens)
    every option of Config     under its own name and as recorded; and `config`, the Config itself
    every field of result.json but its device
    rise_<rho>, hessian_top, hessian_trace, weight_rms    sharpness.json's, means over the draws
    parameters, noisy (noise in its gradients, or once in its weights)
    exploded                   finished with a higher train loss than it began with
    reached                    the last iteration that is logged
    device_kind (cpu, cuda; cpu+cuda where it was resumed elsewhere), machine (its name), through_float32
    began, revision, torch, init_sha256, truncated (its log has lost a line)
Columns of `curves`: study, size, setting, arm, seed, folder, kind (eval, train, diagnosis, distance, update),
iter, and the logged values under their names.

The committed form is two files a study and size, written by analysis/collect.py. study.json: what sweep.py
wrote, and `corpora`, the meta of each corpus by an id. runs.jsonl.gz: a line a run, {"arm", "seed", "config",
"run", "result", "sharpness" where measured, "truncated" where it is, "log"}, "run" being run.json with its
corpus replaced by the id.
"""

import dataclasses
import gzip
import json
import os
import re
import zlib
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import NoneType

import numpy as np
import pandas as pd

from config import UserError, identity, is_folder_name, recorded, unlike
from data.files import misfit, read_json
from training.run_files import (
    ABOUT,
    EVENT,
    RESULT,
    config_of,
    corpus_title,
    find_runs,
    leave_out,
    read_about,
    read_log,
    read_result,
)

RUNS = "runs.jsonl.gz"
ARM = ["study", "size", "setting", "arm"]  # what tells an arm from all others

SHARED = {  # options that runs of a program have in common to be compared
    "train": (
        *("train_tokens", "n_layer", "n_head", "n_embd", "block_size"),
        *("batch_size", "gradient_accumulation_steps", "max_iters"),
        *("eval_interval", "eval_tokens", "eval_train_tokens"),  # the lowest of ten is not that of a hundred
    ),
    "classify": (
        "model",
        "max_length",
        "batch_size",
        "max_iters",
        "metric",
        "eval_interval",
        "eval_train_texts",
    ),
}

# The paper's size and lengths; what is under them is called reduced.
PAPER_SIZE = {"n_layer": 6, "n_embd": 384, "block_size": 256, "gradient_accumulation_steps": 1}
PAPER_LENGTH = {
    "shakespeare_char": {"batch_size": 64, "max_iters": 5000},
    "enwik8": {"batch_size": 32, "max_iters": 100_000},
    "text8": {"batch_size": 32, "max_iters": 100_000},
}


@dataclass(frozen=True)
class Records:
    """Runs, their curves, and the studies that they belong to; see above."""

    runs: pd.DataFrame
    curves: pd.DataFrame
    studies: dict

    def of(self, **columns):
        """The Records of those runs whose columns have these values, or one of them where it is a list."""
        runs = self.runs
        for name, value in columns.items():
            runs = runs[runs[name].isin(value) if isinstance(value, list) else runs[name] == value]
        return dataclasses.replace(self, runs=runs, curves=self.curves[self.curves.folder.isin(runs.folder)])

    def curve(self, kind, name):
        """One logged value as a frame, iteration x seed; for the runs of one arm. Missing values are NaN."""
        if name not in self.curves:
            return pd.DataFrame()
        events = self.curves[self.curves.kind == kind].dropna(subset=[name])
        return events.groupby(["iter", "seed"])[name].last().unstack()


def read(folders):
    """The Records of all runs at or below `folders`; UserError where there are none, or where two that are
    called alike are not."""
    entries = [*read_folders(folders), *read_committed(folders)]
    if not entries:
        where = ", ".join(map(str, folders))
        raise UserError(f"no run lies in {where}: sweep.py trains those of a study, train.py a single one")
    studies = read_studies({entry["at"] for entry in entries if entry["at"]})
    entries = sorted(entries, key=lambda entry: (str(entry["at"] or ""), entry["arm"], entry["seed"]))
    rows = [row_of(entry, studies) for entry in entries]
    check_arms(rows)
    runs = pd.DataFrame(rows)
    runs["description"] = described_apart(runs)
    return Records(runs, curves_of(entries, rows), studies)


# From files to entries: dicts as a line of runs.jsonl.gz has them, the corpus put back, with the run's folder
# and, in "at", the folder of its study or None.


def read_folders(folders):
    """The entries of all run folders at or below `folders`; a damaged one is said and left out."""
    for path in find_runs(folders):
        try:
            entry = read_run(path)
        except (UserError, OSError) as error:
            leave_out(error)
            continue
        at = next((folder for folder in path.parents if os.path.lexists(folder / "study.json")), None)
        yield {**entry, "folder": path, "at": at}


FINITE = (int, float)
SHARPNESS = {"rises": {str: [FINITE]}, "hessian?": {"top": FINITE, "traces": [FINITE]}, "weight_rms?": FINITE}


def read_run(path):
    """A run folder as an entry; its arm is the folder's name, or the folder above's where it is seed<n>."""
    seed, about = config_of(path).seed, read_about(path)
    if about is None:
        raise UserError(f"{path} is no run folder: it lacks run.json")
    measured = read_json(path / "sharpness.json", SHARPNESS)
    events, truncated = read_log(path)
    truncated |= any("log" in part.get("lost", {}) for part in about["resumed"])
    is_seed = re.fullmatch(r"seed\d+", path.name)
    arm = (path.absolute().parent if is_seed else path.absolute()).name
    config = read_json(path / "config.json")  # as it is: read_config adds what is not recorded
    files = {"config": config, "run": about, "result": read_result(path), "sharpness": measured}
    return {"arm": arm, "seed": seed, **files, "log": events, "truncated": truncated}


def read_committed(folders):
    """The entries of all committed records at or below `folders`."""
    for path in sorted({path for folder in folders for path in Path(folder).rglob(RUNS)}):
        corpora = (read_study_json(path.parent) or {}).get("corpora", {})
        for line in read_lines(path):
            if (corpus := line["run"]["corpus"]) not in corpora:
                raise UserError(
                    f"{path.parent / 'study.json'} is damaged: it has no corpus {corpus}; restore it"
                )
            run = {**line["run"], "corpus": corpora[corpus]}
            yield {**line, "run": run, "folder": run_path(path.parent, line), "at": path.parent}


LINE = {
    **{"arm": str, "seed": int, "config": dict, "run": {**ABOUT, "corpus": str}, "log": [EVENT]},
    **{"result": RESULT, "sharpness?": SHARPNESS, "truncated?": bool},
}


def read_lines(path):
    """The lines of a runs.jsonl.gz, none where there is no such file; UserError where it is damaged."""
    if not path.is_file():
        return []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
    except (EOFError, ValueError, RecursionError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged: {error}; restore it") from None
    if wrong := misfit(lines, [LINE]):
        raise UserError(f"{path} is damaged: {wrong}; restore it")
    return lines


def run_path(study, entry):
    return Path(study) / entry["arm"] / f"seed{entry['seed']}"


def read_studies(folders):
    """{(study, size): what study.json holds, with its folder}; UserError where two folders hold one study."""
    studies = {}
    for folder in sorted(folders):
        study = {"versus": {}, "seeds": [], "purpose": "comparison", "together": None}
        study |= {**read_study_json(folder), "folder": folder}
        key = study["name"], study["size"]
        if key in studies:
            raise UserError(
                f"{studies[key]['folder']} and {folder} both hold {'/'.join(key)}: name one of them"
            )
        studies[key] = study
    return studies


CORPUS = {
    **{"name": str, "unit": str},
    "splits": {"train": {"tokens": int, "sha256": str}, "val": {"sha256": str}},
}
STUDY = {
    **{"name": str, "size": str, "title": str, "baseline": str, "arms": [str]},
    **{"seeds?": [int], "versus?": {str: str}, "decisive?": [str]},
    **{"purpose?": str, "together?": (str, NoneType), "corpora?": {str: CORPUS}},
}


def read_study_json(folder):
    """What a study.json holds, None where there is none; UserError where it is damaged, or its names are none
    of folders."""
    study = read_json(folder / "study.json", STUDY)
    for name in (study["name"], study["size"], study.get("together") or study["name"]) if study else ():
        if not is_folder_name(name):
            raise UserError(f"{folder / 'study.json'} has the name {name!r}, which is none of a folder")
    return study


# From entries to rows.


def row_of(entry, studies):
    """The row of one run."""
    config, about, result = recorded(entry["config"]), entry["run"], entry["result"] or {}
    corpus, began = about["corpus"], next((e for e in entry["log"] if e["kind"] == "eval"), {})
    study = next((key for key, record in studies.items() if record["folder"] == entry["at"]), ("", ""))
    data = "+".join(corpus["splits"][name]["sha256"][:8] for name in ("train", "val"))
    device = device_kind(about, config)
    versions, machine = about["versions"], about["machine"]
    shared = [getattr(config, name) for name in SHARED[config.program]]
    shared = [corpus["name"], data, device, *shared]
    return {
        **{"study": study[0], "size": study[1], "arm": entry["arm"], "seed": config.seed},
        "folder": str(entry["folder"]),
        "status": result.get("status", "unfinished"),
        "setting": "/".join(map(str, shared)),
        **vars(config),
        **{name: value for name, value in result.items() if name not in ("status", "device")},
        **sharpness(entry),
        "config": config,
        "description": describe(config, about),
        "corpus": corpus_title(corpus),
        "corpus_name": corpus["name"],
        "unit": corpus["unit"],
        "data": data,
        "parameters": about["parameters"],
        "noisy": config.noisy or config.noisytune_lambda > 0,
        "exploded": exploded(result, began),
        "reached": max((event["iter"] for event in entry["log"]), default=0),
        "device_kind": device,
        "machine": machine.get("name"),
        "through_float32": machine.get("through_float32"),
        "began": about.get("began"),
        "revision": versions.get("revision"),
        "torch": versions.get("torch"),
        "init_sha256": (about.get("init_from") or {}).get("sha256"),
        "truncated": entry.get("truncated", False),
    }


def exploded(result, began):
    """Whether a run finished with a higher train loss than it began with. None, in JSON, is not finite."""
    last, first = result.get("final_train_loss", -np.inf), began.get("train_loss", np.inf)
    return last is None or (first is not None and last > first)


def device_kind(about, config):
    """The kind of device that a run was trained on, without its number; the kinds, where it was resumed and
    trained on another."""
    began = [{"iter": 0, **about}, *about["resumed"]]
    ends = [*(part["iter"] for part in began[1:]), config.max_iters]
    trained = [part for part, end in zip(began, ends) if part["iter"] < end] or began[:1]
    kinds = [part["machine"]["device"].partition(":")[0] for part in trained]
    return "+".join(dict.fromkeys(kinds))


def sharpness(entry):
    """What training/sharpness.py measured of a run that has ended, means over the draws."""
    measured = (entry.get("sharpness") or {}) if entry["result"] else {}
    found = {f"rise_{rho}": float(np.mean(draws)) for rho, draws in measured.get("rises", {}).items()}
    if hessian := measured.get("hessian"):
        found |= {"hessian_top": hessian["top"], "hessian_trace": float(np.mean(hessian["traces"]))}
    if "weight_rms" in measured:
        found["weight_rms"] = measured["weight_rms"]
    return found


def describe(config, about):
    """The size of model and run in words."""
    n, unit = about["parameters"], about["corpus"]["unit"]
    parameters = f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n / 1e3:.0f} k"
    if config.program == "classify":
        return f"{parameters} parameters, {config.max_iters:,} iterations of {config.batch_size} texts"
    tokens = f"{config.batch_size * config.gradient_accumulation_steps} × {config.block_size} {unit}s"
    label = "reduced size, " if reduced(config, about["corpus"]["name"]) else ""
    if config.train_tokens is not None:
        tokens += f" drawn from {config.train_tokens:,}"
    return f"{label}{parameters} parameters, {config.max_iters:,} iterations of {tokens}"


def reduced(config, corpus):
    """Whether a run of one of the paper's corpora is smaller or shorter than the paper's."""
    full = {**PAPER_SIZE, **PAPER_LENGTH.get(corpus, {})}
    return corpus in PAPER_LENGTH and any(getattr(config, name) < full[name] for name in full)


def described_apart(runs):
    """The descriptions; where settings of one study and corpus have the same, with what tells them apart."""
    found = runs.description.copy()
    for _, alike in runs.groupby(["study", "size", "corpus", "description"]):
        for name in (*SHARED[alike.config.iloc[0].program], "device_kind"):
            if alike[name].astype(str).nunique() > 1:
                values = alike.device_kind if name == "device_kind" else alike.config.map(attrgetter(name))
                found[alike.index] += f", {name} " + values.astype(str)
    return found


def curves_of(entries, rows):
    """A row an event."""
    keys = [*ARM, "seed", "folder"]
    events = [
        {**{name: row[name] for name in keys}, **event}
        for row, entry in zip(rows, entries)
        for event in entry["log"]
    ]
    return pd.DataFrame(events) if events else pd.DataFrame(columns=[*keys, "kind", "iter"])


# Mistakes in what is called alike.


def check_arms(rows):
    """UserError where runs of one arm, or of one folder of runs, differ in more than their seeds."""
    places = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        for place in (Path(row["folder"]).resolve().parent, tuple(row[name] for name in ARM)):
            if others := places.setdefault((place, row["arm"]), []):
                check_alike(row, others)
            others.append(row)


def check_alike(row, others):
    """UserError unless a run differs from the others of its arm in its seed, and in nothing else."""
    first = others[0]
    if changed := unlike(arm_identity(first), arm_identity(row)):
        name, (there, here) = next(iter(changed.items()))
        raise UserError(
            f"{first['folder']} and {row['folder']} are both called {row['arm']!r} and differ in {name}:"
            f" {here!r} and {there!r}; give the arms folders of their own, or train one anew"
        )
    if row["seed"] in [other["seed"] for other in others]:
        raise UserError(f"{row['folder']}: {row['arm']!r} has seed {row['seed']} twice")
    same_source = [other for other in others if other["config"].init_from == row["config"].init_from]
    if any(other["init_sha256"] != row["init_sha256"] for other in same_source):
        raise UserError(
            f"{row['folder']}: {row['config'].init_from} had other weights when this run began than for another"
            f" of {row['arm']!r}, by the SHA-256 in their run.json; give the arms folders of their own"
        )


def arm_identity(row):
    """What the runs of an arm share, as a dict. Each may start from its own seed's run of another arm."""
    config = row["config"]
    source = config.init_from and re.sub(r"[/\\]+seed\d+[/\\]*$", "", config.init_from)
    here = {**identity(config), "eval_interval": config.eval_interval, "init_from": source}
    here |= {"data": row["data"], "device": row["device_kind"]}
    return {name: value for name, value in here.items() if name not in ("seed", "data_seed")}


# What others ask.


def losses(runs, name):
    """A loss by seed, of the runs that finished and have it; for the runs of one arm."""
    finished = runs[runs.status == "finished"]
    if name not in finished:
        return pd.Series(dtype=float)
    return finished.set_index("seed")[name].dropna().sort_index()


def arms(records):
    """A row an arm, by setting, in each in the order of the study's file; loose ones with the quiet first.

    Columns: those of ARM; number (its place, by which it has its colour), noisy, baseline and reference (names
    of arms of the setting, or None: the reference is the study's `versus`, else its baseline), planned and
    missing (lists of seeds: all that the study asks for, and those of them that have not ended), runs,
    finished, diverged, exploded, unfinished (counts), purpose (of the study).
    """
    settings = records.runs.groupby(ARM[:3], sort=True)
    table = pd.DataFrame([row for key, runs in settings for row in arms_of(key, runs, records.studies)])
    words = ["baseline", "reference", "purpose"]
    return table.astype(dict.fromkeys(words, object)).where(table.notna(), None)


def arms_of(key, runs, studies):
    """The rows of `arms` of one setting."""
    study = studies.get(key[:2], {})
    order = {name: place for place, name in enumerate(study.get("arms", ()))}
    noisy = runs.groupby("arm").noisy.first()
    names = sorted(noisy.index, key=lambda name: (order.get(name, len(order)), noisy[name], name))
    baseline = baseline_of(noisy, study)
    for place, name in enumerate(names):
        mine = runs[runs.arm == name]
        count = mine.status.value_counts()
        reference = study.get("versus", {}).get(name, baseline)
        ended = set(mine.seed[mine.status != "unfinished"])
        yield {
            **dict(zip(ARM, (*key, name))),
            "number": order.get(name, place),
            "noisy": noisy[name],
            "baseline": baseline,
            "reference": reference if reference in noisy.index and reference != name else None,
            "planned": list(study.get("seeds", [])),
            "missing": sorted(set(study.get("seeds", [])) - ended),
            "runs": len(mine),
            **{status: int(count.get(status, 0)) for status in ("finished", "diverged", "unfinished")},
            "exploded": int(mine.exploded.sum()),
            "purpose": study.get("purpose"),
        }


def baseline_of(noisy, study):
    """The arm that the others of a setting are compared with; None where that is unclear.

    In a study the one that it names; elsewhere, or where that is of another setting, the arm without noise,
    among several the one called baseline. noisy: by arm.
    """
    if study.get("baseline") in noisy.index:
        return study["baseline"]
    quiet = [name for name in noisy.index if not noisy[name]]
    named = (
        [name for name in quiet if name == "baseline"]
        or [name for name in quiet if "baseline" in name]
        or quiet
    )
    return named[0] if len(named) == 1 else None


def changed_options(config, baseline):
    """{option: value} in which a Config differs from another, those aside that only look."""
    looking, changed = ("seed", "data_seed", "diagnose_interval"), unlike(identity(config), identity(baseline))
    return {name: value for name, (_, value) in changed.items() if name not in looking}


def notes(records):
    """A line for every run that is not whole."""
    for run in records.runs.itertuples():
        if run.truncated:
            yield f"{run.folder}: its log has lost lines, by damage or an interruption"
        if run.status == "unfinished":
            yield f"{run.folder}: unfinished, drawn up to iteration {run.reached:,}"
        elif run.status != "finished":
            yield f"{run.folder}: {run.status} at iteration {run.diverged_at:,.0f}"
