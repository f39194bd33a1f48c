"""What a CUDA card does otherwise than a CPU: python -m pytest -m cuda

Where a test can fail on a CPU too, it runs there in the ordinary suite. Of the others that can run there, a
rehearsal is among the slow tests.
"""

import contextlib
import json
import math
import random

import pytest
import torch
from conftest import checkpoint, same_weights, weights, write_corpus
from test_train import gradients_at_update, unit_noise
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import train
from config import UserError
from data.corpus import Corpus
from model import GPT, GPTConfig
from noise import GradientNoise, schedule
from sample import samples
from training import lifecycle
from training.evaluate import mean_loss
from training.run import compile_model
from training.run_files import read_log

GIB = 2**30
DTYPES = ["float32", "bfloat16", "float16"]
CONTROLS = [
    *({"noise_target": t} for t in ("first_moment", "second_moment", "second_moment_mean", "weights")),
    *({"noise_target": "learning_rate"}, {"noise_anticorrelated": True}, {"noise_before_clip": True}),
    *({"noise_distribution": "laplace"}, {"reset_below_sigma": 0.005}, {"input_noise": 0.1}),
    *({"diagnose_interval": 1}, {"optimizer": "sgd"}, {"optimizer": "adam", "weight_decay": 0.0}),
    *({"noise_target": "clean_direction"}, {"noise_target": "noisy_direction"}, {"optimizer": "lion"}),
]
EXACT = {"dtype": "float32", "compile": "off"}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    return request.param


@pytest.fixture(
    params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.cuda)]
)
def card(request):
    """A device of which a CPU tells nothing new."""
    return request.param


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def losses_of(folder):
    return checkpoint(folder)["history"][:, 0]


def difference(one, other):
    """The largest relative distance between the two runs' tensors: ||a - b|| / ||b||."""
    a, b = weights(one), weights(other)
    return max(((a[name] - b[name]).norm() / b[name].norm()).item() for name in a)


# Data and noise on the device.


def test_batches_and_windows_are_the_same_on_every_device(corpus, card, monkeypatch):
    monkeypatch.setattr("data.corpus.batch_tokens", lambda *_: 100)
    found = []
    for place in (card, "cpu"):
        data = Corpus(str(corpus), place)
        pairs = [*(data.batch(seed, 5, 32) for seed in (1, 2**62)), *data.windows("val", 32)]
        found.append([part for pair in pairs for part in pair])
    assert {part.device.type for part in found[0]} == {card}
    assert all(torch.equal(part.cpu(), other) for part, other in zip(*found, strict=True))


@pytest.mark.parametrize("distribution", ["gaussian", "uniform", "laplace"])
def test_the_noise_is_drawn_on_the_device_from_seed_and_step_alone(device, distribution):
    shapes = {"a": (1000, 999), "b": (7,)}
    parameters = [(name, torch.nn.Parameter(torch.zeros(s, device=device))) for name, s in shapes.items()]
    generator = torch.cuda if device == "cuda" else torch

    def make():
        return GradientNoise(parameters, schedule("constant", sigma=0.5), 3, distribution=distribution)

    first = [xi.clone() for xi in make().unit(4)]
    generator.manual_seed(1)
    state = generator.get_rng_state()
    resumed = make()
    resumed.unit(9)
    assert all(torch.equal(a, b) for a, b in zip(first, resumed.unit(4)))
    assert torch.equal(state, generator.get_rng_state())
    assert not torch.equal(first[0], make().unit(5)[0])
    assert first[0].device.type == device
    assert (first[0].mean().item(), first[0].std().item()) == pytest.approx((0, 1), abs=5e-3)
    for _, parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    assert make().add_(4, norm=True).item() == pytest.approx(0.5 * math.sqrt(999_007), rel=5e-3)
    assert torch.equal(parameters[0][1].grad, 0.5 * first[0])


class NoFetching(TorchDispatchMode):
    """On the CPU, an error for what would make the host wait for a device: a tensor read as a number."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a value is fetched"
        assert function is not torch.ops.aten.nonzero.default, "a size is fetched"
        return function(*arguments, **(options or {}))


class NoCopying(TorchFunctionMode):
    """The same for what PyTorch does not dispatch on a CPU: a tensor brought to the host whole."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        assert function not in (torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.numpy), "values are fetched"
        return function(*arguments, **(options or {}))


@contextlib.contextmanager
def no_waiting(device):
    with contextlib.ExitStack() as stack:
        if device == "cpu":
            stack.enter_context(NoFetching())
            stack.enter_context(NoCopying())
        else:
            torch.cuda.set_sync_debug_mode("error")
            stack.callback(torch.cuda.set_sync_debug_mode, "default")
        yield


@pytest.mark.parametrize(
    "options",
    [
        *({"dtype": "bfloat16", "noise_scale": scale} for scale in ("absolute", "global", "tensor")),
        *({"dtype": dtype, "noise_scale": "tensor"} for dtype in ("float16", "float32")),
        {"dtype": "bfloat16", "batch_size": 64, "block_size": 256},  # from 3,073 indices on embeddings differ
        *({"dtype": "float32", "noise_sigma": 0.006, **control} for control in CONTROLS),
    ],
    ids=str,
)
def test_the_host_does_not_wait_for_the_device_in_a_step(new_run, device, options):
    if (device, options["dtype"]) == ("cpu", "float16"):
        pytest.skip("on the CPU the gradient scaler fetches its values")
    run = new_run(device=device, compile="off", max_iters=20, **options)
    train.train_step(run)  # optimizer state and caches
    with no_waiting(device):
        for _ in range(3):  # sigma passes 0.005 among them
            train.train_step(run)
    assert run.history[:4].isfinite().all()


# Training.


@pytest.mark.parametrize("options", CONTROLS, ids=str)
def test_the_controls_agree_with_the_cpu(new_run, card, options, monkeypatch):
    """Without dropout, and with the CPU's draws in place of the device's own."""
    draw = GradientNoise._draw

    def on_the_cpu(self, step, row):
        return row.copy_(draw(self, step, torch.empty_like(row, device="cpu")))

    monkeypatch.setattr(GradientNoise, "_draw", on_the_cpu)
    options = {"dropout": 0.0, "noise_sigma": 0.006, **EXACT, **options}
    here, cpu = (new_run(device=place, **options) for place in (card, "cpu"))
    steps = 2 if "moment" in options.get("noise_target", "") else 6  # which magnifies rounding at each step
    for run in [here, cpu] * steps:
        train.train_step(run)
    losses_and_noise = [run.history[:steps, [0, 2]].cpu() for run in (here, cpu)]
    torch.testing.assert_close(*losses_and_noise, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.15])
def test_a_run_starts_from_the_same_weights_on_every_device(run, card, lam):
    source = run("source", max_iters=5)
    options = {"init_from": source, "noisytune_lambda": lam, "max_iters": 1, "warmup_iters": 0}
    options |= {"learning_rate": 0.0, "min_lr": 0.0, "noise_sigma": 0.0, **EXACT}
    here, cpu = run("here", device=card, **options), run("there", **options)
    assert same_weights(here, cpu)
    assert same_weights(here, source) == (lam == 0)


def test_a_few_steps_an_evaluation_and_a_text_agree_with_the_cpu(run, corpus, card):
    """float32, no dropout and no noise, whose draws are of the device's own kind."""
    options = {
        "dropout": 0.0,
        "noise_sigma": 0.0,
        "max_iters": 100,
        "eval_interval": 50,
        "learning_rate": 0.03,
        **EXACT,
    }
    here, cpu = run("here", device=card, **options), run("cpu", **options)
    print("largest difference of a loss:", (losses_of(here) - losses_of(cpu)).abs().max().item())
    torch.testing.assert_close(losses_of(here)[:12], losses_of(cpu)[:12], rtol=1e-4, atol=0)
    values, texts, stored = [], [], checkpoint(here)["model"]
    stored["config"]["dropout"] = 0.5  # which an evaluation does without
    for place in (card, "cpu"):
        model, data = GPT.from_weights(stored, place), Corpus(str(corpus), place)
        values.append(mean_loss(model, data.windows("val", 16)))
        texts += samples(model.eval(), data.meta, prompt=[5, 9, 9], max_new_tokens=40, temperature=0, seed=1)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert texts[0] == texts[1]
    assert len(set(texts[0][3:])) > 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grad_clip", [0.0, 0.5])
def test_the_noise_is_added_whole_not_divided_by_the_loss_scale(new_run, card, dtype, grad_clip):
    options = {"device": card, "compile": "off", "grad_clip": grad_clip, "dropout": 0.0}
    wide = gradients_at_update(new_run(noise_sigma=0.0, dtype="float32", **options))
    clean = gradients_at_update(new_run(noise_sigma=0.0, dtype=dtype, **options))
    noisy_run = new_run(noise_sigma=0.25, dtype=dtype, **options)
    noisy, xi = gradients_at_update(noisy_run), unit_noise(noisy_run, 0)
    for name, gradient in clean.items():
        torch.testing.assert_close(gradient.norm(), wide[name].norm(), rtol=0.1, atol=1e-3)  # not still scaled
        torch.testing.assert_close(noisy[name] - gradient, 0.25 * xi[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_train_like_thirty_two(run, device, dtype):
    options = {"device": device, "max_iters": 60, "dropout": 0.0, "noise_sigma": 1e-3, "compile": "off"}
    narrow, wide = run("narrow", dtype=dtype, **options), run("wide", dtype="float32", **options)
    assert result_of(wide)["final_val_loss"] < 2.9
    assert result_of(narrow)["final_val_loss"] == pytest.approx(result_of(wide)["final_val_loss"], abs=0.05)
    assert result_of(narrow)["skipped_steps"] == 0
    scaler = checkpoint(narrow)["scaler"]
    assert scaler == {} or (scaler["scale"], scaler["_growth_tracker"]) == (65536.0, 60)


def test_a_step_skipped_for_infinity_moves_no_weight_and_no_moment(new_run, card, monkeypatch):
    run, accumulate = new_run(device=card, dtype="float16", max_iters=20), train.accumulate
    for _ in range(2):
        train.train_step(run)

    def everything():
        states = run.optimizer.state.values()
        moments = (state[name] for state in states for name in ("exp_avg", "exp_avg_sq", "step"))
        return [value.detach().clone() for value in (*run.model.parameters(), *moments)]

    def spoilt(run):
        loss = accumulate(run)
        run.model.wte.weight.grad[0, 0] = math.inf
        return loss

    before, scale = everything(), run.scaler.get_scale()
    with monkeypatch.context() as patch:
        patch.setattr(train, "accumulate", spoilt)
        train.train_step(run)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))
    assert (run.scaler.get_scale(), run.skipped_steps()) == (scale / 2, 1)
    train.train_step(run)
    assert not any(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_stopped_run_resumes_to_the_same_weights(run, stop_at, card, dtype):
    """Bit for bit on the CPU; on CUDA to rounding, and it is printed whether it was bit for bit."""
    options = {"device": card, "dtype": dtype, "compile": "off"}
    whole = run("whole", **options)
    stop_at(7, "part", **options)
    part = run("part", **options)
    norms = [checkpoint(folder)["history"][:, 2] for folder in (whole, part)]
    torch.testing.assert_close(*norms, rtol=1e-6, atol=0)
    if card == "cpu":
        assert same_weights(part, whole)
    elif not same_weights(part, whole):
        again = run("again", **options)
        print(f"resumed, the weights differ by {difference(part, whole):.1e} of their norm;", end=" ")
        print(f"repeated, by {difference(again, whole):.1e}")
        assert difference(part, whole) < (1e-4 if dtype == "float32" else 1e-2)


@pytest.fixture
def compiles():
    """Compilation from nothing: what other tests compiled would make a rate of dropout symbolic."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def check_captured(how):
    """That CUDA graphs were captured where they were asked for: Inductor counts those that it skips."""
    assert how == "on" or torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0


def test_on_a_card_the_whole_model_is_compiled_without_a_break(compiles):
    """On the meta device, where the operators are a card's."""
    with torch.device("meta"):
        model, graphs = GPT(GPTConfig(20, 16, 2, 2, 16, dropout=0.2)), []
        idx = torch.zeros(4, 16, dtype=torch.int64)

    def backend(graph, _):
        graphs.append(graph)
        return graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GPT, "compile", lambda model, **how: nn.Module.compile(model, **how, backend=backend))
        compile_model(model, "on")
    model(idx, idx)[1].backward()
    assert len(graphs) == 1
    assert model.wte.weight.grad is not None


@pytest.mark.cuda
@pytest.mark.parametrize(("how", "dtype"), [("on", "bfloat16"), ("graphs", "bfloat16"), ("on", "float16")])
def test_compiled_by_inductor(run, compiles, capsys, how, dtype):
    options = {"device": "cuda", "dtype": dtype, "dropout": 0.0, "gradient_accumulation_steps": 1}
    compiled = run("compiled", compile=how, **options)
    assert "failed, going on without" not in capsys.readouterr().out
    check_captured(how)
    eager = run("eager", compile="off", **options)
    torch.testing.assert_close(losses_of(compiled), losses_of(eager), rtol=2e-2, atol=0)


@pytest.mark.cuda
@pytest.mark.parametrize("how", ["on", "graphs"])
def test_a_compiled_run_with_dropout_resumes(run, compiles, stop_at, tmp_path, how):
    """To rounding: the masks of the steps after the resume are those of the uninterrupted run."""
    options = {"device": "cuda", "dtype": "float32", "compile": how, "dropout": 0.3}
    options["gradient_accumulation_steps"] = 1
    whole = losses_of(run("whole", **options))
    stop_at(7, "part", **options)
    torch.testing.assert_close(losses_of(run("part", **options)), whole, rtol=1e-4, atol=0)
    assert result_of(tmp_path / "part")["compiled"]
    check_captured(how)
    other = losses_of(run("other", **{**options, "compile": "off", "dropout": 0.0}))
    assert (other - whole).abs().max() > 1e-3 * whole.max(), "dropout shows in the losses"


@pytest.mark.cuda
@pytest.mark.parametrize("how", ["on", "graphs"])
def test_the_host_does_not_wait_in_a_compiled_step(new_run, compiles, how):
    options = {"dtype": "bfloat16", "gradient_accumulation_steps": 1, "max_iters": 20}
    run = new_run(device="cuda", compile=how, **options)
    assert lifecycle.warm_up(run, train.accumulate) == how
    train.train_step(run)
    with no_waiting("cuda"):
        for _ in range(3):
            train.train_step(run)
    check_captured(how)
    assert run.history[:4].isfinite().all()


# Memory.


@pytest.fixture
def limit():
    """limit(bytes) is the most that this process may have of the card."""

    def set_to(most):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, most / total), 0)

    yield set_to
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0, 0)


@pytest.fixture(scope="session")
def sixty_five_symbols(tmp_path_factory):
    """A corpus with tinyshakespeare's vocabulary size, in nonsense."""
    text = "".join(random.Random(0).choices([chr(ord("!") + number) for number in range(65)], k=300_000))
    return write_corpus(tmp_path_factory.mktemp("corpora") / "symbols", text)


LARGEST = {"batch_size": 64, "block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384}
TINY = {"batch_size": 2, "block_size": 32, "n_layer": 1, "n_head": 2, "n_embd": 16, "eval_tokens": 512}


@pytest.mark.parametrize(("dtype", "noise_scale"), [("bfloat16", "absolute"), ("float32", "tensor")])
def test_the_papers_model_trains_within_16_gb(run, sixty_five_symbols, card, dtype, noise_scale, request):
    if card == "cuda":
        request.getfixturevalue("limit")(16 * GIB)
    options = {"dropout": 0.2, "noise_sigma": 0.1, "noise_scale": noise_scale, "gradient_accumulation_steps": 1}
    options |= {"max_iters": 6, "eval_interval": 3, "device": card, "dtype": dtype, "compile": "off"}
    folder = run(dataset=sixty_five_symbols, **options, **(LARGEST if card == "cuda" else TINY))
    print(f"peak memory {result_of(folder)['peak_memory_bytes'] / 1e9:.2f} GB")
    assert [event["iter"] for event in read_log(folder)[0] if event["kind"] == "eval"] == [0, 3, 6]
    assert result_of(folder)["peak_memory_bytes"] < 16e9


@pytest.mark.cuda
def test_too_little_memory_on_the_card_is_one_line(command, sixty_five_symbols, limit):
    limit(GIB // 2)
    with pytest.raises(UserError, match="cuda:0 has too little memory for this: halve batch_size"):
        train.main(command(dataset=sixty_five_symbols, device="cuda", compile="off", **LARGEST))


# The machine.


@pytest.mark.cuda
def test_the_card_is_chosen_named_and_recorded(run):
    about = json.loads((run(device="auto", dtype="auto", compile="off", max_iters=5) / "run.json").read_text())
    dtype = "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float16"
    machine = {"device": "cuda:0", "name": torch.cuda.get_device_name(0), "dtype": dtype}
    assert about["machine"] == about["machine"] | machine
    assert about["versions"]["cuda"] == torch.version.cuda


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="PyTorch does not see two CUDA cards here")
def test_two_cards_train_as_one_does(command, pair, run, tmp_path):
    options = {"device": "cuda", "dropout": 0.0, "compile": "off"}
    statuses, _, said = pair(["train.py", *command("two", **options)]).end()
    assert statuses == [0, 0], said
    assert difference(tmp_path / "two", run("one", **options)) < 1e-4
