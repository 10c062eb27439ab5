"""`Slot`: a simulator of an engine, and the episode in it. `Lockstep`: the slots of a batched simulator."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raybc.envs.base import SimEnv, Task
from raybc.envs.world import Together, World
from raybc.inference.predictor import ActingPolicy, EpisodePredictor, EpisodeSession, PolicyError, Predictor
from raybc.rollout.episode import Episode, OnStep, final_observation
from raybc.rollout.film import Film
from raybc.rollout.recorder import Recorder, recorded_file
from raybc.rollout.video import episode_name
from raybc.rows import EpisodeRow, episode_row
from raybc.types import EpisodeSpec, SampleSetting


@dataclass(frozen=True)
class Rollout:
    """Episodes of one policy with one sample setting."""

    policy: str
    """Path of the policy bundle, or a policy of others (`raybc.foreign.reference`)."""
    setting: SampleSetting
    video: str = ""
    """Folder for an mp4 of each episode (needs a rendering process); empty: not filmed."""
    video_frame_skip: int = 3
    """Film every n-th step."""
    instruction: str = ""
    """What the policy reads in place of the task's instruction; "": that one."""
    final_obs: bool = False
    """Whether rows have the last observation."""
    record: str = ""
    """Folder for a file of each valid episode (`raybc.rollout.recorder`); empty: not recorded."""


#: Slots that can take each other's place: name of the task, and whether each simulator is stepped alone.
Kind = tuple[str, bool]


@dataclass
class Slot:
    """A simulator and the episode in it."""

    task: Task
    env: SimEnv
    lockstep: Lockstep | None = None
    """Where the simulator is a world of a batch: the batch."""
    number: int = -1
    job: Rollout | None = None
    episode: Episode | None = None
    film: Film | None = None
    recorder: Recorder | None = None
    asked: bool = False
    """Whether a chunk is being computed for it."""

    @property
    def kind(self) -> Kind:
        return self.task.name, self.lockstep is None

    @property
    def world(self) -> int:
        """The number of its world in the batch."""
        assert isinstance(self.env, World)
        return self.env.number

    def begin(self, number: int, job: Rollout, spec: EpisodeSpec, predictor: Predictor | EpisodePredictor) -> None:
        """Reset the simulator to a start. Raises what the simulator or the policy raises."""
        self.number, self.job, self.asked, self.episode = number, job, False, None
        on_step: OnStep | None = None
        self.film = None
        self.recorder = Recorder() if job.record else None
        if job.video:
            self.film = film = Film(self.task.fps / job.video_frame_skip, spec)

            def on_step(step: int, env: SimEnv) -> None:
                if step % job.video_frame_skip == 0:
                    film.add(step, np.asarray(env.render()))

        policy: ActingPolicy | EpisodeSession
        if isinstance(predictor, EpisodePredictor):
            policy = predictor.session(self.task, self.env, spec, job.setting)
        else:
            policy = predictor.bundle
        text = job.instruction or ("" if self.env.instruction else self.task.instruction)
        self.episode = Episode(self.env, policy, spec, job.setting, self.task.max_steps, on_step, text, self.recorder)

    def accept(self, chunk_HA: np.ndarray | PolicyError, episode: Episode) -> None:
        """Execute a chunk, or raise the error in its place. In a batch it is executed by the steps of all worlds."""
        if isinstance(chunk_HA, PolicyError):
            raise chunk_HA
        if self.lockstep is None:
            episode.execute(chunk_HA)
        else:
            episode.plan(chunk_HA)

    def end(self) -> EpisodeRow:
        """The row of an episode that has ended; its video and its recording are written."""
        assert self.episode is not None
        assert self.job is not None
        row = episode_row(self.episode.result())
        self.episode.session.end(row["outcome"])
        last = final_observation(self.episode.last_obs) if self.job.final_obs else {}
        if last:
            row["final_obs"] = last
        if self.film is not None:
            self.film.add(row["steps"], np.asarray(self.env.render()))  # the last state, which shows the outcome
            name = episode_name(self.task.name, row["index"], row["outcome"])
            self.film.write(Path(self.job.video) / name, row["outcome"])
            row["video"] = name
        if self.recorder is not None:
            path = recorded_file(Path(self.job.record), self.episode.spec)
            text, last_obs = self.episode.session.instruction, self.episode.last_obs
            self.recorder.save(path, row, text, self.env.env_args(), last_obs)
            self.recorder = None
        return row

    def discard(self) -> None:
        """Close a simulator that broke its contract; what its `close` raises changes nothing."""
        with contextlib.suppress(Exception):
            self.env.close()


@dataclass(eq=False)
class Lockstep:
    """A batched simulator, whose slots are stepped by one call for all that have an episode."""

    together: Together
    busy: list[Slot] = field(default_factory=list)
    """Slots with an episode."""

    @property
    def ready(self) -> bool:
        """Whether every episode in it has an action to execute."""
        return bool(self.busy) and all(s.episode is not None and s.episode.next_action is not None for s in self.busy)

    def reset(self, seeds: Mapping[int, int]) -> None:
        """Start episodes in several worlds at once (number -> seed); `Slot.begin` then finds its own started."""
        self.together.reset(seeds)

    def step(self) -> None:
        """Step the worlds; `Episode.advance` then finds what its own returned. Raises what the whole batch raises."""
        started = time.perf_counter()
        episodes = {slot.world: slot.episode for slot in self.busy if slot.episode is not None}
        actions = {world: action for world, e in episodes.items() if (action := e.next_action) is not None}
        self.together.step(actions)
        share = (time.perf_counter() - started) / len(episodes)
        for episode in episodes.values():
            episode.seconds += share
