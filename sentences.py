"""What one study says, in sentences: its comparisons, their verdicts, the command that repeats it. No torch."""

from arms import by, read_settings
from tables import LOSSES, comparisons, outcome, verdict, with_interval

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
        others = len(sizes) - 1
        return sizes[0] + (f", and {others} other size{'s' * (others > 1)}" if others else "")

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
    """What a comparison found: the difference, its interval, n, the verdict."""
    c = row[-1]
    if c.mean is None:
        return verdict(*row)
    told = c.resolvable is not None and outcome(row) != "interim"
    resolvable = f", resolvable {c.resolvable:.4f}" if told else ""
    welch = "" if c.paired else ", unpaired, Welch's test"
    return f"{with_interval(c.mean, c.half, '+')} (n = {c.n}{resolvable}{welch}): {verdict(*row)}"


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
