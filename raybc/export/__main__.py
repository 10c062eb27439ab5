"""`python -m raybc.export BUNDLE --onnx`, `--lerobot` or `--push_to_hub OWNER/NAME`: share a policy."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from raybc import cli
from raybc.find_bundle import check_policy
from raybc.types import UserError


@dataclass(frozen=True)
class Args:
    """Write a policy as one ONNX file or as a LeRobot checkpoint, or upload it to the Hugging Face Hub with a model
    card."""

    bundle: tyro.conf.Positional[Path]
    """A bundle, the folder of a training run (see --checkpoint), or the folder of a sweep (its winner)."""
    checkpoint: str = ""
    """Checkpoint of a training run: latest (also -1), best (best score in eval.csv), final, or a step."""
    onnx: bool = False
    """Write one ONNX file from physical observations and noise to physical chunks, and its metadata as JSON."""
    lerobot: bool = False
    """Write a folder that LeRobot loads as its diffusion policy, for policy flow_unet with objective diffusion."""
    observations: tuple[str, ...] = ()
    """Of --lerobot: what its inputs are made of, observation.state=KEY observation.environment_state=KEY+KEY:0:3."""
    push_to_hub: str = ""
    """Repository OWNER/NAME to upload the policy to; it is created if it does not exist."""
    public: bool = False
    """Make a new repository public (default: private)."""
    dry_run: Path | None = None
    """Write what --push_to_hub would upload to this folder instead of uploading it."""
    measured: Path | None = None
    """Folder of an evaluation by raybc.rollout, for the model card (default: where that command writes it)."""
    benchmark: str = ""
    """Data set on the Hub that stands for the task in .eval_results, OWNER/NAME or OWNER/NAME:TASK (default: that of
    LIBERO's and robomimic's tasks and of PushT)."""
    flow_steps: int | None = None
    """Steps of the solver that integrates the flow (default: the policy's)."""
    solver: Literal["euler", "midpoint", "heun", "rk4"] | None = None
    """Solver of the flow (default: the policy's)."""
    eval_temperature: float | None = None
    """Scale of the initial noise (default: the policy's)."""
    best_of_n: int | None = None
    """Chunks that are sampled, of which the one that the critic values most is executed (default: the policy's). The
    ONNX file contains the critic then, and takes the noise of all of them."""
    out: Path | None = None
    """The ONNX file (default: runs/exports/RUNID_step_STEP.onnx, with flags of sampling also these), or the
    folder of --lerobot (default: the same with _lerobot)."""
    overwrite: bool = False
    """Replace an existing file or folder."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.export", Args.__doc__ or "")
    if not args.onnx and not args.push_to_hub and not args.lerobot:
        raise UserError("expected --onnx, --lerobot or --push_to_hub OWNER/NAME (what to export)")
    if args.onnx and args.lerobot and args.out is not None:
        raise UserError("--out: expected --onnx or --lerobot, got both; call raybc export twice")
    if args.observations and not args.lerobot:
        raise UserError("--observations: belongs to --lerobot, which is missing")
    for flag in ("public", "dry_run", "measured", "benchmark"):
        if getattr(args, flag) and not args.push_to_hub:
            raise UserError(f"--{flag}: belongs to --push_to_hub OWNER/NAME, which is missing")
    check_policy(args.bundle, args.checkpoint)
    # Here, because it imports PyTorch, which --help and a wrong path need not wait for.
    from raybc.export.command import export

    return export(args)


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
