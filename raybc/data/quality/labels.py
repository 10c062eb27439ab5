"""Labels of episodes, from the data or from a CSV of one's own, and folds that hold whole episodes out.

Letters: E episodes, K classes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.splits import listed
from raybc.files import expanded, read_text
from raybc.strict import did_you_mean
from raybc.types import UserError

#: robomimic's masks of operators, worst first.
OPERATORS = ("worse", "okay", "better")
#: Masks of demonstrations that were generated with different noise.
NOISE = re.compile(r"noise_(\d+(?:\.\d+)?)")
#: Words for labels whose order is known, worst first.
ORDERS = (
    ("failure", "success"), ("fail", "success"), ("bad", "good"), ("bad", "okay", "good"), ("bad", "ok", "good"),
    ("worse", "okay", "better"), ("worse", "better"), ("false", "true"), ("no", "yes"), ("low", "high"),
    ("low", "medium", "high"), ("novice", "expert"),
)  # fmt: skip
#: Where labels come from; any other word is the path of a CSV.
SOURCES = ("auto", "none", "operators", "noise", "success", "splits")


@dataclass(frozen=True)
class Labels:
    """Labels of episodes."""

    classes: tuple[str, ...]
    """K names, from the worst to the best."""
    of_E: np.ndarray
    """int64 (E,): the class of each episode, -1 where it has none."""
    source: str
    """Where they come from, for people."""

    @property
    def words(self) -> tuple[str, ...]:
        """The label of each episode, "" where it has none."""
        return tuple(self.classes[k] if k >= 0 else "" for k in self.of_E.tolist())

    def counts(self) -> np.ndarray:
        """int64 (K,): episodes of each class."""
        return np.bincount(self.of_E[self.of_E >= 0], minlength=len(self.classes))

    def check(self, folds: int) -> None:
        """Raise `UserError` unless a classifier can be learned with `folds` folds: at least two classes, and an
        episode of each class in each fold."""
        counts = self.counts()
        found = ", ".join(f"{name}: {n}" for name, n in zip(self.classes, counts.tolist(), strict=True))
        if (counts > 0).sum() < 2:
            raise UserError(
                f"--labels: expected at least two classes in {self.source}, got one ({found}); a classifier needs "
                "episodes of both kinds, or leave labels out with --labels none"
            )
        few = [k for k, n in enumerate(counts.tolist()) if n < folds]
        if few:
            most = int(counts.min())
            advice = f"use --folds {most}, or label more" if most >= 3 else "label more episodes"
            raise UserError(
                f"--labels: expected at least {folds} episodes of each class, one for each of --folds {folds}, got "
                f"{found}; {advice}"
            )


def labels_of(store: EpisodeStore, wanted: str = "auto", classes: Sequence[str] = ()) -> Labels | None:
    """The labels of the episodes of `store`; None for none.

    Args:
        store: the data.
        wanted: a word of `SOURCES`, or the path of a CSV with the columns episode and label. auto: the first of
            operators, noise and success that the data have.
        classes: the names of the classes from the worst to the best (default: as the source orders them); with
            "splits" the splits that are classes.

    Raises `UserError` for labels that the data do not have, for other episodes, and for an order that is not known.
    """
    if wanted == "none":
        return None
    if wanted == "splits":
        return _of_splits(store, classes, "splits")
    if wanted in ("auto", "operators") and sum(name in store.splits for name in OPERATORS) > 1:
        return _of_splits(store, [name for name in OPERATORS if name in store.splits], "the masks of operators")
    noisy = {name: float(level[1]) for name in store.splits if (level := NOISE.fullmatch(name))}
    if wanted in ("auto", "noise") and len(noisy) > 1:
        return _of_splits(store, sorted(noisy, key=lambda name: -noisy[name]), "the masks of noise levels")
    if wanted in ("auto", "success") and store.success_E is not None:
        found = Labels(("failure", "success"), store.success_E.astype(np.int64), "success")
        if wanted == "success" or (found.counts() > 0).all():
            return found
    if wanted == "auto":
        return None
    if wanted in SOURCES:
        has = ", ".join(store.splits) or "none"
        needed = {
            "operators": "masks worse, okay, better", "noise": "masks noise_LEVEL", "success": "marks of success",
        }[wanted]  # fmt: skip
        raise UserError(
            f"--labels {wanted}: expected {needed} in {store.source}, which has the masks {has}; label episodes in a "
            "CSV: --labels FILE.csv"
        )
    return of_csv(store, expanded(wanted, "--labels"), classes)


def _of_splits(store: EpisodeStore, classes: Sequence[str], source: str) -> Labels:
    if len(classes) < 2:
        raise UserError(
            "--classes: expected the splits that are classes, from the worst to the best, e.g. worse better"
        )
    of_E = np.full(store.num_episodes, -1, np.int64)
    for k, name in enumerate(classes):
        if name not in store.splits:
            raise UserError(f"--classes: expected splits of {store.source}, got {name!r}: {_known(name, store)}")
        twice = store.splits[name][of_E[store.splits[name]] >= 0]
        if len(twice):
            raise UserError(
                f"{store.source}: expected each episode in one of {', '.join(classes)}, got episodes in two: "
                f"{listed(twice)}"
            )
        of_E[store.splits[name]] = k
    return Labels(tuple(classes), of_E, source)


def _known(name: str, store: EpisodeStore) -> str:
    return did_you_mean(name, store.splits) if store.splits else "it has none"


def of_csv(store: EpisodeStore, path: Path, classes: Sequence[str] = ()) -> Labels:
    """Labels in a CSV with the columns episode and label (others are not read); episodes without a row have none."""
    rows = list(csv.DictReader(io.StringIO(read_text(path, "a CSV of labels", "CSV"))))
    if not rows or not {"episode", "label"} <= set(rows[0]):
        raise UserError(f"--labels {path}: expected a CSV with the columns episode and label, and a row for each label")
    found: dict[int, str] = {}
    for line, row in enumerate(rows, start=2):
        number, word = (row["episode"] or "").strip(), (row["label"] or "").strip()
        if not (number.isascii() and number.isdigit()):
            raise UserError(f"--labels {path}: line {line}: episode: expected a number from 0 on, got {number!r}")
        if int(number) >= store.num_episodes:
            raise UserError(
                f"--labels {path}: line {line}: expected episodes 0 to {store.num_episodes - 1} of {store.source}, got "
                f"{number}; are these labels of other data?"
            )
        if int(number) in found:
            raise UserError(f"--labels {path}: line {line}: expected one label for each episode, got two for {number}")
        if word:
            found[int(number)] = word
    ordered = _ordered(set(found.values()), classes, path)
    of_E = np.full(store.num_episodes, -1, np.int64)
    for episode, word in found.items():
        of_E[episode] = ordered.index(word)
    return Labels(ordered, of_E, str(path))


def _ordered(words: set[str], classes: Sequence[str], path: Path) -> tuple[str, ...]:
    """The labels from the worst to the best."""
    if classes:
        unknown = sorted(words - set(classes))
        if unknown:
            raise UserError(
                f"--classes: expected all labels of {path}, from the worst to the best; got none {unknown[0]!r}"
            )
        return tuple(name for name in classes if name in words)
    try:
        return tuple(sorted(words, key=float))
    except ValueError:
        pass
    for order in ORDERS:
        if words and {word.lower() for word in words} <= set(order):
            return tuple(sorted(words, key=lambda word: order.index(word.lower())))
    example = " ".join(sorted(words)[:4])
    raise UserError(
        f"--labels {path}: the order of the labels is not known; name them from the worst to the best, e.g. "
        f"--classes {example}"
    )


def folds_of(labels: Labels, folds: int, seed: int) -> np.ndarray:
    """int64 (E,): the fold that holds each labelled episode out, 0..folds - 1; -1 for episodes without a label.

    The episodes of each class are spread evenly in an order that `seed` determines.
    """
    fold_E = np.full(len(labels.of_E), -1, np.int64)
    offset = 0
    for k in range(len(labels.classes)):
        episodes = np.flatnonzero(labels.of_E == k)
        order = np.random.default_rng([seed, k]).permutation(len(episodes))
        fold_E[episodes[order]] = (np.arange(len(episodes)) + offset) % folds
        offset += len(episodes)
    return fold_E
