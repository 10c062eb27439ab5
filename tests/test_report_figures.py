"""What the report computes for its figures, and numbers as text."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest

import raybc.dashboard
from benchmarks.run_folder import BEGAN, make_run
from raybc.report import figures, page, tables
from raybc.report.read import load_run
from raybc.report.text import duration, show
from raybc.report.timeline import BREAK, timeline
from raybc.run_folder import SweepFolder
from raybc.types import SampleSetting

STATIC = Path(raybc.dashboard.__file__).parent / "static"
SHOWN: list[tuple[Any, str]] = [
    (None, "-"), (True, "true"), ("adamw", "adamw"), ([256, 256], "[256, 256]"), (3, "3"), (0.0003, "0.0003"),
    (8.3e-05, "8.3e-05"), (8.3127641e-05, "8.31e-05"), (0.0018498229566654679, "0.00185"), (0.9995, "0.9995"),
    (0.99953712, "0.999537"), (0.5, "0.5"), (0.0, "0"), (1e-4, "0.0001"), (12345.678901, "12346"), (123.456789, "123"),
    (1.2345678e7, "12345678"), (1.23456789e6 + 0.5, "1.23e+06"), (0.1 + 0.2, "0.3"),
    (-0.037123456, "-0.0371"), (1e-10, "1e-10"),
]  # fmt: skip
TIMES = [(None, "-"), (0.04, "0.0 s"), (8.21, "8.2 s"), (9.96, "10 s"), (31.0, "31 s"), (59.6, "1 min 00 s")]
TIMES += [(412.0, "6 min 52 s"), (7260, "2 h 01 min"), (4e6, "1,111 h 06 min")]


@pytest.mark.parametrize(("value", "text"), SHOWN)
def test_swept_values_as_people_write_them(value: Any, text: str) -> None:
    assert show(value) == text


@pytest.mark.skipif(which("node") is None, reason="no node on this machine")
def test_pages_write_numbers_as_the_markdown_does() -> None:
    rng = random.Random(0)
    values = [value for value, _ in SHOWN] + [10 ** rng.uniform(-8, 8) for _ in range(500)]
    values += [1 - 10 ** rng.uniform(-6, -1) for _ in range(100)]
    times = [value for value, _ in TIMES] + [10 ** rng.uniform(-2, 6) for _ in range(200)]
    code = f"import {{ show, duration }} from {json.dumps((STATIC / 'numbers.js').as_uri())};"
    code += f"console.log(JSON.stringify([{json.dumps(values)}.map(show), {json.dumps(times)}.map(duration)]));"
    command = ["node", "--input-type=module", "--eval", code]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found[0] == [show(value) for value in values]
    assert found[1] == [duration(value) for value in times]


@pytest.mark.parametrize(("seconds", "text"), TIMES)
def test_durations_are_readable(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_data_in_a_page_cannot_end_its_script() -> None:
    hostile = {"</script><script>": "<!-- & -->"}
    text = page.safe_json(hostile)
    assert not set("<>&") & set(text)
    assert json.loads(text) == hostile


def test_modules_of_a_page_are_one_script() -> None:
    text = page.script("axes.js", "figures.js", "pairs.js", "time.js", "report.js")
    lines = text.splitlines()
    assert not [line for line in lines if line.startswith(("import ", "export "))]
    heads = [
        line.split("(")[0].split("=")[0].split() for line in lines if line.startswith(("const ", "let ", "function "))
    ]
    names = [words[1] for words in heads if words[1] not in ("{", "[")]
    assert len(names) == len(set(names)), "two modules have the same name at the top"


def test_a_made_up_sweep_in_figures(tmp_path: Path) -> None:
    settings = [SampleSetting(flow_steps, execute_steps=n) for flow_steps in (1, 4) for n in (2, 4)]
    run = load_run(make_run(tmp_path / "run", 24, 4000, settings, more=1))
    data = figures.figure_data(run, tables.leaderboard(run))
    trials = {trial["n"]: trial for trial in data["trials"]}
    assert len(trials[8]["by_setting"]) == 4
    assert {entry[3]["execute_steps"] for entry in trials[8]["by_setting"]} == {2, 4}
    assert data["best"][-1][2] == max(t["score"] for t in trials.values() if t["status"] == "completed")
    assert sum(data["importance"]["axes"].values()) == pytest.approx(1)
    assert data["pair"] == list(data["importance"]["axes"])[:2]
    assert all(math.isfinite(loss) for points in data["losses"].values() for _, loss in points)
    course = data["timeline"]
    assert set(course["trials"]) == set(trials)
    assert course["trials"][0]["spans"][:2] == [["training", 0.0, 3.0], ["rollouts", 3.0, 5.0]]
    for slot in range(course["slots"]):  # trials of a slot follow each other
        spans = sorted((t["spans"][0][1], t["spans"][-1][2]) for t in course["trials"].values() if t["slot"] == slot)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_break_between_two_runs_is_left_out(tmp_path: Path) -> None:
    folder = SweepFolder(make_run(tmp_path / "run", 8, 400))
    lines = folder.ledger.read_text().splitlines()
    moved = 10 * BREAK
    late = [i for i, line in enumerate(lines) if '"event":"evaluation"' in line][-1]
    event = json.loads(lines[late])
    event["timing"] |= {key: [time + moved for time in event["timing"][key]] for key in ("train", "rollout")}
    kept = [line for line in lines if '"event":"stage"' not in line]
    kept[kept.index(lines[late])] = json.dumps(event)
    folder.ledger.write_text("\n".join(kept) + "\n")
    folder.timeline.unlink()
    run = load_run(folder.path)
    found = timeline(run.folder, run.state)
    ends = [span[2] for trial in found["trials"].values() for span in trial["spans"]]
    assert moved - 60 < found["breaks"] <= moved
    assert max(ends) == pytest.approx(found["seconds"])
    assert found["seconds"] < BREAK
    assert run.state.trials[0].evaluations[0].timing["train"][0] == BEGAN


def test_a_run_without_ledger_has_no_course(tmp_path: Path) -> None:
    folder = SweepFolder(make_run(tmp_path / "run", 8, 400))
    for damage in (lambda: folder.ledger.write_text("{torn\n{}\n"), folder.ledger.unlink):
        damage()
        run = load_run(folder.path)
        data = figures.figure_data(run, tables.leaderboard(run))
        assert (data["best"], data["timeline"]["trials"], data["importance"]) == ([], {}, {})
        assert data["pair"] == ["lr", "horizon_length"]
