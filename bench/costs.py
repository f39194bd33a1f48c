"""What bench.py has measured, as tables and as a figure. No torch.

A bench folder holds some of bench.json (the two loops, what train.py's choices are worth, what each ingredient
adds, what is done occasionally), jobs.json (runs per hour by how many train at once) and profile.json (what
takes longest in a step). The first two hold the seconds of every turn; this file computes medians, lowest and
highest over turns, and ratios turn by turn.
"""

import re
from pathlib import Path
from statistics import median

from matplotlib import rc_context

from analysis.panels import STYLE, Panel, figure_of, wrap
from analysis.tables import DASH, Table
from data.files import read_json

FILES = ("bench", "jobs", "profile")
NAMES = {"plain": "plain loop", "ours": "train.py", "quiet": "train.py without noise"}

# FLOP/s of dense matrix products in 16 bits with sums in float32, by a part of the card's name, the first that
# fits. From NVIDIA's data sheets, half of what they state with sparsity; that of the RTX 4090 from the Ada
# architecture's whitepaper.
PEAKS = {
    **{"H200 NVL": 835e12, "H200": 989e12},
    **{"H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12},
    **{"A100": 312e12, "L40S": 362e12, "L4": 121e12, "T4": 65e12, "RTX 4090": 165.2e12},
}


def peak_flops(card, dtype):
    """The peak of a card in a precision, FLOP/s; None where it is not known, as that of any CPU is not."""
    fits = [peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b(?! D\b| Laptop)", card)]
    return fits[0] if fits and dtype in ("bfloat16", "float16") else None


def find_benches(folders):
    """The bench folders at or below `folders`, sorted."""
    return sorted(
        {path.parent for folder in folders for name in FILES for path in Path(folder).rglob(f"{name}.json")}
    )


def read_bench(folder):
    """{"bench": what bench.json holds or None, and so on for FILES}."""
    return {name: read_json(Path(folder) / f"{name}.json") for name in FILES}


# Seconds as numbers and as words.


def spread(values):
    """(median, lowest, highest)."""
    return median(values), min(values), max(values)


def ratios(above, below):
    """Turn by turn."""
    return [a / b for a, b in zip(above, below, strict=True)]


def added(row):
    """Seconds that an ingredient adds to a step, turn by turn: its share of one that comes rarely."""
    differences = [a - b for a, b in zip(row["with"], row["without"], strict=True)]
    return [difference / row["every"] for difference in differences]


def quiet_steps(bench):
    """Seconds of train.py's step as configured, without noise, turn by turn."""
    return bench["loops"].get("quiet", bench["loops"]["ours"])["seconds"]


def shares(row, step):
    """What it adds in per cent of a step of so many seconds, turn by turn."""
    return [100 * more / step for more in added(row)]


def cells(values, form=".1f", scale=1.0):
    """[the median, "lowest to highest"], as texts."""
    middle, low, high = (f"{scale * value:{form}}" for value in spread(values))
    return [middle, f"{low} to {high}"]


def mfu(bench, name):
    """Model FLOPs utilisation of a loop: by the model's own count of them; None without a known peak."""
    loop = bench["loops"][name]
    peak = peak_flops(bench["machine"]["name"], loop["dtype"])
    rate = bench["tokens_per_step"] / median(loop["seconds"])
    return peak and rate * bench["flops_per_token"] / peak


def described(record):
    """The machine, the configuration and the day, in words."""
    machine, threads = record["machine"], ""
    if machine["device"] == "cpu":
        through = f", {machine['dtype']} through float32" if machine.get("through_float32") else ""
        threads = f"{through}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    batch = "\u00a0×\u00a0".join(
        str(record["config"][name])
        for name in ("gradient_accumulation_steps", "batch_size", "block_size")
        if name != "gradient_accumulation_steps" or record["config"][name] > 1
    )
    return (
        f"{machine['name']}{threads}; {record['corpus']}, {record['parameters'] / 1e6:.2f} M parameters,"
        f" batch {batch}; PyTorch {record['versions']['torch']}; {record['began'][:10]}"
    )


# Tables.


def tables_of(folder):
    """The tables of one bench folder, those that there is something for."""
    read = read_bench(folder)
    makers = {
        "loops": loops_table,
        "choices": choices_table,
        "ingredients": ingredients_table,
        "evaluation": now_and_then_table,
        "checkpoint": run_table,
    }
    found = [make(read["bench"]) for name, make in makers.items() if read["bench"] and name in read["bench"]]
    found += [jobs_table(read["jobs"])] if read["jobs"] else []
    return found + (profile_tables(read["profile"]) if read["profile"] else [])


def loops_table(bench):
    """A row a loop: ms a step, tokens/s, MFU, peak memory, compilation; and their ratio."""
    columns = [
        "",
        "precision",
        "ms a step",
        "turns",
        "tokens/s",
        "MFU",
        "peak memory",
        "compilation, cold",
        "kept",
    ]
    rows, records = [], []
    for name, loop in bench["loops"].items():
        rate, share = bench["tokens_per_step"] / median(loop["seconds"]), mfu(bench, name)
        begun = bench.get("started", {}).get(name, {})
        peak = begun.get("peak_memory_bytes")
        seconds = [begun.get(f"compile_{cache}_seconds") for cache in ("cold", "kept")]
        how = " through float32" if bench["machine"].get("through_float32") and name != "plain" else ""
        how += ", compiled" if bench["machine"]["compile"] and name != "plain" else ""
        rows.append([
            *(NAMES[name], loop["dtype"] + how, *cells(loop["seconds"], scale=1e3), f"{rate:,.0f}"),
            *(f"{share:.1%}" if share else DASH, f"{peak / 1e9:.2f} GB" if peak else DASH),
            *(f"{value:.1f} s" if value is not None else DASH for value in seconds),
        ])  # fmt: skip
        middle, low, high = spread(loop["seconds"])
        records.append({
            **{"table": "loops", "name": name, "seconds": middle, "lowest": low, "highest": high},
            **{"tokens_per_second": rate, "mfu": share, "peak_memory_bytes": peak},
            **{"compile_cold_seconds": seconds[0], "compile_kept_seconds": seconds[1]},
        })  # fmt: skip
    plain = bench["loops"]["plain"]["seconds"]
    for name, title in (("ours", "ratio"), ("quiet", "ratio without noise")):
        if name in bench["loops"]:
            times = ratios(plain, bench["loops"][name]["seconds"])
            rows.append([title, "", *cells(times, ".2f"), *[""] * 5])
            middle, low, high = spread(times)
            records.append({"table": "loops", "name": title, "ratio": middle, "lowest": low, "highest": high})
    notes = [
        f"Medians over {len(plain)} turns, the lowest and the highest; the ratio is turn by turn. The plain"
        " loop is eager, with AdamW not fused and batches built row by row from the map; it has no noise, input"
        " noise or diagnosis.",
        "MFU: 6 N + 12 L C T FLOPs a token over the card's dense peak in 16 bits. Peak memory: "
        + ("of the card's allocator" if bench["machine"]["device"].startswith("cuda") else "of a whole process")
        + " over its first steps, in a process of its own.",
    ]
    return Table(f"A step: {described(bench)}", columns, rows, records, tuple(notes))


def choices_table(bench):
    """A row a choice of train.py's: a step, an evaluation or a sample with it undone, against that with it."""
    columns = ["", "of", "ms with it", "ms with it undone", "ratio", "turns"]
    rows, records = [], []
    for row in bench["choices"]:
        done, undone, times = row["done"], row["undone"], ratios(row["undone"], row["done"])
        rows.append([
            *(row["name"], row["of"], cells(done, scale=1e3)[0], cells(undone, scale=1e3)[0]),
            *cells(times, ".2f"),
        ])  # fmt: skip
        middle, low, high = spread(times)
        records.append({
            **{"table": "choices", "name": row["name"], "of": row["of"], "seconds": median(done)},
            **{"undone_seconds": median(undone), "ratio": middle, "lowest": low, "highest": high},
        })  # fmt: skip
    note = (
        "Each choice of train.py's undone by itself, in turns with all of them; an evaluation is one of the val"
        " loss, a sample a text as long as the context. Medians over turns, of steps"
        f" {len(bench['choices'][0]['done'])}; the ratio, turn by turn, is what the choice is worth beside the"
        " others."
    )
    return Table(f"What its choices are worth: {described(bench)}", columns, rows, records, (note,))


def ingredients_table(bench):
    """A row an ingredient: what it adds to our own step without it."""
    columns = ["", "ms added", "turns", "% of a step", "turns"]
    rows, records, steps = [], [], quiet_steps(bench)
    step, low, high = spread(steps)
    of = f"{1e3 * step:.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f})"
    for row in bench["ingredients"]:
        parts = shares(row, median(steps))
        rows.append([row["name"], *cells(added(row), "+.2f", 1e3), *cells(parts, "+.1f")])
        (middle, low, high), (share, least, most) = spread(added(row)), spread(parts)
        records.append({
            **{"table": "ingredients", "name": row["name"], "seconds": middle, "lowest": low, "highest": high},
            **{"percent": share, "percent_lowest": least, "percent_highest": most},
        })  # fmt: skip
    note = (
        "Each measured in turns with train.py's step of the same configuration without it, and without noise;"
        " medians over turns, the lowest and the highest. On a CPU, what is done once a parameter is measured"
        " in steps of a small batch. The per cent are of the median step of the whole batch without noise,"
        f" {of}."
    )
    return Table(f"What each adds to a step: {described(bench)}", columns, rows, records, (note,))


def now_and_then_table(bench):
    """Evaluations, checkpoints and samples: seconds, and what they are measured against."""
    look, rows, records = bench["evaluation"], [], []

    def add(name, seconds, against="", other=None):
        times = ratios(seconds, other) if other else None
        rows.append([name, *cells(seconds, ".3f"), against, *(cells(times, ".3f") if times else ["", ""])])
        ratio = {"ratio": median(times), "against": against} if times else {}
        middle, low, high = spread(seconds)
        records.append(
            {"table": "now and then", "name": name, "seconds": middle, "lowest": low, "highest": high, **ratio}
        )

    wanted = look["wanted_batches"]
    random = scaled(look["random_seconds"], wanted / look["random_batches"])
    if look["exact_tokens"] < look["val_tokens"]:
        add(f"val loss, exact, {look['exact_tokens']:,} tokens, float32", look["exact_seconds"])
    whole = scaled(look["exact_seconds"], look["val_tokens"] / look["exact_tokens"])
    add("val loss, exact, the whole split, float32", whole, f"{wanted} random batches, float32", random)
    add("train loss over its fixed windows, float32", look["train_seconds"])
    if "plain_seconds" in look:
        plain = scaled(look["plain_seconds"], wanted / look["random_batches"])
        add(f"{wanted} random batches as the plain loop has them", plain)
    if kept := bench.get("checkpoint"):
        add(f"checkpoint, {kept['bytes'] / 1e6:.1f} MB", kept["seconds"])
        add(f"best weights, {kept['best_bytes'] / 1e6:.1f} MB", kept["best_seconds"])
    if text := bench.get("sampling"):
        for part, what in (("begun", "the first"), ("full", "further")):
            cached, plain = (text[f"{part}_{name}_seconds"] for name in ("cached", "plain"))
            tokens, cache = f"{what} {text['tokens']} tokens of a sample, float32", "keys and values kept"
            add(f"{tokens}, {cache}", cached)
            add(f"{tokens}, all computed anew each time", plain, cache, cached)
    columns = ["", "seconds", "turns", "against", "ratio", "turns"]
    note = (
        f"{wanted} random batches are scaled from {look['random_batches']}; ratios are turn by turn. Samples:"
        " the same text with the keys and values of what was before kept, and without; further is after a full"
        " context, which both cut to its half."
    )
    return Table(f"Now and then: {described(bench)}", columns, rows, records, (note,))


def scaled(values, factor):
    return [value * factor for value in values]


def whole_run(bench):
    """{loop: {part: seconds of a whole run of this configuration}}, from the medians.

    The plain loop's has its steps and its evaluations, of the train and of the val split, and nothing else.
    Ours has all that train.py does: every evaluation writes the best weights, and at the end the train windows,
    and every other split whole, are evaluated, the splits with the best weights too, as if they were others.
    """
    config, look, kept = bench["config"], bench["evaluation"], bench["checkpoint"]
    steps, looks = config["max_iters"], config["max_iters"] // config["eval_interval"] + 1
    random = median(look.get("plain_seconds", look["random_seconds"])) / look["random_batches"]
    exact, windows = median(look["exact_seconds"]), median(look["train_seconds"])
    at_the_end = 2 * exact * look["final_tokens"] / look["exact_tokens"] + windows
    logging = [median(added(row)) for row in bench.get("ingredients", []) if row["name"].startswith("logging")]
    started = bench.get("started", {}).get("ours", {})
    return {
        "plain": {
            "steps": steps * median(bench["loops"]["plain"]["seconds"]),
            "evaluations": 2 * look["wanted_batches"] * random * looks,
        },
        "ours": {
            "steps": steps * (median(bench["loops"]["ours"]["seconds"]) + max(0.0, *logging, 0.0)),
            "evaluations": (exact + windows) * looks + at_the_end,
            "checkpoints": median(kept["seconds"]) * -(-steps // config["checkpoint_interval"])
            + median(kept["best_seconds"]) * looks,
            "compilation": started.get("compile_cold_seconds") or 0.0,
        },
    }


def run_table(bench):
    """A whole run of the configuration, in minutes, by its parts."""
    runs = whole_run(bench)
    parts = list(runs["ours"])
    rows, records = [], []
    for name, seconds in runs.items():
        total = sum(seconds.values())
        rows.append([NAMES[name], *(minutes(seconds.get(part)) for part in parts), minutes(total)])
        by_part = {f"{part}_seconds": seconds.get(part) for part in parts}
        records.append({"table": "whole run", "name": name, "seconds": total, **by_part})
    ratio = records[0]["seconds"] / records[1]["seconds"]
    rows.append(["ratio", *[""] * len(parts), f"{ratio:.2f}"])
    records.append({"table": "whole run", "name": "ratio", "ratio": ratio})
    config = bench["config"]
    note = (
        f"{config['max_iters']:,} iterations, an evaluation every {config['eval_interval']:,}, from the medians"
        f" above: the plain loop's steps and evaluations (2 × {bench['evaluation']['wanted_batches']} random"
        " batches) alone; train.py's with logging, exact evaluations, every checkpoint, and compilation with"
        " nothing cached."
    )
    columns = ["", *(f"{part}, minutes" for part in parts), "all, minutes"]
    return Table(f"A whole run: {described(bench)}", columns, rows, records, (note,))


def minutes(seconds):
    return DASH if seconds is None else f"{seconds / 60:.2f}"


def runs_an_hour(row, max_iters):
    """Of so many trained at once, from their steps alone."""
    return 3600 * sum(row["steps_per_second"]) / max_iters


def jobs_table(jobs):
    """A row a number of runs at once."""
    columns = ["runs at once", "steps/s of each", "lowest to highest", "runs an hour", "of one at a time"]
    length, rows, records = jobs["config"]["max_iters"], [], []
    alone = runs_an_hour(jobs["jobs"][0], length) / jobs["jobs"][0]["jobs"]
    for row in jobs["jobs"]:
        rate = runs_an_hour(row, length)
        share = f"{rate / alone:.2f}"
        rows.append([str(row["jobs"]), *cells(row["steps_per_second"], ".2f"), f"{rate:.1f}", share])
        each = median(row["steps_per_second"])
        records.append({"table": "jobs", "jobs": row["jobs"], "steps_per_second": each, "runs_per_hour": rate})
    note = (
        f"Runs of {length:,} iterations, by the steps of equal slices of them after a warm-up, all at once,"
        " in processes of their own; evaluations, checkpoints and compilation are not in it."
    )
    return Table(f"Runs at once: {described(jobs)}", columns, rows, records, (note,))


def profile_tables(record):
    """A table a loop: the operations that take longest."""
    where = "kernels on the card" if record["machine"]["device"].startswith("cuda") else "operators on the CPU"
    columns, tables = ["", "ms a step", "calls a step", "%"], []
    for name, found in record["profile"].items():
        rows, records = [], []
        for row in found["operations"]:
            share = 100 * row["seconds"] / found["seconds"]
            rows.append(
                [row["name"][:70], f"{1e3 * row['seconds']:.3f}", f"{row['calls']:.1f}", f"{share:.1f}"]
            )
            records.append({"table": "profile", "loop": name, **row, "percent": share})
        title = (
            f"The {where} that take longest in a step of {'the ' * (name == 'plain')}{NAMES[name]},"
            f" {1e3 * found['seconds']:.1f} ms in all: {described(record)}"
        )
        tables.append(Table(title, columns, rows, records, ()))
    return tables


def plain_text(table):
    """A table for the terminal, its columns aligned."""
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    aligned = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in lines
    ]
    return "\n".join([table.title, "", *aligned, "", *table.notes, ""])


# The figure.


def bench_figure(folders):
    """A panel for each bench folder with ingredients: the ms that each adds to a step; None without any."""
    benches = [bench for folder in folders if (bench := read_bench(folder)["bench"])]
    with rc_context(STYLE):
        panels = [bench_panel(bench) for bench in benches if bench.get("ingredients")]
        return figure_of(panels) if panels else None


def bench_panel(bench):
    rows, step = bench["ingredients"], median(quiet_steps(bench))
    values = [spread([1e3 * second for second in added(row)]) for row in rows]
    parts = [f"{median(shares(row, step)):+.1f} %" for row in rows]

    def draw(axes):
        places = [-place for place in range(len(rows))]
        middles = [middle for middle, _, _ in values]
        around = [[m - low for m, low, _ in values], [high - m for m, _, high in values]]
        axes.barh(places, middles, height=0.62, color="#56B4E9")
        axes.errorbar(middles, places, xerr=around, fmt="none", ecolor="#000000", elinewidth=0.7, capsize=1.5)
        axes.axvline(0, color="#808080", linewidth=0.6)
        left = min(0.0, *(low for _, low, _ in values))
        right = max(high for _, _, high in values)
        for place, part, (_, _, high) in zip(places, parts, values):
            at = max(high, 0.0) + 0.025 * (right - left)
            axes.text(at, place, part, va="center", size=5.5)
        axes.set_xlim(left - 0.03 * (right - left), right + 0.4 * (right - left))
        axes.set_yticks(places, [row["name"] for row in rows])
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.locator_params(axis="x", nbins=5)

    caption = (
        f"{described(bench)}. What each adds to train.py's step, which without noise takes {1e3 * step:.1f} ms:"
        " median of turns, the lowest and the highest, and the median in per cent of that step."
    )
    longest = max(len(row["name"]) for row in rows)
    return Panel(
        draw, "Cost of a step's ingredients", wrap(caption), height=0.125 * len(rows) + 0.1,
        xlabel="ms added to a step", left=min(2.0, 0.2 + 0.048 * longest),
    )  # fmt: skip
