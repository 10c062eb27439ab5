"""One episode of a policy in a simulator, as a pure function of (bundle, spec, setting).

`Episode` is one start under way: it asks for a chunk when it needs one and executes it. Who answers, and together with
which other episodes, is not its business. Letters: H chunk, A action dim.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from raybc.bundle import PolicyBundle
from raybc.envs.base import SimEnv
from raybc.inference.agent import Prediction, Predictor, stack_rows
from raybc.inference.session import Session
from raybc.types import EpisodeResult, EpisodeSpec, Observation, Outcome, SampleSetting

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
        self._env, self.spec = env, spec
        self._max_steps, self._on_step = max_steps, on_step
        self._session = Session(bundle, setting, spec.seed)
        self._low, self._high = env.action_space.low, env.action_space.high
        self._total, self._best, self._steps = 0.0, -np.inf, 0
        self.outcome: Outcome | None = None
        self.seconds = 0.0
        started = time.perf_counter()
        obs, _ = env.reset(seed=spec.seed)
        self._session.observe(obs)
        if on_step is not None:
            on_step(0, env)
        self.seconds += time.perf_counter() - started

    def request(self) -> tuple[Observation[np.ndarray], np.ndarray]:
        """What the policy needs, as `Session.request` has it."""
        return self._session.request()

    def execute(self, chunk_HA: np.ndarray) -> None:
        """Execute what is due of a new chunk, physical (H, A): until the next one is needed or the episode ends."""
        started = time.perf_counter()
        actions = self._session.plan(chunk_HA, self._max_steps - self._steps)
        for action_A in np.clip(actions, self._low, self._high):
            self._step(action_A)
            if self.outcome is not None:
                break
        self.seconds += time.perf_counter() - started

    def _step(self, action_A: np.ndarray) -> None:
        obs, reward, terminated, _, info = self._env.step(action_A)
        self._session.observe(obs)
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


def predict_together(predictor: Predictor, episodes: list[Episode], setting: SampleSetting) -> Prediction:
    """The next chunk of each episode, in one prediction."""
    requests = [episode.request() for episode in episodes]
    noise_BHA = np.stack([noise for _, noise in requests])
    return predictor.predict(stack_rows([obs for obs, _ in requests]), noise_BHA, setting)


def run_episode(
    env: SimEnv,
    predictor: Predictor,
    spec: EpisodeSpec,
    setting: SampleSetting,
    max_steps: int,
    on_step: OnStep | None = None,
) -> EpisodeResult:
    """Run one start to its end, alone."""
    episode = Episode(env, predictor.bundle, spec, setting, max_steps, on_step)
    while episode.outcome is None:
        episode.execute(predict_together(predictor, [episode], setting).get()[0])
    return episode.result()
