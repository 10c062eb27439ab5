"""The search space: recipes from parameters, the defaults as a point, and the check of every corner."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from raybc.config import SAMPLE_AXES, RunConfig
from raybc.data.episodes import EpisodeStore, check_files
from raybc.registry import get_task, parse_env_name
from raybc.strict import check_type, did_you_mean, type_hints
from raybc.sweep.config import Axis, SweepConfig
from raybc.types import SampleSetting, UserError

#: Maximum number of corners; checking more would take too long.
MAX_CORNERS = 20_000


def train_axes(config: SweepConfig) -> dict[str, Axis]:
    """Axes that make a new model."""
    return {name: axis for name, axis in config.space.items() if name not in SAMPLE_AXES}


def sample_settings(config: SweepConfig) -> list[SampleSetting]:
    """Every combination of the sample axes; all are scored from the same checkpoint."""
    hints = type_hints(RunConfig)
    values = [
        [check_type(value, hints[name], f"space.{name}") for value in config.space[name].values]
        if name in config.space
        else [getattr(config.train, name)]
        for name in SAMPLE_AXES
    ]
    return [SampleSetting(*combination) for combination in itertools.product(*values)]


def recipe(config: SweepConfig, params: dict[str, Any]) -> RunConfig:
    """The run with these `params` (train axes); each member sets its own seed."""
    hints = type_hints(RunConfig)
    values = {name: check_type(value, hints[name], f"space.{name}") for name, value in params.items()}
    return dataclasses.replace(config.train, **values)


def default_params(config: SweepConfig) -> dict[str, Any] | None:
    """The defaults as a point of the space; None if a default is outside its axis."""
    params = {name: getattr(config.train, name) for name in train_axes(config)}
    inside = all(axis.contains(params[name]) for name, axis in train_axes(config).items())
    return params if inside else None


def first_points(config: SweepConfig) -> list[tuple[str, dict[str, Any]]]:
    """(origin, params) to try before the sampler proposes: the defaults, then `search.points_to_evaluate`."""
    defaults = default_params(config)
    points = [] if defaults is None else [("defaults", defaults)]
    axes = train_axes(config)
    for i, point in enumerate(config.search.points_to_evaluate):
        where = f"search.points_to_evaluate[{i}]"
        for name in point:
            if name not in axes:
                raise UserError(f"{where}: {name!r} is not a train axis of the space: {did_you_mean(name, axes)}")
        full = {name: point.get(name, getattr(config.train, name)) for name in axes}
        for name, axis in axes.items():
            if not axis.contains(full[name]):
                raise UserError(f"{where}.{name}: expected a value of the axis, got {full[name]!r}")
            full[name] = check_type(full[name], type_hints(RunConfig)[name], f"{where}.{name}")
        if full not in [p for _, p in points]:
            points.append(("point", full))
    return points


def corners(config: SweepConfig) -> Iterator[tuple[RunConfig, SampleSetting]]:
    """Every combination of the extremes of the train axes with every sample setting."""
    axes = train_axes(config)
    count = len(sample_settings(config))
    for axis in axes.values():
        count *= len(axis.extremes())
    if count > MAX_CORNERS:
        raise UserError(f"space: expected at most {MAX_CORNERS} corners, got {count}; use ranges instead of long lists")
    for combination in itertools.product(*(axis.extremes() for axis in axes.values())):
        run = recipe(config, dict(zip(axes, combination, strict=True)))
        for setting in sample_settings(config):
            yield run, setting


def check_corners(config: SweepConfig, store: EpisodeStore | None = None) -> int:
    """Construct and check every corner, against the data if given; returns the number of corners."""
    longest = int((store.episode_ends - store.episode_starts).max()) if store is not None else None
    checked = 0
    names = train_axes(config)
    first_points(config)
    if "horizon_length" in names and not config.train.action_chunking:
        raise UserError("space.horizon_length: has no effect while train.action_chunking is off; set it to true")
    images = get_task(parse_env_name(config.train.env_name).task).images
    for run, setting in corners(config):
        corner = ", ".join(f"{n}={getattr(run, n)}" for n in names)
        where = f"space (corner {corner}, {setting.label()})"
        run.with_setting(setting).validate(where)
        run.check_encoder(images, where)
        if longest is not None and run.chunk_length > longest:
            raise UserError(
                f"{where}.horizon_length: expected at most the longest episode of the data ({longest} steps), "
                f"got {run.chunk_length}"
            )
        if run.dataset_replace_interval and store is not None:
            check_files(store, f"{where}.dataset_replace_interval")
        checked += 1
    return checked


def race_comparisons(config: SweepConfig) -> int:
    """The tests that the best arm of a sweep can be in (0: no racing): against every other arm (trial and sample
    setting) at every evaluation."""
    arms = config.search.trials * len(sample_settings(config))
    return max(1, arms - 1) * config.eval.evaluations if config.eval.race else 0
