"""Figures and tables from run folders or committed records, and nothing else.

    python plot.py FOLDER [FOLDER ...] [--out=DIR]       the default DIR is FOLDER/figures

All runs at or below the folders are read; out/<arm>/seed<n> is a run of that arm. Each study (sweep.py) is
drawn into its own figures folder, a part of one (a run) into the part's; studies that belong together (table1)
are drawn as one too, beside them; so are arms of no study. With --out all is drawn as one. Figures are PNG and
PDF, tables Markdown, LaTeX (booktabs) and CSV, of whatever the runs allow:

    overview                  validation loss, and the differences to the baseline, paired by seed
    figure1_training_loss     mean loss over fixed train windows, dropout off
    figure2_validation_loss   mean loss over fixed val windows
    figure3_noise             the norms of the noise and of the gradient
    cost                      validation loss by tokens and by wall time
    differences               differences to the reference, with intervals
    mechanism                 of a study's decisive arms: val loss, fraction of the noise's effect, signal
    distance                  how far fine-tuning moved the weights from the pretrained ones
    lambdas                   loss or score, and that distance, against NoisyTune's lambda
    sensitivity               a map of the differences over sigma_0 and gamma, if the arms are such a grid
    learning_rates            loss against learning rate, of arms at three rates or more
    flatness                  the rise of the loss under changes of the weights (training.sharpness)
    table1, comparisons, sharpness      the tables

What `python -m bench` has measured is drawn as well. A folder of records with every study that the pages
show, as results/, gets the pages' figures and nothing else.
"""

import functools
import itertools
import re
from pathlib import Path

from analysis import effects, figures, look, page_figures, records, statistics, tables
from bench import report
from config import Parser, UserError, given, run_script, user_path
from training.run_files import find_runs

FIGURES = {
    "overview": figures.overview,
    "figure1_training_loss": functools.partial(figures.losses, name="train_loss", label="training loss (nats)"),
    "figure2_validation_loss": figures.losses,
    "figure3_noise": figures.noise,
    "cost": figures.cost,
    "differences": effects.differences,
    "mechanism": figures.mechanism,
    "distance": figures.distance,
    "lambdas": effects.lambdas,
    "sensitivity": effects.sensitivity,
    "learning_rates": effects.learning_rates,
    "flatness": effects.flatness,
}
MEANING = {  # of a difference
    statistics.Verdict.BETTER: "better, by more than seeds explain",
    statistics.Verdict.WORSE: "worse, by more than seeds explain",
    statistics.Verdict.NOT_RESOLVED: "not resolved, these seeds cannot tell it from no difference",
    statistics.Verdict.INCOMPLETE: "no verdict yet, planned seeds are missing",
    statistics.Verdict.NONE: "no verdict, one seed says nothing about others",
}


def main(argv):
    folders, out = arguments(argv)
    benches = report.find_benches(folders)
    runs = find_runs(folders) or any(any(folder.rglob(records.RUNS)) for folder in folders)
    found = records.read(folders) if runs or not benches else None
    if found and len(folders) == 1 and page_figures.are_of(found):
        said(out or folders[0] / "figures", page_figures.draw(found, out or folders[0] / "figures"))
        return 0
    drawn = [(part, place, draw(part, place)) for part, place in drawings(found, folders, out)] if found else []
    if len(drawn) == 1:
        conclude(*drawn[0])
    for bench, place in report.places(benches, out):
        said(place, report.draw(bench, place))
    return 0


def arguments(argv):
    """(folders, output folder or None) of a command line."""
    parser = Parser(prog="python plot.py", add_help=False)
    parser.add_argument("folders", nargs="*", type=user_path)
    parser.add_argument("--out", type=given)
    options = parser.parse_intermixed_args(argv)
    if not options.folders:
        raise UserError("which runs? python plot.py out")
    if missing := [folder for folder in options.folders if not folder.is_dir()]:
        raise UserError(f"no such folder: {missing[0]}")
    return options.folders, options.out and user_path(options.out)


def drawings(found, folders, out):
    """[(Records drawn together, where)]: all into `out` if it is given, else study by study."""
    if out or not found.studies:
        return [(found, out or folders[0] / "figures")]
    studies = sorted(found.studies.values(), key=lambda study: (study["folder"], study["name"]))
    places = [given_part(study["folder"], folders) or study["folder"] for study in studies]
    parts = [(part_of(found, [study]), place / "figures") for study, place in zip(studies, places)]
    wholes = [study for study, place in zip(studies, places) if place == study["folder"]]
    key = lambda study: (str(study["folder"].parent.parent), study["together"] or "", study["size"])  # noqa: E731
    for (place, name, size), alike in itertools.groupby(sorted(wholes, key=key), key):
        if name and len(alike := list(alike)) > 1:
            parts.append((part_of(found, alike), Path(place) / "figures" / name / size))
    loose = found.runs[found.runs.study == ""]
    homes = loose.folder.map(lambda folder: home(Path(folder)))
    parts += [(found.of(folder=list(its.folder)), place / "figures") for place, its in loose.groupby(homes)]
    return parts


def given_part(study, folders):
    """The first of the given folders that is a part of a study's, such as a run; None if all of it is given."""
    if any(folder in (study, *study.parents) for folder in folders):
        return None
    return next((folder for folder in folders if study in folder.parents), None)


def part_of(found, studies):
    return found.of(study=[study["name"] for study in studies], size=studies[0]["size"])


def home(run):
    """The folder in which a run's arm lies; the arms in one are drawn together."""
    return run.parent.parent if re.fullmatch(r"seed\d+", run.name) else run.parent


def draw(found, out):
    """Write every figure and table of some Records, and say what is missing; returns the figures' paths."""
    paths = [path for name, of in FIGURES.items() for path in look.save(of(found), out / name, ("png", "pdf"))]
    written = [path for stem, its in tables.all_tables(found).items() for path in tables.write(its, out / stem)]
    for note in records.notes(found):
        print(note)
    said(out, paths + written)
    return paths


def said(out, paths):
    print(f"drawn in {out}: {', '.join(path.name for path in paths)}")


def conclude(found, out, paths):
    """Say what the first arm with noise does to the loss, or to the score where there is one, and where that is
    to be seen."""
    name, unit, better = "best_val_loss", " nats", "lower"
    if "final_val_score" in found.runs:
        name, unit, better = "final_val_score", "", "higher"
    for key in found.runs[["study", "size"]].drop_duplicates().itertuples(index=False):
        if found.studies.get(key, {}).get("purpose") == "tuning":
            continue
        rows = statistics.compare(found, *key, name)
        if rows.empty and (why := uncompared(found.of(study=key.study, size=key.size))):
            print(f"nothing is compared: {why}")
        noisy = rows[rows.index.isin(found.runs.arm[found.runs.noisy])]
        for arm, row in (noisy if len(noisy) else rows).head(1).iterrows():
            meaning = MEANING.get(row.verdict, ", ".join(row.remarks))
            size = look.signed(row["mean"], row.half_width) if row.n else "–"
            what = f"{arm} against {row.reference}: {effects.WORDS[name]} {size}{unit}"
            print(f"{what} (n = {row.n}, {better} is better): {meaning}")
    figure = next(name for name in ("overview", "figure2_validation_loss") if out / f"{name}.png" in paths)
    print(f"see {out / figure}.png")


def uncompared(found):
    """Why nothing of some Records is compared; None of a single arm."""
    table = records.arms(found)
    if len(table) < 2:
        return None
    if table.reference.notna().any():
        return "no runs of an arm and of its reference have ended"
    if table.setting.is_unique:
        return "the arms differ in corpus, size, batch, length, evaluation or device"
    if table.noisy.all():
        return "every arm has noise; a study file may say which is compared with which"
    return "call the arm that the others are to be compared with baseline"


if __name__ == "__main__":
    run_script(main, __doc__)
