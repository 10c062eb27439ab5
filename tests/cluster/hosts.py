"""Machines made of Linux namespaces: each has its own network, processes, host name, home, /tmp and /dev/shm.

They share the file system otherwise (so the Python environment is there already), and /mnt/raybc is their shared disk.
Everything lives in the namespaces of one process, `enter`: when that ends, nothing is left - no process, bridge or
mount. What is on this machine besides (other people's Rays) is neither seen nor touched.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

NETWORK = "10.77.0."
SHARED = Path("/mnt/raybc")
HOME = Path(pwd.getpwuid(0).pw_dir)
#: Folders that every machine has for itself.
OWN = {"home": HOME, "tmp": Path("/tmp"), "run": Path("/run")}
INSIDE = "RAYBC_TEST_CLUSTER"


def missing() -> str:
    """Why no machines can be made here; empty where they can."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "needs Linux and root (for namespaces)"
    for program, package in (
        ("sshd", "openssh-server"),
        ("ssh", "openssh-client"),
        ("rsync", "rsync"),
        ("ip", "iproute2"),
    ):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"needs {program} (apt-get install {package})"
    probe = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--mount-proc"]
    tried = subprocess.run([*probe, "ip", "link", "add", "bridge0", "type", "bridge"], capture_output=True, text=True)
    return f"needs namespaces and bridges: {tried.stderr.strip()}" if tried.returncode else ""


def enter(argv: Sequence[str], work: Path) -> int:
    """Run `python argv` in namespaces of its own; all that it has started ends with it."""
    command = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    return subprocess.run([*command, sys.executable, *argv], env=os.environ | {INSIDE: str(work)}).returncode


def run(*command: str | Path | int) -> str:
    """A command that must succeed; its output."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def own_folders(work: Path, name: str) -> None:
    """Give this mount namespace folders of its own in place of `OWN`, and the shared disk."""
    keep = [p.resolve() for p in map(Path, [sys.prefix, sys.base_prefix, os.getcwd(), *sys.path]) if p.is_absolute()]
    keep = [p for p in dict.fromkeys(keep) if p.is_dir() and any(p.is_relative_to(own) for own in OWN.values())]
    keep = [p for p in keep if not any(p != q and p.is_relative_to(q) for q in keep)]
    stages = []
    for number, path in enumerate(keep):  # what Python needs is bound elsewhere before its folder disappears
        stages.append((work / name / f"keep_{number}", path))
        stages[-1][0].mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", path, stages[-1][0])
    for folder, place in OWN.items():
        (work / name / folder).mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", work / name / folder, place)
    for stage, path in stages:
        path.mkdir(parents=True, exist_ok=True)
        run("mount", "--move", stage, path)
    run("mount", "-t", "tmpfs", "tmpfs", SHARED.parent)
    SHARED.mkdir()
    run("mount", "--bind", work / "shared", SHARED)
    run("mount", "-t", "tmpfs", "-o", "size=8g", "tmpfs", "/dev/shm")


def be_the_laptop(work: Path) -> None:
    """This process, already in namespaces of its own, becomes the machine from which `ray up` is called."""
    (work / "shared").mkdir(exist_ok=True)
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "addr", "add", f"{NETWORK}1/24", "dev", "br0")
    run("ip", "link", "set", "br0", "up")
    run("ip", "route", "add", "default", "dev", "br0")  # Ray finds its own address by asking for a way out
    own_folders(work, "laptop")
    run("hostname", "laptop")
    (HOME / ".ssh").mkdir(mode=0o700)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", HOME / ".ssh/id_ed25519")


class Host:
    """One machine with an sshd."""

    def __init__(self, work: Path, number: int) -> None:
        self.name, self.ip, self.work = f"host{number}", f"{NETWORK}{number + 1}", work
        self._number = number
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Switch it on; its disk is as it was."""
        log = (self.work / f"{self.name}.log").open("ab")
        command = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        self._process = subprocess.Popen(
            [*command, sys.executable, "-m", "tests.cluster.hosts", str(self.work), self.name],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        init = self._init()
        link = f"veth{self._number}"
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", init)
        run("ip", "link", "set", link, "master", "br0", "up")
        inside = ("nsenter", "-t", init, "-n", "ip")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "addr", "add", f"{self.ip}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", f"{NETWORK}1")

    def _init(self) -> int:
        assert self._process is not None
        end = time.monotonic() + 20
        while time.monotonic() < end:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            if children and os.readlink(f"/proc/{children[0]}/ns/net") != os.readlink("/proc/self/ns/net"):
                return int(children[0])
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} did not start")

    def kill(self) -> None:
        """The power fails: its network goes, and every process of it."""
        assert self._process is not None
        run("ip", "link", "delete", f"veth{self._number}")
        self._process.send_signal(signal.SIGKILL)  # --kill-child: the first process of the machine, and so all
        self._process.wait()

    def processes(self, word: str) -> list[str]:
        """Command lines of it that contain `word`."""
        assert self._process is not None
        listing = run("nsenter", "-t", self._init(), "-p", "-m", "ps", "-eo", "args")
        return [line for line in listing.splitlines() if word in line]


@contextlib.contextmanager
def hosts(work: Path, count: int) -> Iterator[list[Host]]:
    """`count` machines that answer to ssh with the laptop's key."""
    machines = [Host(work, number) for number in range(1, count + 1)]
    ssh = ("ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=2")
    for machine in machines:
        for attempt in range(40):
            try:
                run(*ssh, f"root@{machine.ip}", "true")
                break
            except RuntimeError:
                if attempt == 39:
                    raise
                time.sleep(0.5)
    yield machines


def _be_a_host(work: Path, name: str) -> None:
    """The first process of a machine: folders, then sshd for ever."""
    own_folders(work, name)
    run("hostname", name)
    Path("/run/sshd").mkdir(exist_ok=True)
    key = work / name / "host_key"
    if not key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    options = {
        "HostKey": key, "AuthorizedKeysFile": work / "laptop/home/.ssh/id_ed25519.pub", "StrictModes": "no",
        "UsePAM": "no", "PermitRootLogin": "prohibit-password", "PasswordAuthentication": "no", "PidFile": "none",
    }  # fmt: skip
    arguments = " ".join(f"-o {k}={v}" for k, v in options.items())
    os.chdir("/")
    # bash, because the first process of a machine has to bury the orphans of Ray's start commands.
    os.execvp("bash", ["bash", "-c", f"/usr/sbin/sshd -D -e -f /dev/null {arguments} & wait $!"])


if __name__ == "__main__":
    _be_a_host(Path(sys.argv[1]), sys.argv[2])
