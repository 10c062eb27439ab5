"""`raybc cluster {slurm,wait}`: raybc on an allocation of SLURM."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from raybc import cli
from raybc.cluster.slurm import Allocation, Job, split, submit
from raybc.files import write_text
from raybc.flags import grouped
from raybc.types import UserError


@dataclass(frozen=True)
class SlurmArgs:
    """Write a job script that runs a command of raybc on an allocation of SLURM. The command stands after `--`."""

    allocation: grouped(Allocation) = field(default_factory=Allocation)  # type: ignore[valid-type]
    """What is requested."""
    script: Path = Path()
    """Where the script is written (default: NAME.sbatch in the working folder)."""
    submit: bool = False
    """Hand it to sbatch."""
    overwrite: bool = False
    """Replace the script if it is there with other contents."""


@dataclass(frozen=True)
class WaitArgs:
    """Wait until a running Ray has a number of machines. Exit status 1 if it does not in time."""

    address: str
    """HOST:PORT of the first machine."""
    machines: int = 1
    """How many machines to wait for."""
    timeout: float = 300.0
    """Seconds after which it gives up."""


def slurm_command(argv: list[str]) -> int:
    """Run `raybc cluster slurm`."""
    words, command = split(argv)
    args = cli.parse(SlurmArgs, words, "raybc.cluster slurm", SlurmArgs.__doc__ or "")
    job = Job(command, args.allocation)
    text = job.script()
    path = args.script if args.script != Path() else Path(f"{job.allocation.name}.sbatch")
    if path.exists() and not args.overwrite and path.read_text(encoding="utf-8", errors="replace") != text:
        raise UserError(f"{path}: is there with other contents; use --overwrite, or --script for another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    cli.console.print(f"wrote {path}")
    if not args.submit:
        cli.console.print(f"submit it: sbatch {shlex.quote(str(path))}")
        return 0
    number = submit(path)
    cli.console.print(f"submitted as job {number}; it writes raybc-{number}.log here (`squeue -j {number}` shows it)")
    return 0


def wait_command(argv: list[str]) -> int:
    """Run `raybc cluster wait`."""
    args = cli.parse(WaitArgs, argv, "raybc.cluster wait", WaitArgs.__doc__ or "")
    from raybc.cluster.waiting import wait_for_machines  # imports Ray

    wait_for_machines(args.address, args.machines, args.timeout)
    cli.console.print(f"{args.machines} machine(s) of {args.address} are ready")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {"slurm": slurm_command, "wait": wait_command}
USAGE = """usage: python -m raybc.cluster {slurm,wait} [flags]

  slurm   write (and submit) a job script: raybc cluster slurm --nodes 2 --gpus 1 -- sweep mine.yaml --out DIR
  wait    wait until a running Ray has a number of machines; job scripts use it

python -m raybc.cluster COMMAND --help lists the flags of a command.
"""


#: Flags of each of its commands, for the completion of a shell.
FLAGS: dict[str, type] = {"slurm": SlurmArgs, "wait": WaitArgs}


def main(argv: list[str] | None = None) -> int:
    return cli.run_command(COMMANDS, USAGE, list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
