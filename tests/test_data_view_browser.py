"""The page of `raybc data view` in a real browser: it is used with mouse and keyboard, seen small, dark and printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("websockets", reason="what drives the browser: pip install 'raybc[dev]'")

from raybc.data import store
from raybc.data.__main__ import main
from raybc.data.plan.files import save_plan
from tests.browser import Browser, find_chromium
from tests.helpers import tiny_store
from tests.plans import tiny_plan
from tests.test_data_view import images_of

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium, or set RAYBC_CHROMIUM"),
]
CHECKS = (Path(__file__).parent / "accessible.js").read_text(encoding="utf-8")
LENGTHS = (20, 31, 12, 25)
TRACES = "document.querySelector('#plot-curves').data"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("view")
    arm = tiny_store(LENGTHS).obs["arm"].copy()
    arm[:, 1] = 0.5
    obs = {"arm": arm, "a_camera_with_a_very_long_name_that_has_no_spaces": images_of(LENGTHS, (24, 32, 3))}
    data = tiny_store(
        LENGTHS, obs=obs, success_E=np.array([True, False, True, True]), splits={"train": [0, 1, 2], "valid": [3]},
        tasks=("pick up the cube and put it " * 8,) * 4,
    )  # fmt: skip
    store.write_store(folder / "data", data)
    save_plan(tiny_plan(LENGTHS), folder / "plan")
    assert main(["view", str(folder / "data"), "--out", str(folder / "a.html"), "--plan", str(folder / "plan")]) == 0
    assert CHROMIUM is not None
    with Browser.start(CHROMIUM) as browser:
        browser.open((folder / "a.html").as_uri())
        yield browser
        assert browser.errors == []
        assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def see_curves(page: Browser) -> None:
    page.js("document.querySelector('#curves').scrollIntoView({behavior: 'instant'})")
    page.wait("document.querySelector('#plot-curves .scatterlayer')")


def choose(page: Browser, list_id: str, place: int) -> None:
    page.js(
        f"(() => {{ const list = document.querySelector('#{list_id}'); list.selectedIndex = {place};"
        "list.dispatchEvent(new Event('change')); })()"
    )
    drawn(page)


def drawn(page: Browser) -> None:
    """Wait for the frame in which a figure that has changed is drawn."""
    page.js("new Promise(done => requestAnimationFrame(() => setTimeout(() => requestAnimationFrame(done), 50)))")


def test_episodes_and_dimensions_are_chosen(page: Browser) -> None:
    see_curves(page)
    assert page.js(f"[{TRACES}.length, {TRACES}[0].y.length]") == [2, 20]
    choose(page, "curve-key", 1)
    assert page.js(f"{TRACES}.map(t => t.name)") == ["[0]", "[1]", "[2]"]
    assert page.js(f"new Set({TRACES}[1].y).size") == 1
    page.click("#curve-next")
    drawn(page)
    assert page.js(f"{TRACES}[0].y.length") == 31
    assert "episode 1, 31 steps, no success" in page.js("document.querySelector('#curve-caption').textContent")
    page.js("document.querySelector('#curve-next').focus()")
    page.key("Enter")  # the keyboard does the same
    drawn(page)
    assert page.js(f"{TRACES}[0].y.length") == 12
    assert page.js("document.querySelector('#curve-dimension-label').hidden")
    choose(page, "curve-episode", 0)
    assert page.js(f"{TRACES}.map(t => t.y.length)") == list(LENGTHS)
    assert page.js(f"new Set({TRACES}.map(t => t.line.color)).size") == 2
    choose(page, "curve-dimension", 1)
    assert page.js(f"{TRACES}.every(t => t.y.every(y => y === 0.5))")
    assert page.js("document.querySelector('#curve-previous').disabled")
    label = page.js("document.querySelector('#plot-curves').getAttribute('aria-label')")
    assert label.startswith("Line chart: arm[1] of 4 episodes; green: success")


def test_it_is_seen_by_everyone(page: Browser, tmp_path: Path) -> None:
    """Names, contrast, order of headings; small screens; paper."""
    for width, dark in ((1400, False), (768, True), (390, False)):
        page.size(width, 900)
        page.dark(dark)
        see_curves(page)
        assert page.js(CHECKS) == {"faint": [], "nameless": [], "skipped": []}
        page.wait(f"document.documentElement.scrollWidth <= {width}")  # figures follow a little later
    assert page.js("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
    page.pdf(tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").stat().st_size > 10_000
