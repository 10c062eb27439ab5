"""Statistics by streaming are those that numpy computes on the whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from raybc.data import formats, stats, store
from raybc.data.formats import base, robomimic
from raybc.data.formats.base import ReadOptions
from raybc.data.scan import Source, source_of
from raybc.data.stats import Moments, Summary, Tails, statistics
from raybc.types import UserError
from tests.helpers import tiny_store

LENGTHS = (5, 900, 30, 1, 64, 700)


def large_offsets(n: int) -> np.ndarray:
    """float32 (n, 5): offsets that are a million times the spread, heavy tails, ties, a constant."""
    rng = np.random.default_rng(0)
    near, far = rng.normal(-3e4, 0.02, n), rng.normal(1e6, 1.0, n)
    columns = [far, near, rng.standard_cauchy(n), rng.integers(0, 3, n), np.full(n, 7.0)]
    return np.column_stack(columns).astype(np.float32)


def assert_is_numpys(found: Summary, rows: np.ndarray) -> None:
    rows = rows.astype(np.float64)
    assert found.count == len(rows)
    for name, expected in (
        ("mean", rows.mean(0)), ("std", rows.std(0)), ("min", rows.min(0)), ("max", rows.max(0)),
        ("q01", np.quantile(rows, 0.01, axis=0)), ("q99", np.quantile(rows, 0.99, axis=0)),
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("format", ["robomimic", "store", "episode_ends"])
def test_statistics_are_numpys(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "ROWS_PER_READ", 100)  # many blocks, and parts of one step
    monkeypatch.setattr(stats, "ROWS_PER_READ", 100)
    data = tiny_store(LENGTHS)
    data = dataclasses.replace(data, obs={**data.obs, "far": large_offsets(len(data.actions_NA))})
    path = tmp_path / {"robomimic": "a.hdf5", "store": "a", "episode_ends": "a.npz"}[format]
    formats.get(format).write_store(path, data)
    found = statistics(source_of(str(path)))
    assert sorted(found) == ["actions", "obs/arm", "obs/cube", "obs/far", "rewards"]
    for name, summary in found.items():
        rows = data.arrays()[name]
        assert_is_numpys(summary, rows if rows.ndim == 2 else rows[:, None])


@pytest.mark.parametrize("count", [1, 2, 3, 50, 99, 100, 101, 102, 1000, 4321])
def test_quantiles_of_any_count(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "ROWS_PER_READ", 64)
    rows = large_offsets(count)
    tails = Tails(count)
    for block in np.array_split(rows, max(1, count // 17)):
        tails.add(block)
        kept = sum(len(a) for a in (*tails._low, *tails._high))
        assert kept <= 4 * max(64, count // 100 + 2) + 34, "two in a hundred and a block are kept, not the set"
    for found, q in zip(tails.quantiles(), (0.01, 0.99), strict=True):
        np.testing.assert_allclose(found, np.quantile(rows.astype(np.float64), q, axis=0), rtol=1e-12)


def test_moments_do_not_depend_on_blocks() -> None:
    """The textbook's sum of squares is wrong in the first digit here."""
    rows = large_offsets(3000)
    for cuts in ([], [1], [2999], [10, 11, 12, 2000], list(range(1, 3000))):
        moments = Moments(5)
        for block in np.split(rows, cuts):
            moments.add(block)
        moments.add(rows[:0])
        np.testing.assert_allclose(moments.std, rows.std(0, dtype=np.float64), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moments.mean, rows.mean(0, dtype=np.float64), rtol=1e-12)


def test_images_for_each_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (17, 6, 5, 3), np.uint8)
    images[..., 1] //= 8
    data = tiny_store()
    robomimic.write_store(tmp_path / "a.hdf5", dataclasses.replace(data, obs={**data.obs, "eye": images}))
    source = source_of(str(tmp_path / "a.hdf5"))
    assert "obs/eye" not in statistics(source)
    assert_is_numpys(statistics(source, ReadOptions(images=True))["obs/eye"], images.reshape(-1, 3))


def test_states_where_they_are_wanted(tmp_path: Path) -> None:
    data = tiny_store(states_NS=np.random.default_rng(0).normal(size=(17, 4)))
    store.write_store(tmp_path / "a", data)
    assert data.states_NS is not None
    assert_is_numpys(statistics(source_of(str(tmp_path / "a")), ReadOptions(states=True))["states"], data.states_NS)


def test_the_observations_of_the_task_count_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    obs = {"state": rng.uniform(50, 400, (17, 5)).astype(np.float32)}
    formats.get("episode_ends").write_store(tmp_path / "a.npz", tiny_store(obs=obs))
    found = statistics(source_of(str(tmp_path / "a.npz"), "pusht"))
    assert_is_numpys(found["obs/agent_pos"], obs["state"][:, :2])
    assert found["obs/keypoints"].mean.shape == (16,)


def test_nan_is_refused_with_its_place(tmp_path: Path) -> None:
    data = tiny_store()
    arm = data.obs["arm"].copy()
    arm[6, 1] = np.nan
    robomimic.write_store(tmp_path / "a.hdf5", dataclasses.replace(data, obs={"arm": arm}, checked=True))
    with pytest.raises(UserError, match=r"a\.hdf5: arm: expected finite numbers, got nan or inf in episode 1"):
        statistics(Source(tmp_path / "a.hdf5", "robomimic"))
