"""The figures of settings: losses, noise, cost, differences, mechanism, distance, sensitivity.

Each is None where there is nothing to draw.
"""

import itertools
from dataclasses import replace

import numpy as np
from matplotlib import rc_context

from arms import changed_knobs, differences, mean_band, notes, other_knobs
from compare import LEVEL
from panels import STYLE, Panel, figure_of, line_style, wrap
from tables import (
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

SMALLEST = 1e-12  # the least noise that is drawn: a 1e-8th of what a gradient's element is
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
    """The arms of a setting in panels of at most MOST_ARMS, the baseline the first of each."""
    baseline = [setting.baseline] if setting.baseline else []
    others = [arm for arm in setting.arms if arm not in baseline]
    room = MOST_ARMS - len(baseline)
    parts = [others[i : i + room] for i in range(0, len(others), room)] or [[]]
    return [baseline + part for part in parts]


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
    lines = wrap(f"{described(setting)}; fixed windows, dropout off. {seeds_line(arms)}")
    if setting.baseline and len(setting.arms) > 1:
        lines += difference_lines(setting, arms, name)
    elif len(setting.arms) > 1:
        lines += wrap("No differences: not one arm alone is without noise, or called baseline.")
    return lines + [line for note in panel_notes(arms) for line in wrap(note)]


def described(setting):
    """The size of a setting; before it the corpus, where a caption must not be read without it."""
    return f"{setting.title}: {setting.size}" if setting.partial else setting.size


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
        f"{described(setting)}. {seeds_line(arms)} Sigma and noise norm: geometric means."
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
        if any(len(line.get_ydata()) for line in axes.get_lines()):
            axes.set_yscale("log")
            axes.set_ylim(bottom=max(axes.get_ylim()[0], SMALLEST))

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
    caption = f"{described(setting)}. {n}; mean, no bands."
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


# Differences.

FAR = 10  # times the next smaller difference: beyond the scale
COLOUR_OF = {"better": "#009E73", "worse": "#D55E00"}  # by verdict; black and hollow for any other


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


def forest_bar(axes, place, row):
    c, colour = row[-1], COLOUR_OF.get(outcome(row), "#000000")
    axes.errorbar(
        c.mean, place, xerr=c.half, color=colour, marker="o", markersize=3,
        markerfacecolor="white" if colour == "#000000" else colour, capsize=2, linewidth=0.9,
    )  # fmt: skip


def forest_figures(axes, place, row):
    """The difference in figures, at the side at which it lies; the verdict where there is none."""
    c, colour = row[-1], COLOUR_OF.get(outcome(row), "#000000")
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


# Mechanism.


def mechanism_figure(settings):
    """For each setting whose study names decisive arms: their val loss, and beneath it what noise left of the
    signal in their updates, where that was measured (diagnose.py)."""
    with rc_context(STYLE):
        panels = [panel for setting in settings for panel in mechanism_panels(setting)]
        return figure_of(panels) if panels else None


def mechanism_panels(setting):
    named = setting.study.get("decisive", []) if setting.study else []
    arms = [after_the_first(arm) for name in named if (arm := setting.arm(name))]
    if not any(run.measured for arm in arms for run in arm.runs):
        return []
    end = setting.knobs["max_iters"]
    caption = (
        f"{described(setting)}. {seeds_line(arms)} Signal: RMS of the part of AdamW's update that is of clean"
        " gradients, in learning rates, the noise in the second moment with it. Share: of the update's mean"
        " square that is signal; all of it where none of the noise is in the first moment."
    )

    def losses(axes):
        draw_arms(axes, arms, "evals", "val_loss")
        axes.set(ylabel="validation loss (nats)", xlim=(0, end))
        show_after_the_start(axes, arms, "val_loss")

    def signal(axes):
        draw_arms(axes, arms, "measured", "signal_rms")
        axes.set(ylabel="signal", xlim=(0, end), yscale="log")

    def share(axes):
        draw_arms(axes, arms, "measured", "signal_share")
        axes.set(ylabel="share of signal", xlim=(0, end), ylim=(-0.03, 1.03))

    return [
        Panel(losses, setting.title, (), names(arms), 1.6, xlabel=None),
        Panel(signal, height=1, xlabel=None),
        Panel(share, caption=wrap(caption), height=1),
    ]


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
        f"{described(setting)}. {seeds_line(arms)} Mean of |W - W_0| over the elements of each group, in"
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
        f"{described(setting)}; difference of the best val loss to {setting.baseline.name} in nats, mean of"
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
    """What a cell of the map says: the difference, in brackets where it is not resolved; and what was lost."""
    said = "" if row[-1].mean is None else f"{row[-1].mean:+.4f}"
    said = f"({said})" if outcome(row) == "not resolved" else said
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
