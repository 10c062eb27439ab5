"""Reads a run folder and builds the leaderboard. Everything here is arithmetic on files.

Two rules decide every number. The order of the leaderboard comes from search starts, which selection used; final starts
only measure. Episodes that ended in an error are counted apart and never enter a rate.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from raybc.files import read_json, write_text
from raybc.metric import METRICS, Metric, Score, metric_name, score_of
from raybc.rows import ResultRow, VideoRow, WinnerFile, result_row, setting_of
from raybc.run_folder import SweepFolder
from raybc.statistics import ERRORS_ALLOWED, seed_interval
from raybc.types import SampleSetting, UserError

_TRIAL_NUMBERS = {"score": float, "step": int, "evaluations": int, "train_seconds": float, "rollout_seconds": float}
#: Order of the leaderboard by status; the winner and the trials measured on final starts come first.
STATUS_ORDER = ("completed", "running", "waiting", "pruned", "failed")


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
        found = METRICS[metric_name(self.config) or "success"]
        knows_success = found.is_rate or any(row["success_rate"] is not None for row in self.results)
        return replace(found, has_success=knows_success)

    def winner_setting(self) -> SampleSetting | None:
        return SampleSetting(**(self.winner.get("setting") or {})) if self.winner else None


def totals(rows: Iterable[ResultRow], *counts: str) -> dict[str, int]:
    """Sums of some counts over rows."""
    rows = list(rows)
    return {name: sum(row[name] for row in rows) for name in counts}  # type: ignore[literal-required]


@dataclass(frozen=True)
class LeaderboardRow(TrialRow):
    """One trial and its results."""

    is_winner: bool
    setting: SampleSetting | None
    """The chosen sample setting; None if the trial was not evaluated."""
    final: Score | None
    """On final starts at `setting`, pooled over seeds; None if not measured there."""
    final_per_seed: dict[int, Score]
    seed_interval: tuple[float, float] | None
    unusable: Score | None
    """The final score, if too many of its episodes ended in errors for a winner to be declared."""
    per_flow_steps: dict[int, Score]
    """On final starts at every measured flow_steps, otherwise at `setting`."""
    errors: int
    """Episodes of this trial, on search and final starts, that ended in an error."""

    @property
    def seed_mean(self) -> float | None:
        values = [score.value for score in self.final_per_seed.values() if score.value is not None]
        return fmean(values) if values else None


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


def leaderboard(run: RunTables) -> list[LeaderboardRow]:
    """Trials in the order of selection: the winner, others with final starts, then by status, then by search score."""
    results: dict[int, list[ResultRow]] = {}
    for result in run.results:
        results.setdefault(result["trial"], []).append(result)
    rows = [_leaderboard_row(run, trial, results.get(trial.trial, [])) for trial in run.trials]

    def order(row: LeaderboardRow) -> tuple[Any, ...]:
        status = STATUS_ORDER.index(row.status) if row.status in STATUS_ORDER else len(STATUS_ORDER)
        return not row.is_winner, row.final is None, status, run.metric.cost(row.score), row.trial

    return sorted(rows, key=order)


def chosen_setting(run: RunTables, trial: int, results: Iterable[ResultRow]) -> SampleSetting | None:
    """The sample setting of a trial: the winner's as recorded, else the best on search starts at its last evaluation
    (pooled over seeds; among equals the fewest flow_steps). None when nothing was evaluated. results: of the trial."""
    if run.winner and run.winner["trial"] == trial and run.winner.get("setting"):
        return run.winner_setting()
    metric = run.metric
    rows = [row for row in results if row["phase"] == "search" and score_of([row], metric).value is not None]
    last = max((row["evaluation"] for row in rows), default=0)
    pools: dict[SampleSetting, list[ResultRow]] = {}
    for row in rows:
        if row["evaluation"] == last:
            pools.setdefault(setting_of(row), []).append(row)

    def order(setting: SampleSetting) -> tuple[float, ...]:
        return *score_of(pools[setting], metric).order, *dataclasses.astuple(setting)

    return min(pools, key=order, default=None)


def _leaderboard_row(run: RunTables, trial: TrialRow, results: list[ResultRow]) -> LeaderboardRow:
    setting = chosen_setting(run, trial.trial, results)
    latest: dict[tuple[int, SampleSetting], ResultRow] = {}  # measuring the same starts again adds no starts
    for row in results:
        if row["phase"] == "final":
            key = row["seed"], setting_of(row)
            if key not in latest or row["evaluation"] >= latest[key]["evaluation"]:
                latest[key] = row
    metric = run.metric
    if not metric.from_episodes:  # there is no other measurement than the last one of the search
        last = max((row["evaluation"] for row in results), default=0)
        latest = {(row["seed"], setting_of(row)): row for row in results if row["evaluation"] == last}
    here = [row for (_, at), row in sorted(latest.items(), key=lambda item: item[0][0]) if at == setting]
    per_seed = {row["seed"]: score for row in here if (score := score_of([row], metric)).value is not None}
    flows: dict[int, list[ResultRow]] = {}
    for (_, at), row in latest.items():
        if setting and at == replace(setting, flow_steps=at.flow_steps):
            flows.setdefault(at.flow_steps, []).append(row)
    return LeaderboardRow(
        **vars(trial),
        is_winner=run.winner is not None and run.winner["trial"] == trial.trial,
        setting=setting,
        final=score_of(here, metric) if per_seed else None,
        unusable=final if (final := score_of(here, metric)).too_many_errors else None,
        final_per_seed=per_seed,
        seed_interval=seed_interval([score.value or 0.0 for score in per_seed.values()], bounds=metric.bounds),
        per_flow_steps={
            flow: pool for flow in sorted(flows) if (pool := score_of(flows[flow], metric)).value is not None
        },
        errors=sum(row["errors"] for row in results),
    )


def winner_line(run: RunTables, rows: list[LeaderboardRow]) -> str:
    """The sentence to quote: rate, interval, counts and seeds, or why there is no winner."""
    winner = next((row for row in rows if row.is_winner), None)
    if winner is None:
        counts = ", ".join(f"{count} {status}" for status, count in status_counts(run).items()) or "none started"
        unusable = next((row for row in rows if row.unusable is not None), None)
        if unusable is not None and unusable.unusable is not None:
            found = unusable.unusable
            return (
                f"No winner: of trial {unusable.trial} on final starts, {found.errors_text}; at most "
                f"{percent(ERRORS_ALLOWED)} may. Without them its {run.metric.label} is {found.text}."
            )
        why = "none was chosen" if "completed" in status_counts(run) else "no trial completed"
        return f"No winner: {why} ({counts})."
    text = f"Winner: trial {winner.trial}"
    if winner.setting:
        text += f" at {winner.setting.label()}"
    if winner.final is None:
        score = run.metric.show(winner.score)
        return f"{text}, not measured on final starts; its search score {score} took part in selection."
    final, seeds, metric = winner.final, len(winner.final_per_seed), run.metric
    of = f"{seeds} seed{'s' * (seeds != 1)}"
    if metric.from_episodes:
        solved = f"{final.successes}/" if metric.is_rate else ""
        of = f"{solved}{final.episodes} episodes on final starts, {of}"
    what = "" if metric.is_rate else f"{metric.label} "
    interval = f"95 % CI {final.range_text}, " if final.interval else ""
    text += f": {what}{final.text} ({interval}{of})"
    if winner.seed_interval and metric.from_episodes:
        text += f"; over seeds {metric.show(winner.seed_mean)} "
        text += f"(95 % t interval {metric.show_range(winner.seed_interval)})"
    if not metric.from_episodes:
        return f"{text}. {NO_RATE}"
    if final.errors:
        text += f"; {final.errors} error{'s' * (final.errors != 1)} not counted"
        text += f", {final.bounds_text}" if final.bounds_text else ""
    return text + "."


#: What every page says about a sweep without an environment.
NO_RATE = "No success rate was measured: there is no environment."


def selection_rule(run: RunTables) -> str:
    """How the winner was chosen, and the role of the final starts."""
    metric = run.metric
    measure = f"{metric.best} {metric.label} on search starts"
    rule = str((run.winner and run.winner.get("rule")) or measure).strip().rstrip(".")
    if not metric.from_episodes:
        return (
            f"The winner was chosen by the error on held-out episodes ({rule}), so that error is optimistic. {NO_RATE}"
        )
    better = "higher" if metric.direction == "maximize" else "lower"
    return (
        f"The winner was chosen on search starts ({rule}). Final starts are disjoint from them and only measure: "
        f"they choose nothing, so a trial below the winner may show a {better} final "
        f"{'rate' if metric.is_rate else metric.label}."
    )


def status_counts(run: RunTables) -> dict[str, int]:
    """Number of trials per status, in the order of the leaderboard."""
    found = [trial.status for trial in run.trials]
    return {status: found.count(status) for status in dict.fromkeys((*STATUS_ORDER, *found)) if status in found}


def write_leaderboard_md(run_dir: Path | str) -> Path:
    """Write run_dir/leaderboard.md: the sentence to quote, the rule, and a row per trial."""
    run = load_run(run_dir)
    rows = leaderboard(run)
    flows = sorted({flow for row in rows for flow in row.per_flow_steps})
    metric = run.metric
    head = [
        "trial",
        "status",
        f"{'final ' * metric.from_episodes}{metric.label}",
        "95 % CI",
        "episodes",
        "over seeds (95 % t)",
        "setting",
    ]
    head += ["search score"]
    head += [f"{'final ' * metric.from_episodes}at flow_steps={flow}" for flow in flows] + [
        "errors",
        "step",
        *run.axes,
    ]
    lines = [f"# {_md(run.name)}: leaderboard", "", f"> {_md(winner_line(run, rows))}", ""]
    lines += [_md(selection_rule(run)), ""]
    lines += ["| " + " | ".join(map(_md, head)) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        final = row.final
        cells = [
            f"{row.trial} (winner)" if row.is_winner else str(row.trial),
            row.status,
            final.text if final else "-",
            final.range_text if final else "-",
            (f"{final.successes}/{final.episodes}" if metric.is_rate else str(final.episodes)) if final else "-",
            metric.show_range(row.seed_interval),
            row.setting.label() if row.setting else "-",
            metric.show(row.score),
        ]
        for flow in flows:
            rate = row.per_flow_steps.get(flow)
            cells.append(f"{rate.text} ({rate.range_text})" if rate else "-")
        cells += [str(row.errors), "-" if row.step is None else str(row.step)]
        cells += [show(row.params.get(axis)) for axis in run.axes]
        lines.append("| " + " | ".join(map(_md, cells)) + " |")
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        lines += ["", "## Failed trials", ""]
        lines += [f"- trial {row.trial}: {_md(row.reason) or 'no reason recorded'}" for row in failed]
    lines += ["", f"CI: {interval_text(metric)}. Errors are counted apart and enter no mean.", ""]
    write_text(run.folder.leaderboard, "\n".join(lines))
    return run.folder.leaderboard


def interval_text(metric: Metric) -> str:
    """Which interval stands behind the score of a trial."""
    if not metric.from_episodes:
        return "Student's t interval over seeds"
    name = "Wilson's" if metric.is_rate else "Student's t"
    return f"{name} interval over episodes"


def percent(rate: float | None) -> str:
    """0.96 -> '96.0 %'; None and nan -> '-'."""
    return "-" if rate is None or rate != rate else f"{100 * rate:.1f} %"


def percent_range(interval: tuple[float, float]) -> str:
    """(0.902, 0.984) -> '90.2-98.4 %'."""
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f} %"


def show(value: Any) -> str:
    """A swept value as text: 0.0003, true, [256, 256]."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def duration(seconds: float | None) -> str:
    """412 -> '6 min 52 s'; below a minute with one decimal; None -> '-'."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _md(text: str) -> str:
    flat = " ".join(text.split())
    for raw, safe in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`")):
        flat = flat.replace(raw, safe)
    return flat


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
