"""Simulators of another environment, as `SimEnv`s of this process: probing, replaying, observing, rendering, experts.

A simulator lives in a process of its environment (`raybc.env.host`), and every method is a request to it. Rollouts and
demonstrations do not go this way: their whole engine runs in Ray actors of the environment.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import os
import subprocess
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, cast

import gymnasium
import numpy as np

from raybc.env.environment import Environment
from raybc.env.pipe import receive, send
from raybc.envs.base import Expert, Obs, RenderOptions, SimEnv, Task
from raybc.envs.border import BadEnvironment
from raybc.processes import end_process
from raybc.types import UserError

#: Seconds that a process may take to end when its simulator is closed.
END_TIMEOUT = 10.0


class SimulatorFailed(RuntimeError):
    """An exception of a simulator in another environment, or the end of its process."""


class Process:
    """A process of an environment with one simulator, or with something else that answers requests. Raises `UserError`
    where the environment is not built."""

    def __init__(
        self,
        environment: Environment,
        module: str = "raybc.env.host",
        what: str = "simulator",
        python: str = "",
        is_of_environment: bool = True,
    ) -> None:
        """
        Args:
            environment: whose process it is.
            module: what is run; it reads requests and answers them as `raybc.env.host`.
            what: what it has, for messages.
            python: an interpreter in place of the environment's.
            is_of_environment: whether it sees raybc alone, and not what this process sees.
        """
        python = python or str(environment.require())
        self._name, self._what = environment.name, what
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  (closed by `_end`)
        self._process = subprocess.Popen(
            [python, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | (environment.variables() if is_of_environment else {}),
        )
        weakref.finalize(self, _end, self._process, self._log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """What a method of `raybc.env.host.Host` returns.

        Raises what it raised: `UserError`, `BadEnvironment`, or `SimulatorFailed` for everything else.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            send(self._process.stdin, (method, args, kwargs))
            kind, value = receive(self._process.stdout)
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_TIMEOUT)
            raise SimulatorFailed(
                f"the {self._what}'s process in environment {self._name} died (status {self._process.returncode}"
                f"{self._last_line()})"
            ) from None
        if kind == "ok":
            return value
        raise {"UserError": UserError, "BadEnvironment": BadEnvironment}.get(kind, SimulatorFailed)(value)

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def close(self) -> None:
        _end(self._process, self._log)


def _end(process: subprocess.Popen[bytes], log: IO[str]) -> None:
    end_process(process, END_TIMEOUT)
    log.close()


class RemoteEnv(SimEnv):
    """The simulator of a task in another environment."""

    def __init__(self, name: str, environment: Environment, render: RenderOptions | None) -> None:
        self._process = Process(environment)
        try:
            made = self._process.ask("make", name, render)
        except BaseException:
            self._process.close()
            raise
        self.observation_space = gymnasium.spaces.Dict({k: _box(*box) for k, box in made["observations"].items()})
        self.action_space = _box(*made["actions"])
        self.metadata, self.render_mode = made["metadata"], made["render_mode"]
        self.checks_observations, self.complete_state = made["checks_observations"], made["complete_state"]
        self.instruction = made["instruction"]
        self._env_args: dict[str, Any] = made["env_args"]
        self._identity: dict[str, str] = made["identity"] | {"environment": environment.key}
        # Attributes of the object, not of the class: they are there only where the simulator has them.
        for method in made["abilities"]:
            setattr(self, method, functools.partial(self._process.ask, "call", method))
        if made["has_model"]:
            self.model_xml = functools.partial(self._process.ask, "call", "model_xml")

    @property
    def pid(self) -> int:
        """The process of the simulator."""
        return self._process.pid

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._process.ask("call", method, *args, **kwargs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        return cast(tuple[Obs, dict[str, Any]], self._call("reset", seed=seed, options=options))

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        return cast(tuple[Obs, float, bool, bool, dict[str, Any]], self._call("step", np.asarray(action)))

    def render(self) -> np.ndarray:
        return cast(np.ndarray, self._call("render"))

    def cameras(self) -> tuple[str, ...] | None:
        return cast("tuple[str, ...] | None", self._call("cameras"))

    def sim_state(self) -> np.ndarray:
        return cast(np.ndarray, self._call("sim_state"))

    def env_args(self) -> dict[str, Any]:
        return copy.deepcopy(self._env_args)

    def identity(self) -> dict[str, str]:
        """As of the simulator, and the environment's packages as `environment`."""
        return dict(self._identity)

    def close(self) -> None:
        self._process.close()


class RemoteExpert(Expert):
    """An expert beside the simulator of a `RemoteEnv`."""

    def __init__(self, env: RemoteEnv, rng: np.random.Generator, noise: float) -> None:
        self._process = env._process
        self._process.ask("expert", rng, noise)

    def act(self, obs: Obs) -> np.ndarray:
        return cast(np.ndarray, self._process.ask("act", obs))


@dataclass(frozen=True)
class MakeElsewhere:
    """A `Task.make` whose simulators live in another environment."""

    name: str
    """Of the task."""
    environment: Environment
    func: Callable[..., Any]
    """The `Task.make` of that environment, which decides what is made."""

    def __call__(self, render: RenderOptions | None) -> RemoteEnv:
        return RemoteEnv(self.name, self.environment, render)


@dataclass(frozen=True)
class ExpertElsewhere:
    """A `Task.make_expert` beside such a simulator."""

    func: Callable[..., Any]
    """The `Task.make_expert` of that environment."""

    def __call__(self, env: SimEnv, rng: np.random.Generator, noise: float) -> Expert:
        assert isinstance(env, RemoteEnv)
        return RemoteExpert(env, rng, noise)


def moved(task: Task) -> Task:
    """The task for this process: its simulators are made in its environment, if it has one and this is another."""
    if task.environment is None or task.environment.is_here or isinstance(task.make, MakeElsewhere):
        return task
    expert = None if task.make_expert is None else ExpertElsewhere(task.make_expert)
    return dataclasses.replace(
        task, make=MakeElsewhere(task.name, task.environment, task.make), make_expert=expert, see=None
    )


@functools.lru_cache(maxsize=64)
def described(name: str, environment: Environment, func: Callable[..., Any]) -> Task:
    """A task that only its environment can describe: with images, or of a function that makes a gymnasium environment.

    func: what decides it, in this process. Raises `UserError` where the environment is not built.
    """
    process = Process(environment)
    try:
        fields: dict[str, Any] = process.ask("task", name)
    finally:
        process.close()
    expert = ExpertElsewhere(func) if fields.pop("has_expert") else None
    known = {field.name for field in dataclasses.fields(Task)}
    return Task(
        **{key: value for key, value in fields.items() if key in known},
        make=MakeElsewhere(name, environment, func),
        make_expert=expert,
        environment=environment,
    )


def _box(low: np.ndarray, high: np.ndarray, dtype: str) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(low, high, dtype=np.dtype(dtype).type)
