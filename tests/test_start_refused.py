"""A start that is refused leaves no folder that blocks the corrected command; names of films have every sample axis."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from raybc import cli
from raybc.cli import run_main
from raybc.metric import SUCCESS
from raybc.rollout.folder import EvaluationFolder
from raybc.rows import setting_fields, video_setting
from raybc.run_folder import SweepFolder
from raybc.sweep import run as sweep_run
from raybc.sweep.begin import Launch
from raybc.sweep.final import choose_clips
from raybc.sweep.ledger import SweepState
from raybc.sweep.load import sweep_from_mapping
from raybc.train.__main__ import main as train
from raybc.types import SampleSetting, UserError

DATA = Path(__file__).parent / "golden/v0.1.0/demos.hdf5"
SWEEP = {
    "name": "s", "seeds": [0], "space": {"lr": {"low": 1e-4, "high": 1e-3}},
    "train": {"env_name": "pointmass-scripted-low_dim", "dataset": str(DATA), "training_steps": 10, "device": "cuda"},
    "eval": {"evaluations": 1},
}  # fmt: skip


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sweep asks Ray before it begins."""
    monkeypatch.setattr(sweep_run, "ray_beside", lambda *_: contextlib.nullcontext(lambda: 2.0))
    monkeypatch.setattr(sweep_run, "machines", list)


def refuse(*_: Any, **__: Any) -> None:
    raise UserError("train.device: expected cpu or auto, since there is no GPU, got cuda")


@pytest.mark.usefixtures("no_ray")
def test_a_refused_sweep_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_run, "allocate_sweep", refuse)
    place = SweepFolder(tmp_path / "run")
    for _ in range(2):  # the second time, no folder is in the way
        with pytest.raises(UserError, match="no GPU"):
            sweep_run.run_sweep(sweep_from_mapping(SWEEP, "s.yaml"), Launch(place))
        assert not place.path.exists()


@pytest.mark.usefixtures("no_ray")
def test_an_interrupted_start_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_run, "allocate_sweep", interrupt)
    place = SweepFolder(tmp_path / "run")
    with pytest.raises(cli.Interrupted, match="no trial had begun; run the same command again"):
        sweep_run.run_sweep(sweep_from_mapping(SWEEP, "s.yaml"), Launch(place))
    assert not place.path.exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--freeze=nothing", "freeze"),
        ("--device=cuda:7", "device"),
        ("--horizon_length=500", "horizon"),
        ("--encoder=impala", "encoder"),
        ("--metric=success", "metric"),
    ],
)
def test_a_refused_training_leaves_nothing(
    flag: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--env_name=none", f"--dataset={DATA}", "--training_steps=5", "--hidden_width=8", "--hidden_depth=1",
        "--action_chunking", f"--out={tmp_path / 'run'}", "--threads=1", "--device=cpu",
    ]  # fmt: skip
    status = run_main(lambda: train([*words, flag]))
    said = capsys.readouterr().err
    assert (status, message in said) == (2, True), said
    assert not (tmp_path / "run").exists()


# Names of films


def test_film_folders_have_every_sample_axis(tmp_path: Path) -> None:
    settings = [
        SampleSetting(4), SampleSetting(4, 2), SampleSetting(4, 2, 0.5), SampleSetting(4, 2, 0.5, 0.01),
        SampleSetting(4, 0, 0.0, 0.0),
    ]  # fmt: skip
    sweep, evaluation = SweepFolder(tmp_path), EvaluationFolder(tmp_path)
    assert len({sweep.member_videos(0, 0, "final", s) for s in settings}) == len(settings)
    assert len({evaluation.videos(s) for s in settings}) == len(settings)
    assert evaluation.videos(settings[0]).name == "flow_4", "as release 0.1.0 wrote it"
    assert settings[3].slug() == "flow_4_execute_2_temperature_0.5_ensemble_0.01"


def test_the_same_start_is_filmed_at_each_setting() -> None:
    state = SweepState(metric=SUCCESS)
    state.apply({"event": "start", "trial": 0, "params": {"lr": 1e-3}, "origin": "defaults"})
    rows = [
        {"trial": 0, "seed": 0, "phase": "search", "evaluation": 1, "step": 10, "run_id": "r",
         **setting_fields(setting), "episodes": 1, "successes": 1, "errors": 0, "mean_steps_success": 5.0,
         "success_rate": 1.0, "episode_list": [[0, "success", 5, 1.0]]}
        for setting in (SampleSetting(4, 1), SampleSetting(4, 2))
    ]  # fmt: skip
    state.apply({"event": "evaluation", "trial": 0, "status": "completed", "evaluation": 1, "step": 10, "score": 1.0,
                 "rows": rows, "timing": {}})  # type: ignore[typeddict-item]  # fmt: skip
    clips = choose_clips(sweep_from_mapping(SWEEP, "s.yaml"), state)
    assert len({clip.key for clip in clips}) == 2


def test_films_of_release_0_1_0_have_flow_steps_alone() -> None:
    videos = json.loads('[{"file": "a.mp4", "flow_steps": 4}, {"file": "b.mp4", "flow_steps": 4, "execute_steps": 2}]')
    assert [video_setting(video) for video in videos] == [SampleSetting(4), SampleSetting(4, 2)]
