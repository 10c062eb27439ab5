"""A support vector machine on the features of the classifier's networks, one for each fold.

It is never saved: features.safetensors has the features, labels and folds, and fitting is deterministic.
Letters: M folds, E episodes, F features, K classes.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from raybc.types import UserError


def check_available() -> None:
    """Raise `UserError` where scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("the SVM needs scikit-learn: pip install 'raybc[quality]', or leave the SVM out with --no-svm")


def held_out_decisions(
    features_MEF: np.ndarray, class_E: np.ndarray, fold_E: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """What SVMs say of all episodes, those with labels by the machine that holds them out.

    Machine m is fitted to the mean features, in network m, of the labelled episodes outside of fold m.

    Args:
        features_MEF: float32 (M, E, F).
        class_E: int64 (E,), -1 without a label.
        fold_E: int64 (E,), -1 without a label.
        classes: K.

    Returns:
        The predicted class, int64 (E,), and the score from 0 (worst class) to 1 (best), float64 (E,): the mean rank of
        the classes by a softmax of the decision values, which is no calibrated probability. Of episodes without a label
        the mean over machines.
    """
    predicted = np.stack([_decide(features_MEF[m], class_E, fold_E != m, classes) for m in range(len(features_MEF))])
    held = predicted[np.maximum(fold_E, 0), np.arange(len(fold_E))]
    p_EK = np.where((fold_E >= 0)[:, None], held, predicted.mean(axis=0))
    return p_EK.argmax(axis=1), p_EK @ (np.arange(classes) / max(classes - 1, 1))


def _decide(features_EF: np.ndarray, class_E: np.ndarray, used_E: np.ndarray, classes: int) -> np.ndarray:
    """float64 (E, K), rows sum to 1: a softmax of the decision values of all episodes."""
    from sklearn.svm import SVC

    train = used_E & (class_E >= 0)
    values = features_EF.astype(np.float64)
    mean, spread = values[train].mean(axis=0), values[train].std(axis=0)
    values = (values - mean) / np.where(spread > 1e-9, spread, 1.0)
    machine: Any = SVC(kernel="rbf", C=1.0, gamma="scale", class_weight="balanced", decision_function_shape="ovr")
    machine.fit(values[train], class_E[train])
    decided = np.asarray(machine.decision_function(values))
    logits = np.full((len(values), classes), -np.inf)
    if decided.ndim == 1:
        logits[:, machine.classes_[0]], logits[:, machine.classes_[1]] = -decided, decided
    else:
        logits[:, machine.classes_] = decided
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
