"""`python -m raybc.demos lift --episodes 100`: demonstrations of a task's scripted expert as robomimic's HDF5, or
LIBERO's where the task has an instruction."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from raybc import cli
from raybc.config import DemosConfig
from raybc.demos.generate import generate_shown
from raybc.demos.spec import DemosSpec, check_overwritable, is_ready
from raybc.envs.variant import split, with_limit
from raybc.registry import get_task, of_images
from raybc.seeing import CameraFlags
from raybc.types import UserError


@dataclass(frozen=True)
class Args(CameraFlags, DemosConfig):
    """Record demonstrations of a task's scripted expert as robomimic's HDF5 (with an instruction: LIBERO's)."""

    task: tyro.conf.Positional[str] = "lift"
    """A task with an expert: lift, can, square, pointmass, cube-single-singletask-v0, metaworld-reach-v3,
    libero_object-0, ..."""
    obs: Literal["", "low_dim", "image"] = ""
    """What is observed: image adds the task's cameras (default: what the task's name says)."""
    out: Path | None = None
    """The HDF5 file to write (default: in raybc's cache, where sweeps and training look for it), or a folder: of a task
    with an instruction, TASK_demo.hdf5 is written there, beside other tasks of a suite."""
    keep_failures: bool = False
    """Also keep episodes that the expert did not solve."""
    workers: int = 0
    """Simulator processes (0: one per core)."""
    overwrite: bool = False
    """Replace demonstrations that raybc recorded in this file before."""
    address: str = ""
    """Address of a running Ray cluster (default: start a local Ray)."""
    ray_dashboard: bool = False
    """Serve the dashboard of the local Ray on this machine while the command runs."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.demos", Args.__doc__ or "")
    config = DemosConfig(args.episodes, args.noise, args.seed)
    config.validate("--")
    name = task_name(args)
    task = get_task(name)
    if task.make_expert is None:
        raise UserError(f"task {args.task!r} has no scripted expert")
    base, variant = split(name)
    if ":" not in base:  # one name for what can be written in several ways
        name = variant.applied_to(get_task(base).name)
    spec = DemosSpec(name, config, args.keep_failures)
    path = args.out or spec.default_path()
    if path.suffix not in (".hdf5", ".h5"):
        path = path / (re.sub(r"[^\w.-]+", "_", name) + "_demo.hdf5" if task.instruction else "demos.hdf5")
    if args.overwrite:
        check_overwritable(path)
    elif is_ready(spec, path):
        cli.console.print(f"already made: {path}")
        return 0
    if task.environment is not None and variant.cameras:  # names that only the simulator knows, before Ray starts
        task.make(None).close()
    # Here, because they import Ray, which --help need not wait for.
    from raybc.cluster.session import allocate_workers, ray_session
    from raybc.rollout.pool import RolloutPool

    with ray_session(args.address, dashboard=args.ray_dashboard) as cpus:
        workers = allocate_workers(cpus, trials=0, trial_cpus=0, workers=args.workers, worker_cpus=1.0)
        with RolloutPool.start(name, workers, worker_cpus=1.0) as pool:
            made = generate_shown(spec, path, pool)
    cli.console.print(
        f"{spec.config.episodes} demonstrations ({made['steps']} steps) in {path}; the expert solved "
        f"{made['successes']} of {made['attempts']} starts"
    )
    return 0


def task_name(args: Args) -> str:
    """The task that the flags name: with images, and without @STEPS, which is a limit of evaluations."""
    seen = split(args.task)[1].seen or bool(get_task(args.task).images)
    if args.obs == "low_dim" and (seen or args.cameras or args.image_height or args.image_width):
        raise UserError(f"--obs low_dim: expected no cameras, got them; {args.task!r} or its flags name images")
    named = args.applied_to(args.task, images=args.obs == "image" and not seen)
    return of_images(with_limit(named)[0])


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
