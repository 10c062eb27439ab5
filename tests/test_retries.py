"""A simulator that fails always does not cost a process for every attempt of every episode."""

from __future__ import annotations

import dataclasses

import pytest

from raybc.rollout.engine import Rollout
from raybc.rollout.faults import DIED, HUNG, Fault
from raybc.rollout.retries import PROVEN, RETRIES, Retries, not_run
from raybc.types import EpisodeSpec, SampleSetting

JOB = Rollout("bundle", SampleSetting())


def spec(index: int) -> EpisodeSpec:
    return EpisodeSpec("lift", "search", index)


def attempts(retries: Retries, fault: Fault) -> int:
    """How often an episode is run that fails always with this fault."""
    failures = 1
    while retries.again(failures, fault):
        failures += 1
    retries.gave_up(JOB, spec(0), failures, fault)
    return failures


def test_an_exception_that_stays_is_not_retried_for_ever() -> None:
    retries = Retries()
    faults = [Fault("ValueError", f"ValueError: joint at {angle:.3f} (at step {angle})") for angle in range(9)]
    assert [attempts(retries, fault) for fault in faults] == [RETRIES + 1] * PROVEN + [1] * (9 - PROVEN)
    assert attempts(retries, Fault("KeyError", "KeyError: 'gripper'")) == RETRIES + 1, "another exception is retried"
    assert retries.proven == {faults[0].signature}


@pytest.mark.parametrize("kind", [DIED, HUNG])
def test_what_may_pass_is_always_retried(kind: str) -> None:
    retries = Retries()
    assert [attempts(retries, Fault(kind, "gone")) for _ in range(PROVEN + 3)] == [RETRIES + 1] * (PROVEN + 3)


def test_neighbouring_starts_make_a_task_hopeless() -> None:
    retries, fault = Retries(), Fault("ValueError", "ValueError: no robot")
    for index in (*range(5), *range(6, 11)):  # 14 of 20 with gaps, in any order of time
        retries.gave_up(JOB, spec(index), 3, fault)
        assert not retries.hopeless(JOB, spec(index))
    assert not retries.hopeless(JOB, dataclasses.replace(spec(5), split="final"))
    retries.worked(JOB, spec(5))
    retries.gave_up(JOB, spec(11), 1, fault)
    assert not retries.hopeless(JOB, spec(11))
    retries.gave_up(JOB, spec(5), 1, fault)
    assert all(retries.hopeless(JOB, spec(index)) for index in (0, 5, 11))
    assert (
        not_run(fault).message == "not run, because 10 neighbouring starts failed, the last one: ValueError: no robot"
    )
    assert not retries.hopeless(Rollout("another", SampleSetting()), spec(5)), "another policy may not crash it"
    retries.begin()
    retries.gave_up(JOB, spec(12), 1, fault)
    assert not retries.hopeless(JOB, spec(12)), "another evaluation tries again"
