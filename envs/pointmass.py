"""A point mass that must be steered around an obstacle to a goal: a simulator without dependencies.

It exists so that training, sweeps and rollouts can be tested in seconds, against an analytic expert. The dynamics are
a double integrator, `v' = v + dt (u - damping v)`, `x' = x + dt v'`, with |u| <= 1 in each coordinate. The expert is
the PD law towards a waypoint next to the obstacle, on the nearer side, and then towards the goal.
"""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np

from raybc.envs.base import Expert, Obs, RenderOptions, SimEnv, Task
from raybc.types import UserError

DT = 0.1
DAMPING = 1.0
GOAL_RADIUS = 0.08
OBSTACLE_RADIUS = 0.25
WAYPOINT_OFFSET = 0.45
MAX_STEPS = 80
IMAGE_SIZE = 32  # pixels


class PointMassEnv(SimEnv):
    """Observation `state` (4,): position and velocity; `goal` (2,). Action (2,): acceleration in [-1, 1].

    Success: closer to the goal than 0.08. Touching the obstacle (radius 0.25 around the origin) ends the episode as a
    failure (`terminated`). Reward 1 at success, else 0. pixels: also observe `pixels` (32, 32, 3), which show the goal.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's own convention)

    complete_state = True

    def __init__(self, render: RenderOptions | None = None, pixels: bool = False) -> None:
        self._render, self._pixels = render, pixels
        high = np.full(4, np.inf, np.float32)
        spaces: dict[str, gymnasium.Space[Any]] = {
            "state": gymnasium.spaces.Box(-high, high, dtype=np.float32),
            "goal": gymnasium.spaces.Box(-high[:2], high[:2], dtype=np.float32),
        }
        if pixels:
            spaces["pixels"] = gymnasium.spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._x = np.zeros(2)
        self._v = np.zeros(2)
        self._goal = np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        super().reset(seed=seed)
        rng = np.random.default_rng(seed)  # not self.np_random: its state would survive a reset without a seed
        self._x = np.array([rng.uniform(-1.0, -0.7), rng.uniform(-0.4, 0.4)])
        self._v = np.zeros(2)
        self._goal = np.array([rng.uniform(0.7, 1.0), rng.uniform(-0.4, 0.4)])
        return self._obs(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        u = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        self._v = self._v + DT * (u - DAMPING * self._v)
        self._x = self._x + DT * self._v
        success = bool(np.linalg.norm(self._x - self._goal) < GOAL_RADIUS)
        hit = bool(np.linalg.norm(self._x) < OBSTACLE_RADIUS)
        return self._obs(), float(success), hit, False, {"success": success and not hit}

    def render(self) -> np.ndarray:
        """uint8 (height, width, 3): obstacle red, goal green, mass blue."""
        if self._render is None:
            raise RuntimeError("this environment was made without RenderOptions")
        return self._draw(self._render.height, self._render.width)

    def _draw(self, height: int, width: int) -> np.ndarray:
        y, x = np.mgrid[1.2 : -1.2 : height * 1j, -1.2 : 1.2 : width * 1j]
        image = np.full((height, width, 3), 245, np.uint8)
        for centre, radius, colour in (
            (np.zeros(2), OBSTACLE_RADIUS, (200, 60, 50)),
            (self._goal, GOAL_RADIUS, (60, 160, 80)),
            (self._x, 0.04, (40, 90, 200)),
        ):
            image[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = colour
        return image

    def cameras(self) -> tuple[str, ...]:
        return ()

    def sim_state(self) -> np.ndarray:
        return np.concatenate([self._x, self._v, self._goal])

    def start_at(self, state: np.ndarray) -> Obs:
        """Reset to a recorded `sim_state` (6,): position, velocity, goal."""
        if state.shape != (6,):
            raise UserError(f"state of the point mass: expected 6 values, got {state.size}")
        self._x, self._v, self._goal = np.array(state, np.float64).reshape(3, 2)
        return self._obs()

    def env_args(self) -> dict[str, Any]:
        kwargs = {"pixels": True} if self._pixels else {}
        return {"env_name": "PointMass", "type": 3, "env_version": "1", "env_kwargs": kwargs}

    def identity(self) -> dict[str, str]:
        return {"pointmass": "1", "controller": "acceleration"}

    def _obs(self) -> Obs:
        obs = {
            "state": np.concatenate([self._x, self._v]).astype(np.float32),
            "goal": self._goal.astype(np.float32),
        }
        return obs | {"pixels": self._draw(IMAGE_SIZE, IMAGE_SIZE)} if self._pixels else obs


class PointMassExpert(Expert):
    """PD towards a waypoint next to the obstacle, then towards the goal. `rng` varies gain, clearance and noise."""

    def __init__(self, env: SimEnv, rng: np.random.Generator, noise: float = 1.0) -> None:
        self._gain = 2.0 * float(np.exp(noise * rng.uniform(-0.2, 0.2)))
        self._offset = WAYPOINT_OFFSET + noise * rng.uniform(-0.05, 0.05)
        self._noise = 0.05 * noise
        self._rng = rng
        self._side = 0.0
        self._passed = False

    def act(self, obs: Obs) -> np.ndarray:
        x, v = obs["state"][:2].astype(np.float64), obs["state"][2:].astype(np.float64)
        goal = obs["goal"].astype(np.float64)
        if not self._side:  # the nearer side, decided once: a demonstration does not dither
            self._side = 1.0 if x[1] + goal[1] >= 0 else -1.0
        waypoint = np.array([0.0, self._side * self._offset])
        self._passed = self._passed or x[0] > -0.05
        target = goal if self._passed else waypoint
        damping = 2.0 * np.sqrt(self._gain) if self._passed else 1.0
        u = self._gain * (target - x) - (damping - DAMPING) * v + self._noise * self._rng.standard_normal(2)
        return np.clip(u, -1.0, 1.0).astype(np.float32)


_pointmass = functools.partial(
    Task,
    reward_range=(0.0, 1.0),
    suite="pointmass",
    make_expert=PointMassExpert,
    max_steps=MAX_STEPS,
    fps=10.0,
    slots=16,
    plane=("state[0]", "state[1]"),
)

POINTMASS = _pointmass(name="pointmass", make=PointMassEnv, obs_keys=("state", "goal"))

POINTMASS_PIXELS = _pointmass(
    name="pointmass_pixels",
    make=functools.partial(PointMassEnv, pixels=True),
    obs_keys=("pixels", "state"),
    images=("pixels",),
)
