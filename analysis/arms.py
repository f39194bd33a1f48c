"""Run folders as arms that may be compared, and their curves. No torch.

An arm is one config under several seeds: out/<arm>/seed<n>. A setting is what arms must share to be
comparable: corpus, model size, batch, length, evaluations and kind of device.
"""

import collections
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analysis.statistics import interval, share
from config import Config, UserError, identity, recorded
from data.files import read_json
from training.run_folder import corpus_title, find_runs, read_log

SHARED = (  # knobs that runs have in common to stand in one panel
    *("dataset", "train_tokens", "n_layer", "n_head", "n_embd", "block_size"),
    *("batch_size", "gradient_accumulation_steps", "max_iters"),
    *("eval_interval", "eval_tokens", "eval_train_tokens"),  # the lowest of ten is not that of a hundred
)

# The paper's size and lengths; what is under them is called reduced.
PAPER_SIZE = {"n_layer": 6, "n_embd": 384, "block_size": 256, "gradient_accumulation_steps": 1}
PAPER_LENGTH = {
    "shakespeare_char": {"batch_size": 64, "max_iters": 5000},
    "enwik8": {"batch_size": 32, "max_iters": 100_000},
    "text8": {"batch_size": 32, "max_iters": 100_000},
}


def read_settings(folders):
    """The settings of every run folder at or below `folders`; UserError where there is no run."""
    settings = group([read_run(path) for path in find_runs(folders)])
    if not settings:
        where = ", ".join(map(str, folders))
        raise UserError(f"no run lies in {where}: sweep.py trains those of a study, train.py a single one")
    return settings


@dataclass(frozen=True)
class Run:
    """One run folder as it is: evals, steps, measured and moved are the log's events by kind, result is None
    while it runs; where sharpness.py has measured it, its mean rises are in it as rise_<rho>."""

    path: Path
    config: Config
    about: dict
    result: dict | None
    evals: list
    steps: list
    measured: list
    moved: list
    torn: bool

    @property
    def arm(self):
        """The name of its arm: the folder's, or the folder above's where the folder is seed<n>."""
        is_seed = re.fullmatch(r"seed\d+", self.path.name)
        return (self.path.resolve().parent if is_seed else self.path.resolve()).name

    @property
    def seed(self):
        return self.config.seed

    @property
    def data(self):
        """The SHA-256 of its training tokens."""
        return self.about["corpus"]["splits"]["train"]["sha256"]

    @property
    def setting(self):
        """What runs must share to stand in one panel, as a dict. The train split's hash keeps the first part
        of a corpus apart from the whole; runs of one seed on two kinds of device are no pairs."""
        knobs = {name: getattr(self.config, name) for name in SHARED}
        return {**knobs, "dataset": self.about["corpus"]["name"], "data": self.data, "device": self.device}

    @property
    def device(self):
        """The kind of device that it was trained on, without its number; the kinds, where it was resumed and
        trained on another."""
        began = [{"iter": 0, **self.about}, *self.about.get("resumed", [])]
        ends = [*(part["iter"] for part in began[1:]), self.config.max_iters]
        trained = [part for part, end in zip(began, ends) if part["iter"] < end] or began[:1]
        kinds = [part.get("machine", {}).get("device", "").partition(":")[0] for part in trained]
        return "+".join(dict.fromkeys(kinds))

    @property
    def study(self):
        """The folder of the study that it belongs to, the nearest above it with a study.json, or None."""
        return next((folder for folder in self.path.parents if (folder / "study.json").is_file()), None)

    def series(self, events, name):
        """{iteration: value} of one logged quantity, the missing left out."""
        return {event["iter"]: event[name] for event in events if event.get(name) is not None}


def read_run(path):
    config, about = recorded(read_json(path / "config.json")), read_json(path / "run.json")
    events, torn = read_log(path)
    kinds = by(events, lambda event: event["kind"])
    by_kind = [kinds[kind] for kind in ("eval", "train", "diagnosis", "distance")]
    result, sharpness = (read_json(path / f"{name}.json") for name in ("result", "sharpness"))
    if result and sharpness:
        result |= {f"rise_{rho}": float(np.mean(draws)) for rho, draws in sharpness["rises"].items()}
    return Run(path, config, about, result, *by_kind, torn)


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seeds alone. number: its place among the arms of its study or setting, by which
    it has its colour wherever it is drawn."""

    name: str
    runs: list
    number: int = 0

    @property
    def noisy(self):
        """Whether there is noise in its gradients, or was in its pretrained weights."""
        config = self.runs[0].config
        return config.noisy or config.noisytune_lambda > 0

    @property
    def ended(self):
        """The runs that were trained to their end."""
        return [run for run in self.runs if run.result and run.result["status"] == "finished"]

    def missing(self, seeds):
        """Those of the planned seeds whose run has not ended."""
        return sorted(set(seeds) - {run.seed for run in self.ended + self.diverged})

    @property
    def diverged(self):
        return [run for run in self.runs if run.result and run.result["status"] == "diverged"]

    @property
    def exploded(self):
        """The runs that came to their end with a higher train loss than they began with: the val loss may come
        to that by overfitting alone."""
        began = {run.seed: run.evals[0]["train_loss"] for run in self.ended if run.evals}
        return [run for run in self.ended if run.result["final_train_loss"] > began.get(run.seed, math.inf)]

    def losses(self, name):
        """{seed: a loss of result.json}, over the runs that were trained to their end and have it."""
        return {run.seed: run.result[name] for run in self.ended if run.result.get(name) is not None}

    def curve(self, kind, name):
        """{iteration: {seed: value}} over the runs, each as far as it goes."""
        table = collections.defaultdict(dict)
        for run in self.runs:
            for iteration, value in run.series(getattr(run, kind), name).items():
                table[iteration][run.seed] = value
        return dict(sorted(table.items()))


@dataclass(frozen=True)
class Setting:
    """Arms that may be compared: one corpus, one model size, one length, and one study if they are of one."""

    knobs: dict
    parameters: int
    corpus: dict  # its meta
    arms: list
    study: dict | None = None  # what its study.json holds
    apart: str = ""  # what it differs in from another of the same title and size

    @property
    def title(self):
        return corpus_title(self.corpus)

    @property
    def unit(self):
        return self.corpus["unit"]

    @property
    def partial(self):
        """Whether only the first part of the corpus was prepared."""
        return "partial" in self.corpus

    @property
    def size(self):
        k, n = self.knobs, self.parameters
        parameters = f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n / 1e3:.0f} k"
        batch = k["batch_size"] * k["gradient_accumulation_steps"]
        tokens = f"{batch} × {k['block_size']} {self.unit}s"
        label = "reduced size, " if self.reduced else ""
        if k["train_tokens"] is not None:
            tokens += f" drawn from {k['train_tokens']:,}"
        return f"{label}{parameters} parameters, {k['max_iters']:,} iterations of {tokens}{self.apart}"

    @property
    def described(self):
        """The size; before it the corpus, where a caption must not be read without it."""
        return f"{self.title}: {self.size}" if self.partial else self.size

    @property
    def reduced(self):
        """Whether a run of one of the paper's corpora is smaller or shorter than the paper's."""
        full = {**PAPER_SIZE, **PAPER_LENGTH.get(self.knobs["dataset"], {})}
        return self.knobs["dataset"] in PAPER_LENGTH and any(self.knobs[name] < full[name] for name in full)

    @property
    def baseline(self):
        """The arm that the others are compared with; None where that is unclear.

        In a study the one that it names; elsewhere, or where that is of another setting, the arm without
        noise, among several the one called baseline.
        """
        if self.study and (named := self.arm(self.study["baseline"])):
            return named
        quiet = [arm for arm in self.arms if not arm.noisy]
        named = [arm for arm in quiet if "baseline" in arm.name]
        return (named or quiet)[0] if len(named or quiet) == 1 else None

    def arm(self, name):
        """The arm of this name, or None."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def reference(self, arm):
        """The arm that `arm` is compared with: its own in the study's `versus`, else the baseline; or None."""
        versus = self.study.get("versus", {}) if self.study else {}
        reference = self.arm(versus[arm.name]) if arm.name in versus else self.baseline
        return None if reference is arm else reference


def group(runs):
    """Runs as settings of arms, the baseline first. UserError where one arm's name covers two configs."""
    for members in by(runs, lambda run: run.path.resolve().parent).values():
        for same_name in by(members, lambda run: run.arm).values():
            check_arm(same_name)
    settings = []
    keyed = by(runs, lambda run: (str(run.study or ""), *run.setting.items()))
    for key, members in sorted(keyed.items(), key=str):
        arms = [
            Arm(name, check_arm(sorted(named, key=lambda run: run.seed)))
            for name, named in by(members, lambda run: run.arm).items()
        ]
        about, study = members[0].about, members[0].study
        record = read_json(study / "study.json") if study else None
        order = {name: number for number, name in enumerate(record["arms"])} if record else {}
        arms.sort(key=lambda arm: (order.get(arm.name, len(order)), arm.noisy, arm.name))
        arms = [replace(arm, number=order.get(arm.name, place)) for place, arm in enumerate(arms)]
        settings.append(Setting(dict(key[1:]), about["parameters"], about["corpus"], arms, record))
    alike = by(settings, lambda setting: (str(setting.study), setting.title, setting.size))
    return [replace(setting, apart=apart(setting, alike[key])) for key in alike for setting in alike[key]]


def apart(setting, alike):
    """In words, what of SHARED and the device sets it apart from settings of the same title and size."""
    different = [name for name in setting.knobs if len({str(other.knobs[name]) for other in alike}) > 1]
    return "".join(f", {name} {setting.knobs[name]}" for name in different if name != "data")


def by(items, key):
    """{key: [items that have it]}, in the order in which they come."""
    table = collections.defaultdict(list)
    for item in items:
        table[key(item)].append(item)
    return table


def check_arm(runs):
    """The runs of one arm; UserError unless they differ in their seeds, and in nothing else."""
    first, seeds, weights = runs[0], set(), {}
    for run in runs:
        here, there = (arm_identity(r) for r in (first, run))
        for name in here:
            if name not in ("seed", "data_seed") and here[name] != there[name]:
                raise UserError(
                    f"{first.path} and {run.path} are both called {first.arm!r} and differ in {name}:"
                    f" {here[name]!r} and {there[name]!r}; give the arms folders of their own, or train one"
                    " anew"
                )
        if run.seed in seeds:
            raise UserError(f"{run.path}: {first.arm!r} has seed {run.seed} twice")
        seeds.add(run.seed)
        digest = (run.about.get("init_from") or {}).get("sha256")
        if weights.setdefault(run.config.init_from, digest) != digest:
            raise UserError(
                f"{run.path}: {run.config.init_from} had other weights when this run began than for another of"
                f" {first.arm!r}, by the SHA-256 in their run.json; give the arms folders of their own"
            )
    return runs


def arm_identity(run):
    """What the runs of an arm share, as a dict. Each may start from its own seed's run of another arm."""
    config = run.config
    source = config.init_from and re.sub(r"[/\\]+seed\d+[/\\]*$", "", config.init_from)
    here = {**identity(config), "eval_interval": config.eval_interval, "init_from": source}
    return here | {"data": run.data, "device": run.device}


def changed_knobs(arm, baseline):
    """{knob: value} in which an arm differs from the baseline, those aside that only look."""
    here, there = (identity(a.runs[0].config) for a in (arm, baseline))
    looking = ("seed", "data_seed", "diagnose_interval")
    return {name: value for name, value in here.items() if value != there[name] and name not in looking}


def other_knobs(arm, baseline):
    """{knob: value} in which an arm differs from the baseline beside its noise."""
    changed = changed_knobs(arm, baseline)
    return {name: value for name, value in changed.items() if not name.startswith(("noise_", "plateau_"))}


def notes(runs):
    """A line for every run that is not whole."""
    for run in runs:
        if run.torn:
            yield f"{run.path}: a line of its log is torn and left out"
        if run.result is None:
            reached = max((event["iter"] for event in run.steps + run.evals), default=0)
            yield f"{run.path}: unfinished, drawn up to iteration {reached:,}"
        elif run.result["status"] != "finished":
            yield f"{run.path}: {run.result['status']} at iteration {run.result['diverged_at']:,}"


def mean_band(curve):
    """(iterations, mean, low, high) of a {iteration: {seed: value}}; low and high are nan for one seed."""
    rows = [(iteration, *interval(list(values.values()))) for iteration, values in curve.items()]
    iterations, mean, half = (np.array(column, dtype=float) for column in zip(*rows))
    return iterations, mean, mean - half, mean + half


def shares(arm, noise, baseline):
    """{iteration: the share that an arm has of a noise's effect on the val loss then, as compare.share}, at the
    evaluations that all three have, the first at 0 aside."""
    curves = [one.curve("evals", "val_loss") for one in (arm, noise, baseline)]
    common = sorted(set.intersection(*map(set, curves)) - {0})
    return {at: share(*(curve[at] for curve in curves)) for at in common}


def differences(arm, baseline, name, iterations):
    """[(iteration, mean difference to the baseline, half-interval or None, n pairs)], paired by seed."""
    rows = []
    mine, theirs = arm.curve("evals", name), baseline.curve("evals", name)
    for iteration in iterations:
        a, b = mine.get(iteration, {}), theirs.get(iteration, {})
        if pairs := [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]:
            rows.append((iteration, *interval(pairs), len(pairs)))
    return rows
