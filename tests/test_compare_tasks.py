"""`raybc compare` over several tasks: finished measurements of suites, and arms that are run on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raybc.files import read_json
from raybc.rollout.__main__ import main as rollout
from tests.tasks import SUITE
from tests.test_compare import BAD, GOOD, bundle, policies, rows_of, status, write_episodes  # noqa: F401

Q, L, S = SUITE


def write_suite(folder: Path, outcomes: dict[str, Sequence[bool | None]], **metrics: Any) -> Path:
    """What `raybc rollout --tasks` leaves, as far as a comparison reads it."""
    parts = [write_episodes(folder / "x.jsonl", o, task=task).read_text() for task, o in outcomes.items()]
    (folder / "x.jsonl").unlink()
    (folder / "episodes.jsonl").write_text("".join(parts))
    (folder / "rollout.json").write_text(json.dumps({"run_id": "x", "tasks": list(outcomes)}))
    tasks = {task: {"max_steps": 80, "instruction": ""} for task in outcomes}
    identity = {"physics": "1", "env_name": list(outcomes)[-1]}
    (folder / "metrics.json").write_text(json.dumps({"tasks": tasks, "environment": identity} | metrics))
    return folder


def test_finished_measurements_of_several_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Starts of the same seed in two tasks are two starts; the order of the tasks says nothing."""
    a = write_suite(tmp_path / "a", {"reach": GOOD, "push": BAD})
    b = write_suite(tmp_path / "b", {"push@80": BAD, "reach": BAD})
    assert status(a, b, "--out", tmp_path / "out") == 0
    result = read_json(tmp_path / "out/comparison.json")
    (pair,) = result["pairs"]
    assert (pair["paired"], pair["starts"]) == (True, 60)
    assert pair["table"] == {"both": 24, "only_a": 16, "only_b": 0, "neither": 20}
    assert set(pair["differing"]) == {f"reach {2_000_000 + i}" for i in range(12, 28)}
    reach, push = result["tasks"]
    assert (reach["task"], push["task"]) == ("reach", "push")
    assert [(arm["name"], arm["solved"], arm["episodes"]) for arm in reach["arms"]] == [("a", 28, 30), ("b", 12, 30)]
    assert reach["differences"][0]["difference"] == pytest.approx(16 / 30)
    low, high = push["differences"][0]["interval"]
    assert low < 0 < high
    assert "40.0 % (12/30)" in capsys.readouterr().out
    assert "On each task" in (tmp_path / "out/compare.html").read_text()


def test_files_of_one_task_have_no_table_of_tasks(tmp_path: Path) -> None:
    a, b = (write_suite(tmp_path / n, {"reach": o}) for n, o in (("a", GOOD), ("b", BAD)))
    assert status(a, b, "--out", tmp_path / "out") == 0
    assert "tasks" not in read_json(tmp_path / "out/comparison.json")
    assert "On each task" not in (tmp_path / "out/compare.html").read_text()


def test_other_tasks_are_not_comparable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_suite(tmp_path / "a", {"reach": GOOD, "push": BAD})
    b = write_suite(tmp_path / "b", {"reach": GOOD, "pick": BAD})
    assert status(a, b) == 4
    assert "task (a push, reach, b pick, reach)" in capsys.readouterr().err
    c = write_suite(
        tmp_path / "c", {"reach": GOOD, "push": BAD}, tasks={"reach": {"max_steps": 80}, "push": {"max_steps": 9}}
    )
    assert status(a, c) == 4
    assert "max_steps (a 80, c push 9, reach 80)" in capsys.readouterr().err


def test_duplicates_are_named_with_their_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (write_suite(tmp_path / n, {"reach": GOOD, "push": BAD}) for n in "ab")
    lines = (b / "episodes.jsonl").read_text().splitlines(keepends=True)
    (b / "episodes.jsonl").write_text("".join([*lines, lines[31]]))
    assert status(a, b) == 2
    assert "line 61: expected one row for each start, got start push 2000001 again" in capsys.readouterr().err
    without = json.loads(lines[0])
    del without["task"]
    (b / "episodes.jsonl").write_text("".join([*lines, json.dumps(without) + "\n"]))
    assert status(a, b) == 2
    assert "line 61: expected a task on every line or on none, got 'no task' here" in capsys.readouterr().err


def test_tasks_that_do_not_count_equally_are_named(tmp_path: Path) -> None:
    a, b = (write_suite(tmp_path / n, {"reach": GOOD, "push": BAD[:9]}) for n in "ab")
    status(a, b, "--out", tmp_path / "out")
    notes = read_json(tmp_path / "out/comparison.json")["notes"]
    assert any("9 (push) to 30 starts (reach)" in note for note in notes)


def test_a_table_may_name_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["arm,task,start,success"]
    for arm, outcomes in (("x", GOOD), ("y", BAD)):
        lines += [f"{arm},{task},{i},{int(o)}" for task in ("reach", "push") for i, o in enumerate(outcomes)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(lines) + "\n")
    assert status(table, "--out", tmp_path / "out") == 0
    result = read_json(tmp_path / "out/comparison.json")
    assert [one["task"] for one in result["tasks"]] == ["reach", "push"]
    assert result["pairs"][0]["starts"] == 60
    table.write_text("\n".join([*lines, "y,push,3,1"]) + "\n")
    assert status(table) == 2
    assert "line 122 (arm y): expected one row for each start, got start push 3 again" in capsys.readouterr().err


def test_evaluations_of_lerobot_have_tasks(tmp_path: Path) -> None:
    def info(name: str, outcomes: Sequence[bool]) -> Path:
        path = tmp_path / name / "eval_info.json"
        path.parent.mkdir()
        tasks = [{"task_group": "libero", "task_id": n, "metrics": {"successes": list(outcomes)}} for n in (0, 1)]
        path.write_text(json.dumps({"per_task": tasks}))
        return path

    assert status(info("a", GOOD), info("b", BAD), "--paired", "--out", tmp_path / "out") == 0
    result = read_json(tmp_path / "out/comparison.json")
    assert result["pairs"][0]["paired"]
    assert [one["task"] for one in result["tasks"]] == ["libero 0", "libero 1"]


# --- arms that are run ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_arms_are_run_on_several_tasks(
    ray_cpus: float,
    policies: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Starts of the tasks take turns; a comparison that was interrupted continues; finished arms join."""
    out, flags = tmp_path / "out", ("--tasks", *SUITE, "--episodes_per_task", 8, "--rule", "fixed", "--workers", 1)
    assert status(*policies, *flags, "--videos", 1, "--out", out) in (0, 3)
    result = read_json(out / "comparison.json")
    assert result["pairs"][0]["starts"] == result["starts"] == 24
    assert [one["task"] for one in result["tasks"]] == list(SUITE)
    rows = rows_of(out / "arms/good/episodes.jsonl")
    assert [(row["task"], row["index"]) for row in rows] == [(name, i) for i in range(8) for name in SUITE]
    assert len(result["videos"]) == 2
    assert result["videos"][0]["start"] == result["pairs"][0]["differing"][0]
    still = result["tasks"][2]["arms"]
    assert [arm["episodes"] for arm in still] == [8, 8]

    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "compare.json").write_text((out / "compare.json").read_text())
    lines = [json.dumps({"arm": "good", **row, "seconds": 1e6}) + "\n" for row in (rows[5], rows[7])]
    (torn / "episodes.partial.jsonl").write_text("".join(lines))
    capsys.readouterr()
    assert status(*policies, *flags, "--resume", "--out", torn) in (0, 3)
    assert "resuming: 2 episodes are already measured" in capsys.readouterr().out
    assert rows_of(torn / "arms/good/episodes.jsonl") == rows

    argv = [str(policies[1]), "--tasks", *SUITE, "--episodes_per_task=8", f"--out={tmp_path / 'old'}"]
    assert rollout(argv) == 0
    assert status(policies[0], tmp_path / "old", *flags, "--out", tmp_path / "mixed") in (0, 3)
    mixed = read_json(tmp_path / "mixed/comparison.json")
    assert mixed["pairs"][0]["table"] == result["pairs"][0]["table"]
    assert not (tmp_path / "mixed/arms/old").exists()
    assert status(policies[0], tmp_path / "old", "--out", tmp_path / "x") == 4
    assert "these differ: task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--tasks", Q, L, "--episodes", 5), "--episodes: expected --episodes_per_task"),
        (("--episodes_per_task", 5), "--episodes_per_task: expected --suite or --tasks as well"),
        (("--tasks", Q, Q), "expected different tasks, got tests.tasks:QUICK twice"),
        (("--suite", "MT11"), "--suite: unknown suite 'MT11'"),
        (("--tasks", Q, "tests.tasks:WIDE"), "the policy expects size 4, environment 'tests.tasks:WIDE' has 5"),
        (("--tasks", Q, L, "--episodes_per_task", 0), "--episodes_per_task: expected 1.."),
        (("--num_tasks", 2), "--num_tasks: expected --suite or --tasks as well"),
    ],
)
def test_impossible_tasks(
    policies: tuple[Path, Path],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[object, ...],
    expected: str,
) -> None:
    assert status(*policies, *flags, "--out", tmp_path / "out") == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
