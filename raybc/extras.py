"""Packages that only some commands need."""

from __future__ import annotations

import importlib
from types import ModuleType

from raybc.types import UserError


def require_extra(what: str, extra: str, *modules: str) -> list[ModuleType]:
    """The modules, imported, or `UserError` that names the first missing package and the line that installs it; `what`
    (a flag or a command) needs them, and they come with raybc[`extra`]."""
    try:
        return [importlib.import_module(module) for module in modules]
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package == "raybc":
            raise
        raise missing_extra(what, extra, package) from None


def missing_extra(what: str, extra: str, package: str) -> UserError:
    """The error for a missing package."""
    return UserError(f"{what}: needs the package {package}: pip install 'raybc[{extra}]'")
