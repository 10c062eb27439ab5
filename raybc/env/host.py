"""A process of an environment that owns one simulator, for `raybc.env.remote`: `python -m raybc.env.host`.

It reads requests from stdin and writes answers to stdout (`raybc.env.pipe`). Both ends are processes of one user on one
machine, and the pipes have no name. What a simulator prints goes to stderr.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback
from typing import Any

import gymnasium
import numpy as np

from raybc.env.pipe import receive, send
from raybc.envs.base import Expert, Judge, Observed, RenderOptions, Restorable, SimEnv, StateObserver, Task
from raybc.envs.border import BadEnvironment, describe
from raybc.registry import get_task
from raybc.types import UserError

#: Fields of a `Task` that are functions of its process.
FUNCTIONS = ("make", "make_batch", "make_expert", "see", "environment")
#: What raybc reads of a step's `info`; simulators may have anything else there.
INFO = ("success", "time_limit")
#: Optional abilities of a simulator -> the method that shows them.
ABILITIES = {Restorable: "start_at", StateObserver: "observe_at", Observed: "state_of", Judge: "solved_in"}


def plain_space(space: gymnasium.spaces.Box) -> tuple[np.ndarray, np.ndarray, str]:
    """A box as low, high and dtype: environments may have another gymnasium."""
    return np.asarray(space.low), np.asarray(space.high), str(space.dtype)


def fields_of(task: Task) -> dict[str, Any]:
    """What can be sent of a task, and whether it has an expert."""
    found = {f.name: getattr(task, f.name) for f in dataclasses.fields(task) if f.name not in FUNCTIONS}
    return found | {"has_expert": task.make_expert is not None}


class Host:
    """Answers requests with one simulator and one expert."""

    def __init__(self) -> None:
        self._task: Task | None = None
        self._env: SimEnv | None = None
        self._expert: Expert | None = None

    @property
    def env(self) -> SimEnv:
        assert self._env is not None
        return self._env

    def task(self, name: str) -> dict[str, Any]:
        return fields_of(get_task(name))

    def make(self, name: str, render: RenderOptions | None) -> dict[str, Any]:
        """Build the simulator; everything about it that does not change."""
        self._task = get_task(name)
        self._env = env = self._task.make(render)
        return {
            "observations": {key: plain_space(space) for key, space in env.observation_space.items()},  # type: ignore[arg-type]
            "actions": plain_space(env.action_space),
            "metadata": dict(env.metadata),
            "render_mode": env.render_mode,
            "checks_observations": env.checks_observations,
            "complete_state": env.complete_state,
            "instruction": env.instruction,
            "identity": env.identity(),
            "env_args": env.env_args(),
            "abilities": [method for ability, method in ABILITIES.items() if isinstance(env, ability)],
            "has_model": hasattr(env, "model_xml"),
        }

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A method of the simulator. Of `info`, what raybc reads."""
        found = getattr(self.env, method)(*args, **kwargs)
        if method in ("reset", "step"):
            *others, info = found
            return (*others, {name: info[name] for name in INFO if name in info})
        return found

    def expert(self, rng: np.random.Generator, noise: float) -> None:
        assert self._task is not None
        assert self._task.make_expert is not None
        self._expert = self._task.make_expert(self.env, rng, noise)

    def act(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        assert self._expert is not None
        return self._expert.act(obs)


def answer(host: Any, request: tuple[str, tuple[Any, ...], dict[str, Any]]) -> tuple[str, Any]:
    """("ok", value), or the kind of an exception and what it says."""
    name, args, kwargs = request
    try:
        return "ok", getattr(host, name)(*args, **kwargs)
    except UserError as error:
        return "UserError", str(error)
    except BadEnvironment as error:
        return "BadEnvironment", str(error)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return "other", describe(error)


def serve(host: Any) -> None:
    """Answer requests (name of a method, arguments) on stdin by methods of `host` until stdin ends."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a simulator prints must not be taken for an answer
    sys.stdin = open(os.devnull)  # noqa: SIM115  (for the rest of the process: nobody answers questions)
    while True:
        try:
            request = receive(requests)
        except EOFError:
            return
        found = answer(host, request)
        try:
            send(answers, found)
        except TypeError as error:
            send(answers, ("BadEnvironment", f"{request[0]} {request[1][:1]}: {error}"))


if __name__ == "__main__":
    serve(Host())
