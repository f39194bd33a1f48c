"""Figures of what arms do during training: losses, noise, cost, mechanism, distance.

Each arm is a line, the mean over its seeds. A figure is None where there is nothing to draw.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
from matplotlib import rc_context

from analysis.arms import by, differences, mean_band, notes, other_knobs, shares
from analysis.panels import STYLE, Panel, figure_of, line_style, wrap
from analysis.tables import with_interval

FADED = 1e-5  # of the strongest noise; what is under it is not drawn
MOST_ARMS = 7  # in a panel; more are spread over several, the baseline in each


# Losses.


def loss_figure(settings, name, label):
    """A panel a setting, a line an arm: its mean over seeds, with the 95 % interval as a band.

    Where a run ends early, the mean goes on without it, and the caption says so.
    """
    with rc_context(STYLE):
        return figure_of(
            [loss_panel(setting, arms, name, label) for setting in settings for arms in spread(setting)]
        )


def spread(setting):
    """The arms of a setting in panels of at most MOST_ARMS, the baseline first in each. Where one panel does
    not hold them, absolute noise stands apart from relative, and a grid has a panel for each gamma."""
    baseline = [setting.baseline] if setting.baseline else []
    others = [arm for arm in setting.arms if arm not in baseline]
    room = MOST_ARMS - len(baseline)
    configs = [arm.runs[0].config for arm in others]
    sigmas, gammas = ({getattr(config, knob) for config in configs} for knob in ("noise_sigma", "noise_gamma"))
    is_grid = len(sigmas) * len(gammas) == len(others)

    def family(arm):
        config = arm.runs[0].config
        return config.noise_scale == "absolute", config.noise_gamma if is_grid else None

    families = by(others, family).values() if len(others) > room else [others]
    return [baseline + part for arms in families for part in evenly(arms, room)]


def evenly(arms, most):
    """Some arms in parts of at most so many, about as many in each; one empty part of none."""
    parts = max(1, math.ceil(len(arms) / most))
    ends = [round(part * len(arms) / parts) for part in range(parts + 1)]
    return [arms[start:end] for start, end in itertools.pairwise(ends)]


def loss_panel(setting, arms, name, label):
    def draw(axes):
        draw_arms(axes, arms, "evals", name)
        axes.set(ylabel=f"{label} (nats)", xlim=(0, setting.knobs["max_iters"]))
        show_after_the_start(axes, arms, name)

    return Panel(draw, setting.title, loss_caption(setting, arms, name), names(arms))


def draw_arms(axes, arms, kind, name, logarithmic=False):
    """A line and a band for each arm; one without data keeps its colour and its place in the legend.

    logarithmic: of the logarithms, without what is not above 0.
    """
    for arm in arms:
        curve = arm.curve(kind, name)
        if logarithmic:
            logs = {at: {s: np.log(v) for s, v in values.items() if v > 0} for at, values in curve.items()}
            curve = {at: values for at, values in logs.items() if values}
        iterations, *band = mean_band(curve) if curve else ([], [], [], [])
        mean, low, high = map(np.exp, band) if logarithmic else band
        (line,) = axes.plot(iterations, mean, **line_style(arm.number))
        axes.fill_between(iterations, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def show_after_the_start(axes, arms, name):
    """Limit the vertical axis to the means from a tenth of the way on, of arms that ended below their start.

    The fall before, and the arms that ended above it, would flatten them.
    """
    means = [
        np.mean(list(values.values()))
        for arm in arms
        for at, values in arm.curve("evals", name).items()
        if at >= arm.runs[0].config.max_iters / 10 and not arm.exploded
    ]
    if means and max(means) > min(means):
        room = 0.05 * (max(means) - min(means))
        axes.set_ylim(min(means) - room, max(means) + room)


def names(arms):
    """The arms' names as the legend shows them, the middle of a very long one left out."""
    return [name if len(name) <= 54 else f"{name[:25]}...{name[-25:]}" for name in (arm.name for arm in arms)]


def loss_caption(setting, arms, name):
    lines = wrap(f"{setting.described}; fixed windows, dropout off. {seeds_line(arms)}")
    if setting.baseline and len(setting.arms) > 1:
        lines += difference_lines(setting, arms, name)
    elif len(setting.arms) > 1:
        lines += wrap("No differences: not one arm alone is without noise, or called baseline.")
    return lines + [line for note in panel_notes(arms) for line in wrap(note)]


def difference_lines(setting, arms, name):
    baseline = setting.baseline
    around = ", ± half of its 95 % t interval" if any(len(arm.runs) > 1 for arm in arms) else ""
    lines = wrap(f"Difference to {baseline.name} by seed{around} (below 0: better), at iteration:")
    stated = stated_iterations([at for at in baseline.curve("evals", name) if at])
    for arm in arms:
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
        if arm.exploded:
            yield f"{arm.name} ended above its start, and may be beyond the scale."
        for run in arm.runs:
            for note in notes([run]):
                yield f"{arm.name}, seed {run.seed}{note.removeprefix(str(run.path))}."


# Noise.


def noise_figure(settings):
    """For each setting with noise: sigma, the norm of the noise, the norm of the gradient."""
    with rc_context(STYLE):
        panels = [
            panel
            for setting in settings
            for arms in spread(setting)
            if any(arm.runs[0].config.noisy for arm in arms)
            for panel in noise_panels(setting, arms)
        ]
        return figure_of(panels) if panels else None


def noise_panels(setting, arms):
    caption = (
        f"{setting.described}. {seeds_line(arms)} Sigma and noise norm: geometric means."
        f" Gradient norm before clipping{noise_remarks(arms)}."
    )
    end = setting.knobs["max_iters"]
    return [
        Panel(of_noise(arms, end, "sigma", "sigma"), setting.title, (), names(arms), 1, xlabel=None),
        Panel(of_noise(arms, end, "noise_norm", "noise norm"), height=1, xlabel=None),
        Panel(of_gradient(arms, end, "grad_norm", "gradient norm"), caption=wrap(caption), height=1),
    ]


def noise_remarks(arms):
    """What the caption of the noise figure must add where an arm is not of the default kind."""
    noisy = [(arm.name, arm.runs[0].config) for arm in arms if arm.noisy]
    before = [name for name, config in noisy if config.noise_before_clip]
    relative = [name for name, config in noisy if config.noise_scale != "absolute"]
    remarks = f"; that of {', '.join(before)} with the noise in it" if before else ""
    return remarks + (f"; sigma of {', '.join(relative)} in units of the gradient's RMS" if relative else "")


def of_noise(arms, end, name, label):
    """A function that draws a logged quantity of the noise, on a logarithmic axis where there is any."""

    def draw(axes):
        draw_arms(axes, arms, "steps", name, logarithmic=True)
        axes.set(ylabel=label, xlim=(0, end))
        tops = [max(line.get_ydata()) for line in axes.get_lines() if len(line.get_ydata())]
        if tops:
            axes.set_yscale("log")
            axes.set_ylim(bottom=max(axes.get_ylim()[0], FADED * max(tops)))

    return draw


def of_gradient(arms, end, name, label):
    """A function that draws a logged quantity of the gradient, from 0 to somewhat above the highest mean; on a
    logarithmic axis where the arms are far apart."""

    def draw(axes):
        draw_arms(axes, arms, "steps", name)
        axes.set(ylabel=label, xlim=(0, end))
        means = [line.get_ydata() for line in axes.get_lines() if len(line.get_ydata())]
        tops = [np.nanmax(mean) for mean in means]
        if tops and max(tops) > 20 * min(tops) > 0:
            axes.set(yscale="log", ylim=(0.5 * min(map(np.nanmin, means)), 2 * max(tops)))
        else:
            axes.set_ylim(0, 1.2 * max(tops, default=1))

    return draw


# Cost.


def cost_figure(settings):
    """Validation loss by tokens and by minutes: the mean over seeds of both, no bands."""
    with rc_context(STYLE):
        panels = [panel for s in settings for arms in spread(s) for panel in cost_panels(s, arms)]
        return figure_of(panels) if panels else None


def cost_panels(setting, arms):
    """The two panels; the second only where every run tells its seconds."""
    evals = [event for arm in arms for run in arm.runs for event in run.evals]
    if not evals:
        return []
    machines = sorted({run.about.get("machine", {}).get("name", "unknown") for arm in arms for run in arm.runs})
    n = seeds_line(arms).split(";")[0].rstrip(".")
    caption = f"{setting.described}. {n}; mean, no bands."
    caption += "".join(f" {note}" for note in panel_notes(arms))
    by_tokens = Panel(
        of_cost(arms, "tokens", 1e-6), setting.title, (), names(arms), 1.3, xlabel=f"million {setting.unit}s"
    )
    if any("seconds" not in event for event in evals):
        by_tokens.caption = wrap(caption)
        return [by_tokens]
    caption += f" Minutes of whole runs on {', '.join(machines)}, with all else that it did: no benchmark."
    by_time = of_cost(arms, "seconds", 1 / 60)
    return [by_tokens, Panel(by_time, caption=wrap(caption), height=1.3, xlabel="minutes")]


def of_cost(arms, cost, unit):
    """A function that draws the mean val loss against the mean of a cost that evaluations tell."""

    def draw(axes):
        for arm in arms:
            losses, costs = arm.curve("evals", "val_loss"), arm.curve("evals", cost)
            both = [
                [np.mean(list(curve[at].values())) for at in losses if at in costs] for curve in (costs, losses)
            ]
            axes.plot(np.array(both[0]) * unit, both[1], **line_style(arm.number))
        axes.set(ylabel="validation loss (nats)")
        axes.set_xlim(left=0)
        show_after_the_start(axes, arms, "val_loss")

    return draw


# Mechanism.


def mechanism_figure(settings):
    """For each setting whose study names decisive arms: their val loss, the share that they have of the noise's
    effect on it, and what noise left of the signal in their updates, where that was measured (diagnose.py)."""
    with rc_context(STYLE):
        panels = [panel for setting in settings for panel in mechanism_panels(setting)]
        return figure_of(panels) if panels else None


def mechanism_panels(setting):
    named = setting.study.get("decisive", []) if setting.study else []
    arms = [after_the_first(arm) for name in named if (arm := setting.arm(name))]
    if not any(run.measured for arm in arms for run in arm.runs):
        return []
    end, baseline = setting.knobs["max_iters"], setting.baseline
    of_effect = baseline and (
        f" Share of effect: an arm's difference to {baseline.name} over that of the noise, with Fieller's 95 %"
        " interval."
    )
    caption = (
        f"{setting.described}. {seeds_line(arms)}{of_effect or ''} Signal: RMS of the part of AdamW's update"
        " that is of clean gradients, in learning rates, the noise in the second moment with it. Share of"
        " signal: of the update's mean square; all of it where none of the noise is in the first moment."
    )

    def losses(axes):
        draw_arms(axes, arms, "evals", "val_loss")
        axes.set(ylabel="validation loss (nats)", xlim=(0, end))
        show_after_the_start(axes, arms, "val_loss")

    def effect(axes):
        draw_shares(axes, setting, arms)
        low, high = axes.get_ylim()
        axes.set(ylabel="share of effect", xlim=(0, end), ylim=(max(-1, min(0, low)), min(3, high)))

    def signal(axes):
        draw_arms(axes, arms, "measured", "signal_rms")
        axes.set(ylabel="signal", xlim=(0, end), yscale="log")

    def share(axes):
        draw_arms(axes, arms, "measured", "signal_share")
        axes.set(ylabel="share of signal", xlim=(0, end), ylim=(-0.03, 1.03))

    return [
        Panel(losses, setting.title, (), names(arms), 1.6, xlabel=None),
        *([Panel(effect, height=1.3, xlabel=None)] if baseline else []),
        Panel(signal, height=1, xlabel=None),
        Panel(share, caption=wrap(caption), height=1),
    ]


def draw_shares(axes, setting, arms):
    """The share that each arm has of the effect of the noise that it is compared with; the noise has 1."""
    for arm in arms:
        reference = setting.reference(arm)
        noise = reference if reference and reference.noisy else arm
        found = shares(arm, noise, setting.baseline) if noise.noisy else {}
        points = [(at, *parts) for at, parts in found.items() if parts]
        iterations, part, low, high = zip(*points) if points else ([], [], [], [])
        (line,) = axes.plot(iterations, part, **line_style(arm.number))
        axes.fill_between(iterations, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def after_the_first(arm):
    """The arm without its first measurement, of a single gradient over its own noise, whose tails are so heavy
    that their mean tells nothing."""
    return replace(arm, runs=[replace(run, measured=run.measured[1:]) for run in arm.runs])


# Distance from the pretrained weights.

GROUPS = ("all", "embeddings", "attention", "mlp", "norms")


def distance_figure(settings):
    """How far fine-tuning moves the weights of each group from the pretrained ones: the mean of |W - W_0|."""
    with rc_context(STYLE):
        panels = [panel for s in settings for arms in spread(s) for panel in distance_panels(s, arms)]
        return figure_of(panels) if panels else None


def distance_panels(setting, arms):
    if not any(run.moved for arm in arms for run in arm.runs):
        return []
    panels = [Panel(of_distance(setting, arms, group), height=0.9, xlabel=None) for group in GROUPS]
    panels[0].title, panels[0].legend = setting.title, names(arms)
    caption = (
        f"{setting.described}. {seeds_line(arms)} Mean of |W - W_0| over the elements of each group, in"
        " thousandths; W_0: the weights before NoisyTune: the pretrained ones, and fresh rows of embeddings for"
        " symbols and positions that the pretrained model lacks."
    )
    panels[-1].caption, panels[-1].xlabel = wrap(caption), "iteration"
    return panels


def of_distance(setting, arms, group):
    def draw(axes):
        draw_arms(axes, arms, "moved", group)
        axes.set(ylabel=group, xlim=(0, setting.knobs["max_iters"]))
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda distance, _: f"{1000 * distance:g}")

    return draw
