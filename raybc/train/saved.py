"""What is saved of a `PackTrainer`, its state and its policies, and how it is restored. Needs safetensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raybc.bundle import PolicyBundle
from raybc.config import migrate
from raybc.train import checkpointing
from raybc.train.checkpointing import State, is_shared
from raybc.train.dtensor import gather_full, shard_like

if TYPE_CHECKING:
    from raybc.train.loop import PackTrainer


def state_of(trainer: PackTrainer, members: slice) -> State:
    """The state of some members. Must be called on all ranks."""
    tensors = {f"policy/{k}": v for k, v in trainer.learner.state().items()}
    tensors |= {f"optimizer/{k}": v for k, v in trainer.optimizer.tensors().items()}
    tensors |= {"loss_sum": trainer.loss_sum_M, **trainer.epochs.tensors()}
    if trainer.ema is not None:
        tensors |= {f"ema/{k}": v for k, v in zip(trainer.ema.names, trainer.ema.values, strict=True)}
    tensors = {k: v if is_shared(k) else gather_full(v)[members] for k, v in tensors.items()}
    losses = None if trainer.validation_loss is None else trainer.validation_loss[members]
    runs = [config.run_id(trainer.data.fingerprint) for config in trainer.members[members]]
    return State(trainer.step, runs, tensors, trainer.monitors[members], losses, trainer.scale_floor)


def bundle_of(trainer: PackTrainer, m: int, weights: Mapping[str, Tensor]) -> PolicyBundle:
    """Member m as it acts. weights: `PackTrainer.acting_weights`."""
    prepared, data = trainer.prepared, trainer.data
    return PolicyBundle(
        config=trainer.members[m],
        step=trainer.step,
        obs_sizes=prepared.obs_sizes,
        action_size=data.store.actions_NA.shape[1],
        obs_normalizer=prepared.obs_normalizer,
        action_normalizer=prepared.action_normalizer,
        weights={k: v[m : m + 1].detach().cpu().clone() for k, v in weights.items()},
        data_fingerprint=data.fingerprint,
        environment=data.environment,
        data_env=data.store.env_args,
        images=prepared.images,
        instructions=prepared.instructions,
    )


def restore(trainer: PackTrainer, paths: Sequence[Path], saved_as: Sequence[Collection[str]] | None) -> None:
    """See `PackTrainer.load_state`."""
    known = [migrate.known_ids(config, trainer.data.fingerprint) for config in trainer.members]
    known = [ids | set(more) for ids, more in zip(known, saved_as or [()] * len(known), strict=True)]
    saved = checkpointing.joined([checkpointing.load(path) for path in paths], paths, known)
    saved = checkpointing.migrated(saved, list(trainer.learner.parameters()), trainer.config.policy.renamed_weights)
    trainer.rescale(saved.scale_floor)

    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}

    weights, averages = under("policy/"), under("ema/")
    with torch.no_grad():
        for name, value in trainer.learner.state().items():
            value.copy_(shard_like(weights[name], value))
    trainer.optimizer.load(under("optimizer/"))
    if trainer.ema is not None:
        named = trainer.learner.parameters()
        trainer.ema.values = [shard_like(averages[name], named[name].detach()) for name in trainer.ema.names]
    trainer.loss_sum_M = saved.tensors["loss_sum"].to(trainer.device)
    trainer.monitors = list(saved.monitors)
    trainer.epochs.load(saved.tensors, [m.stopped for m in trainer.monitors])
    trainer.validation_loss = saved.validation_loss
    trainer.at_step(saved.step)
