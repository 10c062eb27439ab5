"""A classifier of episodes that is applied to other data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import robomimic
from raybc.data.quality.folder import QualityFolder
from raybc.data.quality.labels import labels_of
from raybc.data.quality.run import score
from raybc.data.quality.trained import TrainedClassifier
from raybc.data.scores import load_scores
from raybc.train.data import train_episodes
from raybc.types import UserError
from tests.helpers import tiny_data
from tests.test_quality import QUICK, mixed_store, scored
from tests.test_quality_use import quality

pytest.importorskip("sklearn")
ALONE = dataclasses.replace(QUICK, ensemble=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier of some episodes."""
    path = tmp_path_factory.mktemp("quality") / "known"
    scored(path, mixed_store(18), ensemble=0)
    return path


def test_it_judges_episodes_of_other_data(folder: Path, tmp_path: Path) -> None:
    """By the mean of its networks, standardised as where it was trained; labels only measure it."""
    trained, other = TrainedClassifier.read(folder), mixed_store(10, seed=5)
    found = score(other, labels_of(other), ALONE, QualityFolder(tmp_path), trained=trained)
    judged, windows = trained.judge(other)
    np.testing.assert_array_equal(found.scores.values["quality"], judged.probabilities_EK[:, 1])
    assert found.quality_n is not None
    assert len(found.quality_n) == len(windows.episode_n)
    assert found.judgement is not None
    assert found.judgement.accuracy > 0.8
    assert found.judgement.auc["quality"] > 0.9
    assert found.judgement.auc["svm"] > 0.9
    assert found.notes[-1] == f"quality is that of the classifier in {folder}, trained on tiny.hdf5"
    half = EpisodeStore(
        obs={key: value[: other.episode_ends[4]] for key, value in other.obs.items()},
        actions_NA=other.actions_NA[: other.episode_ends[4]],
        rewards_N=other.rewards_N[: other.episode_ends[4]],
        episode_ends=other.episode_ends[:5],
        source=other.source,
    )
    few = score(half, None, ALONE, QualityFolder(tmp_path / "half"), trained=trained)
    np.testing.assert_allclose(few.scores.values["quality"], found.scores.values["quality"][:5], atol=1e-6)
    np.testing.assert_allclose(few.scores.values["svm"], found.scores.values["svm"][:5], atol=1e-5)
    assert few.judgement is None
    filtered = train_episodes(RunConfig.of(scores_path=str(tmp_path), top_percent=50.0), tiny_data(other).store)
    assert set(filtered.tolist()) <= set(np.argsort(-found.scores.values["quality"])[:5].tolist())


def test_a_second_call_continues_and_another_classifier_is_refused(folder: Path, tmp_path: Path) -> None:
    other, trained = mixed_store(6, seed=5), TrainedClassifier.read(folder)
    first = score(other, None, ALONE, QualityFolder(tmp_path / "q"), trained=trained)
    assert score(other, None, ALONE, QualityFolder(tmp_path / "q"), trained=trained).scores.sha256 == (
        first.scores.sha256
    )
    scored(tmp_path / "more", mixed_store(18), ensemble=0, num_rounds=1)
    with pytest.raises(UserError, match=r"was made with other settings \(classifier: "):
        score(other, None, ALONE, QualityFolder(tmp_path / "q"), trained=TrainedClassifier.read(tmp_path / "more"))


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    trained, out = TrainedClassifier.read(folder), QualityFolder(tmp_path / "out")
    other = mixed_store(6, seed=5)
    for store, message in (
        (mixed_store(18), "expected other data than those that it was trained on, got the same"),
        (
            dataclasses.replace(other, obs={"arm": other.obs["arm"]}),
            r"expected arm \(3\), cube \(2\), actions \(2\), which it was trained on, got arm \(3\), actions \(2\)",
        ),
    ):
        with pytest.raises(UserError, match=message):
            score(store, None, ALONE, out, trained=trained)
    one = mixed_store(6, seed=5, success_E=np.ones(6, bool))
    with pytest.raises(UserError, match="--labels: expected episodes of the classes failure, success of --classifier"):
        score(one, labels_of(one, "success"), ALONE, out, trained=trained)
    assert not out.path.exists()


def test_a_folder_of_an_earlier_release_or_unfinished(tmp_path: Path) -> None:
    folder, store = QualityFolder(tmp_path), mixed_store(12)
    scored(tmp_path, store, ensemble=0, num_rounds=1)
    before = load_scores(tmp_path).sha256
    tensors, facts = folder.load_state()
    folder.save_state(tensors, {name: value for name, value in facts.items() if name != "input"})
    with pytest.raises(UserError, match="what the classifier sees, which is missing; call raybc data quality there"):
        TrainedClassifier.read(tmp_path)
    scored(tmp_path, store, ensemble=0, num_rounds=1)
    assert load_scores(tmp_path).sha256 == before
    assert TrainedClassifier.read(tmp_path).signals == (("arm", 3), ("cube", 2), ("actions", 2))
    folder.save_state(tensors, facts | {"epoch": 2})
    with pytest.raises(UserError, match="a classifier whose training has ended; call raybc data quality there again"):
        TrainedClassifier.read(tmp_path)


def test_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("raybc.report.quality.get_plotlyjs", lambda: "")
    demos, out = tmp_path / "demos.hdf5", tmp_path / "q"
    robomimic.write_store(demos, mixed_store(6, seed=5))
    flags = (demos, "--classifier", folder, "--out", out, "--ensemble=0")
    quality(*flags)
    said = " ".join(capsys.readouterr().out.split())
    assert "quality is that of the classifier in" in said
    assert "accuracy on held-out episodes (6): " in said
    assert {"quality", "svm", "jerk"} <= load_scores(out).columns.keys()
    assert "trained on tiny.hdf5" in (out / "quality.html").read_text()
    assert json.loads((out / "quality.json").read_text())["episodes"] == 6
    quality(*flags, "--num_rounds=3", status=2)
    assert "--num_rounds: has no effect with --classifier" in capsys.readouterr().err
    quality(demos, "--out", tmp_path / "plain", "--ensemble=0", "--labels", "none")
    capsys.readouterr()
    quality(demos, "--classifier", tmp_path / "plain", "--out", tmp_path / "r", status=2)
    assert "expected a folder with a classifier, got scores without one" in " ".join(capsys.readouterr().err.split())
    quality(demos, "--classifier", tmp_path / "nowhere", "--out", tmp_path / "r", status=2)
    assert "expected a folder that raybc data quality wrote" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "r").exists()
