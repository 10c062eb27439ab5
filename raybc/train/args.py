"""The flags of `python -m raybc.train` beside the options of a run, and what some of them come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from raybc import cli
from raybc.config import RunConfig
from raybc.files import expanded
from raybc.run_start import Resume
from raybc.seeing import CameraFlags
from raybc.train.choices import ExtendSchedule, Mode, Parallel
from raybc.types import UserError


@dataclass(frozen=True)
class Args(CameraFlags):
    """This command."""

    GROUPS: ClassVar = {
        "camera": ("cameras", "image_height", "image_width"),
        "batch": ("gradient_accumulation_steps", "per_device_train_batch_size"),
        "process": ("num_workers", "min_workers", "parallel", "threads", "workers", "address", "ray_dashboard"),
        "tracker and hub": ("wandb", "wandb_project", "mlflow", "mlflow_experiment", "push_to_hub"),
    }
    EXAMPLES: ClassVar = (
        ("the default policy on demonstrations of a scripted expert", "--env_name lift-scripted-low_dim"),
        ("a recipe of the literature, with another rate", "--recipe flow_unet_pusht_small --lr 1e-4"),
        ("four seeds side by side", "--env_name lift-scripted-low_dim --seeds 0 1 2 3"),
        ("your own recordings, without a simulator", "--dataset my_robot --action_chunking"),
        ("continue a run; only what changes is named", "--resume --out RUN --training_steps 40000"),
    )

    config: str = ""
    """A YAML file with options of the run, as under `train:` of a sweep file; flags override it."""
    recipe: str = ""
    """A recipe of the literature (`raybc recipes` lists them); --config and flags override its options."""
    seeds: tuple[int, ...] = ()
    """Train these seeds together as a pack, e.g. --seeds 0 1 2 3 (instead of seed)."""

    gradient_accumulation_steps: int = 1
    """Multiply batch_size by this number and compute each batch in as many parts, so that batch_size is what is in
    memory at a time (--accumulate splits batch_size instead)."""
    per_device_train_batch_size: int = 0
    """Examples of each training process at a time; batch_size is this times num_workers times
    gradient_accumulation_steps (0: batch_size counts)."""
    demos: int = 100
    """Demonstrations to record with the scripted expert, if env_name uses scripted data."""
    out: Path | None = None
    """Run folder (default: SAVE_DIR/bc_training/RUN_GROUP/ENV_NAME/sdSEED_RUNID; pack_ID for several seeds)."""
    num_workers: int = 1
    """Training processes that share every batch (Ray Train; DDP over nccl or gloo)."""
    min_workers: int = 0
    """Minimum number of workers: training starts with this many and grows to num_workers as resources become free
    (0: num_workers)."""
    parallel: Parallel = "ddp"
    """fsdp: shard the policy over num_workers, for policies that do not fit on one device (FSDP2)."""
    threads: int = 0
    """PyTorch threads on a CPU (0: OMP_NUM_THREADS if set, else the cores that are free, shared with other trainings;
    a resumed run keeps its number)."""
    workers: int = 0
    """Simulator processes (0: one for each core that training does not use)."""
    wandb: Mode = "off"
    """Copy metrics and videos to Weights & Biases; offline: into the run folder, for `wandb sync`."""
    wandb_project: str = "raybc"
    """Weights & Biases project."""
    mlflow: str = ""
    """Copy metrics and videos to MLflow: the URI of a tracking server, or a folder for a local database."""
    mlflow_experiment: str = "raybc"
    """MLflow experiment."""
    push_to_hub: str = ""
    """Repository OWNER/NAME on the Hugging Face Hub to upload the policy to when training has ended; it is created
    private if it does not exist."""
    resume: Resume = "False"
    """Resume a run from its latest state, or extend it to more training_steps or num_rounds. With --out RUN every
    option has the value of that run, and only what changes is named. auto: resume if there is a saved run, otherwise
    start a new one."""
    extend_schedule: ExtendSchedule = "no"
    """With --resume and more training_steps: a cosine schedule stays at min_lr (hold) or starts again from lr
    (restart)."""
    overwrite: bool = False
    """Delete the run folder first."""
    address: str = ""
    """A running Ray cluster; default: a local Ray."""
    ray_dashboard: bool = False
    """Serve the dashboard of the local Ray on this machine while the command runs."""


def with_batches(config: RunConfig, args: Args, argv: Sequence[str]) -> RunConfig:
    """The run with the batches that --per_device_train_batch_size and --gradient_accumulation_steps ask for."""
    factor, each = args.gradient_accumulation_steps, args.per_device_train_batch_size
    if factor < 1:
        raise UserError(f"--gradient_accumulation_steps: expected at least 1, got {factor}")
    if each < 0:
        raise UserError(f"--per_device_train_batch_size: expected at least 1, or 0 (batch_size counts), got {each}")
    if each and any(word.partition("=")[0].replace("-", "_") == "__batch_size" for word in argv):
        raise UserError("--per_device_train_batch_size: expected one size of batches, got --batch_size as well")
    batch = each * args.num_workers if each else config.batch_size
    if not each and factor == 1:
        return config
    config = config.changed(batch_size=batch * factor, accumulate=config.accumulate * factor)
    parts = f", computed in {config.accumulate} parts" if config.accumulate > 1 else ""
    cli.console.print(f"batch_size: {config.batch_size}{parts}")
    return config


def inputs_of(config: RunConfig, args: Args, *more: Path) -> list[Path]:
    """The files and folders that a training reads; more: those that no flag names."""
    return [*config.inputs(), *([expanded(args.config)] if args.config else []), *more]


def with_hub(args: Args, seeds: Sequence[int]) -> Args:
    """The arguments, with --push_to_hub False (as other trainers write it) as none. Raises `UserError` for a name or an
    account that cannot work, before anything is trained."""
    from raybc.export.hub import check_account, check_name

    if args.push_to_hub.lower() in ("", "false"):
        return dataclasses.replace(args, push_to_hub="")
    check_name(args.push_to_hub)
    if len(seeds) > 1:
        raise UserError(
            f"--push_to_hub: expected one seed, got {len(seeds)}; upload one of them afterwards with `raybc export`"
        )
    check_account()
    return args


def push_at_the_end(name: str, run: Path) -> None:
    """Upload the policy of a run that has ended (`--push_to_hub`). Raises `cli.Failed` if the Hub refuses."""
    from raybc.export.hub import publish_run

    try:
        cli.console.print(f"uploaded: {publish_run(name, run)}")
    except cli.Failed as error:
        raise cli.Failed(f"{error}; the policy is saved: raybc export {run} --push_to_hub {name}") from None
