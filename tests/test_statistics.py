"""The statistics against scipy, against published values, and by simulation where there is nothing to find."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from made_up import diverge, edit, fake_run, make_study
from scipy import stats

from analysis import statistics as st
from analysis.records import read
from analysis.statistics import LEVEL, Verdict, compare, difference, interval

NAN = pytest.approx(math.nan, nan_ok=True)


def seeds(values, start=1):
    return pd.Series(values, range(start, start + len(values)), dtype=float)


# One comparison.


def test_intervals_are_scipys():
    values = [1.46784, 1.46585, 1.46748, 1.46111, 1.46509]
    wanted = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    mean, half = interval(values)
    assert (mean - half, mean + half) == pytest.approx(wanted, rel=1e-12)
    assert interval([3.0]) == (3.0, NAN), "one seed has no interval, and not a zero one"


def test_two_one_sided_tests_are_the_90_percent_interval_within_the_bound():
    differences = np.random.default_rng(1).normal(0.001, 0.004, 12)
    low, high = stats.t.interval(0.9, 11, loc=differences.mean(), scale=stats.sem(differences))
    edge = max(-low, high)
    assert st.equivalence_p(differences, edge) == pytest.approx(0.05)
    assert st.equivalence_p(-differences, edge) == pytest.approx(0.05), "neither side is favoured"
    assert st.equivalence_p(differences, 1.1 * edge) < 0.05 < st.equivalence_p(differences, 0.9 * edge)


def test_the_test_of_two_spreads_is_the_t_test_of_their_formula():
    """Of paired columns with the ratio of variances F and the correlation r: t = (F - 1) sqrt(n - 2) /
    (2 sqrt(F (1 - r^2))) (Snedecor and Cochran, Statistical Methods, on correlated variances)."""
    a, b = np.random.default_rng(2).normal(size=(2, 9)) * [[1.0], [2.5]]
    b += 0.5 * a
    ratio, r = a.var() / b.var(), np.corrcoef(a, b)[0, 1]
    t = (ratio - 1) * math.sqrt(7) / (2 * math.sqrt(ratio * (1 - r**2)))
    assert st.spread_p(a, b) == pytest.approx(2 * stats.t.sf(abs(t), 7))
    assert st.spread_p(a, 9 * b) < 0.01 < st.spread_p(a, b)


def test_spreads_are_pooled_over_studies():
    """Of one pair of columns nearly Pitman and Morgan's test; where all spreads are one, 5 % are below 0.05."""
    rng = np.random.default_rng(3)
    pairs = [(rng.normal(size=n), rng.normal(size=n)) for n in (9, 5, 2)]
    a, b, p = st.pooled_spread([(2 * a, b) for a, b in pairs])
    for found, columns, factor in ((a, 0, 2), (b, 1, 1)):
        squares = sum(((pair[columns] - pair[columns].mean()) ** 2).sum() for pair in pairs)
        assert found == pytest.approx(factor * math.sqrt(squares / (8 + 4 + 1)))
    assert p < st.pooled_spread(pairs)[2]
    long = rng.normal(size=(2, 200)) * [[1.0], [1.1]]
    assert st.pooled_spread([tuple(long)])[2] == pytest.approx(st.spread_p(*long), rel=0.05)
    shifts = rng.normal(size=(1000, 5, 1, 6))
    drawn = shifts + rng.normal(size=(1000, 5, 2, 6))
    low = np.mean([st.pooled_spread([tuple(pair) for pair in pairs])[2] < 0.05 for pairs in drawn])
    assert 0.035 < low < 0.065


def test_a_band_is_the_interval_at_each_iteration_over_the_seeds_that_have_it():
    curve = pd.DataFrame({1: [3.0, 2.0, np.nan], 2: [3.5, 2.1, 1.0], 3: [3.1, np.nan, np.nan]}, [0, 10, 20])
    found = st.band(curve)
    assert found.n.tolist() == [3, 2, 1]
    for at in (0, 10, 20):
        assert tuple(found.loc[at, ["mean", "half_width"]]) == pytest.approx(
            interval(curve.loc[at].dropna()), nan_ok=True
        )


def test_the_paired_comparison_is_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.normal(1.0, 0.1, 7), rng.normal(1.1, 0.1, 7)
    found = difference(seeds(a), seeds(b))
    assert (found["n"], found["paired"]) == (7, True)
    same_as(found, stats.ttest_rel(a, b))
    assert found["r"] == pytest.approx(np.corrcoef(a, b)[0, 1])


def same_as(found, test):
    """A comparison is scipy's, in p and in the ends of the interval."""
    ends = found["mean"] - found["half_width"], found["mean"] + found["half_width"]
    assert (found["p"], *ends) == pytest.approx((test.pvalue, *test.confidence_interval(0.95)), rel=1e-9)


def test_pairs_are_by_seed_and_not_by_place():
    a, b = pd.Series({1: 1.0, 2: 2.0, 3: 3.0, 9: 50.0}), pd.Series({3: 2.5, 2: 1.5, 1: 0.4})
    found = difference(a, b)
    assert found["n"] == 3
    assert (found["mean"], found["half_width"]) == pytest.approx(interval([0.6, 0.5, 0.5]))


def test_where_seeds_do_not_match_it_is_welchs():
    rng = np.random.default_rng(2)
    a, b = rng.normal(1.0, 0.1, 5), rng.normal(1.3, 0.3, 8)
    found = difference(seeds(a), seeds(b, start=100))
    assert (found["n"], found["paired"]) == (5, False)
    same_as(found, stats.ttest_ind(a, b, equal_var=False))
    for shift, p in ((0.0, 1.0), (0.5, 0.0)):
        found = difference(seeds([1.0 + shift] * 2), seeds([1.0] * 2, 3))  # without any spread it is certain
        assert (found["mean"], found["half_width"], found["p"]) == (shift, 0.0, p)


def test_sign_flips_are_counted_and_of_many_seeds_drawn():
    rng = np.random.default_rng(3)
    for n in (2, 5, 8):
        differences = rng.normal(0.5, 1.0, n)
        sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=n)]
        p, floor = st.sign_flip(differences)
        assert p == pytest.approx(np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12))
        assert floor == 2 / 2**n
    assert st.sign_flip(np.full(6, 0.1))[0] == 2 / 2**6, "six seeds cannot pass Holm over six by it"
    assert st.sign_flip(np.full(17, 0.1)) == (pytest.approx(0, abs=1e-4), 2 / 2**16)


# Families.


def test_holm_is_its_definition():
    """On every order of values with ties: sort, times m, m - 1, ..., running maximum, at most 1."""
    for values in itertools.permutations([0.01, 0.04, 0.03, 0.03, 0.5]):
        adjusted = st.holm(values)
        ranked = sorted(values)
        for value, found in zip(values, adjusted):
            last = max(i for i, other in enumerate(ranked) if other == value)
            wanted = max(min(1.0, (5 - i) * ranked[i]) for i in range(last + 1))
            assert found == pytest.approx(wanted)
    assert not len(st.holm([]))


def test_what_is_unfinished_counts_to_the_family():
    for others in itertools.product([0.001, 0.02, 0.9], repeat=2):
        assert (st.holm([0.01, 0.03], 4) >= st.holm([0.01, 0.03, *others])[:2]).all()
    assert st.holm([0.01, 0.03], 4).tolist() == pytest.approx([0.04, 0.09])
    base, near, far = (
        seeds(np.array([1.0, 1.1, 1.2]) + shift) for shift in (0, [0.01, 0.02, 0.02], [0.1, 0.11, 0.12])
    )
    table = st.compare_all([(near, base), (far, base), (far[:1], base)], [False, True, True])
    assert table.p_holm[0] == pytest.approx(3 * table.p[0])
    assert table.p_holm[1:].isna().all()
    assert table.mde[1:].isna().all()
    alone = st.compare_all([(near, base)])
    assert table.mde[0] > alone.mde[0]


def test_the_detectable_effect_is_found_with_80_percent_power():
    """By simulation: tests of differences of that size reject as often as stated."""
    rng, n, sd = np.random.default_rng(5), 8, 0.02
    assert st.noncentrality(1, 0.05 / 1000) == pytest.approx(1.28 * stats.t.ppf(1 - 0.025 / 1000, 1), rel=0.01)
    assert math.isnan(st.noncentrality(1, 0.05 / 10_000))
    for level in (0.05, 0.05 / 6):
        shift = sd / math.sqrt(n) * st.noncentrality(n - 1, level)
        draws = rng.normal(shift, sd, (20_000, n))
        rejected = stats.ttest_1samp(draws, 0, axis=1).pvalue < level
        assert rejected.mean() == pytest.approx(0.8, abs=0.012)


def test_the_detectable_effect_is_in_proportion_to_the_spread():
    rng = np.random.default_rng(6)
    a, b = rng.normal(0, 1, 8), rng.normal(0, 1, 8)
    paired, unpaired, wide = (
        st.compare_all([(seeds(scale * a), seeds(scale * b, start))]).mde[0]
        for scale, start in ((1, 1), (1, 100), (3, 1))
    )
    assert paired == pytest.approx(np.std(a - b, ddof=1) / math.sqrt(8) * st.noncentrality(7, 0.05))
    assert wide == pytest.approx(3 * paired)
    assert unpaired == pytest.approx(math.sqrt(a.var(ddof=1) / 8 + b.var(ddof=1) / 8) * 3.0, rel=0.05)


def verdicts(table):
    return [st.verdict_of(*pair) for pair in zip(table["mean"], table.p_holm)]


def test_verdicts_follow_the_adjusted_test():
    rng = np.random.default_rng(7)
    base = rng.normal(2.0, 0.05, 8)
    spread = rng.normal(0.0, 0.01, (3, 8))
    arms = [base - 0.1 + spread[0], base + 0.1 + spread[1], base + spread[2]]
    found = st.compare_all([(seeds(arm), seeds(base)) for arm in arms])
    assert verdicts(found) == [Verdict.BETTER, Verdict.WORSE, Verdict.NOT_RESOLVED]
    alone = st.compare_all([(seeds(arms[0]), seeds(base))])
    assert found.p_holm[0] == pytest.approx(3 * alone.p[0])
    assert found.mde[0] > alone.mde[0]


def test_one_seed_has_no_verdict_and_counts_for_no_family():
    several = seeds([1.0, 1.1, 1.05])
    table = st.compare_all([(seeds([1.0]), seeds([2.0])), (several, seeds([1.5, 1.61, 1.56]))])
    assert (table.n[0], table["mean"][0]) == (1, -1.0)
    assert table.loc[0, ["half_width", "p", "p_holm", "mde"]].isna().all()
    assert table.p_holm[1] == table.p[1]
    assert verdicts(table)[0] == Verdict.NONE
    nothing = st.compare_all([(seeds([1.0]), seeds([1.0], 2))])
    assert (nothing.n[0], nothing["mean"][0], verdicts(nothing)) == (0, NAN, [Verdict.NONE])


def test_two_arms_that_are_the_same_bits_are_not_resolved():
    losses = seeds([1.0, 1.1, 1.05])
    table = st.compare_all([(losses, losses.copy())])
    assert table.loc[0, ["mean", "half_width", "p"]].tolist() == [0.0, 0.0, 1.0]
    assert verdicts(table) == [Verdict.NOT_RESOLVED]


# By simulation: what the procedure does where what is true is known.

TABLES, ARMS, SEEDS = 2500, 6, 8


def simulated(seed, shifted=0):
    """(differences, p-values, verdicts) of many families of arms against one baseline; a seed moves all of its
    runs together, and the first arms are truly worse by 0.1."""
    rng = np.random.default_rng(seed)
    runs = rng.normal(1.5, 0.003, (TABLES, 1, SEEDS)) + rng.normal(0, 0.003, (TABLES, ARMS + 1, SEEDS))
    runs[:, 1 : shifted + 1] += 0.1
    differences = runs[:, 1:] - runs[:, :1]
    p = stats.ttest_1samp(differences, 0, axis=2).pvalue
    means = differences.mean(axis=2)
    found = [[st.verdict_of(*pair) for pair in zip(*row)] for row in zip(means, map(st.holm, p))]
    for losses, said in list(zip(runs, found))[:5]:  # the simulation does what compare_all does
        assert verdicts(st.compare_all([(seeds(arm), seeds(losses[0])) for arm in losses[1:]])) == said
    return differences, p, np.isin(found, [Verdict.BETTER, Verdict.WORSE])


@pytest.fixture(scope="module")
def nothing_to_find():
    return simulated(8)


def test_with_no_effect_the_familywise_rate_is_at_most_5_percent(nothing_to_find):
    wrong = nothing_to_find[2].any(axis=1).mean()
    assert wrong <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / TABLES)
    assert wrong > 0.01, "a procedure that never resolves anything is no procedure"
    unadjusted = (nothing_to_find[1] <= LEVEL).any(axis=1).mean()
    assert unadjusted > 2 * LEVEL, "what the adjustment is for"


def test_intervals_cover_at_their_nominal_rate(nothing_to_find):
    found = st.band(pd.DataFrame(nothing_to_find[0][:, 0]))
    covered = (found["mean"].abs() <= found.half_width).mean()
    assert covered == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / TABLES))


def test_some_effects_do_not_raise_the_rate_of_wrong_verdicts_on_the_rest():
    resolved = simulated(9, shifted=3)[2]
    assert resolved[:, :3].all()
    wrong = resolved[:, 3:].any(axis=1).mean()
    assert 0.01 < wrong <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / TABLES)


def test_welchs_intervals_cover_too():
    rng, covered, rounds = np.random.default_rng(10), 0, 600
    for _ in range(rounds):
        one = difference(seeds(rng.normal(1.5, 0.003, 6)), seeds(rng.normal(1.5, 0.009, 4), 100))
        covered += abs(one["mean"]) <= one["half_width"]
    assert covered / rounds == pytest.approx(0.95, abs=0.03), "approximate, by its degrees of freedom"


# Comparisons of a study.


def test_an_arm_is_compared_with_its_own_reference(tmp_path):
    arms = {"wide_noise": {"weight_decay": 0.3, "noise_sigma": 0.1}, "wide": {"weight_decay": 0.3}, "zero": {}}
    make_study(tmp_path, arms, baseline="zero", versus={"wide_noise": "wide"})
    table = compare(read([tmp_path]), "tiny", "cpu", "best_val_loss")
    assert table.reference.to_dict() == {"wide_noise": "wide", "wide": "zero"}
    assert table.verdict["wide_noise"] == Verdict.WORSE
    assert table["mean"]["wide_noise"] == pytest.approx(0.1 * (1 + 0.3 * 2)), "as the losses were made up"


def test_a_study_is_a_family_whatever_is_read_with_it(tmp_path):
    arms = {"baseline": {}, "noise": {"noise_sigma": 0.001}, "more": {"noise_sigma": 0.002}}
    for name in ("one", "two"):
        make_study(tmp_path / name, arms, name=name)
    alone = compare(read([tmp_path / "one"]), "one", "cpu", "best_val_loss")
    both = compare(read([tmp_path]), "one", "cpu", "best_val_loss")
    pd.testing.assert_frame_equal(alone, both)
    assert alone.p_holm.min() == pytest.approx(2 * alone.p.min())


def test_a_verdict_is_as_strict_before_the_other_arms_of_a_study_have_begun(tmp_path):
    arms = {"baseline": {}, "noise": {"noise_sigma": 0.001}}
    planned = [*arms, "wide", "wide_noise", "later"]
    make_study(tmp_path, arms, versus={"wide_noise": "wide"})
    edit(tmp_path / "study.json", arms=planned)
    row = compare(read([tmp_path]), "tiny", "cpu", "best_val_loss").loc["noise"]
    assert row.p_holm == pytest.approx(4 * row.p)
    for arm, options in {
        "wide": {"weight_decay": 0.3},
        "wide_noise": {"weight_decay": 0.3, "noise_sigma": 0.1},
    }.items():
        fake_run(tmp_path / arm / "seed1", **options)
    after = compare(read([tmp_path]), "tiny", "cpu", "best_val_loss").loc["noise"]
    assert after.p_holm == row.p_holm


def test_no_survivors_are_better(tmp_path):
    folder = make_study(tmp_path, {"baseline": {}, "noise": {"noise_sigma": 0.1}, "low": {"weight_decay": 0.2}})
    diverge(folder / "noise", noise_sigma=0.1)
    diverge(folder / "low", [1], weight_decay=0.2)
    table = compare(read([folder]), "tiny", "cpu", "best_val_loss")
    assert (table.n["noise"], table["mean"]["noise"]) == (0, NAN)
    assert table.verdict.to_dict() == {"noise": Verdict.DIVERGED, "low": Verdict.DIVERGED}
    assert table.remarks["low"] == ["1 of 3 diverged"]


def test_a_reference_that_lost_runs_gives_no_arm_a_worse(tmp_path):
    arms = {"baseline": {}, "rate": {"learning_rate": 0.01}}
    arms["rate_noise"] = {"learning_rate": 0.01, "noise_sigma": 0.1}
    folder = make_study(tmp_path, arms, versus={"rate_noise": "rate"}, seeds=(1, 2, 3, 4))

    def told():
        table = compare(read([folder]), "tiny", "cpu", "best_val_loss")
        return table.verdict["rate_noise"], table.remarks["rate_noise"]

    assert told() == (Verdict.WORSE, [])
    for lost in (1, 4):
        diverge(folder / "rate", range(1, lost + 1), learning_rate=0.01)
        assert told() == (Verdict.REFERENCE_DIVERGED, [f"reference: {lost} of 4 diverged"])


def test_what_is_better_is_so_beside_a_reference_that_lost_runs_too(tmp_path):
    make_study(tmp_path, {"baseline": {"noise_sigma": 0.1}, "calm": {}}, seeds=(1, 2, 3, 4))
    diverge(tmp_path / "baseline", [4], noise_sigma=0.1)
    row = compare(read([tmp_path]), "tiny", "cpu", "best_val_loss").loc["calm"]
    assert (row.n, row.verdict, row.remarks) == (3, Verdict.BETTER, ["reference: 1 of 4 diverged"])


def test_there_is_no_verdict_before_the_planned_seeds_are_there(tmp_path):
    arms = {"baseline": {}, "noise": {"noise_sigma": 0.1}}
    for planned, verdict in (([1, 2, 3], Verdict.WORSE), ([1, 2, 3, 4], Verdict.INCOMPLETE)):
        make_study(tmp_path, arms, planned=planned)
        row = compare(read([tmp_path]), "tiny", "cpu", "best_val_loss").loc["noise"]
        assert (row.verdict, row.seeds) == (verdict, f"3 of {len(planned)}")
        assert not math.isnan(row.p)
        assert math.isnan(row.p_holm) == math.isnan(row.mde) == (verdict == Verdict.INCOMPLETE)


# Fractions of an effect.


def test_a_fraction_is_fiellers_interval_of_a_ratio_of_paired_means():
    """Its bounds are where a t-test of control - fraction * effect is just significant at 5 %."""
    rng = np.random.default_rng(3)
    base = seeds(rng.normal(2, 0.1, 8))
    noise, control = (base + rng.normal(shift, 0.05, 8) for shift in (0.3, 0.2))
    middle, low, high = st.fraction_of_effect(control, noise, base)
    d, e = control - base, noise - base
    assert low < middle < high
    assert middle == pytest.approx(d.mean() / e.mean())
    for bound in (low, high):
        assert stats.ttest_1samp(d - bound * e, 0).pvalue == pytest.approx(0.05)
    assert st.fraction_of_effect(noise, noise, base) == pytest.approx((1, 1, 1))
    assert st.fraction_of_effect(control, base + rng.normal(0, 1, 8), base) is None
    assert st.fraction_of_effect(control[:2], noise, base) is None


def test_only_a_noises_controls_that_all_ended_have_a_fraction(tmp_path):
    arms = {
        "baseline": {},
        "noise": {"noise_sigma": 0.1},
        "half": {"noise_sigma": 0.05},
        "rate": {"dropout": 0.3},
    }
    make_study(tmp_path, arms, versus={"half": "noise", "rate": "half"}, seeds=(1, 2, 3))
    controls = st.controls(read([tmp_path]), "tiny", "cpu")
    assert {arm: three[1].runs.arm.iat[0] for arm, three in controls.items()} == {
        "half": "noise",
        "rate": "half",
    }
    assert st.fraction(controls["half"], "best_val_loss") == pytest.approx([0.5] * 3)
    assert st.fraction(controls["rate"], "best_val_loss")[0] == pytest.approx(0, abs=1e-9)
    by_time = st.fractions_by_iteration(controls["half"])
    assert by_time.index.tolist() == [250, 500, 750, 1000]
    assert by_time.fraction.tolist() == pytest.approx([0.5] * 4)
    assert st.fractions_by_iteration(None).empty
    diverge(tmp_path / "half", [2], noise_sigma=0.05)
    assert not st.controls(read([tmp_path]), "tiny", "cpu")


def test_seeds_are_counted_of_those_that_were_planned(tmp_path):
    make_study(tmp_path, {"baseline": {}, "noise": {"noise_sigma": 0.1}}, seeds=(1, 11, 12), planned=(1, 2, 3))
    row = compare(read([tmp_path]), "tiny", "cpu", "best_val_loss").loc["noise"]
    assert (row.n, row.seeds) == (3, "1 of 3")
