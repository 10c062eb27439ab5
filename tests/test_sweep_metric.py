"""Sweeps on tasks without success: what is compared, from the ledger to the pages."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from raybc.config import RunConfig
from raybc.dashboard.detail import detail
from raybc.dashboard.view import RunView
from raybc.export.card import evidence_for
from raybc.files import write_json
from raybc.metric import METRICS, Metric
from raybc.metric_choice import resolve
from raybc.registry import get_task, parse_env_name
from raybc.report.html import write_report
from raybc.report.markdown import write_leaderboard_md
from raybc.report.read import load_run
from raybc.report.tables import leaderboard, winner_line
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.results import summarise
from raybc.rows import EpisodeRow, episode_row, setting_fields
from raybc.run_folder import SweepFolder
from raybc.sweep.config import PruneConfig, SweepConfig
from raybc.sweep.final import choose_clips, rule_of, write_winner
from raybc.sweep.ledger import SweepState
from raybc.sweep.load import saved_sweep, sweep_from_mapping
from raybc.sweep.space import check_corners, metric_of, race_comparisons
from raybc.sweep.study import Proposer
from raybc.sweep.trial import rivals_of
from raybc.sweep.tune import Pruner
from raybc.sweep.views import write_tables, write_timing
from raybc.types import EpisodeResult, SampleSetting, UserError
from tests.helpers import pointmass_bundle

SETTING = SampleSetting(10)
#: Returns of the trials' final episodes; the last one is the best, and is not the first.
RETURNS = (-40.0, -35.0, -31.0)


def config(**changes: Any) -> SweepConfig:
    plain = {
        "name": "cheetah", "train": {"env_name": "halfcheetah-medium-v2", "training_steps": 100, "device": "cpu"},
        "space": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}, "seeds": [0], "eval": {"evaluations": 1},
    }  # fmt: skip
    return sweep_from_mapping(plain | changes, "test.yaml")


def episodes(mean: float, count: int = 6) -> list[EpisodeRow]:
    return [
        episode_row(EpisodeResult(i, i, "timeout", mean + i % 3 - 1, 100, 0.1, max_reward=mean / 10))
        for i in range(count)
    ]


def row(trial: int, mean: float, metric: Metric, phase: str = "search") -> dict[str, Any]:
    where = {"run_id": f"{trial:016d}", "trial": trial, "seed": 0, "phase": phase, "evaluation": 1, "step": 100}
    return where | setting_fields(SETTING) | summarise(episodes(mean), metric)


def swept(metric: Metric) -> SweepState:
    state = SweepState(metric=metric)
    for number, mean in enumerate(RETURNS):
        found = row(number, mean, metric)
        state.apply({"event": "start", "trial": number, "params": {"lr": 1e-3 * (1 + number)}, "origin": "point"})
        state.apply(
            {"event": "evaluation", "trial": number, "status": "completed", "evaluation": 1, "step": 100,
             "score": found["score"], "rows": [found],
             "timing": {"train": [0.0, 1.0], "rollout": [1.0, 2.0], "train_seconds": 1.0}}  # type: ignore[typeddict-item]
        )  # fmt: skip
        final = row(number, mean - 1, metric, "final")
        state.apply({"event": "final", "trial": number, "rows": [final]})  # type: ignore[typeddict-item,list-item]
    return state


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """The folder of a finished sweep over returns."""
    metric = METRICS["return"]
    state, place = swept(dataclasses.replace(metric, has_success=False)), SweepFolder(tmp_path / "run")
    plain = config(metric="return")
    bundle = dataclasses.replace(pointmass_bundle(), step=100)
    bundle.save(place.checkpoint(2, 0, 100))
    write_json(place.config, plain.to_dict())
    write_json(place.versions, {})
    write_tables(place, plain, state)
    write_timing(place, state, {})
    write_winner(place, state)
    events = [
        *({"event": "start", "trial": t.number, "params": t.params, "origin": t.origin} for t in state.trials.values()),
        *(
            {"event": "evaluation", "trial": t.number, "status": "completed", **dataclasses.asdict(t.evaluations[0])}
            for t in state.trials.values()
        ),
        *({"event": "final", "trial": t.number, "rows": t.final_rows} for t in state.trials.values()),
    ]
    place.ledger.write_text("".join(json.dumps(event) + "\n" for event in events))
    return place


def test_the_task_decides() -> None:
    assert metric_of(config()).name == "normalized_score"
    assert metric_of(config(metric="return")).name == "return"
    with pytest.raises(UserError, match=r"metric: expected one of return, .*halfcheetah.* tells no success, got 'su"):
        metric_of(config(metric="success"))
    with pytest.raises(UserError, match=r"metric: expected one of .*, got 'reward'"):
        config(metric="reward")
    with pytest.raises(UserError, match="metric: expected a measure of rollouts"):
        metric_of(config(metric="valid_error"))
    with pytest.raises(UserError, match=r"train.metric: expected `metric: return` at the top level"):
        config(train={"env_name": "halfcheetah-medium-v2", "metric": "return"})
    assert check_corners(config()) == 2


def test_a_saved_sweep_without_a_metric_compared_success() -> None:
    plain = config().to_dict()
    del plain["metric"]
    assert saved_sweep(plain, "config.json").metric == "success"
    assert saved_sweep(plain | {"metric": "return"}, "config.json").metric == "return"
    assert saved_sweep(plain | {"objective": "return"}, "config.json").metric == "return"


def test_the_former_name_of_the_metric_is_read_and_two_names_are_refused() -> None:
    plain = config().to_dict()
    del plain["metric"]
    assert sweep_from_mapping(plain | {"objective": "return"}, "my.yaml").metric == "return"
    assert sweep_from_mapping(dict(plain), "my.yaml", ["objective=return"]).metric == "return"
    assert sweep_from_mapping(plain | {"objective": "success"}, "my.yaml", ["metric=return"]).metric == "return"
    with pytest.raises(UserError, match=r"^my\.yaml: metric: stands twice: objective is an earlier name of it"):
        sweep_from_mapping(plain | {"objective": "return", "metric": "return"}, "my.yaml")
    with pytest.raises(UserError, match=r"^my\.yaml: metric: expected one of success, .*, got 'flow'"):
        sweep_from_mapping(plain | {"objective": "flow"}, "my.yaml")
    with pytest.raises(UserError, match=r"train\.metric: stands twice: objective is an earlier name of it"):
        RunConfig.from_plain({"objective": "return", "metric": "return"}, "train")


def test_the_best_recipe_wins() -> None:
    assert [t.number for t in swept(METRICS["return"]).ranking()] == [2, 1, 0]
    worst = dataclasses.replace(METRICS["return"], direction="minimize")
    assert [t.number for t in swept(worst).ranking()] == [0, 1, 2]
    assert rule_of(dataclasses.replace(worst, has_success=False)).startswith("lowest return on the search starts")


@pytest.mark.parametrize("scheduler", ["asha", "median"])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_pruning_follows_the_direction(scheduler: Any, direction: Any) -> None:
    metric = dataclasses.replace(METRICS["return"], direction=direction)
    pruner = Pruner(PruneConfig(scheduler, min_trials=2), 4, SweepState(metric=metric))
    sign = 1 if direction == "maximize" else -1
    for number, score in enumerate((-30.0, -20.0, -25.0)):
        pruner.decide(number, 1, sign * score)
    assert pruner.decide(3, 1, sign * -1.0) == "running"
    assert any(pruner.decide(4, k, sign * -90.0) == "pruned" for k in (1, 2))


def test_optuna_knows_direction_and_name(tmp_path: Path) -> None:
    metric = METRICS["valid_error"]
    study = Proposer(config(), SweepFolder(tmp_path), SweepState(metric=metric))._study
    assert study.direction.name == "MINIMIZE"
    assert study.metric_names == ["held-out error"]


def test_races_need_the_range_of_a_score() -> None:
    task = get_task(parse_env_name("halfcheetah-medium-v2").task)
    unknown = resolve(None, task)
    assert race_comparisons(config(), unknown) == 0
    assert rivals_of(swept(METRICS["return"]), 9, 1, METRICS["return"]) == {}
    known = resolve("return", dataclasses.replace(task, reward_range=(-1.0, 1.0), max_steps=100))
    assert race_comparisons(config(), known) > 0
    rivals = rivals_of(swept(known), 9, 1, known)
    assert rivals["trial 0 at flow_steps=10"][:3] == pytest.approx([(100 - 41) / 200, 0.3, (100 - 39) / 200])


def test_videos_show_the_best_and_the_worst(folder: SweepFolder) -> None:
    state = swept(dataclasses.replace(METRICS["return"], has_success=False))
    clips = choose_clips(config(final={"videos": 4}), state)
    assert {clip.row["trial"] for clip in clips} == {2}
    assert [-clip.cost for clip in clips] == [-31.0, -31.0, -33.0, -33.0]
    assert {clip.row["phase"] for clip in clips} == {"final"}


def test_tables_and_pages(folder: SweepFolder) -> None:
    run = load_run(folder.path)
    rows = leaderboard(run)
    assert [r.trial for r in rows] == [2, 1, 0]
    assert winner_line(run, rows) == (
        "Winner: trial 2 at flow_steps=10: return -32.00 (95 % CI -32.94 to -31.06, 6 episodes on final starts, "
        "1 seed)."
    )
    text = write_leaderboard_md(folder.path).read_text()
    assert "final return" in text
    assert "Student's t interval over episodes" in text
    page = write_report(folder.path).read_text()
    for word in ("return on final starts", "Final return, 95 % CI", "-32.94\xa0to\xa0-31.06", "Compared by"):
        assert word in page
    body = page.split("<script>")[0]
    assert "0.0\xa0%" not in body.split("Failures by kind")[0].replace("100.0\xa0%", "")


def test_the_dashboard(folder: SweepFolder) -> None:
    view = RunView(folder.path)
    view.refresh()
    news = view.since(-1, -1)
    assert news["run"]["metric"]["label"] == "return"
    assert news["run"]["metric"]["has_success"] is False
    assert news["run"]["leader"] == 2
    trial = next(t for t in news["trials"] if t["n"] == 2)
    assert trial["final"]["rate"] == -32.0
    assert trial["final"]["interval"] == pytest.approx([-32.9387, -31.0613], abs=1e-3)
    assert trial["curve"][0][:2] == [100, -31.0]
    shown = detail(view, 2)
    assert shown is not None
    assert shown["rows"][-1]["rate"] == -32.0


def test_the_model_card(folder: SweepFolder, tmp_path: Path) -> None:
    bundle = dataclasses.replace(pointmass_bundle(), step=100)
    nowhere = EvaluationFolder(tmp_path / "nothing")
    own = evidence_for(folder.winner, bundle, SETTING, nowhere)
    assert (own.rate, own.metric.name, own.episodes) == (-32.0, "return", 6)
    assert "| 10 | -32.00 | -32.94 to -31.06 | 6 | 0 |" in own.text


@pytest.mark.parametrize("key", ["metric", "objective"])
@pytest.mark.parametrize(("count", "chosen", "quoted"), [(3, False, -32.0), (50, False, -32.0), (3, True, -20.0)])
def test_a_later_rollout_does_not_replace_the_numbers_of_a_sweep(
    folder: SweepFolder, tmp_path: Path, count: int, chosen: bool, quoted: float, key: str
) -> None:
    """However many episodes it has, unless the user names it."""
    bundle = dataclasses.replace(pointmass_bundle(), step=100)
    again = EvaluationFolder(tmp_path / "again")
    measured = {
        "episodes": count, "success_rate": None, "successes": None, "wilson_low": None, "wilson_high": None,
        "mean_return": -20.0, "normalized_score": None, "failure_counts": {"exception": 0}, key: "return",
        "score": -20.0, **setting_fields(SETTING),
    }  # fmt: skip
    write_json(
        again.metrics,
        {"run_id": bundle.run_id, "step": bundle.step, "starts": "final", "first": 0, "task": "t", "max_steps": 9,
         "until_halfwidth": None, "settings": [measured]},
    )  # fmt: skip
    found = evidence_for(folder.winner, bundle, SETTING, again, chosen)
    assert found.rate == quoted
    assert found.text.index("-32.00") < found.text.index("### Measured again") < found.text.index("-20.00")
