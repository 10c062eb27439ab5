"""A real browser for tests and benchmarks: headless Chromium over the DevTools protocol.

with Browser.start(chromium) as browser:
    browser.open("http://127.0.0.1:8420/")
    browser.wait("document.querySelector('h1')")
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: axe-core, which finds what people with disabilities cannot use; `npm ci` installs it.
AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--disable-extensions", "--mute-audio", "--hide-scrollbars", "--disable-gpu",
    "--enable-unsafe-swiftshader", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


def find_chromium() -> str | None:
    """The browser of this machine: $RAYBC_CHROMIUM, or one of `NAMES`."""
    return os.environ.get("RAYBC_CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab. JavaScript that throws raises here; what the page itself throws or logs as an error is in `errors`."""

    def __init__(self, tab: ClientConnection, pid: int) -> None:
        self._tab, self.pid = tab, pid
        self._numbers = itertools.count(1)
        self.errors: list[str] = []
        self.requests: list[str] = []

    @classmethod
    @contextlib.contextmanager
    def start(cls, chromium: str, width: int = 1280, height: int = 900) -> Iterator[Browser]:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [chromium, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command, start_new_session=True, **quiet)
            try:
                port = _port(Path(profile) / "DevToolsActivePort")
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
                    tab = next(t for t in json.load(answer) if t["type"] == "page")
                with connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
                    browser = cls(socket, process.pid)
                    for domain in ("Page", "Runtime", "Network", "Log"):
                        browser.call(f"{domain}.enable")
                    browser.size(width, height)
                    yield browser
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._tab.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._tab.recv(timeout=120))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message["method"] == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif message["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif message["method"] == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def js(self, expression: str) -> Any:
        """The value of an expression (a promise is awaited)."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", "JavaScript failed"))
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 30.0) -> Any:
        """Wait until an expression is true, and give its value."""
        end = time.monotonic() + seconds
        look = f"(() => {{ const v = document.body && ({expression}); return v instanceof Node ? true : v; }})()"
        while not (value := self.js(look)):
            if time.monotonic() > end:
                raise TimeoutError(f"not true within {seconds:g} s: {expression}; errors of the page: {self.errors}")
            time.sleep(0.05)
        return value

    def open(self, url: str, seconds: float = 120.0) -> None:
        """Go to a page and wait until it is loaded, which takes a busy machine long."""
        there = f"location.href.startsWith({json.dumps(url[:200])})"
        self.call("Page.navigate", url=url)
        try:
            self.wait(there, 10)
        except TimeoutError:  # a step back in the history, asked for just before, took its place
            self.call("Page.navigate", url=url)
        self.wait(f"{there} && document.readyState === 'complete'", seconds)

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, on: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def click(self, selector: str) -> None:
        """Press and let go the mouse in the middle of an element, as a person would: when it has stopped moving."""
        box = self.js(
            f"""(async () => {{
              const e = document.querySelector({json.dumps(selector)});
              const place = () => {{
                e.scrollIntoView({{block: "center", inline: "center", behavior: "instant"}});
                const r = e.getBoundingClientRect();
                return [r.x + r.width / 2, r.y + r.height / 2, scrollY];
              }};
              let box = place();  // figures that are drawn above it move it
              for (let still = 0; still < 10; still++) {{
                await new Promise(requestAnimationFrame);
                const now = place();
                if (String(now) !== String(box)) still = 0;
                box = now;
              }}
              return box;
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def key(self, key: str) -> None:
        codes = {"Escape": 27, "Enter": 13, "Tab": 9, "Home": 36, "ArrowDown": 40}
        for kind in ("keyDown", "keyUp"):
            extra = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            code = codes[key]
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path: Path) -> None:
        data = self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"]
        path.write_bytes(base64.b64decode(data))


def _port(file: Path) -> int:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if file.is_file() and (text := file.read_text()):
            return int(text.split()[0])
        time.sleep(0.05)
    raise TimeoutError("the browser did not start within 60 s")


def axe(browser: Browser) -> list[str]:
    """What axe-core finds on the page that is open."""
    browser.js(AXE.read_text(encoding="utf-8") + "; true")
    found: list[str] = browser.js(
        "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.flatMap(one => "
        "one.nodes.slice(0, 3).map(node => `${one.id}: ${node.html.slice(0, 160)} ${node.failureSummary}`)))"
    )
    return found
