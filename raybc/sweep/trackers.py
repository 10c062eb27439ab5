"""Copies of a sweep in experiment trackers: one run a trial, grouped by the sweep.

A trial has a train.csv (the mean loss over its seeds) and an eval.csv (its scores) in its own folder, which a tracker
reads as it reads those of a training. A note beside them names the trial's run, so a resumed sweep continues it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from raybc.files import write_text
from raybc.report.curves import loss_points
from raybc.rollout.results import pooled
from raybc.rows import VideoRow, rows_at, setting_of
from raybc.run_folder import SweepFolder, TrainingFolder
from raybc.strict import digest
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import SweepState, TrialState
from raybc.sweep.space import recipe
from raybc.train.trackers.base import Tracker, TrackerConfig


class SweepTrackers:
    """Keeps the runs of all trials up to date; call `update` after each event."""

    def __init__(
        self, trackers: Sequence[TrackerConfig], config: SweepConfig, folder: SweepFolder, state: SweepState
    ) -> None:
        self._trackers, self._config, self._folder, self._state = trackers, config, folder, state
        self._open: dict[int, list[Tracker]] = {}
        self._seen: dict[int, tuple[str, int]] = {}
        for trial in state.trials.values():  # what earlier processes have copied
            last = trial.evaluations[-1].step if trial.evaluations else 0
            if trial.finished and self._rows_file(trial.number).is_file() and self._copied(trial.number) == last:
                self._seen[trial.number] = _mark(trial)

    def update(self) -> None:
        """Copy what is new of every trial."""
        if not self._trackers:
            return
        for trial in self._state.trials.values():
            if self._seen.get(trial.number) != _mark(trial):
                self._seen[trial.number] = _mark(trial)
                self._copy(trial)

    def finish(self, videos: Sequence[VideoRow]) -> None:
        """Copy films of trials, and end all runs. videos: entries of videos.json."""
        if not self._trackers:
            return
        for number in sorted({video["trial"] for video in videos}):
            trial = self._state.trials[number]
            paths = [self._folder.path / video["file"] for video in videos if video["trial"] == number]
            for tracker in self._started(trial):
                tracker.videos(trial.evaluations[-1].step, paths)
        self.close()

    def close(self) -> None:
        for tracker in (t for some in self._open.values() for t in some):
            tracker.close()
        self._open = {}

    def _rows_file(self, number: int) -> Path:
        return TrainingFolder(self._folder.trial(number)).eval_csv

    def _copy(self, trial: TrialState) -> None:
        trackers = self._started(trial)
        self._write(trial)
        for tracker in trackers:
            tracker.sync(at_once=True)
            if trial.finished:
                tracker.close()
        if trial.finished:
            del self._open[trial.number]

    def _started(self, trial: TrialState) -> list[Tracker]:
        if trial.number not in self._open:
            place = self._folder.trial(trial.number)
            place.mkdir(parents=True, exist_ok=True)
            with_group = recipe(self._config, trial.params).changed(run_group=self._config.name)
            done = self._copied(trial.number)
            found = [t.start(place, with_group, self._id(trial), done, self._name(trial)) for t in self._trackers]
            self._open[trial.number] = [tracker for tracker in found if tracker is not None]
        return self._open[trial.number]

    def _copied(self, number: int) -> int:
        """The last step in the trial's files, which an earlier process copied."""
        path = self._rows_file(number)
        if not path.is_file():
            return 0
        with path.open(newline="") as handle:
            return max((int(row["step"]) for row in csv.DictReader(handle)), default=0)

    def _name(self, trial: TrialState) -> str:
        return f"{self._config.name} trial {trial.number}"

    def _id(self, trial: TrialState) -> str:
        return digest([str(self._folder.path.resolve()), trial.number, trial.params])[:16]

    def _write(self, trial: TrialState) -> None:
        """Write the trial's train.csv and eval.csv from the logs of its members and from the ledger."""
        place = TrainingFolder(self._folder.trial(trial.number))
        metric, losses = self._state.metric, dict[int, list[float]]()
        for path in self._folder.member_logs(trial.number).values():
            for step, loss in loss_points(path):
                losses.setdefault(step, []).append(loss)
        _write_csv(place.train_csv, [{"step": s, "train/actor_loss": fmean(v)} for s, v in sorted(losses.items())])
        rows: list[dict[str, Any]] = []
        for evaluation in trial.evaluations:
            row: dict[str, Any] = {"step": evaluation.step, "eval/score": evaluation.score}
            for setting in dict.fromkeys(map(setting_of, evaluation.rows)):
                row[f"eval/{metric.name}/{setting.slug()}"] = pooled(rows_at(evaluation.rows, setting), metric)
            rows.append(row)
        _write_csv(place.eval_csv, rows)


def _mark(trial: TrialState) -> tuple[str, int]:
    return trial.status, len(trial.evaluations)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)) or ["step"])
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
