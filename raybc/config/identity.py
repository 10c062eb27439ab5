"""What names a run, so that a name survives releases.

The run_id covers what changes the model or its use (MODEL, MEMBER and SAMPLE options) where it differs from its
default, the kinds of policy and encoder, and the data. A new option whose default changes nothing changes no run_id,
and an OUTPUT option never does. Where a default itself must change, `FORMER` keeps the value that identities leave out,
so that the ids of saved runs stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raybc.config import flat
from raybc.config.options import Role
from raybc.strict import check_type, digest

if TYPE_CHECKING:
    from raybc.config.run import RunConfig

#: The rules by which ids are made. Release 0.1.0 (schema 1) hashed every option with its value.
SCHEMA = 2
#: Option -> the default that identities of this schema leave out, where it is no longer today's.
FORMER: dict[str, Any] = {}


def identity(run: RunConfig) -> dict[str, Any]:
    """The options that name a run, with their values."""
    values = flat.write(run)
    found = {}
    for name, info in flat.options_of(run).items():
        if info.option.role is Role.OUTPUT or (name == "horizon_length" and not run.action_chunking):
            continue
        value = check_type(values[name], info.hint, name)  # 1 and 1.0 are the same learning rate
        if value != FORMER.get(name, info.default):
            found[name] = value
    return found


def run_id(run: RunConfig, data_fingerprint: str) -> str:
    """16 hex digits."""
    return digest({"schema": SCHEMA, "options": identity(run), "data": data_fingerprint})[:16]


def extends(longer: RunConfig, shorter: RunConfig) -> bool:
    """Whether the one is the other with a larger budget and nothing else that counts."""
    budget = ("training_steps", "num_rounds", "schedule_steps", "schedule_after")

    def rest(run: RunConfig) -> Mapping[str, Any]:
        return {name: value for name, value in identity(run).items() if name not in budget}

    return rest(longer) == rest(shorter) and longer.training_steps > shorter.training_steps
