"""Everything about one trial: each measurement with its interval and command, losses, videos."""

from __future__ import annotations

from typing import Any

from raybc.dashboard.view import RunView
from raybc.report.commands import rollout_command, train_command
from raybc.report.curves import loss_points
from raybc.rollout.results import setting_of
from raybc.statistics import wilson_interval
from raybc.sweep.folders import member_logs

#: Filmed by the command that is offered.
VIDEOS = 6


def detail(view: RunView, number: int) -> dict[str, Any] | None:
    """What the page shows of a trial; None: there is no such trial. Reads the logs of its members."""
    with view.lock:
        trial = view.state.trials.get(number)
        if trial is None:
            return None
        config, setting = view.config, view.setting(number)
        facts = view.file("progress") or view.file("timing")
        rows = [row for evaluation in trial.evaluations for row in evaluation.rows] + trial.final_rows
        videos = [video for video in view.file("videos") if video["trial"] == number]
        summary = view.trials[number]
        timing = [e.timing for e in trial.evaluations]
    train, note = train_command(config, trial.params, facts) if config else ("", "")
    measured = []
    for row in rows:
        low, high = wilson_interval(row["successes"], row["episodes"])
        kept = ("phase", "evaluation", "seed", "step", "episodes", "successes", "timeouts", "failures", "errors")
        measured.append(
            {k: row[k] for k in (*kept, "run_id", "mean_steps_success")}
            | {"setting": setting_of(row).label(), "chosen": setting_of(row) == setting}
            | {"rate": row["success_rate"], "interval": [low, high], "episode_list": row["episode_list"]}
            | {"command": rollout_command(config, view.path, row) if config else ""}
        )
    chosen = [row for row in rows if setting_of(row) == setting]
    film = rollout_command(config, view.path, chosen[-1], videos=VIDEOS) if config and chosen else ""
    losses = {seed: loss_points(path) for seed, path in member_logs(view.path, number).items()}
    return {
        "trial": summary,
        "rows": measured,
        "videos": videos,
        "losses": losses,
        "train_command": train,
        "note": note,
        "film_command": film,
        "saved": round(sum(t.get("alone_seconds", 0.0) - t.get("train_seconds", 0.0) for t in timing), 1),
    }
