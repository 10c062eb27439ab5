"""Training without a simulator: what is measured, what is chosen by it, and what comes of it on a robot.

Letters: B windows, H chunk, A action dim.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

import raybc
from raybc.bundle import PolicyBundle
from raybc.cli import run_main
from raybc.data.action_form import ActionForm
from raybc.data.episodes import EpisodeStore
from raybc.data.labels import action_names
from raybc.export.card import _of_training
from raybc.find_bundle import find_bundle
from raybc.inference.agent import Agent
from raybc.inference.held_out import predict
from raybc.inference.offline import offline_error
from raybc.run_folder import TrainingFolder
from raybc.train.__main__ import main
from raybc.train.offline import measure
from raybc.types import SampleSetting, UserError
from tests.robots import JOINTS, recorded_robot

SMALL = (
    "--hidden_width=32", "--hidden_depth=2", "--batch_size=32", "--action_chunking", "--horizon_length=4", "--lr=1e-3",
    "--log_interval=50",
)  # fmt: skip


def robot(path: Path, episodes: int = 10, masks: dict[str, list[int]] | None = None, image: bool = False) -> Path:
    """Demonstrations of an arm that goes to a goal: the action is a linear function of what is seen."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for number in range(episodes):
            group = file.create_group(f"data/demo_{number}")
            goal = rng.uniform(-1, 1, 3)
            joints = rng.uniform(-1, 1, (12, 3))
            group["obs/joints"], group["obs/goal"] = joints, np.tile(goal, (12, 1))
            if image:
                group["obs/front_image"] = rng.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
            action = np.zeros((12, 4), np.float32)
            action[:, :3] = 10 * (goal - joints)
            group["actions"] = action  # the last dimension never changes
            group["rewards"], group["dones"] = np.zeros(12), np.eye(1, 12, 11)[0]
        for split, members in (masks or {}).items():
            file[f"mask/{split}"] = np.array([f"demo_{i}" for i in members], dtype="S")
    return path


def train(*flags: Any) -> int:
    return run_main(lambda: main([*map(str, flags)]))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


class Known(Agent):
    """An agent that returns what a function of the physical observation says."""

    def __init__(self, bundle: PolicyBundle, function: Any) -> None:
        super().__init__(bundle)
        self._function = function

    def chunks(self, obs: Any, noise_BHA: np.ndarray, setting: SampleSetting) -> np.ndarray:
        chunks: np.ndarray = self._function(obs.low_dim, noise_BHA.shape)
        return chunks.astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on data alone, with two observation steps."""
    folder = tmp_path_factory.mktemp("offline")
    data = robot(folder / "robot.hdf5", masks={"train": [0, 1, 2, 3, 4, 5, 6], "valid": [7, 8, 9]})
    flags = ("--training_steps=200", "--eval_interval=100", "--obs_steps=2", "--seeds", 0, 1, "--out", folder / "run")
    assert train("--dataset", data, *SMALL, *flags) == 0
    return folder


def test_the_error_of_known_policies(trained: Path) -> None:
    """0 for the recorded actions, 1 for the mean action, and against loops over steps for a policy in between."""
    bundle = PolicyBundle.load(find_bundle(next((trained / "run").glob("sd000*")))[0])
    store = _store(trained / "robot.hdf5")
    held = np.array([7, 8, 9])
    rows_ = np.concatenate([np.arange(store.episode_starts[e], store.episode_ends[e]) for e in held])
    mean_A = store.actions_NA[rows_].astype(np.float64).mean(0)

    def constant(_: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(mean_A, shape)

    found = offline_error(Known(bundle, constant), store, held, SampleSetting(execute_steps=1))
    assert found.error == pytest.approx(1.0, abs=1e-6)
    assert found.windows == len(rows_)
    assert found.episodes == (7, 8, 9)
    np.testing.assert_allclose(found.rmse_A, store.actions_NA[rows_].std(0), rtol=1e-5)

    keys = list(bundle.obs_sizes)
    where = {k: slice(sum(bundle.obs_sizes[j] for j in keys[:i]), None) for i, k in enumerate(keys)}

    def next_action(low_dim_BTO: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        goal, joints = (low_dim_BTO[:, -1, where[k]][:, :3] for k in ("goal", "joints"))
        chunk = np.zeros(shape)
        chunk[..., :3] = (10 * (goal - joints))[:, None]
        return chunk

    exact = offline_error(Known(bundle, next_action), store, held, SampleSetting(execute_steps=1))
    assert exact.error < 1e-5, "the first action of a chunk is the recorded one"
    assert exact.interval is None or exact.interval[1] < 1e-5
    whole = offline_error(Known(bundle, next_action), store, held, SampleSetting())
    spread = store.actions_NA[rows_].astype(np.float64).std(0)[:3]
    squares = []
    for episode in held:
        begin, end = store.episode_starts[episode], store.episode_ends[episode]
        windows = []
        for row in range(begin, end):
            steps = range(row, min(row + 4, end))
            errors = [(store.actions_NA[row] - store.actions_NA[s]).astype(np.float64)[:3] / spread for s in steps]
            windows.append(np.mean(np.square(errors)))
        squares.append(np.mean(windows))
    assert whole.error == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-5)
    np.testing.assert_allclose(whole.episode_error_E, np.sqrt(squares), rtol=1e-5)
    assert whole.interval is not None
    assert whole.interval[0] < whole.error < whole.interval[1]
    assert whole.step_error_H[0] < 1e-5
    assert (whole.step_error_H[1:] > 0.5).all()


def test_more_samples_change_no_error(trained: Path) -> None:
    """The first sample is the same whatever else is predicted, and chunks that are later belong to later rows."""
    bundle = PolicyBundle.load(find_bundle(next((trained / "run").glob("sd000*")))[0])
    store, held = _store(trained / "robot.hdf5"), np.array([7, 8, 9])
    agent, setting = Agent(bundle), SampleSetting(eval_temperature=1.0)
    one = predict(agent, store, held, setting)
    many = predict(agent, store, held, setting, samples=3, is_shifted=True)
    np.testing.assert_array_equal(one.chunks_KBHA[0], many.chunks_KBHA[0])
    assert many.chunks_KBHA.std(0).max() > 0
    assert len(predict(agent, store, held, SampleSetting(), samples=3).chunks_KBHA) == 1, "without noise all are alike"
    still = predict(agent, store, held, SampleSetting(), is_shifted=True)
    assert still.later_BHA is not None
    assert still.shift == 2
    starts = np.cumsum([0, 12, 12])
    for start in starts:  # twelve windows of each episode, one a step
        np.testing.assert_allclose(still.later_BHA[start : start + 10], still.chunks_KBHA[0, start + 2 : start + 12])
        assert np.isnan(still.later_BHA[start + 10 : start + 12]).all(), "beyond the end"


def _store(path: Path) -> EpisodeStore:
    from raybc.data import formats

    return formats.read(path)


def test_what_a_run_leaves(trained: Path) -> None:
    for seed in (0, 1):
        run = TrainingFolder(next((trained / "run").glob(f"sd00{seed}*")))
        measured = rows(run.offline_csv)
        assert [r["step"] for r in measured] == ["100", "200"]
        errors = [float(r["valid/error"]) for r in measured]
        assert 0 < errors[1] < errors[0] < 3, "it learns"
        assert run.best.resolve().name == f"checkpoint_{200 if errors[1] <= errors[0] else 100}"
        assert not run.eval_csv.exists()
        assert all(r["valid/loss"] for r in rows(run.train_csv) if int(r["step"]) % 100 == 0), "the held-out loss"
        details = json.loads(run.offline_json.read_text())
        assert details["step"] == 200
        assert details["rmse"] == [float(measured[-1][f"valid/rmse_j{i}"]) for i in (1, 2, 3, 4)]
        assert details["episodes"] == [7, 8, 9]
        flags = json.loads(run.flags.read_text())
        assert (flags["env_name"], flags["holdout_seed"]) == ("none", -1)
        bundle = PolicyBundle.load(find_bundle(run.path, "best")[0])
        agent = Agent(bundle)
        again = offline_error(agent, _store(trained / "robot.hdf5"), np.array([7, 8, 9]), bundle.config.sample_setting)
        assert again.error == min(errors)


def test_the_policy_acts(trained: Path) -> None:
    policy = raybc.load(next((trained / "run").glob("sd000*")), "best")
    policy.reset(0)
    action = policy.act({"joints": np.zeros(3), "goal": np.full(3, 0.5)})
    assert action.shape == (4,)
    assert np.isfinite(action).all()


def test_an_interrupted_run_goes_on_to_the_same_numbers(trained: Path, tmp_path: Path) -> None:
    common = ("--dataset", trained / "robot.hdf5", *SMALL, "--training_steps=120", "--eval_interval=60", "--threads=1",
              "--save_interval=60")  # fmt: skip
    assert train(*common, "--out", tmp_path / "whole") == 0
    assert train(*common, "--out", tmp_path / "parts", "--training_steps=60") == 0
    assert train(*common, "--out", tmp_path / "parts", "--resume") == 0
    whole, parts = TrainingFolder(tmp_path / "whole"), TrainingFolder(tmp_path / "parts")
    assert rows(whole.offline_csv) == rows(parts.offline_csv)
    whole.offline_csv.write_text("".join(whole.offline_csv.read_text().splitlines(keepends=True)[:1]))
    assert train(*common, "--out", tmp_path / "whole", "--resume") == 0
    assert rows(whole.offline_csv) == rows(parts.offline_csv), "measurements that are missing are made"


def test_the_largest_error_has_the_name_of_its_joint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_robot(tmp_path / "my_robot", episodes=5)
    flags = (*SMALL, "--training_steps=2", "--eval_interval=2", "--threads=1", "--out", tmp_path / "run")
    assert train("--dataset", tmp_path / "my_robot", *flags) == 0
    said = " ".join(capsys.readouterr().out.split())
    details = json.loads(TrainingFolder(tmp_path / "run").offline_json.read_text())
    assert details["names"] == list(JOINTS)
    worst = int(np.argmax(details["rmse"]))
    assert f"largest in action {worst + 1} ({JOINTS[worst]}): {details['rmse'][worst]:.3g}" in said


def test_actions_without_names_have_numbers(trained: Path) -> None:
    run = TrainingFolder(next((trained / "run").glob("sd000*")))
    assert "names" not in json.loads(run.offline_json.read_text())
    assert action_names(_store(trained / "robot.hdf5")) == [""] * 4


def test_another_metric(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checkpoints are compared by it, the file has it beside the error, and a resume keeps it."""
    flags = ("--dataset", trained / "robot.hdf5", *SMALL, "--eval_temperature=1", "--eval_interval=10")
    place = TrainingFolder(tmp_path / "run")
    metric = "--metric=valid_mean_of_samples"
    assert train(*flags, "--training_steps=20", metric, "--out", place.path) == 0
    assert "held-out error of the mean sample" in " ".join(capsys.readouterr().out.split())
    assert train(*flags, "--training_steps=30", "--out", place.path, "--resume") == 0
    measured = rows(place.offline_csv)
    assert [r["metric"] for r in measured] == ["valid_mean_of_samples"] * 3
    assert all(float(r["score_low"]) < float(r["valid/score"]) < float(r["valid/error"]) for r in measured)
    assert all(0 < float(r["valid/cosine"]) < 2 for r in measured)
    found, scores = place.scores()
    assert found.name == "valid_mean_of_samples"
    assert scores == {int(r["step"]): float(r["valid/score"]) for r in measured}
    assert json.loads(place.offline_json.read_text())["score"] == float(measured[-1]["valid/score"])
    card = _of_training(place, 30).text
    assert f"Held-out error of the mean sample {found.show(scores[30])} (95 % interval " in card
    assert "Held-out error " in card.partition("several samples")[2], "the error is named as well"
    assert train(*flags, "--training_steps=40", "--metric=valid_error", "--out", place.path, "--resume") == 0
    found, scores = place.scores()
    assert found.name == "valid_error"
    assert scores == {int(r["step"]): float(r["valid/error"]) for r in rows(place.offline_csv)}, "every row has it"


def test_measurements_of_earlier_releases(trained: Path, tmp_path: Path) -> None:
    """They were compared by the error, and still are."""
    place = TrainingFolder(tmp_path)
    former = "step,valid/error,low,high,episodes,windows,valid/rmse_j1\n10,0.5,0.4,0.6,3,36,0.1\n20,0.7,,,3,36,0.1\n"
    place.offline_csv.write_text(former)
    bundle = find_bundle(next((trained / "run").glob("sd000*")))[0]
    assert place.scores()[1] == {10: 0.5, 20: 0.7}
    config = PolicyBundle.load(bundle).config
    measure(place, bundle, config, _store(trained / "robot.hdf5"), 30)
    measured = rows(place.offline_csv)
    assert [r["valid/error"] for r in measured[:2]] == ["0.5", "0.7"]
    assert [r["metric"] for r in measured] == ["", "", "valid_error"]
    assert place.scores()[1].keys() == {10, 20, 30}


def test_without_a_split_episodes_are_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = robot(tmp_path / "robot.hdf5")
    flags = ("--training_steps=20", "--eval_interval=0", "--out", tmp_path / "run")
    assert train("--dataset", data, *SMALL, *flags) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the policy sees goal, joints and gives 4 numbers. No success rate is measured" in out
    assert "no split `valid`: 2 of 10 episodes are held out (--holdout_seed=0)" in out
    run = TrainingFolder(tmp_path / "run")
    assert json.loads(run.flags.read_text())["holdout_seed"] == 0
    assert [r["step"] for r in rows(run.offline_csv)] == ["20"], "only at the end"
    capsys.readouterr()
    assert train("--dataset", data, *SMALL, *flags, "--resume", "--log_interval=10") == 0, "the same run"


def test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = robot(tmp_path / "robot.hdf5", image=True)
    flags = (*SMALL, "--training_steps=4", "--eval_interval=4", "--eval_temperature=0")
    assert train("--dataset", data, *flags, "--out", tmp_path / "state") == 0
    assert "front_image" not in PolicyBundle.load(find_bundle(tmp_path / "state")[0]).images
    assert train("--dataset", data, *flags, "--encoder=impala_small", "--out", tmp_path / "image") == 0
    assert PolicyBundle.load(find_bundle(tmp_path / "image")[0]).images == {"front_image": (16, 16, 3)}
    capsys.readouterr()
    plain = robot(tmp_path / "plain.hdf5")
    assert train("--dataset", plain, *flags, "--encoder=impala_small", "--out", tmp_path / "no") == 2
    assert "--encoder: expected None, since the dataset has no images, got impala_small" in capsys.readouterr().err


def checkpoints(folder: Path) -> list[int]:
    return sorted(TrainingFolder(folder).checkpoints())


def test_which_checkpoints_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluations need no checkpoint of their own; only the best one is kept besides those that were asked for."""
    common = ("--dataset", robot(tmp_path / "robot.hdf5"), *SMALL, "--training_steps=60", "--eval_interval=10")
    for name, interval, asked in (
        ("last", -1, [60]),
        ("some", 25, [25, 50, 60]),
        ("all", 10, [10, 20, 30, 40, 50, 60]),
    ):
        assert train(*common, f"--save_interval={interval}", "--out", tmp_path / name) == 0
        best = TrainingFolder(tmp_path / name).best_step()
        assert best is not None
        assert checkpoints(tmp_path / name) == sorted({*asked, best})
        assert len(rows(tmp_path / name / "offline.csv")) == 6, "all were measured"
        printed = capsys.readouterr().out
        assert [f"checkpoint_{s}" in printed for s in (10, 60)] == [True, True], "each is named"
    # What an earlier process left stays.
    assert train(*common, "--save_interval=-1", "--training_steps=80", "--out", tmp_path / "all", "--resume") == 0
    assert set(checkpoints(tmp_path / "all")) >= {10, 20, 30, 40, 50, 60, 80}


def test_an_early_stop_announces_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--dataset", robot(tmp_path / "robot.hdf5"), *SMALL, "--training_steps=500", "--eval_interval=0")
    stop = ("--stop_patience=2", "--stop_min_delta=100", "--monitor_interval=5")
    assert train(*common, *stop, "--out", tmp_path / "run") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "step 15: stopped early: the monitored loss has not fallen by more than 100 for 2 checks" in out
    assert TrainingFolder(tmp_path / "run").final_model.resolve().name == "checkpoint_15"
    assert find_bundle(tmp_path / "run", "final")[0].name == "checkpoint_15"
    assert find_bundle(tmp_path / "run", "final_model")[0].name == "checkpoint_15"
    TrainingFolder(tmp_path / "run").final_model.unlink()
    with pytest.raises(UserError, match=r"has not finished, so it has no final_model; use latest, or finish it"):
        find_bundle(tmp_path / "run", "final")


def test_after_a_loss_that_is_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names a checkpoint that exists, or says that there is none."""
    common = ("--dataset", robot(tmp_path / "robot.hdf5"), *SMALL, "--lr=1e30", "--training_steps=50")
    assert train(*common, "--eval_interval=0", "--out", tmp_path / "none") == 1
    assert "no checkpoint had been saved yet (see --save_interval and --eval_interval)" in capsys.readouterr().err
    assert train(*common, "--save_interval=1", "--eval_interval=0", "--out", tmp_path / "one") == 1
    error = capsys.readouterr().err
    last = max(checkpoints(tmp_path / "one"))
    assert f"the last good checkpoint is {tmp_path / 'one' / f'checkpoint_{last}'}" in error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--env_name=none",), "--dataset: expected the data to train on with env_name none, got none"),
        (("--dataset=DATA", "--video_episodes=1"), "--video_episodes: expected 0 without a simulator, got 1"),
        (("--dataset=DATA", "--normalization_keys=arm=min_max"), "--normalization_keys: expected KEY=KIND with keys"),
        (("--dataset=ONE",), "a split by episode: expected at least two episodes, got 1"),
        (("--dataset=DATA", "--horizon_length=50"), "horizon_length: expected at most the longest episode of"),
        (("--dataset=DATA", "--eval_interval=-1"), "--eval_interval: expected at least 0, got -1"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
) -> None:
    paths = {"DATA": robot(tmp_path / "robot.hdf5"), "ONE": robot(tmp_path / "one.hdf5", episodes=1)}
    named = [flag if "DATA" not in flag and "ONE" not in flag else f"--dataset={paths[flag[10:]]}" for flag in flags]
    assert train(*SMALL, "--training_steps=4", *named, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_model_card_says_what_was_not_measured(trained: Path, tmp_path: Path) -> None:
    from raybc.export.__main__ import main as export

    run = next((trained / "run").glob("sd000*"))
    flags = [str(run), "--checkpoint=best", "--push_to_hub=me/robot", "--dry_run", str(tmp_path / "card")]
    assert run_main(lambda: export(flags)) == 0
    text = (tmp_path / "card" / "README.md").read_text()
    assert "A policy for `robot.hdf5`" in text
    assert "No success rate was measured: there is no environment." in text
    best = min(float(r["valid/error"]) for r in rows(TrainingFolder(run).offline_csv))
    assert f"Held-out error {best:.3g} on 3 episodes (95 % interval" in text
    assert "model-index" not in text, "no rate to quote"


def test_commands_that_need_a_simulator_say_so(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from raybc.rollout.__main__ import main as rollout

    run = next((trained / "run").glob("sd000*"))
    assert run_main(lambda: rollout([str(run), "--episodes=1"])) == 2
    error = capsys.readouterr().err
    assert "trained without a simulator" in error
    assert error.count("\n") == 1


def test_no_held_out_episodes() -> None:
    store = EpisodeStore({"x": np.zeros((4, 1), np.float32)}, np.ones((4, 2), np.float32), np.zeros(4, np.float32),
                         np.array([2, 4]))  # fmt: skip
    with pytest.raises(UserError, match="measured on held-out episodes, and there are none"):
        offline_error(None, store, np.zeros(0, np.int64), SampleSetting())  # type: ignore[arg-type]
    agent: Any = SimpleNamespace(bundle=SimpleNamespace(action_form=ActionForm(2)))
    with pytest.raises(UserError, match="actions of the held-out episodes never change"):
        offline_error(agent, store, np.array([1]), SampleSetting())
