"""`python -m raybc.data quality demos.hdf5`: which demonstrations are good."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from rich.table import Table

from raybc import cli
from raybc.data.episodes import EpisodeStore
from raybc.data.formats.base import Keys
from raybc.data.idle import without_idle
from raybc.data.load import read_for
from raybc.data.quality.args import QualityArgs
from raybc.data.quality.classifier import ClassifierSettings
from raybc.data.quality.folder import QualityFolder
from raybc.data.quality.labels import SOURCES, Labels, labels_of
from raybc.data.quality.run import Judgement, Quality, QualitySettings, score
from raybc.data.quality.trained import TrainedClassifier
from raybc.data.scan import source_of
from raybc.types import UserError

#: Episodes that are listed on a terminal at each end.
LISTED = 5


def quality(args: QualityArgs) -> int:
    """Run `python -m raybc.data quality`."""
    if args.keep_idle and not args.drop_idle:
        raise UserError("--keep_idle: has no effect without --drop_idle; it says how many idle steps are left")
    if args.classes and args.labels in SOURCES and args.labels != "splits":
        raise UserError(f"--classes: has no effect with --labels {args.labels}; name a CSV, or --labels splits")
    known = None if args.classifier is None else _trained(args)
    settings = QualitySettings(
        args.num_rounds,
        ClassifierSettings(args.folds, args.window, epochs_per_round=args.epochs_per_round, seed=args.seed),
        args.svm, args.ensemble, args.ensemble_steps, args.influence, args.position_key,
    )  # fmt: skip
    settings.validate()
    source = source_of(args.data, args.env_name, keys=Keys.of(args.action_key, args.obs_keys))
    store = read_for(source.path, source.task, images=False, skip_bad_episodes=args.skip_bad_episodes, keys=source.keys)
    cli.print_notes(store.remarks())
    trained = without_idle(store, args.keep_idle) if args.drop_idle else store
    labels = _labels(store, args, known)
    folder = QualityFolder(args.out or Path(f"{source.path.resolve().stem}-quality"))
    if labels is None and known is None:
        cli.console.print("no labels: scores without labels only; --labels FILE.csv adds a classifier")
    elif labels is not None:
        counts = ", ".join(f"{n} {k}" for k, n in zip(labels.classes, labels.counts().tolist(), strict=True))
        cli.console.print(f"labels: {labels.source}: {counts}")
    fingerprint = trained.fingerprint()
    try:
        found = score(
            store, labels, settings, folder, name=source.path.resolve().name, fingerprint=fingerprint,
            trained=known, overwrite=args.overwrite, bar=_bar, say=cli.console.print,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise cli.Interrupted(
            f"the same command{', without --overwrite,' * args.overwrite} continues in {folder.path}"
        ) from None
    from raybc.report.quality import write_quality_page

    write_quality_page(found, store, folder.page, args.data)
    _show(found, store)
    cli.console.print(f"scores: {folder.path}/scores.csv ({found.scores.sha256[:12]})\npage: {folder.page}")
    return 0


def _trained(args: QualityArgs) -> TrainedClassifier:
    """What --classifier names; flags that train one have no effect with it."""
    for name in ("num_rounds", "epochs_per_round", "folds", "window"):
        if getattr(args, name) != getattr(QualityArgs, name):
            raise UserError(f"--{name}: has no effect with --classifier, which is already trained")
    assert args.classifier is not None
    return TrainedClassifier.read(args.classifier)


def _labels(store: EpisodeStore, args: QualityArgs, trained: TrainedClassifier | None) -> Labels | None:
    """The labels that were asked for; those that nobody named are left out where they are too few to learn from, or
    other ones than those of a classifier that is trained already."""
    labels = labels_of(store, args.labels, args.classes)
    if labels is not None and args.labels == "auto":
        try:
            labels.check(args.folds) if trained is None else trained.check_labels(labels)
        except UserError as error:
            cli.print_notes([f"{labels.source} is not used as label: {error}"])
            return None
    return labels


def _bar(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return cli.episodes_bar(what, total, quiet=not cli.console.is_terminal, unit="")


def _show(found: Quality, store: EpisodeStore) -> None:
    """Print what the page says in a few lines."""
    cli.print_notes(found.notes)
    scores, judged = found.scores, found.judgement
    table = Table(box=None, pad_edge=False)
    table.add_column("score")
    for name in ("better", "lowest", "median", "highest", *(["AUC"] if judged is not None else [])):
        table.add_column(name, justify="right")
    for name, column in scores.columns.items():
        values = sorted(scores.values[name].tolist())
        numbers = [f"{v:.4g}" for v in (values[0], values[len(values) // 2], values[-1])]
        table.add_row(name, column.better, *numbers, *([f"{judged.auc[name]:.3f}"] if judged is not None else []))
    cli.print_whole(table)
    if judged is not None:
        _show_judgement(judged)
    first = "quality" if "quality" in scores.columns else "jerk"
    order = (-scores.goodness(first)).argsort(kind="stable").tolist()
    if len(order) > 2 * LISTED:
        cli.console.print(f"best by {first}: {_listed(order[:LISTED])}; worst: {_listed(order[: -LISTED - 1 : -1])}")
    cli.console.print(f"{store.num_episodes} episodes of {scores.dataset}")


def _listed(episodes: Iterable[int]) -> str:
    return ", ".join(map(str, episodes))


def _show_judgement(judged: Judgement) -> None:
    total = int(judged.confusion_KK.sum())
    svm = "" if judged.svm_accuracy is None else f", SVM on its features {judged.svm_accuracy:.1%}"
    cli.console.print(
        f"accuracy on held-out episodes ({total}): {judged.accuracy:.1%}{svm}; always the most frequent class "
        f"{judged.chance:.1%}; expected calibration error {judged.ece:.3f}"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("labelled \\ taken for")
    for name in judged.classes:
        table.add_column(name, justify="right")
    for name, row in zip(judged.classes, judged.confusion_KK.tolist(), strict=True):
        table.add_row(name, *map(str, row))
    cli.print_whole(table)
