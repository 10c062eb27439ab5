"""A trainer of others, a sweep of it, and one trial of the sweep without Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raybc.envs.pointmass import POINTMASS
from raybc.envs.spec import spec_of_task
from raybc.metric import SUCCESS
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.worker import load_agent
from raybc.rows import EpisodeRow
from raybc.run_folder import SweepFolder
from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import Evaluation
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.space import recipe, sample_settings
from raybc.sweep.trainer import run_trainer
from raybc.sweep.training import Job
from raybc.sweep.trial import TrialContext
from raybc.types import EpisodeSpec

#: A trainer that hands over policies that others have trained, and whatever else `mode` says.
THEIRS = """
import dataclasses, json, os, subprocess, time
from pathlib import Path
from typing import Literal

import numpy as np

def train(job, saved: str = "", learning_rate: float = 1e-3, horizon_length: int = 4,
          mode: Literal["good", "ignores", "raises", "silent", "skips", "dies", "text", "early",
                        "starts"] = "good"):
    given = {"options": job.options, "seed": job.seed, "dataset": str(job.dataset), "task": job.task,
            "steps": job.steps,
            "milestones": job.milestones, "step": job.step,
            "here": os.getcwd(), "checkpoint": str(job.checkpoint), "obs_keys": job.obs_keys}
    with (job.folder / "given.jsonl").open("a") as file:
        file.write(json.dumps(given) + "\\n")
    print("hello from", mode)
    if mode == "raises" and job.seed:
        raise ValueError("no\\nsuch thing")
    if mode == "silent":
        return
    if mode == "dies":
        print("out of memory", flush=True)
        os._exit(3)
    if mode == "starts":  # other programs, of which one reads what it can and one outlives the trainer
        assert subprocess.run(["cat"], capture_output=True, timeout=20).stdout == b""
        child = subprocess.Popen(["sleep", "60"])
        (job.folder / "child").write_text(str(child.pid))
    if mode == "text":
        job.report(job.milestones[0], "a policy")
    try:
        start = 0 if mode == "ignores" else job.step
        for step in range(start + 1, job.steps + 1):
            step = np.int64(step)
            if step in job.milestones:
                if mode == "skips" and step == job.milestones[1]:
                    continue
                job.report(step, Path(saved), {"loss": 1 / step, "bad": float("nan")})
                (job.folder / f"reported_{step}").touch()
            elif step % 5 == 0:
                job.report(step, metrics={"loss": 1 / step})
            if mode == "early" and step == job.milestones[1]:
                return
    finally:
        (job.folder / "ended").touch()

@dataclasses.dataclass
class Options:
    width: int = 8
    shape: Literal["a", "b"] = "a"
    fast: bool = False

    def __post_init__(self):
        if self.width > 100:
            raise ValueError("too wide")

def hangs(job):
    child = subprocess.Popen(["sleep", "60"])
    job.report(1, metrics={"child": child.pid})
    time.sleep(60)

def of_dataclass(job, options: Options):
    raise LookupError(f"{options} {job.options}")

def nothing(): ...
def more(job, *args, **kwargs): ...
def no_default(job, width: int): ...
def of_list(job, width: list = None): ...
def takes_seed(job, seed: int = 0): ...
def takes_kind(job, kind: int = 0): ...
def unreadable(job, width: "Nowhere" = 3): ...
def wrong_default(job, width: int = "a"): ...
def plain(job, width=8, rate=0.5): ...
NOT_A_FUNCTION = 3
"""


def config(theirs: Path, function: str = "train", **changes: Any) -> SweepConfig:
    plain: dict[str, Any] = {
        "name": "theirs", "trainer": f"{theirs}:{function}", "seeds": [0, 3],
        "train": {"env_name": "pointmass-scripted-low_dim", "training_steps": 30, "flow_steps": 2},
        "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "execute_steps": {"values": [4, 8]}},
        "eval": {"evaluations": 3, "episodes": 4},
    }  # fmt: skip
    for key, value in changes.items():
        plain[key] = {**plain.get(key, {}), **value} if isinstance(value, dict) and key != "space" else value
    return sweep_from_mapping(plain, "theirs.yaml")


class Sweep:
    """One trial of a trainer, measured by rollouts in this process."""

    def __init__(self, plan: SweepConfig, folder: Path) -> None:
        self.plan, self.folder = plan, SweepFolder(folder)
        self.evaluations: list[Evaluation] = []
        self.failures: list[str] = []
        self.context = TrialContext(
            folder=self.folder, train=plan.train, task="pointmass", dataset="demos.hdf5", fingerprint="data",
            obs_keys=("state", "goal"), environment={}, seeds=plan.seeds,
            steps=tuple(plan.evaluation_step(k) for k in range(1, plan.eval.evaluations + 1)),
            settings=tuple(sample_settings(plan)), episodes=plan.eval.episodes, race_comparisons=0, metric=SUCCESS,
            threads=1, env_spec=spec_of_task(POINTMASS),
        )  # fmt: skip

    def run(self, until: int = 99, **params: Any) -> Sweep:
        """Train and measure what is missing, up to evaluation `until`, after which the trial is pruned."""

        def report(trial: int, evaluation: Evaluation) -> bool:
            self.evaluations.append(evaluation)
            return evaluation.evaluation < until

        known = self.plan.train.options()
        chosen = {"learning_rate": 1e-3, **params}
        run = recipe(self.plan, {name: value for name, value in chosen.items() if name in known})
        job = Job(0, run, len(self.evaluations))
        run_trainer(self.context, [job], evaluate, report, lambda _, reason, n: self.failures.append(reason), no_rivals)
        return self

    def given(self, seed: int) -> list[dict[str, Any]]:
        """What each process of a seed was asked to do."""
        lines = (self.folder.member(0, seed).path / "trainer/given.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def has(self, seed: int, name: str) -> bool:
        return (self.folder.member(0, seed).path / "trainer" / name).exists()


def no_rivals(trial: int, k: int) -> dict[str, list[float]]:
    return {}


def evaluate(key: str, jobs: Sequence[Rollout], specs: Sequence[EpisodeSpec], race: Any) -> list[list[EpisodeRow]]:
    """What `RolloutPool.evaluate` gives, in this process."""
    engine, found = Engine(load_agent, slots=2), dict[int, EpisodeRow]()
    for number in range(len(jobs) * len(specs)):
        engine.add(number, jobs[number // len(specs)], specs[number % len(specs)])
    while not engine.idle:
        for number, row in engine.round():
            assert isinstance(row, dict), row
            found[number] = row
    rows = [found[number] for number in sorted(found)]
    return [rows[first : first + len(specs)] for first in range(0, len(rows), len(specs))]
