"""Data sets: `python -m raybc.data verify demos.hdf5 --env_name lift-human-low_dim`.

info summarises a data set, stats its values, verify finds what is wrong with it, view writes a page about it; convert
writes it in another format.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from raybc import cli
from raybc.data import formats, norm_stats, replay_findings, show, store
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
from raybc.data.view import view
from raybc.envs.base import Task
from raybc.envs.robosuite_control import is_absolute
from raybc.envs.spec import spec_of_task
from raybc.files import free_space_for
from raybc.registry import get_task
from raybc.types import UserError


@dataclass(frozen=True)
class InfoArgs:
    """Summarise a data set: sizes, names, splits, instructions, environment, fingerprint."""

    data: tyro.conf.Positional[str]
    """A path in any known format, or a published name."""
    env_name: str = ""
    """Read it as training on this task does, with the observations that the task adds."""
    images: bool = False
    """Also images (which changes the fingerprint)."""
    image_keys: tuple[str, ...] = ()
    """Only these images, and refuse what is none."""
    action_key: str = ""
    """The array that is the action, by its name in the file (default: the format's)."""
    obs_keys: tuple[str, ...] = ()
    """Only these observations, by the names that info lists."""
    skip_bad_episodes: bool = False
    """Leave out episodes that cannot be read or differ from most, as training with this flag does."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class StatsArgs:
    """Mean, standard deviation, range and the quantiles 0.01 and 0.99 of every key and dimension."""

    data: tyro.conf.Positional[str]
    """A path in any known format, or a published name."""
    env_name: str = ""
    """Also the observations that this task adds to what was recorded."""
    split: str = ""
    """Only the episodes of this split (info lists them), e.g. train, which normalisation is fitted to."""
    images: bool = False
    """Also images, by channel."""
    image_keys: tuple[str, ...] = ()
    """Only these images, and refuse what is none."""
    action_key: str = ""
    """The array that is the action, by its name in the file (default: the format's)."""
    obs_keys: tuple[str, ...] = ()
    """Only these observations, by the names that info lists."""
    skip_bad_episodes: bool = False
    """Leave out episodes that cannot be read or differ from most."""
    states: bool = False
    """Also the simulator's states."""
    out: Path | None = None
    """Also write them to this file, for --norm_stats_from of a training; it must not exist."""
    dataset_stat: Path | None = None
    """Also add them to this file in RDT's unified vector (dataset_stat.json), in metres and radians."""
    dataset_name: str = ""
    """With --dataset_stat: the name of the data there (default: that of the file or folder)."""
    action_units: str = "physical"
    """With --dataset_stat: the units of actions, as in a training."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class VerifyArgs:
    """Find what is wrong with a data set. Status 0: no errors, 1: errors, 2: a mistake in the command."""

    data: tyro.conf.Positional[str]
    """A path in any known format, or a published name."""
    env_name: str = ""
    """Compare with this task's action space, observations and starts (its simulator is started)."""
    horizon_length: int = 0
    """Steps of an action chunk, which episodes should have at least (0: not checked)."""
    replay: int = 0
    """Number of episodes, evenly spaced, whose recorded actions are replayed to compare success, returns,
    observations."""
    images: bool = False
    """Also read images, every frame of them (always, where the task of --env_name observes images)."""
    image_keys: tuple[str, ...] = ()
    """Only these images, and refuse what is none."""
    action_key: str = ""
    """The array that is the action, by its name in the file (default: the format's)."""
    obs_keys: tuple[str, ...] = ()
    """Only these observations, by the names that info lists."""
    skip_bad_episodes: bool = False
    """Check what is left without the episodes that training with this flag leaves out."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class ConvertArgs:
    """Write a data set in another format, completely or not at all."""

    data: tyro.conf.Positional[str]
    """A path in any known format, or a published name."""
    out: Path | None = None
    """The file or folder to write, which must not exist."""
    format: str = store.NAME
    """The format to write: store (memory-mapped) or another of docs/data.md."""
    images: bool = False
    """Also images."""
    image_keys: tuple[str, ...] = ()
    """Only these images, and refuse what is none."""
    image_height: int = 0
    """Height to which images are converted, together with image_width (0: as they are)."""
    image_width: int = 0
    """Width of converted images."""
    video: Literal["lossless", "h264", "av1"] = "lossless"
    """How --format lerobot stores images; h264 and av1 lose detail and take a tenth of the space."""
    action_key: str = ""
    """The array that is the action, by its name in the file (default: the format's)."""
    obs_keys: tuple[str, ...] = ()
    """Only these observations, by the names that info lists."""
    skip_bad_episodes: bool = False
    """Leave out episodes that cannot be read or differ from most; they are listed."""
    states: bool = True
    """Also the simulator's states, where there are any."""
    actions: Literal["as_recorded", "absolute", "delta"] = "as_recorded"
    """Actions of robosuite's arms in the other form: absolute poses or deltas, by the formula of the controller in the
    recorded states (the simulator is started)."""
    action_units: str = "as_recorded"
    """Units in which actions were recorded, which become those of the environment: physical (metres, radians, openings
    of grippers, by the controller that the data describe), or for each number what 1 means, e.g.
    0.05,0.05,0.05,0.5,0.5,0.5,open."""
    env_name: str = ""
    """Also the observations that this task adds. Data without observations are observed in its simulator, state by
    state (its simulator is started)."""


def info(argv: list[str]) -> int:
    """Run `python -m raybc.data info`."""
    args = cli.parse(InfoArgs, argv, "raybc.data info", InfoArgs.__doc__ or "")
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


def stats(argv: list[str]) -> int:
    """Run `python -m raybc.data stats`."""
    args = cli.parse(StatsArgs, argv, "raybc.data stats", StatsArgs.__doc__ or "")
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


def verify_command(argv: list[str]) -> int:
    """Run `python -m raybc.data verify`."""
    args = cli.parse(VerifyArgs, argv, "raybc.data verify", VerifyArgs.__doc__ or "")
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


def convert(argv: list[str]) -> int:
    """Run `python -m raybc.data convert`."""
    args = cli.parse(ConvertArgs, argv, "raybc.data convert", ConvertArgs.__doc__ or "")
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


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "info": info, "stats": stats, "verify": verify_command, "view": view, "convert": convert,
}  # fmt: skip
USAGE = """usage: python -m raybc.data {info,stats,verify,view,convert} PATH_OR_NAME [flags]

  info     summary of a data set             demos.hdf5 [--json]
  stats    statistics of its values          demos.hdf5 [--split train] [--json]
  verify   what is wrong with it             demos.hdf5 [--env-name lift-human-low_dim] [--replay 8]
  view     a page with figures and images    demos.hdf5 [--out page.html] [--plan plans/ten]
  convert  write it in another format        demos.hdf5 --out FOLDER [--format lerobot]

python -m raybc.data verify --help lists every flag with its default.
"""


#: Flags of each of its commands, for the completion of a shell.
FLAGS: dict[str, type] = {"info": InfoArgs, "stats": StatsArgs, "verify": VerifyArgs, "convert": ConvertArgs}


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    return cli.run_command(COMMANDS, USAGE, argv)


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
