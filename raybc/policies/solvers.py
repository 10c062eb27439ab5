"""Explicit Runge-Kutta solvers of dx/dt = v(x, t) from t = 0 to 1 in S equal steps of h = 1 / S.

    euler     x + h k1                                        order 1, 1 evaluation a step
    midpoint  x + h k2,  k2 = v(x + h k1 / 2, t + h / 2)      order 2, 2 evaluations
    heun      x + h (k1 + k2) / 2,  k2 = v(x + h k1, t + h)   order 2, 2 evaluations
    rk4       x + h (k1 + 2 k2 + 2 k3 + k4) / 6               order 4, 4 evaluations

(Hairer, Norsett and Wanner 1993, "Solving Ordinary Differential Equations I", II.1.)
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]


def integrate(velocity: Velocity, x: Tensor, steps: int, solver: str = "euler") -> Tensor:
    """x at t = 1.

    Args:
        velocity: (x, t) -> v, in the shape of x.
        x: at t = 0.
        steps: S.
        solver: a key of `SOLVERS`.
    """
    step = SOLVERS[solver]
    for i in range(steps):
        x = step(velocity, x, i, steps)
    return x


def _euler(velocity: Velocity, x: Tensor, i: int, steps: int) -> Tensor:
    return x + velocity(x, i / steps) / steps


def _midpoint(velocity: Velocity, x: Tensor, i: int, steps: int) -> Tensor:
    k1 = velocity(x, i / steps)
    return x + velocity(x + k1 / (2 * steps), (i + 0.5) / steps) / steps


def _heun(velocity: Velocity, x: Tensor, i: int, steps: int) -> Tensor:
    k1 = velocity(x, i / steps)
    k2 = velocity(x + k1 / steps, (i + 1) / steps)
    return x + (k1 + k2) / (2 * steps)


def _rk4(velocity: Velocity, x: Tensor, i: int, steps: int) -> Tensor:
    k1 = velocity(x, i / steps)
    k2 = velocity(x + k1 / (2 * steps), (i + 0.5) / steps)
    k3 = velocity(x + k2 / (2 * steps), (i + 0.5) / steps)
    k4 = velocity(x + k3 / steps, (i + 1) / steps)
    return x + (k1 + 2 * k2 + 2 * k3 + k4) / (6 * steps)


#: `--solver` -> one step: (velocity, x, index of the step, S) -> x after it.
SOLVERS: dict[str, Callable[[Velocity, Tensor, int, int], Tensor]] = {
    "euler": _euler, "midpoint": _midpoint, "heun": _heun, "rk4": _rk4,
}  # fmt: skip
