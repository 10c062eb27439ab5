"""Instructions: how they reach a policy, and what a policy makes of them.

Letters: B batch, T observation steps, O observation dim, H chunk, A action dim.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.envs.base import RenderOptions
from raybc.envs.pointmass import POINTMASS, PointMassEnv
from raybc.inference.predictor import Resolved, concatenated, stack_rows
from raybc.metric import SUCCESS
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.episode import run_episode
from raybc.rollout.evaluation import EvaluationConfig, _resume
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.policy import MeasuredBundle
from raybc.rollout.simulator_flags import SimulatorFlags
from raybc.types import EpisodeSpec, Observation, SampleSetting, UserError
from tests.helpers import pointmass_bundle
from tests.test_engine import run
from tests.test_episode import Script

GO = "go to the goal"


class Listening(Script):
    """An agent that notes the instructions."""

    def __init__(self) -> None:
        super().__init__([0.5, 0.5])
        self.heard: list[Any] = []

    def predict(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> Resolved:
        self.heard.append(obs.instruction)
        return Resolved(np.broadcast_to(self.actions_HA, (len(noise_BHA), *self.actions_HA.shape)))


class Speaking(PointMassEnv):
    """The point mass with an instruction."""

    instruction = GO


# Rollouts


@pytest.mark.parametrize(
    ("env", "given", "heard"),
    [(PointMassEnv(), "", None), (Speaking(), "", (GO,)), (Speaking(), "stay", ("stay",))],
    ids=["none", "the environment's", "another"],
)
def test_the_policy_reads_what_the_environment_says(env: PointMassEnv, given: str, heard: Any) -> None:
    agent = Listening()
    run_episode(env, agent, EpisodeSpec("pointmass", "search", 0), SampleSetting(), 20, instruction=given)
    assert len(agent.heard) > 1
    assert set(agent.heard) == {heard}


def test_a_job_may_say_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of a batch keeps its own instruction."""
    task = dataclasses.replace(POINTMASS, make=lambda render: Speaking(), slots=4)
    monkeypatch.setattr("raybc.rollout.engine.get_task", lambda name: task)
    agent = Listening()
    jobs = [Rollout("b", SampleSetting(), instruction=text) for text in ("", "stay")]
    specs = [EpisodeSpec("pointmass", "search", i) for i in range(2)]
    run(Engine(lambda path: agent), [(job, spec) for spec in specs for job in jobs])
    assert agent.heard[0] == (GO, "stay", GO, "stay")


def test_observations_are_stacked_with_their_instructions() -> None:
    rows = [Observation(np.zeros((1, 2), np.float32), instruction=(text,)) for text in (GO, "stay")]
    both = stack_rows(rows)
    assert both.instruction == (GO, "stay")
    assert concatenated([both, both]).instruction == (GO, "stay") * 2


def test_an_evaluation_continues_with_the_same_instruction_only(tmp_path: Path) -> None:
    out = EvaluationFolder(tmp_path)
    spec = EpisodeSpec("pointmass", "final", 0)
    policy = MeasuredBundle(tmp_path, pointmass_bundle())
    plain = EvaluationConfig(policy, (SampleSetting(),), (spec,), 0, 3, RenderOptions(), 0.0, SUCCESS, SimulatorFlags())
    other = dataclasses.replace(plain, instruction="stay")
    assert "instruction" not in plain.request(), "evaluations of earlier releases can be resumed"
    assert [job.instruction for job in other.jobs()] == ["stay"]
    _resume(plain, out)
    with pytest.raises(UserError, match="instruction: was None, is 'stay'"):
        _resume(other, out)
    out.request.unlink()
    _resume(other, out)
    with pytest.raises(UserError, match="instruction: was 'stay', is None"):
        _resume(plain, out)
