"""Batched simulators: worlds that are stepped together give the rows of simulators that are stepped one by one.

Letters: N worlds, A action dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.cluster.capacity import Machine, allocate_sweep, gpu_share
from raybc.envs.base import RenderOptions, Task
from raybc.envs.batched import BatchedEnv, Worlds
from raybc.envs.pointmass import POINTMASS, PointMassEnv
from raybc.envs.world import Together, alone
from raybc.inference.agent import Agent
from raybc.registry import get_task
from raybc.rollout.engine import ANY, Demonstration, Engine, Rollout
from raybc.rollout.episode import run_episode
from raybc.rollout.faults import Fault
from raybc.rollout.on_gpu import LEFT, RENDERING_GPUS, WORKER_GPUS, gpu_left, on_gpus_of
from raybc.rollout.options import PoolOptions
from raybc.rollout.pool import RolloutPool
from raybc.rollout.queued import QueuedEpisode, suspected
from raybc.rollout.recorder import recorded_file
from raybc.testing import check_batched, check_task
from raybc.types import EpisodeSpec, SampleSetting, UserError
from tests.batched import BAD, MANY, ManyPoints, faulty
from tests.helpers import pointmass_bundle
from tests.test_engine import Later, run, strip
from tests.test_pool import rows_without_times

SETTINGS = [SampleSetting(4), SampleSetting(2, 3, 1.0, 0.1)]


def specs(task: str = MANY.name, count: int = 16) -> list[EpisodeSpec]:
    return [EpisodeSpec(task, "search", i) for i in range(count)]


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent(pointmass_bundle())


@pytest.fixture(scope="module")
def bundle(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bundle") / "policy"
    agent.bundle.save(path)
    return str(path)


# The engine


@pytest.mark.parametrize("slots", [1, 3, 16, None])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_rows_are_those_of_simulators_stepped_one_by_one(agent: Agent, slots: int | None, setting: Any) -> None:
    expected = [strip(run_episode(PointMassEnv(), agent, spec, setting, 80).to_row()) for spec in specs()]
    engine = Engine(lambda path: agent, slots=slots)
    assert run(engine, [(Rollout("b", setting), spec) for spec in specs()]) == expected
    backwards = run(engine, [(Rollout("b", setting), spec) for spec in specs()[::-1]])
    assert backwards == expected[::-1], "the same worlds again, in another order"
    assert len({row["outcome"] for row in expected}) > 1


def test_one_call_of_the_simulator_for_all_episodes(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ManyPoints, "calls", [])
    monkeypatch.setattr(ManyPoints, "resets", [])
    rows = run(Engine(lambda path: agent, slots=6), [(Rollout("b", SETTINGS[0]), spec) for spec in specs()])
    assert sum(ManyPoints.calls) == sum(row["steps"] for row in rows), "each action is executed once"
    longest = max(row["steps"] for row in rows)
    assert ManyPoints.calls.count(6) >= len(ManyPoints.calls) - longest, "a world whose episode ended begins the next"
    assert ManyPoints.resets[0] == 6, "the first episodes begin at once"
    assert sum(ManyPoints.resets) == len(rows)


def test_policies_in_another_process_and_several_jobs(agent: Agent) -> None:
    """Halves are asked for one after the other; the simulator waits for both."""
    later = Later(agent)
    orders = [(Rollout("b", setting), spec) for spec in specs() for setting in SETTINGS]
    assert run(Engine(lambda path: later, slots=6), orders) == run(Engine(lambda path: agent, slots=1), orders)
    assert (later.open, later.most) == (0, 2)


def test_tasks_of_both_kinds_share_a_process(agent: Agent) -> None:
    orders = [
        (Rollout("b", SETTINGS[0]), spec) for pair in zip(specs(), specs("pointmass"), strict=True) for spec in pair
    ]
    rows = run(Engine(lambda path: agent), orders)
    assert rows[::2] == rows[1::2]


def test_batches_of_other_tasks_are_closed_when_nothing_runs_in_them(agent: Agent, tmp_path: Path) -> None:
    """Each batch keeps its worlds until the last episode in it has ended, also while more tasks than are kept begin."""
    names = [faulty("one", tmp_path / str(number)) for number in range(5)]
    orders = [(Rollout("b", SETTINGS[0]), EpisodeSpec(name, "search", index)) for index in (0, 1) for name in names]
    engine = Engine(lambda path: agent, slots=5)
    rows = run(engine, orders)
    assert rows[:5] == [rows[0]] * 5
    assert rows[5:] == [rows[5]] * 5
    assert len(engine._free) <= 5


def test_recordings_are_those_of_one_simulator(agent: Agent, tmp_path: Path) -> None:
    found = []
    for task in (MANY.name, "pointmass"):
        job = Rollout("b", SETTINGS[0], record=str(tmp_path / str(len(found))))
        run(Engine(lambda path: agent), [(job, spec) for spec in specs(task, 6)])
        found.append([arrays_in(recorded_file(Path(job.record), spec)) for spec in specs(task, 6)])
    assert {"actions", "rewards", "obs/state"} <= set(found[0][0])
    np.testing.assert_equal(found[0], found[1])


def arrays_in(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as recorded:
        return {name: recorded[name] for name in recorded.files if name != "about"}  # how long it took is there


def test_demonstrations_and_videos_use_a_world_alone(agent: Agent, tmp_path: Path) -> None:
    engine = Engine(lambda path: agent)
    engine.add(0, Rollout("b", SETTINGS[0]), specs()[0])
    engine.add(1, Demonstration(str(tmp_path / "demos"), 1.0), EpisodeSpec(MANY.name, "demos", 0))
    ended: dict[int, Any] = {}
    while not engine.idle:
        ended |= dict(engine.round())
    assert ended[1]["outcome"] == "success"
    with pytest.raises(UserError, match="cannot be filmed"):
        Engine(lambda path: agent, RenderOptions()).warm_up(MANY.name)


# Faults


def test_a_fault_of_one_world_is_an_error_of_its_episode(agent: Agent, tmp_path: Path) -> None:
    name = faulty("one", tmp_path)
    rows = run(Engine(lambda path: agent), [(Rollout("b", SETTINGS[0]), spec) for spec in specs(name)])
    expected = run(Engine(lambda path: agent), [(Rollout("b", SETTINGS[0]), spec) for spec in specs()])
    assert rows[BAD]["outcome"] == "error"
    assert rows[BAD]["message"] == "BadEnvironment: FloatingPointError: it diverged (at step 3)"
    del rows[BAD], expected[BAD]
    assert rows == expected, "the others are not disturbed"


def test_an_exception_of_a_batch_may_be_of_any_of_its_episodes(agent: Agent, tmp_path: Path) -> None:
    name = faulty("all", tmp_path)
    for slots, number in ((6, ANY), (1, 0)):
        engine, ended = Engine(lambda path: agent, slots=slots), list[Any]()
        for index, spec in enumerate(specs(name)[BAD : BAD + slots]):
            engine.add(index, Rollout("b", SETTINGS[0]), spec)
        while not any(isinstance(row, Fault) for _, row in ended):
            ended += engine.round()
        (tmp_path / "done").unlink()
        assert ended[-1] == (number, Fault("FloatingPointError", ended[-1][1].message))
        assert "the batch is lost" in ended[-1][1].message


def test_what_a_batch_must_not_return_is_an_error_of_a_single_episode(agent: Agent, tmp_path: Path) -> None:
    """With several episodes they are run again one by one, which is decided by the dispatcher."""
    engine = Engine(lambda path: agent, slots=1)
    rows = run(engine, [(Rollout("b", SETTINGS[0]), spec) for spec in specs(faulty("rows", tmp_path), BAD + 2)])
    assert "reward: expected 1 rows (worlds), got 0" in rows[BAD]["message"]
    assert [row["outcome"] == "error" for row in rows] == [False] * BAD + [True, False]


def test_a_large_batch_that_failed_is_divided() -> None:
    item = QueuedEpisode(Rollout("b", SETTINGS[0]), specs()[0], "s", None)  # type: ignore[arg-type]
    sizes = []
    for among in (1200, 34, 5):
        suspected(item, among)
        sizes.append(item.most)
    assert sizes == [34, 1, 1], "not one by one at once: an episode of 1024 worlds takes as long as one of 1"


# Through Ray


@pytest.mark.slow
def test_a_pool_steps_worlds_together(ray_cpus: float, bundle: str) -> None:
    jobs = [Rollout(bundle, setting) for setting in SETTINGS]
    with RolloutPool.start("pointmass", 1, worker_cpus=0.2) as pool:
        expected = pool.evaluate("test", jobs, specs("pointmass"))
    with RolloutPool.start(MANY.name, 2, worker_cpus=0.2) as pool:
        rows = pool.evaluate("test", jobs, specs())
    assert [rows_without_times(part) for part in rows] == [rows_without_times(part) for part in expected]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "always"),
    [
        ("kill", False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("all", False), ("all", True), ("kill", True))),
    ],
)
def test_a_batch_that_dies_costs_no_other_episode(
    ray_cpus: float, bundle: str, tmp_path: Path, kind: str, always: bool
) -> None:
    if always:
        (tmp_path / "always").touch()
    name, jobs = faulty(kind, tmp_path), [Rollout(bundle, SETTINGS[0])]
    with RolloutPool.start(MANY.name, 1, worker_cpus=0.2) as pool:
        expected = pool.evaluate("test", jobs, specs(count=10))[0]
    with RolloutPool.start(name, 1, worker_cpus=0.2) as pool:
        rows = pool.evaluate("test", jobs, specs(name, 10))[0]
    assert [row["index"] for row in rows if row["outcome"] == "error"] == ([BAD] if always else [])
    if always:
        del rows[BAD], expected[BAD]
    assert rows_without_times(rows) == rows_without_times(expected)  # type: ignore[arg-type]


# GPUs


def on_gpu(**more: Any) -> Task:
    return Task(
        "t", "s", alone(ManyPoints), 80, ("state",), 10.0, make_batch=ManyPoints, slots=6, gpu_slots=1024, **more
    )


def test_workers_on_gpus() -> None:
    task = on_gpu()
    assert on_gpus_of([POINTMASS], 4, {"slots": 2}, 2.0, 2.0) == (4, {"slots": 2}), "it needs none"
    assert on_gpus_of([task], 4, {}, 0.0, 0.0) == (4, {}), "there is none"
    workers, options = on_gpus_of([task], 4, {"gpus": 1.0}, 2.0, 2.0)
    assert (workers, options) == (2, {"worker_gpus": WORKER_GPUS, "gpus": LEFT}), "one for each GPU"
    assert on_gpus_of([task], 4, {"render": RenderOptions()}, 2.0, 2.0)[1]["worker_gpus"] == RENDERING_GPUS
    assert WORKER_GPUS > 0.5, "two do not fit on one"
    assert pytest.approx(1.0) == WORKER_GPUS + RENDERING_GPUS + LEFT
    with pytest.raises(UserError, match="expected a GPU on this machine, since other machines of this Ray have 2"):
        on_gpus_of([task], 4, {}, 2.0, 0.0)


def test_worlds_of_a_worker() -> None:
    task = on_gpu()
    assert PoolOptions().slots_of(task) == 6
    assert PoolOptions(worker_gpus=0.5).slots_of(task) == 1024
    assert PoolOptions(worker_gpus=0.5, slots=64).slots_of(task) == 64
    assert PoolOptions(worker_gpus=0.5, render=RenderOptions()).slots_of(task) == 1
    assert PoolOptions(worker_gpus=0.5).slots_of(POINTMASS) == POINTMASS.slots


def test_trials_get_what_simulators_leave_of_gpus() -> None:
    assert gpu_left(["pointmass"]) == 1.0
    assert gpu_left(["pointmass", "ocbench-block-single-task1-v0"]) == LEFT
    assert gpu_share(1.0, 2, "auto", LEFT) == 0.2
    machines = [Machine({"CPU": 8.0, "GPU": 1.0})]
    parts = {"trials": 2, "trial_cpus": 1.0, "workers": 1, "worker_cpus": 1.0, "device": "auto"}
    assert allocate_sweep(machines, **parts, gpu_left=LEFT).gpus == 0.2  # type: ignore[arg-type]


# Conformance


def test_conformance() -> None:
    assert get_task(MANY.name) is MANY
    check_task(MANY)
    check_batched(MANY)


class Leaking(ManyPoints):
    """A reset moves the other worlds a little."""

    def reset(self, seeds: Mapping[int, int]) -> Worlds:
        for world, point in enumerate(self._points):
            if world not in seeds:
                point._x += 1e-9
        return super().reset(seeds)


class Numbered(ManyPoints):
    """What happens depends on the number of the world."""

    def step(self, actions_NA: np.ndarray, acts_N: np.ndarray) -> Worlds:
        return super().step(actions_NA * (1 - 1e-6 * np.arange(self.worlds, dtype=np.float32)[:, None]), acts_N)


class Remembering(ManyPoints):
    """A reset forgets the velocity only of worlds that are reset together with others."""

    def reset(self, seeds: Mapping[int, int]) -> Worlds:
        before = {world: self._points[world]._v for world in seeds}
        found = super().reset(seeds)
        if len(seeds) == 1 and self.worlds > 1:
            for world, v in before.items():
                self._points[world]._v = 1e-6 * v
        return found


@pytest.mark.parametrize("kind", [Leaking, Numbered, Remembering])
def test_worlds_that_are_not_independent_are_found(kind: type[BatchedEnv]) -> None:
    task = Task("t", "s", alone(kind), 80, ("state",), 10.0, make_batch=kind)
    with pytest.raises(AssertionError, match="not as in a batch of one world"):
        check_batched(task)


def test_a_world_is_not_stepped_without_the_others() -> None:
    world = Together(ManyPoints(2)).worlds[1]
    world.reset(seed=3)
    with pytest.raises(RuntimeError, match="without the others"):
        world.step(np.zeros(2, np.float32))
    one = alone(ManyPoints)(None)
    np.testing.assert_equal(one.reset(seed=3), PointMassEnv().reset(seed=3))
