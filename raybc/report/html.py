"""Writes report.html: one self-contained page about a sweep, readable offline, in light and dark themes and on paper.

plotly.js is inlined once; nothing is loaded from the network, and a content security policy in the page enforces that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raybc.files import write_text
from raybc.metric import METRICS, Metric
from raybc.report import tables
from raybc.report.commands import train_command
from raybc.report.episodes import PHASES, outcomes, videos
from raybc.report.figures import LOSS_TRIALS, figure_data
from raybc.report.page import Figure, environment
from raybc.report.read import RunTables, load_run, totals
from raybc.report.sampling import head, is_plain
from raybc.report.shared import script
from raybc.report.starts import starts
from raybc.report.tables import LeaderboardRow
from raybc.report.text import duration
from raybc.report.training import epoch_figures
from raybc.rows import setting_of
from raybc.types import SPLIT_BASE

#: Trials from which on the figure of two axes has a surface, as in pairs.js.
ENOUGH = 12
#: Maximum number of trials in the table; all are in trials.csv.
ROWS = 200


def write_report(run_dir: Path | str) -> Path:
    """Write run_dir/report.html from the files on disk. A folder that is not a run is a UserError."""
    run = load_run(run_dir)
    text = environment().get_template("report.html.j2").render(_context(run))
    write_text(run.folder.report, text)
    return run.folder.report


def _notes(run: RunTables, rows: list[LeaderboardRow], errors: Mapping[str, int]) -> list[str]:
    """Caveats that a careful reader must know before quoting the numbers."""
    notes = []
    if sum(errors.values()):
        parts = " and ".join(f"{count} on {phase} starts" for phase, count in errors.items() if count)
        first = next((row["first_error"] for row in run.results if "first_error" in row), None)
        message = f" The first, at start {first['index']}: {first['message']}" if first else ""
        notes.append(f"Simulator errors: {parts}. They are reported separately and do not enter any average.{message}")
    if truncated := sum(row.get("truncated", 0) for row in run.results):
        notes.append(f"The simulator truncated {truncated} episodes before the step limit.")
    if solved := sum(row.get("solved_at_reset", 0) for row in run.results):
        notes.append(f"{solved} episodes were on starts that were solved before the first step.")
    winner = next((row for row in rows if row.is_winner), None)
    asked = (run.config.get("final") or {}).get("episodes")
    if not run.metric.from_episodes:
        notes.append(tables.NO_RATE)
    for seed, score in (winner.final_per_seed if winner else {}).items():
        wanted = asked and asked * max(1, len(score.tasks))
        if wanted and run.metric.from_episodes and score.episodes != wanted:
            notes.append(f"Winner, seed {seed}: {wanted} final starts were asked for, {score.episodes} gave a result.")
    seeds = run.config.get("seeds") or []
    if winner and winner.final and len(winner.final_per_seed) < len(seeds):
        notes.append(f"Winner: {len(winner.final_per_seed)} of {len(seeds)} seeds were measured on final starts.")
    if unfinished := sum(row.status in ("running", "waiting") for row in rows):
        notes.append(f"The sweep is not over: {unfinished} of {len(rows)} trials are running or waiting.")
    return notes


def _cost(timing: Mapping[str, Any]) -> dict[str, str]:
    """The resources that the sweep used, as far as the run folder records them."""
    wall, cost = timing.get("wall_seconds"), {}
    for key, name in (("cpus", "Core"), ("gpus", "GPU")):
        count = timing.get(key)
        if wall is not None and count is not None:
            hours = wall * count / 3600
            held = f"{count:g} {name if name == 'GPU' else 'core'}{'s' * (count != 1)} for {duration(wall)}"
            cost[f"{name} hours held"] = f"{hours:.3g} h ({held})" if count else "none"
    if timing.get("train_seconds") is not None:
        threads = timing.get("threads")
        cost["Training"] = duration(timing["train_seconds"]) + (
            f" at {threads} thread{'s' * (threads != 1)}" if threads else ""
        )
    busy = (timing.get("rollouts") or {}).get("busy_seconds")
    if busy is not None:
        cost["Simulator processes busy"] = f"{duration(busy)} ({timing.get('workers', '?')} processes)"
    return cost


def _train_command(run: RunTables, winner: LeaderboardRow | None) -> tuple[str, str]:
    """The command that trains the winner again, and a note about it; empty if it is not known."""
    if winner is None:
        return "", ""
    if run.sweep is None:  # written by another version: the rest of the page is still useful
        return "", ""
    return train_command(run.sweep, winner.params, run.timing)


def _epochs(run: RunTables) -> list[Figure]:
    """What the winner would do compared with the data, over epochs; [] where that was not measured."""
    winner = run.winner
    return epoch_figures(run.folder.member(winner["trial"], winner["seed"])) if winner else []


def _scale(rows: list[LeaderboardRow], metric: Metric) -> tuple[float, float]:
    """The ends of the bars: 0 to 100 % for a rate, otherwise what was measured on final starts."""
    if metric.is_rate:
        return 0.0, 1.0
    finals = [row.final for row in rows if row.final is not None]
    ends = [end for final in finals for end in (*(final.interval or ()), final.value or 0.0)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _context(run: RunTables) -> dict[str, Any]:
    rows = tables.leaderboard(run)
    shown = videos(run)
    winner = next((row for row in rows if row.is_winner), None)
    counts = {p: totals([r for r in run.results if r["phase"] == p], "episodes", "errors") for p in PHASES}
    errors = {phase: count["errors"] for phase, count in counts.items()}
    episodes = {phase: count["episodes"] for phase, count in counts.items()}
    costs = tables.costs(rows)
    plain = is_plain(cost.sampling for cost in costs)
    data = figure_data(run, rows)
    command, command_note = _train_command(run, winner)
    return {
        "run": run,
        "metric": run.metric,
        "interval_text": tables.interval_text(run.metric, len(tables.task_scores(rows))),
        "tasks": tables.task_scores(rows),
        "task_label": METRICS[run.metric.name].label,
        "scale": _scale(rows, run.metric),
        "rows": rows[:ROWS],
        "trials": len(rows),
        "outcomes": outcomes(run),
        "outcome_kinds": (("successes",) if run.metric.has_success else ()) + ("timeouts", "failures", "errors"),
        "reasons": Counter(row.reason or "no reason recorded" for row in rows if row.status == "failed").most_common(),
        "cost": _cost(run.timing),
        "command": command,
        "command_note": command_note,
        "starts": SPLIT_BASE,
        "settings": sorted({setting_of(row).label() for row in run.results}),
        "loss_trials": LOSS_TRIALS,
        "winner": winner,
        "winner_file": run.winner or {},
        "bundle": str(run.path / str((run.winner or {}).get("bundle") or "")) if run.winner else None,
        "quote": tables.winner_line(run, rows),
        "rule": tables.selection_rule(run),
        "counts": tables.status_counts(run),
        "notes": _notes(run, rows, errors),
        "errors": errors,
        "episodes": episodes,
        "samplings": sorted({at for row in rows for at in row.per_sampling}),
        "costs": costs,
        "cost_head": head(cost.sampling for cost in costs),
        "plain": plain,
        "failed": [row for row in rows if row.status == "failed"][:ROWS],
        "data": data,
        "numeric": [axis for axis in run.axes if all(_is_number(row.params.get(axis, 0)) for row in rows)],
        "enough": ENOUGH,
        "settings_differ": any(len(trial["by_setting"]) > 1 for trial in data["trials"]),
        "curves": any(trial["curve"] for trial in data["trials"]),
        "losses": bool(data["losses"]),
        "axes": [
            axis for axis in run.axes if any(t["score"] is not None and axis in t["params"] for t in data["trials"])
        ],
        "epochs": _epochs(run),
        "videos": shown,
        "final_starts": starts(run, rows, shown["items"]),
        "shared_script": script(),
        "search": _part(run.config, "search"),
        "prune": _part(run.config, "prune"),
        "evaluation": _part(run.config, "eval"),
        "final": _part(run.config, "final"),
        "demonstrations": _part(run.timing, "data"),
        "stages": _part(run.timing, "stages"),
        "config_text": yaml.safe_dump(run.config, sort_keys=False, width=100),
        "versions": list(_flat(run.versions)),
        "plotly": Markup(get_plotlyjs()),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _part(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return dict(value) if isinstance(value, Mapping) else {}
