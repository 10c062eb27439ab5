"""Writes leaderboard.md: the table of a sweep as text."""

from __future__ import annotations

from pathlib import Path

from raybc.files import write_text
from raybc.report.read import load_run
from raybc.report.tables import interval_text, leaderboard, selection_rule, winner_line
from raybc.report.text import show


def write_leaderboard_md(run_dir: Path | str) -> Path:
    """Write run_dir/leaderboard.md: the sentence to quote, the rule, and a row per trial."""
    run = load_run(run_dir)
    rows = leaderboard(run)
    flows = sorted({flow for row in rows for flow in row.per_flow_steps})
    metric = run.metric
    head = [
        "trial",
        "status",
        f"{'final ' * metric.from_episodes}{metric.label}",
        "95 % CI",
        "episodes",
        "over seeds (95 % t)",
        "setting",
    ]
    head += ["search score"]
    head += [f"{'final ' * metric.from_episodes}at flow_steps={flow}" for flow in flows] + [
        "errors",
        "step",
        *run.axes,
    ]
    lines = [f"# {_md(run.name)}: leaderboard", "", f"> {_md(winner_line(run, rows))}", ""]
    lines += [_md(selection_rule(run)), ""]
    lines += ["| " + " | ".join(map(_md, head)) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        final = row.final
        cells = [
            f"{row.trial} (winner)" if row.is_winner else str(row.trial),
            row.status,
            final.text if final else "-",
            final.range_text if final else "-",
            (f"{final.successes}/{final.episodes}" if metric.is_rate else str(final.episodes)) if final else "-",
            metric.show_range(row.seed_interval),
            row.setting.label() if row.setting else "-",
            metric.show(row.score),
        ]
        for flow in flows:
            rate = row.per_flow_steps.get(flow)
            cells.append(f"{rate.text} ({rate.range_text})" if rate else "-")
        cells += [str(row.errors), "-" if row.step is None else str(row.step)]
        cells += [show(row.params.get(axis)) for axis in run.axes]
        lines.append("| " + " | ".join(map(_md, cells)) + " |")
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        lines += ["", "## Failed trials", ""]
        lines += [f"- trial {row.trial}: {_md(row.reason) or 'no reason recorded'}" for row in failed]
    lines += ["", f"CI: {interval_text(metric)}. Errors are counted apart and enter no mean.", ""]
    write_text(run.folder.leaderboard, "\n".join(lines))
    return run.folder.leaderboard


def _md(text: str) -> str:
    flat = " ".join(text.split())
    for raw, safe in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`")):
        flat = flat.replace(raw, safe)
    return flat
