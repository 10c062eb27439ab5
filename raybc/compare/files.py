"""Finished measurements: episodes.jsonl, the folder that `raybc rollout` wrote, LeRobot's eval_info.json, CSV.

Every reader returns rows with the keys of `raybc.rows.EpisodeRow` that the file knows, and a name for each start.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raybc.files import read_json, read_text
from raybc.rows import setting_of
from raybc.run_folder import EvaluationFolder
from raybc.types import SPLIT_BASE, SPLIT_SIZE, SampleSetting, UserError

#: Columns of a CSV, by their other names.
_ARM, _START, _SUCCESS = ("arm", "policy"), ("start", "seed", "index"), ("success", "outcome")
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
    """Start -> `outcome`, `return`, `max_reward`, in the order of the file."""
    known_starts: bool
    """Whether the names of the starts are the file's; otherwise they are positions, and two files may mean different
    starts by them."""
    conditions: dict[str, str] = field(default_factory=dict)
    """What the file tells of task, max_steps, physics and starts."""
    continuous: bool = False
    """Whether it has only a score, no success."""
    folder: Path | None = None
    """Where the videos that its rows name are."""


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
    conditions = {"task": str(request.get("task", ""))} if request.get("task") else {}
    if folder.metrics.is_file():
        metrics = read_json(folder.metrics)
        conditions |= {"max_steps": str(metrics["max_steps"])} if "max_steps" in metrics else {}
        conditions |= {f"physics: {name}": str(v) for name, v in (metrics.get("environment") or {}).items()}
    return Finished(found.name, found.rows, True, found.conditions | conditions, folder=folder.path / "videos")


def _of_lines(path: Path, setting: Mapping[str, Any]) -> Finished:
    rows: dict[str, dict[str, Any]] = {}
    settings: dict[SampleSetting, int] = {}
    splits = set()
    for number, line in enumerate(read_text(path, "the episodes of a measurement", "JSON Lines").splitlines(), 1):
        where = f"{path}: line {number}"
        try:
            row = json.loads(line)
            at = setting_of(row) if "flow_steps" in row else SampleSetting()
            seed, outcome = int(row["seed"]), row["outcome"]
            kept = {"outcome": outcome, "return": float(row["return"]), "max_reward": row.get("max_reward")}
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
        kept |= {name: row[name] for name in ("steps", "video", "message") if name in row}
        splits.add(_split_of(seed))
        _add(rows, str(seed), kept, where)
    if not rows:
        raise UserError(f"{path}: expected episodes{' at ' + _plain(setting) if setting else ''}, found none")
    return Finished("", rows, True, {"starts": " and ".join(sorted(splits))})


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
                start = f"{task.get('task_group')} {task.get('task_id')} {number}"
                _add(rows, start, _lerobot_row(episode, "successes", "sum_rewards", "max_rewards", where), where)
        tasks = sorted({start.rsplit(" ", 1)[0] for start in rows})
        return _checked(path, Finished("", rows, False, {"task": ", ".join(tasks)}))
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
    reader = csv.DictReader(text.splitlines())
    columns = [name.strip().lower() for name in reader.fieldnames or []]
    reader.fieldnames = columns
    arm, start, success = (_first(columns, names) for names in (_ARM, _START, _SUCCESS))
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
        if not place:
            raise UserError(f"{where}: expected a {start}, got none")
        _add(mine, place, _csv_row(row, success, score, where), f"{where}{' (arm ' + name + ')' if name else ''}")
    if not arms:
        raise UserError(f"{path}: expected rows below the header, found none")
    return [Finished(name, rows, start is not None, continuous=score is not None) for name, rows in arms.items()]


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
