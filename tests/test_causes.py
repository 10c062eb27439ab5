"""What is not damage is distinguished from it: pointers, locks, permissions, links, archives, half downloads, pages."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from raybc.data import formats
from raybc.data.formats import lerobot_write
from raybc.data.names import obtain
from raybc.files import read_json
from raybc.types import UserError
from tests.conformance.formats import CASES, Case, full_store

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 21840912\n"
#: Files that are not read.
UNREAD = ("stats.json", "episodes_stats.jsonl")
LFS = "is a git-lfs pointer, not the file: run git lfs pull"


def refused(read: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        read()
    message = str(error.value)
    assert "Error" not in message.replace("UserError", "")
    return message


def archive(kind: str) -> bytes:
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as made:
            made.writestr("demos.hdf5", b"data")
    else:
        with tarfile.open(fileobj=data, mode=kind) as made:
            made.addfile(tarfile.TarInfo("demos.hdf5"))
    return data.getvalue()


CONTENTS = {
    "git-lfs": (POINTER, LFS),
    "git-annex": (b"/annex/objects/SHA256E-s1048576--0a1b.hdf5\n", "run git annex get"),
    "empty": (b"", "is empty (0 bytes)"),
    "page": (b"\n<!DOCTYPE html>\n<html><title>Sign in</title>", "is a web page, not the file"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page, not the file"),
    "answer": (b'{"error":"Repository not found"}', "is the answer of a server"),
    "zeros": (bytes(5000), "the download or copy of it has not finished"),
    "tar": (archive("w:"), "is a tar archive: unpack it (tar xf"),
    "tar.gz": (archive("w:gz"), "is compressed with gzip: unpack it (tar xzf"),
    "tar.xz": (archive("w:xz"), "is an xz archive: unpack it"),
    "pickle": (pickle.dumps({"a": np.zeros(3)}), "is a Python pickle, which is never opened"),
    "bag": (b"#ROSBAG V2.0\n", "is a ROS bag"),
}


@pytest.mark.parametrize("what", CONTENTS)
@pytest.mark.parametrize("format", ["", "robomimic", "d4rl", "ogbench"])
def test_another_file_is_called_what_it_is(what: str, format: str, tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    content, expected = CONTENTS[what]
    path.write_bytes(content)
    message = refused(lambda: formats.read(path, format=format))
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message
    assert "damaged" not in message


def test_a_zip_of_data_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "demos.hdf5").write_bytes(archive("zip"))
    message = refused(lambda: formats.read(tmp_path / "demos.hdf5", format="robomimic"))
    assert "is a zip archive: unpack it (unzip demos.hdf5)" in message


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.format}-{c.name}")
def test_a_pointer_in_place_of_any_file_is_named(case: Case, tmp_path: Path) -> None:
    if case.needs:
        pytest.importorskip(case.needs)
    path = tmp_path / case.name
    store = full_store(images=case.images)
    case.write(path, store) if case.write else formats.get(case.format).write_store(path, store)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and p.name not in UNREAD]
    for file in files:
        content = file.read_bytes()
        file.write_bytes(POINTER)
        for format in ("", case.format):
            message = refused(lambda format=format: formats.read(path, format=format, images=True, states=True))
            assert LFS in message, (file, format)
            assert file.name in message
        file.write_bytes(content)


def test_a_pointer_in_place_of_a_plan_or_bundle_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan_meta.json").write_bytes(POINTER)
    assert LFS in refused(lambda: read_json(tmp_path / "plan_meta.json"))


def robomimic(path: Path) -> Path:
    formats.get("robomimic").write_store(path, full_store())
    return path


WRITER = """
import sys, time, h5py
file = h5py.File(sys.argv[1], "a"); print("open", flush=True); sys.stdin.read()
"""


def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "demos.hdf5")
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        for format in ("", "robomimic"):
            message = refused(lambda format=format: formats.read(path, format=format))
            assert "another process has it open for writing" in message
    assert formats.read(path).num_episodes == 3


def test_a_permission_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = robomimic(tmp_path / "demos.hdf5")
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read everything
        whole = Path.open

        def deny(self: Path, *args: object, **options: object) -> object:
            if self == path:
                raise PermissionError(13, "Permission denied")
            return whole(self, *args, **options)  # type: ignore[call-overload]

        monkeypatch.setattr(Path, "open", deny)
    for format in ("", "robomimic"):
        assert "you may not read it (it belongs to" in refused(lambda format=format: formats.read(path, format=format))


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    path.symlink_to("gone/demos.hdf5")
    assert "found a link to gone/demos.hdf5, which does not exist" in refused(lambda: formats.read(path))
    assert "found a link to gone" in refused(lambda: formats.read(path, format="robomimic"))
    assert obtain(str(path)) == path  # which the reader then explains
    path.unlink()
    path.symlink_to("../.git/annex/objects/x")
    assert "run git annex get" in refused(lambda: formats.read(path))
    path.unlink()
    path.symlink_to(path)
    assert "is a link that leads to itself" in refused(lambda: formats.read(path))


def test_half_downloads(tmp_path: Path) -> None:
    whole = robomimic(tmp_path / "whole.hdf5").read_bytes()
    path = tmp_path / "demos.hdf5"
    (tmp_path / "demos.hdf5.part").write_bytes(whole[:500])
    assert "found only an unfinished download of it" in refused(lambda: formats.read(path))
    assert "is an unfinished download" in refused(lambda: formats.read(tmp_path / "demos.hdf5.part"))
    path.write_bytes(whole[:500])
    assert "has not been downloaded completely (demos.hdf5.part is next to it)" in refused(lambda: formats.read(path))
    path.write_bytes(whole)
    assert formats.read(path).num_episodes == 3  # whole, whatever is next to it


def test_what_is_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "demos.hdf5")
    assert "(a pipe, a socket or a device)" in refused(lambda: formats.read(tmp_path / "demos.hdf5"))
    (tmp_path / "folder").mkdir()
    for format in ("robomimic", "d4rl", "ogbench", "episode_ends"):
        message = refused(lambda format=format: formats.read(tmp_path / "folder", format=format))
        assert "folder" in message


def test_a_whole_file_of_another_layout_is_listed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["force/left"] = np.zeros((4, 6), np.float32)
        file.create_group("notes")
        file.attrs["robot"] = "UR5"
    message = refused(lambda: formats.read(tmp_path / "a.hdf5"))
    assert (
        "an HDF5 file whose layout is not known. It holds force/left float32 (4, 6), notes (an empty group)" in message
    )
    assert "attributes robot" in message
    assert "damaged" not in message


def test_a_folder_above_the_data_set_names_it(tmp_path: Path) -> None:
    lerobot_write.write_store(tmp_path / "hub" / "snapshots" / "0123abc", full_store())
    message = refused(lambda: formats.read(tmp_path / "hub"))
    assert f"Name the data set in it: {tmp_path}/hub/snapshots/0123abc (lerobot)" in message


def test_the_cache_of_the_hub_is_made_of_links(tmp_path: Path) -> None:
    store = full_store(images=True)
    for version in ("v2.1", "v3.0"):
        lerobot_write.write_store(tmp_path / version, store, version=version)
        cache, blobs = tmp_path / f"cache-{version}" / "snapshots" / "0123", tmp_path / f"cache-{version}" / "blobs"
        blobs.mkdir(parents=True)
        for i, file in enumerate(p for p in (tmp_path / version).rglob("*") if p.is_file()):
            file.rename(blobs / str(i))
            link = cache / file.relative_to(tmp_path / version)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blobs / str(i), link.parent))
        assert formats.read(cache, images=True).fingerprint() == formats.read(cache, images=True).fingerprint()
        (cache / "meta" / "info.json").resolve().unlink()
        assert "found a link to" in refused(lambda cache=cache: formats.read(cache, format="lerobot", images=True))


# Recognition


def libero(path: Path, keep: tuple[int, ...], words: str = "", attributes: bool = False) -> None:
    """A LIBERO file of which a filter has kept the demonstrations `keep`."""
    store = full_store()
    names = ("ee_states", "gripper_states", "joint_states")
    store = dataclasses.replace(store, obs=dict.fromkeys(names, store.obs["arm"]), tasks=(words or "x",) * 3)
    formats.get("libero").write_store(path, store)
    with h5py.File(path, "a") as file:
        for i in {0, 1, 2} - set(keep):
            del file[f"data/demo_{i}"]
        del file["mask"]
        if not attributes:
            del file["data"].attrs["problem_info"], file["data"].attrs["bddl_file_name"]


def test_libero_is_recognised_by_any_demonstration_of_any_file(tmp_path: Path) -> None:
    libero(tmp_path / "one" / "pick_up_the_bowl_demo.hdf5", keep=(1, 2))
    assert formats.detect(tmp_path / "one" / "pick_up_the_bowl_demo.hdf5") == "libero"
    got = formats.read(tmp_path / "one")
    assert got.tasks == ("pick up the bowl",) * 2
    with h5py.File(tmp_path / "one" / "a_first_demo.hdf5", "w") as file:  # not one that tells
        file.create_group("data/demo_3/obs")["arm"] = np.zeros((2, 3), np.float32)
        file["data/demo_3/actions"] = np.zeros((2, 2), np.float32)
    assert formats.detect(tmp_path / "one") == "libero"


def test_an_empty_task_of_a_suite_is_named_and_left_out(tmp_path: Path) -> None:
    libero(tmp_path / "a_close_it_demo.hdf5", keep=())
    libero(tmp_path / "b_open_the_drawer_demo.hdf5", keep=(0, 2))
    got = formats.read(tmp_path)
    assert got.tasks == ("b open the drawer",) * 2
    assert "a_close_it_demo.hdf5: holds no episode, so the task 'a_close_it' is left out" in got.remarks()
    libero(tmp_path / "b_open_the_drawer_demo.hdf5", keep=())
    assert "expected HDF5 files of LIBERO with episodes" in refused(lambda: formats.read(tmp_path, format="libero"))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("data/{episode_index:0999999999999d}.parquet", "not readable as a path"),
        ("data/{episode_index.__class__}.parquet", "not readable as a path"),
        ("data/{video_key[0]}", "not readable as a path"),
        ("../{episode_index}.parquet", "expected a file of this folder"),
        ("/etc/{episode_index}", "expected a file of this folder"),
    ],
)
def test_templates_are_checked_before_they_are_filled_in(template: str, text: str, tmp_path: Path) -> None:
    lerobot_write.write_store(tmp_path / "set", full_store(), version="v2.1")
    file = tmp_path / "set" / "meta" / "info.json"
    file.write_text(
        file.read_text().replace("data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", template)
    )
    assert text in refused(lambda: formats.read(tmp_path / "set"))
