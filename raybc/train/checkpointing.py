"""What a training leaves at its stops, written and read here alone: bundles, and the state that it resumes from.

A state is one safetensors file, whole or absent, from which training resumes bit for bit. Its tensors are
`policy/NAME`, `optimizer/NAME/exp_avg` ..., `ema/NAME` and `loss_sum`; release 0.1.0 numbered the parameters instead.
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
from raybc.config import RunConfig, migrate
from raybc.files import replacing
from raybc.train.schedule import LossMonitor, round_of
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.train.loop import PackTrainer


#: The format of a state. 1: release 0.1.0, which did not write it down.
FORMAT = 2


@dataclass(frozen=True)
class State:
    """Everything that a training resumes from."""

    step: int
    """Gradient steps that are done."""
    runs: list[str]
    """The run_id of each member, as it was when the state was saved."""
    tensors: Mapping[str, Tensor]
    """See `is_shared`."""
    monitors: Sequence[LossMonitor]
    """Of each member."""
    validation_loss: list[float] | None
    """Of each member; None where there is no validation split."""
    format: int = FORMAT


def is_shared(name: str) -> bool:
    """Whether a tensor of a state is one for all members; the others have the member axis first."""
    return name.endswith("/step")


def save(path: Path, state: State) -> None:
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.tensors.items()}
    rest = {"monitors": [asdict(m) for m in state.monitors], "validation_loss": state.validation_loss}
    metadata = {
        "format": str(FORMAT), "raybc": __version__, "step": str(state.step), "runs": json.dumps(state.runs),
        "rest": json.dumps(rest),
    }  # fmt: skip
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
        raise UserError(f"{path}: not readable as a training state: it is damaged; use --overwrite to start again")
    version = int(metadata.get("format", "1"))
    if version > FORMAT:
        raise UserError(
            f"{path}: expected a training state of format {FORMAT} or older, got {version}, made by raybc "
            f"{metadata.get('raybc', 'of a newer release')}; install that release or a newer one"
        )
    rest = json.loads(metadata["rest"])
    monitors = [LossMonitor(**row) for row in rest["watches" if version == 1 else "monitors"]]
    runs = json.loads(metadata["runs"])
    return State(int(metadata["step"]), runs, tensors, monitors, rest["validation_loss"], version)


def migrated(state: State, names: Sequence[str], renamed: Mapping[str, str]) -> State:
    """A state with the parameter names of today.

    names: of the parameters, in their order. renamed: beginnings of earlier names (`PolicyConfig.renamed_weights`).
    """
    if state.format == FORMAT and not renamed:
        return state
    weights = [key.removeprefix("policy/") for key in state.tensors if key.startswith("policy/")]
    today = migrate.renamed(weights, renamed)

    def key_of(key: str) -> str:
        kind, _, rest = key.partition("/")
        if kind == "policy":
            return f"policy/{today[rest]}"
        first, slash, last = rest.partition("/")
        if state.format == 1 and kind in ("optimizer", "ema"):
            return f"{kind}/{names[int(first)]}{slash}{last}"
        return key

    return replace(state, tensors={key_of(k): v for k, v in state.tensors.items()}, format=FORMAT)


def joined(states: Sequence[State], paths: Sequence[Path], runs: Sequence[Collection[str]]) -> State:
    """The state of a pack from those of its parts.

    paths: where they were read. runs: the ids under which each member may have been saved. Raises `UserError` where
    the states are not of these runs, or not of one step.
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
    tensors = {k: v if is_shared(k) else torch.cat([s.tensors[k] for s in states]) for k, v in first.tensors.items()}
    losses = [s.validation_loss for s in states]
    return State(
        first.step,
        got,
        tensors,
        [monitor for s in states for monitor in s.monitors],
        [loss for part in losses for loss in part or []] or None,
        first.format,
    )


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over everything in the file."""
    h = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        h.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        h.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()


def checkpoint_name(config: RunConfig, step: int) -> str:
    """checkpoint_STEP; at the end of a round checkpoint_STEP_round_R."""
    name = f"checkpoint_{step}"
    ends_round = config.epochs_per_round and step % (config.training_steps // config.num_rounds) == 0
    return f"{name}_round_{round_of(config, step)}" if ends_round else name


def save_checkpoint(trainer: PackTrainer, folders: Sequence[Path], path: Path) -> None:
    """The bundle of each member, then the state that resumes from there: a state means that its bundles are there.

    Called on every rank, written by the first.
    """
    if trainer.ranks.rank and not trainer.ranks.sharded:
        return
    bundles, state = [trainer.bundle(m) for m in range(len(folders))], trainer.state()
    if trainer.ranks.rank == 0:
        for bundle, folder in zip(bundles, folders, strict=True):
            bundle.save(folder / checkpoint_name(trainer.config, trainer.step))
        save(path, state)
