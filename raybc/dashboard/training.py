"""The page of a training run: its scores and losses over steps, its checkpoints, and how it is continued."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raybc.config import changed_options
from raybc.dashboard.state import resume_command
from raybc.files import is_worked_on, read_json
from raybc.metric import Metric
from raybc.report.curves import loss_points
from raybc.report.text import show
from raybc.run_folder import TrainingFolder
from raybc.train.stored import SavedRun
from raybc.types import UserError

#: Checkpoints that the page names, the last ones.
CHECKPOINTS = 20


def members_of(path: Path) -> list[TrainingFolder]:
    """The members of a training run; itself if it has one seed."""
    pack = TrainingFolder(path).pack
    names = read_json(pack)["members"].values() if pack.is_file() else ()
    return [TrainingFolder(path / name) for name in names] or [TrainingFolder(path)]


def state_of(path: Path) -> str:
    """failed, ended, running or stopped."""
    members = members_of(path)
    if any(member.failure.is_file() for member in members):
        return "failed"
    if members[0].flags.is_file() and all(member.final_model.exists() for member in members):
        return "ended"
    return "running" if is_worked_on(path) else "stopped"


def training(path: Path) -> dict[str, Any]:
    """What the page shows. Raises `UserError` for damaged files."""
    members = members_of(path)
    flags = [read_json(member.flags) if member.flags.is_file() else {} for member in members]
    state = state_of(path)
    metric = members[0].scores()[0]
    names = [str(one.get("seed", i)) for i, one in enumerate(flags)]
    rows = [row for name, member in zip(names, members, strict=True) for row in _evaluations(member, name)]
    losses = {
        name: loss_points(member.train_csv)
        for name, member in zip(names, members, strict=True)
        if member.train_csv.is_file()
    }
    last = max((points[-1][0] for points in losses.values() if points), default=0)
    return {
        "state": state,
        "resume": resume_command("train", path) if state == "stopped" else "",
        "task": str(flags[0].get("env_name", "")),
        "metric": metric.to_plain(),
        "seeds": names,
        "step": last,
        "steps": _steps(flags[0]),
        "options": _options(members[0].path),
        "curve": _curve(rows, metric),
        "rows": rows,
        "losses": losses,
        "checkpoints": [_checkpoints(member, name) for name, member in zip(names, members, strict=True)],
        "failure": next((_failure(member) for member in members if member.failure.is_file()), ""),
    }


def _steps(flags: Mapping[str, Any]) -> int:
    """Gradient steps of the whole run, with those of an online part."""
    steps = float(flags.get("online_steps") or 0) - float(flags.get("learning_starts") or 0)
    online = max(0.0, steps) * float(flags.get("utd") or 1)
    return int(flags.get("training_steps") or 0) + int(online + 1e-9)


def _options(path: Path) -> list[str]:
    """The options that are not the default, `name = value`."""
    try:
        changed = changed_options(SavedRun.read(path).config)
    except UserError:  # of another release: the rest of the page is still useful
        return []
    return [f"{name} = {show(value)}" for name, value in changed.items() if name not in ("seed", "env_name")]


def _evaluations(member: TrainingFolder, seed: str) -> list[dict[str, Any]]:
    """A row for each evaluation of a member, in the order of the steps; those of another metric are left out."""
    _, scores = member.scores()
    about: dict[int, Mapping[str, str]] = {}
    if member.eval_csv.is_file() and not member.offline_csv.is_file():
        with member.eval_csv.open(newline="", encoding="utf-8") as file:
            about = {int(row["step"]): row for row in csv.DictReader(file)}
    return [
        {
            "seed": seed,
            "step": step,
            "rate": score,
            "interval": _interval(about.get(step, {})),
            "episodes": int(about.get(step, {}).get("episodes") or 0),
            "errors": int(about.get(step, {}).get("errors") or 0),
            "phase": "search",
            "chosen": True,
        }
        for step, score in sorted(scores.items())
    ]


def _interval(row: Mapping[str, str]) -> list[float] | None:
    """Wilson's, of a rate over one task."""
    if row.get("metric") not in (None, "", "success"):
        return None
    ends = [row.get(name) for name in ("wilson_low", "wilson_high")]
    return [float(end) for end in ends if end] if all(ends) else None


def _curve(rows: Sequence[Mapping[str, Any]], metric: Metric) -> list[list[Any]]:
    """[step, mean over seeds, lowest and highest seed, 95 % interval (of one seed; null: none), episodes]."""
    steps: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        steps.setdefault(row["step"], []).append(row)
    found: list[list[Any]] = []
    for step, here in sorted(steps.items()):
        values = [row["rate"] for row in here]
        interval = here[0]["interval"] if len(here) == 1 and metric.is_rate else None
        ends = interval or [None, None]
        found.append(
            [step, sum(values) / len(values), min(values), max(values), *ends, sum(row["episodes"] for row in here)]
        )
    return found


def _checkpoints(member: TrainingFolder, seed: str) -> dict[str, Any]:
    steps = sorted(member.checkpoints())
    return {"seed": seed, "steps": steps[-CHECKPOINTS:], "of": len(steps), "best": member.best_step()}


def _failure(member: TrainingFolder) -> str:
    found = read_json(member.failure)
    return str(found.get("message") or found.get("reason") or found)
