"""LeRobot's checkpoints as bundles: equal actions, or a refusal with the name of what differs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_weights

import raybc
from raybc.__main__ import main
from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.inference.agent import Agent
from raybc.inference.predictor import stack, stack_steps
from raybc.lerobot.files import CONFIG, ENVIRONMENT_STATE, PREPROCESSOR, STATE, WEIGHTS
from raybc.lerobot.imported import import_checkpoint
from raybc.lerobot.layout import layout
from raybc.lerobot.weights import Shapes, to_ours
from raybc.types import Observation, SampleSetting
from tests import lerobot_oracle

needs_lerobot = lerobot_oracle.needed
STATISTICS = "policy_preprocessor_step_3_normalizer_processor.safetensors"


def run(*words: str | Path) -> int:
    return run_main(lambda: main(["import", *map(str, words)]))


def chunks(bundle: PolicyBundle, expected: dict[str, np.ndarray], names: dict[str, str]) -> np.ndarray:
    """What a bundle does in the episode of `expected.npz`, from the same noise, (steps, A)."""
    agent, setting, steps = Agent(bundle), bundle.config.sample_setting, bundle.config.obs_steps
    actions = []
    for now in range(0, len(expected["actions"]), setting.execute_steps):
        seen = [{names[k]: expected[k][t] for k in names} for t in range(max(0, now - steps + 1), now + 1)]
        images = {name: stack_steps([one[name] for one in seen], steps)[None] for name in bundle.images}
        obs = Observation(stack(seen, tuple(bundle.obs_sizes), steps)[None], images)
        actions.append(agent.chunks(obs, expected["noise"][now][None], setting)[0, : setting.execute_steps])
    return np.concatenate(actions)[: len(expected["actions"])]


def own(feature: str) -> str:
    return feature.split(".")[-1]


@needs_lerobot
@pytest.mark.parametrize("name", ["state", "ddpm", "few steps", "mean_std", "image", "cameras", "separate"])
def test_the_actions_are_lerobots(
    lerobot_checkpoints: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the same observations and noise: what its `select_action` gives over an episode."""
    assert run(lerobot_checkpoints / name, "--out", tmp_path / "bundle") == 0
    assert ("DDPM" in capsys.readouterr().out) == (name == "ddpm")
    bundle = PolicyBundle.load(tmp_path / "bundle")
    with np.load(lerobot_checkpoints / name / "expected.npz") as file:
        expected = dict(file)
    names = {key: own(key) for key in expected if key.startswith("observation")}
    got, wanted = chunks(bundle, expected, names), expected["actions"]
    assert wanted.std(0).min() > 0.1, "or equality would show nothing"
    most = 1e-4 if name == "ddpm" else 1e-5  # a hundred steps amplify rounding in a network of random weights
    assert np.abs((got - wanted) / bundle.action_normalizer.scale).max() <= most
    assert raybc.load(tmp_path / "bundle").act({names[k]: expected[k][0] for k in names}).shape == (2,)


@needs_lerobot
def test_what_a_bundle_says(lerobot_checkpoints: Path, tmp_path: Path) -> None:
    """The recipe, as far as the checkpoint tells it; a folder of a training of LeRobot's is its last checkpoint."""
    inside = tmp_path / "train" / "checkpoints" / "000300" / "pretrained_model"
    shutil.copytree(lerobot_checkpoints / "mean_std", inside)
    inside.parent.with_name("last").symlink_to("000300")
    (inside / "train_config.json").write_text('{"seed": 7, "steps": 900, "batch_size": 5}')
    assert run(tmp_path / "train", "--out", tmp_path / "bundle") == 0
    bundle = PolicyBundle.load(tmp_path / "bundle")
    config = bundle.config
    assert (bundle.step, config.seed, config.training_steps, config.batch_size) == (300, 7, 900, 5)
    assert (config.obs_steps, config.past_actions, config.horizon_length, config.execute_steps) == (3, 2, 16, 6)
    assert bundle.obs_sizes == {"state": 3, "environment_state": 5}
    assert config.policy.objective == "diffusion"  # type: ignore[attr-defined]
    assert run(tmp_path / "train", "--out", tmp_path / "bundle") == 2
    assert run(tmp_path / "train", "--out", tmp_path / "bundle", "--overwrite") == 0


@needs_lerobot
def test_observations_of_a_task(lerobot_checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LeRobot's state and state of the environment, from what the point mass observes (state 4, goal 2)."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(lerobot_checkpoints / "state", folder)
    task = ("--env_name", "pointmass", "--out", tmp_path / "bundle")
    assert run(folder, *task) == 2
    assert "observation.environment_state: expected the observation 'environment_state' of pointmass" in one_line(
        capsys
    )
    assert run(folder, *task, "--observations", "observation.state=state:0:3") == 2
    assert "which observes state (4), goal (2)" in one_line(capsys)
    parts = ("observation.state=state:1:3+goal:0:1", "observation.environment_state=state:0:1+goal:1:2")
    assert run(folder, *task, "--observations", *parts) == 2
    assert "expected state:3:4 in one input of LeRobot's, got none" in one_line(capsys)
    parts = ("observation.state=state:1:3+goal:0:1", "observation.environment_state=state:0:1+goal:1:2+state:3:4")
    assert run(folder, *task, "--observations", *parts) == 2
    assert "observation.environment_state: expected 5 numbers, as the checkpoint has, got 3" in one_line(capsys)


@needs_lerobot
def test_numbers_in_another_order_act_alike(lerobot_checkpoints: Path, tmp_path: Path) -> None:
    """The same policy, whose inputs are spread over the observations of a task."""
    known = {"state": 6, "goal": 2}
    bundle = import_checkpoint(lerobot_checkpoints / "state").bundle
    chosen = {STATE: "goal+state:5:6", ENVIRONMENT_STATE: "state:0:5"}
    places = layout(chosen, {}, known)
    shapes = Shapes((16, 24, 32), 2, 16, 8, 2)
    spread = to_ours(load_weights(lerobot_checkpoints / "state" / WEIGHTS), shapes, places)
    plain, moved = (dataclasses.replace(bundle, weights=w).build() for w in (bundle.weights, spread))
    obs = torch.randn(1, 4, 2, 8)
    order = torch.tensor([*places.vectors[STATE], *places.vectors[ENVIRONMENT_STATE]])
    rearranged = torch.empty_like(obs)
    rearranged[..., order] = obs
    noise = torch.randn(1, 4, 16, 2)
    setting = SampleSetting(5)
    torch.testing.assert_close(
        moved.sample(Observation(rearranged), noise, setting), plain.sample(Observation(obs), noise, setting)
    )


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@needs_lerobot
@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("act", {}, "type: expected diffusion, since raybc has no network with the architecture of act; LeRobot"),
        ("state", {"beta_schedule": "linear"}, "beta_schedule: expected squaredcos_cap_v2, which raybc's own network"),
        ("state", {"n_groups": 4}, "n_groups: expected 8"),
        ("state", {"clip_sample": False}, "clip_sample: expected True with normalization MIN_MAX of actions"),
        ("state", {"down_dims": [16, 24, 40]}, "model.safetensors: does not fit config.json: "),
        ("state", {"down_dims": [16, 24]}, "model.safetensors: "),
        ("image", {"resize_shape": [20, 20]}, "resize_shape: expected None"),
        ("image", {"crop_shape": [45, 61]}, "crop_shape: expected a centre that rounds alike in images of 48 x 64"),
        ("image", {"vision_backbone": "resnet50"}, "vision_backbone: expected resnet18 or resnet34"),
        ("state", {"input_features": {}}, "expected input_features with names, types and shapes, found none"),
        ("state", {"type": 3}, "expected the configuration of a LeRobot policy"),
    ],
)  # fmt: skip
def test_what_differs_is_refused_by_name(
    lerobot_checkpoints: Path,
    case: str,
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(lerobot_checkpoints / case, tmp_path / "checkpoint")
    edit(tmp_path / "checkpoint" / CONFIG, **changes)
    assert run(tmp_path / "checkpoint", "--out", tmp_path / "bundle") == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "bundle").exists()


@needs_lerobot
def test_damage_is_refused(lerobot_checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "checkpoint"

    def refused(message: str) -> None:
        assert run(folder, "--out", tmp_path / "bundle") == 2
        assert message in one_line(capsys)
        shutil.rmtree(folder)
        shutil.copytree(lerobot_checkpoints / "state", folder)

    shutil.copytree(lerobot_checkpoints / "state", folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    refused("model.safetensors: not readable as safetensors")
    (folder / WEIGHTS).unlink()
    refused("model.safetensors: expected the weights of a LeRobot checkpoint, found none")
    (folder / PREPROCESSOR).unlink()
    refused("policy_preprocessor.json: expected the processor with the statistics of the policy, found none")
    (folder / STATISTICS).unlink()
    refused("expected the weights of a LeRobot checkpoint")
    save_file(load_file(folder / STATISTICS) | {"observation.state.min": np.zeros(4)}, folder / STATISTICS)
    refused("statistics of observation.state: min: expected (3,), got (4,)")
    save_file(load_file(folder / STATISTICS) | {"observation.state.min": np.full(3, np.nan)}, folder / STATISTICS)
    refused("normalization of observation.state: expected finite statistics, got nan or inf")
    saved = json.loads((folder / PREPROCESSOR).read_text())
    saved["steps"][3]["state_file"] = "../other.safetensors"
    (folder / PREPROCESSOR).write_text(json.dumps(saved))
    refused("state_file: expected the name of a file beside it")
    saved["steps"].insert(0, {"registry_name": "tokenizer_processor", "config": {}})
    (folder / PREPROCESSOR).write_text(json.dumps(saved))
    refused("step tokenizer_processor: expected none that changes values")
    shutil.rmtree(folder)
    folder.mkdir()
    assert run(folder, "--out", tmp_path / "bundle") == 2
    assert "expected a LeRobot checkpoint (a folder with config.json and model.safetensors" in one_line(capsys)


@needs_lerobot
def test_statistics_among_the_weights(lerobot_checkpoints: Path, tmp_path: Path) -> None:
    """Checkpoints of releases before LeRobot had processors."""
    folder = tmp_path / "former"
    folder.mkdir()
    shutil.copy(lerobot_checkpoints / "state" / CONFIG, folder)
    weights, statistics = (
        load_file(lerobot_checkpoints / "state" / WEIGHTS),
        load_file(lerobot_checkpoints / "state" / STATISTICS),
    )
    for key, value in statistics.items():
        feature, _, name = key.rpartition(".")
        where = "unnormalize_outputs" if feature == "action" else "normalize_inputs"
        weights[f"{where}.buffer_{feature.replace('.', '_')}.{name}"] = value
    save_file(weights, folder / WEIGHTS)
    former, now = (import_checkpoint(path).bundle for path in (folder, lerobot_checkpoints / "state"))
    assert (former.obs_normalizer.scale == now.obs_normalizer.scale).all()
    assert (former.action_normalizer.offset == now.action_normalizer.offset).all()


@needs_lerobot
def test_missing_statistics_are_said(
    lerobot_checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LeRobot silently leaves an input as it is then."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(lerobot_checkpoints / "state", folder)
    statistics = load_file(folder / STATISTICS)
    save_file({k: v for k, v in statistics.items() if not k.startswith("observation.state")}, folder / STATISTICS)
    assert run(folder, "--out", tmp_path / "bundle") == 0
    assert "observation.state: the checkpoint has no statistics of it" in capsys.readouterr().out.replace("\n", " ")
    assert (PolicyBundle.load(tmp_path / "bundle").obs_normalizer.scale[:3] == 1).all()
