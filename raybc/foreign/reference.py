"""What names a policy of others: KIND:WHERE on a command line, and one text for simulator processes."""

from __future__ import annotations

import dataclasses
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.foreign.base import Kind

#: Prefix -> module with a `KIND`, which is imported when a policy of that kind is named.
KINDS = {
    "lerobot": "raybc.foreign.lerobot",
    "module": "raybc.foreign.module",
    "onnx": "raybc.foreign.onnx",
    "openpi": "raybc.foreign.openpi",
    "vla-eval": "raybc.foreign.vla_eval",
}
#: Seconds to wait for an answer of a policy on a server.
TIMEOUT = 60.0


@dataclass(frozen=True)
class Reference:
    """A policy of others, and how it is used."""

    kind: str
    """One of `KINDS`."""
    where: str
    """What follows the prefix: a module and a function, a file, HOST:PORT."""
    argument: str = ""
    """Text that is handed to the policy, such as a checkpoint."""
    inputs: str = ""
    """What a policy on a server is sent: NAME=SOURCE, separated by commas; "": the default of its kind."""
    timeout: float = TIMEOUT
    """Seconds to wait for an answer of a policy on a server."""
    folder: str = ""
    """A folder in which Python looks for modules as well."""
    python: str = ""
    """The interpreter of a policy with packages of its own, where the user has named one."""

    @property
    def shown(self) -> str:
        """As it is typed."""
        return f"{self.kind}:{self.where}"

    @property
    def text(self) -> str:
        """The whole reference as one text, which `read` reads."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def read(cls, text: str) -> Reference:
        """The inverse of `text`."""
        return cls(**json.loads(text))

    def load_kind(self) -> Kind:
        """What raybc knows about policies of this kind."""
        found: Kind = importlib.import_module(KINDS[self.kind]).KIND
        return found


def is_reference(text: str) -> bool:
    """Whether `Rollout.policy` is a `Reference` and not the path of a bundle."""
    return text.startswith("{")


def prefix_of(text: str) -> str:
    """The kind of policy of others that a text on a command line names; "" for a path. Raises `UserError` for a name
    that looks like one of them."""
    prefix, colon, _ = text.partition(":")
    if not colon or Path(text).exists() or "/" in prefix:
        return ""
    if prefix in KINDS:
        return prefix
    if prefix.replace("_", "-") in KINDS:
        raise UserError(f"{text}: did you mean {prefix.replace('_', '-')}:...?")
    return ""
