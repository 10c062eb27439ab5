"""Demonstrations: the same whatever the workers, made once, gone on with after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from raybc.cli import run_main
from raybc.config import DemosConfig
from raybc.data.formats import robomimic
from raybc.demos.__main__ import main
from raybc.demos.generate import generate
from raybc.demos.record import demonstrate, read_part
from raybc.demos.spec import DemosSpec, is_ready
from raybc.registry import get_task
from raybc.rollout.pool import RolloutPool
from raybc.types import UserError


def make(plan: DemosSpec, path: Path, workers: int) -> dict[str, int]:
    pool = RolloutPool.start(plan.task, workers, worker_cpus=0.2)
    try:
        return generate(plan, path, pool)
    finally:
        pool.close()


def test_the_file_does_not_depend_on_the_number_of_workers(ray_cpus: float, tmp_path: Path) -> None:
    plan = DemosSpec("pointmass", DemosConfig(episodes=12))
    made = make(plan, tmp_path / "a.hdf5", 1)
    make(plan, tmp_path / "b.hdf5", 2)
    a, b = robomimic.read(tmp_path / "a.hdf5"), robomimic.read(tmp_path / "b.hdf5")
    assert a.fingerprint() == b.fingerprint()
    assert a.num_episodes == 12
    assert made["successes"] >= 12
    assert sorted(np.concatenate([a.split("train"), a.split("valid")])) == list(range(12))
    assert not list(tmp_path.glob("*parts*"))
    with h5py.File(tmp_path / "a.hdf5") as file:
        demo = file["data/demo_0"]
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == "PointMass"
        assert demo["dones"][-1] == 1
        assert demo["rewards"][-1] == 1.0
        assert demo["dones"][:-1].sum() == 0
        assert np.array_equal(demo["obs/state"][1:], demo["next_obs/state"][:-1])


def test_recorded_actions_replay_to_the_recorded_observations(pointmass_demos: Path) -> None:
    env = get_task("pointmass").make(None)
    with h5py.File(pointmass_demos) as file:
        for name in ("demo_0", "demo_7"):
            demo = file["data"][name]
            env.reset(seed=int(demo.attrs["seed"]))
            for action, expected in zip(demo["actions"][()], demo["next_obs/state"][()], strict=True):
                obs, _, _, _, info = env.step(action)
                assert np.array_equal(obs["state"], expected)
            assert info["success"]


def test_finished_episodes_are_not_made_again(tmp_path: Path) -> None:
    plan, task = DemosSpec("pointmass", DemosConfig(episodes=2)), get_task("pointmass")
    env = task.make(None)
    row = demonstrate(task, env, plan.specs(0, 1)[0], 1.0, tmp_path)
    path = tmp_path / "episode_000000.npz"
    before = path.stat().st_mtime_ns
    assert demonstrate(task, env, plan.specs(0, 1)[0], 1.0, tmp_path) == row
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:200])  # torn by a crash of the disk: made again, the same
    assert read_part(path) is None
    assert demonstrate(task, env, plan.specs(0, 1)[0], 1.0, tmp_path) == row


def test_noise_varies_the_expert_and_its_absence_does_not() -> None:
    task = get_task("pointmass")
    assert task.make_expert is not None
    env = task.make(None)
    obs, _ = env.reset(seed=1)
    acts = {
        noise: [task.make_expert(env, np.random.default_rng(r), noise).act(obs) for r in range(3)]
        for noise in (0.0, 1.0)
    }
    assert all(np.array_equal(acts[0.0][0], a) for a in acts[0.0])
    assert not np.array_equal(acts[1.0][0], acts[1.0][1])


def test_what_changes_the_contents_changes_the_place() -> None:
    plans = [
        DemosSpec("pointmass", DemosConfig(episodes=5)),
        DemosSpec("pointmass", DemosConfig(episodes=6)),
        DemosSpec("pointmass", DemosConfig(episodes=5, noise=0.5)),
        DemosSpec("pointmass", DemosConfig(episodes=5, seed=9)),
        DemosSpec("pointmass", DemosConfig(episodes=5), keep_failures=True),
    ]
    assert len({p.default_path() for p in plans}) == 5
    assert plans[0].key() == DemosSpec("pointmass", DemosConfig(episodes=5)).key()


def test_command(
    ray_cpus: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with a path that is relative to another folder than that in which Ray was started."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "demos.hdf5"
    flags = ["pointmass", "--episodes", "5", "--out", out.name, "--workers", "1"]
    assert run_main(lambda: main(flags)) == 0
    assert "the expert solved 6 of 6 starts" in capsys.readouterr().out
    before = out.stat().st_mtime_ns
    assert run_main(lambda: main(flags)) == 0
    assert "already made" in capsys.readouterr().out
    assert out.stat().st_mtime_ns == before
    flags[2] = "6"
    assert run_main(lambda: main(flags)) == 2
    assert "has other contents" in capsys.readouterr().err
    assert run_main(lambda: main(["pointmas"])) == 2
    assert "pointmass" in capsys.readouterr().err
    assert run_main(lambda: main(["pointmass", "--episodes", "0"])) == 2
    assert "episodes" in capsys.readouterr().err


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 50)
    with pytest.raises(UserError, match="damaged"):
        is_ready(DemosSpec("pointmass", DemosConfig()), path)
