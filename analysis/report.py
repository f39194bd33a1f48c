"""results/README.md and FINDINGS.md, from the records beside them: what was compared, the results, and what
they answer, in tables and in words.

    python report.py results

Every number and every verdict in them is computed from the records. `python plot.py results` draws the figures
it shows.
"""

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.arms import by, changed_knobs
from analysis.findings import findings
from analysis.panels import save_text
from analysis.sentences import BEST, CHOOSING, ranked_rates, read_studies, tally
from analysis.tables import (
    DIFFERENCE_NOTE,
    INTERVAL_NOTE,
    LOSSES,
    NOT_RESOLVED,
    TARGET_NOTE,
    against,
    comparison_table,
    loss_table,
    markdown,
    markdown_lines,
    sharpness_table,
    title_of,
    told_apart,
    usual_of,
    verdict,
    with_interval,
)
from bench.costs import find_benches, tables_of
from config import UserError, differences, run_script

HEAD = """# Results

Written by `report.py` from the records beside it, the figures by `plot.py`. A record is a run folder with its
log thinned and its checkpoints left out; `python collect.py out` adds those of studies' finished runs. What all
of it answers is in [FINDINGS.md](FINDINGS.md).
"""
IN_ALL = ("Losses are in nats per symbol.", INTERVAL_NOTE, DIFFERENCE_NOTE, NOT_RESOLVED, TARGET_NOTE)

ORDER = (  # of the sections; studies of one's own come after these
    *("table1_shakespeare", "table1_enwik8", "table1_text8"),
    *("best_against_best", "limited_data", "regularizers"),
    *("mechanism", "decisive", "optimizers", "schedules", "sensitivity", "flatness", "robustness_of_result"),
    *("noisytune", "noisytune_tuned", "aa_control", *CHOOSING),
)
MANY = 10  # arms; the losses of more are not shown here
NOT_TOLD = ("seed", "data_seed", "threads", "device", "overwrite")  # of a baseline's knobs
LONG = 8  # comparisons; with more, the sentence names the arms and leaves their differences to the table


def main(argv):
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        return 0
    if len(argv) != 1:
        raise UserError("which records? python report.py results")
    results = Path(argv[0])
    studies, benches = read_studies(results), find_benches([results])
    if not studies:
        raise UserError(f"no study lies in {results}: python collect.py out copies the finished ones there")
    shown = sorted(studies, key=place_of)
    parts = [*contents(shown, benches, results), *joint_figures(results)]
    parts += [*(section(study, results) for study in shown), *(cost_section(b, results) for b in benches)]
    text = "\n".join([HEAD, textwrap.fill(" ".join(IN_ALL), 112), "", *parts])
    for name, said in {"README.md": text, "FINDINGS.md": findings(studies)}.items():
        print(f"written: {save_text(results / name, said)}", file=sys.stderr)
    return 0


def place_of(study):
    """By which a study is put in order."""
    name = study.folder.parent.name
    return ORDER.index(name) if name in ORDER else len(ORDER), study.folder


def contents(studies, benches, results):
    """A table with a link to every section, what was trained for it and what came out."""
    lines = [
        "| study | runs | hours | val, best evaluation, each arm against its reference |",
        "|---|---:|---:|---|",
    ]
    total = np.zeros(2)
    for study in studies:
        runs = all_runs(study.settings)
        hours = hours_of(runs)
        total += len(runs), hours
        said = "chooses learning rates" if study.name in CHOOSING else tally(study.rows().values())
        link = f"[{study.record['title']}](#{anchor(study.folder)})"
        lines.append(f"| {link} | {len(runs)} | {hours:.1f} | {said} |")
    lines.append(f"| all | {total[0]:.0f} | {total[1]:.1f} | |")
    for bench in benches:
        place = bench.relative_to(results)
        lines.append(f"| [What a step costs: `{place}`](#{anchor(bench)}) | | | |")
    return [*lines, ""]


def anchor(folder):
    return f"{folder.parent.name}-{folder.name}"


def joint_figures(results):
    """The studies of the paper's Table 1 in one figure, as plot.py draws those of one size together."""
    found = sorted((results / "figures").glob("*/figure2_validation_loss.png"))
    return [line for path in found for line in (image(path.relative_to(results), "Table 1, all corpora"), "")]


def image(path, about):
    return f'<img src="{path.as_posix()}" width="400" alt="{about}: {path.stem}">'


def section(study, results):
    """What there is to say of one study at one size."""
    settings, place = study.settings, study.folder.relative_to(results)
    compared = [] if study.name in CHOOSING else told_apart(settings)
    lines = [
        f'<a id="{anchor(study.folder)}"></a>',
        "",
        f"## {study.record['title']}",
        "",
        f"`{place}`: {provenance(settings)}",
        "",
        f"    {study.command}",
        "",
        *arms_in_knobs(settings),
        *(line for setting in settings if study.name in CHOOSING for line in chosen(setting)),
        *(line for losses, rows in compared for line in (in_words(losses, rows), "")),
        *figures(study, place),
        "",
    ]
    differences = [comparison_table(settings, *losses) for losses, _ in compared]
    lines += [markdown(map(in_short, differences[:1])), *map(folded, differences[1:])]
    lines += [folded(loss_table(setting), "Losses; ") for setting in settings]
    return "\n".join([*lines, *map(folded, filter(None, map(sharpness_table, settings)))])


def figures(study, place):
    """Those of a study's figures that are worth showing here, and a line that tells where the others are."""
    settings, there = study.settings, study.folder / "figures"
    schedules = {arm.runs[0].config.noise_schedule for s in settings for arm in s.arms if arm.noisy}
    names = ["mechanism", "distance", *(["figure3_noise"] if len(schedules) > 1 else []), "sensitivity"]
    names += [] if study.name in CHOOSING else ["differences"]
    names += ["figure2_validation_loss"] if all(len(s.arms) <= MANY for s in settings) else []
    shown = [name for name in names if (there / f"{name}.png").is_file()]
    lines = [image(place / "figures" / f"{name}.png", study.record["title"]) for name in shown]
    return [*lines, "", f"All figures and tables of it: [`{place}/figures`]({place.as_posix()}/figures)."]


def chosen(setting):
    """For each kind of arm in a study of learning rates the arm of the lowest mean, and the next; a list."""
    for first, mean, following, more in ranked_rates(setting):
        after = f"; next `{following}`, {more:+.4f}" if following else ""
        yield f"- lowest {LOSSES[BEST]}: `{first}`, {mean:.4f}{after}"
    yield from ("", "The rates are chosen by these means; nothing is judged here.", "")


def in_short(table):
    """A table without the notes that the head has for all."""
    return replace(table, notes=tuple(note for note in table.notes if note not in IN_ALL))


def folded(table, what=""):
    """A table in short, to be unfolded; its title says so, after `what`."""
    _, _, *lines = markdown_lines(in_short(table))
    return "\n".join([f"<details><summary>{what}{table.title}</summary>", "", *lines, "</details>", ""])


def arms_in_knobs(settings):
    """The knobs of each setting's baseline, and what each arm changes of it, folded away."""
    items = []
    for setting in settings:
        for arm in setting.arms if setting.baseline else ():
            knobs = knobs_to_tell(arm, setting.baseline)
            said = ", ".join(f"{name}={shortened(value)}" for name, value in knobs.items())
            whose = "the defaults of config/__init__.py, but for " if arm is setting.baseline else ""
            items.append(f"- `{arm.name}`: {whose}{said or 'data_seed alone'}")
    head = "<details><summary>The baseline's knobs, and what the arms change of them</summary>"
    return [head, "", *items, "", "</details>", ""] if items else []


def knobs_to_tell(arm, baseline):
    """{knob: value} of a baseline against the defaults, of another arm against its baseline; sigma and gamma of
    all noise that has both."""
    config = arm.runs[0].config
    if arm is baseline:
        return {name: value for name, value in differences(config).items() if name not in NOT_TOLD}
    both = ("noise_sigma", "noise_gamma") if arm.noisy and config.noise_schedule == "exponential" else ()
    return changed_knobs(arm, baseline) | {name: getattr(config, name) for name in both}


def shortened(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def cost_section(bench, results):
    """What bench.py measured, in a folder of its own."""
    place = bench.relative_to(results)
    lines = [f'<a id="{anchor(bench)}"></a>', "", f"## What a step costs: `{place}`", ""]
    if (bench / "figures" / "bench.png").is_file():
        lines += [image(place / "figures" / "bench.png", "What ingredients add to a step"), ""]
    return "\n".join([*lines, markdown(tables_of(bench))])


def provenance(settings):
    """Seeds, hours, machine, revision and days of a study's runs."""
    runs = all_runs(settings)
    diverged = sum(run.result["status"] == "diverged" for run in runs if run.result)
    about = [run.about for run in runs]
    machines = by(sorted(map(machine_of, about)), str)
    machines = [
        f"{name}{f' ({len(same)} runs)' if len(machines) > 1 else ''}" for name, same in machines.items()
    ]
    revisions = sorted({revision(versions) for a in about for versions in versions_of(a)})
    versions = sorted({f"PyTorch {a['versions']['torch']}" for a in about})
    days = sorted({a.get("began", "an unknown day")[:10] for a in about})
    sizes = "; ".join(sorted({f"{setting.title}, {setting.size}" for setting in settings}))
    planned = settings[0].study["arms"]
    arms = {arm.name for setting in settings for arm in setting.arms}
    part = f"{len(arms)} of {len(planned)} arms, " if len(arms) < len(planned) else ""
    rounding = " Pairs across these differ in rounding too, as in `aa_control`'s arm of that name."
    return (
        f"{sizes}. {part}{len(runs)} runs, {diverged} of them diverged, {seeds_of(settings)} an arm,"
        f" {hours_of(runs):.1f} hours of runs on {' and '.join(machines)}; {', '.join(versions)};"
        f" revision {', '.join(revisions)}; {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}."
        f"{rounding if len(machines) > 1 else ''}"
    )


def all_runs(settings):
    return [run for setting in settings for arm in setting.arms for run in arm.runs]


def hours_of(runs):
    return sum(run.result["seconds"] for run in runs if run.result) / 3600


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
