"""Facts about one machine: packages, offscreen GL, default route. Runs on every machine of a cluster."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import raybc
from raybc.doctor.findings import Finding, error, ok, warning
from raybc.env.known import statuses

#: Runs in a separate process, which a broken driver may kill.
GL_PROGRAM = (
    "from raybc.envs.gl import choose_gl; choose_gl(); import os, mujoco; mujoco.GLContext(16, 16).make_current(); "
    "print(os.environ['MUJOCO_GL'])"
)
GL_PACKAGES = "apt-get install libegl1 libgl1-mesa-dri"
#: Packages whose version changes results, or which communicate across machines.
VITAL = ("raybc", "ray", "torch", "numpy", "mujoco", "gymnasium", "cloudpickle")


def facts() -> dict[str, Any]:
    """Facts about this machine, as plain values that can be sent to another one."""
    return {
        "python": platform.python_version(),
        "packages": {_normal(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]},
        "raybc": raybc.__version__,
        "gl": gl(),
        "route": has_default_route(),
        "token": os.environ.get("RAY_AUTH_MODE", ""),
        "free": shutil.disk_usage("/tmp").free,
        "environments": statuses(),
    }


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def gl() -> str:
    """The offscreen GL library with which MuJoCo renders; empty if it cannot, `absent` without MuJoCo."""
    if find_spec("mujoco") is None:
        return "absent"
    try:
        tried = subprocess.run([sys.executable, "-c", GL_PROGRAM], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return ""
    return tried.stdout.strip() if tried.returncode == 0 else ""


def has_default_route(table: Path = Path("/proc/net/route")) -> bool:
    """Ray finds a machine's address through its default route; without one it uses 127.0.0.1."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:  # not Linux
        return True
    return any(row[1] == "00000000" and row[7] == "00000000" for row in rows)


def pins(path: Path) -> dict[str, str]:
    """Package -> version of a constraints file."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {_normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def check_facts(name: str, found: dict[str, Any], wanted: dict[str, str]) -> list[Finding]:
    """Findings about one machine."""
    findings = []
    if found["gl"] in ("egl", "osmesa"):
        findings.append(ok("GL", f"{name} draws offscreen with {found['gl']}"))
    elif found["gl"] == "absent":
        findings.append(warning("GL", f"{name} has no MuJoCo", "pip install 'raybc[mujoco]' if a task needs it"))
    else:
        findings.append(warning("GL", f"{name} cannot draw: no videos, no tasks of images", GL_PACKAGES))
    for state, line, _ in found.get("environments", {}).values():
        if state in ("complete", "missing", "being built"):  # one that is not built is not needed by everybody
            findings.append(ok("environments", f"{name}: {line}"))
        else:
            what, _, do = line.rpartition("; ")
            findings.append(warning("environments", f"{name}: {what}", do))
    if not found["route"]:
        do = "ip route add default via ADDRESS (any; no packet leaves), then start Ray again"
        findings.append(error("network", f"{name} has no default route: Ray takes 127.0.0.1 for its address", do))
    if found["free"] < 2**30:
        findings.append(warning("disk", f"{name}: /tmp has {found['free'] >> 20} MB left, Ray needs more", "free some"))
    differing = [
        f"{package} {found['packages'][package]} (tested: {version})"
        for package, version in wanted.items()
        if found["packages"].get(package, version).split("+")[0] != version
    ]
    if differing:
        what = f"{name}: {', '.join(differing[:4])}" + (f" and {len(differing) - 4} more" if differing[4:] else "")
        findings.append(warning("versions", what, "pip install -c constraints.txt -e '.[all]'"))
    elif wanted:
        findings.append(ok("versions", f"{name} has the versions of constraints.txt"))
    return findings
