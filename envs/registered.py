"""Environments that are registered with gymnasium, made without its notices, step limits and checks."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import gymnasium

from raybc.envs.base import RenderOptions, require


def render_kwargs(render: RenderOptions | None) -> dict[str, Any]:
    """Arguments that make an environment on Gymnasium's MuJoCo base class render."""
    if render is None:
        return {}
    kwargs: dict[str, Any] = {"render_mode": "rgb_array", "width": render.width, "height": render.height}
    return kwargs | ({"camera_name": render.camera} if render.camera is not None else {})


def import_quietly(module: str, extra: str) -> ModuleType:
    """`require`, without the notices that the Farama Foundation's packages print when they are imported."""
    with contextlib.redirect_stderr(io.StringIO()):
        return require(module, extra)


def make_registered(
    env_id: str, render: RenderOptions | None, *, module: str, extra: str, **kwargs: Any
) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make` of an environment on Gymnasium's MuJoCo base class, without step limit and checker.

    module: imported first, because that registers the environment. extra: the extra of raybc that installs it.
    """
    import_quietly(module, extra)
    return make_quietly(env_id, **kwargs, **render_kwargs(render))


def make_quietly(env_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make(env_id, **kwargs)` without step limit, checker and the notice about newer versions."""
    with warnings.catch_warnings():
        # The version is chosen by whoever wrote the id; data sets were recorded in older ones.
        warnings.filterwarnings("ignore", message="(?s).*is out of date")
        with own_folder() if "Maze_" in env_id else contextlib.nullcontext():
            return gymnasium.make(env_id, max_episode_steps=-1, disable_env_checker=True, **kwargs)


@contextlib.contextmanager
def own_folder() -> Iterator[None]:
    """Give Gymnasium-Robotics a private temporary folder to write the model of a maze to.

    It writes ant_maze.xml into the common temporary folder, where processes that start together would read each other's
    unfinished files.
    """
    kept = tempfile.gettempdir()
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = kept
