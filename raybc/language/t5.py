"""The encoder of T5 (Raffel et al. 2020), averaged over tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from raybc.language.transformer import TransformerEncoder, local, mean_over_tokens

if TYPE_CHECKING:
    from raybc.config.language import LocalModel


class T5Encoder(TransformerEncoder):
    model_class = "T5EncoderModel"

    def pooled(self, output: Any, mask_1L: Tensor) -> Tensor:
        return mean_over_tokens(output.last_hidden_state, mask_1L)


def build(config: LocalModel) -> T5Encoder:
    """Builder of `--language t5`."""
    return T5Encoder(*local(config))
