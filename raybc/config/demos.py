"""Options of generated demonstrations."""

from __future__ import annotations

from dataclasses import dataclass

from raybc.config.options import check_bounds, option
from raybc.types import SPLIT_SIZE, UserError


@dataclass(frozen=True)
class DemosConfig:
    """Demonstrations of a scripted expert, used where the task's data is `scripted`."""

    episodes: int = 100
    """Successful demonstrations to keep."""
    noise: float = option(1.0, at_least=0)
    """Scale of the expert's variation (0: none)."""
    seed: int = 0
    """First start; start i of a set is seed + i."""

    def validate(self, where: str) -> None:
        place = where if where == "--" else f"{where}."
        if not 1 <= self.episodes <= SPLIT_SIZE // 4:
            raise UserError(f"{place}episodes: expected 1..{SPLIT_SIZE // 4}, got {self.episodes}")
        check_bounds(self, where)
        if not 0 <= self.seed < SPLIT_SIZE // 2:
            raise UserError(f"{place}seed: expected 0..{SPLIT_SIZE // 2 - 1}, got {self.seed}")
