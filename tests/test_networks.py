"""Every network with every objective goes through the whole machinery: bf16, packs, resume, bundles, ONNX, compile."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.cli import run_main
from raybc.config.component import kinds
from raybc.config.options import options_in
from raybc.export.__main__ import main as export
from raybc.inference.agent import Agent
from raybc.inference.session import Session
from raybc.policies.chunk import OBJECTIVES
from raybc.train.loop import PackTrainer
from raybc.types import Observation, SampleSetting
from tests.helpers import pointmass_data, saved, tiny_trainer

#: Kind of policy -> options that make its network small.
NETWORKS: dict[str, dict[str, Any]] = {
    "flow": {"hidden_width": 16, "hidden_depth": 2},
    "flow_unet": {"unet_channels": "8,16", "unet_groups": 4, "unet_time_size": 8},
    "flow_transformer": {"transformer_layers": 2, "transformer_width": 16, "transformer_heads": 2},
}
CASES = list(itertools.product(NETWORKS, OBJECTIVES))
every = pytest.mark.parametrize(("policy", "objective"), CASES, ids=["-".join(case) for case in CASES])


def trainer(policy: str, objective: str, seeds: tuple[int, ...] = (0,), **changes: Any) -> PackTrainer:
    own = {"policy": policy, "objective": objective, "horizon_length": 4, "lr": 3e-3, "batch_size": 64}
    return tiny_trainer(seeds, pointmass_data(), **{**own, **NETWORKS[policy], **changes})


def losses(made: PackTrainer, steps: int) -> list[float]:
    seen: list[float] = []
    made.advance(steps, lambda progress: seen.append(progress.losses[0]))
    return seen


def test_every_network_is_here() -> None:
    assert NETWORKS.keys() == {k for k, cls in kinds("policy").items() if "objective" in options_in(cls)}


@every
def test_it_learns_also_in_bf16(policy: str, objective: str) -> None:
    full, half = (
        losses(trainer(policy, objective, precision=p, log_interval=10, lr=1e-2), 50) for p in ("fp32", "bf16")
    )
    assert min(full[1:]) < full[0]
    assert full != half
    np.testing.assert_allclose(full, half, rtol=0.35)


@every
def test_a_resumed_run_is_the_same_run(policy: str, objective: str, tmp_path: Path) -> None:
    """To the last bit, with the moving averages and moments of Diffusion Policy."""
    changes = {"ema_decay": 0.9999, "ema_power": 0.75, "adam_beta1": 0.95, "weight_decay": 0.01}
    whole, first, second = (trainer(policy, objective, (0, 1), **changes) for _ in range(3))
    whole.advance(12)
    first.advance(7)
    first.save_state(tmp_path / "state")
    second.load_state(tmp_path / "state")
    second.advance(12)
    for m in range(2):
        expected, got = whole.bundle(m).weights, second.bundle(m).weights
        assert all(torch.equal(expected[name], got[name]) for name in expected)


@every
def test_a_saved_policy_acts(policy: str, objective: str) -> None:
    """The same chunk from a loaded bundle, and with temporal ensembling."""
    made = trainer(policy, objective)
    made.advance(3)
    bundle = made.bundle(0)
    setting = bundle.config.sample_setting
    obs_BTO, noise = np.zeros((2, 1, bundle.spec.low_dim_size), np.float32), np.ones((2, 4, 2), np.float32)
    chunk, again = (Agent(b).chunks(Observation(obs_BTO), noise, setting) for b in (bundle, saved(bundle)))
    assert np.array_equal(chunk, again)
    session = Session(bundle, SampleSetting(flow_steps=setting.flow_steps, temporal_ensemble=0.01), 0)
    assert session.plan(chunk[0]).shape == (1, 2)


@every
def test_it_is_exported(policy: str, objective: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    trainer(policy, objective, flow_steps=2).bundle(0).save(tmp_path / "bundle")
    words = [str(tmp_path / "bundle"), "--onnx", "--out", str(tmp_path / "policy.onnx")]
    assert run_main(lambda: export(words)) == 0, "onnxruntime gives what the policy gives, or nothing is written"


@pytest.mark.slow
@every
def test_a_compiled_step_is_the_same_step(policy: str, objective: str) -> None:
    eager, compiled = trainer(policy, objective, (0, 1)), trainer(policy, objective, (0, 1), compile="default")
    for made in (eager, compiled):
        made.advance(10)
    torch.testing.assert_close(eager.policy.state_dict(), compiled.policy.state_dict(), rtol=1e-3, atol=1e-3)
