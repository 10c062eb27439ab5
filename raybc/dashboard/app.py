"""The web application: one page, its data, and the videos of the run. It serves this machine only. It only reads,
except that an episode is filmed on request (`raybc.dashboard.filming`).

A page of another site that is open in a browser on this machine must not reach the run: requests with another host name
(DNS rebinding) and requests from other sites are refused, and the page loads nothing from other sites.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raybc.dashboard.detail import detail
from raybc.dashboard.evaluation import evaluation
from raybc.dashboard.filming import Filmer
from raybc.dashboard.folders import Kind, document_of
from raybc.dashboard.importance import importances
from raybc.dashboard.index import PAGES, Index
from raybc.dashboard.several import overview
from raybc.dashboard.starts import start_routes
from raybc.dashboard.training import training
from raybc.dashboard.view import RunView
from raybc.report.timeline import best_so_far, timeline
from raybc.types import UserError

#: Trials of a timeline, the last ones: a browser takes seconds to draw more.
TIMELINE_TRIALS = 1000
#: Host names of the page: this machine, or a tunnel that ends on it.
HOSTS = ["127.0.0.1", "localhost"]
#: Of a run folder, only videos are served as files.
VIDEO_TYPES = {".mp4": "video/mp4", ".webm": "video/webm"}

_STATIC = Path(str(files("raybc.dashboard") / "static"))
_REPORT = Path(str(files("raybc.report")))
_FILES = {path.name: path for path in _STATIC.iterdir() if path.suffix in (".css", ".js")} | {
    "page.css": _REPORT / "page.css",
    "episodes.css": _REPORT / "episodes.css",
    **{path.name: path for path in (_REPORT / "shared").iterdir() if path.suffix == ".js"},
    "plotly.min.js": Path(plotly.__file__).parent / "package_data" / "plotly.min.js",
}
#: The pages share their head; they contain no text of a run.
_TEMPLATES = Environment(loader=FileSystemLoader(_STATIC), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
_POLICY = "Content-Security-Policy"
#: parcoords compiles its shaders' wrappers with new Function, hence unsafe-eval; no text of a run becomes script.
_OF_APP = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data: blob:; media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: A document that lies in a run folder: it needs no script, so none runs.
_OF_DOCUMENT = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class SameSite:
    """Refuses requests from pages of other sites (following a link is fine) and adds the headers above."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                sent.update({_POLICY: sent.get(_POLICY, _OF_APP), **_HEADERS})
            await send(message)

        headers = Headers(scope=scope)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        foreign = origin is not None and origin != f"http://{headers.get('host')}"
        if foreign or (site not in ("none", "same-origin") and headers.get("sec-fetch-mode") != "navigate"):
            await PlainTextResponse("requested by another site\n", 403)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def make_app(*views: RunView, filmer: Filmer | None = None) -> Starlette:
    """The application for a run folder, which need not exist yet, or for several: an overview, and below `runs/N/` the
    page of each. filmer: films episodes on request (None: nobody does)."""
    filmer = filmer or Filmer(off="This dashboard only reads.")
    if len(views) == 1:
        return _application(_run_routes("", lambda _: views[0], filmer))

    def find(request: Request) -> RunView | None:
        key = request.path_params["key"]
        return views[int(key)] if key.isdecimal() and int(key) < len(views) else None

    async def runs(_: Request) -> Response:
        return await _json(lambda: overview(views))

    pages = _run_routes("/runs/{key}", find, filmer)
    return _application([Route("/", _page("several")), Route("/api/runs", runs), *pages])


def make_index_app(index: Index, filmer: Filmer) -> Starlette:
    """The application for a folder with run folders: the index, below `runs/NAME/` the page of each run (of a finished
    comparison its compare.html), and `several?run=NAME&run=NAME` for sweeps side by side."""

    async def rows(_: Request) -> Response:
        return await _json(index.overview)

    async def runs(request: Request) -> Response:
        keys = list(dict.fromkeys(request.query_params.getlist("run")))

        def compute() -> dict[str, Any] | None:
            views = index.views(keys)
            return overview(views, keys) if views else None

        return await _json(compute)

    def find(request: Request) -> RunView | None:
        return index.view(request.path_params["key"])

    def folder(request: Request, *kinds: Kind) -> Path:
        found = index.found(request.path_params["key"])
        if found is None or found.kind not in kinds:
            raise HTTPException(404)
        return found.path

    def of(kind: Kind, compute: Callable[[Path], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            return await _json(lambda: compute(folder(request, kind)))

        return respond

    async def film_of_arm(request: Request) -> Response:
        return await _film(lambda: video_path(folder(request, "comparison") / "arms", request.path_params["path"]))

    pages = {kind: _page(kind) for kind in PAGES}

    async def page(request: Request) -> Response:
        found = await run_in_threadpool(index.found, request.path_params["key"])
        if found is not None and (document := document_of(found)) is not None:
            return FileResponse(document, headers={"Cache-Control": "no-cache", _POLICY: _OF_DOCUMENT})
        if found is None or found.kind not in pages:
            raise HTTPException(404)
        return await pages[found.kind](request)

    return _application(
        [
            Route("/", _page("index")),
            Route("/several", _page("several")),
            Route("/api/index", rows),
            Route("/api/runs", runs),
            Route("/runs/{key}/", page),
            Route("/runs/{key}/arms/{path:path}", film_of_arm),
            Route("/runs/{key}/api/evaluation", of("evaluation", evaluation)),
            Route("/runs/{key}/api/training", of("training", training)),
            *_run_routes("/runs/{key}", find, filmer, lambda request: folder(request, "sweep", "evaluation")),
        ]
    )


def _application(routes: Sequence[BaseRoute]) -> Starlette:
    guards = [Middleware(SameSite), Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)]
    return Starlette(routes=[Route("/static/{name}", _static), *routes], middleware=guards)


def _page(name: str) -> Callable[[Request], Awaitable[Response]]:
    text = _TEMPLATES.get_template(f"{name}.html.j2").render()

    async def page(_: Request) -> Response:
        return HTMLResponse(text, headers={"Cache-Control": "no-cache"})

    return page


async def _static(request: Request) -> Response:
    path = _FILES.get(request.path_params["name"])
    if path is None:
        raise HTTPException(404)
    return FileResponse(path, headers={"Cache-Control": "no-cache"})


def _run_routes(
    prefix: str,
    find: Callable[[Request], RunView | None],
    filmer: Filmer,
    folder: Callable[[Request], Path] | None = None,
) -> list[Route]:
    """The page of a run folder, its data and its videos. find: the sweep that a request is about; None: status 404.
    folder: the folder whose videos a request is about (default: of this sweep)."""
    show = _page("sweep")

    def known(request: Request) -> RunView:
        view = find(request)
        if view is None:
            raise HTTPException(404)
        return view

    def current(request: Request) -> RunView:
        view = known(request)
        view.refresh()
        return view

    async def page(request: Request) -> Response:
        await run_in_threadpool(known, request)
        return await show(request)

    async def run(request: Request) -> Response:
        seen = [request.query_params.get(name, "-1") for name in ("generation", "revision")]
        if not all(value.removeprefix("-").isdecimal() for value in seen):
            raise HTTPException(400, "generation and revision: expected whole numbers")
        generation, revision = map(int, seen)
        return await _json(lambda: current(request).since(generation, revision))

    async def trial(request: Request) -> Response:
        return await _json(lambda: detail(current(request), request.path_params["number"]))

    def once(compute: Callable[[RunView], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
        """What is computed once for each revision of a sweep; the latest answer is kept."""
        answers: dict[tuple[str, int, int], dict[str, Any]] = {}

        def answer(view: RunView) -> dict[str, Any]:
            with view.lock:
                key = (str(view.folder.path), view.generation, view.revision)
                if key not in answers:
                    answers.clear()
                    answers[key] = compute(view)
                return answers[key]

        async def respond(request: Request) -> Response:
            return await _json(lambda: answer(current(request)))

        return respond

    def film_at(request: Request) -> Path:
        root = folder(request) if folder is not None else known(request).folder.path
        path = video_path(root, request.path_params["path"])
        if path is None:
            raise HTTPException(404)
        return path

    async def video(request: Request) -> Response:
        return await _film(lambda: film_at(request))

    return [
        Route(f"{prefix}/", page),
        Route(f"{prefix}/api/run", run),
        Route(f"{prefix}/api/trials/{{number:int}}", trial),
        Route(f"{prefix}/api/importance", once(_importances)),
        Route(f"{prefix}/api/course", once(_course)),
        Route(f"{prefix}/videos/{{path:path}}", video),
        *start_routes(prefix, known, filmer, film_at),
    ]


def _importances(view: RunView) -> dict[str, Any]:
    return importances(view.config, view.state) if view.config else {"trials": 0}


def _course(view: RunView) -> dict[str, Any]:
    """How the best score rose, and when trials ran."""
    best = best_so_far(list(view.state.trials.values()), view.state.metric)
    return {"best": best, "timeline": timeline(view.folder, view.state, TIMELINE_TRIALS)}


def video_path(root: Path, name: str) -> Path | None:
    """The video `name` below `root`; None if it does not exist, is no video, or (links followed) is outside `root`."""
    try:
        path = (root / name).resolve()
        exists = path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return None
    return path if exists and path.suffix in VIDEO_TYPES and path.is_relative_to(root) else None


async def _film(find: Callable[[], Path | None]) -> Response:
    """The video that `find` gives; None: status 404."""
    path = await run_in_threadpool(find)
    if path is None:
        raise HTTPException(404)
    return FileResponse(path, media_type=VIDEO_TYPES[path.suffix], headers={"Cache-Control": "no-cache"})


async def _json(compute: Callable[[], dict[str, Any] | None]) -> Response:
    """The value as JSON, computed and written outside the event loop; None: status 404; a damaged file: its error
    message."""

    def answer() -> Response | None:
        try:
            value = compute()
        except UserError as error:
            return JSONResponse({"error": str(error)}, 500)
        return None if value is None else JSONResponse(value, headers={"Cache-Control": "no-store"})

    response = await run_in_threadpool(answer)
    if response is None:
        raise HTTPException(404)
    return response
