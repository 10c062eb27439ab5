"""`Engine`: the simulators of one process, stepping together. No Ray and no threads in here.

Every simulator is a slot with its own episode. A round requests the chunks that are needed, for all slots at
once, and lets each slot execute its chunk. A slot whose episode has ended gets the next start immediately, so no slot
waits for the slowest. If the policy is computed in another process (`Predictor.overlaps`), at most half of the slots
wait for one answer while the others step.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from raybc.demos.record import demonstrate
from raybc.envs.base import RenderOptions, SimEnv, Task
from raybc.envs.border import BadEnvironment
from raybc.inference.predictor import (
    ActingPolicy,
    EpisodePredictor,
    EpisodeSession,
    ManyAnswers,
    PolicyError,
    Prediction,
    Predictor,
)
from raybc.registry import get_task
from raybc.rollout.episode import Episode, OnStep, final_observation, predict_together
from raybc.rollout.faults import Fault, Signature, error_row, raised
from raybc.rollout.recorder import Recorder, recorded_file
from raybc.rollout.video import VideoWriter, episode_name
from raybc.rows import EpisodeRow, episode_row
from raybc.types import EpisodeSpec, SampleSetting

#: Tasks whose simulators are kept open.
KEEP_TASKS = 3


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


@dataclass(frozen=True)
class Demonstration:
    """Episodes of the scripted expert."""

    folder: str
    """Where each episode is written."""
    noise: float
    """How much the expert varies."""


RolloutJob = Rollout | Demonstration
#: Number of an episode that ended, and its row, or what went wrong.
Ended = tuple[int, EpisodeRow | Fault]


@dataclass
class _Slot:
    """A simulator and the episode in it."""

    task: Task
    env: SimEnv
    number: int = -1
    job: Rollout | None = None
    episode: Episode | None = None
    film: VideoWriter | None = None
    recorder: Recorder | None = None
    asked: bool = False


@dataclass(frozen=True)
class _Question:
    """Chunks that several slots wait for, in their order."""

    answer: Prediction | ManyAnswers
    slots: list[_Slot]


@dataclass
class Progress:
    """What other threads may see of an engine."""

    number: int = -1
    """The episode that is being worked on."""
    since: float = field(default_factory=time.monotonic)
    """When it last made progress."""


class Engine:
    """Runs numbered episodes; `round()` yields them as they end.

    load: gives the predictor of `Rollout.policy`. It is called again and again, so it must cache. slots: maximum
    number of simulators (None: what the task recommends); a rendering process has one. An exception of a simulator ends
    its episode as a `Fault`; the process should then be replaced. A `BadEnvironment` and `proven` exceptions end it as
    an error, and only its simulator is replaced. A `PolicyError` ends it as an error, too, and replaces nothing.
    """

    def __init__(
        self,
        load: Callable[[str], Predictor | EpisodePredictor],
        render: RenderOptions | None = None,
        slots: int | None = None,
    ) -> None:
        self._load, self._render, self._limit = load, render, slots
        self._queue: deque[tuple[int, RolloutJob, EpisodeSpec]] = deque()
        self._busy: list[_Slot] = []
        self._free: OrderedDict[str, list[_Slot]] = OrderedDict()
        self._questions: deque[_Question] = deque()
        self.progress = Progress()
        self.proven: frozenset[Signature] = frozenset()
        """Exceptions that no fresh process prevents; their episodes end as errors, and the process continues."""

    def add(self, number: int, job: RolloutJob, spec: EpisodeSpec) -> None:
        self._queue.append((number, job, spec))

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        return not self._queue and not self._busy

    def warm_up(self, task: str) -> SimEnv:
        """Build (or find) a simulator of `task`."""
        slot = self._slot(get_task(task))
        self._free[slot.task.name].append(slot)
        return slot.env

    def round(self) -> Iterator[Ended]:
        """Fill the slots, request the chunks that are needed, execute the chunks of the oldest request; yields the
        episodes that ended."""
        yield from self._fill()
        try:
            self._ask()
            if not self._questions:
                return
            question = self._questions.popleft()
            chunks_BHA = question.answer.get()
        except Exception as error:  # a missing bundle, a network that does not fit: the episode's own job is at fault
            yield self.progress.number, raised(error)
            return
        for slot, chunk_HA in zip(question.slots, chunks_BHA, strict=True):
            self._touch(slot.number)
            slot.asked = False
            assert slot.episode is not None
            try:
                if isinstance(chunk_HA, PolicyError):
                    raise chunk_HA
                slot.episode.execute(chunk_HA)
                if slot.episode.outcome is None:
                    continue
                row = self._end(slot)
            except Exception as error:
                fault = raised(error, slot.episode.steps)
                if not self._is_final(error, fault):  # the pool runs the episode again in a fresh process
                    yield slot.number, fault
                    return
                self._busy.remove(slot)
                slot.episode.session.end("error")
                if isinstance(error, PolicyError):
                    self._free.setdefault(slot.task.name, []).append(slot)
                else:
                    _discard(slot.env)
                yield slot.number, error_row(slot.episode.spec, fault)
                continue
            self._busy.remove(slot)
            self._free.setdefault(slot.task.name, []).append(slot)
            yield slot.number, row

    def _is_final(self, error: Exception, fault: Fault) -> bool:
        """Whether neither another attempt nor a fresh process would change this end of an episode."""
        return isinstance(error, BadEnvironment | PolicyError) or fault.signature in self.proven

    # --- slots ------------------------------------------------------------------------------------------------------

    def _fill(self) -> Iterator[Ended]:
        """Give free slots their next start."""
        while self._queue and (not self._busy or len(self._busy) < self._slots_of(self._queue[0])):
            number, job, spec = self._queue.popleft()
            self._touch(number)
            try:
                if isinstance(job, Demonstration):
                    yield number, self._demonstrate(job, spec)
                else:
                    self._begin(number, job, spec)
            except Exception as error:  # as above
                fault = raised(error)
                if not self._is_final(error, fault):
                    yield number, fault
                    return
                yield number, error_row(spec, fault)

    def _slots_of(self, item: tuple[int, RolloutJob, EpisodeSpec]) -> int:
        if self._render is not None or isinstance(item[1], Demonstration):
            return 1
        return self._limit or get_task(item[2].task).slots

    def _begin(self, number: int, job: Rollout, spec: EpisodeSpec) -> None:
        slot = self._slot(get_task(spec.task))
        slot.number, slot.job, slot.asked = number, job, False
        on_step: OnStep | None = None
        slot.film = None
        slot.recorder = Recorder() if job.record else None
        if job.video:
            slot.film = film = VideoWriter(Path(job.video), fps=slot.task.fps / job.video_frame_skip)

            def on_step(step: int, env: SimEnv) -> None:
                if step % job.video_frame_skip == 0:
                    film.add(np.asarray(env.render()))

        try:
            predictor = self._load(job.policy)
            policy: ActingPolicy | EpisodeSession
            if isinstance(predictor, EpisodePredictor):
                policy = predictor.session(slot.task, slot.env, spec, job.setting)
            else:
                policy = predictor.bundle
            text = job.instruction or ("" if slot.env.instruction else slot.task.instruction)
            slot.episode = Episode(
                slot.env, policy, spec, job.setting, slot.task.max_steps, on_step, text, slot.recorder
            )
        except Exception:  # whether the process is kept or not: not this simulator
            _discard(slot.env)
            raise
        self._busy.append(slot)

    def _end(self, slot: _Slot) -> EpisodeRow:
        assert slot.episode is not None
        assert slot.job is not None
        row = episode_row(slot.episode.result())
        slot.episode.session.end(row["outcome"])
        last = final_observation(slot.episode.last_obs) if slot.job.final_obs else {}
        if last:
            row["final_obs"] = last
        if slot.film is not None:
            slot.film.add(np.asarray(slot.env.render()))  # the last state, which shows the outcome
            name = episode_name(slot.task.name, row["index"], row["outcome"])
            slot.film.path = Path(slot.job.video) / name
            slot.film.close()
            row["video"] = name
        if slot.recorder is not None:
            path = recorded_file(Path(slot.job.record), slot.episode.spec)
            slot.recorder.save(path, row, slot.episode.session.instruction, slot.env.env_args())
            slot.recorder = None
        return row

    def _demonstrate(self, job: Demonstration, spec: EpisodeSpec) -> EpisodeRow:
        task = get_task(spec.task)
        started = time.perf_counter()
        row = cast(EpisodeRow, demonstrate(task, self.warm_up(spec.task), spec, job.noise, Path(job.folder)))
        row["seconds"] = time.perf_counter() - started
        return row

    def _slot(self, task: Task) -> _Slot:
        free = self._free.setdefault(task.name, [])
        self._free.move_to_end(task.name)
        if free:
            return free.pop()
        if self._render is not None:
            self._close_others(keep=0)  # two GL contexts in a process disturb each other
        self._close_others(keep=KEEP_TASKS)
        return _Slot(task, task.make(self._render))

    def _close_others(self, keep: int) -> None:
        while len(self._free) > max(keep, 1):
            for slot in self._free.popitem(last=False)[1]:
                slot.env.close()

    def _touch(self, number: int) -> None:
        self.progress.number, self.progress.since = number, time.monotonic()

    # --- policies ---------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Request the chunks that are needed: one prediction for each policy and setting of its network."""
        groups: dict[tuple[str, SampleSetting], list[_Slot]] = {}
        for slot in self._busy:
            if not slot.asked:
                assert slot.job is not None
                groups.setdefault((slot.job.policy, slot.job.setting.of_network), []).append(slot)
        for (policy, setting), slots in groups.items():
            self._touch(slots[0].number)
            predictor = self._load(policy)
            if isinstance(predictor, EpisodePredictor):
                size = len(slots) if predictor.batched else 1
            else:  # halves, so that one half steps while the other is predicted
                size = math.ceil(len(self._busy) / 2) if predictor.overlaps else len(slots)
            for first in range(0, len(slots), size):
                self._ask_together(predictor, slots[first : first + size], setting)

    def _ask_together(
        self, predictor: Predictor | EpisodePredictor, slots: list[_Slot], setting: SampleSetting
    ) -> None:
        started = time.perf_counter()
        episodes = [s.episode for s in slots if s.episode is not None]
        self._questions.append(_Question(predict_together(predictor, episodes, setting), slots))
        share = (time.perf_counter() - started) / len(slots)
        for slot, episode in zip(slots, episodes, strict=True):
            slot.asked = True
            episode.seconds += share


def _discard(env: SimEnv) -> None:
    """Close a simulator that broke its contract; what its `close` raises changes nothing."""
    with contextlib.suppress(Exception):
        env.close()
