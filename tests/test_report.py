"""The pages: their fields give the numbers of the records. CI checks that the committed ones are filled."""

import math
import shutil

import numpy as np
import pandas as pd
import pytest
from made_up import edit, fake_run, make_study
from scipy import optimize, stats

from analysis import fields, records, report, statistics, tables, theory
from config import UserError
from data.files import write_json

NOISE = {"noise_sigma": 0.1, "noise_gamma": 0.99}
ARMS = {
    "baseline": {},
    "noise": NOISE,
    "control": {**NOISE, "noise_target": "second_moment", "noise_sigma": 0.05},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    results = tmp_path_factory.mktemp("records")
    make_study(results / "tiny" / "cpu", ARMS, versus={"control": "noise"}, seeds=(1, 2, 3, 4))
    return results


@pytest.fixture
def filled(folder):
    """A function that fills a template by the made-up records."""
    found = records.read([folder])

    def function(text, pages=folder.parent / "sources"):
        (pages / "results").mkdir(parents=True, exist_ok=True)
        (pages / "results" / "TABLES.md").write_text(text, encoding="utf-8")
        (page,) = report.fill(found, folder, pages).values()
        return page.partition("\n")[2]

    return function


def told(values):
    """The mean in halves of its 95 % interval: from -1 to 1 zero is within."""
    mean, half = statistics.interval(values)
    return mean / half


def test_differences_and_verdicts_are_those_of_the_statistics(filled, folder):
    found = records.read([folder])
    ours, theirs = (records.losses(found.of(arm=arm).runs, "best_val_loss") for arm in ("noise", "baseline"))
    mean, half = statistics.interval(ours - theirs)
    assert filled('{{ diff("tiny", "noise") }}') == f"{mean:+.4f} ± {half:.4f} (n = 4)"
    assert filled('{{ diff("tiny", "baseline", "noise", half=False, n=False) }}') == f"{-mean:+.4f}"
    assert filled('{{ mean("tiny", "noise", "final") }}') == "{:.4f} ± {:.4f}".format(
        *statistics.interval(ours)
    )
    ends = [optimize.brentq(lambda r, by: by + told(ours - theirs - r * theirs), -9, 9, by) for by in (-1, 1)]
    assert filled('{{ relative("tiny", "noise") }}') == "{:.0f} % to {:.0f} %".format(*(100 * r for r in ends))
    assert filled('{{ spread("tiny", "noise", "final") }}') == f"{ours.std():.4f}"
    assert filled('{{ spread_p("tiny", "noise", "final") }}') == f"{statistics.spread_p(ours, theirs):.4f}"
    pooled = statistics.pooled_spread([(ours, theirs)])
    wanted = "{1:.4f} and {0:.4f} (p = {2:.4f})".format(*pooled)
    assert filled('{{ pooled_spread(("tiny", "noise")) }}') == wanted
    curves = [found.of(arm=arm).curve("eval", "val_loss") for arm in ("noise", "baseline")]
    at = curves[0].index[-1]
    mean, half = statistics.interval((curves[0] - curves[1]).loc[at])
    assert filled(f'{{{{ diff_at("tiny", "noise", {at}) }}}}') == f"{mean:+.4f} ± {half:.4f}"
    both = statistics.equivalence_p(ours - theirs, 0.0042)
    assert filled('{{ equivalence("tiny", "noise") }}') == tables.probability(both)
    assert filled('{{ equivalence("tiny", "noise", cells=2) }}') == tables.probability(min(1, 2 * both))
    hours = found.runs.seconds.sum() / 3600
    assert filled('{{ hours("tiny") }} {{ hours() }}') == f"{hours:.1f} {hours:.1f}"
    rise = [records.losses(found.of(arm="noise").runs, name) for name in ("final_val_loss", "best_val_loss")]
    mean, half = statistics.interval(rise[0] - rise[1])
    assert filled('{{ overfitting("tiny", "noise") }}') == f"{mean:.4f} ± {half:.4f}"
    table = statistics.compare(found, "tiny", "cpu", "best_val_loss")
    assert filled("{{ families() }}") == "1"
    for arm, row in table.iterrows():
        names = [f'{name}("tiny", "{arm}")' for name in ("verdict", "p", "mde", "reference")]
        wanted = f"{row.verdict} {row.p_holm:.4f} {row.mde:.4f} {row.reference}"
        flips = f"{row.p_flip:.4f}, where {row.n} pairs give {row.flip_floor:.4f} at least"
        assert filled(f'{{{{ sign_flips("tiny", "{arm}") }}}}') == flips
        assert filled(f'{{{{ [{", ".join(names)}] | join(" ") }}}}') == wanted
    for word in ("better", "worse", "not resolved"):
        assert filled(f'{{{{ count("tiny", "{word}") }}}}') == str((table.verdict == word).sum())


def test_a_mean_over_arms_is_of_the_differences_of_each_seed(filled):
    """The noise minus the baseline is 0.1 (1 + 0.3 seed), the control minus the noise minus half of it."""
    half = [0.05 * (1 + 0.3 * seed) for seed in (1, 2, 3, 4)]
    mean, width = statistics.interval(np.array(half) / 2)
    assert filled('{{ mean_diff("tiny", "noise", "control") }}') == f"{mean:+.4f} ± {width:.4f} (n = 4)"
    assert filled('{{ mean_diff("tiny", "noise") }}') == filled('{{ diff("tiny", "noise") }}')


def test_an_option_is_printed_as_it_is_read(filled):
    names = ("max_iters", "noise_sigma", "noise_before_clip", "noise_schedule")
    printed = " ".join(filled(f'{{{{ option("tiny", "noise", "{name}") }}}}') for name in names)
    assert printed == "1,000 0.1 False exponential"


def test_a_fraction_is_of_the_noises_effect(filled):
    """Made-up losses are those of the baseline and sigma (1 + 0.3 seed): half of sigma has half of the effect,
    exactly, at every iteration."""
    assert filled('{{ fraction("tiny", "control") }}') == "50 % (50 % to 50 %)"
    assert filled('{{ fraction("tiny", "control", at=250) }}') == "50 % (50 % to 50 %)"
    assert filled('{{ part("tiny", "control", of="noise") }}') == "50 % (50 % to 50 %)"
    assert filled('{{ part("tiny", "control", "noise", of="noise") }}') == "150 % (150 % to 150 %)"
    assert (
        filled('{{ part("tiny", "baseline", of="noise", against="control") }}') == "-100 % (-100 % to -100 %)"
    )


def test_studies_without_a_common_seed_are_pooled(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "both")
    arms = {"baseline": {}, "noise": {"noise_sigma": 0.05}}
    make_study(tmp_path / "both" / "weaker" / "cpu", arms, seeds=(5, 6), name="weaker")
    found = fields.Fields(records.read([tmp_path / "both"]))
    mean, half = statistics.interval(
        np.array([s * (1 + 0.3 * seed) for s, seeds in ((0.1, (1, 2, 3, 4)), (0.05, (5, 6))) for seed in seeds])
    )
    assert found.pooled_diff(("tiny", "noise"), ("weaker", "noise")) == f"{mean:+.4f} ± {half:.4f} (n = 6)"
    mean, half = statistics.interval(np.array([0.05 * (1 + 0.3 * seed) for seed in range(1, 7)]))
    other = found.pooled_diff(("tiny", "noise", "control"), ("weaker", "noise"))
    assert other == f"{mean:+.4f} ± {half:.4f} (n = 6)", "against another arm than the reference"
    assert found.harm_ratio("tiny", "noise", "weaker", "noise") == f"{2 * 1.75 / 2.65:.1f}"
    a, b = ([s * (1 + 0.3 * seed) for seed in seeds] for s, seeds in ((0.1, (1, 2, 3, 4)), (0.05, (5, 6))))
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    wanted = f"{(low + high) / 2:+.4f} ± {(high - low) / 2:.4f}"
    assert found.unpaired(("tiny", "noise"), ("weaker", "noise")) == wanted
    assert found.farthest("tiny", "noise", "tiny", "baseline") == "0.2200"
    for field, words in ((found.pooled_diff, "no seed in common"), (found.unpaired, "none in common")):
        with pytest.raises(UserError, match=words):
            field(("tiny", "noise"), ("tiny", "control"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{{ diff("tiny", "nois") }}', "has no arm 'nois'; did you mean 'noise'?"),
        ('{{ verdict("tinny", "noise") }}', "no study 'tinny'; did you mean 'tiny'?"),
        ('{{ diff("tiny", "noise", loss="vall") }}', "has a loss 'vall'"),
        ('{{ verdict("tiny", "baseline") }}', "compares 'baseline' with nothing"),
        ('{{ fraction("tiny", "noise") }}', "no fraction of an effect"),
        ('{{ count("tiny", "wrose") }}', "wrose"),
        ('{{ n("tiny", "noise", "finshed") }}', "no run is 'finshed'"),
        ('{{ option("tiny", "noise", "noise_sigm") }}', "did you mean 'noise_sigma'?"),
        ('{{ measured_half_time("tiny", "noise") }}', "no half time was measured"),
        ("{{ pooled_spread() }}", "two seeds an arm or more"),
        ('{{ noise_ratio("tiny", "noise") }}', "IndexError"),
        ("{{ dif }}", "'dif' is undefined"),
        ("{% if %}", "line 1"),
    ],
)
def test_a_field_that_cannot_be_filled_is_one_line_that_names_the_page(filled, text, said):
    with pytest.raises(UserError) as caught:
        filled(text)
    assert said in str(caught.value)
    assert str(caught.value).startswith("analysis/pages/results/TABLES.md")
    assert "\n" not in str(caught.value)


def test_the_papers_size_is_as_docs_method_has_it(filled):
    """By the exact sum, which its approximate formula comes near."""
    assert filled('{{ full_size("half_time", 1) }} {{ full_size("half_time", 0.3) }}') == "1,044 1,283"
    assert filled('{{ full_size("part", 1) }} {{ full_size("part", 0.3) }}') == "21 % 26 %"
    assert filled('{{ full_size("share", 1) }} {{ full_size("share", 0.3) }}') == "0.66 0.58"
    assert filled('{{ full_size("share", 1, "config/enwik8_noise.py") }}') == "0.98"


def test_a_study_of_two_sizes_is_named_with_its_size(folder, tmp_path):
    for size in ("cpu", "full"):
        make_study(tmp_path / "tiny" / size, ARMS, size=size)
    found = fields.Fields(records.read([tmp_path]))
    with pytest.raises(UserError, match="write tiny/cpu or tiny/full"):
        found.n("tiny", "noise")
    assert found.n("tiny/full", "noise") == 3
    assert found.studies() == ["tiny/cpu", "tiny/full"]


def test_the_command_has_the_cadence_of_the_runs_where_the_study_plans_another(tmp_path):
    for interval, told in ((250, ""), (500, " --eval_interval=500")):
        for arm, sigma in (("baseline", 0.0), ("noise_0.1_0.99", 0.1), ("noise_0.01_0.95", 0.01)):
            options = {"max_iters": 2000, "eval_interval": interval, "noise_sigma": sigma}
            fake_run(tmp_path / "s" / arm / "seed1", **options)
        record = {"name": "curvature", "size": "cpu", "title": "", "baseline": "baseline", "seeds": []}
        names = [path.name for path in (tmp_path / "s").iterdir() if path.is_dir()]
        write_json(tmp_path / "s" / "study.json", {**record, "arms": names})
        command = fields.Fields(records.read([tmp_path])).command("curvature")
        assert command == f"python sweep.py config/study/curvature.py config/cpu.py{told}"
    edit(tmp_path / "s" / "study.json", size="mine")
    command = fields.Fields(records.read([tmp_path])).command("curvature")
    assert command == "python sweep.py config/study/curvature.py mine.py", "an overlay of one's own"


def test_records_of_ones_own_get_their_tables_and_check_notices_a_change(folder, capsys):
    page = folder / "TABLES.md"
    assert report.main([str(folder), "--check"]) == 1
    assert not page.exists()
    assert report.main([str(folder)]) == 0
    assert report.main([str(folder), "--check"]) == 0
    page.write_text(page.read_text(encoding="utf-8").replace("worse", "better"), encoding="utf-8")
    capsys.readouterr()
    assert report.main([str(folder), "--check"]) == 1
    assert str(page) in capsys.readouterr().err
    text = page.read_text(encoding="utf-8")
    assert "python sweep.py tiny.py config/cpu.py\n" in text
    assert "README" not in text, "there is none beside it"


# What is computed here alone.


def test_the_chance_of_a_gain_is_that_of_simulated_tables():
    one = 0.5 * math.erfc(0.0042 / 0.004 / 2)  # the difference of two runs has sd sqrt(2) 0.004
    assert fields.chance_of_gain(0.0042, 1, 0.004) == pytest.approx(one, abs=1e-9)
    runs = np.random.default_rng(1).normal(2.0, 0.004, size=(100_000, 7))
    simulated = np.mean(runs[:, 1:].min(axis=1) - runs[:, 0] <= -0.0042)
    assert fields.chance_of_gain(0.0042, 6, 0.004) == pytest.approx(simulated, abs=0.006)


def test_a_measured_half_time_is_the_last_crossing_of_a_half():
    curve = pd.DataFrame({1: [0.9, 0.2, 0.6, 0.4, 0.8], 2: [0.9, 0.2, 0.2, 0.2, 0.4], 3: [1.0] * 5})
    curve.index = [0, 50, 100, 150, 200]
    assert list(fields.measured_half_times(curve)) == [pytest.approx(162.5)]


def test_theory_takes_the_noise_of_the_run_and_its_clipped_gradient(filled):
    v = 1.0 / 804_096  # the made-up norm is 1.5, clipped at 1
    half = theory.half_time(0.1 * 0.99 ** np.arange(1000), v, 0.99)
    assert filled('{{ half_time("tiny", "noise") }}') == str(half)
    assert filled('{{ noise_sum("tiny", "control", "noise") }}') == "25 %"
