"""Scores of finished measurements, and which of their starts are the same."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raybc.compare.arms import Arm, NotComparable
from raybc.compare.result import Scores
from raybc.metric import METRICS, Metric
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.compare.__main__ import Args


def metric_of_files(args: Args, arms: Sequence[Arm]) -> Metric:
    """What finished measurements are compared by. Raises `NotComparable` where they have nothing in common."""
    kinds = {arm.finished.continuous for arm in arms if arm.finished is not None}
    if len(kinds) > 1:
        raise NotComparable("these differ: metric (some arms have success, others a score)")
    if kinds == {True}:
        if args.metric not in (None, "return"):
            raise UserError(f"--metric: expected none for files with a column score, got {args.metric}")
        return replace(METRICS["return"], label="score", bounds=args.bounds)
    metric = METRICS[args.metric or "success"]
    if not metric.from_episodes or metric.name == "normalized_score":
        raise UserError(
            f"--metric: expected success, return or largest_reward for finished measurements, got {metric.name}"
        )
    return metric


def scores_of_files(arms: Sequence[Arm], metric: Metric, paired: bool) -> tuple[list[Scores], list[str]]:
    """Scores of finished arms, and notes about how they are paired."""
    notes: list[str] = []
    found = [scores_of_file(arm, metric) for arm in arms]
    nameless = [arm.name for arm in arms if arm.finished is not None and not arm.finished.known_starts]
    if nameless and paired:
        sizes = {len(s.starts) for s in found}
        if len(nameless) < len(arms) or len(sizes) > 1:
            raise UserError(
                f"--paired: expected arms of the same number of episodes without names of starts, got "
                f"{', '.join(f'{s.name} {len(s.starts)}' for s in found)}"
            )
        if len({frozenset(s.starts) for s in found}) > 1:
            found = [replace(s, starts=tuple(map(str, range(len(s.starts))))) for s in found]
        notes.append("paired by position, because --paired says that the rows are of the same starts")
    elif nameless:
        found = [
            replace(s, starts=tuple(f"{s.name} {start}" for start in s.starts)) if s.name in nameless else s
            for s in found
        ]
        notes.append(
            f"unpaired: {', '.join(nameless)} name no starts; if the rows are of the same starts in the same order, "
            "--paired needs fewer episodes"
        )
    elif paired:
        raise UserError("--paired: expected files without names of starts; these name them, and are paired by them")
    else:
        notes += _pairing(found)
    return found, notes


def _pairing(found: Sequence[Scores]) -> list[str]:
    shared = set(found[0].starts).intersection(*(s.starts for s in found[1:]))
    everything = {start for s in found for start in s.starts}
    if not shared:
        return ["unpaired where arms have no start in common"]
    if len(shared) < len(everything):
        return [f"paired on common starts: {len(shared)} of {len(everything)} are common to all arms"]
    return []


def scores_of_file(arm: Arm, metric: Metric) -> Scores:
    """The scores of one finished arm."""
    assert arm.finished is not None
    rows = arm.finished.rows
    values = [metric.of_episode({"return": float("nan"), **row}) for row in rows.values()]
    return Scores(arm.name, tuple(rows), np.array([values], np.float64))


def rows_of_files(arms: Sequence[Arm], scores: Sequence[Scores]) -> dict[str, dict[str, Any]]:
    """Arm -> start, as it is called in its scores -> row."""
    names = {arm.name: arm for arm in scores}
    return {
        arm.name: dict(zip(names[arm.name].starts, arm.finished.rows.values(), strict=False))
        for arm in arms
        if arm.finished is not None
    }


def videos_of_files(arms: Sequence[Arm], scores: Sequence[Scores]) -> dict[tuple[str, str], Path]:
    """(arm, start as it is called in its scores) -> video, of finished arms that have any."""
    found = {}
    for arm_name, rows in rows_of_files(arms, scores).items():
        folder = next(arm.finished.folder for arm in arms if arm.name == arm_name and arm.finished is not None)
        for start, row in rows.items():
            name = str(row.get("video") or "")
            if folder is None or not name or Path(name).name != name:
                continue
            path = next(
                (p for p in (folder / name, *sorted(folder.glob(f"*/{glob.escape(name)}"))) if p.is_file()), None
            )
            if path is not None:
                found[arm_name, start] = path
    return found
