"""Figures of the harm that noise does: against the share of the learning rate that it leaves, which part of it
other arms have, and beside a power law with what that predicts for the paper's size.

Each takes Records and gives a Figure, or None where there is nothing to draw.
"""

import functools
import itertools

import numpy as np
import pandas as pd

from analysis import look, power_law, statistics
from analysis.effects import BEST, rows_of
from analysis.look import BLACK, GREY, label_below, panels, styled
from analysis.shares import arm_shares
from analysis.tables import PAPER
from config import ROOT, load


@styled
def share(found, names=None):
    """Harm against S with 95 % t intervals: a mark a study, open where its corpus is not the commonest one;
    names: {(study, arm): (label, its offset in points)} of those to label."""
    table = arm_shares(found)
    if table.empty:
        return None
    figure, (axes,) = panels(1, 3.1)
    common = table.corpus.mode().iloc[0]
    for (study, rows), (colour, mark) in zip(table.groupby("study"), itertools.cycle(look.MARKS)):
        face = colour if rows.corpus.iloc[0] == common else "white"
        axes.errorbar(
            rows.share, rows.harm, rows.half_width, linestyle="", color=colour, marker=mark, markersize=4,
            markerfacecolor=face, linewidth=0.9, alpha=0.85, label=study,
        )  # fmt: skip
    for row in table.itertuples():
        if label := (names or {}).get((row.study, row.arm)):
            text, offset = label
            side = "left" if offset[0] > 0 else "right"
            place = {"xytext": offset, "textcoords": "offset points", "ha": side}
            axes.annotate(text, (row.share, row.harm), **place, size=7.5, color="#444444")
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.set(xlim=(-0.02, 1.02), xlabel="share of the learning rate that the noise leaves, $S$")
    axes.set_ylabel("harm in the best\nvalidation loss (nats)")
    label_below(figure, [axes])
    return figure


# Parts of the harm.

PARTS = ("anticorrelated", "second_moment", "second_moment_mean", "mean_and_init", "matched_warmup")


@styled
def parts(found):
    """How much of the harm of `noise` each of PARTS has, with Fieller's 95 % interval: a panel a length of the
    runs, a mark a study."""
    lengths = {}
    for study, size in dict.fromkeys(zip(found.runs.study, found.runs["size"])):
        for arm, three in statistics.controls(found, study, size).items():
            of_noise = arm in PARTS and set(three[1].runs.arm) == {"noise"}
            if of_noise and (part := statistics.fraction(three, BEST)):  # None of too few seeds
                lengths.setdefault(int(three[0].runs.max_iters.iloc[0]), []).append((study, arm, part))
    if not lengths:
        return None
    figure, axes = panels(len(lengths), 1.9, columns=2, sharex=True)
    lengths = dict(sorted(lengths.items()))
    studies = list(dict.fromkeys(study for rows in lengths.values() for study, _, _ in rows))
    for ax, (length, rows) in zip(axes, lengths.items()):
        ax.axvline(100, color=BLACK, linewidth=0.8)
        for study, arm, (middle, low, high) in rows:
            colour, mark = look.MARKS[studies.index(study)]
            mine = [other for other, name, _ in rows if name == arm]
            place = PARTS.index(arm) + 0.26 * (mine.index(study) - (len(mine) - 1) / 2)
            reach = [[100 * (middle - low)], [100 * (high - middle)]]
            ax.errorbar(100 * middle, place, xerr=reach, color=colour, marker=mark, markersize=3)
        rows_of(ax, [look.CONTROLS[name] for name in PARTS])
        for place, name in enumerate(PARTS):
            if name not in (arm for _, arm, _ in rows):
                words = {"ha": "center", "va": "center", "color": GREY, "size": 7.5}
                ax.text(0.7, place, "not run", transform=ax.get_yaxis_transform(), **words)
        ax.set(title=f"{length:,} iterations", xlabel="share of the noise's harm (%)")
        ax.tick_params(labelleft=ax is axes[0])
    for study, (colour, mark) in zip(studies, look.MARKS):
        axes[0].plot([], [], color=colour, marker=mark, markersize=4, label=study)
    label_below(figure, axes[:1])
    return figure


# The power law.


@styled
def power(found):
    """Left, the harm found beside the law's, a mark an arm. Right, for the paper's size on tinyshakespeare
    what the law predicts, with its 95 % interval, what the forecast expects, and what the paper reports."""
    law = power_law.fitted(found)
    figure, (left, right) = panels(2, 2.3, columns=2)
    draw_arms(left, law)
    draw_papers_size(right, law)
    label_below(figure, [left, right])
    return figure


def draw_arms(axes, law):
    table, predicted = law.table, np.exp(law.x @ law.coefficients)
    places = pd.Series([*table[power_law.PLACE].itertuples(index=False, name=None)])
    kinds = places.map(functools.partial(kind_of, usual=places.mode().iloc[0])).to_numpy()
    for label, (colour, mark) in zip(dict.fromkeys(kinds), itertools.cycle(look.MARKS)):
        for mine, face, its_label in ((table.n > 2, colour, label), (table.n == 2, "white", None)):
            x, y = predicted[mine & (kinds == label)], table.harm[mine & (kinds == label)]
            look_of = {"color": colour, "marker": mark, "markersize": 4, "markerfacecolor": face}
            axes.plot(x, y, linestyle="", label=its_label, **look_of)
    ends = np.array([predicted.min() / 1.5, predicted.max() * 1.5])
    axes.plot(ends, ends, color=BLACK, linewidth=0.8)
    axes.set(title=f"{len(table)} arms with noise", xscale="log", yscale="log")
    axes.set(xlabel="harm by the power law (nats)", ylabel="harm found (nats)")


def kind_of(place, usual):
    """What a length, width and learning rate differ in from the usual ones, in words."""
    names = ("length", "width", "learning rate")
    if differs := [name for name, mine, its in zip(names, place, usual) if mine != its]:
        return f"another {' and '.join(differs)}"
    return f"{usual[0]:,} iterations, width {usual[1]}, learning rate {usual[2]:g}"


def draw_papers_size(axes, law):
    file, cells = str(ROOT / "config" / "shakespeare_noise.py"), ((0.1, 0.99), (0.01, 0.95))
    labels = []
    for (sigma, gamma), expected in zip(cells, power_law.forecast()):
        colour = look.CELLS[sigma, gamma]
        by_law = law.harm(load([file, f"--noise_sigma={sigma}", f"--noise_gamma={gamma}"]))
        for words, (harm, low, high), face in (("by the law", by_law, colour), ("expected", expected, "white")):
            point = {"color": colour, "marker": "o", "markersize": 4, "markerfacecolor": face}
            axes.errorbar(harm, len(labels), xerr=[[harm - low], [high - harm]], **point)
            labels.append(f"{look.cell_label(sigma, gamma)}\n{words}")
    plain, noisy = (PAPER["shakespeare_char"][kind][1] for kind in ("baseline", "noise"))
    axes.axvline(noisy - plain, color=GREY, linewidth=0.9, linestyle="--", label="the paper's difference")
    axes.axvline(0, color=BLACK, linewidth=0.8)
    rows_of(axes, labels)
    axes.margins(x=0.08)
    axes.set(title="the paper's size")
    axes.set(xlabel="best validation loss, difference (nats)   worse →")
