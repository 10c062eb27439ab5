"""Images that are gathered ahead: the same batches, whatever is trained and wherever it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.train import feed
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer, with_seeds

CPU = torch.device("cpu")


def data(files: tuple[int, ...] = ()) -> TrainingData:
    rng, n = np.random.default_rng(0), 60
    obs = {
        "state": rng.normal(size=(n, 3)).astype(np.float32),
        "image": rng.integers(0, 256, (n, 16, 16, 3), np.uint8),
    }
    actions = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    ends = np.arange(10, n + 1, 10)
    store = EpisodeStore(obs, actions, np.zeros(n, np.float32), ends, source=Path("made"), files=files)
    return TrainingData(store, "0" * 64, ("state", "image"), {})


def trainer(seeds: tuple[int, ...] = (0, 1), files: tuple[int, ...] = (), **options: Any) -> PackTrainer:
    config = RunConfig.of(
        env_name="lift-scripted-image", policy="regression", encoder="impala_small", hidden_width=8, hidden_depth=1,
        batch_size=4, training_steps=40, action_chunking=True, horizon_length=3, normalization="identity", **options,
    )  # fmt: skip
    return PackTrainer(with_seeds(config, seeds), data(files), CPU)


def weights(of: PackTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in of.state().tensors.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "options", [{}, {"obs_steps": 2, "image_crop": "12,12"}, {"accumulate": 2}, {"p_aug": 0.5, "image_shift": 1}]
)
def test_the_same_training_to_the_bit(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    plain = trainer(**options)
    assert plain._feed is None  # so few images are gathered by the trainer
    plain.advance(20)
    monkeypatch.setattr(feed, "WORTHWHILE_BYTES", 0)
    fed = trainer(**options)
    assert fed._feed is not None
    fed.advance(7)
    fed.advance(20)
    assert same(weights(plain), weights(fed))


def test_a_resumed_training_is_fed_from_its_step_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(feed, "WORTHWHILE_BYTES", 0)
    whole, first, second = trainer(), trainer(), trainer()
    whole.advance(15)
    first.advance(6)
    first.save_state(tmp_path / "state")
    second.advance(3)  # it has read ahead of a step that it does not go to
    second.load_state(tmp_path / "state")
    second.advance(15)
    assert same(weights(whole), weights(second))


def test_files_are_fed_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"files": (2, 6), "dataset_replace_interval": 5}
    plain = trainer(**options)
    plain.advance(22)
    monkeypatch.setattr(feed, "WORTHWHILE_BYTES", 0)
    fed = trainer(**options)
    fed.advance(22)
    assert len({fed.prepared.rotation.file_at(step) for step in range(22)}) == 2
    assert same(weights(plain), weights(fed))


def test_no_more_memory_than_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "WORTHWHILE_BYTES", 0)
    step = 2 * 4 * 16 * 16 * 3  # bytes of a step
    for most, ahead in ((10 * step, feed.MOST_STEPS), (3 * step, 3), (1, 1)):
        monkeypatch.setattr(feed, "MOST_BYTES", most)
        fed = trainer()
        fed.advance(4)
        assert fed._feed is not None
        assert fed._feed._ahead == ahead
        assert len(fed._feed._ready) == ahead
    limited = trainer(memory_limit=3 * step / 2**30)
    limited.advance(4)
    assert limited._feed is not None
    assert limited._feed._ahead == 3
    fed.advance(40)
    assert fed._feed is not None
    assert not fed._feed._ready  # nothing beyond the last step


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "WORTHWHILE_BYTES", 0)
    fed = trainer()

    def fails(*_: object) -> None:
        raise OSError("the file is gone")

    monkeypatch.setattr(fed._feed, "_gather", fails)
    with pytest.raises(OSError, match="the file is gone"):
        fed.advance(3)
