"""Policies of others in a simulator process: who acts in which episode, and what its answers are.

Letters: H chunk, A action dim.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raybc.envs.base import SimEnv, Task
from raybc.envs.border import describe
from raybc.foreign.base import INSTRUCTION, About, ForeignPolicy, Kind, as_chunk
from raybc.foreign.reference import Reference
from raybc.inference.predictor import KEEP, EpisodePredictor, EpisodeSession, PolicyError, Predictor
from raybc.inference.session import RecedingHorizon
from raybc.types import EpisodeSpec, SampleSetting, UserError

#: Chunk of an episode, or why there is none.
Answer = np.ndarray | PolicyError


@functools.lru_cache(maxsize=KEEP)
def load(text: str) -> Predictor | EpisodePredictor:
    """Whoever predicts for the reference `text`, in this process."""
    reference = Reference.read(text)
    kind = reference.load_kind()
    return kind.predictor(reference, None) if kind.by_rows else ForeignPredictor(reference, kind)


class ForeignSession(EpisodeSession):
    """One episode of a policy of others: what it saw since it was asked, and what is left of its chunks."""

    def __init__(self, about: About, setting: SampleSetting, seed: int) -> None:
        self.instruction = ""
        self.about, self.setting, self.seed = about, setting, seed
        self.policy: ForeignPolicy | None = None
        """Taken at the first request."""
        self.is_new = True
        """Whether the policy does not know of the episode yet."""
        self.problem: PolicyError | None = None
        """Why it could not be asked."""
        self._seen: list[Mapping[str, Any]] = []
        self._horizon = RecedingHorizon(setting)

    def observe(self, obs: Mapping[str, np.ndarray]) -> None:
        self._seen.append({**obs, INSTRUCTION: self.instruction})

    @property
    def seen(self) -> list[Mapping[str, Any]]:
        """The observations since the last request."""
        return self._seen

    def take(self, every_step: bool) -> list[Mapping[str, Any]]:
        """The observations since the last request; only the newest unless `every_step`."""
        seen, self._seen = self._seen, []
        # The instruction of an episode is set before its first observation, but may be another one by now.
        return [{**obs, INSTRUCTION: self.instruction} for obs in (seen if every_step else seen[-1:])]

    def plan(self, chunk_HA: np.ndarray, max_steps: int | None = None) -> np.ndarray:
        wanted = self.setting.steps_between(len(chunk_HA))
        if wanted > len(chunk_HA):
            raise PolicyError(f"execute_steps: expected at most the {len(chunk_HA)} steps of its chunk, got {wanted}")
        return self._horizon.plan(chunk_HA, max_steps)

    def end(self, outcome: str) -> None:
        """Tell the policy that the episode has ended."""
        if self.policy is not None and not self.is_new and not self.policy.batched:
            self.policy.end(outcome)


class ForeignPredictor(EpisodePredictor):
    """The policy objects of one reference: one for each episode that is running, or one for all if it is batched."""

    def __init__(self, reference: Reference, kind: Kind) -> None:
        self._reference, self._kind = reference, kind
        self._free: dict[tuple[str, int], list[ForeignPolicy]] = {}
        self._lock = threading.Lock()

    def session(self, task: Task, env: SimEnv, spec: EpisodeSpec, setting: SampleSetting) -> ForeignSession:
        argument = self._reference.argument
        about = About.of(task, env, env.instruction or task.instruction, setting.flow_steps, argument)
        return _Pooled(self, about, setting, spec.seed)

    def begin(self, about: About, setting: SampleSetting, seed: int) -> ForeignSession:
        """A session where no simulator is at hand."""
        return _Pooled(self, about, setting, seed)

    def predict_episodes(self, sessions: Sequence[EpisodeSession]) -> _Answers:
        found = [session for session in sessions if isinstance(session, ForeignSession)]
        together: list[ForeignSession] = []
        for session in found:
            session.problem = None
            try:
                policy = self._policy_of(session)
                if policy.batched:
                    together.append(session)
                    continue
                if session.is_new:
                    session.is_new = False
                    policy.reset(session.seed)
                policy.ask(session.take(policy.sees_every_step))
            except (Exception, SystemExit) as error:  # a policy may call sys.exit
                session.problem = _problem(error)
        rows: dict[int, Answer] = {}
        if together:
            rows = dict(zip(map(id, together), self._answer_together(together), strict=True))
        return _Answers(found, rows)

    def _answer_together(self, sessions: Sequence[ForeignSession]) -> Sequence[Answer]:
        groups: dict[int, list[ForeignSession]] = {}
        for session in sessions:
            groups.setdefault(id(session.policy), []).append(session)
        found: dict[int, Answer] = {}
        for group in groups.values():
            policy = group[0].policy
            assert policy is not None
            try:
                rows = policy.act_together([session.take(False)[0] for session in group])
                if len(rows) != len(group):
                    raise PolicyError(f"the policy: expected actions for {len(group)} rows, got {len(rows)}")
                for session, row in zip(group, rows, strict=True):
                    found[id(session)] = as_chunk(row, session.about.action_size)
            except (Exception, SystemExit) as error:
                found |= dict.fromkeys((id(session) for session in group if id(session) not in found), _problem(error))
        return [found[id(session)] for session in sessions]

    def _policy_of(self, session: ForeignSession) -> ForeignPolicy:
        if session.policy is None:
            with self._lock:  # in an actor, episodes ask from several threads
                free = self._free.setdefault((session.about.task, session.about.flow_steps), [])
                session.policy = (free[-1] if free[-1].batched else free.pop()) if free else None
            if session.policy is None:
                session.policy = self._kind.open(self._reference, session.about)
                if session.policy.batched:
                    self.batched = True
                    free.append(session.policy)
        return session.policy

    def release(self, session: ForeignSession) -> None:
        """Keep the policy of an episode that has ended for the next one."""
        policy, session.policy = session.policy, None
        if policy is not None and not policy.batched:
            self._free.setdefault((session.about.task, session.about.flow_steps), []).append(policy)

    def close(self) -> None:
        """Close all policies that act in no episode."""
        for policies in self._free.values():
            for policy in policies:
                with contextlib.suppress(Exception):
                    policy.close()
        self._free.clear()


class _Pooled(ForeignSession):
    """A session that hands its policy back when the episode has ended."""

    def __init__(self, owner: ForeignPredictor, about: About, setting: SampleSetting, seed: int) -> None:
        super().__init__(about, setting, seed)
        self._owner = owner

    def end(self, outcome: str) -> None:
        with contextlib.suppress(Exception):  # the episode is over, and its outcome stays
            super().end(outcome)
        self._owner.release(self)


class _Answers:
    """The chunks of several episodes; a `PolicyError` where there is none."""

    def __init__(self, sessions: Sequence[ForeignSession], known: Mapping[int, Answer]) -> None:
        self._sessions, self._known = sessions, known

    def get(self) -> list[Answer]:
        return [self._known[id(s)] if id(s) in self._known else self._answer(s) for s in self._sessions]

    def _answer(self, session: ForeignSession) -> Answer:
        if session.problem is not None:
            return session.problem
        assert session.policy is not None
        try:
            return as_chunk(session.policy.answer(), session.about.action_size)
        except Exception as error:
            return _problem(error)


def _problem(error: BaseException) -> PolicyError:
    """Why a policy gave no actions: its own words, or what its code raised."""
    if isinstance(error, PolicyError):
        return error
    text = str(error) if isinstance(error, UserError) else f"the policy raised {describe(error)}"
    found = PolicyError(text)
    found.__cause__ = error
    return found


def probe(reference: Reference, about: About, obs: Mapping[str, np.ndarray], setting: SampleSetting) -> np.ndarray:
    """The chunk (H, A) for one observation, from a policy that is opened and closed for it. Raises `PolicyError`."""
    predictor = ForeignPredictor(reference, reference.load_kind())
    session = predictor.begin(dataclasses.replace(about, flow_steps=setting.flow_steps), setting, seed=0)
    session.instruction = about.instruction
    session.observe(obs)
    try:
        (found,) = predictor.predict_episodes([session]).get()
        session.end("failure")
    finally:
        predictor.close()
    if isinstance(found, PolicyError):
        raise found
    return found
