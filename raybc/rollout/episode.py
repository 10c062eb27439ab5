"""One episode of a policy in a simulator, as a pure function of (bundle, spec, setting).

`Episode` is one start in progress: it says what the policy needs to know for the next chunk, and executes the chunk. It
does not know who computes chunks, nor in which batch. Letters: H chunk, A action dim.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from raybc.envs.base import SimEnv
from raybc.envs.border import LARGEST_RETURN, BadEnvironment, ObservationCheck, flag, reward_of
from raybc.inference.predictor import (
    ActingPolicy,
    EpisodePredictor,
    EpisodeSession,
    ManyAnswers,
    Prediction,
    Predictor,
    stack_rows,
)
from raybc.inference.session import Session
from raybc.rollout.recorder import Recorder
from raybc.types import EpisodeResult, EpisodeSpec, Observation, Outcome, SampleSetting

#: Most numbers of a last observation that are kept in its row.
MOST_NUMBERS = 256

OnStep = Callable[[int, SimEnv], None]


class Episode:
    """One start in one simulator, with a receding horizon; all of its state is its own.

    A chunk is requested only when the executed part of the last one is used up. Actions are clipped to the action
    space here and nowhere else. `on_step(step, env)` sees the environment after reset (step 0) and after each step; it
    must not change it. Exceptions of the simulator are handled by the caller, `BadEnvironment` among them.

    Ends, by precedence: success at this step; `terminated`, a failure; the step limit, a timeout; `truncated` before
    it, a timeout if the simulator has a step limit of its own, else a failure.
    """

    def __init__(
        self,
        env: SimEnv,
        policy: ActingPolicy | EpisodeSession,
        spec: EpisodeSpec,
        setting: SampleSetting,
        max_steps: int,
        on_step: OnStep | None = None,
        instruction: str = "",
        recorder: Recorder | None = None,
    ) -> None:
        """
        Args:
            env: the simulator.
            policy: whoever acts, or its session of this episode.
            spec: the start.
            setting: how actions are sampled.
            max_steps: the step limit.
            on_step: see above.
            instruction: what the policy reads in place of the environment's instruction; "": that one.
            recorder: gets every step.
        """
        self._recorder = recorder
        self._env, self.spec = env, spec
        self._max_steps, self._on_step = max_steps, on_step
        self.session = policy if isinstance(policy, EpisodeSession) else Session(policy, setting, spec.seed)
        self._low, self._high = env.action_space.low, env.action_space.high
        self._total, self._best = 0.0, -np.inf
        self._check = None if env.checks_observations else ObservationCheck(env.observation_space)
        self.steps = 0
        """Steps that were begun."""
        self.outcome: Outcome | None = None
        self._note = ""
        self._actions: deque[np.ndarray] = deque()
        self.seconds = 0.0
        started = time.perf_counter()
        obs, info = env.reset(seed=spec.seed)
        if self._check is not None:
            self._check(obs)
        self.session.instruction = instruction or env.instruction
        self._solved_at_reset = flag("info['success'] of reset", info.get("success", False))
        self.session.observe(obs)
        self.last_obs = obs
        """What the simulator observed last."""
        if on_step is not None:
            on_step(0, env)
        self.seconds += time.perf_counter() - started

    def request(self) -> tuple[Observation[np.ndarray], np.ndarray]:
        """What the policy needs, as `Session.request` has it."""
        assert isinstance(self.session, Session)
        return self.session.request()

    def plan(self, chunk_HA: np.ndarray) -> None:
        """Accept a new chunk, physical (H, A); `next_action` has what is to be executed of it."""
        started = time.perf_counter()
        actions = self.session.plan(chunk_HA, self._max_steps - self.steps)
        self._actions.extend(np.clip(actions, self._low, self._high))
        self.seconds += time.perf_counter() - started

    @property
    def next_action(self) -> np.ndarray | None:
        """The action (A,) of the next step; None where a chunk is needed first, or the episode has ended."""
        return self._actions[0] if self._actions and self.outcome is None else None

    def advance(self) -> None:
        """Execute `next_action`."""
        started = time.perf_counter()
        self._step(self._actions.popleft())
        self.seconds += time.perf_counter() - started

    def execute(self, chunk_HA: np.ndarray) -> None:
        """Execute a new chunk, physical (H, A), until the next one is needed or the episode ends."""
        self.plan(chunk_HA)
        while self.next_action is not None:
            self.advance()

    def _step(self, action_A: np.ndarray) -> None:
        self.steps += 1
        if self._recorder is not None:
            self._recorder.before(self.last_obs, action_A)
        obs, reward, terminated, truncated, info = self._env.step(action_A)
        if self._check is not None:
            self._check(obs)
        self.session.observe(obs)
        self.last_obs = obs
        self._total += reward_of(reward)
        if self._recorder is not None:
            self._recorder.after(reward)
        if abs(self._total) > LARGEST_RETURN:
            raise BadEnvironment(f"the sum of rewards: expected at most {LARGEST_RETURN:g}, got {self._total:g}")
        if reward > self._best:
            self._best = reward
        if self._on_step is not None:
            self._on_step(self.steps, self._env)
        if "success" not in info:
            raise BadEnvironment("info: expected 'success' at every step")
        if flag("info['success']", info["success"]):
            self.outcome = "success"
        elif flag("terminated", terminated):
            self.outcome = "failure"
        elif self.steps >= self._max_steps:
            self.outcome = "timeout"
        elif flag("truncated", truncated):
            self._note = f"truncated by the simulator at step {self.steps}, before the limit of {self._max_steps}"
            self.outcome = "timeout" if info.get("time_limit") else "failure"

    def result(self) -> EpisodeResult:
        assert self.outcome is not None
        return EpisodeResult(
            index=self.spec.index,
            seed=self.spec.seed,
            outcome=self.outcome,
            episode_return=float(self._total),
            steps=self.steps,
            seconds=self.seconds,
            max_reward=float(self._best),
            message=self._note,
            truncated=bool(self._note),
            solved_at_reset=self._solved_at_reset,
        )


def final_observation(obs: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """The low-dimensional observations as a row has them; {} where there are more than `MOST_NUMBERS`."""
    found = {
        key: [float(f"{number:.6g}") for number in value.tolist()]
        for key, value in obs.items()
        if value.ndim == 1 and value.dtype.kind in "fiub"
    }
    return found if sum(map(len, found.values())) <= MOST_NUMBERS else {}


def predict_together(
    predictor: Predictor | EpisodePredictor, episodes: list[Episode], setting: SampleSetting
) -> Prediction | ManyAnswers:
    """The next chunk of each episode, in one prediction."""
    if isinstance(predictor, EpisodePredictor):
        return predictor.predict_episodes([episode.session for episode in episodes])
    requests = [episode.request() for episode in episodes]
    noise = np.stack([one for _, one in requests])
    return predictor.predict(stack_rows([obs for obs, _ in requests]), noise, setting)


def run_episode(
    env: SimEnv,
    predictor: Predictor,
    spec: EpisodeSpec,
    setting: SampleSetting,
    max_steps: int,
    on_step: OnStep | None = None,
    instruction: str = "",
) -> EpisodeResult:
    """Run one start to its end, alone."""
    episode = Episode(env, predictor.bundle, spec, setting, max_steps, on_step, instruction)
    while episode.outcome is None:
        episode.execute(predict_together(predictor, [episode], setting).get()[0])
    return episode.result()
