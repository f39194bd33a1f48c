"""The noise by value: schedules, draws, scales, the step, and the bugs that other implementations have."""

import ast
import copy
import math
import pickle
import sys

import pytest
import torch
from torch import nn

import noise
from config import ROOT
from noise import DISTRIBUTIONS, SCALES, SCHEDULES, GradientNoise, schedule, stream_seed

CONSTANTS = {"sigma": 0.1, "gamma": 0.95, "eta": 0.3, "steps": 40}


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 30))


def with_gradients(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = 1e-3 * torch.randn(parameter.shape, generator=generator)
    return model


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


def constant(sigma):
    return schedule("constant", sigma=sigma)


FORMULAS = {
    "exponential": lambda t: 0.1 * math.exp(t * math.log(0.95)),
    "linear": lambda t: 0.1 - 0.1 * t / 40 if t < 40 else 0.0,
    "cosine": lambda t: 0.1 * math.cos(math.pi * t / 80) ** 2 if t < 40 else 0.0,
    "constant": lambda t: 0.1,
    "inverse": lambda t: (0.3 * (1 + t) ** -0.55) ** 0.5,
}


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "plateau"])
def test_schedules_are_their_formulas(name):
    sigma = schedule(name, **CONSTANTS)
    for t in (0, 1, 7, 39, 40, 41, 1000):
        assert sigma(t) == pytest.approx(FORMULAS[name](t), rel=1e-12, abs=1e-17)


def test_plateau_decays_by_gamma_at_every_loss_that_is_no_new_lowest():
    """And its state is plain numbers, whatever the losses are."""
    sigma, seen = schedule("plateau", **CONSTANTS), []
    for loss in (4.0, 3.0, 3.0, 3.5, 2.9, 2.95, torch.tensor(2.8)):
        sigma.observe(loss)
        seen.append(sigma(12345))
    assert vars(sigma) == {"sigma": 0.1, "gamma": 0.95, "failures": 3, "best": pytest.approx(2.8)}
    assert {type(value) for value in vars(sigma).values()} == {int, float}
    assert seen == pytest.approx([0.1 * 0.95**k for k in (0, 0, 1, 2, 2, 3, 3)], rel=1e-12)


MOMENTS = {  # fourth standardized moment, and the largest absolute value there can be
    "gaussian": (3.0, math.inf),
    "uniform": (1.8, math.sqrt(3)),
    "laplace": (6.0, math.inf),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_have_mean_0_sd_1_and_their_shape(name):
    n = 2_000_000
    x = DISTRIBUTIONS[name](torch.empty(n), torch.Generator().manual_seed(3)).double()
    fourth, bound = MOMENTS[name]
    assert abs(x.mean()) < 4.5 / math.sqrt(n)
    assert abs((x**2).mean() - 1) < 4.5 * math.sqrt((fourth - 1) / n)
    assert (x**4).mean() == pytest.approx(fourth, rel=0.03)
    assert abs((x**3).mean()) < 0.05
    assert x.abs().max() <= bound * (1 + 1e-6)
    assert x.isfinite().all()
    assert abs((x[1:] * x[:-1]).mean()) < 4.5 / math.sqrt(n), "neighbours are not independent"


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_noise_on_zero_gradients_is_the_unit_draw_times_sigma(distribution):
    model = two_layers()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sigma = schedule("exponential", sigma=0.1, gamma=0.9)
    norm = GradientNoise(model.named_parameters(), sigma, seed=5, distribution=distribution).add_(17, norm=True)
    total = sum(parameter.numel() for parameter in model.parameters())
    generator = torch.Generator().manual_seed(stream_seed(5, "noise", 17))
    unit = DISTRIBUTIONS[distribution](torch.empty(total), generator)
    added = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    torch.testing.assert_close(added, unit * 0.1 * 0.9**17, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm, added.norm(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", SCALES)
def test_scales_count_sigma_in_their_unit(scale):
    model = with_gradients(two_layers())
    before = gradients(model)
    norm = GradientNoise(model.named_parameters(), constant(0.5), seed=2, scale=scale).add_(0, norm=True)
    total = sum(g.numel() for g in before)
    rms = math.sqrt(sum(g.double().square().sum() for g in before) / total)
    units = {"absolute": [1.0] * 4, "global": [rms] * 4}
    units["tensor"] = [g.double().square().mean().sqrt().item() for g in before]
    xi = DISTRIBUTIONS["gaussian"](
        torch.empty(total), torch.Generator().manual_seed(stream_seed(2, "noise", 0))
    )
    pieces = xi.split([g.numel() for g in before])
    wanted = [0.5 * unit * piece.view_as(g) for unit, piece, g in zip(units[scale], pieces, before)]
    for parameter, g, noise_ in zip(model.parameters(), before, wanted):
        torch.testing.assert_close(parameter.grad, g + noise_, rtol=1e-4, atol=1e-7)
    total_norm = math.sqrt(sum(w.double().square().sum() for w in wanted))
    assert norm.item() == pytest.approx(total_norm, rel=1e-4)


def test_seeds_steps_and_streams_are_mixed_not_added():
    drawn = {stream_seed(s, name, t) for s in range(40) for t in range(40) for name in ("noise", "dropout")}
    assert len(drawn) == 40 * 40 * 2
    assert len({seed & 0xFFFFFFFF for seed in drawn}) > 40 * 40 * 2 - 3, "the CPU's generator takes 32 bits"
    assert stream_seed(1, "a", 11) != stream_seed(1, "a", 1, 1)
    assert all(0 <= seed < 2**63 for seed in drawn)


def test_no_two_elements_tensors_seeds_or_steps_share_their_noise():
    def drawn(seed, step):
        model = nn.ModuleList(nn.Linear(50, 50, bias=False) for _ in range(2))
        noise_ = GradientNoise(model.named_parameters(), constant(1.0), seed=seed)
        return [piece.flatten().clone() for piece in noise_.unit(step)]

    pieces = [piece for seed in (1, 2) for step in (0, 1) for piece in drawn(seed, step)]
    correlation = torch.corrcoef(torch.stack(pieces))
    assert (correlation - torch.eye(8)).abs().max() < 5 / 50
    assert len(set(pieces[0].tolist())) > 2490


def test_tied_weights_are_noised_once():
    """Bug elsewhere: a tensor with two names gets two noises."""
    model = two_layers()
    model[1].weight = nn.Parameter(model[0].weight.detach().T.contiguous())
    tied = nn.ModuleDict({"a": model[0], "b": model[0], "c": model[1]})
    names = list(tied.named_parameters(remove_duplicate=False))
    assert len(names) == 6
    with_gradients(tied)
    before = gradients(tied)
    GradientNoise(names, constant(1.0), seed=1).add_(0)
    for g, p in zip(before, tied.parameters()):
        if p.dim() == 2:
            assert (p.grad - g).std().item() == pytest.approx(1, rel=0.1)


def test_parameters_are_chosen_by_a_predicate():
    model = with_gradients(two_layers())
    before = gradients(model)
    where = lambda name, parameter: parameter.dim() >= 2  # noqa: E731
    GradientNoise(model.named_parameters(), constant(1.0), seed=1, where=where).add_(0)
    changed = [not torch.equal(g, p.grad) for g, p in zip(before, model.parameters())]
    assert changed == [True, False, True, False]
    with pytest.raises(ValueError, match="no parameter was chosen"):
        GradientNoise(model.named_parameters(), constant(1.0), seed=1, where=lambda *_: False)


def test_a_layer_that_is_frozen_or_thawed_changes_no_other_noise():
    whole, part = two_layers(), two_layers()
    part[0].requires_grad_(False)
    noises = [GradientNoise(model.named_parameters(), constant(1.0), seed=1) for model in (whole, part)]
    for step, thawed in enumerate((False, True)):
        part[0].requires_grad_(thawed)
        for model, noise_ in zip((whole, part), noises):
            model.zero_grad()
            model(torch.ones(2, 30)).square().sum().backward()
            noise_.add_(step)
        assert (part[0].weight.grad is not None) == thawed
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(whole[1].parameters(), part[1].parameters()))
    assert torch.equal(whole[0].weight.grad, part[0].weight.grad)


def test_a_missing_gradient_changes_no_other_noise():
    whole, part = with_gradients(two_layers()), with_gradients(two_layers())
    part[0].bias.grad = None
    for model in (whole, part):
        GradientNoise(model.named_parameters(), constant(1.0), seed=1).add_(0)
    assert part[0].bias.grad is None
    for name in ("0.weight", "1.weight", "1.bias"):
        assert torch.equal(whole.get_parameter(name).grad, part.get_parameter(name).grad)


def test_without_any_gradient_it_says_so():
    with pytest.raises(ValueError, match="after backward"):
        GradientNoise(two_layers().named_parameters(), constant(1.0), seed=1).add_(0)


@pytest.mark.parametrize("sigma", [math.nan, math.inf, -0.1])
def test_a_sigma_that_is_none_is_refused_with_its_step(sigma):
    model = with_gradients(two_layers())
    before = gradients(model)
    noise_ = GradientNoise(model.named_parameters(), lambda t: sigma if t == 7 else 0.1, seed=1)
    with pytest.raises(ValueError, match=rf"sigma\(7\) is {sigma}"):
        noise_.add_(7)
    assert all(map(torch.equal, gradients(model), before))


@pytest.mark.parametrize(
    ("layer", "mend"),
    [
        (nn.Embedding(5, 3, sparse=True), "sparse=False"),
        (nn.Linear(3, 3, dtype=torch.complex64), "where"),
    ],
    ids=["sparse", "complex"],
)
def test_a_gradient_that_cannot_get_the_noise_is_refused_before_any_is_touched(layer, mend):
    model = nn.Sequential(nn.Linear(2, 2), layer)
    model[0].weight.grad = torch.zeros(2, 2)
    index = torch.tensor([1, 2]) if mend == "sparse=False" else torch.ones(3, dtype=torch.complex64)
    layer(index).abs().sum().backward()
    with pytest.raises(ValueError, match=mend):
        GradientNoise(model.named_parameters(), constant(1.0), seed=1).add_(0)
    assert not model[0].weight.grad.any()
    where = lambda name, _: name.startswith("0.")  # noqa: E731
    GradientNoise(model.named_parameters(), constant(1.0), seed=1, where=where).add_(0)
    assert model[0].weight.grad.all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_used_one_that_is_copied_draws_as_a_new_one(copied):
    """Bug elsewhere: one noise at every later step, where the views have another buffer."""
    noise_ = GradientNoise(two_layers().named_parameters(), schedule("constant", sigma=1.0), seed=1)
    noise_.unit(0)
    other = copied(noise_)
    for step in (1, 2):
        assert all(map(torch.equal, other.unit(step), noise_.unit(step)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", SCALES)
def test_half_precision_gradients_are_scaled_by_norms_in_float32(dtype, scale):
    """Their norm is 120,000: infinite in float16, and of three digits in bfloat16."""
    noises = []
    for kind in (dtype, torch.float32):
        model = nn.Linear(300, 300, bias=False).to(kind)
        model.weight.grad = torch.full((300, 300), 400.0, dtype=kind)
        noise_ = GradientNoise(model.named_parameters(), constant(0.5), seed=1, scale=scale)
        noises.append(noise_.add_(0, norm=True))
        assert model.weight.grad.isfinite().all()
    assert noises[0] == noises[1] == pytest.approx(0.5 * 300 * (1 if scale == "absolute" else 400), rel=0.01)


@pytest.mark.parametrize("sigma", [0.0, noise.SIGMA_FLOOR / 2])
def test_nothing_is_drawn_under_the_floor(sigma, monkeypatch):
    model = with_gradients(two_layers())
    before = gradients(model)
    monkeypatch.setitem(DISTRIBUTIONS, "gaussian", lambda *_: pytest.fail("a draw under the floor"))
    noise_ = GradientNoise(model.named_parameters(), constant(sigma), seed=1)
    assert (noise_.add_(0), noise_.add_(0, norm=True).item()) == (None, 0)
    assert all(map(torch.equal, gradients(model), before))


def test_bfloat16_parameters_and_strided_gradients_are_noised_alike():
    model = two_layers().bfloat16()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model[0].weight.grad = torch.zeros(30, 40, dtype=torch.bfloat16).T
    noise_ = GradientNoise(model.named_parameters(), constant(1.0), seed=1)
    noise_.add_(3)
    for parameter, xi in zip(model.parameters(), noise_.unit(3)):
        torch.testing.assert_close(parameter.grad.float(), xi, rtol=0.01, atol=0.01)


def test_it_needs_torch_alone():
    """Anyone can copy the one file: it imports the standard library and torch."""
    tree = ast.parse((ROOT / "noise.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported = {name.partition(".")[0] for name in imported}
    assert imported - sys.stdlib_module_names == {"torch"}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_noise_takes_one_buffer_of_the_gradients_size_and_keeps_it(distribution):
    model = with_gradients(nn.Sequential(*(nn.Linear(300, 300) for _ in range(4))))
    size = sum(parameter.grad.nbytes for parameter in model.parameters())
    noise, taken = GradientNoise(model.named_parameters(), constant(0.1), seed=1, distribution=distribution), []
    for step in range(2):
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profiler:
            noise.add_(step)
        taken.append(sum(max(0, event.self_cpu_memory_usage) for event in profiler.events()) / size)
    more = 1 if distribution == "laplace" else 0  # another one while it draws
    assert taken == [pytest.approx(1 + more, abs=0.01), pytest.approx(more, abs=0.01)]


def test_anticorrelated_noise_is_the_difference_of_successive_draws():
    named = list(two_layers().named_parameters())
    plain = GradientNoise(named, constant(1.0), seed=5)
    apart = GradientNoise(named, constant(1.0), seed=5, anticorrelated=True)
    for step in (0, 1, 8):
        before = [xi.clone() for xi in plain.unit(step - 1)]
        wanted = [(xi - b) / math.sqrt(2) for xi, b in zip(plain.unit(step), before)]
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(apart.unit(step), wanted))
    big = [("p", nn.Parameter(torch.zeros(200_000)))]
    noise = GradientNoise(big, constant(1.0), seed=5, anticorrelated=True)
    one, two, three = (noise.unit(step)[0].clone() for step in (1, 2, 3))
    assert one.std() == pytest.approx(1.0, abs=0.01)
    assert (one * two).mean() == pytest.approx(-0.5, abs=0.01)
    assert (one * three).mean() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: schedule("exponental", sigma=0.1, gamma=0.9), "exponential"),
        (lambda: schedule("exponential", sigma=0.1, gama=0.9), "'exponential' needs gamma$"),
        (lambda: schedule("plateau"), "'plateau' needs gamma and sigma$"),
        (lambda: GradientNoise(two_layers().named_parameters(), 0.1, 1), r"schedule\('constant', sigma=0.1\)"),
        (lambda: GradientNoise(two_layers().parameters(), constant(0.1), 1), r"model.named_parameters\(\)"),
        (lambda: GradientNoise(two_layers().named_parameters(), constant(0.1), 1, scale="rms"), "tensor"),
        (lambda: GradientNoise(two_layers().named_parameters(), constant(0.1), 1, "normal"), "gaussian"),
    ],
)
def test_a_mistake_is_answered_with_what_is_right(make, named):
    with pytest.raises(ValueError, match=named):
        make()
