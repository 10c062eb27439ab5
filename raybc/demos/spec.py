"""Which demonstrations a training run uses and where they are: a dataset, or those of a task's scripted expert.

The default path of generated demonstrations contains a digest of everything that decides their contents (task, the
expert's code, versions, numbers), so the same demonstrations are never made twice.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from raybc.config import DemosConfig, RunConfig
from raybc.data.formats import containers, ogbench
from raybc.data.names import is_published, obtain, resolve
from raybc.demos.record import demonstrate
from raybc.env.remote import ExpertElsewhere, MakeElsewhere
from raybc.envs.base import EnvName, Task
from raybc.envs.variant import with_limit
from raybc.files import expanded, home
from raybc.registry import get_task, parse_env_name
from raybc.strict import digest
from raybc.types import EpisodeSpec, UserError


def check_source(name: EnvName, dataset: str) -> None:
    """Refuse to train without data: a dataset must be named, the task must have an expert, or the environment's name
    must be that of published data. Reads no file and uses no network."""
    if dataset or _is_scripted(name) or is_published(name.name):
        return
    kind = f"the data {name.data!r} of" if name.data else "no data is named by"
    raise UserError(
        f"{name}: {kind} this environment name, so its path is needed: --dataset PATH (in a sweep: "
        "train.dataset), in any format of docs/data.md"
    )


def _is_scripted(name: EnvName) -> bool:
    return name.data == "scripted" and get_task(name.task).make_expert is not None


def source_of(config: RunConfig, demos: DemosConfig) -> tuple[Path, DemosSpec | None]:
    """The path of the data for a training run: a named dataset (downloaded if it is published and missing here), or
    demonstrations of the scripted expert, which may not exist yet, with the spec by which to make them."""
    name = parse_env_name(config.env_name)
    check_source(name, config.dataset or config.ogbench_dataset_dir)
    if config.dataset:
        return obtain(config.dataset), None
    if config.ogbench_dataset_dir:
        folder = expanded(config.ogbench_dataset_dir, "ogbench_dataset_dir")
        path = folder / resolve(config.env_name).path.name
        if path.exists():
            return path, None
        if ogbench.matches(folder):  # the files of one large set
            return folder, None
        raise UserError(
            f"ogbench_dataset_dir: expected the data of {name} at {path}, or a folder of the npz files of one set, "
            "found neither"
        )
    if not _is_scripted(name):
        return obtain(config.env_name), None
    spec = DemosSpec(with_limit(name.task)[0], demos)
    path = spec.default_path()
    is_ready(spec, path)  # refuses a damaged file now
    return path, spec


@dataclass(frozen=True)
class DemosSpec:
    """Everything that decides the contents of generated demonstrations."""

    task: str
    config: DemosConfig
    keep_failures: bool = False

    def key(self) -> str:
        """Digest of everything that the contents depend on: numbers, the adapter's code, versions."""
        task = get_task(self.task)
        source = "".join(inspect.getsource(module) for module in _modules(task))
        return digest(
            {
                "task": self.task,
                "max_steps": task.max_steps,
                "episodes": self.config.episodes,
                "noise": self.config.noise,
                "seed": self.config.seed,
                "keep_failures": self.keep_failures,
                "code": hashlib.sha256((source + inspect.getsource(demonstrate)).encode()).hexdigest(),
                "versions": _versions(task),
            }
        )

    def default_path(self) -> Path:
        name = re.sub(r"[^\w.-]+", "_", self.task)  # "module:ATTRIBUTE" is not a folder name
        return home() / "demos" / f"{name}-scripted-{self.key()[:12]}" / "demos.hdf5"

    def specs(self, first: int, count: int) -> list[EpisodeSpec]:
        return [EpisodeSpec(self.task, "demos", self.config.seed + i) for i in range(first, first + count)]


def _modules(task: Task) -> list[ModuleType]:
    """The modules of the adapter and of the expert, also behind `functools.partial` and callable objects (and what
    these name as their `parts`), and those that they name as `DEMOS_ALSO`."""
    modules: list[ModuleType] = []
    makers: list[Any] = [task.make, task.make_expert]
    for made in makers:
        while isinstance(made, functools.partial | MakeElsewhere | ExpertElsewhere):
            made = made.func
        makers.extend(getattr(made, "parts", ()))
        module = inspect.getmodule(made) or inspect.getmodule(type(made))
        for each in (module, *getattr(module, "DEMOS_ALSO", ())):
            if each is not None and each not in modules:
                modules.append(each)
    return modules


def _versions(task: Task) -> dict[str, str]:
    if task.environment is not None:
        return {"environment": task.environment.key}
    versions = {}
    for package in (task.suite, "mujoco", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = ""
    return versions


def is_ready(spec: DemosSpec, path: Path) -> bool:
    """Whether `path` contains exactly these demonstrations. Any other file is refused, never replaced."""
    if not path.exists():
        return False
    if _recorded_key(path) == spec.key():
        return True
    raise UserError(f"{path}: exists and has other contents; delete it, use --overwrite, or choose another --out")


def check_overwritable(path: Path) -> None:
    """Raise `UserError` unless `--overwrite` may replace `path`: there is no such file, or raybc recorded it."""
    if path.exists() and not _recorded_key(path):
        raise UserError(
            f"{path}: --overwrite replaces demonstrations that raybc recorded, and this file has others; nothing was "
            "deleted: choose another --out"
        )


def _recorded_key(path: Path) -> str:
    try:
        with containers.opened_hdf5(path, "HDF5") as file:
            return str(file["data"].attrs.get("raybc_key", ""))
    except UserError as error:
        raise UserError(f"{error}; delete it and run the same command again") from None
