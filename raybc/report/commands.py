"""The commands that reproduce a trial: its training with all seeds, and each of its evaluations."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raybc.config import SAMPLE_AXES, DemosConfig, changed_options
from raybc.config.command import without_effect
from raybc.rows import ResultRow, episodes_of, setting_of
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.space import recipe


def train_command(
    config: SweepConfig, params: dict[str, Any], facts: Mapping[str, Any], out: str = ""
) -> tuple[str, str]:
    """(`python -m raybc.train ...` for a recipe with all seeds of the sweep, a note about it).

    params: train axes of the trial. facts: progress.json or timing.json (threads, data), may be empty. The run gets the
    run_ids and bundles of the sweep, unless the note says otherwise. Of a trainer of others the command is empty.
    """
    if config.trainer is not None:
        return "", f"Trained by {config.trainer.function}, which this sweep called."
    run = recipe(config, params)
    left_out = ("seed", *without_effect(run))
    flags = [f"--{name}={value}" for name, value in changed_options(run).items() if name not in left_out]
    note = ""
    if config.demos.noise != DemosConfig.noise or config.demos.seed != DemosConfig.seed:
        flags.append(f"--dataset={(facts.get('data') or {}).get('path', 'PATH')}")
        note = "Same weights, another run_id: the demonstrations are named as a file, since demos.noise or demos.seed "
        note += "is not the default."
    elif config.demos.episodes != DemosConfig.episodes:
        flags.append(f"--demos={config.demos.episodes}")
    flags += [f"--eval_suite={config.eval.suite}"] if config.eval.suite else []
    flags += [f"--eval_tasks={','.join(config.eval.tasks)}"] if config.eval.tasks else []
    flags += [f"--task_score={config.eval.task_score}"] if config.eval.task_score != "mean" else []
    if facts.get("threads"):
        flags.append(f"--threads={facts['threads']}")  # sums depend on them, in the last bits
    if out:
        flags.append(f"--out={out}")
    command = ["python", "-m", "raybc.train", *flags, "--seeds", *map(str, config.seeds)]
    return shlex.join(command), note


def rollout_command(
    config: SweepConfig, folder: SweepFolder, row: ResultRow, params: dict[str, Any], *, videos: int = 0
) -> str:
    """`python -m raybc.rollout ...` for a result row; empty if the policy was not kept, or without a
    simulator.

    params: train axes of the trial. videos: film this many episodes instead of repeating the evaluation.
    """
    bundle = _kept(config, folder, row)
    if bundle is None:
        return ""
    episodes = episodes_of(row) // max(1, len(row.get("tasks", {})))
    flag = "--episodes_per_task" if row.get("tasks") else "--episodes"
    flags = [f"--starts={row['phase']}", f"{flag}={min(episodes, 2 * videos) if videos else episodes}"]
    if config.eval.suite:
        flags.append(f"--suite={config.eval.suite}")
    elif row.get("tasks"):
        flags += ["--tasks", *config.eval.tasks]
    flags += _setting_flags(config, row, params)
    if videos:
        flags.append(f"--videos={min(videos, episodes)}")
    return shlex.join(["python", "-m", "raybc.rollout", near_path(bundle), *flags])


def film_command(
    config: SweepConfig, folder: SweepFolder, row: ResultRow, params: dict[str, Any], start: str, task: str, place: str
) -> list[str]:
    """`python -m raybc.rollout ...` that films one start of a result row where pages find it; [] as above.

    start: its index; task: where there are several, else ""; place: that of the task among them. All may be
    placeholders.
    """
    bundle = _kept(config, folder, row)
    if bundle is None:
        return []
    where = folder.filmed(row["trial"], row["seed"], row["step"], row["phase"], setting_of(row))
    where = where.with_name(f"{where.name}_{start}{f'_task_{place}' if task else ''}")
    count = ["--tasks", task, "--episodes_per_task=1"] if task else ["--episodes=1"]
    flags = [f"--starts={row['phase']}", f"--first={start}", *count, *_setting_flags(config, row, params)]
    flags += ["--videos=1", "--resume=auto", f"--out={near_path(where)}"]
    return ["python", "-m", "raybc.rollout", near_path(bundle), *flags]


def _kept(config: SweepConfig, folder: SweepFolder, row: ResultRow) -> Path | None:
    """The policy of a result row; None if it was not kept, or there is no simulator."""
    bundle = folder.checkpoint(row["trial"], row["seed"], row["step"])
    return bundle if bundle.is_dir() and config.train.has_environment else None


def _setting_flags(config: SweepConfig, row: ResultRow, params: dict[str, Any]) -> list[str]:
    """The flags of a row's sample setting."""
    setting = dataclasses.asdict(setting_of(row))
    run = recipe(config, params)
    own = run.sample_setting
    wanted = [k for k in SAMPLE_AXES if (setting[k] if k == "flow_steps" else setting[k] != getattr(own, k))]
    if config.trainer is not None:  # what policies of others do by default is theirs
        wanted = [k for k in SAMPLE_AXES if k in run.sample_axes]
    return [f"--{k}={setting[k]}" for k in wanted]


def near_path(path: Path) -> str:
    """A path to type here: relative if it is below the working folder."""
    here = Path(os.getcwd()).resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
