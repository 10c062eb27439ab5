"""Step limits: those of published protocols by the name of the data, and others by `@STEPS`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from raybc.config import DemosConfig, RunConfig
from raybc.data.adapt import added
from raybc.data.load import step_limit_of
from raybc.demos.spec import source_of
from raybc.envs.base import EnvName
from raybc.envs.variant import with_limit
from raybc.registry import get_task, parse_env_name
from raybc.rollout.__main__ import main as rollout
from raybc.types import UserError
from tests.helpers import pointmass_bundle


def limit_of(env_name: str) -> int:
    return get_task(parse_env_name(env_name).task).max_steps


def test_limits_of_published_protocols() -> None:
    """robomimic: 400 steps on proficient-human data (transport and tool hang 700), 500 (1100) on multi-human data."""
    expected = {"lift": (400, 500), "can": (400, 500), "square": (400, 500), "transport": (700, 1100)}
    for task, (ph, mh) in expected.items():
        assert (limit_of(f"{task}-ph-low_dim"), limit_of(f"{task}-mh-low_dim")) == (ph, mh)
        assert limit_of(f"{task}-mh-low_dim_abs") == mh
    assert limit_of("tool_hang-ph-low_dim") == 700
    assert limit_of("lift-human-low_dim") == 500, "recorded episodes take 226 steps and more"
    assert limit_of("lift-scripted-low_dim") == get_task("lift").max_steps == 150


def test_a_name_may_have_a_limit() -> None:
    plain = get_task("pointmass")
    task = get_task("pointmass@33")
    assert task == dataclasses.replace(plain, name="pointmass@33", max_steps=33)
    assert get_task(f"pointmass@{plain.max_steps}") is plain
    assert parse_env_name("lift-human-low_dim@300") == EnvName("lift-human-low_dim@300", "lift@300", "human")
    assert parse_env_name("gym:Pendulum-v1@20").task == "gym:Pendulum-v1@20"
    assert parse_env_name("halfcheetah-medium-v2@10").data == "medium-v2"
    assert get_task("halfcheetah").reference_returns is not None
    assert get_task("halfcheetah@10").reference_returns is None, "D4RL's returns are those of 1000 steps"
    assert with_limit("dataset:a@b.hdf5") == ("dataset:a@b.hdf5", 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pointmass@0", r"^pointmass@0: expected a step limit of at least 1 after @, got 0$"),
        ("pointmas@9", r"^unknown task 'pointmas': did you mean 'pointmass'"),
        ("pointmass@9@9", r"^unknown task 'pointmass@9'"),
        ("pointmass@-1", r"^unknown task 'pointmass@-1'"),
    ],
)
def test_impossible_limits_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_task(name)


def test_data_do_not_depend_on_the_limit() -> None:
    """Neither demonstrations, nor observations that are added for a task, nor where D4RL's old files are cut."""
    paths = [source_of(RunConfig.of(env_name=f"pointmass-scripted-low_dim{x}"), DemosConfig())[0] for x in ("", "@9")]
    assert paths[0] == paths[1]
    obs = {"state": np.zeros((2, 5), np.float32)}
    assert added(obs, "pusht@50").keys() == added(obs, "pusht").keys() != set()
    assert step_limit_of("halfcheetah@10", "d4rl") == 1000


def test_a_rollout_with_another_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pointmass_bundle().save(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    assert rollout([str(tmp_path / "bundle"), "--episodes=3", "--workers=1", "--max_steps=4"]) == 0
    [out] = Path("runs/rollouts").iterdir()
    assert "_final_4" in out.name, "each limit has a folder of its own"
    metrics = json.loads((out / "metrics.json").read_text())
    assert "pointmass@4" in json.dumps(metrics)
    rows = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert [(row["outcome"], row["steps"]) for row in rows] == [("timeout", 4)] * 3
    with pytest.raises(UserError, match=r"^--max_steps: expected at least 1, or 0 .*, got -1$"):
        rollout([str(tmp_path / "bundle"), "--max_steps=-1"])
