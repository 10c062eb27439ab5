"""A run folder as the page shows it: a summary of every trial, updated by new events."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from raybc.dashboard.follow import JsonFile, LedgerTail
from raybc.files import read_json
from raybc.metric import METRICS, Metric, Score, over_tasks, score_of
from raybc.report.commands import near_path
from raybc.report.read import totals
from raybc.rollout.results import best_setting
from raybc.rows import ResultRow, episodes_of, rows_at, setting_of, video_setting
from raybc.run_folder import SweepFolder
from raybc.statistics import seed_interval
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import SweepState, TrialState
from raybc.sweep.load import saved_sweep
from raybc.types import SampleSetting, UserError

#: Minimum seconds between two reads of the folder, however many pages poll.
REFRESH_INTERVAL = 0.5
#: Points of the curve of rollouts per second.
RATE_BINS = 90


def check_run(path: Path) -> None:
    """Refuse a path that is not the run folder of a sweep."""
    what = "expected the folder of a sweep run"
    if not path.is_dir():
        raise UserError(f"{path}: {what}, but there is no such folder; give the one that `python -m raybc.sweep` wrote")
    file = SweepFolder(path).config
    if not file.is_file():
        raise UserError(f"{path}: {what}, but it has no config.json; give the one that `python -m raybc.sweep` wrote")
    config = read_json(file)
    if not isinstance(config, dict) or "space" not in config:
        raise UserError(f"{path}: {what}, but its config.json searches no space (is it the folder of a training?)")
    saved_sweep(config, str(file))


class RunView:
    """What is known about a run folder; `refresh` reads what is new. Several threads may use it."""

    def __init__(self, path: Path) -> None:
        self.folder = SweepFolder(path.resolve())
        self.state = SweepState()
        self.config: SweepConfig | None = None
        self.generation, self.revision = 0, 0
        self.trials: dict[int, dict[str, Any]] = {}
        self.lock = threading.RLock()
        self._changed: dict[int, int] = {}  # trial -> revision of its last change
        self._tail = LedgerTail(self.folder.ledger)
        self._files = {
            "config": JsonFile(self.folder.config, {}),
            "winner": JsonFile(self.folder.winner_json, {}),
            "progress": JsonFile(self.folder.progress, {}),
            "timing": JsonFile(self.folder.timing, {}),
            "videos": JsonFile(self.folder.videos_json, []),
        }
        self._looked = float("-inf")
        self._overview: dict[str, Any] = {}

    def file(self, name: str) -> Any:
        """The value of config, winner, progress, timing or videos (.json)."""
        return self._files[name].value

    def refresh(self) -> None:
        """Read what is new. Raises `UserError` for damaged files."""
        with self.lock:
            if time.monotonic() - self._looked < REFRESH_INTERVAL:
                return
            self._looked = time.monotonic()
            changed = {name for name, file in self._files.items() if file.refresh()}
            replaced, events = self._tail.read()
            if replaced:
                self.state, self.trials, self._changed = SweepState(metric=self.state.metric), {}, {}
                self.generation += 1
            if "config" in changed:
                config = self.file("config")
                self.config = saved_sweep(config, str(self.folder.config)) if config else None
                name = (self.config and self.config.metric) or "success"
                self.state.metric = over_tasks(METRICS[name], self.config.eval.task_score if self.config else "mean")
            touched = set()
            for event in events:
                self.state.apply(event)
                if event["event"] != "stage":
                    touched.add(event["trial"])
            if changed & {"winner", "videos", "config"}:
                touched = set(self.state.trials)
            if not (changed or replaced or events):
                return
            self.revision += 1
            shown = Counter(video["trial"] for video in self.file("videos"))
            for number in touched:
                self.trials[number] = summary(
                    self.state.trials[number], self.setting(number), shown[number], self.state.metric
                )
                self._changed[number] = self.revision
            self._overview = self._summarise()

    def setting(self, number: int) -> SampleSetting | None:
        """The sample setting of a trial: the winner's as recorded, else the best at its last evaluation."""
        winner = self.file("winner")
        if winner.get("trial") == number and winner.get("setting"):
            return SampleSetting(**winner["setting"])
        evaluations = self.state.trials[number].evaluations
        return best_setting(evaluations[-1].rows, self.state.metric) if evaluations else None

    def since(self, generation: int, revision: int) -> dict[str, Any]:
        """What is new for a page that knows `revision` of `generation`."""
        with self.lock:
            known = revision if generation == self.generation else -1
            return {
                "generation": self.generation,
                "revision": self.revision,
                "now": time.time(),
                "run": self._overview if known < self.revision else None,
                "trials": [self.trials[n] for n, changed in sorted(self._changed.items()) if changed > known],
            }

    def _summarise(self) -> dict[str, Any]:
        """The sweep as a whole."""
        config, progress, timing = self.config, self.file("progress"), self.file("timing")
        ranking = self.state.ranking()
        trials = self.trials.values()
        kinds: Counter[str] = Counter()
        for trial in trials:
            kinds.update(trial["kinds"])
        totals = {k: sum(t[k] for t in trials) for k in ("episodes", "successes", "timeouts", "failures", "errors")}
        return {
            "name": config.name if config else self.folder.path.name,
            "metric": self.state.metric.to_plain() | {"has_success": self._has_success()},
            "path": near_path(self.folder.path),
            "task": config.train.env_name if config else "",
            "trainer": config.trainer.function if config and config.trainer else "",
            "asked": config.search.trials if config else 0,
            "evaluations": config.eval.evaluations if config else 0,
            "seeds": list(config.seeds) if config else [],
            "space": self.file("config").get("space", {}),
            "axes": list(dict.fromkeys(axis for t in self.state.trials.values() for axis in t.params)),
            "winner": self.file("winner").get("trial"),
            "leader": ranking[0].number if ranking else None,
            "counts": dict(Counter(t.status for t in self.state.trials.values())),
            "totals": totals,
            "kinds": dict(kinds),
            "first_error": next((t["first_error"] for t in trials if t["first_error"]), ""),
            "reasons": Counter(t.reason for t in self.state.trials.values() if t.status == "failed").most_common(20),
            "workers": progress.get("workers", timing.get("workers")),
            "pool": progress.get("rollouts", timing.get("rollouts", {})),
            "cpus": progress.get("cpus", timing.get("cpus")),
            "ended": progress.get("ended", True if timing else None),
            "command": progress.get("command", timing.get("command", "")),
            "stages": {k: sum(end - start for start, end in v) for k, v in self.state.stages.items()},
            "rate": self._rate(),
            "videos": [video | {"setting": video_setting(video).label()} for video in self.file("videos")],
        }

    def _has_success(self) -> bool:
        """Whether outcomes say anything about success."""
        if self.state.metric.is_rate:
            return True
        rows = (row for t in self.state.trials.values() for e in t.evaluations[:1] for row in e.rows)
        return any(row["success_rate"] is not None for row in rows)

    def _rate(self) -> dict[str, Any]:
        """Rollouts per second over time, with the episodes of an evaluation spread evenly over its duration."""
        spans = [
            (*e.timing["rollout"], sum(map(episodes_of, e.rows)))
            for trial in self.state.trials.values()
            for e in trial.evaluations
            if e.timing.get("rollout")
        ]
        finals = [sum(map(episodes_of, t.final_rows)) for t in self.state.trials.values()]
        if self.state.stages.get("final"):
            start, end = self.state.stages["final"][-1]
            spans.append((start, end, sum(finals)))
        if not spans:
            return {"start": None, "seconds": [], "rate": [], "mean": None}
        first, last = min(s[0] for s in spans), max(s[1] for s in spans)
        width = max(last - first, 1.0) / RATE_BINS
        counts = [0.0] * RATE_BINS
        for start, end, episodes in spans:
            length = max(end - start, 1e-6)
            for i in range(int((start - first) / width), min(RATE_BINS - 1, int((end - first) / width)) + 1):
                low, high = first + i * width, first + (i + 1) * width
                counts[i] += episodes * max(0.0, min(end, high) - max(start, low)) / length
        busy = _union([(start, end) for start, end, _ in spans])
        return {
            "start": first,
            "last": last,
            "seconds": [round((i + 0.5) * width, 3) for i in range(RATE_BINS)],
            "rate": [round(count / width, 3) for count in counts],
            "mean": sum(s[2] for s in spans) / busy if busy else None,
        }


def views_of(folders: Sequence[Path]) -> list[RunView]:
    """The sweeps in these folders. Raises `UserError` for what is no sweep, and for one that is named twice."""
    if not folders:
        raise UserError("expected the folder of a sweep, or several: RUN [RUN ...]")
    for folder in folders:
        check_run(folder)
    places = [folder.resolve() for folder in folders]
    twice = next((f for f, place in zip(folders, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise UserError(f"{twice}: expected different sweeps, got this one twice")
    return [RunView(folder) for folder in folders]


R = TypeVar("R", bound=ResultRow)


def _union(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def summary(trial: TrialState, setting: SampleSetting | None, videos: int, metric: Metric) -> dict[str, Any]:
    """A trial in a few hundred bytes. Scores are those of `setting`, pooled over seeds, without errors.

    curve: [step, score, lowest and highest seed, 95 % interval (null: none), episodes] for each evaluation.
    """
    rows = [row for evaluation in trial.evaluations for row in evaluation.rows] + trial.final_rows
    kinds: Counter[str] = Counter()
    for row in rows:
        kinds.update(row.get("errors_by_kind") or ({"unknown": row["errors"]} if row["errors"] else {}))
    curve = []
    for evaluation in trial.evaluations:
        here = _measured(evaluation.rows, setting, metric)
        if here:
            curve.append([evaluation.step, *_scores(here, metric)])
    final = _measured(trial.final_rows, setting, metric)
    return {
        "n": trial.number,
        "status": trial.status,
        "score": trial.score,
        "interval": curve[-1][4:6] if curve and curve[-1][4] is not None else None,
        "step": trial.evaluations[-1].step if trial.evaluations else 0,
        "done": len(trial.evaluations),
        "origin": trial.origin,
        "reason": trial.reason or (f"shown to be worse than {trial.evaluations[-1].beaten}" if _beaten(trial) else ""),
        "params": trial.params,
        "setting": setting.label() if setting else "",
        "curve": curve,
        "by_setting": _by_setting(trial, metric),
        "final": _final(final, metric) if final else None,
        **totals(rows, "episodes", "successes", "timeouts", "failures", "errors"),
        "kinds": dict(kinds),
        "first_error": next((row["first_error"]["message"] for row in rows if "first_error" in row), ""),
        "train": round(sum(e.timing.get("train_seconds", 0.0) for e in trial.evaluations), 1),
        "rollout": round(sum(_length(e.timing.get("rollout")) for e in trial.evaluations), 1),
        "videos": videos,
    }


def _measured(rows: Sequence[R], setting: SampleSetting | None, metric: Metric) -> list[R]:
    """The rows of a sample setting that have a score."""
    here = rows_at(rows, setting) if setting is not None else []
    return [row for row in here if score_of([row], metric).value is not None]


def _by_setting(trial: TrialState, metric: Metric) -> list[list[Any]]:
    """[sample setting, score] at the last evaluation."""
    rows = trial.evaluations[-1].rows if trial.evaluations else []
    scores = [(s.label(), score_of(rows_at(rows, s), metric).value) for s in dict.fromkeys(map(setting_of, rows))]
    return [[label, _short(value)] for label, value in scores if value is not None]


def _beaten(trial: TrialState) -> bool:
    return bool(trial.evaluations and trial.evaluations[-1].beaten)


def _length(span: list[float] | None) -> float:
    return span[1] - span[0] if span else 0.0


def _scores(rows: Sequence[ResultRow], metric: Metric) -> list[float | None]:
    seeds = [score_of([row], metric).value or 0.0 for row in rows]
    score = score_of(rows, metric)
    low, high = score.interval or (None, None)
    return [*map(_short, (score.value, min(seeds), max(seeds), low, high)), score.episodes]


def _final(rows: Sequence[ResultRow], metric: Metric) -> Mapping[str, Any]:
    score: Score = score_of(rows, metric)
    seeds = [score_of([row], metric).value or 0.0 for row in rows]
    return {
        "rate": _short(score.value),
        "interval": score.interval and [_short(end) for end in score.interval],
        "episodes": score.episodes,
        "errors": score.errors_text,
        "tasks": [
            [name, _short(one.value), one.interval and [_short(end) for end in one.interval], one.episodes]
            for name, one in score.tasks.items()
        ],
        "seeds": seed_interval(seeds, bounds=(0.0, 1.0) if metric.is_rate else None),
    }


def _short(value: float | None) -> float | None:
    """A score with the digits that a page can show."""
    return None if value is None else float(f"{value:.6g}")
