"""What `raybc rollout` does with its flags: the policy, its tasks, the folder, the evaluation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raybc import cli
from raybc.envs.base import RenderOptions
from raybc.files import expanded, write_json
from raybc.find_bundle import find_bundle
from raybc.foreign.measured import foreign_policy, measured_policy, seconds_to_wait
from raybc.foreign.reference import KINDS
from raybc.metric import Metric
from raybc.registry import get_task
from raybc.rollout.evaluation import EvaluationConfig, run_evaluation
from raybc.rollout.folder import EvaluationFolder
from raybc.rollout.measured import changes_of, measured_tasks, refuse_flags, remarks
from raybc.rollout.output import write_results
from raybc.rollout.place import DEFAULT_EPISODES, default_folder, own_task
from raybc.rollout.policy import MeasuredPolicy
from raybc.rollout.record import read_targets, targets_left, write_recordings
from raybc.rollout.settings import ORDER, chosen_settings
from raybc.run_start import check_folder, starting
from raybc.statistics import most_starts
from raybc.stored_flags import changed_flags
from raybc.suites import choose_tasks, resolve_over
from raybc.types import SPLIT_SIZE, EpisodeSpec, SampleSetting, UserError

if TYPE_CHECKING:
    from raybc.rollout.__main__ import Args


def measure(args: Args) -> EvaluationFolder:
    """Measure, film and record; returns the folder. Raises `UserError` for what cannot be measured, `cli.Failed` for
    errors of episodes."""
    targets = read_targets(args.record)
    policy = policy_of(args)
    settings = chosen_settings(policy, {name: getattr(args, name) for name in ORDER})
    env_name = policy.env_name
    chosen = choose_tasks(args.suite, args.tasks, args.num_tasks, env_name, args.max_steps)
    names = chosen or (own_task(args, env_name),)
    metric = resolve_over(args.metric or policy.metric, [get_task(name) for name in names], "--metric")
    if not metric.from_episodes:
        raise UserError(f"--metric: expected a measure of rollouts, got {metric.name}, which is that of held-out data")
    episodes = episodes_of(args, metric)
    videos = episodes if args.record_video else args.videos
    if targets and len(settings) > 1:
        raise UserError(f"--record: expected one sample setting, got {len(settings)}: one data set for each")
    config = config_of(args, policy, settings, names, metric, episodes, videos)
    out = EvaluationFolder(args.out) if args.out is not None else default_folder(args, config)
    check_folder(out, out.request, args.resume, args.overwrite, policy.inputs)
    measured = measured_tasks(names, policy, args.instruction)
    for setting in settings:  # more is known of some policies now
        policy.check_setting(setting, "--")
    refuse_flags(measured, camera=args.camera, films=videos > 0, inference=args.inference)
    cli.print_notes(remarks(measured, policy))
    changes = changes_of(measured, policy)
    for since, name, before, now in changes:
        cli.console.print(f"warning: {name} is {now}; when {since}, it was {before}", style="yellow")
    targets = targets_left(targets, out, args.resume != "False")
    if targets:
        config = dataclasses.replace(config, record_folder=out.recorded)
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
    return out


def config_of(
    args: Args,
    policy: MeasuredPolicy,
    settings: Sequence[SampleSetting],
    names: Sequence[str],
    metric: Metric,
    episodes: int,
    videos: int,
) -> EvaluationConfig:
    """What is measured, and how."""
    return EvaluationConfig(
        policy=policy,
        settings=tuple(settings),
        specs=tuple(EpisodeSpec(name, args.starts, args.first + i) for i in range(episodes) for name in names),
        videos=videos,
        video_frame_skip=args.video_frame_skip,
        render=RenderOptions(args.video_size, args.video_size, args.camera or None),
        until_halfwidth=args.until_halfwidth,
        metric=metric,
        simulators=args,
        suite=args.suite,
        video_folder=args.video_output_dir,
        instruction=args.instruction,
        flags=changed_flags(args),
    )


def policy_of(args: Args) -> MeasuredPolicy:
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
        if getattr(args, name):
            known = ", ".join(f"{kind}:..." for kind in KINDS)
            raise UserError(f"--{name}: expected a policy of others ({known}), got {args.bundle}")
    path, chosen = find_bundle(expanded(args.bundle, "bundle"), args.checkpoint)
    return measured_policy(path, chosen)


def episodes_of(args: Args, metric: Metric) -> int:
    """The number of starts (of each task). Raises `UserError` for an impossible one."""
    halfwidth = args.until_halfwidth
    if args.suite or args.tasks:
        if args.episodes is not None:
            raise UserError("--episodes: expected --episodes_per_task with --suite or --tasks")
        if halfwidth:
            raise UserError("--until_halfwidth: expected one task, got --suite or --tasks; use --episodes_per_task")
        args = dataclasses.replace(
            args, episodes=DEFAULT_EPISODES if args.episodes_per_task is None else args.episodes_per_task
        )
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
        episodes = most_starts(halfwidth) if halfwidth else DEFAULT_EPISODES
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
