"""Films of a sweep: those that it made itself, and those of single starts that were made later."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.video import stills
from raybc.rows import Phase, VideoRow, setting_fields, setting_of, video_setting
from raybc.run_folder import SweepFolder
from raybc.types import SampleSetting

#: Videos are embedded up to this many bytes in total; more are linked.
VIDEO_LIMIT_BYTES = 40_000_000
_OF_TASK = re.compile(r"_task_\d+$")
_NAME = re.compile(r"trial_(\d+)_seed_(\d+)_step_(\d+)_(search|final)_")

#: What names a filmed episode: trial, seed, set of starts, index, sample setting, task.
Key = tuple[int, int, str, int, SampleSetting, str]


def key_of(video: VideoRow) -> Key:
    """What names the episode of a film."""
    named = video["trial"], video["seed"], video["split"], video["index"]
    return *named, video_setting(video), video.get("task", "")


def later_films(folder: SweepFolder) -> list[VideoRow]:
    """The films below `filmed/`, each made by a measurement of one start, in the order of their names."""
    found = []
    for path in sorted((folder.path / "filmed").glob("trial_*")):
        named = _NAME.match(path.name)
        out = EvaluationFolder(path)
        if named is None or not out.episodes.is_file():
            continue
        try:
            row = json.loads(out.episodes.read_text(encoding="utf-8").splitlines()[0])
            task = json.loads(out.request.read_text(encoding="utf-8")).get("task", "")
            setting = setting_of(row)
            video = out.videos(setting) / row["video"]
        except (OSError, ValueError, KeyError, IndexError, TypeError):  # an error of the simulator, or no such folder
            continue
        if not video.is_file():
            continue
        film: VideoRow = {
            "file": video.relative_to(folder.path).as_posix(),
            "trial": int(named[1]),
            "seed": int(named[2]),
            "step": int(named[3]),
            "split": cast(Phase, named[4]),
            "index": row["index"],
            "outcome": row["outcome"],
            **setting_fields(setting),
            "steps": row["steps"],
        }
        if _OF_TASK.search(path.name):  # one of several
            film["task"] = task
        found.append(film)
    return found


def films_of(folder: SweepFolder, own: Sequence[VideoRow]) -> list[VideoRow]:
    """All films of a sweep: `own`, the entries of videos.json, and the later ones of episodes that `own` lacks."""
    known = {key_of(video) for video in own if "flow_steps" in video}
    return [*own, *(film for film in later_films(folder) if key_of(film) not in known)]


def later_mark(folder: SweepFolder) -> tuple[str, ...]:
    """What changes when a film is made later."""
    return tuple(sorted(str(path) for path in (folder.path / "filmed").glob("trial_*/episodes.jsonl")))


def embedded(root: Path, videos: Sequence[VideoRow]) -> dict[str, Any]:
    """Videos with the attributes of <video>: data URIs, or links if they are too large together."""
    root, found, lost = root.resolve(), [], []
    for video in videos:
        path = (root / video["file"]).resolve()
        if path.is_file() and path.is_relative_to(root):
            found.append((video, path))
        else:
            lost.append(video["file"])
    size = sum(path.stat().st_size for _, path in found)
    linked = size > VIDEO_LIMIT_BYTES
    items = []
    for number, (video, path) in enumerate(found):
        items.append(
            {
                "source": source_of(path, root, linked),
                **images_of(path),
                **dict.fromkeys(("outcome", "trial", "seed", "index"), "?"),
                **video,
            }
            | {"setting": video_setting(video).label() if "flow_steps" in video else "", "element": f"film-{number}"}
        )
    return {"items": items, "linked": linked, "megabytes": size / 1e6, "lost": lost}


def source_of(path: Path, root: Path, linked: bool) -> str:
    """What a page in the folder `root` has a video from: a link, or the video itself."""
    return quote(path.relative_to(root).as_posix()) if linked else _data("video/mp4", path.read_bytes())


def images_of(path: Path) -> dict[str, Any]:
    """Data URIs of a video's stills ("" if it is no video), and the seconds of a frame."""
    found = stills(path)
    if found is None:
        return {"still": "", "strip": "", "frame": ""}
    return {
        "still": _data("image/jpeg", found.poster),
        "strip": _data("image/jpeg", found.strip),
        "frame": f"{found.frame:.4f}",
    }


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
