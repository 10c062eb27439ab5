"""Text encoders that the package transformers runs: on the CPU, in float32, one text at a time.

A text alone needs no padding, so its vector does not depend on other texts. Letters: K texts, L tokens, E size.
"""

from __future__ import annotations

import functools
import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raybc.config.language import LocalModel
from raybc.extras import require_extra
from raybc.files import expanded
from raybc.language.base import TextEncoder
from raybc.types import UserError

#: Bytes that are hashed at a time.
BLOCK = 2**22


class TransformerEncoder(TextEncoder):
    """A model of transformers in a folder."""

    model_class: str
    """Class of transformers."""
    padding: bool | str = False
    """`padding` of the tokenizer."""
    max_tokens: int | None = None
    """Length to which texts are cut; None: that of the tokenizer."""

    def __init__(self, folder: Path, identity: str, what: str) -> None:
        """what: the option, for messages."""
        self._folder, self._identity, self._what = folder, identity, what

    @property
    def identity(self) -> str:
        return self._identity

    @abstractmethod
    def pooled(self, output: Any, mask_1L: Tensor) -> Tensor:
        """The vector of a text, (1, E), from the output of the model."""

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any]:
        if not self._folder.is_dir():
            raise UserError(f"{self._what}: {self._folder}: expected a folder with a {self.model_class}, found none")
        transformers = require_extra(self._what, "language", "transformers")[0]
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(self._folder), local_files_only=True)
            # Weights that do not fit are found in the report, which says more than an exception.
            model, report = getattr(transformers, self.model_class).from_pretrained(
                str(self._folder), local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
            )
        except Exception as error:  # whatever transformers raises for a folder that holds something else
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self._what}: {self._folder}: not readable as a {self.model_class} of transformers: {reason}"
            ) from None
        mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
        other = sorted({*report["missing_keys"], *mismatched})
        if other:
            raise UserError(
                f"{self._what}: {self._folder}: expected the weights of a {self.model_class}, got others: {len(other)} "
                f"missing or of another shape, such as {other[0]}"
            )
        return tokenizer, model.eval().requires_grad_(False).float()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        tokenizer, model = self._parts
        found = []
        for text in texts:
            size = {} if self.max_tokens is None else {"max_length": self.max_tokens}
            tokens = tokenizer([text], return_tensors="pt", padding=self.padding, truncation=True, **size)
            mask_1L = tokens.get("attention_mask", torch.ones_like(tokens["input_ids"]))
            with torch.inference_mode():
                found.append(self.pooled(model(**tokens), mask_1L)[0].numpy())
        return np.stack(found).astype(np.float32)


def mean_over_tokens(tokens_1LE: Tensor, mask_1L: Tensor) -> Tensor:
    """The mean of the tokens that are not padding, (1, E)."""
    mask_1L1 = mask_1L[..., None].to(tokens_1LE.dtype)
    return (tokens_1LE * mask_1L1).sum(1) / mask_1L1.sum(1)


def local(config: LocalModel) -> tuple[Path, str, str]:
    """Folder, identity and option of a model in a folder, for `TransformerEncoder`. Raises `UserError` if the weights
    are missing, or not those that are required."""
    folder = expanded(config.language_model, "language_model")
    if config.language_sha256 and not folder.is_dir():  # embeddings of these weights may be known all the same
        return folder, f"{config.kind} {config.language_sha256}", "language_model"
    found = sha256_of_model(folder)
    if config.language_sha256 not in ("", found):
        raise UserError(
            f"language_model: {folder}: expected the weights {config.language_sha256}, got {found}: they have changed "
            "since training started"
        )
    return folder, f"{config.kind} {found}", "language_model"


def sha256_of_model(folder: Path) -> str:
    """The sha256 of all files of weights in a folder. Raises `UserError` without any."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"language_model: {folder}: expected weights (model.safetensors), found none")
    return _sha256(tuple((path, path.stat().st_mtime_ns) for path in files))


@functools.lru_cache(maxsize=8)
def _sha256(files: tuple[tuple[Path, int], ...]) -> str:
    """files: with their times, so that files that have changed are read again."""
    h = hashlib.sha256()
    for path, _ in files:
        with path.open("rb") as handle:
            while block := handle.read(BLOCK):
                h.update(block)
    return h.hexdigest()
