"""What people should know about an evaluation beside its rate: errors, truncated episodes, starts that were solved."""

from __future__ import annotations

from collections.abc import Callable

from raybc.metric import Score
from raybc.rows import EpisodeCounts, FirstError


def first_error_text(first: FirstError) -> str:
    """The message and, below it, the traceback of the first error."""
    of = f" of {first['task']}" if "task" in first else ""
    text = f"first error, at start {first['index']}{of}: {first['message']}"
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
        rest, others = counts["successes"] - counts.get("successes_at_reset", 0), total - solved
        without = f"{100 * rest / others:.1f} % ({rest}/{others})" if others else "no rate"
        found.append(f"{solved} of {total} starts were solved before the first step; without them {without}")
    return found


class Notices:
    """What the evaluations of a training run or of a sweep say beside their rates: the first error with its traceback,
    and each kind of note, once. say: prints a line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._noted: set[str] = set()
        self._unusable: dict[str, str] = {}

    def first_error(self, counts: EpisodeCounts, member: str = "") -> None:
        """Print the first error of the run, once."""
        if "first_error" in counts and "error" not in self._noted:
            self._noted.add("error")
            self._say(member + first_error_text(counts["first_error"]))

    def evaluated(self, member: str, counts: EpisodeCounts, score: Score) -> None:
        """Note an evaluation. member: names who was measured; empty for the only one."""
        self.first_error(counts, member)
        for text in notices(counts, score.metric.has_success):
            kind = "truncated" if "truncated" in text else "solved"
            if kind not in self._noted:
                self._noted.add(kind)
                self._say(f"note: {member}{text}")
        self._unusable.pop(member, None)
        if score.too_many_errors and "first_error" in counts:
            self._unusable[member] = f"{member}{score.errors_text}; the first: {counts['first_error']['message']}"

    @property
    def unusable(self) -> str:
        """Why the last evaluations say too little; empty where they say enough."""
        return "; ".join(self._unusable.values())
