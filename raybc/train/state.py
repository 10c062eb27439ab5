"""The state of a training on disk: one safetensors file, whole or absent, from which it goes on bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raybc.files import replacing
from raybc.train.schedule import Watch
from raybc.types import UserError


@dataclass(frozen=True)
class State:
    """runs: who it belongs to (run_id of each member). tensors: see `is_shared`. watches, validation_loss (None where
    there is none): of each member."""

    step: int
    runs: list[str]
    tensors: Mapping[str, Tensor]
    watches: Sequence[Watch]
    validation_loss: list[float] | None


def is_shared(name: str) -> bool:
    """Whether a tensor of a state is one for all members; the others have the member axis first."""
    return name.endswith("/step")


def save(path: Path, state: State) -> None:
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.tensors.items()}
    rest = {"watches": [asdict(w) for w in state.watches], "validation_loss": state.validation_loss}
    metadata = {"step": str(state.step), "runs": json.dumps(state.runs), "rest": json.dumps(rest)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata | {"sha256": _digest(tensors, metadata)})


def load(path: Path) -> State:
    """Raises `UserError` for a file that is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not readable as a training state: {error}") from None
    digest = metadata.pop("sha256", "")
    if digest != _digest(tensors, metadata):
        raise UserError(f"{path}: not readable as a training state: it is damaged; use --overwrite to start anew")
    rest = json.loads(metadata["rest"])
    watches = [Watch(**row) for row in rest["watches"]]
    return State(int(metadata["step"]), json.loads(metadata["runs"]), tensors, watches, rest["validation_loss"])


def joined(states: Sequence[State], paths: Sequence[Path], runs: list[str]) -> State:
    """The state of a pack from those of its parts, `paths` saying where they were read. Raises `UserError` where they
    are not of `runs`, or not of one step."""
    first = states[0]
    got = [run for state in states for run in state.runs]
    if got != runs:
        raise UserError(
            f"{', '.join(map(str, paths))}: belongs to the runs {got}, not to {runs}: "
            "another configuration, data or seeds; use --overwrite to start anew"
        )
    for state, path in zip(states, paths, strict=True):
        if state.step != first.step:
            raise UserError(f"{path}: expected a state of step {first.step} as {paths[0]}, got one of {state.step}")
    tensors = {k: v if is_shared(k) else torch.cat([s.tensors[k] for s in states]) for k, v in first.tensors.items()}
    losses = [s.validation_loss for s in states]
    return State(
        first.step,
        got,
        tensors,
        [watch for s in states for watch in s.watches],
        [loss for part in losses for loss in part or []] or None,
    )


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over everything in the file."""
    h = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        h.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()
