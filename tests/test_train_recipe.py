"""Parts of a recipe: schedules, plateaus, stopping, averages, accumulation, freezing, rounds. Letters: M members."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.config import MEMBER_FIELDS
from raybc.config.policy import FlowConfig
from raybc.policies.base import Loss
from raybc.policies.flow import FlowPolicy
from raybc.train.data import TrainingData, prepare, resolved
from raybc.train.loop import PackTrainer
from raybc.train.schedule import LossMonitor, learning_rate, rates
from raybc.train.step import NonFiniteLoss
from raybc.types import UserError
from tests.helpers import CPU, pointmass_data, tiny_config, tiny_data, tiny_store, tiny_trainer

#: Members that differ in everything they may differ in.
MIXED: tuple[dict[str, Any], ...] = (
    {"seed": 1, "lr": 1e-2, "ema_decay": 0.9},
    {"seed": 2, "lr": 1e-3, "weight_decay": 0.3, "grad_clip": 0.2, "lr_schedule": "cosine"},
    {"seed": 2, "lr": 3e-3, "lr_schedule": "plateau", "plateau_patience": 0, "plateau_factor": 0.3},
    {"seed": 5, "lr": 1e-2, "warmup_steps": 40, "stop_patience": 2, "stop_min_delta": 0.05},
)
HELD_OUT = {"train": [0, 2], "valid": [1]}


def mixed(changes: Sequence[dict[str, Any]] = MIXED, data: TrainingData | None = None, **common: Any) -> PackTrainer:
    data = data or tiny_data(tiny_store(splits=HELD_OUT))
    return PackTrainer([tiny_config(**{**common, **c}) for c in changes], data, CPU)


def weights(trainer: PackTrainer, m: int) -> dict[str, torch.Tensor]:
    return dict(trainer.bundle(m).weights)


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


# Members of their own


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_members_with_rates_of_their_own_are_what_they_are_alone(optimizer: str) -> None:
    """Every field in `MEMBER_FIELDS` that MIXED uses: rates, decay, clipping, averages, plateaus and stopping."""
    common = {"training_steps": 200, "monitor_interval": 9, "optimizer": optimizer}
    pack = mixed(**common)
    pack.advance(200)
    assert pack.step == 200
    for m, changes in enumerate(MIXED):
        alone = mixed([changes], **common)
        alone.advance(200)
        assert_close(weights(alone, 0), weights(pack, m))
        assert dataclasses.replace(alone.monitors[0], lr_best=0, stop_best=0) == dataclasses.replace(
            pack.monitors[m], lr_best=0, stop_best=0
        )
    assert pack.monitors[2].scale < 1, "the plateau was reached"
    assert pack.monitors[3].stopped, "one has stopped"
    assert alone.step < 200, "alone, it ended there"


def test_groups_of_their_own_change_nothing() -> None:
    """The optimiser over slices and the one over packed parameters do the same, to the bit."""
    together, apart = tiny_trainer([3, 4], training_steps=30), tiny_trainer([3, 4], training_steps=30, stop_patience=99)
    assert (together.optimizer.split, apart.optimizer.split) == (False, True)
    for trainer in (together, apart):
        trainer.advance(30)
    for name, value in together.policy.state_dict().items():
        assert torch.equal(value, apart.policy.state_dict()[name])
    for name, value in together.optimizer.tensors().items():
        assert torch.equal(value, apart.optimizer.tensors()[name])


def test_adam_is_torchs() -> None:
    trainer = tiny_trainer([0], weight_decay=0.1, lr=0.01, optimizer="adam")
    policy = tiny_trainer([0]).policy
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01, weight_decay=0.1, fused=False, foreach=False)
    for step in range(5):
        drawn = trainer.draws.at(step)
        optimizer.zero_grad()
        policy.loss(trainer.windows.gather(drawn.indices_MB), drawn.draws).value_MB.mean().backward()
        optimizer.step()
    trainer.advance(5)
    assert_close(dict(policy.state_dict()), dict(trainer.policy.state_dict()))


#: epochs_per_round is resolved to training_steps, and sampling_plan_path to its sha256, which may not differ either.
RESOLVED = ("epochs_per_round", "sampling_plan_path")
ALIKE = [name for name in tiny_config().options() if name not in (*MEMBER_FIELDS, *RESOLVED)]


@dataclasses.dataclass(frozen=True)
class OwnConfig(FlowConfig):
    """Another kind of policy with the same options."""


@pytest.mark.parametrize("field", ALIKE)
def test_members_may_not_differ_in_more(field: str) -> None:
    config = tiny_config()
    value = config.get(field)
    other = {bool: not value, str: f"{value}x", int: value + 1 if isinstance(value, int) else 0, float: 0.25}.get(
        type(value)
    )
    named = {
        "policy": f"{OwnConfig.__module__}:OwnConfig",
        "encoder": "impala",
        "metric": "return",
        "language": "one_hot",
        "critic": "q_chunking",
    }
    other = named.get(field, other)
    with pytest.raises(UserError, match=f"^{field}: members of a pack may differ in seed, lr"):
        PackTrainer([config, config.changed(seed=1, **{field: other})], tiny_data(), CPU)


def test_a_mixed_pack_goes_on_bit_for_bit(tmp_path: Path) -> None:
    common = {"training_steps": 120, "monitor_interval": 7, "accumulate": 2}
    whole = mixed(**common)
    whole.advance(120)
    trainer = mixed(**common)
    for cut in (1, 30, 31, 77):
        trainer.advance(cut)
        trainer.save_state(tmp_path / "state")
        trainer = mixed(**common)
        trainer.load_state(tmp_path / "state")
    trainer.advance(120)
    assert trainer.monitors == whole.monitors
    assert any(w.stopped for w in whole.monitors)
    for m in range(len(MIXED)):
        for name, value in weights(whole, m).items():
            assert torch.equal(value, weights(trainer, m)[name]), f"member {m}: {name}"
    for name, value in whole.optimizer.tensors().items():
        assert torch.equal(value, trainer.optimizer.tensors()[name])


@pytest.mark.parametrize("held_out", [True, False])
def test_monitoring_goes_on_in_the_middle_of_an_interval(tmp_path: Path, held_out: bool) -> None:
    """Without a split `valid` the mean training loss is monitored: its sum belongs to the state."""
    data = tiny_data(tiny_store(splits=HELD_OUT if held_out else None))
    changes = {
        "lr_schedule": "plateau",
        "plateau_patience": 0,
        "monitor_interval": 10,
        "training_steps": 95,
        "lr": 0.02,
    }
    whole, trainer = tiny_trainer([0, 1], data, **changes), tiny_trainer([0, 1], data, **changes)
    whole.advance(95)
    trainer.advance(44)
    trainer.save_state(tmp_path / "state")
    trainer = tiny_trainer([0, 1], data, **changes)
    trainer.load_state(tmp_path / "state")
    trainer.advance(95)
    assert trainer.monitors == whole.monitors
    assert whole.monitors[0].scale < 1
    assert (whole.validation_loss is not None) == held_out


# Rates


def test_plateaus_are_torchs() -> None:
    losses = np.random.default_rng(0).uniform(0.5, 1.0, 60) * np.linspace(1, 0.7, 60)
    config = tiny_config(lr_schedule="plateau", lr=0.1, min_lr=0.004)
    parameter = torch.nn.Parameter(torch.zeros(1))
    oracle_of = torch.optim.SGD([parameter], lr=0.1)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(oracle_of, factor=0.5, patience=3, min_lr=0.004)
    monitor, seen = LossMonitor(), set()
    for loss in losses:
        monitor.update(config, float(loss))
        oracle.step(float(loss))
        assert rates([config], [monitor], 0)[0] == pytest.approx(oracle_of.param_groups[0]["lr"])
        seen.add(oracle_of.param_groups[0]["lr"])
    assert len(seen) >= 4
    assert min(seen) == 0.004


@pytest.mark.parametrize(
    ("losses", "stops_at"),
    [
        ([5, 4, 3, 2, 1], None),
        ([5, 4, 4, 4], 3),  # two looks without improvement
        ([5, 4.95, 4.91, 1], 2),  # falls of less than min_delta do not count
        ([5, 6, 4, 5, 6], 4),
    ],
)
def test_early_stopping(losses: list[float], stops_at: int | None) -> None:
    config, monitor = tiny_config(stop_patience=2, stop_min_delta=0.1), LossMonitor()
    stopped = []
    for loss in losses:
        monitor.update(config, loss)
        stopped.append(monitor.stopped)
    assert (stopped.index(True) if any(stopped) else None) == stops_at
    assert rates([config], [monitor], 0) == [0.0 if any(stopped) else config.lr]


def test_warm_up() -> None:
    assert [learning_rate(tiny_config(lr=1.0, warmup_steps=4), s) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    for total, expected in ((10, 5), (100, 50), (1000, 50), (2000, 60), (100_000, 3000), (1, 1)):
        assert tiny_config(training_steps=total, lr_schedule="cosine").warm_up == expected
    budget = {"training_steps": 1000, "lr_schedule": "cosine", "budget_warmup_ratio": 0.2, "budget_min_warmup_steps": 7}
    assert tiny_config(**budget).warm_up == 200
    assert tiny_config(**{**budget, "training_steps": 10}).warm_up == 5
    assert tiny_config(lr_schedule="plateau").warm_up == tiny_config().warm_up == 0


# Averages, parts, frozen parameters


def test_averages_of_weights() -> None:
    """e <- e + (1 - d_t) (p - e) with d_t = min(d, (1 + t) / (10 + t)), in the bundle and not in what is trained."""
    averaged, plain = tiny_trainer(ema_decay=0.6), tiny_trainer()
    expected = weights(plain, 0)
    for t in range(1, 41):
        averaged.advance(t)
        plain.advance(t)
        decay = min(0.6, (1 + t) / (10 + t))
        expected = {k: e + (1 - decay) * (weights(plain, 0)[k] - e) for k, e in expected.items()}
    assert_close(weights(averaged, 0), expected, 1e-6)
    assert_close(dict(averaged.policy.state_dict()), dict(plain.policy.state_dict()), 0)
    assert any((weights(averaged, 0)[k] - v).abs().max() > 1e-3 for k, v in weights(plain, 0).items())


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_a_batch_in_parts_is_the_same_batch(parts: int) -> None:
    """But for rounding; 3 does not divide 16."""
    whole, in_parts = tiny_trainer([0, 1], grad_clip=1.0), tiny_trainer([0, 1], grad_clip=1.0, accumulate=parts)
    losses: list[list[list[float]]] = [[], []]
    for trainer, seen in zip((whole, in_parts), losses, strict=True):
        trainer.advance(50, lambda progress, seen=seen: seen.append(progress.losses))
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert_close(dict(whole.policy.state_dict()), dict(in_parts.policy.state_dict()))


def test_frozen_parameters() -> None:
    frozen = {
        "velocity_field.layers.0.weights_MIO",
        "velocity_field.layers.0.bias_M1O",
        "velocity_field.layers.1.bias_M1O",
    }
    trainer = tiny_trainer(
        freeze="velocity_field.layers.0, velocity_field.layers.1.bias", freeze_steps=10, grad_clip=0.1
    )
    start = {k: v.clone() for k, v in trainer.policy.state_dict().items()}
    trainer.advance(10)
    for name, value in trainer.policy.state_dict().items():
        assert torch.equal(value, start[name]) == (name in frozen), name
    trainer.advance(11)
    assert not any(torch.equal(v, start[k]) for k, v in trainer.policy.state_dict().items())
    for_ever = tiny_trainer(freeze="velocity_field.layers.0")
    for_ever.advance(20)
    assert torch.equal(
        for_ever.policy.state_dict()["velocity_field.layers.0.weights_MIO"],
        start["velocity_field.layers.0.weights_MIO"],
    )


def test_frozen_parameters_and_going_on(tmp_path: Path) -> None:
    changes = {"freeze": "velocity_field.layers.0", "freeze_steps": 10}
    whole = tiny_trainer([0, 1], **changes)
    whole.advance(25)
    trainer = tiny_trainer([0, 1], **changes)
    for cut in (5, 12):
        trainer.advance(cut)
        trainer.save_state(tmp_path / "state")
        trainer = tiny_trainer([0, 1], **changes)
        trainer.load_state(tmp_path / "state")
    trainer.advance(25)
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, trainer.policy.state_dict()[name])


def test_frozen_parameters_by_their_names_in_release_0_1_0() -> None:
    trainers = [tiny_trainer(freeze=f"{name}.layers.0") for name in ("field", "velocity_field")]
    for trainer in trainers:
        trainer.advance(10)
    assert trainers[0].phases == trainers[1].phases
    for name, value in trainers[0].policy.state_dict().items():
        assert torch.equal(value, trainers[1].policy.state_dict()[name])


def test_wrong_names_to_freeze() -> None:
    with pytest.raises(
        UserError,
        match=r"freeze: expected the beginning of one of .*velocity_field.*got 'head'",
    ):
        tiny_trainer(freeze="head")
    with pytest.raises(UserError, match="freeze: expected something to be left to learn"):
        tiny_trainer(freeze="velocity_field")


def test_rounds() -> None:
    """17 windows in batches of 16 are 2 steps an epoch."""
    config = tiny_config(num_rounds=3, epochs_per_round=5, training_steps=7)
    assert resolved(config, tiny_store()).training_steps == 3 * 5 * 2
    trainer = tiny_trainer(num_rounds=3, epochs_per_round=5)
    rounds = []
    for step in range(1, 31):
        trainer.advance(step)
        rounds.append(trainer.round)
    assert rounds == [1] * 10 + [2] * 10 + [3] * 10
    assert trainer.finished
    assert resolved(tiny_config(), tiny_store()) == tiny_config()


# Data


def test_a_proportion_of_the_episodes() -> None:
    data = pointmass_data()
    episodes = data.store.split("train")
    starts: list[set[int]] = []
    for proportion in (0.01, 0.3, 0.7, 1.0):
        prepared = prepare(tiny_config(dataset_proportion=proportion), data, CPU)
        count = max(1, round(proportion * len(episodes)))
        lengths = (data.store.episode_ends - data.store.episode_starts)[episodes[:count]]
        assert len(prepared.rotation.at(0).starts) == lengths.sum()
        starts.append(set(prepared.rotation.at(0).starts.tolist()))
    for smaller, larger in itertools.pairwise(starts):
        assert smaller < larger, "nested"


def test_statistics_are_of_the_proportion() -> None:
    store = tiny_store()
    prepared = prepare(tiny_config(dataset_proportion=0.3), tiny_data(store), CPU)
    np.testing.assert_allclose(prepared.action_normalizer.offset, store.actions_NA[:5].mean(0), atol=1e-6)


def test_validation_loss() -> None:
    """The mean over the windows of `valid`, whatever the batch, the same at every look; members have their own."""
    data = tiny_data(tiny_store(splits=HELD_OUT))
    trainers = [tiny_trainer([0, 1], data, batch_size=b) for b in (2, 16)]
    first, second = (t.validate() for t in trainers)
    np.testing.assert_allclose(first, second, rtol=1e-5)
    assert first == trainers[0].validate()
    assert first[0] != first[1]
    windows = trainers[0].prepared.validation
    assert windows is not None
    assert windows.starts.tolist() == list(range(5, 14))
    trainers[1].advance(150)
    assert trainers[1].validate() != first
    everything = tiny_trainer(data=tiny_data(tiny_store()))
    assert everything.prepared.validation is None


# Precision and compilation


TRANSFORMER: dict[str, Any] = {
    "policy": "flow_transformer", "transformer_layers": 1, "transformer_heads": 2, "transformer_width": 16,
}  # fmt: skip
NETWORKS = pytest.mark.parametrize("network", [{}, TRANSFORMER], ids=["mlp", "transformer"])


@NETWORKS
def test_bf16_learns_nearly_the_same(network: dict[str, Any]) -> None:
    half, full = (tiny_trainer([0], pointmass_data(), precision=p, lr=3e-3, **network) for p in ("bf16", "fp32"))
    losses: list[list[float]] = [[], []]
    for trainer, seen in zip((half, full), losses, strict=True):
        trainer.advance(60, lambda progress, seen=seen: seen.append(progress.losses[0]))
        assert all(v.dtype == torch.float32 for v in trainer.policy.state_dict().values())
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.1)


@pytest.mark.slow
@NETWORKS
def test_a_compiled_step_is_the_same_step(network: dict[str, Any]) -> None:
    eager, compiled = tiny_trainer([0, 1], **network), tiny_trainer([0, 1], compile="default", **network)
    for trainer in (eager, compiled):
        trainer.advance(30)
    assert_close(dict(eager.policy.state_dict()), dict(compiled.policy.state_dict()), 1e-4)


# Numbers that are not finite


def test_a_gradient_that_is_not_finite_stops_before_the_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer([3, 5])
    trainer.advance(3)
    before = {k: v.clone() for k, v in trainer.policy.state_dict().items()}
    original = FlowPolicy.loss

    def steep(self: FlowPolicy, *args: Any) -> Loss:
        loss = original(self, *args)
        if loss.value_MB.requires_grad:
            loss.value_MB.register_hook(lambda g: g * torch.inf)
        return loss

    monkeypatch.setattr(trainer, "_loss_of", lambda *args: steep(trainer.policy, *args))
    with pytest.raises(NonFiniteLoss, match=r"step 4: seed 3 .*seed 5 .*the loss is finite, its gradient is not"):
        trainer.advance(10)
    for name, value in trainer.policy.state_dict().items():
        assert torch.equal(value, before[name])


def test_what_is_looked_at_later_has_changed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the loss is looked at now and then: the weights and the step are those before the bad one."""
    trainer, good = tiny_trainer([3, 5]), tiny_trainer([3, 5])
    good.advance(6)
    loss_of, check = trainer._loss_of, trainer._check
    bad_step = 6

    def poisoned(*args: Any) -> Loss:
        loss = loss_of(*args)
        return loss._replace(value_MB=loss.value_MB * (torch.nan if trainer.step >= bad_step else 1.0))

    monkeypatch.setattr(trainer, "_loss_of", poisoned)
    monkeypatch.setattr(trainer, "_check", lambda: check() if trainer.step >= 20 else None)
    with pytest.raises(NonFiniteLoss, match="step 7"):
        trainer.advance(20)
    assert trainer.step == 6
    for name, value in trainer.policy.state_dict().items():
        assert torch.equal(value, good.policy.state_dict()[name])
    for name, value in trainer.optimizer.tensors().items():
        assert torch.equal(value, good.optimizer.tensors()[name])


def test_the_bad_examples_are_named() -> None:
    """Episode 1 has transitions 5..13; a window of it has an action that no network can meet."""
    trainer = tiny_trainer([2])
    trainer.windows.actions_NA[9] = torch.inf
    with pytest.raises(NonFiniteLoss, match=r"seed 2 with lr .*of \d+ of 16 examples \(episode 1 step [1-4]"):
        trainer.advance(20)
