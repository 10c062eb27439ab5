"""What every format provides, and how its episodes become one `EpisodeStore`.

A format is a module with the members of `Format` and a line in `raybc.data.formats.FORMATS`. Names, shapes, lengths and
dtypes of its episodes are checked here, once for all formats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from raybc.data.bounds import SMALL_BYTES, check_memory
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import containers, odd
from raybc.data.formats.images import is_image as is_image
from raybc.data.formats.options import Keys as Keys
from raybc.data.formats.options import ReadOptions as ReadOptions
from raybc.data.formats.options import Remarks
from raybc.data.splits import resolved_splits
from raybc.data.videos import resized
from raybc.types import UserError

#: Rows that a reader of a flat format reads at a time, rounded to whole episodes.
ROWS_PER_READ = 1 << 16
#: Formats whose action has no name.
ONE_ACTION = ("minari", "store")


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set declares as a whole."""

    splits: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Name -> episode numbers, int64."""
    env_args: Mapping[str, Any] = field(default_factory=dict)
    """The environment, in robomimic's layout (JSON)."""
    action_range: tuple[np.ndarray, np.ndarray] | None = None
    """Lowest and highest action, float32 (A,) each."""
    reward_is_success: bool = False
    """Whether a reward of 1 means success, in data sets whose rewards are all 0 or 1."""
    files: tuple[int, ...] = ()
    """As in `EpisodeStore`."""
    frequency: float | None = None
    """Steps per second (Hz)."""


@dataclass(frozen=True)
class EpisodeChunk:
    """Whole episodes, n transitions in all, as they are in the file: any numeric dtype, in physical units."""

    name: str
    """Where they are in the data set ("demo_3"), for messages."""
    obs: Mapping[str, np.ndarray]
    """Name -> (n, ...), or uint8 (n, H, W, C) for images."""
    actions: np.ndarray
    """(n, A)."""
    lengths: tuple[int, ...] = ()
    """Steps of each episode; () for a single one."""
    rewards: np.ndarray | None = None
    """(n,); None: zeros."""
    terminals: np.ndarray | None = None
    """(n,): nonzero where the environment ended the episode; None where it is not recorded."""
    states: np.ndarray | None = None
    """(n, ...): the simulator's state before each action; None where it is not recorded, or not wanted."""
    tasks: tuple[str, ...] = ()
    """An instruction for each episode, or ()."""
    success: tuple[bool, ...] = ()
    """Whether each episode succeeded; () where the format does not mark it."""
    unreadable: str = ""
    """Why this episode cannot be read, where bad episodes are left out (`read_episode`); it has no arrays then."""


class Format(Protocol):
    """A module that reads and writes a format. It may also have `count(path) -> int | None`, the number of episodes
    where that is known before they are read, and `decoded_bytes(path) -> int`, the size of compressed images in memory.

    All but `matches` raise `UserError` with file, episode and key for what is missing, damaged or inconsistent.
    """

    NAME: str
    """Its key in `FORMATS`."""
    DESCRIPTION: str
    """How it is recognised, for messages."""

    def matches(self, path: Path) -> bool:
        """Whether `path` has this format, by its contents. Never raises."""

    def about(self, path: Path) -> DatasetInfo:
        """What the data set declares as a whole."""

    def parts(self, path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
        """Its episodes in order, one or several at a time."""

    def write_store(self, path: Path, store: EpisodeStore) -> None:
        """Write `store` to `path`, completely or not at all."""


class Sink(Protocol):
    """Where arrays go: to memory or to files."""

    def append(self, name: str, rows: np.ndarray) -> None:
        """Add rows to the array `name`, a name of `EpisodeStore.arrays`."""


class Memory:
    """A `Sink` that keeps all rows."""

    def __init__(self, source: Path = Path()) -> None:
        self._rows: dict[str, list[np.ndarray]] = {}
        self._source, self._unchecked = source, 0

    def append(self, name: str, rows: np.ndarray) -> None:
        self._unchecked += rows.nbytes
        if self._unchecked > SMALL_BYTES:  # it is in memory already; refuse while there is room for as much again
            check_memory(self._unchecked, str(self._source))
            self._unchecked = 0
        self._rows.setdefault(name, []).append(rows)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that were appended, by name."""
        return {name: rows[0] if len(rows) == 1 else np.concatenate(rows) for name, rows in self._rows.items()}


@dataclass
class Gathered:
    """What is known about a data set, besides its arrays, after its last part."""

    episode_ends: np.ndarray
    """int64 (E,)."""
    tasks: tuple[str, ...]
    """An instruction for each episode, or ()."""
    success_E: np.ndarray | None
    """bool (E,); None where the format does not mark success."""


def read_episode(name: str, wanted: ReadOptions, read: Callable[[], EpisodeChunk]) -> EpisodeChunk:
    """`read()`; where bad episodes are left out, what it refuses (`UserError`) is kept as the reason."""
    if not wanted.skip_bad_episodes:
        return read()
    try:
        return read()
    except UserError as error:
        return EpisodeChunk(name, {}, np.zeros((0, 0), np.float32), unreadable=str(error))


def parts_of(fmt: Format, path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """The episodes of a data set, with observations as they are stored: what every use of a format reads.

    With `ReadOptions.skip_bad_episodes`, the data are read twice, and episodes come one at a time: those that can be
    read and have the names and sizes of most.
    """
    if wanted.keys.action and fmt.NAME in ONE_ACTION:
        raise UserError(f"{path}: --action_key: the format {fmt.NAME} has one action; leave it out")
    parts = (_observed(part, path, wanted) for part in _sound(fmt, path, wanted))
    if not wanted.skip_bad_episodes:
        yield from parts
        return
    faults = odd.faults(_single(parts), lambda part: _rows(cast(EpisodeChunk, part), path))
    wanted.remarks.skipped[:] = [episode for episode in faults if episode is not None]
    if all(episode is not None for episode in faults):
        reason = "" if not faults else f"; the first: {wanted.remarks.skipped[0].reason}"
        raise UserError(f"{path}: expected an episode that can be read, got none of {len(faults)}{reason}")
    again = (_observed(part, path, wanted) for part in _sound(fmt, path, wanted))
    for part, fault in zip(_single(again), faults, strict=True):
        if fault is None:
            yield part


def _sound(fmt: Format, path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """`fmt.parts`, where what libraries raise for damage that no check has met is a `UserError`, too."""
    parts = fmt.parts(path, wanted)
    while True:
        with containers.readable(path, fmt.NAME):
            part = next(parts, None)
        if part is None:
            return
        yield part


def about_of(fmt: Format, path: Path) -> DatasetInfo:
    """`fmt.about`, with the same."""
    with containers.readable(path, fmt.NAME):
        return fmt.about(path)


def _observed(part: EpisodeChunk, path: Path, wanted: ReadOptions) -> EpisodeChunk:
    where = f"{path}: {part.name}"
    try:
        obs = {name: wanted.observation(name, array, where) for name, array in part.obs.items()}
    except UserError as error:
        if not wanted.skip_bad_episodes:
            raise
        return dataclasses.replace(part, obs={}, unreadable=str(error))
    found = {name: array for name, array in obs.items() if array is not None}
    found = {name: found[name] for name in wanted.keys.chosen(found, where)}
    if wanted.image_size is not None:
        found = {n: resized(a, *wanted.image_size) if is_image(a) else a for n, a in found.items()}
    return dataclasses.replace(part, obs=found)


def _single(parts: Iterator[EpisodeChunk]) -> Iterator[EpisodeChunk]:
    """The same episodes, one at a time."""
    number = 0
    for part in parts:
        if len(part.lengths) < 2:
            yield part
            number += 1
            continue
        ends = np.cumsum(part.lengths)
        for i, (end, length) in enumerate(zip(ends, part.lengths, strict=True)):
            rows = slice(int(end) - length, int(end))
            yield EpisodeChunk(
                name=named(number, 1),
                obs={k: v[rows] for k, v in part.obs.items()},
                actions=part.actions[rows],
                rewards=None if part.rewards is None else part.rewards[rows],
                terminals=None if part.terminals is None else part.terminals[rows],
                states=None if part.states is None else part.states[rows],
                tasks=part.tasks[i : i + 1],
                success=part.success[i : i + 1],
                unreadable=part.unreadable,
            )
            number += 1


def gather(parts: Iterator[EpisodeChunk], path: Path, sink: Sink, wanted: ReadOptions) -> Gathered:
    """Check every part and append its rows to `sink`, in the dtypes of `EpisodeStore`.

    Raises `UserError` with file, episode and key where parts do not agree or are not numeric.
    """
    first: tuple[str, odd.Signature] | None = None
    ends: list[int] = []
    tasks: list[str] = []
    success: list[bool] = []
    for part in parts:
        arrays = _rows(part, path)
        signature = odd.signature(arrays)
        if first is None:
            _has_wanted(part, path, wanted)
            first = part.name, signature
        elif signature != first[1]:
            rest = (_rows(other, path) for other in parts)
            text = odd.refusal((first[0], len(ends), first[1]), (part.name, signature), rest)
            raise UserError(f"{path}: {text}")
        for name, array in arrays.items():
            sink.append(name, array)
        if part.rewards is None:
            wanted.remarks.note("rewards", "rewards", "not recorded; read as zeros")
        before = ends[-1] if ends else 0
        ends += (before + np.cumsum(part.lengths or (len(part.actions),))).tolist()
        tasks += part.tasks
        success += part.success
    if not ends:
        raise UserError(f"{path}: expected at least one episode, got none")
    for what, values in (("instruction", tasks), ("success", success)):
        if values and len(values) != len(ends):
            raise UserError(f"{path}: {what}: expected one for each of {len(ends)} episodes, got {len(values)}")
    return Gathered(np.array(ends, np.int64), tuple(tasks), np.array(success, bool) if success else None)


def _rows(part: EpisodeChunk, path: Path) -> dict[str, np.ndarray]:
    """The arrays of a part in the dtypes of `EpisodeStore`, by the names of `EpisodeStore.arrays`."""
    if not part.actions.ndim:
        raise UserError(f"{path}: {part.name}: actions: expected 2 dimension(s), got shape ()")
    n = len(part.actions)
    named = {f"obs/{k}": v for k, v in part.obs.items()}
    named |= {"actions": part.actions, "rewards": np.zeros(n, np.float32) if part.rewards is None else part.rewards}
    if part.terminals is not None:
        named["terminals"] = part.terminals
    if part.states is not None:
        named["states"] = part.states
    if n == 0:
        raise UserError(f"{path}: {part.name}: actions: expected at least one step, got none; {odd.ADVICE}")
    rows = {}
    for name, array in named.items():
        if array.dtype.kind not in "fiub":
            raise UserError(f"{path}: {part.name}: {name}: expected numbers, got dtype {array.dtype}")
        flat = name in ("rewards", "terminals")
        if (array.ndim != 1 and flat) or (array.ndim != 2 and name == "actions") or array.ndim == 0:
            dims = 1 if flat else 2
            raise UserError(f"{path}: {part.name}: {name}: expected {dims} dimension(s), got shape {array.shape}")
        if len(array) != n:
            raise UserError(f"{path}: {part.name}: {name} has {len(array)} steps, actions has {n}")
        rows[name] = _as_stored(name, array)
    return rows


def _as_stored(name: str, array: np.ndarray) -> np.ndarray:
    if name == "terminals":
        return array.astype(bool)
    if name == "states":
        return np.asarray(array.reshape(len(array), -1), np.float64)
    if is_image(array):
        return array
    return np.asarray(array if name in ("actions", "rewards") else array.reshape(len(array), -1), np.float32)


def _has_wanted(part: EpisodeChunk, path: Path, wanted: ReadOptions) -> None:
    names = wanted.images if isinstance(wanted.images, tuple) else ()
    missing = [name for name in names if name not in part.obs]
    if missing:
        raise UserError(f"{path}: {part.name}: expected the images {missing[0]!r}, got {sorted(part.obs)}")


def collect(fmt: Format, path: Path, wanted: ReadOptions) -> EpisodeStore:
    """The data set at `path`, in memory."""
    memory = Memory(path)
    gathered = gather(parts_of(fmt, path, wanted), path, memory, wanted)
    # Arrays first: reading attributes of a damaged HDF5 file may never end, and reading arrays detects the damage.
    return assemble(memory.arrays(), gathered, about_of(fmt, path), path, remarks=wanted.remarks)


def assemble(
    arrays: Mapping[str, np.ndarray],
    gathered: Gathered,
    about: DatasetInfo,
    source: Path,
    checked: bool = False,
    remarks: Remarks | None = None,
) -> EpisodeStore:
    """The store of `arrays`, by the names of `EpisodeStore.arrays`.

    checked: whether all values are known to be finite. remarks: of the readers; the store carries them. Raises
    `UserError` for splits that name episodes that do not exist, and as `EpisodeStore` does.
    """
    remarks = remarks or Remarks()
    skipped = np.array([episode.number for episode in remarks.skipped], np.int64)
    splits = resolved_splits(about.splits, len(gathered.episode_ends), skipped, source, remarks)
    success = gathered.success_E
    if success is None and about.reward_is_success:
        success = sparse_success(arrays["rewards"], gathered.episode_ends)
    return EpisodeStore(
        obs={name.removeprefix("obs/"): array for name, array in arrays.items() if name.startswith("obs/")},
        actions_NA=arrays["actions"],
        rewards_N=arrays["rewards"],
        episode_ends=gathered.episode_ends,
        splits=splits,
        env_args=about.env_args,
        source=source,
        terminals_N=arrays.get("terminals"),
        states_NS=arrays.get("states"),
        tasks=gathered.tasks,
        success_E=success,
        action_range=about.action_range,
        files=tuple(end - int((skipped < end).sum()) for end in about.files),
        notes=tuple(remarks.notes.values()),
        skipped=tuple(remarks.skipped),
        frequency=about.frequency,
        checked=checked,
    )


def sparse_success(rewards_N: np.ndarray, episode_ends: np.ndarray) -> np.ndarray | None:
    """Whether each episode contains a reward of 1, bool (E,); None where rewards are not all 0 or 1, or all are 0."""
    if not rewards_N.any() or not np.isin(rewards_N, (0, 1)).all():
        return None
    return np.maximum.reduceat(rewards_N, np.concatenate([[0], episode_ends[:-1]])) == 1


def blocks(episode_ends: np.ndarray) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(first row, exclusive end, steps of each episode) of blocks of whole episodes, of about `ROWS_PER_READ` rows.

    episode_ends: int64 (E,), exclusive.
    """
    starts = np.concatenate([[0], episode_ends[:-1]])
    first = 0
    while first < len(episode_ends):
        last = int(np.searchsorted(episode_ends, starts[first] + ROWS_PER_READ, side="right"))
        last = min(max(last, first + 1), len(episode_ends))
        lengths = np.diff(episode_ends[first:last], prepend=starts[first])
        yield int(starts[first]), int(episode_ends[last - 1]), tuple(lengths.tolist())
        first = last


def named(first: int, count: int) -> str:
    """The name of `count` episodes from `first` on, for messages."""
    return f"episode {first}" if count == 1 else f"episodes {first} to {first + count - 1}"
