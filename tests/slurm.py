"""A SLURM of two nodes on this machine, for tests: Debian's package `slurm-wlm`, without root's configuration.

Both nodes are this machine, under the names n1 and n2. Nothing outside of the given folder is written, and nothing is
left when the block ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=30
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no SLURM here; empty if there can."""
    if os.getuid() != 0:
        return "needs root (slurmd)"
    if not all(shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") for program in ("slurmctld", "slurmd")):
        return "needs SLURM (Debian: apt-get install slurm-wlm)"
    return ""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """A SLURM whose files are in `folder`; gives the environment in which its commands find it."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    (folder / "state").mkdir(parents=True)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, ports=ports))
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    commands = (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"])
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(command, env=env, **quiet) for command in commands]  # type: ignore[call-overload]
    try:
        until(lambda: _idle(env) == 2, 60, "both nodes of SLURM are idle")
        yield env
    finally:
        subprocess.run(["scancel", "--user=root", "--signal=KILL", "--full"], env=env, **quiet)  # type: ignore[call-overload]
        subprocess.run(["scancel", "--user=root"], env=env, **quiet)  # type: ignore[call-overload]
        with contextlib.suppress(AssertionError):
            until(lambda: not squeue(env), 60, "no job is left")
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=30)


def _idle(env: dict[str, str]) -> int:
    done = subprocess.run(["sinfo", "-h", "-N", "-t", "idle"], env=env, capture_output=True, text=True)
    return len(done.stdout.split("\n")) - 1


def squeue(env: dict[str, str]) -> str:
    """One line for each job: number, state, how often it was restarted."""
    command = ["squeue", "-h", "-O", "JobID:.12,StateCompact:.6,RestartCnt:.6"]
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout.strip()


def until(ready, seconds: float, what: str) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"not in {seconds:g} s: {what}"
        time.sleep(0.5)
