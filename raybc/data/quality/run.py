"""Scores of a data set: measures, ensemble, classifier and SVM, put together and kept in a folder.

Letters: N transitions, n windows, E episodes, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raybc.data.episodes import EpisodeStore
from raybc.data.quality import ensemble, measures
from raybc.data.quality.calibration import Bin, confusion, expected_calibration_error, reliability
from raybc.data.quality.classifier import ClassifierSettings, ClassifierTraining, Judged
from raybc.data.quality.folder import QualityFolder
from raybc.data.quality.labels import Labels, folds_of
from raybc.data.quality.svm import check_available, held_out_decisions
from raybc.data.quality.trained import TrainedClassifier
from raybc.data.quality.windows import EpisodeWindows, signals_of, windows_of
from raybc.data.scores import Column, Scores, auc, save_scores
from raybc.files import run_folder_lock, write_json
from raybc.strict import digest
from raybc.types import UserError

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

QUALITY = Column(
    "higher",
    "rank of the class from 0 (worst) to 1 (best) by a classifier that has not seen the episode",
    "probability",
)
SVM = Column("higher", "the same by an SVM on the features of the classifier; not calibrated", "probability")
LEARNED = {"quality": QUALITY, "svm": SVM}


@dataclass(frozen=True)
class QualitySettings:
    """What is computed, beside labels and data."""

    num_rounds: int = 2
    """Rounds of the classifier's training; more rounds later continue it."""
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    """How the classifier is trained."""
    svm: bool = True
    """Whether to fit an SVM to its features."""
    ensemble: int = 4
    """Members of the ensemble; 0 for none."""
    ensemble_steps: int = 500
    """Gradient steps of the ensemble, and of each training for influence."""
    influence: bool = False
    """Whether to train once without each episode."""
    position_key: str = ""
    """The observation whose path is measured ("": a known name, or all numbers)."""

    def validate(self, where: str = "--") -> None:
        """Raise `UserError` for the first impossible value."""
        c = self.classifier
        low = {
            "num_rounds": (self.num_rounds, 1), "epochs_per_round": (c.epochs_per_round, 1), "folds": (c.folds, 3),
            "window": (c.window, 2), "stride": (c.stride, 1), "seed": (c.seed, 0), "ensemble": (self.ensemble, 0),
            "ensemble_steps": (self.ensemble_steps, 1),
        }  # fmt: skip
        for name, (value, least) in low.items():
            if value < least:
                raise UserError(f"{where}{name}: expected at least {least}, got {value}")
        if self.ensemble == 1:
            raise UserError(f"{where}ensemble: expected 0 (none) or at least 2, whose actions can differ, got 1")
        if self.influence and not self.ensemble:
            raise UserError(f"{where}influence: has no effect without --ensemble, whose members are trained again")


@dataclass(frozen=True)
class Judgement:
    """How well the labels of held-out episodes were predicted. Episodes are those with labels, E' of them."""

    classes: tuple[str, ...]
    """From the worst to the best."""
    confusion_KK: np.ndarray
    """int64: episodes of class i (row) that were taken for class j."""
    svm_confusion_KK: np.ndarray | None
    """The same of the SVM; None without one."""
    bins: list[Bin]
    """Confidence and accuracy."""
    ece: float
    """Expected calibration error."""
    history: list[dict[str, float]]
    """Means over folds after each epoch."""
    best: list[dict[str, float]]
    """The best epoch of each fold."""
    auc: dict[str, float]
    """Column -> probability that an episode of the best class scores better than one of the worst."""

    @property
    def accuracy(self) -> float:
        """Share of the labelled episodes whose class was predicted by the network that holds them out."""
        return float(np.trace(self.confusion_KK) / self.confusion_KK.sum())

    @property
    def svm_accuracy(self) -> float | None:
        """The same of the SVM."""
        found = self.svm_confusion_KK
        return None if found is None else float(np.trace(found) / found.sum())

    @property
    def chance(self) -> float:
        """Accuracy of always naming the most frequent class."""
        return float(self.confusion_KK.sum(axis=1).max() / self.confusion_KK.sum())

    def to_plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "classes": list(self.classes),
            "episodes": int(self.confusion_KK.sum()),
            "accuracy": self.accuracy,
            "chance": self.chance,
            "confusion": self.confusion_KK.tolist(),
            "svm_accuracy": self.svm_accuracy,
            "svm_confusion": None if self.svm_confusion_KK is None else self.svm_confusion_KK.tolist(),
            "ece": self.ece,
            "reliability": [dataclasses.asdict(b) for b in self.bins],
            "best_epochs": self.best,
            "auc": self.auc,
        }


@dataclass(frozen=True)
class Quality:
    """The scores of a data set and what they were made from."""

    scores: Scores
    judgement: Judgement | None
    """None without labels."""
    labels: Labels | None
    windows: EpisodeWindows | None
    """Those of the classifier; None without labels."""
    quality_n: np.ndarray | None
    """float64 (n,): the quality of each window."""
    disagreement_N: np.ndarray | None
    """float64 (N,): that of the ensemble at each step."""
    position: str
    """The observation whose path was measured; "" for all numbers."""
    notes: tuple[str, ...] = ()
    """What to know, one sentence each."""


def wanted_of(
    settings: QualitySettings, labels: Labels | None, fingerprint: str, trained: TrainedClassifier | None = None
) -> dict[str, Any]:
    """What identifies a call: its folder is continued by the same, with any number of rounds."""
    plain = dataclasses.asdict(settings)
    del plain["num_rounds"]
    classifier = plain.pop("classifier")
    found = None if labels is None else digest([list(labels.classes), labels.of_E.tolist()])
    wanted = {"data": fingerprint, "labels": found, **plain}
    if trained is not None:
        return {**wanted, "classifier": trained.sha256}
    return {**wanted, **(classifier if labels is not None else {})}


def score(
    store: EpisodeStore,
    labels: Labels | None,
    settings: QualitySettings,
    folder: QualityFolder,
    *,
    name: str = "",
    fingerprint: str = "",
    trained: TrainedClassifier | None = None,
    overwrite: bool = False,
    bar: Bar = lambda what, total: nullcontext(lambda done: None),
    say: Callable[[str], None] = lambda line: None,
) -> Quality:
    """Score all episodes, and write everything but the page to `folder`.

    A second call with the same data, labels and settings continues the classifier where the first one was stopped, or
    with more rounds.

    Args:
        store: the data, with the episodes as trainings read them.
        labels: what the classifier learns; None: scores without labels only.
        settings: what to compute.
        folder: where it is kept.
        name: of the data, for messages.
        fingerprint: `EpisodeStore.fingerprint` of the data as trainings read them (default: of `store`).
        trained: a classifier of other data, which is applied to these; labels then only say how well it does.
        overwrite: replace what an earlier call left there.
        bar: shows progress.
        say: called with lines for people.

    Raises `UserError` for labels that cannot be learned, for a folder of another call, and for data that `trained` does
    not fit.
    """
    settings.validate()
    fingerprint = fingerprint or store.fingerprint()
    if trained is not None:
        trained.check(store, fingerprint)
    if labels is not None and trained is not None:
        trained.check_labels(labels)
    elif labels is not None:
        labels.check(settings.classifier.folds)
    if settings.svm and (labels is not None or trained is not None):
        check_available()
    key = measures.position_key(store, settings.position_key)
    wanted = wanted_of(settings, labels, fingerprint, trained)
    folder.check(wanted, overwrite)
    with run_folder_lock(folder.path):
        continues = folder.begin(wanted, overwrite)
        values, columns, notes = measures.measured(store, key), dict(measures.COLUMNS), list[str]()
        taken = _of_policies(store, settings, folder, bar, say, notes)
        if "disagreement" in taken:
            values |= ensemble.episode_means(taken["disagreement"], taken["error"], store)
            columns |= ensemble.COLUMNS
        if "influence" in taken:
            values["influence"] = taken["influence"]
            columns |= ensemble.INFLUENCE
        judgement, windows, quality_n, predicted_E = None, None, None, None
        of: TrainedClassifier | ClassifierTraining | None = trained
        if trained is not None:
            judged, windows = trained.judge(store)
            classes, about = trained.classes, f", trained on {trained.dataset}"
            notes.append(f"quality is that of the classifier in {trained.path}{about}")
            if settings.svm:
                predicted_E, values["svm"] = trained.decisions(judged.features_MEF)
        elif labels is not None:
            of = training = _trained(store, labels, settings, folder, continues, bar, say)
            judged, windows, classes, about = training.judge(), training.windows, labels.classes, ""
            if settings.svm:
                predicted_E, values["svm"] = held_out_decisions(
                    judged.features_MEF, labels.of_E, training.fold_E, len(classes)
                )
            features = {"features": judged.features_MEF, "class": labels.of_E, "fold": training.fold_E}
            folder.save_features(features | {"epoch": np.array(training.epoch)})
        if of is not None:
            ranks_K = np.arange(len(classes)) / (len(classes) - 1)
            quality_n = judged.probabilities_nK @ ranks_K
            values["quality"] = judged.probabilities_EK @ ranks_K
            columns |= {n: dataclasses.replace(c, about=c.about + about) for n, c in LEARNED.items() if n in values}
        if of is not None and labels is not None:
            judgement = _judgement(of, judged, labels, predicted_E, columns, values)
            write_json(folder.report, judgement.to_plain())
        order = [c for c in LEARNED if c in columns] + [c for c in columns if c not in LEARNED]
        scores = Scores(
            name or str(store.source), fingerprint, {c: columns[c] for c in order}, {c: values[c] for c in order},
            labels.words if labels is not None else (),
        )  # fmt: skip
        save_scores(scores, folder.path)
    return Quality(scores, judgement, labels, windows, quality_n, taken.get("disagreement"), key, tuple(notes))


def _of_policies(
    store: EpisodeStore, settings: QualitySettings, folder: QualityFolder, bar: Bar, say: Callable[[str], None],
    notes: list[str],
) -> dict[str, np.ndarray]:  # fmt: skip
    """disagreement and error of each step, influence of each episode; from the folder where it has them."""
    if not settings.ensemble:
        return {}
    if not ensemble.can_train(store):
        notes.append("no ensemble was trained: it needs two episodes and observations of numbers")
        return {}
    found, seed = folder.load_measures(), settings.classifier.seed
    size = (settings.ensemble, settings.ensemble_steps, seed)
    if "disagreement" not in found:
        with bar(f"ensemble of {settings.ensemble}, each half of the episodes", 2) as update:
            found["disagreement"], found["error"] = ensemble.disagreement(store, *size, update)
        folder.save_measures(found)
    if settings.influence and "influence" not in found:
        seconds, trainings = ensemble.influence_cost(store, *size), store.num_episodes + 2
        minutes = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{max(seconds, 1):.0f} seconds"
        say(f"influence: {trainings} trainings of {settings.ensemble_steps} steps, about {minutes}")
        with bar("trainings without an episode", trainings) as update:
            found["influence"] = ensemble.influence(store, *size, update)
        folder.save_measures(found)
    return found


def _trained(
    store: EpisodeStore, labels: Labels, settings: QualitySettings, folder: QualityFolder, continues: bool, bar: Bar,
    say: Callable[[str], None],
) -> ClassifierTraining:  # fmt: skip
    """The classifier after all rounds; its state is saved after each epoch."""
    chosen = settings.classifier
    windows = windows_of(store, chosen.window, chosen.stride)
    with ensemble.one_thread():
        folds = folds_of(labels, chosen.folds, chosen.seed)
        training = ClassifierTraining(windows, labels, folds, chosen, signals_of(store))
        if continues and folder.state.is_file():
            tensors, facts = folder.load_state()
            training.restore(tensors, facts)
            if "input" not in facts:  # of an earlier release
                folder.save_state(training.tensors(), training.facts())
        total = settings.num_rounds * chosen.epochs_per_round
        if training.epoch:
            best = max(row["valid_accuracy"] for row in training.history)
            say(f"resumed after epoch {training.epoch}, best validation accuracy {best:.3f}")
        if training.epoch > total:
            say(f"{training.epoch} epochs were trained already, more than the {total} of this call; they are kept")
        with bar("epochs of the classifier", total) as update:
            while training.epoch < total:
                row = training.run_epoch()
                folder.save_state(training.tensors(), training.facts())
                update(training.epoch)
                if training.epoch % chosen.epochs_per_round == 0:
                    say(
                        f"round {row['round']:.0f}/{settings.num_rounds}, epoch {training.epoch}/{total}: "
                        f"train loss {row['train_loss']:.3f}, accuracy {row['train_accuracy']:.3f}; "
                        f"validation loss {row['valid_loss']:.3f}, accuracy {row['valid_accuracy']:.3f}"
                    )
    return training


def _judgement(
    of: ClassifierTraining | TrainedClassifier, judged: Judged, labels: Labels, svm_E: np.ndarray | None,
    columns: Mapping[str, Column], values: Mapping[str, np.ndarray],
) -> Judgement:  # fmt: skip
    labelled = np.flatnonzero(labels.of_E >= 0)
    truth, p_EK, classes = labels.of_E[labelled], judged.probabilities_EK[labelled], len(labels.classes)
    bins = reliability(p_EK.max(axis=1), p_EK.argmax(axis=1) == truth)
    signs = {name: 1.0 if column.better == "higher" else -1.0 for name, column in columns.items()}
    best, worst = labels.of_E == classes - 1, labels.of_E == 0
    return Judgement(
        labels.classes,
        confusion(truth, p_EK.argmax(axis=1), classes),
        None if svm_E is None else confusion(truth, svm_E[labelled], classes),
        bins,
        expected_calibration_error(bins),
        of.history,
        of.best_of_M,
        {name: auc(signs[name] * v[best], signs[name] * v[worst]) for name, v in values.items()},
    )
