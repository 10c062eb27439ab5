"""`python -m raybc.data view demos.hdf5`: a page about a data set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raybc import cli
from raybc.data import formats
from raybc.data.args import ViewArgs
from raybc.data.episodes import EpisodeStore
from raybc.data.formats.base import Keys
from raybc.data.labels import labels_of
from raybc.data.overview import Overview, Progress, overview
from raybc.data.plan.files import load_plan
from raybc.data.plan.plan import SamplingPlan
from raybc.data.scan import Source, source_of
from raybc.data.stills import Stills, stills
from raybc.types import UserError


def view(args: ViewArgs) -> int:
    """Run `python -m raybc.data view`."""
    if args.image_keys and not args.images:
        raise UserError("--image_keys: has no effect with --no-images; leave one of them out")
    if args.image_keys and args.skip_bad_episodes:
        raise UserError("--image_keys: no images are shown with --skip_bad_episodes; leave one of them out")
    plan = None if args.plan is None else load_plan(args.plan)
    source = source_of(args.data, args.env_name, keys=Keys.of(args.action_key, args.obs_keys))
    cli.console.print(f"reading {source.path} ({source.format})")
    from raybc.report.page import refuse_foreign  # imports plotly, which the other commands of data do not need

    out = args.out or Path(f"{source.path.resolve().stem}.html")
    refuse_foreign(out)
    with _bars(source) as on_episodes:
        found = overview(source, args.skip_bad_episodes, on_episodes)
    if plan is not None:
        check_plan(plan, found.about, args.plan or Path())
    frames, notes = _stills(args, found)
    from raybc.report.data import write_data_page

    labels = labels_of(source, {key: numbers.size for key, numbers in found.numbers.items()}, found.about.env_args)
    write_data_page(found, labels, frames, out, notes, plan, args.data)
    for note in notes:
        cli.console.print(f"note: {note}")
    errors = found.report.errors
    cli.console.print(f"findings: {errors} errors, {len(found.report.findings) - errors} warnings")
    cli.console.print(f"page: {out} ({out.stat().st_size / 2**20:.1f} MiB)")
    return 0


@contextlib.contextmanager
def _bars(source: Source) -> Iterator[Progress]:
    """A bar over both passes."""
    total = formats.count(source.path, source.format)
    with cli.episodes_bar("read twice", None if total is None else 2 * total) as update:
        before = 0

        def on_episodes(number: int, done: int) -> None:
            nonlocal before
            before = done if number == 1 else before
            update(done if number == 1 else before + done)

        yield on_episodes


def _stills(args: ViewArgs, found: Overview) -> tuple[Stills, list[str]]:
    """Frames of the images, and what to say about them. Images that cannot be read are refused where they are named,
    and else are missing from the page, which says why."""
    if not args.images or args.skip_bad_episodes:
        return Stills({}, {}), ["no images are shown with --skip_bad_episodes"] if args.images else []
    episodes = np.array([curve.episode for curve in found.curves])
    try:
        return stills(found.source, found.lengths_E, episodes, args.image_keys), []
    except UserError as error:
        if args.image_keys:
            raise
        return Stills({}, {}), [f"no images are shown: {error}"]


def check_plan(plan: SamplingPlan, data: EpisodeStore, path: Path) -> None:
    """Raise `UserError` for a plan of other data, as far as episodes tell; `raybc.plan verify` compares everything."""
    advice = "build it for these data, or choose the data that it was built for"
    if plan.dataset_len != len(data.actions_NA):
        raise UserError(
            f"--plan {path}: expected a plan of {len(data.actions_NA):,} transitions, got one of "
            f"{plan.dataset_len:,} ({plan.repo_id}); {advice}"
        )
    known = plan.episodes_E < data.num_episodes
    numbers = plan.episodes_E[known]
    same = (data.episode_starts[numbers] == plan.begins_E[known]).all() and (
        data.episode_ends[numbers] == (plan.begins_E + plan.lengths_E)[known]
    ).all()
    if not known.all() or not same:
        raise UserError(f"--plan {path}: its episodes begin and end elsewhere than those of the data; {advice}")
