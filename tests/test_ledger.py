"""The ledger: whole lines or none, and a state that is what the events add up to."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from raybc.sweep.ledger import Ledger, SweepState, read_events
from raybc.types import SampleSetting, UserError
from tests.helpers import ROOT


def start(trial: int, **params: Any) -> dict[str, Any]:
    return {"event": "start", "trial": trial, "params": params, "origin": "sampler"}


def row(successes: int, steps: float | None = 30.0, flow_steps: int = 1, episodes: int = 10) -> dict[str, Any]:
    return {
        **asdict(SampleSetting(flow_steps)), "episodes": episodes,
        "successes": successes, "mean_steps_success": steps if successes else None,
    }  # fmt: skip


def evaluation(
    trial: int, number: int, rows: list[dict[str, Any]], status: str = "running", score: float | None = None
) -> dict[str, Any]:
    if score is None:
        score = max(r["successes"] / r["episodes"] for r in rows)
    return {
        "event": "evaluation", "trial": trial, "evaluation": number, "step": 100 * number, "status": status,
        "score": score, "rows": rows, "timing": {"train_seconds": 1.5},
    }  # fmt: skip


EVENTS: list[dict[str, Any]] = [
    {"event": "stage", "name": "demos", "start": 1.0, "end": 2.0},
    start(0, lr=1e-3),
    start(1, lr=1e-2),
    evaluation(0, 1, [row(3)]),
    evaluation(1, 1, [row(0)], "pruned"),
    start(2, lr=1.0),
    {"event": "failed", "trial": 2, "reason": "nan — «Verlust»\n"},
    evaluation(0, 2, [row(6)], "completed"),
    start(3, lr=0.1),
    {"event": "final", "trial": 0, "rows": [row(40, episodes=50)]},
    {"event": "stage", "name": "search", "start": 2.0, "end": 5.0},
    {"event": "stage", "name": "search", "start": 6.0, "end": 9.0},
]


def test_axes_of_earlier_releases_have_the_names_of_today() -> None:
    state = SweepState.from_events([start(0, lr=1e-3, watch_interval=7)])
    assert state.trials[0].params == {"lr": 1e-3, "monitor_interval": 7}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "ledger.jsonl"
    ledger = Ledger(path)
    for event in EVENTS:
        ledger.append(event)
    ledger.close()
    return path


# The file


def test_what_is_appended_is_read(path: Path) -> None:
    assert read_events(path) == EVENTS
    lines = path.read_bytes().split(b"\n")
    assert [json.loads(line) for line in lines[:-1]] == EVENTS
    assert lines[-1] == b""
    assert read_events(path.parent / "nothing.jsonl") == []


def test_an_event_is_there_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), original(fd))[1])
    ledger = Ledger(tmp_path / "l")
    for i, event in enumerate(EVENTS, 1):
        ledger.append(event)
        assert read_events(tmp_path / "l") == EVENTS[:i]
        assert synced[-1] == (tmp_path / "l").stat().st_size, "synced after the last byte"
    ledger.close()


@pytest.mark.parametrize("cut", [1, 2, 10, 50])
def test_a_torn_last_line_is_no_event(path: Path, cut: int) -> None:
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole[:-cut])
    assert read_events(path) == EVENTS[:-1]
    assert path.read_bytes() == whole[:-cut], "a reader changes nothing"
    ledger = Ledger(path)
    assert path.read_bytes() == whole[: -len(last)], "the writer cuts it off"
    ledger.append(EVENTS[0])
    ledger.close()
    assert read_events(path) == [*EVENTS[:-1], EVENTS[0]]


def test_a_first_line_that_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "l"
    path.write_text('{"event": "sta')
    assert read_events(path) == []
    Ledger(path).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 3 is damaged; restore the file or start over with --overwrite"),
        (b"", "line 3 is damaged"),
        (b"\x00\x00\x00", "line 3 is damaged"),
        (b"\xff\xfe", "line 3 is damaged"),
        (b"[1]", "line 3: expected an event"),
        (b"{}", "line 3: expected an event"),
    ],
)
def test_a_damaged_line_is_refused_with_its_number(path: Path, line: bytes, message: str) -> None:
    lines = path.read_bytes().splitlines()
    lines[2] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UserError, match=f"{path}: {message}"):
        read_events(path)


def test_what_is_not_json_is_not_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.append(EVENTS[0])
    for bad in (float("nan"), float("inf"), object()):
        with pytest.raises((ValueError, TypeError)):
            ledger.append({"event": "stage", "name": "x", "start": bad, "end": 1})
    ledger.append(EVENTS[1])
    ledger.close()
    assert read_events(tmp_path / "l") == EVENTS[:2]


def test_a_disk_that_fails_leaves_no_event(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    ledger = Ledger(path)

    def fails(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                ledger.append(EVENTS[0])
            assert path.read_bytes() == before
    ledger.append(EVENTS[1])
    ledger.close()
    assert read_events(path) == [*EVENTS, EVENTS[1]], "it goes on when there is room again"


def test_a_disk_that_fills_up_in_the_middle_of_an_event(path: Path) -> None:
    """A real limit of the kernel, which takes part of the line: it is cut off and does not come back later."""
    code = (
        "import resource, sys; from pathlib import Path; from raybc.sweep.ledger import Ledger\n"
        "path = Path(sys.argv[1]); ledger = Ledger(path); size = path.stat().st_size\n"
        "event = {'event': 'stage', 'name': 'x' * int(sys.argv[2]), 'start': 0, 'end': 1}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))\n"
        "try: ledger.append(event)\n"
        "except OSError as error: print('refused', path.stat().st_size - size)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "if sys.argv[3] == 'on': ledger.append({'event': 'stage', 'name': 'after', 'start': 0, 'end': 1})\n"
        "ledger.close()"
    )
    events = EVENTS
    for size, then in (("100", "off"), ("100000", "off"), ("100", "on"), ("100000", "on")):
        run = subprocess.run(
            [sys.executable, "-c", code, str(path), size, then],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert (run.stdout, run.stderr) == ("refused 0\n", "")
        if then == "on":
            events = [*events, {"event": "stage", "name": "after", "start": 0, "end": 1}]
        assert read_events(path) == events


# The state


def test_the_state_is_the_sum_of_the_events() -> None:
    state = SweepState.from_events(EVENTS)
    assert {n: t.status for n, t in state.trials.items()} == {
        0: "completed", 1: "pruned", 2: "failed", 3: "running",
    }  # fmt: skip
    assert [t.number for t in state.finished()] == [0, 1, 2]
    assert [t.number for t in state.unfinished()] == [3]
    assert state.trials[0].params == {"lr": 1e-3}
    assert [(e.evaluation, e.step, e.score) for e in state.trials[0].evaluations] == [(1, 100, 0.3), (2, 200, 0.6)]
    assert state.trials[0].evaluations[0].timing == {"train_seconds": 1.5}
    assert state.trials[0].final_rows == [row(40, episodes=50)]
    assert state.trials[2].reason == "nan — «Verlust»\n"
    assert (state.trials[2].score, state.trials[3].score) == (None, None)
    assert state.stages == {"demos": [(1.0, 2.0)], "search": [(2.0, 5.0), (6.0, 9.0)]}


def test_events_one_by_one_give_the_same_state() -> None:
    state = SweepState()
    for i, event in enumerate(EVENTS):
        assert state == SweepState.from_events(EVENTS[:i])
        state.apply(event)
    assert state == SweepState.from_events(EVENTS)
    assert state == SweepState.from_events(json.loads(json.dumps(EVENTS)))


def test_the_score_is_the_last_and_not_the_luckiest() -> None:
    events = [start(0), evaluation(0, 1, [row(9)]), evaluation(0, 2, [row(4)], "completed")]
    assert SweepState.from_events(events).trials[0].score == 0.4


@pytest.mark.parametrize("event", [{"event": "promoted"}, {"event": "promoted", "trial": 0}, {"event": None}])
def test_an_unknown_event_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"unknown event {event['event']!r}; .*newer version"):
        SweepState.from_events([*EVENTS, event])


def ranked(*evaluations: dict[str, Any]) -> list[int]:
    events = [start(n) for n in sorted({e["trial"] for e in evaluations}, reverse=True)]
    return [t.number for t in SweepState.from_events([*events, *evaluations]).ranking()]


def test_ranking_is_by_success() -> None:
    assert ranked(*(evaluation(n, 1, [row(s)], "completed") for n, s in enumerate([3, 9, 5]))) == [1, 2, 0]


def test_ranking_uses_the_last_evaluation() -> None:
    assert ranked(
        evaluation(0, 1, [row(10)]), evaluation(0, 2, [row(4)], "completed"),
        evaluation(1, 1, [row(0)]), evaluation(1, 2, [row(5)], "completed"),
    ) == [1, 0]  # fmt: skip


def test_completed_trials_come_alone() -> None:
    """A pruned trial was measured early: its rate is not comparable, however high."""
    assert ranked(
        evaluation(0, 1, [row(9)], "pruned"), evaluation(1, 1, [row(2)], "completed"), evaluation(2, 1, [row(10)])
    ) == [1]  # fmt: skip
    assert ranked(evaluation(0, 1, [row(1)], "pruned"), evaluation(1, 1, [row(2)], "pruned")) == [1, 0]
    assert ranked(evaluation(0, 1, [row(10)])) == []


def test_equal_rates_are_ranked_by_speed_then_number() -> None:
    def trial(number: int, *rows: dict[str, Any]) -> dict[str, Any]:
        return evaluation(number, 1, list(rows), "completed", score=0.5)

    assert ranked(trial(0, row(5, 40)), trial(1, row(5, 20)), trial(2, row(5, 30))) == [1, 2, 0]
    assert ranked(trial(2, row(5, 20)), trial(1, row(5, 20)), trial(0, row(5, 20))) == [0, 1, 2]
    # speed is that of the setting with the highest success, over its seeds that solved anything
    slow_but_better = [row(7, 60, flow_steps=4), row(3, 10, flow_steps=1)]
    assert ranked(trial(0, *slow_but_better), trial(1, row(5, 50))) == [1, 0]
    assert ranked(trial(0, row(5, 40), row(0)), trial(1, row(3, 50), row(2, 34))) == [0, 1]
    assert ranked(*(evaluation(n, 1, [row(0)], "completed") for n in (1, 0))) == [0, 1], "nothing solved: by number"


def test_failed_trials_are_not_ranked() -> None:
    events = [start(0), evaluation(0, 1, [row(9)]), {"event": "failed", "trial": 0, "reason": "x"}]
    assert SweepState.from_events(events).ranking() == []
