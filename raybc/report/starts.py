"""Finalists on final starts, for the report of a sweep: which start each solves, and how the others end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raybc.report.page import safe_json
from raybc.report.read import RunTables
from raybc.report.squares import EPISODES, add_films, clusters_of, final_rows, group_of
from raybc.report.tables import LeaderboardRow
from raybc.rows import EvaluationRow, rows_at


def starts(run: RunTables, rows: Sequence[LeaderboardRow], videos: Sequence[Any]) -> dict[str, Any] | None:
    """What the section about final starts shows; None where no trial was measured on any.

    rows: the leaderboard. videos: the films of the page (`raybc.report.films.embedded`).
    """
    finals = final_rows(run.folder.ledger)
    measured: list[EvaluationRow] = []
    left_out = 0
    for trial in rows:
        here = rows_at(finals.get(trial.trial, []), trial.setting) if trial.setting else []
        if sum(len(row["episode_list"]) for row in measured + here) > EPISODES:
            left_out += 1
        else:
            measured += here
    if not any(row["episode_list"] for row in measured):
        return None
    params = {trial.trial: trial.params for trial in rows}
    winner = measured[0]["trial"]
    groups = [
        group_of(
            row,
            name=f"trial {row['trial']}{' (winner)' if row['trial'] == winner else ''}, seed {row['seed']}",
            config=run.sweep, folder=run.folder, params=params[row["trial"]], limit=run.timing.get("max_steps"),
        )
        for row in measured
    ]  # fmt: skip
    films = add_films(groups, videos)
    for film in films:
        film["element"] = videos[film.pop("number")]["element"]
    best = [row for row in measured if row["trial"] == winner]  # they come first
    clusters = clusters_of(groups, best, films)
    has_success = run.metric.has_success
    return {
        "data": safe_json({"groups": groups, "films": films, "clusters": clusters, "has_success": has_success}),
        "winner": winner,
        "left_out": left_out,
        "has_ends": any(group["ends"] for group in groups),
    }
