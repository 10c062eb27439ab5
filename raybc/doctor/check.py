"""All checks of the doctor, in order: the token, the cluster file, the sweep's resources, machines."""

from __future__ import annotations

import os
from pathlib import Path

import raybc
from raybc.cluster.capacity import machines, machines_of
from raybc.cluster.session import ray_session
from raybc.doctor.cluster_file import check_file, check_token
from raybc.doctor.findings import Finding, error, ok, warning
from raybc.doctor.machine import check_facts, facts, pins
from raybc.doctor.running import check_allocation, check_cluster
from raybc.sweep.load import load_sweep
from raybc.yaml_text import read_yaml


def check(cluster: Path | None, address: str, storage: Path | None, sweep: Path | None, fix: bool) -> list[Finding]:
    """See the flags of `python -m raybc.doctor`."""
    findings = check_own_token(fix)
    constraints = Path(raybc.__file__).parent / "constraints.txt"
    expected = pins(constraints) if constraints.exists() else {}
    if not expected:
        findings.append(
            warning("versions", f"{constraints} is missing, so no version was compared", "install raybc again")
        )
    if cluster is not None:
        findings += check_file(cluster)
    if sweep is not None and cluster is not None and not any(f.level == "error" for f in findings):
        startable = machines_of(read_yaml(cluster, "a cluster file"))
        if startable:
            findings.append(check_allocation(load_sweep(sweep), startable, f"{sweep} on {cluster}"))
    if not address:
        return findings + check_facts("this machine", facts(), expected)
    with ray_session(address):
        findings += check_cluster(storage, expected, fix)
        if sweep is not None:
            findings.append(check_allocation(load_sweep(sweep), machines(), f"{sweep} on {address}"))
    return findings


def check_own_token(fix: bool) -> list[Finding]:
    """This user's token. Ray itself makes the file readable for everyone."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    findings: list[Finding] = []
    if mode == "disabled":
        findings.append(error("token", "RAY_AUTH_MODE=disabled in this shell", "export RAY_AUTH_MODE=token"))
    elif mode != "token":
        do = "export RAY_AUTH_MODE=token before `ray` commands (raybc's own do it)"
        findings.append(warning("token", "RAY_AUTH_MODE is not set in this shell", do))
    if os.environ.get("RAY_AUTH_TOKEN"):
        return [*findings, ok("token", "it is in RAY_AUTH_TOKEN")]
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if fix and path.exists() and path.stat().st_mode & 0o077:
        path.chmod(0o600)
        findings.append(ok("token", f"{path}: not readable for other users any more"))
    return [*findings, *check_token(path)]
