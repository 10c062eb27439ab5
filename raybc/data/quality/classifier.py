"""A network that tells the classes of episodes apart by their windows, trained in rounds.

M copies are trained as one pack. Copy m never sees the episodes of fold m, which test it, and stops being improved by
those of fold m + 1, which choose its best epoch. So every labelled episode is judged by a network that has seen neither
it nor any window of it. Everything is a function of the data, the labels and the seed: what is drawn in an epoch is a
function of (seed, epoch), and a training that is continued equals an unbroken one bit for bit.

Letters: M folds, n windows, W steps of a window, D features of a step, B batch, F features of the network, K classes,
E episodes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybc.data.quality.labels import Labels
from raybc.data.quality.windows import EpisodeWindows, Signals, per_episode
from raybc.policies.activations import gelu
from raybc.policies.packed import PackedLinear, PackedMLP

#: Windows that are judged at a time.
BLOCK = 2048


@dataclass(frozen=True)
class ClassifierSettings:
    """How the classifier is trained."""

    folds: int = 5
    """M, the parts into which labelled episodes are divided; each is held out once."""
    window: int = 16
    """W, the steps of a window."""
    stride: int = 2
    """Steps between the starts of windows."""
    epochs_per_round: int = 20
    """Passes over the training windows in a round; the learning rate falls from `lr` to `min_lr` in each."""
    batch_size: int = 256
    """B, the windows of a gradient step."""
    lr: float = 1e-3
    """Learning rate at the beginning of a round."""
    min_lr: float = 1e-6
    """Learning rate at its end."""
    weight_decay: float = 0.01
    """Of AdamW."""
    width: int = 128
    """Units of the hidden layer."""
    features: int = 32
    """F, the features from which classes are predicted, by the network's last layer and by an SVM."""
    seed: int = 0
    """Of the folds, the weights and the order of windows."""


class Network(nn.Module):
    """M perceptrons: window -> features -> classes."""

    def __init__(self, members: int, inputs: int, settings: ClassifierSettings, classes: int) -> None:
        super().__init__()
        self.trunk = PackedMLP(members, inputs, settings.features, (settings.width,))
        self.head = PackedLinear(members, settings.features, classes)
        for m in range(members):
            generator = torch.Generator().manual_seed(settings.seed * 1000 + m)
            for layer in (*self.trunk.layers, self.head):
                assert isinstance(layer, PackedLinear)
                layer.init_member(m, generator)

    def forward(self, x_MBI: Tensor) -> tuple[Tensor, Tensor]:
        """Features (M, B, F) and logits (M, B, K)."""
        features = gelu(self.trunk(x_MBI))
        return features, self.head(features)


@dataclass(frozen=True)
class Judged:
    """What the best networks make of all windows."""

    probabilities_nK: np.ndarray
    """float64 (n, K): of each window, by the network that holds its episode out; of an episode without a label the
    mean over all networks."""
    probabilities_EK: np.ndarray
    """float64 (E, K): the mean over the windows of each episode."""
    features_MEF: np.ndarray
    """float32 (M, E, F): the mean features of each episode in each network."""


@torch.no_grad()
def predicted(
    network: Network, weights: Mapping[str, Tensor], steps_ND: Tensor, rows_nW: Tensor, members: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (M, n, K) and features (M, n, F) of all windows in M networks, float32.

    Args:
        network: the networks, whose own weights are not used.
        weights: name -> the weights to use.
        steps_ND: as in `EpisodeWindows`.
        rows_nW: as in `EpisodeWindows`.
        members: M.
    """
    probabilities, features = [], []
    for rows in rows_nW.split(BLOCK):
        x = steps_ND[rows].flatten(-2)
        found, logits = torch.func.functional_call(network, dict(weights), (x.expand(members, *x.shape),))
        probabilities.append(logits.softmax(-1))
        features.append(found)
    return torch.cat(probabilities, dim=1).numpy(), torch.cat(features, dim=1).numpy()


class ClassifierTraining:
    """The training of a pack of networks, epoch by epoch."""

    def __init__(
        self,
        windows: EpisodeWindows,
        labels: Labels,
        fold_E: np.ndarray,
        settings: ClassifierSettings,
        signals: Signals = (),
    ) -> None:
        """
        Args:
            windows: of all episodes.
            labels: of some or all of them.
            fold_E: int64 (E,): the fold that holds each labelled episode out, -1 without a label.
            settings: how to train.
            signals: what the windows are made of, which is noted in the state.
        """
        self.signals = signals
        self.settings, self.windows, self.labels = settings, windows, labels
        self.episodes, self.fold_E = len(fold_E), fold_E
        members, classes = settings.folds, len(labels.classes)
        self._steps = torch.from_numpy(windows.steps_ND)
        self._rows = torch.from_numpy(windows.rows_nW)
        self._class_n = torch.from_numpy(labels.of_E[windows.episode_n])
        fold_n = fold_E[windows.episode_n]
        self._training = [
            np.flatnonzero((fold_n >= 0) & (fold_n != m) & (fold_n != (m + 1) % members)) for m in range(members)
        ]
        weights = np.stack([self._weights(m) for m in range(members)])
        self._weight_Mn = torch.from_numpy(weights.astype(np.float32))
        self.network = Network(members, windows.rows_nW.shape[1] * windows.steps_ND.shape[1], settings, classes)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, foreach=False
        )
        self.epoch = 0
        """Finished epochs."""
        self.history: list[dict[str, float]] = []
        """Means over the folds after each epoch: epoch, round, lr, train_loss, train_accuracy, valid_loss,
        valid_accuracy."""
        self.best = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        """The weights of each network at the epoch with the highest validation accuracy."""
        self.best_of_M = [{"epoch": 0.0, "valid_accuracy": -1.0, "valid_loss": math.inf} for _ in range(members)]
        """That epoch of each network, its accuracy and its loss."""

    def _weights(self, m: int) -> np.ndarray:
        """float64 (n,): of the windows that fold m trains on. Each class counts as much as another, and each episode
        of a class; the mean is 1."""
        weights_n = np.zeros(len(self.windows.episode_n))
        chosen = self._training[m]
        owners = self.windows.episode_n[chosen]
        windows_E = np.bincount(owners, minlength=self.episodes)
        present = np.flatnonzero(windows_E)
        episodes_K = np.bincount(self.labels.of_E[present], minlength=len(self.labels.classes))
        weights_n[chosen] = 1 / (windows_E[owners] * episodes_K[self.labels.of_E[owners]])
        return np.asarray(weights_n * len(chosen) / weights_n.sum())

    def _rate(self, part: float) -> float:
        """The learning rate after `part` of a round, 0..1."""
        low, high = self.settings.min_lr, self.settings.lr
        return low + (high - low) * (1 + math.cos(math.pi * part)) / 2

    def _batches(self) -> Iterator[Tensor]:
        """Windows (M, B) of the steps of the next epoch. Folds with fewer windows draw some of theirs again."""
        size = self.settings.batch_size
        steps = math.ceil(max(map(len, self._training)) / size)
        orders = []
        for m, chosen in enumerate(self._training):
            rng = np.random.default_rng([self.settings.seed, 1, self.epoch, m])
            passes = math.ceil(steps * size / len(chosen))
            orders.append(np.concatenate([rng.permutation(chosen) for _ in range(passes)])[: steps * size])
        drawn = torch.from_numpy(np.stack(orders))
        for step in range(steps):
            yield drawn[:, step * size : (step + 1) * size]

    def _inputs(self, windows: Tensor) -> Tensor:
        return self._steps[self._rows[windows]].flatten(-2)

    def run_epoch(self) -> dict[str, float]:
        """Train for one epoch, measure, and keep each network that is the best so far; returns the row of history."""
        each = self.settings.epochs_per_round
        batches = list(self._batches())
        losses, right, rate = [], [], self.settings.lr
        members = torch.arange(len(self._training))[:, None]
        for step, drawn in enumerate(batches):
            rate = self._rate((self.epoch % each + step / len(batches)) / each)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            _, logits = self.network(self._inputs(drawn))
            target, weight = self._class_n[drawn], self._weight_Mn[members, drawn]
            loss_MB = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
            loss_M = (loss_MB.view(target.shape) * weight).mean(dim=1)
            self.optimizer.zero_grad()
            loss_M.sum().backward()
            self.optimizer.step()
            losses.append(float(loss_M.detach().mean()))
            right.append(float((logits.detach().argmax(-1) == target).float().mean()))
        self.epoch += 1
        valid = self._validate()
        row = {
            "epoch": float(self.epoch), "round": float((self.epoch - 1) // each + 1), "lr": rate,
            "train_loss": float(np.mean(losses)), "train_accuracy": float(np.mean(right)), **valid,
        }  # fmt: skip
        self.history.append(row)
        return row

    def _validate(self) -> dict[str, float]:
        """Accuracy and loss of each network on the episodes of the fold that chooses its best epoch."""
        current = dict(self.network.named_parameters())
        probabilities, _ = self._predict(current)
        accuracies, losses = [], []
        for m, best in enumerate(self.best_of_M):
            held = np.flatnonzero(self.fold_E == (m + 1) % self.settings.folds)
            p_EK = per_episode(probabilities[m], self.windows.episode_n, self.episodes)[held]
            truth = self.labels.of_E[held]
            accuracy = float((p_EK.argmax(axis=1) == truth).mean())
            loss = float(-np.log(np.maximum(p_EK[np.arange(len(held)), truth], 1e-12)).mean())
            accuracies.append(accuracy)
            losses.append(loss)
            if (accuracy, -loss) > (best["valid_accuracy"], -best["valid_loss"]):
                self.best_of_M[m] = {"epoch": float(self.epoch), "valid_accuracy": accuracy, "valid_loss": loss}
                for name, value in current.items():
                    self.best[name][m] = value.detach()[m]
        return {"valid_loss": float(np.mean(losses)), "valid_accuracy": float(np.mean(accuracies))}

    def _predict(self, weights: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        return predicted(self.network, weights, self._steps, self._rows, len(self._training))

    def judge(self) -> Judged:
        """What the best networks make of all windows; of labelled episodes the one that holds them out."""
        probabilities, features = self._predict(self.best)
        fold_n = self.fold_E[self.windows.episode_n]
        held = probabilities[np.maximum(fold_n, 0), np.arange(len(fold_n))].astype(np.float64)
        p_nK = np.where((fold_n >= 0)[:, None], held, probabilities.mean(axis=0, dtype=np.float64))
        owners = self.windows.episode_n
        means = np.stack([per_episode(part, owners, self.episodes) for part in features])
        return Judged(p_nK, per_episode(p_nK, owners, self.episodes), means.astype(np.float32))

    # --- state ------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor of the state: network/, best/ and optimizer/."""
        found = {f"network/{name}": value.detach() for name, value in self.network.named_parameters()}
        found |= {f"best/{name}": value for name, value in self.best.items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer/{name}/{key}"] = value
        return found

    def facts(self) -> dict[str, Any]:
        """The rest of the state, as JSON values; `input` is what other data must have to be judged."""
        standard = self.windows.standard
        seen = {
            "signals": [list(signal) for signal in self.signals],
            "mean": standard.mean_D.tolist(),
            "spread": standard.spread_D.tolist(),
            "classes": list(self.labels.classes),
            "settings": dataclasses.asdict(self.settings),
        }
        return {"epoch": self.epoch, "history": self.history, "best": self.best_of_M, "input": seen}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Continue from a state of the same data, labels and settings."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                parameter.copy_(tensors[f"network/{name}"])
                self.best[name] = tensors[f"best/{name}"].clone()
                keys = ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer/{name}/step" in tensors:
                    self.optimizer.state[parameter] = {k: tensors[f"optimizer/{name}/{k}"].clone() for k in keys}
        self.epoch, self.history = int(facts["epoch"]), [dict(row) for row in facts["history"]]
        self.best_of_M = [dict(row) for row in facts["best"]]
