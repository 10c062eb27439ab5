"""Member-steps per second of training, side by side in one run: `python -m benchmarks.train_throughput`.

    plain      the loop that people write: Dataset and DataLoader, eager, torch.nn, one process     (a)
    plain xM   M of them started side by side, each with its share of the cores                      (b)
    ours M     one `PackTrainer` with M members                                                      (c)
    jax        the same update jitted in JAX, where it is installed
    jax M      the same update vmapped over M members, next to `ours M` in every round

Flow matching, batches of 256, chunks of 5, 23 observations and 7 actions. Each is measured in every round (A, B, C, A,
B, C ...); the figures are medians. Beside other busy processes compare CPU times on one core:

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.train_throughput --ways ours vmapped --clock cpu
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer, with_seeds
from raybc.train.step import STEPS_PER_BLOCK

OBS, ACT, CHUNK, BATCH = 23, 7, 5, 256
WAYS = ("plain", "beside", "jax", "ours", "vmapped")
EPISODES, LENGTH = 200, 50


def demonstrations() -> EpisodeStore:
    rng = np.random.default_rng(0)
    n = EPISODES * LENGTH
    return EpisodeStore(
        {"state": rng.normal(size=(n, OBS)).astype(np.float32)},
        rng.uniform(-1, 1, (n, ACT)).astype(np.float32),
        np.zeros(n, np.float32),
        np.arange(LENGTH, n + 1, LENGTH),
        source=Path("random"),
    )


class Chunks(torch.utils.data.Dataset[dict[str, Tensor]]):
    """What a data set class of a training script does: one window an item, padded at the end of its episode."""

    def __init__(self, store: EpisodeStore) -> None:
        self.obs, self.actions = store.obs["state"], store.actions_NA
        self.ends = np.repeat(store.episode_ends, np.diff(store.episode_ends, prepend=0))

    def __len__(self) -> int:
        return len(self.obs)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        steps = np.arange(i, i + CHUNK)
        is_pad = steps >= self.ends[i]
        chunk = self.actions[np.minimum(steps, self.ends[i] - 1)]
        return {
            "obs": torch.from_numpy(self.obs[i].copy()),
            "actions": torch.from_numpy(chunk),
            "is_pad": torch.from_numpy(is_pad),
        }


class Plain:
    """torch.nn, DataLoader, AdamW as it comes, `.item()` of the loss at every step for the progress bar."""

    def __init__(self, width: int, depth: int, device: str) -> None:
        torch.manual_seed(0)
        sizes = [OBS + CHUNK * ACT + 1, *[width] * depth]
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise(sizes):
            layers += [nn.Linear(i, o), nn.GELU(approximate="tanh")]
        self.device = torch.device(device)
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], CHUNK * ACT)).to(self.device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=3e-4)
        self.loader = torch.utils.data.DataLoader(Chunks(demonstrations()), BATCH, shuffle=True, drop_last=True)
        self.batches = self._for_ever()

    def _for_ever(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield from self.loader

    def run(self, steps: int) -> None:
        for _ in range(steps):
            batch = {k: v.to(self.device) for k, v in next(self.batches).items()}
            x_1 = batch["actions"].flatten(1)
            x_0, t = torch.randn_like(x_1), torch.rand(len(x_1), 1, device=self.device)
            v = self.net(torch.cat([batch["obs"], (1 - t) * x_0 + t * x_1, t], 1))
            error = ((v - (x_1 - x_0)) ** 2).view(-1, CHUNK, ACT).mean(2)
            valid = ~batch["is_pad"]
            loss = ((error * valid).sum(1) / valid.sum(1)).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()


class Ours:
    def __init__(self, members: int, width: int, depth: int, device: str, **changes: Any) -> None:
        config = RunConfig.of(
            training_steps=10**9, log_interval=10**9, batch_size=BATCH, action_chunking=True, horizon_length=CHUNK,
            hidden_width=width, hidden_depth=depth, normalization="identity", **changes,
        )  # fmt: skip
        data = TrainingData(demonstrations(), "0" * 64, ("state",), {})
        self.trainer = PackTrainer(with_seeds(config, range(members)), data, torch.device(device))

    def run(self, steps: int) -> None:
        self.trainer.advance(self.trainer.step + steps)


class Jax:
    """The same update, jitted: data on the device, gathered there, AdamW by hand (optax is not needed for it).

    members: 0 for a single network; otherwise the update is vmapped over as many. State is donated, so that it is
    updated in place.
    """

    def __init__(self, width: int, depth: int, members: int = 0) -> None:
        import jax
        import jax.numpy as jnp

        store = demonstrations()
        obs_NO, actions_NA = jnp.asarray(store.obs["state"]), jnp.asarray(store.actions_NA)
        ends_N = jnp.asarray(np.repeat(store.episode_ends, LENGTH))
        sizes = [OBS + CHUNK * ACT + 1, *[width] * depth, CHUNK * ACT]
        rng = np.random.default_rng(0)
        parameters = [
            (jnp.asarray(rng.normal(size=(i, o)).astype(np.float32) / i**0.5), jnp.zeros(o, np.float32))
            for i, o in itertools.pairwise(sizes)
        ]

        def loss_of(parameters: Any, picks: Any, x_0: Any, t: Any) -> Any:
            steps = picks[:, None] + jnp.arange(CHUNK)
            last = ends_N[picks][:, None] - 1
            x_1 = actions_NA[jnp.minimum(steps, last)].reshape(BATCH, -1)
            h = jnp.concatenate([obs_NO[picks], (1 - t) * x_0 + t * x_1, t], 1)
            for w, b in parameters[:-1]:
                h = jax.nn.gelu(h @ w + b, approximate=True)
            v = h @ parameters[-1][0] + parameters[-1][1]
            error = ((v - (x_1 - x_0)) ** 2).reshape(BATCH, CHUNK, ACT).mean(2)
            valid = steps <= last
            return ((error * valid).sum(1) / valid.sum(1)).mean()

        def update(state: Any) -> Any:
            parameters, first, second, step, key = state
            key, k1, k2, k3 = jax.random.split(key, 4)
            picks = jax.random.randint(k1, (BATCH,), 0, len(obs_NO))
            x_0, t = jax.random.normal(k2, (BATCH, CHUNK * ACT)), jax.random.uniform(k3, (BATCH, 1))
            loss, grads = jax.value_and_grad(loss_of)(parameters, picks, x_0, t)
            step = step + 1
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
            parameters = jax.tree.map(
                lambda p, m, v: p - 3e-4 * (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.999**step)) + 1e-8),
                parameters, first, second,
            )  # fmt: skip
            return (parameters, first, second, step, key), loss

        first, second = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
        self._state = (parameters, first, second, jnp.zeros((), jnp.int32), jax.random.PRNGKey(0))
        if members:
            self._state = jax.tree.map(lambda array: jnp.stack([array] * members), self._state)
            update = jax.vmap(update)
        self._update = jax.jit(update, donate_argnums=0)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._state, loss = self._update(self._state)
        loss.block_until_ready()


def beside(width: int, depth: int, device: str, threads: int, ready: Any, go: Any, out: Any) -> None:
    torch.set_num_threads(threads)
    plain = Plain(width, depth, device)
    plain.run(3)
    while True:
        ready.release()
        steps = go.get()
        if not steps:
            return
        plain.run(steps)
        _wait(device)
        out.put(None)


class Beside:
    """(b): M processes of the plain loop."""

    def __init__(self, members: int, width: int, depth: int, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        threads = max(1, (os.cpu_count() or 1) // members)
        self._ready, self._out, self._gos = context.Semaphore(0), context.Queue(), []
        for _ in range(members):
            go = context.Queue()
            arguments = (width, depth, device, threads, self._ready, go, self._out)
            context.Process(target=beside, args=arguments, daemon=True).start()
            self._gos.append(go)
        for _ in self._gos:
            self._ready.acquire()

    def run(self, steps: int) -> None:
        for go in self._gos:
            go.put(steps)
        for _ in self._gos:
            self._out.get()
            self._ready.acquire()

    def close(self) -> None:
        for go in self._gos:
            go.put(0)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


#: What a second is: of the wall clock, or of the CPU time of this process.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def rate(
    run: Callable[[int], None],
    members: int,
    seconds: float,
    device: str,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Member-steps per second, over about `seconds`; many steps are whole blocks of draws, whose cost comes at once."""
    steps, took = 2, 0.0
    while True:
        started = clock()
        run(steps)
        _wait(device)
        took = clock() - started
        if took > seconds / 2:
            return steps * members / took
        steps = max(steps * 2, int(steps * seconds / max(took, 1e-3) * 0.8))
        if steps > STEPS_PER_BLOCK // 2:
            steps = -(-steps // STEPS_PER_BLOCK) * STEPS_PER_BLOCK


def ways_of(args: argparse.Namespace, width: int, depth: int) -> dict[str, tuple[Any, int]]:
    """Name -> (what runs steps, its number of members), in the order of a round."""
    device, chosen, ways = args.device, set(args.ways), dict[str, tuple[Any, int]]()
    if chosen & {"jax", "vmapped"} and importlib.util.find_spec("jax") is None:
        print("JAX is not installed: left out")
        chosen -= {"jax", "vmapped"}
    if "plain" in chosen:
        ways["plain"] = (Plain(width, depth, device), 1)
    if "beside" in chosen:
        ways[f"plain x{args.beside}"] = (Beside(args.beside, width, depth, device), args.beside)
    if "jax" in chosen:
        ways["jax"] = (Jax(width, depth), 1)
    for m in args.members:
        if "ours" in chosen:
            ways[f"ours M={m}"] = (Ours(m, width, depth, device, compile=args.compile), m)
        if "vmapped" in chosen:
            ways[f"jax M={m}"] = (Jax(width, depth, m), m)
    return ways


def compare(args: argparse.Namespace, width: int, depth: int) -> dict[str, list[float]]:
    ways = ways_of(args, width, depth)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for way, _ in ways.values():
        way.run(3)
    for _ in range(args.rounds):
        for name, (way, members) in ways.items():
            found[name].append(rate(way.run, members, args.seconds, args.device, CLOCKS[args.clock]))
    for way, _ in ways.values():
        if isinstance(way, Beside):
            way.close()
    return found


def show(width: int, depth: int, found: dict[str, list[float]], device: str) -> None:
    """A row for each way: medians over those of the ways of one size, and over JAX with equally many members."""
    print(f"\n### {depth} x {width}, batch {BATCH}, {device}\n")
    median = {name: statistics.median(values) for name, values in found.items()}
    others = [name for name in found if "M=" not in name]
    columns = [*(f"over {o}" for o in others), "over vmapped JAX"]
    print(f"| | member-steps/s (each round) | {' | '.join(columns)} |")
    print(f"|---|---|{'---|' * len(columns)}")
    for name, values in found.items():
        over = [f"{median[name] / median[o]:.2f}" for o in others]
        same = name.replace("ours", "jax")
        over.append(f"{median[name] / median[same]:.2f}" if same != name and same in median else "")
        print(f"| {name} | {', '.join(f'{v:.0f}' for v in values)} | {' | '.join(over)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="*", default=["4x512", "3x128"], help="DEPTHxWIDTH")
    parser.add_argument("--members", nargs="*", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: not for `beside`, nor for a GPU")
    parser.add_argument("--beside", type=int, default=8, help="M of the plain loops side by side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a measurement")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.clock == "cpu" and ("beside" in args.ways or args.device != "cpu"):
        parser.error("--clock cpu: expected --device cpu and --ways without beside, whose time other processes spend")
    results = {}
    for net in args.nets:
        depth, width = map(int, net.split("x"))
        results[net] = compare(args, width, depth)
        show(width, depth, results[net], args.device)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
