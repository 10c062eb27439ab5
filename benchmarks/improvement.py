"""From a cloned policy to one that improves: best-of-N with an offline critic, then learning online.

    python -m benchmarks.improvement runs/improvement --tasks lift cube --device cuda --workers 14
    python -m benchmarks.improvement runs/improvement --tasks lift cube --show

Lift: 10 demonstrations each of the scripted expert, of one with white noise on every action, and of one that pauses
and makes detours (`benchmarks/quality.py`). Cube: OGBench's cube-single-singletask-task1-v0, 15 demonstrations of the
scripted expert, and 30 of one whose noise is four times as large, failures kept.

A flow policy and a critic are trained on them offline, four seeds as one pack, and continue in simulators; 256-wide
networks, 16 candidates, 5 flow steps, one update for each step of the environment. The policy after the offline part
is the cloned one (N = 1), to the bit. Every seed is measured on the same 50 final starts. Differences from the cloned
policy are paired by start, means over seeds (Student's t over starts).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

from benchmarks.quality import demonstrations
from raybc.compare.pairs import mean_test, two_sided
from raybc.files import replacing
from raybc.statistics import wilson_interval

CUBE = "cube-single-singletask-task1-v0"
#: The name of a task here -> options of its training.
TASKS = {
    "lift": ["--env_name", "lift-scripted-low_dim", "--sparse"],
    "cube": ["--env_name", CUBE],  # its rewards are -1 a step, and 0 at success
}
RECIPE = [
    "--critic=q_chunking", "--horizon_length=5", "--action_chunking", "--policy=flow", "--lr=3e-4",
    "--hidden_width=256", "--hidden_depth=4", "--critic_width=256", "--batch_size=256", "--critic_candidates=16",
    "--flow_steps=5", "--eval_temperature=1", "--eval_episodes=10",
]  # fmt: skip
#: N of the cloned policy, and of the one that has learned online.
OFFLINE, ONLINE = (1, 4, 16), (1, 16)


def raybc(*words: object) -> None:
    """Run a command of raybc."""
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "raybc", *map(str, words)], check=True, env=environ)


def data(out: Path, name: str) -> Path:
    """The demonstrations of a task."""
    if name == "lift":
        return demonstrations(out, "lift", 10)
    path, parts = out / "cube.hdf5", []
    if path.is_file():
        return path
    for part, flags in {"expert": ["--episodes=15"], "noisy": ["--episodes=30", "--noise=4", "--seed=500"]}.items():
        parts.append(out / f"cube_{part}.hdf5")
        if not parts[-1].is_file():
            raybc("demos", CUBE, *flags, "--keep-failures", "--out", parts[-1])
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        group, number, total = file.create_group("data"), 0, 0
        for part_path in parts:
            with h5py.File(part_path) as part:
                group.attrs.update({**part["data"].attrs, **group.attrs})
                for episode in sorted(part["data"], key=lambda key: int(key.removeprefix("demo_"))):
                    part.copy(f"data/{episode}", group, name=f"demo_{number}")
                    number, total = number + 1, total + len(part[f"data/{episode}/actions"])
        group.attrs["total"] = total
    return path


def checkpoints(run: Path) -> list[int]:
    """Steps of the checkpoints of a run."""
    return sorted(int(path.name.removeprefix("checkpoint_")) for path in run.glob("checkpoint_*"))


def measure(out: Path, name: str, args: argparse.Namespace) -> None:
    """Train what is not trained yet, and measure what is not measured yet."""
    pack = out / name
    flags = ["--seeds", *range(args.seeds), "--device", args.device, "--workers", args.workers]
    flags += ["--offline_steps", args.offline, "--online_steps", args.online, "--eval_interval", args.offline]
    raybc("train", *TASKS[name], *RECIPE, *flags, "--dataset", data(out, name), "--keep", 20, "--resume", "auto",
          "--out", pack)  # fmt: skip
    for seed in range(args.seeds):
        (run,) = pack.glob(f"sd{seed:03}_*")
        for stage, step, best_of in (("offline", args.offline, OFFLINE), ("online", checkpoints(run)[-1], ONLINE)):
            raybc("rollout", run / f"checkpoint_{step}", "--eval_temperature", 1, "--best_of_n",
                  ",".join(map(str, best_of)), "--episodes", args.episodes, "--workers", args.workers,
                  "--resume", "auto", "--out", out / "eval" / f"{name}_{stage}_{seed}")  # fmt: skip


def successes(out: Path, name: str, stage: str, best_of: int) -> np.ndarray:
    """(seeds, starts), 1 for each success, and the mean steps of an episode."""
    rows = []
    for folder in sorted((out / "eval").glob(f"{name}_{stage}_*")):
        episodes = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
        own = sorted((e for e in episodes if e.get("best_of_n", 1) == best_of), key=lambda e: e["index"])
        rows.append([[e["outcome"] == "success", e["steps"]] for e in own])
    return np.array(rows, float)


def show(out: Path, name: str) -> None:
    """Print the table of a task."""
    print(
        f"\n### {name}\n\n| | success (95 % Wilson) | each seed | minus cloned | p | steps |\n|---|---|---|---|---|---|"
    )
    base = successes(out, name, "offline", 1)[..., 0].mean(axis=0)
    for stage, choices in (("offline", OFFLINE), ("online", ONLINE)):
        for best_of in choices:
            found = successes(out, name, stage, best_of)
            wins, steps = found[..., 0], found[..., 1].mean()
            low, high = wilson_interval(int(wins.sum()), wins.size)
            gap = p = ""
            if (stage, best_of) != ("offline", 1):
                ours = wins.mean(axis=0)
                p_values, interval = mean_test(ours, base, paired=True)
                gap = f"{100 * (ours - base).mean():+.1f}"
                gap += f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})" if interval else ""
                p = f"{two_sided(p_values):.2g}"
            title = "cloned (N = 1)" if (stage, best_of) == ("offline", 1) else f"{stage}, best of {best_of}"
            rate = f"{100 * wins.mean():.1f} % ({100 * low:.0f}-{100 * high:.0f})"
            seeds = ", ".join(f"{100 * s:.0f}" for s in wins.mean(axis=1))
            print(f"| {title} | {rate} | {seeds} | {gap} | {p} | {steps:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    parser.add_argument("--offline", type=int, default=10_000, help="gradient steps on the demonstrations")
    parser.add_argument("--online", type=int, default=40_000, help="steps of the environment, of each seed")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=50, help="final starts of each seed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=0, help="simulator processes (0: one for each free core)")
    parser.add_argument("--show", action="store_true", help="print what is there, and measure nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.tasks:
        if not args.show:
            measure(args.out, name, args)
        show(args.out, name)


if __name__ == "__main__":
    main()
