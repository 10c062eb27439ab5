"""One episode of a policy in a simulator, as a pure function of (bundle, spec, setting).

`Episode` is one start under way: it asks for a chunk when it needs one and executes it. Who answers, and together with
which other episodes, is not its business. Letters: H chunk, A action dim, T observation steps, O observation dim.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from raybc.bundle import PolicyBundle
from raybc.envs.base import Obs, SimEnv
from raybc.rollout.agent import Actor, stack, stack_steps
from raybc.types import EpisodeResult, EpisodeSpec, Outcome, SampleSetting, UserError

OnStep = Callable[[int, SimEnv], None]


class Episode:
    """One start in one simulator, with a receding horizon; all of its state is its own.

    A chunk is asked for only when the executed part of the last one is used up. Actions are clipped to the action
    space here and nowhere else. `on_step(step, env)` sees the environment after reset (step 0) and after each step; it
    must not change it. Exceptions of the simulator are the caller's to count.
    """

    def __init__(
        self,
        env: SimEnv,
        bundle: PolicyBundle,
        spec: EpisodeSpec,
        setting: SampleSetting,
        max_steps: int,
        on_step: OnStep | None = None,
    ) -> None:
        self._env, self.spec, self.setting = env, spec, setting
        self._max_steps, self._on_step = max_steps, on_step
        self._keys, self._obs_steps = tuple(bundle.obs_sizes), bundle.config.obs_steps
        self._pictures = tuple(bundle.pictures)
        self._chunk_shape = (bundle.shape.horizon, bundle.action_size)
        horizon = self._chunk_shape[0]
        self._between = setting.steps_between(horizon)
        if self._between > horizon:
            raise UserError(
                f"execute_steps: expected at most the {horizon} steps of this policy's chunk, got {self._between}"
            )
        self._low, self._high = env.action_space.low, env.action_space.high
        # The noise belongs to the start, not to the setting: settings are compared on the same draws.
        self._rng = np.random.default_rng([spec.seed, 1])
        self._chunks: deque[tuple[int, np.ndarray]] = deque()  # (step at which it begins, chunk), the oldest first
        self._total, self._best, self._steps = 0.0, -np.inf, 0
        self.outcome: Outcome | None = None
        self.seconds = 0.0
        started = time.perf_counter()
        obs, _ = env.reset(seed=spec.seed)
        self._observed: deque[Obs] = deque([obs], maxlen=self._obs_steps)
        if on_step is not None:
            on_step(0, env)
        self.seconds += time.perf_counter() - started

    def question(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """What the policy is asked: observations (T, O), physical, and noise (H, A), both float32; pictures by name,
        uint8 (T, height, width, channels)."""
        noise_HA = self._rng.standard_normal(self._chunk_shape).astype(np.float32) * self.setting.eval_temperature
        seen = list(self._observed)
        pictures = {name: stack_steps([obs[name] for obs in seen], self._obs_steps) for name in self._pictures}
        return stack(seen, self._keys, self._obs_steps), noise_HA.astype(np.float32), pictures

    def execute(self, chunk_HA: np.ndarray) -> None:
        """Execute what is due of a new chunk, physical (H, A): until the next one is needed or the episode ends."""
        started = time.perf_counter()
        for action_A in self._actions(chunk_HA):
            self._step(action_A)
            if self.outcome is not None:
                break
        self.seconds += time.perf_counter() - started

    def _actions(self, chunk_HA: np.ndarray) -> np.ndarray:
        """The next actions, clipped: (steps, A)."""
        count = min(self._between, self._max_steps - self._steps)
        if self.setting.temporal_ensemble < 0:
            return np.clip(chunk_HA[:count], self._low, self._high)
        self._chunks.append((self._steps, chunk_HA))
        while self._steps - self._chunks[0][0] >= len(chunk_HA):
            self._chunks.popleft()
        actions = []
        for step in range(self._steps, self._steps + count):
            said = np.stack([c[step - first] for first, c in self._chunks if step - first < len(c)])
            weights = np.exp(-self.setting.temporal_ensemble * np.arange(len(said)))
            actions.append((weights / weights.sum()) @ said)
        return np.clip(np.array(actions, np.float32), self._low, self._high)

    def _step(self, action_A: np.ndarray) -> None:
        obs, reward, terminated, _, info = self._env.step(action_A)
        self._observed.append(obs)
        self._steps += 1
        self._total += reward
        if reward > self._best:
            self._best = reward
        if self._on_step is not None:
            self._on_step(self._steps, self._env)
        if info["success"]:
            self.outcome = "success"
        elif terminated:
            self.outcome = "failure"
        elif self._steps >= self._max_steps:
            self.outcome = "timeout"

    def result(self) -> EpisodeResult:
        assert self.outcome is not None
        return EpisodeResult(
            index=self.spec.index,
            seed=self.spec.seed,
            outcome=self.outcome,
            episode_return=float(self._total),
            steps=self._steps,
            seconds=self.seconds,
            max_reward=float(self._best),
        )


def answer(actor: Actor, episodes: list[Episode], flow_steps: int) -> Any:
    """Ask for the next chunk of each episode at once."""
    obs, noise, pictures = zip(*(episode.question() for episode in episodes), strict=True)
    seen = {name: np.stack([p[name] for p in pictures]) for name in pictures[0]}
    return actor.ask(np.stack(obs), np.stack(noise), flow_steps, seen)


def run_episode(
    env: SimEnv,
    actor: Actor,
    spec: EpisodeSpec,
    setting: SampleSetting,
    max_steps: int,
    on_step: OnStep | None = None,
) -> EpisodeResult:
    """Run one start to its end, alone."""
    episode = Episode(env, actor.bundle, spec, setting, max_steps, on_step)
    while episode.outcome is None:
        episode.execute(answer(actor, [episode], setting.flow_steps).get()[0])
    return episode.result()
