"""Arms that may be compared, tables of losses and comparisons, and the report made of them."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from made_up import META, drawn_text, fake_run, losses_text, make_study, val_loss
from scipy import stats

import plot
from analysis import arms, effects, report, tables
from analysis.arms import differences, read_settings
from analysis.sentences import Study, difference, tally
from analysis.statistics import compare_all, interval
from config import UserError
from data.files import write_json

# Arms.


def test_differences_are_paired_by_seed(two_arms):
    (setting,) = read_settings([two_arms])
    baseline, noise = setting.arms
    assert (baseline.name, noise.name) == ("baseline", "noise")
    ((at, mean, half, n),) = differences(noise, baseline, "val_loss", [500])
    pairs = [0.1 * (1 + 0.3 * seed) for seed in (1, 2, 3)]
    wanted = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    assert (at, n) == (500, 3)
    assert (mean - half, mean + half) == pytest.approx((wanted.low, wanted.high), rel=1e-9)


def test_the_difference_leaves_out_seeds_without_a_pair(two_arms):
    fake_run(two_arms / "noise" / "seed9", 9, noise_sigma=0.1)
    (setting,) = read_settings([two_arms])
    baseline, noise = setting.arms
    ((_, mean, _, n),) = differences(noise, baseline, "val_loss", [500])
    assert n == 3
    assert mean == pytest.approx(0.1 * (1 + 0.3 * 2))


def test_two_configs_never_fall_into_one_arm(two_arms):
    fake_run(two_arms / "again" / "noise" / "seed7", 7, noise_sigma=0.2)
    with pytest.raises(UserError, match=r"'noise'.*differ in noise_sigma: 0.1 and 0.2"):
        read_settings([two_arms])


def test_one_seed_twice_is_refused(two_arms):
    fake_run(two_arms / "again" / "noise" / "seed2", 2, noise_sigma=0.1)
    with pytest.raises(UserError, match="seed 2 twice"):
        read_settings([two_arms])


def test_a_config_of_an_older_version_is_read_with_the_defaults_of_what_came_since(two_arms):
    path = two_arms / "noise" / "seed1" / "config.json"
    config = json.loads(path.read_text())
    del config["noise_eta"]
    path.write_text(json.dumps({**config, "knob_of_old": 1}))
    assert plot.main([str(two_arms)]) == 0


def test_another_cadence_of_evaluation_is_another_arm(two_arms):
    """The lowest of ten evaluations is not to be compared with the lowest of a hundred."""
    fake_run(two_arms / "noise" / "seed8", 8, noise_sigma=0.1, eval_interval=10)
    with pytest.raises(UserError, match="differ in eval_interval"):
        read_settings([two_arms])


def test_a_study_names_its_baseline_and_the_order_of_its_arms(tmp_path):
    arms_ = {"zero": {"noise_sigma": 0.02}, "noise": {"noise_sigma": 0.1}, "a_baseline": {}}
    (setting,) = read_settings([make_study(tmp_path, arms_, baseline="zero")])
    assert [arm.name for arm in setting.arms] == ["zero", "noise", "a_baseline"]
    assert setting.baseline.name == "zero"
    rows = tables.comparisons([setting], "best_val_loss")
    assert [(arm.name, reference.name) for _, arm, reference, _ in rows] == [
        *(("noise", "zero"), ("a_baseline", "zero"))
    ]


def test_an_arm_may_be_compared_with_another_than_the_baseline(tmp_path):
    arms_ = {
        "baseline": {},
        "wide": {"weight_decay": 0.3},
        "wide_noise": {"weight_decay": 0.3, "noise_sigma": 0.1},
    }
    (setting,) = read_settings([make_study(tmp_path, arms_, versus={"wide_noise": "wide"})])
    rows = {arm.name: reference.name for _, arm, reference, _ in tables.comparisons([setting], "best_val_loss")}
    assert rows == {"wide": "baseline", "wide_noise": "wide"}


def test_one_arms_folder_never_holds_two_sizes_or_corpora(tmp_path):
    other = {**META, "splits": {"train": {"tokens": 9, "sha256": "def"}}}
    for field, options in (
        ("n_embd: 384 and 768", {"n_embd": 768}),
        ("data: 'abc' and 'def'", {"meta": other}),
    ):
        folder = tmp_path / field[:4]
        fake_run(folder / "arm" / "seed1")
        fake_run(folder / "arm" / "seed2", 2, **options)
        with pytest.raises(UserError, match=f"'arm' and differ in {field}"):
            read_settings([folder])


@pytest.mark.parametrize("source", ["out/one", "out/one/seed1"])
def test_runs_from_other_weights_are_not_one_arm(tmp_path, source):
    for seed, digest in ((1, "abc"), (2, "abc"), (3, "def")):
        folder = fake_run(tmp_path / "arm" / f"seed{seed}", seed, init_from=source)
        about = json.loads((folder / "run.json").read_text())
        write_json(folder / "run.json", {**about, "init_from": {"sha256": digest}})
        if seed == 2:
            assert len(read_settings([tmp_path])[0].arms[0].runs) == 2
    with pytest.raises(UserError, match=f"seed3: {source} had other weights when this run began"):
        read_settings([tmp_path])


def test_a_study_is_not_mixed_from_cards_and_processors(tmp_path):
    for seed, device in ((1, "cpu"), (2, "cuda:0")):
        folder = fake_run(tmp_path / "noise" / f"seed{seed}", seed)
        about = json.loads((folder / "run.json").read_text())
        write_json(folder / "run.json", {**about, "machine": {"device": device, "name": "x"}})
    with pytest.raises(UserError, match="differ in device: 'cpu' and 'cuda'"):
        read_settings([tmp_path])
    parts = [{"iter": 0, "machine": {"device": "mps"}}, {"iter": 0, "machine": {"device": "cuda:0"}}]
    resumed = {"machine": {"device": "cpu"}, "resumed": [*parts, {"iter": 1000, "machine": {"device": "mps"}}]}
    for path in tmp_path.rglob("run.json"):
        write_json(
            path,
            json.loads(path.read_text())
            | {"machine": {"device": "cuda"}}
            | (resumed if path.parts[-2] == "seed2" else {}),
        )
    assert read_settings([tmp_path])[0].arms[0].runs[1].device == "cuda", "where there were steps"
    resumed["resumed"] = [{"iter": 500, "machine": {"device": "cuda:0"}}]
    for path in tmp_path.rglob("run.json"):
        write_json(path, json.loads(path.read_text()) | (resumed if path.parts[-2] == "seed2" else {}))
    with pytest.raises(UserError, match="differ in device: 'cuda' and 'cpu\\+cuda'"):
        read_settings([tmp_path])


# Tables.


def test_the_table_stands_beside_the_papers(two_arms, monkeypatch):
    monkeypatch.setitem(arms.PAPER_LENGTH["shakespeare_char"], "max_iters", 1000)
    text = losses_text(read_settings([two_arms]))
    values = [val_loss(1000, seed, 0.1) for seed in (1, 2, 3)]
    mean, half = interval(values)
    assert f"| noise | 3 | {mean:.4f} ± {half:.4f} |" in text
    assert "| *paper, baseline* | 1 | 0.8132 | – | 1.4692 | – |" in text
    assert "| *paper, noise* | 1 | 0.8083 | – | 1.4650 | – |" in text
    assert "not comparable" not in text
    for name, knobs in (("small", {"n_layer": 2}), ("short", {"batch_size": 4})):
        fake_run(two_arms / name / "baseline" / "seed1", **knobs)
        assert "not comparable" in losses_text(read_settings([two_arms / name]))


def test_the_comparisons_are_compared_and_written_in_three_forms(two_arms):
    settings = read_settings([two_arms])
    table = tables.comparison_table(settings, "best_val_loss")
    losses = [{seed: val_loss(1000, seed, sigma) for seed in (1, 2, 3)} for sigma in (0.1, 0.0)]
    (wanted,) = compare_all([tuple(losses)])
    ((name, against, n, difference, *_, verdict),) = table.rows
    assert (name, against, n, verdict) == ("noise", "baseline", "3", "worse")
    assert difference == f"{wanted.mean:+.4f} ± {wanted.half:.4f}"
    assert f"| noise | baseline | 3 | {difference} |" in tables.markdown([table])
    latex = tables.latex([table])
    assert f"noise & baseline & 3 & {difference.replace('±', r'$' + chr(92) + 'pm$')} &" in latex
    assert all(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    printed = latex.split(r"\end{tabular}")[1]
    assert "below 0 better" in printed
    assert r"95 \% t interval (unadjusted)" in printed
    assert "reduced size" in printed
    assert "%" not in printed.replace(r"\%", ""), "nothing of it is a comment"
    (row,) = csv.DictReader(io.StringIO(tables.comma_separated([table])))
    assert float(row["mean"]) == pytest.approx(wanted.mean, rel=1e-5)
    assert float(row["p_holm"]) == pytest.approx(wanted.p_holm, rel=1e-5)
    assert (row["arm"], row["paired"], row["verdict"]) == ("noise", "True", "worse")


def test_latex_escapes_what_it_must():
    assert tables.escaped("a_b & 95 % ± ≥ {x}") == r"a\_b \& 95 \% $\pm$ $\geq$ \{x\}"


def test_an_arm_that_lost_runs_says_so_in_its_verdict(two_arms):
    fake_run(two_arms / "noise" / "seed5", 5, status="diverged", noise_sigma=0.1)
    fake_run(two_arms / "baseline" / "seed5", 5)
    table = tables.comparison_table(read_settings([two_arms]), "best_val_loss")
    assert table.rows[0][-1] == "worse, 1 of 4 diverged"
    assert table.rows[0][2] == "3"


def test_iterations_to_a_loss_are_interpolated_and_those_that_never_get_there_said(two_arms):
    (setting,) = read_settings([two_arms])
    baseline, noise = setting.arms
    target = tables.target_loss(setting)
    assert target == pytest.approx(np.mean([val_loss(500, seed, 0) for seed in (1, 2, 3)]))
    reached = [tables.iterations_to(run, target) for run in baseline.runs]
    for run, at in zip(baseline.runs, reached):
        ends = [at - at % 250, at - at % 250 + 250]
        losses = [val_loss(end, run.seed, 0) for end in ends]
        assert np.interp(at, ends, losses) == pytest.approx(target)
    assert tables.loss_row(baseline, [], target)[-1] == f"{np.mean(reached):,.0f}"
    assert tables.loss_row(noise, [], 2.26)[-1] == "reached by 1 of 3"
    record = tables.loss_record(setting, noise, [], 2.26)
    assert (record["reached_target"], record["iterations_to_target"]) == (1, None)
    assert tables.loss_row(noise, [], 1.0)[-1] == "never"


def test_a_study_is_a_family_whatever_is_drawn_with_it(tmp_path):
    two = {"baseline": {}, "noise": {"noise_sigma": 0.001}, "more": {"noise_sigma": 0.002}}
    for name in ("table1_a", "table1_b"):
        make_study(tmp_path / name, two, name=name)
    alone = tables.comparisons(read_settings([tmp_path / "table1_a"]), "best_val_loss")
    together = tables.comparisons(read_settings([tmp_path]), "best_val_loss")
    assert [c.p_holm for *_, c in together] == 2 * [c.p_holm for *_, c in alone]
    assert (
        "its study's 2 comparisons"
        in tables.comparison_table(read_settings([tmp_path]), "best_val_loss").notes[0]
    )


def test_an_arm_that_diverged_whole_keeps_its_row_and_no_survivors_are_better(tmp_path):
    folder = make_study(tmp_path, {"baseline": {}, "noise": {"noise_sigma": 0.1}, "low": {"weight_decay": 0.2}})
    for seed in (1, 2, 3):
        fake_run(folder / "noise" / f"seed{seed}", seed, status="diverged", noise_sigma=0.1)
    fake_run(folder / "low" / "seed1", 1, status="diverged", weight_decay=0.2)
    settings = read_settings([folder])
    rows = {row[0]: row for row in tables.comparison_table(settings, "best_val_loss").rows}
    assert (rows["noise"][2], rows["noise"][3], rows["noise"][-1]) == ("0", "–", "3 of 3 diverged")
    assert rows["low"][-1] == "1 of 3 diverged"
    effects.forest_figure(settings)


def test_a_reference_that_lost_runs_is_told_and_gives_no_arm_a_worse(tmp_path):
    arms_ = {"baseline": {}, "rate": {"learning_rate": 0.01}}
    arms_["rate_noise"] = {"learning_rate": 0.01, "noise_sigma": 0.1}
    folder = make_study(tmp_path, arms_, versus={"rate_noise": "rate"}, seeds=(1, 2, 3, 4))

    def said():
        rows = tables.comparison_table(read_settings([folder]), "best_val_loss").rows
        return {row[0]: row[-1] for row in rows}

    assert said()["rate_noise"] == "worse"
    fake_run(folder / "rate" / "seed1", 1, status="diverged", learning_rate=0.01)
    assert said()["rate_noise"] == "reference: 1 of 4 diverged"
    for seed in (2, 3, 4):
        fake_run(folder / "rate" / f"seed{seed}", seed, status="diverged", learning_rate=0.01)
    assert said() == {"rate": "4 of 4 diverged", "rate_noise": "reference: 4 of 4 diverged"}
    rows = {row[1].name: row for row in tables.comparisons(read_settings([folder]), "best_val_loss")}
    assert [tables.outcome(row) for row in rows.values()] == ["diverged", "reference diverged"]
    assert tally(rows.values()) == "1 diverged, 1 reference diverged"


def test_to_overfit_is_not_to_explode(tmp_path):
    folder = make_study(tmp_path, {"baseline": {}, "noise": {"noise_sigma": 0.1}})
    for path in (folder / "noise").rglob("result.json"):
        write_json(path, {**json.loads(path.read_text()), "final_val_loss": 50.0})
    (setting,) = read_settings([folder])
    assert not setting.arm("noise").exploded
    path = folder / "noise" / "seed2" / "result.json"
    write_json(path, {**json.loads(path.read_text()), "final_train_loss": 50.0})
    (setting,) = read_settings([folder])
    assert [run.seed for run in setting.arm("noise").exploded] == [2]
    (row,) = tables.comparisons([setting], "best_val_loss")
    assert tables.verdict(*row) == "worse, 1 of 3 ended above their start"
    assert tables.outcome(row) == "worse"


def test_the_target_is_the_lowest_that_the_baseline_comes_to_by_half_way(two_arms):
    for path in (two_arms / "baseline").rglob("log.jsonl"):
        log = path.read_text().splitlines()
        events = [json.loads(line) for line in log]
        for event in events:
            if event["kind"] == "eval" and event["iter"] >= 500:
                event["val_loss"] += 1.0  # it overfits
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
    (setting,) = read_settings([two_arms])
    assert tables.target_loss(setting) == pytest.approx(np.mean([val_loss(250, s, 0) for s in (1, 2, 3)]))


def test_other_cadences_and_devices_are_other_settings(tmp_path):
    fake_run(tmp_path / "baseline" / "seed1")
    fake_run(tmp_path / "often" / "seed1", noise_sigma=0.1, eval_interval=10)
    folder = fake_run(tmp_path / "card" / "seed1", noise_sigma=0.1)
    about = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", {**about, "machine": {"device": "cuda:0", "name": "x"}})
    settings = read_settings([tmp_path])
    assert sorted(arm.name for setting in settings for arm in setting.arms) == ["baseline", "card", "often"]
    said = {setting.arms[0].name: setting.size.partition("characters")[2] for setting in settings}
    assert said == {
        "baseline": ", eval_interval 250, device ",
        "often": ", eval_interval 10, device ",
        "card": ", eval_interval 250, device cuda",
    }
    assert tables.comparisons(settings, "best_val_loss") == []


def test_a_loss_that_is_null_is_none(two_arms):
    path = two_arms / "noise" / "seed2" / "result.json"
    write_json(path, {**json.loads(path.read_text()), "final_val_loss": None})
    (setting,) = read_settings([two_arms])
    assert sorted(setting.arm("noise").losses("final_val_loss")) == [1, 3]


def test_there_is_no_verdict_before_the_planned_seeds_are_there(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}}
    (setting,) = read_settings([make_study(tmp_path, arms_, seeds=(1, 2, 3))])
    assert tables.comparison_table([setting], "best_val_loss").rows[0][-1] == "worse"
    record = json.loads((tmp_path / "study.json").read_text())
    write_json(tmp_path / "study.json", {**record, "seeds": [1, 2, 3, 4]})
    settings = read_settings([tmp_path])
    table = tables.comparison_table(settings, "best_val_loss")
    *_, p, p_holm, _, resolvable, _, word = table.rows[0]
    assert (p_holm, resolvable, word) == ("–", "–", "interim, 3 of 4 seeds")
    assert p != "–"
    assert (table.records[0]["p_holm"], table.records[0]["resolvable"]) == (None, None)
    assert "resolvable" not in difference(tables.comparisons(settings, "best_val_loss")[0])
    assert "there is no verdict" in drawn_text(effects.forest_figure(settings))


def test_unpaired_arms_are_said_to_be(tmp_path):
    make_study(tmp_path, {"baseline": {}, "noise": {"noise_sigma": 0.1}}, seeds=(1, 2, 3))
    for seed in (1, 2, 3):
        shutil.rmtree(tmp_path / "noise" / f"seed{seed}")
        fake_run(tmp_path / "noise" / f"seed{seed + 3}", seed + 3, noise_sigma=0.1)
    settings = read_settings([tmp_path])
    (row,) = tables.comparisons(settings, "best_val_loss")
    assert ", unpaired, Welch's test): " in difference(row)
    assert tables.comparison_table(settings, "best_val_loss").rows[0][2] == "3, Welch"


# The report.

MACHINE = {"name": "A machine", "dtype": "bfloat16", "threads": 1}
VERSIONS = {"torch": "2.13.0", "revision": "0123456789abcdef"}


def test_the_report_says_in_words_what_the_tables_say(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}, "same": {"learning_rate": 0.01}}
    folder = make_study(tmp_path / "tiny" / "cpu", arms_)
    for path in folder.rglob("run.json"):
        about = json.loads(path.read_text())
        here = MACHINE | {"through_float32": path.parent.name == "seed2"}
        write_json(path, {**about, "machine": here, "versions": VERSIONS, "began": "2026-11-21T00:00:00"})
    for path in folder.rglob("result.json"):
        write_json(path, {**json.loads(path.read_text()), "seconds": 1200.0})
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    (setting,) = read_settings([folder])
    ((_, _, _, noise), (_, _, _, same)) = tables.comparisons([setting], "best_val_loss")
    assert f"worse: noise {noise.mean:+.4f} ± {noise.half:.4f}" in text
    assert f"not resolved: same {same.mean:+.4f} ± {same.half:.4f}" in text
    for words in (
        "9 runs, 0 of them diverged, 3 seeds an arm",
        "3.0 hours",
        "A machine, bfloat16 through float32, 1 thread a run (3 runs) and A machine, bfloat16,",
        "Pairs across these differ in rounding too",
    ):
        assert words in text
    for words in ("revision 0123456789;", "2026-11-21", "python sweep.py config/study/tiny.py config/cpu.py"):
        assert words in text
    record = json.loads((folder / "study.json").read_text())
    write_json(folder / "study.json", {**record, "arms": [*record["arms"], "later"]})
    report.main([str(tmp_path)])
    text = (tmp_path / "README.md").read_text()
    assert "config/cpu.py --arms=baseline,noise,same" in text
    assert "3 of 4 arms" in text
    with pytest.raises(UserError, match="no study lies in"):
        report.main([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"which records\? python report\.py results"):
        report.main([])


def test_the_reports_contents_are_in_order_with_runs_hours_and_what_came_out(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}}
    for name in ("own", "sensitivity", "table1_text8", "tuning"):
        make_study(tmp_path / name / "cpu", arms_, name=name, seeds=(1, 2, 3, 4))
    for path in tmp_path.rglob("run.json"):
        write_json(path, json.loads(path.read_text()) | {"machine": MACHINE, "versions": VERSIONS})
    for path in tmp_path.rglob("result.json"):
        write_json(path, json.loads(path.read_text()) | {"seconds": 900.0})
    for name in ("figure2_validation_loss", "differences"):
        for figures in (tmp_path / "own" / "cpu" / "figures", tmp_path / "figures" / "cpu"):
            figures.mkdir(parents=True, exist_ok=True)
            (figures / f"{name}.png").write_bytes(b"")
    report.main([str(tmp_path)])
    text = (tmp_path / "README.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| [A study]")]
    names = ["table1_text8", "sensitivity", "tuning", "own"]
    assert [row[0] for row in rows] == [f"[A study](#{name}-cpu)" for name in names]
    assert [row[1:] for row in rows] == [
        *[["8", "2.0", "1 worse"]] * 2, ["8", "2.0", "chooses learning rates"], ["8", "2.0", "1 worse"]
    ]  # fmt: skip
    assert "| all | 32 | 8.0 | |" in text
    assert "differ in rounding" not in text, "one kind of machine"
    places = [text.index(f'<a id="{name}-cpu"></a>') for name in names]
    assert places == sorted(places)
    assert text.count("<img") == 3, "of its own study both, and the figure of all corpora"
    assert text.index("figures/cpu/figure2") < places[0]
    once = " ".join(text.split())
    for words in (tables.NOT_RESOLVED, "Sign flips: the", "Means over n seeds", "Iterations to val X"):
        assert once.count(words) == 1, words
    assert text.count("<details><summary>Losses; shakespeare_char") == 4


def test_the_report_of_a_study_of_rates_says_which_it_chose_and_judges_nothing(tmp_path):
    rates = {"plain_lr1": 0.1, "plain_lr2": 0.2, "plain_lr3": 0.3}
    arms_ = {name: {"learning_rate": rate, "min_lr": rate / 10} for name, rate in rates.items()}
    arms_ |= {"noise_lr2": {"learning_rate": 0.2, "min_lr": 0.02, "noise_sigma": 0.1}}
    folder = make_study(tmp_path / "tuning" / "cpu", arms_, baseline="plain_lr1", name="tuning", seeds=(1, 2))
    for arm, loss in {"plain_lr1": 1.5, "plain_lr2": 1.25, "plain_lr3": 1.375, "noise_lr2": 1.0}.items():
        for path in (folder / arm).rglob("result.json"):
            write_json(path, json.loads(path.read_text()) | {"best_val_loss": loss})
    for path in folder.rglob("run.json"):
        write_json(path, json.loads(path.read_text()) | {"machine": MACHINE, "versions": VERSIONS})
    for path in folder.rglob("result.json"):
        write_json(path, json.loads(path.read_text()) | {"seconds": 900.0})
    study = Study(folder)
    assert list(report.chosen(study.settings[0]))[:2] == [
        "- lowest val, best evaluation: `plain_lr2`, 1.2500; next `plain_lr3`, +0.1250",
        "- lowest val, best evaluation: `noise_lr2`, 1.0000",
    ]
    text = report.section(study, tmp_path)
    assert "nothing is judged here" in text
    assert not re.search(r"better|worse|not resolved", text)


def test_the_report_tells_what_an_arm_changes(tmp_path):
    arms = {"none": {}, "odd": {"noise_sigma": 0.012345, "optimizer": "sgd"}, "order": {"data_seed": 5}}
    make_study(tmp_path / "a", arms, baseline="none", name="a")
    said = report.arms_in_knobs(read_settings([tmp_path]))
    assert said[2:-3] == [
        "- `none`: the defaults of config/__init__.py, but for dataset=shakespeare_char, max_iters=1000",
        "- `odd`: optimizer=sgd, noise_sigma=0.01235, noise_gamma=0.99",
        "- `order`: data_seed alone",
    ]
    two = {"0.1": {"noise_sigma": 0.1}, "0.2": {"noise_sigma": 0.2}}
    make_study(tmp_path / "b", two, baseline="elsewhere", name="b")
    assert report.arms_in_knobs(read_settings([tmp_path / "b"])) == [], "of no one reference"


def test_the_report_of_many_arms_names_them_and_says_once_what_is_the_same_twice(tmp_path):
    many = {f"noise{n}": {"noise_sigma": 0.1 * n} for n in range(1, 10)}
    many["other"] = {"noise_schedule": "constant", "noise_sigma": 0.5}
    folder = make_study(tmp_path / "tiny" / "cpu", {"baseline": {}, **many})
    settings = read_settings([folder])
    ((losses, rows),) = tables.told_apart(settings)
    said = report.in_words(losses, rows)
    assert said.startswith(
        "*val, best evaluation (val, final, whole split; test, best weights: the same)*, against"
    )
    assert "noise1, noise2, noise3" in said
    assert "±" not in said
    assert "noise1 +0" in report.in_words(losses, rows[:3])
    text = tables.markdown([tables.comparison_table(settings, *losses)])
    assert text.startswith(
        "**val, best evaluation (val, final, whole split; test, best weights: the same): diff"
    )
    for path in (folder / "noise1").rglob("result.json"):
        write_json(path, {**json.loads(path.read_text()), "final_val_loss": 9.0})
    assert [losses for losses, _ in tables.told_apart(read_settings([folder]))] == [
        ("best_val_loss", "best_weights_test_loss"), ("final_val_loss",)
    ]  # fmt: skip
