"""One odd episode is named; `--skip_bad_episodes` leaves it out, with a list."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from raybc.cli import run_main
from raybc.data import formats
from raybc.data.__main__ import main
from raybc.data.formats import lerobot_write, robomimic
from raybc.data.load import read_for
from raybc.data.scan import source_of
from raybc.data.verify import verify
from raybc.types import UserError
from tests.helpers import tiny_store

LENGTHS = (5, 9, 3, 4)


def set_of(path: Path, odd: str, episode: int) -> Path:
    """Four demonstrations, of which one is odd."""
    robomimic.write_store(path, tiny_store(LENGTHS, splits={"train": [0, 1, 2], "valid": [3]}))
    with h5py.File(path, "a") as file:
        demo = file[f"data/demo_{episode}"]
        steps = len(demo["actions"])
        if odd in ("shape", "nan", "missing"):
            del demo["obs/arm"]
        if odd == "shape":
            demo["obs/arm"] = np.ones((steps, 4), np.float32)
        if odd == "nan":
            demo["obs/arm"] = np.full((steps, 3), np.nan, np.float32)
        if odd == "no actions":
            del demo["actions"]
        if odd == "no steps":
            del demo["actions"]
            demo["actions"] = np.zeros((0, 2), np.float32)
    return path


@pytest.mark.parametrize("episode", [0, 1, 3])
@pytest.mark.parametrize("odd", ["shape", "nan", "missing", "no actions", "no steps"])
def test_the_odd_episode_is_named_and_left_out(odd: str, episode: int, tmp_path: Path) -> None:
    path = set_of(tmp_path / "a.hdf5", odd, episode)
    name = f"episode {episode}" if odd == "nan" else f"demo_{episode}"
    with pytest.raises(UserError, match=f"{name}"):
        formats.read(path)
    read = formats.read(path, skip_bad_episodes=True)
    assert [(e.number, e.name) for e in read.skipped] == [(episode, f"demo_{episode}")]
    kept = [n for i, n in enumerate(LENGTHS) if i != episode]
    assert (read.episode_ends - read.episode_starts).tolist() == kept
    train, valid = read.splits["train"].tolist(), read.splits["valid"].tolist()
    assert sorted([*train, *valid]) == [0, 1, 2]
    assert valid == ([] if episode == 3 else [2]), "splits follow the episodes"
    assert any(f"demo_{episode}" in remark for remark in read.remarks())


def test_good_data_are_read_as_ever(tmp_path: Path) -> None:
    path = set_of(tmp_path / "a.hdf5", "", 0)
    assert formats.read(path, skip_bad_episodes=True).fingerprint() == formats.read(path).fingerprint()


def test_flat_files_and_stores(tmp_path: Path) -> None:
    data = tiny_store(LENGTHS)
    formats.get("d4rl").write_store(tmp_path / "a.hdf5", data)
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        file["actions"][6] = np.inf  # in the second episode
    with pytest.raises(UserError, match="episode 1"):
        formats.read(tmp_path / "a.hdf5")
    read = formats.read(tmp_path / "a.hdf5", skip_bad_episodes=True)
    assert [(e.number, e.name) for e in read.skipped] == [(1, "episode 1")]
    assert (read.episode_ends - read.episode_starts).tolist() == [5, 3, 4]


def test_an_unreadable_video(tmp_path: Path) -> None:
    data = tiny_store()
    eye = np.random.default_rng(0).integers(0, 255, (17, 16, 16, 3), np.uint8)
    path = tmp_path / "set"
    lerobot_write.write_store(path, tiny_store(obs={**data.obs, "eye": eye}), version="v2.1")
    [video] = path.rglob("episode_000001.mp4")
    video.write_bytes(video.read_bytes()[:600])
    with pytest.raises(UserError, match="episode_000001"):
        formats.read(path, images=True)
    read = formats.read(path, images=True, skip_bad_episodes=True)
    assert [e.number for e in read.skipped] == [1]
    np.testing.assert_array_equal(read.obs["eye"], eye[[*range(5), *range(14, 17)]])


def test_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    robomimic.write_store(path, tiny_store())
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            del demo["actions"]
    with pytest.raises(UserError, match=r"got none of 3; the first: .*demo_0"):
        formats.read(path, skip_bad_episodes=True)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = set_of(tmp_path / "a.hdf5", "shape", 1)
    assert verify(source_of(str(path))).errors == 1
    report = verify(source_of(str(path)), skip_bad_episodes=True)
    assert (report.errors, report.episodes) == (0, 3)
    assert any("demo_1" in remark for remark in report.remarks)
    out = tmp_path / "store"
    assert run_main(lambda: main(["convert", str(path), f"--out={out}", "--skip_bad_episodes"])) == 0
    assert "note: left out: demo_1" in capsys.readouterr().out
    again = formats.read(out)
    assert [e.name for e in again.skipped] == ["demo_1"], "a converted set remembers them"
    assert again.fingerprint() == read_for(path, "", skip_bad_episodes=True).fingerprint()
    assert run_main(lambda: main(["info", str(path)])) == 2
    assert "--skip_bad_episodes" in capsys.readouterr().err


def test_nested_groups_and_text(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    robomimic.write_store(path, tiny_store())
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo["obs/robot/pos"] = np.ones((len(demo["actions"]), 3), np.float32)
            demo["obs/language"] = np.array([b"lift"] * len(demo["actions"]))
    read = formats.read(path)
    assert set(read.obs) == {"arm", "cube", "robot/pos"}
    assert any("language" in remark and "text" in remark for remark in read.remarks())
    assert verify(source_of(str(path))).errors == 0


def test_a_run_lists_what_it_left_out(tmp_path: Path) -> None:
    from raybc.data.notes import write_data_notes

    write_data_notes(tmp_path / "none.json", tiny_store())
    assert not (tmp_path / "none.json").exists()
    read = formats.read(set_of(tmp_path / "a.hdf5", "nan", 2), skip_bad_episodes=True)
    write_data_notes(tmp_path / "data_notes.json", read)
    [skipped] = json.loads((tmp_path / "data_notes.json").read_text())["skipped_episodes"]
    assert (skipped["number"], skipped["name"]) == (2, "demo_2")
    assert "nan" in skipped["reason"]
