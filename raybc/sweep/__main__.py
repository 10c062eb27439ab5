"""`python -m raybc.sweep [SWEEP.yaml]`: search recipes, measure the best, leave a report."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from raybc import cli
from raybc.default_folder import existing_or_safe
from raybc.files import read_json
from raybc.run_folder import SweepFolder
from raybc.run_start import Resume, check_folder
from raybc.sweep.config import SweepConfig
from raybc.sweep.load import load_sweep, saved_sweep
from raybc.train.choices import Mode
from raybc.types import UserError
from raybc.waiting import waiting


@dataclass(frozen=True)
class Args:
    """Search behaviour-cloning recipes; prune them on rollout success; measure the best on starts never used to choose.

    Without a file the quickstart runs, a policy that lifts a cube in MuJoCo.
    """

    GROUPS: ClassVar = {
        "process": ("address", "cpus", "ray_dashboard"),
        "page": ("dashboard", "port"),
        "tracker": ("wandb", "wandb_project", "mlflow", "mlflow_experiment"),
    }
    EXAMPLES: ClassVar = (
        ("about a minute, no simulator package", "sweeps/pointmass.yaml"),
        ("with other values than the file's", "mine.yaml --set eval.episodes=20"),
        ("continue after Ctrl-C, a crash or kill -9", "--resume --out runs/quickstart"),
        ("more trials", "--resume --out runs/quickstart --set search.trials=40"),
    )

    sweep: tyro.conf.Positional[Path | None] = None
    """The sweep file (default: sweeps/quickstart.yaml); with --resume also the run folder."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Override a value of the file, e.g. --set eval.episodes=50; may be repeated."""
    out: Path | None = None
    """Run folder (default: runs/NAME)."""
    max_concurrent: int | None = None
    """Concurrent trials (short for --set search.max_concurrent=N)."""
    resume: Resume = "False"
    """Resume the run folder; finished trials are not run again. With --out RUN and no file everything is as it was, but
    for what --set changes. auto: resume what is there, and begin otherwise."""
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
    overrides = list(args.set)
    if args.max_concurrent is not None:
        overrides.append(f"search.max_concurrent={args.max_concurrent}")
    search(*sweep_of(args, overrides), args)
    return 0


def search(path: Path | None, config: SweepConfig, folder: SweepFolder, args: Args, command: str = "") -> Path | None:
    """Run or resume what `main` and `raybc.sweep` read; returns its folder, None with --check.

    path: the file of the sweep, if there is one. command: see `Launch` (default: that of this process). Raises
    `UserError` for what cannot be searched.
    """
    if args.cpus is not None and args.cpus < 1:
        raise UserError(f"--cpus: expected at least 1, got {args.cpus}")
    # Here and below, because they import packages that --help and a wrong path need not wait for.
    from raybc.sweep.recipes import check_effects
    from raybc.sweep.space import check_corners, metric_of
    from raybc.train.trackers.base import TrackerConfig
    from raybc.train.trackers.mlflow import MlflowConfig
    from raybc.train.trackers.wandb import WandbConfig

    if args.check:
        metric = metric_of(config)
        corners = check_corners(config)
        check_effects(config)
        cli.console.print(
            f"{path or config.name}: OK: all {corners} configurations are valid; trials are ranked by {metric.label} "
            f"({metric.meaning}, {metric.direction}d)"
        )
        return None
    trackers: tuple[TrackerConfig, ...] = (
        WandbConfig(args.wandb, args.wandb_project), MlflowConfig(args.mlflow, args.mlflow_experiment)
    )  # fmt: skip
    for tracker in trackers:
        tracker.check()
    used = tuple(tracker for tracker, on in zip(trackers, (args.wandb != "off", args.mlflow), strict=True) if on)
    check_folder(folder, folder.config, args.resume, args.overwrite)
    # Here, because they import Ray, which --help and --check need not wait for.
    with waiting(f"Checking the sweep {config.name}"):
        from raybc.sweep.begin import Launch
        from raybc.sweep.run import run_sweep
        from raybc.sweep.views import command_line

    inputs = (*([path] if path else []), *config.train.inputs(), *(config.trainer.files() if config.trainer else ()))
    launch = Launch(
        folder, args.resume, args.overwrite, args.address, args.cpus, inputs, args.ray_dashboard, used,
        command or command_line(),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        if args.dashboard:
            from raybc.sweep.show import dashboard  # plotly

            stack.enter_context(dashboard(folder.path, args.port))
        return run_sweep(config, launch)


def sweep_of(args: Args, overrides: list[str]) -> tuple[Path, SweepConfig, SweepFolder]:
    """The file of the sweep, the sweep, and its run folder.

    A sweep that is resumed without a file, by --out RUN or by its folder in place of the file, is the one that the
    folder holds, with the values that --set changes.
    """
    given = args.sweep if args.sweep is not None and SweepFolder(args.sweep).config.is_file() else None
    if given is not None and args.resume == "False":
        raise UserError(f"{given}: expected a sweep file, got the folder of a sweep; continue it with --resume")
    if given is not None and args.out not in (None, given):
        raise UserError(f"{given}: expected one run folder, got --out {args.out} as well")
    folder = given or (args.out if args.sweep is None else None)
    if folder is not None and args.resume != "False" and not args.overwrite:
        stored = SweepFolder(folder).config
        if stored.is_file():
            config = saved_sweep(read_json(stored), str(stored), overrides)
            if not any(item.startswith("metric=") for item in overrides):  # the one that it was started with counts
                config = dataclasses.replace(config, metric=None)
            return stored, config, SweepFolder(folder)
    path = args.sweep or Path(str(files("raybc.sweeps") / "quickstart.yaml"))
    config = load_sweep(path, overrides)
    return path, config, SweepFolder(args.out or existing_or_safe(Path("runs"), config.name))


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
