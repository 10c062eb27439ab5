"""`raybc rollout --record`: episodes of an evaluation as data sets, read back equal, whatever interrupted it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybc.cli import run_main
from raybc.data import formats
from raybc.data.formats import lerobot_write
from raybc.envs.pointmass import POINTMASS
from raybc.files import read_json
from raybc.inference.agent import Agent
from raybc.rollout.__main__ import main as rollout
from raybc.rollout.episode import Episode, predict_together
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.record import Target, write_recordings
from raybc.rollout.recorder import Recorder, read_recorded, recorded_file
from raybc.types import EpisodeSpec, UserError
from tests.helpers import pointmass_bundle
from tests.tasks import SUITE
from tests.test_format_oracles import LEROBOT, ORACLES


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "bundle"
    pointmass_bundle().save(path)
    return path


def run(bundle: Path, out: Path, *flags: object) -> int:
    return run_main(lambda: rollout([str(bundle), f"--out={out}", "--workers=2", *map(str, flags)]))


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


def test_what_is_recorded_is_what_happened(ray_cpus: float, bundle: Path, tmp_path: Path) -> None:
    """Both formats hold the episodes that the policy runs alone, step by step; unsolved ones, too."""
    out, lerobot, robomimic = tmp_path / "out", tmp_path / "set", tmp_path / "set.hdf5"
    targets = (f"lerobot:{lerobot}", f"robomimic:{robomimic}")
    assert run(bundle, out, "--episodes=6", "--record", *targets) == 0
    rows = rows_of(out)
    assert {row["outcome"] for row in rows} > {"success"}, "solved and unsolved"
    assert not (out / "recorded").exists()
    agent, env = Agent(pointmass_bundle()), POINTMASS.make(None)
    for path in (lerobot, robomimic):
        store = formats.read(path)
        assert store.num_episodes == 6
        assert store.success_E is not None
        assert store.success_E.tolist() == [row["outcome"] == "success" for row in rows]
        assert np.diff(store.episode_ends, prepend=0).tolist() == [row["steps"] for row in rows]
        for i, (start, end) in enumerate(zip(store.episode_starts, store.episode_ends, strict=True)):
            spec = EpisodeSpec("pointmass", "final", i)
            recorder = Recorder()
            setting = agent.bundle.config.sample_setting
            last_obs = _alone(agent, env, spec, setting, recorder).last_obs
            recorder.save(tmp_path / "one.npz", rows[i], "", {}, last_obs)  # type: ignore[arg-type]
            one = read_recorded(tmp_path / "one.npz", tuple(store.obs))
            np.testing.assert_array_equal(store.actions_NA[start:end], one.actions)
            np.testing.assert_array_equal(store.rewards_N[start:end], one.rewards)
            for key, array in store.obs.items():
                np.testing.assert_array_equal(array[start:end], one.obs[key])
            assert rows[i]["return"] == pytest.approx(float(one.rewards.sum()), rel=1e-5)
        assert store.terminals_N is not None
        ended = [row["outcome"] in ("success", "failure") for row in rows]
        assert store.terminals_N[store.episode_ends - 1].tolist() == ended


def _alone(agent: Agent, env: Any, spec: EpisodeSpec, setting: Any, recorder: Recorder) -> Episode:
    episode = Episode(env, agent.bundle, spec, setting, POINTMASS.max_steps, recorder=recorder)
    while episode.outcome is None:
        episode.execute(predict_together(agent, [episode], setting).get()[0])
    return episode


def test_a_killed_recording_neither_loses_nor_repeats_an_episode(
    ray_cpus: float, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows without their file, files without their row and half a store are what kill -9 leaves."""
    flags = ("--tasks", *SUITE, "--episodes_per_task=2", "--max_steps=30")
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert run(bundle, whole, *flags, "--record", f"lerobot:{tmp_path / 'a'}") == 0
    rows = rows_of(whole)
    torn.mkdir()
    (torn / "rollout.json").write_text((whole / "rollout.json").read_text())
    (torn / "episodes.partial.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    (torn / "recorded/store").mkdir(parents=True)
    stray = recorded_file(torn / "recorded", EpisodeSpec(SUITE[1], "final", 1))
    stray.write_bytes(b"half a file")
    capsys.readouterr()
    assert run(bundle, torn, *flags, "--resume", "--record", f"lerobot:{tmp_path / 'b'}") == 0
    assert "resuming" not in capsys.readouterr().out, "the rows had no files"
    a, b = (formats.read(tmp_path / name) for name in "ab")
    assert a.fingerprint() == b.fingerprint()
    assert a.tasks == b.tasks == ("go to the goal", "go slowly", "stay") * 2
    assert run(bundle, torn, *flags, "--resume", "--record", f"lerobot:{tmp_path / 'b'}") == 0
    assert f"already recorded: {tmp_path / 'b'}" in capsys.readouterr().out
    assert run(bundle, torn, *flags, "--overwrite", "--record", f"lerobot:{tmp_path / 'a'}") == 2
    assert "exists, and this evaluation did not write it" in capsys.readouterr().err


@pytest.mark.slow
def test_kill_9_while_recording(bundle: Path, tmp_path: Path) -> None:
    out, target = tmp_path / "out", tmp_path / "set"
    flags = [str(bundle), f"--out={out}", "--workers=1", "--episodes=300", "--record", f"lerobot:{target}"]
    command = [sys.executable, "-m", "raybc", "rollout", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    partial, deadline = out / "episodes.partial.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline:
        if partial.is_file() and len(partial.read_text().splitlines()) >= 20:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "episodes are already measured" in done.stdout
    store = formats.read(target)
    assert store.num_episodes == 300
    assert np.diff(store.episode_ends, prepend=0).tolist() == [row["steps"] for row in rows_of(out)]


# Without simulators


def fake(out: EvaluationFolder, episodes: int, steps: int = 5, error: int = -1) -> tuple[list[EpisodeSpec], list[Any]]:
    """Recorded episodes with images, of which one ended in an error."""
    rng, specs, rows = np.random.default_rng(0), [], []
    for i in range(episodes):
        spec = EpisodeSpec("pointmass", "final", i)
        outcome = "error" if i == error else ("success", "timeout", "failure")[i % 3]
        row: Any = {"outcome": outcome, "index": i, "seed": spec.seed, "steps": steps}
        specs.append(spec)
        rows.append(row)
        if outcome == "error":
            continue
        recorder = Recorder()
        for _ in range(steps):
            obs = {"state": rng.normal(size=4), "camera": rng.integers(0, 256, (16, 24, 3), np.uint8)}
            recorder.before(obs, rng.normal(size=2))
            recorder.after(float(rng.normal()))
        recorder.save(recorded_file(out.recorded, spec), row, f"do {i % 2}", {"env_name": "x"}, obs)
    return specs, rows


def test_images_instructions_and_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = EvaluationFolder(tmp_path / "out")
    specs, rows = fake(out, 7, error=2)
    targets = [Target("lerobot", tmp_path / "set"), Target("robomimic", tmp_path / "set.hdf5")]
    kept = [read_recorded(recorded_file(out.recorded, s), ("state", "camera")) for i, s in enumerate(specs) if i != 2]
    write_recordings(targets, out, specs, rows, fps=10)
    assert "recorded: 6 episodes; 1 that ended in errors left out" in capsys.readouterr().out.replace("\n", " ")
    for target in targets:
        store = formats.read(target.path, images=True)
        np.testing.assert_array_equal(store.obs["camera"], np.concatenate([one.obs["camera"] for one in kept]))
        np.testing.assert_allclose(store.obs["state"], np.concatenate([one.obs["state"] for one in kept]), rtol=1e-6)
        assert store.tasks == tuple(f"do {i % 2}" for i in range(7) if i != 2)
        assert store.success_E is not None
        assert store.success_E.tolist() == [i % 3 == 0 for i in range(7) if i != 2]
    assert recorded_file(out.recorded, specs[0]).is_file(), "--resume needs the others beside the repaired one"
    assert not read_json(out.recorded_json)[str(targets[0].path.resolve())]["complete"]
    specs, rows = fake(out, 7)
    write_recordings(targets, out, specs, rows, fps=10)
    assert formats.read(targets[0].path).num_episodes == 7
    assert not out.recorded.exists()


@pytest.mark.slow
def test_lerobot_loads_a_recorded_set(tmp_path: Path) -> None:
    """Its own package gives the same rows, images, success and instructions."""
    place = next((ORACLES / name for name in ("lerobot", "lerobot_with_needs") if (ORACLES / name).exists()), None)
    if place is None:
        pytest.skip("the lerobot package is missing: see docs/data.md")
    out = EvaluationFolder(tmp_path / "out")
    specs, rows = fake(out, 5, error=3)
    write_recordings([Target("lerobot", tmp_path / "set")], out, specs, rows, fps=10)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{place}{os.pathsep}{ORACLES}/images",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
    }
    command = [sys.executable, "-c", LEROBOT, str(tmp_path / "set"), str(tmp_path / "out.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    store = formats.read(tmp_path / "set", images=True)
    with np.load(tmp_path / "out.npz") as theirs:
        images = theirs["observation.images.camera"].transpose(0, 2, 3, 1) * 255
        np.testing.assert_array_equal(images.round().astype(np.uint8), store.obs["camera"])
        np.testing.assert_array_equal(theirs["observation.state"], store.obs["state"])
        np.testing.assert_array_equal(theirs["action"], store.actions_NA)
        np.testing.assert_array_equal(theirs["next.reward"], store.rewards_N)
        assert theirs["task"].tolist() == [task for task in store.tasks for _ in range(5)]
        assert store.success_E is not None
        assert theirs["next.success"].reshape(4, 5)[:, -1].tolist() == store.success_E.tolist()


def test_statistics_of_many_images_are_those_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(3, 250, (20, 16, 24, 3), np.uint8)
    expected = lerobot_write._stats_of(images)
    monkeypatch.setattr(lerobot_write, "WHOLE", 10)
    for name, values in lerobot_write._stats_of(images).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-12)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_episodes(tmp_path: Path) -> None:
    """Peak memory of assembling 20 and 200 episodes of 150 KB each, in processes of their own."""
    script = (
        "import sys, resource\nfrom pathlib import Path\nfrom tests.test_record import fake\n"
        "from raybc.rollout.folder import EvaluationFolder\nfrom raybc.rollout.record import Target, write_recordings\n"
        "out, n = EvaluationFolder(Path(sys.argv[1])), int(sys.argv[2])\nspecs, rows = fake(out, n, steps=130)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "write_recordings([Target('robomimic', out.path / 'x.hdf5')], out, specs, rows, 10)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    peaks = []
    for n in (20, 200):
        command = [sys.executable, "-c", script, str(tmp_path / str(n)), str(n)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 20_000, f"KB: {peaks}; the episodes are 30 MB"


def test_rerun_has_every_episode(tmp_path: Path) -> None:
    import rerun

    out = EvaluationFolder(tmp_path / "out")
    specs, rows = fake(out, 3)
    one = read_recorded(recorded_file(out.recorded, specs[1]), ("state", "camera"))
    write_recordings([Target("rrd", tmp_path / "x.rrd")], out, specs, rows, fps=10)
    recording = rerun.dataframe.load_recording(str(tmp_path / "x.rrd"))
    names = {column.entity_path for column in recording.schema().component_columns()}
    assert {
        f"/episode_{i}/{name}" for i in range(3) for name in ("actions", "rewards", "obs/state", "obs/camera")
    } <= names
    table = recording.view(index="step", contents="/episode_1/actions").select().read_all()
    column = next(name for name in table.column_names if "Scalar" in name)
    np.testing.assert_allclose(np.array(table[column].to_pylist()), one.actions, rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--record", "lerobt:x"],
            "expected lerobot:DIR, robomimic:FILE.hdf5 or rrd:FILE.rrd, got 'lerobt:x': did you mean",
        ),
        (["--record", "lerobot:out"], "lerobot:out and the evaluation"),
        (["--record", "lerobot:x", "robomimic:x/y.hdf5"], "robomimic:x/y.hdf5 and lerobot:x"),
        (["--record", f"lerobot:{__file__}/x"], "expected a folder that can be written, got"),
        (["--record", "x.hdf5"], "expected lerobot:DIR, robomimic:FILE.hdf5 or rrd:FILE.rrd, got 'x.hdf5'"),
        (["--record", "robomimic:x.zip"], "robomimic: expected a file that ends in .hdf5, got x.zip"),
        (["--record", "lerobot:x", "lerobot:x"], "--record: expected different places"),
        (["--record", "lerobot:x", "--flow_steps=1,2"], "--record: expected one sample setting, got 2"),
        (["--record", "lerobot:."], ". exists, and this evaluation did not write it; choose another place"),
    ],
)
def test_impossible_targets(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    flags: list[str], expected: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(bundle, tmp_path / "out", *flags) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_killed_overwrite_may_be_resumed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set of the evaluation that was replaced is still this folder's."""
    out, target = tmp_path / "out", tmp_path / "set"
    out.mkdir()
    target.mkdir()
    (out / "rollout.json").write_text('{"run_id": "x"}')
    (out / "recorded.json").write_text(json.dumps({str(target.resolve()): {"kind": "lerobot", "complete": True}}))

    def killed(config: Any, folder: EvaluationFolder, begun: Any) -> None:
        (folder.path / "rollout.json").write_text('{"run_id": "x"}')
        begun()
        raise UserError("killed")

    monkeypatch.setattr("raybc.rollout.command.run_evaluation", killed)
    assert run(bundle, out, "--overwrite", "--record", f"lerobot:{target}") == 2
    assert read_json(out / "recorded.json") == {str(target.resolve()): {"kind": "lerobot", "complete": False}}


def test_a_missing_package_and_damaged_files_say_what_to_do(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert run(bundle, tmp_path / "out", "--record", f"rrd:{tmp_path / 'x.rrd'}") == 2
    assert "--record rrd: needs the package rerun: pip install 'raybc[rerun]'" in capsys.readouterr().err
    out = EvaluationFolder(tmp_path / "other")
    specs, rows = fake(out, 2)
    recorded_file(out.recorded, specs[1]).write_bytes(b"half")
    with pytest.raises(UserError, match="expected a recorded episode, got a damaged file"):
        write_recordings([Target("lerobot", tmp_path / "set")], out, specs, rows, fps=10)
    assert not (tmp_path / "set").exists()
