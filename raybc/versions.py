"""Versions of everything that a result depends on besides its configuration."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "raybc", "torch", "numpy", "ray", "optuna", "gymnasium", "robosuite", "mujoco", "h5py", "safetensors", "pyarrow",
)  # fmt: skip


def versions(simulator: dict[str, str]) -> dict[str, Any]:
    """Python, packages and `simulator` (`SimEnv.identity()`), as versions.json has them."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"simulator": simulator}
