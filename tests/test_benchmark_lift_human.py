"""`python -m benchmarks.lift_human`: what its variants do to demonstrations, and a whole run of tiny sizes."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lift_human import main, stage, trimmed
from raybc.data.formats import robomimic
from raybc.data.idle import without_idle
from raybc.registry import get_task
from tests.helpers import tiny_store
from tests.recordings import as_store, at_random

#: Two episodes: (motion x, motion y, gripper); rows 1 and 7 are not idle.
ACTIONS = np.array(
    [[0, 0, -1], [0.5, 1, -1], *[[0, 0, -1]] * 3, [0, 0, 1], [0, 0, 1], [1, 0.5, 1], [0, 0, 1]], np.float32
)


def test_pauses_are_trimmed() -> None:
    store = tiny_store(lengths=(5, 4))
    store = dataclasses.replace(store, actions_NA=ACTIONS, states_NS=np.arange(9.0)[:, None])
    kept = {keep: trimmed(keep)(store) for keep in (0, 1, 2, 9)}
    states = {keep: found.states_NS.ravel().tolist() for keep, found in kept.items() if found.states_NS is not None}
    assert states == {0: [1, 7], 1: [1, 2, 7, 8], 2: [1, 2, 3, 7, 8], 9: [1, 2, 3, 4, 7, 8]}
    assert [found.episode_ends.tolist() for found in kept.values()] == [[1, 2], [2, 4], [3, 5], [4, 6]]
    np.testing.assert_array_equal(kept[0].actions_NA, without_idle(store).actions_NA)


def test_how_far_an_episode_came() -> None:
    course = {"success": False, "nearest": 0.01, "closed_at": 0.01, "rise": 0.02}
    changes = [{"success": True}, {"nearest": 0.1}, {"closed_at": None}, {"rise": 0.001}, {}]
    found = [stage(course | change) for change in changes]
    assert found == ["lifted", "not reached", "never closed", "not held", "lost"]


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
