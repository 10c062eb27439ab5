"""Reading sweep files: YAML and KEY=VALUE overrides -> a checked `SweepConfig`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raybc.config import RunConfig
from raybc.config.data import implied_environment
from raybc.config.flat import COMPONENTS, check_task, over_recipe, todays_names
from raybc.config.trainer import TrainerConfig
from raybc.metric import FORMER_KEY, KEY
from raybc.recipes.read import options_of
from raybc.strict import check_type, did_you_mean, from_mapping
from raybc.sweep.config import SweepConfig
from raybc.types import UserError
from raybc.yaml_text import parse_yaml, read_yaml


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read and check a sweep file; overrides: KEY=VALUE with dotted keys (`eval.episodes=50`)."""
    if not path.is_file():
        others = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"; {did_you_mean(path.name, others)}" if others else ""
        raise UserError(f"{path}: expected a sweep file, found none{hint}")
    return sweep_from_mapping(read_yaml(path, "a sweep file"), str(path), overrides)


def sweep_from_mapping(mapping: Any, source: str, overrides: Sequence[str] = (), *, saved: bool = False) -> SweepConfig:
    """A checked `SweepConfig` from plain values (from YAML, or from a run folder's config.json).

    saved: the values are those of a run folder, whose options are all there, whatever its recipe says today.
    """
    if not isinstance(mapping, dict):
        raise UserError(f"{source}: expected keys and values, got {type(mapping).__name__}")
    mapping = _with_metric(mapping, source)
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise UserError(f"--set: expected KEY=VALUE, e.g. eval.episodes=50, got {item!r}")
        target = mapping
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UserError(f"--set {item}: {parent!r} is not a group of keys")
        if key == FORMER_KEY:
            last = KEY
        target[last] = parse_yaml(text, f"--set {item}")
    if not saved and mapping.get("trainer") is None:
        mapping = _with_recipe(mapping, source)
    train = mapping.get("train")
    if isinstance(train, dict):
        mapping = mapping | {"train": train | implied_environment(train)}
    try:
        if mapping.get("trainer") is None:
            config = from_mapping(SweepConfig, _todays_axes(mapping), "")
        else:
            config = _with_trainer(mapping, saved)
        config.validate()
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return config


def saved_sweep(mapping: Any, source: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """The sweep of a run folder, from its config.json, with some values changed. Earlier releases compared recipes by
    success alone."""
    if isinstance(mapping, dict):
        mapping = {KEY: "success", **_with_metric(mapping, source)}
    return sweep_from_mapping(mapping, source, overrides, saved=True)


def _with_recipe(mapping: dict[str, Any], source: str) -> dict[str, Any]:
    """A sweep whose `train` has the options of its `recipe` where it names none."""
    name, train = mapping.get("recipe") or "", mapping.get("train") or {}
    if not name or not isinstance(train, dict):
        return mapping
    preset = todays_names(RunConfig, options_of(check_type(name, str, f"{source}: recipe"), f"{source}: recipe"), name)
    given = todays_names(RunConfig, train, f"{source}: train")
    check_task(preset, given, f"{source}: train")
    return mapping | {"train": over_recipe(RunConfig, preset, given, f"{source}: train")}


def _with_trainer(mapping: dict[str, Any], saved: bool) -> SweepConfig:
    """A sweep of a trainer of others, whose names of options are not raybc's."""
    values = {key: value for key, value in mapping.items() if key not in ("trainer", "train")}
    train = mapping.get("train") or {}
    if saved:
        trainer = TrainerConfig.from_plain(mapping["trainer"], "trainer")
        train = {name: value for name, value in train.items() if name not in COMPONENTS}
    else:
        named = [name for part in (train, mapping.get("space")) if isinstance(part, dict) for name in part]
        trainer = TrainerConfig.of(check_type(mapping["trainer"], str, "trainer"), named, "trainer")
    config = from_mapping(SweepConfig, values, "")
    return dataclasses.replace(config, trainer=trainer, train=trainer.run(train, "train"))


def _with_metric(mapping: dict[str, Any], source: str) -> dict[str, Any]:
    """A sweep whose `metric` has its name of today."""
    if FORMER_KEY in mapping and KEY in mapping:
        raise UserError(f"{source}: {KEY}: stands twice: {FORMER_KEY} is an earlier name of it")
    return {KEY if key == FORMER_KEY else key: value for key, value in mapping.items()}


def _todays_axes(mapping: dict[str, Any]) -> dict[str, Any]:
    """A sweep whose axes and points have the names of today; what is no mapping is left to the reader."""

    def renamed(values: Any, where: str) -> Any:
        return todays_names(RunConfig, values, where) if isinstance(values, dict) else values

    space, search = renamed(mapping.get("space"), "space"), mapping.get("search")
    if isinstance(space, dict):
        space = {
            name: axis | {"when": renamed(axis["when"], f"space.{name}.when")} if _has(axis, "when") else axis
            for name, axis in space.items()
        }
    if isinstance(search, dict) and isinstance(search.get("points_to_evaluate"), list):
        points = search["points_to_evaluate"]
        points = [renamed(point, f"search.points_to_evaluate[{i}]") for i, point in enumerate(points)]
        search = search | {"points_to_evaluate": points}
    changed = {"space": space, "search": search}
    return {key: changed.get(key, value) for key, value in mapping.items()}


def _has(axis: Any, key: str) -> bool:
    return isinstance(axis, dict) and key in axis
