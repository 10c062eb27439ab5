"""Why an episode could not be run. The kind is set where the fault is seen; rows, tables and pages count by it."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass, field

from raybc.envs.border import BadEnvironment
from raybc.inference.predictor import PolicyError
from raybc.rows import EpisodeRow, episode_row
from raybc.types import EpisodeResult, EpisodeSpec

DIED = "simulator process died"
HUNG = "hung"
DID_NOT_START = "simulator did not start"
OTHER = "other"
#: A policy of others gave no actions.
POLICY = PolicyError.__name__
#: Lines of a traceback that are kept.
TRACEBACK_LINES = 25


#: Kind and message of a fault without its numbers.
Signature = tuple[str, str]


@dataclass(frozen=True)
class Fault:
    """What went wrong in an episode, or in the process that ran it."""

    kind: str
    """`DIED`, `HUNG`, `DID_NOT_START`, or the name of an exception's class."""
    message: str
    traceback: str = field(default="", compare=False)
    """Of an exception: its last lines."""

    @property
    def signature(self) -> Signature:
        """The same for faults that differ in numbers only (steps, coordinates)."""
        return self.kind, re.sub(r"[-+\d.]+", "0", self.message)


def raised(error: Exception, step: int | None = None) -> Fault:
    """The simulator or the policy raised an exception. step: the step of the episode, 0 for its reset."""
    at = "" if step is None else f" (at step {step})" if step else " (at the reset)"
    # Of a policy that raised, what it raised; the rest is raybc's.
    shown = error.__cause__ if isinstance(error, PolicyError) and error.__cause__ is not None else error
    lines = "".join(traceback.format_exception(shown)).splitlines()
    # A violation of the contract needs none: its message says everything. Nor does a wrong answer.
    plain = isinstance(error, BadEnvironment) or (isinstance(error, PolicyError) and shown is error)
    trace = [] if plain else lines[-TRACEBACK_LINES:]
    return Fault(type(error).__name__, f"{type(error).__name__}: {error}{at}", "\n".join(trace))


def error_row(spec: EpisodeSpec, fault: Fault, retries: int = 0) -> EpisodeRow:
    """The row of an episode that could not be run."""
    result = EpisodeResult(
        spec.index,
        spec.seed,
        "error",
        episode_return=0.0,
        steps=0,
        seconds=0.0,
        retries=retries,
        message=fault.message,
        kind=fault.kind,
        traceback=fault.traceback,
    )
    return episode_row(result)


def hung(deadline: float) -> Fault:
    return Fault(HUNG, f"no answer within {deadline:g} s (hung)")


def died(error: Exception) -> Fault:
    return Fault(DIED, f"the simulator process died ({type(error).__name__})")


def did_not_start(reason: str) -> Fault:
    return Fault(DID_NOT_START, f"no simulator process could be started: {reason}")


def error_kind(row: EpisodeRow) -> str:
    """The kind of the error that an episode ended in."""
    return row.get("error_kind") or kind_in_message_of_0_1_0(row["message"])


def kind_in_message_of_0_1_0(message: str) -> str:
    """Rows of release 0.1.0 have no `error_kind`; their messages begin with an exception's class or contain one of
    three phrases."""
    for phrase, kind in (
        ("no simulator process could be started", DID_NOT_START),
        ("the simulator process died", DIED),
        ("(hung)", HUNG),
    ):
        if phrase in message:
            return kind
    name, colon, _ = message.partition(":")
    return name if colon and name.replace(".", "").isidentifier() else OTHER
