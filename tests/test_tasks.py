"""One policy measured on several tasks: suites, rows, tables, intervals, faults."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.dashboard.view import RunView
from raybc.data.episodes import EpisodeStore
from raybc.envs.pointmass import POINTMASS
from raybc.envs.spec import EnvSpec, spec_of_task
from raybc.export.__main__ import main as export
from raybc.files import read_json
from raybc.inference.agent import Agent
from raybc.metric import METRICS, SUCCESS, score_of
from raybc.registry import get_task
from raybc.report.read import load_run
from raybc.report.tables import leaderboard, task_scores
from raybc.rollout.__main__ import main as rollout
from raybc.rollout.engine import Engine, Rollout
from raybc.rollout.measured import measured_tasks
from raybc.rollout.policy import MeasuredBundle
from raybc.rollout.queued import QueuedEpisode, choose
from raybc.rollout.results import summarise
from raybc.statistics import mean_interval, stratified_mean_interval, stratified_rate_interval, wilson_interval
from raybc.suites import choose_tasks, resolve_over, tasks_of
from raybc.sweep.__main__ import main as sweep_main
from raybc.train.data import TrainingData
from raybc.types import EpisodeSpec, SampleSetting, UserError
from tests.helpers import demonstrations, pointmass_bundle, read_table, run_train, tiny_trainer
from tests.tasks import SUITE, dying

Q, L, S = SUITE

# Names


def test_suites_are_those_of_the_packages() -> None:
    env_dict = pytest.importorskip("metaworld.env_dict")
    for name, known in (("MT10", env_dict.MT10_V3), ("MT50", env_dict.MT50_V3)):
        assert tasks_of(name) == tuple(f"metaworld-{task}" for task in known)
    assert tasks_of("libero_object")[9] == "libero_object-9"
    assert tasks_of("visual-scene-v0") == tuple(f"visual-scene-task{n}-v0" for n in range(1, 6))
    assert tasks_of("tests.tasks:SUITE") == SUITE
    assert tasks_of("tests.tasks:make_suite") == SUITE[:2]


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        ("libero_objects", "--suite: unknown suite 'libero_objects': did you mean 'libero_object'"),
        ("MT20", "did you mean 'MT50' or 'MT10'"),
        ("nowhere:SUITE", "--suite: suite 'nowhere:SUITE': No module named 'nowhere'"),
        ("tests.tasks:SUIT", "has no attribute 'SUIT'"),
        ("tests.tasks:NO_SUITE", "expected a list of names of tasks, got 3"),
    ],
)
def test_an_unknown_suite(suite: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        tasks_of(suite)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_tasks_observe_what_the_policy_was_trained_on() -> None:
    env = "libero_object-7@cameras=agentview"
    assert choose_tasks("libero_object", (), 2, env, 100) == (
        "libero_object-0@100,cameras=agentview", "libero_object-1@100,cameras=agentview",
    )  # fmt: skip
    assert choose_tasks("", ("lift", "can@84x84"), 0, "lift-scripted-image") == ("lift", "can_pixels@84x84")
    assert choose_tasks("", ("can", "square@84x84"), 0, "lift@image") == ("can", "square_pixels@84x84")
    assert choose_tasks("libero_object", (), 1, "pointmass", 280) == ("libero_object-0",), "280 is its own limit"
    assert choose_tasks("", (), 0, "pointmass") == ()


def test_a_goal_of_ogbench_is_the_same_task_at_every_start() -> None:
    pytest.importorskip("ogbench")
    whole, third = (get_task(name).make(None) for name in ("pointmaze-medium-v0", "pointmaze-medium-task3-v0"))
    goals = [third.reset(seed=seed)[0]["goal"] for seed in (0, 1, 2)]
    expected = whole.reset(seed=2)[0]["goal"]
    assert all(np.abs(goal - expected).max() < 2.5 for goal in goals), "1 + seed % 5 is 3; goals have noise"
    others = [whole.reset(seed=seed)[0]["goal"] for seed in (0, 1, 3, 4)]
    assert all(np.abs(goal - expected).max() > 2.5 for goal in others)
    with pytest.raises(UserError, match="unknown"):
        get_task("pointmaze-medium-navigate-task3-v0")


def test_tasks_with_different_measures_have_no_common_one() -> None:
    tasks = [get_task(name) for name in (Q, "tests.tasks:WITHOUT_SUCCESS")]
    with pytest.raises(UserError, match="expected one measure for all tasks; of "):
        resolve_over(None, tasks, "--metric")
    assert resolve_over("return", tasks, "--metric").bounds is not None
    assert not resolve_over("return", tasks, "--metric").has_success


# Intervals


def test_the_interval_of_one_task_is_that_of_agresti_and_coull() -> None:
    low, high = stratified_rate_interval([(7, 10)]) or (0, 0)
    p, n, z = 9 / 14, 14, 1.959963984540054
    assert (low, high) == pytest.approx((p - z * math.sqrt(p * (1 - p) / n), p + z * math.sqrt(p * (1 - p) / n)))
    assert stratified_rate_interval([]) is None
    assert stratified_rate_interval([(3, 5), (0, 0)]) is None
    low, high = stratified_rate_interval([(10, 10)] * 10) or (0, 0)
    assert 0.93 < low < 0.97
    assert high == 1


def test_the_interval_of_several_tasks_covers_their_mean() -> None:
    """Exact: all outcomes of two tasks with their probabilities."""
    n = (10, 12)
    for rates in itertools.combinations_with_replacement((0.05, 0.3, 0.5, 0.8, 0.95), 2):
        covered = 0.0
        for y in itertools.product(range(n[0] + 1), range(n[1] + 1)):
            low, high = stratified_rate_interval(list(zip(y, n, strict=True))) or (0, 0)
            p = math.prod(math.comb(m, k) * q**k * (1 - q) ** (m - k) for k, m, q in zip(y, n, rates, strict=True))
            covered += p * (low <= sum(rates) / 2 <= high)
        assert 0.93 <= covered <= 1, rates
    apart, pooled = stratified_rate_interval([(20, 20), (0, 20)]) or (0, 0), wilson_interval(20, 40)
    assert apart[1] - apart[0] < 0.6 * (pooled[1] - pooled[0]), "tasks that differ say nothing about chance"


def test_the_interval_of_means_over_tasks() -> None:
    equal = stratified_mean_interval([(1.0, 2.0, 9), (3.0, 2.0, 9)]) or (0, 0)
    half = 2.1199 * math.sqrt(2 * 4 / 9) / 2  # t with 16 degrees of freedom: those of both tasks
    assert equal == pytest.approx((2 - half, 2 + half), abs=1e-4)
    assert stratified_mean_interval([(1.0, 2.0, 9)]) == pytest.approx(mean_interval(1.0, 2.0, 9))
    assert stratified_mean_interval([(1.0, 2.0, 9), (3.0, None, 1)]) is None
    assert stratified_mean_interval([(1.0, 0.0, 9), (3.0, 0.0, 9)]) is None
    assert (stratified_mean_interval([(0.1, 2.0, 9), (0.1, 2.0, 9)], (0, 1)) or (9, 9))[0] == 0


def row(task: str, index: int, outcome: str, value: float = 0.0) -> dict[str, Any]:
    message = "broken" if outcome == "error" else ""
    return {
        "task": task, "index": index, "seed": index, "outcome": outcome, "return": value, "max_reward": value,
        "steps": 5, "seconds": 0.1, "retries": 0, "message": message,
    }  # fmt: skip


def test_tasks_count_equally_whatever_their_episodes() -> None:
    rows: Any = [row("a", i, "success") for i in range(4)] + [row("b", i, "timeout") for i in range(2)]
    rows += [row("b", 2, "error"), row("b", 3, "error")]
    found = summarise(rows, SUCCESS)
    assert found["success_rate"] == found["score"] == 0.5
    assert (found["episodes"], found["errors"], found["tasks"]["b"]["errors"]) == (6, 2, 2)
    assert found["messages"] == {"2 of b": "broken", "3 of b": "broken"}
    assert found["first_error"]["task"] == "b"
    score = score_of([found, found], SUCCESS)
    assert score.value == 0.5
    assert score.interval == stratified_rate_interval([(8, 8), (0, 4)])
    assert score.bounds == (0.5, 0.75), "an error counts within its task"
    worst = METRICS["success"].__class__(**{**vars(SUCCESS), "over_tasks": "worst"})
    lowest = score_of([found, found], worst)
    assert (lowest.value, lowest.cautious) == (0.0, 0.0)
    assert lowest.interval == (wilson_interval(0, 4)[0], wilson_interval(0, 4, 0.975)[1])
    assert [r["tasks"]["a"]["success_rate"] for r in (found,)] == [1.0]


def test_a_task_without_episodes_leaves_the_mean_unknown() -> None:
    rows: Any = [row("a", 0, "success"), row("b", 0, "error")]
    found = summarise(rows, SUCCESS)
    assert found["success_rate"] is None
    score = score_of([found], SUCCESS)
    assert (score.value, score.interval, score.cautious) == (None, None, 0.5)


# The queue


def test_a_process_stays_with_a_task_and_takes_one_that_nobody_works_on() -> None:
    loop = asyncio.new_event_loop()
    job, names = Rollout("bundle", SampleSetting()), ("a", "b", "c")

    def queued(task: str, index: int, block: int = 0) -> QueuedEpisode:
        spec = EpisodeSpec(task, "final", index)
        return QueuedEpisode(job, spec, "suite", loop.create_future(), 1, "key", block, True)

    queue = [queued(task, i, i // 2) for i in range(4) for task in names]
    chosen = choose(queue, "suite", "b", {"a"})
    assert chosen is not None
    assert (chosen.spec.task, chosen.spec.index) == ("b", 0)
    chosen = choose(queue, "suite", "x", {"a", "b"})
    assert chosen is not None
    assert chosen.spec.task == "c", "nobody works on it"
    chosen = choose(queue, "suite", "x", set(names))
    assert chosen is queue[0]
    late = [item for item in queue if item.block or item.spec.task == "a"]
    chosen = choose(late, "suite", "b", set(names))
    assert chosen is late[0], "the block before it is not over"
    late[0].most = 1
    assert choose(late, "suite", "b", {"a"}) is late[0], "a process must run it alone"
    assert choose(queue, "other", "a", set()) is None
    loop.close()


# The command


@pytest.fixture(scope="module")
def bundle(ray_cpus: float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "bundle"
    pointmass_bundle().save(path)
    return path


def run(bundle: Path, out: Path, *flags: str) -> int:
    return run_main(lambda: rollout([str(bundle), f"--out={out}", "--workers=2", *flags]))


def episodes(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in ("seconds", "retries", "video", "task", "message")} for r in rows]


def test_one_policy_on_a_suite(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows, tables and files of three tasks; each task's rows are those of that task alone."""
    out, alone, films = tmp_path / "suite", tmp_path / "alone", tmp_path / "films"
    flags = ["--episodes_per_task=6", "--videos=1", f"--video_output_dir={films}"]
    assert run(bundle, out, "--suite=tests.tasks:SUITE", *flags) == 0
    text = capsys.readouterr().out
    rows = episodes(out)
    assert [(r["task"], r["index"]) for r in rows] == [(name, i) for i in range(6) for name in SUITE]
    table = read_table(out / "tasks.csv")
    assert [(r["task"], r["episodes"], r["instruction"]) for r in table] == [
        (Q, "6", "go to the goal"), (L, "6", "go slowly"), (S, "6", "stay"),
    ]  # fmt: skip
    metrics = read_json(out / "metrics.json")
    assert list(metrics["tasks"]) == list(SUITE)
    setting = metrics["settings"][0]
    rates = [sum(r["outcome"] == "success" for r in rows if r["task"] == name) / 6 for name in SUITE]
    assert rates[0] > rates[2]
    assert [float(r["success_rate"]) for r in table] == pytest.approx(rates)
    assert setting["success_rate"] == pytest.approx(sum(rates) / 3)
    assert setting["success_interval"] == list(stratified_rate_interval([(round(6 * p), 6) for p in rates]) or ())
    assert setting["tasks"][Q]["wilson_low"] == wilson_interval(round(6 * rates[0]), 6)[0]
    assert "all tasks" in text
    assert sorted(p.name.split("_")[1] for p in films.glob("tests.tasks_*.mp4")) == ["LAZY", "QUICK", "STILL"]
    assert (films / "grid.mp4").is_file()
    assert run(bundle, alone, f"--tasks={L}", "--episodes_per_task=6") == 0
    assert without_times(episodes(alone)) == without_times([r for r in rows if r["task"] == L])
    assert not (alone / "tasks.csv").exists()
    card, flags = tmp_path / "card", ["--push_to_hub=me/x", "--benchmark=us/three:mean"]
    assert run_main(lambda: export([str(bundle), f"--measured={out}", f"--dry_run={card}", *flags])) == 0
    _, front, said = (card / "README.md").read_text().split("---\n", 2)
    assert "of 3 tasks (`tests.tasks:SUITE`), 6 of each" in said
    for name, rate in (*zip(SUITE, rates, strict=True), ("all tasks", sum(rates) / 3)):
        assert f" | {name} | {100 * rate:.1f} % |" in said
    results = yaml.safe_load(front)["model-index"][0]["results"]
    assert [r["dataset"]["name"] for r in results] == ["tests.tasks:SUITE", *SUITE]
    entries = yaml.safe_load((card / ".eval_results/raybc.yaml").read_text())
    assert [e["dataset"]["task_id"] for e in entries] == ["mean", *SUITE]
    assert [e["value"] for e in entries] == pytest.approx([sum(rates) / 3, *rates])


def test_an_interrupted_suite_goes_on(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    flags = ("--tasks", *SUITE, "--episodes_per_task=3", "--max_steps=30")
    assert run(bundle, whole, *flags) == 0
    lines = (whole / "episodes.jsonl").read_text().splitlines(keepends=True)
    torn.mkdir()
    (torn / "rollout.json").write_text((whole / "rollout.json").read_text())
    kept = [json.loads(line) | {"seconds": 1e6} for line in (lines[7], lines[2], lines[3])]
    (torn / "episodes.partial.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept))
    assert run(bundle, torn, *flags, "--resume") == 0
    assert "resuming: 3 episodes are already measured" in capsys.readouterr().out
    assert without_times(episodes(torn)) == without_times(episodes(whole))
    assert [i for i, r in enumerate(episodes(torn)) if r["seconds"] == 1e6] == [2, 3, 7]
    assert run(bundle, torn, *flags[:3], "--episodes_per_task=3", "--max_steps=30", "--resume") == 2
    assert "tasks: was" in capsys.readouterr().err


def test_a_process_that_dies_costs_no_episode(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "kill").touch()
    names = (Q, dying(tmp_path), S)
    assert run(bundle, tmp_path / "out", "--tasks", *names, "--episodes_per_task=3") == 0
    assert not (tmp_path / "kill").exists()
    rows = episodes(tmp_path / "out")
    assert [(r["task"], r["index"]) for r in rows] == [(name, i) for i in range(3) for name in names]
    assert [r["outcome"] for r in rows[0::3]] == [r["outcome"] for r in rows[1::3]], "both are the point mass"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--suite=MT11"], "--suite: unknown suite 'MT11': did you mean 'MT10'"),
        (["--tasks", Q, "pointmas"], "unknown environment 'pointmas': did you mean"),
        (["--suite=tests.tasks:SUITE", "--num_tasks=4"], "--num_tasks: expected 1..3 (the tasks of tests.tasks:SUITE)"),
        (["--num_tasks=2"], "--num_tasks: expected --suite or --tasks as well, got 2"),
        (["--suite=tests.tasks:SUITE", "--tasks", Q], "--suite: expected either a suite or --tasks, got both"),
        (["--tasks", Q, Q], "--tasks: expected different tasks, got tests.tasks:QUICK twice"),
        (["--tasks", Q, L, "--episodes=5"], "--episodes: expected --episodes_per_task"),
        (["--episodes_per_task=5"], "--episodes_per_task: expected --suite or --tasks as well"),
        (["--tasks", Q, "--episodes_per_task=0"], "--episodes_per_task: expected 1.."),
        (["--tasks", Q, L, "--until_halfwidth=0.1"], "--until_halfwidth: expected one task"),
        (["--record_video", "--videos=2"], "--videos: expected either this or --record_video"),
        (["--video_output_dir=x"], "--video_output_dir: expected --record_video or --videos as well"),
        (
            ["--tasks", Q, "tests.tasks:WIDE"],
            "observation 'state': the policy expects size 4, environment 'tests.tasks:WIDE' has 5",
        ),
        (["--tasks", Q, "tests.tasks:WITHOUT_SUCCESS"], "--metric: expected one measure for all tasks"),
        (["--suite=MT10", "--num_tasks=1"], "'metaworld-reach-v3'"),
    ],
)
def test_what_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], expected: str
) -> None:
    assert run(bundle, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_suite_without_its_environment_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    assert run(bundle, tmp_path / "out", "--suite=libero_object") == 2
    error = capsys.readouterr().err
    assert "raybc env build libero" in error
    assert len(error.strip().splitlines()) == 1


# Training and sweeps


def test_training_measures_several_tasks(
    ray_cpus: float, pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--suite=tests.tasks:SUITE", "--task_score=worst", "--eval_episodes=3", "--eval_interval=60")
    assert run_train(pointmass_demos, tmp_path / "run", *flags) == 0
    assert "success on the worst task" in capsys.readouterr().out
    rows = read_table(tmp_path / "run/tasks.csv")
    assert [(r["step"], r["task"], r["episodes"]) for r in rows] == [("60", name, "3") for name in SUITE]
    (evaluation,) = read_table(tmp_path / "run/eval.csv")
    rates = [float(r["eval/success"]) for r in rows]
    assert evaluation["episodes"] == "9"
    assert float(evaluation["eval/success"]) == pytest.approx(sum(rates) / 3)
    assert float(evaluation["eval/score"]) == min(rates)
    config = PolicyBundle.load(tmp_path / "run/checkpoint_60").config
    assert (config.eval_suite, config.task_score) == ("tests.tasks:SUITE", "worst")
    assert config.run_id("x") == config.changed(eval_suite="", task_score="mean").run_id("x"), "no part of the identity"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--suite=MT11"], "--eval_suite: unknown suite 'MT11'"),
        (["--eval_tasks=pointmass,pointmas"], "unknown environment 'pointmas': did you mean"),
        (["--task_score=worst"], "--task_score: has no effect without --eval_tasks or --eval_suite"),
        (
            ["--eval_tasks=tests.tasks:WIDE"],
            "task tests.tasks:WIDE: observation 'state': expected size 4, as in pointmass, got 5",
        ),
    ],
)
def test_training_refuses(
    ray_cpus: float, pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    flags: list[str], expected: str,
) -> None:  # fmt: skip
    assert run_train(pointmass_demos, tmp_path / "run", *flags) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1


def test_each_task_hands_its_own_instruction_to_the_policy(tmp_path: Path) -> None:
    """A policy that reads is trained on two instructions; on each task it follows the one of that task, and an unknown
    instruction is refused before anything starts."""
    store = demonstrations(POINTMASS, 4)
    texts = ("go to the goal", "stay", "go to the goal", "stay")
    data = TrainingData(dataclasses.replace(store, tasks=texts), "fingerprint", POINTMASS.obs_keys, {})
    trainer = tiny_trainer(data=data, training_steps=1, language="one_hot")
    trainer.advance(1)
    bundle = trainer.bundle(0)
    bundle.save(tmp_path / "bundle")
    policy = MeasuredBundle(tmp_path / "bundle", bundle)
    found = measured_tasks((Q, S), policy)
    assert [one.task.instruction for one in found] == ["go to the goal", "stay"]
    with pytest.raises(UserError, match=r"instruction of tests.tasks:LAZY: .*'go slowly'"):
        measured_tasks((Q, L), policy)
    engine = Engine(lambda _: Agent(bundle), slots=2)
    job = Rollout("bundle", SampleSetting(2))
    seen: list[tuple[str, ...]] = []
    ask = engine._load("bundle").predict
    agent = Agent(bundle)
    engine = Engine(lambda _: agent, slots=2)

    def predict(obs: Any, *rest: Any) -> Any:
        seen.append(obs.instruction)
        return ask(obs, *rest)

    agent.predict = predict  # type: ignore[method-assign]
    for number, name in enumerate((f"{Q}@8", f"{S}@8")):
        engine.add(number, job, EpisodeSpec(name, "final", 0))
    while not engine.idle:
        list(engine.round())
    assert seen[0] == ("go to the goal", "stay")
    assert set(itertools.chain(*seen)) == {"go to the goal", "stay"}


def sweep_of(dataset: Path, **changes: Any) -> dict[str, Any]:
    sweep: dict[str, Any] = {
        "name": "tasks",
        "train": {
            "env_name": "pointmass-scripted-low_dim", "dataset": str(dataset), "training_steps": 60, "lr": 3e-3,
            "batch_size": 64, "action_chunking": True, "horizon_length": 8, "hidden_width": 32, "device": "cpu",
        },
        "space": {"lr": {"values": [3e-3, 1e-3]}},
        "seeds": [0],
        "search": {"trials": 2, "max_concurrent": 1},
        "prune": {"scheduler": "none"},
        "eval": {"episodes": 3, "evaluations": 1, "tasks": [Q, S]},
        "final": {"top": 1, "episodes": 4, "videos": 2},
        "resources": {"workers": 2, "worker_cpus": 0.2, "trial_cpus": 0.2},
    }  # fmt: skip
    for key, value in changes.items():
        sweep[key] = {**sweep[key], **value}
    return sweep


def run_sweep(folder: Path, sweep: dict[str, Any], *flags: str) -> int:
    (folder / "tasks.yaml").write_text(yaml.safe_dump(sweep))
    return run_main(lambda: sweep_main([str(folder / "tasks.yaml"), f"--out={folder / 'run'}", *flags]))


@pytest.mark.slow
def test_a_sweep_over_several_tasks(ray_cpus: float, pointmass_demos: Path, tmp_path: Path) -> None:
    """Scores are means over tasks; the winner has a row for each task, on starts that choose nothing."""
    assert run_sweep(tmp_path, sweep_of(pointmass_demos)) == 0
    run = tmp_path / "run"
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert [list(r["tasks"]) for r in rows] == [[Q, S]] * 3
    for row in rows:
        assert row["success_rate"] == sum(t["success_rate"] for t in row["tasks"].values()) / 2
        assert row["episodes"] == (6 if row["phase"] == "search" else 8)
    scores = {int(r["trial"]): float(r["score"]) for r in read_table(run / "trials.csv")}
    assert scores == {r["trial"]: pytest.approx(r["success_rate"]) for r in rows if r["phase"] == "search"}
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    final = [(r["task"], r["index"]) for r in lines if r["phase"] == "final"]
    assert final == [(name, i) for i in range(4) for name in (Q, S)]
    table = load_run(run)
    scored = task_scores(leaderboard(table))
    assert list(scored) == [Q, S]
    assert scored[S].value == 0
    board, page = (run / "leaderboard.md").read_text(), (run / "report.html").read_text()
    assert "mean over 2 tasks" in board
    assert f"| {S} | 0.0 % |" in board
    assert f'<th scope="row">{Q}</th>' in page
    videos = read_json(run / "videos.json")
    assert {v["task"] for v in videos} <= {Q, S}
    assert len(videos) == 2
    view = RunView(run)
    view.refresh()
    assert [name for name, *_ in view.trials[read_json(run / "winner.json")["trial"]]["final"]["tasks"]] == [Q, S]
    assert run_sweep(tmp_path, sweep_of(pointmass_demos, eval={"tasks": [Q, L]}), "--resume") == 2


@pytest.mark.slow
def test_a_sweep_by_the_worst_task(ray_cpus: float, pointmass_demos: Path, tmp_path: Path) -> None:
    sweep = sweep_of(pointmass_demos, eval={"task_score": "worst"}, final={"videos": 0})
    assert run_sweep(tmp_path, sweep) == 0
    assert {float(r["score"]) for r in read_table(tmp_path / "run/trials.csv")} == {0.0}
    assert "worst of 2 tasks 0.0 %" in (tmp_path / "run/leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"eval": {"suite": "MT11", "tasks": []}}, "eval.suite: unknown suite 'MT11': did you mean 'MT10'"),
        ({"eval": {"suite": "MT10"}}, "eval.suite: expected either a suite or eval.tasks, got both"),
        ({"eval": {"tasks": [], "task_score": "worst"}}, "eval.task_score: has no effect without eval.tasks or suite"),
        ({"eval": {"tasks": [Q, "tests.tasks:WIDE"]}}, "task tests.tasks:WIDE: observation 'state': expected size 4"),
        ({"train": {"eval_tasks": Q}}, "train.eval_tasks: expected eval.tasks at the top level instead"),
        ({"eval": {"tasks": [Q, "tests.tasks:WITHOUT_SUCCESS"]}}, "metric: expected one measure for all tasks"),
    ],
)
def test_a_sweep_refuses(
    pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], expected: str
) -> None:
    assert run_sweep(tmp_path, sweep_of(pointmass_demos, **changes)) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_libero(libero_home: Path, tmp_path: Path) -> None:
    """Tasks of a scene in their own environment: one row for each task, with its instruction, and videos."""
    names = ("libero_object_scene0-0", "libero_object_scene0-1")
    spec = spec_of_task(get_task(names[0]))
    store = stand_still(spec, get_task(names[0]).obs_keys)
    data = TrainingData(store, store.fingerprint(), get_task(names[0]).obs_keys, spec.identity)
    trainer = tiny_trainer(data=data, training_steps=1, env_name=names[0])
    trainer.advance(1)
    trainer.bundle(0).save(tmp_path / "still")
    flags = ("--suite=libero_object_scene0", "--num_tasks=2", "--episodes_per_task=2", "--max_steps=12")
    command = [sys.executable, "-m", "raybc.rollout", str(tmp_path / "still"), f"--out={tmp_path / 'out'}"]
    # In a process of its own, because this one's Ray has the home of the tests.
    done = subprocess.run([*command, *flags, "--record_video", "--workers=1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = read_table(tmp_path / "out/tasks.csv")
    assert [(r["task"], r["episodes"]) for r in rows] == [(f"{name}@12", "2") for name in names]
    assert rows[0]["instruction"] != rows[1]["instruction"]
    assert len(list((tmp_path / "out/videos").rglob("libero_object_scene0_*.mp4"))) == 4


def stand_still(spec: EnvSpec, keys: tuple[str, ...]) -> EpisodeStore:
    """Data that look like the first starts of a task, with small actions."""
    n = 12
    obs = {key: np.resize(spec.starts[key], (n, spec.obs_sizes[key])).astype(np.float32) for key in keys}
    actions = np.random.default_rng(0).uniform(spec.action_low, spec.action_high, (n, spec.action_size))
    return EpisodeStore(
        obs=obs, actions_NA=actions.astype(np.float32), rewards_N=np.zeros(n, np.float32),
        episode_ends=np.array([6, 12]), splits={}, source=Path("still.hdf5"),
    )  # fmt: skip
