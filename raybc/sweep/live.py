"""Progress of a sweep: a live table in a terminal, one line per event elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raybc.metric import score_of
from raybc.rollout.notices import Notices
from raybc.rollout.results import best_setting
from raybc.rows import rows_at
from raybc.sweep.ledger import SweepState, TrialState

STYLE = {"running": "cyan", "completed": "green", "pruned": "dim", "failed": "red"}
#: Maximum number of trials shown; running ones and the best come first.
ROWS = 24


class LiveTable:
    """Shows `state`; call `refresh()` after each event."""

    def __init__(self, console: Console, state: SweepState, trials: int, evaluations: int) -> None:
        self._console, self._state, self._trials, self._evaluations = console, state, trials, evaluations
        self._started = time.monotonic()
        self._seen: dict[int, tuple[str, int]] = {n: _mark(t) for n, t in state.trials.items()}
        self._looked_at = {n: len(t.evaluations) for n, t in state.trials.items()}
        self._notices = Notices(lambda text: console.print(text, style="yellow"))
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=False)

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def refresh(self) -> None:
        self._show_notes()
        if self._console.is_terminal:
            return  # the live table refreshes itself
        for number, trial in self._state.trials.items():
            if self._seen.get(number) != _mark(trial):
                self._seen[number] = _mark(trial)
                self._console.print(self._line(trial))

    def _show_notes(self) -> None:
        """Print the first error of the sweep with its traceback, and each kind of note about episodes, once."""
        for trial in self._state.trials.values():
            new = trial.evaluations[self._looked_at.get(trial.number, 0) :]
            self._looked_at[trial.number] = len(trial.evaluations)
            for row in [row for evaluation in new for row in evaluation.rows]:
                self._notices.evaluated(f"trial {trial.number}: ", row, score_of([row], self._state.metric))

    def _line(self, trial: TrialState) -> str:
        params = ", ".join(f"{k}={_short(v)}" for k, v in trial.params.items())
        if not trial.evaluations:
            what = f"failed: {trial.reason}" if trial.status == "failed" else f"started ({trial.origin}): {params}"
            return f"trial {trial.number}: {what}"
        last, metric = trial.evaluations[-1], self._state.metric
        text = f"trial {trial.number}: step {last.step}: {metric.label} {metric.show(last.score)}"
        score = score_of(rows_at(last.rows, best_setting(last.rows, metric)), metric) if last.rows else None
        text += f" ({score.errors_text})" if score is not None and score.errors else ""
        return text + ("" if trial.status == "running" else f" [{trial.status}] {trial.reason}")

    def _render(self) -> RenderableType:
        metric = self._state.metric
        trials = sorted(
            self._state.trials.values(), key=lambda t: (t.status != "running", metric.cost(t.score), t.number)
        )
        axes = list(dict.fromkeys(axis for trial in trials for axis in trial.params))
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for column in ("trial", "status", "evaluation", metric.label, "errors", *axes):
            table.add_column(column, justify="left" if column == "status" else "right")
        for trial in trials[:ROWS]:
            score = "" if trial.score is None else metric.show(trial.score)
            table.add_row(
                str(trial.number),
                trial.status,
                f"{len(trial.evaluations)}/{self._evaluations}",
                score,
                str(trial.errors or ""),
                *(_short(trial.params.get(a, "")) for a in axes),
                style=STYLE[trial.status],
            )
        done = len(self._state.finished())
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        line = f"{done} of {self._trials} trials finished, {len(trials) - done} running, {minutes}:{seconds:02d}"
        if len(trials) > ROWS:
            line += f" ({len(trials) - ROWS} not shown)"
        return Group(table, Text(line, style="bold"))


def _mark(trial: TrialState) -> tuple[str, int]:
    return trial.status, len(trial.evaluations)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
