"""Tasks of one suite, for tests of evaluations over several tasks: the point mass, easier or harder, with an
instruction of its own.

A simulator process knows nothing but the name of its task, so the folder of `dying(folder)` is a part of that name."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from raybc.envs.base import RenderOptions, Task
from raybc.envs.pointmass import POINTMASS, PointMassEnv


class Slow(PointMassEnv):
    """Moves by a part of what is asked."""

    def __init__(self, share: float, render: RenderOptions | None = None) -> None:
        super().__init__(render)
        self._share = share

    def step(self, action: np.ndarray) -> Any:
        return super().step(self._share * np.asarray(action))


class Dying(PointMassEnv):
    """Kills its process, once: while there is a file `kill` in the folder."""

    def __init__(self, folder: Path, render: RenderOptions | None = None) -> None:
        super().__init__(render)
        self._mark = folder / "kill"

    def step(self, action: np.ndarray) -> Any:
        if self._mark.exists():
            self._mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


class Wide(PointMassEnv):
    """Observes one number more."""

    def __init__(self, render: RenderOptions | None = None) -> None:
        super().__init__(render)
        spaces = dict(self.observation_space.items())
        spaces["state"] = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        obs, info = super().reset(seed=seed)
        return obs | {"state": np.append(obs["state"], np.float32(0))}, info


def _task(name: str, make: Any, **changes: Any) -> Task:
    return dataclasses.replace(POINTMASS, name=f"tests.tasks:{name}", make=make, **changes)


QUICK = _task("QUICK", functools.partial(Slow, 1.0), instruction="go to the goal")
LAZY = _task("LAZY", functools.partial(Slow, 0.3), instruction="go slowly")
STILL = _task("STILL", functools.partial(Slow, 0.0), instruction="stay")
WIDE = _task("WIDE", Wide)
WITHOUT_SUCCESS = _task("WITHOUT_SUCCESS", functools.partial(Slow, 1.0), has_success=False)

SUITE = ("tests.tasks:QUICK", "tests.tasks:LAZY", "tests.tasks:STILL")
NO_SUITE = 3


def make_suite() -> list[str]:
    return list(SUITE[:2])


def dying(folder: Path) -> str:
    return f"tests.tasks:dying_{str(folder).encode().hex()}"


def __getattr__(name: str) -> Task:
    if not name.startswith("dying_"):
        raise AttributeError(f"module 'tests.tasks' has no attribute {name!r}")
    folder = Path(bytes.fromhex(name.removeprefix("dying_")).decode())
    return _task(name, functools.partial(Dying, folder))
