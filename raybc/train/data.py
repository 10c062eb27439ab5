"""What a recipe trains on: the chosen part of a store, its statistics and its windows on the training device.

Letters: N transitions, O observation dim, A action dim.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch

from raybc.config import ACTIONS, RunConfig
from raybc.data import select
from raybc.data.episodes import EpisodeStore, check_files, image_size
from raybc.data.normalize import Normalizer
from raybc.data.plan.plan import SamplingPlan
from raybc.data.plan.verify import check_dataset, check_training
from raybc.data.windows import Windows
from raybc.train.plans import plan_of
from raybc.train.rotation import DatasetView, ShardRotation, fitted, held_out_windows, rotation_of, rows_of
from raybc.types import UserError

#: Windows that a validation loss is taken over at most, spread evenly.
VALIDATION = 2048


@dataclass(frozen=True)
class TrainingData:
    """A store together with what the environment says about it."""

    store: EpisodeStore
    fingerprint: str
    obs_keys: tuple[str, ...]
    environment: dict[str, str]


@dataclass(frozen=True)
class Prepared:
    """rotation: the windows of each step. validation: windows (None where the data has no split `valid`, or an empty
    one)."""

    rotation: ShardRotation
    validation: Windows | None
    obs_normalizer: Normalizer
    action_normalizer: Normalizer
    obs_sizes: dict[str, int]
    images: dict[str, tuple[int, int, int]]
    plan: SamplingPlan | None

    def steps_per_epoch(self, batch_size: int) -> int:
        return math.ceil(self.rotation.total / batch_size)


def resolved(config: RunConfig, store: EpisodeStore) -> RunConfig:
    """What the data decides filled in: of a sampling plan its sha256; with rounds, the gradient steps that they are,
    num_rounds x epochs_per_round x steps of an epoch. Raises `UserError` where the data are not what it asks for."""
    if config.dataset_replace_interval:
        check_files(store, "dataset_replace_interval")
    plan = plan_of(config)
    if plan is not None:
        config = dataclasses.replace(config, sampling_plan_sha256=plan.plan_sha256)
    if config.epochs_per_round == 0:
        return config
    lengths = (store.episode_ends - store.episode_starts)[train_episodes(config, store)]
    windows = int(lengths.sum()) if plan is None else len(plan.anchors_P)
    epoch = math.ceil(windows / config.batch_size)
    return dataclasses.replace(config, training_steps=config.num_rounds * config.epochs_per_round * epoch)


def prepare(config: RunConfig, data: TrainingData, device: torch.device) -> Prepared:
    """Statistics are fitted on what is trained on. Raises `UserError` where nothing is left to train on, or where no
    episode is as long as a chunk."""
    store = data.store
    horizon = config.chunk_length
    longest = int((store.episode_ends - store.episode_starts).max())
    if horizon > longest:
        raise UserError(
            f"horizon_length: expected at most the longest episode of {store.source} ({longest} steps), got {horizon}"
        )
    images = tuple(key for key in data.obs_keys if key in store.images)
    config.check_encoder(images)
    low_dim = tuple(key for key in data.obs_keys if key not in images)
    store.check_has(low_dim)
    obs_sizes = {k: store.obs[k].shape[1] for k in low_dim}
    kinds = config.normalization_of(data.obs_keys)
    obs_kinds = [kinds[k] for k, size in obs_sizes.items() for _ in range(size)]
    action_kinds = [kinds[ACTIONS]] * store.actions_NA.shape[1]
    episodes = train_episodes(config, store)
    rows = rows_of(store, episodes)
    _, held_out = _splits(config, store)
    plan = None
    if config.dataset_replace_interval:
        obs_normalizer = fitted(lambda some: store.observation(low_dim, some), rows, obs_kinds)
        action_normalizer = fitted(lambda some: store.actions_NA[some], rows, action_kinds)
        columns = DatasetView(store, low_dim, images, obs_normalizer, action_normalizer)
        rotation = rotation_of(columns, config, episodes, device)
        validation = held_out_windows(columns, config, held_out, device, VALIDATION)
    else:
        plan = plan_of(config)
        if plan is not None:
            check_dataset(plan, (config.env_name, store.source.name), data.fingerprint, len(store.actions_NA))
            check_training(plan, horizon, config.batch_size)
            if config.plan_subset_mode != "all":
                rows = plan.fit_rows(config.plan_subset_mode)
        obs_normalizer = Normalizer.fit_columns(store.observation(low_dim, rows), obs_kinds)
        action_normalizer = Normalizer.fit_columns(store.actions_NA[rows], action_kinds)
        train = DatasetView(store, low_dim, images, obs_normalizer, action_normalizer).windows(
            slice(None), store.episode_ends, episodes, config, device
        )
        if plan is not None:
            train = dataclasses.replace(train, starts=torch.from_numpy(plan.anchors_P.copy()).to(device))
        rotation = ShardRotation.always(train)
        validation = train.of_episodes(held_out, store.episode_ends, VALIDATION) if len(held_out) else None
    return Prepared(
        rotation,
        validation,
        obs_normalizer,
        action_normalizer,
        obs_sizes,
        {key: image_size(store.obs[key].shape[1:]) for key in images},
        plan,
    )


def train_episodes(config: RunConfig, store: EpisodeStore) -> np.ndarray:
    """The episodes that a recipe trains on, at least one: of the training split those that it asks for."""
    episodes, _ = _splits(config, store)
    if not len(episodes):
        raise UserError(f"{store.source}: mask/train: expected at least one episode to train on, got none")
    if config.only_successful:
        episodes = select.successful(store, episodes)
    if config.top_percent < 100:
        episodes = select.best_by_return(store, episodes, config.top_percent)
    if config.dataset_proportion_seed >= 0:
        return select.random_part(episodes, config.dataset_proportion, config.dataset_proportion_seed)
    return select.first_part(episodes, config.dataset_proportion)


def _splits(config: RunConfig, store: EpisodeStore) -> tuple[np.ndarray, np.ndarray]:
    """Episodes for training, and those held out for validation (perhaps none)."""
    if config.holdout_seed >= 0:
        return select.hold_out(np.arange(store.num_episodes), config.holdout_seed)
    return store.split("train"), store.split("valid") if "valid" in store.splits else np.zeros(0, np.int64)
