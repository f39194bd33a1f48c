"""Figures and tables from run folders: what is compared with what, and what is said of what is missing."""

import json
import math

import numpy as np
import pytest
from scipy import stats

import arms
import plot
import tables
from arms import differences, read_settings
from compare import interval
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


def test_intervals_are_scipys():
    values = [1.46784, 1.46585, 1.46748, 1.46111, 1.46509]
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-12)
    assert interval([3.0]) == (3.0, None), "one seed has no interval, and not a zero one"


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
    figures = ("figure1_training_loss", "figure2_validation_loss", "figure3_noise", "cost", "differences")
    wanted = {f"{stem}.{kind}" for stem in figures for kind in ("png", "pdf")}
    wanted |= {f"{stem}.{kind}" for stem in ("table1", "comparisons") for kind in ("md", "tex", "csv")}
    assert names == wanted
    (setting,) = read_settings([study])
    figure = plot.loss_figure([setting], "val_loss", "validation loss")
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
    for figure in (plot.loss_figure(settings, "val_loss", "validation loss"), plot.noise_figure(settings)):
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
    text = drawn_text(plot.loss_figure([setting], "val_loss", "validation loss"))
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
    text = drawn_text(plot.loss_figure(settings, "val_loss", "validation loss"))
    assert "n = 1 seed an arm" in text
    assert "±" not in text


def test_runs_of_different_size_or_corpus_stand_in_panels_of_their_own(study):
    fake_run(study / "wide" / "seed1", n_embd=768)
    other = {**META, "splits": {"train": {"tokens": 9, "sha256": "def"}}}
    fake_run(study / "other" / "seed1", meta=other)
    settings = read_settings([study])
    assert [[arm.name for arm in setting.arms] for setting in settings].count(["baseline", "noise"]) == 1
    assert len(settings) == 3
    assert len(plot.loss_figure(settings, "val_loss", "validation loss").axes) == 3


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
    figures = (plot.loss_figure(settings, "val_loss", "validation loss"), plot.noise_figure(settings))
    for text in map(drawn_text, figures):
        assert text.count(named) == 2, "in the title and in the caption"
    for setting in settings:
        assert ("not comparable" in losses_text([setting])) == bool(setting.partial)
    assert f"**{named}: " in losses_text(settings)


def test_two_configs_never_fall_into_one_arm(study):
    fake_run(study / "again" / "noise" / "seed7", 7, noise_sigma=0.2)
    with pytest.raises(UserError, match=r"'noise'.*differ in noise_sigma: 0.1 and 0.2"):
        read_settings([study])


def test_other_differences_than_the_noise_are_named(study):
    fake_run(study / "noise_fast" / "seed1", noise_sigma=0.1, learning_rate=0.01)
    text = drawn_text(plot.loss_figure(read_settings([study]), "val_loss", "validation loss"))
    assert "noise_fast (and learning_rate=0.01, min_lr=0.001): 250:" in text.replace("\u00a0", " ")


def test_an_unclear_baseline_is_said(study):
    fake_run(study / "other_baseline" / "seed1", learning_rate=0.01)
    assert "No differences" in drawn_text(
        plot.loss_figure(read_settings([study]), "val_loss", "validation loss")
    )


@pytest.mark.parametrize("log", ["", '{"kind": "eval", "iter": 0, "train_loss": 4.0, "val_loss": 4.0}\n'])
def test_a_run_that_has_hardly_begun_is_drawn_and_keeps_its_place(study, log):
    folder = fake_run(study / "a_noise" / "seed1", until=500, noise_sigma=0.1)
    (folder / "log.jsonl").write_text(log)
    assert plot.main([str(study)]) == 0
    figure = plot.loss_figure(read_settings([study]), "val_loss", "validation loss")
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["baseline", "a_noise", "noise"]
    assert "unfinished, drawn up to iteration 0" in drawn_text(figure)


def test_names_of_arms_may_hold_anything(study):
    for name in ("_hidden", "a$b$c", "a|b"):
        fake_run(study / name / "seed1", noise_sigma=0.1)
    assert plot.main([str(study)]) == 0
    figure = plot.loss_figure(read_settings([study]), "val_loss", "validation loss")
    figure.canvas.draw()
    assert len(figure.axes[0].get_legend().texts) == 5
    assert "| a\\|b | 1 |" in (study / "figures" / "table1.md").read_text()


def test_relative_and_early_noise_are_named_in_the_caption(study):
    fake_run(study / "relative" / "seed1", noise_sigma=1.0, noise_scale="tensor", noise_before_clip=True)
    text = drawn_text(plot.noise_figure(read_settings([study])))
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
