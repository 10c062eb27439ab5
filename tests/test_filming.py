"""Films of single episodes on request: who may ask, what may be asked for, and that the film shows the same episode."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")

from benchmarks.run_folder import make_run
from raybc.dashboard import filming
from raybc.dashboard.filming import Filmer, command_for, missing_simulator
from raybc.dashboard.serve import beside
from raybc.dashboard.view import RunView
from raybc.report.films import later_films
from raybc.rows import setting_of
from raybc.run_folder import SweepFolder
from raybc.types import UserError
from tests.helpers import ROOT

#: What a child process of these tests does in place of a rollout.
QUICK = "print('filming', flush=True)"
SLOW = "import time; print('filming', flush=True); time.sleep(60)"


@dataclass
class Server:
    """A dashboard, asked as a page would ask it."""

    address: str

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        with contextlib.closing(connection):
            text = body if isinstance(body, str) or body is None else json.dumps(body)
            connection.request(method, path, text, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            content = answer.read().decode()
        with contextlib.suppress(ValueError):
            return answer.status, json.loads(content)
        return answer.status, content

    def state(self) -> dict[str, Any]:
        status, found = self.ask("GET", "/api/film")
        assert status == 200
        return dict(found)

    def film(self, body: Any, **changes: str) -> tuple[int, Any]:
        """A request as the page makes it, with `changes` of its headers ("": without it)."""
        headers = {
            "Origin": f"http://{self.address}", "Content_Type": "application/json",
            "X_Raybc_Token": self.state()["token"],
        } | changes  # fmt: skip
        return self.ask("POST", "/api/film", body, **{name: value for name, value in headers.items() if value})

    def ended(self) -> dict[str, Any]:
        """The job, when it has ended."""
        end = time.monotonic() + 240
        while (job := self.state()["job"])["state"] == "running":
            assert time.monotonic() < end, job
            time.sleep(0.1)
        return dict(job)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("filming") / "run", 10, 1000)
    sweep = SweepFolder(folder)
    trial = winner(folder)
    for seed in (0, 1):
        sweep.checkpoint(trial, seed, 2000).mkdir(parents=True)
    return folder


def winner(run: Path) -> int:
    return int(json.loads((run / "winner.json").read_text())["trial"])


def wanted(run: Path, **changes: Any) -> dict[str, Any]:
    found = {"trial": winner(run), "seed": 0, "phase": "final", "evaluation": 4, "setting": "flow_steps=1", "place": 2}
    return found | changes


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replaces the rollout by a program."""

    def replace(program: str) -> None:
        monkeypatch.setattr(filming, "film_command", lambda *_: ["python", "-c", program])

    replace(QUICK)
    return replace


@pytest.fixture
def server(run: Path, child: Callable[[str], None]) -> Iterator[Server]:
    with beside(run, 0) as url:
        yield Server(url.split("/")[2])


def test_only_pages_of_this_server_may_ask(server: Server, run: Path, child: Callable[[str], None]) -> None:
    child("raise SystemExit('this must not run')")
    ask = wanted(run)
    other = f"http://127.0.0.1:{int(server.address.rpartition(':')[2]) ^ 1}"
    for changes in (
        {"Origin": "http://evil.example"}, {"Origin": other}, {"Origin": "null"}, {"Origin": ""},
        {"X_Raybc_Token": "x"}, {"X_Raybc_Token": ""}, {"X_Raybc_Token": "\u00e9"},
        {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
    ):  # fmt: skip
        assert server.film(ask, **changes)[0] == 403, changes
    assert server.film(ask, Host="evil.example", Origin="http://evil.example")[0] in (400, 403)
    assert server.film(ask, Content_Type="text/plain")[0] == 415
    assert server.ask("GET", "/api/film", Origin="http://evil.example")[0] == 403, "nobody else learns the token"
    for method in ("PUT", "DELETE", "PATCH"):
        assert server.ask(method, "/api/film")[0] == 405
    assert server.state()["job"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"trial": 999}, {"seed": 7}, {"phase": "demos"}, {"evaluation": 1}, {"setting": "flow_steps=1; rm -rf /"},
        {"place": 100}, {"place": -1}, {"trial": "0"}, {"place": True}, {"setting": None}, {"seed": 0.0},
    ],
)  # fmt: skip
def test_only_episodes_that_the_run_counted_are_filmed(run: Path, changes: dict[str, Any]) -> None:
    view = RunView(run)
    view.refresh()
    with pytest.raises(UserError, match="expected"):
        command_for(view, wanted(run, **changes))


def test_the_command_is_made_of_the_files_of_the_run(run: Path) -> None:
    view = RunView(run)
    view.refresh()
    command = command_for(view, wanted(run))
    assert "--first=2" in command
    assert "--flow_steps=1" in command
    assert str(SweepFolder(run).checkpoint(winner(run), 0, 2000)) in command
    pruned = next(n for n, t in view.state.trials.items() if t.evaluations and n != winner(run))
    rows = view.state.trials[pruned].evaluations[0].rows
    with pytest.raises(UserError, match="not kept"):
        command_for(view, wanted(run, trial=pruned, phase="search", evaluation=rows[0]["evaluation"], place=0))


def test_bad_bodies_are_refused(server: Server, run: Path) -> None:
    assert server.film("{")[0] == 400
    assert server.film("[1]")[0] == 400
    assert server.film("x" * 5000)[0] == 413
    status, answer = server.film(wanted(run, trial=999))
    assert status == 422
    assert "did not count" in answer["error"]


def test_one_film_at_a_time_with_its_progress_and_its_end(
    server: Server, run: Path, child: Callable[[str], None]
) -> None:
    ask = wanted(run)
    child(SLOW)
    assert server.film(ask)[0] == 202
    end = time.monotonic() + 60
    while server.state()["job"]["said"] != "filming":
        assert time.monotonic() < end
        time.sleep(0.1)
    job = server.state()["job"]
    assert job["state"] == "running"
    assert {name: job[name] for name in ask} == ask
    assert server.film(ask)[0] == 409
    assert server.state()["busy"] is True


def test_its_process_ends_with_the_server(run: Path, child: Callable[[str], None]) -> None:
    child(SLOW)
    filmer, view = Filmer(), RunView(run)
    view.refresh()
    filmer.start(view, wanted(run))
    assert filmer._job is not None
    process = filmer._job.process
    began = time.monotonic()
    filmer.close()
    assert process.poll() is not None
    assert time.monotonic() - began < 15
    assert filmer.state(view)["job"] is None


def test_what_failed_says_why(server: Server, run: Path, child: Callable[[str], None]) -> None:
    child("print('error: no \\x1b[31mEGL\\x00 here'); raise SystemExit(2)")
    assert server.film(wanted(run))[0] == 202
    job = server.ended()
    assert job["state"] == "failed"
    assert "no [31mEGL here" in job["said"], "without control characters"
    child(QUICK)
    assert server.film(wanted(run))[0] == 202, "and it can be tried again"
    assert server.ended()["state"] == "done"


def test_a_dashboard_that_only_reads_films_nothing(run: Path) -> None:
    view = RunView(run)
    view.refresh()
    filmer = Filmer(off="This dashboard was started with --read_only.")
    state = filmer.state(view)
    assert (state["off"], state["token"]) == (filmer.off, "")
    with pytest.raises(UserError, match="--read_only"):
        filmer.start(view, wanted(run))


def test_a_missing_simulator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_simulator("pointmass-scripted-low_dim") == ""
    monkeypatch.setattr(filming.importlib.util, "find_spec", lambda _: None)
    missing_simulator.cache_clear()
    assert "robosuite" in missing_simulator("lift-scripted-low_dim")
    assert missing_simulator("pointmass-scripted-low_dim") == "", "it needs no package"
    assert "unknown" in missing_simulator("nonsense-scripted-low_dim")
    missing_simulator.cache_clear()


@pytest.mark.slow
def test_the_film_shows_the_episode_that_was_counted(tmp_path: Path) -> None:
    """A real rollout in its process, of a sweep of an earlier release, which has no last states and no films."""
    run = Path(shutil.copytree(ROOT / "tests/golden/v0.1.0/sweep", tmp_path / "run"))
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    view = RunView(run)
    view.refresh()
    number = 0  # it was interrupted before the final starts
    row = view.state.trials[number].evaluations[-1].rows[0]
    place = len(row["episode_list"]) - 1
    with beside(run, 0) as url:
        server = Server(url.split("/")[2])
        ask = {"trial": number, "seed": row["seed"], "phase": "search", "evaluation": row["evaluation"]}
        status, answer = server.film(ask | {"setting": setting_of(row).label(), "place": place})
        assert status == 202, answer
        assert server.ended()["state"] == "done", server.state()
        groups = server.ask("GET", f"/api/trials/{number}")[1]["episodes"]
        [film] = groups["films"]
        assert groups["groups"][film["group"]]["seed"] == row["seed"]
        entry = row["episode_list"][place]
        assert (film["place"], film["outcome"], film["steps"]) == (place, entry[1], entry[2])
        for kind in ("videos", "posters", "strips"):
            assert server.ask("GET", f"/{kind}/missing.mp4")[0] == 404
    assert len(later_films(SweepFolder(run))) == 1
    assert {p: p.read_bytes() for p in before} == before, "nothing that was there has changed"
