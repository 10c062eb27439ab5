"""Sweeps: search spaces, the ledger of trials, and the search on Ray Tune and Optuna.

The package can be called: `raybc.sweep(...)` searches recipes, see `raybc.api.searching.sweep`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A module that is also the function `raybc.sweep`: the import system binds a package to this name, whatever the
    package above defines."""

    def __call__(self, config: Any = None, **options: Any) -> Any:
        from raybc.api.searching import sweep

        return sweep(config, **options)


sys.modules[__name__].__class__ = _Callable
