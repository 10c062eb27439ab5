"""Parts of online trainings for tests, without Ray: simulators in the process of the learner, a loop with savings."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raybc.files import run_folder_lock
from raybc.online.part import Name, OnlinePart
from raybc.online.schedule import Schedule
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.faults import Fault
from raybc.rollout.worker import load_agent
from raybc.rows import EpisodeRow
from raybc.run_folder import TrainingFolder
from raybc.train.checkpointing import save_checkpoint
from raybc.train.loop import PackTrainer
from raybc.types import EpisodeSpec, SampleSetting
from tests.helpers import pointmass_data, tiny_trainer

#: Gradient steps of the offline part, no whole number of blocks; steps of the environment, and updates for each.
OFFLINE, ONLINE, UTD = 40, 700, 0.5
SETTING = SampleSetting(2, eval_temperature=1.0)
LAST = OFFLINE + int(UTD * ONLINE)


class EngineSimulators:
    """Simulators that step while the learner looks. Episodes come back in any order."""

    def __init__(self, slots: int = 4, seed: int | None = None) -> None:
        self._engine = Engine(load_agent, slots=slots)
        self._rng = random.Random(seed)
        self._names: dict[int, Name] = {}
        self._back: list[tuple[Name, EpisodeRow]] = []
        self.given: list[tuple[Name, Rollout, EpisodeSpec]] = []

    def submit(self, name: Name, job: Rollout, spec: EpisodeSpec) -> None:
        self._names[len(self.given)] = name
        self._engine.add(len(self.given), job, spec)
        self.given.append((name, job, spec))

    def ended(self, seconds: float) -> list[tuple[Name, EpisodeRow]]:
        for _ in range(20 if seconds else self._rng.randrange(4)):
            for number, row in [] if self._engine.idle else self._engine.round():
                assert not isinstance(row, Fault), row.message
                self._back.append((self._names.pop(number), row))
        self._rng.shuffle(self._back)
        some = self._back[: self._rng.randrange(1 + len(self._back)) or (1 if seconds else 0)]
        self._back = self._back[len(some) :]
        return some


def online_trainer(seeds: tuple[int, ...] = (3,), **changes: Any) -> PackTrainer:
    """A pack whose offline part has `OFFLINE` steps, on demonstrations of the point mass."""
    recipe: dict[str, Any] = {"training_steps": OFFLINE, "ema_decay": 0.9, "eval_temperature": 1.0}
    return tiny_trainer(seeds, pointmass_data(), **{**recipe, **changes})


def online_part(
    trainer: PackTrainer, folders: list[TrainingFolder], in_order: bool = True, seed: int | None = None, **changes: Any
) -> OnlinePart:
    schedule = dataclasses.replace(Schedule(OFFLINE, ONLINE, UTD, 256, 4), **changes)
    return OnlinePart(trainer, folders, EngineSimulators(seed=seed), schedule, "pointmass", SETTING, in_order)


def train(
    out: Path,
    in_order: bool = True,
    every: int = 40,
    pause: float = 0.0,
    online: int = ONLINE,
    starts: int = 0,
    stop: Callable[[OnlinePart], bool] = lambda part: False,
) -> OnlinePart:
    """Train two members in `out` from the latest state to the end, saving at every 40th step.

    online, starts: steps of the environment, and the first of them, which are only collected.
    stop: whether to interrupt the training now.
    """
    folders = [TrainingFolder(out / "a"), TrainingFolder(out / "b")]
    last = OFFLINE + int(UTD * (online - starts))
    trainer = online_trainer((3, 5), training_steps=last)
    if (out / "state").exists():
        trainer.load_state(out / "state")
    part = online_part(trainer, folders, in_order, online_steps=online, learning_starts=starts)
    for until in range(trainer.step - trainer.step % every + every, last + every, every):
        trainer.advance(min(until, last), interrupted=lambda: stop(part))
        if trainer.step < min(until, last):
            break
        save_checkpoint(trainer, [folder.path for folder in folders], out / "state")
        part.saved()
        time.sleep(pause)
    return part


def run(out: Path, online: int = ONLINE) -> None:
    """What a process does that may be killed at any moment."""
    torch.set_num_threads(1)
    with run_folder_lock(out):
        (out / "ready").touch()
        train(out, pause=0.05, online=online)
