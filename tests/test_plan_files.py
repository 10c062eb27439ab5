"""Plans on disk: written and read, damaged and edited ones refused, data that they do not fit refused."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.data.adapt import for_task
from raybc.data.episodes import EpisodeStore
from raybc.data.plan.build import build_plan
from raybc.data.plan.config import PlanConfig
from raybc.data.plan.files import ARRAYS, META, PAGE, load_plan, save_plan
from raybc.data.plan.plan import SamplingPlan
from raybc.data.plan.verify import check_dataset, check_rebuilt, check_training
from raybc.files import read_json
from raybc.strict import digest
from raybc.types import UserError
from tests.helpers import tiny_store
from tests.plans import plan_of, tiny_plan

LENGTHS = (20, 31, 12, 25)
SETTINGS: dict[str, Any] = {
    "num_episodes_keep": 3, "stage_strategy": "change_point_state", "gripper_event_enabled": True, "gripper_dims": "0",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_plan(tiny_plan(LENGTHS, **SETTINGS), tmp_path / "plan")
    return tmp_path / "plan"


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load_plan(path)
    return str(error.value)


def same(a: SamplingPlan, b: SamplingPlan) -> bool:
    arrays = all(np.array_equal(x, b.arrays()[n]) for n, x in a.arrays().items())
    return arrays and a.meta() == b.meta() and a.config == b.config


def test_what_is_written_is_read(folder: Path) -> None:
    plan = tiny_plan(LENGTHS, **SETTINGS)
    assert sorted(p.name for p in folder.iterdir()) == [ARRAYS, META]
    for path in (folder, folder / META, folder / ARRAYS):
        assert same(load_plan(path), plan)
    meta = read_json(folder / META)
    assert meta["plan_sha256"] == plan.plan_sha256
    assert meta["dataset_fingerprint"] == tiny_store(LENGTHS).fingerprint()
    assert meta["episodes_keep"] == plan.episodes_E.tolist()
    assert len(meta["episodes_keep"]) == 3
    assert meta["valid_start_rule"] == {"formula": "f <= min(L - H + tail_keep, L - 1)", "tail_keep": 0}
    assert (meta["repo_id"], meta["dataset_len"], meta["action_horizon"]) == ("tiny", 88, 4)
    assert (meta["sampler_seed"], meta["replacement"], meta["stride_used"]) == (0, True, 2)
    assert meta["parameters"] == plan.config.to_plain()
    with np.load(folder / ARRAYS, allow_pickle=False) as file:
        assert file["anchor_indices"].tolist() == plan.anchors_P.tolist()
        kinds = {name: array.dtype.str for name, array in file.items()}
    assert kinds == dict.fromkeys(plan.arrays(), "<i8") | {"weights": "<f8"}
    with pytest.raises(ValueError, match="read-only"):
        plan.weights_P[0] = 1


def test_the_name_of_a_plan_is_its_contents(folder: Path, tmp_path: Path) -> None:
    plan = load_plan(folder)
    save_plan(plan, tmp_path / "elsewhere/copy")
    assert load_plan(tmp_path / "elsewhere/copy").plan_sha256 == plan.plan_sha256
    others = [
        dataclasses.replace(plan, config=dataclasses.replace(plan.config, sampler_seed=1)),
        dataclasses.replace(plan, weights_P=plan.weights_P * 2),
        dataclasses.replace(plan, repo_id="other"),
        tiny_plan(LENGTHS, **{**SETTINGS, "plan_seed": 1}),
    ]
    assert len({p.plan_sha256 for p in [plan, *others]}) == 5


def test_folders_are_not_lost_by_accident(folder: Path, tmp_path: Path) -> None:
    plan, other = load_plan(folder), tiny_plan(LENGTHS, plan_seed=1)
    with pytest.raises(UserError, match="a plan is there; replace it with --overwrite"):
        save_plan(other, folder)
    assert same(load_plan(folder), plan)
    (folder / PAGE).write_text("an old image")
    save_plan(other, folder, overwrite=True)
    assert same(load_plan(folder), other)
    assert not (folder / PAGE).exists()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"contains 'notes.txt', which is not part of a plan"):
        save_plan(plan, folder, overwrite=True)
    with pytest.raises(UserError, match="expected a folder for the plan, got a file"):
        save_plan(plan, folder / "notes.txt", overwrite=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    save_plan(plan, empty)
    assert same(load_plan(empty), plan)


def test_half_a_plan_never_appears(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raybc.data.plan.files.write_json", full)
    before = load_plan(folder)
    for target in (folder, folder.parent / "new"):
        with pytest.raises(OSError, match="No space left"):
            save_plan(tiny_plan(), target, overwrite=True)
    assert [p.name for p in folder.parent.iterdir()] == ["plan"]
    assert same(load_plan(folder), before)


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    assert "expected a sampling plan (a folder with plan_meta.json and plan_arrays.npz" in refused(tmp_path / "nothing")
    (folder / ARRAYS).rename(tmp_path / "away.npz")
    assert f"{folder / ARRAYS}: expected the arrays of a sampling plan, found none" in refused(folder)
    assert "expected a sampling plan" in refused(tmp_path / "away.npz")
    (folder / META).unlink()
    assert f"{folder / META}: expected a JSON file, found none" in refused(folder)


@pytest.mark.parametrize("name", [META, ARRAYS])
def test_every_damaged_byte_is_found_or_harmless(folder: Path, name: str) -> None:
    """A flipped byte (or a cut) is refused, or the plan that is read is the plan that was written."""
    plan, path = load_plan(folder), folder / name
    content, rng, refusals = path.read_bytes(), random.Random(0), 0
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(load_plan(folder), plan)
        except UserError as error:
            assert str(folder) in str(error)  # noqa: PT017
            refusals += 1
    assert refusals > len(content) // 3 // 2
    for part in (0.0, 0.1, 0.5, 0.9, 0.99):
        path.write_bytes(content[: int(part * len(content))])
        assert str(folder) in refused(folder)


def rehashed(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], None]:
    """An edit by somebody who computes the checksum again."""

    def edit(meta: dict[str, Any]) -> None:
        change(meta)
        meta["plan_sha256"] = digest({k: v for k, v in meta.items() if k != "plan_sha256"})

    return edit


def set_value(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(meta: dict[str, Any]) -> None:
        for key in path[:-1]:
            meta = meta[key]
        meta[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_value("sampler_seed", to=5), "plan_sha256: expected"),
        (set_value("parameters", "stride_S", to=3), "plan_sha256: expected"),
        (lambda meta: meta.pop("plan_sha256"), "plan_sha256: expected"),
        (set_value("format", to="x"), "expected a raybc sampling plan"),
        (set_value("version", to=2), "expected version 1, got 2"),
        (rehashed(set_value("sampler_seed", to=5)), "sampler_seed: expected 0, which follows from the rest, got 5"),
        (rehashed(set_value("episodes_keep", to=[0])), "episodes_keep: expected"),
        (rehashed(set_value("valid_start_rule", "tail_keep", to=2)), "valid_start_rule: expected"),
        (rehashed(set_value("parameters", "stride", to=3)), "unknown key 'stride'"),
        (rehashed(set_value("parameters", "stride_S", to="3")), "stride_S: expected int, got '3'"),
        (rehashed(set_value("parameters", "clip_ratio", to=0)), "clip_ratio: expected at least 1"),
        (rehashed(set_value("parameters", "num_stages_K", to=1)), "stage_ids: expected 0..0"),
        (rehashed(set_value("parameters", "horizon_length", to=30)), "anchor_indices: expected valid starts"),
        (rehashed(set_value("dataset_len", to=40)), "expected episodes inside the 40 transitions"),
        (rehashed(set_value("dataset_len", to="88")), "dataset_len: expected int, got '88'"),
        (rehashed(set_value("arrays", to={})), "expected the arrays []"),
        (rehashed(set_value("arrays", "weights", "sha256", to="0")), "weights: differs from its description"),
    ],
)
def test_edited_meta_is_refused(folder: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    meta = read_json(folder / META)
    change(meta)
    (folder / META).write_text(json.dumps(meta))
    assert message in refused(folder)


@pytest.mark.parametrize(
    "name",
    [
        "anchor_indices", "weights", "stage_ids", "event_indices", "boundary_indices", "episodes_keep",
        "episode_begins", "episode_lengths",
    ],
)  # fmt: skip
def test_edited_arrays_are_refused(folder: Path, name: str) -> None:
    arrays = load_plan(folder).arrays()
    np.savez(folder / ARRAYS, **{**arrays, name: arrays[name] + 1})
    assert f"{folder / ARRAYS}: {name}: differs from its description in plan_meta.json" in refused(folder)
    np.savez(folder / ARRAYS, **{k: v for k, v in arrays.items() if k != name})
    assert "expected the arrays" in refused(folder)


def test_objects_are_not_unpickled(folder: Path) -> None:
    arrays = load_plan(folder).arrays()
    np.savez(folder / ARRAYS, **{**arrays, "weights": np.array([{}], object)})
    assert "got Python objects (they are never unpickled)" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchors_P": lambda p: p.anchors_P[::-1].copy()}, "anchor_indices: expected ascending numbers"),
        ({"anchors_P": lambda p: p.anchors_P.astype(np.int32)}, "anchor_indices: expected int64 of 1 dimension"),
        ({"weights_P": lambda p: p.weights_P[1:]}, "expected as many anchors as weights and stages"),
        ({"weights_P": lambda p: 0 * p.weights_P}, "weights: expected finite numbers above 0"),
        ({"weights_P": lambda p: np.inf * p.weights_P}, "weights: expected finite numbers above 0"),
        ({"stages_P": lambda p: p.stages_P - 1}, "stage_ids: expected 0..3"),
        ({"lengths_E": lambda p: p.lengths_E[1:]}, "as many episode_begins and episode_lengths"),
        ({"lengths_E": lambda p: p.lengths_E + 9}, "expected episodes inside the 88 transitions"),
        ({"lengths_E": lambda p: p.lengths_E - 9}, "expected indices inside the kept episodes"),
        ({"events_J": lambda p: np.array([87 * 2])}, "event_indices: expected indices inside the kept episodes"),
        ({"boundaries_Q": lambda p: np.array([-1])}, "boundary_indices: expected indices inside the kept episodes"),
    ],
)
def test_plans_that_cannot_be_are_refused(
    changes: dict[str, Callable[[SamplingPlan], np.ndarray]], message: str
) -> None:
    plan = tiny_plan(LENGTHS, **SETTINGS)
    with pytest.raises(UserError, match=message):
        dataclasses.replace(plan, **{name: make(plan) for name, make in changes.items()})


# Against the data and the training


def test_other_data_is_refused() -> None:
    store = tiny_store(LENGTHS)
    plan, right = plan_of(store), store.fingerprint()
    check_dataset(plan, ["tiny"], right, 88)
    check_dataset(plan, ["renamed.hdf5"], right, 88)
    with pytest.raises(UserError) as error:
        check_dataset(plan, ["tiny", "tiny.hdf5"], "f" * 64, 88)
    message = f"Sampling plan dataset_fingerprint mismatch: expected {right}, got {'f' * 64}: the data have changed"
    assert str(error.value).startswith(message)
    assert "build the plan again" in str(error.value)
    with pytest.raises(
        UserError, match=r"dataset_fingerprint mismatch: .* \(88 transitions\), got f+ \(99 transitions\)"
    ):
        check_dataset(plan, ["tiny"], "f" * 64, 99)
    with pytest.raises(UserError, match=r"Sampling plan repo_id mismatch: expected 'tiny', .* got 'can' or 'can.hdf5'"):
        check_dataset(plan, ["can", "can.hdf5"], "f" * 64, 88)


def test_other_trainings_are_refused() -> None:
    plan = tiny_plan(LENGTHS)
    check_training(plan, 4, len(plan.anchors_P))
    with pytest.raises(
        UserError, match="Sampling plan action_horizon mismatch: expected chunks of 4 steps, got 1; set"
    ):
        check_training(plan, 1, 8)
    count = len(plan.anchors_P)
    with pytest.raises(
        UserError, match=f"Not enough anchors for one batch: expected at least {count + 1}, got {count}"
    ):
        check_training(plan, 4, count + 1)


def test_a_plan_is_built_again(folder: Path) -> None:
    check_rebuilt(load_plan(folder), tiny_store(LENGTHS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_P": lambda p: p.weights_P * (1 + 1e-6)}, "weights mismatch: expected"),
        ({"anchors_P": lambda p: p.anchors_P[:-1], "weights_P": lambda p: p.weights_P[:-1],
          "stages_P": lambda p: p.stages_P[:-1]}, "anchor_indices mismatch: expected"),
        ({"stages_P": lambda p: p.stages_P[::-1].copy()}, "stage_ids mismatch: expected"),
        ({"events_J": lambda p: p.events_J + 1}, "event_indices mismatch: expected"),
        ({"boundaries_Q": lambda p: p.boundaries_Q[1:]}, "boundary_indices mismatch: expected"),
        ({"stride_used": lambda p: 1}, "expected stride_used 2"),
    ],
)  # fmt: skip
def test_edits_with_new_checksums_are_found_by_building_again(
    tmp_path: Path, changes: dict[str, Callable[[SamplingPlan], Any]], message: str
) -> None:
    """Somebody changes an array and writes all checksums anew: the file is whole, the data says otherwise."""
    plan = tiny_plan(LENGTHS, **SETTINGS)
    forged = dataclasses.replace(plan, **{name: make(plan) for name, make in changes.items()})
    save_plan(forged, tmp_path / "forged")
    with pytest.raises(UserError, match=f"Sampling plan.* {message}"):
        check_rebuilt(load_plan(tmp_path / "forged"), tiny_store(LENGTHS))


def test_plans_move(folder: Path, tmp_path: Path) -> None:
    before = load_plan(folder)
    shutil.move(folder, tmp_path / "moved")
    assert same(load_plan(tmp_path / "moved"), before)


def test_a_plan_fits_the_same_demonstrations_however_they_are_read(tmp_path: Path) -> None:
    """Built from a data set alone, used by a task that computes observations or sees images, and the reverse."""
    rng = np.random.default_rng(0)
    state = rng.uniform(50, 450, (40, 5)).astype(np.float32)
    image = rng.integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
    actions, rewards, ends = rng.normal(size=(40, 2)).astype(np.float32), np.zeros(40, np.float32), np.array([20, 40])
    alone = EpisodeStore({"state": state}, actions, rewards, ends, source=Path("pusht"))
    with_image = EpisodeStore({"state": state, "image": image}, actions, rewards, ends, source=Path("pusht"))
    as_read = [alone, with_image, for_task(alone, "pusht"), for_task(with_image, "pusht_pixels")]
    assert len({store.fingerprint() for store in as_read}) == 4
    config = PlanConfig(horizon_length=4, batch_size=8, stride_S=1)
    for built in as_read:
        plan = build_plan(built, config, "pusht", built.fingerprint())
        for store in as_read:
            if built.images and not store.images:
                continue  # nothing tells whether these would be the images
            check_dataset(plan, ["elsewhere"], store.fingerprint(), 40, store)
            check_rebuilt(plan, store)
        other = dataclasses.replace(built, actions_NA=actions + 1)
        with pytest.raises(UserError, match="dataset_fingerprint mismatch"):
            check_dataset(plan, ["pusht"], other.fingerprint(), 40, other)
