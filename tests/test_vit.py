"""The encoder `vit`: timm as oracle, what is frozen, weights of a file, refusals. Most need timm, and are skipped
without it; `test_vit` is a tiny model that timm has for tests."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.envs.pointmass import POINTMASS_PIXELS
from raybc.export.onnx import TOLERANCE, export_onnx
from raybc.inference.agent import Agent
from raybc.policies.base import PolicySpec, build_encoders
from raybc.policies.encoders import vit
from raybc.policies.encoders.resnet import MEAN, SPREAD
from raybc.rollout.episode import run_episode
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.space import check_corners
from raybc.testing.policies import generators
from raybc.train.data import TrainingData, resolved
from raybc.train.loop import PackTrainer
from raybc.train.pretrained import with_pretrained
from raybc.types import EpisodeSpec, Observation, SampleSetting, UserError
from tests.helpers import of_images, tiny_config
from tests.test_images import image_data, image_trainer
from tests.test_train_offline import robot, train

TINY = "test_vit"
#: The point mass is seen in images of IMAGE_SIZE, of which patches of 16 pixels cover a crop.
SMALL = {"encoder": "vit", "vit_model": TINY, "image_crop": "32,16", "batch_size": 3}
#: Models with a class token, the average, attention, register tokens, rotary positions and distillation.
MODELS = ("test_vit", "test_vit2", "test_vit3", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224")


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    vit.model_of.cache_clear()
    yield
    vit.model_of.cache_clear()


@pytest.fixture
def timm() -> Any:
    return of_images("timm")


def theirs(timm: Any, name: str = TINY, seed: int = 0, **options: Any) -> Any:
    """A model with random weights, all of which have an effect."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = timm.create_model(name, pretrained=False, **options).eval()
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture
def weights(timm: Any, tmp_path: Path) -> Path:
    """A file with a whole model, as timm publishes them."""
    path = tmp_path / "model.safetensors"
    save_file(theirs(timm).state_dict(), path)
    return path


def images_of(height: int, width: int, channels: int = 3) -> Tensor:
    shape = (2, 3, 1, height, width, channels)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def normalised(model: Any, images: Tensor) -> Tensor:
    mean, spread = (torch.tensor(model.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / spread


def learned(trainer: PackTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.policy.state_dict().items()}


# timm as oracle


@pytest.mark.parametrize("name", [*MODELS, "vit_tiny_patch16_dinov3_qkvb", "eva02_tiny_patch14_224"])
def test_features_are_timms(timm: Any, name: str) -> None:
    """With weights of the usual size of images, for others: timm loads them into a model of this size itself."""
    patch = vit.model_of(name).patch[0]
    height, width = 3 * patch, 4 * patch
    source = theirs(timm, name)
    own = timm.create_model(name, pretrained=False, num_classes=0, img_size=(height, width)).eval()
    module = sys.modules[type(own).__module__]
    filtered = module.checkpoint_filter_fn(source.state_dict(), own)
    own.load_state_dict({k: v for k, v in filtered.items() if k in own.state_dict()})
    pack = vit.PackedViT(2, (height, width, 3), name)
    pack.init_members(generators([0, 1]))
    backbone = {k: v for k, v in source.state_dict().items() if k.split(".")[0] not in vit.model_of(name).heads}
    assert pack.load_backbone(backbone) == ()
    images = images_of(height, width)
    with torch.no_grad():
        got = pack(images)
        for m in range(2):
            expected = own(normalised(own, images[m, :, 0]))
            assert expected.std() > 0.01
            torch.testing.assert_close(got[m], expected, rtol=1e-5, atol=1e-5)
    assert pack.features == own.num_features


def test_colours_are_normalised_as_the_weights_expect(timm: Any) -> None:
    assert vit.model_of("vit_small_patch16_224").mean == (0.5, 0.5, 0.5)
    dino = vit.model_of("vit_small_patch16_224.dino")
    assert (dino.mean, dino.spread) == (MEAN, SPREAD)
    assert dino.url == "https://huggingface.co/timm/vit_small_patch16_224.dino/resolve/main/model.safetensors"


def test_timm_draws_the_initial_weights(timm: Any) -> None:
    pack = vit.PackedViT(1, (32, 32, 3), TINY)
    pack.init_members(generators([5]))
    seed = int(torch.randint(2**31, (), generator=generators([5])[0]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        own = timm.create_model(TINY, pretrained=False, num_classes=0, img_size=(32, 32))
    for name, value in own.state_dict().items():
        assert torch.equal(getattr(pack.network, f"backbone.{name}".replace(".", "__"))[0], value), name


def test_each_step_is_encoded_by_itself(timm: Any) -> None:
    encoders = build_encoders(
        RunConfig.of(encoder="vit", vit_model=TINY).encoder, PolicySpec(3, 2, 4, 2, (("front", (32, 48, 3)),)), 2
    )
    encoders.init_members(generators([0, 1]))
    images = torch.randint(256, (2, 3, 2, 32, 48, 3), dtype=torch.uint8)
    seen = encoders.encode(Observation(torch.zeros(2, 3, 2, 3), {"front": images}))
    assert seen.shape == (2, 3, encoders.features)
    for step, part in enumerate(seen[..., 6:].chunk(2, -1)):
        torch.testing.assert_close(part, encoders["front"](images[:, :, step : step + 1]), rtol=1e-4, atol=1e-5)


def test_images_of_other_channels(timm: Any) -> None:
    pack = vit.PackedViT(1, (16, 16, 1), TINY)
    pack.init_members(generators([0]))
    assert pack.network.mean.shape == (1, 1, 1, 1)
    assert torch.isfinite(pack(images_of(16, 16, 1)[:1])).all()


# Training


def test_fine_tuned(weights: Path, tmp_path: Path) -> None:
    """Every weight of every member learns; a member is what it is alone; a resumed run is the same bit for bit."""
    options = {**SMALL, "pretrained": str(weights), "ema_decay": 0.9, "color_jitter": 0.1}
    options["lr"] = 1e-5  # Adam makes a whole step of a gradient that is nothing but rounding
    whole = image_trainer((0, 1), **options)
    start = learned(whole)
    whole.advance(2)
    whole.save_state(tmp_path / "state")
    whole.advance(4)
    for name, value in learned(whole).items():
        fixed = name.endswith(("network.mean", "network.spread"))
        assert torch.equal(value, start[name]) is fixed, name
    again = image_trainer((0, 1), **options)
    again.load_state(tmp_path / "state")
    again.advance(4)
    for name, value in learned(whole).items():
        assert torch.equal(value, learned(again)[name]), name
    alone = image_trainer((1,), **options)
    alone.advance(4)
    for name, value in learned(alone).items():
        torch.testing.assert_close(learned(whole)[name][1], value[0], rtol=1e-3, atol=1e-4)


def test_frozen(weights: Path) -> None:
    """Neither weight decay nor averaging changes the model, nothing of it is kept for gradients, and its features are
    those of the file to the end."""
    options = {**SMALL, "pretrained": str(weights), "vit_frozen": True, "weight_decay": 0.5, "ema_decay": 0.9}
    trainer = image_trainer((0, 1), **options)
    start = learned(trainer)
    assert any("backbone__" in name for name in start)
    trainer.advance(5)
    for name, value in learned(trainer).items():
        assert torch.equal(value, start[name]) is name.startswith("encoders."), name
    assert not any(name.startswith("encoders.") for name in trainer.optimizer.tensors())
    for name, value in trainer.bundle(1).weights.items():
        if name.startswith("encoders."):
            assert torch.equal(value[0], start[name][1]), name
    encoders: Any = trainer.policy.encoders  # type: ignore[union-attr]
    images = images_of(32, 16)
    assert next(iter(encoders.values()))(images).grad_fn is None
    assert [phase.name for phase in trainer.phases] == ["train"]


def test_the_head_first_then_all(weights: Path) -> None:
    trainer = image_trainer(**SMALL, pretrained=str(weights), freeze_epochs=1, epochs=2, lr_head=1e-3, lr_finetune=1e-4)
    start, steps = learned(trainer), trainer.config.freeze_steps
    trainer.advance(steps)
    for name, value in learned(trainer).items():
        assert torch.equal(value, start[name]) is name.startswith("encoders."), name
    trainer.advance(steps + 1)
    changed = [name for name, value in learned(trainer).items() if not torch.equal(value, start[name])]
    assert sum(name.startswith("encoders.") for name in changed) > 10


def test_acting_and_onnx(weights: Path, tmp_path: Path) -> None:
    """A saved policy needs no file; it acts in an episode, and onnxruntime gives the same results."""
    pytest.importorskip("onnxruntime")
    trainer = image_trainer(**SMALL, pretrained=str(weights))
    trainer.advance(1)
    trainer.bundle(0).save(tmp_path / "bundle")
    weights.unlink()
    bundle = PolicyBundle.load(tmp_path / "bundle")
    assert bundle.config.get("vit_model") == TINY
    episode = EpisodeSpec("pointmass_pixels", "search", 3)
    setting = SampleSetting(flow_steps=2)
    first, second = (
        dataclasses.replace(run_episode(POINTMASS_PIXELS.make(None), Agent(b), episode, setting, 5), seconds=0.0)
        for b in (bundle, trainer.bundle(0))
    )
    assert first == second
    found = export_onnx(bundle, setting, tmp_path / "policy.onnx")
    assert found["largest_difference"] <= TOLERANCE


# Weights


def test_weights_of_a_file(timm: Any, weights: Path, tmp_path: Path) -> None:
    """In every member; safetensors and .pth are the same run; the last layer is left out."""
    torch.save(theirs(timm).state_dict(), tmp_path / "model.pth")
    trainer = image_trainer((0, 1), **SMALL, pretrained=str(weights))
    drawn = image_trainer((0, 1), **SMALL)
    own = theirs(timm, num_classes=0).state_dict()
    assert trainer.pretrained == f"pretrained: {len(own)} weights from {weights} in the encoder"
    for name, value in learned(trainer).items():
        inside = name.partition("backbone__")[2]
        assert torch.equal(value, learned(drawn)[name]) is not bool(inside), name
        if inside and inside != "pos_embed":
            expected = next(v for k, v in theirs(timm).state_dict().items() if k.replace(".", "__") == inside)
            assert torch.equal(value, expected.expand_as(value)), name
    store = image_data().store

    def run(**changes: Any) -> RunConfig:
        return resolved(tiny_config(**{"env_name": "pointmass-scripted-image", **SMALL, **changes}), store)

    first, second = run(pretrained=str(weights)), run(pretrained=str(tmp_path / "model.pth"))
    assert first.run_id("a") == second.run_id("a") != run().run_id("a")
    save_file(theirs(timm, seed=1).state_dict(), tmp_path / "other.safetensors")
    assert run(pretrained=str(tmp_path / "other.safetensors")).run_id("a") != first.run_id("a")
    with pytest.raises(UserError, match="they have changed since training started"):
        run(pretrained=str(tmp_path / "other.safetensors"), pretrained_sha256=first.get("pretrained_sha256"))


def of(**changes: Any) -> RunConfig:
    return tiny_config(**{"env_name": "pointmass-scripted-image", **SMALL, **changes})


def refused(**changes: Any) -> str:
    with pytest.raises(UserError) as error:
        image_trainer(**{**SMALL, **changes})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_that_do_not_fit(timm: Any, tmp_path: Path) -> None:
    other = theirs(timm, "test_vit2").state_dict()
    save_file(other, tmp_path / "other.safetensors")
    message = refused(pretrained=str(tmp_path / "other.safetensors"))
    assert f"{tmp_path / 'other.safetensors'}: expected the weights of test_vit, got others (" in message
    assert "unexpected: " in message
    odd = theirs(timm).state_dict()
    odd["pos_embed"] = odd["pos_embed"][:, :8]  # a class token and 7 patches, which are no square
    save_file({k: v.contiguous() for k, v in odd.items()}, tmp_path / "odd.safetensors")
    assert "1 of another shape: pos_embed ([1, 8, 64] instead of [1, 101, 64])" in refused(
        pretrained=str(tmp_path / "odd.safetensors")
    )
    missing = refused(pretrained=str(tmp_path / "none.pth"))
    assert "found none; those of timm are at https://huggingface.co/timm/test_vit.r160_in1k/resolve/main" in missing
    assert "timm.create_model('test_vit', pretrained=True).state_dict()" in missing


def test_weights_that_timm_downloads(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the usual size, so the same run as with the file; without a network one line says where they are."""
    own = theirs(timm, num_classes=0)
    monkeypatch.setattr(vit, "downloaded", lambda name: own.state_dict())
    found = with_pretrained(of(pretrained="timm")).get("pretrained_sha256")
    assert len(found) == 64
    assert "weights from timm in the encoder" in image_trainer(**SMALL, pretrained="timm").pretrained

    def fails(name: str) -> Any:
        raise OSError("no network\nand more")

    monkeypatch.setattr(vit, "downloaded", fails)
    message = refused(pretrained="timm", vit_model="test_vit3")
    assert "pretrained: timm: timm could not load the weights (no network); download https://hugging" in message
    assert message.endswith("and name the file: --pretrained=FILE")


def test_weights_of_colours_do_not_fit_other_images(weights: Path) -> None:
    data = image_data()
    key = next(iter(data.store.images))
    obs = {name: np.repeat(v, 2, -1) if name == key else v for name, v in data.store.obs.items()}
    six = TrainingData(dataclasses.replace(data.store, obs=obs), "0", data.obs_keys, data.environment)
    with pytest.raises(UserError, match=f"pretrained: {key}: expected images of 3 channels, .*, got 6"):
        image_trainer(data=six, **SMALL, pretrained=str(weights))


# Refusals


def test_an_old_timm(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> Any:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(vit, "_network", fails)
    with pytest.raises(
        UserError, match=r"timm [\d.]+ cannot make test_vit without its weights: Tensor.item.*pip install"
    ):
        of().encoder.check_available("--")


def test_corners_of_a_sweep(timm: Any) -> None:
    """Every corner is checked against the data before anything is trained."""
    sweep = {
        "name": "images",
        "space": {"vit_model": {"values": [TINY, "eva02_tiny_patch14_224"]}},
        "train": {"env_name": "pointmass-scripted-image", "encoder": "vit"},
    }
    config = sweep_from_mapping(sweep, "sweep.yaml")
    with pytest.raises(UserError, match="pixels: expected a height and a width that are multiples of 14 and 14"):
        check_corners(config, image_data().store)
    sweep["space"] = {"vit_model": {"values": [TINY, "test_vitt"]}}
    with pytest.raises(UserError, match="--vit_model: expected a vision transformer of timm, got 'test_vitt'; did you"):
        check_corners(sweep_from_mapping(sweep, "sweep.yaml"))


def test_an_unknown_model(timm: Any) -> None:
    for name, near in (
        ("vit_smal_patch16_224", "vit_small_patch16_224"),
        ("resnet18", "known names"),
        ("vit_small_patch16_224.dinoo", "vit_small_patch16_224.dino"),
    ):
        with pytest.raises(UserError, match=r"^--vit_model: ") as error:
            of(vit_model=name).encoder.check_available("--")
        assert near in str(error.value)


def test_images_that_patches_do_not_cover(timm: Any) -> None:
    message = refused(image_crop="", vit_model="eva02_tiny_patch14_224")
    assert message.startswith("--encoder=vit: pixels: expected a height and a width that are multiples of 14 and 14")
    assert "the patch of eva02_tiny_patch14_224, got 32,32; the nearest are 28,28 and 42,42" in message
    with pytest.raises(UserError, match=r"^--image_crop: expected .* got 20,16; the nearest are 16,16 and 32,16"):
        of(image_crop="20,16").encoder.check_available("--")


def test_options_that_contradict() -> None:
    """Without timm, which nothing here needs."""
    with pytest.raises(UserError, match="vit_frozen: expected weights to keep, got pretrained = none"):
        of(vit_frozen=True).validate()
    of(vit_frozen=True, pretrained="a.pth").validate()
    of(vit_frozen=True, init_from="a").validate()
    with pytest.raises(UserError, match="freeze_epochs: expected 0 with vit_frozen"):
        of(vit_frozen=True, pretrained="a.pth", freeze_epochs=2, epochs=3).validate()
    with pytest.raises(UserError, match="pretrained: expected none with init_from"):
        of(pretrained="a.pth", init_from="a").validate()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (None, r"^--encoder=vit: needs the package timm: pip install 'raybc\[vit\]'$"),
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            r"^--encoder=vit: timm cannot be imported: operator torchvision::nms does not exist; expected a "
            rf"torchvision that was built for PyTorch {re.escape(torch.__version__)}.*: pip install --force-reinstall ",
        ),
    ],
)
def test_without_timm(
    fault: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before data are read, by the command too; nothing else needs timm."""
    if fault is None:
        monkeypatch.setitem(sys.modules, "timm", None)
    else:
        monkeypatch.delitem(sys.modules, "timm", raising=False)
        (tmp_path / "timm.py").write_text(fault)
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message):
        of().encoder.check_available("--")
    with pytest.raises(UserError, match=message):
        of().check_encoder(["pixels"])
    of().validate()
    (tmp_path / "unread.hdf5").write_text("reading this would be an error of its own")
    assert train("--dataset", tmp_path / "unread.hdf5", "--encoder=vit", "--out", tmp_path / "run") == 2
    assert "encoder=vit" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_command(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds of a frozen model, extended without the file; sizes are refused before anything is read."""
    data = robot(tmp_path / "robot.hdf5", episodes=3, image=True)
    flags = ["--dataset", data, "--encoder=vit", "--vit_model", TINY, "--vit_frozen", "--pretrained", weights]
    flags += ["--batch_size=2", "--hidden_width=8", "--eval_interval=0", "--log_interval=1", "--threads=1", "--seeds"]
    flags += [0, 1]
    assert train(*flags, "--training_steps=1", "--image_crop=20", "--out", tmp_path / "run") == 2
    assert "--image_crop: expected a height and a width" in capsys.readouterr().err.replace("\n", " ")
    other = ["--vit_model=eva02_tiny_patch14_224", "--pretrained=none.pth", "--training_steps=1"]
    assert train(*flags, *other, "--out", tmp_path / "run") == 2
    assert "--encoder=vit: front_image: expected a height" in capsys.readouterr().err.replace("\n", " ")
    assert train(*flags, "--training_steps=1", "--image_crop=16", "--out", tmp_path / "run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "weights from" in out
    assert "parameters learn" in out
    weights.unlink()
    assert train(*flags, "--training_steps=2", "--image_crop=16", "--resume", "--out", tmp_path / "run") == 0
    assert "resuming at step 1" in capsys.readouterr().out
