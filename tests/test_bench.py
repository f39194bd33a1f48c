"""bench/ at a tiny size: that what is measured is what it is called, and what is made of it."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import tokens_of

from bench import __main__ as bench
from bench import gpu, measure, report, subprocesses, turns
from bench.our_loop import OurLoop
from bench.plain_loop import PlainLoop, sample_plainly
from config import ROOT, UserError, settle
from data.files import read_json, write_json
from model import GPT
from train import learning_rate
from training.machine import Machine

SMALL = """
block_size = 16
batch_size = 4
n_layer = 1
n_head = 2
n_embd = 16
dropout = 0.1
max_iters = 40
warmup_iters = 3
eval_interval = 20
eval_tokens = 512
eval_train_tokens = 512
log_interval = 5
device = "cpu"
threads = 1
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


def test_both_loops_begin_alike_and_train_alike(parts):
    setting = parts(max_iters=60, noise_sigma=0.0, gradient_accumulation_steps=1, dropout=0.0, n_embd=32)
    plain, ours = PlainLoop(*setting), OurLoop(*setting)
    for one, other in zip(plain.model.parameters(), ours.model.parameters(), strict=True):
        assert torch.equal(one, other)
    losses = [[float(loop.train_step()) for _ in range(60)] for loop in (plain, ours)]
    for curve in losses:
        assert sum(curve[-10:]) < 0.85 * sum(curve[:10])
    assert sum(losses[0][-10:]) == pytest.approx(sum(losses[1][-10:]), rel=0.05)


def test_the_plain_loops_step_is_adamws(parts):
    """Accumulated, clipped and updated as PyTorch does it, at the schedule's rate."""
    loop = PlainLoop(*parts(gradient_accumulation_steps=2, dropout=0.0, grad_clip=0.1))
    twin = GPT.from_weights(loop.model.weights())
    batches = [loop.batch("train") for _ in range(2)]
    given = iter(batches)
    loop.batch = lambda _: next(given)
    loss = sum(twin(x, y)[1] for x, y in batches) / 2
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    rate = learning_rate(0, loop.config)
    torch.optim.AdamW(twin.parameter_groups(0.1), lr=rate, betas=(0.9, 0.99)).step()
    assert loop.train_step().item() == pytest.approx(loss.item(), rel=1e-6)
    for one, other in zip(loop.model.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other)


def test_samples_with_and_without_the_cache_are_the_same(parts):
    model = PlainLoop(*parts()).model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)  # so that a text depends on what is before
    for start, length in ((1, 15), (32, 30)):  # within the context; a full one, which is cut twice
        idx = torch.arange(start).remainder(20).view(1, start)
        texts = [
            way(model, idx, length, [torch.Generator().manual_seed(3)])
            for way in (GPT.generate, sample_plainly)
        ]
        assert torch.equal(*texts)


# Measuring.


def test_every_ingredient_differs_from_its_absence_by_what_it_says(parts):
    config, _, _ = parts(noise_distribution="laplace", input_noise=0.2, diagnose_interval=3, log_interval=10)
    quiet = measure.without_noise(config)
    assert not quiet.noisy
    assert (quiet.input_noise, quiet.diagnose_interval, quiet.noise_distribution) == (0.0, 0, "gaussian")
    assert (quiet.max_iters, quiet.learning_rate) == (config.max_iters, config.learning_rate)
    words = {
        **{"dropout": "dropout", "augmentation": "input_noise", "clipping": "grad_clip"},
        **{"logging": "log_interval", "diagnosis": "diagnose_interval"},
        **{"laplace": "noise_distribution", "scale": "noise_scale", " in the ": "noise_target"},
    }
    for kind in ("cpu", "cuda"):
        for name, (options, others, every) in measure.ingredients(config, kind).items():
            sides = [vars(measure.without_noise(config, **side)) for side in (options, others)]
            changed = {option for option in sides[0] if sides[0][option] != sides[1][option]}
            noise = {"noise_sigma", "noise_gamma"} if "noise: " in name else set()
            assert {option for word, option in words.items() if word in name} | noise <= changed, name
            assert len(changed) <= 1 + len(noise), name
            assert every == (10 if "logging" in name else 3 if "measured" in name else 1)
            assert (kind, sides[0]["batch_size"]) in (("cpu", 2), ("cpu", 4), ("cuda", 4))


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


@pytest.mark.parametrize("name", ["linear, bfloat16", "attention, bfloat16", "linear and GELU, evaluation"])
def test_an_operator_of_ours_and_the_usual_one_give_the_same(parts, name):
    ours, usual, *how = measure.operator_pairs(parts(block_size=64)[0])[name]
    for one, other in zip(measure.operate(ours, *how), measure.operate(usual, *how), strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=0.02, atol=0.02 * other.abs().max().item())


def test_turns_are_taken_in_both_orders_and_the_first_does_not_count(parts):
    _, _, machine = parts()
    called = []
    seconds = turns.in_turns({name: lambda name=name: called.append(name) for name in "ab"}, 3, machine)
    assert "".join(called) == "baabbaab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_what_was_measured_before_a_failure_is_kept(tmp_path):
    def rows():
        yield {"name": "one"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.write_part_by_part(tmp_path / "bench.json", {"config": {}}, "ingredients", rows())
    assert read_json(tmp_path / "bench.json") == {"config": {}, "ingredients": [{"name": "one"}]}


def test_a_measurement_is_whole_and_is_drawn(small, monkeypatch, capsys):
    begun = {"peak_memory_bytes": 2e9, "compile_cold_seconds": None, "compile_kept_seconds": None}
    monkeypatch.setattr(bench, "started", lambda name, words: begun)
    assert bench.main([small, "--noise_sigma=0.1", "--out=here"]) == 0
    said, found = capsys.readouterr().out, read_json("here/bench.json")
    assert [len(loop["seconds"]) for loop in found["loops"].values()] == [turns.TURNS] * 3
    wanted = list(measure.ingredients(settle(found["config"]), "cpu"))
    assert [row["name"] for row in found["ingredients"]] == wanted
    assert all(len(row[side]) == turns.TURNS for row in found["ingredients"] for side in ("with", "without"))
    look = found["evaluation"]
    assert (look["exact_tokens"], look["random_batches"], look["wanted_batches"]) == (512, 8, 200)
    assert found["checkpoint"]["bytes"] > 1e4
    assert [len(part) for name, part in found["sampling"].items() if name != "tokens"] == [turns.LONG_TURNS] * 4
    tables = report.tables("here")
    assert len(tables) == 4
    assert all(title in said for title in tables)
    assert {path.name for path in report.draw("here")} == {"bench.md", "bench.png"}


def test_losses_and_a_profile_of_both_loops_are_printed(small, capsys):
    assert bench.main([small, "--noise_sigma=0.1", "--losses", "--max_iters=10", "--warmup_iters=2"]) == 0
    said = capsys.readouterr().out
    assert "the plain loop has no noise" in said
    assert said.count(" ± ") == 4
    assert bench.main([small, "--profile", "--out=here"]) == 0
    assert capsys.readouterr().out.count("aten::mm") == 2
    assert read_json("here/trace.json")["traceEvents"]


# In processes of their own.


def test_steps_a_second_are_those_of_the_log(run, parts):
    folder = run(max_iters=12, log_interval=2, gradient_accumulation_steps=1)
    events = [
        {"kind": "train", "iter": at, "tokens_per_second": 64 * rate}
        for at, rate in ((0, 9), (2, 5), (4, 10), (6, 20))
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    some_run = SimpleNamespace(config=parts(gradient_accumulation_steps=1)[0], folder=folder)
    assert subprocesses.rate(some_run, 2) == pytest.approx(4 / (2 / 10 + 2 / 20))


def test_a_run_that_ends_too_early_is_told_by_its_own_words(tmp_path):
    run = SimpleNamespace(folder=tmp_path / "seed1")
    (tmp_path / "seed1.txt").write_text("begun\nerror: no memory\n")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(UserError, match="a run of 1 ended: error: no memory"):
        subprocesses.wait_for([run], [process], [5])


@pytest.mark.slow
def test_loops_are_begun_and_runs_trained_in_processes_of_their_own(small, capsys):
    for name in ("plain", "ours"):
        found = subprocesses.started(name, [small])
        assert found["peak_memory_bytes"] > 1e7
        assert found["compile_cold_seconds"] is None, "nothing is compiled on a CPU"
    assert bench.main([small, "--jobs=1,2", "--out=here"]) == 0
    rows = read_json("here/jobs.json")["jobs"]
    assert [(row["jobs"], len(row["steps_per_second"])) for row in rows] == [(1, 1), (2, 2)]
    assert "runs an hour" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process is told of its parent's peak too")
def test_peak_memory_is_a_processes_own():
    code = """
import torch
from training.machine import Machine
machine = Machine("cpu", "float32", 1, False)
before = machine.peak_memory()
torch.ones(50_000_000)
print(before, machine.peak_memory())
"""
    held = torch.ones(250_000_000)  # 1 GB, that the process which starts the other one holds
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    before, after = map(int, said.split())
    assert before < after < 4 * held.numel() - 1e8
    assert after - before == pytest.approx(200e6, rel=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such file")
def test_a_kernel_that_does_not_tell_the_peak_ends_no_run(monkeypatch):
    monkeypatch.setattr("pathlib.Path.read_text", lambda _: "VmSize:\t     9 kB\n")
    assert Machine("cpu", "float32", 1, False).peak_memory() is None


# The report.


def made_up(**more):
    """What bench.json would hold, in round numbers."""
    return {
        "machine": {"device": "cuda:0", "name": "a card", "compile": True},
        "loops": {
            "plain": {"dtype": "bfloat16", "seconds": [0.020, 0.030, 0.024]},
            "ours": {"dtype": "bfloat16", "seconds": [0.005, 0.006, 0.008]},
        },
        "started": {
            "ours": {"peak_memory_bytes": 3e9, "compile_cold_seconds": 9.0, "compile_kept_seconds": 2.0}
        },
        "tokens_per_step": 16_384,
        "evaluation": {
            **{"exact_tokens": 1000, "val_tokens": 4000, "exact_seconds": [0.2, 0.1, 0.2]},
            **{"random_batches": 10, "wanted_batches": 200, "random_seconds": [1.0, 1.0, 1.0]},
        },
        "ingredients": [
            {"name": "logging, every 10 steps", "every": 10, "with": [0.015, 0.02], "without": [0.005, 0.004]},
            {"name": "noise", "every": 1, "with": [0.011, 0.012, 0.019], "without": [0.01, 0.01, 0.02]},
        ],
        **more,
    }


def test_ratios_are_turn_by_turn_and_costs_are_differences():
    found = made_up()
    ours = report.loops(found).loc["train.py"]
    assert ours[["times", "times lowest", "times highest"]].tolist() == pytest.approx([4, 3, 5])
    assert ours[["ms", "tokens/s", "peak GB"]].tolist() == pytest.approx([6, 16_384 / 0.006, 3])
    assert ours[["precision", "compile s, cold", "compile s, kept"]].tolist() == ["bfloat16, compiled", 9, 2]
    rows = report.ingredients(found)
    assert rows.loc["noise"].tolist() == pytest.approx([1, -1, 2, 100 / 6, -100 / 6, 200 / 6])
    assert rows.loc["logging, every 10 steps", "ms"] == pytest.approx(1.3)
    found["loops"]["quiet"] = {"dtype": "bfloat16", "seconds": [0.004, 0.005, 0.008]}
    assert report.ingredients(found).loc["noise", "%"] == pytest.approx(20), "of the step without noise"
    assert report.loops(found).loc["train.py without noise", "times"] == pytest.approx(5)


def test_what_is_done_now_and_then_is_scaled_and_set_side_by_side():
    text = {"tokens": 256, "begun_cached_seconds": [0.1, 0.2, 0.1], "begun_plain_seconds": [0.5, 0.6, 0.8]}
    text |= {"full_cached_seconds": [0.2, 0.2, 0.1], "full_plain_seconds": [1.6, 1.6, 1.6]}
    rows = report.occasional(made_up(sampling=text))
    assert rows.loc["val loss, exact", "s"] == pytest.approx(0.8), "the whole split"
    assert rows.loc["200 random batches; exact", ["s", "ratio"]].tolist() == pytest.approx([20, 25])
    ratios = rows.filter(like="without cache", axis=0)["ratio"].tolist()
    assert ratios == pytest.approx([5, 8])


def test_the_committed_records_are_read_and_drawn(tmp_path):
    """Also what was cut short, of which there is as much as was measured."""
    folders = report.find_benches([ROOT / "results" / "speed"])
    assert len(folders) == 3
    for folder in folders:
        assert len(report.tables(folder)) == 4
        assert all(path.stat().st_size < 100_000 for path in report.draw(folder, tmp_path / folder.name))
    record = read_json(folders[0] / "bench.json")
    write_json(tmp_path / "bench.json", {name: record[name] for name in list(record)[:9]})
    assert len(report.tables(tmp_path)) == 1
    assert [path.name for path in report.draw(tmp_path)] == ["bench.md"]


# gpu.py


def test_the_command_for_a_card_does_part_after_part_and_leaves_what_it_says(small, monkeypatch):
    done = []

    def within(command, seconds, file):
        done.append((command[1:], seconds))
        print("the last line", file=file)
        if "--jobs=1,2" in command:
            rows = [{"jobs": n, "steps_per_second": [1.0] * n} for n in (1, 2)]
            write_json("kept/jobs.json", {"config": {"max_iters": 1}, "jobs": rows})
        if "sweep.py" in command[1]:
            for file in ("config", "run", "result"):
                write_json(f"out/table1_shakespeare/small/baseline/seed1/{file}.json", {})
            return gpu.TIME_IS_UP
        return 3 if "--profile" in command else 0

    monkeypatch.setattr(gpu, "within", within)
    assert gpu.main([small, "--minutes=10", "--out=kept"]) == 1, "a part failed"
    summary = read_json("kept/summary.json")
    assert [part["name"] for part in summary["parts"]] == [*gpu.SHARES, "runs", "collect"]
    errors = [part["error"] for part in summary["parts"]]
    assert errors == [None, None, "exit status 3: the last line", None, None, None]
    assert [seconds for _, seconds in done[:4]] == [600 * share for share in gpu.SHARES.values()]
    assert "--jobs=2" in done[4][0], "twice as many end"
    assert sum(gpu.SHARES.values()) + gpu.RESERVE < 0.95, "the runs have a share too"
    assert all("small.py" in words for words, _ in done[1:5])


def test_a_part_that_fails_or_takes_too_long_is_recorded(tmp_path):
    summary = {"parts": []}
    gpu.do("broken", ["-c", "print('one'); raise SystemExit('no such card')"], 60, tmp_path, summary)
    gpu.do("slow", ["-c", "import time; print('begun', flush=True); time.sleep(100)"], 2, tmp_path, summary)
    broken, slow = read_json(tmp_path / "summary.json")["parts"]
    assert broken["error"] == "exit status 1: no such card"
    assert (slow["error"], slow["last"], slow["status"]) == ("stopped after its 2 seconds", "begun", None)
    assert (tmp_path / "broken.txt").read_text() == "one\nno such card\n"


def test_so_many_runs_at_once_as_let_most_of_them_end():
    def jobs(*rates):
        rows = [{"jobs": n, "steps_per_second": [rate] * n} for n, rate in rates]
        return {"config": {"max_iters": 1000}, "jobs": rows}

    assert gpu.best_jobs(None, 100) == 1
    assert gpu.best_jobs(jobs((1, 100), (2, 80), (4, 30)), 100) == 2, "10, 16 and 12 end"
    assert gpu.best_jobs(jobs((1, 100), (2, 80), (4, 30)), 20) == 1, "2, 2 and 0 end"
    assert gpu.best_jobs(jobs((1, 10), (2, 10), (4, 10)), 100) == 4


def test_without_a_card_it_says_so(small, monkeypatch):
    monkeypatch.setattr("training.machine.best_device", lambda: "cpu")
    with pytest.raises(UserError, match="no CUDA card here"):
        gpu.main(["--dataset=none", "--minutes=1"])


@pytest.mark.slow
def test_the_command_for_a_card_is_rehearsed_whole(small, tmp_path, monkeypatch):
    (tmp_path / "base.py").write_text("dropout = 0.0\n")
    arms = 'arms = {"baseline": {}, "noise": dict(noise_sigma=0.1)}\nbaseline = "baseline"\nseeds = (1,)\n'
    (tmp_path / "pair.py").write_text(
        f'base = {str(tmp_path / "base.py")!r}\ncommon = dict(dtype="float32")\n{arms}'
    )
    monkeypatch.setattr(gpu, "STUDY", str(tmp_path / "pair.py"))
    assert gpu.main([small, "--minutes=8", "--out=kept"]) == 0, read_json("kept/summary.json")
    assert {path.name for path in (tmp_path / "kept").glob("*.json")} == {
        *("bench.json", "jobs.json", "summary.json")
    }
    assert "skipped" in (tmp_path / "kept" / "tests.txt").read_text()
