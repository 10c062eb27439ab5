"""Errors, truncated episodes and starts that are solved at reset are reported beside the rate."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from raybc.metric import METRICS, SUCCESS, Score, score_of
from raybc.rollout.notices import first_error_text, notices
from raybc.rollout.results import metrics, summarise
from raybc.statistics import bounds_with_errors, too_many_errors
from raybc.types import EpisodeResult


def rows(*outcomes: str, **more: Any) -> list[Any]:
    return [
        EpisodeResult(i, i, outcome, 1.0, 5, 0.1, message="gone" if outcome == "error" else "", **more).to_row()  # type: ignore[arg-type]
        for i, outcome in enumerate(outcomes)
    ]


@pytest.mark.parametrize(
    ("rate", "valid", "errors", "bounds"),
    [
        (1.0, 6, 14, (0.3, 1.0)),
        (0.5, 10, 0, (0.5, 0.5)),
        (0.5, 10, 10, (0.25, 0.75)),
        (0.0, 0, 8, (0.0, 1.0)),
        (0.0, 0, 0, (0.0, 1.0)),
    ],
)
def test_bounds_count_errors_as_failures_and_as_successes(
    rate: float, valid: int, errors: int, bounds: tuple[float, float]
) -> None:
    assert bounds_with_errors(rate, valid, errors) == pytest.approx(bounds)
    low, high = bounds_with_errors(10.0, 3, 1, worst=-2.0, best=20.0)
    assert (low, high) == pytest.approx((7.0, 12.5))


def test_one_error_in_twenty_is_allowed() -> None:
    assert not too_many_errors(1, 20)
    assert too_many_errors(2, 20)
    assert not too_many_errors(0, 0)


def test_errors_are_told_with_bounds_and_their_first_message() -> None:
    counts = summarise(rows(*["error"] * 14, *["success"] * 6), SUCCESS)
    score = score_of([counts], SUCCESS)
    assert score.bounds_text == "30.0-100.0 % if errors count as failures or as successes"
    assert score.errors_text == f"14 of 20 episodes ended in errors; {score.bounds_text}"
    assert score_of([summarise(rows("success"), SUCCESS)], SUCCESS).errors_text == ""
    assert score_of([summarise(rows("error"), SUCCESS)], SUCCESS).errors_text == "1 of 1 episodes ended in errors"
    assert first_error_text(counts["first_error"]) == "first error, at start 0: gone"
    assert first_error_text({"index": 3, "message": "a", "traceback": "b\nc"}).splitlines()[1:] == ["b", "c"]
    found = metrics(rows(*["error"] * 14, *["success"] * 6), has_success=True, reference=None, metric=SUCCESS)
    assert found["success_bounds"] == pytest.approx([0.3, 1.0])
    assert found["first_error"]["message"] == "gone"
    assert "success_bounds" not in metrics(rows("success"), has_success=True, reference=None, metric=SUCCESS)


def scored(value: float, episodes: int, errors: int, metric: Any = SUCCESS) -> Score:
    return Score(metric, value, None, episodes, 0, errors)


def test_a_crashing_policy_is_behind_one_that_runs() -> None:
    """6 of 6 with 14 errors is between 30 and 100 %, and 10 of 20 is 50 %."""
    assert scored(1.0, 6, 14).cautious == pytest.approx(0.3)
    assert scored(0.5, 20, 0).order < scored(1.0, 6, 14).order < scored(0.25, 20, 0).order
    assert scored(1.0, 19, 1).order < scored(0.9, 20, 0).order
    free = METRICS["return"]
    assert scored(9.0, 6, 14, free).bounds_text == ""
    assert scored(1.0, 20, 0, free).order < scored(9.0, 6, 14, free).order, "the worst return is unknown"
    bound = dataclasses.replace(free, bounds=(-10.0, 10.0))
    assert scored(9.0, 10, 10, bound).cautious == pytest.approx(-0.5)
    assert "if errors count as the lowest or as the highest value" in scored(9.0, 10, 10, bound).errors_text
    assert Score(SUCCESS, None, None, 0, 0, 5).order > scored(0.0, 5, 0).order


def test_truncated_and_solved_starts_are_told() -> None:
    assert notices(summarise(rows("success", "failure", "timeout"), SUCCESS)) == []
    assert notices(summarise(rows("failure", "failure", truncated=True), SUCCESS))[0].startswith(
        "2 of 2 episodes were truncated"
    )
    some = [*rows("success", "timeout", solved_at_reset=True), *rows("success", "failure")]
    assert notices(summarise(some, SUCCESS)) == [
        "2 of 4 starts were solved before the first step; without them 50.0 % (1/2)"
    ]
    assert notices(summarise(some, SUCCESS), has_success=False) == []
    assert "no rate" in notices(summarise(rows("success", solved_at_reset=True), SUCCESS))[0]
