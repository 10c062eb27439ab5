"""`python -m benchmarks.lift_human`: how episodes fail, and a whole run of tiny sizes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lift_human import main, stage
from raybc.data.formats import robomimic
from raybc.registry import get_task
from tests.recordings import as_store, at_random


def test_how_far_an_episode_came() -> None:
    course = {"success": False, "nearest": 0.01, "closed_at": 0.01, "rise": 0.02}
    changes = [{"success": True}, {"nearest": 0.1}, {"closed_at": None}, {"rise": 0.001}, {}]
    found = [stage(course | change) for change in changes]
    assert found == ["lifted", "not reached", "never closed", "not held", "lost"]


@pytest.mark.slow
def test_it_measures_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("robosuite")
    store = as_store(at_random(get_task("lift"), [0, 1], steps=20), Path("lift.hdf5"))
    robomimic.write_store(tmp_path / "lift.hdf5", store)
    sizes = ["--steps", "2", "--episodes", "2", "--limit", "3", "--own_starts", "1", "--variants", "no idle, clipped"]
    monkeypatch.setattr(sys, "argv", ["lift_human", str(tmp_path / "lift.hdf5"), str(tmp_path / "out.jsonl"), *sizes])
    main()
    main()
    [row] = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(e["success"], e["steps"]) for e in row["final"] + row["own"]] == [(False, 3)] * 4
    first = np.array([store.obs["object"][i, :2] for i in store.episode_starts])
    np.testing.assert_allclose([e["cube"] for e in row["own"]], first, atol=1e-4)
    assert "| MLP, flow | no idle, clipped |" in capsys.readouterr().out
