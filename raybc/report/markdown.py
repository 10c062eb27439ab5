"""Writes leaderboard.md: the table of a sweep as text."""

from __future__ import annotations

from pathlib import Path

from raybc.files import write_text
from raybc.metric import METRICS, Metric
from raybc.report.read import load_run
from raybc.report.sampling import head, is_plain
from raybc.report.tables import (
    LeaderboardRow,
    costs,
    interval_text,
    leaderboard,
    selection_rule,
    task_scores,
    winner_line,
)
from raybc.report.text import show


def write_leaderboard_md(run_dir: Path | str) -> Path:
    """Write run_dir/leaderboard.md: the sentence to quote, the rule, and a row per trial."""
    run = load_run(run_dir)
    rows = leaderboard(run)
    samplings = sorted({at for row in rows for at in row.per_sampling})
    metric = run.metric
    titles = [
        "trial",
        "status",
        f"{'final ' * metric.from_episodes}{metric.label}",
        "95 % CI",
        "episodes",
        "over seeds (95 % t)",
        "setting",
    ]
    titles += ["search score"]
    titles += [f"{'final ' * metric.from_episodes}at {at.label}" for at in samplings] + [
        "errors",
        "step",
        *run.axes,
    ]
    lines = [f"# {_md(run.name)}: leaderboard", "", f"> {_md(winner_line(run, rows))}", ""]
    lines += [_md(selection_rule(run)), ""]
    lines += ["| " + " | ".join(map(_md, titles)) + " |", "|" + " --- |" * len(titles)]
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
        for at in samplings:
            rate = row.per_sampling.get(at)
            cells.append(f"{rate.text} ({rate.range_text})" if rate else "-")
        cells += [str(row.errors), "-" if row.step is None else str(row.step)]
        cells += [show(row.params.get(axis)) for axis in run.axes]
        lines.append("| " + " | ".join(map(_md, cells)) + " |")
    lines += _costs(metric, rows) if not is_plain(samplings) and len(samplings) > 1 else []
    scores = task_scores(rows)
    if scores:
        lines += ["", "## Tasks", "", "The winner on final starts:", ""]
        lines += [f"| task | {_md(METRICS[metric.name].label)} | 95 % CI | episodes | errors |", "|" + " --- |" * 5]
        for name, one in scores.items():
            solved = f"{one.successes}/" if metric.is_rate else ""
            cells = [name, one.text, one.range_text, f"{solved}{one.episodes}", str(one.errors)]
            lines.append("| " + " | ".join(map(_md, cells)) + " |")
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        lines += ["", "## Failed trials", ""]
        lines += [f"- trial {row.trial}: {_md(row.reason) or 'no reason recorded'}" for row in failed]
    lines += ["", f"CI: {interval_text(metric, len(scores))}. Errors are counted apart and enter no mean.", ""]
    write_text(run.folder.leaderboard, "\n".join(lines))
    return run.folder.leaderboard


def _costs(metric: Metric, rows: list[LeaderboardRow]) -> list[str]:
    """Evaluations of the network per chunk against the score, for the trials that were measured on final starts."""
    found = costs(rows)
    names = head(cost.sampling for cost in found)
    cells = [["trial", *names, f"{'final ' * metric.from_episodes}{metric.label}", "95 % CI", "episodes"]]
    for cost in found:
        trial = f"{cost.row.trial}{' (chosen)' if cost.is_chosen else ''}"
        solved = f"{cost.score.successes}/" if metric.is_rate else ""
        numbers = [cost.score.text, cost.score.range_text, f"{solved}{cost.score.episodes}"]
        cells.append([trial, *cost.sampling.cells(names), *numbers])
    cells.insert(1, ["---"] * len(cells[0]))
    return ["", "## Evaluations of the network per chunk", "", *(f"| {' | '.join(map(_md, row))} |" for row in cells)]


def _md(text: str) -> str:
    flat = " ".join(text.split())
    for raw, safe in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`")):
        flat = flat.replace(raw, safe)
    return flat
