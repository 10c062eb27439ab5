"""The search space: recipes from parameters, the defaults as a point, and the check of every corner."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from raybc.config import SAMPLE_AXES, RunConfig
from raybc.config.component import find_kind
from raybc.config.effect import training_key
from raybc.config.flat import COMPONENTS, common_options
from raybc.config.options import options_in
from raybc.data.action_form import ActionForm, with_units
from raybc.data.episodes import EpisodeStore, check_files, image_size
from raybc.data.instructions import check_instructions
from raybc.data.rewards import check_rewards
from raybc.envs.base import Task
from raybc.metric import Metric
from raybc.metric_choice import resolve
from raybc.registry import get_task, parse_env_name
from raybc.strict import check_type, did_you_mean
from raybc.suites import choose_tasks, resolve_over
from raybc.sweep.config import Axis, SweepConfig
from raybc.types import SampleSetting, UserError

#: Maximum number of corners; checking more would take too long.
MAX_CORNERS = 20_000


def train_axes(config: SweepConfig) -> dict[str, Axis]:
    """Axes that make a new model; one that depends on another (`when`, or an option of one kind) stands behind it."""
    axes = {name: axis for name, axis in config.space.items() if name not in SAMPLE_AXES}
    if not is_conditional(config):
        return axes
    placed: dict[str, Axis] = {}
    while len(placed) < len(axes):
        ready = [n for n in axes if n not in placed and all(o in placed for o in conditions(config, n))]
        if not ready:
            raise UserError(f"space: {sorted(axes.keys() - placed)[0]}.when: axes depend on each other in a circle")
        placed |= {name: axes[name] for name in ready}
    return placed


def is_conditional(config: SweepConfig) -> bool:
    """Whether some axis is part of some recipes only."""
    return any(conditions(config, name) for name in config.space)


def conditions(config: SweepConfig, name: str) -> dict[str, list[Any]]:
    """Axis -> values it must have for the axis `name` to be part of a recipe."""
    found: dict[str, list[Any]] = {}
    for other, wanted in config.space[name].when.items():
        found[other] = wanted if isinstance(wanted, list) else [wanted]
    for what in COMPONENTS:
        if what in config.space and name not in common_options(RunConfig) and name not in COMPONENTS:
            having = [k for k in config.kinds(what) if name in options_in(find_kind(what, k, f"space.{what}"))]
            if having and len(having) < len(config.kinds(what)):
                found.setdefault(what, having)
    return found


def active(config: SweepConfig, params: Mapping[str, Any], name: str) -> bool:
    """Whether the train axis `name` is part of the recipe that has `params` so far."""
    return all(other in params and params[other] in wanted for other, wanted in conditions(config, name).items())


def sample_settings(config: SweepConfig) -> list[SampleSetting]:
    """Every combination of the sample axes, all of which are scored from the same checkpoint (see `settings_of`)."""
    hints = {name: config.train.options()[name].hint for name in SAMPLE_AXES}
    values = [
        [check_type(value, hints[name], f"space.{name}") for value in config.space[name].values]
        if name in config.space
        else [getattr(config.train, name)]
        for name in SAMPLE_AXES
    ]
    return [SampleSetting(*combination) for combination in itertools.product(*values)]


def settings_of(run: RunConfig, settings: Iterable[SampleSetting]) -> list[SampleSetting]:
    """The sample settings that differ for a recipe: an axis that has no effect on its policy adds none."""
    return list(dict.fromkeys(map(run.in_effect, settings)))


def recipe(config: SweepConfig, params: dict[str, Any]) -> RunConfig:
    """The run that `params` (train axes) stand for; its seed is set per member."""
    return config.train.changed(
        **{name: check_type(value, config.axis_option(name).hint, f"space.{name}") for name, value in params.items()}
    )


def _full_point(config: SweepConfig, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point of the space: axes that it leaves out take their default."""
    full: dict[str, Any] = {}
    run = config.train.changed(**{what: point[what] for what in COMPONENTS if what in point})
    for name in train_axes(config):
        if active(config, full, name):
            full[name] = point.get(name, run.get(name))
    return full


def default_params(config: SweepConfig) -> dict[str, Any] | None:
    """The defaults as a point of the space; None where a default lies outside its axis."""
    params = _full_point(config, {})
    inside = all(config.space[name].contains(value) for name, value in params.items())
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
        full = _full_point(config, point)
        for name, value in full.items():
            if not axes[name].contains(value):
                raise UserError(f"{where}.{name}: expected a value of the axis, got {value!r}")
            full[name] = check_type(value, config.axis_option(name).hint, f"{where}.{name}")
        unused = sorted(point.keys() - full.keys())
        if unused:
            raise UserError(f"{where}.{unused[0]}: has no effect in this recipe (see `when`)")
        points.append(("point", full))
    different: dict[str, tuple[str, dict[str, Any]]] = {}
    for origin, params in points:
        different.setdefault(recipe_key(config, params), (origin, params))
    return list(different.values())


def corners(config: SweepConfig) -> Iterator[tuple[RunConfig, SampleSetting]]:
    """Every combination of the extremes of the train axes with every sample setting that differs there."""
    axes = train_axes(config)
    settings = sample_settings(config)
    count = len(settings)
    for axis in axes.values():
        count *= len(axis.extremes())
    if count > MAX_CORNERS:
        raise UserError(f"space: expected at most {MAX_CORNERS} corners, got {count}; use ranges instead of long lists")
    for params in combinations(config, list(axes), {}):
        run = recipe(config, params)
        for setting in settings_of(run, settings):
            yield run, setting


def combinations(
    config: SweepConfig, names: list[str], params: dict[str, Any], values: Mapping[str, Sequence[Any]] | None = None
) -> Iterator[dict[str, Any]]:
    """Values of the axes `names` (without `values` their extremes), in their order, beside those of `params`."""
    if not names:
        yield params
        return
    name, *rest = names
    if not active(config, params, name):
        yield from combinations(config, rest, params, values)
        return
    for value in values[name] if values is not None else config.space[name].extremes():
        yield from combinations(config, rest, {**params, name: value}, values)


def recipe_key(config: SweepConfig, params: dict[str, Any]) -> str:
    """A text that two recipes of a sweep share exactly if they are the same training: options that have no effect on
    them do not count."""
    return training_key(recipe(config, params))


def check_corners(config: SweepConfig, store: EpisodeStore | None = None) -> int:
    """Construct and check every corner, against the data if given; returns the number of corners."""
    longest = int((store.episode_ends - store.episode_starts).max()) if store is not None else None
    checked = 0
    names = train_axes(config)
    first_points(config)
    task = task_of(config)
    images = task.images if task is not None else tuple(store.images) if store is not None else None
    for run, setting in corners(config):
        corner = ", ".join(f"{n}={run.get(n)}" for n in names if n in run.options())
        where = f"space (corner {corner}, {setting.label()})"
        run.with_setting(setting).validate(where)
        if images is not None:
            run.check_encoder(images, where)
        if store is not None:
            seen = [key for key in images or () if key in store.obs]
            run.encoder.check_sizes({key: image_size(store.obs[key].shape[1:]) for key in seen})
            run.language.check_available(where)
            check_instructions(run, store)
            check_rewards(run, store, where)
        if longest is not None and run.takes is None and run.chunk_length > longest:
            raise UserError(
                f"{where}.horizon_length: expected at most the longest episode of the data ({longest} steps), "
                f"got {run.chunk_length}"
            )
        if store is not None:
            ActionForm.of(with_units(run, store.env_args), store.actions_NA.shape[1])
        if run.dataset_replace_interval and store is not None:
            check_files(store, f"{where}.dataset_replace_interval")
        checked += 1
    return checked


def task_of(config: SweepConfig) -> Task | None:
    """The task of a sweep; None without a simulator (`env_name: none`)."""
    return get_task(parse_env_name(config.train.env_name).task) if config.train.has_environment else None


def eval_tasks(config: SweepConfig) -> tuple[str, ...]:
    """The tasks that recipes are measured on; () for the task of the data."""
    if not (config.eval.suite or config.eval.tasks):
        return ()
    where = ("eval.suite", "eval.tasks")
    return choose_tasks(config.eval.suite, config.eval.tasks, 0, config.train.env_name, where=where)


def metric_of(config: SweepConfig) -> Metric:
    """What the recipes of a sweep are compared by. Raises `UserError` where the task cannot tell it."""
    task = task_of(config)
    several = eval_tasks(config)
    if several:
        metric = resolve_over(config.metric, [get_task(name) for name in several], over=config.eval.task_score)
    else:
        metric = resolve(config.metric, task)
    if task is not None and not metric.from_episodes:
        raise UserError(
            f"metric: expected a measure of rollouts, since there is an environment, got {metric.name!r}; leave "
            "metric out, or set env_name: none"
        )
    return metric


def race_comparisons(config: SweepConfig, metric: Metric) -> int:
    """The tests that the best arm of a sweep can be in (0: no racing): against every other arm (trial and sample
    setting) at every evaluation. Without known bounds of the metric no test keeps its guarantee (see `race`); means of
    starts say nothing about the worst task."""
    if not config.eval.race or metric.bounds is None or metric.over_tasks == "worst":
        return 0
    arms = config.search.trials * len(sample_settings(config))
    return max(1, arms - 1) * config.eval.evaluations
