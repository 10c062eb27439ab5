"""What a file or folder is that no format recognises: a pointer, an archive, damage, or whole but of another layout."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py

from raybc import causes
from raybc.data import guard, npz
from raybc.data.formats import containers

#: Files by which formats recognise a folder; where one is a pointer or damaged, that is the cause.
MARKS = ("meta/info.json", "data/metadata.json", "metadata.json", "store.json", "dataset_info.json", "features.json",
         "data/main_data.hdf5", ".zgroup", "meta/.zgroup")  # fmt: skip
DATA = (".hdf5", ".h5", ".npz", ".zarr", ".zip", ".parquet")
#: Number of arrays, names or folders that a message lists, and how deep data are looked for below a folder.
LISTED, DEPTH = 8, 3


#: Beginnings of explanations after which a list of the known formats helps.
_OTHER = ("not in a known format.", "an HDF5 file whose layout", "a folder in no known format")


def explain(path: Path, matching: Callable[[Path], str]) -> tuple[str, bool]:
    """One or two sentences that complete "PATH: ...", and whether a list of the known formats helps.

    matching: the name of the format of a path, "" for none.
    """
    text = _folder(path, matching) if path.is_dir() else _file(path)
    return text, text.startswith(_OTHER)


def _file(path: Path) -> str:
    cause = causes.cause(path, kind=containers.HDF5_MAGIC)
    start = containers.magic(path)
    if start != containers.HDF5_MAGIC and cause:
        return f"{cause}."
    if start.startswith(npz.ZIP_MAGIC):
        return "not in a known format. It begins as a zip file: it may be damaged or truncated."
    if start != containers.HDF5_MAGIC:
        return "not in a known format."
    damage = guard.damage(path)
    if damage:
        return f"{damage}."
    try:
        with h5py.File(path, "r") as file:
            held = contents(file)
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        cause = (causes.denied(path, error) if isinstance(error, OSError) else "") or cause
        return f"{cause}." if cause else (
            "not in a known format. It begins as an HDF5 file: it may be damaged or truncated."
        )  # fmt: skip
    return f"an HDF5 file whose layout is not known. It holds {held}."


def contents(file: h5py.File) -> str:
    """The arrays of an HDF5 file with their shapes, its empty groups, and the names of its attributes."""
    found: list[str] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(f"{name} {item.dtype} {tuple(item.shape or ())}")
        elif isinstance(item, h5py.Group) and not len(item):
            found.append(f"{name} (an empty group)")

    file.visititems(visit)
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    attributes = f"; attributes {', '.join(sorted(file.attrs)[:LISTED])}" if len(file.attrs) else ""
    return (", ".join(found[:LISTED]) or "nothing") + more + attributes


def _folder(path: Path, matching: Callable[[Path], str]) -> str:
    try:
        inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    except OSError as error:
        return f"{causes.denied(path, error) or f'cannot be read ({error.strerror})'}."
    if not inside:
        return "not in a known format: the folder is empty."
    marks = [path / mark for mark in MARKS if (path / mark).exists() or (path / mark).is_symlink()]
    for each in [*marks, *(p for p in inside if p.suffix in DATA)]:
        if not each.is_dir():
            cause = causes.cause(each, kind=_magic_of(each))
            if cause:
                return f"{each.relative_to(path)}: {cause}."
    below = list(itertools.islice(((p, name) for p in _below(path) if (name := matching(p))), 2))
    if below:
        more = "one of the data sets in it" if len(below) > 1 else "the data set in it"
        return f"not a data set itself. Name {more}: {below[0][0]} ({below[0][1]})."
    names = ", ".join(p.name + "/" * p.is_dir() for p in inside[:LISTED])
    more = f" and {len(inside) - LISTED} more" if len(inside) > LISTED else ""
    return f"a folder in no known format. It holds {names}{more}."


def _magic_of(path: Path) -> bytes:
    known = {".hdf5": containers.HDF5_MAGIC, ".h5": containers.HDF5_MAGIC, ".parquet": b"PAR1"}
    return known.get(path.suffix, npz.ZIP_MAGIC)


def _below(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Files of data and folders below a folder, not deeper than `depth`, at most `LISTED` of each folder."""
    try:
        inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError:
        return
    folders = [p for p in inside if p.is_dir()][:LISTED]
    yield from itertools.islice((p for p in inside if p.suffix in DATA and p.is_file()), LISTED)
    yield from folders
    if depth > 1:
        for each in folders:
            yield from _below(each, depth - 1)
