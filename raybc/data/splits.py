"""Splits as they are declared, and as they are used: known, without repetitions, and with a training split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raybc.data.episodes import HELD_OUT
from raybc.types import UserError

if TYPE_CHECKING:  # reading formats imports their libraries
    from raybc.data.formats.options import Remarks

#: Number of episodes to list in a remark.
MAX_LISTED = 8


def resolved_splits(
    declared: Mapping[str, np.ndarray], episodes: int, skipped: np.ndarray, source: Path, remarks: Remarks
) -> dict[str, np.ndarray]:
    """Name -> episode numbers, int64, each once.

    An episode that a split lists several times counts once. Where there are held-out splits but no `train`, the
    training split is the rest. Both are noted in `remarks`.

    declared: by numbers on disk. episodes: number of episodes that are left. skipped: numbers on disk of those that
    were left out. Raises `UserError` for episodes that do not exist.
    """
    total = episodes + len(skipped)
    found = {}
    for name, given in declared.items():
        given = np.asarray(given, np.int64)
        if len(given) and (given.min() < 0 or given.max() >= total):
            wrong = given[(given < 0) | (given >= total)]
            raise UserError(
                f"{source}: split {name!r}: expected episodes from 0 to {total - 1} (there are {total}), got "
                f"{listed(wrong)}; correct the split: episodes may have been removed since it was written"
            )
        members, counts = np.unique(given, return_counts=True)
        if len(members) < len(given):
            repeated = listed(members[counts > 1])
            remarks.note("splits", name, f"lists the episodes {repeated} more than once; each counts once")
            given = members
        given = given[~np.isin(given, skipped)]
        found[name] = given - np.searchsorted(skipped, given)
    held = held_out(found)
    if "train" not in found and held:
        rest = np.setdiff1d(np.arange(episodes), np.concatenate([found[name] for name in held]))
        found["train"] = rest
        text = f"not declared; training uses the {len(rest)} episodes that are not in {', '.join(held)}"
        remarks.note("rest", "train", text)
    return found


def held_out(splits: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the splits that are held out from training."""
    return [name for name in splits if name.lower() in HELD_OUT]


def overlap(splits: Mapping[str, np.ndarray]) -> tuple[str, np.ndarray] | None:
    """The held-out split that shares episodes with `train`, and these episodes; None where there is none."""
    for name in held_out(splits):
        shared = np.intersect1d(splits.get("train", np.zeros(0, np.int64)), splits[name])
        if len(shared):
            return name, shared
    return None


def listed(numbers: np.ndarray) -> str:
    """Numbers of episodes for messages."""
    more = f" and {len(numbers) - MAX_LISTED} more" if len(numbers) > MAX_LISTED else ""
    return ", ".join(map(str, numbers[:MAX_LISTED].tolist())) + more
