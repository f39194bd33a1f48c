"""results/FINDINGS.md: its words follow from the verdicts, its numbers from the records."""

import json

import pytest
from test_plot import make_study

import findings
from files import write_json
from findings import Study, measured_half, predicted_half

NOISE = {"noise_sigma": 0.1, "noise_gamma": 0.99}


def shift(folder, arm, by):
    """Move an arm's losses, by somewhat more or less from seed to seed."""
    for path in (folder / arm).rglob("result.json"):
        result, seed = json.loads(path.read_text()), int(path.parent.name.removeprefix("seed"))
        losses = {k: v + by * (1 + 0.01 * seed) for k, v in result.items() if k != "status"}
        write_json(path, {"status": result["status"], **losses})


def table1(results, by):
    folder, arms = results / "table1_shakespeare" / "cpu", {"baseline": {}, "cell": NOISE}
    make_study(folder, arms, seeds=(1, 2, 3, 4), name="table1_shakespeare")
    shift(folder, "cell", by)
    return findings.findings(results)


@pytest.mark.parametrize(
    ("by", "tally", "advice"),
    [
        (+0.5, "1 worse.", "Drop it: at the sizes measured here it was nowhere resolved as a help."),
        (-1.0, "1 better.", "Keep it where it helped"),
        (-0.175, "1 not resolved.", "Nothing here says that it matters."),
    ],
)
def test_the_advice_follows_from_the_verdicts(tmp_path, by, tally, advice):
    text = table1(tmp_path, by)
    assert f"comparisons with the baseline: {tally}" in text
    assert advice in text
    assert sum(text.count(said) for said in ("Drop it", "Keep it", "Do not add", "Nothing here")) == 1


def test_help_and_harm_are_weighed(tmp_path):
    table1(tmp_path, +0.5)
    elsewhere = {**NOISE, "noise_point": "weights"}
    arms = {"baseline": {}, "helps": NOISE, "hurts": {"noise_sigma": 0.2}, "elsewhere": elsewhere}
    make_study(tmp_path / "aa_control" / "cpu", {"baseline": {}, "rounding": NOISE}, name="aa_control")
    shift(make_study(tmp_path / "schedules" / "cpu", arms, seeds=(1, 2, 3, 4), name="schedules"), "helps", -1.0)
    text = findings.findings(tmp_path)
    assert (
        "in 3 comparisons of these studies: resolved as better in 1, as worse in 2, not resolved in 0." in text
    )
    assert "Do not add it by default" in text


def test_every_number_is_the_comparisons_and_has_its_command(tmp_path):
    text = table1(tmp_path, +0.5)
    ((_, _, _, c),) = Study(tmp_path / "table1_shakespeare" / "cpu").rows().values()
    numbers = f"{c.mean:+.4f} ± {c.half:.4f} (n = 4, resolvable {c.resolvable:.4f})"
    assert f"- `cell` minus `baseline`: {numbers}: worse." in text
    assert "    python sweep.py config/study/table1_shakespeare.py config/cpu.py\n" in text


def test_a_question_without_a_study_is_open(tmp_path):
    text = table1(tmp_path, +0.5)
    for name in ("mechanism", "limited_data", "noisytune"):
        assert f"Open: `config/study/{name}.py` has not been run." in text
    assert "Open: `config/study/table1_shakespeare.py`" not in text


def test_missing_seeds_give_no_verdict_and_no_advice(tmp_path):
    table1(tmp_path, +0.5)
    path = tmp_path / "table1_shakespeare" / "cpu" / "study.json"
    write_json(path, {**json.loads(path.read_text()), "seeds": [1, 2, 3, 4, 5]})
    text = findings.findings(tmp_path)
    assert "1 interim, 4 of 5 seeds" in text
    assert "without a verdict in 1." in text
    assert "Drop it" not in text


@pytest.fixture
def mechanism(tmp_path):
    """A study in which the mean in the second moment does all that the noise does, and the warm-up half."""
    arms = {
        "baseline": {},
        "noise": NOISE,
        "second_moment_mean": {**NOISE, "noise_point": "second_moment_mean"},
        "matched_warmup": {**NOISE, "noise_point": "learning_rate"},
    }
    versus = dict.fromkeys(("second_moment_mean", "matched_warmup"), "noise")
    folder = make_study(
        tmp_path / "mechanism" / "cpu", arms, seeds=(1, 2, 3, 4), name="mechanism", versus=versus
    )
    effect = Study(folder).rows()["noise"][-1].mean
    shift(folder, "matched_warmup", -effect / 2 / 1.025)
    for path in folder.rglob("log.jsonl"):
        noisy = json.loads((path.parent / "config.json").read_text())["noise_sigma"]
        with open(path, "a") as log:
            for at in range(0, 1000, 20):
                signal = min(1.0, at / 800) if noisy else 1.0
                event = {
                    "signal_rms": signal,
                    "signal_share": 0.5,
                    "noise_ratio": 300 * 0.99**at if noisy else 0,
                }
                print(json.dumps({"kind": "diagnosis", "iter": at, **event}), file=log)
    return folder


def test_a_control_has_its_share_of_the_noises_effect(mechanism, tmp_path):
    text = findings.findings(tmp_path)
    assert "without any randomness cannot be told from the noise itself: it has 100% of that" in text
    assert "without noise does less harm than the noise itself: it has 50% of that" in text


def test_the_prediction_stands_beside_what_was_measured(mechanism, tmp_path):
    (setting,) = Study(mechanism).settings
    noise, clean = setting.arm("noise"), setting.baseline.curve("measured", "signal_rms")
    v, s, sigma, t = 1.0 / 804_096, 0.0, 0.1, 0  # the made-up gradients are clipped to norm 1
    while t < 20 or s >= 3 * v:
        s, t, sigma = 0.99 * s + 0.01 * sigma**2, t + 1, sigma * 0.99
    assert predicted_half(noise) == pytest.approx(t, abs=10), "the sum itself, step by step"
    assert measured_half(noise, clean) == 400
    first_under = next(at for at in range(0, 1000, 20) if 300 * 0.99**at < 1)
    row = f"| 1,000 iterations | `noise` | {predicted_half(noise):,.0f} | 400 | 300 | {first_under} |"
    assert row in findings.findings(tmp_path)


def test_what_helps_without_noise_is_named(tmp_path):
    table1(tmp_path, +0.5)
    arms = {"none": {}, "dropout": {"dropout": 0.3}, "noise": NOISE}
    folder = make_study(
        tmp_path / "limited_data" / "cpu", arms, baseline="none", seeds=(1, 2, 3), name="limited_data"
    )
    shift(folder, "dropout", -0.5)
    shift(folder, "noise", -1.0)
    text = findings.findings(tmp_path)
    helped = text[text.index("What was resolved as better than its reference, without noise:") :]
    assert "- `dropout` (limited_data/cpu): -0.5100 ± " in helped
    assert "`noise`" not in helped
    assert text.count("val, final, whole split.") == 1, "a method may only delay overfitting"
