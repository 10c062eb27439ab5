"""What is wrong where a loss is not finite. Letters: M members, B batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.windows import Windows
from raybc.train.learner import Learner
from raybc.train.step import StepDraws
from raybc.types import Batch


def non_finite_examples(
    learner: Learner,
    windows: Windows,
    batch: Batch,
    drawn: StepDraws,
    members: Sequence[RunConfig],
    failed: Sequence[int],
    store: EpisodeStore,
    first_row: int,
) -> str:
    """Describe the examples of a step whose loss is not finite.

    Args:
        learner: the pack.
        windows: the windows of the step.
        batch: the batch of the step.
        drawn: the draws of the step.
        members: the configuration of each member.
        failed: indices of the members whose loss or gradient is not finite.
        store: the data.
        first_row: the transition of the store at which the arrays of `windows` begin.
    """
    with torch.no_grad():
        loss = learner.loss(batch, drawn.draws)
    loss_MB = loss.value_MB if loss.critic_MB is None else loss.value_MB + loss.critic_MB
    bad_MB = ~torch.isfinite(loss_MB)
    found = []
    for m in failed:
        name = f"seed {members[m].seed} with lr {members[m].lr:g}"
        if not bad_MB[m].any():
            found.append(f"{name}: the loss is finite, its gradient is not")
            continue
        rows = (windows.first(drawn.indices_MB)[m, bad_MB[m]] + first_row).tolist()
        places = []
        for row in rows[:3]:
            if row >= len(store.actions_NA):
                places.append("own experience")
                continue
            episode = int(np.searchsorted(store.episode_ends, row, side="right"))
            places.append(f"episode {episode} step {row - int(store.episode_starts[episode])}")
        more = ", ..." if len(rows) > 3 else ""
        found.append(
            f"{name}: the loss is {loss_MB[m].mean().item()}, "
            f"of {len(rows)} of {bad_MB.shape[1]} examples ({', '.join(places)}{more})"
        )
    return "; ".join(found)
