"""Resetting gymnasium environments on MuJoCo to recorded states.

A state is [time, qpos, qvel, own], as `GymEnv.sim_state` returns it, or [qpos, qvel, own], as D4RL, OGBench and Minari
record it. `own` holds what the task adds to MuJoCo's state: a goal, the pen's target, where the door stands, which
buttons are lit. A wrapper that knows its task better than this file has two methods: `own_state() -> (K,)` and
`restore(Start)`, which returns the observation.

Two things are not restored: MuJoCo's warm start of its solvers (identical where an episode began with a reset and one
call of set_state; elsewhere contacts differ in the last digits), and random generators (FrankaKitchen's noise,
OGBench's teleports).
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
    """The parts of a recorded state."""

    qpos: np.ndarray
    """Positions, float64 (nq,)."""
    qvel: np.ndarray
    """Velocities, float64 (nv,)."""
    own: np.ndarray
    """State of the task, float64 (K,); (0,) where the recording lacks it and the wrapper allows that
    (`own_optional`)."""
    ours: bool
    """Whether it comes from `sim_state`; other recorders use their own frame of reference."""


def own_state(env: gymnasium.Env[Any, Any]) -> np.ndarray:
    """The state of the task beyond MuJoCo's, float64 (K,); (0,) where there is none or it is not known."""
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
    """Whether a state determines all that follows. FrankaKitchen adds noise to observations, and its controller uses
    them."""
    return not _is(env.unwrapped, KITCHEN)


def split(env: gymnasium.Env[Any, Any], name: str, state: np.ndarray) -> Start:
    """The parts of a state (S,) of `env`, called `name` in messages. Raises `UserError` for sizes that fit none of the
    layouts at the top of this file."""
    data: Any = getattr(env.unwrapped, "data", None)
    nq, nv, k = data.qpos.size, data.qvel.size, own_state(env).size
    sizes = {nq + nv + k: (k, False), 1 + nq + nv + k: (k, True)}
    if getattr(_layer(env), "own_optional", False):
        sizes |= {nq + nv: (0, False), 1 + nq + nv: (0, True)}
    if state.ndim != 1 or state.size not in sizes:
        more = f" and {k} values of the task (see raybc.envs.restore)" if k else ""
        raise UserError(
            f"state of {name}: expected {nq} positions, {nv} velocities{more}, {nq + nv + k} values, or one more with "
            f"the time before them; got {state.size}: a recording of another model or task, or one that lacks a part"
        )
    own, ours = sizes[state.size]
    values = np.array(state[1:] if ours else state, np.float64)
    return Start(values[:nq], values[nq : nq + nv], values[nq + nv :][:own], ours)


def begin(env: gymnasium.Env[Any, Any], name: str, state: np.ndarray) -> Any:
    """Set `env`, which was just reset, to a recorded state (S,), and return its observation.

    Raises `UserError` for a state of another size, and for environments whose complete state is not known here.
    """
    base: Any = env.unwrapped
    data: Any = getattr(base, "data", None)
    known = hasattr(_layer(env), "restore") or any(_is(base, m) for m in (GYMNASIUM, MAZES, ADROIT, KITCHEN))
    if type(data).__name__ != "MjData" or not known:
        raise UserError(
            f"state of {name}: this adapter cannot start from a recorded state: what else determines an episode is not "
            "known (a wrapper with own_state and restore can provide it, see raybc.envs.restore)"
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
