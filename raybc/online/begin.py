"""The online part of a run as its options and simulators make it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from raybc import cli
from raybc.config import RunConfig
from raybc.online.part import OnlinePart
from raybc.online.schedule import Schedule
from raybc.registry import get_task, parse_env_name
from raybc.run_folder import TrainingFolder
from raybc.train.data import train_episodes
from raybc.train.loop import PackTrainer
from raybc.types import SampleSetting

if TYPE_CHECKING:  # it imports Ray
    from raybc.rollout.pool import RolloutPool


def acting_setting(config: RunConfig) -> SampleSetting:
    """How the policy acts while it collects: whole chunks, each the best of as many as the target is made from."""
    return dataclasses.replace(
        config.sample_setting,
        execute_steps=0,
        temporal_ensemble=-1.0,
        eval_temperature=1.0,
        best_of_n=config.get("critic_candidates"),
    )


def online_part(trainer: PackTrainer, folders: Sequence[TrainingFolder], pool: RolloutPool) -> OnlinePart:
    """The online part of the run of `trainer`, which is at the step that it continues from.

    folders: of the members. Raises `UserError` for experience that is damaged.
    """
    from raybc.online.simulators import PoolSimulators

    config, critic, store = trainer.config, trainer.config.critic, trainer.data.store
    assert not critic.is_none
    task = get_task(parse_env_name(config.env_name).task)
    lengths = (store.episode_ends - store.episode_starts)[train_episodes(config, store)]
    schedule = Schedule.of(
        config.training_steps,
        config.get("online_steps"),
        config.get("utd"),
        config.get("policy_lag"),
        max(1, pool.workers * task.slots // len(folders)),
        float(lengths.mean()),
        config.get("learning_starts"),
    )
    if trainer.step < schedule.last:
        _announce(schedule, pool.workers, len(folders))
    simulators = PoolSimulators(pool, str(folders[0].path))
    return OnlinePart(
        trainer, folders, simulators, schedule, task.name, acting_setting(config), in_order=pool.workers == 1
    )


def _announce(schedule: Schedule, workers: int, members: int) -> None:
    each = " for each seed" if members > 1 else ""
    again = "the same again from the same seeds" if workers == 1 else "not the same again from the same seeds"
    only = f", the first {schedule.learning_starts} only collected" if schedule.learning_starts else ""
    cli.console.print(
        f"online: {schedule.online_steps} steps of the environment{each}{only}, {schedule.updates} updates after step "
        f"{schedule.first}; {schedule.ahead} episodes at a time{each} in {workers} simulator "
        f"process{'es' * (workers > 1)} ({again})"
    )
