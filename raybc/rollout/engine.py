"""`Engine`: the simulators of one process, stepping together. No Ray and no threads in here.

Every simulator is a slot with an episode of its own. A round asks for the chunks that are needed, for all slots at
once, and lets each slot execute its chunk; a slot whose episode has ended is given the next start at once, so nobody
waits for the slowest. Where the policy is asked in another process (`Predictor.overlaps`), at most half of the slots
wait for one answer while the others step.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raybc.demos.record import demonstrate
from raybc.envs.base import RenderOptions, SimEnv, Task
from raybc.inference.agent import Prediction, Predictor
from raybc.registry import get_task
from raybc.rollout.episode import Episode, OnStep, predict_together
from raybc.rollout.video import VideoWriter, episode_name
from raybc.types import EpisodeSpec, SampleSetting

#: Tasks whose simulators are kept.
KEEP_TASKS = 3


@dataclass(frozen=True)
class Rollout:
    """Episodes of one policy with one sample setting. `video`: folder for mp4s (needs a rendering process)."""

    bundle: str
    setting: SampleSetting
    video: str = ""
    video_frame_skip: int = 3


@dataclass(frozen=True)
class Demonstration:
    """Episodes of the scripted expert, each written to `folder`."""

    folder: str
    noise: float


RolloutJob = Rollout | Demonstration


@dataclass
class _Slot:
    """A simulator and the episode in it."""

    task: Task
    env: SimEnv
    number: int = -1
    work: Rollout | None = None
    episode: Episode | None = None
    film: VideoWriter | None = None
    asked: bool = False


@dataclass(frozen=True)
class _Question:
    """Chunks that several slots wait for, in their order."""

    answer: Prediction
    slots: list[_Slot]


@dataclass
class Progress:
    """What can be seen from outside: the episode that is being worked on, and since when."""

    now: int = -1
    since: float = field(default_factory=time.monotonic)


class Engine:
    """Runs numbered episodes; `round()` yields (number, row) as they end.

    load(bundle path) gives the `Predictor` and is asked again and again: it keeps what it has loaded. slots: simulators
    at most; None: what the task says; a rendering process has one. An exception of a simulator ends its episode as
    {"exception": ...}; the process should then be given up.
    """

    def __init__(
        self, load: Callable[[str], Predictor], render: RenderOptions | None = None, slots: int | None = None
    ) -> None:
        self._load, self._render, self._limit = load, render, slots
        self._queue: deque[tuple[int, RolloutJob, EpisodeSpec]] = deque()
        self._busy: list[_Slot] = []
        self._free: OrderedDict[str, list[_Slot]] = OrderedDict()
        self._questions: deque[_Question] = deque()
        self.progress = Progress()

    def add(self, number: int, work: RolloutJob, spec: EpisodeSpec) -> None:
        self._queue.append((number, work, spec))

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

    def round(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Fill the slots, ask for the chunks that are needed, execute those of the first question that is answered;
        yields what ended."""
        yield from self._fill()
        try:
            self._ask()
            if not self._questions:
                return
            question = self._questions.popleft()
            chunks_BHA = question.answer.get()
        except Exception as error:  # a bundle that is gone, a network that does not fit: what was asked is at fault
            yield self.progress.now, _exception(error)
            return
        for slot, chunk_HA in zip(question.slots, chunks_BHA, strict=True):
            self._touch(slot.number)
            slot.asked = False
            assert slot.episode is not None
            try:
                slot.episode.execute(chunk_HA)
                if slot.episode.outcome is None:
                    continue
                row = self._end(slot)
            except Exception as error:  # not swallowed: the pool retries in a fresh process, then reports
                yield slot.number, _exception(error)
                return
            self._busy.remove(slot)
            self._free.setdefault(slot.task.name, []).append(slot)
            yield slot.number, row

    # --- slots ------------------------------------------------------------------------------------------------------

    def _fill(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give free slots their next start."""
        while self._queue and (not self._busy or len(self._busy) < self._slots_of(self._queue[0])):
            number, work, spec = self._queue.popleft()
            self._touch(number)
            try:
                if isinstance(work, Demonstration):
                    yield number, self._demonstrate(work, spec)
                else:
                    self._begin(number, work, spec)
            except Exception as error:  # not swallowed, see above
                yield number, _exception(error)
                return

    def _slots_of(self, item: tuple[int, RolloutJob, EpisodeSpec]) -> int:
        if self._render is not None or isinstance(item[1], Demonstration):
            return 1
        return self._limit or get_task(item[2].task).slots

    def _begin(self, number: int, work: Rollout, spec: EpisodeSpec) -> None:
        slot = self._slot(get_task(spec.task))
        slot.number, slot.work, slot.asked = number, work, False
        on_step: OnStep | None = None
        slot.film = None
        if work.video:
            slot.film = film = VideoWriter(Path(work.video), fps=slot.task.fps / work.video_frame_skip)

            def on_step(step: int, env: SimEnv) -> None:
                if step % work.video_frame_skip == 0:
                    film.add(np.asarray(env.render()))

        bundle = self._load(work.bundle).bundle
        slot.episode = Episode(slot.env, bundle, spec, work.setting, slot.task.max_steps, on_step)
        self._busy.append(slot)

    def _end(self, slot: _Slot) -> dict[str, Any]:
        assert slot.episode is not None
        assert slot.work is not None
        row = slot.episode.result().to_row()
        if slot.film is not None:
            slot.film.add(np.asarray(slot.env.render()))  # the last state, where the outcome shows
            name = episode_name(slot.task.name, row["index"], row["outcome"])
            slot.film.path = Path(slot.work.video) / name
            slot.film.close()
            row["video"] = name
        return row

    def _demonstrate(self, work: Demonstration, spec: EpisodeSpec) -> dict[str, Any]:
        task = get_task(spec.task)
        started = time.perf_counter()
        row = demonstrate(task, self.warm_up(spec.task), spec, work.noise, Path(work.folder))
        return row | {"seconds": time.perf_counter() - started}

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
        self.progress.now, self.progress.since = number, time.monotonic()

    # --- policies ---------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Request the chunks that are needed: one prediction for each policy and setting of its network."""
        groups: dict[tuple[str, SampleSetting], list[_Slot]] = {}
        for slot in self._busy:
            if not slot.asked:
                assert slot.work is not None
                groups.setdefault((slot.work.bundle, slot.work.setting.of_network), []).append(slot)
        for (bundle, setting), slots in groups.items():
            self._touch(slots[0].number)
            predictor = self._load(bundle)
            # Halves, so that one half steps while the other is predicted.
            size = math.ceil(len(self._busy) / 2) if predictor.overlaps else len(slots)
            for first in range(0, len(slots), size):
                self._ask_together(predictor, slots[first : first + size], setting)

    def _ask_together(self, predictor: Predictor, slots: list[_Slot], setting: SampleSetting) -> None:
        started = time.perf_counter()
        episodes = [s.episode for s in slots if s.episode is not None]
        self._questions.append(_Question(predict_together(predictor, episodes, setting), slots))
        share = (time.perf_counter() - started) / len(slots)
        for slot, episode in zip(slots, episodes, strict=True):
            slot.asked = True
            episode.seconds += share


def _exception(error: Exception) -> dict[str, Any]:
    return {"exception": f"{type(error).__name__}: {error}"}
