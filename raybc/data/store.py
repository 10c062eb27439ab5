"""A converted data set on disk: a folder of .npy files and `store.json`, opened memory-mapped.

Values are checked when they are converted, so opening only checks sizes; `verify` reads everything. The folder is
complete or absent: it is written under a temporary name and renamed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from raybc.causes import expect_file
from raybc.data import formats
from raybc.data.episodes import EpisodeStore, Note, SkippedEpisode, check_finite
from raybc.data.fingerprints import Bar
from raybc.data.formats import base, containers
from raybc.data.formats.base import DatasetInfo, EpisodeChunk, ReadOptions
from raybc.files import free_space_for, home, read_json, replacing, write_json
from raybc.strict import digest
from raybc.types import UserError

NAME = "store"
DESCRIPTION = "a folder with store.json, made by raybc.data.store"
META = "store.json"
VERSION = 2
#: What helps where the disk of raybc's cache is full, and with videos besides.
NO_SPACE = "free some, or set RAYBC_HOME to a folder of another disk"
NO_SPACE_OF = {"lerobot": f"{NO_SPACE}, or leave videos as they are (--videos decode)"}
#: Size of a .npy header here, enough for any shape, so that the number of rows can be filled in after they are written.
HEADER_BYTES = 256


class _Files:
    """A `base.Sink` that checks arrays and appends each to its file."""

    def __init__(
        self,
        folder: Path,
        source: Path,
        on_episodes: Callable[[int], None] | None,
        total: int | None,
        no_space: str,
    ) -> None:
        self._total = total  # episodes, where that is known
        self._no_space = no_space  # advice for a full disk
        self._folder, self._source, self._on_episodes = folder, source, on_episodes
        self._open: dict[str, BinaryIO] = {}
        self._rows: dict[str, int] = {}
        self._kind: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._ends = np.zeros(0, np.int64)  # of the episodes of the current part, for messages
        self._first = 0  # number of its first episode

    def watch(self, parts: Iterator[EpisodeChunk]) -> Iterator[EpisodeChunk]:
        """Yield the same parts and count their episodes."""
        for part in parts:
            self._ends = np.cumsum(part.lengths or (len(part.actions),))
            yield part
            if not self._first and self._total:
                self._check_space(len(self._ends))
            self._first += len(self._ends)
            if self._on_episodes is not None:
                self._on_episodes(self._first)

    def _check_space(self, episodes: int) -> None:
        """Refuse to go on where all episodes, as large as the first ones, would not fit on the disk."""
        written = sum(handle.tell() for handle in self._open.values())
        free_space_for(self._folder, int(written * (self._total or 0) / episodes) >> 20, self._no_space)

    def append(self, name: str, rows: np.ndarray) -> None:
        check_finite(self._source, name, rows, self._ends, self._first)
        if name not in self._open:
            path = self._folder / file_of(name)
            self._open[name] = path.open("w+b")
            self._open[name].write(b" " * HEADER_BYTES)
            self._rows[name], self._kind[name] = 0, (rows.dtype, rows.shape[1:])
        self._open[name].write(np.ascontiguousarray(rows).data)
        self._rows[name] += len(rows)

    def finish(self) -> None:
        for name, handle in self._open.items():
            dtype, shape = self._kind[name]
            shape = (self._rows[name], *shape)
            text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
            head = np.lib.format.magic(1, 0) + (HEADER_BYTES - 10).to_bytes(2, "little")
            handle.seek(0)
            handle.write(head + text.ljust(HEADER_BYTES - len(head) - 1).encode() + b"\n")
            handle.close()

    def close(self) -> None:
        for handle in self._open.values():
            handle.close()


def file_of(name: str) -> str:
    """The file of an array: its name with "/" as "%2F" and "%" as "%25"."""
    return name.replace("%", "%25").replace("/", "%2F") + ".npy"


def convert(
    source: Path, target: Path, *, format: str = "", images: bool | tuple[str, ...] = False, states: bool = False,
    step_limit: int = 0, skip_bad_episodes: bool = False, needed: tuple[str, ...] | None = None,
    image_size: tuple[int, int] | None = None, keys: base.Keys = formats.NO_KEYS, frequency: float | None = None,
    on_episodes: Callable[[int], None] | None = None, no_space: str = "free some or use --out",
) -> EpisodeStore:  # fmt: skip
    """Write the data set at `source` as a store to `target` and open it. Only a part of it is in memory at a time.

    frequency: steps per second (Hz); None: as recorded. on_episodes: called with the number of episodes written so far.
    no_space: advice for a full disk. The other
    arguments are those of `raybc.data.formats.read`.

    Raises `UserError` if `target` exists, and for whatever reading refuses.
    """
    refuse_existing(target)
    chosen = formats.get(format or formats.detect(source))
    wanted = ReadOptions(images, states, step_limit, skip_bad_episodes, needed, image_size, keys)
    parts = base.parts_of(chosen, source, wanted)

    def about_them() -> DatasetInfo:
        found = base.about_of(chosen, source)
        return found if frequency is None else dataclasses.replace(found, frequency=frequency)

    return write_parts(
        target, parts, about_them, source, wanted, on_episodes, lambda: formats.count(source, chosen.NAME), no_space
    )


def write_parts(
    target: Path,
    parts: Iterator[EpisodeChunk],
    about_them: Callable[[], DatasetInfo],
    source: Path,
    wanted: ReadOptions | None = None,
    on_episodes: Callable[[int], None] | None = None,
    count: Callable[[], int | None] = lambda: None,
    no_space: str = "free some",
) -> EpisodeStore:
    """Write episodes as a store to `target` and open it. Only a part of them is in memory at a time.

    Args:
        target: the folder, which must not exist.
        parts: the episodes in order.
        about_them: called when all parts were read.
        source: for messages.
        wanted: what was asked for; images are kept where they are in `parts`.
        on_episodes: called with the number of episodes written so far.
        count: the number of episodes, where it is known.
        no_space: advice for a full disk.
    """
    refuse_existing(target)
    wanted = wanted or ReadOptions(images=True)
    with replacing(target) as temporary:
        temporary.mkdir()
        sink = _Files(temporary, source, on_episodes, count(), no_space)
        try:
            gathered = base.gather(sink.watch(parts), source, sink, wanted)
            sink.finish()
        finally:
            sink.close()
        about = about_them()
        found = base.assemble(_mapped(temporary), gathered, about, source, checked=True, remarks=wanted.remarks)
        _write_meta(temporary, found)
    return open_store(target)


def cached(
    source: Path,
    *,
    format: str = "",
    images: bool | tuple[str, ...] = False,
    states: bool = False,
    step_limit: int = 0,
    skip_bad_episodes: bool = False,
    needed: tuple[str, ...] | None = None,
    image_size: tuple[int, int] | None = None,
    keys: base.Keys = formats.NO_KEYS,
    bar: Bar | None = None,
) -> EpisodeStore:
    """`source` as a converted data set in raybc's cache, converted by the first call.

    The name in the cache depends on paths, sizes and dates of the files and on the arguments, so a file that was
    rewritten is converted again. bar: shows the progress of the conversion. The other arguments are those of
    `raybc.data.formats.read`.
    """
    target = cache_folder(
        source, format, ReadOptions(images, states, step_limit, skip_bad_episodes, needed, image_size, keys)
    )
    if not matches(target):
        total = None if bar is None else formats.count(source, format)
        with contextlib.nullcontext() if bar is None else bar(f"converting {source.name} once", total) as update:
            convert(
                source, target, format=format, images=images, states=states, step_limit=step_limit,
                skip_bad_episodes=skip_bad_episodes, needed=needed, image_size=image_size, keys=keys,
                on_episodes=update, no_space=NO_SPACE_OF.get(format, NO_SPACE),
            )  # fmt: skip
    return open_store(target)


def cache_folder(source: Path, format: str, wanted: ReadOptions) -> Path:
    """Where `cached` has the converted data set, or would have it. format: as for `cached`."""
    files = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else _with_companions(source)
    stats = [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    keys = wanted.keys
    more = [
        *_more(wanted.skip_bad_episodes, wanted.image_size),
        *([] if keys == formats.NO_KEYS else [keys.action, *keys.observations]),
    ]
    key = digest([VERSION, stats, format, wanted.images, wanted.states, wanted.step_limit, *more])
    return home() / "converted" / f"{source.name}-{key[:16]}"


def _more(skip_bad_episodes: bool, image_size: tuple[int, int] | None) -> list[Any]:
    """Arguments that earlier releases did not have; nothing where they have no effect, so that names stay the same."""
    return ([True] if skip_bad_episodes else []) + ([list(image_size)] if image_size else [])


def _with_companions(source: Path) -> list[Path]:
    """A file and those that belong to it (OGBench's `-val.npz`)."""
    return sorted(source.parent.glob(f"{glob.escape(source.stem)}*{source.suffix}"))


def write_store(path: Path, store: EpisodeStore) -> None:
    """Write the folder `path`. Raises `UserError` if it exists."""
    refuse_existing(path)
    with replacing(path) as temporary:
        temporary.mkdir()
        for name, array in store.arrays().items():
            np.save(temporary / file_of(name), array, allow_pickle=False)
        _write_meta(temporary, store)


def refuse_existing(path: Path) -> None:
    """Raise `UserError` if `path` exists: a conversion replaces nothing."""
    if path.exists():
        raise UserError(f"{path}: exists; delete it or choose another place for the converted data")


def _write_meta(folder: Path, store: EpisodeStore) -> None:
    np.save(folder / "episode_ends.npy", np.asarray(store.episode_ends, np.int64), allow_pickle=False)
    files = sorted(folder.glob("*.npy"))
    meta = {
        "version": VERSION,
        "fingerprint": store.fingerprint(),
        "source": str(store.source),
        "arrays": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in files
        },
        "splits": {name: np.asarray(episodes).tolist() for name, episodes in store.splits.items()},
        "env_args": dict(store.env_args),
        "files": list(store.files),
        "tasks": list(store.tasks),
        "success": None if store.success_E is None else store.success_E.tolist(),
        "action_range": None if store.action_range is None else [a.tolist() for a in store.action_range],
        "notes": [dataclasses.asdict(note) for note in store.notes],
        "skipped": [dataclasses.asdict(episode) for episode in store.skipped],
        **({} if store.frequency is None else {"frequency": store.frequency}),
    }  # fmt: skip
    write_json(folder / META, meta)


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _meta(path: Path) -> dict[str, Any]:
    meta = read_json(path / META)
    if not isinstance(meta, dict) or meta.get("version") != VERSION:
        got = meta.get("version") if isinstance(meta, dict) else type(meta).__name__
        raise UserError(f"{path / META}: expected version {VERSION} of a converted set, got {got}; convert it again")
    return meta


def matches(path: Path) -> bool:
    """Whether `path` is a converted data set."""
    return (path / META).is_file()


def _mapped(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for file in sorted(path.glob("*.npy")):
        name = file.name.removesuffix(".npy").replace("%2F", "/").replace("%25", "%")
        with containers.readable(file, "npy", b"\x93NUMPY"):
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
    return arrays


def open_store(path: Path) -> EpisodeStore:
    """The data set, memory-mapped. Raises `UserError` for missing files and for sizes that `store.json` does not
    have."""
    meta = _meta(path)
    with containers.readable(path / META, "the description of a converted data set"):
        for name, recorded in cast(Mapping[str, Any], meta["arrays"]).items():
            file = path / name
            size = file.stat().st_size if file.is_file() and Path(name).name == name else None
            if size != recorded["bytes"] and size is not None:
                expect_file(file, "an array of the converted data set")
            if size != recorded["bytes"]:
                got = "no such file" if size is None else f"{size} bytes"
                raise UserError(f"{file}: expected {recorded['bytes']} bytes, got {got}; convert the data again")
        arrays = {k: v for k, v in _mapped(path).items() if file_of(k) in meta["arrays"]}
        ends = np.array(arrays.pop("episode_ends"))
        success = None if meta["success"] is None else np.array(meta["success"], bool)
        limits = meta["action_range"]
        about = DatasetInfo(
            splits={k: np.array(v, np.int64) for k, v in meta["splits"].items()},
            env_args=meta["env_args"],
            files=tuple(map(int, meta["files"])),
            action_range=None if limits is None else (np.array(limits[0], np.float32), np.array(limits[1], np.float32)),
            frequency=meta.get("frequency"),
        )
        gathered = base.Gathered(ends, tuple(meta["tasks"]), success)
        found = base.assemble(arrays, gathered, about, path, checked=True)
        notes = (*(Note(**note) for note in meta.get("notes", ())), *found.notes)
        skipped = tuple(SkippedEpisode(**episode) for episode in meta.get("skipped", ()))
        return dataclasses.replace(found, notes=notes, skipped=skipped, checked=True)


def fingerprint(path: Path) -> str:
    """`EpisodeStore.fingerprint` as recorded in `store.json`, without reading the arrays."""
    return str(_meta(path).get("fingerprint"))


def verify(path: Path) -> None:
    """Read everything. Raises `UserError` where bytes or fingerprint are not what was converted, or values not
    finite."""
    store, meta = open_store(path), _meta(path)
    for name, recorded in meta["arrays"].items():
        if sha256_of(path / name) != recorded["sha256"]:
            raise UserError(f"{path / name}: damaged: its sha256 is not what was converted; convert the data again")
    for name, array in store.arrays().items():
        check_finite(path, name, array, store.episode_ends)
    splits = {name: np.array(episodes, np.int64) for name, episodes in meta["splits"].items()}
    # Earlier releases kept splits as they were declared, with repetitions and without a training split.
    declared = dataclasses.replace(store, splits=splits, checked=True)
    if meta["fingerprint"] not in (store.fingerprint(), declared.fingerprint()):
        raise UserError(f"{path / META}: damaged: the fingerprint is not that of the arrays; convert the data again")


def count(path: Path) -> int:
    """Number of episodes."""
    return open_store(path).num_episodes


def about(path: Path) -> DatasetInfo:
    """Splits, environment, action range, files and frequency."""
    store = open_store(path)
    return DatasetInfo(store.splits, store.env_args, store.action_range, files=store.files, frequency=store.frequency)


def parts(path: Path, wanted: ReadOptions) -> Iterator[EpisodeChunk]:
    """Its episodes in blocks, to convert them again; otherwise a store is opened."""
    store = open_store(path)
    done = 0
    for start, end, lengths in base.blocks(store.episode_ends):
        episodes = slice(done, done + len(lengths))
        rows = {name: array[start:end] for name, array in store.arrays().items()}
        yield EpisodeChunk(
            name=base.named(done, len(lengths)),
            obs={
                k: rows[f"obs/{k}"] for k in store.obs if k not in store.images or wanted.image(k)
            },
            actions=rows["actions"],
            lengths=lengths,
            rewards=rows["rewards"],
            terminals=rows.get("terminals"),
            states=rows.get("states") if wanted.states else None,
            tasks=store.tasks[episodes],
            success=() if store.success_E is None else tuple(store.success_E[episodes].tolist()),
        )  # fmt: skip
        done += len(lengths)
