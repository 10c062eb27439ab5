"""`python -m raybc.rollout BUNDLE`: measure a policy on starts it has not seen, with an interval, and film it."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.progress import Progress, TaskID
from rich.table import Table

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.envs.base import RenderOptions
from raybc.files import read_json, write_json, write_text
from raybc.registry import get_task, parse_env_name
from raybc.report.stats import wilson_interval
from raybc.rollout.probe import Probe, probe_task
from raybc.rollout.results import setting_of, summarise
from raybc.rollout.worker import Rollout
from raybc.types import SPLIT_SIZE, EpisodeSpec, SampleSetting, UserError


@dataclass(frozen=True)
class Args:
    """Measure the success rate of a policy bundle in its simulator."""

    bundle: tyro.conf.Positional[Path]
    """A bundle, or the run folder of a sweep (then its winner)."""
    episodes: int = 50
    """Starts for each value of flow_steps."""
    videos: int = 0
    """Episodes that are filmed (the first ones; they count like all others)."""
    flow_steps: str = ""
    """Euler steps, one value or several as 1,2,5 (default: the bundle's)."""
    execute_steps: int | None = None
    """Steps of a chunk that are executed (0: all; default: the bundle's)."""
    eval_temperature: float | None = None
    """Scale of the initial noise (default: the bundle's)."""
    starts: Literal["final", "search", "demos"] = "final"
    """Which set of starts."""
    first: int = 0
    """Index of the first start."""
    video_frame_skip: int = 3
    """Film every n-th environment step."""
    workers: int = 0
    """Simulator processes (0: one for each core)."""
    out: Path | None = None
    """Where episodes.jsonl, metrics.json and videos go (default: runs/rollouts/NAME)."""
    overwrite: bool = False
    """Replace an existing folder."""
    address: str = ""
    """A running Ray cluster; default: a local Ray."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.rollout", Args.__doc__ or "")
    if not 1 <= args.episodes <= SPLIT_SIZE - args.first or args.first < 0:
        raise UserError(f"--episodes: expected 1..{SPLIT_SIZE} starts from --first on, got {args.episodes}")
    if not 0 <= args.videos <= args.episodes:
        raise UserError(f"--videos: expected 0..{args.episodes} (the episodes), got {args.videos}")
    if args.video_frame_skip < 1:
        raise UserError(f"--video_frame_skip: expected at least 1, got {args.video_frame_skip}")
    path, chosen = find_bundle(args.bundle)
    bundle = PolicyBundle.load(path)
    settings = _settings(args, bundle, chosen)
    task = parse_env_name(bundle.config.env_name).task
    probe = probe_task(get_task(task))
    check_fits(bundle, probe, path)
    for name, before, now in version_changes(bundle, probe):
        cli.console.print(f"warning: {name}: the policy was made with {before}, this is {now}", style="yellow")
    out = args.out or Path("runs/rollouts") / f"{bundle.run_id}_step_{bundle.step}_{args.starts}"
    cli.refuse_existing(out, resume=False, overwrite=args.overwrite)
    specs = [EpisodeSpec(task, args.starts, args.first + i) for i in range(args.episodes)]
    rows = _measure(args, path, task, settings, specs, out)
    _write(out, bundle, path, rows, probe)
    return 0


def find_bundle(path: Path) -> tuple[Path, SampleSetting | None]:
    """The bundle at `path`; of a sweep's run folder its winner with the sample setting that was chosen."""
    if (path / "winner.json").is_file():
        winner = read_json(path / "winner.json")
        return path / winner["bundle"], SampleSetting(**winner["setting"])
    return path, None


def check_fits(bundle: PolicyBundle, probe: Probe, path: Path) -> None:
    """Refuse a bundle whose observations or actions are not those of the environment."""
    for name, size in bundle.obs_sizes.items():
        if probe.obs_sizes.get(name) != size:
            raise UserError(
                f"{path}: observation {name!r}: the policy expects size {size}, environment "
                f"{bundle.config.env_name!r} has {probe.obs_sizes.get(name)}"
            )
    if bundle.action_size != probe.action_size:
        raise UserError(
            f"{path}: actions: the policy gives {bundle.action_size} numbers, environment "
            f"{bundle.config.env_name!r} takes {probe.action_size}"
        )


def version_changes(bundle: PolicyBundle, probe: Probe) -> list[tuple[str, str, str]]:
    """(name, then, now) of everything in the environment's identity that differs from the bundle's."""
    names = bundle.environment.keys() | probe.identity.keys()
    pairs = [(n, bundle.environment.get(n, "absent"), probe.identity.get(n, "absent")) for n in sorted(names)]
    return [(n, then, now) for n, then, now in pairs if then != now]


def _settings(args: Args, bundle: PolicyBundle, chosen: SampleSetting | None) -> list[SampleSetting]:
    base = chosen or bundle.config.sample_setting
    try:
        values = [int(v) for v in args.flow_steps.split(",")] if args.flow_steps else [base.flow_steps]
    except ValueError:
        raise UserError(f"--flow_steps: expected whole numbers such as 1,2,5, got {args.flow_steps!r}") from None
    if len(set(values)) != len(values) or min(values) < 1:
        raise UserError(f"--flow_steps: expected different numbers of at least 1, got {args.flow_steps}")
    execute = base.execute_steps if args.execute_steps is None else args.execute_steps
    temperature = base.eval_temperature if args.eval_temperature is None else args.eval_temperature
    if not 0 <= execute <= bundle.config.chunk_length:
        raise UserError(f"--execute_steps: expected 0..{bundle.config.chunk_length} (the chunk), got {execute}")
    if not 0 <= temperature < float("inf"):
        raise UserError(f"--eval_temperature: expected at least 0, got {temperature}")
    return [SampleSetting(v, execute, temperature) for v in values]


def _measure(
    args: Args, bundle: Path, task: str, settings: list[SampleSetting], specs: list[EpisodeSpec], out: Path
) -> list[dict[str, Any]]:
    from raybc.cluster import plan_workers, ray_session

    started = time.time()
    works = [Rollout(str(bundle.absolute()), s) for s in settings]
    films = [
        replace(w, video=str(out.absolute() / "videos" / f"flow_{w.setting.flow_steps}"),
                video_frame_skip=args.video_frame_skip)
        for w in works
    ]  # fmt: skip
    parts: list[list[list[dict[str, Any]]]] = []
    with ray_session(args.address) as cpus, Progress(console=cli.console) as progress:
        workers = plan_workers(cpus, trials=0, trial_cpus=0, workers=args.workers, worker_cpus=1.0)
        bar = progress.add_task("episodes", total=len(settings) * args.episodes)
        filmed = args.videos
        if filmed:  # filmed episodes are counted episodes: the first ones run in simulators that render
            shot = _episodes(task, min(workers, filmed), films, specs[:filmed], RenderOptions(), progress, bar)
            problems = [e["message"] for part in shot for e in part if e["outcome"] == "error"]
            if len(problems) == len(works) * filmed:  # no picture can be made here: the episodes still count
                cli.console.print(f"videos: none: {problems[0]}", style="yellow")
                filmed = 0
            else:
                parts.append(shot)
        if filmed < args.episodes:
            parts.append(_episodes(task, workers, works, specs[filmed:], None, progress, bar))
    seconds = time.time() - started
    rows = []
    for i, setting in enumerate(settings):
        episodes = [e for part in parts for e in part[i]]
        rows.append(asdict(setting) | summarise(episodes) | {"episode_rows": episodes, "seconds": seconds})
    return rows


def _episodes(
    task: str, workers: int, works: list[Rollout], specs: list[EpisodeSpec], render: RenderOptions | None,
    progress: Progress, bar: TaskID,
) -> list[list[dict[str, Any]]]:  # fmt: skip
    import ray

    from raybc.rollout.pool import RolloutPool

    done = progress.tasks[0].completed
    with RolloutPool.start(task, workers, worker_cpus=1.0, render=render) as pool:
        ref = pool.submit("rollout", works, specs)
        while not ray.wait([ref], timeout=0.3)[0]:
            progress.update(bar, completed=done + pool.stats()["episodes"])
        rows = pool.split(ray.get(ref), len(works))
        progress.update(bar, completed=done + pool.stats()["episodes"])
    return rows


def _write(out: Path, bundle: PolicyBundle, path: Path, rows: list[dict[str, Any]], probe: Probe) -> None:
    table = Table("flow_steps", "success", "95 % interval", "solved", "errors", "steps to success", box=None)
    metrics, lines = [], []
    for row in rows:
        low, high = wilson_interval(row["successes"], row["episodes"])
        setting = asdict(setting_of(row))
        lines += [json.dumps(setting | episode) for episode in row["episode_rows"]]
        counts = {k: v for k, v in row.items() if k not in ("episode_rows", "episode_list")}
        metrics.append(counts | {"wilson_low": low, "wilson_high": high})
        rate = "-" if row["success_rate"] is None else f"{100 * row['success_rate']:.1f} %"
        steps = "-" if row["mean_steps_success"] is None else f"{row['mean_steps_success']:.1f}"
        interval = f"{100 * low:.1f} - {100 * high:.1f} %"
        solved = f"{row['successes']}/{row['episodes']}"
        table.add_row(str(row["flow_steps"]), rate, interval, solved, str(row["errors"]), steps)
    write_text(out / "episodes.jsonl", "".join(line + "\n" for line in lines))
    write_json(
        out / "metrics.json",
        {
            "bundle": str(path),
            "run_id": bundle.run_id,
            "step": bundle.step,
            "environment": probe.identity,
            "versions_changed": version_changes(bundle, probe),
            "settings": metrics,
        },
    )
    cli.console.print(table)
    cli.console.print(f"episodes, metrics and videos: {out}")
    errors = [e for row in rows for e in row["episode_rows"] if e["outcome"] == "error"]
    if errors:
        raise cli.Failed(f"{len(errors)} episode(s) could not be run, e.g. start {errors[0]['index']}: "
                         f"{errors[0]['message']}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
