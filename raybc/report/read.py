"""A run folder of a sweep in memory, for tables, pages and cards. Neither Ray nor torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from raybc.files import read_json
from raybc.metric import METRICS, Metric, metric_name, over_tasks
from raybc.rows import ResultRow, VideoRow, WinnerFile, result_row, setting_of
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import SweepState, read_events
from raybc.sweep.load import saved_sweep
from raybc.sweep.space import recipe
from raybc.types import SampleSetting, UserError

_TRIAL_NUMBERS = {"score": float, "step": int, "evaluations": int, "train_seconds": float, "rollout_seconds": float}


@dataclass(frozen=True)
class TrialRow:
    """One line of trials.csv; `params` keeps the order of the columns."""

    trial: int
    status: str
    score: float | None
    step: int | None
    evaluations: int | None
    origin: str
    reason: str
    train_seconds: float | None
    rollout_seconds: float | None
    params: dict[str, Any]


@dataclass(frozen=True)
class RunTables:
    """A run folder in memory. Parts that a run may lack are empty (the winner: None)."""

    folder: SweepFolder
    config: dict[str, Any]
    versions: dict[str, Any]
    timing: dict[str, Any]
    results: tuple[ResultRow, ...]
    trials: tuple[TrialRow, ...]
    winner: WinnerFile | None
    videos: tuple[VideoRow, ...]

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.path.resolve().name)

    @cached_property
    def axes(self) -> list[str]:
        return list(dict.fromkeys(axis for trial in self.trials for axis in trial.params))

    @cached_property
    def metric(self) -> Metric:
        """What recipes are compared by."""
        over = (self.config.get("eval") or {}).get("task_score", "mean")
        found = over_tasks(METRICS[metric_name(self.config) or "success"], over)
        knows_success = found.is_rate or any(row["success_rate"] is not None for row in self.results)
        return replace(found, has_success=knows_success)

    @cached_property
    def sweep(self) -> SweepConfig | None:
        """The configuration; None where another version wrote one that cannot be read."""
        try:
            return saved_sweep(self.config, "config.json")
        except UserError:
            return None

    @cached_property
    def state(self) -> SweepState:
        """The sweep as its ledger tells it; empty where there is no ledger, or one that cannot be read."""
        if not self.folder.ledger.is_file():
            return SweepState()
        try:
            return SweepState.from_events(read_events(self.folder.ledger), self.metric)
        except (UserError, KeyError, TypeError, ValueError):  # of another version: the tables are still useful
            return SweepState()

    def evaluations(self, params: dict[str, Any], setting: SampleSetting) -> int:
        """Evaluations of the network per chunk of the recipe with `params`."""
        try:
            policy = recipe(self.sweep, params).policy if self.sweep else None
        except UserError:  # of another version
            policy = None
        return policy.evaluations(setting) if policy else setting.evaluations

    def winner_setting(self) -> SampleSetting | None:
        return SampleSetting(**(self.winner.get("setting") or {})) if self.winner else None


def totals(rows: Iterable[ResultRow], *counts: str) -> dict[str, int]:
    """Sums of some counts over rows."""
    rows = list(rows)
    return {name: sum(row[name] for row in rows) for name in counts}  # type: ignore[literal-required]


def load_run(run_dir: Path | str) -> RunTables:
    """Read a run folder. It must have config.json and trials.csv; the other files may be absent."""
    folder = SweepFolder(Path(run_dir))
    path = folder.path
    missing = [file.name for file in (folder.config, folder.trials_csv) if not file.is_file()]
    if missing:
        state = f"it has no {' and no '.join(missing)}" if path.is_dir() else "there is no such folder"
        raise UserError(
            f"{path}: expected the folder of a sweep run (with config.json and trials.csv), but {state}; "
            "give the folder that `python -m raybc.sweep` wrote"
        )
    trials = _read_trials(folder.trials_csv)
    winner = _read_json(folder.winner_json, dict) or None
    if winner and winner.get("trial") not in {trial.trial for trial in trials}:
        raise UserError(f"{folder.winner_json}: expected a trial of trials.csv, got trial {winner.get('trial')!r}")
    return RunTables(
        folder=folder,
        config=_read_json(folder.config, dict),
        versions=_read_json(folder.versions, dict),
        timing=_read_json(folder.timing, dict),
        results=_read_results(folder.results),
        trials=trials,
        winner=winner,
        videos=tuple(_read_json(folder.videos_json, list)),
    )


def _read_json(path: Path, kind: type) -> Any:
    value = read_json(path) if path.is_file() else kind()
    if not isinstance(value, kind):
        raise UserError(f"{path}: expected a JSON {kind.__name__}, got {type(value).__name__}")
    return value


def _read_results(path: Path) -> tuple[ResultRow, ...]:
    """Rows of results.jsonl; of rows for the same measurement the last one counts. A torn last line is ignored: the run
    may still be writing."""
    rows: dict[tuple[Any, ...], ResultRow] = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == len(lines) and not line.endswith("\n") and not line.endswith("}")):
            continue
        try:
            row = result_row(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: expected a result row, got {line[:80]!r} ({error!r})") from None
        key = row["run_id"], row["trial"], row["seed"], row["phase"], row["evaluation"], setting_of(row)
        rows[key] = row
    return tuple(rows.values())


def _read_trials(path: Path) -> tuple[TrialRow, ...]:
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    trials = []
    for number, raw in enumerate(lines, start=1):
        try:
            numbers: dict[str, Any] = {
                key: kind(float(raw[key])) if raw.get(key) else None for key, kind in _TRIAL_NUMBERS.items()
            }
            words: dict[str, Any] = {key: raw.get(key) or "" for key in ("origin", "reason")}
            # An empty cell: the axis is no part of this recipe.
            params = {k.removeprefix("params."): _value(v) for k, v in raw.items() if k.startswith("params.") and v}
            trials.append(TrialRow(int(raw["trial"]), raw["status"], params=params, **numbers, **words))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, row {number}: expected a trial, got {raw!r} ({error!r})") from None
    return tuple(trials)


def _value(text: str) -> Any:
    words = {"": None, "True": True, "False": False}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except ValueError:
        return text
