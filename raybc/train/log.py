"""Training metrics of a pack: a CSV for each member, and TensorBoard."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

COLUMNS = ("step", "train/actor_loss", "train/bc_flow_loss", "train/steps_per_sec", "train/lr", "valid/loss", "round")


class MemberLog:
    """train.csv of one member and its TensorBoard events.

    Opened at step `resume`, rows of later steps (of a process that was killed) are dropped: no step stands twice.
    """

    def __init__(self, folder: Path, tensorboard: Path, resume: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "train.csv"
        kept = [r for r in _rows(path) if int(r["step"]) <= resume]
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)
        os.replace(temporary, path)
        self._handle = path.open("a", newline="")
        self._csv = csv.writer(self._handle)
        self._tensorboard = SummaryWriter(str(tensorboard), purge_step=resume + 1)

    def train(
        self,
        step: int,
        loss: float,
        steps_per_sec: float,
        lr: float,
        validation: float | None = None,
        round_: int = 1,
    ) -> None:
        """validation: the latest loss of the split `valid`, None where there is none. round_: of num_rounds, from 1."""
        values = (loss, loss, steps_per_sec, lr, validation)
        self._csv.writerow([step, *("" if v is None else f"{v:.6g}" for v in values), round_])
        self._handle.flush()
        for name, value in zip(COLUMNS[1:], values, strict=False):
            if value is not None:
                self._tensorboard.add_scalar(name, value, step)

    def scalar(self, name: str, value: float, step: int) -> None:
        self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        self._handle.close()
        self._tensorboard.close()

    def __enter__(self) -> MemberLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def add_scalars(tensorboard: Path, values: Mapping[str, float], step: int) -> None:
    """Values of an evaluation, in a file of their own: another process may be writing the losses."""
    with SummaryWriter(str(tensorboard), filename_suffix=".eval") as writer:
        for name, value in values.items():
            writer.add_scalar(name, value, step)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as handle:
        # A torn last row has fewer columns (None) or a step that is no number.
        return [r for r in csv.DictReader(handle) if (r.get("step") or "").isdigit() and None not in r.values()]
