"""One trial: the seeds of a recipe trained as a pack and measured by rollouts at every evaluation. No Ray in here.

A trial's folder holds a training state and the bundles of each evaluation, so that a trial whose process died goes on
from its last evaluation that is in the ledger.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.config import RunConfig
from raybc.data.formats import robomimic
from raybc.files import write_json
from raybc.rollout.engine import Rollout
from raybc.rollout.results import best_setting, pooled_rate, rows_at, setting_of, summarise, value_of
from raybc.rollout.stop import BLOCK, Race
from raybc.sweep.ledger import Evaluation, SweepState
from raybc.types import EpisodeSpec, SampleSetting

Evaluate = Callable[[str, Sequence[Rollout], Sequence[EpisodeSpec], Race | None], list[list[dict[str, Any]]]]
Report = Callable[[Evaluation], None]
Rivals = Callable[[int], dict[str, list[float]]]

#: Training states and bundles that are kept: the one that is measured now and the one before.
KEEP = 2


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a sweep share."""

    run_dir: str
    task: str
    dataset: str
    fingerprint: str
    obs_keys: tuple[str, ...]
    environment: dict[str, str]
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    """Training step of each evaluation."""
    settings: tuple[SampleSetting, ...]
    episodes: int
    race_comparisons: int
    """0: no racing. Else the tests that the best arm can be in: (trials x settings - 1) x evaluations."""
    threads: int
    """Threads of PyTorch: fixed, because sums depend on them."""

    def folder(self, trial: int) -> Path:
        return Path(self.run_dir) / "trials" / f"{trial:04d}"

    def bundle(self, trial: int, seed: int, step: int) -> Path:
        return self.folder(trial) / f"seed_{seed}" / f"checkpoint_{step}"

    def tensorboard(self, trial: int, seed: int) -> Path:
        return Path(self.run_dir) / "tensorboard" / f"trial_{trial:04d}" / f"seed_{seed}"

    def search_specs(self) -> list[EpisodeSpec]:
        return [EpisodeSpec(self.task, "search", i) for i in range(self.episodes)]


class AllEpisodesFailed(RuntimeError):
    """No episode of an evaluation could be run, so there is no success rate."""


def run_trial(
    plan: TrialPlan, trial: int, run: RunConfig, done: int, evaluate: Evaluate, report: Report, rivals: Rivals
) -> None:
    """Train and measure from evaluation `done + 1` (those before are in the ledger) to the last.

    `report` may not return (a pruned trial is ended there). `rivals(k)`: what other trials did at evaluation k.
    """
    import torch

    from raybc.train.log import MemberLog
    from raybc.train.loop import PackTrainer, pick_device, with_seeds

    torch.set_num_threads(plan.threads)
    folder = plan.folder(trial)
    trainer = PackTrainer(with_seeds(run, plan.seeds), _data(plan), pick_device(run.device))
    states = {k: folder / f"state_{step:08d}.safetensors" for k, step in enumerate(plan.steps, 1)}
    # The newest state that is not beyond the evaluation to be measured next.
    for k in range(min(done + 1, len(plan.steps)), 0, -1):
        if states[k].exists():
            trainer.load_state(states[k])
            break
    with contextlib.ExitStack() as stack:
        logs = [
            stack.enter_context(MemberLog(folder / f"seed_{seed}", plan.tensorboard(trial, seed), resume=trainer.step))
            for seed in plan.seeds
        ]

        def on_log(step: int, losses: list[float], steps_per_sec: float) -> None:
            for log, loss, rate in zip(logs, losses, trainer.rates, strict=True):
                log.train(step, loss, steps_per_sec, rate)

        for k in range(done + 1, len(plan.steps) + 1):
            started = time.time()
            trainer.advance(plan.steps[k - 1], on_log)
            trained = time.time()
            _save(plan, trial, trainer, states[k])
            saved = time.time()
            rows, beaten = _measure(plan, trial, k, trainer, evaluate, rivals(k))
            measured = time.time()
            best = best_setting(rows)
            for log, seed in zip(logs, plan.seeds, strict=True):
                for row in (r for r in rows if r["seed"] == seed and r["success_rate"] is not None):
                    log.scalar(f"eval/success/{setting_label(row)}", row["success_rate"], trainer.step)
            _drop_old(plan, trial, k, states)
            report(
                Evaluation(
                    evaluation=k,
                    step=trainer.step,
                    score=pooled_rate(rows_at(rows, best)),
                    rows=rows,
                    timing={"train": [started, trained], "rollout": [saved, measured]},
                    beaten=beaten,
                )
            )


def setting_label(row: dict[str, Any]) -> str:
    return setting_of(row).label().replace(" ", "_").replace("=", "_")


def _save(plan: TrialPlan, trial: int, trainer: Any, state: Path) -> None:
    for m, seed in enumerate(plan.seeds):
        bundle = plan.bundle(trial, seed, trainer.step)
        if not bundle.exists():
            trainer.bundle(m).save(bundle)
    if not state.exists():
        trainer.save_state(state)


def _measure(
    plan: TrialPlan, trial: int, k: int, trainer: Any, evaluate: Evaluate, rivals: dict[str, list[float]]
) -> tuple[list[dict[str, Any]], str]:
    """Rows of results, and why the measurement ended early ("" where it did not)."""
    arms = [(m, seed, setting) for m, seed in enumerate(plan.seeds) for setting in plan.settings]
    works = [Rollout(str(plan.bundle(trial, seed, trainer.step)), setting) for _, seed, setting in arms]
    race = None
    if plan.race_comparisons:
        labels = [setting.label() for _, _, setting in arms]
        race = Race(labels, rivals, comparisons=plan.race_comparisons, block=BLOCK)
    results = evaluate(f"{plan.run_dir}/trial {trial}/evaluation {k}", works, plan.search_specs(), race)
    rows = []
    for (m, seed, setting), episodes in zip(arms, results, strict=True):
        rows.append(
            {
                "run_id": trainer.members[m].run_id(plan.fingerprint),
                "trial": trial,
                "seed": seed,
                "phase": "search",
                "evaluation": k,
                "step": trainer.step,
                **dataclasses.asdict(setting),
                **summarise(episodes),
            }
        )
    if not any(r["episodes"] for r in rows):
        message = next(e["message"] for episodes in results for e in episodes)
        raise AllEpisodesFailed(f"no episode could be run at evaluation {k}: {message}")
    if race is None:
        return rows, ""
    race.update([[value_of(e) for e in episodes] for episodes in results])  # decides the same again, to say why
    return rows, str(race.beaten[1]) if race.beaten else ""


def rivals_of(state: SweepState, trial: int, k: int) -> dict[str, list[float]]:
    """Outcomes of other trials at evaluation k, an arm for each sample setting: on each start the mean success over
    the trial's seeds, nan where one of them is an error."""
    found = {}
    for other in state.trials.values():
        if other.number == trial or len(other.evaluations) < k:
            continue
        rows = other.evaluations[k - 1].rows
        for setting in dict.fromkeys(setting_of(r) for r in rows):
            seeds = [[value_of({"outcome": e[1]}) for e in r["episode_list"]] for r in rows_at(rows, setting)]
            count = min(len(values) for values in seeds)
            means = [sum(values[i] for values in seeds) / len(seeds) for i in range(count)]
            found[f"trial {other.number} at {setting.label()}"] = means
    return found


def _drop_old(plan: TrialPlan, trial: int, k: int, states: dict[int, Path]) -> None:
    for old in range(1, k - KEEP + 1):
        states[old].unlink(missing_ok=True)
        for seed in plan.seeds:
            shutil.rmtree(plan.bundle(trial, seed, plan.steps[old - 1]), ignore_errors=True)


def _data(plan: TrialPlan) -> Any:
    path = Path(plan.dataset)
    return _load_data(
        plan.dataset, path.stat().st_mtime_ns, plan.fingerprint, plan.obs_keys, json.dumps(plan.environment)
    )


@functools.lru_cache(maxsize=1)
def _load_data(path: str, mtime: int, fingerprint: str, obs_keys: tuple[str, ...], environment: str) -> Any:
    """Read once for all trials of this process."""
    from raybc.train.data import TrainingData

    return TrainingData(robomimic.read(Path(path)), fingerprint, obs_keys, json.loads(environment))


def write_failure(folder: Path, reason: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "failed.json", {"reason": reason})


def read_failure(folder: Path) -> str:
    """Why a trial raised; empty when it did not."""
    try:
        return str(json.loads((folder / "failed.json").read_text())["reason"])
    except (OSError, ValueError, KeyError):
        return ""
