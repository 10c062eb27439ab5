"""Whether an episode that failed is run again in a fresh process, and when a simulator is given up. No Ray in here."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from raybc.rollout.faults import DIED, HUNG, Fault
from raybc.types import EpisodeSpec

#: An episode is run again this many times at most.
RETRIES = 2
#: After this many episodes that failed in the same way at every attempt, that exception is not retried any more.
PROVEN = 3
#: After this many neighbouring starts that could not be run, the others of the task are not run either.
HOPELESS = 10


class Retries:
    """Remembers what retrying was good for, so that a simulator that fails always does not cost a process for each
    attempt of each episode."""

    def __init__(self) -> None:
        self._persistent: Counter[tuple[str, str]] = Counter()
        self._failed: set[EpisodeSpec] = set()

    def begin(self) -> None:
        """A new evaluation: whoever asked for it may have mended the simulator."""
        self._failed.clear()

    def again(self, failures: int, fault: Fault) -> bool:
        """Whether to run an episode again that has failed `failures` times, the last time with `fault`."""
        return failures <= RETRIES and self._persistent[_kind(fault)] < PROVEN

    def worked(self, spec: EpisodeSpec) -> None:
        """An episode was run to its end."""
        self._failed.discard(spec)

    def gave_up(self, spec: EpisodeSpec, failures: int, fault: Fault) -> None:
        """An episode became an error after so many failures."""
        self._failed.add(spec)
        # A process that dies or hangs may do so for reasons outside of it, which pass.
        if failures > RETRIES and fault.kind not in (DIED, HUNG):
            self._persistent[_kind(fault)] += 1

    def hopeless(self, spec: EpisodeSpec) -> bool:
        """Whether other episodes should not be run, now that this one has failed: its neighbours failed, too.

        Neighbours by their starts, not in time: episodes that fail end before those that do not.
        """
        length = 1
        for step in (-1, 1):
            index = spec.index + step
            while index >= 0 and replace(spec, index=index) in self._failed:
                length, index = length + 1, index + step
        return length >= HOPELESS


def not_run(fault: Fault) -> Fault:
    """The fault of an episode that was not run because of the ones before."""
    return Fault(fault.kind, f"not run, because {HOPELESS} neighbouring starts failed, the last one: {fault.message}")


def _kind(fault: Fault) -> tuple[str, str]:
    """Faults that differ in numbers only (steps, coordinates) are the same."""
    return fault.kind, re.sub(r"[-+\d.]+", "0", fault.message)
