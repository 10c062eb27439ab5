"""`raybc dashboard RUN RUN ...`: sweeps side by side."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")

from benchmarks.run_folder import BEGAN, make_run
from raybc.cli import run_main
from raybc.dashboard import serve
from raybc.dashboard.__main__ import main
from raybc.dashboard.several import differing, overview
from raybc.dashboard.view import RunView, views_of
from raybc.metric import METRICS, SUCCESS
from raybc.report.__main__ import main as report
from raybc.report.timeline import best_so_far
from raybc.sweep.ledger import Evaluation, TrialState
from tests.browser import Browser
from tests.test_dashboard import Client


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two finished sweeps of 30 and 50 trials, the second with another sampler and one axis less."""
    folder = tmp_path_factory.mktemp("several")
    first, second = make_run(folder / "first", 30, 3000), make_run(folder / "second", 50, 5000)
    config = json.loads((second / "config.json").read_text())
    config["search"]["sampler"] = "random"
    (second / "config.json").write_text(json.dumps(config))
    return first, second


@pytest.fixture
def client(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr("raybc.dashboard.view.REFRESH_INTERVAL", 0.0)
    with serve.beside(runs, 0) as url:
        yield Client(url)


def test_every_sweep_has_a_row_and_its_own_page(client: Client, runs: tuple[Path, Path]) -> None:
    found = client.get("/api/runs").json
    assert [run["name"] for run in found["runs"]] == ["first", "second"], "one name for both, so the folders"
    for number, (run, folder) in enumerate(zip(found["runs"], runs, strict=True)):
        view = RunView(folder)
        view.refresh()
        alone = view.since(-1, -1)["run"]
        assert run["href"] == f"runs/{number}/"
        assert run["best"]["trial"] == alone["leader"]
        assert (run["trials"], run["asked"]) == (sum(alone["counts"].values()), alone["asked"])
        low, high = run["best"]["interval"]
        assert low < run["best"]["score"] < high
        assert run["best"]["on"] == "final"
        assert run["core_hours"] > 0
        assert client.get(f"/runs/{number}/").status == 200
        answer = client.get(f"/runs/{number}/api/run").json
        assert answer["run"]["path"] == alone["path"]
        assert len(answer["trials"]) == run["trials"]
        assert client.get(f"/runs/{number}/api/trials/0").status == 200
    assert client.get("/runs/2/").status == 404
    assert client.get("/api/run").status == 404, "there is no single run"
    assert b"/static/runs.js" in client.get("/").content
    assert client.get("/static/runs.js").status == 200
    options = {one["name"]: one["values"] for one in found["options"]}
    assert options["search.sampler"][1] == "random"
    assert options["search.trials"] == [30, 50]
    assert "name" not in options
    assert found["one_metric"]


def test_best_so_far_by_hand() -> None:
    """A completed trial counts when it has ended; pruned, failed and running ones count as trials only."""

    def trial(number: int, status: Any, score: float | None, end: float) -> TrialState:
        timing: Any = {"train": [BEGAN, BEGAN + 1], "rollout": [end - 1, end], "train_seconds": 1.0}
        evaluation = Evaluation(1, 100, score or 0.0, [], timing, "")
        return TrialState(number, {}, "sampler", status=status, evaluations=[evaluation])

    hour = 3600.0
    trials = [
        trial(0, "completed", 0.5, BEGAN + 2 * hour),
        trial(1, "pruned", 0.9, BEGAN + 1 * hour),
        trial(2, "completed", 0.4, BEGAN + 3 * hour),
        trial(3, "completed", 0.7, BEGAN + 4 * hour),
        trial(4, "running", 0.9, BEGAN + 4 * hour),
        TrialState(5, {}, "sampler", status="failed"),
    ]
    assert best_so_far(trials, SUCCESS) == [[2, 2.0, 0.5], [3, 3.0, 0.5], [4, 4.0, 0.7]]
    lowest = [point[2] for point in best_so_far(trials, METRICS["valid_error"])]
    assert lowest == [0.5, 0.4, 0.4], "of an error the lowest is the best"
    for one in trials:
        for evaluation in one.evaluations:
            evaluation.timing.update({"train": [0.0, 0.0], "rollout": [0.0, 0.0]})
    assert {point[1] for point in best_so_far(trials, SUCCESS)} == {None}, "files without times"


def test_what_differs() -> None:
    assert differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}]) == ["b", "c"]
    assert differing([{"a": 1}]) == differing([]) == []


def test_a_damaged_sweep_does_not_hide_the_others(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybc.dashboard.view.REFRESH_INTERVAL", 0.0)
    bad = Path(shutil.copytree(runs[0], tmp_path / "bad"))
    views = views_of([runs[1], bad])
    with (bad / "ledger.jsonl").open("a") as file:
        file.write("damaged\n")
    found = overview(views)
    assert "error" not in found["runs"][0]
    assert "is damaged: expected an event" in found["runs"][1]["error"]
    assert found["one_metric"]


def test_what_is_refused(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, expected in (
        ([], "expected the folder of a sweep, or several"),
        ([runs[0], runs[0] / "../first"], "expected different sweeps, got this one twice"),
        ([runs[0], tmp_path], "expected the folder of a sweep run"),
    ):
        assert run_main(lambda argv=argv: main([str(one) for one in argv])) == 2  # type: ignore[misc]
        assert expected in capsys.readouterr().err


def test_the_same_as_a_document(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file that loads nothing, with the numbers of the overview; another file is not replaced."""
    page = tmp_path / "sweeps.html"
    argv = [*map(str, runs), f"--out={page}"]
    assert run_main(lambda: report(argv)) == 0
    text = page.read_text()
    found = overview(views_of(runs))
    for run in found["runs"]:
        assert f"{SUCCESS.show(run['best']['score'])} (" in text
        assert f"trial {run['best']['trial']}" in text
    assert text.count('type="application/json"') == 1
    assert "search.sampler" in text
    sources = re.findall(r'(?:src|href)="([^"]*)"', text.partition("<script>")[0])
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert run_main(lambda: report(argv)) == 0, "it is its own page"
    page.write_text("mine")
    assert run_main(lambda: report(argv)) == 2
    assert "exists, and is no page of several sweeps" in capsys.readouterr().err
    assert page.read_text() == "mine"
    assert run_main(lambda: report([str(runs[0]), "--out=x.html"])) == 2
    assert "--out: expected several sweeps" in capsys.readouterr().err
    assert run_main(lambda: report([])) == 2


@pytest.mark.slow
def test_in_a_browser(chrome: Browser, runs: tuple[Path, Path]) -> None:
    """The overview has rows, two figures and links; a sweep's own page works below its path, and leads back."""
    page = chrome
    with serve.beside(runs, 0) as url:
        page.open(url)
        page.wait("document.documentElement.dataset.ready")
        assert page.js("document.querySelectorAll('#table-runs tbody tr').length") == 2
        page.wait("document.querySelectorAll('#plot-trials .scatterlayer .trace').length === 2")
        page.wait("document.querySelectorAll('#plot-hours .scatterlayer .trace').length === 2")  # drawn one by one
        assert not page.js("document.getElementById('figures').hidden")
        assert "search.sampler" in page.js("document.getElementById('table-options').textContent")
        page.js("document.querySelector('#table-runs tbody tr a').click()")
        page.wait("location.pathname === '/runs/0/' && document.documentElement.dataset.ready")
        assert page.js("document.querySelectorAll('#table tbody tr').length") > 5
        assert not page.js("document.getElementById('all').hidden")
        page.js("document.getElementById('plot-curves').scrollIntoView()")
        page.wait("document.querySelector('#plot-curves .scatterlayer .trace') !== null")
        page.js("document.getElementById('all').click()")
        page.wait("location.pathname === '/' && document.documentElement.dataset.ready")
        time.sleep(0.2)
        assert page.errors == []
