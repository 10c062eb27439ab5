"""Training data of a recipe: the selected episodes of a store, their statistics and their windows on the device.

Letters: N transitions, O observation dim, A action dim.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raybc.config import ACTIONS, Normalization, RunConfig
from raybc.data import norm_stats, select
from raybc.data.action_form import ActionForm, with_units
from raybc.data.episodes import EpisodeStore, check_files, image_size
from raybc.data.normalize import Normalizer
from raybc.data.plan.plan import SamplingPlan
from raybc.data.plan.verify import check_dataset, check_training
from raybc.data.rewards import check_rewards
from raybc.data.splits import listed
from raybc.data.windows import Windows
from raybc.language.table import Instructions
from raybc.run_folder import TrainingFolder
from raybc.train.initial import sha256_of_start
from raybc.train.language import instructions_of, with_language
from raybc.train.plans import plan_of
from raybc.train.pretrained import check_images, with_pretrained
from raybc.train.rotation import (
    DatasetView,
    ShardRotation,
    fitted,
    held_out_windows,
    rotation_of,
    rows_of,
    window_counts,
)
from raybc.train.scores import scores_of
from raybc.types import UserError

#: Maximum number of windows for the validation loss, evenly spaced.
VALIDATION_WINDOWS = 2048


@dataclass(frozen=True)
class TrainingData:
    """A dataset, and the task that it is for."""

    store: EpisodeStore
    fingerprint: str
    """`EpisodeStore.fingerprint`."""
    obs_keys: tuple[str, ...]
    """The observations that the policy sees, in the order of the task."""
    environment: dict[str, str]
    """`SimEnv.identity()`: the versions of the simulator."""


@dataclass(frozen=True)
class Prepared:
    """The data of a run, ready for training."""

    rotation: ShardRotation
    """The training windows of each step."""
    validation: Windows | None
    """The validation windows; None if the split `valid` is missing or empty."""
    obs_normalizer: Normalizer
    """Of the low-dimensional observations, concatenated in the order of `obs_sizes`."""
    action_normalizer: Normalizer
    obs_sizes: dict[str, int]
    """Low-dimensional observation -> size."""
    images: dict[str, tuple[int, int, int]]
    """Image -> (height, width, channels)."""
    plan: SamplingPlan | None
    """The sampling plan; None: every window is drawn equally often."""
    form: ActionForm
    """The form of the actions that are learned, which `action_normalizer` normalises."""
    instructions: Instructions | None = None
    """For a policy that reads them."""
    action_range: tuple[torch.Tensor, torch.Tensor] | None = None
    """Lowest and highest normalised action of the training episodes, float32 (A,) each, for a critic."""

    def write_statistics(self, folders: Sequence[Path]) -> None:
        """Write norm_stats.json to run folders."""
        keys = norm_stats.of_run(self.obs_sizes, self.obs_normalizer, self.action_normalizer)
        for folder in folders:
            norm_stats.write(TrainingFolder(folder).norm_stats, keys)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Gradient steps in one pass over the training windows."""
        return math.ceil(self.rotation.total / batch_size)


def resolved(config: RunConfig, store: EpisodeStore, resumes: bool = False) -> RunConfig:
    """`config` with the values that depend on the data.

    action_units are those of the controller. sampling_plan_sha256 is that of the plan, scores_sha256 that of the
    scores, init_from_sha256 that of the initial weights, pretrained_sha256 that of the encoders' (see
    `with_pretrained`, also for `resumes`), language_sha256 that of the text encoder. With rounds, training_steps is
    num_rounds x epochs_per_round x steps per epoch, with `epochs` it is epochs x steps per epoch; with `freeze_epochs`,
    freeze_steps is freeze_epochs x steps per epoch. Raises `UserError` if the data do not fit the options.
    """
    config = with_units(config, store.env_args)
    if config.dataset_replace_interval:
        check_files(store, "dataset_replace_interval")
    plan = plan_of(config)
    if plan is not None:
        config = dataclasses.replace(config, sampling_plan_sha256=plan.plan_sha256)
    scores = scores_of(config)
    if scores is not None:
        scores.check_count(store, "scores_path")
        config = dataclasses.replace(config, scores_sha256=scores.sha256)
    check_rewards(config, store)
    if config.norm_stats_from:
        config = dataclasses.replace(config, norm_stats_sha256=norm_stats.sha256_of(statistics_of(config)))
    if config.init_from:
        config = dataclasses.replace(config, init_from_sha256=sha256_of_start(config))
    config = with_pretrained(config, resumes)
    config = with_language(config, store, resumes)
    if not config.epochs_per_round and not config.epochs and not config.freeze_epochs:
        return config
    counts = window_counts(config, store, train_episodes(config, store))
    windows = int(counts.sum()) if plan is None else len(plan.anchors_P)
    epoch = math.ceil(windows / config.batch_size)
    epochs = config.epochs or config.num_rounds * config.epochs_per_round
    if epochs:
        config = dataclasses.replace(config, training_steps=epochs * epoch)
    frozen = config.freeze_epochs * epoch
    if frozen and config.freeze_steps not in (-1, frozen):
        raise UserError(
            f"freeze_steps: expected -1 with freeze_epochs, which is {frozen} steps, got {config.freeze_steps}"
        )
    return dataclasses.replace(config, freeze_steps=frozen) if frozen else config


def statistics_of(config: RunConfig) -> norm_stats.Keys:
    """The statistics that `norm_stats_from` names. Raises `UserError` if they are not those of `norm_stats_sha256`."""
    keys = norm_stats.load(config.norm_stats_from)
    got = norm_stats.sha256_of(keys)
    if config.norm_stats_sha256 not in ("", got):
        raise UserError(
            f"norm_stats_from: {config.norm_stats_from}: expected the statistics {config.norm_stats_sha256}, got "
            f"{got}: they have changed since training started"
        )
    return keys


def _normalizers(
    config: RunConfig,
    store: EpisodeStore,
    obs_sizes: dict[str, int],
    kinds: Mapping[str, Normalization],
    rows: np.ndarray,
    scale_floor: bool,
) -> tuple[Normalizer, Normalizer]:
    """Of low-dimensional observations and actions: fitted on `rows`, or those of `norm_stats_from`."""
    low_dim, sizes = tuple(obs_sizes), tuple(obs_sizes.values())
    form = ActionForm.of(config, store.actions_NA.shape[1])
    if config.norm_stats_from:
        keys, where = statistics_of(config), f"norm_stats_from: {config.norm_stats_from}"
        obs = norm_stats.normalizer(keys, obs_sizes, kinds, where)
        return obs, norm_stats.normalizer(keys, {ACTIONS: form.size}, kinds, where)
    obs_kinds = [kinds[k] for k, size in obs_sizes.items() for _ in range(size)]
    action_kinds = form.kinds(kinds[ACTIONS])
    if config.dataset_replace_interval:
        floor = sizes if scale_floor else ()
        obs = fitted(lambda some: store.observation(low_dim, some), rows, obs_kinds, floor)
        return obs, fitted(lambda some: form.encode(store.actions_NA[some]), rows, action_kinds)
    observed = store.observation(low_dim, rows)
    obs = Normalizer.fit_columns(observed, obs_kinds)
    if scale_floor and low_dim:
        obs = obs.with_floor(observed.min(axis=0), observed.max(axis=0), obs_kinds, sizes)
    return obs, Normalizer.fit_columns(form.encode(store.actions_NA[rows]), action_kinds)


def prepare(config: RunConfig, data: TrainingData, device: torch.device, scale_floor: bool = True) -> Prepared:
    """Select episodes, fit statistics on the training data, and build the windows on `device`.

    scale_floor: whether observations that hardly move are kept from being blown up (`Normalizer.with_floor`); False for
    training states of releases that did not.

    Raises `UserError` if no training episode is left, if no episode is as long as a chunk, or if the store does not
    have the observations or does not match the sampling plan.
    """
    store = data.store
    horizon = config.chunk_length
    longest = int((store.episode_ends - store.episode_starts).max())
    if horizon > longest:
        raise UserError(
            f"horizon_length: expected at most the longest episode of {store.source} ({longest} steps), got {horizon}"
        )
    images = tuple(key for key in data.obs_keys if key in store.images)
    config.check_encoder(images)
    sizes = {key: image_size(store.obs[key].shape[1:]) for key in images}
    check_images(config, sizes)
    low_dim = tuple(key for key in data.obs_keys if key not in images)
    store.check_has(low_dim)
    obs_sizes = {k: store.obs[k].shape[1] for k in low_dim}
    kinds = config.normalization_of(data.obs_keys)
    scores = scores_of(config)
    if scores is not None:
        scores.check_data(data.fingerprint, store, "scores_path")
    episodes = train_episodes(config, store)
    rows = rows_of(store, episodes)
    _, held_out = _splits(config, store)
    if config.action_metrics and not len(held_out):
        raise UserError(
            f"action_metrics: expected held-out episodes, on which actions are compared, and {store.source} has no "
            "split `valid`; hold out a fifth of the episodes with holdout_seed=0, or leave action_metrics out"
        )
    if not config.sampling_plan_path:
        without_windows(config, store, episodes)
        if len(held_out):
            without_windows(config, store, held_out, "held-out")
    plan, instructions = None, instructions_of(config, store)
    if config.dataset_replace_interval:
        obs_normalizer, action_normalizer = _normalizers(config, store, obs_sizes, kinds, rows, scale_floor)
        view = DatasetView(store, low_dim, images, obs_normalizer, action_normalizer, instructions)
        rotation = rotation_of(view, config, episodes, device)
        validation = held_out_windows(view, config, held_out, device, VALIDATION_WINDOWS)
    else:
        plan = plan_of(config)
        if plan is not None:
            check_dataset(plan, (config.env_name, store.source.name), data.fingerprint, len(store.actions_NA), store)
            check_training(plan, horizon, config.batch_size)
            if config.plan_subset_mode != "all":
                rows = plan.fit_rows(config.plan_subset_mode)
        obs_normalizer, action_normalizer = _normalizers(config, store, obs_sizes, kinds, rows, scale_floor)
        view = DatasetView(store, low_dim, images, obs_normalizer, action_normalizer, instructions)
        train = view.windows(slice(None), store.episode_ends, episodes, config, device)
        if plan is not None:
            train = dataclasses.replace(train, starts=torch.from_numpy(plan.anchors_P.copy()).to(device))
        rotation = ShardRotation.always(train)
        validation = train.of_episodes(held_out, store.episode_ends, VALIDATION_WINDOWS) if len(held_out) else None
    return Prepared(
        rotation,
        validation,
        obs_normalizer,
        action_normalizer,
        obs_sizes,
        sizes,
        plan,
        ActionForm.of(config, store.actions_NA.shape[1]),
        instructions,
        None if config.critic.is_none else _action_range(config, store, rows_of(store, episodes), action_normalizer),
    )


def _action_range(
    config: RunConfig, store: EpisodeStore, rows: np.ndarray, normalizer: Normalizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `Prepared.action_range`. rows: of the training episodes."""
    form = ActionForm.of(config, store.actions_NA.shape[1])
    actions = normalizer.apply(form.encode(store.actions_NA[rows])).astype(np.float32)
    return torch.from_numpy(actions.min(0)), torch.from_numpy(actions.max(0))


def without_windows(
    config: RunConfig, store: EpisodeStore, episodes: np.ndarray, which: str = "training"
) -> np.ndarray:
    """Those of `episodes` that are too short for a window with the padding of the run, int64.

    which: what they are called. Raises `UserError` if all are.
    """
    none = episodes[window_counts(config, store, episodes) == 0]
    if len(none) < len(episodes):
        return none
    lengths = (store.episode_ends - store.episode_starts)[episodes]
    longest = int(np.argmax(lengths))
    what = "pad_after" if config.pad_after >= 0 else "pad_before"
    raise UserError(
        f"{what}: expected {which} episodes of {store.source} with a window, got none: the longest of {len(none)} "
        f"(episode {episodes[longest]}) has {lengths[longest]} steps, and with {_padding(config)} a window needs "
        f"{_needed_steps(config)}; use larger values, or -1"
    )


def window_notes(config: RunConfig, store: EpisodeStore) -> tuple[str, ...]:
    """What to know about the training episodes that padding leaves without a window; () where there are none."""
    if config.sampling_plan_path:
        return ()
    none = without_windows(config, store, train_episodes(config, store))
    if not len(none):
        return ()
    return (
        f"{len(none)} of the training episodes ({listed(none)}) have no window and are not trained on: with "
        f"{_padding(config)} a window needs {_needed_steps(config)} steps",
    )


def _padding(config: RunConfig) -> str:
    return (
        f"horizon_length={config.chunk_length}, pad_after={config.pad_after}, obs_steps={config.obs_steps}, "
        f"pad_before={config.pad_before}"
    )


def _needed_steps(config: RunConfig) -> int:
    """Steps of the shortest episode that has a window."""
    first = config.obs_steps - 1 - config.pad_before if config.pad_before >= 0 else 0
    return first + (config.ahead_length - config.pad_after if config.pad_after >= 0 else 1)


def train_episodes(config: RunConfig, store: EpisodeStore) -> np.ndarray:
    """Indices of the training episodes, int64: the training split, filtered by the data options.

    Raises `UserError` if the training split is empty.
    """
    episodes, _ = _splits(config, store)
    if config.only_successful:
        episodes = select.successful(store, episodes)
    if config.top_percent < 100:
        scores = scores_of(config)
        if scores is None:
            episodes = select.best_by_return(store, episodes, config.top_percent)
        else:
            scores.check_count(store, "scores_path")
            episodes = select.best_by(scores.goodness(config.score_column), episodes, config.top_percent)
    if config.dataset_proportion_seed >= 0:
        return select.random_part(episodes, config.dataset_proportion, config.dataset_proportion_seed)
    return select.first_part(episodes, config.dataset_proportion)


def held_out_episodes(config: RunConfig, store: EpisodeStore) -> np.ndarray:
    """Indices of the episodes that are held out from training, int64, possibly none."""
    return _splits(config, store)[1]


def with_held_out(config: RunConfig, store: EpisodeStore) -> RunConfig:
    """`config`, holding out a fifth of the episodes if there is no simulator and the data have no split `valid`.

    Raises `UserError` if that is impossible: nothing could be measured.
    """
    if config.has_environment or config.holdout_seed >= 0 or len(held_out_episodes(config, store)):
        return config
    if config.sampling_plan_path:
        raise UserError(
            f"{store.source}: without a simulator held-out episodes are measured, so with a sampling plan the data "
            "need a split `valid`"
        )
    return dataclasses.replace(config, holdout_seed=0)


def _splits(config: RunConfig, store: EpisodeStore) -> tuple[np.ndarray, np.ndarray]:
    """Episodes for training and for validation (possibly none), int64."""
    return select.splits_of(store, config.holdout_seed)
