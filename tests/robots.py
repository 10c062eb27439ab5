"""A small data set in the layout that real robots record: LeRobot v3.0, two cameras, seven joints, three files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raybc.data.episodes import EpisodeStore
from raybc.data.formats import lerobot_write
from raybc.data.videos import write_video
from raybc.files import read_json, write_json

FPS = 20
#: Height and width of the cameras.
SIZE = (24, 32)
JOINTS = (*(f"joint_{i}.pos" for i in range(6)), "gripper.pos")


def recorded_robot(path: Path, episodes: int = 12, steps: int = 24, seed: int = 0) -> EpisodeStore:
    """Write the set to `path`; returns what was written. An arm moves to the place of a bright square, which only the
    cameras see, and closes its gripper; the action is the next position of the joints, in degrees."""
    rng = np.random.default_rng(seed)
    state, action = [], []
    images: dict[str, list[np.ndarray]] = {"front": [], "wrist": []}
    rows = np.arange(SIZE[0])[:, None], np.arange(SIZE[1])[None]
    for _ in range(episodes):
        column = rng.uniform(4, SIZE[1] - 4)
        goal = np.array([3 * (column - 16), 20, -30, 10, 0, 5, 0]) + rng.normal(0, 1, 7)
        joints = rng.normal(0, 5, 7)
        for step in range(steps):
            goal[6] = 40 if step > steps * 2 // 3 else 0
            following = joints + 0.25 * (goal - joints) + rng.normal(0, 0.1, 7)
            for name, images_of in images.items():
                shift = joints[0] / 3 if name == "wrist" else 0
                near = (np.abs(rows[0] - 12) < 4) & (np.abs(rows[1] - column + shift) < 4)
                images_of.append(np.where(near[..., None], 230, 40).astype(np.uint8).repeat(3, -1))
            state.append(joints)
            action.append(following)
            joints = following
    store = EpisodeStore(
        {"state": np.array(state, np.float32)} | {name: np.stack(seen) for name, seen in images.items()},
        np.array(action, np.float32),
        np.zeros(len(action), np.float32),
        np.arange(1, episodes + 1) * steps,
        tasks=("Pick up the cube.",) * episodes,
    )
    lerobot_write.write_store(path, store, fps=FPS)
    _into_files(path, store, files=3)
    info = read_json(path / "meta/info.json")
    info["robot_type"] = "so101_follower"
    for key in ("observation.state", "action"):
        info["features"][key]["names"] = list(JOINTS)
    write_json(path / "meta/info.json", info)
    return store


def _into_files(path: Path, store: EpisodeStore, files: int) -> None:
    """Cut the only data file and the only video of each camera into several, as LeRobot does with large sets."""
    parts = np.array_split(np.arange(store.num_episodes), files)
    table = pq.read_table(path / lerobot_write.DATA["v3.0"].format(chunk_index=0, file_index=0))
    described = pq.read_table(path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for number, part in enumerate(parts):
        at = {"chunk_index": 0, "file_index": number}
        first, end = int(store.episode_starts[part[0]]), int(store.episode_ends[part[-1]])
        pq.write_table(table.slice(first, end - first), path / lerobot_write.DATA["v3.0"].format(**at))
        for camera in store.images:
            key = f"observation.images.{camera}"
            write_video(
                path / lerobot_write.VIDEO["v3.0"].format(video_key=key, **at), store.obs[camera][first:end], FPS
            )
            for episode in part:
                row = described[episode]
                row |= {"data/file_index": number, f"videos/{key}/file_index": number}
                for name in ("from_timestamp", "to_timestamp"):
                    row[f"videos/{key}/{name}"] -= first / FPS
    pq.write_table(pa.Table.from_pylist(described), path / "meta/episodes/chunk-000/file-000.parquet")
