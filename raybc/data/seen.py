"""What is kept of a data set while it is read in blocks, and what is wrong with its numbers and episodes.

Letters: E episodes, A action dim, D dimensions of a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from raybc.data.findings import Finding, Severity
from raybc.data.idle import commands, idle_steps
from raybc.data.normalize import CONSTANT, hardly_move
from raybc.data.scan import Block
from raybc.data.stats import Moments

#: Share of a range by which an action may exceed it: float32 and recorders round.
ROUNDING = 1e-4


class Seen:
    """What is kept of the blocks: a few values for each episode and key."""

    def __init__(self, path: Path, space: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        """space: lowest and highest action of the environment, float32 (A,) each."""
        self.path, self.space = path, space
        self.idle = 0
        """Number of idle steps."""
        self._commands: np.ndarray | None = None
        self._outside_A: np.ndarray | None = None  # rows outside of `space`
        self.episodes = self.transitions = 0
        self.moments: dict[str, Moments] = {}
        self.starts: dict[str, list[np.ndarray]] = {}
        self.lowest: list[np.ndarray] = []
        self.highest: list[np.ndarray] = []
        self.some_rewards: list[np.ndarray] = []
        self.first_block: Block | None = None
        self._lengths: list[int] = []
        self._broken: dict[str, list[int]] = {}
        self._digests: dict[bytes, list[int]] = {}
        self._early: list[tuple[int, int, bool]] = []  # episode, step, whether the reward was 1 there
        self._last: list[bool] = []

    def add(self, block: Block) -> None:
        self.first_block = self.first_block or block
        broken = {k: rows for k, rows in block.arrays.items() if rows.dtype.kind == "f" and not np.isfinite(rows).all()}
        for name, values in block.arrays.items():
            if (name == "actions" or name.startswith("obs/")) and values.dtype.kind == "f":
                good = values[np.isfinite(values).all(axis=1)] if name in broken else values
                self.moments.setdefault(name, Moments(values.shape[1])).add(good)
        for episode, rows in block.episodes():
            self._episode(episode, {k: v[rows] for k, v in block.arrays.items()})
            for name, values in broken.items():
                if not np.isfinite(values[rows]).all():
                    self._broken.setdefault(name, []).append(episode)
        actions = block.arrays["actions"]
        if self._commands is None:
            self._commands = commands(actions)
        if actions.shape[1] == len(self._commands):
            self.idle += int(idle_steps(actions, np.cumsum(block.lengths), self._commands).sum())
        if self.space is not None and self.space[0].shape == actions.shape[1:]:
            low, high = self.space
            slack = ROUNDING * (high - low)
            outside = ((actions < low - slack) | (actions > high + slack)).sum(axis=0)
            self._outside_A = outside if self._outside_A is None else self._outside_A + outside
        self.episodes += len(block.lengths)
        self.transitions += sum(block.lengths)

    def _episode(self, episode: int, arrays: dict[str, np.ndarray]) -> None:
        actions, rewards = arrays["actions"], arrays["rewards"]
        self._lengths.append(len(actions))
        for name, rows in arrays.items():
            if name.startswith("obs/") and rows.dtype.kind == "f":
                self.starts.setdefault(name, []).append(np.array(rows[0]))
        self.lowest.append(actions.min(axis=0))
        self.highest.append(actions.max(axis=0))
        # Three different rewards are enough to know that they are not only 0 and 1.
        self.some_rewards.append(np.unique(rewards)[:3])
        if "terminals" in arrays:
            early = np.flatnonzero(arrays["terminals"][:-1])
            wrong = early[rewards[early] != 1] if len(early) else early
            if len(early):
                self._early.append((episode, int(wrong[0] if len(wrong) else early[0]), not len(wrong)))
            self._last.append(bool(arrays["terminals"][-1]))
        h = hashlib.sha256()
        for name in sorted(arrays):
            if name == "actions" or name.startswith("obs/"):
                h.update(np.ascontiguousarray(arrays[name]).data)
        self._digests.setdefault(h.digest(), []).append(episode)

    def reward_ends(self) -> np.ndarray:
        return np.cumsum([len(r) for r in self.some_rewards])

    def finding(
        self, severity: Severity, kind: str, key: str, episodes: Iterable[int], expected: str, found: str, advice: str
    ) -> Finding:
        key = key.removeprefix("obs/")
        return Finding(severity, kind, str(self.path), key, tuple(map(int, episodes)), expected, found, advice)

    def not_finite(self) -> list[Finding]:
        advice = "leave these episodes out, or record them again"
        return [
            self.finding("error", "not_finite", key, episodes, "finite numbers", "nan or inf", advice)
            for key, episodes in self._broken.items()
        ]

    def constant(self) -> list[Finding]:
        advice = "leave it out of the observations; if it should vary, check how it was recorded"
        found = []
        for name, moments in self.moments.items():
            if moments.count < 2:
                continue
            for d in np.flatnonzero(moments.std < CONSTANT):
                value = f"{moments.mean[d]:g} at every step"
                found.append(self.finding("warning", "constant", f"{name}[{d}]", (), "values that vary", value, advice))
        return found

    def hardly_moving(self) -> list[Finding]:
        """Single dimensions that training does not scale by their own spread."""
        found = []
        advice = "if it should move, check how it was recorded; training does not blow it up, and hardly uses it"
        for name, moments in self.moments.items():
            if name == "actions" or moments.count < 2:
                continue
            for d in np.flatnonzero(hardly_move(moments.min, moments.max, [len(moments.mean)])):
                got = f"{moments.min[d]:g} to {moments.max[d]:g}"
                found.append(
                    self.finding("warning", "scale", f"{name}[{d}]", (), "values that move as others do", got, advice)
                )
        return found

    def lengths(self, horizon: int) -> list[Finding]:
        short = [e for e, n in enumerate(self._lengths) if n < horizon]
        if not short:
            return []
        severity: Severity = "error" if len(short) == self.episodes else "warning"
        shortest = min(self._lengths[e] for e in short)
        advice = "take a shorter --horizon_length, or leave these episodes out: their chunks are mostly padding"
        expected, found = f"at least the {horizon} steps of a chunk", f"{shortest} steps in the shortest"
        return [self.finding(severity, "short", "", short, expected, found, advice)]

    def done_flags(self, success_E: np.ndarray | None) -> list[Finding]:
        """Flags before the last step, except where robomimic sets them: at every step with the reward of success."""
        found = []
        early = [(e, step) for e, step, rewarded in self._early if not (rewarded and success_E is not None)]
        if early:
            advice = "cut the episodes there, or clear the flags: what follows was not recorded in one go"
            at = f"set at step {early[0][1]} of {self._lengths[early[0][0]]} (episode {early[0][0]})"
            expected = "set at the last step only"
            found.append(self.finding("error", "done_early", "terminals", (e for e, _ in early), expected, at, advice))
        # Where no episode ends at success, the environment continues after it, and no flag is missing.
        if success_E is not None and self._last and (np.array(self._last) & success_E).any():
            missing = np.flatnonzero(success_E & ~np.array(self._last))
            if len(missing):
                advice = "set the flag at the last step, or correct the mark of success"
                expected = "set at the last step of episodes that succeed, as in the others"
                found.append(
                    self.finding("error", "done_missing", "terminals", missing, expected, "not set there", advice)
                )
        return found

    def duplicates(self, splits: Mapping[str, np.ndarray]) -> list[Finding]:
        found = []
        advice = "keep one of them: an episode that occurs twice counts twice"
        for same in (episodes for episodes in self._digests.values() if len(episodes) > 1):
            sides = [set(np.asarray(splits.get(name, np.zeros(0, int))).tolist()) for name in ("train", "valid")]
            leaks = all(any(e in side for e in same) for side in sides)
            text = "the same observations and actions" + (", in the splits train and valid" if leaks else "")
            severity: Severity = "error" if leaks else "warning"
            found.append(self.finding(severity, "duplicate", "", same, "episodes that differ", text, advice))
        return found

    def outside(self, low_A: np.ndarray, high_A: np.ndarray) -> list[tuple[int, list[int], float]]:
        """(dimension, episodes, value farthest away) of each action dimension that exceeds its range."""
        lowest, highest = np.stack(self.lowest), np.stack(self.highest)
        slack = ROUNDING * (high_A - low_A)
        over = np.maximum(low_A - lowest, highest - high_A)
        found = []
        for a in np.flatnonzero((over > slack).any(axis=0)):
            worst = int(np.nanargmax(over[:, a]))
            value = lowest[worst, a] if lowest[worst, a] < low_A[a] - slack[a] else highest[worst, a]
            found.append((int(a), np.flatnonzero(over[:, a] > slack[a]).tolist(), float(value)))
        return found

    def share_outside(self, dimension: int) -> float | None:
        """Share of the steps whose action is outside of `space` in a dimension; None where `space` is not known."""
        return None if self._outside_A is None else float(self._outside_A[dimension]) / max(1, self.transitions)

    def longer_than(self, steps: int) -> list[int]:
        """Episodes of more than `steps` steps."""
        return [e for e, n in enumerate(self._lengths) if n > steps]

    def padded(self, horizon: int) -> float:
        """Share of the windows of `horizon` actions that reach beyond the end of their episode."""
        return sum(min(n, horizon - 1) for n in self._lengths) / max(1, self.transitions)

    def usual_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """Median over episodes of the lowest and of the highest action, float64 (A,) each."""
        return np.nanmedian(np.stack(self.lowest), axis=0), np.nanmedian(np.stack(self.highest), axis=0)
