"""Actions that are learned in metres, radians and openings: the same behaviour, other numbers; what does not fit is
refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.config import RunConfig
from raybc.data.__main__ import main as data_main
from raybc.data.action_form import ActionForm, with_units
from raybc.data.dataset_stat import actions_of, states_of
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import libero, robomimic
from raybc.data.load import load
from raybc.envs.robosuite_control import physical_units
from raybc.envs.spec import EnvSpec
from raybc.export.onnx import export_onnx
from raybc.inference.agent import Agent
from raybc.inference.session import Session
from raybc.rollout.checks import check_fits
from raybc.train.data import resolved
from raybc.train.loop import PackTrainer
from raybc.types import Observation, SampleSetting, UserError
from tests.helpers import CPU, tiny_config, tiny_data, tiny_store

UNITS = "0.05,0.05,0.05,0.5,0.5,0.5,open"
#: As LIBERO's files describe it, robosuite 1.4.
OSC = {
    "type": "OSC_POSE", "input_max": 1, "input_min": -1, "output_max": [0.05] * 3 + [0.5] * 3,
    "output_min": [-0.05] * 3 + [-0.5] * 3, "control_delta": True,
}  # fmt: skip


def env_args(**changes: Any) -> dict[str, Any]:
    return {"env_name": "Tiny", "type": 1, "env_version": "1.4.0", "env_kwargs": {"controller_configs": OSC | changes}}


def arm_store(lengths: tuple[int, ...] = (12, 15, 9), **changes: Any) -> EpisodeStore:
    rng, n = np.random.default_rng(0), sum(lengths)
    deltas = rng.uniform(-1, 1, (n, 6)).astype(np.float32)
    gripper = rng.choice([-1.0, 1.0], (n, 1)).astype(np.float32)
    fields = {"actions_NA": np.concatenate([deltas, gripper], axis=1), "env_args": env_args()}
    return tiny_store(lengths, splits={"train": [0, 1], "valid": [2]}, **fields | changes)


def trained(store: EpisodeStore | None = None, steps: int = 3, **changes: Any) -> PolicyBundle:
    options = {"action_units": "physical", "training_steps": steps} | changes
    trainer = PackTrainer([tiny_config(**options)], tiny_data(store or arm_store()), CPU)
    trainer.advance(steps)
    return trainer.bundle(0)


def seen(rows: int = 5) -> Observation[np.ndarray]:
    return Observation(np.random.default_rng(0).normal(size=(rows, 1, 5)).astype(np.float32), {})


# One place converts


def test_numbers_by_hand() -> None:
    form = ActionForm.of(RunConfig.of(action_units=UNITS), 7)
    learned = form.encode(np.array([[1, -1, 0.2, 1, 0.5, 0, -1], [0, 0, 0, 0, 0, 0, 1]], np.float32))
    np.testing.assert_allclose(
        learned, [[0.05, -0.05, 0.01, 0.5, 0.25, 0, 1], [0, 0, 0, 0, 0, 0, 0]], rtol=1e-6, atol=1e-9
    )
    assert learned.dtype == np.float32


@pytest.mark.parametrize("rotation", ["as_recorded", "rotation_6d"])
def test_what_is_encoded_is_decoded(rotation: str) -> None:
    actions = np.random.default_rng(1).uniform(-1, 1, (20, 4, 7)).astype(np.float32)
    form = ActionForm.of(RunConfig.of(action_units=UNITS, action_rotation=rotation), 7)
    learned = form.encode(actions)
    np.testing.assert_allclose(form.decode(learned), actions, atol=2e-6)
    if rotation == "rotation_6d":  # of radians: a whole turn of the stick is half a radian
        rows = Rotation.from_rotvec(0.5 * actions[..., 3:6].reshape(-1, 3)).as_matrix()[:, :2].reshape(-1, 6)
        np.testing.assert_allclose(learned[..., 3:9].reshape(-1, 6), rows, atol=1e-6)


@pytest.mark.parametrize(
    ("described", "units"),
    [
        (env_args(), UNITS),
        (env_args(output_max=0.1, output_min=-0.1, input_max=2, input_min=-2), ",".join(["0.05"] * 6) + ",open"),
        (env_args(type="OSC_POSITION", output_max=[0.05] * 3, output_min=[-0.05] * 3), "0.05,0.05,0.05,open"),
        (env_args(type="JOINT_POSITION", output_max=0.05, output_min=-0.05), ",".join(["0.05"] * 7) + ",open"),
        (env_args(control_delta=False), ",".join(["1"] * 6) + ",open"),
        ({"env_kwargs": {"controller_configs": {"type": "BASIC", "body_parts": {"right": OSC, "left": OSC}}}},
         f"{UNITS},{UNITS}"),
        ({"env_kwargs": {"controller": "OSC_POSE"}}, UNITS),
        (env_args(type="IK_POSE"), ""),
        (env_args(output_max=None), ""),
        ({"env_kwargs": {}}, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_units_of_a_controller(described: dict[str, Any], units: str) -> None:
    assert ",".join(physical_units(described)) == units


# Training and acting


def test_the_same_behaviour_in_other_numbers(tmp_path: Path) -> None:
    """Normalised, metres are the numbers of the environment: equal policies, statistics times the units."""
    physical, recorded = trained(), trained(action_units="as_recorded")
    assert physical.config.action_units == UNITS, "the bundle says what it learned"
    scale = np.array([0.05] * 3 + [0.5] * 3 + [0.5])
    np.testing.assert_allclose(physical.action_normalizer.scale, recorded.action_normalizer.scale * scale, rtol=1e-5)
    noise = np.random.default_rng(1).normal(size=(5, 4, 7)).astype(np.float32)
    noise[..., 6] *= -1  # an opening is the other way round
    setting = SampleSetting(flow_steps=4)
    physical.save(tmp_path / "bundle")
    loaded = PolicyBundle.load(tmp_path / "bundle")
    chunks = Agent(loaded).chunks(seen(), noise, setting)
    by_hand = Agent(dataclasses.replace(loaded, config=loaded.config.changed(action_units="as_recorded")))
    raw = by_hand.chunks(seen(), noise, setting)
    np.testing.assert_allclose(chunks[..., :6], raw[..., :6] / scale[:6], rtol=1e-5)
    np.testing.assert_allclose(chunks[..., 6], 1 - 2 * raw[..., 6], rtol=1e-5, atol=1e-6)


def test_a_regression_learns_the_environments_actions() -> None:
    actions = np.tile(np.array([1, -1, 0.5, 0, 1, -1, -1], np.float32), (36, 1))
    store = arm_store(actions_NA=actions)
    bundle = trained(store, 200, policy="regression", lr=1e-2, normalization="identity")
    obs = Observation(store.observation(("arm", "cube"))[:, None], {})
    chunks = Agent(bundle).chunks(obs, np.zeros((36, 4, 7), np.float32), SampleSetting(flow_steps=0))
    np.testing.assert_allclose(chunks[..., 3:].mean((0, 1)), [0, 1, -1, -1], atol=0.2)
    learned = bundle.action_form.encode(chunks)
    assert abs(learned[..., 0].mean() - 0.05) < 0.02, "metres"


def test_sessions_and_exports_give_the_environments_actions(tmp_path: Path) -> None:
    bundle = trained(normalization_keys="actions=identity")
    session = Session(bundle, SampleSetting(flow_steps=2, execute_steps=1, temporal_ensemble=0.0), 0)
    session.plan(np.full((4, 7), -1, np.float32))
    (action,) = session.plan(np.ones((4, 7), np.float32))
    np.testing.assert_allclose(action, 0, atol=1e-6)
    pytest.importorskip("onnxruntime")
    export_onnx(bundle, bundle.config.sample_setting, tmp_path / "policy.onnx")  # compares both


def test_the_units_are_part_of_a_run() -> None:
    config, store = tiny_config(action_units="physical"), arm_store()
    assert resolved(config, store).run_id("d") == tiny_config(action_units=UNITS).run_id("d")
    assert resolved(config, store).run_id("d") != tiny_config().run_id("d")
    assert with_units(config, {}, env_args()).action_units == UNITS, "of the environment, where data say nothing"


# Refusals


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("physical", r"^action_units: physical: expected data that describe robosuite's controllers .*, got none"),
        ("0.05,0.05", r"^action_units: expected 7 units, one for each number of an action, got 2"),
        ("0.05,0,1,1,1,1,open", r"^action_units: expected as_recorded, physical, or numbers above 0 and open"),
        ("metres", r"got 'metres'$"),
    ],
)
def test_units_that_cannot_be(units: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trained(arm_store(env_args={}), action_units=units)


def test_a_start_in_other_units_is_refused(tmp_path: Path) -> None:
    trained().save(tmp_path / "bundle")
    with pytest.raises(UserError, match=r"action_units: 0\.05,.*,open there, as_recorded here"):
        PackTrainer([tiny_config(init_from=str(tmp_path / "bundle"))], tiny_data(arm_store()), CPU)


def test_an_environment_of_other_units_is_refused() -> None:
    """One in which the controller moves by other distances, and one whose numbers are those of the network."""
    bundle = trained(arm_store((60, 60, 60)))
    high = np.ones(7, np.float32)
    spec = EnvSpec({"arm": 3, "cube": 2}, 7, {}, env_args(), action_low=-high, action_high=high)
    spec.starts.update(arm=np.zeros((1, 3)), cube=np.zeros((1, 2)))
    check_fits(bundle, spec, Path("b"))
    other = dataclasses.replace(spec, env_args=env_args(output_max=[0.1] * 3 + [0.5] * 3))
    with pytest.raises(UserError, match=r"learned them in units of 0\.05,.* has 0\.075,.*by another distance"):
        check_fits(bundle, other, Path("b"))


@pytest.mark.parametrize("units", ["physical", UNITS])
def test_recorded_metres_become_the_environments_actions(units: str, tmp_path: Path) -> None:
    """Of data that others have converted, which training refuses (`tests/test_data_units.py`)."""
    store = arm_store()
    form = ActionForm.of(RunConfig.of(action_units=UNITS), 7)
    metres = dataclasses.replace(store, actions_NA=form.encode(store.actions_NA))
    robomimic.write_store(tmp_path / "metres.hdf5", metres)
    words = ["convert", str(tmp_path / "metres.hdf5"), "--out", str(tmp_path / "own.hdf5"), "--format", "robomimic"]
    assert run_main(lambda: data_main([*words, "--action_units", units])) == 0
    np.testing.assert_allclose(load(str(tmp_path / "own.hdf5")).actions_NA, store.actions_NA, atol=1e-6)


# Statistics for RDT


def libero_file(path: Path) -> EpisodeStore:
    rng = np.random.default_rng(3)
    store = arm_store()
    n = len(store.actions_NA)
    obs = {
        "ee_pos": rng.uniform(0, 1, (n, 3)), "ee_ori": rng.uniform(-1, 1, (n, 3)),
        "gripper_states": np.stack([rng.uniform(0, 0.04, n), -rng.uniform(0, 0.04, n)], 1),
        "joint_states": rng.uniform(-2, 2, (n, 7)),
    }  # fmt: skip
    store = dataclasses.replace(
        store, obs={k: v.astype(np.float32) for k, v in obs.items()}, tasks=("pick up the milk",) * 3
    )
    libero.write_store(path, store)
    return store


def test_dataset_stat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = libero_file(tmp_path / "pick_up_the_milk_demo.hdf5")
    out = tmp_path / "dataset_stat.json"

    def run(name: str, *flags: str) -> int:
        words = ["stats", str(tmp_path / "pick_up_the_milk_demo.hdf5"), "--dataset_stat", str(out), *flags]
        return run_main(lambda: data_main([*words, "--dataset_name", name]))

    assert run("libero_90") == 0
    assert run("libero_object") == 0
    found = json.loads(out.read_text())
    assert list(found) == ["libero_90", "libero_object"]
    stat = found["libero_90"]
    assert {len(v) for k, v in stat.items() if k != "dataset_name"} == {128}
    metres = 0.05 * store.actions_NA[:, :3].astype(np.float64)
    np.testing.assert_allclose(stat["action_mean"][30:33], metres.mean(0), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(stat["action_std"][30:33], metres.std(0), rtol=1e-5)
    assert max(stat["action_max"][30:33]) <= 0.05 + 1e-6
    np.testing.assert_allclose(stat["state_mean"][30:33], store.obs["ee_pos"].mean(0), rtol=1e-5)
    np.testing.assert_allclose(stat["state_min"][:7], store.obs["joint_states"].min(0), rtol=1e-5)
    columns = Rotation.from_rotvec(0.5 * store.actions_NA[:, 3:6]).as_matrix()[:, :, :2]
    np.testing.assert_allclose(stat["action_mean"][33:39], columns.transpose(0, 2, 1).reshape(-1, 6).mean(0), atol=1e-6)
    assert (stat["action_min"][10], stat["action_max"][10]) == (0, 1)
    assert 0 <= stat["state_min"][10] < stat["state_max"][10] <= 1
    assert not np.any(np.delete(stat["action_std"], [10, *range(30, 39)]))
    assert run("libero_90") == 2
    assert "has statistics of 'libero_90' already" in capsys.readouterr().err
    assert run("x", "--action_units", "1,1") == 2
    assert json.loads(out.read_text()) == found, "nothing half-written"
    out.write_text("[1]")
    assert run("x") == 2
    assert "expected statistics as RDT writes them" in capsys.readouterr().err


def test_the_vector_has_robosuites_names_too(tmp_path: Path) -> None:
    store = libero_file(tmp_path / "a_demo.hdf5")
    read = load(str(tmp_path / "a_demo.hdf5"))
    quat = Rotation.from_rotvec(store.obs["ee_ori"]).as_quat().astype(np.float32)
    names = {
        "robot0_eef_pos": store.obs["ee_pos"], "robot0_eef_quat": -quat,
        "robot0_gripper_qpos": store.obs["gripper_states"], "robot0_joint_pos": store.obs["joint_states"],
    }  # fmt: skip
    np.testing.assert_allclose(states_of(dataclasses.replace(store, obs=names)), states_of(read), atol=1e-5)
    with pytest.raises(UserError, match=r"expected states of an arm .* got arm, cube"):
        states_of(tiny_store())
    with pytest.raises(UserError, match=r"expected 7 numbers .* got 2"):
        actions_of(tiny_store())
