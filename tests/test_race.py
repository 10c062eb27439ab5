"""Racing and the adaptive number of episodes: exact where cases can be enumerated, seeded simulation elsewhere."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from raybc.rollout.race import BETS, Domination, dominated, first_domination, log_e_values
from raybc.statistics import halfwidth_reached, most_starts, wilson_interval
from raybc.types import UserError

NAN = math.nan


@pytest.fixture(scope="module")
def racing() -> ModuleType:
    """benchmarks/racing.py, which is a script and no part of a package."""
    path = Path(__file__).parents[1] / "benchmarks" / "racing.py"
    spec = importlib.util.spec_from_file_location("racing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["racing"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def e(*differences: float) -> np.ndarray:
    return np.exp(log_e_values(differences))


# --- the e-value ---


def test_starts_that_both_solve_or_both_miss_bet_nothing() -> None:
    assert e(0, 0, 0).tolist() == [1, 1, 1]
    assert e(1, 0, 0, 1)[[0, 2]] == pytest.approx([e(1)[0]] * 2)
    assert e(0, 0, 1)[-1] == pytest.approx(e(1)[0])


def test_small_cases_by_hand() -> None:
    bets = np.array(BETS)
    assert e(1) == pytest.approx([np.mean(1 + bets)])
    assert e(-1) == pytest.approx([np.mean(1 - bets)])
    assert e(1, -1) == pytest.approx([np.mean(1 + bets), np.mean(1 - bets**2)])
    assert e(0.5, 1) == pytest.approx([np.mean(1 + bets / 2), np.mean((1 + bets / 2) * (1 + bets))])
    assert all(0 < bet < 1 for bet in BETS)


def test_errors_leave_the_value_as_it_was() -> None:
    assert e(1, NAN, -1, NAN)[[1, 3]] == pytest.approx([e(1)[-1], e(1, -1)[-1]])
    assert log_e_values([]).shape == (0,)


def test_long_runs_neither_overflow_nor_vanish() -> None:
    up, down = log_e_values(np.ones(5000)), log_e_values(-np.ones(5000))
    assert up[-1] == pytest.approx(5000 * math.log1p(max(BETS)) - math.log(len(BETS)))
    assert down[-1] == pytest.approx(5000 * math.log1p(-min(BETS)) - math.log(len(BETS)))


def test_leading_axes_are_independent() -> None:
    differences = np.random.default_rng(0).integers(-1, 2, (3, 4, 20))
    together = log_e_values(differences)
    assert together.shape == (3, 4, 20)
    assert together[2, 1] == pytest.approx(log_e_values(differences[2, 1]))


def joint_tables() -> list[tuple[list[float], np.ndarray]]:
    """(differences, probabilities) of arms with equal expectation: arbitrary joint tables of outcomes 0, 1/2, 1."""
    rng = np.random.default_rng(1)
    tables = [([-1.0, 0.0, 1.0], np.array([q, 1 - 2 * q, q])) for q in (0.01, 0.2, 0.5)]
    for _ in range(5):
        joint = rng.dirichlet(np.ones(9)).reshape(3, 3)
        joint = (joint + joint.T) / 2
        levels = np.array([0, 0.5, 1])
        gaps = levels[:, None] - levels[None, :]
        tables.append(
            ([float(g) for g in np.unique(gaps)], np.array([joint[gaps == g].sum() for g in np.unique(gaps)]))
        )
    tables.append(([-1.0, 0.5], np.array([1, 2]) / 3))  # rarely much worse, often a little better
    tables.append(([-0.5, 1.0], np.array([2, 1]) / 3))
    return tables


def test_expectation_is_one_for_equal_arms_and_ville_holds_exactly() -> None:
    for gaps, chances in joint_tables():
        n = 8 if len(gaps) <= 3 else 5
        picks = np.array(list(itertools.product(range(len(gaps)), repeat=n)))
        weights = chances[picks].prod(1)
        paths = np.exp(log_e_values(np.array(gaps)[picks]))
        assert weights @ paths == pytest.approx(np.ones(n))  # a martingale that begins at 1
        for threshold in (1.5, 2.0, 4.0, 10.0):
            assert weights @ (paths.max(1) >= threshold) <= 1 / threshold
        # the better the accused, the less
        if gaps == [-1.0, 0.0, 1.0]:
            better = np.array([0.3, 0.6, 0.1])[picks].prod(1) @ paths
            assert (np.diff(np.concatenate([[1.0], better])) < 0).all()


def test_ville_bound_by_simulation_over_many_looks() -> None:
    rng = np.random.default_rng(2)
    for p01 in (0.02, 0.25, 0.5):
        differences = rng.choice([-1, 0, 1], size=(4000, 300), p=[p01, 1 - 2 * p01, p01])
        assert (log_e_values(differences).max(1) >= math.log(20)).mean() < 0.05


# --- who is dropped ---


def test_the_reason_is_kept() -> None:
    good, bad, none = np.ones(30), np.zeros(30), np.full(30, NAN)
    found = first_domination(bad, {"none": none, "good": good, "twin": good.copy()}, comparisons=3)
    starts = int(np.argmax(e(*np.ones(30)) >= 60)) + 1
    assert found == Domination("good", starts, starts, pytest.approx(e(*np.ones(starts))[-1]))
    assert found.e_value >= 3 / 0.05
    assert "good is better" in str(found)
    assert f"{starts} starts" in str(found)
    assert first_domination(good, {"bad": bad, "good": good}, comparisons=2) is None
    assert first_domination([], {"good": good}, comparisons=1) is None
    assert first_domination(bad, {}, comparisons=1) is None


def test_threshold_grows_with_comparisons_and_falls_with_alpha() -> None:
    good, bad = {"good": np.ones(40)}, np.zeros(40)
    at = [first_domination(bad, good, comparisons=k, alpha=a) for k, a in ((1, 0.2), (1, 0.05), (11, 0.05), (99, 0.05))]
    starts = [d.starts for d in at if d]
    assert len(starts) == 4
    assert starts == sorted(set(starts))


def test_an_other_that_was_dropped_counts_where_it_was_measured() -> None:
    bad = np.zeros(40)
    assert first_domination(bad, {"short": np.ones(5)}, comparisons=1) is None
    enough = first_domination(bad, {"short": np.ones(15)}, comparisons=1)
    assert enough is not None
    assert first_domination(bad, {"long": np.ones(40)}, comparisons=1) == Domination("long", *_rest(enough))
    assert first_domination(bad[: enough.starts - 1], {"long": np.ones(40)}, comparisons=1) is None


def _rest(reason: Domination) -> tuple[int, int, float]:
    return reason.starts, reason.pairs, reason.e_value


def test_an_error_of_the_arm_leaves_the_start_out_and_one_of_the_other_is_its_worst() -> None:
    good, bad = np.ones(40), np.zeros(40)
    clean = first_domination(bad, {"good": good}, comparisons=1)
    assert clean is not None
    good[[0, 3]], bad[[3, 5]] = NAN, NAN
    gaps = first_domination(bad, {"good": good}, comparisons=1)
    assert gaps is not None
    assert (gaps.starts, gaps.pairs, gaps.e_value) == (clean.starts + 3, clean.starts + 1, clean.e_value)
    crashing = np.where(np.arange(40) % 2, 1.0, NAN)
    assert first_domination(np.tile([1.0, 0.5], 20), {"crashing": crashing}, comparisons=1) is None, "0.75 against 0.5"


def test_dominated_in_blocks_is_stable_and_never_empties_the_race() -> None:
    rng = np.random.default_rng(3)
    rates = {"a": 0.9, "b": 0.85, "c": 0.45, "d": 0.05}
    whole = {name: (rng.uniform(size=100) < p).astype(float) for name, p in rates.items()}
    have: dict[str, np.ndarray] = {name: np.zeros(0) for name in rates}
    found: Mapping[str, Domination] = {}
    for now in range(10, 101, 10):
        have = {name: whole[name][:now] if name not in found else have[name] for name in whole}
        later = dominated(have, comparisons=3)
        assert all(later[name] == reason for name, reason in found.items())
        found = later
    assert set(found) == {"c", "d"}
    assert len(have["d"]) < len(have["c"]) < 100
    # two that are better than each other, one after the other: an arm must stay
    ones, zeros = np.ones(60), np.zeros(60)
    circle = {"x": np.concatenate([ones[:12], zeros]), "y": np.concatenate([zeros[:12], ones])}
    assert first_domination(circle["x"], {"y": circle["y"]}, comparisons=1) is not None
    assert first_domination(circle["y"], {"x": circle["x"]}, comparisons=1) is not None
    assert set(dominated(circle, comparisons=1)) == {"y"}
    assert dominated({}, comparisons=1) == dominated({"only": [0, 1]}, comparisons=1) == {}


def test_bad_input_is_refused() -> None:
    good = {"good": [1.0, 1.0]}
    with pytest.raises(UserError, match="alpha"):
        first_domination([0, 0], good, comparisons=1, alpha=5)
    with pytest.raises(UserError, match="comparisons >= 2"):
        dominated({"a": [1], "b": [0], "c": [0]}, comparisons=1)
    with pytest.raises(UserError, match="comparisons >= 1"):
        first_domination([0, 0], good, comparisons=0)
    with pytest.raises(UserError, match=r"good, got 1\.5 at start 1"):
        first_domination([0, 0], {"good": [1, 1.5]}, comparisons=1)
    with pytest.raises(UserError, match="shape"):
        dominated({"a": np.zeros((2, 2))}, comparisons=1)
    with pytest.raises(ValueError, match="between -1 and 1"):
        log_e_values([2.0])


# --- the guarantee and the gain, on simulated sweeps ---


def test_the_simulation_races_as_the_library_does(racing: ModuleType) -> None:
    rng = np.random.default_rng(4)
    p_SK = np.tile([0.9, 0.7, 0.4, 0.1, 0.1], (6, 1))
    x_SKN = racing.draw(p_SK, 60, 0.5, rng)
    table = racing.log_e_table(60)
    assert table[3, 2] == pytest.approx(log_e_values([1, 1, 1, -1, -1])[-1])
    cross_SKK = racing.crossings(x_SKN, 4 / 0.05, table)
    stop_SK, kept_SK = racing.race_together(cross_SKK, 60, 10)
    turn_SK, _ = racing.race_in_turn(cross_SKK, 60, 10)
    assert 10 < stop_SK[:, 4].max() < 60
    for s in range(6):
        have = {str(k): x_SKN[s, k, : stop_SK[s, k]] for k in range(5)}
        assert [str(k) not in dominated(have, comparisons=4) for k in range(5)] == kept_SK[s].tolist()
        for k in range(5):
            others = {str(j): x_SKN[s, j, : turn_SK[s, j]] for j in range(k)}
            found = first_domination(x_SKN[s, k], others, comparisons=4)
            assert turn_SK[s, k] == (math.ceil(found.starts / 10) * 10 if found else 60)


@pytest.mark.parametrize("rho", [0.0, 0.9])
@pytest.mark.parametrize("arms", ["equal: 12 of .7", "close: .9, 11 of .85"])
def test_the_best_arm_is_rarely_dropped(racing: ModuleType, arms: str, rho: float) -> None:
    for row in racing.simulate(racing.SCENARIOS[arms], rho, [100, 200], [1, 10], 400, 5, 0.05).values():
        assert row.wrong <= 0.05 * row.sweeps


@pytest.mark.parametrize(
    ("arms", "together", "in_turn"),
    [("mostly bad: .9, .8, 10 of .02", 0.65, 0.4), ("spread: 12 of .2 to .9", 0.4, 0.3)],
)
def test_bad_arms_cost_little(racing: ModuleType, arms: str, together: float, in_turn: float) -> None:
    rows = racing.simulate(racing.SCENARIOS[arms], 0.5, [100], [5], 300, 6, 0.05)
    assert rows["together", 100, 5].saved > together
    assert rows["in turn", 100, 5].saved > in_turn
    for row in rows.values():
        assert row.same > 0.98
        assert row.wrong <= 0.01 * row.sweeps


def test_proposals_that_look_at_the_same_starts_do_no_harm_here(racing: ModuleType) -> None:
    assert racing.search(12, 0.5, 100, 5, 400, 7, 0.05).wrong <= 0.05 * 400


# --- the adaptive number of episodes ---


def test_halfwidth_is_reached_at_the_first_allowed_count() -> None:
    outcomes = [i % 3 == 0 for i in range(200)]

    def half(n: int) -> float:
        low, high = wilson_interval(sum(outcomes[:n]), n)
        return (high - low) / 2

    for every in (1, 7):
        n = halfwidth_reached(outcomes, 0.1, every=every)
        assert n is not None
        assert n % every == 0
        assert half(n) <= 0.1
        assert all(half(k) > 0.1 for k in range(21, n) if k % every == 0)
    assert halfwidth_reached(outcomes[:50], 0.1) is None
    assert halfwidth_reached([], 0.1) is None
    assert halfwidth_reached([True] * 100, 0.1) == 20
    assert halfwidth_reached([True] * 100, 0.05) == halfwidth_reached([False] * 100, 0.05) == 35
    assert halfwidth_reached([True] * 100, 0.1, minimum=31, every=10) == 40


def test_halfwidth_depends_on_the_order_of_starts_only() -> None:
    rng = np.random.default_rng(8)
    rows = [(i, bool(rng.uniform() < 0.8)) for i in range(300)]
    n = halfwidth_reached([solved for _, solved in rows], 0.06)
    assert n is not None
    for _ in range(5):  # episodes come back in another order, and more of them than were needed
        rng.shuffle(rows)
        assert halfwidth_reached([solved for _, solved in sorted(rows)], 0.06) == n
        assert halfwidth_reached([solved for _, solved in sorted(rows)[:n]], 0.06) == n


@pytest.mark.parametrize("halfwidth", [0.03, 0.05, 0.1, 0.2])
def test_most_starts_suffice_for_any_outcomes(halfwidth: float) -> None:
    most = most_starts(halfwidth, minimum=1)
    assert all(np.diff(wilson_interval(k, most))[0] <= 2 * halfwidth for k in range(most + 1))
    fewer = (most - 1) // 2 * 2  # even, so that half of them can succeed
    assert np.diff(wilson_interval(fewer // 2, fewer))[0] > 2 * halfwidth
    assert most_starts(halfwidth, minimum=1, every=10) == math.ceil(most / 10) * 10
    assert most_starts(0.2, minimum=50, every=20) == 60
    assert most_starts(0.05) == 381


@pytest.mark.parametrize(("halfwidth", "every"), [(0.05, 1), (0.1, 1), (0.1, 10)])
def test_coverage_at_the_stop_is_what_the_docstring_says(halfwidth: float, every: int) -> None:
    """Exact: the distribution of (n, successes) step by step, with what has stopped taken out."""
    rates = np.array([0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
    coverage, episodes, running = np.zeros(7), np.zeros(7), np.ones((7, 1))
    for n in range(1, most_starts(halfwidth, every=every) + 1):
        grown = np.zeros((7, n + 1))
        grown[:, :-1] += running * (1 - rates[:, None])
        grown[:, 1:] += running * rates[:, None]
        running = grown
        if n >= 20 and n % every == 0:
            low, high = np.array([wilson_interval(k, n) for k in range(n + 1)]).T
            stops = high - low <= 2 * halfwidth
            inside = (low <= rates[:, None]) & (rates[:, None] <= high)
            coverage += (running * (inside & stops)).sum(1)
            episodes += n * (running * stops).sum(1)
            running = running * ~stops
    assert running.sum() == pytest.approx(0, abs=1e-12)
    assert coverage.min() > 0.935
    if (halfwidth, every) == (0.05, 1):
        assert coverage[:4] == pytest.approx([0.979, 0.945, 0.946, 0.950], abs=6e-4)
        assert episodes[:4].round() == pytest.approx([48, 132, 319, 380])


def test_halfwidth_refuses_bad_input() -> None:
    for bad in (0.0, 0.5, -0.1, 5, NAN):
        with pytest.raises(UserError, match="halfwidth"):
            halfwidth_reached([True], bad)
        with pytest.raises(UserError, match="halfwidth"):
            most_starts(bad)
    with pytest.raises(UserError, match="minimum"):
        halfwidth_reached([True], 0.1, minimum=0)
    with pytest.raises(UserError, match="every"):
        most_starts(0.1, every=0)
    with pytest.raises(ValueError, match="confidence"):
        most_starts(0.1, confidence=95)


# --- several tasks ---


def test_rounds_of_tasks_count_as_a_whole() -> None:
    """Arm a is much better on one task of two and worse on the other; at no round is there evidence against it."""
    a, b = np.tile([0.0, 1.0], 40), np.tile([1.0, 0.0], 40)
    assert first_domination(a, {"b": b}, comparisons=1, strata=2) is None
    found = first_domination(np.tile([0.0, 0.0, 1.0], 40), {"b": np.tile([1.0, 0.0, 1.0], 40)}, comparisons=1, strata=3)
    alone = first_domination(np.zeros(40), {"b": np.ones(40)}, comparisons=1)
    assert found is not None
    assert alone is not None
    assert found.starts % 3 == 0
    assert found.starts == 3 * alone.starts, "tasks on which both do the same add nothing"


def test_an_error_leaves_its_round_out() -> None:
    bad, good = np.zeros(60), np.ones(60)
    clean = first_domination(bad, {"b": good}, comparisons=1, strata=3)
    bad[[1, 3]] = NAN
    later = first_domination(bad, {"b": good}, comparisons=1, strata=3)
    assert clean is not None
    assert later is not None
    assert later.starts == clean.starts + 6
    assert dominated({"a": bad, "b": good}, comparisons=1, strata=3)["a"] == later


def test_the_level_holds_over_tasks() -> None:
    """Two arms with the same mean over three tasks, and very different rates in each: the best is dropped in at most
    5 % of the races; a test after every start, without rounds, drops it far more often."""
    rng = np.random.default_rng(0)
    p, q = np.tile([0.1, 0.5, 0.9], 60), np.tile([0.9, 0.5, 0.1], 60)
    races, rounds, starts = 400, 0, 0
    for _ in range(races):
        a, b = (rng.random(180) < p).astype(float), (rng.random(180) < q).astype(float)
        rounds += first_domination(a, {"b": b}, comparisons=1, strata=3) is not None
        starts += first_domination(a, {"b": b}, comparisons=1) is not None
    assert rounds <= 0.05 * races
    assert starts >= rounds
