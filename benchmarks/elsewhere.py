"""A simulator in an actor of another environment beside the same simulator alone: `python -m benchmarks.elsewhere`.

    alone    a process of the environment that steps one simulator through whole episodes, resets included, with the
             actions of the actor's episodes ready
    turns    the same process with two simulators in turns of five steps, as the actor steps them
    actor    `RolloutPool` with one process: Ray, chunks of a policy from an actor of the main environment

A, B, A, B in one run, the same starts and actions. Before it, the seconds until the first simulator is ready:
in a Ray that has just started, and in a second pool of the same Ray.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.rollouts import SETTING, make_bundle, record
from raybc.cluster.session import ray_session
from raybc.envs.variant import limited
from raybc.registry import get_task
from raybc.rollout.engine import Rollout
from raybc.rollout.pool import RolloutPool
from raybc.types import EpisodeSpec

ALONE = """
import sys, time
import numpy as np
from raybc.registry import get_task
name, file, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
with np.load(file) as found:
    episodes = {int(seed): found[seed] for seed in found.files}
envs = [get_task(name).make(None) for _ in range(2)]
for env in envs:
    env.reset(seed=0)
    env.step(next(iter(episodes.values()))[0])
print("ready", flush=True)
for _ in range(rounds):
    sys.stdin.readline()
    began = time.perf_counter()
    for seed, actions in episodes.items():
        envs[0].reset(seed=seed)
        for action in actions:
            envs[0].step(action)
    one = time.perf_counter() - began
    began = time.perf_counter()
    pairs = list(episodes.items())
    for pair in zip(pairs[::2], pairs[1::2]):
        for env, (seed, _) in zip(envs, pair):
            env.reset(seed=seed)
        for first in range(0, max(len(actions) for _, actions in pair), 5):
            for env, (_, actions) in zip(envs, pair):
                for action in actions[first : first + 5]:
                    env.step(action)
    print(one, time.perf_counter() - began, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="libero_object-0")
    parser.add_argument("--steps", type=int, default=150, help="of an episode")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    environment = get_task(args.task).environment
    assert environment is not None, "a task whose simulators are in an environment of their own"
    assert args.episodes % 2 == 0, "an even number of episodes"
    name = limited(args.task, args.steps)
    specs = [EpisodeSpec(name, "search", i) for i in range(args.episodes)]
    rates: dict[str, list[float]] = {"alone": [], "turns": [], "actor": []}
    with tempfile.TemporaryDirectory() as folder, ray_session(""):
        bundle = make_bundle(args.task, Path(folder))
        episodes = record(name, bundle, specs)
        actions = Path(folder) / "actions.npz"
        np.savez(actions, **{str(spec.seed): found for spec, found in zip(specs, episodes, strict=True)})
        steps = sum(map(len, episodes))
        program = [str(environment.require()), "-P", "-c", ALONE, args.task, str(actions), str(args.rounds)]
        alone = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | environment.variables(),
        )  # fmt: skip
        assert alone.stdin is not None
        assert alone.stdout is not None
        alone.stdout.readline()
        work = [Rollout(str(bundle), SETTING)]
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
                one, turns = map(float, alone.stdout.readline().split())
                rates["alone"].append(steps / one)
                rates["turns"].append(steps / turns)
                began = time.perf_counter()
                (rows,) = pool.evaluate(f"round {number}", work, specs)
                assert sum(row["steps"] for row in rows) == steps
                rates["actor"].append(steps / (time.perf_counter() - began))
                print("steps/s:", ", ".join(f"{which} {found[-1]:.1f}" for which, found in rates.items()), flush=True)
        alone.stdin.close()
    middle = {which: statistics.median(found) for which, found in rates.items()}
    for which in ("alone", "turns"):
        print(f"actor {middle['actor']:.1f} of {middle[which]:.1f} ({which}): {middle['actor'] / middle[which]:.0%}")


if __name__ == "__main__":
    main()
