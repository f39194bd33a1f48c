"""NoisyTune: noise in pretrained weights, once; and how far fine-tuning moves from them."""

import math
import shutil

import pytest
import torch
from conftest import checkpoint, same_weights, weights
from test_init_from import crash_after
from torch import nn

import train
from config import UserError, load
from model import GPT
from noise import noisytune_
from training.run_files import read_config, read_log


class Tied(nn.Module):
    """Two large tensors of different spread, a tied one, and three that are to be left alone."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.narrow = nn.Parameter(0.01 * torch.randn(400, 500, generator=generator))
        self.wide = nn.Parameter(3 + 2 * torch.randn(300, 700, generator=generator))
        self.again = self.wide
        self.norm = nn.Parameter(torch.full((100_000,), 0.1))  # whose std in float32 is not 0
        self.single = nn.Parameter(torch.tensor([0.7]))
        self.scalar = nn.Parameter(torch.tensor(0.3))


def added(lam=0.15, seed=1, **how):
    """(the model before, {name: what was added})."""
    before, model = Tied(), Tied()
    noisytune_(model, lam, seed, **how)
    old = dict(before.named_parameters())
    return before, {name: (p - old[name]).detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("how", "kurtosis"),
    [({}, 9 / 5), ({"lam": 1.0}, 9 / 5), ({"distribution": "gaussian"}, 3), ({"std": "global"}, 9 / 5)],
)
def test_each_tensor_gets_noise_in_units_of_a_std(how, kurtosis):
    before, noise = added(**how)
    lam, whole = how.get("lam", 0.15), torch.cat([before.narrow.flatten(), before.wide.flatten()])
    for name in ("narrow", "wide"):
        std = (whole if "std" in how else getattr(before, name)).std().item()
        values = noise[name].double()
        assert abs(values.mean()) < 5 * lam * std / math.sqrt(12 * values.numel())
        assert values.std() == pytest.approx(lam * std / math.sqrt(12), rel=0.01)
        assert (values**4).mean() / (values**2).mean() ** 2 == pytest.approx(kurtosis, rel=0.05)
        if kurtosis < 2:
            assert values.abs().max() == pytest.approx(lam / 2 * std, rel=1e-3)
    assert all(not noise[name].any() for name in ("norm", "single", "scalar")), "they have no spread"


def test_it_draws_from_a_stream_of_its_own():
    state = torch.get_rng_state()
    _, noise = added(seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(added(seed=5)[1]["wide"], noise["wide"])
    assert not torch.equal(added(seed=6)[1]["wide"], noise["wide"])
    with pytest.raises(ValueError, match="layer"):
        added(std="layer")
    a, b = noise["narrow"].flatten()[:1000], noise["wide"].flatten()[:1000]
    assert abs(torch.corrcoef(torch.stack((a, b)))[0, 1]) < 0.15, "each tensor has its own draw"


# In a run.


@pytest.fixture
def source(run):
    return run(max_iters=5)


@pytest.mark.parametrize("how", [{}, {"distribution": "gaussian"}, {"std": "global"}])
def test_a_run_perturbs_the_pretrained_weights_before_its_first_step(source, run, how):
    options = {f"noisytune_{name}": value for name, value in how.items()} | {"learning_rate": 0.0}
    folder = run("new", init_from=source, noisytune_lambda=0.3, seed=4, noise_sigma=0.0, max_iters=5, **options)
    new, wanted = weights(folder), GPT.from_weights(checkpoint(source, "best.pt")["model"])
    assert all(torch.equal(p, checkpoint(folder, "start.pt")[name]) for name, p in wanted.named_parameters())
    noisytune_(wanted, 0.3, 4, **how)
    assert all(torch.equal(new[name], parameter) for name, parameter in wanted.named_parameters())


def test_a_perturbed_run_resumes_to_the_same_bits_and_log_without_its_source(
    source, run, command, monkeypatch, tmp_path
):
    whole = run("whole", init_from=source, noisytune_lambda=0.15)
    assert not same_weights(whole, run("plain", init_from=source))
    words = command("part", init_from=source, noisytune_lambda=0.15)
    crash_after(monkeypatch, 7, words)
    shutil.rmtree(source)
    (tmp_path / "part" / "start.pt").rename(tmp_path / "lost")
    with pytest.raises(UserError, match=r"start\.pt"):
        train.main(words)
    (tmp_path / "lost").rename(tmp_path / "part" / "start.pt")
    assert train.main(words) == 0
    assert same_weights(tmp_path / "part", whole)
    for kind in ("distance", "update"):
        assert distances(tmp_path / "part", kind) == distances(whole, kind)


def distances(folder, kind="distance"):
    return [event for event in read_log(folder)[0] if event["kind"] == kind]


@pytest.mark.parametrize("lam", [0.0, 0.15])
def test_the_distance_from_the_weights_before_and_after_noisytune_is_logged_by_group(source, run, lam):
    folder = run("new", init_from=source, noisytune_lambda=lam, eval_interval=6)
    config, start = read_config(folder), GPT.from_weights(checkpoint(source, "best.pt")["model"])
    if lam:
        noisytune_(start, lam, config.seed)
    new, kept = weights(folder), {"distance": weights(source, "best.pt"), "update": start.state_dict()}
    groups = {"embeddings": ("wte.", "wpe."), "attention": (".attn.",), "mlp": (".mlp.",), "norms": ("ln_",)}
    for kind, old in kept.items():
        events = distances(folder, kind)
        assert [event["iter"] for event in events] == [0, 6, 12]
        assert (events[0]["all"] == 0) == (lam == 0 or kind == "update")
        for group, parts in {**groups, "all": ("",)}.items():
            names = [name for name in new if any(part in name for part in parts)]
            moved = torch.cat([(new[name] - old[name]).abs().flatten() for name in names])
            assert events[-1][group] == pytest.approx(moved.mean().item(), rel=1e-5), group
    assert not distances(source)
    assert not (source / "start.pt").exists(), "its weights were fresh"


def test_noise_in_fresh_weights_is_refused(command):
    with pytest.raises(UserError, match="--init_from"):
        load(command(noisytune_lambda=0.15))
