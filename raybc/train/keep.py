"""What a training process leaves behind at its stops and in between: rows of logs, bundles and the state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raybc.train.log import MemberLog
from raybc.train.loop import PackTrainer


def bundle_path(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step_{step:08d}"


def log_pack(
    logs: Sequence[MemberLog], trainer: PackTrainer, step: int, losses: list[float], steps_per_sec: float
) -> None:
    """A row for each member."""
    rates, validation = trainer.rates, trainer.validation_loss
    for m, log in enumerate(logs):
        held_out = None if validation is None else validation[m]
        log.train(step, losses[m], steps_per_sec, rates[m], held_out, trainer.round)


def save_stop(trainer: PackTrainer, folders: Sequence[Path], state: Path) -> None:
    """The bundle of each member, then the state that goes on from there: a state means that its bundles are there."""
    for m, folder in enumerate(folders):
        trainer.bundle(m).save(bundle_path(folder, trainer.step))
    trainer.save_state(state)
