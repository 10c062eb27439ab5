"""What people should know about an evaluation beside its rate: errors, truncated episodes, starts that were solved."""

from __future__ import annotations

from raybc.rows import EpisodeCounts, FirstError, episodes_of
from raybc.statistics import bounds_with_errors


def errors_text(counts: EpisodeCounts) -> str:
    """`14 of 20 episodes ended in errors; 30.0-100.0 % if errors count as failures or as successes`; "" without."""
    errors, total = counts["errors"], episodes_of(counts)
    if not errors:
        return ""
    rate = counts["success_rate"]
    text = f"{errors} of {total} episodes ended in errors"
    return text if rate is None else f"{text}; {bounds_text(rate, counts['episodes'], errors)}"


def bounds_text(rate: float, valid: int, errors: int) -> str:
    """`30.0-100.0 % if errors count as failures or as successes`."""
    low, high = bounds_with_errors(rate, valid, errors)
    return f"{100 * low:.1f}-{100 * high:.1f} % if errors count as failures or as successes"


def first_error_text(first: FirstError) -> str:
    """The message and, below it, the traceback of the first error."""
    text = f"first error, at start {first['index']}: {first['message']}"
    return f"{text}\n{first['traceback']}" if first["traceback"] else text


def notices(counts: EpisodeCounts, has_success: bool = True) -> list[str]:
    """Sentences about truncated episodes and starts that were solved at reset; none where there were none."""
    found = []
    total = counts["episodes"]
    truncated, solved = counts.get("truncated", 0), counts.get("solved_at_reset", 0)
    if truncated:
        found.append(
            f"{truncated} of {total} episodes were truncated by the simulator before the step limit; they count as "
            "failures, or as timeouts where it has a step limit of its own"
        )
    if solved and has_success:
        rest, others = counts["successes"] - solved, total - solved
        without = f"{100 * rest / others:.1f} % ({rest}/{others})" if others else "no rate"
        found.append(f"{solved} of {total} starts were solved before the first step; without them {without}")
    return found
