"""bench/ at a tiny size: that what is measured is what it is called, and what is made of it."""

import json
import subprocess
import sys

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


def test_both_loops_begin_alike_and_train_alike(parts):
    setting = parts(max_iters=60, noise_sigma=0.0, gradient_accumulation_steps=1, dropout=0.0, n_embd=32)
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


@pytest.mark.parametrize(("start", "length"), [(1, 15), (32, 30)])
def test_samples_with_and_without_the_cache_are_the_same(parts, start, length):
    """Within the context, and from a full one, which is cut twice."""
    model = PlainLoop(*parts()).model.eval()
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
    assert bench.main([small, "--noise_sigma=0.1", "--losses", "--max_iters=10", "--warmup_iters=2"]) == 0
    said = capsys.readouterr().out
    assert "the plain loop has no noise" in said
    assert said.count(" ± ") == 4
    assert bench.main([small, "--profile", "--out=here"]) == 0
    assert capsys.readouterr().out.count("aten::mm") == 2
    assert read_json("here/trace.json")["traceEvents"]


# In processes of their own.


def test_a_process_that_fails_is_told_by_its_own_words():
    process = subprocess.Popen([sys.executable, "-c", "print('error: no memory')"], stdout=-1, text=True)
    with pytest.raises(UserError, match="ours loop failed: error: no memory"):
        subprocesses.read_until(subprocesses.READY, process, "ours")


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
    monkeypatch.setattr("pathlib.Path.read_text", lambda _: "VmSize:\t     9 kB\n")
    assert Machine("cpu", "float32", 1, False).peak_memory() is None


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


def test_the_committed_records_are_read_and_drawn(tmp_path):
    """Also what was cut short, of which there is as much as was measured."""
    folders = report.find_benches([ROOT / "results" / "speed"])
    assert len(folders) == 3
    for folder in folders:
        assert len(report.tables(folder)) == 3
        assert report.draw(folder, tmp_path / folder.name)[0].read_text().count("\n| --- |") == 3
    record = dict(list(read_json(folders[0] / "bench.json").items())[:9])
    write_json(tmp_path / "bench.json", record)
    assert list(report.tables(tmp_path)) == ["A step"]


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
    for seconds in (2, 20, 200):  # a loaded machine may take longer to begin
        words = ["-c", f"import time; print('begun', flush=True); time.sleep({100 * seconds})"]
        gpu.do("slow", words, seconds, tmp_path, summary)
        broken, *_, slow = read_json(tmp_path / "summary.json")["parts"]
        if slow["last"] == "begun":
            break
    assert broken["error"] == "exit status 1: no such card"
    assert slow["error"] == f"stopped after its {seconds} seconds"
    assert (slow["last"], slow["status"]) == ("begun", None)
    assert (tmp_path / "broken.txt").read_text() == "one\nno such card\n"


@pytest.mark.parametrize(
    ("seconds", "rates", "best"),
    [(100, {1: 100, 2: 80, 4: 30}, 2), (20, {1: 100, 2: 80, 4: 30}, 1), (100, {1: 10, 2: 10, 4: 10}, 4)],
)
def test_so_many_runs_at_once_as_let_most_of_them_end(seconds, rates, best):
    """10, 16 and 12 end; 2, 2 and 0; 1, 2 and 4."""
    rows = [{"jobs": n, "steps_per_second": [rate] * n} for n, rate in rates.items()]
    assert gpu.best_jobs({"config": {"max_iters": 1000}, "jobs": rows}, seconds) == best


def test_without_a_card_it_says_so(small, monkeypatch):
    monkeypatch.setattr("training.machine.best_device", lambda: "cpu")
    with pytest.raises(UserError, match="no CUDA card here"):
        gpu.main(["--dataset=none", "--minutes=1"])


@pytest.mark.slow
def test_the_command_for_a_card_is_rehearsed_whole(small, tmp_path, monkeypatch):
    (tmp_path / "base.py").write_text("dropout = 0.0\n")
    study = f'base = {str(tmp_path / "base.py")!r}\ncommon = dict(dtype="float32")\nbaseline = "a"\n'
    (tmp_path / "pair.py").write_text(study + 'arms = {"a": {}, "b": dict(noise_sigma=0.1)}\nseeds = (1,)\n')
    monkeypatch.setattr(gpu, "STUDY", str(tmp_path / "pair.py"))
    assert gpu.main([small, "--minutes=8", "--out=kept"]) == 0, read_json("kept/summary.json")
    assert len(list((tmp_path / "kept").glob("*.json"))) == 3
    assert "skipped" in (tmp_path / "kept" / "tests.txt").read_text()
