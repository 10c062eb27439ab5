"""How long does a sweep keep a user waiting: first line, longest silence, first training, first number?

    python -m benchmarks.first_number [SWEEP.yaml] [--repeat 3]

Runs the sweep as a user would, in a terminal (a pseudo-terminal of 80 columns), with demonstrations made in a folder of
its own. Prints seconds from the start of the command, and core-seconds of all processes by then: on a machine where
others work, core-seconds tell more than seconds do.

- *first line*: the first visible text.
- *longest silence*: between two pieces of output, until the first number.
- *first training* and *first number*: the first trial began to train, and its first evaluation was recorded.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
#: Control sequences of a terminal, which are no visible text.
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|[\r\n\s]")


def first_evaluation(ledger: Path) -> dict[str, list[float]] | None:
    """The timing of the first evaluation in a ledger."""
    lines = ledger.read_text(encoding="utf-8").splitlines(keepends=True) if ledger.exists() else []
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return next((event["timing"] for event in events if event["event"] == "evaluation"), None)


def core_seconds(root: psutil.Process, known: dict[int, float]) -> float:
    """Core-seconds of a process and its descendants so far, also of those that have ended (`known`, by process)."""
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        known[process.pid] = times.user + times.system
    return sum(known.values())


def measure(sweep: Path, folder: Path) -> dict[str, float]:
    """Start a sweep, and stop it when it has its first number."""
    terminal, inside = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    run = folder / "run"
    started = time.time()
    command = [sys.executable, "-m", "raybc.sweep", str(sweep), "--out", str(run)]
    process = subprocess.Popen(
        command, stdin=inside, stdout=inside, stderr=inside, env=os.environ | {"RAYBC_HOME": str(folder / "home")}
    )
    os.close(inside)
    root, known = psutil.Process(process.pid), dict[int, float]()
    found: dict[str, float] = {}
    said, silence = started, 0.0
    spent: list[tuple[float, float]] = []
    while process.poll() is None:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                visible = CONTROL.sub(b"", os.read(terminal, 65536))
            except OSError:
                break
            if visible:
                found.setdefault("first line s", time.time() - started)
                silence, said = max(silence, time.time() - said), time.time()
        spent.append((time.time(), core_seconds(root, known)))
        timing = first_evaluation(run / "ledger.jsonl")
        if timing is not None:
            training, number = timing["train"][0], timing["rollout"][1]
            found |= {"longest silence s": silence}
            for name, when in (("first training", training), ("first number", number)):
                found[f"{name} s"] = when - started
                found[f"{name} core-s"] = next((cores for at, cores in spent if at >= when), spent[-1][1])
            process.send_signal(signal.SIGINT)
            break
    while True:  # what is not read would make the sweep wait
        try:
            if not os.read(terminal, 65536):
                break
        except OSError:
            break
    process.wait()
    os.close(terminal)
    if "first number s" not in found:
        raise SystemExit(f"the sweep ended with status {process.returncode} before its first number")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", type=Path, default=ROOT / "sweeps" / "pointmass.yaml")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    print(f"{options.sweep.name} on {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    results = []
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(options.sweep.absolute(), Path(folder)))
    for name in results[0]:
        print(f"{name:24s}" + "".join(f"{result[name]:10.1f}" for result in results))


if __name__ == "__main__":
    main()
