"""Whether most episodes of a sweep end in errors, so that its environment is at fault and not a recipe."""

from __future__ import annotations

from raybc.rows import StartEvent, episodes_of
from raybc.sweep.ledger import SweepState, TrialState

#: Trials that must have failed in most episodes before the search ends: a single recipe may make a simulator diverge.
TRIALS = 2


def _lost(trial: TrialState) -> tuple[int, int] | None:
    """(errors, episodes) of the last evaluation of a trial; None if none of its episodes was run."""
    if trial.lost:
        return trial.lost, trial.lost
    if not trial.evaluations:
        return None
    rows = trial.evaluations[-1].rows
    return sum(row.get("errors", 0) for row in rows), sum(map(episodes_of, rows))


def _mostly_lost(trial: TrialState) -> bool:
    counts = _lost(trial)
    return counts is not None and 2 * counts[0] > counts[1]


def why_to_end(state: SweepState, trials: int) -> str:
    """Why the search should end now; empty where it should go on: any trial so far was measured in most episodes.

    trials: all that will be searched.
    """
    measured = [trial for trial in state.trials.values() if _lost(trial) is not None]
    if len(measured) < min(TRIALS, trials) or not all(map(_mostly_lost, measured)):
        return ""
    counts = [_lost(trial) or (0, 0) for trial in measured]
    errors, episodes = (sum(parts) for parts in zip(*counts, strict=True))
    reason = next((message for trial in measured if (message := _message(trial))), "unknown")
    return (
        f"the search ends early, because {errors} of {episodes} episodes of the first {len(measured)} trials ended in "
        f"errors: {reason}"
    )


def _message(trial: TrialState) -> str:
    if trial.lost:
        return trial.reason
    rows = trial.evaluations[-1].rows
    return next((row["first_error"]["message"] for row in rows if "first_error" in row), "")


def measured_again(state: SweepState) -> list[StartEvent]:
    """Events that begin those trials once more whose episodes mostly ended in errors: when a sweep is resumed, whoever
    did so has mended the environment. Their training states are used again."""
    return [trial.start for trial in state.trials.values() if _mostly_lost(trial)]
