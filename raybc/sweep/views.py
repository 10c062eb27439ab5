"""Files of a run folder for people and reports; all are made from the ledger, so they never disagree with it."""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from raybc.config import SAMPLE_AXES
from raybc.files import write_json, write_text
from raybc.rollout.results import LISTS
from raybc.rows import entries_of, message_key
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import SweepState, TrialState
from raybc.sweep.space import train_axes

#: Names of the values of an `EpisodeEntry` in episodes.jsonl.
ENTRY = ("index", "outcome", "steps", "return", "max_reward")


def write_tables(folder: SweepFolder, config: SweepConfig, state: SweepState) -> None:
    """Write trials.csv, results.jsonl (per run, setting and evaluation) and episodes.jsonl (per episode)."""
    trials = [state.trials[n] for n in sorted(state.trials)]
    axes = list(train_axes(config))
    text = io.StringIO()
    columns = [
        "trial",
        "status",
        "score",
        "step",
        "evaluations",
        "origin",
        "reason",
        "errors",
        "train_seconds",
        "rollout_seconds",
    ]
    writer = csv.writer(text)
    writer.writerow(columns + [f"params.{a}" for a in axes])
    for trial in trials:
        writer.writerow(_trial_row(trial) + [trial.params.get(a, "") for a in axes])
    write_text(folder.trials_csv, text.getvalue())
    rows = [r for t in trials for r in [*(r for e in t.evaluations for r in e.rows), *t.final_rows]]
    results, episodes = [], []
    for row in rows:
        result = {k: v for k, v in row.items() if k not in LISTS}
        messages = row.get("messages", {})
        results.append(json.dumps(result))
        names = ("run_id", "trial", "seed", "phase", "evaluation", "step", *SAMPLE_AXES)
        origin = {k: result[k] for k in names if k in result}
        for entry, task in entries_of(row):
            key = message_key(entry[0], task)
            more = {"message": messages[key]} if key in messages else {}
            first = row.get("first_error")
            if first is not None and (first["index"], first.get("task", "")) == (entry[0], task):
                more["traceback"] = first["traceback"]
            named = {"task": task} if task else {}
            episodes.append(json.dumps(origin | named | dict(zip(ENTRY, entry, strict=False)) | more))
    write_text(folder.results, "".join(line + "\n" for line in results))
    write_text(folder.episodes, "".join(line + "\n" for line in episodes))


def _trial_row(trial: TrialState) -> list[Any]:
    last = trial.evaluations[-1] if trial.evaluations else None
    return [
        trial.number,
        trial.status,
        "" if last is None else round(last.score, 6),
        "" if last is None else last.step,
        len(trial.evaluations),
        trial.origin,
        trial.reason,
        trial.errors,
        round(sum(e.timing["train_seconds"] for e in trial.evaluations), 3),
        round(sum(_length(e.timing["rollout"]) for e in trial.evaluations), 3),
    ]


def _length(span: list[float]) -> float:
    return span[1] - span[0]


def write_timing(folder: SweepFolder, state: SweepState, facts: dict[str, Any]) -> None:
    """Write timing.json: how long everything took (over all processes of a resumed run), with `facts` (data, command,
    notes)."""
    stages = {name: round(sum(end - start for start, end in spans), 3) for name, spans in state.stages.items()}
    whole = stages.pop("whole", sum(stages.values()))
    timings = [e.timing for t in state.trials.values() for e in t.evaluations]
    write_json(
        folder.timing,
        {
            "wall_seconds": whole,
            "stages": stages,
            "train_seconds": round(sum(t["train_seconds"] for t in timings), 3),
            "rollout_seconds": round(sum(_length(t["rollout"]) for t in timings), 3),
            **facts,
        },
    )


def write_timeline(folder: SweepFolder, state: SweepState, began: float, simulated: list[tuple[float, float]]) -> None:
    """Write timeline.json: when this process trained and simulated (unix times), for benchmarks/sweep_overhead.py."""
    spans = {
        "train": [e.timing["train"] for t in state.trials.values() for e in t.evaluations],
        "simulate": [list(span) for span in simulated],
        **{f"stage {name}": [list(span) for span in spans] for name, spans in state.stages.items()},
    }
    write_json(
        folder.timeline,
        {kind: sorted(s for s in some if s[0] >= began) for kind, some in spans.items()},
    )


def command_line() -> str:
    """The command that made this run, as a user would type it."""
    name = Path(sys.argv[0])
    modules = {"sweep": "python -m raybc.sweep", "raybc": "python -m raybc"}
    first = modules.get(name.parent.name, name.name) if name.name == "__main__.py" else name.name
    return " ".join([first, *map(shlex.quote, sys.argv[1:])])
