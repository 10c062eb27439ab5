"""`python -m raybc.doctor [CLUSTER.yaml]`: find what keeps a cluster from working, before it costs anything."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from raybc import cli
from raybc.doctor.findings import summary


@dataclass(frozen=True)
class Args:
    """Check what Ray does not: a cluster file, this machine, and (--address) a running cluster.

    Every line says ok, warning or error, and what to do. Exit status: 0 without errors, 1 with errors, 2 if a check was
    impossible (no such file, no cluster).
    """

    cluster: tyro.conf.Positional[Path | None] = None
    """The file for `ray up`, e.g. cluster.yaml."""
    address: str = ""
    """A running cluster to check (host:port or auto)."""
    storage: Path | None = None
    """The folder that all machines should see and be able to write (with --address)."""
    sweep: Path | None = None
    """A sweep file; checks whether its trials and simulators fit on the cluster."""
    fix: bool = False
    """Release resources of dead jobs, and make the token unreadable for other users of this machine."""
    json: bool = False
    """Print the findings as JSON."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.doctor", Args.__doc__ or "")
    from raybc.doctor.check import check  # here, because it imports Ray, which --help need not wait for

    findings = list(dict.fromkeys(check(args.cluster, args.address, args.storage, args.sweep, args.fix)))
    if args.json:
        print(json.dumps([dataclasses.asdict(f) for f in findings], indent=2))
    else:
        for finding in findings:
            cli.console.print(finding.line())
        cli.console.print(summary(findings))
    return 1 if any(f.level == "error" for f in findings) else 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
