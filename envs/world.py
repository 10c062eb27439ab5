"""The worlds of a `BatchedEnv` as `SimEnv`s, so that episodes, recorders and checks need not know of batches.

`Together` resets and steps them at once and leaves in each world what it is to return; the world's own `reset` or
`step` then returns it. Letters: N worlds, A action dim.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from raybc.envs import border
from raybc.envs.base import Obs, RenderOptions, SimEnv
from raybc.envs.batched import BatchedEnv, Worlds
from raybc.types import UserError


class Together:
    """A `BatchedEnv` and its worlds."""

    def __init__(self, env: BatchedEnv) -> None:
        self.env = env
        self.worlds = [World(self, number) for number in range(env.worlds)]

    def reset(self, seeds: Mapping[int, int]) -> None:
        """Start an episode in some worlds: number -> seed. Raises what the whole batch raises."""
        found = self.env.reset(seeds)
        self._check(found)
        for number, seed in seeds.items():
            self.worlds[number].receive(found, seed)

    def step(self, actions: Mapping[int, np.ndarray]) -> None:
        """Execute an action (A,) in some worlds, by number. Raises what the whole batch raises."""
        count, space = self.env.worlds, self.env.action_space
        acts_N = np.zeros(count, bool)
        idle_A = np.clip(np.zeros_like(space.low), space.low, space.high)
        actions_NA = np.repeat(idle_A[None], count, axis=0).astype(np.float32)
        for number, action_A in actions.items():
            acts_N[number] = True
            actions_NA[number] = action_A
        found = self.env.step(actions_NA, acts_N)
        self._check(found)
        for number in actions:
            self.worlds[number].receive(found, None)

    def _check(self, found: Worlds) -> None:
        rows = {**found.obs, "success": found.success, "reward": found.reward, "terminated": found.terminated}
        for name, array in (rows | {"truncated": found.truncated}).items():
            if len(array) != self.env.worlds:
                raise border.BadEnvironment(f"{name}: expected {self.env.worlds} rows (worlds), got {len(array)}")

    def close(self) -> None:
        self.env.close()


class World(SimEnv):
    """One world of a batch. Alone it can be stepped only where the batch has no other world."""

    def __init__(self, together: Together, number: int) -> None:
        self._together, self._env, self.number = together, together.env, number
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
        self.instruction = self._env.instruction
        self._found: Worlds | None = None
        self._seed: int | None = None

    def receive(self, found: Worlds, seed: int | None) -> None:
        """What the next `reset` (with this seed) or `step` (None) returns."""
        self._found, self._seed = found, seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        if self._found is None or self._seed != seed or seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
            self._together.reset({self.number: seed})
        found = self._take()
        return self._obs(found), {"success": border.flag("info['success'] of reset", found.success[self.number])}

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        if self._found is None:
            if self._env.worlds > 1:
                raise RuntimeError("a world of a batch was stepped without the others")
            self._together.step({self.number: action})
        found, row = self._take(), self.number
        return (
            self._obs(found),
            border.reward_of(found.reward[row]),
            border.flag("terminated", found.terminated[row]),
            border.flag("truncated", found.truncated[row]),
            {"success": border.flag("info['success']", found.success[row])},
        )

    def _take(self) -> Worlds:
        """What this world has received, or the exception of it."""
        found, self._found = self._found, None
        assert found is not None
        fault = found.faults.get(self.number)
        if isinstance(fault, border.BadEnvironment):
            raise fault
        if fault is not None:
            raise border.BadEnvironment(f"{type(fault).__name__}: {fault}") from fault
        return found

    def _obs(self, found: Worlds) -> Obs:
        # Copies: a row would keep those of all worlds in memory for as long as it lives.
        return {name: rows[self.number].copy() for name, rows in found.obs.items()}

    def render(self) -> np.ndarray:
        return self._env.render(self.number)

    def cameras(self) -> tuple[str, ...] | None:
        return self._env.cameras()

    def sim_state(self) -> np.ndarray:
        return self._env.sim_state(self.number)

    def env_args(self) -> dict[str, Any]:
        return self._env.env_args()

    def identity(self) -> dict[str, str]:
        return self._env.identity()

    def close(self) -> None:
        """Closes the batch, where it has no other world."""
        if self._env.worlds == 1:
            self._together.close()


def alone(make_batch: Callable[[int], BatchedEnv]) -> Callable[[RenderOptions | None], SimEnv]:
    """A `Task.make` for a task with this `Task.make_batch`: a batch of one world, which does not render."""
    return functools.partial(_alone, make_batch)


def _alone(make_batch: Callable[[int], BatchedEnv], render: RenderOptions | None) -> SimEnv:
    if render is not None:
        raise UserError("this simulator has no images, so it cannot be filmed")
    return world_of(make_batch(1))


def world_of(env: BatchedEnv) -> World:
    """The only world of a batch."""
    return Together(env).worlds[0]
