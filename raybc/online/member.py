"""Own experience of one member of a pack while it learns: what is learned from, what is back, what is under way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """Those that are taken in, in order."""
    hidden: list[Entry] = field(default_factory=list)
    """The last of them, which no update draws from yet: those that were waited for before the first update of the
    online part, until the next block."""
    arrived: dict[int, Lived] = field(default_factory=dict)
    """Number -> episodes that have come back and are not learned from yet, in the order of their ends."""
    under_way: dict[int, int] = field(default_factory=dict)
    """Number -> the policy that acts, of episodes in simulators."""
    steps: int = 0
    """Steps of the environment in `seen`."""
    handed: int = 0
    """How many numbers have been given."""

    def __post_init__(self) -> None:
        self._later = [*self.replay.journal.entries]  # that a process before this one has noted, in order
        self._noted = {entry.episode for entry in self._later}
        self._taken_at: list[int] = []  # for each of `seen` the border at which it was taken in

    def restored(self, update: int) -> list[Entry]:
        """What a training that continues with `update` already draws from."""
        self._repeat(update - 1)
        self.hidden = [entry for entry in self.seen if entry.visible >= update]
        return self.seen[: len(self.seen) - len(self.hidden)]

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
            since = self._taken_at[number - ahead] if number >= ahead else self.schedule.first
            policy = self.under_way[number] = self.schedule.policy(since)
            yield number, policy

    def came_back(self, number: int, row: EpisodeRow, update: int) -> None:
        """An episode has ended; noticed at the border `update`."""
        policy = self.under_way.pop(number)
        self.arrived[number] = Lived(number, policy, update - policy, row)

    def repeated(self, update: int) -> list[Entry]:
        """Episodes that a process before this one has taken in at this border."""
        return self._repeat(update)

    def _repeat(self, until: int) -> list[Entry]:
        """Take in what a process before this one has taken in up to a border."""
        first = len(self.seen)
        while self._later:
            border = self.schedule.taken(self._later[0].visible, self.steps)
            if border > until:
                break
            self._take_in(self._later.pop(0), border)
        return self.seen[first:]

    def _take_in(self, entry: Entry, border: int) -> None:
        self.seen.append(entry)
        self.steps += entry.steps
        self._taken_at.append(border)

    def taken(self, update: int) -> Lived | None:
        """The next episode to take in at this border; None if there are enough, or none has come back."""
        if self._later or self.steps >= self.schedule.needed(update):
            return None
        if not self.arrived:
            return None
        number = min((*self.arrived, *self.under_way)) if self.in_order else next(iter(self.arrived))
        one = self.arrived.pop(number, None)
        if one is not None:
            self._take_in(one.entry(self.schedule.visible(update)), update)
        return one

    def shown(self, update: int, taken: Sequence[Entry]) -> list[Entry]:
        """What learning draws from as of this border, and did not before. taken: what was taken in at it."""
        self.hidden += taken
        shown = [entry for entry in self.hidden if entry.visible <= update]
        self.hidden = self.hidden[len(shown) :]
        return shown

    def is_ready(self, update: int) -> bool:
        """Whether learning may continue to the end of the block: it has enough steps of the environment, and no policy
        that still acts is too old."""
        enough = bool(self._later) or self.steps >= self.schedule.needed(update)
        return enough and not any(self.schedule.is_too_old(policy, update) for policy in self.under_way.values())

    def oldest_policy(self, update: int) -> int:
        """The oldest policy that a training needs that continues from `update`."""
        return min((*self.under_way.values(), self.schedule.policy(update)))
