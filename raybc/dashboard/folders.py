"""Finding run folders below a folder, and what a row of the index says about those that are no sweeps."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from raybc.compare.folder import CompareFolder
from raybc.dashboard.evaluation import scored
from raybc.dashboard.training import members_of, state_of
from raybc.files import is_worked_on, read_json
from raybc.metric import METRICS, SUCCESS, Metric
from raybc.rollout.folder import EvaluationFolder
from raybc.run_folder import SweepFolder, TrainingFolder
from raybc.types import UserError

Kind = Literal["sweep", "training", "evaluation", "comparison"]
#: Folders that are looked at, at most: somebody may name a whole disk.
MOST = 5000


@dataclass(frozen=True)
class Found:
    """A run folder below the folder of an index."""

    key: str
    """Its name in addresses."""
    kind: Kind
    path: Path


def kind_of(path: Path) -> Kind | None:
    """What wrote a folder; None: not a run folder. Looks at names of files only."""
    sweep = SweepFolder(path)
    if sweep.config.is_file() and (sweep.ledger.is_file() or not TrainingFolder(path).flags.is_file()):
        return "sweep"
    if CompareFolder(path).request.is_file():
        return "comparison"
    if EvaluationFolder(path).request.is_file():
        return "evaluation"
    training = TrainingFolder(path)
    return "training" if training.flags.is_file() or training.pack.is_file() else None


def document_of(found: Found) -> Path | None:
    """The document that is the page of a run, of a finished comparison compare.html; None: there is none, or a link
    leads out of the folder."""
    if found.kind != "comparison":
        return None
    path = CompareFolder(found.path).page.resolve()
    return path if path.is_file() and path.is_relative_to(found.path.resolve()) else None


def find_runs(root: Path) -> list[Found]:
    """The run folders in `root` and one level below (`runs/rollouts/NAME`), in the order of their names; what is inside
    a run folder belongs to that run."""
    found: list[Found] = []
    for path in _folders(root, root, 2):
        kind = kind_of(path)
        if kind is not None:
            found.append(Found(path.relative_to(root).as_posix().replace("/", "~"), kind, path))
    return found


def _folders(root: Path, folder: Path, depth: int, seen: list[int] | None = None) -> Iterator[Path]:
    seen = [0] if seen is None else seen
    try:
        children = sorted(child for child in folder.iterdir() if not child.name.startswith(".") and child.is_dir())
    except OSError:  # not readable, or just deleted
        return
    for child in children:
        seen[0] += 1
        if seen[0] > MOST:
            return
        if kind_of(child) is not None:
            yield child
        elif depth > 1 and not child.is_symlink():
            yield from _folders(root, child, depth - 1, seen)


def marks_of(found: Found) -> tuple[tuple[int, int], ...]:
    """Times and sizes of the files that a row is made of, and whether a process works on it: unchanged, so is the
    row."""
    path = found.path
    files: dict[Kind, tuple[Path, ...]] = {
        "sweep": tuple(
            getattr(SweepFolder(path), name) for name in ("config", "ledger", "winner_json", "progress", "timing")
        ),
        "training": tuple(
            getattr(folder, name)
            for folder in members_of(path)
            for name in ("flags", "train_csv", "eval_csv", "offline_csv", "failure", "final_model")
        ),
        "evaluation": tuple(getattr(EvaluationFolder(path), name) for name in ("request", "partial", "metrics")),
        "comparison": tuple(getattr(CompareFolder(path), name) for name in ("request", "partial", "result")),
    }
    return (*map(_mark, files[found.kind]), (0, int(is_worked_on(path))))


def _mark(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


def describe(found: Found) -> dict[str, Any]:
    """A row about a training, an evaluation or a comparison. A damaged file is a row with an `error`."""
    about = {"training": _training, "evaluation": _evaluation, "comparison": _comparison}
    try:
        return about[found.kind](found.path)
    except UserError as error:
        return {"error": str(error)}
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        return {"error": f"{found.path}: not readable as a {found.kind}: {type(error).__name__}: {error}"}


def _not_ended(path: Path) -> str:
    return "running" if is_worked_on(path) else "stopped"


def _shown(metric: Metric, value: float | None, interval: list[float] | None, about: str) -> dict[str, Any]:
    return {
        "metric": metric.to_plain(),
        "best": {"score": value, "interval": interval, "on": about},
    }


def _training(path: Path) -> dict[str, Any]:
    members = members_of(path)
    flags = [read_json(member.flags) for member in members if member.flags.is_file()]
    steps = int(flags[0].get("training_steps") or 0) if flags else 0
    found: dict[str, Any] = {
        "task": str(flags[0].get("env_name", "")) if flags else "",
        "state": state_of(path),
        "progress": f"step {max(map(_last_step, members)):,}" + (f" of {steps:,}" if steps else ""),
    }
    scored = [(metric, scores) for metric, scores in (member.scores() for member in members) if scores]
    if not scored:
        return found
    metric = scored[0][0]
    last = [scores[max(scores)] for _, scores in scored]
    mean = f", mean of {len(last)} seeds" if len(last) > 1 else ""
    return found | _shown(metric, sum(last) / len(last), None, f"last evaluation{mean}")


def _last_step(member: TrainingFolder) -> int:
    if not member.train_csv.is_file():
        return 0
    with member.train_csv.open("rb") as file:
        head = file.readline()
        size = file.seek(0, 2)
        file.seek(max(len(head), size - 4096))
        lines = file.read().decode("utf-8", "replace").splitlines()
    columns = next(csv.reader([head.decode("utf-8", "replace")]))
    for line in reversed(lines):  # the last one may be half written
        cells = next(csv.reader([line]), [])
        if len(cells) == len(columns) and "step" in columns and cells[columns.index("step")].isdecimal():
            return int(cells[columns.index("step")])
    return 0


def _evaluation(path: Path) -> dict[str, Any]:
    folder = EvaluationFolder(path)
    request = read_json(folder.request)
    if not folder.metrics.is_file():
        lines = folder.partial.read_bytes().count(b"\n") if folder.partial.is_file() else 0
        return {
            "task": str(request.get("task") or ""),
            "state": _not_ended(path),
            "progress": f"{lines:,} episodes so far",
        }
    metrics = read_json(folder.metrics)
    settings = metrics["settings"]
    tasks = list(metrics.get("tasks") or ())
    found: dict[str, Any] = {
        "task": metrics.get("task") or (f"{len(tasks)} tasks" if tasks else str(metrics.get("env_name", ""))),
        "state": "ended",
        "progress": f"{sum(one['episodes'] for one in settings):,} episodes",
    }
    if len(settings) > 1:
        found["progress"] += f", {len(settings)} sample settings"
    metric = METRICS.get(settings[0].get("metric", "success"), SUCCESS)
    value, interval = min((scored(one, metric) for one in settings), key=lambda found: metric.cost(found[0]))
    about = f"{metrics['starts']} starts" + (", best of the settings" if len(settings) > 1 else "")
    return found | _shown(metric, value, interval, about)


def _comparison(path: Path) -> dict[str, Any]:
    folder = CompareFolder(path)
    request = read_json(folder.request)
    arms = [str(arm["name"]) for arm in request["arms"]]
    found: dict[str, Any] = {"task": str(request.get("env_name") or ""), "state": _not_ended(path)}
    found["progress"] = " against ".join(arms[:3]) + (f" and {len(arms) - 3} more" if len(arms) > 3 else "")
    if folder.result.is_file():
        result = read_json(folder.result)
        verdict = str(result["verdict"])
        said = {"better": f"{arms[0]} is better", "worse": f"{arms[0]} is worse", "cannot tell": "cannot tell"}
        found |= {"state": "ended", "verdict": said.get(verdict, verdict)}
    return found
