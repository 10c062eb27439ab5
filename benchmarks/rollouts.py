"""The rollout engine beside its limit and two other ways, in one run, A B A B: `python -m benchmarks.rollouts`.

    limit     the same processes stepping the same simulators through the same episodes with actions ready
    engine    `RolloutPool`: Ray actors, several simulators in a process, one batched inference a chunk
    serial    one process, one simulator, the policy sampled at every step (what evaluation scripts do)
    vector    gymnasium's AsyncVectorEnv, a process for each simulator, one batched inference a chunk

Policies are untrained 4 x 512 MLPs (10 flow steps, chunks of 5): what they do does not matter for the time they take.
Steps per second count environment steps of whole episodes, resets included. Afterwards one process runs the engine
alone and says where the time goes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.data.normalize import Normalizer
from raybc.envs.base import SimEnv
from raybc.envs.spec import spec_of_task
from raybc.inference.agent import Agent
from raybc.policies.base import PolicySpec
from raybc.policies.build import build_policy
from raybc.registry import get_task
from raybc.rollout.engine import Engine, Rollout, _Slot
from raybc.rollout.episode import run_episode
from raybc.rollout.worker import load_agent
from raybc.train.step import generator
from raybc.types import EpisodeSpec, Observation, SampleSetting

SETTING = SampleSetting(flow_steps=10)
#: Episodes of one measurement: long enough that starting and ending a job do not count.
EPISODES = {"lift": 24, "pusht": 64, "halfcheetah": 64}


def make_bundle(task: str, folder: Path) -> Path:
    """An untrained policy: 4 x 512, chunks of 5, actions around the middle of their space."""
    config = RunConfig.of(env_name=task, action_chunking=True, horizon_length=5, hidden_width=512, hidden_depth=4)
    probe = spec_of_task(get_task(task))
    sizes = {k: probe.obs_sizes[k] for k in get_task(task).obs_keys}
    spec = PolicySpec.of(sizes, {}, probe.action_size, config.chunk_length, config.obs_steps)
    policy = build_policy(config, spec, members=1)
    policy.init_members([generator(torch.device("cpu"), 0, "init")])
    starts = np.concatenate([probe.starts[k] for k in sizes], axis=1)
    middle, half = (probe.action_low + probe.action_high) / 2, (probe.action_high - probe.action_low) / 4
    bundle = PolicyBundle(
        config, 0, sizes, probe.action_size,
        Normalizer(starts.mean(0).astype(np.float32), np.ones(spec.low_dim_size, np.float32)),
        Normalizer(middle.astype(np.float32), half.astype(np.float32)),
        dict(policy.state_dict()), "0" * 64, probe.identity,
    )  # fmt: skip
    bundle.save(folder / task)
    return folder / task


def record(task: str, path: Path, specs: list[EpisodeSpec]) -> list[np.ndarray]:
    """The actions of each episode, (steps, A)."""
    torch.set_num_threads(1)
    described, played = get_task(task), dict[int, list[np.ndarray]]()

    def watched() -> SimEnv:
        env = described.make(None)
        reset, step, now = env.reset, env.step, list[np.ndarray]()

        def new_episode(*, seed: int) -> Any:
            nonlocal now
            now = played[seed] = []
            return reset(seed=seed)

        def one_step(action: np.ndarray) -> Any:
            now.append(np.array(action, np.float32))
            return step(action)

        env.reset, env.step = new_episode, one_step  # type: ignore[method-assign,assignment]
        return env

    engine = Engine(load_agent)
    engine._free[task] = [_Slot(described, watched()) for _ in range(min(described.slots, len(specs)))]
    run_all(engine, Rollout(str(path), SETTING), specs)
    for slot in engine._free[task]:
        slot.env.close()
    return [np.array(played[spec.seed]) for spec in specs]


def run_all(engine: Engine, work: Rollout, specs: list[EpisodeSpec]) -> None:
    for number, spec in enumerate(specs):
        engine.add(number, work, spec)
    while not engine.idle:
        list(engine.round())


def step_through(task: str, seeds: list[int], episodes: list[np.ndarray], ready: Any, go: Any, out: Any) -> None:
    """One process of the limit."""
    torch.set_num_threads(1)
    env = get_task(task).make(None)
    env.reset(seed=0)
    env.step(episodes[0][0])
    while True:
        ready.release()
        if not go.get():
            return
        for seed, actions in zip(seeds, episodes, strict=True):
            env.reset(seed=seed)
            for action in actions:
                env.step(action)
        out.put(sum(map(len, episodes)))


class Limit:
    def __init__(self, task: str, specs: list[EpisodeSpec], episodes: list[np.ndarray], workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ready, self._out, self._gos = context.Semaphore(0), context.Queue(), []
        self._processes = []
        for w in range(workers):
            go = context.Queue()
            seeds = [s.seed for s in specs[w::workers]]
            process = context.Process(
                target=step_through, args=(task, seeds, episodes[w::workers], self._ready, go, self._out), daemon=True
            )
            process.start()
            self._gos.append(go)
            self._processes.append(process)

    def __call__(self) -> float:
        for _ in self._gos:
            self._ready.acquire()
        started = time.perf_counter()
        for go in self._gos:
            go.put(True)
        steps = sum(self._out.get() for _ in self._gos)
        return steps / (time.perf_counter() - started)

    def close(self) -> None:
        for go, process in zip(self._gos, self._processes, strict=True):
            go.put(False)
            process.join()


def serial(task: str, bundle: PolicyBundle, specs: list[EpisodeSpec]) -> float:
    """Sampled at every step, as evaluation scripts do, with all of PyTorch's threads."""
    torch.set_num_threads(multiprocessing.cpu_count())
    env, agent = get_task(task).make(None), Agent(bundle)
    setting = SampleSetting(flow_steps=10, execute_steps=1)
    run_episode(env, agent, specs[0], setting, 10)
    started, steps = time.perf_counter(), 0
    for spec in specs:
        steps += run_episode(env, agent, spec, setting, get_task(task).max_steps).steps
    seconds = time.perf_counter() - started
    env.close()
    return steps / seconds


class Ended(gymnasium.Wrapper[Any, Any, Any, Any]):
    """What AsyncVectorEnv needs: an episode that ends at success and at the step limit."""

    def __init__(self, env: SimEnv, max_steps: int) -> None:
        super().__init__(env)
        self._max_steps, self._steps = max_steps, 0

    def reset(self, **options: Any) -> Any:
        self._steps = 0
        return self.env.reset(**options)

    def step(self, action: np.ndarray) -> Any:
        obs, reward, terminated, _, info = self.env.step(action)
        self._steps += 1
        return obs, reward, terminated or info["success"], self._steps >= self._max_steps, info


def vector(task: str, bundle: PolicyBundle, count: int, steps: int) -> float:
    """`steps` lockstep steps of `count` simulators; a chunk is executed by all before the next is sampled for all."""
    described = get_task(task)

    def make() -> Ended:
        torch.set_num_threads(1)
        return Ended(described.make(None), described.max_steps)

    agent, keys = Agent(bundle), list(bundle.obs_sizes)
    envs = gymnasium.vector.AsyncVectorEnv([make] * count, context="spawn" if task == "lift" else None)
    low, high = envs.single_action_space.low, envs.single_action_space.high
    obs, _ = envs.reset(seed=0)
    noise = np.zeros((count, bundle.spec.horizon, bundle.action_size), np.float32)

    def advance(steps: int) -> None:
        nonlocal obs
        for _ in range(steps // 5):
            obs_BTO = np.concatenate([obs[k] for k in keys], axis=1)[:, None].astype(np.float32)
            chunks_BHA = np.clip(agent.chunks(Observation(obs_BTO), noise, SETTING), low, high)
            for h in range(5):
                obs, *_ = envs.step(chunks_BHA[:, h])

    advance(10)
    started = time.perf_counter()
    advance(steps)
    seconds = time.perf_counter() - started
    envs.close()
    return steps * count / seconds


def breakdown(task: str, path: Path, specs: list[EpisodeSpec]) -> dict[str, float]:
    """Shares of one process's time, by running its engine here."""
    torch.set_num_threads(1)
    agent = Agent(PolicyBundle.load(path))
    spent = {"network": 0.0, "simulators": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent[name] += time.perf_counter() - started

        return call

    agent.chunks = timed("network", agent.chunks)  # type: ignore[method-assign]
    engine = Engine(lambda _: agent)
    rollout = Rollout(str(path), SETTING)
    for round_ in range(2):  # the first builds the simulators
        started = time.perf_counter()
        spent |= dict.fromkeys(spent, 0.0)
        run_all(engine, rollout, specs)
        wall = time.perf_counter() - started
        if round_ == 0:
            for slots in engine._free.values():
                for slot in slots:
                    slot.env.step = timed("simulators", slot.env.step)  # type: ignore[method-assign]
                    slot.env.reset = timed("simulators", slot.env.reset)  # type: ignore[method-assign]
    return {name: seconds / wall for name, seconds in spent.items()} | {"the rest": 1 - sum(spent.values()) / wall}


def compare(task: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from raybc.rollout.pool import RolloutPool

    path = make_bundle(task, folder)
    bundle = PolicyBundle.load(path)
    specs = [EpisodeSpec(task, "final", i) for i in range(args.episodes or EPISODES[task])]
    episodes = record(task, path, specs)
    steps = sum(map(len, episodes))
    rates: dict[str, list[float]] = {"limit": [], "engine": []}
    limit = Limit(task, specs, episodes, args.workers)
    with RolloutPool.start(task, args.workers, worker_cpus=0.5, shared=args.shared, slots=args.slots or None) as pool:
        work = Rollout(str(path), SETTING)
        pool.evaluate("warm", [work], specs)
        for number in range(args.rounds):
            rates["limit"].append(limit())
            started = time.perf_counter()
            rows = pool.evaluate(f"run {number}", [work], specs)[0]
            rates["engine"].append(sum(r["steps"] for r in rows) / (time.perf_counter() - started))
            assert sum(r["steps"] for r in rows) == steps
    limit.close()
    few = 2 if task == "lift" else 4
    for _ in range(0 if args.only_engine else args.rounds):
        rates.setdefault("serial", []).append(serial(task, bundle, specs[:few]))
        for count in (args.workers, 8):
            rates.setdefault(f"vector of {count}", []).append(
                vector(task, bundle, count, 100 if task == "lift" else 500)
            )
    return {"task": task, "workers": args.workers, "shared": args.shared, "steps": steps, "rates": rates,
            "share": breakdown(task, path, specs[: len(specs) // 2])}  # fmt: skip


def show(result: dict[str, Any]) -> None:
    rates = result["rates"]
    ratios = [e / m for e, m in zip(rates["engine"], rates["limit"], strict=True)]
    print(f"\n### {result['task']}: {result['workers']} process(es){', shared inference' if result['shared'] else ''}, "
          f"{result['steps']} steps a measurement\n")  # fmt: skip
    print("| | steps/s (each round) | engine over it |\n|---|---|---|")
    for name, values in rates.items():
        over = statistics.median(rates["engine"]) / statistics.median(values)
        print(f"| {name} | {', '.join(f'{v:.0f}' for v in values)} | {over:.2f} |")
    # The cores of a virtual machine are not equally fast from one second to the next: many short rounds, and their sum.
    overall = sum(1 / m for m in rates["limit"]) / sum(1 / e for e in rates["engine"])
    error = f" (standard error {100 * statistics.stdev(ratios) / len(ratios) ** 0.5:.1f})" if len(ratios) > 1 else ""
    print(f"\nengine / limit over all rounds: {100 * overall:.1f} %{error}; "
          f"each: {', '.join(f'{100 * r:.0f}' for r in ratios)}")  # fmt: skip
    print("one process of the engine: " + ", ".join(f"{name} {100 * v:.1f} %" for name, v in result["share"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["lift", "pusht", "halfcheetah"])
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=0)
    parser.add_argument("--shared", action="store_true", help="one inference actor for all processes")
    parser.add_argument("--only_engine", action="store_true", help="leave serial and vector out")
    parser.add_argument("--slots", type=int, default=0, help="simulators of a process (0: what the task says)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from raybc.cluster.session import ray_session

    with tempfile.TemporaryDirectory() as folder, ray_session(num_cpus=max(2, args.workers)):
        results = [compare(task, args, Path(folder)) for task in args.tasks]
    for result in results:
        show(result)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
