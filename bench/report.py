"""What `python -m bench` measured: data frames, tables, and a figure of what each ingredient adds. No torch.

A bench folder holds bench.json with the seconds of every turn, jobs.json or both. The frames have medians, the
lowest and the highest, and ratios turn by turn. plot.py calls `draw`.
"""

import math
from pathlib import Path
from statistics import median

import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure

import analysis
from data.files import read_json, replacing

FILES = ("bench.json", "jobs.json")
NAMES = {"plain": "plain loop", "ours": "train.py", "quiet": "train.py without noise"}
STYLE = Path(analysis.__file__).parent / "style.mplstyle"


def find_benches(folders):
    """The bench folders at or below `folders`, sorted."""
    return sorted({path.parent for folder in folders for file in FILES for path in Path(folder).rglob(file)})


# Frames: a function of a record each.


def frame(rows):
    """A data frame of {name: {column: value}}."""
    return pd.DataFrame(list(rows.values()), index=list(rows))


def spread(name, values, factor=1):
    """The median and the range of values of one kind, as columns."""
    values = [factor * value for value in values]
    return {name: median(values), f"{name} lowest": min(values), f"{name} highest": max(values)}


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
            **spread("ms", seconds, 1e3),
            "tokens/s": bench["tokens_per_step"] / median(seconds),
            **spread("times", ratios(plain, seconds)),
            "peak GB": (begun.get("peak_memory_bytes") or math.nan) / 1e9,
            **{f"compile s, {cache}": begun.get(f"compile_{cache}_seconds") for cache in ("cold", "kept")},
        }
    return frame(rows)


def ingredients(bench):
    """A row an ingredient: what it adds to our own step, its share of one where it comes rarely; in per cent of
    the median step of the configuration without noise."""
    step, rows = median(bench["loops"].get("quiet", bench["loops"]["ours"])["seconds"]), {}
    for row in bench["ingredients"]:
        added = [(a - b) / row["every"] for a, b in zip(row["with"], row["without"], strict=True)]
        rows[row["name"]] = spread("ms", added, 1e3) | spread("%", added, 100 / step)
    return frame(rows)


def occasional(bench):
    """Evaluations, checkpoints, samples: seconds, and the ratio to what a row's name says after a semicolon."""
    look, rows = bench["evaluation"], {}
    wanted, whole = look["wanted_batches"], look["val_tokens"] / look["exact_tokens"]
    exact = [whole * value for value in look["exact_seconds"]]
    random = [wanted / look["random_batches"] * value for value in look["random_seconds"]]
    rows["val loss, exact"] = spread("s", exact)
    rows[f"{wanted} random batches; exact"] = spread("s", random) | spread("ratio", ratios(random, exact))
    if kept := bench.get("checkpoint"):
        rows[f"checkpoint, {kept['bytes'] / 1e6:.1f} MB"] = spread("s", kept["seconds"])
    if text := bench.get("sampling"):
        for part, what in (("begun", "first"), ("full", "further")):
            cached, plain = (text[f"{part}_{name}_seconds"] for name in ("cached", "plain"))
            name = f"the {what} {text['tokens']} tokens of a sample"
            rows[name] = spread("s", cached)
            rows[f"{name}, without cache; with"] = spread("s", plain) | spread("ratio", ratios(plain, cached))
    return frame(rows)


def operators(bench):
    """Each operator of ours beside PyTorch's; in older records, a step, an evaluation or a sample with a choice
    of ours, and with it undone."""
    pairs = [(row["name"], row["ours"], row["torch"]) for row in bench.get("operators", [])]
    pairs += [(f"{row['name']} ({row['of']})", row["done"], row["undone"]) for row in bench.get("choices", [])]
    return frame({
        name: {"ms": 1e3 * median(ours), "ms usual": 1e3 * median(usual)} | spread("ratio", ratios(usual, ours))
        for name, ours, usual in pairs
    })  # fmt: skip


def jobs(record):
    """A row a number of runs at once: each one's steps, and how many whole runs an hour all of them make."""
    length = record["config"]["max_iters"]
    return frame({
        f"{row['jobs']} at once": spread("steps/s", row["steps_per_second"])
        | {"runs an hour": 3600 * sum(row["steps_per_second"]) / length}
        for row in record["jobs"]
    })  # fmt: skip


# Tables and the figure.


def tables(folder):
    """{title: frame} of a bench folder, those that there is something for."""
    bench, at_once = (read_json(Path(folder) / file) or {} for file in FILES)
    makers = {  # the part without which there is none: (title, frame)
        "loops": ("A step", loops),
        "ingredients": ("What each adds to a step without noise", ingredients),
        "evaluation": ("Now and then", occasional),
        "operators": ("Our operators beside the usual ones", operators),
        "choices": ("Our choices beside the usual ones", operators),
    }
    found = {title: make(bench) for part, (title, make) in makers.items() if bench.get(part)}
    return found | ({"Runs at once": jobs(at_once)} if at_once else {})


def described(record):
    """The machine, the configuration and the day, in words."""
    machine, config = record["machine"], record["config"]
    batch = f"{config['gradient_accumulation_steps']} × {config['batch_size']} × {config['block_size']}"
    threads = f", {machine['threads']} threads" if machine["device"] == "cpu" else ""
    return (
        f"{machine['name']}{threads}; {record['corpus']}, {record['parameters'] / 1e6:.2f} M parameters,"
        f" batch {batch}; PyTorch {record['versions']['torch']}; {record['began'][:10]}"
    )


def shown(value):
    """A cell: a number with 4 digits and 3 places at most."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    return f"{value:,.{min(3, max(0, 3 - math.floor(math.log10(abs(value) or 1))))}f}"


def print_tables(folder):
    for title, found in tables(folder).items():
        print(f"\n{title}\n{found.map(shown).to_string()}")


def markdown(folder):
    """The tables of a bench folder."""
    record = next(record for file in FILES if (record := read_json(Path(folder) / file)))
    parts = [f"{described(record)}. Medians over turns, the lowest and the highest."]
    for title, found in tables(folder).items():
        rows = [["", *found.columns], ["---", *["---:"] * found.shape[1]]]
        rows += [[name, *row] for name, row in zip(found.index, found.map(shown).to_numpy().tolist())]
        parts.append("\n".join([f"**{title}**\n", *(f"| {' | '.join(row)} |" for row in rows)]))
    return "\n\n".join(parts) + "\n"


def figure(bench):
    """ms that each ingredient adds to a step: the median over turns, the range, and the median in per cent."""
    found = ingredients(bench).iloc[::-1]
    drawn = Figure(figsize=(5.5, 0.6 + 0.17 * len(found)), layout="constrained")
    axes, middle = drawn.add_subplot(), found["ms"]
    around = [middle - found["ms lowest"], found["ms highest"] - middle]
    axes.barh(found.index, middle, color="#56B4E9", xerr=around, error_kw={"linewidth": 0.7})
    axes.grid(axis="y", visible=False)
    for place, (end, percent) in enumerate(zip(found["ms highest"].clip(lower=0), found["%"])):
        axes.annotate(
            f"{percent:+.1f} %", (end, place), (3, 0), textcoords="offset points", va="center", size=7
        )
    axes.margins(x=0.12, y=0.01)
    axes.set_xlabel("ms added to a step")
    return drawn


def draw(folder, out=None):
    """Write bench.md and, where ingredients were measured, the figure; returns the paths."""
    out, bench = Path(out or Path(folder) / "figures"), read_json(Path(folder) / "bench.json")
    with replacing(out / "bench.md", "w", encoding="utf-8", newline="\n") as file:
        file.write(markdown(folder))
    if not (bench and bench.get("ingredients")):
        return [out / "bench.md"]
    with style.context(STYLE), replacing(out / "bench.png") as file:
        figure(bench).savefig(file, format="png", dpi=150, metadata={"Software": None})
    return [out / "bench.md", out / "bench.png"]
