"""Where in the state space unsolved episodes end: the method, and what the page of a comparison says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from raybc.compare.clusters import failure_clusters, silhouette
from raybc.envs.pointmass import POINTMASS
from raybc.files import read_json
from raybc.inference.agent import Agent
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.episode import final_observation
from raybc.types import EpisodeSpec, SampleSetting
from tests.helpers import pointmass_bundle
from tests.test_compare import rows_of, status, write_episodes

#: Places where episodes end: at the goal, beside the table, above the goal.
GOAL, FLOOR, ABOVE = (0.0, 0.0, 0.0), (1.0, 0.0, -0.8), (0.0, 0.0, 0.5)


def row(
    place: tuple[float, ...], outcome: str, rng: np.random.Generator, steps: int = 50, **more: Any
) -> dict[str, Any]:
    noisy = np.asarray(place) + rng.normal(0, 0.02, 3)
    final = {"object": noisy.tolist(), "gripper": [float(rng.normal(0, 0.02))]}
    return {"outcome": outcome, "steps": steps, "final_obs": final, **more}


def planted(task: str = "") -> dict[str, dict[str, dict[str, Any]]]:
    """Arm a drops the object, arm b stays above it; both solve some."""
    rng, about = np.random.default_rng(0), {"task": task} if task else {}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for arm, place, steps, outcome in (("a", FLOOR, 30, "failure"), ("b", ABOVE, 80, "timeout")):
        rows = [row(place, outcome, rng, steps, **about) for _ in range(12)]
        rows += [row(GOAL, "success", rng, **about) for _ in range(20)]
        found[arm] = {f"{task} {i}".strip(): r for i, r in enumerate(rows)}
    return found


def test_planted_clusters_are_found() -> None:
    first, second = failure_clusters(planted())
    assert first.counts == {"a": 12}
    assert (first.median_steps, first.outcomes) == (30, {"failure": 12})
    assert {d.name for d in first.differs} == {"object[0]", "object[2]"}, "not in the gripper, nor in object[1]"
    deepest = next(d for d in first.differs if d.name == "object[2]")
    assert (deepest.here, deepest.solved) == pytest.approx((-0.8, 0.0), abs=0.03)
    assert second.counts == {"b": 12}
    assert second.differs[0].name == "object[2]"
    assert second.differs[0].deviations > 0


def test_the_order_of_rows_and_units_change_no_cluster() -> None:
    """Units are divided out, and clusters do not depend on the order of the starts."""
    rows = planted()
    backwards = {arm: dict(reversed(list(part.items()))) for arm, part in rows.items()}
    millimetres = json.loads(json.dumps(rows))
    for part in millimetres.values():
        for one in part.values():
            one["final_obs"]["object"] = [1000 * x for x in one["final_obs"]["object"]]
    expected = sorted(str(c.counts) for c in failure_clusters(rows))
    for other in (backwards, millimetres):
        assert sorted(str(c.counts) for c in failure_clusters(other)) == expected
    assert failure_clusters(rows) == failure_clusters(rows)


def test_what_has_no_structure_is_one_cluster() -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        rows = {"a": {str(i): row(ABOVE, "timeout", rng) for i in range(60)}}
        (one,) = failure_clusters(rows)
        assert one.size == 60
    assert one.differs == [], "nothing was solved"
    same = {"a": {str(i): {"outcome": "timeout", "final_obs": {"x": [1.0]}} for i in range(9)}}
    assert failure_clusters(same)[0].size == 9
    assert failure_clusters({"a": {"0": row(GOAL, "success", rng)}}) == []


def test_tasks_are_grouped_apart_and_filmed_episodes_are_the_examples() -> None:
    reach, push = planted("reach"), planted("push")
    rows = {arm: reach[arm] | push[arm] for arm in reach}
    found = failure_clusters(rows, [("a", "push 7")])
    assert sorted((c.task, *c.counts) for c in found) == [("push", "a"), ("push", "b"), ("reach", "a"), ("reach", "b")]
    assert next(c for c in found if c.task == "push" and "a" in c.counts).example == ("a", "push 7")


def test_rows_without_observations_or_with_damaged_ones_are_left_out() -> None:
    rng = np.random.default_rng(2)
    damaged = [None, {}, [], {"x": "text"}, {"x": [float("nan")]}, {"x": [[1.0]]}, {"x": None}]
    rows: dict[str, dict[str, dict[str, Any]]] = {
        "a": {str(i): {"outcome": "timeout", "final_obs": value} for i, value in enumerate(damaged)}
    }
    rows["a"]["old"] = {"outcome": "timeout"}
    rows["a"]["error"] = row(FLOOR, "error", rng)
    assert failure_clusters(rows) == []
    rows["a"]["good"] = row(FLOOR, "timeout", rng)
    assert failure_clusters(rows)[0].size == 1


def test_silhouette_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(3)
    points, labels = rng.normal(size=(9, 2)), np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    distances = cdist(points, points)
    values = []
    for i in range(9):
        inside = [distances[i, j] for j in range(9) if labels[j] == labels[i] and j != i]
        a = sum(inside) / len(inside)
        b = min(float(np.mean(distances[i, labels == k])) for k in set(labels) - {labels[i]})
        values.append((b - a) / max(a, b))
    assert silhouette(distances, labels) == pytest.approx(np.mean(values))
    metrics = pytest.importorskip("sklearn.metrics")
    assert silhouette(distances, labels) == pytest.approx(metrics.silhouette_score(points, labels))


def test_rows_have_the_last_observation_where_it_is_asked_for() -> None:
    agent = Agent(pointmass_bundle())
    rows: dict[bool, Any] = {}
    for asked in (False, True):
        engine = Engine(lambda _: agent)
        engine.add(0, Rollout("x", SampleSetting(), final_obs=asked), EpisodeSpec("pointmass", "final", 0))
        while not engine.idle:
            for _, ended in engine.round():
                rows[asked] = ended
    assert set(rows[True]) - set(rows[False]) == {"final_obs"}
    env = POINTMASS.make(None)
    last = rows[True]["final_obs"]
    assert {key: (len(values),) for key, values in last.items()} == {
        k: s.shape for k, s in env.observation_space.items()
    }
    assert final_observation({"x": np.zeros(300)}) == {}
    assert final_observation({"x": np.zeros(2), "image": np.zeros((4, 4, 3), np.uint8)}) == {"x": [0.0, 0.0]}


def test_the_page_and_the_result_have_the_clusters(tmp_path: Path) -> None:
    for arm, part in planted().items():
        path = write_episodes(tmp_path / arm / "episodes.jsonl", [r["outcome"] == "success" for r in part.values()])
        lines = [json.dumps(old | new) for old, new in zip(rows_of(path), part.values(), strict=True)]
        path.write_text("\n".join(lines) + "\n")
    argv = [tmp_path / arm / "episodes.jsonl" for arm in "ab"]
    assert status(*argv, "--out", tmp_path / "out") == 3
    found = read_json(tmp_path / "out/comparison.json")["clusters"]
    assert [one["counts"] for one in found] == [{"a": 12}, {"b": 12}]
    page = (tmp_path / "out/compare.html").read_text()
    assert "Where unsolved episodes end" in page
    assert re.search(r"<code>object\[2\]</code> -0\.\d+, solved", page)
