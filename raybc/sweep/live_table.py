"""The table of a running sweep, made to fit the terminal: results are always whole, axes are shown as room allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raybc.metric import Metric, score_of
from raybc.rollout.results import best_setting
from raybc.rows import rows_at
from raybc.sweep.ledger import SweepState, TrialState

STYLE = {"running": "cyan", "completed": "green", "pruned": "dim", "failed": "red"}
#: Maximum number of trials shown; running ones and the best come first.
ROWS = 24
#: Columns between two columns.
GAP = 2
#: Lines that are not rows of trials: a header of two lines, the summary, what is not shown, and one to spare.
OTHER_LINES = 5


@dataclass(frozen=True)
class _Column:
    """A column as text."""

    head: str
    """May have several lines."""
    cells: Sequence[str]
    justify: Literal["left", "right"] = "right"

    @property
    def width(self) -> int:
        return max(map(len, [*self.head.split("\n"), *self.cells]))


def render(
    state: SweepState, trials: int, evaluations: int, seconds: float, width: int, height: int, known: int = 0
) -> RenderableType:
    """The table of a sweep.

    Args:
        state: of the trials so far.
        trials: all that will be searched.
        evaluations: of each trial.
        seconds: since the search began.
        width: columns of the terminal.
        height: its lines.
        known: evaluations that earlier processes of this sweep made.
    """
    metric = state.metric
    ordered = sorted(state.trials.values(), key=lambda t: (t.status != "running", metric.cost(t.score), t.number))
    shown = ordered[: max(1, min(ROWS, height - OTHER_LINES))]
    columns = [
        _Column("trial", [str(trial.number) for trial in shown]),
        _Column("status", [trial.status for trial in shown], "left"),
        _Column("eval", [f"{len(trial.evaluations)}/{evaluations}" for trial in shown]),
        _Column(
            f"{_folded(metric.label, 22)}\n(95 % interval)", [score_text(trial, metric) for trial in shown], "left"
        ),
        _Column("errors", [str(trial.errors or "") for trial in shown]),
    ]
    if _width_of(columns) > width:  # the least important of these
        del columns[2]
    axes = list(dict.fromkeys(axis for trial in ordered for axis in trial.params))
    hidden = []
    for axis in axes:
        column = _Column(_folded(axis, 8, "_"), [short(trial.params.get(axis, "")) for trial in shown])
        if _width_of([*columns, column]) <= width:
            columns.append(column)
        else:
            hidden.append(axis)
    table = Table(box=None, header_style="bold", padding=(0, GAP, 0, 0), pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(column.head, justify=column.justify, no_wrap=True, vertical="bottom")
    for number, trial in enumerate(shown):
        table.add_row(*(column.cells[number] for column in columns), style=STYLE[trial.status])
    parts: list[RenderableType] = [table, Text(summary_line(state, trials, evaluations, seconds, known), style="bold")]
    missing = [f"{len(ordered) - len(shown)} trials"] if len(ordered) > len(shown) else []
    missing += [f"axes {', '.join(hidden)}"] if hidden else []
    if missing:
        parts.append(Text(f"not shown: {'; '.join(missing)}", style="dim"))
    return Group(*parts)


def score_text(trial: TrialState, metric: Metric) -> str:
    """`95.0 % (83.5-98.6 %)`: the last evaluation at the trial's best sample setting."""
    if not trial.evaluations:
        return ""
    last = trial.evaluations[-1]
    text = metric.show(last.score)
    score = score_of(rows_at(last.rows, best_setting(last.rows, metric)), metric) if last.rows else None
    return text if score is None or score.interval is None else f"{text} ({score.range_text})"


def summary_line(state: SweepState, trials: int, evaluations: int, seconds: float, known: int = 0) -> str:
    """How far the search is; at most 60 columns for up to 1000 trials."""
    done = len(state.finished())
    text = f"{done} of {trials} trials finished, {len(state.trials) - done} running, {clock(seconds)}"
    left = seconds_left(state, trials, evaluations, seconds, known)
    return text if left is None else f"{text}, {clock(left)} left"


def seconds_left(state: SweepState, trials: int, evaluations: int, seconds: float, known: int = 0) -> float | None:
    """Seconds until the search ends, if later trials take as many evaluations as those that have finished, and an
    evaluation as long as in these `seconds`; None while that is unknown. known: evaluations made before them."""
    finished = state.finished()
    done = sum(len(trial.evaluations) for trial in state.trials.values()) - known
    if not finished or done <= 0:
        return None
    each = sum(len(trial.evaluations) for trial in finished) / len(finished)
    running = [trial for trial in state.trials.values() if not trial.finished]
    left = max(0, trials - len(state.trials)) * each
    left += sum(max(1.0, min(each, evaluations) - len(trial.evaluations)) for trial in running)
    return seconds * left / done


def clock(seconds: float) -> str:
    """`1:05`, `2:00:07`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _width_of(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def _folded(text: str, width: int, between: str = " ") -> str:
    """`text` in lines of about `width`, cut at the separator."""
    lines = [""]
    words = text.split(between)
    for number, word in enumerate(words):
        end = "" if number == len(words) - 1 else between
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word + end
    return "\n".join(line.rstrip(" ") for line in lines)
