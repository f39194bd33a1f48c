"""The controls: noise in AdamW's moments, weights or learning rate, against AdamW in float64; the diagnosis."""

import math

import pytest
import torch
from conftest import checkpoint, same_weights
from torch import nn

import train
from config import UserError, load
from noise import GradientNoise, schedule
from training.controls import TARGETS, add_to_moments_, create_moments, reset_moments
from training.diagnosis import Diagnosis, batch_noise_norm
from training.lion import Lion
from training.run_files import read_log

BETAS, EPS, RATE = (0.9, 0.99), 1e-8, 1e-2
ALWAYS = torch.tensor(True)
MOMENTS = ("gradient", "first_moment", "second_moment", "second_moment_mean")


# The moments alone.


def parameters():
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 5), (11,), (3, 4, 2))]


def gradients_of(step):
    """Gradients of very unequal sizes, some of them zero, the same at every call."""
    generator = torch.Generator().manual_seed(1000 + step)
    drawn = [torch.randn(p.shape, generator=generator) * 10.0 ** (-2 * i) for i, p in enumerate(parameters())]
    drawn[0][0] = 0.0
    return drawn


def make(sigma=0.03):
    model = parameters()
    optimizer = torch.optim.AdamW(model, lr=RATE, betas=BETAS, eps=EPS, weight_decay=0.1, fused=True)
    create_moments(optimizer)
    named = [(f"p{i}", p) for i, p in enumerate(model)]
    return model, optimizer, GradientNoise(named, schedule("exponential", sigma=sigma, gamma=0.9), seed=5)


def add_noise(target, noise, optimizer, step):
    if target == "gradient":
        return noise.add_(step, norm=True)
    return add_to_moments_(noise, step, optimizer, target, ALWAYS)


def give_gradients(model, step):
    for p, g in zip(model, gradients_of(step)):
        p.grad = g.clone()


def test_the_second_moment_never_goes_below_zero():
    """Where the noise cancels the gradient, v is 0 but for rounding, which may have either sign."""
    parameter = nn.Parameter(torch.zeros(5000))
    optimizer = torch.optim.AdamW([parameter], lr=RATE, betas=BETAS, fused=True)
    create_moments(optimizer)
    noise = GradientNoise([("p", parameter)], lambda t: 0.03, seed=5)
    for step in range(3):
        parameter.grad = -0.03 * noise.unit(step)[0]
        add_to_moments_(noise, step, optimizer, "second_moment", ALWAYS)
        optimizer.step()
        assert (optimizer.state[parameter]["exp_avg_sq"] >= 0).all()
        assert parameter.isfinite().all()


def test_the_norm_is_that_of_the_noise_it_stands_for():
    for target in MOMENTS:
        model, optimizer, noise = make()
        give_gradients(model, 0)
        norm = float(add_noise(target, noise, optimizer, 0))
        drawn = float(torch.cat([xi.flatten() for xi in make()[2].unit(0)]).norm())
        count = sum(p.numel() for p in model)
        assert norm == pytest.approx(0.03 * (math.sqrt(count) if target.endswith("mean") else drawn), rel=1e-5)


def test_under_the_floor_nothing_is_touched():
    model, optimizer, noise = make(sigma=1e-16)
    give_gradients(model, 0)
    assert add_to_moments_(noise, 0, optimizer, "second_moment", ALWAYS) == 0
    assert all((optimizer.state[p]["exp_avg_sq"] == 0).all() for p in model)


def test_a_reset_optimizer_is_a_new_one():
    model, optimizer, _ = make()
    for step in range(5):
        give_gradients(model, step)
        optimizer.step()
    reset_moments(optimizer)
    copies = [nn.Parameter(p.detach().clone()) for p in model]
    fresh = torch.optim.AdamW(copies, lr=RATE, betas=BETAS, eps=EPS, weight_decay=0.1, fused=True)
    give_gradients(model, 9)
    give_gradients(copies, 9)
    optimizer.step()
    fresh.step()
    assert all(torch.equal(p, copy) for p, copy in zip(model, copies))


# In a run.


def without_noise(options):
    return {name: value for name, value in options.items() if not name.startswith(("noise", "reset"))}


@pytest.mark.parametrize(
    "options",
    [
        *({"noise_target": target} for target in TARGETS if target != "gradient"),
        *({"noise_before_clip": True}, {"noise_anticorrelated": True}, {"reset_below_sigma": 0.05}),
        {"noise_target": "second_moment_mean", "init_noise": 0.05, "init_scale": 2.0},
        {"optimizer": "adam"},
        {"optimizer": "lion"},
        {"optimizer": "sgd", "noise_scale": "global"},
    ],
    ids=str,
)
def test_a_run_with_each_control_differs_and_resumes(run, stop_at, options):
    whole = run("whole", noise_sigma=0.1, **options)
    assert not same_weights(whole, run("gradient", noise_sigma=0.1))
    assert not same_weights(whole, run("none", noise_sigma=0.0, **without_noise(options)))
    stop_at(7, "part", noise_sigma=0.1, **options)
    assert same_weights(run("part", noise_sigma=0.1, **options), whole)


def spoil(monkeypatch, at):
    """Make one element of the gradient of step `at` infinite, before it is unscaled."""
    accumulate = train.accumulate

    def spoilt(run):
        loss = accumulate(run)
        if run.step == at:
            run.model.wte.weight.grad[0, 0] = math.inf
        return loss

    monkeypatch.setattr(train, "accumulate", spoilt)


class WrittenOut:
    """A Run's weights by its optimizer in float64, from the clipped gradients that its own steps come to."""

    def __init__(self, run, monkeypatch):
        self.run, self.v_s, self.done = run, [0.0, 0.0], 0
        self.start = [p.detach().double() for p in run.model.parameters()]
        self.weights, clip = list(self.start), train.clip
        self.m, self.v = ([torch.zeros_like(w) for w in self.weights] for _ in range(2))

        def watched(model, limit):
            norm = clip(model, limit)
            self.gradients = [p.grad.double() for p in model.parameters()]
            return norm

        monkeypatch.setattr(train, "clip", watched)

    def step(self):
        """After train_step: the same, unless the gradient was not finite."""
        run, config, gradients = self.run, self.run.config, self.gradients
        step, norm = run.step - 1, torch.cat([g.flatten() for g in gradients]).norm()
        if not norm.isfinite():
            return
        self.done += 1
        rate, sigma, count = (
            train.learning_rate(step, config),
            run.noise.sigma(step),
            run.model.parameter_count(),
        )
        sds = {
            "absolute": [sigma] * len(gradients),
            "global": [sigma * norm / math.sqrt(count)] * len(gradients),
            "tensor": [sigma * g.norm() / math.sqrt(g.numel()) for g in gradients],
        }
        for place, new in enumerate((float(norm) ** 2 / count, sigma**2)):
            self.v_s[place] = config.beta2 * self.v_s[place] + (1 - config.beta2) * new
        target = config.noise_target
        moved = [xi.double() for xi in run.noise.unit(step)]
        for i, (g, xi, sd) in enumerate(zip(gradients, moved, sds[config.noise_scale])):
            noisy, in_first = g + sd * xi, target in ("gradient", "first_moment")
            if config.optimizer != "adamw":
                self.step_without_squares(i, noisy, rate)
                continue
            squared = {"gradient": noisy**2, "second_moment": noisy**2, "second_moment_mean": g**2 + sd**2}
            self.m[i] = config.beta1 * self.m[i] + (1 - config.beta1) * (noisy if in_first else g)
            self.v[i] = config.beta2 * self.v[i] + (1 - config.beta2) * squared.get(target, g**2)
        if config.optimizer == "adamw":
            self.step_of_adamw(rate, sigma, moved)

    def step_of_adamw(self, rate, sigma, moved):
        config, target = self.run.config, self.run.config.noise_target
        clean, inflated = (self.updates(s, config) for s in (0.0, self.v_s[1]))
        ratio = (
            torch.cat([u.flatten() for u in inflated]).norm() / torch.cat([u.flatten() for u in clean]).norm()
        )
        factors = {"clean_direction": ratio, "noisy_direction": 1 / ratio}
        factors["learning_rate"] = math.sqrt(self.v_s[0] / sum(self.v_s))
        for i, u in enumerate(inflated if target == "noisy_direction" else clean):
            decay = rate * config.weight_decay * (u.dim() > 1)
            w = self.weights[i] * (1 - decay) - rate * factors.get(target, 1.0) * u
            self.weights[i] = w + rate * sigma * moved[i] if target == "weights" else w

    def step_without_squares(self, i, g, rate):
        """Of one tensor, by Lion or by SGD with momentum, whose weight decay is part of its gradient."""
        config, w, m = self.run.config, self.weights[i], self.m[i]
        decay = config.weight_decay * (w.dim() > 1)
        if config.optimizer == "lion":
            update = (config.beta1 * m + (1 - config.beta1) * g).sign() + decay * w
            self.m[i] = config.beta2 * m + (1 - config.beta2) * g
        else:
            update = self.m[i] = config.beta1 * m + g + decay * w
        self.weights[i] = w - rate * update

    def updates(self, s, config):
        """m / (sqrt(v + s) + eps), bias-corrected."""
        m, v = ([x / (1 - b**self.done) for x in xs] for xs, b in zip((self.m, self.v), BETAS))
        return [a / ((b + s / (1 - config.beta2**self.done)).sqrt() + EPS) for a, b in zip(m, v)]

    def errors(self):
        """The differences of the run's own weights, over the way that each has gone and the learning rates."""
        rates = sum(train.learning_rate(at, self.run.config) for at in range(self.run.step))
        parts = zip(self.run.model.parameters(), self.weights, self.start)
        found = [(p.detach() - w).abs() / (rates + (w - old).abs()) for p, w, old in parts]
        return torch.cat([part.flatten() for part in found])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("target", "scale"),
    [*((target, "absolute") for target in TARGETS), ("gradient", "global"), ("second_moment", "tensor")],
)
def test_a_runs_steps_are_adamw_written_out(new_run, monkeypatch, dtype, target, scale):
    """Accumulated, clipped, under the scaler or not, which skips the third step.

    Where noise cancels a gradient in v alone, what is left of v is rounding: a few weights of a thousand. More
    noise in the first moment would diverge, and make float16 skip steps of its own.
    """
    sigma = 0.5 if scale != "absolute" else 1e-4 if target == "first_moment" else 0.03
    options = {"noise_target": target, "noise_scale": scale, "noise_sigma": sigma, "dtype": dtype}
    a_run = new_run(max_iters=60, grad_clip=0.5, weight_decay=0.5, dropout=0.0, **options)
    written = WrittenOut(a_run, monkeypatch)
    if dtype == "float16":
        spoil(monkeypatch, at=2)
    for _ in range(60):
        train.train_step(a_run)
        written.step()
    assert (written.done, a_run.skipped_steps()) == ((59, 1) if dtype == "float16" else (60, 0))
    assert written.errors().quantile(0.99) < 1e-5
    assert written.errors().max() < 1e-5 or target == "second_moment"


@pytest.mark.parametrize("target", TARGETS)
def test_a_step_that_the_scaler_skips_changes_no_weight_and_no_moment(new_run, monkeypatch, target):
    sigma = 1e-8 if target == "first_moment" else 0.1
    a_run = new_run(noise_target=target, noise_sigma=sigma, dtype="float16", weight_decay=0.5)
    spoil(monkeypatch, at=2)

    def everything():
        control = a_run.control.state()
        states = [*a_run.optimizer.state.values(), control.get("direction", {})]
        kept = [value for state in states for value in state.values()]
        kept += [control["warmup"]] if "warmup" in control else []
        return [value.detach().clone() for value in [*a_run.model.parameters(), *kept]]

    for step in range(4):
        before = everything()
        train.train_step(a_run)
        assert all(torch.equal(a, b) for a, b in zip(before, everything())) == (step == 2)
    assert a_run.skipped_steps() == 1
    assert all(value.isfinite().all() for value in everything())


def test_sgd_has_no_uninitialized_momentum_where_its_first_step_is_skipped(new_run, monkeypatch):
    a_run = new_run(optimizer="sgd", learning_rate=0.1, noise_sigma=0.0, dtype="float16")
    spoil(monkeypatch, at=0)
    start = [p.detach().clone() for p in a_run.model.parameters()]
    for _ in range(3):
        train.train_step(a_run)
    assert max((p - q).abs().max() for p, q in zip(a_run.model.parameters(), start)) < 1


def test_noise_before_clipping_is_clipped(new_run):
    a_run, seen = new_run(noise_before_clip=True, noise_sigma=10.0, grad_clip=1.0), []
    parameters = list(a_run.model.parameters())
    a_run.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten() for p in parameters]).norm())
    )
    train.train_step(a_run)
    assert seen[0] == pytest.approx(1, rel=1e-3)
    assert a_run.history[0, 1] > 100, "the norm before clipping has the noise in it"


def test_the_log_has_the_learning_rate_that_was_used(run):
    folder = run(noise_target="learning_rate", noise_sigma=0.1, noise_gamma=0.5)
    rates = [event["lr"] for event in read_log(folder)[0] if event["kind"] == "train"]
    plain = [event["lr"] for event in read_log(run("plain"))[0] if event["kind"] == "train"]
    factors = [a / b for a, b in zip(rates, plain)]
    assert factors[0] < 0.5
    assert factors[0] < factors[-1] <= 1


@pytest.mark.parametrize(
    ("params", "some"),
    [
        ("embeddings", {"wte.weight", "wpe.weight"}),
        ("attention", {"blocks.0.attn.qkv.weight", "blocks.1.attn.proj.weight"}),
        ("mlp", {"blocks.0.mlp.fc.weight", "blocks.1.mlp.proj.weight"}),
        ("first_block", {"blocks.0.ln_1.weight", "blocks.0.mlp.fc.weight"}),
        ("last_block", {"blocks.1.ln_1.weight", "blocks.1.attn.qkv.weight"}),
    ],
)
def test_noise_goes_only_to_the_parameters_asked_for(new_run, params, some):
    a_run = new_run(noise_params=params)
    chosen = {name for name, p in a_run.model.named_parameters() if any(p is q for q in a_run.noise.parameters)}
    assert some <= chosen
    prefix = {"embeddings": "w", "attention": "blocks.", "mlp": "blocks.", "first_block": "blocks.0."}
    assert all(name.startswith(prefix.get(params, "blocks.1.")) for name in chosen)
    assert len(chosen) < len(list(a_run.model.named_parameters()))


@pytest.mark.parametrize(
    ("optimizer", "scale", "sigma"),
    [("lion", "absolute", 0.03), ("sgd", "global", 0.5), ("sgd", "tensor", 0.5)],
)
def test_a_runs_steps_are_those_of_other_optimizers_written_out(new_run, monkeypatch, optimizer, scale, sigma):
    """A few of Lion's signs are of sums that float32 and float64 do not tell from 0 alike."""
    options = {"optimizer": optimizer, "noise_scale": scale, "noise_sigma": sigma, "max_iters": 60}
    a_run = new_run(grad_clip=0.5, weight_decay=0.5, dropout=0.0, **options)
    written = WrittenOut(a_run, monkeypatch)
    for _ in range(60):
        train.train_step(a_run)
        written.step()
    assert written.errors().quantile(0.99) < 1e-5
    assert written.errors().max() < 1e-5 or optimizer == "lion"


def test_lion_is_its_formula():
    """Where the two terms of the sign cancel, float32 and float64 may part; these do not."""
    model = parameters()
    start = [p.detach().double() for p in model]
    weights, momenta = list(start), [torch.zeros_like(w) for w in start]
    optimizer = Lion([{"params": model[:2], "weight_decay": 0.5}, {"params": model[2:]}], RATE, (0.8, 0.97))
    for step in range(20):
        give_gradients(model, step)
        optimizer.step()
        for i, (g, decay) in enumerate(zip(gradients_of(step), (0.5, 0.5, 0.0))):
            update = (0.8 * momenta[i] + 0.2 * g.double()).sign()
            weights[i] = weights[i] * (1 - RATE * decay) - RATE * update
            momenta[i] = 0.97 * momenta[i] + 0.03 * g.double()
    assert all(torch.allclose(p.double(), w, rtol=0, atol=1e-6) for p, w in zip(model, weights))


def test_fresh_weights_are_widened_and_displaced_by_seed(new_run):
    """All by the noise, matrices alone by the factor; whatever the seed draws else stays."""

    def start(**options):
        return [p.detach().clone() for p in new_run(**options).model.parameters()]

    plain = start()
    wide, displaced = start(init_scale=3.0), start(init_noise=0.01)
    assert all(torch.equal(w, 3 * p if p.dim() > 1 else p) for w, p in zip(wide, plain))
    added = [d - p for d, p in zip(displaced, plain)]
    assert all(part.std() == pytest.approx(0.01, rel=0.4) for part in added)
    assert torch.cat([part.flatten() for part in added]).std() == pytest.approx(0.01, rel=0.02)
    again, other = (start(init_noise=0.01, **options) for options in ({"noise_sigma": 0.0}, {"seed": 2}))
    assert all(torch.equal(d, a) for d, a in zip(displaced, again))
    assert not torch.allclose(other[0] - start(seed=2)[0], added[0], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise_target": "second_moment", "optimizer": "sgd"}, "adamw"),
        ({"noise_target": "learning_rate", "optimizer": "adam"}, "adamw"),
        ({"noise_target": "first_moment", "beta1": 0.0}, "beta1"),
        ({"noise_target": "weights", "noise_scale": "tensor"}, "noise_scale"),
        ({"noise_target": "second_moment", "noise_before_clip": True}, "noise_before_clip"),
        ({"reset_below_sigma": 0.1, "noise_schedule": "plateau"}, "plateau"),
        *(
            ({"reset_below_sigma": 0.1, "noise_target": name}, "reset_below_sigma")
            for name in ("clean_direction", "learning_rate")
        ),
        (
            {"reset_below_sigma": 0.1, "optimizer": "adam"},
            "^reset_below_sigma needs optimizer",
        ),
        ({"noise_target": "noisy_direction", "noise_scale": "global"}, "noise_scale"),
        *(({"diagnose_interval": 5, "optimizer": name}, "diagnose_interval") for name in ("sgd", "lion")),
        ({"init_noise": 0.01, "init_from": "out/other"}, "init_noise"),
        ({"init_scale": 2.0, "init_from": "out/other"}, "init_scale"),
    ],
)
def test_contradictions_are_refused(command, options, words):
    with pytest.raises(UserError, match=words):
        load(command(**options))


# The diagnosis.


def test_the_diagnosis_changes_no_weight_and_resumes(run, stop_at):
    plain, watched = run("plain"), run("watched", diagnose_interval=3)
    assert same_weights(plain, watched)
    stop_at(7, "part", diagnose_interval=3, log_interval=5)
    part = run("part", diagnose_interval=3, log_interval=5)
    found = [[e for e in read_log(folder)[0] if e["kind"] == "diagnosis"] for folder in (watched, part)]
    assert found[0] == found[1]
    assert [event["iter"] for event in found[0]] == [0, 3, 6, 9]


@pytest.mark.parametrize("target", MOMENTS)
def test_the_diagnosis_is_what_the_moments_say(target):
    """Against the same quantities from moments kept in float64, and the extremes that are known."""
    model, optimizer, noise = make(sigma=3.0)
    diagnosis = Diagnosis(optimizer)
    clean, squares = ([torch.zeros_like(p, dtype=torch.float64) for p in model] for _ in range(2))
    for step in range(30):
        give_gradients(model, step)
        diagnosis.observe(torch.tensor(True))
        for i, g in enumerate(gradients_of(step)):
            clean[i] = 0.9 * clean[i] + 0.1 * g.double()
            squares[i] = 0.99 * squares[i] + 0.01 * g.double() ** 2
        add_noise(target, noise, optimizer, step)
        optimizer.step()
    found = {name: float(value) for name, value in diagnosis.measure().items()}
    states = [optimizer.state[p] for p in model]
    size = [(s["exp_avg_sq"].double() / (1 - 0.99**30)).sqrt() + EPS for s in states]
    signal = [(m / (1 - 0.9**30) / x).flatten() for m, x in zip(clean, size)]
    rest = [((s["exp_avg"] - m) / (1 - 0.9**30) / x).flatten() for s, m, x in zip(states, clean, size)]
    ratio = [(q / s["exp_avg_sq"].double().clamp(min=1e-38)).sqrt().flatten() for s, q in zip(states, squares)]
    assert found["signal_rms"] == pytest.approx(float(torch.cat(signal).square().mean().sqrt()), rel=1e-4)
    parts = found["signal_rms"] ** 2, found["noise_rms"] ** 2
    assert found["signal_share"] == pytest.approx(parts[0] / sum(parts), rel=1e-6)
    assert found["preconditioner"] == pytest.approx(float(torch.cat(ratio).mean()), rel=1e-4)
    if target in ("gradient", "first_moment"):
        assert found["noise_rms"] == pytest.approx(float(torch.cat(rest).square().mean().sqrt()), rel=1e-4)
        assert (found["noise_rms"] > 10 * found["signal_rms"]) == (target == "first_moment")
    else:
        assert found["noise_rms"] < 1e-4 * found["signal_rms"], "a clean first moment has no noise in it"
    halved = diagnosis.measure(torch.tensor(0.5))
    assert float(halved["signal_rms"]) == pytest.approx(found["signal_rms"] / 2)
    assert float(halved["signal_share"]) == pytest.approx(found["signal_share"])
    more = diagnosis.measure(into_weights=torch.tensor(3.0))["noise_rms"]
    count = sum(p.numel() for p in model)
    assert float(more) == pytest.approx(math.sqrt(found["noise_rms"] ** 2 + 9 / count), rel=1e-5)


def test_weight_decay_in_adams_gradient_is_no_noise(new_run):
    a_run = new_run(optimizer="adam", weight_decay=0.5, noise_sigma=0.0, diagnose_interval=100)
    diagnosis, state = a_run.control.diagnosis, a_run.optimizer.state
    for _ in range(4):
        train.train_step(a_run)
    first = torch.cat([state[p]["exp_avg"].flatten() for p in diagnosis.parameters])
    assert torch.allclose(diagnosis.first, first, rtol=1e-5, atol=1e-9)
    assert diagnosis.measure()["signal_share"] > 0.999999


def test_the_diagnosis_follows_a_reset(new_run):
    """With a first moment that no noise goes into, what is tracked is that moment."""
    noise = {"noise_target": "second_moment_mean", "noise_sigma": 0.1, "noise_gamma": 0.5}
    a_run = new_run(**noise, reset_below_sigma=0.02, diagnose_interval=100)
    diagnosis, state = a_run.control.diagnosis, a_run.optimizer.state
    for step in range(6):  # 0.1 * 0.5^3 is the first under it
        train.train_step(a_run)
        first = torch.cat([state[p]["exp_avg"].flatten() for p in diagnosis.parameters])
        assert torch.allclose(diagnosis.first, first, rtol=1e-5, atol=1e-9), step
        assert float(state[a_run.model.wte.weight]["step"]) == (step + 1 if step < 3 else step - 2)


def test_a_batchs_own_noise_is_estimated_without_bias():
    """Gradients of known covariance: the mean square of the estimate is the trace over the batch size."""
    weight, n, total = nn.Parameter(torch.zeros(50)), 400, 0.0
    generator = torch.Generator().manual_seed(3)
    for _ in range(n):
        x = 2.0 * torch.randn((8, 50), generator=generator)
        halves = [lambda half=half: (half @ weight).mean() for half in x.split(4)]
        total += float(batch_noise_norm(halves, [weight])) ** 2
    assert total / n == pytest.approx(50 * 4.0 / 8, rel=0.05)


def test_a_batchs_own_noise_is_the_same_under_the_gradient_scaler(new_run):
    norms = []
    for dtype in ("float32", "float16"):
        a_run = new_run(dtype=dtype, dropout=0.0, diagnose_interval=1)
        a_run.control.diagnosis.measure_batch(a_run)
        norms.append(float(a_run.control.diagnosis.batch_norm))
    assert norms[1] == pytest.approx(norms[0], rel=0.01)


def test_a_checkpoint_of_another_diagnosis_is_refused(run, command, tmp_path):
    run("part", diagnose_interval=3)
    (tmp_path / "part" / "result.json").unlink()
    state = checkpoint(tmp_path / "part")
    state["diagnosis"] = {"first": [state["diagnosis"]["first"]], "second": [state["diagnosis"]["second"]]}
    torch.save(state, tmp_path / "part" / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt"):
        train.main(command("part", diagnose_interval=3))
