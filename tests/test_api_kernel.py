"""`raybc` in a real Jupyter kernel: what a cell shows, *interrupt*, running the cell again, and Ray."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import raybc
from raybc.run_folder import TrainingFolder
from tests.helpers import ROOT

jupyter = pytest.importorskip("jupyter_client.manager")
pytest.importorskip("ipykernel")

#: Seconds until a cell must have ended.
PATIENCE = 240.0


@dataclass
class Outputs:
    """What a cell showed."""

    text: str = ""
    """Its stdout and stderr."""
    shown: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    """Each display output -> its states."""
    result: dict[str, str] = field(default_factory=dict)
    """The value of its last line."""
    error: tuple[str, str, list[str]] | None = None
    """Class, message and traceback."""


class Kernel:
    """A kernel that runs cells one after another."""

    def __init__(self, folder: Path) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAYBC_HOME": str(folder / "home")}
        self.manager, self.client = jupyter.start_new_kernel(kernel_name="python3", cwd=str(folder), env=env)

    def run(self, cell: str, interrupt_when: Callable[[], bool] | None = None) -> Outputs:
        """Run a cell, and interrupt it when the condition first holds."""
        sent, found, end = self.client.execute(cell), Outputs(), time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if interrupt_when is not None and interrupt_when():
                self.manager.interrupt_kernel()
                interrupt_when = None
            try:
                message = self.client.get_iopub_msg(timeout=0.02)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                found.text += content["text"]
            elif kind in ("display_data", "update_display_data"):
                found.shown.setdefault(content["transient"].get("display_id", ""), []).append(content["data"])
            elif kind == "execute_result":
                found.result = content["data"]
            elif kind == "error":
                found.error = content["ename"], content["evalue"], content["traceback"]
            elif kind == "status" and content["execution_state"] == "idle":
                return found
        raise AssertionError(f"the cell did not end: {found}")

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def kernel(folder: Path) -> Iterator[Kernel]:
    made = Kernel(folder)
    yield made
    made.close()


FIT = """
run = raybc.fit(data="demos", num_rounds=2, epochs_per_round=100, batch_size=8, hidden_width=16, hidden_depth=2,
                eval_interval=0, log_interval=25, threads=1, out="runs/first")
"""


def test_interrupt_and_run_the_cell_again(kernel: Kernel, folder: Path) -> None:
    """The weights are those of an unbroken run, and no cell ends in a wall of frames."""
    state = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    raybc.from_arrays(state, np.tanh(state), np.arange(8, 81, 8), path=folder / "demos")
    assert kernel.run("import raybc").error is None
    log = TrainingFolder(folder / "runs/first").train_csv
    first = kernel.run(FIT, interrupt_when=lambda: log.is_file() and len(log.read_text().splitlines()) > 2)
    assert first.error is not None, first.text
    name, message, frames = first.error
    assert name == "Interrupted"
    assert message.endswith("is saved; run the same again to continue")
    assert frames == [f"Interrupted: {message}"]
    (bar,) = (states for states in first.shown.values() if states)
    step = raybc.Run(folder / "runs/first").step
    assert 0 < step < 1600
    assert f"step {step} of 1600" in message
    assert "round 1/2, epoch" in bar[-1]["text/plain"], "it stays as it was"

    again = kernel.run(FIT)
    assert again.error is None, again.error
    assert f"resuming at step {step} of 1600" in again.text
    (bar,) = (states for states in again.shown.values() if states)
    assert "step 1600/1600" in bar[-1]["text/plain"]
    assert "\x1b" not in first.text + again.text
    assert all(set(state) == {"text/plain"} and "\x1b" not in state["text/plain"] for state in bar)
    whole = raybc.fit(
        data=folder / "demos", num_rounds=2, epochs_per_round=100, batch_size=8, hidden_width=16, hidden_depth=2,
        eval_interval=0, log_interval=25, threads=1, out=folder / "runs/whole", quiet=True,
    )  # fmt: skip
    found = raybc.Run(folder / "runs/first")
    for checkpoint in ("checkpoint_800_round_1", "checkpoint_1600_round_2"):
        weights = [(run.folder / checkpoint / "policy.safetensors").read_bytes() for run in (found, whole)]
        assert weights[0] == weights[1], checkpoint
    rows = [[{k: v for k, v in r.items() if k != "steps_per_sec"} for r in run.history()] for run in (found, whole)]
    assert rows[0] == rows[1]


def test_what_a_cell_shows(kernel: Kernel, folder: Path) -> None:
    """An object with its table, a mistake as one line; cells run inside an event loop, and data need no Ray."""
    shown = kernel.run(f"import asyncio, sys, raybc\nasyncio.get_running_loop()\n{FIT}run")
    assert shown.error is None, shown.error
    assert {"text/html", "text/plain"} <= shown.result.keys()
    assert "<table>" in shown.result["text/html"]
    assert "step: 1600 of 1600, round 2 of 2 (finished)" in shown.result["text/plain"]
    other = kernel.run(FIT.replace("batch_size=8", "batch_size=8, lr=1e-2"))
    assert other.error is not None
    name, message, frames = other.error
    assert (name, frames) == ("UserError", [f"UserError: {message}"])
    assert "lr: was 0.0003, is 0.01; use another out=..." in message
    assert kernel.run("'ray' in sys.modules").result["text/plain"] == "False"


def test_without_ports() -> None:
    """Where a process may open none, Ray is not waited for."""
    code = "from raybc.cluster.session import ray_session\nwith ray_session(num_cpus=1): pass"
    isolated = ["unshare", "-rn"]  # without a network, not even the loopback interface
    if shutil.which("unshare") is None or subprocess.run([*isolated, "true"], capture_output=True).returncode:
        pytest.skip("unshare may not make network namespaces here")
    done = subprocess.run(
        [*isolated, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "Ray cannot start here, because this process may not use ports of 127.0.0.1" in last, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ray_in_a_notebook(kernel: Kernel) -> None:
    """A Ray that the notebook started is used by every call and stays; there is never a second one."""
    start = "import raybc\nfrom raybc.cluster.session import ray_session\n"
    start += "session = ray_session(num_cpus=2, quiet=True)\nsession.__enter__()\nimport ray\n"
    assert kernel.run(f"{start}node = ray.get_runtime_context().get_node_id()").error is None
    train = """
run = raybc.fit(task="pointmass-scripted-low_dim", demos=10, training_steps=60, batch_size=32, hidden_width=16,
                workers=1, eval_episodes=3, eval_interval=60, threads=1, out="runs/mass")
run"""
    done = kernel.run(train)
    assert done.error is None, done.error
    assert re.search(r"success [\d.]+ % \(95 %", done.result["text/plain"])
    found = kernel.run("found = raybc.evaluate(run, episodes=3, workers=1, videos=1)\nfound")
    assert found.error is None, found.error
    assert "95 % interval" in found.result["text/html"]
    assert "data:video/mp4;base64," in found.result["text/html"]
    assert "Starting Ray" not in done.text + found.text
    same = "ray.is_initialized() and ray.get_runtime_context().get_node_id() == node"
    assert kernel.run(same).result["text/plain"] == "True"
    assert kernel.run("session.__exit__(None, None, None)").error is None
