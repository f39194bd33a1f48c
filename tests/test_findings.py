"""results/FINDINGS.md: its words follow from the verdicts, its numbers from the records."""

import dataclasses
import json
import math
import shutil

import pytest
from made_up import make_study

from analysis import controls, findings
from analysis.controls import measured_half, predicted_half
from analysis.sentences import Study, read_studies
from analysis.statistics import compare
from data.files import read_json, write_json

NOISE = {"noise_sigma": 0.1, "noise_gamma": 0.99}
MEAN = "the mean that the noise has in AdamW's second moment"


def findings_of(results):
    return findings.findings(read_studies(results))


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
    return findings_of(results)


@pytest.mark.parametrize(
    ("by", "tally"), [(+0.5, "1 worse."), (-1.0, "1 better."), (-0.175, "1 not resolved.")]
)
def test_the_tally_follows_from_the_verdicts(tmp_path, by, tally):
    text = table1(tmp_path, by)
    head = "Cells of the paper's grid, against the baseline, val, best evaluation: `table1_shakespeare/cpu`"
    assert f"{head} {tally}" in text
    assert f"one that occurs in several studies counts once): {tally}" in text
    assert "Whether it helps once the learning rate is tuned for it is open" in text


def tuned(results, noise, warmup, planned=(1, 2, 3, 4)):
    """best_against_best with its noise and its longer warm-up moved against the baseline."""
    arms = {
        "baseline": {"learning_rate": 4e-3},
        "warmup500": {"learning_rate": 4e-3, "warmup_iters": 500},
        "noise": {**NOISE, "learning_rate": 8e-3},
    }
    folder = results / "best_against_best" / "cpu"
    make_study(folder, arms, seeds=(1, 2, 3, 4), name="best_against_best")
    effect = Study(folder).rows()["noise"][-1].mean
    shift(folder, "noise", noise - effect / 1.025)
    shift(folder, "warmup500", warmup)
    write_json(folder / "study.json", {**read_json(folder / "study.json"), "seeds": planned})
    return findings_of(results)


@pytest.mark.parametrize(
    ("noise", "warmup", "advice"),
    [
        (+0.3, 0.0, "Drop it, and tune the learning rate: noise is worse even at the rate that suits it best."),
        (0.0, 0.0, "No reason to use it here: tune the learning rate instead. At the rate that suits each"),
        (-0.3, 0.0, "Keep it, with its learning rate tuned"),
        (-0.3, -0.2, "It helps, and so does an ordinary longer warm-up"),
    ],
)
def test_the_advice_follows_from_the_tuned_comparison(tmp_path, noise, warmup, advice):
    text = tuned(tmp_path, noise, warmup)
    assert f"**{advice}" in text
    for name, (_, _, _, c) in Study(tmp_path / "best_against_best" / "cpu").rows().items():
        if c.verdict != "not resolved" and c.p_holm >= 1e-4:
            assert (
                f"- `{name}` minus `baseline`: {c.mean:+.4f} ± {c.half:.4f} (n = 4, p = {c.p_holm:.4f}):"
                in text
            )
    assert sum(text.count(said) for said in ("**Drop", "**No reason", "**Keep", "**It helps", "**Interim")) == 1


@pytest.mark.parametrize(
    ("by", "advice"),
    [
        (-0.3, "use it, by an arm that is resolved as better than fine-tuning alone** (1 better)."),
        (
            0.0,
            "no reason to use it here, no arm is resolved as better than fine-tuning alone** (1 not resolved).",
        ),
        (+0.3, "leave it out, every arm is worse than fine-tuning alone** (1 worse)."),
    ],
)
def test_the_advice_on_noisytune_follows_from_the_arms_that_are_it_alone(tmp_path, by, advice):
    lam = {"init_from": "out/pretrained", "noisytune_lambda": 0.15}
    arms = {"fine_tuning": {"init_from": "out/pretrained"}, "lambda0.15": lam, "both": {**lam, **NOISE}}
    folder = tmp_path / "noisytune" / "cpu"
    make_study(folder, arms, baseline="fine_tuning", seeds=(1, 2, 3, 4), name="noisytune")
    shift(folder, "lambda0.15", by)
    if not by:
        for seed, more in enumerate((1e-3, -1e-3, 2e-3, -2e-3), start=1):
            path = folder / "lambda0.15" / f"seed{seed}" / "result.json"
            write_json(path, read_json(path) | {"best_val_loss": read_json(path)["best_val_loss"] + more})
    text, (_, _, _, c) = findings_of(tmp_path), Study(folder).rows()["lambda0.15"]
    assert f"**NoisyTune before fine-tuning: {advice}" in text
    assert f"it gains at most: `lambda0.15` {max(0, c.half - c.mean):.4f}." in text
    assert "at a learning rate of 0.001, from one" in text
    result = {path: read_json(path) for path in (folder / "lambda0.15").rglob("result.json")}
    for path in result:
        write_json(path, {"status": "diverged", "diverged_at": 9})
    text = findings_of(tmp_path)
    assert (
        "no reason to use it here, no arm is resolved as better than fine-tuning alone** (1 diverged)." in text
    )
    assert "it gains at most: –." in text
    for path, before in result.items():
        write_json(path, before)
    write_json(folder / "study.json", {**read_json(folder / "study.json"), "seeds": [1, 2, 3, 4, 5]})
    assert "**NoisyTune before" not in findings_of(tmp_path), "while planned seeds are missing"


def test_a_claim_too_small_for_these_seeds_is_said(tmp_path):
    words = "The paper's own gain, -0.0042 in its Table 1"
    (line,) = [line for line in tuned(tmp_path, +0.3, 0.0).splitlines() if words in line]
    folder = tmp_path / "best_against_best" / "cpu"
    least = Study(folder).rows()["noise"][-1].resolvable
    assert f"is smaller than what these seeds would find four times in five, {least:.4f}." in line
    assert line.endswith("Of the intervals above, that of none covers it, that of `noise` does not.")
    (line,) = [line for line in tuned(tmp_path, 0.0, 0.0).splitlines() if words in line]
    assert line.endswith("Of the intervals above, that of `noise` covers it, that of none does not.")
    for path in (folder / "noise").rglob("result.json"):
        same = read_json(folder / "baseline" / path.parent.name / "result.json")
        write_json(path, same | {"best_val_loss": same["best_val_loss"] + 0.3})
    assert words not in findings_of(tmp_path), "no spread, and nothing too small"


def test_missing_seeds_give_no_verdict_and_no_advice(tmp_path):
    text = tuned(tmp_path, -0.3, 0.0, planned=(1, 2, 3, 4, 5))
    assert "**Interim: planned seeds are missing.**" in text
    assert "interim, 4 of 5 seeds" in text


def test_an_experiment_counts_once_and_by_its_most_seeds(tmp_path):
    table1(tmp_path, +0.5)
    arms = {"baseline": {}, "same": NOISE, "hurts": {"noise_sigma": 0.2}}
    make_study(tmp_path / "table1_text8" / "cpu", arms, seeds=(1, 2, 3, 4, 5), name="table1_text8")
    shift(tmp_path / "table1_text8" / "cpu", "same", -1.0)
    elsewhere = {"baseline": {}, "elsewhere": {**NOISE, "noise_target": "weights"}}
    make_study(tmp_path / "regularizers" / "cpu", elsewhere, seeds=(1, 2, 3, 4), name="regularizers")
    few = {"baseline": {}, "cell": {"noise_sigma": 0.3}}
    make_study(tmp_path / "sensitivity" / "cpu", few, seeds=(1, 2), name="sensitivity")
    for name in ("aa_control", "tuning"):
        noise = {"baseline": {}, "noise": {"noise_sigma": 0.4}}
        make_study(tmp_path / name / "cpu", noise, seeds=(1, 2, 3, 4), name=name)
    text = findings_of(tmp_path)
    assert "one that occurs in several studies counts once): 1 better, 1 worse, 1 with fewer" in text


def test_noise_that_helps_elsewhere_than_in_the_gradients_is_named(tmp_path):
    first = {**NOISE, "noise_target": "first_moment"}
    arms = {"baseline": {}, "tuned": {"learning_rate": 4e-3}, "first": first}
    arms["first_tuned"] = {**first, "learning_rate": 4e-3}
    folder = tmp_path / "mechanism" / "cpu"
    versus = {"first_tuned": "tuned"}
    make_study(folder, arms, seeds=(1, 2, 3, 4), name="mechanism", versus=versus)
    elsewhere = "Put elsewhere than into the gradients, it is resolved as better in:"
    assert elsewhere not in findings_of(tmp_path)
    shift(folder, "first", -1.0)
    after = Study(folder).rows()["first_tuned"][-1].mean
    text = findings_of(tmp_path)
    assert (
        f"{elsewhere} `first`; at the rate that is best without noise, not tuned for it, `first_tuned`" in text
    )
    assert f"`first_tuned` minus `tuned` {after:+.4f}" in text
    assert "counts once): none." in text, "it is no noise in the gradients"


def test_noise_that_a_plateau_steers_is_noise_alone(tmp_path):
    steered = {**NOISE, "noise_schedule": "plateau", "plateau_interval": 25}
    arms = {"baseline": {}, "plateau": steered, "more": {**steered, "dropout": 0.1}}
    make_study(tmp_path / "schedules" / "cpu", arms, seeds=(1, 2, 3, 4), name="schedules")
    assert "counts once): 1 " in findings_of(tmp_path)


def test_the_harm_by_length_and_before_clipping_is_told(mechanism, tmp_path):
    text = findings_of(tmp_path)
    assert "The length of the run" not in text, "of one length"
    assert "added before clipping" not in text
    long = {"baseline": {"max_iters": 4000}, "noise": {**NOISE, "max_iters": 4000}}
    folder = make_study(tmp_path / "decisive" / "cpu", long, seeds=(1, 2, 3, 4), name="decisive")
    make_study(
        mechanism, {"before_clip": {**NOISE, "noise_before_clip": True}}, seeds=(1, 2, 3, 4), name="mechanism"
    )
    versus = dict.fromkeys(("second_moment_mean", "matched_warmup", "anticorrelated", "before_clip"), "noise")
    record = {**read_json(mechanism / "study.json"), "arms": ["baseline", "noise", *versus], "versus": versus}
    write_json(mechanism / "study.json", record)
    text = findings_of(tmp_path)
    shorter, longer = (Study(place).rows()["noise"][-1] for place in (mechanism, folder))
    told = f"{shorter.mean:+.4f} ± {shorter.half:.4f} after 1,000 iterations (n = 4)"
    assert f"is {told} and {longer.mean:+.4f} ± {longer.half:.4f} after 4,000 iterations (n = 4)." in text
    assert "at iteration 400 (below), which is 40% of 1,000, 10% of 4,000, 8% of 5,000, 0% of 100,000;" in text
    assert (
        f"it has 100% (100% to 100%) of the effect of `noise`: `before_clip` minus `baseline` {told[:7]}"
        in text
    )


def test_on_what_the_rates_were_tuned_is_told(tmp_path):
    rates = {f"{kind}_lr{rate}": {"learning_rate": rate, **knobs}
             for kind, knobs in (("baseline", {}), ("noise", NOISE)) for rate in (2e-3, 4e-3)}  # fmt: skip
    folder = make_study(tmp_path / "tuning" / "cpu", rates, "baseline_lr0.002", seeds=(101, 102), name="tuning")
    write_json(folder / "study.json", {**read_json(folder / "study.json"), "seeds": [101, 102]})
    shift(folder, "baseline_lr0.004", 0.5)
    (setting,) = Study(folder).settings
    best, other = (
        [
            sum(setting.arm(f"{kind}_lr{rate}").losses("best_val_loss").values()) / 2
            for kind in ("baseline", "noise")
        ]
        for rate in ("0.002", "0.004")
    )
    told = f"`baseline` {other[0] - best[0]:.4f}, `noise` {abs(other[1] - best[1]):.4f}:"
    text = tuned(tmp_path, 0.0, 0.0)
    assert f"on 2 seeds of its own (`tuning`), where the next best rate is worse by: {told}" in text


def test_what_noise_is_worth_at_the_end_of_overfitting_is_counted_apart(tmp_path):
    table1(tmp_path, +0.5)
    arms = {"none": {"train_tokens": 5000}, "noise": {"train_tokens": 5000, **NOISE}}
    folder = tmp_path / "limited_data" / "cpu"
    make_study(folder, arms, baseline="none", seeds=(1, 2, 3, 4), name="limited_data")
    for path in (folder / "noise").rglob("result.json"):
        write_json(path, read_json(path) | {"final_val_loss": 1.0})
    text = findings_of(tmp_path)
    assert "counts once): 2 worse. They are of very unlike noise" in text
    assert "At the end of runs that go on overfitting" in text
    assert "(`limited_data`; val, final, whole split): 1 better; what that is worth is below." in text


def test_every_number_is_the_comparisons_and_has_its_command(tmp_path):
    text = table1(tmp_path, +0.5)
    ((_, _, _, c),) = Study(tmp_path / "table1_shakespeare" / "cpu").rows().values()
    difference = f"- `cell` minus `baseline`: {c.mean:+.4f} ± {c.half:.4f}"
    p = "< 0.0001" if c.p_holm < 1e-4 else f"= {c.p_holm:.4f}"
    assert f"{difference} (n = 4, p {p}): worse." in text
    text = table1(tmp_path / "smaller", -0.175)
    ((_, _, _, c),) = Study(tmp_path / "smaller" / "table1_shakespeare" / "cpu").rows().values()
    assert f"(n = 4, resolvable {c.resolvable:.4f}): not resolved." in text
    assert "    python sweep.py config/study/table1_shakespeare.py config/cpu.py\n" in text


def test_a_question_without_a_study_is_open(tmp_path):
    text = table1(tmp_path, +0.5)
    for name in ("mechanism", "flatness", "limited_data", "noisytune"):
        assert f"Open: `config/study/{name}.py` has not been run." in text
    assert "Open: `config/study/table1_shakespeare.py`" not in text


@pytest.fixture
def mechanism(tmp_path):
    """A study in which the mean in the second moment does all that the noise does, and the warm-up half."""
    arms = {
        "baseline": {},
        "noise": NOISE,
        "second_moment_mean": {**NOISE, "noise_target": "second_moment_mean"},
        "matched_warmup": {**NOISE, "noise_target": "learning_rate"},
        "anticorrelated": {**NOISE, "noise_anticorrelated": True},
    }
    versus = dict.fromkeys(("second_moment_mean", "matched_warmup", "anticorrelated"), "noise")
    folder = make_study(
        tmp_path / "mechanism" / "cpu", arms, seeds=(1, 2, 3, 4), name="mechanism", versus=versus
    )
    effect = Study(folder).rows()["noise"][-1].mean
    shift(folder, "matched_warmup", -effect / 2 / 1.025)
    for path in folder.rglob("log.jsonl"):
        noisy = json.loads((path.parent / "config.json").read_text())["noise_sigma"]
        with open(path, "a") as log:
            for at in range(0, 1000, 20):
                ratio = min(1.0, at / 800) if noisy else 1.0
                rms = 0.5 if "matched_warmup" in str(path) else 1.0
                event = {"signal_rms": rms, "signal_share": 0.5, "preconditioner": ratio}
                event["noise_ratio"] = 300 * 0.99**at if noisy else 0
                print(json.dumps({"kind": "diagnosis", "iter": at, **event}), file=log)
                factor = at / 600 if "matched_warmup" in str(path) else 1.0
                print(
                    json.dumps({"kind": "train", "iter": at + 1, "lr": 1e-3 * factor, "grad_norm": 1.5}),
                    file=log,
                )
    return folder


def test_a_control_has_its_share_of_the_noises_effect(mechanism, tmp_path):
    text = findings_of(tmp_path)
    assert (
        "- `second_moment_mean`: 100% (100% to 100%) of the effect of `noise`: it accounts for it (n = 4)."
        in text
    )
    assert "- `matched_warmup`: 5" in text
    assert "of the effect of `noise`: it has a part of it (n = 4)." in text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        *((0.95, 1.05, "it accounts for it"), (0.5, 1.5, "it may account for it, and these seeds cannot say")),
        *((1.2, 1.5, "it has more than that effect"), (0.2, 0.8, "it has a part of it")),
        *((0.92, 0.98, "it accounts for it"), (-0.1, 0.3, "none of it is resolved")),
        (-0.5, -0.2, "it has the opposite effect"),
    ],
)
def test_the_words_for_a_share(low, high, said):
    assert controls.judged(low, high) == said


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (0.0, f"{MEAN}, without any randomness, is enough for its harm: alone it has 100%"),
        (0.1, "is thereby rejected: what else the noise does takes some of that back"),
        (-0.1, f"{MEAN}, without any randomness, is enough for a part of its harm: alone it has"),
        (-0.4, f"{MEAN} is not what does its harm: alone it has"),
        (None, f"these seeds cannot tell whether {MEAN} is enough for its harm: alone it has"),
    ],
)
def test_the_answer_in_short_follows_from_the_shares(mechanism, tmp_path, by, said):
    if by is None:
        for seed, more in enumerate((-0.3, 0.3, -0.2, 0.1), start=1):
            path = mechanism / "second_moment_mean" / f"seed{seed}" / "result.json"
            write_json(path, read_json(path) | {"best_val_loss": read_json(path)["best_val_loss"] + more})
    else:
        shift(mechanism, "second_moment_mean", by)
    text = findings_of(tmp_path)
    head = "**In short,** over 1,000 iterations (n = 4): "
    (line,) = [line for line in text.splitlines() if line.startswith(head)]
    assert said in line
    assert ("takes some of that back" in line) == (" more than enough " in line) == (by == 0.1)
    assert "One factor for all elements' steps (`matched_warmup`) has 5" in line
    assert "in the end: it has a part of it; at iteration 250 it has 100% (100% to 100%)" in line
    assert "in RMS 50% to 50% of the signal in them" in line
    assert "Anti-correlated" not in line, "it has no more than the noise here"
    write_json(mechanism / "study.json", read_json(mechanism / "study.json") | {"seeds": [1, 2, 3, 4, 5]})
    assert "**In short" not in findings_of(tmp_path), "while planned seeds are missing"


def test_what_adds_up_is_said_to_help_where_noise_that_does_not_does_more_harm(mechanism, tmp_path):
    shift(mechanism, "second_moment_mean", 0.1)
    shift(mechanism, "anticorrelated", 0.1)
    text = findings_of(tmp_path)
    assert "Anti-correlated noise, as random, but with a sum in the weights that stays small, has 1" in text
    assert "of the effect of `noise` too: whatever takes some of the harm back is missing from it" in text
    assert "- `anticorrelated` minus `second_moment_mean`: +0.0000 ± 0.0000 (n = 4)." in text
    shift(mechanism, "anticorrelated", 0.2)
    assert "Anti-correlated" not in findings_of(tmp_path), "it does more than the mean alone"


def test_an_effect_that_is_a_gain_is_called_one_and_first_moments_that_diverged_are_told(mechanism, tmp_path):
    for arm in ("noise", "second_moment_mean"):
        shift(mechanism, arm, -1.0)
    first = {"first_moment": {**NOISE, "noise_target": "first_moment"}}
    make_study(mechanism, first, seeds=(1, 2, 3, 4))
    for path in (mechanism / "first_moment").rglob("result.json"):
        write_json(path, {"status": "diverged", "diverged_at": 9})
    arms = ["baseline", "noise", "second_moment_mean", "first_moment"]
    record = {"name": "mechanism", "size": "cpu", "title": "A study", "baseline": "baseline", "arms": arms}
    write_json(mechanism / "study.json", record | {"versus": dict.fromkeys(arms[2:], "noise")})
    text = findings_of(tmp_path)
    assert f"{MEAN}, without any randomness, is enough for its gain: alone it has 100%" in text
    assert "in the first moment alone is not known: all 4 runs diverged" in text


def test_shares_on_the_way(mechanism, tmp_path):
    for path in (mechanism / "matched_warmup").rglob("log.jsonl"):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        for event in events:
            if (event["kind"], event["iter"]) == ("eval", 500):
                event["val_loss"] += 0.1 * (1 + 0.3 * int(path.parent.name.removeprefix("seed")))  # its effect
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
    text = findings_of(tmp_path)
    assert "| share of the noise's effect at iteration | 250 | 500 | 750 | 1,000 |" in text
    same = "100% (100% to 100%)"
    assert f"| `matched_warmup` | {same} | 200% (200% to 200%) | {same} | {same} |" in text
    assert f"| `second_moment_mean` | {' | '.join([same] * 4)} |" in text


def test_a_share_near_zero_has_no_sign():
    assert controls.short_share((-0.001, -0.004, 0.02)) == "0% (0% to 2%)"
    assert controls.short_share(None) == "–"


def test_a_baseline_at_another_rate_has_no_effect_to_share(mechanism, tmp_path):
    arms = {"tuned": {"learning_rate": 4e-3}, "warmup_tuned": {"learning_rate": 4e-3, "warmup_iters": 500}}
    make_study(mechanism, arms, seeds=(1, 2, 3, 4))
    record = {"name": "mechanism", "size": "cpu", "title": "A study", "baseline": "baseline"}
    arms = ["baseline", "noise", "second_moment_mean", "matched_warmup", *arms]
    write_json(mechanism / "study.json", record | {"arms": arms, "versus": {"warmup_tuned": "tuned"}})
    shift(mechanism, "tuned", -0.3)
    shift(mechanism, "warmup_tuned", -0.3)
    text = findings_of(tmp_path)
    assert "`warmup_tuned` minus `tuned`" in text
    assert "of the effect of `tuned`" not in text


@pytest.mark.parametrize("arm", ["second_moment_mean", "noise", "baseline"])
def test_where_runs_diverged_there_is_no_share(mechanism, tmp_path, arm):
    write_json(mechanism / arm / "seed1" / "result.json", {"status": "diverged", "diverged_at": 9})
    text = findings_of(tmp_path)
    assert ("- `matched_warmup`: 5" in text) == (arm == "second_moment_mean")
    assert "- `second_moment_mean`: " not in text
    assert "**In short" not in text


def test_a_share_of_runs_that_ended_above_their_start_is_none(mechanism, tmp_path):
    shift(mechanism, "second_moment_mean", 20.0)
    text = findings_of(tmp_path)
    assert "- `second_moment_mean`: " not in text
    assert "- `second_moment_mean` minus `noise`: worse, 4 of 4 ended above their start." in text


def test_the_prediction_stands_beside_what_was_measured(mechanism, tmp_path):
    (setting,) = Study(mechanism).settings
    noise, v = setting.arm("noise"), 1.0 / 804_096  # the made-up gradients are clipped to norm 1
    k = 0.1**2 * 0.01 * 0.99 / (0.99 - 0.99**2)
    assert predicted_half(noise) == pytest.approx(math.log(1 + k / (3 * v)) / -math.log(0.99), abs=5)
    assert [measured_half(run) for run in noise.runs] == [pytest.approx(400)] * 4
    assert measured_half(setting.baseline.runs[0]) is None, "it never was below a half"
    under = next(at for at in range(0, 1000, 20) if 300 * 0.99**at < 1)
    row = f"`noise` | {predicted_half(noise):,.0f} | 400 ± 0 (n = 4) | 300 | {under} |"
    text = findings_of(tmp_path)
    assert f"| `mechanism`, 1,000 iterations | {row}" in text
    assert "| `mechanism`, 1,000 iterations | `matched_warmup` |" not in text, (
        "its own recursion is the prediction"
    )
    share = f"{predicted_half(noise) / 400:.0%}"
    assert f"Of the measured t_1/2 the predicted one is {share} to {share}:" in text


def test_what_is_predicted_for_after_the_end_is_not_put_in_figures(tmp_path):
    arms = {"baseline": {}, "noise": {**NOISE, "beta2": 0.9999}}
    study = Study(make_study(tmp_path / "long" / "cpu", arms))
    assert predicted_half(study.settings[0].arm("noise")) is None
    row, ratio = next(controls.half_times(study))
    assert "| `noise` | > 1,000 | – | – | – |" in row
    assert ratio is None


@pytest.mark.parametrize(
    ("values", "half"),
    [((0.1, 0.9), 20), ((0.8, 0.1, 0.9), 60), ((0.1, 0.9, 0.4), None), ((0.6, 0.9), None)],
)
def test_a_measurement_between_two_is_interpolated_where_it_is_passed_for_good(mechanism, values, half):
    (setting,) = Study(mechanism).settings
    run = setting.arm("noise").runs[0]
    measured = [{"iter": 40 * place, "preconditioner": value} for place, value in enumerate(values)]
    found = measured_half(dataclasses.replace(run, measured=measured))
    assert found == (half and pytest.approx(half))


@pytest.mark.parametrize(("more", "word"), [(0.3, "overfits"), (0.0, "does not demonstrably overfit")])
def test_whether_the_baseline_overfits_is_said(tmp_path, more, word):
    arms = {"none": {"train_tokens": 5000}, "noise": {"train_tokens": 5000, **NOISE}}
    folder = make_study(
        tmp_path / "limited_data" / "cpu", arms, baseline="none", seeds=(1, 2, 3), name="limited_data"
    )
    for path in folder.rglob("result.json"):
        result = json.loads(path.read_text())
        final = result["final_val_loss"] + more
        write_json(path, {**result, "final_val_loss": final, "best_iter": 750})
    text = findings_of(tmp_path)
    assert f"The baseline, `none`, {word}: its best evaluation is at iteration 750 (mean)" in text
    assert f"higher by {more:.4f} ± 0.0000 (n = 3)" in text
    assert text.count("val, final, whole split.") == 1, "a method may only delay overfitting"


def test_a_wiggle_is_no_overfitting_and_one_seed_shows_none(tmp_path):
    folder = make_study(tmp_path / "regularizers" / "cpu", {"none": {}}, baseline="none", name="regularizers")
    for more, seeds, said in ((0.009, 3, "does not demonstrably overfit"), (0.3, 1, "in one seed")):
        for path in sorted(folder.rglob("result.json")):
            result = read_json(path)
            write_json(path, result | {"final_val_loss": result["best_val_loss"] + more})
            if int(path.parent.name.removeprefix("seed")) > seeds:
                shutil.rmtree(path.parent)
        (text,) = findings.overfitting(Study(folder))
        assert f"The baseline, `none`, {said}: its best" in text
        assert f"higher by {more:.4f}" in text
    write_json(folder / "none" / "seed1" / "result.json", {"status": "diverged", "diverged_at": 9})
    assert list(findings.overfitting(Study(folder))) == []


def test_who_only_delays_overfitting_is_said(tmp_path):
    common, noise = {"train_tokens": 5000}, {"train_tokens": 5000, **NOISE}
    arms = {"none": common, "better": {**common, "dropout": 0.1}, "worse_at_best": noise}
    arms |= {
        "delays": {**common, "weight_decay": 0.2},
        "beside_noise": {**noise, "noise_target": "first_moment"},
    }
    folder = tmp_path / "limited_data" / "cpu"
    named = {"baseline": "none", "name": "limited_data", "versus": {"beside_noise": "worse_at_best"}}
    make_study(folder, arms, seeds=(1, 2, 3, 4), **named)
    shift(folder, "better", -0.5)
    for arm, final in (("delays", 1.0), ("worse_at_best", 1.0), ("beside_noise", 0.5)):
        for path in (folder / arm).rglob("result.json"):
            write_json(path, read_json(path) | {"final_val_loss": final, "best_iter": 1000})
    text = findings_of(tmp_path)
    alone = "`worse_at_best` (at its best worse), `delays` (at its best not resolved)"
    assert f"resolved as better at their best: `better`; at the end alone: {alone}. For these" in text
    assert "one text of 5,000 symbols" in text
    best = Study(folder).settings[0].arm("delays").losses("best_val_loss").values()
    more = 1.0 - sum(best) / 4
    (row,) = (line for line in text.splitlines() if line.startswith("| `delays` | 1,000 | 4 of 4 |"))
    assert f"| {more:.4f} ± " in row
    assert row.endswith("| not resolved | better |")
    write_json(folder / "study.json", {**read_json(folder / "study.json"), "seeds": [1, 2, 3, 4, 5]})
    assert "resolved as better at" not in findings_of(tmp_path), "while planned seeds are missing"
    for arm in ("better", "delays", "worse_at_best", "beside_noise"):
        shutil.rmtree(folder / arm)
    assert "resolved as better at" not in findings_of(tmp_path), "with nothing to compare"


def test_schedules_are_compared_with_each_other(tmp_path):
    arms = {
        "baseline": {},
        "exponential": NOISE,
        "linear": {**NOISE, "noise_schedule": "linear"},
        "exponential_global": {**NOISE, "noise_scale": "global"},
        "exponential_tensor": {**NOISE, "noise_scale": "tensor"},
    }
    folder = make_study(tmp_path / "schedules" / "cpu", arms, seeds=(1, 2, 3, 4), name="schedules")
    shift(folder, "linear", 0.5)
    text = findings_of(tmp_path)
    c = compare(
        *(Study(folder).settings[0].arm(name).losses("best_val_loss") for name in ("linear", "exponential"))
    )
    assert f"- `linear` minus `exponential`: {c.mean:+.4f} ± {c.half:.4f} (n = 4)." in text
    assert "- `exponential_tensor` minus `exponential_global`: +0.0000 ± 0.0000 (n = 4)." in text
    assert "is not of equal sum" not in text
    lost = [("linear", 1), *(("exponential_global", seed) for seed in (1, 2, 3, 4))]
    for arm, seed in lost:
        write_json(folder / arm / f"seed{seed}" / "result.json", {"status": "diverged", "diverged_at": 9})
    text = findings_of(tmp_path)
    assert "(n = 3), 1 of 4 diverged." in text
    head = "- `exponential_tensor` minus `exponential_global`: nothing to compare"
    assert f"{head}, `exponential_global`: 4 of 4 diverged." in text


def test_how_much_noise_a_plateau_came_to_is_said(tmp_path):
    arms = {"baseline": {}, "plateau": {**NOISE, "noise_schedule": "plateau"}}
    arms["constant"] = {**NOISE, "noise_schedule": "constant"}
    folder = make_study(tmp_path / "schedules" / "cpu", arms, seeds=(1, 2, 3, 4), name="schedules")
    for path in folder.rglob("log.jsonl"):
        sigmas = {"plateau": (0.2, 0.2, 0.1, 0.1), "constant": (0.2,) * 4}.get(path.parts[-3], ())
        with open(path, "w") as log:
            for at, sigma in zip((0, 100, 101, 301), sigmas):
                print(json.dumps({"kind": "train", "iter": at, "sigma": sigma}), file=log)
    part = (100 * 0.04 + 0.025 + 200 * 0.01) / (301 * 0.04)
    said = f"its sum of sigma_t^2 came to {part:.0%} of that of `constant` (n = 4, from the logged sigmas)."
    assert said in findings_of(tmp_path)


def test_comparisons_come_in_the_order_of_the_studys_arms(tmp_path):
    few = {"train_tokens": 5000}
    arms = {"baseline": {}, "noise": NOISE, "few": few, "few_noise": {**few, **NOISE}}
    study = Study(make_study(tmp_path / "two" / "cpu", arms, seeds=(1, 2)))
    assert [setting.arms[0].name for setting in study.settings] == ["few", "baseline"]
    assert list(study.rows()) == ["noise", "few_noise"]
    first, _, other = study.where.partition(", and ")
    assert other == f"{first} drawn from 5,000"


def test_runs_that_diverged_count_as_an_outcome(tmp_path):
    table1(tmp_path, 0.5)
    folder = tmp_path / "table1_shakespeare" / "cpu"
    for path in (folder / "cell").rglob("result.json"):
        write_json(path, {"status": "diverged", "diverged_at": 9})
    text = findings_of(tmp_path)
    assert "against the baseline, val, best evaluation: `table1_shakespeare/cpu` 1 diverged." in text


def test_the_cells_of_the_wider_grid_are_told_apart_from_the_papers(tmp_path):
    table1(tmp_path, 0.5)
    wider = {"baseline": {}, "a": {"noise_sigma": 0.2}, "b": {"noise_sigma": 0.3}}
    make_study(tmp_path / "sensitivity" / "cpu", wider, seeds=(1, 2, 3, 4), name="sensitivity")
    text = findings_of(tmp_path)
    head = "against the baseline, val, best evaluation:"
    assert f"Cells of the paper's grid, {head} `table1_shakespeare/cpu` 1 worse." in text
    assert f"Cells of `sensitivity`, a wider one, {head} `sensitivity/cpu` 2 worse." in text


def test_an_arm_that_is_better_though_some_of_it_exploded_is_better(tmp_path):
    tuned(tmp_path, -0.3, 0.0)
    path = tmp_path / "best_against_best" / "cpu" / "noise" / "seed1" / "result.json"
    write_json(path, read_json(path) | {"final_train_loss": 90.0})
    text = findings_of(tmp_path)
    assert ": better, 1 of 4 ended above their start." in text
    assert (
        "**Keep it, with its learning rate tuned: it is resolved as better than the tuned baseline.**" in text
    )
