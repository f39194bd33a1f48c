"""What a training step costs: train.py's against a plain loop, and what each ingredient adds to it.

    python bench.py [config files] [--key=value] [--out=DIR]
    python bench.py config/shakespeare_noise.py config/cpu.py

Everything is measured interleaved within one process, warmed up and synchronized, so that other load on the
machine affects all alike: a step of the plain loop (see loops.py) and of train.py as configured; that step, an
evaluation and a sample with each choice that makes them fast undone; a step with and without each kind of
noise, dropout, augmentation, clipping, logging and diagnosis; evaluations, checkpoints and samples. Measured in
processes of their own: peak memory, and compilation with an empty cache and with the one that it left. The
tables are printed, and DIR (out/bench) gets bench.json, the seconds of every turn, for plot.py.

    --losses       instead: whether the two loops train alike, max_iters iterations with each of three seeds
    --profile      instead: the operations in both loops' steps that take longest, DIR/profile.json, and a trace
                   of train.py's step by PyTorch's profiler, DIR/trace.json for chrome://tracing
    --jobs=1,2,4   instead: runs per hour by how many train at once, as sweep.py starts them; DIR/jobs.json
"""

import contextlib
import dataclasses
import gc
import os
import re
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch

import train
from analysis.tables import Table
from bench.choices import evaluation_choices, replaced, sampling_choices, step_choices
from bench.costs import NAMES, jobs_table, plain_text, profile_tables, read_bench, tables_of
from bench.loops import (
    EVAL_BATCHES,
    LONG_TURNS,
    LOOPS,
    TURNS,
    OurLoop,
    clock,
    in_turns,
    sample_plainly,
    steps,
    steps_in_turns,
)
from bench.processes import runs_at_once, started
from config import UserError, load, run_script, settle
from data.files import write_json
from model import GPT
from training import step as training
from training.evaluate import mean_loss
from training.machine import Machine, versions
from training.run_folder import RunFolder, corpus_title

SEEDS = 3  # that --losses trains
TOP = 12  # operations that --profile prints


def main(argv):
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        return 0
    options, words = read_options(argv)
    config = load(words)
    machine = Machine.choose(config)
    corpus = train.open_corpus(config, machine)
    out = Path(options.get("out", "out/bench"))
    print(f"{machine}; {corpus_title(corpus.meta)}, {config.tokens_per_iter:,} tokens a step", flush=True)
    if "losses" in options:
        compare_losses(config, corpus, machine)
    elif "profile" in options:
        profile(config, corpus, machine, out)
        print("\n".join(plain_text(table) for table in profile_tables(read_bench(out)["profile"])))
        print(f"written: {out / 'trace.json'}")
    elif "jobs" in options:
        rows = runs_at_once(config, words, counts(options["jobs"]))
        write_part_by_part(out / "jobs.json", about(config, corpus, machine), "jobs", rows)
        print(plain_text(jobs_table(read_bench(out)["jobs"])))
    else:
        measure(config, words, corpus, machine, out)
    return 0


def read_options(argv):
    """({bench.py's own options: their values}, the words that are config.load's)."""
    options, words = {}, []
    for word in argv:
        match = re.fullmatch(r"--(?:(losses|profile)|(out|jobs)=(.+))", word)
        if match:
            options[match[1] or match[2]] = match[3]
        else:
            words.append(word)
    if len({"losses", "profile", "jobs"} & set(options)) > 1:
        raise UserError("--losses, --profile and --jobs are measurements of their own: one at a time")
    if "jobs" in options:
        counts(options["jobs"])
    return options, words


def counts(text):
    """The numbers in --jobs=1,2,4."""
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UserError(f"--jobs={text} is not a list of numbers from 1 on, such as 1,2,4,8")
    return [int(number) for number in text.split(",")]


def about(config, corpus, machine):
    """What was measured, and on what."""
    model = GPT.empty(training.model_config(config, corpus))
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.record(),
        "versions": versions(),
        "config": dataclasses.asdict(config),
        "corpus": corpus_title(corpus.meta),
        "parameters": model.parameter_count(),
        "flops_per_token": model.flops_per_token(),
        "tokens_per_step": config.tokens_per_iter,
    }


def measure(config, words, corpus, machine, out):
    """Measure part by part; after each, bench.json has it, so that what is cut short is not lost."""
    record = about(config, corpus, machine)
    loops = {name: kind(config, corpus, machine) for name, kind in LOOPS.items()}
    quiet = OurLoop(without_noise(config), corpus, machine) if config.noisy else None
    parts = {
        "loops": lambda: measure_loops(loops, machine, quiet, out),
        "evaluation": lambda: measure_evaluation(loops, machine),
        "checkpoint": lambda: measure_checkpoint(loops["ours"], out),
        "sampling": lambda: measure_sampling(loops["ours"], machine),
        "started": lambda: {name: started(name, words, machine) for name in loops},
    }
    for name, part in parts.items():
        began = time.perf_counter()
        record[name] = part()
        write_json(out / "bench.json", record)
        print(f"{name}: measured in {time.perf_counter() - began:.0f} s", flush=True)
    rows = measure_ingredients(config, corpus, machine, out)
    write_part_by_part(out / "bench.json", record, "ingredients", rows)
    choices = measure_choices(loops["ours"], corpus)
    write_part_by_part(out / "bench.json", record, "choices", choices)
    print()
    for table in tables_of(out):
        print(plain_text(table))


def write_part_by_part(path, record, name, rows):
    """Write a record with more and more rows under a name, as they are measured."""
    record[name] = []
    for row in rows:
        record[name].append(row)
        write_json(path, record)


def measure_loops(loops, machine, quiet, out):
    """A step of each loop, and where ours has noise of it without, which is what the plain loop has.

    Ours logs meanwhile, since the plain loop fetches its loss as often.
    """
    loops = loops | ({"quiet": quiet} if quiet else {})
    ours = [loop for name, loop in loops.items() if name != "plain"]
    with run_folder(out) as folder:
        for loop in ours:
            loop.folder = folder
        seconds = steps_in_turns(loops, machine, TURNS)
    for loop in ours:
        loop.folder = None
    return {name: {"dtype": loop.machine.dtype, "seconds": seconds[name]} for name, loop in loops.items()}


def measure_choices(loop, corpus):
    """A row a choice that is taken here: the seconds of a step or of an evaluation with it, and without."""
    t = loop.training
    for name, make in step_choices(loop.config, corpus, loop.machine).items():
        pair = {"done": loop, "undone": make()}
        yield {"name": name, "of": "step"} | steps_in_turns(pair, loop.machine)
        del pair
        gc.collect()

    def undone(others):
        with replaced(others):
            training.val_loss(t)

    for name, others in evaluation_choices(loop.machine).items():
        works = {"done": lambda: training.val_loss(t), "undone": lambda others=others: undone(others)}
        yield {"name": name, "of": "evaluation"} | in_turns(works, LONG_TURNS, loop.machine)
    weights = loop.model.weights()
    for name, others in sampling_choices(loop.machine).items():
        with replaced(others):
            model = GPT.from_weights(weights).for_sampling(loop.machine.device)
        models = {"done": GPT.from_weights(weights).for_sampling(loop.machine.device), "undone": model}
        works = {side: sampling(model, GPT.generate, 1) for side, model in models.items()}
        yield {"name": name, "of": "sample"} | in_turns(works, TURNS, loop.machine)


# What each ingredient adds.

QUIET = {  # a step without noise, augmentation and diagnosis
    **{"noise_sigma": 0.0, "noise_eta": 0.0, "noise_schedule": "exponential", "noise_distribution": "gaussian"},
    **{"noise_scale": "absolute", "noise_params": "all", "noise_target": "gradient"},
    **{"noise_before_clip": False, "noise_anticorrelated": False, "reset_below_sigma": 0.0},
    **{"input_noise": 0.0, "diagnose_interval": 0, "init_from": None, "noisytune_lambda": 0.0},
}


def without_noise(config, **knobs):
    """The configuration without noise, augmentation and diagnosis, and with some knobs."""
    return settle(dataclasses.asdict(config) | QUIET | knobs)


# So little that no weight goes astray; the cost is that of more.
NOISE = {"noise_sigma": 1e-4, "noise_gamma": 0.9999}


def small_batch(config, kind):
    """The knobs of the step in which is measured what a CPU does once a parameter, whatever the batch.

    In a long step it would be lost among the differences from turn to turn. A card, which is given work ahead,
    has the configuration's own.
    """
    return {"batch_size": min(2, config.batch_size), "gradient_accumulation_steps": 1} if kind == "cpu" else {}


def ingredients(config, kind):
    """[(name, the knobs of a step with it, those of the step without it, every how many steps it comes)].

    The knobs are beside those of QUIET and of the configuration. kind: of device.
    """
    rate, small = config.dropout or 0.2, small_batch(config, kind)
    noises = {
        "noise: gaussian, exponential": {},
        "noise: gaussian, inverse": {"noise_schedule": "inverse", "noise_sigma": 0.0, "noise_eta": 1e-8},
        **{f"noise: gaussian, {name}": {"noise_schedule": name} for name in ("linear", "cosine", "constant")},
        "noise: gaussian, under its floor": {"noise_gamma": 0.0},
        "noise: gaussian, before clipping": {"noise_before_clip": True},
        **{f"noise: {draw}": {"noise_distribution": draw} for draw in ("uniform", "laplace")},
        **{f"noise: scale {scale}": {"noise_scale": scale} for scale in ("global", "tensor")},
        "noise: anticorrelated": {"noise_anticorrelated": True},
        **{
            f"noise: {point.replace('_', ' ')}": {"noise_target": point}
            for point in ("first_moment", "second_moment", "second_moment_mean", "weights", "learning_rate")
        },
    }
    log, look, rare = config.log_interval, config.diagnose_interval or 100, 10**9  # rare: none that is timed
    return [
        *((name, NOISE | knobs | small, small, 1) for name, knobs in noises.items()),
        (f"dropout {rate:g}", {"dropout": rate}, {"dropout": 0.0}, 1),
        ("augmentation", {"input_noise": 0.1}, {}, 1),
        (
            "clipping, beside the norm",
            {"grad_clip": config.grad_clip or 1.0} | small,
            {"grad_clip": 0.0} | small,
            1,
        ),
        (f"logging, every {log} steps", {"log_interval": 1} | small, small, log),
        ("diagnosis: its moments", {"diagnose_interval": rare} | small, small, 1),
        (f"diagnosis: measured, every {look} steps", {"diagnose_interval": 1}, {}, look),
    ]


def measure_ingredients(config, corpus, machine, out):
    """A row an ingredient that this configuration can have: the seconds of a step with it, and without."""

    def loop(knobs, folder=None):
        return OurLoop(without_noise(config, **knobs), corpus, machine, folder)

    usual = small_batch(config, machine.kind)
    plain = loop(usual)
    with run_folder(out) as folder:
        for name, knobs, others, every in ingredients(config, machine.kind):
            try:
                measured = loop(knobs, folder if "log_interval" in knobs else None)
            except UserError:  # SGD has no second moment, a batch of one no halves
                continue
            pair = {"with": measured, "without": plain if others == usual else loop(others)}
            if any(one.model.compiled != machine.compile for one in pair.values()):
                continue  # compilation failed, which has been said
            row = {"name": name, "knobs": knobs, "others": others, "every": every}
            yield row | steps_in_turns(pair, machine)
            del measured, pair
            gc.collect()


@contextlib.contextmanager
def run_folder(out):
    """A run folder for a while, on the disk that `out` is on."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix="measuring") as path, RunFolder(path) as folder:
        yield folder


# What is done now and then.


def measure_evaluation(loops, machine):
    """Evaluations as train.py has them, and of random batches as the plain loop has them: as many as have about
    as many tokens, and wanted_batches is how many such scripts take."""
    t, plain = loops["ours"].training, loops["plain"]
    windows = t.corpus.windows("val", t.config.block_size, t.config.eval_tokens)
    tokens = sum(y.numel() for _, y in windows)
    batches = max(1, min(EVAL_BATCHES, tokens // (t.config.batch_size * t.config.block_size)))
    works = {
        "exact": lambda: training.val_loss(t),
        "train": lambda: training.train_loss(t),
        "random": lambda: plain.evaluate("val", batches, narrow=False),
    }
    if plain.machine.dtype != "float32":
        works["plain"] = lambda: plain.evaluate("val", batches)
    seconds = in_turns(works, LONG_TURNS, machine)
    sizes = {"exact_tokens": tokens, "val_tokens": len(t.corpus.tokens["val"]) - 1}
    sizes["final_tokens"] = sum(len(part) - 1 for split, part in t.corpus.tokens.items() if split != "train")
    numbers = {"random_batches": batches, "wanted_batches": EVAL_BATCHES}
    return sizes | numbers | {f"{name}_seconds": seconds[name] for name in works}


def measure_checkpoint(loop, out):
    t = loop.training
    with run_folder(out) as folder:
        works = {
            "seconds": lambda: train.checkpoint(t, folder),
            "best_seconds": lambda: folder.save("best.pt", {"model": t.model.weights(), **t.best}),
        }
        seconds = in_turns(works, TURNS, t.machine)
        sizes = [(folder.path / name).stat().st_size for name in ("last.pt", "best.pt")]
    return seconds | dict(zip(("bytes", "best_bytes"), sizes))


def measure_sampling(loop, machine):
    """As many tokens as the context has: from one on, and after a full context, which both cut to its half."""
    weights = loop.model.weights()
    draws = {
        "cached": (GPT.from_weights(weights).for_sampling(machine.device), GPT.generate),
        "plain": (GPT.from_weights(weights, machine.device).eval(), sample_plainly),
    }
    size = loop.model.config.block_size
    record = {"tokens": size}
    for part, start in (("begun", 1), ("full", size)):
        works = {name: sampling(*draw, start) for name, draw in draws.items()}
        seconds = in_turns(works, LONG_TURNS, machine)
        record |= {f"{part}_{name}_seconds": seconds[name] for name in works}
    return record


def sampling(model, draw, start):
    """A function that samples one text in float32, after `start` tokens."""
    idx = torch.zeros((1, start), dtype=torch.int64, device=model.wte.weight.device)
    return lambda: draw(model, idx, model.config.block_size, [torch.Generator().manual_seed(0)])


# In place of the tables.


def profile(config, corpus, machine, out):
    """What takes longest in five steps of each loop: kernels on a card, operators elsewhere, each without those
    that it calls. train.py's leave their trace too."""
    from torch.profiler import ProfilerActivity

    count, card = 5, machine.kind == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if card else [])]
    record = about(config, corpus, machine) | {"profile": {}}
    for name, kind in LOOPS.items():
        loop = kind(config, corpus, machine)
        steps(loop, 3)()
        with torch.profiler.profile(activities=activities) as profiler:
            clock(steps(loop, count), machine)
        record["profile"][name] = operations(profiler.key_averages(), count, card)
    write_json(out / "profile.json", record)
    unfinished = out / ".trace.json"
    profiler.export_chrome_trace(str(unfinished))
    os.replace(unfinished, out / "trace.json")


def operations(events, count, card):
    """{"seconds": of a step, "operations": those that take longest, each {name, seconds, calls} of a step}."""
    wanted = "CUDA" if card else "CPU"
    own = [
        (event.self_device_time_total if card else event.self_cpu_time_total, event)
        for event in events
        if event.device_type.name == wanted and not getattr(event, "is_user_annotation", False)
    ]
    own.sort(key=lambda pair: -pair[0])
    rows = [
        {"name": event.key, "seconds": us / count / 1e6, "calls": event.count / count}
        for us, event in own[:TOP]
    ]
    return {"seconds": sum(us for us, _ in own) / count / 1e6, "operations": rows}


def compare_losses(config, corpus, machine):
    """Train both loops with each of a few seeds, in turns, and print how their losses differ."""
    ends = np.linspace(0, config.max_iters, min(10, config.max_iters) + 1).astype(int)
    losses = {name: [] for name in LOOPS}  # a list a seed: mean loss of each turn, then the val loss
    if config.noisy:
        print("the plain loop has no noise: with this configuration the losses are not to be compared")
    for seed in range(config.seed, config.seed + SEEDS):
        seeded = dataclasses.replace(config, seed=seed, data_seed=seed)
        loops = {name: kind(seeded, corpus, machine) for name, kind in LOOPS.items()}
        curves = {name: [] for name in loops}
        for count in np.diff(ends):
            for name, loop in loops.items():
                curves[name].append(mean([float(loop.train_step()) for _ in range(count)]))
        for name, loop in loops.items():
            val = mean_loss(loop.model, corpus.windows("val", config.block_size))
            losses[name].append([*curves[name], val])
    print(plain_text(loss_table(losses, ends)))


def loss_table(losses, ends):
    names = [f"mean loss to iteration {end:,}" for end in ends[1:]] + ["val loss at the end"]
    rows = []
    for row, name in enumerate(names):
        values = [[curve[row] for curve in curves] for curves in losses.values()]
        rows.append([name, *(f"{mean(seeds):.4f} ± {stdev(seeds):.4f}" for seeds in values)])
    return Table(f"Mean ± sd over {SEEDS} seeds", ["", *(NAMES[name] for name in losses)], rows, [])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that nothing is left behind
    run_script(main)
