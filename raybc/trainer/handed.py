"""Policies that a trainer hands over, as folders of a run: a copy of a bundle, or a policy of others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raybc.files import replacing
from raybc.foreign import folder
from raybc.run_folder import BUNDLE_FILE
from raybc.types import UserError

Handed = Path | str | Callable[..., Any]
_EXPECTED = "expected the folder of a bundle, a function that makes a policy, or a text such as module:my_policy:make"


def hand_over(policy: Handed, files: Path | str | None, env_name: str, target: Path, where: str) -> None:
    """Write a policy to `target`, whole or not at all. Raises `UserError` for what is no policy.

    policy, files: see `TrainerJob.report`. env_name: the environment that it belongs to. where: for messages.
    """
    if isinstance(policy, str | Path) and (Path(policy) / BUNDLE_FILE).is_file():
        if files is not None:
            raise UserError(f"{where}: files: has no effect with a bundle")
        with replacing(target) as temporary:
            shutil.copytree(policy, temporary)
        return
    if not (callable(policy) or (isinstance(policy, str) and ":" in policy)):
        raise UserError(f"{where}: {_EXPECTED}, got {str(policy)!r:.200}")
    try:
        folder.save(policy, Path(files) if files is not None else None, env_name, target)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
