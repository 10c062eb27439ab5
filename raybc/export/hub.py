"""A policy as a repository on the Hugging Face Hub, in a layout that `raybc.load` accepts.

README.md      the model card
replay.mp4     an episode, where one was filmed
.eval_results/ its score, for the Hub (`raybc.export.eval_results`)
winner.json    the sample setting
policy/        the bundle
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.cli import Failed
from raybc.export.card import Evidence, card, evidence_for
from raybc.export.eval_results import FILE, eval_results, why_no_results
from raybc.export.film import REPLAY
from raybc.export.measured import evaluation_of
from raybc.extras import require_extra
from raybc.files import replacing, write_json, write_text
from raybc.find_bundle import find_bundle
from raybc.run_folder import SweepFolder
from raybc.types import SampleSetting, UserError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_name(name: str) -> None:
    """Raise `UserError` if `name` is not OWNER/NAME."""
    if not _NAME.fullmatch(name):
        raise UserError(f"--push_to_hub: expected OWNER/NAME, got {name!r}")


def write_folder(
    folder: Path,
    name: str,
    source: Path,
    bundle: PolicyBundle,
    setting: SampleSetting,
    evidence: Evidence,
    benchmark: str = "",
) -> None:
    """Write the files of the repository `name` to `folder`, atomically. source: the folder of the bundle. benchmark:
    see `eval_results`."""
    with replacing(folder) as temporary:
        shutil.copytree(source, temporary / "policy")
        winner = {"bundle": "policy", "setting": setting.to_plain(), "run_id": bundle.run_id}
        write_json(SweepFolder(temporary).winner_json, winner)
        write_text(temporary / "README.md", card(name, bundle, setting, evidence))
        if evidence.film is not None:
            shutil.copyfile(evidence.film.path, temporary / REPLAY)
        results = eval_results(name, bundle, setting, evidence, benchmark)
        if results:
            (temporary / FILE).parent.mkdir()
            write_text(temporary / FILE, results)


def check_account() -> None:
    """Raise `UserError` if the package is missing or no account is configured."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    (hub,) = require_extra("--push_to_hub", "hub", "huggingface_hub")
    if hub.get_token() is None:
        raise UserError("--push_to_hub: no account is known here; run `hf auth login`, or set HF_TOKEN")


def publish(
    name: str,
    public: bool,
    source: Path,
    bundle: PolicyBundle,
    setting: SampleSetting,
    evidence: Evidence,
    benchmark: str = "",
) -> str:
    """Upload a policy with its model card; returns the URL of the commit. source: the folder of the bundle. benchmark:
    see `eval_results`.

    Raises `cli.Failed` if the Hub refuses.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "upload"
        write_folder(folder, name, source, bundle, setting, evidence, benchmark)
        return push(folder, name, public, f"Policy of run {bundle.run_id}, step {bundle.step}")


def publish_run(name: str, run: Path) -> str:
    """Upload the last policy of a training run, as `raybc export RUN --push_to_hub NAME` does; returns the URL."""
    from raybc.inference.policy import load_bundle

    bundle, setting = load_bundle(run, "", {})
    source, _ = find_bundle(run)
    evaluation = evaluation_of(bundle, setting)
    evidence = evidence_for(source, bundle, setting, evaluation)
    cli.print_notes(why_no_results(bundle.config, evidence, run))
    return publish(name, False, source, bundle, setting, evidence)


def push(folder: Path, name: str, public: bool, message: str) -> str:
    """Create the repository if it does not exist and add `folder` to it; returns the URL of the commit.

    The visibility of an existing repository does not change. Raises `cli.Failed` if the Hub refuses.
    """
    # Imported here, because they belong to the extra that `check_account` checks.
    import httpx2
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="raybc")
    try:
        api.create_repo(name, private=not public, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message=message).commit_url)
    except (OSError, httpx2.HTTPError) as error:  # the Hub's own exceptions are one or the other
        lines = " ".join(str(error).split())
        raise Failed(f"--push_to_hub {name}: {lines or type(error).__name__}") from None
