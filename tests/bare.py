"""A machine with torch, numpy, h5py and safetensors alone: `python -m tests.bare MODULE ARGUMENT ...` runs a module
as `python -m` does, and every other third-party package is missing.
"""

from __future__ import annotations

import importlib.abc
import runpy
import sys
from collections.abc import Sequence
from typing import Any

#: What is installed, with what PyTorch itself requires.
INSTALLED = {
    "torch", "numpy", "h5py", "safetensors",
    "filelock", "fsspec", "functorch", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "_distutils_hack",
    "pkg_resources", "sympy", "torchgen", "triton", "typing_extensions",
}  # fmt: skip
OURS = {"raybc", "benchmarks", "tests"}


class Missing(importlib.abc.MetaPathFinder):
    """Finds nothing, and says so, for packages that are not on a bare machine."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        first = name.partition(".")[0]
        if first not in sys.stdlib_module_names | INSTALLED | OURS:
            raise ModuleNotFoundError(f"No module named {name!r}: this machine is bare", name=name)


def forbid() -> None:
    """From now on, this process finds no other package."""
    sys.meta_path.insert(0, Missing())


if __name__ == "__main__":
    forbid()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
