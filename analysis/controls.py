"""What the controls say about how the noise acts: derivation, half times, each control's share of the effect.

The words follow from the shares, and these from the records. No torch.
"""

import math

import numpy as np

from analysis.arms import shares
from analysis.sentences import BEST, named, section
from analysis.statistics import compare, interval, share
from analysis.tables import DASH, LOSSES, lost, with_interval

MARGIN = 0.1  # a control whose share of the noise's effect lies within 1 ± this accounts for it

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
one v for all elements (`matched_warmup`), has a smaller step without the lost preconditioner; but its steps are
not of the same size as the noise's, so that a difference between the two may be of either."""


def forgetting(studies):
    """The derivation's t_1/2 beside what the diagnosis measured."""
    found, _ = named(studies, "mechanism", "decisive", "optimizers")
    rows = [row for study in found for row in half_times(study)]
    if not rows:
        return []
    table = [
        "Predicted, with v from the clipped gradients of the finished run, one v for all elements; and measured"
        " (`diagnose.py`): the iteration from which the mean over elements of sqrt(clean v / actual v), both of"
        " the run itself, is a half or more. Intervals are over seeds.",
        "",
        "| study | arm | t_1/2, predicted | t_1/2, measured | injected noise / batch's own | smaller from |",
        "|---|---|---:|---:|---:|---:|",
        *(row for row, _ in rows),
        "",
        *how_far_off([ratio for _, ratio in rows if ratio]),
        "The last two columns: the norm of the injected noise over that of the mini-batch gradient's own noise,"
        " from two half-batches (McCandlish et al., arXiv:1812.06162), at the first step, means over the same"
        " seeds; and the iteration, of those that were measured, from which the injected noise is smaller.",
        *(f"\n    {study.command}" for study in found),
    ]
    return ["\n".join(table)]


def how_far_off(ratios):
    """What the predictions are worth, by their ratios to what was measured; a list."""
    if ratios:
        yield (
            f"Of the measured t_1/2 the predicted one is {min(ratios):.0%} to {max(ratios):.0%}: one v for all"
            " elements is an approximation."
        )
        yield ""


INTO_V = ("gradient", "second_moment", "second_moment_mean")


def half_times(study):
    """(a row of the table, predicted over measured or None) for each arm of the derivation's noise, absolute
    and into v: its half time predicted, and measured where it was."""
    for setting in study.settings:
        for arm in setting.arms:
            config = arm.runs[0].config
            plain = (config.noise_schedule, config.noise_scale) == ("exponential", "absolute")
            plain &= not config.reset_below_sigma and not config.noise_before_clip
            into_v = config.noise_target in INTO_V and config.optimizer != "sgd"
            if not (arm.noisy and plain and into_v and arm.ended):
                continue
            halves = [at for run in arm.ended if (at := measured_half(run)) is not None]
            mean, half = interval(halves) if halves else (None, None)
            around = f" ± {half:,.0f}" if half is not None else ""
            measured = f"{mean:,.0f}{around} (n = {len(halves)})" if halves else DASH
            cells = [f"`{study.name}`, {config.max_iters:,} iterations", f"`{arm.name}`"]
            predicted = predicted_half(arm)
            cells += [f"> {config.max_iters:,}" if predicted is None else f"{predicted:,}"]
            cells += [measured, *noise_cells(arm)]
            yield f"| {' | '.join(cells)} |", predicted / mean if mean and predicted else None


def noise_cells(arm):
    """The norm of the injected noise over that of the mini-batch's own at t = 0, and where it falls under 1."""
    curve = arm.curve("measured", "noise_ratio").items()
    ratio = {at: float(np.mean(list(values.values()))) for at, values in curve}
    if arm.runs[0].config.noise_target != "gradient" or not ratio:
        return [DASH, DASH]
    under = next((at for at, value in ratio.items() if value < 1), None)
    return [f"{next(iter(ratio.values())):,.0f}", DASH if under is None else f"{under:,}"]


def predicted_half(arm):
    """t_1/2 by the sums of the derivation, step by step, v the mean square of an element of the clipped
    gradient over the run; None where it comes after the run's end."""
    config, n = arm.runs[0].config, arm.runs[0].about["parameters"]
    norms = [e["grad_norm"] for run in arm.runs for e in run.steps if e["grad_norm"] is not None]
    square = float(np.mean(np.minimum(norms, config.grad_clip or math.inf) ** 2)) / n
    v = s = 0.0
    for t in range(config.max_iters):
        s = config.beta2 * s + (1 - config.beta2) * (config.noise_sigma * config.noise_gamma**t) ** 2
        v = config.beta2 * v + (1 - config.beta2) * square
        if s <= 3 * v:
            return t
    return None


def measured_half(run):
    """The iteration from which the mean over elements of sqrt(clean v / actual v) stays at a half or more,
    linear between measurements; None where it never was below, or was so at the last one.

    The first measurement, of |g| / |g + noise|, has tails so heavy that its mean tells nothing.
    """
    series = list(run.series(run.measured, "preconditioner").items())
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
            f"The limits by which the answers in short follow from the shares, {1 - MARGIN:.0%} and"
            f" {1 + MARGIN:.0%}, were fixed when most of `mechanism` was known and before `decisive` was run;"
            " the sentences that they give were reworded later. For `mechanism` they are not preregistered."
        ]
    for study in found:
        text += [*section(study), *among(study), *shared_out(study), *in_short(study)]
        if study.name == "optimizers":
            text += ["No learning rate here was tuned under noise; SGD's is the best without it."]
    return text + open_questions


CELLS = ("noise", "noise_0.1_0.99", "noise_0.01_0.95")  # beside what else regularizes
SHAPES = ("linear", "cosine", "inverse", "constant", "plateau")  # of schedules, against the paper's own
AMONG = (  # arms that tell something beside each other: no comparison of the study's
    ("second_moment", "second_moment_mean"),
    ("anticorrelated", "second_moment_mean"),
    ("first_moment_relative", "noise_relative"),
    ("before_clip", "baseline"),
    ("both", "gradient_noise"),
    *((noise, other) for noise in CELLS for other in ("dropout", "weight_decay", "augmentation")),
    *((shape, "exponential") for shape in SHAPES),
    *((f"{shape}_global", "exponential_global") for shape in SHAPES),
    ("exponential_tensor", "exponential_global"),
)


def among(study, loss=BEST):
    """Differences between arms neither of which is the other's reference; a list."""
    items = []
    for setting in study.settings:
        for one, other in ([setting.arm(name) for name in pair] for pair in AMONG):
            if one and other and not one.missing(study.seeds) + other.missing(study.seeds):
                c = compare(one.losses(loss), other.losses(loss))
                found = f"{with_interval(c.mean, c.half, '+')} (n = {c.n})" if c.n else "nothing to compare"
                remarks = [*lost(one), *(f"`{other.name}`: {words}" for words in lost(other))]
                items += [f"- `{one.name}` minus `{other.name}`: {', '.join([found, *remarks])}."]
    if items:
        head = (
            f"Between arms, {LOSSES[loss]}, outside the family of the verdicts, with 95 % t intervals"
            " (unadjusted):"
        )
        yield "\n".join([head, "", *items, "", f"    {study.command}"])


def plateau_sums(study):
    """How much noise a plateau schedule came to beside one that is as strong all the time; a list."""
    for setting in study.settings:
        for kind in ("", "_global"):
            plateau, constant = (setting.arm(name + kind) for name in ("plateau", "constant"))
            if plateau and constant:
                part = squared_sigmas(plateau) / squared_sigmas(constant)
                yield (
                    f"`{plateau.name}` is not of equal sum: its sigma falls when the val loss does not, and its"
                    f" sum of sigma_t^2 came to {part:.0%} of that of `{constant.name}` (n ="
                    f" {len(plateau.runs)}, from the logged sigmas)."
                )


def squared_sigmas(arm):
    """The mean over an arm's runs of the sum of sigma_t^2, by trapezoids between logged steps."""
    series = [run.series(run.steps, "sigma") for run in arm.runs]
    return float(np.mean([np.trapezoid(np.square(list(one.values())), list(one)) for one in series]))


def found_shares(study):
    """{arm: (the noise that it is compared with, its share of that noise's effect or None, n)}, of the arms
    of which, and of whose noise and baseline, every planned seed has ended, and below its start."""
    found = {}
    for name, (setting, arm, noise, _) in study.rows().items():
        if noise is setting.baseline or not noise.noisy or noise.name not in study.rows():
            continue
        three = (arm, noise, setting.baseline)
        if any(a.missing(study.seeds) or lost(a) for a in three):
            continue
        losses = [a.losses(BEST) for a in three]
        found[name] = (noise.name, share(*losses), len(set.intersection(*map(set, losses))))
    return found


def short_share(found):
    """A share and its interval."""
    if found is None:
        return DASH
    return "{:.0%} ({:.0%} to {:.0%})".format(*(round(part, 2) + 0.0 for part in found))


def share_in_words(noise, found):
    return f"{short_share(found)} of the effect of `{noise}`"


def shared_out(study):
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
    found = shares(arm, noise, setting.baseline)
    wanted = [part * setting.knobs["max_iters"] for part in ON_THE_WAY]
    times = sorted({min(found, key=lambda at: abs(at - time)) for time in wanted}) if found else []
    return {at: found[at] for at in times}


def on_the_way(study):
    """The same shares at evaluations before the end, as a table; a list."""
    found = {name: shares_at(study, name) for name in found_shares(study)}
    times = sorted(set().union(*found.values()))
    rows = [
        f"| `{name}` | {' | '.join(short_share(by_time.get(at)) for at in times)} |"
        for name, by_time in found.items()
    ]
    if len(times) > 1:
        head = "The same at evaluations on the way, when what acts at once and what acts later differ:"
        columns = f"| share of the noise's effect at iteration | {' | '.join(f'{at:,}' for at in times)} |"
        yield "\n".join([head, "", columns, "|---|" + "---:|" * len(times), *rows, "", f"    {study.command}"])


def in_short(study):
    """The answer to the section's question: by the arm without randomness, by the one whose noise does not add
    up, by the one with a smaller step alone, and by the one that forgets; a list."""
    found = {name: row for name, row in found_shares(study).items() if row[1]}
    if "second_moment_mean" not in found:
        return
    noise, _, n = found["second_moment_mean"]
    words = {name: share_in_words(*row[:2]) for name, row in found.items()}
    said = [by_its_mean(study, found, words)]
    if "anticorrelated" in found and takes_nothing_back(study, found):
        said.append(
            "Anti-correlated noise, as random, but with a sum in the weights that stays small, has"
            f" {words['anticorrelated']} too: whatever takes some of the harm back is missing from it"
        )
    if "matched_warmup" in found:
        at, then = next(iter(shares_at(study, "matched_warmup").items()))
        said.append(
            f"One factor for all elements' steps (`matched_warmup`) has {words['matched_warmup']} in the end:"
            f" {judged(*found['matched_warmup'][1][1:])}; at iteration {at:,} it has {short_share(then)}"
            f"{sizes_of_steps(study, noise)}"
        )
    if "reset" in found:
        said.append(
            "Forgetting both moments, bias correction with them, once sigma is under the gradient's own size"
            f" (`reset`) leaves {words['reset']}"
        )
    first = study.rows().get("first_moment")
    if first and len(first[1].diverged) == len(first[1].runs):
        said.append(f"What as much noise does in the first moment alone is not known: all {n} runs diverged")
    length = study.settings[0].knobs["max_iters"]
    yield f"**In short,** over {length:,} iterations (n = {n}): {'. '.join(said)}."


def by_its_mean(study, found, words):
    """What the noise's mean in the second moment, without randomness, is enough for."""
    noise, (_, low, high), _ = found["second_moment_mean"]
    what = "harm" if study.rows()[noise][-1].mean > 0 else "gain"
    mean, alone = "the mean that the noise has in AdamW's second moment", words["second_moment_mean"]
    if low > 1:
        return (
            f"{mean}, without any randomness, is more than enough for its {what}: alone it has {alone}. That it"
            " has the same effect, as the derivation's simplest case would have it, is thereby rejected: what"
            " else the noise does takes some of that back"
        )
    if low >= 1 - MARGIN:
        return f"{mean}, without any randomness, is enough for its {what}: alone it has {alone}"
    if low > 0 and high < 1 - MARGIN:
        return f"{mean}, without any randomness, is enough for a part of its {what}: alone it has {alone}"
    if low <= 0 and high < 1 - MARGIN:
        return f"{mean} is not what does its {what}: alone it has {alone}"
    return f"these seeds cannot tell whether {mean} is enough for its {what}: alone it has {alone}"


def takes_nothing_back(study, found):
    """Whether anti-correlated noise has all of the effect of the mean alone, where that is more than the
    noise's."""
    rows = study.rows()
    apart = compare(*(rows[name][1].losses(BEST) for name in ("anticorrelated", "second_moment_mean")))
    more = min(found[name][1][1] for name in ("anticorrelated", "second_moment_mean")) > 1
    return more and abs(apart.mean) + apart.half < abs(rows["second_moment_mean"][-1].mean)


def sizes_of_steps(study, noise):
    """How the size of the matched warm-up's steps compares with the noise's, in words; nothing where it was not
    measured. The first measurement, under a moment of one gradient, is left aside."""
    setting = study.settings[0]
    ours, theirs = (
        {
            at: np.mean(list(rms.values()))
            for at, rms in setting.arm(name).curve("measured", "signal_rms").items()
        }
        for name in ("matched_warmup", noise)
    )
    ratios = [float(ours[at] / theirs[at]) for at in sorted(ours.keys() & theirs.keys())[1:]]
    if not ratios:
        return ""
    return (
        f". Its steps are not of the size of those with noise: in RMS {min(ratios):.0%} to {max(ratios):.0%} of"
        " the signal in them, so that no share of it tells the step from the preconditioner"
    )


def judged(low, high):
    if low >= 1 - MARGIN and high <= 1 + MARGIN:
        return "it accounts for it"
    if low <= 1 <= high:
        return "it may account for it, and these seeds cannot say"
    if low > 1:
        return "it has more than that effect"
    if high < 0:
        return "it has the opposite effect"
    return "it has a part of it" if low > 0 else "none of it is resolved"
