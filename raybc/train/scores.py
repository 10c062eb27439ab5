"""How a training run uses scores of episodes, and what the run folder records about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raybc.config import RunConfig
from raybc.data.scores import Scores, load_scores, save_scores
from raybc.run_folder import TrainingFolder
from raybc.types import UserError


def scores_of(config: RunConfig) -> Scores | None:
    """The scores of a recipe, or None.

    Raises `UserError` if they are not readable, are not those of `scores_sha256`, or lack the column `score_column`.
    """
    if not config.scores_path:
        return None
    scores = load_scores(config.scores_path, "scores_path")
    if config.scores_sha256 not in ("", scores.sha256):
        raise UserError(
            f"scores_path: {config.scores_path}: expected the scores {config.scores_sha256}, got {scores.sha256}: they "
            "were made again with other options; start a new run, or name the earlier ones (a run folder has a copy)"
        )
    scores.check_column(config.score_column, "score_column")
    return scores


def note_scores(config: RunConfig, folders: Sequence[Path]) -> None:
    """Write a copy of the scores to each run folder; no effect without scores."""
    scores = scores_of(config)
    if scores is not None:
        for folder in map(TrainingFolder, folders):
            folder.scored.mkdir(parents=True, exist_ok=True)
            save_scores(scores, folder.scored)
