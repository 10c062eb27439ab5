"""What every format gives: the `DatasetInfo` of a set and its episodes as `EpisodeChunk`s; how these become one
`EpisodeStore`.

A format is a module of this package with

    NAME, DESCRIPTION                     its name, and what it is recognised by, for messages
    matches(path) -> bool           by contents; never raises
    about(path) -> DatasetInfo            what is said of the set as a whole
    parts(path, wanted)             its episodes in order, one or several at a time (an iterator of `EpisodeChunk`)
    write_store(path, store)        whole or not at all
    count(path) -> int | None       how many episodes, before they are read; may be left out

and a line in `raybc.data.formats.FORMATS`. What a part holds is checked here, once for all formats.
"""

from __future__ import annotations

import contextlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.types import UserError

#: Rows that a reader of a flat format takes from the disk at a time, in whole episodes.
ROWS_PER_READ = 1 << 16
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True)
class ReadOptions:
    """What to read beside numbers. images: no images, all, or those of these names. states: the simulator's.
    step_limit: of the environment, for formats that do not say where it cut an episode off (old D4RL files)."""

    images: bool | tuple[str, ...] = False
    states: bool = False
    step_limit: int = 0

    def image(self, name: str) -> bool:
        return self.images if isinstance(self.images, bool) else name in self.images


@dataclass(frozen=True)
class DatasetInfo:
    """splits: name -> episode numbers. env_args: the environment, robomimic's layout. action_range: the declared lowest
    and highest action (A,). reward_is_success: whether rewards that are only 0 and 1 are 1 at success. files: as in
    `EpisodeStore`."""

    splits: Mapping[str, np.ndarray] = field(default_factory=dict)
    env_args: Mapping[str, Any] = field(default_factory=dict)
    action_range: tuple[np.ndarray, np.ndarray] | None = None
    reward_is_success: bool = False
    files: tuple[int, ...] = ()


@dataclass(frozen=True)
class EpisodeChunk:
    """Whole episodes, n transitions in all.

    name: where they stand, for messages ("demo_3"). obs: name -> numbers (n, ...), or uint8 (n, H, W, C). actions
    (n, A). lengths: of each episode; () where the part is one episode. rewards (n,), None: zeros. terminals (n,).
    states (n, S). tasks: one an episode or none. success: one an episode.
    """

    name: str
    obs: Mapping[str, np.ndarray]
    actions: np.ndarray
    lengths: tuple[int, ...] = ()
    rewards: np.ndarray | None = None
    terminals: np.ndarray | None = None
    states: np.ndarray | None = None
    tasks: tuple[str, ...] = ()
    success: tuple[bool, ...] = ()


class Format(Protocol):
    NAME: str
    DESCRIPTION: str

    def matches(self, path: Path) -> bool: ...
    def about(self, path: Path) -> DatasetInfo: ...
    def parts(self, path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]: ...
    def write_store(self, path: Path, store: EpisodeStore) -> None: ...


class Sink(Protocol):
    """Where the rows of an array go: to memory or to a file."""

    def append(self, name: str, rows: np.ndarray) -> None: ...


class Memory:
    def __init__(self) -> None:
        self._rows: dict[str, list[np.ndarray]] = {}

    def append(self, name: str, rows: np.ndarray) -> None:
        self._rows.setdefault(name, []).append(rows)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: rows[0] if len(rows) == 1 else np.concatenate(rows) for name, rows in self._rows.items()}


@dataclass
class Gathered:
    """What is known of a set beside its arrays when its last part has been seen."""

    episode_ends: np.ndarray
    tasks: tuple[str, ...]
    success_E: np.ndarray | None


def gather(parts: Iterator[EpisodeChunk], path: Path, sink: Sink, wanted: ReadOptions) -> Gathered:
    """Check every part, and put its rows into `sink`, as they are called in `EpisodeStore.arrays`.

    Raises `UserError` with file, episode and key where parts do not agree or are not numbers.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    ends: list[int] = []
    tasks: list[str] = []
    success: list[bool] = []
    for part in parts:
        arrays = _rows(part, path)
        if not shapes:
            _has_wanted(part, path, wanted)
        else:
            _same_names(part, path, set(shapes), set(arrays))
        for name, array in arrays.items():
            _same_shape(part, path, name, array.shape[1:], shapes.setdefault(name, array.shape[1:]))
            sink.append(name, array)
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
    """The arrays of a part as they are stored."""
    n = len(part.actions)
    named = {f"obs/{k}": v for k, v in part.obs.items()}
    named |= {"actions": part.actions, "rewards": np.zeros(n, np.float32) if part.rewards is None else part.rewards}
    if part.terminals is not None:
        named["terminals"] = part.terminals
    if part.states is not None:
        named["states"] = part.states
    if n == 0:
        raise UserError(f"{path}: {part.name}: actions: expected at least one step, got none")
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


def is_image(array: Any) -> bool:
    """Whether rows of an array (or HDF5 data set) are images: uint8, height x width x channels."""
    return array.dtype == np.uint8 and array.ndim == 4


def _has_wanted(part: EpisodeChunk, path: Path, wanted: ReadOptions) -> None:
    asked = wanted.images if isinstance(wanted.images, tuple) else ()
    missing = [name for name in asked if name not in part.obs]
    if missing:
        raise UserError(f"{path}: {part.name}: expected the images {missing[0]!r}, got {sorted(part.obs)}")


def _same_names(part: EpisodeChunk, path: Path, expected: set[str], got: set[str]) -> None:
    if expected == got:
        return

    def observations(names: set[str]) -> list[str]:
        return sorted(n.removeprefix("obs/") for n in names if n.startswith("obs/"))

    if observations(expected) != observations(got):
        raise UserError(f"{path}: {part.name}: expected observations {observations(expected)}, got {observations(got)}")
    odd = sorted(expected ^ got)[0]
    raise UserError(f"{path}: {part.name}: {odd}: there for some episodes and missing for others")


def _same_shape(part: EpisodeChunk, path: Path, name: str, shape: tuple[int, ...], before: tuple[int, ...]) -> None:
    if shape == before:
        return
    verb = "have" if name == "actions" else "has"
    size, was = (s[0] if len(s) == 1 else s for s in (shape, before))
    raise UserError(f"{path}: {part.name}: {name} {verb} size {size}, before {was}")


def collect(fmt: Format, path: Path, wanted: ReadOptions) -> EpisodeStore:
    """The whole set in memory."""
    memory = Memory()
    gathered = gather(fmt.parts(path, wanted), path, memory, wanted)
    # The arrays first: reading attributes of a damaged HDF5 file may never end, and damage shows in the arrays.
    return assemble(memory.arrays(), gathered, fmt.about(path), path)


def assemble(
    arrays: Mapping[str, np.ndarray], gathered: Gathered, about: DatasetInfo, source: Path, checked: bool = False
) -> EpisodeStore:
    for name, episodes in about.splits.items():
        if len(episodes) and (episodes.min() < 0 or episodes.max() >= len(gathered.episode_ends)):
            raise UserError(
                f"{source}: split {name!r}: expected episodes 0..{len(gathered.episode_ends) - 1}, got {episodes.max()}"
            )
    success = gathered.success_E
    if success is None and about.reward_is_success:
        success = sparse_success(arrays["rewards"], gathered.episode_ends)
    return EpisodeStore(
        obs={name.removeprefix("obs/"): array for name, array in arrays.items() if name.startswith("obs/")},
        actions_NA=arrays["actions"],
        rewards_N=arrays["rewards"],
        episode_ends=gathered.episode_ends,
        splits=about.splits,
        env_args=about.env_args,
        source=source,
        terminals_N=arrays.get("terminals"),
        states_NS=arrays.get("states"),
        tasks=gathered.tasks,
        success_E=success,
        action_range=about.action_range,
        files=about.files,
        checked=checked,
    )


def sparse_success(rewards_N: np.ndarray, episode_ends: np.ndarray) -> np.ndarray | None:
    """Whether each episode has a reward of 1; None where rewards are others than 0 and 1, or all 0."""
    if not rewards_N.any() or not np.isin(rewards_N, (0, 1)).all():
        return None
    return np.maximum.reduceat(rewards_N, np.concatenate([[0], episode_ends[:-1]])) == 1


def magic(path: Path, count: int = 8) -> bytes:
    """The first bytes of a file; none where there is no file."""
    try:
        with path.open("rb") as handle:
            return handle.read(count)
    except OSError:
        return b""


@contextlib.contextmanager
def opened_hdf5(path: Path, what: str) -> Iterator[Any]:
    """An `h5py.File`; what h5py raises for a damaged one becomes a `UserError`. what: for "expected a ... file"."""
    if not path.is_file():
        raise UserError(f"{path}: expected a {what} file, found none")
    with readable(path, "HDF5"), h5py.File(path, "r") as file:
        yield file


@contextlib.contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """What libraries raise for truncated or damaged files depends on which byte is hit; here it becomes `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (
        *(OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
        *(MemoryError, EOFError, NotImplementedError, AssertionError, zlib.error, zipfile.BadZipFile),
        tokenize.TokenError,  # numpy, of a damaged header
    ) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not readable as {what} (damaged or truncated): {text}") from None


def hdf5_array(group: Any, key: str, where: str) -> Any:
    """The HDF5 data set `group[key]`, unread, or `UserError`; what lies in other files is refused."""
    found = group
    for name in key.split("/"):
        link = found.get(name, getlink=True) if isinstance(found, h5py.Group) else None
        if isinstance(link, h5py.ExternalLink):
            raise UserError(f"{where}: {key}: expected data, got a link to the file {link.filename!r}")
        found = found.get(name) if isinstance(found, h5py.Group) else None
    if not isinstance(found, h5py.Dataset):
        raise UserError(f"{where}: expected the array {key!r}, got {sorted(group)}")
    if found.external or found.is_virtual:
        raise UserError(f"{where}: {key}: expected data, got a reference to other files")
    if found.dtype.kind not in "fiub":
        raise UserError(f"{where}: {key}: expected numbers, got dtype {found.dtype}")
    return found


def hdf5_names(path: Path) -> set[str]:
    """The names at the top of an HDF5 file; none where it is no (whole) HDF5 file."""
    if magic(path) != HDF5_MAGIC:
        return set()
    try:
        with h5py.File(path, "r") as file:
            return set(file)
    except (OSError, RuntimeError, ValueError, LookupError):
        return set()


def hdf5_names_in(group: Any, name: str) -> set[str]:
    """The paths "name/..." of what the group `name` within `group` holds; none where it is no group."""
    inner = group.get(name)
    return {f"{name}/{key}" for key in inner} if isinstance(inner, h5py.Group) else set()


class Npz:
    """The arrays of an npz file, by name, each read when it is asked for; objects are refused, never unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if magic(path, 4) != ZIP_MAGIC:
            raise UserError(f"{path}: expected an npz file, found {'another' if path.is_file() else 'none'}")
        with readable(path, "npz"):
            self._file = np.load(path, allow_pickle=False)
            self.names = set(self._file.files)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise UserError(f"{self.path}: expected the array {name!r}, got {sorted(self.names)}")
        with readable(self.path, "npz"):
            try:
                array = self._file[name]
            except ValueError as error:
                if "Object arrays" not in str(error):
                    raise
                expected = "expected numbers, got Python objects (they are never unpickled)"
                raise UserError(f"{self.path}: {name}: {expected}") from None
            if not isinstance(array, np.ndarray):  # a member that is no .npy
                raise UserError(f"{self.path}: {name}: expected an array, got {type(array).__name__}")
            return array


def npz_names(path: Path) -> set[str]:
    """The arrays of an npz file; none where it is no (whole) zip."""
    if magic(path, 4) != ZIP_MAGIC:
        return set()
    try:
        return Npz(path).names
    except UserError:
        return set()


def blocks(episode_ends: np.ndarray) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Whole episodes of flat arrays, about `ROWS_PER_READ` rows at a time: the first row, the end, the lengths."""
    starts = np.concatenate([[0], episode_ends[:-1]])
    first = 0
    while first < len(episode_ends):
        last = int(np.searchsorted(episode_ends, starts[first] + ROWS_PER_READ, side="right"))
        last = min(max(last, first + 1), len(episode_ends))
        lengths = np.diff(episode_ends[first:last], prepend=starts[first])
        yield int(starts[first]), int(episode_ends[last - 1]), tuple(lengths.tolist())
        first = last


def named(first: int, count: int) -> str:
    """What messages call the episodes `first`, `first + 1`, ..."""
    return f"episode {first}" if count == 1 else f"episodes {first} to {first + count - 1}"
