"""Why an episode could not be run. The kind is set where the fault is seen; rows, tables and pages count by it."""

from __future__ import annotations

from dataclasses import dataclass

from raybc.rows import EpisodeRow

DIED = "simulator process died"
HUNG = "hung"
DID_NOT_START = "simulator did not start"
OTHER = "other"


@dataclass(frozen=True)
class Fault:
    """What went wrong in an episode, or in the process that ran it."""

    kind: str
    """`DIED`, `HUNG`, `DID_NOT_START`, or the name of an exception's class."""
    message: str


def raised(error: Exception) -> Fault:
    """The simulator or the policy raised an exception."""
    return Fault(type(error).__name__, f"{type(error).__name__}: {error}")


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
