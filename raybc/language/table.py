"""`Instructions`: texts and their vectors, which are part of a policy, so that acting needs no text model.

    instructions.safetensors    the vectors, float32 (K, E); the texts are in bundle.json

Vectors are computed once per text and encoder, and kept in raybc's cache. Letters: K texts, B batch, E size.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raybc.config import LanguageConfig
from raybc.files import home, replacing
from raybc.language.base import TextEncoder, scaled
from raybc.strict import did_you_mean
from raybc.types import UserError


@dataclass(frozen=True)
class Instructions:
    """The instructions that a policy knows."""

    config: LanguageConfig
    """The encoder."""
    texts: tuple[str, ...]
    """Different texts, sorted."""
    vectors_KE: np.ndarray
    """float32 (K, E), with a root mean square of 1."""

    @classmethod
    def of(cls, config: LanguageConfig, texts: Sequence[str]) -> Instructions:
        """Embed texts. Raises `UserError` if the encoder is missing."""
        known = tuple(sorted(set(texts)))
        encoder: TextEncoder = _encoder(config)
        return cls(config, known, scaled(_cached(encoder, known) if encoder.is_open else encoder.embed(known)))

    @property
    def size(self) -> int:
        """E."""
        return int(self.vectors_KE.shape[1])

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """The number of each text among `texts` of this table, int64. Raises `KeyError` for others."""
        place = {text: k for k, text in enumerate(self.texts)}
        return np.array([place[text] for text in texts], np.int64)

    def embed(self, texts: Sequence[str], where: str = "instruction") -> np.ndarray:
        """The vectors of any texts, float32 (B, E).

        where: for messages. Raises `UserError` for a text that is not known and that the encoder cannot embed, or where
        the encoder is missing.
        """
        place = {text: k for k, text in enumerate(self.texts)}
        return np.stack([self.vectors_KE[place[t]] if t in place else self._new(t, where) for t in texts])

    def _new(self, text: str, where: str) -> np.ndarray:
        known = f"expected one of {len(self.texts)} known instructions, got {text!r}; {did_you_mean(text, self.texts)}"
        try:
            encoder: TextEncoder = _encoder(self.config)
            if encoder.is_open:
                vector_E: np.ndarray = scaled(_cached(encoder, (text,)))[0]
                return vector_E
        except UserError as error:
            raise UserError(f"{where}: {known} (others cannot be embedded: {error})") from None
        raise UserError(f"{where}: {known} ({self.config.kind} knows those of its training only)")


@functools.lru_cache(maxsize=4)
def _encoder(config: LanguageConfig) -> TextEncoder:
    encoder: TextEncoder = config.build(config)
    return encoder


#: (identity of an encoder, text) -> vector, in this process.
_KEPT: dict[tuple[str, str], np.ndarray] = {}


def _cached(encoder: TextEncoder, texts: Sequence[str]) -> np.ndarray:
    """`encoder.embed(texts)`, where each text is embedded once per machine."""
    missing = [text for text in texts if (encoder.identity, text) not in _KEPT]
    for text in missing:
        with contextlib.suppress(OSError, ValueError):  # missing or damaged: it is computed
            _KEPT[encoder.identity, text] = np.load(_file(encoder.identity, text), allow_pickle=False)
    missing = [text for text in missing if (encoder.identity, text) not in _KEPT]
    if missing:
        for text, vector_E in zip(missing, encoder.embed(missing), strict=True):
            _KEPT[encoder.identity, text] = vector_E
            with contextlib.suppress(OSError):  # a cache that cannot be written costs time, no more
                path = _file(encoder.identity, text)
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as temporary, temporary.open("wb") as handle:
                    np.save(handle, vector_E)
    return np.stack([_KEPT[encoder.identity, text] for text in texts])


def _file(identity: str, text: str) -> Path:
    def digest(words: str) -> str:
        return hashlib.sha256(words.encode()).hexdigest()[:32]

    return home() / "instructions" / digest(identity) / f"{digest(text)}.npy"
