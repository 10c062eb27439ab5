"""Tests and intervals of differences: published examples, exact enumeration, scipy, and simulated studies."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from raybc.compare.pairs import mcnemar, mean_test, newcombe_interval, tango_interval, two_sided, unpaired_test
from raybc.compare.planning import only_one, plan, power_of, starts_for
from raybc.compare.sequential import (
    anytime_interval,
    bets_for,
    boundary,
    differences,
    first_above,
    first_crossings,
    largest,
    log_threshold,
    open_p_value,
    walk_p_value,
)
from raybc.compare.several import another_training, holm, improvement, not_beaten
from raybc.rollout.race import log_e_values


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((6, 7, 2, 7), (0.0582, 0.8062)),
        ((5, 56, 0, 29), (-0.0381, 0.1926)),
        ((0, 10, 0, 20), (-0.1611, 0.2775)),
        ((0, 10, 0, 10), (-0.2775, 0.2775)),
        ((10, 10, 0, 20), (0.6791, 1.0)),
        ((10, 10, 0, 10), (0.6075, 1.0)),
    ],
)
def test_newcombe_as_published(table: tuple[int, int, int, int], expected: tuple[float, float]) -> None:
    """Newcombe 1998, table II, method 10."""
    assert newcombe_interval(*table) == pytest.approx(expected, abs=6e-5)


def test_tango_as_published() -> None:
    """Airway hyper-responsiveness before and after stem cell transplantation (Bentur et al. 2009), as in Fagerland,
    Lydersen and Laake 2014: -0.517 to -0.026."""
    assert tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(0, 0, 10), (3, 1, 20), (7, 0, 7), (0, 4, 9), (40, 20, 160)])
def test_tango_is_where_the_likelihood_says(only_a: int, only_b: int, n: int) -> None:
    """At both ends the score test, whose nuisance parameter is found by brute-force maximisation, is exactly z."""
    z = stats.norm.ppf(0.975)
    for d in tango_interval(only_a, only_b, n):
        if abs(d) >= 1:
            continue

        def minus_log_likelihood(q: float, d: float = d) -> float:
            p = q + d  # only A; q: only B
            same = 1 - p - q
            cells = ((only_a, p), (only_b, q), (n - only_a - only_b, same))
            return -sum(count * math.log(max(chance, 1e-300)) for count, chance in cells if count)

        lowest, highest = max(0.0, -d), (1 - d) / 2
        grid = np.linspace(lowest, highest, 2001)
        q = grid[int(np.argmin([minus_log_likelihood(x) for x in grid]))]
        width = (highest - lowest) / 2000
        bounds = (max(lowest, q - width), min(highest, q + width))
        q = optimize.minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        t = (only_a - only_b - n * d) / math.sqrt(n * (2 * q + d * (1 - d)))
        assert abs(t) == pytest.approx(z, rel=2e-4)


def test_tango_without_a_difference_has_a_width() -> None:
    z = stats.norm.ppf(0.975)
    assert tango_interval(0, 0, 50) == pytest.approx((-z * z / (50 + z * z), z * z / (50 + z * z)), abs=1e-9)
    assert tango_interval(0, 0, 0) == (-1, 1)


@pytest.mark.parametrize("rates", [(0.2, 0.2), (0.3, 0.1), (0.05, 0.02)])
def test_tango_covers(rates: tuple[float, float]) -> None:
    """Exact coverage over all tables of 30 starts."""
    n, (p, q) = 30, rates
    covered = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            chance = stats.multinomial.pmf([a, b, n - a - b], n, [p, q, 1 - p - q])
            if chance > 1e-9:
                low, high = tango_interval(a, b, n)
                covered += chance * (low <= p - q <= high)
    assert 0.93 <= covered <= 0.99


def test_mcnemar_is_the_binomial_test() -> None:
    for a, b in itertools.product(range(6), range(6)):
        p = mcnemar(a, b)
        if a + b:
            assert p[0] == pytest.approx(stats.binomtest(a, a + b, alternative="greater").pvalue)
            assert two_sided(p) == pytest.approx(stats.binomtest(a, a + b).pvalue)
        else:
            assert p == (1, 1)


def test_unpaired_test_keeps_its_level() -> None:
    """All tables of 7 and 12 starts, equal rates: a two-sided false positive has probability at most .05."""
    rejected = np.array([[two_sided(unpaired_test(a, 7, b, 12)) <= 0.05 for b in range(13)] for a in range(8)])
    assert rejected.any()
    for p in np.linspace(0.02, 0.98, 49):
        chance = np.outer(stats.binom.pmf(range(8), 7, p), stats.binom.pmf(range(13), 12, p))
        assert chance[rejected].sum() <= 0.05 + 1e-9
    assert unpaired_test(0, 7, 0, 12) == (1, 1)


def test_means_are_compared_like_scipy_does() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, 30), rng.normal(0, 1, 20)
    p, interval = mean_test(a, b, paired=False)
    assert two_sided(p) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert interval is not None
    assert interval[0] < a.mean() - b.mean() < interval[1]
    assert mean_test(a, a - 1, paired=True) == ((1.0, 1.0), None), "a difference that never varies"


# --- looking after every start ----------------------------------------------------------------------------------------


def test_crossings_are_those_of_all_paths() -> None:
    """The sum over paths against every sequence of ten tosses, at a fair coin and an unfair one."""
    bets, tosses = bets_for(10), 10
    log_e = math.log(4)
    paths = np.array(list(itertools.product([1.0, -1.0], repeat=tosses)))
    logs = log_e_values(paths, bets)
    hit = logs >= log_e - 1e-12
    first = np.where(hit.any(axis=1), hit.argmax(axis=1), -1)
    for chance in (0.5, 0.7):
        weight = np.prod(np.where(paths > 0, chance, 1 - chance), axis=1)
        expected = [weight[first == m].sum() for m in range(tosses)]
        assert first_crossings(log_e, tosses, bets, chance) == pytest.approx(expected)
    assert walk_p_value(log_e, tosses, bets) == pytest.approx(first_crossings(log_e, tosses, bets, 0.5).sum())


def test_p_values_of_walks() -> None:
    bets = bets_for(100)
    assert bets == (0.25, 0.5)
    assert walk_p_value(0.0, 100, bets) == 1
    assert walk_p_value(math.log(20), 100, bets) < open_p_value(math.log(20)) == pytest.approx(0.05)
    assert walk_p_value(math.log(20), 10_000, bets) == pytest.approx(0.05), "too many starts for a sum over paths"
    threshold = log_threshold(0.025, 100, bets)
    assert walk_p_value(threshold, 100, bets) <= 0.025
    assert math.exp(threshold) == pytest.approx(26.15, abs=0.02)
    assert math.exp(log_threshold(0.025, None, bets)) == pytest.approx(40)
    assert all(0 < bet < 0.95 for starts in (1, 2, 5, 30, 1000, 10**6) for bet in bets_for(starts))


def test_errors_help_nobody() -> None:
    a, b = np.array([1.0, np.nan, 1.0, np.nan]), np.array([0.0, 1.0, np.nan, np.nan])
    for_a, for_b = differences(a, b)
    assert np.array_equal(for_a, [1.0, -1.0, np.nan, np.nan], equal_nan=True), "A's error counts against A"
    assert np.array_equal(for_b, [-1.0, np.nan, -1.0, np.nan], equal_nan=True)


def test_first_start_with_enough_evidence() -> None:
    bets = bets_for(100)
    wins = np.ones(40)
    at = first_above(wins, math.log(40), bets)
    assert at is not None
    assert log_e_values(wins[:at], bets)[-1] >= math.log(40) > log_e_values(wins[: at - 1], bets)[-1]
    assert first_above(-wins, math.log(40), bets) is None
    assert largest(-wins, bets) == 0


def _studies(rate: float, shared: float, starts: int, studies: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes (studies, starts) of two equal arms; shared: the share of starts whose outcome the start decides."""
    rng = np.random.default_rng(seed)
    same = rng.random((studies, starts)) < shared
    both = rng.random((studies, starts)) < rate
    return tuple(np.where(same, both, rng.random((studies, starts)) < rate).astype(float) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize(("rate", "shared"), [(0.5, 0.0), (0.9, 0.5), (0.5, 0.8)])
def test_equal_arms_are_seldom_told_apart(rate: float, shared: float) -> None:
    """Looks after every start, 4000 studies: at most 5 % and the error of the simulation."""
    starts, studies = 60, 4000
    a, b = _studies(rate, shared, starts, studies, 1)
    bets = bets_for(starts)
    for most in (starts, None):
        threshold = log_threshold(0.025, most, bets)
        found = np.maximum(log_e_values(a - b, bets), log_e_values(b - a, bets)).max(axis=1) >= threshold
        assert found.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_intervals_hold_at_every_number_of_starts_together() -> None:
    """A difference of 0.2, 60 studies of 80 starts, looked at after every tenth."""
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(60):
        a, b = (rng.random(80) < 0.8).astype(float), (rng.random(80) < 0.6).astype(float)
        intervals = [anytime_interval(a[:n], b[:n]) for n in range(10, 81, 10)]
        missed += any(not low <= 0.2 <= high for low, high in intervals)
    assert missed <= 60 * 0.05
    assert anytime_interval(np.zeros(0), np.zeros(0)) == (-1, 1)


# --- planning ---------------------------------------------------------------------------------------------------------


def test_power_and_starts_no_worse_than_published() -> None:
    """`fieldtrial` 0.3 publishes .30 / 86 starts at .60 and .75 and .99 / 40 at .60 and .90, at most 100 starts."""
    close, far = (plan("sequential", 100, *only_one(rate, 0.6)) for rate in (0.75, 0.9))
    assert close.power >= 0.30
    assert close.mean_starts <= 86
    assert far.power >= 0.99
    assert far.mean_starts <= 40


@pytest.mark.parametrize("rule", ["sequential", "open"])
def test_plans_are_what_studies_do(rule: str) -> None:
    studies, starts = 4000, 50
    rng = np.random.default_rng(3)
    a, b = (rng.random((studies, starts)) < rate for rate in (0.8, 0.5))
    bets = bets_for(starts)
    threshold = log_threshold(0.025, starts if rule == "sequential" else None, bets)
    logs = log_e_values(a.astype(float) - b, bets)
    hit = logs >= threshold
    expected = plan(rule, starts, *only_one(0.8, 0.5))  # type: ignore[arg-type]
    assert hit.any(axis=1).mean() == pytest.approx(expected.power, abs=0.03)
    ends = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, starts)
    assert ends.mean() == pytest.approx(expected.mean_starts, rel=0.03)


def test_fixed_power_is_that_of_all_tables() -> None:
    p, q, n = 0.4, 0.1, 25
    expected = sum(
        stats.multinomial.pmf([a, b, n - a - b], n, [p, q, 1 - p - q])
        for a in range(n + 1)
        for b in range(n + 1 - a)
        if mcnemar(a, b)[0] <= 0.025
    )
    assert power_of("fixed", n, p, q) == pytest.approx(expected)


def test_starts_for_a_power() -> None:
    found = starts_for("fixed", *only_one(0.9, 0.6), power=0.8)
    assert found is not None
    assert found.power >= 0.8 > power_of("fixed", found.starts - 2, *only_one(0.9, 0.6))
    assert starts_for("sequential", 0.1, 0.1) is None
    assert starts_for("fixed", 0.101, 0.1, most=200) is None
    sure = plan("sequential", 20, 0.0, 0.0)
    assert (sure.power, sure.mean_starts) == (0, 20)
    with pytest.raises(ValueError, match="correlation"):
        only_one(0.9, 0.1, 0.9)
    assert only_one(0.6, 0.6, 1.0) == pytest.approx((0, 0))


def test_boundaries_rise_with_the_tosses() -> None:
    bounds = boundary(math.log(40), 60, bets_for(60))
    assert bounds[0] == 2, "one toss is never enough"
    assert np.all(np.diff(bounds) >= 0)


# --- several arms and trainings ---------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    """Holm's own order: 4 p-values, times 4, 3, 2, 1, and never less than an earlier one."""
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"x": 0.7, "y": 0.9}) == {"x": 1.0, "y": 1.0}
    assert not_beaten(["a", "b", "c"], {"b": ["a"], "c": []}) == ["a", "c"]


def test_probability_of_improvement() -> None:
    one = np.array([[1.0, 0.0, 1.0, np.nan]])
    other = np.array([[0.0, 0.0, 1.0, 1.0]])
    assert improvement(one, other, paired=True) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert improvement(one, other, paired=False) == pytest.approx((2 * 2 + 0.5 * (2 * 2 + 1 * 2)) / 12)
    trainings = np.array([[1.0, 1.0], [0.0, 0.0]])
    assert improvement(trainings, np.array([[0.5, 0.5]]), paired=True) == 0.5
    assert improvement(np.full((1, 2), np.nan), other[:, :2], paired=True) is None


def test_another_training_covers_what_other_seeds_give() -> None:
    """Four trainings an arm, whose rates vary by 0.1 around the same mean: about 95 % of intervals have 0."""
    rng = np.random.default_rng(4)
    covered = 0
    for study in range(120):
        hard = rng.random(40)[None] < 0.3
        arms = []
        for _ in range(2):
            rates_K = np.clip(rng.normal(0.6, 0.1, 4), 0, 1)
            arms.append(((rng.random((4, 40)) < rates_K[:, None]) & ~hard).astype(float))
        interval = another_training(arms[0], arms[1], paired=True, seed=study)
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
    assert covered >= 120 * 0.9
    assert another_training(np.ones((1, 9)), np.ones((3, 9)), paired=True) is None
