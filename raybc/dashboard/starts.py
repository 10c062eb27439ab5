"""What the page shows of single episodes: finalists on each start, stills of films, and a film on request."""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from raybc.dashboard.filming import Busy, Filmer
from raybc.dashboard.view import RunView
from raybc.report.squares import EPISODES, add_films, clusters_of, group_of
from raybc.rollout.video import Stills, stills
from raybc.rows import EvaluationRow, rows_at
from raybc.types import UserError

#: Bytes of a request to film.
_LARGEST = 4096


def finalists(view: RunView) -> dict[str, Any]:
    """The trials that were measured on final starts at their chosen sample setting, the winner first."""
    with view.lock:
        order = [trial.number for trial in view.state.ranking()]
        winner = view.file("winner").get("trial")
        numbers = sorted(
            (n for n, trial in view.state.trials.items() if trial.final_rows),
            key=lambda n: (n != winner, order.index(n) if n in order else len(order), n),
        )
        rows: list[EvaluationRow] = []
        for number in numbers:
            setting = view.setting(number)
            here = rows_at(view.state.trials[number].final_rows, setting) if setting else []
            if sum(len(row["episode_list"]) for row in rows + here) > EPISODES:
                break
            rows += here
        return shown(view, rows, clusters=lambda row: row["trial"] == (winner if winner is not None else numbers[0]))


def shown(
    view: RunView, rows: Sequence[EvaluationRow], clusters: Callable[[EvaluationRow], bool] = lambda row: True
) -> dict[str, Any]:
    """Groups of episodes with their films. clusters: whether a row's unsolved episodes are clustered."""
    facts = view.file("progress") or view.file("timing")
    winner = view.file("winner").get("trial")
    groups = [
        group_of(
            row,
            name=f"trial {row['trial']}{' (winner)' if row['trial'] == winner else ''}, seed {row['seed']}",
            config=view.config, folder=view.folder, params=view.state.trials[row["trial"]].params,
            limit=facts.get("max_steps"),
        )
        for row in rows
    ]  # fmt: skip
    films = add_films(groups, view.films)
    for film in films:
        film["file"] = view.films[film.pop("number")]["file"]
    chosen = [g for g, row in enumerate(rows) if clusters(row)]
    found = clusters_of(groups, [row if g in chosen else _bare(row) for g, row in enumerate(rows)], films)
    return {"groups": groups, "films": films, "clusters": found, "has_success": view.has_success()}


def _bare(row: EvaluationRow) -> EvaluationRow:
    """A row without last states."""
    found = row.copy()
    found.pop("end_states", None)
    return found


def start_routes(
    prefix: str,
    known: Callable[[Request], RunView],
    filmer: Filmer,
    film_at: Callable[[Request], Path],
) -> list[Route]:
    """The routes of a run's page. known: the sweep that a request is about. film_at: the video that it is about."""

    def current(request: Request) -> RunView:
        view = known(request)
        view.refresh()
        return view

    async def episodes(request: Request) -> Response:
        return await _answer(lambda: finalists(current(request)))

    async def found(request: Request) -> Stills:
        path = await run_in_threadpool(film_at, request)
        seen = await run_in_threadpool(_stills, path, path.stat().st_mtime_ns)
        if seen is None:
            raise HTTPException(404)
        return seen

    async def poster(request: Request) -> Response:
        return _image((await found(request)).poster)

    async def strip(request: Request) -> Response:
        return _image((await found(request)).strip)

    async def films(request: Request) -> Response:
        return await _answer(lambda: filmer.state(current(request)))

    async def film(request: Request) -> Response:
        asked = await _asked(request, filmer)
        try:
            await run_in_threadpool(lambda: filmer.start(current(request), asked))
        except Busy:
            return JSONResponse({"error": "another episode is being filmed; wait until it is done"}, 409)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 422)
        return JSONResponse({"started": True}, 202, headers={"Cache-Control": "no-store"})

    return [
        Route(f"{prefix}/api/episodes", episodes),
        Route(f"{prefix}/api/film", films, methods=["GET"]),
        Route(f"{prefix}/api/film", film, methods=["POST"]),
        Route(f"{prefix}/posters/{{path:path}}", poster),
        Route(f"{prefix}/strips/{{path:path}}", strip),
    ]


def _image(content: bytes) -> Response:
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": "no-cache"})


async def _asked(request: Request, filmer: Filmer) -> dict[str, Any]:
    """The body of a request to film. Refuses what no page of this server sent."""
    host = request.client.host if request.client else ""
    own = request.headers.get("origin") == f"http://{request.headers.get('host')}"
    token = request.headers.get("x-raybc-token", "")
    if filmer.off or host not in ("127.0.0.1", "::1") or not own:
        raise HTTPException(403, filmer.off or "only pages of this dashboard may film")
    if not secrets.compare_digest(token.encode(), filmer.token.encode()):
        raise HTTPException(403, "the page is of another process of the dashboard: reload it")
    if request.headers.get("content-type") != "application/json":
        raise HTTPException(415, "expected application/json")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST:
            raise HTTPException(413, f"expected at most {_LARGEST} bytes")
    try:
        asked = json.loads(body)
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        raise HTTPException(400, "expected a JSON object")
    return asked


@functools.lru_cache(maxsize=256)
def _stills(path: Path, _: int) -> Stills | None:
    return stills(path)


async def _answer(compute: Callable[[], dict[str, Any]]) -> Response:
    try:
        value = await run_in_threadpool(compute)
    except UserError as error:
        return JSONResponse({"error": str(error)}, 500)
    return JSONResponse(value, headers={"Cache-Control": "no-store"})
