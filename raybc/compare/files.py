"""Finished measurements: episodes.jsonl, the folder that `raybc rollout` wrote, LeRobot's eval_info.json, CSV.

Every reader returns rows with the keys of `raybc.rows.EpisodeRow` that the file knows, and a name for each start.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raybc.compare.tasks import limits_text, name_of, physics_of, start_name
from raybc.files import read_json, read_text
from raybc.rollout.folder import EvaluationFolder
from raybc.rows import setting_of
from raybc.types import SPLIT_BASE, SPLIT_SIZE, SampleSetting, UserError

#: Columns of a CSV, by their other names.
_ARM, _TASK, _START, _SUCCESS = ("arm", "policy"), ("task",), ("start", "seed", "index"), ("success", "outcome")
_TRUE, _FALSE = (
    frozenset({"1", "1.0", "true", "yes", "success"}),
    frozenset({"0", "0.0", "false", "no", "failure", "timeout"}),
)
_ERROR = frozenset({"", "error", "nan", "none"})


@dataclass(frozen=True)
class Finished:
    """One arm of a finished measurement."""

    name: str
    """What the file calls it; "" where it does not."""
    rows: dict[str, dict[str, Any]]
    """Start (`raybc.compare.tasks.start_name`) -> `outcome`, `return`, `max_reward`, `task` where the file names one;
    in the order of the file."""
    known_starts: bool
    """Whether the names of the starts are the file's; otherwise they are positions, and two files may mean different
    starts by them."""
    conditions: dict[str, str] = field(default_factory=dict)
    """What the file tells of task, max_steps, physics and starts."""
    continuous: bool = False
    """Whether it has only a score, no success."""
    folder: Path | None = None
    """Where the videos that its rows name are."""
    tasks: tuple[str, ...] = ()
    """The tasks that the file names, in its order."""


def is_finished(path: Path) -> bool:
    """Whether the path is a finished measurement and not a policy."""
    return path.suffix in (".jsonl", ".json", ".csv") or (
        EvaluationFolder(path).episodes.is_file() and (EvaluationFolder(path).request.is_file())
    )


def read_finished(path: Path, setting: Mapping[str, Any] | None = None) -> list[Finished]:
    """The arms of a finished measurement. setting: fields of the sample setting to take, where there are several.

    Raises `UserError` that names the file and the line.
    """
    if path.is_dir():
        return [_folder(EvaluationFolder(path), setting or {})]
    if path.suffix == ".jsonl":
        request = EvaluationFolder(path.parent)
        if path.name == request.episodes.name and request.request.is_file():
            return [_folder(request, setting or {})]
        return [_of_lines(path, setting or {})]
    if setting:
        raise UserError(f"{path}: a file of this kind has no sample settings; got {', '.join(setting)}")
    return _csv(path) if path.suffix == ".csv" else [_lerobot(path)]


# --- raybc ------------------------------------------------------------------------------------------------------------


def _folder(folder: EvaluationFolder, setting: Mapping[str, Any]) -> Finished:
    found = _of_lines(folder.episodes, setting)
    request = read_json(folder.request)
    conditions: dict[str, str] = {}
    tasks = found.tasks or ((str(request["task"]),) if request.get("task") else ())
    if folder.metrics.is_file():
        metrics = read_json(folder.metrics)
        limits = {name: one["max_steps"] for name, one in (metrics.get("tasks") or {}).items()}
        conditions |= {"max_steps": str(metrics["max_steps"])} if "max_steps" in metrics else {}
        conditions |= {"max_steps": limits_text(limits)} if limits else {}
        conditions |= {f"physics: {n}": v for n, v in physics_of(metrics.get("environment") or {}, len(tasks)).items()}
    return replace(found, conditions=found.conditions | conditions, folder=folder.path / "videos", tasks=tasks)


def _of_lines(path: Path, setting: Mapping[str, Any]) -> Finished:
    rows: dict[str, dict[str, Any]] = {}
    settings: dict[SampleSetting, int] = {}
    splits, tasks = set(), dict[str, None]()
    for number, line in enumerate(read_text(path, "the episodes of a measurement", "JSON Lines").splitlines(), 1):
        where = f"{path}: line {number}"
        try:
            row = json.loads(line)
            at = setting_of(row) if "flow_steps" in row else SampleSetting()
            seed, outcome = int(row["seed"]), row["outcome"]
            kept = {"outcome": outcome, "return": float(row["return"]), "max_reward": row.get("max_reward")}
            task = name_of(str(row["task"])) if "task" in row else ""
        except (ValueError, KeyError, TypeError) as error:
            what = f"the key {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{where}: expected an episode as `raybc rollout` writes it, which lacks {what}") from None
        if any(getattr(at, name) != value for name, value in setting.items()):
            continue
        settings[at] = number
        if len(settings) > 1:
            labels = " and ".join(sorted(s.label() for s in settings))
            raise UserError(
                f"{where}: expected one sample setting, got {labels}; choose one, as in {path}:flow_steps=1"
            )
        kept |= {name: row[name] for name in ("steps", "video", "message", "final_obs") if name in row}
        kept |= {"task": task} if task else {}
        splits.add(_split_of(seed))
        tasks[task] = None
        if len(tasks) > 1 and "" in tasks:
            raise UserError(f"{where}: expected a task on every line or on none, got {task or 'no task'!r} here")
        _add(rows, start_name(seed, task), kept, where)
    if not rows:
        raise UserError(f"{path}: expected episodes{' at ' + _plain(setting) if setting else ''}, found none")
    known = tuple(name for name in tasks if name)
    return Finished("", rows, True, {"starts": " and ".join(sorted(splits))}, tasks=known)


def _plain(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in setting.items())


def _split_of(seed: int) -> str:
    """The set that a seed belongs to."""
    return next((s for s, base in SPLIT_BASE.items() if base <= seed < base + SPLIT_SIZE), "other")


def _add(rows: dict[str, dict[str, Any]], start: str, row: dict[str, Any], where: str) -> None:
    if start in rows:
        raise UserError(f"{where}: expected one row for each start, got start {start} again")
    rows[start] = row


# --- of others --------------------------------------------------------------------------------------------------------


def _lerobot(path: Path) -> Finished:
    """eval_info.json of lerobot-eval: with `per_episode` (and seeds) up to 0.3, with `per_task` (without) after it."""
    info = read_json(path)
    rows: dict[str, dict[str, Any]] = {}
    if isinstance(info, dict) and isinstance(info.get("per_episode"), list):
        has_seeds = all(isinstance(e, dict) and e.get("seed") is not None for e in info["per_episode"])
        for number, episode in enumerate(info["per_episode"]):
            where = f"{path}: per_episode[{number}]"
            start = str(episode["seed"]) if has_seeds else str(number)
            _add(rows, start, _lerobot_row(episode, "success", "sum_reward", "max_reward", where), where)
        return _checked(path, Finished("", rows, has_seeds))
    if isinstance(info, dict) and isinstance(info.get("per_task"), list):
        for task in info["per_task"]:
            where = f"{path}: per_task of {task.get('task_group')} {task.get('task_id')}"
            metrics = task.get("metrics") or {}
            lists = {name: metrics.get(name) or [] for name in ("successes", "sum_rewards", "max_rewards")}
            n = len(lists["successes"])
            if not n or any(len(values) not in (0, n) for values in lists.values()):
                raise UserError(
                    f"{where}: expected lists of one length, got { ({k: len(v) for k, v in lists.items()}) }"
                )
            for number in range(n):
                episode = {name: values[number] for name, values in lists.items() if values}
                about = {"task": f"{task.get('task_group')} {task.get('task_id')}"}
                row = about | _lerobot_row(episode, "successes", "sum_rewards", "max_rewards", where)
                _add(rows, start_name(number, about["task"]), row, where)
        tasks = tuple(dict.fromkeys(row["task"] for row in rows.values()))
        return _checked(path, Finished("", rows, False, tasks=tasks))
    raise UserError(f"{path}: expected LeRobot's eval_info.json, with per_episode or per_task, got another JSON file")


def _lerobot_row(episode: Any, success: str, total: str, largest: str, where: str) -> dict[str, Any]:
    try:
        outcome = "success" if bool(episode[success]) else "failure"
        value = episode.get(total)
        return {
            "outcome": outcome,
            "return": math.nan if value is None else float(value),
            "max_reward": episode.get(largest),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: expected an episode with {success!r}, got {episode!r:.80} ({error})") from None


def _checked(path: Path, found: Finished) -> Finished:
    if not found.rows:
        raise UserError(f"{path}: expected episodes, found none")
    return found


def _csv(path: Path) -> list[Finished]:
    text = read_text(path, "a table of outcomes", "CSV")
    reader = csv.DictReader(text.removeprefix("\ufeff").splitlines())  # spreadsheets write this mark
    columns = [name.strip().lower() for name in reader.fieldnames or []]
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: expected different columns, got {twice!r} twice")
    reader.fieldnames = columns
    arm, task, start, success = (_first(columns, names) for names in (_ARM, _TASK, _START, _SUCCESS))
    score = "score" if "score" in columns and success is None else None
    if success is None and score is None:
        raise UserError(f"{path}: expected a column success or score, got {', '.join(columns) or 'no header'}")
    arms: dict[str, dict[str, dict[str, Any]]] = {}
    for number, row in enumerate(reader, 2):
        where = f"{path}: line {number}"
        if None in row or None in row.values():
            raise UserError(f"{where}: expected {len(columns)} values, got {len([v for v in row.values() if v])}")
        name = row[arm].strip() if arm else ""
        mine = arms.setdefault(name, {})
        place = row[start].strip() if start else str(len(mine))
        of_task = row[task].strip() if task else ""
        for column, value in ((start, place), (task, of_task)):
            if column and not value:
                raise UserError(f"{where}: expected a {column}, got none")
        about = {"task": of_task} if task else {}
        found = _csv_row(row, success, score, where) | about
        _add(mine, start_name(place, of_task), found, f"{where}{' (arm ' + name + ')' if name else ''}")
    if not arms:
        raise UserError(f"{path}: expected rows below the header, found none")
    return [
        Finished(
            name, rows, start is not None, continuous=score is not None,
            tasks=tuple(dict.fromkeys(row["task"] for row in rows.values())) if task else (),
        )
        for name, rows in arms.items()
    ]  # fmt: skip


def _csv_row(row: Mapping[str, str], success: str | None, score: str | None, where: str) -> dict[str, Any]:
    text = row[success or score or ""].strip().lower()
    if text in _ERROR:
        return {"outcome": "error", "return": math.nan, "max_reward": None}
    if success is not None:
        if text not in _TRUE | _FALSE:
            raise UserError(f"{where}: {success}: expected 0 or 1 (or error), got {text!r}")
        return {"outcome": "success" if text in _TRUE else "failure", "return": math.nan, "max_reward": None}
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{where}: score: expected a number, got {text!r}") from None
    if not math.isfinite(value):
        raise UserError(f"{where}: score: expected a finite number, got {text!r}")
    return {"outcome": "failure", "return": value, "max_reward": None}


def _first(columns: Iterable[str], names: tuple[str, ...]) -> str | None:
    known = set(columns)
    return next((name for name in names if name in known), None)
