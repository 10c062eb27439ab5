"""What a simulator process does: an engine in a thread of its own, fed and asked from outside. No Ray in here."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from raybc.bundle import PolicyBundle
from raybc.envs.base import RenderOptions
from raybc.inference.agent import KEEP, Agent, Predictor, bundle_version
from raybc.rollout.engine import Engine, RolloutJob
from raybc.types import EpisodeSpec

#: A numbered episode, and what came of it.
Assignment = tuple[int, RolloutJob, EpisodeSpec]
Loader = Callable[[str], Predictor]


@dataclass(frozen=True)
class Report:
    """rows: (number, row) of episodes that ended. now: the one that is worked on. stalled: seconds in which nothing
    moved. broken: an episode raised, and the process is not to be trusted any more."""

    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    now: int = -1
    stalled: float = 0.0
    broken: bool = False


class SimWorker:
    """Owns simulators of one suite. The engine's thread builds and steps them (a GL context belongs to a thread)."""

    def __init__(self, render: RenderOptions | None = None, slots: int | None = None, loader: Loader | None = None):
        self._engine = Engine(loader or load_agent, render, slots)
        self._change = threading.Condition()
        self._orders: list[Assignment] = []
        self._calls: list[tuple[str, dict[str, Any]]] = []
        self._rows: list[tuple[int, dict[str, Any]]] = []
        self._broken = False
        self._idle = True
        threading.Thread(target=self._run, daemon=True, name="simulators").start()

    def warm_up(self, task: str) -> None:
        """Build a simulator of `task`; what it raises is raised here."""
        answer: dict[str, Any] = {}
        with self._change:
            self._calls.append((task, answer))
            self._change.notify_all()
            self._change.wait_for(lambda: "done" in answer)
        if answer["done"] is not None:
            raise answer["done"]

    def exchange(self, orders: Sequence[Assignment], patience: float, backlog: int) -> Report:
        """Take orders; come back with what ended when few orders (`backlog`) are left, at the latest after `patience`
        seconds."""
        with self._change:
            if orders:
                self._orders += orders
                if self._idle:
                    self._engine.progress.since = time.monotonic()
                self._idle = False
                self._change.notify_all()
            self._change.wait_for(
                lambda: self._broken or self._idle or (self._rows and self._waiting() < backlog), timeout=patience
            )
            rows, self._rows = self._rows, []
            progress = self._engine.progress
            return Report(
                rows=rows,
                now=progress.now,
                stalled=0.0 if self._idle else time.monotonic() - progress.since,
                broken=self._broken,
            )

    def _waiting(self) -> int:
        return len(self._orders) + self._engine.waiting

    def _run(self) -> None:
        while not self._broken:
            with self._change:
                self._change.wait_for(lambda: self._orders or self._calls or not self._engine.idle)
                calls, self._calls = self._calls, []
                for order in self._orders:
                    self._engine.add(*order)
                self._orders = []
            for task, answer in calls:
                self._answer(task, answer)
            if not calls:
                self._round()

    def _answer(self, task: str, answer: dict[str, Any]) -> None:
        problem: Exception | None = None
        try:
            self._engine.warm_up(task)
        except Exception as error:  # raised again where it was asked
            problem = error
        with self._change:
            answer["done"] = problem
            self._change.notify_all()

    def _round(self) -> None:
        ended: list[tuple[int, dict[str, Any]]] = []
        try:
            ended.extend(self._engine.round())
        except Exception as error:  # nobody else is there to hear of it
            ended.append((self._engine.progress.now, {"exception": f"{type(error).__name__}: {error}"}))
        with self._change:
            self._rows += ended
            self._broken = any("exception" in row for _, row in ended)
            self._idle = self._engine.idle and not self._orders
            if ended or self._idle:
                self._change.notify_all()


def load_agent(path: str) -> Predictor:
    """The bundle's network in this process; a bundle that was replaced is loaded anew."""
    return _agent(path, bundle_version(path))


@functools.lru_cache(maxsize=KEEP)
def _agent(path: str, state: int) -> Predictor:
    torch.set_num_threads(1)  # one process a core, and the same sums everywhere
    return Agent(PolicyBundle.load(Path(path)))
