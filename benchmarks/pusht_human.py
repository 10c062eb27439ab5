"""PushT from human demonstrations, beside the published numbers: `python benchmarks/pusht_human.py DATA`.

DATA is any file of PushT that `raybc.data` reads and that tells the block's pose: Diffusion Policy's zarr, or an npz
with state (N, 5) = agent x, y, block x, y, angle, action (N, 2), episode_ends. A state policy is trained on all
episodes for each seed (`--set holdout_seed=0` holds out a fifth), and each is measured on the same final starts. The
score is that of the literature: the largest reward of an episode (coverage / 0.95), averaged over starts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

RECIPE = {
    "env_name": "pusht-human-low_dim", "action_chunking": True, "horizon_length": 16, "execute_steps": 8,
    "obs_steps": 2, "hidden_width": 512, "hidden_depth": 4, "use_fourier_features": True, "batch_size": 256,
    "lr": 1e-3, "lr_schedule": "cosine", "weight_decay": 1e-4, "normalization": "min_max",
    "flow_steps": 10, "eval_temperature": 1.0,
}  # fmt: skip


def run(*words: object) -> None:
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--training_steps", type=int, default=40_000)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/pusht_human"))
    parser.add_argument("--set", nargs="*", default=[], metavar="FLAG=VALUE", help="flags of raybc.train to change")
    args = parser.parse_args()
    flags = RECIPE | {"training_steps": args.training_steps, "eval_interval": args.training_steps}
    flags |= dict(item.split("=", 1) for item in args.set)
    rows = []
    for seed in range(args.seeds):
        folder = args.out / f"seed_{seed}"
        words = [f"--{k}={v}" for k, v in flags.items()]
        run("raybc.train", *words, f"--seed={seed}", f"--dataset={args.data}", f"--out={folder}", "--resume=auto",
            "--save_interval=-1", "--eval_episodes=20")  # fmt: skip
        run("raybc.rollout", folder, f"--episodes={args.episodes}", f"--out={folder / 'final'}", "--overwrite")
        rows.append(json.loads((folder / "final/metrics.json").read_text())["settings"][0])
    print("\n| seed | score (largest reward) | success | 95 % interval |\n|---|---|---|---|")
    for seed, row in enumerate(rows):
        print(f"| {seed} | {row['mean_max_reward']:.3f} | {100 * row['success_rate']:.1f} % | "
              f"{100 * row['wilson_low']:.1f}-{100 * row['wilson_high']:.1f} % |")  # fmt: skip
    scores = [row["mean_max_reward"] for row in rows]
    print(f"\nscore over {len(scores)} seeds: mean {np.mean(scores):.3f}, range {min(scores):.3f}-{max(scores):.3f}")


if __name__ == "__main__":
    main()
