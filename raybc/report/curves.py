"""Reading the training logs of members."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

#: Longer curves are averaged in bins.
LOSS_POINTS = 400


def loss_points(path: Path) -> list[tuple[int, float]]:
    """(step, training loss) from a train.csv, at most `LOSS_POINTS`; torn lines and non-finite losses are skipped."""
    points = list(_losses(path))
    size = -(-len(points) // LOSS_POINTS) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def _losses(path: Path) -> Iterator[tuple[int, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or ()
        column = next((name for name in ("train/actor_loss", *names) if name in names and name.endswith("loss")), None)
        for line in reader:
            try:
                step, loss = int(float(line["step"])), float(line[column or ""])
            except (KeyError, TypeError, ValueError):  # a line that a killed process wrote in part
                continue
            if math.isfinite(loss):
                yield step, loss
