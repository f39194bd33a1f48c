"""Studies and their sweeps: what a study asks for, and that it gets it whatever happens on the way."""

import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import tty
from pathlib import Path
from types import SimpleNamespace

import made_up
import pytest
from conftest import LIMIT, own, same_weights

import sweep
from config import ROOT, UserError, load
from config.study import parse_seeds, read_study
from data.files import lock, read_json, write_json
from noise import schedule
from training import worker
from training.run_files import read_log
from training.run_folder import RunFolder
from training.status import is_free, reached

STUB = Path(__file__).with_name("stub_worker.py")
BASE = """
block_size, batch_size, n_layer, n_head, n_embd, dropout = 16, 4, 1, 2, 16, 0.0
max_iters, warmup_iters, eval_interval, checkpoint_interval, eval_train_tokens = 100, 3, 50, 20, 512
device, threads = "cpu", 1
"""
STUDY = '''"""A study of the tests.\n\nMore of it."""
base = {base!r}
common = dict(dtype="float32", dataset={dataset!r})
arms = {{"baseline": {{}}, "noise": dict(noise_sigma=0.01), {more}}}
baseline = "baseline"
seeds = (1, 2)
'''


@pytest.fixture
def study(tmp_path, corpus, monkeypatch):
    """study(more arms) writes a study file into an empty working directory and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(more="", text=STUDY):
        base = tmp_path / "base.py"
        base.write_text(BASE)
        Path("tiny.py").write_text(text.format(base=str(base), dataset=str(corpus), more=more))
        return "tiny.py"

    return write


FINISHED = {**made_up.FINISHED, "iterations": 100, "seconds": 1000.0}


# What a study asks for.


def test_the_later_wins_base_overlay_common_arm_command_line(study):
    Path("over.py").write_text("n_embd = 32\nmax_iters = 50\nbeta2 = 0.9\n")
    file = study('"other": dict(max_iters=60, learning_rate=0.01, beta2=0.95, dtype="bfloat16"),')
    plan = read_study(file, ["over.py"], ["--learning_rate=0.02", "--compile=off"])
    baseline, _, other, *_ = (run.config for run in plan.runs)
    assert (baseline.n_embd, baseline.max_iters, baseline.beta2, baseline.block_size) == (32, 50, 0.9, 16)
    assert (other.n_embd, other.max_iters, other.beta2) == (32, 60, 0.95)
    assert (baseline.dtype, other.dtype) == ("float32", "bfloat16")
    assert {run.config.learning_rate for run in plan.runs} == {0.02}
    assert plan.size == "over+learning_rate=0.02", "the machine's options make no other size"
    assert read_study(file, [], ["--dataset=some/where"]).size == "dataset=some_where", "one folder"


def test_options_and_config_files_may_come_in_any_order(study):
    study()
    Path("over.py").write_text("n_embd = 32\n")
    for words in itertools.permutations(["tiny.py", "--max_iters=5", "over.py", "--jobs=2"]):
        if words.index("tiny.py") < words.index("over.py"):
            arguments, plan = sweep.read_command(list(words))
            assert (arguments.jobs, plan.size) == (2, "over+max_iters=5")
    sizes = {
        read_study("tiny.py", [], words).size
        for words in itertools.permutations(["--n_embd=32", "--max_iters=5"])
    }
    assert sizes == {"n_embd=32+max_iters=5"}, "one folder, or a study would be trained anew"


def test_an_option_may_follow_from_the_run(study):
    file = study('"other": dict(data_seed=lambda run: 100 * run.seed + run.max_iters),')
    others = [run.config for run in read_study(file, [], ["--max_iters=50"]).runs if run.arm == "other"]
    assert [config.data_seed for config in others] == [150, 250]


def test_a_base_may_lie_in_the_working_folder_and_functions_give_way(study):
    file = study('"other": dict(beta2=0.95, learning_rate=lambda run: {64: 1.0}[run.n_embd]),')
    text = Path(file).read_text()
    Path(file).write_text(text.replace(repr(str(Path("base.py").resolve())), '"base.py"'))
    runs = read_study(file, [], ["--learning_rate=0.02"]).runs
    assert {run.config.learning_rate for run in runs} == {0.02}


def test_only_a_run_whole_with_its_arm_needs_to_be_one(study):
    text = STUDY.replace("dict(dtype=", 'dict(noise_schedule="inverse", dtype=')
    text = text.replace("{{}}", "dict(noise_eta=1.0)").replace("noise_sigma=0.01", "noise_eta=0.1")
    assert [run.config.noise_eta for run in read_study(study(text=text)).runs] == [1.0, 0.1] * 2


def test_the_runs_in_the_order_of_their_seeds_and_the_record_of_the_whole_study(study):
    more = '"wide": dict(n_embd=32), "wide_noise": dict(n_embd=32, noise_sigma=0.01),'
    file = study(more, STUDY + 'versus = {{"wide_noise": "wide"}}\npurpose = "tuning"\ntogether = "all"\n')
    whole, some = read_study(file), read_study(file, arms=["wide_noise"], seeds=[7, 8])
    arms = ["baseline", "noise", "wide", "wide_noise"]
    assert [(run.arm, run.seed) for run in whole.runs] == [(arm, seed) for seed in (1, 2) for arm in arms]
    assert str(whole.runs[1].folder) == "out/tiny/full/noise/seed1"
    assert [run.arm for run in some.runs] == ["baseline", "wide", "wide_noise"] * 2, (
        "and what it is compared with"
    )
    record = json.loads(json.dumps(some.record()))
    assert record == json.loads(json.dumps(whole.record()))
    assert record == {
        **{"name": "tiny", "size": "full", "title": "A study of the tests", "baseline": "baseline"},
        **{"purpose": "tuning", "together": "all", "versus": {"wide_noise": "wide"}, "decisive": []},
        **{"arms": arms, "seeds": [1, 2]},
    }


@pytest.mark.parametrize("name", [path.stem for path in own("config/study/[a-z]*.py")])
def test_the_studies_that_come_with_it_are_whole_at_both_sizes(name):
    file = ROOT / "config" / "study" / f"{name}.py"
    gpts = read_study(file).runs[0].config.program == "train"
    for overlays in ([], *([[str(ROOT / "config" / "cpu.py")]] if gpts else ())):
        plan = read_study(file, overlays)
        assert plan.runs


@pytest.mark.parametrize("overlays", [[], [str(ROOT / "config" / "cpu.py")]], ids=["full", "cpu"])
def test_the_schedules_have_equal_sums_of_squares(overlays):
    """But for what the closed forms of linear and cosine leave out, and plateau's, which goes by the losses."""
    runs = read_study(ROOT / "config" / "study" / "schedules.py", overlays, seeds=[1]).runs
    configs = {run.arm: run.config for run in runs}
    for ending, start in (("", 0.1), ("_global", 1.0)):
        for name in ("exponential", "linear", "cosine", "inverse", "constant"):
            config = configs[name + ending]
            constants = {key: getattr(config, f"noise_{key}") for key in ("sigma", "gamma", "eta", "steps")}
            sigma = schedule(config.noise_schedule, **constants)
            total = sum(sigma(t) ** 2 for t in range(config.max_iters))
            assert total == pytest.approx(start**2 / (1 - 0.99**2), rel=2 / config.max_iters), name + ending


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('baseline = "baseline"', 'baseline = "basline"', "did you mean 'baseline'"),
        ("seeds = (1, 2)", "seed = (1, 2)", "did you mean 'seeds'"),
        ("seeds = (1, 2)", "", "seeds"),
        ("seeds = (1, 2)", "seeds = ()", "seeds=()"),
        ("seeds = (1, 2)", "seeds = (1, 2)\npurpose = 'fun'", "purpose='fun'"),
        ("seeds = (1, 2)", "seeds = (1, 2)\ntogether = 3", "together=3"),
        ("seeds = (1, 2)", "seeds = (1, 2)\ntogether = '../up'", "together='../up'"),
        ("seeds = (1, 2)", "seeds = (1, 2)\nprogram = 'fit'", "program='fit'"),
        ("seeds = (1, 2)", "seeds = (1, 2)\nprogram = 'classify'", "no option is called 'dataset'"),
        ("noise_sigma=0.01", "noise_sgima=0.01", "did you mean 'noise_sigma'"),
        ("noise_sigma=0.01", "noise_sigma=-1.0", "arm noise: noise_sigma=-1.0"),
        ("noise_sigma=0.01", "seed=3", "arm noise: seed"),
        ('dtype="float32", ', "", "dtype"),
        ('"noise": dict(noise_sigma=0.01)', '"noise": {{}}', "baseline and noise"),
        ('"noise": dict(noise_sigma=0.01)', '"a b": dict(noise_sigma=0.01)', "'a b'"),
        ('"noise": dict(noise_sigma=0.01)', '"..": dict(noise_sigma=0.01)', "'..'"),
        ('"noise": dict(noise_sigma=0.01)', "1: dict(noise_sigma=0.01)", "not 1"),
        ("dict(noise_sigma=0.01)", "{{0.01: 'noise_sigma'}}", "no option is called 0.01"),
        (
            "noise_sigma=0.01",
            "noise_sigma=lambda run: run.sed",
            "function of noise_sigma fails (AttributeError",
        ),
        ("seeds = (1, 2)", "seeds = (1, 2, 1)", "seeds=(1, 2, 1)"),
        ("seeds = (1, 2)", "seeds = (1, 2)\nversus = {{'noise': 'noise'}}", "'noise' with itself"),
        ("base = ", "base = 1 + ", "line 4: TypeError"),
        ("base = {base!r}", 'base = "config/nowhere.py"', "config/nowhere.py"),
    ],
)
def test_a_mistake_in_a_study_is_one_line(study, old, new, words):
    assert old in STUDY
    with pytest.raises(UserError) as caught:
        read_study(study(text=STUDY.replace(old, new)))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([], "which study"),
        (["tiny.py", "--seed=3"], "--seeds"),
        (["tiny.py", "--out_dir=x"], "out_dir"),
        (["tiny.py", "--overwrite=True"], "delete or rename"),
        (["tiny.py", "afresh.py"], "delete or rename"),
        (["tiny.py", "--learning_rat=3"], "did you mean 'learning_rate'"),
        (["tiny.py", "--job=2"], "did you mean 'jobs'"),
        (["tiny.py", "--dryrun"], "did you mean 'dry-run'"),
        (["tiny.py", "--jobs=0"], "--jobs"),
        (["tiny.py", "--jobs=two"], "--jobs"),
        (["tiny.py", "--arms=nois"], "did you mean 'noise'"),
        (["tiny.py", "--arms="], "none of the study's"),
        (["tin.py"], "tin.py"),
        ([str(ROOT / "config/cpu.py"), "tiny.py"], "is the config of a run, not a study"),
        *(
            (["tiny.py", f"--seeds={seeds}"], f"--seeds={seeds}")
            for seeds in ("", ",", "3-1", "1,1", "1-", "x")
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(study, words, answer):
    study()
    Path("afresh.py").write_text("overwrite = True\n")
    with pytest.raises(UserError) as caught:
        sweep.main(words)
    assert answer in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()


def test_lists_of_seeds():
    assert parse_seeds("1-3,7") == [1, 2, 3, 7]


@pytest.mark.parametrize(("cards", "wanted"), [("0,3", ["0", "3", "0", "3"]), ("2", ["2"] * 4)])
def test_runs_are_shared_out_among_the_cards_that_are_to_be_seen(study, monkeypatch, cards, wanted):
    seen = []
    popen = lambda words, env, **_: seen.append(env["CUDA_VISIBLE_DEVICES"]) or SimpleNamespace()  # noqa: E731
    monkeypatch.setattr(worker.subprocess, "Popen", popen)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cards)
    sweep.Sweep(read_study(study()), jobs=4, budget=60).start()
    assert seen == wanted


def test_runs_share_the_cores_where_no_config_says_how_many(study, monkeypatch):
    seen = []
    monkeypatch.setattr(worker, "cores", lambda: 7)
    popen = lambda words, **_: seen.append(words[-1]) or SimpleNamespace()  # noqa: E731
    monkeypatch.setattr(worker.subprocess, "Popen", popen)
    file = study()
    for jobs, text in ((3, BASE.replace(', threads = "cpu", 1', ' = "cpu"')), (9, None), (3, BASE)):
        if text:
            Path("base.py").write_text(text)
        sweep.Sweep(read_study(file), jobs=jobs, budget=60).start()
    assert seen[:3] == ["--threads=2"] * 3
    assert seen[3:7] == ["--threads=1"] * 4
    assert not any("--threads" in word for word in seen[7:])


def test_a_run_waits_for_the_one_that_it_starts_from(study, monkeypatch):
    monkeypatch.setattr(sweep, "start", lambda run, *_: SimpleNamespace(card=None))
    plan = read_study(study('"tuned": dict(init_from="out/tiny/full/baseline/seed1"),'))
    (whole := sweep.Sweep(plan, jobs=9, budget=60)).start()
    assert [run.arm for run, _ in whole.running.values()] == ["baseline", "noise"] * 2
    del whole.running[plan.runs[0].folder]
    whole.start()
    assert [run.arm for run, _ in whole.running.values()][-2:] == ["tuned"] * 2


@pytest.mark.parametrize(("option", "value"), [("noise_sigma", 0.5), ("max_iters", 50)])
def test_a_folder_of_another_config_is_refused_before_any_work(study, option, value):
    other = read_study(file := study()).runs[1]
    other.folder.mkdir(parents=True)
    (other.folder / "config.json").write_text(json.dumps({**vars(other.config), option: value}))
    (other.folder / "log.jsonl").write_text('{"kind": "train", "iter": 1, "loss": 2.0}\n')
    wanted = rf"another config: {option} \({value} there, .* here\).*; delete or rename {other.folder}"
    with pytest.raises(UserError, match=wanted) as caught:
        sweep.main([file])
    assert "--" not in str(caught.value), "what it takes no option for"
    assert not (Path("out/tiny/full/baseline")).exists()


def test_a_study_that_was_evaluated_at_other_times_is_refused_before_any_work(study):
    """plot.py would compare none of its arms."""
    file, words = study(), ["--max_iters=4", "--warmup_iters=1"]
    (planned,) = [run for run in read_study(file, options=words).runs if (run.arm, run.seed) == ("baseline", 1)]
    made_up.fake_run(
        planned.folder, **{**vars(planned.config), "out_dir": str(planned.folder), "eval_interval": 7}
    )
    with pytest.raises(UserError, match=r"has an evaluation every 7 .*: give --eval_interval=7, or delete"):
        sweep.main([file, *words])


def test_a_start_that_is_not_there_is_refused_before_any_work(study):
    start = lambda source: study(f'"tuned": dict(init_from="{source}"),')  # noqa: E731
    with pytest.raises(UserError, match="start from out/pretrained, which is not there yet"):
        sweep.main([start("out/pretrained")])
    assert not Path("out").exists()
    assert sweep.main([start("out/tiny/full/baseline/seed1"), "--dry-run"]) == 0, "a run of the study itself"
    with pytest.raises(UserError, match="not there yet"):
        sweep.main([start("out/tiny/full/baseline/seed2"), "--dry-run"])  # which comes later
    Path("out/pretrained").mkdir(parents=True)
    assert sweep.main([start("out/pretrained"), "--dry-run"]) == 0


def test_a_dry_run_shows_what_there_is_and_what_is_left_and_list_a_command_for_each(study, capsys):
    file = study()
    runs = read_study(file).runs
    for run in runs[:2]:
        run.folder.mkdir(parents=True)
    (runs[0].folder / "result.json").write_text(json.dumps(FINISHED))
    (runs[1].folder / "log.jsonl").write_text(
        '{"kind": "train", "iter": 10, "loss": 2}\n{"kind": "train", "iter": 20, "loss": 2}\n{"ki'
    )
    held = lock(runs[1].folder / "lock")
    assert sweep.main([file, "--dry-run", "--jobs=2"]) == 0
    held.release()
    said = capsys.readouterr().out
    wanted = ("(tiny): 2 arms", "1 finished, 1 missing", "1 running, 1 missing", "3 of 4 runs are left")
    for part in wanted:
        assert part in said
    assert "about 23:20 left, 2 at a time" in said, "(80 + 100 + 100) iterations of 10 s by two"
    assert not (Path("out/tiny/full") / "study.json").exists()
    assert sweep.main([file, "--list"]) == 0
    words = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [load(command[2:]) for command in words] == [run.config for run in runs[1:]]
    assert {(*command[:2],) for command in words} == {("python", "train.py")}
    assert sweep.main([file, "--dry-run", "--arms=baseline", "--threads=1"]) == 0
    assert "1 arm, seeds 1, 2" in capsys.readouterr().out


def test_who_only_looks_at_a_run_writes_nothing_and_is_waited_for(study):
    run = read_study(study()).runs[0]
    run.folder.mkdir(parents=True)
    assert is_free(run)
    assert not list(run.folder.iterdir())
    held = threading.Event()

    def look():
        looking = lock(run.folder / "lock")
        held.set()
        time.sleep(0.2)
        looking.release()

    threading.Thread(target=look).start()
    assert held.wait(LIMIT)
    with RunFolder(run.folder):
        assert not is_free(run)


def test_a_run_that_another_process_trains_is_left_alone_until_it_is_free(study, monkeypatch):
    plan, started = read_study(study()), []
    first, second = plan.runs[:2]
    first.folder.mkdir(parents=True)
    held = lock(first.folder / "lock")
    monkeypatch.setattr(sweep, "start", lambda run, *_: started.append(run))
    swept = sweep.Sweep(plan, jobs=1, budget=60)
    swept.start()
    assert started == [second]
    swept.running = {first.folder: (first, SimpleNamespace(poll=lambda: 2, returncode=2))}
    swept.collect()
    assert (swept.waiting[-1], swept.failed) == (first, []), "another sweep was first"
    held.release()
    swept.start()
    assert started == [second, first]


@pytest.mark.parametrize(("status", "failed"), [(143, False), (-15, False), (1, True), (-9, True), (0, True)])
def test_a_run_that_fails_while_it_is_asked_to_stop_is_told(study, monkeypatch, status, failed):
    plan = read_study(study())
    run = plan.runs[0]
    run.folder.mkdir(parents=True)
    sweep.output_of(run).write_text("no space left\n")
    swept = sweep.Sweep(plan, jobs=1, budget=-1)
    swept.running[run.folder] = (run, SimpleNamespace(poll=lambda: status, returncode=status))
    swept.collect()
    assert [said.partition(" (")[0] for _, said in swept.failed] == ["no space left"] * failed
    assert swept.report() == (sweep.FAILED if failed else sweep.TIME_IS_UP)


DAMAGED = [
    *(
        ("result.json", text)
        for text in ("[]", '{"status": "finished"}', json.dumps({**FINISHED, "status": "x"}))
    ),
    *(("config.json", text) for text in ("{}", '{"seed"')),
    ("run.json", "[]"),
]


@pytest.mark.parametrize(("name", "text"), DAMAGED)
def test_a_damaged_run_is_named_and_left_out_and_the_others_are_trained(study, monkeypatch, capsys, name, text):
    runs, started = read_study(file := study()).runs, []
    runs[1].folder.mkdir(parents=True)
    (runs[1].folder / name).write_text(text)

    def start(run, *_):
        started.append(run)
        write_json(run.folder / "result.json", FINISHED)
        return SimpleNamespace(poll=lambda: 0, card=None)

    monkeypatch.setattr(sweep, "start", start)
    monkeypatch.setattr(sweep, "POLL", 0)
    assert sweep.main([file]) == sweep.FAILED
    assert started == [runs[0], *runs[2:]]
    said, errors = capsys.readouterr()
    for part in ("1 damaged, 1 missing", f"{runs[1]} is left out: ", "3 of 4 runs are done"):
        assert part in said
    assert errors.startswith(f"{runs[1]} failed: ")
    assert errors.count("\n") == 1
    assert sweep.main([file, "--list"]) == sweep.FAILED
    said, errors = capsys.readouterr()
    assert (said, errors.startswith(f"{runs[1]} is left out: ")) == ("", True)


def test_an_odd_line_in_a_log_stops_no_look_at_the_runs(study):
    run = read_study(study()).runs[0]
    run.folder.mkdir(parents=True)
    (run.folder / "log.jsonl").write_text('{"kind": "train", "iter": 7, "loss": 1.0}\n{"it\n')
    assert reached(run) == 7


# The sweeps themselves, in processes, whose runs only count (stub_worker.py) but for the last test's.

DRIVER = """
import os, sys, sweep, training.status, training.worker
training.status.SETTLED = 0.4
training.worker.TRAIN = [sys.executable, os.environ["WORKER"]]
sweep.SECONDS_BETWEEN_LINES = sweep.SECONDS_BETWEEN_LOOKS = 0.2
sweep.run_script(sweep.main)
"""


def start_sweep(*words, worker=STUB, stdout=subprocess.PIPE, stderr=subprocess.STDOUT):
    """A sweep in a session of its own; its output is a pipe unless told otherwise."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORKER": str(worker)}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words],
        env=environment, start_new_session=True, stdout=stdout, stderr=stderr, text=True,
    )  # fmt: skip


def swept(*words, status=0, **options):
    """What a sweep says that ends with this status."""
    said, _ = (process := start_sweep(*words, **options)).communicate(timeout=LIMIT)
    assert process.returncode == status, said
    return said


def iterations():
    """{run: the iterations in its log}, in alphabetical order."""
    return {
        str(path.parent.relative_to("out/tiny")): [event["iter"] for event in read_log(path.parent)[0]]
        for path in sorted(Path("out").rglob("log.jsonl"))
    }


def wait_for(condition, process=None):
    """Until the condition is true, while the process runs."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.poll() is None
        time.sleep(0.02)


def test_killed_three_times_a_sweep_ends_as_if_it_had_not_been(study):
    """The first and the third time alone, and its trainings then stop by themselves; the second with them."""
    words = (study(), "--jobs=2", "--max_iters=200")
    count = lambda: sum(map(len, iterations().values()))  # noqa: E731
    for number in range(3):
        before, process = count(), start_sweep(*words)
        wait_for(lambda: count() > before + 5, process)  # noqa: B023
        if number == 1:
            for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        process.kill()
        process.communicate()
    assert "4 of 4 runs are done, 0 of them diverged" in swept(*words)
    outputs = "".join(path.read_text() for path in Path("out").rglob("seed*.txt"))
    assert "another process" not in outputs, "a run in training is left alone"
    assert iterations() == {
        f"max_iters=200/{arm}/seed{seed}": list(range(200)) for arm in ("baseline", "noise") for seed in (1, 2)
    }
    assert "0 of 4 runs are left" in swept(*words)


def test_one_runs_failure_is_told_at_the_end_and_stops_no_other_and_a_pipe_gets_plain_lines(study):
    file = study('"too_long": dict(block_size=5000), "wild": dict(learning_rate=1e30, grad_clip=0.0),')
    said = swept(file, "--jobs=2", "--seeds=1", "--plot", status=sweep.FAILED)
    assert "too_long, seed 1 failed: error: the val split" in said
    assert "wild, seed 1: diverged at iteration" in said
    assert "3 of 4 runs are done, 1 of them diverged" in said
    assert "drawing" not in said
    assert re.search(r"^\d+ %  \d/4 runs .*baseline/seed1 \d+ %", said, re.MULTILINE)
    assert not {"\r", "\x1b"} & {*said}
    assert iterations().keys() == {f"full/{arm}/seed1" for arm in ("baseline", "noise", "wild")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_and_the_time_stop_each_run_at_a_checkpoint(study, number):
    """So does a kill of the sweep, which its runs notice. Then another sweep continues them."""
    long = ("--max_iters=100000", "--checkpoint_interval=100000", "--jobs=2")
    process = start_sweep(study(), *long)
    wait_for(lambda: len(iterations()) == 2 and min(map(len, iterations().values())) > 3, process)
    os.killpg(process.pid, number)  # as a Ctrl-C in the terminal does
    process.communicate(timeout=LIMIT)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    runs = read_study("tiny.py", [], long[:2]).runs[:2]
    wait_for(lambda: all(map(is_free, runs)))
    told = [sweep.output_of(run).read_text().count("has ended: stopping") for run in runs]
    assert told == [number == signal.SIGKILL] * 2
    first = {path.parent: read_json(path) for path in Path("out").rglob("last.json")}
    assert len(first) == 2
    if number in (signal.SIGINT, signal.SIGKILL):
        for seconds in (2, 20, 200):  # a loaded machine may begin nothing in so short a time
            swept("tiny.py", f"--time-budget={seconds}", *long, status=sweep.TIME_IS_UP)
            if all(
                read_json(folder / "last.json")["step"] > step["step"] > 0 for folder, step in first.items()
            ):
                return
        raise AssertionError("no run went on")


def test_a_terminal_of_80_columns_shows_which_runs_train_how_far_and_how_long_still(study):
    here, there = pty.openpty()
    tty.setraw(there)
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    file = study('"a_name_that_is_long_enough_to_leave_little_room": dict(beta2=0.9),')
    words = ("--jobs=3", "--seeds=1", "--max_iters=300")
    process = start_sweep(file, *words, stdout=there, stderr=there)
    os.close(there)
    shown = b""
    with contextlib.suppress(OSError):  # which tells of the end
        while text := os.read(here, 4096):
            shown += text
    assert process.wait(LIMIT) == 0
    looks = [look.rstrip() for look in shown.decode().split("\r") if re.match(r"\d+ %", look)]
    assert max(map(len, looks)) < 80
    line = r"\d+ %  0/3 runs  \d\d:\d\d left  baseline/seed1 \d+ %  noise/seed1 \d+ %  \+1"
    assert any(re.fullmatch(line, look) for look in looks), looks


def test_a_study_is_drawn_once_all_its_runs_are_done(study, monkeypatch):
    drawn, words = [], [study(), "--seeds=1", "--max_iters=2"]
    draw = lambda words, **_: drawn.append(words[1:]) or SimpleNamespace(returncode=0)  # noqa: E731
    monkeypatch.setattr(worker, "TRAIN", [sys.executable, str(STUB)])
    monkeypatch.setattr(sweep.subprocess, "run", draw)
    assert sweep.main(words) == 0
    assert not drawn
    assert sweep.main([*words, "--plot"]) == 0
    assert drawn == [[str(ROOT / "plot.py"), Path("out/tiny/max_iters=2")]]


def test_real_runs_are_trained_as_train_py_alone_would(study, tmp_path):
    said = swept(study(), "--jobs=2", "--seeds=1", worker=ROOT / "train.py")
    assert said.count("best val loss") == 2
    words = read_study("tiny.py", seeds=[1]).runs[1].words
    alone = [sys.executable, str(ROOT / "train.py"), *words, f"--out_dir={tmp_path / 'alone'}"]
    subprocess.run(alone, check=True, capture_output=True)
    assert same_weights(Path("out/tiny/full/noise/seed1"), tmp_path / "alone")


@pytest.mark.parametrize("name", ["noisytune", "noisytune_rates", "noisytune_tuned"])
def test_a_study_of_fine_tuning_has_the_activation_of_what_it_starts_from(name):
    source = load(["config/pretrain_text8_small.py"])
    assert {run.config.activation for run in read_study(ROOT / f"config/study/{name}.py").runs} == {
        source.activation
    }
