"""What all trials of a sweep share, and the measurement of one by rollouts. No Ray in here."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.config import RunConfig
from raybc.data.load import read_for
from raybc.rollout.engine import Rollout
from raybc.rollout.results import best_setting, pooled_rate, rows_at, setting_of, summarise, value_of
from raybc.rollout.stop import BLOCK, Race
from raybc.sweep.folders import bundle_path, trial_folder
from raybc.sweep.ledger import Evaluation, SweepState
from raybc.types import EpisodeSpec, SampleSetting

Evaluate = Callable[[str, Sequence[Rollout], Sequence[EpisodeSpec], Race | None], list[list[dict[str, Any]]]]
#: `rivals(trial, k)`: what other trials did at evaluation k, see `rivals_of`.
Rivals = Callable[[int, int], dict[str, list[float]]]


@dataclass(frozen=True)
class TrialContext:
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
        return trial_folder(Path(self.run_dir), trial)

    def bundle(self, trial: int, seed: int, step: int) -> Path:
        return bundle_path(Path(self.run_dir), trial, seed, step)

    def tensorboard(self, trial: int, seed: int) -> Path:
        return Path(self.run_dir) / "tensorboard" / f"trial_{trial:04d}" / f"seed_{seed}"

    def search_specs(self) -> list[EpisodeSpec]:
        return [EpisodeSpec(self.task, "search", i) for i in range(self.episodes)]


class AllEpisodesFailed(RuntimeError):
    """No episode of an evaluation could be run, so there is no success rate."""


def setting_label(row: dict[str, Any]) -> str:
    return setting_of(row).label().replace(" ", "_").replace("=", "_")


def evaluate_trial(
    plan: TrialContext, trial: int, run: RunConfig, k: int, evaluate: Evaluate, rivals: dict[str, list[float]]
) -> Evaluation:
    """Roll out the bundles of evaluation k at every sample setting. Raises `AllEpisodesFailed`."""
    step = plan.steps[k - 1]
    arms = [(seed, setting) for seed in plan.seeds for setting in plan.settings]
    works = [Rollout(str(plan.bundle(trial, seed, step)), setting) for seed, setting in arms]
    race = None
    if plan.race_comparisons:
        labels = [setting.label() for _, setting in arms]
        race = Race(labels, rivals, comparisons=plan.race_comparisons, block=BLOCK)
    results = evaluate(f"{plan.run_dir}/trial {trial}/evaluation {k}", works, plan.search_specs(), race)
    rows = []
    for (seed, setting), episodes in zip(arms, results, strict=True):
        rows.append(
            {
                "run_id": dataclasses.replace(run, seed=seed).run_id(plan.fingerprint),
                "trial": trial,
                "seed": seed,
                "phase": "search",
                "evaluation": k,
                "step": step,
                **dataclasses.asdict(setting),
                **summarise(episodes),
            }
        )
    if not any(r["episodes"] for r in rows):
        message = next(e["message"] for episodes in results for e in episodes)
        raise AllEpisodesFailed(f"no episode could be run at evaluation {k}: {message}")
    beaten = ""
    if race is not None:
        # Decides the same again, to say why the measurement ended early (where it did).
        race.update([[value_of(e) for e in episodes] for episodes in results])
        beaten = str(race.beaten[1]) if race.beaten else ""
    return Evaluation(k, step, pooled_rate(rows_at(rows, best_setting(rows))), rows, beaten=beaten)


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


def load_data(plan: TrialContext) -> Any:
    """The `TrainingData` of a sweep."""
    path = Path(plan.dataset)
    written = path.stat().st_mtime_ns
    return _load_data(plan.dataset, plan.task, written, plan.fingerprint, plan.obs_keys, json.dumps(plan.environment))


@functools.lru_cache(maxsize=1)
def _load_data(
    path: str, task: str, written: int, fingerprint: str, obs_keys: tuple[str, ...], environment: str
) -> Any:
    """Read once for all trials of this process."""
    from raybc.train.data import TrainingData

    return TrainingData(read_for(Path(path), task), fingerprint, obs_keys, json.loads(environment))
