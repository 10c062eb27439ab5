"""Who gives back a place when machines go, and who gets one when they come."""

from __future__ import annotations

from typing import Any

import pytest

from raybc.capacity import Machine
from raybc.rollout import seats
from raybc.rollout.options import PoolOptions
from raybc.rollout.seats import Seat, share_out

OPTIONS = PoolOptions(worker_cpus=0.4, reserved=0.8)


def running(pid: int) -> Seat:
    seat = Seat()
    worker: Any = object()
    seat.worker, seat.pid = worker, pid
    return seat


def with_cpus(patch: pytest.MonkeyPatch, *cpus: float) -> None:
    patch.setattr(seats, "machines", lambda: [Machine({"CPU": c}) for c in cpus])


def test_seats_without_a_process_are_given_back_first(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, first, second = Seat(), running(1), running(2)
    with_cpus(monkeypatch, 1.0, 1.0)
    share_out([waiting, first, second], PoolOptions(worker_cpus=0.6, reserved=0.8))
    assert [s.away for s in (waiting, first, second)] == [True, False, False]
    with_cpus(monkeypatch, 1.0, 1.0, 1.0)
    assert share_out([waiting, first, second], OPTIONS)
    assert not any(s.away for s in (waiting, first, second))
    assert not share_out([waiting, first, second], OPTIONS), "nothing changed"


def test_one_simulator_goes_on_where_trials_want_all(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = running(1), running(2)
    with_cpus(monkeypatch, 1.0)
    share_out([first, second], OPTIONS)
    assert first.away
    assert second.away, "what they reserve would keep trials out"
    first.worker, first.pid = None, 0  # as the dispatcher does it when its episodes have ended
    share_out([first, second], OPTIONS)
    assert (first.away, first.squeezed, second.away) == (False, True, True)
    first.worker = running(3).worker
    share_out([first, second], OPTIONS)
    assert (first.away, second.away) == (False, True), "it stays"
    with_cpus(monkeypatch, 1.0, 1.0)
    share_out([first, second], OPTIONS)
    assert not first.away
    assert not second.away
    assert first.squeezed, "until it is started again"


def test_pools_that_reserve_nothing_keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cpus(monkeypatch, 0.0)
    both = [Seat(), running(1)]
    assert not share_out(both, PoolOptions(worker_cpus=0.0))
