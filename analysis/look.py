"""One look for every figure: the style, colour and label of every arm, panels, labels at curves' ends, files.

An arm has one colour in all figures of its study: black is the baseline's; the cells of the paper's grid and
the arms of COLOURS have their own in every study; the others take what is left, in the order of the study's
file.
"""

import functools
import io
import itertools
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rcParams, style
from matplotlib.figure import Figure
from PIL import Image
from scipy.optimize import isotonic_regression

from analysis import records
from config import Config
from data.files import replacing

WIDTH = 7.0  # inches; 1,400 pixels
STYLE = Path(__file__).with_name("style.mplstyle")
GAP = 1.25  # of a label's size, from one to the next

# Okabe and Ito's colours, told apart by the colour-blind; their yellow is too light on white.
BLACK, GREY = "#000000", "#777777"
VERMILLION, ORANGE, GREEN = "#D55E00", "#E69F00", "#009E73"
BLUE, SKY, PURPLE = "#0072B2", "#56B4E9", "#CC79A7"
CELLS = {  # of the paper's grid: (sigma_0, gamma)
    **{(0.1, 0.99): VERMILLION, (0.1, 0.95): ORANGE, (0.05, 0.99): PURPLE},
    **{(0.05, 0.95): GREEN, (0.01, 0.99): SKY, (0.01, 0.95): BLUE},
}
COLOURS = {
    **{"second_moment": PURPLE, "second_moment_mean": SKY, "delay": SKY, "matched_warmup": GREEN},
    **{"warmup500": GREEN, "dropout": GREEN, "weight_decay": ORANGE, "three": PURPLE},
}
OTHERS = (ORANGE, SKY, GREEN, PURPLE, GREY)
MARKS = tuple(zip((ORANGE, SKY, GREEN, PURPLE, BLUE, VERMILLION), "osD^vP"))  # of studies
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))
NUMBER = r"\d*\.?\d+(?:e-?\d+)?"
CELL = re.compile(rf"(?:sigma|noise_)({NUMBER})_(?:gamma)?({NUMBER})")  # in an arm's name
CONTROLS = {  # arms that put something in the noise's place (docs/method.md)
    "second_moment": "noise in v alone",
    "second_moment_mean": "its variance in v alone",
    "anticorrelated": "draws that cancel in the weights",
    "mean_and_init": "its variance in v,\nand a wider initialization",
    "matched_warmup": "matched learning rate",
}
SYMBOLS = {  # in the rest of the name, its underscores spaces
    r"\b(eta|lambda)([\d.]+)": r"$\\\1$=\2",
    r"\bbeta2 ([\d.]+)": r"$\\beta_2$=\1",
}


# Arms.


class Arm(NamedTuple):
    """An arm as it is drawn: a row of records.arms, its runs, how its name is printed, its colour and dash."""

    row: object
    found: records.Records
    config: Config
    label: str
    colour: str
    dash: object

    @property
    def key(self):
        return key_of(self.row)

    @property
    def is_baseline(self):
        return self.row.arm == self.row.baseline

    @property
    def described(self):
        """The label, and what is to be said of runs that did not end."""
        lost = {"diverged": self.row.diverged, "unfinished": self.row.unfinished}
        said = ", ".join(f"{n} of {self.row.runs} {word}" for word, n in lost.items() if n)
        return f"{self.label} ({said})" if said else self.label

    def curve(self, kind, name):
        return self.found.curve(kind, name)


def key_of(row):
    """(study, size, setting, arm)."""
    return tuple(getattr(row, name) for name in records.ARM)


def settings(found):
    """[[Arm]]: the arms of each setting, the paper's corpora first and in its order."""
    table = records.arms(found)
    configs = found.runs.groupby(records.ARM).config.first().to_dict()
    looks, groups = {}, {}
    for _, rows in table.sort_values("number", kind="stable").groupby(["study", "size"], sort=False):
        looks |= looks_of(list(rows.itertuples()), configs)
    for row in table.itertuples():
        key = key_of(row)
        its = found.of(**dict(zip(records.ARM, key)))
        arm = Arm(row, its, configs[key], label_of(row.arm, configs[key]), *looks[key])
        groups.setdefault(key[:3], []).append(arm)
    paper = [*records.PAPER_LENGTH]
    corpora = [arms[0].found.runs.corpus_name.iloc[0] for arms in groups.values()]
    place = [paper.index(name) if name in paper else len(paper) for name in corpora]
    return [arms for _, arms in sorted(zip(place, groups.values()), key=lambda pair: pair[0])]


def looks_of(rows, configs):
    """{key: (colour, dash)} of the arms of a study: fixed colours first, then those that are left."""
    fixed = {key_of(row): colour_of(row, configs) for row in rows}
    looks = {}
    for key in sorted(fixed, key=lambda key: not fixed[key]):
        pool = [fixed[key]] if fixed[key] else OTHERS
        free = [(colour, dash) for dash, colour in itertools.product(DASHES, pool)]
        looks[key] = next((look for look in free if look not in looks.values()), free[0])
    return looks


def colour_of(row, configs):
    """The colour that an arm has in every study, or None."""
    kind, key = kind_of(row.arm), key_of(row)
    if row.arm == row.baseline or kind == "baseline":
        return BLACK
    match = CELL.fullmatch(kind)
    cell = tuple(map(float, match.groups())) if match else None
    config, baseline = configs[key], configs.get((*key[:3], row.baseline))
    if baseline and records.changed_options(config, baseline).keys() <= {"noise_sigma", "noise_gamma"}:
        cell = config.noise_sigma, config.noise_gamma
    return CELLS.get(cell, COLOURS.get(kind))


def kind_of(name):
    """An arm's name without its learning rate."""
    return re.sub(r"(?:^|_)lr[\d.e-]+$", "", name)


def label_of(name, config):
    """An arm's name in print, its sigma and gamma as symbols."""
    if name == "noise" and (config.noise_schedule, config.noise_scale) == ("exponential", "absolute"):
        return cell_label(config.noise_sigma, config.noise_gamma)
    if name in CONTROLS:
        return CONTROLS[name]
    words = CELL.split(name)  # plain, sigma, gamma, plain, ...
    cells = [cell_label(float(s), float(g)) for s, g in zip(words[1::3], words[2::3])]
    plain = [word.replace("_", " ").replace("+", " + ").replace("$", r"\$") for word in words[::3]]
    for pattern, symbol in SYMBOLS.items():
        plain = [re.sub(pattern, symbol, word) for word in plain]
    pairs = itertools.zip_longest(plain, cells, fillvalue="")
    return "".join(itertools.chain(*pairs)).strip()


def cell_label(sigma, gamma):
    return rf"$\sigma_{{\mathregular{{0}}}}$={number(sigma)}, $\gamma$={gamma:g}"


def number(value):
    """0.001 as it is, smaller and large ones as powers of ten."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:g}"
    mantissa, power = f"{value:e}".split("e")
    factor = "" if float(mantissa) == 1 else rf"{float(mantissa):g}\times"
    return rf"$\mathregular{{{factor}10^{{{int(power)}}}}}$"


def signed(mean, half=math.nan):
    """ "−0.0042 ± 0.0011"."""
    return f"{mean:+.4f}".replace("-", "−") + ("" if math.isnan(half) else f" ± {half:.4f}")


# Panels.


def styled(draw):
    """Draw in the one look."""

    @functools.wraps(draw)
    def function(*args, **more):
        with style.context(STYLE):
            return draw(*args, **more)

    return function


def panels(count, height, columns=3, **options):
    """(figure, its axes): so many panels of a height in inches, at most so many beside each other."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).flatten()
    for empty in axes[count:]:
        empty.set_visible(False)
    return figure, axes[:count]


def label_end(axes, point, label, colour):
    """A label beside the axes for the end of a curve, in its colour; `save` moves apart those that overlap."""
    line = {
        "arrowstyle": "-",
        "color": colour,
        "linewidth": 0.6,
        "shrinkA": 0,
        "shrinkB": 0,
        "relpos": (0, 0.5),
    }
    axes.annotate(
        label, point, (1.015, point[1]), textcoords=("axes fraction", "data"), gid="end", color=colour,
        va="center", size=rcParams["legend.fontsize"], annotation_clip=False, arrowprops=line,
    )  # fmt: skip


def label_below(figure, axes):
    """The legend of some panels, beneath the figure, which grows by it: each label once."""
    handles = {}
    for ax in sorted(axes, key=lambda ax: -len(ax.get_lines())):
        for handle, label in zip(*ax.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    if handles:
        labels = list(handles)
        plain = [re.sub(r"\\mathregular|[${}_\\]|(?<=\\\w)\w+", "", label) for label in labels]
        most = max(1, int(WIDTH * 72 / (4.4 * max(map(len, plain)) + 32)))
        rows = -(-len(handles) // most)
        figure.set_figheight(figure.get_figheight() + 0.17 * rows)
        figure.legend(handles.values(), labels, loc="outside lower center", ncols=-(-len(handles) // rows))


def spread(places, gap):
    """Places from 0 to 1, moved as little as keeps them `gap` apart, in their order and within these ends."""
    order, steps = np.argsort(places, kind="stable"), gap * np.arange(len(places))
    apart = isotonic_regression(np.asarray(places)[order] - steps).x
    moved = np.empty(len(places))
    moved[order] = apart.clip(0, max(0, 1 - steps[-1])) + steps
    return moved


def arrange(figure):
    """Move the labels at curves' ends apart, once the panels have their sizes, which they keep."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        if labels := [text for text in axes.texts if text.get_gid() == "end"]:
            to_axes = axes.transData + axes.transAxes.inverted()
            places = [to_axes.transform(text.xy)[1] for text in labels]
            gap = GAP * labels[0].get_size() * figure.dpi / 72 / axes.bbox.height
            for text, place in zip(labels, spread(np.clip(places, 0, 1), gap)):
                text.set_position((text.get_position()[0], place))
                text.set_anncoords("axes fraction")


def save(figure, stem, kinds=("png",)):
    """Write a figure, the same bytes for the same data; returns the paths, none of no figure.

    A PNG has 255 colours: it looks the same at a third of the size.
    """
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds if figure]
    stem.parent.mkdir(parents=True, exist_ok=True)
    with style.context(STYLE):
        if figure:
            arrange(figure)
        for path in paths:
            with replacing(path) as file:
                write(figure, file, path.suffix)
    return paths


def write(figure, file, suffix):
    if suffix == ".pdf":
        figure.savefig(file, format="pdf", metadata={"CreationDate": None, "Producer": None})
        return
    figure.savefig(picture := io.BytesIO(), format="png")
    image = Image.open(picture).convert("RGB").quantize(255, dither=Image.Dither.NONE)
    image.save(file, format="png", optimize=True, dpi=(figure.dpi,) * 2)
