"""The seven laws of the house, one test or more each, named after it. mutations.py breaks each on purpose."""

import ast
import contextlib
import graphlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import checkpoint, own, same_weights, weights
from mutations import MUTATIONS

import noise
import train
from config import ROOT, UserError, load
from data import files
from data.files import read_json, replacing
from training.controls import TARGETS
from training.machine import Machine
from training.run_files import read_log, read_result
from training.run_folder import RunFolder

TIMES = {"tokens_per_second", "seconds", "peak_memory_bytes", "log_crc32"}  # what a clock decides


def timeless(folder):
    """Log and result without what a clock put into them."""
    events, truncated = read_log(folder)
    assert not truncated
    result = read_result(folder)
    return [{k: v for k, v in event.items() if k not in TIMES} for event in [*events, result]]


# Law 1. A run is a function of its config, its data and its seed.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_law_1_the_same_command_gives_the_same_bits(run, dtype):
    one, again = run("one", dtype=dtype, threads=2), run("again", dtype=dtype, threads=2)
    assert same_weights(one, again)
    assert timeless(one) == timeless(again)


def test_law_1_seeds_make_the_difference(run, new_run):
    one, other, reordered = run("one"), run("other", seed=2), run("reordered", data_seed=2)
    assert not same_weights(one, other)
    assert not same_weights(one, reordered)
    start, other_start, reordered_start = (new_run(**k) for k in ({}, {"seed": 2}, {"data_seed": 2}))
    assert torch.equal(start.model.wte.weight, reordered_start.model.wte.weight)
    assert not torch.equal(start.model.wte.weight, other_start.model.wte.weight)
    assert torch.equal(start.noise.unit(3)[0], reordered_start.noise.unit(3)[0])


def test_law_1_threads_and_precision_are_recorded_and_restored(run, stop_at, tmp_path, monkeypatch):
    whole = run("whole", threads=1, dtype="bfloat16")
    stop_at(7, "part", threads=1, dtype="bfloat16")
    recorded = json.loads((tmp_path / "part" / "run.json").read_text())["machine"]
    assert (recorded["threads"], recorded["dtype"]) == (1, "bfloat16")
    used, step = [], train.train_step
    monkeypatch.setattr(train, "train_step", lambda run: used.append(torch.get_num_threads()) or step(run))
    run("part", threads=2, dtype="bfloat16")
    assert set(used) == {1}
    assert same_weights(tmp_path / "part", whole)


def test_law_1_auto_precision_is_resumed_as_it_was_resolved(run, stop_at, monkeypatch):
    whole = run("whole", dtype="bfloat16")
    monkeypatch.setattr("training.machine.best_dtype", lambda device: "bfloat16")
    stop_at(7, "part", dtype="auto")
    monkeypatch.setattr("training.machine.best_dtype", lambda device: "float32")
    assert same_weights(run("part", dtype="auto"), whole)


# Law 2. Looking changes nothing.


@pytest.mark.parametrize(
    "looking",
    [
        {"eval_interval": 1, "log_interval": 5},
        {"eval_interval": 100, "checkpoint_interval": 1},
        {"eval_train_tokens": 64, "eval_tokens": 64, "sample_tokens": 20},
    ],
    ids="+".join,
)
def test_law_2_looking_changes_no_weight(run, new_run, looking):
    """Against steps alone, without any look."""
    bare = new_run()
    for _ in range(12):
        train.train_step(bare)
    watched = weights(run("watched", **looking))
    assert all(torch.equal(tensor, watched[name]) for name, tensor in bare.model.state_dict().items())


PLATEAU = {
    **{"noise_schedule": "plateau", "noise_gamma": 0.5, "plateau_interval": 2},
    **{"noise_sigma": 0.3, "learning_rate": 0.5},
}


def test_law_2_looking_more_often_does_not_steer_the_plateau_rule(run):
    assert same_weights(run("plain", **PLATEAU), run("watched", eval_interval=1, **PLATEAU))


# Law 3. The unit draw is a function of (seed, step) alone; sigma 0 is the baseline.


@pytest.mark.parametrize(
    "options",
    [
        {"noise_distribution": "laplace", "noise_scale": "tensor", "noise_gamma": 0.5},
        *({"noise_target": target} for target in TARGETS if target != "gradient"),
        *({"noise_before_clip": True}, {"noise_anticorrelated": True}),
        {"optimizer": "lion"},
        {"optimizer": "sgd", "noise_scale": "global"},
        {"noise_target": "second_moment_mean", "init_noise": 0.05, "init_scale": 2.0},
    ],
    ids=str,
)
def test_law_3_sigma_0_is_the_baseline_bit_for_bit(run, monkeypatch, options):
    silent = run("silent", noise_sigma=0.0, **options)
    monkeypatch.setattr(noise.GradientNoise, "add_", lambda self, step, norm: torch.zeros(()))
    assert same_weights(run("baseline", **{k: v for k, v in options.items() if "noise_" not in k}), silent)


def test_law_3_noise_and_baseline_share_weights_batches_and_dropout(run):
    """The first loss, dropout on, is the same number; so is every later one while the noise moves nothing."""
    runs = [run(f"sigma{sigma}", noise_sigma=sigma, learning_rate=1e-12) for sigma in (0.0, 0.1)]
    losses = [checkpoint(folder)["history"][:, 0] for folder in runs]
    assert losses[0][0] == losses[1][0]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-6)
    assert len(set(losses[0].tolist())) == 12


def test_law_3_the_draw_depends_on_nothing_else(run):
    """Not on dropout, batches, the data's order, evaluation, accumulation, or the global generator."""
    norms = []
    for options in (
        {},
        {"dropout": 0.0},
        {"data_seed": 5},
        {"gradient_accumulation_steps": 1},
        {"eval_interval": 1},
    ):
        torch.manual_seed(len(norms))
        norms.append(checkpoint(run(f"run{len(norms)}", **options))["history"][:, 2].tolist())
    assert norms[1:] == norms[:1] * 4
    assert len(set(norms[0])) == 12


def test_law_3_dropout_is_a_function_of_the_step(run, monkeypatch):
    """Whatever else used the global generator before a step does not matter to it."""
    plain, step = run("plain"), train.train_step
    monkeypatch.setattr(train, "train_step", lambda run: torch.randn(run.step + 1) is None or step(run))
    assert same_weights(run("disturbed"), plain)
    assert not same_weights(run("undropped", dropout=0.0), plain)


# Law 4. A run stopped at any instant resumes to the same weights.


class Crash(BaseException):
    """Stands for the end of the process."""


def crash_at(monkeypatch, instant):
    """Make the process end at its n-th write: before or after a file takes its place, or within a log line.

    Returns a function that gives the number of instants so far.
    """
    count, passed = iter(range(10**6)), []

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
        with open(folder.path / "log.jsonl", "r+b") as log:  # as if the line had been written in part
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
    options = {"max_iters": 8, "eval_interval": 3, "checkpoint_interval": 3, "sample_tokens": 0}
    if started:
        options |= {"init_from": run("source", max_iters=5), "noisytune_lambda": 0.15}
    whole = run("whole", **options)
    with monkeypatch.context() as patch:
        instants = crash_at(patch, None)
        run("counted", **options)
        total = instants()
    assert total > 25
    for instant in range(total):
        name = f"crash{instant}"
        with monkeypatch.context() as patch:
            crash_at(patch, instant)
            with pytest.raises(Crash):
                train.main(command(name, **options))
        folder = run(name, **options)
        assert same_weights(folder, whole), f"write {instant} of {total}"
        assert timeless(folder) == timeless(whole), f"write {instant} of {total}"
        shutil.rmtree(folder)


def test_law_4_the_plateau_rule_is_resumed(run, stop_at):
    """Stopped between two of its evaluations and just before one, after it has failed at least once."""
    whole = run("whole", **PLATEAU)
    sigmas = [event["sigma"] for event in read_log(whole)[0] if event["kind"] == "train"]
    assert sigmas[0] == 0.3 > sigmas[-1], "the rule never came into play"
    for at in (7, 9):
        stop_at(at, f"part{at}", **PLATEAU)
        assert same_weights(run(f"part{at}", **PLATEAU), whole)


def test_law_4_stopped_after_any_step(run, stop_at, tmp_path):
    """Before, on and after evaluations (every 4) and checkpoints (every 5)."""
    whole = run("whole")
    for at in (1, 4, 5, 7, 11):
        stop_at(at, name := f"part{at}")
        before = checkpoint(tmp_path / name)["seconds"]
        part = run(name)
        assert same_weights(part, whole), at
        assert timeless(part) == timeless(whole), at
        assert read_json(part / "result.json")["seconds"] > before > 0


def test_law_4_the_loss_scale_is_resumed(run, stop_at, monkeypatch):
    """float16, its scale on the way down from far too high when the run is stopped."""
    monkeypatch.setattr(Machine, "scaler", lambda self: torch.amp.GradScaler("cpu", init_scale=2.0**30))
    whole = run("whole", dtype="float16", max_iters=24)
    skipped = [event["skipped_steps"] for event in read_log(whole)[0] if event["kind"] == "train"]
    assert 7 < skipped[-1] < 24
    stop_at(7, "part", dtype="float16", max_iters=24)
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
    """Twice, in processes of their own, with dropout, accumulation and noise on."""
    options = {"max_iters": 300, "eval_interval": 25, "checkpoint_interval": 10, "learning_rate": 3e-3}
    whole = run("whole", **options)
    words = [sys.executable, "train.py", *command("killed", **options)]
    targets = sorted(random.Random(time.time_ns()).sample(range(20, 150), 2))
    print("killed at", targets)
    assert [kill_at(words, tmp_path / "killed", target) for target in targets] == [-signal.SIGKILL] * 2
    assert subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=True).returncode == 0
    assert same_weights(tmp_path / "killed", whole)
    assert timeless(tmp_path / "killed") == timeless(whole)
    assert not list((tmp_path / "killed").glob(".*.tmp"))
    assert len(json.loads((tmp_path / "killed" / "run.json").read_text())["resumed"]) == 2


# Law 5. The run folder is all that passes between train.py and the rest, and it explains itself.

FRONT = ["model", "noise", "noise_callbacks", "plot", "sample", "sweep", "train"]
MAY_IMPORT = {  # of ours, by room or module; the longest name that fits counts
    "config": [],
    "config.study": ["config"],
    "data": ["config", "data"],
    "noise": [],
    "noise_callbacks": ["noise"],
    "training.operators": [],
    "model": ["training.operators"],
    "training": ["config", "data", "model", "noise", "training"],
    "sample": ["config", "data", "noise", "training"],
    "train": ["config", "noise", "sample", "training"],
    "sweep": ["config", "data.files", "training.status", "training.terminal", "training.worker"],
    "analysis": ["config", "config.study", "data.files", "training.run_files", "analysis"],
    "plot": ["config", "data.files", "training.run_files", "analysis", "bench.report"],
    "bench": [*("config", "data", "model", "noise", "training", "train", "sweep", "analysis"), "bench"],
}
WITHOUT_TORCH = (
    *("config", "data.files", "data.meta", "data.build", "data.download", "data.unzip", "data.subword"),
    *("training.run_files", "training.run_folder", "training.status", "training.terminal", "training.worker"),
    *("sweep", "analysis", "plot"),
)


def modules():
    """{name: path} of all Python of ours, configs, prepare scripts and tests aside."""
    rooms = ("analysis", "bench", "training", "data")
    paths = [*own("*.py"), *(path for room in rooms for path in own(f"{room}/*.py"))]
    paths += [ROOT / "config" / "__init__.py", ROOT / "config" / "study" / "__init__.py"]
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def imports(path, known):
    """The modules of ours that one of ours imports, wherever in its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name in known and known[name].stat().st_size}  # an empty __init__ is none


def within(name, rooms):
    return max((room for room in rooms if f"{name}.".startswith(f"{room}.")), key=len, default=None)


def test_law_5_nothing_downstream_is_imported_upstream():
    known = modules()
    graph = {name: imports(path, known) for name, path in known.items()}
    assert [path.stem for path in own("*.py")] == FRONT, "the root has its seven files"
    for name, imported in graph.items():
        allowed = MAY_IMPORT[within(name, MAY_IMPORT)]
        strange = {other for other in imported if not within(other, allowed)}
        assert not strange, f"{name} imports {strange}"
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError where modules import each other


def test_law_5_a_run_folder_is_drawn_wherever_it_lies_without_torch(run, tmp_path):
    moved = tmp_path / "elsewhere" / "arm" / "seed1"
    shutil.move(run("arm/seed1"), moved)
    names = [name for name in modules() if within(name, WITHOUT_TORCH) and name not in ("data.corpus",)]
    code = (
        f"import sys, {', '.join(names)}\nplot.main([sys.argv[1]])\nassert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "elsewhere")], cwd=ROOT, check=True)
    drawn = {path.name for path in (tmp_path / "elsewhere" / "figures").iterdir()}
    assert {"figure1_training_loss.png", "figure2_validation_loss.pdf", "table1.md"} <= drawn


def test_law_5_the_folder_explains_itself(run, tmp_path):
    folder = run()
    about = json.loads((folder / "run.json").read_text())
    assert {"machine", "versions", "seeds", "parameters", "corpus", "resumed"} <= set(about)
    assert {"python", "torch", "cuda", "numpy", "platform", "revision"} <= set(about["versions"])
    assert about["seeds"] == {"seed": 1, "data_seed": 1}
    assert {"device", "dtype", "threads", "name"} <= set(about["machine"])
    assert {"vocabulary", "splits", "source"} <= set(about["corpus"])
    options = read_json(folder / "config.json")
    again = load([f"--{name}={value}" for name, value in {**options, "out_dir": tmp_path / "again"}.items()])
    assert train.main([f"--{name}={value}" for name, value in vars(again).items()]) == 0
    assert same_weights(tmp_path / "again", folder)


# Law 6. Nothing is half written, and no pickle is read.


def test_law_6_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with contextlib.suppress(Crash), replacing(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old"
        raise Crash
    assert path.read_bytes() == b"old"
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_law_6_a_killed_writer_leaves_the_old_file(tmp_path):
    code = (
        "import os, signal, sys; from data.files import replacing\n"
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


def test_law_6_no_pickle_is_read(command, stop_at, tmp_path):
    stop_at(7)
    torch.save({"step": Harm(tmp_path / "harmed")}, tmp_path / "run" / "last.pt")
    (tmp_path / "run" / "previous.pt").unlink()
    with pytest.raises(UserError, match=r"last.pt"):
        train.main(command())
    assert not (tmp_path / "harmed").exists()
    torch.load(tmp_path / "run" / "last.pt", weights_only=False)
    assert (tmp_path / "harmed").exists(), "the harm is none: this test could not fail"


WRITES = """
import os, sys
written = set()

def note(event, arguments):
    path, mode, flags = arguments if event == "open" else ("", "", 0)
    writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR) or set(mode or "") & set("wax+")
    if writes and not os.path.isdir(str(path)):  # an unnamed file in a folder is nobody's to see
        written.add(str(path))

sys.addaudithook(note)
import train, plot
from analysis import collect
place = sys.argv[1]
assert train.main(sys.argv[2:]) == 0
plot.main([place])
collect.main([place, f"--to={place}/records"])
print(*(f"wrote {path}" for path in written if path.startswith(place)), sep="\\n")
"""


def test_law_6_every_file_is_written_under_another_name_first(command, tmp_path):
    """But for the log, whose truncated last line is left out, and the lock, which holds nothing."""
    study = {"name": "a_study", "size": "tiny", "title": "", "baseline": "arm", "arms": ["arm"], "seeds": [1]}
    (tmp_path / "study.json").write_text(json.dumps(study))
    words = [str(tmp_path), *command("arm/seed1", sample_tokens=5)]
    process = subprocess.run(
        [sys.executable, "-c", WRITES, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    written = {line.rpartition("/")[2] for line in process.stdout.splitlines() if line.startswith("wrote ")}
    first = {name for name in written if name.startswith(".") and name.endswith(".tmp")}
    assert written - first == {"log.jsonl", "lock"}
    kinds = {name.rsplit(".", 2)[0] for name in first}
    assert {".last.pt", ".best.pt", ".run.json", ".figure2_validation_loss.png", ".runs.jsonl.gz"} <= kinds


def test_law_6_where_a_reader_is_in_the_way_the_new_file_waits_for_it(tmp_path, monkeypatch):
    """As on Windows, which replaces no open file; there alone."""
    replace, tries = os.replace, []

    def replace_later(*paths):
        tries.append(paths)
        if len(tries) < 4:
            raise PermissionError(13, "in use")
        replace(*paths)

    monkeypatch.setattr(files.os, "replace", replace_later)
    with pytest.raises(PermissionError), replacing(tmp_path / "file") as file:
        file.write(b"new")
    monkeypatch.setattr(files, "WINDOWS", True)
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert len(tries) == 4


# Law 7. A mistake of the user's is one line, exit status 2, before any work.

MISTAKES = [
    "train.py --learning_rte=1",
    "train.py config/none.py",
    "train.py --dataset=none",
    "train.py --device=cuda:99",
    "train.py --dataset={corpus} --block_size=100000 --out_dir=run",
    "train.py --dataset={corpus} --out_dir={corpus}/meta.json",
    "train.py --dataset={corpus} --init_from=nowhere",
    "plot.py",
    "plot.py nowhere",
    "plot.py {tmp} --width=3",
    "plot.py {tmp}",
    "sample.py",
    "sample.py nowhere",
    "sweep.py",
    "sweep.py config/study/none.py",
    "training.evaluate nowhere",
    "training.export nowhere {tmp}/new",
    "training.sharpness nowhere",
    "analysis.collect nowhere",
    "analysis.report nowhere",
    "bench --jobs=0",
    "bench --losses --profile",
    "bench.gpu",
    "bench.gpu check --dataset={corpus} --minutes=0",
    "bench.gpu train --dataset=none --device=cpu",
    "data/text_char/prepare.py",
    "data/text_char/prepare.py none.txt",
    "data/shakespeare_char/prepare.py --source=none.txt --force",
    "data/shakespeare_char/prepare.py --sorce=x",
    "data/shakespeare_char/prepare.py --forc",
    "sweep.py config/study/quickstart.py --arms=",
    "data/shakespeare_bpe/prepare.py --vocabulary=none.tiktoken",
]


@pytest.mark.parametrize("line", MISTAKES)
def test_law_7_a_mistake_is_one_line_and_status_2(line, tmp_path, corpus, monkeypatch, capsys):
    script, *words = line.format(tmp=tmp_path, corpus=corpus).split()
    monkeypatch.setattr(sys, "argv", [script, *words])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, script, raising=False)  # or runpy warns of it
    monkeypatch.delitem(sys.modules, f"{script}.__main__", raising=False)
    runs = runpy.run_path if script.endswith(".py") else runpy.run_module
    with pytest.raises(SystemExit) as end:
        runs(str(ROOT / script) if script.endswith(".py") else script, run_name="__main__")
    printed = capsys.readouterr()
    assert end.value.code == 2, printed.err
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["train.py", "--learning_rte=1"], ["plot.py", "nowhere"]], ids=" ".join)
def test_law_7_from_any_folder_in_a_process_of_its_own(words, tmp_path):
    command = [sys.executable, str(ROOT / words[0]), *words[1:]]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_law_7_a_machine_without_the_device_says_so(command, device):
    if getattr(torch, device).is_available():
        pytest.skip(f"there is {device} here")
    with pytest.raises(UserError, match="--device=auto"):
        Machine.choose(load(command(device=device)))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation[1])
def test_each_mutation_has_its_place_and_its_test(mutation):
    _, _, file, old, _, test = mutation
    assert (ROOT / file).read_text("utf-8").count(old) == 1
    path, _, name = test.partition("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text("utf-8")
