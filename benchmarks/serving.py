"""A policy here, as an ONNX file, and behind a socket: `python -m benchmarks.serving`.

Milliseconds for the chunk of one observation (median of 200, by turns), and chunks in a second that 1, 4 and 16 clients
get from one server. The policy is an untrained 4 x 512 MLP of halfcheetah's sizes (10 flow steps, chunks of 5).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch

import raybc
from benchmarks.rollouts import make_bundle
from raybc.envs.base import Obs
from raybc.export.onnx import export_onnx
from raybc.registry import get_task
from raybc.serve.client import RemotePolicy

TASK = "halfcheetah"
ROUNDS, EACH = 200, 40


def by_turns(ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median milliseconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * median(of) for name, of in seconds.items()}


def chunks_per_second(url: str, obs: Obs, clients: int) -> float:
    ready = threading.Barrier(clients + 1)

    def client() -> None:
        with RemotePolicy(url) as policy:
            ready.wait()
            for _ in range(EACH):
                policy.chunk(obs)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return clients * EACH / (time.perf_counter() - started)


def main() -> None:
    torch.set_num_threads(1)
    obs, _ = get_task(TASK).make(None).reset(seed=0)
    with tempfile.TemporaryDirectory() as temporary:
        path = make_bundle(TASK, Path(temporary))
        here = raybc.load(path, flow_steps=10)
        facts = export_onnx(here.bundle, here.setting, Path(temporary) / "policy.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(f"{temporary}/policy.onnx", options)
        inputs = {name: obs[name][None, None] for name in here.bundle.obs_sizes}
        inputs["noise"] = np.zeros((1, here.bundle.spec.horizon, here.bundle.action_size), np.float32)
        command = [sys.executable, "-m", "raybc.serve", str(path), "--flow_steps=10", "--port=0", "--device=cpu"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = "http://" + server.stdout.readline().strip().rpartition("http://")[2]
            with RemotePolicy(url) as there:
                ways: dict[str, Callable[[], Any]] = {
                    "here": lambda: here.chunk(obs),
                    "onnxruntime": lambda: session.run(["actions"], inputs),
                    "server": lambda: there.chunk(obs),
                    "server, nothing computed": lambda: there.observe(obs),
                }
                for name, milliseconds in by_turns(ways).items():
                    print(f"{name}: {milliseconds:.2f} ms")
            for clients in (1, 4, 16):
                print(f"{clients} clients: {chunks_per_second(url, obs, clients):.0f} chunks a second")
            server.terminate()
        print(f"onnxruntime differs by {facts['largest_difference']:.1e} of the action's scale")


if __name__ == "__main__":
    main()
