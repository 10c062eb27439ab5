"""How fast the dashboard and the report of a large sweep open, and what memory they take.

    python -m benchmarks.pages [--trials 2000] [--episodes 200000] [--rounds 3] [--run FOLDER]

A made-up run folder (benchmarks/run_folder.py) is opened in headless Chromium. *Server*: from the start of `python -m
raybc.dashboard` until it answers. *Readable*: from the navigation until the dashboard's table is there, or the report's
text is painted. *Drawn*: until the learning curves are drawn. *New trial*: from its line in the ledger until the page
counts it, which asks every two seconds. *Frames*: of the table, scrolled by 400 pixels each. Memory: the peak resident
set of the server, and the proportional set of the page's renderer process after everything on the page was scrolled
through. CPU: what all processes of the browser, and the server, used from the navigation on. *Bare*: a page with Plotly
and a figure of three points, for comparison, since seconds depend on what else the machine does; *busy*: how much
longer than its CPU time a loop takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from plotly.offline import get_plotlyjs

from benchmarks.run_folder import make_run
from raybc.report.html import write_report
from tests.browser import Browser, find_chromium

SCROLL = """(async () => { for (let y = 0; y < document.documentElement.scrollHeight; y += 400) {
    scrollTo({top: y, behavior: 'instant'}); await new Promise((done) => setTimeout(done, 60)); } })()"""


@contextlib.contextmanager
def dashboard(run: Path) -> Iterator[tuple[str, float, psutil.Process]]:
    """The address of a dashboard on `run`, the seconds until it answered, and its process."""
    began = time.perf_counter()
    command = [sys.executable, "-u", "-m", "raybc.dashboard", str(run), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, "the dashboard did not start"
        yield found.group(), time.perf_counter() - began, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def renderer(browser: Browser) -> psutil.Process:
    """The page's own process: of all renderers the largest."""
    found = psutil.Process(browser.pid).children(recursive=True)
    return max((p for p in found if "--type=renderer" in p.cmdline()), key=lambda p: p.memory_info().rss)


def peak_mb(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found.group(1)) / 1024


def cpu_seconds(browser: Browser, server: psutil.Process | None) -> float:
    first = psutil.Process(browser.pid)
    own = [first, *first.children(recursive=True), *([server] if server else [])]
    return sum(sum(p.cpu_times()[:2]) for p in own)


READABLE = """Number(document.documentElement.dataset.ready
    ?? performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN)"""


def open_page(chromium: str, url: str, drawn: str, server: psutil.Process | None = None) -> dict[str, float]:
    """Seconds until it can be read and until `drawn` is true, CPU seconds, MB when all was seen; in a fresh browser."""
    with Browser.start(chromium, height=1400) as browser:
        before, began = cpu_seconds(browser, server), time.perf_counter()
        browser.call("Page.navigate", url=url)
        browser.wait(drawn)
        seconds, cpu = time.perf_counter() - began, cpu_seconds(browser, server) - before
        browser.js(SCROLL)
        assert not browser.errors, browser.errors
        memory = renderer(browser).memory_full_info().pss / 2**20
        return {"readable s": browser.js(READABLE) / 1000, "drawn s": seconds, "CPU s": cpu, "page MB": memory}


def bare_page(folder: Path) -> Path:
    """The least that a page with a figure is."""
    figure = "<script>Plotly.newPlot('p', [{x: [1, 2, 3], y: [1, 3, 2]}], {})</script>"
    (folder / "plotly.js").write_text(get_plotlyjs(), encoding="utf-8")
    page = folder / "bare.html"
    page.write_text(f"<!doctype html><body><div class=plot id=p></div><script src=plotly.js></script>{figure}")
    return page


#: Milliseconds of the frames while the table is scrolled through, one page after another.
ROWS = """(async () => {
    const frame = document.querySelector('#rows');
    const found = [];
    let before = performance.now();
    for (let i = 0; i < 120; i++) {
      frame.scrollTop += 400;
      await new Promise(requestAnimationFrame);
      const now = performance.now();
      found.push(now - before);
      before = now;
    }
    frame.scrollTop = 0;
    found.sort((a, b) => a - b);
    return [found[60], found[114]];
})()"""


def follow(chromium: str, url: str, run: Path, trials: int, server: psutil.Process) -> dict[str, float]:
    """Seconds until the page shows a trial that has just begun, CPU seconds that it takes (of polls meanwhile, too),
    and the frames of the table, in a page that shows everything already. The ledger is as it was afterwards."""
    ledger = run / "ledger.jsonl"
    whole = ledger.stat().st_size
    event = {"event": "start", "trial": trials, "params": {"lr": 1e-3}, "origin": "sampler"}
    shown = "document.documentElement.dataset.ready && document.querySelector('#filter-help').textContent.startsWith"
    with Browser.start(chromium, height=1400) as browser:
        browser.call("Page.navigate", url=url)
        browser.wait(f"{shown}('{trials:,} ')")
        middle, late = browser.js(ROWS)
        before, began = cpu_seconds(browser, server), time.perf_counter()
        try:
            with ledger.open("a") as file:
                file.write(json.dumps(event) + "\n")
            browser.wait(f"{shown}('{trials + 1:,} ')")
            seconds, cpu = time.perf_counter() - began, cpu_seconds(browser, server) - before
        finally:
            os.truncate(ledger, whole)
        rows = browser.js("document.querySelectorAll('#table tbody tr').length")
    return {
        "new trial shown s": seconds, "new trial CPU s": cpu, "rows in the page": rows,
        "frame of the table ms": middle, "95 % of frames ms": late,
    }  # fmt: skip


def trials_of(run: Path) -> int:
    """How many trials the sweep in a folder has."""
    return (run / "ledger.jsonl").read_bytes().count(b'{"event":"start"')


def slowdown() -> float:
    """Wall over CPU time of a loop: 1 on a machine that is free."""
    wall, cpu = time.perf_counter(), time.process_time()
    sum(i * i for i in range(5_000_000))
    return (time.perf_counter() - wall) / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--episodes", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", type=Path, help="an existing run folder instead of a made-up one")
    options = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        sys.exit("no chromium on this machine (or set RAYBC_CHROMIUM)")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or make_run(Path(folder) / "run", options.trials, options.episodes)
        figures: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            with dashboard(run) as (url, started, process):
                drawn = "document.documentElement.dataset.ready && document.querySelector('#plot-curves .scatterlayer')"
                row = {f"dashboard {k}": v for k, v in open_page(chromium, url, drawn, process).items()}
                row |= follow(chromium, url, run, trials_of(run), process)
                row |= {"server answers s": started, "server peak MB": peak_mb(process)}
            began = time.perf_counter()
            report = write_report(run)
            row |= {"report written s": time.perf_counter() - began, "report size MB": report.stat().st_size / 1e6}
            drawn = "document.readyState === 'complete' && document.querySelector('.plot .scatterlayer')"
            for name, file in (("report", report.resolve()), ("bare", bare_page(Path(folder)))):
                row |= {f"{name} {k}": v for k, v in open_page(chromium, file.as_uri(), drawn).items()}
            row["busy"] = slowdown()
            for name, value in row.items():
                figures.setdefault(name, []).append(value)
        for name, values in figures.items():
            print(f"{name:24} median {statistics.median(values):8.2f}   of {', '.join(f'{v:.2f}' for v in values)}")


if __name__ == "__main__":
    main()
