"""A film of a policy for its model card: an episode that was measured, a success where there is one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.report.read import RunTables
from raybc.rollout.folder import EvaluationFolder
from raybc.rows import setting_of, video_setting
from raybc.types import SampleSetting

#: Its name in a repository: the name that the Hub plays on pages of policies.
REPLAY = "replay.mp4"


@dataclass(frozen=True)
class Film:
    """An mp4 file and what it shows."""

    path: Path
    """The file."""
    caption: str
    """A sentence without its full stop."""


def film_of_sweep(run: RunTables, setting: SampleSetting) -> Film | None:
    """A film of the winner at `setting`: of its own seed, of a success and on final starts, where there are such; None
    where it was not filmed."""
    winner = run.winner
    if winner is None:
        return None
    films = [
        video
        for video in run.videos
        if video["trial"] == winner["trial"]
        and video_setting(video) == setting
        and (run.path / video["file"]).is_file()
        and (run.path / video["file"]).resolve().is_relative_to(run.path.resolve())
    ]

    def order(video: Mapping[str, Any]) -> tuple[bool, bool, bool, int]:
        return video["seed"] != winner["seed"], video["outcome"] != "success", video["split"] != "final", video["index"]

    if not films:
        return None
    video = min(films, key=order)
    other = "" if video["seed"] == winner["seed"] else f", by seed {video['seed']} of the same recipe"
    return Film(run.path / video["file"], _caption(video, video["split"]) + other)


def film_of_rollouts(folder: EvaluationFolder, starts: str, setting: SampleSetting) -> Film | None:
    """A film of an evaluation by `raybc.rollout` at `setting`, of a success where there is one; None without films."""
    if not folder.episodes.is_file():
        return None
    rows = [json.loads(line) for line in folder.episodes.read_text(encoding="utf-8").splitlines() if line.strip()]
    films = [
        (row["outcome"] != "success", row["index"], folder.videos(setting) / Path(row["video"]).name, row)
        for row in rows
        if row.get("video") and setting_of(row) == setting
    ]
    found = min((film for film in films if film[2].is_file()), key=lambda film: film[:2], default=None)
    return None if found is None else Film(found[2], _caption(found[3], starts))


def _caption(row: Mapping[str, Any], starts: str) -> str:
    """`Start 3 of the final starts: success after 27 steps`."""
    task = f" of {row['task']}" if row.get("task") else ""
    return f"Start {row['index']} of the {starts} starts{task}: {row['outcome']} after {row['steps']} steps"
