"""Scores of episodes: measures with known values, labels, folds, the classifier, and their files."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.data import scores as scores_module
from raybc.data.episodes import EpisodeStore
from raybc.data.quality import ensemble
from raybc.data.quality.calibration import confusion, expected_calibration_error, reliability
from raybc.data.quality.classifier import ClassifierSettings, ClassifierTraining
from raybc.data.quality.folder import QualityFolder
from raybc.data.quality.labels import Labels, folds_of, labels_of
from raybc.data.quality.measures import jerk, measured, path_efficiency, position_key
from raybc.data.quality.run import Quality, QualitySettings, score
from raybc.data.quality.svm import held_out_decisions
from raybc.data.quality.windows import per_episode, windows_of
from raybc.data.scores import Column, Scores, auc, load_scores, save_scores
from raybc.data.store import write_store
from raybc.types import UserError
from tests.helpers import tiny_store

SMALL = ClassifierSettings(folds=3, window=4, epochs_per_round=3, batch_size=32, width=16, features=8, lr=1e-2)
QUICK = QualitySettings(num_rounds=2, classifier=SMALL, ensemble=2, ensemble_steps=5)


def mixed_store(episodes: int = 12, seed: int = 0, **changes: Any) -> EpisodeStore:
    """Every other episode moves smoothly and succeeds, the others shake and drift."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(10, 16, episodes)
    arm, actions = [], []
    for e, n in enumerate(lengths):
        t = np.linspace(0, 1, n)[:, None]
        noise = 0.02 if e % 2 else 0.6
        arm.append(rng.normal(size=3) + t * rng.normal(size=3) + noise * rng.normal(size=(n, 3)))
        actions.append(0.3 * np.cos(3 * t + rng.normal(size=2)) + noise * (1 + rng.normal(size=(n, 2))))
    return tiny_store(
        tuple(lengths.tolist()),
        obs={"arm": np.concatenate(arm).astype(np.float32), "cube": rng.normal(size=(lengths.sum(), 2)).astype("f4")},
        actions_NA=np.concatenate(actions).astype(np.float32),
        **{"success_E": np.arange(episodes) % 2 == 1, **changes},
    )


def scored(folder: Path, store: EpisodeStore | None = None, **changes: Any) -> Quality:
    store = mixed_store() if store is None else store
    return score(store, labels_of(store), dataclasses.replace(QUICK, **changes), QualityFolder(folder))


# --- measures ---------------------------------------------------------------------------------------------------------


def test_jerk_of_polynomials() -> None:
    t = np.arange(20.0)
    assert jerk(np.stack([t**2, 3 * t], axis=1)) == 0
    assert jerk(np.stack([t**3 / 6], axis=1)) == pytest.approx(1)
    assert jerk(np.stack([3 * t**3 / 6, 4 * t**3 / 6], axis=1)) == pytest.approx(5)
    assert jerk(np.zeros((3, 2))) == 0  # too short for a third difference


def test_path_efficiency_of_known_curves() -> None:
    angles = np.linspace(0, np.pi, 2001)
    assert path_efficiency(np.stack([np.cos(angles), np.sin(angles)], axis=1)) == pytest.approx(2 / np.pi, abs=1e-6)
    assert path_efficiency(np.array([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]])) == pytest.approx(1)
    assert path_efficiency(np.array([[0.0], [1.0], [0.0]])) == 0
    assert path_efficiency(np.zeros((5, 2))) == 1


def test_measures_of_a_store() -> None:
    moves = np.array([[0.5], [0.0], [0.0], [0.5], [1.0], [1.0]], np.float32)
    place = np.array([[0, 0], [1, 0], [1, 1], [5, 5], [6, 6], [8, 8]], np.float32)
    held = np.zeros((6, 1), np.float32)
    store = tiny_store((3, 3), obs={"robot0_eef_pos": place}, actions_NA=np.concatenate([moves, held], axis=1))
    found = measured(store, position_key(store))
    assert position_key(store) == "robot0_eef_pos"
    np.testing.assert_allclose(found["length"], [3, 3])
    np.testing.assert_allclose(found["idle"], [2 / 3, 0])
    np.testing.assert_allclose(found["path_efficiency"], [math.sqrt(2) / 2, 1])
    assert position_key(mixed_store()) == ""
    with pytest.raises(UserError, match="expected observation 'nothing'"):
        position_key(store, "nothing")


def test_calibration_of_a_known_table() -> None:
    """Ten episodes at confidence 0.9 of which 7 are right, and ten at 0.6 of which 6 are: (0.2 + 0) / 2."""
    confidence = np.array([0.9] * 10 + [0.6] * 10)
    correct = np.array([True] * 7 + [False] * 3 + [True] * 6 + [False] * 4)
    bins = reliability(confidence, correct)
    assert [(b.low, b.high, b.episodes) for b in bins] == [(0.5, 0.6, 10), (0.8, 0.9, 10)]
    assert [b.accuracy for b in bins] == pytest.approx([0.6, 0.7])
    assert expected_calibration_error(bins) == pytest.approx(0.1)
    assert expected_calibration_error([]) == 0
    truth, said = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])
    assert confusion(truth, said, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_auc() -> None:
    assert auc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert auc(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 0.5
    assert auc(np.array([1.0]), np.array([0.0, 2.0])) == 0.5
    assert math.isnan(auc(np.zeros(0), np.ones(1)))


# --- labels and folds -------------------------------------------------------------------------------------------------


def test_labels_that_data_have() -> None:
    operators = tiny_store((4,) * 6, splits={"better": [4, 5], "okay": [2], "worse": [0, 1], "train": range(6)})
    found = labels_of(operators)
    assert found is not None
    assert found.classes == ("worse", "okay", "better")
    assert found.of_E.tolist() == [0, 0, 1, -1, 2, 2]
    assert found.words == ("worse", "worse", "okay", "", "better", "better")
    noise = labels_of(tiny_store((4,) * 3, splits={"noise_0.1": [0], "noise_1": [1], "noise_0": [2]}))
    assert noise is not None
    assert noise.classes == ("noise_1", "noise_0.1", "noise_0")
    success = labels_of(mixed_store())
    assert success is not None
    assert success.classes == ("failure", "success")
    assert labels_of(tiny_store()) is None
    assert labels_of(mixed_store(success_E=None), "none") is None
    splits = labels_of(tiny_store((4,) * 3, splits={"a": [0], "b": [1, 2]}), "splits", ("b", "a"))
    assert splits is not None
    assert splits.of_E.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        ("episode,label\n0,good\n9,bad\n", (), r"line 3: expected episodes 0 to 2 .* got 9; are these labels of other"),
        ("episode,label\n0,good\n0,bad\n", (), "expected one label for each episode, got two for 0"),
        ("episode,label\nfirst,good\n", (), "line 2: episode: expected a number from 0 on, got 'first'"),
        ("number,label\n0,good\n", (), "expected a CSV with the columns episode and label"),
        ("episode,label\n", (), "and a row for each label"),
        ("episode,label\n0,red\n1,blue\n", (), "the order of the labels is not known; name them .* --classes blue red"),
        ("episode,label\n0,red\n1,blue\n", ("red",), "expected all labels .* got none 'blue'"),
    ],
)
def test_labels_of_ones_own_that_are_refused(tmp_path: Path, text: str, classes: tuple[str, ...], message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        labels_of(tiny_store(), str(tmp_path / "labels.csv"), classes)


def test_labels_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("episode,label,by\n0,Good,me\n2,bad,me\n1,,me\n")
    found = labels_of(tiny_store(), str(tmp_path / "labels.csv"))
    assert found is not None
    assert (found.classes, found.of_E.tolist()) == (("bad", "Good"), [1, -1, 0])
    (tmp_path / "labels.csv").write_text("episode,label\n0,10\n1,9\n2,2.5\n")
    numbers = labels_of(tiny_store(), str(tmp_path / "labels.csv"))
    assert numbers is not None
    assert numbers.classes == ("2.5", "9", "10")


@pytest.mark.parametrize(
    ("of_E", "message"),
    [
        ([0, 0, 0, 0, -1], "expected at least two classes in here, got one"),
        ([0, 0, 0, 1, 1], r"one for each of --folds 3, got bad: 3, good: 2; label more episodes"),
        ([0, 0, 0, 0, 0, 1, 1, 1], None),
    ],
)
def test_too_few_labels(of_E: list[int], message: str | None) -> None:
    labels = Labels(("bad", "good"), np.array(of_E), "here")
    if message is None:
        labels.check(3)
        with pytest.raises(UserError, match="use --folds 3, or label more"):
            labels.check(5)
    else:
        with pytest.raises(UserError, match=message):
            labels.check(3)


def test_folds_hold_whole_episodes_out_of_every_class() -> None:
    of_E = np.array([0] * 11 + [1] * 8 + [-1] * 4)
    fold_E = folds_of(Labels(("bad", "good"), of_E, ""), 4, 7)
    assert (fold_E[of_E < 0] == -1).all()
    for k in (0, 1):
        counts = np.bincount(fold_E[of_E == k], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert folds_of(Labels(("bad", "good"), of_E, ""), 4, 7).tolist() == fold_E.tolist()
    assert folds_of(Labels(("bad", "good"), of_E, ""), 4, 8).tolist() != fold_E.tolist()


# --- the classifier ---------------------------------------------------------------------------------------------------


def test_windows() -> None:
    store = tiny_store((5, 2))
    found = windows_of(store, 4, 2)
    assert found.rows_nW.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [5, 6, 6, 6]]
    assert found.episode_n.tolist() == [0, 0, 1]
    assert found.steps_ND.shape == (7, 3 * (3 + 2 + 2))
    np.testing.assert_allclose(found.steps_ND.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(per_episode(np.array([1.0, 3.0, 5.0]), found.episode_n, 2), [2, 5])


def training_of(store: EpisodeStore, settings: ClassifierSettings = SMALL) -> ClassifierTraining:
    labels = labels_of(store)
    assert labels is not None
    folds = folds_of(labels, settings.folds, settings.seed)
    return ClassifierTraining(windows_of(store, settings.window, settings.stride), labels, folds, settings)


def test_a_network_sees_neither_the_episodes_that_test_it_nor_those_that_choose_its_epoch() -> None:
    """What fold m says of its episodes does not depend on their labels."""
    training = training_of(mixed_store())
    for m in range(SMALL.folds):
        drawn = {int(training.windows.episode_n[w]) for batch in training._batches() for w in batch[m].tolist()}
        held = set(np.flatnonzero((training.fold_E == m) | (training.fold_E == (m + 1) % SMALL.folds)).tolist())
        assert drawn == set(range(12)) - held
    other = training_of(mixed_store())
    flipped = np.flatnonzero(other.fold_E == 0)
    other._class_n[np.isin(other.windows.episode_n, flipped)] ^= 1
    for each in (training, other):
        each.run_epoch()
    theirs = dict(other.network.named_parameters())
    assert all(torch.equal(value[0], theirs[name][0]) for name, value in training.network.named_parameters())


def test_classes_that_differ_are_told_apart_and_a_continued_training_is_an_unbroken_one(tmp_path: Path) -> None:
    store = mixed_store(18)
    whole = training_of(store)
    for _ in range(6):
        whole.run_epoch()
    judged = whole.judge()
    assert (judged.probabilities_EK.argmax(axis=1) == store.success_E).mean() > 0.85
    np.testing.assert_allclose(judged.probabilities_EK.sum(axis=1), 1, atol=1e-5)
    assert whole.history[2]["lr"] < whole.history[0]["lr"] < SMALL.lr
    assert whole.history[3]["lr"] == whole.history[0]["lr"]  # the next round begins like the first
    folder = QualityFolder(tmp_path)
    cut = training_of(store)
    for until in (1, 4, 6):
        while cut.epoch < until:
            cut.run_epoch()
        folder.save_state(cut.tensors(), cut.facts())
        cut = training_of(store)
        cut.restore(*folder.load_state())
    assert cut.history == whole.history
    for name, value in whole.tensors().items():
        assert torch.equal(value, cut.tensors()[name]), name
    assert np.array_equal(cut.judge().probabilities_nK, judged.probabilities_nK)


def test_the_svm_judges_episodes_that_it_was_not_fitted_to() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    truth = np.arange(30) % 3
    fold = np.arange(30) // 3 % 5
    features = np.stack([np.eye(3)[truth] * 3 + rng.normal(size=(30, 3)) * 0.3 for _ in range(5)]).astype(np.float32)
    predicted, quality = held_out_decisions(features, np.where(np.arange(30) < 27, truth, -1), fold, 3)
    assert (predicted == truth).mean() > 0.9
    assert quality[truth == 2].min() > quality[truth == 0].max()


# --- the ensemble -----------------------------------------------------------------------------------------------------


def test_an_ensemble_disagrees_where_actions_are_noise() -> None:
    """In episodes 0, 2, .. the action is a function of the observation, in the others it is noise."""
    rng = np.random.default_rng(0)
    lengths = (30,) * 12
    seen = rng.normal(size=(360, 2)).astype(np.float32)
    noisy = np.repeat(np.arange(12) % 2 == 1, 30)
    actions = np.where(noisy[:, None], rng.normal(size=(360, 2)), seen).astype(np.float32)
    store = tiny_store(lengths, obs={"arm": seen}, actions_NA=actions)
    apart, error = ensemble.disagreement(store, members=2, steps=60)
    means = ensemble.episode_means(apart, error, store)
    assert means["error"][1::2].min() > means["error"][::2].max()
    again = ensemble.disagreement(store, members=2, steps=60)
    assert np.array_equal(apart, again[0])
    assert np.array_equal(error, again[1])


def test_the_influence_of_an_episode_with_wrong_actions_is_the_lowest() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(300, 2)).astype(np.float32)
    wrong = np.repeat(np.arange(12) == 3, 25)
    store = tiny_store((25,) * 12, obs={"arm": seen}, actions_NA=np.where(wrong[:, None], -seen, seen))
    found = ensemble.influence(store, members=2, steps=100)
    assert found.argmin() == 3
    with pytest.raises(UserError, match="--influence: expected at least 10 episodes"):
        ensemble.influence(tiny_store(), 2, 5)


# --- everything together ----------------------------------------------------------------------------------------------


def test_a_second_call_continues_and_equals_one_with_all_rounds(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    first = scored(tmp_path / "a", num_rounds=1)
    assert set(first.scores.columns) == {
        "quality", "svm", "length", "idle", "jerk", "path_efficiency", "disagreement", "error",
    }  # fmt: skip
    more, whole = scored(tmp_path / "a", num_rounds=2), scored(tmp_path / "b", num_rounds=2)
    assert more.scores.sha256 == whole.scores.sha256 != first.scores.sha256
    assert (tmp_path / "a" / "history.csv").read_text() == (tmp_path / "b" / "history.csv").read_text()
    assert load_scores(tmp_path / "a").sha256 == more.scores.sha256
    report = json.loads((tmp_path / "a" / "quality.json").read_text())
    assert report["episodes"] == 12
    assert report["accuracy"] == whole.judgement.accuracy if whole.judgement else False


def test_folders_are_not_overwritten(tmp_path: Path) -> None:
    settings = {"ensemble": 0, "svm": False, "num_rounds": 1}
    scored(tmp_path / "q", **settings)
    before = (tmp_path / "q" / "scores.csv").read_text()
    with pytest.raises(UserError, match=r"was made with other settings \(data: .* there, .* here\); choose another"):
        scored(tmp_path / "q", mixed_store(seed=1), **settings)
    with pytest.raises(UserError, match="seed: 0 there, 3 here"):
        scored(tmp_path / "q", classifier=dataclasses.replace(SMALL, seed=3), **settings)
    assert (tmp_path / "q" / "scores.csv").read_text() == before
    (tmp_path / "q" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match=r"contains 'mine.txt', which raybc data quality did not write"):
        scored(tmp_path / "q", **settings)
    (tmp_path / "q" / "mine.txt").unlink()
    store = mixed_store(seed=1)
    score(store, None, dataclasses.replace(QUICK, ensemble=0), QualityFolder(tmp_path / "q"), overwrite=True)
    assert load_scores(tmp_path / "q").fingerprint == store.fingerprint()
    assert not (tmp_path / "q" / "classifier.safetensors").exists()


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    scored(tmp_path / "q", ensemble=0, svm=False, num_rounds=1)
    path = tmp_path / "q" / "classifier.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged, or of a newer release; use --overwrite"):
        scored(tmp_path / "q", ensemble=0, svm=False, num_rounds=2)


# --- files of scores --------------------------------------------------------------------------------------------------


def some_scores(store: EpisodeStore, **values: Any) -> Scores:
    columns = {"good": Column("higher", "how good", "probability"), "jerk": Column("lower", "how bad")}
    given = {"good": [0.25, 1.0, 0.0], "jerk": [3.0, 1.0, 1.0]} | values
    arrays = {name: np.array(value, np.float64) for name, value in given.items()}
    return Scores("tiny", store.fingerprint(), columns, arrays, ("a", "", "b"))


def test_scores_survive_a_round_trip(tmp_path: Path) -> None:
    scores = some_scores(tiny_store(), good=[0.1, 1 / 3, 1e-17])
    save_scores(scores, tmp_path)
    for place in (tmp_path, tmp_path / scores_module.CSV, tmp_path / scores_module.META):
        found = load_scores(place)
        assert found.sha256 == scores.sha256
        assert found.labels == ("a", "", "b")
        assert found.values["good"].tolist() == [0.1, 1 / 3, 1e-17]
    (tmp_path / "scores.csv").write_text((tmp_path / "scores.csv").read_text().replace("0.1", "0.2"))
    with pytest.raises(UserError, match=r"scores\.csv: differs from its description .* damaged or edited"):
        load_scores(tmp_path)
    with pytest.raises(UserError, match="expected a folder that raybc data quality wrote"):
        load_scores(tmp_path / "nowhere", "--scores")


def test_weights_and_order() -> None:
    scores = some_scores(tiny_store())
    np.testing.assert_allclose(scores.weights("good"), [0.25, 1, 1e-6])
    np.testing.assert_allclose(scores.weights("good", 2), [0.0625, 1, 1e-12])
    np.testing.assert_allclose(scores.weights("jerk"), [1 / 3, 5 / 6, 5 / 6])  # the lowest is the best
    np.testing.assert_allclose(scores.weights("jerk", 0), [1, 1, 1])
    assert scores.goodness("jerk").tolist() == [-3, -1, -1]
    with pytest.raises(UserError, match="column: expected a column of the scores, got 'jerky': did you mean 'jerk'"):
        scores.check_column("jerky", "column")
    with pytest.raises(UserError, match="column 'good': expected 3 finite numbers"):
        some_scores(tiny_store(), good=[math.nan, 0, 0])


def test_scores_of_other_data_are_refused() -> None:
    scores = some_scores(tiny_store())
    scores.check_data(tiny_store().fingerprint(), tiny_store(), "scores_path")
    other = tiny_store(seed=1)
    with pytest.raises(UserError, match=r"expected scores of these data .* got those of tiny"):
        scores.check_data(other.fingerprint(), other, "scores_path")
    longer = tiny_store((4, 5, 6, 7))
    with pytest.raises(UserError, match=r"expected scores of the 4 episodes of tiny\.hdf5, got 3 of tiny"):
        scores.check_data(longer.fingerprint(), longer, "scores_path")


def test_data_that_a_store_writes_have_the_same_scores(tmp_path: Path) -> None:
    """Scores are of contents, not of a file."""
    store = tiny_store()
    write_store(tmp_path / "copy", store)
    from raybc.data import formats

    copy = formats.read(tmp_path / "copy")
    some_scores(store).check_data(copy.fingerprint(), copy, "scores_path")
