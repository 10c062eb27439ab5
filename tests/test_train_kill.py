"""kill -9 of a training at random moments: what is gone on with ends as what was never stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raybc.bundle import PolicyBundle
from raybc.run_folder import TrainingFolder
from tests.helpers import TRAIN_FLAGS, read_table

#: Trains two members and saves at every fifth step, as `raybc.train` does between its evaluations.
LOOP = """
import sys
from pathlib import Path
import torch
from raybc.train.checkpointing import save_checkpoint
from raybc.train.log import MemberLog, log_pack
from tests.helpers import tiny_trainer
torch.set_num_threads(1)
out = Path(sys.argv[1])
recipe = {"ema_decay": 0.9, "lr_schedule": "plateau", "monitor_interval": 7}
trainer = tiny_trainer([3, 5], training_steps=400, log_interval=5, **recipe)
if (out / "state").exists():
    trainer.load_state(out / "state")
folders = [out / "a", out / "b"]
logs = [MemberLog(f, f / "tensorboard", resume=trainer.step) for f in folders]
print("ready", flush=True)
for stop in range(trainer.step + 5, 401, 5):
    trainer.advance(stop, lambda progress: log_pack(logs, trainer, progress))
    save_checkpoint(trainer, folders, out / "state")
"""


def ended(folder: Path) -> tuple[bytes, list[list[str]]]:
    """The weights at the end, and the rows of the log but for the times."""
    rows = [[v for k, v in r.items() if k != "train/steps_per_sec"] for r in read_table(folder / "train.csv")]
    steps = TrainingFolder(folder).checkpoints()
    return (steps[max(steps)] / "policy.safetensors").read_bytes(), rows


@pytest.mark.slow
def test_kills_between_and_in_the_middle_of_savings(tmp_path: Path) -> None:
    def start(out: Path) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-c", LOOP, str(out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    assert start(tmp_path / "whole").wait() == 0
    rng, kills = random.Random(0), 0
    while kills < 12:
        process = start(tmp_path / "killed")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "a state or a log that was left cannot be read"
        time.sleep(rng.uniform(0, 0.25))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
        for path in (tmp_path / "killed").glob("*/checkpoint_*"):
            PolicyBundle.load(path)  # whole, or not there
    assert kills >= 5, f"it was over after {kills} kills"
    assert start(tmp_path / "killed").wait() == 0
    for member in "ab":
        assert ended(tmp_path / "killed" / member) == ended(tmp_path / "whole" / member)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_of_the_command(pointmass_demos: Path, tmp_path: Path) -> None:
    """With its evaluations: nothing is lost, no row is doubled."""
    flags = [
        *TRAIN_FLAGS,
        f"--dataset={pointmass_demos}",
        "--training_steps=3000",
        "--eval_interval=300",
        "--seeds",
        "0",
        "1",
    ]

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "raybc.train", *flags, f"--out={out}", "--resume=auto", "--threads=1"]
        return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait(300) == 0
    rng, out = random.Random(1), tmp_path / "killed"
    for _ in range(4):
        process = start(out)
        time.sleep(rng.uniform(4, 20))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(out).wait(300) == 0
    folders = sorted(p.name for p in (tmp_path / "whole").glob("sd*"))
    assert len(folders) == 2
    for name in folders:
        assert ended(out / name) == ended(tmp_path / "whole" / name)
        assert (out / name / "eval.csv").read_text() == (tmp_path / "whole" / name / "eval.csv").read_text()
        assert json.loads((out / name / "flags.json").read_text())["training_steps"] == 3000
