"""Idle steps, and what `verify` says about a data set besides faults."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from raybc.config import RunConfig
from raybc.data import formats
from raybc.data.fit import TaskView
from raybc.data.formats import lerobot_write
from raybc.data.idle import idle_steps, without_idle
from raybc.data.scan import source_of
from raybc.data.verify import verify
from raybc.envs.pointmass import POINTMASS
from raybc.envs.spec import spec_of_task
from raybc.plan import ReadArgs, open_data
from raybc.rollout.checks import version_changes
from raybc.train.source import read_data
from raybc.types import UserError
from tests.helpers import demonstrations, pointmass_bundle, tiny_store

#: Two episodes: (motion x, motion y, gripper).
ACTIONS = np.array(
    [[0, 0, -1], [0.5, 0, -1], [0, 0, -1], [0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1], [1e-6, 0, 1]], np.float32
)
ENDS = np.array([5, 8])


def test_idle_is_no_motion_and_an_unchanged_gripper() -> None:
    assert idle_steps(ACTIONS, ENDS).tolist() == [True, False, True, False, True, True, True, True]
    assert not idle_steps(ACTIONS[:, 2:], ENDS).any(), "nothing but a gripper"
    assert not idle_steps(ACTIONS + np.float32(0.2), ENDS).any(), "absolute actions"


def test_idle_steps_are_left_out() -> None:
    rng = np.random.default_rng(0)
    store = tiny_store(
        (5, 3), actions_NA=ACTIONS, obs={"arm": np.arange(8, dtype=np.float32)[:, None]}, episode_ends=ENDS,
        rewards_N=rng.normal(size=8).astype(np.float32),
    )  # fmt: skip
    left = without_idle(store)
    assert left.episode_ends.tolist() == [2, 3], "of an idle episode the first step is kept"
    assert left.obs["arm"][:, 0].tolist() == [1, 3, 5]
    np.testing.assert_array_equal(left.actions_NA, ACTIONS[[1, 3, 5]])
    assert left.fingerprint() != store.fingerprint()
    busy = tiny_store()
    assert without_idle(busy) is busy


def test_the_beginning_of_a_pause_may_stay() -> None:
    actions = np.array([[0.0], [1], [0], [0], [0], [0.5], [0], [0], [0], [1], [0], [0], [0]], np.float32)
    rows = np.arange(13, dtype=np.float32)
    store = tiny_store((8, 5), actions_NA=actions, obs={"arm": rows[:, None]}, rewards_N=rows)  # motions: 1, 5; 9
    kept = {keep: without_idle(store, keep).obs["arm"][:, 0].tolist() for keep in (0, 1, 2, 9)}
    assert kept[0] == [1, 5, 9]
    assert kept[1] == [0, 1, 2, 5, 6, 8, 9, 10]
    assert kept[2] == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert kept[9] == [*range(13)]
    assert without_idle(store, 1).episode_ends.tolist() == [5, 8]


def test_training_leaves_them_out(tmp_path: Path) -> None:
    data = demonstrations(POINTMASS, 4)
    actions = data.actions_NA.copy()
    actions[data.episode_starts] = 0
    formats.get("store").write_store(tmp_path / "a", dataclasses.replace(data, actions_NA=actions))
    config = RunConfig(env_name="pointmass-scripted-low_dim")
    whole = read_data(config, tmp_path / "a")
    left = read_data(dataclasses.replace(config, drop_idle=True), tmp_path / "a")
    assert len(left.actions_NA) == len(whole.actions_NA) - 4
    assert left.num_episodes == 4
    assert config.run_id("data") != dataclasses.replace(config, drop_idle=True).run_id("data")
    with pytest.raises(UserError, match=r"keep_idle: has no effect without drop_idle"):
        dataclasses.replace(config, keep_idle=2).validate()
    planned = open_data("", str(tmp_path / "a"), 0, ReadArgs(drop_idle=True)).store
    assert planned.fingerprint() == left.fingerprint(), "a plan is of the data that are trained on"
    dataclasses.replace(config, drop_idle=True, sampling_plan_path="plan").validate()
    [remark] = [r for r in verify(source_of(str(tmp_path / "a"))).remarks if "idle" in r]
    assert "--drop_idle" in remark


def test_windows_beyond_the_end(tmp_path: Path) -> None:
    formats.get("store").write_store(tmp_path / "a", tiny_store((5, 9, 3)))
    remarks = verify(source_of(str(tmp_path / "a")), horizon=4).remarks
    assert any(r.startswith("53 % of the windows of 4 actions") for r in remarks), "9 of 17"


def test_robot_rate_and_cameras(tmp_path: Path) -> None:
    data = tiny_store()
    eye = np.zeros((17, 16, 24, 3), np.uint8)
    lerobot_write.write_store(tmp_path / "set", tiny_store(obs={**data.obs, "eye": eye}), fps=15)
    [remark] = verify(source_of(str(tmp_path / "set"))).remarks
    assert remark == "robot unknown, 15 Hz, cameras: observation.images.eye 16 x 24 x 3"


@pytest.mark.parametrize(("name", "kinds"), [("PointMass", set()), ("HalfCheetah-v5", {"version"})])
def test_another_version_and_long_episodes(name: str, kinds: set[str], tmp_path: Path) -> None:
    probe = dataclasses.replace(spec_of_task(POINTMASS), env_args={"env_name": "pointmass"})
    data = dataclasses.replace(demonstrations(POINTMASS, 4), env_args={"env_name": name})
    formats.get("store").write_store(tmp_path / "a", data)
    view = TaskView(POINTMASS, probe)
    assert {f.kind for f in verify(source_of(str(tmp_path / "a")), view).findings} == kinds
    short = TaskView(dataclasses.replace(POINTMASS, max_steps=int(np.diff(data.episode_ends).max()) - 1), probe)
    assert {f.kind for f in verify(source_of(str(tmp_path / "a")), short).findings} == kinds | {"long"}


def test_zeros_that_nobody_recorded_are_no_data(tmp_path: Path) -> None:
    from raybc.data.info import describe
    from raybc.data.stats import statistics

    np.savez(tmp_path / "a.npz", action=np.ones((6, 2)), state=np.arange(12.0).reshape(6, 2), episode_ends=[3, 6])
    assert "rewards" not in describe(tmp_path / "a.npz", formats.read(tmp_path / "a.npz")).arrays
    assert "rewards" not in statistics(source_of(str(tmp_path / "a.npz")))
    assert not formats.read(tmp_path / "a.npz").rewards_N.any()


@pytest.mark.parametrize(
    ("then", "now", "differ"),
    [
        ({"robots": ["Panda"]}, {"robots": "Panda"}, False),
        ({"robots": ["Panda"]}, {"robots": ["Sawyer"]}, True),
        (
            {"controller_configs": {"type": "OSC_POSE", "kp": 150}},
            {"controller_configs": {"type": "BASIC", "body_parts": {"right": {"type": "OSC_POSE"}}}},
            False,
        ),
        (
            {"controller_configs": {"type": "OSC_POSE"}},
            {"controller_configs": {"type": "BASIC", "body_parts": {"arms": {"right": {"type": "JOINT_VELOCITY"}}}}},
            True,
        ),
    ],
)
def test_spellings_of_two_releases_are_no_change(then: dict[str, object], now: dict[str, object], differ: bool) -> None:
    bundle = pointmass_bundle()
    spec = spec_of_task(POINTMASS)
    old = dataclasses.replace(bundle, data_env={"env_name": "Lift", "env_kwargs": then}, environment=spec.identity)
    new = dataclasses.replace(spec, env_args={"env_name": "Lift", "env_kwargs": now})
    assert bool(version_changes(old, new)) is differ
