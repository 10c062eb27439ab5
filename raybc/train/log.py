"""Training metrics of a pack: a CSV for each member, and TensorBoard."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from torch.utils.tensorboard import SummaryWriter

from raybc.run_folder import TrainingFolder
from raybc.train.csv_rows import PHASE

if TYPE_CHECKING:
    from raybc.train.loop import PackTrainer
    from raybc.train.progress import Progress


@dataclass(frozen=True)
class TrainRow:
    """A row of train.csv of one member."""

    step: int
    """Gradient steps so far."""
    loss: float
    """Loss of the batch at this step."""
    metrics: Mapping[str, float]
    """Further metrics of the policy; columns `train/NAME`."""
    steps_per_sec: float
    lr: float
    validation: float | None = None
    """The latest loss on the split `valid`; None without that split."""
    round: int = 1
    """The current round, 1 .. num_rounds."""
    phase: str = ""
    """The phase of training; empty if there is only one, which needs no column."""

    def values(self) -> dict[str, float | None]:
        """Column -> value, without step and round."""
        named = {f"train/{name}": value for name, value in self.metrics.items()}
        first = {"train/actor_loss": self.loss, **named}
        return {**first, "train/steps_per_sec": self.steps_per_sec, "train/lr": self.lr, "valid/loss": self.validation}


class MemberLog:
    """train.csv of one member and its TensorBoard events.

    A context manager; closing it closes both files.
    """

    def __init__(self, folder: Path, tensorboard: Path, resume: int) -> None:
        """
        Args:
            folder: the member's run folder.
            tensorboard: folder for the events.
            resume: the step that training resumes from. Later rows, left by a killed process, are dropped.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = TrainingFolder(folder).train_csv
        self._columns: list[str] = []
        self._handle: TextIO | None = None
        kept = [r for r in _rows(self._path) if int(r["step"]) <= resume]
        if kept or self._path.exists():
            self._open(list(kept[0]) if kept else [], kept)
        self._tensorboard = SummaryWriter(str(tensorboard), purge_step=resume + 1)

    def _open(self, columns: list[str], rows: Sequence[Mapping[str, str]]) -> None:
        """Rewrite the file with these rows and keep it open for appending."""
        self.close_file()
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, columns, restval="")
            if columns:
                writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self._path)
        self._columns, self._handle = columns, self._path.open("a", newline="")

    def train(self, row: TrainRow) -> None:
        """Add a row; a new metric adds a column."""
        self.add(row.step, row.values(), {"round": row.round, **({PHASE: row.phase} if row.phase else {})})

    def add(self, step: int, values: Mapping[str, float | None], last: Mapping[str, int | str]) -> None:
        """Add a row of any columns. last: columns at the end, which are not drawn."""
        columns = ["step", *values, *last]
        if self._handle is None or any(c not in self._columns for c in columns):
            known = [c for c in self._columns if c not in columns]
            self._open(["step", *values, *known, *last], _rows(self._path))
        assert self._handle is not None
        cells = {name: "" if value is None else f"{value:.6g}" for name, value in values.items()}
        writer = csv.DictWriter(self._handle, self._columns, restval="")
        writer.writerow({"step": step, **cells, **last})
        self._handle.flush()
        for name, value in values.items():
            if value is not None:
                self._tensorboard.add_scalar(name, value, step)

    def scalar(self, name: str, value: float, step: int) -> None:
        self._tensorboard.add_scalar(name, value, step)

    def close_file(self) -> None:
        if self._handle is not None:
            self._handle.close()

    def close(self) -> None:
        self.close_file()
        self._tensorboard.close()

    def __enter__(self) -> MemberLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def add_scalars(tensorboard: Path, values: Mapping[str, float], step: int) -> None:
    """Write scalars of an evaluation to a separate events file, because another process may be writing the losses."""
    with SummaryWriter(str(tensorboard), filename_suffix=".eval") as writer:
        for name, value in values.items():
            writer.add_scalar(name, value, step)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as handle:
        # A torn last row has fewer columns (None) or a step that is not a number.
        return [r for r in csv.DictReader(handle) if (r.get("step") or "").isdigit() and None not in r.values()]


def log_pack(logs: Sequence[MemberLog], trainer: PackTrainer, progress: Progress) -> None:
    """Add a row to the log of each member."""
    rates, validation = trainer.rates, trainer.validation_loss
    for m, log in enumerate(logs):
        validation_loss = None if validation is None else validation[m]
        metrics = {name: values[m] for name, values in progress.metrics.items()}
        log.train(
            TrainRow(
                progress.step,
                progress.losses[m],
                metrics,
                progress.steps_per_sec,
                rates[m],
                validation_loss,
                trainer.round,
                trainer.phase.name if len(trainer.phases) > 1 else "",
            )
        )
