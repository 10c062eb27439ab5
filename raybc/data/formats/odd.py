"""Episodes that differ from most others of their data set in names or sizes, and those that cannot be read."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

from raybc.data.episodes import SkippedEpisode
from raybc.types import UserError

#: (array, shape of a row) of every array of an episode, sorted.
Signature = tuple[tuple[str, tuple[int, ...]], ...]
ADVICE = "--skip_bad_episodes leaves such episodes out"


class Named(Protocol):
    """What is needed of an episode."""

    @property
    def name(self) -> str: ...
    @property
    def unreadable(self) -> str: ...


def signature(rows: Mapping[str, np.ndarray]) -> Signature:
    """Names and sizes of the arrays of an episode."""
    return tuple(sorted((name, array.shape[1:]) for name, array in rows.items()))


def difference(expected: Signature, got: Signature) -> str:
    """How two signatures differ, for messages; "" where they do not."""
    was, now = dict(expected), dict(got)
    if was.keys() != now.keys():
        old, new = _observations(was), _observations(now)
        if old != new:
            return f"expected observations {old}, got {new}"
        return f"{min(was.keys() ^ now.keys())}: present in some episodes and missing in others"
    for name, shape in was.items():
        if now[name] != shape:
            size, before = (s[0] if len(s) == 1 else s for s in (now[name], shape))
            return f"{name} {'have' if name == 'actions' else 'has'} size {size}, before {before}"
    return ""


def _observations(names: Iterable[str]) -> list[str]:
    return sorted(n.removeprefix("obs/") for n in names if n.startswith("obs/"))


def usual(signatures: Iterable[Signature]) -> Signature:
    """The signature of most episodes; of equally frequent ones the first."""
    return Counter(signatures).most_common(1)[0][0]


def faults(
    episodes: Iterable[Named], rows_of: Callable[[Named], Mapping[str, np.ndarray]]
) -> list[SkippedEpisode | None]:
    """For each episode what is wrong with it, or None: it cannot be read, it contains nan or inf, or its names or sizes
    are not those of most episodes.

    rows_of: the checked arrays of an episode; raises `UserError`.
    """
    found: list[tuple[str, Signature | str]] = []
    for episode in episodes:
        found.append((episode.name, episode.unreadable or _inspected(episode, rows_of)))
    good = [what for _, what in found if not isinstance(what, str)]
    most = usual(good) if good else ()
    reasons = [what if isinstance(what, str) else difference(most, what) for _, what in found]
    return [
        SkippedEpisode(number, name, reason) if reason else None
        for number, ((name, _), reason) in enumerate(zip(found, reasons, strict=True))
    ]


def _inspected(episode: Named, rows_of: Callable[[Named], Mapping[str, np.ndarray]]) -> Signature | str:
    try:
        rows = rows_of(episode)
    except UserError as error:
        return str(error)
    for name, array in rows.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{name.removeprefix('obs/')}: expected finite numbers, got nan or inf"
    return signature(rows)


def refusal(
    first: tuple[str, int, Signature], second: tuple[str, Signature], rest: Iterable[Mapping[str, np.ndarray]]
) -> str:
    """The message about two episodes that differ; it names the one that also differs from most others.

    first: name of an episode, number of episodes like it before the second, their signature. rest: the arrays of the
    episodes after the second.
    """
    name, count, before = first
    other, now = second
    counts = Counter({before: count, now: 1})
    with contextlib.suppress(UserError):  # where the rest cannot be read, what is known so far has to do
        counts.update(signature(rows) for rows in rest)
    if counts[now] > counts[before]:
        name, before, other, now = other, now, name, before
    text = difference(before, now)
    return f"{other}: {text} ({counts[before]} episodes like {name}); {ADVICE}"
