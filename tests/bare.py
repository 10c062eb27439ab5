"""A machine with torch, numpy, h5py and safetensors alone: `python -m tests.bare MODULE ARGUMENT ...` runs a module
as `python -m` does, and every other third-party package is missing.
"""

from __future__ import annotations

import importlib.abc
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from typing import Any

#: What is installed, with what PyTorch itself requires.
INSTALLED = {
    "torch", "numpy", "h5py", "safetensors",
    "filelock", "fsspec", "functorch", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "_distutils_hack",
    "pkg_resources", "sympy", "torchgen", "triton", "typing_extensions",
}  # fmt: skip
OURS = {"raybc", "benchmarks", "tests"}


class Bare(importlib.abc.MetaPathFinder):
    """Finds what a bare machine has."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        first = name.partition(".")[0]
        known = first in sys.stdlib_module_names | INSTALLED | OURS or first.startswith("_sysconfigdata")
        return PathFinder.find_spec(name, path, target) if known else None


def forbid() -> None:
    """From now on, this process finds no other package."""
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Bare()]


if __name__ == "__main__":
    forbid()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
