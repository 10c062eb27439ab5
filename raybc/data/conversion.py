"""`raybc data convert`: a data set in another format, and what that format does not keep."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from raybc import cli
from raybc.data import formats, store
from raybc.data.args import ConvertArgs
from raybc.data.control import converted, in_own_units
from raybc.data.episodes import EpisodeStore
from raybc.data.formats import lerobot
from raybc.data.formats.base import Keys
from raybc.data.load import read_for, step_limit_of
from raybc.data.observe import with_observations
from raybc.data.replay import task_of_data
from raybc.data.scan import Source, source_of
from raybc.files import free_space_for
from raybc.registry import get_task
from raybc.types import UserError


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
    if not 0 <= args.frequency < np.inf:
        raise UserError(f"--frequency: expected steps per second, above 0, got {args.frequency}")
    lossy = functools.partial(lerobot.write_store, encoding=args.video)
    write = writer.write_store if args.video == "lossless" else lossy
    store.refuse_existing(args.out)
    keys = Keys.of(args.action_key, args.obs_keys)
    note, rate = "", args.frequency or None
    source, images = source_of(args.data, args.env_name, keys=keys), args.image_keys or args.images
    total = formats.count(source.path, source.format)
    with cli.episodes_bar(f"convert to {args.format}", total, quiet=False) as update:
        if args.format == store.NAME and not _is_changed(args):
            limit = step_limit_of(source.task, source.format)
            made = store.convert(
                source.path, args.out, format=source.format, images=images, states=args.states, step_limit=limit,
                skip_bad_episodes=args.skip_bad_episodes, image_size=size, keys=keys, frequency=rate,
                on_episodes=update,
            )  # fmt: skip
            remarks, before, lost = made.remarks(), made.fingerprint(), []
        else:
            if _is_changed(args):
                whole, note = _observed(source, args, update, size)
            else:
                whole = read_for(
                    source.path, "", images=images, states=args.states, skip_bad_episodes=args.skip_bad_episodes,
                    image_size=size, keys=keys,
                )  # fmt: skip
            if rate is not None:
                whole = dataclasses.replace(whole, frequency=rate, checked=True)
            _check_space(args.out, whole)
            write(args.out, whole)
            made = formats.read(args.out, images=bool(whole.images), states=whole.states_NS is not None)
            remarks, before, lost = whole.remarks(), whole.fingerprint(), not_kept(whole, made)
        update(made.num_episodes)
    cli.console.print(f"{made.num_episodes} episodes, {len(made.actions_NA)} transitions in {args.out} ({args.format})")
    cli.console.print(f"fingerprint: {made.fingerprint()}")
    for remark in (*remarks, *([note] if note else [])):
        cli.console.print(f"note: {remark}")
    if lost:
        cli.console.print(f"note: not kept by the format {args.format}: {', '.join(lost)}")
    if made.fingerprint() != before:
        cli.console.print(
            f"note: the fingerprint was {before}: what a policy may learn from has changed; see docs/data.md"
        )
    return 0


def _is_changed(args: ConvertArgs) -> bool:
    """Whether the data are to be changed, which needs all of them in memory."""
    return bool(args.env_name) or {args.actions, args.action_units} != {"as_recorded"}


def not_kept(before: EpisodeStore, after: EpisodeStore) -> list[str]:
    """What data had that were written from `before` and read as `after`, and have no longer, for people."""
    found = []
    if not np.array_equal(before.actions_NA, after.actions_NA):  # LIBERO's suites have a file for each instruction
        found.append("the order of episodes")
    missing = [name for name in before.obs if name not in after.obs]
    if missing and _size(before) == _size(after):
        found.append(f"names of observations ({', '.join(before.obs)} became {', '.join(after.obs)})")
    elif missing:
        found.append(f"the observations {', '.join(missing)}")
    if any(k in after.obs and not np.array_equal(before.obs[k], after.obs[k]) for k in before.images) and not found:
        found.append("detail of images")
    if before.rewards_N.any() and not np.array_equal(np.sort(before.rewards_N), np.sort(after.rewards_N)):
        found.append("rewards")
    gone = [name for name, members in before.splits.items() if len(members) and name not in after.splits]
    if gone:
        found.append(f"the splits {', '.join(gone)}")
    if any(before.tasks) and sorted(before.tasks) != sorted(after.tasks):
        found.append("instructions")
    if before.success_E is not None and (after.success_E is None or after.success_E.sum() != before.success_E.sum()):
        found.append("success")
    for what, had, has in (
        ("flags of ends", before.terminals_N, after.terminals_N),
        ("states of the simulator", before.states_NS, after.states_NS),
        ("the environment", before.env_args or None, after.env_args if after.env_args == before.env_args else None),
        ("the range of actions", before.action_range, after.action_range),
        ("the frequency", before.frequency, after.frequency),
    ):
        if had is not None and has is None:
            found.append(what)
    return found


def _size(data: EpisodeStore) -> int:
    """Numbers of all observations of a step."""
    return int(sum(np.prod(array.shape[1:]) for array in data.obs.values()))


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
