"""Environments that gymnasium registers, made without its notices, step limits and checks."""

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
    """What environments on Gymnasium's MuJoCo base class take in order to draw."""
    if render is None:
        return {}
    kwargs: dict[str, Any] = {"render_mode": "rgb_array", "width": render.width, "height": render.height}
    return kwargs | ({"camera_name": render.camera} if render.camera is not None else {})


def import_quietly(module: str, extra: str) -> ModuleType:
    """`require` without the notices that packages of the Farama Foundation print when they are imported."""
    with contextlib.redirect_stderr(io.StringIO()):
        return require(module, extra)


def make_registered(
    env_id: str, render: RenderOptions | None, *, module: str, extra: str, **kwargs: Any
) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make` of an environment on Gymnasium's MuJoCo base class, without step limit and checker.

    module: is imported first, because that registers it; extra: of raybc, that installs it.
    """
    import_quietly(module, extra)
    return make_quietly(env_id, **kwargs, **render_kwargs(render))


def make_quietly(env_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    with warnings.catch_warnings():
        # Whoever wrote the id decided on the version; data were made in older ones.
        warnings.filterwarnings("ignore", message="(?s).*is out of date")
        with own_folder() if "Maze_" in env_id else contextlib.nullcontext():
            return gymnasium.make(env_id, max_episode_steps=-1, disable_env_checker=True, **kwargs)


@contextlib.contextmanager
def own_folder() -> Iterator[None]:
    """A folder for temporary files of its own, where Gymnasium-Robotics writes the model of a maze.

    It calls it ant_maze.xml in the common folder: processes that start together would read each other's halves.
    """
    kept = tempfile.gettempdir()
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = kept
