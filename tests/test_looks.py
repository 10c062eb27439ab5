"""Pages look as they did when their images were stored (`python -m tests.looks --update` stores them)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")
pytest.importorskip("websockets", reason="what drives the browser: pip install 'raybc[dev]'")
pytest.importorskip("PIL", reason="images: pip install 'raybc[dev]'")

from tests import looks
from tests.browser import Browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with looks.serving(tmp_path_factory.mktemp("looks")) as found:
        yield found


@pytest.mark.parametrize(("page", "width", "dark"), looks.CASES)
def test_pages_look_as_before(chrome: Browser, urls: dict[str, str], page: str, width: int, dark: bool) -> None:
    looks.show(chrome, urls[page], width, dark)
    assert looks.differences(looks.look(chrome), looks.stored(looks.name_of(page, width, dark))) == []


def test_what_is_lost_is_seen_and_another_font_is_not(chrome: Browser, urls: dict[str, str]) -> None:
    looks.show(chrome, urls["report"], 1400, False)
    before = looks.look(chrome)
    chrome.js("document.body.style.fontFamily = 'DejaVu Serif, serif'")
    assert looks.differences(looks.look(chrome), before) == []
    chrome.js("document.body.style.fontFamily = ''")
    chrome.js("document.querySelector('.plot[data-figure=timeline]').replaceChildren()")
    lost = looks.differences(looks.look(chrome), before)
    assert len(lost) == 1
    assert "timeline" in lost[0]
    chrome.js("document.querySelector('.scroller.full').className = 'scroller'")
    assert any("scroller" in one for one in looks.differences(looks.look(chrome), before))


def test_the_stored_images_are_small() -> None:
    assert sum(path.stat().st_size for path in looks.STORED.iterdir()) < 400_000
