"""Own experience of one member of a pack while it learns: what is learned from, what is back, what is under way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from raybc.online.journal import Entry
from raybc.online.replay import Lived, Replay
from raybc.online.schedule import Schedule
from raybc.rows import EpisodeRow


@dataclass
class MemberExperience:
    """The episodes of one member. They are numbered in the order in which they are handed to simulators."""

    replay: Replay
    schedule: Schedule
    in_order: bool
    """Whether episodes are learned from in the order of their numbers, not in that of their ends."""
    seen: list[Entry] = field(default_factory=list)
    """Those that are learned from, in order."""
    arrived: dict[int, Lived] = field(default_factory=dict)
    """Number -> episodes that have come back and are not learned from yet, in the order of their ends."""
    under_way: dict[int, int] = field(default_factory=dict)
    """Number -> the policy that acts, of episodes in simulators."""
    handed: int = 0
    """How many numbers have been given."""

    def __post_init__(self) -> None:
        self._later = [*self.replay.journal.entries]  # that a process before this one has noted, in order
        self._noted = {entry.episode for entry in self._later}

    @property
    def steps(self) -> int:
        """Steps of the environment that are learned from."""
        return sum(entry.steps for entry in self.seen)

    def restored(self, update: int) -> list[Entry]:
        """What a training that continues with `update` already draws from."""
        while self._later and self._later[0].visible < update:
            self.seen.append(self._later.pop(0))
        return self.seen

    def handed_out(self, update: int) -> Iterator[tuple[int, int]]:
        """(number, policy) of the episodes to hand to simulators at the border `update`: as many as learning has taken
        in. Those that a process before this one has brought to an end come back at once.

        The policy of an episode depends on the border at which the episode `ahead` numbers before it was taken in, so
        a training that continues gives it to the same one.
        """
        ahead = self.schedule.ahead
        while self.handed < len(self.seen) + ahead and self.steps < self.schedule.online_steps:
            number, self.handed = self.handed, self.handed + 1
            if number in self._noted:
                continue
            if number in self.replay.found:
                found = self.replay.found.pop(number)
                self.arrived[number] = Lived(number, found.policy, max(0, update - found.policy), found.row)
                continue
            since = self.seen[number - ahead].visible if number >= ahead else self.schedule.first
            policy = self.under_way[number] = self.schedule.policy(since)
            yield number, policy

    def came_back(self, number: int, row: EpisodeRow, update: int) -> None:
        """An episode has ended; noticed at the border `update`."""
        policy = self.under_way.pop(number)
        self.arrived[number] = Lived(number, policy, update - policy, row)

    def repeated(self, update: int) -> list[Entry]:
        """Episodes that a process before this one has taken in at this border."""
        found = []
        while self._later and self._later[0].visible <= update:
            found.append(self._later.pop(0))
        self.seen += found
        return found

    def taken(self, update: int) -> Lived | None:
        """The next episode to take in at this border; None if there are enough, or none has come back."""
        if self._later or self.steps >= self.schedule.needed(update):
            return None
        if not self.arrived:
            return None
        number = min((*self.arrived, *self.under_way)) if self.in_order else next(iter(self.arrived))
        one = self.arrived.pop(number, None)
        if one is not None:
            self.seen.append(one.entry(update))
        return one

    def is_ready(self, update: int) -> bool:
        """Whether learning may continue to the end of the block: it has enough steps of the environment, and no policy
        that still acts is too old."""
        enough = bool(self._later) or self.steps >= self.schedule.needed(update)
        return enough and not any(self.schedule.is_too_old(policy, update) for policy in self.under_way.values())

    def oldest_policy(self, update: int) -> int:
        """The oldest policy that a training needs that continues from `update`."""
        return min((*self.under_way.values(), self.schedule.policy(update)))
