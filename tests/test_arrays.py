"""`raybc.from_arrays`: what is written is what every command reads, and every mistake is one clear line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raybc
from raybc import cli
from raybc.data import formats
from raybc.data.__main__ import main
from raybc.types import UserError

ENDS = [5, 9, 12]
N, E = ENDS[-1], len(ENDS)


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    obs = {"joints": rng.normal(size=(N, 3)), "front": rng.integers(0, 256, (N, 8, 10, 3), dtype=np.uint8)}
    return {"obs": obs, "actions": rng.uniform(-1, 1, (N, 2)), "episode_ends": ENDS}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))


def test_everything_that_is_passed_is_read(tmp_path: Path) -> None:
    given = arrays()
    data = raybc.from_arrays(
        **given, rewards=np.arange(N), dones=np.isin(np.arange(N), [4]), success=[1, 0, 1], instructions="push",
        splits={"valid": [1]}, frequency=20, action_range=(-1, [1, 2]), path=tmp_path / "mine",
    )  # fmt: skip
    assert data.path == tmp_path / "mine"
    assert os.fspath(data) == str(data.path)
    assert isinstance(data, raybc.Dataset)
    assert "frequency: 20 Hz" in repr(data)
    assert "<td style='text-align:left'>uint8</td>" in data._repr_html_()
    store = formats.read(data.path)
    np.testing.assert_array_equal(store.obs["joints"], given["obs"]["joints"].astype(np.float32))
    np.testing.assert_array_equal(store.obs["front"], given["obs"]["front"])
    np.testing.assert_array_equal(store.actions_NA, given["actions"].astype(np.float32))
    np.testing.assert_array_equal(store.rewards_N, np.arange(N))
    assert store.terminals_N is not None
    assert np.flatnonzero(store.terminals_N).tolist() == [4]
    assert store.success_E is not None
    assert store.success_E.tolist() == [True, False, True]
    assert store.episode_ends.tolist() == ENDS
    assert {k: v.tolist() for k, v in store.splits.items()} == {"valid": [1], "train": [0, 2]}
    assert (store.tasks, store.frequency) == (("push",) * 3, 20)
    assert store.action_range is not None
    assert store.action_range[1].tolist() == [1, 2]


def test_the_place_is_one_of_the_contents(tmp_path: Path) -> None:
    first = raybc.from_arrays(**arrays())
    written = (first.path / "store.json").stat().st_mtime_ns
    again = raybc.from_arrays(**arrays())
    assert first.path == again.path
    assert first.path.parent == tmp_path / "home" / "arrays"
    assert (again.path / "store.json").stat().st_mtime_ns == written, "the same arrays are written once"
    for change in ({"frequency": 10.0}, {"success": [1, 1, 1]}, {"rewards": np.ones(N)}, {"dones": np.ones(N)}):
        assert raybc.from_arrays(**arrays(), **change).path != first.path


def test_a_bare_array_and_lists_of_episodes() -> None:
    obs, actions = np.arange(24.0).reshape(12, 2), np.arange(12.0)[:, None]
    flat = raybc.from_arrays(obs, actions, ENDS, rewards=np.arange(12))
    assert list(formats.read(flat.path).obs) == ["state"]
    cut = lambda array: np.split(array, ENDS[:-1])  # noqa: E731
    listed = raybc.from_arrays(cut(obs), cut(actions), rewards=cut(np.arange(12)))
    assert listed.path == flat.path
    named = raybc.from_arrays([{"state": part} for part in cut(obs)], cut(actions), rewards=cut(np.arange(12)))
    assert named.path == flat.path


def test_every_command_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = raybc.from_arrays(**arrays(), frequency=15, instructions=["a", "b", "a"])
    assert cli.run_main(lambda: main(["info", str(data.path), "--json"])) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["episodes"], found["transitions"], found["frequency"]) == (3, 12, 15)
    assert found["tasks"] == {"a": 2, "b": 1}
    assert cli.run_main(lambda: main(["verify", str(data.path), "--images"])) == 0
    out = str(tmp_path / "set")
    assert cli.run_main(lambda: main(["convert", str(data.path), "--images", "--format=lerobot", "--out", out])) == 0
    assert formats.read(out, images=True).frequency == 15


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "obs of other length": (
        lambda a: a["obs"].update(joints=np.zeros((11, 3))),
        "obs 'joints': expected 12 rows, one for each action, got 11 rows",
    ),
    "an observation more": (
        lambda a: a["obs"].update(joints=np.zeros((15, 3))),
        "leave out the observation after the last action of each episode",
    ),
    "ends that fall": (
        lambda a: a.update(episode_ends=[5, 4, 12]),
        "increasing numbers, got 4 at place 1, 5 before it",
    ),
    "ends that begin with 0": (lambda a: a.update(episode_ends=[0, 12]), "got 0 at place 0, which is not above 0"),
    "ends that are not the last": (
        lambda a: a.update(episode_ends=[5, 11]),
        "expected 12 as the last one, the number of actions (ends are exclusive), got 11",
    ),
    "flags as ends": (
        lambda a: a.update(episode_ends=np.isin(np.arange(N), [4, 11])),
        "the exclusive end of each episode, got bool (12,); of flags that mark last steps: np.flatnonzero(flags) + 1",
    ),
    "fractions as ends": (lambda a: a.update(episode_ends=[5.0, 12.0]), "expected whole numbers (E,)"),
    "no ends": (lambda a: a.pop("episode_ends"), "expected the exclusive end of each episode, e.g. [50, 120]"),
    "nan": (
        lambda a: a["obs"]["joints"].__setitem__((6, 1), np.nan),
        "joints: expected finite numbers, got nan or inf in episode 1",
    ),
    "more than float32": (
        lambda a: a["actions"].__setitem__((11, 1), 1e300),
        "actions: expected finite numbers, got nan or inf in episode 2",
    ),
    "text": (lambda a: a["obs"].update(joints=["a"] * 12), "obs 'joints': expected numbers, got dtype <U1"),
    "objects": (lambda a: a["obs"].update(joints=np.array([None] * 12)), "expected numbers, got dtype object"),
    "ragged": (lambda a: a["obs"].update(joints=[[1], [1, 2]] * 6), "got rows of different lengths"),
    "flat actions": (
        lambda a: a.update(actions=np.zeros(12)),
        "got (12,); pass actions[:, None] for one number a step",
    ),
    "rewards": (lambda a: a.update(rewards=np.zeros((12, 1))), "rewards: expected shape (12,), a number for each step"),
    "dones": (lambda a: a.update(dones=np.full(12, 2)), "dones: expected 12 times true or false (0 or 1)"),
    "success": (lambda a: a.update(success=[True]), "success: expected 3 times true or false (0 or 1), got shape (1,)"),
    "instructions": (lambda a: a.update(instructions=["a"]), "instruction: expected one for each of 3 episodes, got 1"),
    "splits": (lambda a: a.update(splits={"valid": [7]}), "split 'valid': expected episodes from 0 to 2"),
    "frequency": (lambda a: a.update(frequency=0), "frequency: expected a number above 0 (steps per second), got 0"),
    "range": (lambda a: a.update(action_range=(1, -1)), "action range: expected low <= high"),
    "stacks of images": (lambda a: a["obs"].update(front=np.zeros((N, 2, 8, 10, 3), np.uint8)), "a stack of images"),
    "depth": (lambda a: a["obs"].update(depth=np.zeros((N, 8, 10, 1), np.uint8)), "got depth by its name"),
    "no observations": (lambda a: a.update(obs={}), "expected at least one observation"),
    "names": (lambda a: a.update(obs={1: np.zeros((N, 2))}), "expected texts as names, got 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    given = arrays()
    change, words = WRONG[name]
    change(given)
    with pytest.raises(UserError) as error:
        raybc.from_arrays(**given, path=tmp_path / "mine")
    assert words in str(error.value)
    assert str(error.value).startswith("from_arrays: ")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_lists_of_episodes_that_differ_are_refused() -> None:
    one = {"joints": np.zeros((4, 3))}
    for obs, actions, words in (
        ([one, {"arm": np.zeros((4, 3))}], [np.zeros((4, 2))] * 2, "episode 1: obs: expected ['joints'] as before"),
        ([one, one], [np.zeros((4, 2)), np.zeros((4, 3))], "episode 1: actions: expected rows of shape (2,)"),
        ([one, one], [np.zeros((4, 2)), np.zeros((5, 2))], "episode 1: obs 'joints': expected 5 rows"),
        ([one], [np.zeros((4, 2))] * 2, "obs: expected a list of 2 episodes as actions, got 1"),
        ([one], [3], "episode 0: actions: expected shape (steps, size), got 3"),
        ([], [], "expected at least one episode, got none"),
    ):
        with pytest.raises(UserError) as error:
            raybc.from_arrays(obs, actions)
        assert words in str(error.value)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    data = raybc.from_arrays(**arrays(), path=tmp_path / "mine")
    before = (data.path / "store.json").read_bytes()
    assert raybc.from_arrays(**arrays(), path=tmp_path / "mine").path == data.path, "a cell that runs twice"
    with pytest.raises(UserError, match="mine: holds other data than these arrays; delete it or choose another path"):
        raybc.from_arrays(**arrays(), rewards=np.ones(N), path=tmp_path / "mine")
    assert (data.path / "store.json").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists, and is not a data set of from_arrays"):
        raybc.from_arrays(**arrays(), path=tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
