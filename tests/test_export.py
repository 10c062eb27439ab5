"""A policy as an ONNX file: what onnxruntime gives is what the policy gives, or nothing is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.envs.pointmass import POINTMASS_PIXELS, PointMassEnv
from raybc.export import onnx as export
from raybc.export.__main__ import main
from raybc.inference.agent import Agent
from raybc.types import Observation, SampleSetting
from tests.helpers import pointmass_bundle, pointmass_data, tiny_trainer
from tests.test_images import image_trainer

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(*words: str | Path) -> int:
    return run_main(lambda: main([str(word) for word in words]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pointmass_bundle().save(tmp_path / "bundle")
    return tmp_path / "bundle"


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_one_file_acts_alone(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Physical in, physical out, any batch, other flow steps; what it must be fed stands in it and beside it."""
    out = tmp_path / "policy.onnx"
    assert run(folder, "--onnx", "--flow_steps", "3", "--out", out) == 0
    assert "differs from the policy by" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "policy.json", "policy.onnx"]
    bundle, runtime, rng = pointmass_bundle(), session(out), np.random.default_rng(0)
    assert {i.name: (i.type, i.shape) for i in runtime.get_inputs()} == {
        "state": ("tensor(float)", ["B", 1, 4]),
        "goal": ("tensor(float)", ["B", 1, 2]),
        "noise": ("tensor(float)", ["B", 8, 2]),
    }
    obs = [PointMassEnv().reset(seed=seed)[0] for seed in range(7)]
    inputs = {name: np.stack([o[name] for o in obs])[:, None] for name in bundle.obs_sizes}
    noise = rng.standard_normal((7, 8, 2)).astype(np.float32)
    got = runtime.run(["actions"], {**inputs, "noise": noise})[0]
    obs_BTO = np.concatenate([inputs[name] for name in bundle.obs_sizes], -1)
    expected = Agent(bundle).chunks(Observation(obs_BTO), noise, SampleSetting(3))
    assert (got.shape, got.dtype) == ((7, 8, 2), np.float32)
    assert (np.abs(got - expected) <= 1e-5 * bundle.action_normalizer.scale).all()
    facts = json.loads(out.with_suffix(".json").read_text())
    inside = runtime.get_modelmeta().custom_metadata_map
    assert {k: inside[k] if isinstance(v, str) else json.loads(inside[k]) for k, v in facts.items()} == facts
    assert (facts["run_id"], facts["step"], facts["fps"]) == (bundle.run_id, 300, 10.0)
    assert facts["setting"]["flow_steps"] == 3
    assert facts["inputs"]["state"]["shape"] == ["B", 1, 4]
    assert facts["outputs"]["actions"]["scale"] == bundle.action_normalizer.scale.tolist()
    assert 0 <= facts["largest_difference"] <= 1e-5


def bundles() -> dict[str, PolicyBundle]:
    unet = {"policy": "flow_unet", "unet_channels": "8,16", "unet_groups": 4, "unet_time_size": 8}
    transformer = {
        "policy": "flow_transformer",
        "transformer_layers": 2,
        "transformer_heads": 2,
        "transformer_width": 16,
    }
    history = {"obs_steps": 3, "use_fourier_features": True, "normalization": "min_max"}
    return {
        "history": tiny_trainer(data=pointmass_data(), **history).bundle(0),
        "single actions": tiny_trainer(data=pointmass_data(), action_chunking=False, flow_steps=1).bundle(0),
        "deep": tiny_trainer(data=pointmass_data(), hidden_width=256, hidden_depth=4, flow_steps=10).bundle(0),
        "images": image_trainer(obs_steps=2).bundle(0),
        "regression": tiny_trainer(data=pointmass_data(), policy="regression").bundle(0),
        "U-Net": tiny_trainer(data=pointmass_data(), **unet).bundle(0),
        "transformer": tiny_trainer(data=pointmass_data(), obs_steps=2, flow_steps=2, **transformer).bundle(0),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "history", "single actions", "deep", "images", "regression", pytest.param("U-Net", marks=pytest.mark.slow),
        "transformer",
    ],
)  # fmt: skip
def test_every_kind_of_policy(kind: str, tmp_path: Path) -> None:
    bundle = bundles()[kind]
    bundle.save(tmp_path / "bundle")
    assert run(tmp_path / "bundle", "--onnx", "--out", tmp_path / "p.onnx") == 0
    facts = json.loads((tmp_path / "p.json").read_text())
    steps = bundle.config.obs_steps
    assert facts["inputs"]["state"]["shape"] == ["B", steps, 4]
    if kind == "images":
        obs, _ = POINTMASS_PIXELS.make(None).reset(seed=0)
        assert facts["inputs"]["pixels"]["dtype"] == "uint8"
        shape = (1, steps, *obs["pixels"].shape)
        pixels = np.broadcast_to(obs["pixels"], shape).copy()
        state = np.broadcast_to(obs["state"], (1, steps, 4)).copy()
        noise = np.zeros((1, 4, 2), np.float32)
        got = session(tmp_path / "p.onnx").run(None, {"pixels": pixels, "state": state, "noise": noise})[0]
        setting = SampleSetting(**facts["setting"])
        expected = Agent(bundle).chunks(Observation(state, {"pixels": pixels}), noise, setting)
        assert (np.abs(got - expected) <= 1e-5 * bundle.action_normalizer.scale).all()


def test_what_differs_is_not_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here: a graph that adds a little to every action."""
    forward = export.PhysicalPolicy.forward

    def other(self: Any, *inputs: Any) -> Any:
        return forward(self, *inputs) + 1e-4

    monkeypatch.setattr(export.PhysicalPolicy, "forward", other)
    assert run(folder, "--onnx", "--out", tmp_path / "p.onnx") == 1
    error = capsys.readouterr().err
    assert "onnxruntime differs from the policy by" in error
    assert "expected at most 1e-05; nothing was written" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


def test_what_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.json").touch()
    for words, message in (
        ((folder,), "error: expected --onnx, --lerobot or --push_to_hub OWNER/NAME (what to export)"),
        ((folder, "--onnx", "--out", tmp_path / "p"), "expected a file that ends in .onnx"),
        ((folder, "--onnx", "--out", tmp_path / "there.onnx", "--overwrite"), "there.json: exists, and raybc did not"),
        ((folder, "--onnx", "--flow_steps", "0"), "flow_steps: expected at least 1, got 0"),
        ((tmp_path / "no", "--onnx"), "expected a policy bundle"),
    ):
        assert run(*words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_missing_packages_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(folder, "--onnx", "--out", tmp_path / "p.onnx") == 2
    assert "--onnx: needs the package onnxruntime: pip install 'raybc[onnx]'" in capsys.readouterr().err
