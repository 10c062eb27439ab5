"""A simulator in an actor of another environment beside the same simulator alone: `python -m benchmarks.elsewhere`.

    alone    a process of the environment that steps the simulator, whole episodes with their resets, no policy
    actor    `RolloutPool` with one process: Ray, chunks of a policy from an actor of the main environment

A, B, A, B in one run, the same starts and number of steps. Before it, the seconds until the first simulator is ready:
in a Ray that has just started, and in a second pool of the same Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.rollouts import SETTING, make_bundle
from raybc.cluster.session import ray_session
from raybc.envs.variant import limited
from raybc.registry import get_task
from raybc.rollout.engine import Rollout
from raybc.rollout.pool import RolloutPool
from raybc.types import EpisodeSpec

ALONE = """
import json, sys, time
from raybc.registry import get_task
name, steps, seeds, rounds = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
env = get_task(name).make(None)
action = (env.action_space.low + env.action_space.high) / 2
env.reset(seed=0)
env.step(action)
print("ready", flush=True)
for _ in range(rounds):
    sys.stdin.readline()
    began = time.perf_counter()
    for seed in seeds:
        env.reset(seed=seed)
        for _ in range(steps):
            env.step(action)
    print(time.perf_counter() - began, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="libero_object-0")
    parser.add_argument("--steps", type=int, default=150, help="of an episode")
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    environment = get_task(args.task).environment
    assert environment is not None, "a task whose simulators are in an environment of their own"
    name = limited(args.task, args.steps)
    specs = [EpisodeSpec(name, "search", i) for i in range(args.episodes)]
    seeds = json.dumps([spec.seed for spec in specs])
    program = [str(environment.require()), "-P", "-c", ALONE, args.task, str(args.steps), seeds, str(args.rounds)]
    alone = subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | environment.variables(),
    )  # fmt: skip
    assert alone.stdin is not None
    assert alone.stdout is not None
    alone.stdout.readline()
    rates: dict[str, list[float]] = {"alone": [], "actor": []}
    with tempfile.TemporaryDirectory() as folder, ray_session(""):
        work = [Rollout(str(make_bundle(args.task, Path(folder))), SETTING)]
        for which in ("first", "again"):
            began = time.perf_counter()
            with RolloutPool.start(name, 1, worker_cpus=1.0) as pool:
                pool.evaluate("warm up", work, [EpisodeSpec(limited(args.task, 1), "search", 0)])
            print(f"first step, {which}: {time.perf_counter() - began:.1f} s", flush=True)
        with RolloutPool.start(name, 1, worker_cpus=1.0) as pool:
            pool.evaluate("warm up", work, specs[:2])
            for number in range(args.rounds):
                alone.stdin.write("go\n")
                alone.stdin.flush()
                rates["alone"].append(args.steps * args.episodes / float(alone.stdout.readline()))
                began = time.perf_counter()
                (rows,) = pool.evaluate(f"round {number}", work, specs)
                rates["actor"].append(sum(row["steps"] for row in rows) / (time.perf_counter() - began))
                print(f"steps/s: alone {rates['alone'][-1]:.1f}, actor {rates['actor'][-1]:.1f}", flush=True)
    alone.stdin.close()
    middle = {which: statistics.median(found) for which, found in rates.items()}
    print(f"median: alone {middle['alone']:.1f}, actor {middle['actor']:.1f}: {middle['actor'] / middle['alone']:.0%}")


if __name__ == "__main__":
    main()
