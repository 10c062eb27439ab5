"""Building the plan of a data set: which episodes, which starts, which stages, which weights.

Every step is a function of the parameters and the data alone; randomness comes from sha256, which is the same in every
process, on every platform and with every version of numpy. Letters: `raybc.data.plan.plan`; L frames of an episode.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.plan.config import PlanConfig
from raybc.data.plan.plan import SamplingPlan, last_starts
from raybc.data.plan.signals import change_points, distances, gripper_events
from raybc.data.plan.weights import advantage_weights, event_weights, stage_weights, tempered
from raybc.data.select import splits_of
from raybc.strict import digest
from raybc.types import UserError


def stable_hash(*parts: str | int) -> int:
    """An integer 0..2^64 - 1: the first 16 hex digits of the digest of `parts`, on every platform and version."""
    return int(digest(list(parts))[:16], 16)


def keep_episodes(episodes: np.ndarray, count: int, seed: int, source: str) -> np.ndarray:
    """`count` of `episodes` (0: all), int64, ascending: the first ones in an order that `seed` determines, so that 5
    are a subset of 10 and 10 of 20. source: for messages. Raises `UserError` where there are fewer."""
    if not len(episodes):
        raise UserError(f"{source}: mask/train: expected at least one episode to plan for, got none")
    if count > len(episodes):
        raise UserError(
            f"num_episodes_keep: expected at most the {len(episodes)} training episodes of {source}, got {count}"
        )
    order = sorted(episodes.tolist(), key=lambda e: stable_hash("episode", seed, e))
    return np.array(sorted(order[: count or len(order)]), np.int64)


def anchor_frames(lengths_E: np.ndarray, episodes_E: np.ndarray, stride: int, config: PlanConfig) -> list[np.ndarray]:
    """The anchors of each episode, frames, int64: valid starts f with (f - offset) mod stride = 0, where offset is
    hash(plan_seed, episode) mod stride. lengths_E: frames of each episode. episodes_E: their numbers."""
    offsets = [stable_hash("offset", config.plan_seed, e) % stride for e in episodes_E.tolist()]
    return [
        np.arange(offset, last + 1, stride)
        for offset, last in zip(offsets, last_starts(lengths_E, config).tolist(), strict=True)
    ]


def time_stages(frames: np.ndarray, length: int, config: PlanConfig) -> np.ndarray:
    """clip(floor(K f / (L - H)), 0, K - 1) of each frame f, int64. Where L <= H there is at most one complete window:
    frame 0 is stage 0 and later frames are stage K - 1 (the limit of the formula, whose denominator would not be
    positive). length: L."""
    share = config.num_stages_K * frames // max(length - config.horizon_length, 1)
    return np.clip(share, 0, config.num_stages_K - 1)


def build_plan(
    store: EpisodeStore, config: PlanConfig, repo_id: str, fingerprint: str | None = None,
    scored_E: np.ndarray | None = None,
) -> SamplingPlan:  # fmt: skip
    """The plan of the training episodes of `store` (its split `train`, or all where there is none).

    repo_id: the name of the data set to record in the plan. fingerprint: `store.fingerprint()`, if it is already known.
    scored_E: with weights quality the weight of every episode of the data set (`Scores.weights`), float64 above 0.
    Raises `UserError` for impossible parameters, more episodes than there are, state keys that the data do not have,
    and fewer anchors than required.
    """
    config.validate()
    config = dataclasses.replace(config, state_keys=",".join(_state_keys(store, config)))
    source = str(store.source)
    episodes_E = keep_episodes(splits_of(store)[0], config.num_episodes_keep, config.episode_selection_seed, source)
    begins_E = store.episode_starts[episodes_E].astype(np.int64)
    lengths_E = store.episode_ends[episodes_E].astype(np.int64) - begins_E
    stride, frames = _enough_anchors(lengths_E, episodes_E, config)

    states = _states(store, config, begins_E, lengths_E)
    cuts = [change_points(s, config) for s in states] if config.stage_strategy == "change_point_state" else []
    events = [gripper_events(s, config) for s in states] if config.gripper_event_enabled else []
    stages_P = np.concatenate(
        [np.searchsorted(c, f, side="right") for c, f in zip(cuts, frames, strict=True)]
        if cuts
        else [time_stages(f, n, config) for f, n in zip(frames, lengths_E.tolist(), strict=True)]
    )
    weights_P = stage_weights(stages_P, config)
    if events:
        near = [distances(f, e, config.horizon_length) for f, e in zip(frames, events, strict=True)]
        weights_P = weights_P * event_weights(np.concatenate(near), config)
    worth_E = None if scored_E is None else np.ascontiguousarray(scored_E[episodes_E], "<f8")
    if config.weights == "advantage":
        worth_E = advantage_weights(store, episodes_E, config).astype("<f8")
    if worth_E is not None:
        weights_P = weights_P * np.repeat(worth_E, [len(f) for f in frames])
    return SamplingPlan(
        config=config,
        repo_id=repo_id,
        dataset_fingerprint=fingerprint or store.fingerprint(),
        dataset_len=len(store.actions_NA),
        stride_used=stride,
        anchors_P=_flat(frames, begins_E),
        weights_P=tempered(weights_P, config).astype("<f8"),
        stages_P=stages_P.astype("<i8"),
        events_J=_flat(events, begins_E),
        boundaries_Q=_flat(cuts, begins_E),
        episodes_E=episodes_E,
        begins_E=begins_E,
        lengths_E=lengths_E,
        worth_E=worth_E,
    )


def _enough_anchors(lengths_E: np.ndarray, episodes_E: np.ndarray, config: PlanConfig) -> tuple[int, list[np.ndarray]]:
    """The largest stride of S, S / 2, S / 4, ..., 1 (rounded down) with enough anchors, and these anchors."""
    stride = config.stride_S
    while True:
        frames = anchor_frames(lengths_E, episodes_E, stride, config)
        count = sum(map(len, frames))
        if count >= config.required_anchors:
            return stride, frames
        if stride == 1:
            raise not_enough_anchors(config.required_anchors, count, "with stride_S = 1")
        stride //= 2


def not_enough_anchors(expected: int, got: int, where: str) -> UserError:
    """The error that `where` there are too few anchors for a batch."""
    return UserError(
        f"Not enough anchors for one batch: expected at least {expected}, got {got} {where}; raise num_episodes_keep "
        "or valid_start_tail_keep, or lower stride_S, min_anchors or batch_size"
    )


def _state_keys(store: EpisodeStore, config: PlanConfig) -> tuple[str, ...]:
    """The observations that make up the state: those of the parameters, or all low-dimensional ones, sorted."""
    return config.keys or tuple(sorted(k for k, v in store.obs.items() if v.ndim == 2 and v.dtype.kind == "f"))


def _states(store: EpisodeStore, config: PlanConfig, begins_E: np.ndarray, lengths_E: np.ndarray) -> list[np.ndarray]:
    """The state, float32 (L, D), of each kept episode; [] where neither stages nor events use it."""
    if config.stage_strategy != "change_point_state" and not config.gripper_event_enabled:
        return []
    if not config.keys:
        raise UserError(f"{store.source}: state_keys: expected low-dimensional observations, got {sorted(store.obs)}")
    parts = [store.observation((key,)) for key in config.keys]
    size = sum(p.shape[1] for p in parts)
    if config.gripper_event_enabled and max(config.dims) >= size:
        sizes = ", ".join(f"{k} {p.shape[1]}" for k, p in zip(config.keys, parts, strict=True))
        raise UserError(
            f"gripper_dims: expected dimensions of the state, 0..{size - 1} ({sizes}), got {max(config.dims)}"
        )
    return [
        np.concatenate([p[begin : begin + length] for p in parts], axis=1)
        for begin, length in zip(begins_E.tolist(), lengths_E.tolist(), strict=True)
    ]


def _flat(frames: list[np.ndarray], begins_E: np.ndarray) -> np.ndarray:
    """Frames of each episode as indices of the data set, little-endian int64."""
    if not frames:
        return np.zeros(0, "<i8")
    return np.concatenate([b + f for b, f in zip(begins_E, frames, strict=True)]).astype("<i8")
