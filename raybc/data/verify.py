"""What is wrong with a data set: one pass over all of it, in blocks, in which every fault becomes a `Finding`."""

from __future__ import annotations

import numpy as np

from raybc.data import store
from raybc.data.findings import Report, unreadable
from raybc.data.fit import TaskView, declared, environment
from raybc.data.formats.base import ReadOptions, sparse_success
from raybc.data.scan import Source
from raybc.data.seen import Seen
from raybc.data.video_findings import videos
from raybc.types import UserError


def verify(source: Source, view: TaskView | None = None, horizon: int = 0, images: bool = False) -> Report:
    """Check a whole data set; nothing is raised for what is wrong with it.

    view: the task whose action space, names and starts the data have to fit (None: not checked). horizon: the steps of
    an action chunk, which episodes should have at least (0: not checked). images: also decode images; otherwise the
    frames of videos are only counted.
    """
    seen = Seen(source.path)
    try:
        gathered, about = source.scan(seen.add, ReadOptions(images=images))
        if source.format == store.NAME:
            store.verify(source.path)
    except UserError as error:
        damage = (unreadable(source.path, str(error)), *seen.not_finite(), *videos(source, images))
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
        *videos(source, images),
        *declared(seen, about),
        *(environment(seen, view) if view is not None else ()),
    ]
    findings.sort(key=lambda f: f.severity)  # "error" comes before "warning"
    return Report(source, seen.episodes, seen.transitions, tuple(findings), success, about.env_args)
