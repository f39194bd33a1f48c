"""The log in TensorBoard and in Weights & Biases, as their packages read it: log.jsonl's points, each once."""

import collections
import contextlib
import importlib.machinery
import importlib.util
import re
import struct
import time

import pytest
from conftest import LIMIT, same_weights

import train
from config import UserError, identity, load
from training import mirrors
from training.run_files import read_log


def in_tensorboard(folder):
    """{(name, iter): values} as TensorBoard's event reader has them."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    points = collections.defaultdict(list)
    if not (folder / "tensorboard").is_dir():
        return points
    events = reader.EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=False).Reload()
    for name in events.Tags()["scalars"]:
        for point in events.Scalars(name):
            points[name, point.step].append(point.value)
    return points


def in_wandb(folder):
    """{(name, iter): values} of the folder's offline runs, by the package's own messages."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    half_written = pytest.importorskip("google.protobuf.message").DecodeError
    points = collections.defaultdict(list)
    for path in folder.glob("wandb/offline-run-*/run-*.wandb"):
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:  # its writer is a process of its own
            found = []
            with contextlib.suppress(half_written):
                found = [messages.Record.FromString(data) for data in records(path.read_bytes())]
            if any(record.HasField("exit") for record in found):
                break
        for record in found:
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_"):
                    points[name, record.history.step.num].append(float(item.value_json))
    return points


def records(data):
    """What a file of LevelDB's log format holds: blocks of 32,768 bytes, each piece after its CRC, length and
    kind (1 whole, 2 first, 3 middle, 4 last)."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


READERS = {"tensorboard": in_tensorboard, "wandb_log": in_wandb}


@pytest.fixture(params=READERS)
def option(request, monkeypatch):
    """An option whose package is here."""
    pytest.importorskip(mirrors.PACKAGES[request.param])
    monkeypatch.setenv("WANDB_MODE", "offline")
    return request.param


def assert_same(points, folder):
    """Assert that they are those of log.jsonl, each once."""
    events, damaged = read_log(folder)
    assert not damaged
    wanted = {(name, event["iter"]): v for event in events for name, v in mirrors.scalars(event).items()}
    assert {"train/loss", "train/sigma", "eval/val_loss"} <= {name for name, _ in wanted}
    assert points.keys() == wanted.keys()
    for at, values in points.items():
        assert values == [pytest.approx(wanted[at])], at


@pytest.mark.parametrize("place", ["absolute", "relative"])
def test_a_run_and_its_resume_are_one_curve_and_no_weight_changes(
    run, stop_at, option, place, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    bare, read = run("bare"), READERS[option]
    options = {option: True} | ({"out_dir": "run"} if place == "relative" else {})
    stop_at(7, "run", **options, checkpoint_interval=100)
    assert_same(read(tmp_path / "run"), tmp_path / "run")
    assert same_weights(run("run", **options), bare)
    assert_same(read(tmp_path / "run"), tmp_path / "run")


def test_a_mirror_that_fails_is_left_out_and_the_run_goes_on(run, option, monkeypatch, capsys):
    kind, fed = mirrors.KINDS[option], []

    def feed(self, event):
        fed.append(event)
        raise RuntimeError("its service is gone")

    monkeypatch.setattr(kind, "feed", feed)
    folder = run(**{option: True})
    assert len(fed) == 1
    assert capsys.readouterr().err.count("its service is gone") == 1
    assert len(read_log(folder)[0]) > 5


def test_a_mirror_that_fails_at_the_end_ends_no_run(run, option, monkeypatch, capsys):
    kind = mirrors.KINDS[option]
    close = kind.close
    monkeypatch.setattr(kind, "close", lambda self: close(self) or 1 / 0)
    assert (run(**{option: True}) / "result.json").exists()
    assert "was not closed: division by zero" in capsys.readouterr().err


@pytest.fixture
def kill(command, monkeypatch):
    """kill(name, key=value, ...) trains for nine steps, the last checkpoint after five."""

    def do(name="run", **options):
        step = train.train_step
        with monkeypatch.context() as patch:
            patch.setattr(train, "train_step", lambda run: 1 / 0 if run.step == 9 else step(run))
            with pytest.raises(ZeroDivisionError):
                train.main(command(name, **options))

    return do


@pytest.mark.parametrize("before", [True, False])
def test_points_after_the_last_checkpoint_and_those_of_before_the_option_are_there_once(
    run, kill, option, before, tmp_path
):
    kill(**{option: before})
    assert (("train/loss", 8) in READERS[option](tmp_path / "run")) == before
    assert_same(READERS[option](folder := run(**{option: True})), folder)


def test_a_run_begun_afresh_has_none_of_the_points_before(run, option):
    folder = run(**{option: True})
    run(**{option: True}, overwrite=True, log_interval=5)
    if option == "tensorboard":
        assert_same(in_tensorboard(folder), folder)
        run(overwrite=True)
        assert not list((folder / "tensorboard").iterdir())
    else:
        assert len(list(folder.glob("wandb/offline-run-*"))) == 2, "the other run's is kept"


def test_no_mirror_makes_another_run(command, run):
    asked = load(command(tensorboard=True, wandb_log=True))
    assert identity(asked) == identity(load(command()))


def test_what_is_no_number_is_left_out():
    event = {
        "kind": "train",
        "iter": 3,
        "loss": float("nan"),
        "clipped_norm": None,
        "lr": 0.5,
        "skipped_steps": 0,
    }
    assert mirrors.scalars(event) == {"train/lr": 0.5, "train/skipped_steps": 0}


@pytest.mark.parametrize("option", READERS)
@pytest.mark.parametrize("there", ["nothing", "a folder of that name"])
def test_a_missing_package_is_one_line_before_any_work(command, option, there, monkeypatch, tmp_path):
    folder = importlib.machinery.ModuleSpec("any", None, is_package=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None if there == "nothing" else folder)
    with pytest.raises(UserError, match=rf"^{option}[^\n]*requirements-logs\.txt[^\n]*$"):
        train.main(command(**{option: True}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["online", "ofline"])
def test_an_account_that_is_not_there_is_one_line_and_no_step(command, start_python, tmp_path, mode):
    pytest.importorskip("wandb")
    there = dict(WANDB_API_KEY="", WANDB_MODE=mode, HOME=tmp_path, NETRC=tmp_path / "netrc")
    process = start_python(["train.py", *command(wandb_log=True)], **there)
    said = process.communicate(timeout=LIMIT)[1]
    assert re.search(r"^error: wandb_log[^\n]*WANDB_MODE=offline[^\n]*$", said, re.MULTILINE), said
    assert process.returncode == 2
    assert not (tmp_path / "run" / "log.jsonl").read_text()
