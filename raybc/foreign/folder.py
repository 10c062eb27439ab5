"""Policies of others as folders of a run: what names one, and copies of its files. Neither torch nor Ray.

policy.json    kind, what follows its prefix, and which of the files it is handed
files/         copies of what it needs
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raybc.files import read_json, replacing, write_json
from raybc.foreign.reference import KINDS, Reference, prefix_of
from raybc.run_folder import POLICY_FILE
from raybc.types import UserError

FORMAT = "raybc-policy-1"
FILES = "files"
#: Kinds whose policy is a file or a folder, which is copied.
OF_FILES = ("onnx", "lerobot")
#: How the names of modules begin that are known by their file only.
OF_FILE = ("raybc_foreign_", "raybc_trainer_")


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a policy of others."""
    return (folder / POLICY_FILE).is_file()


def save(policy: str | Callable[..., Any], files: Path | None, env_name: str, target: Path) -> None:
    """Write a policy to the folder `target`, whole or not at all. Raises `UserError` for what is no policy.

    policy: as typed (`module:my_policy:make`), or the function itself. files: a file or folder that it is handed, as
    `about.argument`. env_name: the environment that it belongs to.
    """
    text = policy if isinstance(policy, str) else name_of(policy)
    kind = prefix_of(text)
    if not kind:
        raise UserError(f"expected one of {', '.join(f'{known}:...' for known in KINDS)}, got {text!r}")
    reference = Reference(kind, text.partition(":")[2])
    if kind in OF_FILES:
        if files is not None:
            raise UserError(f"files: has no effect with {kind}:, whose file is copied")
        files = Path(reference.where)
    elif kind != "module":
        raise UserError(f"expected a policy that can be kept, got {text}, which is on a server")
    if files is not None and not files.exists():
        raise UserError(f"expected files at {files}, found none")
    completed = reference.load_kind().parse(reference)
    if kind == "module":
        completed = dataclasses.replace(completed, folder=_folder_of(completed))
    with replacing(target) as temporary:
        (temporary / FILES).mkdir(parents=True)
        if files is not None:
            copy = shutil.copytree if files.is_dir() else shutil.copy2
            copy(files, temporary / FILES / files.resolve().name)
        where = {} if kind in OF_FILES else {"where": completed.where, "folder": completed.folder}
        handed = files.resolve().name if files is not None else ""
        write_json(
            temporary / POLICY_FILE,
            {"format": FORMAT, "kind": kind, **where, "files": handed, "env_name": env_name},
        )


def reference_of(folder: Path) -> Reference:
    """What simulator processes load the policy in `folder` by. Raises `UserError` for a damaged folder."""
    saved = read_json(folder / POLICY_FILE)
    where = folder / POLICY_FILE
    try:
        if saved["format"] != FORMAT:
            raise UserError(f"{where}: expected format {FORMAT!r}, got {saved['format']!r}")
        found = files_in(folder)
        files = str(found.absolute()) if found is not None else ""
        if saved["kind"] in OF_FILES:
            return Reference(saved["kind"], files)
        return Reference(saved["kind"], saved["where"], files, folder=saved["folder"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{where}: damaged: {error!r}") from None


def reference_at(folder: Path) -> str:
    """`Rollout.policy` of the policy in `folder`: a bundle, or a policy of others."""
    return reference_of(folder).text if is_foreign(folder) else str(folder)


def files_in(folder: Path) -> Path | None:
    """The copy of what the policy in `folder` is handed; None for one that is handed nothing, and for a bundle."""
    if not is_foreign(folder):
        return None
    name = read_json(folder / POLICY_FILE).get("files")
    return folder / FILES / name if name else None


def env_name_of(folder: Path) -> str:
    """The environment that the policy in `folder` belongs to."""
    return str(read_json(folder / POLICY_FILE).get("env_name", ""))


def name_of(function: Callable[..., Any]) -> str:
    """`module:...` of a function that makes a policy. Raises `UserError` for one that no other process finds."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found = sys.modules.get(module or "")
    if found is None or getattr(found, name, None) is not function:
        raise UserError(f"expected a function at the top of a module, which makes the policy, got {function!r:.100}")
    path = getattr(found, "__file__", None)
    spec = getattr(found, "__spec__", None)
    if module == "__main__" or spec is None or spec.name.startswith(OF_FILE):
        return f"module:{path}:{name}"
    return f"module:{module}:{name}"


def _folder_of(reference: Reference) -> str:
    """The folder in which other processes find the module of a reference."""
    top = sys.modules.get(reference.where.rpartition(":")[0].split(".")[0])
    path = getattr(top, "__file__", None)
    if reference.where.rpartition(":")[0].endswith(".py") or path is None:
        return reference.folder
    return str(Path(path).parents[1] if Path(path).name == "__init__.py" else Path(path).parent)
