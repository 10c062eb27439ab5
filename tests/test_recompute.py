"""Activation checkpointing: the same training to the bit with less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from raybc.train.loop import PackTrainer
from raybc.types import UserError
from tests.helpers import tiny_trainer
from tests.test_feed import same, weights

TRANSFORMER = {"policy": "flow_transformer", "transformer_layers": 3, "transformer_heads": 2, "transformer_width": 8}
UNET = {"policy": "flow_unet", "unet_channels": "8,16", "unet_groups": 4}


def kept(trainer: PackTrainer) -> int:
    """Bytes of tensors that the forward pass of a step keeps for the backward pass."""
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.advance(trainer.step + 1)
    return sum(found.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("options", [TRANSFORMER, UNET], ids=["transformer", "unet"])
def test_the_same_policies_with_less_memory(options: dict[str, Any], precision: str) -> None:
    options = {**options, "precision": precision, "training_steps": 6, "batch_size": 32}
    plain = tiny_trainer((0, 1), **options)
    less = tiny_trainer((0, 1), activation_checkpointing=True, **options)
    before, after = kept(plain), kept(less)
    assert after < 0.9 * before  # a sixth and a quarter at usual sizes (docs/training.md)
    plain.advance(6)
    less.advance(6)
    assert same(weights(plain), weights(less))
    assert plain.config.run_id("data") == less.config.run_id("data")
    assert less.bundle(0).weights.keys() == plain.bundle(0).weights.keys()


def test_a_state_is_resumed_with_or_without(tmp_path: Any) -> None:
    whole = tiny_trainer((0,), training_steps=6, **TRANSFORMER)
    whole.advance(6)
    first = tiny_trainer((0,), training_steps=6, activation_checkpointing=True, **TRANSFORMER)
    first.advance(3)
    first.save_state(tmp_path / "state.safetensors")
    second = tiny_trainer((0,), training_steps=6, **TRANSFORMER)
    second.load_state(tmp_path / "state.safetensors")
    second.advance(6)
    assert same(weights(whole), weights(second))


def test_what_has_no_such_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"^activation_checkpointing: expected a policy with a transformer or a U-Net"):
        tiny_trainer((0,), activation_checkpointing=True)
