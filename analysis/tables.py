"""Tables from run folders: losses beside the paper's, comparisons with their tests; Markdown, LaTeX, CSV.

A study's comparisons of one loss are one family: their verdicts are adjusted together (compare.py).
"""

import csv
import dataclasses
import io
from dataclasses import dataclass

import numpy as np

from analysis.arms import PAPER_LENGTH, PAPER_SIZE, by
from analysis.statistics import LEVEL, compare_all, interval

# Nats per character, one seed each, none of the spread reported (the paper's Table 1): train, val.
PAPER = {
    "shakespeare_char": {"baseline": (0.8132, 1.4692), "noise": (0.8083, 1.4650)},
    "enwik8": {"baseline": (0.9323, 1.0048), "noise": (0.9379, 1.0067)},
    "text8": {"baseline": (0.9978, 0.9793), "noise": (1.0041, 0.9791)},
}

LOSSES = {  # of result.json
    "minibatch_loss_last100": "train, last 100 mini-batches",
    "final_train_loss": "train, dropout off",
    "best_val_loss": "val, best evaluation",
    "final_val_loss": "val, final, whole split",
    "best_weights_test_loss": "test, best weights",
}
COMPARED = ("best_val_loss", "final_val_loss", "best_weights_test_loss")
IN_BITS = {name.replace("loss", "bpc"): f"{LOSSES[name]}, bits a character" for name in COMPARED}
DASH = "–"


@dataclass(frozen=True)
class Table:
    """columns, rows: as they are read. records: the same as numbers, a dict a row, for CSV."""

    title: str
    columns: list
    rows: list
    records: list
    notes: tuple = ()


# Losses.

DIFFERENCE_NOTE = (
    "Difference: arm minus reference, mean over seeds, paired (Welch's where marked), below 0 better, ± half"
    " of its 95 % t interval (unadjusted). Verdict: paired t-test, Holm-adjusted over the comparisons of one"
    f" loss in one study, at {LEVEL:g}. Sign flips: the permutation test's p, and in brackets the least that"
    " so many seeds can give. Resolvable: the smallest difference that these seeds find with 80 % power at the"
    " strictest level of these. r: the correlation of the pairs."
)
NOT_RESOLVED = '"Not resolved" says that these seeds cannot tell, not that there is no difference.'
INTERVAL_NOTE = "Means over n seeds ± half of the 95 % t interval."
TARGET_NOTE = (
    "Iterations to val X: when an arm's runs first reach X, the lowest mean val loss of the baseline in the"
    " first half of its run, interpolated between evaluations; mean over seeds."
)
SHARPNESS_NOTE = (
    "Rise of the mean loss over fixed train windows when every weight w becomes w + rho |w| xi, xi ~ N(0, 1):"
    " the mean over draws, then over n seeds, ± half of the 95 % t interval, in nats. It goes by the learning"
    " rate and by the train loss: compare arms of equal ones."
)
BITS_NOTE = (
    "Losses are in nats per token. Bits a character: nats / ln 2 times the tokens of the whole split, over its"
    " characters."
)


def loss_table(setting):
    """A row an arm: mean ± half of the 95 % t interval over seeds; then the paper's rows."""
    subwords = setting.unit == "token"
    labels = {**LOSSES, **IN_BITS} if subwords else LOSSES
    names = [name for name in labels if any(name in run.result for arm in setting.arms for run in arm.ended)]
    target = target_loss(setting)
    columns = ["", "n", *(labels[name] for name in names), "sd of val, best"]
    columns += [f"iterations to val {target:.3f}"] if target else []
    rows = [loss_row(arm, names, target) for arm in setting.arms]
    records = [loss_record(setting, arm, names, target) for arm in setting.arms]
    in_paper = setting.study is None or setting.study["name"].startswith("table1")
    published = PAPER.get(setting.knobs["dataset"], {}) if in_paper else {}
    for name, (train, val) in published.items():
        cells = {"minibatch_loss_last100": f"{train:.4f}", "best_val_loss": f"{val:.4f}"}
        rows.append([f"*paper, {name}*", "1", *(cells.get(loss, DASH) for loss in names)])
        rows[-1] += [DASH] * (len(columns) - len(rows[-1]))
    notes = [INTERVAL_NOTE] if any(len(arm.ended) > 1 for arm in setting.arms) else []
    notes += [TARGET_NOTE] if target else []
    notes += [paper_note(setting)] if published else []
    notes += [BITS_NOTE] if subwords else []
    return Table(f"{setting.title}: {setting.size}", columns, rows, records, tuple(notes))


def loss_row(arm, names, target):
    rest = len(arm.runs) - len(arm.ended) - len(arm.diverged)
    remarks = [f"{len(arm.diverged)} diverged"] if arm.diverged else []
    remarks += [f"{len(arm.exploded)} ended above their start"] if arm.exploded else []
    remarks += [f"{rest} unfinished"] if rest else []
    cells = [arm.name + (f" ({', '.join(remarks)})" if remarks else ""), str(len(arm.ended))]
    losses = [list(arm.losses(name).values()) for name in names]
    cells += [with_interval(*interval(values)) if values else DASH for values in losses]
    sd = seed_sd(arm)
    cells.append(f"{sd:.4f}" if sd is not None else DASH)
    return cells + ([reached_cell(arm, target)] if target else [])


def seed_sd(arm):
    """The sd over seeds of the best val loss, ddof 1; None for fewer than two."""
    best = list(arm.losses("best_val_loss").values())
    return float(np.std(best, ddof=1)) if len(best) > 1 else None


def loss_record(setting, arm, names, target):
    record = {
        "study": setting.study["name"] if setting.study else "",
        "setting": f"{setting.title}: {setting.size}",
        "arm": arm.name,
        "n": len(arm.ended),
        "diverged": len(arm.diverged),
    }
    for name in names:
        values = list(arm.losses(name).values())
        mean, half = interval(values) if values else (None, None)
        record |= {name: mean, f"{name}_half_interval": half}
    reached = crossings(arm, target) if target else []
    record |= {"best_val_loss_sd": seed_sd(arm), "target_val_loss": target, "reached_target": len(reached)}
    all_did = reached and len(reached) == len(arm.ended)
    return record | {"iterations_to_target": float(np.mean(reached)) if all_did else None}


def target_loss(setting):
    """The stated loss for "iterations to": the lowest mean val loss of the baseline up to half-way through its
    training."""
    curve = setting.baseline.curve("evals", "val_loss") if setting.baseline else {}
    half_way = setting.knobs["max_iters"] / 2
    means = [float(np.mean(list(values.values()))) for at, values in curve.items() if at <= half_way]
    return min(means, default=None)


def iterations_to(run, target):
    """The iteration at which a run's val loss first is at most `target`, linear between evaluations."""
    before = None
    for at, loss in run.series(run.evals, "val_loss").items():
        if loss <= target:
            if before is None:
                return float(at)
            return before[0] + (at - before[0]) * (before[1] - target) / (before[1] - loss)
        before = (at, loss)
    return None


def crossings(arm, target):
    """`iterations_to` of those runs that come to the target."""
    return [at for run in arm.ended if (at := iterations_to(run, target)) is not None]


def reached_cell(arm, target):
    """The mean over the runs where all came to the target; else how many did, since a mean without the slow
    ones would flatter."""
    reached = crossings(arm, target)
    if not reached:
        return "never" if arm.ended else DASH
    if len(reached) < len(arm.ended):
        return f"reached by {len(reached)} of {len(arm.ended)}"
    return f"{np.mean(reached):,.0f}"


def paper_note(setting):
    full = {**PAPER_SIZE, **PAPER_LENGTH[setting.knobs["dataset"]]}
    note = (
        "The paper's rows are one seed each, of 6 layers, width 384, context 256"
        f" and {full['max_iters']:,} iterations of batch {full['batch_size']}"
    )
    if setting.partial:
        note += " on the whole corpus"
    same = not setting.partial and all(setting.knobs[name] == value for name, value in full.items())
    return note + ("." if same else ", which these runs are not: the two are not comparable.")


def with_interval(mean, half, sign=""):
    return f"{mean:{sign}.4f}" + (f" ± {half:.4f}" if half is not None else "")


def sharpness_table(setting):
    """The rises of each arm's loss under relative changes of its weights (sharpness.py), beside its train loss;
    None where nothing was measured."""
    arms = [arm for arm in setting.arms if rise_names(arm)]
    if not arms:
        return None
    names = list(dict.fromkeys(name for arm in arms for name in rise_names(arm)))
    columns = [
        "",
        "n",
        LOSSES["final_train_loss"],
        *(f"rise at rho {name.removeprefix('rise_')}" for name in names),
    ]
    rows, records = [], []
    for arm in arms:
        measured = measured_losses(arm)
        n = len(measured["final_train_loss"])
        found = {name: interval(list(losses.values())) for name, losses in measured.items()}
        cells = (
            with_interval(*found[name]) if name in found else DASH for name in ("final_train_loss", *names)
        )
        rows.append([arm.name, str(n), *cells])
        study = setting.study["name"] if setting.study else ""
        place = {"study": study, "setting": f"{setting.title}: {setting.size}"}
        records.append({**place, "arm": arm.name, "n": n})
        for name, (mean, half) in found.items():
            records[-1] |= {name: mean, f"{name}_half_interval": half}
    title = f"Sharpness of the last weights; {setting.title}: {setting.size}"
    return Table(title, columns, rows, records, (SHARPNESS_NOTE,))


def measured_losses(arm):
    """{name: {seed: rise, or final train loss}} of those runs of an arm whose rises were measured."""
    rises = {name: arm.losses(name) for name in rise_names(arm)}
    seeds = set().union(*rises.values())
    return {
        "final_train_loss": {s: loss for s, loss in arm.losses("final_train_loss").items() if s in seeds},
        **rises,
    }


def rise_names(arm):
    """The names of the rises that were measured of an arm's runs."""
    names = (name for run in arm.ended for name in run.result if name.startswith("rise_"))
    return list(dict.fromkeys(names))


# Comparisons.


def comparisons(settings, name):
    """[(setting, arm, reference, Comparison)] of one loss: every arm with its reference; a study is a family.

    An arm whose runs all diverged is among them, or whose reference's did, with nothing to compare.
    """
    found = [
        (setting, arm, reference)
        for setting in settings
        if any(arm.losses(name) for arm in setting.arms)
        for arm in setting.arms
        if (reference := setting.reference(arm))
        and all(one.losses(name) or one.diverged for one in (arm, reference))
    ]
    return [
        (*row, comparison)
        for rows in families(found).values()
        for row, comparison in zip(
            rows, compare_all([(arm.losses(name), reference.losses(name)) for _, arm, reference in rows])
        )
    ]


def verdict(setting, arm, reference, comparison):
    """The comparison's verdict, qualified: an arm that lost more runs to divergence than its reference is never
    better, and one that lost fewer never worse; while planned seeds are missing there is none."""
    remarks = [*lost(arm), *(f"reference: {words}" for words in lost(reference))]
    planned = setting.study.get("seeds", []) if setting.study else []
    more, word = len(arm.diverged) - len(reference.diverged), comparison.verdict
    if arm.missing(planned) or reference.missing(planned):
        word = f"interim, {comparison.n} of {len(planned)} seeds"
    elif (more > 0 and word != "worse") or (more < 0 and word != "better"):
        word = ""
    return ", ".join(filter(None, (word, *remarks)))


def lost(arm):
    """What is to be said of an arm's runs that diverged or exploded, as a list."""
    parts = {"diverged": arm.diverged, "ended above their start": arm.exploded}
    return [f"{len(runs)} of {len(arm.runs)} {word}" for word, runs in parts.items() if runs]


def outcome(row):
    """A verdict in short: better, worse, not resolved, interim, diverged, reference diverged, or a dash."""
    word = verdict(*row).partition(",")[0]
    if word.startswith("reference:"):
        return "reference diverged"
    return "diverged" if word.endswith("diverged") else word


def told_apart(settings):
    """[(losses, their comparisons)]: those of COMPARED that there are, and together those whose tables are the
    same in every figure, as the best and the final loss are where nothing overfits."""
    found = {}
    for name in COMPARED:
        if rows := comparisons(settings, name):
            cells = str(comparison_table(settings, name).rows)
            found[cells] = ((*found[cells][0], name), rows) if cells in found else ((name,), rows)
    return list(found.values())


def title_of(losses):
    """What some losses are called, and which have the same comparisons as the first."""
    first, *same = (LOSSES[name] for name in losses)
    return first + (f" ({'; '.join(same)}: the same)" if same else "")


def against(setting, arm, reference):
    """The arm's name, with its reference's where that is not the usual one."""
    return arm.name if reference.name == usual(setting) else f"{arm.name} against {reference.name}"


def usual(setting):
    """The name of the reference that goes without saying: the study's baseline, else the setting's, or None."""
    return setting.study["baseline"] if setting.study else setting.baseline and setting.baseline.name


def usual_of(rows):
    """The references of some comparisons that go without saying, in words."""
    return " or ".join(sorted({usual(setting) for setting, *_ in rows}))


def families(rows):
    """Comparisons by family: one loss of one study at one size."""
    return by(rows, lambda row: (row[0].study["name"], row[0].study["size"]) if row[0].study else None)


def comparison_table(settings, name, *same):
    """A row for every arm and its reference; None where there is nothing to compare.

    same: other losses of which the title is to say that they are alike.
    """
    found = comparisons(settings, name)
    if not found:
        return None
    several = len({id(setting) for setting, *_ in found}) > 1
    columns = ["", "against", "n", "difference", "p", "p, Holm", "p, sign flips", "resolvable", "r", "verdict"]
    rows, records = [], []
    for setting, arm, reference, c in found:
        label = f"{arm.name} ({setting.title}, {setting.size})" if several else arm.name
        flips = f"{c.p_flip:.3f} (≥ {c.floor:.3f})" if c.p_flip is not None else DASH
        said = verdict(setting, arm, reference, c)
        if outcome((setting, arm, reference, c)) == "interim":  # of a family that is not whole
            c = dataclasses.replace(c, p_holm=None, resolvable=None)
        rows.append([
            *(label, reference.name, str(c.n) if c.paired or not c.n else f"{c.n}, Welch"),
            with_interval(c.mean, c.half, "+") if c.mean is not None else DASH,
            *(probability(c.p), probability(c.p_holm), flips),
            f"{c.resolvable:.4f}" if c.resolvable is not None else DASH,
            *(f"{c.correlation:+.2f}" if c.correlation is not None else DASH, said),
        ])  # fmt: skip
        study = setting.study["name"] if setting.study else ""
        place = {"study": study, "setting": f"{setting.title}: {setting.size}", "loss": name}
        names = {"arm": arm.name, "reference": reference.name, "diverged": len(arm.diverged)}
        records.append({**place, **names, **dataclasses.asdict(c), "verdict": said})
    where = "" if several else f"; {found[0][0].title}: {found[0][0].size}"
    title = f"{title_of((name, *same))}: difference to the reference{where}"
    return Table(title, columns, rows, records, legend(found))


def legend(found):
    """What goes beneath a table of comparisons."""
    sizes = sorted({sum(row[-1].p is not None for row in rows) for rows in families(found).values()})
    if sizes == [0]:
        return ("Below 0 is better. One seed gives no interval and no test.",)
    whose = "this table's" if len(families(found)) == 1 else "its study's"
    return (f"Adjusted over {whose} {' or '.join(map(str, sizes))} comparisons.", DIFFERENCE_NOTE)


def probability(p):
    return DASH if p is None else ("< 0.0001" if p < 1e-4 else f"{p:.4f}")


# The three forms.


def markdown(tables):
    return "\n".join(line for table in tables for line in markdown_lines(table))


def markdown_lines(table):
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [table.columns, *table.rows]]
    head, *rows = [f"| {' | '.join(row)} |" for row in cells]
    lines = [f"**{table.title}**", "", head, f"|---|{'---:|' * (len(table.columns) - 1)}", *rows]
    return [*lines, *(line for note in table.notes for line in ("", note)), ""]


def latex(tables):
    """Tabulars for the booktabs package, each with its title and its notes beneath it."""
    return "\n".join(line for table in tables for line in latex_lines(table))


def latex_lines(table):
    cells = [" & ".join(map(escaped, row)) + r" \\" for row in [table.columns, *table.rows]]
    notes = escaped(" ".join([f"{table.title}.", *table.notes]))
    columns = "l" + "r" * (len(table.columns) - 1)
    head, *rows = cells
    return [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows,
            r"\bottomrule", r"\end{tabular}", r"\par\smallskip",
            rf"\begin{{minipage}}{{\linewidth}}\footnotesize {notes}\end{{minipage}}", ""]  # fmt: skip


LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"|": "$|$", "±": r"$\pm$", "×": r"$\times$", "–": "--", "≥": r"$\geq$", "<": "$<$", ">": "$>$", "*": ""},
}


def escaped(text):
    return "".join(LATEX.get(sign, sign) for sign in text)


def comma_separated(tables):
    """The records of all tables, one header; a missing number is an empty field."""
    records = [record for table in tables for record in table.records]
    names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in record.items()}
        for record in records
    )
    return out.getvalue()
