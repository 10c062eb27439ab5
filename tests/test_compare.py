"""`raybc compare` as a user types it: arms, rules, refusals, files of others, resuming, exit status."""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.cli import run_main
from raybc.compare.__main__ import main as compare
from raybc.envs.pointmass import POINTMASS
from raybc.files import read_json
from raybc.rollout.__main__ import main as rollout
from raybc.train.data import TrainingData
from tests.helpers import demonstrations, tiny_trainer


def status(*argv: object) -> int:
    return run_main(lambda: compare([str(a) for a in argv]))


def write_csv(path: Path, arms: dict[str, Sequence[object]], column: str = "success") -> Path:
    lines = [f"arm,start,{column}"]
    lines += [f"{arm},{start},{value}" for arm, values in arms.items() for start, value in enumerate(values)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_episodes(path: Path, outcomes: Sequence[bool | None], first: int = 2_000_000, **more: Any) -> Path:
    """An episodes.jsonl of raybc; None: an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "flow_steps": 4, "execute_steps": 0, "eval_temperature": 0.0, "temporal_ensemble": -1.0, "index": i,
            "seed": first + i, "outcome": "error" if o is None else "success" if o else "timeout",
            "return": float(bool(o)), "max_reward": float(bool(o)), "steps": 10, "seconds": 0.1, "retries": 0,
            "message": "", **more,
        }
        for i, o in enumerate(outcomes)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GOOD, BAD = [True] * 28 + [False] * 2, [True] * 12 + [False] * 18

# --- finished measurements --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arms", "expected"), [((GOOD, BAD), 0), ((BAD, GOOD), 1), ((GOOD, GOOD[::-1]), 3)])
def test_the_status_is_about_the_first_arm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arms: tuple[list[bool], list[bool]], expected: int
) -> None:
    a, b = (write_episodes(tmp_path / n / "episodes.jsonl", o) for n, o in zip("ab", arms, strict=True))
    out = tmp_path / "out"
    assert status(a, b, "--out", out) == expected
    said = capsys.readouterr().out
    result = read_json(out / "comparison.json")
    assert result["status"] == expected
    assert result["verdict"] == {0: "better", 1: "worse", 3: "cannot tell"}[expected]
    pair = result["pairs"][0]
    assert pair["paired"]
    assert pair["test"] == "exact McNemar test"
    assert sum(pair["table"].values()) == pair["starts"] == 30
    assert len(pair["differing"]) == pair["table"]["only_a"] + pair["table"]["only_b"]
    assert {0: "a is better than b", 1: "a is worse than b", 3: "cannot tell a from b"}[expected] in said
    assert "In a paper: On the same 30 starts" in said


def test_one_table_has_several_arms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Holm's correction, and the arms that cannot be distinguished from the best."""
    twin = [not o if i == 3 else o for i, o in enumerate(GOOD)]
    table = write_csv(tmp_path / "results.csv", {n: [int(o) for o in v] for n, v in
                                                 {"good": GOOD, "bad": BAD, "twin": twin}.items()})  # fmt: skip
    assert status(table, "--out", tmp_path / "out") == 3
    result = read_json(tmp_path / "out/comparison.json")
    assert result["best"] == ["good", "twin"]
    assert all(p["p_adjusted"] >= p["p"] for p in result["pairs"])
    assert "cannot be distinguished from the best: good, twin" in capsys.readouterr().out


def test_starts_that_differ_are_unpaired_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_episodes(tmp_path / "a/episodes.jsonl", GOOD)
    b = write_episodes(tmp_path / "b/episodes.jsonl", BAD[:25], first=2_000_100)
    assert status(a, b, "--out", tmp_path / "out") == 0
    pair = read_json(tmp_path / "out/comparison.json")["pairs"][0]
    assert (pair["paired"], pair["interval_method"], pair["table"]) == (False, "Newcombe", None)
    assert "unpaired" in capsys.readouterr().out
    assert status(a, b, "--rule", "open", "--out", tmp_path / "other") == 2
    assert "expected arms on the same starts" in capsys.readouterr().err


def test_a_sentence_for_a_paper_has_the_rates_on_common_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"new,{i},{int(i < 15)}" for i in range(20)] + [f"old,{i},{int(i < 5)}" for i in range(10)]
    (tmp_path / "t.csv").write_text("arm,start,success\n" + "\n".join(lines) + "\n")
    assert status(tmp_path / "t.csv", "--out", tmp_path / "out") in (0, 3)
    said = capsys.readouterr().out
    assert "new solved 100.0 % and old 50.0 % (difference 50.0 points" in said  # 15/20 on its own starts
    assert read_json(tmp_path / "out/comparison.json")["pairs"][0]["means"] == [1.0, 0.5]


def test_tables_of_spreadsheets_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfarm,start,success\r\nnew,1,1\r\nold,1,0\r\n")
    assert status(tmp_path / "t.csv", "--out", tmp_path / "out") == 3
    assert [arm["name"] for arm in read_json(tmp_path / "out/comparison.json")["arms"]] == ["new", "old"]


def test_resume_does_not_replace_the_comparison_of_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = (write_episodes(tmp_path / n / "episodes.jsonl", o) for n, o in zip("abc", (GOOD, BAD, BAD), strict=True))
    out = tmp_path / "out"
    assert status(a, b, "--out", out) == 0
    before = (out / "comparison.json").read_bytes()
    assert status(a, b, "--out", out, "--resume") == 0
    assert status(a, c, "--out", out, "--resume") == 2
    assert "--resume continues the same comparison, but the arms were" in capsys.readouterr().err
    assert (out / "comparison.json").read_bytes() == before


def test_common_starts_are_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_episodes(tmp_path / "a/episodes.jsonl", GOOD)
    b = write_episodes(tmp_path / "b/episodes.jsonl", BAD, first=2_000_005)
    status(a, b, "--out", tmp_path / "out")
    assert read_json(tmp_path / "out/comparison.json")["pairs"][0]["starts"] == 25
    assert "25 of 35 are common" in capsys.readouterr().out


def test_errors_are_in_no_rate_and_help_nobody(tmp_path: Path) -> None:
    """Six starts that only A solves and none that only B does: significant, but for A's errors where B succeeds."""
    a = write_episodes(tmp_path / "a/episodes.jsonl", [True] * 6 + [None] * 6 + [True] * 10)
    b = write_episodes(tmp_path / "b/episodes.jsonl", [False] * 6 + [True] * 16)
    assert status(a, b, "--out", tmp_path / "out") == 3
    result = read_json(tmp_path / "out/comparison.json")
    assert [(arm["episodes"], arm["errors"]) for arm in result["arms"]] == [(16, 6), (22, 0)]
    assert result["pairs"][0]["table"] == {"both": 10, "only_a": 6, "only_b": 0, "neither": 0}


def test_anytime_valid_rules_read_files_too(tmp_path: Path) -> None:
    a = write_episodes(tmp_path / "a/episodes.jsonl", GOOD)
    b = write_episodes(tmp_path / "b/episodes.jsonl", BAD)
    p = {}
    for rule in ("sequential", "open"):
        assert status(a, b, "--rule", rule, "--out", tmp_path / rule) == 0
        pair = read_json(tmp_path / rule / "comparison.json")["pairs"][0]
        p[rule] = pair["p"]
        assert pair["e_value"] > 20
        assert pair["interval_method"] == "confidence sequence"
        assert pair["interval"][0] < pair["difference"] < pair["interval"][1]
    assert p["sequential"] < p["open"]


def test_scores_are_compared_by_their_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    scores = {"a": rng.uniform(0.4, 1, 60), "b": rng.uniform(0, 0.7, 60)}
    table = write_csv(
        tmp_path / "scores.csv", {n: [f"{v:.4f}" for v in values] for n, values in scores.items()}, "score"
    )
    assert status(table, "--out", tmp_path / "t") == 0
    fixed = read_json(tmp_path / "t/comparison.json")["pairs"][0]
    assert fixed["test"] == "paired t test"
    assert fixed["improvement"] > 0.8
    assert status(table, "--rule", "open", "--out", tmp_path / "x") == 2
    assert "--bounds LOW HIGH" in capsys.readouterr().err
    assert status(table, "--rule", "open", "--bounds", 0, 1, "--out", tmp_path / "x") == 0
    assert read_json(tmp_path / "x/comparison.json")["pairs"][0]["test"] == "anytime-valid test by betting"


def lerobot(path: Path, successes: Sequence[bool], new: bool = True, seeds: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if new:
        metrics = {
            "successes": list(successes),
            "sum_rewards": [1.0] * len(successes),
            "max_rewards": [0.5] * len(successes),
        }
        info: dict[str, Any] = {"per_task": [{"task_group": "pusht", "task_id": 0, "metrics": metrics}], "overall": {}}
    else:
        info = {"per_episode": [{"episode_ix": i, "sum_reward": 1.0, "max_reward": 0.5, "success": s,
                                 "seed": 1000 + i if seeds else None} for i, s in enumerate(successes)]}  # fmt: skip
    path.write_text(json.dumps(info))
    return path


def test_evaluations_of_lerobot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With seeds they are paired by them; without, only if the user says that they are of the same starts."""
    old = [lerobot(tmp_path / n / "eval_info.json", o, new=False) for n, o in (("a", GOOD), ("b", BAD))]
    assert status(*old, "--out", tmp_path / "1") == 0
    assert read_json(tmp_path / "1/comparison.json")["pairs"][0]["paired"]
    assert [arm["name"] for arm in read_json(tmp_path / "1/comparison.json")["arms"]] == ["a", "b"]
    new = [lerobot(tmp_path / n / "eval_info.json", o) for n, o in (("c", GOOD), ("d", BAD))]
    assert status(*new, "--out", tmp_path / "2") == 0
    assert not read_json(tmp_path / "2/comparison.json")["pairs"][0]["paired"]
    assert "--paired needs fewer episodes" in capsys.readouterr().out
    assert status(*new, "--paired", "--out", tmp_path / "3") == 0
    assert read_json(tmp_path / "3/comparison.json")["pairs"][0]["paired"]
    short = lerobot(tmp_path / "e/eval_info.json", GOOD[:9])
    assert status(new[0], short, "--paired", "--out", tmp_path / "4") == 2
    assert "--paired: expected arms of the same number of episodes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("arm,start,success\na,0,1\na,0,1\n", "line 3 (arm a): expected one row for each start, got start 0 again"),
        ("arm,start,success\na,0,maybe\n", "line 2: success: expected 0 or 1"),
        ("arm,start,success\na,,1\n", "line 2: expected a start, got none"),
        ("arm,start,success\na,1\n", "line 2: expected 3 values, got 2"),
        ("arm,start\na,1\n", "expected a column success or score"),
        ("arm,success,success\na,1,0\n", "expected different columns, got 'success' twice"),
        ("arm,start,success\n", "expected rows below the header"),
        ("arm,start,score\na,0,inf\n", "line 2: score: expected a finite number"),
        ("arm,start,success\na,0,1\n", "expected two arms or more, got 1"),
        ("arm,start,success\na,0,error\nb,0,1\n", "a: expected episodes with a result, got 1 that ended in errors"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert status(tmp_path / "x.csv", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists(), "nothing is left of a comparison that was refused"


def test_other_json_and_damaged_lines_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_episodes(tmp_path / "a.jsonl", GOOD)
    (tmp_path / "b.json").write_text("{}")
    assert status(good, tmp_path / "b.json") == 2
    assert "expected LeRobot's eval_info.json" in capsys.readouterr().err
    (tmp_path / "b.jsonl").write_text('{"seed": 1}\n')
    assert status(good, tmp_path / "b.jsonl") == 2
    assert (
        "line 1: expected an episode as `raybc rollout` writes it, which lacks the key 'outcome'"
        in capsys.readouterr().err
    )
    assert status(good, good) == 2
    assert "expected different arms" in capsys.readouterr().err
    assert status(good, tmp_path / "nowhere") == 2
    assert "found nothing at" in capsys.readouterr().err


def finished_folder(folder: Path, outcomes: Sequence[bool], first: int = 2_000_000, **metrics: Any) -> Path:
    """What `raybc rollout` leaves, as far as a comparison reads it."""
    write_episodes(folder / "episodes.jsonl", outcomes, first)
    task = metrics.pop("task", "pointmass")
    (folder / "rollout.json").write_text(json.dumps({"run_id": "x", "task": task}))
    (folder / "metrics.json").write_text(json.dumps({"max_steps": 80, "environment": {"physics": "1"}} | metrics))
    return folder


@pytest.mark.parametrize(
    ("other", "named", "allow"),
    [
        ({"max_steps": 100}, "max_steps (a 80, b 100)", "max_steps"),
        ({"environment": {"physics": "2"}}, "physics: physics (a 1, b 2)", "physics"),
        ({"task": "lift"}, "task (a pointmass, b lift)", ""),
        ({"task": "pointmass@image"}, "render (a none, b @image)", "render"),
        ({"first": 1_000_000}, "starts (a final, b search)", "starts"),
    ],
)
def test_what_is_not_comparable_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any], named: str, allow: str
) -> None:
    a, b = finished_folder(tmp_path / "a", GOOD), finished_folder(tmp_path / "b", BAD, **other)
    assert status(a, b, "--out", tmp_path / "out") == 4
    error = capsys.readouterr().err
    assert f"not comparable: these differ: {named}" in error
    assert not (tmp_path / "out").exists()
    if allow:
        assert f"--allow {allow}" in error
        assert status(a, b, "--allow", allow, "--out", tmp_path / "out") == 0
        assert f"compared although these differ: {named}" in capsys.readouterr().out
    else:
        assert "--allow" not in error


# --- arms that are run ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two policies of the point mass: one that solves about half of the starts, one that has not learned anything."""
    store = demonstrations(POINTMASS, 40)
    data = TrainingData(store, store.fingerprint(), POINTMASS.obs_keys, POINTMASS.make(None).identity())
    trainer = tiny_trainer(data=data, training_steps=300, batch_size=128, lr=3e-3, horizon_length=8, hidden_width=64)
    folder = tmp_path_factory.mktemp("policies")
    trainer.bundle(0).save(folder / "new")
    trainer.advance(300)
    trainer.bundle(0).save(folder / "good")
    return folder / "good", folder / "new"


@pytest.fixture(scope="module")
def bundle(policies: tuple[Path, Path]) -> Path:
    return policies[0]


SETTING = ("flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble")


def rows_of(path: Path, without: Sequence[str] = ()) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "video", *without)} for row in rows]


@pytest.fixture(scope="module")
def result(ray_cpus: float, policies: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained policy against an untrained one."""
    out = tmp_path_factory.mktemp("compare") / "out"
    assert status(*policies, "--episodes", 60, "--workers", 2, "--videos", 1, "--out", out) == 0
    return out


def test_a_measurement_stops_when_the_evidence_suffices(result: Path) -> None:
    found = read_json(result / "comparison.json")
    pair = found["pairs"][0]
    assert pair["test"] == "sequential exact test, at most 60 starts"
    assert pair["starts"] < 60
    parts = [rows_of(result / "arms" / arm["name"] / "episodes.jsonl") for arm in found["arms"]]
    assert [[row["index"] for row in part] for part in parts] == [list(range(pair["starts"]))] * 2, "the same starts"
    solved = [[row["outcome"] == "success" for row in part] for part in parts]
    assert pair["table"]["only_a"] == sum(a and not b for a, b in zip(*solved, strict=True))
    assert len(list(result.rglob("*.mp4"))) == 2, "one start on which the arms differ, in both"
    assert {v["arm"] for v in found["videos"]} == {"good", "new"}


def test_the_page_is_one_file_that_loads_nothing(result: Path) -> None:
    page = (result / "compare.html").read_text()
    found = read_json(result / "comparison.json")
    for text in (found["said"][0], found["for_a_paper"][0], "good solved", "new missed", "Starts on which they differ"):
        assert html.escape(text) in page
    assert page.count("<video ") == 2
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "<script" not in page
    assert str(found["pairs"][0]["differing"][0]) in page


def test_pages_of_finished_measurements_and_of_names_that_are_markup(tmp_path: Path) -> None:
    a = write_csv(tmp_path / "a.csv", {"<b>x</b>": [int(o) for o in GOOD], "y&z": [int(o) for o in BAD]})
    assert status(a, "--out", tmp_path / "out") == 0
    page = (tmp_path / "out/compare.html").read_text()
    assert "<b>x" not in page
    assert "y_z" in page
    assert (
        f"{read_json(tmp_path / 'out/comparison.json')['pairs'][0]['table']['only_a']} starts on which they differ"
        in page
    )
    scores = write_csv(tmp_path / "s.csv", {"a": [0.1, 0.2, 0.4], "b": [0.3, 0.1, 0.3], "c": [0.9, 0.8, 0.85]}, "score")
    status(scores, "--out", tmp_path / "scores")
    assert "Holm" in (tmp_path / "scores/compare.html").read_text()


def test_the_result_does_not_depend_on_workers_or_interruptions(
    ray_cpus: float, policies: tuple[Path, Path], result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (*policies, "--episodes", 60, "--workers", 1, "--out", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/compare.json").write_bytes((result / "compare.json").read_bytes())
    lines = [
        json.dumps({"arm": arm, "training": 0, "seconds": 0.0, **row}) + "\n"
        for arm in ("good", "new")
        for row in rows_of(result / "arms" / arm / "episodes.jsonl", without=SETTING)[:3]
    ]
    (tmp_path / "out/episodes.partial.jsonl").write_text("".join(lines) + '{"arm": "bun')
    assert status(*flags) == 2
    assert "continue it with --resume" in capsys.readouterr().err
    assert status(*flags, "--level", 0.01, "--resume") == 2
    assert "level: was 0.05, is 0.01" in capsys.readouterr().err
    assert status(*flags[:3], 90, *flags[4:], "--resume") == 2
    assert "was fixed when the comparison began" in capsys.readouterr().err
    assert status(*flags, "--resume") == 0
    assert "resuming: 6 episodes" in capsys.readouterr().out
    for arm in ("good", "new"):
        ours, theirs = (rows_of(f / "arms" / arm / "episodes.jsonl") for f in (tmp_path / "out", result))
        assert ours == theirs


@pytest.mark.slow
def test_equal_policies_are_not_told_apart_and_an_open_comparison_is_extended(
    ray_cpus: float, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chunks have 8 steps, so that both do the same."""
    flags = (f"a={bundle}", f"b={bundle}:execute_steps=8", "--rule", "open", "--workers", 1, "--out", tmp_path / "out")
    assert status(*flags, "--episodes", 10) == 3
    first = rows_of(tmp_path / "out/arms/a/episodes.jsonl")
    assert status(*flags, "--episodes", 14, "--resume") == 3
    assert "resuming: 20 episodes" in capsys.readouterr().out
    assert rows_of(tmp_path / "out/arms/a/episodes.jsonl")[:10] == first
    found = read_json(tmp_path / "out/comparison.json")
    assert found["pairs"][0]["starts"] == 14
    assert found["pairs"][0]["difference"] == 0
    assert found["pairs"][0]["interval"][0] < 0 < found["pairs"][0]["interval"][1]


@pytest.mark.slow
def test_ctrl_c_and_kill_lose_no_finished_episode(policies: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arms = (f"a={policies[0]}", f"b={policies[0]}:execute_steps=8")
    flags = (*arms, "--episodes", "2000", "--workers", "1", "--out", str(out))
    command = [sys.executable, "-m", "raybc", "compare", *flags]

    def stopped_by(kind: signal.Signals, *more: str) -> tuple[int, str]:
        process = subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        before = len(lines())
        deadline = time.monotonic() + 120
        while len(lines()) < before + 40 and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(kind)
        said = process.communicate(timeout=60)[0]
        return process.returncode, said

    def lines() -> list[str]:
        path = out / "episodes.partial.jsonl"
        return path.read_text().splitlines() if path.is_file() else []

    code, said = stopped_by(signal.SIGINT)
    assert code == 130
    assert f"continue with --resume --out {out}" in said
    measured = len(lines())
    assert 40 <= measured < 4000
    assert stopped_by(signal.SIGKILL, "--resume")[0] == -signal.SIGKILL
    assert len(lines()) >= measured + 40
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 3, "both arms do the same"
    assert int(re.findall(r"resuming: (\d+) episodes", done.stdout)[0]) >= measured + 40
    for arm in "ab":
        assert [row["index"] for row in rows_of(out / f"arms/{arm}/episodes.jsonl")] == list(range(2000))


def test_a_finished_comparison_is_not_run_again(
    policies: tuple[Path, Path], result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Neither its episodes nor its videos: it needs no Ray."""
    shutil.copytree(result, tmp_path / "out")
    before = read_json(result / "comparison.json")
    rows = [(result / f"arms/{arm}/episodes.jsonl").read_text() for arm in ("good", "new")]
    monkeypatch.setattr("raybc.cluster.session.ray_session", lambda *_, **__: pytest.fail("Ray was asked for"))
    flags = [*policies, "--episodes", 60, "--workers", 1, "--videos", 1, "--out", tmp_path / "out", "--resume"]
    assert status(*flags) == 0
    assert f"resuming: {2 * before['pairs'][0]['starts']} episodes" in capsys.readouterr().out
    assert read_json(tmp_path / "out/comparison.json") == before
    assert [(tmp_path / f"out/arms/{arm}/episodes.jsonl").read_text() for arm in ("good", "new")] == rows


@pytest.mark.parametrize("case", ["gone", "elsewhere"])
def test_a_video_that_is_not_in_its_folder_is_made_again(
    ray_cpus: float, policies: tuple[Path, Path], result: Path, tmp_path: Path, case: str
) -> None:
    shutil.copytree(result, tmp_path / "out")
    kept, gone = sorted((tmp_path / "out/arms").glob("*/videos/*.mp4"))
    size, when = gone.stat().st_size, kept.stat().st_mtime_ns
    gone.unlink()
    table = gone.parents[1] / "episodes.jsonl"
    if case == "elsewhere":
        table.write_text(table.read_text().replace(f'"{gone.name}"', '"../../../comparison.json"'))
    flags = [*policies, "--episodes", 60, "--workers", 1, "--videos", 1, "--out", tmp_path / "out", "--resume"]
    assert status(*flags) == 0
    assert gone.stat().st_size == size
    assert kept.stat().st_mtime_ns == when
    assert f'"{gone.name}"' in table.read_text()


def test_a_finished_baseline_is_measured_once(ray_cpus: float, policies: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, base = policies[0], tmp_path / "base"
    flags = [str(policies[1]), "--episodes", "30", "--workers=1", f"--out={base}"]
    assert run_main(lambda: rollout(flags)) == 0
    assert status(bundle, base, "--workers", 1, "--out", tmp_path / "out") == 0
    found = read_json(tmp_path / "out/comparison.json")
    assert "base was measured on 30 of these 200 starts only" in found["notes"]
    assert not (tmp_path / "out/arms/base").exists()
    assert status(bundle, base, "--max_steps", 7, "--out", tmp_path / "x") == 4
    assert status(bundle, base, "--first", 50, "--out", tmp_path / "x") == 4


def test_trainings_of_a_trial_are_measured_together(
    ray_cpus: float, policies: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The arm's score on a start is the mean of its trainings; the result says what another training would give."""
    trials = [tmp_path / "sweep/trials/0007", tmp_path / "sweep/trials/0008"]
    for trial, policy in zip(trials, policies, strict=True):
        for seed in (0, 1):
            shutil.copytree(policy, trial / f"seed_{seed}/checkpoint_300")
    flags = (f"0007={trials[0]}", f"0008={trials[1]}", "--episodes", 40, "--workers", 1)
    assert status(*flags, "--out", tmp_path / "out") == 0
    pair = read_json(tmp_path / "out/comparison.json")["pairs"][0]
    assert pair["test"] == "anytime-valid test by betting"
    assert pair["trainings_interval"] is not None
    assert "with other trainings, on other starts" in capsys.readouterr().out
    assert [arm["trainings"] for arm in read_json(tmp_path / "out/comparison.json")["arms"]] == [2, 2]
    (tmp_path / "sweep/ledger.jsonl").write_text("")
    assert status(*flags, "--starts", "search", "--out", tmp_path / "x") == 4
    error = capsys.readouterr().err
    assert "leak (0007 on search starts: the sweep chose and pruned by them; use --starts final)" in error.replace(
        "trials_", ""
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--level", "0"], "--level: expected a number between 0 and 1"),
        (["--episodes", "1"], "--episodes: expected 2.."),
        (["--allow", "task"], "--allow: expected some of"),
        (["--bounds", "1", "0"], "--bounds: expected the lowest and the highest"),
        (["--metric", "valid_error"], "--metric: expected"),
        (["--workers", "no"], "--workers: expected auto"),
        (["--max_steps", "-1"], "--max_steps: expected at least 1"),
    ],
)
def test_impossible_flags(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], expected: str
) -> None:
    assert status(bundle, f"{bundle}:flow_steps=1", *flags, "--out", tmp_path / "out") == 2
    assert expected in capsys.readouterr().err


def test_impossible_arms(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(bundle) == 2
    assert "expected two arms or more, got 1" in capsys.readouterr().err
    assert status(bundle, f"other={bundle}") == 2
    assert "expected different arms, got the same policy" in capsys.readouterr().err
    assert status(bundle, f"{bundle}:flow_stepz=1") == 2
    assert "did you mean" in capsys.readouterr().err
    assert status(bundle, f"{bundle}:flow_steps=x") == 2
    assert "flow_steps: expected int, got 'x'" in capsys.readouterr().err
    assert status(bundle, f"{bundle}@best") == 2
    assert "is one bundle" in capsys.readouterr().err


def test_plans(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--plan", 0.6, 0.9) == 0
    said = capsys.readouterr().out
    assert "if the arms differ on 42 % of the starts" in said
    assert "80 %" in said
    assert status("--plan", 0.6, 0.6) == 2
    assert status("--plan", 0.1, 0.9, "--correlation", 0.9) == 2
    assert "correlation" in capsys.readouterr().err
