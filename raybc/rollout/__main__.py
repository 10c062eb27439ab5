"""`python -m raybc.rollout BUNDLE`: measure a policy on starts it has not seen, with an interval, and film it."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from raybc import cli
from raybc.envs.base import RenderOptions
from raybc.envs.variant import limited
from raybc.files import expanded, write_json
from raybc.find_bundle import find_bundle
from raybc.foreign.measured import foreign_policy, measured_policy, seconds_to_wait
from raybc.foreign.reference import KINDS
from raybc.metric import FORMER_KEY, Metric, MetricName
from raybc.registry import get_task, parse_env_name
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.measured import changes_of, measured_tasks, refuse_flags, remarks
from raybc.rollout.policy import MeasuredPolicy
from raybc.rollout.settings import ORDER, chosen_settings
from raybc.run_start import Resume, check_folder, starting
from raybc.statistics import most_starts
from raybc.strict import digest
from raybc.suites import choose_tasks, resolve_over
from raybc.types import SPLIT_SIZE, EpisodeSpec, UserError


@dataclass(frozen=True)
class Args:
    """Measure the success rate of a policy bundle in its simulator."""

    bundle: tyro.conf.Positional[str]
    """A bundle, the folder of a training run (see --checkpoint), or the folder of a sweep (its winner); or a policy of
    others: module:FILE.py:make_policy, module:PACKAGE.MODULE:make_policy, onnx:FILE, lerobot:FOLDER,
    openpi:HOST:PORT, vla-eval:HOST:PORT."""
    env_name: str = ""
    """Of a policy of others: the environment to measure it in (raybc's own belong to one)."""
    policy_argument: str = ""
    """Of a policy of others: text that it is handed, such as a checkpoint."""
    policy_inputs: str = ""
    """Of a policy on a server: what it is sent, NAME=OBSERVATION separated by commas (default: that of its kind)."""
    policy_timeout: float = 0.0
    """Of a policy on a server: seconds to wait for an answer (0: 60, or half of --deadline if that is less)."""
    checkpoint: str = ""
    """Checkpoint of a training run: latest (also -1), best (best score in eval.csv), final, or a step."""
    suite: str = ""
    """Measure on the tasks of a suite: libero_object, MT10, an OGBench environment such as cube-single-v0 (its five
    goals), or module:NAME of your own."""
    tasks: tuple[str, ...] = ()
    """Measure on these tasks (default: the one that the policy was trained on)."""
    num_tasks: int = 0
    """With --suite or --tasks: only the first ones (0: all)."""
    episodes_per_task: int | None = None
    """With --suite or --tasks: starts of each task (default: 50)."""
    episodes: int | None = None
    """Starts for each sample setting (default: 50, or the most that --until_halfwidth may need)."""
    until_halfwidth: float = 0.0
    """Stop as soon as half the width of the 95 % interval of the metric is at most this, e.g. 0.05 (5 points of a
    rate; 0: run all episodes)."""
    metric: Annotated[MetricName | None, tyro.conf.arg(aliases=(f"--{FORMER_KEY}",))] = None
    """What --until_halfwidth narrows (default: the run's; success where the task tells it, else D4RL's score or the
    return)."""
    videos: int = 0
    """Episodes to film (the first ones of each task; they count like all others); also writes a grid of them."""
    record_video: bool = False
    """Film all episodes."""
    video_output_dir: Path | None = None
    """Folder for videos (default: videos in --out)."""
    record: tuple[str, ...] = ()
    """Write all valid episodes, solved or not, as data: lerobot:DIR, robomimic:FILE.hdf5, rrd:FILE.rrd (Rerun; several
    are allowed)."""
    flow_steps: str = ""
    """Steps of the solver, one value or several as 1,2,5 (default: the bundle's)."""
    execute_steps: str = ""
    """Steps of a chunk that are executed, one value or several as 1,8,16 (0: all; default: the bundle's)."""
    eval_temperature: str = ""
    """Scale of the initial noise, one value or several (default: the bundle's)."""
    temporal_ensemble: str = ""
    """m >= 0: average overlapping chunks with weights exp(-m i), i = 0 the oldest; one value or several (-1: off;
    default: the bundle's)."""
    solver: str = ""
    """Solver of the flow: euler, midpoint, heun, rk4, or several as euler,heun (default: the bundle's). Of several
    values of several of these flags, every combination is measured."""
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
    from raybc.rollout.record import read_targets, targets_left, write_recordings

    _check(args)
    targets = read_targets(args.record)
    policy = _policy(args)
    settings = chosen_settings(policy, {name: getattr(args, name) for name in ORDER})
    env_name = policy.env_name
    names = choose_tasks(args.suite, args.tasks, args.num_tasks, env_name, args.max_steps) or _own_task(args, env_name)
    metric = resolve_over(args.metric or policy.metric, [get_task(name) for name in names], "--metric")
    if not metric.from_episodes:
        raise UserError(f"--metric: expected a measure of rollouts, got {metric.name}, which is that of held-out data")
    episodes = _episodes(args, metric)
    videos = episodes if args.record_video else args.videos
    measured = measured_tasks(names, policy, args.instruction)
    for setting in settings:  # more is known of some policies now
        policy.check_setting(setting, "--")
    refuse_flags(measured, camera=args.camera, films=videos > 0, inference=args.inference)
    cli.print_notes(remarks(measured, policy))
    changes = changes_of(measured, policy)
    for since, name, before, now in changes:
        cli.console.print(f"warning: {name} is {now}; when {since}, it was {before}", style="yellow")
    which = _of_tasks(args, names) + (f"{args.starts}_{args.max_steps}" if args.max_steps else args.starts)
    which += f"_instruction_{digest(args.instruction)[:8]}" if args.instruction else ""
    folders = [EvaluationFolder(Path("runs/rollouts") / f"{name}_{which}") for name in policy.folder_names]
    default = next((f for f in folders if f.path.exists()), folders[0])
    out = default if args.out is None else EvaluationFolder(args.out)
    check_folder(out, out.request, args.resume, args.overwrite, policy.inputs)
    if targets and len(settings) > 1:
        raise UserError(f"--record: expected one sample setting, got {len(settings)}: one data set for each")
    targets = targets_left(targets, out, args.resume != "False")
    config = EvaluationConfig(
        policy=policy,
        settings=tuple(settings),
        specs=tuple(EpisodeSpec(name, args.starts, args.first + i) for i in range(episodes) for name in names),
        videos=videos,
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
        suite=args.suite,
        video_folder=args.video_output_dir,
        instruction=args.instruction,
        record_folder=out.recorded if targets else None,
    )
    owned = {str(target.path.resolve()): {"kind": target.kind, "complete": False} for target in targets}
    owned = {place: about for place, about in owned.items() if Path(place).exists()}
    with starting(out, args.overwrite, policy.inputs) as begun:

        def begin() -> None:
            if args.overwrite and owned:  # those of the evaluation that is replaced; --resume may replace them, too
                write_json(out.recorded_json, owned)
            begun()

        rows = run_evaluation(config, out, begin)
        if targets:
            write_recordings(targets, out, config.specs, rows[0], measured[0].task.fps)
        write_results(out, config, measured, changes, rows)
    return 0


def _policy(args: Args) -> MeasuredPolicy:
    """The policy to measure."""
    timeout = seconds_to_wait(args.policy_timeout, args.deadline)
    foreign = foreign_policy(
        args.bundle, args.env_name, argument=args.policy_argument, inputs=args.policy_inputs, timeout=timeout
    )
    if foreign is not None:
        if args.checkpoint:
            raise UserError(f"--checkpoint: {args.bundle} is a policy of others, which has none; use --policy_argument")
        if not (foreign.env_name or args.suite or args.tasks):
            raise UserError(f"{args.bundle}: expected --env_name NAME (or --suite, --tasks): where to measure it")
        return foreign
    for name in ("env_name", "policy_argument", "policy_inputs", "policy_timeout"):
        if getattr(args, name) != getattr(Args, name):
            known = ", ".join(f"{kind}:..." for kind in KINDS)
            raise UserError(f"--{name}: expected a policy of others ({known}), got {args.bundle}")
    path, chosen = find_bundle(expanded(args.bundle, "bundle"), args.checkpoint)
    return measured_policy(path, chosen)


def _own_task(args: Args, env_name: str) -> tuple[str]:
    """The task that the policy was trained on."""
    name = parse_env_name(env_name).task
    return (limited(name, args.max_steps) if args.max_steps else name,)


def _of_tasks(args: Args, names: Sequence[str]) -> str:
    """What the name of the folder says about tasks; "" for the policy's own."""
    if args.suite:
        return f"{re.sub('[^A-Za-z0-9_.-]+', '_', args.suite)}_{len(names)}_"
    return f"{len(names)}_tasks_{digest(list(names))[:8]}_" if args.tasks else ""


def _episodes(args: Args, metric: Metric) -> int:
    """The number of starts (of each task). Raises `UserError` for an impossible one."""
    halfwidth = args.until_halfwidth
    if args.suite or args.tasks:
        if args.episodes is not None:
            raise UserError("--episodes: expected --episodes_per_task with --suite or --tasks")
        if halfwidth:
            raise UserError("--until_halfwidth: expected one task, got --suite or --tasks; use --episodes_per_task")
        args = dataclasses.replace(args, episodes=50 if args.episodes_per_task is None else args.episodes_per_task)
    elif args.episodes_per_task is not None:
        raise UserError("--episodes_per_task: expected --suite or --tasks as well; for one task use --episodes")
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
        flag = "--episodes_per_task" if args.suite or args.tasks else "--episodes"
        raise UserError(f"{flag}: expected 1..{SPLIT_SIZE} starts from --first on, got {episodes}")
    if not 0 <= args.videos <= episodes:
        raise UserError(f"--videos: expected 0..{episodes} (the episodes), got {args.videos}")
    if args.videos and args.record_video:
        raise UserError("--videos: expected either this or --record_video, which films all episodes, got both")
    if args.video_output_dir is not None and not (args.videos or args.record_video):
        raise UserError("--video_output_dir: expected --record_video or --videos as well, got none to write")
    if args.video_output_dir is not None and args.video_output_dir.exists() and not args.video_output_dir.is_dir():
        raise UserError(f"--video_output_dir: expected a folder, got the file {args.video_output_dir}")
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


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
