"""Where windows may begin, and what stands beyond the ends of an episode, against the sampler of Diffusion Policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.config.effect import training_key
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import ogbench
from raybc.data.windows import Padding, Windows
from raybc.inference.agent import Agent
from raybc.inference.session import Session
from raybc.train.data import TrainingData, prepare, resolved, window_notes
from raybc.train.loop import PackTrainer
from raybc.types import Batch, Observation, SampleSetting, UserError
from tests.helpers import CPU, pointmass_data, run_train, tiny_config, tiny_data, tiny_store, tiny_trainer
from tests.plans import plan_of as built_plan

LENGTHS = (5, 19, 3, 30, 1)


def sequences(lengths: tuple[int, ...], horizon: int, before: int, after: int) -> Iterator[list[int]]:
    """Diffusion Policy's sequences as rows of the data: they begin up to `before` steps before an episode and end up to
    `after` steps after it, and repeat its first and its last step there."""
    row = 0
    for length in lengths:
        for start in range(-before, length - horizon + after + 1):
            yield [row + min(max(start + k, 0), length - 1) for k in range(horizon)]
        row += length


def everything(store: EpisodeStore, horizon: int, obs_steps: int, padding: Padding) -> tuple[Windows, Batch]:
    windows = Windows.build(
        np.arange(len(store.actions_NA), dtype=np.float32)[:, None],  # an observation is the number of its row
        store.actions_NA.copy(), store.episode_ends, np.arange(store.num_episodes), horizon, CPU, obs_steps,
        padding=padding,
    )  # fmt: skip
    return windows, windows.gather(torch.arange(len(windows.starts))[None])


@pytest.mark.parametrize(("obs_steps", "execute", "horizon"), [(2, 8, 16), (1, 8, 16), (3, 1, 4), (2, 4, 10)])
def test_windows_are_those_of_diffusion_policy(obs_steps: int, execute: int, horizon: int) -> None:
    """Its horizon counts the steps before the current one, so the chunk has obs_steps - 1 fewer."""
    store = tiny_store(LENGTHS)
    for before in range(obs_steps):
        expected = list(sequences(LENGTHS, horizon, before, execute - 1))
        padding = Padding(before, execute - 1, in_loss=True)
        windows, batch = everything(store, horizon - obs_steps + 1, obs_steps, padding)
        assert len(windows.starts) == len(expected)
        np.testing.assert_array_equal(batch.obs.low_dim[0, :, :, 0].numpy(), [rows[:obs_steps] for rows in expected])
        actions = [store.actions_NA[rows[obs_steps - 1 :]] for rows in expected]
        np.testing.assert_array_equal(batch.actions_MBHA[0].numpy(), actions)
        assert not batch.is_pad_MBH.any(), "padded steps are targets"


def test_chunks_from_the_first_observation_on() -> None:
    """With past_actions a chunk is Diffusion Policy's whole sequence: it repeats the first action before an episode."""
    store = tiny_store(LENGTHS)
    obs_steps, horizon, execute = 3, 8, 4
    expected = list(sequences(LENGTHS, horizon, obs_steps - 1, execute - 1))
    _, batch = everything(store, horizon, obs_steps, Padding(-1, execute - 1, in_loss=True, past=obs_steps - 1))
    np.testing.assert_array_equal(batch.actions_MBHA[0].numpy(), [store.actions_NA[rows] for rows in expected])
    assert not batch.is_pad_MBH.any()
    _, masked = everything(tiny_store((6,)), horizon, obs_steps, Padding(after=execute - 1, past=obs_steps - 1))
    assert masked.is_pad_MBH[0].int().tolist() == [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 1, 1, 1],
    ]


def test_past_actions_are_not_executed() -> None:
    """A bundle gives the actions from the current step on, wherever it acts."""
    options = {"obs_steps": 2, "horizon_length": 4, "past_actions": 1, "policy": "regression"}
    bundle = tiny_trainer(data=pointmass_data(), **options).bundle(0)
    assert (bundle.spec.horizon, bundle.spec.ahead) == (4, 3)
    obs, noise = np.zeros((1, 2, 6), np.float32), np.zeros((1, 4, 2), np.float32)
    seen = torch.from_numpy(bundle.obs_normalizer.apply(obs))[None]
    whole = bundle.build().sample(Observation(seen), torch.from_numpy(noise)[None], SampleSetting())
    expected = bundle.action_normalizer.invert(whole[0, 0].numpy())[1:]
    got = Agent(bundle).chunks(Observation(obs), noise, SampleSetting())[0]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert Session(bundle, SampleSetting(), 0).steps_between == 3
    with pytest.raises(UserError, match="execute_steps: expected at most the 3 steps of this policy's chunk, got 4"):
        Session(bundle, SampleSetting(execute_steps=4), 0)
    with pytest.raises(UserError, match=r"the 3 step\(s\) of a chunk, got 4 \(past_actions takes 1 of 4\)"):
        bundle.config.changed(execute_steps=4).validate()
    with pytest.raises(UserError, match="past_actions: expected less than horizon_length = 4, got 4"):
        bundle.config.changed(past_actions=4).validate()


def test_starts_are_those_of_lerobot() -> None:
    """Its sampler drops horizon - n_action_steps - n_obs_steps + 1 frames at the end of each episode (7 by default)."""
    horizon, execute, obs_steps = 16, 8, 2
    dropped = horizon - execute - obs_steps + 1
    ends = np.cumsum(LENGTHS)
    frames = [r for end, n in zip(ends, LENGTHS, strict=True) for r in range(end - n, max(end - n, end - dropped))]
    windows, _ = everything(tiny_store(LENGTHS), horizon - obs_steps + 1, obs_steps, Padding(after=execute - 1))
    assert windows.starts.tolist() == frames


def test_masked_steps_are_those_beyond_the_end() -> None:
    _, batch = everything(tiny_store((6,)), 4, 1, Padding(after=2))
    beyond = [[False] * 4] * 3 + [[False] * 3 + [True], [False] * 2 + [True] * 2]
    assert batch.is_pad_MBH[0].tolist() == beyond


@pytest.mark.parametrize("after", [0, 2, 3])
def test_starts_are_the_valid_ones_of_a_plan(after: int) -> None:
    plan = built_plan(tiny_store((20, 31, 12)), stride_S=1, valid_start_tail_keep=after)
    windows, _ = everything(tiny_store((20, 31, 12)), 4, 1, Padding(after=after))
    assert windows.starts.tolist() == plan.anchors_P.tolist()


def test_epochs_count_the_windows_that_are_drawn() -> None:
    store = tiny_store((9, 12, 5, 7), splits={"train": [0, 1, 2], "valid": [3]})
    config = tiny_config(pad_after=1, obs_steps=2, pad_before=0, batch_size=4, num_rounds=3, epochs_per_round=2)
    windows = (9 + 12 + 5) - 3 * (2 + 1)  # each episode without its last two steps and without its first
    steps = -(-windows // 4)
    prepared = prepare(config, tiny_data(store), CPU)
    assert prepared.rotation.total == len(prepared.rotation.at(0).starts) == windows
    assert prepared.steps_per_epoch(4) == steps
    assert resolved(config, store).training_steps == 3 * 2 * steps
    assert prepared.validation is not None
    assert len(prepared.validation.starts) == 7 - 3


def test_files_without_a_window_are_left_out(tmp_path: Path) -> None:
    """With one file after the other, a turn always has something to draw."""
    for number, lengths in enumerate([(6, 7), (3, 3), (9,)]):
        ogbench.write_store(tmp_path / f"set-{number:03}.npz", tiny_store(lengths, splits={}))
    from raybc.data import formats

    store = formats.read(tmp_path)
    config = tiny_config(dataset_replace_interval=2, pad_after=0)
    data = TrainingData(store, store.fingerprint(), tuple(store.obs), {})
    rotation = prepare(config, data, CPU).rotation
    assert [rotation.count_at(step) for step in range(0, 6, 2)] == [3 + 4, 6, 3 + 4]
    assert [rotation.first_row(step) for step in range(0, 6, 2)] == [0, 19, 0]


def test_what_padding_changes_in_a_training() -> None:
    """Masked targets do not matter, repeated ones do; with nothing beyond an end both are the same training."""

    def first_loss(**changes: Any) -> torch.Tensor:
        store = tiny_store((4, 4, 4))
        config = tiny_config(policy="regression", training_steps=1, batch_size=8, **changes)
        trainer = PackTrainer([config], tiny_data(store), CPU)
        return trainer.learner.loss(trainer.windows.gather(trainer.draws.at(0).indices_MB), {}).value_MB

    assert not torch.equal(first_loss(), first_loss(pad_loss="repeat"))
    torch.testing.assert_close(first_loss(pad_after=0), first_loss(pad_after=0, pad_loss="repeat"), rtol=0, atol=0)
    torch.testing.assert_close(first_loss(pad_after=3), first_loss(), rtol=0, atol=0)


def test_equal_paddings_are_one_recipe() -> None:
    plain = tiny_config(obs_steps=2)
    assert training_key(plain) == training_key(tiny_config(obs_steps=2, pad_before=1, pad_after=3))
    assert training_key(plain) != training_key(tiny_config(obs_steps=2, pad_before=0))
    none = tiny_config(pad_after=0)
    assert training_key(none) == training_key(dataclasses.replace(none, pad_loss="repeat"))
    assert plain.run_id("0") == tiny_config(obs_steps=2, pad_before=-1, pad_after=-1, pad_loss="mask").run_id("0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_after": 4}, r"^run\.pad_after: expected less than the 4 step\(s\) of a chunk, got 4$"),
        ({"pad_after": -2}, r"^run\.pad_after: expected at least -1, got -2$"),
        ({"pad_after": 1, "action_chunking": False}, r"^run\.pad_after: .* 1 step.*action_chunking is off"),
        ({"pad_before": 1}, r"^run\.pad_before: expected at most obs_steps - 1 = 0, got 1$"),
        ({"pad_after": 1, "sampling_plan_path": "x"}, r"^run\.pad_after: expected -1 with sampling_plan_path"),
        ({"pad_before": 0, "sampling_plan_path": "x"}, r"^run\.pad_before: expected -1 with sampling_plan_path"),
    ],
)
def test_impossible_paddings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_config(**changes).validate()


def test_episodes_without_a_window_are_named() -> None:
    store = tiny_store((3, 9, 2, 3), splits={"train": [0, 1, 2], "valid": [3]})
    config = tiny_config(pad_after=0)
    assert window_notes(tiny_config(), store) == ()
    assert window_notes(config, store) == (
        "2 of the training episodes (0, 2) have no window and are not trained on: with horizon_length=4, pad_after=0, "
        "obs_steps=1, pad_before=-1 a window needs 4 steps",
    )
    with pytest.raises(UserError, match=r"^pad_after: expected held-out episodes .*\(episode 3\) has 3 steps, .* 4; "):
        prepare(config, tiny_data(store), CPU)
    short = tiny_store((3, 9, 2), splits={"train": [0, 2]})
    with pytest.raises(UserError, match=r"^pad_after: expected training episodes of tiny\.hdf5"):
        prepare(config, tiny_data(short), CPU)
    late = tiny_store((2, 9), splits={"train": [0]})
    with pytest.raises(UserError, match=r"^pad_before: .*\(episode 0\) has 2 steps, .* a window needs 3; "):
        prepare(tiny_config(obs_steps=3, pad_before=0), tiny_data(late), CPU)


def test_the_command_refuses_in_one_line(
    pointmass_demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(pointmass_demos, tmp_path / "run", "--pad_after=8") == 2
    assert "--pad_after: expected less than" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
