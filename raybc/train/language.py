"""The embeddings of the instructions of a training, and the weights of their encoder."""

from __future__ import annotations

import dataclasses

from raybc.config import RunConfig
from raybc.config.language import LocalModel
from raybc.data.episodes import EpisodeStore
from raybc.data.instructions import check_instructions
from raybc.files import expanded
from raybc.language.table import Instructions
from raybc.language.transformer import local, sha256_of_model


def instructions_of(config: RunConfig, store: EpisodeStore) -> Instructions | None:
    """The instructions of all episodes and their embeddings; None for a policy that reads none.

    Raises `UserError` for data without instructions, and where the encoder is missing.
    """
    if config.language.kind == "none":
        return None
    check_instructions(config, store)
    return Instructions.of(config.language, store.tasks)


def with_language(config: RunConfig, store: EpisodeStore, resumes: bool = False) -> RunConfig:
    """`config` with the sha256 of the text encoder, if its weights are in a folder.

    resumes: whether a saved run may be continued, for which missing weights are no error here.

    Raises `UserError` for data without instructions, and for missing or other weights.
    """
    check_instructions(config, store)
    language = config.language
    if not isinstance(language, LocalModel):
        return config
    folder = expanded(language.language_model, "language_model")
    if (resumes or language.language_sha256) and not folder.is_dir():
        return config
    local(language)
    found = dataclasses.replace(language, language_sha256=sha256_of_model(folder))
    return dataclasses.replace(config, language=found)


def continued_language(config: RunConfig, saved: RunConfig) -> RunConfig:
    """`config` with the sha256 of the run that it continues, if the folder of its text encoder is missing by now."""
    language, before = config.language, saved.language
    if not isinstance(language, LocalModel) or not isinstance(before, LocalModel) or language.language_sha256:
        return config
    if language.language_model != before.language_model:
        return config
    return dataclasses.replace(config, language=dataclasses.replace(language, language_sha256=before.language_sha256))
