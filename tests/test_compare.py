"""The statistics against scipy, against published values, and by simulation where there is nothing to find."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import (
    LEVEL,
    compare,
    compare_all,
    holm,
    interval,
    noncentrality,
    resolvable,
    share,
    sign_flip,
)
from config import ROOT


def seeds(values, start=1):
    return dict(enumerate(values, start))


def test_intervals_are_scipys():
    values = [1.46784, 1.46585, 1.46748, 1.46111, 1.46509]
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-12)
    assert interval([3.0]) == (3.0, None), "one seed has no interval, and not a zero one"


def test_the_paired_comparison_is_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.normal(1.0, 0.1, 7), rng.normal(1.1, 0.1, 7)
    found, test = compare(seeds(a), seeds(b)), stats.ttest_rel(a, b)
    low, high = test.confidence_interval(0.95)
    assert (found.n, found.paired) == (7, True)
    assert found.p == pytest.approx(test.pvalue, rel=1e-9)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), rel=1e-9)
    assert found.correlation == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_pairs_are_by_seed_and_not_by_place():
    a, b = {1: 1.0, 2: 2.0, 3: 3.0, 9: 50.0}, {3: 2.5, 2: 1.5, 1: 0.4}
    found = compare(a, b)
    assert found.n == 3
    assert (found.mean, found.half) == pytest.approx(interval([0.6, 0.5, 0.5]))


def test_where_seeds_do_not_match_it_is_welchs():
    rng = np.random.default_rng(2)
    a, b = rng.normal(1.0, 0.1, 5), rng.normal(1.3, 0.3, 8)
    found = compare(seeds(a), seeds(b, start=100))
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval(0.95)
    assert (found.n, found.paired, found.correlation) == (5, False, None)
    assert found.p == pytest.approx(test.pvalue, rel=1e-12)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), rel=1e-9)


def test_holm_is_its_definition():
    """On every order of values with ties: sort, times m, m - 1, ..., running maximum, at most 1."""
    for values in itertools.permutations([0.01, 0.04, 0.03, 0.03, 0.5]):
        adjusted = holm(values)
        ranked = sorted(values)
        for value, found in zip(values, adjusted):
            last = max(i for i, other in enumerate(ranked) if other == value)
            wanted = max(min(1.0, (5 - i) * ranked[i]) for i in range(last + 1))
            assert found == pytest.approx(wanted)
    assert holm([]) == []


def test_sign_flips_are_scipys_permutation_test():
    rng = np.random.default_rng(3)
    for n in (2, 5, 8):
        differences = rng.normal(0.5, 1.0, n)
        p, floor = sign_flip(differences)
        test = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert p == pytest.approx(test.pvalue)
        assert floor == 2 / 2**n
    assert sign_flip(np.full(6, 0.1))[0] == 2 / 2**6, "six seeds cannot pass Holm over six by it"


def test_many_seeds_flip_drawn_signs():
    differences = np.random.default_rng(4).normal(0.3, 1.0, 17)
    p, floor = sign_flip(differences)
    exact = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert p == pytest.approx(exact.pvalue, abs=4 * math.sqrt(0.25 / 2**16))
    assert floor == 1 / 2**16


def test_the_resolvable_difference_is_found_with_80_percent_power():
    """By simulation: tests of differences of that size reject as often as stated."""
    rng, n, sd = np.random.default_rng(5), 8, 0.02
    for level in (0.05, 0.05 / 6):
        shift = sd / math.sqrt(n) * noncentrality(n - 1, level)
        draws = rng.normal(shift, sd, (20_000, n))
        rejected = stats.ttest_1samp(draws, 0, axis=1).pvalue < level
        assert rejected.mean() == pytest.approx(0.8, abs=0.012)


def test_the_resolvable_difference_is_in_proportion_to_the_spread():
    rng = np.random.default_rng(6)
    a, b = rng.normal(0, 1, 8), rng.normal(0, 1, 8)
    one = resolvable(seeds(a), seeds(b), True, 0.05)
    assert one == pytest.approx(np.std(a - b, ddof=1) / math.sqrt(8) * noncentrality(7, 0.05))
    assert resolvable(seeds(3 * a), seeds(3 * b), True, 0.05) == pytest.approx(3 * one)
    unpaired = resolvable(seeds(a), seeds(b, 100), False, 0.05)
    assert unpaired == pytest.approx(math.sqrt(a.var(ddof=1) / 8 + b.var(ddof=1) / 8) * 3.0, rel=0.05)


def test_verdicts_follow_the_adjusted_test():
    rng = np.random.default_rng(7)
    base = rng.normal(2.0, 0.05, 8)
    spread = rng.normal(0.0, 0.01, (3, 8))
    arms = [base - 0.1 + spread[0], base + 0.1 + spread[1], base + spread[2]]
    found = compare_all([(seeds(arm), seeds(base)) for arm in arms])
    assert [one.verdict for one in found] == ["better", "worse", "not resolved"]
    (alone,) = compare_all([(seeds(arms[0]), seeds(base))])
    assert found[0].p_holm == pytest.approx(3 * alone.p)
    assert found[0].resolvable > alone.resolvable


def test_one_seed_gives_a_dash_and_counts_for_no_family():
    several = {1: 1.0, 2: 1.1, 3: 1.05}
    one, other = compare_all([({1: 1.0}, {1: 2.0}), (several, {1: 1.5, 2: 1.61, 3: 1.56})])
    assert (one.n, one.mean, one.half, one.p, one.p_holm, one.verdict) == (1, -1.0, None, None, None, "–")
    assert other.p_holm == other.p
    (nothing,) = compare_all([({1: 1.0}, {2: 2.0})])
    assert (nothing.n, nothing.mean, nothing.verdict) == (0, None, "–")


def test_two_arms_that_are_the_same_bits_are_not_resolved():
    losses = {1: 1.0, 2: 1.1, 3: 1.05}
    (same,) = compare_all([(losses, dict(losses))])
    assert (same.mean, same.half, same.p, same.verdict) == (0.0, 0.0, 1.0, "not resolved")


TABLES, ARMS, SEEDS = 2500, 6, 8


def told(words):
    """Print what a simulation gave, which is what the README says of it."""
    print(words)
    assert f"- {words}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def nothing_to_find():
    """Tables of arms that differ from their baseline by chance alone: all are compared with one baseline,
    and a seed moves all of its runs together."""
    rng, tables = np.random.default_rng(8), []
    for _ in range(TABLES):
        by_seed = rng.normal(1.5, 0.003, SEEDS)
        losses = by_seed + rng.normal(0, 0.003, (ARMS + 1, SEEDS))
        tables.append(compare_all([(seeds(arm), seeds(losses[0])) for arm in losses[1:]]))
    return tables


def test_with_no_effect_the_familywise_rate_is_at_most_5_percent(nothing_to_find):
    wrong = sum(any(one.verdict in ("better", "worse") for one in table) for table in nothing_to_find)
    told(f"{wrong / TABLES:.1%} of {TABLES:,} tables of {ARMS} arms without effect have a verdict")
    assert wrong / TABLES <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / TABLES)
    assert wrong / TABLES > 0.01, "a procedure that never resolves anything is no procedure"


def test_unadjusted_verdicts_would_not_pass(nothing_to_find):
    """What the test above guards against: the same tables without Holm."""
    wrong = sum(any(one.p <= LEVEL for one in table) for table in nothing_to_find)
    assert wrong / TABLES > 2 * LEVEL


def test_intervals_cover_at_their_nominal_rate(nothing_to_find):
    one_each = [table[0] for table in nothing_to_find]
    covered = np.mean([abs(one.mean) <= one.half for one in one_each])
    told(f"{covered:.1%} of {TABLES:,} paired intervals cover what is true")
    assert covered == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / TABLES))


def test_some_effects_do_not_raise_the_rate_of_wrong_verdicts_on_the_rest():
    rng, wrong = np.random.default_rng(9), 0
    for _ in range(TABLES):
        losses = rng.normal(1.5, 0.003, SEEDS) + rng.normal(0, 0.003, (ARMS + 1, SEEDS))
        losses[1:4] += 0.1  # truly worse, as Holm's procedure finds; then the level rises for those left
        table = compare_all([(seeds(arm), seeds(losses[0])) for arm in losses[1:]])
        assert {one.verdict for one in table[:3]} == {"worse"}
        wrong += any(one.verdict in ("better", "worse") for one in table[3:])
    told(f"{wrong / TABLES:.1%} of {TABLES:,} tables, half of whose arms are worse, have a verdict on another")
    assert 0.01 < wrong / TABLES <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / TABLES)


def test_welchs_intervals_cover_too():
    rng, covered = np.random.default_rng(10), 0
    for _ in range(TABLES):
        one = compare(seeds(rng.normal(1.5, 0.003, 6)), seeds(rng.normal(1.5, 0.009, 4), 100))
        assert not one.paired
        covered += abs(one.mean) <= one.half
    told(f"{covered / TABLES:.1%} of {TABLES:,} unpaired intervals cover what is true")
    assert covered / TABLES == pytest.approx(0.95, abs=0.02), "approximate, by its degrees of freedom"


def test_unpaired_arms_without_any_spread_are_certain():
    for shift, p in ((0.0, 1.0), (0.5, 0.0)):
        one = compare({1: 1.0 + shift, 2: 1.0 + shift}, {3: 1.0, 4: 1.0})
        assert (one.mean, one.half, one.p, one.paired) == (shift, 0.0, p, False)


def test_a_share_is_fiellers_interval_of_a_ratio_of_paired_means():
    """Its bounds are the shares at which a t-test of control - share * effect is just significant at 5 %."""
    rng = np.random.default_rng(3)
    base = dict(enumerate(rng.normal(2, 0.1, 8)))
    noise = {seed: loss + rng.normal(0.3, 0.05) for seed, loss in base.items()}
    control = {seed: loss + rng.normal(0.2, 0.05) for seed, loss in base.items()}
    middle, low, high = share(control, noise, base)
    d, e = (np.array([losses[s] - base[s] for s in base]) for losses in (control, noise))
    assert low < middle < high
    assert middle == pytest.approx(d.mean() / e.mean())
    for bound in (low, high):
        assert stats.ttest_1samp(d - bound * e, 0).pvalue == pytest.approx(0.05)
    assert share(noise, noise, base) == pytest.approx((1, 1, 1))
    assert share(control, {s: loss + rng.normal(0, 1) for s, loss in base.items()}, base) is None
    assert share({1: 1.0, 2: 2.0}, noise, base) is None
