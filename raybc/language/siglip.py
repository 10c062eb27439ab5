"""The text encoder of SigLIP (Zhai et al. 2023). It was trained on texts padded to full length, without a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from raybc.language.transformer import TransformerEncoder, local

if TYPE_CHECKING:
    from raybc.config.language import LocalModel


class SigLIPEncoder(TransformerEncoder):
    model_class = "SiglipTextModel"
    padding = "max_length"
    max_tokens = 64

    def pooled(self, output: Any, mask_1L: Tensor) -> Tensor:
        vector: Tensor = output.pooler_output
        return vector


def build(config: LocalModel) -> SigLIPEncoder:
    """Builder of `--language siglip`."""
    return SigLIPEncoder(*local(config))
