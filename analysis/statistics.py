"""Is an arm better than its reference? Intervals, tests and verdicts over seeds. No torch, no run folders.

One table is one family: the verdict follows the paired t-test, Holm-adjusted over the table's comparisons.
"""

import functools
import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special, stats

LEVEL, POWER = 0.05, 0.8
EXACT = 16  # pairs up to which every sign flip is tried; beyond, 2^16 of them are drawn


@dataclass(frozen=True)
class Comparison:
    """An arm's loss minus its reference's, over seeds.

    n: pairs, or the smaller arm's seeds without pairing. mean, half: of the difference, and half of its 95 %
    t interval (unadjusted). p, p_holm: of the t-test, alone and adjusted. p_flip, floor: of the sign-flip
    test, and the least it can give. resolvable: the smallest difference that this test would resolve with
    80 % power, at these seeds' spread and the table's strictest level. correlation: of the pairs.
    None stands for what cannot be told.
    """

    n: int
    paired: bool
    mean: float | None
    half: float | None = None
    p: float | None = None
    p_holm: float | None = None
    p_flip: float | None = None
    floor: float | None = None
    resolvable: float | None = None
    correlation: float | None = None

    @property
    def verdict(self):
        """ "better" (a lower loss), "worse", "not resolved", or a dash where one seed tells nothing."""
        if self.p_holm is None:
            return "–"
        if self.p_holm > LEVEL:
            return "not resolved"
        return "better" if self.mean < 0 else "worse"


def interval(values):
    """(mean, half of the 95 % t interval of the mean, ddof 1); None for the half of a single value."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return float(values.mean()), None
    return float(values.mean()), float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))


def compare_all(pairs):
    """Comparisons of one table, its verdicts adjusted together.

    pairs: [(losses, reference losses)], each {seed: loss}. Seeds in common are paired; where fewer than two
    are common and both arms have two or more, Welch's test takes the paired one's place.
    """
    found = [compare(arm, reference) for arm, reference in pairs]
    tested = [i for i, one in enumerate(found) if one.p is not None]
    for i, p_holm in zip(tested, holm([found[i].p for i in tested])):
        arm, reference = pairs[i]
        spread = resolvable(arm, reference, found[i].paired, LEVEL / len(tested))
        found[i] = replace(found[i], p_holm=p_holm, resolvable=spread)
    return found


def compare(arm, reference):
    """The Comparison of {seed: loss} with {seed: loss}, taken alone."""
    common = sorted(arm.keys() & reference.keys())
    if len(common) < 2 and min(len(arm), len(reference)) >= 2:
        return welch(list(arm.values()), list(reference.values()))
    if not common:
        return Comparison(n=0, paired=False, mean=None)
    a, b = (np.array([losses[seed] for seed in common], dtype=float) for losses in (arm, reference))
    mean, half = interval(a - b)
    if half is None:
        return Comparison(n=1, paired=True, mean=mean)
    p_flip, floor = sign_flip(a - b)
    return Comparison(
        n=len(common),
        paired=True,
        mean=mean,
        half=half,
        p=paired_p(a - b),
        p_flip=p_flip,
        floor=floor,
        correlation=correlation(a, b),
    )


def correlation(a, b):
    """Pearson's; None of two pairs, whose correlation is 1 or -1 whatever they are, and of equal values."""
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 2 and a.std() > 0 and b.std() > 0 else None


def paired_p(differences):
    """Two-sided p of the one-sample t-test; equal differences are certain, or no difference at all."""
    if np.ptp(differences) == 0:
        return 0.0 if differences[0] else 1.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def welch(a, b):
    """The Comparison of unpaired losses: Welch's test, and the interval that goes with it."""
    n, mean = min(len(a), len(b)), float(np.mean(a) - np.mean(b))
    if np.ptp(a) == np.ptp(b) == 0:  # certain, or no difference at all, as among pairs
        return Comparison(n=n, paired=False, mean=mean, half=0.0, p=0.0 if mean else 1.0)
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return Comparison(n=n, paired=False, mean=mean, half=float(high - low) / 2, p=float(test.pvalue))


def share(control, noise, baseline):
    """(share, low, high): how much of the effect of `noise` on a loss a control has, (control - baseline) over
    (noise - baseline), by Fieller's 95 % interval of a ratio of paired means.

    Each {seed: loss}. None where fewer than three seeds are common, or the effect is not told from 0 and
    the interval is unbounded.
    """
    common = sorted(control.keys() & noise.keys() & baseline.keys())
    if len(common) < 3:
        return None
    base = np.array([baseline[seed] for seed in common])
    d, e = (np.array([losses[seed] for seed in common]) - base for losses in (control, noise))
    (dd, de), (_, ee) = np.cov(d, e)
    k = stats.t.ppf(0.975, len(common) - 1) ** 2 / len(common)
    a, b, c = e.mean() ** 2 - k * ee, d.mean() * e.mean() - k * de, d.mean() ** 2 - k * dd
    if a <= 0:
        return None
    root = math.sqrt(max(0.0, b**2 - a * c))
    return float(d.mean() / e.mean()), float((b - root) / a), float((b + root) / a)


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


def resolvable(arm, reference, paired, level):
    """The difference that a t-test at `level` finds with 80 % power, at the spread that was seen."""
    if paired:
        common = arm.keys() & reference.keys()
        spread = np.std([arm[seed] - reference[seed] for seed in common], ddof=1)
        error, freedom = spread / math.sqrt(len(common)), len(common) - 1
    else:
        parts = [np.var(list(losses.values()), ddof=1) / len(losses) for losses in (arm, reference)]
        error = math.sqrt(sum(parts))
        shares = [part**2 / (len(losses) - 1) for part, losses in zip(parts, (arm, reference))]
        freedom = sum(parts) ** 2 / sum(shares) if error else 1
    return float(error * noncentrality(freedom, level))


@functools.lru_cache
def noncentrality(freedom, level):
    """The shift, in standard errors, at which a two-sided t-test of this level has 80 % power."""
    critical = stats.t.ppf(1 - level / 2, freedom)

    def shortfall(shift):
        return 1 - special.nctdtr(freedom, shift, critical) - POWER  # the other tail is negligible

    return optimize.brentq(shortfall, 0.0, critical + 20 * math.sqrt(critical))
