"""Commands with instructions: training, rollouts, ONNX, a server.

Letters: B batch, H chunk, A action dim, E size of an embedding.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raybc
from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.data.store import write_store
from raybc.envs.pointmass import POINTMASS, PointMassEnv
from raybc.envs.spec import spec_of_task
from raybc.export.__main__ import main as export
from raybc.inference.agent import Agent
from raybc.inference.metadata import policy_metadata
from raybc.rollout.checks import check_fits
from raybc.rollout.engine import Engine, Rollout
from raybc.run_folder import TrainingFolder
from raybc.train.data import TrainingData
from raybc.types import EpisodeSpec, SampleSetting, UserError
from tests.helpers import demonstrations, pointmass_bundle, saved, tiny_trainer
from tests.test_engine import run
from tests.test_train_initial import train
from tests.words import ACTION, LEFT, RIGHT, chunk, words_store, words_trainer

GO = "go to the goal"
OBS: dict[str, Any] = {"arm": [0.0, 0.0, 0.0], "cube": [0.0, 0.0]}
SMALL = ("--hidden_width=32", "--hidden_depth=2", "--batch_size=32", "--log_interval=50", "--lr=5e-3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a simulator, two seeds, in two parts."""
    folder = tmp_path_factory.mktemp("words")
    write_store(folder / "words", words_store())
    common = ("--dataset", folder / "words", *SMALL, "--policy=regression", "--language=tests.words:Letters",
              "--seeds", 0, 1, "--out", folder / "run", "--normalization=identity")  # fmt: skip
    assert train(*common, "--training_steps=60") == 0
    assert train(*common, "--training_steps=120", "--resume") == 0
    return next((folder / "run").glob("sd000_*"))


def test_a_command_trains_a_policy_that_reads(trained: Path) -> None:
    policy = raybc.load(trained)
    for text, sign in ((LEFT, 1), (RIGHT, -1)):
        policy.reset(0, text)
        np.testing.assert_allclose(policy.act(OBS), sign * ACTION, atol=0.3)
    rows = TrainingFolder(trained).offline_csv.read_text().splitlines()
    assert len(rows) >= 2, "the error on held-out episodes is measured with their instructions"


def test_what_is_not_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path / "words", words_store())
    common = ("--dataset", tmp_path / "words", *SMALL, "--training_steps=1")
    assert train(*common, "--out", tmp_path / "run") == 0
    assert "the data have 2 instructions" in " ".join(capsys.readouterr().out.split())
    write_store(tmp_path / "mute", words_store(tasks=()))
    assert train("--dataset", tmp_path / "mute", *SMALL, "--language=one_hot", "--out", tmp_path / "other") == 2
    assert "expected an instruction for each episode" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_task_without_an_instruction_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = dataclasses.replace(demonstrations(POINTMASS, 3), tasks=(GO,) * 3)
    write_store(tmp_path / "go", store)
    flags = ("--env_name=pointmass", "--dataset", tmp_path / "go", "--language=one_hot", "--out", tmp_path / "run")
    assert train(*flags, *SMALL, "--training_steps=1") == 2
    assert "pointmass has none; use --language=none, or --eval_interval=0" in capsys.readouterr().err


def test_rollouts_check_the_instruction_beforehand(tmp_path: Path) -> None:
    spec = spec_of_task(POINTMASS)
    check_fits(pointmass_bundle(), spec, tmp_path)
    with pytest.raises(UserError, match=r"^--instruction: has no effect, since this policy reads no instructions"):
        check_fits(pointmass_bundle(), spec, tmp_path, GO)
    bundle = guided()
    check_fits(bundle, dataclasses.replace(spec, instruction=LEFT), tmp_path)
    check_fits(bundle, spec, tmp_path, RIGHT)
    with pytest.raises(UserError, match=f"^{tmp_path}: instruction: expected one, since this policy reads .* got none"):
        check_fits(bundle, spec, tmp_path)
    with pytest.raises(UserError, match=f"got 'push the cube to the lift'; did you mean '{LEFT}'"):
        check_fits(bundle, spec, tmp_path, "push the cube to the lift")


@functools.cache
def guided() -> PolicyBundle:
    """A policy that goes to the goal with one instruction, and away from it with the other one."""
    store = demonstrations(POINTMASS, 40, noise=0.0)
    size = store.num_episodes
    both = dataclasses.replace(
        store,
        obs={name: np.concatenate([values, values]) for name, values in store.obs.items()},
        actions_NA=np.concatenate([store.actions_NA, -store.actions_NA]),
        rewards_N=np.concatenate([store.rewards_N, store.rewards_N]),
        episode_ends=np.concatenate([store.episode_ends, store.episode_ends + store.episode_ends[-1]]),
        tasks=(LEFT,) * size + (RIGHT,) * size,
        splits={},
    )
    data = TrainingData(both, both.fingerprint(), POINTMASS.obs_keys, {})
    trainer = tiny_trainer(
        data=data, language="one_hot", policy="regression", training_steps=600, batch_size=128, lr=3e-3,
        hidden_width=64, hidden_depth=2,
    )  # fmt: skip
    trainer.advance(600)
    return trainer.bundle(0)


class Speaking(PointMassEnv):
    """A point mass whose instruction is one that the policy knows."""

    instruction = LEFT


def test_right_and_wrong_instructions_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: data, training, simulator; the wrong words lead away from the goal."""
    task = dataclasses.replace(POINTMASS, make=lambda render: Speaking(), slots=4)
    monkeypatch.setattr("raybc.rollout.engine.get_task", lambda name: task)
    agent = Agent(guided())
    jobs = [Rollout("b", SampleSetting(0), instruction=text) for text in ("", LEFT, RIGHT)]
    specs = [EpisodeSpec("pointmass", "search", i) for i in range(6)]
    rows = run(Engine(lambda path: agent), [(job, spec) for job in jobs for spec in specs])
    solved = [sum(row["outcome"] == "success" for row in rows[first : first + 6]) for first in (0, 6, 12)]
    assert solved[0] == solved[1] >= 3
    assert solved[2] == 0


def test_a_policy_describes_what_it_reads(trained: Path) -> None:
    bundle = PolicyBundle.load(trained / "checkpoint_120")
    described = policy_metadata(bundle, SampleSetting())["language"]
    assert described["instructions"] == [LEFT, RIGHT]
    assert described["size"] == 26
    assert "language" not in policy_metadata(pointmass_bundle(), SampleSetting())


def test_a_card_lists_the_instructions(trained: Path, tmp_path: Path) -> None:
    from raybc.export.card import Evidence, card

    bundle = PolicyBundle.load(trained / "checkpoint_120")
    text = card("me/words", bundle, SampleSetting(), Evidence("none"))
    assert f"- {LEFT}\n- {RIGHT}\n" in text


@pytest.mark.parametrize(
    "network",
    [
        {"policy": "flow", "hidden_width": 16},
        {"policy": "flow_transformer", "transformer_layers": 1, "transformer_heads": 2, "transformer_width": 16},
    ],
    ids=lambda n: n["policy"],
)
def test_an_onnx_file_takes_the_embedding(network: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    trainer = words_trainer(**network)
    trainer.advance(20)
    bundle = saved(trainer.bundle(0))
    bundle.save(tmp_path / "bundle")
    out = tmp_path / "policy.onnx"
    assert run_main(lambda: export([str(tmp_path / "bundle"), "--onnx", "--flow_steps=4", "--out", str(out)])) == 0
    described = json.loads((tmp_path / "policy.json").read_text())
    assert described["inputs"]["language"]["shape"] == ["B", 26]
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    embedded = np.array([described["embeddings"][text] for text in (LEFT, RIGHT)], np.float32)
    seen = {name: np.zeros((2, 1, size), np.float32) for name, size in bundle.obs_sizes.items()}
    got = session.run(["actions"], {**seen, "language": embedded, "noise": np.zeros((2, 4, 2), np.float32)})[0]
    np.testing.assert_allclose(got, chunk(Agent(bundle), LEFT, RIGHT), atol=1e-5)
    assert (got[0] != got[1]).any()


# A server


@pytest.fixture(scope="module")
def server(trained: Path) -> Iterator[str]:
    for package in ("starlette", "uvicorn", "websockets"):
        pytest.importorskip(package)
    from tests.test_serve import serving

    with serving(trained) as (place, _):
        yield place


def test_a_served_policy_reads(server: str, trained: Path) -> None:
    from raybc.serve.client import RemotePolicy
    from tests.test_serve import ask

    local = raybc.load(trained)
    with RemotePolicy(f"http://{server}") as remote:
        assert remote.metadata["language"]["instructions"] == [LEFT, RIGHT]
        with pytest.raises(UserError, match="expected one, since this policy reads instructions, got none"):
            remote.act(OBS)
        for text in (LEFT, RIGHT, "move left"):
            remote.reset(0, text)
            local.reset(0, text)
            np.testing.assert_allclose(remote.act(OBS), local.act(OBS), atol=1e-6)
        remote.reset(0)
        local.reset(0)
        np.testing.assert_allclose(remote.act(OBS), local.act(OBS), atol=1e-6)
        np.testing.assert_allclose(
            remote._ask({**OBS, "prompt": RIGHT})["actions"][0], -ACTION, atol=0.3
        )  # as openpi's clients ask
        with pytest.raises(UserError, match="instruction: expected a text, got int"):
            remote._ask({"reset": 0, "instruction": 3})
    local.reset(0, LEFT)
    status, answer = ask(server, "POST", "/act", {"obs": OBS, "instruction": LEFT})
    assert status == 200
    np.testing.assert_allclose(answer["actions"][0], local.act(OBS), atol=1e-6)
    status, answer = ask(server, "POST", "/act", {"obs": OBS})
    assert status == 422
    assert "got none; known" in answer["error"]
