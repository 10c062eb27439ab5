"""Training runs as their folders describe them, without their weights: what a run was, and how it is continued.

`--resume --out RUN` needs no other flag: `Stored` has the options and flags with which the run was started.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raybc.config import Role, RunConfig
from raybc.config.command import last_value
from raybc.config.identity import SCHEMA, identity
from raybc.files import expanded, read_json
from raybc.flags import chosen_switches
from raybc.run_folder import TrainingFolder
from raybc.strict import LISTED
from raybc.types import UserError

#: Keys of flags.json in addition to the options.
_FACTS = ("schema", "raybc", "run_id", "earlier_run_ids", "data_fingerprint", "recipe")
#: Flags of the command, beside the options of a run, that a resumed run keeps.
KEPT = (
    "demos", "num_workers", "min_workers", "parallel", "wandb", "wandb_project", "mlflow", "mlflow_experiment",
)  # fmt: skip
#: Options that name an input -> the option that holds its hash.
HASHED = {
    "init_from": "init_from_sha256",
    "pretrained": "pretrained_sha256",
    "norm_stats_from": "norm_stats_sha256",
    "sampling_plan_path": "sampling_plan_sha256",
    "language_model": "language_sha256",
    "scores_path": "scores_sha256",
}


@dataclass(frozen=True)
class SavedRun:
    """A member's run folder as flags.json describes it."""

    folder: Path
    config: RunConfig
    data_fingerprint: str
    """`EpisodeStore.fingerprint` of the training data."""
    run_ids: tuple[str, ...]
    """The current run_id, then those of earlier releases that its files may carry."""
    recipe: str = ""
    """The recipe that it started from."""

    @classmethod
    def read(cls, folder: Path) -> SavedRun:
        """Raises `UserError` if flags.json is missing, damaged or from a newer release."""
        path = TrainingFolder(folder).flags
        flags, place = read_json(path), f"{path}"
        if not isinstance(flags, dict) or "run_id" not in flags:
            raise UserError(f"{place}: expected the options of a training run, got another JSON file")
        if int(flags.get("schema", 1)) > SCHEMA:
            raise UserError(
                f"{place}: expected schema {SCHEMA} or older, got {flags['schema']}, made by raybc "
                f"{flags.get('raybc', 'of a newer release')}; install that release or a newer one"
            )
        fingerprint = str(flags["data_fingerprint"])
        config = RunConfig.from_plain({k: v for k, v in flags.items() if k not in _FACTS}, place)
        ids = (config.run_id(fingerprint), str(flags["run_id"]), *map(str, flags.get("earlier_run_ids", [])))
        return cls(folder, config, fingerprint, tuple(dict.fromkeys(ids)), str(flags.get("recipe", "")))

    def differences(self, config: RunConfig, fingerprint: str) -> list[str]:
        """Descriptions of what makes `config` a different run; empty for the same run."""
        was, now = identity(self.config), identity(config)
        names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        found = [f"{name}: was {_get(self.config, name)!r}, is {_get(config, name)!r}" for name in names]
        data = self.data_fingerprint != fingerprint
        return found + ([f"the data: was {self.data_fingerprint[:12]}, is {fingerprint[:12]}"] if data else [])

    def output_changes(self, config: RunConfig) -> list[str]:
        """Descriptions of output options that differ; they do not change the identity."""
        was, now = self.config.to_plain(), config.to_plain()
        outputs = [n for n, info in config.options().items() if info.option.role is Role.OUTPUT and n in was]
        return [f"{name}: was {was[name]}, is {now[name]}" for name in outputs if was[name] != now[name]]


def _get(config: RunConfig, name: str) -> Any:
    return config.get(name) if name in config.options() else None


def saved_in(folder: Path) -> list[SavedRun]:
    """The members of the run folder `folder`; empty if it is not a run folder."""
    if TrainingFolder(folder).flags.is_file():
        return [SavedRun.read(folder)]
    return [SavedRun.read(path) for path in sorted(folder.glob("sd*")) if TrainingFolder(path).flags.is_file()]


def latest_runs(place: Path) -> list[Path]:
    """The run folders that training made in `place`, GROUP/ENV_NAME/RUN, the latest first, at most `LISTED`."""
    states = [*place.glob("*/*/*/flags.json"), *place.glob("*/*/*/sd*/flags.json")]
    times = {path: path.stat().st_mtime for path in states}
    folders = [path.parent for path in sorted(times, key=lambda path: times[path], reverse=True)]
    runs = dict.fromkeys(f.parent if len(f.relative_to(place).parts) == 4 else f for f in folders)
    return list(runs)[:LISTED]


@dataclass(frozen=True)
class Stored:
    """How a run was started that a command continues."""

    options: dict[str, Any] = field(default_factory=dict)
    """Option -> value; empty for a new run."""
    seeds: tuple[int, ...] = ()
    """Of a pack of several."""
    flags: tuple[str, ...] = ()
    """Flags of the command that are not among the options."""

    @classmethod
    def of(cls, argv: Sequence[str]) -> Stored:
        """That of the run in --out, if `argv` resumes it. Raises `UserError` if it cannot be read."""
        _, switches = chosen_switches({"resume": "False", "overwrite": False}, argv)
        out = last_value(argv, "out")
        if not out or switches.get("resume", "False") == "False" or switches.get("overwrite") == "True":
            return cls()
        saved = saved_in(expanded(out, "--out"))
        if not saved:
            return cls()
        pack = TrainingFolder(expanded(out)).pack
        order = list(read_json(pack)["members"]) if pack.is_file() else []  # that of the tensors in the state
        seeds = tuple(map(int, order)) or tuple(run.config.seed for run in saved) if len(saved) > 1 else ()
        words = _last_command(saved[0].folder)
        given = {name: last_value(words, name) for name in KEPT}
        flags = tuple(f"--{name}={value}" for name, value in given.items() if value and "***@" not in value)
        options = saved[0].config.to_plain()
        for name, sha256 in HASHED.items():
            named = last_value(argv, name)
            if named and named != options.get(name):  # another input: its hash is another, which is refused by name
                options.pop(sha256, None)
        return cls(options, seeds, flags)


def _last_command(folder: Path) -> list[str]:
    """The words of the command that started or resumed a run last; none of earlier releases."""
    path = TrainingFolder(folder).run_args
    commands = read_json(path).get("commands", []) if path.is_file() else []
    return shlex.split(commands[-1]) if commands else []
