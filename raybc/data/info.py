"""A summary of a data set: sizes, names, splits, instructions, environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raybc.data import formats
from raybc.data.episodes import EpisodeStore
from raybc.data.load import size_on_disk


@dataclass(frozen=True)
class Info:
    """What `python -m raybc.data info` prints."""

    path: str
    """File or folder."""
    format: str
    """A key of `raybc.data.formats.FORMATS`."""
    episodes: int
    """Number of episodes."""
    transitions: int
    """Number of transitions of all episodes."""
    lengths: tuple[float, float, float, float]
    """Steps of the shortest, the median, the mean and the longest episode."""
    arrays: dict[str, tuple[tuple[int, ...], str]]
    """Name -> shape (rows first) and dtype."""
    splits: dict[str, int]
    """Name -> number of episodes."""
    tasks: dict[str, int]
    """Instruction -> number of episodes."""
    successes: int | None
    """Number of successful episodes; None where success is not known."""
    environment: str
    """Name and version; "" where it is not recorded."""
    action_range: tuple[list[float], list[float]] | None
    """Lowest and highest action that the data set declares."""
    frequency: float | None
    """Steps per second (Hz); None where it is not recorded."""
    fingerprint: str
    """`EpisodeStore.fingerprint`."""
    bytes: int
    """Size on disk."""
    remarks: tuple[str, ...] = ()
    """What was left out, assumed or converted in reading."""


def describe(path: Path, store: EpisodeStore) -> Info:
    """The summary of the data at `path`, which were read as `store`."""
    steps = store.episode_ends - store.episode_starts
    args: dict[str, Any] = dict(store.env_args)
    words, counts = np.unique(np.array(store.tasks, dtype=str), return_counts=True)
    limits = store.action_range
    invented = {n.key for n in store.notes if n.kind == "rewards"}  # zeros in place of what was not recorded
    return Info(
        path=str(path),
        format=formats.detect(path),
        episodes=store.num_episodes,
        transitions=len(store.actions_NA),
        lengths=(float(steps.min()), float(np.median(steps)), float(steps.mean()), float(steps.max())),
        arrays={name: (tuple(a.shape), str(a.dtype)) for name, a in store.arrays().items() if name not in invented},
        splits={name: len(episodes) for name, episodes in store.splits.items()},
        tasks=dict(zip(words.tolist(), counts.tolist(), strict=True)),
        successes=None if store.success_E is None else int(store.success_E.sum()),
        environment=" ".join(str(args[k]) for k in ("env_name", "env_version") if args.get(k)),
        action_range=None if limits is None else (limits[0].tolist(), limits[1].tolist()),
        frequency=store.frequency,
        fingerprint=store.fingerprint(),
        bytes=size_on_disk(path),
        remarks=(*store.remarks(), *(f"{n.key}: {n.text}" for n in store.notes if n.kind == "converted")),
    )
