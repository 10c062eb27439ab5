"""The commands of `python -m raybc.data` but for view: info, stats, verify and convert."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from raybc import cli
from raybc.data import formats, norm_stats, replay_findings, show, store
from raybc.data.args import ConvertArgs, InfoArgs, StatsArgs, VerifyArgs
from raybc.data.control import converted, in_own_units
from raybc.data.episodes import EpisodeStore
from raybc.data.findings import Report, unreadable
from raybc.data.fit import TaskView
from raybc.data.formats import lerobot
from raybc.data.formats.base import Keys, ReadOptions
from raybc.data.gains import first_of, gains
from raybc.data.info import describe
from raybc.data.load import load, read_for, step_limit_of
from raybc.data.names import obtain
from raybc.data.observe import with_observations
from raybc.data.replay import Replay, replay, task_of_data
from raybc.data.scan import Source, source_of, task_of
from raybc.data.stats import statistics
from raybc.data.verify import verify
from raybc.envs.base import Task
from raybc.envs.robosuite_control import is_absolute
from raybc.envs.spec import spec_of_task
from raybc.files import free_space_for
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


def convert(args: ConvertArgs) -> int:
    """Run `python -m raybc.data convert`."""
    if args.out is None:
        raise UserError("--out: expected the file or folder to write, e.g. --out converted/lift")
    if (args.image_height > 0) != (args.image_width > 0) or min(args.image_height, args.image_width) < 0:
        raise UserError(
            f"--image_height, --image_width: expected both, above 0, got {args.image_height} and {args.image_width}"
        )
    size = (args.image_height, args.image_width) if args.image_height else None
    if size is not None and not (args.images or args.image_keys):
        raise UserError("--image_height: has no effect without images; add --images or --image_keys NAME ...")
    writer = formats.get(args.format)
    if args.video != "lossless" and args.format != lerobot.NAME:
        raise UserError(f"--video: expected --format {lerobot.NAME}, whose images are videos, got {args.format}")
    lossy = functools.partial(lerobot.write_store, encoding=args.video)
    write = writer.write_store if args.video == "lossless" else lossy
    store.refuse_existing(args.out)
    keys = Keys.of(args.action_key, args.obs_keys)
    note = ""
    source, images = source_of(args.data, args.env_name, keys=keys), args.image_keys or args.images
    total = formats.count(source.path, source.format)
    with cli.episodes_bar(f"convert to {args.format}", total, quiet=False) as update:
        if args.env_name or {args.actions, args.action_units} != {"as_recorded"}:
            whole, note = _observed(source, args, update, size)
            before = whole.fingerprint()
            _check_space(args.out, whole)
            write(args.out, whole)
            made = formats.read(args.out, images=args.images)
        elif args.format == store.NAME:
            limit = step_limit_of(source.task, source.format)
            made = store.convert(
                source.path, args.out, format=source.format, images=images, states=args.states, step_limit=limit,
                skip_bad_episodes=args.skip_bad_episodes, image_size=size, keys=keys, on_episodes=update,
            )  # fmt: skip
            before = made.fingerprint()
        else:
            whole = read_for(
                source.path, "", images=images, states=args.states, skip_bad_episodes=args.skip_bad_episodes,
                image_size=size, keys=keys,
            )  # fmt: skip
            before = whole.fingerprint()
            _check_space(args.out, whole)
            write(args.out, whole)
            made = formats.read(args.out, images=images)
        remarks = made.remarks() if args.format == store.NAME else whole.remarks()
        update(made.num_episodes)
    cli.console.print(f"{made.num_episodes} episodes, {len(made.actions_NA)} transitions in {args.out} ({args.format})")
    cli.console.print(f"fingerprint: {made.fingerprint()}")
    for remark in (*remarks, *([note] if note else [])):
        cli.console.print(f"note: {remark}")
    if made.fingerprint() != before:
        cli.console.print(
            f"note: the fingerprint was {before}: this format does not keep everything that a policy may learn from "
            f"({'images lose detail' if args.video != 'lossless' else 'names of observations, splits, instructions'}; "
            "see docs/data.md)"
        )
    return 0


def _check_space(out: Path, data: EpisodeStore) -> None:
    """Refuse to write what would not fit on the disk of `out`; most formats store arrays as they are."""
    free_space_for(out, sum(array.nbytes for array in data.arrays().values()) >> 20)


def _observed(
    source: Source, args: ConvertArgs, update: Callable[[int], None], size: tuple[int, int] | None
) -> tuple[EpisodeStore, str]:
    """The data with the observations of the task, which are made from states where there are none, and with actions in
    the form of `--actions`; and a note about these."""
    data = read_for(
        source.path, source.task, images=args.image_keys or args.images, states=True, image_size=size, keys=source.keys
    )
    if args.env_name and not data.obs:
        if args.images:
            raise UserError("--images: images cannot be made from states; leave it out")
        task = get_task(source.task)
        with contextlib.closing(task.make(None)) as env:
            data = with_observations(data, task, env, update)
    note = ""
    data = in_own_units(data, args.action_units)
    if args.actions != "as_recorded":
        data, note = converted(data, task_of_data(source, data.env_args), args.actions, update)
    return (data if args.states else dataclasses.replace(data, states_NS=None, checked=True)), note
