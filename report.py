"""results/README.md and FINDINGS.md, from the records beside them: what was compared, what came out, and what
that answers, in tables and in words.

    python report.py results

Every number and every verdict in it is computed here. `python plot.py results` draws the figures it shows.
"""

import sys
from pathlib import Path

from arms import by, changed_knobs, read_settings
from config import UserError, run_script
from costs import find_benches, tables_of
from files import read_json
from findings import findings
from panels import save_text
from sentences import command
from tables import (
    against,
    comparison_table,
    loss_table,
    markdown,
    sharpness_table,
    title_of,
    told_apart,
    usual_of,
    verdict,
    with_interval,
)

HEAD = """# Results

Written by `report.py` from the records beside it, the figures by `plot.py`. A record is a run folder with its
log thinned and its checkpoints left out; `python collect.py out` adds those of studies' finished runs. Losses
are in nats per symbol. Differences are means over seeds, paired, arm minus reference: below 0 is better.
Intervals are 95 % t intervals, unadjusted; verdicts follow the paired t-test, Holm-adjusted over each table.
"Not resolved" says that these seeds cannot tell, not that there is no difference. What all of it answers is in
[FINDINGS.md](FINDINGS.md).
"""


LONG = 8  # comparisons; with more, the sentence names the arms and leaves their differences to the table


def main(argv):
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        return 0
    if len(argv) != 1:
        raise UserError("which records? python report.py results")
    results = Path(argv[0])
    studies = sorted(path.parent for path in results.rglob("study.json"))
    if not studies:
        raise UserError(f"no study lies in {results}: python collect.py out copies the finished ones there")
    costs = [cost_section(bench, results) for bench in find_benches([results])]
    text = "\n".join([HEAD, *contents(studies), "", *(section(study, results) for study in studies), *costs])
    for name, said in {"README.md": text, "FINDINGS.md": findings(results)}.items():
        print(f"written: {save_text(results / name, said)}", file=sys.stderr)
    return 0


def contents(studies):
    """A line with a link for every section."""
    return [f"- [{read_json(study / 'study.json')['title']}](#{anchor(study)})" for study in studies]


def anchor(study):
    return f"{study.parent.name}-{study.name}"


def section(study, results):
    """What there is to say of one study at one size."""
    record, settings = read_json(study / "study.json"), read_settings([study])
    place = study.relative_to(results)
    lines = [
        f'<a id="{anchor(study)}"></a>',
        "",
        f"## {record['title']}",
        "",
        f"`{place}`: {provenance(settings)}",
        "",
        f"    {command(record, settings)}",
        "",
        *arms_in_knobs(settings),
    ]
    compared = told_apart(settings)
    for losses, rows in compared:
        lines += [in_words(losses, rows), ""]
    schedules = {arm.runs[0].config.noise_schedule for s in settings for arm in s.arms if arm.noisy}
    drawn = ("figure3_noise",) if len(schedules) > 1 else ()
    for figure in ("mechanism", "distance", *drawn, "sensitivity", "differences", "figure2_validation_loss"):
        if (study / "figures" / f"{figure}.png").is_file():
            lines.append(
                f'<img src="{place}/figures/{figure}.png" width="400" alt="{record["title"]}: {figure}">'
            )
    tables = [comparison_table(settings, *losses) for losses, _ in compared]
    flat = [table for table in map(sharpness_table, settings) if table]
    return "\n".join([*lines, "", markdown([*tables, *map(loss_table, settings), *flat])])


def arms_in_knobs(settings):
    """What each arm changes of its setting's baseline, folded away."""
    items = []
    for setting in settings:
        for arm in setting.arms if setting.baseline else ():
            if arm is not setting.baseline:
                knobs = changed_knobs(arm, setting.baseline)
                said = ", ".join(f"{name}={shortened(value)}" for name, value in knobs.items())
                items.append(f"- `{arm.name}`: {said or 'data_seed alone'}")
    head = "<details><summary>What the arms change of their baseline</summary>"
    return [head, "", *items, "", "</details>", ""] if items else []


def shortened(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def cost_section(bench, results):
    """What bench.py measured, in a folder of its own."""
    place = bench.relative_to(results)
    lines = [f"## What a step costs: `{place}`", ""]
    if (bench / "figures" / "bench.png").is_file():
        lines += [f'<img src="{place}/figures/bench.png" width="400" alt="Cost of a step\'s ingredients">', ""]
    return "\n".join([*lines, markdown(tables_of(bench))])


def provenance(settings):
    """Seeds, hours, machine, revision and days of a study's runs."""
    runs = [run for setting in settings for arm in setting.arms for run in arm.runs]
    ended = [run for run in runs if run.result]
    diverged = sum(run.result["status"] == "diverged" for run in ended)
    about = [run.about for run in runs]
    machines = sorted({machine_of(a) for a in about})
    revisions = sorted({revision(versions) for a in about for versions in versions_of(a)})
    versions = sorted({f"PyTorch {a['versions']['torch']}" for a in about})
    days = sorted({a.get("began", "an unknown day")[:10] for a in about})
    hours = sum(run.result["seconds"] for run in ended) / 3600
    sizes = "; ".join(sorted({f"{setting.title}, {setting.size}" for setting in settings}))
    planned = settings[0].study["arms"]
    arms = {arm.name for setting in settings for arm in setting.arms}
    part = f"{len(arms)} of {len(planned)} arms, " if len(arms) < len(planned) else ""
    return (
        f"{sizes}. {part}{len(runs)} runs, {diverged} of them diverged, {seeds_of(settings)} an arm,"
        f" {hours:.1f} hours of runs on {' and '.join(machines)}; {', '.join(versions)};"
        f" revision {', '.join(revisions)}; {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}."
    )


def versions_of(about):
    """What a run ran under, at its beginning and each time that it was resumed."""
    return [about["versions"], *(resumed["versions"] for resumed in about.get("resumed", []))]


def revision(versions):
    """A commit in short, with what is said behind it of changes."""
    commit, changes, _ = str(versions["revision"]).partition("+")
    return commit[:10] + (changes and "+changes")


def machine_of(about):
    """A run's machine in words: its name, precision and threads."""
    machine = about["machine"]
    through = " through float32" if machine.get("through_float32") else ""
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return f"{machine['name']}, {machine['dtype']}{through}, {threads} a run"


def seeds_of(settings):
    numbers = sorted({len(arm.runs) for setting in settings for arm in setting.arms})
    several = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    return f"{several} seed{'s' * (numbers[-1] > 1)}"


def in_words(losses, found):
    """The verdicts of one table as a sentence; of a long one, without the differences that are in it."""
    parts = []
    for word, rows in by(found, lambda row: verdict(*row)).items():
        short = len(found) > LONG
        said = [
            against(*row[:3]) + ("" if short or not row[-1].n else f" {in_figures(row[-1])}") for row in rows
        ]
        parts.append(f"{'one seed' if word == '–' else word}: {(', ' if short else '; ').join(said)}")
    return f"*{title_of(losses)}*, against {usual_of(found)} unless said: {'. '.join(parts)}."


def in_figures(comparison):
    return with_interval(comparison.mean, comparison.half, "+")


if __name__ == "__main__":
    run_script(main)
