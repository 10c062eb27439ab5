"""Weights of the anchors: how often each is drawn. Letters: P anchors."""

from __future__ import annotations

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.plan.config import PlanConfig
from raybc.types import UserError


def stage_weights(stages_P: np.ndarray, config: PlanConfig) -> np.ndarray:
    """1 / (number of anchors in the stage), with `inv_freq` to the power p; float64 (P,). stages_P: int64 (P,)."""
    power = config.inv_freq_power if config.stage_balance == "inv_freq" else 1.0
    counts = np.bincount(stages_P)[stages_P].astype(np.float64)
    return counts**-power


def event_weights(distances_P: np.ndarray, config: PlanConfig) -> np.ndarray:
    """1 + gamma m, float64 (P,), with m = exp(-dist / sigma) or, in mode `hard`, m = 1 where dist <= w.

    distances_P: steps to the nearest event, float64; inf without events (m = 0).
    """
    if config.gripper_event_mode == "soft_exp":
        near_P = np.exp(-distances_P / config.gripper_sigma)
    else:
        near_P = (distances_P <= config.gripper_window_w).astype(np.float64)
    return 1 + config.gripper_gamma * near_P


def advantage_weights(store: EpisodeStore, episodes_E: np.ndarray, config: PlanConfig) -> np.ndarray:
    """exp(A / beta) of `episodes_E`, float64 (E,) above 0: A is the (discounted) return of an episode minus the mean of
    these episodes, in standard deviations.

    (Peng et al. 2019, "Advantage-Weighted Regression", of whole episodes.)

    Raises `UserError` for data without rewards, and for returns that are all equal.
    """
    begins, ends, rewards = store.episode_starts, store.episode_ends, store.rewards_N.astype(np.float64)
    returns_E = np.array(
        [rewards[begins[e] : ends[e]] @ config.discount ** np.arange(ends[e] - begins[e]) for e in episodes_E]
    )
    spread = returns_E.std()
    if any(note.kind == "rewards" for note in store.notes) or not spread > 1e-9 * np.abs(returns_E).max(initial=0):
        raise UserError(
            f"weights: {store.source}: expected episodes with different returns for weights advantage, got "
            f"{len(returns_E)} with {returns_E[0]:g}; with discount below 1, rewards that come early count more"
        )
    found: np.ndarray = np.exp((returns_E - returns_E.mean()) / spread / config.beta)
    return found


def tempered(weights_P: np.ndarray, config: PlanConfig) -> np.ndarray:
    """Weights clipped to [median / clip_ratio, median x clip_ratio], then (1 - epsilon) w + epsilon mean(w)."""
    median = np.median(weights_P)
    cut_P = np.clip(weights_P, median / config.clip_ratio, median * config.clip_ratio)
    return (1 - config.epsilon_mix) * cut_P + config.epsilon_mix * cut_P.mean()
