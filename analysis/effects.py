"""Figures of how arms differ from their references: points with intervals, the map over sigma_0 and gamma, loss
against learning rate and lambda, and sharpness.

Each takes Records and gives a Figure, or None where there is nothing to draw.
"""

import itertools
import math
import re

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, NullLocator

from analysis import look, records, statistics
from analysis.figures import span, title
from analysis.look import BLACK, BLUE, GREY, label_below, panels, settings, signed, styled
from analysis.statistics import Verdict

BEST = "best_val_loss"
WORDS = {
    "final_val_score": "final validation score",
    BEST: "best validation loss",
    "final_val_loss": "final validation loss",
    "best_weights_test_loss": "test loss of the best weights",
}
MOVED = {  # kinds of events
    "distance": (BLACK, "from the pretrained weights"),
    "update": (BLUE, "from those that NoisyTune gave"),
}
APART = 0.08  # of the way to the next learning rate, between the points of two kinds
FAR = 10  # times the next smaller difference: beyond the scale
RESOLVED = (Verdict.BETTER, Verdict.WORSE)


def compared(found, loss=BEST):
    """Of each study that judges the rows of statistics.compare, as dicts, with the Arm and, in "against", the
    other's."""
    arms = {arm.key: arm for group in settings(found) for arm in group if arm.row.purpose != "tuning"}
    for key in dict.fromkeys(key[:2] for key in arms):
        rows = statistics.compare(found, *key, loss).reset_index().to_dict("records")
        for row in rows:
            place = (*key, row["setting"])
            row |= {"arm": arms[*place, row["arm"]], "against": arms[*place, row["reference"]]}
        yield rows


# Differences.


@styled
def differences(found, by=None):
    """Every arm's difference to its reference with its 95 % t interval; a filled point is resolved.

    Of several studies the best val loss, a panel each; of one study a panel for each loss that tells something
    of its own. by: a function of Arm in its place, whose values are panels of the best val loss.
    """
    best = [rows for rows in compared(found) if rows]
    if not best:
        return None
    if by:
        words = dict.fromkeys(by(row["arm"]) for row in best[0])
        columns = [(word, [row for row in best[0] if by(row["arm"]) == word]) for word in words]
    elif len(best) > 1:
        columns = [(corpus_of(rows, best), rows) for rows in best]
    else:
        others = [
            (words, rows) for loss, words in WORDS.items() if loss != BEST for rows in compared(found, loss)
        ]
        others = [(words, rows) for words, rows in others if rows and not alike(rows, best[0])]
        columns = [(WORDS[BEST], best[0]), *others]
    return forest(columns, union=not by, share=len(best) > 1)


def by_scale(arm):
    """A panel each for noise of absolute size and for noise in units of the gradient's."""
    return "absolute noise" if arm.config.noise_scale == "absolute" else "noise relative to the gradient"


def corpus_of(rows, others=()):
    """The title of their setting without a number of seeds."""
    return re.sub(r" \(n = .*?\)", "", title([rows[0]["arm"]], [[each[0]["arm"]] for each in others]))


def alike(rows, others):
    means = [[row["mean"] for row in each] for each in (rows, others)]
    return len(rows) == len(others) and np.allclose(*means, atol=5e-5, equal_nan=True)


def pairs(rows):
    """The numbers of pairs in a title; while runs are missing, of how many that are planned."""
    missing = any(row["verdict"] == Verdict.INCOMPLETE for row in rows)
    planned = f" of {len(rows[0]['arm'].row.planned)}" if missing else ""
    return f" (n = {span([row['n'] for row in rows if row['n']] or [0])}{planned})"


def forest(columns, union, share):
    """Panels of points with intervals; union: their rows in common, at the left; share: one scale."""
    lists = [[label_against(row) for row in rows] for _, rows in columns]
    every = list(dict.fromkeys(itertools.chain(*lists)))
    tallest = max(3, len(every) if union else max(map(len, lists)))
    figure, axes = panels(len(columns), 0.75 + 0.19 * tallest, columns=len(columns), sharex=share)
    drawn = {row["arm"].row.arm: row["arm"].colour for _, rows in columns for row in rows}
    one_colour = GREY if len(set(drawn.values())) < len(drawn) else None  # colours that repeat tell nothing
    for place, (ax, (words, rows), labels) in enumerate(zip(axes, columns, lists)):
        draw_forest(ax, every if union else labels, dict(zip(labels, rows)), one_colour)
        direction = "difference   better →" if words.endswith("score") else "difference (nats)   worse →"
        ax.set(title=words + pairs(rows), xlabel=direction)
        ax.tick_params(labelleft=not (union and place))
    verdicts = {row["verdict"] for _, rows in columns for row in rows}
    unresolved = "not resolved" + (", or no verdict" if verdicts - {*RESOLVED, Verdict.NOT_RESOLVED} else "")
    legend = ((BLACK, "resolved"), ("white", unresolved)) if len({v in RESOLVED for v in verdicts}) > 1 else ()
    for face, label in legend:
        axes[0].plot([], [], color=BLACK, marker="o", markersize=4, markerfacecolor=face, label=label)
    label_below(figure, axes[:1])
    return figure


def label_against(row):
    usual = row["against"].is_baseline
    label = row["arm"].label + ("" if usual else f" against {row['against'].label}")
    return label + (f" ({', '.join(row['remarks'])})" if row["remarks"] else "")


def draw_forest(axes, labels, rows, one_colour=None):
    """A point with its interval for each label, from the top; in words what has no interval or is far off."""
    calm = [row for row in rows.values() if not (math.isnan(row["half_width"]) or row["arm"].row.exploded)]
    far = beyond([abs(row["mean"]) for row in calm])
    axes.axvline(0, color=BLACK, linewidth=0.8)
    for place, label in enumerate(labels):
        if words := told(rows.get(label), far):
            axes.text(
                0.5, place, words, transform=axes.get_yaxis_transform(), ha="center", va="center", color=GREY,
                size=7.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
            continue
        row, colour = rows[label], one_colour or rows[label]["arm"].colour
        face = colour if row["verdict"] in RESOLVED else "white"
        point = {"marker": "o", "markersize": 4, "markerfacecolor": face}
        axes.errorbar(row["mean"], place, xerr=row["half_width"], color=colour, **point)
    rows_of(axes, labels)
    axes.margins(x=0.08)


def rows_of(axes, labels):
    """Rows of a panel, from the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=4)


def beyond(sizes):
    """The size from which a difference would leave the others no room: of the larger half, what is FAR times
    all smaller ones; infinity where there is none."""
    larger = sorted(sizes)[len(sizes) // 2 :]
    return next((b for a, b in itertools.pairwise(larger) if b > FAR * a), math.inf)


def told(row, far):
    """What stands where no point can: why, or the difference that is beyond the scale; "" where one can."""
    if row is None:
        return "not run"
    if math.isnan(row["half_width"]):
        return ", ".join(row["remarks"]) or (
            f"{signed(row['mean'])}, one seed" if row["n"] else "no seed in common"
        )
    if abs(row["mean"]) < far and not row["arm"].row.exploded:
        return ""
    size = f"{row['mean']:+.3g} ± {row['half_width']:.2g}".replace("-", "−")
    return ", ".join([f"{size} →" if row["mean"] > 0 else f"← {size}", *row["remarks"]])


# The map over sigma_0 and gamma.


@styled
def sensitivity(found):
    """The mean difference of the best val loss over (sigma_0, gamma), where a study's arms are such a grid."""
    maps = [cells for rows in compared(found) for its in apart(rows) if (cells := grid(its))]
    if not maps:
        return None
    tallest = max(len({gamma for _, gamma in cells}) for cells in maps)
    figure, axes = panels(len(maps), 0.8 + 0.3 * tallest, columns=1)
    for ax, cells in zip(axes, maps):
        draw_map(ax, cells)
    return figure


def apart(rows):
    """The rows of each setting."""
    places = dict.fromkeys(row["setting"] for row in rows)
    return [[row for row in rows if row["setting"] == setting] for setting in places]


def grid(rows):
    """{(sigma_0, gamma): row} of the arms that differ from the baseline in these alone; {} where they leave
    holes or are too few for a map."""
    cells = {}
    for row in rows:
        config = row["arm"].config
        changed = records.changed_options(config, row["against"].config)
        if row["against"].is_baseline and changed and changed.keys() <= {"noise_sigma", "noise_gamma"}:
            cells[config.noise_sigma, config.noise_gamma] = row
    sigmas, gammas = ({key[i] for key in cells} for i in (0, 1))
    whole = len(sigmas) >= 3 and len(gammas) >= 2 and len(cells) == len(sigmas) * len(gammas)
    return cells if whole else {}


def draw_map(axes, cells):
    """Colours and numbers: in brackets what is not resolved, in words what was lost."""
    sigmas = sorted({sigma for sigma, _ in cells})
    gammas = sorted({gamma for _, gamma in cells}, reverse=True)
    means = np.array([[cells[sigma, gamma]["mean"] for sigma in sigmas] for gamma in gammas])
    calm = np.array([[not cells[sigma, gamma]["arm"].row.exploded for sigma in sigmas] for gamma in gammas])
    most = max(np.abs(means[calm & ~np.isnan(means)]), default=1.0) or 1.0
    axes.imshow(np.where(calm, means, np.nan), cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    for (line, column), mean in np.ndenumerate(means):
        row = cells[sigmas[column], gammas[line]]
        text = signed(mean) if row["verdict"] in RESOLVED else f"({signed(mean)})"
        text = "\n".join([*([] if math.isnan(mean) else [text]), *row["remarks"]])
        colour = "white" if calm[line, column] and abs(mean) > 0.6 * most else BLACK
        axes.text(column, line, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(sigmas)), [np.format_float_positional(sigma, trim="-") for sigma in sigmas])
    axes.set_yticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas])
    rows = list(cells.values())
    words = corpus_of(rows) + pairs(rows)
    axes.set(xlabel=r"$\sigma_{\mathregular{0}}$", ylabel=r"$\gamma$", title=words)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


# Loss, or score, and distance against NoisyTune's lambda.


@styled
def lambdas(found):
    """Above, the final val score, or the best val loss where there is none, and beneath, how far the weights
    were moved, against lambda: a column a setting with two lambdas or more; means with 95 % t intervals over
    seeds. Noise in the gradients, without NoisyTune, is a line and a band in grey."""
    groups = [group for group in settings(found) if len(by_lambda(group)) >= 2]
    if not groups:
        return None
    figure, axes = panels(2 * len(groups), 2.2, columns=len(groups))
    for group, *column in zip(groups, *axes.reshape(2, -1)):
        draw_lambdas(column, group)
    for ax in axes[len(groups) :]:
        ax.sharey(axes[len(groups)])
        ax.set_ylim(bottom=0)
        ax.tick_params(labelleft=ax is axes[len(groups)])
    axes[0].set_ylabel(WORDS[measure(groups[0])].replace("validation ", "validation\n"))
    axes[len(groups)].set_ylabel("mean distance moved,\nthousandths")
    label_below(figure, axes)
    return figure


def by_lambda(group):
    """{lambda: Arm} of a setting's arms that differ in NoisyTune's lambda alone."""
    first, found = next((arm for arm in group if not arm.row.noisy), None), {}
    for arm in group if first else ():
        if records.changed_options(arm.config, first.config).keys() <= {"noisytune_lambda"}:
            found[arm.config.noisytune_lambda] = arm
    return found


def measure(group):
    """What is shown of a setting: the score where there is one."""
    scored = any(len(records.losses(arm.found.runs, "final_val_score")) for arm in group)
    return "final_val_score" if scored else BEST


def draw_lambdas(axes, group):
    upper, lower = axes
    alike, name = by_lambda(group), measure(group)
    draw_points(upper, {lam: records.losses(arm.found.runs, name) for lam, arm in alike.items()}, BLACK)
    for arm in group:
        if arm.config.noisy and not arm.config.noisytune_lambda:
            mean, half = statistics.interval(records.losses(arm.found.runs, name))
            upper.axhline(mean, color=GREY, label="noise in the gradients", zorder=0)
            upper.axhspan(mean - half, mean + half, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    for kind, (colour, label) in MOVED.items():
        moved = {lam: 1000 * last_of(arm.curve(kind, "all")) for lam, arm in alike.items()}
        if any(map(len, moved.values())):
            draw_points(lower, moved, colour, label)
    upper.set_title(title(list(alike.values())))
    for ax in axes:
        ax.set_xticks(sorted(alike), [f"{lam:g}" for lam in sorted(alike)])
    lower.set_xlabel(r"NoisyTune's $\lambda$")


def last_of(curve):
    """The last value of each seed's curve."""
    return curve.ffill().iloc[-1] if len(curve) else pd.Series(dtype=float)


def draw_points(axes, values, colour, label=None):
    """Means with 95 % t intervals of {x: values over seeds}, joined by a line."""
    points = {x: statistics.interval(each) for x, each in sorted(values.items()) if len(each)}
    if points:
        means, halves = zip(*points.values())
        look_of = {"color": colour, "marker": "o", "markersize": 4, "linewidth": 1, "label": label}
        axes.errorbar(list(points), means, yerr=np.nan_to_num(halves), **look_of)


# Loss against learning rate.


@styled
def learning_rates(found):
    """Best val loss against learning rate, a curve a kind of arm, and beside it each kind's difference to the
    baseline's kind at the same rate; small dots are seeds, lines their means, a large dot the best rate. Kinds
    are a little apart from each other along the axis, so that none hides another.

    Of the first setting with kinds of three rates or more; where several have one kind each, as tasks have, a
    panel each with its loss or score.
    """
    groups = []
    for group in settings(found):
        kinds = {}
        for arm in (arm for arm in group if arm.config.learning_rate > 0):  # the axis is logarithmic
            kinds.setdefault(look.kind_of(arm.row.arm), []).append(arm)
        kinds = {kind: arms for kind, arms in kinds.items() if len(arms) >= 3 and any(map(has_ended, arms))}
        if kinds:
            groups.append((kinds, group))
    if len(groups) > 1 and all(len(kinds) == 1 for kinds, _ in groups):
        return draw_rates_apart([arms for kinds, _ in groups for arms in kinds.values()])
    return draw_rates(*groups[0]) if groups else None


def has_ended(arm):
    return len(records.losses(arm.found.runs, BEST)) > 0


def draw_rates_apart(groups):
    figure, axes = panels(len(groups), 2.2, columns=4)
    for ax, group in zip(axes, groups):
        name = measure(group)
        table = by_rate(group, name)
        mean = draw_seeds(ax, table, BLACK, None)
        draw_best(ax, group, mean, BLACK, statistics.is_score(name))
        ax.set_title(title(group))
        rate_axis(ax, table)
        ax.tick_params(axis="x", labelrotation=35)
    axes[0].set_ylabel(WORDS[measure(groups[0])].replace("validation ", "validation\n"))
    return figure


def by_rate(arms, name):
    """A frame of a loss or score, a row a seed and a column a rate."""
    return pd.DataFrame({arm.config.learning_rate: records.losses(arm.found.runs, name) for arm in arms})


def rate_axis(axes, rates):
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(rates)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{rate:.2g}" for rate in sorted(rates)])
    axes.set_xlabel("learning rate")


def draw_rates(kinds, group):
    losses = {kind: by_rate(arms, BEST) for kind, arms in kinds.items()}
    first = next((kind for kind in kinds if any(arm.is_baseline for arm in kinds[kind])), None)
    beside = first is not None and len(kinds) > 1
    figure, axes = panels(2 if beside else 1, 2.6)
    rates = sorted(set().union(*losses.values()))
    step = min((b / a for a, b in itertools.pairwise(rates)), default=2) ** APART
    for place, (kind, arms) in enumerate(kinds.items()):
        label, colour = look.label_of(kind, arms[0].config) or arms[0].config.optimizer, arms[0].colour
        aside = step ** (place - (len(kinds) - 1) / 2)
        mean = draw_seeds(axes[0], losses[kind], colour, label, aside)
        draw_best(axes[0], arms, mean, colour, aside=aside)
        if beside and kind != first:
            draw_seeds(axes[1], losses[kind] - losses[first], colour, label, aside)
    axes[0].set(ylabel="best validation loss (nats)", title=title(group))
    for ax in axes:
        rate_axis(ax, rates)
    if beside:
        axes[1].axhline(0, color=kinds[first][0].colour, linewidth=1.3)
        axes[1].set_ylabel("difference to the baseline\nat the same rate (nats)")
    label_below(figure, axes[:1])
    return figure


def draw_seeds(axes, table, colour, label, aside=1):
    """A dot for each seed (row) and rate (column), a line through the means, which are returned; a dash where
    there is one. Rates are drawn `aside` times as high."""
    table = table.sort_index(axis=1)
    table.columns *= aside
    for _, row in table.iterrows():
        axes.plot(row.index, row, "o", color=colour, alpha=0.45, markersize=3, markeredgewidth=0)
    mean = table.mean()
    alone = {"marker": "_", "markersize": 11, "markeredgewidth": 2} if mean.count() == 1 else {}
    axes.plot(mean.index, mean, color=colour, label=label, **alone)
    return mean


def draw_best(axes, arms, mean, colour, score=False, aside=1):
    """A large dot at the best rate at which no run diverged, if there is one: survivors may look good."""
    whole = [aside * arm.config.learning_rate for arm in arms if not arm.row.diverged]
    means = mean[mean.index.isin(whole)].dropna()
    means = means if len(means) else mean
    rate = means.idxmax() if score else means.idxmin()
    best = {"marker": "o", "markersize": 6, "markeredgecolor": "white", "zorder": 3, "clip_on": False}
    axes.plot(rate, mean[rate], color=colour, **best)


# Sharpness.


@styled
def flatness(found):
    """The rise of the train loss under relative changes rho of the weights, a panel a rho: means with 95 % t
    intervals over seeds; small dots are the seeds."""
    rhos = sorted((name for name in found.runs if name.startswith("rise_")), key=lambda name: float(name[5:]))
    measured = [[arm for arm in g if arm.found.runs[rhos].notna().any(axis=None)] for g in settings(found)]
    groups = [group for group in measured if group]
    if not groups:
        return None
    figure, axes = panels(len(rhos) * len(groups), 0.85 + 0.2 * max(map(len, groups)), columns=len(rhos))
    for group, row in zip(groups, axes.reshape(-1, len(rhos))):
        for ax, rho in zip(row, rhos):
            for place, arm in enumerate(group):
                rises, colour = records.losses(arm.found.runs, rho), arm.colour
                mean, half = statistics.interval(rises)
                ax.errorbar(mean, place, xerr=half, color=colour, marker="o", markersize=4)
                ax.plot(rises, [place + 0.22] * len(rises), ".", color=colour, alpha=0.5, markersize=3)
            rows_of(ax, [arm.label for arm in group])
            ax.tick_params(labelleft=ax is row[0])
            counts = span(len(records.losses(arm.found.runs, rho)) for arm in group)
            ax.set(title=rf"$\rho$ = {rho[5:]} (n = {counts})")
            ax.set_xlabel("rise of the train loss (nats)")
    return figure
