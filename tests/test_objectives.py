"""What a network learns, whatever the network is: rectified flow and its solvers, MIP, regression, diffusion."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from raybc.config import RunConfig
from raybc.config.command import parse_run
from raybc.policies.base import ImageEncoders, PolicySpec
from raybc.policies.build import build_policy
from raybc.policies.chunk import OBJECTIVES, ChunkPolicy
from raybc.policies.diffusion import DiffusionPolicy, signal_shares
from raybc.policies.fields.base import Field
from raybc.policies.flow import FlowPolicy
from raybc.policies.mip import MipPolicy
from raybc.policies.regression import FieldRegression
from raybc.policies.solvers import SOLVERS, integrate
from raybc.testing.policies import make_pack, random_batch, random_request
from raybc.train.__main__ import Args
from raybc.types import EVALUATIONS, SampleSetting, UserError

torch.set_num_threads(1)
SPEC = PolicySpec(low_dim_size=5, action_size=2, horizon=4)
#: solver -> order of its global error.
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


class Formula(Field):
    """A network that is a formula of (x, t), and records its calls."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula, self.calls = formula, list[tuple[Tensor, Tensor]]()

    def init_members(self, generators: Sequence[torch.Generator]) -> None:
        """No weights."""

    def forward(self, x_MBHA: Tensor, t_MB1: Tensor, condition: Any) -> Tensor:
        self.calls.append((x_MBHA, t_MB1))
        return self.formula(x_MBHA, t_MB1[..., None])


def policy_with(cls: type[ChunkPolicy], formula: Callable[[Tensor, Tensor], Tensor], **options: Any) -> Any:
    run = RunConfig.of(**options) if options else None
    return cls(SPEC, ImageEncoders(SPEC, {}), Formula(formula), 1, run)


def request() -> tuple[Any, Tensor]:
    return random_request(policy_with(FlowPolicy, lambda x, t: x), 3)


# Solvers


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_converge_with_their_order(solver: str) -> None:
    """dx/dt = x (1 + 2 t) ends at x(0) e^2; halving h divides the error by 2^order."""
    start = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    ends = [integrate(lambda x, t: x * (1 + 2 * t), start, n, solver) for n in (32, 64, 128)]
    errors = [float((end - start * math.exp(2)).abs().max()) for end in ends]
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert rates == pytest.approx([ORDERS[solver]] * 2, abs=0.15)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_solver_of_order_p_is_exact_for_polynomials_in_time(solver: str, steps: int) -> None:
    """v = t^(p - 1) is integrated exactly: x(1) = x(0) + 1 / p."""
    p = ORDERS[solver]
    x = torch.zeros(2, dtype=torch.float64)
    end = integrate(lambda x, t: torch.full_like(x, float(t) ** (p - 1) if p > 1 else 1.0), x, steps, solver)
    assert end.tolist() == pytest.approx([1 / p] * 2, rel=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_evaluations_are_counted(solver: str) -> None:
    assert SOLVERS.keys() == EVALUATIONS.keys()
    policy = policy_with(FlowPolicy, lambda x, t: -x)
    setting = SampleSetting(flow_steps=3, solver=solver)
    policy.sample(*request(), setting)
    assert len(policy.velocity_field.calls) == setting.evaluations == 3 * EVALUATIONS[solver]


def test_the_observation_is_encoded_once_per_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (FlowPolicy, MipPolicy, DiffusionPolicy, FieldRegression):
        policy, encode = policy_with(cls, lambda x, t: -x), Mock(wraps=lambda cond: cond)
        monkeypatch.setattr(policy.velocity_field, "condition", encode)
        policy.sample(*request(), SampleSetting(flow_steps=8, solver="rk4"))
        assert encode.call_count == 1, cls


# Flow times


@pytest.mark.parametrize(
    ("name", "below_half"),
    [("uniform", 0.5), ("logit_normal", 0.5), ("beta", 1 - (1 - 0.5 / 0.999) ** 1.5)],
)
def test_flow_times(name: str, below_half: float) -> None:
    """beta: P(t <= c) = P(u >= (1 - c / .999)^1.5) = 1 - (1 - c / .999)^1.5."""
    policy = policy_with(FlowPolicy, lambda x, t: x, flow_time=name)
    drawn = policy.draws()["time"].sample((40_000,), torch.Generator().manual_seed(0), torch.device("cpu"))
    times = policy.times(drawn)
    assert float(times.min()) >= 0
    assert float(times.max()) < 1
    assert float((times < 0.5).float().mean()) == pytest.approx(below_half, abs=0.01)
    near_ends = float(((times < 0.1) | (times > 0.9)).float().mean())
    expected = {"uniform": 0.2, "logit_normal": 0.028, "beta": 1 - (1 - 0.1 / 0.999) ** 1.5 + (1 - 0.9 / 0.999) ** 1.5}
    assert near_ends == pytest.approx(expected[name], abs=0.01)


def test_beta_is_the_distribution_of_that_name() -> None:
    """1 - t / .999 has the distribution Beta(1.5, 1)."""
    stats = pytest.importorskip("scipy.stats")
    policy = policy_with(FlowPolicy, lambda x, t: x, flow_time="beta")
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    share = 1 - policy.times(u).numpy() / 0.999
    assert stats.beta(1.5, 1).cdf(share) == pytest.approx(u.numpy(), abs=1e-12)


# MIP


def test_mip_is_the_formula() -> None:
    policy = policy_with(MipPolicy, lambda x, t: 2 * x + t + 1)
    batch, draws = random_batch(policy, 6)
    loss = policy.loss(batch, draws)
    a, z, valid = batch.actions_MBHA, draws["noise"], ~batch.is_pad_MBH
    first = ((1 - a) ** 2).mean(-1)
    second = ((2 * (a + 0.1 * z) + 0.9 + 1 - a) ** 2).mean(-1)
    expected = ((first / 0.81 + second / 0.01) * valid).sum(-1) / valid.sum(-1)
    torch.testing.assert_close(loss.value_MB, expected)
    assert {"bc_mip_loss", "mip_first_mse", "mip_second_mse"} == loss.metrics.keys()


def test_mip_makes_two_evaluations_without_noise() -> None:
    policy = policy_with(MipPolicy, lambda x, t: 2 * x + t + 1)
    obs, noise = request()
    chunk = policy.sample(obs, noise, SampleSetting())
    torch.testing.assert_close(chunk, torch.full_like(chunk, 2 * 1 + 0.9 + 1))
    assert [float(t.flatten()[0]) for _, t in policy.velocity_field.calls] == pytest.approx([0, 0.9])


# Regression


def test_regression_evaluates_once() -> None:
    policy = policy_with(FieldRegression, lambda x, t: x + t + 2, objective="regression", regression_loss="l1")
    batch, _ = random_batch(policy, 6)
    valid = ~batch.is_pad_MBH
    expected = (((3 - batch.actions_MBHA).abs().mean(-1)) * valid).sum(-1) / valid.sum(-1)
    torch.testing.assert_close(policy.loss(batch, {}).value_MB, expected)
    assert torch.equal(policy.sample(*request(), SampleSetting()), torch.full((1, 3, 4, 2), 3.0))
    assert len(policy.velocity_field.calls) == 2


# Diffusion


def test_signal_shares_fall_from_one_to_zero() -> None:
    shares = signal_shares(100)
    assert shares[0] == pytest.approx(1, abs=2e-3)
    assert shares[-1] < 1e-6
    assert all(a > b for a, b in itertools.pairwise(shares))


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_ddim_of_one_data_point_ends_there(prediction: str, steps: int) -> None:
    """With a single chunk c in the data, the perfect prediction is known at every (x, k)."""
    chunk = 0.7

    def perfect(x: Tensor, t: Tensor) -> Tensor:
        share = signal_shares(100)[round(float(t.flatten()[0]) * 100)]
        return torch.full_like(x, chunk) if prediction == "sample" else (x - share**0.5 * chunk) / (1 - share) ** 0.5

    options = {"objective": "diffusion", "diffusion_prediction": prediction, "normalization": "min_max"}
    policy = policy_with(DiffusionPolicy, perfect, **options)
    assert policy.clip
    end = policy.sample(*request(), SampleSetting(flow_steps=steps))
    torch.testing.assert_close(end, torch.full_like(end, chunk), rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_diffusion_loss_is_the_formula(prediction: str) -> None:
    seen = list[Tensor]()

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return 0 * x

    policy = policy_with(DiffusionPolicy, network, objective="diffusion", diffusion_prediction=prediction)
    assert not policy.clip, "actions are not scaled to [-1, 1]"
    batch, draws = random_batch(policy, 6)
    loss = policy.loss(batch, draws).value_MB
    shares = torch.tensor(signal_shares(100))[(draws["time"] * 100).long()][..., None, None]
    torch.testing.assert_close(seen[0], shares.sqrt() * batch.actions_MBHA + (1 - shares).sqrt() * draws["noise"])
    target = draws["noise"] if prediction == "epsilon" else batch.actions_MBHA
    valid = ~batch.is_pad_MBH
    torch.testing.assert_close(loss, ((target**2).mean(-1) * valid).sum(-1) / valid.sum(-1))


def test_clipping_follows_the_scaling_of_actions() -> None:
    def scaled(**options: Any) -> bool:
        return RunConfig.of(**options).scales_actions_to_one

    assert scaled(normalization="min_max")
    assert scaled(normalization_keys="state=quantile, actions=min_max")
    assert not scaled(normalization="min_max", normalization_keys="actions=mean_std")


# Objective and network are independent


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("policy", ["flow", "flow_unet"])
def test_every_network_has_every_objective(policy: str, objective: str) -> None:
    small = {"flow": {"hidden_width": 8}, "flow_unet": {"unet_channels": "8,8", "unet_groups": 2, "unet_time_size": 8}}
    run = RunConfig.of(policy=policy, objective=objective, **small[policy])
    made = make_pack(lambda members: build_policy(run, SPEC, members), [0, 1])
    assert type(made).__name__ == OBJECTIVES[objective].split(":")[1]
    names = [name for name, _ in made.named_parameters()]
    flow = build_policy(run.changed(objective="flow"), SPEC, 2)
    assert names == [name for name, _ in flow.named_parameters()], "the weights do not depend on the objective"


# Bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--objective mip --flow_steps 1", "flow_steps: has no effect with objective mip, which always makes two"),
        ("--objective regression --solver heun", "solver: has no effect with objective regression, which makes one"),
        ("--policy regression --solver heun", "solver: has no effect with policy regression"),
        (
            "--objective diffusion --solver rk4",
            "solver: has no effect with objective diffusion, which",
        ),
        ("--objective diffusion --flow_steps 101", "flow_steps: expected at most diffusion_steps = 100, got 101"),
        ("--policy flow_unet --action_chunking --horizon_length 10", "multiple of 4 .*, got 10; use 8 or 12"),
        ("--policy flow_unet --action_chunking --horizon_length 3", "multiple of 4 .*, got 3; use 4"),
        ("--policy regression --objective mip", "objective: has no effect with policy regression; it belongs to flow"),
    ],
)
def test_impossible_combinations_are_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_run(Args, words.split(), "raybc train", "")[0].validate("--")


def test_the_former_name_of_metric_is_read() -> None:
    assert parse_run(Args, ["--objective", "return"], "raybc train", "")[0].metric == "return"
    assert parse_run(Args, ["--objective=mip"], "raybc train", "")[0].get("objective") == "mip"
    run = RunConfig.from_plain({"objective": None, "lr": 0.1}, "config.json")
    assert (run.metric, run.get("objective")) == (None, "flow")
    with pytest.raises(UserError, match="metric: stands twice"):
        RunConfig.from_plain({"objective": "return", "metric": "return"}, "run")
