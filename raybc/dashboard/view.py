"""A run folder as the page shows it: a summary of every trial, updated by new events."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raybc.dashboard.follow import JsonFile, LedgerTail
from raybc.dashboard.rate import Span, rate, spans_of
from raybc.dashboard.state import resume_command, state_of
from raybc.dashboard.summary import summary
from raybc.files import read_json
from raybc.metric import METRICS, over_tasks
from raybc.report.commands import near_path
from raybc.report.films import films_of, later_mark
from raybc.rollout.results import best_setting
from raybc.rows import EvaluationRow, LedgerEvent, VideoRow, video_setting
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import SweepState
from raybc.sweep.load import saved_sweep
from raybc.types import SampleSetting, UserError

#: Minimum seconds between two reads of the folder, however many pages poll.
REFRESH_INTERVAL = 0.5


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
        self.films: list[VideoRow] = []
        """Those that the sweep made, and those that were made later."""
        self._later: tuple[str, ...] = ()
        self._looked = float("-inf")
        self.overview: dict[str, Any] = {}
        # Of each trial, while its events are the same: where those of its evaluations begin in the ledger, when it was
        # measured, and what it is ranked by.
        self._places: dict[int, list[int]] = {}
        self._spans: dict[int, list[Span]] = {}
        self._order: dict[int, tuple[bool, float, float, int]] = {}
        self._pending: set[int] = set()  # trials whose summary is not that of their events

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
            later = later_mark(self.folder)
            if "videos" in changed or later != self._later:
                changed.add("videos")
                self._later, self.films = later, films_of(self.folder, self.file("videos"))
            replaced, events = self._tail.new()
            if replaced:
                self.state, self.trials, self._changed = SweepState(metric=self.state.metric), {}, {}
                self._places, self._spans, self._order = {}, {}, {}
                self._pending = set()
                self.generation += 1
            if "config" in changed:
                config = self.file("config")
                self.config = saved_sweep(config, str(self.folder.config)) if config else None
                name = (self.config and self.config.metric) or "success"
                self.state.metric = over_tasks(METRICS[name], self.config.eval.task_score if self.config else "mean")
            any_event = self._apply(events)
            if "config" in changed:
                self._pending |= self.state.trials.keys()
            if changed & {"winner", "videos"}:
                self._pending |= self._shown_by_files()
            if self.overview and not (changed or replaced or any_event):
                return
            self.revision += 1
            shown = Counter(video["trial"] for video in self.films)
            for number in self._pending:
                trial = self.state.trials[number]
                best = best_setting(trial.evaluations[-1].rows, self.state.metric) if trial.evaluations else None
                self.trials[number] = summary(trial, self.setting(number, best), shown[number], self.state.metric)
                self._spans[number] = spans_of(trial)
                if trial.evaluations:
                    self._order[number] = self.state.order(trial, best)
                self._changed[number] = self.revision
            self._pending = set()
            self.overview = self._summarise()

    def _apply(self, events: Iterator[tuple[LedgerEvent, int]]) -> bool:
        """Take over events, and note the trials that they are about; returns whether there was any.

        The episodes of evaluations stay on disk: they are most of a ledger, and only a trial's own page shows them.
        """
        any_event = False
        for event, begin in events:
            any_event = True
            if event["event"] == "evaluation":
                self._places.setdefault(event["trial"], []).append(begin)
                for row in event["rows"]:
                    row["episode_list"] = []
            self.state.apply(event)
            if event["event"] != "stage":
                self._pending.add(event["trial"])
        return any_event

    def _shown_by_files(self) -> set[int]:
        """Trials that winner.json and videos.json are about, or were: all that had a video, and the best."""
        shown: set[int | None] = {video["trial"] for video in self.films} | {self.file("winner").get("trial")}
        shown |= {number for number, trial in self.trials.items() if trial["videos"]}
        shown |= {self.overview.get("winner"), self.overview.get("leader")}
        return {number for number in self.state.trials if number in shown}

    def rows(self, number: int) -> list[EvaluationRow]:
        """All rows of a trial with their episodes, which are read from the ledger."""
        with self.lock:
            trial = self.state.trials[number]
            found = [row for begin in self._places.get(number, ()) for row in self._evaluation_at(begin)]
            return found + trial.final_rows

    def _evaluation_at(self, begin: int) -> list[EvaluationRow]:
        event = self._tail.at(begin)
        assert event["event"] == "evaluation"
        return event["rows"]

    def best_trial(self) -> int | None:
        """The winner, or the leader of the search; None before the first measurement."""
        number = self.file("winner").get("trial", self.overview.get("leader"))
        return number if number in self.trials else None

    def setting(self, number: int, best: SampleSetting | None = None) -> SampleSetting | None:
        """The sample setting of a trial: the winner's as recorded, else the best at its last evaluation (`best`, if it
        is known)."""
        winner = self.file("winner")
        if winner.get("trial") == number and winner.get("setting"):
            return SampleSetting(**winner["setting"])
        evaluations = self.state.trials[number].evaluations
        return best or best_setting(evaluations[-1].rows, self.state.metric) if evaluations else None

    def since(self, generation: int, revision: int) -> dict[str, Any]:
        """What is new for a page that knows `revision` of `generation`."""
        with self.lock:
            known = revision if generation == self.generation else -1
            return {
                "generation": self.generation,
                "revision": self.revision,
                "now": time.time(),
                "state": state_of(self.folder, self.state, self.file("timing")),
                "resume": resume_command("sweep", self.folder.path),
                "run": self.overview if known < self.revision else None,
                "trials": [self.trials[n] for n, changed in sorted(self._changed.items()) if changed > known],
            }

    def _summarise(self) -> dict[str, Any]:
        """The sweep as a whole."""
        config, progress, timing = self.config, self.file("progress"), self.file("timing")
        leader = min(self.state.ranked(), key=lambda trial: self._order[trial.number], default=None)
        trials = self.trials.values()
        kinds: Counter[str] = Counter()
        for trial in trials:
            kinds.update(trial["kinds"])
        totals = {k: sum(t[k] for t in trials) for k in ("episodes", "successes", "timeouts", "failures", "errors")}
        return {
            "name": config.name if config else self.folder.path.name,
            "metric": self.state.metric.to_plain() | {"has_success": self.has_success()},
            "path": near_path(self.folder.path),
            "task": config.train.env_name if config else "",
            "trainer": config.trainer.function if config and config.trainer else "",
            "asked": config.search.trials if config else 0,
            "evaluations": config.eval.evaluations if config else 0,
            "first_step": config.evaluation_step(1) if config else None,
            "last_step": config.train.training_steps if config else None,
            "final_episodes": config.final.episodes if config else 0,
            "final_videos": config.final.videos if config else 0,
            "seeds": list(config.seeds) if config else [],
            "space": self.file("config").get("space", {}),
            "axes": list(dict.fromkeys(axis for t in self.state.trials.values() for axis in t.params)),
            "winner": self.file("winner").get("trial"),
            "finals": sum(bool(t.final_rows) for t in self.state.trials.values()),
            "leader": leader.number if leader else None,
            "counts": dict(Counter(t.status for t in self.state.trials.values())),
            "totals": totals,
            "kinds": dict(kinds),
            "first_error": next((t["first_error"] for t in trials if t["first_error"]), ""),
            "reasons": Counter(t.reason for t in self.state.trials.values() if t.status == "failed").most_common(20),
            "workers": progress.get("workers", timing.get("workers")),
            "pool": progress.get("rollouts", timing.get("rollouts", {})),
            "cpus": progress.get("cpus", timing.get("cpus")),
            "command": progress.get("command", timing.get("command", "")),
            "stages": {k: sum(end - start for start, end in v) for k, v in self.state.stages.items()},
            "rate": rate(self.state, [span for spans in self._spans.values() for span in spans]),
            "videos": [video | {"setting": video_setting(video).label()} for video in self.films],
        }

    def has_success(self) -> bool:
        """Whether outcomes say anything about success."""
        if self.state.metric.is_rate:
            return True
        rows = (row for t in self.state.trials.values() for e in t.evaluations[:1] for row in e.rows)
        return any(row["success_rate"] is not None for row in rows)


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
