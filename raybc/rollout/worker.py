"""What a simulator process does: it runs an engine in a thread, fed and queried from outside. No Ray in here."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raybc.envs.base import RenderOptions
from raybc.foreign.reference import is_reference
from raybc.inference.predictor import KEEP, EpisodePredictor, Predictor, bundle_version
from raybc.rollout.engine import Ended, Engine, RolloutJob
from raybc.rollout.faults import Fault, Signature, raised
from raybc.types import EpisodeSpec

#: Number of an episode, its job and its start.
Assignment = tuple[int, RolloutJob, EpisodeSpec]
Loader = Callable[[str], Predictor | EpisodePredictor]


@dataclass(frozen=True)
class Report:
    """What a worker says about its episodes."""

    ended: list[Ended] = field(default_factory=list)
    """Episodes that ended, by number: a row, or a fault after which the process must be replaced."""
    current: int = -1
    """Number of the episode that is being worked on."""
    stalled: float = 0.0
    """Seconds without progress."""
    broken: bool = False
    """An episode raised, so the process is not to be trusted any more."""


class SimWorker:
    """Owns simulators of one suite. The engine's thread builds and steps them (a GL context belongs to a thread)."""

    def __init__(self, render: RenderOptions | None = None, slots: int | None = None, loader: Loader | None = None):
        self._acts = loader is None
        self._engine = Engine(loader or load_agent, render, slots)
        self._change = threading.Condition()
        self._assignments: list[Assignment] = []
        self._warm_ups: list[tuple[str, dict[str, Any]]] = []
        self._ended: list[Ended] = []
        self._broken = False
        self._idle = True
        threading.Thread(target=self._run, daemon=True, name="simulators").start()

    def warm_up(self, task: str) -> int:
        """Build a simulator of `task`, whose exceptions are raised here; returns the process's ID."""
        answer: dict[str, Any] = {}
        with self._change:
            self._warm_ups.append((task, answer))
            self._change.notify_all()
            self._change.wait_for(lambda: "done" in answer)
        if answer["done"] is not None:
            raise answer["done"]
        return os.getpid()

    def prepare(self) -> None:
        """Import what computes actions: torch takes seconds, which would count as those of the first episode, and
        demonstrations need none."""
        if self._acts:
            import raybc.inference.agent  # noqa: F401

    def exchange(
        self,
        assignments: Sequence[Assignment],
        patience: float,
        backlog: int,
        proven: frozenset[Signature] = frozenset(),
    ) -> Report:
        """Accept assignments; return finished episodes once fewer than `backlog` are waiting, after at most `patience`
        seconds. proven: see `Engine.proven`."""
        with self._change:
            self._engine.proven = proven
            if assignments:
                self._assignments += assignments
                if self._idle:
                    self._engine.progress.since = time.monotonic()
                self._idle = False
                self._change.notify_all()
            self._change.wait_for(
                lambda: self._broken or self._idle or (self._ended and self._waiting() < backlog), timeout=patience
            )
            ended, self._ended = self._ended, []
            progress = self._engine.progress
            return Report(
                ended=ended,
                current=progress.number,
                stalled=0.0 if self._idle else time.monotonic() - progress.since,
                broken=self._broken,
            )

    def _waiting(self) -> int:
        return len(self._assignments) + self._engine.waiting

    def _run(self) -> None:
        while not self._broken:
            with self._change:
                self._change.wait_for(lambda: self._assignments or self._warm_ups or not self._engine.idle)
                warm_ups, self._warm_ups = self._warm_ups, []
                for assignment in self._assignments:
                    self._engine.add(*assignment)
                self._assignments = []
            for task, answer in warm_ups:
                self._warm_up(task, answer)
            if not warm_ups:
                self._round()

    def _warm_up(self, task: str, answer: dict[str, Any]) -> None:
        problem: Exception | None = None
        try:
            self._engine.warm_up(task)
        except Exception as error:  # raised again in the thread that called `warm_up`
            problem = error
        with self._change:
            answer["done"] = problem
            self._change.notify_all()

    def _round(self) -> None:
        ended: list[Ended] = []
        try:
            ended.extend(self._engine.round())
        except Exception as error:  # this thread has no caller that could handle it
            ended.append((self._engine.progress.number, raised(error)))
        with self._change:
            self._ended += ended
            self._broken = any(isinstance(result, Fault) for _, result in ended)
            self._idle = self._engine.idle and not self._assignments
            if ended or self._idle:
                self._change.notify_all()


def load_agent(path: str) -> Predictor | EpisodePredictor:
    """The bundle's network in this process; a bundle that was replaced on disk is loaded again. Or a policy of
    others."""
    if is_reference(path):
        from raybc.foreign.predictor import load

        return load(path)
    return _agent(path, bundle_version(path))


@functools.lru_cache(maxsize=KEEP)
def _agent(path: str, version: int) -> Predictor:
    # Here, because processes of simulators in environments of their own have no torch.
    import torch

    from raybc.bundle import PolicyBundle
    from raybc.inference.agent import Agent

    torch.set_num_threads(1)  # one process per core, and the same sums everywhere
    return Agent(PolicyBundle.load(Path(path)))
