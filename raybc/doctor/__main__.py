"""`python -m raybc.doctor [CLUSTER.yaml]`: look for what keeps a cluster from working, before it costs anything."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

import raybc
from raybc import cli
from raybc.doctor.findings import Finding, error, ok, summary, warning
from raybc.strict import parse_yaml


@dataclass(frozen=True)
class Args:
    """Check what Ray does not: a cluster's file, this machine, and (--address) a running cluster.

    Every line says ok, warning or error, and what to do. Exit status: 0 without errors, 1 with, 2 where it could not
    look (no such file, no cluster there).
    """

    cluster: tyro.conf.Positional[Path | None] = None
    """The file that `ray up` gets, e.g. cluster.yaml."""
    address: str = ""
    """A running cluster (host:port or auto), to be looked at too."""
    storage: Path | None = None
    """The folder that all machines should see and write (with --address)."""
    sweep: Path | None = None
    """A sweep whose trials and simulators should find places there."""
    fix: bool = False
    """Remove what dead jobs still hold, and take the token from other users of this machine."""
    json: bool = False
    """Print the findings as JSON."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.doctor", Args.__doc__ or "")
    findings = list(dict.fromkeys(check(args)))
    if args.json:
        print(json.dumps([dataclasses.asdict(f) for f in findings], indent=2))
    else:
        for finding in findings:
            cli.console.print(finding.line())
        cli.console.print(summary(findings))
    return 1 if any(f.level == "error" for f in findings) else 0


def check(args: Args) -> list[Finding]:
    from raybc.cluster.session import ray_session
    from raybc.doctor.machine import check_facts, facts, pins
    from raybc.doctor.running import check_cluster, check_plan

    findings = list(check_own_token(args.fix))
    constraints = Path(raybc.__file__).parents[1] / "constraints.txt"
    wanted = pins(constraints) if constraints.exists() else {}
    if not wanted:
        findings.append(warning("versions", "constraints.txt is not beside this raybc", "install it with pip -e"))
    if args.cluster is not None:
        from raybc.doctor.cluster_file import check_file

        findings += check_file(args.cluster)
    if args.sweep is not None and args.cluster is not None and not any(f.level == "error" for f in findings):
        from raybc.cluster.capacity import machines_of
        from raybc.sweep.load import load_sweep

        there = machines_of(parse_yaml(args.cluster.read_text(encoding="utf-8"), str(args.cluster)))
        if there:
            findings.append(check_plan(load_sweep(args.sweep, []), there, f"{args.sweep} on {args.cluster}"))
    if not args.address:
        return findings + check_facts("this machine", facts(), wanted)
    with ray_session(args.address):
        from raybc.cluster.capacity import machines

        findings += check_cluster(args.storage, wanted, args.fix)
        if args.sweep is not None:
            from raybc.sweep.load import load_sweep

            findings.append(check_plan(load_sweep(args.sweep, []), machines(), f"{args.sweep} on {args.address}"))
    return findings


def check_own_token(fix: bool) -> list[Finding]:
    """Of this user: Ray itself writes the file readable by all."""
    from raybc.doctor.cluster_file import check_token

    mode = os.environ.get("RAY_AUTH_MODE", "")
    findings = []
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
        findings.append(ok("token", f"{path}: taken from other users"))
    return [*findings, *check_token(path)]


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
