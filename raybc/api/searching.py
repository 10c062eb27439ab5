"""`raybc.sweep`: what `raybc sweep` does."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

from raybc.api.calls import Data, Resume, arguments, called, folder_of, path_of, plain
from raybc.api.sweeps import Sweep
from raybc.default_folder import existing_or_safe
from raybc.run_folder import SweepFolder
from raybc.sweep.__main__ import Args, search, sweep_of
from raybc.sweep.config import SweepConfig
from raybc.sweep.load import sweep_from_mapping
from raybc.types import UserError


def sweep(
    config: str | PathLike[str] | Mapping[str, Any] | None = None,
    *,
    data: Data | None = None,
    task: str = "",
    set: Mapping[str, Any] | None = None,
    out: str | PathLike[str] | None = None,
    resume: Resume = "auto",
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Sweep:
    """Search recipes, as `raybc sweep` does: prune them on rollout success, measure the best on starts that chose
    nothing.

    Trials and simulators run in processes of their own. A Ray that runs already is used and left running; otherwise one
    is started for this call. Calling it again continues a sweep that was interrupted; no finished trial is run again.

    Args:
        config: a sweep file, `quickstart` or `pointmass`, or a mapping with the keys of such a file (default:
            quickstart).
        data: short for the key `train.dataset`, as for `raybc.fit`.
        task: short for the key `train.env_name`.
        set: values in place of the file's, by keys such as `search.trials`.
        out: the run folder (default: runs/NAME).
        resume: "auto" continues what is there and begins otherwise; a sweep with other keys is refused, and the
            differences are named. False refuses a folder that exists. True continues the sweep in `out` as it was
            started, if no config is given.
        overwrite: replace the sweep in `out`.
        quiet: print nothing.
        options: every flag of `raybc sweep`, by its name: `cpus=2`, `max_concurrent=1`, `wandb="online"`.

    Raises `UserError` for what cannot be searched, `raybc.cli.Failed` where it fails on the way, and
    `raybc.cli.Interrupted` where it was interrupted.

    For example:

        raybc.sweep(
            {
                "name": "mine",
                "train": {"env_name": "lift-scripted-low_dim", "training_steps": 600, "action_chunking": True},
                "space": {"lr": {"low": 3e-5, "high": 1e-2, "log": True}, "horizon_length": {"values": [4, 8, 16]}},
                "search": {"trials": 10},
            }
        )
    """
    with called(quiet):
        values = dict(set or {})
        if data is not None:
            values["train.dataset"] = path_of(data, "data")
        if task:
            values["train.env_name"] = task
        given = {"resume": resume, "overwrite": overwrite, **options}
        folder = folder_of(out)
        if isinstance(config, Mapping):
            args = arguments(Args, given)
            found = sweep_from_mapping(plain(config), "config", _overrides(values, args))
            place = SweepFolder(folder or existing_or_safe(Path("runs"), found.name))
            return _searched(None, found, place, args)
        given |= {} if config is None else {"sweep": _file(config)}
        given |= {} if folder is None else {"out": folder}
        args = arguments(Args, given)
        return _searched(*sweep_of(args, _overrides(values, args)), args)


def _searched(path: Path | None, config: SweepConfig, place: SweepFolder, args: Args) -> Sweep:
    from raybc.dashboard.state import resume_command

    # What a shell can type; sys.argv would be that of a notebook's kernel.
    command = f"{resume_command('sweep', place.path)}  # begun by raybc.sweep in Python"
    folder = search(path, config, place, args, command)
    if folder is None:
        raise UserError("check: expected False; `raybc sweep FILE --check` checks a file")
    return Sweep(folder)


def _overrides(values: Mapping[str, Any], args: Args) -> list[str]:
    """KEY=VALUE of each value, as the command reads them: JSON is YAML."""
    found = [f"{key}={json.dumps(plain(value))}" for key, value in values.items()]
    return found + ([f"search.max_concurrent={args.max_concurrent}"] if args.max_concurrent is not None else [])


def _file(config: str | PathLike[str]) -> str:
    """The file of a sweep: that path, or the one of this name that raybc has."""
    path = Path(os.fspath(config))
    own = Path(str(files("raybc.sweeps") / f"{path}.yaml"))
    return str(own if not path.exists() and path.parent == Path() and own.is_file() else path)
