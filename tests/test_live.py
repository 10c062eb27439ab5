"""What a terminal of a given width, and a log, show of a running sweep."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from raybc.metric import METRICS
from raybc.sweep import live as live_module
from raybc.sweep.ledger import SweepState
from raybc.sweep.live import LiveTable
from raybc.sweep.live_table import clock, render, seconds_left, summary_line
from tests.test_sweep_errors import row

AXES = {"lr": 8.27e-05, "horizon_length": 16, "hidden_width": 128, "flow_steps": 10, "weight_decay": 1e-6}
EVALUATIONS = 4


def a_sweep(trials: int = 6, running: int = 2) -> SweepState:
    """The first `running` trials have been evaluated once, the others have finished; all starts of the last are solved,
    so its cell is as wide as it can be."""
    state = SweepState()
    for number in range(trials):
        axes: Any = {"event": "start", "trial": number, "params": AXES, "origin": "sampler"}
        state.apply(axes)
        for k in range(1, 2 if number < running else EVALUATIONS + 1):
            status = "completed" if k == EVALUATIONS else "running"
            solved = 200 if number == trials - 1 else 100 - number
            event: Any = {
                "event": "evaluation", "trial": number, "evaluation": k, "step": 500 * k, "status": status,
                "score": solved / 200, "rows": [row(number, solved, 200, 12 if number == 3 else 0)],
                "timing": {"train": [0.0, 1.0], "rollout": [1.0, 2.0], "train_seconds": 1.0},
            }  # fmt: skip
            state.apply(event)
    return state


def lines_at(width: int, state: SweepState, trials: int = 8, height: int = 50) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    console.print(render(state, trials, EVALUATIONS, 125.0, width, height))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize(("width", "axes"), [(60, 0), (80, 2), (100, 5), (200, 5)])
def test_results_are_whole_at_every_width_and_axes_as_room_allows(width: int, axes: int) -> None:
    lines = lines_at(width, a_sweep())
    assert max(map(len, lines)) <= width
    head, text = " ".join(lines[:3]), "\n".join(lines)
    for name in ("trial", "status", "success", "(95 % interval)", "errors"):
        assert name in head
    assert re.search(r"^ +5  completed +4/4  100\.0 % \(98\.1-100\.0 %\)", text, re.M)
    assert re.search(r"^ +0  running +1/4  50\.0 % \(43\.1-56\.9 %\)", text, re.M)
    assert re.search(r"^ +3  completed +4/4  48\.5 % \(41\.7-55\.4 %\) +48", text, re.M)
    assert "4 of 8 trials finished, 2 running, 2:05, 1:37 left" in lines
    shown = [axis for axis in AXES if axis not in text.partition("not shown")[2]]
    assert len(shown) == axes
    assert ("8.27e-05" in text) == ("lr" in shown)
    assert "..." not in text
    assert "…" not in text


def test_a_narrow_terminal_loses_the_evaluations_first() -> None:
    lines = lines_at(48, a_sweep())
    assert max(map(len, lines[:8])) <= 48
    assert "eval" not in "".join(lines[:3]).replace("interval", "")
    assert any("100.0 % (98.1-100.0 %)" in line for line in lines)


def test_a_low_terminal_shows_fewer_trials_and_says_so() -> None:
    lines = lines_at(80, a_sweep(trials=40), trials=40, height=24)
    assert len(lines) <= 24
    assert any(line.startswith("not shown: 21 trials") for line in lines)


def test_a_long_name_of_a_metric_is_folded() -> None:
    state = a_sweep()
    state.metric = METRICS["normalized_score"]
    assert max(map(len, lines_at(80, state))) <= 80


def test_time_left_counts_what_this_process_measured() -> None:
    state = a_sweep(trials=4, running=2)  # 2 + 8 evaluations; each running trial lacks 3, and 4 trials lack all
    assert seconds_left(state, 8, EVALUATIONS, 100.0) == pytest.approx(100.0 * (4 * 4 + 2 * 3) / 10)
    assert seconds_left(state, 8, EVALUATIONS, 100.0, known=8) == pytest.approx(100.0 * 22 / 2)
    assert seconds_left(state, 8, EVALUATIONS, 100.0, known=10) is None, "nothing has been measured yet"
    assert seconds_left(a_sweep(trials=2), 8, EVALUATIONS, 100.0) is None, "no trial has finished"
    assert (clock(65), clock(7207)) == ("1:05", "2:00:07")
    assert len(summary_line(a_sweep(), 1000, EVALUATIONS, 3600.0)) <= 68


def test_a_log_gets_plain_lines_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first number at once, evaluations in the middle of trials now and then, every end of a trial."""
    monkeypatch.setattr(live_module, "LINE_INTERVAL", 1000.0)
    out = io.StringIO()
    state, events = SweepState(), []
    for number in range(3):
        events.append({"event": "start", "trial": number, "params": AXES, "origin": "sampler"})
        events += [
            {
                "event": "evaluation", "trial": number, "evaluation": k, "step": 500 * k, "score": 0.5,
                "status": "completed" if k == EVALUATIONS else "running", "rows": [row(number, 100, 200, 0)],
                "timing": {"train": [0.0, 1.0], "rollout": [1.0, 2.0], "train_seconds": 1.0},
            }
            for k in range(1, EVALUATIONS + 1)
        ]  # fmt: skip
    with LiveTable(Console(file=out, width=80, soft_wrap=True, markup=False), state, 3, EVALUATIONS) as live:
        for event in events:
            state.apply(event)  # type: ignore[arg-type]
            live.refresh()
    lines = out.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "trial 0",
        "trial 0",
        "trial 0",
        *["trial 1"] * 2,
        *["trial 2"] * 2,
    ]
    assert lines[1] == "trial 0: step 500: success 50.0 % (43.1-56.9 %)"
    assert lines[2].startswith("trial 0: step 2000: success 50.0 % (43.1-56.9 %) [completed]; 1 of 3 trials finished")
    assert "\x1b" not in out.getvalue()
