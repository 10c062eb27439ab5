"""Reading HDF5 and npz files so that damage is an error which names the file and the key."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from raybc import causes
from raybc.data import guard
from raybc.data.bounds import check_fits, check_memory
from raybc.data.npz import magic, readable
from raybc.types import UserError

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


@contextlib.contextmanager
def opened_hdf5(path: Path, what: str) -> Iterator[Any]:
    """An `h5py.File` that is open for reading. Raises `UserError` for missing and damaged files, also for those whose
    damage would make the HDF5 library crash (`raybc.data.guard`).

    what: the kind of file, for messages.
    """
    causes.expect_file(path, f"{'an' if what[:1] in 'AEIOU' else 'a'} {what} file")
    damage = guard.damage(path)
    if damage:
        raise UserError(f"{path}: {damage}")
    with readable(path, "HDF5", HDF5_MAGIC), h5py.File(path, "r") as file:
        yield file


def hdf5_array(group: Any, key: str, where: str) -> Any:
    """The `h5py.Dataset` `group[key]`, not read yet. Raises `UserError`, beginning with `where`, if it is missing, not
    numeric, or stored in another file."""
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
    _check_filters(found, f"{where}: {key}")
    check_fits(math.prod(found.shape) * found.dtype.itemsize, found.id.get_storage_size(), f"{where}: {key}")
    return found


def hdf5_values(group: Any, key: str, where: str) -> np.ndarray:
    """All values of `hdf5_array`. Raises `UserError` also where they do not fit into memory."""
    found = hdf5_array(group, key, where)
    check_memory(math.prod(found.shape) * found.dtype.itemsize, f"{where}: {key}")
    return np.asarray(found[()])


def _check_filters(found: Any, where: str) -> None:
    created = found.id.get_create_plist()
    for i in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            raise UserError(
                f"{where}: is compressed with {name.decode(errors='replace') or f'filter {code}'}, which the installed "
                "HDF5 does not have: pip install hdf5plugin, and set the variable HDF5_PLUGIN_PATH to its PLUGIN_PATH"
            )


def hdf5_members(
    group: Any, where: str, prefix: str = "", above: frozenset[int] = frozenset()
) -> Iterator[tuple[str, Any]]:
    """(name, `h5py.Dataset` that is not read yet) of all arrays in a group and the groups in it, "/" between names.

    Arrays need not be numeric. above: addresses of the groups that contain this one. Raises `UserError`, beginning with
    `where`, for links and references to other files, and for links in a circle.
    """
    above |= {h5py.h5o.get_info(group.id).addr}
    for key in group:
        found = group.get(key) if not isinstance(group.get(key, getlink=True), h5py.ExternalLink) else None
        if isinstance(found, h5py.Group):
            if h5py.h5o.get_info(found.id).addr in above or found.name == "/":
                raise UserError(f"{where}: {prefix}{key}: expected data, got a link to a group that contains it")
            yield from hdf5_members(found, where, f"{prefix}{key}/", above)
        elif isinstance(found, h5py.Dataset) and found.dtype.kind not in "fiub":
            yield prefix + key, found
        else:
            array = hdf5_array(group, key, where)
            check_memory(math.prod(array.shape) * array.dtype.itemsize, f"{where}: {prefix}{key}")
            yield prefix + key, array


def check_sizes(group: Any, where: str) -> None:
    """Raise `UserError`, beginning with `where`, for an array in a group, or below it, that declares more than it
    holds or than there is memory."""

    def visit(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset) and found.shape is not None:
            declared = math.prod(found.shape) * found.dtype.itemsize
            check_fits(declared, found.id.get_storage_size(), f"{where}: {name}")
            check_memory(declared, f"{where}: {name}")

    group.visititems(visit)


def hdf5_names(path: Path) -> set[str]:
    """The top-level names of an HDF5 file; an empty set for other or damaged files."""
    if magic(path) != HDF5_MAGIC or guard.damage(path):
        return set()
    try:
        with h5py.File(path, "r") as file:
            return set(file)
    except (OSError, RuntimeError, ValueError, LookupError):
        return set()


def hdf5_names_in(group: Any, name: str) -> set[str]:
    """The paths "name/..." of the members of the group `name` in `group`; an empty set where it is no group."""
    inner = group.get(name)
    return {f"{name}/{key}" for key in inner} if isinstance(inner, h5py.Group) else set()
