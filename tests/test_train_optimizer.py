"""Weight decay where it belongs, and moving averages with a power schedule; `torch` and `diffusers` are the oracles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raybc.config import RunConfig
from raybc.policies.packed import PackedModule
from raybc.train.loop import PackTrainer
from raybc.train.optimizer import Ema, PackOptimizer, matrices_of
from tests.helpers import CPU, tiny_config, tiny_data, tiny_trainer

UNET = {"policy": "flow_unet", "unet_channels": "8,16", "unet_time_size": 8, "horizon_length": 4}


class Tokens(nn.Module):
    """What a transformer has besides matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.pos_emb = nn.Embedding(3, 4), nn.Parameter(torch.zeros(1, 5, 4))
        self.attention, self.norm = nn.MultiheadAttention(4, 2), nn.LayerNorm(4)
        self.time_embedding, self.head = nn.Linear(4, 4), nn.Linear(4, 1)
        self.scale, self.mix = nn.Parameter(torch.ones(1, 1, 4)), nn.Parameter(torch.ones(2, 4))


def test_matrices_are_weights_of_layers() -> None:
    """minGPT's rule: weights of linear layers decay; biases, norms and embeddings do not."""
    packed = PackedModule(Tokens, 2)
    assert matrices_of(packed) == {
        "attention__in_proj_weight", "attention__out_proj__weight", "time_embedding__weight", "head__weight", "mix",
    }  # fmt: skip


TRANSFORMER = {"policy": "flow_transformer", "transformer_size": "tiny", "transformer_layers": 1}


@pytest.mark.parametrize(
    "options", [{}, UNET, {"policy": "regression"}, TRANSFORMER], ids=lambda o: o.get("policy", "flow")
)
def test_matrices_of_the_networks(options: dict[str, Any]) -> None:
    trainer = tiny_trainer([0, 1], **options)
    found = matrices_of(trainer.learner.module)
    rest = trainer.learner.parameters().keys() - found
    assert all("weights" in name or name.endswith("film_time_MES") for name in found)
    assert rest
    assert all(any(word in name for word in (".bias", ".gain", ".position")) for name in rest)


def named(module: PackedModule) -> dict[str, nn.Parameter]:
    module.init_members([torch.Generator().manual_seed(m) for m in range(2)])
    return dict(module.named_parameters())


@pytest.mark.parametrize("decays", [(0.5, 0.5), (0.5, 0.1), (0.5, 0.0)])
def test_a_bias_does_not_decay(decays: tuple[float, float]) -> None:
    """Without a gradient, a step of AdamW multiplies what decays by 1 - lr x weight_decay, and nothing else moves."""
    module = PackedModule(lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), 2)
    parameters = named(module)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    members = [RunConfig.of(lr=0.1, weight_decay=d, weight_decay_on="matrices", seed=s) for s, d in enumerate(decays)]
    optimizer = PackOptimizer(parameters, members, matrices_of(module))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step([0.1, 0.1], torch.zeros(()))
    for name, parameter in parameters.items():
        for m, decay in enumerate(decays):
            factor = 1 - 0.1 * decay if name in ("0__weight", "2__weight") else 1.0
            torch.testing.assert_close(parameter[m], before[name][m] * factor, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("kind", "oracle"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_it_is_torchs_with_two_groups(kind: Any, oracle: Callable[..., torch.optim.Optimizer]) -> None:
    options = {"optimizer": kind, "weight_decay": 0.3, "lr": 0.01, "adam_beta1": 0.95}
    trainer = tiny_trainer([0], weight_decay_on="matrices", **options)
    policy = tiny_trainer([0]).policy
    matrices = [p for name, p in policy.named_parameters() if "weights" in name]
    others = [p for name, p in policy.named_parameters() if "bias" in name]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}]
    optimizer = oracle(groups, lr=0.01, betas=(0.95, 0.999))
    for step in range(5):
        drawn = trainer.draws.at(step)
        optimizer.zero_grad()
        policy.loss(trainer.windows.gather(drawn.indices_MB), drawn.draws).value_MB.mean().backward()
        optimizer.step()
    trainer.advance(5)
    for name, value in policy.state_dict().items():
        torch.testing.assert_close(trainer.policy.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "oracle"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
@pytest.mark.parametrize("lrs", [(0.01, 0.01), (0.01, 0.02)], ids=["together", "apart"])
def test_every_bit_is_that_of_torchs_fused_optimiser(
    kind: Any, oracle: Callable[..., torch.optim.Optimizer], lrs: tuple[float, float]
) -> None:
    """Also over a step that is skipped, and with a parameter whose first gradient comes later."""
    g = torch.Generator().manual_seed(0)
    shapes = {"a": (2, 3, 5), "b": (2, 7)}
    parameters = {name: nn.Parameter(torch.randn(shape, generator=g)) for name, shape in shapes.items()}
    common = {"weight_decay": 0.1, "optimizer": kind, "adam_beta1": 0.8}
    optimizer = PackOptimizer(parameters, [RunConfig.of(lr=lr, seed=m, **common) for m, lr in enumerate(lrs)])
    # One oracle for all members, or one for each.
    parts = [slice(0, 1), slice(1, 2)] if lrs[0] != lrs[1] else [slice(0, 2)]
    assert optimizer.split == (len(parts) > 1)
    copies = [{name: nn.Parameter(p.detach()[part].clone()) for name, p in parameters.items()} for part in parts]
    theirs = [oracle(c.values(), lr=1.0, weight_decay=0.1, betas=(0.8, 0.999), fused=True) for c in copies]
    for step in range(6):
        rates, bad = [lr / (step + 1) for lr in lrs], torch.tensor(float(step == 3))
        for name, parameter in parameters.items():
            if name == "a" or step >= 2:
                parameter.grad = torch.randn(parameter.shape, generator=g)
                for copy, part in zip(copies, parts, strict=True):
                    copy[name].grad = parameter.grad[part].clone()
        optimizer.step(rates, bad)
        for their, part in zip(theirs, parts, strict=True):
            their.param_groups[0]["lr"] = rates[part.start]
            their.found_inf = bad  # type: ignore[attr-defined]  # as GradScaler does
            their.step()
    saved = optimizer.tensors()
    for their, copy, part in zip(theirs, copies, parts, strict=True):
        for name, parameter in parameters.items():
            state = their.state[copy[name]]
            assert torch.equal(parameter[part], copy[name])
            assert torch.equal(saved[f"{name}/exp_avg"][part], state["exp_avg"])
            assert torch.equal(saved[f"{name}/exp_avg_sq"][part], state["exp_avg_sq"])
            assert saved[f"{name}/step"] == state["step"] == {"a": 5, "b": 3}[name]


MEMBERS = (
    {"weight_decay": 0.3, "weight_decay_on": "matrices", "ema_decay": 0.99, "ema_power": 0.75},
    {"weight_decay": 0.3, "lr": 1e-2, "ema_decay": 0.9, "ema_power": 0.5},
    {"weight_decay": 0.1, "weight_decay_on": "matrices", "ema_decay": 0.99},
)


def pack(members: Any = MEMBERS) -> PackTrainer:
    return PackTrainer([tiny_config(seed=m, training_steps=60, **c) for m, c in members], tiny_data(), CPU)


def test_members_differ_in_decay_and_in_powers() -> None:
    together = pack(list(enumerate(MEMBERS)))
    together.advance(60)
    for m, changes in enumerate(MEMBERS):
        alone = pack([(m, changes)])
        alone.advance(60)
        for name, value in alone.bundle(0).weights.items():
            torch.testing.assert_close(together.bundle(m).weights[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("members", [MEMBERS, MEMBERS[:1]], ids=["of their own", "alike"])
def test_resuming_is_exact_with_groups_and_powers(tmp_path: Path, members: Any) -> None:
    whole = pack(list(enumerate(members)))
    whole.advance(60)
    trainer = pack(list(enumerate(members)))
    for cut in (1, 2, 31):
        trainer.advance(cut)
        trainer.save_state(tmp_path / "state")
        trainer = pack(list(enumerate(members)))
        trainer.load_state(tmp_path / "state")
    trainer.advance(60)
    expected, got = whole.state().tensors, trainer.state().tensors
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert any(name.startswith("ema/") for name in got)


def test_a_state_is_read_whichever_parameters_decay(tmp_path: Path) -> None:
    """Moments are named by their parameter, so groups do not matter to a state."""
    trainer = tiny_trainer([0], weight_decay=0.1)
    trainer.advance(3)
    other = tiny_trainer([0], weight_decay=0.1, weight_decay_on="matrices")
    other.optimizer.load(trainer.optimizer.tensors())
    for name, value in trainer.optimizer.tensors().items():
        assert torch.equal(other.optimizer.tensors()[name], value)


def test_neutral_options_change_no_identity() -> None:
    plain = RunConfig.of(weight_decay=0.1)
    assert plain.run_id("d") == RunConfig.of(weight_decay=0.1, weight_decay_on="all").run_id("d")
    assert plain.run_id("d") != RunConfig.of(weight_decay=0.1, weight_decay_on="matrices").run_id("d")


# Moving averages


def ours(power: float, decay: float, values: np.ndarray) -> tuple[list[float], list[float]]:
    """(averages, decays) of a parameter that takes `values` after the steps 1, 2, ..."""
    parameter = nn.Parameter(torch.zeros(1, 1))
    ema, averages, decays = Ema({"p": parameter}, [decay], [power]), [], []
    for step, value in enumerate(values, 1):
        parameter.data.fill_(float(value))
        ema.update(step, [False])
        averages.append(float(ema.values[0]))
        decays.append(ema.decay(0, step))
    return averages, decays


@pytest.mark.parametrize(("power", "decay"), [(0.75, 0.9999), (2 / 3, 0.9), (0.75, 0.5)])
def test_averages_are_those_of_diffusers(power: float, decay: float) -> None:
    ema_model = pytest.importorskip("diffusers.training_utils", reason="pip install diffusers").EMAModel
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    parameter = nn.Parameter(torch.zeros(1, 1))
    oracle = ema_model([parameter], decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=power)
    expected, expected_decays = [], []
    for value in values:
        parameter.data.fill_(float(value))
        oracle.step([parameter])
        expected.append(float(oracle.shadow_params[0]))
        expected_decays.append(oracle.cur_decay_value)
    averages, decays = ours(power, decay, values)
    assert decays == pytest.approx(expected_decays, abs=1e-12)
    assert averages == pytest.approx(expected, abs=1e-6)


def test_diffusion_policys_own_schedule_is_one_step_behind() -> None:
    """Its EMAModel reads the counter before it increases it: 0, 0, then 1 - (1 + n)^-k with n = t - 2."""
    _, decays = ours(0.75, 0.9999, np.zeros(300, np.float32))
    published = [0.0 if t < 3 else min(0.9999, 1 - (1 + (t - 2)) ** -0.75) for t in range(1, 301)]
    assert published[1:] == pytest.approx(decays[:-1], abs=1e-12)
