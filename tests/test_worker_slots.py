"""Who gives back a place when machines go, and who gets one when they come."""

from __future__ import annotations

from typing import Any

import pytest

from raybc.cluster.capacity import Machine
from raybc.rollout import worker_slots as slots
from raybc.rollout.options import PoolOptions
from raybc.rollout.worker_slots import WorkerSlot, rebalance

OPTIONS = PoolOptions(worker_cpus=0.4, reserved=0.8)


def running(pid: int) -> WorkerSlot:
    slot = WorkerSlot()
    worker: Any = object()
    slot.worker, slot.pid = worker, pid
    return slot


def with_cpus(patch: pytest.MonkeyPatch, *cpus: float) -> None:
    patch.setattr(slots, "machines", lambda: [Machine({"CPU": c}) for c in cpus])


def test_worker_slots_without_a_process_are_given_back_first(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, first, second = WorkerSlot(), running(1), running(2)
    with_cpus(monkeypatch, 1.0, 1.0)
    rebalance([waiting, first, second], PoolOptions(worker_cpus=0.6, reserved=0.8))
    assert [s.released for s in (waiting, first, second)] == [True, False, False]
    with_cpus(monkeypatch, 1.0, 1.0, 1.0)
    assert rebalance([waiting, first, second], OPTIONS)
    assert not any(s.released for s in (waiting, first, second))
    assert not rebalance([waiting, first, second], OPTIONS), "nothing changed"


def test_one_simulator_goes_on_where_trials_want_all(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = running(1), running(2)
    with_cpus(monkeypatch, 1.0)
    rebalance([first, second], OPTIONS)
    assert first.released
    assert second.released, "what they reserve would keep trials out"
    first.worker, first.pid = None, 0  # as the dispatcher does it when its episodes have ended
    rebalance([first, second], OPTIONS)
    assert (first.released, first.unreserved, second.released) == (False, True, True)
    first.worker = running(3).worker
    rebalance([first, second], OPTIONS)
    assert (first.released, second.released) == (False, True), "it stays"
    with_cpus(monkeypatch, 1.0, 1.0)
    rebalance([first, second], OPTIONS)
    assert not first.released
    assert not second.released
    assert first.unreserved, "until it is started again"


def test_pools_that_reserve_nothing_keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cpus(monkeypatch, 0.0)
    both = [WorkerSlot(), running(1)]
    assert not rebalance(both, PoolOptions(worker_cpus=0.0))
