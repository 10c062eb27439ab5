"""Beginning where a recorded episode began, for gymnasium environments on MuJoCo.

A state is [time, qpos, qvel, own], as `GymEnv.sim_state` gives it, or [qpos, qvel, own], as D4RL, OGBench and Minari
record it. `own` are the task's numbers that are not in MuJoCo's state and decide an episode as well: a goal, the pen's
target, where the door stands, which buttons are lit. A wrapper that knows better than this file has two methods,
`own_state() -> (K,)` and `restore(Start)`, which returns the observation.

What is not restored: MuJoCo's warm start, which solvers begin from (MuJoCo is deterministic, so where an episode began
with a reset and one setting of the state it is the same, elsewhere contacts differ in their last digits), and random
generators (FrankaKitchen's noise, OGBench's teleports).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from raybc.types import UserError

GYMNASIUM = "gymnasium.envs.mujoco"
MAZES = "gymnasium_robotics.envs.maze"
ADROIT = "gymnasium_robotics.envs.adroit_hand"
KITCHEN = "gymnasium_robotics.envs.franka_kitchen"


@dataclass(frozen=True)
class Start:
    """A state taken apart, float64. qpos (nq,), qvel (nv,). own (K,), or (0,) where the recording lacks it and the
    wrapper says that it may (`own_optional`). ours: whether `sim_state` gave it; else others recorded it, in their
    frame of reference."""

    qpos: np.ndarray
    qvel: np.ndarray
    own: np.ndarray
    ours: bool


def own_state(env: gymnasium.Env[Any, Any]) -> np.ndarray:
    """The task's own numbers, float64 (K,); (0,) where there are none or none are known."""
    layer = _layer(env)
    if hasattr(layer, "own_state"):
        return np.asarray(layer.own_state(), np.float64)
    base: Any = env.unwrapped
    if _is(base, MAZES):
        return np.array(base.goal, np.float64)
    if _is(base, ADROIT):
        return np.concatenate([array[i] for array, i in _adroit_places(base)]).astype(np.float64)
    return np.zeros(0)


def is_complete(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether a state decides all that follows. FrankaKitchen adds noise to what it observes and steers by that."""
    return not _is(env.unwrapped, KITCHEN)


def split(env: gymnasium.Env[Any, Any], name: str, state: np.ndarray) -> Start:
    """A state of `env` taken apart; `UserError` where its size is not one that the module's head names."""
    data: Any = getattr(env.unwrapped, "data", None)
    nq, nv, k = data.qpos.size, data.qvel.size, own_state(env).size
    sizes = {nq + nv + k: (k, False), 1 + nq + nv + k: (k, True)}
    if getattr(_layer(env), "own_optional", False):
        sizes |= {nq + nv: (0, False), 1 + nq + nv: (0, True)}
    if state.ndim != 1 or state.size not in sizes:
        more = f" and {k} of the task's own (see raybc.envs.restore)" if k else ""
        raise UserError(
            f"state of {name}: expected {nq} positions, {nv} velocities{more}, {nq + nv + k} numbers, or one more with "
            f"the time before them; got {state.size}: a recording of another model or task, or one that lacks a part"
        )
    own, ours = sizes[state.size]
    numbers = np.array(state[1:] if ours else state, np.float64)
    return Start(numbers[:nq], numbers[nq : nq + nv], numbers[nq + nv :][:own], ours)


def begin(env: gymnasium.Env[Any, Any], name: str, state: np.ndarray) -> Any:
    """Set `env`, which was just reset, to a recorded state; returns its observation.

    Raises `UserError` where the state has another size, or where it is not known what decides an episode of `env`.
    """
    base: Any = env.unwrapped
    data: Any = getattr(base, "data", None)
    known = hasattr(_layer(env), "restore") or any(_is(base, m) for m in (GYMNASIUM, MAZES, ADROIT, KITCHEN))
    if type(data).__name__ != "MjData" or not known:
        raise UserError(
            f"state of {name}: this adapter cannot begin in a recorded state; it is not known what decides an episode "
            "there (a wrapper with own_state and restore can say so, see raybc.envs.restore)"
        )
    start = split(env, name, state)
    obs = _restored(env, start)
    data.time = state[0] if start.ours else 0.0
    return obs


def _layer(env: Any) -> Any:
    """The outermost wrapper with a method `restore`, or the environment itself."""
    while not hasattr(type(env), "restore") and isinstance(env, gymnasium.Wrapper):
        env = env.env
    return env


def _restored(env: Any, start: Start) -> Any:
    """The observation after `env` was set to `start`, as the outermost wrapper gives it."""
    if hasattr(type(env), "restore"):
        return env.restore(start)
    if isinstance(env, gymnasium.ObservationWrapper):
        return env.observation(_restored(env.env, start))
    return _restored(env.env, start) if isinstance(env, gymnasium.Wrapper) else _set(env, start)


def _set(base: Any, start: Start) -> Any:
    if _is(base, MAZES):
        base.goal = start.own.copy()
        base.update_target_site_pos()
        if hasattr(base, "ant_env"):
            set_mujoco(base.ant_env, start)
            return base._get_obs(base.ant_env._get_obs())
        set_mujoco(base.point_env, start)
        return base._get_obs(base.point_env._get_obs()[0])
    if _is(base, KITCHEN):
        set_mujoco(base.robot_env, start)
        return base._get_obs(base.robot_env._get_obs())
    if _is(base, ADROIT):
        first = 0
        for array, i in _adroit_places(base):
            array[i] = start.own[first : first + array[i].size]
            first += array[i].size
    set_mujoco(base, start)
    return base._get_obs()


def set_mujoco(base: Any, start: Start) -> None:
    """`set_state` of Gymnasium's MuJoCo base class, from the same warm start as after a reset."""
    import mujoco

    mujoco.mj_resetData(base.model, base.data)
    base.set_state(start.qpos, start.qvel)


def _adroit_places(base: Any) -> list[tuple[np.ndarray, int]]:
    """Where the model holds what an Adroit task draws at a reset, in the order of D4RL's names for it
    (`desired_orien`; `door_body_pos`; `board_pos`; `obj_pos`, `target_pos`)."""
    model, task = base.model, type(base).__name__
    if "Pen" in task:
        return [(model.body_quat, base.target_obj_body_id)]
    if "Door" in task:
        return [(model.body_pos, base.door_body_id)]
    if "Hammer" in task:
        return [(model.body_pos, base.target_body_id)]
    return [(model.body_pos, base.obj_body_id), (model.site_pos, base.target_obj_site_id)]


def _is(base: Any, package: str) -> bool:
    return any(cls.__module__.startswith(package) for cls in type(base).__mro__)
