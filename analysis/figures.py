"""Figures of what arms do during training: losses, noise, cost, mechanism, distance, and an overview.

Each takes Records and gives a Figure, or None where there is nothing to draw. An arm is a line, the mean over
its seeds, with the 95 % t interval as a band; the settings of studies, such as corpora, are panels.
"""

import itertools
import math
import re

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.look import label_below, label_end, panels, settings, signed, styled

FADED = 1e-5  # of the strongest noise; what is under it is not drawn
MOST = 7  # arms in a panel; more are spread over several, the baseline in each
HIDDEN = 0.005  # of a panel's height: a curve so near to another lies on it
FEW = 5  # points; a shorter curve is drawn from its start
THOUSAND, MILLION = (1e3, "thousand"), (1e6, "million")
SECONDS, MINUTES = (1, "seconds"), (60, "minutes")
VAL = "validation loss (nats)"
DIFFERENCE = "difference to the baseline (nats)\nabove 0: worse"
NORMS = {"noise_norm": ("noise", "-"), "grad_norm": ("gradient", (0, (1, 1)))}  # word, dash
GROUPS = ("all", "embeddings", "attention", "mlp", "norms")  # of weights


# Losses.


@styled
def losses(found, name="val_loss", label=VAL, parts=None):
    """Loss by iteration, a panel a setting; parts: {title: arms of a panel} in its place."""
    groups = groups_of(found) if parts is None else [named(found, names) for names in parts.values()]
    direct = len(groups) == 1 or parts is not None
    figure, axes = panels(len(groups), 2.9 if len(groups) == 1 else 2.4, sharey=parts is not None)
    limits, titles = [], [title(group, groups) for group in groups]
    if parts is not None:
        titles = [f"{words} (n{of.partition('(n')[2]}" for words, of in zip(parts, titles)]
    for ax, group, words in zip(axes, groups, titles):
        draw_curves(ax, group, "eval", name, direct=direct)
        limits += ax.get_ylim()
        ax.set_title(words)
    if parts is not None:
        axes[0].set_ylim(min(limits), max(limits))
    return labelled(figure, axes, label, () if direct else axes)


def groups_of(found):
    """The arms of each setting; of more than MOST about as many in each of several, the baseline in each."""
    groups = []
    for group in settings(found):
        first = [arm for arm in group if arm.is_baseline]
        others = [arm for arm in group if not arm.is_baseline]
        count = max(1, -(-len(others) // (MOST - len(first))))
        ends = np.linspace(0, len(others), count + 1).round().astype(int)
        groups += [first + others[start:end] for start, end in itertools.pairwise(ends)]
    return groups


def named(found, names):
    """The arms of these names, in their order."""
    arms = {arm.row.arm: arm for group in settings(found) for arm in group}
    return [arms[name] for name in names if name in arms]


def title(group, groups=()):
    """The corpus, the number of seeds, and what tells it apart from other groups of the corpus: its study, its
    size."""
    runs = [other[0].found.runs.iloc[0] for other in groups]
    run = group[0].found.runs.iloc[0]
    corpus = re.sub(r"the (first [\d,]+),000,000 \w+", r"\1 M", run.corpus)
    sizes = {other.description for other in runs if other.corpus == run.corpus}
    studies = {other.study for other in runs if other.corpus == run.corpus}
    if run.study and len(studies) > 1:
        corpus = f"{corpus}, {run.study.replace('_', ' ')}"
    size = run.description.removeprefix("reduced size, ").replace(" parameters, ", " parameters,\n")
    apart = f"\n{size}" if len(sizes) > 1 else ""
    return f"{corpus} (n = {span(arm.row.finished or arm.row.runs for arm in group)}){apart}"


def span(counts):
    """ "4", or "3–4"."""
    counts = sorted(counts)
    return "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))


def labelled(figure, axes, label, legend=None):
    """The figure with a vertical label at the left of each row, and beneath it the legend of some panels, by
    default those at the left."""
    left = axes[:: axes[0].get_gridspec().ncols]
    for ax in left:
        ax.set_ylabel(label)
    label_below(figure, left if legend is None else legend)
    return figure


# Lines and bands.


def draw_curves(axes, arms, kind, name, direct=False, few=FEW):
    """A logged value of some arms, mean and interval over seeds."""
    bands = [band_of(arm.curve(kind, name)) for arm in arms]
    draw_bands(axes, arms, bands, limits_of(arms, bands, few=few), direct=direct)


def draw_bands(axes, arms, bands, limits, log=False, direct=False, marker=None):
    """A line and a band for each arm, labelled at its end if `direct`, else by the legend that will come.

    An arm without data has a label alone. A curve that lies on another's is dashed, and said so.
    """
    end_of_axis = max(arm.config.max_iters for arm in arms)
    axes.set(yscale="log" if log else "linear", xlim=(0, end_of_axis), ylim=limits, xlabel="iteration")
    axes.locator_params(axis="x", integer=True)
    low, high = axes.get_ylim()
    before = []
    for arm, band in zip(arms, bands):
        label = draw_apart(axes, band, arm, arm.described, arm.dash, before, marker)
        if direct:
            at, end = (band.index[-1], band["mean"].iloc[-1]) if len(band) else (end_of_axis, high)
            label += " ↑" if end > high else " ↓" if end < low else "" if len(band) else ": no data"
            label_end(axes, (at, np.clip(end, low, high)), label, arm.colour)


def draw_apart(axes, band, arm, label, dash, before, marker=None):
    """Draw a band, dashed and said so where its curve lies on one of those `before`, [(arm, band)], which it
    then joins; returns its label."""
    under = next((other for other, b in before if coincide(axes, band, b)), None)
    label += f" (lies on {under.label})" if under else ""
    draw_band(axes, band, arm.colour, (0, (3, 3)) if under else dash, label, marker)
    before.append((arm, band))
    return label


def draw_band(axes, band, colour, dash, label, marker=None):
    axes.plot(band.index, band["mean"], color=colour, linestyle=dash, label=label, marker=marker)
    axes.fill_between(band.index, band.low, band.high, color=colour, alpha=0.18, linewidth=0)


def band_of(curve, log=False):
    """n, mean, half_width, low and high by iteration of a curve (iteration x seed); log: mean, low and high are
    those of the logarithms of what is above 0, raised again."""
    band = statistics.band(np.log(curve.where(curve > 0)) if log else curve)
    ends = {"low": band["mean"] - band.half_width, "high": band["mean"] + band.half_width}
    return np.exp(band.assign(**ends)) if log else band.assign(**ends)


def limits_of(arms, bands, log=False, few=FEW):
    """Around the means and their bands from a tenth of the way on, of arms that ended below their start: the
    fall before, and the arms that ended above it, would flatten the others. With fewer than `few` points left
    of it a band counts whole. None where there is nothing."""
    calm = [(arm, band) for arm, band in zip(arms, bands) if not arm.row.exploded]
    parts = [later(band, arm.config.max_iters / 10, few)[["mean", "low", "high"]] for arm, band in calm]
    values = pd.concat(parts).stack() if parts else pd.Series(dtype=float)
    if values.empty:
        return None
    low, high = np.log([values.min(), values.max()]) if log else (values.min(), values.max())
    room = 0.04 * (high - low) or 0.04 * abs(high) or 1
    ends = np.array([low - room, high + room])
    return tuple(np.exp(ends) if log else ends)


def later(band, start, few):
    """The part of a band from an iteration on; the whole band where that has few points."""
    return part if len(part := band.loc[start:]) >= few else band


def coincide(axes, one, other):
    """Whether two bands' means are one line to the eye, from a tenth of the way on."""
    common = one.index.intersection(other.index)
    common = common[common >= axes.get_xlim()[1] / 10]
    if not len(common):
        return False
    points = [np.column_stack([common, band.loc[common, "mean"]]) for band in (one, other)]
    apart = np.subtract(*(axes.transData.transform(each)[:, 1] for each in points))
    return bool(np.abs(apart).max() < HIDDEN * axes.bbox.height)


# An overview: what the noise does to the loss.


@styled
def overview(found):
    """Validation loss of a baseline and other arms, and beside it their difference, paired by seed."""
    groups = [group for group in groups_of(found) if group[0].is_baseline and len(group) > 1]
    if not groups:
        return None
    figure, axes = panels(2 * len(groups), 2.5, columns=2)
    for group, (left, right) in zip(groups, axes.reshape(-1, 2)):
        draw_curves(left, group, "eval", "val_loss")
        draw_differences(right, group)
        right.set_ylabel(DIFFERENCE)
        left.set_title(title(group, groups))
    return labelled(figure, axes, VAL)


@styled
def differences(found):
    """Of each study the arms minus the baseline, paired by seed, in a panel; whole curves on one scale."""
    groups = [group for group in groups_of(found) if group[0].is_baseline and len(group) > 1]
    if not groups:
        return None
    figure, axes = panels(len(groups), 2.5, columns=2, sharey=True)
    limits = []
    for ax, group in zip(axes, groups):
        draw_differences(ax, group, few=np.inf)
        limits += ax.get_ylim()
        ax.set_title(
            f"{group[0].config.max_iters:,} iterations (n = {span(len(arm.found.runs) for arm in group)})"
        )
    axes[0].set_ylim(min(limits), max(limits))
    return labelled(figure, axes, DIFFERENCE)


def draw_differences(axes, group, few=FEW):
    """Each arm's paired difference to the baseline, the first, by iteration, with its 95 % t interval."""
    theirs, others = group[0].curve("eval", "val_loss"), group[1:]
    bands = [band_of((arm.curve("eval", "val_loss") - theirs).dropna(how="all")) for arm in others]
    axes.axhline(0, color=group[0].colour, linewidth=1.3)
    draw_bands(axes, others, bands, limits_of(others, bands, few=few), marker="o")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.06 * high), max(high, -0.06 * low))  # 0 is in it
    axes.set_xlim(right=1.012 * axes.get_xlim()[1])  # the last marker is whole
    for arm, band in zip(others, bands):
        if len(band):
            last = band.iloc[-1]
            label_end(axes, (band.index[-1], last["mean"]), signed(last["mean"], last.half_width), arm.colour)


# Noise and cost.


@styled
def noise(found, names=None):
    """The norms of the noise and of the gradient before clipping, a panel a setting with noise; names: of the
    arms to draw in one panel, all if left out."""
    groups = groups_of(found) if names is None else [named(found, names)]
    groups = [noisy for group in groups if (noisy := [arm for arm in group if arm.config.noisy])]
    if not groups:
        return None
    figure, axes = panels(len(groups), 2.6)
    for ax, group in zip(axes, groups):
        bands = {name: [band_of(arm.curve("train", name), log=True) for arm in group] for name in NORMS}
        ax.set(xlim=(0, group[0].config.max_iters), xlabel="iteration")
        ax.locator_params(axis="x", integer=True)
        ax.set_title(title(group, groups))
        calm = [at for at, arm in enumerate(group) if not (arm.row.exploded or arm.row.diverged)]
        shown = calm or range(len(group))
        values = pd.concat([its[at] for its in bands.values() for at in shown])[["mean", "low"]]
        if (top := values["mean"].max()) > 0:  # none is, before the first step
            ax.set_yscale("log")
            ax.set_ylim(max(FADED * top, values.min().min() / 3), 3 * top)
        for name, (word, dash) in NORMS.items():
            before = []
            for arm, band in zip(group, bands[name]):
                draw_apart(ax, band, arm, f"{word}, {arm.described}", dash, before)
    return labelled(figure, axes, "norm", axes)


@styled
def cost(found):
    """Validation loss by tokens and, where the runs tell their seconds, by time: means, no bands."""
    groups = groups_of(found)
    figure, axes = panels(2 * len(groups), 2.4, columns=2)
    for group, pair in zip(groups, axes.reshape(-1, 2)):
        bands = [band_of(arm.curve("eval", "val_loss")) for arm in group]
        limits = limits_of(group, [band.assign(low=band["mean"], high=band["mean"]) for band in bands])
        for ax, name, units in zip(pair, ("tokens", "seconds"), ((THOUSAND, MILLION), (SECONDS, MINUTES))):
            spent = [
                arm.curve("eval", name).mean(axis=1).reindex(band.index) for arm, band in zip(group, bands)
            ]
            size, words = unit_for(max((each.max() for each in spent), default=0), units)
            for arm, band, each in zip(group, bands, spent):
                ax.plot(each / size, band["mean"], color=arm.colour, linestyle=arm.dash, label=arm.described)
            of = f" {group[0].found.runs.unit.iloc[0]}s" if name == "tokens" else ""
            ax.set(xlabel=words + of, ylim=limits)
            ax.set_xlim(left=0)
            ax.locator_params(axis="x", nbins=6)
        pair[0].set_title(title(group, groups))
    return labelled(figure, axes, VAL)


def unit_for(most, units):
    """The largest of some (size, name) of which `most` has two or more, or else the smallest."""
    return next((unit for unit in reversed(units) if most >= 2 * unit[0]), units[0])


# Mechanism.


@styled
def mechanism(found):
    """Of each study that names decisive arms: their val loss, the share of the noise's harm that each has,
    with Fieller's 95 % interval, and the RMS of the signal in their updates, in learning rates."""
    decisive = {key: study.get("decisive", ()) for key, study in found.studies.items()}
    groups = [[arm for arm in g if arm.row.arm in decisive.get(arm.key[:2], ())] for g in settings(found)]
    groups = [group for group in groups if any(len(arm.curve("diagnosis", "signal_rms")) for arm in group)]
    if not groups:
        return None
    figure, axes = panels(3 * len(groups), 2.4)
    for group, (left, middle, right) in zip(groups, axes.reshape(-1, 3)):
        draw_curves(left, group, "eval", "val_loss")
        noises, controls = {arm.row.reference for arm in group}, statistics.controls(found, *group[0].key[:2])
        bands = [fractions(arm, noises, controls.get(arm.row.arm)) for arm in group]
        values = pd.concat(bands)[["low", "high"]].stack()
        draw_bands(middle, group, bands, (max(-1, values.min() - 0.1), min(3, values.max() + 0.1)))
        # The first diagnosis, of one gradient over its own noise, has tails too heavy for a mean.
        bands = [band_of(arm.curve("diagnosis", "signal_rms").iloc[1:], log=True) for arm in group]
        draw_bands(right, group, bands, limits_of(group, bands, log=True), log=True)
        left.set_title(title(group, groups))
        middle.set_ylabel("share of the noise's harm")
        right.set_ylabel("the gradient's part of a step\n(RMS, in learning rates)")
    return labelled(figure, axes, VAL)


def fractions(arm, noises, three):
    """The fraction of its noise's effect that an arm has, as a band; the noise has 1 and the baseline 0."""
    if arm.is_baseline or arm.row.arm in noises:
        level, ends = 0.0 if arm.is_baseline else 1.0, [0, arm.config.max_iters]
        return pd.DataFrame(level, index=ends, columns=["mean", "low", "high"])
    return statistics.fractions_by_iteration(three).rename(columns={"fraction": "mean"})


# Distance from the pretrained weights.


@styled
def distance(found):
    """How far fine-tuning moves each group of weights from the pretrained ones: the mean of |W - W_0|."""
    groups = [g for g in groups_of(found) if any(len(arm.curve("distance", "all")) for arm in g)]
    if not groups:
        return None
    figure, axes = panels(len(GROUPS) * len(groups), 2.2, columns=len(GROUPS))
    for group, row in zip(groups, axes.reshape(-1, len(GROUPS))):
        for ax, name in zip(row, GROUPS):
            draw_curves(ax, group, "distance", name, few=math.inf)  # from 0 on
            ax.set_title(name)
            ax.yaxis.set_major_formatter(lambda value, _: f"{1000 * value:g}")
            ax.locator_params(axis="x", nbins=3)
    return labelled(figure, axes, "mean |W − W₀|, thousandths")
