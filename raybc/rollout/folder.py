"""The paths of files in the folder of a measurement; no other module spells them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raybc.types import SampleSetting


@dataclass(frozen=True)
class EvaluationFolder:
    """What `python -m raybc.rollout` writes."""

    path: Path

    @property
    def request(self) -> Path:
        """What was asked for; a resumed evaluation must ask for the same."""
        return self.path / "rollout.json"

    @property
    def episodes(self) -> Path:
        return self.path / "episodes.jsonl"

    @property
    def partial(self) -> Path:
        """Rows of finished episodes, while the evaluation runs."""
        return self.path / "episodes.partial.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def tasks_csv(self) -> Path:
        """A row for each task and sample setting, where there are several tasks."""
        return self.path / "tasks.csv"

    @property
    def versions(self) -> Path:
        return self.path / "versions.json"

    @property
    def recorded(self) -> Path:
        """Folder of recorded episodes, until they are in the data sets that --record names."""
        return self.path / "recorded"

    @property
    def recorded_json(self) -> Path:
        """The data sets that --record wrote."""
        return self.path / "recorded.json"

    def videos(self, setting: SampleSetting) -> Path:
        return self.path / "videos" / setting.slug()
