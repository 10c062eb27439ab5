"""The held-out loss of a pack.

Letters: M members, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raybc.data.windows import Windows
from raybc.train.learner import Learner
from raybc.train.step import generator


@torch.no_grad()
def validation_loss(
    learner: Learner, windows: Windows, seeds: Sequence[int], batch_size: int, device: torch.device
) -> list[float]:
    """The mean loss of each member over `windows`, in evaluation mode, with the same random draws every time.

    Args:
        learner: the pack.
        windows: of the held-out episodes.
        seeds: the seed of each member, which decides its draws.
        batch_size: B.
        device: where to draw.
    """
    total, count = len(windows.starts), len(seeds)
    generators = [generator(device, seed, "validation") for seed in seeds]
    drawn = {
        name: torch.stack([shape.sample((total,), g, device) for g in generators])
        for name, shape in learner.draws().items()
        if not shape.by_step  # of what is not part of this loss
    }
    losses = []
    learner.module.eval()
    try:
        for rows in torch.arange(total, device=device).split(batch_size):
            batch = windows.gather(rows.expand(count, -1))
            draws = {name: value[:, rows] for name, value in drawn.items()}
            losses.append(learner.loss(batch, draws).value_MB)
    finally:
        learner.module.train()
    return torch.cat(losses, 1).mean(1).tolist()
