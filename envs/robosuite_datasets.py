"""Names `dataset:PATH`: the robosuite environment in which a robomimic HDF5 file was recorded.

It is described by the JSON of `data.attrs["env_args"]`. Only its values are used, never code: the environment is one of
robosuite's own, and arguments that only affect images are dropped. Old files (robosuite <= 1.4) describe an
arm's controller where robosuite 1.5 wants one of the whole robot; they are converted as robosuite does it, and so is
what it silently ignores (absolute actions, damping, and that deltas were in the world's frame).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.envs.base import EnvName, RenderOptions, Task
from raybc.envs.robosuite import (
    CONTROL_FREQ,
    DEFAULT_MAX_STEPS,
    MAX_STEPS,
    ROBOSUITE_TYPE,
    RobosuiteEnv,
    import_robosuite,
    low_dim_keys,
    quiet,
)
from raybc.envs.robosuite_absolute import AbsoluteEnv
from raybc.envs.robosuite_control import is_absolute, is_old
from raybc.files import expanded, parse_json
from raybc.types import UserError

PREFIX = "dataset:"
EXAMPLES = ("dataset:demos.hdf5",)

#: Arguments about images and windows, which the harness chooses, and others that `RobosuiteEnv` sets.
IGNORED_ARGUMENTS = re.compile(
    r"camera_.*|render_.*|renderer.*|has_.*renderer|use_.*_obs|ignore_done|hard_reset|horizon|seed|robots"
)
#: Setting of an arm's controller before robosuite 1.5 -> its name since.
RENAMED = {"damping": "damping_ratio", "damping_limits": "damping_ratio_limits"}


def parse(name: str) -> EnvName | None:
    """`dataset:PATH`, a task without data; None for other names."""
    return EnvName(name, name) if name.startswith(PREFIX) else None


def task(name: str) -> Task | None:
    """The task `dataset:PATH`, by the file's `env_args`; None for other names. Does not import robosuite."""
    if not name.startswith(PREFIX):
        return None
    path = expanded(name.removeprefix(PREFIX))
    recorded = read_recorded_env(path)
    kwargs = recorded.kwargs
    robots = kwargs.get("robots", "Panda")
    robots = [robots] if isinstance(robots, str) else robots
    if not isinstance(robots, list) or not robots or not all(isinstance(robot, str) for robot in robots):
        raise UserError(f"{path}: env_args: robots: expected names of robots, got {robots!r}")
    frequency = kwargs.get("control_freq", CONTROL_FREQ)
    if isinstance(frequency, bool) or not isinstance(frequency, int | float) or frequency <= 0:
        raise UserError(f"{path}: env_args: control_freq: expected a number of Hz, got {frequency!r}")
    keys = low_dim_keys(len(robots))
    return Task(
        name=name,
        suite="robosuite",
        make=functools.partial(_make, str(path), recorded, tuple(robots), keys),
        max_steps=MAX_STEPS.get(recorded.env_name, DEFAULT_MAX_STEPS),
        obs_keys=keys,
        fps=float(frequency),
        slots=4,
    )


@dataclass(frozen=True)
class RecordedEnv:
    """The environment of a robomimic file, as its `env_args` describe it."""

    env_name: str
    """robosuite's name."""
    version: str
    """The version of robosuite that recorded; "" where the file does not say."""
    kwargs: Mapping[str, Any]
    """Arguments of `robosuite.make` (JSON)."""


def read_recorded_env(path: Path) -> RecordedEnv:
    """The environment of a robomimic file that was recorded in robosuite.

    Raises `UserError` for files without valid `env_args` and for those of other simulators.
    """
    from raybc.data.formats import containers  # not at the top: listing names needs no files
    from raybc.data.formats.robosuite import recorded_env

    with containers.opened_hdf5(path, "robomimic HDF5") as file:
        data = file.get("data")
        text = None if data is None else data.attrs.get("env_args")
        if text is None and data is not None:  # robosuite's own recordings
            recorded = recorded_env(data, path)
            text = json.dumps(recorded) if recorded else None
    if text is None:
        raise UserError(f"{path}: has no env_args (data.attrs['env_args']), so it does not tell its environment")
    if not isinstance(text, str | bytes):
        raise UserError(f"{path}: env_args: expected a text in JSON, got {type(text).__name__}")
    args = parse_json(text, f"{path}: env_args")
    if not isinstance(args, dict):
        raise UserError(f"{path}: env_args: expected a mapping, got {type(args).__name__}")
    kind, env_name, kwargs = args.get("type"), args.get("env_name"), args.get("env_kwargs")
    if kind != ROBOSUITE_TYPE:
        raise UserError(
            f"{path}: env_args: expected an environment of robosuite (type {ROBOSUITE_TYPE}), got {env_name!r} of type "
            f"{kind!r}; name the task itself as env_name, and the file as dataset"
        )
    if not isinstance(env_name, str) or not isinstance(kwargs, dict):
        raise UserError(f"{path}: env_args: expected env_name (text) and env_kwargs (a mapping), got {args}")
    return RecordedEnv(env_name, str(args.get("env_version", "")), kwargs)


def _make(
    path: str, recorded: RecordedEnv, robots: tuple[str, ...], keys: tuple[str, ...], render: RenderOptions | None
) -> RobosuiteEnv:
    robosuite = import_robosuite()
    unknown = sorted(set(robots) - set(robosuite.ALL_ROBOTS))
    if unknown:
        raise UserError(f"{path}: env_args: robosuite {robosuite.__version__} has no robot {unknown[0]!r}")
    old = is_old(recorded.version)
    settings = {key: value for key, value in recorded.kwargs.items() if IGNORED_ARGUMENTS.fullmatch(key) is None}
    if settings.get("controller_configs") is None:
        settings.pop("controller_configs", None)
    else:
        with quiet():
            settings["controller_configs"] = _controllers(path, settings["controller_configs"], robots, old)
    if old:
        settings["lite_physics"] = False  # robosuite's advice for data of these versions
    absolute = is_absolute({"env_kwargs": settings})
    try:
        return (AbsoluteEnv if absolute else RobosuiteEnv)(
            recorded.env_name, keys, render, robots=robots, settings=settings
        )
    # What robosuite raises for unknown arguments and for combinations that do not fit.
    except (TypeError, KeyError, AssertionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: robosuite {robosuite.__version__} cannot build its environment {recorded.env_name} (recorded "
            f"with {recorded.version or 'an unknown version'}): {error!r}"
        ) from error


def _controllers(path: str, configs: Any, robots: tuple[str, ...], old: bool) -> Any:
    """robosuite 1.5's composite controllers: one for all robots, or a list with one for each."""
    if isinstance(configs, list):
        if len(configs) != len(robots):
            raise UserError(f"{path}: env_args: {len(robots)} robots, but {len(configs)} controller_configs")
        return [_controller(path, config, robot, old) for config, robot in zip(configs, robots, strict=True)]
    if len(set(robots)) > 1:
        return [_controller(path, configs, robot, old) for robot in robots]
    return _controller(path, configs, robots[0], old)


def _controller(path: str, config: Any, robot: str, old: bool) -> dict[str, Any]:
    from robosuite.controllers.composite import composite_controller_factory as factory
    from robosuite.utils.robot_utils import check_bimanual

    if not isinstance(config, dict):
        raise UserError(f"{path}: env_args: controller_configs: expected a mapping, got {type(config).__name__}")
    if isinstance(config.get("body_parts"), dict) and "type" in config:
        return config
    if not factory.is_part_controller_config(config):
        raise UserError(
            f"{path}: env_args: controller_configs: expected an arm's controller (e.g. OSC_POSE) or a whole robot's "
            f"('type' and 'body_parts'), got type {config.get('type')!r} with {', '.join(config)}"
        )
    config = {RENAMED.get(key, key): value for key, value in config.items()}
    delta = config.pop("control_delta", True)
    if config["type"].startswith("OSC"):
        config.setdefault("input_type", "delta" if delta else "absolute")
        config.setdefault("input_ref_frame", "world" if old else "base")
    elif not delta:
        raise UserError(f"{path}: env_args: {config['type']} with control_delta=false: robosuite 1.5 has no such mode")
    arms = ["right", "left"] if check_bimanual(robot) else ["right"]
    return factory.refactor_composite_controller_config(config, robot, arms)
