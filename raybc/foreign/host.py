"""Policies of others in an actor, for simulators whose own processes cannot or should not run them.

Simulators in environments of their own have none of the user's packages, and a policy on a GPU is loaded once for all
simulators. Letters: H chunk, A action dim.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raybc.foreign.base import INSTRUCTION, About
from raybc.foreign.predictor import ForeignPredictor, ForeignSession
from raybc.foreign.reference import Reference
from raybc.inference.predictor import PolicyError
from raybc.types import SampleSetting

#: Episodes that are remembered; those of simulators that died are among them.
KEEP_SESSIONS = 1024


@dataclass(frozen=True)
class Question:
    """What an episode asks."""

    key: str
    """The episode."""
    about: About
    setting: SampleSetting
    seed: int
    steps: Sequence[Mapping[str, Any]]
    """What was observed since it last asked."""
    is_first: bool
    """Whether it has not asked before."""


class EpisodeHost:
    """The policies of all references, and the sessions of their episodes. Threads may ask at the same time."""

    def __init__(self) -> None:
        self._predictors: dict[str, tuple[ForeignPredictor, threading.Lock | None]] = {}
        self._one_by_one: dict[str, threading.Lock] = {}
        """Kind that is not `threaded` -> held while one of its policies is asked: callables may share a module."""
        self._sessions: OrderedDict[str, ForeignSession] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, text: str, question: Question) -> tuple[np.ndarray | PolicyError, bool]:
        """The chunk (H, A) of an episode, or why there is none; and whether the policy wants to see every step."""
        with self._lock:
            predictor, one_by_one = self._predictor(text)
            session = self._sessions.get(question.key)
            if session is None and not question.is_first:
                return PolicyError("the process of the policy was replaced in the middle of the episode"), False
            if session is None:
                session = predictor.begin(question.about, question.setting, question.seed)
                self._sessions[question.key] = session
            while len(self._sessions) > KEEP_SESSIONS:
                self._sessions.popitem(last=False)[1].end("error")
        session.instruction = question.steps[-1][INSTRUCTION]
        for obs in question.steps:
            session.observe(obs)
        if one_by_one is None:
            (found,) = predictor.predict_episodes([session]).get()
        else:
            with one_by_one:
                (found,) = predictor.predict_episodes([session]).get()
        policy = session.policy
        return found, policy is not None and policy.sees_every_step

    def end(self, key: str, outcome: str) -> None:
        """An episode has ended."""
        with self._lock:
            session = self._sessions.pop(key, None)
        if session is not None:
            session.end(outcome)

    def _predictor(self, text: str) -> tuple[ForeignPredictor, threading.Lock | None]:
        if text not in self._predictors:
            reference = Reference.read(text)
            kind = reference.load_kind()
            lock = None if kind.threaded else self._one_by_one.setdefault(reference.kind, threading.Lock())
            self._predictors[text] = ForeignPredictor(reference, kind), lock
        return self._predictors[text]
