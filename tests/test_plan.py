"""Plans: the formulas of the guide, against plain loops and against cases that are known beforehand."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from raybc.data.plan.build import anchor_frames, keep_episodes, stable_hash, time_stages
from raybc.data.plan.config import PlanConfig
from raybc.data.plan.verify import check_rebuilt
from raybc.data.plan.weights import event_weights, stage_weights, tempered
from raybc.types import UserError
from tests.helpers import tiny_store
from tests.plans import config, naive_plan, plan_of, tiny_plan


def random_config(rng: np.random.Generator) -> PlanConfig:
    return PlanConfig(
        horizon_length=int(rng.integers(1, 12)),
        batch_size=int(rng.integers(1, 9)),
        num_episodes_keep=int(rng.integers(0, 7)),
        episode_selection_seed=int(rng.integers(5)),
        valid_start_tail_keep=int(rng.integers(0, 14)),
        stride_S=int(rng.integers(1, 6)),
        plan_seed=int(rng.integers(5)),
        stage_strategy=rng.choice(["time_quantile", "change_point_state"]),
        num_stages_K=int(rng.integers(1, 7)),
        change_point_delta=int(rng.integers(1, 5)),
        change_point_min_gap=int(rng.integers(1, 9)),
        stage_balance=rng.choice(["uniform_over_stage", "inv_freq"]),
        inv_freq_power=float(rng.uniform(0, 3)),
        clip_ratio=float(rng.uniform(1, 12)),
        epsilon_mix=float(rng.uniform(0, 1)),
        gripper_event_enabled=bool(rng.integers(2)),
        gripper_dims="1,4",
        gripper_smooth_window=int(rng.choice([1, 3, 5, 7])),
        gripper_delta1=int(rng.integers(1, 4)),
        gripper_delta2=int(rng.integers(1, 7)),
        gripper_quantile_q=float(rng.uniform(0.3, 1)),
        gripper_min_gap=int(rng.integers(1, 9)),
        gripper_event_mode=rng.choice(["soft_exp", "hard"]),
        gripper_sigma=float(rng.uniform(0.5, 20)),
        gripper_window_w=int(rng.integers(0, 9)),
        gripper_gamma=float(rng.uniform(0, 5)),
    )


def test_plans_are_what_plain_loops_make() -> None:
    """Random data (whole numbers, so that equal scores occur) with random parameters: every array of the plan."""
    compared = 0
    for seed in range(250):
        rng = np.random.default_rng(seed)
        store = tiny_store(tuple(rng.integers(1, 40, 8)), seed=seed, splits={"train": [0, 1, 2, 4, 6, 7]})
        if seed % 2:
            store = dataclasses.replace(store, obs={k: np.round(v) for k, v in store.obs.items()})
        c = random_config(rng)
        try:
            plan = plan_of(store, **dataclasses.asdict(c))
        except UserError as error:
            assert "Not enough anchors" in str(error)  # noqa: PT017
            continue
        expected = naive_plan(store, c, plan.stride_used)
        for name, values in expected.items():
            got = plan.arrays()[name]
            if name == "weights":
                np.testing.assert_allclose(got, values, rtol=1e-12, err_msg=f"seed {seed}")
            else:
                assert got.tolist() == values, f"seed {seed}: {name}"
        for doubled in range(plan.stride_used * 2, c.stride_S + 1):
            if doubled in {c.stride_S >> i for i in range(4)}:
                assert len(naive_plan(store, c, doubled)["anchor_indices"]) < c.batch_size, "halved without need"
        compared += 1
    assert compared > 150


# Episodes


@pytest.mark.parametrize("seed", range(20))
def test_fewer_episodes_are_a_part_of_more(seed: int) -> None:
    episodes = np.arange(3, 53)
    kept = {n: set(keep_episodes(episodes, n, seed, "x").tolist()) for n in (1, 5, 10, 20, 50)}
    assert [len(k) for k in kept.values()] == [1, 5, 10, 20, 50]
    assert kept[1] < kept[5] < kept[10] < kept[20] < kept[50] == set(episodes.tolist())
    assert keep_episodes(episodes, 0, seed, "x").tolist() == episodes.tolist()


def test_seeds_choose_fairly() -> None:
    """Over 2000 seeds each of 10 episodes is among 3 kept about 600 times (5 standard deviations: 102)."""
    counts = np.bincount(np.concatenate([keep_episodes(np.arange(10), 3, s, "x") for s in range(2000)]))
    assert np.abs(counts - 600).max() < 102


def test_only_training_episodes_are_planned_for() -> None:
    store = tiny_store((9, 9, 9, 9), splits={"train": [1, 3], "valid": [0]})
    assert plan_of(store, stride_S=1).episodes_E.tolist() == [1, 3]
    with pytest.raises(
        UserError, match=r"num_episodes_keep: expected at most the 2 training episodes of tiny.hdf5, got 3"
    ):
        plan_of(store, num_episodes_keep=3)
    with pytest.raises(UserError, match="mask/train: expected at least one episode"):
        plan_of(tiny_store((9, 9), splits={"train": []}))


# Starts


@pytest.mark.parametrize(
    ("length", "horizon", "tail", "starts"),
    [
        (10, 4, 0, 7),  # f <= 6
        (10, 4, 2, 9),
        (10, 4, 3, 10),  # every frame
        (10, 4, 99, 10),  # clamped to H - 1
        (4, 4, 0, 1),  # L = H
        (3, 4, 0, 0),  # L < H: no whole window
        (3, 4, 1, 1),
        (3, 4, 3, 3),
        (1, 1, 0, 1),
    ],
)
def test_valid_starts(length: int, horizon: int, tail: int, starts: int) -> None:
    c = config(horizon_length=horizon, valid_start_tail_keep=tail)
    (frames,) = anchor_frames(np.array([length]), np.array([0]), 1, c)
    assert frames.tolist() == list(range(starts))


def test_a_negative_tail_is_none() -> None:
    plan = tiny_plan(valid_start_tail_keep=-5)
    assert plan.meta()["valid_start_rule"] == {"formula": "f <= min(L - H + tail_keep, L - 1)", "tail_keep": 0}
    assert plan.notes() == ["valid_start_tail_keep was cut: -5 to 0 (0..H - 1)"]


def test_offsets_depend_on_seed_and_episode() -> None:
    lengths, episodes = np.full(200, 50), np.arange(200)
    offsets = {s: [f[0] for f in anchor_frames(lengths, episodes, 8, config(plan_seed=s))] for s in (0, 1)}
    assert offsets[0] != offsets[1]
    counts = np.bincount(offsets[0], minlength=8)
    assert len(counts) == 8
    assert counts.min() > 8
    for frames in anchor_frames(lengths, episodes, 8, config()):
        assert set(np.diff(frames)) == {8}


def test_halving_adds_anchors_and_drops_none() -> None:
    lengths, episodes = np.array([40, 55, 23]), np.array([2, 5, 9])
    coarse, fine = (anchor_frames(lengths, episodes, s, config()) for s in (8, 4))
    assert all(set(a.tolist()) < set(b.tolist()) for a, b in zip(coarse, fine, strict=True))


@pytest.mark.parametrize(("least", "stride"), [(5, 16), (6, 8), (9, 8), (18, 4), (19, 2), (37, 2), (76, 1)])
def test_the_stride_is_halved_until_there_are_enough(least: int, stride: int) -> None:
    plan = tiny_plan(stride_S=16, min_anchors=least)
    assert plan.stride_used == stride
    assert len(plan.anchors_P) >= least
    halved = f"stride_S was halved: 16 to {stride}, to have {least} anchors"
    assert (halved in plan.notes()) == (stride < 16)


def test_too_few_anchors_are_refused() -> None:
    with pytest.raises(
        UserError, match="Not enough anchors for one batch: expected at least 77, got 76 with stride_S = 1"
    ):
        tiny_plan(stride_S=16, min_anchors=77)
    with pytest.raises(UserError, match="Not enough anchors for one batch: expected at least 8, got 0"):
        tiny_plan((3, 2, 1))


def test_fewer_anchors_than_a_batch_may_be_asked_for() -> None:
    plan = tiny_plan(stride_S=16, min_anchors=5)
    assert plan.notes()[0] == "5 anchors do not fill a batch of 8: trainings refuse it"


def test_episodes_without_a_start_are_named() -> None:
    plan = tiny_plan((20, 2, 30, 3), num_stages_K=1)
    assert plan.notes() == ["without an anchor (too short for H = 4 and stride 2): episodes 1, 3"]
    assert set(plan.rows_of(plan.anchors_P)) == {0, 2}


# Stages


def test_time_stages_of_known_episodes() -> None:
    c = config(num_stages_K=4)
    assert time_stages(np.arange(9), 12, c).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]  # L - H = 8
    assert time_stages(np.arange(4), 4, c).tolist() == [0, 3, 3, 3]  # L = H: the denominator would be 0
    assert time_stages(np.arange(3), 3, c).tolist() == [0, 3, 3]  # L < H
    assert time_stages(np.arange(12), 12, config(num_stages_K=1)).tolist() == [0] * 12


@pytest.mark.parametrize("strategy", ["time_quantile", "change_point_state"])
def test_uniform_over_stage_draws_every_stage_equally(strategy: Any) -> None:
    plan = tiny_plan((60, 71, 44), stage_strategy=strategy, clip_ratio=1e9, epsilon_mix=0, stride_S=1)
    drawn = np.bincount(plan.stages_P, plan.weights_P) / plan.weights_P.sum()
    np.testing.assert_allclose(drawn, 1 / len(np.unique(plan.stages_P)))


def test_inverse_frequencies() -> None:
    stages = np.array([0, 0, 0, 0, 1, 2, 2])
    for power in (0.0, 0.5, 1.0, 2.0):
        weights = stage_weights(stages, config(stage_balance="inv_freq", inv_freq_power=power))
        np.testing.assert_allclose(weights, [4**-power] * 4 + [1] + [2**-power] * 2)
    np.testing.assert_allclose(stage_weights(stages, config(inv_freq_power=9)), [0.25] * 4 + [1] + [0.5] * 2)


def test_a_state_step_is_a_boundary() -> None:
    """Two steps of the state at known frames cut the episode there; the third stage that was asked for is missing."""
    state = np.zeros((40, 3), np.float32)
    state[13:] += [1, 0, 0]
    state[29:] += [0, 0, 2]
    store = tiny_store((40,), obs={"arm": state})
    plan = plan_of(store, stage_strategy="change_point_state", num_stages_K=4, stride_S=1)
    assert plan.boundaries_Q.tolist() == [13, 29]
    assert plan.stages_P.tolist() == [0] * 13 + [1] * 16 + [2] * 8
    assert plan.notes() == ["stages without an anchor: 3", "fewer than 4 stages (too few peaks): episode 0"]
    only = plan_of(store, stage_strategy="change_point_state", num_stages_K=2, stride_S=1)
    assert only.boundaries_Q.tolist() == [29], "the highest peak"
    assert plan_of(store, stage_strategy="change_point_state", num_stages_K=1, stride_S=1).boundaries_Q.tolist() == []


# Weights


def test_events_raise_weights() -> None:
    distances = np.array([0, 5, 10, 11, np.inf])
    soft = event_weights(distances, config(gripper_sigma=10, gripper_gamma=2))
    np.testing.assert_allclose(soft, 1 + 2 * np.exp([0, -0.5, -1, -1.1, -np.inf]))
    hard = event_weights(distances, config(gripper_event_mode="hard", gripper_window_w=10, gripper_gamma=3))
    assert hard.tolist() == [4, 4, 4, 1, 1]


def test_weights_are_cut_and_mixed() -> None:
    weights = np.array([0.001, 1, 2, 3, 4000.0])
    assert tempered(weights, config(clip_ratio=4, epsilon_mix=0)).tolist() == [0.5, 1, 2, 3, 8]
    half = tempered(weights, config(clip_ratio=4, epsilon_mix=0.5))
    np.testing.assert_allclose(half, 0.5 * np.array([0.5, 1, 2, 3, 8]) + 0.5 * 2.9)
    for same in (config(clip_ratio=1), config(epsilon_mix=1)):
        assert np.ptp(tempered(weights, same)) == 0
    np.testing.assert_allclose(tempered(np.full(7, 3.0), config()), 3.0)


def test_episodes_of_high_return_are_drawn_more_often() -> None:
    """exp(A / beta) with the returns 0, 1 and 3 of equally long episodes; a plan that is built again is the same."""
    rewards = np.zeros(60, np.float32)
    rewards[[25, 45, 59]] = 1, 2, 1
    store = tiny_store((20, 20, 20), rewards_N=rewards)
    options = {"weights": "advantage", "num_stages_K": 1, "clip_ratio": 1e6, "epsilon_mix": 0.0, "batch_size": 4}
    plan = plan_of(store, beta=0.5, **options)
    advantages = (np.array([0, 1, 3]) - 4 / 3) / np.std([0, 1, 3])
    assert plan.worth_E is not None
    np.testing.assert_allclose(plan.worth_E, np.exp(advantages / 0.5))
    episodes = plan.anchors_P // 20
    np.testing.assert_allclose(plan.weights_P / plan.weights_P[0], plan.worth_E[episodes] / plan.worth_E[episodes[0]])
    check_rebuilt(plan, store)
    early = tiny_store((20, 20), rewards_N=np.isin(np.arange(40), (5, 39)).astype(np.float32))
    worth_E = plan_of(early, discount=0.9, **options).worth_E
    assert worth_E is not None
    assert worth_E[0] > worth_E[1], "one reward each, after 5 and after 19 steps"


def test_returns_that_are_equal_are_refused() -> None:
    with pytest.raises(UserError, match="expected episodes with different returns for weights advantage, got 2 with 0"):
        plan_of(tiny_store((20, 20), rewards_N=np.zeros(40, np.float32)), weights="advantage", batch_size=4)
    with pytest.raises(UserError, match="beta: has no effect without weights advantage"):
        config(beta=2.0).validate()


def test_weights_that_vanish_are_refused() -> None:
    with pytest.raises(UserError, match="weights: expected finite numbers above 0; lower inv_freq_power"):
        tiny_plan(stage_balance="inv_freq", inv_freq_power=1e4)


# Parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon_length": 0}, "horizon_length: expected at least 1, got 0"),
        ({"num_episodes_keep": -1}, "num_episodes_keep: expected at least 0, got -1"),
        ({"stride_S": 0}, "stride_S: expected at least 1, got 0"),
        ({"clip_ratio": 0.5}, "clip_ratio: expected at least 1, got 0.5"),
        ({"clip_ratio": float("nan")}, "clip_ratio: expected at least 1, got nan"),
        ({"epsilon_mix": 1.1}, "epsilon_mix: expected 0..1, got 1.1"),
        ({"gripper_quantile_q": float("nan")}, "gripper_quantile_q: expected 0..1"),
        ({"gripper_sigma": 0.0}, "gripper_sigma: expected a finite number above 0"),
        ({"gripper_smooth_window": 4}, "gripper_smooth_window: expected an odd number"),
        ({"gripper_event_enabled": True}, "gripper_dims: expected the dimensions of the state that are grippers"),
        (
            {"gripper_event_enabled": True, "gripper_dims": "1,-2"},
            "gripper_dims: expected dimensions of the state, from 0",
        ),
        ({"gripper_event_enabled": True, "gripper_dims": "5"}, r"state, 0..4 \(arm 3, cube 2\), got 5"),
        ({"stage_strategy": "change_point_state", "state_keys": "leg"}, "expected observation 'leg'"),
    ],
)
def test_impossible_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_plan(**changes)


def test_the_state_is_what_was_asked_for() -> None:
    store = tiny_store((50, 40))
    by_name = plan_of(store, gripper_event_enabled=True, gripper_dims="1")
    assert by_name.config.state_keys == "arm,cube"
    turned = plan_of(store, gripper_event_enabled=True, gripper_dims="3", state_keys=" cube, arm")
    assert turned.config.state_keys == "cube,arm"
    assert turned.events_J.tolist() == by_name.events_J.tolist(), "arm[1] either way"


def test_plans_need_neither_torch_nor_ray() -> None:
    code = (
        "import sys, raybc.data.plan.files, raybc.data.plan.verify, raybc.data.plan.exposure, raybc.data.plan.sampler\n"
        "print(*[m for m in ('torch', 'ray', 'gymnasium', 'tyro', 'plotly', 'h5py') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_the_hash_is_the_same_everywhere() -> None:
    """Pinned: plans that people keep must be found again by later versions, other processes, other platforms."""
    assert stable_hash("offset", 0, 7) == 7709410589245080912
    code = (
        "from tests.plans import tiny_plan, config\n"
        "print(tiny_plan(num_episodes_keep=3, gripper_event_enabled=True, gripper_dims='0').plan_sha256)"
    )
    here = tiny_plan(num_episodes_keep=3, gripper_event_enabled=True, gripper_dims="0").plan_sha256
    for seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        assert out.stdout.strip() == here
