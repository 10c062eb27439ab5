"""Versions of the software that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "raybc", "torch", "numpy", "ray", "optuna", "gymnasium", "robosuite", "mujoco", "h5py", "safetensors", "pyarrow",
)  # fmt: skip


def versions(simulator: dict[str, str]) -> dict[str, Any]:
    """The contents of versions.json: Python, packages and `simulator` (`SimEnv.identity()`)."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"simulator": simulator}
