"""How fast the dashboard and the report of a large sweep open, and what memory they take.

    python -m benchmarks.pages [--trials 2000] [--episodes 200000] [--rounds 3] [--run FOLDER]

A made-up run folder (benchmarks/run_folder.py) is opened in headless Chromium. *Server*: from the start of `python -m
raybc.dashboard` until it answers. *Opened*: from the navigation until table and learning curves are drawn. *Report*:
from the navigation until the first figure is drawn. Memory: the peak resident set of the server, and the proportional
set of the page's renderer process after everything on the page was scrolled through. CPU: what the page's renderer
process used until then, which other processes on the machine change less than they change the seconds.
"""

from __future__ import annotations

import argparse
import contextlib
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


def open_page(chromium: str, url: str, drawn: str) -> tuple[float, float, float]:
    """(seconds and CPU seconds until `drawn` is true, MB of the page when all of it was seen), in a fresh browser."""
    with Browser.start(chromium, height=1400) as browser:
        began = time.perf_counter()
        browser.call("Page.navigate", url=url)
        browser.wait(drawn)
        seconds = time.perf_counter() - began
        own = renderer(browser)
        cpu = sum(own.cpu_times()[:2])
        browser.js(SCROLL)
        assert not browser.errors, browser.errors
        return seconds, cpu, own.memory_full_info().pss / 2**20


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
                opened, cpu, page = open_page(chromium, url, drawn)
                row = {"server answers s": started, "dashboard opened s": opened, "dashboard opened CPU s": cpu,
                       "server peak MB": peak_mb(process), "dashboard page MB": page}  # fmt: skip
            began = time.perf_counter()
            report = write_report(run)
            row["report written s"] = time.perf_counter() - began
            drawn = "document.readyState === 'complete' && document.querySelector('.plot .scatterlayer')"
            opened, cpu, page = open_page(chromium, report.resolve().as_uri(), drawn)
            row |= {"report opened s": opened, "report opened CPU s": cpu, "report page MB": page}
            row["report size MB"] = report.stat().st_size / 1e6
            for name, value in row.items():
                figures.setdefault(name, []).append(value)
        for name, values in figures.items():
            print(f"{name:24} median {statistics.median(values):8.2f}   of {', '.join(f'{v:.2f}' for v in values)}")


if __name__ == "__main__":
    main()
