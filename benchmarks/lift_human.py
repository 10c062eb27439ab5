"""Policies of human demonstrations of Lift, and why they fail: `python -m benchmarks.lift_human FILE OUT.jsonl`.

    python -m benchmarks.lift_human lift.hdf5 runs/lift.jsonl --own_starts 2
    python -m benchmarks.lift_human lift.hdf5 runs/lift.jsonl --policies "U-Net, flow" --variants "no idle, clipped"
    python -m benchmarks.lift_human lift.hdf5 runs/lift.jsonl --replay

FILE is a robomimic file of robosuite's Lift with states (docs/data.md). Each variant changes what may be the cause of
failures. A policy is trained on it and measured on final starts and, with --own_starts, from where the demonstrations
began. Success within several step limits comes from the same episodes, which end with their success. --replay plays the
demonstrations themselves, with fewer and fewer of their idle steps. One process, one thread, without Ray. What is in
OUT is not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.policy_table import POLICIES, options
from raybc.config import RunConfig
from raybc.data.control import converted
from raybc.data.episodes import EpisodeStore
from raybc.data.idle import without_idle
from raybc.data.load import read_for
from raybc.envs.base import Obs
from raybc.envs.robosuite import RobosuiteEnv
from raybc.envs.robosuite_experts import LiftExpert
from raybc.inference.agent import Agent
from raybc.registry import get_task, parse_env_name
from raybc.rollout.episode import run_episode
from raybc.statistics import mean_interval, wilson_interval
from raybc.train.data import TrainingData, resolved
from raybc.train.loop import PackTrainer
from raybc.types import EpisodeSpec

#: What differs from the options of `benchmarks.policy_table`.
RECIPE = {"batch_size": 128, "normalization": "mean_std", "device": "cpu"}
#: The cube's quaternion, and the vector from the hand to the cube, in the observation `object`.
TURN, REACH = slice(3, 7), slice(7, 10)
#: From how near the cube can be grasped, and how high it is when it is certainly held, m. People close at up to 2.8 cm.
NEAR, HELD = 0.03, 0.003
#: How far from the cube no demonstration closes the gripper, m; the hand begins at 20 cm.
FAR = 0.15
Data = Callable[[EpisodeStore], EpisodeStore]


def trimmed(store: EpisodeStore) -> EpisodeStore:
    """Only the first eight steps of a pause, in which the arm still moves and at the start the gripper opens."""
    return without_idle(store, keep=8)


def clipped(store: EpisodeStore) -> EpisodeStore:
    """Actions as the controller executed them: it clips to [-1, 1]."""
    return dataclasses.replace(store, actions_NA=np.clip(store.actions_NA, -1, 1), checked=True)


def without_turn(store: EpisodeStore) -> EpisodeStore:
    """The cube's orientation hidden: it alone identifies each of a few demonstrations."""
    cube = store.obs["object"].copy()
    cube[:, TURN] = 0
    return dataclasses.replace(store, obs={**store.obs, "object": cube}, checked=True)


def only(*episodes: int) -> Data:
    """These demonstrations alone."""
    return lambda store: dataclasses.replace(store, splits={"train": np.array(episodes)}, checked=True)


def absolute(store: EpisodeStore) -> EpisodeStore:
    """Actions as poses to move to."""
    return converted(store, get_task("lift"), "absolute")[0]


def scripted(store: EpisodeStore) -> EpisodeStore:
    """What the scripted expert does from the same starts."""
    assert store.states_NS is not None
    task, rows, ends = get_task("lift"), [], []
    with contextlib.closing(task.make(None)) as env:
        assert isinstance(env, RobosuiteEnv)
        for episode, start in enumerate(store.episode_starts):
            obs, success = env.start_at(store.states_NS[start]), False
            expert = LiftExpert(np.random.default_rng([episode, 2]))
            while not success:
                action, state = expert.act(obs), env.sim_state()
                after, reward, _, _, info = env.step(action)
                rows.append((obs, action, reward, state))
                obs, success = after, info["success"]
            ends.append(len(rows))
    return dataclasses.replace(
        store,
        obs={key: np.stack([row[0][key] for row in rows]) for key in task.obs_keys},
        actions_NA=np.array([row[1] for row in rows], np.float32),
        rewards_N=np.array([row[2] for row in rows], np.float32),
        states_NS=np.array([row[3] for row in rows]), terminals_N=None, episode_ends=np.array(ends),
    )  # fmt: skip


def after(*steps: Data) -> Data:
    """One after another."""

    def all_steps(store: EpisodeStore) -> EpisodeStore:
        for step in steps:
            store = step(store)
        return store

    return all_steps


_ABSOLUTE = {
    "env_name": "lift-human-low_dim_abs", "action_rotation": "rotation_6d", "normalization_keys": "actions=min_max",
}  # fmt: skip

#: Name -> what is done to the demonstrations, and options.
VARIANTS: dict[str, tuple[Data, dict[str, Any]]] = {
    "as recorded": (lambda store: store, {}),
    "clipped": (clipped, {}),
    "no idle": (without_idle, {}),
    "no idle, clipped": (after(without_idle, clipped), {}),
    "idle trimmed, clipped": (after(trimmed, clipped), {}),
    "idle trimmed, clipped, turn hidden": (after(trimmed, clipped, without_turn), {}),
    "idle trimmed, first five": (after(trimmed, only(0, 1, 2, 3, 4)), {}),
    "idle trimmed, clipped, last three": (after(trimmed, clipped, only(5, 6, 7)), {}),
    "absolute": (absolute, _ABSOLUTE),
    "scripted, same starts": (scripted, {}),
}


class Lift:
    """A simulator that can begin where a recording did, and says how its episodes went."""

    def __init__(self, task: str, hides_turn: bool = False) -> None:
        env = get_task(task).make(None)
        assert isinstance(env, RobosuiteEnv)
        self.env, self._reset, self._step, self._hides = env, env.reset, env.step, hides_turn
        self._start: np.ndarray | None = None
        self._cubes: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        env.reset, env.step = self._begin, self._act  # type: ignore[method-assign]

    def _see(self, obs: Obs) -> Obs:
        self._cubes.append(obs["object"].copy())
        if self._hides:
            obs["object"][TURN] = 0
        return obs

    def _begin(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        self._cubes, self._actions = [], []
        obs, info = self._reset(seed=seed, options=options)
        if self._start is not None:
            with self._as_made():
                obs = self.env.start_at(self._start)
        return self._see(obs), info

    @contextlib.contextmanager
    def _as_made(self) -> Iterator[None]:
        """`start_at` resets."""
        self.env.reset = self._reset  # type: ignore[method-assign]
        yield
        self.env.reset = self._begin  # type: ignore[method-assign]

    def _act(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        obs, *rest = self._step(action)
        self._actions.append(action)
        return (self._see(obs), *rest)

    def play(self, agent: Agent, index: int, limit: int, start: np.ndarray | None = None) -> dict[str, Any]:
        """One episode: final start `index`, or `start`, a recorded state."""
        self._start = start
        spec, setting = EpisodeSpec("lift", "final", index), agent.bundle.config.sample_setting
        result = run_episode(self.env, agent, spec, setting, limit)
        return {"success": result.outcome == "success", "steps": result.steps} | self._course()

    def replay(self, start: np.ndarray, actions_NA: np.ndarray) -> bool:
        """Whether these actions lift the cube."""
        self._start = start
        self._begin(seed=0)
        clipped_NA = np.clip(actions_NA, -1, 1)
        return any(self._act(action)[4]["success"] for action in clipped_NA)

    def _course(self) -> dict[str, Any]:
        cubes, actions = np.array(self._cubes), np.array(self._actions)
        apart = np.linalg.norm(cubes[:, REACH], axis=1)
        closed = np.flatnonzero(actions[:, -1] > 0)
        return {
            "cube": [round(float(x), 4) for x in cubes[0, :2]],
            "nearest": round(float(apart.min()), 4),
            "rise": round(float(cubes[:, 2].max() - cubes[0, 2]), 4),
            "closed_at": round(float(apart[closed[0]]), 4) if len(closed) else None,
        }


def stage(row: dict[str, Any]) -> str:
    """How far an episode came."""
    if row["success"]:
        return "lifted"
    if row["nearest"] > NEAR:
        return "not reached"
    if row["closed_at"] is None:
        return "never closed"
    return "not held" if row["rise"] < HELD else "lost"


def measure(policy: str, variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one policy on one variant of the data."""
    data, changed = VARIANTS[variant]
    began = time.perf_counter()
    fixed = {"env_name": "lift-human-low_dim", "training_steps": args.steps, "seed": args.seed}
    config = RunConfig.of(dataset=str(args.data), **(options(policy, "lift") | RECIPE | fixed | changed))
    config.validate()
    recorded = read_for(args.data, "lift", states=True)
    assert recorded.states_NS is not None
    store = data(recorded)
    task = get_task(parse_env_name(config.env_name).task)
    lift = Lift(task.name.partition("@")[0], "turn hidden" in variant)
    training = TrainingData(store, store.fingerprint(), task.obs_keys, lift.env.identity())
    trainer = PackTrainer([resolved(config, store)], training, torch.device("cpu"))
    trainer.advance(args.steps)
    agent, trained = Agent(trainer.bundle(0)), time.perf_counter()
    final = [lift.play(agent, i, args.limit) for i in range(args.episodes)]
    first = recorded.obs["object"][recorded.episode_starts, :2]
    for episode in final:  # whether the cube lies within the box of the recorded starts
        cube = np.array(episode["cube"])
        episode["covered"] = bool(((first.min(0) <= cube) & (cube <= first.max(0))).all())
    own = [
        {"demonstration": e} | lift.play(agent, i, args.limit, recorded.states_NS[start])
        for e, start in enumerate(recorded.episode_starts)
        for i in range(args.own_starts)
    ]
    lift.env.close()
    return {
        "policy": policy, "variant": variant, "steps": args.steps, "seed": args.seed, "limit": args.limit,
        "windows": trainer.prepared.rotation.total, "train_seconds": round(trained - began),
        "rollout_seconds": round(time.perf_counter() - trained), "final": final, "own": own,
    }  # fmt: skip


def replay(path: Path) -> None:
    """Print how many demonstrations succeed again with the first 0, 1, ... steps of each pause."""
    recorded = read_for(path, "lift", states=True)
    assert recorded.states_NS is not None
    starts, lift = recorded.states_NS[recorded.episode_starts], Lift("lift")
    print("| idle steps kept | steps | demonstrations that succeed |\n|---|---|---|")
    for keep in (0, 1, 2, 4, 8, 16, len(recorded.actions_NA)):
        store = without_idle(recorded, keep)
        bounds = zip(store.episode_starts, store.episode_ends, strict=True)
        again = [lift.replay(at, store.actions_NA[a:b]) for at, (a, b) in zip(starts, bounds, strict=True)]
        kept = keep if keep < len(recorded.actions_NA) else "all"
        won = ", ".join(str(e) for e, success in enumerate(again) if success)
        print(f"| {kept} | {len(store.actions_NA)} | {sum(again)} of {len(again)}: {won} |", flush=True)


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table; differences are from the first row, in pairs of the same start."""
    stages = ("not reached", "never closed", "not held", "lost")
    limits = sorted({limit for row in rows for limit in (150, row["limit"]) if limit <= row["limit"]})
    head = ["policy", "demonstrations", "windows", "steps", *(f"within {limit}" for limit in limits), "minus the first"]
    head += ["cube within recorded starts", "elsewhere", "own starts", "closed far off", *stages]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")

    def wins(row: dict[str, Any], limit: int) -> np.ndarray:
        return np.array([e["success"] and e["steps"] <= limit for e in row["final"]], float)

    for row in rows:
        cells = [row["policy"], row["variant"], str(row["windows"]), str(row["steps"])]
        for limit in limits:
            won = wins(row, limit)
            low, high = wilson_interval(int(won.sum()), len(won))
            cells.append(f"{won.sum():.0f} of {len(won)} ({100 * low:.0f}-{100 * high:.0f} %)")
        shared = min(len(row["final"]), len(rows[0]["final"]))
        apart = wins(row, limits[-1])[:shared] - wins(rows[0], limits[-1])[:shared]
        compared = row is not rows[0] and shared > 1
        pair = mean_interval(apart.mean(), apart.std(ddof=1), shared) if compared else None
        cells.append(f"{100 * apart.mean():+.0f} ({100 * pair[0]:+.0f} to {100 * pair[1]:+.0f})" if pair else "")
        covered = [e for e in row["final"] if e["covered"]]
        for some in (covered, [e for e in row["final"] if not e["covered"]], row["own"]):
            cells.append(f"{sum(e['success'] for e in some)} of {len(some)}" if some else "")
        cells.append(str(sum((e["closed_at"] or 0) > FAR for e in row["final"])))
        found = [stage(e) for e in row["final"]]
        print(f"| {' | '.join(cells + [str(found.count(name)) for name in stages])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, help="results (JSON lines)")
    parser.add_argument("--policies", nargs="+", default=["MLP, flow"], choices=POLICIES)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--steps", type=int, default=6000, help="gradient steps of 128")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=40, help="final starts")
    parser.add_argument("--own_starts", type=int, default=0, help="episodes from the start of each demonstration")
    parser.add_argument("--limit", type=int, default=400, help="steps of an episode")
    parser.add_argument("--replay", action="store_true", help="only replay the demonstrations")
    parser.add_argument("--show", action="store_true", help="only print what is in OUT")
    args = parser.parse_args()
    if args.replay:
        return replay(args.data)
    torch.set_num_threads(1)
    done = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.is_file() else []
    wanted = [] if args.show else [(p, v) for p in args.policies for v in args.variants]
    for policy, variant in wanted:
        same = {"policy": policy, "variant": variant, "seed": args.seed, "steps": args.steps, "limit": args.limit}
        if any(same.items() <= row.items() for row in done):
            continue
        done.append(measure(policy, variant, args))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        show(done[-1:])
    show(done)
    return None


if __name__ == "__main__":
    main()
