"""What is wrong with a data set: one pass over all of it, in blocks, in which every fault becomes a `Finding`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from raybc.data import select, store
from raybc.data.episodes import EpisodeStore, Note
from raybc.data.findings import Finding, Report, unreadable
from raybc.data.fit import TaskView, declared, environment
from raybc.data.formats import base, lerobot
from raybc.data.formats.base import DatasetInfo, Gathered, ReadOptions, sparse_success
from raybc.data.formats.options import Remarks
from raybc.data.scan import Block, Source
from raybc.data.seen import Seen
from raybc.data.video_findings import videos
from raybc.types import UserError

#: Share of idle steps from which on they are worth a remark.
SOME_IDLE = 0.01


def verify(
    source: Source,
    view: TaskView | None = None,
    horizon: int = 0,
    images: bool | tuple[str, ...] = False,
    skip_bad_episodes: bool = False,
    watch: Callable[[Block], None] | None = None,
    files: bool = True,
) -> Report:
    """Check a whole data set; nothing is raised for what is wrong with it.

    Args:
        source: the data set.
        view: the task whose action space, names and starts the data have to fit (None: not checked).
        horizon: the steps of an action chunk, which episodes should have at least (0: not checked).
        images: also decode images (all, or those of these names), as for a task that observes some; otherwise the
            frames of videos are only counted.
        skip_bad_episodes: check what is left without the episodes that training with this option leaves out.
        watch: called with every block as well; what it refuses (`UserError`) is a finding.
        files: also check files besides the numbers: checksums of a converted data set, and frames of videos.
    """
    space = None if view is None else (view.probe.action_low, view.probe.action_high)
    seen = Seen(source.path, space)
    needed = None
    if view is not None and view.task.images and not images:
        images, needed = True, tuple(view.task.images)  # as training reads them
    wanted = ReadOptions(images, skip_bad_episodes=skip_bad_episodes, needed=needed)
    try:
        gathered, about = source.scan(seen.add if watch is None else functools.partial(_both, seen.add, watch), wanted)
        if source.format == store.NAME and files:
            store.verify(source.path)
        built = _built(source, seen, gathered, about, wanted.remarks)
    except UserError as error:
        found = videos(source, bool(images)) if files else []
        damage = (unreadable(source.path, str(error)), *seen.not_finite(), *found)
        return Report(source, seen.episodes, seen.transitions, damage)
    success = gathered.success_E
    if success is None and about.reward_is_success:
        success = sparse_success(np.concatenate(seen.some_rewards), seen.reward_ends())
    findings = [
        *_splits(seen, built),
        *_notes(seen, built.notes),
        *seen.not_finite(),
        *seen.constant(),
        *seen.hardly_moving(),
        *seen.lengths(horizon),
        *seen.done_flags(success),
        *seen.duplicates(built.splits),
        *(videos(source, bool(images)) if files and not skip_bad_episodes else ()),
        *declared(seen, about),
        *(environment(seen, view, about) if view is not None else ()),
    ]
    findings.sort(key=lambda f: f.severity)  # "error" comes before "warning"
    remarks = _remarks(source, seen, built, horizon)
    return Report(source, seen.episodes, seen.transitions, tuple(findings), success, about.env_args, remarks, built)


def _both(first: Callable[[Block], None], second: Callable[[Block], None], block: Block) -> None:
    first(block)
    second(block)


def _built(source: Source, seen: Seen, gathered: Gathered, about: DatasetInfo, remarks: Remarks) -> EpisodeStore:
    """The store that training would build, with the same checks, but with arrays that take no memory. Values that are
    not finite are findings of their own."""
    block = seen.first_block
    assert block is not None
    rows = seen.transitions
    arrays = {
        name: np.broadcast_to(np.zeros((), values.dtype), (rows, *values.shape[1:]))
        for name, values in block.arrays.items()
    }
    return base.assemble(arrays, gathered, about, source.path, checked=True, remarks=remarks)


def _splits(seen: Seen, built: EpisodeStore) -> list[Finding]:
    """Splits that training refuses."""
    try:
        select.splits_of(built)
    except UserError as error:
        text = str(error).removeprefix(f"{built.source}: ").removeprefix("splits: ")
        expected, _, rest = text.removeprefix("expected ").partition(", got ")
        found, _, advice = rest.partition("; ")
        shared = select.overlap(built.splits)
        episodes = () if shared is None else shared[1]
        advice = advice or "correct the splits"
        return [seen.finding("error", "splits", "", episodes, expected, found, advice)]
    return []


def _notes(seen: Seen, notes: tuple[Note, ...]) -> list[Finding]:
    """Warnings about what was requested and is not read, and about splits that list episodes twice."""
    found = []
    for note in notes:
        if note.kind == "image":
            expected = "images: uint8, height x width x 1, 3 or 4 channels"
            advice = "leave it out, or store it as such images"
            found.append(seen.finding("warning", "image", note.key, (), expected, note.text, advice))
        elif note.kind == "splits":
            advice = "correct the split"
            found.append(seen.finding("warning", "splits", note.key, (), "each episode once", note.text, advice))
    return found


def _remarks(source: Source, seen: Seen, built: EpisodeStore, horizon: int) -> tuple[str, ...]:
    said = [lerobot.described(source.path)] if source.format == lerobot.NAME else []
    if seen.idle >= SOME_IDLE * seen.transitions:
        share = 100 * seen.idle / seen.transitions
        said.append(
            f"{share:.2g} % of the steps are idle (no motion, gripper unchanged): training with --drop_idle leaves "
            "them out, and --keep_idle 8 keeps the first 8 steps of each pause, in which a robot may still move"
        )
    if horizon > 1:
        share = 100 * seen.padded(horizon)
        said.append(
            f"{share:.2g} % of the windows of {horizon} actions reach beyond the end of their episode (padding)"
        )
    said += [f"{n.key}: {n.text}" if n.key else n.text for n in built.notes if n.kind in ("text", "rows", "converted")]
    said += [f"split {n.key}: {n.text}" for n in built.notes if n.kind == "rest"]
    return (*said, *(f"left out: {e.name}: {e.reason}" for e in built.skipped))
