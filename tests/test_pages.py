"""Report and dashboard on screens of every width, light and dark: none scrolls sideways, and axe finds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")
pytest.importorskip("websockets", reason="what drives the browser: pip install 'raybc[dev]'")

from benchmarks.run_folder import make_run
from raybc.dashboard.serve import beside
from raybc.report.html import write_report
from raybc.types import SampleSetting
from tests.browser import Browser

pytestmark = pytest.mark.slow
AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (390, 768, 1024, 1400)
SETTINGS = [SampleSetting(flow_steps, execute_steps=n) for flow_steps in (1, 4, 10) for n in (2, 4, 8)]
DRAWN = "[...document.querySelectorAll('.plot')].every(plot => plot.hidden || plot.querySelector('.main-svg'))"
READY = {"report": "document.querySelector('.plot')", "dashboard": "document.documentElement.dataset.ready"}


def make_pages(folder: Path) -> Path:
    """A sweep with eight axes, two of sample settings, and its report."""
    write_report(make_run(folder, 36, 8000, SETTINGS, more=3))
    return folder


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = make_pages(tmp_path_factory.mktemp("pages") / "run")
    with beside(folder, 0) as url:
        yield {"report": (folder / "report.html").as_uri(), "dashboard": url}


def show(browser: Browser, page: str, url: str, width: int, dark: bool) -> None:
    """Open a page with every figure drawn."""
    browser.dark(dark)
    browser.size(width, 900)
    browser.open("about:blank")
    browser.open(url)
    browser.wait(READY[page])
    browser.size(width, browser.js("document.documentElement.scrollHeight"))  # all of it is looked at
    browser.wait(DRAWN, 120)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen(chrome: Browser, urls: dict[str, str], width: int, dark: bool) -> None:
    show(chrome, "report", urls["report"], width, dark)
    assert chrome.js("document.documentElement.scrollWidth") == width
    seen = chrome.js(
        "(() => { const table = document.querySelector('.scroller.full .scroll');"
        "const box = table.getBoundingClientRect();"
        "const axes = [...table.querySelectorAll('thead th')].slice(3, 11).map(th => th.getBoundingClientRect().right);"
        "return axes.filter(right => right <= box.right + 1).length })()"
    )
    assert seen == 8 or width < 1400, "all axes of the leaderboard are seen on a wide screen"
    if width < 1400:
        first = "document.querySelector('.scroller.full tbody th').getBoundingClientRect().x"
        place = chrome.js(first)
        assert chrome.js("document.querySelector('.scroller.full').classList.contains('more')")
        chrome.js("document.querySelector('.scroller.full .scroll').scrollLeft = 120")
        chrome.wait("document.querySelector('.scroller.full').classList.contains('moved')")
        assert chrome.js(first) == place, "the first column stays"


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: npm ci")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("page", ["report", "dashboard"])
def test_axe_finds_nothing(chrome: Browser, urls: dict[str, str], page: str, dark: bool) -> None:
    for width in (1280, 390):
        show(chrome, page, urls[page], width, dark)
        assert axe(chrome) == [], width


def axe(browser: Browser) -> list[str]:
    """What axe-core finds on the page that is open."""
    browser.js(AXE.read_text(encoding="utf-8") + "; true")
    found: list[str] = browser.js(
        "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.flatMap(one => "
        "one.nodes.slice(0, 3).map(node => `${one.id}: ${node.html.slice(0, 160)} ${node.failureSummary}`)))"
    )
    return found
