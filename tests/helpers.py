"""Small data, recipes and trainers that several tests share. Nothing here needs Ray."""

from __future__ import annotations

import csv
import functools
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.formats.robomimic import Demo
from raybc.envs.base import Task
from raybc.envs.pointmass import POINTMASS
from raybc.inference.agent import Agent
from raybc.inference.predictor import stack
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer, with_seeds
from raybc.train.ranks import Ranks
from raybc.types import Observation, SampleSetting

torch.set_num_threads(1)  # nets this small are faster so, and tests run side by side

ROOT = Path(__file__).parents[1]
#: Where `recorded` looks for data that are too large for the repository (CONTRIBUTING.md says what belongs there).
TEST_DATA = "RAYBC_TEST_DATA"
#: Where `make oracles` installs timm and torchvision.
IMAGE_ORACLES = Path(sys.prefix) / "oracles" / "images"
CPU = torch.device("cpu")
ENV_ARGS = {"env_name": "Tiny", "type": 3, "env_version": "1", "env_kwargs": {"size": [1, 2]}}


@functools.cache
def _operators() -> object:
    """torchvision's wheels on PyPI need CUDA for compiled operators that networks do not use; declaring two of them is
    enough to import it beside a PyTorch without CUDA."""
    if torch.version.cuda is not None:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # kept, since the operators go with it


def of_images(package: str) -> Any:
    """torchvision, or timm, which imports it; the test is skipped where neither the environment nor `make oracles` has
    it. The folder of the latter is searched only from here, since a torchvision that is not built for the environment's
    PyTorch cannot be imported without `_operators`, and other packages would try."""
    if importlib.util.find_spec("torchvision") is None and IMAGE_ORACLES.is_dir():
        sys.path.append(str(IMAGE_ORACLES))
    if importlib.util.find_spec("torchvision") is None or importlib.util.find_spec(package) is None:
        pytest.skip(f"no {package}: make oracles, or pip install 'raybc[vit]'")
    _operators()
    return importlib.import_module(package)


def recorded(name: str) -> Path:
    """The path of recorded data; the test is skipped where they are missing."""
    folder = Path(os.environ.get(TEST_DATA) or ROOT.parent / "shared" / "data")
    if not (folder / name).exists():
        pytest.skip(f"no recorded data at {folder / name}: set {TEST_DATA} to the folder that holds {name}")
    return folder / name


def tiny_demos(lengths: Sequence[int] = (5, 9, 3), seed: int = 0, model_xml: str = "") -> list[Demo]:
    """Random demonstrations with the observations `arm` (3,) and `cube` (2,) and actions (2,)."""
    rng = np.random.default_rng(seed)
    demos = []
    for i, n in enumerate(lengths):
        arm, cube = rng.normal(size=(n + 1, 3)).astype(np.float32), rng.normal(size=(n + 1, 2)).astype(np.float32)
        demos.append(
            Demo(
                obs={"arm": arm[:-1], "cube": cube[:-1]},
                next_obs={"arm": arm[1:], "cube": cube[1:]},
                actions=rng.uniform(-1, 1, (n, 2)).astype(np.float32),
                rewards=rng.normal(size=n).astype(np.float32),
                dones=np.eye(n, dtype=np.int64)[-1],
                states=rng.normal(size=(n, 4)),
                seed=100 + i,
                model_xml=model_xml,
            )
        )
    return demos


def tiny_store(
    lengths: Sequence[int] = (5, 9, 3), seed: int = 0, splits: Mapping[str, Sequence[int]] | None = None, **changes: Any
) -> EpisodeStore:
    """The demonstrations of `tiny_demos` as a store; `changes` replace its fields."""
    demos = tiny_demos(lengths, seed)
    fields: dict[str, Any] = {
        "obs": {k: np.concatenate([d.obs[k] for d in demos]) for k in ("arm", "cube")},
        "actions_NA": np.concatenate([d.actions for d in demos]),
        "rewards_N": np.concatenate([d.rewards for d in demos]),
        "episode_ends": np.cumsum(lengths),
        "splits": {k: np.array(v, np.int64) for k, v in (splits or {}).items()},
        "source": Path("tiny.hdf5"),
    }
    return EpisodeStore(**{**fields, **changes})


def demonstrations(task: Task, episodes: int, noise: float = 1.0) -> EpisodeStore:
    """What the scripted expert of `task` does on the first starts; the last episode is the split `valid`."""
    env = task.make(None)
    assert task.make_expert is not None
    obs: dict[str, list[np.ndarray]] = {k: [] for k in task.obs_keys}
    actions, rewards, ends = [], [], []
    for seed in range(episodes):
        seen, _ = env.reset(seed=seed)
        expert = task.make_expert(env, np.random.default_rng(seed), noise)
        for _ in range(task.max_steps):
            action = expert.act(seen)
            for key, values in obs.items():
                values.append(seen[key])
            actions.append(action)
            seen, reward, terminated, _, info = env.step(action)
            rewards.append(reward)
            if info["success"] or terminated:
                break
        ends.append(len(actions))
    env.close()
    return EpisodeStore(
        obs={k: np.stack(v) for k, v in obs.items()},
        actions_NA=np.stack(actions),
        rewards_N=np.array(rewards, np.float32),
        episode_ends=np.array(ends, np.int64),
        splits={"train": np.arange(episodes - 1), "valid": np.array([episodes - 1])},
        env_args=env.env_args(),
        source=Path(f"{task.name}.hdf5"),
    )


@functools.cache
def pointmass_data() -> TrainingData:
    """Twelve demonstrations of the point mass."""
    store = demonstrations(POINTMASS, 12)
    env = POINTMASS.make(None)
    return TrainingData(store, store.fingerprint(), POINTMASS.obs_keys, env.identity())


def tiny_data(store: EpisodeStore | None = None) -> TrainingData:
    store = tiny_store() if store is None else store
    return TrainingData(store, store.fingerprint(), ("arm", "cube"), {"tiny": "1"})


def tiny_config(**changes: Any) -> RunConfig:
    """A recipe that trains in a blink."""
    values: dict[str, Any] = {
        "env_name": "pointmass-scripted-low_dim", "training_steps": 200, "batch_size": 16, "log_interval": 50,
        "lr": 1e-3, "action_chunking": True, "horizon_length": 4, "hidden_width": 16, "hidden_depth": 2,
        "flow_steps": 2, "device": "cpu",
    }  # fmt: skip
    if changes.get("policy", "flow") != "flow":
        of_flow = ("hidden_width", "hidden_depth", "flow_steps")
        values = {name: value for name, value in values.items() if name not in of_flow}
    return RunConfig.of(**{**values, **changes})


def tiny_trainer(
    seeds: Sequence[int] = (0,), data: TrainingData | None = None, ranks: Ranks | None = None, **changes: Any
) -> PackTrainer:
    return PackTrainer(with_seeds(tiny_config(**changes), seeds), tiny_data() if data is None else data, CPU, ranks)


@functools.cache
def pointmass_bundle() -> PolicyBundle:
    """A policy that has learned something of the point mass: chunks of 8, 300 steps (about two seconds)."""
    trainer = tiny_trainer(
        data=pointmass_data(), training_steps=300, batch_size=128, lr=3e-3, horizon_length=8, hidden_width=64
    )
    trainer.advance(300)
    return trainer.bundle(0)


def saved(bundle: PolicyBundle) -> PolicyBundle:
    """The bundle after a round trip through the disk."""
    with tempfile.TemporaryDirectory() as folder:
        bundle.save(Path(folder) / "bundle")
        return PolicyBundle.load(Path(folder) / "bundle")


def chunk_of(agent: Agent, obs: Mapping[str, np.ndarray], noise_HA: np.ndarray, flow_steps: int) -> np.ndarray:
    """The chunk (H, A) of one observation, asked alone."""
    obs_TO = stack([obs], list(agent.bundle.obs_sizes), agent.bundle.spec.obs_steps)
    return agent.chunks(Observation(obs_TO[None]), noise_HA[None], SampleSetting(flow_steps))[0]


TRAIN_FLAGS = [
    "--env_name=pointmass-scripted-low_dim", "--training_steps=60", "--batch-size", "64", "--lr=3e-3",
    "--action_chunking=True", "--horizon_length=8", "--hidden_width=32", "--hidden_depth=2", "--eval_interval=30",
    "--eval_episodes=5", "--save_interval=20", "--log_interval=10", "--workers=1", "--device=cpu", "--flow_steps=4",
]  # fmt: skip


def run_train(dataset: Path | str, out: Path, *flags: str) -> int:
    """`python -m raybc.train` on the point mass, in this process; returns the exit status."""
    from raybc.cli import run_main
    from raybc.train.__main__ import main

    return run_main(lambda: main([*TRAIN_FLAGS, f"--dataset={dataset}", f"--out={out}", *flags]))


def stop_training_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """From here on, Ctrl-C is pressed when training would go beyond `step`."""
    advance = PackTrainer.advance

    def stopping(self: PackTrainer, until: int, *hooks: Any) -> None:
        if until > step:
            raise KeyboardInterrupt
        advance(self, until, *hooks)

    patch.setattr(PackTrainer, "advance", stopping)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def leave_group() -> None:
    """End a process of `torch.multiprocessing.spawn` that was in a process group, together with the others.

    Ending the interpreter as usual sometimes aborts: it destroys threads of gloo that still run.
    """
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)
