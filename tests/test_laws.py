"""The seven laws of the house, one test or more each, named after it. mutations.py breaks each on purpose."""

import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import checkpoint, same_weights, weights

import noise
import train
from config import ROOT, UserError, load
from data import files
from data.files import replacing
from training.machine import Machine
from training.run_folder import RunFolder, read_log

TIMES = {"tokens_per_second", "seconds", "peak_memory_bytes"}


def timeless(folder):
    """Log and result without what a clock put into them."""
    events, torn = read_log(folder)
    assert not torn
    result = json.loads((folder / "result.json").read_text())
    return [{k: v for k, v in event.items() if k not in TIMES} for event in [*events, result]]


# Law 1. A run is a function of its config, its data and its seed.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_law_1_the_same_command_gives_the_same_bits(run, dtype):
    one, again = run("one", dtype=dtype, threads=2), run("again", dtype=dtype, threads=2)
    assert same_weights(one, again)
    assert timeless(one) == timeless(again)


def test_law_1_seeds_make_the_difference(run, training):
    one, other, reordered = run("one"), run("other", seed=2), run("reordered", data_seed=2)
    assert not same_weights(one, other)
    assert not same_weights(one, reordered)
    start, other_start, reordered_start = (training(**k) for k in ({}, {"seed": 2}, {"data_seed": 2}))
    assert torch.equal(start.model.wte.weight, reordered_start.model.wte.weight)
    assert not torch.equal(start.model.wte.weight, other_start.model.wte.weight)
    assert torch.equal(start.noise.unit(3)[0], reordered_start.noise.unit(3)[0])


def test_law_1_threads_and_precision_are_recorded_and_restored(run, command, tmp_path, capsys, monkeypatch):
    whole = run("whole", threads=1, dtype="bfloat16")
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        assert train.main(command("part", threads=1, dtype="bfloat16")) == 128 + signal.SIGTERM
    recorded = json.loads((tmp_path / "part" / "run.json").read_text())["machine"]
    assert (recorded["threads"], recorded["dtype"]) == (1, "bfloat16")
    used = []
    step = train.train_step
    monkeypatch.setattr(train, "train_step", lambda t: used.append(torch.get_num_threads()) or step(t))
    run("part", threads=2, dtype="bfloat16")
    assert set(used) == {1}
    assert "threads 1 as this run began, not 2" in capsys.readouterr().out
    assert same_weights(tmp_path / "part", whole)


def test_law_1_auto_precision_is_resumed_as_it_was_resolved(run, command, monkeypatch):
    whole = run("whole", dtype="bfloat16")
    with monkeypatch.context() as patch:
        patch.setattr("machine.best_dtype", lambda device: "bfloat16")
        stop_at(patch, 7)
        train.main(command("part", dtype="auto"))
    monkeypatch.setattr("machine.best_dtype", lambda device: "float32")
    assert same_weights(run("part", dtype="auto"), whole)


# Law 2. Looking changes nothing.


@pytest.mark.parametrize(
    "looking",
    [
        {"eval_interval": 1},
        {"eval_interval": 100},
        {"log_interval": 5},
        {"checkpoint_interval": 1},
        {"eval_train_tokens": 64, "eval_tokens": 64},
        {"sample_tokens": 20},
    ],
    ids=lambda knobs: "+".join(knobs),
)
def test_law_2_looking_changes_no_weight(run, looking):
    assert same_weights(run("plain"), run("watched", **looking))


# Law 3. The unit draw is a function of (seed, step) alone; sigma 0 is the baseline.


def test_law_3_sigma_0_is_the_baseline_bit_for_bit(run, monkeypatch):
    silent = run("silent", noise_sigma=0.0, noise_distribution="laplace", noise_scale="tensor", noise_gamma=0.5)
    monkeypatch.setattr(noise.GradientNoise, "add_", lambda self, step: torch.zeros(()))
    assert same_weights(run("baseline"), silent)


def test_law_3_noise_and_baseline_share_weights_batches_and_dropout(run):
    """The first loss, dropout on, is the same number; so is every later one while the noise moves nothing."""
    runs = [run(f"sigma{sigma}", noise_sigma=sigma, learning_rate=1e-12) for sigma in (0.0, 0.1)]
    losses = [checkpoint(folder)["trace"][:, 0] for folder in runs]
    assert losses[0][0] == losses[1][0]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-6)
    assert len(set(losses[0].tolist())) == 12


def test_law_3_the_draw_depends_on_nothing_else(run):
    """Not on dropout, batches, the data's order, evaluation, accumulation, or the global generator."""
    norms = []
    for knobs in (
        {},
        {"dropout": 0.0},
        {"data_seed": 5},
        {"gradient_accumulation_steps": 1},
        {"eval_interval": 1},
    ):
        torch.manual_seed(len(norms))
        norms.append(checkpoint(run(f"run{len(norms)}", **knobs))["trace"][:, 2].tolist())
    assert norms[1:] == norms[:1] * 4
    assert len(set(norms[0])) == 12


def test_law_3_dropout_is_a_function_of_the_step(run, command, monkeypatch, tmp_path):
    """Whatever else used the global generator before a step does not matter to it."""
    plain = run("plain")
    step = train.train_step
    monkeypatch.setattr(train, "train_step", lambda t: torch.randn(t.step + 1) is None or step(t))
    assert same_weights(run("disturbed"), plain)
    undropped = run("undropped", dropout=0.0)
    assert not same_weights(undropped, plain)


# Law 4. A run stopped at any instant resumes to the same weights.


class Crash(BaseException):
    """Stands for the end of the process."""


def crash_at(monkeypatch, instant):
    """Make the process end at its n-th write: before or after a file takes its place, or within a log line.

    Returns a function that tells how many instants have gone by.
    """
    count = iter(range(10**6))
    passed = []

    def here():
        passed.append(next(count))
        if passed[-1] == instant:
            raise Crash

    replace, append = os.replace, RunFolder.append

    def crashing_replace(*paths):
        here()
        replace(*paths)
        here()

    def crashing_append(folder, event):
        append(folder, event)
        with open(folder.path / "log.jsonl", "r+b") as log:  # as if the line had not got out whole
            size = log.seek(0, os.SEEK_END)
            line = json.dumps(event).encode()[: random.Random(instant).randrange(40)]
            try:
                here()
            except Crash:
                log.seek(size)
                log.write(line)
                raise

    monkeypatch.setattr(files.os, "replace", crashing_replace)
    monkeypatch.setattr(RunFolder, "append", crashing_append)
    return lambda: len(passed)


@pytest.mark.parametrize("started", [False, True], ids=["fresh weights", "NoisyTune"])
def test_law_4_a_crash_at_every_single_write_resumes_to_the_same_bits(
    run, command, tmp_path, monkeypatch, started
):
    knobs = {"init_from": run("source", max_iters=5), "noisytune_lambda": 0.15} if started else {}
    whole = run("whole", **knobs)
    with monkeypatch.context() as patch:
        instants = crash_at(patch, None)
        run("counted", **knobs)
        total = instants()
    assert total > 30
    for instant in range(total):
        name = f"crash{instant}"
        with monkeypatch.context() as patch:
            crash_at(patch, instant)
            with pytest.raises(Crash):
                train.main(command(name, **knobs))
        folder = run(name, **knobs)
        assert same_weights(folder, whole), f"write {instant} of {total}"
        assert timeless(folder) == timeless(whole), f"write {instant} of {total}"
        shutil.rmtree(folder)


def stop_at(monkeypatch, at):
    """Send SIGTERM after `at` steps."""
    step = train.train_step

    def stopping(t):
        step(t)
        if t.step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train, "train_step", stopping)


PLATEAU = {
    "noise_schedule": "plateau",
    "noise_gamma": 0.5,
    "plateau_interval": 2,
    "noise_sigma": 0.3,
    "learning_rate": 0.5,
}


def test_law_4_the_plateau_rule_is_resumed(run, command, monkeypatch):
    """Stopped between two of its evaluations and just before one, after it has failed at least once."""
    whole = run("whole", **PLATEAU)
    sigmas = [event["sigma"] for event in read_log(whole)[0] if event["kind"] == "train"]
    assert sigmas[0] == 0.3 > sigmas[-1], "the rule never came into play"
    for at in (7, 9):
        with monkeypatch.context() as patch:
            stop_at(patch, at)
            assert train.main(command(f"part{at}", **PLATEAU)) == 128 + signal.SIGTERM
        assert same_weights(run(f"part{at}", **PLATEAU), whole)


def test_law_2_looking_more_often_does_not_steer_the_plateau_rule(run):
    assert same_weights(run("plain", **PLATEAU), run("watched", eval_interval=1, **PLATEAU))


@pytest.mark.parametrize("at", range(1, 12))
def test_law_4_stopped_after_any_step(run, command, monkeypatch, at):
    whole = run("whole")
    with monkeypatch.context() as patch:
        stop_at(patch, at)
        assert train.main(command("part")) == 128 + signal.SIGTERM
    part = run("part")
    assert same_weights(part, whole)
    assert timeless(part) == timeless(whole)


def test_law_4_the_loss_scale_is_resumed(run, command, monkeypatch):
    """float16, its scale on the way down from far too high when the run is stopped."""
    monkeypatch.setattr(Machine, "scaler", lambda self: torch.amp.GradScaler("cpu", init_scale=2.0**30))
    whole = run("whole", dtype="float16", max_iters=24)
    skipped = [event["skipped_steps"] for event in read_log(whole)[0] if event["kind"] == "train"]
    assert 7 < skipped[-1] < 24
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        train.main(command("part", dtype="float16", max_iters=24))
    part = run("part", dtype="float16", max_iters=24)
    assert same_weights(part, whole)
    assert timeless(part) == timeless(whole)


def kill_at(words, folder, iteration):
    """Start a process and kill it with SIGKILL once its log has reached an iteration."""
    log = folder / "log.jsonl"
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if log.exists() and f'"iter": {iteration},' in log.read_text():
                process.kill()
            time.sleep(0.001)
    return process.returncode


def test_law_4_sigkill_at_random_steps(run, command, tmp_path):
    """Before, on and after evaluations, with dropout, accumulation and noise on, in processes of their own."""
    knobs = {"max_iters": 400, "eval_interval": 25, "checkpoint_interval": 10, "learning_rate": 3e-3}
    whole = run("whole", **knobs)
    words = [sys.executable, "train.py", *command("killed", **knobs)]
    draw = random.Random(time.time_ns())
    evaluations = sorted(draw.sample(range(50, 250, 25), 3))
    targets = [at + offset for at, offset in zip(evaluations, (-1, 0, 1))] + [draw.randrange(251, 300)]
    print("killed at", targets)
    codes = [kill_at(words, tmp_path / "killed", target) for target in targets]
    assert codes == [-signal.SIGKILL] * 4
    assert subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=True).returncode == 0
    assert same_weights(tmp_path / "killed", whole)
    assert timeless(tmp_path / "killed") == timeless(whole)
    assert not list((tmp_path / "killed").glob(".*.tmp"))
    resumed = json.loads((tmp_path / "killed" / "run.json").read_text())["resumed"]
    assert len(resumed) == 4


# Law 5. The run folder is all that passes between train.py and the rest, and it explains itself.

ORDER = (  # upstream to downstream; a room imports only what stands before it
    *("config", "data.files", "data.build", "data.download", "data.unzip", "data.subword", "data.corpus"),
    *("model", "gpt2", "noise", "diagnose", "machine", "progress", "ranks", "runs", "evaluate"),
    *("sharpness", "sample", "export", "start", "training", "train", "loops", "study", "sweep"),
    *("compare", "arms", "collect", "tables", "panels", "curves", "effects", "costs", "plot", "sentences"),
    *("controls", "findings", "report"),
)
MEASURING = ("choices", "processes", "bench", "gpu")  # after all, of every room, and no room's
WITHOUT_TORCH = (
    *("config", "data.files", "data.build", "data.download", "data.unzip", "data.subword"),
    *("progress", "runs", "study", "sweep", "collect", "costs", "sentences", "controls", "findings", "report"),
)


def imports(module):
    """The modules that one of ours imports, wherever in its code."""
    path = ROOT / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def test_law_5_nothing_downstream_is_imported_upstream():
    scripts = {path.stem for path in ROOT.glob("*.py")}
    rooms = ORDER + MEASURING
    assert scripts <= set(rooms), "a new room has its place in ORDER"
    for number, module in enumerate(rooms):
        own = {name for name in imports(module) if name in rooms}
        assert own <= set(rooms[:number]), module
    for module in ORDER[ORDER.index("study") :]:
        assert not {"train", "model", "noise", "evaluate", "machine"} & set(imports(module)), module


def test_law_5_a_run_folder_is_drawn_wherever_it_lies_without_torch(run, tmp_path, corpus):
    source = run("arm/seed1")
    moved = tmp_path / "elsewhere" / "arm" / "seed1"
    shutil.copytree(source, moved)
    shutil.rmtree(source)
    code = (
        f"import sys, plot, {', '.join(WITHOUT_TORCH)}\nplot.main([sys.argv[1]])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "elsewhere")], cwd=ROOT, check=True)
    names = {path.name for path in (tmp_path / "elsewhere" / "figures").iterdir()}
    assert {"figure1_training_loss.png", "figure2_validation_loss.pdf", "table1.md"} <= names


def test_law_5_the_folder_explains_itself(run, tmp_path):
    folder = run()
    about = json.loads((folder / "run.json").read_text())
    assert {"machine", "versions", "seeds", "parameters", "corpus", "resumed"} <= set(about)
    assert {"python", "torch", "cuda", "numpy", "platform", "revision"} <= set(about["versions"])
    assert about["seeds"] == {"seed": 1, "data_seed": 1}
    assert {"device", "dtype", "threads", "name"} <= set(about["machine"])
    assert {"vocabulary", "splits", "source"} <= set(about["corpus"])
    knobs = json.loads((folder / "config.json").read_text())
    again = load([f"--{name}={value}" for name, value in {**knobs, "out_dir": tmp_path / "again"}.items()])
    assert train.main([f"--{name}={value}" for name, value in vars(again).items()]) == 0
    assert same_weights(tmp_path / "again", folder)


# Law 6. Nothing is half written, and no pickle is read.


def test_law_6_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail_half_way():
        with replacing(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_bytes() == b"old"
            raise Crash

    with pytest.raises(Crash):
        fail_half_way()
    assert path.read_bytes() == b"old"
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_law_6_a_killed_writer_leaves_the_old_file(tmp_path):
    code = (
        "import os, signal, sys; from files import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    (tmp_path / "file").write_bytes(b"old")
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_bytes() == b"old"


class Harm:
    """What a pickle can hide: a call that happens while it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_law_6_no_pickle_is_read(run, command, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        train.main(command())
    torch.save({"step": Harm(tmp_path / "harmed")}, tmp_path / "run" / "last.pt")
    with pytest.raises(UserError, match=r"last.pt is damaged or no checkpoint"):
        train.main(command())
    assert not (tmp_path / "harmed").exists()
    torch.load(tmp_path / "run" / "last.pt", weights_only=False)
    assert (tmp_path / "harmed").exists(), "the harm is none: this test could not fail"


def test_law_6_every_file_of_a_run_is_written_atomically():
    """`open` for writing stands in files.py, there for the lock too, and in runs.py for the log."""
    writes = []
    for path in [*ROOT.glob("*.py"), *ROOT.glob("data/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(getattr(node, "func", None), "id", getattr(getattr(node, "func", None), "attr", ""))
            if isinstance(node, ast.Call) and name in ("write_text", "write_bytes", "savetxt", "tofile"):
                writes.append(f"{path.name}: {name}")
            if isinstance(node, ast.Call) and name == "open" and len(node.args) > 1:
                mode = getattr(node.args[1], "value", "a variable")
                if mode not in ("r", "rb"):
                    writes.append(f"{path.name}: {mode}")
    assert sorted(writes) == ["files.py: a", "files.py: a variable", "runs.py: a", "sweep.py: a"]


def test_who_waits_for_a_lock_waits_however_long(tmp_path, monkeypatch):
    """Windows gives up after ten seconds, and says that another process holds it."""
    answers, held = [False, False, True], files.held
    monkeypatch.setattr(files, "held", lambda file, wait: answers.pop(0) and held(file, wait))
    files.lock(tmp_path / "lock", wait=True).close()
    assert not answers
    answers += [False, True]
    assert files.lock(tmp_path / "lock") is None
    assert answers == [True], "asked once"


# Law 7. A mistake of the user's is one line, exit status 2, before any work.


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "--learning_rte=1"],
        ["train.py", "config/none.py"],
        ["train.py", "--dataset=none"],
        ["train.py", "--device=cuda:99"],
        ["train.py", "--dataset={corpus}", "--block_size=100000", "--out_dir=run"],
        ["train.py", "--dataset={corpus}", "--out_dir={corpus}/meta.json"],
        ["plot.py"],
        ["plot.py", "nowhere"],
        ["plot.py", "{tmp}", "--width=3"],
        ["plot.py", "{tmp}"],
        ["bench.py", "--jobs=0"],
        ["bench.py", "--losses", "--profile"],
        ["gpu.py", "--dataset={corpus}", "--minutes=0"],
        ["gpu.py", "--dataset={corpus}", "--device=cuda:99"],
        ["evaluate.py", "nowhere"],
        ["sample.py"],
        ["sample.py", "nowhere"],
        ["train.py", "--dataset={corpus}", "--init_from=nowhere"],
        ["export.py", "nowhere", "{tmp}/new"],
        ["data/text_char/prepare.py"],
        ["data/text_char/prepare.py", "none.txt"],
        ["data/shakespeare_char/prepare.py", "--source=none.txt", "--force"],
        ["data/shakespeare_bpe/prepare.py", "--vocabulary=none.tiktoken"],
    ],
    ids=" ".join,
)
def test_law_7_a_mistake_is_one_line_and_status_2(words, tmp_path, corpus):
    script, *words = [word.format(tmp=tmp_path, corpus=corpus) for word in words]
    process = subprocess.run(
        [sys.executable, str(ROOT / script), *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_law_7_a_machine_without_the_device_says_so(command, device):
    if (device == "cuda" and torch.cuda.is_available()) or (
        device == "mps" and torch.backends.mps.is_available()
    ):
        pytest.skip(f"there is {device} here")
    with pytest.raises(UserError, match="--device=auto"):
        Machine.choose(load(command(device=device)))


def test_law_7_the_weights_of_a_run_are_evaluated_exactly(run, capsys):
    """And the command that does it answers a run folder's mistakes too."""
    from training import evaluate

    folder = run()
    capsys.readouterr()
    evaluate.main([str(folder)])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads((folder / "result.json").read_text())
    assert f"last weights, val: {result['final_val_loss']:.4f} nats" in "\n".join(lines)
    assert ["train" in line for line in lines[1:]] == [False, False, True, True], "the longest at last"
    assert (lines[0], len(lines)) == ("small", 5)
    few = run("few", train_tokens=600, eval_train_tokens=600)
    capsys.readouterr()
    evaluate.main([str(few)])
    loss = json.loads((few / "result.json").read_text())["final_train_loss"]
    assert f"last weights, train: {loss:.4f} nats" in capsys.readouterr().out, "of what it was trained on"
    assert weights(folder)
