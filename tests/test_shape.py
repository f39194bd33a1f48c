"""Shapes by arithmetic, and what files say: what cannot be is refused before anything is built."""

import dataclasses
import json
import re

import pytest
import torch
from conftest import checkpoint
from test_config import outcome

import sample
import train
from config import UserError, load, settle
from model import GPT, GPTConfig
from training import evaluate, export, shape, sharpness
from training.evaluate import model_in
from training.machine import Machine, memory_of
from training.pretrained import read_source
from training.run_files import corpus_meta

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


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion"])
def test_training_takes_at_least_what_is_counted(new_run, optimizer):
    run = new_run(optimizer=optimizer)
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

WRONG = (*(None, True, 0, -1, 1.5, HUGE, 10**13, "6", [], {}, float("nan"), "relu"),)


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


OTHERS = ("[]", "null", "{}", "5", '"x"', "[" * 10**5)


def spoilt(path):
    """What may stand in a JSON file in place of its value: another one; the same without one of its entries, or
    with another value for one; so also for the entries of the corpus in it."""
    value = json.loads(path.read_text())
    value.pop("crc32", None)
    yield from OTHERS
    for place in (value, value.get("corpus")):
        for number, (name, before) in enumerate(list((place or {}).items())):
            if number % 2:
                del place[name]
            else:
                place[name] = [None, [], 5, "x", {}, 10**30, {"a": [None]}][number % 7]
            yield json.dumps(value)
            place[name] = before


@pytest.fixture
def commands(run, command, tmp_path, monkeypatch):
    """(a run's folder, its export, {name: what reads such a folder})."""
    folder, there = run(max_iters=5), tmp_path / "exported"
    export.main([str(folder), str(there)])
    meta = corpus_meta(folder)
    for reader in (evaluate, sharpness):
        monkeypatch.setattr(reader, "mean_loss", lambda *_: 0.0)  # which takes time
    config = load(command("new"))
    return folder, there, {
        "sample": lambda place: sample.main([str(place), "--device=cpu", "--max_new_tokens=1", "--prompt=Ada"]),
        "evaluate": lambda place: evaluate.main([str(place)]),
        "export": lambda place: export.main([str(place), str(tmp_path / "again")]),
        "sharpness": lambda place: sharpness.main([str(place)]),
        "init_from": lambda place: read_source(dataclasses.replace(config, init_from=str(place)), meta),
    }  # fmt: skip


READ_BY = {
    "run.json": ("sample", "evaluate", "export", "sharpness", "init_from"),
    "config.json": ("evaluate", "export", "init_from"),
    "result.json": ("sharpness",),
    "log.jsonl": ("export",),
}


@pytest.mark.parametrize("name", READ_BY)
def test_no_json_of_another_shape_is_a_traceback_in_what_reads_a_run(commands, name):
    folder, _, reads = commands
    path = folder / name
    lines = (f"{text}\n" for text in (*OTHERS, '{"kind": [], "iter": 5}'))
    before = path.read_text()
    for text in [*(lines if name == "log.jsonl" else spoilt(path)), None]:
        path.unlink() if text is None else path.write_text(text)
        for which in READ_BY[name]:
            _, said = outcome(reads[which], folder)
            assert said is None or said.isprintable()
    path.write_text(before)
    assert all(outcome(reads[which], folder)[1] is None for which in READ_BY[name])


@pytest.mark.parametrize("name", ["config.json", "corpus.json"])
def test_no_json_of_another_shape_is_a_traceback_in_what_reads_an_export(commands, name):
    _, folder, reads = commands
    path = folder / name
    for text in list(spoilt(path)):
        path.write_text(text)
        for which in ("sample", "evaluate", "init_from"):
            _, said = outcome(reads[which], folder)
            assert said is None or said.isprintable()
