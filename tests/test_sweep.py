"""Studies and their sweeps: what a study asks for, and that it gets it whatever happens on the way."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import checkpoint, same_weights
from test_laws import timeless

import plot
import sweep
from analysis import collect
from analysis.arms import read_settings
from config import ROOT, UserError, load
from config.study import parse_seeds, read_study
from data.files import lock, read_json, write_json

BASE = """
block_size = 16
batch_size = 4
n_layer = 1
n_head = 2
n_embd = 16
dropout = 0.0
max_iters = 200
warmup_iters = 3
eval_interval = 50
checkpoint_interval = 20
eval_train_tokens = 512
device = "cpu"
threads = 1
"""
STUDY = '''"""A study of the tests.\n\nMore of it."""
base = {base!r}
common = dict(dtype="float32", dataset={dataset!r})
arms = {{
    "baseline": {{}},
    "noise": dict(noise_sigma=0.01),
    {more}
}}
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


def process(*words, **options):
    command = [sys.executable, str(ROOT / "sweep.py"), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def runs_of(folder):
    return sorted(path.parent for path in Path(folder).rglob("result.json"))


# What a study asks for.


def test_the_later_wins_base_overlay_arm_command_line(study, tmp_path):
    Path("over.py").write_text("n_embd = 32\nmax_iters = 50\nbeta2 = 0.9\n")
    file = study('"other": dict(max_iters=60, learning_rate=0.01, beta2=0.95, dtype="bfloat16"),')
    plan = read_study(file, ["over.py"], ["--learning_rate=0.02"])
    other = next(run for run in plan.runs if run.arm == "other").config
    baseline = plan.runs[0].config
    assert (baseline.n_embd, baseline.max_iters, baseline.beta2, baseline.block_size) == (32, 50, 0.9, 16)
    assert (other.n_embd, other.max_iters, other.beta2) == (32, 60, 0.95)
    assert (baseline.dtype, other.dtype) == ("float32", "bfloat16"), "common, and an arm against it"
    assert {run.config.learning_rate for run in plan.runs} == {0.02}
    assert plan.size == "over+learning_rate=0.02"


def test_seeds_are_in_the_outer_loop_and_runs_have_their_folders(study):
    plan = read_study(study())
    assert [(run.arm, run.seed) for run in plan.runs] == [
        *(("baseline", 1), ("noise", 1), ("baseline", 2), ("noise", 2))
    ]
    assert str(plan.runs[1].folder) == "out/tiny/full/noise/seed1"
    assert plan.title == "A study of the tests"


def test_a_knob_may_follow_from_the_run(study):
    file = study('"order": dict(data_seed=lambda run: 100 * run.seed + run.max_iters),')
    orders = [
        run.config.data_seed for run in read_study(file, [], ["--max_iters=50"]).runs if run.arm == "order"
    ]
    assert orders == [150, 250]


def test_machine_knobs_on_the_command_line_make_no_other_size(study):
    assert read_study(study(), [], ["--compile=off", "--threads=2"]).size == "full"


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "config" / "study").glob("*.py")))
def test_the_studies_that_come_with_it_are_whole_at_both_sizes(name):
    for overlays in ([], [str(ROOT / "config" / "cpu.py")]):
        plan = read_study(ROOT / "config" / "study" / f"{name}.py", overlays)
        assert len(plan.runs) == len(plan.arms) * len(plan.seeds)
        assert len({run.folder for run in plan.runs}) == len(plan.runs)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'baseline = "baseline"',
            'baseline = "basline"',
            "'basline' is none of its arms; did you mean 'baseline'",
        ),
        ("seeds = (1, 2)", "seed = (1, 2)", "a study has no 'seed'; did you mean 'seeds'"),
        ("seeds = (1, 2)", "", "assigns no seeds"),
        ("seeds = (1, 2)", "seeds = ()", "seeds=() are not numbers"),
        ("noise_sigma=0.01", "noise_sgima=0.01", "arm noise: no knob is called 'noise_sgima'; did you mean"),
        ("noise_sigma=0.01", "noise_sigma='a'", "arm noise: noise_sigma must be float"),
        ("noise_sigma=0.01", "noise_sigma=-1.0", "arm noise: noise_sigma=-1.0 is out of range"),
        ("noise_sigma=0.01", "seed=3", "arm noise: seed is set by the study itself"),
        ('dtype="float32", ', "", "leaves dtype to the machine"),
        ('"noise": dict(noise_sigma=0.01)', '"noise": {{}}', "baseline and noise are the same experiment"),
        ('"noise": dict(noise_sigma=0.01)', '"a b": dict(noise_sigma=0.01)', "an arm is a folder"),
        ("base = ", "base = 1 + ", "line 4: TypeError"),
        ("base = {base!r}", 'base = "config/nowhere.py"', "no config file"),
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
        ([], "which study?"),
        (["tiny.py", "--seed=3"], "--seeds=1-4"),
        (["tiny.py", "--out_dir=x"], "set by the study itself"),
        (["tiny.py", "--learning_rat=3"], "did you mean 'learning_rate'"),
        (["tiny.py", "--jobs=0"], "numbers above 0"),
        (["tiny.py", "--jobs=two"], "--jobs"),
        (["tiny.py", "--seeds=a"], "not a list of seeds"),
        (["tin.py"], "no study file tin.py"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(study, words, answer):
    study()
    with pytest.raises(UserError, match=answer.replace("?", r"\?")) as caught:
        sweep.main(words)
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()


def test_some_arms_alone_bring_what_they_are_compared_with_and_the_record_is_the_whole_study(study):
    file = study('"wide": dict(n_embd=32), "wide_noise": dict(n_embd=32, noise_sigma=0.01),')
    Path(file).write_text(Path(file).read_text() + 'versus = {"wide_noise": "wide"}\n')
    whole, some = read_study(file), read_study(file, arms=["wide_noise"], seeds=[7])
    assert [(run.arm, run.seed) for run in some.runs] == [("baseline", 7), ("wide", 7), ("wide_noise", 7)]
    assert some.record() == whole.record()
    assert whole.record()["arms"] == ["baseline", "noise", "wide", "wide_noise"]
    assert whole.record()["seeds"] == (1, 2)
    with pytest.raises(UserError, match="'nois' is none of the study's; did you mean 'noise'"):
        sweep.main([file, "--arms=nois"])


def test_runs_are_shared_out_among_the_cards_that_are_to_be_seen(study, monkeypatch):
    swept = sweep.Sweep(read_study(study()), jobs=4, budget=60)
    seen = []

    class Process:
        def __init__(self, words, env, **_):
            seen.append(env.get("CUDA_VISIBLE_DEVICES"))

    monkeypatch.setattr(sweep.subprocess, "Popen", Process)
    for cards, wanted in (("0,3", ["0", "3", "0", "3"]), ("2", ["2"] * 4)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cards)
        swept.waiting, swept.running = list(swept.study.runs), {}
        swept.start()
        assert seen == wanted
        seen.clear()


def test_lists_of_seeds():
    assert parse_seeds("1-3,7") == [1, 2, 3, 7]
    for wrong in ("", "3-1", "1,1", "1-", "x"):
        with pytest.raises(UserError):
            parse_seeds(wrong)


def test_a_folder_of_another_config_is_refused_before_any_work(study):
    file = study()
    other = next(run for run in read_study(file).runs if run.arm == "noise")
    other.folder.mkdir(parents=True)
    config = {**vars(other.config), "noise_sigma": 0.5}
    (other.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"another config: noise_sigma \(0.5 there, 0.01 here\)"):
        sweep.main([file])
    assert not (Path("out/tiny/full/baseline")).exists()


def test_a_start_that_is_not_there_is_refused_before_any_work(study):
    file = study('"tuned": dict(init_from="out/pretrained"),')
    with pytest.raises(UserError, match="start from out/pretrained, which is not there yet: name a run"):
        sweep.main([file])
    assert not Path("out").exists()
    study('"tuned": dict(init_from="out/tiny/full/baseline/seed1"),')
    assert sweep.main([file, "--dry-run"]) == 0, "a run of the study itself"
    Path("out/pretrained").mkdir(parents=True)
    assert sweep.main([study('"tuned": dict(init_from="out/pretrained"),'), "--dry-run"]) == 0


def test_list_is_a_complete_command_for_every_missing_run(study, capsys):
    file = study()
    assert sweep.main([file, "--list", "--seeds=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    plan = read_study(file, seeds=[1])
    assert [load(shlex.split(line)[2:]) for line in lines] == [run.config for run in plan.runs]
    assert all(line.startswith("python train.py ") for line in lines)
    plan.runs[0].folder.mkdir(parents=True)
    (plan.runs[0].folder / "result.json").write_text('{"status": "finished", "iterations": 40, "seconds": 8.0}')
    sweep.main([file, "--list", "--seeds=1"])
    assert capsys.readouterr().out.splitlines() == lines[1:]


def test_a_dry_run_shows_what_there_is_and_estimates_what_is_left(study, capsys):
    file = study()
    done, begun = read_study(file).runs[:2]
    for run in (done, begun):
        run.folder.mkdir(parents=True)
    (done.folder / "result.json").write_text('{"status": "finished", "iterations": 200, "seconds": 2000.0}')
    (begun.folder / "log.jsonl").write_text(
        '{"kind": "train", "iter": 10}\n{"kind": "train", "iter": 20}\n{"ki'
    )
    held = lock(begun.folder / "lock")
    assert sweep.main([file, "--dry-run", "--jobs=2"]) == 0
    held.close()
    said = capsys.readouterr().out
    assert "1 finished, 1 missing" in said
    assert "1 running, 1 missing" in said
    assert "3 of 4 runs are left" in said
    assert "about 48 minutes, 2 at a time" in said, "(180 + 200 + 200) iterations of 10 s by two"
    assert not (Path("out/tiny/full") / "study.json").exists()


def test_a_run_that_another_process_trains_is_left_alone_until_it_is_free(study, monkeypatch):
    plan, started = read_study(study()), []
    first, second = plan.runs[:2]
    first.folder.mkdir(parents=True)
    held = lock(first.folder / "lock")
    monkeypatch.setattr(sweep, "start", lambda run, *_: started.append(run))
    swept = sweep.Sweep(plan, jobs=1, budget=60)
    swept.start()
    assert started == [second]
    held.close()
    swept.running.clear()
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
    assert swept.failed == ([(run, "no space left")] if failed else [])
    assert swept.report() == (sweep.FAILED if failed else sweep.TIME_IS_UP)


# The sweeps themselves, in processes.


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, corpus):
    """The study of BASE and STUDY, swept in one go, two at a time: (its folder, its files, what was said)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "base.py").write_text(BASE)
    (folder / "tiny.py").write_text(STUDY.format(base=str(folder / "base.py"), dataset=str(corpus), more=""))
    swept = process("tiny.py", "--jobs=2", cwd=folder)
    said, _ = swept.communicate(timeout=300)
    assert swept.returncode == 0, said
    return folder, said


def test_a_sweep_trains_every_run_and_says_so(undisturbed):
    folder, said = undisturbed
    assert len(runs_of(folder)) == 4
    assert "4 of 4 runs are done, 0 of them diverged" in said
    assert said.count("best val loss") == 4
    again = process("tiny.py", cwd=folder)
    assert "0 of 4 runs are left" in again.communicate(timeout=60)[0]
    assert again.returncode == 0


def test_a_study_of_one_run_is_the_run_itself(undisturbed, tmp_path):
    """What --list prints gives the same weights as the sweep does."""
    folder, _ = undisturbed
    (run,) = [path for path in runs_of(folder) if path.parts[-2:] == ("noise", "seed1")]
    config = read_json(run / "config.json")
    words = [f"--{name}={value}" for name, value in config.items() if name != "out_dir"]
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words, f"--out_dir={tmp_path / 'alone'}"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert same_weights(run, tmp_path / "alone")


def test_killed_three_times_a_sweep_ends_with_the_same_results(undisturbed, study):
    """The first and the third time alone, which leaves its trainings running; the second with them."""
    whole, _ = undisturbed
    file = study()
    for number in range(3):
        swept = process(file, "--jobs=2", start_new_session=True)
        at = wait_for(lambda n=number: sum(1 for _ in Path("out").rglob("log.jsonl")) > n, swept)
        assert at, "a sweep that ended could not be killed"
        time.sleep(0.3 * number)
        if number == 1:
            for pid in children(swept.pid):
                os.kill(pid, signal.SIGKILL)
        swept.kill()
        swept.communicate()
    last = process(file, "--jobs=2")
    said, _ = last.communicate(timeout=300)
    assert last.returncode == 0, said
    outputs = "".join(path.read_text() for path in Path("out").rglob("seed*.txt"))
    assert "another process" not in outputs, "a run in training is left alone"
    here = runs_of("out")
    assert len(here) == 4
    for one, other in zip(here, runs_of(whole / "out")):
        assert timeless(one) == timeless(other)
        assert same_weights(one, other)


def wait_for(condition, swept, seconds=120):
    """Whether the condition came true while the process ran."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and swept.poll() is None:
        if condition():
            return True
        time.sleep(0.05)
    return False


def children(pid):
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_one_runs_failure_is_told_at_the_end_and_stops_no_other(study):
    file = study('"too_long": dict(block_size=5000), "wild": dict(learning_rate=1e30, grad_clip=0.0),')
    swept = process(file, "--jobs=2", "--seeds=1")
    said, _ = swept.communicate(timeout=300)
    assert swept.returncode == sweep.FAILED, said
    assert "too_long, seed 1 failed: error: the val split" in said
    assert "wild, seed 1: diverged at iteration" in said
    assert "3 of 4 runs are done, 1 of them diverged" in said
    assert {path.parent.name for path in runs_of("out")} == {"baseline", "noise", "wild"}


SLOW = (  # a step of a tenth of a second and no checkpoint but the one at the stop, which takes its time
    "--max_iters=100000", "--lr_decay_iters=200", "--checkpoint_interval=100000", "--eval_interval=100000",
    "--n_embd=256", "--n_layer=4", "--block_size=128", "--batch_size=32",
)  # fmt: skip


def test_time_and_ctrl_c_stop_it_at_a_checkpoint(study):
    file = study()
    swept = process(file, "--jobs=2", *SLOW, start_new_session=True)
    assert wait_for(lambda: list(map(steps_of, logs())) and min(map(steps_of, logs())) > 0, swept)
    os.kill(swept.pid, signal.SIGINT)
    said, _ = swept.communicate(timeout=120)
    assert swept.returncode == 128 + signal.SIGINT, said
    first = [checkpoint(path.parent)["step"] for path in logs()]
    assert len(first) == 2
    assert min(first) > 0
    swept = process(file, "--time-budget=15", "--jobs=2", *SLOW)
    said, _ = swept.communicate(timeout=120)
    assert swept.returncode == sweep.TIME_IS_UP, said
    assert "0 of 4 runs are done" in said
    assert all(checkpoint(path.parent)["step"] > step for path, step in zip(logs(), first))


def logs():
    return sorted(Path("out").rglob("log.jsonl"))


def steps_of(log):
    return sum('"train"' in line for line in log.read_text().splitlines())


# The compact records.


def test_collect_keeps_what_the_figures_need(undisturbed, tmp_path, capsys, monkeypatch):
    folder, _ = undisturbed
    monkeypatch.chdir(folder)
    results = tmp_path / "results"
    assert collect.main(["out", f"--to={results}"]) == 0
    assert "4 runs copied, 0 not finished yet" in capsys.readouterr().out
    (there,), (here,) = read_settings([folder / "out"]), read_settings([results])
    assert [arm.name for arm in here.arms] == [arm.name for arm in there.arms]
    for one, other in zip(here.arms, there.arms):
        assert one.losses("best_val_loss") == other.losses("best_val_loss")
        assert one.curve("evals", "val_loss").keys() == other.curve("evals", "val_loss").keys()
    assert not list(results.rglob("*.pt"))
    assert plot.main([str(results)]) == 0


def test_a_thinned_log_has_every_evaluation_and_about_a_hundred_events():
    evals = [{"kind": "eval", "iter": at, "val_loss": 1 / 3} for at in range(0, 5001, 250)]
    lines = [{"kind": "train", "iter": at, "loss": 1 / 3, "lr": 0.1, "sigma": 0.2} for at in range(0, 5000, 10)]
    kept = collect.thinned(evals + lines)
    assert [event for event in kept if event["kind"] == "eval"] == evals
    assert len(kept) == collect.EVENTS
    shown = [event for event in kept if event["kind"] == "train"]
    assert (shown[0]["iter"], shown[-1]["iter"]) == (0, 4990)
    assert shown[0].keys() == {"kind", "iter", "loss", "lr", "sigma"}
    assert collect.rounded(shown[0])["loss"] == 0.333333
    assert len(collect.thinned(lines[:7])) == 7


def test_a_record_of_another_experiment_is_not_replaced(undisturbed, tmp_path, monkeypatch):
    folder, _ = undisturbed
    monkeypatch.chdir(folder)
    collect.main(["out", f"--to={tmp_path}"])
    path = next(tmp_path.rglob("noise/seed1/config.json"))
    path.write_text(json.dumps({**read_json(path), "noise_sigma": 0.7}))
    with pytest.raises(UserError, match="another config: noise_sigma"):
        collect.main(["out", f"--to={tmp_path}"])


def test_an_empty_study_is_not_collected(undisturbed, tmp_path, monkeypatch, capsys):
    folder, _ = undisturbed
    empty = tmp_path / "out" / "later" / "cpu"
    empty.mkdir(parents=True)
    record = read_json(next((folder / "out").rglob("study.json")))
    write_json(empty / "study.json", record | {"name": "later"})
    collect.main([str(tmp_path / "out"), f"--to={tmp_path / 'results'}"])
    assert "0 runs copied" in capsys.readouterr().out
    assert not list((tmp_path / "results").rglob("study.json"))


def test_a_record_of_another_run_is_not_replaced(undisturbed, tmp_path, monkeypatch):
    folder, _ = undisturbed
    monkeypatch.chdir(folder)
    collect.main(["out", f"--to={tmp_path}"])
    collect.main(["out", f"--to={tmp_path}"])
    path = next(tmp_path.rglob("noise/seed1/run.json"))
    path.write_text(json.dumps({**read_json(path), "began": "2026-01-01T00:00:00+00:00"}))
    with pytest.raises(UserError, match=r"another run of this config, begun 2026-01-01.* --to=my_results"):
        collect.main(["out", f"--to={tmp_path}"])


@pytest.mark.parametrize("words", [["nowhere"], [], ["--too=x"]])
def test_nothing_to_collect_is_one_line(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        collect.main(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["config/cpu.py", "config/study/tuning.py"], "config/cpu.py is the config of a run, not a study"),
        (["config/shakespeare_noise.py"], "python train.py config/shakespeare_noise.py"),
    ],
)
def test_a_config_is_not_taken_for_a_study(words, said):
    with pytest.raises(UserError, match=said):
        sweep.main(words)
