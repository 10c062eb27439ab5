"""Episodes are pure functions of policy, start and setting; results are counted as they are.

Letters: H chunk, A action dim.
"""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raybc.data.action_form import ActionForm
from raybc.envs.base import SimEnv, Task
from raybc.envs.pointmass import MAX_STEPS, POINTMASS, POINTMASS_PIXELS, PointMassEnv
from raybc.inference.agent import Agent
from raybc.inference.predictor import Resolved
from raybc.metric import METRICS, SUCCESS
from raybc.policies.spec import PolicySpec
from raybc.rollout import faults, results
from raybc.rollout.episode import run_episode
from raybc.testing.envs import check_task
from raybc.types import EpisodeResult, EpisodeSpec, Observation, SampleSetting, UserError
from tests.helpers import chunk_of, pointmass_bundle, saved

SETTING = SampleSetting(flow_steps=4)


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent(pointmass_bundle())


def search(index: int) -> EpisodeSpec:
    return EpisodeSpec("pointmass", "search", index)


def row(env: SimEnv, agent: Any, spec: EpisodeSpec, setting: SampleSetting = SETTING, steps: int = 80) -> dict:
    result = run_episode(env, agent, spec, setting, steps).to_row()
    assert result.pop("seconds") >= 0
    return result


class Script:
    """An agent that plays given actions and remembers what it was asked."""

    overlaps = False

    def __init__(self, actions: Any, horizon: int = 8, obs_steps: int = 1) -> None:
        self.actions_HA = np.broadcast_to(np.array(actions, np.float32), (horizon, 2))
        self.bundle: Any = SimpleNamespace(
            obs_sizes={"state": 4, "goal": 2},
            action_size=2,
            action_form=ActionForm(2),
            images={},
            spec=PolicySpec.of({"state": 4, "goal": 2}, {}, 2, horizon, obs_steps),
        )
        self.noises: list[np.ndarray] = []
        self.seen: list[np.ndarray] = []
        self.flow_steps: list[int] = []

    def predict(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> Resolved:
        obs_BTO = obs.low_dim
        assert (obs.images, obs.instruction) == ({}, None)
        assert obs_BTO.dtype == noise_BHA.dtype == np.float32
        assert obs_BTO.shape == (1, self.bundle.spec.obs_steps, 6)
        assert noise_BHA.shape == (1, self.bundle.spec.horizon, 2)
        self.seen.append(obs_BTO[0])
        state_O = obs_BTO[0, -1]
        return Resolved(self.chunk({"state": state_O[:4], "goal": state_O[4:]}, noise_BHA[0], setting.flow_steps)[None])

    def chunk(self, obs: Any, noise_HA: np.ndarray, flow_steps: int) -> np.ndarray:
        self.noises.append(noise_HA)
        self.flow_steps.append(flow_steps)
        return self.actions_HA


@pytest.mark.parametrize("task", [POINTMASS, POINTMASS_PIXELS], ids=lambda task: task.name)
def test_pointmass_keeps_the_promises_of_an_environment(task: Task) -> None:
    check_task(task)


# A pure function


@pytest.mark.parametrize("setting", [SETTING, SampleSetting(2, 3, 1.0)], ids=str)
def test_an_episode_depends_on_nothing_that_ran_before(agent: Agent, setting: SampleSetting) -> None:
    env = PointMassEnv()
    first = {i: row(env, agent, search(i), setting) for i in range(6)}
    assert len({(r["outcome"], r["steps"]) for r in first.values()}) > 1, "the starts are different ones"
    for i in (5, 0, 3, 3):
        row(env, agent, search(40 + i), SampleSetting(7, 1, 2.0), steps=3 + i)
        assert row(env, agent, search(i), setting) == first[i], "in another order, after an episode that was cut"
    again = Agent(saved(pointmass_bundle()))
    for i in range(6):
        np.random.seed(i)  # noqa: NPY002 (global state must not matter)
        assert row(PointMassEnv(), again, search(i), setting) == first[i], "another simulator, another agent"


def test_looking_changes_nothing(agent: Agent) -> None:
    from raybc.envs.base import RenderOptions

    seen: list[tuple[int, bytes]] = []

    def film(step: int, env: SimEnv) -> None:
        seen.append((step, env.sim_state().tobytes()))
        assert env.render().shape == (16, 16, 3)

    filmed = run_episode(PointMassEnv(RenderOptions(16, 16)), agent, search(2), SETTING, 80, film).to_row()
    filmed.pop("seconds")
    assert filmed == row(PointMassEnv(), agent, search(2))
    assert [s for s, _ in seen] == list(range(filmed["steps"] + 1)), "the start and every step"


def test_a_row_says_what_happened(agent: Agent) -> None:
    env = PointMassEnv()
    for i in range(12):
        result = row(env, agent, search(i))
        assert (result["index"], result["seed"]) == (i, 1_000_000 + i)
        assert result["outcome"] in ("success", "failure", "timeout")
        assert result["return"] == (1.0 if result["outcome"] == "success" else 0.0)
        assert (result["retries"], result["message"]) == (0, "")
        assert 1 <= result["steps"] <= 80
        if result["outcome"] == "timeout":
            assert result["steps"] == 80


def test_the_policy_has_learned_something(agent: Agent) -> None:
    """So that the tests above are about more than timeouts."""
    env = PointMassEnv()
    solved = sum(row(env, agent, search(i))["outcome"] == "success" for i in range(20))
    assert solved >= 3, f"{solved} of 20 starts"


# Chunks


@pytest.mark.parametrize("execute", [0, 1, 2, 3, 7, 8])
def test_a_chunk_is_sampled_only_when_the_last_is_used_up(execute: int) -> None:
    """ceil(steps / k) chunks of which k steps are executed: the mass stands still, so all 80 steps are run."""
    script = Script([[0, 0]])
    result = row(PointMassEnv(), script, search(0), SampleSetting(5, execute))
    assert (result["outcome"], result["steps"]) == ("timeout", 80)
    assert len(script.noises) == math.ceil(80 / (execute or 8))
    assert set(script.flow_steps) == {5}


@pytest.mark.parametrize("execute", [1, 3, 8])
def test_the_first_steps_of_each_chunk_are_executed(execute: int) -> None:
    actions = np.linspace(-0.8, 0.8, 16, dtype=np.float32).reshape(8, 2)
    played: list[np.ndarray] = []

    class Recorder(PointMassEnv):
        def step(self, action: np.ndarray) -> Any:
            played.append(np.array(action))
            return super().step(action)

    result = row(Recorder(), Script(actions), search(0), SampleSetting(1, execute), steps=20)
    assert result["steps"] == len(played) == 20
    np.testing.assert_array_equal(played, [actions[i % execute] for i in range(20)])


@pytest.mark.parametrize("limit", [1, 7, 8, 9, 80])
def test_the_step_limit_is_kept_and_is_a_timeout(limit: int) -> None:
    result = row(PointMassEnv(), Script([[0, 0]]), search(0), steps=limit)
    assert (result["outcome"], result["steps"], result["return"]) == ("timeout", limit, 0.0)


def test_executing_more_than_the_chunk_is_refused(agent: Agent) -> None:
    assert agent.bundle.spec.horizon == 8
    with pytest.raises(UserError, match="execute_steps: expected at most the 8 steps of this policy's chunk, got 9"):
        row(PointMassEnv(), agent, search(0), SampleSetting(1, 9))


# Outcomes


def test_the_obstacle_is_a_failure() -> None:
    """Full speed towards the origin from a start beside it."""

    class Straight(Script):
        def chunk(self, obs: Any, noise_HA: np.ndarray, flow_steps: int) -> np.ndarray:
            x = obs["state"][:2]
            self.actions_HA = np.broadcast_to((-x / np.linalg.norm(x)).astype(np.float32), (1, 2))
            return super().chunk(obs, noise_HA, flow_steps)

    env = PointMassEnv()
    result = row(env, Straight([[0, 0]], horizon=1), search(3))
    assert (result["outcome"], result["return"]) == ("failure", 0.0)
    assert 5 < result["steps"] < 30
    assert np.linalg.norm(env.sim_state()[:2]) < 0.25


def test_success_ends_the_episode_at_that_step() -> None:
    """The expert as an agent: it always arrives, and nothing is executed afterwards."""

    class Demonstrator(Script):
        def __init__(self, env: SimEnv) -> None:
            super().__init__([[0, 0]], horizon=1)
            assert POINTMASS.make_expert is not None
            self._expert = POINTMASS.make_expert(env, np.random.default_rng(0), 0.0)

        def chunk(self, obs: Any, noise_HA: np.ndarray, flow_steps: int) -> np.ndarray:
            super().chunk(obs, noise_HA, flow_steps)
            return self._expert.act(obs)[None]

    for i in range(10):
        env = PointMassEnv()
        agent = Demonstrator(env)
        result = row(env, agent, search(i))
        assert (result["outcome"], result["return"]) == ("success", 1.0)
        assert result["steps"] == len(agent.noises) < MAX_STEPS
        state = env.sim_state()
        assert np.linalg.norm(state[:2] - state[4:]) < 0.08


def test_success_in_the_middle_of_a_chunk_leaves_the_rest() -> None:
    class Done(PointMassEnv):
        steps = 0

        def step(self, action: np.ndarray) -> Any:
            obs, _, _, _, _ = super().step(action)
            self.steps += 1
            return obs, 0.25, False, False, {"success": self.steps == 11}

    env, script = Done(), Script([[0, 0]])
    result = row(env, script, search(0))
    assert (result["outcome"], result["steps"], env.steps, len(script.noises)) == ("success", 11, 11, 2)
    assert result["return"] == 11 * 0.25


def test_exceptions_of_the_simulator_are_not_hidden() -> None:
    class Broken(PointMassEnv):
        def step(self, action: np.ndarray) -> Any:
            raise FloatingPointError("diverged")

    with pytest.raises(FloatingPointError, match="diverged"):
        row(Broken(), Script([[0, 0]]), search(0))


def test_actions_are_clipped_to_the_space() -> None:
    played: list[np.ndarray] = []

    class Recorder(PointMassEnv):
        def step(self, action: np.ndarray) -> Any:
            played.append(np.array(action))
            assert self.action_space.contains(action)
            return super().step(action)

    row(Recorder(), Script([[3.0, -0.5], [0.25, -7.0]], horizon=2), search(0), steps=4)
    np.testing.assert_array_equal(played, [[1.0, -0.5], [0.25, -1.0]] * 2)


# Noise


def noises(spec: EpisodeSpec, setting: SampleSetting, horizon: int = 8) -> np.ndarray:
    script = Script([[0, 0]], horizon)
    row(PointMassEnv(), script, spec, setting)
    return np.array(script.noises)


def test_noise_belongs_to_the_start() -> None:
    first = noises(search(0), SampleSetting(1, 0, 1.0))
    np.testing.assert_array_equal(first, noises(search(0), SampleSetting(10, 0, 1.0)))  # whatever the flow steps
    assert not np.array_equal(first, noises(search(1), SampleSetting(1, 0, 1.0)))
    assert not np.array_equal(first, noises(EpisodeSpec("pointmass", "final", 0), SampleSetting(1, 0, 1.0)))
    assert not np.array_equal(first[0], first[1]), "each chunk has its own"
    fresh = noises(search(0), SampleSetting(1, 2, 1.0))
    np.testing.assert_array_equal(fresh[: len(first)], first)  # the n-th chunk has the n-th draw


def test_temperature_scales_the_noise() -> None:
    one = noises(search(0), SampleSetting(1, 1, 1.0))
    np.testing.assert_allclose(noises(search(0), SampleSetting(1, 1, 0.5)), one / 2, rtol=1e-6)
    assert not noises(search(0), SampleSetting(1, 1, 0.0)).any()
    assert abs(one.mean()) < 4 / math.sqrt(one.size)
    assert one.std() == pytest.approx(1, abs=0.1)


def test_temperature_0_is_zero_noise(agent: Agent) -> None:
    obs, _ = PointMassEnv().reset(seed=0)
    zero = np.zeros((8, 2), np.float32)
    np.testing.assert_array_equal(chunk_of(agent, obs, zero, 4), chunk_of(agent, obs, -zero, 4))
    played: list[np.ndarray] = []

    class Recorder(PointMassEnv):
        def step(self, action: np.ndarray) -> Any:
            played.append(np.array(action))
            return super().step(action)

    spec = search(0)
    row(Recorder(), agent, spec, steps=8)
    start, _ = PointMassEnv().reset(seed=spec.seed)
    np.testing.assert_array_equal(played, np.clip(chunk_of(agent, start, zero, 4), -1, 1))
    warm = noises(spec, SampleSetting(4, 0, 1.0))[0]
    assert not np.array_equal(chunk_of(agent, start, warm, 4), chunk_of(agent, start, zero, 4))


def test_an_agent_works_in_physical_units(agent: Agent) -> None:
    """Its chunk is the network's between the two affine maps, which are applied once each."""
    import torch

    bundle = agent.bundle
    obs, _ = PointMassEnv().reset(seed=9)
    noise = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    x = (np.concatenate([obs["state"], obs["goal"]]) - bundle.obs_normalizer.offset) / bundle.obs_normalizer.scale
    with torch.no_grad():
        seen = Observation(torch.tensor(x)[None, None, None])
        z = bundle.build().sample(seen, torch.tensor(noise)[None, None], SampleSetting(3))[0, 0].numpy()
    expected = z * bundle.action_normalizer.scale + bundle.action_normalizer.offset
    np.testing.assert_allclose(chunk_of(agent, obs, noise, 3), expected, rtol=1e-5, atol=1e-6)
    swapped = {"goal": obs["goal"], "other": np.ones(3), "state": obs["state"]}
    np.testing.assert_array_equal(chunk_of(agent, swapped, noise, 3), chunk_of(agent, obs, noise, 3))


# Results


def episode(index: int, outcome: Any, ret: float, steps: int, retries: int = 0) -> dict[str, Any]:
    return EpisodeResult(index, 1_000_000 + index, outcome, ret, steps, 0.5, ret / 2, retries).to_row()


def test_errors_are_counted_and_never_averaged() -> None:
    episodes = [
        episode(0, "success", 1.0, 30), episode(1, "success", 0.8, 40), episode(2, "failure", 0.3, 12, retries=1),
        episode(3, "timeout", 0.1, 80), episode(4, "error", 99.0, 7, retries=2),
    ]  # fmt: skip
    summary = results.summarise(episodes, SUCCESS)
    assert summary == {
        "episodes": 4, "successes": 2, "timeouts": 1, "failures": 1, "errors": 1, "success_rate": 0.5,
        "mean_return": pytest.approx(0.55), "mean_max_reward": pytest.approx(0.275), "mean_steps_success": 35.0,
        "eval_seconds": 2.5, "retries": 3, "errors_by_kind": {"other": 1},
        "first_error": {"index": 4, "message": "", "traceback": ""},
        "episode_list": [
            [0, "success", 30, 1.0], [1, "success", 40, 0.8], [2, "failure", 12, 0.3], [3, "timeout", 80, 0.1],
            [4, "error", 7, 99.0],
        ],
        "score": 0.5, "score_sd": pytest.approx(3**-0.5),
    }  # fmt: skip


def test_largest_rewards_are_kept_where_they_are_compared() -> None:
    episodes = [episode(0, "timeout", 1.0, 80), episode(1, "failure", 0.4, 9)]
    summary = results.summarise(episodes, METRICS["largest_reward"])
    assert summary["episode_list"] == [[0, "timeout", 80, 1.0, 0.5], [1, "failure", 9, 0.4, 0.2]]
    assert summary["score"] == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("the simulator process died (ActorDiedError)", "simulator process died"),
        ("no answer within 120 s (hung)", "hung"),
        ("no simulator process could be started: ImportError: no GL", "simulator did not start"),
        ("ValueError: a joint left its range: 3", "ValueError"),
        ("mujoco.FatalError: nan", "mujoco.FatalError"),
        ("something else: odd", "other"),
        ("", "other"),
    ],
)
def test_errors_of_release_0_1_0_have_kinds(message: str, kind: str) -> None:
    assert faults.kind_in_message_of_0_1_0(message) == kind


def test_nothing_valid_has_no_rate() -> None:
    for episodes in ([], [episode(0, "error", 0.0, 0)]):
        summary = results.summarise(episodes, SUCCESS)
        assert (summary["episodes"], summary["errors"]) == (0, len(episodes))
        assert summary["success_rate"] is summary["mean_return"] is summary["mean_steps_success"] is None
    assert results.summarise([episode(0, "timeout", 0.0, 80)], SUCCESS)["success_rate"] == 0.0
    assert results.summarise([episode(0, "timeout", 0.0, 80)], SUCCESS)["mean_steps_success"] is None


def result(flow_steps: int, successes: int, episodes: int = 10, **changes: Any) -> dict[str, Any]:
    setting = dataclasses.asdict(SampleSetting(flow_steps)) | changes
    return setting | {"successes": successes, "episodes": episodes}


def test_rates_are_pooled_over_episodes() -> None:
    """Not over seeds: 1 of 2 and 9 of 10 are 10 of 12."""
    assert results.pooled([result(1, 1, 2), result(1, 9, 10)], SUCCESS) == 10 / 12
    assert results.pooled([], SUCCESS) is None
    assert results.pooled([result(1, 0, 0)], SUCCESS) is None


def test_the_best_setting() -> None:
    rows = [result(10, 6), result(10, 8), result(4, 7), result(4, 7), result(1, 5), result(1, 6)]
    for order in (rows, rows[::-1]):
        assert results.best_setting(order, SUCCESS) == SampleSetting(4), "10 and 4 are equal; 4 costs less"
    assert results.best_setting([*rows, result(20, 8), result(20, 8)], SUCCESS) == SampleSetting(20)
    ties = [result(4, 5, execute_steps=e, eval_temperature=t) for e in (2, 1) for t in (1.0, 0.5)]
    assert results.best_setting(ties, SUCCESS) == SampleSetting(4, 1, 0.5)
    assert results.rows_at(rows, SampleSetting(4)) == rows[2:4]
    assert results.best_setting([result(1, 0, 0), result(2, 1, 10)], SUCCESS) == SampleSetting(2)


def test_labels_name_what_is_not_usual() -> None:
    assert SETTING.label() == "flow_steps=4"
    assert dataclasses.replace(SETTING, execute_steps=2, eval_temperature=0.5, temporal_ensemble=0.0).label() == (
        "flow_steps=4 execute_steps=2 eval_temperature=0.5 temporal_ensemble=0"
    )
