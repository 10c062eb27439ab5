"""`lerobot:FOLDER`: LeRobot's own package acts, and does what its `select_action` does."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.cli import run_main
from raybc.env.environment import override_variable
from raybc.foreign.base import About
from raybc.foreign.lerobot import KIND
from raybc.foreign.predictor import ForeignPredictor
from raybc.foreign.reference import Reference
from raybc.inference.predictor import PolicyError
from raybc.lerobot.files import CONFIG, WEIGHTS, own_name
from raybc.lerobot.imported import import_checkpoint
from raybc.rollout.__main__ import main
from raybc.types import SampleSetting, UserError
from tests import lerobot_oracle
from tests.test_lerobot_import import chunks, edit, one_line

pytestmark = lerobot_oracle.needed
#: What a process with the oracles needs: see `tests.lerobot_oracle` and `tests.helpers`.
START = """
import sys
sys.modules["transformers"] = None
import torch
if torch.version.cuda is None:
    kept = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        kept.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
BOTH = {"state": (3,), "environment_state": (5,)}
POINT = {"state": (4,), "environment_state": (2,)}
ABOUT = About("robot", POINT, 2, (-9, -9), (9, 9), "", 50, 10.0)
SEEING = dataclasses.replace(ABOUT, observations={"state": (3,), "image": (32, 32, 3)})


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with LeRobot, in place of the one that `raybc env build lerobot` makes."""
    folder = tmp_path_factory.mktemp("python") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (own,) = Path(sys.prefix).glob("lib/python*/site-packages")
    (site / "lerobot.pth").write_text(f"{lerobot_oracle.ORACLE}\n{lerobot_oracle.IMAGES}\n{own}\n")
    (site / "sitecustomize.py").write_text(START)
    return folder / "bin" / "python"


@pytest.fixture
def lerobot(python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(override_variable("lerobot"), str(python))


def reference(folder: Path, **options: Any) -> Reference:
    return KIND.parse(Reference("lerobot", str(folder), **options))


def episode(of: Reference, expected: dict[str, np.ndarray], about: About = ABOUT, **setting: Any) -> np.ndarray:
    """What the policy does in the episode of `expected.npz`, alone in its process, (steps, A)."""
    return episodes(of, [expected], about, **setting)[0]


def episodes(of: Reference, many: list[dict[str, np.ndarray]], about: About, **setting: Any) -> list[np.ndarray]:
    """The same for several at a time."""
    predictor = ForeignPredictor(of, KIND)
    chosen = SampleSetting(**{**vars(KIND.setting(of)), **setting})
    sessions = [predictor.begin(about, chosen, seed) for seed in range(len(many))]
    actions: list[list[np.ndarray]] = [[] for _ in many]
    for step in range(lerobot_oracle.STEPS):
        for session, expected in zip(sessions, many, strict=True):
            session.observe({own_name(k): v[step] for k, v in expected.items() if k.startswith("observation")})
        due = [n for n, done in enumerate(actions) if len(done) == step]
        answers = predictor.predict_episodes([sessions[n] for n in due]).get()
        for n, found in zip(due, answers, strict=True):
            if isinstance(found, PolicyError):
                raise found
            actions[n] += list(sessions[n].plan(found))
    for session in sessions:
        session.end("success")
    predictor.close()
    return [np.stack(one[: lerobot_oracle.STEPS]) for one in actions]


def expected_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "expected.npz") as file:
        return dict(file)


@pytest.mark.usefixtures("lerobot")
@pytest.mark.parametrize(
    "name", ["act ensemble", *(pytest.param(name, marks=pytest.mark.slow) for name in ("act", "vqbet"))]
)
def test_an_episode_is_that_of_select_action(lerobot_checkpoints: Path, name: str) -> None:
    """With the n_action_steps, the ensembling and the queues of the checkpoint; others beside it change nothing."""
    expected, of = expected_of(lerobot_checkpoints / name), reference(lerobot_checkpoints / name)
    about = SEEING if name == "vqbet" else ABOUT
    alone = episode(of, expected, about)
    if name != "vqbet":  # which draws
        np.testing.assert_allclose(alone, expected["actions"], rtol=1e-5, atol=1e-6)
    other = {key: value[::-1].copy() for key, value in expected.items()}
    together = episodes(of, [expected, other], about)
    np.testing.assert_array_equal(together[0], alone)
    assert not np.array_equal(together[1], alone)


@pytest.mark.usefixtures("lerobot")
@pytest.mark.parametrize("name", ["few steps", pytest.param("image", marks=pytest.mark.slow)])
def test_an_imported_policy_does_the_same(lerobot_checkpoints: Path, name: str) -> None:
    """LeRobot and the bundle made of its checkpoint, from the noise of the same start; also other sample settings."""
    bundle, expected, of = (
        import_checkpoint(lerobot_checkpoints / name).bundle,
        expected_of(lerobot_checkpoints / name),
        reference(lerobot_checkpoints / name),
    )
    about = dataclasses.replace(SEEING, observations={**BOTH, "image": (48, 64, 3)})
    names = {key: own_name(key) for key in expected if key.startswith("observation")}
    for flow_steps, execute_steps in ((0, 8), (2, 5)):
        changes = {"execute_steps": execute_steps, "flow_steps": flow_steps or bundle.config.flow_steps}
        noise, draws = np.zeros_like(expected["noise"]), np.random.default_rng([0, 1])
        for now in range(0, len(noise), execute_steps):
            noise[now] = draws.standard_normal(noise.shape[1:])
        ours = dataclasses.replace(bundle, config=bundle.config.changed(**changes))
        wanted = chunks(ours, {**expected, "noise": noise}, names)
        got = episode(of, expected, dataclasses.replace(about, flow_steps=flow_steps), execute_steps=execute_steps)
        assert np.abs((got - wanted) / bundle.action_normalizer.scale).max() <= 1e-5


@pytest.mark.usefixtures("lerobot")
@pytest.mark.slow
def test_a_process_that_dies_is_an_error_of_its_episodes(lerobot_checkpoints: Path) -> None:
    predictor = ForeignPredictor(reference(lerobot_checkpoints / "act"), KIND)
    session = predictor.begin(ABOUT, SampleSetting(flow_steps=0), 0)
    obs = {"state": np.zeros(4, np.float32), "environment_state": np.zeros(2, np.float32)}
    session.observe(obs)
    (found,) = predictor.predict_episodes([session]).get()
    assert isinstance(found, np.ndarray)
    os.kill(session.policy._shared._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    session.observe(obs)
    (found,) = predictor.predict_episodes([session]).get()
    assert isinstance(found, PolicyError)
    assert "LeRobot: the policy's process in environment lerobot died (status -9" in str(found)
    session.end("error")
    again = predictor.begin(ABOUT, SampleSetting(flow_steps=0), 0)
    again.observe(obs)
    assert isinstance(predictor.predict_episodes([again]).get()[0], np.ndarray), "a new process"
    again.end("success")
    predictor.close()


@pytest.mark.usefixtures("lerobot")
def test_what_is_refused(lerobot_checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert run_main(lambda: main(["--env_name", "pointmass", *words])) == 2
        return one_line(capsys)

    shutil.copytree(lerobot_checkpoints / "act", tmp_path / "act")
    place = f"lerobot:{tmp_path / 'act'}"
    assert "observation.environment_state is made of the observation 'environment_state'" in refused(place)
    same = ("--policy_inputs", "observation.environment_state=state")
    assert "observation.environment_state: the checkpoint expects (2,), got (4,)" in refused(place, *same)
    assert "expected inputs of the checkpoint, observation.state" in refused(place, "--policy_inputs", "other=state")
    assert "flow_steps: has no effect on lerobot:" in refused(place, "--flow_steps", "3")
    (tmp_path / "act" / WEIGHTS).unlink()
    assert "model.safetensors: expected it in a LeRobot checkpoint, found none" in refused(place)
    shutil.copytree(lerobot_checkpoints / "state", tmp_path / "other")
    edit(tmp_path / "other" / CONFIG, type="nothing")
    inputs = "observation.state=state,observation.environment_state=goal"
    assert "LeRobot cannot load" in refused(f"lerobot:{tmp_path / 'other'}", "--policy_inputs", inputs)
    assert "expected the folder of a LeRobot checkpoint, found none" in refused("lerobot:nowhere")


def test_without_lerobot(lerobot_checkpoints: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"environment lerobot: missing \(.*\); raybc env build lerobot"):
        reference(lerobot_checkpoints / "act")


@pytest.mark.slow
@pytest.mark.usefixtures("lerobot", "ray_cpus")
def test_a_rollout(lerobot_checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same checkpoint under several sample settings, as one measurement."""
    words = [f"lerobot:{lerobot_checkpoints / 'act'}", "--env_name=pointmass", "--episodes=2"]
    words += ["--policy_inputs=observation.environment_state=goal", "--execute_steps=0,1"]
    words += ["--temporal_ensemble=-1,0.01", f"--out={tmp_path / 'out'}"]
    assert run_main(lambda: main(words)) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "out" / "episodes.jsonl").read_text().splitlines()]
    assert {row["outcome"] for row in rows} <= {"timeout", "failure", "success"}
    assert len(rows) == 8
