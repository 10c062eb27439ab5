"""Whether an episode that failed is run again in a fresh process, and when a simulator is given up. No Ray in here."""

from __future__ import annotations

import re
from collections import Counter

from raybc.rollout.faults import DIED, HUNG, Fault

#: An episode is run again this many times at most.
RETRIES = 2
#: After this many episodes that failed in the same way at every attempt, that exception is not retried any more.
PROVEN = 3
#: After this many episodes in a row that could not be run, the others of the task are not run either.
HOPELESS = 10


class Retries:
    """Remembers what retrying was good for, so that a simulator that fails always does not cost a process for each
    attempt of each episode."""

    def __init__(self) -> None:
        self._persistent: Counter[tuple[str, str]] = Counter()
        self._in_a_row: Counter[str] = Counter()

    def begin(self) -> None:
        """A new evaluation: whoever asked for it may have mended the simulator."""
        self._in_a_row.clear()

    def again(self, failures: int, fault: Fault) -> bool:
        """Whether to run an episode again that has failed `failures` times, the last time with `fault`."""
        return failures <= RETRIES and self._persistent[_kind(fault)] < PROVEN

    def worked(self, task: str) -> None:
        """An episode of the task was run to its end."""
        self._in_a_row[task] = 0

    def gave_up(self, task: str, failures: int, fault: Fault) -> None:
        """An episode of the task became an error after so many failures."""
        self._in_a_row[task] += 1
        # A process that dies or hangs may do so for reasons outside of it, which pass.
        if failures > RETRIES and fault.kind not in (DIED, HUNG):
            self._persistent[_kind(fault)] += 1

    def hopeless(self, task: str) -> bool:
        """Whether the task's other episodes should not be run."""
        return self._in_a_row[task] >= HOPELESS


def not_run(fault: Fault) -> Fault:
    """The fault of an episode that was not run because of the ones before."""
    return Fault(fault.kind, f"not run, because {HOPELESS} episodes in a row failed, the last one: {fault.message}")


def _kind(fault: Fault) -> tuple[str, str]:
    """Faults that differ in numbers only (steps, coordinates) are the same."""
    return fault.kind, re.sub(r"[-+\d.]+", "0", fault.message)
