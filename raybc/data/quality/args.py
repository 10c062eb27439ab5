"""Flags of `python -m raybc.data quality`; this file imports nothing that --help would wait for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro


@dataclass(frozen=True)
class QualityArgs:
    """Score the episodes of a data set: length, jerk, idle time, path efficiency, disagreement of an ensemble, and by a
    classifier that learns from labels."""

    GROUPS: ClassVar = {
        "labels": ("labels", "classes", "classifier"),
        "classifier": ("num_rounds", "epochs_per_round", "folds", "window", "svm", "seed"),
        "scores without labels": ("position_key", "ensemble", "ensemble_steps", "influence"),
        "reading": ("env_name", "action_key", "obs_keys", "skip_bad_episodes", "drop_idle", "keep_idle"),
    }
    EXAMPLES: ClassVar = (
        ("labels that the data have, or none", "can.hdf5"),
        ("labels of your own: a CSV with the columns episode and label", "can.hdf5 --labels mine.csv"),
        ("the classifier of can.hdf5 for other data", "more.hdf5 --classifier can-quality"),
        ("three more rounds of the classifier", "can.hdf5 --labels mine.csv --num_rounds 5"),
    )

    data: tyro.conf.Positional[str]
    """A path in any known format, or a published name."""
    out: Path | None = None
    """The folder of the scores and of the page (default: NAME-quality in the current folder). The same command again
    continues there."""
    overwrite: bool = False
    """Replace the scores of an earlier call in this folder."""
    labels: str = "auto"
    """operators (robomimic's masks worse, okay, better), noise (masks noise_LEVEL), success, splits, none, a CSV with
    the columns episode and label, or auto: the first of operators, noise and success that the data have."""
    classes: tuple[str, ...] = ()
    """The labels from the worst to the best, where their order is not known; with --labels splits, names of splits."""
    classifier: Path | None = None
    """A folder of this command with labels: its classifier judges these data, which have the same observations and
    actions. Labels then only say how well."""
    num_rounds: int = 2
    """Rounds of the classifier's training; more of them later continue it."""
    epochs_per_round: int = 20
    """Passes over the training windows in a round."""
    folds: int = 5
    """Parts of the labelled episodes; each is judged by a network that has not seen it."""
    window: int = 16
    """Steps that the classifier sees at a time."""
    svm: bool = True
    """Also an SVM on the features of the classifier (needs scikit-learn)."""
    seed: int = 0
    """Of folds, weights and ensembles."""
    position_key: str = ""
    """The observation whose path is measured (default: the position of a hand, or all numbers)."""
    ensemble: int = 4
    """Policies whose disagreement is measured, trained on each half of the episodes (0: none)."""
    ensemble_steps: int = 500
    """Gradient steps of these policies."""
    influence: bool = False
    """Also train once without each episode, for small sets: says first how long it takes."""
    env_name: str = ""
    """Read the data as training on this task does, with the observations that the task adds."""
    action_key: str = ""
    """The array that is the action, by its name in the file (default: the format's)."""
    obs_keys: tuple[str, ...] = ()
    """Only these observations, by the names that info lists."""
    skip_bad_episodes: bool = False
    """Leave out episodes that cannot be read or differ from most, as the training that uses the scores."""
    drop_idle: bool = False
    """The training that uses the scores leaves out idle steps (scores are of the episodes with them)."""
    keep_idle: int = 0
    """With --drop_idle: the same as in that training."""
