"""The online part of a training: simulators collect episodes while the learner trains, and it learns from them, too.

Learning looks at simulators only at the borders of its blocks of 64 updates. There it takes in as many episodes as the
ratio of updates to steps of the environment asks for, waits for them if they are not there yet, and hands out as many
new ones, so that simulators wait where they are ahead. Everything that decides the weights is in the journal.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from raybc import cli
from raybc.data.windows import Windows
from raybc.online.journal import Entry
from raybc.online.log import ROWS, OnlineLog, Pace
from raybc.online.member import MemberExperience
from raybc.online.replay import Replay
from raybc.online.schedule import Schedule
from raybc.online.windows import GrowingWindows, with_last
from raybc.rollout.engine import Rollout
from raybc.rows import EpisodeRow
from raybc.run_folder import BUNDLE_FILE, TrainingFolder
from raybc.train.loop import PackTrainer
from raybc.train.progress import Progress
from raybc.train.rotation import DatasetView
from raybc.types import EpisodeSpec, SampleSetting

#: Seconds between looks at the simulators while learning waits for them, and at Ctrl-C.
WAIT_INTERVAL = 0.1
#: Seconds after which it is said that learning waits.
LONG_WAIT = 1.0
#: After this many errors one after another, the simulator is given up.
HOPELESS = 10

#: An episode: the index of its member, and its number.
Name = tuple[int, int]
_NOTHING = np.zeros(0, np.float32)


class Simulators(Protocol):
    """Runs episodes beside the learner."""

    def submit(self, name: Name, job: Rollout, spec: EpisodeSpec) -> None:
        """Start an episode."""

    def ended(self, seconds: float) -> list[tuple[Name, EpisodeRow]]:
        """Episodes that have ended since the last call; waits for one of them, at most `seconds`."""


class OnlinePart:
    """Own experience of the members of a pack, and the simulators that collect it."""

    def __init__(
        self,
        trainer: PackTrainer,
        folders: Sequence[TrainingFolder],
        simulators: Simulators,
        schedule: Schedule,
        task: str,
        setting: SampleSetting,
        in_order: bool,
    ) -> None:
        """
        Args:
            trainer: the learner, at the step that it continues from; its windows will grow.
            folders: the run folder of each member.
            simulators: where episodes run.
            schedule: the pace.
            task: name of the task.
            setting: how actions are sampled while collecting.
            in_order: see `MemberExperience`: whether everything depends on the seed alone, for one simulator process.

        Raises `UserError` for experience that is damaged.
        """
        self.schedule = schedule
        self._pace = Pace()
        self._trainer, self._simulators, self._setting = trainer, simulators, setting
        self.members = [
            MemberExperience(Replay(folder, task, seed), schedule, in_order)
            for folder, seed in zip(folders, trainer.seeds, strict=True)
        ]
        self._errors = [0] * len(self.members)
        self._windows = GrowingWindows(trainer.windows, len(self.members))
        trainer.use_windows(self._windows)
        trainer.before_step = self.before
        self.on_wait: Callable[[int, int], None] = lambda steps, needed: None
        """Called while learning has waited for long: steps of the environment that each member has, and needs."""
        self._done = -1  # the border that was worked on last
        if trainer.step > schedule.first:
            self._windows.add([self._piece(m, one.restored(trainer.step)) for m, one in enumerate(self.members)])
            self._hand_out(trainer.step)
        self._logs = [
            OnlineLog(folder.online_csv, trainer.step, one.seen)
            for folder, one in zip(folders, self.members, strict=True)
        ]
        self._logged = trainer.step

    def before(self, update: int, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Call before every update (gradient steps so far). Returns early, with nothing taken in, if `interrupted`.

        Raises `cli.Failed` if simulators give nothing but errors.
        """
        if update == self._done or not self.schedule.is_border(update) or update >= self.schedule.last:
            return
        self._publish(update)
        self._look(update, 0.0)
        repeated = [one.repeated(update) for one in self.members]
        self._hand_out(update)
        if self.schedule.takes(update) and not self._take(update, repeated, interrupted):
            return
        self._done = update
        if update - self._logged >= max(self._trainer.config.log_interval, self.schedule.updates // ROWS):
            self.log()

    def log(self) -> None:
        """Add a row to online.csv of each member."""
        step = self._trainer.step
        if step < self.schedule.first:
            return
        waiting = self._pace.waiting
        for log, one in zip(self._logs, self.members, strict=True):
            log.add(step, step - self.schedule.first, one.seen, waiting)
        self._logged = step
        self._pace.restart()

    def resumed(self) -> None:
        """Learning continues after an evaluation, whose time counts neither as waiting nor as learning."""
        self._pace.restart()

    def added(self, progress: Progress) -> Progress:
        """The report with the steps of the environment that each member has learned from."""
        steps = [float(one.steps) for one in self.members]
        return dataclasses.replace(progress, metrics=progress.metrics | {"environment_steps": steps})

    def _take(self, update: int, repeated: Sequence[Sequence[Entry]], interrupted: Callable[[], bool]) -> bool:
        """Take in what the block needs; whether it was not interrupted."""
        new: list[list[Entry]] = [[] for _ in self.members]
        waits_since = time.perf_counter()
        while True:
            for one, entries in zip(self.members, new, strict=True):
                while one.taken(update) is not None:
                    entries.append(one.seen[-1])
            self._hand_out(update)
            if all(one.is_ready(update) for one in self.members):
                break
            if interrupted():
                return False
            started = time.perf_counter()
            if started - waits_since >= LONG_WAIT:
                self.on_wait(min(one.steps for one in self.members), self.schedule.needed(update))
            self._look(update, WAIT_INTERVAL)
            self._pace.wait(time.perf_counter() - started)
        for one, entries in zip(self.members, new, strict=True):
            one.replay.add(entries)
        taken = [[*before, *entries] for before, entries in zip(repeated, new, strict=True)]
        shown = [one.shown(update, entries) for one, entries in zip(self.members, taken, strict=True)]
        self._windows.add([self._piece(m, entries) for m, entries in enumerate(shown)])
        return True

    def _hand_out(self, update: int) -> None:
        for m, one in enumerate(self.members):
            for number, policy in one.handed_out(update):
                known = self._published(m, policy, update)
                one.under_way[number] = known
                job = Rollout(
                    str(one.replay.policy(known).absolute()),
                    self._setting,
                    record=str(one.replay.record_folder(known).absolute()),
                )
                self._simulators.submit((m, number), job, one.replay.spec(number))

    def _look(self, update: int, seconds: float) -> None:
        """Note which episodes have come back."""
        for (m, number), row in self._simulators.ended(seconds):
            self.members[m].came_back(number, row, update)
            self._errors[m] = self._errors[m] + 1 if row["outcome"] == "error" else 0
            if self._errors[m] >= HOPELESS:
                raise cli.Failed(
                    f"the last {HOPELESS} episodes ended in errors, the last one: {row['message']}; when the simulator "
                    "is mended, continue with --resume"
                )

    def _piece(self, m: int, entries: Sequence[Entry]) -> Windows | None:
        """The windows of some episodes of a member; None where they have no steps."""
        replay = self.members[m].replay
        episodes = [replay.read(entry) for entry in entries if entry.steps]
        if not episodes:
            return None
        trainer, prepared = self._trainer, self._trainer.prepared
        low_dim, images = tuple(prepared.obs_sizes), tuple(prepared.images)
        store = replay.store(episodes, (*low_dim, *images))
        view = DatasetView(
            store, low_dim, images, prepared.obs_normalizer, prepared.action_normalizer, prepared.instructions
        )
        ends, every = store.episode_ends, np.arange(store.num_episodes)
        windows = view.windows(slice(None), ends, every, trainer.config, trainer.device)
        if windows.transitions is None:
            return windows
        obs_EO = np.stack([np.concatenate([one.last[key] for key in low_dim] or [_NOTHING]) for one in episodes])
        last = {key: np.stack([one.last[key] for one in episodes]) for key in images}
        return with_last(windows, ends, prepared.obs_normalizer.apply(obs_EO.astype(np.float32)), last)

    # --- the policies that act ---------------------------------------------------------------------------------------

    def _publish(self, update: int) -> None:
        """Save the policies that act from this border on."""
        if self.schedule.policy(update) == update:
            weights = self._trainer.acting_weights()
            for m, one in enumerate(self.members):
                path = one.replay.policy(update)
                if not (path / BUNDLE_FILE).is_file():  # a process that was killed has been here
                    self._trainer.bundle(m, weights).save(path)

    def _published(self, m: int, policy: int, update: int) -> int:
        """`policy`, or if it is not on disk, as with another number of simulators than before, the nearest one."""
        known = self.members[m].replay.policies()
        if policy in known:
            return policy
        if not known:
            self._trainer.bundle(m).save(self.members[m].replay.policy(update))
            return update
        return min(known, key=lambda other: (abs(other - policy), other))

    def saved(self) -> None:
        """The training state was saved: add a row to online.csv, and delete the policies that nobody needs who
        continues from there."""
        self.log()
        for one in self.members:
            one.replay.drop_policies(one.oldest_policy(self._trainer.step))
