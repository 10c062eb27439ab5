"""The rollout pool on real Ray actors: same rows whatever the workers, and faults that disturb nothing else."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import ray
import torch

from raybc.__main__ import run
from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.cluster.answers import answer_of
from raybc.cluster.session import ray_session
from raybc.config import RunConfig
from raybc.data.formats import robomimic
from raybc.envs.base import RenderOptions
from raybc.rollout.engine import Rollout
from raybc.rollout.pool import RolloutPool
from raybc.rollout.stop import UntilHalfwidth
from raybc.statistics import halfwidth_reached
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer
from raybc.types import EpisodeSpec, SampleSetting, UserError
from tests.faults import task_name

SPECS = [EpisodeSpec("pointmass", "search", i) for i in range(10)]

torch.set_num_threads(1)  # two threads on two busy cores wait for each other most of the time


@pytest.fixture(scope="module")
def bundle(pointmass_demos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A policy that solves some starts and not others."""
    store = robomimic.read(pointmass_demos)
    data = TrainingData(store, store.fingerprint(), ("state", "goal"), {})
    config = RunConfig.of(env_name="pointmass-scripted-low_dim", training_steps=600, batch_size=128, lr=3e-3,
                       action_chunking=True, horizon_length=8, hidden_width=64, hidden_depth=2)  # fmt: skip
    trainer = PackTrainer([config], data, torch.device("cpu"))
    trainer.advance(600)
    path = tmp_path_factory.mktemp("bundle") / "policy"
    trainer.bundle(0).save(path)
    return str(path)


def rows_without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("seconds", "retries", "video", "task")} for r in rows]


def specs(task: str, count: int = 10) -> list[EpisodeSpec]:
    return [EpisodeSpec(task, "search", i) for i in range(count)]


def evaluate(task: str, workers: int, works: list[Rollout], **options: Any) -> tuple[list[Any], dict[str, Any]]:
    pool = RolloutPool.start(task, workers, worker_cpus=0.2, **options)
    try:
        return pool.evaluate("test", works, specs(task)), pool.stats()
    finally:
        pool.close()


def test_rows_do_not_depend_on_the_number_of_workers(ray_cpus: float, bundle: str) -> None:
    works = [Rollout(bundle, SampleSetting(s, 0, 1.0)) for s in (1, 4)]
    one, stats = evaluate("pointmass", 1, works)
    three, _ = evaluate("pointmass", 3, works)
    assert [rows_without_times(r) for r in one] == [rows_without_times(r) for r in three]
    assert [r["index"] for r in one[0]] == list(range(10))
    assert {r["outcome"] for r in one[0]} > {"success"}, "the policy should solve some starts and miss others"
    assert stats["episodes"] == 20
    assert stats["steps"] == sum(r["steps"] for rows in one for r in rows)


def test_faults_are_retried_in_a_fresh_process(ray_cpus: float, bundle: str, tmp_path: Path) -> None:
    expected, _ = evaluate("pointmass", 2, [Rollout(bundle, SampleSetting())])
    rows, stats = evaluate(task_name(tmp_path), 2, [Rollout(bundle, SampleSetting())], deadline=5.0)
    assert rows_without_times(rows[0]) == rows_without_times(expected[0])
    assert {r["index"] for r in rows[0] if r["retries"]} <= {1, 4, 7}
    assert rows[0][1]["retries"] == 1
    assert stats["restarts"] >= 3
    assert stats["errors"] == 0


@pytest.mark.slow
def test_faults_that_stay_are_errors_and_nothing_else_is_disturbed(
    ray_cpus: float, bundle: str, tmp_path: Path
) -> None:
    expected, _ = evaluate("pointmass", 2, [Rollout(bundle, SampleSetting())])
    (tmp_path / "always").touch()
    rows, stats = evaluate(task_name(tmp_path), 2, [Rollout(bundle, SampleSetting())], deadline=3.0)
    errors = {r["index"]: r for r in rows[0] if r["outcome"] == "error"}
    assert set(errors) == {1, 4, 7}
    assert "the simulator diverged" in errors[1]["message"]
    assert "died" in errors[4]["message"]
    assert "hung" in errors[7]["message"]
    assert [r["retries"] for r in errors.values()] == [2, 2, 2]
    kept = [r for r in rows[0] if r["index"] not in errors]
    assert rows_without_times(kept) == rows_without_times([r for r in expected[0] if r["index"] not in errors])
    assert stats["errors"] == 3


@pytest.mark.slow
def test_faults_in_one_of_ten_episodes_change_no_outcome(ray_cpus: float, bundle: str, tmp_path: Path) -> None:
    """Exceptions, kills and hangs at 6 of 60 starts, with 16 simulators in a process, so that others are hit too."""
    works = [Rollout(bundle, SampleSetting())]
    with RolloutPool.start("pointmass", 2, worker_cpus=0.2) as pool:
        expected = pool.evaluate("test", works, specs("pointmass", 60))[0]
    (tmp_path / "sparse").touch()
    name = task_name(tmp_path)
    with RolloutPool.start(name, 2, worker_cpus=0.2, deadline=3.0) as pool:
        rows, stats = pool.evaluate("test", works, specs(name, 60))[0], pool.stats()
    assert rows_without_times(rows) == rows_without_times(expected)
    assert [r["index"] for r in rows] == list(range(60)), "each start has exactly one row"
    assert {r["index"] for r in rows if r["retries"]} <= {5, 15, 25, 35, 45, 55}
    assert stats["errors"] == 0
    assert len(list(tmp_path.glob("done_*"))) == 6, "every fault happened"


def test_one_inference_actor_for_all_gives_the_same_rows(ray_cpus: float, bundle: str) -> None:
    works = [Rollout(bundle, SampleSetting(s, 0, 1.0)) for s in (1, 4)]
    local, _ = evaluate("pointmass", 2, works)
    shared, _ = evaluate("pointmass", 2, works, shared=True, slots=4)
    assert [rows_without_times(r) for r in local] == [rows_without_times(r) for r in shared]


@pytest.mark.parametrize("shared", [False, True])
def test_a_bundle_that_was_replaced_is_loaded_anew(ray_cpus: float, bundle: str, tmp_path: Path, shared: bool) -> None:
    """A warm process keeps networks by path; the file behind a path may change."""
    path = tmp_path / "bundle"
    good = PolicyBundle.load(Path(bundle))
    still = dataclasses.replace(good, weights={k: torch.zeros_like(v) for k, v in good.weights.items()})
    found = []
    with RolloutPool.start("pointmass", 1, worker_cpus=0.2, shared=shared) as pool:
        for version in (good, still):
            version.save(path)
            found.append(pool.evaluate("test", [Rollout(str(path), SampleSetting())], SPECS)[0])
    assert rows_without_times(found[0]) != rows_without_times(found[1])
    assert "success" not in {row["outcome"] for row in found[1]}, "zero weights solve nothing"


@pytest.mark.slow
def test_processes_can_be_replaced_after_so_many_episodes(ray_cpus: float, bundle: str) -> None:
    works = [Rollout(bundle, SampleSetting())]
    expected, _ = evaluate("pointmass", 1, works)
    rows, stats = evaluate("pointmass", 1, works, recycle=4)
    assert rows_without_times(rows[0]) == rows_without_times(expected[0])
    assert stats["recycled"] == 2, "10 episodes in processes of 4"
    assert (stats["restarts"], stats["retries"]) == (0, 0)


def test_one_pool_serves_several_tasks(ray_cpus: float, bundle: str, tmp_path: Path) -> None:
    """Tasks of one suite share a process, another suite gets a fresh one; rows belong to their specs."""
    works = [Rollout(bundle, SampleSetting())]
    expected, _ = evaluate("pointmass", 1, works)
    mixed = [s for pair in zip(specs("pointmass"), specs("tests.faults:OTHER"), strict=True) for s in pair]
    with RolloutPool.start("pointmass", 1, worker_cpus=0.2) as pool:
        rows = pool.evaluate("test", works, mixed)[0]
        stats = pool.stats()
    assert rows_without_times(rows[::2]) == rows_without_times(rows[1::2]) == rows_without_times(expected[0])
    assert stats["recycled"] == 1, "one change of suite: what fits a process is run first"


def test_a_rule_ends_an_evaluation_at_the_same_start_whatever_the_workers(ray_cpus: float, bundle: str) -> None:
    works = [Rollout(bundle, SampleSetting(s)) for s in (1, 4)]
    many = specs("pointmass", 200)
    counts = []
    for workers in (1, 3):
        with RolloutPool.start("pointmass", workers, worker_cpus=0.2) as pool:
            rows = pool.evaluate("test", works, many, UntilHalfwidth(0.12))
            assert pool.stats()["queued"] == 0
        counts.append([rows_without_times(r) for r in rows])
    assert counts[0] == counts[1]
    for row in counts[0]:
        assert halfwidth_reached([r["outcome"] == "success" for r in row], 0.12) == len(row) < 200
        assert [r["index"] for r in row] == list(range(len(row)))


def test_known_rows_are_not_measured_again_and_new_ones_can_be_watched(ray_cpus: float, bundle: str) -> None:
    works = [Rollout(bundle, SampleSetting())]
    expected, _ = evaluate("pointmass", 1, works)
    known = {(0, i): expected[0][i] | {"steps": -i} for i in (0, 3)}
    with RolloutPool.start("pointmass", 1, worker_cpus=0.2) as pool:
        ref = pool.submit("test", works, specs("pointmass"), None, known)
        seen: list[Any] = []
        while not ray.wait([ref], timeout=0.02)[0]:
            seen += pool.finished("test", len(seen))
        rows = ray.get(ref)[0]
        assert pool.stats()["episodes"] == 8
    assert [rows[0]["steps"], rows[3]["steps"]] == [0, -3]
    assert rows_without_times([rows[i] for i in (1, 2, 4, 9)]) == rows_without_times(
        [expected[0][i] for i in (1, 2, 4, 9)]
    )
    assert all(w == 0 and row["index"] == s and (w, s) not in known for w, s, row in seen)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["lift", "pusht", "halfcheetah"])
def test_real_simulators_give_the_same_rows_with_1_2_and_4_workers(ray_cpus: float, tmp_path: Path, task: str) -> None:
    """Chaotic dynamics show a difference in the last bit of an action within an episode."""
    from benchmarks.rollouts import make_bundle

    works = [Rollout(str(make_bundle(task, tmp_path)), SampleSetting(2, 0, 0.5))]
    starts = [EpisodeSpec(task, "final", i) for i in range({"lift": 6, "pusht": 40, "halfcheetah": 24}[task])]
    found = []
    for workers in (1, 2, 4):
        with RolloutPool.start(task, workers, worker_cpus=0.2) as pool:
            found.append(rows_without_times(pool.evaluate("test", works, starts)[0]))
    assert found[0] == found[1] == found[2]
    assert len({row["return"] for row in found[0]}) > 1 or task == "lift"


def test_a_simulator_that_cannot_be_built_fails_its_episodes_with_the_reason(ray_cpus: float, bundle: str) -> None:
    rows, _ = evaluate("tests.faults:BROKEN", 1, [Rollout(bundle, SampleSetting())])
    assert {r["outcome"] for r in rows[0]} == {"error"}
    assert "no such robot" in rows[0][0]["message"]


def test_what_processes_of_ray_refuse_is_one_line(
    ray_cpus: float, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here with a task that only this process can import."""
    (tmp_path / "only_here.py").write_text("from raybc.envs.pointmass import POINTMASS as TASK\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with RolloutPool.start("pointmass", 1, worker_cpus=0.2) as pool, pytest.raises(UserError, match="only_here") as got:
        pool.evaluate("test", [Rollout(bundle, SampleSetting())], specs("only_here:TASK"))
    assert type(got.value) is UserError
    assert "\n" not in str(got.value)
    words = ["rollout", bundle, "--tasks", "only_here:TASK", "--episodes_per_task", "2", "--workers", "1"]
    assert run_main(lambda: run([*words, "--out", str(tmp_path / "out")])) == 2
    said = capsys.readouterr().err
    assert said == f"error: {got.value}\n"


def test_other_errors_in_processes_of_ray_keep_their_traceback(ray_cpus: float) -> None:
    with pytest.raises(ZeroDivisionError) as got:
        answer_of(ray.remote(num_cpus=0)(lambda: 1 // 0).remote())
    assert isinstance(got.value.__cause__, ray.exceptions.RayTaskError)


def test_a_killed_worker_is_replaced(ray_cpus: float, bundle: str) -> None:
    expected, _ = evaluate("pointmass", 1, [Rollout(bundle, SampleSetting())])
    pool = RolloutPool.start("pointmass", 1, worker_cpus=0.2)
    pool.evaluate("warm", [Rollout(bundle, SampleSetting())], SPECS[:1])
    ref = pool.submit("test", [Rollout(bundle, SampleSetting())] * 20, SPECS)
    os.kill(pool.stats()["pids"][0], signal.SIGKILL)
    rows = ray.get(ref)
    assert all(rows_without_times(r) == rows_without_times(expected[0]) for r in rows)
    assert pool.stats()["restarts"] == 1
    pool.close()


def test_a_killed_dispatcher_is_restarted_and_answers(ray_cpus: float, bundle: str) -> None:
    pool = RolloutPool.start("pointmass", 1, worker_cpus=0.2)
    pid = ray.get(pool._dispatcher.__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    rows = pool.evaluate("test", [Rollout(bundle, SampleSetting())], SPECS)
    assert len(rows[0]) == 10
    pool.close()


def test_the_same_question_twice_is_measured_once(ray_cpus: float, bundle: str) -> None:
    pool = RolloutPool.start("pointmass", 1, worker_cpus=0.2)
    refs = [pool.submit("same", [Rollout(bundle, SampleSetting())], SPECS) for _ in range(2)]
    first, second = ray.get(refs)
    assert first == second
    assert pool.stats()["episodes"] == 10
    pool.close()


def test_filming_changes_no_outcome_and_the_video_plays(ray_cpus: float, bundle: str, tmp_path: Path) -> None:
    plain, _ = evaluate("pointmass", 1, [Rollout(bundle, SampleSetting())])
    work = Rollout(bundle, SampleSetting(), video=str(tmp_path), video_frame_skip=2)
    filmed, _ = evaluate("pointmass", 1, [work], render=RenderOptions(64, 64))
    assert rows_without_times(plain[0]) == rows_without_times(filmed[0])
    for row in filmed[0]:
        name = f"pointmass_{row['index']}_{row['outcome']}.mp4"
        assert row["video"] == name
        with av.open(str(tmp_path / name)) as video:
            stream = video.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            frames = [f.to_ndarray(format="rgb24") for f in video.decode(stream)]
        shown = row["steps"] // 2 + 1 + row["steps"] % 2  # the start, every second step and the last one
        assert len(frames) == shown + 5, "held for a second"
        assert frames[0].shape == (64 + 14, 64, 3), "the banner is above the image"
        assert np.abs(frames[0].astype(int) - frames[-1].astype(int)).max() > 50, "the mass has moved"


def test_an_overloaded_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray raises when its processes do not answer in time cannot be brought about here, so it is made up."""

    def too_late(*_: Any, **__: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_late)
    expected = r"Ray did not start: .* load of this machine is \d+ with \d+ cores"
    with pytest.raises(UserError, match=expected), ray_session():
        pytest.fail("it began")


RAY_SESSION = """
import os, psutil, ray
from raybc.cluster.session import ray_session
with ray_session(num_cpus=1) as cpus:
    ray.get(ray.remote(lambda: 1).remote())
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    ports = []
    for process in family:
        try:
            ports += [c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"]
        except psutil.NoSuchProcess:  # Ray's helpers come and go
            pass
    print(cpus, os.environ["RAY_AUTH_MODE"], os.environ["RAY_USAGE_STATS_ENABLED"])
    print(*sorted(set(ports)))
print(*[p.pid for p in family[1:]])
"""


def test_a_local_ray_listens_on_loopback_only_and_leaves_no_process_behind() -> None:
    out = subprocess.run([sys.executable, "-c", RAY_SESSION], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    facts, addresses, pids = out.stdout.strip().splitlines()[-3:]
    assert facts == "1.0 token 0"
    assert set(addresses.split()) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert len(pids.split()) > 4
    assert [p for p in pids.split() if is_alive(p)] == []


def is_alive(pid: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_closing_beside_evaluations_under_way_prints_nothing(bundle: str) -> None:
    """Ctrl-C of a training that collects online closes the pool beside many of them; Ray warned of each."""
    script = f"""
import time

from raybc.cluster.session import ray_session
from raybc.rollout.engine import Rollout
from raybc.rollout.pool import RolloutPool
from raybc.types import EpisodeSpec, SampleSetting

with ray_session("", 1, quiet=True):
    pool = RolloutPool.start("pointmass", 1, worker_cpus=0.2)
    specs = [EpisodeSpec("pointmass", "search", i) for i in range(3000)]
    for key in "ab":
        pool.submit(key, [Rollout({bundle!r}, SampleSetting())], specs)
    while not pool.stats()["episodes"]:
        time.sleep(0.1)
    pool.close()
    pool.close()
    time.sleep(2)  # what Ray has to say arrives a moment later
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
