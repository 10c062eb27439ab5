"""Films and squares in a real browser: the pointer, the keyboard, and an episode that opens from its square."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")
pytest.importorskip("websockets", reason="what drives the browser: pip install 'raybc[dev]'")

from benchmarks.run_folder import make_run
from raybc.dashboard.serve import beside
from raybc.report.html import write_report
from raybc.rollout.video import encode
from tests.browser import Browser

pytestmark = pytest.mark.slow
CHECKS = (Path(__file__).parent / "accessible.js").read_text(encoding="utf-8")
FILM = "document.querySelector('#videos .film video')"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with the film of final start 0 of its winner."""
    folder = make_run(tmp_path_factory.mktemp("films") / "run", 20, 2000)
    trial = json.loads((folder / "winner.json").read_text())["trial"]
    (folder / "videos").mkdir()
    encode(folder / "videos/a.mp4", 10, [np.full((64, 64, 3), 40 + 9 * k, np.uint8) for k in range(20)], shown=10)
    entry = {"file": "videos/a.mp4", "trial": trial, "seed": 0, "split": "final", "index": 0, "outcome": "success"}
    settings = [{"flow_steps": n, "execute_steps": 0, "eval_temperature": 0.0, "solver": "euler"} for n in (1, 4)]
    entries = [entry | setting | {"temporal_ensemble": -1.0, "steps": 40} for setting in settings]
    (folder / "videos.json").write_text(json.dumps(entries))
    write_report(folder)
    return folder


def check(browser: Browser) -> None:
    assert browser.js(CHECKS) == {"faint": [], "nameless": [], "skipped": []}
    assert browser.errors == []


def test_squares_and_films_of_the_report(chrome: Browser, run: Path) -> None:
    trial = json.loads((run / "winner.json").read_text())["trial"]
    chrome.open((run / "report.html").as_uri())
    chrome.wait("document.documentElement.dataset.episodes")
    link = f"a[href='#episodes-{trial}-failure']"
    chrome.click(link)
    chrome.wait("document.querySelector('.matrix .dim')")
    bright = chrome.js("[...document.querySelectorAll('.matrix td:not(.dim) button')].map(b => b.className)")
    wanted = chrome.js(f'document.querySelector("{link}").textContent')
    assert set(bright) <= {"square failure", "square failure filmed"}
    assert wanted == f"{len(bright)} failure{'s' * (len(bright) != 1)}"
    chrome.js("document.querySelector('.matrix td:not(.dim) button').focus()")
    chrome.key("Enter")
    chrome.wait("document.querySelector('dialog.episode').open")
    assert "failure" in chrome.js("document.querySelector('#episode-title').textContent")
    assert "ended by the environment" in chrome.js("document.querySelector('dialog dl').textContent")
    check(chrome)
    chrome.key("Escape")
    chrome.wait("!document.querySelector('dialog.episode').open")
    assert chrome.js("document.activeElement.className").startswith("square failure"), "the focus is back"
    chrome.click(".states .mark")
    chrome.wait("document.querySelector('dialog.episode').open")
    chrome.key("Escape")
    # A film under the pointer, and by its keys.
    chrome.js(f"{FILM}.scrollIntoView({{behavior: 'instant', block: 'center'}})")
    box = chrome.js(f"(() => {{ const r = {FILM}.getBoundingClientRect(); return [r.x + 30, r.y + 30] }})()")
    chrome.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    chrome.wait(f"{FILM}.currentTime > 0.2 && !{FILM}.paused")
    assert chrome.js(f"{FILM}.loop") is True
    chrome.call("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    chrome.wait(f"{FILM}.paused && {FILM}.currentTime > 1.9")  # it rests at the outcome
    press = (
        "((key) => document.querySelector('#videos .film video')"
        ".dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true})))"
    )
    for key, moved in (("Home", 0.0), ("ArrowRight", 0.5), (".", 0.6), (",", 0.5), ("ArrowLeft", 0.0)):
        assert chrome.js(f"{press}('{key}')") is False, "the browser's own key is not followed as well"
        assert chrome.js(f"{FILM}.currentTime") == pytest.approx(moved, abs=0.02), key
    chrome.js(f"{press}('<')")
    assert chrome.js(f"{FILM}.playbackRate") == 0.5
    assert chrome.js("document.querySelector('.film-bar select').value") == "0.5"
    chrome.js(f"{press}(' ')")
    chrome.wait(f"!{FILM}.paused")
    chrome.js(f"{press}(' ')")
    assert chrome.js(f"{FILM}.paused")
    check(chrome)


def test_a_square_of_the_dashboard_opens_its_episode_and_its_film(chrome: Browser, run: Path) -> None:
    trial = json.loads((run / "winner.json").read_text())["trial"]
    with beside(run, 0) as url:
        chrome.open(url)
        chrome.wait("document.querySelector('#starts-matrix .matrix')")
        chrome.click("#starts-matrix button.filmed")
        chrome.wait("document.querySelector('dialog.episode video')")
        assert "The film shows another end" in chrome.js("document.querySelector('dialog.episode').textContent")
        chrome.wait("document.querySelector('dialog.episode .strip').naturalWidth > 200")
        check(chrome)
        chrome.js("document.querySelector('dialog.episode .close').click()")
        chrome.js(f"location.hash = '#trial-{trial}-timeout'")
        chrome.wait("document.querySelector('dialog#trial .matrix .dim')")
        chrome.click("dialog#trial .matrix td:not(.dim) button")
        chrome.wait("document.querySelector('dialog.episode').open")
        assert "timeout" in chrome.js("document.querySelector('#episode-title').textContent")
        assert "not kept" in chrome.js("document.querySelector('dialog.episode').textContent"), "made-up policies"
        check(chrome)
        chrome.js("document.querySelector('dialog.episode .close').click()")
        chrome.js("document.querySelector('dialog#trial .close').click()")
