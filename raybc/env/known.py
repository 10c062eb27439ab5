"""Which environments there are, by the names that users write."""

from __future__ import annotations

import contextlib
import importlib

from raybc.env.environment import Environment, read_manifest, root
from raybc.envs.border import calling
from raybc.strict import did_you_mean
from raybc.types import UserError

#: Suite -> "module:attribute" of its environment.
ENVIRONMENTS: dict[str, str] = {
    "lerobot": "raybc.foreign.lerobot:ENVIRONMENT",
    "libero": "raybc.envs.libero:ENVIRONMENT",
    "ocbench": "raybc.envs.ocbench:ENVIRONMENT",
    "ocbench_warp": "raybc.envs.ocbench_warp:ENVIRONMENT",
}
ATTRIBUTE = "ENVIRONMENT"


def statuses() -> dict[str, tuple[str, str, str]]:
    """State, a line for people, and key of raybc's own environments and of others that are built on this machine."""
    built = {manifest["name"] for folder in root().glob("*-*") if (manifest := read_manifest(folder)) is not None}
    found: dict[str, tuple[str, str, str]] = {}
    for name in sorted({*ENVIRONMENTS, *built}):
        with contextlib.suppress(UserError):  # a module of the user's that is not in this process's path
            environment = find(name)
            status = environment.status()
            found[name] = (status.state, status.line(name), environment.key)
    return found


def find(name: str) -> Environment:
    """The environment of a suite, or of a module of the user's own that has one as its attribute `ENVIRONMENT`.

    Raises `UserError` for unknown names.
    """
    if name in ENVIRONMENTS:
        module, _, attribute = ENVIRONMENTS[name].partition(":")
    else:
        module, attribute = name, ATTRIBUTE
        if not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"expected a suite or a module, got {name!r}: {did_you_mean(name, ENVIRONMENTS)}")
    with calling(name, f"importing {module}", "it must not import the simulator: do that where one is made"):
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name not in (module, module.split(".")[0]):
                raise
            raise UserError(
                f"unknown environment {name!r}: {did_you_mean(name, ENVIRONMENTS)}; or is it a module of your own, "
                "whose folder is not in PYTHONPATH?"
            ) from None
    found = getattr(imported, attribute, None)
    if not isinstance(found, Environment):
        raise UserError(f"module {module}: expected {attribute} = Environment(...), got {found!r}")
    if found.name != name:
        raise UserError(f"module {module}: expected {attribute} = Environment({name!r}, ...), got name {found.name!r}")
    return found
