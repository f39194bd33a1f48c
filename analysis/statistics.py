"""Is an arm better than its reference? Intervals, tests and verdicts over seeds. No torch.

    compare(records, "mechanism", "cpu", "best_val_loss")    a row an arm; its comparisons of one loss are one
                                                             family, over which Holm adjusts
    compare_all(pairs)                                       the same of any losses, each a Series by seed
    difference(losses, reference)                            one comparison, taken alone
    fractions(records, study, size, loss)                    how much of a noise's effect its controls have
    band(records.curve("eval", "val_loss"))                  mean and interval at each iteration

A verdict follows the paired t-test, Holm-adjusted. Missing numbers are NaN.
"""

import enum
import functools
import itertools
import math

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from analysis.records import arms, losses

LEVEL, POWER = 0.05, 0.8
EXACT = 16  # pairs up to which every sign flip is tried; beyond, 2^16 of them are drawn


class Verdict(enum.StrEnum):
    """What a comparison says. An arm that lost more runs to divergence than its reference is never better, and
    one that lost fewer never worse; while planned seeds are missing there is no verdict."""

    BETTER = "better"  # a lower loss
    WORSE = "worse"
    NOT_RESOLVED = "not resolved"  # these seeds cannot tell; not that there is no difference
    INCOMPLETE = "incomplete"  # planned seeds are missing
    DIVERGED = "diverged"
    REFERENCE_DIVERGED = "reference diverged"
    NONE = "none"  # one seed tells nothing


def compare(records, study, size, loss):
    """A frame, a row for every arm that has a reference, by name; `loss` as in `records.runs`.

    setting, reference. n: pairs, or the smaller arm's seeds where not `paired`. mean: arm minus reference,
    below 0 better. half_width: half of its 95 % t interval, unadjusted. p, p_holm: of the t-test, alone and
    adjusted over the frame. p_flip, flip_floor: of the sign-flip test, and the least that it can give. mde: the
    minimum detectable effect, which this test would find with 80 % power at these seeds' spread and the frame's
    strictest level. r: correlation of the pairs. verdict, and remarks: what is to be said of runs that were
    lost, a list. seeds: "5 of 6" planned ones, or "" where none are. p_holm and mde are NaN while incomplete.
    """
    here = records.of(study=study, size=size)
    found = {(row.setting, row.arm): row for row in arms(here).itertuples()} if len(here.runs) else {}
    groups = dict(list(here.runs.groupby(["setting", "arm"])))
    series = {key: losses(groups[key], loss) for key in found}
    measured = {setting for (setting, _), values in series.items() if len(values)}
    rows = [
        (one, found[one.setting, one.reference])
        for one in found.values()
        if one.reference and one.setting in measured
    ]
    rows = [pair for pair in rows if all(len(series[r.setting, r.arm]) or r.diverged for r in pair)]
    table = compare_all([tuple(series[r.setting, r.arm] for r in pair) for pair in rows])
    table.insert(0, "setting", [arm.setting for arm, _ in rows])
    table.insert(1, "reference", [reference.arm for _, reference in rows])
    table["verdict"] = [judge(*pair, *test) for pair, test in zip(rows, zip(table["mean"], table.p_holm))]
    table["remarks"] = [
        [*lost(arm), *(f"reference: {words}" for words in lost(reference))] for arm, reference in rows
    ]
    table["seeds"] = [f"{n} of {len(arm.planned)}" if arm.planned else "" for n, (arm, _) in zip(table.n, rows)]
    table.loc[table.verdict == Verdict.INCOMPLETE, ["p_holm", "mde"]] = math.nan
    return table.set_index(pd.Index([arm.arm for arm, _ in rows], name="arm"))


def judge(arm, reference, mean, p_holm):
    """The Verdict on an arm, of rows of `arms`."""
    if arm.missing or reference.missing:
        return Verdict.INCOMPLETE
    verdict, more = verdict_of(mean, p_holm), arm.diverged - reference.diverged
    if more > 0 and verdict != Verdict.WORSE:
        return Verdict.DIVERGED
    if more < 0 and verdict != Verdict.BETTER:
        return Verdict.REFERENCE_DIVERGED
    return verdict


def verdict_of(mean, p_holm):
    """The Verdict of a difference and its adjusted p alone."""
    if math.isnan(p_holm):
        return Verdict.NONE
    if p_holm > LEVEL:
        return Verdict.NOT_RESOLVED
    return Verdict.BETTER if mean < 0 else Verdict.WORSE


def lost(arm):
    """What is to be said of an arm's runs that diverged or exploded, as a list; of a row of `arms`."""
    parts = {"diverged": arm.diverged, "ended above their start": arm.exploded}
    return [f"{count} of {arm.runs} {words}" for words, count in parts.items() if count]


def compare_all(pairs):
    """A frame of differences, a row a pair of (losses, reference losses), tested as one family.

    Losses are Series by seed. Seeds in common are paired; where fewer than two are common and both have two or
    more, Welch's test takes the paired one's place. Columns as those of `compare` from n to r.
    """
    columns = ["n", "paired", "mean", "half_width", "p", "p_holm", "p_flip", "flip_floor", "mde", "r"]
    table = pd.DataFrame([difference(*pair) for pair in pairs], columns=columns)
    tested = table.index[table.p.notna()]
    table.loc[tested, "p_holm"] = holm(table.p[tested])
    for i in tested:
        table.loc[i, "mde"] = detectable(*pairs[i], table.paired[i], LEVEL / len(tested))
    numbers = [name for name in columns if name not in ("n", "paired")]
    return table.astype({"n": int, "paired": bool, **dict.fromkeys(numbers, float)})


def difference(losses, reference):
    """A dict as a row of `compare_all`, taken alone: without what needs the family."""
    common = losses.index.intersection(reference.index).sort_values()
    if len(common) < 2 and min(len(losses), len(reference)) >= 2:
        return welch(losses.to_numpy(), reference.to_numpy())
    if not len(common):
        return {"n": 0, "paired": False}
    a, b = (values[common].to_numpy(dtype=float) for values in (losses, reference))
    mean, half_width = interval(a - b)
    row = {"n": len(common), "paired": True, "mean": mean, "half_width": half_width}
    if len(common) == 1:
        return row
    p_flip, flip_floor = sign_flip(a - b)
    return {**row, "p": paired_p(a - b), "p_flip": p_flip, "flip_floor": flip_floor, "r": correlation(a, b)}


def interval(values):
    """(mean, half of the 95 % t interval of the mean, ddof 1); the half is NaN for a single value."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))


def band(curve):
    """(iteration x seed) -> a frame with n, mean and half_width of its 95 % t interval at each iteration. The
    difference of two curves is a curve, paired by seed."""
    n = curve.count(axis=1)
    half = half_width(curve.std(axis=1, ddof=1), n)
    return pd.DataFrame({"n": n, "mean": curve.mean(axis=1), "half_width": half})[n > 0]


def half_width(sd, n):
    """Half of the 95 % t interval of a mean of n values of this sd (ddof 1), both Series; NaN for n below 2."""
    return sd / np.sqrt(n) * stats.t.ppf(0.975, (n - 1).where(n > 1))


def correlation(a, b):
    """Pearson's; NaN of two pairs, whose correlation is 1 or -1 whatever they are, and of equal values."""
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 and a.std() > 0 and b.std() > 0 else math.nan


def paired_p(differences):
    """Two-sided p of the one-sample t-test; equal differences are certain, or no difference at all."""
    if np.ptp(differences) == 0:
        return 0.0 if differences[0] else 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def welch(a, b):
    """A row of unpaired losses: Welch's test, and the interval that goes with it."""
    row = {"n": min(len(a), len(b)), "paired": False, "mean": float(np.mean(a) - np.mean(b))}
    if np.ptp(a) == np.ptp(b) == 0:  # certain, or no difference at all, as among pairs
        return {**row, "half_width": 0.0, "p": 0.0 if row["mean"] else 1.0}
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return {**row, "half_width": float(high - low) / 2, "p": float(test.pvalue)}


def fraction_of_effect(control, noise, baseline):
    """(fraction, low, high): how much of the effect of `noise` on a loss a control has, (control - baseline)
    over (noise - baseline), by Fieller's 95 % interval of a ratio of paired means.

    Each a Series by seed. None where fewer than three seeds are common, or the effect is not told from 0 and
    the interval is unbounded.
    """
    table = pd.concat([control, noise, baseline], axis=1, join="inner").sort_index().to_numpy(dtype=float)
    if len(table) < 3:
        return None
    d, e = (table[:, column] - table[:, 2] for column in (0, 1))
    (dd, de), (_, ee) = np.cov(d, e)
    k = stats.t.ppf(0.975, len(table) - 1) ** 2 / len(table)
    a, b, c = e.mean() ** 2 - k * ee, d.mean() * e.mean() - k * de, d.mean() ** 2 - k * dd
    if a <= 0:
        return None
    root = math.sqrt(max(0.0, b**2 - a * c))
    return float(d.mean() / e.mean()), float((b - root) / a), float((b + root) / a)


def fractions(records, study, size, loss):
    """A frame, a row for every arm that is compared with a noise: noise (its name), n, and fraction, low and
    high of that noise's effect on the loss, NaN where they cannot be told.

    Only arms of which, and of whose noise and baseline, every planned seed has finished, below its start.
    """
    here = records.of(study=study, size=size)
    rows = {}
    for control, noise, baseline in controls(here):
        series = [losses(runs_of(here, arm), loss) for arm in (control, noise, baseline)]
        if all(map(len, series)):
            n = len(pd.concat(series, axis=1, join="inner"))
            rows[control.arm] = [noise.arm, n, *(fraction_of_effect(*series) or [math.nan] * 3)]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["noise", "n", "fraction", "low", "high"])
    return table.rename_axis("arm")


def fractions_by_iteration(records, study, size, arm):
    """A frame of fraction, low and high of the effect on the val loss, as `fractions`, at each iteration at
    which all three arms were evaluated but the first; empty where `arm` is none of those of `fractions`."""
    here = records.of(study=study, size=size)
    table = {}
    for three in controls(here):
        if three[0].arm == arm:
            curves = [here.of(setting=a.setting, arm=a.arm).curve("eval", "val_loss") for a in three]
            for at in functools.reduce(pd.Index.intersection, [curve.index for curve in curves]):
                if at:
                    found = fraction_of_effect(*(curve.loc[at].dropna() for curve in curves))
                    table[at] = found or [math.nan] * 3
    columns = ["fraction", "low", "high"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).rename_axis("iter").sort_index()


def controls(records):
    """The (arm, its noise, the baseline), rows of `arms`, of which a fraction of the effect can be told."""
    if not len(records.runs):
        return
    found = {(row.setting, row.arm): row for row in arms(records).itertuples()}
    for arm in found.values():
        noise, baseline = (found.get((arm.setting, name)) for name in (arm.reference, arm.baseline))
        if None in (noise, baseline) or noise is baseline or not noise.noisy or not noise.reference:
            continue
        three = (arm, noise, baseline)
        if not any(a.missing or a.diverged or a.exploded for a in three):
            yield three


def runs_of(records, arm):
    return records.runs[(records.runs.setting == arm.setting) & (records.runs.arm == arm.arm)]


def holm(p_values):
    """Holm's adjusted p-values (1979), in the order given: those of a family under any dependence."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors))
    back = np.empty(len(p_values))
    back[order] = adjusted
    return back.tolist()


def sign_flip(differences):
    """(two-sided p of the sign-flip permutation test of the mean, the least that it could be).

    Every one of the 2^n flips up to n = 16, then 2^16 drawn ones of a fixed seed, the observed one counted.
    """
    n = len(differences)
    if n <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        drawn = np.random.default_rng(0).choice((1.0, -1.0), size=(2**EXACT - 1, n))
        signs = np.concatenate((np.ones((1, n)), drawn))
    sums, observed = np.abs(signs @ differences), abs(np.sum(differences))
    p = np.mean(sums >= observed * (1 - 1e-12))
    return float(p), 2 / len(signs) if n <= EXACT else 1 / len(signs)


def detectable(arm, reference, paired, level):
    """The minimum detectable effect: the difference that a t-test at `level` finds with 80 % power, at the
    spread that was seen."""
    if paired:
        differences = (arm - reference).dropna()
        error, freedom = differences.std(ddof=1) / math.sqrt(len(differences)), len(differences) - 1
    else:
        parts = [values.var(ddof=1) / len(values) for values in (arm, reference)]
        error = math.sqrt(sum(parts))
        shares = [part**2 / (len(values) - 1) for part, values in zip(parts, (arm, reference))]
        freedom = sum(parts) ** 2 / sum(shares) if error else 1
    return float(error * noncentrality(freedom, level))


@functools.lru_cache
def noncentrality(freedom, level):
    """The shift, in standard errors, at which a two-sided t-test of this level has 80 % power."""
    critical = stats.t.ppf(1 - level / 2, freedom)

    def shortfall(shift):
        return 1 - special.nctdtr(freedom, shift, critical) - POWER  # the other tail is negligible

    return optimize.brentq(shortfall, 0.0, critical + 20 * math.sqrt(critical))
