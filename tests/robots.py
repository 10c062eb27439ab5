"""A small data set in the layout that real robots record: LeRobot v3.0, two cameras, seven joints, three files."""

from __future__ import annotations

from collections.abc import Sequence
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


def recorded_robot(
    path: Path,
    episodes: int = 12,
    steps: int = 24,
    seed: int = 0,
    *,
    size: tuple[int, int] = SIZE,
    longer: int = 0,
    tasks: Sequence[str] = ("Pick up the cube.",),
    encoding: str = "lossless",
) -> EpisodeStore:
    """Write the set to `path`; returns what was written. An arm moves to the place of a bright square, which only the
    cameras see, and closes its gripper; the action is the next position of the joints, in degrees.

    steps: of the shortest episode. longer: how many more the longest has. size: height and width of the cameras. tasks:
    instructions; the second one names a darker square, and so on. encoding: of the videos.
    """
    rng = np.random.default_rng(seed)
    scale, half = size[1] / SIZE[1], size[0] / 6
    state, action = [], []
    images: dict[str, list[np.ndarray]] = {"front": [], "wrist": []}
    rows = np.arange(size[0])[:, None], np.arange(size[1])[None]
    lengths = [steps + (int(rng.integers(longer + 1)) if longer else 0) for _ in range(episodes)]
    for episode, length in enumerate(lengths):
        columns = rng.uniform(4, SIZE[1] - 4, len(tasks))
        column = columns[episode % len(tasks)]
        goal = np.array([3 * (column - 16), 20, -30, 10, 0, 5, 0]) + rng.normal(0, 1, 7)
        joints = rng.normal(0, 5, 7)
        for step in range(length):
            goal[6] = 40 if step > length * 2 // 3 else 0
            following = joints + 0.25 * 24 / steps * (goal - joints) + rng.normal(0, 0.1, 7)
            for name, images_of in images.items():
                shift = joints[0] / 3 if name == "wrist" else 0
                image = np.full((*size, 3), 40, np.uint8)
                for number, place in enumerate(columns):
                    near = (np.abs(rows[0] - size[0] / 2) < half) & (np.abs(rows[1] - (place - shift) * scale) < half)
                    image[near] = 230 - 90 * number
                images_of.append(image)
            state.append(joints)
            action.append(following)
            joints = following
    store = EpisodeStore(
        {"state": np.array(state, np.float32)} | {name: np.stack(seen) for name, seen in images.items()},
        np.array(action, np.float32),
        np.zeros(len(action), np.float32),
        np.cumsum(lengths),
        tasks=tuple(tasks[episode % len(tasks)] for episode in range(episodes)),
        frequency=FPS,
    )
    lerobot_write.write_store(path, store, encoding=encoding)
    _into_files(path, store, 3, encoding)
    _as_recorded(path)
    return store


def _as_recorded(path: Path) -> None:
    """Names of joints and the robot's type, and no rewards, as LeRobot's recorder writes."""
    for file in path.rglob("data/**/*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["next.reward"]), file)
    info = read_json(path / "meta/info.json")
    info |= {"robot_type": "so101_follower", "data_files_size_in_mb": 100, "video_files_size_in_mb": 200}
    del info["features"]["next.reward"]
    for key, feature in info["features"].items():
        if key in ("observation.state", "action"):
            feature["names"] = list(JOINTS)
        if feature["dtype"] == "video":
            height, width, channels = feature["shape"]
            feature["names"] = ["height", "width", "channels"]
            feature["info"] = {
                "video.height": height, "video.width": width, "video.codec": "av1", "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False, "video.fps": FPS, "video.channels": channels, "has_audio": False,
            }  # fmt: skip
    write_json(path / "meta/info.json", info)


def _into_files(path: Path, store: EpisodeStore, files: int, encoding: str) -> None:
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
            place = path / lerobot_write.VIDEO["v3.0"].format(video_key=key, **at)
            write_video(place, store.obs[camera][first:end], FPS, encoding)
            for episode in part:
                row = described[episode]
                row |= {"data/file_index": number, f"videos/{key}/file_index": number}
                for name in ("from_timestamp", "to_timestamp"):
                    row[f"videos/{key}/{name}"] -= first / FPS
    pq.write_table(pa.Table.from_pylist(described), path / "meta/episodes/chunk-000/file-000.parquet")
