"""When an online training draws from which episodes, and which policy acts: pure functions of counts.

Updates are gradient steps, counted from the beginning of the run; the offline part has the first ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raybc.train.step import STEPS_PER_BLOCK

#: A policy is published each time that this part of `policy_lag` is over.
AGES = 4


@dataclass(frozen=True)
class Schedule:
    """The pace of an online training."""

    first: int
    """Updates of the offline part."""
    online_steps: int
    """Steps of the environment to be collected."""
    utd: float
    """Updates for each step of the environment."""
    policy_lag: int
    """The most updates that a policy may be old while it acts."""
    ahead: int
    """Episodes that are on their way: handed to simulators and not learned from yet."""
    learning_starts: int = 0
    """Steps of the environment that are collected before the first update, by the policy of the offline part."""

    @classmethod
    def of(
        cls,
        first: int,
        online_steps: int,
        utd: float,
        policy_lag: int,
        simulators: int,
        episode_steps: float,
        learning_starts: int = 0,
    ) -> Schedule:
        """The schedule that keeps simulators busy, and no more of them than the ratio and the age of policies let work.

        Args:
            first: as above, and so on.
            simulators: how many there are.
            episode_steps: mean steps of an episode, of the demonstrations.
            learning_starts: as above.
        """
        left = policy_lag - _interval(policy_lag) - STEPS_PER_BLOCK  # updates in which an episode should be back
        ahead = max(1, min(simulators, int(left / (utd * max(1.0, episode_steps)))))
        return cls(first, online_steps, utd, policy_lag, ahead, learning_starts)

    @property
    def updates(self) -> int:
        """Updates of the online part."""
        return math.floor((self.online_steps - self.learning_starts) * self.utd + 1e-9)

    @property
    def last(self) -> int:
        """Updates of the whole run."""
        return self.first + self.updates

    def is_border(self, update: int) -> bool:
        """Whether own experience may grow before this update: where the offline part ends and, from then on, at the
        borders of the blocks of draws."""
        return update == self.first or (update > self.first and update % STEPS_PER_BLOCK == 0)

    def takes(self, update: int) -> bool:
        """Whether own experience may be taken in at a border. The block in which the offline part ends is that of
        demonstrations, unless it begins there, but `learning_starts` are waited for."""
        return update % STEPS_PER_BLOCK == 0 or (update == self.first and self.learning_starts > 0)

    def visible(self, update: int) -> int:
        """The first update that draws from what is taken in at a border: the next beginning of a block."""
        return -(-update // STEPS_PER_BLOCK) * STEPS_PER_BLOCK

    def taken(self, visible: int, before: int) -> int:
        """The border at which an episode was taken in.

        Args:
            visible: as `Entry.visible`.
            before: steps of the environment of all episodes that were taken in before it.
        """
        return self.first if before < self.learning_starts else visible

    def needed(self, update: int) -> int:
        """Steps of the environment that must be taken in at this border."""
        if self.learning_starts and self.visible(update) > update:  # where the offline part ends within a block
            return self.learning_starts
        end = min(update + STEPS_PER_BLOCK, self.last)
        return min(self.online_steps, self.learning_starts + math.ceil((end - self.first) / self.utd - 1e-9))

    def policy(self, update: int) -> int:
        """The policy, by its updates, that acts in episodes that are handed to simulators at this border."""
        interval = _interval(self.policy_lag)
        return max(self.first, update // interval * interval)

    def is_too_old(self, policy: int, update: int) -> bool:
        """Whether a policy that still acts would be too old at the end of the block that begins with this update."""
        return min(update + STEPS_PER_BLOCK, self.last) - policy > self.policy_lag


def _interval(policy_lag: int) -> int:
    """Updates between policies that act: whole blocks."""
    return max(1, policy_lag // (AGES * STEPS_PER_BLOCK)) * STEPS_PER_BLOCK
