"""Flags of the commands of `python -m raybc.data`; this file imports nothing that --help would wait for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class InfoArgs:
    """Summarise a data set: sizes, names, splits, instructions, environment, fingerprint."""

    data: tyro.conf.Positional[str]
    """A path in any known format, or a published name."""
    env_name: str = ""
    """Read it as training on this task does, with the observations that the task adds."""
    images: bool = False
    """Also images (which changes the fingerprint)."""
    image_keys: tuple[str, ...] = ()
    """Only these images, and refuse what is none."""
    action_key: str = ""
    """The array that is the action, by its name in the file (default: the format's)."""
    obs_keys: tuple[str, ...] = ()
    """Only these observations, by the names that info lists."""
    skip_bad_episodes: bool = False
    """Leave out episodes that cannot be read or differ from most, as training with this flag does."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class StatsArgs:
    """Mean, standard deviation, range and the quantiles 0.01 and 0.99 of every key and dimension."""

    data: tyro.conf.Positional[str]
    """A path in any known format, or a published name."""
    env_name: str = ""
    """Also the observations that this task adds to what was recorded."""
    split: str = ""
    """Only the episodes of this split (info lists them), e.g. train, which normalisation is fitted to."""
    images: bool = False
    """Also images, by channel."""
    image_keys: tuple[str, ...] = ()
    """Only these images, and refuse what is none."""
    action_key: str = ""
    """The array that is the action, by its name in the file (default: the format's)."""
    obs_keys: tuple[str, ...] = ()
    """Only these observations, by the names that info lists."""
    skip_bad_episodes: bool = False
    """Leave out episodes that cannot be read or differ from most."""
    states: bool = False
    """Also the simulator's states."""
    out: Path | None = None
    """Also write them to this file, for --norm_stats_from of a training; it must not exist."""
    dataset_stat: Path | None = None
    """Also add them to this file in RDT's unified vector (dataset_stat.json), in metres and radians."""
    dataset_name: str = ""
    """With --dataset_stat: the name of the data there (default: that of the file or folder)."""
    action_units: str = "physical"
    """With --dataset_stat: the units of actions, as in a training."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class VerifyArgs:
    """Find what is wrong with a data set. Status 0: no errors, 1: errors, 2: a mistake in the command."""

    data: tyro.conf.Positional[str]
    """A path in any known format, or a published name."""
    env_name: str = ""
    """Compare with this task's action space, observations and starts (its simulator is started)."""
    horizon_length: int = 0
    """Steps of an action chunk, which episodes should have at least (0: not checked)."""
    replay: int = 0
    """Number of episodes, evenly spaced, whose recorded actions are replayed to compare success, returns,
    observations."""
    images: bool = False
    """Also read images, every frame of them (always, where the task of --env_name observes images)."""
    image_keys: tuple[str, ...] = ()
    """Only these images, and refuse what is none."""
    action_key: str = ""
    """The array that is the action, by its name in the file (default: the format's)."""
    obs_keys: tuple[str, ...] = ()
    """Only these observations, by the names that info lists."""
    skip_bad_episodes: bool = False
    """Check what is left without the episodes that training with this flag leaves out."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class ConvertArgs:
    """Write a data set in another format, completely or not at all."""

    data: tyro.conf.Positional[str]
    """A path in any known format, or a published name."""
    out: Path | None = None
    """The file or folder to write, which must not exist."""
    format: str = "store"
    """The format to write: store (memory-mapped) or another of docs/data.md."""
    images: bool = False
    """Also images."""
    image_keys: tuple[str, ...] = ()
    """Only these images, and refuse what is none."""
    image_height: int = 0
    """Height to which images are converted, together with image_width (0: as they are)."""
    image_width: int = 0
    """Width of converted images."""
    video: Literal["lossless", "h264", "av1"] = "lossless"
    """How --format lerobot stores images; h264 and av1 lose detail and take a tenth of the space."""
    action_key: str = ""
    """The array that is the action, by its name in the file (default: the format's)."""
    obs_keys: tuple[str, ...] = ()
    """Only these observations, by the names that info lists."""
    skip_bad_episodes: bool = False
    """Leave out episodes that cannot be read or differ from most; they are listed."""
    states: bool = True
    """Also the simulator's states, where there are any."""
    actions: Literal["as_recorded", "absolute", "delta"] = "as_recorded"
    """Actions of robosuite's arms in the other form: absolute poses or deltas, by the formula of the controller in the
    recorded states (the simulator is started)."""
    action_units: str = "as_recorded"
    """Units in which actions were recorded, which become those of the environment: physical (metres, radians, openings
    of grippers, by the controller that the data describe), or for each number what 1 means, e.g.
    0.05,0.05,0.05,0.5,0.5,0.5,open."""
    frequency: float = 0.0
    """Steps per second (Hz) of data that do not record them (0: as recorded; LeRobot's format, which needs a rate, has
    10 then)."""
    env_name: str = ""
    """Also the observations that this task adds. Data without observations are observed in its simulator, state by
    state (its simulator is started)."""


@dataclass(frozen=True)
class ViewArgs:
    """Write a page about a data set: histograms, episodes as curves and images, splits, findings, normalisation."""

    data: tyro.conf.Positional[str]
    """A path in any known format, or a published name."""
    out: Path | None = None
    """The HTML page (default: NAME.html in the current folder)."""
    plan: Path | None = None
    """Also show this sampling plan of the data: which windows are drawn how often."""
    env_name: str = ""
    """Also the observations that this task adds to what was recorded."""
    images: bool = True
    """Show frames of a few episodes."""
    image_keys: tuple[str, ...] = ()
    """Only these images, and refuse what is none."""
    action_key: str = ""
    """The array that is the action, by its name in the file (default: the format's)."""
    obs_keys: tuple[str, ...] = ()
    """Only these observations, by the names that info lists."""
    skip_bad_episodes: bool = False
    """Leave out episodes that cannot be read or differ from most (no images are shown then)."""
