"""`raybc.Sweep`: a search for recipes, read from its folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybc.api.curves import Panel, Series, panel
from raybc.api.figures import Backend, figure_of, frame_of
from raybc.api.show import Facts, Video, nth
from raybc.files import expanded
from raybc.report.films import films_of
from raybc.report.read import RunTables, load_run
from raybc.report.tables import LeaderboardRow, leaderboard, status_counts, winner_line
from raybc.report.text import show
from raybc.run_folder import SweepFolder
from raybc.types import SampleSetting

if TYPE_CHECKING:
    from raybc.api.evaluations import Evaluation
    from raybc.inference.policy import Policy


@dataclass(frozen=True)
class Winner:
    """The recipe that a sweep chose, and the number to quote."""

    trial: int
    """Its number."""
    options: dict[str, Any]
    """Axis -> value."""
    setting: SampleSetting | None
    """How its actions are sampled."""
    score: float | None
    """The mean of the sweep's metric on final starts (without a simulator: the error on held-out episodes); None if it
    was not measured there."""
    interval: tuple[float, float] | None
    """Its 95 % interval."""
    success_rate: float | None
    """The score, where the metric is success."""
    text: str
    """The sentence to quote."""

    def __repr__(self) -> str:
        return self.text


class Sweep:
    """A search for recipes, read from its folder, also while it runs.

    Args:
        folder: what `raybc sweep` and `raybc.sweep` wrote, also in earlier releases.

    Raises `UserError` where there is no sweep, or no trial yet.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder: Path = expanded(os.fspath(folder), "folder")
        self._run: RunTables = load_run(self.folder)
        self._rows: list[LeaderboardRow] = leaderboard(self._run)

    @property
    def name(self) -> str:
        """Its name."""
        return self._run.name

    @property
    def finished(self) -> bool:
        """Whether a winner was chosen and measured."""
        return self._run.winner is not None

    @property
    def winner(self) -> Winner | None:
        """The recipe that was chosen; None while there is none."""
        row = next((row for row in self._rows if row.is_winner), None)
        if row is None:
            return None
        value = row.final.value if row.final else None
        interval = row.final.interval if row.final else None
        rate = value if self._run.metric.is_rate else None
        return Winner(row.trial, row.params, row.setting, value, interval, rate, winner_line(self._run, self._rows))

    @property
    def report(self) -> Path:
        """The page to send; `raybc report` writes it again."""
        return SweepFolder(self.folder).report

    def policy(self, **changes: Any) -> Policy:
        """The winner's policy. changes: further arguments of `raybc.load`."""
        import raybc

        return raybc.load(self.folder, **changes)

    def evaluate(self, task: str = "", **options: Any) -> Evaluation:
        """Measure the winner, see `raybc.evaluate`."""
        import raybc

        return raybc.evaluate(self, task, **options)

    def trials(self) -> list[dict[str, Any]]:
        """A row for each trial in the order of the leaderboard: `trial`, `status`, `score` on search starts, `final`
        with the ends of its 95 % interval, the axes, and where the time went."""
        found = []
        for row in self._rows:
            ends = (row.final and row.final.interval) or (None, None)
            found.append(
                {
                    "trial": row.trial, "winner": row.is_winner, "status": row.status, "score": row.score,
                    "final": row.final.value if row.final else None, "final_low": ends[0], "final_high": ends[1],
                    **row.params, "setting": row.setting.label() if row.setting else "", "step": row.step,
                    "errors": row.errors, "train_seconds": row.train_seconds, "rollout_seconds": row.rollout_seconds,
                }
            )  # fmt: skip
        return found

    def frame(self) -> Any:
        """`trials` as a `pandas.DataFrame`. Raises `UserError` where pandas is not installed."""
        return frame_of(self.trials(), "Sweep")

    def plot(self, backend: Backend = "plotly") -> Any:
        """Scores of the trials, and those on final starts with their intervals: a figure of plotly or Matplotlib."""
        return figure_of(self._panels(), backend, f"{self.folder}")

    def videos(self) -> list[Video]:
        """The films: the winner's first."""
        films = films_of(SweepFolder(self.folder), self._run.videos)
        chosen = self._run.winner["trial"] if self._run.winner else None
        films.sort(key=lambda film: film["trial"] != chosen)
        shown = [(self.folder / film["file"], film) for film in films]
        return [
            Video(path, f"trial {film['trial']}, {film['split']} start {film['index']}: {film['outcome']}")
            for path, film in shown
            if path.is_file()
        ]

    def video(self, i: int = 0) -> Video:
        """Film `i`. Raises `UserError` where no episode was filmed."""
        return nth(self.videos(), i, f"{self.folder}", "final.videos in the sweep films the winner")

    def _panels(self) -> list[Panel]:
        metric = self._run.metric
        searched = sorted((row.trial, row.score) for row in self._rows if row.score is not None)
        measured = sorted((r for r in self._rows if r.final and r.final.value is not None), key=lambda r: r.trial)
        best: list[float] = []
        for _, score in searched:
            best.append(min([*best[-1:], score], key=metric.cost))
        numbers = [trial for trial, _ in searched]
        search = Series("search", numbers, [score for _, score in searched], points=True)
        scores = [row.final for row in measured if row.final]
        values, intervals = [score.value or 0.0 for score in scores], [score.interval for score in scores]
        final = Series("final", [row.trial for row in measured], values, intervals, points=True)
        return panel(metric.label, "trial", search, Series("best so far", numbers, best), final, percent=metric.is_rate)

    # --- shown --------------------------------------------------------------------------------------------------------

    def _facts(self) -> Facts:
        metric, axes = self._run.metric, self._run.axes
        counts = ", ".join(f"{count} {status}" for status, count in status_counts(self._run).items())
        facts = (
            ("folder", str(self.folder)),
            ("trials", counts or "none"),
            ("result", winner_line(self._run, self._rows)),
            *([("report", str(self.report))] if self.report.is_file() else []),
        )
        names = (f"search {metric.label}", f"final {metric.label}", "95 % interval")
        header = ("trial", "status", *names, *axes, "sampling")
        rows = tuple(
            (
                f"{row.trial}{' (winner)' if row.is_winner else ''}", row.status, metric.show(row.score),
                row.final.text if row.final else "-", row.final.range_text if row.final else "-",
                *(show(row.params.get(axis)) for axis in axes), row.setting.label() if row.setting else "-",
            )
            for row in self._rows
        )  # fmt: skip
        return Facts(f"Sweep {self.name}", facts, header, rows)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return self._facts().text()

    def _repr_html_(self) -> str:
        films = self.videos()
        return self._facts().html(self._panels(), films[0] if films else None)
