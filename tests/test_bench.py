"""bench/ at a tiny size: that what is measured is what it is called, and what is made of it."""

import dataclasses
import functools
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import card as card_tests
import made_up
import pytest
import torch
from conftest import LIMIT, tokens_of

import plot
from analysis import collect, records
from bench import __main__ as bench
from bench import card, gpu, measure, our_loop, report, subprocesses, turns
from bench.our_loop import OurLoop
from bench.plain_loop import PlainLoop, sample_plainly
from config import ROOT, UserError, settle
from config.study import read_study
from data.files import read_json, write_json
from model import GELU, GPT
from train import learning_rate
from training.machine import Machine, versions
from training.run import parameter_groups

SMALL = """
block_size, batch_size, n_layer, n_head, n_embd, dropout = 16, 4, 1, 2, 16, 0.1
max_iters, warmup_iters, log_interval = 40, 3, 5
eval_interval, eval_tokens, eval_train_tokens = 20, 512, 512
device, threads = "cpu", 1
"""


@pytest.fixture
def small(tmp_path, corpus, monkeypatch):
    """The name of a config file of a small run, in an empty working directory; a turn is one call."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(turns, "TURN", 0)
    (tmp_path / "small.py").write_text(SMALL + f"dataset = {str(corpus)!r}\n")
    return "small.py"


# The loops.


def test_the_plain_loop_samples_its_batches_from_the_map(parts):
    loop = PlainLoop(*parts(train_tokens=100))
    text = torch.from_numpy(tokens_of(loop.folder, "train").astype("int64"))
    windows = {tuple(text[i : i + 16].tolist()) for i in range(100 - 16)}
    (x, y), (again, _) = loop.batch("train"), loop.batch("train")
    assert x.shape == y.shape == (4, 16)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert {tuple(row) for row in x.tolist()} <= windows, "from the first train_tokens"
    assert not torch.equal(x, again)


def test_the_plain_loop_repeats_its_dropout(parts):
    losses = []
    for seed in (1, 2):
        loop = PlainLoop(*parts(dropout=0.5))
        torch.manual_seed(seed)
        losses.append([float(loop.train_step()) for _ in range(3)])
    assert losses[0] == losses[1]


def test_a_run_that_is_trained_whole_may_be_longer_than_those_measured(parts, monkeypatch):
    monkeypatch.setattr(our_loop, "LENGTH", 5)
    loop = OurLoop(*parts(max_iters=7))
    assert len([loop.train_step() for _ in range(7)]) == 7


def test_both_loops_begin_alike_and_train_alike(parts):
    options = {"gradient_accumulation_steps": 1, "dropout": 0.0, "n_embd": 32, "init_scale": 1.5}
    setting = parts(max_iters=60, noise_sigma=0.0, **options)
    plain, ours = PlainLoop(*setting), OurLoop(*setting)
    assert all(map(torch.equal, plain.model.parameters(), ours.model.parameters()))
    losses = torch.tensor([[float(loop.train_step()) for _ in range(60)] for loop in (plain, ours)])
    first, last = losses[:, :10].mean(1), losses[:, -10:].mean(1)
    assert (last < 0.85 * first).all()
    torch.testing.assert_close(last[0], last[1], rtol=0.05, atol=0)


def test_the_plain_loops_step_is_adamws(parts):
    """Accumulated, clipped and updated as PyTorch does it, at the schedule's rate."""
    loop = PlainLoop(*parts(gradient_accumulation_steps=2, dropout=0.0, grad_clip=0.1))
    twin = GPT.from_weights(loop.model.weights())
    batches = [loop.batch("train") for _ in range(3)]  # one ahead
    given = iter(batches)
    loop.batch = lambda _: next(given)
    loss = sum(twin(x, y)[1] for x, y in batches[:2]) / 2
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    rate = learning_rate(0, loop.config)
    torch.optim.AdamW(parameter_groups(twin, 0.1), lr=rate, betas=(0.9, 0.99)).step()
    assert loop.train_step().item() == pytest.approx(loss.item(), rel=1e-6)
    for one, other in zip(loop.model.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("activation", GELU)
def test_the_plain_model_is_ours_by_other_operators(parts, activation):
    loop = PlainLoop(*parts(dropout=0.0, activation=activation))
    x, y = loop.batch("train")
    ours = GPT.from_weights(loop.model.weights())
    torch.testing.assert_close(loop.model(x, y), ours(x, y))


@pytest.mark.parametrize(("start", "length"), [(1, 15), (32, 30)])
def test_samples_with_and_without_the_cache_are_the_same(parts, start, length):
    """Within the context, and from a full one, which is cut twice."""
    model = OurLoop(*parts()).model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)  # so that a text depends on what is before
    idx, ways = torch.arange(start).remainder(20).view(1, start), (GPT.generate, sample_plainly)
    assert torch.equal(*(way(model, idx, length, [torch.Generator().manual_seed(3)]) for way in ways))


# Measuring.


def test_every_ingredient_differs_from_its_absence_by_what_it_says(parts):
    config, _, _ = parts(noise_distribution="laplace", input_noise=0.2, diagnose_interval=3, log_interval=10)
    quiet = measure.without_noise(config)
    assert not quiet.noisy
    assert (quiet.input_noise, quiet.diagnose_interval, quiet.noise_distribution) == (0.0, 0, "gaussian")
    assert (quiet.max_iters, quiet.learning_rate) == (config.max_iters, config.learning_rate)
    words = {
        **{"dropout": "dropout", "clipping": "grad_clip", "logging": "log_interval"},
        **{"diagnosis": "diagnose_interval", "laplace": "noise_distribution", "scale": "noise_scale"},
        " in the ": "noise_target",
    }
    for kind in ("cpu", "cuda"):
        for name, (options, others, every) in measure.ingredients(config, kind).items():
            sides = [vars(measure.without_noise(config, **side)) for side in (options, others)]
            changed = {option for option in sides[0] if sides[0][option] != sides[1][option]}
            noise = {"noise_sigma", "noise_gamma"} if "noise: " in name else set()
            assert changed == {option for word, option in words.items() if word in name} | noise, name
            assert every == (10 if "logging" in name else 3 if "diagnosis" in name else 1)
            assert (kind, sides[0]["batch_size"]) in (("cpu", 2), ("cpu", 4), ("cuda", 4))


def test_a_step_of_a_fine_tuning_needs_no_pretrained_weights():
    tuning = settle({"init_from": "out/somewhere", "noisytune_lambda": 0.15})
    quiet = measure.without_noise(tuning)
    assert (quiet.init_from, quiet.noisytune_lambda) == (None, 0.0)


@pytest.mark.parametrize("name", ["gaussian", "under its floor", "in the weights"])
def test_noise_is_drawn_where_it_is_measured(parts, name):
    config, corpus, machine = parts()
    options, _, _ = measure.ingredients(config, "cpu")[f"noise: {name}"]
    loop = OurLoop(measure.without_noise(config, **options), corpus, machine)
    for _ in range(20):  # more than the run's own length
        loop.train_step()
    norms = loop.run.history[1:20, 2]
    assert (norms == 0).all() if "floor" in name else (norms > 0).all()


def test_logging_is_measured_by_logging(parts, tmp_path):
    with measure.run_folder(tmp_path / "here") as folder:
        loop = OurLoop(*parts(log_interval=2), folder)
        for _ in range(5):
            loop.train_step()
        lines = (folder.path / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["iter"] for line in lines] == [0, 2, 4]
    assert not list((tmp_path / "here").iterdir())


def test_turns_are_taken_in_both_orders_and_the_first_does_not_count(parts):
    called = []
    works = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = turns.in_turns(works, 3, parts()[2], {"a": 1, "b": 2})
    assert "".join(called) == "bbaabbbbaabb"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_what_was_measured_before_a_failure_is_kept(tmp_path):
    def rows():
        yield {"name": "one"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.write_parts(tmp_path / "bench.json", {"config": {}}, {"loops": lambda: 1, "ingredients": rows})
    assert read_json(tmp_path / "bench.json") == {"config": {}, "loops": 1, "ingredients": [{"name": "one"}]}


def test_a_measurement_is_whole_and_is_drawn(small, monkeypatch, capsys):
    monkeypatch.setattr(bench, "started", lambda name, words: {"peak_memory_bytes": 2e9})
    assert bench.main([small, "--noise_sigma=0.1", "--out=here"]) == 0
    said, found = capsys.readouterr().out, read_json("here/bench.json")
    assert list(found["loops"]) == ["plain", "ours", "quiet"]
    assert all(len(loop["seconds"]) == turns.TURNS for loop in found["loops"].values())
    wanted = list(measure.ingredients(settle(found["config"]), "cpu"))
    assert [row["name"] for row in found["ingredients"]] == wanted
    assert all(len(row[side]) == turns.TURNS for row in found["ingredients"] for side in ("with", "without"))
    look = found["evaluation"]
    assert (look["exact_tokens"], look["random_batches"], look["wanted_batches"]) == (512, 8, 200)
    assert found["checkpoint"]["bytes"] > 1e4
    assert [len(part) for name, part in found["sampling"].items() if name != "tokens"] == [turns.LONG_TURNS] * 4
    tables = report.tables("here")
    assert len(tables) == 3
    assert all(title in said for title in tables)
    assert [path.name for path in report.draw("here")] == ["bench.md"]


def test_losses_and_a_profile_of_both_loops_are_printed(small, capsys):
    for word, what in (("--noise_sigma=0.1", "has no noise"), ("--optimizer=sgd", "with optimizer='sgd'")):
        with pytest.raises(UserError, match=f"the plain loop .*{what}"):
            bench.main([small, word, "--losses=3", "--dataset=nowhere"])
    Path("file").write_text("")
    with pytest.raises(FileExistsError):
        bench.main([small, "--out=file"])
    capsys.readouterr()
    assert bench.main([small, "--losses=3", "--max_iters=10", "--warmup_iters=2"]) == 0
    said = capsys.readouterr().out
    assert said.count(" ± ") == 6
    assert said.count("(3 seeds); difference") == 2
    assert bench.main([small, "--profile", "--out=here"]) == 0
    assert capsys.readouterr().out.count("aten::mm") == 2
    assert read_json("here/trace.json")["traceEvents"]


# In processes of their own.


def test_a_process_that_fails_is_told_by_its_own_words():
    process = subprocess.Popen([sys.executable, "-c", "print('error: no memory')"], stdout=-1, text=True)
    with pytest.raises(UserError, match="ours loop failed: error: no memory"):
        subprocesses.read_until(subprocesses.READY, process, "ours")


def test_a_process_that_ends_before_it_is_measured_is_told_by_its_own_words(monkeypatch):
    opened, code = subprocesses.opened, f"print({subprocesses.READY!r}, 'error: no memory')"
    monkeypatch.setattr(subprocesses, "opened", lambda words, **how: opened(["-c", code], **how))
    read = subprocesses.read_until
    monkeypatch.setattr(
        subprocesses, "read_until", lambda *of: (read(*of), of[1].wait())[0]
    )  # too late to write
    with pytest.raises(UserError, match="ours loop failed: error: no memory"):
        subprocesses.at_once("ours", [])


@pytest.mark.slow
def test_loops_are_begun_and_runs_trained_in_processes_of_their_own(small, capsys, monkeypatch):
    monkeypatch.setattr(subprocesses, "SLICE", 0.5)
    for name in ("plain", "ours"):
        found = subprocesses.started(name, [small])
        assert found["peak_memory_bytes"] > 1e7
        assert found["compile_seconds"] is None, "nothing is compiled on a CPU"
    assert bench.main([small, "--jobs=1,2", "--out=here"]) == 0
    rows = read_json("here/jobs.json")["jobs"]
    assert [(row["jobs"], len(row["steps_per_second"])) for row in rows] == [(1, 1), (2, 2)]
    assert all(1 < rate < 1e4 for row in rows for rate in row["steps_per_second"])
    assert "runs an hour" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process is told of its parent's peak too")
def test_peak_memory_is_a_processes_own_and_may_be_unknown(monkeypatch):
    code = (
        "import torch; from training.machine import Machine; peak = Machine('cpu', 'float32', 1, 0).peak_memory"
    )
    code += "; before = peak(); torch.ones(50_000_000); print(before, peak())"
    held = torch.ones(150_000_000)  # 0.6 GB, which this process holds while it starts the other one
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, said.stdout.split())
    assert before < after < Machine("cpu", "float32", 1, False).peak_memory() - held.numel()
    assert 100e6 < after - before < 220e6, "200 MB, less what importing had given back"
    for answer in (lambda _: "VmSize:\t     9 kB\n", lambda _: open("nowhere")):
        monkeypatch.setattr("pathlib.Path.read_text", answer)
        assert Machine("cpu", "float32", 1, False).peak_memory() is None


def test_outside_git_the_revision_is_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr("training.machine.ROOT", tmp_path)
    monkeypatch.setenv("CODE_REVISION", "abc")
    assert versions()["revision"] == "abc"
    monkeypatch.delenv("CODE_REVISION")
    assert versions()["revision"] is None
    monkeypatch.setenv("CODE_REVISION", "abc")
    words = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "another's"]
    for command in (["init", "-q"], words):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    assert len(versions()["revision"]) == 40
    (tmp_path / "copied").mkdir()
    monkeypatch.setattr("training.machine.ROOT", tmp_path / "copied")
    assert versions()["revision"] == "abc"


# The report.

COLUMNS = [name for part in ("begun", "full") for name in (f"{part}_cached_seconds", f"{part}_plain_seconds")]
MADE_UP = {  # what bench.json would hold, in round numbers
    "machine": {"device": "cuda:0", "name": "a card", "compile": True},
    "loops": {
        "plain": {"dtype": "bfloat16", "seconds": [0.020, 0.030, 0.024]},
        "ours": {"dtype": "bfloat16", "seconds": [0.005, 0.006, 0.008]},
    },
    "started": {"ours": {"peak_memory_bytes": 3e9, "compile_seconds": 9.0}},
    "tokens_per_step": 16_384,
    "evaluation": {
        **{"exact_tokens": 1000, "val_tokens": 4000, "exact_seconds": [0.2, 0.1, 0.2]},
        **{"random_batches": 10, "wanted_batches": 200, "random_seconds": [1.0, 1.0, 1.0]},
    },
    "ingredients": [{"name": "logging", "every": 10, "with": [0.011, 0.012], "without": [0.01, 0.01]}],
    "sampling": {"tokens": 256} | dict(zip(COLUMNS, ([0.1, 0.2], [0.5, 0.6], [0.2, 0.2], [1.6, 1.6]))),
}


def test_benches_that_are_drawn_into_one_folder_keep_a_page_each(tmp_path):
    benches = ROOT / "results" / "speed"
    assert plot.main([str(benches), f"--out={tmp_path}"]) == 0
    pages = [path.parent.name for path in tmp_path.rglob("bench.md")]
    assert sorted(pages) == sorted(path.parent.name for path in benches.rglob("bench.json"))


def test_benches_of_one_name_keep_a_page_each(tmp_path):
    bench = next((ROOT / "results" / "speed").rglob("bench.json")).parent
    for place in ("one", "two"):
        shutil.copytree(bench, tmp_path / place / "bench")
    assert plot.main([str(tmp_path), f"--out={tmp_path / 'drawn'}"]) == 0
    assert len([*(tmp_path / "drawn").rglob("bench.md")]) == 2


def test_benches_may_be_named_in_any_way_and_are_drawn_once_and_in_place(tmp_path, monkeypatch):
    bench = next((ROOT / "results" / "speed").rglob("bench.json")).parent
    for place in ("here/a", "there/b"):
        shutil.copytree(bench, tmp_path / place)
    monkeypatch.chdir(tmp_path / "here")
    assert plot.main(["a", str(tmp_path / "here" / "a"), "../there/b"]) == 0
    assert plot.main(["../there/b", "a", "--out=drawn"]) == 0
    pages = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("bench.md"))
    assert pages == [
        *("here/a/figures/bench.md", "here/drawn/here/a/bench.md", "here/drawn/there/b/bench.md"),
        "there/b/figures/bench.md",
    ]


def test_runs_at_once_of_another_config_say_so(tmp_path):
    bench = read_json(next((ROOT / "results" / "speed").rglob("bench.json")))
    jobs = {**bench, "jobs": [{"jobs": 2, "steps_per_second": [9.0, 9.5]}]}
    for size, title in ((bench["parameters"], "Runs at once"), (10, "Runs at once (")):
        write_json(tmp_path / "jobs.json", {**jobs, "parameters": size})
        write_json(tmp_path / "bench.json", bench)
        assert next(iter(report.tables(tmp_path))).startswith(title)
        assert ("0.00 M parameters" in report.draw(tmp_path)[0].read_text()) == title.endswith("(")


def test_ratios_are_turn_by_turn_costs_are_differences_and_an_evaluation_is_of_the_whole_split():
    ours = report.loops(MADE_UP)["train.py"]
    assert ours["times as fast"] == pytest.approx([4, 5, 3])
    assert (ours["ms"], ours["tokens/s"]) == (pytest.approx([5, 6, 8]), pytest.approx(16_384 / 0.006))
    assert [*ours.values()][-2:] == [3, 9]
    assert ours["precision"] == "bfloat16, compiled"
    quiet = MADE_UP["loops"] | {"quiet": {"dtype": "bfloat16", "seconds": [0.004, 0.005, 0.008]}}
    (row,) = report.ingredients(MADE_UP | {"loops": quiet}).values()
    assert row == {"ms": pytest.approx([0.1, 0.2]), "%": pytest.approx([2, 4])}
    look, *texts = report.others(MADE_UP).values()
    assert (look["ms"], look["ms usual"]) == (pytest.approx([800, 400, 800]), pytest.approx([20_000] * 3))
    assert [text["times as fast"] for text in texts] == [pytest.approx([5, 3]), pytest.approx([8, 8])]
    assert report.shown([2.0, 1234.56, 0.00123]) == "2.000 (0.001 to 1,235)"
    assert [report.shown(value) for value in (None, float("nan"), "float32")] == ["–", "–", "float32"]


LATER = ("evaluation", "checkpoint", "sampling", "started", "ingredients")  # parts, after the loops


def test_the_committed_records_are_read_and_drawn(tmp_path):
    """Also what was cut short, of which there is as much as was measured."""
    folders = report.find_benches([ROOT / "results" / "speed"])
    assert len(folders) == 3
    for folder in folders:
        assert len(report.tables(folder)) == 3
        assert report.draw(folder, tmp_path / folder.name)[0].read_text().count("\n| --- |") == 3
    record = read_json(folders[0] / "bench.json")
    record = {name: part for name, part in record.items() if name not in LATER}
    write_json(tmp_path / "bench.json", record)
    assert list(report.tables(tmp_path)) == ["A step"]


def test_a_damaged_bench_is_one_line(tmp_path):
    for record, said in (({}, "has no corpus"), ({"corpus": "a", "parameters": "b"}, "parameters is 'b'")):
        write_json(tmp_path / "bench.json", record)
        with pytest.raises(UserError, match=rf"bench.json is damaged: .*{said}"):
            plot.main([str(tmp_path)])


# A card: check and train.


@pytest.fixture
def gpu_command(small, monkeypatch):
    """gpu_command(words) is what bench.gpu would do if it began now."""

    def do(*words):
        monkeypatch.setattr(gpu, "BEGAN", time.monotonic())
        return gpu.main([*words, "--out=kept"])

    return do


def test_a_test_that_hangs_or_ends_its_process_is_noted_and_the_others_go_on(tmp_path, monkeypatch):
    """Each is tried once, also what comes after them; the limits are those of the tests' names."""
    tests = {
        "hangs": "time.sleep(100)",
        "ends": "os._exit(5)",
        "spoils": "raise RuntimeError('CUDA error: an illegal access')",
        "fails": "assert 1 == 2, 'no'",
        "leaves": "assert 'spoils' not in STATE, STATE",
        "passes": "pass",
    }
    lines = ["import os, time, pytest", "STATE = set()", "@pytest.fixture", "def slow():"]
    lines += ["    yield", "    time.sleep(100)"]
    for name, does in tests.items():
        lines.append(f"def test_{name}({'slow' if name == 'leaves' else ''}): STATE.add('{name}'); {does}")
    (tmp_path / "test_these.py").write_text("\n".join(lines))
    monkeypatch.setattr(card_tests, "HERE", tmp_path)
    monkeypatch.chdir(tmp_path)
    plugin = Path(card_tests.__file__).read_text().replace("LIMIT = 20 ", "LIMIT = 1 ")
    plugin = plugin.replace("BEGINNING = 60 ", "BEGINNING = 1 ")
    (tmp_path / "card.py").write_text(plugin)
    assert card_tests.main("found", 2, "not cuda", "test_these.py") == 1
    found = {test.split("_")[-1]: known for test, known in card_tests.read("found").items()}
    outcomes = {name: re.sub(r" after.*", "", test["outcome"]) for name, test in found.items()}
    cut = "ended its process"
    assert outcomes == {
        **{"hangs": cut, "ends": cut, "spoils": "failed", "fails": "failed", "passes": "passed"},
        "leaves": f"passed, then {cut}",
    }
    assert "assert 1 == 2" in found["fails"]["said"], "the whole report"
    assert "in test_hangs" in found["hangs"]["said"]
    assert "in slow" in found["leaves"]["said"]


def test_a_hang_alone_is_a_failure(tmp_path, monkeypatch):
    (tmp_path / "test_these.py").write_text("import os\ndef test_ends(): os._exit(0)\ndef test_passes(): pass")
    shutil.copy(card_tests.__file__, tmp_path)
    monkeypatch.setattr(card_tests, "HERE", tmp_path)
    assert card_tests.main(str(tmp_path / "found"), 1, "not cuda", tmp_path / "test_these.py") == 1
    outcomes = [test["outcome"] for test in card_tests.read(tmp_path / "found").values()]
    assert outcomes == ["ended its process after 0 s", "passed"]


def test_the_tests_that_come_first_and_those_of_the_page_are_there():
    named = re.findall(r"(?m)^def (test_\w+)", (ROOT / "tests" / "test_cuda.py").read_text())
    assert card_tests.ORDER.keys() <= {*named}
    listed = re.findall(r"(?m)^\|.*`(test_\w+)` \|$", (ROOT / "docs" / "gpu.md").read_text())
    assert listed[: len(card_tests.ORDER)] == [*card_tests.ORDER]
    assert {*listed} <= {*named}


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")
def test_a_command_has_its_time_and_is_ended_with_all_that_it_began(tmp_path, monkeypatch):
    assert gpu.ended(["-c", "print(1); print('last')"], 60) == (0, ["1", "last"])
    assert gpu.ended(["-c", "raise SystemExit('no such card')"], 60) == (1, ["no such card"])
    code = "import subprocess as s; p = s.Popen(['sleep', '100']); open('pid', 'w').write(str(p.pid)); p.wait()"
    monkeypatch.chdir(tmp_path)
    assert gpu.ended(["-c", f"print('so far'); {code}"], 5) == (
        None,
        ["so far", "it took longer than its 5 seconds"],
    )
    state, until = Path("/proc") / Path("pid").read_text() / "stat", time.monotonic() + LIMIT
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < until


def test_a_way_of_computing_a_step_in_a_row():
    part = {"seconds": {"noise": [0.0051, 0.0053, 0.0052], "quiet": [0.005, 0.005, 0.005]}, "peak": 3e9}
    part |= {"how": "on", "compile": 9.0, "tokens": 52, "flops_per_token": 98.9e9}
    part |= {"evaluation": 0.5, "checkpoint": 0.1, "cudagraph_skips": 0}
    record = {"config": {"max_iters": 1000, "eval_interval": 100}}
    found = gpu.row(part, record | {"machine": {"name": "NVIDIA H100 80GB HBM3"}})
    assert found["the noise adds, ms"] == pytest.approx([0.1, 0.3, 0.2])
    assert found["the noise adds, %"] == pytest.approx(4)
    assert found["tokens a second"] == pytest.approx(10_000)
    assert found["FLOP/s, % of the card's"] == pytest.approx(100)
    assert found["a run, s"] == pytest.approx(5.2 + 11 * 0.6)
    assert gpu.row(part, record | {"machine": {"name": "NVIDIA L40S"}})["FLOP/s, % of the card's"] is None
    record |= {"machine": {"name": "a card"}, "compiled": part, "16 GB": {"batch": 64}}
    record["in CUDA graphs"] = part | {"how": "graphs", "evaluation": 0.4}
    assert gpu.fastest(record) == ["--compile=graphs"]
    assert gpu.fastest(record | {"tests failed": ["test_x[graphs-float32]"]}) == ["--compile=on"]
    for dtype, other in (("bfloat16", "float16"), ("float16", "bfloat16")):
        record["machine"]["dtype"] = dtype
        assert gpu.fastest(record | {"tests failed": [f"test_x[graphs-{dtype}]"]}) == ["--compile=on"]
        assert gpu.fastest(record | {"tests failed": [f"test_x[graphs-{other}]"]}) == ["--compile=graphs"]
    assert gpu.fastest({}) == []


def test_what_a_measurement_found_is_its_last_json_and_what_it_said_is_kept():
    said = ["{a set}", "CUDA graphs failed", '{"how": "on"}', "[W] a warning at exit"]
    kept = {"said": ["CUDA graphs failed", "[W] a warning at exit"]}
    assert gpu.found_in(said, 0) == {"how": "on"} | kept
    assert gpu.found_in(said[:2], 0) == {"error": "CUDA graphs failed", "said": ["CUDA graphs failed"]}
    assert gpu.found_in(said, None) == {"error": "[W] a warning at exit"} | kept
    assert len(gpu.found_in(["no"] * 40, 1)["said"]) == 30


@pytest.mark.parametrize(("ended", "begun"), [(1, 3), (0, 1)])
def test_a_failed_run_keeps_no_other_study_from_beginning(small, monkeypatch, ended, begun):
    """Unless nothing ended at all."""

    class Session:
        def __init__(self, study, *_):
            sessions.append(study.name)
            self.ended, self.seconds, self.signal = ended, 0, None
            self.run, self.report = lambda: None, lambda: 1

    sessions = []
    monkeypatch.setattr(gpu, "Session", Session)
    options = SimpleNamespace(out=Path("kept"), end=time.monotonic() + 100)
    assert gpu.train(options, [small, "--compile=off"], {}) == 1
    assert sessions == ["full_size", "full_size", "full_size_rates"][:begun]


def test_records_that_came_into_results_since_are_taken_in(small, monkeypatch):
    study = read_study(ROOT / "config" / "study" / "full_size.py", [small], seeds=[1, 2])
    for seed in (1, 2):
        made_up.make_study(Path("runs"), {"baseline": {}}, seeds=(seed,))
        collect.collect(Path("runs"), study.record(), place := Path("results") / study.name / study.size)
        if seed == 1:
            shutil.copytree(place, "kept")
    monkeypatch.setattr(gpu, "ROOT", Path.cwd())
    assert gpu.begin_records(study, Path("kept")) == {("baseline", 1), ("baseline", 2)}
    assert gpu.begin_records(study, Path("kept")) == {("baseline", 1), ("baseline", 2)}


def test_what_was_measured_on_another_machine_chooses_no_way(small, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "PLAN", [])
    monkeypatch.setattr(gpu, "fastest", lambda record: asked.append(record) or [])
    write_json("check.json", {"machine": {"name": "one"}})
    for name, times in (("another", 0), ("one", 1)):
        gpu.train(SimpleNamespace(out=Path()), [small], {"machine": {"name": name}})
        assert len(asked) == times


@pytest.fixture
def session(small, monkeypatch):
    """session(left, code, took) is a Session of runs that do what the code does; there are so many seconds
    left, and the last run took so many."""

    def begin(left, code, took=0.0):
        monkeypatch.setattr("training.worker.TRAIN", [sys.executable, "-c", code])
        study = read_study(ROOT / "config" / "study" / "full_size.py", [small], seeds=[1, 2])
        options = SimpleNamespace(jobs=2, end=time.monotonic() + left, seconds=20)
        return gpu.Session(study, options, Path("kept"), took)

    return begin


def test_a_run_that_cannot_end_in_time_is_not_begun(session):
    slow = session(50, "raise SystemExit(1)", took=60)
    slow.run()
    assert (slow.report(), slow.began) == (gpu.TIME_IS_UP, {})
    quick = session(50, "raise SystemExit(1)", took=10)
    quick.run()
    assert len(quick.failed) == len(quick.began) == 6


def test_runs_that_do_not_stop_when_asked_are_ended(session):
    deaf = session(4, "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(100)")
    began = time.monotonic()
    deaf.run()
    assert len(deaf.told) == 2
    assert 4 + deaf.grace <= time.monotonic() - began < 60


def test_the_largest_batch_is_found_by_doubling(parts, monkeypatch):
    """On a card of which every batch above 1,000 is too large, the limit set on that card."""
    config, corpus, machine = parts(batch_size=4)
    tried, limited = [], []
    monkeypatch.setattr(card, "OurLoop", lambda config, *_: config.batch_size)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *words: limited.append(words))

    def peak_memory(batch):
        tried.append(batch)
        if batch > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch

    monkeypatch.setattr(card, "peak_memory", peak_memory)
    machine = dataclasses.replace(machine, device="cuda:1")
    assert card.largest(config, corpus, machine)["batch"] == 512
    assert tried == [4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert limited == [(14 / 80, "cuda:1")]


def test_without_a_card_it_says_so(gpu_command, monkeypatch, corpus, tmp_path):
    monkeypatch.setattr("training.machine.best_device", lambda: "cpu")
    with pytest.raises(UserError, match="no CUDA card here"):
        gpu_command("check", "--device=auto")
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
def test_both_commands_for_a_card_are_rehearsed_whole(small, gpu_command, capsys, monkeypatch):
    """The second time nothing is trained, since results/ has the records."""
    assert gpu_command("check", small, "--compile=off", "--minutes=10", "--jobs=2") == 0
    said, found = capsys.readouterr().out, read_json("kept/check.json")
    assert "the noise adds, ms" in said
    assert [found[name]["how"] for name in gpu.PARTS if name != "16 GB"] == ["off"] * 4
    assert found["16 GB"]["batch"] == 8, "on a CPU twice the batch"
    monkeypatch.setattr(gpu, "read_study", functools.partial(read_study, seeds=[1]))
    words = ["train", small, "--max_iters=4", "--eval_interval=2", "--minutes=10"]
    assert gpu_command(*words) == 0
    assert read_json("kept/machine.json")["config"]["max_iters"] == 4
    said = capsys.readouterr().out
    assert re.findall(r"(?m)^(\w+), seed 1: best", said)[2] == "mild", "after the first two arms"
    assert said.count("1 of 16") == 3 * 2, "three losses of two arms"
    assert "incomplete" in said
    runs = {path.parent.parent.name: len(records.read_lines(path)) for path in Path("kept").rglob("*.gz")}
    assert runs == {"full_size": 3, "full_size_rates": 8}
    shutil.rmtree("out")
    Path("kept").rename("results")
    Path("config").symlink_to(ROOT / "config")
    monkeypatch.setattr(gpu, "ROOT", Path.cwd())
    assert gpu_command(*words) == 0
    assert "seed 1: best" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_card_needs_none_of_what_it_may_lack():
    lacking = ("jinja2", "matplotlib", "requests", "tiktoken", "transformers", "ruff", "xdist")
    code = f"import sys; sys.modules.update(dict.fromkeys({lacking})); sys.path.insert(0, 'tests')"
    code += "; import bench.gpu, bench.card, train, sweep, analysis.collect, card, test_cuda"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
