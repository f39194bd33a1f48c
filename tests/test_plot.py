"""plot.py: what it draws where, that figures show what the records hold, and say what they cannot show."""

import itertools
import json
import re

import numpy as np
import pytest
from made_up import OTHER_DATA, diverge, edit, fake_run, make_study, val_loss
from matplotlib.text import Text

import plot
from analysis import effects, figures, harm, look, records, statistics, tables
from analysis.look import BLACK, CELLS, spread
from config import Config, UserError
from data.files import read_json, write_json

TWO = {"baseline": {}, "noise": {"noise_sigma": 0.1}}
NEED_MORE = ("mechanism", "distance", "lambdas", "sensitivity", "learning_rates", "flatness")  # than two arms
GRID = {f"s{s}_g{g}": {"noise_sigma": s, "noise_gamma": g} for s in (0.01, 0.1, 0.5) for g in (0.9, 0.99)}


def read(*folders):
    return records.read(folders)


def lines(axes):
    """{label without its remarks: line} of a panel."""
    return {line.get_label(): line for line in axes.get_lines() if line.get_label()[0] != "_"}


def texts(axes):
    return [text.get_text() for text in axes.texts]


# The command.


def test_figures_and_tables_are_written_the_same_each_time(two_arms, capsys, monkeypatch):
    assert plot.main([str(two_arms)]) == 0
    said = capsys.readouterr().out.splitlines()
    names = plot.FIGURES.keys() - set(NEED_MORE)
    wanted = {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    wanted |= {f"{name}.{kind}" for name in ("table1", "comparisons") for kind in ("md", "tex", "csv")}
    first = {path.name: path.read_bytes() for path in (two_arms / "figures").iterdir()}
    assert set(first) == wanted
    assert max(len(data) for name, data in first.items() if name.endswith("png")) < 100_000
    monkeypatch.setattr(plot, "FIGURES", {name: plot.FIGURES[name] for name in ("overview", "differences")})
    plot.main([str(two_arms), f"--out={two_arms / 'again'}"])
    again = {path.name: path.read_bytes() for path in (two_arms / "again").iterdir()}
    assert len(again) == 10
    assert again.items() <= first.items()
    assert said[-1] == f"see {two_arms / 'figures' / 'overview.png'}"
    assert "+0.1600 ± 0.0745 nats (n = 3" in said[-2]
    assert said[-2].endswith(plot.MEANING[statistics.Verdict.WORSE])


@pytest.mark.parametrize(
    ("seeds", "planned", "verdict"),
    [((1,), 1, statistics.Verdict.NONE), ((1, 2), 3, statistics.Verdict.INCOMPLETE)],
)
def test_the_last_words_claim_nothing_without_all_seeds(tmp_path, capsys, monkeypatch, seeds, planned, verdict):
    monkeypatch.setattr(plot, "FIGURES", {"figure2_validation_loss": figures.losses})
    make_study(tmp_path, TWO, seeds=seeds, planned=range(1, planned + 1))
    plot.main([str(tmp_path)])
    assert plot.MEANING[verdict] in capsys.readouterr().out


def test_each_study_is_drawn_for_itself_and_those_that_belong_together_as_one(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plot, "draw", lambda found, out: drawn.setdefault(out, sorted(set(found.runs.study))))
    monkeypatch.setattr(plot, "conclude", lambda *_: None)
    for name, more in (("a", {"together": "pair"}), ("b", {"together": "pair"}), ("c", {})):
        make_study(tmp_path / name / "cpu", TWO, name=name, seeds=(1,), **more)
    fake_run(tmp_path / "mine" / "seed1")
    fake_run(tmp_path / "mine_noise" / "seed1", noise_sigma=0.1)
    fake_run(tmp_path / "deep" / "loose" / "seed1", learning_rate=0.1)
    plot.main([str(tmp_path)])
    studies = {tmp_path / name / "cpu" / "figures": [name] for name in "abc"}
    together = {tmp_path / "figures" / "pair" / "cpu": ["a", "b"]}
    assert drawn == studies | together | {tmp_path / "figures": [""], tmp_path / "deep" / "figures": [""]}
    drawn.clear()
    plot.main([str(tmp_path), f"--out={tmp_path / 'all'}"])
    assert drawn == {tmp_path / "all": ["", "a", "b", "c"]}
    drawn.clear()
    parts = [tmp_path / "a" / "cpu" / "noise" / "seed1", tmp_path / "b" / "cpu" / "noise"]
    plot.main([*map(str, parts), str(tmp_path / "c")])
    assert drawn == {
        folder / "figures": [name] for folder, name in zip([*parts, tmp_path / "c" / "cpu"], "abc")
    }


def test_records_of_all_that_pages_show_get_the_pages_figures_alone(tmp_path, monkeypatch):
    shown = {"one": (("a",), figures.losses), "two": (("a", "b"), effects.differences)}
    monkeypatch.setattr(plot.page_figures, "FIGURES", shown)
    for name in "abc":
        make_study(tmp_path / name / "cpu", TWO, name=name, seeds=(1, 2))
    plot.main([str(tmp_path)])
    drawn = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert drawn == ["figures/one.png", "figures/two.png"]
    monkeypatch.setattr(plot, "FIGURES", {"overview": figures.overview})
    plot.main([str(tmp_path / "a")])
    assert (tmp_path / "a" / "cpu" / "figures" / "overview.pdf").is_file()
    fake_run(tmp_path / "mine" / "seed1")
    plot.main([str(tmp_path / name) for name in ("a", "b", "mine")])
    assert (tmp_path / "b" / "cpu" / "figures" / "overview.pdf").is_file(), "with others it is as always"


# What the panels show.


def test_curves_are_means_over_seeds_with_their_intervals(two_arms):
    axes = figures.losses(read(two_arms)).axes[0]
    assert axes.get_title("left") == "shakespeare_char (n = 3)"
    for label, sigma in (("baseline", 0.0), ("$\\sigma_{\\mathregular{0}}$=0.1, $\\gamma$=0.99", 0.1)):
        at, mean = lines(axes)[label].get_data()
        assert list(at) == [0, 250, 500, 750, 1000]
        assert mean == pytest.approx([np.mean([val_loss(t, s, sigma) for s in (1, 2, 3)]) for t in at])
    _, half = statistics.interval([val_loss(1000, s, 0.1) for s in (1, 2, 3)])
    band = axes.collections[1].get_paths()[0].vertices
    assert np.ptp(band[band[:, 0] == 1000][:, 1]) == pytest.approx(2 * half)
    assert texts(axes) == list(lines(axes)), "labels at the curves' ends"


def test_the_overview_shows_the_paired_difference(two_arms):
    left, right = figures.overview(read(two_arms)).axes
    assert len(lines(left)) == 2
    (line,) = [line for line in right.get_lines() if len(line.get_xdata()) == 5]
    assert line.get_ydata() == pytest.approx(0.16), "0.1 times the mean of 1.3, 1.6 and 1.9"
    assert right.get_ylim()[0] < 0
    assert texts(right) == ["+0.1600 ± 0.0745"]


def test_differences_of_studies_are_on_one_scale_that_holds_both(tmp_path):
    for name, sigma in (("one", 0.5), ("two", 0.05)):
        make_study(tmp_path / name, {"baseline": {}, "noise": {"noise_sigma": sigma}}, name=name, together="t")
    axes = figures.differences(read(tmp_path)).axes[:2]
    (line,) = lines(axes[0]).values()
    band = line.get_ydata()
    assert max(band) == pytest.approx(0.5 * (1 + 0.3 * 2))
    for ax in axes:
        assert ax.get_ylim()[0] < 0 < max(band) < ax.get_ylim()[1]
        assert ax.get_title("left") == "1,000 iterations (n = 3)"
    assert figures.differences(read(tmp_path / "one" / "noise")) is None


@pytest.mark.parametrize(
    ("arms", "why"),
    [
        ({"slow": {}, "fast": {"learning_rate": 0.01}}, "call the arm that the others are to be compared with"),
        ({"baseline": {}, "small": {"batch_size": 4}}, "the arms differ in corpus, size, batch"),
        ({"weak": {"noise_sigma": 0.1}, "baseline": {"noise_sigma": 0.2}}, "every arm has noise"),
        (
            {"baseline": {}, "noise": {"noise_sigma": 0.2, "until": 500}},
            "no runs of an arm and of its reference",
        ),
        ({"baseline": {}, "baseline_lr2": {"learning_rate": 0.01}, "noise": {"noise_sigma": 0.2}}, None),
        ({"baseline": {}}, None),
        ({"baseline": {}, "fast": {"learning_rate": 0.01}}, None),
    ],
)
def test_why_nothing_is_compared_is_said(tmp_path, capsys, monkeypatch, arms, why):
    monkeypatch.setattr(plot, "FIGURES", {"figure2_validation_loss": figures.losses})
    for arm, options in arms.items():
        fake_run(tmp_path / arm / "seed1", **options)
    plot.main([str(tmp_path)])
    said = capsys.readouterr().out
    assert said.count("nothing is compared") == said.count(f"nothing is compared: {why}") == bool(why)


def test_an_empty_place_is_a_mistake(two_arms):
    with pytest.raises(UserError, match="--out: its value is empty"):
        plot.main([str(two_arms), "--out="])


def test_one_seed_has_no_band(tmp_path):
    make_study(tmp_path, TWO, seeds=(1,))
    figure = figures.overview(read(tmp_path))
    assert all(np.isnan(path.vertices).all() for c in figure.axes[0].collections for path in c.get_paths())
    assert texts(figure.axes[1]) == ["+0.1300"]
    assert "one seed" in texts(effects.differences(read(tmp_path)).axes[0])[0]


def test_what_ended_early_is_said(two_arms):
    fake_run(two_arms / "noise" / "seed4", 4, until=500, noise_sigma=0.1)
    fake_run(two_arms / "noise" / "seed5", 5, status="diverged", noise_sigma=0.1)
    begun = fake_run(two_arms / "begun" / "seed1", until=500, noise_sigma=0.2)
    (begun / "log.jsonl").write_text("")
    axes = figures.losses(read(two_arms)).axes[0]
    assert any("(1 of 5 diverged, 1 of 5 unfinished)" in label for label in lines(axes))
    assert "begun (1 of 1 unfinished): no data" in texts(axes)
    assert all(draw(read(two_arms)) or name in NEED_MORE for name, draw in plot.FIGURES.items())


def test_arms_on_one_another_are_said_and_both_seen(tmp_path):
    make_study(tmp_path, {**TWO, "twin": {"noise_sigma": 0.1, "noise_gamma": 0.98}})
    axes = figures.losses(read(tmp_path)).axes[0]
    twin = next(line for label, line in lines(axes).items() if label.startswith("twin (lies on $"))
    assert twin.is_dashed()
    assert not any(line.is_dashed() for line in axes.get_lines() if line is not twin)


def test_arms_that_exploded_do_not_set_the_scale_and_are_said(tmp_path):
    make_study(tmp_path, {**TWO, "wild": {"noise_sigma": 30.0}}, seeds=(1, 2, 3))
    for path in (tmp_path / "wild").rglob("result.json"):
        edit(path, final_train_loss=90.0)
    found = read(tmp_path)
    axes = figures.losses(found).axes[0]
    assert axes.get_ylim()[1] < 5
    assert "wild ↑" in texts(axes)
    (told,) = texts(effects.differences(found).axes[0])
    assert "3 of 3 ended above their start" in told


@pytest.mark.parametrize("length", [250, 500])
def test_a_short_run_is_seen_whole_and_fills_its_panels(tmp_path, length):
    fake_run(tmp_path / "noise" / "seed1", until=length, max_iters=length, noise_sigma=0.1)
    found = read(tmp_path)
    for axes in (*figures.losses(found).axes, *figures.noise(found).axes, *figures.cost(found).axes):
        points = [axes.transData.transform(line.get_xydata()) for line in lines(axes).values()]
        across, up = axes.transAxes.inverted().transform(np.concatenate(points)).T
        assert min(across.min(), up.min()) >= -1e-9
        assert max(across.max(), up.max()) <= 1 + 1e-9
        assert min(np.ptp(across), np.ptp(up)) > 0.6
    tokens, seconds = figures.cost(found).axes
    assert (tokens.get_xlabel(), seconds.get_xlabel()) == ("thousand characters", "seconds")
    assert max(len(axes.get_xticks()) for axes in (tokens, seconds)) < 9


def test_distances_are_drawn_from_the_start_on_in_thousandths(tmp_path):
    pretrained = {"init_from": "gpt2"}
    make_study(tmp_path, {"baseline": pretrained, "tuned": {**pretrained, "noisytune_lambda": 0.2}})
    for path in tmp_path.rglob("log.jsonl"):
        events = [
            {"kind": "distance", "iter": at, **dict.fromkeys(figures.GROUPS, at)} for at in range(0, 1001, 50)
        ]
        path.write_text(path.read_text() + "".join(json.dumps(event) + "\n" for event in events))
    axes = figures.distance(read(tmp_path)).axes
    assert [ax.get_title("left") for ax in axes] == [*figures.GROUPS]
    assert all(ax.get_ylim()[0] <= 0 < 1000 <= ax.get_ylim()[1] for ax in axes)
    assert all(ax.yaxis.get_major_formatter()(0.0025) == "2.5" for ax in axes)
    assert "W" in axes[0].get_ylabel()
    moved = effects.lambdas(read(tmp_path)).axes[1].containers[0].lines[0]
    assert moved.get_ydata() == pytest.approx([1e6, 1e6]), "of the last distance, 1,000"


def test_corpora_and_sizes_are_panels_and_many_arms_are_spread(tmp_path):
    other = {**OTHER_DATA, "name": "enwik8"}
    other |= {"unit": "byte", "vocabulary": [97, 98], "partial": {"tokens": 4_000_000, "of": 100_000_000}}
    fake_run(tmp_path / "part" / "baseline" / "seed1", meta=other, dataset="enwik8")
    arms = {f"n{n}": {"noise_sigma": 0.1 * n} for n in range(1, 9)}
    make_study(tmp_path / "study", {"baseline": {}, **arms, "wide": {"n_embd": 768}}, seeds=(1,))
    figure = figures.losses(read(tmp_path))
    titles = [axes.get_title("left").split("\n")[0] for axes in figure.axes if axes.get_visible()]
    assert titles == ["shakespeare_char (n = 1)"] * 3 + ["enwik8, first 4 M (n = 1)"]
    assert sum("n1" in lines(axes) for axes in figure.axes) == 1
    assert max(len(lines(axes)) for axes in figure.axes) <= figures.MOST
    assert {text.get_text() for text in figure.legends[0].texts} == {"baseline", *arms, "wide"}


def test_norms_are_drawn_on_a_logarithmic_axis_for_arms_with_noise(tmp_path):
    make_study(tmp_path, TWO)
    axes = figures.noise(read(tmp_path)).axes[0]
    drawn = {label.partition(",")[0]: line for label, line in lines(axes).items()}
    assert drawn["noise"].get_ydata() == pytest.approx([90 * 0.99**t for t in range(0, 1001, 250)])
    assert drawn["gradient"].get_ydata() == pytest.approx(1.5)
    assert axes.get_yscale() == "log"
    assert len(drawn) == 2
    assert figures.noise(read(tmp_path / "baseline")) is None
    make_study(tmp_path / "twins", {**TWO, "twin": {"noise_sigma": 0.1, "learning_rate": 0.1}})
    drawn = lines(figures.noise(read(tmp_path / "twins")).axes[0])
    assert [label for label, line in drawn.items() if line.is_dashed() and "lies on" in label]
    make_study(tmp_path / "wild", {**TWO, "wild": {"noise_sigma": 1e5}})
    diverge(tmp_path / "wild" / "wild", noise_sigma=1e5)
    assert figures.noise(read(tmp_path / "wild")).axes[0].get_ylim()[1] < 1000, "it hides no other"


def test_mechanism_needs_decisive_arms_and_a_diagnosis(tmp_path):
    arms = {**TWO, "mean": {"noise_sigma": 0.05, "noise_target": "second_moment_mean"}}
    make_study(tmp_path, arms, decisive=list(arms), versus={"mean": "noise"}, seeds=(1, 2, 3))
    assert figures.mechanism(read(tmp_path)) is None
    for path in tmp_path.rglob("log.jsonl"):
        events = [{"kind": "diagnosis", "iter": at, "signal_rms": rms} for at, rms in ((0, 9.0), (500, 0.5))]
        path.write_text(path.read_text() + "".join(json.dumps(event) + "\n" for event in events))
    left, middle, right = figures.mechanism(read(tmp_path)).axes
    drawn = lines(middle)
    assert drawn["mean"].get_ydata() == pytest.approx(0.5), "half of the noise's effect"
    assert len(lines(left)) == len(drawn) == 3
    assert list(lines(right)["baseline"].get_data()) == [[500], [0.5]], "without the first diagnosis"


def test_differences_are_points_with_intervals_filled_where_resolved(tmp_path):
    make_study(tmp_path, {**TWO, "small": {"noise_sigma": 1e-9}}, seeds=(1, 2, 3, 4))
    for path in (tmp_path / "small").rglob("result.json"):
        edit(path, best_val_loss=read_json(path)["best_val_loss"] + 0.01 * (-1) ** int(path.parent.name[-1]))
    found = read(tmp_path)
    table = statistics.compare(found, "tiny", "cpu", "best_val_loss")
    axes = effects.differences(found).axes[0]
    for container, (name, row), filled in zip(axes.containers, table.iterrows(), (True, False)):
        point, _, (bar,) = container.lines
        assert point.get_xdata() == pytest.approx([row["mean"]]), name
        assert np.ptp(bar.get_segments()[0][:, 0]) == pytest.approx(2 * row.half_width)
        assert (point.get_markerfacecolor() == point.get_color()) == filled
    assert [label.get_text() for label in axes.get_yticklabels()][1] == "small"


def test_what_has_no_point_is_told_in_words(tmp_path):
    arms = {**TWO, **{f"n{n}": {"noise_sigma": 0.01 * n} for n in (1, 2, 3)}, "far": {"noise_sigma": 20.0}}
    make_study(tmp_path / "one", {**arms, "lost": {"noise_sigma": 0.2}}, name="one", together="t")
    diverge(tmp_path / "one" / "lost", noise_sigma=0.2)
    make_study(tmp_path / "two", TWO, name="two", together="t")
    one, two = effects.differences(read(tmp_path)).axes
    assert "3 of 3 diverged" in texts(one)
    assert [re.sub(" .*", "", text) for text in texts(one) if "→" in text] == ["+32"]
    assert texts(two) == ["not run"] * 5
    diverge(tmp_path / "one" / "n1", [1], noise_sigma=0.01)
    labels = [
        label.get_text() for label in effects.differences(read(tmp_path / "one")).axes[0].get_yticklabels()
    ]
    assert "n1 (1 of 3 diverged)" in labels


def test_the_map_needs_a_whole_grid_and_brackets_what_is_not_resolved(tmp_path):
    folder = make_study(tmp_path, {"baseline": {}, **GRID}, seeds=(1, 2))
    diverge(folder / "s0.5_g0.9", (1, 2), **GRID["s0.5_g0.9"])
    axes = effects.sensitivity(read(folder)).axes[0]
    cells = dict(zip([(g, s) for g in (0.99, 0.9) for s in (0.01, 0.1, 0.5)], texts(axes)))
    assert cells[0.99, 0.1] == "(+0.1450)"
    assert cells[0.9, 0.5] == "2 of 2 diverged"
    assert axes.images[0].get_clim()[1] == pytest.approx(0.725)
    edit(folder / "study.json", seeds=[1, 2, 3])
    assert effects.sensitivity(read(folder)).axes[0].get_title("left") == "shakespeare_char (n = 2 of 3)"
    assert effects.sensitivity(read(folder / "baseline", folder / "s0.1_g0.9")) is None


def test_the_grids_of_two_settings_are_two_maps(tmp_path):
    for width in (384, 768):
        for arm, options in {"baseline": {}, **GRID}.items():
            for seed in (1, 2):
                fake_run(tmp_path / str(width) / arm / f"seed{seed}", seed, n_embd=width, **options)
    axes = [axes for axes in effects.sensitivity(read(tmp_path)).axes if axes.get_visible()]
    assert [len(texts(ax)) for ax in axes] == [len(GRID)] * 2


def test_panels_of_one_corpus_say_which_study_they_are_of(tmp_path):
    for name in ("one", "two"):
        make_study(tmp_path / name, TWO, name=name, together="t")
    titles = [axes.get_title("left") for axes in effects.differences(read(tmp_path)).axes]
    assert titles == [f"shakespeare_char, {name} (n = 3)" for name in ("one", "two")]


def test_learning_rates_are_points_means_and_the_best(tmp_path):
    losses = {0.001: 2.0, 0.002: 1.5, 0.004: 1.8}
    kinds = (("baseline", 0.0), ("noise_0.1_0.99", 0.1))
    arms = {f"{k}_lr{rate}": {"learning_rate": rate, "noise_sigma": s} for k, s in kinds for rate in losses}
    make_study(tmp_path, arms, baseline="baseline_lr0.001", seeds=(1, 2))
    for path in tmp_path.rglob("result.json"):
        config = read_json(path.parent / "config.json")
        edit(path, best_val_loss=losses[config["learning_rate"]] + config["noise_sigma"] + 0.1 * config["seed"])
    left, right = effects.learning_rates(read(tmp_path)).axes
    assert lines(left)["baseline"].get_ydata() == pytest.approx([2.15, 1.65, 1.95])
    (best,) = [line for line in left.get_lines() if line.get_color() == BLACK and line.get_zorder() == 3]
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (pytest.approx(0.002, rel=0.03), pytest.approx(1.65))
    first, second = (line.get_xdata() for line in lines(left).values())
    assert (first < second).all(), "none hides another"
    assert sum(len(line.get_xdata()) == 3 and line.get_linestyle() == "None" for line in left.get_lines()) == 4
    (difference,) = lines(right).values()
    assert difference.get_ydata() == pytest.approx(0.1)
    diverge(tmp_path / "baseline_lr0.002", [1], learning_rate=0.002)
    left = effects.learning_rates(read(tmp_path)).axes[0]
    (best,) = [line for line in left.get_lines() if line.get_color() == BLACK and line.get_zorder() == 3]
    assert best.get_xdata()[0] == pytest.approx(0.004, rel=0.03), "no best of survivors"
    for path in tmp_path.glob("**/noise*/**/result.json"):  # begun, and not ended
        path.unlink()
    assert [*lines(effects.learning_rates(read(tmp_path)).axes[0])] == ["baseline"]


def test_sharpness_is_drawn_by_rho(tmp_path):
    make_study(tmp_path, TWO)
    assert effects.flatness(read(tmp_path)) is None
    for path in [*tmp_path.rglob("result.json")]:
        write_json(path.parent / "sharpness.json", {"rises": {"0.1": [0.2, 0.4], "0.02": [0.1, 0.1]}})
    small, large = effects.flatness(read(tmp_path)).axes
    assert [axes.containers[0].lines[0].get_xdata()[0] for axes in (small, large)] == pytest.approx([0.1, 0.3])
    next(tmp_path.rglob("seed1/sharpness.json")).unlink()
    assert effects.flatness(read(tmp_path)).axes[0].get_title("left").endswith("(n = 2–3)")


def test_rates_that_are_tuned_are_not_judged(tmp_path, capsys):
    make_study(tmp_path, TWO, purpose="tuning")
    assert effects.differences(read(tmp_path)) is None
    plot.conclude(read(tmp_path), tmp_path, [tmp_path / "overview.png"])
    assert capsys.readouterr().out == f"see {tmp_path / 'overview'}.png\n"


RATES = ("5e-4", "1e-3", "2e-3")
ODD = {
    "nearly a cell": {"noise_0.1-0.2_0.99": {"noise_sigma": 0.1}, "sigma0.1_gamma0.9.v2": {"n_embd": 768}},
    "a rate of 0": {f"tried_lr{rate}": {"learning_rate": float(rate)} for rate in ("0", "1e-3", "2e-3")},
    "noise at its first evaluation": {"noise": {"noise_sigma": 0.1, "until": 0}},
}


@pytest.mark.parametrize("arms", ODD.values(), ids=ODD)
def test_what_is_odd_is_drawn_too(tmp_path, arms):
    make_study(tmp_path / "tiny", {"baseline": {}, **arms})
    for log in tmp_path.glob("tiny/noise/*/log.jsonl"):
        log.write_text(log.read_text().splitlines()[0] + "\n")
    assert plot.main([str(tmp_path)]) == 0
    assert (tmp_path / "tiny" / "figures" / "overview.png").exists()


def test_rates_without_a_baseline_among_them_are_compared_with_none(tmp_path):
    kinds = (("weak", 0.01), ("strong", 0.1))
    arms = {f"{kind}_lr{x}": {"learning_rate": float(x), "noise_sigma": s} for kind, s in kinds for x in RATES}
    make_study(tmp_path, {"baseline": {}, **arms})
    assert len(effects.learning_rates(read(tmp_path)).axes) == 1


def test_arms_of_one_name_in_two_settings_have_a_row_each(tmp_path):
    for size, width in (("small", {}), ("large", {"n_embd": 768})):
        for arm, sigma in (("baseline", 0.0), ("noise", 0.1)):
            for seed in (1, 2, 3):
                fake_run(tmp_path / size / arm / f"seed{seed}", seed, noise_sigma=sigma, **width)
    (table, *_) = tables.comparison_tables(read(tmp_path), "", "")
    assert len(table.cells) == 2


def test_one_study_that_has_nothing_to_compare_hides_no_panel_of_another(tmp_path):
    make_study(tmp_path / "b", TWO, name="b")
    for path in (tmp_path / "b" / "noise").rglob("result.json"):
        edit(path, final_val_loss=3.0)
    panels = len(effects.differences(read(tmp_path)).axes)
    make_study(tmp_path / "a", {"baseline": {}}, name="a")
    assert len(effects.differences(read(tmp_path)).axes) == panels > 1
    fake_run(tmp_path / "mine" / "seed1")
    titles = [axes.get_title("left") for axes in figures.losses(read(tmp_path)).axes]
    assert sorted(titles) == [f"shakespeare_char{of}" for of in (" (n = 1)", ", a (n = 3)", ", b (n = 3)")]


# The look.


def test_an_arm_has_one_colour_in_all_figures(tmp_path):
    arms = {"none": {}, **{arm: options for arm, options in TWO.items() if options}, "x": {"noise_sigma": 0.2}}
    make_study(tmp_path, {**arms, "y": {"noise_sigma": 0.3}}, baseline="none")
    found = read(tmp_path)
    curves = {line.get_label(): line.get_color() for line in figures.losses(found).axes[0].get_lines()}
    points = [container.lines[0].get_color() for container in effects.differences(found).axes[0].containers]
    assert curves.pop("none") == BLACK
    assert list(curves.values()) == points
    assert len(set(points)) == 3
    assert points[0] == CELLS[0.1, 0.99], "the paper's cell, whatever it is called"
    partly = figures.losses(read(tmp_path).of(arm=["none", "noise"])).axes[0]
    assert [line.get_color() for line in partly.get_lines()] == [BLACK, points[0]]


def test_names_are_printed_with_symbols_and_may_hold_anything(two_arms):
    assert look.label_of("sigma1e-5_gamma0.9", Config()).endswith("10^{-5}}$, $\\gamma$=0.9")
    assert look.label_of("three+noise_0.01_0.95", Config()) == f"three + {look.cell_label(0.01, 0.95)}"
    for name in ("_hidden", "a$^$c", "a|b"):
        fake_run(two_arms / name / "seed1", noise_sigma=0.3)
    assert look.save(figures.overview(read(two_arms)), two_arms / "overview", ("png", "pdf"))
    assert tables.write(tables.all_tables(read(two_arms))["table1"], two_arms / "table1")


def test_labels_at_ends_do_not_overlap_and_keep_their_order(tmp_path):
    assert spread([0.5, 0.51, 0.0, 0.52], 0.1) == pytest.approx([0.41, 0.51, 0, 0.61])
    assert spread([0.0, 0.01, 1.0], 0.2) == pytest.approx([0, 0.2, 1])
    make_study(tmp_path, {"baseline": {}, **{f"n{n}": {"noise_sigma": 0.0001 * n} for n in range(1, 6)}})
    figure = figures.losses(read(tmp_path))
    look.arrange(figure)
    figure.draw_without_rendering()
    boxes = sorted((Text.get_window_extent(text) for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1 for below, above in itertools.pairwise(boxes))
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= figure.axes[0].bbox.y0 - box.height for box in boxes)


@pytest.mark.parametrize("seeds", [(1, 2, 3, 4), (1, 2)])
def test_a_part_of_the_harm_is_drawn_where_there_are_seeds_enough(tmp_path, seeds):
    arms = {**TWO, "second_moment_mean": {"noise_sigma": 0.12, "noise_target": "second_moment_mean"}}
    make_study(tmp_path, arms, seeds=seeds, planned=seeds, versus={"second_moment_mean": "noise"})
    figure = harm.parts(read(tmp_path))
    if len(seeds) < 3:
        assert figure is None
        return
    panel = figure.axes[0]
    points = [line for line in panel.get_lines() if line.get_marker() != "None" and len(line.get_xdata())]
    assert [float(line.get_xdata()[0]) for line in points] == [pytest.approx(120)]
    assert panel.get_title(loc="left") == "1,000 iterations"
