"""Environments of users: names `module:callable` of functions that return a gymnasium environment."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from numbers import Integral
from typing import Any

import gymnasium

from raybc.envs import border
from raybc.envs.base import RenderOptions, Task
from raybc.envs.gym import GymEnv, task_of
from raybc.types import UserError

#: Name -> the function that it stood for last, and its task.
_tasks: dict[str, tuple[Callable[..., Any], Task]] = {}


def from_callable(name: str, fn: Callable[..., Any]) -> Task:
    """The task `module:callable`, called `name`, of a function that returns a gymnasium environment.

    `fn()` is called for each simulator, `fn(render_mode="rgb_array")` for one that renders. Attributes of `fn` may say
    what an environment does not: `max_steps` (default: the limit of its registration, else 1000), `success_key`, the
    name of success in `info`, and `has_success`, where success is reported only once the task is solved.

    Raises `UserError` where the function or its environment fails.
    """
    if name in _tasks and _tasks[name][0] is fn:
        return _tasks[name][1]
    max_steps: Any = getattr(fn, "max_steps", None)
    key = getattr(fn, "success_key", None)
    if max_steps is not None and (isinstance(max_steps, bool) or not isinstance(max_steps, Integral) or max_steps < 1):
        raise UserError(f"{name}: max_steps of the function: expected a whole number of at least 1, got {max_steps!r}")
    if key is not None and not isinstance(key, str):
        raise UserError(f"{name}: success_key of the function: expected the name of a value in info, got {key!r}")
    declared = getattr(fn, "has_success", None)
    if declared is not None and not isinstance(declared, bool):
        raise UserError(f"{name}: has_success of the function: expected True or False, got {declared!r}")
    steps = None if max_steps is None else int(max_steps)
    made = task_of(name, name.split(":")[0], functools.partial(_callable_env, name, fn), steps, declared)
    if not _takes_render_mode(fn):
        made = dataclasses.replace(made, no_images=f"{name} takes no argument render_mode, so it cannot be filmed")
    _tasks[name] = fn, made
    return made


def _takes_render_mode(fn: Callable[..., Any]) -> bool:
    try:
        inspect.signature(fn).bind(render_mode="rgb_array")
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


class _CallableEnv(GymEnv):
    """Of a function that chooses itself what it shows."""

    def cameras(self) -> tuple[str, ...]:
        return ()


def _callable_env(name: str, fn: Callable[..., Any], render: RenderOptions | None) -> GymEnv:
    call = f"{name.split(':')[-1]}({'' if render is None else 'render_mode=' + repr('rgb_array')})"

    def make(options: RenderOptions | None) -> gymnasium.Env[Any, Any]:
        if options is not None and options.camera is not None:
            raise UserError(f"camera of {name}: the function itself chooses what it shows, got {options.camera!r}")
        with border.calling(name, call, "raybc calls it without arguments, or with render_mode for images"):
            env = fn() if options is None else fn(render_mode="rgb_array")
        if not isinstance(env, gymnasium.Env):
            raise UserError(f"{name}: expected a function that returns a gymnasium environment; it returned {env!r}")
        return env

    with border.calling(name, call, border.API):
        return _CallableEnv(make, name=name, render=render, success_key=getattr(fn, "success_key", None))
