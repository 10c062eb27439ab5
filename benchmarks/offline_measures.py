"""Which measure on held-out episodes orders recipes as success does: `python -m benchmarks.offline_measures OUT`.

    python -m benchmarks.offline_measures OUT --task lift --dataset LIFT.hdf5
    python -m benchmarks.offline_measures OUT --task pusht --dataset PUSHT.npz
    python -m benchmarks.offline_measures OUT --part measure
    python -m benchmarks.offline_measures OUT --part show

*train*: recipes are drawn at random from a space (`recipes`), trained over the same seeds without pruning, and
measured on the same final starts in this process. A fifth of the episodes is held out from all of them. *measure*:
every measure of `raybc.inference.offline_measures` from the checkpoints, on the held-out episodes. *show*: tables of
rank correlations (`benchmarks/rank_measures.py`). What is done is kept in OUT, so a second call continues where the
first one ended.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rank_measures import show
from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.data.load import read_for
from raybc.inference.agent import Agent
from raybc.registry import get_task
from raybc.rollout.engine import Engine, Rollout
from raybc.run_folder import BUNDLE_FILE
from raybc.train.data import TrainingData, held_out_episodes
from raybc.train.loop import PackTrainer, with_seeds
from raybc.types import EpisodeSpec

SEEDS = (0, 1)
#: Short name -> the task of the episodes, env_name, the score of an episode, and values of axes that depend on the
#: task. A step limit of 100 is twice what a solved episode of Lift takes.
TASKS: dict[str, dict[str, Any]] = {
    "lift": {
        "task": "lift@100", "env_name": "lift-scripted-low_dim", "score": "success",
        "training_steps": (60, 120, 250, 500), "dataset_proportion": (0.05, 0.1, 0.25, 0.5, 1.0),
        "horizon_length": (4, 8, 16),
    },
    "pusht": {
        "task": "pusht", "env_name": "pusht-human-low_dim", "score": "max_reward",
        "training_steps": (150, 300, 600, 1200), "dataset_proportion": (0.1, 0.25, 0.5, 1.0),
        "horizon_length": (8, 16),
    },
    "pointmass": {
        "task": "pointmass", "env_name": "pointmass-scripted-low_dim", "score": "success",
        "training_steps": (50, 150, 400, 1000), "dataset_proportion": (0.02, 0.05, 0.2, 1.0),
        "horizon_length": (4, 8, 16),
    },
}  # fmt: skip
#: Policies, all of them MLPs since these train in seconds, and how often each is drawn.
POLICIES: tuple[tuple[float, dict[str, Any]], ...] = (
    (0.35, {"policy": "flow", "use_fourier_features": True}),
    (0.15, {"policy": "flow", "objective": "mip"}),
    (0.2, {"policy": "flow", "objective": "diffusion", "use_fourier_features": True}),
    (0.15, {"policy": "regression"}),
    (0.15, {"policy": "regression", "regression_loss": "l1"}),
)
#: Objectives that sample: only with these do steps of the solver and a temperature mean anything.
SAMPLED = ("flow", "diffusion")


def recipes(task: str, count: int) -> list[dict[str, Any]]:
    """The first `count` recipes of a task, drawn at random; a larger count begins with the same ones."""
    rng, found, axes = np.random.default_rng(0), [], TASKS[task]
    for _ in range(count):
        policy = POLICIES[int(rng.choice(len(POLICIES), p=[share for share, _ in POLICIES]))][1]
        drawn: dict[str, Any] = {
            "lr": float(10 ** rng.uniform(-4, -2)),
            "training_steps": int(rng.choice(axes["training_steps"])),
            "dataset_proportion": float(rng.choice(axes["dataset_proportion"])),
            "horizon_length": int(rng.choice(axes["horizon_length"])),
            "obs_steps": int(rng.choice([1, 2])),
            "normalization": str(rng.choice(["mean_std", "min_max"])),
            "hidden_width": int(rng.choice([32, 128, 256])),
            "hidden_depth": int(rng.choice([2, 3])),
        }
        flow_steps, temperature = int(rng.choice([1, 4, 10])), float(rng.choice([0.0, 1.0]))
        if policy["policy"] == "flow" and policy.get("objective", "flow") in SAMPLED:
            drawn |= {"flow_steps": flow_steps, "eval_temperature": temperature}
        found.append(policy | drawn)
    return found


def config_of(task: str, recipe: dict[str, Any]) -> RunConfig:
    fixed = {
        "env_name": TASKS[task]["env_name"], "action_chunking": True, "batch_size": 128, "lr_schedule": "cosine",
        "holdout_seed": 0, "dataset_proportion_seed": 0, "device": "cpu",
        "execute_steps": min(8, recipe["horizon_length"]),
    }  # fmt: skip
    if recipe["dataset_proportion"] == 1:
        del fixed["dataset_proportion_seed"]
    return RunConfig.of(**fixed, **recipe)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def data_of(args: argparse.Namespace) -> TrainingData:
    task = get_task(TASKS[args.task]["task"].partition("@")[0])
    store = read_for(args.dataset, task.name)
    return TrainingData(store, store.fingerprint(), task.obs_keys, {})


def train(args: argparse.Namespace) -> None:
    """Train recipes and measure their success, one row of trained.jsonl for each recipe and seed."""
    data, folder = data_of(args), args.out / args.task
    folder.mkdir(parents=True, exist_ok=True)
    kept, played = folder / "trained.jsonl", folder / "episodes.jsonl"
    load = functools.lru_cache(maxsize=2)(lambda path: Agent(PolicyBundle.load(Path(path))))
    engine = Engine(load)
    specs = [EpisodeSpec(TASKS[args.task]["task"], "final", i) for i in range(args.episodes)]
    for number, recipe in enumerate(recipes(args.task, args.recipes)):
        config = config_of(args.task, recipe)
        if not any(row["recipe"] == number for row in read(kept)):
            began = time.process_time()
            trainer = PackTrainer(with_seeds(config, SEEDS), data, torch.device("cpu"))
            trainer.advance(config.training_steps)
            losses = trainer.validate()
            for member, seed in enumerate(SEEDS):
                trainer.bundle(member).save(folder / f"{number}/{seed}")
            append(kept, {"recipe": number, "options": recipe, "loss": losses, "seconds": time.process_time() - began})
        for seed in SEEDS:
            done = {row["index"] for row in read(played) if (row["recipe"], row["seed"]) == (number, seed)}
            began = time.process_time()
            missing = [spec for spec in specs if spec.index not in done]
            for place, spec in enumerate(missing):
                engine.add(place, Rollout(str(folder / f"{number}/{seed}"), config.sample_setting), spec)
            ended = []
            while not engine.idle:
                ended += list(engine.round())
            for place, row in sorted(ended, key=lambda item: item[0]):
                if not isinstance(row, dict):
                    raise RuntimeError(f"recipe {number}, start {missing[place].index}: {row}")
                values = {"success": float(row["outcome"] == "success"), "max_reward": row["max_reward"]}
                append(played, {"recipe": number, "seed": seed, "index": row["index"], **values})
            scores = [row["success"] for row in read(played) if (row["recipe"], row["seed"]) == (number, seed)]
            took = time.process_time() - began
            print(f"{args.task} {number} seed {seed}: {np.mean(scores):.2f} in {took:.0f} s: {recipe}", flush=True)


def measure(args: argparse.Namespace) -> None:
    """All measures of all checkpoints on the held-out episodes, in measures.jsonl."""
    from raybc.inference.offline_measures import measure_all

    data, folder = data_of(args), args.out / args.task
    kept = folder / "measures.jsonl"
    for row in read(folder / "trained.jsonl"):
        for seed in SEEDS:
            done = any((r["recipe"], r["seed"]) == (row["recipe"], seed) for r in read(kept))
            place = folder / f"{row['recipe']}/{seed}"
            if done or not (place / BUNDLE_FILE).is_file():
                continue
            bundle = PolicyBundle.load(place)
            episodes = held_out_episodes(bundle.config, data.store)
            found = measure_all(Agent(bundle), data.store, episodes, bundle.config.sample_setting, args.windows)
            values = {name: value_E.tolist() for name, value_E in found.items()}
            append(kept, {"recipe": row["recipe"], "seed": seed, "loss": row["loss"][SEEDS.index(seed)], **values})
            print(f"{args.task} {row['recipe']} seed {seed}: {values['error'][:2]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", choices=("train", "measure", "show"), default="train")
    parser.add_argument("--task", choices=TASKS, default="lift")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--recipes", type=int, default=28)
    parser.add_argument("--episodes", type=int, default=20, help="final starts of each seed")
    parser.add_argument("--windows", type=int, default=256, help="held-out windows of a measurement")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.part == "show":
        show(args.out, {name: task["score"] for name, task in TASKS.items()})
    else:
        {"train": train, "measure": measure}[args.part](args)


if __name__ == "__main__":
    main()
