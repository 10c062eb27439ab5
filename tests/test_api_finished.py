"""Calls in Python for what is finished: they read it, and start neither Ray nor a simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import raybc
from raybc.files import read_json

SWEEP: dict[str, Any] = {
    "name": "mine",
    "train": {
        "env_name": "pointmass-scripted-low_dim", "training_steps": 20, "batch_size": 8, "hidden_width": 16,
        "action_chunking": True, "device": "cpu",
    },
    "space": {"lr": {"low": 1e-3, "high": 1e-2, "log": True}},
    "seeds": [0],
    "demos": {"episodes": 4},
    "search": {"trials": 1, "max_concurrent": 1},
    "eval": {"episodes": 2, "evaluations": 1},
    "final": {"top": 1, "episodes": 3, "videos": 0},
    "resources": {"workers": 1, "trial_cpus": 0.5, "worker_cpus": 0.5},
}  # fmt: skip


def _no_ray(*_: Any, **__: Any) -> None:
    pytest.fail("Ray was asked for")


@pytest.mark.slow
def test_what_is_finished_needs_no_ray(ray_cpus: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = raybc.sweep(SWEEP, quiet=True)
    ways: list[dict[str, Any]] = [
        {"task": "pointmass", "videos": 1}, {"until_halfwidth": 0.45, "flow_steps": [1, 2]},
    ]  # fmt: skip
    measured = [raybc.evaluate(sweep, episodes=4, workers=1, quiet=True, **way) for way in ways]
    rows = [(one.folder / "episodes.jsonl").read_text() for one in measured]
    begun = read_json(sweep.folder / "timing.json")["command"]
    assert begun == "raybc sweep --resume --out runs/mine  # begun by raybc.sweep in Python"
    assert begun.partition("  #")[0] in (sweep.folder / "report.html").read_text()

    monkeypatch.setattr("raybc.cluster.session.ray_session", _no_ray)
    monkeypatch.setattr("raybc.sweep.run.ray_beside", _no_ray)
    assert raybc.sweep(SWEEP, quiet=True).folder == sweep.folder
    again = [raybc.evaluate(sweep, episodes=4, workers=1, quiet=True, **way) for way in ways]
    assert [one.folder for one in again] == [one.folder for one in measured]
    assert [(one.folder / "episodes.jsonl").read_text() for one in again] == rows
    assert measured[0].folder.name.endswith("_final_episodes_4_videos_1"), "its own task is nothing special"
