"""Figures and tables from run folders: what is compared with what, and what is said of what is missing."""

import csv
import io
import json
import math

import numpy as np
import pytest
from scipy import stats

import arms
import figures
import plot
import report
import tables
from arms import differences, read_settings
from compare import compare_all, interval
from config import UserError, settle
from files import write_json

META = {"name": "shakespeare_char", "unit": "character", "splits": {"train": {"tokens": 9, "sha256": "abc"}}}


def val_loss(iteration, seed, sigma):
    return 2 + 2 * math.exp(-iteration / 300) + 0.05 * math.sin(seed) + sigma * (1 + 0.3 * seed)


def fake_run(folder, seed=1, meta=META, until=1000, status="finished", **knobs):
    """A run folder with made-up curves, as train.py would have left it."""
    config = settle({"max_iters": 1000, "seed": seed, "dataset": "shakespeare_char", **knobs})
    write_json(folder / "config.json", vars(config))
    write_json(folder / "run.json", {"parameters": 804_096, "corpus": meta})
    with open(folder / "log.jsonl", "w") as log:
        for at in range(0, until + 1, 250):
            val = val_loss(at, seed, config.noise_sigma)
            cost = {"tokens": 1000 * at, "seconds": at / 10}
            print(
                json.dumps({"kind": "eval", "iter": at, "train_loss": val - 0.1, "val_loss": val, **cost}),
                file=log,
            )
            sigma = config.noise_sigma * 0.99**at
            event = {"kind": "train", "iter": at, "sigma": sigma, "noise_norm": 900 * sigma, "grad_norm": 1.5}
            print(json.dumps(event), file=log)
    if until == 1000:
        last = val_loss(1000, seed, config.noise_sigma)
        losses = dict.fromkeys(tables.LOSSES, last) if status == "finished" else {"diverged_at": 999}
        write_json(folder / "result.json", {"status": status, **losses})
    return folder


@pytest.fixture
def study(tmp_path):
    """Three seeds of a baseline and of an arm with noise."""
    for seed in (1, 2, 3):
        fake_run(tmp_path / "baseline" / f"seed{seed}", seed)
        fake_run(tmp_path / "noise" / f"seed{seed}", seed, noise_sigma=0.1)
    return tmp_path


def losses_text(settings):
    return tables.markdown([tables.loss_table(setting) for setting in settings])


def drawn_text(figure):
    legends = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().texts]
    return " ".join(" ".join([text.get_text() for text in figure.texts] + legends).split())


def test_differences_are_paired_by_seed(study):
    (setting,) = read_settings([study])
    baseline, noise = setting.arms
    assert (baseline.name, noise.name) == ("baseline", "noise")
    ((at, mean, half, n),) = differences(noise, baseline, "val_loss", [500])
    pairs = [0.1 * (1 + 0.3 * seed) for seed in (1, 2, 3)]
    wanted = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    assert (at, n) == (500, 3)
    assert (mean - half, mean + half) == pytest.approx((wanted.low, wanted.high), rel=1e-9)


def test_the_difference_leaves_out_seeds_without_a_pair(study):
    fake_run(study / "noise" / "seed9", 9, noise_sigma=0.1)
    (setting,) = read_settings([study])
    baseline, noise = setting.arms
    ((_, mean, _, n),) = differences(noise, baseline, "val_loss", [500])
    assert n == 3
    assert mean == pytest.approx(0.1 * (1 + 0.3 * 2))


def test_figures_are_written_and_say_n_and_differences(study):
    assert plot.main([str(study)]) == 0
    names = {path.name for path in (study / "figures").iterdir()}
    stems = ("figure1_training_loss", "figure2_validation_loss", "figure3_noise", "cost", "differences")
    wanted = {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}
    wanted |= {f"{stem}.{kind}" for stem in ("table1", "comparisons") for kind in ("md", "tex", "csv")}
    assert names == wanted
    (setting,) = read_settings([study])
    figure = figures.loss_figure([setting], "val_loss", "validation loss")
    text = " ".join(drawn_text(figure).split())
    for words in (
        "n = 3 seeds an arm",
        "95 % t interval",
        "shakespeare_char",
        "804 k parameters",
        "250: +0.16",
    ):
        assert words in text
    assert figure.get_size_inches()[0] == pytest.approx(3.3)
    lines = figure.axes[0].get_lines()
    assert len({line.get_color() for line in lines}) == len({line.get_linestyle() for line in lines}) == 2


@pytest.mark.parametrize("others", [0, 1, 8])
def test_no_text_lies_over_the_data_or_leaves_the_page(study, others):
    for number in range(others):
        name = f"an_arm_whose_name_tells_of_every_one_of_its_knobs_and_number_{number}"
        fake_run(study / name / "seed1", noise_sigma=0.01 * number)
    settings = read_settings([study])
    for figure in (
        figures.loss_figure(settings, "val_loss", "validation loss"),
        figures.noise_figure(settings),
    ):
        figure.canvas.draw()
        page = figure.bbox
        for axes in figure.axes:
            inside = axes.get_window_extent()
            texts = [t for t in figure.texts if t.get_text()] + (
                [axes.get_legend()] if axes.get_legend() else []
            )
            for text in texts:
                box = text.get_window_extent()
                assert not inside.overlaps(box), text
                assert box.x0 >= page.x0, text
                assert box.x1 <= page.x1, text
                assert box.y0 >= page.y0, text
                assert box.y1 <= page.y1, text


def test_the_same_input_gives_the_same_bytes(study):
    plot.main([str(study), f"--out={study / 'a'}"])
    plot.main([str(study), f"--out={study / 'b'}"])
    for path in (study / "a").iterdir():
        assert path.read_bytes() == (study / "b" / path.name).read_bytes(), path.name


def test_unfinished_and_torn_runs_are_drawn_as_far_as_they_go_and_said(study, capsys):
    folder = fake_run(study / "noise" / "seed4", 4, until=500, noise_sigma=0.1)
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"kind": "eval", "iter": 750, "val_l')
    plot.main([str(study)])
    said = capsys.readouterr().out
    assert "seed4: a line of its log is torn" in said
    assert "seed4: unfinished, drawn up to iteration 500" in said
    (setting,) = read_settings([study])
    assert set(setting.arms[1].curve("evals", "val_loss")[500]) == {1, 2, 3, 4}
    assert set(setting.arms[1].curve("evals", "val_loss")[750]) == {1, 2, 3}
    text = drawn_text(figures.loss_figure([setting], "val_loss", "validation loss"))
    assert "unfinished" in text
    assert "noise (1 unfinished)" in losses_text([setting])


def test_a_diverged_run_is_counted_and_said(study, capsys):
    fake_run(study / "noise" / "seed5", 5, status="diverged", noise_sigma=0.1)
    plot.main([str(study)])
    assert "seed5: diverged at iteration 999" in capsys.readouterr().out
    assert "noise (1 diverged) | 3 |" in (study / "figures" / "table1.md").read_text()


def test_the_table_stands_beside_the_papers(study, monkeypatch):
    monkeypatch.setitem(arms.PAPER_LENGTH["shakespeare_char"], "max_iters", 1000)
    text = losses_text(read_settings([study]))
    values = [val_loss(1000, seed, 0.1) for seed in (1, 2, 3)]
    mean, half = interval(values)
    assert f"| noise | 3 | {mean:.4f} ± {half:.4f} |" in text
    assert "| *paper, baseline* | 1 | 0.8132 | – | 1.4692 | – |" in text
    assert "| *paper, noise* | 1 | 0.8083 | – | 1.4650 | – |" in text
    assert "not comparable" not in text
    for name, knobs in (("small", {"n_layer": 2}), ("short", {"batch_size": 4})):
        fake_run(study / name / "baseline" / "seed1", **knobs)
        assert "not comparable" in losses_text(read_settings([study / name]))


def test_one_seed_gives_no_interval(tmp_path):
    fake_run(tmp_path / "baseline" / "seed1")
    fake_run(tmp_path / "noise" / "seed1", noise_sigma=0.1)
    settings = read_settings([tmp_path])
    assert "±" not in losses_text(settings).split("**", 1)[1]
    text = drawn_text(figures.loss_figure(settings, "val_loss", "validation loss"))
    assert "n = 1 seed an arm" in text
    assert "±" not in text


def test_runs_of_different_size_or_corpus_stand_in_panels_of_their_own(study):
    fake_run(study / "wide" / "seed1", n_embd=768)
    other = {**META, "splits": {"train": {"tokens": 9, "sha256": "def"}}}
    fake_run(study / "other" / "seed1", meta=other)
    settings = read_settings([study])
    assert [[arm.name for arm in setting.arms] for setting in settings].count(["baseline", "noise"]) == 1
    assert len(settings) == 3
    assert len(figures.loss_figure(settings, "val_loss", "validation loss").axes) == 3


def test_the_first_part_of_a_corpus_stands_apart_and_is_named_everywhere(tmp_path):
    whole = {"name": "enwik8", "unit": "byte", "splits": {"train": {"tokens": 90_000_000, "sha256": "abc"}}}
    part = {**whole, "splits": {"train": {"tokens": 3_600_000, "sha256": "def"}}}
    part["partial"] = {"tokens": 4_000_000, "of": 100_000_000}
    size = {"batch_size": 32, "max_iters": 100_000, "dataset": "enwik8"}
    for name, meta in (("whole", whole), ("part", part)):
        fake_run(tmp_path / name / "baseline" / "seed1", meta=meta, **size)
        fake_run(tmp_path / name / "noise" / "seed1", meta=meta, noise_sigma=0.1, **size)
    settings = read_settings([tmp_path])
    named = "enwik8, the first 4,000,000 bytes"
    assert sorted(setting.title for setting in settings) == ["enwik8", named]
    assert all(len(setting.arms) == 2 for setting in settings)
    drawn = (figures.loss_figure(settings, "val_loss", "validation loss"), figures.noise_figure(settings))
    for text in map(drawn_text, drawn):
        assert text.count(named) == 2, "in the title and in the caption"
    for setting in settings:
        assert ("not comparable" in losses_text([setting])) == bool(setting.partial)
    compared = [tables.comparison_table([setting], "best_val_loss") for setting in settings]
    assert [named in tables.markdown([table]) for table in compared] == [s.title == named for s in settings]
    assert f"**{named}: " in losses_text(settings)


def test_two_configs_never_fall_into_one_arm(study):
    fake_run(study / "again" / "noise" / "seed7", 7, noise_sigma=0.2)
    with pytest.raises(UserError, match=r"'noise'.*differ in noise_sigma: 0.1 and 0.2"):
        read_settings([study])


def test_other_differences_than_the_noise_are_named(study):
    fake_run(study / "noise_fast" / "seed1", noise_sigma=0.1, learning_rate=0.01)
    text = drawn_text(figures.loss_figure(read_settings([study]), "val_loss", "validation loss"))
    assert "noise_fast (and learning_rate=0.01, min_lr=0.001): 250:" in text.replace("\u00a0", " ")


def test_an_unclear_baseline_is_said(study):
    fake_run(study / "other_baseline" / "seed1", learning_rate=0.01)
    assert "No differences" in drawn_text(
        figures.loss_figure(read_settings([study]), "val_loss", "validation loss")
    )


@pytest.mark.parametrize("log", ["", '{"kind": "eval", "iter": 0, "train_loss": 4.0, "val_loss": 4.0}\n'])
def test_a_run_that_has_hardly_begun_is_drawn_and_keeps_its_place(study, log):
    folder = fake_run(study / "a_noise" / "seed1", until=500, noise_sigma=0.1)
    (folder / "log.jsonl").write_text(log)
    assert plot.main([str(study)]) == 0
    figure = figures.loss_figure(read_settings([study]), "val_loss", "validation loss")
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["baseline", "a_noise", "noise"]
    assert "unfinished, drawn up to iteration 0" in drawn_text(figure)


def test_names_of_arms_may_hold_anything(study):
    for name in ("_hidden", "a$b$c", "a|b"):
        fake_run(study / name / "seed1", noise_sigma=0.1)
    assert plot.main([str(study)]) == 0
    figure = figures.loss_figure(read_settings([study]), "val_loss", "validation loss")
    figure.canvas.draw()
    assert len(figure.axes[0].get_legend().texts) == 5
    assert "| a\\|b | 1 |" in (study / "figures" / "table1.md").read_text()


def test_relative_and_early_noise_are_named_in_the_caption(study):
    fake_run(study / "relative" / "seed1", noise_sigma=1.0, noise_scale="tensor", noise_before_clip=True)
    text = drawn_text(figures.noise_figure(read_settings([study])))
    assert "sigma of relative in units of the gradient's RMS" in text
    assert "that of relative with the noise in it" in text


def test_one_seed_twice_is_refused(study):
    fake_run(study / "again" / "noise" / "seed2", 2, noise_sigma=0.1)
    with pytest.raises(UserError, match="seed 2 twice"):
        read_settings([study])


def test_folders_without_runs_are_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        plot.main([str(tmp_path / "none")])
    with pytest.raises(UserError, match="no run lies in"):
        plot.main([str(tmp_path)])


def test_a_config_of_an_older_version_is_read_with_the_defaults_of_what_came_since(study):
    path = study / "noise" / "seed1" / "config.json"
    config = json.loads(path.read_text())
    del config["noise_eta"]
    path.write_text(json.dumps({**config, "knob_of_old": 1}))
    assert plot.main([str(study)]) == 0


def test_another_cadence_of_evaluation_is_another_arm(study):
    """The lowest of ten evaluations is not to be compared with the lowest of a hundred."""
    fake_run(study / "noise" / "seed8", 8, noise_sigma=0.1, eval_interval=10)
    with pytest.raises(UserError, match="differ in eval_interval"):
        read_settings([study])


# Studies.


def make_study(folder, arms, baseline="baseline", seeds=(1, 2, 3), name="tiny", **more):
    """A folder as sweep.py would have left it: arms is {name: knobs}."""
    for arm, knobs in arms.items():
        for seed in seeds:
            fake_run(folder / arm / f"seed{seed}", seed, **knobs)
    record = {"name": name, "size": "cpu", "title": "A study", "baseline": baseline, "arms": list(arms)}
    write_json(folder / "study.json", {**record, **more})
    return folder


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


def test_studies_are_drawn_each_for_itself_and_table_1_together(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "draw", lambda settings, out: drawn.append((len(settings), str(out))))
    two = {"baseline": {}, "noise": {"noise_sigma": 0.1}}
    for name in ("table1_a", "table1_b", "other"):
        make_study(tmp_path / name / "cpu", two, name=name)
    fake_run(tmp_path / "loose" / "seed1")
    plot.main([str(tmp_path)])
    wanted = [(2, "figures/cpu"), (1, "loose/figures"), (1, "other/cpu/figures")]
    wanted += [(1, "table1_a/cpu/figures"), (1, "table1_b/cpu/figures")]
    assert drawn == [(count, str(tmp_path / place)) for count, place in wanted]
    drawn.clear()
    plot.main([str(tmp_path), f"--out={tmp_path / 'all'}"])
    assert drawn == [(4, str(tmp_path / "all"))]


def test_the_comparisons_are_compared_and_written_in_three_forms(study):
    settings = read_settings([study])
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
    (row,) = csv.DictReader(io.StringIO(tables.comma_separated([table])))
    assert float(row["mean"]) == pytest.approx(wanted.mean, rel=1e-5)
    assert float(row["p_holm"]) == pytest.approx(wanted.p_holm, rel=1e-5)
    assert (row["arm"], row["paired"], row["verdict"]) == ("noise", "True", "worse")


def test_latex_escapes_what_it_must():
    assert tables.escaped("a_b & 95 % ± ≥ {x}") == r"a\_b \& 95 \% $\pm$ $\geq$ \{x\}"


def test_an_arm_that_lost_runs_says_so_in_its_verdict(study):
    fake_run(study / "noise" / "seed5", 5, status="diverged", noise_sigma=0.1)
    fake_run(study / "baseline" / "seed5", 5)
    table = tables.comparison_table(read_settings([study]), "best_val_loss")
    assert table.rows[0][-1] == "worse, 1 of 4 diverged"
    assert table.rows[0][2] == "3"


def test_iterations_to_a_loss_are_interpolated_and_those_that_never_get_there_said(study):
    (setting,) = read_settings([study])
    baseline, noise = setting.arms
    target = tables.target_loss(setting)
    assert target == pytest.approx(np.mean([val_loss(500, seed, 0) for seed in (1, 2, 3)]))
    reached = [tables.iterations_to(run, target) for run in baseline.runs]
    for run, at in zip(baseline.runs, reached):
        ends = [at - at % 250, at - at % 250 + 250]
        losses = [val_loss(end, run.seed, 0) for end in ends]
        assert np.interp(at, ends, losses) == pytest.approx(target)
    assert tables.loss_row(baseline, [], target)[-1] == f"{np.mean(reached):,.0f}"
    assert tables.loss_row(noise, [], 2.26)[-1] == f"{tables.iterations_to(noise.runs[0], 2.26):,.0f} (1 of 3)"
    assert tables.loss_row(noise, [], 1.0)[-1] == "never"


def test_the_map_is_drawn_where_the_arms_are_a_grid_and_says_each_cell(tmp_path):
    grid = {f"s{s}_g{g}": {"noise_sigma": s, "noise_gamma": g} for s in (0.01, 0.1, 0.5) for g in (0.9, 0.99)}
    (setting,) = read_settings([make_study(tmp_path / "whole", {"baseline": {}, **grid})])
    figure = figures.sensitivity_figure([setting])
    values = [text.get_text() for text in figure.axes[0].texts]
    assert values == [f"{s * 1.6:+.4f}" for s in (0.5, 0.1, 0.01) for _ in range(2)]
    del grid["s0.5_g0.9"]
    assert (
        figures.sensitivity_figure(read_settings([make_study(tmp_path / "part", {"baseline": {}, **grid})]))
        is None
    )


def test_the_forest_has_a_row_an_arm_and_marks_what_is_resolved(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}, "same": {"learning_rate": 0.01}}
    figure = figures.forest_figure(read_settings([make_study(tmp_path, arms_)]))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["noise", "same"]
    markers = [container.lines[0].get_markerfacecolor() for container in axes.containers]
    assert markers == [figures.COLOUR_OF["worse"], "white"]
    assert "n = 3" in drawn_text(figure)


def test_many_arms_are_spread_over_panels_with_the_baseline_in_each(tmp_path):
    many = {f"noise{n}": {"noise_sigma": 0.01 * n} for n in range(1, 15)}
    (setting,) = read_settings([make_study(tmp_path, {"baseline": {}, **many}, seeds=(1,))])
    parts = figures.spread(setting)
    assert all(part[0].name == "baseline" and len(part) <= figures.MOST_ARMS for part in parts)
    assert [arm.name for part in parts for arm in part[1:]] == list(many)
    assert len(figures.loss_figure([setting], "val_loss", "validation loss").axes) == len(parts) == 3


def test_the_mechanism_figure_has_the_decisive_arms_and_their_signal(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}, "other": {"noise_sigma": 0.2}}
    folder = make_study(tmp_path, arms_, decisive=["baseline", "noise"])
    assert figures.mechanism_figure(read_settings([folder])) is None, "nothing was measured"
    for path in folder.rglob("log.jsonl"):
        with open(path, "a") as log:
            for at in (0, 500, 1000):
                event = {"kind": "diagnosis", "iter": at, "signal_rms": 0.1, "signal_share": 0.25}
                print(json.dumps(event), file=log)
    losses, signal, share = figures.mechanism_figure(read_settings([folder])).axes
    assert [len(axes.get_lines()) for axes in (losses, signal, share)] == [2, 2, 2]
    assert share.get_lines()[1].get_ydata().tolist() == [0.25] * 3


def test_reduced_size_is_said(tmp_path):
    for name, knobs in (
        ("short", {}),
        ("small", {"max_iters": 5000, "n_layer": 2}),
        ("full", {"max_iters": 5000}),
    ):
        fake_run(tmp_path / name / "seed1", until=0, **{"max_iters": 1000, **knobs})
    said = {setting.arms[0].name: "reduced size" in setting.size for setting in read_settings([tmp_path])}
    assert said == {"short": True, "small": True, "full": False}


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
    figures.forest_figure(settings)


def test_there_is_no_verdict_before_the_planned_seeds_are_there(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}}
    (setting,) = read_settings([make_study(tmp_path, arms_, seeds=(1, 2, 3))])
    assert tables.comparison_table([setting], "best_val_loss").rows[0][-1] == "worse"
    record = json.loads((tmp_path / "study.json").read_text())
    write_json(tmp_path / "study.json", {**record, "seeds": [1, 2, 3, 4]})
    settings = read_settings([tmp_path])
    assert tables.comparison_table(settings, "best_val_loss").rows[0][-1] == "interim, 3 of 4 seeds"
    assert "there is no verdict" in drawn_text(figures.forest_figure(settings))


def test_a_study_is_not_mixed_from_cards_and_processors(tmp_path):
    for seed, device in ((1, "cpu"), (2, "cuda:0")):
        folder = fake_run(tmp_path / "noise" / f"seed{seed}", seed)
        about = json.loads((folder / "run.json").read_text())
        write_json(folder / "run.json", {**about, "machine": {"device": device, "name": "x"}})
    with pytest.raises(UserError, match="differ in device: 'cpu' and 'cuda'"):
        read_settings([tmp_path])


# The report.


def test_the_report_says_in_words_what_the_tables_say(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}, "same": {"learning_rate": 0.01}}
    folder = make_study(tmp_path / "tiny" / "cpu", arms_)
    machine = {"name": "A machine", "dtype": "bfloat16", "threads": 1}
    for path in folder.rglob("run.json"):
        about = json.loads(path.read_text())
        versions = {"torch": "2.13.0", "revision": "0123456789abcdef"}
        write_json(path, {**about, "machine": machine, "versions": versions, "began": "2026-11-21T00:00:00"})
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
        "A machine, bfloat16, 1 thread a run",
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
