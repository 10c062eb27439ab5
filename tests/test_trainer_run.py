"""Trials of trainers of others without Ray: measured at milestones, resumed, stopped, and what goes wrong."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.sweep.load import saved_sweep
from raybc.trainer.job import Task, TrainerJob
from raybc.trainer.process import TrainerProcess
from raybc.types import UserError
from tests.helpers import pointmass_bundle, read_table, tiny_trainer
from tests.trainers import THEIRS, Sweep, config

given: list[Any] = []


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("theirs") / "theirs.py"
    path.write_text(THEIRS)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that somebody has trained."""
    path = tmp_path_factory.mktemp("good") / "bundle"
    pointmass_bundle().save(path)
    return path


def test_a_trainer_s_policies_are_measured_at_every_milestone(theirs: Path, good: Path, tmp_path: Path) -> None:
    sweep = Sweep(config(theirs, train={"saved": str(good)}), tmp_path).run()
    assert not sweep.failures
    assert [(e.evaluation, e.step) for e in sweep.evaluations] == [(1, 10), (2, 20), (3, 30)]
    rows = sweep.evaluations[-1].rows
    assert [(r["seed"], r["execute_steps"], r["flow_steps"]) for r in rows] == [
        (0, 4, 2), (0, 8, 2), (3, 4, 2), (3, 8, 2)
    ]  # fmt: skip
    assert len({r["run_id"] for r in rows}) == 2
    assert sum(r["successes"] for r in rows) > 4, "the policy is a good one"
    (given,) = sweep.given(3)
    assert given.pop("here")
    assert given == {
        "options": {"saved": str(good), "learning_rate": 1e-3, "horizon_length": 4, "mode": "good"}, "seed": 3,
        "dataset": "demos.hdf5", "task": "pointmass", "steps": 30, "milestones": [10, 20, 30], "step": 0,
        "checkpoint": "None", "obs_keys": ["state", "goal"],
    }  # fmt: skip
    member = sweep.folder.member(0, 3)
    table = read_table(member.train_csv)
    assert [(r["step"], float(r["train/loss"])) for r in table] == [
        (str(step), pytest.approx(1 / step)) for step in (5, 10, 15, 20, 25, 30)
    ]
    assert "train/bad" not in table[0], "what is not finite is left out"
    assert "hello from good" in member.text_log.read_text()
    assert sorted(member.checkpoints()) == [20, 30], "older policies are dropped"
    assert sweep.has(3, "ended")


def test_a_relative_file_is_that_of_the_folder_in_which_the_sweep_was_started(
    theirs: Path, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(theirs.parent)
    plan = config(Path(theirs.name), train={"saved": str(good)}, eval={"evaluations": 1}, seeds=[0])
    sweep = Sweep(plan, tmp_path)
    sweep.context = dataclasses.replace(sweep.context, working_folder=str(theirs.parent))
    monkeypatch.chdir(tmp_path)
    assert [e.step for e in sweep.run().evaluations] == [30]
    (given,) = sweep.given(0)
    assert given["here"] == str(theirs.parent)


def test_a_pruned_training_is_stopped_and_may_clean_up(theirs: Path, good: Path, tmp_path: Path) -> None:
    sweep = Sweep(config(theirs, train={"saved": str(good)}), tmp_path).run(until=1)
    assert [e.evaluation for e in sweep.evaluations] == [1]
    for seed in (0, 3):
        assert sweep.has(seed, "ended")
        assert not sweep.has(seed, "reported_10"), "its report has raised"


def is_running(process: int) -> bool:
    """Whether there is such a process that has not ended (ended ones stay until their parent asks for the status)."""
    try:
        os.kill(process, 0)
        stat = Path(f"/proc/{process}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def ends(process: int) -> bool:
    """Whether a process ends within a few seconds."""
    deadline = time.monotonic() + 20
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(process)


def test_what_a_trainer_starts_reads_no_words_of_the_sweep_and_ends_with_it(
    theirs: Path, good: Path, tmp_path: Path
) -> None:
    plan = config(theirs, train={"saved": str(good), "mode": "starts"}, seeds=[0], eval={"evaluations": 2})
    sweep = Sweep(plan, tmp_path).run()
    assert not sweep.failures
    assert [e.step for e in sweep.evaluations] == [15, 30]
    assert ends(int((sweep.folder.member(0, 0).path / "trainer/child").read_text()))


def test_what_a_trainer_starts_ends_with_it_also_when_it_is_killed(theirs: Path, tmp_path: Path) -> None:
    """Ray kills the children of a process that it ends, but not theirs, which would keep a GPU."""
    task = Task(f"{theirs}:hangs", {}, 0, "", "", "pointmass", [], [10], "cpu", str(tmp_path / "seed_0"), 0)
    process = TrainerProcess(task, tmp_path / "training.log", 1)
    message = next(process.messages())
    process._process.kill()
    assert ends(int(message["metrics"]["child"]))
    process.close()


@pytest.mark.parametrize("mode", ["good", "ignores"])
def test_a_killed_training_continues_without_measuring_again(
    theirs: Path, good: Path, tmp_path: Path, mode: str
) -> None:
    """Whether the trainer continues from its checkpoint or begins again, as it likes."""
    sweep = Sweep(config(theirs, train={"saved": str(good), "mode": mode}), tmp_path)
    sweep.run(until=1)
    shutil.rmtree(sweep.folder.checkpoint(0, 3, 10))  # of one seed, nothing is left
    sweep.run()
    assert [e.evaluation for e in sweep.evaluations] == [1, 2, 3]
    assert not sweep.failures
    continued, begun = sweep.given(0)[-1], sweep.given(3)[-1]
    assert continued["step"] == 10
    assert continued["checkpoint"] == str(sweep.folder.checkpoint(0, 0, 10))
    assert (begun["step"], begun["checkpoint"]) == (0, "None")
    whole = Sweep(config(theirs, train={"saved": str(good), "mode": mode}), tmp_path / "whole").run()
    assert [e.score for e in whole.evaluations] == [e.score for e in sweep.evaluations]


def test_a_trainer_gets_its_dataclass(theirs: Path, tmp_path: Path) -> None:
    space = {"width": {"low": 1, "high": 9}, "fast": {"values": [True, False]}}
    (reason,) = Sweep(config(theirs, "of_dataclass", space=space, train={}), tmp_path).run(width=3, fast=True).failures
    expected = "Options(width=3, shape='a', fast=True) {'width': 3, 'shape': 'a', 'fast': True}"
    assert reason == f"seed 0: LookupError: {expected}"


def test_a_policy_that_was_reported_but_not_looked_at_is_looked_at(theirs: Path, good: Path, tmp_path: Path) -> None:
    sweep = Sweep(config(theirs, train={"saved": str(good)}, seeds=[0]), tmp_path)
    sweep.run(until=1)
    tiny_trainer().bundle(0).save(sweep.folder.checkpoint(0, 0, 20))  # by a process that was killed then
    (reason,) = sweep.run().failures
    assert "policy of step 20: " in reason
    assert "observation 'arm'" in reason


@pytest.mark.parametrize(
    ("step", "words"),
    [(31, "expected a step of 0 to 30, got 31"), (-1, "got -1"), (2.0, r"got 2\.0"), ("ten", "got 'ten'")],
)
def test_a_step_that_cannot_be_is_refused(tmp_path: Path, step: Any, words: str) -> None:
    job = TrainerJob(Task("", {}, 0, "d", "e", "t", [], [10, 30], "cpu", str(tmp_path), 0), given.append, lambda: None)
    with pytest.raises(UserError, match=words):
        job.report(step, metrics={"loss": 1})
    with pytest.raises(UserError, match="metrics: loss: expected a number, got 'x'"):
        job.report(5, metrics={"loss": "x"})  # type: ignore[dict-item]
    given.clear()
    job.report(np.int64(7), metrics={"loss": np.float32(0.5)})
    assert given == [{"step": 7, "metrics": {"loss": 0.5}}]
    with pytest.raises(UserError, match="expected a step of 7 to 30, got 6"):
        job.report(6)
    with pytest.raises(UserError, match="report at step 10: expected a policy at this step"):
        job.report(10)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "raises"}, "seed 3: ValueError: no such thing"),
        ({"mode": "silent"}, "seed 0: the trainer ended without a policy: expected job.report(step, policy) at each "
                             "step of job.milestones: 10, 20, 30"),
        ({"mode": "dies"}, "seed 0: the trainer's process died (status 3: out of memory)"),
        ({"mode": "skips"}, "seed 0: report at step 25: expected a policy at step 20 first (at each step of "
                            "job.milestones: 10, 20, 30)"),
        ({"mode": "early"}, "seed 0: the trainer ended after step 20, without a policy at step 30"),
        ({"mode": "text"}, "seed 0: report at step 10: expected the folder of a bundle"),
        ({"saved": "/nowhere"}, "seed 0: report at step 10: expected the folder of a bundle"),
        ({"saved": "OTHER"}, "observation 'arm': the policy expects size 3, environment 'pointmass-scripted-low_dim'"),
        ({"flow_steps": None}, "train.flow_steps: expected a number, since the reported policy has a flow"),
        ({"execute_steps": 9}, "execute_steps: expected at most the 8 step(s) of a chunk, got 9"),
    ],
)  # fmt: skip
def test_what_goes_wrong_in_a_training_fails_its_trial_with_one_line(
    theirs: Path, good: Path, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    if options.get("saved") == "OTHER":
        trainer = tiny_trainer()
        trainer.bundle(0).save(tmp_path / "other")
        options = {"saved": str(tmp_path / "other")}
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2}}
    plan = config(
        theirs, train={"saved": str(good), **{k: v for k, v in options.items() if v is not None}}, space=space
    )
    if "flow_steps" in options:
        plain = plan.to_dict()
        del plain["train"]["flow_steps"]
        plain["trainer"]["sampling"] = ["execute_steps", "temporal_ensemble"]
        plan = saved_sweep(plain, "config.json")
    sweep = Sweep(plan, tmp_path / "run").run()
    (found,) = sweep.failures
    assert reason in found
    assert "\n" not in found
    if options.get("mode") == "raises":
        assert "ValueError: no\nsuch thing" in sweep.folder.traceback(0).read_text()
