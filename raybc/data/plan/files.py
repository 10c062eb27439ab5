"""A plan as two files of a folder: plan_meta.json (parameters, origin, checksums) and plan_arrays.npz.

The folder is written completely or not at all. Nothing is unpickled. `plan_sha256` identifies the plan: it depends on
its contents alone, not on where, when or by which version of a library it was written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from raybc.causes import expect_file
from raybc.data.npz import Npz
from raybc.data.plan.config import PlanConfig
from raybc.data.plan.plan import FORMAT, VERSION, SamplingPlan, from_arrays, sha256
from raybc.files import read_json, replacing, write_json
from raybc.strict import digest, from_mapping
from raybc.types import UserError

META = "plan_meta.json"
ARRAYS = "plan_arrays.npz"
PAGE = "plan.html"


def save_plan(plan: SamplingPlan, folder: Path, overwrite: bool = False) -> None:
    """Write the folder. Raises `UserError` if it exists; with `overwrite` only if it contains anything but a plan."""
    if folder.exists():
        _check_replaceable(folder, overwrite)
    with replacing(folder) as temporary:
        temporary.mkdir()
        with (temporary / ARRAYS).open("wb") as handle:
            np.savez_compressed(handle, **plan.arrays())
        write_json(temporary / META, plan.meta())


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder for the plan, got a file; choose another --out-dir")
    inside = {p.name for p in folder.iterdir()}
    foreign = sorted(inside - {META, ARRAYS, PAGE})
    if foreign:
        raise UserError(f"{folder}: contains {foreign[0]!r}, which is not part of a plan; choose another --out-dir")
    if inside and not overwrite:
        raise UserError(f"{folder}: a plan is there; replace it with --overwrite, or choose another --out-dir")


def plan_folder(path: Path) -> Path:
    """The folder of a plan, given that folder, its plan_meta.json or its plan_arrays.npz. Raises `UserError` for other
    paths."""
    if path.name in (META, ARRAYS):
        return path.parent
    if not path.is_dir():
        raise UserError(f"{path}: expected a sampling plan (a folder with {META} and {ARRAYS}, or one of them)")
    return path


def load_plan(path: Path) -> SamplingPlan:
    """The plan at `path` (see `plan_folder`). Raises `UserError`, with the file, for a missing, damaged, edited or
    inconsistent one."""
    folder = plan_folder(path)
    meta = _read_meta(folder / META)
    arrays = _read_arrays(folder / ARRAYS)
    recorded = meta["arrays"]
    if set(arrays) != set(recorded):
        raise UserError(f"{folder / ARRAYS}: expected the arrays {sorted(recorded)}, got {sorted(arrays)}")
    for name, array in arrays.items():
        got = {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": sha256(array)}
        if got != recorded[name]:
            raise UserError(
                f"{folder / ARRAYS}: {name}: differs from its description in {META} (expected {recorded[name]}, "
                f"got {got}); it was damaged or edited: build the plan again"
            )
    config = from_mapping(PlanConfig, meta["parameters"], f"{folder / META}: parameters")
    try:
        plan = from_arrays(meta, config, arrays)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    restated = plan.meta()
    for key, value in meta.items():
        if restated.get(key) != value:
            raise UserError(
                f"{folder / META}: {key}: expected {restated.get(key)!r}, which follows from the rest, got {value!r}"
            )
    return plan


def _read_meta(path: Path) -> dict[str, Any]:
    meta = read_json(path)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(f"{path}: expected a {FORMAT}, got another JSON file")
    if meta.get("version") != VERSION:
        raise UserError(f"{path}: expected version {VERSION}, got {meta.get('version')!r}; build the plan again")
    expected = digest({k: v for k, v in meta.items() if k != "plan_sha256"})
    if meta.get("plan_sha256") != expected:
        raise UserError(
            f"{path}: plan_sha256: expected {expected}, got {meta.get('plan_sha256')!r}; the file was damaged or "
            "edited: build the plan again"
        )
    types = {
        "repo_id": str,
        "dataset_fingerprint": str,
        "dataset_len": int,
        "stride_used": int,
        "arrays": dict,
        "parameters": dict,
    }
    for key, kind in types.items():
        if not isinstance(meta.get(key), kind):
            raise UserError(f"{path}: {key}: expected {kind.__name__}, got {meta.get(key)!r}")
    return meta


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    expect_file(path, "the arrays of a sampling plan")
    file = Npz(path)
    return {name: file[name] for name in sorted(file.names)}
