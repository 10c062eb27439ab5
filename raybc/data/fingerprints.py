"""The hash of a data set: of its arrays, in the order of their names."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np

from raybc.data.lazy import LazyImages
from raybc.files import home, write_json
from raybc.strict import digest

#: Shows progress: (what is done, total) -> context of a function that gets the number done.
Bar = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]


def fingerprint_of(arrays: Mapping[str, np.ndarray | LazyImages], bar: Bar | None = None) -> str:
    """sha256 (hex) of names, dtypes, shapes and values.

    Images that are not in memory (`LazyImages`) count as if they were. Reading all of them takes long, so the result is
    remembered in raybc's cache, until one of their files changes. bar: shows how many have been read.
    """
    lazy = {name: array.identity() for name, array in arrays.items() if isinstance(array, LazyImages)}
    if not lazy:
        return _hashed(arrays)
    others = {name: array for name, array in arrays.items() if name not in lazy}
    path = home() / "fingerprints" / f"{digest([sorted(lazy.items()), _hashed(others)])}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # missing or damaged: it is computed
        return str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"])
    if bar is None:
        found = _hashed(arrays)
    else:
        with bar("fingerprint of the data", sum(len(arrays[name]) for name in lazy)) as update:
            found = _hashed(arrays, update)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"fingerprint": found, "images": lazy})
    return found


def _hashed(arrays: Mapping[str, np.ndarray | LazyImages], on_images: Callable[[int], None] | None = None) -> str:
    h, images = hashlib.sha256(), 0
    for name in sorted(arrays):
        array = arrays[name]
        h.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        if isinstance(array, LazyImages):
            for block in array.blocks():
                h.update(block.data)
                images += len(block)
                if on_images is not None:
                    on_images(images)
        else:
            h.update(np.ascontiguousarray(array).data)
    return h.hexdigest()
