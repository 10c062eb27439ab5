"""`norm_stats.json`: statistics of observations and actions as a file, written by every training run and by
`raybc data stats --out`, and used by other runs with `--norm_stats_from`.

    {"format": "raybc-norm-stats-1", "keys": {"state": {"offset": [...], "scale": [...]}, "actions": {...}}}

A run's file has the offset and scale that it trained with; one of `stats` has mean, std, min, max, q01 and q99 of each
dimension, from which a run takes what its kind of normalisation needs. Letter: D dimensions of a key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raybc.data.normalize import Normalizer
from raybc.files import expanded, read_json, write_json
from raybc.run_folder import BUNDLE_FILE, TrainingFolder
from raybc.strict import digest
from raybc.types import UserError

FORMAT = "raybc-norm-stats-1"
#: Kind of normalisation -> the statistics that it needs.
NEEDS: dict[str, tuple[str, ...]] = {
    "mean_std": ("mean", "std"), "min_max": ("min", "max"), "quantile": ("q01", "q99"), "identity": (),
}  # fmt: skip
ACTIONS = "actions"

Keys = Mapping[str, Mapping[str, Any]]


def write(path: Path, keys: Keys) -> None:
    """Write statistics. keys: observation, or `actions`, -> name of a statistic -> D numbers."""
    write_json(path, {"format": FORMAT, "keys": {key: dict(values) for key, values in keys.items()}})


def of_run(obs_sizes: Mapping[str, int], obs: Normalizer, actions: Normalizer) -> dict[str, dict[str, list[float]]]:
    """The keys of a run's file: what it normalises with."""
    found, end = {}, 0
    for key, size in obs_sizes.items():
        part = slice(end, end + size)
        found[key] = {"offset": obs.offset[part].tolist(), "scale": obs.scale[part].tolist()}
        end += size
    return found | {ACTIONS: {"offset": actions.offset.tolist(), "scale": actions.scale.tolist()}}


def load(place: str) -> Keys:
    """The statistics of a file, a training run or a bundle.

    Raises `UserError` for a place without statistics and for another or a damaged file.
    """
    path = expanded(place, "norm_stats_from")
    folder = TrainingFolder(path)
    choices = [path] if path.is_file() else [
        folder.norm_stats, *(each / BUNDLE_FILE for each in (path, folder.final_model, folder.latest))
    ]  # fmt: skip
    found = next((each for each in choices if each.is_file()), None)
    if found is None:
        raise UserError(f"norm_stats_from: {path}: expected norm_stats.json, a training run or a bundle, found none")
    data = read_json(found)
    if isinstance(data, dict) and found.name == BUNDLE_FILE:
        return _of_bundle(data, found)
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("keys"), dict):
        raise UserError(f"norm_stats_from: {found}: expected statistics ({FORMAT}), got another JSON file")
    return {str(key): _checked(values, f"{found}: {key}") for key, values in data["keys"].items()}


def _of_bundle(data: Mapping[str, Any], path: Path) -> Keys:
    try:
        offset, scale = (data["normalization"]["observations"][name] for name in ("offset", "scale"))
        found: dict[str, Mapping[str, Any]] = {ACTIONS: data["normalization"]["actions"]}
        end = 0
        for key, size in data["observations"].items():
            found[str(key)] = {"offset": offset[end : end + size], "scale": scale[end : end + size]}
            end += size
    except (LookupError, TypeError, AttributeError):
        raise UserError(f"norm_stats_from: {path}: expected the statistics of a policy bundle, found none") from None
    return {key: _checked(values, f"{path}: {key}") for key, values in found.items()}


def _checked(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"norm_stats_from: {where}: expected a mapping of statistics, got {type(values).__name__}")
    found = {}
    for name, numbers in values.items():
        if name == "count":
            continue
        good = isinstance(numbers, list) and all(
            isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers
        )
        if not good:
            raise UserError(f"norm_stats_from: {where}: {name}: expected a list of finite numbers")
        found[str(name)] = numbers
    return found


def sha256_of(keys: Keys) -> str:
    """Identity of statistics, independent of the order of keys."""
    return digest({key: dict(values) for key, values in keys.items()})


def normalizer(keys: Keys, sizes: Mapping[str, int], kinds: Mapping[str, str], where: str) -> Normalizer:
    """The statistics of the keys of `sizes`, concatenated in this order.

    sizes: key -> D. kinds: key -> kind of normalisation. Raises `UserError`, beginning with `where`, for keys that are
    missing, other sizes, and statistics that the kind needs and the file does not have.
    """
    offsets, scales = [np.zeros(0)], [np.zeros(0)]
    for key, size in sizes.items():
        if key not in keys:
            raise UserError(f"{where}: expected statistics of {key!r}, got those of {', '.join(sorted(keys))}")
        values, kind = keys[key], kinds.get(key, "identity")
        needed = ("offset", "scale") if "offset" in values else NEEDS[kind]
        for name in needed:
            if name not in values:
                raise UserError(f"{where}: {key}: expected {name} for normalization {kind}, got {', '.join(values)}")
            if len(values[name]) != size:
                got = len(values[name])
                raise UserError(f"{where}: {key}: {name}: expected {size} numbers as in the data, got {got}")
        if not needed:
            offset, scale = np.zeros(size), np.ones(size)
        else:
            offset, scale = (np.array(values[name], np.float64) for name in needed)
        if needed in (NEEDS["min_max"], NEEDS["quantile"]):
            offset, scale = (offset + scale) / 2, (scale - offset) / 2
        offsets.append(offset)
        scales.append(scale)
    return Normalizer.affine(np.concatenate(offsets), np.concatenate(scales))
