"""Everything about one trial: each evaluation with its interval and command, losses, videos."""

from __future__ import annotations

from typing import Any

from raybc.dashboard.starts import shown
from raybc.dashboard.view import RunView
from raybc.metric import score_of
from raybc.report.commands import rollout_command, train_command
from raybc.report.curves import loss_points
from raybc.rows import setting_of, video_setting

#: Episodes that the command for more videos films.
VIDEOS = 6
#: Fields of a result row that the page shows as they are.
SHOWN = (
    "phase", "evaluation", "seed", "step", "episodes", "successes", "timeouts", "failures", "errors", "run_id",
    "mean_steps_success",
)  # fmt: skip


def detail(view: RunView, number: int) -> dict[str, Any] | None:
    """What the page shows about a trial; None if there is no such trial. Reads the logs of its members."""
    with view.lock:
        trial = view.state.trials.get(number)
        if trial is None:
            return None
        config, setting = view.config, view.setting(number)
        facts = view.file("progress") or view.file("timing")
        rows = view.rows(number)
        videos = [v | {"setting": video_setting(v).label()} for v in view.films if v["trial"] == number]
        episodes = shown(view, rows, clusters=lambda row: row["phase"] == "final" and setting_of(row) == setting)
        summary = view.trials[number]
    train, note = train_command(config, trial.params, facts) if config else ("", "")
    measured = []
    for place, row in enumerate(rows):
        score = score_of([row], view.state.metric)
        measured.append(
            {name: value for name, value in row.items() if name in SHOWN}
            | {"setting": setting_of(row).label(), "chosen": setting_of(row) == setting}
            | {"place": place, "rate": score.value, "interval": score.interval and list(score.interval)}
            | {"command": rollout_command(config, view.folder, row, trial.params) if config else ""}
        )
    chosen = [row for row in rows if setting_of(row) == setting]
    film = rollout_command(config, view.folder, chosen[-1], trial.params, videos=VIDEOS) if config and chosen else ""
    losses = {seed: loss_points(path) for seed, path in view.folder.member_logs(number).items()}
    return {
        "trial": summary,
        "rows": measured,
        "videos": videos,
        "losses": losses,
        "train_command": train,
        "note": note,
        "film_command": film,
        "episodes": episodes,
    }
