"""Critics: their options and identity, the network, what is refused, and starting from a run without one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.config import RunConfig
from raybc.config.effect import training_key
from raybc.data.rewards import check_rewards
from raybc.find_bundle import find_bundle
from raybc.policies.base import PolicySpec
from raybc.policies.build import build_policy
from raybc.policies.critic import Critic
from raybc.run_folder import TrainingFolder
from raybc.sweep.load import load_sweep
from raybc.sweep.space import check_corners, train_axes
from raybc.testing.critics import check_critic
from raybc.train.__main__ import main
from raybc.train.ranks import Ranks
from raybc.types import UserError
from tests.helpers import read_table, tiny_store
from tests.test_train_offline import robot

CRITIC = {"critic": "q_chunking", "critic_width": 16, "critic_depth": 2}
SMALL = ("--hidden_width=16", "--hidden_depth=2", "--batch_size=16", "--eval_interval=0", "--log_interval=10")
FLAGS = ("--critic=q_chunking", "--critic_width=16", "--critic_depth=2", "--critic_candidates=2", "--flow_steps=2")


def run(**options: Any) -> RunConfig:
    return RunConfig.of(**{**CRITIC, **options})


# --- options ----------------------------------------------------------------------------------------------------------


def test_a_run_without_a_critic_is_what_it_was() -> None:
    plain = RunConfig()
    assert "critic" not in plain.to_plain()
    assert RunConfig.from_plain(plain.to_plain(), "file") == plain
    assert (
        plain.run_id("data") == RunConfig.of(critic="none").run_id("data") == RunConfig.of(sparse=True).run_id("data")
    )
    assert run().changed(critic="none") == plain


def test_rewards_are_part_of_the_identity_of_a_critic() -> None:
    ids = [one.run_id("data") for one in (run(), run(sparse=True), run(gamma=0.9), run(tau=0.1), RunConfig())]
    assert len(set(ids)) == len(ids)
    assert training_key(run()) != training_key(run(sparse=True))
    assert RunConfig.of(**CRITIC, offline_steps=7).training_steps == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "regression"}, "critic: expected none with policy regression: all chunks that it could choose"),
        ({"objective": "mip"}, "critic: expected none with objective mip"),
        ({"gamma": 1.5}, "gamma: expected a finite number of at least 0"),
        ({"tau": 0.0}, "tau: expected more than 0 and at most 1"),
        ({"critic_ensemble": 0}, "critic_ensemble: expected at least 1"),
        ({"encoder": "resnet18", "image_norm": "batch"}, "image_norm: expected group with a critic"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(**options).validate()


def test_options_of_a_critic_need_one() -> None:
    with pytest.raises(UserError, match="gamma: has no effect with critic none; it belongs to q_chunking"):
        RunConfig.of(gamma=0.9)


def test_several_processes_are_refused() -> None:
    with pytest.raises(UserError, match="critic: expected none with several training processes"):
        Ranks(0, 2).check([run()])


def test_data_that_do_not_say_what_is_good() -> None:
    store = dataclasses.replace(tiny_store(), rewards_N=np.zeros(17, np.float32))
    with pytest.raises(UserError, match=r"expected data with rewards, got none$"):
        check_rewards(run(), store)
    with pytest.raises(UserError, match="expected data that say which episodes succeeded"):
        check_rewards(run(sparse=True), store)
    marked = dataclasses.replace(store, success_E=np.array([True, False, True]))
    check_rewards(run(sparse=True), marked)
    with pytest.raises(UserError, match="got none; --sparse makes rewards of its marks of success"):
        check_rewards(run(), marked)
    check_rewards(RunConfig(), store)


def test_a_sweep_over_options_of_critics(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        json.dumps(
            {
                "name": "critics",
                "space": {"critic": {"values": ["none", "q_chunking"]}, "gamma": {"low": 0.9, "high": 0.99}},
                "train": {"env_name": "pointmass-scripted-low_dim", "training_steps": 100},
            }
        )
    )
    config = load_sweep(path)
    config.validate()
    assert list(train_axes(config)) == ["critic", "gamma"]
    assert check_corners(config) == 3


# --- the network ------------------------------------------------------------------------------------------------------

SPECS = (
    PolicySpec(5, 2, 8),
    PolicySpec(3, 7, 4, obs_steps=2, past=1),
    PolicySpec(0, 2, 3, images=(("camera", (12, 12, 3)),)),
)


@pytest.mark.parametrize("spec", SPECS, ids=["state", "history", "images"])
def test_the_network_is_a_pack(spec: PolicySpec) -> None:
    options = {**CRITIC, "encoder": "impala_small"} if spec.images else CRITIC

    def make(members: int) -> Critic:
        critic = build_policy(RunConfig.of(**options), spec, members).critic
        assert critic is not None
        return critic

    check_critic(make)


def test_the_policy_does_not_depend_on_it() -> None:
    with_one, without = (build_policy(RunConfig.of(**more), SPECS[0], 1) for more in (CRITIC, {}))
    names = [name for name, _ in with_one.named_parameters()]
    assert names[: len(list(without.parameters()))] == [name for name, _ in without.named_parameters()]
    assert all(name.startswith("critic.") for name in names[len(list(without.parameters())) :])


# --- training ---------------------------------------------------------------------------------------------------------


def train(*flags: Any) -> int:
    return run_main(lambda: main([*map(str, flags)]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a cloned policy, and one with a critic that starts from it."""
    folder = tmp_path_factory.mktemp("critic")
    robot(folder / "robot.hdf5")
    with h5py.File(folder / "robot.hdf5", "r+") as file:
        for demo in file["data"].values():
            demo["rewards"][-1] = 1.0
    data = ("--dataset", folder / "robot.hdf5", *SMALL)
    assert train(*data, "--training_steps=20", "--out", folder / "cloned") == 0
    start = ("--init_from", folder / "cloned", "--offline_steps=20")
    assert train(*data, *FLAGS, *start, "--out", folder / "both") == 0
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(PolicyBundle.load(find_bundle(run)[0]).weights)


def test_a_run_starts_from_one_without_a_critic(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_table(TrainingFolder(folder / "both").train_csv)
    assert [float(row["train/critic_loss"]) > 0 for row in rows] == [True, True]
    assert {"train/q_mean", "train/target_mean", "train/bc_flow_loss"} <= rows[0].keys()
    assert rows[0].keys() > read_table(TrainingFolder(folder / "cloned").train_csv)[0].keys()
    data = ("--dataset", folder / "robot.hdf5", *SMALL, "--training_steps=1", "--lr=1e-12")
    assert train(*data, *FLAGS, "--init_from", folder / "cloned", "--out", folder / "again") == 0
    out = " ".join(capsys.readouterr().out.split())
    before, after = weights(folder / "cloned"), weights(folder / "again")
    assert f"starting from {len(before)} weights from" in out
    assert "; a critic with random weights" in out
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-9)


def test_a_critic_is_continued_or_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--dataset", folder / "robot.hdf5", *SMALL, "--training_steps=1", "--lr=1e-12", "--init_from")
    assert train(*data, folder / "both", *FLAGS, "--out", folder / "continued") == 0
    assert train(*data, folder / "both", "--out", folder / "without") == 0
    before = weights(folder / "both")
    for name, weight in weights(folder / "continued").items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-9)
    assert not [name for name in weights(folder / "without") if name.startswith("critic.")]
    assert " ".join(capsys.readouterr().out.split()).count("; its critic is not used") == 1
    longer = ("--action_chunking", "--horizon_length=2")
    assert train(*data, folder / "both", *FLAGS, *longer, "--out", folder / "other") == 2
    assert "the critic: of chunks of 1 steps there, of 2 here" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "other").exists()


def test_data_without_rewards_are_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = folder / "silent.hdf5"
    robot(silent)  # all rewards are 0
    assert train("--dataset", silent, *SMALL, *FLAGS, "--out", folder / "none") == 2
    assert "expected data with rewards, got none" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "none").exists()
