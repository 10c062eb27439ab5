"""`verify` finds a fault that is planted, and nothing else; what is good has no findings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.data import formats, units
from raybc.data.episodes import EpisodeStore
from raybc.data.findings import Finding
from raybc.data.fit import TaskView
from raybc.data.formats import lerobot_write
from raybc.data.scan import source_of
from raybc.data.verify import verify
from raybc.data.videos import write_video
from raybc.envs.pointmass import POINTMASS
from raybc.envs.spec import spec_of_task
from tests.helpers import demonstrations, tiny_store


@functools.cache
def good() -> EpisodeStore:
    """Ten successful demonstrations of the point mass, with flags at their ends."""
    found = demonstrations(POINTMASS, 10)
    terminals = np.zeros(len(found.actions_NA), bool)
    terminals[found.episode_ends - 1] = True
    limit = np.ones(2, np.float32)
    return dataclasses.replace(
        found,
        terminals_N=terminals,
        success_E=np.ones(10, bool),
        action_range=(-limit, limit),
        tasks=("go around",) * 10,
    )


@functools.cache
def pointmass_view() -> TaskView:
    return TaskView(POINTMASS, spec_of_task(POINTMASS))


def findings(
    data: EpisodeStore, folder: Path, format: str = "store", view: TaskView | None = None, horizon: int = 0
) -> tuple[Finding, ...]:
    path = folder / ("a.hdf5" if format in ("robomimic", "libero") else "a")
    formats.get(format).write_store(path, data)
    report = verify(source_of(str(path)), view, horizon)
    if report.readable:
        assert (report.episodes, report.transitions) == (data.num_episodes, len(data.actions_NA))
    assert all(f.file == str(path) and f.expected and f.found and f.advice for f in report.findings)
    return report.findings


def only(found: tuple[Finding, ...]) -> Finding:
    assert len(found) == 1, found
    return found[0]


def changed(**changes: Any) -> EpisodeStore:
    return dataclasses.replace(good(), checked=True, **changes)


def array(values: np.ndarray | None, change: Callable[[np.ndarray], None]) -> np.ndarray:
    assert values is not None
    copy = values.copy()
    change(copy)
    return copy


def rows(episode: int) -> slice:
    return slice(int(good().episode_starts[episode]), int(good().episode_ends[episode]))


@pytest.mark.parametrize("format", ["store", "robomimic", "lerobot", "libero", "minari", "rlds"])
def test_good_data_have_no_findings(format: str, tmp_path: Path) -> None:
    assert findings(good(), tmp_path, format, pointmass_view() if format != "minari" else None, 8) == ()


# What is wrong with the numbers


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["goal", "actions", "rewards"])
def test_numbers_that_are_not_finite(key: str, value: float, tmp_path: Path) -> None:
    def break_two(values: np.ndarray) -> None:
        values[rows(3).start + 2] = value
        values[rows(7).stop - 1] = value

    data = good()
    change: dict[str, Any] = {
        "goal": {"obs": {**data.obs, "goal": array(data.obs["goal"], break_two)}},
        "actions": {"actions_NA": array(data.actions_NA, break_two)},
        "rewards": {"rewards_N": array(data.rewards_N, break_two)},
    }[key]
    found = only(findings(changed(**change, success_E=None, action_range=None), tmp_path, "robomimic"))
    assert (found.severity, found.kind, found.key, found.episodes) == ("error", "not_finite", key, (3, 7))


def test_a_dimension_that_never_changes(tmp_path: Path) -> None:
    obs = {**good().obs, "state": array(good().obs["state"], lambda x: x[:, 2].fill(1.5))}
    found = only(findings(changed(obs=obs), tmp_path))
    assert (found.severity, found.kind, found.key, found.found) == (
        "warning",
        "constant",
        "state[2]",
        "1.5 at every step",
    )


# Ranges and units


def test_actions_beyond_the_declared_range(tmp_path: Path) -> None:
    def push(actions: np.ndarray) -> None:
        actions[rows(4).start, 1] = 1.7
        actions[rows(2).start, 1] = -1.2

    found = only(findings(changed(actions_NA=array(good().actions_NA, push)), tmp_path))
    assert (found.severity, found.kind, found.key, found.episodes) == ("error", "action_range", "actions[1]", (2, 4))
    assert (found.expected, found.found) == ("-1 to 1, the range of the data themselves", "1.7 in dimension 1")


def test_actions_beyond_the_environments_range(tmp_path: Path) -> None:
    """People push harder than a controller follows: no error."""
    data = changed(actions_NA=array(good().actions_NA, lambda a: a[rows(4)].fill(-3.0)), action_range=None)
    found = findings(data, tmp_path, view=pointmass_view())
    assert [(f.severity, f.kind, f.key, f.episodes) for f in found] == [
        ("warning", "action_range", "actions[0, 1]", (4,))
    ]
    part = f"({100 * (rows(4).stop - rows(4).start) / len(good().actions_NA):.2g} % of the steps)"
    assert found[0].found == f"-3 in dimension 0 {part}; -3 in dimension 1 {part}"


def test_rounding_is_not_beyond_a_range(tmp_path: Path) -> None:
    def round_up(actions: np.ndarray) -> None:
        actions[5] = 1.0 + 1e-6

    assert findings(changed(actions_NA=array(good().actions_NA, round_up)), tmp_path) == ()


PIXELS = (np.zeros(2, np.float32), np.full(2, 512, np.float32))


def in_pixels(actions: np.ndarray) -> np.ndarray:
    return ((actions + 1) * 256).astype(np.float32)


@pytest.mark.parametrize("declared", [True, False])
def test_normalised_actions_where_pixels_are_declared(declared: bool, tmp_path: Path) -> None:
    space = dataclasses.replace(pointmass_view().probe, action_low=PIXELS[0], action_high=PIXELS[1])
    view = TaskView(POINTMASS, space)
    found = only(
        findings(changed(action_range=PIXELS), tmp_path)
        if declared
        else findings(changed(action_range=None), tmp_path, view=view)
    )
    assert (found.severity, found.kind) == ("error", "action_units")
    assert "0 to 512" in found.expected
    assert "look normalised" in found.found
    right = changed(actions_NA=in_pixels(good().actions_NA), action_range=PIXELS)
    assert findings(right, tmp_path / "right", view=view) == ()


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_actions_in_pixels_where_normalised_ones_are_declared(shift: float, tmp_path: Path) -> None:
    """Also where some of them happen to lie between -1 and 1."""
    pixels = in_pixels(good().actions_NA) + np.float32(shift)
    found = only(findings(changed(actions_NA=pixels), tmp_path))
    assert (found.severity, found.kind) == ("error", "action_units")
    assert "-1 to 1" in found.expected
    assert "look not normalised" in found.found
    found = only(findings(changed(actions_NA=pixels, action_range=None), tmp_path / "env", view=pointmass_view()))
    assert found.kind == "action_units"


def pixel_view() -> TaskView:
    """A point mass that is observed in pixels."""
    probe = pointmass_view().probe
    return TaskView(POINTMASS, dataclasses.replace(probe, starts={k: (v + 2) * 512 for k, v in probe.starts.items()}))


def observed(scale: float, shift: float) -> dict[str, np.ndarray]:
    return {k: ((v + shift) * scale).astype(np.float32) for k, v in good().obs.items()}


def test_observations_in_other_units(tmp_path: Path) -> None:
    cases = {"normalised": (good().obs, pixel_view()), "pixels": (observed(512, 2), pointmass_view()),
             "tiny": (observed(1e-3, 0), pointmass_view())}  # fmt: skip
    for name, (obs, view) in cases.items():
        found = findings(changed(obs=obs), tmp_path / name, view=view)
        assert {(f.severity, f.kind) for f in found} == {("error", "observation_units")}, name
        assert {f.key.split("[")[0] for f in found} <= {"state", "goal"}
    assert findings(changed(obs=observed(512, 2)), tmp_path / "right", view=pixel_view()) == ()


def test_another_spread_needs_dimensions_that_vary() -> None:
    rng = np.random.default_rng(0)
    starts, recorded = rng.normal(size=(3, 4)), rng.normal(size=(50, 4))
    assert units.other_spread(starts, recorded) is None
    assert units.other_spread(starts, 1000 * recorded) is not None
    assert units.other_spread(1000 * starts, recorded) is not None
    one = recorded * [1000, 1, 1000, 1000]
    assert units.other_spread(starts, one) is None, "one dimension agrees"
    assert units.other_spread(starts * 0, 1000 * recorded) is None, "a start that never varies tells nothing"
    assert units.other_spread(starts[:, :1], 1000 * recorded[:, :1]) is None, "a single dimension may be chance"


def test_data_of_another_task(tmp_path: Path) -> None:
    found = only(findings(changed(obs={"state": good().obs["state"]}), tmp_path, view=pointmass_view()))
    assert (found.severity, found.kind) == ("error", "task")
    assert "observation 'goal' of environment 'pointmass' is missing" in found.found


# Episodes


def test_episodes_shorter_than_a_chunk(tmp_path: Path) -> None:
    lengths = np.diff(good().episode_ends, prepend=0)
    horizon = int(np.sort(lengths)[2]) + 1
    found = only(findings(good(), tmp_path, horizon=horizon))
    assert (found.severity, found.kind) == ("warning", "short")
    assert found.episodes == tuple(np.flatnonzero(lengths < horizon).tolist())
    assert f"{lengths.min()} steps" in found.found
    found = only(findings(good(), tmp_path / "all", horizon=int(lengths.max()) + 1))
    assert (found.severity, len(found.episodes)) == ("error", 10)
    assert findings(good(), tmp_path / "none", horizon=int(lengths.min())) == ()


def test_a_done_flag_within_an_episode(tmp_path: Path) -> None:
    def early(flags: np.ndarray) -> None:
        flags[[rows(1).start + 3, rows(6).stop - 2]] = True

    for format in ("store", "robomimic"):
        data = changed(terminals_N=array(good().terminals_N, early))
        found = only(findings(data, tmp_path / format, format))
        assert (found.severity, found.kind, found.key, found.episodes) == ("error", "done_early", "terminals", (1, 6))
        assert f"step 3 of {rows(1).stop - rows(1).start} (episode 1)" in found.found


def test_flags_at_every_step_of_success_are_robomimics(tmp_path: Path) -> None:
    def lasting(values: np.ndarray) -> None:
        values[rows(2).stop - 4 :][:4] = 1

    data = changed(terminals_N=array(good().terminals_N, lasting), rewards_N=array(good().rewards_N, lasting))
    assert findings(data, tmp_path, "robomimic") == ()


def test_a_missing_done_flag(tmp_path: Path) -> None:
    data = changed(terminals_N=array(good().terminals_N, lambda x: x[rows(5)].fill(False)))
    found = only(findings(data, tmp_path))
    assert (found.severity, found.kind, found.key, found.episodes) == ("error", "done_missing", "terminals", (5,))
    success = array(good().success_E, lambda x: x[5:6].fill(False))
    assert findings(dataclasses.replace(data, success_E=success), tmp_path / "failed") == ()
    never = changed(terminals_N=np.zeros_like(good().terminals_N))
    assert findings(never, tmp_path / "never") == (), "an environment that goes on after success"


def twice(first: int, second: int) -> EpisodeStore:
    """The episode `first` again in place of `second`."""
    data = good()
    order = [second if e == first else e for e in range(10)]
    index = np.concatenate([np.arange(rows(e).start, rows(e).stop) for e in order])
    ends = np.cumsum([rows(e).stop - rows(e).start for e in order])
    assert data.terminals_N is not None
    return changed(
        obs={k: v[index] for k, v in data.obs.items()}, actions_NA=data.actions_NA[index],
        rewards_N=data.rewards_N[index], terminals_N=data.terminals_N[index], episode_ends=ends,
    )  # fmt: skip


def test_an_episode_that_is_there_twice(tmp_path: Path) -> None:
    found = only(findings(twice(2, 7), tmp_path))
    assert (found.severity, found.kind, found.episodes) == ("warning", "duplicate", (2, 7))
    found = only(findings(twice(9, 4), tmp_path / "leak"))  # 9 is the split `valid`
    assert (found.severity, found.episodes) == ("error", (4, 9))
    assert "train and valid" in found.found


# Files


def with_video(folder: Path, version: str) -> tuple[Path, np.ndarray]:
    """A LeRobot set with three videos of 5, 9 and 3 frames (v2.1), or one of 17 (v3.0)."""
    data = tiny_store()
    frames = np.random.default_rng(0).integers(0, 256, (17, 16, 16, 3), np.uint8)
    lerobot_write.write_store(folder / "a", dataclasses.replace(data, obs={**data.obs, "eye": frames}), version=version)
    return folder / "a", frames


@pytest.mark.parametrize(("version", "episodes"), [("v3.0", (1, 2)), ("v2.1", (1,))])
def test_frames_that_are_missing(version: str, episodes: tuple[int, ...], tmp_path: Path) -> None:
    path, frames = with_video(tmp_path, version)
    source = source_of(str(path))
    assert verify(source, images=True).findings == ()
    name, first = ("file-000.mp4", 0) if version == "v3.0" else ("episode_000001.mp4", 5)
    [video] = path.rglob(name)
    write_video(video, frames[first:12], 10)
    found = only(verify(source).findings)
    assert (found.severity, found.kind, found.key, found.file) == (
        "error",
        "video",
        "observation.images.eye",
        str(video),
    )
    assert found.episodes == episodes
    assert found.found == f"{12 - first} frames"
    write_video(video, np.concatenate([frames, frames])[first : 20 if version == "v3.0" else 19], 10)
    assert only(verify(source).findings).severity == "warning", "too many"
    video.write_bytes(video.read_bytes()[:600])
    assert only(verify(source).findings).severity == "error"
    video.unlink()
    assert only(verify(source).findings).severity == "warning", "images are not asked for"
    assert {(f.severity, f.kind) for f in verify(source, images=True).findings} == {
        ("error", "video"), ("error", "unreadable"),
    }  # fmt: skip


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "a"
    formats.get("store").write_store(path, good())
    file = path / "actions.npy"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    found = only(verify(source_of(str(path))).findings)
    assert (found.severity, found.kind) == ("error", "unreadable")
    assert "actions.npy: damaged" in found.found


# Real data


def test_human_demonstrations_have_no_errors(human_lift: Path) -> None:
    assert verify(source_of(str(human_lift)), horizon=16).findings == ()


def test_the_published_pusht(human_pusht: Path, human_pusht_npz: Path) -> None:
    """Its flags stand one step before the end of each episode; its video is not here."""
    found = verify(source_of(str(human_pusht))).findings
    assert [(f.severity, f.kind, len(f.episodes)) for f in found] == [
        ("error", "done_early", 206),
        ("warning", "video", 206),
    ]
    assert verify(source_of(str(human_pusht_npz), "pusht"), pusht_view()).findings == ()


def pusht_view() -> TaskView:
    pytest.importorskip("gym_pusht")
    from raybc.envs.pusht import PUSHT as TASK

    return TaskView(TASK, spec_of_task(TASK))


def test_pusht_in_normalised_units(human_pusht_npz: Path, tmp_path: Path) -> None:
    """The classic error: actions and states scaled to [-1, 1] beforehand."""
    data = formats.read(human_pusht_npz)
    state = data.obs["state"] / 256 - 1
    obs, actions = {"state": state.astype(np.float32)}, (data.actions_NA / 256 - 1).astype(np.float32)
    formats.get("episode_ends").write_store(tmp_path / "a.npz", dataclasses.replace(data, obs=obs, actions_NA=actions))
    found = verify(source_of(str(tmp_path / "a.npz"), "pusht"), pusht_view()).findings
    assert {(f.severity, f.kind) for f in found} == {("error", "action_units"), ("error", "observation_units")}
