"""How a sweep begins: its metric, its data, and whether it is the one that a folder holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc import cli
from raybc.config import Role
from raybc.data.names import obtain
from raybc.demos.spec import DemosSpec
from raybc.envs.base import Task
from raybc.files import read_json, write_json
from raybc.metric import Metric
from raybc.metric_choice import bind
from raybc.rows import LedgerEvent
from raybc.run_folder import SweepFolder
from raybc.run_start import Resume
from raybc.sweep.config import SweepConfig, to_plain
from raybc.sweep.health import measured_again
from raybc.sweep.ledger import SweepState
from raybc.sweep.load import saved_sweep
from raybc.sweep.space import eval_tasks, metric_of
from raybc.train.source import read_data
from raybc.train.trackers.base import TrackerConfig
from raybc.types import UserError

#: Keys that change no result.
_RESOURCES = ("recipe", "search.max_concurrent", "search.pack", "resources")
#: Keys that may differ when a sweep is resumed: how many more trials, and which resources.
MAY_CHANGE = ("recipe", "search.trials", "search.max_concurrent", "search.pack", "final", "resources")


@dataclass(frozen=True)
class Launch:
    """How a sweep is run (not what it searches)."""

    folder: SweepFolder
    resume: Resume = "False"
    overwrite: bool = False
    address: str = ""
    cpus: int | None = None
    inputs: tuple[Path, ...] = ()
    """Files and folders that the sweep reads."""
    ray_dashboard: bool = False
    """Whether a local Ray serves its dashboard."""
    trackers: tuple[TrackerConfig, ...] = ()
    """Experiment trackers that get a run for each trial."""
    command: str = ""
    """What began or continues the sweep, for people who read its report."""


def offline_source(config: SweepConfig) -> tuple[Path, DemosSpec | None]:
    """The data of a sweep without a simulator."""
    return obtain(config.train.dataset), None


def holding_out(config: SweepConfig) -> SweepConfig:
    """A sweep without a simulator, holding out episodes on which recipes are measured."""
    from raybc.train.data import held_out_episodes, with_held_out  # here, because it imports torch

    config.validate()
    store = read_data(config.train, offline_source(config)[0])
    train = with_held_out(config.train, store)
    if train.holdout_seed != config.train.holdout_seed:
        cli.console.print(
            f"the data have no split `valid`: {len(held_out_episodes(train, store))} of {store.num_episodes} episodes "
            f"are held out (train.holdout_seed={train.holdout_seed})"
        )
    return dataclasses.replace(config, train=train)


def with_metric(config: SweepConfig, launch: Launch, task: Task | None) -> tuple[SweepConfig, Metric]:
    """The sweep with its metric resolved, for config.json. A resumed sweep keeps the one it was started with: those
    of earlier releases compared recipes by success, whatever the task."""
    path = launch.folder.config
    if config.metric is None and launch.resume != "False" and not launch.overwrite and path.is_file():
        before = saved_sweep(read_json(path), str(path)).metric
        if before is not None:
            several = eval_tasks(config)
            metric = metric_of(dataclasses.replace(config, metric=before)) if several else bind(before, task)
            if before == "success" and task is not None and not task.has_success:
                cli.console.print(
                    f"warning: {path} was started by a release that compared recipes by success, which {task.name} "
                    "does not tell; start it again with another --out",
                    style="yellow",
                )
            return dataclasses.replace(config, metric=metric.name), metric
    metric = metric_of(config)
    return dataclasses.replace(config, metric=metric.name), metric


def check_resume(config: SweepConfig, folder: SweepFolder) -> None:
    """A sweep is resumed with the configuration it was started with, but for what changes no recipe."""
    path = folder.config
    if not path.exists():
        if folder.ledger.exists():
            raise UserError(f"{path}: missing, so it is unknown what this run searched; use --overwrite to start over")
        return
    before = saved_sweep(read_json(path), str(path))
    options = config.train.options()
    outputs = {f"train.{name}" for name, info in options.items() if info.option.role is Role.OUTPUT}
    differing = []
    changed = []
    for key, old, new in _differences(to_plain(before), config.to_dict()):
        if key in outputs:
            changed.append(f"{key}: was {old!r}, is {new!r}")
        elif not any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE):
            differing.append(f"{key}: was {old!r}, is {new!r}")
    if differing:
        raise UserError(
            f"{folder.path}: --resume continues the same sweep, but the configuration differs: {'; '.join(differing)}; "
            "use another --out, or --overwrite"
        )
    for change in changed:
        cli.console.print(f"same sweep, {change}")
    if changed:  # states of release 0.1.0 carry ids that covered these options, too
        earlier = earlier_options(folder)
        write_json(folder.earlier_options, [*earlier, before.train.to_plain()])


def check_trials(config: SweepConfig, folder: SweepFolder, state: SweepState) -> None:
    """Refuse to resume a sweep with fewer trials than have finished, since none is taken away."""
    finished = len(state.finished())
    if config.search.trials < finished:
        raise UserError(
            f"{folder.path}: search.trials: expected at least {finished}, the trials that have finished there, got "
            f"{config.search.trials}; nothing was changed: leave it out, or use another --out"
        )


def is_complete(config: SweepConfig, folder: SweepFolder, events: Sequence[LedgerEvent], state: SweepState) -> bool:
    """Whether the sweep in `folder` ran to its end as `config` wants it, and no episode has to be measured again."""
    last = events[-1] if events else None
    if last is None or last["event"] != "stage" or last["name"] != "whole":
        return False
    if not (folder.winner_json.is_file() and folder.report.is_file()) or state.unfinished() or measured_again(state):
        return False
    if any(row.get("errors", 0) for trial in state.trials.values() for row in trial.final_rows):
        return False
    before = saved_sweep(read_json(folder.config), str(folder.config))
    wanted = [key for key, _, _ in _differences(to_plain(before), config.to_dict())]
    return all(any(key == name or key.startswith(f"{name}.") for name in _RESOURCES) for key in wanted)


def earlier_options(folder: SweepFolder) -> list[dict[str, Any]]:
    """The options of a run with which earlier processes trained, where they were others."""
    return list(read_json(folder.earlier_options)) if folder.earlier_options.exists() else []


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new
