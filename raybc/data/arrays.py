"""One's own numpy arrays as a data set on disk, checked by the gate of every format (`raybc.from_arrays`).

Letters: N transitions of all episodes, E episodes, T steps of one, A action dim, O observation dim; H, W, C height,
width and channels of an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from raybc.data import store as stores
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import base
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.data.formats.images import resembles_image
from raybc.files import expanded, free_space_for, home
from raybc.strict import digest
from raybc.types import UserError

#: Begins the messages, in place of a file.
HERE = Path("from_arrays")
#: The name of an observation that is passed as a bare array.
STATE = "state"


@dataclass(frozen=True)
class _Arrays:
    """Flat arrays with a row for each transition."""

    obs: dict[str, np.ndarray]
    actions: np.ndarray
    ends: np.ndarray
    rewards: np.ndarray | None
    dones: np.ndarray | None


def write_arrays(
    obs: Any,
    actions: Any,
    episode_ends: Any = None,
    *,
    rewards: Any = None,
    dones: Any = None,
    success: Any = None,
    instructions: str | Sequence[str] = (),
    splits: Mapping[str, Any] | None = None,
    frequency: float | None = None,
    action_range: tuple[Any, Any] | None = None,
    path: str | PathLike[str] | None = None,
) -> Path:
    """The folder of the data set of these arrays, written if it is not there; see `raybc.from_arrays`."""
    if episode_ends is None:
        given = _joined(obs, actions, rewards, dones)
    else:
        given = _flat(obs, actions, episode_ends, rewards, dones)
    found = _checked(given, success, instructions, splits or {}, frequency, action_range)
    target = home() / "arrays" / _key(found)[:16] if path is None else expanded(os.fspath(path))
    if target.exists():
        _expect_same(target, found, chosen=path is not None)
    else:
        free_space_for(target, sum(array.nbytes for array in found.arrays().values()) >> 20, "free some or use path=")
        stores.write_store(target, found)
    return target


def _flat(obs: Any, actions: Any, episode_ends: Any, rewards: Any, dones: Any) -> _Arrays:
    """The arrays of all episodes one after another, of one length."""
    actions_NA = _numbers("actions", actions)
    if actions_NA.ndim != 2:
        hint = "; pass actions[:, None] for one number a step" if actions_NA.ndim == 1 else ""
        raise UserError(f"{HERE}: actions: expected shape (steps, size), got {actions_NA.shape}{hint}")
    n = len(actions_NA)
    ends = _ends(episode_ends, n)
    named = _named(obs)
    for name, array in named.items():
        _expect_rows(f"obs {name!r}", array, n, len(ends))
    more = {"rewards": rewards, "dones": dones}
    flat = {what: None if given is None else _numbers(what, given) for what, given in more.items()}
    for what, found in flat.items():
        if found is not None:
            _expect_rows(what, found, n, 0)
            if found.ndim != 1:
                raise UserError(f"{HERE}: {what}: expected shape ({n},), a number for each step, got {found.shape}")
    return _Arrays(named, actions_NA, ends, flat["rewards"], flat["dones"])


def _joined(obs: Any, actions: Any, rewards: Any, dones: Any) -> _Arrays:
    """The same of a list of episodes."""
    if not isinstance(actions, list | tuple) or not isinstance(obs, list | tuple):
        raise UserError(
            f"{HERE}: episode_ends: expected the exclusive end of each episode, e.g. [50, 120], or lists of episodes "
            "in place of flat arrays; got none"
        )
    if not actions:
        raise UserError(f"{HERE}: expected at least one episode, got none")
    several = {"obs": obs, "rewards": rewards, "dones": dones}
    for what, given in several.items():
        if given is not None and (not isinstance(given, list | tuple) or len(given) != len(actions)):
            got = f"{len(given)}" if isinstance(given, list | tuple) else f"a {type(given).__name__}"
            raise UserError(f"{HERE}: {what}: expected a list of {len(actions)} episodes as actions, got {got}")
    episodes = []
    for number, one in enumerate(actions):
        parts = [None if given is None else given[number] for given in several.values()]
        try:
            length = len(one)
            episodes.append(_flat(parts[0], one, [length], parts[1], parts[2]))
        except TypeError:
            raise UserError(
                f"{HERE}: episode {number}: actions: expected shape (steps, size), got {one!r:.60}"
            ) from None
        except UserError as error:
            raise UserError(f"{HERE}: episode {number}: {str(error).removeprefix(f'{HERE}: ')}") from None
        _expect_alike(number, episodes[number], episodes[0])
    first = episodes[0]
    return _Arrays(
        {name: np.concatenate([one.obs[name] for one in episodes]) for name in first.obs},
        np.concatenate([one.actions for one in episodes]),
        np.cumsum([len(one.actions) for one in episodes]),
        None if rewards is None else np.concatenate([one.rewards for one in episodes if one.rewards is not None]),
        None if dones is None else np.concatenate([one.dones for one in episodes if one.dones is not None]),
    )


def _expect_alike(number: int, one: _Arrays, first: _Arrays) -> None:
    if set(one.obs) != set(first.obs):
        raise UserError(f"{HERE}: episode {number}: obs: expected {sorted(first.obs)} as before, got {sorted(one.obs)}")
    for what, now, before in (
        ("actions", one.actions, first.actions),
        *((f"obs {name!r}", one.obs[name], first.obs[name]) for name in first.obs),
    ):
        if now.shape[1:] != before.shape[1:]:
            raise UserError(
                f"{HERE}: episode {number}: {what}: expected rows of shape {before.shape[1:]} as in episode 0, got "
                f"{now.shape[1:]}"
            )


def _named(obs: Any) -> dict[str, np.ndarray]:
    """Observations by name."""
    if not isinstance(obs, Mapping):
        return {STATE: _numbers("obs", obs)}
    if not obs:
        raise UserError(f"{HERE}: obs: expected at least one observation, got an empty mapping")
    for name in obs:
        if not isinstance(name, str) or not name:
            raise UserError(f"{HERE}: obs: expected texts as names, got {name!r}")
    return {name: _numbers(f"obs {name!r}", values) for name, values in obs.items()}


def _numbers(what: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # lists within lists
        raise UserError(f"{HERE}: {what}: expected an array of numbers, got rows of different lengths") from None
    if array.dtype.kind not in "fiub":
        raise UserError(f"{HERE}: {what}: expected numbers, got dtype {array.dtype}")
    return array


def _expect_rows(what: str, array: np.ndarray, steps: int, episodes: int) -> None:
    """episodes: their number where an array with one more row for each is a common mistake."""
    if array.ndim and len(array) == steps:
        return
    got = f"{len(array)} rows" if array.ndim else "a single number"
    hint = ""
    if episodes and array.ndim and len(array) == steps + episodes:
        hint = "; leave out the observation after the last action of each episode"
    raise UserError(f"{HERE}: {what}: expected {steps} rows, one for each action, got {got}{hint}")


def _ends(given: Any, steps: int) -> np.ndarray:
    """int64 (E,)."""
    array = np.asarray(given)
    where = f"{HERE}: episode_ends"
    if array.ndim != 1 or array.dtype.kind not in "iu" or not len(array):
        flags = array.dtype.kind == "b" or (array.ndim == 1 and len(array) == steps and np.isin(array, (0, 1)).all())
        hint = "; of flags that mark last steps: np.flatnonzero(flags) + 1" if flags and len(array) else ""
        expected = "expected whole numbers (E,), the exclusive end of each episode"
        raise UserError(f"{where}: {expected}, got {array.dtype} {array.shape}{hint}")
    ends = array.astype(np.int64)
    falls = np.flatnonzero(np.diff(ends, prepend=0) <= 0)
    if len(falls):
        place = int(falls[0])
        before = f"{ends[place - 1]} before it" if place else "which is not above 0"
        raise UserError(f"{where}: expected increasing numbers, got {ends[place]} at place {place}, {before}")
    if ends[-1] != steps:
        expected = f"expected {steps} as the last one, the number of actions (ends are exclusive)"
        raise UserError(f"{where}: {expected}, got {ends[-1]}")
    return ends


def _checked(
    given: _Arrays,
    success: Any,
    instructions: str | Sequence[str],
    splits: Mapping[str, Any],
    frequency: float | None,
    action_range: tuple[Any, Any] | None,
) -> EpisodeStore:
    """The arrays through the gate of every format (`raybc.data.formats.base`)."""
    count = len(given.ends)
    words = (instructions,) * count if isinstance(instructions, str) and instructions else tuple(instructions)
    if not all(isinstance(text, str) for text in words):
        raise UserError(f"{HERE}: instructions: expected texts, got {words[:3]}")
    flags = () if success is None else _flags("success", success, count)
    if given.dones is not None:
        _flags("dones", given.dones, len(given.actions))
    lengths = tuple(np.diff(given.ends, prepend=0).tolist())
    images = tuple(name for name, array in given.obs.items() if resembles_image(array.shape, array.dtype))
    chunk = EpisodeChunk(
        base.named(0, count), given.obs, given.actions, lengths, given.rewards, given.dones, tasks=words, success=flags
    )
    about = DatasetInfo(
        {name: _members(name, members) for name, members in splits.items()},
        action_range=None if action_range is None else _range(action_range, given.actions.shape[1]),
        frequency=None if frequency is None else _rate(frequency),
    )
    wanted = ReadOptions(images=images or False, states=False)
    source, memory = _Source(chunk, about), base.Memory(HERE)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, which is refused
        gathered = base.gather(base.parts_of(source, HERE, wanted), HERE, memory, wanted)
    return base.assemble(memory.arrays(), gathered, about, HERE, remarks=wanted.remarks)


@dataclass(frozen=True)
class _Source:
    """The arrays in the shape of a format."""

    chunk: EpisodeChunk
    info: DatasetInfo
    NAME = "arrays"
    DESCRIPTION = "arrays in memory"

    def matches(self, path: Path) -> bool:
        return False

    def about(self, path: Path) -> DatasetInfo:
        return self.info

    def parts(self, path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
        yield self.chunk

    def write_store(self, path: Path, store: EpisodeStore) -> None:
        stores.write_store(path, store)


def _flags(what: str, values: Any, count: int) -> tuple[bool, ...]:
    array = _numbers(what, values)
    if array.shape != (count,) or not np.isin(array, (0, 1)).all():
        got = f"shape {array.shape}" if array.shape != (count,) else "other numbers"
        raise UserError(f"{HERE}: {what}: expected {count} times true or false (0 or 1), got {got}")
    return tuple(array.astype(bool).tolist())


def _members(name: str, members: Any) -> np.ndarray:
    array = np.asarray(members)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
        raise UserError(f"{HERE}: splits: {name}: expected numbers of episodes, got {array.dtype} {array.shape}")
    return array.astype(np.int64)


def _range(given: tuple[Any, Any], size: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        low, high = (np.broadcast_to(np.asarray(side, np.float32), (size,)) for side in given)
    except (TypeError, ValueError):
        expected = f"expected (lowest, highest), numbers or arrays of {size}"
        raise UserError(f"{HERE}: action_range: {expected}, got {given!r:.80}") from None
    return low, high


def _rate(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float | np.number) or not 0 < float(given) < np.inf:
        raise UserError(f"{HERE}: frequency: expected a number above 0 (steps per second), got {given!r:.60}")
    return float(given)


def _key(found: EpisodeStore) -> str:
    """A hash of everything that a data set of arrays has."""
    terminals = found.terminals_N
    return digest([
        found.fingerprint(),
        None if found.success_E is None else found.success_E.tolist(),
        None if terminals is None else np.packbits(terminals).tobytes().hex(),
        found.frequency,
        None if found.action_range is None else [side.tolist() for side in found.action_range],
    ])  # fmt: skip


def _expect_same(target: Path, found: EpisodeStore, chosen: bool) -> None:
    """Refuse a place with anything but these arrays."""
    if not stores.matches(target):
        raise UserError(f"{target}: exists, and is not a data set of from_arrays; choose another path")
    there = stores.open_store(target)
    if _key(there) != _key(found):
        what = "holds other data than these arrays" if chosen else "is damaged"
        raise UserError(f"{target}: {what}; delete it{' or choose another path' if chosen else ''}")
