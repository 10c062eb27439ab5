"""The flags of Hugging Face's trainers, and what they are used with: `training.log`, `train/sample_mse`, the Hub."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.config.command import parse_run
from raybc.data.load import load
from raybc.data.select import splits_of
from raybc.run_folder import TrainingFolder
from raybc.train import feed
from raybc.train.__main__ import Args
from raybc.train.step import stream_seed
from raybc.train.text_log import TextLog
from tests.test_action_metrics import by_hand
from tests.test_feed import same, trainer, weights
from tests.test_hub import Hub, card_of, hub  # noqa: F401  (a fixture)
from tests.test_train_offline import SMALL, robot, rows, train

#: Flags of the guide, and what they are called here.
NAMES = {
    "num_train_epochs": ("epochs", 3), "learning_rate": ("lr", 1e-5), "warmup_steps": ("warmup_steps", 500),
    "save_steps": ("save_interval", 1000), "logging_steps": ("log_interval", 50),
    "dataloader_num_workers": ("dataloader_num_workers", 4), "pretrained_model_name_or_path": ("init_from", "there"),
}  # fmt: skip


def parsed(*flags: Any) -> tuple[RunConfig, Args]:
    return parse_run(Args, [*map(str, flags)], "raybc.train", "")


def values_of(run: RunConfig) -> dict[str, Any]:
    return {name: run.get(name) for name in run.options()}


@pytest.mark.parametrize("name", NAMES)
def test_a_flag_by_its_other_name(name: str) -> None:
    ours, value = NAMES[name]
    assert values_of(parsed(f"--{name}={value}")[0]) == values_of(RunConfig().changed(**{ours: value}))
    assert values_of(parsed(f"--{name.replace('_', '-')}", value)[0])[ours] == value


def test_the_whole_command_of_the_guide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fine-tune a policy with every one of them; the run is that of raybc's own flags."""
    data = robot(tmp_path / "robot.hdf5")
    first = ["--dataset", data, *SMALL[:2], *SMALL[3:6], "--holdout_seed=0", "--eval_interval=0"]
    assert train(*first, "--batch_size=16", "--training_steps=5", "--out", tmp_path / "first") == 0
    theirs = [
        "--pretrained_model_name_or_path", tmp_path / "first", "--num_train_epochs=2",
        "--per_device_train_batch_size=8", "--gradient_accumulation_steps=2", "--learning_rate=1e-4",
        "--warmup_steps=3", "--save_steps=4", "--logging_steps=2", "--dataloader_num_workers=4", "--push_to_hub=False",
    ]  # fmt: skip
    assert train(*first, *theirs, "--out", tmp_path / "theirs") == 0
    assert "batch_size: 16, computed in 2 parts" in capsys.readouterr().out
    ours = ["--init_from", tmp_path / "first", "--epochs=2", "--batch_size=16", "--accumulate=2", "--lr=1e-4"]
    ours += ["--warmup_steps=3", "--save_interval=4", "--log_interval=2"]
    assert train(*first, *ours, "--out", tmp_path / "ours") == 0
    flags = [json.loads(TrainingFolder(tmp_path / name).flags.read_text()) for name in ("theirs", "ours")]
    assert flags[0]["run_id"] == flags[1]["run_id"]
    last = [PolicyBundle.load(tmp_path / name / "final_model") for name in ("theirs", "ours")]
    for name, weight in last[0].weights.items():
        assert torch.equal(weight, last[1].weights[name]), name


def test_batches_of_each_process(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Two processes with 8 examples in 2 parts each are batches of 32."""
    data = robot(tmp_path / "robot.hdf5")
    flags = ["--dataset", data, "--hidden_width=8", "--training_steps=1", "--per_device_train_batch_size=8"]
    flags += ["--gradient_accumulation_steps=2", "--num_workers=2", "--out", tmp_path / "run"]
    assert train(*flags, "--seeds", 0, 1, "--push_to_hub=me/lift") == 2  # refused when the batch is known
    output = capsys.readouterr()
    assert "batch_size: 32, computed in 2 parts" in output.out
    assert not (tmp_path / "run").exists()
    for flags, message in (
        (["--per_device_train_batch_size=-1"], "per_device_train_batch_size: expected at least 1"),
        (["--per_device_train_batch_size=4", "--batch-size=8"], "expected one size of batches, got --batch_size"),
        (["--gradient_accumulation_steps=0"], "gradient_accumulation_steps: expected at least 1"),
    ):
        assert train(*flags) == 2
        assert message in capsys.readouterr().err


# The log


def test_training_log(tmp_path: Path) -> None:
    """A line for each row of train.csv, for checkpoints and for what a resume says, with times; nothing is lost."""
    data = robot(tmp_path / "robot.hdf5")
    flags = ["--dataset", data, *SMALL, "--training_steps=100", "--eval_interval=50", "--out", tmp_path / "run"]
    assert train(*flags) == 0
    path = TrainingFolder(tmp_path / "run").text_log
    before = path.read_text()
    lines = before.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} \S", line) for line in lines)
    steps = [
        int(match[1]) for line in lines if (match := re.search(r" step (\d+)/100, .*loss [\d.]+, \d+ steps/s", line))
    ]
    assert steps == [int(row["step"]) for row in rows(tmp_path / "run/train.csv")] == [50, 100]
    assert sum("checkpoint: " in line for line in lines) == 2
    assert any("step 100: " in line and "held-out" in line for line in lines)
    assert train(*flags[:-4], "--training_steps=150", "--eval_interval=50", *flags[-2:], "--resume") == 0
    after = path.read_text()
    assert after.startswith(before)
    assert "resuming at step 100 of 150" in after
    assert train(*flags, "--overwrite") == 0, "it is a file of the run"
    assert path.read_text().count("step 100/100") == 1


def test_how_training_ended_is_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "training.log"
    for error, text in ((KeyboardInterrupt(), "interrupted"), (cli.Failed("no GPU"), "stopped: no GPU")):
        with contextlib.suppress(type(error)), TextLog(path):
            cli.console.print("two\nlines", style="yellow")
            raise error
        assert [line.split(" ", 2)[2] for line in path.read_text().splitlines()[-2:]] == ["two lines", text]
    cli.console.print("later")
    assert "later" not in path.read_text()


# Sampled errors


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_train_sample_mse(workers: int, tmp_path: Path) -> None:
    """The column is the error of the bundle's own chunks on training windows, and changes nothing else."""
    data = robot(tmp_path / "robot.hdf5")
    flags = ["--dataset", data, *SMALL, "--training_steps=50", "--holdout_seed=0", "--seeds", 3, 4]
    flags += ["--num_workers", workers, "--eval_interval=0"]
    assert train(*flags, "--sample_mse", "--out", tmp_path / "run") == 0
    assert train(*flags, "--out", tmp_path / "plain") == 0
    store = load(data)
    episodes, _ = splits_of(store, 0)
    for seed in (3, 4):
        (member,) = (tmp_path / "run").glob(f"sd{seed:03d}*")
        (plain,) = (tmp_path / "plain").glob(f"sd{seed:03d}*")
        assert "train/sample_mse" not in rows(plain / "train.csv")[0]
        bundle = PolicyBundle.load(member / "final_model")
        for name, weight in PolicyBundle.load(plain / "final_model").weights.items():
            assert torch.equal(weight, bundle.weights[name])
        drawn = torch.Generator().manual_seed(stream_seed(seed, "sample_mse"))
        noise = torch.randn((8 * 12, 4, 4), generator=drawn).numpy()
        expected = by_hand(bundle, store, episodes.tolist(), noise)
        assert float(rows(member / "train.csv")[-1]["train/sample_mse"]) == pytest.approx(expected["mse"], rel=1e-4)


def test_threads_that_read_ahead_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trainer()
    plain.advance(8)
    monkeypatch.setattr(feed, "WORTHWHILE_BYTES", 0)
    for threads in (0, 1, 5):
        fed = trainer(dataloader_num_workers=threads)
        assert fed._feed is not None
        assert fed._feed._threads._max_workers == (threads or feed.THREADS)
        fed.advance(8)
        assert same(weights(plain), weights(fed))


# The Hub


def test_the_policy_is_uploaded_at_the_end(
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = robot(tmp_path / "robot.hdf5")
    flags = ["--dataset", data, *SMALL, "--training_steps=5", "--eval_interval=0", "--out", tmp_path / "run"]
    assert train(*flags, "--push_to_hub=me/lift") == 0
    assert f"uploaded: {hub.url}/me/lift/commit/" in capsys.readouterr().out
    uploaded = tmp_path / "uploaded"
    for name, content in hub.files.items():
        (uploaded / name).parent.mkdir(parents=True, exist_ok=True)
        (uploaded / name).write_bytes(content)
    assert card_of(uploaded)[0]["library_name"] == "raybc"
    here, there = (PolicyBundle.load(path) for path in (tmp_path / "run/final_model", uploaded / "policy"))
    assert all(np.array_equal(here.weights[name], there.weights[name]) for name in here.weights)
    hub.refuses = True
    assert train(*flags, "--push_to_hub=me/lift", "--overwrite") == 1
    error = " ".join(capsys.readouterr().err.split())
    assert f"the policy is saved: raybc export {tmp_path / 'run'} --push_to_hub me/lift" in error


def test_an_upload_that_cannot_work_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    data = robot(tmp_path / "robot.hdf5")
    for flags, message in (
        (["--push_to_hub=True"], "--push_to_hub: expected OWNER/NAME, got 'True'"),
        (["--push_to_hub=me/lift", "--seeds", 0, 1], "--push_to_hub: expected one seed, got 2"),
        (["--push_to_hub=me/lift"], "--push_to_hub: no account is known here"),
    ):
        assert train("--dataset", data, *flags, "--out", tmp_path / "run") == 2
        assert message in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "run").exists()
