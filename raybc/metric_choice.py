"""Which metric a run has: what its task can tell, and the default. Neither Ray nor torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from raybc.metric import METRICS, Metric, normalized
from raybc.types import UserError


class Measured(Protocol):
    """What a metric needs to know about a task; `raybc.envs.base.Task` is one."""

    @property
    def name(self) -> str: ...
    @property
    def has_success(self) -> bool: ...
    @property
    def reference_returns(self) -> tuple[float, float] | None: ...
    @property
    def reward_range(self) -> tuple[float, float] | None: ...
    @property
    def max_steps(self) -> int: ...


def choices(task: Measured | None) -> dict[str, str]:
    """Metric -> empty, or why the task cannot tell it. task: None where there is no environment."""
    found = dict.fromkeys(METRICS, "")
    if task is None:
        return found | dict.fromkeys([n for n, o in METRICS.items() if o.from_episodes], "there is no environment")
    if not task.has_success:
        found["success"] = f"{task.name} tells no success"
    if task.reference_returns is None:
        found["normalized_score"] = f"{task.name} has no reference returns"
    return found


def resolve(requested: str | None, task: Measured | None, where: str = "metric") -> Metric:
    """The metric of a run, bound to its task.

    Args:
        requested: its name; None: success where the task tells it, else D4RL's score where there are reference returns,
            else the return; without an environment the cosine distance on held-out data.
        task: the task; None where there is no environment.
        where: the key or flag, for messages.

    Raises `UserError` for a metric that the task cannot tell.
    """
    known = choices(task)
    name = requested or default_metric(task)
    if name not in known or known[name]:
        # Callers refuse measures on held-out data where there is an environment, and say why.
        offered = (name for name, why in known.items() if not why and (task is None or METRICS[name].from_episodes))
        possible = ", ".join(offered)
        why = f", since {known[name]}" if known.get(name) else ""
        advice = "; name the environment with env_name" if task is None and name in known else ""
        raise UserError(f"{where}: expected one of {possible}{why}, got {name!r}{advice}")
    return bind(name, task)


def bind(name: str, task: Measured | None) -> Metric:
    """The metric `name` with what it needs to know about the task. Unlike `resolve` it refuses nothing, for runs of
    earlier releases."""
    metric = METRICS[name]
    if task is None:
        return replace(metric, has_success=False)
    return replace(metric, bounds=_bounds(name, task), reference=task.reference_returns, has_success=task.has_success)


def default_metric(task: Measured | None) -> str:
    """The metric of a task where none was requested."""
    if task is None:
        return "valid_cosine"  # orders recipes best, see benchmarks/results/measures.md
    if task.has_success:
        return "success"
    return "return" if task.reference_returns is None else "normalized_score"


def _bounds(name: str, task: Measured) -> tuple[float, float] | None:
    """Lowest and highest value that one episode can have; None where the range of rewards is unknown."""
    if name == "success" or not METRICS[name].from_episodes or task.reward_range is None:
        return METRICS[name].bounds
    low, high = task.reward_range
    if name == "largest_reward":
        return low, high
    whole = (min(0.0, low) * task.max_steps, max(0.0, high) * task.max_steps)  # an episode may end at any step
    if name == "normalized_score" and task.reference_returns is not None:
        return normalized(whole[0], task.reference_returns), normalized(whole[1], task.reference_returns)
    return whole
