"""What a data set is, in a few lines: sizes, names, splits, instructions, environment."""

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
    """lengths: shortest, median, mean and longest episode, in steps. arrays: name -> shape (rows first) and dtype.
    splits: name -> episodes in it. tasks: instruction -> episodes with it. successes: episodes that succeeded, None
    where the data do not say. environment: name and version. bytes: on disk."""

    path: str
    format: str
    episodes: int
    transitions: int
    lengths: tuple[float, float, float, float]
    arrays: dict[str, tuple[tuple[int, ...], str]]
    splits: dict[str, int]
    tasks: dict[str, int]
    successes: int | None
    environment: str
    action_range: tuple[list[float], list[float]] | None
    fingerprint: str
    bytes: int


def describe(path: Path, store: EpisodeStore) -> Info:
    """Of the data at `path`, which were read as `store`."""
    steps = store.episode_ends - store.episode_starts
    args: dict[str, Any] = dict(store.env_args)
    words, counts = np.unique(np.array(store.tasks, dtype=str), return_counts=True)
    limits = store.action_range
    return Info(
        path=str(path),
        format=formats.detect(path),
        episodes=store.num_episodes,
        transitions=len(store.actions_NA),
        lengths=(float(steps.min()), float(np.median(steps)), float(steps.mean()), float(steps.max())),
        arrays={name: (tuple(a.shape), str(a.dtype)) for name, a in store.arrays().items()},
        splits={name: len(episodes) for name, episodes in store.splits.items()},
        tasks=dict(zip(words.tolist(), counts.tolist(), strict=True)),
        successes=None if store.success_E is None else int(store.success_E.sum()),
        environment=" ".join(str(args[k]) for k in ("env_name", "env_version") if args.get(k)),
        action_range=None if limits is None else (limits[0].tolist(), limits[1].tolist()),
        fingerprint=store.fingerprint(),
        bytes=size_on_disk(path),
    )
