"""The text encoder of CLIP (Radford et al. 2021), projected to the space that it shares with images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from raybc.language.transformer import TransformerEncoder, local

if TYPE_CHECKING:
    from raybc.config.language import LocalModel


class CLIPEncoder(TransformerEncoder):
    model_class = "CLIPTextModelWithProjection"
    max_tokens = 77

    def pooled(self, output: Any, mask_1L: Tensor) -> Tensor:
        vector: Tensor = output.text_embeds
        return vector


def build(config: LocalModel) -> CLIPEncoder:
    """Builder of `--language clip`."""
    return CLIPEncoder(*local(config))
