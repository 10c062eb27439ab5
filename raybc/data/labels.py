"""Names and units of the dimensions of a data set, where its description tells them.

LeRobot names them in `meta/info.json`; robosuite's keys and controllers have fixed meanings. Nothing is guessed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raybc.data import formats
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import lerobot, lerobot_names
from raybc.data.formats.base import Keys
from raybc.data.formats.lerobot_meta import Meta
from raybc.data.scan import Source
from raybc.envs.robosuite_control import ABSOLUTE, OPEN, controls_of, physical_units
from raybc.types import UserError


@dataclass(frozen=True)
class Label:
    """A dimension."""

    name: str = ""
    """Its name ("x", "gripper"); "" where it has none."""
    unit: str = ""
    """Its unit ("m", "rad/s", "1 = 0.05 m"); "" where it is not known."""


#: robosuite's observations of a robot: pattern -> names of dimensions (() for numbers) and unit.
_ROBOSUITE = (
    (r"robot\d+_eef_pos", ("x", "y", "z"), "m"),
    (r"robot\d+_eef_quat(_site)?", ("x", "y", "z", "w"), ""),
    (r"robot\d+_joint_pos", (), "rad"),
    (r"robot\d+_joint_vel", (), "rad/s"),
    (r"robot\d+_gripper_qpos", (), "m"),
    (r"robot\d+_gripper_qvel", (), "m/s"),
)
#: Kind of controller -> names of the numbers of an arm, without its gripper.
_ARMS = {
    "OSC_POSE": ("x", "y", "z", "rotation x", "rotation y", "rotation z"),
    "OSC_POSITION": ("x", "y", "z"),
    "JOINT_POSITION": tuple(f"joint {i}" for i in range(7)),
}


def labels_of(source: Source, sizes: Mapping[str, int], env_args: Mapping[str, Any]) -> dict[str, list[Label]]:
    """Key ("obs/arm", "actions") -> a label for each dimension, empty ones where nothing is known.

    sizes: key -> number of dimensions. env_args: `EpisodeStore.env_args`.
    """
    found = {key: [Label()] * size for key, size in sizes.items()}
    named = _of_lerobot(source) if source.format == lerobot.NAME else {}
    for key, size in sizes.items():
        labels = named.get(key) or (_of_actions(env_args) if key == "actions" else _of_robosuite(key, size))
        if len(labels) == size:
            found[key] = labels
    return found


def action_names(store: EpisodeStore, action_key: str = "") -> list[str]:
    """Names of the action dimensions of data that were read, "" for one that has none.

    action_key: the array that was chosen as actions; "" for that of the format.
    """
    size = store.actions_NA.shape[1]
    try:
        source = Source(store.source, formats.detect(store.source), keys=Keys.of(action_key))
    except UserError:  # not read from a data set on disk
        return [""] * size
    return [label.name for label in labels_of(source, {"actions": size}, store.env_args)["actions"]]


def _of_robosuite(key: str, size: int) -> list[Label]:
    name = key.removeprefix("obs/").rpartition("/")[2]
    for pattern, names, unit in _ROBOSUITE:
        if re.fullmatch(pattern, name):
            return [Label(name, unit) for name in names or [""] * size]
    return []


def _of_actions(env_args: Mapping[str, Any]) -> list[Label]:
    """What the numbers of robosuite's arms are; [] where the controller is not described."""
    units, controls = physical_units(env_args), controls_of(env_args)
    names = [name for control in controls for name in (*_ARMS.get(control.type, ()), "gripper")]
    if len(names) != len(units):
        return []
    absolute = [control.input_type == ABSOLUTE for control in controls for _ in (*_ARMS.get(control.type, ()), "")]
    found = []
    for name, unit, is_pose in zip(names, units, absolute, strict=True):
        base = "m" if name in ("x", "y", "z") else "rad"
        if unit == OPEN:
            found.append(Label(name, "-1 open, 1 closed"))
        else:
            found.append(Label(name, base if is_pose else f"1 = {unit} {base}"))
    return found


def _of_lerobot(source: Source) -> dict[str, list[Label]]:
    """The names that `meta/info.json` gives to the dimensions of features."""
    found: dict[str, list[Label]] = {}
    with contextlib.suppress(UserError):  # what reading refuses is not the business of labels
        features = Meta(source.path).features
        keys = {feature: f"obs/{name}" for feature, name in lerobot_names.observations_of(features).items()}
        keys[lerobot_names.action_of(features, str(source.path), source.keys.action)] = "actions"
        for feature, key in keys.items():
            names = features[feature].get("names")
            if isinstance(names, dict):  # {"motors": [...]}; of several groups in their order
                names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                found[key] = [Label(name) for name in names]
    return found
