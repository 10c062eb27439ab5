"""Whether data and task have the instructions that a policy reads. It does not import PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.splits import listed
from raybc.types import UserError

#: Instructions that a message shows.
SHOWN = 3


def check_instructions(config: RunConfig, store: EpisodeStore) -> None:
    """Raise `UserError` for data in which an episode has no instruction, if the policy reads them."""
    if config.language.kind == "none":
        return
    expected = f"{store.source}: expected an instruction for each episode with language {config.language.kind}"
    if not any(store.tasks):
        raise UserError(f"{expected}, got none (raybc data info lists them); use --language=none, or other data")
    missing = np.array([episode for episode, text in enumerate(store.tasks) if not text.strip()])
    if len(missing):
        raise UserError(f"{expected}, got none in {len(missing)} episodes ({listed(missing)})")


def check_language(config: RunConfig, store: EpisodeStore, instructions: Mapping[str, str]) -> None:
    """Raise `UserError` for data without instructions, and for a task in which a policy that reads them cannot be
    measured, if it is to be measured.

    instructions: task -> its instruction, "" if it has none.
    """
    check_instructions(config, store)
    if config.language.kind == "none" or not config.eval_interval:
        return
    for task, instruction in instructions.items():
        if not instruction:
            raise UserError(
                f"language: expected a task with an instruction with language {config.language.kind}, and {task} has "
                "none; use --language=none, or --eval_interval=0 and measure with raybc rollout --instruction TEXT"
            )
        if config.language.kind == "one_hot" and instruction not in store.tasks:
            raise UserError(
                f"language: one_hot knows the instructions of its training only, and that of {task}, {instruction!r}, "
                f"is not in {store.source}; use --language=minilm, or --eval_interval=0"
            )


def language_notes(config: RunConfig, store: EpisodeStore) -> tuple[str, ...]:
    """What to know about instructions that are not read; () without a reason."""
    texts = sorted(set(filter(None, store.tasks)))
    if config.language.kind != "none" or len(texts) < 2:
        return ()
    some = ", ".join(map(repr, texts[:SHOWN])) + (", ..." if len(texts) > SHOWN else "")
    return (
        f"the data have {len(texts)} instructions ({some}), which the policy does not read; --language=minilm reads "
        "them",
    )
