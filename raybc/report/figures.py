"""What the figures of a sweep show. They are drawn by the modules of the dashboard, for the report from data made here.

`run` and `trials` are as the dashboard's server sends them, as far as figures read them (`raybc.dashboard.view`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from raybc.metric import score_of
from raybc.report.curves import loss_points
from raybc.report.points import by_setting, curve_point
from raybc.report.read import RunTables
from raybc.report.sampling import Sampling, is_plain
from raybc.report.tables import LeaderboardRow
from raybc.report.text import show
from raybc.report.timeline import best_so_far, timeline
from raybc.rows import ResultRow, rows_at

#: Maximum number of trials whose losses are drawn, the first of the leaderboard.
LOSS_TRIALS = 60
#: What costs with other solvers or several axes are called.
EVALUATIONS = "evaluations of the network"


def figure_data(run: RunTables, rows: list[LeaderboardRow]) -> dict[str, Any]:
    """The data of the figures of the report. rows: its leaderboard, all trials."""
    search: dict[int, list[ResultRow]] = {}
    for result in run.results:
        if result["phase"] == "search":
            search.setdefault(result["trial"], []).append(result)
    winner = next((row for row in rows if row.is_winner), None)
    importance = _importance(run)
    return {
        "run": {
            "name": run.name,
            "metric": run.metric.to_plain() | {"has_success": run.metric.has_success},
            "seeds": run.config.get("seeds") or [],
            "axes": run.axes,
            "space": _space(run.config.get("space") or {}),
            "winner": winner.trial if winner else None,
            "leader": None,
        },
        "trials": [_trial(run, row, search.get(row.trial, [])) for row in rows],
        "losses": {row.trial: points for row in rows[:LOSS_TRIALS] if (points := _losses(run, row.trial))},
        "costs": _costs(winner),
        "importance": importance,
        "pair": _pair(run, rows, importance),
        "best": best_so_far(list(run.state.trials.values()), run.metric),
        "timeline": timeline(run.folder, run.state),
    }


def _trial(run: RunTables, row: LeaderboardRow, results: list[ResultRow]) -> dict[str, Any]:
    metric = run.metric
    steps: dict[int, list[ResultRow]] = {}
    for result in rows_at(results, row.setting) if row.setting else []:
        if score_of([result], metric).value is not None:
            steps.setdefault(result["step"], []).append(result)
    last = max((result["evaluation"] for result in results), default=0)
    return {
        "n": row.trial,
        "status": row.status,
        "score": row.score,
        "setting": row.setting.label() if row.setting else "",
        "params": row.params,
        "curve": [[step, *curve_point(here, metric)] for step, here in sorted(steps.items())],
        "by_setting": by_setting([result for result in results if result["evaluation"] == last], metric),
        "final": {"rate": row.final.value, "interval": row.final.interval} if row.final else None,
    }


def _importance(run: RunTables) -> dict[str, Any]:
    """How much each axis matters, as in the dashboard; without "axes" where that is not known."""
    if run.sweep is None or not run.state.trials:
        return {}
    from raybc.dashboard.importance import importances  # Optuna: a second that other commands need not wait

    return importances(run.sweep, run.state)


def _pair(run: RunTables, rows: list[LeaderboardRow], importance: Mapping[str, Any]) -> list[str]:
    """The two axes that are shown together first: those that matter most, else the first ones that differ."""
    measured = [row for row in rows if row.score is not None]
    differing = [axis for axis in run.axes if len({show(row.params.get(axis)) for row in measured}) > 1]
    order = [axis for axis in importance.get("axes", {}) if axis in differing]
    pair = list(dict.fromkeys([*order, *differing]))[:2]
    return pair if len(pair) == 2 else []


def _losses(run: RunTables, trial: int) -> list[tuple[int, float]]:
    """(step, training loss), mean over seeds, from the members' own logs."""
    seeds: dict[int, list[float]] = {}
    for path in run.folder.member_logs(trial).values():
        for step, loss in loss_points(path):
            seeds.setdefault(step, []).append(loss)
    return [(step, float(f"{sum(losses) / len(losses):.5g}")) for step, losses in sorted(seeds.items())]


def _space(space: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Axes as {"values"} or {"low", "high", "log"}, of all versions of the configuration."""
    found = {}
    for axis, spec in space.items():
        if isinstance(spec, Mapping):
            values = spec.get("values", spec.get("choices"))
            found[axis] = dict(spec) if values is None else {"values": values}
        else:
            found[axis] = {"values": spec if isinstance(spec, list) else [spec]}
    return found


def _costs(winner: LeaderboardRow | None) -> dict[str, Any]:
    """The winner on final starts at every measured solver, flow_steps and best_of_n."""
    if winner is None:
        return {"title": "", "bars": []}
    title = _cost_title(winner.per_sampling)
    bars = [
        {
            "name": _cost_name(at, title),
            "flow_steps": at.flow_steps,
            "solver": at.solver,
            "best_of_n": at.best_of_n,
            "episodes": score.episodes,
            "value": score.value,
            "interval": score.interval,
            "chosen": at == winner.sampling,
        }
        for at, score in winner.per_sampling.items()
    ]
    return {"title": title, "bars": bars}


def _cost_title(samplings: Collection[Sampling]) -> str:
    """What the costs of a chunk are called: the only thing in which they differ, or what all of them come down to."""
    if is_plain(samplings):
        return "flow_steps"
    others = {(at.flow_steps, at.solver) for at in samplings}
    return "best_of_n" if len(others) == 1 and len(samplings) > 1 else EVALUATIONS


def _cost_name(at: Sampling, title: str) -> str:
    """`4`, `4 (2 x heun)`, or `16 (best of 4 x 2 x heun)`."""
    if title != EVALUATIONS or not at.flow_steps:
        return str(at.best_of_n if title == "best_of_n" else at.evaluations)
    best = f"best of {at.best_of_n} x " if at.best_of_n > 1 else ""
    return f"{at.evaluations} ({best}{at.flow_steps} x {at.solver})"
