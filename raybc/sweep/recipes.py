"""The identity of recipes within a sweep: axes without an effect, and how many different recipes a space has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raybc.config import SAMPLE_AXES, Role, RunConfig
from raybc.config.effect import inert, training_key
from raybc.sweep.config import SweepConfig
from raybc.sweep.space import combinations, conditions, recipe, recipe_key, sample_settings, train_axes
from raybc.types import UserError


def check_effects(config: SweepConfig) -> None:
    """Refuse an axis whose values make no difference in any corner. Axes with one value are not searched."""
    for name in config.space:
        option = config.axis_option(name).option
        if option.role is Role.OUTPUT and not option.identified_by:
            raise UserError(f"space.{name}: has no effect: it changes no policy; set train.{name} instead")
    trains = {name for name, axis in train_axes(config).items() if len(axis.extremes()) > 1}
    samples = {name for name in SAMPLE_AXES if name in config.space and len(config.space[name].values) > 1}
    undecided = trains | samples
    kept = {name: sorted(config.space.keys() - {name} - _dependents(config, name)) for name in trains}
    seen: dict[str, dict[str, dict[str, set[str]]]] = {name: {} for name in undecided}
    for params, run in _corner_runs(config):
        if not undecided:
            return
        key = training_key(run) if undecided & trains else ""
        for name in sorted(undecided & trains & params.keys()):
            others = repr([params.get(other) for other in kept[name]])
            seen[name].setdefault(others, {}).setdefault(repr(params[name]), set()).add(key)
        for setting in sample_settings(config) if undecided & samples else ():
            found = repr(run.in_effect(setting).canonical(run.ahead_length))
            for name in sorted(undecided & samples):
                others = repr((params, {k: v for k, v in vars(setting).items() if k != name}))
                seen[name].setdefault(others, {}).setdefault(repr(getattr(setting, name)), set()).add(found)
        undecided -= {name for name in undecided if any(_differ(by_value) for by_value in seen[name].values())}
    for name in config.space:
        if name in undecided:
            raise UserError(f"space.{name}: has no effect in any corner{_why_inert(config, name)}")


def _differ(by_value: Mapping[str, set[str]]) -> bool:
    """Whether two values of an axis make different trainings; an axis that others depend on has sets of them."""
    sets = list(by_value.values())
    return any(one != sets[0] for one in sets[1:])


def _why_inert(config: SweepConfig, name: str) -> str:
    reasons = {inert(run)[name]: None for _, run in _corner_runs(config) if name in inert(run)}
    return f"; it needs {', '.join(reasons)}" if reasons else ": all its values do the same"


def _dependents(config: SweepConfig, name: str) -> set[str]:
    """Axes that are part of a recipe only for some values of the axis `name`, directly or through others."""
    found: set[str] = set()
    while True:
        more = {o for o in config.space if conditions(config, o).keys() & {name, *found}} - found
        if not more:
            return found
        found |= more


def _corner_runs(config: SweepConfig) -> Iterator[tuple[dict[str, Any], RunConfig]]:
    """(params, run) of every combination of the extremes of the train axes."""
    for params in combinations(config, list(train_axes(config)), {}):
        yield params, recipe(config, params)


def finite_recipes(config: SweepConfig, most: int) -> dict[str, dict[str, Any]] | None:
    """`recipe_key` -> params of all different recipes; None where an axis is a range of floats, or where there are more
    than `most` combinations of values."""
    count, values = 1, {}
    for name, axis in train_axes(config).items():
        values[name] = list(axis.values)
        if not axis.values:
            if config.axis_option(name).plain_type is not int:
                return None
            values[name] = list(range(int(axis.low or 0), int(axis.high or 0) + 1))
        count *= len(values[name])
        if count > most:
            return None
    found: dict[str, dict[str, Any]] = {}
    for params in combinations(config, list(values), {}, values):
        found.setdefault(recipe_key(config, params), params)
    return found


def may_repeat(config: SweepConfig) -> bool:
    """Whether a sampler can propose the same training twice: not where a range of floats always has an effect."""
    ranges = [
        name for name, axis in train_axes(config).items()
        if not axis.values and config.axis_option(name).plain_type is float and not conditions(config, name)
    ]  # fmt: skip
    runs = [run for _, run in _corner_runs(config)]
    return not any(all(name not in inert(run) for run in runs) for name in ranges)
