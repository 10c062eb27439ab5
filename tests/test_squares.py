"""Episodes on pages: which start each finalist solves, films of single starts, last states and clusters of failures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.run_folder import make_run
from raybc.registry import get_task
from raybc.report.commands import film_command
from raybc.report.films import films_of, later_films
from raybc.report.html import write_report
from raybc.report.read import load_run
from raybc.report.squares import DIMENSIONS, add_films, clusters_of, final_rows, group_of, shown_ends
from raybc.rollout.results import end_states, summarise
from raybc.rollout.video import encode
from raybc.rows import EpisodeRow, EvaluationRow
from raybc.run_folder import SweepFolder
from raybc.types import SampleSetting


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("squares") / "run", 20, 2000)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def shown_data(run: Path) -> dict[str, Any]:
    """The data of the report's squares."""
    text = write_report(run).read_text(encoding="utf-8")
    start = text.index('id="episodes-data">') + len('id="episodes-data">')
    found: dict[str, Any] = json.loads(text[start : text.index("</script>", start)])
    return found


def film(run: Path, trial: int, index: int, outcome: str = "success", steps: int = 3, name: str = "") -> Path:
    """A measurement of one start, as the command on a page leaves it."""
    out = SweepFolder(run).filmed(trial, 0, 2000, "final", SampleSetting(1))
    out = out.with_name(f"{out.name}_{index}{name}")
    (out / "videos/flow_1").mkdir(parents=True)
    encode(out / "videos/flow_1/a.mp4", 10, [np.zeros((16, 16, 3), np.uint8)] * 3)
    row = {"flow_steps": 1, "execute_steps": 0, "eval_temperature": 0.0, "temporal_ensemble": -1.0, "solver": "euler"}
    row |= {"index": index, "outcome": outcome, "steps": steps, "video": "a.mp4"}
    (out / "episodes.jsonl").write_text(json.dumps(row) + "\n")
    (out / "rollout.json").write_text(json.dumps({"task": "pointmass"}))
    return out


# --- last states -----------------------------------------------------------------------------------------------------


def episode(index: int, outcome: str, obs: Mapping[str, list[float]] | None) -> EpisodeRow:
    row: Any = {"index": index, "outcome": outcome, "steps": 9, "return": 0.0, "max_reward": 0.0, "seconds": 0.1}
    row |= {"retries": 0, "message": ""}
    return row | ({"final_obs": obs} if obs is not None else {})


def test_last_states_are_kept_beside_the_entries_and_gaps_are_none() -> None:
    rows = [
        episode(0, "success", {"state": [1.0, 2.0], "z": [3.0]}),
        episode(1, "error", None),
        episode(2, "timeout", {"state": [1.0, float("nan")], "z": [3.0]}),
        episode(3, "timeout", {"state": [1.0], "z": [3.0, 4.0]}),
    ]
    assert end_states(rows) == {"names": ["state[0]", "state[1]", "z"], "values": [[1.0, 2.0, 3.0], None, None, None]}
    assert end_states([episode(0, "success", None)]) is None
    from raybc.metric import SUCCESS

    assert "end_states" not in summarise([episode(0, "success", None)], SUCCESS)
    assert summarise(rows, SUCCESS)["end_states"]["names"] == ["state[0]", "state[1]", "z"]


def test_axes_are_those_of_the_task_then_a_position_then_what_differs() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 4)).round(6).tolist()
    solved = [i % 2 == 0 for i in range(40)]
    for row, good in zip(values, solved, strict=True):
        row[3] += 9 * good
        row[2] += 4 * good
    plane: Any = {"names": ["s[0]", "s[1]", "s[2]", "s[3]"], "values": values, "plane": ["s[0]", "s[1]"]}
    assert shown_ends(plane, solved)["axes"] == ["s[0]", "s[1]"]
    hand: Any = {"names": ["s[0]", "robot0_eef_pos[0]", "robot0_eef_pos[1]", "s[3]"], "values": values}
    assert shown_ends(hand, solved)["axes"] == ["robot0_eef_pos[0]", "robot0_eef_pos[1]"]
    other: Any = {"names": ["s[0]", "s[1]", "s[2]", "s[3]"], "values": [*values, None]}
    found = shown_ends(other, [*solved, False])
    assert found["axes"] == ["s[3]", "s[2]"]
    assert found["values"][-1] is None
    one: Any = {"names": ["x"], "values": [[1.0], [2.0]]}
    assert shown_ends(one, [True, False])["axes"] == ["x", "x"]


def test_a_page_offers_few_dimensions_and_those_that_differ() -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(30, 200))
    solved = [i < 15 for i in range(30)]
    wide[:15, 150] += 10
    ends: Any = {"names": [f"o[{i}]" for i in range(200)], "values": wide.tolist()}
    found = shown_ends(ends, solved)
    assert len(found["names"]) == DIMENSIONS == len(found["values"][0])
    assert found["axes"][0] == "o[150]"


def test_tasks_in_a_plane_name_numbers_that_they_observe() -> None:
    from raybc.envs.pointmass import PointMassEnv

    space = PointMassEnv().observation_space
    names = [f"{key}[{i}]" for key, box in space.spaces.items() for i in range(box.shape[0])]  # type: ignore[union-attr]
    plane = get_task("pointmass").plane
    assert set(plane) <= set(names)
    assert len(plane) == 2


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_has_each_final_episode_of_each_finalist(run: Path) -> None:
    found = shown_data(run)
    finals = final_rows(SweepFolder(run).ledger)
    winner = json.loads((run / "winner.json").read_text())
    assert {g["trial"] for g in found["groups"]} == set(finals)
    assert found["groups"][0]["trial"] == winner["trial"]
    for group in found["groups"]:
        row = next(
            r for r in finals[group["trial"]]
            if (r["seed"], SampleSetting(r["flow_steps"]).label()) == (group["seed"], group["setting"])
        )  # fmt: skip
        assert group["episodes"] == row["episode_list"]
        assert group["base"] + 3 == 2_000_003
        assert group["ends"]["names"][:2] == ["state[0]", "state[1]"]
        assert group["command"] == "", "made-up policies are not on disk"
    sizes = [one["size"] for one in found["clusters"]]
    unsolved = [e for g in found["groups"] if g["trial"] == winner["trial"] for e in g["episodes"]]
    assert sum(sizes) == sum(e[1] in ("failure", "timeout") for e in unsolved)
    assert len(sizes) == 2, "failures end at the obstacle, timeouts before it"
    for one in found["clusters"]:
        assert found["groups"][one["group"]]["episodes"][one["place"]][1] in one["outcomes"]


def test_a_sweep_without_last_states_or_ledger_is_shown(run: Path) -> None:
    ledger = SweepFolder(run).ledger
    lines = []
    for line in ledger.read_text().splitlines():
        event = json.loads(line)
        for row in event.get("rows", []):
            row.pop("end_states", None)  # as releases up to 0.1.0 wrote it
        lines.append(json.dumps(event, separators=(",", ":")))
    ledger.write_text("\n".join(lines) + '\n{"event":"final","trial":0,"ro')  # and torn
    found = shown_data(run)
    assert found["clusters"] == []
    assert all(group["ends"] is None for group in found["groups"])
    assert "kept no last states" in (run / "report.html").read_text(encoding="utf-8")
    ledger.unlink()
    assert 'id="episodes-data"' not in write_report(run).read_text(encoding="utf-8")


def test_failures_are_counted_in_the_leaderboard_and_lead_to_their_episodes(run: Path) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    trial = json.loads((run / "winner.json").read_text())["trial"]
    groups = [g for g in shown_data(run)["groups"] if g["trial"] == trial]
    for outcome in ("failure", "timeout"):
        count = sum(e[1] == outcome for g in groups for e in g["episodes"])
        assert f'<a href="#episodes-{trial}-{outcome}">{count} {outcome}s</a>' in text


# --- films of single starts ------------------------------------------------------------------------------------------


def test_films_that_were_made_later_are_found_and_matched(run: Path) -> None:
    trial = json.loads((run / "winner.json").read_text())["trial"]
    film(run, trial, 5, steps=77)
    film(run, trial, 6, name="_task_1")
    broken = film(run, trial, 7)
    (broken / "episodes.jsonl").write_text("{torn")
    (film(run, trial, 8) / "videos/flow_1/a.mp4").unlink()
    (run / "filmed/notes").mkdir()
    folder = SweepFolder(run)
    videos = later_films(folder)
    assert [(v["index"], v["steps"], v.get("task")) for v in videos] == [(5, 77, None), (6, 3, "pointmass")]
    own: Any = [{**videos[0], "file": "videos/own.mp4"}, {"file": "videos/old.mp4"}]
    assert [v["file"] for v in films_of(folder, own)][:2] == ["videos/own.mp4", "videos/old.mp4"], "its own comes first"
    assert len(films_of(folder, own)) == 3
    rows = [r for r in final_rows(folder.ledger)[trial] if r["flow_steps"] == 1]
    loaded = load_run(run)
    groups = [
        group_of(r, name="x", config=loaded.sweep, folder=folder, params={}, limit=150) for r in rows
    ]  # fmt: skip
    [found] = add_films(groups, videos)
    assert (groups[found["group"]]["seed"], found["place"], found["steps"], found["number"]) == (0, 5, 77, 0)
    clusters = clusters_of(groups, rows, [found])
    assert clusters, "there are failures"
    other: Any = {**videos[0], "step": 1000}
    assert add_films(groups, [other]) == [], "a film of another checkpoint"


def test_the_command_films_one_start_where_pages_find_it(run: Path) -> None:
    folder, loaded = SweepFolder(run), load_run(run)
    row: EvaluationRow = final_rows(folder.ledger)[loaded.winner["trial"]][0]  # type: ignore[index]
    assert loaded.sweep is not None
    assert film_command(loaded.sweep, folder, row, {}, "3", "", "") == [], "its policy was not kept"
    folder.checkpoint(row["trial"], row["seed"], row["step"]).mkdir(parents=True)
    command = film_command(loaded.sweep, folder, row, {}, "3", "", "")
    assert command[:3] == ["python", "-m", "raybc.rollout"]
    out = folder.filmed(row["trial"], row["seed"], row["step"], "final", SampleSetting(row["flow_steps"]))
    for flag in ("--starts=final", "--first=3", "--episodes=1", "--videos=1", f"--out={out}_3"):
        assert flag in command, flag
    several = film_command(loaded.sweep, folder, row, {}, "3", "door-open", "1")
    assert several[several.index("--tasks") + 1] == "door-open"
    assert f"--out={out}_3_task_1" in several
