"""What a CUDA card does otherwise than a CPU: python -m pytest -m cuda

Where a test makes sense on a CPU too, it runs there in the ordinary suite, as a rehearsal.
"""

import contextlib
import json
import math
import os
import random
import signal
import warnings

import pytest
import torch
from conftest import checkpoint, same_weights, weights, write_corpus
from test_train import compile_with
from torch.utils._python_dispatch import TorchDispatchMode

import train
from config import UserError
from data.corpus import Corpus
from noise import GradientNoise, schedule
from training import step as method
from training.evaluate import mean_loss
from training.run_folder import read_log

GIB = 2**30


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    return request.param


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def difference(one, other):
    """The largest relative distance between the two runs' tensors: ||a - b|| / ||b||."""
    a, b = weights(one), weights(other)
    return max(((a[name] - b[name]).norm() / b[name].norm()).item() for name in a)


# Data and noise on the device.


def test_batches_and_windows_are_the_same_on_every_device(corpus, device, monkeypatch):
    monkeypatch.setattr("data.corpus.batch_tokens", lambda *_: 100)
    here, cpu = Corpus(str(corpus), device), Corpus(str(corpus))
    assert here.tokens["train"].device.type == device
    for batches in (
        lambda data: [data.batch(seed, 5, 32) for seed in (1, 2**62)],
        lambda data: data.windows("val", 32),
    ):
        for (x, y), (x_cpu, y_cpu) in zip(batches(here), batches(cpu), strict=True):
            assert x.device.type == device
            assert torch.equal(x.cpu(), x_cpu)
            assert torch.equal(y.cpu(), y_cpu)


@pytest.mark.parametrize("draw", ["gaussian", "uniform", "laplace"])
def test_the_noise_is_drawn_on_the_device_from_seed_and_step_alone(device, draw):
    parameters = [("a", torch.nn.Parameter(torch.zeros(1000, 999, device=device)))]
    parameters.append(("b", torch.nn.Parameter(torch.zeros(7, device=device))))

    def make():
        return GradientNoise(parameters, schedule("constant", sigma=0.5), 3, draw=draw)

    first = [xi.clone() for xi in make().unit(4)]
    torch.manual_seed(1)
    torch.randn(3, device=device)
    state = torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()
    resumed = make()
    resumed.unit(9)
    assert all(torch.equal(a, b) for a, b in zip(first, resumed.unit(4)))
    after = torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()
    assert torch.equal(state, after)
    assert not torch.equal(first[0], make().unit(5)[0])
    assert first[0].device.type == device
    assert first[0].std().item() == pytest.approx(1, abs=5e-3)
    assert first[0].mean().item() == pytest.approx(0, abs=5e-3)
    for _, parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    assert make().add_(4).item() == pytest.approx(0.5 * math.sqrt(999_007), rel=5e-3)
    assert torch.equal(parameters[0][1].grad, 0.5 * first[0])


class NoFetching(TorchDispatchMode):
    """On the CPU, an error for what would make the host wait for a device: a tensor read as a number."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a value is fetched"
        assert function is not torch.ops.aten.nonzero.default, "a size is fetched"
        return function(*arguments, **(options or {}))


@contextlib.contextmanager
def no_waiting(device):
    if device == "cpu":
        with NoFetching():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("scale", ["absolute", "global", "tensor"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_host_does_not_wait_for_the_device_in_a_step(training, device, dtype, scale):
    if (device, dtype) == ("cpu", "float16"):
        pytest.skip("on the CPU the gradient scaler fetches its values")
    t = training(device=device, dtype=dtype, noise_scale=scale, compile="off", max_iters=20)
    for _ in range(3):  # optimizer state and caches
        train.train_step(t)
    with no_waiting(device):
        for _ in range(3):
            train.train_step(t)
    assert t.trace[:6].isfinite().all()


OTHER_STEPS = [
    *({"noise_target": point} for point in ("first_moment", "second_moment", "second_moment_mean", "weights")),
    *({"noise_target": "learning_rate"}, {"noise_anticorrelated": True}, {"noise_before_clip": True}),
    *(
        {"noise_distribution": "laplace"},
        {"reset_below_sigma": 0.005},
        {"input_noise": 0.1},
        {"diagnose_interval": 1},
    ),
    *({"optimizer": "sgd"}, {"optimizer": "adam", "weight_decay": 0.0}),
]


@pytest.mark.parametrize("knobs", OTHER_STEPS, ids=str)
def test_nor_does_it_in_the_steps_of_the_controls(training, device, knobs):
    t = training(device=device, dtype="float32", compile="off", max_iters=20, noise_sigma=0.006, **knobs)
    train.train_step(t)
    with no_waiting(device):
        for _ in range(3):  # sigma passes 0.005 among them
            train.train_step(t)
    assert t.trace[:4].isfinite().all()


# Training.


@pytest.mark.parametrize("knobs", OTHER_STEPS, ids=str)
def test_the_controls_agree_with_the_cpu(training, device, knobs, monkeypatch):
    """Without dropout, and with the CPU's draws in place of the device's own."""
    drawn = GradientNoise.drawn

    def on_the_cpu(self, step, buffer):
        there, self.parameters = self.parameters, [p.cpu() for p in self.parameters]
        noise = drawn(self, step, None)
        self.parameters = there
        return noise.to(there[0].device)

    monkeypatch.setattr(GradientNoise, "drawn", on_the_cpu)
    knobs = {"dtype": "float32", "compile": "off", "dropout": 0.0, "noise_sigma": 0.006, **knobs}
    here, cpu = training(device=device, **knobs), training(device="cpu", **knobs)
    for t in (here, cpu):
        for _ in range(6):
            train.train_step(t)
    torch.testing.assert_close(here.trace[:6].cpu(), cpu.trace[:6], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.15])
def test_a_run_starts_from_the_same_weights_on_every_device(run, device, lam):
    source = run("source", max_iters=5)
    knobs = {"init_from": source, "noisytune_lambda": lam, "max_iters": 1, "warmup_iters": 0}
    knobs |= {"learning_rate": 0.0, "min_lr": 0.0, "dtype": "float32", "compile": "off", "noise_sigma": 0.0}
    here, cpu = run("here", device=device, **knobs), run("cpu", **knobs)
    assert same_weights(here, cpu)
    assert same_weights(here, source) == (lam == 0)


def test_the_likeliest_text_is_the_same_on_every_device(run, device, corpus):
    folder = run(max_iters=60)
    meta, texts = Corpus(str(corpus)).meta, []
    for place in (device, "cpu"):
        model = train.GPT.from_weights(checkpoint(folder, "best.pt")["model"], place).eval()
        (text,) = train.samples(model, meta, max_new_tokens=40, temperature=0, seed=1)
        texts.append(text)
    assert texts[0] == texts[1]
    assert len(texts[0]) == 40


def test_a_few_steps_and_an_evaluation_agree_with_the_cpu(run, corpus, device):
    """float32, no dropout and no noise, whose draws are of the device's own kind."""
    knobs = {"dropout": 0.0, "noise_sigma": 0.0, "dtype": "float32", "compile": "off"}
    here, cpu = run("here", device=device, **knobs), run("cpu", **knobs)
    losses = [checkpoint(folder)["trace"][:, 0].cpu() for folder in (here, cpu)]
    print("largest difference of a loss:", (losses[0] - losses[1]).abs().max().item())
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)
    values, stored = [], checkpoint(here)["model"]
    stored["config"]["dropout"] = 0.5  # which an evaluation does without
    for place in (device, "cpu"):
        model = train.GPT.from_weights(stored, place)
        values.append(mean_loss(model, Corpus(str(corpus), place).windows("val", 16)))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_train_like_thirty_two(run, device, dtype):
    knobs = {"device": device, "max_iters": 60, "dropout": 0.0, "noise_sigma": 1e-3, "compile": "off"}
    narrow, wide = run("narrow", dtype=dtype, **knobs), run("wide", dtype="float32", **knobs)
    assert result_of(wide)["final_val_loss"] < 2.9
    assert result_of(narrow)["final_val_loss"] == pytest.approx(result_of(wide)["final_val_loss"], abs=0.05)
    assert result_of(narrow)["skipped_steps"] == 0
    scaler = checkpoint(narrow)["scaler"]
    assert scaler == {} or (scaler["scale"], scaler["_growth_tracker"]) == (65536.0, 60)


def test_a_step_skipped_for_infinity_moves_no_weight_and_no_moment(training, device, monkeypatch):
    t = training(device=device, dtype="float16", max_iters=20)
    for _ in range(2):
        train.train_step(t)

    def everything():
        values = [*t.model.parameters()]
        for state in t.optimizer.state.values():
            values += [state["exp_avg"], state["exp_avg_sq"], state["step"]]
        return [value.detach().clone() for value in values]

    before, scale = everything(), t.scaler.get_scale()
    accumulate = method.accumulate

    def spoilt(t):
        loss = accumulate(t)
        t.model.wte.weight.grad[0, 0] = math.inf
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(method, "accumulate", spoilt)
        train.train_step(t)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))
    assert t.scaler.get_scale() == scale / 2
    assert t.skipped_steps() == 1
    train.train_step(t)
    assert not any(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_stopped_run_resumes_to_the_same_weights(run, device, dtype, monkeypatch):
    """Bit for bit on the CPU; on CUDA to rounding, with a warning that tells whether it was bit for bit."""
    knobs = {"device": device, "dtype": dtype, "compile": "off"}
    whole = run("whole", **knobs)
    step = train.train_step

    def stopping(t):
        step(t)
        if t.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", stopping)
        run("part", status=128 + signal.SIGTERM, **knobs)
    part = run("part", **knobs)
    traces = [checkpoint(folder)["trace"][:, 2] for folder in (whole, part)]
    torch.testing.assert_close(*traces, rtol=1e-6, atol=0)
    if device == "cpu":
        assert same_weights(part, whole)
    elif not same_weights(part, whole):
        again = run("again", **knobs)
        warnings.warn(
            f"{dtype}: resumed, the weights differ by {difference(part, whole):.1e} of their norm;"
            f" repeated, by {difference(again, whole):.1e}",
            stacklevel=1,
        )
        assert difference(part, whole) < (1e-4 if dtype == "float32" else 1e-2)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_compiled_by_inductor(run, capsys, dtype):
    knobs = {"device": "cuda", "dtype": dtype, "dropout": 0.0}
    compiled = run("compiled", compile="on", **knobs)
    assert "compilation failed" not in capsys.readouterr().out
    eager = run("eager", compile="off", **knobs)
    losses = [checkpoint(folder)["trace"][:, 0] for folder in (compiled, eager)]
    torch.testing.assert_close(*losses, rtol=1e-3 if dtype == "float32" else 2e-2, atol=0)


@pytest.mark.cuda
def test_a_compiled_run_with_dropout_resumes(run, monkeypatch):
    """To rounding: the masks of the steps after the resume are those of the uninterrupted run."""
    knobs = {"device": "cuda", "dtype": "float32", "compile": "on", "dropout": 0.3}
    whole, step = run("whole", **knobs), train.train_step

    def stopping(t):
        step(t)
        if t.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", stopping)
        run("part", status=128 + signal.SIGTERM, **knobs)
    losses = [checkpoint(folder)["trace"][:, 0] for folder in (run("part", **knobs), whole)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)
    other = checkpoint(run("other", **{**knobs, "compile": "off", "dropout": 0.0}))["trace"][:, 0]
    assert (other - losses[1]).abs().max() > 1e-3 * losses[1].max(), "dropout shows in the losses"


def test_where_compilation_fails_the_run_goes_on_without(run, capsys, device, monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler here")

    compile_with(monkeypatch, broken)
    assert result_of(run(device=device, compile="on"))["status"] == "finished"
    assert capsys.readouterr().out.count("compilation failed, going on without it") == 1


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
    symbols = [chr(ord("!") + number) for number in range(65)]
    text = "".join(random.Random(0).choices(symbols, k=300_000))
    return write_corpus(tmp_path_factory.mktemp("corpora") / "symbols", text)


LARGEST = {"batch_size": 64, "block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384}
TINY = {"batch_size": 2, "block_size": 32, "n_layer": 1, "n_head": 2, "n_embd": 16, "eval_tokens": 512}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("noise_scale", ["absolute", "tensor"])
def test_the_papers_model_trains_within_16_gb(run, sixty_five_symbols, device, dtype, noise_scale, request):
    if device == "cuda":
        request.getfixturevalue("limit")(16 * GIB)
    knobs = {"dropout": 0.2, "noise_sigma": 0.1, "noise_scale": noise_scale, "gradient_accumulation_steps": 1}
    knobs |= {"max_iters": 6, "eval_interval": 3, "device": device, "dtype": dtype, "compile": "off"}
    folder = run(dataset=sixty_five_symbols, **knobs, **(LARGEST if device == "cuda" else TINY))
    result = result_of(folder)
    print(f"peak memory {result['peak_memory_bytes'] / 1e9:.2f} GB")
    assert result["status"] == "finished"
    assert [event["iter"] for event in read_log(folder)[0] if event["kind"] == "eval"] == [0, 3, 6]
    assert result["peak_memory_bytes"] < 16e9


@pytest.mark.cuda
def test_too_little_memory_on_the_card_is_one_line(command, sixty_five_symbols, limit):
    limit(GIB // 2)
    with pytest.raises(UserError, match="cuda:0 has too little memory for this: halve batch_size"):
        train.main(command(dataset=sixty_five_symbols, device="cuda", compile="off", **LARGEST))


# The machine.


@pytest.mark.cuda
def test_the_card_is_chosen_named_and_recorded(run, tmp_path):
    folder = run(device="auto", dtype="auto", compile="off", max_iters=5)
    about = json.loads((folder / "run.json").read_text())
    assert about["machine"]["device"] == "cuda:0"
    assert about["machine"]["name"] == torch.cuda.get_device_name(0)
    assert about["versions"]["cuda"] == torch.version.cuda
    assert about["machine"]["dtype"] == (
        "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float16"
    )


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="PyTorch does not see two CUDA cards here")
def test_two_cards_train_as_one_does(command, pair, run, tmp_path):
    knobs = {"device": "cuda", "dropout": 0.0, "compile": "off"}
    statuses, _, said = pair(["train.py", *command("two", **knobs)]).end()
    assert statuses == [0, 0], said
    one = run("one", **knobs)
    assert difference(tmp_path / "two", one) < 1e-4
