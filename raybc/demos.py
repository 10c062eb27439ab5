"""Demonstrations of a scripted expert: `python -m raybc.demos lift --episodes 100`.

Each episode is written to its own file as soon as it is done, so that a run that was stopped goes on where it was;
the robomimic HDF5 file is then made in one step. The default place is named by what decides the contents (task,
expert's code, versions, numbers), so the same demonstrations are never made twice.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tyro

from raybc import cli
from raybc.config import DemosConfig, RunConfig
from raybc.data.formats import ogbench, robomimic
from raybc.data.names import is_published, obtain, resolve
from raybc.envs.base import EnvName, SimEnv, Task
from raybc.files import free_space_for, home, replacing
from raybc.registry import get_task, parse_env_name
from raybc.strict import digest
from raybc.types import EpisodeResult, EpisodeSpec, UserError

#: Attempts for one kept demonstration before the expert is called broken.
MAX_ATTEMPTS = 2
#: Rough size of a low-dim demonstration, for the check of free disk.
MEGABYTES_PER_100 = 20


def check_source(name: EnvName, dataset: str) -> None:
    """Refuse to train where it is not said what on: a dataset is named, the task's expert can demonstrate, or the name
    is that of published data. Looks at no file and no network."""
    if dataset or _is_scripted(name) or is_published(name.name):
        return
    kind = f"the data {name.data!r} of" if name.data else "no data is named by"
    raise UserError(
        f"{name}: {kind} this environment name, so where it lies must be said: --dataset PATH (in a sweep: "
        "train.dataset), in any format of docs/data.md"
    )


def _is_scripted(name: EnvName) -> bool:
    return name.data == "scripted" and get_task(name.task).make_expert is not None


def source_of(config: RunConfig, demos: DemosConfig) -> tuple[Path, DemosPlan | None]:
    """Where the data of a training lie: those that are named (downloaded where they are published and not here), or
    those of the scripted expert, with the plan by which they are made (and perhaps not made yet)."""
    name = parse_env_name(config.env_name)
    check_source(name, config.dataset or config.ogbench_dataset_dir)
    if config.dataset:
        return obtain(config.dataset), None
    if config.ogbench_dataset_dir:
        folder = Path(config.ogbench_dataset_dir)
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
    plan = DemosPlan(name.task, demos)
    path = plan.default_path()
    is_ready(plan, path)  # refuses a damaged one now
    return path, plan


OnProgress = Callable[[int, int], None]


def demonstrate(task: Task, env: SimEnv, spec: EpisodeSpec, noise: float, folder: Path) -> dict[str, Any]:
    """Let the expert solve one start and write the episode to `folder`; returns its row. A finished one is kept."""
    path = folder / f"episode_{spec.index:06d}.npz"
    if path.exists():
        part = read_part(path)
        if part is not None:
            return part.row
    assert task.make_expert is not None
    obs, _ = env.reset(seed=spec.seed)
    expert = task.make_expert(env, np.random.default_rng([spec.seed, 2]), noise)
    trail: list[tuple[Any, ...]] = []
    outcome = "timeout"
    while outcome == "timeout" and len(trail) < task.max_steps:
        state = env.sim_state()
        action = expert.act(obs)
        next_obs, reward, terminated, _, info = env.step(action)
        done = bool(info["success"] or terminated)
        trail.append((obs, next_obs, action, reward, done, state))
        obs = next_obs
        if done:
            outcome = "success" if info["success"] else "failure"
    row = EpisodeResult(
        spec.index,
        spec.seed,
        outcome,  # type: ignore[arg-type]
        float(sum(t[3] for t in trail)),
        len(trail),
        0.0,
    ).to_row()
    arrays: dict[str, np.ndarray] = {
        "actions": np.array([t[2] for t in trail], np.float32),
        "rewards": np.array([t[3] for t in trail], np.float32),
        "dones": np.array([t[4] for t in trail], np.int64),
        "states": np.array([t[5] for t in trail], np.float64),
    }
    for key in obs:
        arrays[f"obs/{key}"] = np.array([t[0][key] for t in trail])
        arrays[f"next_obs/{key}"] = np.array([t[1][key] for t in trail])
    arrays["row"] = np.array(json.dumps(row))
    arrays["env_args"] = np.array(json.dumps(env.env_args()))
    arrays["model_xml"] = np.array(env.model_xml() if hasattr(env, "model_xml") else "")
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, **arrays)
    return row


@dataclass(frozen=True)
class Part:
    """One episode as it lies on disk until the file of all is made."""

    demo: robomimic.Demo
    row: dict[str, Any]
    env_args: dict[str, Any]


def read_part(path: Path) -> Part | None:
    """An episode file; None when it is damaged (it is then made again)."""
    try:
        with np.load(path, allow_pickle=False) as part:
            row = json.loads(str(part["row"]))
            demo = robomimic.Demo(
                obs={k[4:]: part[k] for k in part.files if k.startswith("obs/")},
                next_obs={k[9:]: part[k] for k in part.files if k.startswith("next_obs/")},
                actions=part["actions"],
                rewards=part["rewards"],
                dones=part["dones"],
                states=part["states"],
                seed=row["seed"],
                model_xml=str(part["model_xml"]),
            )
            return Part(demo, row, json.loads(str(part["env_args"])))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


@dataclass(frozen=True)
class DemosPlan:
    """Which demonstrations, and what decides their contents."""

    task: str
    config: DemosConfig
    keep_failures: bool = False

    def key(self) -> str:
        """Digest of everything that the contents depend on: numbers, the code of the adapter, versions."""
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
                "versions": _versions(task.suite),
            }
        )

    def default_path(self) -> Path:
        name = re.sub(r"[^\w.-]+", "_", self.task)  # "module:ATTRIBUTE" is no name of a folder
        return home() / "demos" / f"{name}-scripted-{self.key()[:12]}" / "demos.hdf5"

    def specs(self, first: int, count: int) -> list[EpisodeSpec]:
        return [EpisodeSpec(self.task, "demos", self.config.seed + i) for i in range(first, first + count)]


def _modules(task: Task) -> list[ModuleType]:
    """The modules of the adapter and of the expert (`functools.partial` and callable objects hide them)."""
    modules = []
    for made in (task.make, task.make_expert):
        while isinstance(made, functools.partial):
            made = made.func
        module = inspect.getmodule(made) or inspect.getmodule(type(made))
        if module is not None and module not in modules:
            modules.append(module)
    return modules


def _versions(suite: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in (suite, "mujoco", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = ""
    return versions


def is_ready(plan: DemosPlan, path: Path) -> bool:
    """Whether `path` holds exactly these demonstrations. Another file there is refused, never replaced."""
    if not path.exists():
        return False
    if _recorded_key(path) == plan.key():
        return True
    raise UserError(f"{path}: exists and was made otherwise; delete it, use --overwrite, or choose another --out")


def _recorded_key(path: Path) -> str:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return str(file["data"].attrs.get("raybc_key", ""))
    except (OSError, KeyError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run the same command again") from None


def generate(plan: DemosPlan, path: Path, pool: Any, on_progress: OnProgress | None = None) -> dict[str, int]:
    """Make the demonstrations with the simulators of `pool` (`RolloutPool`); returns attempts and successes.

    Starts are tried in order; the first `episodes` successes are kept, whatever the number of workers.
    """
    import ray

    from raybc.rollout.engine import Demonstration

    wanted = plan.config.episodes
    free_space_for(path.parent, 50 + MEGABYTES_PER_100 * wanted // 100)
    parts = path.parent / f"{path.name}.parts-{plan.key()[:12]}"
    parts.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    kept = 0
    while kept < wanted and len(rows) < MAX_ATTEMPTS * wanted + 10:
        count = math.ceil(1.02 * (wanted - kept))
        before = pool.stats()["episodes"]
        work = Demonstration(str(parts), plan.config.noise)
        ref = pool.submit(f"demos/{path}/{len(rows)}", [work], plan.specs(len(rows), count))
        while not ray.wait([ref], timeout=0.3)[0]:
            if on_progress is not None:
                on_progress(len(rows) + pool.stats()["episodes"] - before, wanted)
        rows += ray.get(ref)[0]
        errors = [r for r in rows if r["outcome"] == "error"]
        if errors:
            raise cli.Failed(f"the simulator failed at start {errors[0]['seed']}: {errors[0]['message']}")
        kept = len(rows) if plan.keep_failures else sum(r["outcome"] == "success" for r in rows)
    if kept < wanted:
        raise cli.Failed(
            f"{plan.task}: the expert solved {kept} of {len(rows)} starts, fewer than the {wanted} demonstrations asked"
        )
    chosen = [r for r in rows if plan.keep_failures or r["outcome"] == "success"][:wanted]
    made = []
    for row in chosen:
        part = read_part(parts / f"episode_{row['index']:06d}.npz")
        if part is None:
            raise cli.Failed(f"{parts}: episode {row['index']} was damaged after it was written; run the command again")
        made.append(part)
    successes = sum(r["outcome"] == "success" for r in rows)
    attributes = {"raybc_key": plan.key(), "expert_attempts": len(rows), "expert_successes": successes}
    robomimic.write(path, [p.demo for p in made], made[0].env_args, attributes)
    shutil.rmtree(parts)
    return {"attempts": len(rows), "successes": successes, "steps": sum(len(p.demo.actions) for p in made)}


@dataclass(frozen=True)
class Args(DemosConfig):
    """Let a task's scripted expert demonstrate; write robomimic HDF5."""

    task: tyro.conf.Positional[str] = "lift"
    """A task with an expert: lift, can, square, pointmass, cube-single-singletask-v0, metaworld-reach-v3, ..."""
    out: Path | None = None
    """The HDF5 file to write; default: in raybc's cache, where sweeps and training look for it."""
    keep_failures: bool = False
    """Also keep episodes that the expert did not solve."""
    workers: int = 0
    """Simulator processes (0: one for each core)."""
    overwrite: bool = False
    """Replace an existing file."""
    address: str = ""
    """A running Ray cluster; default: a local Ray."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.demos", Args.__doc__ or "")
    config = DemosConfig(args.episodes, args.noise, args.seed)
    config.validate("--")
    task = get_task(args.task)
    if task.make_expert is None:
        raise UserError(f"task {args.task!r} has no scripted expert")
    plan = DemosPlan(args.task, config, args.keep_failures)
    path = args.out or plan.default_path()
    if path.suffix not in (".hdf5", ".h5"):
        path = path / "demos.hdf5"
    if args.overwrite:
        path.unlink(missing_ok=True)
    if is_ready(plan, path):
        cli.console.print(f"already made: {path}")
        return 0
    _generate_with_progress(plan, path, args)
    return 0


def _generate_with_progress(plan: DemosPlan, path: Path, args: Args) -> None:
    from rich.progress import Progress

    from raybc.cluster import plan_workers, ray_session
    from raybc.rollout.pool import RolloutPool

    with ray_session(args.address) as cpus:
        workers = plan_workers(cpus, trials=0, trial_cpus=0, workers=args.workers, worker_cpus=1.0)
        with (
            RolloutPool.start(args.task, workers, worker_cpus=1.0) as pool,
            Progress(console=cli.console) as progress,
        ):
            bar = progress.add_task(f"{args.task} demonstrations", total=plan.config.episodes)
            made = generate(plan, path, pool, lambda done, total: progress.update(bar, completed=min(done, total)))
            progress.update(bar, completed=plan.config.episodes)
    cli.console.print(
        f"{plan.config.episodes} demonstrations ({made['steps']} steps) in {path}; the expert solved "
        f"{made['successes']} of {made['attempts']} starts"
    )


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
