"""Scores in use: filtering a training, weights of a sampling plan, and the command with its page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from raybc import cli
from raybc.config import RunConfig
from raybc.data import formats
from raybc.data.__main__ import main
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import robomimic
from raybc.data.plan.build import build_plan
from raybc.data.plan.config import ADDED, PlanConfig
from raybc.data.plan.files import load_plan
from raybc.data.plan.verify import check_rebuilt
from raybc.data.scores import Column, Scores, load_scores, save_scores
from raybc.plan import main as plan_command
from raybc.train.data import prepare, resolved, train_episodes
from raybc.train.scores import note_scores
from raybc.train.stored import HASHED
from raybc.types import UserError
from tests.helpers import CPU, tiny_config, tiny_data, tiny_store

LENGTHS = (9, 12, 10, 11, 14, 8)


def data() -> EpisodeStore:
    return tiny_store(LENGTHS)


def scores_in(folder: Path, store: EpisodeStore) -> Scores:
    columns = {"quality": Column("higher", "good", "probability"), "jerk": Column("lower", "bad")}
    values = {"quality": np.array([0.1, 0.9, 0.2, 0.8, 1.0, 0.0]), "jerk": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])}
    scores = Scores("tiny", store.fingerprint(), columns, values)
    folder.mkdir(parents=True, exist_ok=True)
    save_scores(scores, folder)
    return scores


def test_top_percent_ranks_by_a_score(tmp_path: Path) -> None:
    store = data()
    scores = scores_in(tmp_path, store)
    filtered = tiny_config(scores_path=str(tmp_path), top_percent=50)
    assert train_episodes(filtered, store).tolist() == [1, 3, 4]
    assert train_episodes(filtered.changed(score_column="jerk"), store).tolist() == [0, 1, 2]
    found = resolved(filtered, store)
    assert found.scores_sha256 == scores.sha256
    assert prepare(found, tiny_data(store), CPU).rotation.total == 12 + 11 + 14
    note_scores(found, [tmp_path / "run"])
    copied = resolved(tiny_config(scores_path=str(tmp_path / "run" / "scores"), top_percent=50), store)
    assert copied.run_id("data") == found.run_id("data")  # a bundle reproduces from the copy
    assert found.run_id("data") != resolved(tiny_config(top_percent=50), store).run_id("data")
    assert tiny_config().run_id("data") == RunConfig.from_plain(
        {k: v for k, v in tiny_config().to_plain().items() if not k.startswith("score")}, "saved"
    ).run_id("data")
    assert HASHED["scores_path"] == "scores_sha256"


def test_scores_that_a_training_refuses(tmp_path: Path) -> None:
    store = data()
    scores_in(tmp_path, store)
    config = tiny_config(scores_path=str(tmp_path), top_percent=50)
    with pytest.raises(UserError, match="scores_path: expected scores of these data"):
        prepare(config, tiny_data(tiny_store(LENGTHS, seed=1)), CPU)
    with pytest.raises(UserError, match="scores_path: expected scores of the 3 episodes"):
        resolved(config, tiny_store())
    with pytest.raises(UserError, match="score_column: expected a column of the scores, got 'jerky'"):
        resolved(config.changed(score_column="jerky"), store)
    with pytest.raises(UserError, match="they were made again with other options"):
        resolved(config.changed(scores_sha256="0" * 64), store)
    with pytest.raises(UserError, match="score_column: has no effect without scores_path"):
        tiny_config(score_column="jerk").validate()
    with pytest.raises(UserError, match=r"scores_path: expected .* with sampling_plan_path"):
        tiny_config(scores_path="x", sampling_plan_path="y").validate()


def test_a_plan_draws_episodes_by_their_scores(tmp_path: Path) -> None:
    robomimic.write_store(tmp_path / "demos.hdf5", data())
    store = formats.read(tmp_path / "demos.hdf5")
    scores = scores_in(tmp_path / "scores", store)
    words = ["--dataset", str(tmp_path / "demos.hdf5"), "--horizon-length=4", "--batch-size=8", "--stride-S=1",
             "--num-stages-K=1", "--epsilon-mix=0", "--clip-ratio=100000000"]  # fmt: skip
    weighted = ["--weights", "quality", "--scores", str(tmp_path / "scores")]
    assert plan_command(["build", *words, *weighted, "--out-dir", str(tmp_path / "plan")]) == 0
    plan = load_plan(tmp_path / "plan")
    assert plan.config.scores_sha256 == scores.sha256
    rows = plan.rows_of(plan.anchors_P)
    expected = scores.weights("quality")[rows]
    np.testing.assert_allclose(plan.weights_P / plan.weights_P.max(), expected, rtol=1e-9)
    check_rebuilt(plan, store)
    assert plan_command(["verify", str(tmp_path / "plan"), "--dataset", str(tmp_path / "demos.hdf5")]) == 0
    assert plan_command(["show", str(tmp_path / "plan")]) == 0
    ranked = [*words, *weighted, "--score-column", "jerk", "--score-power", "2", "--out-dir", str(tmp_path / "jerk")]
    assert plan_command(["build", *ranked]) == 0
    assert load_plan(tmp_path / "jerk").worth_E.tolist() == pytest.approx([((6 - i) / 6) ** 2 for i in range(6)])  # type: ignore[union-attr]
    with pytest.raises(UserError, match="--scores: expected scores with --weights quality"):
        plan_command(["build", *words, "--weights", "quality", "--out-dir", str(tmp_path / "other")])
    with pytest.raises(UserError, match="--scores: has no effect without --weights quality"):
        plan_command(["build", *words, "--scores", str(tmp_path / "scores"), "--out-dir", str(tmp_path / "other")])
    with pytest.raises(UserError, match="--score_column: has no effect without weights quality"):
        plan_command(["build", *words, "--score-column", "jerk", "--out-dir", str(tmp_path / "other")])
    robomimic.write_store(tmp_path / "changed.hdf5", tiny_store(LENGTHS, seed=3))
    words[1] = str(tmp_path / "changed.hdf5")
    with pytest.raises(UserError, match="--scores: expected scores of these data"):
        plan_command(["build", *words, *weighted, "--out-dir", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_plans_without_scores_are_those_of_earlier_releases() -> None:
    plan = build_plan(data(), PlanConfig(horizon_length=4, batch_size=8), "tiny")
    meta = plan.meta()
    assert not set(ADDED) & set(meta["parameters"])
    assert "episode_weights" not in meta["arrays"]


# --- the command ------------------------------------------------------------------------------------------------------


def labelled(path: Path) -> Path:
    """Twelve demonstrations with the masks good and bad; the actions of bad ones are larger."""
    store = tiny_store((10,) * 12, splits={"good": range(0, 12, 2), "bad": range(1, 12, 2)})
    scale = np.where(np.repeat(np.arange(12) % 2 == 1, 10), 3, 0.3)[:, None]
    robomimic.write_store(path, tiny_store((10,) * 12, splits=store.splits, actions_NA=store.actions_NA * scale))
    return path


def quality(*words: object, status: int = 0) -> None:
    assert cli.run_main(lambda: main(["quality", *map(str, words)])) == status


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr("raybc.report.quality.get_plotlyjs", lambda: "")
    monkeypatch.chdir(tmp_path)
    demos = labelled(tmp_path / "a<b.hdf5")
    flags = (demos, "--labels", "splits", "--classes", "bad", "good", "--folds=3", "--window=4", "--ensemble=2",
             "--ensemble_steps=5", "--epochs_per_round=4")  # fmt: skip
    quality(*flags, "--num_rounds=1")
    said = capsys.readouterr().out
    assert "labels: splits: 6 bad, 6 good" in said
    assert "round 1/1, epoch 4/4: train loss " in said
    assert "accuracy on held-out episodes (12): " in said
    folder = tmp_path / "a<b-quality"
    assert f"page: {folder.name}/quality.html" in said
    page = (folder / "quality.html").read_text()
    assert "a&lt;b.hdf5" in page
    assert "a<b.hdf5" not in page
    curves = re.search(r'id="curve-data">(.*?)</script>', page, flags=re.S)
    assert curves is not None
    shown = json.loads(curves[1])
    assert [key["name"] for key in shown["keys"]] == ["quality", "disagreement"]
    assert len(shown["episodes"]) == 12
    scores = load_scores(folder)
    assert scores.labels == ("good", "bad") * 6
    assert not re.search(r"""(src|href)=["']https?:""", page)
    quality(*flags, "--num_rounds=2")
    said = capsys.readouterr().out
    assert "resumed after epoch 4, best validation accuracy" in said
    assert "round 2/2, epoch 8/8" in said
    assert "ensemble" not in said.partition("resumed")[0]  # it is not trained again
    quality(*flags, "--seed=1", status=2)
    assert "was made with other settings (seed: 0 there, 1 here); choose another --out" in capsys.readouterr().err
    assert load_scores(folder).fingerprint == scores.fingerprint


def test_without_labels_and_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("raybc.report.quality.get_plotlyjs", lambda: "")
    demos = labelled(tmp_path / "demos.hdf5")
    quality(demos, "--out", tmp_path / "q", "--ensemble=0")
    said = capsys.readouterr().out
    assert "no labels: scores without labels only" in said
    assert set(load_scores(tmp_path / "q").columns) == {"length", "idle", "jerk", "path_efficiency"}
    assert 'id="curve-data"' not in (tmp_path / "q" / "quality.html").read_text()
    marked = tmp_path / "marked.hdf5"
    robomimic.write_store(marked, tiny_store((10,) * 12, success_E=np.arange(12) > 0))
    quality(marked, "--out", tmp_path / "marked", "--ensemble=0")
    said = " ".join(capsys.readouterr().out.split())
    assert "note: success is not used as label: --labels: expected at least 5 episodes of each class" in said
    quality(marked, "--out", tmp_path / "other", "--labels", "success", status=2)
    assert "got failure: 1, success: 11; label more episodes" in capsys.readouterr().err
    for words, message in (
        (("--folds=2",), "--folds: expected at least 3, got 2"),
        (("--labels", "operators"), "--labels operators: expected masks worse, okay, better"),
        (("--labels", "splits"), "--classes: expected the splits that are classes"),
        (("--classes", "a"), "--classes: has no effect with --labels auto"),
        (("--labels", "nowhere.csv"), "nowhere.csv"),
        (("--keep_idle=2",), "--keep_idle: has no effect without --drop_idle"),
        (("--ensemble=1",), "--ensemble: expected 0 (none) or at least 2"),
    ):
        quality(demos, "--out", tmp_path / "other", *words, status=2)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_without_scikit_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    demos = labelled(tmp_path / "demos.hdf5")
    quality(demos, "--labels", "splits", "--classes", "bad", "good", "--out", tmp_path / "q", status=2)
    assert "pip install 'raybc[quality]', or leave the SVM out with --no-svm" in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    pytest.importorskip("websockets", reason="what drives the browser: pip install 'raybc[dev]'")
    from tests.browser import AXE, Browser, axe, find_chromium

    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium: apt install chromium, or set RAYBC_CHROMIUM")
    demos, out = labelled(tmp_path / "demos.hdf5"), tmp_path / "q"
    quality(demos, "--labels", "splits", "--classes", "bad", "good", "--folds=3", "--window=4", "--ensemble=2",
            "--ensemble_steps=5", "--epochs_per_round=2", "--no-svm", "--out", out)  # fmt: skip
    with Browser.start(chromium) as browser:
        browser.open((out / "quality.html").as_uri())
        browser.js("document.querySelector('#time').scrollIntoView({behavior: 'instant'})")
        browser.wait("document.querySelector('#plot-curves .scatterlayer')")
        first = browser.js("document.querySelector('#curve-caption').textContent")
        assert first.startswith("quality of episode 0, labelled good, quality 0.")
        browser.click("#curve-next")
        browser.wait("document.querySelector('#curve-caption').textContent.includes('episode 1, labelled bad')")
        browser.js("document.querySelector('#classifier').scrollIntoView({behavior: 'instant'})")
        browser.wait("document.querySelector('#plot-reliability .scatterlayer')")
        for width in (1280, 390) if AXE.is_file() else ():
            browser.size(width, 900)
            assert axe(browser) == [], width
        assert browser.errors == []
        assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
