"""Starting from another policy's weights; the batch as users of other trainers write it; the rsqrt schedule."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import raybc
from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.config import RunConfig
from raybc.find_bundle import find_bundle
from raybc.run_folder import TrainingFolder
from raybc.serve.client import RemotePolicy
from raybc.train.__main__ import main
from raybc.train.schedule import learning_rate
from raybc.types import UserError
from tests.helpers import pointmass_bundle
from tests.test_train_offline import robot

SMALL = ("--hidden_width=16", "--hidden_depth=2", "--batch_size=16", "--eval_interval=0", "--log_interval=10")


def train(*flags: Any) -> int:
    return run_main(lambda: main([*map(str, flags)]))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a policy trained on them for 30 steps."""
    folder = tmp_path_factory.mktemp("initial")
    robot(folder / "robot.hdf5")
    assert train("--dataset", folder / "robot.hdf5", *SMALL, "--training_steps=30", "--out", folder / "first") == 0
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(PolicyBundle.load(find_bundle(run)[0]).weights)


def test_a_policy_starts_from_the_weights_of_another(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--dataset", first / "robot.hdf5", *SMALL, "--training_steps=1", "--lr=1e-12", "--seeds", 3, 4)
    assert train(*flags, "--init_from", first / "first", "--out", tmp_path / "tuned") == 0
    before = weights(first / "first")
    out = " ".join(capsys.readouterr().out.split())
    assert f"starting from {len(before)} weights from {first / 'first' / 'checkpoint_30'}" in out
    for member in (tmp_path / "tuned").glob("sd*"):
        for name, weight in weights(member).items():
            torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-9)
        flags_json = json.loads(TrainingFolder(member).flags.read_text())
        meta = json.loads((first / "first" / "checkpoint_30" / "bundle.json").read_text())
        assert flags_json["init_from_sha256"] == meta["weights_sha256"]


def test_it_resumes_and_is_another_run(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--dataset", first / "robot.hdf5", *SMALL, "--threads=1")
    start = ("--init_from", first / "first")
    assert train(*common, *start, "--training_steps=20", "--out", tmp_path / "whole") == 0
    assert train(*common, *start, "--training_steps=10", "--out", tmp_path / "parts") == 0
    assert train(*common, *start, "--training_steps=20", "--out", tmp_path / "parts", "--resume") == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert train(*common, "--training_steps=20", "--out", tmp_path / "scratch") == 0
    ids = [json.loads((tmp_path / n / "flags.json").read_text())["run_id"] for n in ("whole", "scratch")]
    assert ids[0] != ids[1], "a policy with another start is another run"
    other = ("--init_from", tmp_path / "scratch")
    assert train(*common, *other, "--training_steps=20", "--out", tmp_path / "whole", "--resume") == 2
    assert "init_from_sha256: was" in capsys.readouterr().err


def test_what_does_not_fit_is_named(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--dataset", first / "robot.hdf5", *SMALL, "--training_steps=1", "--init_from", first / "first")
    assert train(*flags, "--hidden_depth=3", "--lr=1e-12", "--out", tmp_path / "deep") == 2
    error = capsys.readouterr().err
    assert "weights fit" in error
    assert "use --init_partial to load those" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "deep").exists()
    assert train(*flags, "--hidden_depth=3", "--lr=1e-12", "--init_partial", "--out", tmp_path / "deep") == 0
    before, after = weights(first / "first"), weights(tmp_path / "deep")
    fitting = [n for n in after if n in before and before[n].shape == after[n].shape]
    assert fitting
    assert len(fitting) < len(after)
    for name in fitting:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)
    out = " ".join(capsys.readouterr().out.split())
    assert f"starting from {len(fitting)} weights" in out
    assert " new (" in out
    for start, words in (
        (tmp_path / "no", "expected a policy bundle"),
        (first / "robot.hdf5", "expected a policy bundle"),
    ):
        assert train(*flags[:-1], start, "--out", tmp_path / "none") == 2
        assert words in capsys.readouterr().err
    assert train(*flags[:-2], "--init_partial", "--out", tmp_path / "none") == 2
    assert "init_partial" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_another_robot_is_refused(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pointmass_bundle().save(tmp_path / "pointmass")
    flags = ("--dataset", first / "robot.hdf5", *SMALL, "--training_steps=1", "--init_from", tmp_path / "pointmass")
    assert train(*flags, "--out", tmp_path / "run") == 2
    assert "init_from" in capsys.readouterr().err


def test_gradient_accumulation_multiplies_the_batch(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """16 examples at a time, 4 times, are a batch of 64 in 4 parts; `accumulate` splits a batch instead."""
    common = ("--dataset", first / "robot.hdf5", *SMALL, "--training_steps=3", "--threads=1")
    assert train(*common, "--gradient_accumulation_steps=4", "--out", tmp_path / "multiplied") == 0
    assert "batch_size: 64, computed in 4 parts" in capsys.readouterr().out
    assert train(*common, "--batch_size=64", "--accumulate=4", "--out", tmp_path / "split") == 0
    flags = [json.loads((tmp_path / n / "flags.json").read_text()) for n in ("multiplied", "split")]
    assert (flags[0]["batch_size"], flags[0]["accumulate"]) == (64, 4)
    assert flags[0]["run_id"] == flags[1]["run_id"]
    one, two = weights(tmp_path / "multiplied"), weights(tmp_path / "split")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert train(*common, "--gradient_accumulation_steps=0", "--out", tmp_path / "no") == 2
    assert "--gradient_accumulation_steps: expected at least 1, got 0" in capsys.readouterr().err


def test_rsqrt() -> None:
    """lr / sqrt(1 + (step - W) / N) after W = 30 steps of warm-up; half of the squared rate is left at the end."""
    config = RunConfig.of(lr=1e-3, lr_schedule="rsqrt", training_steps=1000, warmup_steps=30)
    assert learning_rate(config, 14) == pytest.approx(1e-3 * 15 / 30)
    assert learning_rate(config, 30) == 1e-3
    for step in (31, 500, 1029):
        assert learning_rate(config, step) == pytest.approx(1e-3 / math.sqrt(1 + (step - 30) / 1000))
    assert learning_rate(config, 1030) == pytest.approx(1e-3 / math.sqrt(2))
    rates = [learning_rate(config, step) for step in range(30, 1000)]
    assert rates == sorted(rates, reverse=True)
    default = RunConfig.of(lr=1e-3, lr_schedule="rsqrt", training_steps=10_000)
    assert learning_rate(default, 299) == 1e-3
    assert learning_rate(default, 0) == pytest.approx(1e-3 / 300), "warm-up as with cosine"


def test_an_rsqrt_schedule_goes_on_when_a_run_is_extended(first: Path, tmp_path: Path) -> None:
    common = ("--dataset", first / "robot.hdf5", *SMALL, "--lr_schedule=rsqrt", "--warmup_steps=0", "--threads=1")
    assert train(*common, "--training_steps=10", "--out", tmp_path / "run") == 0
    assert train(*common, "--training_steps=20", "--out", tmp_path / "run", "--resume") == 0
    assert json.loads((tmp_path / "run" / "flags.json").read_text())["schedule_steps"] == 10
    assert train(*common, "--training_steps=40", "--out", tmp_path / "run", "--resume") == 0
    assert json.loads((tmp_path / "run" / "flags.json").read_text())["schedule_steps"] == 10


def test_arrays_alone_and_several_samples(tmp_path: Path) -> None:
    """A policy that sees one vector takes it as it is."""
    robot(tmp_path / "robot.hdf5")
    import h5py

    with h5py.File(tmp_path / "robot.hdf5", "a") as file:
        for demo in file["data"].values():
            del demo["obs/goal"]
    flags = ("--dataset", tmp_path / "robot.hdf5", *SMALL, "--training_steps=1", "--obs_steps=2", "--action_chunking")
    assert train(*flags, "--horizon_length=3", "--eval_temperature=1", "--out", tmp_path / "run") == 0
    policy = raybc.load(tmp_path / "run")
    state = np.array([0.1, 0.2, 0.3])
    actions = []
    for obs in (state, {"joints": state}, state.tolist()):
        policy.reset(0)
        actions.append(policy.act(obs))
    assert (actions[0] == actions[1]).all()
    assert (actions[0] == actions[2]).all()
    samples = policy.sample_actions(state, 5, seed=1)
    assert samples.shape == (5, 3, 4)
    assert len(np.unique(samples, axis=0)) == 5
    np.testing.assert_array_equal(samples[:2], policy.sample_actions(state, 2, seed=1))
    expected = policy.act(state)
    policy.reset(0)
    policy.act(state)
    for _ in range(3):
        policy.sample_actions(state * 2, 3)
    np.testing.assert_array_equal(policy.act(state), expected), "sampling changes nothing"
    with pytest.raises(UserError, match="n: expected at least 1, got 0"):
        policy.sample_actions(state, 0)
    several = raybc.load(_saved(tmp_path / "pointmass"))
    with pytest.raises(UserError, match="expected name -> array, since the policy sees state, goal, got ndarray"):
        several.act(np.zeros(6))
    assert RemotePolicy.act.__annotations__ == raybc.inference.policy.Policy.act.__annotations__


def _saved(folder: Path) -> Path:
    pointmass_bundle().save(folder)
    return folder
