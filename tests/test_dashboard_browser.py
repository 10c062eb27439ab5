"""Dashboard and report in a real browser: headless Chromium clicks through them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")
pytest.importorskip("websockets", reason="what drives the browser: pip install 'raybc[dev]'")

from benchmarks.run_folder import make_run
from raybc.dashboard.serve import beside
from raybc.files import run_folder_lock
from raybc.report.html import write_report
from raybc.rollout.video import encode
from tests.browser import Browser

pytestmark = pytest.mark.slow
READY = "document.documentElement.dataset.ready"
NUMBERS = "[...document.querySelectorAll('#table tbody tr')].map(row => Number(row.dataset.trial))"
PARAMS = {"lr": 2e-3, "horizon_length": 4, "hidden_width": 32, "weight_decay": 0.01, "ema_decay": 0.0}
#: What is hard to see or has no name: `faint`, `nameless` and `skipped` of tests/accessible.js.
CHECKS = (Path(__file__).parent / "accessible.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of 40 trials with three short videos that can be played."""
    folder = make_run(tmp_path_factory.mktemp("browser") / "run", 40, 4000)
    (folder / "videos").mkdir()
    entries = []
    for index, outcome in enumerate(("success", "success", "timeout")):
        frames = [np.full((64, 64, 3), 40 + 5 * k, np.uint8) for k in range(20)]
        encode(folder / "videos" / f"{index}.mp4", 20, frames)
        entry = {"file": f"videos/{index}.mp4", "trial": 8, "seed": 0, "split": "final", "index": index}
        entries.append(entry | {"outcome": outcome, "flow_steps": 4, "steps": 40})
    (folder / "videos.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[str]:
    with beside(run, 0) as url:
        yield url


@pytest.fixture
def page(chrome: Browser, served: str) -> Iterator[Browser]:
    """The dashboard, freshly opened; what it asks of others and what goes wrong in it fails the test."""
    chrome.open(served)
    chrome.wait(READY)
    yield chrome
    assert chrome.errors == []
    hosts = {urlsplit(url).netloc for url in chrome.requests if url.startswith("http")}
    assert hosts == {urlsplit(served).netloc}


def faults(browser: Browser) -> dict[str, list[str]]:
    found: dict[str, list[str]] = browser.js(CHECKS)
    return found


def test_sort_and_filter(page: Browser) -> None:
    first = page.js(NUMBERS)
    assert len(first) == 40
    page.click("#table button[data-key=lr]")
    rates = page.js("[...document.querySelectorAll('#table tbody tr')].map(row => Number(row.cells[3].textContent))")
    assert rates == sorted(rates)
    assert page.js("document.querySelector('#table th[aria-sort=ascending]').textContent").startswith("lr")
    page.js("document.querySelector('#table button[data-key=lr]').focus()")
    page.key("Enter")  # the keyboard does the same
    down = page.js("[...document.querySelectorAll('#table tbody tr')].map(row => Number(row.cells[3].textContent))")
    assert down == sorted(rates, reverse=True)
    page.click("#filter")
    page.type("hidden_width=64 lr<0.01")
    page.wait(f"{NUMBERS}.length < 40")
    shown = page.js(NUMBERS)
    kept = page.js(
        "fetch('/api/run').then(r => r.json()).then(d => d.trials.filter(t => t.params.hidden_width === 64 && "
        "t.params.lr < 0.01).map(t => t.n))"
    )
    assert sorted(shown) == sorted(kept)
    page.type(" nonsense>3")
    page.wait("document.querySelector('#filter').getAttribute('aria-invalid') === 'true'")
    assert 'No column "nonsense"' in page.js("document.querySelector('#filter-help').textContent")
    page.click("#clear")
    page.wait(f"{NUMBERS}.length === 40")
    page.click("#statuses input[value=pruned]")
    page.wait(f"{NUMBERS}.length < 40")
    assert not page.js("[...document.querySelectorAll('#table .badge')].some(b => b.textContent === 'pruned')")


def test_figures_follow_the_filter_and_ranges_the_table(page: Browser) -> None:
    page.js("document.querySelector('#curves').scrollIntoView({behavior: 'instant'})")
    page.wait("document.querySelector('#plot-curves .scatterlayer')")
    page.js("document.querySelector('#parallel').scrollIntoView({behavior: 'instant'})")
    page.wait("document.querySelector('#plot-parallel canvas, #plot-parallel .annotation')")
    if page.js("Boolean(document.querySelector('#plot-parallel canvas'))"):
        page.js(
            "(() => { const plot = document.querySelector('#plot-parallel');"
            "const i = plot.data[0].dimensions.findIndex(d => d.name === 'hidden_width');"
            "Plotly.restyle(plot, {[`dimensions[${i}].constraintrange`]: [[0.9, 1.1]]}) })()"
        )
        page.wait(f"{NUMBERS}.length < 40")
        column = page.js("[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[5].textContent)")
        assert set(column) == {"64"}
        page.click("#unbrush")
        page.wait(f"{NUMBERS}.length === 40")
    page.js("document.querySelector('#importance').scrollIntoView({behavior: 'instant'})")
    page.wait("document.querySelector('#plot-importance .barlayer')")
    assert "PED-ANOVA" in page.js("document.querySelector('#importance-note').textContent")


def test_open_a_trial_and_play_its_video(page: Browser) -> None:
    page.click("tr[data-trial='8'] td:nth-child(2)")
    page.wait("document.querySelector('dialog').open")
    assert page.js("document.querySelector('#trial-title').textContent").startswith("Trial 8")
    assert "raybc.train" in page.js("document.querySelector('dialog .command pre').textContent")
    page.wait("document.querySelector('dialog .curve .scatterlayer')")
    assert page.js("document.querySelectorAll('dialog video').length") == 3
    page.click("dialog input[name=trial-outcome][value=failure]")
    assert page.js("[...document.querySelectorAll('dialog .film figcaption .badge')].map(b => b.textContent)") == [
        "timeout"
    ]
    page.js("document.querySelector('dialog video').play()")
    page.wait("document.querySelector('dialog video').currentTime > 0.2")
    assert page.js("document.querySelector('dialog video').error") is None
    page.click("dialog tbody .small-button")
    assert page.js("document.querySelectorAll('dialog .squares .square').length") > 10
    assert faults(page) == {"faint": [], "nameless": [], "skipped": []}
    page.key("Escape")
    page.wait("!document.querySelector('dialog').open")
    assert page.js("document.activeElement.closest('tr')?.dataset.trial") == "8", "where one was before"


def test_the_filter_of_videos(page: Browser) -> None:
    count = "document.querySelectorAll('#video-grid video').length"
    page.wait(f"{count} === 3")
    page.click("#outcomes input[value=success]")
    page.wait(f"{count} === 2")
    page.click("#outcomes input[value=failure]")
    page.wait(f"{count} === 1")


def test_what_is_new_appears(page: Browser, run: Path) -> None:
    event = {"event": "start", "trial": 40, "params": PARAMS, "origin": "sampler"}
    before = (run / "ledger.jsonl").read_bytes()
    try:
        with run_folder_lock(run):
            with (run / "ledger.jsonl").open("a") as file:
                file.write(json.dumps(event) + "\n")
            page.wait("document.querySelector('tr[data-trial=\"40\"] .badge.running')")
        page.wait("document.querySelector('tr[data-trial=\"40\"] .badge.unfinished')")
    finally:
        (run / "ledger.jsonl").write_bytes(before)
    page.wait("!document.querySelector('tr[data-trial=\"40\"]')")


def test_text_of_a_run_is_only_text(page: Browser, run: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    before = (run / "ledger.jsonl").read_bytes()
    events = [
        {"event": "start", "trial": 40, "params": PARAMS, "origin": hostile},
        {"event": "failed", "trial": 40, "reason": hostile},
    ]
    try:
        with (run / "ledger.jsonl").open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)
        page.wait("document.querySelector('tr[data-trial=\"40\"] .badge.failed')")
        page.js("document.querySelector('tr[data-trial=\"40\"] .link').click()")
        page.wait("document.querySelector('dialog').open")
        assert hostile in page.js("document.querySelector('dialog').textContent")
        assert page.js("document.querySelectorAll('img:not(.strip)').length") == 0
    finally:
        page.js("document.querySelector('dialog').close()")
        (run / "ledger.jsonl").write_bytes(before)


@pytest.mark.parametrize("dark", [False, True])
def test_the_dashboard_can_be_read_by_all(page: Browser, dark: bool) -> None:
    page.dark(dark)
    assert faults(page) == {"faint": [], "nameless": [], "skipped": []}
    page.size(360, 800)
    page.wait("document.documentElement.scrollWidth <= 360")  # a narrow screen scrolls down only


@pytest.mark.parametrize("dark", [False, True])
def test_the_report_is_a_document_to_send(chrome: Browser, run: Path, tmp_path: Path, dark: bool) -> None:
    sent = tmp_path / "sent.html"
    write_report(run).rename(sent)  # alone, far from the run folder
    chrome.dark(dark)
    chrome.open(sent.as_uri())
    chrome.js("document.querySelector('#curves').scrollIntoView({behavior: 'instant'})")
    chrome.wait("document.querySelector('.plot .scatterlayer')")
    assert {urlsplit(url).scheme for url in chrome.requests} <= {"file", "data", "blob"}
    chrome.js("document.querySelector('video').play()")
    chrome.wait("document.querySelector('video').currentTime > 0.2")
    assert faults(chrome) == {"faint": [], "nameless": [], "skipped": []}
    chrome.size(360, 800)
    chrome.wait("document.documentElement.scrollWidth <= 360")
    chrome.size(1280, 900)
    drawn = "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))"
    chrome.js(f"addEventListener('beforeprint', () => {{ window.drawnOnPaper = {drawn}; }})")  # after the page's own
    chrome.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert chrome.js("window.drawnOnPaper"), "on paper every figure is drawn"
    paper = "document.querySelectorAll('#videos .strip').length === document.querySelectorAll('video').length"
    assert chrome.js(paper), "films are strips on paper"
    assert chrome.errors == []
