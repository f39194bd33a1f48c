"""Figures from run folders: what is drawn, and what is said of what is missing."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from made_up import META, drawn_text, fake_run, losses_text, make_study
from scipy import stats

import plot
from analysis import curves, effects, panels, tables
from analysis.arms import read_settings
from analysis.statistics import interval
from config import UserError
from data.files import read_json, write_json


def test_figures_are_written_and_say_n_and_differences(two_arms):
    assert plot.main([str(two_arms)]) == 0
    names = {path.name for path in (two_arms / "figures").iterdir()}
    stems = ("figure1_training_loss", "figure2_validation_loss", "figure3_noise", "cost", "differences")
    wanted = {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}
    wanted |= {f"{stem}.{kind}" for stem in ("table1", "comparisons") for kind in ("md", "tex", "csv")}
    assert names == wanted
    (setting,) = read_settings([two_arms])
    figure = curves.loss_figure([setting], "val_loss", "validation loss")
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
def test_no_text_lies_over_the_data_or_leaves_the_page(two_arms, others):
    for number in range(others):
        name = f"an_arm_whose_name_tells_of_every_one_of_its_knobs_and_number_{number}"
        fake_run(two_arms / name / "seed1", noise_sigma=0.01 * number)
    settings = read_settings([two_arms])
    for figure in (
        curves.loss_figure(settings, "val_loss", "validation loss"),
        curves.noise_figure(settings),
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


def test_the_same_input_gives_the_same_bytes(two_arms):
    plot.main([str(two_arms), f"--out={two_arms / 'a'}"])
    plot.main([str(two_arms), f"--out={two_arms / 'b'}"])
    for path in (two_arms / "a").iterdir():
        assert path.read_bytes() == (two_arms / "b" / path.name).read_bytes(), path.name


def test_unfinished_and_torn_runs_are_drawn_as_far_as_they_go_and_said(two_arms, capsys):
    folder = fake_run(two_arms / "noise" / "seed4", 4, until=500, noise_sigma=0.1)
    with open(folder / "log.jsonl", "a") as log:
        log.write('{"kind": "eval", "iter": 750, "val_l')
    plot.main([str(two_arms)])
    said = capsys.readouterr().out
    assert "seed4: a line of its log is torn" in said
    assert "seed4: unfinished, drawn up to iteration 500" in said
    (setting,) = read_settings([two_arms])
    assert set(setting.arms[1].curve("evals", "val_loss")[500]) == {1, 2, 3, 4}
    assert set(setting.arms[1].curve("evals", "val_loss")[750]) == {1, 2, 3}
    text = drawn_text(curves.loss_figure([setting], "val_loss", "validation loss"))
    assert "unfinished" in text
    assert "noise (1 unfinished)" in losses_text([setting])


def test_a_diverged_run_is_counted_and_said(two_arms, capsys):
    fake_run(two_arms / "noise" / "seed5", 5, status="diverged", noise_sigma=0.1)
    plot.main([str(two_arms)])
    assert "seed5: diverged at iteration 999" in capsys.readouterr().out
    assert "noise (1 diverged) | 3 |" in (two_arms / "figures" / "table1.md").read_text()


def test_one_seed_gives_no_interval(tmp_path):
    fake_run(tmp_path / "baseline" / "seed1")
    fake_run(tmp_path / "noise" / "seed1", noise_sigma=0.1)
    settings = read_settings([tmp_path])
    assert "±" not in losses_text(settings).split("**", 1)[1]
    text = drawn_text(curves.loss_figure(settings, "val_loss", "validation loss"))
    assert "n = 1 seed an arm" in text
    assert "±" not in text


def test_runs_of_different_size_or_corpus_stand_in_panels_of_their_own(two_arms):
    fake_run(two_arms / "wide" / "seed1", n_embd=768)
    other = {**META, "splits": {"train": {"tokens": 9, "sha256": "def"}}}
    fake_run(two_arms / "other" / "seed1", meta=other)
    settings = read_settings([two_arms])
    assert [[arm.name for arm in setting.arms] for setting in settings].count(["baseline", "noise"]) == 1
    assert len(settings) == 3
    assert len(curves.loss_figure(settings, "val_loss", "validation loss").axes) == 3


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
    drawn = (curves.loss_figure(settings, "val_loss", "validation loss"), curves.noise_figure(settings))
    for text in map(drawn_text, drawn):
        assert text.count(named) == 2, "in the title and in the caption"
    for setting in settings:
        assert ("not comparable" in losses_text([setting])) == bool(setting.partial)
    compared = [tables.comparison_table([setting], "best_val_loss") for setting in settings]
    assert [named in tables.markdown([table]) for table in compared] == [s.title == named for s in settings]
    assert f"**{named}: " in losses_text(settings)


def test_other_differences_than_the_noise_are_named(two_arms):
    fake_run(two_arms / "noise_fast" / "seed1", noise_sigma=0.1, learning_rate=0.01)
    text = drawn_text(curves.loss_figure(read_settings([two_arms]), "val_loss", "validation loss"))
    assert "noise_fast (and learning_rate=0.01, min_lr=0.001): 250:" in text.replace("\u00a0", " ")


def test_an_unclear_baseline_is_said(two_arms):
    fake_run(two_arms / "other_baseline" / "seed1", learning_rate=0.01)
    assert "No differences" in drawn_text(
        curves.loss_figure(read_settings([two_arms]), "val_loss", "validation loss")
    )


@pytest.mark.parametrize("log", ["", '{"kind": "eval", "iter": 0, "train_loss": 4.0, "val_loss": 4.0}\n'])
def test_a_run_that_has_hardly_begun_is_drawn_and_keeps_its_place(two_arms, log):
    folder = fake_run(two_arms / "a_noise" / "seed1", until=500, noise_sigma=0.1)
    (folder / "log.jsonl").write_text(log)
    assert plot.main([str(two_arms)]) == 0
    figure = curves.loss_figure(read_settings([two_arms]), "val_loss", "validation loss")
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["baseline", "a_noise", "noise"]
    assert "unfinished, drawn up to iteration 0" in drawn_text(figure)


def test_names_of_arms_may_hold_anything(two_arms):
    for name in ("_hidden", "a$b$c", "a|b"):
        fake_run(two_arms / name / "seed1", noise_sigma=0.1)
    assert plot.main([str(two_arms)]) == 0
    figure = curves.loss_figure(read_settings([two_arms]), "val_loss", "validation loss")
    figure.canvas.draw()
    assert len(figure.axes[0].get_legend().texts) == 5
    assert "| a\\|b | 1 |" in (two_arms / "figures" / "table1.md").read_text()


def test_relative_and_early_noise_are_named_in_the_caption(two_arms):
    fake_run(two_arms / "relative" / "seed1", noise_sigma=1.0, noise_scale="tensor", noise_before_clip=True)
    text = drawn_text(curves.noise_figure(read_settings([two_arms])))
    assert "sigma of relative in units of the gradient's RMS" in text
    assert "that of relative with the noise in it" in text


def test_gradients_far_apart_share_a_logarithmic_axis_on_which_both_are_seen(two_arms):
    near = curves.noise_figure(read_settings([two_arms])).axes[2]
    assert (near.get_yscale(), near.get_ylim()) == ("linear", pytest.approx((0, 1.8)))
    folder = fake_run(two_arms / "wild" / "seed1", noise_sigma=0.1)
    log = (folder / "log.jsonl").read_text()
    (folder / "log.jsonl").write_text(log.replace('"grad_norm": 1.5', '"grad_norm": 1.5e18'))
    far = curves.noise_figure(read_settings([two_arms])).axes[2]
    assert (far.get_yscale(), far.get_ylim()) == ("log", pytest.approx((0.75, 3e18)))


def test_folders_without_runs_are_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        plot.main([str(tmp_path / "none")])
    with pytest.raises(UserError, match="no run lies in"):
        plot.main([str(tmp_path)])


def test_a_study_without_a_run_is_left_out_and_said(tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "draw", lambda settings, out: drawn.append(out))
    made = make_study(tmp_path / "out" / "one" / "cpu", {"baseline": {}, "noise": {"noise_sigma": 0.1}})
    for name in ("a", "z"):
        empty = tmp_path / "out" / name / "cpu"
        empty.mkdir(parents=True)
        shutil.copy(made / "study.json", empty)
    plot.main([str(tmp_path / "out")])
    assert drawn == [made / "figures"]
    said = f"{tmp_path / 'out' / 'a' / 'cpu'}: no run of this study yet, left out"
    assert said in capsys.readouterr().out
    with pytest.raises(UserError, match=r"sweep\.py trains those of a study"):
        plot.main([str(tmp_path / "out" / "a")])


def test_studies_are_drawn_each_for_itself_and_table_1_together(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "draw", lambda settings, out: drawn.append((len(settings), str(out))))
    two = {"baseline": {}, "noise": {"noise_sigma": 0.1}}
    for name in ("table1_a", "table1_b", "other"):
        make_study(tmp_path / name / "cpu", two, name=name)
    fake_run(tmp_path / "loose" / "seed1")
    plot.main([str(tmp_path)])
    studies = [f"{name}/cpu/figures" for name in ("other", "table1_a", "table1_b")]
    wanted = [(2, "figures/cpu"), (1, "loose/figures"), *((1, place) for place in studies)]
    assert drawn == [(count, str(tmp_path / place)) for count, place in wanted]
    drawn.clear()
    plot.main([str(tmp_path), f"--out={tmp_path / 'all'}"])
    assert drawn == [(4, str(tmp_path / "all"))]


def test_runs_of_no_study_are_drawn_together_beside_studies_too(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        plot, "draw", lambda settings, out: drawn.append(([a.name for a in settings[0].arms], out))
    )
    make_study(tmp_path / "other" / "cpu", {"baseline": {}, "noise": {"noise_sigma": 0.1}}, name="other")
    fake_run(tmp_path / "mine" / "seed1")
    fake_run(tmp_path / "mine_noise" / "seed1", noise_sigma=0.1)
    for rate in ("1e-3", "3e-3"):
        for arm, sigma in (("baseline", 0.0), ("noise", 0.1)):
            knobs = {"noise_sigma": sigma, "learning_rate": float(rate)}
            fake_run(tmp_path / f"rate{rate}" / arm / "seed1", **knobs)
    plot.main([str(tmp_path)])
    assert drawn == [
        (["mine", "mine_noise"], tmp_path / "figures"),
        (["baseline", "noise"], tmp_path / "rate1e-3" / "figures"),
        (["baseline", "noise"], tmp_path / "rate3e-3" / "figures"),
        (["baseline", "noise"], tmp_path / "other" / "cpu" / "figures"),
    ]


def test_the_map_is_drawn_where_the_arms_are_a_grid_and_says_each_cell(tmp_path):
    grid = {f"s{s}_g{g}": {"noise_sigma": s, "noise_gamma": g} for s in (0.01, 0.1, 0.5) for g in (0.9, 0.99)}
    elsewhere = {"elsewhere": {"noise_sigma": 0.1, "noise_gamma": 0.9, "noise_target": "weights"}}
    arms_ = {"baseline": {}, **grid, **elsewhere}
    folder = make_study(tmp_path / "whole", arms_, seeds=range(1, 9))
    for path in (folder / "elsewhere").rglob("result.json"):
        write_json(path, read_json(path) | {"best_val_loss": 9.0})
    (setting,) = read_settings([folder])
    figure = effects.sensitivity_figure([setting])
    values = [text.get_text() for text in figure.axes[0].texts]
    assert values == [f"{s * 2.35:+.4f}" for s in (0.5, 0.1, 0.01) for _ in range(2)]
    del grid["s0.5_g0.9"]
    assert (
        effects.sensitivity_figure(read_settings([make_study(tmp_path / "part", {"baseline": {}, **grid})]))
        is None
    )


def test_a_cell_says_what_is_not_resolved_and_what_was_lost(tmp_path):
    grid = {f"s{s}_g{g}": {"noise_sigma": s, "noise_gamma": g} for s in (0.01, 0.1, 0.5) for g in (0.9, 0.99)}
    folder = make_study(tmp_path, {"baseline": {}, **grid}, seeds=(1, 2))
    for seed in (1, 2):
        fake_run(folder / "s0.5_g0.9" / f"seed{seed}", seed, status="diverged", **grid["s0.5_g0.9"])
        path = folder / "s0.5_g0.99" / f"seed{seed}" / "result.json"
        write_json(path, read_json(path) | {"best_val_loss": 40.0, "final_train_loss": 50.0})
    fake_run(folder / "s0.1_g0.9" / "seed2", 2, status="diverged", **grid["s0.1_g0.9"])
    axes = effects.sensitivity_figure(read_settings([folder])).axes[0]
    values = [text.get_text() for text in axes.texts]
    assert values[0] == "2 of 2 diverged"
    assert values[1].endswith("\n2 of 2 ended above their start")
    assert values[2] == "+0.1300\n1 of 2 diverged", "no verdict on one survivor"
    assert values[3] == "(+0.1450)"
    assert axes.images[0].get_clim()[1] == pytest.approx(0.145), "what exploded does not set the colours"
    for arm, knobs in grid.items():
        for seed in (1, 2):
            fake_run(folder / arm / f"seed{seed}", seed, status="diverged", **knobs)
    figure = effects.sensitivity_figure(read_settings([folder]))
    assert {text.get_text() for text in figure.axes[0].texts} == {"2 of 2 diverged"}
    assert "n = 0 pairs" in drawn_text(figure)


def test_a_map_of_interim_seeds_resolves_nothing(tmp_path):
    grid = {f"s{s}_g{g}": {"noise_sigma": s, "noise_gamma": g} for s in (0.01, 0.1, 0.5) for g in (0.9, 0.99)}
    folder = make_study(tmp_path, {"baseline": {}, **grid}, seeds=range(1, 9))
    for planned, bracketed in ((8, False), (9, True)):
        record = read_json(folder / "study.json") | {"seeds": list(range(1, planned + 1))}
        write_json(folder / "study.json", record)
        axes = effects.sensitivity_figure(read_settings([folder])).axes[0]
        assert {text.get_text().startswith("(") for text in axes.texts} == {bracketed}


def test_a_map_of_one_seed_has_no_verdicts_and_says_so(tmp_path):
    grid = {f"s{s}_g{g}": {"noise_sigma": s, "noise_gamma": g} for s in (0.01, 0.1, 0.5) for g in (0.9, 0.99)}
    settings = read_settings([make_study(tmp_path, {"baseline": {}, **grid}, seeds=(1,))])
    assert "One seed gives no verdict." in drawn_text(effects.sensitivity_figure(settings))


def test_noise_on_a_logarithmic_axis_has_its_band_in_logarithms(tmp_path):
    for seed, sigma in ((1, 1.0), (2, 1e-2), (3, 1e-4)):
        folder = fake_run(tmp_path / "noise" / f"seed{seed}", seed, noise_sigma=0.1)
        log = (folder / "log.jsonl").read_text()
        (folder / "log.jsonl").write_text(re.sub(r'"sigma": [^,]*', f'"sigma": {sigma}', log))
    fake_run(tmp_path / "baseline" / "seed1")
    (axes, *_) = curves.noise_figure(read_settings([tmp_path])).axes
    lines = {len(line.get_ydata()): line for line in axes.get_lines()}
    assert sorted(lines) == [0, 5], "the baseline has no noise to show"
    assert lines[5].get_ydata() == pytest.approx(1e-2)
    (low, high) = np.percentile(np.log10(axes.collections[1].get_paths()[0].vertices[:, 1]), (0, 100))
    half = stats.t.ppf(0.975, 2) * 2 / math.sqrt(3)
    assert (low, high) == pytest.approx((-2 - half, -2 + half))


def test_what_would_leave_the_others_no_room_is_told_in_figures(tmp_path):
    arms_ = {
        "baseline": {},
        **{f"noise{n}": {"noise_sigma": 0.001 * n} for n in (1, 2, 3)},
        "far": {"noise_sigma": 0.1},
        "lost": {"noise_sigma": 0.2},
        "one": {"noise_sigma": 0.3},
    }
    folder = make_study(tmp_path, arms_)
    for arm, seeds in (("lost", (1, 2, 3)), ("one", (2, 3))):
        for seed in seeds:
            fake_run(folder / arm / f"seed{seed}", seed, status="diverged", **arms_[arm])
    figure = effects.forest_figure(read_settings([folder]))
    (axes,) = figure.axes
    assert axes.get_xlim()[1] < 0.02
    assert [text.get_text().rstrip(" \N{RIGHTWARDS ARROW}") for text in axes.texts] == [
        f"{0.16:+.4f} ± {interval([0.13, 0.16, 0.19])[1]:.4f}",
        "3 of 3 diverged",
        "+0.3900, 2 of 3 diverged",
    ]
    assert len(axes.get_yticklabels()) == 6
    words = "Written as numbers: what is 10 times all smaller ones, or what has no interval."
    assert f"over 4 comparisons at 0.05, left of 0 better. {words}" in drawn_text(figure)


def test_what_is_large_among_others_nearly_as_large_is_drawn(tmp_path):
    """The main effect of a study is not to be written beside arms without any."""
    arms_ = {"baseline": {}, **{f"noise{n}": {"noise_sigma": 1e-4 * 4**n} for n in range(6)}}
    figure = effects.forest_figure(read_settings([make_study(tmp_path, arms_)]))
    assert len(figure.axes[0].texts) == 0
    assert "Written as numbers" not in drawn_text(figure)


def test_losses_whose_comparisons_are_alike_are_one_panel(tmp_path):
    folder = make_study(tmp_path, {"baseline": {}, "noise": {"noise_sigma": 0.1}})
    figure = effects.forest_figure(read_settings([folder]))
    assert len(figure.axes) == 1
    assert "The same for val, final, whole split. The same for test, best weights." in drawn_text(figure)
    for path in (folder / "noise").rglob("result.json"):
        write_json(path, read_json(path) | {"final_val_loss": 9.0})
    figure = effects.forest_figure(read_settings([folder]))
    assert len(figure.axes) == 2
    assert "The same for val, final" not in drawn_text(figure)


def test_the_family_is_the_studys_though_two_share_a_corpus(tmp_path):
    for name in ("one", "two"):
        arms_ = {"baseline": {}, "a": {"noise_sigma": 0.1}, "b": {"noise_sigma": 0.2}}
        make_study(tmp_path / name, arms_, name=name)
    both = effects.forest_figure(read_settings([tmp_path]))
    assert "Holm-adjusted over the comparisons of its study" in drawn_text(both)


def test_the_forest_has_a_row_an_arm_and_marks_what_is_resolved(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}, "same": {"learning_rate": 0.01}}
    figure = effects.forest_figure(read_settings([make_study(tmp_path, arms_)]))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["noise", "same"]
    markers = [container.lines[0].get_markerfacecolor() for container in axes.containers]
    assert markers == [effects.COLOUR_OF["worse"], "white"]
    assert "n = 3" in drawn_text(figure)
    assert "noisy itself" not in drawn_text(figure)


def test_what_is_better_than_the_noise_is_not_green(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}, "less": {"noise_sigma": 1e-9}}
    figure = effects.forest_figure(read_settings([make_study(tmp_path, arms_, versus={"less": "noise"})]))
    markers = [container.lines[0].get_markerfacecolor() for container in figure.axes[0].containers]
    assert markers == [effects.COLOUR_OF["worse"], "#000000"]
    assert "Black: against a run that is noisy itself." in " ".join(drawn_text(figure).split())


def test_no_arms_name_leaves_the_forest(tmp_path):
    arms_ = {
        "baseline": {},
        "noise_of_some_kind": {"noise_sigma": 0.1},
        "a_name_that_goes_on": {"noise_sigma": 0.2},
    }
    versus = {"a_name_that_goes_on": "noise_of_some_kind"}
    figure = effects.forest_figure(read_settings([make_study(tmp_path, arms_, versus=versus)]))
    figure.canvas.draw()
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [
        "noise_of_some_kind",
        "a_name_that_goes_on\nagainst noise_of_some_kind",
    ]
    assert all(label.get_window_extent().x0 >= figure.bbox.x0 for label in labels)


def test_many_arms_are_spread_over_panels_with_the_baseline_in_each(tmp_path):
    many = {f"noise{n}": {"noise_sigma": 0.01 * n} for n in range(1, 15)}
    (setting,) = read_settings([make_study(tmp_path, {"baseline": {}, **many}, seeds=(1,))])
    parts = curves.spread(setting)
    assert all(part[0].name == "baseline" and len(part) <= curves.MOST_ARMS for part in parts)
    assert [arm.name for part in parts for arm in part[1:]] == list(many)
    assert len(curves.loss_figure([setting], "val_loss", "validation loss").axes) == len(parts) == 3


def test_many_arms_stand_together_by_the_unit_of_their_noise_and_a_grids_by_gamma(tmp_path):
    def names(folder, arms):
        (setting,) = read_settings([make_study(tmp_path / folder, {"baseline": {}, **arms}, seeds=(1,))])
        return [[arm.name for arm in part[1:]] for part in curves.spread(setting)]

    mixed = {
        f"{n}{scale}": {"noise_sigma": n, "noise_scale": scale}
        for n in range(1, 5)
        for scale in ("absolute", "global")
    }
    assert names("mixed", mixed) == [
        [name for name in mixed if unit in name] for unit in ("absolute", "global")
    ]
    few = dict(list(mixed.items())[:6])
    assert names("few", few) == [list(few)], "in one panel where it has room"
    grid = {
        f"{n}_{gamma}": {"noise_sigma": n, "noise_gamma": gamma} for n in range(1, 5) for gamma in (0.9, 0.99)
    }
    assert names("grid", grid) == [
        [name for name in grid if name.endswith(f"_{gamma}")] for gamma in (0.9, 0.99)
    ]
    del grid["1_0.9"]
    assert names("torn", grid) == [list(grid)[:4], list(grid)[4:]], "no grid"


def test_the_mechanism_figure_has_the_decisive_arms_and_their_signal(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}, "other": {"noise_sigma": 0.2}}
    folder = make_study(tmp_path, arms_, decisive=["baseline", "noise"])
    assert curves.mechanism_figure(read_settings([folder])) is None, "nothing was measured"
    for path in folder.rglob("log.jsonl"):
        with open(path, "a") as log:
            for at in (0, 500, 1000):
                event = {"kind": "diagnosis", "iter": at, "signal_rms": 0.1, "signal_share": 0.25 if at else 0}
                print(json.dumps(event), file=log)
    losses, effect, signal, share = curves.mechanism_figure(read_settings([folder])).axes
    assert [len(axes.get_lines()) for axes in (losses, effect, signal, share)] == [2, 2, 2, 2]
    line = share.get_lines()[1]
    assert line.get_xdata().tolist() == [500, 1000], "of a single gradient nothing is drawn"
    assert line.get_ydata().tolist() == [0.25] * 2


def test_the_mechanism_figure_has_the_shares_of_the_noises_effect(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}, "more": {"noise_sigma": 0.2}}
    versus = {"more": "noise"}
    folder = make_study(tmp_path, arms_, decisive=list(arms_), versus=versus)
    for path in folder.rglob("log.jsonl"):
        arm, seed = path.parts[-3], int(path.parts[-2].removeprefix("seed"))
        events = [json.loads(line) for line in path.read_text().splitlines()]
        for event in events:
            if event["kind"] == "eval":
                effect = {"baseline": 0.0, "noise": 0.1, "more": 0.25}[arm] if event["iter"] else 0.0
                event["val_loss"] = 2 + 0.1 * seed + effect * (1 + 1e-3 * seed)
        signal = {"kind": "diagnosis", "signal_rms": 0.1, "signal_share": 0.5}
        events += [signal | {"iter": at} for at in (0, 500)]
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
    baseline, noise, more = curves.mechanism_figure(read_settings([folder])).axes[1].get_lines()
    assert len(baseline.get_xdata()) == 0
    for line, share in ((noise, 1.0), (more, 2.5)):
        assert line.get_xdata().tolist() == [250, 500, 750, 1000]
        assert line.get_ydata() == pytest.approx([share] * 4)


def test_a_part_of_a_study_is_drawn_without_its_baseline(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}}
    folder = make_study(tmp_path, arms_, decisive=list(arms_))
    for path in folder.rglob("log.jsonl"):
        with open(path, "a") as log:
            for at in (0, 500):
                print(json.dumps({"kind": "diagnosis", "iter": at, "signal_rms": 0.1}), file=log)
    panels = [len(curves.mechanism_figure(read_settings([part])).axes) for part in (folder, folder / "noise")]
    assert panels == [4, 3], "without the share of the noise's effect"


def test_black_is_the_baselines_alone_and_no_two_lines_are_alike():
    styles = [panels.line_style(number) for number in range(22)]
    assert [style["color"] for style in styles].count("#000000") == 1
    assert len(set(map(str, styles))) == 22
    beside = [{style["color"] for style in styles[first : first + 6]} for first in range(1, 17)]
    assert set(map(len, beside)) == {6}, "in one panel"


def test_noise_that_has_faded_is_not_drawn(tmp_path):
    folder = fake_run(tmp_path / "noise" / "seed1", noise_sigma=0.1)
    log = folder / "log.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    for event in events:
        if event["kind"] == "train":
            event["sigma"] = 0.1 * 0.9 ** event["iter"]
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    axes = curves.noise_figure(read_settings([tmp_path])).axes[0]
    assert axes.get_ylim()[0] == pytest.approx(1e-5 * max(axes.get_lines()[0].get_ydata()))


def test_reduced_size_is_said(tmp_path):
    for name, knobs in (
        ("short", {}),
        ("small", {"max_iters": 5000, "n_layer": 2}),
        ("full", {"max_iters": 5000}),
    ):
        fake_run(tmp_path / name / "seed1", until=0, **{"max_iters": 1000, **knobs})
    said = {setting.arms[0].name: "reduced size" in setting.size for setting in read_settings([tmp_path])}
    assert said == {"short": True, "small": True, "full": False}


def test_an_arm_that_ended_above_its_start_does_not_flatten_the_others(tmp_path):
    arms_ = {"baseline": {}, "noise": {"noise_sigma": 0.1}, "exploded": {"noise_sigma": 0.2}}
    folder = make_study(tmp_path, arms_)
    for path in (folder / "exploded").rglob("result.json"):
        losses = {key: 50.0 for key in read_json(path) if key != "status"}
        write_json(path, {"status": "finished", **losses})
        log = path.parent / "log.jsonl"
        log.write_text(log.read_text().replace('"val_loss": 2.', '"val_loss": 22.'))
    settings = read_settings([folder])
    said = "exploded ended above its start, and may be beyond the scale."
    for figure in (curves.loss_figure(settings, "val_loss", "loss"), curves.cost_figure(settings)):
        assert all(axes.get_ylim()[1] < 5 for axes in figure.axes)
        assert said in drawn_text(figure)
    forest = effects.forest_figure(settings)
    for axes in forest.axes:
        assert axes.get_xlim()[1] < 5
        (text,) = [text.get_text() for text in axes.texts]
        assert text.startswith("+4")
    assert "Written as numbers: an arm that ended above its start." in drawn_text(forest)
    alone = read_settings([folder / "exploded"])
    (axes,) = curves.loss_figure(alone, "val_loss", "loss").axes
    assert axes.get_ylim()[1] > 20, "where there are no others"
