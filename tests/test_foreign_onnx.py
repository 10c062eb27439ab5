"""`onnx:FILE`: a file of raybc's does what its bundle does; files of others are read by the names of their inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raybc.cli import run_main
from raybc.compare.__main__ import main as compare
from raybc.export.__main__ import main as export
from raybc.files import read_json
from raybc.foreign.measured import MeasuredForeign
from raybc.foreign.reference import Reference
from raybc.inference.shared import SharedLoader, start_server
from raybc.rollout.__main__ import main
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.worker import load_agent
from raybc.types import EpisodeSpec
from tests.helpers import pointmass_bundle

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def status(command: Any, *words: object) -> int:
    return run_main(lambda: command([str(word) for word in words]))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    pointmass_bundle().save(folder / "bundle")
    assert status(export, folder / "bundle", "--onnx", "--flow_steps", 3, "--out", folder / "policy.onnx") == 0
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def model(path: Path, inputs: dict[str, tuple[int, list[Any]]], out: list[Any] | None = None) -> Path:
    """A file of others: the action is the mean of the first input, twice."""
    helper, first = onnx.helper, next(iter(inputs))
    axes = list(range(1, len(inputs[first][1])))
    nodes = [
        helper.make_node("Cast", [first], ["float"], to=1),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=axes, keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["column"]),
        helper.make_node("Concat", ["column", "column"], ["actions"], axis=1),
    ]
    one = helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("actions", onnx.TensorProto.FLOAT, out or ["B", 2])], [one],
    )  # fmt: skip
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(found, str(path))
    return path


def test_a_file_and_its_bundle_have_equal_episodes(ray_cpus: float, files: Path, tmp_path: Path) -> None:
    """The file says where it was trained and how it is sampled, also temporal ensembles and noise are the same."""
    flags = ("--episodes", 8, "--workers", 1, "--execute_steps", "0,3", "--temporal_ensemble", "-1,0.1",
             "--eval_temperature", 0.5)  # fmt: skip
    assert status(main, f"onnx:{files / 'policy.onnx'}", *flags, "--out", tmp_path / "file") == 0
    assert status(main, files / "bundle", "--flow_steps", 3, *flags, "--out", tmp_path / "bundle") == 0
    theirs, own = rows(tmp_path / "file"), rows(tmp_path / "bundle")
    assert len(own) == 32
    assert [row["outcome"] for row in own].count("success") > 0
    for mine, other in zip(own, theirs, strict=True):
        assert mine.pop("final_obs").keys() == other.pop("final_obs").keys()
    assert theirs == own
    assert read_json(tmp_path / "file/metrics.json")["env_name"] == "pointmass-scripted-low_dim"


def test_files_of_others_are_read_by_the_names_of_their_inputs(ray_cpus: float, tmp_path: Path) -> None:
    path = model(tmp_path / "theirs.onnx", {"goal": (onnx.TensorProto.FLOAT, ["B", 2])})
    words = (f"onnx:{path}", "--env_name", "pointmass", "--episodes", 2, "--workers", 1, "--out", tmp_path / "out")
    assert status(main, *words) == 0
    assert {row["outcome"] for row in rows(tmp_path / "out")} <= {"timeout", "failure", "success"}


FLOAT, UINT8, INT64 = 1, 2, 7


@pytest.mark.parametrize(
    ("inputs", "out", "expected"),
    [
        ({"goals": (FLOAT, ["B", 2])}, None, "observation 'goals': the policy expects size 2, pointmass has none"),
        ({"goal": (FLOAT, ["B", 3])}, None, "observation 'goal': the policy expects size 3, pointmass has 2"),
        ({"goal": (INT64, ["B", 2])}, None, "expected inputs that are named as observations"),
        ({"goal": (FLOAT, ["B", "N"])}, None, "got goal of tensor(float) ['B', 'N']"),
        ({"image": (FLOAT, ["B", 3, 8, 8])}, None, "got image of tensor(float) ['B', 3, 8, 8]"),
        ({"goal": (FLOAT, ["B", 2, 2]), "state": (FLOAT, ["B", 3, 4])}, None, "got observations of 2, 3 steps"),
    ],
)
def test_what_is_no_policy_is_refused(
    inputs: dict[str, Any], out: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model(tmp_path / "theirs.onnx", inputs, out)
    assert status(main, f"onnx:{path}", "--env_name", "pointmass", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert expected in " ".join(error.split())
    assert len(error.strip().splitlines()) == 1


def test_other_mistakes(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.onnx").write_text("text")
    known = f"onnx:{files / 'policy.onnx'}"
    for words, expected in (
        ((f"onnx:{tmp_path / 'none.onnx'}",), "there is no file"),
        ((f"onnx:{tmp_path / 'text.onnx'}", "--env_name", "pointmass"), "onnxruntime cannot load it"),
        ((known, "--flow_steps", "5"), "--flow_steps: has no effect on onnx:"),
        ((known, "--execute_steps", "9"), "--execute_steps: expected 0..8"),
        ((known, "--env_name", "tests.tasks:WIDE"), "observation 'state': the policy expects size 4"),
    ):
        assert status(main, *words, "--out", tmp_path / "out") == 2
        assert expected in " ".join(capsys.readouterr().err.split())


def test_they_are_not_told_apart(
    ray_cpus: float, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 3, no start on which they differ."""
    words = (f"file=onnx:{files / 'policy.onnx'}", f"bundle={files / 'bundle'}:flow_steps=3", "--episodes", 20,
             "--workers", 1, "--out", tmp_path / "out")  # fmt: skip
    assert status(compare, *words) == 3
    assert "only file 0, only bundle 0" in capsys.readouterr().out
    theirs, own = rows(tmp_path / "out/arms/file"), rows(tmp_path / "out/arms/bundle")
    assert len(own) == 20
    assert [row["outcome"] for row in theirs] == [row["outcome"] for row in own]
    assert [row["steps"] for row in theirs] == [row["steps"] for row in own]


def test_a_file_in_an_actor_of_its_own_does_the_same(ray_cpus: float, files: Path) -> None:
    """Where simulators are in an environment of their own, which has no onnxruntime."""
    asked = MeasuredForeign(Reference("onnx", str(files / "policy.onnx")))
    found = []
    for load in (load_agent, SharedLoader(start_server(0.0))):
        engine, own = Engine(load, slots=2), dict[int, Any]()
        for number in range(3):
            engine.add(number, Rollout(asked.reference, asked.setting), EpisodeSpec("pointmass", "search", number))
        while not engine.idle:
            own |= dict(engine.round())
        found.append([own[number] | {"seconds": 0.0} for number in sorted(own)])
    assert found[0] == found[1]
