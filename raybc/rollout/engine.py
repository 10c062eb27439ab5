"""`Engine`: the simulators of one process, stepping together. No Ray and no threads in here.

Every simulator is a slot with its own episode. A round requests the chunks that are needed, for all slots at
once, and lets each slot execute its chunk. A slot whose episode has ended gets the next start immediately, so no slot
waits for the slowest. If the policy is computed in another process (`Predictor.overlaps`), at most half of the slots
wait for one answer while the others step.

The worlds of a batched simulator (`Task.make_batch`) are slots, too. They step in lockstep: once each episode in them
has an action, one call executes all of these.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from raybc.demos.record import demonstrate
from raybc.envs.base import RenderOptions, SimEnv, Task
from raybc.envs.border import BadEnvironment
from raybc.envs.world import Together
from raybc.inference.predictor import EpisodePredictor, ManyAnswers, PolicyError, Prediction, Predictor
from raybc.registry import get_task
from raybc.rollout.episode import Episode, predict_together
from raybc.rollout.faults import Fault, Signature, error_row, raised
from raybc.rollout.slot import Kind, Lockstep, Rollout, Slot
from raybc.rows import EpisodeRow
from raybc.types import EpisodeSpec, SampleSetting

#: Tasks whose simulators are kept open.
KEEP_TASKS = 3
#: The number of an episode in a `Fault` that may be of any episode of the process.
ANY = -1


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
#: A slot, and what is to begin in it.
_Start = tuple[Slot, int, Rollout, EpisodeSpec]


@dataclass(frozen=True)
class _Question:
    """Chunks that several slots wait for, in their order."""

    answer: Prediction | ManyAnswers
    slots: list[Slot]


@dataclass
class Progress:
    """What other threads may see of an engine."""

    number: int = -1
    """The episode that is being worked on; `ANY` while all are stepped together."""
    since: float = field(default_factory=time.monotonic)
    """When it last made progress."""


class Engine:
    """Runs numbered episodes; `round()` yields them as they end.

    load: gives the predictor of `Rollout.policy`. It is called again and again, so it must cache. slots: maximum
    number of simulators (None: what the task recommends); a rendering process has one. An exception of a simulator ends
    its episode as a `Fault`; the process should then be replaced. The number of a fault is `ANY` where a batched
    simulator raised it with several episodes. A `BadEnvironment` and `proven` exceptions end an episode as an error,
    and only its simulator is replaced. A `PolicyError` ends it as an error, too, and replaces nothing.
    """

    def __init__(
        self,
        load: Callable[[str], Predictor | EpisodePredictor],
        render: RenderOptions | None = None,
        slots: int | None = None,
    ) -> None:
        self._load, self._render, self._limit = load, render, slots
        self._queue: deque[tuple[int, RolloutJob, EpisodeSpec]] = deque()
        self._busy: list[Slot] = []
        self._free: OrderedDict[Kind, list[Slot]] = OrderedDict()
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

    def warm_up(self, task: str, is_alone: bool = False) -> SimEnv:
        """Build (or find) a simulator of `task`. is_alone: one that can be stepped without others."""
        slot = self._slot(get_task(task), is_alone)
        self._release(slot)
        return slot.env

    def round(self) -> Iterator[Ended]:
        """Fill the slots, request the chunks that are needed, execute the chunks of the oldest request; yields the
        episodes that ended."""
        yield from self._fill()
        try:
            self._ask()
            question = self._questions.popleft() if self._questions else None
            chunks_BHA = [] if question is None else question.answer.get()
        except Exception as error:  # a missing bundle, a network that does not fit: the episode's own job is at fault
            yield self.progress.number, raised(error)
            return
        for slot, chunk_HA in zip([] if question is None else question.slots, chunks_BHA, strict=True):
            self._touch(slot.number)
            slot.asked = False
            ended = self._advance(slot, functools.partial(slot.accept, chunk_HA))
            if ended is not None:
                yield ended
                if isinstance(ended[1], Fault):
                    return
        if not self._questions:
            for lockstep in dict.fromkeys(slot.lockstep for slot in self._busy):
                if lockstep is not None and lockstep.ready:
                    yield from self._step(lockstep)

    def _step(self, lockstep: Lockstep) -> Iterator[Ended]:
        """One step of all episodes of a batched simulator."""
        slots = list(lockstep.busy)
        self._touch(slots[0].number if len(slots) == 1 else ANY)
        try:
            lockstep.step()
        except Exception as error:
            if len(slots) > 1:  # whose fault it is, only running them apart can tell
                yield ANY, raised(error)
                return
            number, result = self._failed(slots[0], error)
            if not isinstance(result, Fault):
                self._close(lockstep)
            yield number, result
            return
        for slot in slots:
            self._touch(slot.number)
            ended = self._advance(slot, Episode.advance)
            if ended is not None:
                yield ended
                if isinstance(ended[1], Fault):
                    return

    def _advance(self, slot: Slot, act: Callable[[Episode], None]) -> Ended | None:
        """Call `act` with the episode of a slot; how the episode ended, None if it did not."""
        assert slot.episode is not None
        try:
            act(slot.episode)
            if slot.episode.outcome is None:
                return None
            row = slot.end()
        except Exception as error:
            return self._failed(slot, error)
        self._leave(slot)
        return slot.number, row

    def _failed(self, slot: Slot, error: Exception) -> Ended:
        """How the episode of a slot ends that has raised `error`."""
        assert slot.episode is not None
        fault = raised(error, slot.episode.steps)
        if not self._is_final(error, fault):  # the pool runs the episode again in a fresh process
            return slot.number, fault
        slot.episode.session.end("error")
        self._leave(slot, is_sound=isinstance(error, PolicyError))
        return slot.number, error_row(slot.episode.spec, fault)

    def _is_final(self, error: Exception, fault: Fault) -> bool:
        """Whether neither another attempt nor a fresh process would change this end of an episode."""
        return isinstance(error, BadEnvironment | PolicyError) or fault.signature in self.proven

    # --- slots ------------------------------------------------------------------------------------------------------

    def _fill(self) -> Iterator[Ended]:
        """Give free slots their next start."""
        starts: list[_Start] = []
        while self._queue and self._has_room(self._queue[0], len(self._busy) + len(starts)):
            number, job, spec = self._queue.popleft()
            self._touch(number)
            try:
                if isinstance(job, Demonstration):
                    yield number, self._demonstrate(job, spec)
                    continue
                slot = self._slot(get_task(spec.task))
                if slot.lockstep is None:
                    self._begin(slot, number, job, spec)
                else:
                    starts.append((slot, number, job, spec))
            except Exception as error:
                ended = self._not_begun(number, spec, error)
                yield ended
                if isinstance(ended[1], Fault):
                    return
        yield from self._begin_together(starts)

    def _begin_together(self, starts: list[_Start]) -> Iterator[Ended]:
        """Begin episodes in worlds of batches, each of which resets its own at once."""
        for lockstep in dict.fromkeys(slot.lockstep for slot, *_ in starts):
            assert lockstep is not None
            own = [start for start in starts if start[0].lockstep is lockstep]
            if len(own) > 1:  # a single one resets its world itself
                self._touch(ANY)
                try:
                    lockstep.reset({slot.world: spec.seed for slot, _, _, spec in own})
                except Exception as error:
                    yield ANY, raised(error)
                    return
            for slot, number, job, spec in own:
                self._touch(number)
                try:
                    self._begin(slot, number, job, spec)
                except Exception as error:
                    ended = self._not_begun(number, spec, error)
                    yield ended
                    if isinstance(ended[1], Fault):
                        return

    def _not_begun(self, number: int, spec: EpisodeSpec, error: Exception) -> Ended:
        fault = raised(error)
        return number, error_row(spec, fault) if self._is_final(error, fault) else fault

    def _has_room(self, item: tuple[int, RolloutJob, EpisodeSpec], busy: int) -> bool:
        if not busy:
            return True
        if self._render is not None or isinstance(item[1], Demonstration):
            return False
        return busy < self._slots_of(get_task(item[2].task))

    def _slots_of(self, task: Task) -> int:
        return self._limit or task.slots

    def _begin(self, slot: Slot, number: int, job: Rollout, spec: EpisodeSpec) -> None:
        try:
            slot.begin(number, job, spec, self._load(job.policy))
        except Exception:  # whether the process is kept or not: not this simulator
            self._release(slot, is_sound=False)
            raise
        self._busy.append(slot)
        if slot.lockstep is not None:
            slot.lockstep.busy.append(slot)

    def _demonstrate(self, job: Demonstration, spec: EpisodeSpec) -> EpisodeRow:
        task = get_task(spec.task)
        started = time.perf_counter()
        env = self.warm_up(spec.task, is_alone=True)
        row = cast(EpisodeRow, demonstrate(task, env, spec, job.noise, Path(job.folder)))
        row["seconds"] = time.perf_counter() - started
        return row

    def _leave(self, slot: Slot, is_sound: bool = True) -> None:
        """End the episode of a slot."""
        self._busy.remove(slot)
        if slot.lockstep is not None:
            slot.lockstep.busy.remove(slot)
        self._release(slot, is_sound)

    def _release(self, slot: Slot, is_sound: bool = True) -> None:
        """Keep a slot for its next episode. is_sound: whether its simulator kept its contract; if not, it is closed (a
        world of a batch is only reset, as in any case)."""
        if is_sound or slot.lockstep is not None:
            self._free.setdefault(slot.kind, []).append(slot)
        else:
            slot.discard()

    def _slot(self, task: Task, is_alone: bool = False) -> Slot:
        """A free slot, in a new simulator if there is none. is_alone: whether it must be stepped without others."""
        make_batch = None if is_alone or self._render is not None else task.make_batch
        kind = (task.name, make_batch is None)
        free = self._free.setdefault(kind, [])
        self._free.move_to_end(kind)
        if free:
            return free.pop()
        if self._render is not None:
            self._close_others(keep=0)  # two GL contexts in a process disturb each other
        self._close_others(keep=KEEP_TASKS)
        if make_batch is None:
            return Slot(task, task.make(self._render))
        lockstep = Lockstep(Together(make_batch(self._slots_of(task))))
        free.extend(Slot(task, world, lockstep) for world in reversed(lockstep.together.worlds))
        return free.pop()

    def _close_others(self, keep: int) -> None:
        """Close simulators of the tasks that were used the longest time ago; batches that are in use stay."""
        for kind, slots in list(self._free.items()):
            if len(self._free) <= max(keep, 1):
                return
            lockstep = slots[0].lockstep if slots else None
            if not kind[1] and (lockstep is None or len(slots) < len(lockstep.together.worlds)):
                continue
            del self._free[kind]
            for slot in slots:
                slot.env.close()
            if lockstep is not None:
                lockstep.together.close()

    def _close(self, lockstep: Lockstep) -> None:
        """Close a batched simulator without episodes that broke its contract; what its `close` raises changes
        nothing."""
        self._free = OrderedDict(
            (kind, slots) for kind, slots in self._free.items() if not slots or slots[0].lockstep is not lockstep
        )
        with contextlib.suppress(Exception):
            lockstep.together.close()

    def _touch(self, number: int) -> None:
        self.progress.number, self.progress.since = number, time.monotonic()

    # --- policies ---------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Request the chunks that are needed: one prediction for each policy and setting of its network."""
        groups: dict[tuple[str, SampleSetting], list[Slot]] = {}
        for slot in self._busy:
            if not slot.asked and (slot.episode is None or slot.episode.next_action is None):
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

    def _ask_together(self, predictor: Predictor | EpisodePredictor, slots: list[Slot], setting: SampleSetting) -> None:
        started = time.perf_counter()
        episodes = [s.episode for s in slots if s.episode is not None]
        self._questions.append(_Question(predict_together(predictor, episodes, setting), slots))
        share = (time.perf_counter() - started) / len(slots)
        for slot, episode in zip(slots, episodes, strict=True):
            slot.asked = True
            episode.seconds += share
