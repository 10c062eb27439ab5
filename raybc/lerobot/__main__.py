"""`raybc import FOLDER --out BUNDLE`: a LeRobot checkpoint as one of our bundles."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from raybc import cli
from raybc.run_folder import BUNDLE_FILE
from raybc.types import UserError


@dataclass(frozen=True)
class Args:
    """Make a bundle from a checkpoint of LeRobot's diffusion policy."""

    folder: tyro.conf.Positional[Path]
    """A checkpoint (config.json, model.safetensors, policy_preprocessor.json, ...), or the folder of a training of
    LeRobot's (its last checkpoint)."""
    out: Path
    """The new bundle."""
    env_name: str = "none"
    """The task that the policy is for; none: of no simulator here, e.g. for a robot."""
    observations: tuple[str, ...] = ()
    """Which observations of the task LeRobot's inputs are: FEATURE=OBSERVATION, several joined by +, some numbers as
    OBSERVATION:START:END (default: observation.X and observation.images.X are X)."""
    overwrite: bool = False
    """Replace an existing bundle."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.import", Args.__doc__ or "")
    if args.out.exists():
        if not (args.out / BUNDLE_FILE).is_file():
            raise UserError(f"{args.out}: exists, and is no bundle; nothing was deleted: choose another --out")
        if not args.overwrite:
            raise UserError(f"{args.out}: exists; replace it with --overwrite, or choose another --out")
    if not args.folder.exists():
        raise UserError(f"{args.folder}: expected the folder of a LeRobot checkpoint, found none")
    # Here, because they import PyTorch, which --help and a wrong path need not wait for.
    from raybc.bundle import PolicyBundle
    from raybc.lerobot.imported import import_checkpoint

    found = import_checkpoint(args.folder, args.env_name, args.observations)
    found.bundle.save(args.out)
    PolicyBundle.load(args.out)
    for note in found.notes:
        cli.console.print(f"note: {note}")
    cli.console.print(f"policy: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
