"""`raybc.Evaluation`: a measurement of a policy, read from its folder."""

from __future__ import annotations

import json
import os
from os import PathLike
from pathlib import Path
from typing import Any

from raybc.api.curves import Panel, Series, panel
from raybc.api.figures import Backend, figure_of, frame_of
from raybc.api.show import Facts, Video, nth
from raybc.files import expanded, read_json
from raybc.metric import METRICS, Metric
from raybc.rollout.folder import EvaluationFolder
from raybc.rows import SettingMetrics, setting_of
from raybc.types import SampleSetting, UserError

Interval = tuple[float, float]
#: Metric -> (its mean, its interval) in metrics.json; success has names of its own.
_KEYS = {
    "return": ("mean_return", "mean_return_interval"),
    "normalized_score": ("normalized_score", "normalized_score_interval"),
    "largest_reward": ("mean_max_reward", "mean_max_reward_interval"),
}


class Evaluation:
    """A measurement of a policy on many starts, read from its folder.

    Args:
        folder: what `raybc rollout` and `raybc.evaluate` wrote.

    Raises `UserError` where there is no finished measurement.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder: Path = expanded(os.fspath(folder), "folder")
        place = EvaluationFolder(self.folder)
        if not place.metrics.is_file():
            state = "it was not finished: evaluate again" if place.request.is_file() else "found none"
            raise UserError(f"{self.folder}: expected the folder of a measurement (with metrics.json), {state}")
        self._found: dict[str, Any] = read_json(place.metrics)

    # --- the numbers --------------------------------------------------------------------------------------------------

    @property
    def success_rate(self) -> float | None:
        """The share of episodes that solved the task, at the first sample setting; None where the task tells no
        success. Episodes that ended in an error are in no rate."""
        return _success(self._found["settings"][0])[0]

    @property
    def interval(self) -> Interval | None:
        """Its 95 % interval (Wilson's; of several tasks that of their mean)."""
        return _success(self._found["settings"][0])[1]

    @property
    def score(self) -> float | None:
        """The mean of the metric that policies are compared by, at the first sample setting."""
        return _score(self._found["settings"][0])[1]

    def rows(self) -> list[dict[str, Any]]:
        """What each sample setting, and of several tasks each of them, adds up to, with 95 % intervals."""
        found = []
        for setting in self._found["settings"]:
            for task, row in (*setting.get("tasks", {}).items(), ("", setting)):
                rate, ends = _success(row)
                metric, value, interval = _score(row)
                found.append(
                    {
                        "setting": setting_of(setting).label(),
                        "task": task or ("all tasks" if "tasks" in setting else self._found.get("task", "")),
                        "success": rate,
                        "success_low": ends and ends[0],
                        "success_high": ends and ends[1],
                        "metric": metric.name,
                        "score": value,
                        "score_low": interval and interval[0],
                        "score_high": interval and interval[1],
                        "episodes": row["episodes"],
                        "successes": row["successes"],
                        "return": row["mean_return"],
                        "steps": row["avg_steps"],
                        "errors": row["failure_counts"]["exception"],
                    }
                )
        return found

    def episodes(self) -> list[dict[str, Any]]:
        """A row for each episode: the start (`index`, `seed`), `outcome`, `return`, `steps`, and the sample setting."""
        lines = EvaluationFolder(self.folder).episodes.read_text(encoding="utf-8").splitlines()
        hidden = ("final_obs", "traceback", "message", "video")
        return [{k: v for k, v in json.loads(line).items() if k not in hidden} for line in lines]

    def frame(self) -> Any:
        """`episodes` as a `pandas.DataFrame`. Raises `UserError` where pandas is not installed."""
        return frame_of(self.episodes(), "Evaluation")

    def plot(self, backend: Backend = "plotly") -> Any:
        """Scores of sample settings and tasks with their intervals: a figure of plotly or Matplotlib."""
        return figure_of(self._panels(), backend, f"{self.folder}")

    def videos(self) -> list[Video]:
        """The films, in the order of the starts."""
        found: dict[Path, Video] = {}
        for line in EvaluationFolder(self.folder).episodes.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            path = EvaluationFolder(self.folder).videos(_setting(row)) / row.get("video", "")
            if row.get("video") and path.is_file():
                task = f"{row['task']}, " if "task" in row else ""
                found[path] = Video(path, f"{task}start {row['index']}: {row['outcome']} after {row['steps']} steps")
        return list(found.values())

    def video(self, i: int = 0) -> Video:
        """Film `i`. Raises `UserError` where no episode was filmed."""
        return nth(self.videos(), i, f"{self.folder}", "evaluate(..., videos=4) films the first ones")

    def _panels(self) -> list[Panel]:
        rows = self.rows()
        key = "success" if rows[0]["success"] is not None else "score"
        known = [(place, row) for place, row in enumerate(rows) if row[key] is not None]
        ends = [None if row[f"{key}_low"] is None else (row[f"{key}_low"], row[f"{key}_high"]) for _, row in known]
        series = Series(key, [p for p, _ in known], [row[key] for _, row in known], ends, points=True)
        name = METRICS[rows[0]["metric"]].label if key == "score" else key
        return panel(name, "row of the table", series, percent=key == "success")

    # --- shown --------------------------------------------------------------------------------------------------------

    def _facts(self) -> Facts:
        first, metric = self._found["settings"][0], METRICS[_score(self._found["settings"][0])[0].name]
        rate, ends = _success(first)
        shown = ("success", METRICS["success"], rate, ends) if rate is not None else (metric.label, *_score(first))
        label, by, value, interval = shown
        errors = first["failure_counts"]["exception"]
        facts = [
            ("folder", str(self.folder)),
            ("policy", f"{self._found['bundle']} (step {self._found['step']})"),
            (label, f"{by.show(value)} (95 % interval {by.show_range(interval)}, {first['episodes']} episodes)"),
            ("starts", f"{self._found['starts']}, from {self._found['first']} on"),
            *([("errors", f"{errors} episodes could not be run and are in no rate")] if errors else []),
        ]
        header = ("setting", "task", label, "95 % interval", "episodes", "return", "errors")
        rows = tuple(
            (row["setting"], row["task"], by.show(row[key]), by.show_range(ends), row["episodes"],
             METRICS["return"].show(row["return"]), row["errors"])
            for row in self.rows()
            for key in ("success" if rate is not None else "score",)
            for ends in (None if row[f"{key}_low"] is None else (row[f"{key}_low"], row[f"{key}_high"]),)
        )  # fmt: skip
        return Facts("Evaluation", tuple(facts), header, rows)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return self._facts().text()

    def _repr_html_(self) -> str:
        films, several = self.videos(), len(self.rows()) > 1
        return self._facts().html(self._panels() if several else (), films[0] if films else None)


def _success(row: SettingMetrics) -> tuple[float | None, Interval | None]:
    """The success rate and its interval."""
    rate, low, high = row["success_rate"], row["wilson_low"], row["wilson_high"]
    ends = row.get("success_interval") or ((low, high) if low is not None and high is not None else None)
    return rate, (ends[0], ends[1]) if ends and rate is not None else None


def _score(row: SettingMetrics) -> tuple[Metric, float | None, Interval | None]:
    """The metric, its mean and its interval."""
    name = row.get("metric") or "success"
    if name not in _KEYS:
        return METRICS["success"], *_success(row)
    value, ends = (row.get(key) for key in _KEYS[name])
    interval = (ends[0], ends[1]) if isinstance(ends, list) else None
    return METRICS[name], value if isinstance(value, int | float) else None, interval


def _setting(row: dict[str, Any]) -> SampleSetting:
    return setting_of(row)  # type: ignore[arg-type]  # with the fields of an episode beside
