"""What is refused before a simulator starts, and what a measurement says."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from raybc.bundle import PolicyBundle
from raybc.data.normalize import Normalizer
from raybc.envs.pointmass import POINTMASS
from raybc.envs.spec import EnvSpec, spec_of_task
from raybc.find_bundle import find_bundle
from raybc.metric import METRICS, SUCCESS
from raybc.rollout.checks import check_fits, version_changes
from raybc.rollout.race import Domination
from raybc.rollout.results import metrics
from raybc.rollout.stop import Race, UntilHalfwidth
from raybc.rollout.video import encode, episode_name, write_grid
from raybc.run_folder import TrainingFolder
from raybc.statistics import halfwidth_reached
from raybc.types import EpisodeResult, SampleSetting, UserError
from tests.helpers import pointmass_bundle

PATH = Path("some/bundle")


@pytest.fixture(scope="module")
def env_spec() -> EnvSpec:
    return spec_of_task(POINTMASS)


# Which bundle


def run_folder(tmp_path: Path, steps: dict[int, float | None]) -> Path:
    bundle = pointmass_bundle()
    for step in steps:
        dataclasses.replace(bundle, step=step).save(tmp_path / "run" / f"checkpoint_{step}{'_round_1' * (step == 200)}")
    rows = [f"{step},{rate}" for step, rate in steps.items() if rate is not None]
    (tmp_path / "run" / "eval.csv").write_text("\n".join(["step,eval/success", *rows]) + "\n")
    return tmp_path / "run"


def test_a_checkpoint_of_a_run(tmp_path: Path) -> None:
    run = run_folder(tmp_path, {100: 0.5, 200: 0.9, 300: 0.9, 1000: None})
    (run / "checkpoint_half").mkdir()  # not a checkpoint
    assert sorted(TrainingFolder(run).checkpoints()) == [100, 200, 300, 1000]
    for name, step in (("", 1000), ("latest", 1000), ("-1", 1000), ("best", 300), ("200", 200)):
        path, setting = find_bundle(run, name)
        assert PolicyBundle.load(path).step == step
        assert setting is None
    known = "latest, best, best_mse, final, -1 or one of the steps 100, 200, 300, 1000"
    with pytest.raises(UserError, match=f"{known}; got '150'"):
        find_bundle(run, "150")
    (run / "eval.csv").unlink()
    with pytest.raises(UserError, match=r"eval\.csv has no evaluation of a checkpoint that is still on disk"):
        find_bundle(run, "best")


def test_a_checkpoint_of_what_is_no_run(tmp_path: Path) -> None:
    pointmass_bundle().save(tmp_path / "bundle")
    assert find_bundle(tmp_path / "bundle") == (tmp_path / "bundle", None)
    with pytest.raises(UserError, match="is one bundle"):
        find_bundle(tmp_path / "bundle", "latest")
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    setting = SampleSetting(4, 2)
    (sweep / "winner.json").write_text(json.dumps({"bundle": "winner", "setting": dataclasses.asdict(setting)}))
    assert find_bundle(sweep) == (sweep / "winner", setting)
    with pytest.raises(UserError, match="is a sweep"):
        find_bundle(sweep, "best")


# Whether it fits


def test_a_good_bundle_fits(env_spec: EnvSpec) -> None:
    check_fits(pointmass_bundle(), env_spec, PATH)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"obs_sizes": {"state": 3, "goal": 3}}, ["observation 'state'", "expects size 3", "has 4"]),
        ({"obs_sizes": {"cube": 4, "goal": 2}}, ["observation 'cube'", "has none of that name"]),
        ({"action_size": 3}, ["gives 3 numbers", "takes 2"]),
    ],
)
def test_other_spaces_are_refused(env_spec: EnvSpec, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        check_fits(dataclasses.replace(pointmass_bundle(), **changes), env_spec, PATH)
    assert all(word in str(error.value) for word in [*words, str(PATH), "pointmass-scripted-low_dim"]), error.value


def scaled(normalizer: Normalizer, factor: float, shift: float = 0.0) -> Normalizer:
    """Statistics of the same data in units of `factor`, moved by `shift`."""
    return Normalizer((normalizer.offset * factor + shift).astype(np.float32), normalizer.scale * np.float32(factor))


def test_statistics_of_other_units_are_refused(env_spec: EnvSpec) -> None:
    bundle = pointmass_bundle()
    for wrong in (scaled(bundle.obs_normalizer, 0.01, 1.0), scaled(bundle.obs_normalizer, 1.0, 300.0)):
        with pytest.raises(UserError, match=r"normalisation of observations does not fit.*scales from the"):
            check_fits(dataclasses.replace(bundle, obs_normalizer=wrong), env_spec, PATH)
    wrong = scaled(bundle.action_normalizer, 1.0, 400.0)
    with pytest.raises(UserError, match=r"normalisation of actions.*takes -1 to 1.*normalised twice"):
        check_fits(dataclasses.replace(bundle, action_normalizer=wrong), env_spec, PATH)
    # Actions that were normalised to [-1, 1] for an environment that takes pixels 0..512 and more.
    wide = dataclasses.replace(env_spec, action_low=np.zeros(2, np.float32), action_high=np.full(2, 5120, np.float32))
    with pytest.raises(UserError, match="normalisation of actions"):
        check_fits(bundle, wide, PATH)


def test_what_differs_from_then_is_told(env_spec: EnvSpec) -> None:
    bundle = pointmass_bundle()
    assert version_changes(bundle, env_spec) == []
    older = dataclasses.replace(bundle, environment={"pointmass": "0", "controller": "acceleration", "physics": "2"})
    assert version_changes(older, env_spec) == [
        ("the policy was trained", "physics", "2", "absent"),
        ("the policy was trained", "pointmass", "0", "1"),
    ]
    kwargs = {"control_freq": 10, "controller_configs": {"type": "OSC_POSE"}}
    data = dataclasses.replace(bundle, data_env={"env_name": "Lift", "env_version": "1.4.1", "env_kwargs": kwargs})
    other = dataclasses.replace(
        bundle, data_env={"env_kwargs": kwargs | {"controller_configs": {"type": "JOINT_VELOCITY"}}}
    )
    here = {"control_freq": 20, "controller_configs": {"type": "BASIC", "body_parts": {"right": {"type": "OSC_POSE"}}}}
    now = dataclasses.replace(
        env_spec, env_args={"env_name": "Lift", "env_version": "1.5.2", "type": 1, "env_kwargs": here}
    )
    assert version_changes(data, now) == [
        ("the data was recorded", "env_version", "1.4.1", "1.5.2"),
        ("the data was recorded", "control_freq", "10", "20"),
    ], "another release spells the same controller otherwise"
    assert "controller_configs" in [what for _, what, *_ in version_changes(other, now)]


# What a measurement says


def rows(outcomes: str, returns: float = 10.0) -> list[dict[str, Any]]:
    names = {"s": "success", "f": "failure", "t": "timeout", "e": "error"}
    return [
        EpisodeResult(i, i, names[o], returns * (i + 1), 10 * (i + 1), 1.0, max_reward=0.5).to_row()  # type: ignore[arg-type]
        for i, o in enumerate(outcomes)
    ]


def test_metrics() -> None:
    told = metrics(rows("sstfes"), has_success=True, reference=(-10.0, 90.0), metric=SUCCESS)
    assert told["failure_counts"] == {"timeout": 1, "exception": 1, "other": 1}
    assert (told["episodes"], told["successes"], told["success_rate"]) == (5, 3, 0.6)
    assert told["wilson_low"] < 0.6 < told["wilson_high"]
    assert told["mean_return"] == pytest.approx((10 + 20 + 30 + 40 + 60) / 5)
    assert told["normalized_score"] == pytest.approx(100 * (32 + 10) / 100)
    assert told["avg_steps_success"] == pytest.approx((10 + 20 + 60) / 3)
    assert told["avg_steps"] == pytest.approx(32)
    assert (told["mean_max_reward"], told["eval_time_sec"]) == (0.5, 6.0)


def test_metrics_of_a_task_without_success() -> None:
    told = metrics(rows("tt"), has_success=False, reference=None, metric=METRICS["return"])
    assert told["success_rate"] is told["wilson_low"] is told["successes"] is told["normalized_score"] is None
    assert told["mean_return"] == told["score"] == 15
    low, high = told["mean_return_interval"] or (0, 0)
    assert low < 15 < high
    nothing = metrics(rows("ee"), has_success=True, reference=(0.0, 1.0), metric=SUCCESS)
    assert nothing["success_rate"] is nothing["mean_return"] is nothing["normalized_score"] is None


# When it is enough


def test_a_mean_is_measured_until_its_interval_is_narrow() -> None:
    """Student's interval, errors left out, from 20 valid episodes on; values that agree are known at once."""
    rule = UntilHalfwidth(3.0, METRICS["return"])
    rng = np.random.default_rng(0)
    wide, same = list(rng.normal(100, 10, 200)), [7.0] * 200
    wide[3] = math.nan
    ends = rule.update([wide, same, wide[:15]])
    assert ends[1] == 20
    assert 30 < ends[0] < 90
    assert 2 not in ends
    assert rule.update([wide[: ends[0]], same]) == {0: ends[0], 1: 20}
    assert rule.value_of(rows("t")[0]) == 10.0  # type: ignore[arg-type]


def test_a_race_on_another_score_sees_it_between_its_bounds() -> None:
    metric = dataclasses.replace(METRICS["return"], bounds=(-100.0, 0.0))
    race = Race(["a", "b"], {}, comparisons=1, block=10, metric=metric)
    assert race.value_of(rows("t", -25.0)[0]) == 0.75  # type: ignore[arg-type]
    assert math.isnan(race.value_of(rows("e")[0]))  # type: ignore[arg-type]
    assert race.update([[0.1] * 60, [0.9] * 60]) == {0: 10}


def test_until_halfwidth_looks_at_the_first_starts_only() -> None:
    rule = UntilHalfwidth(0.1)
    solved = [1.0] * 300
    enough = halfwidth_reached([True] * 300, 0.1)
    assert enough is not None
    assert rule.update([solved[: enough - 1]]) == {}
    assert rule.update([solved[:enough]]) == rule.update([solved]) == {0: enough}
    with_errors = [math.nan, *solved]
    assert rule.update([with_errors]) == {0: enough + 1}
    mixed = [float(i % 2) for i in range(300)]
    assert rule.update([mixed, solved]) == {0: halfwidth_reached([v > 0 for v in mixed], 0.1), 1: enough}


def test_a_race_within_a_trial_decides_on_whole_blocks() -> None:
    """Arm b misses everything, arm a solves everything; two seeds each."""
    values = [[1.0] * 40, [1.0] * 40, [0.0] * 40, [0.0] * 40]
    arms = ["a", "a", "b", "b"]
    whole = Race(arms, {}, comparisons=1, block=10).update(values)
    assert whole == {2: 10, 3: 10}
    slowly = Race(arms, {}, comparisons=1, block=10)
    for n in range(0, 41, 3):
        told = slowly.update([v[: max(0, n - w)] for w, v in enumerate(values)])
    assert told == whole, "whatever ends first"
    many = Race(arms, {}, comparisons=1000, block=10)
    assert many.update(values) == {2: 20, 3: 20}, "more comparisons ask for more evidence"


def test_a_race_against_earlier_trials_ends_the_trial() -> None:
    good, bad = [1.0] * 40, [0.0] * 40
    race = Race(["a", "b"], {"trial 3": good}, comparisons=100, block=10)
    assert race.update([bad, bad]) == {0: 20, 1: 20}
    assert race.beaten is not None
    assert isinstance(race.beaten[1], Domination)
    assert "trial 3 is better" in str(race.beaten[1])
    assert Race(["a", "b"], {"trial 3": good}, comparisons=100, block=10).update([bad, good]) == {0: 20}
    assert Race(["a"], {"trial 3": bad}, comparisons=10, block=10).update([good]) == {}
    assert Race(["a"], {}, comparisons=1, block=10).update([bad]) == {}, "nobody to race against"


# Videos


def test_names_of_videos() -> None:
    assert episode_name("lift", 3, "success") == "lift_3_success.mp4"
    assert episode_name("gym:ns/Env-v0", 0, "timeout") == "gym_ns_Env_v0_0_timeout.mp4"


def test_a_grid_shows_all_episodes(tmp_path: Path) -> None:
    shades, lengths, outcomes = (60, 120, 180), (4, 2, 6), ("success", "failure", "timeout")
    videos = []
    for number, (shade, length, outcome) in enumerate(zip(shades, lengths, outcomes, strict=True)):
        encode(tmp_path / f"{number}.mp4", 10, [np.full((64, 48, 3), shade, np.uint8)] * length)
        videos.append((tmp_path / f"{number}.mp4", outcome))
    write_grid(videos, tmp_path / "grid.mp4", side=64, border=4)
    with av.open(str(tmp_path / "grid.mp4")) as grid:
        assert grid.streams.video[0].codec_context.pix_fmt == "yuv420p"
        frames = [f.to_ndarray(format="rgb24").astype(int) for f in grid.decode(video=0)]
    assert len(frames) == 6, "as long as the longest"
    height, width = 72, 56
    assert frames[0].shape == (2 * height, 2 * width, 3)
    for number, shade in enumerate(shades):
        top, left = number // 2 * height, number % 2 * width
        for frame in frames:  # those that are over stand still
            inner = frame[top + 20 : top + 50, left + 16 : left + 40]
            assert abs(inner.mean() - shade) < 6
    red, green = frames[0][:3, width + 8 : 2 * width - 8].mean((0, 1))[:2]
    assert red > 2 * green, "a failure is framed in red"
