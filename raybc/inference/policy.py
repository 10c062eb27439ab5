"""`raybc.load`: inference with a trained policy outside of rollouts.

    policy.reset(seed=0)              # start an episode
    action_A = policy.act(obs)        # the next action; the network runs once per chunk

Letters: H chunk, A action dim. Observations are name -> low-dimensional (size,) or image uint8 (height, width,
channels), in the physical units of the training data.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from raybc.bundle import PolicyBundle
from raybc.files import expanded
from raybc.find_bundle import find_bundle
from raybc.inference.agent import Agent
from raybc.inference.candidates import Noise
from raybc.inference.observations import ActionRange, validate_action_range, validate_observation
from raybc.inference.predictor import stack_rows
from raybc.inference.session import Session
from raybc.strict import check_type
from raybc.types import SampleSetting, UserError


def load(
    path: str | PathLike[str],
    checkpoint: str = "",
    changes: Mapping[str, Any] | None = None,
    action_range: ActionRange | None = None,
    device: str = "cpu",
) -> Policy:
    """See `raybc.load`. changes: fields of the sample setting to replace."""
    found = expanded(os.fspath(path))
    bundle, setting = load_bundle(found, checkpoint, changes)
    policy = Policy(Agent(bundle, device), setting, action_range)
    policy.path = find_bundle(found, checkpoint)[0]
    return policy


def load_bundle(
    path: Path, checkpoint: str = "", changes: Mapping[str, Any] | None = None
) -> tuple[PolicyBundle, SampleSetting]:
    """The policy at `path` and its sample setting.

    Args:
        path: a bundle, or the folder of a training run or a sweep.
        checkpoint: see `raybc.find_bundle.find_bundle`.
        changes: fields of the sample setting to replace.

    Raises `UserError` if there is no readable policy, or if a change is impossible or has no effect.
    """
    folder, chosen = find_bundle(path, checkpoint)
    bundle = PolicyBundle.load(folder)
    options = bundle.config.options()
    given = {name: check_type(value, options[name].hint, f"--{name}") for name, value in (changes or {}).items()}
    # One sample is what a policy without a critic has.
    bundle.config.check_sampling([name for name in given if (name, given[name]) != ("best_of_n", 1)], "--")
    setting = dataclasses.replace(chosen or bundle.config.sample_setting, **given)
    bundle.config.with_setting(setting).validate("--")
    return bundle, setting


class Policy:
    """A policy and the state of the current episode: history, remaining actions of the chunk, sampling noise."""

    path: Path | None = None
    """The bundle that it was loaded from."""

    def __init__(self, agent: Agent, setting: SampleSetting, action_range: ActionRange | None = None) -> None:
        self.bundle, self.setting = agent.bundle, setting
        self._agent = agent
        self._instruction = ""
        self._range = None if action_range is None else validate_action_range(action_range, self.bundle.action_size)
        self.reset()

    def reset(self, seed: int | None = None, instruction: str | None = None) -> None:
        """Start an episode.

        Args:
            seed: of the sampling noise, as in rollouts; None: random.
            instruction: what the robot should do, in words, for a policy that reads instructions; None: that of the
                episode before. `act` raises `UserError` without any.

        Raises `UserError` for an instruction that the policy does not know and cannot embed.
        """
        if instruction is not None:
            self.bundle.check_instruction(instruction)
            self._instruction = instruction
        self._session = Session(self.bundle, self.setting, seed)
        self._session.instruction = self._instruction
        self._due: deque[np.ndarray] = deque()

    def act(self, obs: Mapping[str, Any] | np.ndarray) -> np.ndarray:
        """The next action (A,), physical, float32. obs: the current observation; pass each step of the episode once.
        An array alone will do where the policy sees a single observation.

        Observations that the policy does not use are ignored. Raises `UserError` if one is missing, has another shape,
        or is not finite.
        """
        self.observe(obs)
        if not self._due:
            self._due.extend(self._session.plan(self._predict()))
        return self._clipped(self._due.popleft())

    def chunk(self, obs: Mapping[str, Any] | np.ndarray) -> np.ndarray:
        """The whole chunk (H, A) that follows `obs`, physical, float32, for callers that execute it themselves.

        If the policy sees several observation steps, pass the steps in between to `observe`. Raises as `act`.
        """
        self.observe(obs)
        return self._clipped(self._predict())

    def sample_actions(self, obs: Mapping[str, Any] | np.ndarray, n: int = 1, seed: int | None = None) -> np.ndarray:
        """n chunks (n, H, A) that the policy may give after `obs`, physical, float32: how certain it is.

        The episode does not change: nothing is observed, and no action is used up. Chunks are all equal for a policy
        without noise. With best_of_n each of them is the best of as many samples. seed: of the noise; None: random.
        Raises as `act`.
        """
        if n < 1:
            raise UserError(f"n: expected at least 1, got {n}")
        seen = self._session.seen_with(validate_observation(self.bundle.obs_sizes, self.bundle.images, obs))
        shape = (n, self.bundle.spec.horizon, self.bundle.spec.action_size)
        drawn = Noise(None if seed is None else [seed], self.setting.best_of_n).draw(shape)
        noise = drawn * self.setting.eval_temperature
        return self._clipped(self._agent.chunks(stack_rows([seen] * n), noise.astype(np.float32), self.setting))

    def observe(self, obs: Mapping[str, Any] | np.ndarray) -> None:
        """Observe a step without acting. Raises as `act`."""
        self._session.observe(validate_observation(self.bundle.obs_sizes, self.bundle.images, obs))

    def _predict(self) -> np.ndarray:
        obs, noise = self._session.request()
        return self._agent.chunks(stack_rows([obs]), noise[None], self.setting)[0]

    def _clipped(self, actions: np.ndarray) -> np.ndarray:
        return actions if self._range is None else np.clip(actions, *self._range)
