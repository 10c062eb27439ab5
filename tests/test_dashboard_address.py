"""What is looked at is in the address, tables of any length, and what panels say before there is anything."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")
pytest.importorskip("websockets", reason="what drives the browser: pip install 'raybc[dev]'")

from benchmarks.run_folder import make_config, make_run
from raybc.dashboard.serve import beside
from raybc.files import run_folder_lock
from tests.browser import Browser

pytestmark = pytest.mark.slow
READY = "document.documentElement.dataset.ready"
NUMBERS = "[...document.querySelectorAll('#table tbody tr[data-trial]')].map(row => Number(row.dataset.trial))"
CHECKS = (Path(__file__).parent / "accessible.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sweep of 300 trials."""
    with beside(make_run(tmp_path_factory.mktemp("address") / "run", 300, 6000), 0) as url:
        yield url


@pytest.fixture
def page(chrome: Browser) -> Iterator[Browser]:
    yield chrome
    assert chrome.errors == []


def test_a_link_restores_the_view_and_back_goes_back(page: Browser, served: str) -> None:
    query = "?filter=hidden_width%3D64&hide=pruned&sort=-lr&range=hidden_width:0.9..1.1"
    page.open(f"{served}{query}#trial-8")
    page.wait("document.querySelector('dialog').open")
    shown = page.js(NUMBERS)
    assert page.js("document.querySelector('#filter').value") == "hidden_width=64"
    assert page.js("document.querySelector('#table th[aria-sort=descending]').textContent").startswith("lr")
    assert not page.js("document.querySelector('#statuses input[value=pruned]').checked")
    assert not page.js("document.querySelector('#unbrush').hidden")
    assert page.js("[...document.querySelectorAll('#table tbody tr')].map(r => r.cells[5].textContent)") == [
        "64"
    ] * len(shown)
    assert 0 < len(shown) < 100
    page.key("Escape")
    page.wait("!document.querySelector('dialog').open && location.hash === ''")
    assert "filter=hidden_width" in page.js("location.search"), "closing a trial keeps the view"
    page.click("#clear")
    page.wait("location.search === '?sort=-lr'")
    page.js("history.back()")
    page.wait(f"{NUMBERS}.join() === {json.dumps(','.join(map(str, shown)))}")
    page.click(f"tr[data-trial='{shown[0]}'] td:nth-child(2)")
    page.wait("document.querySelector('dialog').open")
    page.js("history.back()")
    page.wait("!document.querySelector('dialog').open")
    assert page.js(NUMBERS) == shown
    page.js("history.forward()")
    page.wait("document.querySelector('dialog').open")
    page.js("document.querySelector('dialog .close').click()")
    page.wait("!document.querySelector('dialog').open")


def test_axes_and_sample_setting_are_in_the_address(page: Browser, served: str) -> None:
    page.open(f"{served}?pair=weight_decay,lr&setting=flow_steps%3D1#trial-8")
    page.wait("document.querySelector('dialog').open")
    rows = "[...document.querySelectorAll('[aria-label=Measurements] tbody tr')]"
    settings = f"[...new Set({rows}.map(row => row.cells[3].textContent))]"
    choice = "document.querySelector('dialog .choice select')"
    assert page.js(settings) == ["flow_steps=1"]
    page.js(f"{choice}.value = 'all'; {choice}.dispatchEvent(new Event('change'))")
    assert sorted(page.js(settings)) == ["flow_steps=1", "flow_steps=4"]
    assert page.js("new URLSearchParams(location.search).get('setting')") == "all"
    page.js("history.back()")
    page.wait(f"{settings}.join() === 'flow_steps=1'")
    page.key("Escape")
    page.wait("!document.querySelector('dialog').open && location.hash === ''")
    page.js("document.querySelector('#pair-figure').scrollIntoView({behavior: 'instant'})")
    page.wait("document.querySelector('#plot-pair .main-svg')")
    shown = "[...document.querySelectorAll('#pair-figure select')].map(select => select.value).join()"
    assert page.js(shown) == "weight_decay,lr"
    page.js("document.getElementById('pair-x').value = 'lr'")
    page.js("document.getElementById('pair-x').dispatchEvent(new Event('change'))")
    page.wait("location.search.includes('pair=lr,weight_decay')")  # the axes change places
    page.js("history.back()")
    page.wait(f"{shown} === 'weight_decay,lr'")
    page.js("document.querySelector('#course').scrollIntoView({behavior: 'instant'})")
    drawn = "['trials', 'hours', 'timeline'].every(name => document.querySelector(`#plot-${name} .main-svg`))"
    page.wait(drawn)
    assert page.js("document.getElementById('timeline-note').textContent").startswith("When trials ran, by slot")


def test_of_a_long_table_only_some_rows_are_in_the_page(page: Browser, served: str) -> None:
    page.open(f"{served}?sort=trial")
    page.wait(READY)
    page.wait(f"{NUMBERS}[0] === 0")
    assert page.js(f"{NUMBERS}.length") < 60
    assert page.js("document.querySelector('#table').getAttribute('aria-rowcount')") == "301"
    whole = page.js("document.querySelector('#rows').scrollHeight")
    page.js("document.querySelector('#rows').scrollTop = 1e9")
    page.wait(f"{NUMBERS}.at(-1) === 299")
    assert page.js("document.querySelector('#rows').scrollHeight") == pytest.approx(whole, rel=0.02), "nothing jumps"
    assert page.js("document.querySelector('tr[data-trial=\"299\"]').getAttribute('aria-rowindex')") == "301"
    page.js("document.querySelector('tr[data-trial=\"299\"] .link').focus()")
    page.key("Home")
    page.wait("document.activeElement.closest('tr')?.dataset.trial === '0'")  # arrows and the like go through all rows
    for _ in range(20):
        page.key("ArrowDown")
    page.wait("document.activeElement.closest('tr')?.dataset.trial === '20'")
    box = "document.activeElement.getBoundingClientRect()"
    frame = "document.querySelector('#rows').getBoundingClientRect()"
    assert page.js(f"{box}.top >= {frame}.top && {box}.bottom <= {frame}.bottom"), "the focus is seen"
    assert page.js("document.querySelector('#rows').clientWidth <= document.documentElement.clientWidth")


def test_panels_say_what_will_appear_and_when(page: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    text = "document.getElementById('empty-{}').textContent"
    with beside(folder, 0) as url, contextlib.ExitStack() as working:
        page.open(url)
        page.wait(READY)
        assert page.js(text.format("curves")).startswith("No sweep in this folder yet")
        working.enter_context(run_folder_lock(folder))
        config = make_config(6, 10)
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        start = {"event": "start", "trial": 0, "params": {"lr": 1e-3}, "origin": "defaults"}
        (folder / "ledger.jsonl").write_text(json.dumps(start) + "\n")
        step = config.evaluation_step(1)
        page.wait(f"{text.format('curves')} === 'No evaluation yet: the first comes after step {step} of trial 0.'")
        assert page.js(text.format("rollouts")).startswith("No rollout yet: episodes per second")
        assert page.js(text.format("videos")).startswith("No videos yet: ")
        assert page.js(text.format("course")).startswith("Not yet: the timeline appears with the first evaluation")
        assert page.js(text.format("pair")).startswith("Two axes at once appear when")
        working.close()  # as if it had been killed
        page.wait("document.getElementById('state').textContent === 'stopped'")
        assert page.js(text.format("curves")) == "The sweep was stopped before its first evaluation."
        assert page.js("document.querySelector('#stopped pre').textContent") == f"raybc sweep --resume --out {folder}"
        assert page.js("document.querySelector('#table .badge').textContent") == "unfinished"
        page.js("document.querySelector('#importance').scrollIntoView()")
        page.wait("document.querySelector('#importance-note').textContent.startsWith('No importance yet')")
        assert page.js(CHECKS) == {"faint": [], "nameless": [], "skipped": []}
        page.size(360, 800)
        page.wait("document.documentElement.scrollWidth <= 360")
        make_run(tmp_path / "made", 6, 300)
        (folder / "ledger.jsonl").write_bytes((tmp_path / "made" / "ledger.jsonl").read_bytes())
        page.wait("document.getElementById('empty-curves').hidden && !document.getElementById('rollouts-pair').hidden")
