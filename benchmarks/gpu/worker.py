"""Runs the tasks of a section in a process of its own, so that a crash or a lack of time costs this section only."""

from __future__ import annotations

import gc
import os
import platform
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch._dynamo  # every optimiser imports it, which takes seconds: once, before processes are forked

from benchmarks.gpu.bench import SIZES, Bench
from benchmarks.gpu.figures import FAILED, LEFT_OUT, MEASURED, OUT_OF_MEMORY, OUT_OF_TIME, WRONG, LeftOut, Row, Task
from benchmarks.gpu.peak import PRECISIONS, set_precision, wait
from benchmarks.gpu.sections import SECTIONS
from raybc._version import __version__
from raybc.train.arithmetic import pick_device
from raybc.types import UserError


def machine(pipe: Connection, device: str, size: str) -> None:
    """Send what this machine is, or {"error": ...} if it does not have the device, or {"spawn": True} if a forked
    process cannot use its GPU."""
    if torch.cuda.is_available() and torch.cuda._is_in_bad_fork():
        pipe.send({"spawn": True})
        return
    try:
        found = pick_device(device)
    except UserError as error:
        pipe.send({"error": str(error)})
        return
    about: dict[str, Any] = {
        "device": str(found), "name": _processor(), "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(), "torch": torch.__version__, "raybc": __version__,
    }  # fmt: skip
    if found.type == "cuda":
        card = torch.cuda.get_device_properties(found)
        about |= {"name": card.name, "memory_gb": round(card.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    about["size"] = size if size != "auto" else "full" if found.type == "cuda" else "tiny"
    _threads(about["size"])
    bench = Bench(found, SIZES[about["size"]], ())
    for precision in PRECISIONS if found.type == "cuda" else ("fp32", "bf16"):
        flops, source = bench.peak(precision)
        about |= {f"peak_{precision}": flops, "peak_from": source}
    pipe.send(about)


def _threads(size: str) -> None:
    if size == "tiny":  # threads cost more than they gain
        torch.set_num_threads(1)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def work(
    pipe: Connection, section: str, device: str, size: str, policies: tuple[str, ...], seconds: float, first: int
) -> None:
    """Send the (row, column) of all tasks of a section, then the figure of each from task `first` on."""
    os.setsid()  # the compiler's own processes end with this one
    _threads(size)
    gc.freeze()  # what is imported stays; collecting costs less then
    deadline = time.monotonic() + seconds
    bench = Bench(torch.device(device), SIZES[size], policies)
    tasks = list(SECTIONS[section].tasks(bench))
    start(bench.device)
    pipe.send([(task.row, task.column) for task in tasks])
    for task in tasks[first:]:
        late = time.monotonic() > deadline
        pipe.send(_left_out(OUT_OF_TIME) if late else _measured(task, bench.device))
    pipe.close()
    os._exit(0)  # gloo's threads abort an ordinary exit now and then


def start(device: torch.device) -> None:
    """Do what a process does once on a device (seconds on a GPU), which is not part of any figure."""
    x = torch.ones(8, 8, device=device, requires_grad=True)
    (x @ x).sum().backward()
    wait(device)


def _measured(task: Task, device: torch.device) -> Row:
    started = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    row = _row(task.measure)
    if device.type == "cuda" and row["state"] == MEASURED:
        row["more"]["memory_gb"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    torch.compiler.reset()  # compiled steps hold their packs
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    set_precision("fp32")
    return row | {"seconds": round(time.perf_counter() - started, 2)}


def _row(measure: Callable[[], Any]) -> Row:
    try:
        found = measure()
    except LeftOut as error:
        return _left_out(str(error))
    except (torch.OutOfMemoryError, MemoryError):
        return _left_out(OUT_OF_MEMORY)
    except Exception as error:  # a task must not end the others
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):  # of PyTorch's allocator of main memory
            return _left_out(OUT_OF_MEMORY)
        lines = "".join(traceback.format_exception(error))
        return {
            "state": FAILED,
            "message": f"{type(error).__name__}: {error}".splitlines()[0],
            "traceback": lines,
        }
    state = MEASURED if found.ok else WRONG
    return {"state": state, "value": found.value, "unit": found.unit, "note": found.note, "more": dict(found.more)}


def _left_out(why: str) -> Row:
    return {"state": LEFT_OUT, "message": why}


def end(pid: int) -> None:
    """Kill the process of a section and everything that it started."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
            return
        except ProcessLookupError:
            continue
