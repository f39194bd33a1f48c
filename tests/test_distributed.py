"""Several processes for one run, as torchrun starts them: real ones, over gloo on this machine's loopback."""

import json
import os
import re
import signal
import socket
import time
from dataclasses import replace

import pytest
import torch
from conftest import LIMIT, checkpoint, same_weights, weights

import train
from config import UserError, load
from noise import stream_seed
from training import machine
from training.distributed import ManyProcesses, PeerLost, SingleProcess, find_torchrun, noticing_loss
from training.machine import Machine
from training.run_files import read_log

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def wait_for(folder, iteration):
    """Until the log of a run has come to an iteration."""
    log, begun = folder / "log.jsonl", time.monotonic()
    while not (log.exists() and f'"iter": {iteration},' in log.read_text()):
        assert time.monotonic() - begun < LIMIT
        time.sleep(0.002)


# The same run as in one process.


def test_two_processes_train_as_one_does(command, pair, run, tmp_path):
    """Accumulation and noise on, dropout off; to float32 rounding. Rank 0 alone writes and speaks."""
    statuses, printed, said = pair(["train.py", *command("two", dropout=0.0, diagnose_interval=3)]).end()
    assert statuses == [0, 0], said
    two, one = tmp_path / "two", run("one", dropout=0.0, diagnose_interval=3)
    for name, tensor in weights(one).items():
        assert (weights(two)[name] - tensor).norm() <= 1e-5 * tensor.norm(), name
    torch.testing.assert_close(checkpoint(two)["history"], checkpoint(one)["history"], rtol=1e-5, atol=0)
    assert not torch.equal(checkpoint(two)["history"], checkpoint(one)["history"]), "two processes were at work"
    kinds = [[(event["kind"], event["iter"]) for event in read_log(folder)[0]] for folder in (one, two)]
    assert kinds[0] == kinds[1]
    about = json.loads((two / "run.json").read_text())["machine"]
    assert about["processes"] == 2
    assert "2 processes" in printed[0]
    assert (printed[1], said[1]) == ("", "")


WATCHED = """
import os
import sys
import torch
import train
folder, rank = sys.argv.pop(1), os.environ["RANK"]
accumulate, seen = train.accumulate, {"noise": [], "seeds": [], "sigmas": []}

def spoilt(run):
    loss = accumulate(run)
    if run.step == 2 and rank == "1":
        run.model.wte.weight.grad[0, 0] = float("inf")
    return loss

def watched(run, folder, signals):
    train_step = train.train_step
    def step(run):
        train_step(run)
        seen["noise"] += [run.noise._row.clone()]  # what was added, not drawn again
        seen["sigmas"] += [run.noise.sigma(run.step - 1)]
    train.train_step = step
    train_(run, folder, signals)
    seen["weights"], seen["history"] = dict(run.model.state_dict()), run.history
    seen["updates"] = {float(state["step"]) for state in run.optimizer.state.values()}

def seeded(seed, seed_=torch.manual_seed):
    seen["seeds"].append(seed)
    return seed_(seed)

train.accumulate, train_, train.train, torch.manual_seed = spoilt, train.train, watched, seeded
status = train.main(sys.argv[1:])
torch.save(seen, f"{folder}/rank{rank}.pt")
os._exit(status)
"""


def test_ranks_share_start_noise_and_weights_but_no_dropout_and_skip_the_same_steps(
    command, pair, run, tmp_path
):
    """float16, and an infinite gradient on rank 1 alone at step 2, so that the plateau rule's loss stays. From
    the weights of another run, perturbed."""
    start = {"init_from": run("source", max_iters=5), "noisytune_lambda": 0.15}
    rule = {"noise_schedule": "plateau", "noise_gamma": 0.5, "plateau_interval": 1}
    words = ["-c", WATCHED, str(tmp_path), *command(dtype="float16", max_iters=6, **start, **rule)]
    statuses, _, said = pair(words).end()
    assert statuses == [0, 0], said
    one, other = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2))
    assert len(one["noise"]) == 6
    assert all(torch.equal(a, b) for a, b in zip(one["noise"], other["noise"], strict=True))
    assert all(torch.equal(one["weights"][name], other["weights"][name]) for name in one["weights"])
    assert torch.equal(one["history"], other["history"])
    assert one["updates"] == other["updates"] == {5.0}
    assert one["history"].isfinite().all(dim=1).tolist() == [True, True, False, True, True, True]
    assert one["sigmas"] == other["sigmas"]
    assert not set(one["seeds"]) & set(other["seeds"])
    assert {stream_seed(1, "dropout", step, micro) for step in range(6) for micro in range(2)} == set(
        one["seeds"]
    )


# Mistakes, stops and losses.


def test_a_batch_that_cannot_be_divided_is_one_line(command, start_python, tmp_path):
    process = start_python([*TORCHRUN, "train.py", *command(batch_size=5)])
    said = process.communicate(timeout=LIMIT)[1]
    assert process.returncode != 0
    assert said.count("error: batch_size=5 cannot be divided among 2 processes") == 1
    assert said.count("error: ") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_that_rank_0_is_refused_stops_all_with_one_line(command, pair, run):
    run(max_iters=5)
    statuses, printed, said = pair(["train.py", *command(max_iters=6)]).end()
    assert statuses[0] == 2
    assert statuses[1] not in (0, None)
    assert said[0].startswith("error: ")
    assert "holds a run of another config" in said[0]
    assert (said[0].count("\n"), said[1], *printed) == (1, "", "", "")


DIVERGES_ON_RANK_0 = """
import math
import os
import sys
import train
from training import lifecycle
mean_loss, calls = lifecycle.mean_loss, []

def spoilt(*arguments):
    calls.append(1)
    return math.nan if len(calls) == 4 else mean_loss(*arguments)

if os.environ["RANK"] == "0":
    lifecycle.mean_loss = spoilt
train.run_script_at_once(train.main)
"""


def test_an_evaluation_that_diverges_on_rank_0_ends_the_run_on_all(command, pair, tmp_path):
    statuses, _, said = pair(["-c", DIVERGES_ON_RANK_0, *command()]).end()
    assert statuses == [3, 3], said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["diverged_at"]) == ("diverged", 3)
    assert (said[0].count("error: "), said[1]) == (1, "")


def test_a_run_whose_torchrun_is_killed_stops_at_a_checkpoint(run, command, monkeypatch, tmp_path, capfd):
    """As SIGTERM would stop it, and it ends with the same bits."""
    train_step, parents = train.train_step, [os.getppid()]
    monkeypatch.setattr(os, "getppid", lambda: parents[-1])

    def orphaned(a_run):
        train_step(a_run)
        if a_run.step == 7:
            parents.append(1)

    whole = run("whole")
    with monkeypatch.context() as patch:
        patch.setenv("TORCHELASTIC_RUN_ID", "a run of torchrun's")
        patch.setattr(train, "train_step", orphaned)
        assert train.main(command("part")) == 128 + signal.SIGTERM
    assert checkpoint(tmp_path / "part")["step"] == 7
    assert capfd.readouterr().err.count("has ended") == 1
    assert same_weights(run("part"), whole)
    assert [ManyProcesses(rank, 2, parent=5).parent for rank in (0, 1)] == [5, None], "it is said once"


def test_a_torchrun_that_has_ended_is_not_waited_for(monkeypatch):
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(unheard.getsockname()[1]))
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        with pytest.raises(PeerLost, match="torchrun"):
            find_torchrun()


@pytest.mark.slow
def test_stopped_and_killed_ranks_resume_to_the_same_bits(command, pair, start_python, tmp_path):
    """One rank asked to stop; torchrun asked to, and killed; each rank killed; then to the end, by torchrun."""
    options = {"max_iters": 600, "eval_interval": 30, "checkpoint_interval": 10, "learning_rate": 3e-3}
    whole = pair(["train.py", *command("whole", **options)])
    words, folder = ["train.py", *command("part", **options)], tmp_path / "part"

    ranks = pair(words)
    wait_for(folder, 30)
    ranks.processes[1].send_signal(signal.SIGTERM)
    statuses, printed, said = ranks.end()
    assert statuses == [128 + signal.SIGTERM] * 2, said
    stopped_after = checkpoint(folder)["step"]
    assert f"stopped after {stopped_after} iterations" in printed[0]

    agent = start_python([*TORCHRUN, *words])
    wait_for(folder, stopped_after + 30)
    agent.terminate()
    printed, said = agent.communicate(timeout=LIMIT)
    assert printed.count(f"stopped after {checkpoint(folder)['step']} iterations") == 1, said
    assert said.count("stopping after this step") == 1
    assert checkpoint(folder)["step"] >= stopped_after + 30

    agent, from_step = start_python([*TORCHRUN, *words]), checkpoint(folder)["step"]
    wait_for(folder, from_step + 15)
    agent.kill()
    printed, said = agent.communicate(timeout=LIMIT)  # its ranks write there too
    assert said.count("has ended: stopping after this step") == 1
    assert printed.count(f"stopped after {checkpoint(folder)['step']} iterations") == 1
    assert checkpoint(folder)["step"] >= from_step + 15

    for victim in (1, 0):
        ranks, from_step = pair(words), checkpoint(folder)["step"]
        wait_for(folder, from_step + 25)
        ranks.processes[victim].kill()
        statuses, _, said = ranks.end()
        assert (statuses[victim], statuses[1 - victim]) == (-signal.SIGKILL, 1), said
        assert said[0].count("another process of this run has ended") == victim
        assert "Traceback" not in said[0] + said[1]
        assert from_step < checkpoint(folder)["step"] < 600

    assert whole.end()[0] == [0, 0]
    agent = start_python([*TORCHRUN, *words])
    agent.communicate(timeout=LIMIT)
    assert agent.returncode == 0
    assert same_weights(folder, tmp_path / "whole")
    resumed = json.loads((folder / "run.json").read_text())["resumed"]
    assert [entry["machine"]["processes"] for entry in resumed] == [2] * 5


STOPPED_ON_RANK_1 = """
import os
import signal
import train
train_step = train.train_step

def stopping(run):
    train_step(run)
    if run.step == 7 and run.ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)

train.train_step = stopping
train.run_script_at_once(train.main)
"""


def test_a_stopped_rank_stops_all_and_the_run_resumes_to_the_same_bits(command, pair, tmp_path):
    whole, ranks = pair(["train.py", *command("whole")]), pair(["-c", STOPPED_ON_RANK_1, *command("part")])
    statuses, _, said = ranks.end()
    assert statuses == [128 + signal.SIGTERM] * 2, said
    assert checkpoint(tmp_path / "part")["step"] == 7
    assert pair(["train.py", *command("part")]).end()[0] == whole.end()[0] == [0, 0]
    assert same_weights(tmp_path / "part", tmp_path / "whole")


# One process, and what each rank is given.


def test_one_process_sets_nothing_up_and_draws_as_before(run, monkeypatch):
    def never(*_, **__):
        raise AssertionError("one process has nobody to talk to")

    monkeypatch.setattr(torch.distributed, "init_process_group", never)
    monkeypatch.setenv("WORLD_SIZE", "1")
    seeds, seed = [], torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda number: seeds.append(number) or seed(number))
    run(max_iters=2, warmup_iters=0)
    warmed_up = [stream_seed(1, "dropout", 0, micro) for micro in (0, 1)] * 2
    assert seeds == warmed_up + [stream_seed(1, "dropout", step, micro) for step in (0, 1) for micro in (0, 1)]


def test_ranks_have_the_batch_between_them():
    shares = [ManyProcesses(rank, 3).shard(12) for rank in range(3)]
    assert [list(range(12))[share] for share in shares] == [list(range(i, i + 4)) for i in (0, 4, 8)]
    assert list(range(12))[SingleProcess().shard(12)] == list(range(12))


@pytest.mark.parametrize(
    ("began", "named"),
    [
        ({}, []),
        ({"name": "Another CPU"}, []),  # the same draws
        ({"processes": 1}, ["processes"]),
        ({"device": "cuda:0", "name": "A card"}, ["device", "A card"]),
        ({"compile": True}, ["compile"]),
        ({"threads": 7}, ["threads 7"]),
        ({"dtype": "bfloat16", "through_float32": False}, ["dtype bfloat16", "through_float32"]),
    ],
)
def test_a_resume_says_what_is_another_now_and_restores_precision_and_threads(
    command, capsys, monkeypatch, began, named
):
    monkeypatch.setattr(machine, "has_instructions", lambda dtype: dtype == torch.float32)
    here = Machine.choose(load(command()), 1, 2)
    resumed = here.as_recorded(here.record() | began)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(named) - ("A card" in named)
    assert all(any(word in line for line in lines) for word in named)
    assert resumed == replace(here, **{k: v for k, v in began.items() if k in ("dtype", "threads")})


def test_a_record_older_than_a_field_is_read(command, capsys):
    here = Machine.choose(load(command()))
    old = {k: v for k, v in here.record().items() if k not in ("processes", "compile", "through_float32")}
    assert here.as_recorded(old) == here
    assert capsys.readouterr().out == ""


def test_processes_share_the_cores_and_have_a_card_each(command, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    assert [Machine.choose(load(command(threads=0)), 0, size).threads for size in (2, 7, 9)] == [3, 1, 1]
    assert Machine.choose(load(command(threads=5)), 0, 2).threads == 5
    monkeypatch.setattr(machine, "check_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = Machine.choose(load(command(device="cuda")), 1, 2)
    assert (cuda.device, cuda.processes) == ("cuda:1", 2)
    assert Machine.choose(load(command(device="cuda"))).device == "cuda:0"
    for device, processes, words in (
        ("cuda", 3, "3 processes need a CUDA card each"),
        ("cuda:1", 2, "is for one process"),
        ("mps", 2, "is for one process"),
    ):
        with pytest.raises(UserError, match=words):
            Machine.choose(load(command(device=device)), 0, processes)


CARDS = """
import os
import sys
import train
from training.machine import Machine
if sys.argv.pop(1) == os.environ["RANK"]:
    Machine.name = "RTX 3090"
train.run_script_at_once(train.main)
"""


@pytest.mark.parametrize("other", ["0", "1"])
def test_cards_that_differ_are_declined_once_before_the_folder_is_touched(other, pair, command, tmp_path):
    """Each would draw other noise, or take another precision."""
    statuses, _, said = pair(["-c", CARDS, other, *command("two")]).end()
    assert sorted(statuses) == [1, 2], said
    assert re.fullmatch(
        r"error: the processes' cards are not all .*: choose cards of one model by .*\n", "".join(said)
    )
    assert not (tmp_path / "two").exists()


def test_a_lost_process_is_told_with_the_whole_cause_and_is_no_lack_of_memory():
    with pytest.raises(PeerLost, match=r"^NCCL error Last error: No space left on device$"), noticing_loss():
        raise RuntimeError(
            "NCCL error\nLast error:\nNo space left on device\nException raised from a.cpp\nframe #0"
        )
    with pytest.raises(torch.OutOfMemoryError), noticing_loss():
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_several_machines_are_declined(monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="on one machine"):
        train.main(command())
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="start them with torchrun"):
        train.main(command())
    monkeypatch.setenv("WORLD_SIZE", "")
    assert train.main(command(max_iters=2, warmup_iters=0)) == 0
