"""`Environment`: the packages of a simulator that contradict those of training, as a virtual environment of its own.

An environment is a folder of raybc's home, `environments/NAME-KEY`, where KEY is a digest of the packages and of the
version of Python. It is built by `raybc env build NAME` (`raybc.env.build`), whole or not at all. Processes in it find
raybc's own code through a link to the package of the process that starts them, so both are always in step, and no other
package of the main environment is seen. Only the standard library is imported here.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from raybc.files import home, write_json
from raybc.types import UserError

#: Packages that every simulator process needs, at the version of the main environment unless a lock file says another.
NEEDS = ("ray", "gymnasium", "av")
#: What is in the folder of a complete environment.
MANIFEST = "environment.json"
FORMAT = "raybc-environment-1"
#: Set in processes of an environment: its name.
INSIDE = "RAYBC_ENVIRONMENT"
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;*]+)(?:\s*;.*)?")

State = Literal["complete", "missing", "half-built", "being built", "other Python", "changed"]


class Status(NamedTuple):
    """What there is of an environment on this machine."""

    state: State
    detail: str
    """What was found, for people."""
    command: str
    """What mends it; "" where nothing is to be done."""

    def line(self, name: str) -> str:
        return f"environment {name}: {self.detail}" + (f"; {self.command}" if self.command else "")


@dataclass(frozen=True)
class Environment:
    """The packages that the simulators of a suite need. Picklable, so that every machine can be asked for it."""

    name: str
    """Name of the suite, or of the module that has this environment as its attribute `ENVIRONMENT`."""
    packages: tuple[str, ...]
    """NAME==VERSION of each package: all of them, or those that matter (pip chooses the rest)."""
    megabytes: int = 1000
    """Size of the whole, for the check of free disk."""
    example: str = ""
    """A task that a build makes and steps once, which shows that it works, and compiles what is compiled at first
    use."""

    @classmethod
    def of_lock(cls, name: str, path: Path, megabytes: int = 1000, example: str = "") -> Environment:
        """The environment of a lock file: requirements of pip, # begins a comment."""
        lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
        return cls(name, tuple(line for line in lines if line), megabytes, example)

    @functools.cached_property
    def wanted(self) -> tuple[str, ...]:
        """All lines that are installed: `packages`, and what raybc needs there. Raises `UserError` for a line that is
        no exact version, and for another Ray than that of this process, which could not talk to it."""
        pinned: dict[str, str] = {}
        for line in self.packages:
            match = _PINNED.fullmatch(line)
            if match is None:
                raise UserError(
                    f"environment {self.name}: expected NAME==VERSION for each package, so that scores can be "
                    f"repeated; got {line!r}"
                )
            pinned[normalized(match["name"])] = match["version"]
        if pinned.get("ray", version("ray")) != version("ray"):
            raise UserError(
                f"environment {self.name}: its packages name ray=={pinned['ray']}, and this process has ray "
                f"{version('ray')}; processes of one Ray need the same: leave ray out, raybc adds its own"
            )
        missing = (f"{name}=={version(name)}" for name in NEEDS if name not in pinned)
        return (*self.packages, *missing)

    @property
    def key(self) -> str:
        """NAME-DIGEST: packages and Python of the environment, which scores depend on."""
        if override(self.name) is not None:
            found = _look(str(override(self.name)))
            return f"{self._slug}-{_digest([found['python'], *map('=='.join, sorted(found['packages'].items()))])}"
        return f"{self._slug}-{_digest([platform.python_version(), *sorted(self.wanted)])}"

    @property
    def _slug(self) -> str:
        return re.sub(r"[^A-Za-z0-9.]+", "_", self.name)

    @property
    def folder(self) -> Path:
        """Where it is, or will be."""
        return root() / f"{self._slug}-{_digest([platform.python_version(), *sorted(self.wanted)])}"

    @property
    def python(self) -> Path:
        """The interpreter of the environment, whether it is there or not."""
        return override(self.name) or self.folder / "bin" / "python"

    @property
    def is_here(self) -> bool:
        """Whether this process is one of the environment."""
        return os.environ.get(INSIDE) == self.name

    def folders(self) -> list[Path]:
        """What there is of this environment: also of other packages and Pythons, and what an interrupted build left."""
        if not root().is_dir():
            return []
        pattern = re.compile(rf"\.?{re.escape(self._slug)}-[0-9a-f]{{12}}(\.[0-9a-f]+\.(tmp|old))?")
        return sorted(path for path in root().iterdir() if pattern.fullmatch(path.name))

    def status(self) -> Status:
        """What there is of it on this machine; a look at a few files."""
        build = f"raybc env build {self.name}"
        own = override(self.name)
        if own is not None:
            problem = _problem_of(own)
            variable = override_variable(self.name)
            if problem:
                return Status("other Python", f"{variable}={own}: {problem}", f"unset {variable}, or: {build}")
            return Status("complete", f"complete ({variable}={own})", "")
        manifest = read_manifest(self.folder)
        if manifest is not None and os.access(self.folder / "bin" / "python", os.X_OK):
            size = f"{len(manifest['packages'])} packages, {manifest['megabytes']} MB"
            return Status("complete", f"complete (Python {manifest['python']}, {size})", "")
        if self.is_locked():
            return Status("being built", "is being built by another process", "wait for it")
        if manifest is not None:
            return Status("half-built", "half-built (its interpreter is gone)", build)
        folders = self.folders()
        if any(read_manifest(folder) is None for folder in folders):
            return Status("half-built", "half-built (a build was interrupted)", build)
        for folder in folders:
            other = read_manifest(folder)
            if other is not None and other["python"] != platform.python_version():
                what = f"built for Python {other['python']}, this is Python {platform.python_version()}"
                return Status("other Python", what, build)
            if other is not None:
                return Status(
                    "changed", f"built for other packages ({_difference(other['wanted'], self.wanted)})", build
                )
        return Status("missing", "missing (not built on this machine)", build)

    def is_locked(self) -> bool:
        """Whether a process is building it now."""
        lock = root() / f".{self._slug}.lock"
        if not lock.exists():
            return False
        with contextlib.suppress(OSError), lock.open("r") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @contextlib.contextmanager
    def locked(self) -> Any:
        """Wait until no other process builds or removes it. The kernel releases the lock of a process that dies."""
        root().mkdir(parents=True, exist_ok=True)
        with (root() / f".{self._slug}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def require(self) -> Path:
        """The interpreter, or `UserError` with the command that builds the environment."""
        found = self.status()
        if found.state != "complete":
            raise UserError(found.line(self.name))
        return self.python

    def variables(self) -> dict[str, str]:
        """Environment variables of its processes: they find raybc, and modules of the user's PYTHONPATH."""
        own = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        kept = [entry for entry in own if not _holds_packages(Path(entry))]
        return {INSIDE: self.name, "PYTHONPATH": os.pathsep.join([str(source()), *kept]), "PYTHONNOUSERSITE": "1"}

    def runtime_env(self) -> dict[str, Any]:
        """Ray's `runtime_env` of an actor in it. Raises `UserError` where it is not built."""
        return {"py_executable": shlex.quote(str(self.require())), "env_vars": self.variables()}


def root() -> Path:
    """The folder of all environments."""
    return home().absolute() / "environments"


def source() -> Path:
    """A folder that contains only a link to this process's raybc. (What is beside raybc, e.g. in site-packages, must
    not be seen in an environment.)"""
    package = Path(__file__).resolve().parents[1]
    folder = root() / f"source-{_digest([str(package)])}"
    link = folder / "raybc"
    if not link.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process was faster
            link.symlink_to(package)
    return folder


def override_variable(name: str) -> str:
    """The variable that names an interpreter for the environment `name`."""
    return f"RAYBC_PYTHON_{re.sub(r'[^A-Za-z0-9]+', '_', name).upper()}"


def override(name: str) -> Path | None:
    """The interpreter that the user has named for an environment, e.g. one of a container image."""
    value = os.environ.get(override_variable(name), "")
    return Path(value) if value else None


def normalized(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The description of a complete environment; None for one that is not complete."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def write_manifest(folder: Path, environment: Environment, packages: dict[str, str], megabytes: int) -> None:
    write_json(
        folder / MANIFEST,
        {
            "format": FORMAT,
            "name": environment.name,
            "python": platform.python_version(),
            "wanted": list(environment.wanted),
            "packages": packages,
            "megabytes": megabytes,
        },
    )


#: Prints the version of Python and what is installed.
_LOOK = (
    "import json, platform; from importlib.metadata import distributions; "
    "print(json.dumps({'python': platform.python_version(), "
    "'packages': {d.metadata['Name']: d.version for d in distributions() if d.metadata['Name']}}))"
)


def look(python: Path) -> dict[str, Any]:
    """The version of an interpreter's Python (`python`) and its packages (`packages`, name -> version). Raises
    `UserError` where it cannot be run."""
    try:
        ran = subprocess.run([str(python), "-I", "-c", _LOOK], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{python}: expected a Python interpreter, got {type(error).__name__}") from None
    if ran.returncode:
        raise UserError(
            f"{python}: expected a Python interpreter: {(ran.stderr.strip() or 'it failed').splitlines()[-1]}"
        )
    found: dict[str, Any] = json.loads(ran.stdout)
    found["packages"] = {normalized(name): number for name, number in found["packages"].items()}
    return found


@functools.lru_cache(maxsize=8)
def _look(python: str) -> dict[str, Any]:
    return look(Path(python))


def _problem_of(python: Path) -> str:
    """Why an interpreter that the user named cannot be used; "" where it can."""
    try:
        found = _look(str(python))
    except UserError as error:
        return str(error)
    if found["python"].split(".")[:2] != platform.python_version().split(".")[:2]:
        return f"expected Python {platform.python_version()}, as Ray needs the same everywhere; got {found['python']}"
    for name in NEEDS:
        if name not in found["packages"]:
            return f"expected the package {name}, got none"
    if found["packages"]["ray"] != version("ray"):
        return f"expected ray {version('ray')}, got {found['packages']['ray']}"
    return ""


def _holds_packages(folder: Path) -> bool:
    """Whether a folder holds installed packages, which could contradict those of an environment."""
    return "site-packages" in folder.parts or any(folder.glob("*.dist-info"))


def _difference(before: list[str], now: tuple[str, ...]) -> str:
    added, gone = sorted(set(now) - set(before)), sorted(set(before) - set(now))
    parts = [f"without {', '.join(added[:3])}"] if added else []
    parts += [f"with {', '.join(gone[:3])}"] if gone else []
    return "; ".join(parts) or "in another order"


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
