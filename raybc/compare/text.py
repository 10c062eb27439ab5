"""A comparison in words: a table of the arms, a sentence for each pair, one for a paper, and plans."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from raybc.compare.design import Design
from raybc.compare.planning import MOST_STARTS, RULES, Plan
from raybc.compare.result import ArmSummary, Comparison, PairResult, TaskResult
from raybc.metric import Interval, Metric


def arms_table(arms: Sequence[ArmSummary], design: Design) -> Table:
    """Every arm by itself."""
    metric = design.metric
    several = any(arm.trainings > 1 for arm in arms)
    columns = ["", metric.label, f"{confidence(design)} interval", *(["solved"] if metric.is_rate else ["episodes"])]
    table = Table(*columns, *(["trainings"] if several else []), "errors", box=None)
    for arm in arms:
        count = f"{arm.solved}/{arm.episodes}" if metric.is_rate else str(arm.episodes)
        cells = [arm.name, metric.show(arm.mean), metric.show_range(arm.interval), count]
        table.add_row(*cells, *([str(arm.trainings)] if several else []), str(arm.errors))
    return table


def tasks_table(tasks: Sequence[TaskResult], design: Design) -> Table:
    """The arms on each task, and the difference of the first two."""
    metric = design.metric
    table = Table(
        "task", *(arm.name for arm in tasks[0].arms), "difference", f"{confidence(design)} interval", box=None
    )
    for one in tasks:
        first = one.differences[0]
        shown = range_text(first.interval, metric)
        table.add_row(
            one.task, *(task_cell(arm, metric) for arm in one.arms), difference_text(first.difference, metric), shown
        )
    return table


def task_cell(arm: ArmSummary, metric: Metric) -> str:
    """`80.0 % (16/20)`, `1.25 (20)` of another score."""
    count = f"{arm.solved}/{arm.episodes}" if metric.is_rate else str(arm.episodes)
    return f"{metric.show(arm.mean)} ({count})"


def confidence(design: Design) -> str:
    """`95 %`."""
    return f"{100 * (1 - design.level):g} %"


def difference_text(value: float | None, metric: Metric) -> str:
    """`+32.4 points` of a rate, `-3.12` of another score."""
    if value is None:
        return "-"
    shown = f"{100 * value:+.1f} points" if metric.is_rate else metric.show(value)
    return shown if metric.is_rate or value < 0 else f"+{shown}"


def range_text(interval: Interval | None, metric: Metric) -> str:
    """`7.9 to 55.4`."""
    if interval is None:
        return "unknown"
    low, high = (f"{100 * end:.1f}" if metric.is_rate else metric.show(end) for end in interval)
    return f"{low} to {high}"


def p_text(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def pair_text(pair: PairResult, design: Design, corrected: bool) -> str:
    """One line: who is better, by how much, and how sure that is."""
    metric = design.metric
    if pair.verdict == "cannot tell":
        said = f"cannot tell {pair.a} from {pair.b}"
    else:
        said = f"{pair.a} is {pair.verdict} than {pair.b}"  # in this order, as the sign of the difference
    interval = f"{confidence(design)} interval {range_text(pair.interval, metric)}"
    numbers = f"{difference_text(pair.difference, metric)} ({interval})"
    known = f"{p_text(pair.p_adjusted)}{' after correction' if corrected else ''}"
    starts = f"{pair.starts} starts" if pair.paired else f"{pair.starts} episodes on different starts: unpaired"
    if design.rule == "sequential":
        starts = f"{pair.starts} of at most {design.starts} starts"
    return f"{said}: {numbers}, {known}; {starts}"


def details(pair: PairResult, design: Design) -> list[str]:
    """What a careful reader asks next."""
    lines = []
    if pair.table is not None:
        t = pair.table
        lines.append(f"both {t.both}, only {pair.a} {t.only_a}, only {pair.b} {t.only_b}, neither {t.neither}")
    if pair.improvement is not None and (not design.metric.is_rate or pair.trainings_interval):
        lines.append(f"probability of improvement {pair.improvement:.2f} (that {pair.a} scores higher)")
    if pair.trainings_interval is not None:
        shown = range_text(pair.trainings_interval, design.metric)
        lines.append(
            f"with other trainings, on other starts: {shown} ({confidence(design)} interval, bootstrap over both)"
        )
    if pair.verdict == "cannot tell":
        lines.append(more_text(pair, design))
    return lines


def more_text(pair: PairResult, design: Design) -> str:
    """How many more starts would tell."""
    power = f"{100 * design.power:.0f} %"
    if not pair.paired:
        return "the same starts for both arms would need fewer episodes than these"
    if pair.more_starts is None:
        return f"more than {MOST_STARTS} starts would be needed if the arms differ as little as here"
    if design.rule == "open":
        flag, total = "--episodes", pair.starts + pair.more_starts
        if design.tasks > 1:
            flag, total = "--episodes_per_task", math.ceil(total / design.tasks)
        return (
            f"about {pair.more_starts} more starts would tell (probability {power}), if the arms continue like this: "
            f"--resume {flag} {total}"
        )
    return (
        f"about {pair.more_starts} starts would tell (probability {power}), if the arms differ as here; since the "
        "number of starts was fixed before, that is a new comparison, on new starts (--first)"
    )


def for_a_paper(pair: PairResult, comparison: Comparison, design: Design) -> str:
    """A sentence with the method and n."""
    metric = design.metric
    a, b = (next(arm for arm in comparison.arms if arm.name == name) for name in (pair.a, pair.b))
    on = f"On the same {pair.starts} starts" if pair.paired else f"On {a.episodes} and {b.episodes} different starts"
    mean_a, mean_b = pair.means or (a.mean, b.mean)  # an arm alone may have more starts
    verb = "solved" if metric.is_rate else f"had a mean {metric.label} of"
    unit = " points" if metric.is_rate else ""
    kind = "confidence sequence" if pair.interval_method == "confidence sequence" else "confidence interval"
    method = "" if pair.interval_method == kind else f", {pair.interval_method}"
    corrected = ", Holm-corrected" if len(comparison.pairs) > 1 else ""
    difference = difference_text(pair.difference, metric).removeprefix("+").removesuffix(" points") + unit
    interval = f"{confidence(design)} {kind} {range_text(pair.interval, metric)}{method}"
    test = f"{pair.test}, level {100 * design.level:g} %, {p_text(pair.p_adjusted)}{corrected}"
    text = (
        f"{on}, {pair.a} {verb} {metric.show(mean_a)} and {pair.b} {metric.show(mean_b)} (difference {difference}, "
        f"{interval}; {test})."
    )
    errors = a.errors + b.errors
    return f"{text} {errors} episodes ended in errors and are in no rate." if errors else text


def verdict_text(comparison: Comparison) -> str:
    """About the first arm, where there are more than two."""
    first = comparison.arms[0].name
    best = ", ".join(comparison.best)
    if comparison.verdict == "better":
        return f"{first} is better than every other arm"
    if comparison.verdict == "worse":
        return f"{first} is worse than another arm; cannot be distinguished from the best: {best}"
    return f"cannot tell whether {first} is the best; cannot be distinguished from the best: {best}"


def lines(comparison: Comparison, design: Design) -> list[str]:
    """Everything that is printed below the table."""
    several = len(comparison.arms) > 2
    found = [verdict_text(comparison)] if several else []
    for pair in comparison.pairs:
        found.append(pair_text(pair, design, several))
        found += [f"    {line}" for line in details(pair, design)]
    if not several:
        found.append(f"    In a paper: {for_a_paper(comparison.pairs[0], comparison, design)}")
    return found


def plan_table(rows: Sequence[tuple[float, Sequence[Plan]]]) -> Table:
    """Starts for each power and rule: the most, and how many are run on average."""
    head = [f"{rule}: starts" if rule == "fixed" else f"{rule}: at most (mean)" for rule in RULES]
    table = Table("power", *head, box=None)
    for power, plans in rows:
        known = {plan.rule: plan for plan in plans}
        cells = []
        for rule in RULES:
            plan = known.get(rule)
            if plan is None:
                cells.append(f"more than {MOST_STARTS}")
            else:
                cells.append(str(plan.starts) if rule == "fixed" else f"{plan.starts} ({plan.mean_starts:.0f})")
        table.add_row(f"{100 * power:.0f} %", *cells)
    return table
