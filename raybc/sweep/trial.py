"""What all trials of a sweep share, and the evaluation of one trial by rollouts. No Ray in here."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybc.config import RunConfig
from raybc.envs.spec import EnvSpec
from raybc.foreign.folder import reference_at
from raybc.metric import Metric
from raybc.rollout.engine import Rollout
from raybc.rollout.results import best_setting, pooled, summarise
from raybc.rollout.stop import Race, whole_blocks
from raybc.rows import (
    EpisodeRow,
    EvaluationRow,
    Phase,
    SettingFields,
    Timing,
    rows_at,
    setting_fields,
    setting_of,
)
from raybc.run_folder import SweepFolder
from raybc.suites import specs_in_turns
from raybc.sweep.ledger import Evaluation, SweepState
from raybc.sweep.space import settings_of
from raybc.train.source import read_data
from raybc.types import EpisodeSpec, SampleSetting

if TYPE_CHECKING:  # they import torch, which the driver of a sweep does not need
    from raybc.train.data import TrainingData
    from raybc.train.log import MemberLog

Evaluate = Callable[[str, Sequence[Rollout], Sequence[EpisodeSpec], Race | None], list[list[EpisodeRow]]]
#: `rivals(trial, k)`: results of other trials at evaluation k, see `rivals_of`.
Rivals = Callable[[int, int], dict[str, list[float]]]


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share."""

    folder: SweepFolder
    train: RunConfig
    """What all recipes share."""
    task: str
    """Name of the task of the data; empty without a simulator."""
    dataset: str
    fingerprint: str
    obs_keys: tuple[str, ...]
    environment: dict[str, str]
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    """Training step of each evaluation."""
    settings: tuple[SampleSetting, ...]
    """Every combination of the sample axes, see `settings_of`."""
    episodes: int
    """Search starts per evaluation."""
    race_comparisons: int
    """The tests that the best arm can be in: (trials x settings - 1) x evaluations; 0: no racing."""
    metric: Metric
    """What recipes are compared by."""
    threads: int
    """Threads of PyTorch: fixed, because sums depend on their number."""
    earlier_options: tuple[dict[str, Any], ...] = ()
    """Options of a run under which earlier processes may have saved states."""
    eval_tasks: tuple[str, ...] = ()
    """The tasks that recipes are measured on; () for `task`."""
    env_spec: EnvSpec | None = None
    """What the simulator of `task` reports; None without one."""
    working_folder: str = ""
    """Where the command was started, in which a trainer of others runs, too."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that recipes are measured on, whose starts take turns."""
        return self.eval_tasks or (self.task,)

    def search_specs(self) -> list[EpisodeSpec]:
        return specs_in_turns(self.tasks, "search", self.episodes)


class AllEpisodesFailed(RuntimeError):
    """Every episode of an evaluation ended in an error, so there is no score."""

    def __init__(self, message: str, episodes: int = 0, traceback: str = "") -> None:
        super().__init__(message)
        self.episodes, self.traceback = episodes, traceback


def setting_label(row: SettingFields) -> str:
    return setting_of(row).label().replace(" ", "_").replace("=", "_")


def log_evaluation(log: MemberLog, context: TrialContext, seed: int, evaluation: Evaluation) -> None:
    """Show the results of a seed in TensorBoard, beside the curves of its training."""
    for row in evaluation.rows:
        values = {"success": row["success_rate"], context.metric.name: row.get("score")}
        for name, value in values.items():
            if row["seed"] == seed and value is not None:
                log.scalar(f"eval/{name}/{setting_label(row)}", value, evaluation.step)


def jobs_of(
    context: TrialContext, run: RunConfig, trial: int, step: int, ends_at: SampleSetting | None = None
) -> tuple[list[tuple[int, SampleSetting]], list[Rollout]]:
    """(seed, sample setting) of everything that is measured of a trial at a training step, and the jobs for it.

    run: the trial's recipe. ends_at: the sample setting at which episodes keep their last observation.
    """
    measured = [(seed, setting) for seed in context.seeds for setting in settings_of(run, context.settings)]
    paths = [context.folder.checkpoint(trial, seed, step) for seed, _ in measured]
    return measured, [
        Rollout(reference_at(path), setting, final_obs=setting == ends_at)
        for path, (_, setting) in zip(paths, measured, strict=True)
    ]


def evaluation_rows(
    context: TrialContext,
    run: RunConfig,
    measured: Sequence[tuple[int, SampleSetting]],
    results: Sequence[Sequence[EpisodeRow]],
    *,
    trial: int,
    phase: Phase,
    evaluation: int,
    step: int,
) -> list[EvaluationRow]:
    """The rows for the ledger; results: of the jobs of `jobs_of`."""
    return [
        {
            "run_id": dataclasses.replace(run, seed=seed).run_id(context.fingerprint),
            "trial": trial,
            "seed": seed,
            "phase": phase,
            "evaluation": evaluation,
            "step": step,
            **setting_fields(setting),
            **summarise(episodes, context.metric),
        }
        for (seed, setting), episodes in zip(measured, results, strict=True)
    ]


def evaluate_trial(
    context: TrialContext,
    trial: int,
    run: RunConfig,
    k: int,
    train: tuple[float, float],
    train_seconds: float,
    evaluate: Evaluate,
    rivals: dict[str, list[float]],
) -> Evaluation:
    """Roll out the bundles of evaluation k at every sample setting, or without a simulator measure them on
    held-out episodes. Raises `AllEpisodesFailed`.

    train: start and end of the training before it; train_seconds: the trial's share of it.
    """
    started = time.time()
    step = context.steps[k - 1]
    measured, jobs = jobs_of(context, run, trial, step)
    if not context.metric.from_episodes:
        rows = offline_rows(context, run, measured, trial=trial, evaluation=k, step=step)
        score = pooled(rows_at(rows, best_setting(rows, context.metric)), context.metric)
        assert score is not None, "every row has an error"
        timing: Timing = {"train": list(train), "rollout": [started, time.time()], "train_seconds": train_seconds}
        return Evaluation(k, step, score, rows, timing)
    race = None
    if context.race_comparisons:
        arms = [setting.label() for _, setting in measured]
        strata = len(context.tasks)
        race = Race(
            arms, rivals, comparisons=context.race_comparisons, block=whole_blocks(strata), metric=context.metric,
            strata=strata,
        )  # fmt: skip
    results = evaluate(f"{context.folder.path}/trial {trial}/evaluation {k}", jobs, context.search_specs(), race)
    rows = evaluation_rows(context, run, measured, results, trial=trial, phase="search", evaluation=k, step=step)
    if not any(r["episodes"] for r in rows):
        errors = [e for episodes in results for e in episodes]
        message = f"no episode could be run at evaluation {k}: {errors[0]['message']}"
        raise AllEpisodesFailed(message, len(errors), errors[0].get("traceback", ""))
    beaten = ""
    if race is not None:
        # Repeats the decisions to find out why the evaluation ended early (if it did).
        race.update([[race.value_of(e) for e in episodes] for episodes in results])
        beaten = str(race.beaten[1]) if race.beaten else ""
    timing = {"train": list(train), "rollout": [started, time.time()], "train_seconds": train_seconds}
    metric = context.metric
    score = pooled(rows_at(rows, best_setting(rows, metric)), metric)
    if score is None:  # of several tasks, one has no valid episode, and what an episode can be at worst is unknown
        failed = next(e for episodes in results for e in episodes if e["outcome"] == "error")
        message = f"no episode of a task could be run at evaluation {k}: {failed['message']}"
        raise AllEpisodesFailed(message, sum(map(len, results)), failed.get("traceback", ""))
    return Evaluation(k, step, score, rows, timing, beaten)


def offline_rows(
    context: TrialContext,
    run: RunConfig,
    measured: Sequence[tuple[int, SampleSetting]],
    *,
    trial: int,
    evaluation: int,
    step: int,
) -> list[EvaluationRow]:
    """The rows of an evaluation without a simulator: no episodes, and the metric on held-out data as their score."""
    from raybc.bundle import PolicyBundle
    from raybc.inference.agent import Agent
    from raybc.inference.offline import offline_error
    from raybc.train.data import held_out_episodes

    store = load_data(context).store
    episodes = held_out_episodes(run, store)
    rows = evaluation_rows(
        context, run, measured, [[] for _ in measured], trial=trial, phase="search", evaluation=evaluation, step=step
    )
    agents: dict[int, Agent] = {}
    for row, (seed, setting) in zip(rows, measured, strict=True):
        if seed not in agents:
            agents[seed] = Agent(PolicyBundle.load(context.folder.checkpoint(trial, seed, step)))
        row["score"] = offline_error(agents[seed], store, episodes, setting, metric=context.metric.name).score
    return rows


def rivals_of(state: SweepState, trial: int, k: int, metric: Metric) -> dict[str, list[float]]:
    """Scores of other trials at evaluation k on the scale 0 .. 1, one arm per sample setting: on each start the mean
    over the trial's seeds, nan if one of them is an error. Empty where the metric has no known bounds."""
    if metric.bounds is None:
        return {}
    found = {}
    for other in state.trials.values():
        if other.number == trial or len(other.evaluations) < k:
            continue
        rows = other.evaluations[k - 1].rows
        for setting in dict.fromkeys(setting_of(r) for r in rows):
            seeds = [[metric.unit_value(metric.of_entry(e)) for e in r["episode_list"]] for r in rows_at(rows, setting)]
            count = min(len(values) for values in seeds)
            means = [sum(values[i] for values in seeds) / len(seeds) for i in range(count)]
            found[f"trial {other.number} at {setting.label()}"] = means
    return found


def load_data(context: TrialContext) -> TrainingData:
    path = Path(context.dataset)
    modified = path.stat().st_mtime_ns
    environment = json.dumps(context.environment)
    return _load_data(context.train, context.dataset, modified, context.fingerprint, context.obs_keys, environment)


@functools.lru_cache(maxsize=1)
def _load_data(
    train: RunConfig, path: str, modified: int, fingerprint: str, obs_keys: tuple[str, ...], environment: str
) -> TrainingData:
    """Read once for all trials of this process."""
    from raybc.train.data import TrainingData

    return TrainingData(read_data(train, Path(path)), fingerprint, obs_keys, json.loads(environment))
