"""Several sweeps side by side: a row for each, where they differ, and how fast each found its best recipe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from raybc.dashboard.common import on_common_starts
from raybc.dashboard.state import resume_command, state_of
from raybc.dashboard.view import RunView
from raybc.report.commands import near_path
from raybc.report.timeline import best_so_far
from raybc.sweep.ledger import TrialState
from raybc.types import UserError

#: Options of sweeps that differ, at most.
OPTIONS = 60
#: Parts of a configuration that say nothing about the search.
_LEFT_OUT = ("name", "resources.", "final.videos")


def overview(views: Sequence[RunView], keys: Sequence[str] = ()) -> dict[str, Any]:
    """What the page of several sweeps shows. A sweep whose files are damaged has an `error` and nothing else new.

    keys: the names of the sweeps in addresses (default: their numbers).
    """
    runs = [sweep_row(view) for view in views]
    for row, name, key in zip(runs, _names(views), keys or map(str, range(len(views))), strict=True):
        row |= {"name": name, "href": f"runs/{quote(key, safe='')}/"}
    recipes = [run.get("best", {}).get("params", {}) for run in runs if run.get("best")]
    return {
        "now": time.time(),
        "runs": runs,
        "axes": differing(recipes),
        "options": _options(views),
        "one_metric": len({run["metric"]["name"] for run in runs if "metric" in run}) <= 1,
        "common": on_common_starts(views, [run["name"] for run in runs]),
    }


def differing(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all mappings, in the order in which they come."""
    keys = dict.fromkeys(key for one in values for key in one)
    absent = object()
    return [key for key in keys if any(one.get(key, absent) != values[0].get(key, absent) for one in values[1:])]


def _names(views: Sequence[RunView]) -> list[str]:
    """The names of the sweeps, where they are different, else their folders."""
    names = [view.config.name if view.config else view.folder.path.name for view in views]
    folders = [view.folder.path.name for view in views]
    for found in (names, folders):
        if len(set(found)) == len(found):
            return found
    return [near_path(view.folder.path) for view in views]


def sweep_row(view: RunView) -> dict[str, Any]:
    """A sweep in a row, as its files are now; of damaged ones an `error`."""
    about = {"path": near_path(view.folder.path)}
    try:
        view.refresh()
        with view.lock:
            return about | _known(view)
    except UserError as error:
        return about | {"error": str(error)}


def _known(view: RunView) -> dict[str, Any]:
    config, state = view.config, view.state
    progress, timing = view.file("progress"), view.file("timing")
    trials = list(state.trials.values())
    now = state_of(view.folder, state, timing)
    return {
        "task": config.train.env_name if config else "",
        "metric": state.metric.to_plain(),
        "state": now,
        "live": now in ("starting", "running"),
        "resume": resume_command("sweep", view.folder.path) if now == "stopped" else "",
        "asked": config.search.trials if config else 0,
        "trials": len(trials),
        "counts": {status: sum(t.status == status for t in trials) for status in ("completed", "pruned", "failed")},
        "hours": _hours(view),
        "core_hours": _core_hours(trials, int(progress.get("threads", timing.get("threads", 1)) or 1)),
        "best": _best(view),
        "curve": best_so_far(trials, state.metric),
    }


def _hours(view: RunView) -> float | None:
    """From the first training to the end of the last measurement."""
    rate = view.overview.get("rate") or {}
    return (rate["last"] - rate["start"]) / 3600 if rate.get("start") else None


def _best(view: RunView) -> dict[str, Any] | None:
    """The winner, or the leader of the search: its score on final starts, else on search starts."""
    number = view.best_trial()
    if number is None:
        return None
    trial = view.trials[number]
    final = trial["final"]
    return {
        "trial": number,
        "on": "final" if final else "search",
        "score": final["rate"] if final else trial["score"],
        "interval": final["interval"] if final else trial["interval"],
        "params": trial["params"],
        "setting": trial["setting"],
    }


def _core_hours(trials: Sequence[TrialState], threads: int) -> float:
    """Core time of training (the trials' shares, times the threads of one) and of episodes."""
    evaluations = [evaluation for trial in trials for evaluation in trial.evaluations]
    train = sum(evaluation.timing.get("train_seconds", 0.0) for evaluation in evaluations)
    rows = [row for evaluation in evaluations for row in evaluation.rows]
    rows += [row for trial in trials for row in trial.final_rows]
    return (threads * train + sum(row.get("eval_seconds", 0.0) for row in rows)) / 3600


def _options(views: Sequence[RunView]) -> list[dict[str, Any]]:
    """What differs between the configurations of the sweeps: {"name", "values": one for each sweep (None: absent)}."""
    flat = [_flat(view.file("config")) for view in views]
    names = [name for name in differing(flat) if not name.startswith(_LEFT_OUT)]
    return [{"name": name, "values": [one.get(name) for one in flat]} for name in names[:OPTIONS]]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        # An axis is one thing, whatever it is made of.
        if isinstance(value, Mapping) and value and prefix != "space.":
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
