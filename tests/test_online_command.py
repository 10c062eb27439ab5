"""`raybc train --critic q_chunking --online_steps M`: the files of a run, resuming, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raybc.config import RunConfig
from raybc.config.identity import extends
from raybc.dashboard.training import training
from raybc.online.begin import acting_setting
from raybc.online.journal import Entry, Journal
from raybc.report.__main__ import main as report
from raybc.run_folder import TrainingFolder
from raybc.sweep.config import SweepConfig
from raybc.types import SampleSetting, UserError
from tests.helpers import TRAIN_FLAGS, read_table, run_train, tiny_config

ONLINE = [
    "--critic=q_chunking", "--critic_width=32", "--critic_depth=2", "--critic_candidates=4", "--offline_steps=40",
    "--online_steps=360", "--learning_starts=60", "--utd=0.5", "--policy_lag=128", "--eval_interval=100",
    "--save_interval=50", "--eval_episodes=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def online_run(ray_cpus: float, pointmass_demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("online") / "run"
    assert run_train(pointmass_demos, out, *ONLINE) == 0
    return out


def test_a_run_learns_on_in_simulators(online_run: Path) -> None:
    """Its rows count steps of the environment, and its last checkpoint is that of the end of the online part."""
    folder = TrainingFolder(online_run)
    assert max(folder.checkpoints()) == 40 + 150
    assert [int(row["step"]) for row in read_table(folder.eval_csv)] == [40, 100, 190]
    entries = Journal(folder.online_journal).entries
    assert [entry.episode for entry in entries] == [*range(len(entries))]
    rows = read_table(folder.online_csv)
    assert int(rows[-1]["environment_steps"]) == sum(entry.steps for entry in entries) >= 360
    assert int(rows[-1]["updates"]) == 150
    assert max(int(row["max_lag"]) for row in rows if row["max_lag"]) <= 128
    assert all(0 <= float(row["waiting"]) <= 1 for row in rows)
    assert float(read_table(folder.train_csv)[-1]["train/environment_steps"]) >= 360
    assert "train/critic_loss" in read_table(folder.train_csv)[-1]


def test_its_page_shows_both_parts(online_run: Path) -> None:
    assert report([str(online_run)]) == 0
    page = (online_run / "report.html").read_text()
    for text in (
        "Learning online",
        "40 offline, 150 online",
        "online_score",
        "Success of the episodes that were collected",
    ):
        assert text in page
    assert training(online_run)["steps"] == 190


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"env_name": "none", "dataset": "demos.hdf5"}, "online_steps: expected 0 without a simulator"),
        ({"lr_schedule": "cosine"}, "lr_schedule: expected constant with online_steps, got cosine"),
        ({"dataset_replace_interval": 5}, "dataset_replace_interval: expected none with online_steps"),
        ({"stop_patience": 3}, "stop_patience: expected none with online_steps"),
        ({"utd": 0.001}, "utd: expected at least one gradient step in the online part"),
        ({"learning_starts": 300}, "learning_starts: expected fewer than the 300 steps of online_steps"),
        ({"learning_starts": 299, "utd": 0.5}, "utd: expected at least one gradient step in the online part"),
        ({"policy_lag": 63}, "policy_lag: expected at least 64, got 63"),
    ],
)
def test_what_an_online_part_cannot_be(options: dict[str, Any], said: str) -> None:
    config = tiny_config(**{"critic": "q_chunking", "online_steps": 300, **options})
    with pytest.raises(UserError, match=said):
        config.validate("--")


def test_collecting_takes_the_best_of_the_candidates() -> None:
    config = tiny_config(critic="q_chunking", online_steps=300, critic_candidates=8, execute_steps=2, flow_steps=3)
    assert acting_setting(config) == SampleSetting(3, eval_temperature=1.0, best_of_n=8)


def test_an_online_part_needs_a_critic() -> None:
    with pytest.raises(UserError, match="online_steps"):
        tiny_config(online_steps=300)


def test_a_sweep_trains_offline() -> None:
    train: dict[str, Any] = {
        "env_name": "pointmass-scripted-low_dim",
        "critic": "q_chunking",
        "online_steps": 300,
        "training_steps": 90,
    }
    with pytest.raises(UserError, match=r"train.online_steps: expected 0 in a sweep .* continue the winner"):
        SweepConfig("x", {}, train=RunConfig.of(**train)).validate()


def test_only_the_online_part_of_a_run_that_has_one_becomes_longer() -> None:
    offline, online = (tiny_config(critic="q_chunking", online_steps=steps) for steps in (0, 300))
    more = tiny_config(critic="q_chunking", online_steps=600)
    assert extends(online, offline)
    assert extends(more, online)
    assert not extends(online, more)
    assert not extends(dataclasses.replace(more, training_steps=400), online)
    assert extends(dataclasses.replace(more, training_steps=400), offline)
    late = tiny_config(critic="q_chunking", online_steps=600, start_training=200, utd=0.5)
    assert late.critic.online_updates == 200
    assert extends(late, offline)
    assert not extends(late, online), "it has learned from the first steps"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_of_the_command(online_run: Path, pointmass_demos: Path, tmp_path: Path) -> None:
    """With one simulator process the run ends as what was never stopped; then it is extended."""
    out, rng = tmp_path / "killed", random.Random(3)
    flags = [*TRAIN_FLAGS, *ONLINE, f"--dataset={pointmass_demos}", f"--out={out}", "--threads=1"]
    for number in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "raybc.train", *flags, "--resume=auto"],
            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        pattern = "online/journal.jsonl" if number else "online/episodes/*/*.npz"
        while process.poll() is None and not [*out.glob(pattern)]:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert run_train(pointmass_demos, out, *ONLINE, "--resume=auto") == 0
    assert weights(out) == weights(online_run)
    assert entries_of(out) == entries_of(online_run)
    for file in (TrainingFolder(out).eval_csv, TrainingFolder(out).train_csv, TrainingFolder(out).online_csv):
        assert [row["step"] for row in read_table(file)] == [row["step"] for row in read_table(online_run / file.name)]
    assert run_train(pointmass_demos, out, *ONLINE, "--online_steps=460", "--resume") == 0
    assert max(TrainingFolder(out).checkpoints()) == 40 + 200
    assert entries_of(out)[: len(entries_of(online_run))] == entries_of(online_run)
    assert sum(entry.steps for entry in entries_of(out)) >= 460


def weights(out: Path) -> bytes:
    return (TrainingFolder(out).checkpoints()[190] / "policy.safetensors").read_bytes()


def entries_of(out: Path) -> list[Entry]:
    """Without the ages that policies happened to have."""
    return [dataclasses.replace(entry, lag=0) for entry in Journal(TrainingFolder(out).online_journal).entries]
