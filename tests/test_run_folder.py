"""Damage to a run folder: what is read is verified, what is not its own stays, a full disk is one line."""

import builtins
import errno
import io
import json
import os
import random

import pytest
import torch
from conftest import checkpoint, same_weights, weights
from made_up import fake_run, make_study

import plot
import train
from analysis import collect, records
from config import UserError
from data import files
from training.run_files import load_checkpoint, read_about, read_config, read_log, read_result

READERS = {"config.json": read_config, "run.json": read_about, "result.json": read_result}


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def outcome(work, *arguments):
    """(what the work gives, None), or (None, the error that a user would be shown)."""
    try:
        return work(*arguments), None
    except (UserError, OSError) as error:
        return None, error


def events(folder):
    return [(event["kind"], event["iter"], event.get("loss")) for event in read_log(folder)[0]]


def tree(folder):
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


# Checkpoints.


def test_no_flipped_bit_of_a_checkpoint_is_taken_for_a_weight(run):
    folder, dice = run(max_iters=5), random.Random(1)
    for name in ("last.pt", "best.pt"):
        before, whole = (folder / name).read_bytes(), weights(folder, name)
        for _ in range(60):
            flip(folder / name, dice.randrange(len(before)), dice.randrange(8))
            found, error = outcome(load_checkpoint, folder / name)
            if error:
                assert name in str(error)
            else:
                assert all(torch.equal(found["model"]["state"][key], whole[key]) for key in whole), "padding"
            (folder / name).write_bytes(before)


@pytest.mark.parametrize("harm", ["flips", "gone", "empty"])
def test_a_damaged_last_costs_one_interval_and_one_line(run, stop_at, tmp_path, capsys, harm):
    stop_at(8, "part", checkpoint_interval=3, eval_interval=2)
    last = tmp_path / "part" / "last.pt"
    if harm == "flips":
        for place in range(last.stat().st_size // 2, last.stat().st_size // 2 + 200):  # some are padding
            flip(last, place)
    elif harm == "empty":
        last.write_bytes(b"")
    else:
        last.unlink()
    capsys.readouterr()
    whole, part = (run(name, checkpoint_interval=3, eval_interval=2) for name in ("whole", "part"))
    assert "going on from the checkpoint of iteration 6" in capsys.readouterr().out
    assert "last.pt" in read_about(part)["resumed"][0]["lost"]["checkpoint"]
    assert not records.read([part]).runs.truncated.any(), "its log is whole"
    assert same_weights(part, whole)
    assert events(part) == events(whole)
    assert checkpoint(part, "best.pt")["iter"] == checkpoint(whole, "best.pt")["iter"]
    assert not (part / "previous.pt").exists(), "a run that has ended needs it no more"


def test_killed_again_before_it_comes_to_its_best_a_run_goes_on(run, stop_at, tmp_path):
    options = {"checkpoint_interval": 3, "eval_interval": 2}
    stop_at(8, "part", **options)
    (tmp_path / "part" / "last.pt").write_bytes(b"")
    torch.save(
        {**checkpoint(tmp_path / "part", "best.pt"), "iter": 8, "val_loss": 1.0}, tmp_path / "part" / "best.pt"
    )
    stop_at(7, "part", **options)
    assert checkpoint(run("part", **options), "best.pt")["iter"] == 8


def test_two_damaged_checkpoints_are_refused(command, stop_at, tmp_path):
    stop_at(8, checkpoint_interval=3)
    for name in ("last.pt", "previous.pt"):
        flip(tmp_path / "run" / name, 2000)
    with pytest.raises(UserError, match="damaged"):
        train.main(command(checkpoint_interval=3))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("last.pt", lambda state: torch.zeros(3)),
        ("last.pt", lambda state: [state]),
        ("last.pt", lambda state: state | {"step": 10**9}),
        ("last.pt", lambda state: state | {"seconds": None}),
        ("last.pt", lambda state: state | {"history": -1}),
        ("last.pt", lambda state: state | {"history": torch.zeros(1, 3)}),
        ("last.pt", lambda state: {key: state[key] for key in state if key != "history"}),
        ("best.pt", lambda state: {key: state[key] for key in state if key != "val_loss"}),
        *(("best.pt", lambda state, n=n: state | {"iter": n}) for n in ("7", -1)),
        ("best.pt", lambda state: state | {"val_loss": float("nan")}),
    ],
)
def test_a_checkpoint_of_another_shape_is_one_line(command, stop_at, tmp_path, name, change):
    stop_at(8)
    path = tmp_path / "run" / name
    torch.save(change(checkpoint(path.parent, name)), path)
    (tmp_path / "run" / "previous.pt").unlink()
    with pytest.raises(UserError, match=name):
        train.main(command())


# The log.


@pytest.mark.parametrize("harm", ["flip", "a line", "all", "a digit"])
def test_a_gap_in_the_log_is_said_and_recorded(run, stop_at, tmp_path, capsys, harm):
    stop_at(8, "part")
    log = tmp_path / "part" / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    if harm == "flip":
        flip(log, len(lines[0]) + 1, 7)
    elif harm == "a digit":
        log.write_bytes(log.read_bytes().replace(b'"loss": 2', b'"loss": 1', 1))
    else:
        log.write_bytes(b"".join(lines[:2] + lines[3:]) if harm == "a line" else b"")
    part = run("part")
    said = capsys.readouterr().out
    (about,) = read_about(part)["resumed"]
    assert about["lost"]["log"] in said
    assert f"{len(lines) if harm == 'all' else 1} of {len(lines)} lines" in about["lost"]["log"]
    assert same_weights(part, run("whole"))
    assert records.read([part]).runs.truncated.all()


def test_a_line_that_is_there_twice_is_taken_once(run, stop_at, tmp_path):
    stop_at(8, "part")
    log = tmp_path / "part" / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:4], lines[1], *lines[4:]]))
    assert events(run("part")) == events(run("whole"))


def test_a_whole_log_is_resumed_without_a_word(run, stop_at, tmp_path):
    stop_at(8, "part")
    with open(tmp_path / "part" / "log.jsonl", "a") as log:
        log.write('{"kind": "train", "iter": 8, "loss": 1.0}\n{"kind": "tr')  # what came after the checkpoint
    assert "lost" not in read_about(run("part"))["resumed"][0]
    assert events(tmp_path / "part") == events(run("whole"))


# What is not the run's.


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        {".notes.txt.123.tmp": "mine"},
        {"config.json": '{"model_type": "gpt2"}', "model.safetensors": "weights"},
        {"last.pt": "another program's"},
        {"run.json": "[]", "config.json": "{"},
    ],
    ids=lambda content: next(iter(content)),
)
def test_a_folder_that_holds_no_run_is_refused_untouched(command, tmp_path, content, overwrite):
    folder = tmp_path / "home"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    before = tree(tmp_path)
    with pytest.raises(UserError, match="and no run"):
        train.main(command("home", overwrite=overwrite))
    assert tree(tmp_path) == before


def test_what_is_left_of_a_run_that_was_to_be_overwritten_is_taken(run, tmp_path):
    (tmp_path / "run" / "figures").mkdir(parents=True)
    (tmp_path / "run" / "lock").touch()
    assert (run(max_iters=5) / "result.json").exists()


def test_only_the_runs_own_files_go(run, tmp_path):
    folder = run(max_iters=5)
    others = {"notes.txt": "mine", ".notes.txt.1.tmp": "mine", ".last.pt.old.tmp": "mine", "figures/a.png": ""}
    (folder / "figures").mkdir()
    for name, text in others.items():
        (folder / name).write_text(text)
    (folder / ".last.pt.77.tmp").write_text("half")
    run(max_iters=5, overwrite=True)
    assert {name: (folder / name).read_text() for name in others} == others
    assert not (folder / ".last.pt.77.tmp").exists()


def test_a_link_at_a_temporary_name_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / f".run.json.{os.getpid()}.tmp").symlink_to(tmp_path / "precious")
    files.write_json(tmp_path / "run.json", {})
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "run.json").is_symlink()


@pytest.mark.parametrize(
    "change",
    [
        *({"name": name} for name in ("../../out", "/tmp/x", "..", "")),
        *({"together": name} for name in ("../../out", "/tmp/x", "..")),
        *({"title": "\ud800"}, {"title": -1}, {"arms": "baseline"}, {"seeds": ["1"]}),
    ],
    ids=repr,
)
def test_a_study_json_does_not_lead_out_of_the_records_nor_break_them(tmp_path, change):
    study = make_study(tmp_path / "out" / "tiny", {"baseline": {}})
    there = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps({**there, **change}))
    with pytest.raises(UserError, match=r"study\.json"):
        collect.main([str(study), f"--to={tmp_path / 'results'}"])
    assert not (tmp_path / "results").exists()


# A disk that is full or broken.


def count_down(number, error=errno.ENOSPC):
    """A function that fails at its number-th call, as a full disk does, and at every one after it."""
    calls = iter(range(10**9))

    def here():
        if next(calls) >= number:
            raise OSError(error, os.strerror(error))

    return here


class FullDisk(io.FileIO):
    def __init__(self, *arguments, here, **options):
        super().__init__(*arguments, **options)
        self.here = here

    def write(self, data):
        self.here()
        return super().write(data)


def broken_disk(monkeypatch, operation, here):
    if operation == "write":
        real = builtins.open

        def full(path, mode="r", *rest, **options):
            if not set(mode) & set("xa"):
                return real(path, mode, *rest, **options)
            raw = io.BufferedWriter(FullDisk(path, mode.replace("b", ""), here=here), 64)
            return raw if "b" in mode else io.TextIOWrapper(raw, **options)

        monkeypatch.setattr(builtins, "open", full)
        return
    real = getattr(os, operation)

    def failing(*arguments):
        here()
        return real(*arguments)

    monkeypatch.setattr(files.os, operation, failing)


@pytest.mark.parametrize(
    ("operation", "error"), [("write", errno.ENOSPC), ("fsync", errno.EIO), ("replace", errno.EIO)]
)
def test_a_full_or_broken_disk_names_the_file_and_loses_nothing(
    run, command, tmp_path, monkeypatch, operation, error
):
    whole, options = run("whole", max_iters=6), {"max_iters": 6, "checkpoint_interval": 2}
    for number in (*range(10), 12, 17, 40, 90):
        name = f"{operation}{number}"
        with monkeypatch.context() as patch:
            broken_disk(patch, operation, count_down(number, error))
            _, failed = outcome(train.main, command(name, **options))
        if failed:
            assert failed.errno == error
            assert str(tmp_path) in str(failed.filename)
        else:
            assert number > 10, "it has never failed"
        folder = run(name, **options)
        assert same_weights(folder, whole)
        assert events(folder) == events(whole)
        assert not any("lost" in part for part in read_about(folder)["resumed"])


def test_a_name_is_on_the_disk_before_the_next_is_written(tmp_path, monkeypatch):
    """Else a power cut might keep the second of two files and lose the first."""
    done, fsync, replace = [], os.fsync, os.replace
    kind = {True: "folder", False: "file"}
    monkeypatch.setattr(
        files.os, "fsync", lambda n: (done.append(kind[os.path.isdir(f"/proc/self/fd/{n}")]), fsync(n))
    )
    monkeypatch.setattr(files.os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    files.write_json(tmp_path / "new" / "folder" / "a.json", {})
    assert done == ["folder", "folder", "file", "replace", "folder"]


# JSON of another shape.


STRANGE = ([], None, "x", {}, 1.5, 10**400)


def spoilt(value):
    """JSON values near a good one, each with one thing wrong somewhere in it."""
    yield from (other for other in STRANGE if type(other) is not type(value))
    for key in value if isinstance(value, dict) else ():
        yield {name: value[name] for name in value if name != key}
        yield from ({**value, key: other} for other in spoilt(value[key]))
    if isinstance(value, list) and value:
        yield from ([other, *value[1:]] for other in spoilt(value[0]))


@pytest.mark.parametrize("name", READERS)
def test_json_of_another_shape_is_refused_or_harmless_everywhere(run, name):
    """Refused in a line or as good as the file that it was: its reader and the records' row either raise a
    UserError or work."""
    folder = run(max_iters=5)
    good, path = files.read_json(folder / name), folder / name
    refused = 0
    for value in spoilt(good):
        path.write_text(json.dumps(value))
        _, error = outcome(READERS[name], folder)
        if error:
            refused += 1
            assert name in str(error)
            with pytest.raises(UserError):
                records.read([folder])
        else:
            records.read([folder]).runs.to_dict()
    assert refused > len(good) / 2


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "train", "iter": "x", "loss": 1}',
        '{"kind": "train", "iter": null, "loss": 1}',
        '{"kind": [], "iter": 3}',
        '{"kind": "eval", "iter": 3}',
        '{"kind": "train", "iter": 3, "loss": "low"}',
        '{"kind": "train", "iter": 3, "loss": 1, "grad_norm": []}',
        '{"kind": "train", "iter": 1%s, "loss": 1}' % ("0" * 400),
        "[]",
        "null",
        '{"kind": "tr',
    ],
)
def test_a_log_line_of_another_shape_is_left_out(tmp_path, line):
    """In the middle of a log, and that line alone."""
    folder = fake_run(tmp_path / "run")
    before, _ = read_log(folder)
    lines = (folder / "log.jsonl").read_text().splitlines()
    (folder / "log.jsonl").write_text("\n".join([*lines[:3], line, *lines[3:]]) + "\n")
    assert read_log(folder) == (before, True)


def test_a_flipped_bit_in_a_json_file_is_seen(run):
    folder, dice = run(max_iters=5), random.Random(2)
    for name, read in READERS.items():
        before, good = (folder / name).read_bytes(), read(folder)
        for _ in range(60):
            flip(folder / name, dice.randrange(len(before)), dice.randrange(8))
            found, error = outcome(read, folder)
            assert name in str(error) if error else found == good
            (folder / name).write_bytes(before)


def test_no_flipped_bit_takes_the_seal_off(tmp_path):
    files.write_json(path := tmp_path / "a.json", files.sealed({"a": 1}))
    whole = path.read_bytes()
    for place, bit in ((place, bit) for place in range(len(whole)) for bit in range(8)):
        flip(path, place, bit)
        found, error = outcome(files.read_json, path)
        assert error or found == {"a": 1}, (place, bit)
        path.write_bytes(whole)


def test_one_damaged_run_does_not_stop_a_study(tmp_path, capsys):
    study = make_study(
        tmp_path / "out" / "tiny", {"baseline": {}, "noise": {"noise_sigma": 0.1}}, planned=(1, 2, 3)
    )
    (study / "noise" / "seed2" / "result.json").write_text('{"status": "finished"}')
    (study / "noise" / "seed3" / "run.json").unlink()
    assert plot.main([str(study)]) == 0
    said = capsys.readouterr().err
    assert "noise/seed2/result.json" in said
    assert "noise/seed3 is no run folder: it lacks run.json" in said
    collect.main([str(study), f"--to={tmp_path / 'results'}"])
    found = records.read([tmp_path / "results"]).runs
    assert sorted(zip(found.arm, found.seed)) == [
        ("baseline", 1),
        ("baseline", 2),
        ("baseline", 3),
        ("noise", 1),
    ]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everybody may read, or root does")
@pytest.mark.parametrize("mode", [0o000, 0o400])
def test_a_folder_that_may_not_be_read_is_named(tmp_path, capsys, mode):
    study = make_study(tmp_path / "tiny", {"baseline": {}})
    (study / "baseline" / "seed2").chmod(mode)
    assert len(records.read([study]).runs) == 2
    assert "baseline/seed2" in capsys.readouterr().err
