"""Own experience of one member of a pack, on disk: a file for each episode, a journal, and the policies that act.

    online/journal.jsonl                 see `raybc.online.journal`
    online/episodes/POLICY/FILE.npz      an episode (`raybc.rollout.recorder`), by the update of the policy that acted
    online/policies/POLICY               that policy, while an episode may need it

The file of an episode is complete or absent, and only the journal makes it part of what is learned from. So after a
kill an episode is one of these: in the journal, and learned from at the same update again; complete but not in the
journal, and taken in like one that has just come back; or not complete, and run again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.files import remove
from raybc.online.journal import Entry, Journal, flush_folder
from raybc.rollout.recorder import RecordedEpisode, read_recorded, recorded_file
from raybc.rows import EpisodeRow
from raybc.run_folder import BUNDLE_FILE, TrainingFolder
from raybc.strict import digest
from raybc.types import SPLIT_SIZE, EpisodeSpec, UserError


@dataclass(frozen=True)
class Lived:
    """An episode that has come back from a simulator."""

    number: int
    """As `Entry.episode`."""
    policy: int
    """As `Entry.policy`."""
    lag: int
    """As `Entry.lag`."""
    row: EpisodeRow

    def entry(self, visible: int) -> Entry:
        """Its line in the journal. visible: as `Entry.visible`."""
        row = self.row
        steps = 0 if row["outcome"] == "error" else row["steps"]
        return Entry(
            self.number, row["index"], row["outcome"], steps, row["return"], self.policy, self.lag, visible
        )  # fmt: skip


class Replay:
    """Own experience of one member."""

    def __init__(self, folder: TrainingFolder, task: str, seed: int) -> None:
        """
        Args:
            folder: the member's run folder.
            task: the name of the task.
            seed: of the member, which decides its starts.

        Raises `UserError` for a damaged journal, and for episodes of the journal that are missing.
        """
        self._folder, self._task = folder, task
        # Members begin at different starts, each where it would alone.
        self._first = int(digest(["online", seed]), 16) % SPLIT_SIZE
        folder.online.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(folder.online_journal)
        self.found: dict[int, Lived] = {}
        """Number -> complete episodes that are not in the journal, of a process that was killed or interrupted."""
        self._tidy()

    def spec(self, number: int) -> EpisodeSpec:
        """The start of an episode."""
        return EpisodeSpec(self._task, "online", (self._first + number) % SPLIT_SIZE)

    def record_folder(self, policy: int) -> Path:
        """Where simulators write the episodes in which a policy acts. policy: as `Entry.policy`."""
        return self._folder.online_episodes / f"{policy:08d}"

    def file(self, number: int, policy: int) -> Path:
        """The file of an episode. policy: as `Entry.policy`."""
        return recorded_file(self.record_folder(policy), self.spec(number))

    def _tidy(self) -> None:
        """Find complete episodes that are not in the journal; remove half-written ones, and those of another process
        that ended after the same episode was in the journal."""
        for temporary in self._folder.online.glob("*/.*.tmp"):  # of policies
            remove(temporary)
        for temporary in self._folder.online_episodes.glob("*/.*.tmp"):
            temporary.unlink()
        known = {entry.episode: entry for entry in self.journal.entries}
        wanted = {self.file(entry.episode, entry.policy) for entry in known.values() if entry.steps}
        for file in sorted(wanted):
            if not file.is_file():
                raise UserError(
                    f"{file}: expected an episode that the run has learned from, got no file; restore it, or start the "
                    "run again with --overwrite"
                )
        for file in sorted(self._folder.online_episodes.glob("*/*.npz")):
            if file in wanted:
                continue
            one = None
            with contextlib.suppress(UserError, KeyError):  # a disk that lost power
                one = read_recorded(file)
            number = -1 if one is None else (one.row["index"] - self._first) % SPLIT_SIZE
            if one is None or number in known or number in self.found:
                file.unlink()
            else:
                self.found[number] = Lived(number, int(file.parent.name), 0, one.row)

    def add(self, entries: Sequence[Entry]) -> None:
        """Note episodes in the journal, after their files are safe."""
        for folder in {self.file(entry.episode, entry.policy).parent for entry in entries if entry.steps}:
            flush_folder(folder)
        if entries:
            self.journal.add(entries)

    def store(self, episodes: Sequence[RecordedEpisode], keys: tuple[str, ...]) -> EpisodeStore:
        """Some episodes, at least one, with the observations `keys`."""
        return EpisodeStore(
            obs={key: np.concatenate([one.obs[key] for one in episodes]) for key in keys},
            actions_NA=np.concatenate([one.actions for one in episodes]),
            rewards_N=np.concatenate([one.rewards for one in episodes]),
            episode_ends=np.cumsum([len(one.actions) for one in episodes]),
            source=self._folder.online_episodes,
            terminals_N=np.concatenate([one.terminals for one in episodes]),
            tasks=tuple(one.instruction for one in episodes),
            success_E=np.array([one.row["outcome"] == "success" for one in episodes]),
        )

    def read(self, entry: Entry) -> RecordedEpisode:
        """An episode of the journal. Raises `UserError` for a damaged file."""
        file = self.file(entry.episode, entry.policy)
        one = read_recorded(file)
        if len(one.actions) != entry.steps:
            raise UserError(
                f"{file}: expected the {entry.steps} steps of episode {entry.episode}, got {len(one.actions)}; restore "
                "the file, or start the run again with --overwrite"
            )
        return one

    # --- the policies that act ---------------------------------------------------------------------------------------

    def policy(self, update: int) -> Path:
        """The bundle after `update` updates."""
        return self._folder.online_policies / f"{update:08d}"

    def policies(self) -> list[int]:
        """The updates of the bundles on disk, ascending."""
        found = self._folder.online_policies.glob("*")
        return sorted(int(path.name) for path in found if (path / BUNDLE_FILE).is_file())

    def drop_policies(self, before: int) -> None:
        """Delete the bundles of earlier updates than this."""
        for update in self.policies():
            if update < before:
                remove(self.policy(update))
