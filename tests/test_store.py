"""Converted sets on disk, and the choice of episodes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.data import formats, select
from raybc.data import store as stores
from raybc.data.adapt import for_task
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base, robomimic
from raybc.data.load import read_for
from raybc.types import UserError
from tests.conformance.formats import full_store
from tests.helpers import tiny_store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.hdf5"
    robomimic.write_store(path, full_store(images=True))
    return path


def test_arrays_are_mapped_and_not_copied(source: Path, tmp_path: Path) -> None:
    store = stores.convert(source, tmp_path / "store", images=True)
    again = formats.read(tmp_path / "store")
    for opened in (store, again):
        for name, array in opened.arrays().items():
            assert isinstance(array, np.memmap) or isinstance(array.base, np.memmap), name
        assert opened.observation(("arm",)) is opened.obs["arm"]
    assert again.fingerprint() == robomimic.read(source, images=True).fingerprint()
    assert stores.fingerprint(tmp_path / "store") == again.fingerprint()


def test_opening_reads_no_array(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.convert(source, tmp_path / "store")

    def never(*_: Any) -> None:
        raise AssertionError("opening looks through an array")

    monkeypatch.setattr("raybc.data.episodes.check_finite", never)
    monkeypatch.setattr(EpisodeStore, "fingerprint", never)
    formats.read(tmp_path / "store")


def test_conversion_is_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks of three rows, every episode is a part of its own: the result is the same."""
    path = tmp_path / "a.hdf5"
    formats.get("d4rl").write_store(path, full_store())
    whole = stores.convert(path, tmp_path / "whole")
    monkeypatch.setattr(base, "ROWS_PER_READ", 3)
    parts = list(formats.get("d4rl").parts(path, base.ReadOptions()))
    assert [p.lengths for p in parts] == [(5,), (9,), (3,)]
    assert stores.convert(path, tmp_path / "parts").fingerprint() == whole.fingerprint()


@pytest.mark.parametrize(("episode", "value"), [(0, np.nan), (1, np.inf), (2, -np.inf)])
def test_nothing_is_converted_halfway(tmp_path: Path, episode: int, value: float) -> None:
    store = full_store()
    rewards = store.rewards_N.copy()
    rewards[store.episode_starts[episode] + 1] = value
    path = tmp_path / "a.hdf5"
    robomimic.write_store(path, store)
    import h5py

    with h5py.File(path, "a") as file:
        file[f"data/demo_{episode}/rewards"][1] = value
    with pytest.raises(UserError, match=f"rewards: expected finite numbers, got nan or inf in episode {episode}"):
        stores.convert(path, tmp_path / "store")
    assert [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]


def test_a_conversion_shows_its_progress(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a start that converts has a bar."""
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    shown: list[Any] = []

    @contextlib.contextmanager
    def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        shown.append((what, total))
        yield shown.append

    first = read_for(source, "", memory=1, bar=bar)
    assert shown[0] == ("converting a.hdf5 once", first.num_episodes)
    assert shown[-1] == first.num_episodes
    assert read_for(source, "", memory=1, bar=bar).source == first.source
    assert shown.count(shown[0]) == 1


def test_the_cache_converts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    path = tmp_path / "a.npz"
    ogbench = formats.get("ogbench")
    ogbench.write_store(path, full_store())
    first = stores.cached(path)
    assert first.fingerprint() == formats.read(path).fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(stores, "convert", lambda *_, **__: pytest.fail("converted twice"))
        assert stores.cached(path).source == first.source
    assert stores.cached(path, states=True).source != first.source
    ogbench.write_store(tmp_path / "b.npz", full_store(seed=1))
    (tmp_path / "b-val.npz").replace(tmp_path / "a-val.npz")  # only the validation file is another
    assert stores.cached(path).fingerprint() == formats.read(path).fingerprint() != first.fingerprint()
    with pytest.raises(UserError, match="no such file"):
        stores.cached(tmp_path / "nothing")


def test_an_existing_folder_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mine").touch()
    for write in (lambda p: stores.convert(source, p), lambda p: stores.write_store(p, full_store())):
        with pytest.raises(UserError, match="exists; delete it or choose another place"):
            write(tmp_path / "store")
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["mine"]


def damaged(path: Path, change: dict[str, Any]) -> None:
    meta = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps({**meta, **change}))


def test_damage_is_refused(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "store"
    stores.convert(source, path)
    stores.verify(path)
    content = (path / "actions.npy").read_bytes()
    (path / "actions.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    formats.read(path)  # sizes are right; opening does not read the arrays
    with pytest.raises(UserError, match=r"actions\.npy: damaged: its sha256"):
        stores.verify(path)
    (path / "actions.npy").write_bytes(content)
    good = json.loads((path / "store.json").read_text())
    damaged(path, {"fingerprint": "0" * 64})
    with pytest.raises(UserError, match="the fingerprint is not that of the arrays"):
        stores.verify(path)
    for change, message in (
        ({"version": 9}, "expected version 2"),
        ({"arrays": {"../a.hdf5": {"bytes": source.stat().st_size}}}, r"\.\./a\.hdf5: expected"),
        ({"arrays": 1}, "not readable"),
        ({"splits": None}, "not readable"),
    ):
        (path / "store.json").write_text(json.dumps(good))
        damaged(path, change)
        with pytest.raises(UserError, match=message):
            formats.read(path)
    (path / "store.json").write_text(json.dumps(good))
    (path / "rewards.npy").unlink()
    with pytest.raises(UserError, match=r"rewards\.npy: expected \d+ bytes, got no such file"):
        formats.read(path)
    (path / "store.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        formats.read(path)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    stores.write_store(tmp_path / "store", full_store())
    np.save(tmp_path / "store" / "actions.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    damaged(
        tmp_path / "store",
        {"arrays": {"actions.npy": {"bytes": (tmp_path / "store" / "actions.npy").stat().st_size}}},
    )
    with pytest.raises(UserError, match=r"actions\.npy: not readable as npy.*Python objects"):
        formats.read(tmp_path / "store")


# Choosing episodes

EPISODES = np.arange(20)


def test_parts_of_episodes() -> None:
    assert select.first_part(EPISODES, 0.25).tolist() == [0, 1, 2, 3, 4]
    assert select.first_part(EPISODES, 0.001).tolist() == [0]
    assert select.first_part(EPISODES, 1).tolist() == EPISODES.tolist()
    parts = [select.random_part(EPISODES, p, seed=3) for p in (0.1, 0.25, 0.5, 1.0)]
    assert [len(p) for p in parts] == [2, 5, 10, 20]
    for smaller, larger in itertools.pairwise(parts):
        assert set(smaller) <= set(larger)
        assert np.all(np.diff(larger) > 0)
    assert select.random_part(EPISODES, 0.5, 3).tolist() != select.random_part(EPISODES, 0.5, 4).tolist()
    assert select.random_part(EPISODES[::-1], 0.5, 3).tolist() == parts[2].tolist(), "the order does not matter"
    for proportion in (0, -0.1, 1.1):
        with pytest.raises(UserError, match="expected above 0 and at most 1"):
            select.random_part(EPISODES, proportion, 0)


@pytest.mark.parametrize("count", [2, 3, 5, 20, 101])
def test_a_split_by_episode(count: int) -> None:
    train, valid = select.hold_out(np.arange(count), seed=0)
    assert sorted([*train, *valid]) == list(range(count))
    assert len(valid) == max(1, round(0.2 * count))
    other = select.hold_out(np.arange(count), seed=1)[1]
    assert count < 20 or other.tolist() != valid.tolist()
    with pytest.raises(UserError, match="at least two episodes, got 1"):
        select.hold_out(np.arange(1), 0)


def test_success_and_return() -> None:
    store = full_store()
    assert select.successful(store, EPISODES[:3]).tolist() == [0, 2]
    with pytest.raises(UserError, match="expected at least one, got none of 1"):
        select.successful(store, np.array([1]))
    with pytest.raises(UserError, match="does not say which episodes succeeded"):
        select.successful(tiny_store(), EPISODES[:3])
    expected = [store.rewards_N[a:b].sum(dtype=float) for a, b in ((0, 5), (5, 14), (14, 17))]
    np.testing.assert_allclose(select.returns(store), expected)
    best = int(np.argmax(expected))
    assert select.best_by_return(store, EPISODES[:3], 34).tolist() == [best]
    assert select.best_by_return(store, EPISODES[:3], 100).tolist() == [0, 1, 2]
    same = dataclasses.replace(store, rewards_N=np.ones(17, np.float32) / np.repeat([5, 9, 3], [5, 9, 3]).astype("f4"))
    assert select.best_by_return(same, EPISODES[:3], 67).tolist() in ([0, 1], [0, 2], [1, 2])


def test_sparse_rewards() -> None:
    sparse = select.sparse_rewards(full_store())
    assert np.flatnonzero(sparse.rewards_N).tolist() == [4, 16]
    assert sparse.rewards_N.dtype == np.float32
    assert sparse.actions_NA is not None
    assert sparse.fingerprint() != full_store().fingerprint()


def test_success_is_read_from_sparse_rewards_only(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    sparse = dataclasses.replace(select.sparse_rewards(full_store()), success_E=None)
    robomimic.write_store(path, sparse)
    found = robomimic.read(path).success_E
    assert found is not None
    assert found.tolist() == [True, False, True]
    robomimic.write_store(path, dataclasses.replace(sparse, rewards_N=sparse.rewards_N / 2))
    assert robomimic.read(path).success_E is None, "rewards that are shaped do not tell success"
    robomimic.write_store(path, dataclasses.replace(sparse, rewards_N=sparse.rewards_N * 0))
    assert robomimic.read(path).success_E is None


# Stores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ("one",)}, "tasks: expected one for each of 3 episodes, got 1"),
        ({"success_E": np.ones(2, bool)}, "success: expected one for each of 3 episodes, got 2"),
        ({"terminals_N": np.ones(2, bool)}, "terminals: expected 17 rows as in actions, got 2"),
        ({"states_NS": np.full((17, 1), np.nan)}, "states: expected finite numbers, got nan or inf in episode 0"),
        ({"action_range": (np.ones(2), np.zeros(2))}, "action range: expected low <= high"),
        ({"action_range": (np.zeros(3), np.ones(3))}, "action range: expected low <= high of shape"),
    ],
)
def test_stores_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_store(**change)


def test_what_is_only_looked_at_is_not_in_the_fingerprint() -> None:
    store, full = tiny_store(splits={"train": [0, 1], "valid": [2]}), full_store()
    assert dataclasses.replace(full, tasks=()).fingerprint() == store.fingerprint()
    assert full.fingerprint() != store.fingerprint(), "instructions are learned from"


def test_images_are_no_numbers() -> None:
    store = full_store(images=True)
    with pytest.raises(UserError, match="'camera': expected low-dimensional ones, got images"):
        store.observation(("arm", "camera"))


def test_pushts_states_become_its_observations() -> None:
    pytest.importorskip("gymnasium")
    rng = np.random.default_rng(0)
    store = tiny_store(obs={"state": rng.uniform(0, 500, (17, 5)).astype(np.float32)})
    got = for_task(store, "pusht")
    assert {k: v.shape[1] for k, v in got.obs.items()} == {"state": 5, "agent_pos": 2, "block_pose": 3, "keypoints": 16}
    np.testing.assert_array_equal(got.obs["block_pose"], store.obs["state"][:, 2:])
    assert got.obs["keypoints"].dtype == np.float32
    assert for_task(store, "lift") is store
    agent = for_task(tiny_store(obs={"state": np.ones((17, 2), np.float32)}), "pusht")
    assert set(agent.obs) == {"state", "agent_pos"}
