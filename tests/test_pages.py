"""Every page on screens of every width, light and dark: none scrolls sideways, and axe finds nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")
pytest.importorskip("websockets", reason="what drives the browser: pip install 'raybc[dev]'")

from raybc.dashboard.serve import beside_index
from tests import looks
from tests.browser import AXE, Browser, axe
from tests.looks import show
from tests.test_dashboard_index import make_comparison

pytestmark = pytest.mark.slow
WIDTHS = (390, 768, 1024, 1400)
PAGES = ("report", "dashboard", "stopped", "evaluation", "training", "comparison", "index", "several")


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    runs = tmp_path_factory.mktemp("compared")
    make_comparison(runs)
    with looks.serving(tmp_path_factory.mktemp("pages")) as found, beside_index(runs, 0) as url:
        yield found | {"comparison": f"{url}runs/compared/"}


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_leaderboard_uses_the_width(chrome: Browser, urls: dict[str, str], width: int, dark: bool) -> None:
    show(chrome, urls["report"], width, dark)
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


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_screen(chrome: Browser, urls: dict[str, str], page: str, width: int) -> None:
    show(chrome, urls[page], width, False)
    assert chrome.js("document.documentElement.scrollWidth") == width


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: npm ci")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_nothing(chrome: Browser, urls: dict[str, str], page: str, dark: bool) -> None:
    for width in (1280, 390):
        show(chrome, urls[page], width, dark)
        assert axe(chrome) == [], width
