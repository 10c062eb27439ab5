"""Acting with a trained policy outside of rollouts: what `raybc.load` gives, and what it takes.

    policy.reset(seed=0)              # an episode begins
    action_A = policy.act(obs)        # the next action; the policy is asked once a chunk

Letters: H chunk, A action dim. Observations are name -> numbers (size,) or images uint8 (height, width, channels), in
physical units: those of the data that the policy was trained on.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from raybc.bundle import PolicyBundle
from raybc.inference.agent import Agent, stack_rows
from raybc.inference.observations import ActionRange, validate_action_range, validate_observation
from raybc.inference.session import Session
from raybc.rollout.checks import find_bundle
from raybc.types import SampleSetting


def load(
    path: str | PathLike[str],
    checkpoint: str = "",
    changes: Mapping[str, Any] | None = None,
    action_range: ActionRange | None = None,
    device: str = "cpu",
) -> Policy:
    """`raybc.load`; changes: fields of the sample setting to replace."""
    bundle, setting = load_bundle(Path(path), checkpoint, changes)
    return Policy(Agent(bundle, device), setting, action_range)


def load_bundle(
    path: Path, checkpoint: str = "", changes: Mapping[str, Any] | None = None
) -> tuple[PolicyBundle, SampleSetting]:
    """The policy at `path` (a bundle, a training run or a sweep) and its sample setting, of which `changes` replaces
    fields."""
    folder, chosen = find_bundle(path, checkpoint)
    bundle = PolicyBundle.load(folder)
    bundle.config.check_sampling(changes or (), "--")
    setting = dataclasses.replace(chosen or bundle.config.sample_setting, **(changes or {}))
    bundle.config.with_setting(setting).validate("--")
    return bundle, setting


class Policy:
    """A policy and the episode it is in: history, what is left of its chunk, sampling noise."""

    def __init__(self, agent: Agent, setting: SampleSetting, action_range: ActionRange | None = None) -> None:
        self.bundle, self.setting = agent.bundle, setting
        self._agent = agent
        self._range = None if action_range is None else validate_action_range(action_range, self.bundle.action_size)
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """An episode begins. seed: of the sampling noise, as an episode's start has one in rollouts; None: any."""
        self._session = Session(self.bundle, self.setting, seed)
        self._due: deque[np.ndarray] = deque()

    def act(self, obs: Mapping[str, Any]) -> np.ndarray:
        """The next action (A,), physical, float32. obs: what is observed now; each step of the episode once.

        Observations that the policy does not know are left alone; `UserError` where one is missing, or has another
        shape, or is not finite."""
        self.observe(obs)
        if not self._due:
            self._due.extend(self._session.plan(self._predict()))
        return self._clipped(self._due.popleft())

    def chunk(self, obs: Mapping[str, Any]) -> np.ndarray:
        """The whole chunk (H, A) that follows `obs`, physical, float32, for callers who execute it themselves.

        Where the policy sees several steps, tell it those on which no chunk is asked with `observe`."""
        self.observe(obs)
        return self._clipped(self._predict())

    def observe(self, obs: Mapping[str, Any]) -> None:
        """See a step without acting on it."""
        self._session.observe(validate_observation(self.bundle.obs_sizes, self.bundle.images, obs))

    def _predict(self) -> np.ndarray:
        obs, noise_HA = self._session.request()
        return self._agent.chunks(stack_rows([obs]), noise_HA[None], self.setting)[0]

    def _clipped(self, actions: np.ndarray) -> np.ndarray:
        return actions if self._range is None else np.clip(actions, *self._range)
