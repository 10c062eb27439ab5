"""Measuring a checkpoint without a simulator: the error of its actions on held-out episodes."""

from __future__ import annotations

from pathlib import Path

from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.files import write_json
from raybc.inference.agent import Agent
from raybc.inference.offline import OfflineError, offline_error
from raybc.run_folder import TrainingFolder
from raybc.train.csv_rows import append_row
from raybc.train.data import held_out_episodes
from raybc.train.log import add_scalars

#: Columns of offline.csv before those of the action dimensions.
COLUMNS = ("step", "valid/error", "low", "high", "episodes", "windows")


def measure(folder: TrainingFolder, bundle: Path, config: RunConfig, store: EpisodeStore, step: int) -> str:
    """Measure the bundle of a member at `step`; writes offline.csv, offline.json and TensorBoard. Returns a line for
    the console."""
    agent = Agent(PolicyBundle.load(bundle))
    found = offline_error(agent, store, held_out_episodes(config, store), config.sample_setting)
    names = [f"valid/rmse_j{i}" for i in range(1, len(found.rmse_A) + 1)]
    low, high = found.interval or ("", "")
    values = (step, found.error, low, high, len(found.episodes), found.windows, *found.rmse_A.tolist())
    append_row(folder.offline_csv, (*COLUMNS, *names), values)
    write_json(folder.offline_json, {"step": step} | found.to_plain())
    scalars = {"valid/error": found.error} | dict(zip(names, found.rmse_A.tolist(), strict=True))
    add_scalars(folder.tensorboard, scalars, step)
    return line_of(found)


def line_of(found: OfflineError) -> str:
    """The measurement in words."""
    interval = "" if found.interval is None else f", 95 % interval {found.interval[0]:.3f} - {found.interval[1]:.3f}"
    worst = int(found.rmse_A.argmax())
    return (
        f"held-out error {found.error:.3f} ({len(found.episodes)} episodes{interval}; 1: no better than the mean "
        f"action), largest in action {worst + 1}: {found.rmse_A[worst]:.3g}"
    )
