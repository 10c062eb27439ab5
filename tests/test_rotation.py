"""Training on one file of a set after the other: which windows are drawn, statistics, resuming, and what is held."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from raybc.config import DemosConfig, RunConfig
from raybc.data import formats
from raybc.data import store as stores
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import ogbench
from raybc.data.normalize import Normalizer
from raybc.demos.spec import source_of
from raybc.envs.base import Obs, RenderOptions, Task
from raybc.envs.pointmass import PointMassEnv
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.space import check_corners
from raybc.train.data import TrainingData, resolved
from raybc.train.loop import PackTrainer, with_seeds
from raybc.train.step import NonFiniteLoss
from raybc.types import UserError
from tests.helpers import CPU, run_train, tiny_config, tiny_store

LENGTHS = ((5, 9, 3), (4, 6), (8, 2, 2, 7))
EVERY = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of two numbers and two actions, the second with a validation file beside it."""
    folder = tmp_path_factory.mktemp("files")
    for i, lengths in enumerate(LENGTHS):
        splits = {"train": [0], "valid": [1]} if i == 1 else None
        made = tiny_store(lengths, seed=i, splits=splits)
        obs = {"cube": made.obs["cube"] + 3 * i}  # files differ in their statistics
        ogbench.write_store(folder / f"set-{i:03d}.npz", EpisodeStore(obs, made.actions_NA, made.rewards_N,
                            made.episode_ends, made.splits, source=made.source))  # fmt: skip
    return folder


class Joined(PointMassEnv):
    """The point mass with one observation, as OGBench's files have it."""

    def __init__(self, render: RenderOptions | None = None) -> None:
        super().__init__(render)
        high = np.full(6, np.inf, np.float32)
        self.observation_space = gymnasium.spaces.Dict({"state": gymnasium.spaces.Box(-high, high, dtype=np.float32)})

    def _obs(self) -> Obs:
        return {"state": np.concatenate(list(super()._obs().values()))}


JOINED = Task("tests.test_rotation:JOINED", "pointmass", Joined, max_steps=80, obs_keys=("state",), fps=10.0)


def trainer(folder: Path, seeds: tuple[int, ...] = (0,), **changes: Any) -> PackTrainer:
    store = formats.read(folder)
    data = TrainingData(store, store.fingerprint(), ("state",), {})
    config = tiny_config(dataset_replace_interval=EVERY, **changes)
    return PackTrainer(with_seeds(config, seeds), data, CPU)


def file_of(row: int) -> int:
    """Of the training rows; those of the validation file come last."""
    return int(np.searchsorted([17, 21, 40], row, side="right"))


def test_files_are_known(folder: Path, tmp_path: Path) -> None:
    store = formats.read(folder)
    assert store.files == (3, 4, 8)
    assert np.diff(store.episode_ends, prepend=0).tolist() == [5, 9, 3, 4, 8, 2, 2, 7, 6]
    assert store.split("valid").tolist() == [8]
    assert stores.convert(folder, tmp_path / "store").files == store.files
    assert formats.read(tmp_path / "store").files == store.files
    assert formats.read(folder / "set-000.npz").files == ()


def test_each_step_draws_from_the_file_whose_turn_it_is(folder: Path) -> None:
    """Against a plain loop over files and steps; every window of a file is drawn, none of another, none held out."""
    one = trainer(folder)
    drawn: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    store = one.data.store
    normalised = one.prepared.obs_normalizer.apply(store.obs["state"])
    actions = one.prepared.action_normalizer.apply(store.actions_NA)
    for step in range(150):
        one.step = step
        rotation, indices = one.prepared.rotation, one.draws.at(step).indices_MB
        rows = (one.windows.starts[indices] + rotation.first_row(step)).flatten().tolist()
        assert {file_of(r) for r in rows} == {step // EVERY % 3}
        drawn[step // EVERY % 3] |= set(rows)
        batch = one.windows.gather(indices)
        np.testing.assert_array_equal(batch.obs.low_dim[0, :, 0].numpy(), normalised[rows])
        ends = store.episode_ends[np.searchsorted(store.episode_ends, rows, side="right")]
        for row, end, chunk, pad in zip(rows, ends, batch.actions_MBHA[0], batch.is_pad_MBH[0], strict=True):
            expected = [min(row + k, end - 1) for k in range(4)]
            np.testing.assert_array_equal(chunk.numpy(), actions[expected])
            assert pad.tolist() == [row + k >= end for k in range(4)]
    assert drawn == {0: {*range(17)}, 1: {*range(17, 21)}, 2: {*range(21, 40)}}


@pytest.mark.parametrize("kind", ["mean_std", "min_max", "quantile", "identity"])
def test_statistics_are_those_of_all_files(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from raybc.train import rotation

    monkeypatch.setattr(rotation, "ROWS_PER_BLOCK", 7)
    found, store = trainer(folder, normalization=kind).prepared, formats.read(folder)
    for got, values in ((found.obs_normalizer, store.obs["state"]), (found.action_normalizer, store.actions_NA)):
        expected = Normalizer.fit(values[:40], kind)  # type: ignore[arg-type]
        np.testing.assert_allclose(got.offset, expected.offset, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(got.scale, expected.scale, rtol=1e-6)


def test_images_alone_need_no_statistics() -> None:
    """As OGBench's visual sets, whose files hold nothing else."""
    made = tiny_store((4, 3))
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
    store = EpisodeStore({"pixels": pixels}, made.actions_NA, made.rewards_N, made.episode_ends, files=(1, 2))
    config = tiny_config(dataset_replace_interval=EVERY, encoder="impala_small", batch_size=2)
    one = PackTrainer([config], TrainingData(store, "0", ("pixels",), {}), CPU)
    one.advance(EVERY + 1)
    assert one.prepared.obs_normalizer.offset.shape == (0,)
    np.testing.assert_array_equal(one.windows.images["pixels"].numpy(), pixels[4:])


def test_a_run_goes_on_within_a_turn_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    straight, stopped, again = (trainer(folder, (3, 1), training_steps=23) for _ in range(3))
    straight.advance(23)
    stopped.advance(12)
    stopped.save_state(tmp_path / "state.safetensors")
    again.load_state(tmp_path / "state.safetensors")
    again.advance(23)
    for p, q in zip(straight.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(p, q)


def test_one_file_is_in_memory_at_a_time(folder: Path) -> None:
    one = trainer(folder)
    first = weakref.ref(one.windows.obs_NO)
    assert first() is not None
    one.advance(EVERY + 1)
    gc.collect()
    assert first() is None
    assert len(one.windows.obs_NO) == 4, "of the second file only"


def test_held_out_episodes_are_looked_at(folder: Path) -> None:
    one = trainer(folder, lr_schedule="plateau", monitor_interval=5, min_lr=1e-6)
    windows = one.prepared.validation
    assert windows is not None
    store = one.data.store
    np.testing.assert_array_equal(windows.obs_NO.numpy(), one.prepared.obs_normalizer.apply(store.obs["state"][40:46]))
    one.advance(10)
    assert one.validation_loss is not None


def test_a_proportion_leaves_out_whole_files(folder: Path) -> None:
    one = trainer(folder, dataset_proportion=0.5)  # four of eight episodes: the first two files
    assert [one.prepared.rotation.file_at(s) for s in (0, 5, 10, 15)] == [0, 1, 0, 1]
    assert one.prepared.rotation.total == 21


def test_a_loss_that_is_not_finite_names_the_episode_of_the_set(folder: Path) -> None:
    one = trainer(folder)
    one.advance(2 * EVERY)
    one.windows.actions_NA[:] = torch.inf
    with pytest.raises(NonFiniteLoss, match=r"episode [4-7] step"):
        one.advance(2 * EVERY + 3)


def test_what_is_one_file_is_refused(folder: Path, tmp_path: Path) -> None:
    single = formats.read(folder / "set-000.npz")
    with pytest.raises(UserError, match=r"dataset_replace_interval: expected 0, since .*set-000.npz is no folder"):
        resolved(tiny_config(dataset_replace_interval=2), single)
    with pytest.raises(UserError, match="dataset_replace_interval: expected 0 with sampling_plan_path"):
        tiny_config(dataset_replace_interval=2, sampling_plan_path="plan").validate()
    sweep = {"name": "files", "space": {"lr": {"values": [1e-3]}}, "train": {"dataset_replace_interval": 5}}
    with pytest.raises(UserError, match=r"corner lr=0.001.*dataset_replace_interval: expected 0, since"):
        check_corners(sweep_from_mapping(sweep, "sweep.yaml"), single)


def test_ogbench_dataset_dir_is_a_folder_of_files(folder: Path, tmp_path: Path) -> None:
    """As qc calls it: --ogbench_dataset_dir names the folder of a set that is too large for one file."""
    name = "cube-single-play-singletask-task1-v0"
    config = RunConfig.of(env_name=name, ogbench_dataset_dir=str(folder), dataset_replace_interval=1000)
    assert source_of(config, DemosConfig()) == (folder, None)
    with pytest.raises(UserError, match="or a folder of the npz files of one set, found neither"):
        source_of(RunConfig.of(env_name=name, ogbench_dataset_dir=str(tmp_path)), DemosConfig())


def test_the_command(
    ray_cpus: float, pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A point mass whose state and goal are one observation, from three files."""
    made = formats.read(pointmass_demos)
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(3):
        rows = slice(made.episode_starts[4 * i], made.episode_ends[4 * i + 3])
        part = EpisodeStore({k: made.obs[k][rows] for k in ("state", "goal")}, made.actions_NA[rows],
                            made.rewards_N[rows], made.episode_ends[4 * i : 4 * i + 4] - rows.start)  # fmt: skip
        ogbench.write_store(folder / f"{i}.npz", part)
    flags = ["--dataset_replace_interval=7", "--env_name=tests.test_rotation:JOINED"]
    assert run_train(folder, tmp_path / "run", *flags) == 0, capsys.readouterr().err
    assert "step 60: success" in capsys.readouterr().out
    assert run_train(folder / "0.npz", tmp_path / "other", *flags) == 2
    assert "dataset_replace_interval: expected 0, since" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
