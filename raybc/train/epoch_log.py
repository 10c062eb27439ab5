"""metrics.csv and metrics.jsonl of a member, the norms of its actions, and the checkpoint whose actions are closest."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from raybc.bundle import PolicyBundle
from raybc.files import replacing, write_text
from raybc.rows import epoch_rows
from raybc.run_folder import TrainingFolder, mark_best
from raybc.train.action_metrics import ActionMetrics, EpochRow
from raybc.train.log import MemberLog
from raybc.train.loop import PackTrainer


class EpochLog:
    """The files of one member."""

    def __init__(self, folder: TrainingFolder, resume: int, steps: int) -> None:
        """
        Args:
            folder: the member's run folder.
            resume: the step that training resumes from. Later rows, left by a killed process, are dropped.
            steps: gradient steps of an epoch.
        """
        self._folder, self._steps = folder, steps
        rows = epoch_rows(folder.metrics_jsonl)
        self._rows = [row for row in rows if row["step"] <= resume]
        if rows or folder.metrics_jsonl.exists():
            self._write()

    def add(self, row: EpochRow, bundle: Callable[[], PolicyBundle]) -> None:
        """Add a row. bundle: the policy, which is kept as `best_mse` if no other had a lower error."""
        values = row.values()
        # A row in the middle of an epoch is that of a run that ended there, and has now been extended.
        kept = [old for old in self._rows if old["step"] % self._steps == 0 and old["step"] < row.step]
        appends = len(kept) == len(self._rows) > 0
        self._rows = [*kept, values]
        if appends:
            with self._folder.metrics_csv.open("a", newline="") as table:
                table.write(_csv_lines([values], header=False))
            with self._folder.metrics_jsonl.open("a") as lines:
                lines.write(_json_line(values))
        else:
            self._write()
        with replacing(self._folder.action_norms) as temporary, temporary.open("wb") as file:
            norms = {"gt": row.actions.norms_K, "pred": row.actions.predicted_norms_K}
            np.savez_compressed(file, step=row.step, **{k: v.astype(np.float32) for k, v in norms.items()})
        mse = values[row.mse_name]
        best = self._folder.marked_best().get(row.mse_name)
        if mse is not None and (best is None or mse < best["value"] or not self._folder.best_mse.exists()):
            bundle().save(self._folder.best_mse)
            found = {"epoch": row.epoch, "step": row.step, "value": mse, "checkpoint": self._folder.best_mse.name}
            mark_best(self._folder, row.mse_name, found)

    def _write(self) -> None:
        with replacing(self._folder.metrics_csv) as temporary:
            temporary.write_text(_csv_lines(self._rows, header=True), newline="")
        write_text(self._folder.metrics_jsonl, "".join(map(_json_line, self._rows)))


class PackEpochLog:
    """The files of all members: called by a trainer when rows are due."""

    def __init__(self, trainer: PackTrainer, folders: Sequence[Path], logs: Sequence[MemberLog]) -> None:
        """
        Args:
            trainer: what is measured.
            folders: of the members; empty on ranks that do not write.
            logs: their TensorBoard.
        """
        self._trainer, self._logs = trainer, logs
        self._epochs: list[EpochLog] = []
        self._metrics: ActionMetrics | None = None
        if trainer.config.action_metrics:
            self._metrics = ActionMetrics(trainer)
            steps = trainer.epochs.steps
            self._epochs = [EpochLog(TrainingFolder(folder), trainer.step, steps) for folder in folders]

    def __call__(self, members: Sequence[int]) -> None:
        """Measure, and add the rows of these members."""
        assert self._metrics is not None
        weights = self._trainer.acting_weights()
        rows = self._metrics.rows(weights)
        for m in members if self._epochs else ():
            self._epochs[m].add(rows[m], self._bundle_of(m, weights))
            for name, value in rows[m].values().items():
                if isinstance(value, float):
                    self._logs[m].scalar(f"epoch/{name}", value, rows[m].step)

    def _bundle_of(self, m: int, weights: Mapping[str, Tensor]) -> Callable[[], PolicyBundle]:
        return lambda: self._trainer.bundle(m, weights)


def _json_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _csv_lines(rows: Sequence[Mapping[str, Any]], header: bool) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, restval="")
    if header and columns:
        writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value)
