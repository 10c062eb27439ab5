"""Reading the data of a training run. Imports readers of formats, which training itself does not."""

from __future__ import annotations

from pathlib import Path

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.idle import without_idle
from raybc.data.load import read_for
from raybc.registry import parse_env_name
from raybc.types import UserError


def read_data(config: RunConfig, dataset: Path) -> EpisodeStore:
    """The demonstrations at `dataset` with the observations that a run sees: those of its task, or without a simulator
    those that were recorded (images only for a policy with an encoder)."""
    found = _read(config, dataset)
    return without_idle(found) if config.drop_idle else found


def _read(config: RunConfig, dataset: Path) -> EpisodeStore:
    if config.has_environment:
        task = parse_env_name(config.env_name).task
        return read_for(dataset, task, skip_bad_episodes=config.skip_bad_episodes)
    images = config.encoder.kind != "None"
    return read_for(dataset, "", images=images, skip_bad_episodes=config.skip_bad_episodes)


def recorded_observations(config: RunConfig, store: EpisodeStore) -> tuple[str, ...]:
    """The observations of a policy without a simulator: all that were recorded, sorted, images last.

    Raises `UserError` if there are none that the policy can see.
    """
    low_dim = sorted(name for name in store.obs if name not in store.images)
    keys = (*low_dim, *sorted(store.images))
    if not keys:
        raise UserError(f"{store.source}: expected observations of numbers, found none; for images choose an --encoder")
    config.check_encoder(store.images, "--")
    config.normalization_of(keys, "--")
    return keys
