"""Run folders with made-up curves, as train.py and sweep.py would have left them; and what is said of runs."""

import json
import math

from analysis import tables
from config import settle
from data.files import read_json, write_json
from training.run_files import LOSSES

META = {
    **{"format": 1, "name": "shakespeare_char", "unit": "character", "vocab_size": 2, "vocabulary": ["a", "b"]},
    "splits": {"train": {"tokens": 9, "sha256": "abc0" * 16}, "val": {"tokens": 3, "sha256": "def0" * 16}},
    "source": {"from": "a test", "sha256": "-"},
}
OTHER_DATA = {**META, "splits": {**META["splits"], "train": {"tokens": 9, "sha256": "def0" * 16}}}
MACHINE = {"device": "cpu", "dtype": "float32", "threads": 1, "name": "made up"}


ENDED = {"best_val_loss": 1.0, "best_iter": 5, "iterations": 1000, "tokens": 9000, "seconds": 100.0}
FINISHED = {"status": "finished", **ENDED, **dict.fromkeys(LOSSES, 1.0)}
DIVERGED = {"status": "diverged", **ENDED, "diverged_at": 999}


def val_loss(iteration, seed, sigma):
    return 2 + 2 * math.exp(-iteration / 300) + 0.05 * math.sin(seed) + sigma * (1 + 0.3 * seed)


def fake_run(folder, seed=1, meta=META, until=1000, status="finished", **options):
    """A run folder with made-up curves, as train.py would have left it."""
    config = settle({"max_iters": 1000, "seed": seed, "dataset": "shakespeare_char", **options})
    write_json(folder / "config.json", vars(config))
    about = {"machine": MACHINE, "versions": {}, "parameters": 804_096, "corpus": meta, "resumed": []}
    write_json(folder / "run.json", about)
    with open(folder / "log.jsonl", "w") as log:
        for at in range(0, until + 1, 250):
            val = val_loss(at, seed, config.noise_sigma)
            sigma = config.noise_sigma * 0.99**at
            norms = {"sigma": sigma, "noise_norm": 900 * sigma, "grad_norm": 1.5, "loss": val}
            losses = {"train_loss": val - 0.1, "val_loss": val, "tokens": 1000 * at, "seconds": at / 10}
            for event in ({"kind": "eval", "iter": at, **losses}, {"kind": "train", "iter": at, **norms}):
                print(json.dumps(event), file=log)
    if until == 1000:
        last = val_loss(1000, seed, config.noise_sigma)
        ended = FINISHED | dict.fromkeys(tables.LOSSES, last) if status == "finished" else DIVERGED
        write_json(folder / "result.json", {**ended, "best_iter": 1000})
    return folder


def make_study(folder, arms, baseline="baseline", seeds=(1, 2, 3), name="tiny", planned=(), **more):
    """A folder as sweep.py would have left it: arms is {name: options}; planned: the seeds of study.json."""
    for arm, options in arms.items():
        for seed in seeds:
            fake_run(folder / arm / f"seed{seed}", seed, **options)
    record = {"name": name, "size": "cpu", "title": "A study", "baseline": baseline, "arms": list(arms)}
    write_json(folder / "study.json", {**record, "seeds": list(planned), **more})
    return folder


def edit(path, **more):
    """Change some values of a JSON file."""
    write_json(path, {**read_json(path), **more})


def diverge(folder, seeds=(1, 2, 3), **options):
    """Runs of an arm that diverged."""
    for seed in seeds:
        fake_run(folder / f"seed{seed}", seed, status="diverged", **options)
