"""The rows that travel between simulators, the ledger, the files of a run and the pages made from them.

They are JSON objects on disk, so they are `TypedDict`s here. Keys that earlier releases did not write are
`NotRequired`; `result_row` fills in what a line of an older results.jsonl lacks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeVar, cast

from raybc.types import EpisodeResult, Outcome, SampleSetting

TrialStatus = Literal["running", "pruned", "completed", "failed"]
Phase = Literal["search", "final"]
#: Index of the start, outcome, steps, return, largest reward (which rows of earlier releases lack).
EpisodeEntry = list[Any]


class SettingFields(TypedDict):
    """The fields of `SampleSetting`, which rows contain without nesting."""

    flow_steps: int
    execute_steps: int
    eval_temperature: float
    temporal_ensemble: float
    solver: NotRequired[str]
    """Rows of earlier releases lack it: euler."""
    best_of_n: NotRequired[int]
    """Missing at 1."""


_Return = TypedDict("_Return", {"return": float})


class EpisodeRow(_Return):
    """One episode: `EpisodeResult.to_row`."""

    index: int
    seed: int
    outcome: Outcome
    max_reward: float
    steps: int
    seconds: float
    retries: int
    message: str
    error_kind: NotRequired[str]
    """Of an error: see `raybc.rollout.faults`."""
    traceback: NotRequired[str]
    """Of an error that was an exception."""
    truncated: NotRequired[bool]
    """The simulator truncated the episode before the step limit."""
    solved_at_reset: NotRequired[bool]
    """The start was solved before the first step."""
    video: NotRequired[str]
    """Name of the episode's mp4, if it was filmed."""
    task: NotRequired[str]
    """Its task, where an evaluation has several."""
    final_obs: NotRequired[dict[str, list[float]]]
    """The last low-dimensional observations of a valid episode, where they were asked for."""


class FirstError(TypedDict):
    """What went wrong first, for people."""

    index: int
    message: str
    traceback: str
    """Empty where the error was no exception."""
    task: NotRequired[str]
    """Where there are several."""


class EpisodeCounts(TypedDict):
    """What the episodes of one policy at one sample setting add up to. Errors are counted apart."""

    episodes: int
    """Valid episodes: those that did not end in an error."""
    successes: int
    timeouts: int
    failures: int
    errors: int
    success_rate: float | None
    mean_return: float | None
    mean_max_reward: float | None
    mean_steps_success: float | None
    eval_seconds: float
    retries: int
    errors_by_kind: NotRequired[dict[str, int]]
    first_error: NotRequired[FirstError]
    """Of the first start that ended in an error."""
    truncated: NotRequired[int]
    """Those that the simulator truncated before the step limit; they are among the failures or timeouts."""
    solved_at_reset: NotRequired[int]
    """Episodes on starts that were solved before the first step."""
    successes_at_reset: NotRequired[int]
    """Those of them that ended in success."""
    score: NotRequired[float | None]
    """Mean of the sweep's or run's metric (`raybc.metric`); releases up to 0.1.0 measured success alone."""
    score_sd: NotRequired[float | None]
    """Sample standard deviation of the metric over valid episodes; None with fewer than two."""
    tasks: NotRequired[dict[str, EpisodeCounts]]
    """Of several tasks: task -> what its episodes add up to. Episode i of a list belongs to task i modulo their
    number."""


class EndStates(TypedDict):
    """The last low-dimensional observations of episodes (E episodes, D dimensions)."""

    names: list[str]
    """D, `state[0]`."""
    values: list[list[float] | None]
    """E, each of D numbers; None for an error, and where an observation is not finite or has other dimensions."""
    plane: NotRequired[list[str]]
    """Two of the names, which the task calls positions in a plane (`Task.plane`)."""


class EpisodeSummary(EpisodeCounts):
    """Counts, and a short entry for each episode."""

    episode_list: list[EpisodeEntry]
    messages: NotRequired[dict[str, str]]
    """Index of a start -> message of its error or of its unusual end."""
    end_states: NotRequired[EndStates]
    """Of the entries of `episode_list`, where they were recorded: on final starts, at the chosen sample setting."""


class _Measurement(TypedDict):
    run_id: str
    trial: int
    seed: int
    phase: Phase
    evaluation: int
    step: int


class ResultRow(_Measurement, SettingFields, EpisodeCounts):
    """A line of results.jsonl: one member (trial and seed) at one sample setting in one evaluation."""


class EvaluationRow(_Measurement, SettingFields, EpisodeSummary):
    """A `ResultRow` as the ledger stores it, with its episodes."""


class Timing(TypedDict):
    """How long an evaluation took, in unix times and seconds."""

    train: list[float]
    """Start and end of the training before it."""
    rollout: list[float]
    """Start and end of its rollouts."""
    train_seconds: float
    """The trial's share of the training time of its pack."""
    alone_seconds: NotRequired[float]
    """Release 0.1.0: estimate of the training time without packs. Not written any more."""


class StageEvent(TypedDict):
    event: Literal["stage"]
    name: str
    start: float
    end: float


class StartEvent(TypedDict):
    event: Literal["start"]
    trial: int
    params: dict[str, Any]
    origin: str
    of_trainer: NotRequired[bool]
    """Whether the names of params are those of a trainer of others."""


class EvaluationEvent(TypedDict):
    event: Literal["evaluation"]
    trial: int
    status: TrialStatus
    evaluation: int
    step: int
    score: float
    rows: list[EvaluationRow]
    timing: Timing
    beaten: NotRequired[str]


class FailedEvent(TypedDict):
    event: Literal["failed"]
    trial: int
    reason: str
    errors: NotRequired[int]
    """Episodes of its last evaluation, if all of them ended in errors."""


class FinalEvent(TypedDict):
    event: Literal["final"]
    trial: int
    rows: list[EvaluationRow]


TrialEvent = StartEvent | EvaluationEvent | FailedEvent | FinalEvent
LedgerEvent = StageEvent | TrialEvent


class WinnerFile(TypedDict):
    """winner.json."""

    trial: int
    params: dict[str, Any]
    setting: SettingFields
    seed: int
    run_id: str
    bundle: str
    """The bundle, relative to the run folder."""
    rule: str


class VideoRow(TypedDict):
    """An entry of videos.json."""

    file: str
    """The mp4, relative to the run folder."""
    trial: int
    seed: int
    split: Phase
    index: int
    outcome: Outcome
    flow_steps: int
    execute_steps: NotRequired[int]
    """This and the other fields of the sample setting; earlier releases wrote flow_steps alone."""
    eval_temperature: NotRequired[float]
    temporal_ensemble: NotRequired[float]
    solver: NotRequired[str]
    best_of_n: NotRequired[int]
    steps: int
    step: NotRequired[int]
    """Training step of the policy, of a film that was made later."""
    task: NotRequired[str]
    """Where there are several."""


class PoolStats(TypedDict):
    """Counters of a `RolloutPool` since its start."""

    episodes: int
    steps: int
    retries: int
    errors: int
    busy_seconds: float
    restarts: int
    recycled: int
    workers: int
    queued: int
    pids: list[int]
    spans: list[tuple[float, float]]
    """When simulator processes were running episodes."""


class SettingMetrics(TypedDict):
    """What metrics.json says about one sample setting; see `raybc.rollout.results.metrics`."""

    episodes: int
    success_rate: float | None
    successes: int | None
    wilson_low: float | None
    wilson_high: float | None
    mean_return: float | None
    mean_max_reward: float | None
    normalized_score: float | None
    metric: str
    """The measure by which the policy is compared, see `raybc.metric`."""
    score: float | None
    """Its mean over valid episodes."""
    mean_return_interval: list[float] | None
    """95 % interval (Student's t), low and high."""
    mean_max_reward_interval: list[float] | None
    normalized_score_interval: list[float] | None
    avg_steps: float | None
    avg_steps_success: float | None
    eval_time_sec: float
    failure_counts: dict[str, int]
    retries: int
    success_bounds: NotRequired[list[float]]
    """The success rate if all errors counted as failures, and as successes."""
    first_error: NotRequired[FirstError]
    """Of the first start that ended in an error."""
    truncated: NotRequired[int]
    """Episodes that the simulator truncated before the step limit."""
    solved_at_reset: NotRequired[int]
    """Episodes on starts that were solved before the first step."""
    successes_at_reset: NotRequired[int]
    """Those of them that ended in success."""
    success_interval: NotRequired[list[float] | None]
    """Of several tasks: 95 % interval of the mean of their rates (instead of Wilson's)."""
    tasks: NotRequired[dict[str, SettingMetrics]]
    """Of several tasks: task -> the same of its episodes."""


class MetricsRow(SettingFields, SettingMetrics):
    """An entry of `settings` in metrics.json."""

    evaluations: int
    """Evaluations of the network per chunk; not in files of release 0.1.0."""


_SETTING = dataclasses.asdict(SampleSetting())
_COUNTS = ("trial", "seed", "evaluation", "step", "episodes", "successes", "timeouts", "failures", "errors")
Row = TypeVar("Row", bound=SettingFields)


def episode_row(result: EpisodeResult) -> EpisodeRow:
    return cast(EpisodeRow, result.to_row())


def no_timing() -> Timing:
    """Of an evaluation that took no time."""
    return {"train": [0.0, 0.0], "rollout": [0.0, 0.0], "train_seconds": 0.0}


def setting_fields(setting: SampleSetting) -> SettingFields:
    return cast(SettingFields, setting.to_plain())


def setting_of(row: SettingFields) -> SampleSetting:
    own = cast(Mapping[str, Any], row)
    return SampleSetting(**{name: own[name] for name in _SETTING if name in own})


def video_setting(video: VideoRow) -> SampleSetting:
    """The sample setting of a film."""
    own = cast(Mapping[str, Any], video)
    return SampleSetting(**{name: own.get(name, default) for name, default in _SETTING.items()})


def rows_at(rows: Iterable[Row], setting: SampleSetting) -> list[Row]:
    """The rows of one sample setting."""
    return [row for row in rows if setting_of(row) == setting]


def episodes_of(row: EpisodeCounts) -> int:
    """All episodes of a row, errors included: as many as were asked for, unless a race ended early."""
    return row["episodes"] + row["errors"]


def message_key(index: int, task: str) -> str:
    """The key of an episode in `messages`: its start, and its task where there are several."""
    return f"{index} of {task}" if task else str(index)


def entries_of(row: EpisodeSummary) -> list[tuple[EpisodeEntry, str]]:
    """The entries of `episode_list`, each with its task ("" where there is one only)."""
    tasks = list(row.get("tasks", {})) or [""]
    return [(entry, tasks[place % len(tasks)]) for place, entry in enumerate(row["episode_list"])]


def result_row(raw: Mapping[str, Any]) -> ResultRow:
    """A line of results.jsonl, checked and complete. Raises KeyError, TypeError or ValueError for anything else."""
    row: dict[str, Any] = {"success_rate": None, "mean_return": None, "mean_max_reward": None}
    row |= {"mean_steps_success": None, "eval_seconds": 0.0, "retries": 0, **_SETTING, **raw}
    row |= {name: str(raw[name]) for name in ("run_id", "phase")}
    row |= {name: int(raw[name]) for name in _COUNTS}
    row |= {name: type(default)(row[name]) for name, default in _SETTING.items()}
    row["errors_by_kind"] = raw.get("errors_by_kind") or {}
    if row["successes"] + row["timeouts"] + row["failures"] != row["episodes"]:
        raise ValueError("successes, timeouts and failures do not add up to episodes")
    return cast(ResultRow, row)


def epoch_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, column -> value, without a torn last one; [] where there is no file."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows
