"""Every network against the same one of torch.nn, and milliseconds per chunk of every objective.

    python -m benchmarks.policies                                   # training, chunks, real time
    python -m benchmarks.policies --only chunk --networks "transformer tiny" --rounds 15

Ratios of CPU time on one thread, medians of interleaved rounds (A, B, A, B ...); above 1 ours is faster. The networks
of torch.nn (`plain_mlp`, `plain_unet`, `plain_transformer`) are what one writes without thinking of speed: one member,
channels first, everything at every evaluation. Both sides draw batches from tensors and use AdamW, ours PyTorch's fused
one as in `raybc train`. Chunks of 16 steps, 7 actions, 2 observations of 20 numbers; 10 flow steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.plain_mlp import PlainMLP
from benchmarks.plain_transformer import PlainTransformer
from benchmarks.plain_unet import PlainUNet
from raybc.config import RunConfig
from raybc.config.networks import TRANSFORMER_SIZES
from raybc.policies.base import Policy, PolicySpec
from raybc.policies.build import build_policy
from raybc.types import Batch, Observation, SampleSetting

HORIZON, ACTIONS, OBS, STEPS, ROWS = 16, 7, (2, 20), 10, 4096
FEATURES = OBS[0] * OBS[1]
SPEC = PolicySpec(low_dim_size=OBS[1], action_size=ACTIONS, horizon=HORIZON, obs_steps=OBS[0])
OBJECTIVES: dict[str, dict[str, Any]] = {
    f"flow, {STEPS} Euler steps": {}, "mip": {"objective": "mip"}, "regression": {"objective": "regression"},
    f"diffusion, {STEPS} DDIM steps": {"objective": "diffusion"},
}  # fmt: skip
MS = 1e3


def _mlp(residual: bool) -> PlainMLP:
    return PlainMLP(ACTIONS, HORIZON, FEATURES, 512, 4, residual)


def _transformer(size: str) -> PlainTransformer:
    return PlainTransformer(ACTIONS, HORIZON, OBS, FEATURES, *TRANSFORMER_SIZES[size])


def _unet(channels: str) -> PlainUNet:
    return PlainUNet(ACTIONS, FEATURES, [int(c) for c in channels.split(",")], embedding=256)


#: Name -> options, and the network of torch.nn.
NETWORKS: dict[str, tuple[dict[str, Any], Callable[[], nn.Module]]] = {
    "MLP 4 x 512": ({}, lambda: _mlp(False)),
    "MLP 4 x 512, residual": ({"hidden_block": "residual"}, lambda: _mlp(True)),
    "U-Net 64-128-256": ({"policy": "flow_unet", "unet_channels": "64,128,256"}, lambda: _unet("64,128,256")),
    "transformer tiny": ({"policy": "flow_transformer", "transformer_size": "tiny"}, lambda: _transformer("tiny")),
    "transformer small": ({"policy": "flow_transformer"}, lambda: _transformer("small")),
}


def policy_of(members: int = 1, **options: Any) -> Policy:
    """With noise on all weights: where gates are zero, additions of zero would be faster."""
    policy = build_policy(RunConfig.of(**options), SPEC, members)
    policy.init_members([torch.Generator().manual_seed(m) for m in range(members)])
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return policy


def our_trainer(options: dict[str, Any], batch: int, members: int = 1) -> Callable[[], None]:
    policy = policy_of(members, **options)
    optimiser = torch.optim.AdamW(policy.parameters(), fused=True)
    obs, chunks = torch.randn(ROWS, *OBS), torch.randn(ROWS, HORIZON, ACTIONS)
    is_pad = torch.zeros(members, batch, HORIZON, dtype=torch.bool)

    def step() -> None:
        rows = torch.randint(ROWS, (members, batch))
        draws = {name: s.sample((members, batch), *_here()) for name, s in policy.draws().items()}
        loss = policy(Batch(Observation(obs[rows]), chunks[rows], is_pad), draws).value_MB.mean(1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def _here() -> tuple[torch.Generator, torch.device]:
    return torch.default_generator, torch.device("cpu")


def plain_trainer(make: Callable[[], nn.Module], batch: int) -> Callable[[], None]:
    net = make()
    optimiser = torch.optim.AdamW(net.parameters())
    obs, chunks = torch.randn(ROWS, FEATURES), torch.randn(ROWS, HORIZON, ACTIONS)

    def step() -> None:
        rows = torch.randint(ROWS, (batch,))
        x_1, t = chunks[rows], torch.rand(batch)
        x_0 = torch.randn_like(x_1)
        x_t = (1 - t[:, None, None]) * x_0 + t[:, None, None] * x_1
        loss = ((net(x_t, t, obs[rows]) - (x_1 - x_0)) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def our_sampler(options: dict[str, Any], batch: int = 1) -> Callable[[], None]:
    policy = policy_of(**options)
    policy.prepare_for_acting()
    setting = SampleSetting(flow_steps=STEPS)

    @torch.inference_mode()
    def sample() -> None:
        policy.sample(Observation(torch.randn(1, batch, *OBS)), torch.randn(1, batch, HORIZON, ACTIONS), setting)

    return sample


def plain_sampler(make: Callable[[], nn.Module], batch: int = 1) -> Callable[[], None]:
    net = make().eval()

    @torch.inference_mode()
    def sample() -> None:
        x, features = torch.randn(batch, HORIZON, ACTIONS), torch.randn(batch, FEATURES)
        for i in range(STEPS):
            x = x + net(x, torch.full((batch,), i / STEPS), features) / STEPS

    return sample


def medians(runs: dict[str, Callable[[], None]], rounds: int, repeats: int) -> dict[str, float]:
    """CPU seconds of each, in turn; a round is `repeats` calls."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 2):  # two to warm up
        for name, run in runs.items():
            started = time.process_time()
            for _ in range(repeats):
                run()
            took[name].append((time.process_time() - started) / repeats)
    return {name: statistics.median(times[2:]) for name, times in took.items()}


def compare(name: str, runs: dict[str, Callable[[], None]], rounds: int, repeats: int, members: int = 1) -> None:
    took = medians(runs, rounds, repeats)
    plain, ours = MS * took["plain"] * members, MS * took["ours"]
    print(f"{name:45} plain {plain:8.2f} ms   ours {ours:8.2f} ms   {plain / ours:.2f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("train", "chunk", "real_time"), default="")
    parser.add_argument("--batch", type=int, default=1, help="observations of --only chunk")
    parser.add_argument("--members", type=int, default=1, help="of a pack, against as many plain networks")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {name: NETWORKS[name] for name in args.networks}
    if args.only in ("", "chunk"):
        for name, (options, make) in chosen.items():
            runs = {"plain": plain_sampler(make, args.batch), "ours": our_sampler(options, args.batch)}
            compare(f"chunk, batch {args.batch}, {name}", runs, args.rounds, repeats=10 if args.batch == 1 else 1)
    if args.only in ("", "train"):
        for batch in (64, 256):
            for name, (options, make) in chosen.items():
                runs = {"plain": plain_trainer(make, batch), "ours": our_trainer(options, batch, args.members)}
                compare(f"step, batch {batch}, {name}", runs, args.rounds, 1, args.members)
    if args.only in ("", "real_time"):
        for name, (options, _) in chosen.items():
            samplers = {objective: our_sampler(options | more) for objective, more in OBJECTIVES.items()}
            took = medians(samplers, args.rounds, repeats=10)
            print(f"ms per chunk, {name:25}", *(f"{key}: {MS * took[key]:.2f}" for key in took), sep="   ", flush=True)


if __name__ == "__main__":
    main()
