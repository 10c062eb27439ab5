"""Mixed demonstrations, scores of their episodes, and what filtering and weighting by them give.

    python -m benchmarks.quality runs/quality --tasks lift
    python -m benchmarks.quality runs/quality --tasks lift can --show

A third of the demonstrations is from the scripted expert (expert), a third from one with white noise on every action
(noisy), a third from one that pauses and makes detours (clumsy); only those that solve the task are kept.
`raybc data quality` scores them; the labels are known to its classifier alone, and each episode is judged by a network
that has not seen it. Then the same recipe is trained with four seeds as one pack on everything, on the third (and the
half) that each score ranks highest, and on a plan with each score as weight (`raybc plan build --weights quality`); on
the demonstrations of the expert as well, as if the labels of all were known. Every seed is measured on the same final
starts. Differences from training on everything are paired by start, means over seeds (Student's t over starts), and
p-values are Holm's over all of them.

One process, one thread, without Ray. What is done is kept in OUT, so a second call continues where the first one ended.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from raybc.compare.pairs import mean_test, two_sided
from raybc.config import RunConfig
from raybc.data.demo import Demo
from raybc.data.formats import robomimic
from raybc.data.scores import Column, Scores, load_scores, save_scores
from raybc.envs.base import SimEnv, Task
from raybc.files import replacing
from raybc.inference.agent import Agent
from raybc.registry import get_task
from raybc.rollout.episode import run_episode
from raybc.statistics import wilson_interval
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer, with_seeds
from raybc.train.source import read_data
from raybc.types import EpisodeSpec

#: From the worst to the best.
KINDS = ("clumsy", "noisy", "expert")
#: Scores that are tried.
SCORES = ("quality", "svm", "length", "idle", "jerk", "path_efficiency", "disagreement", "error")
RECIPE = {
    "policy": "flow", "lr": 1e-3, "lr_schedule": "cosine", "batch_size": 256, "action_chunking": True,
    "horizon_length": 8, "hidden_width": 128, "hidden_depth": 3, "flow_steps": 4, "device": "cpu",
}  # fmt: skip
#: What differs for a task: Can takes longer, and is not learned by the small network.
OF_TASK: dict[str, dict[str, Any]] = {"can": {"horizon_length": 16, "hidden_width": 256, "ema_decay": 0.995}}


def episode(task: Task, env: SimEnv, kind: str, seed: int) -> Demo | None:
    """A demonstration of this kind from a start of the set `demos`; None where it does not solve the task."""
    assert task.make_expert is not None
    obs, _ = env.reset(seed=seed)
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    expert = task.make_expert(env, np.random.default_rng([seed, 2]), 0.5)
    trail: list[tuple[Any, ...]] = []
    kept: dict[str, Any] = {"until": 0, "move": np.zeros(3)}
    limit = 2 * task.max_steps
    for step in range(limit):
        action = np.array(expert.act(obs), np.float32)
        if kind == "noisy":
            action[:6] += rng.normal(0, 0.4, 6).astype(np.float32)
        elif kind == "clumsy":
            if step >= kept["until"] and rng.random() < 0.06:
                pauses = rng.random() < 0.5
                kept = {"until": step + int(rng.integers(6, 14)), "move": np.zeros(3)}
                if not pauses:
                    kept["move"] = rng.normal(size=3)
                    kept["move"] *= 0.6 / np.linalg.norm(kept["move"])
            if step < kept["until"]:
                action[:6] = 0
                action[:3] = kept["move"]
        action = np.clip(action, -1, 1)
        state = env.sim_state()
        following, reward, terminated, _, info = env.step(action)
        done = bool(info["success"] or terminated)
        trail.append((obs, following, action, reward, done, state))
        obs = following
        if done:
            break
    if not trail[-1][4]:
        return None
    return Demo(
        {k: np.array([t[0][k] for t in trail]) for k in obs},
        {k: np.array([t[1][k] for t in trail]) for k in obs},
        np.array([t[2] for t in trail], np.float32),
        np.array([t[3] for t in trail], np.float32),
        np.array([t[4] for t in trail], np.int64),
        np.array([t[5] for t in trail], np.float64),
        seed,
    )


def demonstrations(out: Path, name: str, each: int) -> Path:
    """`each` demonstrations of every kind, in turns, with a mask for each kind."""
    path = out / name / "mixed.hdf5"
    if path.exists():
        return path
    task = get_task(name)
    env = task.make(None)
    found: dict[str, list[Demo]] = {kind: [] for kind in KINDS}
    for k, kind in enumerate(KINDS):
        first = 100_000 * (k + 1)
        while len(found[kind]) < each:
            demo = episode(task, env, kind, EpisodeSpec(name, "demos", first).seed)
            first += 1
            found[kind] += [demo] if demo is not None else []
        lengths = [len(d.actions) for d in found[kind]]
        tried = first - 100_000 * (k + 1)
        print(f"{name}: {kind}: {each} of {tried} starts, {np.mean(lengths):.0f} steps", flush=True)
    demos = [found[kind][i] for i in range(each) for kind in KINDS]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        robomimic.write(temporary, demos, env.env_args(), {})
        with h5py.File(temporary, "a") as file:
            masks = {kind: np.arange(k, len(demos), len(KINDS)) for k, kind in enumerate(KINDS)}
            robomimic.write_masks(file, masks)
    env.close()
    return path


def raybc(*words: object, log: Path) -> None:
    """Run a command of raybc; what it prints is in `log`."""
    with log.open("a") as file:
        subprocess.run(
            [sys.executable, "-m", "raybc", *map(str, words)], check=True, stdout=file, stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def arms(out: Path, name: str, data: Path, scores: Path) -> dict[str, dict[str, Any]]:
    """Name of an arm -> options of its training, the most interesting first."""
    columns = [c for c in SCORES if c in load_scores(scores).columns]
    kinds = data.parent / "labels"
    if not (kinds / "scores.json").is_file():
        _save_truth(scores, kinds)
    recipe = RECIPE | OF_TASK.get(name, {})
    horizon, batch = recipe["horizon_length"], recipe["batch_size"]
    plans = {}
    for column in ("", *columns):
        plans[column] = data.parent / "plans" / (column or "none")
        if not plans[column].exists():
            flags = ["--weights", "quality", "--scores", scores, "--score_column", column] if column else []
            # A single stage and no stride: what is left of a plan is the weight of episodes.
            raybc("plan", "build", "--dataset", data, f"--env_name={name}-scripted-low_dim", "--stride-S=1",
                  f"--horizon-length={horizon}", f"--batch-size={batch}", "--num-stages-K=1",
                  f"--valid-start-tail-keep={horizon}", *flags, "--out-dir", plans[column],
                  log=out / name / "log.txt")  # fmt: skip
    found: dict[str, dict[str, Any]] = {"everything": {}}
    known = {"scores_path": str(kinds), "score_column": "truth"}
    found["expert only (all labels known)"] = known | {"top_percent": 33.4}
    for column in columns:
        best = {"scores_path": str(scores), "score_column": column}
        found[f"best third by {column}"] = best | {"top_percent": 33.4}
        found[f"weighted by {column}"] = {"sampling_plan_path": str(plans[column])}
    found["a plan without weights"] = {"sampling_plan_path": str(plans[""])}
    for column in columns:
        best = {"scores_path": str(scores), "score_column": column}
        found[f"best half by {column}"] = best | {"top_percent": 50.0}
    return found


def _save_truth(scores: Path, out: Path) -> None:
    """The kinds as scores, 1 for the expert."""
    given = load_scores(scores)
    truth = np.array([float(label == KINDS[-1]) for label in given.labels])
    columns = {"truth": Column("higher", "demonstrations of the expert", "probability")}
    out.mkdir(parents=True, exist_ok=True)
    save_scores(Scores(given.dataset, given.fingerprint, columns, {"truth": truth}), out)


def measured(name: str, data: Path, arm: str, options: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Train the seeds of an arm as one pack, and measure each on the same final starts."""
    task = get_task(name)
    recipe = RECIPE | OF_TASK.get(name, {})
    config = RunConfig.of(env_name=f"{name}-scripted-low_dim", training_steps=args.steps, **recipe, **options)
    store = read_data(config, data)
    env = task.make(None)
    prepared = TrainingData(store, store.fingerprint(), task.obs_keys, env.identity())
    trainer = PackTrainer(with_seeds(config, range(args.seeds)), prepared, torch.device("cpu"))
    trainer.advance(args.steps)
    starts = [EpisodeSpec(name, "final", index) for index in range(args.episodes)]
    rows = []
    for m in range(args.seeds):
        agent = Agent(trainer.bundle(m))
        setting = agent.bundle.config.sample_setting
        results = [run_episode(env, agent, spec, setting, task.max_steps) for spec in starts]
        rows.append([result.outcome == "success" for result in results])
    env.close()
    windows = trainer.prepared.rotation.total
    return {"task": name, "arm": arm, "steps": args.steps, "windows": windows, "success": rows}


def show(name: str, rows: list[dict[str, Any]]) -> None:
    """Print the table of a task."""
    first = next((np.array(r["success"], float) for r in rows if r["arm"] == "everything"), None)
    if first is None:
        return
    tests = {}
    for row in rows:
        if row["arm"] != "everything":
            ours, theirs = np.array(row["success"], float).mean(axis=0), first.mean(axis=0)
            p_values, interval = mean_test(ours, theirs, paired=True)
            tests[row["arm"]] = (two_sided(p_values), float((ours - theirs).mean()), interval)
    ranked = sorted(tests, key=lambda arm: tests[arm][0])
    corrected, largest = {}, 0.0
    for i, arm in enumerate(ranked):
        largest = max(largest, min(1.0, tests[arm][0] * (len(ranked) - i)))
        corrected[arm] = largest
    head = "| trained on | success (95 % Wilson) | each seed | minus everything | p (Holm) |"
    print(f"\n### {name}\n\n{head}\n|---|---|---|---|---|")
    for row in rows:
        wins = np.array(row["success"], float)
        low, high = wilson_interval(int(wins.sum()), wins.size)
        seeds = ", ".join(f"{100 * s:.0f}" for s in wins.mean(axis=1))
        gap, p = "", ""
        if row["arm"] in tests:
            _, difference, interval = tests[row["arm"]]
            gap = f"{100 * difference:+.1f}"
            gap += f" ({100 * interval[0]:+.1f} to {100 * interval[1]:+.1f})" if interval else ""
            p = f"{corrected[row['arm']]:.2g}"
        rate = f"{100 * wins.mean():.1f} % ({100 * low:.0f}-{100 * high:.0f})"
        print(f"| {row['arm']} | {rate} | {seeds} | {gap} | {p} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["lift"])
    parser.add_argument("--each", type=int, default=30, help="demonstrations of each kind")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=50, help="final starts of each seed")
    parser.add_argument("--only", nargs="+", default=[], help="arms whose name contains one of these words")
    parser.add_argument("--show", action="store_true", help="print what is there, and measure nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in args.tasks:
        kept = args.out / f"results_{name}.jsonl"
        rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
        if not args.show:
            data = demonstrations(args.out, name, args.each)
            scores = args.out / name / "scores"
            raybc("data", "quality", data, "--env_name", f"{name}-scripted-low_dim", "--labels", "splits", "--classes",
                  *KINDS, "--out", scores, log=args.out / name / "log.txt")  # fmt: skip
            for arm, options in arms(args.out, name, data, scores).items():
                chosen = not args.only or arm == "everything" or any(word in arm for word in args.only)
                if chosen and not any(row["arm"] == arm for row in rows):
                    rows.append(measured(name, data, arm, options, args))
                    with kept.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
                    print(f"{name}: {arm}: {100 * np.mean(rows[-1]['success']):.1f} %", flush=True)
        report = args.out / name / "scores" / "quality.json"
        if report.is_file():
            found = json.loads(report.read_text())
            accuracy, svm, ece = found["accuracy"], found["svm_accuracy"], found["ece"]
            print(f"\n{name}: held-out accuracy {accuracy:.3f}, SVM {svm:.3f}, calibration error {ece:.3f}")
            print(f"confusion {found['confusion']}, AUC {found['auc']}")
        show(name, rows)


if __name__ == "__main__":
    main()
