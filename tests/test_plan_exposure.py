"""What a training sees of a plan: exposure, learning-rate scale, the order of draws, rows to fit on."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import permutations

import numpy as np
import pytest
import torch

from raybc.data.plan.exposure import exposure, plan_lr_scale
from raybc.data.plan.sampler import EpochSampler, IndexSampler, WeightedSampler, plan_sampler
from raybc.types import UserError
from tests.plans import tiny_plan

WEIGHTS = np.array([1.0, 2, 3, 4, 0.5, 0.5, 9])


# Exposure


@pytest.mark.parametrize("draws", [1, 3, 50, 4000])
def test_exposure_is_the_formula(draws: int) -> None:
    p = [w / sum(WEIGHTS) for w in WEIGHTS]
    ess = 1 / sum(q**2 for q in p)
    for replacement in (True, False):
        unique = sum(1 - (1 - q) ** draws for q in p) if replacement else min(7, draws)
        seen = exposure(WEIGHTS, draws, replacement)
        assert seen.anchors == 7
        assert seen.ess == pytest.approx(ess)
        assert seen.expected_unique == pytest.approx(unique)
        assert seen.expected_coverage == pytest.approx(unique / 7)
        assert seen.avg_repeat == pytest.approx(draws / unique)
        assert seen.repeat_eff == pytest.approx(draws / ess)


@pytest.mark.parametrize("replacement", [True, False])
def test_exposure_is_what_happens(replacement: bool) -> None:
    """Monte Carlo with torch's sampler, 3000 trainings of 12 draws: within 5 standard errors."""
    draws, trainings = 12, 3000
    g = torch.Generator().manual_seed(0)
    unique = []
    for _ in range(trainings):
        if replacement:
            picks = torch.multinomial(torch.from_numpy(WEIGHTS), draws, True, generator=g)
        else:
            epochs = [torch.multinomial(torch.from_numpy(WEIGHTS), 7, False, generator=g) for _ in range(2)]
            picks = torch.cat(epochs)[:draws]
        unique.append(len(set(picks.tolist())))
    error = 5 * np.std(unique) / math.sqrt(trainings) + 1e-9
    assert exposure(WEIGHTS, draws, replacement).expected_unique == pytest.approx(np.mean(unique), abs=error)


def test_exposure_of_many_anchors_and_draws() -> None:
    """(1 - p)^n in floats is 1 for p below 1e-16: the naive formula would say that nothing is seen."""
    small = np.full(1000, 1e-18)
    heavy = exposure(np.concatenate([small, [1.0]]), 10**12, True)
    assert heavy.expected_unique == pytest.approx(1 + 1000 * 1e-6, rel=1e-9)
    equal = exposure(np.ones(2_000_000), 2_000_000, True)
    assert equal.ess == pytest.approx(2e6)
    assert equal.expected_coverage == pytest.approx(1 - math.exp(-1), rel=1e-6)
    assert exposure(np.ones(10), 10**15, True).expected_unique == 10


def test_exposure_of_one_anchor() -> None:
    for replacement in (True, False):
        seen = exposure(np.array([3.0]), 5, replacement)
        assert (seen.ess, seen.expected_unique, seen.expected_coverage, seen.avg_repeat) == (1, 1, 1, 5)
    with pytest.raises(UserError, match="draws: expected at least 1, got 0"):
        exposure(WEIGHTS, 0, True)


def test_learning_rate_scale() -> None:
    assert plan_lr_scale(200, target_repeat=50, power=0.5, min_scale=0.05) == pytest.approx(0.5)
    assert plan_lr_scale(200, target_repeat=50, power=1, min_scale=0.05) == pytest.approx(0.25)
    assert plan_lr_scale(10, target_repeat=50, power=0.5, min_scale=0.05) == 1, "never a higher rate"
    assert plan_lr_scale(1e9, target_repeat=50, power=0.5, min_scale=0.05) == 0.05
    assert plan_lr_scale(1e9, target_repeat=50, power=0, min_scale=0.05) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0, 0.5, 0.05), "plan_target_effective_repeat: expected a finite number above 0, got 0.0"),
        ((50.0, -1.0, 0.05), "plan_lr_scale_power: expected a finite number of at least 0, got -1.0"),
        ((50.0, 0.5, 0.0), "plan_lr_min_scale: expected more than 0 and at most 1, got 0.0"),
    ],
)
def test_impossible_scales_are_refused(values: tuple[float, float, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_lr_scale(100, *values)


# Draws


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """Standard deviations by which Pearson's statistic is above its mean."""
    degrees = len(observed) - 1
    return float((((observed - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees))


def test_draws_with_replacement_follow_the_weights() -> None:
    picks = WeightedSampler(WEIGHTS, 0).at_block(3, 0, 500, 200)
    assert picks.shape == (500, 200)
    assert picks.dtype == np.int64
    counts = np.bincount(picks.ravel(), minlength=7)
    assert chi_square(counts, 100_000 * WEIGHTS / WEIGHTS.sum()) < 4
    pairs = np.bincount((7 * picks[:, :-1:2] + picks[:, 1::2]).ravel(), minlength=49)
    both = np.outer(WEIGHTS, WEIGHTS).ravel() / WEIGHTS.sum() ** 2
    assert chi_square(pairs, 50_000 * both) < 4, "draws do not depend on those before"


def test_orders_without_replacement_are_those_of_torch() -> None:
    """All 24 orders of 4 anchors: their frequencies against the exact probabilities, and torch's sampler likewise."""
    weights = np.array([1.0, 2, 3, 6])
    orders = list(permutations(range(4)))
    exact = []
    for order in orders:
        left, chance = weights.sum(), 1.0
        for i in order:
            chance, left = chance * weights[i] / left, left - weights[i]
        exact.append(chance)
    epochs = 20_000
    ours = EpochSampler(weights, 0).at_block(0, 0, epochs, 4)
    sampler = torch.utils.data.WeightedRandomSampler(
        weights.tolist(), 4, replacement=False, generator=torch.Generator().manual_seed(0)
    )
    theirs = np.array([list(sampler) for _ in range(epochs)])
    for drawn in (ours, theirs):
        seen = dict.fromkeys(orders, 0)
        for row in map(tuple, drawn.tolist()):
            seen[row] += 1
        assert chi_square(np.array([seen[o] for o in orders]), epochs * np.array(exact)) < 4


def test_every_anchor_once_an_epoch() -> None:
    """Epochs of 7 draws in batches of 4: batches go on over the end of an epoch, nothing is left out."""
    picks = EpochSampler(WEIGHTS, 0)
    flat = np.concatenate([picks.at_block(5, block, 10, 4).ravel() for block in range(7)])
    for epoch in flat.reshape(40, 7):
        assert sorted(epoch.tolist()) == list(range(7))
    assert len({tuple(e) for e in flat.reshape(40, 7).tolist()}) > 20


@pytest.mark.parametrize("kind", [WeightedSampler, EpochSampler])
def test_draws_are_a_function_of_seeds_and_block(kind: type[WeightedSampler | EpochSampler]) -> None:
    """Any block in any order from a new object, as when a training goes on; other seeds, other draws."""
    unbroken = kind(WEIGHTS, 2)
    blocks = [unbroken.at_block(1, b, 64, 5) for b in range(6)]
    for block in (5, 0, 3, 2):
        np.testing.assert_array_equal(kind(WEIGHTS, 2).at_block(1, block, 64, 5), blocks[block])
    shared = kind(WEIGHTS, 2)
    for block in range(3):  # members of a pack take turns
        shared.at_block(9, block, 64, 5)
        np.testing.assert_array_equal(shared.at_block(1, block, 64, 5), blocks[block])
    for other in (kind(WEIGHTS, 3).at_block(1, 0, 64, 5), kind(WEIGHTS, 2).at_block(0, 0, 64, 5), blocks[1]):
        assert (other != blocks[0]).any()


def test_draws_are_the_same_in_every_process() -> None:
    code = "from tests.test_plan_exposure import WEIGHTS, {0}; print({0}(WEIGHTS, 1).at_block(2, 3, 4, 5).tolist())"
    for kind in (WeightedSampler, EpochSampler):
        out = subprocess.run(
            [sys.executable, "-c", code.format(kind.__name__)], capture_output=True, text=True, check=True
        )
        assert out.stdout.strip() == str(kind(WEIGHTS, 1).at_block(2, 3, 4, 5).tolist())


def test_a_plan_says_how_it_is_drawn_from() -> None:
    plan = tiny_plan(sampler_seed=4, replacement=False, gripper_event_enabled=True, gripper_dims="0")

    def block(picks: IndexSampler) -> list[list[int]]:
        return picks.at_block(0, 0, 6, 8).tolist()

    assert block(plan_sampler(plan)) == block(EpochSampler(plan.weights_P, 4))
    assert block(plan_sampler(plan, sampler_seed=0)) == block(EpochSampler(plan.weights_P, 0))
    assert block(plan_sampler(plan, 7, replacement=True)) == block(WeightedSampler(plan.weights_P, 7))


def test_draws_of_a_large_plan() -> None:
    """Weights over many anchors: the shares of ten groups of a million come out right."""
    weights = np.repeat(np.arange(1, 11), 100_000).astype(float)
    counts = np.bincount(WeightedSampler(weights, 0).at_block(0, 0, 64, 2048).ravel() // 100_000, minlength=10)
    assert chi_square(counts, 64 * 2048 * np.arange(1, 11) / 55) < 4


# Rows to fit normalisation on


def test_rows_to_fit_on() -> None:
    plan = tiny_plan((10, 3, 12, 8), stride_S=3, batch_size=2, num_episodes_keep=3, valid_start_tail_keep=1)
    rows = {m: plan.fit_rows(m).tolist() for m in ("anchors", "episodes", "episodes_valid")}  # type: ignore[arg-type]
    assert rows["anchors"] == plan.anchors_P.tolist()
    begins = dict(enumerate([0, 10, 13, 25]))
    lengths = dict(enumerate([10, 3, 12, 8]))
    kept = plan.episodes_E.tolist()
    assert rows["episodes"] == [begins[e] + f for e in kept for f in range(lengths[e])]
    valid = [begins[e] + f for e in kept for f in range(lengths[e]) if f <= min(lengths[e] - 4 + 1, lengths[e] - 1)]
    assert rows["episodes_valid"] == valid
    assert set(rows["anchors"]) < set(valid) < set(rows["episodes"])
