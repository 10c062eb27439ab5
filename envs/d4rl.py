"""D4RL's environments and names: `halfcheetah-medium-v2`, `antmaze-umaze-v2`, `door-human-v1`, `kitchen-partial-v0`.

D4RL itself needs MuJoCo 2.1 by way of mujoco-py. These are Gymnasium's and Gymnasium-Robotics' successors of its
environments on today's MuJoCo, with what they changed (observations, starts, rewards, the ant's motors) changed back,
so that D4RL's data fit. docs/environments.md says how the two still differ.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from raybc.envs.base import EnvName, RenderOptions, Task
from raybc.envs.gym import GymEnv
from raybc.envs.registered import make_registered
from raybc.envs.restore import Start, set_mujoco

#: D4RL's returns of a random and of an expert policy (REF_MIN_SCORE, REF_MAX_SCORE), by task.
REFERENCE: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze-umaze": (0.0, 1.0),
    "antmaze-medium": (0.0, 1.0),
    "antmaze-large": (0.0, 1.0),
    "pen": (96.262799, 3076.8331017826877),
    "door": (-56.512833, 2880.5693087298737),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "kitchen": (0.0, 4.0),
    "kitchen-mixed": (0.0, 4.0),
}

ROBOTICS = ("gymnasium-robotics", "gymnasium")
ANT_CONTACTS = 84  # last dimensions of D4RL's ant, which are zero in all of its data


class _Ant(gymnasium.ObservationWrapper[Any, Any, Any]):
    """D4RL's observation (111,): MuJoCo 2.x left the last 84, contact forces, at zero, and so they are in its data.

    Actual forces would be inputs that no policy has seen. The reward had no contact cost for the same reason.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._contacts = np.zeros(ANT_CONTACTS)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (27 + ANT_CONTACTS,), np.float64)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return np.concatenate([observation, self._contacts])


#: D4RL's mazes for evaluation (1 wall, r start, g goal). Rows from north to south as in D4RL, where y grows southwards.
MAZES = {
    "umaze": ("11111", "1r001", "11101", "1g001", "11111"),
    "medium": ("11111111", "1r011001", "10010001", "11000111", "10010001", "10100101", "100010g1", "11111111"),
    "large": (
        "111111111111",
        "1r0001000001",
        "101101010101",
        "100000010001",
        "101111011101",
        "100101000001",
        "110101010111",
        "100100010g01",
        "111111111111",
    ),
}
CELL = 4.0  # metres
GOAL_RADIUS = 0.5  # metres


class _AntMaze(gymnasium.Wrapper[Any, Any, Any, Any]):
    """D4RL's ant in D4RL's coordinates: metres from the centre of the start cell, y southwards.

    Observation (29,): qpos (15) and qvel (14); the goal is not part of it. Reward 1 within 0.5 m of the goal, which
    ends the episode. Goal and start are drawn as in D4RL's -v2 environments, from the generator that reset seeds.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], maze: tuple[str, ...]) -> None:
        super().__init__(env)
        base: Any = env.unwrapped
        self._base = base
        # D4RL's motors and time step: 30 Nm instead of 150 Nm, ten actions a second instead of twenty.
        base.model.actuator_gear[:, 0] = 30.0
        base.model.opt.timestep = 0.02
        # The whole maze from above; by default the image shows four metres at its middle.
        base.ant_env.mujoco_renderer.default_cam_config = {
            "distance": 1.2 * CELL * max(len(maze), len(maze[0])),
            "elevation": -90.0,
            "lookat": np.zeros(3),
        }
        start, goal = (next((i, row.index(c)) for i, row in enumerate(maze) if c in row) for c in "rg")
        self._goal_cell = CELL * np.array([goal[1] - start[1], goal[0] - start[0]])
        # The rows are handed over from south to north (see `_antmaze`): Gymnasium-Robotics lets y grow northwards,
        # and mirroring the maze instead of the ant gives D4RL's y.
        self._origin = np.array(
            [(start[1] + 0.5) * CELL - base.maze.x_map_center, (start[0] + 0.5) * CELL - base.maze.y_map_center]
        )
        self._goal = np.zeros(2)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        _, info = self.env.reset(seed=seed, options=options)
        base, rng = self._base, self._base.np_random
        goal = self._goal_cell + rng.uniform(0.0, CELL / 4, 2) + rng.uniform(0.0, CELL / 8, 2)
        self._goal = np.maximum(goal, 0.0)
        base.goal = self._goal + self._origin
        base.update_target_site_pos()  # the red ball in images
        ant = base.ant_env
        qpos = ant.init_qpos + rng.uniform(-0.1, 0.1, ant.model.nq)
        qpos[:2] += self._origin - ant.init_qpos[:2]
        ant.set_state(qpos, 0.1 * rng.standard_normal(ant.model.nv))
        return self._observation(), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.env.step(action)
        obs = self._observation()
        success = float(np.hypot(*(obs[:2] - self._goal))) <= GOAL_RADIUS
        return obs, float(success), success, False, {"success": success}

    own_optional = True
    """D4RL's older files do not record the goal; then it is drawn as for evaluation."""

    def own_state(self) -> np.ndarray:
        """The goal (2,) in D4RL's coordinates."""
        return self._goal

    def restore(self, start: Start) -> np.ndarray:
        """D4RL records positions in its own coordinates; `sim_state` has MuJoCo's."""
        if start.own.size:
            self._goal = start.own.copy()
            self._base.goal = self._goal + self._origin
            self._base.update_target_site_pos()
        if not start.ours:
            start.qpos[:2] += self._origin
        set_mujoco(self._base.ant_env, start)
        return self._observation()

    def _observation(self) -> np.ndarray:
        obs = np.concatenate([self._base.data.qpos, self._base.data.qvel])
        obs[:2] -= self._origin
        return obs


#: From an observation of Gymnasium-Robotics' task: the vector from the palm to what it should reach.
REACH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "door": lambda obs: obs[35:38],
    "hammer": lambda obs: obs[33:36] - obs[36:39],
    "relocate": lambda obs: obs[30:33],
}
PEN_FELL = 0.075  # metres


class _Adroit(gymnasium.Wrapper[Any, Any, Any, Any]):
    """D4RL's rewards and ends.

    Gymnasium-Robotics (since 1.2.1) rewards a palm far away from the door, hammer or ball with +0.1 a metre where D4RL
    has -0.1, and lets the pen's episode go on when the pen has fallen.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], task: str) -> None:
        super().__init__(env)
        self._reach = REACH.get(task)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs, value, terminated, truncated, info = self.env.step(action)
        reward = float(value)
        if self._reach is None:
            return obs, reward, bool(obs[26] < PEN_FELL), truncated, info
        return obs, reward - 0.2 * float(np.linalg.norm(self._reach(obs))), terminated, truncated, info


class _Kitchen(gymnasium.ObservationWrapper[Any, Any, Any]):
    """D4RL's observation (60,): robot joints (9), objects (21), goal (30); without velocities."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        module = importlib.import_module("gymnasium_robotics.envs.franka_kitchen.kitchen_env")
        self._goal = np.zeros(30)
        base: Any = env.unwrapped
        for element, value in base.goal.items():
            self._goal[module.OBS_ELEMENT_INDICES[element]] = value
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (60,), np.float64)

    def observation(self, observation: dict[str, Any]) -> np.ndarray:
        values = observation["observation"]  # robot 9 + 9 velocities, objects 21 + 20 velocities
        return np.concatenate([values[:9], values[18:39], self._goal])


class KitchenEnv(GymEnv):
    """D4RL's kitchen. Its data contain no states, but all positions are observed."""

    def state_of(self, obs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """qpos (30,) as observed, including the observation noise, and qvel (29,) at rest."""
        state = obs.get("state")
        return None if state is None or state.shape != (60,) else np.concatenate([state[:30], np.zeros(29)])


def _kitchen_success(info: dict[str, Any]) -> bool:
    return not info["tasks_to_complete"]


def _locomotion(name: str, env_id: str, render: RenderOptions | None) -> GymEnv:
    def make(options: RenderOptions | None) -> gymnasium.Env[Any, Any]:
        env = make_registered(env_id, options, module="mujoco", extra="mujoco")
        return _Ant(env) if name == "ant" else env

    return GymEnv(make, name=name, packages=("gymnasium",), controller=f"torque/{env_id}", render=render)


def _antmaze(name: str, render: RenderOptions | None) -> GymEnv:
    maze = MAZES[name.removeprefix("antmaze-")]

    def make(options: RenderOptions | None) -> gymnasium.Env[Any, Any]:
        rows = [[int(c) if c in "01" else c for c in row] for row in reversed(maze)]
        env = make_registered("AntMaze_UMaze-v4", options, module="gymnasium_robotics", extra="robotics", maze_map=rows)
        return _AntMaze(env, maze)

    return GymEnv(make, name=name, packages=ROBOTICS, controller="torque/AntMaze-v4", render=render)


def _adroit(name: str, render: RenderOptions | None) -> GymEnv:
    env_id = f"AdroitHand{name.capitalize()}-v1"

    def make(options: RenderOptions | None) -> gymnasium.Env[Any, Any]:
        return _Adroit(make_registered(env_id, options, module="gymnasium_robotics", extra="robotics"), name)

    return GymEnv(make, name=name, packages=ROBOTICS, controller=f"position/{env_id}", render=render)


def _kitchen(name: str, elements: tuple[str, ...], render: RenderOptions | None) -> GymEnv:
    kwargs = {
        "tasks_to_complete": list(elements),
        "robot_noise_ratio": 0.1,  # D4RL's; by way of the controller it is in the motion, too
        "object_noise_ratio": 0.1,
    }

    def make(options: RenderOptions | None) -> gymnasium.Env[Any, Any]:
        return _Kitchen(
            make_registered("FrankaKitchen-v1", options, module="gymnasium_robotics", extra="robotics", **kwargs)
        )

    return KitchenEnv(
        make,
        name=name,
        packages=ROBOTICS,
        controller="velocity/FrankaKitchen-v1",
        success=_kitchen_success,
        env_kwargs=kwargs,
        render=render,
    )


def _tasks() -> dict[str, Task]:
    robotics = functools.partial(Task, suite="gymnasium_robotics", obs_keys=("state",))
    tasks = [
        Task(
            name=name,
            suite="gymnasium",
            make=functools.partial(_locomotion, name, env_id),
            max_steps=1000,
            obs_keys=("state",),
            fps=fps,
            slots=32,
            has_success=False,
            reference_returns=REFERENCE[name],
        )
        for name, env_id, fps in (
            ("halfcheetah", "HalfCheetah-v4", 20.0),
            ("hopper", "Hopper-v4", 125.0),
            ("walker2d", "Walker2d-v4", 125.0),
            ("ant", "Ant-v4", 20.0),
        )
    ]
    tasks += [
        robotics(
            name=name,
            make=functools.partial(_antmaze, name),
            max_steps=steps,
            fps=10.0,
            slots=32,
            reference_returns=REFERENCE[name],
        )
        for name, steps in (("antmaze-umaze", 700), ("antmaze-medium", 1000), ("antmaze-large", 1000))
    ]
    # No reference returns: D4RL's episodes collect reward after the first success, where an episode here ends.
    tasks += [
        robotics(name=name, make=functools.partial(_adroit, name), max_steps=steps, fps=100.0, slots=32)
        for name, steps in (("pen", 100), ("door", 200), ("hammer", 200), ("relocate", 200))
    ]
    tasks += [
        robotics(
            name=name,
            make=functools.partial(_kitchen, name, elements),
            max_steps=280,
            fps=12.5,
            slots=4,
            reference_returns=REFERENCE[name],
        )
        for name, elements in (
            ("kitchen", ("microwave", "kettle", "light switch", "slide cabinet")),
            ("kitchen-mixed", ("microwave", "kettle", "bottom burner", "light switch")),
        )
    ]
    return {made.name: made for made in tasks}


TASKS = _tasks()


def _datasets() -> dict[str, EnvName]:
    """The names that D4RL publishes for these tasks. Similar ones belong to others (OGBench's antmaze-*)."""
    found: list[EnvName] = []
    for task_name in ("halfcheetah", "hopper", "walker2d", "ant"):
        for data in ("random", "medium", "expert", "medium-replay", "medium-expert", "full-replay"):
            for version in ("v0", "v1", "v2") if data != "full-replay" else ("v1", "v2"):
                found.append(EnvName(f"{task_name}-{data}-{version}", task_name, f"{data}-{version}"))
    for version in ("v0", "v1", "v2"):
        found.append(EnvName(f"antmaze-umaze-{version}", "antmaze-umaze", version))
        found.append(EnvName(f"antmaze-umaze-diverse-{version}", "antmaze-umaze", f"diverse-{version}"))
        for size in ("medium", "large"):
            for data in ("play", "diverse"):
                found.append(EnvName(f"antmaze-{size}-{data}-{version}", f"antmaze-{size}", f"{data}-{version}"))
    for task_name in ("pen", "door", "hammer", "relocate"):
        for data in ("human", "cloned", "expert"):
            for version in ("v0", "v1"):
                found.append(EnvName(f"{task_name}-{data}-{version}", task_name, f"{data}-{version}"))
    for data, task_name in (("complete", "kitchen"), ("partial", "kitchen"), ("mixed", "kitchen-mixed")):
        found.append(EnvName(f"kitchen-{data}-v0", task_name, f"{data}-v0"))
    return {env_name.name: env_name for env_name in found}


DATASETS = _datasets()
EXAMPLES = tuple(DATASETS)


def task(name: str) -> Task | None:
    """The `Task` called `name`, or None."""
    return TASKS.get(name)


def parse(name: str) -> EnvName | None:
    """A name of D4RL's data (`halfcheetah-medium-v2`) or of a task here (`halfcheetah`, `kitchen-mixed`); None for
    other names."""
    return DATASETS.get(name) or (EnvName(name, name) if name in TASKS else None)


def reference(name: str) -> tuple[float, float] | None:
    """D4RL's returns of a random and of an expert policy for the name of a data set or task; None for other names."""
    found = parse(name)
    return REFERENCE[found.task] if found is not None else None
