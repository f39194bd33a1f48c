"""bench.py and gpu.py at a tiny size: that what is measured is what it is called, and what is made of it."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import tokens_of

import plot
from bench import __main__ as bench
from bench import costs, gpu, processes
from bench.loops import LONG_TURNS, LOOPS, TURNS, OurLoop, PlainLoop, in_turns, sample_plainly, steps_in_turns
from config import ROOT, UserError, settle
from data.files import read_json, write_json
from model import GPT
from training import step as training
from training.evaluate import mean_loss
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
    """The name of a config file of a small run, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(SMALL + f"dataset = {str(corpus)!r}\n")
    return "small.py"


# The plain loop.


def test_the_plain_loop_draws_its_batches_from_the_map(parts):
    loop = PlainLoop(*parts(train_tokens=100))
    text = torch.from_numpy(tokens_of(loop.folder, "train").astype("int64"))
    windows = {tuple(text[i : i + 16].tolist()) for i in range(100 - 16)}
    (x, y), (again, _) = loop.batch(), loop.batch()
    assert x.shape == y.shape == (4, 16)
    assert x.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert {tuple(row) for row in x.tolist()} <= windows, "from the first train_tokens"
    assert not torch.equal(x, again)
    assert loop.batch("val")[0].shape == (4, 16)


def test_both_loops_begin_alike_and_train_alike(parts):
    setting = parts(max_iters=60, noise_sigma=0.0, gradient_accumulation_steps=1, dropout=0.0, n_embd=32)
    plain, ours = (kind(*setting) for kind in LOOPS.values())
    for one, other in zip(plain.model.parameters(), ours.model.parameters(), strict=True):
        assert torch.equal(one, other)
    losses = [[float(loop.train_step()) for _ in range(60)] for loop in (plain, ours)]
    for curve in losses:
        assert sum(curve[-10:]) < 0.85 * sum(curve[:10])
    assert sum(losses[0][-10:]) == pytest.approx(sum(losses[1][-10:]), rel=0.05)
    assert (plain.machine.dtype, plain.step, ours.training.step) == ("float32", 60, 60)
    assert plain.optimizer.defaults["fused"] is None


def test_the_plain_loops_step_is_adamws(parts):
    """Accumulated, clipped and updated as PyTorch's own does it, at the schedule's rate."""
    loop = PlainLoop(*parts(gradient_accumulation_steps=2, dropout=0.0, grad_clip=0.1))
    twin = GPT.from_weights(loop.model.weights())
    batches = [loop.batch() for _ in range(2)]
    given = iter(batches)
    loop.batch = lambda: next(given)
    loss = sum(twin(x, y)[1] for x, y in batches) / 2
    loss.backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.1)
    rate = training.learning_rate(0, loop.config)
    torch.optim.AdamW(twin.parameter_groups(0.1), lr=rate, betas=(0.9, 0.99)).step()
    assert loop.train_step().item() == pytest.approx(loss.item(), rel=1e-6)
    for one, other in zip(loop.model.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other)


def test_random_batches_estimate_the_exact_loss_and_change_nothing(parts):
    config, corpus, machine = parts()
    loop = PlainLoop(config, corpus, machine)
    before = [parameter.clone() for parameter in loop.model.parameters()]
    exact, batch, asked = mean_loss(loop.model, corpus.windows("val", 16)), loop.batch, []
    loop.batch = lambda split: asked.append(split) or batch(split)
    assert loop.evaluate("val", 40) == pytest.approx(exact, rel=0.02)
    assert asked == ["val"] * 40
    assert loop.model.training
    assert all(torch.equal(a, b) for a, b in zip(before, loop.model.parameters()))


def test_samples_with_and_without_the_cache_are_the_same(parts):
    model = PlainLoop(*parts()).model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)  # so that a text depends on what is before
    texts = [
        draw(model, torch.zeros((1, 1), dtype=torch.int64), 15, [torch.Generator().manual_seed(3)])
        for draw in (GPT.generate, sample_plainly)
    ]
    assert torch.equal(*texts)
    longer = [
        draw(model, texts[0].repeat(1, 2), 30, [torch.Generator().manual_seed(3)])
        for draw in (GPT.generate, sample_plainly)
    ]
    assert torch.equal(*longer), "a full context, and one that is cut twice"


def test_samples_are_measured_from_the_start_and_after_a_full_context(parts, monkeypatch):
    config, corpus, machine = parts()
    asked = []
    monkeypatch.setattr(
        bench, "sampling", lambda model, draw, start: asked.append((draw.__name__, start)) or (lambda: None)
    )
    bench.measure_sampling(OurLoop(config, corpus, machine), machine)
    assert asked == [("generate", 1), ("sample_plainly", 1), ("generate", 16), ("sample_plainly", 16)]


# Ingredients.


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_every_ingredient_differs_from_its_absence_by_what_it_says(parts, kind):
    config, _, _ = parts(
        noise_sigma=0.3, noise_distribution="laplace", input_noise=0.2, diagnose_interval=3, log_interval=10
    )
    knobs_of = vars(config) | bench.QUIET
    rows = bench.ingredients(config, kind)
    assert len({name for name, *_ in rows}) == len(rows) == 23
    quiet = settle(knobs_of)
    assert not quiet.noisy
    assert (quiet.input_noise, quiet.diagnose_interval, quiet.noise_distribution) == (0.0, 0, "gaussian")
    for name, knobs, others, every in rows:
        with_it, without = (vars(settle(knobs_of | own)) for own in (knobs, others))
        of_the_batch = kind == "cuda" or name.startswith(("dropout", "augmentation", "diagnosis: measured"))
        assert [side["batch_size"] for side in (with_it, without)] == [4 if of_the_batch else 2] * 2
        changed = {knob for knob in with_it if with_it[knob] != without[knob]}
        noise = {"noise_gamma"} | ({"noise_eta"} if "inverse" in name else {"noise_sigma"})
        for word, knob in {
            **{"inverse": "noise_schedule", "uniform": "noise_distribution", "laplace": "noise_distribution"},
            **{"scale": "noise_scale", "anticorrelated": "noise_anticorrelated", "moment": "noise_target"},
            **{"weights": "noise_target", "rate": "noise_target", "before clipping": "noise_before_clip"},
            **dict.fromkeys(("linear", "cosine", "constant"), "noise_schedule"),
        }.items():
            noise |= {knob} if word in name else set()
        own = {"dropout": "dropout", "augment": "input_noise", "clip": "grad_clip", "logging": "log_interval"}
        other = {knob for word, knob in own.items() if name.startswith(word)} or {"diagnose_interval"}
        assert changed == (noise if name.startswith("noise") else other), name
        assert every == (config.log_interval if "logging" in name else 3 if "every" in name else 1)


@pytest.mark.parametrize("name", ["gaussian, exponential", "gaussian, inverse", "under its floor", "weights"])
def test_noise_is_drawn_where_it_is_measured(parts, name):
    config, corpus, machine = parts()
    ((_, knobs, _, _),) = [row for row in bench.ingredients(config, "cpu") if row[0].endswith(name)]
    loop = OurLoop(settle(vars(config) | bench.QUIET | knobs), corpus, machine)
    for _ in range(20):  # more than the run's own length
        loop.train_step()
    norms = loop.training.trace[1:20, 2]
    assert (norms == 0).all() if "floor" in name else (norms > 0).all()
    assert (loop.training.noise._buffer is None) == ("floor" in name)
    assert loop.training.trace[:20, :2].isfinite().all()


def test_logging_is_measured_by_logging(parts, tmp_path):
    config, corpus, machine = parts(log_interval=2)
    with bench.run_folder(tmp_path / "here") as folder:
        loop = OurLoop(config, corpus, machine, folder)
        for _ in range(5):
            loop.train_step()
        lines = (folder.path / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["iter"] for line in lines] == [0, 2, 4]
    assert not list((tmp_path / "here").iterdir())


def test_what_was_measured_before_a_failure_is_kept(tmp_path):
    def rows():
        yield {"name": "one"}
        yield {"name": "two"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.write_part_by_part(tmp_path / "bench.json", {"config": {}}, "ingredients", rows())
    assert read_json(tmp_path / "bench.json") == {
        "config": {},
        "ingredients": [{"name": "one"}, {"name": "two"}],
    }


def test_turns_are_taken_in_both_orders_and_the_first_does_not_count(parts):
    _, _, machine = parts()
    called = []
    seconds = in_turns({name: lambda name=name: called.append(name) for name in "ab"}, 3, machine)
    assert "".join(called) == "baabbaab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_long_steps_take_fewer_turns(parts, monkeypatch):
    _, _, machine = parts()
    loop = SimpleNamespace(train_step=lambda: None, config=SimpleNamespace(max_iters=100))
    loops = {"a": loop, "b": loop}
    for seconds, turns in ((0.9, TURNS), (1.1, LONG_TURNS)):
        monkeypatch.setattr("loops.clock", lambda work, machine, seconds=seconds: work() or seconds)
        taken = steps_in_turns(loops, machine)
        assert taken == {name: [seconds] * turns for name in "ab"}


# The whole, and what is made of it.


PAIR = """
base = {base!r}
common = dict(dtype="float32")
arms = {{"baseline": {{}}, "noise": dict(noise_sigma=0.1)}}
baseline = "baseline"
seeds = (1,)
"""


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory, corpus):
    """The folder in which gpu.py has left everything, each part in a process of its own as on a card; the study
    has one seed of two arms."""
    folder = tmp_path_factory.mktemp("rehearsed")
    (folder / "small.py").write_text(SMALL + f"dataset = {str(corpus)!r}\n")
    (folder / "base.py").write_text("dropout = 0.0\n")
    (folder / "noisy.py").write_text("noise_sigma = 0.1\n")
    (folder / "pair.py").write_text(PAIR.format(base=str(folder / "base.py")))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(gpu, "STUDY", str(folder / "pair.py"))
        patch.setattr(gpu, "CONFIG", str(folder / "noisy.py"))
        assert gpu.main(["small.py", "--minutes=8", "--out=kept"]) == 0, read_json("kept/summary.json")
    return folder / "kept"


def test_a_measurement_is_whole(rehearsed):
    found = read_json(rehearsed / "bench.json")
    assert {"machine", "versions", "config", "corpus", "parameters", "began"} <= found.keys()
    for loop, dtype in (("plain", "float32"), ("ours", found["machine"]["dtype"])):
        assert (len(found["loops"][loop]["seconds"]), found["loops"][loop]["dtype"]) == (TURNS, dtype)
        assert found["started"][loop]["peak_memory_bytes"] > 1e7
        assert found["started"][loop]["compile_cold_seconds"] is None, "nothing is compiled on a CPU"
    names = [row["name"] for row in found["choices"]]
    assert {"AdamW fused", "windows as many as the cache holds", "matrices column by column"} <= set(names)
    assert all(
        len(row["done"]) == len(row["undone"]) == TURNS for row in found["choices"] if row["of"] == "step"
    )
    wanted = [row[0] for row in bench.ingredients(settle(found["config"]), "cpu")]
    assert [row["name"] for row in found["ingredients"]] == wanted
    assert all(len(row[side]) == TURNS for row in found["ingredients"] for side in ("with", "without"))
    look = found["evaluation"]
    assert (look["exact_tokens"], look["random_batches"], look["wanted_batches"]) == (512, 8, 200)
    text = found["sampling"]
    assert text.pop("tokens") == 16
    names = {f"{part}_{how}_seconds" for part in ("begun", "full") for how in ("cached", "plain")}
    assert {name: len(seconds) for name, seconds in text.items()} == dict.fromkeys(names, LONG_TURNS)
    assert found["checkpoint"]["bytes"] > 2 * found["checkpoint"]["best_bytes"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such file")
def test_a_kernel_that_does_not_tell_the_peak_ends_no_run(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda _: "VmSize:\t     9 kB\nVmRSS:\t     9 kB\n")
    assert Machine("cpu", "float32", 1, False).peak_memory() is None


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide for themselves")
def test_memory_that_a_step_frees_is_there_for_the_next_one(corpus):
    code = """
import resource
import sys
import train
from config import load
from bench.loops import OurLoop
from training.machine import Machine
config = load(sys.argv[1:])
loop = OurLoop(config, train.open_corpus(config, Machine.choose(config)), Machine.choose(config))
for count in (3, 4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        loop.train_step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    words = [
        "config/shakespeare_noise.py",
        "config/cpu.py",
        f"--dataset={corpus}",
        "--device=cpu",
        "--threads=1",
    ]
    command = [sys.executable, "-c", code, *words]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert int(said) < 4 * 500, "pages that the kernel had to give; thousands a step where it took them back"


def test_it_is_drawn_from_its_file_alone_and_in_the_same_bytes(rehearsed, tmp_path):
    for place in ("a", "b"):
        write_json(tmp_path / place / "bench.json", read_json(rehearsed / "bench.json"))
        assert plot.main([str(tmp_path / place)]) == 0
    drawn = sorted(path.name for path in (tmp_path / "a" / "figures").iterdir())
    assert drawn == ["bench.csv", "bench.md", "bench.pdf", "bench.png", "bench.tex"]
    for name in drawn:
        bytes_of = [(tmp_path / place / "figures" / name).read_bytes() for place in ("a", "b")]
        assert bytes_of[0] == bytes_of[1], name
    table = (tmp_path / "a" / "figures" / "bench.md").read_text()
    for words in ("| plain loop | float32 |", "| noise: laplace |", "| keys and values kept |", "| ratio |"):
        assert words in table
    assert plot.main([str(tmp_path), f"--out={tmp_path / 'both'}"]) == 0
    figure = costs.bench_figure([tmp_path / "a", tmp_path / "b"])
    assert len(figure.axes) == 2
    assert figure.get_size_inches()[0] == pytest.approx(3.3)


def test_no_text_of_the_figure_leaves_the_page(rehearsed):
    figure = costs.bench_figure([rehearsed])
    figure.canvas.draw()
    (axes,) = figure.axes
    for text in [*figure.texts, *axes.texts, *axes.get_yticklabels()]:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text


def test_steps_a_second_are_those_of_the_log(run, parts):
    folder = run(max_iters=12, log_interval=2, gradient_accumulation_steps=1)
    events = [
        {"kind": "train", "iter": at, "tokens_per_second": 64 * rate}
        for at, rate in ((0, 9), (2, 5), (4, 10), (6, 20), (8, 9))
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    some_run = SimpleNamespace(config=parts(gradient_accumulation_steps=1)[0], folder=folder)
    assert processes.rate(some_run, 2, 6) == pytest.approx(4 / (2 / 10 + 2 / 20))


# The other measurements.


def test_a_profile_has_both_loops_and_a_trace(small, capsys, tmp_path):
    assert bench.main([small, "--profile", "--out=here"]) == 0
    said = capsys.readouterr().out
    assert "in a step of the plain loop" in said
    assert "in a step of train.py" in said
    assert json.loads((tmp_path / "here" / "trace.json").read_text())["traceEvents"]
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["profile.json", "trace.json"]
    for found in read_json("here/profile.json")["profile"].values():
        seconds = [row["seconds"] for row in found["operations"]]
        assert all(row["calls"] > 0 for row in found["operations"])
        assert any(row["name"].startswith("aten::") for row in found["operations"])
        assert seconds == sorted(seconds, reverse=True)
        assert 0 < sum(seconds) <= found["seconds"] < 1
    assert plot.main(["here"]) == 0, "there is a table to draw, if no figure"
    assert sorted(path.name for path in (tmp_path / "here" / "figures").iterdir()) == [
        *("bench.csv", "bench.md", "bench.tex")
    ]


def test_losses_of_both_loops_are_set_side_by_side(small, capsys):
    assert bench.main([small, "--losses", "--max_iters=10", "--warmup_iters=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("mean loss to iteration" in line for line in lines) == 10
    assert any(line.startswith("val loss at the end") for line in lines)


def test_a_run_that_ends_too_early_is_told_by_its_own_words(tmp_path):
    run = SimpleNamespace(folder=tmp_path / "seed1")
    (tmp_path / "seed1.txt").write_text("begun\nerror: no memory\n")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(UserError, match="a run of 1 ended: error: no memory"):
        processes.wait_for([run], [process], SimpleNamespace(caught=0), 5)
    with pytest.raises(SystemExit, match="143"):
        processes.wait_for([run], [process], SimpleNamespace(caught=15), 5)


# gpu.py


def test_the_command_for_a_card_leaves_what_it_says(rehearsed, tmp_path):
    summary = read_json(rehearsed / "summary.json")
    assert [part["name"] for part in summary["parts"]] == [*gpu.SHARES, "runs", "collect"]
    assert all(part["error"] is None for part in summary["parts"])
    assert summary["card"] is None
    assert {"torch", "cuda", "revision"} <= summary["versions"].keys()
    texts = {f"{part['name']}.txt" for part in summary["parts"]}
    assert {path.name for path in rehearsed.iterdir()} == texts | {
        *("bench.json", "jobs.json", "profile.json", "summary.json", "pair")
    }
    jobs = read_json(rehearsed / "jobs.json")["jobs"]
    assert [(row["jobs"], len(row["steps_per_second"])) for row in jobs] == [(1, 1), (2, 2)]
    assert "skipped" in (rehearsed / "tests.txt").read_text()
    assert "aten::" in (rehearsed / "profile.txt").read_text()
    for arm in ("baseline", "noise"):
        assert read_json(rehearsed / "pair" / "small" / arm / "seed1" / "result.json")
    shutil.copytree(rehearsed, tmp_path / "kept")
    assert plot.main([str(tmp_path / "kept")]) == 0
    for figure in ("figures/bench.png", "pair/small/figures/figure2_validation_loss.png"):
        assert (tmp_path / "kept" / figure).is_file()


def test_a_part_that_fails_or_takes_too_long_is_recorded(tmp_path):
    summary = {"parts": []}
    for name, code, seconds in (
        ("broken", "print('one'); raise SystemExit('no such card')", 60),
        ("slow", "import time; print('begun', flush=True); time.sleep(100)", 2),
        ("runs", "raise SystemExit(4)", 60),
        ("whole", "print('all of it')", 60),
    ):
        gpu.do(name, [sys.executable, "-c", code], seconds, tmp_path, summary)
    broken, slow, runs, whole = read_json(tmp_path / "summary.json")["parts"]
    assert broken["error"] == "exit status 1: no such card"
    assert (slow["error"], slow["last"], slow["status"]) == ("stopped after its 2 seconds", "begun", None)
    assert (runs["error"], whole["error"], whole["last"]) == (None, None, "all of it")
    assert (tmp_path / "broken.txt").read_text() == "one\nno such card\n"


def test_so_many_runs_at_once_as_let_most_of_them_end():
    def jobs(*rates):
        rows = [{"jobs": n, "steps_per_second": [rate] * n} for n, rate in rates]
        return {"config": {"max_iters": 1000}, "jobs": rows}

    assert gpu.best_jobs(None, 100) == 1
    assert gpu.best_jobs(jobs((1, 100), (2, 80), (4, 30)), 100) == 2, "10, 16 and 12 end"
    assert gpu.best_jobs(jobs((1, 100), (2, 80), (4, 30)), 20) == 1, "2, 2 and 0 end"
    assert gpu.best_jobs(jobs((1, 10), (2, 10), (4, 10)), 100) == 4


@pytest.mark.parametrize(
    ("asked", "chosen", "more"),
    [("auto", "float16", ["--dtype=float16"]), ("auto", "bfloat16", []), ("float16", "float16", [])],
)
def test_the_runs_on_an_old_card_are_in_float16_as_what_is_measured(asked, chosen, more):
    config, machine = SimpleNamespace(dtype=asked), SimpleNamespace(dtype=chosen)
    assert gpu.in_its_precision(["cpu.py"], config, machine) == ["cpu.py", *more]


def test_without_a_card_it_says_so(small, monkeypatch):
    monkeypatch.setattr("machine.best_device", lambda: "cpu")
    with pytest.raises(UserError, match="no CUDA card here"):
        gpu.main(["--dataset=none", "--minutes=1"])
    assert sum(gpu.SHARES.values()) + gpu.RESERVE < 0.95, "the runs have a share too"
    assert (ROOT / "config" / "shakespeare_noise.py").samefile(gpu.CONFIG)
