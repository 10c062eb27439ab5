"""What the commands of raybc.data print as text."""

from __future__ import annotations

import os
from collections.abc import Mapping

from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table

from raybc import cli
from raybc.data.findings import Finding, Report
from raybc.data.info import Info
from raybc.data.replay import Replay
from raybc.data.stats import Summary

#: Number of episodes or instructions to list; of the others only the number is printed.
MAX_LISTED = 8
NO_OBSERVATIONS = "none: only states are recorded; convert with --env_name makes observations of them"


def _width(wide: int = 240) -> int:
    """Characters in a line: those of the terminal, or `wide` where the output is read by a program."""
    return cli.console.width if cli.console.is_terminal or "COLUMNS" in os.environ else wide


def _print(table: Table, wide: int = 240) -> None:
    Console(highlight=False, markup=False, width=_width(wide)).print(table)


def info(found: Info) -> None:
    """Print what `python -m raybc.data info` found."""
    cli.console.print(found.path)
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    shortest, median, mean, longest = found.lengths
    rows = {
        "format": found.format,
        "episodes": f"{found.episodes:,}" + ("" if found.successes is None else f", {found.successes:,} successful"),
        "transitions": f"{found.transitions:,}",
        "length": f"{shortest:g} to {longest:g} steps, median {median:g}, mean {mean:.1f}",
        **({} if any(name.startswith("obs/") for name in found.arrays) else {"observations": NO_OBSERVATIONS}),
        **{name: f"{dtype} {shape}" for name, (shape, dtype) in found.arrays.items()},
        "splits": ", ".join(f"{name} {count}" for name, count in found.splits.items()) or "none",
        "tasks": _listed([f"{text!r} ({count})" for text, count in found.tasks.items()]) or "none",
        "environment": found.environment or "not named",
        "frequency": "not recorded" if found.frequency is None else f"{found.frequency:g} Hz",
        "action range": "not declared" if found.action_range is None else _range(*found.action_range),
        "on disk": f"{found.bytes / 2**20:,.1f} MiB",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    _print(table)
    cli.console.print(f"fingerprint: {found.fingerprint}")  # on a line of its own, which no terminal has to cut
    for remark in found.remarks:
        cli.console.print(f"note: {remark}")


def _range(low: list[float], high: list[float]) -> str:
    return ", ".join(f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True))


def stats(found: Mapping[str, Summary]) -> None:
    """Print what `python -m raybc.data stats` found."""
    narrow = _width() < 100
    table = Table(box=None if narrow else HEAVY_HEAD)
    table.add_column("key", overflow="fold", min_width=8)
    for name in ("mean", "std", "min", "q01", "q99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    digits = 3 if narrow else 5
    for key, s in found.items():
        for d in range(len(s.mean)):
            values = (s.mean[d], s.std[d], s.min[d], s.q01[d], s.q99[d], s.max[d])
            table.add_row(f"{key}[{d}]", *(f"{x:.{digits}g}" for x in values))
    _print(table)


def report(found: Report, played: Replay | None) -> None:
    """Print what `python -m raybc.data verify` found."""
    cli.console.print(f"{found.source.path}: {found.episodes:,} episodes, {found.transitions:,} transitions")
    if found.findings:
        table = Table(show_lines=True)
        for name in ("", "kind", "key", "episodes", "expected", "found, and what to do"):
            table.add_column(name, overflow="fold")
        for finding in found.findings:
            table.add_row(*_row(finding, str(found.source.path)))
        _print(table, 120)
    for remark in found.remarks:
        cli.console.print(f"note: {remark}")
    if played is not None:
        _replay(played)
    warnings = len(found.findings) - found.errors
    cli.console.print(f"{'not usable as it is' if found.errors else 'OK'}: {found.errors} errors, {warnings} warnings")


def _replay(played: Replay) -> None:
    count, begun = len(played.episodes), f"in {played.task}, begun from {played.start}"
    if played.successes is None:
        text = f"{count} episodes played {begun}; success is not known there"
    else:
        recorded = [e.recorded for e in played.episodes]
        said = "" if None in recorded else f" ({sum(map(bool, recorded))} when recorded)"
        text = f"{played.successes} of {count} episodes succeed{said} {begun}"
        text += f"; mean highest reward {played.mean_max_reward:.3f}"
        paused = [e.success_without_idle for e in played.episodes if e.success_without_idle is not None]
        text += f"; without their idle steps {sum(paused)} of {len(paused)}" if paused else ""
    cli.console.print(f"replay: {text}")
    if played.returns is not None:
        was, now = played.returns
        relative = "" if played.return_difference is None else f", {100 * played.return_difference:+.2g} %"
        cli.console.print(f"returns: mean {was:.6g} when recorded, {now:.6g} here{relative}")
    if played.drifts is not None:
        cli.console.print(
            f"observations: at most {played.drifts[0]:.2g} standard deviations from the recorded ones in the median "
            f"episode, {played.drifts[1]:.2g} in the worst"
        )
    if played.step_drifts is not None:
        text = "{:.2g} in the median episode, {:.2g} in the worst".format(*played.step_drifts)
        cli.console.print(f"single steps from recorded states: {text}")


def _row(finding: Finding, path: str) -> tuple[str, ...]:
    where = " ".join(text for text in (finding.file if finding.file != path else "", finding.key) if text)
    text = f"{finding.found}; {finding.advice}"
    return finding.severity, finding.kind, where, _listed(list(map(str, finding.episodes))), finding.expected, text


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
