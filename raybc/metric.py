"""What recipes and checkpoints are compared by: success, or another measure where a task tells no success.

A `Metric` says in which direction it is better, how one episode is scored, which interval belongs to its mean and
how it is written. Search, training, rollouts, tables and pages take all of this from here, so none of them assumes that
a score is a success rate. Neither Ray nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any, Literal, get_args

from raybc.statistics import (
    bounds_with_errors,
    mean_interval,
    stratified_mean_interval,
    stratified_rate_interval,
    too_many_errors,
    wilson_interval,
)

MetricName = Literal[
    "success", "return", "normalized_score", "largest_reward",
    "valid_error", "valid_first_step", "valid_absolute", "valid_cosine", "valid_mean_of_samples",
    "valid_best_of_samples",
]  # fmt: skip
#: The key and column of a metric's name on disk, in sweep files and on the command line, and the one that it had before
#: policies had an `objective`.
KEY, FORMER_KEY = "metric", "objective"
Direction = Literal["maximize", "minimize"]
#: What the score over several tasks is: their mean, each task counting equally, or that of the worst task.
OverTasks = Literal["mean", "worst"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """A measure by which policies are compared."""

    name: MetricName
    label: str
    """Text for headings, e.g. `success`."""
    meaning: str
    """What the number of one policy is, as part of a sentence."""
    direction: Direction = "maximize"
    """Whether a larger or a smaller number is better."""
    unit: str = ""
    """Written behind a number."""
    factor: float = 1.0
    """Numbers are multiplied by this to be written in `unit`."""
    digits: int | None = None
    """Digits behind the point; None: as many as the size of the number makes sensible."""
    is_rate: bool = False
    """Every episode counts 0 or 1, so the interval of the mean is Wilson's; otherwise it is Student's t."""
    from_episodes: bool = True
    """Computed from episodes in an environment; otherwise from held-out data, by the trainer."""
    reference: tuple[float, float] | None = None
    """normalized_score: returns of a random and of an expert policy."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest value that one episode can have; None: unknown."""
    has_success: bool = True
    """Whether the task tells success, so that rates mean anything."""
    over_tasks: OverTasks = "mean"
    """The score of a policy that is measured on several tasks."""

    # --- the value of an episode --------------------------------------------------------------------------------------

    def value_of(self, outcome: str, episode_return: float, largest_reward: float | None) -> float:
        """The score of one episode; nan for an error, and where the largest reward was not recorded."""
        if outcome == "error":
            return math.nan
        if self.name == "success":
            return float(outcome == "success")
        if self.name == "largest_reward":
            return math.nan if largest_reward is None else largest_reward
        if self.name == "return":
            return episode_return
        if self.name == "normalized_score":
            assert self.reference is not None, "resolve() sets the reference"
            return normalized(episode_return, self.reference)
        raise ValueError(f"{self.name} is not computed from episodes")

    def of_episode(self, episode: Mapping[str, Any]) -> float:
        """The score of a `raybc.rows.EpisodeRow`."""
        return self.value_of(episode["outcome"], episode["return"], episode.get("max_reward"))

    def of_entry(self, entry: Sequence[Any]) -> float:
        """The score of a `raybc.rows.EpisodeEntry`: index, outcome, steps, return and, in newer files, largest
        reward."""
        return self.value_of(entry[1], entry[3], entry[4] if len(entry) > 4 else None)

    def unit_value(self, value: float) -> float:
        """`value` of an episode on the scale 0 (the worst possible) .. 1 (the best), for races; nan stays nan. Raises
        `ValueError` where the bounds are unknown."""
        if self.bounds is None:
            raise ValueError(f"{self.name}: the range is unknown")
        low, high = self.bounds
        if math.isnan(value):
            return value
        return min(1.0, max(0.0, (value - low) / (high - low)))

    # --- comparing ----------------------------------------------------------------------------------------------------

    def cost(self, value: float | None) -> float:
        """A number that is smaller for a better value; a missing one is the worst."""
        if value is None or math.isnan(value):
            return math.inf
        return -value if self.direction == "maximize" else value

    def over(self, values: Sequence[float]) -> float:
        """The score over several tasks from those of each (see `over_tasks`)."""
        if self.over_tasks == "mean":
            return fmean(values)
        return max(values, key=self.cost)

    @property
    def best(self) -> str:
        """`highest` or `lowest`."""
        return "highest" if self.direction == "maximize" else "lowest"

    # --- writing ------------------------------------------------------------------------------------------------------

    def show(self, value: float | None) -> str:
        """0.96 -> `96.0 %` for success, -31.234 -> `-31.2` for a return; None and nan -> `-`."""
        if value is None or math.isnan(value):
            return "-"
        return f"{self._number(value)}{self.unit and ' ' + self.unit}"

    def show_range(self, interval: Interval | None) -> str:
        """`90.2-98.4 %`, `-40.1 to -31.2`; None -> `-`."""
        if interval is None:
            return "-"
        low, high = map(self._number, interval)
        between = " to " if "-" in low + high else "-"
        return f"{low}{between}{high}{self.unit and ' ' + self.unit}"

    def _number(self, value: float) -> str:
        value *= self.factor
        if self.digits is not None:
            return f"{value:.{self.digits}f}"
        size = abs(value)
        return f"{value:.1f}" if size >= 100 else f"{value:.2f}" if size >= 1 else f"{value:.3g}"

    @property
    def interval_name(self) -> str:
        """The interval that belongs to the mean over episodes."""
        if not self.from_episodes:
            return "Student's t over seeds"
        return "Wilson" if self.is_rate else "Student's t"

    def to_plain(self) -> dict[str, Any]:
        """What a page needs to write and to draw the numbers (JSON values)."""
        return {
            "name": self.name, "label": self.label, "meaning": self.meaning, "direction": self.direction,
            "unit": self.unit, "factor": self.factor, "digits": self.digits, "rate": self.is_rate,
            "episodes": self.from_episodes, "interval": self.interval_name,
        }  # fmt: skip


def metric_name(row: Mapping[str, Any]) -> str:
    """The name of the metric in a row or a configuration on disk; "" where releases compared by success alone."""
    return str(row.get(KEY) or row.get(FORMER_KEY) or "")


def normalized(episode_return: float, reference: tuple[float, float]) -> float:
    """D4RL's score, 100 (R - random) / (expert - random) (Fu et al. 2020, arXiv:2004.07219). reference: the returns of
    a random and of an expert policy."""
    return 100 * (episode_return - reference[0]) / (reference[1] - reference[0])


def _held_out(name: MetricName, label: str, meaning: str) -> Metric:
    """A measure on held-out episodes (`raybc.inference.offline_measures`); 0 is perfect."""
    return Metric(
        name, f"held-out {label}", f"{meaning} on held-out episodes", direction="minimize", from_episodes=False
    )


#: Name -> metric, not yet bound to a task (see `resolve`).
METRICS: dict[str, Metric] = {
    o.name: o
    for o in (
        Metric(
            "success", "success", "the share of episodes that solve the task", unit="%", factor=100.0, digits=1,
            is_rate=True, bounds=(0.0, 1.0),
        ),
        Metric("return", "return", "the mean return of an episode"),
        Metric(
            "normalized_score", "D4RL score",
            "the mean return of an episode on D4RL's scale (0: a random policy, 100: an expert)", digits=1,
        ),
        Metric("largest_reward", "largest reward", "the mean of the largest reward of each episode", digits=3),
        _held_out("valid_error", "error", "the error of actions"),
        _held_out("valid_first_step", "error of the first step", "the error of the first action of each chunk"),
        _held_out("valid_absolute", "absolute error", "the mean absolute error of actions"),
        _held_out("valid_cosine", "cosine distance", "one minus the cosine between predicted and recorded chunks"),
        _held_out("valid_mean_of_samples", "error of the mean sample", "the error of the mean of several samples"),
        _held_out("valid_best_of_samples", "error of the best sample", "the error of the best of several samples"),
    )
}  # fmt: skip
assert set(METRICS) == set(get_args(MetricName))
#: The metric of everything that earlier releases wrote.
SUCCESS = METRICS["success"]


def over_tasks(metric: Metric, over: OverTasks) -> Metric:
    """The metric of several tasks, with a name for tables."""
    if over == "mean":
        return metric
    label = f"{metric.label} on the worst task"
    return replace(metric, over_tasks=over, label=label, meaning=f"{metric.meaning}, on the task where it is the worst")


# --- what rows add up to ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """The score of a policy, or of several, over all their episodes. Errors are counted apart and in nothing."""

    metric: Metric
    value: float | None
    """The mean over valid episodes (of `valid_error`: over policies); None if nothing was measured."""
    interval: Interval | None
    """95 % interval of the mean; None where the data do not say (one episode, or values that agree exactly)."""
    episodes: int
    successes: int
    errors: int
    mean_steps_success: float | None = None
    """Mean number of steps of the episodes that solved the task; None without any."""
    tasks: Mapping[str, Score] = field(default_factory=dict)
    """Of a policy that was measured on several tasks: the score of each, of which `value` is the mean or the worst
    (`Metric.over_tasks`), None while a task has no valid episode."""

    @property
    def bounds(self) -> Interval | None:
        """The lowest and the highest mean, if errors counted as the worst and as the best an episode can be; None where
        these are unknown. Without errors both are the mean."""
        if self.tasks:
            each = [score.bounds for score in self.tasks.values()]
            known = [bounds for bounds in each if bounds is not None]
            over = self.metric.over
            return (over([b[0] for b in known]), over([b[1] for b in known])) if len(known) == len(each) else None
        if self.metric.bounds is None or not self.metric.from_episodes:
            return None if self.errors else (self.value, self.value) if self.value is not None else None
        low, high = self.metric.bounds
        return bounds_with_errors(self.value or 0.0, self.episodes, self.errors, low, high)

    @property
    def cautious(self) -> float | None:
        """What policies are compared by: the mean with errors as the worst an episode can be, so that nobody profits
        from episodes that could not be run; without errors, and where the worst is unknown, the mean. None if nothing
        was measured."""
        unknown = self.value is None and not (self.tasks and self.episodes)
        if not self.errors or unknown or self.bounds is None:
            return self.value
        return self.bounds[0] if self.metric.direction == "maximize" else self.bounds[1]

    @property
    def too_many_errors(self) -> bool:
        """Whether too many episodes ended in errors for the mean to be quoted."""
        return too_many_errors(self.errors, self.episodes + self.errors)

    @property
    def order(self) -> tuple[bool, float]:
        """Smaller for a better score. Where the worst an episode can be is unknown, a score with too many errors is
        behind all others."""
        return self.too_many_errors and self.metric.bounds is None, self.metric.cost(self.cautious)

    @property
    def errors_text(self) -> str:
        """`14 of 20 episodes ended in errors; 30.0-100.0 % if errors count as failures or as successes`; "" without."""
        if not self.errors:
            return ""
        text = f"{self.errors} of {self.episodes + self.errors} episodes ended in errors"
        return f"{text}; {self.bounds_text}" if self.bounds is not None and self.episodes else text

    @property
    def bounds_text(self) -> str:
        """`30.0-100.0 % if errors count as failures or as successes`; "" without errors or bounds."""
        if not self.errors or self.bounds is None:
            return ""
        low, high = ("failures", "successes") if self.metric.is_rate else ("the lowest", "the highest value")
        return f"{self.metric.show_range(self.bounds)} if errors count as {low} or as {high}"

    @property
    def text(self) -> str:
        """`96.0 %`."""
        return self.metric.show(self.value)

    @property
    def range_text(self) -> str:
        """`90.2-98.4 %`, or `-`."""
        return self.metric.show_range(self.interval)


def summary(values: Sequence[float]) -> tuple[float | None, float | None]:
    """(mean, sample standard deviation) of the scores of episodes, without nan: `score` and `score_sd` of a row."""
    valid = [value for value in values if not math.isnan(value)]
    return (fmean(valid) if valid else None), (stdev(valid) if len(valid) > 1 else None)


def score_of(rows: Sequence[Mapping[str, Any]], metric: Metric) -> Score:
    """Pool rows (`raybc.rows.EpisodeCounts`) of one metric over their episodes.

    Rows of earlier releases have no `score`; their success rate is computed from their counts. Rows of several tasks
    (`tasks`) are pooled over each task, and the tasks count equally.
    """
    if any(row.get("tasks") for row in rows):
        return _over_tasks(rows, metric)
    counts: dict[str, Any] = {
        name: sum(int(row.get(name) or 0) for row in rows) for name in ("episodes", "successes", "errors")
    }
    counts["mean_steps_success"] = _mean_steps(rows)
    if metric.is_rate:
        n = counts["episodes"]
        return Score(metric, counts["successes"] / n if n else None, _interval(rows, metric, 0.95), **counts)
    known = [row for row in rows if row.get("score") is not None]
    if not metric.from_episodes:
        values = [float(row["score"]) for row in known]
        spread = stdev(values) if len(values) > 1 else None
        value = fmean(values) if values else None
        return Score(metric, value, mean_interval(value, spread, len(values)), **counts)
    return Score(metric, _pool(known)[0], _interval(known, metric, 0.95), **counts)


def _over_tasks(rows: Sequence[Mapping[str, Any]], metric: Metric) -> Score:
    """The score over tasks, with the interval of their mean (`raybc.statistics.stratified_rate_interval`, of other
    means `stratified_mean_interval`), or of the worst task.

    The worst task: low is the lowest of the tasks' lower ends, since the interval of the one that is truly the worst
    covers it; high is the lowest of upper ends at a level of 5 % / (number of tasks), since any task may look worse
    than it is (intersection-union: R. L. Berger, Technometrics 24 (4), 1982, pp. 295-300).
    """
    names = dict.fromkeys(name for row in rows for name in row["tasks"])
    parts = {name: [row["tasks"][name] for row in rows if name in row["tasks"]] for name in names}
    tasks = {name: score_of(part, metric) for name, part in parts.items()}
    values = [score.value for score in tasks.values() if score.value is not None]
    counts: dict[str, Any] = {
        name: sum(getattr(score, name) for score in tasks.values()) for name in ("episodes", "successes", "errors")
    }
    counts |= {"mean_steps_success": _mean_steps([row for part in parts.values() for row in part]), "tasks": tasks}
    if len(values) < len(tasks):
        return Score(metric, None, None, **counts)
    interval: Interval | None
    if metric.over_tasks == "worst":
        wider = [_interval(part, metric, 1 - 0.05 / len(tasks)) for part in parts.values()]
        ends = zip((score.interval for score in tasks.values()), wider, strict=True)
        known = [(own[0], wide[1]) for own, wide in ends if own is not None and wide is not None]
        interval = (min(low for low, _ in known), min(high for _, high in known)) if len(known) == len(tasks) else None
    elif metric.is_rate:
        interval = stratified_rate_interval([(score.successes, score.episodes) for score in tasks.values()])
    else:
        interval = stratified_mean_interval([_pool(part) for part in parts.values()], metric.bounds)
    return Score(metric, metric.over(values), interval, **counts)


def _interval(rows: Sequence[Mapping[str, Any]], metric: Metric, confidence: float) -> Interval | None:
    """The interval of `score_of` at another level."""
    if metric.is_rate:
        n = sum(int(row.get("episodes") or 0) for row in rows)
        return wilson_interval(sum(int(row.get("successes") or 0) for row in rows), n, confidence) if n else None
    return mean_interval(*_pool(rows), metric.bounds, confidence)


def _mean_steps(rows: Sequence[Mapping[str, Any]]) -> float | None:
    solved = [(row.get("mean_steps_success"), row["successes"]) for row in rows if row["successes"]]
    if not solved or any(mean is None for mean, _ in solved):
        return None
    return sum((mean or 0.0) * count for mean, count in solved) / sum(count for _, count in solved)


def _pool(rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation and number of the scores of all episodes, from those of each row."""
    rows = [row for row in rows if row.get("score") is not None]
    n = sum(row["episodes"] for row in rows)
    if not n:
        return None, None, 0
    mean = sum(row["episodes"] * row["score"] for row in rows) / n
    within = sum((row["episodes"] - 1) * (row.get("score_sd") or 0.0) ** 2 for row in rows)
    between = sum(row["episodes"] * (row["score"] - mean) ** 2 for row in rows)
    return mean, (math.sqrt((within + between) / (n - 1)) if n > 1 else None), n
