"""The guarded process of `raybc.data.guard`, run as a script: it reads HDF5 files before others do.

Paths come in on stdin, a JSON text a line. Out come dots (it is still alive), then "!" (the file was read to its end;
what h5py refused is refused by the reader as well) or "?" (it could not be opened). The process dies where the HDF5
library crashes on damage, and stops answering where reading does not end. It imports nothing of raybc, to start fast.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import h5py

#: Bytes of an array that are read at once, and of all arrays of a file; of larger ones only the ends are read.
BLOCK_BYTES, FILE_BYTES = 16 * 2**20, 64 * 2**20
MEMORY_BYTES = 4 * 2**30
IDLE_SECONDS, SILENT_SECONDS = 60, 60


class _Budget:
    """How many bytes of a file may still be read."""

    def __init__(self) -> None:
        self.left = FILE_BYTES


def read(path: str, alive: Callable[[], None]) -> bool:
    """Read the structure, the attributes and (up to a bound) the values of a file; whether it could be opened."""
    try:
        file = h5py.File(path, "r")
    except Exception:  # the reader in the parent process says what is wrong; here only a crash counts
        return False
    with contextlib.suppress(Exception), file:
        budget = _Budget()
        _attributes(file, alive)

        def visit(_: str, found: Any) -> None:
            alive()
            with contextlib.suppress(Exception):
                _attributes(found, alive)
                if isinstance(found, h5py.Dataset):
                    _values(found, budget, alive)

        file.visititems(visit)
    return True


def _attributes(found: Any, alive: Callable[[], None]) -> None:
    for name in list(found.attrs):
        with contextlib.suppress(Exception):
            found.attrs[name]
        alive()


def _values(found: Any, budget: _Budget, alive: Callable[[], None]) -> None:
    if found.external or found.is_virtual or not found.shape or 0 in found.shape:
        if found.shape == ():
            found[()]
        return
    size = math.prod(found.shape) * found.dtype.itemsize
    if size <= min(BLOCK_BYTES, budget.left):
        budget.left -= size
        found[()]
        return
    with contextlib.suppress(Exception):  # the index of the chunks, which damage may turn into a circle
        found.id.get_num_chunks()
        alive()
    row = max(1, size // found.shape[0]) * (found.chunks[0] if found.chunks else 1)
    if row <= BLOCK_BYTES:
        for at in (0, found.shape[0] - 1):
            found[at]
            alive()


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    last = 0.0

    def alive() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.05:
            last = now
            signal.alarm(SILENT_SECONDS)  # ends this process even if its parent is gone
            os.write(answers, b".")

    os.write(answers, b"!")  # ready
    rest = b""
    while True:
        signal.alarm(0)
        if not select.select([0], [], [], IDLE_SECONDS)[0]:
            return
        data = os.read(0, 1 << 16)
        if not data:
            return
        rest += data
        while b"\n" in rest:
            line, _, rest = rest.partition(b"\n")
            last = 0.0
            alive()
            opened = read(json.loads(line), alive)
            os.write(answers, b"!" if opened else b"?")


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # the parent is gone
        main()
    sys.exit(0)
