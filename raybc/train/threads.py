"""How many PyTorch threads a training uses on a CPU: the cores that are free, shared with other trainings.

Several trainings that each take all cores are many times slower than trainings that share them.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from raybc.types import UserError

#: Samples of the number of running threads of the machine, and seconds between them.
SAMPLES, PAUSE = 5, 0.02


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Count this process among the trainings of this user on this machine, until the end of the block.

    The kernel forgets it when the process ends, however that happens.
    """
    folder = _register()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / str(os.getpid())
        handle = path.open("w")
    except OSError:  # no place to write: other trainings do not see this one
        yield
        return
    with handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def free_threads(busy: int) -> int:
    """The number of threads to use: that of OMP_NUM_THREADS if it is set, else the cores that this process may use
    minus those that are busy, and no more than its share among the registered trainings; at least 1.

    busy: `busy_cores()` before this process started others. Raises `UserError` if OMP_NUM_THREADS is no number.
    """
    cores = available_cores()
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted:
        if not wanted.isdigit() or int(wanted) < 1:
            raise UserError(f"OMP_NUM_THREADS: expected a number of at least 1, got {wanted!r}")
        return min(int(wanted), cores)
    share = cores // max(1, _trainings())
    return max(1, min(share, cores - busy))


def available_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cores


def _register() -> Path:
    return Path(tempfile.gettempdir()) / f"raybc-{os.getuid()}" / "training"


def _trainings() -> int:
    """Registered trainings that are alive, this one included. Removes what killed processes left."""
    count = 0
    folder = _register()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name == str(os.getpid()):
            count += 1
            continue
        with contextlib.suppress(OSError), path.open("r+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            except BlockingIOError:
                count += 1
    return count


def busy_cores() -> int:
    """Cores that other processes use now: the median number of other running threads on the machine.

    The machine may have more cores than this process may use; running threads are assumed to be on those first.
    """
    cores = available_cores()
    running = []
    for _ in range(SAMPLES):
        value = _running()
        if value is None:  # not Linux
            return 0
        running.append(value - 1)
        time.sleep(PAUSE)
    elsewhere = (os.cpu_count() or cores) - cores
    return min(cores, max(0, sorted(running)[SAMPLES // 2] - elsewhere))


def _running() -> int | None:
    """Threads that run or wait for a core, this one included; None if the system does not tell."""
    try:
        text = Path("/proc/stat").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("procs_running ")), None)
