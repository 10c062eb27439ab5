"""`raybc.load`: a policy acts outside of rollouts as it does in them.

Letters: H chunk, A action dim.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raybc
from raybc.bundle import PolicyBundle
from raybc.envs.base import SimEnv
from raybc.envs.pointmass import POINTMASS, POINTMASS_PIXELS, PointMassEnv
from raybc.inference.agent import Agent
from raybc.inference.policy import Policy
from raybc.rollout.episode import run_episode
from raybc.types import EpisodeSpec, Observation, SampleSetting, UserError
from tests.helpers import pointmass_bundle, pointmass_data, tiny_trainer
from tests.test_images import image_trainer

SETTINGS = (
    SampleSetting(flow_steps=4),
    SampleSetting(flow_steps=2, execute_steps=3, eval_temperature=1.0),
    SampleSetting(flow_steps=2, eval_temperature=0.5, temporal_ensemble=0.1),
    SampleSetting(flow_steps=2, execute_steps=2, temporal_ensemble=0.0),
)


@pytest.fixture(scope="module")
def history() -> PolicyBundle:
    """A policy that sees three steps."""
    trainer = tiny_trainer(data=pointmass_data(), obs_steps=3, horizon_length=5)
    trainer.advance(30)
    return trainer.bundle(0)


@pytest.fixture(scope="module")
def pixels() -> PolicyBundle:
    return image_trainer(obs_steps=2).bundle(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pointmass_bundle().save(tmp_path / "bundle")
    return tmp_path / "bundle"


class Recorder:
    """The steps of a simulator: what was executed, and what was seen then."""

    def __init__(self, env: SimEnv) -> None:
        self.rows: list[tuple[bytes, ...]] = []
        step = env.step

        def watched(action_A: np.ndarray) -> Any:
            result = step(action_A)
            self.rows.append((action_A.tobytes(), *(value.tobytes() for value in result[0].values())))
            return result

        env.step = watched  # type: ignore[method-assign]


def of_rollout(env: SimEnv, bundle: PolicyBundle, setting: SampleSetting, index: int, steps: int) -> Any:
    recorder = Recorder(env)
    run_episode(env, Agent(bundle), EpisodeSpec("pointmass", "final", index), setting, steps)
    return recorder.rows


def of_policy(env: SimEnv, policy: Policy, index: int, steps: int) -> Any:
    recorder = Recorder(env)
    seed = EpisodeSpec("pointmass", "final", index).seed
    obs, _ = env.reset(seed=seed)
    policy.reset(seed)
    for _ in range(steps):
        action_A = policy.act(obs)
        assert (action_A.shape, action_A.dtype) == ((2,), np.float32)
        obs, _, terminated, _, info = env.step(action_A)
        if terminated or info["success"]:
            break
    return recorder.rows


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.label())
@pytest.mark.parametrize("kind", ["plain", "history"])
def test_it_acts_as_in_rollouts(kind: str, setting: SampleSetting, history: PolicyBundle, tmp_path: Path) -> None:
    """Action for action and bit for bit, episode after episode."""
    bundle = history if kind == "history" else pointmass_bundle()
    bundle.save(tmp_path / "bundle")
    space = PointMassEnv().action_space
    policy = raybc.load(tmp_path / "bundle", action_range=(space.low, space.high), **dataclasses.asdict(setting))
    for index in (0, 1):
        expected = of_rollout(POINTMASS.make(None), bundle, setting, index, 40)
        assert of_policy(POINTMASS.make(None), policy, index, 40) == expected
        assert len(expected) > 8, "longer than a chunk"


def test_a_policy_of_images(pixels: PolicyBundle) -> None:
    setting = SampleSetting(flow_steps=2, execute_steps=2)
    policy = Policy(Agent(pixels), setting, (-1.0, 1.0))
    expected = of_rollout(POINTMASS_PIXELS.make(None), pixels, setting, 0, 6)
    assert of_policy(POINTMASS_PIXELS.make(None), policy, 0, 6) == expected


def test_actions_are_clipped_only_to_a_range_that_is_given(folder: Path) -> None:
    obs, _ = PointMassEnv().reset(seed=3)
    free = raybc.load(folder).chunk(obs)
    assert free.shape == (8, 2)
    low, high = float(np.quantile(free, 0.3)), float(np.quantile(free, 0.7))
    bounded = raybc.load(folder, action_range=(low, [high, high]))
    np.testing.assert_array_equal(bounded.chunk(obs), np.clip(free, np.float32(low), np.float32(high)))
    bounded.reset()
    np.testing.assert_array_equal(bounded.act(obs), np.clip(free[0], np.float32(low), np.float32(high)))
    for wrong in ((1.0, -1.0), ([0.0] * 3, 1.0), (float("nan"), 1.0), ("a", "b")):
        with pytest.raises(UserError, match=r"action_range: expected .* 2 numbers each"):
            raybc.load(folder, action_range=wrong)


def test_chunks_and_history(history: PolicyBundle) -> None:
    """`chunk` sees what `observe` was told; a new episode has forgotten it."""
    policy = Policy(Agent(history), history.config.sample_setting)
    seen = [{k: v[i] for k, v in pointmass_data().store.obs.items()} for i in range(4)]
    for obs in seen[:-1]:
        policy.observe(obs)
    last = policy.chunk(seen[-1])
    obs_TO = np.stack([np.concatenate([obs[k] for k in history.obs_sizes]) for obs in seen[1:]])
    noise = np.zeros((1, 5, 2), np.float32)
    expected = Agent(history).chunks(Observation(obs_TO[None]), noise, SampleSetting(policy.setting.flow_steps))[0]
    np.testing.assert_array_equal(last, expected)
    policy.reset()
    assert not np.array_equal(policy.chunk(seen[-1]), last)


def test_the_seed_decides_the_noise(folder: Path) -> None:
    policy = raybc.load(folder, eval_temperature=1.0)
    obs, _ = PointMassEnv().reset(seed=0)

    def chunk(seed: int | None) -> bytes:
        policy.reset(seed)
        return policy.chunk(obs).tobytes()

    assert chunk(1) == chunk(1) != chunk(2)
    assert chunk(None) != chunk(None)


def test_runs_and_sweeps(tmp_path: Path) -> None:
    """A training run's latest checkpoint or the one that is named; a sweep's winner, with the setting it won with."""
    bundle, run, sweep = pointmass_bundle(), tmp_path / "run", tmp_path / "sweep"
    for step in (100, 200):
        dataclasses.replace(bundle, step=step).save(run / f"checkpoint_{step}")
    (run / "eval.csv").write_text("step,eval/success\n100,0.5\n200,0.25\n")
    assert raybc.load(run).bundle.step == 200
    assert raybc.load(str(run), "best").bundle.step == 100
    assert raybc.load(run, checkpoint="100").bundle.step == 100
    bundle.save(sweep / "winner")
    setting = SampleSetting(flow_steps=3, execute_steps=2)
    (sweep / "winner.json").write_text(json.dumps({"bundle": "winner", "setting": dataclasses.asdict(setting)}))
    assert raybc.load(sweep).setting == setting
    assert raybc.load(sweep, flow_steps=5).setting == dataclasses.replace(setting, flow_steps=5)
    with pytest.raises(UserError, match="expected a policy bundle"):
        raybc.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="flow_steps: expected at least 1, got 0"):
        raybc.load(sweep, flow_steps=0)
    with pytest.raises(UserError, match="execute_steps: expected at most the 8 step"):
        raybc.load(sweep, execute_steps=9)


GOOD: dict[str, Any] = {"state": [0.1, 0.2, 0.0, 0.0], "goal": [0.5, 0.5]}


def test_lists_and_more_than_is_needed_are_taken(folder: Path) -> None:
    policy = raybc.load(folder)
    arrays = {name: np.array(value, np.float32) for name, value in GOOD.items()}
    np.testing.assert_array_equal(policy.act({**GOOD, "more": "x"}), raybc.load(folder).act(arrays))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"goal": None}, r"'goal': expected finite numbers, 2, got a single value of object"),
        ({"goal": [1, 2, 3]}, r"'goal': expected finite numbers, 2, got 3 of int64"),
        ({"goal": [[1, 2]]}, r"got 1 x 2 of int64"),
        ({"goal": [1, [2]]}, r"got something that is not a numeric array"),
        ({"goal": ["a", "b"]}, r"got 2 of str"),
        ({"goal": [1, float("nan")]}, r"got nan or inf"),
        ({"goal": [1, 1e39]}, r"got nan or inf"),
        ({"goal": [1, 10**400]}, r"got 2 of object"),
        ({"goal": [True, False]}, r"got 2 of bool"),
    ],
)
def test_what_is_no_observation_is_refused(folder: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        raybc.load(folder).act({**GOOD, **change})


def test_a_missing_observation_is_named(folder: Path) -> None:
    policy = raybc.load(folder)
    with pytest.raises(UserError, match=r"'goal': expected .*none of that name; did you mean 'goals'\?"):
        policy.act({"state": GOOD["state"], "goals": [1, 2]})
    with pytest.raises(UserError, match="expected name -> array, since the policy sees state, goal, got list"):
        policy.act([1, 2])  # type: ignore[arg-type]
    policy.act(GOOD)


def test_images_are_bytes(pixels: PolicyBundle) -> None:
    policy = Policy(Agent(pixels), SampleSetting(flow_steps=2))
    obs, _ = POINTMASS_PIXELS.make(None).reset(seed=0)
    chunk = policy.chunk(obs)
    policy.reset()
    np.testing.assert_array_equal(policy.chunk({**obs, "pixels": obs["pixels"].tolist()}), chunk)
    for wrong in (obs["pixels"] / 255, obs["pixels"].astype(int) - 300, obs["pixels"][:-1]):
        with pytest.raises(UserError, match=r"'pixels': expected an image of whole numbers 0..255, \d+ x \d+ x 3, got"):
            policy.act({**obs, "pixels": wrong})


def test_import_is_light() -> None:
    """`import raybc` is nothing; loading a policy needs no simulator and no Ray."""
    code = (
        "import sys, raybc\n"
        "print(*[m for m in ('torch', 'numpy', 'ray') if m in sys.modules])\n"
        "import raybc.inference.policy\n"
        "print(*[m for m in ('ray', 'gymnasium', 'tyro', 'optuna', 'plotly', 'h5py', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "\n\n"
