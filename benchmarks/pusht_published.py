"""PushT under the published protocol: `python -m benchmarks.pusht_published RUN [RUN ...]`.

RUN is a folder of `raybc train` on PushT, from states or images, with checkpoints. Each of the last ten is measured on
50 starts, drawn as Diffusion Policy draws them from seeds 100000 on (agent and block uniform over integers, angle
normal), for 300 steps. The score of an episode is its largest reward, min(coverage / 0.95, 1); success (coverage above
0.95) stands beside it. What is reported for a run is the score of the best of the ten checkpoints and their mean (Chi
et al. 2023, table 1: the mean over three such runs). Results are kept in RUN/published.jsonl, so a second call measures
only new checkpoints.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raybc.bundle import PolicyBundle
from raybc.envs.base import SimEnv
from raybc.inference.agent import Agent
from raybc.registry import get_task, parse_env_name
from raybc.rollout.episode import Episode, predict_together
from raybc.statistics import mean_interval, wilson_interval
from raybc.types import EpisodeSpec, SampleSetting

FIRST_SEED, STEPS, LAST = 100_000, 300, 10
TASKS = ("pusht", "pusht_pixels")


def published_start(seed: int) -> np.ndarray:
    """Agent x, y, block x, y, angle of a test start of Diffusion Policy, float64 (5,)."""
    draw = np.random.RandomState(seed)
    agent = draw.randint(50, 450), draw.randint(50, 450)
    block = draw.randint(100, 400), draw.randint(100, 400)
    return np.array([*agent, *block, draw.randn() * 2 * np.pi - np.pi], np.float64)


class FromPublished(SimEnv):
    """A simulator of PushT whose every reset is the published start `start_seed`."""

    def __init__(self, env: Any) -> None:
        self._env, self.start_seed = env, FIRST_SEED
        self.action_space, self.observation_space = env.action_space, env.observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._env.start_at(published_start(self.start_seed)), {"success": False}

    def step(self, action: np.ndarray) -> Any:
        return self._env.step(action)

    def sim_state(self) -> np.ndarray:
        state: np.ndarray = self._env.sim_state()
        return state

    def env_args(self) -> dict[str, Any]:
        return dict(self._env.env_args())


def measure(bundle_path: Path, envs: list[FromPublished], setting: SampleSetting | None) -> dict[str, Any]:
    """Scores and successes of one checkpoint; all starts step together."""
    bundle = PolicyBundle.load(bundle_path)
    agent, at = Agent(bundle), setting or bundle.config.sample_setting
    episodes = []
    for i, env in enumerate(envs):
        env.start_seed = FIRST_SEED + i
        episodes.append(Episode(env, bundle, EpisodeSpec("pusht", "final", i), at, STEPS))
    while running := [episode for episode in episodes if episode.outcome is None]:
        for episode, chunk in zip(running, predict_together(agent, running, at).get(), strict=True):
            episode.execute(chunk)
    results = [episode.result() for episode in episodes]
    return {
        "step": bundle.step, "setting": at.to_plain(), "scores": [r.max_reward for r in results],
        "successes": [r.outcome == "success" for r in results],
    }  # fmt: skip


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    found = [(int(path.name.split("_")[1]), path) for path in run.glob("checkpoint_*") if path.is_dir()]
    return sorted(found)


def row(kept: Mapping[str, Any]) -> str:
    score, n = statistics.mean(kept["scores"]), len(kept["scores"])
    interval = mean_interval(score, statistics.stdev(kept["scores"]), n, (0.0, 1.0))
    low, high = wilson_interval(sum(kept["successes"]), n)
    spread = f"{interval[0]:.3f}-{interval[1]:.3f}" if interval else "-"
    successes = f"{sum(kept['successes'])}/{n} | {100 * low:.0f}-{100 * high:.0f} %"
    return f"| {kept['step']} | {score:.3f} ({spread}) | {successes} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--all", action="store_true", help="measure every checkpoint, not only the last ten")
    parser.add_argument("--flow_steps", type=int, default=0, help="instead of the run's")
    parser.add_argument("--starts", type=int, default=50, help="50 are the published ones; more tell more")
    args = parser.parse_args()
    simulators: dict[str, list[FromPublished]] = {}
    best, means = [], []
    for run in args.runs:
        file = run / "published.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        known = [k for k in rows if len(k["scores"]) == args.starts]
        found = {}
        chosen = checkpoints(run) if args.all else checkpoints(run)[-LAST:]
        for step, path in reversed(chosen):  # the latest is the most interesting one
            task = parse_env_name(PolicyBundle.load(path).config.env_name).task
            if task not in TASKS:
                parser.error(f"{path}: expected a policy of {' or '.join(TASKS)}, got one of {task}")
            if task not in simulators:
                simulators[task] = [FromPublished(get_task(task).make(None)) for _ in range(args.starts)]
            at = PolicyBundle.load(path).config.sample_setting
            if args.flow_steps:
                at = SampleSetting(**{**vars(at), "flow_steps": args.flow_steps})
            kept = next((k for k in known if k["step"] == step and k["setting"] == at.to_plain()), None)
            if kept is None:
                kept = measure(path, simulators[task], at)
                with file.open("a") as out:
                    out.write(json.dumps(kept) + "\n")
                print(f"step {step}: {statistics.mean(kept['scores']):.3f}", flush=True)
            found[step] = kept
        print(f"\n{run}\n\n| step | score (95 % t interval) | success | 95 % Wilson interval |\n|---|---|---|---|")
        print("\n".join(row(found[step]) for step in sorted(found)))
        scores = {step: statistics.mean(kept["scores"]) for step, kept in found.items()}
        last = [scores[step] for step in sorted(scores)[-LAST:]]
        best.append(max(last))
        means.append(statistics.mean(last))
        print(f"\nof the last {len(last)} checkpoints: best {best[-1]:.3f}, mean {means[-1]:.3f}")
    if len(args.runs) > 1:
        print(f"\nover {len(args.runs)} runs: best {statistics.mean(best):.3f}, mean {statistics.mean(means):.3f}")


if __name__ == "__main__":
    main()
