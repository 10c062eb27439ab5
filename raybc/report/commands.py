"""The commands that make a trial again: its training with all seeds, and each of its measurements."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raybc.config import SAMPLE_AXES, DemosConfig, changed_options
from raybc.sweep.config import SweepConfig
from raybc.sweep.folders import bundle_path
from raybc.sweep.space import recipe


def train_command(
    config: SweepConfig, params: dict[str, Any], facts: Mapping[str, Any], out: str = ""
) -> tuple[str, str]:
    """(`python -m raybc.train ...` for a recipe with all seeds of the sweep, what is to be known about it).

    params: train axes of the trial. facts: progress.json or timing.json (threads, data), may be empty. The run has the
    run_ids of the sweep and its bundles, except where the note says otherwise.
    """
    run = recipe(config, params)
    flags = [f"--{name}={value}" for name, value in changed_options(run).items() if name != "seed"]
    note = ""
    if config.demos.noise != DemosConfig.noise or config.demos.seed != DemosConfig.seed:
        flags.append(f"--dataset={(facts.get('data') or {}).get('path', 'PATH')}")
        note = "Same weights, another run_id: the demonstrations are named as a file, since demos.noise or demos.seed "
        note += "is not the default."
    elif config.demos.episodes != DemosConfig.episodes:
        flags.append(f"--demos={config.demos.episodes}")
    if facts.get("threads"):
        flags.append(f"--threads={facts['threads']}")  # sums depend on them, in the last bits
    if out:
        flags.append(f"--out={out}")
    command = ["python", "-m", "raybc.train", *flags, "--seeds", *map(str, config.seeds)]
    return shlex.join(command), note


def rollout_command(config: SweepConfig, run_dir: Path, row: Mapping[str, Any], *, videos: int = 0) -> str:
    """`python -m raybc.rollout ...` for a row of results; empty where the policy was not kept.

    videos: film this many episodes of it instead of measuring it as it was.
    """
    bundle = bundle_path(run_dir, row["trial"], row["seed"], row["step"])
    if not bundle.is_dir():
        return ""
    asked = row["episodes"] + row["errors"]
    flags = [f"--starts={row['phase']}", f"--episodes={min(asked, 2 * videos) if videos else asked}"]
    own = config.train.sample_setting
    wanted = [k for k in SAMPLE_AXES if (row[k] if k == "flow_steps" else row[k] != getattr(own, k))]
    flags += [f"--{k}={row[k]}" for k in wanted]
    if videos:
        flags.append(f"--videos={min(videos, asked)}")
    return shlex.join(["python", "-m", "raybc.rollout", near_path(bundle), *flags])


def near_path(path: Path) -> str:
    """A path as one types it here: relative where it lies below the working folder."""
    here = Path(os.getcwd()).resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
