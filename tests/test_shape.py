"""Shapes by arithmetic, and what files say: what cannot be is refused before anything is built."""

import dataclasses
import re

import pytest
import torch
from conftest import checkpoint
from test_config import outcome

import train
from config import UserError, load, settle
from model import GPT, GPTConfig
from training import shape
from training.evaluate import model_in
from training.machine import Machine, memory_of
from training.run_folder import corpus_meta

HUGE = 10**9


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sizes", [(65, 256, 6, 6, 384), (1, 1, 1, 1, 1), (29, 24, 3, 4, 32)])
def test_the_parameters_are_counted_without_a_model(sizes, bias):
    config = GPTConfig(*sizes, bias=bias)
    with torch.device("meta"):
        model = GPT(config)
    assert shape.parameter_count(config, config.vocab_size) == model.parameter_count()
    c = settle(
        {"block_size": sizes[1], "n_layer": sizes[2], "n_head": sizes[3], "n_embd": sizes[4], "bias": bias}
    )
    assert shape.parameter_count(c, sizes[0]) == model.parameter_count()


def test_training_takes_at_least_what_is_counted(new_run):
    run = new_run()
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    run.optimizer.step()
    moments = [value for state in run.optimizer.state.values() for value in state.values() if value.dim()]
    weights = [*run.model.parameters()]
    tensors = [*weights, *(weight.grad for weight in weights), *moments, run.history]
    logits = run.model(run.batch(0)[0])[0]
    count = sum(tensor.numel() for tensor in (*tensors, logits))
    assert shape.training_bytes(run.config, run.model.config.vocab_size) == 4 * count


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_embd": HUGE}, "n_embd"),
        ({"n_embd": 2147483648, "n_head": 1}, "n_embd"),
        ({"n_layer": 10**6}, "n_layer"),
        ({"n_layer": 10**4, "n_embd": 16 * HUGE}, "n_layer"),
        ({"batch_size": 10**12}, "batch_size"),
        ({"block_size": 10**12}, "block_size"),
        ({"batch_size": 10**9}, "batch_size"),
        ({"max_iters": 10**12}, "max_iters"),
    ],
    ids=str,
)
def test_a_size_that_cannot_be_is_refused_before_a_model_is_built(
    command, tmp_path, monkeypatch, options, named
):
    monkeypatch.setattr(GPT, "__init__", lambda *_: pytest.fail("a model is built"))
    with pytest.raises(UserError, match=rf"^[^\n]*{named}[^\n]*$"):
        train.main(command("new", **options))
    assert not (tmp_path / "new").exists()


def test_what_just_fits_is_not_refused_and_a_byte_less_is(command, monkeypatch):
    config = load(command())
    need = shape.training_bytes(config, 29, processes=2)
    assert need < shape.training_bytes(config, 29)
    machine = dataclasses.replace(Machine.choose(config), processes=2)
    monkeypatch.setattr(shape, "memory_of", lambda _: need)
    shape.check_memory(config, machine, 29)
    monkeypatch.setattr(shape, "memory_of", lambda _: need - 1)
    with pytest.raises(UserError, match=f"{shape.parameter_count(config, 29):,} parameters"):
        shape.check_memory(config, machine, 29)
    monkeypatch.setattr(shape, "memory_of", lambda device: 0 if device == "cpu" else need)
    with pytest.raises(UserError, match="cpu"):  # where the model of a card is made
        shape.check_memory(config, dataclasses.replace(machine, device="cuda:0"), 29)
    assert memory_of("cpu") > 1e8


# What is read from a file.

WRONG = (*(None, True, 0, -1, 1.5, HUGE, 10**13, "6", [], {}, float("nan"), "gelu"),)


@pytest.fixture
def good(run, monkeypatch):
    """(a run's folder, its best checkpoint); no model of another shape is built from here on."""
    folder, empty = run(max_iters=5), GPT.empty
    best = checkpoint(folder, "best.pt")

    def alike(config):
        assert dataclasses.replace(config, dropout=0.1, n_head=2) == GPTConfig(**best["model"]["config"])
        return empty(config)

    monkeypatch.setattr(GPT, "empty", alike)
    return folder, best


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(GPTConfig)])
def test_a_checkpoint_of_a_shape_that_is_not_its_weights_is_one_line(good, name):
    folder, best = good
    meta, there = corpus_meta(folder), best["model"]["config"]
    assert model_in(best, meta, "it").config == GPTConfig(**there)
    refused = 0
    for config in ({k: v for k, v in there.items() if k != name}, *({**there, name: value} for value in WRONG)):
        _, said = outcome(model_in, {**best, "model": {**best["model"], "config": config}}, meta, "best.pt")
        assert said is None or re.fullmatch(r"best\.pt[^\n]*", said)
        refused += said is not None
    assert refused > len(WRONG) - 2  # a bias or a head more or less is a model too, dropout 0 also


@pytest.mark.parametrize(
    "model",
    [
        *(None, [], 5, torch.zeros(3), {}, {"config": {}}, {"config": {}, "state": {}}),
        *({"config": [], "state": {}}, {"config": {1: 2}, "state": []}),
    ],
    ids=str,
)
def test_a_checkpoint_that_is_none_is_one_line(good, model):
    folder, best = good
    meta = corpus_meta(folder)
    for state in (model, {**best, "model": model}):
        with pytest.raises(UserError, match=r"^best\.pt[^\n]*$"):
            model_in(state, meta, "best.pt")


def change_one(state, how):
    """The tensors of a state, one changed."""
    name = "blocks.1.mlp.fc.weight"
    other = {
        "transposed": lambda tensor: tensor.T.contiguous(),
        "int": lambda tensor: tensor.int(),
        "half": lambda tensor: tensor.half(),
        "no tensor": lambda tensor: tensor.tolist(),
        "longer": lambda tensor: torch.cat((tensor, tensor)),
    }
    if how == "renamed":
        return {(key + "s" if key == name else key): value for key, value in state.items()}
    return {**state, name: other[how](state[name])}


@pytest.mark.parametrize("how", ["transposed", "int", "half", "no tensor", "longer", "renamed"])
def test_weights_that_are_not_those_of_the_shape_are_one_line(good, how):
    folder, best = good
    model = {**best["model"], "state": change_one(best["model"]["state"], how)}
    with pytest.raises(UserError, match=r"^best\.pt[^\n]*$"):
        model_in({**best, "model": model}, corpus_meta(folder), "best.pt")
