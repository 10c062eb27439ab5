"""Policies of images: the encoder against loops in numpy, windows, agents, training and the command.

Letters: M members, B batch, T observation steps, C channels.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.data import store as stores
from raybc.data.formats import read
from raybc.data.windows import Windows
from raybc.envs.pointmass import IMAGE_SIZE, POINTMASS, POINTMASS_PIXELS
from raybc.envs.spec import spec_of_task
from raybc.inference.agent import Agent
from raybc.inference.predictor import stack_rows
from raybc.policies.base import Encoder, PolicySpec
from raybc.policies.build import build_policy
from raybc.policies.encoders.impala import PackedImpala, halved
from raybc.rollout.checks import check_fits
from raybc.rollout.episode import Episode, run_episode
from raybc.sweep.load import sweep_from_mapping
from raybc.sweep.space import check_corners
from raybc.testing.policies import check_encoder, check_policy, generators
from raybc.train.choices import Parallel
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer, with_seeds
from raybc.train.ranks import Ranks
from raybc.types import EpisodeSpec, Observation, SampleSetting, UserError
from tests.helpers import CPU, demonstrations, leave_group, run_train, tiny_config

ENCODER = {"env_name": "pointmass-scripted-image", "encoder": "impala_small"}


@functools.cache
def image_data() -> TrainingData:
    """Three demonstrations of the point mass, seen."""
    store = demonstrations(POINTMASS_PIXELS, 3)
    return TrainingData(store, store.fingerprint(), POINTMASS_PIXELS.obs_keys, {"pointmass": "1"})


def image_trainer(
    seeds: tuple[int, ...] = (0,),
    data: TrainingData | None = None,
    ranks: Ranks | None = None,
    resumes: bool = False,
    **changes: Any,
) -> PackTrainer:
    config = tiny_config(**{**ENCODER, "batch_size": 4, "log_interval": 2, **changes})
    return PackTrainer(with_seeds(config, seeds), data or image_data(), CPU, ranks, resumes)


# The encoder


def convolved(x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3 x 3, zeros around: (C, h, w), (O, C, 3, 3), (O,) -> (O, h, w)."""
    height, width = x.shape[1:]
    around = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(weights), height, width))
    for row in range(height):
        for column in range(width):
            seen = around[:, row : row + 3, column : column + 3]
            out[:, row, column] = (weights * seen).sum((1, 2, 3)) + bias
    return out


def pooled(x: np.ndarray) -> np.ndarray:
    """The largest of 3 x 3 at every second place; padding SAME as TensorFlow and JAX define it."""
    sizes = x.shape[1:]
    out_sizes = [-(-n // 2) for n in sizes]
    before = [max((out - 1) * 2 + 3 - n, 0) // 2 for n, out in zip(sizes, out_sizes, strict=True)]
    out = np.zeros((len(x), *out_sizes))
    for row in range(out_sizes[0]):
        for column in range(out_sizes[1]):
            top, left = 2 * row - before[0], 2 * column - before[1]
            out[:, row, column] = x[:, max(top, 0) : top + 3, max(left, 0) : left + 3].max((1, 2))
    return out


def reference(encoder: PackedImpala, m: int, images_THWC: np.ndarray) -> np.ndarray:
    """The features of one member for one example, in float64 and plain numpy."""

    def of(layer: Any) -> tuple[np.ndarray, np.ndarray]:
        return layer.weights_MOIKK[m].detach().double().numpy(), layer.bias_MO[m].detach().double().numpy()

    x = np.concatenate(list(images_THWC), axis=-1).transpose(2, 0, 1) / 255
    for stack in encoder.stacks:
        x = pooled(convolved(x, *of(stack.first)))
        for i in range(0, len(stack.blocks), 2):
            inner = convolved(np.maximum(x, 0), *of(stack.blocks[i]))
            x = x + convolved(np.maximum(inner, 0), *of(stack.blocks[i + 1]))
    x = np.maximum(x, 0).ravel() @ encoder.head.weights_MIO[m].detach().double().numpy()
    x = x + encoder.head.bias_M1O[m, 0].detach().double().numpy()
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (9, 5)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_encoder_is_impala(size: tuple[int, int], blocks: int) -> None:
    encoder = PackedImpala(2, (*size, 6), (4, 5), blocks, features=3)
    encoder.init_members(generators([0, 1]))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "bias" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(3))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 2, *size, 3), np.uint8)  # two observation steps of three channels
    got = encoder(torch.from_numpy(images)).detach().numpy()
    for m in range(2):
        for b in range(3):
            np.testing.assert_allclose(got[m, b], reference(encoder, m, images[m, b]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", range(1, 12))
def test_pooling_halves_every_size(size: int) -> None:
    x = np.random.default_rng(size).normal(size=(2, size, 13 - size)).astype(np.float32)
    np.testing.assert_array_equal(halved(torch.from_numpy(x)).numpy(), pooled(x).astype(np.float32))


def encoder_of(kind: str, image: tuple[int, int, int], members: int) -> Encoder:
    config = RunConfig.of(encoder=kind).encoder
    encoder = config.build(config, image, members)
    assert isinstance(encoder, Encoder)
    return encoder


@pytest.mark.parametrize(
    ("kind", "channels", "blocks", "features"),
    [
        ("impala_small", (16, 32, 32), 1, 512),
        ("impala", (16, 32, 32), 2, 512),
        ("impala_large", (64, 128, 128), 2, 1024),
    ],
)
def test_the_sizes_of_the_encoders(kind: str, channels: tuple[int, ...], blocks: int, features: int) -> None:
    """Those that OGBench and qc call by these names."""
    encoder: Any = encoder_of(kind, (8, 8, 3), 1)
    assert tuple(stack.first.weights_MOIKK.shape[1] for stack in encoder.stacks) == channels
    assert [len(stack.blocks) for stack in encoder.stacks] == [2 * blocks] * len(channels)
    assert (encoder.features, encoder.head.weights_MIO.shape[2]) == (features, features)


def test_initial_weights() -> None:
    """Glorot's bound, and a spread that fills it."""
    encoder = encoder_of("impala_small", (8, 8, 3), 1)
    assert isinstance(encoder, PackedImpala)
    encoder.init_members(generators([0]))
    for inputs, outputs, layer in ((3, 16, encoder.stacks[0].first), (32, 32, encoder.stacks[2].first)):
        bound = np.sqrt(6 / (9 * (inputs + outputs)))
        weights = layer.weights_MOIKK.detach()
        assert 0.97 * bound < weights.abs().max() <= bound
        assert abs(weights.mean()) < 0.1 * bound
        assert not layer.bias_MO.any()


@pytest.mark.parametrize("obs_steps", [1, 2])
@pytest.mark.parametrize("numbers", [0, 3])
@pytest.mark.parametrize("encoder", ["impala_small", "impala"])
def test_conformance(numbers: int, encoder: str, obs_steps: int) -> None:
    spec = PolicySpec(numbers, 2, 3, obs_steps, (("front", (8, 8, 3)), ("obs.wrist", (6, 9, 3))))
    run = RunConfig.of(hidden_width=16, hidden_depth=2, encoder=encoder)
    check_policy(lambda members: build_policy(run, spec, members))


@pytest.mark.parametrize("kind", ["impala_small", "impala"])
def test_conformance_of_encoders(kind: str) -> None:
    check_encoder(lambda members: encoder_of(kind, (9, 6, 4), members), (9, 6, 4))


# Windows and agents


@pytest.mark.parametrize("obs_steps", [1, 3])
def test_windows_have_the_images_of_their_steps(obs_steps: int) -> None:
    store = image_data().store
    windows = Windows.build(
        store.obs["state"].copy(),
        store.actions_NA.copy(),
        store.episode_ends,
        np.array([0, 2]),
        4,
        CPU,
        obs_steps,
        {"pixels": store.obs["pixels"]},
    )
    batch = windows.gather(torch.arange(len(windows.starts))[None])
    rows = [
        [max(first, row - back) for back in range(obs_steps - 1, -1, -1)]
        for e in (0, 2)
        for first in [store.episode_starts[e]]
        for row in range(first, store.episode_ends[e])
    ]
    np.testing.assert_array_equal(batch.obs.images["pixels"][0].numpy(), store.obs["pixels"][rows])


def test_a_policy_acts_on_what_it_was_trained_on() -> None:
    """What an episode asks is what the windows of a recording of it hold."""
    trainer = image_trainer(obs_steps=2)
    trainer.advance(2)
    bundle, env = trainer.bundle(0), POINTMASS_PIXELS.make(None)
    assert bundle.images == {"pixels": (IMAGE_SIZE, IMAGE_SIZE, 3)}
    assert bundle.obs_sizes == {"state": 4}
    seen, actions = [], np.tile(np.array([[0.5, -0.2]], np.float32), (4, 1))

    def watch(step: int, env: Any) -> None:
        seen.append(env._obs())

    episode = Episode(env, bundle, EpisodeSpec("pointmass_pixels", "search", 0), SampleSetting(), 80, watch)
    first = episode.request()
    episode.execute(actions)
    later = episode.request()
    pixels = np.stack([obs["pixels"] for obs in seen])
    states = np.stack([obs["state"] for obs in seen])
    windows = Windows.build(
        states, np.zeros((5, 2), np.float32), np.array([5]), np.array([0]), 1, CPU, 2, {"p": pixels}
    )
    batch = windows.gather(torch.tensor([[0, 4]]))
    for i, (obs, _) in enumerate((first, later)):
        np.testing.assert_array_equal(obs.images["pixels"], batch.obs.images["p"][0, i].numpy())
        np.testing.assert_array_equal(obs.low_dim, batch.obs.low_dim[0, i].numpy())
    answer = Agent(bundle).chunks(stack_rows([later[0]]), later[1][None], SampleSetting(3))
    low_dim = torch.tensor(bundle.obs_normalizer.apply(later[0].low_dim))[None, None]
    with torch.no_grad():
        z = trainer.policy.sample(
            Observation(low_dim, {"pixels": batch.obs.images["p"][:, 1:]}),
            torch.tensor(later[1])[None, None],
            SampleSetting(3),
        )
    np.testing.assert_allclose(answer[0], bundle.action_normalizer.invert(z[0, 0].numpy()), rtol=1e-5, atol=1e-5)


def test_a_chunk_does_not_depend_on_its_companions() -> None:
    agent = Agent(image_trainer().bundle(0))
    assert len(agent._sizes) > 1, "not one by one"
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(70, 1, 4)).astype(np.float32)
    noise = rng.normal(size=(70, 4, 2)).astype(np.float32)
    pixels = rng.integers(0, 256, (70, 1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    together = agent.chunks(Observation(obs, {"pixels": pixels}), noise, SampleSetting(2))
    for rows in ([7], [69, 7], list(range(5)), list(rng.permutation(70))):
        alone = agent.chunks(Observation(obs[rows], {"pixels": pixels[rows]}), noise[rows], SampleSetting(2))
        np.testing.assert_array_equal(alone, together[rows])


def test_the_image_decides() -> None:
    """Same state, another goal in the image: another chunk."""
    agent = Agent(image_trainer().bundle(0))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    obs = Observation(np.zeros((2, 1, 4), np.float32), {"pixels": pixels})
    chunks = agent.chunks(obs, np.zeros((2, 4, 2), np.float32), SampleSetting(2))
    assert not np.allclose(chunks[0], chunks[1])


# Training


def test_a_pack_is_its_members_alone_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    pack, seeds = image_trainer((4, 9)), (4, 9)
    pack.advance(6)
    pack.save_state(tmp_path / "state.safetensors")
    pack.advance(12)
    for m, seed in enumerate(seeds):
        alone = image_trainer((seed,))
        alone.advance(12)
        for (name, p), q in zip(pack.policy.named_parameters(), alone.policy.parameters(), strict=True):
            torch.testing.assert_close(p[m], q[0], rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    again = image_trainer(seeds)
    again.load_state(tmp_path / "state.safetensors")
    again.advance(12)
    for p, q in zip(pack.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(p, q)


def test_images_that_are_mapped_train_the_same(tmp_path: Path) -> None:
    """From a converted set on disk, of which nothing is copied."""
    data = image_data()
    stores.write_store(tmp_path / "set", data.store)
    mapped = read(tmp_path / "set", images=True)
    assert isinstance(mapped.obs["pixels"], np.memmap)
    assert mapped.fingerprint() == data.fingerprint
    trainers = [image_trainer(), image_trainer(data=dataclasses.replace(data, store=mapped))]
    tensor = trainers[1].windows.images["pixels"]
    assert tensor.data_ptr() == mapped.obs["pixels"].ctypes.data
    for trainer in trainers:
        trainer.advance(4)
    for p, q in zip(*(t.policy.parameters() for t in trainers), strict=True):
        assert torch.equal(p, q)


def test_a_bundle_of_images_is_kept(tmp_path: Path) -> None:
    trainer = image_trainer()
    trainer.advance(2)
    bundle = trainer.bundle(0)
    bundle.save(tmp_path / "bundle")
    loaded = PolicyBundle.load(tmp_path / "bundle")
    assert loaded.images == bundle.images
    spec, setting = EpisodeSpec("pointmass_pixels", "search", 3), SampleSetting(2)
    rows = [
        dataclasses.replace(run_episode(POINTMASS_PIXELS.make(None), Agent(b), spec, setting, 20), seconds=0.0)
        for b in (bundle, loaded)
    ]
    assert rows[0] == rows[1]


#: A small rate, since Adam makes a whole step of a gradient that is nothing but rounding.
TOGETHER: dict[str, Any] = {"lr": 1e-4, "ema_decay": 0.9, "grad_clip": 0.5}


def seen_together(rank: int, world: int, port: int, out: str, parallel: Parallel) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    trainer = image_trainer(ranks=Ranks.here(parallel), **TOGETHER)
    trainer.advance(12)
    weights = trainer.bundle(0).weights
    if rank == 0:
        torch.save(weights, f"{out}/weights.pt")
    leave_group()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_are_one(parallel: Parallel, tmp_path: Path, free_port: int) -> None:
    torch.multiprocessing.spawn(seen_together, (2, free_port, str(tmp_path), parallel), nprocs=2)
    alone = image_trainer(**TOGETHER)
    alone.advance(12)
    got = torch.load(tmp_path / "weights.pt", weights_only=True)
    torch.testing.assert_close(got, dict(alone.bundle(0).weights), rtol=1e-5, atol=1e-5)


# What is refused


def test_images_need_an_encoder_and_an_encoder_images() -> None:
    with pytest.raises(UserError, match=r"encoder: expected one of impala_small, impala, impala_large.*\(pixels\)"):
        image_trainer(encoder="None")
    with pytest.raises(UserError, match="encoder: expected None, since pointmass-scripted-low_dim observes no ima"):
        tiny_config(encoder="impala").check_encoder(POINTMASS.images)
    sweep = {
        "name": "images",
        "space": {"encoder": {"values": ["impala_small", "None"]}},
        "train": {"env_name": "pointmass-scripted-image", "encoder": "impala_small"},
    }
    with pytest.raises(UserError, match=r"corner encoder=None.*encoder: expected one of impala_small"):
        check_corners(sweep_from_mapping(sweep, "sweep.yaml"))


def test_images_of_another_size_are_refused() -> None:
    bundle, env_spec = image_trainer().bundle(0), spec_of_task(POINTMASS_PIXELS)
    check_fits(bundle, env_spec, Path("bundle"))
    larger = dataclasses.replace(env_spec, images={"pixels": (64, 64, 3)})
    with pytest.raises(UserError, match=r"'pixels': the policy expects size 32 x 32 x 3, .* has 64 x 64 x 3"):
        check_fits(bundle, larger, Path("bundle"))


# The commands


def test_train_and_measure(ray_cpus: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Demonstrations with images, training, evaluation; and the shared network gives what the own one gives."""
    from raybc.rollout.__main__ import main as rollout

    out = tmp_path / "run"
    flags = [f"--{k}={v}" for k, v in ENCODER.items()]
    assert run_train("", out, *flags, "--demos=4", "--batch_size=8", "--training_steps=6", "--eval_interval=6") == 0
    assert "step 6: success" in capsys.readouterr().out
    results = []
    for inference in ("local", "shared"):
        folder = tmp_path / inference
        assert rollout([str(out), "--episodes=6", "--workers=1", f"--inference={inference}", "--out", str(folder)]) == 0
        episodes = (folder / "episodes.jsonl").read_text().splitlines()
        results.append([{k: v for k, v in json.loads(e).items() if k not in ("seconds", "retries")} for e in episodes])
    assert results[0] == results[1]
    assert len(results[0]) == 6
