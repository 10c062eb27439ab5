"""The paths of files in the folder of a comparison; no other module spells them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CompareFolder:
    """What `python -m raybc.compare` writes."""

    path: Path

    @property
    def request(self) -> Path:
        """What was asked for; a resumed comparison must ask for the same."""
        return self.path / "compare.json"

    @property
    def result(self) -> Path:
        return self.path / "comparison.json"

    @property
    def page(self) -> Path:
        return self.path / "compare.html"

    @property
    def partial(self) -> Path:
        """Rows of finished episodes, while the comparison runs."""
        return self.path / "episodes.partial.jsonl"

    @property
    def versions(self) -> Path:
        return self.path / "versions.json"

    def episodes(self, arm: str) -> Path:
        return self.path / "arms" / arm / "episodes.jsonl"

    def videos(self, arm: str) -> Path:
        return self.path / "arms" / arm / "videos"
