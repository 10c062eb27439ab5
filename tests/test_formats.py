"""Every format of `raybc.data.formats` against the conformance cases."""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from raybc.data import formats
from raybc.data.episodes import EpisodeStore
from raybc.types import UserError
from tests.conformance.formats import CASES, LENGTHS, Case, full_store


def ids(case: Case) -> str:
    return f"{case.format}-{case.name}"


@pytest.fixture(params=CASES, ids=ids)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    if found.needs and importlib.util.find_spec(found.needs) is None:
        pytest.skip(f"{found.needs} is not installed: pip install 'raybc[{found.needs}]'")
    return found


def write(case: Case, path: Path, store: EpisodeStore) -> Path:
    (case.write or formats.get(case.format).write_store)(path, store)
    return path


def check_equal(case: Case, got: EpisodeStore, store: EpisodeStore) -> None:
    assert got.episode_ends.tolist() == store.episode_ends.tolist()
    assert got.episode_ends.dtype == np.int64
    if "names" in case.carries:
        assert set(got.obs) == set(store.obs)
        for key in store.obs:
            np.testing.assert_array_equal(got.obs[key], store.obs[key])
            assert got.obs[key].dtype == store.obs[key].dtype
    else:
        np.testing.assert_array_equal(got.obs["state"], store.observation(("arm", "cube")))
    np.testing.assert_array_equal(got.actions_NA, store.actions_NA)
    assert {got.actions_NA.dtype, got.rewards_N.dtype} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(got.rewards_N, store.rewards_N if "rewards" in case.carries else 0)
    if "terminals" in case.carries:
        np.testing.assert_array_equal(got.terminals_N, store.terminals_N)
    if "states" in case.carries:
        np.testing.assert_array_equal(got.states_NS, store.states_NS)
    if "tasks" in case.carries:
        assert got.tasks == store.tasks
    if "success" in case.carries:
        np.testing.assert_array_equal(got.success_E, store.success_E)
    if "splits" in case.carries:
        assert {k: v.tolist() for k, v in got.splits.items()} == {k: v.tolist() for k, v in store.splits.items()}
    if "env_args" in case.carries:
        assert got.env_args == store.env_args
    if "frequency" in case.carries:
        assert got.frequency == store.frequency
    if "action_range" in case.carries:
        np.testing.assert_array_equal(got.action_range, store.action_range)


def test_what_is_written_is_read(case: Case, tmp_path: Path) -> None:
    store = full_store()
    path = write(case, tmp_path / case.name, store)
    assert formats.detect(path) == case.format
    assert formats.count(path, case.format) == store.num_episodes
    got = formats.read(path, states=True)
    check_equal(case, got, store)
    assert got.source == path
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == [], "no temporary file is left"
    with pytest.raises(ValueError, match="read-only"):
        got.actions_NA[0] = 0


def test_counts_spoil_nothing(tmp_path: Path) -> None:
    """Of what cannot be counted, by damage or because its format does not tell, reading says what is wrong."""
    path = tmp_path / "a.hdf5"
    formats.get("robomimic").write_store(path, full_store())
    path.write_bytes(path.read_bytes()[:300])
    assert formats.count(path, "robomimic") is None
    assert formats.count(tmp_path / "none", "lerobot") is None
    store = full_store()
    formats.get("d4rl").write_store(path, store)
    with h5py.File(path, "a") as file:
        del file["timeouts"]
    assert formats.count(path, "d4rl") is None, "old files: the step limit decides"


def test_images_are_read_where_they_are_asked_for(case: Case, tmp_path: Path) -> None:
    if not case.images:
        pytest.skip(f"{case.format}'s writer has no images")
    store = full_store(images=True)
    path = write(case, tmp_path / case.name, store)
    if case.format != "store":  # memory-mapped: what is not looked at costs nothing
        assert set(formats.read(path).obs) == {"arm", "cube"}
    for images in (True, ("camera",)):
        got = formats.read(path, images=images, states=True)
        check_equal(case, got, store)
        assert got.images == ("camera",)
    if case.format != "store":
        with pytest.raises(UserError, match="expected the images 'other'"):
            formats.read(path, images=("other",))


def test_fingerprint_is_of_contents(case: Case, tmp_path: Path) -> None:
    store = full_store()
    first = write(case, tmp_path / case.name, store)
    second = write(case, tmp_path / "elsewhere" / f"b{case.name}", store)
    other = write(case, tmp_path / "other" / case.name, full_store(seed=1))
    prints = [formats.read(path).fingerprint() for path in (first, second, other)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("part", [0.0, 0.01, 0.1, 0.3, 0.5, 0.8, 0.97, 0.999])
def test_truncated_files_are_refused(case: Case, part: float, tmp_path: Path) -> None:
    path = write(case, tmp_path / case.name, full_store())
    file = path / case.main if case.main else path
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    for name in ("", case.format):
        with pytest.raises(UserError) as error:
            formats.read(path, format=name)
        assert str(path) in str(error.value)


def test_flipped_bytes_never_surprise(case: Case, tmp_path: Path) -> None:
    """Damage is refused or goes unseen; it never is another kind of exception."""
    path = write(case, tmp_path / case.name, full_store(images=case.images))
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    rng = random.Random(0)
    for _ in range(60):
        file = rng.choice(files)
        content = file.read_bytes()
        damaged = bytearray(content)
        for _ in range(8):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            formats.read(path, format=case.format, images=case.images, states=True)
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017
        file.write_bytes(content)


def test_a_missing_key_is_named(case: Case, tmp_path: Path) -> None:
    path = write(case, tmp_path / case.name, full_store())
    case.drop(path)
    with pytest.raises(UserError) as error:
        formats.read(path, format=case.format)
    assert case.missing in str(error.value)
    assert str(path) in str(error.value)


def test_nothing_there_is_said_so(case: Case, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing"):
        formats.read(tmp_path / "nothing", format=case.format)
    with pytest.raises(UserError, match="no such file or folder"):
        formats.read(tmp_path / "nothing")


def test_converted_is_what_was_read(case: Case, tmp_path: Path) -> None:
    from raybc.data import store as stores

    if case.format == "store":
        pytest.skip("a converted set is opened, not converted")
    written = full_store(images=case.images)
    path = write(case, tmp_path / case.name, written)
    read = formats.read(path, images=True, states=True)
    got = stores.convert(path, tmp_path / "converted", images=True, states=True)
    check_equal(case, got, written)
    assert got.fingerprint() == read.fingerprint() == stores.fingerprint(tmp_path / "converted")
    stores.verify(tmp_path / "converted")


def test_names_of_formats() -> None:
    with pytest.raises(UserError, match=r"unknown format 'd4rI': did you mean 'd4rl'\?"):
        formats.get("d4rI")
    for name in formats.FORMATS:
        fmt = formats.get(name)
        assert name == fmt.NAME
        assert fmt.DESCRIPTION


def test_unknown_files_list_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    with pytest.raises(UserError, match="begins as an HDF5 file: it may be damaged or truncated") as error:
        formats.read(tmp_path / "a.hdf5")
    for name in formats.FORMATS:
        assert f"\n  {name}: " in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not in a known format"):
        formats.read(tmp_path / "empty")


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    for case in CASES[:5]:
        path = write(case, tmp_path / case.name, full_store())
        other = tmp_path / f"{case.format}.data"
        shutil.move(path, other)
        if case.format not in ("ogbench", "episode_ends"):  # numpy appends .npz
            assert formats.detect(other) == case.format


def test_a_folder_of_libero_is_a_suite(tmp_path: Path) -> None:
    libero = formats.get("libero")
    store = full_store()
    for i, task in enumerate(("open the drawer", "close it")):
        libero.write_store(tmp_path / f"{i}_demo.hdf5", dataclasses.replace(store, tasks=(task,) * 3))
    got = formats.read(tmp_path)
    assert got.num_episodes == 6
    assert got.tasks == ("open the drawer",) * 3 + ("close it",) * 3
    with pytest.raises(UserError, match="expected an instruction for every episode, got none"):
        libero.write_store(tmp_path / "x.hdf5", dataclasses.replace(store, tasks=()))
    assert not (tmp_path / "x.hdf5").exists()
    assert got.episode_ends.tolist() == np.cumsum(LENGTHS * 2).tolist()
