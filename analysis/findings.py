"""results/FINDINGS.md: what the studies answer, sentence by sentence, each from the records beside it.

No sentence has its conclusion written into it: which words stand follows from the verdicts, which follow from
the numbers. A question whose study has not been run is called open. report.py writes the text.
"""

import numpy as np

from analysis.arms import by, other_knobs
from analysis.controls import (
    DERIVATION,
    among,
    forgetting,
    found_shares,
    measured_half,
    mechanism,
    plateau_sums,
    share_in_words,
)
from analysis.sentences import BEST, CHOOSING, FINAL, difference, item, named, ranked_rates, section, tally
from analysis.statistics import compare, interval
from analysis.tables import DASH, LOSSES, PAPER, measured_losses, outcome, verdict, with_interval
from config import identity

HEAD = """# Findings

Written by `report.py` from the records beside it. Differences are in nats per symbol, arm minus
reference, means over n pairs of the same seed, with 95 % t intervals (unadjusted); "better", "worse" and "not
resolved" are verdicts of the paired t-test, Holm-adjusted over the study's comparisons of the same loss; p is
the adjusted one. "Not resolved" means that these seeds cannot tell, not that there is no difference;
"resolvable" is the difference that they would find four times in five, at the spread that was seen and the
adjustment's strictest level: a smaller one may be resolved too. Of n pairs the sign-flip test in README.md,
which assumes no distribution, gives no p under 2/2^n, 0.125 for four and 0.031 for six: verdicts of so few rest
on differences being about normal. Nothing is adjusted over several studies, or over the best and the final
loss of one: {families} studies are judged here, each at 5 %. A comparison that occurs in two of them can
therefore be resolved in one alone. Equal arms of one seed in several studies are the same training but for
rounding, which differs between machines and between revisions of the code; they are no replication of each
other. The best evaluation is chosen on the split that it is judged by, for all arms alike. Learning rates were
tuned for the arms of `best_against_best` and `noisytune_tuned`; elsewhere noise has the rate of its reference.
Every study says at which size it was run; what holds at a reduced size need not hold at the paper's.
"""


def findings(studies):
    """The whole text, of sentences.read_studies's."""
    families = sum(study.name not in CHOOSING and bool(study.rows()) for study in studies)
    parts = [HEAD.format(families=families), advice(studies), *paper(studies), DERIVATION, *forgetting(studies)]
    parts += [*mechanism(studies), *flatness(studies), *instead(studies)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


# What to do.


NOT_JUDGING = ("aa_control", *CHOOSING)  # too little noise to be felt; seeds to choose by


def advice(studies):
    """What the verdicts amount to for someone who trains; the words follow from them."""
    parts = [left_alone(studies), *by_length(studies), *before_clipping(studies)]
    return "\n\n".join(["## In short: what to do", *parts, retuned(studies), *perturbed(studies)])


def left_alone(studies):
    """Noise added to an otherwise equal run: each experiment once, whichever studies share it, the one with the
    most seeds."""
    rows = judged_once(studies, BEST)
    gradient, elsewhere = (
        [row for row in rows if (point(row) == "gradient") == whether] for whether in (True, False)
    )
    said = (
        "All comparisons of a run that has noise in its gradients with one that is equal but for that, learning"
        f" rate included ({LOSSES[BEST]}; one that occurs in several studies counts once): {tally(gradient)}."
        " They are of very unlike noise: a count, not a weight of evidence."
    )
    if better := [row[1] for row in elsewhere if outcome(row) == "better"]:
        which = "; ".join(f"`{arm.name}`{once_tuned(studies, arm)}" for arm in better)
        said += f" Put elsewhere than into the gradients, it is resolved as better in: {which}."
    late = [study for study in studies if study.name == "limited_data"]
    if ends := [row for row in judged_once(late, FINAL) if point(row) == "gradient"]:
        said += (
            f" At the end of runs that go on overfitting (`limited_data`; {LOSSES[FINAL]}): {tally(ends)}; what"
            " that is worth is below."
        )
    return said


def once_tuned(studies, arm):
    """What became of an arm at the learning rate that is best without it, where a study has that; else
    nothing."""
    for study in studies:
        of_it = any(arm is one for setting in study.settings for one in setting.arms)
        if of_it and (row := study.rows().get(f"{arm.name}_tuned")):
            return (
                f"; at the rate that is best without noise, not tuned for it, `{row[1].name}` minus"
                f" `{row[2].name}` {difference(row)}"
            )
    return ""


def judged_once(studies, loss):
    """The comparisons of arms that are their reference but for noise, each experiment once."""
    rows = {}
    for study in studies:
        for row in study.rows(loss).values():
            key = tuple(tuple(experiment(arm).items()) for arm in row[1:3])
            judging = study.name not in NOT_JUDGING and adds_noise_alone(row)
            if judging and (key not in rows or rows[key][-1].n < row[-1].n):
                rows[key] = row
    return list(rows.values())


def point(row):
    """Where an arm's noise goes."""
    return row[1].runs[0].config.noise_target


def by_length(studies):
    """How the harm of one noise goes by the length of the run, where two studies tell; a list."""
    found, _ = named(studies, "mechanism", "decisive")
    rows = {study.settings[0].knobs["max_iters"]: study.rows().get("noise") for study in found}
    if len(rows) < 2 or not all(row and row[-1].half is not None for row in rows.values()):
        return
    told = " and ".join(
        f"{with_interval(row[-1].mean, row[-1].half, '+')} after {length:,} iterations (n = {row[-1].n})"
        for length, row in rows.items()
    )
    said = f"The length of the run matters: `noise` minus `baseline` is {told}."
    halves = [half for run in found[0].rows()["noise"][1].ended if (half := measured_half(run)) is not None]
    if halves:
        half = float(np.mean(halves))
        parts = [f"{half / length:.0%} of {length:,}" for length in sorted({*rows, 5_000, 100_000})]
        said += (
            " Noise and second moment fade by the iteration, whatever the length of the run. The mean step is"
            f" back at half of its size at iteration {half:,.0f} (below), which is {', '.join(parts)}; the"
            " paper's runs have 5,000 iterations on shakespeare_char and 100,000 on enwik8 and text8."
        )
    commands = "\n".join(f"    {study.command}" for study in found)
    yield f"{said}\n\n{commands}"


def before_clipping(studies):
    """How much it matters that noise comes after clipping, as the paper is read here; a list."""
    for study in named(studies, "mechanism")[0]:
        found = found_shares(study).get("before_clip")
        if found and found[1]:
            arm, baseline = (study.settings[0].arm(name) for name in ("before_clip", "baseline"))
            c = compare(arm.losses(BEST), baseline.losses(BEST))
            yield (
                "The place of the noise matters too: added before clipping, and not after it as the paper is"
                f" read here, it has {share_in_words(*found[:2])}: `before_clip` minus `baseline`"
                f" {with_interval(c.mean, c.half, '+')} (n = {c.n}).\n\n    {study.command}"
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
        words = [outcome(row) for row in rows]
        if "interim" in words:
            said = "Interim: planned seeds are missing."
        elif "better" in words and not any(outcome(row) == "better" for row in ordinary):
            said = "Keep it, with its learning rate tuned: it is resolved as better than the tuned baseline."
        elif "better" in words:
            said = "It helps, and so does an ordinary longer warm-up: try that first, which needs no noise."
        elif set(words) == {"worse"}:
            said = "Drop it, and tune the learning rate: noise is worse even at the rate that suits it best."
        else:
            said = (
                "No reason to use it here: tune the learning rate instead. At the rate that suits each best,"
                f" none of {len(rows)} arms with noise was resolved as better than the baseline."
            )
        items = map(item, [*rows, *ordinary])
        where = (
            f"At one size, batch and length: {study.where}; nothing but the learning rate was tuned, over rates"
            f" a factor of two apart{', '.join(margins(studies, study))}:"
        )
        texts.append("\n".join([f"**{said}** {where}", "", *items, "", f"    {study.command}"]))
        texts += too_small(rows)
    return "\n\n".join([*texts, *worth_of_tuning(studies)])


def margins(studies, judged):
    """On how many seeds the rates of a study were tuned, and by how much they were the best; a list."""
    for study in named(studies, "tuning")[0]:
        nearest = {
            first.rpartition("_lr")[0]: more
            for setting in study.settings
            for first, _, following, more in ranked_rates(setting)
            if following
        }
        told = [f"`{name}` {nearest[name]:.4f}" for name in judged.record["arms"] if name in nearest]
        yield f", on {len(study.seeds)} seeds of its own (`tuning`)"
        yield f"where the next best rate is worse by: {', '.join(told)}"


def too_small(rows):
    """Whether the paper's own difference is one that these seeds could have seen; a list."""
    if not rows or any(row[-1].resolvable is None for row in rows):
        return
    paper, least = PAPER.get(rows[0][0].knobs["dataset"]), min(row[-1].resolvable for row in rows)
    claimed = paper["noise"][1] - paper["baseline"][1] if paper else 0.0
    covered = {row[1].name: abs(claimed - row[-1].mean) <= row[-1].half for row in rows}
    within, beyond = ([f"`{name}`" for name in covered if covered[name] == side] for side in (True, False))
    if claimed < 0 and least > -claimed:
        yield (
            f"The paper's own gain, {claimed:+.4f} in its Table 1 (one seed each, at its own size), is smaller"
            f" than what these seeds would find four times in five, {least:.4f}. Of the intervals above, that"
            f" of {', '.join(within) or 'none'} covers it, that of {', '.join(beyond) or 'none'} does not."
        )


def worth_of_tuning(studies):
    """What the better learning rate is worth without any noise; a list."""
    for study in named(studies, "mechanism")[0]:
        if "tuned" in study.rows():
            row = study.rows()["tuned"]
            rates = [arm.runs[0].config.learning_rate for arm in row[1:3]]
            said = "What the better learning rate is worth without noise"
            if outcome(row) == "better" and rates[0] > rates[1]:
                said += f" ({rates[0]:g} for {rates[1]:g}: at the lower one, whatever shortens steps does harm)"
            yield f"{said}:\n\n{item(row)}\n\n    {study.command}"


def perturbed(studies):
    """Whether NoisyTune is worth its line, by the arms that are plain fine-tuning but for it; a list."""
    for study in named(studies, "noisytune", "noisytune_tuned")[0]:
        rows = [row for row in study.rows().values() if perturbs_alone(row)]
        counts = by(rows, outcome)
        if not rows or "interim" in counts:
            continue
        if "better" in counts:
            said = "use it, by an arm that is resolved as better than fine-tuning alone"
        elif counts.keys() == {"worse"}:
            said = "leave it out, every arm is worse than fine-tuning alone"
        else:
            said = "no reason to use it here, no arm is resolved as better than fine-tuning alone"
        gains = {row[1].name: row[-1].half - row[-1].mean for row in rows if row[-1].half is not None}
        most = ", ".join(f"`{name}` {max(0.0, gain):.4f}" for name, gain in gains.items())
        rate = rows[0][2].runs[0].config.learning_rate
        yield (
            f"**NoisyTune before fine-tuning: {said}** ({tally(rows)}). {study.record['title']}: {study.where},"
            f" at a learning rate of {rate:g}, from one pretrained model: the intervals are over fine-tunings"
            f" of it. Going by their lower ends it gains at most: {most or DASH}.\n\n    {study.command}"
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


def adds_noise_alone(row):
    """Whether the arm is its reference but for noise, wherever it goes."""
    _, arm, reference, _ = row
    return arm.noisy and not reference.noisy and not other_knobs(arm, reference)


# The sections.


def paper(studies):
    """The paper's claim: noise against its own baseline."""
    found, open_questions = named(studies, "table1_shakespeare", "table1_enwik8", "table1_text8", "sensitivity")
    text = ["## Does the paper's noise help?"]
    wider = [study for study in found if study.name == "sensitivity"]
    for which, its in (
        ("the paper's grid", [study for study in found if study not in wider]),
        ("`sensitivity`, a wider one", wider),
    ):
        if its:
            said = "; ".join(f"`{study.name}/{study.size}` {tally(study.rows().values())}" for study in its)
            text += [f"Cells of {which}, against the baseline, {LOSSES[BEST]}: {said}."]
    return text + [part for study in found for part in section(study)] + open_questions


def flatness(studies):
    """Whether noise finds flatter minima, which the paper explains its gains by."""
    planned, open_questions = named(studies, "flatness")
    measured = [text for study in studies if (text := sharpnesses(study))]
    if not measured:
        open_questions.append("Open: `sharpness.py` has measured no run of these.")
    judged = [part for study in planned for part in section(study)]
    return ["## Does it find flatter minima?", *judged, *measured, *open_questions]


def sharpnesses(study):
    """What sharpness.py measured of a study's runs, each arm against its reference; None where it did not."""
    found = {name: rises for name, row in study.rows().items() if (rises := rises_of(row))}
    if not found:
        return None
    head = (
        f"**{study.record['title']}.** `{study.name}/{study.size}`: the rise of the train loss under relative"
        " changes rho of the weights, and the train loss itself, with 95 % t intervals (unadjusted):"
    )
    items = [f"- {flatter(study.rows()[name], rises)}" for name, rises in found.items()]
    measure = f"    python sharpness.py out/{study.name}/{study.size}"
    return "\n".join([head, "", *items, "", *noise_is_flatter(study, found), f"    {study.command}", measure])


def rises_of(row):
    """{loss: Comparison} of an arm's train loss and of its rises with its reference's; None where they were not
    measured."""
    ours, theirs = (measured_losses(arm) for arm in row[1:3])
    found = {name: compare(ours[name], theirs[name]) for name in ours if name in theirs}
    return found if len(found) > 1 and all(c.n for c in found.values()) else None


def flatter(row, rises):
    """The differences of an arm's rises and train loss to its reference's, in words."""
    names = (name.replace("rise_", "at rho ").replace("final_train_", "train ") for name in rises)
    said = ", ".join(
        f"{name.replace('_', ' ')} {with_interval(c.mean, c.half, '+')}"
        for name, c in zip(names, rises.values())
    )
    return f"`{row[1].name}` minus `{row[2].name}`: {said} (n = {min(c.n for c in rises.values())})."


def noise_is_flatter(study, found):
    """Whether arms that are their reference but for noise rise less at every rho, or more; a list."""
    sides = {"less at every rho": [], "more at every rho": [], "neither": []}
    for name, rises in found.items():
        halves = [(c.mean, c.half) for loss, c in rises.items() if loss.startswith("rise_")]
        if not adds_noise_alone(study.rows()[name]) or any(half is None for _, half in halves):
            continue
        less, more = all(m + h < 0 for m, h in halves), all(m - h > 0 for m, h in halves)
        sides["less at every rho" if less else "more at every rho" if more else "neither"].append(f"`{name}`")
    if any(sides.values()):
        said = "; ".join(f"{side}: {', '.join(names) or 'none'}" for side, names in sides.items())
        told = "Whether the loss of arms that are their reference but for noise rises, by these intervals,"
        yield f"{told} {said}.\n"


def instead(studies):
    """Against what else one could do, and what the method reports where there is nothing."""
    names = ("best_against_best", "robustness_of_result", "limited_data", "regularizers", "schedules")
    found, open_questions = named(studies, *names, "noisytune", "noisytune_tuned", "aa_control")
    text = ["## Against what else one could do"]
    for study in found:
        text += [*section(study), *among(study)]
        if study.name == "schedules":
            text += plateau_sums(study)
        if study.name in ("limited_data", "regularizers"):
            text += overfitting(study)
        if study.name == "limited_data":
            text += [*section(study, FINAL, "And at the end"), *among(study, FINAL), *delaying(study)]
    return text + open_questions


OVERFITS = 0.01  # nats that a final val loss must be above the best one: it cannot be below it


def overfitting(study):
    """How far the baseline overfits: its final val loss over its best one; a list."""
    for setting in study.settings:
        baseline = setting.arm(study.record["baseline"])
        if not baseline or not baseline.ended:
            continue
        best, final = (baseline.losses(name) for name in (BEST, FINAL))
        mean, half = interval([final[seed] - best[seed] for seed in best])
        at = np.mean([run.result["best_iter"] for run in baseline.ended])
        train = interval(list(baseline.losses("final_train_loss").values()))[0]
        word = "overfits" if half is not None and mean - half > OVERFITS else "does not demonstrably overfit"
        yield (
            f"The baseline, `{baseline.name}`, {word if half is not None else 'in one seed'}: its best"
            f" evaluation is at iteration {at:,.0f} (mean), and the final val loss is higher by"
            f" {with_interval(mean, half)} (n = {len(best)}), at a train loss of {train:.4f}. (Overfitting:"
            f" higher by more than {OVERFITS} plus half of the interval.)"
        )


def delaying(study):
    """By how much each arm overfits, and who is better at its best, who at the end alone; a list."""
    best, final = study.rows(), study.rows(FINAL)
    if not best or any(outcome(row) == "interim" for row in [*best.values(), *final.values()]):
        return
    yield "\n".join([
        "By how much each arm overfits, and its verdicts against its reference:",
        "",
        "| arm | best evaluation at | runs best at the end | final - best | at its best | at the end |",
        "|---|---:|---:|---:|---:|---:|",
        *(overfitting_row(arm, best, final) for setting in study.settings for arm in setting.arms if arm.ended),
        "",
        f"    {study.command}",
    ])  # fmt: skip
    rows = {name: (outcome(row), outcome(final[name])) for name, row in best.items() if not row[2].noisy}
    at_best = [f"`{name}`" for name, (then, _) in rows.items() if then == "better"]
    only_later = [
        f"`{name}` (at its best {then})"
        for name, (then, later) in rows.items()
        if later == "better" and then != "better"
    ]
    knobs = study.settings[0].knobs
    stopping = " For these, the seeds do not show more than stopping earlier without them would."
    yield (
        f"Against references without noise, resolved as better at their best: {', '.join(at_best) or 'none'};"
        f" at the end alone: {', '.join(only_later) or 'none'}."
        f"{stopping if only_later else ''} All is of one text of {knobs['train_tokens']:,} symbols and one val"
        " split, and the intervals are over seeds. The learning rate falls by one cosine in all arms, so that a"
        " later best is one at a lower rate; the best is the lowest of the evaluations, one every"
        f" {knobs['eval_interval']:,} iterations."
    )


def overfitting_row(arm, best, final):
    """An arm's line of the table: when its runs are at their best, and how much worse they end."""
    ends = [run.result["best_iter"] for run in arm.ended]
    last = sum(at == run.config.max_iters for at, run in zip(ends, arm.ended))
    losses = [arm.losses(name) for name in (BEST, FINAL)]
    more = with_interval(*interval([losses[1][seed] - losses[0][seed] for seed in losses[0]]))
    verdicts = [verdict(*rows[arm.name]) if arm.name in rows else DASH for rows in (best, final)]
    cells = [f"`{arm.name}`", f"{np.mean(ends):,.0f}", f"{last} of {len(ends)}", more, *verdicts]
    return f"| {' | '.join(cells)} |"
