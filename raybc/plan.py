"""Sampling plans: `python -m raybc.plan build --dataset demos.hdf5 --num-episodes-keep 10 --out-dir plans/ten`.

build creates a plan for a dataset, verify checks a plan, show prints it and writes a page.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raybc import cli
from raybc.config import DemosConfig, RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.formats.options import Keys
from raybc.data.idle import without_idle
from raybc.data.load import read_for
from raybc.data.names import obtain, resolve
from raybc.data.plan.build import build_plan
from raybc.data.plan.config import PlanConfig
from raybc.data.plan.files import PAGE, load_plan, plan_folder, save_plan
from raybc.data.plan.plan import SamplingPlan
from raybc.data.plan.verify import check_dataset, check_rebuilt, check_training
from raybc.data.scores import Scores, load_scores
from raybc.types import UserError


@dataclass(frozen=True)
class Data:
    """A dataset with its names."""

    store: EpisodeStore
    names: tuple[str, ...]
    """env_name if given, and the name of the file."""
    state_keys: tuple[str, ...]
    """The observations of the task; empty if no task is given."""


@dataclass(frozen=True)
class ReadArgs:
    """How the data are read: as in the training that uses the plan."""

    skip_bad_episodes: bool = False
    """Leave out episodes that cannot be read."""
    drop_idle: bool = False
    """Leave out idle steps."""
    keep_idle: int = 0
    """With --drop_idle: number of idle steps that stay at the beginning of each pause."""
    action_key: str = ""
    """Name of the action in the data (empty: the usual names)."""
    obs_keys: str = ""
    """Observations to read, separated by commas (empty: all)."""


def open_data(env_name: str, dataset: str, demos: int, read: ReadArgs) -> Data:
    """Open the dataset of `env_name`, or the file or published name `dataset`.

    demos: number of demonstrations, if env_name uses scripted data. Raises `UserError` if there is no such dataset.
    """
    if not env_name:
        if not dataset:
            raise UserError("expected --dataset PATH or --env_name NAME, which say what the plan is of; got neither")
        path = obtain(dataset)
        keys = Keys.of(read.action_key, read.obs_keys)
        task = resolve(dataset).task
        store = read_for(path, task, skip_bad_episodes=read.skip_bad_episodes, keys=keys)
        return Data(without_idle(store, read.keep_idle) if read.drop_idle else store, (path.name,), ())
    from raybc.demos.spec import source_of  # imports the adapter of a simulator, so only if a task is given
    from raybc.registry import get_task, parse_env_name
    from raybc.train.source import read_data

    task = parse_env_name(env_name).task
    config = RunConfig(env_name=env_name, dataset=dataset, **dataclasses.asdict(read))
    path, _ = source_of(config, DemosConfig(episodes=demos))
    if not path.exists():
        raise UserError(
            f"{env_name}: its demonstrations are not made yet: python -m raybc.demos {task} --episodes {demos}"
        )
    return Data(read_data(config, path), (env_name, path.name), tuple(get_task(task).obs_keys))


@dataclass(frozen=True)
class BuildArgs(ReadArgs, PlanConfig):
    """Decide which windows of a dataset training draws, and how often; write plan_meta.json and plan_arrays.npz."""

    dataset: str = ""
    """File of the dataset."""
    env_name: str = ""
    """Task and data as in raybc.train, e.g. lift-scripted-low_dim (instead of --dataset, or together with it)."""
    demos: int = DemosConfig.episodes
    """Number of demonstrations of the scripted expert, if env_name uses scripted data."""
    scores: Path | None = None
    """With --weights quality: the folder of the scores that raybc data quality wrote for this dataset."""
    out_dir: Path | None = None
    """Folder of the plan."""
    overwrite: bool = False
    """Replace an existing plan."""


@dataclass(frozen=True, kw_only=True)
class VerifyArgs(ReadArgs):
    """Check a plan: its checksums and bounds, and with --dataset or --env_name everything against the data."""

    plan_path: Path
    """The plan's folder, its plan_meta.json or its plan_arrays.npz."""
    dataset: str = ""
    """File of the dataset."""
    env_name: str = ""
    """Task and data as in raybc.train (instead of --dataset, or together with it)."""
    demos: int = DemosConfig.episodes
    """Number of demonstrations of the scripted expert, if env_name uses scripted data."""
    horizon_length: int = 0
    """Also check that the plan is for chunks of this many steps (0: not checked)."""
    batch_size: int = 0
    """Also check that the plan fills a batch of this many examples (0: not checked)."""


@dataclass(frozen=True)
class ShowArgs:
    """Print the contents of a plan and how often training draws them; write a page with figures."""

    plan_path: Path
    """The plan's folder, its plan_meta.json or its plan_arrays.npz."""
    training_steps: tuple[int, ...] = (3000, 6000, 30_000)
    """Training lengths for which to print the exposure, e.g. --training_steps 3000 6000."""
    out: Path | None = None
    """The HTML page (default: plan.html in the plan's folder)."""


def build(argv: list[str]) -> int:
    args = cli.parse(BuildArgs, argv, "raybc.plan build", BuildArgs.__doc__ or "")
    config = PlanConfig(**{f.name: getattr(args, f.name) for f in dataclasses.fields(PlanConfig)})
    config.validate("--")
    if args.out_dir is None:
        raise UserError("--out-dir: expected the folder to write the plan to, e.g. --out-dir plans/ten")
    scores, config = _scores(args, config)
    data = open_data(args.env_name, args.dataset, args.demos, _read_args(args))
    config = dataclasses.replace(config, state_keys=config.state_keys or ",".join(data.state_keys))
    fingerprint, scored_E = data.store.fingerprint(), None
    if scores is not None:
        scores.check_data(fingerprint, data.store, "--scores")
        scored_E = scores.weights(config.score_column, config.score_power)
    plan = build_plan(data.store, config, data.names[0], fingerprint, scored_E)
    save_plan(plan, args.out_dir, args.overwrite)
    for note in plan.notes():
        cli.console.print(f"note: {note}")
    if config.gripper_event_enabled:
        cli.console.print(f"gripper: {', '.join(_dimension_names(plan, data.store))}; {len(plan.events_J)} events")
    cli.console.print(f"plan: {args.out_dir}: {len(plan.episodes_E)} episodes, {len(plan.anchors_P)} anchors")
    cli.console.print(f"plan_sha256: {plan.plan_sha256}")
    return 0


def _scores(args: BuildArgs, config: PlanConfig) -> tuple[Scores | None, PlanConfig]:
    """The scores of --weights quality, and the parameters with their hash."""
    if config.weights != "quality":
        if args.scores is not None:
            raise UserError("--scores: has no effect without --weights quality")
        return None, config
    if args.scores is None:
        raise UserError(
            "--scores: expected scores with --weights quality: make them with raybc data quality, and name their folder"
        )
    scores = load_scores(args.scores, "--scores")
    if config.scores_sha256 not in ("", scores.sha256):
        raise UserError(f"--scores: expected the scores {config.scores_sha256}, got {scores.sha256} in {args.scores}")
    scores.check_column(config.score_column, "--score_column")
    return scores, dataclasses.replace(config, scores_sha256=scores.sha256)


def _read_args(args: ReadArgs) -> ReadArgs:
    if args.keep_idle < 0:
        raise UserError(f"--keep_idle: expected at least 0, got {args.keep_idle}")
    if args.keep_idle and not args.drop_idle:
        raise UserError("--keep_idle: has no effect without --drop_idle; it says how many idle steps are left")
    return ReadArgs(**{f.name: getattr(args, f.name) for f in dataclasses.fields(ReadArgs)})


def _dimension_names(plan: SamplingPlan, store: EpisodeStore) -> list[str]:
    """Names of the gripper's dimensions, e.g. robot0_gripper_qpos[1], which reveal a wrong index."""
    names = [f"{key}[{i}]" for key in plan.config.keys for i in range(store.obs[key].shape[1])]
    return [f"{d} = {names[d]}" for d in plan.config.dims]


def verify(argv: list[str]) -> int:
    args = cli.parse(VerifyArgs, argv, "raybc.plan verify", VerifyArgs.__doc__ or "")
    plan = load_plan(args.plan_path)
    check_training(plan, args.horizon_length or plan.config.horizon_length, args.batch_size)
    checked = "checksums, bounds"
    if args.dataset or args.env_name:
        data = open_data(args.env_name, args.dataset, args.demos, _read_args(args))
        check_dataset(plan, data.names, data.store.fingerprint(), len(data.store.actions_NA), data.store)
        check_rebuilt(plan, data.store)
        checked += ", data, every array built again"
    else:
        checked += "; not the data (give --dataset or --env_name)"
    cli.console.print(f"OK: {args.plan_path} ({checked})")
    cli.console.print(f"plan_sha256: {plan.plan_sha256}")
    return 0


def show(argv: list[str]) -> int:
    args = cli.parse(ShowArgs, argv, "raybc.plan show", ShowArgs.__doc__ or "")
    if not args.training_steps or min(args.training_steps) < 1:
        raise UserError(f"--training_steps: expected numbers of at least 1, got {list(args.training_steps)}")
    from raybc.report.page import refuse_foreign
    from raybc.report.plan import as_text, write_plan_page

    plan = load_plan(args.plan_path)
    cli.console.print(as_text(plan, args.training_steps))
    out = args.out or plan_folder(args.plan_path) / PAGE
    if args.out is not None:
        refuse_foreign(out)
    write_plan_page(plan, out, args.training_steps)
    cli.console.print(f"\npage: {out}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {"build": build, "verify": verify, "show": show}
USAGE = """usage: python -m raybc.plan {build,verify,show} [flags]

  build   create a plan for a dataset         --dataset PATH --out-dir FOLDER [--num-episodes-keep 10 ...]
  verify  check a plan, alone or with data    FOLDER [--dataset PATH]
  show    print a plan, write a page          FOLDER [--training_steps 6000]

python -m raybc.plan build --help lists every flag with its default.
"""


#: Flags of each of its commands, for the completion of a shell.
FLAGS: dict[str, type] = {"build": BuildArgs, "verify": VerifyArgs, "show": ShowArgs}


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["verify"], ["show"]) and len(argv) > 1 and not argv[1].startswith("-"):
        argv.insert(1, "--plan-path")  # the path of the plan may come without its flag
    return cli.run_command(COMMANDS, USAGE, argv)


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
