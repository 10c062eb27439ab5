"""Data in every format are written in every other, and what a format does not keep is named."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from raybc import cli
from raybc.data import formats
from raybc.data.__main__ import main
from raybc.data.conversion import not_kept
from raybc.data.episodes import EpisodeStore
from raybc.types import UserError
from tests.conformance.formats import ALL, CASES, LENGTHS, Case, full_store
from tests.helpers import ROOT, tiny_store
from tests.test_formats import ids, write

#: What a store may have -> how `not_kept` and the columns of docs/data.md call it.
WORDS = {
    "names": "names of observations",
    "rewards": "rewards",
    "terminals": "flags of ends",
    "splits": "the splits",
    "tasks": "instructions",
    "success": "success",
    "states": "states of the simulator",
    "env_args": "the environment",
    "action_range": "the range of actions",
    "frequency": "the frequency",
}
COLUMNS = {"terminals": "ends", "tasks": "instructions", "env_args": "environment", "action_range": "action range"}
#: Of which every conversion is among the quick tests.
FAST = ("v3", "store")
#: What the fingerprint is of.
LEARNED = {"names", "rewards", "splits", "tasks"}


def has(store: EpisodeStore) -> set[str]:
    """Which of `ALL` a data set has."""
    there = {
        "names": list(store.obs) != ["state"],
        "rewards": store.rewards_N.any(),
        "splits": store.splits,
        "tasks": any(store.tasks),
        "env_args": store.env_args,
    }
    optional = {
        "terminals": store.terminals_N, "success": store.success_E, "states": store.states_NS,
        "action_range": store.action_range, "frequency": store.frequency,
    }  # fmt: skip
    return {k for k, v in there.items() if v} | {k for k, v in optional.items() if v is not None}


@functools.cache
def _original() -> EpisodeStore:
    return full_store()


@pytest.mark.parametrize("target", CASES, ids=ids)
@pytest.mark.parametrize(
    "case", [pytest.param(one, marks=() if one.name in FAST else pytest.mark.slow) for one in CASES], ids=ids
)
def test_every_format_is_written_from_every_other(case: Case, target: Case, tmp_path: Path) -> None:
    for needed in filter(None, (case.needs, target.needs)):
        pytest.importorskip(needed)
    read = formats.read(write(case, tmp_path / case.name, _original()), states=True)
    place = tmp_path / "converted" / target.name
    if target.format == "libero" and not read.tasks:
        with pytest.raises(UserError, match="expected an instruction for every episode"):
            write(target, place, read)
        return
    got = formats.read(write(target, place, read), states=True)
    kept = set(target.carries) | ({"names"} if "names" not in has(read) else set())
    if case.format == target.format == "aloha":
        kept |= {"env_args"}  # whether they were simulated, which is all that these files say
    lost = not_kept(read, got)
    expected = has(read) - kept
    for what, words in WORDS.items():
        assert any(text.startswith(words) for text in lost) == (what in expected), (what, lost)
    np.testing.assert_array_equal(got.actions_NA, read.actions_NA)
    assert got.episode_ends.tolist() == np.cumsum(LENGTHS).tolist()
    added = (not read.splits and target.format in ("lerobot", "rlds")) or (
        not read.tasks and target.format == "lerobot"
    )
    if not expected & LEARNED and not added:
        assert got.fingerprint() == read.fingerprint()


def test_the_page_says_what_is_kept() -> None:
    section = (ROOT / "docs/data.md").read_text().split("\n## Writing\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    columns = {name: place for place, name in enumerate(rows[0])}
    said = {row[0].strip("`"): row for row in rows[2:]}
    assert set(said) == {one.format for one in CASES}
    for one in CASES:
        for what in ALL:
            cell = said[one.format][columns[COLUMNS.get(what, what)]]
            assert bool(cell) == (what in one.carries), (one.format, what)
        assert bool(said[one.format][columns["images"]]) == (one.images or one.format == "ogbench")


@pytest.mark.parametrize("target", ["robomimic", "lerobot", "minari", "rlds", "aloha", "episode_ends", "libero"])
def test_images_are_written_and_read(target: str, tmp_path: Path) -> None:
    chosen = next(one for one in CASES if one.format == target)
    if chosen.needs:
        pytest.importorskip(chosen.needs)
    store = full_store(images=True)
    got = formats.read(write(chosen, tmp_path / chosen.name, store), images=True, states=True)
    np.testing.assert_array_equal(got.obs["camera"], store.obs["camera"])
    assert got.obs["camera"].dtype == np.uint8


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    store = full_store(images=True)
    for target, words in (
        ("d4rl", "d4rl: expected no images, got camera; choose another --format"),
        ("ogbench", "ogbench: expected numbers or one camera, got arm, cube, camera; choose some with --obs_keys"),
    ):
        with pytest.raises(UserError, match=words):
            formats.get(target).write_store(tmp_path / "a", store)
    camera = dataclasses.replace(store, obs={"camera": store.obs["camera"]})
    formats.get("ogbench").write_store(tmp_path / "a.npz", camera)
    np.testing.assert_array_equal(formats.read(tmp_path / "a.npz", images=True).obs["pixels"], camera.obs["camera"])
    formats.get("episode_ends").write_store(tmp_path / "b-val.npz", tiny_store())
    with pytest.raises(UserError, match=r"b-val\.npz: exists, and would be read as the split valid"):
        formats.get("ogbench").write_store(tmp_path / "b.npz", tiny_store())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-val.npz", "a.npz", "b-val.npz"], "nothing else is written"


def test_several_instructions_become_a_suite(tmp_path: Path) -> None:
    store = dataclasses.replace(full_store(), tasks=("open it", "close it", "open it"), splits={"valid": np.array([2])})
    formats.get("libero").write_store(tmp_path / "suite", store)
    assert [p.name for p in sorted((tmp_path / "suite").iterdir())] == [
        "000_open_it_demo.hdf5",
        "001_close_it_demo.hdf5",
    ]
    got = formats.read(tmp_path / "suite", states=True)
    assert got.tasks == ("open it", "open it", "close it")
    assert got.splits["valid"].tolist() == [1]
    assert not_kept(store, got) == ["the order of episodes", "the range of actions"]


def test_the_command_names_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formats.get("store").write_store(tmp_path / "a", full_store(images=True))

    def convert(source: str, out: str, *more: str, status: int = 0) -> str:
        arguments = ["convert", str(tmp_path / source), "--out", str(tmp_path / out), *more]
        assert cli.run_main(lambda: main(arguments)) == status
        printed = capsys.readouterr()
        return " ".join((printed.err if status else printed.out).split())

    assert "note:" not in convert("a", "b.hdf5", "--format=robomimic", "--images").replace(
        "note: not kept by the format robomimic: the range of actions", ""
    )
    text = convert("a", "c", "--format=aloha", "--images")
    assert "not kept by the format aloha: the splits valid, success, flags of ends" in text.replace("train, ", "")
    text = convert("a", "d.npz", "--format=ogbench", "--images", "--obs_keys", "camera")
    assert "names of observations (camera became pixels), rewards" in text
    text = convert("a", "e", "--format=lerobot", "--images", "--video", "h264")
    assert "not kept by the format lerobot: detail of images" in text
    convert("a", "f", "--format=lerobot", "--images", "--frequency=25")
    assert formats.read(tmp_path / "f").frequency == 25
    convert("f", "g", "--frequency=30")
    assert formats.read(tmp_path / "g").frequency == 30
    assert "--frequency: expected steps per second" in convert("a", "h", "--frequency=-1", status=2)
