"""What a replay shows about a data set. Nothing is wrong with the data themselves, so these are warnings."""

from __future__ import annotations

from pathlib import Path

from raybc.data.findings import Finding
from raybc.data.replay import DRIFT_TOLERANCE, RETURN_TOLERANCE, STEP_TOLERANCE, Replay


def findings(path: Path, played: Replay) -> list[Finding]:
    """Episodes that no longer succeed and, where success is not known, whose single steps, returns or observations
    differ; and episodes that need their idle steps. path: of the data set."""
    advice = (
        "check in which version of the simulator they were recorded, and whether the actions are those that were "
        "executed; data of other versions may still be good for training"
    )
    kinds = (
        (played.lost(), f"success in {played.task}, as recorded", "no success"),
        (
            played.elsewhere(),
            f"single steps of {played.task} that lead where they led, to {STEP_TOLERANCE:g} standard deviations",
            "" if played.step_drifts is None else f"up to {played.step_drifts[1]:.3g} standard deviations away",
        ),
        (
            played.other_returns(),
            f"returns in {played.task} as recorded, to {100 * RETURN_TOLERANCE:g} %",
            "" if played.returns is None else "a mean of {1:.5g} instead of {0:.5g}".format(*played.returns),
        ),
        (
            played.drifted(),
            f"observations of {played.task} as recorded, to {DRIFT_TOLERANCE:g} standard deviations",
            "" if played.drifts is None else f"up to {played.drifts[1]:.3g} standard deviations away",
        ),
    )
    differing = [
        Finding("warning", "replay", str(path), "actions", episodes, expected, found, advice)
        for episodes, expected, found in kinds
        if episodes
    ]
    return differing + _pauses(path, played)


def _pauses(path: Path, played: Replay) -> list[Finding]:
    episodes = played.needing_pauses()
    if not episodes:
        return []
    tried = sum(e.success_without_idle is not None for e in played.episodes)
    expected = f"success in {played.task} also without idle steps, as in {tried - len(episodes)} of {tried} episodes"
    advice = (
        "the robot still moves in the first steps of these pauses: keep some of them with --drop_idle --keep_idle 8, "
        "or do not use --drop_idle"
    )
    return [Finding("warning", "idle", str(path), "actions", episodes, expected, "no success", advice)]
