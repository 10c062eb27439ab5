"""Measuring checkpoints during training by rollouts on the search starts, and filming them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from raybc import cli
from raybc.envs.base import RenderOptions
from raybc.metric import METRICS, SUCCESS, Metric, Score, score_of
from raybc.rollout.engine import Rollout
from raybc.rollout.notices import Notices
from raybc.rollout.results import summarise
from raybc.rows import EpisodeSummary
from raybc.suites import specs_in_turns
from raybc.train.csv_rows import append_row, append_rows
from raybc.train.log import add_scalars
from raybc.train.member import MemberRun
from raybc.train.trackers.base import Tracker
from raybc.types import EpisodeSpec

#: `metric` names what `eval/score` and its interval are; cells of what the task does not tell are empty.
EVAL_COLUMNS = (
    "step", "eval/success", "wilson_low", "wilson_high", "eval/return", "eval/length", "episodes", "errors",
    "metric", "eval/score", "score_low", "score_high",
)  # fmt: skip


#: Of tasks.csv, with a row for each of several tasks.
TASK_COLUMNS = (
    "step", "task", "eval/success", "eval/return", "episodes", "errors", "metric", "eval/score", "score_low",
    "score_high",
)  # fmt: skip


class RolloutEvaluation:
    """Measures the members of a pack in simulators."""

    def __init__(
        self,
        out: Path,
        tasks: Sequence[str],
        pool: Any,
        metric: Metric,
        members: Sequence[MemberRun],
        trackers: Sequence[tuple[int, Tracker]],
    ) -> None:
        """
        Args:
            out: the run folder.
            tasks: names of the tasks.
            pool: its simulators.
            metric: what checkpoints are compared by.
            members: the members.
            trackers: (member index, tracker); may grow later.
        """
        self._out, self._tasks, self._pool, self._metric = out, tuple(tasks), pool, metric
        self._members, self._trackers = members, trackers
        self.notices = Notices(lambda text: cli.console.print(text, style="yellow"))

    def run(self, step: int, finished: bool) -> None:
        """Measure the checkpoints at `step`: a row in eval.csv, TensorBoard and the console for each member."""
        config, metric = self._members[0].config, self._metric
        specs = specs_in_turns(self._tasks, "search", config.eval_episodes)
        works = [Rollout(str(m.bundle(step).absolute()), config.sample_setting) for m in self._members]
        results = self._pool.evaluate(f"{self._out}/step {step}", works, specs)
        for member, episodes in zip(self._members, results, strict=True):
            counts = summarise(episodes, metric)
            if not counts["episodes"]:
                self.notices.first_error(counts)
                raise cli.Failed(f"no episode could be run: {episodes[0]['message']}")
            score = score_of([counts], metric)
            length = fmean(e["steps"] for e in episodes if e["outcome"] != "error")
            rates: tuple[float | None, ...] = (None, None, None)
            if metric.has_success:
                whole = score_of([counts], SUCCESS)  # of several tasks, their mean
                rates = (whole.value, *(whole.interval or (None, None)))
            values = (step, *rates, counts["mean_return"], length, counts["episodes"], counts["errors"],
                      metric.name, score.value, *(score.interval or (None, None)))  # fmt: skip
            named = zip(EVAL_COLUMNS, values, strict=True)
            scalars = {n: float(v) for n, v in named if n.startswith("eval/") and isinstance(v, int | float)}
            scalars |= self._record_tasks(member, step, counts)
            append_row(member.folder.eval_csv, EVAL_COLUMNS, values)
            add_scalars(member.folder.tensorboard, scalars, step)
            who = f"seed {member.config.seed}: " if len(self._members) > 1 else ""
            errors = f"; {score.errors_text}" if score.errors else ""
            cli.console.print(
                f"step {step}: {who}{metric.label} {score.text} ({_solved(score)}"
                f"95 % interval {score.range_text}){_mean_return(metric, counts)}, length {length:.1f}{errors}"
            )
            for name, one in score.tasks.items():
                cli.console.print(f"  {name}: {one.text} ({_solved(one)}95 % interval {one.range_text})")
            self.notices.evaluated(who, counts, score)
        if config.video_episodes and (finished or config.video_evaluations == "all"):
            self._record_videos(step, works, specs[: config.video_episodes * len(self._tasks)])

    def _record_tasks(self, member: MemberRun, step: int, counts: EpisodeSummary) -> dict[str, float]:
        """Write the rows of single tasks, where there are several; gives their scores for TensorBoard."""
        scores = score_of([counts], self._metric).tasks
        append_rows(
            member.folder.tasks_csv,
            TASK_COLUMNS,
            [
                (
                    step, name, one["success_rate"], one["mean_return"], one["episodes"], one["errors"],
                    self._metric.name, scores[name].value, *(scores[name].interval or (None, None)),
                )
                for name, one in counts.get("tasks", {}).items()
            ],
        )  # fmt: skip
        return {f"eval/{name}": score.value for name, score in scores.items() if score.value is not None}

    def _record_videos(self, step: int, works: Sequence[Rollout], specs: list[EpisodeSpec]) -> None:
        from raybc.rollout.pool import RolloutPool

        all_of_them = self._members[0].config.video_evaluations == "all"
        films = [
            dataclasses.replace(
                work,
                video=str((m.folder.videos / f"step_{step}" if all_of_them else m.folder.videos).absolute()),
                video_frame_skip=m.config.video_frame_skip,
            )
            for work, m in zip(works, self._members, strict=True)
        ]
        with RolloutPool.start(self._tasks[0], 1, self._tasks, worker_cpus=0.01, render=RenderOptions()) as cameras:
            results = cameras.evaluate(f"{self._out}/film {step}", films, specs)
        for film, rows in zip(films, results, strict=True):
            for row in rows:
                what = f"no video: {row['message']}" if row["outcome"] == "error" else Path(film.video) / row["video"]
                cli.console.print(f"video: {what}")
        for number, tracker in self._trackers:
            folder, rows = Path(films[number].video), results[number]
            tracker.videos(step, [folder / r["video"] for r in rows if r["outcome"] != "error"])


def _solved(score: Score) -> str:
    return f"{score.successes}/{score.episodes}, " if score.metric.is_rate else f"{score.episodes} episodes, "


def _mean_return(metric: Metric, counts: EpisodeSummary) -> str:
    mean = counts["mean_return"]
    return "" if mean is None or metric.name == "return" else f", return {METRICS['return'].show(mean)}"
