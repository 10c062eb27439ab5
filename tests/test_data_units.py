"""Units of actions by what they did, and single dimensions that normalisation would blow up."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from raybc.data import formats, units
from raybc.data.fit import TaskView
from raybc.data.gains import barely_used, far_starts_of, first_of, gains, recorded_in, refuse_other_units
from raybc.data.normalize import Normalizer, hardly_move
from raybc.data.scan import source_of
from raybc.data.verify import verify
from raybc.envs.pointmass import POINTMASS
from raybc.envs.spec import spec_of_task
from raybc.rollout.checks import far_observations
from raybc.train.data import prepare
from raybc.types import UserError
from tests.helpers import CPU, demonstrations, pointmass_bundle, tiny_config, tiny_data, tiny_store, tiny_trainer

STORE = demonstrations(POINTMASS, 6)
PROBE = spec_of_task(POINTMASS)


@pytest.mark.parametrize(("factor", "fits"), [(1.0, True), (0.05, False), (0.5, False), (0.9, True)])
def test_actions_move_what_they_move_in_the_environment(factor: float, fits: bool) -> None:
    data = dataclasses.replace(STORE, actions_NA=STORE.actions_NA * np.float32(factor))
    with contextlib.closing(POINTMASS.make(None)) as env:
        found = gains(recorded_in(data), env)
    assert found
    assert all(gain.fits is fits for gain in found)
    assert np.allclose([gain.ratio for gain in found], 1 / factor, rtol=0.1)


def test_verify_and_training_refuse_other_units(tmp_path: Path) -> None:
    path = tmp_path / "a"
    data = dataclasses.replace(STORE, actions_NA=STORE.actions_NA * np.float32([0.05, 0.5]))
    formats.get("store").write_store(path, data)
    source = source_of(str(path), "pointmass")
    with contextlib.closing(POINTMASS.make(None)) as env:
        view = TaskView(POINTMASS, PROBE, tuple(gains(first_of(source), env)))
    errors = [f for f in verify(source, view).findings if f.severity == "error"]
    assert [f.kind for f in errors] == ["action_units"]
    with pytest.raises(UserError, match="expected the units of environment 'pointmass', got others in dimensions"):
        refuse_other_units(formats.read(path), POINTMASS, PROBE)
    assert refuse_other_units(STORE, POINTMASS, PROBE) == []


def test_the_ends_of_a_range_have_no_units_but_a_sign() -> None:
    """A gripper that closes on an object moves less for each unit of action than one that closes on nothing."""
    ends = np.sign(np.random.default_rng(0).normal(size=len(STORE.actions_NA))).astype(np.float32)
    with contextlib.closing(POINTMASS.make(None)) as env:
        [unit] = [gain for gain in gains(recorded_in(STORE), env) if gain.action == 0]
        assert unit.key == "state[2]"  # the velocity
        for factor, fits in ((1, True), (0.3, True), (-1, False)):
            obs = {"state": STORE.obs["state"].copy()}
            obs["state"][1:, 2] = np.cumsum(unit.here * factor * ends)[:-1]
            actions = np.stack([ends, STORE.actions_NA[:, 1]], axis=1)
            found = gains(recorded_in(dataclasses.replace(STORE, obs=obs, actions_NA=actions)), env)
            [gain] = [gain for gain in found if gain.action == 0]
            assert gain.two_ends
            assert gain.fits is fits, gain
        assert not any(gain.two_ends for gain in found if gain.action == 1)


def test_without_shared_observations_the_range_is_what_remains(tmp_path: Path) -> None:
    """A dimension that barely uses its range is an error where others use theirs."""
    data = dataclasses.replace(STORE, actions_NA=STORE.actions_NA * np.float32([0.05, 1]))
    view = TaskView(POINTMASS, PROBE)
    formats.get("store").write_store(tmp_path / "a", data)
    errors = [f for f in verify(source_of(str(tmp_path / "a")), view).findings if f.severity == "error"]
    assert [(f.kind, f.key) for f in errors] == [("action_units", "actions[0]")]
    nothing = dataclasses.replace(data, obs={"other": np.zeros((len(data.actions_NA), 1), np.float32)})
    [note] = refuse_other_units(nothing, POINTMASS, PROBE)
    assert note.startswith("actions[0] are")


def test_ranges() -> None:
    low, high = -np.ones(3), np.ones(3)
    assert barely_used(low * [0.05, 0.05, 1], high * [0.05, 0.05, 1], low, high) == [0, 1]
    assert barely_used(low * 0.05, high * 0.05, low, high) == [], "all of them: `other_actions`"
    assert barely_used(low * [0, 0.5, 1], high * [0, 0.5, 1], low, high) == []


# Scaling


@pytest.mark.parametrize(
    ("half", "centre", "sizes", "expected"),
    [
        ([0.5, 0.3, 1e-5], [0, 0, 0.3], [3], [2]),
        ([0.5, 0.3, 1e-5], [0, 0, 0], [3], [2]),
        ([0.5, 0.3, 1e-5], [0, 0, 0.3], [2, 1], [2]),
        ([0.5, 0.3, 1e-7], [0, 0, 0.3], [3], []),  # constant
        ([0.5, 0.3, 0.01], [0, 0, 0], [3], []),
        ([400, 300, 0.02], [0, 0, 0.02], [3], []),  # a gripper in metres beside millimetres
        ([0.5], [1000], [1], []),  # a narrow path far from the origin
        ([1e-5, 2e-5], [0, 0], [2], []),  # everything is small: that is its unit
    ],
)
def test_dimensions_that_hardly_move(
    half: list[float], centre: list[float], sizes: list[int], expected: list[int]
) -> None:
    low, high = np.subtract(centre, half), np.add(centre, half)
    assert np.flatnonzero(hardly_move(low, high, sizes)).tolist() == expected


def with_still_dimension(std: float) -> np.ndarray:
    data = tiny_store()
    still = 0.3 + np.random.default_rng(0).normal(size=(len(data.actions_NA), 1)) * std
    return np.concatenate([data.obs["arm"], still], axis=1).astype(np.float32)


@pytest.mark.parametrize("kind", ["mean_std", "min_max", "quantile"])
def test_they_are_not_blown_up(kind: str) -> None:
    store = tiny_store()
    moved = tiny_store(obs={**store.obs, "arm": with_still_dimension(1e-5)})
    config = tiny_config(normalization=kind)
    before = prepare(config, tiny_data(moved), CPU, scale_floor=False).obs_normalizer
    after = prepare(config, tiny_data(moved), CPU).obs_normalizer
    assert before.scale[3] < 1e-4
    assert after.scale[3] == before.scale[:3].max()
    np.testing.assert_array_equal(np.delete(after.scale, 3), np.delete(before.scale, 3))
    np.testing.assert_array_equal(after.offset, before.offset)
    plain = [prepare(config, tiny_data(store), CPU, scale_floor=floor).obs_normalizer for floor in (True, False)]
    np.testing.assert_array_equal(plain[0].scale, plain[1].scale)


def test_a_state_of_an_earlier_release_keeps_its_scales(tmp_path: Path) -> None:
    from raybc.train import checkpointing

    store = tiny_store()
    data = tiny_data(tiny_store(obs={**store.obs, "arm": with_still_dimension(1e-5)}))
    trainer = tiny_trainer(data=data)
    state = trainer.state()
    assert state.scale_floor
    checkpointing.save(tmp_path / "new", state)
    checkpointing.save(tmp_path / "old", dataclasses.replace(state, scale_floor=False))
    floored = trainer.prepared.obs_normalizer.scale
    again = tiny_trainer(data=data)
    again.load_state(tmp_path / "new")
    np.testing.assert_array_equal(again.prepared.obs_normalizer.scale, floored)
    again.load_state(tmp_path / "old")
    assert again.prepared.obs_normalizer.scale[3] < 1e-4
    assert not again.state().scale_floor


def test_verify_names_the_dimension(tmp_path: Path) -> None:
    still = np.float32(0.3) + np.random.default_rng(0).normal(size=(len(STORE.actions_NA), 1)).astype("f4") * 1e-5
    obs = {**STORE.obs, "state": np.concatenate([STORE.obs["state"], still], axis=1).astype(np.float32)}
    formats.get("store").write_store(tmp_path / "a", dataclasses.replace(STORE, obs=obs))
    [finding] = verify(source_of(str(tmp_path / "a"))).findings
    assert (finding.severity, finding.kind, finding.key) == ("warning", "scale", "state[4]")


def test_starts_far_from_the_data_in_one_dimension(tmp_path: Path) -> None:
    obs = {**STORE.obs, "goal": STORE.obs["goal"] + np.float32([0, 30])}
    data = dataclasses.replace(STORE, obs=obs)
    formats.get("store").write_store(tmp_path / "a", data)
    found = verify(source_of(str(tmp_path / "a")), TaskView(POINTMASS, PROBE)).findings
    assert {f.kind for f in found} <= {"scale", "observation_units"}
    assert any(f.key == "goal[1]" for f in found)
    assert any(note.startswith("goal[1] is") for note in far_starts_of(data, PROBE, ("state", "goal")))
    assert far_starts_of(STORE, PROBE, ("state", "goal")) == []
    assert units.far_dimensions(np.ones((3, 2)), np.zeros(2), np.array([1.0, 0.01])) == [(1, 100.0)]


def test_a_rollout_names_the_dimension() -> None:
    bundle = pointmass_bundle()
    assert far_observations(bundle, PROBE) == []
    scale = bundle.obs_normalizer.scale.copy()
    scale[5] = 1e-5
    blown = dataclasses.replace(bundle, obs_normalizer=Normalizer(bundle.obs_normalizer.offset, scale))
    [note] = far_observations(blown, PROBE)
    assert note.startswith("goal[1] is")
