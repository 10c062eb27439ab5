"""`python -m raybc.rollout BUNDLE`: measure a policy on starts it has not seen, with an interval, and film it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.config import SAMPLE_AXES
from raybc.envs.base import RenderOptions
from raybc.envs.spec import spec_of_task
from raybc.files import empty_folder, run_folder_lock
from raybc.registry import get_task, parse_env_name
from raybc.rollout.checks import check_fits, find_bundle, version_changes
from raybc.rollout.evaluation import EvaluationConfig, run_evaluation
from raybc.rollout.output import write_results
from raybc.statistics import most_starts
from raybc.types import SPLIT_SIZE, EpisodeSpec, SampleSetting, UserError


@dataclass(frozen=True)
class Args:
    """Measure the success rate of a policy bundle in its simulator."""

    bundle: tyro.conf.Positional[Path]
    """A bundle, the run folder of a training (see --checkpoint), or that of a sweep (then its winner)."""
    checkpoint: str = ""
    """Of a training run: latest (also -1), best (highest success in eval.csv), or a step."""
    episodes: int | None = None
    """Starts for each value of flow_steps (default: 50, or as many as --until_halfwidth may need)."""
    until_halfwidth: float = 0.0
    """Stop as soon as the 95 % interval is success -+ this, e.g. 0.05 (0: run all episodes)."""
    videos: int = 0
    """Episodes that are filmed (the first ones; they count like all others), and a grid of them."""
    flow_steps: str = ""
    """Euler steps, one value or several as 1,2,5 (default: the bundle's)."""
    execute_steps: int | None = None
    """Steps of a chunk that are executed (0: all; default: the bundle's)."""
    eval_temperature: float | None = None
    """Scale of the initial noise (default: the bundle's)."""
    temporal_ensemble: float | None = None
    """m >= 0: average overlapping chunks with weights exp(-m i), i = 0 the oldest (-1: off; default: the bundle's)."""
    starts: Literal["final", "search", "demos"] = "final"
    """Which set of starts."""
    first: int = 0
    """Index of the first start."""
    video_frame_skip: int = 3
    """Film every n-th environment step."""
    video_size: int = 256
    """Pixels of a video's edge."""
    camera: str = ""
    """Camera of the videos (default: the task's)."""
    workers: str = "auto"
    """Simulator processes (auto: one for each core)."""
    slots: int = 0
    """Simulators in a process (0: what suits the task)."""
    inference: Literal["auto", "local", "shared"] = "auto"
    """Where the policy is computed: in each simulator process, or in one actor for all (auto: shared for large policies
    where Ray has a GPU)."""
    recycle: int = 0
    """Replace a simulator process after so many episodes (0: never)."""
    deadline: float = 120.0
    """Seconds without any progress after which an episode counts as hung."""
    out: Path | None = None
    """Where episodes.jsonl, metrics.json and videos go (default: runs/rollouts/NAME)."""
    resume: bool = False
    """Go on with a measurement that was interrupted."""
    overwrite: bool = False
    """Replace an existing folder."""
    address: str = ""
    """A running Ray cluster; default: a local Ray."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.rollout", Args.__doc__ or "")
    episodes = _check(args)
    path, chosen = find_bundle(args.bundle, args.checkpoint)
    bundle = PolicyBundle.load(path)
    settings = _settings(args, bundle, chosen)
    task_name = parse_env_name(bundle.config.env_name).task
    task = get_task(task_name)
    probe = spec_of_task(task)
    check_fits(bundle, probe, path)
    changes = version_changes(bundle, probe)
    for since, name, before, now in changes:
        cli.console.print(f"warning: {name} is {now}; when {since}, it was {before}", style="yellow")
    folders = [Path("runs/rollouts") / f"{run_id}_step_{bundle.step}_{args.starts}" for run_id in bundle.run_ids]
    out = args.out or next((f for f in folders if f.exists()), folders[0])
    cli.refuse_existing(out, resume=args.resume, overwrite=args.overwrite)
    measurement = EvaluationConfig(
        bundle=path,
        settings=tuple(settings),
        specs=tuple(EpisodeSpec(task_name, args.starts, args.first + i) for i in range(episodes)),
        videos=args.videos,
        video_frame_skip=args.video_frame_skip,
        render=RenderOptions(args.video_size, args.video_size, args.camera or None),
        until_halfwidth=args.until_halfwidth,
        workers=0 if args.workers == "auto" else int(args.workers),
        slots=args.slots or None,
        inference=args.inference,
        recycle=args.recycle,
        deadline=args.deadline,
        address=args.address,
    )
    with run_folder_lock(out):
        if args.overwrite:
            empty_folder(out)
        rows = run_evaluation(measurement, bundle, out)
        write_results(out, measurement, bundle, task, probe, changes, rows)
    return 0


def _check(args: Args) -> int:
    """Refuse impossible flags; the number of starts."""
    if args.until_halfwidth and not 0 < args.until_halfwidth < 0.5:
        raise UserError(f"--until_halfwidth: expected a number in (0, 0.5) such as 0.05, got {args.until_halfwidth}")
    episodes = args.episodes
    if episodes is None:
        episodes = most_starts(args.until_halfwidth) if args.until_halfwidth else 50
    if args.first < 0 or not 1 <= episodes <= SPLIT_SIZE - args.first:
        raise UserError(f"--episodes: expected 1..{SPLIT_SIZE} starts from --first on, got {episodes}")
    if not 0 <= args.videos <= episodes:
        raise UserError(f"--videos: expected 0..{episodes} (the episodes), got {args.videos}")
    for name, low, high in (("video_frame_skip", 1, 10_000), ("video_size", 16, 4096), ("slots", 0, 1024)):
        if not low <= getattr(args, name) <= high:
            raise UserError(f"--{name}: expected {low}..{high}, got {getattr(args, name)}")
    if args.workers != "auto" and not (args.workers.isdigit() and int(args.workers) > 0):
        raise UserError(f"--workers: expected auto or a number of at least 1, got {args.workers!r}")
    if args.recycle < 0:
        raise UserError(f"--recycle: expected at least 0 (0: never), got {args.recycle}")
    if not (math.isfinite(args.deadline) and args.deadline > 0):
        raise UserError(f"--deadline: expected seconds above 0, got {args.deadline}")
    return episodes


def _settings(args: Args, bundle: PolicyBundle, chosen: SampleSetting | None) -> list[SampleSetting]:
    """The sample settings to measure: the bundle's (or the sweep's choice) with what the flags replace."""
    base = chosen or bundle.config.sample_setting
    given = {name: getattr(args, name) for name in SAMPLE_AXES if getattr(args, name) not in (None, "")}
    bundle.config.check_sampling(given, "--")
    rest = {name: given.get(name, getattr(base, name)) for name in SAMPLE_AXES if name != "flow_steps"}
    try:
        values = [int(v) for v in args.flow_steps.split(",")] if args.flow_steps else [base.flow_steps]
    except ValueError:
        raise UserError(f"--flow_steps: expected whole numbers such as 1,2,5, got {args.flow_steps!r}") from None
    if args.flow_steps and (len(set(values)) != len(values) or min(values) < 1):
        raise UserError(f"--flow_steps: expected different numbers of at least 1, got {args.flow_steps}")
    settings = [SampleSetting(flow_steps=value, **rest) for value in values]
    for setting in settings:
        bundle.config.with_setting(setting).validate("--")
    return settings


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
