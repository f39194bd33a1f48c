"""A run that starts from another run's weights: what is carried over, what is recorded, what is refused."""

import hashlib
import json
import shutil

import pytest
import torch
from conftest import TEXT, checkpoint, same_weights, weights, write_corpus

import train
from analysis.arms import read_settings
from config import UserError, differences, identity, load
from data.build import write_corpus as write
from data.corpus import Corpus, symbol_indices
from training.machine import Machine
from training.pretrained import check_same, read_source
from training.run_folder import RunFolder, read_log


@pytest.fixture
def start(command):
    """start(key=value, ...) is (a Training just made, one of the same config without init_from)."""

    def build(**knobs):
        config = load(command("new", **knobs))
        corpus, machine = Corpus(config.dataset), Machine.choose(config)
        source = read_source(config, corpus.meta)
        return (train.Training(config, corpus, machine, start) for start in (source, None))

    return build


def best(folder):
    return weights(folder, "best.pt")


def test_the_run_starts_from_the_best_weights_of_the_source(run, start):
    source = run(learning_rate=2.0, grad_clip=0.0, noise_sigma=0.0, eval_interval=1)
    assert not torch.equal(weights(source)["wte.weight"], best(source)["wte.weight"])
    t, fresh = start(init_from=source, dropout=0.3, seed=2)
    for name, parameter in t.model.named_parameters():
        assert torch.equal(parameter, best(source)[name]), name
    assert not torch.equal(fresh.model.wte.weight, t.model.wte.weight)
    assert t.model.config.dropout == 0.3
    assert torch.equal(t.noise.unit(3)[0], fresh.noise.unit(3)[0])


def test_symbols_are_carried_over_by_symbol_and_new_ones_are_fresh(run, start, tmp_path):
    source = run(max_iters=5)
    text = TEXT.replace("b", "ö").replace("\n", "") * 2 + "!? "
    t, fresh = start(init_from=source, dataset=write_corpus(tmp_path / "c", text))
    theirs = json.loads((source / "run.json").read_text())["corpus"]["vocabulary"]
    ours = t.corpus.meta["vocabulary"]
    assert (set(ours) - set(theirs), set(theirs) - set(ours)) == ({"ö", "!", "?"}, {"b", "\n"})
    assert any(theirs.index(s) != ours.index(s) for s in set(ours) & set(theirs))
    for row, symbol in enumerate(ours):
        known = symbol in theirs
        wanted = best(source)["wte.weight"][theirs.index(symbol)] if known else fresh.model.wte.weight[row]
        assert torch.equal(t.model.wte.weight[row], wanted), symbol
    assert t.start["symbols"] == {"carried": len(ours) - 3, "fresh": 3, "left": 2}
    assert torch.equal(t.model.ln_f.weight, best(source)["ln_f.weight"])


def test_a_byte_is_the_ascii_character_that_it_encodes(run, start, tmp_path):
    """And no byte beyond ASCII is a character, 233 not the one of code point 233."""
    source = run(dataset=write_corpus(tmp_path / "characters", "caf\xe9 \n" * 300), max_iters=5)
    data = "fac\xe9 \n".encode("latin1") * 300
    array = torch.frombuffer(bytearray(data), dtype=torch.uint8).numpy()
    write(tmp_path / "bytes", lambda: iter([array]), {"from": "a test", "sha256": "-"}, unit="byte")
    t, fresh = start(init_from=source, dataset=tmp_path / "bytes")
    assert t.corpus.meta["vocabulary"] == [10, 32, 97, 99, 102, 0xE9]
    assert torch.equal(t.model.wte.weight[:5], best(source)["wte.weight"][:5])
    assert torch.equal(t.model.wte.weight[5], fresh.model.wte.weight[5])
    assert symbol_indices(t.corpus.meta) == {"\n": 0, " ": 1, "a": 2, "c": 3, "f": 4, 0xE9: 5}


@pytest.mark.parametrize("block_size", [8, 16, 24])
def test_positions_are_carried_over_as_far_as_both_go(run, start, block_size):
    source = run(max_iters=5)
    t, fresh = start(init_from=source, block_size=block_size)
    both = min(16, block_size)
    assert torch.equal(t.model.wpe.weight[:both], best(source)["wpe.weight"][:both])
    assert torch.equal(t.model.wpe.weight[both:], fresh.model.wpe.weight[both:])
    assert t.start["positions"] == {"carried": both, "fresh": block_size - both}


def test_what_it_started_from_is_printed_and_recorded(run, command, capsys):
    source = run(max_iters=5)
    capsys.readouterr()
    folder = run("new", init_from=source, block_size=24, max_iters=5)
    state, data = checkpoint(source, "best.pt"), (source / "best.pt").read_bytes()
    symbols = {"carried": len(state["model"]["state"]["wte.weight"]), "fresh": 0, "left": 0}
    record = json.loads((folder / "run.json").read_text())["init_from"]
    assert {name: record["knobs"][name] for name in ("max_iters", "n_embd", "noise_sigma")} == {
        **{"max_iters": 5, "n_embd": 16, "noise_sigma": 0.01}
    }
    assert record.pop("knobs").keys() == differences(load(command(max_iters=5))).keys()
    assert record == {
        "run": str(source),
        "file": "best.pt",
        "sha256": hashlib.sha256(data).hexdigest(),
        "iter": state["iter"],
        "val_loss": state["val_loss"],
        "corpus": "small",
        "symbols": symbols,
        "positions": {"carried": 16, "fresh": 8},
    }
    line = f"{source}, best.pt, iteration {state['iter']}: {symbols['carried']} symbols carried over, 0 fresh"
    assert line in capsys.readouterr().out
    assert json.loads((source / "run.json").read_text())["init_from"] is None


def test_a_finished_run_is_lengthened_in_a_new_folder(run):
    source = run(noise_sigma=0.0)
    longer = run("longer", init_from=source, noise_sigma=0.0)
    first = read_log(longer)[0][0]
    assert (first["kind"], first["iter"]) == ("eval", 0)
    assert first["val_loss"] == checkpoint(source, "best.pt")["val_loss"]
    assert checkpoint(longer, "best.pt")["val_loss"] < first["val_loss"]


class Crash(BaseException):
    """Stands for the end of the process."""


def crash_after(monkeypatch, steps):
    step = train.train_step

    def crashing(t):
        if t.step == steps:
            raise Crash
        step(t)

    monkeypatch.setattr(train, "train_step", crashing)


@pytest.fixture
def crashed(run, command, monkeypatch):
    """crashed(steps) is (source, a whole run from it, the command of one that crashed after some steps)."""

    def build(steps):
        source = run(max_iters=5)
        whole = run("whole", init_from=source)
        with monkeypatch.context() as patch:
            crash_after(patch, steps)
            with pytest.raises(Crash):
                train.main(command("part", init_from=source))
        return source, whole, command("part", init_from=source)

    return build


@pytest.mark.parametrize("steps", [0, 3])
def test_before_its_first_checkpoint_a_resume_starts_from_the_source_again(crashed, tmp_path, steps):
    _, whole, words = crashed(steps)
    assert not (tmp_path / "part" / "last.pt").exists()
    assert train.main(words) == 0
    assert same_weights(tmp_path / "part", whole)


def test_a_resume_from_a_checkpoint_needs_no_source(crashed, tmp_path, capsys):
    source, whole, words = crashed(7)
    before = json.loads((tmp_path / "part" / "run.json").read_text())["init_from"]
    shutil.rmtree(source)
    capsys.readouterr()
    assert train.main(words) == 0
    assert "carried over" not in capsys.readouterr().out
    assert same_weights(tmp_path / "part", whole)
    assert json.loads((tmp_path / "part" / "run.json").read_text())["init_from"] == before
    assert train.main(words) == 0, "nor does a run that is finished"


def test_a_source_that_has_changed_is_refused_before_the_first_checkpoint(crashed, run, tmp_path):
    source, _, words = crashed(3)
    run(max_iters=5, overwrite=True, seed=2)
    with pytest.raises(UserError, match=r"began from other weights than .* SHA-256 .* --overwrite=True"):
        train.main(words)
    assert train.main([*words, "--overwrite=True"]) == 0
    record = json.loads((tmp_path / "part" / "run.json").read_text())["init_from"]
    assert record["sha256"] == hashlib.sha256((source / "best.pt").read_bytes()).hexdigest()


def test_it_is_part_of_what_the_run_is(run, command):
    source = run(max_iters=5)
    folder = run("new", init_from=source, max_iters=5)
    assert identity(load(command("new", init_from=source))) != identity(load(command("new")))
    assert not same_weights(folder, run("fresh", max_iters=5))
    with pytest.raises(UserError, match=r"init_from \('.*' there, None here\)"):
        train.main(command("new", max_iters=5))


def test_a_checkpoint_that_has_gone_meanwhile_is_one_line():
    with pytest.raises(UserError, match="began from other weights than out/source has now"):
        check_same(None, {"run": "out/source", "sha256": "a"}, "out/run")


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"n_layer": 1}, "another shape than n_layer=1: use --n_layer=2"),
        ({"n_head": 1, "n_embd": 32}, "n_head=1, n_embd=32: use --n_head=2 --n_embd=16"),
        ({"bias": True}, "bias=True: use --bias=False"),
        ({"init_from": "nowhere"}, "init_from='nowhere' is no folder: name a run's folder, or one in the"),
        ({"init_from": "resume"}, "a run that was stopped goes on by its own command, without init_from"),
        (
            {"init_from": "out/pretrain_text8_small/seed1"},
            "train it first by config/pretrain_text8_small.py (README.md has the command for each size)",
        ),
        ({"init_from": ""}, "init_from is empty"),
        ({"init_from": "{source}/best.pt"}, "best.pt' is no folder"),
        ({"out_dir": "{source}", "overwrite": True}, "is the run's own folder"),
        ({"out_dir": "{source}/../run/", "overwrite": True}, "is the run's own folder"),
    ],
    ids=str,
)
def test_a_source_that_does_not_fit_is_one_line_before_any_work(run, command, tmp_path, knobs, words):
    source = run(max_iters=5)
    before = sorted(path.name for path in source.iterdir())
    knobs = {k: v.format(source=source) if isinstance(v, str) else v for k, v in knobs.items()}
    with pytest.raises(UserError) as error:
        train.main(command("new", **{"init_from": source, **knobs}))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()
    assert sorted(path.name for path in source.iterdir()) == before


@pytest.mark.parametrize("how", ["cut", "gone", "no model"])
def test_a_damaged_source_leaves_the_run_that_it_would_overwrite(run, command, tmp_path, how):
    source, there = run(max_iters=5), run("new", max_iters=5)
    if how == "cut":
        (source / "best.pt").write_bytes((source / "best.pt").read_bytes()[:700])
    elif how == "gone":
        (source / "best.pt").unlink()
    else:
        torch.save({"model": {}}, source / "best.pt")
    with pytest.raises(UserError, match=r"best\.pt"):
        train.main(command("new", init_from=source, overwrite=True))
    assert (there / "result.json").exists()


def test_the_runs_of_an_arm_may_start_each_from_their_own_seeds_run(run, tmp_path):
    for seed in (1, 2):
        source = run(f"source/seed{seed}", seed=seed, max_iters=5)
        run(f"study/tuned/seed{seed}", seed=seed, max_iters=5, init_from=source)
    ((arm,),) = [setting.arms for setting in read_settings([tmp_path / "study"])]
    assert (arm.name, len(arm.runs)) == ("tuned", 2)
    run("other/seed3", seed=3, max_iters=5)
    run("study/tuned/seed3", seed=3, max_iters=5, init_from=tmp_path / "other" / "seed3")
    with pytest.raises(UserError, match="differ in init_from"):
        read_settings([tmp_path / "study"])


def test_the_source_is_read_once(run, command, monkeypatch):
    """Its weights and its hash are of one file, also where a run in progress replaces it meanwhile."""
    source = run(max_iters=5)
    digest = hashlib.sha256((source / "best.pt").read_bytes()).hexdigest()
    load_file = torch.load

    def replaced_meanwhile(file, **options):
        with RunFolder(source) as folder:
            folder.save("best.pt", {"model": None})
        return load_file(file, **options)

    monkeypatch.setattr(torch, "load", replaced_meanwhile)
    config = load(command("new", init_from=source))
    found = read_source(config, Corpus(config.dataset).meta)
    assert found.about["sha256"] == digest
    assert found.model.config.n_layer == 2
