"""Progress of a sweep: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live

from raybc.metric import score_of
from raybc.rollout.notices import Notices
from raybc.rollout.results import best_setting
from raybc.rows import rows_at
from raybc.sweep.ledger import SweepState, TrialState
from raybc.sweep.live_table import render, score_text, short, summary_line

#: Without a terminal, evaluations in the middle of a trial are printed at most this often (seconds): a log of thousands
#: of trials must stay readable, and everything is in the ledger.
LINE_INTERVAL = 5.0


class LiveTable:
    """Shows `state`; call `refresh()` after each event."""

    def __init__(self, console: Console, state: SweepState, trials: int, evaluations: int) -> None:
        self._console, self._state, self._trials, self._evaluations = console, state, trials, evaluations
        self._started = time.monotonic()
        self._seen: dict[int, tuple[str, int]] = {n: _mark(t) for n, t in state.trials.items()}
        self._looked_at = {n: len(t.evaluations) for n, t in state.trials.items()}
        self._known = sum(self._looked_at.values())
        self._last_line = float("-inf")
        self._notices = Notices(lambda text: console.print(text, style="yellow"))
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=False)

    def __enter__(self) -> LiveTable:
        self._started = time.monotonic()
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
                self._print(trial)

    def _print(self, trial: TrialState) -> None:
        between = trial.status == "running" and trial.evaluations
        if between and time.monotonic() - self._last_line < LINE_INTERVAL:
            return
        self._last_line = time.monotonic() if between else self._last_line
        self._console.print(self._line(trial))

    def _show_notes(self) -> None:
        """Print the first error of the sweep with its traceback, and each kind of note about episodes, once."""
        for trial in self._state.trials.values():
            new = trial.evaluations[self._looked_at.get(trial.number, 0) :]
            self._looked_at[trial.number] = len(trial.evaluations)
            for row in [row for evaluation in new for row in evaluation.rows]:
                self._notices.evaluated(f"trial {trial.number}: ", row, score_of([row], self._state.metric))

    def _line(self, trial: TrialState) -> str:
        params = ", ".join(f"{k}={short(v)}" for k, v in trial.params.items())
        if not trial.evaluations:
            what = f"failed: {trial.reason}" if trial.status == "failed" else f"started ({trial.origin}): {params}"
            return f"trial {trial.number}: {what}"
        last, metric = trial.evaluations[-1], self._state.metric
        text = f"trial {trial.number}: step {last.step}: {metric.label} {score_text(trial, metric)}"
        score = score_of(rows_at(last.rows, best_setting(last.rows, metric)), metric) if last.rows else None
        text += f" ({score.errors_text})" if score is not None and score.errors else ""
        if trial.status == "running":
            return text
        reason = f" {trial.reason}" if trial.reason else ""
        return f"{text} [{trial.status}]{reason}; {self._summary()}"

    def _summary(self) -> str:
        return summary_line(self._state, self._trials, self._evaluations, time.monotonic() - self._started, self._known)

    def _render(self) -> RenderableType:
        seconds = time.monotonic() - self._started
        size = self._console.size
        return render(self._state, self._trials, self._evaluations, seconds, size.width, size.height, known=self._known)


def _mark(trial: TrialState) -> tuple[str, int]:
    return trial.status, len(trial.evaluations)
