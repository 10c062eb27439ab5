"""Measures on held-out episodes, of predictions whose numbers are known.

Letters: K samples, B windows, H chunk, A action dim.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from raybc.inference.held_out import Predicted
from raybc.inference.offline_measures import CHEAP, MEASURES, measure_of
from raybc.metric import METRICS
from raybc.metric_choice import default_metric

WINDOWS, HORIZON = 40, 6
SPREAD = np.array([2.0, 0.5, 0.0, 1.0])


def recorded() -> np.ndarray:
    """Actions (B, H, A): two that vary, one that never does, and a gripper."""
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(WINDOWS, HORIZON, 4)) * SPREAD
    actions[..., 2] = 3.0
    actions[..., 3] = np.where(np.arange(HORIZON) < 3, -1.0, 1.0)
    return actions


def predicted(chunks_KBHA: np.ndarray, later_BHA: np.ndarray | None = None, executed: int = HORIZON) -> Predicted:
    """Two episodes of as many windows; the last window ends two steps before its chunk does."""
    inside_BH = np.ones((WINDOWS, HORIZON), bool)
    inside_BH[-1, -2:] = False
    return Predicted(
        chunks_KBHA=chunks_KBHA,
        recorded_BHA=recorded(),
        inside_BH=inside_BH,
        episode_B=np.repeat([4, 7], WINDOWS // 2),
        episodes=np.array([4, 7]),
        mean_A=np.array([0.0, 0.0, 3.0, 0.0]),
        spread_A=SPREAD,
        executed=executed,
        shift=HORIZON // 2,
        later_BHA=later_BHA,
    )


def value(name: str, found: Predicted) -> float:
    measure = MEASURES[name]
    return measure.value(measure.of_episodes(found))


def later_of(actions_BHA: np.ndarray) -> np.ndarray:
    """Chunks half a chunk later that agree about the steps that both predict."""
    later = np.zeros_like(actions_BHA)
    later[:, : HORIZON // 2] = actions_BHA[:, HORIZON // 2 :]
    return later


@pytest.mark.parametrize("name", MEASURES)
def test_a_perfect_policy_has_0(name: str) -> None:
    actions = recorded()
    assert value(name, predicted(np.stack([actions, actions]), later_of(actions))) == pytest.approx(0, abs=1e-12)


def test_the_mean_action() -> None:
    """A root mean squared error of 1 where the scale is that of these very steps, and no direction."""
    always = np.broadcast_to(np.array([0.0, 0.0, 3.0, 0.0]), (1, WINDOWS, HORIZON, 4))
    found = predicted(always)
    errors = found.scaled_errors_KBHA[0]
    assert errors.shape == (WINDOWS, HORIZON, 3), "the dimension that never changes is left out"
    assert np.isnan(errors[-1, -2:]).all()
    assert not np.isnan(errors[:-1]).any()
    assert value("error", found) == pytest.approx(1, abs=0.1)
    assert value("cosine", found) == pytest.approx(1)


def test_known_offsets() -> None:
    offset = np.array([1.0, 1.0, 5.0, 0.0])  # half a standard deviation, two, and one that does not count
    found = predicted((recorded() + offset)[None])
    assert value("error", found) == pytest.approx(math.sqrt((0.5**2 + 2**2) / 3))
    assert value("absolute", found) == pytest.approx((0.5 + 2) / 3)
    assert value("wrong_side", found) == 0
    assert value("cosine", predicted(-recorded()[None])) == pytest.approx(2, abs=1e-6), "the opposite direction"


def test_which_steps_count() -> None:
    late = recorded()
    late[:, 4:, 0] += 2.0
    assert value("first_step", predicted(late[None])) == 0
    assert value("error", predicted(late[None], executed=4)) == 0, "steps that are not executed"
    one_of_six = predicted(late[None], executed=5)
    assert value("error", one_of_six) == pytest.approx(math.sqrt((19 / 20 + 1) / 2 / 3 / 5), rel=1e-6), (
        "the fifth step of all windows but the last one, whose episode has ended"
    )


def test_several_samples() -> None:
    actions, step = recorded(), np.array([2.0, 0.0, 0.0, 0.0])
    around = predicted(np.stack([actions + step, actions - step]))
    assert value("mean_of_samples", around) == pytest.approx(0, abs=1e-12)
    assert value("error", around) == value("best_of_samples", around) == pytest.approx(math.sqrt(1 / 3))
    better = predicted(np.stack([actions + 2 * step, actions + step]))
    assert value("best_of_samples", better) == pytest.approx(math.sqrt(1 / 3))
    assert value("error", better) == pytest.approx(2 * math.sqrt(1 / 3)), "the first sample"


def test_consistency() -> None:
    actions = recorded()
    later = later_of(actions)
    later[..., 0] += 1.0
    found = predicted(actions[None], later)
    assert value("consistency", found) == pytest.approx(math.sqrt(0.25 / 3))
    later[: WINDOWS // 2] = np.nan  # windows of the first episode have no half a chunk behind them
    numbers = MEASURES["consistency"].of_episodes(predicted(actions[None], later))
    assert np.isnan(numbers[0])
    assert value("consistency", predicted(actions[None], later)) == pytest.approx(math.sqrt(0.25 / 3))
    one_step = dataclasses.replace(
        found, chunks_KBHA=found.chunks_KBHA[:, :, :1], recorded_BHA=actions[:, :1], inside_BH=found.inside_BH[:, :1],
        later_BHA=later[:, :1], executed=1,
    )  # fmt: skip
    assert math.isnan(value("consistency", one_step))


def test_a_gripper() -> None:
    actions = recorded()
    actions[:, 0, 3] = 0.4  # open where it is closed in the recording, by however much
    assert value("wrong_side", predicted(actions[None])) == pytest.approx((1 / 6 * 19 + 1 / 4 + 20 / 6) / 40)
    without = predicted(actions[None])
    without.recorded_BHA[..., 3] = np.random.default_rng(1).normal(size=(WINDOWS, HORIZON))
    assert math.isnan(value("wrong_side", without)), "no action switches"


def test_metrics_are_measures() -> None:
    held_out = [name for name, metric in METRICS.items() if not metric.from_episodes]
    assert {measure_of(name) for name in held_out} <= set(MEASURES)
    assert all(METRICS[name].direction == "minimize" for name in held_out)
    assert default_metric(None) in held_out
    assert all(MEASURES[name].samples == 1 and not MEASURES[name].is_shifted for name in CHEAP)
