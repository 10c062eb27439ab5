"""A checkpoint of LeRobot as data: configuration, weights, and the statistics of its processors.

Before processors existed, statistics were among the weights, as `normalize_inputs.buffer_...`. Nothing is unpickled,
and LeRobot is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from raybc.causes import expect_file
from raybc.files import read_json
from raybc.lerobot.files import (
    ACTION,
    CONFIG,
    POSTPROCESSOR,
    PREPROCESSOR,
    WEIGHTS,
    Feature,
    features,
    find_checkpoint,
    read_config,
)
from raybc.types import UserError

#: Steps of processors that change nothing but the place of data.
_NEUTRAL = frozenset({"to_batch_processor", "device_processor"})
_NORMALIZERS = {PREPROCESSOR: "normalizer_processor", POSTPROCESSOR: "unnormalizer_processor"}
_FORMER = re.compile(r"(?:normalize_inputs|normalize_targets|unnormalize_outputs)\.buffer_(.+)\.(mean|std|min|max)")

#: Name of a feature -> name of a statistic -> numbers.
Statistics = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Processing:
    """How one of the two processors normalises."""

    statistics: Statistics
    modes: Mapping[str, str]
    """Type of a feature -> MIN_MAX, MEAN_STD, IDENTITY, ..."""
    eps: float = 1e-8
    """What LeRobot adds to standard deviations, and puts in place of a range of 0."""


@dataclass(frozen=True)
class Checkpoint:
    """What is in the folder of a checkpoint."""

    folder: Path
    kind: str
    """`type`: diffusion, act, ..."""
    config: Mapping[str, Any]
    inputs: Mapping[str, Feature]
    action: Feature
    weights: Mapping[str, torch.Tensor]
    """Without the statistics of former releases."""
    before: Processing
    """Of observations."""
    after: Processing
    """Of actions."""

    @property
    def images(self) -> dict[str, tuple[int, int, int]]:
        """Name of an image -> (height, width, channels), in LeRobot's order."""
        found = {name: one.shape for name, one in self.inputs.items() if one.type == "VISUAL"}
        return {name: (shape[1], shape[2], shape[0]) for name, shape in found.items()}

    @property
    def vectors(self) -> dict[str, int]:
        """Name of a low-dimensional observation -> its size."""
        return {name: one.shape[0] for name, one in self.inputs.items() if one.type != "VISUAL"}


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises `UserError`, which names the file, for what is missing, damaged or of another kind."""
    folder = find_checkpoint(folder)
    config = read_config(folder)
    inputs = features(config, "input_features", folder / CONFIG)
    outputs = features(config, "output_features", folder / CONFIG)
    if list(outputs) != [ACTION]:
        raise UserError(f"{folder / CONFIG}: output_features: expected {ACTION} alone, got {', '.join(outputs)}")
    weights, former = _split(_tensors(folder / WEIGHTS), [*inputs, ACTION])
    modes = {str(key): str(value) for key, value in dict(config.get("normalization_mapping") or {}).items()}
    known = {ACTION: outputs[ACTION], **inputs}
    processing = []
    for name in (PREPROCESSOR, POSTPROCESSOR):
        if (folder / name).exists():
            processing.append(_processing(folder / name))
        elif former:
            processing.append(Processing(former, modes))
        else:
            raise UserError(f"{folder / name}: expected the processor with the statistics of the policy, found none")
    for one in processing:
        _check_sizes(one.statistics, known, folder)
    before, after = processing
    return Checkpoint(folder, config["type"], config, inputs, outputs[ACTION], weights, before, after)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    expect_file(path, "the weights of a LeRobot checkpoint")
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path}: not readable as safetensors: {error}") from None


def _split(tensors: Mapping[str, torch.Tensor], names: list[str]) -> tuple[dict[str, torch.Tensor], Statistics]:
    """Weights, and the statistics that releases before processors kept among them."""
    weights, former = {}, dict[str, dict[str, np.ndarray]]()
    name_of = {name.replace(".", "_"): name for name in names}
    for key, tensor in tensors.items():
        match = _FORMER.fullmatch(key)
        if match is None:
            weights[key] = tensor
        elif match[1] in name_of:
            former.setdefault(name_of[match[1]], {})[match[2]] = tensor.double().numpy()
    return weights, former


def _processing(path: Path) -> Processing:
    """What a processor does. Raises `UserError` for a step other than moving and normalising."""
    saved = read_json(path)
    steps = saved.get("steps") if isinstance(saved, dict) else None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise UserError(f"{path}: expected a processor of LeRobot with steps, got another file")
    found: Processing | None = None
    for step in steps:
        name, config = str(step.get("registry_name") or step.get("class")), step.get("config") or {}
        if name == "rename_observations_processor" and not config.get("rename_map"):
            continue
        if name in _NEUTRAL and not config.get("float_dtype"):
            continue
        if name != _NORMALIZERS[path.name] or found is not None or config.get("normalize_observation_keys"):
            raise UserError(
                f"{path}: step {name}: expected none that changes values beside {_NORMALIZERS[path.name]}, got "
                f"{config!r}; let LeRobot itself act: raybc rollout lerobot:{path.parent}"
            )
        file = step.get("state_file")
        statistics: dict[str, dict[str, np.ndarray]] = {}
        if file is not None:
            if Path(str(file)).name != file:
                raise UserError(f"{path}: state_file: expected the name of a file beside it, got {file!r}")
            for key, tensor in _tensors(path.parent / file).items():
                feature, _, statistic = key.rpartition(".")
                statistics.setdefault(feature, {})[statistic] = tensor.double().numpy()
        modes = {str(key): str(value) for key, value in (config.get("norm_map") or {}).items()}
        found = Processing(statistics, modes, float(config.get("eps", 1e-8)))
    return found or Processing({}, {})


def _check_sizes(statistics: Statistics, known: Mapping[str, Feature], folder: Path) -> None:
    for name, feature in known.items():
        for statistic, values in statistics.get(name, {}).items():
            expected = (feature.shape[0], 1, 1) if feature.type == "VISUAL" else feature.shape
            if statistic != "count" and values.shape != expected:
                raise UserError(f"{folder}: statistics of {name}: {statistic}: expected {expected}, got {values.shape}")
