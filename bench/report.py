"""What `python -m bench` measured, as tables. No torch.

A bench folder holds bench.json with the seconds of every turn, jobs.json or both. A table is {row: {column:
value}}; a list is of turns or runs, shown as its median, lowest and highest. plot.py calls `draw`.
"""

import math
import os
from pathlib import Path
from statistics import median

import pandas as pd

from analysis.tables import markdown_cells
from data.files import read_json, replacing

FILES = ("bench.json", "jobs.json")
BATCH = ("gradient_accumulation_steps", "batch_size", "block_size")
SHAPE = {  # of either file
    **{"corpus": str, "parameters": int, "began": str, "machine": {"name": str}, "versions": {"torch": str}},
    "config": dict.fromkeys((*BATCH, "max_iters"), int),
}
NAMES = {"plain": "plain loop", "ours": "train.py", "quiet": "train.py without noise"}


def find_benches(folders):
    """The bench folders at or below `folders`, each once, sorted."""
    found = [path.parent for folder in folders for file in FILES for path in Path(folder).rglob(file)]
    return sorted({path.resolve(): path for path in found}.values())


def places(benches, out):
    """[(bench folder, where)]: several go into `out` as they lie below the folder that they share."""
    if not out or len(benches) == 1:
        return [(bench, out or bench / "figures") for bench in benches]
    homes = [bench.resolve() for bench in benches]
    shared = os.path.commonpath([home.parent for home in homes]) if homes else ""
    return [(home, out / home.relative_to(shared)) for home in homes]


def read(folder):
    """What the files of a bench folder hold, {} for one that is not there."""
    return [read_json(Path(folder) / file, SHAPE) or {} for file in FILES]


def milliseconds(seconds):
    return [1e3 * value for value in seconds]


def ratios(above, below):
    """Turn by turn."""
    return [a / b for a, b in zip(above, below, strict=True)]


def loops(bench):
    """A row a loop: its step, how many times as fast as the plain loop's it is, and what beginning it took."""
    rows, machine, plain = {}, bench["machine"], bench["loops"]["plain"]["seconds"]
    for name, loop in bench["loops"].items():
        begun, seconds = bench.get("started", {}).get(name, {}), loop["seconds"]
        how = " through float32" if machine.get("through_float32") and name != "plain" else ""
        how += ", compiled" if machine["compile"] and name != "plain" else ""
        rows[NAMES[name]] = {
            "precision": loop["dtype"] + how,
            "ms": milliseconds(seconds),
            "tokens/s": bench["tokens_per_step"] / median(seconds),
            "times as fast": ratios(plain, seconds),
            "peak GB": (begun.get("peak_memory_bytes") or math.nan) / 1e9,
            "compile s": begun.get("compile_seconds"),
        }
    return rows


def ingredients(bench):
    """A row an ingredient: what it adds to our own step, its share of one where it comes rarely; in per cent of
    the median step of the configuration without noise."""
    step, rows = median(bench["loops"].get("quiet", bench["loops"]["ours"])["seconds"]), {}
    for row in bench.get("ingredients", []):
        added = [(a - b) / row["every"] for a, b in zip(row["with"], row["without"], strict=True)]
        rows[row["name"]] = {"ms": milliseconds(added), "%": [100 * value / step for value in added]}
    return rows


def others(bench):
    """What is done beside steps, and part of a step, with the usual way of it."""
    pairs = {}
    if look := bench.get("evaluation"):
        whole, wanted = look["val_tokens"] / look["exact_tokens"], look["wanted_batches"]
        exact = [whole * value for value in look["exact_seconds"]]
        random = [wanted / look["random_batches"] * value for value in look["random_seconds"]]
        pairs[f"exact val loss; of {wanted} random batches"] = exact, random
    if kept := bench.get("checkpoint"):
        pairs[f"checkpoint, {kept['bytes'] / 1e6:.1f} MB"] = kept["seconds"], None
    if text := bench.get("sampling"):
        for part, what in (("begun", "first"), ("full", "further")):
            ways = (text[f"{part}_{name}_seconds"] for name in ("cached", "plain"))
            pairs[f"the {what} {text['tokens']} tokens of a sample; without cache"] = tuple(ways)
    for row in bench.get("choices", []):  # of older records: a step, an evaluation or a sample without it
        pairs[f"{row['name']} ({row['of']})"] = row["done"], row["undone"]
    return {
        name: {"ms": milliseconds(ours)}
        | ({"ms usual": milliseconds(usual), "times as fast": ratios(usual, ours)} if usual else {})
        for name, (ours, usual) in pairs.items()
    }


def jobs(record):
    """A row a number of runs at once: each one's steps, and how many whole runs an hour all of them make."""
    length = record["config"]["max_iters"]
    return {
        f"{row['jobs']} at once": {
            "steps/s": row["steps_per_second"],
            "runs an hour": 3600 * sum(row["steps_per_second"]) / length,
        }
        for row in record["jobs"]
    }


def tables(folder):
    """{title: table as text} of a bench folder, those that there is something for."""
    (bench, at_once), found = read(folder), {}
    if at_once:  # maybe of another config than bench.json
        what = f" ({described(at_once)})" if bench and described(at_once) != described(bench) else ""
        found[f"Runs at once{what}"] = jobs(at_once)
    if bench.get("loops"):
        found |= {"A step": loops(bench), "What each adds to a step without noise": ingredients(bench)}
        found["Ours beside the usual"] = others(bench)
    frames = {title: pd.DataFrame.from_dict(rows, orient="index") for title, rows in found.items() if rows}
    return {title: frame.map(shown) for title, frame in frames.items()}


def shown(value):
    """A cell: a number with 4 digits and 3 places at most."""
    if isinstance(value, list):
        return "{} ({} to {})".format(*map(shown, (median(value), min(value), max(value))))
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    return f"{value:,.{min(3, max(0, 3 - math.floor(math.log10(abs(value) or 1))))}f}"


def described(record):
    """The machine, the size and the day, in words."""
    machine, config = record["machine"]["name"], record["config"]
    batch = " × ".join(str(config[name]) for name in BATCH)
    size = f"{record['corpus']}, {record['parameters'] / 1e6:.2f} M parameters, batch {batch}"
    return f"{machine}; {size}; PyTorch {record['versions']['torch']}; {record['began'][:10]}"


def print_tables(folder):
    for title, found in tables(folder).items():
        print(f"\n{title}\n{found.to_string()}")


def draw(folder, out=None):
    """Write the tables into bench.md; returns its path, in a list."""
    path = Path(out or Path(folder) / "figures") / "bench.md"
    parts = [described(next(filter(None, read(folder))))]
    for title, found in tables(folder).items():
        parts += [f"**{title}**", markdown_cells(found.rename_axis("").reset_index())]
    with replacing(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("\n\n".join(parts) + "\n")
    return [path]
