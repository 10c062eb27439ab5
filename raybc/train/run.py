"""A pack's run folders: training with logs, checkpoints, evaluations and videos, going on where it was stopped.

One seed: a folder with flags.json, versions.json, train.csv, eval.csv, checkpoints/, videos/, state.safetensors.
Several: a folder with the state of all, and such a folder (without a state) for each seed.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from raybc import cli
from raybc.config import RunConfig
from raybc.envs.base import RenderOptions
from raybc.files import read_json, replacing, write_json
from raybc.registry import parse_env_name
from raybc.report.stats import wilson_interval
from raybc.rollout.checks import best_step, checkpoints
from raybc.rollout.engine import Rollout
from raybc.rollout.results import summarise
from raybc.strict import digest
from raybc.train.data import TrainingData
from raybc.train.log import MemberLog
from raybc.train.loop import PackTrainer
from raybc.train.step import NonFiniteLoss
from raybc.types import EpisodeSpec, UserError
from raybc.versions import versions

EVAL_COLUMNS = ("step", "eval/success", "wilson_low", "wilson_high", "eval/return", "eval/length", "episodes", "errors")


def default_folder(members: Sequence[RunConfig], fingerprint: str) -> Path:
    """SAVE_DIR/bc_training/RUN_GROUP/ENV_NAME/sdSEED_RUNID, of several members pack_ID."""
    config = members[0]
    group = Path(config.save_dir) / "bc_training" / config.run_group / config.env_name
    if len(members) == 1:
        return group / member_folder(config, fingerprint)
    return group / f"pack_{digest([m.run_id(fingerprint) for m in members])[:16]}"


def member_folder(config: RunConfig, fingerprint: str) -> str:
    return f"sd{config.seed:03d}_{config.run_id(fingerprint)}"


class MemberRun:
    """The run folder of one member."""

    def __init__(self, config: RunConfig, data: TrainingData, out: Path) -> None:
        self.config, self.out = config, out
        flags = asdict(config) | {"run_id": config.run_id(data.fingerprint), "data_fingerprint": data.fingerprint}
        existing = out / "flags.json"
        if existing.exists():
            before = read_json(existing)
            differing = [f"{k}: was {before.get(k)!r}, is {v!r}" for k, v in flags.items() if before.get(k) != v]
            if differing:
                raise UserError(f"{out}: --resume goes on with the same run, but {'; '.join(differing)}")
        out.mkdir(parents=True, exist_ok=True)
        write_json(existing, flags)
        write_json(out / "versions.json", versions(data.environment))

    def bundle(self, step: int) -> Path:
        return self.out / "checkpoints" / f"step_{step:08d}"

    def drop_old(self, latest: int) -> None:
        """Keep the newest `keep` checkpoints besides the latest and the best (0: all)."""
        if self.config.keep:
            kept = {latest, best_step(self.out)}
            old = sorted(step for step in checkpoints(self.out) if step not in kept)
            for step in old[: -self.config.keep]:
                shutil.rmtree(self.bundle(step))


class PackRun:
    """Trains the members side by side and measures each of them on the search starts."""

    def __init__(
        self, members: Sequence[RunConfig], data: TrainingData, out: Path, device: torch.device, pool: Any
    ) -> None:
        self.out, self.pool = out, pool
        self.config = members[0]
        self.task = parse_env_name(self.config.env_name).task
        alone = len(members) == 1
        self.members = [
            MemberRun(config, data, out if alone else out / member_folder(config, data.fingerprint))
            for config in members
        ]
        self.trainer = PackTrainer(members, data, device)
        self.state = out / "state.safetensors"
        if self.state.exists():
            self.trainer.load_state(self.state)
            cli.console.print(f"going on at step {self.trainer.step} of {self.config.training_steps}")

    def go(self) -> None:
        config, trainer = self.config, self.trainer
        with contextlib.ExitStack() as stack:
            logs = [
                stack.enter_context(MemberLog(member.out, member.out / "tensorboard", resume=trainer.step))
                for member in self.members
            ]
            progress = stack.enter_context(
                Progress(
                    *Progress.get_default_columns()[:2],
                    TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                    TextColumn("{task.fields[speed]}"),
                    TimeRemainingColumn(),
                    console=cli.console,
                )
            )
            bar = progress.add_task("training", total=config.training_steps, completed=trainer.step, speed="")

            def on_log(step: int, losses: list[float], steps_per_sec: float) -> None:
                rates, validation = trainer.rates, trainer.validation_loss
                for m, log in enumerate(logs):
                    held_out = None if validation is None else validation[m]
                    log.train(step, losses[m], steps_per_sec, rates[m], held_out, trainer.round)
                where = f"round {trainer.round}/{config.num_rounds}, " if config.epochs_per_round else ""
                loss = sum(losses) / len(losses)
                progress.update(bar, completed=step, speed=f"{where}loss {loss:.4f}, {steps_per_sec:.0f} steps/s")

            while not trainer.finished:
                try:
                    trainer.advance(self._next_stop(), on_log)
                except NonFiniteLoss as error:
                    raise cli.Failed(f"{error}; the last good checkpoint is in {self.out}") from None
                except torch.cuda.OutOfMemoryError as error:
                    raise cli.Failed(
                        f"the GPU has not enough memory ({str(error).splitlines()[0]}); raise --accumulate (now "
                        f"{config.accumulate}: the same training in smaller parts), or lower --batch_size (now "
                        f"{config.batch_size}) or the number of seeds (now {len(self.members)}), and use --resume"
                    ) from None
                saved = trainer.finished or any(trainer.step % i == 0 for i in self._intervals())
                measured = trainer.finished or trainer.step % config.eval_interval == 0
                if saved or measured:
                    for m, member in enumerate(self.members):
                        trainer.bundle(m).save(member.bundle(trainer.step))
                if measured:
                    self._evaluate(logs)
                trainer.save_state(self.state)
                for member in self.members:
                    member.drop_old(trainer.step)
        for member in self.members:
            cli.console.print(f"policy: {member.bundle(trainer.step)}")

    def _intervals(self) -> list[int]:
        """A checkpoint is saved every so many steps, and at the end of each round."""
        found = [self.config.save_interval] if self.config.save_interval > 0 else []
        if self.config.epochs_per_round:
            found.append(self.config.training_steps // self.config.num_rounds)
        return found

    def _next_stop(self) -> int:
        step = self.trainer.step
        stops = [(step // i + 1) * i for i in (self.config.eval_interval, *self._intervals())]
        return min(self.config.training_steps, *stops)

    # --- measuring --------------------------------------------------------------------------------------------------

    def _evaluate(self, logs: Sequence[MemberLog]) -> None:
        config, step = self.config, self.trainer.step
        specs = [EpisodeSpec(self.task, "search", i) for i in range(config.eval_episodes)]
        works = [Rollout(str(m.bundle(step).absolute()), config.sample_setting) for m in self.members]
        results = self.pool.evaluate(f"{self.out}/step {step}", works, specs)
        for member, episodes, log in zip(self.members, results, logs, strict=True):
            counts = summarise(episodes)
            if not counts["episodes"]:
                raise cli.Failed(f"no episode could be run: {episodes[0]['message']}")
            low, high = wilson_interval(counts["successes"], counts["episodes"])
            length = sum(e["steps"] for e in episodes) / len(episodes)
            values = (step, counts["success_rate"], low, high, counts["mean_return"], length, counts["episodes"],
                      counts["errors"])  # fmt: skip
            append_row(member.out / "eval.csv", EVAL_COLUMNS, values)
            for name, value in zip(EVAL_COLUMNS, values, strict=True):
                if name.startswith("eval/"):
                    log.scalar(name, float(value), step)
            who = f"seed {member.config.seed}: " if len(self.members) > 1 else ""
            cli.console.print(
                f"step {step}: {who}success {100 * counts['success_rate']:.1f} % ({counts['successes']}/"
                f"{counts['episodes']}, 95 % interval {100 * low:.1f} - {100 * high:.1f} %), length {length:.1f}"
            )
        if self.trainer.finished and config.video_episodes:
            self._film(works, specs[: config.video_episodes])

    def _film(self, works: Sequence[Rollout], specs: list[EpisodeSpec]) -> None:
        from raybc.rollout.pool import RolloutPool

        films = [
            dataclasses.replace(
                work, video=str((m.out / "videos").absolute()), video_frame_skip=m.config.video_frame_skip
            )
            for work, m in zip(works, self.members, strict=True)
        ]
        with RolloutPool.start(self.task, 1, worker_cpus=0.01, render=RenderOptions()) as cameras:
            results = cameras.evaluate(f"{self.out}/film", films, specs)
        for film, rows in zip(films, results, strict=True):
            for row in rows:
                what = f"no video: {row['message']}" if row["outcome"] == "error" else Path(film.video) / row["video"]
                cli.console.print(f"video: {what}")


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def append_row(path: Path, columns: tuple[str, ...], values: tuple[Any, ...]) -> None:
    """Add a row, replacing one of the same step (an evaluation that was interrupted and done again)."""
    rows = [[r[c] for c in columns] for r in read_rows(path) if r["step"] != str(values[0])]
    with replacing(path) as temporary, temporary.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        writer.writerows([*rows, [str(v) for v in values]])
