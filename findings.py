"""results/FINDINGS.md: what the studies answer, sentence by sentence, each from the records beside it.

No sentence has its conclusion written into it: which words stand follows from the verdicts, which follow from
the numbers. A question whose study has not been run is called open. report.py writes the text.
"""

import math

import numpy as np

from arms import by, read_settings
from compare import compare, interval, share
from config import identity
from tables import DASH, LOSSES, PAPER, comparisons, verdict, with_interval

BEST, FINAL = "best_val_loss", "final_val_loss"
ENOUGH = 4  # pairs; with fewer, under Holm's correction, next to nothing could be resolved
MARGIN = 0.1  # a control whose share of the noise's effect lies within 1 ± this accounts for it

HEAD = """# Findings

Written by `python report.py results` from the records beside it. Differences are in nats per symbol, arm minus
reference, means over n pairs of the same seed, with 95 % t intervals (unadjusted); "better", "worse" and "not
resolved" are verdicts of the paired t-test, Holm-adjusted over the study's comparisons of the same loss. "Not
resolved" means that these seeds cannot tell, not that there is no difference; "resolvable" is what they would
find four times in five, at the spread that was seen and the adjustment's strictest level, so that a smaller
difference may be resolved too. Every study here says at which size it was run; what holds at a reduced size
need not hold at the paper's.
"""

DERIVATION = r"""## What annealed noise does in the second moment

AdamW divides by the square root of v, an average of squared gradients with decay $\beta_2$. With noise of
variance $\sigma_t^2 = \sigma_0^2 \gamma^{2t}$ on a clean gradient g, the average is $v_t + s_t$ in expectation,

$$ s_t = (1-\beta_2) \sum_{k=0}^{t} \beta_2^{t-k} \sigma_k^2
       = \sigma_0^2 (1-\beta_2) \frac{\beta_2^{t+1} - \gamma^{2(t+1)}}{\beta_2 - \gamma^2}, $$

with no randomness in it. Where $\gamma^2 < \beta_2$, in all of the paper's grid, $s_t$ comes to decay like
$\beta_2^t$, more slowly than the noise itself like $\gamma^{2t}$. The clean part of an update is

$$ \eta \frac{m_t}{\sqrt{v_t + s_t}} . $$

With a gradient of constant size, $v_t = v (1 - \beta_2^{t+1})$, it has half of its size where $s_t = 3 v_t$, at

$$ t_{1/2} \approx \frac{1}{-\ln \beta_2}
   \ln \left( 1 + \frac{\sigma_0^2 (1-\beta_2) \beta_2}{3 v (\beta_2 - \gamma^2)} \right) . $$

While $s_t \gg v_t$ every element is divided by about the same number: AdamW is then momentum SGD with a small
step, and becomes AdamW again as v forgets. If that is all that the noise does, and what it leaves in m, a
random displacement of a few learning rates, does nothing, then the sum above in v without any randomness
(`second_moment_mean`) has the same effect as the noise. A learning rate multiplied by $\sqrt{v/(v+s)}$, with
one v for all elements (`matched_warmup`), has the smaller step without the lost preconditioner; but while v
forgets its mean step is the larger one, so that a difference between the two may be of either."""


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
    def seeds(self):
        return self.record.get("seeds", [])

    @property
    def where(self):
        sizes = list(dict.fromkeys(f"{setting.title}, {setting.size}" for setting in self.settings))
        others = len(sizes) - 1
        return sizes[0] + (f", and {others} other size{'s' * (others > 1)}" if others else "")

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


def item(row):
    """A comparison as an item of a list."""
    return f"- `{row[1].name}` minus `{row[2].name}`: {difference(row)}."


def section(study, loss=BEST, head=None):
    """What a study says, with the command that makes it; a list. head: in place of the study's title."""
    rows = study.rows(loss).values()
    if not rows:
        return []
    head = f"**{head or study.record['title']}.** `{study.name}/{study.size}`: {study.where}; {LOSSES[loss]}."
    return ["\n".join([head, "", *map(item, rows), "", f"    {study.command}"])]


def tally(rows):
    """How many comparisons of ENOUGH pairs came out how, in words: "3 worse, 1 not resolved"."""
    counts = by([row for row in rows if row[-1].n >= ENOUGH], lambda row: verdict(*row))
    return ", ".join(f"{len(same)} {word}" for word, same in sorted(counts.items())) or "none"


# The sections.


def paper(studies):
    """The paper's claim: noise against its own baseline."""
    found, open_questions = named(studies, "table1_shakespeare", "table1_enwik8", "table1_text8", "sensitivity")
    said = tally(row for study in found for row in study.rows().values())
    text = ["## Does the paper's noise help?"]
    if found:
        text += [f"Of these comparisons with the baseline, {ENOUGH} pairs or more, each below: {said}."]
    return text + [part for study in found for part in section(study)] + open_questions


def forgetting(studies):
    """The derivation's t_1/2 beside what the diagnosis measured."""
    found, _ = named(studies, "mechanism", "decisive", "optimizers")
    rows = [row for study in found for row in half_times(study)]
    if not rows:
        return []
    table = [
        "Predicted, with v from the run's own clipped gradients, and measured (`diagnose.py`): the iteration"
        " from which the mean over elements of sqrt(clean v / actual v), both of the run itself, is a half or"
        " more. Its elements' v are not equal, as the prediction has them; a matched warm-up has one v for all"
        " too, and what is measured of it is the factor of its learning rate. Intervals are over seeds.",
        "",
        "| study | arm | t_1/2, predicted | t_1/2, measured | noise over the batch's own, t = 0 | under 1 at |",
        "|---|---|---:|---:|---:|---:|",
        *rows,
        "",
        "The last two columns: the norm of the injected noise over that of the mini-batch gradient's own, from"
        " two half-batches (McCandlish et al., arXiv:1812.06162), means over the same seeds, at the iterations"
        " that were measured.",
        *(f"\n    {study.command}" for study in found),
    ]
    return ["\n".join(table)]


INTO_V = ("gradient", "second_moment", "second_moment_mean", "learning_rate")


def half_times(study):
    """A row for each arm of the derivation's noise, absolute and into v, or into a learning rate instead; its
    half time predicted, and measured where it was."""
    for setting in study.settings:
        for arm in setting.arms:
            config = arm.runs[0].config
            plain = (config.noise_schedule, config.noise_scale) == ("exponential", "absolute")
            plain &= not config.reset_below_sigma and not config.noise_before_clip
            into_v = config.noise_point in INTO_V and config.optimizer != "sgd"
            if not (arm.noisy and plain and into_v and arm.ended):
                continue
            halves = [at for run in arm.ended if (at := measured_half(run, setting.baseline)) is not None]
            mean, half = interval(halves) if halves else (None, None)
            around = f" ± {half:,.0f}" if half is not None else ""
            measured = f"{mean:,.0f}{around} (n = {len(halves)})" if halves else DASH
            cells = [f"`{study.name}`, {config.max_iters:,} iterations", f"`{arm.name}`"]
            cells += [f"{predicted_half(arm):,}", measured, *noise_cells(arm)]
            yield f"| {' | '.join(cells)} |"


def noise_cells(arm):
    """The norm of the injected noise over that of the mini-batch's own at t = 0, and where it falls under 1."""
    curve = arm.curve("measured", "noise_ratio").items()
    ratio = {at: float(np.mean(list(values.values()))) for at, values in curve}
    if arm.runs[0].config.noise_point != "gradient" or not ratio:
        return [DASH, DASH]
    under = next((at for at, value in ratio.items() if value < 1), None)
    return [f"{next(iter(ratio.values())):,.0f}", DASH if under is None else f"{under:,}"]


def predicted_half(arm):
    """t_1/2 by the sums of the derivation, step by step, v the mean square of an element of the clipped
    gradient over the run; the run's length where it comes later."""
    config, n = arm.runs[0].config, arm.runs[0].about["parameters"]
    norms = [e["grad_norm"] for run in arm.runs for e in run.steps if e["grad_norm"] is not None]
    square = float(np.mean(np.minimum(norms, config.grad_clip or math.inf) ** 2)) / n
    v = s = 0.0
    for t in range(config.max_iters):
        s = config.beta2 * s + (1 - config.beta2) * (config.noise_sigma * config.noise_gamma**t) ** 2
        v = config.beta2 * v + (1 - config.beta2) * square
        if s <= 3 * v:
            return t
    return config.max_iters


def measured_half(run, baseline):
    """The iteration from which the mean over elements of sqrt(clean v / actual v) stays at a half or more,
    linear between measurements; None where it never was below, or was so at the last one. Of a matched warm-up:
    of its learning rate over the baseline's.

    The first measurement, of |g| / |g + noise|, has tails so heavy that its mean tells nothing.
    """
    series = list(run.series(run.measured, "preconditioner").items())
    if run.config.noise_point == "learning_rate":
        usual = baseline.runs[0].series(baseline.runs[0].steps, "lr")
        rates = run.series(run.steps, "lr").items()
        series = [(at, rate / usual[at]) for at, rate in rates if usual.get(at)]
    below = [place for place, (_, value) in enumerate(series) if value < 0.5]
    if not below or below[-1] == len(series) - 1:
        return None
    (at, value), (later, higher) = series[below[-1] : below[-1] + 2]
    return at + (later - at) * (0.5 - value) / (higher - value)


def mechanism(studies):
    """Through what the noise acts: the arms that put it elsewhere, against the noise itself."""
    found, open_questions = named(studies, "mechanism", "decisive", "optimizers")
    text = ["## Through what does it act?"]
    if found:
        text += [
            "The thresholds by which the answers in short follow from the shares were chosen when most of"
            " `mechanism` had been seen, and before `decisive` was; their wording was changed after it."
        ]
    for study in found:
        text += [*section(study), *among(study), *shares(study), *in_short(study)]
        if study.name == "optimizers":
            text += ["No learning rate here was tuned under noise; SGD's is the best without it."]
    return text + open_questions


AMONG = (  # controls that tell something beside each other: no comparison of the study's
    ("second_moment", "second_moment_mean"),
    ("anticorrelated", "second_moment_mean"),
    ("first_moment_relative", "noise_relative"),
)


def among(study):
    """Differences between controls; a list."""
    items = []
    for setting in study.settings:
        for one, other in ([setting.arm(name) for name in pair] for pair in AMONG):
            if one and other and not one.missing(study.seeds) + other.missing(study.seeds):
                c = compare(one.losses(BEST), other.losses(BEST))
                items += [
                    f"- `{one.name}` minus `{other.name}`: {with_interval(c.mean, c.half, '+')} (n = {c.n})."
                ]
    if items:
        head = "Between controls, outside the family of the verdicts, with 95 % t intervals:"
        yield "\n".join([head, "", *items, "", f"    {study.command}"])


def found_shares(study):
    """{arm: (the noise that it is compared with, its share of that noise's effect or None, n)}, of the arms
    whose planned seeds have all ended and below their start."""
    found = {}
    for name, (setting, arm, noise, c) in study.rows().items():
        if noise is setting.baseline or c.mean is None or any(a.missing(study.seeds) for a in (arm, noise)):
            continue
        if noise.name not in study.rows() or not noise.noisy or arm.exploded:
            continue
        losses = [a.losses(BEST) for a in (arm, noise, setting.baseline)]
        found[name] = (noise.name, share(*losses), c.n)
    return found


def short_share(found):
    """A share and its interval."""
    if found is None:
        return DASH
    return "{:.0%} ({:.0%} to {:.0%})".format(*(round(part, 2) + 0.0 for part in found))


def share_in_words(noise, found):
    return f"{short_share(found)} of the effect of `{noise}`"


def shares(study):
    """How much of the noise's own effect the arms compared with it have, and what that says, as a list."""
    items = []
    for name, (noise, found, n) in found_shares(study).items():
        if found is None:
            said = f"the effect of `{noise}` is too small to be shared out"
        else:
            said = f"{share_in_words(noise, found)}: {judged(*found[1:])}"
        items.append(f"- `{name}`: {said} (n = {n}).")
    if items:
        head = (
            "As a share of the noise's own difference to the baseline, with Fieller's 95 % interval, each by"
            " itself and unadjusted; an arm accounts for that effect where the interval lies within"
            f" {1 - MARGIN:.0%} to {1 + MARGIN:.0%}:"
        )
        yield "\n".join([head, "", *items, "", f"    {study.command}"])

        yield from on_the_way(study)


ON_THE_WAY = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)  # of a run


def shares_at(study, name):
    """{iteration: the share that an arm has of the noise's effect on the val loss then, or None}, at the
    evaluations that are the nearest to ON_THE_WAY."""
    setting, arm, noise, _ = study.rows()[name]
    curves = [a.curve("evals", "val_loss") for a in (arm, noise, setting.baseline)]
    reached = sorted(set(curves[0]).intersection(*curves) - {0})
    wanted = [part * setting.knobs["max_iters"] for part in ON_THE_WAY]
    times = sorted({min(reached, key=lambda at: abs(at - time)) for time in wanted}) if reached else []
    return {at: share(*(curve[at] for curve in curves)) for at in times}


def on_the_way(study):
    """The same shares at evaluations before the end, as a table; a list."""
    found = {name: shares_at(study, name) for name in found_shares(study)}
    times = sorted(set().union(*found.values()))
    rows = [
        f"| `{name}` | {' | '.join(short_share(shares.get(at)) for at in times)} |"
        for name, shares in found.items()
    ]
    if len(times) > 1:
        head = "The same at evaluations on the way, when what acts at once and what acts later differ:"
        columns = f"| share of the noise's effect at iteration | {' | '.join(f'{at:,}' for at in times)} |"
        yield "\n".join([head, "", columns, "|---|" + "---:|" * len(times), *rows, "", f"    {study.command}"])


def in_short(study):
    """The answer to the section's question: by the arm without randomness, by the one whose noise does not add
    up, and by the one with a smaller step alone; a list."""
    found = {name: row for name, row in found_shares(study).items() if row[1]}
    if "second_moment_mean" not in found:
        return
    noise, (_, low, high), n = found["second_moment_mean"]
    effect = study.rows()[noise][-1].mean
    words = {name: share_in_words(*row[:2]) for name, row in found.items()}
    what = "harm" if effect > 0 else "gain"
    mean, alone = "the mean that the noise has in AdamW's second moment", words["second_moment_mean"]
    if low >= 1 - MARGIN:
        said = f"{mean}, without any randomness, is enough for its {what}: alone it has {alone}"
        said += ", so that what else the noise does takes some of that away" if low > 1 else ""
    elif low > 0 and high < 1 - MARGIN:
        said = f"{mean}, without any randomness, is enough for a part of its {what}: alone it has {alone}"
    elif low <= 0 and high < 1 - MARGIN:
        said = f"{mean} is not what does its {what}: alone it has {alone}"
    else:
        said = f"these seeds cannot tell whether {mean} is enough for its {what}: alone it has {alone}"
    if low > 1 and "anticorrelated" in found and found["anticorrelated"][1][1] > 1:
        said += (
            ". Anti-correlated noise, as random but with nothing that adds up in the weights, has"
            f" {words['anticorrelated']}: it is what adds up that does"
        )
    if "matched_warmup" in found and found["matched_warmup"][1][2] < low:
        said += ". A smaller step alone (`matched_warmup`) has less than that in the end,"
        said += f" {words['matched_warmup']}"
        at, then = next(iter(shares_at(study, "matched_warmup").items()))
        said += f"; at iteration {at:,}, {short_share(then)}"
    first = study.rows().get("first_moment")
    if first and len(first[1].diverged) == len(first[1].runs):
        said += f". What as much noise does in the first moment alone is not known: all {n} runs diverged"
    yield f"**In short,** over {study.settings[0].knobs['max_iters']:,} iterations (n = {n}): {said}."


def judged(low, high):
    if low >= 1 - MARGIN and high <= 1 + MARGIN:
        return "it accounts for it"
    if low <= 1 <= high:
        return "it may account for it, and these seeds cannot say"
    if low > 1:
        return "it has more than that effect"
    if high < 0:
        return "it has the opposite effect"
    return "it has a part of it" if low > 0 else "it has none of it that is resolved"


def instead(studies):
    """Against what else one could do, and what the method reports where there is nothing."""
    names = ("best_against_best", "robustness_of_result", "limited_data", "regularizers", "schedules")
    found, open_questions = named(studies, *names, "noisytune", "noisytune_tuned", "aa_control")
    text = ["## Against what else one could do"]
    for study in found:
        text += section(study)
        if study.name == "limited_data":
            text += [*overfitting(study), *section(study, FINAL, "And at the end")]
    return text + open_questions


def overfitting(study):
    """How far the baseline overfits: its final val loss over its best one."""
    for setting in study.settings:
        best, final = (setting.baseline.losses(name) for name in (BEST, FINAL))
        mean, half = interval([final[seed] - best[seed] for seed in best])
        at = np.mean([run.result["best_iter"] for run in setting.baseline.ended])
        train = interval(list(setting.baseline.losses("final_train_loss").values()))[0]
        word = "overfits" if half is not None and mean > half else "does not demonstrably overfit"
        yield (
            f"The baseline, `{setting.baseline.name}`, {word}: its best evaluation is at iteration {at:,.0f}"
            f" (mean), and the final val loss is higher by {with_interval(mean, half)} (n = {len(best)}), at a"
            f" train loss of {train:.4f}."
        )


# What to do.


NOT_JUDGING = ("aa_control", "tuning", "sgd_rates")  # too little noise to be felt; seeds to choose by


def advice(studies):
    """What the verdicts amount to for someone who trains; the words follow from them."""
    return "\n\n".join(["## What to do", left_alone(studies), retuned(studies), *perturbed(studies)])


def left_alone(studies):
    """Noise added to an otherwise equal run: each experiment once, whichever studies share it, the one with the
    most seeds."""
    rows = {}
    for study in studies:
        for row in study.rows().values():
            key = tuple(tuple(experiment(arm).items()) for arm in row[1:3])
            judging = study.name not in NOT_JUDGING and adds_gradient_noise_alone(row)
            if judging and (key not in rows or rows[key][-1].n < row[-1].n):
                rows[key] = row
    return (
        f"Noise added to an otherwise equal run, the learning rate left alone, {ENOUGH} pairs or more, each"
        f" experiment (above, and in README.md) counted once: {tally(rows.values())}."
    )


def retuned(studies):
    """Noise and the baseline each at its own best learning rate: this decides."""
    found, open_questions = named(studies, "best_against_best")
    if not found:
        return (
            "Whether it helps once the learning rate is tuned for it is open, and with it what to do:"
            f" {open_questions[0]}"
        )
    texts = []
    for study in found:
        rows = [row for row in study.rows().values() if row[1].noisy]
        ordinary = [row for row in study.rows().values() if not row[1].noisy]
        words = [verdict(*row) for row in rows]
        if any(word.startswith("interim") for word in words):
            said = "Interim: planned seeds are missing."
        elif "better" in words and not any(verdict(*row) == "better" for row in ordinary):
            said = "Keep it, with its learning rate tuned: it is resolved as better than the tuned baseline."
        elif "better" in words:
            said = "It helps, and so does an ordinary longer warm-up: try that first, which needs no noise."
        elif all(word.startswith("worse") for word in words):
            said = "Drop it, and tune the learning rate: noise is worse even at the rate that suits it best."
        else:
            said = (
                "Drop it, and tune the learning rate: at the rate that suits each best, noise was nowhere"
                " resolved as better than none."
            )
        items = map(item, [*rows, *ordinary])
        where = f"At one size, batch and length: {study.where}; nothing but the learning rate was tuned:"
        texts.append("\n".join([f"**{said}** {where}", "", *items, "", f"    {study.command}"]))
        texts += too_small(rows)
    return "\n\n".join([*texts, *worth_of_tuning(studies)])


def too_small(rows):
    """Whether the paper's own difference is one that these seeds could have seen; a list."""
    if not rows or any(row[-1].resolvable is None for row in rows):
        return
    paper, least = PAPER.get(rows[0][0].knobs["dataset"]), min(row[-1].resolvable for row in rows)
    claimed = paper["noise"][1] - paper["baseline"][1] if paper else 0.0
    if claimed < 0 and least > -claimed:
        yield (
            f"A gain as small as the paper's own, {claimed:+.4f} in its Table 1 (one seed each, at its own"
            f" size), these seeds would have missed more often than not: {least:.4f} they find four times in"
            " five."
        )


def worth_of_tuning(studies):
    """What the better learning rate is worth without any noise; a list."""
    for study in named(studies, "mechanism")[0]:
        if "tuned" in study.rows():
            row = study.rows()["tuned"]
            yield f"What the better learning rate is worth without noise:\n\n{item(row)}\n\n    {study.command}"


def perturbed(studies):
    """Whether NoisyTune is worth its line, by the arms that are plain fine-tuning but for it; a list."""
    for study in named(studies, "noisytune", "noisytune_tuned")[0]:
        rows = [row for row in study.rows().values() if perturbs_alone(row)]
        counts = by(rows, lambda row: verdict(*row))
        if not rows or any(word.startswith("interim") for word in counts):
            continue
        if "better" in counts:
            said = "use it, by an arm that is resolved as better than fine-tuning alone"
        elif "not resolved" in counts:
            said = "leave it out, no arm is resolved as better than fine-tuning alone"
        else:
            said = "leave it out, every arm is worse than fine-tuning alone"
        yield (
            f"**NoisyTune before fine-tuning: {said}** ({tally(rows)}). {study.where}, from one pretrained"
            f" model: the intervals are over fine-tunings of it.\n\n    {study.command}"
        )


def perturbs_alone(row):
    """Whether the arm is its reference but for noise in the pretrained weights."""
    _, arm, reference, _ = row
    here, there = experiment(arm), experiment(reference)
    changed = {name for name in here if here[name] != there[name]}
    return bool(changed) and all(name.startswith("noisytune_") for name in changed)


def experiment(arm):
    """What makes an arm the same experiment in several studies, as a dict."""
    knobs = identity(arm.runs[0].config)
    apart = ("seed", "data_seed", "diagnose_interval", "eval_tokens", "eval_train_tokens")
    return {name: value for name, value in knobs.items() if name not in apart}


def adds_gradient_noise_alone(row):
    """Whether the arm is its reference but for noise in the gradient."""
    _, arm, reference, _ = row
    here, there = experiment(arm), experiment(reference)
    same = all(here[name] == there[name] for name in here if not name.startswith("noise_"))
    return same and arm.noisy and not reference.noisy and here["noise_point"] == "gradient"
