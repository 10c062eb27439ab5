"""`raybc dashboard FOLDER`: an index of runs, and sweeps on common starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")

from benchmarks.run_folder import make_run
from raybc.cli import run_main
from raybc.compare.__main__ import main as compare
from raybc.compare.pairs import mean_test
from raybc.dashboard import serve
from raybc.dashboard.folders import find_runs, kind_of
from raybc.dashboard.index import Index, is_index
from raybc.dashboard.several import overview
from raybc.dashboard.view import RunView
from tests.browser import Browser
from tests.helpers import ROOT
from tests.test_compare import write_csv
from tests.test_dashboard import Client

GOLDEN = ROOT / "tests/golden/v0.1.0"


def make_comparison(runs: Path) -> Path:
    """A finished comparison of two measurements of others."""
    scores = write_csv(runs / "scores.csv", {"a": [1] * 28 + [0] * 2, "b": [0] * 12 + [1] * 18})
    assert run_main(lambda: compare([str(scores), "--out", str(runs / "compared")])) in (0, 1, 3)
    return runs / "compared"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished sweeps, and a sweep, a training, an evaluation and a comparison of earlier days."""
    folder = tmp_path_factory.mktemp("index") / "runs"
    make_run(folder / "first", 30, 3000)
    make_run(folder / "second", 40, 4000)
    shutil.copytree(GOLDEN / "sweep", folder / "stopped")
    shutil.copytree(GOLDEN / "train", folder / "alone")
    shutil.copytree(GOLDEN / "rollout", folder / "rollouts" / "of_alone")
    compared = folder / "compare" / "a_vs_b"
    compared.mkdir(parents=True)
    (compared / "compare.json").write_text(json.dumps({"arms": [{"name": "a"}, {"name": "b"}]}))
    (compared / "comparison.json").write_text(json.dumps({"verdict": "better"}))
    (folder / "notes").mkdir()
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("raybc.dashboard.view.REFRESH_INTERVAL", 0.0)
    monkeypatch.setattr("raybc.dashboard.index.BUDGET", 60.0)
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture
def client(runs: Path) -> Iterator[Client]:
    with serve.beside_index(runs, 0) as url:
        yield Client(url)


def rows_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["runs"]}


def test_what_is_a_run(runs: Path) -> None:
    assert {found.path.relative_to(runs).as_posix(): found.kind for found in find_runs(runs)} == {
        "alone": "training",
        "compare/a_vs_b": "comparison",
        "first": "sweep",
        "rollouts/of_alone": "evaluation",
        "second": "sweep",
        "stopped": "sweep",
    }
    assert is_index(runs)
    assert not is_index(runs / "first"), "a sweep has a page of its own"
    assert not is_index(runs / "notes")
    assert kind_of(runs / "none") is None
    (runs / "loop").symlink_to(runs)
    assert len(find_runs(runs)) == 6, "a link to the folder itself is not followed"


def test_a_row_for_every_run(client: Client, runs: Path) -> None:
    found = client.get("/api/index").json
    rows = rows_of(found)
    assert len(rows) == 6
    assert found["waiting"] == 0
    view = RunView(runs / "first")
    view.refresh()
    alone = view.since(-1, -1)
    first = rows["first"]
    best = next(trial for trial in alone["trials"] if trial["n"] == alone["run"]["winner"])
    assert first["best"]["score"] == best["final"]["rate"]
    assert first["best"]["interval"] == best["final"]["interval"]
    assert (first["best"]["on"], first["state"], first["trials"]) == ("final", "ended", 30)
    assert 0 < first["hours"] < 1
    assert rows["alone"]["progress"] == "step 60 of 120"
    assert (rows["alone"]["href"], rows["alone"]["state"]) == ("runs/alone/", "stopped")
    assert rows["rollouts/of_alone"]["state"] == "stopped"
    assert rows["compare/a_vs_b"]["href"] is None
    assert rows["compare/a_vs_b"]["verdict"] == "a is better"
    assert client.get(f"/{first['href']}").status == 200
    assert client.get(f"/{first['href']}api/run").json["run"]["name"] == alone["run"]["name"]
    assert client.get(f"/{first['href']}api/trials/0").status == 200


def test_only_runs_of_the_folder_have_pages(client: Client, runs: Path) -> None:
    make_run(runs.parent / "outside", 3, 100)
    assert client.get("/runs/alone/").status == 200
    assert client.get("/runs/alone/api/run").status == 404, "it is no sweep"
    assert client.get("/runs/alone/api/evaluation").status == 404
    for name in ("none", "compare~a_vs_b", "..", "..%2foutside", "%2e%2e~outside", "..~outside", "outside"):
        assert client.get(f"/runs/{name}/").status == 404, name
        assert client.get(f"/runs/{name}/api/run").status == 404, name
    assert client.get("/api/runs?run=first&run=none").status == 404
    assert client.get("/api/runs").status == 404


def test_a_finished_comparison_has_its_document(tmp_path: Path) -> None:
    path = make_comparison(tmp_path)
    films = path / "arms" / "a" / "videos"
    films.mkdir(parents=True)
    (films / "start.mp4").write_bytes(b"film")
    (path / "arms" / "a" / "notes.txt").write_text("secret")
    with serve.beside_index(tmp_path, 0) as url:
        client = Client(url)
        (row,) = client.get("/api/index").json["runs"]
        assert row["href"] == "runs/compared/"
        answer = client.get("/runs/compared/")
        assert answer.status == 200
        assert answer.content == (path / "compare.html").read_bytes()
        assert "script" not in answer.headers["content-security-policy"], "no script of a run folder runs"
        assert client.get("/runs/compared/arms/a/videos/start.mp4").content == b"film"
        for name in ("a/notes.txt", "a/videos/none.mp4", "../compare.json"):
            assert client.get(f"/runs/compared/arms/{name}").status == 404
        (path / "compare.html").unlink()
        (path / "compare.html").symlink_to(tmp_path / "scores.csv")
        assert client.get("/runs/compared/").status == 404


def test_the_index_follows_the_folder(runs: Path) -> None:
    index = Index(runs)
    assert rows_of(index.overview())["first"]["state"] == "ended"
    make_run(runs / "third", 5, 200)
    assert rows_of(index.overview())["third"]["trials"] == 5
    with (runs / "third" / "ledger.jsonl").open("a") as file:
        file.write('{"event": "start", "trial": 5, "params": {"lr": 0.001}, "origin": "sampler"}\n')
    assert rows_of(index.overview())["third"]["trials"] == 6
    with (runs / "third" / "ledger.jsonl").open("a") as file:
        file.write("damaged\n")
    rows = rows_of(index.overview())
    assert "is damaged: expected an event" in rows["third"]["error"]
    assert "error" not in rows["first"]
    (runs / "alone" / "flags.json").write_text("[]")
    assert "alone" in rows_of(index.overview())["alone"]["error"]
    shutil.rmtree(runs / "third")
    assert "third" not in rows_of(index.overview())


def test_sweeps_that_were_not_read_yet_say_so(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybc.dashboard.index.BUDGET", 0.0)
    index = Index(runs)
    found = index.overview()
    assert found["waiting"] == 3
    assert rows_of(found)["first"]["state"] == "reading"
    assert rows_of(found)["alone"]["state"] == "stopped", "what takes no time is there at once"


# --- on common starts ------------------------------------------------------------------------------------------------


def views(*paths: Path) -> list[RunView]:
    found = [RunView(path) for path in paths]
    for view in found:
        view.refresh()
    return found


def finals(view: RunView) -> dict[int, list[float]]:
    """Start -> success of each seed, of the best recipe at its setting, from the ledger itself."""
    best = view.best_trial()
    assert best is not None
    setting = view.setting(best)
    assert setting is not None
    found: dict[int, list[float]] = {}
    for row in view.state.trials[best].final_rows:
        if row["flow_steps"] == setting.flow_steps:
            for index, outcome, *_ in row["episode_list"]:
                found.setdefault(index, []).append(float("nan") if outcome == "error" else float(outcome == "success"))
    return found


def test_best_recipes_on_common_starts(runs: Path) -> None:
    import numpy as np

    both = views(runs / "first", runs / "second")
    found = overview(both)["common"]
    a, b = map(finals, both)
    shared = sorted(set(a) & set(b))
    assert found["starts"] == len(shared) == 100
    x, y = (np.array([np.mean(one[start]) for start in shared]) for one in (a, b))
    valid = ~np.isnan(x - y)
    difference = 100 * float(np.mean(x[valid] - y[valid]))
    low, high = mean_test(x[valid], y[valid], paired=True)[1] or (0.0, 0.0)
    line = found["lines"][0][0]
    assert f"{difference:+.1f} points (95 % interval {100 * low:.1f} to {100 * high:.1f})" in line
    for (name, score, _, _), one in zip(found["arms"], (a, b), strict=True):
        values = [v for start in shared for v in one[start] if v == v]
        assert name in ("first", "second")
        assert score == f"{100 * np.mean(values):.1f} %"


def test_nothing_is_claimed_where_conditions_differ(runs: Path) -> None:
    progress = json.loads((runs / "second" / "progress.json").read_text())
    (runs / "second" / "progress.json").write_text(json.dumps(progress | {"max_steps": 7}))
    found = overview(views(runs / "first", runs / "second"))["common"]
    assert found["note"].startswith("Not comparable: these differ: max_steps (first ")
    assert "lines" not in found


def test_search_starts_compare_nothing(runs: Path) -> None:
    found = overview(views(runs / "first", runs / "stopped"))["common"]
    assert found["note"].startswith("The comparison comes when two of them have measured their best recipes on final")
    assert overview(views(runs / "first"))["common"] is None


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ticked_sweeps_are_shown_side_by_side(chrome: Browser, made: Path) -> None:
    checks = (Path(__file__).parent / "accessible.js").read_text(encoding="utf-8")
    clean = {"faint": [], "nameless": [], "skipped": []}
    names = "[...document.querySelectorAll('#table-index tbody tr th')].map(cell => cell.textContent)"
    page = chrome
    with serve.beside_index(made, 0) as url:
        page.open(url)
        page.wait(f"{names}.length === 6 && !document.body.textContent.includes('being read')")
        for dark in (False, True):
            page.dark(dark)
            assert page.js(checks) == clean
        page.size(360, 800)
        page.wait("document.documentElement.scrollWidth <= 360")
        page.size(1280, 900)
        page.click("#filter")
        page.type("sweep")
        page.wait(f"{names}.length === 3")
        page.click("#table-index button[data-key=name]")
        page.wait(f"{names}.join() === 'first,second,stopped'")
        assert page.js("location.search") == "?filter=sweep&sort=name"
        page.js("history.back()")
        page.wait("location.search === '?filter=sweep'")
        page.js("history.back()")
        page.wait(f"{names}.length === 6 && location.search === ''")
        page.js("history.go(2)")
        page.wait(f"{names}.join() === 'first,second,stopped'")
        for name in ("first", "second"):
            page.click(f"#table-index input[aria-label='Side by side: {name}']")
        page.wait("document.getElementById('compare').textContent === 'Side by side (2)'")
        page.call("Page.reload")
        page.wait("document.getElementById('compare')?.textContent === 'Side by side (2)'")  # the address has it
        page.js("document.getElementById('compare').click()")
        page.wait("location.pathname === '/several' && document.documentElement.dataset.ready")
        assert page.js("document.querySelectorAll('#table-runs tbody tr').length") == 2
        assert "points" in page.js("document.getElementById('common-lines').textContent")
        assert page.js(checks) == clean
        page.size(360, 800)
        page.wait("document.documentElement.scrollWidth <= 360")
        page.js("document.querySelector('#table-runs tbody a').click()")
        page.wait("location.pathname === '/runs/first/' && document.documentElement.dataset.ready")
        page.js("document.getElementById('all').click()")
        page.wait("location.pathname === '/' && document.documentElement.dataset.ready")
        assert page.errors == []
