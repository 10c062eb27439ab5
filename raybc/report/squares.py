"""Episodes for pages: who ended how on which start, films of them, last states, and clusters of what failed.

`raybc/report/shared/episodes.js` and `states.js` draw what is computed here, in the report and in the dashboard.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from raybc.compare.clusters import failure_clusters
from raybc.report.commands import film_command
from raybc.report.films import key_of
from raybc.rows import EndStates, EvaluationRow, VideoRow, entries_of, setting_of
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.types import SPLIT_BASE

#: Most dimensions of last states that a page offers, and most episodes of one page.
DIMENSIONS, EPISODES = 24, 20_000
#: Observations whose names say that they are positions.
_POSITION = re.compile(r"(^|_)(pos|xy|xpos|position)(\[|$)")
#: What stands for a start, its task and the place of the task in the command of a group.
START, TASK, PLACE = "START_INDEX", "TASK_NAME", "TASK_PLACE"


def final_rows(ledger: Path) -> dict[int, list[EvaluationRow]]:
    """Trial -> its rows on final starts, with their episodes, as the ledger has them. Damaged lines are left out."""
    found = {}
    for line in ledger.open(encoding="utf-8") if ledger.is_file() else ():
        if line.startswith('{"event":"final"'):
            try:
                event = json.loads(line)
            except ValueError:  # torn: it is being written
                continue
            found[event["trial"]] = event["rows"]
    return found


def group_of(
    row: EvaluationRow, *, name: str, config: SweepConfig | None, folder: SweepFolder, params: dict[str, Any],
    limit: int | None,
) -> dict[str, Any]:  # fmt: skip
    """The episodes of a result row, as the pages have them.

    Args:
        row: one member at one sample setting on one set of starts.
        name: what people call it.
        config: the sweep's; None: no command can be given.
        folder: the sweep's.
        params: train axes of the trial.
        limit: the step limit.
    """
    tasks = list(row.get("tasks", {}))
    command = film_command(config, folder, row, params, START, TASK if tasks else "", PLACE) if config else []
    return {
        "key": f"{row['trial']}-{row['seed']}",
        "name": name,
        "trial": row["trial"],
        "seed": row["seed"],
        "step": row["step"],
        "phase": row["phase"],
        "evaluation": row["evaluation"],
        "setting": setting_of(row).label(),
        "limit": limit,
        "base": SPLIT_BASE[row["phase"]],
        "tasks": tasks,
        "episodes": row["episode_list"],
        "messages": row.get("messages", {}),
        "command": shlex.join(command),
        "policy": f"trial {row['trial']}, seed {row['seed']}, after {row['step']:,} training steps",
        "why": "" if command else "Its policy was not kept (only those of the last two evaluations are).",
        "ends": _shown_ends(row),
    }


def _shown_ends(row: EvaluationRow) -> dict[str, Any] | None:
    """The last states of a row's episodes, in the dimensions that say most; None where none were recorded."""
    ends = row.get("end_states")
    if ends is None or not any(ends["values"]):
        return None
    solved = [entry[1] == "success" for entry in row["episode_list"]]
    return shown_ends(ends, solved)


def shown_ends(ends: EndStates, solved: Sequence[bool]) -> dict[str, Any]:
    """At most `DIMENSIONS` dimensions, and the two to begin with.

    These are the plane that the task names; else the first two numbers of an observation that is called a position;
    else the two in which solved and unsolved episodes differ most, in standard deviations. Constant ones come last.
    """
    names, rows = ends["names"], ends["values"]
    known = np.array([values for values in rows if values is not None], np.float64)
    good = np.array([s for s, values in zip(solved, rows, strict=True) if values is not None], bool)
    spread_D = known.std(axis=0)
    varies_D = spread_D > 1e-9 * (1 + np.abs(known).max(axis=0))
    apart_D = np.zeros(len(names))
    if good.any() and not good.all():
        apart_D = np.abs(known[good].mean(axis=0) - known[~good].mean(axis=0)) / np.where(varies_D, spread_D, 1.0)
    apart_D[~varies_D] = -1.0
    positions = [d for d, name in enumerate(names) if _POSITION.search(name) and varies_D[d]]
    plane = [names.index(name) for name in ends.get("plane", []) if name in names]
    order = [int(d) for d in np.argsort(-apart_D, kind="stable")]
    first = plane if len(plane) == 2 else _same_observation(names, positions) or order[:2]
    kept = sorted(list(dict.fromkeys([*first, *order]))[:DIMENSIONS])
    values = [None if one is None else [float(f"{one[d]:.5g}") for d in kept] for one in rows]
    axes = [names[d] for d in (first if len(first) == 2 else [*first, *first])]
    return {"names": [names[d] for d in kept], "values": values, "axes": axes}


def _same_observation(names: Sequence[str], dimensions: Sequence[int]) -> list[int]:
    """The first two of these dimensions that are of one observation; [] if there are none."""
    for d, e in itertools.pairwise(dimensions):
        if names[d].partition("[")[0] == names[e].partition("[")[0]:
            return [d, e]
    return []


def add_films(groups: Sequence[dict[str, Any]], videos: Sequence[VideoRow]) -> list[dict[str, Any]]:
    """The films of episodes in groups: their group and place in it, and number among `videos`."""
    found = []
    places: dict[tuple[Any, ...], tuple[int, int]] = {}
    for g, group in enumerate(groups):
        for place, entry in enumerate(group["episodes"]):
            task = group["tasks"][place % len(group["tasks"])] if group["tasks"] else ""
            places[group["trial"], group["seed"], group["phase"], entry[0], group["setting"], task] = g, place
    for number, video in enumerate(videos):
        if "flow_steps" not in video:
            continue
        *named, setting, task = key_of(video)
        at = places.get((*named, setting.label(), task))
        if at is None or video.get("step", groups[at[0]]["step"]) != groups[at[0]]["step"]:
            continue
        film = {"group": at[0], "place": at[1], "outcome": video["outcome"], "steps": video["steps"], "number": number}
        found.append(film)
    return found


def clusters_of(
    groups: Sequence[Mapping[str, Any]], rows: Sequence[EvaluationRow], filmed: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Clusters of the unsolved episodes of these groups (of one policy), the largest first; [] without last states.

    rows: of the groups, in their order. filmed: `add_films`.
    """
    parts: dict[str, dict[str, dict[str, Any]]] = {}
    for g, row in enumerate(rows):
        ends = row.get("end_states")
        if ends is None:
            continue
        part = parts.setdefault(str(g), {})
        for place, (entry, task) in enumerate(entries_of(row)):
            episode = {"outcome": entry[1], "steps": entry[2], "task": task}
            values = ends["values"][place]
            if values is not None:
                episode["final_obs"] = _nested(ends["names"], values)
            part[str(place)] = episode
    shown = [(str(film["group"]), str(film["place"])) for film in filmed]
    found = []
    for cluster in failure_clusters(parts, shown):
        group, place = map(int, cluster.example)
        found.append(
            {
                "group": group,
                "place": place,
                "size": cluster.size,
                "median": cluster.median_steps,
                "outcomes": cluster.outcomes,
                "differs": [asdict(one) for one in cluster.differs],
                "task": cluster.task,
            }
        )
    return found


def _nested(names: Sequence[str], values: Sequence[float]) -> dict[str, list[float]]:
    """Observation -> its numbers, from names such as `state[1]`."""
    found: dict[str, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        found.setdefault(name.partition("[")[0], []).append(value)
    return found
