"""Layouts and names beside those that formats have of their own: ACT's episodes, openpi's LeRobot sets, raw states."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raybc.config import RunConfig
from raybc.data import formats
from raybc.data.__main__ import main
from raybc.data.formats import lerobot_write
from raybc.data.formats.options import Keys
from raybc.data.formats.robosuite import recorded_env
from raybc.data.names import obtain
from raybc.data.observe import with_observations
from raybc.data.scan import source_of
from raybc.data.starts import Recording, starts_of
from raybc.envs.pointmass import POINTMASS
from raybc.envs.spec import spec_of_task
from raybc.registry import get_task
from raybc.train.source import observed, read_data, recorded_observations
from raybc.types import UserError
from tests.conformance.formats import CASES, Case, full_store
from tests.helpers import recorded, tiny_store

# ACT


def episode(path: Path, steps: int = 6, seed: int = 0, **arrays: np.ndarray) -> np.ndarray:
    """An episode of ACT's recorder; returns its images."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.repeat(np.repeat(rng.integers(0, 256, (steps, 3, 4, 3), dtype=np.uint8), 8, 1), 8, 2)
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        file["action"] = rng.normal(size=(steps, 14)).astype(np.float32)
        file["observations/qpos"], file["observations/qvel"] = rng.normal(size=(2, steps, 14))
        file["observations/images/top"] = images
        for name, array in arrays.items():
            file[name] = array
    return images


def test_acts_episodes_in_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for i in (0, 1, 2, 10):
        episode(tmp_path / f"episode_{i}.hdf5", steps=3 + i, seed=i)
    got = formats.read(tmp_path)
    assert np.diff(got.episode_ends, prepend=0).tolist() == [3, 4, 5, 13]
    assert {name: array.shape for name, array in got.obs.items()} == {"qpos": (25, 14), "qvel": (25, 14)}
    assert got.env_args == {"sim": False}
    assert formats.detect(tmp_path / "episode_1.hdf5") == "aloha"
    assert formats.read(tmp_path / "episode_1.hdf5", images=("top",)).obs["top"].shape == (4, 24, 32, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("padded", [True, False])
def test_acts_compressed_images_are_decoded(kind: str, padded: bool, tmp_path: Path) -> None:
    path = tmp_path / "episode_0.hdf5"
    images = episode(path)
    data = []
    for image in images:
        handle = io.BytesIO()
        Image.fromarray(image).save(handle, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
        data.append(np.frombuffer(handle.getvalue(), np.uint8))
    longest = max(map(len, data))
    with h5py.File(path, "a") as file:
        del file["observations/images/top"]
        file.attrs["compress"] = True
        if padded:
            rows = np.stack([np.pad(row, (0, longest - len(row))) for row in data])
            file["observations/images/top"] = rows
            file["compress_len"] = np.array([[len(row) for row in data]], np.float32)
        else:
            made = file.create_dataset("observations/images/top", (len(data),), h5py.vlen_dtype(np.uint8))
            for i, row in enumerate(data):
                made[i] = row
    got = formats.read(path, images=True).obs["top"]
    difference = np.abs(got.astype(int) - images)
    assert difference.max() == 0 if kind == "PNG" else difference.mean() < 3
    with h5py.File(path, "a") as file:
        row = file["observations/images/top"][2]
        file["observations/images/top"][2] = np.zeros_like(row)
    with pytest.raises(UserError, match="observations/images/top: step 2: not readable as an image"):
        formats.read(path, images=True)
    assert "top" not in formats.read(path).obs


def test_acts_episodes_with_faults_name_the_file(tmp_path: Path) -> None:
    episode(tmp_path / "episode_0.hdf5", base_action=np.zeros((6, 2)))
    assert "base_action: not read: no part of the action" in formats.read(tmp_path).remarks()
    episode(tmp_path / "episode_1.hdf5")
    with h5py.File(tmp_path / "episode_1.hdf5", "a") as file:
        del file["observations/qpos"]
    with pytest.raises(UserError, match=r"episode_1\.hdf5"):
        formats.read(tmp_path)
    assert formats.read(tmp_path, skip_bad_episodes=True).num_episodes == 1
    (tmp_path / "episode_1.hdf5").write_bytes(b"")
    with pytest.raises(UserError, match=r"episode_1\.hdf5: the file is empty"):
        formats.read(tmp_path)


# LeRobot


NAMES = {"observation.arm": "state", "observation.cube": "cube_pose", "observation.images.camera": "image",
         "action": "actions", "next.success": "is_success"}  # fmt: skip


def renamed(path: Path, names: dict[str, str]) -> None:
    """Rename the features of a LeRobot set."""
    info = json.loads((path / "meta" / "info.json").read_text())
    info["features"] = {names.get(k, k): v for k, v in info["features"].items()}
    (path / "meta" / "info.json").write_text(json.dumps(info))
    for file in path.glob("data/*/*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.rename_columns([names.get(n, n) for n in table.column_names]), file)
    for file in path.glob("meta/episodes/*/*.parquet"):
        table = pq.read_table(file)
        renamed_columns = ["/".join(names.get(p, p) for p in n.split("/")) for n in table.column_names]
        pq.write_table(table.rename_columns(renamed_columns), file)
    for old, new in names.items():
        for folder in [*path.glob(f"videos/{old}"), *path.glob(f"videos/*/{old}")]:
            folder.rename(folder.with_name(new))


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_openpis_names_are_read(version: str, tmp_path: Path) -> None:
    store = full_store(images=True)
    lerobot_write.write_store(tmp_path / "set", store, version=version)
    before = formats.read(tmp_path / "set", images=True)
    renamed(tmp_path / "set", NAMES)
    got = formats.read(tmp_path / "set", images=True)
    assert set(got.obs) == {"state", "cube_pose", "image"}
    np.testing.assert_array_equal(got.actions_NA, before.actions_NA)
    np.testing.assert_array_equal(got.obs["state"], before.obs["arm"])
    np.testing.assert_array_equal(got.obs["image"], before.obs["camera"])
    assert got.success_E is not None
    assert got.success_E.tolist() == [True, False, True]


def test_names_of_lerobot_itself_come_first(tmp_path: Path) -> None:
    """What read well before reads as before: only sets without LeRobot's prefix take other names for observations."""
    lerobot_write.write_store(tmp_path / "set", full_store())
    renamed(tmp_path / "set", {"observation.cube": "state"})
    assert set(formats.read(tmp_path / "set").obs) == {"arm"}
    renamed(tmp_path / "set", {"action": "torques"})
    with pytest.raises(UserError, match=r"features: expected 'action' \(or 'actions'; --action_key .*got .*'torques'"):
        formats.read(tmp_path / "set")


# States without observations


def raw(path: Path, states: np.ndarray, actions: np.ndarray, ends: list[int]) -> Path:
    """As robosuite's recorder writes it."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env"], data.attrs["repository_version"] = "Lift", "1.4.1"
        data.attrs["env_info"] = json.dumps({"robots": "Panda", "env_name": "Lift"})
        for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True), start=1):
            data[f"demo_{i}/states"], data[f"demo_{i}/actions"] = states[start:end], actions[start:end]
            data[f"demo_{i}"].attrs["model_file"] = "<mujoco/>"
    return path


def test_raw_recordings_are_read_and_said_to_need_observations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = raw(tmp_path / "demo.hdf5", np.zeros((9, 32)), np.zeros((9, 7)), [4, 9])
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    assert "robosuite" in said
    words = " ".join(re.sub(r"[│]", " ", said).split())  # of a table, which wraps
    assert "only states are recorded; convert with --env_name makes observations of them" in words
    got = formats.read(path, states=True)
    assert got.obs == {}
    assert got.env_args["env_name"] == "Lift"
    assert got.env_args["env_kwargs"] == {"robots": "Panda"}
    with h5py.File(path, "a") as file:
        file["data"].attrs["env_info"] = "[" * 100_000
    with pytest.raises(UserError, match="env_info: not readable as JSON: nested too deeply"), h5py.File(path) as file:
        recorded_env(file["data"], path)
    with h5py.File(path, "a") as file:
        file["data/demo_2/obs/arm"] = np.zeros((5, 2))
    assert formats.detect(path) == "robomimic"


def test_observations_are_made_of_states(tmp_path: Path) -> None:
    """Of the point mass, which is fast; `test_data_replay_simulators` does the same with robosuite."""
    env = POINTMASS.make(None)
    states, actions, seen = [], [], []
    obs, _ = env.reset(seed=3)
    for k in range(5):
        action = np.full(env.action_space.shape, 0.1 * k, np.float32)
        states.append(env.sim_state())
        actions.append(action)
        seen.append(obs)
        obs, *_ = env.step(action)
    store = tiny_store((5,), obs={}, actions_NA=np.stack(actions), rewards_N=np.zeros(5, np.float32),
                       states_NS=np.stack(states))  # fmt: skip
    got = with_observations(store, POINTMASS, env)
    for key in seen[0]:
        np.testing.assert_allclose(got.obs[key], np.stack([o[key] for o in seen]), atol=1e-6)
    with pytest.raises(UserError, match="expected states of the simulator"):
        with_observations(dataclasses.replace(store, states_NS=None), POINTMASS, env)
    wrong = dataclasses.replace(store, actions_NA=np.zeros((5, 9), np.float32))
    with pytest.raises(UserError, match="expected actions of pointmass"):
        with_observations(wrong, POINTMASS, env)


def test_lifts_human_demonstrations_from_states_alone(tmp_path: Path) -> None:
    pytest.importorskip("robosuite")
    whole = formats.read(recorded("lift_human/lift_human_mit8.hdf5"), states=True)
    assert whole.states_NS is not None
    ends = whole.episode_ends[:1].tolist()
    path = raw(tmp_path / "demo.hdf5", whole.states_NS[: ends[0]], whole.actions_NA[: ends[0]], ends)
    out = tmp_path / "made.hdf5"
    assert main(["convert", str(path), "--env_name", "lift", "--format", "robomimic", "--out", str(out)]) == 0
    got = formats.read(out)
    assert set(got.obs) == set(get_task("lift").obs_keys)
    for key, array in got.obs.items():
        np.testing.assert_array_equal(array, whole.obs[key][: ends[0]])
    np.testing.assert_array_equal(got.rewards_N, whole.rewards_N[: ends[0]])
    assert got.success_E is not None
    assert got.success_E.tolist() == [True]


@pytest.mark.parametrize("kind", ["init_state", "one row"])
def test_an_episode_starts_from_the_first_state_where_only_that_is_known(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    env = POINTMASS.make(None)
    env.reset(seed=5)
    state = env.sim_state()
    formats.get("robomimic").write_store(path, tiny_store((5, 9)))
    with h5py.File(path, "a") as file:
        for name in file["data"]:
            if kind == "one row":
                file[f"data/{name}/states"] = state[None]
            else:
                file[f"data/{name}"].attrs["init_state"] = state
    store = formats.read(path, states=True)
    assert store.states_NS is None
    recordings = {e: Recording(np.zeros((1, 2)), np.zeros(1), {}, None) for e in (0, 1)}
    starts = starts_of(source_of(str(path)), env, recordings)
    assert starts.how == "the recorded first state"
    first = env.start_at(state)
    for key, value in starts.begin(1).items():
        np.testing.assert_array_equal(value, first[key])


def test_training_on_states_alone_says_what_to_do(tmp_path: Path) -> None:
    from raybc.data.episodes import check_matches_task

    path = obtain(str(raw(tmp_path / "demo.hdf5", np.zeros((9, 32)), np.zeros((9, 7)), [4, 9])))
    with pytest.raises(UserError, match=r"holds states and no observations; make them: python -m raybc\.data convert"):
        check_matches_task(formats.read(path), {"object": (10,)}, 7, get_task("lift").name)


# Chosen by hand


@pytest.mark.parametrize("case", [c for c in CASES if c.format not in ("minari", "store")], ids=lambda c: c.name)
def test_the_action_is_chosen_by_hand(case: Case, tmp_path: Path) -> None:
    """In every format another array may be the action; a name that is not there is refused."""
    path = tmp_path / case.name
    store = full_store()
    case.write(path, store) if case.write else formats.get(case.format).write_store(path, store)
    with pytest.raises(UserError, match="absolute"):
        formats.read(path, keys=Keys.of("absolute"))
    other = {"robomimic": "states", "libero": "states", "aloha": "observations/arm", "d4rl": "observations",
             "ogbench": "observations", "episode_ends": "arm", "lerobot": "observation.arm",
             "rlds": "observation/arm"}[case.format]  # fmt: skip
    got = formats.read(path, keys=Keys.of(other))
    expected = store.obs["arm"] if "arm" in other else store.states_NS if other == "states" else None
    if expected is None:
        expected = store.observation(("arm", "cube"))
    np.testing.assert_allclose(got.actions_NA, expected.astype(np.float32))


@pytest.mark.parametrize("format", ["robomimic", "lerobot", "store"])
def test_observations_are_chosen_by_hand(format: str, tmp_path: Path) -> None:
    path = tmp_path / "set"
    formats.get(format).write_store(path, full_store())
    assert set(formats.read(path, keys=Keys.of("", "cube")).obs) == {"cube"}
    assert list(formats.read(path, keys=Keys.of("", ("cube", "arm"))).obs) == ["cube", "arm"]
    assert set(formats.read(path).obs) == {"arm", "cube"}
    with pytest.raises(UserError, match=r"--obs_keys: expected an observation, got 'cub'; it has arm, cube"):
        formats.read(path, keys=Keys.of("", "cub"))
    if format == "store":
        with pytest.raises(UserError, match="--action_key: the format store has one action"):
            formats.read(path, keys=Keys.of("actions"))


def test_the_commands_and_a_training_choose_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "set"
    lerobot_write.write_store(path, full_store())
    renamed(path, {"action": "torques"})
    with pytest.raises(UserError, match="--action_key chooses another"):
        main(["info", str(path)])
    flags = [str(path), "--action_key", "torques", "--obs_keys", "arm"]
    assert main(["info", *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name for name in found["arrays"] if name.startswith("obs/")} == {"obs/arm"}
    assert main(["stats", *flags, "--json"]) == 0
    assert "cube" not in json.loads(capsys.readouterr().out)
    assert main(["verify", *flags, "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["episodes"] == 3
    assert main(["convert", *flags, "--out", str(tmp_path / "converted")]) == 0
    assert set(formats.read(tmp_path / "converted").obs) == {"arm"}

    config = RunConfig.of(dataset=str(path), env_name="none", action_key="torques", obs_keys="arm")
    store = read_data(config, path)
    assert recorded_observations(config, store) == ("arm",)
    plain = RunConfig.of(dataset=str(path), env_name="none")
    assert config.run_id(store.fingerprint()) != plain.run_id(store.fingerprint())
    assert RunConfig.of(action_key="", obs_keys="").run_id("x") == RunConfig().run_id("x")


def test_in_a_simulator_the_observations_are_those_of_the_environment() -> None:
    probe = spec_of_task(POINTMASS)
    config = RunConfig.of(env_name="pointmass-scripted-low_dim", obs_keys=POINTMASS.obs_keys[0])
    assert observed(config, probe, POINTMASS.obs_keys) == POINTMASS.obs_keys[:1]
    assert observed(RunConfig(), probe, POINTMASS.obs_keys) == POINTMASS.obs_keys
    with pytest.raises(UserError, match="--obs_keys: expected observations of pointmass-scripted-low_dim"):
        observed(config.changed(obs_keys="nothing"), probe, POINTMASS.obs_keys)
