"""Building an environment: with venv and pip, whole or not at all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raybc.env.environment import Environment, look, override_variable, read_manifest, write_manifest
from raybc.files import free_space_for, remove, replacing
from raybc.types import UserError

#: Packages that are looked for at the same time, after a build has failed.
AT_A_TIME = 8
#: Seconds to find one of these.
FIND_TIMEOUT = 60
#: What a process of simulators imports, to see that it can.
TRIAL = "import raybc.rollout.worker, raybc.inference.shared, raybc.env.host"
#: What it does beside, with the name of a task.
EXAMPLE = """
import sys; from raybc.registry import get_task
env = get_task(sys.argv[1]).make(None); env.reset(seed=0)
env.step((env.action_space.low + env.action_space.high) / 2); env.close()
"""
#: Lines of pip that mean a step, and what is shown of it.
_STEP = re.compile(r"(Collecting|Requirement already satisfied:|Installing collected packages) ?([A-Za-z0-9._-]*)")

#: Called with the number of packages that pip has looked at, and with what it does.
OnProgress = Callable[[int, str], None]


def build(environment: Environment, on_progress: OnProgress = lambda done, what: None, overwrite: bool = False) -> bool:
    """Build an environment; False if it was complete before. What is left of other packages, of other Pythons and of
    interrupted builds is removed when the new one is complete.

    Raises `UserError` where packages could not be had, with their names; nothing is kept then.
    """
    _check_override(environment)
    with environment.locked():
        folder = environment.folder
        # Not `status`: this process holds the lock.
        complete = (folder / "bin" / "python").exists() and environment.status().state == "complete"
        if complete and not overwrite and not damage(environment):
            return False
        free_space_for(folder.parent, environment.megabytes, "free some, or set RAYBC_HOME to another disk")
        with replacing(folder) as temporary:
            _make(environment, temporary, on_progress)
        for old in environment.folders():
            if old != folder:
                remove(old)
    return True


def damage(environment: Environment) -> str:
    """What is missing in a complete environment that is not named by a variable of the user's; "" if nothing is."""
    manifest = read_manifest(environment.folder)
    if manifest is None:
        return ""
    try:
        found = look(environment.folder / "bin" / "python")["packages"]
    except UserError as error:
        return str(error)
    wrong = sorted(name for name, number in manifest["packages"].items() if found.get(name) != number)
    return f"{len(wrong)} packages are missing or changed: {', '.join(wrong[:5])}" if wrong else ""


def take_away(environment: Environment) -> int:
    """Remove all folders of an environment; the number of bytes that they had."""
    with environment.locked():
        folders = environment.folders()
        size = sum(_size(folder) for folder in folders)
        for folder in folders:
            remove(folder)
    return size


def _check_override(environment: Environment) -> None:
    if environment.python.parent.parent != environment.folder:
        raise UserError(
            f"environment {environment.name}: {override_variable(environment.name)} names {environment.python}, which "
            "is used instead of one that raybc builds; unset it first"
        )


def _make(environment: Environment, folder: Path, on_progress: OnProgress) -> None:
    on_progress(0, "creating")
    ran = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True)
    if ran.returncode:
        last = (ran.stderr or ran.stdout).strip().splitlines()[-1:]
        raise UserError(
            f"environment {environment.name}: `python -m venv` failed: {' '.join(last)} (on Debian: apt-get install "
            "python3-venv)"
        )
    python = folder / "bin" / "python"
    problem = _install(python, environment.wanted, on_progress)
    if problem is not None:
        raise UserError(f"environment {environment.name}: {_explained(python, environment, problem)}; nothing was kept")
    on_progress(len(environment.wanted), "trying")
    program = TRIAL + (EXAMPLE if environment.example else "")
    trial = subprocess.run(
        [str(python), "-P", "-c", program, environment.example],
        capture_output=True,
        text=True,
        env=os.environ | environment.variables(),
    )
    if trial.returncode:
        last = trial.stderr.strip().splitlines()[-1:]
        raise UserError(
            f"environment {environment.name}: raybc's simulator processes cannot start with its packages: "
            f"{' '.join(last)}; nothing was kept"
        )
    write_manifest(folder, environment, look(python)["packages"], _size(folder) >> 20)


def _install(python: Path, lines: Sequence[str], on_progress: OnProgress) -> str | None:
    """Install packages; None, or what pip says last if it failed."""
    command = [str(python), "-m", "pip", "install", "--no-input", "--progress-bar", "off", "--retries", "2", *lines]
    done, errors = 0, list[str]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                step = _STEP.match(line)
                if step is not None:
                    done += step[1] == "Collecting"
                    on_progress(done, "installing" if step[1].startswith("Installing") else step[2])
                if line.startswith("ERROR:"):
                    errors.append(line.removeprefix("ERROR:").strip())
        except BaseException:
            pip.kill()
            raise
    return None if not pip.returncode else (errors[-1] if errors else f"pip failed with status {pip.returncode}")


def _explained(python: Path, environment: Environment, problem: str) -> str:
    """Why the installation failed, with the names of all packages that could not be had."""
    missing = missing_packages(python, environment.wanted)
    if not missing:
        return f"pip could not install its packages: {problem}"
    shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
    return (
        f"{len(missing)} of {len(environment.wanted)} packages could not be had: {shown}; is the package index "
        "reachable, and does it have them (`pip config list` names it)?"
    )


def missing_packages(python: Path, lines: Iterable[str]) -> list[str]:
    """Those of these packages that pip does not find."""

    def is_missing(line: str) -> bool:
        command = [str(python), "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet", "--retries", "0"]
        try:
            ran = subprocess.run(
                [*command, "--timeout", "10", line], capture_output=True, text=True, timeout=FIND_TIMEOUT
            )
        except subprocess.TimeoutExpired:
            return True
        return bool(ran.returncode)

    lines = list(lines)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return [line for line, absent in zip(lines, pool.map(is_missing, lines), strict=True) if absent]


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
