"""What a policy remembers of one episode: what was seen, its sampling noise, and what its chunks say.

A `Session` is the policy's half of an episode, without a simulator: rollouts, `raybc.load` and `raybc.serve` act by the
same one. Letters: H chunk, A action dim, T observation steps, O observation dim.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from raybc.data.action_form import ActionForm
from raybc.inference.candidates import Noise
from raybc.inference.predictor import ActingPolicy, EpisodeSession, stack, stack_steps
from raybc.types import Observation, SampleSetting, UserError


class Session(EpisodeSession):
    """One episode with a receding horizon.

    Call `observe` on each step. When no action is left, pass `request()` to the network and the chunk to `plan`, which
    returns the next actions.
    """

    def __init__(self, bundle: ActingPolicy, setting: SampleSetting, seed: int | None) -> None:
        """seed: of the sampling noise; None: random. Raises `UserError` if execute_steps is longer than a chunk."""
        self.setting = setting
        self.instruction = ""
        """What the robot should do, in words, from the next chunk on; "" without."""
        self._keys, self._obs_steps = tuple(bundle.obs_sizes), bundle.spec.obs_steps
        self._images = tuple(bundle.images)
        self._chunk_shape = (bundle.spec.horizon, bundle.spec.action_size)
        horizon = bundle.spec.ahead
        self.steps_between = setting.steps_between(horizon)
        if self.steps_between > horizon:
            raise UserError(
                f"execute_steps: expected at most the {horizon} steps of this policy's chunk, got {self.steps_between}"
            )
        # The noise depends on the start, not on the setting, so that settings are compared on the same noise.
        self._noise = Noise(None if seed is None else [seed, 1], setting.best_of_n)
        self._horizon = RecedingHorizon(setting, bundle.action_form)
        self._observed: deque[Mapping[str, np.ndarray]] = deque(maxlen=self._obs_steps)

    def observe(self, obs: Mapping[str, np.ndarray]) -> None:
        """Add an observation: name -> float32 (size,), or uint8 (height, width, channels); physical."""
        self._observed.append(obs)

    def seen_with(self, obs: Mapping[str, np.ndarray]) -> Observation[np.ndarray]:
        """The physical observation without a batch axis if `obs` came next; the session does not change."""
        return self._stacked([*self._observed, obs][-self._obs_steps :])

    def request(self) -> tuple[Observation[np.ndarray], np.ndarray]:
        """Inputs of the network for the next chunk: the physical observation without a batch axis, and noise (H, A), or
        (N, H, A) with best_of_n N above 1.

        The noise is float32 and already scaled by eval_temperature.
        """
        noise = self._noise.draw(self._chunk_shape).astype(np.float32) * self.setting.eval_temperature
        return self._stacked(list(self._observed)), noise.astype(np.float32)

    def _stacked(self, seen: list[Mapping[str, np.ndarray]]) -> Observation[np.ndarray]:
        images = {name: stack_steps([obs[name] for obs in seen], self._obs_steps) for name in self._images}
        texts = (self.instruction,) if self.instruction else None
        return Observation(stack(seen, self._keys, self._obs_steps), images, texts)

    def plan(self, chunk_HA: np.ndarray, max_steps: int | None = None) -> np.ndarray:
        """The actions to execute before the next chunk, physical (steps, A), float32, not clipped.

        Args:
            chunk_HA: the new chunk, physical.
            max_steps: maximum number of actions.
        """
        return self._horizon.plan(chunk_HA, max_steps)


class RecedingHorizon:
    """Which actions of an episode's chunks are executed."""

    def __init__(self, setting: SampleSetting, form: ActionForm | None = None) -> None:
        """form: of the actions, where a mean of actions is taken in another one."""
        self._setting, self._form = setting, form
        self._chunks: deque[tuple[int, np.ndarray]] = deque()  # (first step, chunk), oldest first
        self._planned = 0

    def plan(self, chunk_HA: np.ndarray, max_steps: int | None = None) -> np.ndarray:
        """See `Session.plan`."""
        steps = self._setting.steps_between(len(chunk_HA))
        count = steps if max_steps is None else min(steps, max_steps)
        first_step = self._planned
        self._planned += count
        if self._setting.temporal_ensemble < 0:
            return chunk_HA[:count]
        # Axis-angles have no mean.
        self._chunks.append((first_step, chunk_HA if self._form is None else self._form.encode(chunk_HA)))
        while first_step - self._chunks[0][0] >= len(self._chunks[0][1]):
            self._chunks.popleft()
        actions = []
        for step in range(first_step, first_step + count):
            predicted = np.stack([c[step - first] for first, c in self._chunks if step - first < len(c)])
            weights = np.exp(-self._setting.temporal_ensemble * np.arange(len(predicted)))
            actions.append((weights / weights.sum()) @ predicted)
        averaged = np.array(actions, np.float32)
        return averaged if self._form is None else self._form.decode(averaged)
