"""Policies of others for tests, named `module:tests.foreign_policies:NAME`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def towards(obs: dict[str, Any]) -> np.ndarray:
    """The action of a proportional controller that solves the point mass."""
    x, v, goal = obs["state"][:2], obs["state"][2:], obs["goal"]
    target = np.array([0.0, 0.45 if x[1] >= 0 else -0.45]) if x[0] < -0.05 else goal
    return np.clip(4 * (target - x) - 2 * v, -1, 1)


def expert(about: Any) -> Any:
    """Solves the point mass, one action at a time."""
    return towards


def batched(about: Any) -> Any:
    """The same for several episodes at once."""

    def act(obs: dict[str, Any]) -> np.ndarray:
        assert len(obs["instruction"]) == len(obs["state"])
        return np.stack([towards({k: obs[k][row] for k in ("state", "goal")}) for row in range(len(obs["state"]))])

    act.batched = True  # type: ignore[attr-defined]
    return act


class Counting:
    """Counts the steps of its episode: what it does depends on all that it saw."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.seed = -1

    def reset(self, seed: int) -> None:
        self.seen, self.seed = [], seed

    def observe(self, obs: dict[str, Any]) -> None:
        self.seen.append(float(obs["state"][0]))

    def __call__(self, obs: dict[str, Any]) -> np.ndarray:
        self.observe(obs)
        rng = np.random.default_rng([self.seed, len(self.seen)])
        return rng.uniform(-1, 1, (4, 2)) * np.mean(self.seen)


def counting(about: Any) -> Any:
    return Counting()


def of_bundle(about: Any) -> Any:
    """raybc's own policy at `about.argument`, called as a user calls it."""
    from raybc.bundle import PolicyBundle
    from raybc.inference.agent import Agent
    from raybc.types import Observation, SampleSetting

    agent = Agent(PolicyBundle.load(Path(about.argument)))

    def act(obs: dict[str, Any]) -> np.ndarray:
        seen = np.concatenate([obs[name] for name in agent.bundle.obs_sizes])[None, None]
        noise = np.zeros((1, agent.bundle.spec.horizon, about.action_size), np.float32)
        return agent.chunks(Observation(seen), noise, SampleSetting(about.flow_steps or 10))[0]

    return act


of_bundle.sample_axes = ("flow_steps",)  # type: ignore[attr-defined]


class Failing:
    """What goes wrong depends on the start: `about.argument` is KIND@STEP, from which step on, or KIND@STEP@SEED."""

    def __init__(self, argument: str) -> None:
        self.kind, step, *seeds = argument.split("@")
        self.step, self.seeds = int(step), {int(seed) for seed in seeds}
        self.calls = self.seed = 0

    def reset(self, seed: int) -> None:
        self.calls, self.seed = 0, seed

    def __call__(self, obs: dict[str, Any]) -> Any:
        self.calls += 1
        if self.calls <= self.step or (self.seeds and self.seed not in self.seeds):
            return towards(obs)
        if self.kind == "raise":
            raise ValueError("no idea\nwhat to do")
        if self.kind == "exit":
            sys.exit(3)
        if self.kind == "hang":
            time.sleep(1000)
        if self.kind == "die":
            os._exit(1)
        return {
            "nan": np.array([0.0, np.nan]),
            "nothing": None,
            "text": "left",
            "three": np.zeros(3),
            "empty": np.zeros((0, 2)),
            "deep": np.zeros((1, 4, 2)),
            "ragged": [[0.0], [0.0, 1.0]],
        }[self.kind]


def failing(about: Any) -> Any:
    return Failing(about.argument)


def needing_images(about: Any) -> Any:
    def act(obs: dict[str, Any]) -> Any:
        return towards(obs)

    act.observations = ("state", "front_image")  # type: ignore[attr-defined]
    return act


def no_callable(about: Any) -> Any:
    return 3


def raising(about: Any) -> Any:
    raise OSError("no such checkpoint")


NUMBER = 3


def listening(about: Any) -> Any:
    """Goes to the goal only if the instruction says so."""

    def act(obs: dict[str, Any]) -> np.ndarray:
        assert about.task.startswith("tests.tasks:")
        return towards(obs) if obs["instruction"] == "go to the goal" else np.zeros(2)

    return act


def waving(about: Any) -> Any:
    """Moves seven joints by what it sees of six and their velocities."""
    return lambda obs: np.sin(3 * obs["state"][:7])
