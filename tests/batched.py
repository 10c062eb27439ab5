"""Point masses that are stepped together, for tests of batched simulators; some go wrong at chosen starts.

A simulator process knows nothing but the name of its task, so a fault and the folder of its mark are part of the name:
`faulty("one", folder)` gives "tests.batched:one_<folder in hex>".
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from raybc.envs.base import Task
from raybc.envs.batched import BatchedEnv, Worlds
from raybc.envs.pointmass import POINTMASS, PointMassEnv
from raybc.envs.world import alone
from raybc.types import SPLIT_BASE

#: The start at which something goes wrong.
BAD = 4


class ManyPoints(BatchedEnv):
    """Point masses in N worlds. calls: the number of worlds that acted, of each step of each object."""

    calls: ClassVar[list[int]] = []
    resets: ClassVar[list[int]] = []

    def __init__(self, worlds: int) -> None:
        self.worlds = worlds
        self._points = [PointMassEnv() for _ in range(worlds)]
        self.observation_space, self.action_space = self._points[0].observation_space, self._points[0].action_space
        self.seeds = [-1] * worlds

    def reset(self, seeds: Mapping[int, int]) -> Worlds:
        self.resets.append(len(seeds))
        rows: dict[int, Any] = {}
        for world, seed in seeds.items():
            self.seeds[world] = seed
            rows[world] = (self._points[world].reset(seed=seed)[0], 0.0, False, False, {"success": False})
        return self._worlds(rows)

    def step(self, actions_NA: np.ndarray, acts_N: np.ndarray) -> Worlds:
        self.calls.append(int(acts_N.sum()))
        # All of them move, as in a simulator on a GPU.
        rows = {world: point.step(actions_NA[world]) for world, point in enumerate(self._points)}
        return self._worlds({world: row for world, row in rows.items() if acts_N[world]})

    def _worlds(self, rows: Mapping[int, Any]) -> Worlds:
        space = self.observation_space
        obs = {key: np.full((self.worlds, *(space[key].shape or ())), np.nan, np.float32) for key in space}
        reward, ends = np.full(self.worlds, np.nan), np.zeros((3, self.worlds), bool)
        for world, (seen, gained, terminated, truncated, info) in rows.items():
            for key, value in seen.items():
                obs[key][world] = value
            reward[world], ends[:, world] = gained, (terminated, truncated, info["success"])
        return Worlds(obs, ends[2], reward, ends[0], ends[1])

    def sim_state(self, world: int) -> np.ndarray:
        return self._points[world].sim_state()

    def env_args(self) -> dict[str, Any]:
        return self._points[0].env_args()

    def identity(self) -> dict[str, str]:
        return self._points[0].identity() | {"physics": "many points"}


class Faulty(ManyPoints):
    """kind: what the start `BAD` does at its third step: "one" reports a fault of its world, "all" raises, "kill" ends
    the process, "rows" returns too few rows. It does it once (a mark in the folder remembers), or always if a file
    `always` is there."""

    def __init__(self, kind: str, folder: Path, worlds: int) -> None:
        super().__init__(worlds)
        self._kind, self._folder = kind, folder
        self._steps = [0] * worlds

    def reset(self, seeds: Mapping[int, int]) -> Worlds:
        for world in seeds:
            self._steps[world] = 0
        return super().reset(seeds)

    def step(self, actions_NA: np.ndarray, acts_N: np.ndarray) -> Worlds:
        found = super().step(actions_NA, acts_N)
        for world in np.flatnonzero(acts_N):
            self._steps[world] += 1
            mark = self._folder / "done"
            if self.seeds[world] - SPLIT_BASE["search"] != BAD or self._steps[world] != 3:
                continue
            if mark.exists() and not (self._folder / "always").exists():
                continue
            mark.touch()
            if self._kind == "all":
                raise FloatingPointError("the batch is lost")
            if self._kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self._kind == "rows":
                return dataclasses.replace(found, reward=found.reward[:-1])
            return dataclasses.replace(found, faults={int(world): FloatingPointError("it diverged")})
        return found


def _task(name: str, make_batch: Any) -> Task:
    return dataclasses.replace(POINTMASS, name=name, make=alone(make_batch), make_batch=make_batch, slots=6)


MANY = _task("tests.batched:MANY", ManyPoints)


def faulty(kind: str, folder: Path) -> str:
    return f"tests.batched:{kind}_{str(folder).encode().hex()}"


def __getattr__(name: str) -> Task:
    kind, _, folder = name.partition("_")
    if kind not in ("one", "all", "kill", "rows") or not folder:
        raise AttributeError(name)
    path = Path(bytes.fromhex(folder).decode())
    return _task(f"tests.batched:{name}", functools.partial(Faulty, kind, path))
