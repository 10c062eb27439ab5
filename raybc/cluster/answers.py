"""What other processes of Ray answer."""

from __future__ import annotations

from typing import Any

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray

from raybc.types import PlainError


def answer_of(ref: Any) -> Any:
    """What a task or an actor's method returns.

    ref: a reference, or a list of them for a list of answers. Raises what was raised there. By itself Ray raises an
    exception of a class made for it, which is a `RayTaskError` and a `UserError` in one and has a traceback in place of
    its message. An error whose message says everything comes without a traceback; others have it as their cause.
    """
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from (None if isinstance(error.cause, PlainError) else error)
