"""Names of data sets, and downloads from a local server that breaks off, changes files and sends wrong ones."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import json
import random
import re
import sys
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raybc.data import download as downloads
from raybc.data import formats, names
from raybc.data.download import Unreachable, download, unpack
from raybc.data.formats import d4rl as d4rl_format
from raybc.data.load import load
from raybc.data.names import Dataset, d4rl_url, obtain, resolve
from raybc.envs import d4rl
from raybc.types import UserError
from tests.conformance.formats import full_store

COMMIT = "0123456789" * 4
ORACLE = Path(sys.prefix) / "oracles" / "d4rl" / "infos.py"


@dataclass
class Server:
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """What is served, by path."""
    breaks: list[int] = field(default_factory=list)
    """Bytes after which the connection is cut, once for each entry."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range) of every GET request, in order."""
    tokens: list[str | None] = field(default_factory=list)
    """The header Authorization of every GET request, in order."""
    redirects: dict[str, str] = field(default_factory=dict)
    """Path -> address that the server redirects to."""
    ranges: bool = True
    """Whether the server can send a part of a file."""

    def publish(self, repository: str, files: dict[str, bytes]) -> None:
        """Serve a data set as the Hugging Face hub does; .json files are in git, others in its large file storage."""
        listing = []
        for name, content in files.items():
            sha1 = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": sha1}
            if not name.endswith(".json"):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 100}
            listing.append(entry)
            self.files[f"/datasets/{repository}/resolve/{COMMIT}/{name}"] = content
        self.files[f"/api/datasets/{repository}"] = json.dumps({"id": repository, "sha": COMMIT}).encode()
        self.files[f"/api/datasets/{repository}/tree/{COMMIT}"] = json.dumps(listing).encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, wanted = urllib.parse.urlsplit(self.path).path, self.headers.get("Range")
            state.requests.append((path, wanted))
            state.tokens.append(self.headers.get("Authorization"))
            if path in state.redirects:
                self.send_response(302)
                self.send_header("Location", state.redirects[path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = state.files.get(path)
            if content is None:
                self.send_error(404)
                return
            tag = f'"{hashlib.md5(content).hexdigest()}"'
            first = int(re.findall(r"\d+", wanted)[0]) if wanted and state.ranges else 0
            if self.headers.get("If-Range") not in (None, tag):
                first = 0
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - first))
            self.send_header("ETag", tag)
            self.end_headers()
            body = content[first:]
            if state.breaks:
                self.wfile.write(body[: state.breaks.pop(0)])
                self.wfile.flush()
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http_server.server_port}"
    thread = threading.Thread(target=http_server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(downloads, "RETRY_PAUSE", 0.0)
    yield state
    http_server.shutdown()
    http_server.server_close()
    thread.join()


CONTENT = random.Random(0).randbytes(300_000)


def test_a_download_resumes_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    server.breaks = [1000, 0, 50_000]
    target = tmp_path / "sub" / "a.bin"
    download(f"{server.url}/a.bin", target)
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1000-", "bytes=1000-", "bytes=51000-"]
    assert [p.name for p in target.parent.iterdir()] == ["a.bin"]


def test_proxies_are_read_at_every_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    server.files["/a.bin"] = CONTENT
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port}")
    with pytest.raises(Unreachable, match="refused"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin")
    monkeypatch.delenv("http_proxy")
    download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_later_process_resumes(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    target = tmp_path / "a.bin"
    server.breaks = [200_000, *[0] * 10]
    with pytest.raises(Unreachable, match="broke off after 200000 of 300000 bytes"):
        download(f"{server.url}/a.bin", target)
    assert not target.exists(), "half a file is never under its own name"
    server.breaks.clear()
    server.requests.clear()
    download(f"{server.url}/a.bin", target)
    assert target.read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == ["bytes=200000-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changed_is_downloaded_from_the_start(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.files["/a.bin"], server.breaks = CONTENT, [100_000, *[0] * 10]
    with pytest.raises(Unreachable):
        download(f"{server.url}/a.bin", tmp_path / "a.bin")
    server.breaks.clear()
    server.ranges = ranges
    server.files["/a.bin"] = CONTENT[::-1]
    download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


def test_a_token_is_not_sent_to_where_a_server_redirects(server: Server, tmp_path: Path) -> None:
    server.files["/cdn/a.bin"] = CONTENT
    server.redirects["/a.bin"] = f"{server.url}/cdn/a.bin"
    download(f"{server.url}/a.bin", tmp_path / "a.bin", headers={"Authorization": "Bearer secret"})
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.tokens == ["Bearer secret", None]


def test_no_file_and_no_server(server: Server, tmp_path: Path, free_port: int) -> None:
    with pytest.raises(Unreachable, match="404"):
        download(f"{server.url}/nothing", tmp_path / "a")
    assert len(server.requests) == 1, "what does not exist is asked for once"
    with pytest.raises(Unreachable, match="refused"):
        download(f"http://127.0.0.1:{free_port}/a", tmp_path / "a")


def test_a_set_with_its_validation_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    monkeypatch.setattr(names, "OGBENCH", server.url)
    formats.get("ogbench").write_store(tmp_path / "made.npz", full_store())
    for end in ("", "-val"):
        server.files[f"/cube-single-play-v0{end}.npz"] = (tmp_path / f"made{end}.npz").read_bytes()
    server.breaks = [100]
    path = obtain("cube-single-play-singletask-task1-v0")
    assert path == tmp_path / "datasets" / "ogbench" / "cube-single-play-v0.npz"
    assert formats.read(path).fingerprint() == formats.read(tmp_path / "made.npz").fingerprint()
    count = len(server.requests)
    assert obtain("cube-single-play-v0") == path
    assert len(server.requests) == count, "what is there is not asked for"


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    pytest.importorskip("huggingface_hub", reason="pip install 'raybc[hub]'")
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return server


def test_a_repository_of_the_hub(hub: Server, tmp_path: Path) -> None:
    formats.get("lerobot").write_store(tmp_path / "made", full_store(images=True))
    made = sorted(p for p in (tmp_path / "made").rglob("*") if p.is_file())
    hub.publish("a/b", {p.relative_to(tmp_path / "made").as_posix(): p.read_bytes() for p in made})
    path = obtain("a/b")
    assert path == tmp_path / "home" / "datasets" / "lerobot" / "a" / "b"
    assert formats.read(path, images=True).fingerprint() == formats.read(tmp_path / "made", images=True).fingerprint()
    assert sorted(p.name for p in path.iterdir()) == ["data", "meta", "videos"], "nothing else is left"
    assert sorted(p.name for p in path.parent.iterdir() if p.name != ".lock") == ["b"]
    hub.publish("c/d", {"../../evil": b"1"})
    with pytest.raises(UserError, match=r"c/d: expected files inside the folder, got '../../evil'"):
        obtain("c/d")


def test_a_part_of_a_repository(hub: Server, tmp_path: Path) -> None:
    file = "v1.5/lift/ph/low_dim_v15.hdf5"
    hub.publish(names.ROBOMIMIC, {file: CONTENT, "v1.5/lift/mh/low_dim_v15.hdf5": b"other", "README.json": b"{}"})
    path = obtain("lift-ph-low_dim")
    assert path == tmp_path / "home" / "datasets" / "robomimic" / file
    assert path.read_bytes() == CONTENT
    assert sorted(p.name for p in path.parent.iterdir() if p.name != ".lock") == [path.name]
    hub.publish(names.LIBERO, {"libero_goal/a.hdf5": b"a", "libero_goal/b.hdf5": b"b", "libero_10/c.hdf5": b"c"})
    assert sorted(p.name for p in obtain("libero_goal").iterdir()) == ["a.hdf5", "b.hdf5"]
    with pytest.raises(UserError, match="the hub has no such files"):
        obtain("libero_90")


def test_downloads_from_the_hub_resume(hub: Server) -> None:
    file = "v1.5/lift/ph/low_dim_v15.hdf5"
    hub.publish(names.ROBOMIMIC, {file: CONTENT})
    hub.breaks = [10**6, 10**6, 200_000, *[0] * 10]  # the first two requests are for the list of files
    with pytest.raises(UserError, match="could not be downloaded"):
        obtain("lift-ph-low_dim")
    assert not resolve("lift-ph-low_dim").path.exists(), "half a file is never under its own name"
    hub.breaks.clear()
    hub.requests.clear()
    assert obtain("lift-ph-low_dim").read_bytes() == CONTENT
    assert [wanted for path, wanted in hub.requests if path.endswith(file)] == ["bytes=200000-"]


@pytest.mark.parametrize("name", ["data.bin", "info.json"])
def test_other_contents_than_the_hub_publishes_are_refused(hub: Server, name: str) -> None:
    hub.publish("a/b", {name: CONTENT})
    file = f"/datasets/a/b/resolve/{COMMIT}/{name}"
    hub.files[file] = CONTENT[::-1]
    with pytest.raises(UserError, match=f"{name}: expected a file with .* it was deleted, try again"):
        obtain("a/b")
    assert not resolve("a/b").path.exists()
    hub.files[file] = CONTENT
    assert (obtain("a/b") / name).read_bytes() == CONTENT


def test_without_huggingface_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=re.escape("a/b: downloading from the Hugging Face hub: needs the package")):
        obtain("a/b")
    with pytest.raises(UserError, match=re.escape("pip install 'raybc[hub]'")):
        obtain("lift-ph-low_dim")


def test_offline_says_where_from_where_to_and_what_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port}")
    monkeypatch.setattr(downloads, "RETRY_PAUSE", 0.0)
    with pytest.raises(UserError) as error:
        obtain("lift-ph-low_dim")
    file = "v1.5/lift/ph/low_dim_v15.hdf5"
    for part in (
        "could not be downloaded",
        f"robomimic_datasets/resolve/main/{file}",
        str(tmp_path / "datasets" / "robomimic" / file),
        "python -m raybc.demos lift",
    ):
        assert part in str(error.value)
    with pytest.raises(UserError, match="is not on this machine") as error:
        obtain("halfcheetah-medium-v2", download=False)
    assert "raybc.demos" not in str(error.value), "this task has no expert"


def test_names_as_users_write_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    expected = {
        "halfcheetah-medium-v2": ("d4rl", "halfcheetah"),
        "pen-human-v1": ("d4rl", "pen"),
        "antmaze-umaze-v2": ("d4rl", "antmaze-umaze"),
        "kitchen-mixed-v0": ("d4rl", "kitchen-mixed"),
        "lift-mh-low_dim": ("robomimic", "lift"),
        "can-mg-low_dim": ("robomimic", "can"),
        "cube-single-play-singletask-task1-v0": ("ogbench", "cube-single-singletask-task1-v0"),
        "pusht-human-low_dim": ("episode_ends", "pusht"),
        "libero_spatial": ("libero", ""),
        "lerobot/pusht": ("lerobot", ""),
        "D4RL/pen/human-v2": ("minari", ""),
    }
    for name, (kind, task) in expected.items():
        found = resolve(name)
        assert (found.format, found.task) == (kind, task), name
        assert found.path.is_relative_to(tmp_path / "datasets")
        assert found.source.startswith("http")
    assert (
        resolve("D4RL/pen/human-v2").source
        == "https://huggingface.co/datasets/farama-minari/D4RL/tree/main/pen/human-v2"
    )
    assert resolve("can-mg-low_dim").path.name == "low_dim_sparse_v15.hdf5"
    for path in ("./a", "/a/b", "~/x", "demos.hdf5"):
        assert resolve(path) == Dataset(path, Path(path).expanduser())
    with pytest.raises(UserError, match="did you mean 'halfcheetah-medium-v2'"):
        resolve("halfcheetah-medium-v3")
    with pytest.raises(UserError, match="found no such file or folder"):
        obtain("./nothing.hdf5")


@pytest.mark.skipif(not ORACLE.exists(), reason="the d4rl package is missing: make oracles")
def test_addresses_are_d4rls() -> None:
    spec = importlib.util.spec_from_file_location("d4rl_infos", ORACLE)
    assert spec is not None
    assert spec.loader is not None
    infos = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(infos)
    for name in d4rl.DATASETS:
        assert d4rl_url(name) == infos.DATASET_URLS.get(name), name


@pytest.mark.parametrize("member", ["../evil", "/evil", "a/../../evil", "a\\..\\evil"])
def test_archives_stay_in_their_folder(member: str, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("good", b"1")
        file.writestr(zipfile.ZipInfo(member), b"2")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="expected files inside the folder"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_links_and_damage_in_archives_are_refused(tmp_path: Path) -> None:
    archive, link = tmp_path / "a.zip", zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="got the link 'link'"):
        unpack(archive, tmp_path / "out")
    archive.write_bytes(archive.read_bytes()[:50])
    with pytest.raises(UserError, match="not readable as zip"):
        unpack(archive, tmp_path / "out")


def test_an_archive_is_unpacked_at_its_place(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(names, "PUSHT", f"{server.url}/pusht.zip")
    formats.get("episode_ends").write_store(tmp_path / "made.zarr", full_store())
    with zipfile.ZipFile(tmp_path / "pusht.zip", "w") as file:
        for part in (tmp_path / "made.zarr").rglob("*"):
            file.write(part, f"pusht/pusht_cchi_v7_replay.zarr/{part.relative_to(tmp_path / 'made.zarr')}")
    server.files["/pusht.zip"] = (tmp_path / "pusht.zip").read_bytes()
    path = obtain("pusht-human-low_dim")
    assert formats.read(path).fingerprint() == formats.read(tmp_path / "made.zarr").fingerprint()
    assert sorted(p.name for p in path.parent.iterdir() if p.name != ".lock") == ["pusht_cchi_v7_replay.zarr"]


def test_a_downloaded_file_is_read(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(names, "D4RL", server.url)
    d4rl_format.write_store(tmp_path / "a.hdf5", full_store())
    server.files["/hand_dapg_v1/pen-human-v1.hdf5"] = (tmp_path / "a.hdf5").read_bytes()
    assert formats.read(obtain("pen-human-v1")).num_episodes == 3


def test_old_d4rl_files_are_cut_at_the_step_limit_of_their_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import h5py
    import numpy as np

    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    path = resolve("kitchen-mixed-v0").path
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for key, shape in {"observations": (600, 60), "actions": (600, 9), "rewards": 600, "terminals": 600}.items():
            file[key] = np.zeros(shape, np.float32)
    assert load("kitchen-mixed-v0").episode_ends.tolist() == [280, 560]


def test_pusht_has_the_observations_of_its_task(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "a.npz", action=np.ones((4, 2)), state=np.ones((4, 5)), episode_ends=np.array([4]))
    assert set(load(str(tmp_path / "a.npz"), "pusht").obs) == {"state", "agent_pos", "block_pose", "keypoints"}
    assert set(load(str(tmp_path / "a.npz")).obs) == {"state"}
