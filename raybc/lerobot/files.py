"""The folder of a checkpoint of LeRobot, without its tensors: no torch in here.

config.json                 kind of policy, its options, inputs and outputs
model.safetensors           weights
policy_preprocessor.json    what is done to observations, with statistics in *_processor.safetensors
policy_postprocessor.json   what is done to actions, likewise
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.files import read_json
from raybc.types import UserError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
#: Where LeRobot's training leaves checkpoints, below the folder that a user may name.
WITHIN = ("", "pretrained_model", "checkpoints/last/pretrained_model")
STATE, ENVIRONMENT_STATE, ACTION = "observation.state", "observation.environment_state", "action"


@dataclass(frozen=True)
class Feature:
    """An input of a policy, or its action."""

    type: str
    """STATE, ENV, VISUAL or ACTION."""
    shape: tuple[int, ...]
    """Without batch and steps; images have their channels first."""


def own_name(feature: str) -> str:
    """Our name of an input, as for LeRobot's data sets: `observation.state` is `state`, `observation.images.top` is
    `top`."""
    return feature.removeprefix("observation.").removeprefix("images.")


def find_checkpoint(folder: Path) -> Path:
    """The folder of a checkpoint: `folder`, or the last checkpoint of a training of LeRobot's in it.

    Raises `UserError` where there is none.
    """
    for within in WITHIN:
        if (folder / within / CONFIG).is_file():
            return folder / within
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder of a LeRobot checkpoint, found none")
    raise UserError(
        f"{folder}: expected a LeRobot checkpoint (a folder with {CONFIG} and {WEIGHTS}, or with checkpoints/last), "
        "found none"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint. Raises `UserError` for another file."""
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or not isinstance(config.get("type"), str):
        raise UserError(
            f"{folder / CONFIG}: expected the configuration of a LeRobot policy with a type, got another file"
        )
    return config


def features(config: Mapping[str, Any], name: str, path: Path) -> dict[str, Feature]:
    """`input_features` or `output_features`. Raises `UserError` for anything else."""
    found = {}
    values = config.get(name)
    for key, value in values.items() if isinstance(values, dict) else ():
        shape, kind = (value.get("shape"), value.get("type")) if isinstance(value, dict) else (None, None)
        sizes = shape if isinstance(shape, list) else []
        wanted = 3 if kind == "VISUAL" else 1
        if len(sizes) != wanted or not all(type(size) is int and size > 0 for size in sizes):
            raise UserError(f"{path}: {name}: {key}: expected a type and a shape of {wanted}, got {value!r}")
        found[key] = Feature(str(kind), tuple(sizes))
    if not found:
        raise UserError(f"{path}: expected {name} with names, types and shapes, found none")
    return found
