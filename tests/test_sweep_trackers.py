"""Sweeps in experiment trackers: one run a trial, grouped, and resumed under its own id."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raybc.config import RunConfig
from raybc.metric import METRICS
from raybc.rows import setting_fields
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import SweepState
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.trackers import SweepTrackers
from raybc.train.trackers.base import FILES, Row, Tracker
from raybc.train.trackers.mlflow import MARKS, MlflowConfig
from raybc.train.trackers.wandb import URL, wandb_id
from raybc.types import SampleSetting


def config() -> SweepConfig:
    train = {"env_name": "pointmass-scripted-low_dim", "training_steps": 100}
    return sweep_from_mapping(
        {"name": "mine", "train": train, "space": {"lr": {"low": 1e-4, "high": 1e-2}}, "seeds": [0, 1]}, "s.yaml"
    )


@dataclass
class Recorded:
    """What a tracker received about a trial."""

    name: str
    group: str
    id: str
    rows: list[Row] = field(default_factory=list)
    films: list[Path] = field(default_factory=list)
    closed: int = 0


class FakeTracker(Tracker):
    def __init__(self, folder: Path, record: Recorded, step: int) -> None:
        super().__init__(folder, dict.fromkeys(FILES, step))
        self.record = record

    def _copy(self, rows: list[Row]) -> bool:
        self.record.rows += rows
        return True

    def videos(self, step: int, paths: Iterable[Path]) -> None:
        self.record.films += paths

    def close(self) -> None:
        self.record.closed += 1


@dataclass
class FakeConfig:
    runs: dict[str, Recorded] = field(default_factory=dict)

    def check(self) -> None: ...

    def start(self, folder: Path, config: RunConfig, run_id: str, step: int, name: str = "") -> Tracker:
        record = self.runs.setdefault(folder.name, Recorded(name, config.run_group, run_id))
        assert record.id == run_id
        return FakeTracker(folder, record, step)


def evaluated(state: SweepState, trial: int, k: int, score: float, status: str) -> None:
    rows = [
        {"seed": seed, **setting_fields(SampleSetting(flow)), "episodes": 4, "successes": 0,
         "errors": 0, "score": score, "score_sd": 1.0}
        for seed in (0, 1) for flow in (1, 4)
    ]  # fmt: skip
    state.apply({"event": "evaluation", "trial": trial, "status": status, "evaluation": k, "step": 50 * k,
                 "score": score, "rows": rows, "timing": {}})  # type: ignore[typeddict-item,list-item]  # fmt: skip


def test_every_trial_is_a_run_and_a_resumed_sweep_continues_it(tmp_path: Path) -> None:
    folder, fake = SweepFolder(tmp_path), FakeConfig()
    for seed in (0, 1):
        log = folder.member(0, seed).train_csv
        log.parent.mkdir(parents=True)
        log.write_text(f"step,train/actor_loss\n10,{2.0 + seed}\n20,{1.0 + seed}\n")
    state = SweepState(metric=METRICS["return"])
    trackers = SweepTrackers([fake], config(), folder, state)
    for number in (0, 1):
        state.apply({"event": "start", "trial": number, "params": {"lr": 1e-3 + number}, "origin": "point"})
        trackers.update()
    evaluated(state, 0, 1, -7.5, "running")
    trackers.update()
    trackers.update()
    assert set(fake.runs) == {"0000", "0001"}
    first = fake.runs["0000"]
    assert (first.name, first.group) == ("mine trial 0", "mine")
    assert [(step, row.get("train/actor_loss")) for step, row in first.rows if step < 50] == [(10, 2.5), (20, 1.5)]
    assert first.rows[-1] == (50, {"eval/score": -7.5, "eval/return/flow_1": -7.5, "eval/return/flow_4": -7.5})
    trackers.close()  # the process ends

    again = SweepTrackers([fake], config(), folder, state)
    again.update()
    evaluated(state, 0, 2, -6.0, "completed")
    again.update()
    assert [step for step, row in first.rows if "eval/score" in row] == [50, 100], "no row is copied twice"
    film: Any = {"file": "videos/a.mp4", "trial": 0}
    again.finish([film])
    assert first.films == [tmp_path / "videos/a.mp4"]

    third = SweepTrackers([fake], config(), folder, state)
    count = len(first.rows)
    third.update()
    assert len(first.rows) == count


def test_nothing_is_written_without_a_tracker(tmp_path: Path) -> None:
    state = SweepState()
    state.apply({"event": "start", "trial": 0, "params": {"lr": 1e-3}, "origin": "point"})
    trackers = SweepTrackers([], config(), SweepFolder(tmp_path), state)
    trackers.update()
    trackers.finish([])
    assert not list(tmp_path.iterdir())


def test_ids_differ_between_run_groups(tmp_path: Path) -> None:
    base, other = RunConfig.of(), RunConfig.of(run_group="ablation")
    places = [tmp_path / name for name in "abc"]
    for place in places:
        place.mkdir()
    found = wandb_id(places[1], other, "0123")
    assert wandb_id(places[0], base, "0123") == "0123"
    assert found.startswith("0123-")
    assert wandb_id(places[1], base, "4567") == found, "it is kept in the folder"
    (places[2] / URL).write_text("an earlier release began this run\n")
    assert wandb_id(places[2], other, "0123") == "0123"


def test_mlflow_gets_trials(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    plan = MlflowConfig(str(tmp_path / "db"), "sweeps")
    plan.check()
    folder, state = SweepFolder(tmp_path / "run"), SweepState(metric=METRICS["return"])
    trackers = SweepTrackers([plan], config(), folder, state)
    state.apply({"event": "start", "trial": 0, "params": {"lr": 1e-3}, "origin": "point"})
    evaluated(state, 0, 1, -7.5, "running")
    trackers.update()
    trackers.close()
    evaluated(state, 0, 2, -6.5, "completed")
    SweepTrackers([plan], config(), folder, state).update()
    client = plan._client()
    runs = client.search_runs([plan._experiment(client)])
    assert [run.info.run_name for run in runs] == ["mine trial 0"]
    assert runs[0].data.tags["raybc.run_group"] == "mine"
    history = client.get_metric_history(runs[0].info.run_id, "eval/score")
    assert [(metric.step, metric.value) for metric in history] == [(50, -7.5), (100, -6.5)]
    assert ("eval/score", "eval/success") in MARKS.values()
