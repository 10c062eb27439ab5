"""Learning online from images: what is on disk, what is learned from, and resuming."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from raybc.online.part import OnlinePart
from raybc.online.schedule import Schedule
from raybc.report.__main__ import main as report
from raybc.rollout.recorder import read_recorded
from raybc.run_folder import TrainingFolder
from raybc.train import feed
from raybc.train.checkpointing import save_checkpoint
from raybc.types import SampleSetting
from tests.helpers import read_table, run_train
from tests.online import EngineSimulators
from tests.test_images import ENCODER, image_trainer

OFFLINE, STEPS, UTD = 60, 90, 0.15
LAST = OFFLINE + int(STEPS * UTD)


def train(out: Path, *steps: int) -> OnlinePart:
    """A run that sees two images at a time, from its latest state to some steps, at each of which it is saved; a copy
    of the folder at step 68 is beside it."""
    trainer = image_trainer(
        (3,), training_steps=LAST, batch_size=2, obs_steps=2, flow_steps=1, critic="q_chunking", critic_width=8,
        critic_depth=2, critic_candidates=2, eval_temperature=1.0,
    )  # fmt: skip
    if (out / "state").exists():
        trainer.load_state(out / "state")
    schedule = Schedule(OFFLINE, STEPS, UTD, 256, 2)
    setting = SampleSetting(1, eval_temperature=1.0, best_of_n=2)
    folder = TrainingFolder(out)
    part = OnlinePart(trainer, [folder], EngineSimulators(), schedule, "pointmass_pixels", setting, in_order=True)
    for step in steps:
        trainer.advance(step)
        save_checkpoint(trainer, [folder.path], out / "state")
        if step == 68:
            shutil.copytree(out, out.with_name("stopped"))
    return part


def test_images_are_learned_from_as_they_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As uint8, with the image after the last action. A run that was stopped is the same, also with a feed."""
    part = train(tmp_path / "whole", 68, LAST)
    windows, member = part._trainer.windows, part.members[0]
    before = len(windows.obs_NO) - member.steps - len(member.seen)
    assert windows.transitions is not None
    first = before
    for entry in member.seen:
        one = read_recorded(member.replay.file(entry.episode, entry.policy))
        assert one.obs["pixels"].dtype == one.last["pixels"].dtype == np.uint8
        assert one.obs["pixels"].shape == (entry.steps, 32, 32, 3)
        pixels = windows.images["pixels"]
        assert isinstance(pixels, torch.Tensor)
        assert np.array_equal(pixels[first : first + entry.steps], one.obs["pixels"])
        after = int(windows.transitions.next_N[first + entry.steps - 1])
        assert np.array_equal(pixels[after], one.last["pixels"])
        first += entry.steps
        if after == first:  # the last of the episodes that were taken in together
            first += sum(e.visible == entry.visible for e in member.seen)
    monkeypatch.setattr(feed, "WORTHWHILE_BYTES", 0)
    assert len(train(tmp_path / "stopped", LAST).members[0].seen) == len(member.seen)
    name = f"checkpoint_{LAST}/policy.safetensors"
    assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_the_command_learns_online_from_images(ray_cpus: float, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = [
        *(f"--{name}={value}" for name, value in ENCODER.items()), "--critic=q_chunking", "--critic_width=8",
        "--critic_depth=2", "--critic_candidates=2", "--flow_steps=1", "--batch_size=2", "--offline_steps=60",
        "--online_steps=100", "--utd=0.1", "--eval_interval=70", "--demos=4", "--eval_episodes=2",
    ]  # fmt: skip
    assert run_train("", out, *flags) == 0
    assert int(read_table(TrainingFolder(out).online_csv)[-1]["environment_steps"]) >= 100
    assert report([str(out)]) == 0
