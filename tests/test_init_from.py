"""A run that starts from another run's weights: what is carried over, what is recorded, what is refused."""

import hashlib
import json
import shutil

import pytest
import torch
from conftest import TEXT, checkpoint, same_weights, weights, write_corpus

import train
from config import UserError, differences, identity, load
from data.corpus import Corpus
from training.machine import Machine
from training.pretrained import check_same, describe, read_source
from training.run import Run
from training.run_folder import RunFolder


@pytest.fixture
def start(command):
    """start(key=value, ...) is (a Run just made, one of the same config without init_from)."""

    def build(**options):
        config = load(command("new", **options))
        corpus, machine = Corpus(config.dataset), Machine.choose(config)
        return (Run(config, corpus, machine, source) for source in (read_source(config, corpus.meta), None))

    return build


@pytest.fixture
def source(run):
    """The folder of a run that starts the others."""
    return run(max_iters=5)


def best(folder):
    return weights(folder, "best.pt")


def digest_of(folder):
    return hashlib.sha256((folder / "best.pt").read_bytes()).hexdigest()


def record_of(folder):
    return json.loads((folder / "run.json").read_text())["init_from"]


def test_the_run_starts_from_the_best_weights_of_the_source(run, start):
    source = run(learning_rate=2.0, grad_clip=0.0, noise_sigma=0.0, eval_interval=1)
    assert not torch.equal(weights(source)["wte.weight"], best(source)["wte.weight"])
    new, fresh = start(init_from=source, dropout=0.3, seed=2)
    for name, parameter in new.model.named_parameters():
        assert torch.equal(parameter, best(source)[name]), name
    assert not torch.equal(fresh.model.wte.weight, new.model.wte.weight)
    assert new.model.config.dropout == 0.3
    assert torch.equal(new.noise.unit(3)[0], fresh.noise.unit(3)[0])


@pytest.mark.parametrize("block_size", [8, 24])
def test_common_symbols_and_positions_are_carried_over_and_new_ones_are_fresh(
    source, start, tmp_path, block_size
):
    text = TEXT.replace("b", "ö").replace("\n", "") * 2 + "!? "
    new, fresh = start(init_from=source, dataset=write_corpus(tmp_path / "c", text), block_size=block_size)
    theirs = json.loads((source / "run.json").read_text())["corpus"]["vocabulary"]
    ours = new.corpus.meta["vocabulary"]
    assert (set(ours) - set(theirs), set(theirs) - set(ours)) == ({"ö", "!", "?"}, {"b", "\n"})
    assert any(theirs.index(s) != ours.index(s) for s in set(ours) & set(theirs))
    old = dict(zip(theirs, best(source)["wte.weight"]))
    for symbol, row, unchanged in zip(ours, new.model.wte.weight, fresh.model.wte.weight):
        assert torch.equal(row, old.get(symbol, unchanged)), symbol
    assert new.source_record["symbols"] == {"carried": len(ours) - 3, "fresh": 3, "left": 2}
    both = min(16, block_size)
    assert torch.equal(new.model.wpe.weight[:both], best(source)["wpe.weight"][:both])
    assert torch.equal(new.model.wpe.weight[both:], fresh.model.wpe.weight[both:])
    assert new.source_record["positions"] == {"carried": both, "fresh": block_size - both}


def test_what_it_started_from_is_printed_and_recorded_and_part_of_what_it_is(source, run, command, capsys):
    folder = run("new", init_from=source, block_size=24, max_iters=5)
    state = checkpoint(source, "best.pt")
    record = record_of(folder)
    assert describe(record) in capsys.readouterr().out
    assert record.pop("knobs").keys() == differences(load(command(max_iters=5))).keys()
    assert record == {
        **{"run": str(source), "file": "best.pt", "sha256": digest_of(source), "corpus": "small"},
        **{"iter": state["iter"], "val_loss": state["val_loss"], "positions": {"carried": 16, "fresh": 8}},
        "symbols": {"carried": len(state["model"]["state"]["wte.weight"]), "fresh": 0, "left": 0},
    }
    assert record_of(source) is None
    assert identity(load(command("new", init_from=source))) != identity(load(command("new")))
    with pytest.raises(UserError, match="init_from"):
        train.main(command("new", block_size=24, max_iters=5))


class Crash(BaseException):
    """Stands for the end of the process."""


def crash_after(monkeypatch, steps, words):
    """Run a command line until that many steps are done, and end there as the process would."""
    step = train.train_step

    def crashing(run):
        if run.step == steps:
            raise Crash
        step(run)

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", crashing)
        with pytest.raises(Crash):
            train.main(words)


@pytest.mark.parametrize("steps", [0, 3, 7])  # the first checkpoint is at 5
def test_a_resume_needs_the_source_until_the_first_checkpoint(
    source, run, command, monkeypatch, tmp_path, steps
):
    whole, words = run("whole", init_from=source), command("part", init_from=source)
    crash_after(monkeypatch, steps, words)
    before = record_of(tmp_path / "part")
    if steps == 7:
        shutil.rmtree(source)
    else:
        assert not (tmp_path / "part" / "last.pt").exists()
    assert train.main(words) == 0
    assert same_weights(tmp_path / "part", whole)
    assert record_of(tmp_path / "part") == before
    shutil.rmtree(source, ignore_errors=True)
    assert train.main(words) == 0, "nor does a run that is finished"


def test_a_source_that_has_changed_is_refused_before_the_first_checkpoint(source, run, command, monkeypatch):
    words = command("part", init_from=source)
    crash_after(monkeypatch, 3, words)
    run(max_iters=5, overwrite=True, seed=2)
    with pytest.raises(UserError, match=r"SHA-256.*--overwrite=True"):
        train.main(words)
    assert train.main([*words, "--overwrite=True"]) == 0
    assert record_of(source.parent / "part")["sha256"] == digest_of(source)
    with pytest.raises(UserError, match="out/source"):
        check_same(None, {"run": "out/source", "sha256": "a"}, "out/run")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"n_layer": 1}, "--n_layer=2"),
        ({"n_head": 1, "n_embd": 32}, "--n_head=2 --n_embd=16"),
        ({"bias": True}, "--bias=False"),
        ({"init_from": "nowhere"}, "nowhere"),
        ({"init_from": "out/pretrain_text8_small/seed1"}, "config/pretrain_text8_small.py"),
        ({"init_from": ""}, "empty"),
        ({"init_from": "{source}/best.pt"}, r"best\.pt"),
        ({"out_dir": "{source}/../run/", "overwrite": True}, "--out_dir"),
    ],
    ids=str,
)
def test_a_source_that_does_not_fit_is_one_line_before_any_work(source, command, options, hint):
    options = {k: v.format(source=source) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(UserError, match=rf"^init_from[^\n]*{hint}[^\n]*$"):
        train.main(command("new", **{"init_from": source, **options}))
    assert not (source.parent / "new").exists()


def test_a_damaged_source_leaves_the_run_that_it_would_overwrite(source, run, command):
    there = run("new", max_iters=5)
    for harm in ((source / "best.pt").write_bytes, lambda _: (source / "best.pt").unlink()):
        harm(b"damaged")
        with pytest.raises(UserError, match=r"best\.pt"):
            train.main(command("new", init_from=source, overwrite=True))
    assert (there / "result.json").exists()


def test_the_source_is_read_once(source, command, monkeypatch):
    """Its weights and its hash are of one file, also where a run in progress replaces it meanwhile."""
    digest, load_file = digest_of(source), torch.load

    def replaced_meanwhile(file, **options):
        with RunFolder(source) as folder:
            folder.save("best.pt", {"model": None})
        return load_file(file, **options)

    monkeypatch.setattr(torch, "load", replaced_meanwhile)
    config = load(command("new", init_from=source))
    found = read_source(config, Corpus(config.dataset).meta)
    assert (found.record["sha256"], found.model.config.n_layer) == (digest, 2)
