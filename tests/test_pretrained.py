"""Encoders that start from given weights: a plain network with torchvision's names as oracle, refusals, resume."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.policies.encoders.resnet import BLOCKS, MEAN, SPREAD, ResNet
from raybc.run_folder import TrainingFolder
from raybc.train.data import TrainingData, resolved
from raybc.train.resume import resumed
from raybc.types import UserError
from tests.test_images import image_data, image_trainer
from tests.test_train_offline import robot, train

SMALL = {"encoder": "resnet18", "image_pool": "average", "batch_size": 2}
BATCH = {**SMALL, "image_norm": "batch"}


def torchvisions(kind: str = "resnet18", seed: int = 0) -> dict[str, Tensor]:
    """Random weights and statistics under the names of a whole network of torchvision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResNet(3, BLOCKS[kind], nn.BatchNorm2d)
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        for name, value in weights.items():
            if "running" in name or "bn" in name or "downsample.1" in name:
                weights[name] = torch.rand_like(value.float()).add(0.5).to(value.dtype)
        weights |= {"fc.weight": torch.randn(1000, 512), "fc.bias": torch.randn(1000)}
    return weights


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    weights = torchvisions()
    torch.save(weights, folder / "resnet18.pth")
    save_file(weights, folder / "resnet18.safetensors")
    return folder


def features_of(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """ResNet-18 with BatchNorm in evaluation mode, written out; images: uint8 (N, height, width, 3)."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, gain, shift = (
            weights[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gain + shift

    x = images.permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(SPREAD).view(3, 1, 1)
    x = functional.relu(norm(functional.conv2d(x, weights["conv1.weight"], stride=2, padding=3), "bn1"))
    x = functional.max_pool2d(x, 3, 2, 1)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            out = functional.conv2d(x, weights[f"{at}.conv1.weight"], stride=stride, padding=1)
            out = functional.relu(norm(out, f"{at}.bn1"))
            out = norm(functional.conv2d(out, weights[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            if f"{at}.downsample.0.weight" in weights:
                x = norm(
                    functional.conv2d(x, weights[f"{at}.downsample.0.weight"], stride=stride), f"{at}.downsample.1"
                )
            x = functional.relu(out + x)
    return x.mean((-2, -1))


@pytest.mark.parametrize("name", ["resnet18.pth", "resnet18.safetensors"])
def test_features_are_those_of_the_network_in_the_file(files: Path, name: str) -> None:
    """In every member of a pack; what is not the encoder is drawn as without the option."""
    trainer = image_trainer((0, 1), **BATCH, pretrained=str(files / name))
    drawn = image_trainer((0, 1), **BATCH)
    encoders: Any = trainer.policy.encoders  # type: ignore[union-attr]
    images = torch.randint(256, (3, 40, 36, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = next(iter(encoders.values()))(images.expand(2, -1, -1, -1, -1).unsqueeze(2))
    expected = features_of(torchvisions(), images)
    for m in (0, 1):
        torch.testing.assert_close(got[m], expected, rtol=1e-4, atol=1e-4)
    for key, value in trainer.policy.state_dict().items():
        assert torch.equal(value, drawn.policy.state_dict()[key]) is not key.startswith("encoders"), key
    assert trainer.pretrained == f"pretrained: 100 weights from {files / name} in the encoder"


def test_running_averages_have_no_place_beside_group_norm(files: Path) -> None:
    trainer = image_trainer(**SMALL, pretrained=str(files / "resnet18.pth"))
    assert trainer.pretrained == (
        f"pretrained: 60 weights from {files / 'resnet18.pth'} in the encoder; 40 running averages are not used with "
        "image_norm group"
    )
    weights = trainer.policy.state_dict()
    for name in ("conv1.weight", "bn1.bias", "layer4.1.bn2.weight"):
        key = next(k for k in weights if k.endswith(f"backbone__{name.replace('.', '__')}"))
        assert torch.equal(weights[key][0], torchvisions()[name])


def test_the_sha256_is_that_of_the_weights(files: Path, tmp_path: Path) -> None:
    """Neither the path nor the kind of file is part of a run's identity."""
    store = image_data().store

    def run(**changes: Any) -> RunConfig:
        return resolved(image_trainer(**BATCH).config.changed(**changes), store)

    pth, safe = (run(pretrained=str(files / f"resnet18.{end}")) for end in ("pth", "safetensors"))
    assert pth.run_id("a") == safe.run_id("a") != run().run_id("a") == run(pretrained="").run_id("a")
    save_file(torchvisions(seed=1), tmp_path / "other.safetensors")
    assert run(pretrained=str(tmp_path / "other.safetensors")).run_id("a") != pth.run_id("a")
    required = pth.get("pretrained_sha256")
    assert len(required) == 64
    with pytest.raises(UserError, match=rf"expected the weights {required}, got \w+: they have changed"):
        run(pretrained=str(tmp_path / "other.safetensors"), pretrained_sha256=required)


def refused(**changes: Any) -> str:
    with pytest.raises(UserError) as error:
        image_trainer(**{**BATCH, **changes})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_refused(files: Path, tmp_path: Path) -> None:
    missing = refused(pretrained=str(tmp_path / "no.pth"))
    assert "found none" in missing
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in missing
    save_file(torchvisions("resnet34"), tmp_path / "r34.safetensors")
    other = refused(pretrained=str(tmp_path / "r34.safetensors"))
    assert "expected the weights of resnet18 with image_norm batch, got others (80 unexpected: layer1.2.bn1.b" in other
    assert "they fit --encoder=resnet34" in other
    wide = torchvisions() | {
        "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1),
        "layer1.0.conv3.weight": torch.zeros(1),
    }
    del wide["bn1.running_var"]
    save_file(wide, tmp_path / "wide.safetensors")
    shapes = refused(pretrained=str(tmp_path / "wide.safetensors"))
    for part in (
        "1 missing: bn1.running_var",
        "1 unexpected: layer1.0.conv3.weight",
        "1 of another shape: layer1.0.conv1.weight ([64, 64, 1, 1] instead of [64, 64, 3, 3])",
    ):
        assert part in shapes
    torch.save({"state_dict": torchvisions(), "epoch": 3}, tmp_path / "nested.pth")
    assert "expected tensors by name (a state_dict), got state_dict, epoch" in refused(
        pretrained=str(tmp_path / "nested.pth")
    )
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    assert "could run code" in refused(pretrained=str(tmp_path / "module.pth"))
    (tmp_path / "text.pth").write_text("nothing of the kind")
    assert "text.pth" in refused(pretrained=str(tmp_path / "text.pth"))
    (tmp_path / "torn.safetensors").write_bytes((files / "resnet18.safetensors").read_bytes()[:1000])
    assert "which cannot be read" in refused(pretrained=str(tmp_path / "torn.safetensors"))


def test_weights_of_colours_do_not_fit_other_images(files: Path) -> None:
    data = image_data()
    key = next(iter(data.store.images))
    obs = {name: np.repeat(v, 2, -1) if name == key else v for name, v in data.store.obs.items()}
    six = TrainingData(dataclasses.replace(data.store, obs=obs), "0", data.obs_keys, data.environment)
    with pytest.raises(UserError, match=f"pretrained: {key}: expected images of 3 channels, .*, got 6"):
        image_trainer(data=six, **BATCH, pretrained=str(files / "resnet18.pth"))


def test_options_that_contradict(files: Path) -> None:
    config = RunConfig.of(encoder="resnet18", pretrained="a.pth", init_from="b")
    with pytest.raises(UserError, match="pretrained: expected none with init_from"):
        config.validate()
    config.changed(init_partial=True).validate()
    with pytest.raises(UserError, match="pretrained_sha256: has no effect without pretrained"):
        RunConfig.of(encoder="resnet18", pretrained_sha256="a").validate()
    assert config.inputs() == []
    assert RunConfig.of(encoder="resnet18", pretrained=str(files)).inputs() == [files]


def test_without_torchvision_imagenet_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    message = refused(pretrained="imagenet")
    assert "needs the package torchvision" in message
    assert "resnet18-f37072fd.pth" in message


def test_a_resumed_run_and_a_bundle_need_no_file(files: Path, tmp_path: Path) -> None:
    """The state is loaded without it; a new run still needs it."""
    path = tmp_path / "weights.pth"
    path.write_bytes((files / "resnet18.pth").read_bytes())
    options = {**BATCH, "pretrained": str(path)}
    whole = image_trainer(**options)
    whole.advance(1)
    whole.save_state(tmp_path / "state")
    whole.bundle(0).save(tmp_path / "bundle")
    whole.advance(2)
    config = whole.config
    path.unlink()
    PolicyBundle.load(tmp_path / "bundle")
    again = image_trainer(**options, pretrained_sha256=config.get("pretrained_sha256"), resumes=True)
    again.load_state(tmp_path / "state")
    again.advance(2)
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, again.policy.state_dict()[name]), name
    asked = resolved(config.changed(pretrained_sha256=""), image_data().store, resumes=True)
    assert asked.get("pretrained_sha256") == "", "not known without the file"
    folder = tmp_path / "run"
    facts = {"run_id": config.run_id("a"), "data_fingerprint": "a"}
    folder.mkdir()
    TrainingFolder(folder).flags.write_text(json.dumps(config.to_plain() | facts))
    place = resumed([asked], "a", folder)
    assert place is not None
    assert place.members == (config,)
    with pytest.raises(UserError, match="found none"):
        resolved(config.changed(pretrained_sha256=""), image_data().store)


def test_the_command(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds; a missing file is refused before anything is written, but a run is continued without it."""
    data, path = robot(tmp_path / "robot.hdf5", episodes=3, image=True), tmp_path / "weights.pth"
    flags = ["--dataset", data, "--encoder=resnet18", "--image_pool=average", "--batch_size=2", "--hidden_width=8"]
    flags += [
        "--eval_interval=0",
        "--log_interval=1",
        "--lr=1e-3",
        "--seeds",
        0,
        1,
        "--pretrained",
        path,
        "--threads=1",
    ]
    for resume in ("auto", "False"):
        assert train(*flags, "--training_steps=1", "--resume", resume, "--out", tmp_path / "run") == 2
        assert f"pretrained: {path}: expected a file of weights" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
    path.write_bytes((files / "resnet18.pth").read_bytes())
    assert train(*flags, "--training_steps=1", "--out", tmp_path / "run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "40 running averages are not used with image_norm group" in out
    path.unlink()
    assert train(*flags, "--training_steps=2", "--resume", "--out", tmp_path / "run") == 0
    assert "resuming at step 1" in capsys.readouterr().out
