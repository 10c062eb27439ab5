"""Names of the folders that commands write unless --out says otherwise: the same for the same request only."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from raybc.strict import digest

#: A longer description of a request becomes a digest: file systems allow 255 bytes in a name.
_LONGEST = 100
#: Characters that Windows forbids in file names; tar and scp read a colon as the end of a host's name.
_FORBIDDEN = re.compile(r'[<>:"|?*\\/]+')


def folder_word(text: str) -> str:
    """`text` as the name of one folder on any system: `gym:Pendulum-v1` becomes `gym_Pendulum-v1`."""
    return _FORBIDDEN.sub("_", text)


def existing_or_safe(parent: Path, name: str) -> Path:
    """The folder `name` in `parent`, named by `folder_word`; a folder of that very name, as earlier releases wrote it,
    is kept."""
    former = parent / name
    return former if former.exists() else parent / folder_word(name)


def request_suffix(args: Any, leave_out: Collection[str]) -> str:
    """The flags that decide a result and are not the default, as the end of a folder's name: `_episodes_100_videos_4`.

    args: a dataclass of flags; leave_out: the flags that decide nothing, or are part of the name already.
    """
    parts = []
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if field.name in leave_out or value == field.default:
            continue
        parts.append(field.name if value is True else f"{field.name}_{_value(value)}")
    suffix = "".join(f"_{part}" for part in parts)
    return suffix if len(suffix) <= _LONGEST else f"_{digest(parts)[:12]}"


def _value(value: Any) -> str:
    """A value in a name; different values differ."""
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    plain = re.sub(r"[^A-Za-z0-9_.,-]+", "_", text)
    return plain.replace(",", "-") + ("" if plain == text else f"_{digest(text)[:6]}")
