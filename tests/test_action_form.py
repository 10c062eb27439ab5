"""Actions whose rotations are learned as six numbers: policies, files and servers still give the environment's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import raybc
from raybc.bundle import PolicyBundle
from raybc.data import norm_stats
from raybc.data.action_form import ActionForm
from raybc.data.episodes import EpisodeStore
from raybc.envs.spec import EnvSpec
from raybc.export.rotations import axis_angle
from raybc.inference.agent import Agent
from raybc.inference.offline import offline_error
from raybc.inference.session import Session
from raybc.rollout.checks import check_statistics
from raybc.train.data import prepare
from raybc.train.loop import PackTrainer
from raybc.types import Observation, SampleSetting, UserError
from tests.helpers import CPU, tiny_config, tiny_data, tiny_store

ONE, TWO = ActionForm(7, 1), ActionForm(14, 2)


def arm_actions(rotations: Rotation, seed: int = 0) -> np.ndarray:
    """float32 (N, 7): positions far from 0, these rotations, grippers of -1 and 1."""
    rng, count = np.random.default_rng(seed), len(rotations)
    parts = rng.uniform(0.2, 0.6, (count, 3)), rotations.as_rotvec(), rng.choice([-1.0, 1.0], (count, 1))
    return np.concatenate(parts, axis=1).astype(np.float32)


def downwards(count: int, seed: int = 0) -> Rotation:
    """Grippers that point down and turn about the vertical: rotations of about pi, whose axis-angles change sign."""
    rng = np.random.default_rng(seed)
    yaw = Rotation.from_euler("z", rng.uniform(-0.5, 0.5, (count, 1)))
    return yaw * Rotation.from_rotvec(rng.normal([np.pi, 0, 0], 0.02, (count, 3)))


def arm_store(arms: int = 1, lengths: tuple[int, ...] = (12, 15, 9)) -> EpisodeStore:
    actions = [arm_actions(downwards(sum(lengths), arm), arm) for arm in range(arms)]
    splits = {"train": [0, 1], "valid": [2]}
    return tiny_store(lengths, splits=splits, actions_NA=np.concatenate(actions, axis=1))


def config(**changes: Any) -> Any:
    values = {"action_rotation": "rotation_6d", "normalization_keys": "actions=min_max", "training_steps": 3}
    return tiny_config(**{**values, **changes})


def trained(arms: int = 1, **changes: Any) -> PolicyBundle:
    trainer = PackTrainer([config(**changes)], tiny_data(arm_store(arms)), CPU)
    trainer.advance(trainer.config.training_steps)
    return trainer.bundle(0)


def seen(rows: int, obs_steps: int = 1) -> Observation[np.ndarray]:
    return Observation(np.random.default_rng(0).normal(size=(rows, obs_steps, 5)).astype(np.float32), {})


def same_pose(a: np.ndarray, b: np.ndarray) -> None:
    for first in range(0, a.shape[-1], 7):
        x, y = (v[..., first : first + 7].reshape(-1, 7).astype(np.float64) for v in (a, b))
        np.testing.assert_allclose(x[:, [0, 1, 2, 6]], y[:, [0, 1, 2, 6]], atol=1e-6)
        away = Rotation.from_rotvec(x[:, 3:6]) * Rotation.from_rotvec(y[:, 3:6]).inv()
        assert away.magnitude().max() < 1e-5


# The form


@pytest.mark.parametrize("form", [ONE, TWO])
def test_what_is_encoded_is_decoded(form: ActionForm) -> None:
    rotations = Rotation.concatenate([Rotation.random(100, rng=np.random.default_rng(1)), downwards(100)])
    actions = np.concatenate([arm_actions(rotations, arm) for arm in range(form.arms)], axis=1).reshape(20, 10, -1)
    learned = form.encode(actions)
    assert learned.shape == (20, 10, 10 * form.arms)
    assert learned.dtype == np.float32
    back = form.decode(learned)
    assert back.dtype == np.float32
    same_pose(back, actions)
    for place, mine in form.kept():
        np.testing.assert_array_equal(back[..., place], actions[..., place])
        np.testing.assert_array_equal(learned[..., mine], actions[..., place])


def test_short_axis_angles_come_back_as_numbers() -> None:
    """Deltas of robosuite are axis-angles in units of half a radian, shorter than pi: the same numbers come back."""
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 7)).astype(np.float32)
    np.testing.assert_allclose(ONE.decode(ONE.encode(actions)), actions, atol=1e-6)


def test_predictions_that_are_no_rotation_become_one() -> None:
    learned = np.random.default_rng(0).normal(size=(50, 4, 20)).astype(np.float32)
    actions = TWO.decode(learned)
    for first in (3, 10):
        assert np.linalg.norm(actions[..., first : first + 3], axis=-1).max() <= np.pi + 1e-6
    same_pose(TWO.decode(TWO.encode(actions)), actions)
    assert np.isfinite(TWO.decode(np.zeros((1, 20), np.float32))).all()


def test_as_recorded_is_the_same_array() -> None:
    actions = np.ones((3, 5), np.float32)
    form = ActionForm.of(tiny_config(), 5)
    assert form.encode(actions) is actions
    assert form.decode(actions) is actions
    assert form.size == 5


# Training and acting


def test_positions_are_scaled_and_rotations_are_not() -> None:
    prepared = prepare(config(), tiny_data(arm_store(2)), CPU)
    normalizer = prepared.action_normalizer
    rotations = [*range(3, 9), *range(13, 19)]
    np.testing.assert_array_equal(normalizer.offset[rotations], 0)
    np.testing.assert_array_equal(normalizer.scale[rotations], 1)
    windows = prepared.rotation.at(0)
    learned = windows.actions_NA[windows.starts].numpy()
    others = np.delete(learned, rotations, axis=1)
    np.testing.assert_allclose(others.min(0), -1, atol=1e-6)
    np.testing.assert_allclose(others.max(0), 1, atol=1e-6)
    expected = TWO.encode(arm_store(2).actions_NA[windows.starts.numpy()])
    np.testing.assert_allclose(learned[:, rotations], expected[:, rotations], atol=1e-6)


@pytest.mark.parametrize("policy", ["flow", "flow_unet", "regression"])
def test_policies_give_actions_of_the_environment(policy: str, tmp_path: Path) -> None:
    sizes = {"unet_channels": "8,16", "unet_groups": 4} if policy == "flow_unet" else {}
    bundle = trained(2, policy=policy, **sizes)
    assert (bundle.action_size, bundle.spec.action_size) == (14, 20)
    bundle.save(tmp_path / "bundle")
    loaded = PolicyBundle.load(tmp_path / "bundle")
    agent = Agent(loaded)
    noise = np.random.default_rng(1).normal(size=(5, 4, 20)).astype(np.float32)
    setting = loaded.config.sample_setting
    chunks = agent.chunks(seen(5), noise, setting)
    assert chunks.shape == (5, 4, 14)
    with torch.inference_mode():
        obs = Observation(torch.from_numpy(loaded.obs_normalizer.apply(seen(5).low_dim))[None], {})
        raw = loaded.build().sample(obs, torch.from_numpy(noise)[None], setting)[0].numpy()
    same_pose(chunks, TWO.decode(loaded.action_normalizer.invert(raw)))
    policy_ = raybc.load(tmp_path / "bundle")
    policy_.reset(seed=0)
    obs_now = {"arm": np.zeros(3), "cube": np.zeros(2)}
    assert policy_.act(obs_now).shape == (14,)
    assert policy_.sample_actions(obs_now, 3).shape == (3, 4, 14)
    assert policy_.chunk(obs_now).shape == (4, 14)


def test_a_rotation_about_pi_is_learned() -> None:
    """Regression on one pose whose recorded axis-angle has both signs: their mean would be no rotation at all."""
    pose = np.array([0.4, 0.0, 0.1, np.pi - 1e-3, 0, 0, 1], np.float32)
    other = pose.copy()
    other[3] = -np.pi + 1e-3
    store = tiny_store((40,), actions_NA=np.stack([pose, other] * 20), splits={})
    obs = Observation(store.observation(("arm", "cube"))[:, None], {})

    def error(**changes: Any) -> float:
        """The largest angle between what is predicted and the pose, in degrees."""
        trainer = PackTrainer(
            [config(policy="regression", training_steps=200, lr=1e-2, **changes)], tiny_data(store), CPU
        )
        trainer.advance(200)
        agent = Agent(trainer.bundle(0))
        noise = np.zeros((40, 4, agent.bundle.spec.action_size), np.float32)
        chunks = agent.chunks(obs, noise, SampleSetting(flow_steps=0))
        away = Rotation.from_rotvec(chunks[..., 3:6].reshape(-1, 3)) * Rotation.from_rotvec([np.pi, 0, 0]).inv()
        return float(np.degrees(away.magnitude()).max())

    assert error() < 10
    assert error(action_rotation="as_recorded") > 60


def test_ensembles_average_rotations() -> None:
    bundle = trained()
    setting = SampleSetting(flow_steps=2, execute_steps=1, temporal_ensemble=0.0)
    session = Session(bundle, setting, 0)
    pose = np.array([0.4, 0.0, 0.1, np.pi - 0.02, 0, 0, 1], np.float32)
    opposite = pose.copy()
    opposite[3] = -np.pi + 0.04
    session.plan(np.tile(pose, (4, 1)))
    (action,) = session.plan(np.tile(opposite, (4, 1)))
    turned = Rotation.from_rotvec(action[3:6]) * Rotation.from_rotvec([np.pi + 0.01, 0, 0]).inv()
    assert turned.magnitude() < 1e-3
    np.testing.assert_allclose(action[[0, 1, 2, 6]], pose[[0, 1, 2, 6]], atol=1e-6)


def test_errors_on_held_out_episodes_do_not_jump_at_pi() -> None:
    store = arm_store()
    bundle = trained(policy="regression", training_steps=500, lr=3e-3)
    found = offline_error(Agent(bundle), store, np.array([0, 1]), SampleSetting(flow_steps=0))
    assert found.rmse_A.shape == (10,)
    assert found.rmse_A[3:9].max() < 1
    assert np.abs(np.diff(np.sign(store.actions_NA[:, 3]))).any(), "recorded with both signs"


def test_statistics_are_written_and_used_again(tmp_path: Path) -> None:
    first = prepare(config(), tiny_data(arm_store()), CPU)
    norm_stats.write(
        tmp_path / "stats.json", norm_stats.of_run(first.obs_sizes, first.obs_normalizer, first.action_normalizer)
    )
    again = prepare(config(norm_stats_from=str(tmp_path / "stats.json")), tiny_data(arm_store()), CPU)
    np.testing.assert_allclose(again.action_normalizer.scale, first.action_normalizer.scale)
    with pytest.raises(UserError, match=r"actions: offset: expected 7 numbers as in the data, got 10"):
        prepare(tiny_config(norm_stats_from=str(tmp_path / "stats.json")), tiny_data(arm_store()), CPU)


def test_starting_from_a_policy_of_another_form_is_refused(tmp_path: Path) -> None:
    trained().save(tmp_path / "bundle")
    with pytest.raises(UserError, match=r"action_rotation: rotation_6d there, as_recorded here"):
        PackTrainer([tiny_config(init_from=str(tmp_path / "bundle"))], tiny_data(arm_store()), CPU)


def test_a_bundle_is_compared_with_the_action_space() -> None:
    """By the numbers that both have: positions and grippers."""
    bundle = trained()
    low, high = np.array([-1, -1, -1, -4, -4, -4, -1], np.float32), np.array([1, 1, 1, 4, 4, 4, 1], np.float32)
    spec = EnvSpec({"arm": 3, "cube": 2}, 7, {}, {}, action_low=low, action_high=high)
    spec.starts.update(arm=np.zeros((1, 3)), cube=np.zeros((1, 2)))
    check_statistics(bundle, spec, Path("b"))
    pixels = dataclasses.replace(spec, action_low=np.full(7, 100.0), action_high=np.full(7, 300.0))
    with pytest.raises(UserError, match=r"normalisation of actions does not fit"):
        check_statistics(bundle, pixels, Path("b"))


# Refusals


def test_other_actions_are_refused() -> None:
    with pytest.raises(UserError, match=r"^action_rotation: expected actions of 7 numbers .*, got 2 numbers; use"):
        prepare(config(), tiny_data(), CPU)
    store = arm_store()
    joints = dataclasses.replace(store, actions_NA=store.actions_NA * 2)
    with pytest.raises(UserError, match=r"^action_rotation: expected axis-angles of at most pi .* length 6\.\d+; use"):
        prepare(config(), tiny_data(joints), CPU)


# Exports


def test_the_graph_of_an_export_is_scipys() -> None:
    rng = np.random.default_rng(0)
    exact = Rotation.from_rotvec([[np.pi, 0, 0], [0, np.pi, 0], [0, 0, np.pi], [0, 0, 0], [1e-8, 0, 0]])
    rotations = Rotation.concatenate([Rotation.random(300, rng=rng), downwards(300), exact])
    six = rotations.as_matrix()[:, :2].reshape(-1, 6)
    six = np.concatenate([six, rng.normal(size=(300, 6)), np.zeros((1, 6)), [[0, 2, 0, 0, 1, 0]]]).astype(np.float32)
    found = axis_angle(torch.from_numpy(six)).numpy()
    learned = np.zeros((len(six), 10), np.float32)
    learned[:, 3:9] = six
    same_pose(np.pad(found, ((0, 0), (3, 1))), ONE.decode(learned))


def test_onnx_gives_actions_of_the_environment(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from raybc.export.onnx import export_onnx

    bundle = trained(2)
    facts = export_onnx(bundle, bundle.config.sample_setting, tmp_path / "p.onnx")
    assert facts["outputs"]["actions"]["shape"] == ["B", 4, 14]
    assert facts["inputs"]["noise"]["shape"] == ["B", 4, 20]
    assert "rotation_6d" in facts["outputs"]["actions"]["rotation"]
    obs = seen(3).low_dim
    inputs = {"arm": obs[..., :3], "cube": obs[..., 3:], "noise": np.zeros((3, 4, 20), np.float32)}
    got = onnxruntime.InferenceSession(str(tmp_path / "p.onnx"), providers=["CPUExecutionProvider"]).run(None, inputs)[
        0
    ]
    same_pose(got, Agent(bundle).chunks(seen(3), inputs["noise"], bundle.config.sample_setting))
