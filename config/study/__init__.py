"""A study file: which runs a study asks for, and the command line of each. No torch.

    base = "config/shakespeare_baseline.py"    a config file, or a list of them
    common = dict(dtype="bfloat16")            options of every run; dtype must be among them
    arms = {"baseline": {}, "noise": dict(noise_sigma=0.1)}
    baseline = "baseline"                      the arm that the others are compared with
    seeds = range(1, 9)
    versus = {"wide_noise": "wide"}            an arm that is compared with another arm; may be left out
    decisive = ["baseline", "noise"]           the arms of the figure `mechanism`; may be left out
    purpose = "tuning"                         chooses learning rates, judges nothing; left out: "comparison"
    program = "classify"                       of training.classify; left out: "train", of train.py
    together = "table1"                        studies of one name are one figure's; may be left out

Later ones override earlier ones: base, overlays, common, arm, command line. An arm's option may be a function
of the Config that the run would have without its arm: dict(data_seed=lambda run: 1000 + run.seed).
"""

import ast
import dataclasses
import itertools
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from config import (
    KINDS,
    NOT_IDENTITY,
    OPTIONS,
    ROOT,
    Config,
    UserError,
    checked,
    command,
    config_path,
    did_you_mean,
    identity,
    is_folder_name,
    kind_of,
    load,
    options_of,
    quoted,
    read_option,
    run_file,
)

PARTS = {
    **{"base": (str, list), "common": dict, "arms": dict, "baseline": str},
    **{"seeds": (list, tuple, range), "versus": dict, "decisive": list},
    **{"purpose": str, "together": (str, type(None)), "program": str},
}
LEFT_OUT = {
    **{"common": {}, "versus": {}, "decisive": []},
    **{"purpose": "comparison", "together": None, "program": "train"},
}
WHOLE = "full"  # the size of a study as its file has it, without overlays
PURPOSES = ("comparison", "tuning")
MOST_RUNS = 10_000  # of a study; planning so many takes some ten seconds
OURS = {  # what no study may set, since the plan does; what there is in its place
    "seed": "its seeds are chosen by --seeds=1-4",
    "out_dir": "its runs lie in out/<study>/<overlays>",
    "overwrite": "to train a run again, delete or rename its folder",
}


@dataclass(frozen=True)
class PlannedRun:
    """One run that a study asks for. words: its command line, after its program's name; config: a Config, or of
    another program's kind."""

    arm: str
    seed: int
    words: list
    config: Config

    @property
    def folder(self):
        return Path(self.config.out_dir)

    def __str__(self):
        return f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """A study at one size. arms, seeds: all that the file plans. runs: those asked for, the seeds in the outer
    loop, so that a study cut short has whole pairs."""

    name: str
    size: str
    title: str
    baseline: str
    arms: dict
    versus: dict
    decisive: list
    seeds: tuple
    purpose: str
    together: str | None
    runs: tuple = ()

    @property
    def folder(self):
        return Path("out") / self.name / self.size

    @property
    def label(self):
        """Its name, and the overlays if it has any."""
        return self.name if self.size == WHOLE else f"{self.name}, {self.size}"

    def record(self):
        """For study.json, by which the runs' readers know the whole study, whatever part of it was trained."""
        names = ("name", "size", "title", "purpose", "together", "baseline", "versus", "decisive")
        return {**{name: getattr(self, name) for name in names}, "arms": list(self.arms), "seeds": self.seeds}


def read_study(file, overlays=(), options=(), seeds=None, arms=None):
    """The Study that a study file, overlay config files and --key=value words describe.

    seeds, arms: those to train, in place of all that the file plans; the baseline is among them anyway.
    UserError for any mistake in them, before any work.
    """
    file = config_path(file)
    parts = check_parts(run_file(file, "study file"), file)
    kind = KINDS[parts.pop("program")]
    overrides = dict(read_option(word, kind) for word in options)
    if ours := [name for name in overrides if name in OURS]:
        raise UserError(f"--{ours[0]} is set by the study itself; {OURS[ours[0]]}")
    base = [parts["base"]] if isinstance(parts["base"], str) else parts["base"]
    if not all(isinstance(name, str) for name in base):
        raise UserError(f"{file}: base={quoted(base)} are not the names of config files")
    files = [*map(from_root, base), *map(str, overlays)]
    labels = [Path(overlay).stem for overlay in overlays]
    kept = [name for name in options_of(kind) if name in overrides and name not in NOT_IDENTITY]
    labels += [f"{name}={overrides[name]}" for name in kept]  # in whatever order they were typed
    labels = [label.replace("/", "_") for label in labels]  # of a path: the size is the name of a folder
    study = Study(
        name=file.stem,
        size="+".join(labels) or WHOLE,
        title=first_line(file),
        **{name: part for name, part in parts.items() if name not in ("base", "common")},
    )
    seeds, arms = seeds or study.seeds, chosen(parts, arms)
    if (count := len(seeds) * len(arms)) > MOST_RUNS:
        raise UserError(f"{study.name}: {count:,} runs are more than {MOST_RUNS:,}: choose fewer seeds")
    if count > 1000:
        print(f"planning {count:,} runs", file=sys.stderr, flush=True)
    asked = itertools.product(seeds, arms)
    runs = [plan(study, arm, seed, files, parts["common"], overrides, kind) for seed, arm in asked]
    check_runs(study, runs)
    return dataclasses.replace(study, runs=tuple(runs))


def check_parts(names, file):
    """What a study file assigns, checked by name and type."""
    if not {"base", "arms"} & names.keys() and names.keys() & OPTIONS.keys():
        train = command(*kind_of(names).command.split(), file)
        raise UserError(
            f"{file} is the config of a run, not a study: {train}; sweep.py takes a study first, then the"
            " config files that go over it"
        )
    for name in names:
        if name not in PARTS:
            raise UserError(f"{file}: a study has no {name!r}{did_you_mean(name, PARTS)}")
    parts = LEFT_OUT | names
    for name, types in PARTS.items():
        if name not in parts:
            raise UserError(f"{file} assigns no {name}; a study has {', '.join(PARTS)}")
        if not isinstance(parts[name], types):
            raise UserError(f"{file}: {name}={quoted(parts[name])} is of the wrong type (docs/studies.md)")
    for arm in parts["arms"]:
        name = arm if isinstance(arm, str) else ""
        if not re.fullmatch(r"(?!\.+$)[\w.+-]+", name) or re.fullmatch(r"seed\d+", name):
            raise UserError(
                f"{file}: an arm is a folder: letters, digits and _.+- make its name, not {quoted(arm)}"
            )
    for arm in (parts["baseline"], *parts["versus"], *parts["versus"].values(), *parts["decisive"]):
        if arm not in list(parts["arms"]):
            raise UserError(f"{file}: {quoted(arm)} is none of its arms{did_you_mean(str(arm), parts['arms'])}")
    if same := [arm for arm, other in parts["versus"].items() if arm == other]:
        raise UserError(f"{file}: versus compares {same[0]!r} with itself: name another arm")
    if parts["together"] is not None and not is_folder_name(parts["together"]):
        raise UserError(f"{file}: together={parts['together']!r} is no name of a folder")
    for name, choices in (("purpose", PURPOSES), ("program", KINDS)):
        if parts[name] not in choices:
            raise UserError(f"{file}: {name}={parts[name]!r} is neither {' nor '.join(map(repr, choices))}")
    seeds = tuple(itertools.islice(parts["seeds"], MOST_RUNS + 1))  # of range(10**9) too
    if not seeds or not all(type(seed) is int and OPTIONS["seed"].limits.hold(seed) for seed in seeds):
        raise UserError(f"{file}: seeds={quoted(parts['seeds'])} are not numbers from 0 on")
    if len(seeds) > MOST_RUNS:
        raise UserError(f"{file}: seeds={quoted(parts['seeds'])} are more than {MOST_RUNS:,}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{file}: seeds={quoted(parts['seeds'])} name one of them twice")
    parts["seeds"] = seeds
    kind = KINDS[parts["program"]]
    parts["common"] = check_options(parts["common"], f"{file}, common", kind)
    parts["arms"] = {
        arm: check_options(options, f"{file}, arm {arm}", kind) for arm, options in parts["arms"].items()
    }
    return parts


def chosen(parts, arms):
    """The names of the arms to train: those asked for, the baseline, and what they are compared with."""
    for arm in arms or ():
        if arm not in parts["arms"]:
            raise UserError(f"--arms: {arm!r} is none of the study's{did_you_mean(arm, parts['arms'])}")
    arms = arms or parts["arms"]
    kept = {parts["baseline"], *arms, *(parts["versus"][arm] for arm in arms if arm in parts["versus"])}
    return [arm for arm in parts["arms"] if arm in kept]


def check_options(options, where, kind):
    if not isinstance(options, dict):
        raise UserError(f"{where}: options are written dict(name=value, ...), not {quoted(options)}")
    options = checked(options, where, kind)
    if ours := [name for name in options if name in OURS]:
        raise UserError(f"{where}: {ours[0]} is set by the study itself")
    return options


def plan(study, arm, seed, files, common, overrides, kind):
    """The run of one arm and one seed."""
    ours = {"seed": seed, "out_dir": str(study.folder / arm / f"seed{seed}")}
    options = {**common, **study.arms[arm]}
    if functions := {
        name: value for name, value in options.items() if callable(value) and name not in overrides
    }:
        without = load([*files, *words_of({**common, **overrides, **ours})], unsaid, kind)
    for name, function in functions.items():
        try:
            options[name] = function(without)
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{study.name}, arm {arm}: the function of {name} fails ({said})") from None
    words = [*files, *words_of({**options, **overrides, **ours})]
    try:
        return PlannedRun(arm, seed, words, load(words, unsaid, kind))
    except UserError as error:
        raise UserError(f"{study.name}, arm {arm}: {error}") from None


def unsaid(_line):
    """What a run is made to fit by, its own output says."""


def words_of(options):
    return [f"--{name}={value}" for name, value in options.items() if not callable(value)]


def check_runs(study, runs):
    """UserError where two arms are one experiment, the precision is left to the machine, or runs that were
    stopped would begin afresh."""
    seen = {}
    for run in runs:
        if run.config.overwrite:
            raise UserError(f"{study.name}: a config file has overwrite=True; {OURS['overwrite']}")
        if run.config.dtype == "auto":
            raise UserError(
                f"{study.name} leaves dtype to the machine, and its runs would differ from one to the next:"
                ' give its common dict a dtype="bfloat16"'
            )
        twin = seen.setdefault(tuple(identity(run.config).items()), run.arm)
        if twin != run.arm:
            raise UserError(f"{study.name}: the arms {twin} and {run.arm} are the same experiment")


def from_root(path):
    """A base file as it is named in a study: from the repository's root, or else from the working folder."""
    if Path(path).is_file() and not (ROOT / path).is_file():
        return str(path)
    inside, here = ROOT / path, Path.cwd()
    return str(inside.relative_to(here) if inside.is_relative_to(here) else inside)


def first_line(file):
    """The first line of a study file's docstring, its title."""
    text = ast.get_docstring(ast.parse(file.read_bytes())) or file.stem
    return text.splitlines()[0].rstrip(".")


def parse_seeds(text):
    """The seeds in "1-8", "1,2,5" or "1-4,11"; UserError for anything else."""
    seeds = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", part.strip())
        if not match:
            raise UserError(f"--seeds={quoted(text)[1:-1]} is not a list of seeds such as 1-8 or 1,2,5")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"--seeds={text}: {part} runs backwards, write {last}-{first}")
        if last - first + len(seeds) >= MOST_RUNS:
            raise UserError(f"--seeds={text} are more than {MOST_RUNS:,}: choose fewer")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds={text} names a seed twice")
    return seeds
