"""Figures of how arms differ from their reference: the forest plot, and the map over sigma_0 and gamma.

A figure is None where there is nothing to draw.
"""

import itertools

import numpy as np
from matplotlib import rc_context

from analysis.arms import changed_knobs
from analysis.panels import STYLE, Panel, figure_of, wrap
from analysis.statistics import LEVEL
from analysis.tables import (
    LOSSES,
    against,
    comparisons,
    families,
    lost,
    outcome,
    told_apart,
    usual_of,
    verdict,
    with_interval,
)

FAR = 10  # times the next smaller difference: beyond the scale
COLOUR_OF = {"better": "#009E73", "worse": "#D55E00"}  # by verdict, against a reference without noise


def forest_figure(settings):
    """Every arm's difference to its reference with its 95 % t interval, a panel for each loss, or for several
    whose comparisons are alike."""
    with rc_context(STYLE):
        panels = [
            forest_panel(rows, names)
            for names, rows in told_apart(settings)
            if any(row[-1].half is not None for row in rows)
        ]
        return figure_of(panels) if panels else None


def forest_panel(rows, losses):
    several = len({setting.title for setting, *_ in rows}) > 1
    labels = [against(*row[:3]) + (f", {row[0].knobs['dataset']}" if several else "") for row in rows]
    labels = [label if len(label) < 34 else label.replace(" against ", "\nagainst ") for label in labels]
    why = told_in_figures(rows)
    drawn = [row[-1] for row, reason in zip(rows, why) if not reason]
    ends = [0.0, *(c.mean + sign * c.half for c in drawn for sign in (-1, 1))]
    low, room = min(ends), max(ends) - min(ends)

    def draw(axes):
        for place, (row, reason) in enumerate(zip(rows, why)):
            (forest_figures if reason else forest_bar)(axes, -place, row)
        axes.axvline(0, color="#808080", linewidth=0.6)
        axes.set_yticks([-place for place in range(len(rows))], labels)
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.locator_params(axis="x", nbins=5)
        if room:
            axes.set_xlim(low - 0.05 * room, low + 1.05 * room)

    longest = max(len(line) for label in labels for line in label.splitlines())
    row_height = 0.22 if any("\n" in label for label in labels) else 0.17
    sizes = {f"{setting.title}, {setting.size}" for setting, *_ in rows}
    title = LOSSES[losses[0]] + (f", {len(sizes)} settings" if len(sizes) > 1 else "")
    return Panel(
        draw, title, wrap(forest_caption(rows, losses, sizes, why)), height=row_height * len(rows) + 0.12,
        xlabel="difference (nats)", left=min(2.2, 0.3 + 0.052 * longest),
    )  # fmt: skip


def told_in_figures(rows):
    """For each row why it is told in figures and not drawn, or None: it has no interval, or would leave the
    others no room: an exploded arm, and of the larger half what is FAR times all that is smaller."""
    sizes = sorted(abs(c.mean) for _, arm, _, c in rows if c.half is not None and not arm.exploded)
    larger_half = itertools.pairwise(sizes[len(sizes) // 2 :])
    least = next((larger for smaller, larger in larger_half if larger > FAR * smaller), np.inf)
    why = []
    for _, arm, _, c in rows:
        if c.half is None:
            why.append("what has no interval")
        elif sizes and arm.exploded:
            why.append("an arm that ended above its start")
        else:
            why.append(f"what is {FAR} times all smaller ones" if abs(c.mean) >= least else None)
    return why


def colour_of(row):
    """By the verdict; black where nothing is resolved, and where the reference is noisy itself: what does less
    harm than the noise is not yet of use."""
    return "#000000" if row[2].noisy else COLOUR_OF.get(outcome(row), "#000000")


def forest_bar(axes, place, row):
    c, colour = row[-1], colour_of(row)
    axes.errorbar(
        c.mean, place, xerr=c.half, color=colour, marker="o", markersize=3,
        markerfacecolor=colour if outcome(row) in COLOUR_OF else "white", capsize=2, linewidth=0.9,
    )  # fmt: skip


def forest_figures(axes, place, row):
    """The difference in figures, at the side at which it lies; the verdict where there is none."""
    c, colour = row[-1], colour_of(row)
    if c.half is None:
        said = " ".join(filter(None, (f"{c.mean:+.4f}," if c.mean is not None else "", verdict(*row))))
        text, side = said.replace("–", "one seed"), "right"
    elif c.mean > 0:
        text, side = f"{with_interval(c.mean, c.half, '+')} \N{RIGHTWARDS ARROW}", "right"
    else:
        text, side = f"\N{LEFTWARDS ARROW} {with_interval(c.mean, c.half, '+')}", "left"
    where = (1 if side == "right" else 0, place)
    axes.annotate(
        text, where, xycoords=("axes fraction", "data"), size=6, color=colour, ha=side, va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def forest_caption(rows, losses, sizes, why):
    tested = sum(row[-1].p is not None for row in rows)
    family = f"{tested} comparisons" if len(families(rows)) == 1 else "the comparisons of its study"
    same = "".join(f" The same for {LOSSES[name]}." for name in losses[1:])
    caption = (
        f"{'; '.join(sorted(sizes))}.{same} Difference to {usual_of(rows)} unless said, n = {counts(rows)},"
        " 95 % t intervals (unadjusted); filled: resolved by the paired t-test, Holm-adjusted over"
        f" {family} at {LEVEL:g}, left of 0 better."
    )
    if any(row[2].noisy for row in rows):
        caption += " Black: against a run that is noisy itself."
    if any(why):
        caption += f" Written as numbers: {', or '.join(dict.fromkeys(filter(None, why)))}."
    return caption + no_verdict(rows)


def no_verdict(rows):
    """What a caption must add where some comparisons have no verdict."""
    outcomes = {outcome(row) for row in rows}
    said = " Interim: planned seeds are missing, and there is no verdict." if "interim" in outcomes else ""
    return said + (" One seed gives no verdict." if "–" in outcomes else "")


def counts(rows):
    """The numbers of pairs of some comparisons, in words."""
    numbers = sorted({comparison.n for *_, comparison in rows})
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


# Sensitivity.


def sensitivity_figure(settings):
    """A map of the mean difference over (gamma, sigma_0), where a setting's arms are such a grid."""
    with rc_context(STYLE):
        panels = [panel for setting in settings if (panel := sensitivity_panel(setting))]
        return figure_of(panels) if panels else None


def sensitivity_panel(setting):
    cells = grid(setting)
    sigmas, gammas = ([*sorted({key[i] for key in cells})] for i in (0, 1))
    if len(sigmas) < 3 or len(gammas) < 2 or len(cells) < len(sigmas) * len(gammas):
        return None
    rows = [[cells[sigma, gamma] for gamma in gammas] for sigma in reversed(sigmas)]
    means = np.array([[mean_of(row) for row in line] for line in rows])  # nan where there is none to show
    extreme = np.nanmax(np.abs(means)) if np.isfinite(means).any() else 1.0

    def draw(axes):
        axes.imshow(means, cmap="RdBu_r", vmin=-extreme, vmax=extreme, aspect="auto")
        for (line, column), mean in np.ndenumerate(means):
            colour = "white" if abs(mean) > 0.6 * extreme else "black"
            axes.text(column, line, cell(rows[line][column]), ha="center", va="center", size=6, color=colour)
        axes.set_xticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas])
        axes.set_yticks(range(len(sigmas)), [short(sigma) for sigma in reversed(sigmas)])
        axes.set_ylabel("sigma_0")

    caption = (
        f"{setting.described}; difference of the best val loss to {setting.baseline.name} in nats, mean of"
        f" n = {counts(cells.values())} pairs, red worse; in brackets: not resolved. The tests are in the table"
        " of comparisons."
    )
    caption += no_verdict(cells.values())
    return Panel(draw, setting.title, wrap(caption), height=0.3 * len(sigmas), xlabel="gamma")


def short(sigma):
    """0.05 as it is, and 0.001 as 1e-3."""
    return f"{sigma:g}" if sigma >= 0.01 else np.format_float_scientific(sigma, trim="-", exp_digits=1)


def mean_of(row):
    """The mean difference that colours a cell; nan where none of the arm's runs is left, or some exploded."""
    return row[-1].mean if row[-1].mean is not None and not row[1].exploded else np.nan


def cell(row):
    """What a cell of the map says: the difference, in brackets unless resolved by now; and what was lost."""
    said = "" if row[-1].mean is None else f"{row[-1].mean:+.4f}"
    said = f"({said})" if outcome(row) in ("not resolved", "interim") else said
    return "\n".join(filter(None, [said, *lost(row[1])])) or "none yet"


def grid(setting):
    """{(sigma_0, gamma): row of comparisons} of the arms that differ from the baseline in these alone."""
    if not setting.baseline:
        return {}
    cells = {}
    for row in comparisons([setting], "best_val_loss"):
        _, arm, reference, _ = row
        alone = changed_knobs(arm, reference).keys() <= {"noise_sigma", "noise_gamma"}
        if reference is setting.baseline and alone and arm.noisy and not reference.noisy:
            cells[arm.runs[0].config.noise_sigma, arm.runs[0].config.noise_gamma] = row
    return cells
