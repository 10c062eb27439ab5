"""A classifier that was trained on other data, applied to episodes that it has never seen.

Letters: M folds, n windows, K classes, E episodes, F features of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from raybc.data.episodes import EpisodeStore
from raybc.data.quality.classifier import ClassifierSettings, Judged, Network, predicted
from raybc.data.quality.folder import QualityFolder
from raybc.data.quality.labels import Labels
from raybc.data.quality.svm import held_out_decisions
from raybc.data.quality.windows import EpisodeWindows, Signals, Standard, per_episode, signals_of, windows_of
from raybc.data.same import is_same
from raybc.data.scores import load_scores
from raybc.strict import from_mapping
from raybc.train.checkpointing import digest_of
from raybc.types import UserError


@dataclass(frozen=True)
class TrainedClassifier:
    """What `raybc data quality` left in a folder."""

    path: Path
    """The folder."""
    dataset: str
    """Name of the data that it was trained on."""
    fingerprint: str
    """Of these data, as trainings read them."""
    sha256: str
    """Identifies the weights."""
    classes: tuple[str, ...]
    """K names, from the worst to the best."""
    settings: ClassifierSettings
    """How it was trained."""
    signals: Signals
    """What it sees of a step."""
    standard: Standard
    """How what it sees is standardised: as the data that it was trained on."""
    weights: Mapping[str, Tensor]
    """Of the best network of each fold."""
    history: list[dict[str, float]]
    """Loss and accuracy after each epoch."""
    best_of_M: list[dict[str, float]]
    """The best epoch of each fold."""
    examples: Mapping[str, np.ndarray]
    """What an SVM is fitted to: features (M, E, F), class (E,), fold (E,)."""

    @classmethod
    def read(cls, path: Path) -> TrainedClassifier:
        """Raises `UserError` for a folder without a finished classifier, and for a damaged one."""
        where, folder = "--classifier", QualityFolder(path.parent if path.is_file() else path)
        scores = load_scores(folder.path, where)
        if not folder.state.is_file() or "quality" not in scores.columns or not folder.features.is_file():
            raise UserError(
                f"{where}: {folder.path}: expected a folder with a classifier, got scores without one; give raybc data "
                "quality labels there"
            )
        tensors, facts = folder.load_state()
        examples = load_file(folder.features)
        again = "call raybc data quality there again, as it was called"
        if "input" not in facts:
            raise UserError(f"{where}: {folder.path}: expected what the classifier sees, which is missing; {again}")
        if int(examples.get("epoch", -1)) != facts["epoch"]:
            raise UserError(f"{where}: {folder.path}: expected a classifier whose training has ended; {again}")
        seen: dict[str, Any] = facts["input"]
        weights = {name.removeprefix("best/"): value for name, value in tensors.items() if name.startswith("best/")}
        return cls(
            folder.path,
            scores.dataset,
            scores.fingerprint,
            digest_of(weights, {}),
            tuple(seen["classes"]),
            from_mapping(ClassifierSettings, seen["settings"], f"{folder.state}: settings"),
            tuple((str(name), int(size)) for name, size in seen["signals"]),
            Standard(np.array(seen["mean"]), np.array(seen["spread"])),
            weights,
            facts["history"],
            facts["best"],
            examples,
        )

    def check(self, store: EpisodeStore, fingerprint: str) -> None:
        """Raise `UserError` for data in which it does not find what it sees, and for those that it was trained on."""
        found = signals_of(store)
        if found != self.signals:
            raise UserError(
                f"--classifier: {self.path}: expected {_named(self.signals)}, which it was trained on, got "
                f"{_named(found)} in {store.source}; --obs_keys leaves observations out"
            )
        if is_same(self.fingerprint, fingerprint, store):
            raise UserError(
                f"--classifier: {self.path}: expected other data than those that it was trained on, got the same; "
                f"{self.path} has their scores, each by a network that has not seen the episode"
            )

    def check_labels(self, labels: Labels) -> None:
        """Raise `UserError` for labels with which its judgement cannot be compared."""
        if labels.classes != self.classes or (labels.counts() > 0).sum() < 2:
            raise UserError(
                f"--labels: expected episodes of the classes {', '.join(self.classes)} of --classifier, at least of "
                f"two of them, got {', '.join(labels.classes)} in {labels.source}; leave labels out with --labels none"
            )

    def judge(self, store: EpisodeStore) -> tuple[Judged, EpisodeWindows]:
        """What it makes of all episodes, the mean over its networks, and the windows that it saw."""
        windows = windows_of(store, self.settings.window, self.settings.stride, self.standard)
        members = len(next(iter(self.weights.values())))
        inputs = self.settings.window * windows.steps_ND.shape[1]
        network = Network(members, inputs, self.settings, len(self.classes))
        steps, rows = torch.from_numpy(windows.steps_ND), torch.from_numpy(windows.rows_nW)
        probabilities, features = predicted(network, self.weights, steps, rows, members)
        p_nK, owners = probabilities.mean(axis=0, dtype=np.float64), windows.episode_n
        means = np.stack([per_episode(part, owners, store.num_episodes) for part in features])
        return Judged(p_nK, per_episode(p_nK, owners, store.num_episodes), means.astype(np.float32)), windows

    def decisions(self, features_MEF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What SVMs on its features say of other episodes, see `held_out_decisions`."""
        known, none = self.examples, np.full(features_MEF.shape[1], -1, np.int64)
        joined = np.concatenate([known["features"], features_MEF], axis=1)
        class_E, fold_E = (np.concatenate([known[name], none]) for name in ("class", "fold"))
        predicted_E, scores_E = held_out_decisions(joined, class_E, fold_E, len(self.classes))
        return predicted_E[-len(none) :], scores_E[-len(none) :]


def _named(signals: Signals) -> str:
    return ", ".join(f"{name} ({size})" for name, size in signals)
