"""The run folder of one member of a pack: its checkpoints and their links."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raybc.config import RunConfig
from raybc.files import point_to, read_json, remove, write_json
from raybc.run_folder import TrainingFolder, mark_best
from raybc.train.checkpointing import checkpoint_path
from raybc.train.data import TrainingData
from raybc.train.threads import available_cores
from raybc.versions import versions


class MemberRun:
    """The run folder of one member."""

    def __init__(self, config: RunConfig, data: TrainingData, out: Path, tracker_id: str, threads: int = 1) -> None:
        self.config, self.out = config, out
        self.folder = TrainingFolder(out)
        self.tracker_id = tracker_id
        """The first run_id of this run; trackers know the run by it."""
        write_json(self.folder.versions, versions(data.environment) | {"threads": threads})

    def bundle(self, step: int) -> Path:
        """The bundle after `step` steps."""
        return checkpoint_path(self.out, self.config, step)

    def point(self, latest: int, finished: bool) -> None:
        """Update the links latest, best and final_model. latest: step of the newest checkpoint."""
        point_to(self.folder.latest, self.bundle(latest))
        best = self.folder.best_step()
        if best is not None:
            point_to(self.folder.best, self.bundle(best))
            if self.config.action_metrics:
                metric, scores = self.folder.scores()
                found = {"step": best, "value": scores[best], "checkpoint": self.bundle(best).name}
                mark_best(self.folder, metric.name, found)
        if finished:
            point_to(self.folder.final_model, self.bundle(latest))

    def drop_old(self, latest: int, since: int, is_kept: Callable[[int], bool]) -> None:
        """Delete checkpoints before step `latest`, except the best one.

        These are those that were saved after step `since` only to be evaluated, and all but the newest `keep` others
        (0: keep all).

        Args:
            latest: step of the newest checkpoint.
            since: the step from which this process trains. Checkpoints of earlier processes stay.
            is_kept: whether a checkpoint at a step was asked for.
        """
        best = self.folder.best_step()
        old = sorted(step for step in self.folder.checkpoints() if step < latest and step != best)
        only_evaluated = [step for step in old if step > since and not is_kept(step)]
        others = [step for step in old if step not in only_evaluated]
        for step in only_evaluated + (others[: -self.config.keep] if self.config.keep else []):
            remove(self.bundle(step))


def saved_threads(folder: Path) -> int:
    """The PyTorch threads with which the run in `folder` trains, because sums depend on it; 0 if that is not recorded,
    or if this machine has fewer cores."""
    path = TrainingFolder(folder).versions
    threads = read_json(path).get("threads", 0) if path.is_file() else 0
    return threads if isinstance(threads, int) and threads <= available_cores() else 0
