"""Processes of simulators in environments of their own: what they must have installed."""

from __future__ import annotations

import subprocess
import sys

#: What an environment has beside the simulator; their own dependencies come with them.
NEEDS = "numpy, gymnasium, ray, av"


def test_workers_need_neither_torch_nor_training_code() -> None:
    program = f"""
import sys
import {NEEDS}
before = set(sys.modules)
import raybc.inference.shared
import raybc.rollout.worker
new = set(sys.modules) - before
outside = {{name.split(".")[0] for name in new}} - {{"raybc", "numpy"}} - set(sys.stdlib_module_names)
assert not outside, f"a worker imports {{sorted(outside)}}"
ours = [name for name in new if name.startswith(("raybc.train", "raybc.bundle", "raybc.sweep", "raybc.policies."))]
assert ours == ["raybc.policies.spec"], ours
assert "torch" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
