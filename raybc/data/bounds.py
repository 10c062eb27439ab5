"""Bounds on what a file may declare: sizes are compared with its bytes, and with the free memory, before allocation."""

from __future__ import annotations

import os
from pathlib import Path

from raybc.types import UserError

#: Bytes that a byte on disk may decompress to: the limit of deflate (gzip, zip, HDF5's gzip) is 1032.
MAX_RATIO = 1100
#: Bytes that an array may declare whatever is on disk: values that are not stored are the fill value.
ALWAYS_BYTES = 1 << 24
#: Arrays below this size are not compared with the free memory each.
SMALL_BYTES = 1 << 26


def check_fits(declared: int, stored: int, where: str, ratio: int = MAX_RATIO, always: int = ALWAYS_BYTES) -> None:
    """Raise `UserError`, beginning with `where`, if an array of `declared` bytes cannot come from `stored` bytes on
    disk."""
    if declared > max(always, ratio * stored):
        raise UserError(f"{where}: damaged: declares {size(declared)}, which {size(stored)} on disk cannot hold")


def check_memory(needed: int, where: str) -> None:
    """Raise `UserError`, beginning with `where`, if `needed` bytes are more than the free memory."""
    if needed < SMALL_BYTES:  # arrays this small are counted in sum, by `base.Memory`
        return
    free = free_memory()
    if needed > free:
        raise UserError(
            f"{where}: reading it needs {size(needed)} of memory, of which {size(free)} are free; if it is right, "
            "convert it where there is more memory (python -m raybc.data convert), which is then read from disk"
        )


def free_memory() -> int:
    """Bytes of memory that this process can still get, within the limit of its container."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        found = min(found, int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, LookupError, ValueError):  # no Linux
        return found
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            # Cached files count as used there, and are given up when memory is needed: they are not subtracted twice.
            found = min(found, max(int(Path(limit).read_text()) - int(Path(used).read_text()), found // 4))
        except (OSError, ValueError):  # no limit
            continue
    return found


def size(count: int) -> str:
    """A number of bytes for people: "745 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:,.1f} TiB"
