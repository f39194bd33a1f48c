"""Is an arm better than its reference? Intervals, tests and verdicts over seeds. No torch.

    compare(records, "mechanism", "cpu", "best_val_loss")    a row an arm; its comparisons of one loss are one
                                                             family, over which Holm adjusts
    compare_all(pairs)                                       the same of any losses, each a Series by seed
    difference(losses, reference)                            one comparison, taken alone
    controls(records, "mechanism", "cpu")                    {arm: (it, its noise, the baseline)} as Records
    fraction(three, "best_val_loss")                         how much of the noise's effect the arm has
    band(records.curve("eval", "val_loss"))                  mean and interval at each iteration

A verdict follows the paired t-test, Holm-adjusted. Missing numbers are NaN.
"""

import enum
import functools
import math

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from analysis.records import arms, losses

LEVEL, POWER = 0.05, 0.8
SCORES = ("score", "accuracy", "f1", "matthews")  # a column that ends so is better the higher; others: losses
EXACT = 16  # pairs up to which every sign flip is tried; of more, 2^16 flips are drawn


class Verdict(enum.StrEnum):
    """What a comparison says. An arm that lost more runs to divergence than its reference is never better, and
    one that lost fewer never worse; while planned seeds are missing there is no verdict."""

    BETTER = "better"  # a lower loss, or a higher score
    WORSE = "worse"
    NOT_RESOLVED = "not resolved"  # these seeds cannot tell; not that there is no difference
    INCOMPLETE = "incomplete"  # planned seeds are missing
    DIVERGED = "diverged"
    REFERENCE_DIVERGED = "reference diverged"
    NONE = "none"  # one seed tells nothing


def compare(records, study, size, loss):
    """A frame, a row for every arm that has a reference, by name; `loss` as in `records.runs`.

    setting, reference. n: pairs, or the smaller arm's seeds where not `paired`. mean: arm minus reference,
    below 0 better, of a score above it. half_width: half of its 95 % t interval, unadjusted. p, p_holm: of the
    t-test, alone and adjusted over the comparisons that the study plans. p_flip, flip_floor: of the sign-flip
    test, and the least that it can give. mde: the minimum detectable effect, which this test would find with
    80 % power at these seeds' spread and the family's strictest level. r: correlation of the pairs. verdict,
    and remarks: what is to be said of runs that were lost, a list. seeds: "5 of 6" planned ones, or "" where
    none are. p_holm and mde are NaN while incomplete.
    """
    here = records.of(study=study, size=size)
    found = {(row.setting, row.arm): row for row in arms(here).itertuples()}
    series = {key: losses(runs, loss) for key, runs in here.runs.groupby(["setting", "arm"])}
    measured = {setting for (setting, _), values in series.items() if len(values)}
    rows = [arm for arm in found.values() if arm.reference and arm.setting in measured]
    rows = [(arm, found[arm.setting, arm.reference]) for arm in rows]
    rows = [pair for pair in rows if all(len(series[r.setting, r.arm]) or r.diverged for r in pair)]
    unfinished = [bool(arm.missing or reference.missing) for arm, reference in rows]
    pairs = [tuple(series[r.setting, r.arm] for r in pair) for pair in rows]
    table = compare_all(pairs, unfinished, planned(records.studies.get((study, size), {}), found.values()))
    table.insert(0, "setting", [arm.setting for arm, _ in rows])
    table.insert(1, "reference", [reference.arm for _, reference in rows])
    harms = -table["mean"] if is_score(loss) else table["mean"]
    table["verdict"] = [judge(*pair, *test) for pair, test in zip(rows, zip(harms, table.p_holm))]
    table["remarks"] = [
        [*lost(arm), *(f"reference: {words}" for words in lost(reference))] for arm, reference in rows
    ]
    there = [len({*arm.planned} - {*arm.missing, *reference.missing}) for arm, reference in rows]
    table["seeds"] = [f"{n} of {len(arm.planned)}" if arm.planned else "" for n, (arm, _) in zip(there, rows)]
    return table.set_index(pd.Index([arm.arm for arm, _ in rows], name="arm"))


def planned(study, known):
    """How many comparisons a study.json plans: one for each arm but the baseline, and but for those of `known`,
    rows of `arms`, that have no reference."""
    alone = {study.get("baseline"), *(row.arm for row in known if not row.reference)}
    return len(set(study.get("arms", ())) - alone)


def is_score(name):
    """Whether a column is better the higher, not a loss."""
    return name.endswith(SCORES)


def judge(arm, reference, harm, p_holm):
    """The Verdict on an arm, of rows of `arms`. harm: its mean difference, above 0 where it is the worse."""
    if arm.missing or reference.missing:
        return Verdict.INCOMPLETE
    verdict, more = verdict_of(harm, p_holm), arm.diverged - reference.diverged
    if more > 0 and verdict != Verdict.WORSE:
        return Verdict.DIVERGED
    if more < 0 and verdict != Verdict.BETTER:
        return Verdict.REFERENCE_DIVERGED
    return verdict


def verdict_of(harm, p_holm):
    """The Verdict of a difference and its adjusted p alone."""
    if math.isnan(p_holm):
        return Verdict.NONE
    if p_holm > LEVEL:
        return Verdict.NOT_RESOLVED
    return Verdict.BETTER if harm < 0 else Verdict.WORSE


def lost(arm):
    """What is to be said of an arm's runs that diverged or exploded, as a list; of a row of `arms`."""
    parts = {"diverged": arm.diverged, "ended above their start": arm.exploded}
    return [f"{count} of {arm.runs} {words}" for words, count in parts.items() if count]


def compare_all(pairs, unfinished=None, planned=0):
    """A frame of differences, a row a pair of (losses, reference losses), tested as one family.

    unfinished: for each pair whether seeds are still to come. It counts to the family and has no adjusted p.
    planned: the least size of the family, so that no adjusted p grows when pairs that are not here yet come.

    Losses are Series by seed. Seeds in common are paired; where fewer than two are common and both have two or
    more, Welch's test takes the paired one's place. Columns as those of `compare` from n to r.
    """
    columns = ["n", "paired", "mean", "half_width", "p", "p_holm", "p_flip", "flip_floor", "mde", "r"]
    rows = [difference(*pair) for pair in pairs]
    table = pd.DataFrame(rows, columns=columns)
    unfinished = np.array(unfinished or [False] * len(rows), dtype=bool)
    tested = table.index[table.p.notna() & ~unfinished]
    family = max(len(tested) + unfinished.sum(), planned)
    table.loc[tested, "p_holm"] = holm(table.p[tested], family)
    for i in tested:
        table.loc[i, "mde"] = detectable(rows[i]["half_width"], rows[i]["freedom"], LEVEL / family)
    numbers = [name for name in columns if name not in ("n", "paired")]
    return table.astype({"n": int, "paired": bool, **dict.fromkeys(numbers, float)})


def difference(losses, reference):
    """A dict as a row of `compare_all`, without what needs the family, and the t-test's degrees of freedom."""
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
    row |= {"freedom": len(common) - 1, "p": paired_p(a - b), "r": correlation(a, b)}
    return row | dict(zip(("p_flip", "flip_floor"), sign_flip(a - b)))


def equivalence_p(differences, bound):
    """p of two one-sided t-tests that the mean difference lies within -bound and bound: the larger one's. It is
    at most 5 % where the 90 % t interval lies within them."""
    above = stats.ttest_1samp(differences, -bound, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, bound, alternative="less").pvalue
    return float(max(above, below))


def spread_p(a, b):
    """p that two paired columns of numbers have one standard deviation: Pearson's test of the correlation of
    a + b and a - b, which is 0 where they have (Pitman 1939, Morgan 1939)."""
    return float(stats.pearsonr(a + b, a - b).pvalue)


def pooled_spread(pairs):
    """(sd of a, sd of b, p that they are one) over some pairs (a, b) of paired columns. The sds are pooled by
    degrees of freedom; p is of the mean of Fisher's z of spread_p's correlations, weighted by n - 3."""
    freedom = sum(len(a) - 1 for a, _ in pairs)
    sds = [
        math.sqrt(sum(np.var(x, ddof=1) * (len(x) - 1) for x in columns) / freedom) for columns in zip(*pairs)
    ]
    weights = [max(len(a) - 3, 0) for a, _ in pairs]
    found = [math.atanh(correlation(a + b, a - b)) if w else 0.0 for (a, b), w in zip(pairs, weights)]
    return *sds, float(2 * stats.norm.sf(abs(np.dot(weights, found)) / math.sqrt(sum(weights))))


def interval(values):
    """(mean, half of the 95 % t interval of the mean, ddof 1); the half is NaN for a single value."""
    values = pd.Series(values, dtype=float)
    return float(values.mean()), float(half_width(values.std(), len(values)))


def band(curve):
    """(iteration x seed) -> a frame with n, mean and half_width of its 95 % t interval at each iteration. The
    difference of two curves is a curve, paired by seed."""
    n = curve.count(axis=1)
    half = half_width(curve.std(axis=1), n)
    return pd.DataFrame({"n": n, "mean": curve.mean(axis=1), "half_width": half})[n > 0]


def half_width(sd, n):
    """Half of the 95 % t interval of a mean of n values of this sd (ddof 1), numbers or Series; NaN below 2."""
    return sd / np.sqrt(n) * stats.t.ppf(0.975, n - 1)


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
        return {**row, "half_width": 0.0, "freedom": 1, "p": 0.0 if row["mean"] else 1.0}
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return {**row, "half_width": float(high - low) / 2, "freedom": test.df, "p": float(test.pvalue)}


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


def controls(records, study, size):
    """{arm: (its Records, those of its noise, those of the baseline)} of every arm that is compared with a
    noise, where every planned seed of the three has finished, below its start."""
    here = records.of(study=study, size=size)
    found = {(row.setting, row.arm): row for row in arms(here).itertuples()}
    threes = {}
    for arm in found.values():
        three = [arm, *(found.get((arm.setting, name)) for name in (arm.reference, arm.baseline))]
        whole = all(a and not (a.missing or a.diverged or a.exploded) for a in three)
        if whole and three[1].noisy and three[1].reference:
            threes[arm.arm] = [here.of(setting=a.setting, arm=a.arm) for a in three]
    return threes


def fraction(three, loss):
    """fraction_of_effect of three Records."""
    return fraction_of_effect(*(losses(each.runs, loss) for each in three))


def fractions_by_iteration(three):
    """A frame of fraction, low and high of the effect on the val loss at each iteration but the first at which
    they can be told; three: a value of `controls`, or None, which gives none."""
    curves = [each.curve("eval", "val_loss") for each in three or ()]
    rows = {}
    for at in curves[0].index[1:] if curves else ():
        if found := fraction_of_effect(*(curve.reindex([at]).loc[at].dropna() for curve in curves)):
            rows[at] = found
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["fraction", "low", "high"], dtype=float)
    return table.rename_axis("iter")


def holm(p_values, family=None):
    """Holm's adjusted p-values (1979), in the order given: those of a family under any dependence.

    family: how many it has, where some are not known yet.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = np.asarray(p_values, dtype=float)[order] * ((family or len(order)) - np.arange(len(order)))
    return np.maximum.accumulate(adjusted).clip(max=1.0)[np.argsort(order)]


def sign_flip(differences):
    """(two-sided p of the sign-flip permutation test of the mean, the least that it could be)."""
    options = {"permutation_type": "samples", "n_resamples": 2**EXACT, "rng": np.random.default_rng(0)}
    test = stats.permutation_test((differences,), np.mean, **options)
    return float(test.pvalue), 2 / 2 ** min(len(differences), EXACT)


def detectable(half_width, freedom, level):
    """The minimum detectable effect: the difference that a t-test at `level` finds with 80 % power, at the
    spread that gave this 95 % interval."""
    return float(half_width / stats.t.ppf(0.975, freedom) * noncentrality(freedom, level))


@functools.lru_cache
def noncentrality(freedom, level):
    """The shift, in standard errors, at which a two-sided t-test of this level has 80 % power; NaN of two pairs
    in a family of thousands, where SciPy's distribution ends."""
    critical = stats.t.ppf(1 - level / 2, freedom)

    def shortfall(shift):
        return 1 - special.nctdtr(freedom, shift, critical) - POWER  # the other tail is negligible

    most = 1.4 * critical + 5
    return optimize.brentq(shortfall, 0.0, most) if shortfall(most) > 0 else math.nan
