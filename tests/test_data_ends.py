"""Where episodes end and which of them are trained on: end flags of all writers, splits of all formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from raybc.config import RunConfig
from raybc.data import formats, select, store
from raybc.data.formats import lerobot_write, robomimic
from raybc.data.scan import source_of
from raybc.data.verify import verify
from raybc.train.data import train_episodes
from raybc.types import UserError
from tests.helpers import tiny_store

ROWS = 60
LAST = np.isin(np.arange(ROWS), [19, 39, 59])
DIED = np.arange(ROWS) == 39


def flat(path: Path, **flags: np.ndarray) -> Path:
    """Three episodes of 20 steps in a flat file."""
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(ROWS, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (ROWS, 2)).astype(np.float32),
        "rewards": np.zeros(ROWS, np.float32),
        **flags,
    }
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return path
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
@pytest.mark.parametrize(
    "flags",
    [
        {"terminals": DIED, "timeouts": LAST & ~DIED},
        {"terminals": DIED, "truncations": (LAST & ~DIED).astype(np.float32)},
        {"terminals": DIED, "episode_terminals": LAST.astype(np.float32)},
        {"terminals": DIED, "dones": LAST},
        {"terminated": DIED, "truncated": LAST & ~DIED},
        {"terminateds": DIED, "truncateds": (LAST & ~DIED)[:, None]},
        {"terminations": DIED, "truncations": LAST & ~DIED},
        {"done": LAST},
        {"is_terminal": DIED, "is_last": LAST},
        {"is_first": np.roll(LAST, 1)},
        {"episode_starts": np.roll(LAST, 1), "terminals": DIED},
        {"terminals": DIED, "next.done": LAST},
    ],
    ids=lambda flags: "+".join(flags),
)
def test_end_flags_of_all_writers_are_read(flags: dict[str, np.ndarray], kind: str, tmp_path: Path) -> None:
    read = formats.read(flat(tmp_path / f"a.{kind}", **flags))
    assert read.episode_ends.tolist() == [20, 40, 60]
    if set(flags) & {"terminals", "terminated", "terminateds", "terminations", "is_terminal"}:
        assert read.terminals_N is not None
        assert np.flatnonzero(read.terminals_N).tolist() == [39]
    assert formats.count(tmp_path / f"a.{kind}", formats.detect(tmp_path / f"a.{kind}")) == 3


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_an_unknown_flag_that_cuts_elsewhere_is_named(kind: str, tmp_path: Path) -> None:
    path = flat(tmp_path / f"a.{kind}", terminals=LAST & (np.arange(ROWS) > 30), resets=LAST)
    with pytest.raises(UserError, match="resets: zeros and ones that look like ends of episodes"):
        formats.read(path)
    report = verify(source_of(str(path)))
    assert [f.kind for f in report.findings] == ["unreadable"]
    assert "resets" in report.findings[0].found


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_other_zeros_and_ones_are_no_flags(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    others = {"gripper_open": rng.uniform(size=ROWS) > 0.5, "success": np.arange(ROWS) % 7 == 3, "ends_too": LAST}
    read = formats.read(flat(tmp_path / f"a.{kind}", terminals=DIED, timeouts=LAST & ~DIED, masks=~DIED, **others))
    assert read.episode_ends.tolist() == [20, 40, 60]


def test_ogbenchs_files_are_read_as_before(tmp_path: Path) -> None:
    read = formats.read(flat(tmp_path / "a.npz", terminals=LAST))
    assert read.episode_ends.tolist() == [19, 38, 57], "the last row of a trajectory is no transition"


def test_dictionaries_of_flat_files(tmp_path: Path) -> None:
    path = flat(tmp_path / "a.hdf5", terminals=LAST)
    with h5py.File(path, "a") as file:
        state = file["observations"][()]
        del file["observations"]
        file["observations/arm/pos"], file["observations/words"] = state, np.array([b"lift"] * ROWS)
        file["observations/eye"] = np.zeros((ROWS, 8, 8, 3), np.uint8)
    assert set(formats.read(path).obs) == {"arm/pos"}
    assert {n.kind for n in formats.read(path).notes} == {"text"}
    assert set(formats.read(path, images=True).obs) == {"arm/pos", "eye"}


# Splits


def masks(path: Path, **splits: list[int]) -> Path:
    robomimic.write_store(path, tiny_store((5, 9, 3, 4), splits=splits))
    return path


def test_splits_that_share_episodes_are_refused(tmp_path: Path) -> None:
    path = masks(tmp_path / "a.hdf5", train=[0, 1, 2, 3], valid=[2, 3])
    [finding] = verify(source_of(str(path))).findings
    assert (finding.severity, finding.kind, finding.episodes) == ("error", "splits", (2, 3))
    with pytest.raises(UserError, match=r"train and valid without common episodes, got 2 in both: 2, 3"):
        train_episodes(RunConfig(), formats.read(path))
    assert len(train_episodes(RunConfig(holdout_seed=0), formats.read(path))) == 3, "the remedy of the message"


def test_episodes_that_a_split_lists_twice_count_once(tmp_path: Path) -> None:
    path = masks(tmp_path / "a.hdf5", train=[0, 0, 0, 1, 2], valid=[3])
    assert train_episodes(RunConfig(), formats.read(path)).tolist() == [0, 1, 2]
    [finding] = verify(source_of(str(path))).findings
    assert (finding.severity, finding.kind, finding.key) == ("warning", "splits", "train")
    assert "0 more than once" in finding.found


@pytest.mark.parametrize("name", ["valid", "val", "validation", "test"])
def test_without_a_training_split_the_rest_is_trained_on(name: str, tmp_path: Path) -> None:
    read = formats.read(masks(tmp_path / "a.hdf5", **{name: [1, 3]}))
    train, valid = select.splits_of(read)
    assert train.tolist() == [0, 2]
    assert valid.tolist() == ([] if name == "test" else [1, 3])
    assert any("the 2 episodes that are not in" in remark for remark in read.remarks())
    report = verify(source_of(str(tmp_path / "a.hdf5")))
    assert report.findings == ()
    assert any("not declared" in remark for remark in report.remarks)


def test_subsets_may_share_episodes(tmp_path: Path) -> None:
    """robomimic's own masks: quarters of the training split."""
    path = masks(tmp_path / "a.hdf5", train=[0, 1, 2], valid=[3], **{"20_percent": [0, 1]})
    assert verify(source_of(str(path))).findings == ()
    assert train_episodes(RunConfig(), formats.read(path)).tolist() == [0, 1, 2]


def test_everything_is_held_out(tmp_path: Path) -> None:
    read = formats.read(masks(tmp_path / "a.hdf5", valid=[0, 1, 2, 3]))
    with pytest.raises(UserError, match=r"all are held out in valid: draw other splits with --holdout_seed=0"):
        train_episodes(RunConfig(), read)


@pytest.mark.parametrize(
    ("format", "name"),
    [("robomimic", "a.hdf5"), ("libero", "a.hdf5"), ("d4rl", "a.hdf5"), ("lerobot", "a"), ("episode_ends", "a.npz"),
     ("episode_ends", "a.zarr"), ("rlds", "a"), ("store", "a"), ("ogbench", "a.npz")],
)  # fmt: skip
def test_splits_survive_a_conversion(format: str, name: str, tmp_path: Path) -> None:
    """Also where they are no ranges. RLDS and OGBench store episodes by splits, so their numbers change."""
    if format == "episode_ends" and name.endswith("zarr"):
        pytest.importorskip("numcodecs")
    data = tiny_store((5, 9, 3, 4), splits={"train": [0, 2], "valid": [1, 3]}, tasks=("go",) * 4)
    formats.get(format).write_store(tmp_path / name, data)
    read = formats.read(tmp_path / name, format=format)
    lengths = read.episode_ends - read.episode_starts
    assert {k: lengths[v].tolist() for k, v in read.splits.items()} == {"train": [5, 3], "valid": [9, 4]}


def test_a_suite_of_files_keeps_its_masks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        data = tiny_store((5, 9, 3), splits={"train": [0, 2], "valid": [1]}, tasks=(name,) * 3)
        formats.get("libero").write_store(tmp_path / f"{name}.hdf5", data)
    read = formats.read(tmp_path)
    assert {k: v.tolist() for k, v in read.splits.items()} == {"train": [0, 2, 3, 5], "valid": [1, 4]}


@pytest.mark.parametrize(
    ("text", "numbers", "expected"),
    [("0:2", [0, 1, 2], [0, 1]), ("0:1,2:3", [0, 1, 2], [0, 2]), ("0:3", [0, 2, 3], [0, 1, 2]),
     ("2:4", [0, 2, 3], [1, 2]), ("0:5", [0, 2], None), ("a:b", [0], None), ("0:99999999999999999999", [0], None)],
)  # fmt: skip
def test_ranges_of_lerobot(text: str, numbers: list[int], expected: list[int] | None) -> None:
    from raybc.data.formats.lerobot_frames import split_of

    def places() -> Any:
        return split_of(text, np.array(numbers), "info.json").tolist()

    if expected is not None:
        assert places() == expected
        return
    with pytest.raises(UserError, match="expected"):
        places()


def test_verify_refuses_what_reading_refuses(tmp_path: Path) -> None:
    """Splits that were written before episodes were removed, and an episode without steps."""
    path = tmp_path / "set"
    lerobot_write.write_store(path, tiny_store())
    info = path / "meta/info.json"
    info.write_text(info.read_text().replace('"0:3"', '"0:5"'))
    with pytest.raises(UserError, match="got 0:5; correct it to 0:3"):
        formats.read(path)
    assert [f.kind for f in verify(source_of(str(path))).findings] == ["unreadable"]


def test_stores_of_earlier_releases_keep_their_fingerprint(tmp_path: Path) -> None:
    """They have splits as they were declared: with repetitions, and without a training split."""
    data = tiny_store((5, 9, 3), splits={"valid": [1, 1]})
    store.write_store(tmp_path / "a", data)
    store.verify(tmp_path / "a")
    assert formats.read(tmp_path / "a").splits["train"].tolist() == [0, 2]
