"""bench.py and gpu.py at a tiny size: that what is measured is what it is called, and what is made of it."""

import json
import platform
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import tokens_of
from made_up import make_study

import bench
import choices
import costs
import gpu
import model
import plot
import processes
import report
import train
import training
from config import ROOT, UserError, load, settle
from evaluate import mean_loss
from files import read_json, write_json
from loops import LOOPS, TURNS, OurLoop, PlainLoop, in_turns, sample_plainly
from machine import Machine
from model import GPT
from tables import comma_separated, markdown

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
def parts(command):
    """parts(key=value, ...): (config, corpus, machine)."""

    def build(**knobs):
        config = load(command(**knobs))
        return config, train.open_corpus(config, machine := Machine.choose(config)), machine

    return build


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
    exact = mean_loss(loop.model, corpus.windows("val", 16))
    assert loop.evaluate("val", 40) == pytest.approx(exact, rel=0.02)
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


# Choices.

STEP_CHOICES = [
    *("bfloat16", "attention by plain products", "its scale and mask within a product"),
    *("four dropout masks a draw", "AdamW fused", "a batch by one index", "noise by one draw"),
]


@pytest.fixture
def chosen(parts):
    """chosen(name, key=value, ...): (train.py's loop, the same without the choice of that name)."""

    def build(name, **knobs):
        setting = parts(**{"dtype": "bfloat16", "noise_sigma": 0.1, "dropout": 0.1} | knobs)
        return OurLoop(*setting), choices.step_choices(*setting)[name]()

    return build


def test_choices_are_those_that_are_taken(parts):
    def taken(**knobs):
        return list(choices.step_choices(*parts(**knobs)))

    assert taken(dtype="bfloat16", noise_sigma=0.1, dropout=0.1) == STEP_CHOICES
    assert taken(dtype="float32", noise_sigma=0.0, dropout=0.0, input_noise=0.1) == ["AdamW fused"]
    assert taken(dtype="float32", noise_sigma=0.1, noise_scale="global", optimizer="sgd", dropout=0.1) == [
        *STEP_CHOICES[1:4], "a batch by one index"
    ]  # fmt: skip
    machine = SimpleNamespace(kind="cuda", dtype="bfloat16", compile=True)
    config, corpus, _ = parts(noise_sigma=0.1)
    assert list(choices.step_choices(config, corpus, machine)) == [
        *("bfloat16", "blocks compiled", "attention fused"), *STEP_CHOICES[4:]
    ]  # fmt: skip
    assert not choices.evaluation_choices(machine)


@pytest.mark.parametrize("name", STEP_CHOICES)
def test_a_step_without_a_choice_is_the_same_step(chosen, name):
    """But for rounding, and for what a batch, dropout or noise draws."""
    loops = chosen(name, dropout=0.1 if "dropout" in name else 0.0, gradient_accumulation_steps=1)
    for loop in loops:
        for _ in range(3):
            loop.train_step()
    losses, noises = ([loop.training.trace[:3, column] for loop in loops] for column in (0, 2))
    drawn = "dropout" in name or "batch" in name
    assert torch.allclose(*losses, rtol=0.2 if drawn else 0.01)
    assert torch.equal(*noises) != ("noise" in name), "its norm is part of train.py's"


@pytest.mark.parametrize(
    ("name", "module", "function", "other"),
    [
        (STEP_CHOICES[1], model, "plain_attention", "fused_attention"),
        (STEP_CHOICES[2], model, "plain_attention", "attention_in_parts"),
        (STEP_CHOICES[5], training, "batch", "batch_by_rows"),
        (STEP_CHOICES[6], training, "add_noise", "noise_by_tensors"),
    ],
)
def test_without_a_choice_the_other_is_called_and_the_choice_comes_back(
    chosen, monkeypatch, name, module, function, other
):
    called, inner, before = [], getattr(choices, other), getattr(module, function)
    monkeypatch.setattr(choices, other, lambda *given: called.append(other) or inner(*given))
    ours, undone = chosen(name)
    ours.train_step()
    assert not called
    undone.train_step()
    assert called
    assert getattr(module, function) is before


def test_other_precision_and_optimizer_without_the_choice(chosen):
    ours, undone = chosen("bfloat16")
    assert (ours.machine.dtype, undone.machine.dtype, undone.training.machine.dtype) == (
        "bfloat16",
        *["float32"] * 2,
    )
    ours, undone = chosen("AdamW fused")
    assert [loop.training.optimizer.defaults["fused"] for loop in (ours, undone)] == [True, None]


def test_attentions_written_otherwise_are_the_same():
    q, k, v = torch.randn((3, 2, 3, 8, 4), generator=torch.Generator().manual_seed(1))
    wanted = model.plain_attention(q, k, v, 0.0)
    for other in (choices.fused_attention, choices.attention_in_parts):
        torch.testing.assert_close(other(q, k, v, 0.0), wanted)


def test_evaluations_without_a_choice_are_the_same(parts):
    config, corpus, machine = parts(block_size=64, batch_size=2, eval_tokens=8192)
    t = OurLoop(config, corpus, machine).training
    wanted = training.val_loss(t)
    for name, others in choices.evaluation_choices(machine).items():
        with choices.replaced(others):
            assert training.val_loss(t) == pytest.approx(wanted, rel=1e-5), name

    def refuse(*_, **__):
        raise RuntimeError("called")

    for others in choices.evaluation_choices(machine).values():
        with choices.replaced(dict.fromkeys(others, refuse)), pytest.raises(RuntimeError, match="called"):
            training.val_loss(t)


@torch.no_grad()
def test_noise_drawn_by_tensors_has_the_same_sd(parts):
    t = OurLoop(*parts(noise_sigma=0.1)).training
    t.step = 3
    for parameter in t.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert choices.noise_by_tensors(t, torch.ones(())) == 0
    noise = torch.cat([parameter.grad.flatten() - 1 for parameter in t.model.parameters()])
    assert noise.std().item() == pytest.approx(t.noise.sigma(3), rel=0.05)


# Ingredients.


def test_every_ingredient_differs_from_its_absence_by_what_it_says(parts):
    config, _, _ = parts(
        noise_sigma=0.3, noise_draw="laplace", input_noise=0.2, diagnose_interval=3, log_interval=10
    )
    knobs_of = vars(config) | bench.QUIET
    rows = bench.ingredients(config)
    assert len({name for name, *_ in rows}) == len(rows) == 19
    quiet = settle(knobs_of)
    assert not quiet.noisy
    assert (quiet.input_noise, quiet.diagnose_interval, quiet.noise_draw) == (0.0, 0, "gaussian")
    for name, knobs, others, every in rows:
        with_it, without = (vars(settle(knobs_of | own)) for own in (knobs, others))
        changed = {knob for knob in with_it if with_it[knob] != without[knob]}
        noise = {"noise_gamma"} | ({"noise_eta"} if "inverse" in name else {"noise_sigma"})
        for word, knob in {
            **{"inverse": "noise_schedule", "uniform": "noise_draw", "laplace": "noise_draw"},
            **{"scale": "noise_scale", "anticorrelated": "noise_anticorrelated", "moment": "noise_point"},
            **{"weights": "noise_point", "rate": "noise_point"},
        }.items():
            noise |= {knob} if word in name else set()
        own = {"dropout": "dropout", "augment": "input_noise", "clip": "grad_clip", "logging": "log_interval"}
        other = {knob for word, knob in own.items() if name.startswith(word)} or {"diagnose_interval"}
        assert changed == (noise if name.startswith("noise") else other), name
        assert every == (config.log_interval if "logging" in name else 3 if "every" in name else 1)


@pytest.mark.parametrize("name", ["gaussian, exponential", "gaussian, inverse", "under its floor", "weights"])
def test_noise_is_drawn_where_it_is_measured(parts, name):
    config, corpus, machine = parts()
    ((_, knobs, _, _),) = [row for row in bench.ingredients(config) if row[0].endswith(name)]
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
    assert "".join(called) == "baabbaab"[::-1] or "".join(called) == "baabbaab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


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
    assert {"AdamW fused", "windows as many as the cache holds"} <= set(names)
    assert all(
        len(row["done"]) == len(row["undone"]) == TURNS for row in found["choices"] if row["of"] == "step"
    )
    wanted = [row[0] for row in bench.ingredients(settle(found["config"]))]
    assert [row["name"] for row in found["ingredients"]] == wanted
    assert all(len(row[side]) == TURNS for row in found["ingredients"] for side in ("with", "without"))
    look = found["evaluation"]
    assert (look["exact_tokens"], look["random_batches"], look["wanted_batches"]) == (512, 8, 200)
    assert found["sampling"]["tokens"] == 16
    assert found["checkpoint"]["bytes"] > 2 * found["checkpoint"]["best_bytes"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process is told of its parent's peak too")
def test_peak_memory_is_a_processes_own():
    code = """
import torch
from machine import Machine
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
import resource, sys
import train
from config import load
from loops import OurLoop
from machine import Machine
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


def test_the_report_shows_what_was_measured(tmp_path):
    make_study(tmp_path / "study" / "cpu", {"baseline": {}}, name="tiny")
    for path in tmp_path.rglob("run.json"):
        about = {"machine": {"name": "A machine", "dtype": "bfloat16", "threads": 1}}
        write_json(path, read_json(path) | about | {"versions": {"torch": "2.13.0", "revision": "0123"}})
    for path in tmp_path.rglob("result.json"):
        write_json(path, read_json(path) | {"seconds": 1.0})
    write_json(tmp_path / "speed" / "cpu" / "bench.json", made_up())
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "## What a step costs: `speed/cpu`" in text
    assert "| ratio |  | 4.00 | 3.00 to 5.00 |" in text
    assert "bench.png" not in text, "it is not drawn yet"


def test_no_text_of_the_figure_leaves_the_page(rehearsed):
    figure = costs.bench_figure([rehearsed])
    figure.canvas.draw()
    (axes,) = figure.axes
    for text in [*figure.texts, *axes.texts, *axes.get_yticklabels()]:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0, text
        assert box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0, text


def made_up(**more):
    """What bench.json would hold, in round numbers."""
    machine = {"device": "cuda:0", "name": "NVIDIA H200", "dtype": "bfloat16", "threads": 8, "compile": True}
    knobs = {"max_iters": 1000, "eval_interval": 250, "checkpoint_interval": 500}
    config = {**knobs, "batch_size": 64, "block_size": 256, "gradient_accumulation_steps": 1}
    return {
        **{"machine": machine, "config": config, "corpus": "shakespeare_char", "parameters": 10_750_000},
        **{"versions": {"torch": "2.13.0"}, "began": "2026-01-02T03:04:05+00:00"},
        **{"tokens_per_step": 16_384, "flops_per_token": 70e6},
        "loops": {
            "plain": {"dtype": "bfloat16", "seconds": [0.020, 0.030, 0.024]},
            "ours": {"dtype": "bfloat16", "seconds": [0.005, 0.006, 0.008]},
        },
        "started": {
            "plain": {"peak_memory_bytes": 4e9},
            "ours": {
                **{"peak_memory_bytes": 3e9, "compile_cold_seconds": 9.0, "compile_kept_seconds": 2.0},
            },
        },
        "evaluation": {
            **{"exact_tokens": 1000, "val_tokens": 4000, "exact_seconds": [0.2, 0.1, 0.2]},
            **{"train_seconds": [0.1, 0.1, 0.1], "random_batches": 10, "wanted_batches": 200},
            **{"random_seconds": [1.0, 1.0, 1.0], "plain_seconds": [0.5, 0.5, 0.4]},
        },
        "checkpoint": {"seconds": [0.4], "best_seconds": [0.2], "bytes": 2, "best_bytes": 1},
        "choices": [{"name": "fused", "of": "step", "done": [0.1, 0.2, 0.1], "undone": [0.2, 0.2, 0.4]}],
        "ingredients": [
            {"name": "logging, every 10 steps", "every": 10, "with": [0.015, 0.02], "without": [0.005, 0.004]},
            {"name": "noise", "every": 1, "with": [0.011, 0.012, 0.019], "without": [0.01, 0.01, 0.02]},
        ],
        **more,
    }


def test_ratios_are_turn_by_turn_and_costs_are_differences():
    found = made_up()
    logging, noise = found["ingredients"]
    assert costs.added(noise) == pytest.approx([0.001, 0.002, -0.001])
    assert costs.shares(noise) == pytest.approx([10, 20, -5])
    assert costs.added(logging) == pytest.approx([0.001, 0.0016])
    times = costs.ratios(*(found["loops"][name]["seconds"] for name in ("plain", "ours")))
    assert times == pytest.approx([4, 5, 3])
    text = markdown([costs.loops_table(found), costs.choices_table(found), costs.ingredients_table(found)])
    assert "| fused | step | 100.0 | 200.0 | 2.00 | 1.00 to 4.00 |" in text
    assert "| ratio |  | 4.00 | 3.00 to 5.00 |" in text
    assert "| noise | +1.00 | -1.00 to +2.00 | +10.0 | -5.0 to +20.0 |" in text
    assert "| train.py | bfloat16, compiled | 6.0 | 5.0 to 8.0 | 2,730,667 |" in text
    assert "| 3.00 GB | 9.0 s | 2.0 s |" in text
    assert costs.mfu(found, "ours") == pytest.approx(16_384 * 70e6 / 0.006 / 989e12)
    record = comma_separated([costs.loops_table(found)]).splitlines()[1]
    assert record.startswith("loops,plain,0.024,0.02,0.03,")


def test_the_plain_loop_has_no_noise_and_is_set_beside_ours_without_it():
    found = made_up()
    assert "without noise" not in markdown([costs.loops_table(found)])
    found["loops"]["quiet"] = {"dtype": "bfloat16", "seconds": [0.004, 0.005, 0.008]}
    text = markdown([costs.loops_table(found)])
    assert "| train.py without noise | bfloat16, compiled | 5.0 | 4.0 to 8.0 |" in text
    assert "| ratio |  | 4.00 | 3.00 to 5.00 |" in text
    assert "| ratio without noise |  | 5.00 | 3.00 to 6.00 |" in text


def test_what_is_done_now_and_then_is_scaled_and_set_side_by_side():
    text = {"tokens": 256, "cached_seconds": [0.1, 0.2, 0.1], "plain_seconds": [0.5, 0.6, 0.8]}
    table = costs.now_and_then_table(made_up(sampling=text))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["val loss, exact, 1,000 tokens, float32"][0] == "0.200"
    whole = rows["val loss, exact, the whole split, float32"]
    assert whole == ["0.800", "0.400 to 0.800", "200 random batches, float32", "0.040", "0.020 to 0.040"]
    assert rows["200 random batches as the plain loop has them"][0] == "10.000"
    assert rows["sample of 256 tokens, float32, all computed anew each time"][-2:] == [
        "5.000",
        "3.000 to 8.000",
    ]


def test_a_whole_run_is_the_sum_of_its_parts():
    runs = costs.whole_run(made_up())
    assert runs["plain"] == pytest.approx({"steps": 24.0, "evaluations": 2 * 200 * 0.05 * 5})
    assert runs["ours"] == pytest.approx(
        {
            "steps": 1000 * (0.006 + 0.0013),
            "evaluations": 5 * 0.3 + 0.2 * 4 + 0.1,
            "checkpoints": 2 * 0.4 + 5 * 0.2,
            "compilation": 9.0,
        }
    )
    table = costs.run_table(made_up())
    assert table.rows[-1][-1] == f"{124 / sum(runs['ours'].values()):.2f}"


@pytest.mark.parametrize(
    ("card", "dtype", "peak"),
    [
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "float16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("Tesla T4", "float16", 65e12),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", None),
        ("NVIDIA H200", "float32", None),
        ("AMD EPYC", "bfloat16", None),
    ],
)
def test_a_peak_is_known_or_it_is_not(card, dtype, peak):
    assert costs.peak_flops(card, dtype) == peak


def test_what_was_cut_short_is_shown_as_far_as_it_goes(tmp_path):
    whole = made_up()
    for cut, count in (("evaluation", 1), ("ingredients", 4)):
        keys = list(whole)[: list(whole).index(cut)] if cut == "evaluation" else [k for k in whole if k != cut]
        write_json(tmp_path / "bench.json", {key: whole[key] for key in keys})
        assert len(costs.tables_of(tmp_path)) == count


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
        assert all(row["name"].startswith("aten::") or row["calls"] for row in found["operations"])
        assert seconds == sorted(seconds, reverse=True)
        assert 0 < sum(seconds) <= found["seconds"] < 1
    assert plot.main(["here"]) == 0, "there is a table to draw, if no figure"
    assert sorted(path.name for path in (tmp_path / "here" / "figures").iterdir()) == [
        *("bench.csv", "bench.md", "bench.tex")
    ]


def test_a_profile_as_a_table():
    rows = [{"name": "aten::mm", "seconds": 0.003, "calls": 12.0}]
    record = made_up(profile={"plain": {"seconds": 0.012, "operations": rows}})
    (table,) = costs.profile_tables(record)
    assert table.rows == [["aten::mm", "3.000", "12.0", "25.0"]]
    assert table.title.startswith(
        "The kernels on the card that take longest in a step of the plain loop, 12.0 ms"
    )


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


def test_without_a_card_it_says_so(small, monkeypatch):
    monkeypatch.setattr("machine.best_device", lambda: "cpu")
    with pytest.raises(UserError, match="no CUDA card here"):
        gpu.main(["--dataset=none", "--minutes=1"])
    assert sum(gpu.SHARES.values()) + gpu.RESERVE < 0.95, "the runs have a share too"
    assert (ROOT / "config" / "shakespeare_noise.py").samefile(gpu.CONFIG)
