"""Measuring the arms of a comparison: the same starts for all, side by side, until the evidence suffices."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.progress import Progress, TaskID

from raybc import cli
from raybc.cluster.nodes import check_visible
from raybc.compare.arms import Arm
from raybc.compare.design import CompareRule, Design
from raybc.compare.folder import CompareFolder
from raybc.compare.tasks import start_name, start_of
from raybc.envs.base import RenderOptions
from raybc.files import write_text
from raybc.rollout.engine import Rollout
from raybc.rollout.evaluation import measured_rows, progress_bar
from raybc.rollout.pool import RolloutPool
from raybc.rollout.simulator_flags import SimulatorFlags
from raybc.rows import EpisodeRow
from raybc.types import EpisodeSpec, SampleSetting, UserError

#: Fields of rows in arms/NAME/episodes.jsonl that belong to the arm.
_SETTING = frozenset(field.name for field in dataclasses.fields(SampleSetting))
#: Rows by number of the job (an arm's training) and of the start.
Known = dict[tuple[int, int], EpisodeRow]


@dataclass(frozen=True)
class MeasureOptions:
    """How episodes are run; see the flags of `python -m raybc.compare`."""

    simulators: SimulatorFlags
    videos: int
    video_frame_skip: int
    render: RenderOptions


class Measurement:
    """Runs the episodes of a comparison and keeps every row as soon as its episode ends."""

    def __init__(
        self,
        arms: Sequence[Arm],
        design: Design,
        specs: Sequence[EpisodeSpec],
        known_scores: Mapping[str, np.ndarray],
        options: MeasureOptions,
        out: CompareFolder,
    ) -> None:
        """arms: all, in their order. known_scores: scores on the scale 0 .. 1 of finished arms on these starts."""
        self._arms, self._design, self._specs, self._options, self._out = arms, design, list(specs), options, out
        self._known_scores = known_scores
        several = len({spec.task for spec in specs}) > 1
        self._starts = [start_name(spec.seed, spec.task if several else "") for spec in specs]
        self._jobs = [(arm, number) for arm in arms for number in range(len(arm.trainings))]
        self._known: Known = {}

    def run(self, begun: Callable[[], None]) -> dict[str, list[list[EpisodeRow]]]:
        """Arm -> for each training its rows, in the order of the starts. begun: called when nothing can be refused any
        more. Ctrl-C and kill -9 lose no finished episode."""
        self._known = self._resume()
        if self._known:
            cli.console.print(f"resuming: {len(self._known)} episodes are already measured")
        try:
            rows = measured_rows(self._known, len(self._jobs), len(self._specs), self._rule())
            if rows is None:
                with self._options.simulators.ray() as workers, progress_bar() as (progress, bar):
                    for arm, number in self._jobs:
                        for path in arm.trainings[number].policy.files:
                            check_visible(path)
                    begun()
                    progress.update(bar, total=len(self._jobs) * len(self._specs))
                    self._show(progress, bar)
                    rows = self._measure(workers, progress, bar)
            else:
                begun()
        except KeyboardInterrupt:
            raise cli.Interrupted(
                f"finished episodes are kept; continue with --resume --out {self._out.path}"
            ) from None
        found: dict[str, list[list[EpisodeRow]]] = {}
        for (arm, _), part in zip(self._jobs, rows, strict=True):
            found.setdefault(arm.name, []).append(part)
        return found

    def _measure(self, workers: int, progress: Progress, bar: TaskID) -> list[list[EpisodeRow]]:
        jobs = [self._job(arm, number) for arm, number in self._jobs]
        saved = 0
        with (
            self._pool(workers) as pool,
            self._out.partial.open("a", encoding="utf-8") as partial,
        ):

            def save_finished() -> None:
                nonlocal saved
                for job, start, row in pool.finished("compare", saved):
                    saved += 1
                    partial.write(self._line(job, row))
                    self._known[job, start] = row
                partial.flush()
                self._show(progress, bar)

            rows = pool.evaluate("compare", jobs, self._specs, self._rule(), self._known, save_finished)
        for job, part in enumerate(rows):
            for start, row in enumerate(part):
                self._known[job, start] = row
        self._write_partial(self._known)  # also the last ones, in case that the comparison is extended
        self._show(progress, bar)
        return rows

    def _rule(self) -> CompareRule:
        names = [arm.name for arm, _ in self._jobs]
        return CompareRule(self._design, [arm.name for arm in self._arms], names, self._known_scores)

    def film(self, pair: tuple[str, str], starts: Sequence[str]) -> tuple[dict[tuple[str, str], str], str]:
        """((arm, start) -> video below the arm's folder of videos, why some are missing) of the first training of both
        arms on these starts. The episodes are run again, in simulators that render; that changes no outcome. A video
        that is there from an earlier process is kept."""
        arms = [arm for arm in self._arms if arm.name in pair and arm.trainings]
        places = [place for place, start in enumerate(self._starts) if start in set(starts)]
        known = {
            (job, k): row
            for job, arm in enumerate(arms)
            for k, place in enumerate(places)
            if (row := self._filmed(arm, place)) is not None
        }
        if len(known) == len(arms) * len(places):
            rows = [[known[job, k] for k in range(len(places))] for job in range(len(arms))]
        else:
            jobs = [
                self._job(arm, 0, str(self._out.videos(arm.name).absolute()), self._options.video_frame_skip)
                for arm in arms
            ]
            with (
                self._options.simulators.ray() as workers,
                self._pool(min(workers, len(jobs) * len(places)), render=self._options.render) as pool,
            ):
                rows = pool.evaluate("film", jobs, [self._specs[place] for place in places], known=known)
        found, problem = {}, ""
        for arm, part in zip(arms, rows, strict=True):
            for place, row in zip(places, part, strict=True):
                if row.get("video"):
                    found[arm.name, self._starts[place]] = row["video"]
                elif row["outcome"] == "error":
                    problem = problem or row["message"]
        return found, problem

    def _filmed(self, arm: Arm, place: int) -> EpisodeRow | None:
        """The row of the arm's first training on a start, if its video is in the folder of videos."""
        job = next(job for job, (other, _) in enumerate(self._jobs) if other is arm)
        row = self._known.get((job, place))
        name = str(row.get("video") or "") if row is not None else ""
        is_there = bool(name) and Path(name).name == name and (self._out.videos(arm.name) / name).is_file()
        return row if is_there else None

    def discard_partial(self) -> None:
        """Delete the file of finished episodes, once the result is written."""
        self._out.partial.unlink(missing_ok=True)

    def _pool(self, workers: int, **more: Any) -> RolloutPool:
        simulators = self._options.simulators
        weights = max(arm.trainings[number].policy.parameters for arm, number in self._jobs)
        tasks = list(dict.fromkeys(spec.task for spec in self._specs))
        options = simulators.pool_options(weights) | {"slots": simulators.slots or None} | more
        return RolloutPool.start(tasks[0], workers, tasks, **options)

    def _job(self, arm: Arm, number: int, video: str = "", skip: int = 3) -> Rollout:
        training = arm.trainings[number]
        return Rollout(training.policy.reference, training.setting, video, skip, final_obs=True)

    # --- the file of finished episodes --------------------------------------------------------------------------------

    def _line(self, job: int, row: EpisodeRow) -> str:
        arm, number = self._jobs[job]
        return json.dumps({"arm": arm.name, "training": number, **row}) + "\n"

    def _resume(self) -> Known:
        """The rows of an earlier process: one that was interrupted, that had fewer starts, or that had finished."""
        names = {(arm.name, number): job for job, (arm, number) in enumerate(self._jobs)}
        places = {start: place for place, start in enumerate(self._starts)}
        known: Known = {}
        files = [(self._out.episodes(arm.name), arm.name) for arm in self._arms if arm.trainings]
        for path, arm_name in [*files, (self._out.partial, "")]:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            for number, line in enumerate(lines, 1):
                if not line.endswith("\n"):  # torn: the episode is run again
                    continue
                try:
                    row = {name: value for name, value in json.loads(line).items() if name not in _SETTING}
                    arm, training = row.pop("arm", arm_name), row.pop("training", 0)
                    key = names[arm, training], places.get(start_of(row), -1)
                    if row["outcome"] != "error" and key[1] >= 0:
                        known[key] = cast(EpisodeRow, row)
                except (ValueError, KeyError, TypeError):
                    raise UserError(f"{path}: line {number} is damaged; start over with --overwrite") from None
        self._write_partial(known)
        return known

    def _write_partial(self, known: Known) -> None:
        write_text(self._out.partial, "".join(self._line(job, row) for (job, _), row in sorted(known.items())))

    def _show(self, progress: Progress, bar: TaskID) -> None:
        texts, metric = [], self._design.metric
        for arm in self._arms:
            scores = [
                metric.of_episode(row) for (job, _), row in list(self._known.items()) if self._jobs[job][0] is arm
            ]
            valid = [score for score in scores if not math.isnan(score)]
            if valid:
                texts.append(f"{arm.name} {metric.show(sum(valid) / len(valid))}")
        progress.update(bar, completed=len(self._known), rate=", ".join(texts))


def write_rows(path: Path, parts: Sequence[Sequence[EpisodeRow]], settings: Sequence[Mapping[str, Any]]) -> None:
    """Write an arm's rows as `raybc rollout` does; several trainings have their number."""
    lines = []
    for number, (part, setting) in enumerate(zip(parts, settings, strict=True)):
        about = {"training": number} if len(parts) > 1 else {}
        lines += [json.dumps({**about, **setting, **row}) for row in part]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(line + "\n" for line in lines))
