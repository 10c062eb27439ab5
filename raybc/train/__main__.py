"""`python -m raybc.train --env_name=lift-scripted-low_dim --training_steps=2000`: one policy, one seed."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from raybc import cli
from raybc.config import DemosConfig, RunConfig
from raybc.data.episodes import check_matches_task
from raybc.data.formats import robomimic
from raybc.demos import DemosPlan, check_source, generate, is_ready
from raybc.envs.base import RenderOptions
from raybc.files import empty_folder, free_space_for, read_json, replacing, run_folder_lock, write_json
from raybc.registry import get_task, parse_env_name
from raybc.report.stats import wilson_interval
from raybc.rollout.engine import Rollout
from raybc.rollout.probe import probe_task, sizes_of
from raybc.rollout.results import summarise
from raybc.train.log import MemberLog
from raybc.train.loop import PackTrainer, TrainingData, pick_device
from raybc.train.step import NonFiniteLoss
from raybc.types import EpisodeSpec, UserError
from raybc.versions import versions

EVAL_COLUMNS = ("step", "eval/success", "wilson_low", "wilson_high", "eval/return", "eval/length", "episodes", "errors")


@dataclass(frozen=True)
class Args(RunConfig):
    """Train one policy with one seed; measure it by rollouts on the search starts."""

    demos: int = 100
    """Demonstrations that the scripted expert makes where env_name asks for them."""
    out: Path | None = None
    """Run folder (default: SAVE_DIR/bc_training/RUN_GROUP/ENV_NAME/sdSEED_RUNID)."""
    workers: int = 0
    """Simulator processes (0: one for each core)."""
    resume: bool = False
    """Go on with the latest state of this very run, or begin it."""
    overwrite: bool = False
    """Delete the run folder first."""
    address: str = ""
    """A running Ray cluster; default: a local Ray."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.train", Args.__doc__ or "")
    config = RunConfig(**{f.name: getattr(args, f.name) for f in dataclasses.fields(RunConfig)})
    config.validate("--")
    DemosConfig(episodes=args.demos).validate("--demos")
    device = pick_device(config.device)
    name = parse_env_name(config.env_name)
    task = get_task(name.task)
    check_source(name, config.dataset)
    probe = probe_task(task)

    from raybc.cluster import plan_workers, ray_session
    from raybc.rollout.pool import RolloutPool

    plan = DemosPlan(name.task, DemosConfig(episodes=args.demos))
    dataset = Path(config.dataset) if config.dataset else plan.default_path()
    needs_demos = not config.dataset and not is_ready(plan, dataset)
    sizes = sizes_of(probe, task.obs_keys, config.env_name)
    if not needs_demos:
        check_matches_task(robomimic.read(dataset), sizes, probe.action_size, config.env_name)
    with contextlib.ExitStack() as stack:
        cpus = stack.enter_context(ray_session(args.address))
        workers = plan_workers(cpus, trials=0, trial_cpus=0, workers=args.workers, worker_cpus=1.0)
        pool = stack.enter_context(RolloutPool.start(name.task, workers, worker_cpus=1.0))
        if needs_demos:
            cli.console.print(f"making {args.demos} demonstrations of {name.task}: {dataset}")
            generate(plan, dataset, pool)
        store = robomimic.read(dataset)
        data = TrainingData(store, store.fingerprint(), task.obs_keys, probe.identity)
        out = args.out or default_folder(config, data.fingerprint)
        cli.refuse_existing(out, args.resume, args.overwrite)
        free_space_for(out, 200)
        stack.enter_context(run_folder_lock(out))
        if args.overwrite:
            empty_folder(out)
        Run(config, data, out, device, pool).go()
    return 0


def default_folder(config: RunConfig, fingerprint: str) -> Path:
    group = Path(config.save_dir) / "bc_training" / config.run_group / config.env_name
    return group / f"sd{config.seed:03d}_{config.run_id(fingerprint)}"


class Run:
    """The run folder of one policy: flags.json, versions.json, train.csv, eval.csv, checkpoints/, state, videos/."""

    def __init__(self, config: RunConfig, data: TrainingData, out: Path, device: torch.device, pool: Any) -> None:
        self.config, self.out, self.pool = config, out, pool
        self.task = parse_env_name(config.env_name).task
        flags = asdict(config) | {"run_id": config.run_id(data.fingerprint), "data_fingerprint": data.fingerprint}
        existing = out / "flags.json"
        if existing.exists():
            before = read_json(existing)
            differing = [f"{k}: was {before.get(k)!r}, is {v!r}" for k, v in flags.items() if before.get(k) != v]
            if differing:
                raise UserError(f"{out}: --resume goes on with the same run, but {'; '.join(differing)}")
        write_json(existing, flags)
        write_json(out / "versions.json", versions(data.environment))
        self.trainer = PackTrainer(config, [config.seed], data, device)
        self.state = out / "state.safetensors"
        if self.state.exists():
            self.trainer.load_state(self.state)
            cli.console.print(f"going on at step {self.trainer.step} of {config.training_steps}")

    def go(self) -> None:
        config, trainer = self.config, self.trainer
        with (
            MemberLog(self.out, self.out / "tensorboard", resume=trainer.step) as log,
            Progress(*Progress.get_default_columns()[:2], TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                     TextColumn("{task.fields[speed]}"), TimeRemainingColumn(), console=cli.console) as progress,
        ):  # fmt: skip
            bar = progress.add_task("training", total=config.training_steps, completed=trainer.step, speed="")

            def on_log(step: int, losses: list[float], steps_per_sec: float) -> None:
                log.train(step, losses[0], steps_per_sec)
                progress.update(bar, completed=step, speed=f"loss {losses[0]:.4f}, {steps_per_sec:.0f} steps/s")

            while trainer.step < config.training_steps:
                try:
                    trainer.advance(self._next_stop(), on_log)
                except NonFiniteLoss as error:
                    raise cli.Failed(f"{error}; the last good checkpoint is in {self.out}") from None
                last = trainer.step == config.training_steps
                saved = last or (config.save_interval > 0 and trainer.step % config.save_interval == 0)
                measured = last or trainer.step % config.eval_interval == 0
                if saved or measured:
                    self._save()
                if measured:
                    self._evaluate(log, films=config.video_episodes if last else 0)
                trainer.save_state(self.state)
        cli.console.print(f"policy: {self._bundle()}")

    def _next_stop(self) -> int:
        step = self.trainer.step
        stops = [self.config.training_steps, (step // self.config.eval_interval + 1) * self.config.eval_interval]
        if self.config.save_interval > 0:
            stops.append((step // self.config.save_interval + 1) * self.config.save_interval)
        return min(stops)

    def _bundle(self) -> Path:
        return self.out / "checkpoints" / f"step_{self.trainer.step:08d}"

    def _save(self) -> None:
        self.trainer.bundle(0).save(self._bundle())

    def _evaluate(self, log: MemberLog, films: int) -> None:
        config, step = self.config, self.trainer.step
        specs = [EpisodeSpec(self.task, "search", i) for i in range(config.eval_episodes)]
        work = Rollout(str(self._bundle().absolute()), config.sample_setting)
        episodes = self.pool.evaluate(f"{self.out}/step {step}", [work], specs)[0]
        counts = summarise(episodes)
        if not counts["episodes"]:
            raise cli.Failed(f"no episode could be run: {episodes[0]['message']}")
        low, high = wilson_interval(counts["successes"], counts["episodes"])
        length = sum(e["steps"] for e in episodes) / len(episodes)
        values = (step, counts["success_rate"], low, high, counts["mean_return"], length, counts["episodes"],
                  counts["errors"])  # fmt: skip
        append_row(self.out / "eval.csv", EVAL_COLUMNS, values)
        for name, value in zip(EVAL_COLUMNS, values, strict=True):
            if name.startswith("eval/"):
                log.scalar(name, float(value), step)
        cli.console.print(
            f"step {step}: success {100 * counts['success_rate']:.1f} % ({counts['successes']}/{counts['episodes']}, "
            f"95 % interval {100 * low:.1f} - {100 * high:.1f} %), length {length:.1f}"
        )
        if films:
            self._film(work, specs[:films])

    def _film(self, work: Rollout, specs: list[EpisodeSpec]) -> None:
        from raybc.rollout.pool import RolloutPool

        film = dataclasses.replace(
            work, video=str((self.out / "videos").absolute()), video_frame_skip=self.config.video_frame_skip
        )
        with RolloutPool.start(self.task, 1, worker_cpus=0.01, render=RenderOptions()) as cameras:
            rows = cameras.evaluate(f"{self.out}/film", [film], specs)[0]
        for row in rows:
            what = f"no video: {row['message']}" if row["outcome"] == "error" else self.out / "videos" / row["video"]
            cli.console.print(f"video: {what}")


def append_row(path: Path, columns: tuple[str, ...], values: tuple[Any, ...]) -> None:
    """Add a row, replacing one of the same step (an evaluation that was interrupted and done again)."""
    rows = []
    if path.exists():
        with path.open(newline="") as handle:
            rows = list(csv.reader(handle))[1:]
    rows = [r for r in rows if r and r[0] != str(values[0])] + [[str(v) for v in values]]
    with replacing(path) as temporary, temporary.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
