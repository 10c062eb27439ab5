"""Checkpoints: bundles, and the training state for a bit-exact resume.

A state is one safetensors file, written atomically. Its tensors are `policy/NAME`, `optimizer/NAME/exp_avg` ...,
`ema/NAME` and `loss_sum`. Release 0.1.0 used the index of a parameter instead of NAME.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raybc._version import __version__
from raybc.causes import expect_file
from raybc.config import RunConfig, migrate
from raybc.files import parse_json, replacing
from raybc.run_folder import TrainingFolder
from raybc.train.epochs import is_optional
from raybc.train.schedule import LossMonitor, round_of
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.train.loop import PackTrainer


#: Version of the file format. Release 0.1.0 wrote version 1, without this number.
FORMAT = 2


@dataclass(frozen=True)
class State:
    """The state of a training run."""

    step: int
    """Gradient steps so far."""
    runs: list[str]
    """The run_id of each member when the state was saved."""
    tensors: Mapping[str, Tensor]
    """Name -> tensor, with the member axis first unless `is_shared`."""
    monitors: Sequence[LossMonitor]
    """One per member."""
    validation_loss: list[float] | None
    """The latest validation loss of each member; None without a validation split."""
    scale_floor: bool = False
    """Whether it was trained with `Normalizer.with_floor`, as every state of this release; earlier ones were not."""
    format: int = FORMAT
    """Version of the file that the state was read from."""


def is_shared(name: str) -> bool:
    """Whether all members share a tensor of a state; other tensors have the member axis first."""
    return name.endswith("/step")


def save(path: Path, state: State) -> None:
    """Write a state to `path` atomically."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.tensors.items()}
    rest = {
        "monitors": [asdict(m) for m in state.monitors],
        "validation_loss": state.validation_loss,
        "scale_floor": state.scale_floor,
    }
    metadata = {
        "format": str(FORMAT), "raybc": __version__, "step": str(state.step), "runs": json.dumps(state.runs),
        "rest": json.dumps(rest),
    }  # fmt: skip
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata | {"sha256": digest_of(tensors, metadata)})


def load(path: Path) -> State:
    """Read a state. Raises `UserError` for a damaged file, or one of a newer format."""
    expect_file(path, "a training state")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not readable as a training state: {error}") from None
    digest = metadata.pop("sha256", "")
    if digest != digest_of(tensors, metadata):
        raise UserError(f"{path}: not readable as a training state: it is damaged; use --overwrite to start again")
    try:
        return _state(path, metadata, tensors)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: not readable as a training state: its metadata are damaged; use --overwrite to start again"
        ) from None


def _state(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> State:
    version = int(metadata.get("format", "1"))
    if version > FORMAT:
        raise UserError(
            f"{path}: expected a training state of format {FORMAT} or older, got {version}, made by raybc "
            f"{metadata.get('raybc', 'of a newer release')}; install that release or a newer one"
        )
    rest = parse_json(metadata["rest"], f"{path}: rest")
    monitors = [LossMonitor(**row) for row in rest["watches" if version == 1 else "monitors"]]
    runs = parse_json(metadata["runs"], f"{path}: runs")
    floor = bool(rest.get("scale_floor", False))
    return State(int(metadata["step"]), runs, tensors, monitors, rest["validation_loss"], floor, version)


def migrated(state: State, names: Sequence[str], renamed: Mapping[str, str]) -> State:
    """A state with the current parameter names.

    Args:
        state: as it was saved.
        names: current names of the parameters, in their order.
        renamed: old prefix -> new prefix (`PolicyConfig.renamed_weights`).
    """
    if state.format == FORMAT and not renamed:
        return state
    weights = [key.removeprefix("policy/") for key in state.tensors if key.startswith("policy/")]
    current = migrate.renamed(weights, renamed)

    def key_of(key: str) -> str:
        kind, _, rest = key.partition("/")
        if kind == "policy":
            return f"policy/{current[rest]}"
        first, slash, last = rest.partition("/")
        if state.format == 1 and kind in ("optimizer", "ema"):
            return f"{kind}/{names[int(first)]}{slash}{last}"
        return key

    return replace(state, tensors={key_of(k): v for k, v in state.tensors.items()}, format=FORMAT)


def joined(states: Sequence[State], paths: Sequence[Path], runs: Sequence[Collection[str]]) -> State:
    """The state of a pack from the states of its parts.

    Args:
        states: the parts, in the order of the members.
        paths: the file of each state, for error messages.
        runs: the run_ids that are accepted for each member.

    Raises `UserError` if the states belong to other runs, or to different steps.
    """
    first = states[0]
    got = [run for state in states for run in state.runs]
    if len(got) != len(runs) or any(run not in known for run, known in zip(got, runs, strict=True)):
        raise UserError(
            f"{', '.join(map(str, paths))}: belongs to the runs {got}, not to {[min(known) for known in runs]}: "
            "another configuration, data or seeds; use --overwrite to start again"
        )
    for state, path in zip(states, paths, strict=True):
        if state.step != first.step:
            raise UserError(f"{path}: expected a state of step {first.step} as {paths[0]}, got one of {state.step}")
    tensors = {
        k: v if is_shared(k) else torch.cat([s.tensors[k] for s in states])
        for k, v in first.tensors.items()
        if not is_optional(k) or all(k in s.tensors for s in states)
    }
    losses = [s.validation_loss for s in states]
    return State(
        first.step,
        got,
        tensors,
        [monitor for s in states for monitor in s.monitors],
        [loss for part in losses for loss in part or []] or None,
        first.scale_floor,
        first.format,
    )


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 (hex) of all tensors and metadata."""
    h = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        h.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()


def checkpoint_path(folder: Path, config: RunConfig, step: int) -> Path:
    """The bundle after `step` steps in the run folder `folder`; its name includes the round that ends there."""
    ends_round = config.epochs_per_round and step % (config.training_steps // config.num_rounds) == 0
    return TrainingFolder(folder).checkpoint(step, round_of(config, step) if ends_round else 0)


def save_checkpoint(trainer: PackTrainer, folders: Sequence[Path], path: Path) -> None:
    """Save the bundle of each member, then the state, so that a state implies its bundles.

    Must be called on all ranks; rank 0 writes.

    Args:
        trainer: what to save.
        folders: the run folder of each member.
        path: the file of the state.
    """
    if trainer.ranks.rank and not trainer.ranks.sharded:
        return
    bundles, state = [trainer.bundle(m) for m in range(len(folders))], trainer.state()
    if trainer.ranks.rank == 0:
        for bundle, folder in zip(bundles, folders, strict=True):
            bundle.save(checkpoint_path(folder, trainer.config, trainer.step))
        save(path, state)
