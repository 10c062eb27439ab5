"""Processes of another environment, really built (slow): versions, results, ends."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.bundle import PolicyBundle
from raybc.data.formats import robomimic
from raybc.demos.record import read_part
from raybc.env import Environment
from raybc.env.remote import RemoteEnv, SimulatorFailed
from raybc.envs.spec import spec_of_task
from raybc.inference.agent import Agent
from raybc.registry import get_task
from raybc.rollout.engine import Demonstration, Rollout
from raybc.rollout.episode import run_episode
from raybc.rollout.pool import RolloutPool
from raybc.rollout.recorder import read_recorded, recorded_file
from raybc.testing import check_task
from raybc.train.data import TrainingData
from raybc.types import EpisodeSpec, SampleSetting, UserError
from tests.helpers import demonstrations, tiny_trainer

pytestmark = pytest.mark.slow
TASK = "my_sim:REACH"
SPECS = [EpisodeSpec(TASK, "search", i) for i in range(12)]


@pytest.fixture
def env(my_sim: Environment) -> Iterator[RemoteEnv]:
    made = get_task(TASK).make(None)
    assert isinstance(made, RemoteEnv)
    yield made
    made.close()


@pytest.fixture(scope="module")
def bundle(my_sim: Environment, tmp_path_factory: pytest.TempPathFactory) -> PolicyBundle:
    """A policy that has learned something of it."""
    store = demonstrations(get_task(TASK), 6)
    data = TrainingData(store, store.fingerprint(), ("state",), {})
    trainer = tiny_trainer(data=data, training_steps=150, batch_size=64, lr=3e-3)
    trainer.advance(150)
    return trainer.bundle(0)


def test_both_processes_keep_their_versions(env: RemoteEnv, my_sim: Environment) -> None:
    print(f"numpy here: {np.__version__}, there: {env.identity()['numpy']}")
    assert np.__version__ != env.identity()["numpy"] == "2.3.5"
    assert env.identity()["environment"] == my_sim.key
    assert not hasattr(np.linalg, "vector_norm") or int(np.__version__[0]) > 1
    obs, _ = env.reset(seed=3)
    assert obs["state"].dtype == np.float32
    spec = spec_of_task(get_task(TASK))
    assert spec.identity == env.identity()
    assert spec.obs_sizes == {"state": 2}


def test_it_keeps_the_contract_of_every_task(my_sim: Environment) -> None:
    check_task(get_task(TASK))


def test_a_process_that_is_killed_says_so(env: RemoteEnv) -> None:
    env.reset(seed=0)
    os.kill(env.pid, signal.SIGKILL)
    with pytest.raises(SimulatorFailed, match=r"process in environment my_sim died \(status -9\)"):
        env.step(np.zeros(2, np.float32))


def test_exceptions_there_are_exceptions_here(env: RemoteEnv) -> None:
    with pytest.raises(SimulatorFailed, match=r"expected .* finite, got"):
        env.step(np.full(2, np.nan, np.float32))
    env.reset(seed=0)  # the process has survived
    with pytest.raises(UserError, match="made without rendering"):
        env.render()


def rows_of(results: list[Any]) -> list[Any]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "retries")} for row in results]


def test_actors_of_the_environment_measure_and_demonstrate(
    ray_cpus: float, my_sim: Environment, bundle: PolicyBundle, tmp_path: Path
) -> None:
    """Rows are those of an episode that is run alone; a killed actor changes none of them."""
    setting = SampleSetting(eval_temperature=1.0)
    bundle.save(tmp_path / "policy")
    task = get_task(TASK)
    alone = task.make(None)
    expected = [
        dataclasses.replace(run_episode(alone, Agent(bundle), spec, setting, task.max_steps)).to_row() for spec in SPECS
    ]
    alone.close()
    with RolloutPool.start(TASK, 1, worker_cpus=0.2, deadline=60.0) as pool:
        job = Rollout(str(tmp_path / "policy"), setting, record=str(tmp_path / "recorded"))
        (rows,) = pool.evaluate("first", [job], SPECS)
        assert rows_of(rows) == rows_of(expected)
        for spec, row in zip(SPECS, expected, strict=True):
            one = read_recorded(recorded_file(tmp_path / "recorded", spec), ("state",))
            assert float(one.rewards.sum()) == pytest.approx(row["return"], rel=1e-5)
        (pid,) = pool.stats()["pids"]
        kill = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
        many = [dataclasses.replace(spec, index=i) for i, spec in enumerate(SPECS * 30)]
        kill.start()
        (again,) = pool.evaluate("second", [job], many)
        kill.join()
        assert rows_of(again[: len(SPECS)]) == rows_of(expected)
        assert all(row["outcome"] != "error" for row in again)
        assert pool.stats()["restarts"] >= 1
        assert pool.stats()["pids"] != [pid]
        (made,) = pool.evaluate("demos", [Demonstration(str(tmp_path), 1.0)], [EpisodeSpec(TASK, "demos", 0)])
    assert made[0]["outcome"] == "success"
    part = read_part(tmp_path / "episode_000000.npz")
    assert part is not None
    robomimic.write(tmp_path / "demos.hdf5", [part.demo], part.env_args, {})
    assert len(robomimic.read(tmp_path / "demos.hdf5").actions_NA) == made[0]["steps"]


def test_start_times(ray_cpus: float, my_sim: Environment) -> None:
    """Printed for people; an actor that is started later must not be slower than the first by much."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        with RolloutPool.start(TASK, 1, worker_cpus=0.2) as pool:
            while not pool.stats()["pids"]:
                time.sleep(0.05)
        seconds.append(time.perf_counter() - started)
    print(f"an actor of another environment is ready after {seconds[0]:.1f} s, later ones after {seconds[1]:.1f} s")
    assert max(seconds) < 120
