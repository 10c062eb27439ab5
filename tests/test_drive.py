"""The control loop of docs/robots.md: its rate, its limits, and everything that stops it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.documents import Page

FILES = Page.of("robots.md").files()


class Time:
    """A clock that moves when somebody sleeps or computes."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


class Recorded:
    """A policy that takes some time, and the arm of the page, whose calls are recorded with their times."""

    def __init__(self, seconds: Callable[[int], float] = lambda step: 0.01, action: Any = None) -> None:
        arm: dict[str, Any] = {}
        exec(FILES["my_arm.py"], arm)
        self.time, self.seconds, self.action = Time(), seconds, action
        self.sent: list[np.ndarray] = []
        self.times: list[float] = []
        self.steps = self.stops = self.resets = 0
        self.press_at = -1
        self.arm = arm["Arm"]()
        send = self.arm.send_action

        def send_action(action: np.ndarray) -> None:
            self.sent.append(action)
            self.times.append(self.time.now)
            send(action)

        def stop() -> None:
            self.stops += 1

        self.arm.send_action, self.arm.stop = send_action, stop
        self.arm.stop_requested = lambda: 0 <= self.press_at <= self.steps

    def reset(self) -> None:
        self.resets += 1

    def act(self, obs: dict[str, np.ndarray]) -> np.ndarray:
        self.time.now += self.seconds(self.steps)
        self.steps += 1
        if isinstance(self.action, BaseException):
            raise self.action
        return obs["state"] + 1 if self.action is None else np.full(7, self.action, np.float32)

    def drive(self, seconds: float = 2.0) -> str:
        names: dict[str, Any] = {"__name__": "drive"}
        exec(FILES["drive.py"], names)
        found: str = names["drive"](self.arm, self, seconds, clock=self.time.clock, sleep=self.time.sleep)
        return found


def test_actions_are_sent_at_20_hz() -> None:
    """Also where a chunk takes a whole period now and then: one late step is not made up for by hurrying."""
    steady = Recorded()
    assert steady.drive() == "time is up"
    assert len(steady.sent) in (40, 41), "two seconds"
    np.testing.assert_allclose(np.diff(steady.times), 0.05, atol=1e-9)
    assert (steady.resets, steady.stops) == (1, 1)
    chunks = Recorded(lambda step: 0.08 if step % 8 == 0 else 0.001)
    assert chunks.drive() == "time is up"
    assert np.diff(chunks.times).min() >= 0.05 - 1e-9


def test_actions_are_limited() -> None:
    far = Recorded(action=500.0)
    assert far.drive() == "time is up"
    sent = np.stack(far.sent)
    assert sent.max() == 90
    assert np.diff(sent, axis=0).max() <= 10
    assert sent[0].max() == 10


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_action_that_is_not_finite_stops(value: float) -> None:
    broken = Recorded(action=value)
    assert "not finite" in broken.drive()
    assert broken.sent == []
    assert broken.stops == 1


def test_a_slow_policy_stops() -> None:
    slow = Recorded(lambda step: 0.06)
    assert slow.drive() == "stopped: the last 4 steps took longer than 50 ms"
    assert (len(slow.sent), slow.stops) == (4, 1)


def test_the_button_stops_before_the_next_action() -> None:
    pressed = Recorded()
    pressed.press_at = 5
    assert pressed.drive() == "stopped by the button"
    assert (len(pressed.sent), pressed.stops) == (4, 1), "pressed while the fifth action was computed"


@pytest.mark.parametrize("error", [ConnectionError("no answer"), KeyboardInterrupt()])
def test_whatever_happens_the_robot_stops(error: BaseException) -> None:
    lost = Recorded(action=error)
    with pytest.raises(type(error)):
        lost.drive()
    assert (lost.sent, lost.stops) == ([], 1)
