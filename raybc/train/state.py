"""The state of a training on disk: one safetensors file, whole or absent, from which it goes on bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raybc.files import replacing
from raybc.types import UserError


@dataclass(frozen=True)
class State:
    """runs: who it belongs to (run_id of each member). rest: what is no tensor, as JSON values."""

    step: int
    runs: list[str]
    tensors: Mapping[str, Tensor]
    rest: dict[str, Any]


def save(path: Path, state: State) -> None:
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.tensors.items()}
    metadata = {"step": str(state.step), "runs": json.dumps(state.runs), "rest": json.dumps(state.rest)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata | {"sha256": _digest(tensors, metadata)})


def load(path: Path, runs: list[str]) -> State:
    """Raises `UserError` for a file that is damaged, or that belongs to other runs than `runs`."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not readable as a training state: {error}") from None
    digest = metadata.pop("sha256", "")
    if digest != _digest(tensors, metadata):
        raise UserError(f"{path}: not readable as a training state: it is damaged; use --overwrite to start anew")
    got = json.loads(metadata["runs"])
    if got != runs:
        raise UserError(
            f"{path}: belongs to the runs {got}, not to {runs}: "
            "another configuration, data or seeds; use --overwrite to start anew"
        )
    return State(int(metadata["step"]), got, tensors, json.loads(metadata["rest"]))


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over everything in the file."""
    h = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        h.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()
