"""NoisyTune: noise in pretrained weights, once; and how far fine-tuning moves from them."""

import math
import shutil

import pytest
import torch
from conftest import checkpoint, same_weights, weights
from torch import nn

import train
from analysis.arms import read_settings
from analysis.curves import distance_figure, noise_figure
from config import UserError, load
from data.corpus import Corpus
from noise import noisytune_
from training.machine import Machine
from training.pretrained import read_source
from training.run_folder import read_log


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


@pytest.mark.parametrize("lam", [0.15, 1.0])
def test_each_tensor_gets_uniform_noise_in_units_of_its_own_std(lam):
    before, noise = added(lam)
    for name in ("narrow", "wide"):
        std, values = getattr(before, name).std().item(), noise[name].double()
        n = values.numel()
        assert values.abs().max() <= lam / 2 * std * 1.0001
        assert values.abs().max() > lam / 2 * std * 0.999
        assert abs(values.mean()) < 5 * lam * std / math.sqrt(12 * n)
        assert values.std() == pytest.approx(lam * std / math.sqrt(12), rel=0.01)
        kurtosis = (values**4).mean() / (values**2).mean() ** 2
        assert kurtosis == pytest.approx(9 / 5, rel=0.02), "uniform"


def test_gaussian_noise_has_the_same_sd():
    before, noise = added(draw="gaussian")
    values, std = noise["wide"].double(), before.wide.std().item()
    assert values.std() == pytest.approx(0.15 * std / math.sqrt(12), rel=0.01)
    assert (values**4).mean() / (values**2).mean() ** 2 == pytest.approx(3, rel=0.05)


def test_one_std_for_all_is_that_of_all_perturbed_elements():
    before, noise = added(std="global")
    whole = torch.cat([before.narrow.flatten(), before.wide.flatten()]).std().item()
    for name in ("narrow", "wide"):
        assert noise[name].double().std() == pytest.approx(0.15 * whole / math.sqrt(12), rel=0.01)


@pytest.mark.parametrize("std", ["tensor", "global"])
def test_tensors_without_spread_are_left_alone(std):
    _, noise = added(std=std)
    assert all(not noise[name].any() for name in ("norm", "single", "scalar"))


def test_a_std_of_another_name_is_refused():
    with pytest.raises(ValueError, match="tensor, global"):
        noisytune_(Tied(), 0.15, 1, std="layer")


def test_it_draws_from_a_stream_of_its_own():
    state = torch.get_rng_state()
    _, noise = added(seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(added(seed=5)[1]["wide"], noise["wide"])
    assert not torch.equal(added(seed=6)[1]["wide"], noise["wide"])
    a, b = noise["narrow"].flatten()[:1000], noise["wide"].flatten()[:1000]
    assert abs(torch.corrcoef(torch.stack((a, b)))[0, 1]) < 0.15, "each tensor has its own draw"


# In a run.


def begun(command, **knobs):
    """A Training of a run that starts from weights, as it is before its first step."""
    config = load(command("new", **knobs))
    corpus = Corpus(config.dataset)
    return train.Training(config, corpus, Machine.choose(config), read_source(config, corpus.meta))


def test_a_run_perturbs_the_pretrained_weights_before_its_first_step(run, command):
    source = run(max_iters=5)
    t = begun(command, init_from=source, noisytune_lambda=0.3, seed=4)
    wanted = begun(command, init_from=source, seed=4).model
    for name, parameter in wanted.named_parameters():
        assert torch.equal(parameter, weights(source, "best.pt")[name])
        assert torch.equal(t.pretrained[name], parameter)
    noisytune_(wanted, 0.3, 4)
    for (name, parameter), other in zip(t.model.named_parameters(), wanted.parameters()):
        assert torch.equal(parameter, other), name


@pytest.mark.parametrize(
    ("knob", "how"),
    [
        ({"noisytune_distribution": "gaussian"}, {"draw": "gaussian"}),
        ({"noisytune_std": "global"}, {"std": "global"}),
    ],
)
def test_the_variants_are_those_of_noise_py(run, command, knob, how):
    source = run(max_iters=5)
    t = begun(command, init_from=source, noisytune_lambda=0.3, seed=4, **knob)
    wanted = begun(command, init_from=source, seed=4).model
    noisytune_(wanted, 0.3, 4, **how)
    for (name, parameter), other in zip(t.model.named_parameters(), wanted.parameters()):
        assert torch.equal(parameter, other), name


def test_a_perturbed_run_resumes_to_the_same_bits_and_log_without_its_source(run, command, tmp_path):
    source = run(max_iters=5)
    whole = run("whole", init_from=source, noisytune_lambda=0.15)
    assert not same_weights(whole, run("plain", init_from=source))
    part = command("part", init_from=source, noisytune_lambda=0.15)
    stop_at(part, 7)
    shutil.rmtree(source)
    assert train.main(part) == 0
    assert same_weights(tmp_path / "part", whole)
    assert distances(tmp_path / "part") == distances(whole)


def stop_at(words, steps):
    """Train to a checkpoint after some steps and end there, as a crash would."""

    class Crash(BaseException):
        pass

    step = train.train_step

    def crashing(t):
        if t.step == steps:
            raise Crash
        step(t)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_step", crashing)
        with pytest.raises(Crash):
            train.main(words)


def distances(folder):
    return [event for event in read_log(folder)[0] if event["kind"] == "distance"]


@pytest.mark.parametrize("lam", [0.0, 0.15])
def test_the_distance_from_the_pretrained_weights_is_logged_by_group(run, lam):
    source = run(max_iters=5)
    folder = run("new", init_from=source, noisytune_lambda=lam, eval_interval=6)
    events = distances(folder)
    assert [event["iter"] for event in events] == [0, 6, 12]
    assert (events[0]["all"] == 0) == (lam == 0)
    old, new = weights(source, "best.pt"), weights(folder)
    groups = {
        "embeddings": lambda name: name in ("wte.weight", "wpe.weight"),
        "attention": lambda name: ".attn." in name,
        "mlp": lambda name: ".mlp." in name,
        "norms": lambda name: "ln_" in name,
        "all": lambda name: True,
    }
    for group, has in groups.items():
        parts = [(new[name] - old[name]).abs().flatten() for name in new if has(name)]
        assert events[-1][group] == pytest.approx(torch.cat(parts).mean().item(), rel=1e-5), group
    assert checkpoint(folder, "start.pt").keys() == old.keys()


def test_a_run_from_fresh_weights_has_no_distance(run):
    folder = run()
    assert not distances(folder)
    assert not (folder / "start.pt").exists()


def test_a_lost_start_is_told(run, command, tmp_path):
    source = run(max_iters=5)
    words = command("part", init_from=source)
    stop_at(words, 7)
    (tmp_path / "part" / "start.pt").unlink()
    with pytest.raises(UserError, match=r"lost its start\.pt: restore it"):
        train.main(words)


def test_noise_in_fresh_weights_is_refused(command):
    with pytest.raises(UserError, match="perturbs pretrained weights: name them by --init_from"):
        load(command(noisytune_lambda=0.15))


def test_the_distance_figure_has_a_panel_for_each_group(run, tmp_path):
    source = run(max_iters=5)
    for seed in (1, 2):
        run(f"tuning/plain/seed{seed}", init_from=source, seed=seed)
        run(f"tuning/noisy/seed{seed}", init_from=source, seed=seed, noisytune_lambda=0.15)
    settings = read_settings([tmp_path / "tuning"])
    figure = distance_figure(settings)
    assert [axes.get_ylabel() for axes in figure.axes] == ["all", "embeddings", "attention", "mlp", "norms"]
    drawn = {arm.name: line for arm, line in zip(settings[0].arms, figure.axes[0].get_lines())}
    first = [distances(tmp_path / "tuning" / "noisy" / f"seed{seed}")[0]["all"] for seed in (1, 2)]
    assert drawn["noisy"].get_ydata()[0] == pytest.approx(sum(first) / 2)
    assert drawn["plain"].get_ydata()[0] == 0
    assert distance_figure(read_settings([source])) is None


def test_a_perturbed_arm_is_no_baseline_and_has_no_panel_of_gradient_noise(run, tmp_path):
    source = run(max_iters=5, noise_sigma=0.0)
    run("tuning/plain/seed1", init_from=source, noise_sigma=0.0)
    run("tuning/perturbed/seed1", init_from=source, noise_sigma=0.0, noisytune_lambda=0.15)
    settings = read_settings([tmp_path / "tuning"])
    assert settings[0].baseline.name == "plain"
    assert noise_figure(settings) is None
