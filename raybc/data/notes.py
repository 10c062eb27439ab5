"""`data_notes.json`: what was left out of a data set, or assumed about it, as a file of a run folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from raybc.data.episodes import EpisodeStore
from raybc.files import write_json


def write_data_notes(path: Path, store: EpisodeStore) -> None:
    """Write the remarks of `store` and the episodes that were skipped to `path`; no effect where there are none."""
    if not (store.remarks() or store.skipped):
        return
    write_json(
        path,
        {
            "source": str(store.source),
            "notes": [dataclasses.asdict(note) for note in store.notes],
            "skipped_episodes": [dataclasses.asdict(episode) for episode in store.skipped],
        },
    )
