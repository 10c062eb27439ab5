"""Policies that a trainer hands over, as folders of a run: a bundle as it is, or a description with copies of files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raybc.files import replacing
from raybc.run_folder import BUNDLE_FILE
from raybc.types import UserError

_EXPECTED = "expected the folder of a bundle"


def hand_over(policy: Path | str, options: Mapping[str, Any], target: Path, where: str) -> None:
    """Copy a policy to `target`, whole or not at all. Raises `UserError` for what is no policy.

    policy, options: see `TrainerJob.report`.
    """
    if isinstance(policy, str | Path) and (Path(policy) / BUNDLE_FILE).is_file():
        if options:
            raise UserError(f"{where}: {next(iter(options))}: has no effect with a bundle")
        with replacing(target) as temporary:
            shutil.copytree(policy, temporary)
        return
    raise UserError(f"{where}: {_EXPECTED}, got {policy!r:.200}")


def reference(folder: Path) -> str:
    """What simulator processes load a handed-over policy by."""
    return str(folder)
