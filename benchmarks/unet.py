"""The U-Net of `flow_unet` against one of torch.nn with a DataLoader, eager: `python -m benchmarks.unet`.

Ratios of CPU time on one thread, medians of interleaved rounds (A, B, C, A, B, C ...); above 1 ours is faster. Chunks
of 16 steps, 7 actions, 40 observations, 10 flow steps. M=4 is compared with four plain networks one after another.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.plain_unet import PlainUNet
from raybc.policies.fields.unet1d import UNetField

HORIZON, ACTIONS, FEATURES, EMBEDDING, STEPS, ROWS = 16, 7, 40, 64, 10, 4096


def field(members: int, channels: Sequence[int]) -> UNetField:
    made = UNetField(members, ACTIONS, FEATURES, channels=channels, time_size=EMBEDDING)
    made.init_members([torch.Generator().manual_seed(m) for m in range(members)])
    return made


def batches(batch: int) -> Iterator[list[Tensor]]:
    data = TensorDataset(torch.randn(ROWS, FEATURES), torch.randn(ROWS, HORIZON, ACTIONS))
    while True:
        yield from DataLoader(data, batch, shuffle=True, drop_last=True)


def plain_trainer(channels: Sequence[int], batch: int) -> Callable[[], None]:
    net = PlainUNet(ACTIONS, FEATURES, channels, embedding=EMBEDDING)
    optimiser, data = torch.optim.AdamW(net.parameters()), batches(batch)

    def step() -> None:
        features, x_1 = next(data)
        t, x_0 = torch.rand(batch), torch.randn_like(x_1)
        x_t = (1 - t[:, None, None]) * x_0 + t[:, None, None] * x_1
        loss = ((net(x_t, t, features) - (x_1 - x_0)) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def our_trainer(channels: Sequence[int], batch: int, members: int) -> Callable[[], None]:
    net = field(members, channels)
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)
    features, chunks = torch.randn(ROWS, FEATURES), torch.randn(ROWS, HORIZON, ACTIONS)

    def step() -> None:
        rows = torch.randint(ROWS, (members, batch))
        x_1, t = chunks[rows], torch.rand(members, batch, 1)
        x_0 = torch.randn_like(x_1)
        x_t = (1 - t[..., None]) * x_0 + t[..., None] * x_1
        loss = ((net(x_t, t, net.condition(features[rows])) - (x_1 - x_0)) ** 2).mean((1, 2, 3)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def plain_sampler(channels: Sequence[int], batch: int) -> Callable[[], None]:
    net, features = PlainUNet(ACTIONS, FEATURES, channels, embedding=EMBEDDING).eval(), torch.randn(batch, FEATURES)

    @torch.inference_mode()
    def sample() -> None:
        x = torch.randn(batch, HORIZON, ACTIONS)
        for i in range(STEPS):
            x = x + net(x, torch.full((batch,), i / STEPS), features) / STEPS

    return sample


def our_sampler(channels: Sequence[int], batch: int, members: int) -> Callable[[], None]:
    net, features = field(members, channels), torch.randn(members, batch, FEATURES)

    @torch.inference_mode()
    def sample() -> None:
        x, condition = torch.randn(members, batch, HORIZON, ACTIONS), net.condition(features)
        for i in range(STEPS):
            x = x + net(x, x.new_full((members, 1, 1), i / STEPS), condition) / STEPS

    return sample


def medians(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """CPU seconds of each, in turn."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 2):  # two to warm up
        for name, run in runs.items():
            started = time.process_time()
            run()
            took[name].append(time.process_time() - started)
    return {name: statistics.median(times[2:]) for name, times in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("train", "chunk"), default="")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for channels in ((32, 64, 128), (64, 128, 256)):
        for what, sizes in (("train", (64, 256)), ("chunk", (1, 8, 32))):
            for batch in sizes if args.only in ("", what) else ():
                if what == "train":
                    runs = {"plain": plain_trainer(channels, batch)}
                    runs |= {f"M={m}": our_trainer(channels, batch, m) for m in (1, 4)}
                else:
                    runs = {"plain": plain_sampler(channels, batch)}
                    runs |= {f"M={m}": our_sampler(channels, batch, m) for m in (1, 4)}
                took = medians(runs, args.rounds)
                one, four = took["plain"] / took["M=1"], 4 * took["plain"] / took["M=4"]
                name = f"{what} {'-'.join(map(str, channels))} batch {batch}"
                print(f"{name:30} plain {1e3 * took['plain']:7.1f} ms   M=1 {one:.2f}x   M=4 {four:.2f}x", flush=True)


if __name__ == "__main__":
    main()
