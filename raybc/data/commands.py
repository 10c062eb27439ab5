"""The commands of `python -m raybc.data` that describe data: info, stats and verify."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import numpy as np

from raybc import cli
from raybc.data import formats, norm_stats, replay_findings, show, store
from raybc.data.args import InfoArgs, StatsArgs, VerifyArgs
from raybc.data.findings import Report, unreadable
from raybc.data.fit import TaskView
from raybc.data.formats.base import Keys, ReadOptions
from raybc.data.gains import first_of, gains
from raybc.data.info import describe
from raybc.data.load import load, read_for
from raybc.data.names import obtain
from raybc.data.replay import Replay, replay, task_of_data
from raybc.data.scan import Source, source_of, task_of
from raybc.data.stats import statistics
from raybc.data.verify import verify
from raybc.envs.base import Task
from raybc.envs.robosuite_control import is_absolute
from raybc.envs.spec import spec_of_task
from raybc.registry import get_task
from raybc.types import UserError


def info(args: InfoArgs) -> int:
    """Run `python -m raybc.data info`."""
    path = obtain(args.data)
    data = read_for(
        path, task_of(args.data, args.env_name), images=args.image_keys or args.images, states=True,
        skip_bad_episodes=args.skip_bad_episodes, keys=Keys.of(args.action_key, args.obs_keys),
    )  # fmt: skip
    found = describe(path, data)
    if args.json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        show.info(found)
    return 0


def stats(args: StatsArgs) -> int:
    """Run `python -m raybc.data stats`."""
    if args.out is not None:
        store.refuse_existing(args.out)
    wanted = ReadOptions(args.image_keys or args.images, args.states, skip_bad_episodes=args.skip_bad_episodes)
    keys = Keys.of(args.action_key, args.obs_keys)
    found = statistics(source_of(args.data, args.env_name, keys=keys), wanted, args.split)
    if args.out is not None:
        low_dim = {k: v for k, v in found.items() if k == norm_stats.ACTIONS or k.startswith("obs/")}
        norm_stats.write(args.out, {k.removeprefix("obs/"): v.as_json() for k, v in low_dim.items()})
    if args.dataset_stat is not None:
        from raybc.data.dataset_stat import write_dataset_stat

        name = args.dataset_name or obtain(args.data).stem
        write_dataset_stat(args.dataset_stat, name, load(args.data, args.env_name), args.action_units)
    if args.json:
        print(json.dumps({name: summary.as_json() for name, summary in found.items()}))
    else:
        show.stats(found)
    return 0


def verify_command(args: VerifyArgs) -> int:
    """Run `python -m raybc.data verify`."""
    for name in ("horizon_length", "replay"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name}: expected at least 0, got {getattr(args, name)}")
    if args.replay and args.skip_bad_episodes:
        raise UserError("--replay: expected no --skip_bad_episodes: episodes are started by their numbers in the data")
    path, task = obtain(args.data), task_of(args.data, args.env_name)
    try:
        source = Source(path, formats.detect(path), task, Keys.of(args.action_key, args.obs_keys))
    except UserError as error:  # a file in no known format: most likely damaged
        report = Report(Source(path, "", task), 0, 0, (unreadable(path, str(error)),))
        return _print(report, None, args.json)
    view = _look_at(get_task(task), source) if args.env_name else None
    images = args.image_keys or args.images
    report = verify(source, view, args.horizon_length, images, args.skip_bad_episodes)
    played = None
    if args.replay and report.readable:
        played = _replay(report, args.replay, quiet=args.json)
    if played is not None:
        report = report.with_findings(replay_findings.findings(source.path, played))
    return _print(report, played, args.json)


def _print(report: Report, played: Replay | None, as_json: bool) -> int:
    if as_json:
        print(json.dumps(report.as_json() | {"replay": None if played is None else played.as_json()}))
    else:
        show.report(report, played)
    return 1 if report.errors else 0


def _look_at(task: Task, source: Source) -> TaskView:
    with contextlib.closing(task.make(None)) as env:
        poses = is_absolute(env.env_args())  # a pose moves nothing by a distance
        found = () if poses else tuple(gains(first_of(source), env))
        return TaskView(task, spec_of_task(task), found, chosen_action=bool(source.keys.action))


def _replay(report: Report, count: int, quiet: bool) -> Replay | None:
    """Replay `count` episodes, evenly spaced, or all if there are fewer. Episodes whose actions are not finite are left
    out (there is a finding about them); None where no others are left."""
    broken = [e for f in report.findings if (f.kind, f.key) == ("not_finite", "actions") for e in f.episodes]
    whole = np.setdiff1d(np.arange(report.episodes), broken)
    if not len(whole):
        return None
    chosen = whole[np.unique(np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(np.int64))]
    task = task_of_data(report.source, report.env_args)
    bar = cli.episodes_bar(f"replay in {task.name}", len(chosen), quiet)
    with contextlib.closing(task.make(None)) as env, bar as update:
        return replay(report.source, task, env, chosen, report.success_E, lambda done, _: update(done))
