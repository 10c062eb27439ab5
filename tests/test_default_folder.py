"""Where commands write unless --out says otherwise: another folder for every other request, with a portable name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.default_folder import existing_or_safe, folder_word, request_suffix
from raybc.export.measured import evaluation_of
from raybc.foreign.measured import measured_policy
from raybc.metric import METRICS
from raybc.rollout.__main__ import Args
from raybc.rollout.command import config_of, episodes_of
from raybc.rollout.place import default_folder
from raybc.rollout.settings import ORDER, chosen_settings
from raybc.strict import digest
from raybc.train.resume import RunPlace, find_run, group_folder
from tests.helpers import ROOT

BUNDLE = ROOT / "tests/golden/v0.1.0/bundle"


def folder_of(*flags: str) -> Path:
    """Where `raybc rollout BUNDLE FLAGS` writes; the request is there afterwards, as if it had begun."""
    args = cli.parse(Args, [str(BUNDLE), *flags], "raybc.rollout", "")
    policy = measured_policy(BUNDLE, None)
    settings = chosen_settings(policy, {name: getattr(args, name) for name in ORDER})
    metric = METRICS["success"]
    episodes = episodes_of(args, metric)
    videos = episodes if args.record_video else args.videos
    config = config_of(args, policy, settings, args.tasks or ("pointmass",), metric, episodes, videos)
    found = default_folder(args, config)
    found.path.mkdir(parents=True, exist_ok=True)
    found.request.write_text(json.dumps(config.request()))
    return found.path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_requests_that_differ_have_different_folders() -> None:
    """The command lines of the README run one after another."""
    bundle = PolicyBundle.load(BUNDLE)
    plain = f"{bundle.run_id}_step_{bundle.step}_final"
    expected = {
        (): plain,
        ("--episodes", "50"): plain,
        ("--workers", "1", "--deadline", "60"): plain,
        ("--episodes", "100", "--videos", "4", "--flow_steps", "1,2,5,10"): (
            f"{plain}_episodes_100_videos_4_flow_steps_1-2-5-10"
        ),
        ("--until_halfwidth", "0.05"): f"{plain}_until_halfwidth_0.05",
        ("--record_video",): f"{plain}_record_video",
        ("--first", "3"): f"{plain}_first_3",
        ("--temporal_ensemble=-1,0.01",): f"{plain}_temporal_ensemble_-1-0.01",
        ("--temporal_ensemble=0.01",): f"{plain}_temporal_ensemble_0.01",
        ("--starts", "search"): plain.replace("final", "search"),
    }
    found = {flags: folder_of(*flags).name for flags in expected}
    assert found == expected
    assert {flags: folder_of(*flags).name for flags in expected} == expected, "the same request has the same folder"
    recorded = folder_of("--record", "lerobot:runs/of:b")
    assert recorded.name.startswith(f"{plain}_record_lerobot_runs_of_b_")
    assert folder_of("--record", "lerobot:runs/of_b") != recorded


def test_a_folder_of_an_earlier_release_is_the_same_evaluation() -> None:
    """It was named by the starts alone."""
    new = folder_of("--episodes", "7")
    old = new.with_name(new.name.removesuffix("_episodes_7"))
    new.rename(old)
    assert folder_of("--episodes", "7") == old
    assert folder_of("--episodes", "8").name == f"{old.name}_episodes_8"


def test_the_task_of_the_policy_may_be_named() -> None:
    """Earlier releases named folders after it; those are found."""
    plain = folder_of("--episodes", "7")
    assert folder_of("--tasks", "pointmass", "--episodes_per_task", "7") == plain
    former = f"1_tasks_{digest(['pointmass'])[:8]}_final_episodes_per_task_7"
    old = plain.rename(plain.with_name(plain.name.replace("final_episodes_7", former)))
    assert folder_of("--tasks", "pointmass", "--episodes_per_task", "7") == old
    assert "_1_tasks_" in folder_of("--tasks", "pointmass@9", "--episodes_per_task", "7").name


def test_recording_continues_an_evaluation_without_it() -> None:
    plain = folder_of("--episodes", "7")
    assert folder_of("--episodes", "7", "--record", "rrd:x.rrd", "--resume") == plain
    assert folder_of("--episodes", "7", "--record", "rrd:x.rrd") != plain


def test_long_requests_become_a_digest() -> None:
    @dataclasses.dataclass(frozen=True)
    class Flags:
        first: str = ""
        second: str = ""
        on: bool = False

    assert request_suffix(Flags(), ()) == ""
    assert request_suffix(Flags(first="a", on=True), ()) == "_first_a_on"
    assert request_suffix(Flags(first="a", on=True), ("first",)) == "_on"
    long = [request_suffix(Flags(first="a" * 99, second=second), ()) for second in ("", "b", "c")]
    assert len(set(long)) == 3
    assert all(len(suffix) < 20 for suffix in long)


def test_names_are_those_of_folders_on_any_system(tmp_path: Path) -> None:
    assert folder_word("gym:Pendulum-v1@20") == "gym_Pendulum-v1@20"
    assert folder_word("dataset:/data/a.hdf5") == "dataset_data_a.hdf5"
    assert existing_or_safe(tmp_path, "a:b") == tmp_path / "a_b"
    (tmp_path / "a:b").mkdir()
    assert existing_or_safe(tmp_path, "a:b") == tmp_path / "a:b", "of an earlier release"


def test_trainings_have_portable_folders_and_old_ones_are_found() -> None:
    config = RunConfig(env_name="gym:Pendulum-v1", run_group="a:b/c")
    group = group_folder(config)
    assert group == Path("runs/fbc/bc_training/a_b/c/gym_Pendulum-v1")
    old = Path("runs/fbc/bc_training/a:b/c/gym:Pendulum-v1/sd000_x")
    RunPlace(old, (old,), (config,)).write_flags("f" * 64)
    assert find_run([config], "f" * 64, "no") == old
    shutil.move(old, group / "sd000_x")
    assert find_run([config], "f" * 64, "no") == group / "sd000_x"


def test_a_card_quotes_the_largest_evaluation_of_the_policy_as_it_is() -> None:
    bundle = PolicyBundle.load(BUNDLE)
    setting = bundle.config.sample_setting
    assert not evaluation_of(bundle, setting).path.exists()
    row = dataclasses.asdict(setting)
    folders = [folder_of("--episodes", count) for count in ("9", "30", "20")]
    changed = [folder_of("--episodes", "40", "--first", "1"), folder_of("--until_halfwidth", "0.05")]
    for folder in [*folders, *changed]:
        starts = json.loads((folder / "rollout.json").read_text())["starts"]
        about = {"first": starts["first"], "until_halfwidth": 0.05 if "until" in folder.name else None}
        settings = [{**row, "episodes": starts["episodes"]}, {**row, "flow_steps": 77, "episodes": 1000}]
        (folder / "metrics.json").write_text(json.dumps({**about, "settings": settings}))
    assert evaluation_of(bundle, setting).path == folders[1]
