"""A policy as a repository of the Hugging Face Hub, in a layout that `raybc.load` takes.

README.md      the model card
winner.json    the sample setting it acts with
policy/        the bundle
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path

from raybc.bundle import PolicyBundle
from raybc.cli import Failed
from raybc.export.card import Measured, card
from raybc.extras import require_extra
from raybc.files import replacing, write_json, write_text
from raybc.types import SampleSetting, UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"--push_to_hub: expected OWNER/NAME, got {name!r}")


def write_folder(
    folder: Path, name: str, source: Path, bundle: PolicyBundle, setting: SampleSetting, measured: Measured
) -> None:
    """What is uploaded: whole or not at all. source: the folder of the bundle."""
    with replacing(folder) as temporary:
        shutil.copytree(source, temporary / "policy")
        winner = {"bundle": "policy", "setting": dataclasses.asdict(setting), "run_id": bundle.run_id}
        write_json(temporary / "winner.json", winner)
        write_text(temporary / "README.md", card(name, bundle, setting, measured))


def check_account() -> None:
    """`UserError` where the package is missing, or no account is known."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    (hub,) = require_extra("--push_to_hub", "hub", "huggingface_hub")
    if hub.get_token() is None:
        raise UserError("--push_to_hub: no account is known here; run `hf auth login`, or set HF_TOKEN")


def push(folder: Path, name: str, public: bool, message: str) -> str:
    """Make the repository where there is none, and add `folder` to it; the address of the commit.

    An existing repository stays as public or private as it is. `cli.Failed` where the Hub refuses."""
    import httpx2
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="raybc")
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message).commit_url)
    except (OSError, httpx2.HTTPError) as error:  # the Hub's own errors are both
        lines = " ".join(str(error).split())
        raise Failed(f"--push_to_hub {name}: {lines or type(error).__name__}") from None
