"""A job script for SLURM: Ray on the machines of one allocation, and a command of raybc on it.

The script starts one Ray process tree for each machine (`srun ray start`), waits for all of them, runs the command on
the first machine with `--address`, and ends Ray. Its ports and its folder in /tmp depend on the number of the job, so
jobs on the same machine do not meet. Shortly before the time limit SLURM sends a signal: the command stops as with
Ctrl-C and the job is queued again, where `--resume=auto` continues it.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from raybc.cli import Failed
from raybc.strict import did_you_mean
from raybc.types import UserError

#: Commands that use a cluster (`--address`) -> whether they continue what is there (`--resume=auto`).
COMMANDS = {"sweep": True, "train": True, "rollout": True, "compare": True, "demos": False}
#: Options of sbatch that have flags of their own, or that the script depends on.
OWN = {
    "job-name": "--name", "nodes": "--nodes", "cpus-per-task": "--cpus", "gpus-per-node": "--gpus", "mem": "--mem",
    "time": "--time", "partition": "--partition", "account": "--account", "requeue": "--requeue",
    "no-requeue": "--no-requeue", "ntasks": "--nodes", "ntasks-per-node": "--nodes", "signal": "--requeue",
    "chdir": "the working folder", "output": "the working folder", "open-mode": "the working folder",
}  # fmt: skip
#: Minutes, MM:SS, HH:MM:SS, or D-HH, D-HH:MM, D-HH:MM:SS.
_TIME = re.compile(r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+|\d+-\d+:\d\d|\d+-\d+:\d\d:\d\d")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_MEMORY = re.compile(r"\d+[KMGT]?")


@dataclass(frozen=True)
class Allocation:
    """What is requested from SLURM; each value is per job unless it says otherwise."""

    nodes: int = 1
    """Number of machines."""
    cpus: int = 4
    """CPU cores on each machine."""
    gpus: int = 0
    """GPUs on each machine."""
    mem: str = ""
    """Memory on each machine, e.g. 64G (default: what the partition gives)."""
    time: str = "1-00:00:00"
    """Time limit as SLURM writes it: minutes, HH:MM:SS or D-HH:MM:SS. A job that reaches it is queued again."""
    partition: str = ""
    """Partition (default: that of the cluster)."""
    account: str = ""
    """Account that is charged (default: yours)."""
    name: str = "raybc"
    """Name of the job."""
    sbatch: tuple[str, ...] = ()
    """More options of sbatch without their dashes, e.g. qos=high constraint=a100."""
    setup: tuple[str, ...] = ()
    """Lines of shell that run on the first machine before everything else, e.g. "module load cuda"."""
    requeue: bool = True
    """Queue the job again when it reaches its time limit or loses a machine; it continues where it was."""

    def validate(self) -> None:
        """Raise `UserError` for values that SLURM would refuse, or that the script sets by itself."""
        for name, value, least in (("nodes", self.nodes, 1), ("cpus", self.cpus, 1), ("gpus", self.gpus, 0)):
            if value < least:
                raise UserError(f"--{name}: expected at least {least}, got {value}")
        if not _TIME.fullmatch(self.time):
            raise UserError(f"--time: expected minutes, HH:MM:SS or D-HH:MM:SS, got {self.time!r}")
        if self.mem and not _MEMORY.fullmatch(self.mem):
            raise UserError(f"--mem: expected a number with K, M, G or T, e.g. 64G, got {self.mem!r}")
        for name, text in (("name", self.name), ("partition", self.partition), ("account", self.account)):
            if (text and not _NAME.fullmatch(text)) or not self.name:
                raise UserError(f"--{name}: expected letters, digits, '.', '_' and '-', got {text!r}")
        for one in self.sbatch:
            option = one.partition("=")[0]
            if one.startswith("-") or "\n" in one or not option:
                raise UserError(f"--sbatch: expected options without dashes, e.g. qos=high, got {one!r}")
            if option in OWN:
                raise UserError(f"--sbatch {one}: {option} is set by {OWN[option]}")

    @property
    def directives(self) -> list[str]:
        """Options of sbatch, for its `#SBATCH` lines."""
        given = {
            "job-name": self.name,
            "nodes": str(self.nodes),
            "ntasks-per-node": "1",
            "cpus-per-task": str(self.cpus),
            "gpus-per-node": str(self.gpus) if self.gpus else "",
            "mem": self.mem,
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
        }
        lines = [f"{name}={value}" for name, value in given.items() if value]
        return [f"--{line}" for line in [*lines, *self.sbatch, "requeue" if self.requeue else "no-requeue"]]


@dataclass(frozen=True)
class Job:
    """A command of raybc on an allocation."""

    command: tuple[str, ...]
    """The command and its flags, e.g. ("sweep", "mine.yaml", "--out", "/shared/runs/mine")."""
    allocation: Allocation = field(default_factory=Allocation)
    """What is requested for it."""

    def __post_init__(self) -> None:
        self.allocation.validate()
        if not self.command:
            raise UserError(
                "expected a command after --, e.g. raybc cluster slurm --nodes 2 -- sweep mine.yaml --out DIR"
            )
        name = self.command[0]
        if name not in COMMANDS:
            raise UserError(f"-- {name}: expected a command that uses a cluster: {did_you_mean(name, COMMANDS)}")
        if self._has("address"):
            raise UserError("--address: the script sets it; leave it out")
        if not self._has("out"):
            raise UserError(
                f"-- {name}: expected --out DIR, a folder that all machines of the cluster see at the same path"
            )

    def _has(self, flag: str) -> bool:
        return any(part.partition("=")[0] == f"--{flag}" for part in self.command)

    @property
    def words(self) -> list[str]:
        """The arguments of `python -m raybc`, without the address."""
        resumes = COMMANDS[self.command[0]] and not self._has("resume") and not self._has("overwrite")
        return [*self.command, *(["--resume=auto"] if resumes else [])]

    def script(self, python: Path | None = None, folder: Path | None = None) -> str:
        """The text of the job script.

        python: the interpreter with raybc, at the same path on all machines (default: this one). folder: where the
        command runs and the log is written (default: the working folder).
        """
        templates = jinja2.Environment(
            loader=jinja2.PackageLoader("raybc.cluster", "."),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,  # a shell script: every value is quoted below
        )
        place: Any = (folder or Path.cwd()).absolute()
        return templates.get_template("slurm.sh.j2").render(
            directives=self.allocation.directives,
            folder=shlex.quote(str(place)),
            chdir=_in_a_directive(place),
            setup=self.allocation.setup,
            binaries=shlex.quote(str((python or Path(sys.executable)).absolute().parent)),
            command=shlex.join(self.words),
            gpus=self.allocation.gpus,
            requeue=self.allocation.requeue and "--resume=auto" in self.words,
        )


def _in_a_directive(path: Path) -> str:
    """A path in a `#SBATCH` line, which knows double quotes only."""
    if re.search(r"[\"\\\n%]", str(path)):
        raise UserError(f"{path}: SLURM cannot write a log there; call the command in a folder without quotes and %")
    return f'"{path}"' if " " in str(path) else str(path)


def submit(script: Path) -> str:
    """Hand a script to sbatch; the number of the job. Raises `UserError` without sbatch, `Failed` where it refuses."""
    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise UserError(
            f"--submit: sbatch was not found; call this on a login machine of the cluster, or copy {script} there and "
            f"call: sbatch {shlex.quote(script.name)}"
        ) from None
    except subprocess.TimeoutExpired:
        raise Failed(f"sbatch did not answer within two minutes; try: sbatch {shlex.quote(str(script))}") from None
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise Failed(f"sbatch refuses the job: {reason}; the script is {script}")
    return done.stdout.strip().partition(";")[0]


def split(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Flags in front of `--`, and the command behind it."""
    if "--" not in argv:
        return list(argv), ()
    place = list(argv).index("--")
    return list(argv[:place]), tuple(argv[place + 1 :])
