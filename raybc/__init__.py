"""raybc finds, trains and honestly measures the best behaviour-cloning policy for a robot task.

import raybc
policy = raybc.load("runs/quickstart")
action = policy.act(obs)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from raybc._version import __version__ as __version__

if TYPE_CHECKING:  # `import raybc` imports neither torch nor anything else that is large
    from os import PathLike

    from raybc.api.arrays import from_arrays as from_arrays
    from raybc.api.datasets import Dataset as Dataset
    from raybc.api.evaluating import evaluate as evaluate
    from raybc.api.evaluations import Evaluation as Evaluation
    from raybc.api.fitting import fit as fit
    from raybc.api.reading import read as read
    from raybc.api.runs import Run as Run
    from raybc.api.searching import sweep as sweep
    from raybc.api.sweeps import Sweep as Sweep
    from raybc.inference.observations import ActionRange
    from raybc.inference.policy import Policy

#: Public name -> the module that has it, imported when it is first used.
_LAZY = {
    "fit": "raybc.api.fitting",
    "evaluate": "raybc.api.evaluating",
    "read": "raybc.api.reading",
    "Run": "raybc.api.runs",
    "Sweep": "raybc.api.sweeps",
    "Evaluation": "raybc.api.evaluations",
    "Dataset": "raybc.api.datasets",
    "from_arrays": "raybc.api.arrays",
}
__all__ = [
    "Dataset", "Evaluation", "Run", "Sweep", "__version__", "evaluate", "fit", "from_arrays", "load", "read", "sweep",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "sweep":  # also a package, which can be called
        return importlib.import_module("raybc.sweep")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(
    path: str | PathLike[str],
    checkpoint: str = "",
    *,
    flow_steps: int | None = None,
    execute_steps: int | None = None,
    eval_temperature: float | None = None,
    temporal_ensemble: float | None = None,
    solver: str | None = None,
    best_of_n: int | None = None,
    action_range: ActionRange | None = None,
    device: str = "cpu",
) -> Policy:
    """A policy that acts as it does in rollouts.

    Args:
        path: a policy bundle, the folder of a training run (its latest checkpoint, or `checkpoint`) or that of a sweep
            (its winner, with the sample setting that was chosen).
        checkpoint: of a training run: latest, best or a step.
        flow_steps: steps of the solver, in place of the policy's own.
        execute_steps: steps of a chunk that are executed (0: all), in place of the policy's own.
        eval_temperature: scale of the initial noise, in place of the policy's own.
        temporal_ensemble: weight of older chunks (-1: off), in place of the policy's own.
        solver: euler, midpoint, heun or rk4, in place of the policy's own.
        best_of_n: chunks that are sampled, of which the one that the critic values most is executed, in place of the
            policy's own.
        action_range: the lowest and the highest action, (A,) each or a number, to which actions are clipped; None: they
            are not (rollouts clip to the simulator's action space).
        device: cpu, cuda or cuda:N.

    Raises `raybc.types.UserError` where there is no such policy, or it is damaged.
    """
    from raybc.inference.policy import load as load_policy

    given = {
        "flow_steps": flow_steps,
        "execute_steps": execute_steps,
        "eval_temperature": eval_temperature,
        "temporal_ensemble": temporal_ensemble,
        "solver": solver,
        "best_of_n": best_of_n,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return load_policy(path, checkpoint, changes, action_range, device)
