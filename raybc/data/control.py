"""Actions of robosuite's arms as deltas or as absolute poses: the conversion of recorded ones, and whether data and
environment agree. Letters: N transitions, A action dim, S state dim.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raybc.config import RunConfig
from raybc.data.action_form import ActionForm, with_units
from raybc.data.episodes import EpisodeStore
from raybc.envs.base import Task
from raybc.envs.robosuite_control import ABSOLUTE, DELTA, Control, controls_of, with_input_type
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.envs.robosuite_absolute import AbsoluteEnv

#: What the names of controllers of joints begin with.
JOINTS = "JOINT"
Target = Literal["absolute", "delta"]


def converted(
    store: EpisodeStore, task: Task, target: Target, on_episodes: Callable[[int], None] | None = None
) -> tuple[EpisodeStore, str]:
    """`store` with absolute actions made of deltas, or the reverse, by the formula of the controller in each recorded
    state; its `env_args` say so.

    task: that of the recording; its simulator is started. on_episodes: called with the number of finished episodes.
    Returns also what to know about the result, or "". Raises `UserError` for data without states, for other simulators
    and controllers, and for actions that have the wanted form already.
    """
    where = f"{store.source}: --actions {target}"
    if store.states_NS is None:
        raise UserError(f"{where}: expected states of the simulator, in which actions are converted, got none")
    _refuse_same(store.env_args, target, where)
    from raybc.envs.robosuite_absolute import absolute_version

    with contextlib.closing(task.make(None)) as recorded_in:
        if not controls_of(store.env_args):
            _refuse_same(recorded_in.env_args(), target, where)
        env = absolute_version(recorded_in, where)
    with contextlib.closing(env):
        if store.actions_NA.shape[1:] != env.action_space.shape:
            raise UserError(
                f"{where}: expected actions of {task.name}, {env.action_space.shape}, got {store.actions_NA.shape[1:]}"
            )
        actions, beyond = _actions(store, env, target, where, on_episodes)
        env_args = _env_args(store.env_args, env.env_args(), target)
    note = ""
    if beyond:
        note = (
            f"{beyond:.2%} of the steps lead farther than a delta can (5 cm and 0.5 rad, by default): they are clipped"
        )
    return dataclasses.replace(store, actions_NA=actions, env_args=env_args, checked=True), note


def in_own_units(store: EpisodeStore, units: str) -> EpisodeStore:
    """`store` with actions in the units of the environment. units: those that were recorded, as `action_units` of a
    training. Raises `UserError` for units that do not fit."""
    config = with_units(RunConfig.of(action_units=units), store.env_args)
    form = ActionForm.of(config, store.actions_NA.shape[1])
    return dataclasses.replace(store, actions_NA=form.decode(store.actions_NA), checked=True) if form.gains else store


def _refuse_same(env_args: Mapping[str, Any], target: str, where: str) -> None:
    if any(control.input_type == target for control in controls_of(env_args)):
        other = DELTA if target == ABSOLUTE else ABSOLUTE
        raise UserError(f"{where}: expected {other} actions, and these are {target} already")


def _actions(
    store: EpisodeStore, env: AbsoluteEnv, target: str, where: str, on_episodes: Callable[[int], None] | None
) -> tuple[np.ndarray, float]:
    """The actions in the other form, float32 (N, A), and the share of the steps that had to be clipped."""
    assert store.states_NS is not None
    found = np.empty(store.actions_NA.shape, np.float64)
    for number, (start, end) in enumerate(zip(store.episode_starts, store.episode_ends, strict=True)):
        try:
            for row in range(start, end):
                env.observe_at(store.states_NS[row])
                action = store.actions_NA[row]
                found[row] = env.to_absolute(action) if target == ABSOLUTE else env.to_delta(action)
        except UserError as error:
            raise UserError(f"{where}: episode {number}: {error}") from None
        if on_episodes is not None:
            on_episodes(number + 1)
    if target == ABSOLUTE:
        return found.astype(np.float32), 0.0
    clipped = np.clip(found, -1, 1)
    # Recorded deltas of 1 come back as 1 and a rounding error.
    return clipped.astype(np.float32), float((np.abs(found - clipped) > 1e-4).any(axis=1).mean())


def _env_args(recorded: Mapping[str, Any], env_args: Mapping[str, Any], target: str) -> dict[str, Any]:
    """`recorded`, or that of the environment where nothing is recorded, with the controllers of the other form."""
    args = dict(recorded if controls_of(recorded) else {**env_args, **recorded, "env_kwargs": env_args["env_kwargs"]})
    kwargs = dict(args["env_kwargs"])
    kwargs["controller_configs"] = with_input_type(kwargs["controller_configs"], target)
    return {**args, "env_kwargs": kwargs}


def mismatch(recorded: Mapping[str, Any], env_args: Mapping[str, Any]) -> tuple[Control, Control] | None:
    """(control of the data, control of the environment) where the two mean other actions by the same numbers: deltas
    and poses, poses in two frames, or hands and joints. None where they agree, and where either is not described.

    recorded, env_args: robomimic's `env_args` of the data and of the environment.
    """
    for was, now in zip(controls_of(recorded), controls_of(env_args), strict=False):
        joints = was.type.startswith(JOINTS) != now.type.startswith(JOINTS) and bool(was.type and now.type)
        if joints or was.input_type != now.input_type or (now.absolute and was.frame != now.frame):
            return was, now
    return None


def advice_for(was: Control, now: Control) -> str:
    """What to do about a `mismatch`."""
    if was.input_type == now.input_type or JOINTS in was.type + now.type:
        return "name the environment that they were recorded in, --env_name dataset:FILE"
    convert = f"convert them: raybc data convert FILE --actions {now.input_type} --out CONVERTED --format robomimic"
    return f"{convert}; or choose the task with {was.input_type} actions"


def refuse_other_control(store: EpisodeStore, env_args: Mapping[str, Any], env_name: str, action_key: str = "") -> None:
    """Raise `UserError` for data whose actions are deltas where the environment takes poses, or the reverse.

    action_key: the array that was chosen as the action, which `env_args` need not describe.
    """
    found = None if action_key else mismatch(store.env_args, env_args)
    if found is not None:
        was, now = found
        raise UserError(
            f"{store.source}: actions: expected {now}, as {env_name} takes, got {was}; {advice_for(was, now)}"
        )
