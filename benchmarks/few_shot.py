"""Ten demonstrations and a short budget, with and without sampling plans: `python -m benchmarks.few_shot`.

One sweep whose only axis is the plan: the same ten demonstrations of robosuite Lift's expert, the same seeds, the same
final starts (each seed's on the same, never used to choose). Makes what it needs: demonstrations, plans, sweep.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import yaml

from raybc.statistics import wilson_interval

STATE = "robot0_eef_pos,robot0_gripper_qpos"
GRIPPER = ["--gripper-event-enabled", "--gripper-dims", "3,4", "--state-keys", STATE]
HORIZON = 8
#: Name -> flags of `raybc.plan build`. tail: windows may begin in the last H - 1 steps too, as without a plan.
PLANS = {
    "stages": [],
    "stages, tail": [f"--valid-start-tail-keep={HORIZON - 1}"],
    "stages, events, tail": [f"--valid-start-tail-keep={HORIZON - 1}", *GRIPPER],
    "change points, tail": [
        f"--valid-start-tail-keep={HORIZON - 1}", "--stage-strategy=change_point_state", "--state-keys", STATE,
    ],
}  # fmt: skip


def run(*words: object) -> None:
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training_steps", type=int, default=300)
    parser.add_argument("--episodes", type=int, default=50, help="final starts of each seed")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("runs/few_shot"))
    args = parser.parse_args()
    dataset = args.out / "lift.hdf5"
    if not dataset.exists():  # one in ten, the last here, is held out
        run("raybc.demos", "lift", "--episodes", 11, "--out", dataset)
    paths = {"none": ""} | {name: str(args.out / "plans" / name.replace(", ", "_")) for name in PLANS}
    for name, flags in PLANS.items():
        run("raybc.plan", "build", "--dataset", dataset, "--env_name=lift-scripted-low_dim", "--stride-S=1",
            f"--horizon-length={HORIZON}", *flags, "--out-dir", paths[name], "--overwrite")  # fmt: skip
    sweep = {
        "name": "few_shot",
        "train": {
            "env_name": "lift-scripted-low_dim", "dataset": str(dataset), "training_steps": args.training_steps,
            "lr": 1e-3, "lr_schedule": "cosine", "action_chunking": True, "horizon_length": HORIZON, "device": "cpu",
        },
        "space": {"sampling_plan_path": {"values": list(paths.values())}},
        "seeds": list(range(args.seeds)),
        "search": {
            "trials": len(paths), "sampler": "random",
            "points_to_evaluate": [{"sampling_plan_path": path} for path in paths.values()],
        },
        "prune": {"scheduler": "none"},
        "eval": {"episodes": 5, "evaluations": 1, "race": False},
        "final": {"top": len(paths), "episodes": args.episodes, "videos": 0},
    }  # fmt: skip
    folder = args.out / f"steps_{args.training_steps}"
    file = args.out / f"steps_{args.training_steps}.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    run("raybc.sweep", file, "--out", folder, "--resume")
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    names = {path: name for name, path in paths.items()}
    trials = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    plan_of = {e["trial"]: names[e["params"]["sampling_plan_path"]] for e in trials if e["event"] == "start"}
    print("\n| plan | success on final starts | 95 % interval (episodes pooled) | seeds |\n|---|---|---|---|")
    for trial, name in sorted(plan_of.items()):
        mine = [r for r in rows if r["trial"] == trial and r["phase"] == "final"]
        count, wins = sum(r["episodes"] for r in mine), sum(r["successes"] for r in mine)
        low, high = wilson_interval(wins, count)
        seeds = ", ".join(f"{100 * r['success_rate']:.0f}" for r in mine)
        print(f"| {name} | {100 * wins / count:.1f} % | {100 * low:.1f}-{100 * high:.1f} % | {seeds} |")


if __name__ == "__main__":
    main()
