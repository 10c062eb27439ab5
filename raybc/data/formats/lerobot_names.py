"""What the features of a LeRobot set are, by name: LeRobot's own names, openpi's, and other common spellings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raybc.types import UserError

ACTIONS = ("action", "actions")
#: Names of success, at each frame or, in meta/, of each episode.
SUCCESS = (
    "next.success", "is_success", "success", "next.is_success", "is_episode_successful", "episode_success",
    "task_success",
)  # fmt: skip
#: Beginnings of the names of observations, which they lose here.
PREFIXES = (
    "observation.images.", "observation.", "observation/", "observations.images.", "observations.", "obs.",
)  # fmt: skip
#: Features about a frame that are no observation of a robot.
ABOUT = ("timestamp", "frame_index", "episode_index", "index", "task_index", "subtask_index", "reward", "rewards",
         "done", "dones", "truncated", "terminated", "discount", "prompt", "task", "language_instruction", "fps",
         "is_first", "is_last", "is_terminal", "intervention", "is_intervention", *SUCCESS)  # fmt: skip
IMAGE_TYPES = ("video", "image")

Features = Mapping[str, Mapping[str, Any]]


def action_of(features: Features, where: str, chosen: str = "") -> str:
    """The feature that is the action, by default by its name. Raises `UserError`, beginning with `where`, if it is
    missing."""
    found = next((name for name in ((chosen,) if chosen else ACTIONS) if name in features), "")
    if not found:
        expected = repr(chosen) if chosen else "'action' (or 'actions'; --action_key chooses another)"
        raise UserError(f"{where}: features: expected {expected}, got {sorted(features)}")
    return found


def observations_of(features: Features) -> dict[str, str]:
    """Feature -> its name as an observation, without its prefix.

    Where no feature has LeRobot's prefix, as in openpi's sets (`state`, `image`, `wrist_image`), those are observations
    that are nothing else.
    """
    marked = [name for name in features if name.startswith("observation.")]
    if not marked:
        other = (name for name in features if name not in (*ACTIONS, *ABOUT) and not name.startswith("next."))
        marked = [name for name in other if not name.startswith(("action", "annotation."))]
    names: dict[str, str] = {}
    for feature in marked:
        if features[feature]["dtype"] == "string":
            continue
        prefix = next((p for p in PREFIXES if feature.startswith(p)), "")
        name = feature.removeprefix(prefix)
        names[feature] = feature.removeprefix("observation.") if name in names.values() else name
    return names


def success_of(names: Any) -> str:
    """The first name of success among `names`; "" where there is none."""
    return next((name for name in SUCCESS if name in names), "")


def is_grey(feature: Mapping[str, Any]) -> bool:
    """Whether an image feature declares one channel."""
    shape = list(feature.get("shape") or [])
    return len(shape) == 3 and shape[2] == 1


def is_depth(feature: Mapping[str, Any]) -> bool:
    """Whether a feature declares that it is depth, in any of the places where LeRobot has written that."""
    info = feature.get("info") or feature.get("video_info") or {}
    places = (feature, info) if isinstance(info, Mapping) else (feature,)
    return any(bool(place.get(key)) for place in places for key in ("is_depth_map", "video.is_depth_map"))
