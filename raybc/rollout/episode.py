"""One episode of a policy in a simulator, as a pure function of (bundle, spec, setting).

Letters: H chunk, A action dim, O observation dim.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from raybc.bundle import PolicyBundle
from raybc.envs.base import SimEnv
from raybc.types import EpisodeResult, EpisodeSpec, SampleSetting, UserError

OnStep = Callable[[int, SimEnv], None]


class Agent:
    """Acts with a bundle: physical observations in, physical actions out."""

    def __init__(self, bundle: PolicyBundle) -> None:
        self.bundle = bundle
        self._policy = bundle.build()
        self._keys = tuple(bundle.obs_sizes)

    @property
    def chunk_shape(self) -> tuple[int, int]:
        shape = self._policy.shape
        return shape.horizon, shape.action_size

    def chunk(self, obs: Mapping[str, np.ndarray], noise_HA: np.ndarray, flow_steps: int) -> np.ndarray:
        """The next H actions, float32 (H, A), in physical units."""
        obs_O = self.bundle.obs_normalizer.apply(np.concatenate([obs[k] for k in self._keys]).astype(np.float32))
        with torch.no_grad():
            chunk = self._policy.sample(
                torch.from_numpy(obs_O)[None, None], torch.from_numpy(noise_HA)[None, None], flow_steps
            )
        return self.bundle.action_normalizer.invert(chunk[0, 0].numpy())


def run_episode(
    env: SimEnv,
    agent: Agent,
    spec: EpisodeSpec,
    setting: SampleSetting,
    max_steps: int,
    on_step: OnStep | None = None,
) -> EpisodeResult:
    """Run one start to its end with a receding horizon.

    A chunk is sampled only when the executed part of the last one is used up. Actions are clipped to the action space
    here and nowhere else. `on_step(step, env)` sees the environment after reset (step 0) and after each step; it must
    not change it. Exceptions of the simulator are the caller's to count.
    """
    horizon, action_size = agent.chunk_shape
    execute = setting.execute_steps or horizon
    if execute > horizon:
        raise UserError(f"execute_steps: expected at most the {horizon} steps of this policy's chunk, got {execute}")
    # The noise belongs to the start, not to the setting: settings are compared on the same draws.
    rng = np.random.default_rng([spec.seed, 1])
    low, high = env.action_space.low, env.action_space.high
    started = time.perf_counter()
    obs, info = env.reset(seed=spec.seed)
    if on_step is not None:
        on_step(0, env)
    total, steps, outcome = 0.0, 0, "timeout"
    while outcome == "timeout" and steps < max_steps:
        noise_HA = rng.standard_normal((horizon, action_size)).astype(np.float32) * setting.eval_temperature
        chunk_HA = agent.chunk(obs, noise_HA.astype(np.float32), setting.flow_steps)
        for action_A in chunk_HA[: min(execute, max_steps - steps)]:
            obs, reward, terminated, _, info = env.step(np.clip(action_A, low, high))
            steps += 1
            total += float(reward)
            if on_step is not None:
                on_step(steps, env)
            if info["success"]:
                outcome = "success"
                break
            if terminated:
                outcome = "failure"
                break
    return EpisodeResult(
        index=spec.index,
        seed=spec.seed,
        outcome=outcome,  # type: ignore[arg-type]
        episode_return=total,
        steps=steps,
        seconds=time.perf_counter() - started,
    )
