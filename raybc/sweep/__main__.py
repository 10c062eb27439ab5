"""`python -m raybc.sweep [SWEEP.yaml]`: search recipes, measure the best, leave a report."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import tyro

from raybc import cli
from raybc.run_folder import SweepFolder
from raybc.run_start import Resume
from raybc.sweep.load import load_sweep
from raybc.sweep.recipes import check_effects
from raybc.sweep.space import check_corners, metric_of
from raybc.train.trackers.base import TrackerConfig
from raybc.train.trackers.mlflow import MlflowConfig
from raybc.train.trackers.wandb import Mode, WandbConfig
from raybc.types import UserError


@dataclass(frozen=True)
class Args:
    """Search behaviour-cloning recipes; prune them on rollout success; measure the best on starts never used to choose.

    Without a file the quickstart runs: a policy that lifts a cube in MuJoCo.
    """

    sweep: tyro.conf.Positional[Path | None] = None
    """The sweep file (default: sweeps/quickstart.yaml)."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Override a value of the file, e.g. --set eval.episodes=50; may be repeated."""
    out: Path | None = None
    """Run folder (default: runs/NAME)."""
    max_concurrent: int | None = None
    """Concurrent trials (short for --set search.max_concurrent=N)."""
    resume: Resume = "False"
    """Resume the run folder; finished trials are not run again. auto: resume what is there, and begin otherwise."""
    overwrite: bool = False
    """Delete the run folder first."""
    check: bool = False
    """Only check the file and every corner of its search space."""
    address: str = ""
    """Address of a running Ray cluster, host:port or auto (default: a local Ray that ends with the sweep)."""
    cpus: int | None = None
    """CPUs of the local Ray (default: all)."""
    ray_dashboard: bool = False
    """Serve the dashboard of the local Ray on this machine while the command runs."""
    dashboard: bool = False
    """Show the sweep in the browser, on this machine only: while it runs and then, in a terminal, until Ctrl-C. In a
    script it ends with the sweep."""
    wandb: Mode = "off"
    """Copy every trial to Weights & Biases as a run of its own, grouped by the sweep; offline: into the run folder, for
    `wandb sync`."""
    wandb_project: str = "raybc"
    """Weights & Biases project."""
    mlflow: str = ""
    """Copy every trial to MLflow: the URI of a tracking server, or a folder for a local database."""
    mlflow_experiment: str = "raybc"
    """MLflow experiment."""
    port: int = 8420
    """Port of the dashboard on 127.0.0.1 (0: any free port)."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.sweep", Args.__doc__ or "")
    path = args.sweep or Path(str(files("raybc.sweeps") / "quickstart.yaml"))
    overrides = list(args.set)
    if args.max_concurrent is not None:
        overrides.append(f"search.max_concurrent={args.max_concurrent}")
    config = load_sweep(path, overrides)
    if args.cpus is not None and args.cpus < 1:
        raise UserError(f"--cpus: expected at least 1, got {args.cpus}")
    if args.check:
        metric = metric_of(config)
        corners = check_corners(config)
        check_effects(config)
        cli.console.print(
            f"{path}: OK: all {corners} configurations are valid; trials are ranked by {metric.label} "
            f"({metric.meaning}, {metric.direction}d)"
        )
        return 0
    trackers: tuple[TrackerConfig, ...] = (
        WandbConfig(args.wandb, args.wandb_project), MlflowConfig(args.mlflow, args.mlflow_experiment)
    )  # fmt: skip
    for tracker in trackers:
        tracker.check()
    used = tuple(tracker for tracker, on in zip(trackers, (args.wandb != "off", args.mlflow), strict=True) if on)
    # Here, because they import Ray, PyTorch and plotly, which --help and --check need not wait for.
    from raybc.sweep.begin import Launch
    from raybc.sweep.run import run_sweep
    from raybc.sweep.show import dashboard

    folder = SweepFolder(args.out or Path("runs") / config.name)
    inputs = (path, *config.train.inputs(), *(config.trainer.files() if config.trainer else ()))
    launch = Launch(folder, args.resume, args.overwrite, args.address, args.cpus, inputs, args.ray_dashboard, used)
    with dashboard(folder.path, args.port) if args.dashboard else contextlib.nullcontext():
        run_sweep(config, launch)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
