"""`python -m raybc.rollout BUNDLE`: measure a policy on starts it has not seen, with an interval, and film it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.config import SAMPLE_AXES
from raybc.envs.base import RenderOptions
from raybc.envs.spec import spec_of_task
from raybc.envs.variant import limited
from raybc.find_bundle import find_bundle
from raybc.metric import FORMER_KEY, Metric, MetricName, resolve
from raybc.registry import get_task, parse_env_name
from raybc.rollout.checks import check_camera, check_fits, far_observations, version_changes
from raybc.run_folder import EvaluationFolder
from raybc.run_start import Resume, check_folder, starting
from raybc.statistics import most_starts
from raybc.strict import check_type, digest
from raybc.types import SPLIT_SIZE, EpisodeSpec, SampleSetting, UserError


@dataclass(frozen=True)
class Args:
    """Measure the success rate of a policy bundle in its simulator."""

    bundle: tyro.conf.Positional[Path]
    """A bundle, the folder of a training run (see --checkpoint), or the folder of a sweep (its winner)."""
    checkpoint: str = ""
    """Checkpoint of a training run: latest (also -1), best (best score in eval.csv), final, or a step."""
    episodes: int | None = None
    """Starts for each solver and value of flow_steps (default: 50, or the most that --until_halfwidth may need)."""
    until_halfwidth: float = 0.0
    """Stop as soon as half the width of the 95 % interval of the metric is at most this, e.g. 0.05 (5 points of a
    rate; 0: run all episodes)."""
    metric: Annotated[MetricName | None, tyro.conf.arg(aliases=(f"--{FORMER_KEY}",))] = None
    """What --until_halfwidth narrows (default: the run's; success where the task tells it, else D4RL's score or the
    return)."""
    videos: int = 0
    """Episodes to film (the first ones; they count like all others); also writes a grid of them."""
    flow_steps: str = ""
    """Steps of the solver, one value or several as 1,2,5 (default: the bundle's)."""
    execute_steps: int | None = None
    """Steps of a chunk that are executed (0: all; default: the bundle's)."""
    eval_temperature: float | None = None
    """Scale of the initial noise (default: the bundle's)."""
    temporal_ensemble: float | None = None
    """m >= 0: average overlapping chunks with weights exp(-m i), i = 0 the oldest (-1: off; default: the bundle's)."""
    solver: str = ""
    """Solver of the flow: euler, midpoint, heun, rk4, or several as euler,heun, each with every value of flow_steps
    (default: the bundle's)."""
    instruction: str = ""
    """Instruction that the policy reads (default: the task's)."""
    starts: Literal["final", "search", "demos"] = "final"
    """The set of starts."""
    first: int = 0
    """Index of the first start."""
    max_steps: int = 0
    """Step limit of an episode (0: that of the environment's name)."""
    video_frame_skip: int = 3
    """Film every n-th environment step."""
    video_size: int = 256
    """Pixels of a video's edge."""
    camera: str = ""
    """Camera of the videos (default: the task's)."""
    workers: str = "auto"
    """Simulator processes (auto: one per core)."""
    slots: int = 0
    """Simulators per process (0: what the task recommends)."""
    inference: Literal["auto", "local", "shared"] = "auto"
    """Where the policy is computed: in each simulator process, or in one actor for all of them (auto: shared for large
    policies if Ray has a GPU)."""
    recycle: int = 0
    """Replace a simulator process after this many episodes (0: never)."""
    deadline: float = 120.0
    """Seconds without progress after which an episode counts as hung."""
    out: Path | None = None
    """Folder for episodes.jsonl, metrics.json and videos (default: runs/rollouts/NAME)."""
    resume: Resume = "False"
    """Resume an interrupted evaluation. auto: resume what is there, and begin otherwise."""
    overwrite: bool = False
    """Replace an existing folder."""
    address: str = ""
    """Address of a running Ray cluster (default: start a local Ray)."""
    ray_dashboard: bool = False
    """Serve the dashboard of the local Ray on this machine while the command runs."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.rollout", Args.__doc__ or "")
    # Here, because they import Ray, which --help need not wait for.
    from raybc.rollout.evaluation import EvaluationConfig, run_evaluation
    from raybc.rollout.output import write_results

    _check(args)
    path, chosen = find_bundle(args.bundle, args.checkpoint)
    bundle = PolicyBundle.load(path)
    if not bundle.config.has_environment:
        raise UserError(
            f"{path}: this policy was trained without a simulator (env_name none), so there is none to roll it out in; "
            f"train with --env_name NAME to measure success (its error on held-out episodes: {path.parent})"
        )
    settings = _settings(args, bundle, chosen)
    task_name = parse_env_name(bundle.config.env_name).task
    if args.max_steps:
        task_name = limited(task_name, args.max_steps)
    task = get_task(task_name)
    metric = resolve(args.metric or bundle.config.metric, task, "--metric")
    if not metric.from_episodes:
        raise UserError(f"--metric: expected a measure of rollouts, got {metric.name}, which is that of held-out data")
    episodes = _episodes(args, metric)
    env_spec = spec_of_task(task)
    check_fits(bundle, env_spec, path, args.instruction)
    check_camera(args.camera, env_spec, task_name)
    if args.videos and task.no_images:
        raise UserError(f"--videos: {task.no_images}")
    if args.inference == "local" and task.environment is not None:
        raise UserError(
            f"--inference local: simulators of {task_name} are in environment {task.environment.name}, which has no "
            "PyTorch; use auto or shared"
        )
    cli.print_notes(task.notes)
    cli.print_notes(far_observations(bundle, env_spec))
    changes = version_changes(bundle, env_spec)
    for since, name, before, now in changes:
        cli.console.print(f"warning: {name} is {now}; when {since}, it was {before}", style="yellow")
    which = f"{args.starts}_{args.max_steps}" if args.max_steps else args.starts
    which += f"_instruction_{digest(args.instruction)[:8]}" if args.instruction else ""
    folders = [EvaluationFolder.default(run_id, bundle.step, which) for run_id in bundle.run_ids]
    default = next((f for f in folders if f.path.exists()), folders[0])
    out = default if args.out is None else EvaluationFolder(args.out)
    check_folder(out, out.request, args.resume, args.overwrite, [path])
    config = EvaluationConfig(
        bundle=path,
        settings=tuple(settings),
        specs=tuple(EpisodeSpec(task_name, args.starts, args.first + i) for i in range(episodes)),
        videos=args.videos,
        video_frame_skip=args.video_frame_skip,
        render=RenderOptions(args.video_size, args.video_size, args.camera or None),
        until_halfwidth=args.until_halfwidth,
        metric=metric,
        workers=0 if args.workers == "auto" else int(args.workers),
        slots=args.slots or None,
        inference=args.inference,
        recycle=args.recycle,
        deadline=args.deadline,
        address=args.address,
        ray_dashboard=args.ray_dashboard,
        instruction=args.instruction,
    )
    with starting(out, args.overwrite, [path]) as begun:
        rows = run_evaluation(config, bundle, out, begun)
        write_results(out, config, bundle, task, env_spec, changes, rows)
    return 0


def _episodes(args: Args, metric: Metric) -> int:
    """The number of starts. Raises `UserError` for an impossible one."""
    halfwidth = args.until_halfwidth
    if halfwidth and metric.is_rate and not 0 < halfwidth < 0.5:
        raise UserError(f"--until_halfwidth: expected a number in (0, 0.5) such as 0.05, got {halfwidth}")
    if halfwidth and not (math.isfinite(halfwidth) and halfwidth > 0):
        raise UserError(f"--until_halfwidth: expected more than 0 (in the unit of the {metric.label}), got {halfwidth}")
    episodes = args.episodes
    if episodes is None and halfwidth and not metric.is_rate:
        raise UserError(
            f"--until_halfwidth: expected --episodes as well, the most to run: how many the interval of the "
            f"{metric.label} needs is not known beforehand"
        )
    if episodes is None:
        episodes = most_starts(halfwidth) if halfwidth else 50
    if args.first < 0 or not 1 <= episodes <= SPLIT_SIZE - args.first:
        raise UserError(f"--episodes: expected 1..{SPLIT_SIZE} starts from --first on, got {episodes}")
    if not 0 <= args.videos <= episodes:
        raise UserError(f"--videos: expected 0..{episodes} (the episodes), got {args.videos}")
    return episodes


def _check(args: Args) -> None:
    """Refuse impossible flags."""
    for name, low, high in (("video_frame_skip", 1, 10_000), ("video_size", 16, 4096), ("slots", 0, 1024)):
        if not low <= getattr(args, name) <= high:
            raise UserError(f"--{name}: expected {low}..{high}, got {getattr(args, name)}")
    if args.workers != "auto" and not (args.workers.isdigit() and int(args.workers) > 0):
        raise UserError(f"--workers: expected auto or a number of at least 1, got {args.workers!r}")
    if args.max_steps < 0:
        raise UserError(f"--max_steps: expected at least 1, or 0 (that of the environment), got {args.max_steps}")
    if args.recycle < 0:
        raise UserError(f"--recycle: expected at least 0 (0: never), got {args.recycle}")
    if not (math.isfinite(args.deadline) and args.deadline > 0):
        raise UserError(f"--deadline: expected seconds above 0, got {args.deadline}")


def _settings(args: Args, bundle: PolicyBundle, chosen: SampleSetting | None) -> list[SampleSetting]:
    """The sample settings to measure: the bundle's (or the one that the sweep chose), changed by the flags."""
    base = chosen or bundle.config.sample_setting
    given = {name: getattr(args, name) for name in SAMPLE_AXES if getattr(args, name) not in (None, "")}
    bundle.config.check_sampling(given, "--")
    rest = {n: given.get(n, getattr(base, n)) for n in SAMPLE_AXES if n not in ("flow_steps", "solver")}
    hint = bundle.config.options()["solver"].hint
    solvers = [check_type(s.strip(), hint, "--solver") for s in (args.solver or base.solver).split(",")]
    if len(set(solvers)) != len(solvers):
        raise UserError(f"--solver: expected different solvers, got {args.solver}")
    try:
        values = [int(v) for v in args.flow_steps.split(",")] if args.flow_steps else [base.flow_steps]
    except ValueError:
        raise UserError(f"--flow_steps: expected whole numbers such as 1,2,5, got {args.flow_steps!r}") from None
    if args.flow_steps and (len(set(values)) != len(values) or min(values) < 1):
        raise UserError(f"--flow_steps: expected different numbers of at least 1, got {args.flow_steps}")
    settings = [SampleSetting(value, solver=solver, **rest) for solver in solvers for value in values]
    for setting in settings:
        bundle.config.with_setting(setting).validate("--")
    return settings


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
