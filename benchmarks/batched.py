"""Times of a batched simulator: `python -m benchmarks.batched` on a machine with a GPU.

For each number of worlds, in a process of the simulator's environment: the seconds to make it (the first time with
compilation), of a reset of all worlds, of one world while the others have episodes, and of a control step of all; from
these, control steps per second over all worlds. Medians of `--rounds`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from raybc.registry import get_task

PROGRAM = """
import json, statistics, sys, time
import numpy as np
from raybc.registry import get_task
name, worlds, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def seconds(act):
    found = []
    for number in range(rounds):
        began = time.perf_counter()
        act(number)
        found.append(time.perf_counter() - began)
    return statistics.median(found)

began = time.perf_counter()
env = get_task(name).make_batch(worlds)
made = time.perf_counter() - began
rng, acts_N = np.random.default_rng(0), np.ones(worlds, bool)
shape = (rounds, worlds, *env.action_space.shape)
actions = rng.uniform(env.action_space.low, env.action_space.high, shape).astype(np.float32)
for number in range(2):  # the second step captures what the later ones repeat
    env.step(actions[number % rounds], acts_N)
print(json.dumps({
    "make": made,
    "reset of all": seconds(lambda number: env.reset({world: world + number for world in range(worlds)})),
    "reset of one": seconds(lambda number: env.reset({number % worlds: number})),
    "step": seconds(lambda number: env.step(actions[number], acts_N)),
    "physics": env.identity().get("physics", ""),
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="ocbench-block-lite-single-task1-v0")
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 64, 1024])
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    for worlds in args.worlds:
        found = measure(args.task, worlds, args.rounds)
        times = ", ".join(f"{name} {1000 * found[name]:.1f} ms" for name in ("reset of all", "reset of one", "step"))
        print(
            f"{worlds} worlds ({found['physics']}): make {found['make']:.1f} s, {times}, "
            f"{worlds / found['step']:.0f} steps/s",
            flush=True,
        )


def measure(name: str, worlds: int, rounds: int) -> dict[str, Any]:
    """Seconds of each part, and what it was simulated on."""
    environment = get_task(name).environment
    python = sys.executable if environment is None else str(environment.require())
    ran = subprocess.run(
        [python, "-P", "-c", PROGRAM, name, str(worlds), str(rounds)], stdout=subprocess.PIPE, text=True, check=True,
        env=os.environ | ({} if environment is None else environment.variables()),
    )  # fmt: skip
    measured: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
