"""theory.py against sums by hand, and against the table of the paper's grid at its own size."""

import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest
from made_up import DIVERGED, fake_run, make_study

from analysis import harm, predict, records, theory
from analysis.fields import Fields
from analysis.predict import SYMBOLS
from analysis.shares import arm_shares
from config import ROOT, UserError, settle
from config.study import read_study
from data.files import write_json
from train import learning_rate

V = 3.1e-4**2  # a gradient of norm 1 over 10.7 M elements
TABLE = {  # sigma_0, gamma: the signal at t = 0, 100, 500, 1000, 1500; from which t it is a half
    (0.1, 0.99): ((0.003, 0.005, 0.04, 0.42, 0.99), 1043),
    (0.1, 0.95): ((0.003, 0.012, 0.11, 0.81, 1.00), 826),
    (0.05, 0.99): ((0.006, 0.010, 0.08, 0.68, 1.00), 905),
    (0.05, 0.95): ((0.006, 0.024, 0.22, 0.94, 1.00), 689),
    (0.01, 0.99): ((0.03, 0.05, 0.35, 0.98, 1.00), 585),
    (0.01, 0.95): ((0.03, 0.12, 0.75, 1.00, 1.00), 371),
}


@pytest.mark.parametrize("cell", TABLE)
def test_the_paper_s_grid_at_its_own_size(cell):
    sigma0, gamma = cell
    sigma = sigma0 * gamma ** np.arange(2000)
    signal, half = TABLE[cell]
    assert theory.signal(sigma, V, 0.99)[[0, 100, 500, 1000, 1500]] == pytest.approx(signal, rel=0.06, abs=5e-4)
    assert theory.half_time(sigma, V, 0.99) == pytest.approx(half, abs=4)


@pytest.mark.parametrize("beta2", [0.95, 0.999])
def test_share_and_half_time_are_those_of_sums_by_hand(beta2):
    steps, v = 300, 1e-4
    sigma, rates = 0.1 * 0.97 ** np.arange(steps), np.linspace(1e-3, 1e-4, steps)
    signal = []
    for t in range(steps):
        s = sum((1 - beta2) * beta2 ** (t - k) * sigma[k] ** 2 for k in range(t + 1))
        own = sum((1 - beta2) * beta2 ** (t - k) * v for k in range(t + 1))
        signal.append(math.sqrt(own / (own + s)))
    assert theory.signal(sigma, v, beta2) == pytest.approx(signal)
    wanted = sum(rate * part for rate, part in zip(rates, signal)) / sum(rates)
    assert theory.share(rates, sigma, v, beta2) == pytest.approx(wanted)
    first = next((t for t, part in enumerate(signal) if part >= 0.5), None)
    assert theory.half_time(sigma, v, beta2) == first
    assert (first is None) == (beta2 == 0.999), "one is reached, the other is not"


@pytest.mark.parametrize(("sigma0", "gamma", "warmup"), [(0.1, 0.98, 20), (0.01, 0.95, 1)])
def test_the_displacement_is_that_of_simulated_weights(sigma0, gamma, warmup):
    """Weights of one gradient each, under AdamW with the noise and with it in the second moment alone."""
    betas, v, weights = (0.9, 0.97), 1e-6, 5000
    config = settle({"max_iters": 300, "learning_rate": 0.01, "warmup_iters": warmup})
    rates, sigma = theory.learning_rates(config), sigma0 * gamma ** np.arange(300)
    draw, (noise, square, moved) = np.random.default_rng(1), np.zeros((3, weights))
    for t, (rate, sd) in enumerate(zip(rates, sigma), start=1):
        xi = sd * draw.standard_normal(weights)
        noise = betas[0] * noise + (1 - betas[0]) * xi
        square = betas[1] * square + (1 - betas[1]) * (v**0.5 + xi) ** 2
        moved += rate * noise / (1 - betas[0] ** t) / np.sqrt(square / (1 - betas[1] ** t))
    assert theory.displacement_sd(rates, sigma, v, betas) == pytest.approx(moved.std(), rel=0.06)
    assert theory.displacement_sd(rates, 0 * sigma, v, betas) == 0


def test_the_displacements_are_as_docs_hypotheses_has_them():
    """And that of the strongest cell at 1e-3 is what the study widens the initialization by."""
    study = read_study(ROOT / "config" / "study" / "two_effects.py", [str(ROOT / "config" / "cpu.py")])
    config = next(run.config for run in study.runs if run.arm == "mean_and_init")
    v, betas = 1 / theory.parameters(config, SYMBOLS), (config.beta1, config.beta2)

    def sd(sigma, gamma, rate):
        rates = theory.learning_rates(config) * rate / config.learning_rate
        return theory.displacement_sd(rates, sigma * gamma ** np.arange(config.max_iters), v, betas)

    assert sd(0.1, 0.99, 1e-3) == pytest.approx(0.0079, abs=5e-5)
    assert sd(0.01, 0.95, 1e-3) == pytest.approx(0.0014, abs=5e-5)
    assert sd(0.1, 0.99, 8e-3) == pytest.approx(0.063, abs=5e-4)
    assert config.init_noise == pytest.approx(sd(0.1, 0.99, 1e-3), rel=0.02)


def test_lions_share_is_that_of_simulated_signs():
    config = settle(
        {"optimizer": "lion", "max_iters": 300, "warmup_iters": 20, "noise_sigma": 0.1, "noise_gamma": 0.97}
    )
    beta1, beta2, v, draw = config.beta1, config.beta2, 1e-6, np.random.default_rng(1)
    momentum, signs = np.zeros(40_000), np.zeros(300)
    for t in range(300):
        g = v**0.5 + 0.1 * 0.97**t * draw.standard_normal(40_000)
        signs[t] = np.sign(beta1 * momentum + (1 - beta1) * g).mean()
        momentum = beta2 * momentum + (1 - beta2) * g
    rates = theory.learning_rates(config)
    wanted = np.dot(rates, signs) / rates.sum()
    assert theory.lion_share(config, v) == pytest.approx(wanted, abs=0.006)
    assert 0.2 < wanted < 0.8


def test_a_law_is_recovered_and_goes_on_smoothly_beyond_what_it_was_fitted_to():
    shares = np.linspace(0.05, 0.99, 20)
    harms = predict.powers(shares) @ [0.01, -0.1, 0.4]
    law = predict.Law(shares, harms, drop=0.25)
    assert law.missed == pytest.approx((0, 0), abs=1e-9)
    assert law.harm(0.5) == pytest.approx(predict.powers(0.5) @ [0.01, -0.1, 0.4])
    assert law.loss(5000) == pytest.approx(-0.25)
    assert law.loss(2000) - law.loss(2002) == pytest.approx(law.loss(1998) - law.loss(2000), rel=0.01)
    assert law.harm(0.5, 4000) == pytest.approx(-law.loss(4000)), "as long as a clean run of 2,000"
    assert law.harm(1.0, 4000) == 0 < law.harm(0.9, 20_000) < law.harm(0.9, 4000) < law.harm(0.9)


def test_an_arm_is_missed_by_what_the_others_tell_of_it():
    shares = np.linspace(0.05, 0.9, 8)
    harms = predict.powers(shares) @ [0.01, -0.1, 0.4] + 0.01 * np.random.default_rng(1).standard_normal(8)
    fits = [predict.solved(predict.powers(np.delete(shares, i)), np.delete(harms, i)) for i in range(8)]
    errors = [predict.powers(share) @ fit - harm for share, fit, harm in zip(shares, fits, harms)]
    wanted = math.sqrt(np.mean(np.square(errors))), max(map(abs, errors))
    assert predict.Law(shares, harms, drop=0.25).missed == pytest.approx(wanted)


def test_the_predictions_on_the_page_are_those_of_the_records():
    """Of the seeds that were there before, at their size: later records change nothing."""
    page = (ROOT / "docs" / "hypotheses.md").read_text("utf-8")
    rows = re.findall(r"(?m)^\| `(.*?)` \| ([\d.]+) \| ([+\d.-]+) \| ([+\d.-]+) \|$", page)
    found = {arm: [float(number) for number in numbers] for arm, *numbers in rows}
    known = records.read([ROOT / "results"])
    later = [
        known.of(study=[*predict.KNOWN, "decisive", "tuning"]).runs.assign(size="full", best_val_loss=9.0),
        known.of(study="tuning").runs.assign(seed=103, best_val_loss=9.0),
    ]
    law = predict.known_law(dataclasses.replace(known, runs=pd.concat([known.runs, *later])))
    arms = {}
    for name in ("law", "s_index"):
        study = read_study(ROOT / "config" / "study" / f"{name}.py", [str(ROOT / "config" / "cpu.py")])
        arms |= predict.predicted({run.arm: run.config for run in study.runs}, *law)
    assert {*arms} == {*found}
    for arm, wanted in arms.items():
        assert found[arm] == pytest.approx(wanted, abs=6e-4), arm


def test_predictions_stand_beside_what_was_found(tmp_path):
    noisy = {"noise_sigma": 0.1, "noise_gamma": 0.99}
    make_study(tmp_path / "made_up" / "cpu", {"baseline": {}, "noise": noisy}, seeds=(1, 2), name="made_up")
    found = records.read([ROOT / "results", tmp_path])
    config = found.of(study="made_up", arm="noise").runs.config.iloc[0]
    ((share, _, predicted),) = predict.predicted({"noise": config}, *predict.known_law(found)).values()
    (row,) = predict.beside_found(found, "made_up", "cpu").itertuples()
    assert (row.Index, row.share, row.predicted) == ("noise", share, predicted)
    assert row.mean == pytest.approx(0.145)
    (cells,) = Fields(found).predictions("made_up")
    assert cells[:3] == ["`noise`", f"{row.share:.3f}", f"{row.predicted:+.4f}"]
    law, (share,) = predict.known_law(found)[0], arm_shares(found.of(study="made_up")).share
    (cells,) = Fields(found).by_share("made_up")
    assert cells == ["noise", f"{share:.3f}", f"{law.harm(share):+.4f}", "+0.1450 ± 0.1906"]


@pytest.mark.parametrize("options", [{"noise_schedule": "linear"}, {"noise_scale": "global"}], ids=str)
def test_what_holds_for_one_kind_of_noise_is_refused_for_others(options):
    config = settle({"noise_sigma": 0.1, "noise_gamma": 0.99, **options})
    with pytest.raises(UserError, match="absolute and exponential"):
        predict.predicted({"noise": config}, None, 1.0)


def test_without_noise_all_of_the_rate_is_left():
    assert theory.share(np.ones(9), np.zeros(9), 1e-4, 0.99) == 1
    assert theory.half_time(np.zeros(9), 1e-4, 0.99) == 0


def test_rates_are_those_of_training():
    config = settle({"max_iters": 400, "learning_rate": 1e-3, "warmup_iters": 30})
    assert theory.learning_rates(config) == pytest.approx([learning_rate(t, config) for t in range(400)])


def test_sigma_between_logged_steps():
    whole = 0.1 * 0.95 ** np.arange(101)
    assert theory.sigma_between([0, 20, 50, 100], whole[[0, 20, 50, 100]], 101) == pytest.approx(whole)
    ended = theory.sigma_between([0, 10, 20, 30], [0.1, 0.1, 0, 0], 40)
    assert ended == pytest.approx([0.1] * 20 + [0.0] * 20)
    assert not theory.sigma_between([0, 10], [0, 0], 20).any()


def test_v_is_of_clipped_gradients():
    assert theory.mean_square([3.0, 0.5], 1.0, 10) == pytest.approx((1 + 0.25) / 2 / 10)
    assert theory.mean_square([3.0, 0.5], 0, 10) == pytest.approx((9 + 0.25) / 2 / 10)


def test_shares_are_of_arms_with_absolute_noise_alone(tmp_path):
    noisy = {"noise_sigma": 0.1, "noise_gamma": 0.99}
    arms = {
        **{"baseline": {}, "noise": noisy, "relative": {**noisy, "noise_scale": "global"}},
        **{"weights": {**noisy, "noise_target": "weights"}, "faster": {**noisy, "learning_rate": 0.1}},
    }
    make_study(tmp_path / "one", arms, seeds=(1, 2), name="one")
    unlogged = fake_run(tmp_path / "one" / "unlogged" / "seed1", until=-1, noise_sigma=9.0)
    write_json(unlogged / "result.json", DIVERGED)
    table = arm_shares(records.read([tmp_path]))
    assert list(table.arm) == ["noise"]
    config, v = settle({"max_iters": 1000}), 1 / 804_096  # the norm is 1.5, clipped at 1
    rates = theory.learning_rates(config)
    wanted = theory.share(rates, 0.1 * 0.99 ** np.arange(1000), v, config.beta2)
    assert table.share[0] == pytest.approx(wanted)
    assert table.harm[0] == pytest.approx(0.145)
    figure = harm.share(records.read([tmp_path]), names={("one", "noise"): ("here", (6, 5))})
    (point,) = figure.axes[0].containers
    assert (point.lines[0].get_xdata()[0], point.lines[0].get_ydata()[0]) == pytest.approx((wanted, 0.145))
    assert figure.axes[0].texts[0].get_text() == "here"
