"""Networks after `prepare_for_acting`: the same chunks from laid-out weights, for batches of any size.

Letters: M members, B batch, N rows, I input and O output features.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raybc.config import RunConfig
from raybc.inference.agent import SIZES, invariant_sizes
from raybc.policies import frozen
from raybc.policies.base import Policy, PolicySpec
from raybc.policies.build import build_policy
from raybc.policies.frozen import FrozenConv1d, FrozenLinear
from raybc.testing.policies import make_pack, random_request
from raybc.types import Observation, SampleSetting
from tests.helpers import CPU

torch.set_num_threads(1)
SPEC = PolicySpec(low_dim_size=5, action_size=3, horizon=8, obs_steps=2)
#: Network -> options; sizes with which some layers are laid out for oneDNN, some for MKL.
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden_width": 32},
    "residual": {"hidden_block": "residual", "hidden_width": 192, "hidden_depth": 2},
    "unet": {"policy": "flow_unet", "unet_channels": "32,64,128", "unet_time_size": 32},
    "unet of one level": {"policy": "flow_unet", "unet_channels": "8", "unet_kernel": 3, "unet_time_size": 8},
    "transformer": {"policy": "flow_transformer", "transformer_layers": 2, "transformer_width": 192},
}
CASES = pytest.mark.parametrize("network", NETWORKS)
SETTING = SampleSetting(flow_steps=3)


def made(network: str, members: int = 1) -> Policy:
    run = RunConfig.of(**NETWORKS[network])
    return make_pack(lambda count: build_policy(run, SPEC, count), list(range(members))).eval().requires_grad_(False)


@CASES
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_chunks_stay_the_same(network: str, rows: int) -> None:
    policy = made(network)
    obs, noise = random_request(policy, rows)
    with torch.inference_mode():
        before = policy.sample(obs, noise, SETTING)
        policy.prepare_for_acting()
        torch.testing.assert_close(policy.sample(obs, noise, SETTING), before, rtol=1e-4, atol=1e-5)
        again = policy.sample(obs, noise, SETTING)
        torch.testing.assert_close(again, before, rtol=1e-4, atol=1e-5)
        assert torch.equal(again, policy.sample(obs, noise, SETTING))


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="other machines have other kernels")
@CASES
def test_a_row_of_one_has_the_bits_of_a_row_of_many(network: str) -> None:
    """So an agent computes a single observation alone, without padding."""
    policy = made(network)
    policy.prepare_for_acting()
    assert invariant_sizes(policy, CPU) == SIZES


@CASES
def test_with_gradients_and_packs_the_ordinary_layers_are_used(network: str) -> None:
    policy = made(network)
    obs, noise = random_request(policy, 4)
    before = policy.sample(obs, noise, SETTING)
    policy.prepare_for_acting()
    assert torch.equal(policy.sample(obs, noise, SETTING), before)
    pack = made(network, members=2)
    obs, noise = random_request(pack, 4)
    with torch.inference_mode():
        before = pack.sample(obs, noise, SETTING)
        pack.prepare_for_acting()
        assert torch.equal(pack.sample(obs, noise, SETTING), before)


@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_times_are_processed_once(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy: Any = made(network)
    policy.prepare_for_acting()
    seen: list[float] = []
    compute = policy.velocity_field.time_part

    def counted(t_MB1: Tensor) -> Tensor:
        seen.append(float(t_MB1))
        result: Tensor = compute(t_MB1)
        return result

    monkeypatch.setattr(policy.velocity_field, "time_part", counted)
    request = random_request(policy, 2)
    with torch.inference_mode():
        for steps in (4, 4, 2):
            policy.sample(*request, SampleSetting(flow_steps=steps))
        assert seen == [0, 0.25, 0.5, 0.75]
        monkeypatch.setattr(frozen, "MOST_TIMES", 4)  # what does not fit any more is computed each time
        first = policy.sample(*request, SampleSetting(flow_steps=3))
        assert torch.equal(first, policy.sample(*request, SampleSetting(flow_steps=3)))
    np.testing.assert_allclose(seen[4:], [1 / 3, 2 / 3] * 2)


@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_threads_do_not_disturb_each_other(network: str) -> None:
    policy = made(network)
    policy.prepare_for_acting()
    requests = [random_request(policy, 1 + n % 3, seed=10 * n) for n in range(12)]

    def chunk(request: tuple[Observation[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode():
            return policy.sample(*request, SETTING)

    # The number of threads of a product belongs to the thread that calls it, and last bits depend on it.
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        together = list(pool.map(chunk, requests))
    assert all(torch.equal(a, chunk(request)) for a, request in zip(together, requests, strict=True))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(5, 7), (64, 48), (300, 500)])
@torch.inference_mode()
def test_a_linear_layer(inputs: int, outputs: int, gelu: bool, bias: bool) -> None:
    torch.manual_seed(0)
    weights, shift, x = torch.randn(inputs, outputs), torch.randn(outputs), torch.randn(9, inputs)
    layer = FrozenLinear(weights, shift if bias else None)
    assert layer.onednn == (inputs * outputs > 100_000)
    wanted = x.double() @ weights.double() + (shift if bias else 0)
    wanted = torch.nn.functional.gelu(wanted, approximate="tanh") if gelu else wanted
    for rows in range(1, 10):
        torch.testing.assert_close(layer(x[:rows], gelu), wanted[:rows].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(5, 1, 2), (3, 2, 1), (2, 1, 1)])
@torch.inference_mode()
def test_a_convolution(kernel: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    weights_OKI, bias_O, x_BLI = torch.randn(6, kernel, 4), torch.randn(6), torch.randn(3, 8, 4)
    layer = FrozenConv1d(weights_OKI, bias_O, stride, padding)
    wanted = torch.conv1d(x_BLI.mT, weights_OKI.permute(0, 2, 1), bias_O, stride, padding).mT
    for rows in (1, 3):
        padded = torch.nn.functional.pad(x_BLI[:rows], (0, 0, padding, padding))
        torch.testing.assert_close(layer(padded).view(rows, -1, 6), wanted[:rows], rtol=1e-5, atol=1e-5)
