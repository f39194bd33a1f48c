"""Figures and tables from run folders alone.

    python plot.py FOLDER [FOLDER ...] [--out=DIR]       the default DIR is FOLDER/figures

Every run folder at or below the folders is read; out/<arm>/seed<n> is a run of that arm. Runs that share
corpus, model size, batch and length are one setting, and one panel. For whatever there is it writes, as
PNG and PDF of column width (3.3 inches):

    figure1_training_loss     mean loss over fixed train windows, dropout off
    figure2_validation_loss   mean loss over fixed val windows
    figure3_noise             sigma, the norm of the noise, the norm of the gradient
    table1.md                 losses of every arm beside the paper's Table 1
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from arms import differences, interval, mean_band, notes, other_knobs, read_settings
from config import UserError, run_script
from files import replacing

WIDTH = 3.3  # inches, a column
STYLE = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "legend.fontsize": 6.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "lines.linewidth": 1.1,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}
# Okabe and Ito's colours, told apart by the colour-blind; the line styles tell them apart in grey.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 2)))

# Nats per character, one seed each, none of the spread reported (the paper's Table 1): train, val.
PAPER = {
    "shakespeare_char": {"baseline": (0.8132, 1.4692), "noise": (0.8083, 1.4650)},
    "enwik8": {"baseline": (0.9323, 1.0048), "noise": (0.9379, 1.0067)},
    "text8": {"baseline": (0.9978, 0.9793), "noise": (1.0041, 0.9791)},
}
PAPER_SIZE = {"n_layer": 6, "n_embd": 384, "block_size": 256, "gradient_accumulation_steps": 1}
PAPER_LENGTH = {
    "shakespeare_char": {"batch_size": 64, "max_iters": 5000},
    "enwik8": {"batch_size": 32, "max_iters": 100_000},
    "text8": {"batch_size": 32, "max_iters": 100_000},
}


def main(argv):
    folders, out = arguments(argv)
    settings = read_settings(folders)
    written = [
        *save(loss_figure(settings, "train_loss", "training loss"), out / "figure1_training_loss"),
        *save(loss_figure(settings, "val_loss", "validation loss"), out / "figure2_validation_loss"),
        *save(noise_figure(settings), out / "figure3_noise"),
        save_text(out / "table1.md", table(settings)),
    ]
    for note in notes(run for setting in settings for arm in setting.arms for run in arm.runs):
        print(note)
    print(f"drawn in {out}: {', '.join(path.name for path in written)}")
    return 0


def arguments(argv):
    """(folders, output folder) of a command line."""
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        raise SystemExit(0)
    out = [word.removeprefix("--out=") for word in argv if word.startswith("--out=")]
    folders = [Path(word) for word in argv if not word.startswith("--")]
    if strange := [word for word in argv if word.startswith("--") and not word.startswith("--out=")]:
        raise UserError(f"{strange[0]} is no option of plot.py; it has --out=DIR")
    if not folders:
        raise UserError("which runs? python plot.py out")
    return folders, Path(out[-1]) if out else folders[0] / "figures"


def with_interval(mean, half, sign=""):
    return f"{mean:{sign}.4f}" + (f" ± {half:.4f}" if half is not None else "")


# Drawing. Panels are laid out in inches, so that text never shrinks and never meets the data.

LEFT, RIGHT, LINE = 0.5, 0.14, 0.118  # margins; the height of a line of text


@dataclass
class Panel:
    """A plot with its title and legend above and its caption beneath, none of them over the data."""

    draw: object  # function of the axes
    title: str = ""
    caption: tuple = ()
    legend: tuple = ()  # the arms' names
    height: float = 1.75
    x_axis: bool = True  # False: the panel beneath has it

    @property
    def legend_columns(self):
        return 2 if max(map(len, self.legend), default=0) <= 26 else 1

    @property
    def above(self):
        rows = -(-len(self.legend) // self.legend_columns)
        return LINE * (1.2 * bool(self.title) + 1.25 * rows) + 0.06

    @property
    def below(self):
        return (0.36 if self.x_axis else 0.04) + LINE * len(self.caption) + 0.1 * bool(self.caption)

    @property
    def total(self):
        return self.above + self.height + self.below


def figure_of(panels):
    height = sum(panel.total for panel in panels)
    figure, top = Figure(figsize=(WIDTH, height)), height
    for panel in panels:
        bottom = top - panel.above - panel.height
        box = (LEFT / WIDTH, bottom / height, 1 - (LEFT + RIGHT) / WIDTH, panel.height / height)
        axes = figure.add_axes(box)
        panel.draw(axes)
        axes.yaxis.set_label_coords(-0.135, 0.5)
        if panel.x_axis:
            axes.set_xlabel("iteration")
        else:
            axes.tick_params(labelbottom=False)
        if panel.legend:
            legend = axes.legend(
                axes.get_lines(), panel.legend, ncol=panel.legend_columns,
                loc="lower left", bbox_to_anchor=(-0.17, 1.0), frameon=False,
                borderpad=0.1, handlelength=2.6, columnspacing=1.0, labelspacing=0.25,
            )  # fmt: skip
            for text in legend.get_texts():
                text.set_parse_math(False)
        figure.text(0.02, (top - 0.03) / height, panel.title, va="top", weight="bold", parse_math=False)
        text = "\n".join(panel.caption)
        figure.text(0.02, (bottom - 0.36) / height, text, va="top", size=6, linespacing=1.35, parse_math=False)
        top -= panel.total
    return figure


def colours(axes):
    """A colour and a dash for each arm; after seven the colours come again with other dashes."""
    n = len(COLOURS)
    arms = range(n * len(DASHES))
    dashes = [DASHES[(i + i // n) % len(DASHES)] for i in arms]
    axes.set_prop_cycle(cycler(color=[COLOURS[i % n] for i in arms]) + cycler(linestyle=dashes))


def loss_figure(settings, name, label):
    """A panel a setting, a line an arm: its mean over seeds, with the 95 % interval as a band.

    Where a run ends early, the mean goes on without it, and the caption says so.
    """
    with rc_context(STYLE):
        return figure_of([loss_panel(setting, name, label) for setting in settings])


def loss_panel(setting, name, label):
    def draw(axes):
        draw_arms(axes, setting.arms, "evals", name)
        axes.set(ylabel=f"{label} (nats)", xlim=(0, setting.knobs["max_iters"]))
        axes.margins(y=0.04)

    return Panel(draw, setting.title, loss_caption(setting, name), names(setting.arms))


def draw_arms(axes, arms, kind, name, positive=False):
    """A line and a band for each arm; one without data keeps its colour and its place in the legend.

    positive: leave out what is not above 0, which a logarithmic axis cannot show.
    """
    colours(axes)
    for arm in arms:
        curve = arm.curve(kind, name)
        iterations, mean, low, high = mean_band(curve) if curve else ([], [], [], [])
        if positive:
            mean = np.where(np.asarray(mean) > 0, mean, np.nan)
        (line,) = axes.plot(iterations, mean)
        axes.fill_between(iterations, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def names(arms):
    """The arms' names as the legend shows them, the middle of a very long one left out."""
    return [name if len(name) <= 54 else f"{name[:25]}...{name[-25:]}" for name in (arm.name for arm in arms)]


def loss_caption(setting, name):
    lines = wrap(f"{described(setting)}; fixed windows, dropout off. {seeds_line(setting.arms)}")
    if setting.baseline and len(setting.arms) > 1:
        lines += difference_lines(setting, name)
    elif len(setting.arms) > 1:
        lines += wrap("No differences: not one arm alone is without noise, or called baseline.")
    return lines + [line for note in panel_notes(setting.arms) for line in wrap(note)]


def described(setting):
    """The size of a setting; before it the corpus, where a caption must not be read without it."""
    return f"{setting.title}: {setting.size}" if setting.partial else setting.size


def difference_lines(setting, name):
    baseline = setting.baseline
    lines = wrap(f"Difference to {baseline.name} by seed (below 0: better), at iteration:")
    stated = stated_iterations([at for at in baseline.curve("evals", name) if at])
    for arm in setting.arms:
        if arm is baseline or not (rows := differences(arm, baseline, name, stated)):
            continue
        figures = [f"{at:,}: {with_interval(mean, half, '+')} (n = {n})" for at, mean, half, n in rows]
        unbroken = ", ".join(figure.replace(" ", "\u00a0") for figure in figures)
        knobs = ", ".join(f"{knob}={value}" for knob, value in other_knobs(arm, baseline).items())
        lines += wrap(f"{arm.name}{f' (and {knobs})' if knobs else ''}: {unbroken}")
    return lines


def stated_iterations(reached):
    """A quarter, half and all of the way, of the iterations at which there are evaluations."""
    parts = (0.25, 0.5, 1) if reached else ()
    return sorted({min(reached, key=lambda at: abs(at - part * reached[-1])) for part in parts})


def seeds_line(arms):
    counts = {len(arm.runs) for arm in arms}
    if counts == {1}:
        return "n = 1 seed an arm: no interval can be drawn."
    n = (
        f"n = {counts.pop()} seeds an arm"
        if len(counts) == 1
        else "n = " + ", ".join(f"{len(arm.runs)} ({arm.name})" for arm in arms)
    )
    return f"{n}; band: 95 % t interval of the mean (unadjusted)."


def panel_notes(arms):
    for arm in arms:
        for run in arm.runs:
            for note in notes([run]):
                yield f"{arm.name}, seed {run.seed}{note.removeprefix(str(run.path))}."


def wrap(text):
    return textwrap.wrap(text, 72, subsequent_indent="  ")


def noise_figure(settings):
    """For each setting with noise: sigma, the norm of the noise, the norm of the gradient."""
    with rc_context(STYLE):
        panels = [panel for setting in settings for panel in noise_panels(setting)]
        return figure_of(panels) if panels else None


def noise_panels(setting):
    if not any(arm.noisy for arm in setting.arms):
        return []
    caption = (
        f"{described(setting)}. {seeds_line(setting.arms)}"
        f" Gradient norm before clipping{noise_remarks(setting)}."
    )
    return [
        Panel(of_noise(setting, "sigma", "sigma"), setting.title, (), names(setting.arms), 1, x_axis=False),
        Panel(of_noise(setting, "noise_norm", "noise norm"), height=1, x_axis=False),
        Panel(of_gradient(setting, "grad_norm", "gradient norm"), caption=wrap(caption), height=1),
    ]


def noise_remarks(setting):
    """What the caption of the noise figure must add where an arm is not of the default kind."""
    remarks = ""
    for arm in setting.arms:
        config = arm.runs[0].config
        if arm.noisy and config.noise_scale != "absolute":
            remarks += f"; sigma of {arm.name} in units of the gradient's RMS"
        if arm.noisy and config.noise_before_clip:
            remarks += f"; that of {arm.name} with the noise in it"
    return remarks


def of_noise(setting, name, label):
    """A function that draws a logged quantity of the noise, on a logarithmic axis where there is any."""

    def draw(axes):
        draw_arms(axes, setting.arms, "steps", name, positive=True)
        axes.set(ylabel=label, xlim=(0, setting.knobs["max_iters"]))
        if any(np.nansum(line.get_ydata()) > 0 for line in axes.get_lines()):
            axes.set_yscale("log")

    return draw


def of_gradient(setting, name, label):
    """A function that draws a logged quantity of the gradient, from 0."""

    def draw(axes):
        draw_arms(axes, setting.arms, "steps", name)
        axes.set(ylabel=label, xlim=(0, setting.knobs["max_iters"]))
        axes.set_ylim(bottom=0)

    return draw


def save(figure, stem):
    """Write a figure as PNG and PDF, the same bytes for the same data; returns the paths."""
    if figure is None:
        return []
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, metadata in ((".png", {"Software": None}), (".pdf", {"CreationDate": None, "Producer": None})):
        path = stem.with_suffix(suffix)
        with rc_context(STYLE), replacing(path) as file:
            figure.savefig(file, format=suffix[1:], metadata=metadata)
        paths.append(path)
    return paths


# The table.

COLUMNS = {
    "minibatch_loss_last100": "train, last 100 mini-batches",
    "final_train_loss": "train, dropout off",
    "best_val_loss": "val, best evaluation",
    "final_val_loss": "val, final, whole split",
}


def table(settings):
    """Markdown: for each setting its arms, mean ± half of the 95 % t interval, above the paper's rows."""
    lines = ["Losses in nats per symbol: mean ± half of the 95 % t interval over seeds (unadjusted).", ""]
    for setting in settings:
        lines += [f"**{setting.title}**: {setting.size}", ""]
        lines += [f"| | n | {' | '.join(COLUMNS.values())} |", f"|---|---:|{'---:|' * len(COLUMNS)}"]
        lines += [row(arm) for arm in setting.arms]
        for name, (train, val) in PAPER.get(setting.knobs["dataset"], {}).items():
            lines.append(f"| *paper, {name}* | 1 | {train:.4f} | – | {val:.4f} | – |")
        if setting.knobs["dataset"] in PAPER:
            lines += ["", paper_note(setting)]
        lines.append("")
    return "\n".join(lines)


def row(arm):
    ended = [run.result for run in arm.runs if run.result and run.result["status"] == "finished"]
    cells = []
    for name in COLUMNS:
        values = [result[name] for result in ended]
        cells.append(with_interval(*interval(values)) if values else "–")
    rest = len(arm.runs) - len(ended)
    name = arm.name.replace("|", "\\|") + (f" ({rest} unfinished or diverged)" if rest else "")
    return f"| {name} | {len(ended)} | {' | '.join(cells)} |"


def paper_note(setting):
    full = {**PAPER_SIZE, **PAPER_LENGTH[setting.knobs["dataset"]]}
    note = (
        "The paper's rows are one seed each, of 6 layers, width 384, context 256"
        f" and {full['max_iters']:,} iterations of batch {full['batch_size']}"
    )
    if setting.partial:
        note += " on the whole corpus"
    same = not setting.partial and all(setting.knobs[name] == value for name, value in full.items())
    return note + ("." if same else ", which these runs are not: the two are not comparable.")


def save_text(path, text):
    with replacing(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    return path


if __name__ == "__main__":
    run_script(main)
