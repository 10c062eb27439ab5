"""What an environment returns, checked where it enters raybc: rewards, flags, observations, and its exceptions.

Nothing that passed here needs another check: rewards are finite floats, flags are bools, and observations are what the
environment declares. A violation ends the episode as an `error`; while a name is resolved it is a `UserError`.
"""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from raybc.types import UserError

#: Names under which simulators report success, by precedence.
SUCCESS_NAMES = (
    *("success", "is_success", "task_success", "episode_success", "goal_achieved", "goal_reached"),
    *("reached_goal", "solved", "is_solved", "task_solved"),
)
_NAMES = frozenset(SUCCESS_NAMES)
#: Where gymnasium's vector environments and wrappers that reset by themselves put the last `info` of an episode.
FINAL_INFO = "final_info"
#: Type codes of numpy's bools, integers and floating-point numbers.
_NUMBERS = frozenset(np.typecodes["AllInteger"] + np.typecodes["Float"] + "?")
API = "raybc needs gymnasium's API (reset(seed, options) -> obs, info; step -> 5 values)"
#: Sums of rewards beyond this are refused: squares of them would overflow.
LARGEST_RETURN = 1e100


class BadEnvironment(RuntimeError):
    """The environment returned what it must not return. The same start would do so again, so it is not repeated."""


def flag(name: str, value: Any) -> bool:
    """A bool from what simulators use for one: a bool, 0 or 1 of any type, or an array of one of these.

    Raises `BadEnvironment` for anything else, e.g. 0.7, "yes" or None.
    """
    if value is True or value is False:
        return bool(value)
    with contextlib.suppress(ValueError, TypeError):
        array = np.asarray(value)
        if array.size == 1 and array.dtype.kind in "biuf" and array.item() in (0, 1):
            return bool(array.item())
    raise BadEnvironment(f"{name}: expected true or false (or 0 or 1), got {_short(value)}")


def reward_of(value: Any) -> float:
    """A finite float, or `BadEnvironment`."""
    reward = float(value) if isinstance(value, float) else math.nan  # also numpy's float64
    if not isinstance(value, float):
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            array = np.asarray(value)
            reward = float(array.item()) if array.dtype.kind in "biuf" else math.nan
    if not math.isfinite(reward):
        raise BadEnvironment(f"the reward: expected a finite number, got {_short(value)}")
    return reward


def success_name(info: Mapping[str, Any]) -> str | None:
    """The name under which `info`, or the final info in it, reports success; None where it does not."""
    if FINAL_INFO not in info and _NAMES.isdisjoint(info):  # at every step of an environment that reports none
        return None
    for place in (final_info(info), info):
        for name in SUCCESS_NAMES:
            if name in place:
                return name
    return None


def success_in(info: Mapping[str, Any], name: str) -> bool:
    """Success as `info` or the final info in it (which goes first) reports it under `name`; else False."""
    last = final_info(info) if FINAL_INFO in info else {}
    if name in last:
        return flag(f"info[{FINAL_INFO!r}][{name!r}]", last[name])
    return flag(f"info[{name!r}]", info[name]) if name in info else False


def final_info(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """The last `info` of an episode that a wrapper put into the one of the next; empty where there is none."""
    found = info.get(FINAL_INFO)
    if isinstance(found, list | tuple | np.ndarray) and len(found) == 1:
        found = found[0]
    return found if isinstance(found, Mapping) else {}


def of_reset(result: Any) -> tuple[Any, Mapping[str, Any]]:
    """Observation and info of a reset, or `BadEnvironment`."""
    if isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], Mapping):
        return result[0], result[1]
    raise BadEnvironment(f"reset returned {_shape_of(result)}; {API}")


def of_step(result: Any) -> tuple[Any, float, bool, bool, Mapping[str, Any]]:
    """Observation, reward, terminated, truncated and info of a step, or `BadEnvironment`."""
    usual = type(result) is tuple and len(result) == 5 and type(result[4]) is dict  # cheaper than isinstance
    if not (usual or (isinstance(result, tuple | list) and len(result) == 5 and isinstance(result[4], Mapping))):
        raise BadEnvironment(f"step returned {_shape_of(result)}; {API}")
    obs, reward, terminated, truncated, info = result
    if type(terminated) is not bool:
        terminated = flag("terminated", terminated)
    if type(truncated) is not bool:
        truncated = flag("truncated", truncated)
    return obs, reward_of(reward), terminated, truncated, info


def vector(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A copy of `value` as float32, if it has this shape and is finite; else `BadEnvironment`. name: for messages."""
    try:
        raw = np.asarray(value)
    except (ValueError, TypeError):
        raw = np.array(None)
    if raw.dtype.char not in _NUMBERS:
        raise BadEnvironment(f"{name}: expected numbers, got {_short(value)}")
    array = raw.astype(np.float32)  # a copy, made faster than by np.array
    if array.shape != shape:
        raise BadEnvironment(f"{name}: declared with shape {shape}, observed with {array.shape}")
    _check_finite(name, array)
    return array


def _check_finite(name: str, array: np.ndarray) -> None:
    # The product is the cheaper check; it may overflow where the values do not.
    if not math.isfinite(array.dot(array)) and not np.isfinite(array).all():
        raise BadEnvironment(f"{name}: the simulation diverged: it observes {_short(array)}")


def image(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A copy of `value`, if it is uint8 and has this shape; else `BadEnvironment`. name: for messages."""
    array = np.array(value)
    if array.dtype != np.uint8 or array.shape != shape:
        raise BadEnvironment(
            f"{name}: declared as an image, uint8 with shape {shape}; observed {array.dtype} with {array.shape}"
        )
    return array


class ObservationCheck:
    """Compares observations with the space that declares them. Values are not copied."""

    def __init__(self, space: gymnasium.spaces.Dict[Any]) -> None:
        self._declared = [
            (key, box.shape, box.dtype, len(box.shape or ()) == 1 and box.dtype == np.float32)
            for key, box in space.items()
        ]

    def __call__(self, obs: Mapping[str, np.ndarray]) -> None:
        """Raises `BadEnvironment` for a missing observation, another shape or dtype, and for nan or inf."""
        for key, shape, dtype, numeric in self._declared:
            value = obs.get(key)
            if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != dtype:
                got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else _short(value)
                raise BadEnvironment(f"observation {key!r}: declared as {dtype} {shape}, got {got}")
            if numeric:
                _check_finite(f"observation {key!r}", value)


@contextlib.contextmanager
def calling(name: str, what: str, hint: str = API) -> Iterator[None]:
    """Turn an exception of a user's code into one line: `module:callable: reset(seed=0) failed: ...`.

    name: of the environment. what: the call. hint: what raybc expects of it.
    """
    try:
        yield
    except UserError:
        raise
    except BadEnvironment as error:  # its message says what is expected
        raise UserError(f"{name}: {what} failed: {describe(error)}") from error
    except (Exception, SystemExit) as error:  # a module may call sys.exit, e.g. by parsing arguments
        raise UserError(f"{name}: {what} failed: {describe(error)}; {hint}") from error


def describe(error: BaseException) -> str:
    """An exception as one line: what happened, and where in whose file."""
    text = " ".join(str(error).split())
    if isinstance(error, BadEnvironment):
        return text
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if not _is_library(frame.filename)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def _is_library(filename: str) -> bool:
    path = Path(filename)
    return "site-packages" in path.parts or Path(__file__).parents[1] in path.parents or "importlib" in path.parts


def _shape_of(result: Any) -> str:
    if not isinstance(result, tuple | list):
        return f"one value ({type(result).__name__})"
    last = result[-1] if result else None
    return f"{len(result)} values, the last a {type(last).__name__}"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
