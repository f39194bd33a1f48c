"""Noise in AdamW's moments, in the weights, in the learning rate: against AdamW written out in float64."""

import math

import pytest
import torch
from conftest import checkpoint, same_weights
from torch import nn

import noise
import train
from config import UserError, load
from noise import GradientNoise, MatchedWarmup, create_moments, reset_moments, schedule
from training import step as training
from training.diagnosis import Diagnosis, batch_noise_norm
from training.run_folder import read_log
from training.step import own_noise_norm

BETAS, EPS, DECAY, RATE = (0.9, 0.99), 1e-8, 0.1, 1e-2
POINTS = ("gradient", "first_moment", "second_moment", "second_moment_mean")


def parameters():
    generator = torch.Generator().manual_seed(1)
    shapes = ((7, 5), (11,), (3, 4, 2))
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def gradients_of(step, count=3):
    """Gradients of very unequal sizes, some of them zero, the same at every call."""
    generator = torch.Generator().manual_seed(1000 + step)
    drawn = [torch.randn(p.shape, generator=generator) * 10.0 ** (-2 * i) for i, p in enumerate(parameters())]
    drawn[0][0] = 0.0
    return drawn[:count]


def make(point, fused, scale="absolute", sigma=0.03):
    model = parameters()
    optimizer = torch.optim.AdamW(model, lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=fused)
    create_moments(optimizer)
    named = [(f"p{i}", p) for i, p in enumerate(model)]
    sigma = schedule("exponential", sigma=sigma, gamma=0.9)
    return model, optimizer, GradientNoise(named, sigma, seed=5, scale=scale)


def reference(point, noise, steps, scale="absolute"):
    """AdamW as it is written down, in float64, each moment seeing the gradient that the point gives it."""
    weights = [p.detach().double() for p in parameters()]
    m, v = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    for step in range(steps):
        gradients = [g.double() for g in gradients_of(step)]
        units = [xi.double().clone() for xi in noise.unit(step)]
        sigma = noise.sigma(step)
        for i, (g, xi) in enumerate(zip(gradients, units)):
            sd = sigma * (g.norm() / math.sqrt(g.numel()) if scale == "tensor" else 1.0)
            noisy = g + sd * xi
            in_first = noisy if point in ("gradient", "first_moment") else g
            squared = {"second_moment_mean": g**2 + sd**2, "first_moment": g**2}.get(point, noisy**2)
            m[i] = BETAS[0] * m[i] + (1 - BETAS[0]) * in_first
            v[i] = BETAS[1] * v[i] + (1 - BETAS[1]) * squared
            corrected = (m[i] / (1 - BETAS[0] ** (step + 1)), v[i] / (1 - BETAS[1] ** (step + 1)))
            weights[i] = weights[i] * (1 - RATE * DECAY) - RATE * corrected[0] / (corrected[1].sqrt() + EPS)
    return weights


def stepped(point, model, optimizer, noise, step):
    for p, g in zip(model, gradients_of(step)):
        p.grad = g
    norm = noise.add_(step) if point == "gradient" else noise.add_to_moments_(step, optimizer, point)
    optimizer.step()
    return norm


@pytest.mark.parametrize("scale", ["absolute", "tensor"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("point", POINTS)
def test_each_point_is_adamw_written_out(point, fused, scale):
    steps = 60
    model, optimizer, noise = make(point, fused, scale)
    for step in range(steps):
        stepped(point, model, optimizer, noise, step)
    for p, wanted in zip(model, reference(point, make(point, fused)[2], steps, scale)):
        assert torch.allclose(p.double(), wanted, rtol=2e-5, atol=2e-5 * RATE * steps)
    others = [reference(other, make(point, fused)[2], steps, scale) for other in POINTS if other != point]
    for other in others:
        gap = max((p - w).abs().max() for p, w in zip(model, other))
        assert gap > 100 * 2e-5 * RATE * steps, "the points differ by more than the tolerance"


def test_the_second_moment_never_goes_below_zero():
    """Where the noise cancels the gradient, v is to be 0 but for rounding, whose sign is anyone's."""
    parameter = nn.Parameter(torch.zeros(5000))
    optimizer = torch.optim.AdamW([parameter], lr=RATE, betas=BETAS, fused=True)
    create_moments(optimizer)
    noise = GradientNoise([("p", parameter)], lambda t: 0.03, seed=5)
    for step in range(3):
        parameter.grad = -0.03 * noise.unit(step)[0]
        noise.add_to_moments_(step, optimizer, "second_moment")
        optimizer.step()
        assert (optimizer.state[parameter]["exp_avg_sq"] >= 0).all()
        assert parameter.isfinite().all()


@pytest.mark.parametrize("point", ["first_moment", "second_moment", "second_moment_mean"])
def test_a_step_that_the_scaler_skips_changes_no_moment(point):
    model, optimizer, noise = make(point, True)
    for step in range(3):
        stepped(point, model, optimizer, noise, step)
    before = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in model]
    for spoilt in (math.inf, math.nan):
        for p, g in zip(model, gradients_of(3)):
            p.grad = torch.full_like(g, spoilt)
        noise.add_to_moments_(3, optimizer, point, applies=torch.tensor(False))
        for p, state in zip(model, before):
            assert all(torch.equal(optimizer.state[p][name], value) for name, value in state.items())
    for p, g in zip(model, gradients_of(3)):
        p.grad = g
    noise.add_to_moments_(3, optimizer, point, applies=torch.tensor(True))
    moment = "exp_avg" if point == "first_moment" else "exp_avg_sq"
    assert not torch.equal(optimizer.state[model[0]][moment], before[0][moment])


def test_the_norm_that_is_told_is_that_of_the_noise_it_stands_for():
    for point in POINTS:
        model, optimizer, noise = make(point, True)
        norm = stepped(point, model, optimizer, noise, 0)
        count = sum(p.numel() for p in model)
        wanted = 0.03 * math.sqrt(count)
        if point != "second_moment_mean":
            wanted = 0.03 * torch.nn.utils.get_total_norm(make(point, True)[2].unit(0))
        assert float(norm) == pytest.approx(float(wanted), rel=1e-5)


def test_under_the_floor_nothing_is_touched():
    model, optimizer, noise = make("second_moment", True, sigma=1e-16)
    for p, g in zip(model, gradients_of(0)):
        p.grad = g
    assert noise.add_to_moments_(0, optimizer, "second_moment") == 0
    assert noise.add_to_weights_(0, RATE) == 0
    assert all((optimizer.state[p]["exp_avg_sq"] == 0).all() for p in model)
    assert all(torch.equal(p, q) for p, q in zip(model, parameters()))


def test_noise_on_the_weights_is_what_sgd_would_make_of_it():
    model, _, noise = make("weights", True)
    noise.add_to_weights_(4, 0.5)
    units = make("weights", True)[2].unit(4)
    for p, start, xi in zip(model, parameters(), units):
        assert torch.allclose(p - start, 0.5 * 0.03 * 0.9**4 * xi, rtol=1e-4, atol=1e-7)


def test_anticorrelated_noise_is_the_difference_of_successive_draws():
    named = [(f"p{i}", p) for i, p in enumerate(parameters())]
    plain = GradientNoise(named, lambda t: 1.0, seed=5)
    apart = GradientNoise(named, lambda t: 1.0, seed=5, anticorrelated=True)
    for step in (0, 1, 8):
        before = [xi.clone() for xi in plain.unit(step - 1)]
        wanted = [(xi - b) / math.sqrt(2) for xi, b in zip(plain.unit(step), before)]
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(apart.unit(step), wanted))
    big = [("p", nn.Parameter(torch.zeros(200_000)))]
    noise = GradientNoise(big, lambda t: 1.0, seed=5, anticorrelated=True)
    one, two, three = (noise.unit(step)[0].clone() for step in (1, 2, 3))
    assert one.std() == pytest.approx(1.0, abs=0.01)
    assert (one * two).mean() == pytest.approx(-0.5, abs=0.01)
    assert (one * three).mean() == pytest.approx(0.0, abs=0.01)


def test_forgetting_is_what_a_new_optimizer_is():
    model, optimizer, noise = make("gradient", True)
    for step in range(5):
        stepped("gradient", model, optimizer, noise, step)
    reset_moments(optimizer)
    copies = [nn.Parameter(p.detach().clone()) for p in model]
    fresh = torch.optim.AdamW(copies, lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True)
    for p, copy, g in zip(model, copies, gradients_of(9)):
        p.grad, copy.grad = g, g.clone()
    optimizer.step()
    fresh.step()
    assert all(torch.equal(p, copy) for p, copy in zip(model, copies))


def test_the_matched_warmup_is_its_formula():
    YES = torch.tensor(True)
    sigma = schedule("exponential", sigma=0.1, gamma=0.9)
    warmup, v, s = MatchedWarmup(sigma, beta2=0.99), 0.0, 0.0
    for step in range(200):
        square = 1e-6 * (1 + step % 3)
        v, s = 0.99 * v + 0.01 * square, 0.99 * s + 0.01 * sigma(step) ** 2
        assert float(warmup.factor(step, torch.tensor(square), YES)) == pytest.approx(
            math.sqrt(v / (v + s)), rel=1e-5
        )
    assert float(MatchedWarmup(lambda t: 0.0, 0.99).factor(0, torch.tensor(1e-6), YES)) == 1.0
    skipped = MatchedWarmup(sigma, 0.99)
    skipped.factor(0, torch.tensor(1e-6), YES)
    before = skipped.state.clone()
    skipped.factor(1, torch.tensor(1e-6), ~YES)
    assert torch.equal(skipped.state, before), "AdamW's v would see neither the gradient nor the noise"


# In a run.


@pytest.mark.parametrize(
    "point", ["first_moment", "second_moment", "second_moment_mean", "weights", "learning_rate"]
)
def test_a_run_with_each_point_differs_and_resumes(run, command, monkeypatch, point):
    from test_laws import stop_at

    knobs = {"noise_target": point, "noise_sigma": 0.1}
    whole = run("whole", **knobs)
    assert not same_weights(whole, run("gradient", noise_sigma=0.1))
    assert not same_weights(whole, run("none", noise_sigma=0.0))
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        assert train.main(command("part", **knobs)) == 128 + 15
    assert same_weights(run("part", **knobs), whole)


def spoil(monkeypatch, at):
    """Make one element of the gradient of step `at` infinite, before it is unscaled."""
    accumulate = training.accumulate

    def spoilt(t):
        loss = accumulate(t)
        if t.step == at:
            t.model.wte.weight.grad[0, 0] = math.inf
        return loss

    monkeypatch.setattr(training, "accumulate", spoilt)


class WrittenOut:
    """A Training's weights by AdamW in float64, from the clipped gradients that its own steps come to."""

    def __init__(self, t, monkeypatch):
        self.t, self.v_s = t, [0.0, 0.0]
        self.start = [p.detach().double() for p in t.model.parameters()]
        self.weights = list(self.start)
        self.m, self.v = ([torch.zeros_like(w) for w in self.weights] for _ in range(2))
        self.done, clip = 0, training.clip

        def watched(model, limit):
            norm = clip(model, limit)
            self.gradients = [p.grad.double() for p in model.parameters()]
            return norm

        monkeypatch.setattr(training, "clip", watched)

    def step(self):
        """After train_step: the same, unless the gradient was not finite."""
        t, config, gradients = self.t, self.t.config, self.gradients
        step, norm = t.step - 1, torch.cat([g.flatten() for g in gradients]).norm()
        if not norm.isfinite():
            return
        self.done += 1
        rate, sigma, count = (
            training.learning_rate(step, config),
            t.noise.sigma(step),
            t.model.parameter_count(),
        )
        decay = [rate * config.weight_decay * (w.dim() > 1) for w in self.weights]
        sds = {
            "absolute": [sigma] * len(gradients),
            "global": [sigma * norm / math.sqrt(count)] * len(gradients),
        }
        sds["tensor"] = [sigma * g.norm() / math.sqrt(g.numel()) for g in gradients]
        for place, new in enumerate((float(norm) ** 2 / count, sigma**2)):
            self.v_s[place] = config.beta2 * self.v_s[place] + (1 - config.beta2) * new
        factor = math.sqrt(self.v_s[0] / sum(self.v_s)) if config.noise_target == "learning_rate" else 1.0
        for i, (g, xi, sd) in enumerate(
            zip(gradients, t.noise.unit(step), sds[config.noise_scale], strict=True)
        ):
            point, noisy = config.noise_target, g + sd * xi.double()
            in_first = noisy if point in ("gradient", "first_moment") else g
            squared = {"gradient": noisy**2, "second_moment": noisy**2, "second_moment_mean": g**2 + sd**2}
            self.m[i] = config.beta1 * self.m[i] + (1 - config.beta1) * in_first
            self.v[i] = config.beta2 * self.v[i] + (1 - config.beta2) * squared.get(point, g**2)
            m, v = (x / (1 - b**self.done) for x, b in ((self.m[i], config.beta1), (self.v[i], config.beta2)))
            w = self.weights[i] * (1 - decay[i]) - rate * factor * m / (v.sqrt() + EPS)
            self.weights[i] = w + rate * sigma * xi.double() if point == "weights" else w

    def errors(self):
        """The differences of the run's own weights, over the way that each has gone and the learning rates."""
        rates = sum(training.learning_rate(at, self.t.config) for at in range(self.t.step))
        parts = zip(self.t.model.parameters(), self.weights, self.start, strict=True)
        found = [(p.detach() - w).abs() / (rates + (w - old).abs()) for p, w, old in parts]
        return torch.cat([part.flatten() for part in found])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("point", "scale"),
    [*((point, "absolute") for point in noise.POINTS), ("gradient", "global"), ("second_moment", "tensor")],
)
def test_a_runs_steps_are_adamw_written_out(training_of, monkeypatch, dtype, point, scale):
    """Accumulated, clipped, under the scaler or not, which skips the third one. `pytest -rP` shows the errors.

    Where noise cancels a gradient in v alone, what is left of v is rounding: a few weights of a thousand. More
    noise in the first moment would take off, and make float16 skip steps of its own.
    """
    sigma = 0.5 if scale != "absolute" else 1e-4 if point == "first_moment" else 0.03
    knobs = {"noise_target": point, "noise_scale": scale, "noise_sigma": sigma, "dtype": dtype}
    t = training_of(max_iters=60, grad_clip=0.5, weight_decay=0.5, dropout=0.0, **knobs)
    written = WrittenOut(t, monkeypatch)
    if dtype == "float16":
        spoil(monkeypatch, at=2)
    for _ in range(60):
        train.train_step(t)
        written.step()
    assert (written.done, t.skipped_steps()) == ((59, 1) if dtype == "float16" else (60, 0))
    most, largest = written.errors().quantile(0.99), written.errors().max()
    print(f"noise in {point}, {scale}, {dtype}: 99 % of weights within {most:.1e}, all within {largest:.1e}")
    assert most < 1e-5
    assert largest < 1e-5 or point == "second_moment"


@pytest.mark.parametrize("point", noise.POINTS)
def test_a_step_that_the_scaler_skips_changes_no_weight_and_no_moment(training_of, monkeypatch, point):
    """With the scaler itself, and noise that no first moment takes off with; then it goes on as ever."""
    sigma = 1e-8 if point == "first_moment" else 0.1
    t = training_of(noise_target=point, noise_sigma=sigma, dtype="float16", weight_decay=0.5)
    spoil(monkeypatch, at=2)

    def everything():
        state = [value for state in t.optimizer.state.values() for value in state.values()]
        return [value.detach().clone() for value in [*t.model.parameters(), *state]]

    for step in range(4):
        before = everything()
        train.train_step(t)
        same = [torch.equal(a, b) for a, b in zip(before, everything())]
        assert all(same) == (step == 2)
    assert t.skipped_steps() == 1
    assert all(value.isfinite().all() for value in everything())


def test_sgd_begins_with_no_garbage_where_its_first_step_is_skipped(training_of, monkeypatch):
    t = training_of(optimizer="sgd", learning_rate=0.1, noise_sigma=0.0, dtype="float16")
    spoil(monkeypatch, at=0)
    start = [p.detach().clone() for p in t.model.parameters()]
    for _ in range(3):
        train.train_step(t)
    assert max((p - q).abs().max() for p, q in zip(t.model.parameters(), start)) < 1


def test_the_diagnosis_counts_the_factor_the_reset_and_noise_in_the_weights():
    model, optimizer, added = make("gradient", True)
    diagnosis = Diagnosis(optimizer)
    for step in range(4):
        for p, g in zip(model, gradients_of(step)):
            p.grad = g.clone()
        diagnosis.observe(torch.tensor(True))
        added.add_(step)
        optimizer.step()
    plain = {name: float(value) for name, value in diagnosis.measure().items()}
    scaled = {name: float(value) for name, value in diagnosis.measure(torch.tensor(0.5)).items()}
    assert scaled["signal_rms"] == pytest.approx(plain["signal_rms"] / 2)
    assert scaled["noise_rms"] == pytest.approx(plain["noise_rms"] / 2)
    assert scaled["signal_share"] == pytest.approx(plain["signal_share"])
    count = sum(p.numel() for p in model)
    more = diagnosis.measure(into_weights=torch.tensor(3.0))["noise_rms"]
    assert float(more) == pytest.approx(math.sqrt(plain["noise_rms"] ** 2 + 9 / count), rel=1e-5)
    diagnosis.reset()
    assert float(diagnosis.measure()["signal_rms"]) == 0


def test_the_diagnosis_follows_a_reset_from_its_own_step_on(training_of):
    """With a first moment that no noise goes into, what is followed is that moment."""
    noise = {"noise_target": "second_moment_mean", "noise_sigma": 0.1, "noise_gamma": 0.5}
    t = training_of(**noise, reset_below_sigma=0.02, diagnose_interval=100)
    for step in range(6):  # 0.1 * 0.5^3 is the first under it
        train.train_step(t)
        first = torch.cat([t.optimizer.state[p]["exp_avg"].flatten() for p in t.diagnosis.parameters])
        assert torch.allclose(t.diagnosis.first, first, rtol=1e-5, atol=1e-9), step
        assert float(t.optimizer.state[t.model.wte.weight]["step"]) == (step + 1 if step < 3 else step - 2)


@pytest.fixture
def training_of(training):
    """The fixture `training` under another name, which the module has."""
    return training


def test_the_log_tells_the_learning_rate_that_was_taken(run):
    folder = run(noise_target="learning_rate", noise_sigma=0.1, noise_gamma=0.5)
    rates = [event["lr"] for event in read_log(folder)[0] if event["kind"] == "train"]
    plain = [event["lr"] for event in read_log(run("plain"))[0] if event["kind"] == "train"]
    factors = [a / b for a, b in zip(rates, plain)]
    assert factors[0] < 0.5
    assert factors[0] < factors[-1] <= 1


@pytest.mark.parametrize(
    ("where", "parts"),
    [
        ("embeddings", {"wte.weight", "wpe.weight"}),
        ("attention", {"blocks.0.attn.qkv.weight", "blocks.1.attn.proj.weight"}),
        ("mlp", {"blocks.0.mlp.fc.weight", "blocks.1.mlp.proj.weight"}),
        ("first_block", {"blocks.0.ln_1.weight", "blocks.0.mlp.fc.weight"}),
        ("last_block", {"blocks.1.ln_1.weight", "blocks.1.attn.qkv.weight"}),
    ],
)
def test_noise_goes_only_where_it_is_sent(training_of, where, parts):
    t = training_of(noise_params=where)
    chosen = {name for name, p in t.model.named_parameters() if any(p is q for q in t.noise.parameters)}
    assert parts <= chosen
    prefix = {"embeddings": "w", "attention": "blocks.", "mlp": "blocks.", "first_block": "blocks.0."}
    assert all(name.startswith(prefix.get(where, "blocks.1.")) for name in chosen)
    assert len(chosen) < len(list(t.model.named_parameters()))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_other_optimizers_train_and_resume(run, command, monkeypatch, optimizer):
    from test_laws import stop_at

    knobs = {"optimizer": optimizer, "learning_rate": 0.1 if optimizer == "sgd" else 0.01}
    whole = run("whole", **knobs)
    losses = [event["val_loss"] for event in read_log(whole)[0] if event["kind"] == "eval"]
    assert losses[-1] < losses[0]
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        train.main(command("part", **knobs))
    assert same_weights(run("part", **knobs), whole)


def test_the_moments_are_reset_once_when_sigma_falls_under_the_threshold(run, monkeypatch):
    at = []
    reset = training.reset_moments
    monkeypatch.setattr(training, "reset_moments", lambda optimizer: (at.append(1), reset(optimizer)))
    knobs = {"noise_sigma": 0.1, "noise_gamma": 0.5}
    one = run("reset", reset_below_sigma=0.02, **knobs)  # 0.1 * 0.5^3 = 0.0125 is the first under it
    assert len(at) == 1
    assert not same_weights(one, run("kept", **knobs))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"noise_target": "second_moment", "optimizer": "sgd"}, "need optimizer='adamw'"),
        ({"noise_target": "learning_rate", "optimizer": "adam"}, "need optimizer='adamw'"),
        ({"noise_target": "first_moment", "beta1": 0.0}, "beta1 and beta2 above 0"),
        ({"noise_target": "weights", "noise_scale": "tensor"}, "noise_scale='absolute'"),
        ({"noise_target": "second_moment", "noise_before_clip": True}, "does not combine with noise_before"),
        ({"reset_below_sigma": 0.1, "noise_schedule": "plateau"}, "a function of the step"),
        ({"diagnose_interval": 5, "optimizer": "sgd"}, "needs Adam or AdamW"),
    ],
)
def test_what_cannot_be_is_one_line(command, knobs, words):
    with pytest.raises(UserError, match=words):
        load(command(**knobs))


# Measuring.


def test_the_diagnosis_changes_no_weight_and_resumes(run, command, monkeypatch):
    from test_laws import stop_at

    plain, watched = run("plain"), run("watched", diagnose_interval=3)
    assert same_weights(plain, watched)
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        train.main(command("part", diagnose_interval=3))
    part = run("part", diagnose_interval=3)
    found = [[e for e in read_log(folder)[0] if e["kind"] == "diagnosis"] for folder in (watched, part)]
    assert found[0] == found[1]
    assert [event["iter"] for event in found[0]] == [0, 3, 6, 9]


@pytest.mark.parametrize("point", POINTS)
def test_the_diagnosis_is_what_the_moments_say(point):
    """Against the same quantities from moments kept in float64, and the extremes that are known."""
    model, optimizer, noise = make(point, True, sigma=3.0)
    diagnosis = Diagnosis(optimizer)
    clean = [torch.zeros_like(p, dtype=torch.float64) for p in model]
    squares = [torch.zeros_like(p, dtype=torch.float64) for p in model]
    for step in range(30):
        for p, g in zip(model, gradients_of(step)):
            p.grad = g.clone()
        diagnosis.observe(torch.tensor(True))
        for i, g in enumerate(gradients_of(step)):
            clean[i] = 0.9 * clean[i] + 0.1 * g.double()
            squares[i] = 0.99 * squares[i] + 0.01 * g.double() ** 2
        if point == "gradient":
            noise.add_(step)
        else:
            noise.add_to_moments_(step, optimizer, point)
        optimizer.step()
    found = {name: float(value) for name, value in diagnosis.measure().items()}
    size = [(optimizer.state[p]["exp_avg_sq"].double() / (1 - 0.99**30)).sqrt() + EPS for p in model]
    signal = [(m / (1 - 0.9**30) / s).flatten() for m, s in zip(clean, size)]
    rest = [((optimizer.state[p]["exp_avg"].double() - m) / (1 - 0.9**30) / s).flatten()
            for p, m, s in zip(model, clean, size)]  # fmt: skip
    ratio = [(q / optimizer.state[p]["exp_avg_sq"].double().clamp(min=1e-38)).sqrt().flatten()
             for p, q in zip(model, squares)]  # fmt: skip
    assert found["signal_rms"] == pytest.approx(float(torch.cat(signal).square().mean().sqrt()), rel=1e-4)
    parts = found["signal_rms"] ** 2, found["noise_rms"] ** 2
    assert found["signal_share"] == pytest.approx(parts[0] / sum(parts), rel=1e-6)
    assert found["preconditioner"] == pytest.approx(float(torch.cat(ratio).mean()), rel=1e-4)
    if point in ("gradient", "first_moment"):
        assert found["noise_rms"] == pytest.approx(float(torch.cat(rest).square().mean().sqrt()), rel=1e-4)
        assert (found["noise_rms"] > 10 * found["signal_rms"]) == (point == "first_moment")
    else:
        assert found["noise_rms"] < 1e-4 * found["signal_rms"], "a clean first moment has no noise in it"


def test_a_skipped_step_leaves_the_diagnosis_as_it_was():
    model = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))]
    diagnosis = Diagnosis(torch.optim.AdamW(model, betas=BETAS))
    for parameter in model:
        parameter.grad = torch.ones_like(parameter)
    diagnosis.observe(torch.tensor(True))
    before = [diagnosis.first.clone(), diagnosis.second.clone()]
    model[0].grad[1] = math.inf
    diagnosis.observe(torch.tensor(False))
    assert torch.equal(diagnosis.first, before[0])
    assert torch.equal(diagnosis.second, before[1])
    assert before[0].abs().min() > 0


def test_the_own_noise_of_a_batch_is_estimated_without_bias():
    """Gradients of known covariance: the mean square of the estimate is the trace over the batch size."""
    weight, n, total = nn.Parameter(torch.zeros(50)), 400, 0.0
    generator = torch.Generator().manual_seed(3)
    for _ in range(n):
        x = 2.0 * torch.randn((8, 50), generator=generator)
        halves = [lambda half=half: (half @ weight).mean() for half in x.split(4)]
        total += float(batch_noise_norm(halves, [weight])) ** 2
    assert total / n == pytest.approx(50 * 4.0 / 8, rel=0.05)


def test_it_is_the_same_under_the_gradient_scaler(training):
    norms = []
    for dtype in ("float32", "float16"):
        t = training(dtype=dtype, device="cpu", dropout=0.0, gradient_accumulation_steps=2)
        norms.append(float(own_noise_norm(t)))
    assert norms[1] == pytest.approx(norms[0], rel=0.01)


def test_a_checkpoint_of_another_diagnosis_is_one_line(run, command, tmp_path):
    run("part", diagnose_interval=3)
    (tmp_path / "part" / "result.json").unlink()
    state = checkpoint(tmp_path / "part")
    state["diagnosis"] = {"first": [state["diagnosis"]["first"]], "second": [state["diagnosis"]["second"]]}
    torch.save(state, tmp_path / "part" / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt is no checkpoint of this run: restore it"):
        train.main(command("part", diagnose_interval=3))
