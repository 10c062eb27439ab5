"""The dashboard: following a run folder, what it answers, whom it refuses, and the commands that it gives."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the dashboard's packages: pip install 'raybc[dashboard]'")

from benchmarks.run_folder import make_run
from raybc.cli import run_main
from raybc.dashboard import serve
from raybc.dashboard.__main__ import main
from raybc.dashboard.follow import JsonFile, LedgerTail
from raybc.dashboard.importance import importances
from raybc.dashboard.view import RunView
from raybc.types import UserError

MP4 = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of 30 trials, with a video."""
    folder = make_run(tmp_path_factory.mktemp("made") / "run", 30, 3000)
    (folder / "videos").mkdir()
    (folder / "videos" / "a b.mp4").write_bytes(MP4)
    entry = {"file": "videos/a b.mp4", "trial": 8, "seed": 0, "split": "final", "index": 3, "outcome": "success"}
    (folder / "videos.json").write_text(json.dumps([entry | {"flow_steps": 4, "steps": 40}]))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def view(run: Path, monkeypatch: pytest.MonkeyPatch) -> RunView:
    monkeypatch.setattr("raybc.dashboard.view.REFRESH_INTERVAL", 0.0)
    view = RunView(run)
    view.refresh()
    return view


class Client:
    """Asks a server on this machine for paths as they are: a browser's client would resolve dots first."""

    def __init__(self, url: str) -> None:
        self.url, self._address = url.rstrip("/"), url.split("/")[2]

    def get(self, path: str, method: str = "GET", **headers: str) -> Prediction:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return Prediction(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


@dataclasses.dataclass
class Prediction:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@pytest.fixture
def client(view: RunView) -> Iterator[Client]:
    with serve.beside(view.folder.path, 0) as url:
        yield Client(url)


def append(path: Path, *events: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


# --- following -------------------------------------------------------------------------------------------------------


def test_a_ledger_is_read_by_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    tail = LedgerTail(path)
    assert tail.read() == (False, [])
    first, second = (
        {"event": "stage", "name": "a", "start": 1, "end": 2},
        {"event": "failed", "trial": 0, "reason": "x"},
    )
    append(path, first)
    assert tail.read() == (False, [first])
    with path.open("a") as file:
        file.write(json.dumps(second)[:10])
    assert tail.read() == (False, []), "a line without its end is being written"
    with path.open("a") as file:
        file.write(json.dumps(second)[10:] + "\n")
    assert tail.read() == (False, [second])
    path.unlink()
    assert tail.read() == (True, [])
    append(path, second)
    assert tail.read() == (False, [second])
    path.write_text(json.dumps(first) + "\n")  # --overwrite, in place and of any length
    assert tail.read() == (True, [first])
    append(path, second)
    assert tail.read() == (False, [second])
    path.write_text(json.dumps(first) + "\n")  # cut, with the same beginning
    assert tail.read() == (True, [first])


def test_a_damaged_ledger_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"event":"stage","name":"a","start":1,"end":2}\n{"event":\n')
    with pytest.raises(UserError, match="line 2 is damaged"):
        LedgerTail(path).read()


def test_json_files_are_read_when_they_changed(tmp_path: Path) -> None:
    path = tmp_path / "winner.json"
    file = JsonFile(path, {})
    assert (file.refresh(), file.value) == (False, {})
    path.write_text('{"trial": 1}')
    assert (file.refresh(), file.refresh(), file.value) == (True, False, {"trial": 1})
    path.write_text("[]")
    with pytest.raises(UserError, match="expected a JSON dict"):
        file.refresh()
    path.unlink()
    assert (file.refresh(), file.value) == (True, {})


def test_a_page_gets_only_what_is_new(view: RunView, run: Path) -> None:
    everything = view.since(-1, -1)
    assert len(everything["trials"]) == 30
    revision = everything["revision"]
    assert view.since(0, revision)["trials"] == []
    assert view.since(0, revision)["run"] is None
    append(run / "ledger.jsonl", {"event": "start", "trial": 30, "params": {"lr": 1e-3}, "origin": "sampler"})
    view.refresh()
    news = view.since(0, revision)
    assert [trial["n"] for trial in news["trials"]] == [30]
    assert news["trials"][0]["status"] == "running"
    assert news["run"]["counts"]["running"] == 1
    (run / "ledger.jsonl").unlink()
    append(run / "ledger.jsonl", {"event": "start", "trial": 0, "params": {"lr": 1e-3}, "origin": "defaults"})
    view.refresh()
    anew = view.since(0, news["revision"])
    assert (anew["generation"], [trial["n"] for trial in anew["trials"]]) == (1, [0])


def test_the_page_says_what_the_tables_say(view: RunView, run: Path) -> None:
    from raybc.report.read import load_run
    from raybc.report.tables import leaderboard

    tables = {row.trial: row for row in leaderboard(load_run(run))}
    assert len(tables) == len(view.trials) == 30
    for number, trial in view.trials.items():
        row = tables[number]
        assert (trial["status"], trial["errors"]) == (row.status, row.errors)
        assert trial["score"] == pytest.approx(row.score, abs=1e-6) if row.score is not None else trial["score"] is None
        assert trial["setting"] == (row.setting.label() if row.setting else "")
        assert (trial["final"] is None) == (row.final is None)
        if row.final:
            assert trial["final"]["rate"] == pytest.approx(row.final.value, abs=1e-4)
            assert trial["final"]["interval"] == pytest.approx(row.final.interval, abs=1e-4)
    overview = view.since(-1, -1)["run"]
    lines = (run / "episodes.jsonl").read_text().splitlines()
    assert sum(overview["totals"][k] for k in ("episodes", "errors")) == len(lines)
    seconds = overview["rate"]["seconds"]
    width = seconds[1] - seconds[0]
    assert sum(overview["rate"]["rate"]) * width == pytest.approx(len(lines), rel=0.01)


def test_importance_finds_the_axis_that_matters(view: RunView, run: Path) -> None:
    assert view.config is not None
    found = importances(view.config, view.state)
    assert found["evaluation"] == 1
    assert sum(found["axes"].values()) == pytest.approx(1.0)
    few = RunView(run)
    few.config = view.config
    assert "axes" not in importances(view.config, few.state)


def test_the_importance_that_optuna_dashboard_shows(view: RunView, run: Path) -> None:
    """Computed by its own code from the study of the same trials, whose metric has a name there."""
    app = pytest.importorskip("optuna_dashboard._importance", reason="pip install 'raybc[dashboard]'")
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna_dashboard._inmemory_cache import InMemoryCache

    from raybc.sweep.study import Proposer

    assert view.config is not None
    Proposer(view.config, view.folder, view.state)
    storage = JournalStorage(JournalFileBackend(str(view.folder.study)))
    [study] = storage.get_all_studies()
    assert storage.get_study_system_attrs(study._study_id)["study:metric_names"] == ["success"]
    trials = storage.get_all_trials(study._study_id)
    theirs = app.get_param_importance_from_trials_cache(InMemoryCache(), storage, study._study_id, 0, trials)
    ours = importances(view.config, view.state)["completed"]
    assert {one["name"]: one["importance"] for one in theirs} == pytest.approx(ours["axes"])
    assert ours["trials"] == sum(trial.status == "completed" for trial in view.state.trials.values())


# --- answers and refusals --------------------------------------------------------------------------------------------


def test_everything_the_page_needs_comes_from_here(client: Client) -> None:
    page = client.get("/")
    assert page.status == 200
    assert "https://" not in page.content.decode()
    for name in (
        "page.css",
        "episodes.css",
        "film.js",
        "episodes.js",
        "states.js",
        "elements.js",
        "films.js",
        "starts.js",
        "dashboard.css",
        "app.js",
        "index.js",
        "live.js",
        "rows.js",
        "table.js",
        "figures.js",
        "axes.js",
        "plots.js",
        "trial.js",
        "dom.js",
        "plotly.min.js",
    ):
        answer = client.get(f"/static/{name}")
        assert answer.status == 200, name
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/api/run").json["run"]["name"] == "made-up"
    assert client.get("/api/importance").json["trials"] > 6


def test_a_trial_in_full(client: Client, view: RunView) -> None:
    found = client.get("/api/trials/8").json
    assert found["trial"]["n"] == 8
    assert {row["evaluation"] for row in found["rows"]} == {1, 2, 3, 4}
    assert sum(len(group["episodes"]) for group in found["episodes"]["groups"]) == sum(
        view.trials[8][k] for k in ("episodes", "errors")
    )
    assert found["videos"][0]["outcome"] == "success"
    assert sorted(found["losses"]) == ["0", "1"]
    assert client.get("/api/trials/999").status == 404
    assert client.get("/api/trials/x").status == 404
    assert client.get("/api/run?revision=x").status == 400


def test_videos_are_served_in_parts(client: Client) -> None:
    assert client.get("/videos/videos/a%20b.mp4").content == MP4
    part = client.get("/videos/videos/a%20b.mp4", Range="bytes=4-11")
    assert (part.status, part.content) == (206, b"ftypmp42")


@pytest.mark.parametrize(
    "path",
    [
        "../secret.mp4", "..%2fsecret.mp4", "%2e%2e/secret.mp4", "videos/../../secret.mp4", "/etc/passwd",
        "%2fetc%2fpasswd", "config.json", "ledger.jsonl", "videos", "", "link.mp4", "videos/none.mp4",
        "x%00.mp4", "x" * 5000 + ".mp4",
    ],
)  # fmt: skip
def test_only_videos_inside_the_folder_are_served(client: Client, run: Path, path: str) -> None:
    (run.parent / "secret.mp4").write_bytes(MP4)
    (run / "link.mp4").symlink_to(run.parent / "secret.mp4")
    answer = client.get(f"/videos/{path}")
    assert answer.status == 404
    assert MP4 not in answer.content


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e%2fapp.py", "/static/view.py"]
)
def test_only_the_page_s_files_are_served(client: Client, path: str) -> None:
    assert client.get(path).status == 404


def test_other_names_and_other_sites_are_refused(client: Client) -> None:
    assert client.get("/api/run", Host="localhost:8420").status == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8420", "0.0.0.0:8420"):
        assert client.get("/api/run", Host=host).status == 400, host
    assert client.get("/api/run", Origin="http://evil.example").status == 403
    assert client.get("/api/run", Origin="null").status == 403
    assert client.get("/api/run", Origin=client.url).status == 200
    assert client.get("/api/run", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors").status == 403
    assert client.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200


def test_nothing_can_be_changed(client: Client) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.get("/api/run", method).status == 405


def test_a_damaged_ledger_is_told_to_the_page(client: Client, run: Path) -> None:
    with (run / "ledger.jsonl").open("a") as file:
        file.write("nonsense\n")
    answer = client.get("/api/run")
    assert answer.status == 500
    assert "is damaged" in answer.json["error"]


def test_a_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    with serve.beside(tmp_path / "soon", 0) as url:
        assert Client(url).get("/api/run").json["trials"] == []


# --- the command -----------------------------------------------------------------------------------------------------


def test_what_is_not_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, why in ((tmp_path / "none", "no such folder"), (tmp_path, "no config.json")):
        assert run_main(lambda folder=folder: main([str(folder)])) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {folder}: expected the folder of a sweep run")
        assert why in said
        assert said.count("\n") == 1
    (tmp_path / "config.json").write_text('{"lr": 0.1}')
    assert run_main(lambda: main([str(tmp_path)])) == 2
    assert "searches no space" in capsys.readouterr().err


def test_a_port_in_use_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_main(lambda: main([str(run), "--port", str(port)])) == 2
    said = capsys.readouterr().err
    assert said == f"error: port {port} of 127.0.0.1 is in use; choose another, or 0 for any that is free\n"
    assert run_main(lambda: main([str(run), "--port", "70000"])) == 2


def test_missing_packages_are_named(view: RunView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"the dashboard: needs the package uvicorn: pip install 'raybc\[dashboard\]'"):
        serve.make_server(view)


def test_beside_a_sweep_it_answers_on_the_loopback_only_and_ends_with_it(run: Path) -> None:
    with serve.beside(run, 0) as url:
        assert url.startswith("http://127.0.0.1:")
        assert Client(url).get("/api/run").json["run"]["name"] == "made-up"
        port = int(url.rsplit(":", 1)[1].rstrip("/"))
        sockets = Path("/proc/net/tcp").read_text().splitlines()[1:]
        listening = [line.split()[1] for line in sockets if line.split()[3] == "0A"]
        assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
    with pytest.raises(OSError, match="refused"):
        Client(url).get("/")


def test_it_needs_neither_ray_nor_torch_and_writes_nothing(run: Path) -> None:
    def listing() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in run.rglob("*")}

    before = listing()
    code = (
        "import sys; from pathlib import Path; from raybc.dashboard.app import make_app\n"
        "from raybc.dashboard.importance import importances; from raybc.dashboard.detail import detail\n"
        "from raybc.dashboard.view import RunView\n"
        "view = RunView(Path(sys.argv[1])); view.refresh(); make_app(view); detail(view, 8)\n"
        "importances(view.config, view.state)\n"
        "print([name for name in ('ray', 'torch') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
    assert listing() == before


def test_the_command_serves_until_it_is_ended(run: Path) -> None:
    command = [sys.executable, "-u", "-m", "raybc.dashboard", str(run), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    url = next(line for line in lines if "http://" in line).split(": ")[1].split()[0]
    assert Client(url).get("/").status == 200
    began = time.monotonic()
    process.terminate()
    process.wait(timeout=20)
    assert time.monotonic() - began < 20
