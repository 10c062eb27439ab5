"""How much each axis matters, by Optuna's PED-ANOVA over trials at equal training steps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from raybc.sweep.config import SweepConfig
from raybc.sweep.ledger import SweepState
from raybc.sweep.study import distributions

#: Minimum number of trials.
MINIMUM = 6
#: Trials are compared at the latest evaluation that this many of them reached (else at the first).
WANTED = 20


def importances(config: SweepConfig, state: SweepState) -> dict[str, Any]:
    """{"axes": {name: share}, "trials": n, "evaluation": k, "step": s}; without "axes" if there are too few trials.

    Trials are compared by their scores at one evaluation, because a pruned trial's last score is after fewer steps. The
    shares add up to 1. They say which axes decide whether a trial is among the best (the best tenth, at least three).
    "completed": {"axes", "trials"} of the completed trials alone, by their last scores and the best tenth, which is
    what optuna-dashboard computes: it knows no score of a pruned trial.
    """
    reached: dict[int, list[tuple[dict[str, Any], float]]] = {}
    steps: dict[int, int] = {}
    for trial in state.trials.values():
        for evaluation in trial.evaluations:
            reached.setdefault(evaluation.evaluation, []).append((trial.params, evaluation.score))
            steps[evaluation.evaluation] = evaluation.step
    enough = [k for k, trials in reached.items() if len(trials) >= WANTED]
    k = max(enough) if enough else 1
    measured = reached.get(k, [])
    found: dict[str, Any] = {"trials": len(measured), "evaluation": k, "step": steps.get(k), "minimum": MINIMUM}
    if len(measured) < MINIMUM or len({score for _, score in measured}) < 2:
        return found
    quantile = max(0.1, 3 / len(measured))
    found |= {"axes": _shares(config, state, measured, quantile), "best": round(quantile, 3)}
    ended = [(trial.params, trial.score) for trial in state.trials.values() if trial.status == "completed"]
    completed = [(params, score) for params, score in ended if score is not None]
    if len(completed) > 1:
        # What optuna-dashboard shows.
        found["completed"] = {"axes": _shares(config, state, completed, 0.1), "trials": len(completed)}
    return found


def _shares(
    config: SweepConfig, state: SweepState, measured: Sequence[tuple[dict[str, Any], float]], quantile: float
) -> dict[str, float]:
    """Axis -> its share, by Optuna's PED-ANOVA of (recipe, score)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    axes = distributions(config)
    study = optuna.create_study(direction=state.metric.direction)
    for params, value in measured:  # axes that only some recipes have are left out by Optuna
        own = {name: axes[name] for name in params}
        study.add_trial(optuna.trial.create_trial(value=value, params=params, distributions=own))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental, and that all shares are equal, which the page shows
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
