"""Whether an episode that failed is run again in a fresh process, and when a simulator is given up. No Ray in here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from raybc.rollout.engine import RolloutJob
from raybc.rollout.faults import DIED, HUNG, Fault, Signature
from raybc.types import EpisodeSpec

#: An episode is run again this many times at most.
RETRIES = 2
#: After this many episodes that failed in the same way at every attempt, that exception is not retried any more, and
#: its process is kept: a fresh one would not help.
PROVEN = 3
#: After this many neighbouring starts that could not be run, the others of the same job are not run either: each may
#: take three processes, and if it hangs three deadlines.
HOPELESS = 10


class Retries:
    """Remembers what retrying was good for, so that a simulator that fails always does not cost a process for each
    attempt of each episode."""

    def __init__(self) -> None:
        self._persistent: Counter[Signature] = Counter()
        self._failed: set[tuple[RolloutJob, EpisodeSpec]] = set()

    def begin(self) -> None:
        """A new evaluation: whoever asked for it may have mended the simulator."""
        self._failed.clear()

    def again(self, failures: int, fault: Fault) -> bool:
        """Whether to run an episode again that has failed `failures` times, the last time with `fault`."""
        return failures <= RETRIES and fault.signature not in self.proven

    @property
    def proven(self) -> frozenset[Signature]:
        """Exceptions for which a fresh process does not help."""
        return frozenset(signature for signature, count in self._persistent.items() if count >= PROVEN)

    def worked(self, job: RolloutJob, spec: EpisodeSpec) -> None:
        """An episode was run to its end."""
        self._failed.discard((job, spec))

    def gave_up(self, job: RolloutJob, spec: EpisodeSpec, failures: int, fault: Fault) -> None:
        """An episode became an error after this many failures."""
        self._failed.add((job, spec))
        # A process that dies or hangs may do so for reasons outside of it, which pass.
        if failures > RETRIES and fault.kind not in (DIED, HUNG):
            self._persistent[fault.signature] += 1

    def hopeless(self, job: RolloutJob, spec: EpisodeSpec) -> bool:
        """Whether other episodes of the job should not be run, now that this one and its neighbours have failed.

        Neighbours by their starts, not in time: episodes that fail end before those that do not.
        """
        length = 1
        for step in (-1, 1):
            index = spec.index + step
            while index >= 0 and (job, replace(spec, index=index)) in self._failed:
                length, index = length + 1, index + step
        return length >= HOPELESS


def not_run(fault: Fault) -> Fault:
    """The fault of an episode that was not run because of the ones before."""
    return Fault(fault.kind, f"not run, because {HOPELESS} neighbouring starts failed, the last one: {fault.message}")
