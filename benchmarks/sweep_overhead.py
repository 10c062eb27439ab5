"""How much of a sweep's wall time is neither training nor simulating?

    python benchmarks/sweep_overhead.py [SWEEP.yaml] [--repeat 2]

Runs the sweep as a user would (a fresh process, from its start to its end, demonstrations included: they are made in a
folder of their own) and reads `timeline.json`. Two figures:

- *idle wall*: share of the wall time in which no trial trained and no simulator worked (Ray's start, process starts,
  imports, waiting, the report). The target is below 15 % for the quickstart.
- *idle cores*: the same as a share of core-seconds: 1 - (training + simulating) / (cores x wall). Simulators count the
  time of their remote calls, so waiting for a busy core is in there and this figure can be too low, never too high.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def union(spans: list[list[float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def measure(sweep: Path, folder: Path) -> dict[str, float]:
    environment = os.environ | {"RAYBC_HOME": str(folder / "home")}
    out = folder / "run"
    command = [sys.executable, "-m", "raybc.sweep", str(sweep), "--out", str(out)]
    started = time.time()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    wall = time.time() - started
    timeline = json.loads((out / "timeline.json").read_text())
    train, simulate = timeline["train"], timeline["simulate"]
    work = train + simulate
    cores = os.cpu_count() or 1
    busy = sum(stop - start for start, stop in work)
    first = min(start for start, _ in work) - started
    stages = {
        name.removeprefix("stage "): sum(stop - start for start, stop in spans)
        for name, spans in timeline.items()
        if name.startswith("stage ") and name != "stage whole"
    }
    in_stage = {
        f"idle in {name.removeprefix('stage ')}": sum(
            (stop - start) - union([[max(a, start), min(b, stop)] for a, b in work if a < stop and b > start])
            for start, stop in spans
        )
        for name, spans in timeline.items()
        if name.startswith("stage ") and name != "stage whole"
    }
    end = timeline["stage whole"][-1][1]
    return {
        "wall": wall,
        "idle wall %": 100 * (1 - union(work) / wall),
        "idle cores %": 100 * (1 - busy / (cores * wall)),
        "training s": union(train),
        "simulating s": union(simulate),
        "until first work s": first,
        "report and shutdown s": started + wall - end,
        **{f"{name} s": seconds for name, seconds in in_stage.items()},
        **{f"stage {name} s": seconds for name, seconds in stages.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", type=Path, default=ROOT / "sweeps" / "quickstart.yaml")
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    print(f"{options.sweep.name} on {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    results = []
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(options.sweep, Path(folder)))
    for name in results[0]:
        print(f"{name:32s}" + "".join(f"{r.get(name, float('nan')):10.1f}" for r in results))


if __name__ == "__main__":
    main()
