"""Pages of evaluations and trainings in `raybc dashboard FOLDER`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")

from raybc.dashboard import serve
from raybc.dashboard.evaluation import evaluation
from raybc.dashboard.training import training
from raybc.files import run_folder_lock, write_json
from raybc.metric import SUCCESS
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.results import metrics
from raybc.rollout.video import encode
from raybc.statistics import wilson_interval
from raybc.types import SampleSetting
from tests.browser import Browser
from tests.helpers import ROOT
from tests.test_dashboard import Client

GOLDEN = ROOT / "tests/golden/v0.1.0"
FEW, MANY = SampleSetting(2), SampleSetting(10)


def row(index: int, outcome: str) -> dict[str, Any]:
    found = {"index": index, "seed": 2_000_000 + index, "outcome": outcome, "return": float(outcome == "success"),
             "max_reward": 1.0, "steps": 40 + index, "seconds": 0.1, "retries": 0, "message": ""}  # fmt: skip
    if outcome == "error":
        return found | {"message": "<b>a joint</b> left its range", "error_kind": "ValueError"}
    return found | {"final_obs": {"pos": [0.9 if outcome == "success" else 0.1 * index, 0.01 * index]}}


def make_evaluation(path: Path, settings: tuple[SampleSetting, ...] = (FEW, MANY)) -> Path:
    """Twelve episodes at each setting; start 1 was filmed, start 3 ended in an error."""
    folder = EvaluationFolder(path)
    outcomes = {1: "failure", 3: "error", 4: "timeout"}
    parts = {s: [row(i, outcomes.get(i, "success")) for i in range(12)] for s in settings}
    for setting, rows in parts.items():
        rows[1]["video"] = "start_1.mp4"
        folder.videos(setting).mkdir(parents=True)
        frames = [np.full((64, 64, 3), 40 + 9 * k, np.uint8) for k in range(10)]
        encode(folder.videos(setting) / "start_1.mp4", 10, frames)
    write_json(
        folder.request,
        {"bundle": "runs/a/best", "run_id": "0", "step": 600, "task": "pointmass", "videos": 1,
         "settings": [s.to_plain() for s in settings], "starts": {"set": "final", "first": 0, "episodes": 12},
         "until_halfwidth": 0.0, "flags": {"bundle": "runs/a/best", "flow_steps": "2,10", "episodes": 12, "slots": 3}},
    )  # fmt: skip
    lines = [json.dumps(s.to_plain() | one) for s, rows in parts.items() for one in rows]
    folder.episodes.write_text("".join(line + "\n" for line in lines))
    results = [
        s.to_plain() | metrics(rows, has_success=True, reference=None, metric=SUCCESS)  # type: ignore[arg-type,operator]
        for s, rows in parts.items()
    ]
    write_json(folder.metrics, {"task": "pointmass", "max_steps": 60, "starts": "final", "settings": results})
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "runs"
    make_evaluation(folder / "rollouts" / "done")
    make_evaluation(folder / "rollouts" / "plain", (MANY,))
    shutil.copytree(GOLDEN / "rollout", folder / "rollouts" / "stopped")
    shutil.copytree(GOLDEN / "train", folder / "alone")
    return folder


@pytest.fixture
def client(runs: Path) -> Iterator[Client]:
    with serve.beside_index(runs, 0) as url:
        yield Client(url)


def test_an_evaluation_has_its_score_and_every_episode(client: Client, runs: Path) -> None:
    assert client.get("/runs/rollouts~done/").status == 200
    found = client.get("/runs/rollouts~done/api/evaluation").json
    assert (found["state"], found["done"], found["asked"], found["resume"]) == ("ended", 24, 24, "")
    for one in found["settings"]:
        assert one["score"] == 9 / 11
        assert one["interval"] == list(wilson_interval(9, 11)), "as metrics.json has it"
        assert (one["failures"], one["timeouts"], one["errors"]) == (1, 1, 1)
    few, many = found["groups"]
    assert [entry[:2] for entry in few["episodes"][:5]] == [
        [0, "success"], [1, "failure"], [2, "success"], [3, "error"], [4, "timeout"]
    ]  # fmt: skip
    assert few["messages"] == {"3": "<b>a joint</b> left its range"}
    assert (few["limit"], few["base"], few["ends"]["axes"]) == (60, 2_000_000, ["pos[0]", "pos[1]"])
    assert many["command"] == (
        "python -m raybc.rollout runs/a/best --flow_steps=10 --slots=3 --starts=final --first=START_INDEX --episodes=1 "
        "--videos=1"
    )
    film = few["films"]["1"]["file"]
    assert client.get(f"/runs/rollouts~done/videos/{film}").status == 200
    assert client.get(f"/runs/rollouts~done/posters/{film}").status == 200
    assert client.get("/runs/rollouts~done/videos/..%2fplain%2fmetrics.json").status == 404
    assert client.get("/runs/rollouts~done/api/run").status == 404


def test_an_evaluation_that_has_not_ended_has_what_was_measured(tmp_path: Path) -> None:
    old = Path(shutil.copytree(GOLDEN / "rollout", tmp_path / "old"))
    with (old / "episodes.partial.jsonl").open("a") as file:
        file.write('{"flow_steps": 10, "index": ')  # it is being written
    found = evaluation(old)
    assert (found["state"], found["done"], found["asked"]) == ("stopped", 30, 400)
    assert found["resume"] == "", "release 0.1.0 kept no flags"
    assert found["settings"][0]["episodes"] == 30
    indices = [entry[0] for entry in found["groups"][0]["episodes"]]
    assert indices == sorted(indices)
    with run_folder_lock(old):
        assert evaluation(old)["state"] == "running"
    write_json(old / "rollout.json", json.loads((old / "rollout.json").read_text()) | {"flags": {"bundle": "b"}})
    assert evaluation(old)["resume"] == f"raybc rollout --resume --out {old}"


def test_a_training_has_its_scores_losses_and_options(client: Client, runs: Path) -> None:
    assert client.get("/runs/alone/").status == 200
    found = client.get("/runs/alone/api/training").json
    assert found == json.loads(json.dumps(training(runs / "alone")))
    assert (found["state"], found["step"], found["steps"]) == ("stopped", 60, 120)
    assert found["resume"] == f"raybc train --resume --out {runs / 'alone'}"
    (one,) = found["rows"]
    assert (one["step"], one["rate"], one["episodes"]) == (40, 0.0, 5)
    assert one["interval"] == pytest.approx(wilson_interval(0, 5))
    assert [step for step, _ in found["losses"]["0"]] == [10, 20, 30, 40, 50, 60]
    assert found["checkpoints"] == [{"seed": "0", "steps": [30, 40, 60], "of": 3, "best": 40}]
    assert "hidden_width = 16" in found["options"]


@pytest.mark.slow
def test_in_a_browser(chrome: Browser, runs: Path) -> None:
    """Squares open their episode with its film; what is text stays text; all can read it, on narrow screens, too."""
    checks = (ROOT / "tests/accessible.js").read_text(encoding="utf-8")
    clean = {"faint": [], "nameless": [], "skipped": []}
    ready = "document.documentElement.dataset.ready"
    with serve.beside_index(runs, 0) as url:
        for name in ("rollouts~done", "rollouts~plain", "rollouts~stopped", "alone"):
            chrome.size(1280, 900)
            chrome.open(f"{url}runs/{name}/")
            chrome.wait(ready)
            for dark in (True, False):
                chrome.dark(dark)
                assert chrome.js(checks) == clean, name
            chrome.size(360, 800)
            chrome.wait("document.documentElement.scrollWidth <= 360")
        chrome.size(1280, 900)
        chrome.open(f"{url}runs/rollouts~done/")
        chrome.wait(ready)
        assert chrome.js("document.querySelectorAll('.square').length") > 24
        chrome.js("document.querySelector('.matrix .square.error').click()")
        chrome.wait("document.querySelector('dialog.episode').open")
        assert "<b>a joint</b> left its range" in chrome.js("document.querySelector('dialog').textContent")
        assert "--first=3" in chrome.js("document.querySelector('dialog pre').textContent")
        chrome.key("Escape")
        chrome.wait("!document.querySelector('dialog.episode').open")
        chrome.js("document.querySelector('.matrix .square.filmed').click()")
        chrome.wait("document.querySelector('dialog video')")
        chrome.js("document.querySelector('dialog video').play()")
        chrome.wait("document.querySelector('dialog video').currentTime > 0.2")
        assert "flow_steps=10" in chrome.js("document.querySelector('.same-start, dialog.episode').textContent")
        assert chrome.errors == []
