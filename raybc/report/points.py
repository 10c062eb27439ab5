"""Measured scores as points of figures, the same in the report and the dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from raybc.metric import Metric, score_of
from raybc.rows import ResultRow, rows_at, setting_of


def curve_point(rows: Sequence[ResultRow], metric: Metric) -> list[float | None]:
    """[score, lowest and highest seed, ends of the 95 % interval (None: there is none), episodes] of rows of one step,
    pooled over seeds."""
    seeds = [score_of([row], metric).value or 0.0 for row in rows]
    score = score_of(rows, metric)
    low, high = score.interval or (None, None)
    return [*map(short, (score.value, min(seeds), max(seeds), low, high)), score.episodes]


def by_setting(rows: Sequence[ResultRow], metric: Metric) -> list[list[Any]]:
    """[sample setting, score, episodes, its sample axes] of rows of one step, pooled over seeds."""
    found = []
    for setting in dict.fromkeys(map(setting_of, rows)):
        score = score_of(rows_at(rows, setting), metric)
        if score.value is not None:
            found.append([setting.label(), short(score.value), score.episodes, asdict(setting)])
    return found


def short(value: float | None) -> float | None:
    """A score with the digits that a page can show."""
    return None if value is None else float(f"{value:.6g}")
