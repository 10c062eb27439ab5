"""Policies of others that live in an `InferenceServer`: whoever asks them from a simulator's process."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np
import ray
from ray.actor import ActorHandle

import raybc.cluster  # noqa: F401
from raybc.cluster.answers import answer_of
from raybc.envs.base import SimEnv, Task
from raybc.foreign.base import About
from raybc.foreign.host import Question
from raybc.foreign.predictor import ForeignSession
from raybc.foreign.reference import Reference
from raybc.inference.predictor import EpisodePredictor, EpisodeSession, PolicyError
from raybc.types import EpisodeSpec, SampleSetting


class SharedSession(ForeignSession):
    """An episode whose policy is elsewhere."""

    def __init__(self, server: ActorHandle, about: About, setting: SampleSetting, seed: int) -> None:
        super().__init__(about, setting, seed)
        self._server, self._key = server, uuid.uuid4().hex

    def question(self, every_step: bool) -> Question:
        """What it asks now."""
        first, self.is_new = self.is_new, False
        return Question(self._key, self.about, self.setting, self.seed, self.take(every_step), first)

    def end(self, outcome: str) -> None:
        if not self.is_new:
            self._server.end.remote(self._key, outcome)


class SharedEpisodes(EpisodePredictor):
    """Sends the questions of episodes to the policies of a reference in an `InferenceServer`."""

    def __init__(self, server: ActorHandle, path: str) -> None:
        self._server, self._path, self._argument = server, path, Reference.read(path).argument
        self._every_step = False

    def session(self, task: Task, env: SimEnv, spec: EpisodeSpec, setting: SampleSetting) -> EpisodeSession:
        about = About.of(task, env, env.instruction or task.instruction, setting.flow_steps, self._argument)
        return SharedSession(self._server, about, setting, spec.seed)

    def predict_episodes(self, sessions: Sequence[EpisodeSession]) -> SharedAnswers:
        questions = [s.question(self._every_step) for s in sessions if isinstance(s, SharedSession)]
        return SharedAnswers(self, [self._server.answer.remote(self._path, question) for question in questions])

    def heard(self, every_step: bool) -> None:
        """Whether the policy wants to see every step is known from its first answer on."""
        self._every_step = every_step


class SharedAnswers:
    """Chunks, or `PolicyError`s, that are still computed elsewhere."""

    def __init__(self, owner: SharedEpisodes, refs: Sequence[ray.ObjectRef]) -> None:
        self._owner, self._refs = owner, list(refs)

    def get(self) -> list[np.ndarray | PolicyError]:
        found = []
        for chunk, every_step in answer_of(self._refs):
            self._owner.heard(every_step)
            found.append(chunk)
        return found
