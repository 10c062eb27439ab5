"""`python -m raybc.plan` as a user types it, the image, and the table of docs/plans.md."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc import cli
from raybc.config import DemosConfig
from raybc.data.formats import robomimic
from raybc.data.plan.config import ADDED, PlanConfig
from raybc.data.plan.exposure import exposure
from raybc.data.plan.files import ARRAYS, META, PAGE, load_plan
from raybc.demos.spec import DemosSpec
from raybc.plan import BuildArgs, ShowArgs, VerifyArgs, main
from raybc.report.plan import MAX_COLUMNS, MAX_ROWS, event_shares, heatmap, stage_shares
from tests import guides
from tests.helpers import ROOT, tiny_store
from tests.plans import plan_of, tiny_plan


def plan_command(*args: object) -> int:
    return cli.run_main(lambda: main([str(a) for a in args]))


def test_a_plan_from_build_to_show(pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plans/ten"
    flags = ["--dataset", pointmass_demos, "--horizon-length=8", "--batch_size=32", "--num-episodes-keep", 10]
    assert (
        plan_command("build", *flags, "--stride-S=3", "--stage-strategy", "change_point_state", "--out-dir", out) == 0
    )
    printed = capsys.readouterr().out
    plan = load_plan(out)
    assert f"plan: {out}: 10 episodes, {len(plan.anchors_P)} anchors" in printed
    assert f"plan_sha256: {plan.plan_sha256}" in printed
    assert (plan.repo_id, plan.config.horizon_length, plan.config.batch_size) == ("demos.hdf5", 8, 32)
    assert sorted(p.name for p in out.iterdir()) == [ARRAYS, META]

    assert plan_command("verify", out) == 0
    assert "not the data (give --dataset or --env_name)" in capsys.readouterr().out
    assert plan_command("verify", "--plan-path", out / ARRAYS, "--dataset", pointmass_demos) == 0
    assert f"OK: {out / ARRAYS} (checksums, bounds, data, every array built again)" in capsys.readouterr().out

    assert plan_command("show", out / META, "--training_steps", 50, 2000) == 0
    printed = capsys.readouterr().out
    seen = exposure(plan.weights_P, 50 * 32, True)
    rows = [line.split() for line in printed.splitlines()]
    assert ["50", "1,600", f"{seen.ess:.0f}", f"{seen.expected_unique:.1f}"] in [r[:4] for r in rows]
    for share in stage_shares(plan):
        assert [str(share.stage), f"{share.anchors:,}", f"{share.of_anchors:.1%}", f"{share.of_draws:.1%}"] in rows
    page = (out / PAGE).read_text()
    assert plan.plan_sha256 in page
    assert "demos.hdf5: 10 episodes" in page
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page), "nothing is loaded from elsewhere"
    assert plan_command("show", out, "--training_steps", 0) == 2


def test_switches(pointmass_demos: Path, tmp_path: Path) -> None:
    flags = ["--dataset", pointmass_demos, "--batch-size=16", "--overwrite", "--out-dir", tmp_path / "plan"]
    for switches, expected in (
        ([], True),
        (["--no-replacement"], False),
        (["--replacement"], True),
        (["--replacement", "False"], False),
        (["--replacement=False"], False),
    ):
        assert plan_command("build", *flags, *switches) == 0
        assert load_plan(tmp_path / "plan").config.replacement is expected


def test_the_same_plan_in_every_process(pointmass_demos: Path, tmp_path: Path) -> None:
    flags = ["build", "--dataset", str(pointmass_demos), "--batch-size=16", "--gripper-event-enabled",
             "--gripper-dims=0", "--stage-strategy=change_point_state", "--out-dir"]  # fmt: skip
    assert plan_command(*flags, tmp_path / "here") == 0
    command = [sys.executable, "-m", "raybc.plan", *flags, str(tmp_path / "there")]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert load_plan(tmp_path / "here").plan_sha256 in out.stdout
    for name in (META, ARRAYS):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_a_plan_of_an_environment_name(
    pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYBC_HOME", str(tmp_path / "home"))
    flags = ["--env_name=pointmass-scripted-low_dim", "--demos=40"]
    build = ["build", *flags, "--batch-size=16", "--out-dir", tmp_path / "plan"]
    assert plan_command(*build) == 2
    assert "are not made yet: python -m raybc.demos pointmass --episodes 40" in capsys.readouterr().err
    place = DemosSpec("pointmass", DemosConfig(episodes=40)).default_path()
    place.parent.mkdir(parents=True)
    shutil.copy(pointmass_demos, place)
    assert plan_command(*build) == 0
    plan = load_plan(tmp_path / "plan")
    assert plan.repo_id == "pointmass-scripted-low_dim"
    assert plan.config.state_keys == "state,goal", "the task's observations in the task's order"
    assert plan_command("verify", tmp_path / "plan", *flags) == 0
    assert plan_command("verify", tmp_path / "plan", "--dataset", pointmass_demos) == 0, "the same contents"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "expected --dataset PATH or --env_name NAME"),
        (["--dataset=/nowhere.hdf5"], "/nowhere.hdf5: expected demonstrations, found no such file or folder"),
        (["--env_name=pointmas-scripted-low_dim"], "did you mean"),
        (["--env_name=transport-human-low_dim"], "--dataset PATH"),
        (["DEMOS", "--num-episodes-keep=99"], "num_episodes_keep: expected at most the 36 training episodes"),
        (["DEMOS", "--batch-size=100000"], "Not enough anchors for one batch: expected at least 100000, got"),
        (["DEMOS", "--clip-ratio=0"], "--clip_ratio: expected at least 1, got 0"),
        (["DEMOS", "--gripper-event-enabled", "--gripper-dims=9"], "gripper_dims: expected dimensions of the state"),
        (["DEMOS", "--state-keys=leg", "--stage-strategy=change_point_state"], "expected observation 'leg'"),
    ],
)
def test_build_refuses(
    offline: None,
    pointmass_demos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    expected: str,
) -> None:
    flags = [f"--dataset={pointmass_demos}" if f == "DEMOS" else f for f in flags]
    assert plan_command("build", *flags, "--out-dir", tmp_path / "plan") == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "plan").exists()


def test_verify_refuses(pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, other = tmp_path / "plan", tmp_path / "other.hdf5"
    build = ["build", "--dataset", pointmass_demos, "--batch-size=16", "--out-dir"]
    assert plan_command(*build, out) == 0
    shutil.copy(pointmass_demos, other)
    assert plan_command("verify", out, "--dataset", other) == 0, "renamed, the same contents"
    import h5py

    with h5py.File(other, "a") as file:
        file["data/demo_3/actions"][0, 0] += 0.5
    shutil.copy(other, tmp_path / "demos.hdf5")
    for path, expected in (
        (other, "Sampling plan repo_id mismatch: expected 'demos.hdf5'"),
        (tmp_path / "demos.hdf5", "Sampling plan dataset_fingerprint mismatch: expected"),
    ):
        assert plan_command("verify", out, "--dataset", path) == 2
        assert expected in capsys.readouterr().err
    assert plan_command("verify", out, "--horizon_length=7") == 2
    assert "Sampling plan action_horizon mismatch: expected chunks of 5 steps, got 7" in capsys.readouterr().err
    assert plan_command("verify", out, "--batch_size=100000") == 2
    assert "Not enough anchors for one batch" in capsys.readouterr().err
    assert plan_command(*build, out) == 2
    assert "replace it with --overwrite" in capsys.readouterr().err
    assert plan_command("verify", tmp_path / "nothing") == 2
    assert "expected a sampling plan" in capsys.readouterr().err


def test_a_plan_of_what_is_left_of_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in training, and the training that uses it sees the same data."""
    import h5py

    from tests.test_train_offline import SMALL, robot, train

    path = robot(tmp_path / "robot.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_3/obs/joints"][4] = np.nan
    flags = ["--dataset", path, "--horizon-length=4", "--batch-size=32", "--out-dir", tmp_path / "plan"]
    assert plan_command("build", *flags) == 2
    assert "joints: expected finite numbers, got nan or inf in episode 3" in capsys.readouterr().err
    assert plan_command("build", *flags, "--skip_bad_episodes") == 0
    assert plan_command("verify", tmp_path / "plan", "--dataset", path, "--skip-bad-episodes") == 0
    assert len(load_plan(tmp_path / "plan").episodes_E) == 9
    run = ("--dataset", path, *SMALL, "--skip_bad_episodes", "--training_steps=2", "--sampling_plan_path")
    assert train(*run, tmp_path / "plan", "--out", tmp_path / "run") == 2
    assert "with a sampling plan the data need a split `valid`" in " ".join(capsys.readouterr().err.split())


def test_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_command("--help") == 0
    assert "python -m raybc.plan {build,verify,show}" in capsys.readouterr().out
    for wrong in ([], ["make"], ["--flag"]):
        assert plan_command(*wrong) == 2
        assert "expected one of build, verify, show" in capsys.readouterr().err
    assert plan_command("build") == 2
    assert "--out-dir: expected the folder" in capsys.readouterr().err


def test_a_plan_of_human_demonstrations(human_lift: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """robomimic's own layout: the gripper's fingers close on the cube near the end of each episode."""
    out = tmp_path / "plan"
    flags = [
        "--dataset", human_lift, "--horizon-length=16", "--batch-size=64", "--num-episodes-keep=5", "--stride-S=4",
        "--state-keys=robot0_eef_pos,robot0_gripper_qpos", "--gripper-event-enabled", "--gripper-dims=3,4",
    ]  # fmt: skip
    assert plan_command("build", *flags, "--out-dir", out) == 0
    assert "3 = robot0_gripper_qpos[0], 4 = robot0_gripper_qpos[1]" in capsys.readouterr().out
    assert plan_command("verify", out, "--dataset", human_lift) == 0
    assert plan_command("show", out) == 0
    plan, store = load_plan(out), robomimic.read(human_lift)
    for row, (begin, length) in enumerate(zip(plan.begins_E, plan.lengths_E, strict=True)):
        frames = plan.events_J[plan.rows_of(plan.events_J) == row] - begin
        grip = np.abs(store.obs["robot0_gripper_qpos"][begin : begin + length]).max(1)
        closing = int(np.argmin(np.diff(grip)))  # where the fingers close fastest
        assert np.abs(frames - closing).min() <= 6
    shares = event_shares(plan)
    assert shares is not None
    assert shares[1] > 1.5 * shares[0]


# The image


def drawn(plan: Any) -> list[dict[str, Any]]:
    """The traces of the heatmap: heatmaps of what is no start and of anchors, then marks."""
    traces: list[dict[str, Any]] = json.loads(heatmap(plan).spec)["data"]
    return traces


def numbers(value: Any) -> np.ndarray:
    """An array as plotly writes it (base64 with its type, or a list)."""
    import base64

    if isinstance(value, dict):
        flat = np.frombuffer(base64.b64decode(value["bdata"]), np.dtype(value["dtype"]))
        shape = [int(n) for n in str(value["shape"]).split(",")] if "shape" in value else [-1]
        return flat.reshape(shape)
    return np.array(value, float)


def test_the_heatmap_shows_the_plan() -> None:
    plan = tiny_plan((20, 31, 12, 25), stride_S=3, gripper_event_enabled=True, gripper_dims="0", gripper_min_gap=4)
    traces = drawn(plan)
    z = numbers(traces[1]["z"])
    assert z.shape == (4, 31)
    expected = np.full((4, 31), np.nan)
    for anchor, weight, stage in zip(plan.anchors_P, plan.weights_P, plan.stages_P, strict=True):
        row = int(plan.rows_of(np.array([anchor]))[0])
        frame = anchor - plan.begins_E[row]
        end = min(frame + 3, plan.lengths_E[row])
        expected[row, frame:end] = stage + 0.999 * weight / plan.weights_P.max()
    np.testing.assert_allclose(z, expected)
    grey = numbers(traces[0]["z"])
    inside = np.arange(31) < plan.lengths_E[:, None]
    np.testing.assert_array_equal(~np.isnan(grey), inside & np.isnan(z))
    marks = next(t for t in traces if t.get("name") == "gripper event")
    at = plan.begins_E[numbers(marks["y"]).astype(int)] + numbers(marks["x"]).astype(int)
    assert at.tolist() == plan.events_J.tolist()
    assert [t["name"] for t in traces if str(t.get("name")).startswith("stage")] == [f"stage {k}" for k in range(4)]


def test_shares_of_events() -> None:
    """Counted window by window: a window ends with its episode."""
    plan = tiny_plan(
        (20, 31, 12, 25), gripper_event_enabled=True, gripper_dims="0", valid_start_tail_keep=3, stride_S=1
    )
    holds = []
    for anchor, row in zip(plan.anchors_P.tolist(), plan.rows_of(plan.anchors_P).tolist(), strict=True):
        end = min(anchor + 4, int(plan.begins_E[row] + plan.lengths_E[row]))
        holds.append(any(t in set(plan.events_J.tolist()) for t in range(anchor, end)))
    shares = event_shares(plan)
    assert shares is not None
    assert shares[0] == pytest.approx(np.mean(holds))
    assert shares[1] == pytest.approx(plan.weights_P[holds].sum() / plan.weights_P.sum())
    assert event_shares(tiny_plan()) is None


def test_large_plans_are_drawn_in_part() -> None:
    plan = plan_of(tiny_store((8,) * 300 + (3000,)), stride_S=1)
    assert numbers(drawn(plan)[1]["z"]).shape == (MAX_ROWS, 8)
    long = plan_of(tiny_store((3001, 50)), stride_S=2)
    z = numbers(drawn(long)[1]["z"])
    assert z.shape == (2, 501)
    assert z.shape[1] <= MAX_COLUMNS
    assert np.isfinite(z[0, :499]).all()


# The documentation


def test_the_table_of_the_guide() -> None:
    """docs/plans.md: every flag of build is in the table with its default and has tests, no flag is made up."""
    text = (ROOT / "docs/plans.md").read_text()
    table = text.split("## The table of the guide")[1].split("## ")[0]
    defaults = {f.name: f.default for f in dataclasses.fields(PlanConfig) if f.name not in ADDED}
    named = {f.replace("-", "_") for f in re.findall(r"`--([\w-]+)`", table)}
    assert named >= defaults.keys()
    known = {f.name for a in (BuildArgs, VerifyArgs, ShowArgs) for f in dataclasses.fields(a)}
    guide_only = {"repo_id", "train_config_name", "no_replacement"}
    assert named <= known | guide_only
    for row in table.splitlines():
        flags = re.findall(r"`--([\w-]+)`", row.split("|")[1]) if row.startswith("| `--") else []
        for flag in (f.replace("-", "_") for f in flags):
            value = defaults.get(flag)
            if isinstance(value, int | float | str) and not isinstance(value, bool) and value:
                assert re.search(rf"\b{re.escape(f'{value:g}' if isinstance(value, float) else str(value))}\b", row), (
                    flag
                )
    assert len(guides.PLAN) >= 38
    guides.rows_are_covered(table, guides.PLAN)


def test_commands_of_the_documentation() -> None:
    """Every command that docs/plans.md shows has only flags that exist."""
    flags = {"build": BuildArgs, "verify": VerifyArgs, "show": ShowArgs}
    text = (ROOT / "docs/plans.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^python -m raybc\.plan (\w+) (.*)$", text, flags=re.M)
    assert {c for c, _ in commands} == set(flags)
    for command, rest in commands:
        known = {f.name for f in dataclasses.fields(flags[command])}
        assert {f.replace("-", "_") for f in re.findall(r"--([\w-]+)", rest.split("#")[0])} <= known
