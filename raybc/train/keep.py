"""What a training process leaves behind at its stops and in between: rows of logs, bundles and the state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from raybc.config import RunConfig
from raybc.train import state
from raybc.train.log import MemberLog
from raybc.train.loop import PackTrainer, round_of


def checkpoint_name(config: RunConfig, step: int) -> str:
    """checkpoint_STEP; at the end of a round checkpoint_STEP_round_R."""
    name = f"checkpoint_{step}"
    ends_round = config.epochs_per_round and step % (config.training_steps // config.num_rounds) == 0
    return f"{name}_round_{round_of(config, step)}" if ends_round else name


def out_of_memory(trainer: PackTrainer, error: torch.cuda.OutOfMemoryError) -> str:
    """What to do about it."""
    config = trainer.config
    return (
        f"the GPU has not enough memory ({str(error).splitlines()[0]}); raise --accumulate (now {config.accumulate}: "
        f"the same training in smaller parts), or lower --batch_size (now {config.batch_size}) or the number of seeds "
        f"(now {len(trainer.members)}), and use --resume"
    )


def log_pack(
    logs: Sequence[MemberLog], trainer: PackTrainer, step: int, losses: list[float], steps_per_sec: float
) -> None:
    """A row for each member."""
    rates, validation = trainer.rates, trainer.validation_loss
    for m, log in enumerate(logs):
        held_out = None if validation is None else validation[m]
        log.train(step, losses[m], steps_per_sec, rates[m], held_out, trainer.round)


def save_checkpoint(trainer: PackTrainer, folders: Sequence[Path], path: Path) -> None:
    """The bundle of each member, then the state that goes on from there: a state means that its bundles are there.

    Called on every rank, written by the first.
    """
    if trainer.ranks.rank and not trainer.ranks.sharded:
        return
    bundles, going_on = [trainer.bundle(m) for m in range(len(folders))], trainer.state()
    if trainer.ranks.rank == 0:
        for bundle, folder in zip(bundles, folders, strict=True):
            bundle.save(folder / checkpoint_name(trainer.config, trainer.step))
        state.save(path, going_on)
