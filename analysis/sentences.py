"""What one study says, in sentences: its comparisons, their verdicts, the command that repeats it. No torch."""

import numpy as np

from analysis.arms import by, read_settings
from analysis.tables import LOSSES, comparisons, outcome, probability, verdict, with_interval

BEST, FINAL = "best_val_loss", "final_val_loss"
CHOOSING = ("tuning", "sgd_rates", "noisytune_rates")  # studies that choose learning rates and judge nothing
ENOUGH = 4  # pairs; with fewer, under Holm's correction, next to nothing could be resolved


class Study:
    """One study at one size: what its comparisons say of one loss, by arm."""

    def __init__(self, folder):
        self.folder, self.settings = folder, read_settings([folder])
        self.compared = {}  # rows, by loss
        self.record = self.settings[0].study
        self.name, self.size = self.record["name"], self.record["size"]

    def rows(self, loss=BEST):
        """{arm: (setting, arm, reference, Comparison)}, in the study's order."""
        if loss not in self.compared:
            rows = sorted(comparisons(self.settings, loss), key=lambda row: row[1].number)
            self.compared[loss] = {row[1].name: row for row in rows}
        return self.compared[loss]

    @property
    def seeds(self):
        return self.record.get("seeds", [])

    @property
    def where(self):
        settings = sorted(self.settings, key=lambda setting: not setting.arm(self.record["baseline"]))
        sizes = list(dict.fromkeys(f"{setting.title}, {setting.size}" for setting in settings))
        return ", and ".join(sizes) if len(sizes) < 3 else f"{sizes[0]}, and {len(sizes) - 1} other sizes"

    @property
    def command(self):
        return command(self.record, self.settings)


def read_studies(results):
    """The studies of a folder of records, by their places."""
    return [Study(path.parent) for path in sorted(results.rglob("study.json"))]


def command(record, settings):
    """What trains a study's runs again, where the corpus is prepared as its title says."""
    parts = record["size"].split("+")
    overlays = [f"config/{part}.py" for part in parts if "=" not in part and part != "full"]
    options = [f"--{part}" for part in parts if "=" in part]
    there = {arm.name for setting in settings for arm in setting.arms}
    if len(there) < len(record["arms"]):
        options.append("--arms=" + ",".join(arm for arm in record["arms"] if arm in there))
    return " ".join(["python sweep.py", f"config/study/{record['name']}.py", *overlays, *options])


def named(studies, *names):
    """The studies of these names, in this order, and a line for each name that has not been run."""
    found = [study for name in names for study in studies if study.name == name]
    missing = [name for name in names if name not in {study.name for study in found}]
    return found, [f"Open: `config/study/{name}.py` has not been run." for name in missing]


# Sentences.


def difference(row):
    """What a comparison found: the difference, its interval, n, the verdict and its strength. Of an arm whose
    runs all ended above their start the verdict alone: their best weights are those before training."""
    arm, c = row[1], row[-1]
    if c.mean is None or len(arm.exploded) == len(arm.runs):
        return verdict(*row)
    more = f", {strength(row)}" if strength(row) else ""
    welch = "" if c.paired else ", unpaired, Welch's test"
    return f"{with_interval(c.mean, c.half, '+')} (n = {c.n}{more}{welch}): {verdict(*row)}"


def strength(row):
    """The p of a verdict, adjusted; where there is none, the difference that could have been resolved."""
    c, said = row[-1], outcome(row)
    if said in ("better", "worse"):
        p = probability(c.p_holm)
        return f"p {p}" if p.startswith("<") else f"p = {p}"
    return f"resolvable {c.resolvable:.4f}" if c.resolvable is not None and said != "interim" else ""


def ranked_rates(setting):
    """[(arm, its mean best val loss, the next arm or None, by how much that is above it)] of a study of
    learning rates: the lowest of each kind of arm, those that differ in nothing else being of one kind."""
    means = {a.name: float(np.mean(list(a.losses(BEST).values()))) for a in setting.arms if a.losses(BEST)}
    kinds = by([arm for arm in setting.arms if arm.name in means], without_rate)
    found = []
    for arms in kinds.values():
        first, *others = sorted((arm.name for arm in arms), key=means.get)
        following = (others[0], means[others[0]] - means[first]) if others else (None, None)
        found.append((first, means[first], *following))
    return found


def without_rate(arm):
    """What an arm has in common with those that differ from it in their learning rate."""
    knobs = vars(arm.runs[0].config)
    apart = ("learning_rate", "min_lr", "seed", "data_seed", "out_dir")
    return tuple((name, value) for name, value in knobs.items() if name not in apart)


def item(row):
    """A comparison as an item of a list."""
    return f"- `{row[1].name}` minus `{row[2].name}`: {difference(row)}."


def section(study, loss=BEST, head=None):
    """What a study says, with the command that makes it; a list. head: in place of the study's title."""
    rows = study.rows(loss).values()
    if not rows:
        return []
    arms, there = study.record["arms"], {arm.name for setting in study.settings for arm in setting.arms}
    part = f", {len(there)} of {len(arms)} arms" if len(there) < len(arms) else ""
    head = head or study.record["title"]
    head = f"**{head}.** `{study.name}/{study.size}`{part}: {study.where}; {LOSSES[loss]}."
    return ["\n".join([head, "", *map(item, rows), "", f"    {study.command}"])]


def tally(rows):
    """How many comparisons of ENOUGH pairs came out how, in words: "3 worse, 1 not resolved"; and how many have
    fewer. Pairs that divergence has taken count: it is an outcome."""
    rows = list(rows)
    enough = [row for row in rows if pairs(row) >= ENOUGH]
    said = [f"{len(same)} {word}" for word, same in sorted(by(enough, outcome).items())]
    few = len(rows) - len(enough)
    return (
        ", ".join([*said, *([f"{few} with fewer than {ENOUGH} pairs, not counted"] if few else [])]) or "none"
    )


def pairs(row):
    """The pairs of a comparison, with those of which a run diverged."""
    _, arm, reference, c = row
    return c.n + len({run.seed for run in arm.diverged + reference.diverged})
