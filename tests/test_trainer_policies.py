"""Policies that trainers of others hand over: any callable, kept as a folder of the run."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from raybc.bundle import PolicyBundle
from raybc.envs.pointmass import POINTMASS
from raybc.foreign.folder import name_of
from raybc.foreign.measured import measured_policy
from raybc.rollout.engine import Rollout
from raybc.sweep.config import SweepConfig
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.pack import run_pack
from raybc.sweep.space import recipe
from raybc.sweep.training import Job
from raybc.train.source import read_data
from raybc.types import EpisodeSpec, UserError
from tests.trainers import Sweep, evaluate, no_rivals

SHARED = {"env_name": "pointmass-scripted-low_dim", "training_steps": 4}
CALLABLE = """
import json
import numpy as np

def train(job, gain: float = 4.0, mode: str = "function"):
    weights = job.folder / "weights"
    weights.mkdir(exist_ok=True)
    (weights / "gain.json").write_text(json.dumps(gain))
    if mode == "returned":
        return make_wild
    policies = {"function": make_policy, "name": f"module:{__file__}:make_policy", "nested": lambda about: None,
                "wild": make_wild, "three": make_three, "raises": make_raises, "missing": f"module:{__file__}:nothing",
                "unknown": "openpy:here", "server": "openpi:localhost:1"}
    name = "nowhere" if mode == "no_files" else "weights"
    files = None if mode in ("wild", "three", "raises") else job.folder / name
    for step in job.milestones:
        job.report(step, policies.get(mode, make_policy), files=files)

def make_policy(about):
    with open(about.argument + "/gain.json") as file:
        gain = json.load(file)
    def act(obs):
        x, v, goal = obs["state"][:2], obs["state"][2:], obs["goal"]
        corner = np.array([0.0, 0.45 if x[1] >= 0 else -0.45])
        return gain * ((corner if x[0] < -0.05 else goal) - x) - 2 * v
    return act

def make_wild(about):
    return lambda obs: np.ones(2)

def make_three(about):
    return lambda obs: np.zeros(3)

def make_raises(about):
    raise OSError("no weights")
"""


def of_callables(folder: Path, mode: str = "function", **changes: Any) -> SweepConfig:
    path = folder / "callables.py"
    path.write_text(CALLABLE)
    plain = {"name": "c", "trainer": f"{path}:train", "seeds": [0], "train": SHARED | {"mode": mode},
             "space": {"gain": {"values": [4.0, 0.0]}}, "eval": {"evaluations": 2, "episodes": 4}}  # fmt: skip
    return sweep_from_mapping(plain | changes, "callables.yaml")


@pytest.mark.parametrize("mode", ["function", "name"])
def test_a_callable_is_kept_with_copies_of_its_files(tmp_path: Path, mode: str) -> None:
    sweep = Sweep(of_callables(tmp_path, mode), tmp_path / "run").run(gain=4.0)
    assert not sweep.failures
    assert [e.score for e in sweep.evaluations] == [1.0, 1.0], "it is a good one"
    shutil.rmtree(sweep.folder.member(0, 0).path / "trainer")
    kept = sweep.folder.checkpoint(0, 0, 4)
    shutil.copytree(kept, tmp_path / "elsewhere")
    shutil.rmtree(kept)
    policy = measured_policy(tmp_path / "elsewhere")
    assert policy.env_name == "pointmass-scripted-low_dim"
    specs = [EpisodeSpec("pointmass", "final", i) for i in range(3)]
    (rows,) = evaluate("", [Rollout(policy.reference, policy.setting)], specs, None)
    assert {row["outcome"] for row in rows} == {"success"}
    with pytest.raises(UserError, match="expected a policy bundle, got a policy of others"):
        PolicyBundle.load(tmp_path / "elsewhere")
    still = Sweep(of_callables(tmp_path, mode), tmp_path / "still").run(gain=0.0)
    assert [e.score for e in still.evaluations] == [0.0, 0.0]


def test_a_policy_may_be_returned(tmp_path: Path) -> None:
    plan = of_callables(tmp_path, "returned", eval={"evaluations": 1, "episodes": 4})
    assert [e.step for e in Sweep(plan, tmp_path / "run").run(gain=4.0).evaluations] == [4]
    (reason,) = Sweep(of_callables(tmp_path, "returned"), tmp_path / "two").run(gain=4.0).failures
    assert "report at step 4: expected a policy at step 2 first" in reason


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("three", "expected an action (2,) or a chunk (H, 2) of finite numbers, got the shape (3,)"),
        ("raises", "OSError: no weights"),
        ("missing", "has no 'nothing'"),
        ("nested", "expected a function at the top of a module, which makes the policy, got <function train.<locals>."),
        ("no_files", "expected files at "),
        ("unknown", "report at step 2: expected one of lerobot:..., module:..."),
        ("function", "execute_steps: expected 0..1, the steps of its chunk, got 2"),
    ],
)
def test_a_policy_that_cannot_act_fails_its_trial_before_it_is_measured(tmp_path: Path, mode: str, reason: str) -> None:
    more = {"execute_steps": {"values": [1, 2]}} if mode == "function" else {}
    plan = of_callables(tmp_path, mode, space={"gain": {"values": [4.0, 0.0]}, **more})
    (found,) = Sweep(plan, tmp_path / "run").run(gain=4.0).failures
    assert reason in found
    assert "\n" not in found


def test_an_onnx_file_is_kept(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    goal = [helper.make_tensor_value_info("goal", kind, ["B", 2])]
    actions = [helper.make_tensor_value_info("actions", kind, ["B", 2])]
    graph = helper.make_graph([helper.make_node("Identity", ["goal"], ["actions"])], "g", goal, actions)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "goal.onnx"))
    (tmp_path / "files.py").write_text(
        f"def train(job, path: str = '{tmp_path}/goal.onnx'):\n"
        "    for step in job.milestones:\n        job.report(step, 'onnx:' + path)\n"
    )
    plan = of_callables(tmp_path, trainer=f"{tmp_path}/files.py:train", train=SHARED, space={"path": {"values": ["x"]}})
    sweep = Sweep(plan, tmp_path / "run").run()
    assert not sweep.failures
    assert len(sweep.evaluations) == 2
    (tmp_path / "goal.onnx").unlink()
    policy = measured_policy(sweep.folder.checkpoint(0, 0, 4))
    assert str(sweep.folder.path) in policy.reference
    assert policy.evaluations(policy.setting) == 1
    (reason,) = Sweep(plan, tmp_path / "gone").run().failures
    assert "there is no file" in reason or "expected files" in reason


OWN = """
import torch
from raybc.config import RunConfig
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer
from raybc.train.source import read_data

def train(job, lr: float = 1e-2, hidden_width: int = 16):
    torch.set_num_threads(1)
    run = RunConfig.of(
        env_name=job.env_name, training_steps=job.steps, batch_size=32, lr=lr, hidden_width=hidden_width,
        hidden_depth=2, action_chunking=True, horizon_length=4, policy="regression", seed=job.seed, device="cpu",
    )
    store = read_data(run, job.dataset)
    trainer = PackTrainer([run], TrainingData(store, "data", job.obs_keys, {}), torch.device("cpu"))
    for step in job.milestones:
        trainer.advance(step)
        trainer.bundle(0).save(job.folder / "bundle")
        job.report(step, job.folder / "bundle")
"""


def test_raybc_s_own_training_gives_as_a_trainer_what_it_gives_alone(pointmass_demos: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    shared = {"env_name": "pointmass-scripted-low_dim", "training_steps": 60, "device": "cpu"}
    rest = {"name": "own", "seeds": [0], "space": {"lr": {"values": [1e-2, 1e-3]}, "execute_steps": {"values": [1, 4]}},
            "eval": {"evaluations": 2, "episodes": 4}}  # fmt: skip
    plain = {**rest, "train": shared, "trainer": f"{tmp_path}/own.py:train"}
    theirs = Sweep(sweep_from_mapping(plain, "theirs.yaml"), tmp_path / "a")
    own_options = {"batch_size": 32, "hidden_width": 16, "hidden_depth": 2, "policy": "regression", "horizon_length": 4,
                   "action_chunking": True}  # fmt: skip
    own = Sweep(sweep_from_mapping({**rest, "train": shared | own_options}, "own.yaml"), tmp_path / "b")
    store = read_data(own.plan.train, pointmass_demos)
    for sweep in (theirs, own):
        sweep.context = dataclasses.replace(
            sweep.context, dataset=str(pointmass_demos), fingerprint=store.fingerprint(), obs_keys=POINTMASS.obs_keys
        )
    theirs.run(lr=1e-2)
    job = Job(0, recipe(own.plan, {"lr": 1e-2}))
    run_pack(own.context, [job], evaluate, lambda _, e: own.evaluations.append(e) or True, _never, no_rivals)  # type: ignore[func-returns-value]
    found = [[[r["episode_list"] for r in e.rows] for e in sweep.evaluations] for sweep in (theirs, own)]
    assert len(found[0]) == 2
    assert found[0] == found[1]


def _never(trial: int, reason: str, errors: int) -> None:
    raise AssertionError(reason)


def test_a_package_may_be_called_as_ours_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules keep their names, without which imports relative to the package would fail."""
    (tmp_path / "raybc_of_others").mkdir()
    (tmp_path / "raybc_of_others/__init__.py").touch()
    (tmp_path / "raybc_of_others/policy.py").write_text("def make_policy(about): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("raybc_of_others.policy").make_policy
    assert name_of(made) == "module:raybc_of_others.policy:make_policy"
