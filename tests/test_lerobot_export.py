"""Our diffusion U-Net as a LeRobot checkpoint: LeRobot gives the same actions, and it comes back as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.__main__ import main
from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.lerobot.exported import export_checkpoint
from raybc.lerobot.imported import import_checkpoint
from raybc.types import SampleSetting, UserError
from tests import lerobot_oracle
from tests.helpers import pointmass_bundle, pointmass_data, tiny_trainer
from tests.test_images import image_data, image_trainer
from tests.test_lerobot_import import chunks, one_line

UNET = {
    "policy": "flow_unet", "unet_channels": "8,16", "unet_time_size": 8, "objective": "diffusion", "flow_steps": 5,
    "diffusion_time": "index", "obs_steps": 2, "horizon_length": 8, "past_actions": 1, "execute_steps": 4,
    "eval_temperature": 1.0,
}  # fmt: skip
SEEING = {"encoder": "resnet18", "image_keypoints": 4, "image_head": "relu"}
PARTS = ("observation.state=state", "observation.environment_state=goal")


def unet(**changes: Any) -> PolicyBundle:
    return shaken(tiny_trainer(data=pointmass_data(), **{**UNET, **changes}).bundle(0))


def shaken(bundle: PolicyBundle) -> PolicyBundle:
    """With weights that are not as initialised, also of norms."""
    generator = torch.Generator().manual_seed(3)
    weights = {k: w + 0.02 * torch.randn(w.shape, generator=generator) for k, w in bundle.weights.items()}
    return dataclasses.replace(bundle, weights=weights)


@pytest.mark.parametrize("normalization", ["min_max", "mean_std", "quantile"])
def test_it_comes_back_as_it_was(normalization: str, tmp_path: Path) -> None:
    bundle = unet(normalization=normalization)
    export_checkpoint(bundle, bundle.config.sample_setting, tmp_path / "out", PARTS)
    back = import_checkpoint(tmp_path / "out", "pointmass", PARTS)
    assert back.notes == ()
    found = back.bundle
    assert found.weights.keys() == bundle.weights.keys()
    assert all(torch.equal(found.weights[name], weight) for name, weight in bundle.weights.items())
    assert found.config.sample_setting == bundle.config.sample_setting
    for ours, theirs in (
        (bundle.obs_normalizer, found.obs_normalizer),
        (bundle.action_normalizer, found.action_normalizer),
    ):
        np.testing.assert_allclose(theirs.offset, ours.offset, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(theirs.scale, ours.scale, rtol=1e-6)


@lerobot_oracle.needed
def test_lerobot_gives_the_same_actions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own package loads the folders, strictly, and acts as the bundles."""
    seen = image_data()
    larger = np.repeat(np.repeat(seen.store.obs["pixels"], 3, axis=1), 3, axis=2)[:, :40, :44]
    data = dataclasses.replace(seen, store=dataclasses.replace(seen.store, obs={**seen.store.obs, "pixels": larger}))
    images = shaken(image_trainer(data=data, **{**UNET, **SEEING, "flow_steps": 2}).bundle(0))
    bundles = {
        "min_max": unet(normalization="min_max"),
        "mean_std": unet(diffusion_prediction="sample"),
        "images": images,
    }
    for name, bundle in bundles.items():
        bundle.save(tmp_path / "bundles" / name)
        parts = [] if name == "images" else ["--observations", *PARTS]
        words = ["export", str(tmp_path / "bundles" / name), "--lerobot", "--out", str(tmp_path / name), *parts]
        assert run_main(lambda words=words: main(words)) == 0, capsys.readouterr().err
        assert run_main(lambda words=words: main(words)) == 2
    lerobot_oracle.run("act", *(tmp_path / name for name in bundles))
    for name, bundle in bundles.items():
        with np.load(tmp_path / name / "expected.npz") as file:
            expected = dict(file)
        names = {key: key.split(".")[-1] for key in expected if key.startswith("observation")}
        names = {key: "goal" if own == "environment_state" else own for key, own in names.items()}
        away = (chunks(bundle, expected, names) - expected["actions"]) / bundle.action_normalizer.scale
        assert np.abs(away).max() <= 1e-5, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": "flow", "diffusion_time": "fraction"},
            "got flow_unet with objective flow: no policy of LeRobot's",
        ),
        (
            {"diffusion_time": "fraction"},
            "diffusion_time: expected index, since LeRobot's network sees the level itself",
        ),
        ({"past_actions": 0}, "past_actions: expected 1, since LeRobot's chunks begin at the first observation, got 0"),
        ({"unet_groups": 4}, "unet_groups: expected 8"),
        ({"horizon_length": 6}, "horizon_length: expected 8, since LeRobot takes multiples of 4 alone, got 6"),
    ],
)
def test_what_lerobot_cannot_do_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    bundle = unet(**changes)
    with pytest.raises(UserError) as error:
        export_checkpoint(bundle, SampleSetting(5), tmp_path / "out", PARTS)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_critic_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which is said, and refused where it would choose among samples."""
    critic = {"critic": "q_chunking", "critic_width": 8, "critic_depth": 2, "critic_candidates": 2}
    unet(**critic).save(tmp_path / "unet")
    words = ["export", str(tmp_path / "unet"), "--lerobot", "--out", str(tmp_path / "out"), "--observations", *PARTS]
    assert run_main(lambda: main([*words, "--best_of_n=4"])) == 2
    assert "--lerobot: best_of_n: expected 1, since LeRobot's diffusion policy has no critic" in one_line(capsys)
    assert not (tmp_path / "out").exists()
    assert run_main(lambda: main(words)) == 0
    assert "no critic: that of this policy is left out" in capsys.readouterr().out
    back = import_checkpoint(tmp_path / "out", "pointmass", PARTS).bundle
    assert not any(name.startswith("critic.") for name in back.weights)


def test_other_policies_and_inputs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pointmass_bundle().save(tmp_path / "flow")
    unet().save(tmp_path / "unet")

    def refused(*words: str) -> str:
        assert run_main(lambda: main(["export", *words])) == 2
        return one_line(capsys)

    assert "got flow with objective flow" in refused(str(tmp_path / "flow"), "--lerobot")
    assert "this policy sees state (4), goal (2)" in refused(str(tmp_path / "unet"), "--lerobot")
    assert "expected also observation.environment_state=..." in refused(
        str(tmp_path / "unet"), "--lerobot", "--observations", "observation.state=state+goal"
    )
    assert "--observations: belongs to --lerobot" in refused(str(tmp_path / "unet"), "--onnx", "--observations", "a=b")
    (tmp_path / "mine").mkdir()
    words = (str(tmp_path / "unet"), "--lerobot", "--out", str(tmp_path / "mine"), "--observations", *PARTS)
    assert "exists, and is no LeRobot checkpoint" in refused(*words)
