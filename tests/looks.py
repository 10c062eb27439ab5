"""What pages look like, as small grey images of their parts, and how far two of them are from each other.

    python -m tests.looks --update     # store how pages look now; look at them before they are committed

A part is a figure, a table, the header and the like. Its place on the page is compared, and where its ink is, so that
another font or a line more passes, while a figure that is lost or a table that is cut does not. The stored images are
in tests/golden_looks/, one for each page, width and theme.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.run_folder import make_run
from raybc.dashboard.serve import beside_index
from raybc.report.html import write_report
from raybc.types import SampleSetting
from tests.browser import Browser, find_chromium

STORED = Path(__file__).parent / "golden_looks"
GOLDEN = Path(__file__).parent / "golden" / "v0.1.0"
#: Pages with a stored image: name, width in pixels, dark theme.
CASES = [
    *((page, width, dark) for page in ("report", "dashboard") for width, dark in ((1400, False), (390, True))),
    *((page, 1024, False) for page in ("stopped", "evaluation", "training", "index")),
]
#: Width of the image of a part, in cells.
CELLS = 40
#: Parts of a page: those that are seen and lie in no other part.
PARTS = "header, .headline, .scroller, .scroll, figure.chart, .tiles, #starts-ends, #episodes-ends"
#: Parallel coordinates need WebGL, which draws differently on every machine.
LEFT_OUT = "#parallel figure"
#: Differences that pass: of place and size, as a part of the width of the page and of the part's height; of the ink.
PLACE, HEIGHT, INK = 0.03, 0.3, 0.5
READY = (
    "document.documentElement.dataset.ready ?? (document.querySelector('.plot[data-figure]') || "
    "document.readyState === 'complete' && !document.scripts.length)"
)
DRAWN = (
    "[...document.querySelectorAll('.plot')].every(plot => plot.hidden || plot.closest('[hidden]') || "
    "plot.querySelector('.main-svg')) && !document.body.textContent.includes('being read')"
)


@dataclass(frozen=True)
class Part:
    """A part of a page."""

    name: str
    left: float
    """Of the width of the page, as `width`."""
    width: float
    height: float
    """In pixels."""
    image: np.ndarray
    """uint8, (rows, `CELLS`)."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[dict[str, str]]:
    """Page -> its address: of a made-up sweep with eight axes, and of run folders of release 0.1.0."""
    settings = [SampleSetting(flow_steps, execute_steps=n) for flow_steps in (1, 4, 10) for n in (2, 4, 8)]
    write_report(make_run(folder / "runs" / "wide", 36, 8000, settings, more=3))
    for name in ("sweep", "train", "rollout"):
        shutil.copytree(GOLDEN / name, folder / "runs" / name)
    with contextlib.chdir(folder), beside_index(folder / "runs", 0) as url:  # paths on pages are short and the same
        yield {
            "report": (folder / "runs" / "wide" / "report.html").as_uri(),
            "dashboard": f"{url}runs/wide/",
            "stopped": f"{url}runs/sweep/",
            "evaluation": f"{url}runs/rollout/",
            "training": f"{url}runs/train/",
            "several": f"{url}several?run=wide&run=sweep",
            "index": f"{url}?sort=name",  # not by time: copies are as old as the checkout
        }


def show(browser: Browser, url: str, width: int, dark: bool) -> None:
    """Open a page with every figure drawn."""
    browser.dark(dark)
    browser.size(width, 900)
    browser.open("about:blank")
    browser.open(url)
    browser.wait(READY, 60)
    browser.size(width, browser.js("document.documentElement.scrollHeight"))  # all of it is looked at
    browser.wait(DRAWN, 120)


def look(browser: Browser) -> list[Part]:
    """The parts of the page that is open, which has been drawn to its end (`show`)."""
    boxes = browser.js(
        f"""(() => [...document.querySelectorAll({PARTS!r})]
          .filter(e => !e.parentElement.closest({PARTS!r}) && !e.matches({LEFT_OUT!r}))
          .map(e => [e, e.getBoundingClientRect()])
          .filter(([, box]) => box.width > 20 && box.height > 20)
          .map(([e, box], i) => {{
            const plot = e.querySelector('.plot');
            const name = plot?.dataset.figure ?? (plot?.id || e.id);
            return [[i, name, e.tagName.toLowerCase(), e.className].join(' '),
                    box.x, box.y + scrollY, box.width, box.height, innerWidth];
          }}))()"""
    )
    height = browser.js("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": boxes[0][-1], "height": height, "scale": 1}
    data = browser.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
    page = Image.open(io.BytesIO(base64.b64decode(data))).convert("L")
    parts = []
    for name, x, y, width, high, whole in boxes:
        rows = max(4, round(CELLS * high / width))
        box = (max(0, x), max(0, y), min(whole, x + width), min(page.height, y + high))
        small = page.resize((CELLS, rows), Image.Resampling.BOX, box)
        parts.append(Part(name, x / whole, width / whole, high, np.asarray(small)))
    return parts


def differences(now: list[Part], before: list[Part]) -> list[str]:
    """What is different between two looks of a page; empty where a person would call them the same."""
    found = []
    if [part.name for part in now] != [part.name for part in before]:
        return [f"parts: {[part.name for part in now]} instead of {[part.name for part in before]}"]
    for here, there in zip(now, before, strict=True):
        if abs(here.left - there.left) > PLACE or abs(here.width - there.width) > PLACE:
            found.append(f"{here.name}: from {here.left:.2f}, {here.width:.2f} wide instead of {there.width:.2f}")
        if abs(here.height - there.height) > HEIGHT * there.height + 20:
            found.append(f"{here.name}: {here.height:.0f} pixels high instead of {there.height:.0f}")
        elif (far := distance(here.image, there.image)) > INK:
            found.append(f"{here.name}: its ink differs by {far:.2f}")
    return found


def distance(now: np.ndarray, before: np.ndarray) -> float:
    """The difference of two grey images as a part of the ink of `before` (what is not its background)."""
    size = (before.shape[1], before.shape[0])
    a, b = (
        np.asarray(Image.fromarray(image).resize(size).filter(ImageFilter.BoxBlur(2)), np.float64)
        for image in (now, before)
    )
    ink = np.abs(b - np.median(b)).mean()
    return float(np.abs(a - b).mean() / max(ink, 0.5))


def name_of(page: str, width: int, dark: bool) -> str:
    return f"{page}-{width}-{'dark' if dark else 'light'}"


def stored(name: str) -> list[Part]:
    """The parts of a stored page."""
    about: list[list[Any]] = json.loads((STORED / "parts.json").read_text())[name]
    image = np.asarray(Image.open(STORED / f"{name}.png"))
    ends = np.cumsum([rows for *_, rows in about])
    parts = np.split(image, ends[:-1])
    return [Part(part, *place, own) for (part, *place, _), own in zip(about, parts, strict=True)]


def update() -> None:
    """Store how the pages look now."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit("expected chromium on this machine (or set RAYBC_CHROMIUM)")
    STORED.mkdir(exist_ok=True)
    found = {}
    with tempfile.TemporaryDirectory() as where, serving(Path(where)) as urls, Browser.start(chromium) as browser:
        for page, width, dark in CASES:
            show(browser, urls[page], width, dark)
            parts, name = look(browser), name_of(page, width, dark)
            Image.fromarray(np.vstack([part.image for part in parts])).save(STORED / f"{name}.png", optimize=True)
            found[name] = [
                [p.name, round(p.left, 4), round(p.width, 4), round(p.height), len(p.image)] for p in parts
            ]  # fmt: skip
    lines = [f"{json.dumps(name)}: {json.dumps(parts)}" for name, parts in found.items()]
    (STORED / "parts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    size = sum(path.stat().st_size for path in STORED.iterdir())
    print(f"{STORED}: {len(found)} pages, {size / 1000:.0f} KB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How pages look, as small stored images")
    parser.add_argument("--update", action="store_true", required=True, help="store how they look now")
    parser.parse_args()
    update()
