"""Updates per second of Q-chunking (`raybc train --critic q_chunking`), and of the same update in plain JAX.

    python -m benchmarks.flow_q                                  # ours alone
    python -m benchmarks.flow_q --jax ~/jax/bin/python           # beside it: an interpreter that has JAX
    python -m benchmarks.flow_q --batch 64 --candidates 8 --flow_steps 4 --rounds 9
    python -m benchmarks.flow_q --device cuda --jax python3 --updates 300

One update: the gradients of a flow policy and of K critics, N chunks of the policy for every target, Adam, and the
target network. The sizes are the paper's: 4 x 512, K = 2, N = 32, 10 flow steps, batches of 256, chunks of 5 steps of 7
numbers, 20 numbers observed. Ours includes drawing and gathering the batch; JAX's batch is always the same. Medians of
interleaved rounds (A B A B), one thread each. Matrix products are float32 on both sides, also on a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer

EPISODES, LENGTH = 100, 50


@dataclasses.dataclass
class Size:
    """What an update computes."""

    batch: int = 256
    candidates: int = 32
    flow_steps: int = 10
    networks: int = 2
    width: int = 512
    depth: int = 4
    horizon: int = 5
    actions: int = 7
    obs: int = 20


class Ours:
    """A training of raybc."""

    def __init__(self, size: Size, device: str) -> None:
        rng, n = np.random.default_rng(0), EPISODES * LENGTH
        obs, actions = rng.normal(size=(n, size.obs)), rng.normal(size=(n, size.actions))
        store = EpisodeStore(
            {"o": obs.astype(np.float32)}, actions.astype(np.float32), rng.random(n).astype(np.float32),
            np.arange(LENGTH, n + 1, LENGTH),
        )  # fmt: skip
        run = RunConfig.of(
            env_name="none", dataset="random", action_chunking=True, horizon_length=size.horizon,
            batch_size=size.batch, hidden_width=size.width, hidden_depth=size.depth, flow_steps=size.flow_steps,
            critic="q_chunking", critic_ensemble=size.networks, critic_width=size.width, critic_depth=size.depth,
            critic_candidates=size.candidates,
        )  # fmt: skip
        self.trainer = PackTrainer([run], TrainingData(store, "", ("o",), {}), torch.device(device))
        self.go(20 if device == "cuda" else 1)  # compiles

    def go(self, updates: int) -> tuple[float, float]:
        """(seconds of CPU time, of wall time)."""
        began = time.process_time(), time.perf_counter()
        self.trainer.advance(self.trainer.step + updates)
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() - began[0], time.perf_counter() - began[1]


class Jax:
    """`flow_q_jax.py` in an interpreter of its own."""

    def __init__(self, python: str, size: Size, device: str) -> None:
        script = Path(__file__).with_name("flow_q_jax.py")
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        environ: dict[str, Any] = {**os.environ, "JAX_PLATFORMS": device, "OMP_NUM_THREADS": "1"}
        environ |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
        environ |= {"XLA_FLAGS": flags} if device == "cpu" else {}
        environ.pop("PYTHONPATH", None)
        self.process = subprocess.Popen(
            [python, str(script), json.dumps(dataclasses.asdict(size))], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=environ,
        )  # fmt: skip
        self.version = self._answer().split()[1]

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[0]}: JAX did not start; see above")
        return line

    def go(self, updates: int) -> tuple[float, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{updates}\n")
        self.process.stdin.flush()
        cpu, wall = map(float, self._answer().split())
        return cpu, wall

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Size):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    parser.add_argument("--jax", default="", help="an interpreter that has JAX")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--updates", type=int, default=3, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = Size(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Size)})
    sides: dict[str, Any] = {"raybc": Ours(size, args.device)}
    if args.jax:
        theirs = Jax(args.jax, size, args.device)
        sides[f"JAX {theirs.version}"] = theirs
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            times[name].append(side.go(args.updates))
    print(size)
    medians, kind = {}, "wall" if args.device == "cuda" else "CPU"
    for name, found in times.items():
        cpu, wall = (statistics.median(column) / args.updates for column in zip(*found, strict=True))
        medians[name] = wall if args.device == "cuda" else cpu
        print(f"{name:12} {1 / cpu:8.2f} updates per second of CPU time, {1 / wall:8.2f} of wall time")
    if args.jax:
        ours, other = medians.values()
        print(f"{kind} time of JAX / ours: {other / ours:.2f} (above 1 ours is faster)")
        theirs.close()


if __name__ == "__main__":
    main()
