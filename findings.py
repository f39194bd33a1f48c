"""results/FINDINGS.md: what the studies answer, sentence by sentence, each from the records beside it.

No sentence has its conclusion written into it: which words stand follows from the verdicts, which follow from
the numbers. A question whose study has not been run is called open. report.py writes the text.
"""

import collections
import math

import numpy as np

from arms import by, read_settings
from tables import DASH, LOSSES, comparisons, verdict, with_interval

BEST, FINAL = "best_val_loss", "final_val_loss"

HEAD = """# Findings

Written by `python report.py results` from the records beside it. Differences are in nats per symbol, arm minus
reference, means over n pairs of the same seed, with 95 % t intervals (unadjusted); "better", "worse" and "not
resolved" are verdicts of the paired t-test, Holm-adjusted over the study's comparisons. "Not resolved" means
that a difference as large as the one called resolvable would have been found four times in five, and none was
found: it does not mean that there is none. Every study here says at which size it was run; what holds at a
reduced size need not hold at the paper's.
"""

DERIVATION = r"""## Why noise that has ended still slows the run

AdamW divides by the square root of v, an average of squared gradients with decay $\beta_2$. With noise of
variance $\sigma_t^2 = \sigma_0^2 \gamma^{2t}$ on a clean gradient g, the average is $v_t + s_t$ in expectation,

$$ s_t = (1-\beta_2) \sum_{k=0}^{t} \beta_2^{t-k} \sigma_k^2
       = \sigma_0^2 (1-\beta_2) \frac{\beta_2^{t+1} - \gamma^{2(t+1)}}{\beta_2 - \gamma^2}, $$

with no randomness in it. Where $\gamma^2 < \beta_2$, in all of the paper's grid, $s_t$ comes to decay like
$\beta_2^t$, more slowly than the noise itself like $\gamma^{2t}$. The clean part of an update is

$$ \eta \frac{m_t}{\sqrt{v_t + s_t}}, $$

so that it has half of its size where $s_t = 3 v_t$, at

$$ t_{1/2} \approx \frac{1}{-\ln \beta_2}
   \ln \frac{\sigma_0^2 (1-\beta_2) \beta_2}{3 v (\beta_2 - \gamma^2)} . $$

While $s_t \gg v_t$ every element is divided by the same number: AdamW is then momentum SGD with a small step,
and becomes AdamW again as v forgets. That predicts what the controls can test: the same loss with the sum
above in v and no randomness at all (`second_moment_mean`), and, where the lost preconditioner matters beside
the smaller step, a different one with a learning rate that is multiplied by $\sqrt{v/(v+s)}$ instead
(`matched_warmup`)."""


def findings(results):
    """The whole text, for a folder of records."""
    studies = [Study(path.parent) for path in sorted(results.rglob("study.json"))]
    parts = [HEAD, *paper(studies), DERIVATION, *forgetting(studies), *mechanism(studies), *instead(studies)]
    return "\n\n".join([*(part.strip("\n") for part in parts), advice(studies)]) + "\n"


class Study:
    """One study at one size: what its comparisons say of one loss, by arm."""

    def __init__(self, folder):
        self.folder, self.settings = folder, read_settings([folder])
        self.record = self.settings[0].study
        self.name, self.size = self.record["name"], self.record["size"]

    def rows(self, loss=BEST):
        """{arm: (setting, arm, reference, Comparison)}, in the study's order."""
        return {row[1].name: row for row in comparisons(self.settings, loss)}

    @property
    def where(self):
        return f"{self.settings[0].title}, {self.settings[0].size}"

    @property
    def command(self):
        return command(self.record, self.settings)


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
    resolvable = f", resolvable {c.resolvable:.4f}" if c.resolvable is not None else ""
    return f"{with_interval(c.mean, c.half, '+')} (n = {c.n}{resolvable}): {verdict(*row)}"


def lines(study, arms, loss=BEST):
    """A list item for each of these arms that has been compared."""
    rows = study.rows(loss)
    return [f"- `{a}` minus `{rows[a][2].name}`: {difference(rows[a])}." for a in arms if a in rows]


def section(study, arms, question, loss=BEST):
    """What a study says of some arms, with the command that makes it."""
    found = lines(study, arms, loss)
    if not found:
        return []
    head = f"**{question}** `{study.folder.parent.name}/{study.size}`: {study.where}; {LOSSES[loss]}."
    return ["\n".join([head, "", *found, "", f"    {study.command}"])]


def tally(studies, arms_of, loss=BEST):
    """How many comparisons came out how, in words: "3 worse, 1 not resolved"."""
    rows = [row for study in studies for name, row in study.rows(loss).items() if name in arms_of(study)]
    counts = by(rows, lambda row: verdict(*row))
    return ", ".join(f"{len(same)} {word}" for word, same in sorted(counts.items())) or "none yet"


# The sections.


def paper(studies):
    """The paper's claim: noise against its own baseline."""
    found, open_questions = named(studies, "table1_shakespeare", "table1_enwik8", "table1_text8", "sensitivity")
    text = ["## Does the paper's noise help?"]
    for study in found:
        text += section(study, list(study.rows()), f"{study.record['title']}.")
    if found:
        text.insert(1, f"Of these comparisons with the baseline: {tally(found, lambda s: s.record['arms'])}.")
    return text + open_questions


def forgetting(studies):
    """The derivation's t_1/2 beside what the diagnosis measured."""
    found, _ = named(studies, "mechanism", "decisive")
    rows = [row for study in found for row in half_times(study)]
    if not rows:
        return []
    table = [
        "Measured (`diagnose.py`), beside the prediction, with v from the run's own clipped gradients:",
        "",
        "| study | arm | predicted t_1/2 | measured t_1/2 | injected noise over the batch's own, at t = 0 |"
        " it falls under 1 at |",
        "|---|---|---:|---:|---:|---:|",
        *rows,
    ]
    return ["\n".join(table)]


INTO_V = ("gradient", "second_moment", "second_moment_mean", "learning_rate")  # or what stands for it there


def half_times(study):
    """A row for each arm of absolute exponential noise whose updates were measured."""
    for setting in study.settings:
        clean = setting.baseline.curve("measured", "signal_rms") if setting.baseline else {}
        for arm in setting.arms:
            config = arm.runs[0].config
            plain = config.noise_scale == "absolute" and config.noise_point in INTO_V
            if not (arm.noisy and plain and clean and arm.curve("measured", "signal_rms")):
                continue
            size = f"{setting.knobs['max_iters']:,} iterations"
            cells = [size, f"`{arm.name}`", number(predicted_half(arm)), number(measured_half(arm, clean))]
            ratio = means(arm.curve("measured", "noise_ratio"))
            under = next((at for at, value in ratio.items() if value < 1), None)
            first = ratio.get(0) if config.noise_point == "gradient" else None
            cells += [number(first), number(under if first else None)]
            yield f"| {' | '.join(cells)} |"


def means(curve):
    return {at: float(np.mean(list(values.values()))) for at, values in curve.items()}


def number(value):
    return DASH if value is None else f"{value:,.0f}"


def predicted_half(arm):
    """t_1/2 of the derivation, v being the mean square of an element of the clipped gradient, over the run."""
    config, n = arm.runs[0].config, arm.runs[0].about["parameters"]
    norms = [e["grad_norm"] for run in arm.runs for e in run.steps if e["grad_norm"] is not None]
    v = float(np.mean(np.minimum(norms, config.grad_clip or math.inf) ** 2)) / n
    beta2, gamma = config.beta2, config.noise_gamma
    if gamma**2 >= beta2:
        return None
    start = config.noise_sigma**2 * (1 - beta2) * beta2 / (beta2 - gamma**2)
    return max(0.0, math.log(start / (3 * v)) / -math.log(beta2))


def measured_half(arm, clean):
    """The first measured iteration at which the signal has half the RMS that the baseline's has there."""
    ours, theirs = means(arm.curve("measured", "signal_rms")), means(clean)
    return next((at for at in ours if at in theirs and ours[at] >= theirs[at] / 2), None)


def mechanism(studies):
    """Through what the noise acts: the arms that put it elsewhere, against the noise itself."""
    found, open_questions = named(studies, "mechanism", "decisive")
    text = ["## Through what does it act?"]
    for study in found:
        text += section(study, list(study.rows()), f"{study.record['title']}.")
        text += shares(study)
    others, more = named(studies, "optimizers")
    for study in others:
        text += section(study, list(study.rows()), f"{study.record['title']}.")
    return text + open_questions + more


CONTROLS = {
    "second_moment": "Noise in the second moment alone",
    "second_moment_mean": "Its expectation in the second moment, without any randomness",
    "matched_warmup": "A learning rate warmed up to match, without noise",
    "first_moment": "Noise in the first moment alone",
    "weights": "Noise of the same size in the weights",
}
SAID = {
    "not resolved": "cannot be told from the noise itself",
    "worse": "does more harm than the noise itself",
    "better": "does less harm than the noise itself",
}


def shares(study):
    """How much of the noise's own effect a control has, as sentences."""
    rows, ordinary = study.rows(), study.settings[0].arm("noise")
    if not ordinary or "noise" not in rows or rows["noise"][-1].half is None:
        return
    effect = rows["noise"][-1].mean
    items = []
    for name, said in CONTROLS.items():
        row = rows.get(name)
        if row is None or row[2] is not ordinary or row[-1].half is None:
            continue
        c = row[-1]
        low, high = sorted(1 + (c.mean + sign * c.half) / effect for sign in (-1, 1))
        items.append(
            f"- {said} {SAID.get(verdict(*row), verdict(*row))}: it has {1 + c.mean / effect:.0%} of that"
            f" difference ({low:.0%} to {high:.0%}, its denominator taken as known; n = {c.n})."
        )
    if items:
        head = f"The noise's own difference to the baseline is {difference(rows['noise'])}. Of it:"
        yield "\n".join([head, "", *items])


def instead(studies):
    """What else the same run could have had."""
    names = ("best_against_best", "limited_data", "regularizers", "schedules", "noisytune", "aa_control")
    found, open_questions = named(studies, *names)
    text = ["## Against what else one could do"]
    for study in found:
        text += section(study, list(study.rows()), f"{study.record['title']}.")
        if study.name in ("limited_data",):
            text += section(study, list(study.rows(FINAL)), f"{study.record['title']}.", FINAL)
    return text + open_questions


def advice(studies):
    """What the verdicts amount to for someone who trains; the words follow from the counts."""
    judging = [study for study in studies if study.name not in NOT_JUDGING]
    rows = [(study, name, row) for study in judging for name, row in study.rows().items()]
    noise = [row for _, _, row in rows if adds_gradient_noise_alone(row)]
    counts = collections.Counter(next(w for w in (*WORDS, "") if verdict(*row).startswith(w)) for row in noise)
    better, worse, unresolved, rest = (counts[word] for word in (*WORDS, ""))
    summary = (
        f"Gradient noise was added to an otherwise equal run in {len(noise)} comparisons of these studies:"
        f" resolved as better in {better}, as worse in {worse}, not resolved in {unresolved}"
        + (f", without a verdict in {rest}." if rest else ".")
    )
    if worse and not better:
        said = "Drop it: at the sizes measured here it was nowhere resolved as a help."
    elif better > worse:
        said = "Keep it where it helped, and tune its size: it was resolved as a help more often than as harm."
    elif better:
        said = "Do not add it by default: it was resolved as harm at least as often as it was as a help."
    else:
        said = "Nothing here says that it matters."
    helped = [
        f"- `{name}` ({study.name}/{study.size}): {difference(row)}."
        for study, name, row in rows
        if verdict(*row) == "better" and not row[1].noisy and not row[2].noisy
    ]
    use = ["What was resolved as better than its reference, without noise:", "", *helped] if helped else []
    return "\n".join(["## What to do", "", summary, "", said, "", *use])


WORDS = ("better", "worse", "not resolved")
NOT_JUDGING = ("aa_control", "tuning", "sgd_rates")  # too little noise to be felt; seeds to choose by


def adds_gradient_noise_alone(row):
    """Whether the arm is its reference but for noise in the gradient."""
    _, arm, reference, _ = row
    here, there = arm.runs[0].config, reference.runs[0].config
    looking = ("seed", "data_seed", "out_dir", "diagnose_interval", "threads", "eval_interval")
    same = all(
        getattr(here, name) == getattr(there, name)
        for name in vars(here)
        if not name.startswith("noise_") and name not in looking
    )
    return same and arm.noisy and not reference.noisy and here.noise_point == "gradient"
