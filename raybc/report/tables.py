"""The leaderboard of a sweep, and what is said about it. Everything here is arithmetic on files.

Two rules decide every number. The order of the leaderboard comes from search starts, which selection used; final starts
only measure. Episodes that ended in an error are counted apart and never enter a rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from raybc.metric import Metric, Score, score_of
from raybc.report.read import RunTables, TrialRow, totals
from raybc.report.sampling import Sampling
from raybc.report.text import percent
from raybc.rows import ResultRow, setting_of
from raybc.statistics import ERRORS_ALLOWED, seed_interval
from raybc.types import SampleSetting

#: Order of the leaderboard by status; the winner and the trials measured on final starts come first.
STATUS_ORDER = ("completed", "running", "waiting", "pruned", "failed")


@dataclass(frozen=True)
class LeaderboardRow(TrialRow):
    """One trial and its results."""

    is_winner: bool
    setting: SampleSetting | None
    """The chosen sample setting; None if the trial was not evaluated."""
    final: Score | None
    """On final starts at `setting`, pooled over seeds; None if not measured there."""
    final_per_seed: dict[int, Score]
    seed_interval: tuple[float, float] | None
    unusable: Score | None
    """The final score, if too many of its episodes ended in errors for a winner to be declared."""
    per_sampling: dict[Sampling, Score]
    """On final starts at every measured solver, flow_steps and best_of_n, else at `setting`; the cheapest first."""
    errors: int
    """Episodes of this trial, on search and final starts, that ended in an error."""
    ends: dict[str, int]
    """Failures, timeouts and errors on final starts at `setting`; of a trial that was not measured there: on search
    starts, at its last evaluation."""

    @property
    def sampling(self) -> Sampling | None:
        """The one of `per_sampling` that was chosen."""
        same = [s for s in self.per_sampling if self.setting and s.at(self.setting) == self.setting]
        return same[0] if same else None

    @property
    def seed_mean(self) -> float | None:
        values = [score.value for score in self.final_per_seed.values() if score.value is not None]
        return fmean(values) if values else None


def leaderboard(run: RunTables) -> list[LeaderboardRow]:
    """Trials in the order of selection: the winner, others with final starts, then by status, then by search score."""
    results: dict[int, list[ResultRow]] = {}
    for result in run.results:
        results.setdefault(result["trial"], []).append(result)
    rows = [_leaderboard_row(run, trial, results.get(trial.trial, [])) for trial in run.trials]

    def order(row: LeaderboardRow) -> tuple[Any, ...]:
        status = STATUS_ORDER.index(row.status) if row.status in STATUS_ORDER else len(STATUS_ORDER)
        return not row.is_winner, row.final is None, status, run.metric.cost(row.score), row.trial

    return sorted(rows, key=order)


def chosen_setting(run: RunTables, trial: int, results: Iterable[ResultRow]) -> SampleSetting | None:
    """The sample setting of a trial: the winner's as recorded, else the best on search starts at its last evaluation
    (pooled over seeds; of equals the one with the fewest evaluations of the network). None when nothing was evaluated.

    results: of the trial.
    """
    if run.winner and run.winner["trial"] == trial and run.winner.get("setting"):
        return run.winner_setting()
    metric = run.metric
    rows = [row for row in results if row["phase"] == "search" and score_of([row], metric).value is not None]
    last = max((row["evaluation"] for row in rows), default=0)
    pools: dict[SampleSetting, list[ResultRow]] = {}
    for row in rows:
        if row["evaluation"] == last:
            pools.setdefault(setting_of(row), []).append(row)

    def order(setting: SampleSetting) -> tuple[float | str, ...]:
        return *score_of(pools[setting], metric).order, *setting.order

    return min(pools, key=order, default=None)


def _leaderboard_row(run: RunTables, trial: TrialRow, results: list[ResultRow]) -> LeaderboardRow:
    setting = chosen_setting(run, trial.trial, results)
    latest: dict[tuple[int, SampleSetting], ResultRow] = {}  # measuring the same starts again adds no starts
    for row in results:
        if row["phase"] == "final":
            key = row["seed"], setting_of(row)
            if key not in latest or row["evaluation"] >= latest[key]["evaluation"]:
                latest[key] = row
    metric = run.metric
    if not metric.from_episodes:  # there is no other measurement than the last one of the search
        last = max((row["evaluation"] for row in results), default=0)
        latest = {(row["seed"], setting_of(row)): row for row in results if row["evaluation"] == last}
    here = [row for (_, at), row in sorted(latest.items(), key=lambda item: item[0][0]) if at == setting]
    per_seed = {row["seed"]: score for row in here if (score := score_of([row], metric)).value is not None}
    costs: dict[Sampling, list[ResultRow]] = {}
    for (_, at), row in latest.items():
        sampling = Sampling.of(at, run.evaluations(trial.params, at))
        if setting and at == sampling.at(setting):
            costs.setdefault(sampling, []).append(row)
    return LeaderboardRow(
        **vars(trial),
        is_winner=run.winner is not None and run.winner["trial"] == trial.trial,
        setting=setting,
        final=score_of(here, metric) if per_seed else None,
        unusable=final if (final := score_of(here, metric)).too_many_errors else None,
        final_per_seed=per_seed,
        seed_interval=seed_interval([score.value or 0.0 for score in per_seed.values()], bounds=metric.bounds),
        per_sampling={at: pool for at in sorted(costs) if (pool := score_of(costs[at], metric)).value is not None},
        errors=sum(row["errors"] for row in results),
        ends=totals(here or _last_search(results, setting), "failures", "timeouts", "errors"),
    )


def _last_search(results: list[ResultRow], setting: SampleSetting | None) -> list[ResultRow]:
    """The rows of the last evaluation on search starts at a sample setting."""
    last = max((row["evaluation"] for row in results if row["phase"] == "search"), default=0)
    rows = [row for row in results if row["phase"] == "search" and row["evaluation"] == last]
    return [row for row in rows if setting_of(row) == setting]


@dataclass(frozen=True)
class CostRow:
    """A line of the table of evaluations of the network against success."""

    row: LeaderboardRow
    sampling: Sampling
    score: Score

    @property
    def is_chosen(self) -> bool:
        return self.sampling == self.row.sampling


def costs(rows: Iterable[LeaderboardRow]) -> list[CostRow]:
    """What was measured on final starts at every cost; the cheapest first, and the winner before others."""
    found = [CostRow(row, at, score) for row in rows for at, score in row.per_sampling.items()]
    return sorted(found, key=lambda cost: (cost.sampling, not cost.row.is_winner, cost.row.trial))


def winner_line(run: RunTables, rows: list[LeaderboardRow]) -> str:
    """The sentence to quote: rate, interval, counts and seeds, or why there is no winner."""
    winner = next((row for row in rows if row.is_winner), None)
    if winner is None:
        counts = ", ".join(f"{count} {status}" for status, count in status_counts(run).items()) or "none started"
        unusable = next((row for row in rows if row.unusable is not None), None)
        if unusable is not None and unusable.unusable is not None:
            found = unusable.unusable
            return (
                f"No winner: of trial {unusable.trial} on final starts, {found.errors_text}; at most "
                f"{percent(ERRORS_ALLOWED)} may. Without them its {run.metric.label} is {found.text}."
            )
        why = "none was chosen" if "completed" in status_counts(run) else "no trial completed"
        return f"No winner: {why} ({counts})."
    text = f"Winner: trial {winner.trial}"
    if winner.setting:
        text += f" at {winner.setting.label()}"
    if winner.final is None:
        score = run.metric.show(winner.score)
        return f"{text}, not measured on final starts; its search score {score} took part in selection."
    final, seeds, metric = winner.final, len(winner.final_per_seed), run.metric
    of = f"{seeds} seed{'s' * (seeds != 1)}"
    if metric.from_episodes:
        solved = f"{final.successes}/" if metric.is_rate else ""
        of = f"{solved}{final.episodes} episodes on final starts, {of}"
    what = "" if metric.is_rate else f"{metric.label} "
    what += (
        f"{'mean over' if metric.over_tasks == 'mean' else 'worst of'} {len(final.tasks)} tasks " if final.tasks else ""
    )
    interval = f"95 % CI {final.range_text}, " if final.interval else ""
    text += f": {what}{final.text} ({interval}{of})"
    if winner.seed_interval and metric.from_episodes:
        text += f"; over seeds {metric.show(winner.seed_mean)} "
        text += f"(95 % t interval {metric.show_range(winner.seed_interval)})"
    if not metric.from_episodes:
        return f"{text}. {NO_RATE}"
    if final.errors:
        text += f"; {final.errors} error{'s' * (final.errors != 1)} not counted"
        text += f", {final.bounds_text}" if final.bounds_text else ""
    return text + "."


#: What every page says about a sweep without an environment.
NO_RATE = "No success rate was measured: there is no environment."


def task_scores(rows: Iterable[LeaderboardRow]) -> dict[str, Score]:
    """Task -> score of the winner on final starts; {} where there is one task only, or no winner."""
    return next((dict(row.final.tasks) for row in rows if row.is_winner and row.final is not None), {})


def selection_rule(run: RunTables) -> str:
    """How the winner was chosen, and the role of the final starts."""
    metric = run.metric
    measure = f"{metric.best} {metric.label} on search starts"
    rule = str((run.winner and run.winner.get("rule")) or measure).strip().rstrip(".")
    if not metric.from_episodes:
        return f"The winner was chosen on held-out episodes ({rule}), so its {metric.label} is optimistic. {NO_RATE}"
    better = "higher" if metric.direction == "maximize" else "lower"
    return (
        f"The winner was chosen on search starts ({rule}). Final starts are disjoint from them and only measure: "
        f"they choose nothing, so a trial below the winner may show a {better} final "
        f"{'rate' if metric.is_rate else metric.label}."
    )


def status_counts(run: RunTables) -> dict[str, int]:
    """Number of trials per status, in the order of the leaderboard."""
    found = [trial.status for trial in run.trials]
    return {status: found.count(status) for status in dict.fromkeys((*STATUS_ORDER, *found)) if status in found}


def interval_text(metric: Metric, tasks: int = 1) -> str:
    """Which interval stands behind the score of a trial, on this many tasks."""
    if tasks > 1 and metric.over_tasks == "worst":
        return f"interval of the worst of {tasks} tasks"
    if tasks > 1:
        return f"interval of the mean over {tasks} tasks as strata"
    if not metric.from_episodes:
        return "Student's t interval over seeds"
    name = "Wilson's" if metric.is_rate else "Student's t"
    return f"{name} interval over episodes"
