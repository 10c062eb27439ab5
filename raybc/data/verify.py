"""What is wrong with a data set: one pass over all of it, in blocks, in which every fault becomes a `Finding`.

Letters: N transitions, E episodes, A action dim, D dimensions of a key.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raybc.data import store, units
from raybc.data.episodes import EpisodeStore, check_matches_task
from raybc.data.formats import lerobot
from raybc.data.formats.base import DatasetInfo, ReadOptions, sparse_success
from raybc.data.normalize import CONSTANT
from raybc.data.scan import Block, Source
from raybc.data.stats import Moments
from raybc.data.videos import count_frames
from raybc.envs.base import Task
from raybc.envs.spec import EnvSpec, observation_shapes
from raybc.types import UserError

Severity = Literal["error", "warning"]
#: Share of a range by which an action may exceed it: float32 and recorders round.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Finding:
    """One fault of a data set."""

    severity: Severity
    """Errors make training pointless or impossible; warnings may be intended."""
    kind: str
    """One of the kinds in docs/data.md, e.g. "not_finite"."""
    file: str
    """The file, or the folder of the data set."""
    key: str
    """The array, with its dimension if it is about one ("arm[2]"); "" if it is about none."""
    episodes: tuple[int, ...]
    """Numbers of the episodes that have the fault; () if it concerns the whole data set."""
    expected: str
    """What was expected."""
    found: str
    """What was found."""
    advice: str
    """What to do."""


@dataclass(frozen=True)
class TaskView:
    """The environment that a data set is compared with."""

    task: Task
    """The task that the data are for."""
    probe: EnvSpec
    """Sizes, action space and starts of its simulator."""


@dataclass(frozen=True)
class Report:
    """All findings of a data set."""

    source: Source
    """The data set."""
    episodes: int
    """Number of episodes that were read."""
    transitions: int
    """Number of transitions that were read."""
    findings: tuple[Finding, ...]
    """Errors first."""
    success_E: np.ndarray | None = None
    """bool (E,); None where success is not known."""
    env_args: Mapping[str, Any] = field(default_factory=dict)
    """`EpisodeStore.env_args`."""

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(f.severity == "error" for f in self.findings)

    @property
    def readable(self) -> bool:
        """Whether the data set could be read to its end."""
        return all(f.kind != "unreadable" for f in self.findings)

    def with_findings(self, more: Iterable[Finding]) -> Report:
        """A copy with more findings at the end."""
        return dataclasses.replace(self, findings=(*self.findings, *more))

    def as_json(self) -> dict[str, Any]:
        """What `verify --json` prints."""
        return {
            "path": str(self.source.path),
            "format": self.source.format,
            "episodes": self.episodes,
            "transitions": self.transitions,
            "errors": self.errors,
            "warnings": len(self.findings) - self.errors,
            "findings": [dataclasses.asdict(f) for f in self.findings],
        }


def verify(source: Source, view: TaskView | None = None, horizon: int = 0, images: bool = False) -> Report:
    """Check a whole data set; nothing is raised for what is wrong with it.

    view: the task whose action space, names and starts the data have to fit (None: not checked). horizon: the steps of
    an action chunk, which episodes should have at least (0: not checked). images: also decode images; otherwise the
    frames of videos are only counted.
    """
    seen = _Seen(source.path)
    try:
        gathered, about = source.scan(seen.add, ReadOptions(images=images))
        if source.format == store.NAME:
            store.verify(source.path)
    except UserError as error:
        damage = (unreadable(source.path, str(error)), *seen.not_finite(), *_videos(source, images))
        return Report(source, seen.episodes, seen.transitions, damage)
    success = gathered.success_E
    if success is None and about.reward_is_success:
        success = sparse_success(np.concatenate(seen.some_rewards), seen.reward_ends())
    findings = [
        *seen.not_finite(),
        *seen.constant(),
        *seen.lengths(horizon),
        *seen.done_flags(success),
        *seen.duplicates(about),
        *_videos(source, images),
        *_declared(seen, about),
        *(_environment(seen, view) if view is not None else ()),
    ]
    findings.sort(key=lambda f: f.severity)  # "error" comes before "warning"
    return Report(source, seen.episodes, seen.transitions, tuple(findings), success, about.env_args)


def unreadable(path: Path, text: str) -> Finding:
    """The finding that `path` cannot be read. text: the message of the error."""
    expected, advice = "data that can be read to the end", "download or generate the data again"
    return Finding("error", "unreadable", str(path), "", (), expected, text, advice)


class _Seen:
    """What is kept of the blocks: a few values for each episode and key."""

    def __init__(self, path: Path) -> None:
        self.path = path
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

    def duplicates(self, about: DatasetInfo) -> list[Finding]:
        found = []
        advice = "keep one of them: an episode that occurs twice counts twice"
        for same in (episodes for episodes in self._digests.values() if len(episodes) > 1):
            sides = [set(about.splits.get(name, np.zeros(0, int)).tolist()) for name in ("train", "valid")]
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

    def usual_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """Median over episodes of the lowest and of the highest action, float64 (A,) each."""
        return np.nanmedian(np.stack(self.lowest), axis=0), np.nanmedian(np.stack(self.highest), axis=0)


def _action_findings(
    seen: _Seen, low_A: np.ndarray, high_A: np.ndarray, whose: str, severity: Severity
) -> list[Finding]:
    """Actions in other units than a range, or else those that exceed it."""
    usual_low, usual_high = seen.usual_actions()
    other = units.other_actions(usual_low, usual_high, low_A, high_A, units.MAX_SPAN)
    if other is not None:
        looks = "look normalised" if max(abs(usual_low[other]), abs(usual_high[other])) < 5 else "look not normalised"
        advice = "convert the actions to the units of that range; a policy trained on these would solve nothing"
        expected = f"{low_A[other]:g} to {high_A[other]:g}, the range of {whose}"
        found = f"{usual_low[other]:g} to {usual_high[other]:g} in most episodes: these {looks}"
        return [seen.finding("error", "action_units", f"actions[{other}]", (), expected, found, advice)]
    advice = "check the recorder's units; an environment clips or refuses such actions"
    return [
        seen.finding(
            severity, "action_range", f"actions[{a}]", episodes, f"{low_A[a]:g} to {high_A[a]:g}, the range of {whose}",
            f"{value:g}", advice,
        )
        for a, episodes, value in seen.outside(low_A, high_A)
    ]  # fmt: skip


def _declared(seen: _Seen, about: DatasetInfo) -> list[Finding]:
    if about.action_range is None:
        return []
    low, high = about.action_range
    return _action_findings(seen, low, high, "the data themselves", "error")


def _environment(seen: _Seen, view: TaskView) -> list[Finding]:
    """Names, sizes and units compared with the task. Actions outside its space are a warning: people record them, and
    simulators clip them."""
    name, probe = view.task.name, view.probe
    block = seen.first_block
    assert block is not None
    obs = {k.removeprefix("obs/"): v for k, v in block.arrays.items() if k.startswith("obs/")}
    # Images were read only if they are checked.
    shapes = {
        k: s for k, s in observation_shapes(probe, view.task.obs_keys).items() if k in obs or k not in probe.images
    }
    sample = EpisodeStore(
        obs, block.arrays["actions"], block.arrays["rewards"], np.cumsum(block.lengths), source=seen.path, checked=True
    )
    try:
        check_matches_task(sample, shapes, probe.action_size, name)
    except UserError as error:
        advice = "name the task that the data were recorded in with --env_name"
        expected = f"the observations and actions of {name}"
        return [seen.finding("error", "task", "", (), expected, str(error), advice)]
    found = _action_findings(seen, probe.action_low, probe.action_high, f"environment {name}", "warning")
    for key in (k for k in shapes if k in probe.obs_sizes):
        found += _observation_findings(seen, key, probe.starts[key], name)
    return found


def _observation_findings(seen: _Seen, key: str, starts: np.ndarray, name: str) -> list[Finding]:
    moments, recorded = seen.moments[f"obs/{key}"], np.stack(seen.starts[f"obs/{key}"])
    advice = "convert the observations to the environment's units, or name another task"
    far = units.far_starts(starts, moments.mean, np.where(moments.std < CONSTANT, 1.0, moments.std))
    if far is not None:
        d, distance = far
        expected = f"values as at a start of {name}, {starts[0, d]:g}"
        got = f"{moments.mean[d]:g} with standard deviation {moments.std[d]:g}: {distance:.0f} standard deviations away"
    else:
        spread = units.other_spread(starts, recorded)
        if spread is None:
            return []
        d, ratio = spread
        expected = f"starts that vary like those of {name}, standard deviation {starts[:, d].std():g}"
        got = f"{recorded[:, d].std():g}, {ratio:.3g} times as much"
    return [seen.finding("error", "observation_units", f"{key}[{d}]", (), expected, got, advice)]


def _videos(source: Source, images: bool) -> list[Finding]:
    """LeRobot's videos whose number of frames differs from the rows of their episodes."""
    if source.format != lerobot.NAME:
        return []
    try:
        uses = lerobot.video_uses(source.path)
    except UserError:
        return []  # reading the arrays has already reported what is wrong with meta/
    return [found for use in uses if (found := _video(use, images)) is not None]


def _video(use: lerobot.VideoUse, images: bool) -> Finding | None:
    """The finding about one video, if any. A missing video is an error only where images are requested."""
    severity: Severity = "error"
    episodes, last = tuple(use.ends), max(use.ends.values())
    if not use.path.is_file():
        severity = "error" if images else "warning"
        found, advice = "no such file", "download it, if images are wanted"
    else:
        try:
            frames = count_frames(use.path)
        except UserError as error:
            found, advice = str(error), "download or encode the video again"
        else:
            if frames == last:
                return None
            found = f"{frames} frames"
            episodes = tuple(e for e, end in use.ends.items() if end > frames)
            advice = "encode the video again, or leave these episodes out"
            if frames > last:
                severity, advice = "warning", "check whether rows are missing, or the video belongs elsewhere"
    expected = f"{last} frames, as the rows of its episodes"
    return Finding(severity, "video", str(use.path), use.feature, episodes, expected, found, advice)
