"""A simulator that fails always does not cost a process for every attempt of every episode."""

from __future__ import annotations

import pytest

from raybc.rollout.faults import DIED, HUNG, Fault
from raybc.rollout.retries import HOPELESS, PROVEN, RETRIES, Retries, not_run


def attempts(retries: Retries, fault: Fault, task: str = "lift") -> int:
    """How often an episode is run that fails always with this fault."""
    failures = 1
    while retries.again(failures, fault):
        failures += 1
    retries.gave_up(task, failures, fault)
    return failures


def test_an_exception_that_stays_is_not_retried_for_ever() -> None:
    retries = Retries()
    faults = [Fault("ValueError", f"ValueError: joint at {angle:.3f} (at step {angle})") for angle in range(9)]
    assert [attempts(retries, fault) for fault in faults] == [RETRIES + 1] * PROVEN + [1] * (9 - PROVEN)
    assert attempts(retries, Fault("KeyError", "KeyError: 'gripper'")) == RETRIES + 1, "another exception is retried"


@pytest.mark.parametrize("kind", [DIED, HUNG])
def test_what_may_pass_is_always_retried(kind: str) -> None:
    retries = Retries()
    assert [attempts(retries, Fault(kind, "gone")) for _ in range(PROVEN + 3)] == [RETRIES + 1] * (PROVEN + 3)


def test_episodes_in_a_row_make_a_task_hopeless() -> None:
    retries, fault = Retries(), Fault("ValueError", "ValueError: no robot")
    for _ in range(HOPELESS - 1):
        attempts(retries, fault)
    retries.worked("lift")
    for _ in range(HOPELESS - 1):
        attempts(retries, fault)
    assert not retries.hopeless("lift"), "one of them worked"
    attempts(retries, fault)
    assert retries.hopeless("lift")
    assert not retries.hopeless("square")
    assert not_run(fault).message == "not run, because 10 episodes in a row failed, the last one: ValueError: no robot"
    retries.begin()
    assert not retries.hopeless("lift"), "another evaluation tries again"
