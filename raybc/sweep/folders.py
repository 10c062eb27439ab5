"""Where the things of a trial lie in the run folder of a sweep."""

from __future__ import annotations

from pathlib import Path


def trial_folder(run_dir: Path, trial: int) -> Path:
    return run_dir / "trials" / f"{trial:04d}"


def bundle_path(run_dir: Path, trial: int, seed: int, step: int) -> Path:
    """The policy of a member after `step` steps (those of the last two evaluations are kept)."""
    return trial_folder(run_dir, trial) / f"seed_{seed}" / f"checkpoint_{step}"


def member_logs(run_dir: Path, trial: int) -> dict[str, Path]:
    """seed -> train.csv of the members that have one, in the order of their names."""
    found = sorted(trial_folder(run_dir, trial).glob("seed_*/train.csv"))
    return {path.parent.name.removeprefix("seed_"): path for path in found}
