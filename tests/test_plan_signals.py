"""Boundaries and gripper events: peaks, non-maximum suppression, smoothing, thresholds, distances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raybc.data.plan.signals import change_points, distances, gripper_events, median_filter, peaks
from tests.helpers import tiny_store
from tests.plans import config, naive_change_points, naive_events, naive_peaks, plan_of


def gripper(moves: dict[int, float], length: int = 60, jitter: float = 0.0, seed: int = 0) -> np.ndarray:
    """A state (L, 2) whose second dimension jumps to a value at each of these frames."""
    state = np.zeros((length, 2))
    for frame, value in moves.items():
        state[frame:, 1] = value
    state[:, 1] += jitter * np.random.default_rng(seed).normal(size=length)
    return state


def events_config(**changes: Any) -> Any:
    return config(**{"gripper_event_enabled": True, "gripper_dims": "1", **changes})


# Peaks


@pytest.mark.parametrize(
    ("score", "found"),
    [
        ([0, 1, 0], [1]),
        ([0, 2, 2, 2, 0], [1]),  # the first of a run
        ([0, 1, 1, 2, 0], [3]),  # a run that goes on upwards is no peak
        ([0, 2, 1, 1, 0], [1]),
        ([0, 1, 2], [2]),  # the ends count as lower
        ([2, 1, 0], [0]),
        ([1, 1, 1, 1], []),  # nothing changes
        ([0, 0, 0], []),
        ([3], []),
        ([], []),
        ([0, 1, 0, 1, 0, 1, 0], [1, 3, 5]),
    ],
)
def test_peaks_of_small_scores(score: list[float], found: list[int]) -> None:
    assert peaks(np.array(score, float), gap=1).tolist() == found


def test_suppression_takes_the_highest_first() -> None:
    score = np.zeros(40)
    score[[5, 9, 14, 30]] = [1, 3, 2, 1]
    assert peaks(score, gap=5).tolist() == [9, 14, 30], "5 is 4 from the higher 9; 14 is 5 away"
    assert peaks(score, gap=6).tolist() == [9, 30]
    assert peaks(score, gap=4).tolist() == [5, 9, 14, 30]
    assert peaks(score, gap=4, most=2).tolist() == [9, 14]
    assert peaks(score, gap=4, floor=2).tolist() == [9, 14]
    assert peaks(score, gap=1, most=0).tolist() == []
    score[30] = 3
    assert peaks(score, gap=100).tolist() == [9], "of equals the earliest"


@pytest.mark.parametrize("seed", range(60))
def test_peaks_are_what_plain_loops_find(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 5, 80).astype(float) if seed % 2 else rng.normal(size=80)
    gap, floor = int(rng.integers(1, 15)), float(rng.uniform(0, 2))
    for most in (None, 3):
        found = peaks(score, gap, most, floor)
        assert found.tolist() == naive_peaks(score.tolist(), gap, most, floor)
        assert np.all(np.diff(found) >= gap)


# Change points


@pytest.mark.parametrize("delta", [1, 3, 7])
@pytest.mark.parametrize("frame", [1, 20, 38])
def test_a_step_is_found_where_it_begins(delta: int, frame: int) -> None:
    state = np.zeros((40, 4), np.float32)
    state[frame:, 2] = 0.3
    assert change_points(state, config(change_point_delta=delta)).tolist() == [frame]


def test_a_still_state_has_no_boundary() -> None:
    assert change_points(np.ones((30, 3)), config()).tolist() == []
    assert change_points(np.ones((1, 3)), config()).tolist() == []


@pytest.mark.parametrize("seed", range(30))
def test_change_points_are_what_plain_loops_find(seed: int) -> None:
    rng = np.random.default_rng(seed)
    state = np.cumsum(rng.normal(size=(70, 3)) * rng.integers(0, 3, (70, 1)), axis=0)
    c = config(change_point_delta=int(rng.integers(1, 6)), change_point_min_gap=int(rng.integers(1, 20)))
    assert change_points(state, c).tolist() == naive_change_points(state, c)


# Gripper events


@pytest.mark.parametrize("moves", [{30: 0.04}, {12: 1.0, 40: 0.0}, {12: 1.0, 28: 0.2, 45: 1.0}])
def test_a_gripper_that_moves_at_known_frames(moves: dict[int, float]) -> None:
    c = events_config(gripper_quantile_q=0.7)
    assert gripper_events(gripper(moves), c).tolist() == list(moves)


def test_jumps_that_fill_more_than_the_quantile_are_found() -> None:
    """5 of 55 differences are those of the jump: their 0.95-quantile is the jump itself, and d > tau would be empty."""
    assert gripper_events(gripper({30: 0.04}), events_config(gripper_quantile_q=0.95)).tolist() == [30]


def test_jitter_is_no_event() -> None:
    """Motion noise and a spike of two frames beside one true closing: only the closing is an event."""
    for seed in range(20):
        state = gripper({50: 1.0}, 120, jitter=0.01, seed=seed)
        state[[20, 21], 1] += 1.2
        found = gripper_events(state, events_config(gripper_quantile_q=0.96))
        assert len(found) == 1
        assert abs(found[0] - 50) <= 5
        rough = gripper_events(state, events_config(gripper_quantile_q=0.96, gripper_smooth_window=1))
        assert rough[0] < 30, "without smoothing the spike is taken for it"


def test_the_scale_of_differences() -> None:
    """A slow closing (10 frames) is small over 1 step and large over 10."""
    state = np.zeros((60, 2))
    state[30:40, 1], state[40:, 1] = np.linspace(0.1, 1, 10), 1
    for delta, expected in ((1, 0.1), (10, 1.0)):
        c = events_config(gripper_delta1=delta, gripper_delta2=1, gripper_smooth_window=1)
        found = gripper_events(state, c)
        assert len(found) == 1
        moved = np.abs(state[:, 1] - state[np.maximum(np.arange(60) - delta, 0), 1])
        assert moved[found[0]] == pytest.approx(expected)


def test_several_grippers_are_one_signal() -> None:
    """The largest opening of any: g = max_d |s_d|; the sign of a joint does not matter."""
    state = gripper({20: 1.0})
    both = np.concatenate([-state[:, 1:], 0.5 * np.eye(60)[:, 45:46] + 0.2], axis=1)
    assert gripper_events(both, events_config(gripper_dims="0,1")).tolist() == [20]


def test_gripper_events_of_short_and_still_episodes() -> None:
    assert gripper_events(gripper({2: 1.0}, 5), events_config()).tolist() == [], "no more frames than the difference"
    assert gripper_events(gripper({}, 50), events_config()).tolist() == []


@pytest.mark.parametrize("seed", range(40))
def test_gripper_events_are_what_plain_loops_find(seed: int) -> None:
    rng = np.random.default_rng(seed)
    moves = dict(zip(rng.integers(1, 90, 3).tolist(), rng.normal(size=3).tolist(), strict=True))
    state = gripper(moves, 90, jitter=0.05 * (seed % 3), seed=seed)
    c = events_config(
        gripper_quantile_q=float(rng.uniform(0.5, 1)),
        gripper_min_gap=int(rng.integers(1, 30)),
        gripper_delta1=int(rng.integers(1, 9)),
        gripper_delta2=int(rng.integers(1, 9)),
        gripper_smooth_window=int(rng.choice([1, 3, 9])),
    )
    assert gripper_events(state, c).tolist() == naive_events(state, c)


def test_the_running_median_is_scipys() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    values = np.random.default_rng(0).normal(size=50)
    for window in (1, 3, 7, 51):
        np.testing.assert_array_equal(
            median_filter(values, window), ndimage.median_filter(values, size=window, mode="nearest")
        )


# Distances


def test_distances_to_windows() -> None:
    frames = np.array([0, 5, 10, 11, 12, 20])
    assert distances(frames, np.array([13]), horizon=4).tolist() == [10, 5, 0, 0, 0, 7]
    assert distances(frames, np.array([2, 13]), horizon=4).tolist() == [0, 3, 0, 0, 0, 7]
    assert np.isinf(distances(frames, np.array([], np.int64), 4)).all()


def test_windows_at_a_closing_gripper_weigh_more() -> None:
    """From the data to the weights: the closing at frame 30 is an event; the windows that hold it weigh 1 + gamma."""
    state = gripper({30: 0.04}).astype(np.float32)
    store = tiny_store((60,), obs={"arm": state})
    common = {"num_stages_K": 1, "stride_S": 1, "clip_ratio": 100.0, "epsilon_mix": 0.0}
    plan = plan_of(store, gripper_event_enabled=True, gripper_dims="1", gripper_gamma=4.0, gripper_sigma=2.0, **common)
    assert plan.events_J.tolist() == [30]
    relative = plan.weights_P * 57  # one stage of 57 anchors
    assert relative[27:31] == pytest.approx(5)  # [27, 30], ..., [30, 33] hold it
    assert relative[31:34] == pytest.approx(1 + 4 * np.exp([-1 / 2, -1, -3 / 2]))
    assert relative[26:23:-1] == pytest.approx(1 + 4 * np.exp([-1 / 2, -1, -3 / 2]))
    hard = plan_of(
        store, gripper_event_enabled=True, gripper_dims="1", gripper_event_mode="hard", gripper_window_w=3, **common
    )
    heavy = hard.frames_P[hard.weights_P > 2 * hard.weights_P[0]]
    assert heavy.tolist() == list(range(24, 34))
    still = plan_of(tiny_store((60,), obs={"arm": np.zeros((60, 2), np.float32)}), gripper_event_enabled=True,
                    gripper_dims="1", **common)  # fmt: skip
    assert np.ptp(still.weights_P) == 0
    assert still.notes() == ["without a gripper event: episode 0"]
