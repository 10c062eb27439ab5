"""Tasks whose simulator misbehaves at chosen starts, for tests of the rollout pool.

A simulator process knows nothing but the name of its task, so the folder in which a fault leaves its mark is part of
the name: `task_name(folder)` gives "tests.faults:faulty_<folder in hex>".
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from raybc.envs.base import RenderOptions, Task
from raybc.envs.pointmass import POINTMASS, PointMassEnv
from raybc.types import SPLIT_BASE


class FaultyEnv(PointMassEnv):
    """Starts raise, kill the process, hang (PLAN): once (marks in the folder remember), or always when a file `always`
    is there. A file `sparse` makes it one start in ten."""

    PLAN = {1: "raise", 4: "kill", 7: "hang"}  # noqa: RUF012
    SPARSE = {5: "raise", 15: "kill", 25: "hang", 35: "raise", 45: "kill", 55: "hang"}  # noqa: RUF012

    def __init__(self, folder: Path, render: RenderOptions | None = None) -> None:
        super().__init__(render)
        self._folder = folder
        self._plan = self.SPARSE if (folder / "sparse").exists() else self.PLAN
        self._start = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        assert seed is not None
        self._start = seed - SPLIT_BASE["search"]
        return super().reset(seed=seed)

    def step(self, action: np.ndarray) -> Any:
        mark = self._folder / f"done_{self._start}"
        if self._start in self._plan and (not mark.exists() or (self._folder / "always").exists()):
            mark.touch()
            if self._plan[self._start] == "raise":
                raise FloatingPointError("the simulator diverged")
            if self._plan[self._start] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        return super().step(action)


class BrokenEnv(PointMassEnv):
    """Cannot be built."""

    def __init__(self, render: RenderOptions | None = None) -> None:
        raise RuntimeError("no such robot")


def task_name(folder: Path) -> str:
    return f"tests.faults:faulty_{str(folder).encode().hex()}"


def __getattr__(name: str) -> Task:
    if not name.startswith("faulty_"):
        raise AttributeError(name)
    folder = Path(bytes.fromhex(name.removeprefix("faulty_")).decode())
    return dataclasses.replace(POINTMASS, name=name, make=functools.partial(FaultyEnv, folder))


BROKEN = dataclasses.replace(POINTMASS, name="broken", make=BrokenEnv)

#: The same simulator, said to be of another package: it gets a process of its own.
OTHER = dataclasses.replace(POINTMASS, name="other", suite="other")
