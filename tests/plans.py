"""Plans of small data for several tests, and the formulas of the guide written down as plain loops."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.plan.build import build_plan, stable_hash
from raybc.data.plan.config import PlanConfig
from raybc.data.plan.plan import SamplingPlan
from tests.helpers import tiny_store


def config(**changes: Any) -> PlanConfig:
    """Windows of 4 steps, batches of 8."""
    return PlanConfig(**{"horizon_length": 4, "batch_size": 8, **changes})


def plan_of(store: EpisodeStore, **changes: Any) -> SamplingPlan:
    return build_plan(store, config(**changes), "tiny")


def tiny_plan(lengths: tuple[int, ...] = (20, 31, 12, 25), **changes: Any) -> SamplingPlan:
    return plan_of(tiny_store(lengths), **changes)


def naive_peaks(score: list[float], gap: int, most: int | None, floor: float) -> list[int]:
    found = []
    for t in range(len(score)):
        if t > 0 and score[t - 1] == score[t]:
            continue  # not the first of its run
        end = t
        while end + 1 < len(score) and score[end + 1] == score[t]:
            end += 1
        if t == 0 and end == len(score) - 1:
            continue  # it never changes
        higher_than_left = t == 0 or score[t - 1] < score[t]
        higher_than_right = end == len(score) - 1 or score[end + 1] < score[t]
        if higher_than_left and higher_than_right and score[t] > 0 and score[t] >= floor:
            found.append(t)
    taken: list[int] = []
    for t in sorted(found, key=lambda t: (-score[t], t)):
        if (most is None or len(taken) < most) and all(abs(t - other) >= gap for other in taken):
            taken.append(t)
    return sorted(taken)


def naive_change_points(state: np.ndarray, c: PlanConfig) -> list[int]:
    score = []
    for t in range(len(state)):
        before = max(t - c.change_point_delta, 0)
        score.append(float(np.linalg.norm(state[t].astype(float) - state[before].astype(float))))
    return naive_peaks(score, c.change_point_min_gap, c.num_stages_K - 1, 0.0)


def naive_events(state: np.ndarray, c: PlanConfig) -> list[int]:
    n = len(state)
    grip = [max(abs(float(state[t, d])) for d in c.dims) for t in range(n)]
    half = c.gripper_smooth_window // 2
    smooth = [statistics.median(grip[min(max(t + k, 0), n - 1)] for k in range(-half, half + 1)) for t in range(n)]
    longest = max(c.gripper_delta1, c.gripper_delta2)
    if n <= longest:
        return []
    moved = [
        max(abs(smooth[t] - smooth[max(t - delta, 0)]) for delta in (c.gripper_delta1, c.gripper_delta2))
        for t in range(n)
    ]
    tau = float(np.quantile(moved[longest:], c.gripper_quantile_q))
    return naive_peaks(moved, c.gripper_min_gap, None, tau)


def naive_plan(store: EpisodeStore, c: PlanConfig, stride: int) -> dict[str, list[Any]]:
    """The arrays of a plan, anchor by anchor."""
    H, K = c.horizon_length, c.num_stages_K
    episodes = sorted(store.split("train").tolist(), key=lambda e: stable_hash("episode", c.episode_selection_seed, e))
    keep = sorted(episodes[: c.num_episodes_keep or len(episodes)])
    tail = max(0, min(c.valid_start_tail_keep, H - 1))
    anchors, stages, distances, all_events, all_cuts = [], [], [], [], []
    for e in keep:
        begin, end = int(store.episode_starts[e]), int(store.episode_ends[e])
        L = end - begin
        state = np.concatenate([store.obs[k][begin:end] for k in sorted(store.obs)], axis=1)
        cuts = naive_change_points(state, c) if c.stage_strategy == "change_point_state" else []
        events = naive_events(state, c) if c.gripper_event_enabled else []
        all_cuts += [begin + t for t in cuts]
        all_events += [begin + t for t in events]
        offset = stable_hash("offset", c.plan_seed, e) % stride
        for f in range(L):
            if not f <= min(L - H + tail, L - 1) or (f - offset) % stride != 0:
                continue
            anchors.append(begin + f)
            if c.stage_strategy == "change_point_state":
                stages.append(sum(b <= f for b in cuts))
            elif L - H <= 0:
                stages.append(0 if f == 0 else K - 1)
            else:
                stages.append(min(max(math.floor(K * f / (L - H)), 0), K - 1))
            window = range(f, f + H)
            distances.append(min((abs(t - event) for event in events for t in window), default=math.inf))
    weights = []
    for stage, distance in zip(stages, distances, strict=True):
        power = c.inv_freq_power if c.stage_balance == "inv_freq" else 1
        base = 1 / stages.count(stage) ** power
        m = math.exp(-distance / c.gripper_sigma)
        if c.gripper_event_mode == "hard":
            m = 1.0 if distance <= c.gripper_window_w else 0.0
        weights.append(base * (1 + c.gripper_gamma * m) if c.gripper_event_enabled else base)
    median = statistics.median(weights)
    weights = [min(max(w, median / c.clip_ratio), median * c.clip_ratio) for w in weights]
    mean = sum(weights) / len(weights)
    weights = [(1 - c.epsilon_mix) * w + c.epsilon_mix * mean for w in weights]
    return {
        "anchor_indices": anchors, "stage_ids": stages, "weights": weights, "event_indices": all_events,
        "boundary_indices": all_cuts, "episodes_keep": keep,
    }  # fmt: skip
