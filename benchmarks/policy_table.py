"""Policies beside each other on several tasks, on the same starts: `python -m benchmarks.policy_table OUT`.

    python -m benchmarks.policy_table runs/table --tasks lift can square cube metaworld-push --steps 6000
    python -m benchmarks.policy_table runs/images --tasks lift-image --steps 2000 --batch_size 32 --policies \
        "images: crop, GroupNorm and EMA, keypoints" "images: no crop" "images: BatchNorm, no EMA" "images: average"
    python -m benchmarks.policy_table runs/pusht --tasks pusht --dataset pusht.npz --budget core --core_seconds 900

Each policy is trained with the same seeds, on the same demonstrations (a scripted expert's, or --dataset), with equal
examples (`--budget examples`: --steps gradient steps of --batch_size) or equal time on one core (`--budget core`: as
many steps as fit into --core_seconds; a step is timed on made-up data of Lift's size, in CPU time). Every seed is then
measured on the same final starts. The table has the core-minutes of training per seed, the success rate over all seeds
with its Wilson interval, the mean score where the task has one (PushT: the largest reward), and the difference from the
first policy in pairs of the same seed and start (95 % t interval over starts).

What is done is kept in OUT, so a second call continues where the first one ended.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.statistics import mean_interval, wilson_interval
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer, with_seeds

_MLP = {"policy": "flow", "use_fourier_features": True, "lr": 1e-3}
_UNET = {"policy": "flow_unet", "unet_channels": "32,64,128", "unet_time_size": 128, "lr": 5e-4}
_DIT = {"policy": "flow_transformer", "transformer_size": "tiny", "transformer_layers": 2, "lr": 5e-4}
#: Name -> options that differ from COMMON.
POLICIES: dict[str, dict[str, Any]] = {
    "MLP, flow": _MLP,
    "MLP, flow, 6 x the steps": _MLP,
    "MLP, MIP": _MLP | {"objective": "mip"},
    "MLP, regression": {"policy": "regression", "lr": 1e-3},
    "U-Net, flow": _UNET,
    "U-Net, MIP": _UNET | {"objective": "mip"},
    "U-Net, regression": _UNET | {"objective": "regression"},
    "U-Net, diffusion": _UNET | {"objective": "diffusion"},
    "transformer, flow": _DIT,
    "transformer, MIP": _DIT | {"objective": "mip"},
}
_IMAGES = _UNET | {"encoder": "resnet18", "image_crop": "58,58", "obs_steps": 1}
POLICIES |= {
    "images: crop, GroupNorm and EMA, keypoints": _IMAGES,
    "images: no crop": {k: v for k, v in _IMAGES.items() if k != "image_crop"},
    "images: BatchNorm, no EMA": _IMAGES | {"image_norm": "batch", "ema_decay": 0, "ema_power": 0},
    "images: average": _IMAGES | {"image_pool": "average"},
}
#: Name -> multiple of the steps with equal examples. With 6 x the steps the MLP takes about as long as the U-Net.
TIMES = {"MLP, flow, 6 x the steps": 6}
COMMON = {
    "action_chunking": True, "horizon_length": 16, "execute_steps": 8, "obs_steps": 2,
    "lr_schedule": "cosine", "ema_decay": 0.9999, "ema_power": 0.75, "normalization": "min_max", "flow_steps": 10,
    "eval_temperature": 1.0,
}  # fmt: skip
#: Short name -> env_name and options of the data.
TASKS: dict[str, dict[str, Any]] = {
    "pusht": {"env_name": "pusht-human-low_dim", "dataset_proportion": 0.437},
    "lift": {"env_name": "lift-scripted-low_dim"},
    "lift-image": {"env_name": "lift-scripted-image@64x64,cameras=agentview"},
    "can": {"env_name": "can-scripted-low_dim"},
    "square": {"env_name": "square-scripted-low_dim"},
    "cube": {"env_name": "cube-single-v0"},
    "metaworld-push": {"env_name": "metaworld-push-v3"},
    "metaworld-drawer": {"env_name": "metaworld-drawer-open-v3"},
    "metaworld-assembly": {"env_name": "metaworld-assembly-v3"},
}


def options(policy: str, task: str) -> dict[str, Any]:
    found = COMMON | POLICIES[policy] | {k: v for k, v in TASKS[task].items() if k != "env_name"}
    inert = ("flow_steps", "eval_temperature")
    if found.get("objective") in ("mip", "regression") or found["policy"] == "regression":
        found = {k: v for k, v in found.items() if k not in inert}
    return found


def step_seconds(policy: str, members: int, batch: int, obs: int = 20, actions: int = 4) -> float:
    """Core-seconds of one gradient step of a pack, on made-up data."""
    n, rng = 2000, np.random.default_rng(0)
    state, moves = rng.normal(size=(n, obs)).astype(np.float32), rng.uniform(-1, 1, (n, actions)).astype(np.float32)
    ends = np.arange(100, n + 1, 100)
    seen = {"state": state}
    if "encoder" in POLICIES[policy]:
        seen["image"] = rng.integers(0, 256, (n, 64, 64, 3), np.uint8)
    store = EpisodeStore(seen, moves, np.zeros(n, np.float32), ends, source=Path("random"))
    run = RunConfig.of(**{**options(policy, "lift"), "batch_size": batch, "training_steps": 1000, "device": "cpu"})
    torch.set_num_threads(1)
    data = TrainingData(store, "0" * 64, tuple(seen), {})
    trainer = PackTrainer(with_seeds(run, range(members)), data, torch.device("cpu"))
    trainer.advance(2)
    took = []
    for until in range(4, 14, 2):
        started = time.process_time()
        trainer.advance(until)
        took.append((time.process_time() - started) / 2)
    return statistics.median(took)


def raybc(*words: object) -> None:
    subprocess.run(
        [sys.executable, "-m", *map(str, words)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def train_and_measure(out: Path, task: str, policy: str, steps: int, args: argparse.Namespace) -> dict[str, Any]:
    place = out / task / f"{re.sub(r'[^A-Za-z0-9]+', '_', policy)}_{steps}"
    flags = [f"--{k}={v}" for k, v in options(policy, task).items()]
    flags += [f"--dataset={args.dataset}"] if args.dataset else [f"--demos={args.demos}"]
    seeds = [str(s) for s in range(args.seeds)]
    raybc("raybc.train", f"--env_name={TASKS[task]['env_name']}", *flags, f"--training_steps={steps}",
          f"--batch_size={args.batch_size}", "--eval_interval=0", "--save_interval=-1", "--threads=1", "--device=cpu",
          f"--out={place}", "--resume=auto", "--seeds", *seeds)  # fmt: skip
    runs = sorted(place.glob("sd*")) or [place]
    episodes = []
    for run in runs:
        final = run / "final"
        if not (final / "metrics.json").is_file():
            raybc("raybc.rollout", run, f"--episodes={args.episodes}", f"--out={final}", "--resume=auto", "--workers=1")
        lines = (final / "episodes.jsonl").read_text().splitlines()
        episodes.append(sorted((json.loads(line) for line in lines), key=lambda row: row["index"]))
    return {
        "task": task, "policy": policy, "steps": steps,
        "success": [[row["outcome"] == "success" for row in seed] for seed in episodes],
        "score": [[row["max_reward"] for row in seed] for seed in episodes],
    }  # fmt: skip


def show(task: str, rows: list[Mapping[str, Any]], scored: bool) -> None:
    key = "score" if scored else "success"
    head = [
        "policy",
        "steps",
        "core-minutes per seed",
        "success (95 % Wilson)",
        "each seed",
        *["score"] * scored,
        "minus the first",
    ]
    print(f"\n### {task}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    first = np.array(rows[0][key], float)
    for row in rows:
        wins = np.array(row["success"], float)
        low, high = wilson_interval(int(wins.sum()), wins.size)
        seeds = ", ".join(f"{100 * s:.0f}" for s in wins.mean(1))
        apart = (np.array(row[key], float) - first).mean(0)  # per start, over seeds
        pair = mean_interval(apart.mean(), apart.std(ddof=1), len(apart))
        unit = 1 if scored else 100
        gap = "" if row is rows[0] else f"{unit * apart.mean():+.3g}"
        gap += f" ({unit * pair[0]:+.3g} to {unit * pair[1]:+.3g})" if pair and row is not rows[0] else ""
        score = f"{np.mean(row['score']):.3f} | " if scored else ""
        rate = f"{100 * wins.mean():.1f} % ({100 * low:.0f}-{100 * high:.0f})"
        print(
            f"| {row['policy']} | {row['steps']} | {row['core_seconds'] / 60:.1f} | {rate} | {seeds} | {score}{gap} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["lift"], choices=TASKS)
    of_states = [name for name in POLICIES if not name.startswith("images")]
    parser.add_argument("--policies", nargs="+", default=of_states, choices=POLICIES)
    parser.add_argument("--budget", choices=("examples", "core"), default="examples")
    parser.add_argument("--steps", type=int, default=6000, help="gradient steps with --budget examples")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--core_seconds", type=float, default=900, help="of training one pack with --budget core")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--demos", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--dataset", default="")
    parser.add_argument("--show", action="store_true", help="print what is there, and measure nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / f"results_{args.budget}.jsonl"
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    seconds: dict[str, float] = {}
    for task in args.tasks:
        for policy in args.policies:
            if args.show or any((row["task"], row["policy"]) == (task, policy) for row in done):
                continue
            if policy not in seconds:
                seconds[policy] = step_seconds(policy, args.seeds, args.batch_size)
            examples = args.budget == "examples"
            steps = args.steps * TIMES.get(policy, 1) if examples else int(args.core_seconds / seconds[policy])
            row = train_and_measure(args.out, task, policy, steps, args)
            row["core_seconds"] = seconds[policy] * steps / args.seeds
            done.append(row)
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")
            rate = np.mean(row["success"])
            print(f"{task}: {policy}: {100 * rate:.1f} % after {row['steps']} steps", flush=True)
        rows = [row for row in done if row["task"] == task and row["policy"] in args.policies]
        if rows:
            show(task, sorted(rows, key=lambda row: args.policies.index(row["policy"])), scored=task == "pusht")


if __name__ == "__main__":
    main()
