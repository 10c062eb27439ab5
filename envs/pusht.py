"""PushT (gym_pusht): a round agent pushes a T-shaped block onto its outline.

Lengths are pixels of a square of 512, angles radians. To add a variant: a `Task` at the foot of this file and a line in
`raybc.registry.TASKS`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from raybc.envs.base import Obs, RenderOptions, SimEnv, Task, require
from raybc.envs.gym import GymEnv
from raybc.types import UserError

MAX_STEPS = 300
IMAGE_SIZE = 96  # pixels
BAR, STEM = 30.0, 120.0  # width of both rectangles of the T and their length

#: The corners of the bar and of the stem in the block's frame (8, 2), in gym_pusht's order.
CORNERS = np.array(
    [
        *((-STEM / 2, 0.0), (STEM / 2, 0.0), (STEM / 2, BAR), (-STEM / 2, BAR)),
        *((-BAR / 2, BAR), (BAR / 2, BAR), (BAR / 2, STEM), (-BAR / 2, STEM)),
    ]
)


def keypoints(block_pose: np.ndarray) -> np.ndarray:
    """The block's corners, float64 (N, 16) as x0, y0, x1, ..., from its poses (N, 3) as x, y, angle. Needs no
    simulator."""
    pose = np.asarray(block_pose, dtype=np.float64)
    c, s = np.cos(pose[:, 2:]), np.sin(pose[:, 2:])
    x = c * CORNERS[:, 0] - s * CORNERS[:, 1] + pose[:, :1]
    y = s * CORNERS[:, 0] + c * CORNERS[:, 1] + pose[:, 1:2]
    return np.stack([x, y], axis=2).reshape(len(pose), 16)


def pose_of(corners: np.ndarray) -> np.ndarray:
    """The block's pose, float64 (3,), from its corners (16,): the inverse of `keypoints` up to rounding.

    Raises `UserError` where they are more than a pixel away from the corners of the block in gym_pusht's order.
    """
    x0, y0, x1, y1 = np.asarray(corners[:4], np.float64)  # the ends of the bar's outer side
    pose = np.array([(x0 + x1) / 2, (y0 + y1) / 2, np.arctan2(y1 - y0, x1 - x0)])
    far = float(np.abs(keypoints(pose[None])[0] - corners).max())
    if far > 1:
        raise UserError(f"keypoints of PushT: expected the corners of its block in gym_pusht's order; {far:.3g} px off")
    return pose


class _Coverage:
    """The share of the goal that the block covers, in [0, 1], as in gym_pusht but summed in a fixed order.

    gym_pusht takes the two parts of the T from a set, so the last bit of its result depends on their addresses in
    memory.
    """

    def __init__(self, base: Any) -> None:
        self._shapely = require("shapely", "pusht")
        self._base = base
        self._goal: Any = None

    def __call__(self) -> float:
        block = self._base.block
        if self._goal is None:
            self._goal = self._shape(self._base.goal_pose)
        covered = self._shape(np.array([*block.position, block.angle]))
        return float(self._goal.intersection(covered).area / self._goal.area)

    def _shape(self, pose: np.ndarray) -> Any:
        bar, stem = keypoints(pose[None]).reshape(2, 4, 2)
        return self._shapely.multipolygons([self._shapely.polygons(bar), self._shapely.polygons(stem)])


class _State(gymnasium.ObservationWrapper[Any, Any, Any]):
    """gym_pusht's state (5,) as agent_pos (2,), block_pose (3,) with an angle in [0, 2 pi), keypoints (16,)."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        sizes = {"agent_pos": 2, "block_pose": 3, "keypoints": 16}
        self.observation_space = gymnasium.spaces.Dict(
            {key: gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64) for key, size in sizes.items()}
        )

    def observation(self, observation: np.ndarray) -> Obs:
        agent, block = observation[:2], observation[2:]
        # The function that recorded states are converted with, so that both agree to the last bit.
        return {"agent_pos": agent, "block_pose": block, "keypoints": keypoints(block[None])[0]}


class PushTEnv(GymEnv):
    """Action (2,): where the agent shall go, in [0, 512]. Reward: coverage of the outline over 0.95, at most 1.

    Success: more than 95 % covered. `reset(options={"reset_to_state": [agent x, y, block x, y, angle]})` starts there,
    as gym_pusht interprets these values.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        base: Any = self._env.unwrapped
        base._last_action = None  # rendered as a cross; it would still be that of the previous episode
        return super().reset(seed=seed, options=options)

    def start_at(self, state: np.ndarray) -> Obs:
        """Reset to a `sim_state` (10,), or at rest to a state (5,) as in Diffusion Policy's `seed_state`: agent x, y,
        block x, y, angle, where gym_pusht (as the recorder did) turns the block about its centre of mass.

        Where the agent overlaps the block, the first steps differ by some pixels: how pymunk was about to separate them
        is not part of a state."""
        if state.shape not in ((5,), (10,)):
            raise UserError(f"state of PushT: expected 5 or 10 values, got {state.size}")
        state = np.asarray(state, np.float64)
        obs = self.reset(seed=0, options={"reset_to_state": state[:5]})[0]
        if state.size == 5:
            return obs
        base: Any = self._env.unwrapped
        agent, block = base.agent, base.block
        agent.position, agent.velocity = state[:2].tolist(), state[5:7].tolist()
        block.angle = state[4]  # before `position`, which it changes
        block.position, block.velocity, block.angular_velocity = state[2:4].tolist(), state[7:9].tolist(), state[9]
        base.space.reindex_shapes_for_body(agent)
        base.space.reindex_shapes_for_body(block)
        return self._obs(self._env.observation(base.get_obs()) if isinstance(self._env, _State) else base.get_obs())

    def state_of(self, obs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The state (10,) at rest, from `agent_pos` and `block_pose` or `keypoints` (LeRobot: `state` and
        `environment_state`)."""
        agent, pose = obs.get("agent_pos"), obs.get("block_pose")
        corners = obs.get("keypoints", obs.get("environment_state"))
        if agent is None or (pose is None and (corners is None or corners.shape != (16,))):
            return None
        pose = pose_of(corners) if pose is None and corners is not None else pose
        return np.concatenate([agent, pose, np.zeros(5)]).astype(np.float64)

    def sim_state(self) -> np.ndarray:
        """float64 (10,): agent x, y, block x, y, angle; then the velocities of these five."""
        base: Any = self._env.unwrapped
        agent, block = base.agent, base.block
        positions = [*agent.position, *block.position, block.angle]
        return np.array([*positions, *agent.velocity, *block.velocity, block.angular_velocity], dtype=np.float64)


def make_pusht(name: str, pixels: bool, render: RenderOptions | None) -> SimEnv:
    """A `PushTEnv` called `name`. pixels: whether it observes images instead of keypoints."""
    kwargs: dict[str, Any] = {"obs_type": "pixels_agent_pos" if pixels else "state"}
    if pixels:
        kwargs |= {"observation_width": IMAGE_SIZE, "observation_height": IMAGE_SIZE}

    def make(options: RenderOptions | None) -> gymnasium.Env[Any, Any]:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        require("gym_pusht", "pusht")
        size = {}
        if options is not None:  # square like the world, and large enough for gym_pusht's marker of the action
            side = max(IMAGE_SIZE, min(options.width, options.height))
            size = {"visualization_width": side, "visualization_height": side}
        env = gymnasium.make(
            "gym_pusht/PushT-v0",
            max_episode_steps=-1,
            disable_env_checker=True,
            render_mode="rgb_array",
            **kwargs,
            **size,
        )
        base: Any = env.unwrapped
        base._get_coverage = _Coverage(base)
        return env if pixels else _State(env)

    return PushTEnv(
        make, name=name, packages=("gym-pusht", "pymunk"), controller="position", env_kwargs=kwargs, render=render
    )


_pusht = functools.partial(
    Task, suite="gym_pusht", max_steps=MAX_STEPS, fps=10.0, slots=32, reward_range=(0.0, 1.0),
    plane=("keypoints[0]", "keypoints[1]"),  # a corner of the block
)  # fmt: skip

PUSHT = _pusht(name="pusht", make=functools.partial(make_pusht, "pusht", False), obs_keys=("keypoints", "agent_pos"))

PUSHT_PIXELS = _pusht(
    name="pusht_pixels",
    make=functools.partial(make_pusht, "pusht_pixels", True),
    obs_keys=("pixels", "agent_pos"),
    images=("pixels",),
)
