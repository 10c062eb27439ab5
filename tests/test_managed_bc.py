"""Two phases of training, the head and then all: what is frozen, the switch, resume; a plain PyTorch loop as oracle.

The data are ten steps of the point mass through a camera; an epoch is `EPOCH` steps.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.config.command import parse_run
from raybc.envs.pointmass import POINTMASS_PIXELS
from raybc.policies.encoders.resnet import BLOCKS, MEAN, SPREAD, ResNet
from raybc.policies.packed import PackedMLP
from raybc.recipes.read import read_recipe
from raybc.train.__main__ import Args
from raybc.train.data import TrainingData, resolved
from raybc.train.loop import PackTrainer
from raybc.train.phases import phases_of
from raybc.train.ranks import Ranks
from raybc.types import UserError
from tests.helpers import demonstrations, read_table, tiny_data, tiny_store, tiny_trainer
from tests.test_images import image_trainer
from tests.test_train_offline import robot, train


@functools.cache
def few_images() -> TrainingData:
    """Ten steps of two episodes, the second of which is held out."""
    store = demonstrations(POINTMASS_PIXELS, 2)
    keep = [*range(6), *range(int(store.episode_ends[0]), int(store.episode_ends[0]) + 4)]
    store = dataclasses.replace(
        store,
        obs={name: values[keep] for name, values in store.obs.items()},
        actions_NA=store.actions_NA[keep],
        rewards_N=store.rewards_N[keep],
        episode_ends=torch.tensor([6, 10]).numpy(),
    )
    return TrainingData(store, store.fingerprint(), POINTMASS_PIXELS.obs_keys, {"pointmass": "1"})


#: The recipe without its weights: 3 epochs of 2 steps, 1 of them frozen.
MANAGED = {
    **{k: v for k, v in read_recipe("managed_bc", "").options.items() if k != "holdout_seed"},
    "pretrained": "none", "action_chunking": False, "horizon_length": 5, "batch_size": 3, "epochs": 3,
    "freeze_epochs": 1, "log_interval": 1,
}  # fmt: skip
EPOCH = 2


def managed(seeds: tuple[int, ...] = (0,), **changes: Any) -> PackTrainer:
    return image_trainer(seeds, few_images(), **{**MANAGED, **changes})


def weights(trainer: PackTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.policy.state_dict().items()}


def assert_same(a: PackTrainer, b: PackTrainer) -> None:
    for name, value in weights(a).items():
        assert torch.equal(value, weights(b)[name]), name
    for name, value in a.optimizer.tensors().items():
        assert torch.equal(value, b.optimizer.tensors()[name]), name
    assert a.monitors == b.monitors
    assert a.rates == b.rates


def test_frozen_means_frozen() -> None:
    """Parameters and statistics of BatchNorm, for an epoch; then all of them learn."""
    trainer = managed()
    assert (trainer.config.training_steps, trainer.config.freeze_steps) == (3 * EPOCH, EPOCH)
    start = weights(trainer)
    trainer.advance(EPOCH)
    for name, value in weights(trainer).items():
        assert torch.equal(value, start[name]) is name.startswith("encoders"), name
    trainer.advance(EPOCH + 1)
    assert not any(torch.equal(value, start[name]) for name, value in weights(trainer).items())


def test_only_layer4_learns() -> None:
    trainer = managed(unfreeze_layer4=True)
    start = weights(trainer)
    trainer.advance(3 * EPOCH)
    for name, value in weights(trainer).items():
        learns = "layer4" in name or not name.startswith("encoders")
        assert torch.equal(value, start[name]) is not learns, name


def test_what_follows_the_backbone_belongs_to_the_head() -> None:
    """The maps of a spatial softmax are new even where the backbone is not; encoders without a backbone are frozen."""
    new = {"encoders.a.network.pool__maps__weight", "network.layers.0.weights_MIO"}
    old = {"encoders.a.network.backbone__conv1__weight", "encoders.a.network.backbone__layer4__0__conv1__weight"}
    run = RunConfig.of(encoder="resnet18", freeze_epochs=1, freeze_steps=2)
    first, second = phases_of(run, [*new, *old])
    assert (first.learning, second.learning) == (new, new | old)
    with pytest.raises(UserError, match="freeze_epochs: found no parameters `encoders"):
        phases_of(run, ["network.layers.0.weights_MIO"])
    impala = {k: v for k, v in MANAGED.items() if not k.startswith(("image_", "pretrained"))}
    trainer = image_trainer((0,), few_images(), **{**impala, "encoder": "impala_small"})
    assert trainer.phases[0].learning == {name for name in trainer.learner.parameters() if "encoders" not in name}


def test_the_switch_starts_optimiser_plateaus_and_early_stopping_again(tmp_path: Path) -> None:
    trainer = managed()
    trainer.advance(EPOCH)
    assert trainer.phase.name == "head_only"
    assert trainer.rates == [1e-3]
    assert not any("encoders" in name for name in trainer.optimizer.tensors())
    trainer.monitors[0].scale, trainer.monitors[0].lr_bad, trainer.monitors[0].stop_bad = 0.25, 3, 9
    trainer.advance(EPOCH + 1)
    assert trainer.phase.name == "finetune"
    assert trainer.rates == [1e-4]
    assert (trainer.monitors[0].scale, trainer.monitors[0].lr_bad, trainer.monitors[0].stop_bad) == (1.0, 0, 0)
    assert {float(v) for name, v in trainer.optimizer.tensors().items() if name.endswith("/step")} == {1.0}


def test_the_switch_survives_a_resume(tmp_path: Path) -> None:
    """Bit for bit, stopped before, at and after it."""
    whole, trainer = managed(epochs=2), managed(epochs=2)
    whole.advance(2 * EPOCH)
    for stop in (1, EPOCH, EPOCH + 1):
        trainer.advance(stop)
        trainer.save_state(tmp_path / "state")
        trainer = managed(epochs=2)
        trainer.load_state(tmp_path / "state")
    trainer.advance(2 * EPOCH)
    assert_same(whole, trainer)


def test_a_member_is_what_it_is_alone() -> None:
    """Also if members differ in the rates of the phases, or if one has stopped before the switch."""
    members = [managed((s,)).config.changed(lr_head=lr, lr_finetune=lr / 20) for s, lr in ((0, 1e-3), (1, 2e-3))]
    data = few_images()
    pack = PackTrainer(members, data, torch.device("cpu"))
    pack.advance(EPOCH + 1)
    alone = PackTrainer(members[1:], data, torch.device("cpu"))
    alone.advance(EPOCH + 1)
    for name, value in weights(pack).items():
        torch.testing.assert_close(value[1], weights(alone)[name][0], rtol=1e-4, atol=1e-6)
    assert pack.rates == [1e-3 / 20, 2e-3 / 20]
    pack = managed((0, 1))
    pack.advance(EPOCH)
    pack.monitors[0].stopped = True
    before = weights(pack)
    pack.advance(EPOCH + 1)
    assert pack.rates == [0.0, 1e-4]
    encoder = [name for name in before if name.startswith("encoders") and "running" not in name]
    assert all(torch.equal(weights(pack)[name][0], before[name][0]) for name in encoder)


def test_it_is_the_plain_loop() -> None:
    """A network, an optimiser and a scheduler of PyTorch, two phases, the same batches."""
    trainer = managed(epochs=5, freeze_epochs=3, plateau_patience=0, lr_head=0.02, lr_finetune=1e-6, grad_clip=0.5)
    start = weights(trainer)

    backbone = ResNet(3, BLOCKS["resnet18"], nn.BatchNorm2d)
    features = sum(trainer.prepared.obs_sizes.values()) + 512
    head = nn.Sequential(
        nn.Linear(features, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 2)
    )  # fmt: skip
    with torch.no_grad():
        for name, value in backbone.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                key = next(k for k in start if k.endswith(f"backbone__{name.replace('.', '__')}"))
                value.copy_(start[key][0])
        for i, layer in enumerate((head[0], head[2], head[4])):
            layer.weight.copy_(start[f"network.layers.{i}.weights_MIO"][0].T)
            layer.bias.copy_(start[f"network.layers.{i}.bias_M1O"][0, 0])

    def predicted(batch: Any) -> Tensor:
        (images,) = batch.obs.images.values()
        x = images[0, :, 0].permute(0, 3, 1, 2).float() / 255
        x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(SPREAD).view(3, 1, 1)
        return head(torch.cat([batch.obs.low_dim[0].flatten(1), backbone(x).mean((-2, -1))], -1))

    validation = trainer.prepared.validation
    assert validation is not None
    held_out = validation.gather(torch.arange(len(validation.starts)).unsqueeze(0))
    for epoch in range(5):
        if epoch in (0, 3):
            backbone.requires_grad_(epoch == 3)
            backbone.train(epoch == 3)  # the statistics of what is frozen stay
            modules = nn.ModuleList([backbone, head])
            learning = [p for p in modules.parameters() if p.requires_grad]
            optimizer = torch.optim.Adam(learning, lr=1e-6 if epoch else 0.02)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        for step in range(epoch * EPOCH, (epoch + 1) * EPOCH):
            batch = trainer.windows.gather(trainer.draws.at(step).indices_MB)
            loss = nn.functional.mse_loss(predicted(batch), batch.actions_MBHA[0, :, 0])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(modules.parameters(), 0.5)
            optimizer.step()
        with torch.no_grad():
            backbone.eval()
            value = nn.functional.mse_loss(predicted(held_out), held_out.actions_MBHA[0, :, 0])
            backbone.train(epoch >= 3)
        scheduler.step(value)
        trainer.advance((epoch + 1) * EPOCH)
        # Rounding grows from step to step: Adam's first steps are as large for a gradient of 1e-9 as for one of 1.
        assert trainer.validation_loss == pytest.approx([float(value)], rel=1e-5 if epoch < 3 else 5e-3)
        assert trainer.rates == pytest.approx([optimizer.param_groups[0]["lr"]])
        assert trainer.phase.name == ("head_only" if epoch < 3 else "finetune")
    got = weights(trainer)
    for name in ("bn1.running_mean", "layer1.0.bn1.running_var"):
        key = next(k for k in got if k.endswith(f"backbone__{name.replace('.', '__')}"))
        torch.testing.assert_close(got[key][0], backbone.get_buffer(name), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(got["network.layers.2.weights_MIO"][0].T, head[4].weight.detach(), rtol=1e-3, atol=1e-4)


def test_epochs_and_phases_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """train.csv has a column `phase` where there are two, and the run is resumed on either side of the switch."""
    data = robot(tmp_path / "robot.hdf5", image=True)  # 8 of 10 episodes of 12 steps are 6 batches of 16
    flags = ["--recipe=managed_bc", "--dataset", data, "--pretrained=none", "--epochs=2", "--freeze_epochs=1"]
    flags += ["--batch_size=16", "--eval_interval=0", "--log_interval=3", "--threads=1", "--out", tmp_path / "run"]
    flags += ["--only_success", "False", "--patience", 4]
    assert train(*flags) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "phases: head_only, steps 1 to 6: " in out
    assert "the encoders that are frozen at first have random weights" in out
    assert "parameters learn, lr 0.001; finetune, steps 7 to 12: " in out
    assert "epoch 2/2, finetune, loss" in out
    rows = read_table(tmp_path / "run" / "train.csv")
    assert [(r["step"], r["phase"], float(r["train/lr"])) for r in rows] == [
        ("3", "head_only", 1e-3), ("6", "head_only", 1e-3), ("9", "finetune", 1e-4), ("12", "finetune", 1e-4)
    ]  # fmt: skip
    assert train(*flags, "--epochs=3", "--resume") == 0
    rows = read_table(tmp_path / "run" / "train.csv")
    assert [r["phase"] for r in rows] == ["head_only"] * 2 + ["finetune"] * 4


def test_a_run_with_one_phase_has_no_such_column(tmp_path: Path) -> None:
    data = robot(tmp_path / "robot.hdf5")
    flags = ["--dataset", data, "--hidden_width=8", "--batch_size=48", "--eval_interval=0", "--log_interval=1"]
    assert train(*flags, "--epochs=2", "--threads=1", "--out", tmp_path / "run") == 0
    rows = read_table(tmp_path / "run" / "train.csv")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"], "8 x 12 windows are two batches of 48"
    assert list(rows[0])[-1] == "round"


def test_epochs() -> None:
    """17 windows in batches of 16 are 2 steps an epoch."""
    store = tiny_store()
    run = resolved(RunConfig.of(epochs=5, batch_size=16, action_chunking=True, horizon_length=4), store)
    assert run.training_steps == 10
    assert resolved(run, store) == run
    frozen = {"freeze": "velocity_field.layers.0", "freeze_epochs": 2, "training_steps": 9, "lr_head": 1e-2}
    trainer = tiny_trainer(**frozen)
    assert [(p.begin, p.name, p.restart) for p in trainer.phases] == [(0, "head_only", False), (4, "finetune", True)]
    with pytest.raises(UserError, match="freeze_steps: expected -1 with freeze_epochs, which is 4 steps, got 3"):
        tiny_trainer(**frozen, freeze_steps=3)
    assert [p.name for p in tiny_trainer(**{**frozen, "training_steps": 4}).phases] == ["head_only"]
    straight = tiny_trainer(lr_finetune=5e-4)
    assert [(p.name, p.restart) for p in straight.phases] == [("train", False)]
    assert straight.rates == [5e-4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 2, "epochs_per_round": 1}, "epochs: expected 0 with epochs_per_round, got 2"),
        ({"freeze_epochs": 2}, "freeze_epochs: expected 0 without an encoder of images, got 2"),
        ({"unfreeze_layer4": True}, "unfreeze_layer4: expected a ResNet as encoder, got None"),
        ({"hidden_widths": "64;32"}, "hidden_widths: expected numbers such as 256,128, got '64;32'"),
        ({"hidden_widths": "0"}, "hidden_widths: expected numbers"),
        (
            {"hidden_widths": "64", "hidden_block": "residual"},
            "hidden_widths: has no effect with hidden_block residual",
        ),
        ({"hidden_activation": "relu", "hidden_block": "residual"}, "hidden_activation: has no effect"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        RunConfig.of(**options).validate("--")
    assert str(refused.value).startswith("--")


def test_several_workers_cannot_switch() -> None:
    with pytest.raises(UserError, match="freeze_epochs: expected 0 with several workers, got 1"):
        Ranks(rank=0, world=2).check([RunConfig.of(encoder="resnet18", freeze_epochs=1)])


def test_flags_as_others_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recipe=managed_bc", "--env_name=lift-scripted-image", "--patience=7", "--only_success"]
    run = parse_run(Args, words, "raybc.train", "")[0]
    assert (run.stop_patience, run.only_successful) == (7, True)
    for flag, ours in (("dataset_root", "dataset"), ("out_dir", "out")):
        with pytest.raises(UserError, match=f"--{flag}: there is no such flag; here it is called --{ours}"):
            parse_run(Args, [*words, f"--{flag}", "x"], "raybc.train", "")


@pytest.mark.parametrize("policy", ["regression", "flow"])
def test_hidden_widths(policy: str) -> None:
    """Layers of these widths; equal ones are the network that width and depth describe, with the same weights."""
    trainer = tiny_trainer(policy=policy, hidden_widths="24,12")
    (mlp,) = (m for m in trainer.policy.modules() if isinstance(m, PackedMLP))
    assert [layer.weights_MIO.shape[2] for layer in mlp.layers][:-1] == [24, 12]
    one = tiny_trainer(policy=policy, hidden_width=16, hidden_depth=2)
    two = tiny_trainer(policy=policy, hidden_widths="16,16", hidden_width=9)
    for name, value in weights(one).items():
        assert torch.equal(value, weights(two)[name])
    assert RunConfig().run_id("a") == RunConfig.of(hidden_widths="", hidden_activation="gelu").run_id("a")
    assert one.config.run_id("a") != two.config.run_id("a")


def test_relu() -> None:
    """As torch's, in training and, with weights laid out, when acting."""
    mlp = PackedMLP(1, 5, 3, (8, 6), relu=True)
    mlp.init_members([torch.Generator().manual_seed(0)])
    x = torch.randn(1, 7, 5, generator=torch.Generator().manual_seed(1))
    expected = x[0]
    for i, layer in enumerate(mlp.layers):
        expected = expected @ layer.weights_MIO[0] + layer.bias_M1O[0]
        expected = expected.relu() if i < 2 else expected
    torch.testing.assert_close(mlp(x)[0], expected)
    mlp.prepare_for_acting()
    with torch.no_grad():
        torch.testing.assert_close(mlp(x)[0], expected)
    assert tiny_trainer(data=tiny_data(), policy="regression", hidden_activation="relu").policy.network.relu
