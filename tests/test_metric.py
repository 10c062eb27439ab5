"""What recipes are compared by: direction, intervals, text, and which metrics a task can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest

from raybc.metric import METRICS, SUCCESS, normalized, score_of, summary
from raybc.metric_choice import resolve
from raybc.registry import get_task, parse_env_name
from raybc.statistics import mean_interval, wilson_interval
from raybc.types import UserError


@dataclass(frozen=True)
class _Task:
    name: str = "t"
    has_success: bool = False
    reference_returns: tuple[float, float] | None = None
    reward_range: tuple[float, float] | None = None
    max_steps: int = 100


def test_default_metrics() -> None:
    assert resolve(None, _Task(has_success=True, reference_returns=(0, 1))).name == "success"
    assert resolve(None, _Task(reference_returns=(0, 1))).name == "normalized_score"
    assert resolve(None, _Task()).name == "return"
    assert resolve(None, None).name == "valid_cosine"
    assert resolve(None, get_task(parse_env_name("halfcheetah-medium-v2").task)).name == "normalized_score"


@pytest.mark.parametrize(
    ("requested", "task", "message"),
    [
        ("success", _Task(), r"metric: expected one of return, largest_reward, since t tells no s"),
        ("normalized_score", _Task(), r"since t has no reference returns, got 'normalized_score'"),
        ("return", None, r"of valid_error, .*_samples, since there is no environment, got 'return'; name the environ"),
        ("speed", _Task(), r"expected one of return, largest_reward, got 'speed'"),
    ],
)  # fmt: skip
def test_what_a_task_cannot_tell_is_refused(requested: str, task: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(requested, task)


def test_directions_are_explicit() -> None:
    assert {o.name: o.direction for o in METRICS.values() if o.from_episodes} == {
        "success": "maximize", "return": "maximize", "normalized_score": "maximize", "largest_reward": "maximize",
    }  # fmt: skip
    assert all(o.direction == "minimize" for o in METRICS.values() if not o.from_episodes)
    error = METRICS["valid_error"]
    assert sorted([0.3, None, 0.1], key=error.cost) == [0.1, 0.3, None]
    assert sorted([0.3, None, 0.1], key=SUCCESS.cost) == [0.3, 0.1, None]
    assert sorted([-5.0, math.nan, -40.0], key=METRICS["return"].cost)[0] == -5.0


def test_the_score_of_an_episode() -> None:
    episode = {"outcome": "timeout", "return": 30.0, "max_reward": 0.7}
    d4rl = resolve("normalized_score", _Task(reference_returns=(10.0, 50.0)))
    assert d4rl.of_episode(episode) == normalized(30.0, (10.0, 50.0)) == 50.0
    assert METRICS["return"].of_episode(episode) == 30.0
    assert METRICS["largest_reward"].of_episode(episode) == 0.7
    assert SUCCESS.of_episode(episode) == 0.0
    assert METRICS["return"].of_entry([0, "failure", 9, 30.0, 0.7]) == 30.0
    assert METRICS["largest_reward"].of_entry([0, "failure", 9, 30.0, 0.7]) == 0.7
    assert math.isnan(METRICS["largest_reward"].of_entry([0, "failure", 9, 30.0]))  # not recorded
    for metric in (SUCCESS, d4rl, METRICS["return"], METRICS["largest_reward"]):
        assert math.isnan(metric.of_episode(episode | {"outcome": "error"}))


def test_bounds_of_an_episode() -> None:
    assert resolve("return", _Task()).bounds is None
    assert resolve("largest_reward", _Task(reward_range=(0, 1))).bounds == (0, 1)
    costs = resolve("return", _Task(reward_range=(-2, -1)))
    assert costs.bounds == (-200, 0)  # an episode may end at its first step
    assert costs.unit_value(-50) == 0.75
    assert costs.unit_value(-1000) == 0.0
    assert resolve("normalized_score", _Task(reward_range=(0, 1), reference_returns=(0, 50))).bounds == (0, 200)
    with pytest.raises(ValueError, match="range is unknown"):
        resolve("return", _Task()).unit_value(1.0)


def test_text() -> None:
    assert SUCCESS.show(0.96) == "96.0 %"
    assert SUCCESS.show_range((0.902, 0.984)) == "90.2-98.4 %"
    assert METRICS["return"].show(-31.234) == "-31.23"
    assert METRICS["return"].show(3210.46) == "3210.5"
    assert METRICS["return"].show_range((-40.06, -31.2)) == "-40.06 to -31.20"
    assert METRICS["largest_reward"].show_range((0.8, 0.91)) == "0.800-0.910"
    assert METRICS["valid_error"].show(0.01234) == "0.0123"
    assert SUCCESS.show(None) == SUCCESS.show(math.nan) == SUCCESS.show_range(None) == "-"


def _row(values: list[float], **counts: int) -> dict[str, Any]:
    mean, spread = summary(values)
    valid = [v for v in values if not math.isnan(v)]
    errors = len(values) - len(valid)
    return {"episodes": len(valid), "successes": 0, "errors": errors, "score": mean, "score_sd": spread, **counts}


def test_pooled_rows_are_the_episodes_together() -> None:
    rng = np.random.default_rng(0)
    groups = [list(rng.normal(3, 2, n)) for n in (7, 1, 12)]
    every = [v for group in groups for v in group]
    score = score_of([_row([*groups[0], math.nan]), _row(groups[1]), _row(groups[2])], METRICS["return"])
    assert score.value == pytest.approx(fmean(every))
    assert score.interval == pytest.approx(mean_interval(fmean(every), stdev(every), len(every)))
    assert (score.episodes, score.errors) == (20, 1)


def test_the_interval_of_a_rate_is_wilsons_and_needs_no_new_column() -> None:
    score = score_of([{"episodes": 30, "successes": 9, "errors": 1}], SUCCESS)
    assert (score.value, score.interval, score.errors) == (0.3, wilson_interval(9, 30), 1)
    assert score_of([{"episodes": 0, "successes": 0, "errors": 4}], SUCCESS).value is None


def test_valid_error_is_pooled_over_policies() -> None:
    score = score_of([_row([], score=v) for v in (0.2, 0.4)], METRICS["valid_error"])  # type: ignore[arg-type]
    assert score.value == pytest.approx(0.3)
    assert score.interval is not None
    assert score.range_text.count("0.3") == 0


def test_mean_intervals_cover() -> None:
    rng = np.random.default_rng(1)
    for draw in (lambda: rng.normal(5, 3, 30), lambda: rng.beta(3, 1, 30)):
        truth = fmean(draw().mean() for _ in range(4000))
        found = [mean_interval(v.mean(), v.std(ddof=1), 30) for v in (draw() for _ in range(2000))]
        assert fmean(low <= truth <= high for low, high in found if low is not None) > 0.93  # type: ignore[misc]


def test_values_that_agree_have_no_interval() -> None:
    assert score_of([_row([1.0, 1.0, 1.0])], METRICS["return"]).interval is None
    assert mean_interval(1.0, None, 1) is None
    assert mean_interval(0.99, 0.1, 10, (0.0, 1.0))[1] == 1.0  # type: ignore[index]
