"""Training: the step's order, mixed precision, resuming, stopping, diverging, and what it says."""

import inspect
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import weakref

import pytest
import torch
from conftest import TEXT, checkpoint, same_weights, weights, write_corpus
from torch import nn

import noise
import train
from config import ROOT, WITHOUT_STEPS, UserError, load
from data.corpus import Corpus
from data.files import read_json, write_json
from model import GPT
from noise import stream_seed
from training import evaluate, lifecycle, machine, sharpness
from training.evaluate import mean_loss
from training.machine import Machine
from training.run import Run
from training.run_files import read_log
from training.run_folder import RunFolder


def gradients_at_update(a_run):
    """What the optimizer is given in the next `train_step`, and the step taken."""
    seen = []
    a_run.optimizer.register_step_pre_hook(
        lambda *_: seen.append({name: p.grad.clone() for name, p in a_run.model.named_parameters()})
    )
    train.train_step(a_run)
    return seen[0] if seen else None


def unit_noise(a_run, step):
    names = [name for name, _ in a_run.model.named_parameters()]
    return {name: xi.clone() for name, xi in zip(names, a_run.noise.unit(step))}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("grad_clip", [0.0, 0.5])
def test_the_noise_reaches_the_update_whole_and_once(new_run, dtype, grad_clip):
    """Bugs elsewhere: divided by the loss scale when clipping is off; once per micro-batch; clipped away."""
    options = {"dtype": dtype, "grad_clip": grad_clip, "gradient_accumulation_steps": 3, "noise_sigma": 0.25}
    clean = gradients_at_update(new_run(**{**options, "noise_sigma": 0.0}))
    noisy_run = new_run(**options)
    noisy, xi = gradients_at_update(noisy_run), unit_noise(noisy_run, 0)
    for name in clean:
        torch.testing.assert_close(noisy[name] - clean[name], 0.25 * xi[name], rtol=1e-4, atol=1e-6)
    total = math.sqrt(sum(g.double().square().sum() for g in clean.values()))
    assert total == pytest.approx(min(noisy_run.history[0, 1].item(), grad_clip or math.inf), rel=1e-4)


def test_accumulation_is_the_mean_over_micro_steps(new_run):
    a_run = new_run(gradient_accumulation_steps=3, dropout=0.0, noise_sigma=0.0, grad_clip=0.0)
    model = GPT.from_weights(a_run.model.weights())
    losses = []
    for micro_step in range(3):
        seed = stream_seed(a_run.config.data_seed, "data", 0, micro_step)
        loss = model(*a_run.corpus.batch(seed, 4, 16))[1]
        (loss / 3).backward()
        losses.append(loss.item())
    given = gradients_at_update(a_run)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(given[name], parameter.grad)
    assert a_run.history[0, 0].item() == pytest.approx(sum(losses) / 3, rel=1e-6)


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_a_step_with_infinite_gradients_is_skipped_counted_and_logged(run, monkeypatch, grad_clip):
    """A loss scale far beyond float16 makes the first gradients infinite, until the scaler has halved it."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**36)
    monkeypatch.setattr(Machine, "scaler", lambda self: scaler)
    folder = run(dtype="float16", max_iters=40, grad_clip=grad_clip, noise_sigma=1e-3)
    skipped = json.loads((folder / "result.json").read_text())["skipped_steps"]
    assert 5 < skipped < 35
    events = [event for event in read_log(folder)[0] if event["kind"] == "train"]
    infinite = [event["grad_norm"] is None for event in events]
    assert all(infinite[:5])
    assert [event["skipped_steps"] for event in events] == list(itertools.accumulate(infinite))
    steps = {float(state["step"]) for state in checkpoint(folder)["optimizer"]["state"].values()}
    assert steps == {40 - skipped}
    for event in events:  # a skipped step is still step t of the schedule
        assert event["sigma"] == pytest.approx(1e-3 * 0.9 ** event["iter"])
    before = [event["val_loss"] for event in read_log(folder)[0] if event["kind"] == "eval"][:2]
    assert before[0] == before[1], "nothing moved while every step was skipped"


def test_a_loss_scale_of_0_ends_the_run_which_would_skip_every_step(run, monkeypatch):
    monkeypatch.setattr(Machine, "scaler", lambda self: torch.amp.GradScaler("cpu", init_scale=1e-45))
    result = read_json(run(status=3, dtype="float16") / "result.json")
    assert result["status"] == "diverged"
    assert result["diverged_at"] < 3, "rounding may keep the least scale for a step"


def test_learning_rate_warms_up_from_above_zero_and_ends_at_min_lr():
    config = load(["--learning_rate=1", "--min_lr=0.2", "--warmup_iters=4", "--max_iters=24"])
    rates = [train.learning_rate(step, config) for step in range(30)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[14] == pytest.approx(0.6)
    assert sorted(rates[4:25], reverse=True) == rates[4:25]
    assert rates[24:] == [0.2] * 6


def test_schedules_that_do_not_follow_the_length_of_a_run_are_those_without_steps():
    """So that a schedule of one's own, which is not among them, is not lengthened unasked."""
    takes = {name: "steps" in inspect.signature(each).parameters for name, each in noise.SCHEDULES.items()}
    assert {*WITHOUT_STEPS} == {name for name, steps in takes.items() if not steps}


def test_the_log_and_the_result_tell_what_was_promised(run):
    folder = run(log_interval=3)
    events, truncated = read_log(folder)
    assert not truncated
    steps = [event for event in events if event["kind"] == "train"]
    evals = [event for event in events if event["kind"] == "eval"]
    assert [event["iter"] for event in steps] == [0, 3, 6, 9, 11]
    result = read_json(folder / "result.json")
    assert (result["iterations"], result["tokens"]) == (12, 12 * 2 * 4 * 16)
    assert [event["iter"] for event in evals] == [0, 4, 8, 12]
    names = "iter tokens loss lr sigma grad_norm clipped_norm noise_norm skipped_steps tokens_per_second"
    assert set(names.split()) <= set(steps[0])
    history = checkpoint(folder)["history"]
    assert steps[2]["loss"] == pytest.approx(history[4:7, 0].mean().item())
    assert steps[2]["noise_norm"] == history[6, 2].item()
    assert history[:, 2].isfinite().nonzero().flatten().tolist() == [0, 3, 6, 9, 11], "a norm costs a pass"
    assert steps[2]["sigma"] == pytest.approx(0.01 * 0.9**6)
    result = json.loads((folder / "result.json").read_text())
    assert result["best_val_loss"] == min(event["val_loss"] for event in evals)
    assert result["minibatch_loss_last100"] == pytest.approx(history[:, 0].mean().item())
    assert result["final_val_loss"] == pytest.approx(evals[-1]["val_loss"])
    assert result["final_train_loss"] == evals[-1]["train_loss"]
    assert result["best_val_bpc"] == pytest.approx(result["best_val_loss"] / math.log(2))
    assert {"seconds", "peak_memory_bytes", "device", "skipped_steps", "best_iter"} <= set(result)
    best = checkpoint(folder, "best.pt")
    assert (best["iter"], best["val_loss"]) == (result["best_iter"], result["best_val_loss"])


def test_the_final_evaluation_covers_the_whole_split_and_the_best_weights(run, corpus):
    folder = run(eval_tokens=128, learning_rate=2.0, grad_clip=0.0, noise_sigma=0.0, eval_interval=1)
    result = json.loads((folder / "result.json").read_text())
    data = Corpus(str(corpus))
    for name, key in (("last.pt", "final_val_loss"), ("best.pt", "best_weights_val_loss")):
        model = GPT.from_weights(checkpoint(folder, name)["model"])
        assert result[key] == pytest.approx(mean_loss(model, data.windows("val", 16)), rel=1e-6)
    assert result["best_iter"] < 12
    assert result["best_val_loss"] != pytest.approx(result["best_weights_val_loss"], rel=1e-6)


def test_a_signal_writes_a_checkpoint_and_the_run_resumes(run, stop_at, tmp_path, capfd):
    handler = signal.getsignal(signal.SIGINT)
    whole = run("whole")
    stop_at(7, "stopped", signal.SIGINT)
    assert "stopped after 7 iterations" in capfd.readouterr().out
    assert checkpoint(tmp_path / "stopped")["step"] == 7
    assert same_weights(run("stopped"), whole)
    assert signal.getsignal(signal.SIGINT) == handler


def test_a_run_that_is_stopped_before_its_first_step_gives_way(run, command, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "warm_up", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(command()) == 128 + signal.SIGTERM
    assert (run(learning_rate=0.02) / "result.json").exists()


def test_a_signal_during_the_last_evaluation_stops_before_the_whole_splits(run, command, monkeypatch, tmp_path):
    evaluate = lifecycle.evaluate

    def interrupted(a_run, folder):
        if a_run.step == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(a_run, folder)

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "evaluate", interrupted)
        assert train.main(command()) == 128 + signal.SIGTERM
    assert not (tmp_path / "run" / "result.json").exists()
    assert checkpoint(tmp_path / "run")["step"] == 12
    assert same_weights(run(), run("whole"))


def test_no_best_is_of_a_later_step_than_the_checkpoint(run, command, monkeypatch, tmp_path):
    """Where sums do not repeat, what comes after a resume may be worse than what came before it."""
    step = train.train_step

    def killed(a_run):
        if a_run.step == 10:
            raise KeyboardInterrupt
        step(a_run)

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train.main(command(checkpoint_interval=6))
    folder = tmp_path / "run"
    assert (checkpoint(folder)["step"], checkpoint(folder, "best.pt")["iter"]) == (8, 8)
    assert same_weights(run(checkpoint_interval=6), run("whole", checkpoint_interval=6))


def test_too_little_memory_to_resume_is_no_damaged_checkpoint(run, command, monkeypatch):
    run(max_iters=5)
    (result,) = run(max_iters=5).glob("result.json")
    result.unlink()

    def exhausted(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    for place, name in ((Run, "restore"), (torch, "load")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, exhausted)
            with pytest.raises(UserError, match="too little memory"):
                train.main(command(max_iters=5))


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_a_run_that_diverges_says_where_and_keeps_the_last_good_checkpoint(run, capsys, monkeypatch, spoilt):
    accumulate = train.accumulate

    def spoil(a_run):
        loss = accumulate(a_run)
        if a_run.step >= 7:
            if spoilt == "gradient":
                a_run.model.wte.weight.grad[0, 0] = math.inf
            else:
                loss = loss * math.nan
        return loss

    monkeypatch.setattr(train, "accumulate", spoil)
    folder = run(status=3, log_interval=100, eval_interval=100, checkpoint_interval=5)
    captured = capsys.readouterr()
    assert "iteration 7" in captured.err
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["diverged_at"]) == ("diverged", 7)
    state = checkpoint(folder)
    assert state["step"] == 5
    assert all(tensor.isfinite().all() for tensor in state["model"]["state"].values())
    run(status=3, log_interval=100)
    assert "diverged already" in capsys.readouterr().out


def compile_with(monkeypatch, backend):
    """Compile by another backend than inductor, which needs a compiler and minutes."""
    monkeypatch.setattr(
        GPT, "compile", lambda model, mode, **how: nn.Module.compile(model, backend=backend, **how)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bfloat16 through float32"])
def test_a_compiled_model_trains_as_an_eager_one(dtype, run, monkeypatch):
    """The model is one graph, whichever way its products go."""
    ran = []
    if dtype.startswith("bfloat16"):
        monkeypatch.setattr("training.operators.has_instructions", lambda _: dtype == "bfloat16")

    def backend(graph, _):
        return lambda *inputs: ran.append(1) or graph(*inputs)

    compile_with(monkeypatch, backend)
    options = {"dtype": dtype.split()[0], "dropout": 0.0}
    compiled = run("compiled", compile="on", **options)
    assert len(ran) == 2 * (12 + 2), "micro-steps, iterations and the warm-up; no evaluation"
    plain = run("plain", **options)
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], tensor, rtol=1e-3, atol=1e-4)
    ran.clear()
    run("with dropout", compile="on", **options | {"dropout": 0.2})
    assert len(ran) == 2 * (12 + 2), "one graph too"


@pytest.mark.parametrize(("how", "what"), [("on", ["compilation"]), ("graphs", ["CUDA graphs", "compilation"])])
def test_compilation_that_fails_falls_back_with_one_line(how, what, run, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler\nand a long explanation")

    compile_with(monkeypatch, broken)
    options = {"gradient_accumulation_steps": 1}
    folder = run("compiled", compile=how, **options)
    said = [line for line in capsys.readouterr().out.splitlines() if " failed, going on without" in line]
    assert [line.split(" failed")[0] for line in said] == what
    assert all("no compiler" in line for line in said)
    assert same_weights(folder, run("plain", **options))
    assert read_json(folder / "result.json")["compiled"] is False, "whatever was asked for"
    assert read_json(folder / "run.json")["machine"]["compile"] is False
    run("compiled", compile=how, max_iters=14, lr_decay_iters=12, **options)
    assert " failed" not in (said := capsys.readouterr().out), "it is not tried again"
    assert "compile False, as this run began, not True" in said


def test_a_mistake_of_ours_is_not_taken_for_a_failed_compilation(command, monkeypatch):
    monkeypatch.setattr(train, "accumulate", lambda a_run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.main(command())


def test_a_checkpoint_holds_no_history_that_is_to_come(new_run):
    a_run = new_run(max_iters=1000)
    a_run.step = 5
    assert a_run.state()["history"].untyped_storage().nbytes() == 5 * 3 * 4


def test_a_run_that_is_done_is_left_alone_and_overwrite_begins_afresh(run, capsys):
    folder = run()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix != ".py"}
    capsys.readouterr()
    run()
    assert "finished already; --overwrite=True" in capsys.readouterr().out
    for name, time in before.items():
        assert (folder / name).stat().st_mtime_ns == time, name
    run(overwrite=True, seed=2)
    assert json.loads((folder / "config.json").read_text())["seed"] == 2
    assert [event["iter"] for event in read_log(folder)[0] if event["kind"] == "eval"] == [0, 4, 8, 12]


def test_another_config_is_refused_with_what_differs(run, command):
    run(max_iters=5)
    with pytest.raises(UserError) as error:
        train.main(command(max_iters=5, learning_rate=0.5, n_layer=1, eval_interval=9))
    for words in ("learning_rate (0.01 there, 0.5 here)", "n_layer (2 there, 1 here)", "--overwrite=True"):
        assert words in str(error.value)
    assert "eval_interval" not in str(error.value)


LONGER = {  # options with which a run of 20 iterations begins as one of 12
    "exponential": {},
    "linear": {"noise_schedule": "linear", "noise_steps": 30},
    "plateau": {"noise_schedule": "plateau", "plateau_interval": 4},
    "moments": {"noise_target": "second_moment", "eval_interval": 4},
}


@pytest.mark.parametrize(("name", "killed"), [*((name, False) for name in LONGER), ("exponential", True)])
def test_a_finished_run_that_is_trained_further_is_the_longer_run(run, command, monkeypatch, name, killed):
    options = {"lr_decay_iters": 12, **LONGER[name]}
    whole, part = run("whole", max_iters=20, **options), run("part", max_iters=12, **options)
    (part / "sharpness.json").write_text("{}")
    if killed:  # just before the folder has its new length
        write = RunFolder.write
        cut = lambda at, name, value: 1 / 0 if name == "config.json" else write(at, name, value)  # noqa: E731
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "write", cut)
            with pytest.raises(ZeroDivisionError):
                train.main(command("part", max_iters=20, **options))
        run("part", max_iters=12, **options)
    run("part", max_iters=20, **options)
    assert same_weights(whole, part)
    ends = [read_json(one / "result.json")["final_val_loss"] for one in (whole, part)]
    assert ends[0] == ends[1]
    assert (part / "best.pt").read_bytes() == (whole / "best.pt").read_bytes()
    evals = [[e["val_loss"] for e in read_log(one)[0] if e["kind"] == "eval"] for one in (whole, part)]
    assert evals[0] == evals[1]
    assert read_json(part / "run.json")["lengthened"] == [{"from": 12, "to": 20}]
    assert not (part / "sharpness.json").exists()


def test_a_best_that_the_longer_run_would_not_have_is_refused(run, command):
    folder = run("part", max_iters=12, lr_decay_iters=12, eval_interval=8)
    assert read_json(folder / "result.json")["best_iter"] == 12
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    longer = {"max_iters": 20, "lr_decay_iters": 12}
    with pytest.raises(UserError, match="is not evaluated: add --eval_interval=4"):
        train.main(command("part", **longer, eval_interval=8))
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    run("part", **longer, eval_interval=4)
    result, log = read_json(folder / "result.json"), read_log(folder)[0]
    evals = {event["iter"]: event["val_loss"] for event in log if event["kind"] == "eval"}
    assert evals[result["best_iter"]] == result["best_val_loss"] == min(evals.values())


def test_a_finished_run_without_its_checkpoint_stays_finished(run, command):
    folder = run("part", max_iters=12, lr_decay_iters=12)
    (folder / "last.pt").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(UserError, match="has no checkpoint to go on from"):
        train.main(command("part", max_iters=20, lr_decay_iters=12))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_run_from_before_the_exact_gelu_is_told_how_to_go_on(run, command):
    folder = run("old", activation="gelu_tanh")
    options = read_json(folder / "config.json")
    del options["activation"]
    write_json(folder / "config.json", options)
    with pytest.raises(UserError, match=r"add --activation=gelu_tanh$"):
        train.main(command("old"))
    assert train.main(command("old", activation="gelu_tanh")) == 0


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"max_iters": 20}, ["add --lr_decay_iters=12,", "--init_from="]),
        ({"max_iters": 20, "noise_schedule": "linear"}, ["add --lr_decay_iters=12 --noise_steps=12,"]),
        ({"max_iters": 8, "lr_decay_iters": 12}, ["choose another --out_dir"]),
        ({"max_iters": 20, "lr_decay_iters": 12, "seed": 2}, ["choose another --out_dir"]),
    ],
)
def test_a_longer_run_of_other_schedules_is_refused_with_what_to_do(run, command, options, advice):
    folder = run(max_iters=12, noise_schedule=options.get("noise_schedule", "exponential"))
    before = read_json(folder / "result.json")
    with pytest.raises(UserError, match="holds a run of another config") as error:
        train.main(command(**options))
    assert all(words in str(error.value) for words in advice)
    assert read_json(folder / "result.json") == before


@pytest.mark.parametrize("where", ["accumulate", "clip"])
def test_a_run_that_had_too_little_memory_to_begin_gives_way_to_a_smaller_one(where, run, command, monkeypatch):
    """Before the first evaluation, or after it; a run with a step is refused."""

    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(train, where, full)
        with pytest.raises(UserError, match="halve batch_size"):
            train.main(command())
    smaller = {"batch_size": 2, "gradient_accumulation_steps": 4}
    folder = run(**smaller)
    assert same_weights(folder, run("fresh", **smaller))
    for name in ("best.pt", "log.jsonl"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="holds a run of another config"):
        train.main(command())


@pytest.mark.parametrize("lost", ["config.json", "run.json"])
def test_weights_without_their_config_are_not_overwritten_unasked(run, command, lost):
    folder = run(max_iters=5)
    (folder / lost).unlink()
    with pytest.raises(UserError, match=r"last.pt, best.pt, result.json without both .* --overwrite=True"):
        train.main(command())
    assert same_weights(run(overwrite=True), run("fresh"))
    assert [event["iter"] for event in read_log(folder)[0] if event["kind"] == "eval"] == [0, 4, 8, 12]


def test_a_lost_best_is_not_replaced_by_a_worse_one(command, stop_at, tmp_path):
    stop_at(6)
    (tmp_path / "run" / "best.pt").unlink()
    with pytest.raises(UserError, match=r"lost its best\.pt"):
        train.main(command())


@pytest.mark.parametrize("lost", [True, False])
def test_a_best_that_is_lost_or_anothers_while_it_trains_is_one_line(run, command, monkeypatch, tmp_path, lost):
    best, best_model = tmp_path / "run" / "best.pt", lifecycle.best_model

    def lose(*of):
        best.unlink() if lost else torch.save(torch.load(best) | {"val_loss": 0.0}, best)
        return best_model(*of)

    monkeypatch.setattr(lifecycle, "best_model", lose)
    with pytest.raises(UserError, match="lost its best.pt" if lost else "best.pt is no checkpoint of this run"):
        train.main(command(learning_rate=9.0, min_lr=9.0))


def test_a_run_of_an_older_version_resumes_to_the_same_bits(run, stop_at, tmp_path):
    """Which lacks an option that came later."""
    whole = run("whole")
    stop_at(7, "part")
    config = read_json(tmp_path / "part" / "config.json")
    del config["noise_anticorrelated"]
    (tmp_path / "part" / "config.json").write_text(json.dumps(config))
    assert same_weights(run("part"), whole)


def test_a_run_of_a_later_version_is_refused(run, command):
    folder = run(max_iters=5)
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "option_to_come": 1}))
    with pytest.raises(UserError, match="option_to_come"):
        train.main(command(max_iters=5))


def test_another_corpus_under_the_same_name_is_refused(run, command, tmp_path):
    run(dataset=write_corpus(tmp_path / "c", "abcd" * 300), max_iters=5)
    write_corpus(tmp_path / "c", "abdc" * 300)
    with pytest.raises(UserError, match="other data of the same name"):
        train.main(command(dataset=tmp_path / "c", max_iters=5))


def test_two_processes_cannot_train_into_one_folder(command, tmp_path):
    with RunFolder(tmp_path / "run"), pytest.raises(UserError, match="another process"):
        train.main(command())
    holder = (
        "import sys; from training.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", holder, str(tmp_path / "run")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.readline()
        with pytest.raises(UserError, match="another process"):
            train.main(command())
        process.kill()
    assert train.main(command()) == 0, "the lock outlived its holder"


def test_a_long_run_says_so_before_its_first_step(run, capsys, monkeypatch):
    clock = iter(range(0, 10**9, 500))  # every look at the clock is 500 seconds after the one before
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle.time, "perf_counter", lambda: next(clock))
        run("long", max_iters=40)
    lines = capsys.readouterr().out.splitlines()
    (number,) = [i for i, line in enumerate(lines) if "this run will take about 5.6 hours" in line]
    assert "config/cpu.py" in lines[number]
    assert "iteration      0" in lines[number + 1]
    run("short", max_iters=40)
    assert "will take" not in capsys.readouterr().out


def test_a_missing_corpus_is_prepared_and_said(capsys, monkeypatch, tmp_path):
    """As after a fresh clone: the folder has its script and nothing prepared. By name and by path."""
    import data.corpus

    monkeypatch.setattr(data.corpus, "ROOT", tmp_path)
    for dataset, folder in (("named", "data/named"), (f"{tmp_path}/pathed", "pathed")):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(ROOT / "data" / "pydoc_char" / "prepare.py", tmp_path / folder)
        assert Corpus(dataset).meta["vocab_size"] > 50
        assert "preparing" in capsys.readouterr().out
        Corpus(dataset)
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("place", "name", "error"),
    [
        (Run, "__init__", torch.OutOfMemoryError),
        (train, "accumulate", MemoryError),
        (train, "train_step", RuntimeError),
        (lifecycle, "evaluate", RuntimeError),
    ],
)
def test_too_little_memory_is_one_line(command, monkeypatch, place, name, error):
    def exhausted(*_):
        raise error("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(place, name, exhausted)
    with pytest.raises(UserError, match="halve batch_size"):
        train.main(command())


def test_a_run_killed_after_its_last_step_is_evaluated_and_not_compiled_again(command, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            train.main(command())
    monkeypatch.setattr(lifecycle, "warm_up", None)  # not to be called
    assert train.main(command()) == 0


def test_a_run_without_a_config_is_not_begun():
    with pytest.raises(UserError, match="which config"):
        train.main([])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_does_not_grow_by_a_large_block_for_each_small_one_that_stays():
    code = """if True:
        import torch
        from training.machine import Machine
        machine, kept = Machine("cpu", "float32", 1, False), []
        machine.apply()
        for _ in range(30):
            torch.zeros(1 << 24)  # 64 MB
            kept.append(torch.zeros(1000))
        print(machine.peak_memory() or 0)
    """
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(answer.stdout) < 1e9


def test_an_evaluation_keeps_no_tensor_of_a_batch():
    kept = []

    class Model(nn.Module):
        compiled = False

        def forward(self, x, y):
            assert all(loss() is None for loss in kept[:-1])
            loss = torch.tensor(float(len(kept)))
            kept.append(weakref.ref(loss))
            return None, loss

    y = torch.zeros(1, 2)
    assert mean_loss(Model(), ((y, y) for _ in range(5))) == 2.0


def test_a_mean_loss_weighs_each_token_alike(new_run):
    """Batches of different sizes, against the cross-entropy of all their tokens in float64."""
    model, generator = new_run().model.eval(), torch.Generator().manual_seed(1)
    sizes = ((3, 16), (1, 5), (2, 9))
    batches = [torch.randint(model.config.vocab_size, (2, *size), generator=generator) for size in sizes]
    losses, count = 0.0, 0
    for x, y in batches:
        chances = model(x, y)[0].double().log_softmax(-1)
        losses -= chances.gather(-1, y[..., None]).sum().item()
        count += y.numel()
    assert mean_loss(model, batches) == pytest.approx(losses / count, rel=1e-6)


def test_a_run_on_three_parts_has_the_losses_of_the_third(run, tmp_path):
    corpus = write_corpus(tmp_path / "c", TEXT, splits={"train": 0.7, "val": 0.1, "test": 0.2})
    folder = run(dataset=corpus, learning_rate=2.0, grad_clip=0.0, noise_sigma=0.0, eval_interval=1)
    result, data = read_json(folder / "result.json"), Corpus(str(corpus))
    assert result["best_iter"] < 12
    for key, name in (("best_weights_test_loss", "best.pt"), ("final_test_loss", "last.pt")):
        model = GPT.from_weights(checkpoint(folder, name)["model"])
        assert result[key] == pytest.approx(mean_loss(model, data.windows("test", 16)), rel=1e-6)


def test_weights_that_are_not_finite_take_no_checkpoints_place(run, monkeypatch):
    """By a step that no gradient and no loss shows yet."""
    step = train.train_step

    def overflowing(a_run):
        step(a_run)
        if a_run.step == 10:
            a_run.model.wte.weight.data[0, 0] = math.inf

    monkeypatch.setattr(train, "train_step", overflowing)
    folder = run(status=3, eval_interval=12)
    assert read_json(folder / "result.json")["status"] == "diverged"
    assert checkpoint(folder)["step"] == 5


def test_input_noise_changes_inputs_and_no_targets_each_micro_step_anew(new_run):
    plain, noised = new_run(), new_run(input_noise=0.5)
    seen = []
    for plain.step, micro_step in ((0, 0), (0, 1), (1, 0)):
        noised.step = plain.step
        (x, y), (noised_x, noised_y) = plain.batch(micro_step), noised.batch(micro_step)
        assert torch.equal(y, noised_y)
        assert not torch.equal(x, noised_x)
        seen.append(x == noised_x)
    for one, other in itertools.combinations(seen, 2):
        assert (one == other).float().mean() < 0.75, "other places in each"


# The card.


BUILT = ["sm_75", "sm_80", "sm_90a"]


@pytest.mark.parametrize(
    ("capability", "built", "served"),
    [
        *(((7, 0), BUILT, False), ((7, 5), BUILT, True), ((8, 9), BUILT, True), ((12, 0), BUILT, False)),
        *(((9, 0), ["gfx90a", "gfx942"], True), ((9, 0), [], True)),
        *(((12, 1), [*BUILT, "compute_120"], True), ((10, 0), [*BUILT, "compute_120"], False)),
    ],
)
def test_a_card_without_kernels_is_left_aside_in_words(monkeypatch, capsys, capability, built, served):
    card = {"is_available": True, "get_arch_list": built, "get_device_name": "A card"}
    for name, value in (card | {"get_device_capability": capability}).items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert machine.best_device() == ("cuda" if served else "cpu")
    assert ("A card has no kernels in this PyTorch" in capsys.readouterr().out) is not served


def test_float16_on_an_apple_gpu_is_refused(command, monkeypatch):
    monkeypatch.setattr(machine, "check_device", lambda device: None)
    with pytest.raises(UserError, match="--dtype=bfloat16"):
        Machine.choose(load(command(device="mps", dtype="float16")))
    assert Machine.choose(load(command(device="mps", dtype="auto"))).dtype == "float32"


def test_float32_stays_float32_whatever_the_environment_says(new_run, run, monkeypatch):
    folder = run(max_iters=5)
    monkeypatch.setattr(
        "training.sharpness.sharpness", lambda *_: {"rises": {}, "hessian": {"top": 1, "traces": [1]}}
    )
    try:
        for command in (new_run, lambda: evaluate.main([str(folder)]), lambda: sharpness.main([str(folder)])):
            torch.set_float32_matmul_precision("high")  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 does
            command()
            assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("capability", "emulated"), [((7, 5), True), ((8, 0), False)])
def test_bfloat16_that_a_card_emulates_is_said(command, monkeypatch, capsys, capability, emulated):
    monkeypatch.setattr(machine, "check_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "A card")
    Machine.choose(load(command(device="cuda", dtype="bfloat16")))
    assert ("A card emulates bfloat16: --dtype=float16" in capsys.readouterr().out) is emulated
    assert Machine.choose(load(command(device="cuda", dtype="auto"))).dtype == (
        "float16" if emulated else "bfloat16"
    )
    assert capsys.readouterr().out == ""
