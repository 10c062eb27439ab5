"""Episodes per second of a `module:` policy beside raybc's own, A B A B in one run: `python -m benchmarks.foreign`.

    own       the bundle, as `Engine` acts with it: one batched inference a chunk for all simulators of the process
    batched   the same network behind a callable that is `batched`
    plain     the same network behind a callable that is asked for one simulator at a time
    constant  a callable that computes nothing: what the seam itself takes

One process without Ray, which costs all of them the same. Policies are untrained 4 x 512 MLPs (10 flow steps, chunks of
5), and the first three execute the same actions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rollouts import SETTING, make_bundle, run_all
from raybc.bundle import PolicyBundle
from raybc.foreign.base import About
from raybc.foreign.measured import MeasuredForeign
from raybc.foreign.reference import Reference
from raybc.inference.agent import Agent
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.worker import load_agent
from raybc.types import EpisodeSpec, Observation, SampleSetting

EPISODES = {"pointmass": 64, "lift": 4}
ARMS = ("own", "batched", "plain", "constant")


def batched(about: About) -> Any:
    """The bundle at `about.argument` for all episodes of a process."""
    agent = Agent(PolicyBundle.load(Path(about.argument)))
    horizon = agent.bundle.spec.horizon

    def act(obs: dict[str, Any]) -> np.ndarray:
        seen_BTO = np.concatenate([obs[name] for name in agent.bundle.obs_sizes], -1)[:, None]
        noise_BHA = np.zeros((len(seen_BTO), horizon, about.action_size), np.float32)
        return agent.chunks(Observation(seen_BTO), noise_BHA, SETTING)

    act.batched = True  # type: ignore[attr-defined]
    return act


def plain(about: About) -> Any:
    """The same for one episode."""
    together = batched(about)

    def act(obs: dict[str, Any]) -> np.ndarray:
        rows = {name: value[None] for name, value in obs.items() if name != "instruction"}
        return np.asarray(together(rows))[0]

    return act


def constant(about: About) -> Any:
    """No network."""
    chunk_HA = np.zeros((5, about.action_size), np.float32)
    return lambda obs: chunk_HA


def job(arm: str, task: str, bundle: Path) -> Rollout:
    if arm == "own":
        return Rollout(str(bundle), SETTING)
    policy = MeasuredForeign(Reference("module", f"benchmarks.foreign:{arm}", argument=str(bundle)), task)
    return Rollout(policy.reference, SampleSetting(0))


def measure(task: str, repeats: int) -> dict[str, list[float]]:
    """Arm -> episodes per second of each repeat."""
    torch.set_num_threads(1)
    specs = [EpisodeSpec(task, "search", i) for i in range(EPISODES[task])]
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(task, Path(folder))
        engine = Engine(load_agent)
        jobs = {arm: job(arm, task, bundle) for arm in ARMS}
        for work in jobs.values():
            run_all(engine, work, specs[:2])  # loads the policy and builds simulators
        for _ in range(repeats):
            for arm, work in jobs.items():
                started = time.perf_counter()
                run_all(engine, work, specs)
                found[arm].append(len(specs) / (time.perf_counter() - started))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(EPISODES))
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    for task in args.tasks:
        rates = measure(task, args.repeats)
        own = statistics.median(rates["own"])
        for arm, values in rates.items():
            middle = statistics.median(values)
            print(json.dumps({
                "task": task, "arm": arm, "episodes_per_second": round(middle, 2), "of_own": round(middle / own, 2),
                "repeats": [round(value, 2) for value in values],
            }))  # fmt: skip


if __name__ == "__main__":
    main()
