"""Tables of records: losses beside the paper's, comparisons with their tests, sharpness. No torch.

    tables = all_tables(records)              {"table1": [Table], "comparisons": [...], "sharpness": [...]}
    write(tables["table1"], out / "table1")   table1.md, table1.tex (booktabs) and table1.csv

The frames themselves: `losses_of` and `sharpness_of` of one setting, `statistics.compare` of one study.
"""

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.records import arms
from analysis.statistics import LEVEL, Verdict, compare, half_width
from data.files import replacing

PAPER = {  # its Table 1: nats per character, one seed each, none of the spread reported: train, val
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
SCORES = {"final_val_score": "val score, final", "best_val_score": "val score, best evaluation"}
MOVED = {"final_distance": "mean |W − W₀|, thousandths", "final_update": "mean |W − W₁|, thousandths"}
NAMED = SCORES | LOSSES | MOVED
DASH = "–"
SIGNS = {  # in LaTeX
    **{"±": r"$\pm$", "×": r"$\times$", "−": "$-$", "–": "--", "<": "$<$", "|": "$|$", "~": r"$\sim$"},
    **{"₀": "$_0$", "₁": "$_1$"},
}

INTERVALS = "Means over n seeds ± half of the 95 % t interval."
NOTES = {  # beneath the tables of a file
    "table1": f"{INTERVALS} Losses are in nats per token. Bits a character: nats / ln 2 times the tokens"
    " of the whole split, over its characters. Iterations to val X: when an arm's runs first reach X, the"
    " lowest mean val loss of the baseline in the first half of its run, interpolated between evaluations."
    " Scores are the task's: accuracy, F1 or Matthews' correlation. W₀ are the pretrained weights, W₁ those"
    " that training began with, after NoisyTune."
    " The paper's rows are one seed each, of its own size and length: not comparable with runs of a reduced"
    " size or of a part of the corpus.",
    "comparisons": "Difference: arm minus reference, mean over seeds, paired (Welch's where marked), below 0"
    " better, of a score above 0, ± half of its 95 % t interval (unadjusted). Verdict: paired t-test at"
    f" {LEVEL:g}, Holm-adjusted over the comparisons of one loss that the study plans. Sign flips: the"
    " permutation test's p, and the least that so many seeds can give. Detectable: what these seeds find with"
    " 80 % power at the strictest of these levels. r: the correlation of the pairs. One seed gives no interval"
    " and no test.",
    "sharpness": "Rise of the mean loss over fixed train windows when every weight w becomes w + rho |w| xi,"
    f" xi ~ N(0, 1): the mean over draws, in nats. {INTERVALS} It goes by the learning rate and by the train"
    " loss: compare arms of equal ones.",
}


@dataclass(frozen=True)
class Table:
    """numbers: a frame to compute with. cells: the same as it is read, all text, the arm first."""

    title: str
    numbers: pd.DataFrame
    cells: pd.DataFrame


def all_tables(records):
    """Every table of some records, by the stem of its file, in the order of the studies."""
    settings = records.runs[["study", "size", "setting"]].drop_duplicates().to_dict("records")
    parts = [records.of(**setting) for setting in settings]
    keys = dict.fromkeys((setting["study"], setting["size"]) for setting in settings)
    judged = [key for key in keys if records.studies.get(key, {}).get("purpose") != "tuning"]
    return {
        "table1": [loss_table(part) for part in parts],
        "comparisons": [table for study in judged for table in comparison_tables(records, *study)],
        "sharpness": [table for part in parts if (table := sharpness_table(part))],
    }


def with_interval(mean, half=math.nan, sign=""):
    """ "1.2345 ± 0.0067", without the interval where there is none."""
    return number(mean, f"{sign}.4f") + ("" if math.isnan(half) else f" ± {half:.4f}")


def number(value, form=".4f"):
    return DASH if math.isnan(value) else format(value, form)


def probability(p):
    return "< 0.0001" if p < 1e-4 else number(p)


def cells_of(numbers, labels):
    """The columns that `labels` names, of those that there are, as text under its labels."""
    columns = {}
    for name, label in labels.items():
        if name in numbers:
            halves = numbers.get(f"{name}_half_width", pd.Series(math.nan, numbers.index))
            unit = 1000 if name in MOVED else 1
            columns[label] = list(map(with_interval, unit * numbers[name], unit * halves))
    return pd.DataFrame(columns, index=numbers.index)


def table_of(title, records, numbers, cells, **more):
    """A Table; its numbers say to which study and setting each row belongs."""
    runs = records.runs.drop_duplicates("setting").set_index("setting")
    place = runs.reindex(numbers.get("setting", runs.index[:1].repeat(len(numbers))))
    where = place.corpus + ": " + place.description
    rows = numbers.assign(study=place.study.array, size=place["size"].array, setting=where.array, **more)
    first = ["study", "size", "setting", *more, "arm"]
    rows = rows.reset_index()
    title = "; ".join(filter(None, [title, *where.unique()]))
    cells = cells.reset_index(names="").astype(str)
    return Table(title, rows[[*first, *rows.columns.difference(first, sort=False)]], cells)


# Losses.


def losses_of(records):
    """A frame of one setting's losses, a row an arm, by name: n (runs that finished), diverged, exploded,
    unfinished; the mean of each loss over seeds and its <loss>_half_width; best_val_loss_sd;
    iterations_to_target, its target_val_loss, and reached_target, by how many runs."""
    table = arms(records).set_index("arm").rename(columns={"finished": "n"})
    table = table[["n", "diverged", "exploded", "unfinished"]]
    finished = records.runs[records.runs.status == "finished"]
    table = table.join(means_of(finished, NAMED | (IN_BITS if subwords(records) else {})))
    target = target_loss(records)
    evals = records.curves[records.curves.kind == "eval"].groupby("folder")
    at = {folder: iterations_to(events, target) for folder, events in evals}
    reached = finished.assign(at=finished.folder.map(at).astype(float))
    reached = reached.groupby("arm")["at"].agg(["count", "mean"]).reindex(table.index)
    if "best_val_loss" in table:
        table["best_val_loss_sd"] = finished.groupby("arm").best_val_loss.std()
    table["target_val_loss"] = target
    table["reached_target"] = reached["count"].fillna(0).astype(int)
    table["iterations_to_target"] = reached["mean"].where(table.reached_target == table.n)
    return table


def subwords(records):
    return records.runs.unit.iloc[0] == "token"


def means_of(runs, names):
    """The means of some columns over each arm's runs, and their half_width; those without a value left out."""
    parts = {}
    for name in names:
        if name in runs and runs[name].notna().any():
            values = runs.groupby("arm")[name]
            parts |= {name: values.mean(), f"{name}_half_width": half_width(values.std(), values.count())}
    return pd.DataFrame(parts)


def target_loss(records):
    """The lowest mean val loss of the baseline up to half-way through its training, its start aside; NaN where
    there is none."""
    curve = records.of(arm=arms(records).baseline.iloc[0]).curve("eval", "val_loss")
    half_way = records.runs.max_iters.iloc[0] / 2
    return curve[(curve.index > 0) & (curve.index <= half_way)].mean(axis=1).min() if len(curve) else math.nan


def iterations_to(events, target):
    """The iteration at which a run's val loss first is at most `target`, linear between evaluations; or NaN."""
    events = events.dropna(subset="val_loss")
    at, values = events.iter.to_numpy(), events.val_loss.to_numpy()
    below = np.flatnonzero(values <= target)
    if not len(below):
        return math.nan
    pair = [below[0], max(below[0] - 1, 0)]
    return float(np.interp(target, values[pair], at[pair]))


def loss_table(records):
    """The Table of one setting's losses; with the paper's rows where its Table 1 is done again."""
    numbers, run = losses_of(records), records.runs.iloc[0]
    labels = {**NAMED, **IN_BITS, "best_val_loss_sd": "sd of val, best"}
    cells = cells_of(numbers, labels).rename(index={row.Index: labelled(row) for row in numbers.itertuples()})
    cells.insert(0, "n", numbers.n.array)
    if not math.isnan(target := numbers.target_val_loss.iloc[0]):
        cells[f"iterations to val {target:.3f}"] = [reached_cell(row) for row in numbers.itertuples()]
    study = records.studies.get((run.study, run["size"]), {"together": "table1"})
    if study["together"] == "table1" and run.corpus_name in PAPER:
        for name, (train, val) in PAPER[run.corpus_name].items():
            row = {
                "n": 1,
                LOSSES["minibatch_loss_last100"]: number(train),
                LOSSES["best_val_loss"]: number(val),
            }
            cells.loc[f"paper, {name}"] = [row.get(label, DASH) for label in cells]
    return table_of("", records, numbers, cells)


def labelled(row):
    """An arm's name, and what became of its runs where not all finished well."""
    parts = {"diverged": row.diverged, "ended above their start": row.exploded, "unfinished": row.unfinished}
    remarks = [f"{count} {words}" for words, count in parts.items() if count]
    return row.Index + (f" ({', '.join(remarks)})" if remarks else "")


def reached_cell(row):
    """The mean over the runs where all came to the target; else how many did, since a mean without the slow
    ones would flatter."""
    if not row.reached_target:
        return "never" if row.n else DASH
    if row.reached_target < row.n:
        return f"reached by {row.reached_target} of {row.n}"
    return f"{row.iterations_to_target:,.0f}"


# Comparisons.


def comparison_tables(records, study, size):
    """A Table a loss; losses whose cells are all the same, as the best and the final loss are where nothing
    overfits, share one."""
    found = {}
    for loss in (*SCORES, *COMPARED):
        numbers = compare(records, study, size, loss)
        if len(numbers):
            found.setdefault(comparison_cells(numbers).to_csv(), []).append((loss, numbers))
    for same in found.values():
        numbers = pd.concat([table for _, table in same])
        losses = np.repeat([loss for loss, _ in same], len(same[0][1]))
        first, *others = (NAMED[loss] for loss, _ in same)
        title = first + (f" ({'; '.join(others)}: the same)" if others else "")
        title = f"{title}: difference to the reference" + (f"; {study}" if study else "")
        numbers = numbers.assign(remarks=numbers.remarks.map(", ".join))
        cells = comparison_cells(same[0][1])
        yield table_of(title, records.of(study=study, size=size), numbers, cells, loss=losses)


def comparison_cells(numbers):
    return pd.DataFrame([comparison_row(row) for row in numbers.itertuples()], [*numbers.index])


def comparison_row(row):
    flips = (
        DASH if math.isnan(row.p_flip) else f"{probability(row.p_flip)} (least {probability(row.flip_floor)})"
    )
    return {
        "against": row.reference,
        "n": str(row.n) if row.paired or not row.n else f"{row.n}, Welch",
        "difference": with_interval(row.mean, row.half_width, "+"),
        "p": probability(row.p),
        "p, Holm": probability(row.p_holm),
        "p, sign flips": flips,
        "detectable": number(row.mde),
        "r": number(row.r, "+.2f"),
        "verdict": said(row),
    }


def said(row):
    """A verdict with its remarks; of runs that diverged these say enough."""
    words = {
        Verdict.INCOMPLETE: f"incomplete, {row.seeds} seeds",
        Verdict.NONE: DASH,
        **dict.fromkeys((Verdict.DIVERGED, Verdict.REFERENCE_DIVERGED), ""),
    }
    return ", ".join(filter(None, [words.get(row.verdict, row.verdict), *row.remarks]))


# Sharpness.


def sharpness_of(records):
    """A frame of one setting's arms whose sharpness was measured: n, final_train_loss of the runs that were
    measured, rise_<rho>, hessian_top, hessian_trace, weight_rms, and the half_width of each."""
    names = [name for name in records.runs if name.startswith(("rise_", "hessian_", "weight_rms"))]
    measured = records.runs[(records.runs.status == "finished") & records.runs[names].notna().any(axis=1)]
    table = means_of(measured, ["final_train_loss", *names])
    table.insert(0, "n", measured.groupby("arm").size())
    return table.reindex([arm for arm in arms(records).arm if arm in table.index]).rename_axis("arm")


def sharpness_table(records):
    """The Table of `sharpness_of`; None where nothing was measured."""
    numbers = sharpness_of(records)
    if not len(numbers):
        return None
    rises = [name for name in numbers if name.startswith("rise_") and not name.endswith("half_width")]
    rises = {name: f"rise at rho {name.removeprefix('rise_')}" for name in rises}
    hessian = {"hessian_top": "top eigenvalue of the Hessian", "hessian_trace": "its trace"}
    scale = {"weight_rms": "RMS of the matrices"}
    cells = cells_of(numbers, {"final_train_loss": LOSSES["final_train_loss"], **rises, **hessian, **scale})
    cells.insert(0, "n", numbers.n)
    return table_of("Sharpness of the last weights", records, numbers, cells)


# The three forms.


def write(tables, stem):
    """Write tables in the three forms, where there are any; returns the paths."""
    if not tables:
        return []
    note = NOTES[stem.name]
    forms = {".md": markdown(tables, note), ".tex": latex(tables, note), ".csv": comma_separated(tables)}
    paths = {stem.with_name(stem.name + suffix): text for suffix, text in forms.items()}
    for path, text in paths.items():
        with replacing(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
    return list(paths)


def markdown(tables, note):
    parts = [part for table in tables for part in (f"**{table.title}**", markdown_cells(table.cells))]
    return "\n\n".join([*parts, note]) + "\n"


def markdown_cells(cells):
    """A frame of text as a Markdown table, its first column to the left."""
    rows = [list(cells), ["---", *["---:"] * (len(cells.columns) - 1)], *cells.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def latex(tables, note):
    """Tabulars for the booktabs package, each with its title beneath it, and the note."""
    parts = []
    for table in tables:
        cells = table.cells.map(escaped).rename(columns=escaped)
        tabular = cells.to_latex(index=False, column_format="l" + "r" * (len(cells.columns) - 1))
        parts += [tabular + r"\par\smallskip", escaped(table.title), r"\par\bigskip", ""]
    return "\n".join([*parts, escaped(note), ""])


def escaped(text):
    text = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", "/"))
    for sign, command in SIGNS.items():
        text = text.replace(sign, command)
    return text


def comma_separated(tables):
    """The numbers of all tables under one header; a missing number is an empty field."""
    rows = pd.concat([table.numbers for table in tables])
    return rows.to_csv(index=False, float_format="%.6g", lineterminator="\n")
