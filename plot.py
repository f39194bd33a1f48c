"""Figures and tables, from run folders and nothing else.

    python plot.py FOLDER [FOLDER ...] [--out=DIR]       the default DIR is FOLDER/figures

Every run folder at or below the folders is read; out/<arm>/seed<n> is a run of that arm. Runs that share
corpus, model size, batch, length, evaluations and kind of device form a setting, which is one panel. In a
folder with studies (sweep.py), each study is drawn into its own figures folder, the studies of the paper's
Table 1 of one size also together beside them, and arms of no study together there too (a single one within
itself).

It writes whatever the runs allow of the following, figures as PNG and PDF of column width (3.3 inches), tables
as Markdown, LaTeX (booktabs) and CSV:

    figure1_training_loss     mean loss over fixed train windows, dropout off
    figure2_validation_loss   mean loss over fixed val windows
    figure3_noise             sigma, the norm of the noise, the norm of the gradient
    cost                      validation loss by tokens and by wall time
    differences               a forest plot of the differences to the baseline
    mechanism                 val loss of a study's decisive arms, and how much of their updates is signal
    distance                  how far fine-tuning moved the weights from those that init_from gave
    sensitivity               a map of the differences over sigma_0 and gamma, if the arms are such a grid
    table1                    losses of every arm beside the paper's Table 1
    comparisons               differences to the baseline, their tests and verdicts
    sharpness                 the rise of the loss under changes of the weights, if sharpness.py measured it

From the bench.json or jobs.json of `python -m bench` it draws `bench`: what each ingredient adds to a step, and
the tables.
"""

from pathlib import Path

from analysis.arms import by, notes, read_settings
from analysis.curves import cost_figure, distance_figure, loss_figure, mechanism_figure, noise_figure
from analysis.effects import forest_figure, sensitivity_figure
from analysis.panels import save, save_text
from analysis.tables import (
    COMPARED,
    comma_separated,
    comparison_table,
    latex,
    loss_table,
    markdown,
    sharpness_table,
)
from config import UserError, run_script
from training.run_folder import find_runs


def main(argv):
    folders, out = arguments(argv)
    from bench import report  # of what few have measured

    benches, runs = report.find_benches(folders), find_runs(folders)
    if runs or not benches:
        for together, place in drawings(folders, out):
            draw(read_settings(together), place)
    for bench in benches:
        written = report.draw(bench, out and out / bench.name)
        print(f"drawn in {written[0].parent}: {', '.join(path.name for path in written)}")
    return 0


def arguments(argv):
    """(folders, output folder or None) of a command line."""
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        raise SystemExit(0)
    out = [word.removeprefix("--out=") for word in argv if word.startswith("--out=")]
    folders = [Path(word) for word in argv if not word.startswith("--")]
    if strange := [word for word in argv if word.startswith("--") and not word.startswith("--out=")]:
        raise UserError(f"{strange[0]} is no option of plot.py; it has --out=DIR")
    if not folders:
        raise UserError("which runs? python plot.py out")
    return folders, Path(out[-1]) if out else None


def drawings(folders, out):
    """[(folders drawn together, where)]: all of them into `out` if it is given, else study by study."""
    if out:
        return [(folders, out)]
    studies = [study for folder in folders for study in studies_in(folder)]
    if not studies:
        return [(folders, folders[0] / "figures")]
    paper = [path for path in studies if path.parent.name.startswith("table1")]
    paper = by(paper, lambda path: (path.parent.parent, path.name))  # results/gpu has its own
    joint = [(same, place / "figures" / size) for (place, size), same in paper.items() if len(same) > 1]
    loose = [drawing for folder in folders for drawing in loose_drawings(folder)]
    return [*joint, *loose, *(([study], study / "figures") for study in sorted(studies))]


def studies_in(folder):
    """The folders of the studies within a folder; those of which nothing was trained yet are said."""
    found = [path.parent for path in sorted(folder.glob("*/**/study.json"))]
    begun = [study for study in found if any(study.glob("**/run.json"))]
    for study in found:
        if study not in begun:
            print(f"{study}: no run of this study yet, left out")
    return begun


def loose_drawings(folder):
    """The folders within a folder that hold runs and no study: those of one arm together, others each alone."""
    loose = [
        child
        for child in sorted(folder.iterdir())
        if any(child.glob("**/run.json")) and not any(child.glob("**/study.json"))
    ]
    arms = [child for child in loose if any(child.glob("run.json")) or any(child.glob("seed*/run.json"))]
    together = [(arms, folder / "figures")] if len(arms) > 1 else []
    return [*together, *(([child], child / "figures") for child in loose if not together or child not in arms)]


def draw(settings, out):
    """Write every figure and table of some settings, and say what is missing."""
    figures = {
        "figure1_training_loss": loss_figure(settings, "train_loss", "training loss"),
        "figure2_validation_loss": loss_figure(settings, "val_loss", "validation loss"),
        "figure3_noise": noise_figure(settings),
        "cost": cost_figure(settings),
        "differences": forest_figure(settings),
        "mechanism": mechanism_figure(settings),
        "distance": distance_figure(settings),
        "sensitivity": sensitivity_figure(settings),
    }
    tables = {
        "table1": [loss_table(setting) for setting in settings],
        "comparisons": [table for name in COMPARED if (table := comparison_table(settings, name))],
        "sharpness": [table for setting in settings if (table := sharpness_table(setting))],
    }
    written = [path for stem, figure in figures.items() for path in save(figure, out / stem)]
    written += [path for stem, of_stem in tables.items() for path in save_tables(of_stem, out / stem)]
    for note in notes(run for setting in settings for arm in setting.arms for run in arm.runs):
        print(note)
    print(f"drawn in {out}: {', '.join(path.name for path in written)}")


def save_tables(tables, stem):
    """Write tables in three formats, where there are any; returns the paths."""
    forms = {".md": markdown, ".tex": latex, ".csv": comma_separated}
    return [save_text(stem.with_suffix(suffix), form(tables)) for suffix, form in forms.items() if tables]


if __name__ == "__main__":
    run_script(main)
