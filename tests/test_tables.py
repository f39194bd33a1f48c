"""Tables of records: numbers to compute with, cells to read, three forms to write."""

import csv
import io
import json
import math
import shutil

import numpy as np
import pytest
from made_up import DIVERGED, META, diverge, edit, fake_run, make_study, val_loss
from scipy import stats

from analysis import tables as t
from analysis.records import read
from analysis.statistics import compare
from data.files import read_json, write_json

BEST, MINIBATCH = t.LOSSES["best_val_loss"], t.LOSSES["minibatch_loss_last100"]
TWO = {"baseline": {}, "noise": {"noise_sigma": 0.1}}


def cells_of(table):
    """{arm: {column: cell}}"""
    return {row[""]: row for row in table.cells.to_dict("records")}


def ended(values):
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return f"{np.mean(values):.4f} ± {(high - low) / 2:.4f}"


def test_losses_are_means_with_t_intervals(two_arms):
    table = t.loss_table(read([two_arms]))
    values = [val_loss(1000, seed, 0.1) for seed in (1, 2, 3)]
    row = cells_of(table)["noise"]
    assert (row["n"], row[BEST]) == ("3", ended(values))
    assert row["sd of val, best"] == f"{np.std(values, ddof=1):.4f}"
    numbers = table.numbers.set_index("arm").loc["noise"]
    assert numbers.best_val_loss == pytest.approx(np.mean(values))
    assert "reduced size" in table.title


@pytest.mark.parametrize("unit", ["token", "character"])
def test_distances_are_in_thousandths_and_losses_of_subwords_in_bits_too(tmp_path, unit):
    meta = {**META, "unit": unit, "pattern": ".", "special": []}
    folder = fake_run(tmp_path / "baseline" / "seed1", meta=meta)
    edit(folder / "result.json", final_distance=0.0025, final_val_bpc=1.25)
    row = cells_of(t.loss_table(read([tmp_path])))["baseline"]
    assert row[t.MOVED["final_distance"]] == "2.5000"
    assert row.get(t.IN_BITS["final_val_bpc"]) == ("1.2500" if unit == "token" else None)


def test_the_papers_table_stands_beside_what_repeats_it(two_arms, tmp_path):
    table = t.loss_table(read([two_arms]))
    for arm, (train, val) in t.PAPER["shakespeare_char"].items():
        row = cells_of(table)[f"paper, {arm}"]
        assert [row["n"], row[MINIBATCH], row[BEST]] == ["1", f"{train:.4f}", f"{val:.4f}"]
    assert len(table.numbers) == 2, "the paper's are none of the numbers to compute with"
    for together, rows in (("table1", 4), (None, 2)):
        folder = make_study(tmp_path / "studies" / str(together), TWO, name=str(together), together=together)
        assert len(t.loss_table(read([folder])).cells) == rows


def test_an_arm_says_which_runs_it_lost_and_has_a_row_with_none_left(two_arms):
    diverge(two_arms / "noise", [4], noise_sigma=0.1)
    fake_run(two_arms / "noise" / "seed5", 5, noise_sigma=0.1, until=500)
    assert cells_of(t.loss_table(read([two_arms])))["noise (1 diverged, 1 unfinished)"]["n"] == "3"
    for folder in two_arms.glob("*/seed*"):
        write_json(folder / "result.json", DIVERGED)
    assert t.loss_table(read([two_arms])).numbers.n.tolist() == [0, 0]


def test_iterations_to_a_loss_are_interpolated_and_those_that_never_get_there_said(two_arms):
    for seed in (1, 2):
        fake_run(two_arms / "loud" / f"seed{seed}", seed, noise_sigma=1.0)
    records = read([two_arms])
    target = t.target_loss(records)
    assert target == pytest.approx(np.mean([val_loss(500, seed, 0) for seed in (1, 2, 3)]))
    at = range(0, 1001, 250)
    reached = [np.interp(-target, [-val_loss(one, s, 0) for one in at], at) for s in (1, 2, 3)]  # losses fall
    row = t.losses_of(records).loc["baseline"]
    assert (row.reached_target, row.iterations_to_target) == (3, pytest.approx(np.mean(reached)))
    table = cells_of(t.loss_table(records))
    column = f"iterations to val {target:.3f}"
    assert (table["baseline"][column], table["loud"][column]) == (f"{np.mean(reached):,.0f}", "never")
    log = two_arms / "loud" / "seed2" / "log.jsonl"
    log.write_text(json.dumps({"kind": "eval", "iter": 0, "train_loss": 9.0, "val_loss": 0.1}) + "\n")
    numbers = t.losses_of(read([two_arms])).loc["loud"]
    assert (numbers.reached_target, math.isnan(numbers.iterations_to_target)) == (1, True)
    assert cells_of(t.loss_table(read([two_arms])))["loud"][column] == "reached by 1 of 2"
    for path in (two_arms / "baseline").rglob("log.jsonl"):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        later = [e | {"val_loss": 9.0} if e["kind"] == "eval" and e["iter"] >= 500 else e for e in events]
        path.write_text("".join(json.dumps(event) + "\n" for event in later))
    assert t.target_loss(read([two_arms])) == pytest.approx(np.mean([val_loss(250, s, 0) for s in (1, 2, 3)]))


def test_the_start_of_a_run_is_no_loss_to_reach(tmp_path):
    make_study(tmp_path, TWO)
    for path in tmp_path.rglob("log.jsonl"):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(event) + "\n" for event in events if event["iter"] in (0, 1000)))
    assert math.isnan(t.target_loss(read([tmp_path])))
    assert not [name for name in t.loss_table(read([tmp_path])).cells if name.startswith("iterations to")]


def test_comparisons_are_written_as_they_are_computed(two_arms, tmp_path):
    records = read([two_arms])
    (table,) = t.all_tables(records)["comparisons"]
    wanted = compare(records, "", "", "best_val_loss").loc["noise"]
    row = cells_of(table)["noise"]
    difference = f"{wanted['mean']:+.4f} ± {wanted.half_width:.4f}"
    names = ("against", "n", "difference", "verdict")
    assert [row[name] for name in names] == ["baseline", "3", difference, "worse"]
    paths = t.write([table], tmp_path / "tables" / "comparisons")
    assert [path.suffix for path in paths] == [".md", ".tex", ".csv"]
    text, tex, comma = (path.read_text() for path in paths)
    assert f"| noise | baseline | 3 | {difference} |" in text
    assert f"noise & baseline & 3 & {difference.replace('±', '$' + chr(92) + 'pm$')} &" in tex
    assert all(rule in tex for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert "%" not in tex.replace(r"\%", ""), "nothing of it is a comment"
    rows = list(csv.DictReader(io.StringIO(comma)))
    assert [row["loss"] for row in rows] == list(t.COMPARED), "the numbers of every loss"
    assert float(rows[0]["p_holm"]) == pytest.approx(wanted.p_holm, rel=1e-5)
    assert (rows[0]["arm"], rows[0]["paired"], rows[0]["verdict"]) == ("noise", "True", "worse")
    assert t.write([], tmp_path / "tables" / "none") == []
    make_study(tmp_path / "study", {**TWO, "x|y": {"noise_sigma": 0.3}})
    both = t.all_tables(read([tmp_path]))["table1"]
    rows = csv.DictReader(io.StringIO(t.comma_separated(both)))
    assert [row["study"] for row in rows] == ["", "", "tiny", "tiny", "tiny"]
    assert r"| x\|y | 3 |" in t.markdown(both, "")


def test_losses_that_say_the_same_share_a_table_and_others_do_not(tmp_path):
    make_study(tmp_path, TWO)
    (table,) = t.comparison_tables(read([tmp_path]), "tiny", "cpu")
    assert f"({t.LOSSES['final_val_loss']}; {t.LOSSES['best_weights_test_loss']}: the same)" in table.title
    for path in (tmp_path / "noise").rglob("result.json"):
        edit(path, final_val_loss=9.0 + read_json(path)["best_val_loss"])
    one, other = t.comparison_tables(read([tmp_path]), "tiny", "cpu")
    assert one.numbers.loss.tolist() == ["best_val_loss", "best_weights_test_loss"]
    assert other.numbers.loss.tolist() == ["final_val_loss"]


def test_a_study_that_chooses_rates_is_not_judged(tmp_path):
    make_study(tmp_path, TWO, purpose="tuning")
    tables = t.all_tables(read([tmp_path]))
    assert (len(tables["table1"]), tables["comparisons"]) == (1, [])


def test_a_verdict_is_said_with_its_remarks(tmp_path):
    arms = {**TWO, "lost": {"noise_sigma": 0.1, "noise_gamma": 0.9}, "later": {"noise_sigma": 0.2}}
    make_study(tmp_path, arms, planned=(1, 2, 3))
    diverge(tmp_path / "lost", **arms["lost"])
    diverge(tmp_path / "noise", [4], noise_sigma=0.1)
    shutil.rmtree(tmp_path / "later" / "seed3")
    (table,) = t.comparison_tables(read([tmp_path]), "tiny", "cpu")
    said = {arm: row["verdict"] for arm, row in cells_of(table).items()}
    words = {"noise": "worse, 1 of 4 diverged", "lost": "3 of 3 diverged", "later": "incomplete, 2 of 3 seeds"}
    assert said == words
    assert cells_of(table)["later"]["p, Holm"] == "–"
    assert cells_of(table)["lost"]["difference"] == "–"
    for seed in (1, 2, 3):
        fake_run(tmp_path / "apart" / f"seed{seed + 3}", seed + 3, noise_sigma=0.3)
    (table,) = t.comparison_tables(read([tmp_path]), "tiny", "cpu")
    assert cells_of(table)["apart"]["n"] == "3, Welch"


def test_sharpness_stands_beside_the_train_loss_of_the_runs_that_were_measured(two_arms):
    assert t.sharpness_table(read([two_arms])) is None
    for seed in (1, 2):
        path = two_arms / "noise" / f"seed{seed}" / "sharpness.json"
        write_json(path, {"rises": {"0.05": [seed, seed + 1.0]}})
    table = t.sharpness_table(read([two_arms]))
    (row,) = table.cells.to_dict("records")
    assert (row[""], row["n"], row["rise at rho 0.05"]) == ("noise", "2", ended([1.5, 2.5]))
    assert row[t.LOSSES["final_train_loss"]] == ended([val_loss(1000, seed, 0.1) for seed in (1, 2)])


def test_latex_escapes_what_it_must():
    assert t.escaped("a_b & 95 % ± {x} < #1 ~") == r"a\_b \& 95 \% $\pm$ \{x\} $<$ \#1 $\sim$"
    words = [*t.NOTES.values(), *t.NAMED.values(), *t.IN_BITS.values(), t.DASH, "3 × 4"]
    assert t.escaped(" ".join(words)).isascii(), "pdflatex refuses other signs"
