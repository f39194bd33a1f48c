"""Panels of a figure, laid out in inches for a column of print; writing figures and texts to disk. No data.

A panel is a plot with its title and legend above it and its caption beneath it, none of them over the data.
"""

import textwrap
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.figure import Figure

from data.files import replacing

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
    "savefig.dpi": 200,
}
# Okabe and Ito's colours, told apart by the colour-blind; the line styles tell them apart in grey.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 2)))

LEFT, RIGHT, LINE = 0.5, 0.14, 0.118  # margins; the height of a line of text


@dataclass
class Panel:
    """A plot with its title and legend above and its caption beneath, none of them over the data."""

    draw: object  # function of the axes
    title: str = ""
    caption: tuple = ()
    legend: tuple = ()  # the arms' names
    height: float = 1.75
    xlabel: str | None = "iteration"  # None: the panel beneath has it
    left: float = LEFT  # the margin for the vertical axis' labels, inches

    @property
    def legend_columns(self):
        return 2 if max(map(len, self.legend), default=0) <= 26 else 1

    @property
    def above(self):
        rows = -(-len(self.legend) // self.legend_columns)
        return LINE * (1.2 * bool(self.title) + 1.25 * rows) + 0.06

    @property
    def below(self):
        return (0.36 if self.xlabel else 0.04) + LINE * len(self.caption) + 0.1 * bool(self.caption)

    @property
    def total(self):
        return self.above + self.height + self.below


def figure_of(panels):
    """The figure that has these panels one beneath the other."""
    height = sum(panel.total for panel in panels)
    figure, top = Figure(figsize=(WIDTH, height)), height
    for panel in panels:
        bottom = top - panel.above - panel.height
        box = (panel.left / WIDTH, bottom / height, 1 - (panel.left + RIGHT) / WIDTH, panel.height / height)
        axes = figure.add_axes(box)
        panel.draw(axes)
        axes.yaxis.set_label_coords(-0.135, 0.5)
        if panel.xlabel:
            axes.set_xlabel(panel.xlabel)
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


def line_style(number):
    """The colour and the dash of a line by its arm's number: black is the first's alone, the other six
    colours come again with other dashes."""
    first, *others = COLOURS
    colour = others[(number - 1) % len(others)] if number else first
    return {"color": colour, "linestyle": DASHES[number % len(DASHES)]}


def wrap(text):
    return textwrap.wrap(text, 70, subsequent_indent="  ")


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


def save_text(path, text):
    with replacing(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    return path
