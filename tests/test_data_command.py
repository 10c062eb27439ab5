"""`python -m raybc.data` as a user types it: what is printed, what is written, and the exit status."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from raybc import cli
from raybc.data import formats, store
from raybc.data.__main__ import main
from tests.helpers import tiny_store

Capture = pytest.CaptureFixture[str]


def data_command(*args: object) -> int:
    return cli.run_main(lambda: main([str(a) for a in args]))


def printed(capsys: Capture, *args: object, status: int = 0) -> str:
    assert data_command(*args) == status
    return capsys.readouterr().out


def as_json(capsys: Capture, *args: object, status: int = 0) -> Any:
    return json.loads(printed(capsys, *args, "--json", status=status))


def test_info(pointmass_demos: Path, capsys: Capture) -> None:
    data = formats.read(pointmass_demos)
    found = as_json(capsys, "info", pointmass_demos)
    lengths = np.diff(data.episode_ends, prepend=0)
    assert found["arrays"]["obs/state"] == [[len(data.actions_NA), 4], "float32"]
    assert found["arrays"]["states"] == [[len(data.actions_NA), 6], "float64"]
    assert found["lengths"] == [lengths.min(), np.median(lengths), pytest.approx(lengths.mean()), lengths.max()]
    expected = {
        "path": str(pointmass_demos), "format": "robomimic", "episodes": 40, "transitions": len(data.actions_NA),
        "splits": {"train": 36, "valid": 4}, "tasks": {}, "successes": 40, "environment": "PointMass 1",
        "action_range": None, "fingerprint": data.fingerprint(), "bytes": pointmass_demos.stat().st_size,
    }  # fmt: skip
    assert {k: found[k] for k in expected} == expected
    text = printed(capsys, "info", pointmass_demos)
    for word in (
        "40, 40 successful",
        "train 36, valid 4",
        "PointMass 1",
        "not declared",
        data.fingerprint(),
        "obs/goal",
    ):
        assert word in text
    tasks = tiny_store(tasks=("push",) * 2 + ("pull",), action_range=(-np.ones(2, "f4"), np.full(2, 3, "f4")))
    path = pointmass_demos.parent / "tasks"
    store.write_store(path, tasks)
    text = printed(capsys, "info", path)
    assert "'pull' (1), 'push' (2)" in text
    assert "-1 to 3, -1 to 3" in text


def test_stats(pointmass_demos: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # a narrow terminal has fewer digits
    data = formats.read(pointmass_demos)
    found = as_json(capsys, "stats", pointmass_demos, "--states")
    assert sorted(found) == ["actions", "obs/goal", "obs/state", "rewards", "states"]
    np.testing.assert_allclose(
        found["actions"]["q99"], np.quantile(data.actions_NA.astype("f8"), 0.99, axis=0), rtol=1e-6
    )
    assert found["actions"]["count"] == len(data.actions_NA)
    text = printed(capsys, "stats", pointmass_demos)
    assert f"{data.obs['goal'][:, 1].mean(dtype='f8'):.5g}" in text
    assert "obs/state[3]" in text


def test_stats_of_a_split(pointmass_demos: Path, tmp_path: Path, capsys: Capture) -> None:
    """The whole is the parts; nan outside of the split is no matter."""
    data = formats.read(pointmass_demos)
    starts, ends = data.episode_starts, data.episode_ends
    for split in ("train", "valid"):
        found = as_json(capsys, "stats", pointmass_demos, "--split", split)
        rows = np.concatenate([data.actions_NA[starts[e] : ends[e]] for e in data.splits[split]]).astype("f8")
        assert found["actions"]["count"] == len(rows)
        for name, expected in (("mean", rows.mean(0)), ("std", rows.std(0)), ("q99", np.quantile(rows, 0.99, axis=0))):
            np.testing.assert_allclose(found["actions"][name], expected, rtol=1e-6)
    broken = tmp_path / "a.hdf5"
    formats.get("robomimic").write_store(broken, tiny_store(splits={"train": [0, 2], "valid": [1], "empty": []}))
    with h5py.File(broken, "a") as file:
        file["data/demo_1/obs/arm"][2] = np.nan
    assert as_json(capsys, "stats", broken, "--split=train")["actions"]["count"] == 8
    for split, words in (
        ("valid", "arm: expected finite numbers, got nan or inf in episode 1"),
        ("trian", "unknown split 'trian': did you mean 'train'?"),
        ("empty", "split 'empty': expected at least one episode, got none"),
    ):
        assert data_command("stats", broken, "--split", split) == 2
        assert words in capsys.readouterr().err
    store.write_store(tmp_path / "none", tiny_store())
    assert data_command("stats", tmp_path / "none", "--split=train") == 2
    assert "unknown split 'train': the data have no splits" in capsys.readouterr().err


def test_verify(pointmass_demos: Path, tmp_path: Path, capsys: Capture) -> None:
    flags = ["--env_name", "pointmass", "--horizon_length=4", "--replay=3"]
    text = printed(capsys, "verify", pointmass_demos, *flags)
    assert "replay: 3 of 3 episodes succeed (3 when recorded) in pointmass, begun from the recorded seed" in text
    assert "OK: 0 errors, 0 warnings" in text
    found = as_json(capsys, "verify", pointmass_demos, *flags)
    assert [e["episode"] for e in found["replay"]["episodes"]] == [0, 20, 39]
    assert (found["errors"], found["warnings"], found["findings"]) == (0, 0, [])

    store.convert(pointmass_demos, tmp_path / "a", states=True)  # a copy to break
    formats.get("robomimic").write_store(tmp_path / "bad.hdf5", formats.read(tmp_path / "a", states=True))
    with h5py.File(tmp_path / "bad.hdf5", "a") as file:
        file["data/demo_3/obs/goal"][2] = np.nan
        file["data/demo_4/actions"][...] = 0
        file["data/demo_4/dones"][1] = 1
        file["data/demo_9/actions"][3] = np.inf
    found = as_json(capsys, "verify", tmp_path / "bad.hdf5", "--replay", 40, "--horizon_length=17", status=1)
    kinds = {f["kind"]: f for f in found["findings"]}
    assert sorted(kinds) == ["done_early", "not_finite", "replay"]
    broken = {f["key"]: f["episodes"] for f in found["findings"] if f["kind"] == "not_finite"}
    assert broken == {"goal": [3], "actions": [9]}
    assert (kinds["replay"]["severity"], kinds["replay"]["episodes"]) == ("warning", [4])
    assert found["replay"]["successes"] == 38
    assert 9 not in [e["episode"] for e in found["replay"]["episodes"]]
    text = printed(capsys, "verify", tmp_path / "bad.hdf5", status=1)
    assert "not usable as it is: 3 errors, 0 warnings" in text
    assert "nan or inf" in text


def test_warnings_are_no_failure(tmp_path: Path, capsys: Capture) -> None:
    store.write_store(tmp_path / "a", tiny_store((5, 9, 3)))
    assert "OK: 0 errors, 1 warnings" in printed(capsys, "verify", tmp_path / "a", "--horizon_length=4")


def test_damage_is_a_finding(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "a.hdf5"
    formats.get("robomimic").write_store(path, tiny_store())
    with h5py.File(path, "a") as file:
        del file["data/demo_1/actions"]
    [found] = as_json(capsys, "verify", path, "--replay=1", status=1)["findings"]
    assert found["kind"] == "unreadable"
    assert "demo_1" in found["found"]
    path.write_bytes(path.read_bytes()[:100])
    [found] = as_json(capsys, "verify", path, status=1)["findings"]
    assert "damaged or truncated" in found["found"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "expected one of info, stats, verify, view, quality, convert, got nothing"),
        (("check", "x"), "got check"),
        (("verify", "/no/such/file.hdf5"), "found no such file or folder"),
        (("verify", "lift-mh-lowdim"), "unknown data"),
        (("verify", "{demos}", "--env_name", "pointmas"), "did you mean 'pointmass"),
        (("verify", "{demos}", "--replay=-1"), "--replay: expected at least 0, got -1"),
        (("verify", "{demos}", "--horizon_length=-4"), "--horizon_length: expected at least 0, got -4"),
        (("verify", "{tiny}", "--replay=1"), "the data name no known environment"),
        (("convert", "{demos}"), "--out: expected the file or folder to write"),
        (("convert", "{demos}", "--out", "{tiny}"), "exists; delete it or choose another place"),
        (("convert", "{demos}", "--out", "x", "--format", "robomimik"), "did you mean 'robomimic'"),
        (("stats", "/no/such/file.hdf5"), "found no such file or folder"),
    ],
)
def test_mistakes(args: tuple[str, ...], words: str, pointmass_demos: Path, tmp_path: Path, capsys: Capture) -> None:
    store.write_store(tmp_path / "tiny", tiny_store())
    args = tuple(a.format(demos=pointmass_demos, tiny=tmp_path / "tiny") for a in args)
    assert data_command(*args) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")


def test_help(capsys: Capture) -> None:
    assert "convert  write it in another format" in printed(capsys, "--help")
    with pytest.raises(SystemExit) as stop:
        main(["verify", "--help"])
    assert stop.value.code == 0
    assert "--horizon" in capsys.readouterr().out


def test_convert(pointmass_demos: Path, tmp_path: Path, capsys: Capture) -> None:
    data = formats.read(pointmass_demos)
    text = printed(capsys, "convert", pointmass_demos, "--out", tmp_path / "a")
    assert f"40 episodes, {len(data.actions_NA)} transitions in {tmp_path / 'a'} (store)" in text
    assert f"fingerprint: {data.fingerprint()}" in text
    assert "note:" not in text
    made = formats.read(tmp_path / "a")
    assert made.states_NS is not None
    assert made.fingerprint() == data.fingerprint()

    text = printed(capsys, "convert", tmp_path / "a", "--out", tmp_path / "b.hdf5", "--format=robomimic")
    assert data.fingerprint() in text
    assert formats.read(tmp_path / "b.hdf5", states=True).states_NS is not None
    text = printed(capsys, "convert", pointmass_demos, "--out", tmp_path / "c", "--format", "lerobot", "--no-states")
    assert f"note: the fingerprint was {data.fingerprint()}" in text
    np.testing.assert_array_equal(formats.read(tmp_path / "c").actions_NA, data.actions_NA)


def test_progress_of_a_conversion_has_a_total(
    pointmass_demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals, shown = [], []

    @contextlib.contextmanager
    def progress(_: str, total: int | None, quiet: bool = False) -> Iterator[Callable[[int], None]]:
        totals.append(total)
        yield shown.append

    monkeypatch.setattr("raybc.cli.episodes_bar", progress)
    assert data_command("convert", pointmass_demos, "--out", tmp_path / "a") == 0
    assert (totals, shown[-1]) == ([40], 40)
    assert shown == sorted(shown)


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "a.hdf5"
    formats.get("robomimic").write_store(path, tiny_store())
    with h5py.File(path, "a") as file:
        file["data/demo_2/obs/arm"][1] = np.nan
    assert data_command("convert", path, "--out", tmp_path / "b") == 2
    assert "arm: expected finite numbers, got nan or inf in episode 2" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]
