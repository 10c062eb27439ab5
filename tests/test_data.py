"""Demonstrations: read as they were written, refused when they are damaged, cut into windows as a plain loop does."""

from __future__ import annotations

import dataclasses
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from raybc.data.episodes import EpisodeStore, check_matches_task
from raybc.data.formats import robomimic
from raybc.data.normalize import Normalizer
from raybc.data.windows import Windows
from raybc.types import UserError
from tests.helpers import CPU, ENV_ARGS, tiny_demos, tiny_store

LENGTHS = (5, 9, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file with three episodes of 5, 9 and 3 steps."""
    path = tmp_path / "demos.hdf5"
    robomimic.write(path, tiny_demos(LENGTHS, model_xml="<mujoco/>"), ENV_ARGS, {"raybc_key": "k", "attempts": 4})
    return path


# robomimic


def test_what_is_written_is_read(path: Path) -> None:
    demos, store = tiny_demos(LENGTHS), robomimic.read(path)
    assert store.source == path
    assert store.num_episodes == 3
    assert store.episode_ends.tolist() == [5, 14, 17]
    assert store.episode_starts.tolist() == [0, 5, 14]
    assert sorted(store.obs) == ["arm", "cube"]
    for key in store.obs:
        np.testing.assert_array_equal(store.obs[key], np.concatenate([d.obs[key] for d in demos]))
        assert store.obs[key].dtype == np.float32
    np.testing.assert_array_equal(store.actions_NA, np.concatenate([d.actions for d in demos]))
    np.testing.assert_array_equal(store.rewards_N, np.concatenate([d.rewards for d in demos]))
    assert store.env_args == ENV_ARGS
    assert {k: v.tolist() for k, v in store.splits.items()} == {"train": [0, 1], "valid": [2]}
    joined = store.observation(("cube", "arm"))
    np.testing.assert_array_equal(joined, np.concatenate([store.obs["cube"], store.obs["arm"]], axis=1))
    with pytest.raises(ValueError, match="read-only"):
        store.actions_NA[0] = 0


def test_the_layout_is_robomimics(path: Path) -> None:
    """Read back with h5py alone, by what robomimic's documentation says."""
    demos = tiny_demos(LENGTHS)
    with h5py.File(path) as file:
        data = file["data"]
        assert sorted(data) == ["demo_0", "demo_1", "demo_2"]
        assert json.loads(data.attrs["env_args"]) == ENV_ARGS
        assert data.attrs["total"] == 17
        assert (data.attrs["raybc_key"], data.attrs["attempts"]) == ("k", 4)
        for i, demo in enumerate(demos):
            group = data[f"demo_{i}"]
            assert group.attrs["num_samples"] == LENGTHS[i]
            assert group.attrs["model_file"] == "<mujoco/>"
            assert group.attrs["seed"] == demo.seed
            for name in ("actions", "rewards", "dones", "states"):
                np.testing.assert_array_equal(group[name][()], getattr(demo, name))
            for key in ("arm", "cube"):
                np.testing.assert_array_equal(group[f"obs/{key}"][()], demo.obs[key])
                np.testing.assert_array_equal(group[f"next_obs/{key}"][()], demo.next_obs[key])
        assert [m.decode() for m in file["mask/train"][()]] == ["demo_0", "demo_1"]
        assert [m.decode() for m in file["mask/valid"][()]] == ["demo_2"]


@pytest.mark.parametrize(("episodes", "valid"), [(1, []), (2, [1]), (9, [8]), (10, [9]), (21, [9, 19])])
def test_one_in_ten_is_kept_for_validation(tmp_path: Path, episodes: int, valid: list[int]) -> None:
    path = tmp_path / "a.hdf5"
    robomimic.write(path, tiny_demos([2] * episodes), {}, {})
    store = robomimic.read(path)
    assert store.split("valid").tolist() == valid
    assert sorted([*store.split("train"), *valid]) == list(range(episodes))
    assert len(store.fingerprint()) == 64


def test_episodes_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """demo_10 comes after demo_9, although not in the alphabet."""
    path = tmp_path / "a.hdf5"
    demos = tiny_demos(range(1, 13))
    robomimic.write(path, demos, {}, {})
    store = robomimic.read(path)
    assert np.diff(store.episode_ends, prepend=0).tolist() == list(range(1, 13))
    np.testing.assert_array_equal(store.actions_NA, np.concatenate([d.actions for d in demos]))


def test_optional_parts_may_be_missing(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["mask"], file["data"].attrs["env_args"]
        for i in range(3):
            del file[f"data/demo_{i}/rewards"], file[f"data/demo_{i}/next_obs"]
            file[f"data/demo_{i}/obs/image"] = np.zeros((LENGTHS[i], 4, 4, 3), np.uint8)  # images are not low-dim
            file[f"data/demo_{i}/obs/scalar"] = np.arange(LENGTHS[i])
    store = robomimic.read(path)
    assert not store.rewards_N.any()
    assert store.splits == {}
    assert store.env_args == {}
    assert store.split("train").tolist() == [0, 1, 2], "without a mask every episode is trained on"
    assert {k: v.shape for k, v in store.obs.items()} == {"arm": (17, 3), "cube": (17, 2), "scalar": (17, 1)}


def test_fingerprint_depends_on_contents_only(path: Path, tmp_path: Path) -> None:
    fingerprint = robomimic.read(path).fingerprint()
    other = tmp_path / "elsewhere" / "b.hdf5"
    robomimic.write(other, tiny_demos(LENGTHS), ENV_ARGS, {"another": "attribute"})
    assert robomimic.read(other).fingerprint() == fingerprint
    store = robomimic.read(path)
    turned = {k: store.obs[k] for k in sorted(store.obs, reverse=True)}
    assert dataclasses.replace(store, obs=turned, source=Path("x")).fingerprint() == fingerprint


def test_fingerprint_sees_every_change() -> None:
    store = tiny_store(LENGTHS, splits={"train": [0, 1]})
    changes: list[dict[str, Any]] = [
        {"obs": {k: (np.nextafter(v, 9) if k == "arm" else v) for k, v in store.obs.items()}},
        {"obs": {"arm": store.obs["cube"], "cube": store.obs["arm"]}},
        {"obs": {**store.obs, "more": store.obs["arm"]}},
        {"actions_NA": store.actions_NA[::-1]},
        {"rewards_N": store.rewards_N + 1},
        {"episode_ends": np.array([5, 13, 17])},
        {"splits": {"train": np.array([0, 2])}},
        {"splits": {"valid": np.array([0, 1])}},
        {"splits": {}},
    ]
    prints = {store.fingerprint(), *(dataclasses.replace(store, **c).fingerprint() for c in changes)}
    assert len(prints) == len(changes) + 1


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        robomimic.read(path)
    assert str(path) in str(error.value)
    return str(error.value)


def set_array(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return change


def edited(name: str, index: tuple[int, ...], value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][index] = value

    return change


def env_args(value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file["data"].attrs.__setitem__("env_args", value)


def no_steps(file: h5py.File) -> None:
    for key in ("actions", "rewards", "obs/arm", "obs/cube"):
        set_array(f"data/demo_1/{key}", np.zeros((0, *file[f"data/demo_1/{key}"].shape[1:])))(file)


def shifted_rewards(file: h5py.File) -> None:
    """One too many here and one too few there: the sum is right."""
    set_array("data/demo_0/rewards", np.zeros(6))(file)
    set_array("data/demo_1/rewards", np.zeros(8))(file)


def without_episodes(file: h5py.File) -> None:
    for i in range(3):
        del file[f"data/demo_{i}"]


DAMAGES: dict[str, tuple[Callable[[h5py.File], None], list[str]]] = {
    "no data": (set_array("data", None), ["the group 'data'", "['mask']"]),
    "data is an array": (set_array("data", [1.0]), ["the group 'data'"]),
    "no episodes": (without_episodes, ["data/demo_0", "got none"]),
    "episode is an array": (set_array("data/demo_1", [1.0]), ["demo_1", "a group with actions and obs"]),
    "no actions": (set_array("data/demo_1/actions", None), ["demo_1", "'actions'", "rewards"]),
    "no obs": (set_array("data/demo_2/obs", None), ["demo_2", "the group 'obs'"]),
    "one obs less": (set_array("data/demo_1/obs/cube", None), ["demo_1", "['arm', 'cube']", "got ['arm']"]),
    "one obs more": (set_array("data/demo_2/obs/new", np.ones(3)), ["demo_2", "expected observations", "new"]),
    "obs in groups": (set_array("data/demo_0/obs/deep/er", np.ones(5)), ["demo_0: expected observations", "deep/er"]),
    "words": (set_array("data/demo_1/actions", np.array([[b"a", b"b"]] * 9)), ["demo_1", "actions", "numbers"]),
    "words in obs": (
        set_array("data/demo_0/obs/arm", np.array([[b"a"]] * 5)),
        ["demo_0: expected observations", "arm"],
    ),
    "flat actions": (set_array("data/demo_1/actions", np.ones(9)), ["demo_1: actions", "2 dimension", "(9,)"]),
    "wide rewards": (set_array("data/demo_1/rewards", np.ones((9, 1))), ["demo_1: rewards", "1 dimension", "(9, 1)"]),
    "no steps": (no_steps, ["demo_1: actions", "at least one step"]),
    "short obs": (set_array("data/demo_1/obs/arm", np.ones((8, 3))), ["demo_1: obs/arm has 8 steps", "actions has 9"]),
    "short rewards": (set_array("data/demo_2/rewards", np.ones(2)), ["demo_2: rewards has 2 steps", "actions has 3"]),
    "shifted rewards": (shifted_rewards, ["demo_0: rewards has 6 steps", "actions has 5"]),
    "obs of two sizes": (set_array("data/demo_1/obs/arm", np.ones((9, 4))), ["demo_1: obs/arm", "size 4", "before 3"]),
    "actions of two sizes": (set_array("data/demo_2/actions", np.ones((3, 1))), ["demo_2: actions", "size 1", "2"]),
    "nan in obs": (edited("data/demo_1/obs/arm", (4, 1), np.nan), ["arm", "nan or inf in episode 1"]),
    "nan in actions": (edited("data/demo_2/actions", (0, 0), np.nan), ["actions", "nan or inf in episode 2"]),
    "inf in rewards": (edited("data/demo_0/rewards", (4,), np.inf), ["rewards", "nan or inf in episode 0"]),
    "mask of the unknown": (set_array("mask/valid", [b"demo_7"]), ["mask/valid", "'demo_7'", "not in data/"]),
    "mask of numbers": (set_array("mask/valid", [1, 2]), ["mask/valid", "'1'", "not in data/"]),
    "mask is a group": (set_array("mask/extra/deep", [b"demo_0"]), ["mask/extra", "a list of episode names"]),
    "env_args no json": (env_args("{"), ["env_args", "not readable as JSON"]),
    "env_args a number": (env_args(3.0), ["env_args"]),
    "env_args a list": (env_args("[1]"), ["env_args", "a mapping", "list"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_with_file_episode_and_key(path: Path, damage: str) -> None:
    change, parts = DAMAGES[damage]
    with h5py.File(path, "a") as file:
        change(file)
    message = refused(path)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("part", [0.0, 0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999])
def test_truncated_files_are_refused(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert ("damaged or truncated" if part else "the file is empty (0 bytes)") in refused(path)


def test_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    assert "expected a robomimic HDF5 file, found none" in refused(tmp_path / "nothing.hdf5")
    assert "expected a robomimic HDF5 file, got a folder" in refused(tmp_path)
    path.write_bytes(random.Random(0).randbytes(30_000))
    assert "not readable as HDF5" in refused(path)
    path.write_text("a text")
    assert "not readable as HDF5" in refused(path)


def test_flipped_bytes_never_surprise(path: Path) -> None:
    """Damage is refused or goes unseen (HDF5 has no checksum over these); it never is another kind of exception."""
    content, rng, refusals = path.read_bytes(), random.Random(0), 0
    for _ in range(250):
        damaged = bytearray(content)
        for _ in range(8):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            robomimic.read(path)
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017
            refusals += 1
    assert refusals > 50


def test_half_a_file_never_appears(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing fails in the middle: the folder is as it was, a file that was there before is still whole."""
    before, names = path.read_bytes(), sorted(path.parent.iterdir())
    original, calls = h5py.Group.create_dataset, []

    def fails_late(group: h5py.Group, name: str, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) > 9:
            assert len(list(path.parent.iterdir())) == 2, "a temporary file is being written"
            raise OSError(28, "No space left on device")
        return original(group, name, **kwargs)

    monkeypatch.setattr(h5py.Group, "create_dataset", fails_late)
    for target in (path, path.parent / "new.hdf5"):
        calls.clear()
        with pytest.raises(OSError, match="No space left"):
            robomimic.write(target, tiny_demos(LENGTHS, seed=1), ENV_ARGS, {})
        assert sorted(path.parent.iterdir()) == names
        assert path.read_bytes() == before


def test_human_demonstrations(human_lift: Path) -> None:
    """Eight episodes of robomimic's own file: a layout that we did not write."""
    store = robomimic.read(human_lift)
    assert (store.num_episodes, len(store.actions_NA)) == (8, 3746)
    with h5py.File(human_lift) as file:
        first = file["data"][min(file["data"], key=lambda n: int(n.split("_")[1]))]
        np.testing.assert_array_equal(store.actions_NA[: store.episode_ends[0]], first["actions"][()].astype("f4"))
        for key, array in store.obs.items():
            np.testing.assert_array_equal(array[: store.episode_ends[0]], first["obs"][key][()].astype("f4"))


# Stores


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode_ends": np.array([], np.int64)}, "tiny.hdf5: expected at least one episode"),
        ({"episode_ends": np.array([5, 14])}, "do not cut 17 transitions"),
        ({"episode_ends": np.array([5, 5, 17])}, "do not cut 17 transitions"),
        ({"episode_ends": np.array([9, 5, 17])}, "do not cut 17 transitions"),
        ({"rewards_N": np.zeros(16, np.float32)}, "rewards: expected 17 rows as in actions, got 16"),
        ({"obs": {"arm": np.zeros((18, 3), np.float32)}}, "arm: expected 17 rows as in actions, got 18"),
    ],
)
def test_inconsistent_stores_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_store(LENGTHS, **changes)


def test_data_must_match_the_task() -> None:
    store = tiny_store(LENGTHS)
    check_matches_task(store, {"cube": (2,)}, 2, "lift")
    with pytest.raises(UserError, match=r"tiny.hdf5: observation 'door' of environment 'lift' is missing: known: arm"):
        check_matches_task(store, {"cube": (2,), "door": (1,)}, 2, "lift")
    with pytest.raises(UserError, match="observation 'arm': environment 'lift' has size 4, the data has 3"):
        check_matches_task(store, {"arm": (4,)}, 2, "lift")
    with pytest.raises(UserError, match="actions: environment 'lift' has size 7, the data has 2"):
        check_matches_task(store, {"arm": (3,)}, 7, "lift")
    with pytest.raises(UserError, match=r"tiny.hdf5: expected observation 'door', got \['arm', 'cube'\]"):
        store.observation(("arm", "door"))


# Normalisation


@pytest.fixture
def values() -> np.ndarray:
    """Four dimensions of very different sizes, a constant one, and one that is constant but for rounding."""
    rng = np.random.default_rng(0)
    x = rng.normal([0, 100, -3, 1e-3], [1, 20, 0.01, 1e-4], (500, 4))
    return np.column_stack([x, np.full(500, 7.0), 5 + 1e-8 * rng.normal(size=500)]).astype(np.float32)


def test_mean_std(values: np.ndarray) -> None:
    z = Normalizer.fit(values, "mean_std").apply(values)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(z[:, :4].std(0), 1, rtol=1e-3)
    expected = (values[:, :4] - values[:, :4].mean(0, dtype=np.float64)) / values[:, :4].std(0, dtype=np.float64)
    np.testing.assert_allclose(z[:, :4], expected, atol=2e-3)


def test_min_max(values: np.ndarray) -> None:
    z = Normalizer.fit(values, "min_max").apply(values)
    np.testing.assert_allclose(z[:, :4].min(0), -1, atol=1e-4)
    np.testing.assert_allclose(z[:, :4].max(0), 1, atol=1e-4)
    low, high = values[:, :4].min(0).astype(float), values[:, :4].max(0).astype(float)
    np.testing.assert_allclose(z[:, :4], 2 * (values[:, :4] - low) / (high - low) - 1, atol=2e-4)


def test_identity(values: np.ndarray) -> None:
    normalizer = Normalizer.fit(values, "identity")
    np.testing.assert_array_equal(normalizer.apply(values), values)
    np.testing.assert_array_equal(normalizer.invert(values), values)


@pytest.mark.parametrize("kind", ["mean_std", "min_max"])
def test_constant_dimensions_are_shifted_and_not_scaled(values: np.ndarray, kind: Any) -> None:
    normalizer = Normalizer.fit(values, kind)
    assert normalizer.scale[4:].tolist() == [1, 1]
    assert not normalizer.apply(values)[:, 4].any()
    assert np.abs(normalizer.apply(values)[:, 5]).max() < 1e-6, "rounding is not blown up"
    elsewhere = values[0] + np.array([0, 0, 0, 0, 0.5, 0], np.float32)
    assert normalizer.apply(elsewhere)[4] == 0.5


@pytest.mark.parametrize("kind", ["mean_std", "min_max", "identity"])
def test_invert_undoes_apply(values: np.ndarray, kind: Any) -> None:
    normalizer = Normalizer.fit(values, kind)
    chunk = values.reshape(50, 10, 6)
    back = normalizer.invert(normalizer.apply(chunk))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, chunk, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("offset", "scale", "message"),
    [
        ([0, 0], [1], "do not match"),
        ([[0.0]], [[1.0]], "do not match"),
        ([np.nan], [1], "finite"),
        ([0], [np.inf], "finite"),
        ([0], [0], "above 0"),
        ([0], [-1], "above 0"),
    ],
)
def test_impossible_statistics_are_refused(offset: Any, scale: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Normalizer(np.array(offset, np.float32), np.array(scale, np.float32))


# Windows


def windows(store: EpisodeStore, episodes: np.ndarray, horizon: int) -> Windows:
    obs_NO, actions_NA = store.observation(("arm", "cube")), store.actions_NA.copy()
    return Windows.build(obs_NO, actions_NA, store.episode_ends, episodes, horizon, CPU)


@pytest.mark.parametrize("horizon", [1, 2, 4, 9, 20])
@pytest.mark.parametrize("episodes", [[0, 1, 2], [1], [2, 0]])
def test_windows_are_those_of_a_plain_loop(horizon: int, episodes: list[int]) -> None:
    store = tiny_store(LENGTHS)
    obs, chunks, pads = [], [], []
    for e in episodes:
        first, end = store.episode_starts[e], store.episode_ends[e]
        for start in range(first, end):
            obs.append(np.concatenate([store.obs["arm"][start], store.obs["cube"][start]]))
            chunk, pad = [], []
            for k in range(horizon):
                inside = start + k < end
                chunk.append(store.actions_NA[start + k] if inside else store.actions_NA[end - 1])
                pad.append(not inside)
            chunks.append(chunk)
            pads.append(pad)
    built = windows(store, np.array(episodes), horizon)
    assert len(built.starts) == sum(LENGTHS[e] for e in episodes)
    picks = torch.arange(len(built.starts))
    batch = built.gather(torch.stack([picks, picks.flip(0)]))  # two members with different examples
    for member, order in ((0, slice(None)), (1, slice(None, None, -1))):
        np.testing.assert_array_equal(batch.obs.low_dim[member, :, 0].numpy(), np.array(obs)[order])
        np.testing.assert_array_equal(batch.actions_MBHA[member].numpy(), np.array(chunks)[order])
        np.testing.assert_array_equal(batch.is_pad_MBH[member].numpy(), np.array(pads)[order])
    assert not batch.is_pad_MBH[..., 0].any(), "the first step of a chunk is never padding"


def test_windows_of_a_mapped_file_and_of_strided_arrays(tmp_path: Path) -> None:
    """What is read is what is there, however the numbers lie in memory."""
    built = windows(tiny_store(LENGTHS), np.arange(3), 4)
    indices = torch.tensor([[3, 0, 16], [5, 5, 1]])
    expected = built.gather(indices)
    path = tmp_path / "observations.npy"
    np.save(path, built.obs_NO.numpy())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")
        mapped = torch.from_numpy(np.load(path, mmap_mode="r"))
    strided = built.actions_NA.repeat_interleave(2, 1)[:, ::2]
    assert not strided.is_contiguous()
    other = dataclasses.replace(built, obs_NO=mapped, actions_NA=strided, starts=built.starts.repeat_interleave(2)[::2])
    turned = other.gather(indices.t().contiguous().t())
    assert torch.equal(turned.obs.low_dim, expected.obs.low_dim)
    assert torch.equal(turned.actions_MBHA, expected.actions_MBHA)
    assert torch.equal(turned.is_pad_MBH, expected.is_pad_MBH)
    blind = dataclasses.replace(built, obs_NO=built.obs_NO[:, :0]).gather(indices)
    assert blind.obs.low_dim.shape == (2, 3, 1, 0), "a policy that sees cameras only"
