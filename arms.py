"""Run folders as arms that may be compared, and the statistics of a comparison. No torch.

An arm is one config under several seeds: out/<arm>/seed<n>. A setting is what arms must share to be set side
by side: corpus, model size, batch and length.
"""

import collections
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from config import Config, UserError, identity, recorded
from files import read_json
from runs import find_runs, read_log

SHARED = (  # knobs that runs have in common to stand in one panel
    *("dataset", "n_layer", "n_head", "n_embd", "block_size"),
    *("batch_size", "gradient_accumulation_steps", "max_iters", "eval_tokens", "eval_train_tokens"),
)


def read_settings(folders):
    """The settings of every run folder at or below `folders`; UserError where there is no run."""
    settings = group(read_run(path) for path in find_runs(folders))
    if not settings:
        raise UserError(f"no run lies in {', '.join(map(str, folders))}: train one by python train.py")
    return settings


@dataclass(frozen=True)
class Run:
    """One run folder as it is: `evals` and `steps` are the log's events, `result` is None while it runs."""

    path: Path
    config: Config
    about: dict
    result: dict | None
    evals: list
    steps: list
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
    def setting(self):
        """What runs must share to stand in one panel, as a dict."""
        knobs = {name: getattr(self.config, name) for name in SHARED}
        knobs["dataset"] = self.about["corpus"]["name"]
        return {**knobs, "data": self.about["corpus"]["splits"]["train"]["sha256"]}

    def series(self, events, name):
        """{iteration: value} of one logged quantity, the missing left out."""
        return {event["iter"]: event[name] for event in events if event[name] is not None}


def read_run(path):
    config, about = recorded(read_json(path / "config.json")), read_json(path / "run.json")
    events, torn = read_log(path)
    evals = [event for event in events if event["kind"] == "eval"]
    steps = [event for event in events if event["kind"] == "train"]
    return Run(path, config, about, read_json(path / "result.json"), evals, steps, torn)


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seeds alone."""

    name: str
    runs: list

    @property
    def noisy(self):
        return self.runs[0].config.noisy

    def curve(self, kind, name):
        """{iteration: {seed: value}} over the runs, each as far as it goes."""
        table = collections.defaultdict(dict)
        for run in self.runs:
            for iteration, value in run.series(getattr(run, kind), name).items():
                table[iteration][run.seed] = value
        return dict(sorted(table.items()))


@dataclass(frozen=True)
class Setting:
    """Arms that may be compared: one corpus, one model size, one length."""

    knobs: dict
    parameters: int
    unit: str
    arms: list

    @property
    def title(self):
        return self.knobs["dataset"]

    @property
    def size(self):
        k, n = self.knobs, self.parameters
        parameters = f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n / 1e3:.0f} k"
        batch = k["batch_size"] * k["gradient_accumulation_steps"]
        tokens = f"{batch} × {k['block_size']} {self.unit}s"
        return f"{parameters} parameters, {k['max_iters']:,} iterations of {tokens}"

    @property
    def baseline(self):
        """The arm without noise; among several the one called baseline; None where that is unclear."""
        quiet = [arm for arm in self.arms if not arm.noisy]
        named = [arm for arm in quiet if "baseline" in arm.name]
        return (named or quiet)[0] if len(named or quiet) == 1 else None


def group(runs):
    """Runs as settings of arms, the baseline first. UserError where one arm's name covers two configs."""
    table = collections.defaultdict(lambda: collections.defaultdict(list))
    for run in runs:
        table[tuple(run.setting.items())][run.arm].append(run)
    settings = []
    for key, arms in sorted(table.items(), key=str):
        arms = [Arm(name, sorted(members, key=lambda run: run.seed)) for name, members in arms.items()]
        for arm in arms:
            check_arm(arm)
        arms.sort(key=lambda arm: (arm.noisy, arm.name))
        about = arms[0].runs[0].about
        settings.append(Setting(dict(key), about["parameters"], about["corpus"]["unit"], arms))
    return settings


def check_arm(arm):
    """UserError unless the runs of an arm differ in their seeds, and in nothing else."""
    first, seeds = arm.runs[0], set()
    for run in arm.runs:
        here, there = (arm_identity(r.config) for r in (first, run))
        for name in here:
            if name not in ("seed", "data_seed") and here[name] != there[name]:
                raise UserError(
                    f"{first.path} and {run.path} are both called {arm.name!r} and differ in {name}:"
                    f" {here[name]!r} and {there[name]!r}; give the arms folders of their own"
                )
        if run.seed in seeds:
            raise UserError(f"{run.path}: {arm.name!r} has seed {run.seed} twice")
        seeds.add(run.seed)


def arm_identity(config):
    """What the runs of an arm share, as a dict. Each may start from its own seed's run of another arm."""
    source = config.init_from and re.sub(r"[/\\]+seed\d+[/\\]*$", "", config.init_from)
    return {**identity(config), "eval_interval": config.eval_interval, "init_from": source}


def other_knobs(arm, baseline):
    """{knob: value} in which an arm differs from the baseline beside its noise."""
    here, there = (identity(a.runs[0].config) for a in (arm, baseline))
    return {
        name: value
        for name, value in here.items()
        if value != there[name] and not name.startswith("noise_") and name not in ("seed", "data_seed")
    }


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


def interval(values):
    """(mean, half-width of the 95 % t interval of the mean); None for the half-width of one value."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return float(values.mean()), None
    return float(values.mean()), float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))


def mean_band(curve):
    """(iterations, mean, low, high) of a {iteration: {seed: value}}; low and high are nan for one seed."""
    rows = [(iteration, *interval(list(values.values()))) for iteration, values in curve.items()]
    iterations, mean, half = (np.array(column, dtype=float) for column in zip(*rows))
    return iterations, mean, mean - half, mean + half


def differences(arm, baseline, name, iterations):
    """[(iteration, mean difference to the baseline, half-interval or None, n pairs)], paired by seed."""
    rows = []
    mine, theirs = arm.curve("evals", name), baseline.curve("evals", name)
    for iteration in iterations:
        a, b = mine.get(iteration, {}), theirs.get(iteration, {})
        if pairs := [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]:
            rows.append((iteration, *interval(pairs), len(pairs)))
    return rows
