"""Reading the data of a training run. Imports readers of formats, which training itself does not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.fingerprints import Bar
from raybc.data.formats.options import Keys
from raybc.data.idle import without_idle
from raybc.data.load import read_for
from raybc.envs.spec import EnvSpec
from raybc.registry import parse_env_name
from raybc.strict import listed
from raybc.types import UserError


def read_data(
    config: RunConfig, dataset: Path, say: Callable[[str], None] | None = None, bar: Bar | None = None
) -> EpisodeStore:
    """The demonstrations at `dataset` with the observations that a run sees: those of its task, or without a simulator
    those that were recorded (images only for a policy with an encoder). say, bar: as for `read_for`."""
    found = _read(config, dataset, say, bar)
    return without_idle(found, config.keep_idle) if config.drop_idle else found


def _read(config: RunConfig, dataset: Path, say: Callable[[str], None] | None, bar: Bar | None) -> EpisodeStore:
    read = functools.partial(
        read_for, dataset, skip_bad_episodes=config.skip_bad_episodes, memory=config.memory_bytes,
        decode=config.videos == "decode", say=say, bar=bar,
    )  # fmt: skip
    if config.has_environment:
        # Tasks compute observations from others, so all of them are read.
        return read(task=parse_env_name(config.env_name).task, keys=Keys.of(config.action_key))
    images = config.encoder.kind != "None"
    return read(task="", images=images, keys=Keys.of(config.action_key, config.obs_keys))


def observed(config: RunConfig, probe: EnvSpec, obs_keys: tuple[str, ...]) -> tuple[str, ...]:
    """The observations of a policy in a simulator: those of `obs_keys` of the configuration, or of the task.

    Raises `UserError` for observations that the environment does not have.
    """
    chosen = Keys.of("", config.obs_keys).observations or obs_keys
    known = {**probe.obs_sizes, **probe.images}
    missing = [key for key in chosen if key not in known]
    if missing:
        has = listed(missing[0], sorted(known))
        raise UserError(f"--obs_keys: expected observations of {config.env_name}, {has}, got {missing[0]!r}")
    return chosen


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
