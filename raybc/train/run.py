"""A pack's run folders: training with logs, checkpoints, evaluations and videos, going on where it was stopped.

One seed: a folder with flags.json, versions.json, train.csv, eval.csv, checkpoint_STEP/, the links latest, best and (at
the end) final_model, videos/ and state.safetensors. Several: a folder with the state of all, and such a folder (without
a state) for each seed.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from raybc import cli
from raybc.bundle import META
from raybc.config import RunConfig
from raybc.envs.base import RenderOptions
from raybc.files import point_to, replacing, write_json
from raybc.registry import parse_env_name
from raybc.rollout.checks import best_step, checkpoints
from raybc.rollout.engine import Rollout
from raybc.rollout.results import summarise
from raybc.statistics import wilson_interval
from raybc.train import checkpointing
from raybc.train.checkpointing import checkpoint_name, save_checkpoint
from raybc.train.data import TrainingData, prepare
from raybc.train.log import MemberLog, add_scalars, log_pack
from raybc.train.loop import PackTrainer, is_finished
from raybc.train.loop import Progress as TrainProgress
from raybc.train.plans import note_plan
from raybc.train.ranks import WorkerConfig
from raybc.train.resume import RunPlace
from raybc.train.schedule import round_of
from raybc.train.step import NonFiniteLoss
from raybc.train.trackers.base import Tracker, TrackerConfig
from raybc.types import EpisodeSpec
from raybc.versions import versions

EVAL_COLUMNS = ("step", "eval/success", "wilson_low", "wilson_high", "eval/return", "eval/length", "episodes", "errors")


class MemberRun:
    """The run folder of one member."""

    def __init__(self, config: RunConfig, data: TrainingData, out: Path, tracker_id: str) -> None:
        self.config, self.out = config, out
        self.tracker_id = tracker_id
        """The id under which trackers know it: the first it ever had."""
        write_json(out / "versions.json", versions(data.environment))

    def bundle(self, step: int) -> Path:
        return self.out / checkpoint_name(self.config, step)

    def point(self, latest: int, finished: bool) -> None:
        """Let the links latest, best and final_model show what they say."""
        point_to(self.out / "latest", self.bundle(latest))
        best = best_step(self.out)
        if best is not None:
            point_to(self.out / "best", self.bundle(best))
        if finished:
            point_to(self.out / "final_model", self.bundle(latest))

    def drop_old(self, latest: int) -> None:
        """Of the checkpoints before `latest`, keep the best and the newest `keep` others (0: all)."""
        if self.config.keep:
            best = best_step(self.out)
            old = sorted(step for step in checkpoints(self.out) if step < latest and step != best)
            for step in old[: -self.config.keep]:
                shutil.rmtree(self.bundle(step))


def out_of_memory(trainer: PackTrainer, error: torch.cuda.OutOfMemoryError) -> str:
    """What to do about it."""
    config = trainer.config
    return (
        f"the GPU has not enough memory ({str(error).splitlines()[0]}); resume with a larger --accumulate (now "
        f"{config.accumulate}: the same training in smaller parts), or begin another run with a smaller --batch_size "
        f"(now {config.batch_size}) or fewer seeds (now {len(trainer.members)})"
    )


class PackRun:
    """Trains the members side by side and measures each of them on the search starts."""

    def __init__(self, place: RunPlace, data: TrainingData, pool: Any, trackers: Sequence[TrackerConfig] = ()) -> None:
        self.place, self.out, self.pool, self.data = place, place.out, pool, data
        self._tracker_configs = trackers
        self._trackers: list[tuple[int, Tracker]] = []  # (number of the member, its copy)
        self.config = place.members[0]
        self.task = parse_env_name(self.config.env_name).task
        place.write_flags(data.fingerprint)
        self.members = [
            MemberRun(config, data, folder, (*ids, config.run_id(data.fingerprint))[len(ids) - 1 if ids else 0])
            for config, folder, ids in zip(place.members, place.folders, place.earlier_ids, strict=True)
        ]
        note_plan(self.config, [m.out for m in self.members])
        self.state = place.state

    @property
    def stops(self) -> list[int]:
        """Steps after which bundles and the state are saved: the intervals of evaluations and checkpoints, the ends of
        rounds, and the last."""
        config = self.config
        intervals = [config.eval_interval]
        if config.save_interval > 0:
            intervals.append(config.save_interval)
        if config.epochs_per_round:
            intervals.append(config.training_steps // config.num_rounds)
        return sorted({s for i in intervals for s in range(i, config.training_steps, i)} | {config.training_steps})

    def go(self, device: torch.device) -> None:
        """Train in this process; each evaluation waits for its turn."""
        trainer = PackTrainer([m.config for m in self.members], self.data, device)
        if len(self.members) > 1 and self.config.encoder.kind != "None":
            cli.console.print("encoders of images run seed by seed: training them as a pack saves little time")
        if self.state.exists():
            trainer.load_state(self.state, saved_as=self.place.earlier_ids)
        folders = [m.out for m in self.members]
        with contextlib.ExitStack() as stack:
            self._begin(stack, trainer.step, trainer.finished)
            logs = [stack.enter_context(MemberLog(f, f / "tensorboard", resume=trainer.step)) for f in folders]
            show = stack.enter_context(self._progress(trainer.step))

            def on_log(progress: TrainProgress) -> None:
                log_pack(logs, trainer, progress)
                show(progress.step, sum(progress.losses) / len(progress.losses), progress.steps_per_sec)

            for stop in (s for s in self.stops if s > trainer.step):
                if trainer.finished:
                    break
                try:
                    trainer.advance(stop, on_log)
                except NonFiniteLoss as error:
                    raise self._failed(str(error)) from None
                except torch.cuda.OutOfMemoryError as error:
                    raise self._failed(out_of_memory(trainer, error)) from None
                save_checkpoint(trainer, folders, self.state)
                self._measure(trainer.step, trainer.finished)
        self._end(trainer.step)

    def go_with_workers(self, workers: WorkerConfig, dataset: Path) -> None:
        """Train in Ray Train's workers, which never wait for an evaluation: bundles are measured here as they appear.

        What would be refused by every worker is refused here (`UserError`)."""
        from raybc.train.ray_train import Job, Workers

        members = [m.config for m in self.members]
        prepare(self.config, self.data, torch.device("cpu"))
        job = Job(
            members=tuple(members),
            dataset=str(dataset.absolute()),
            fingerprint=self.data.fingerprint,
            obs_keys=self.data.obs_keys,
            environment=self.data.environment,
            stops=tuple(self.stops),
            folders=tuple(str(m.out.absolute()) for m in self.members),
            state=str(self.state.absolute()),
            parallel=workers.parallel,
            saved_as=tuple(self.place.earlier_ids),
        )
        step, finished = 0, False
        if self.state.exists():
            known = [
                {m.config.run_id(self.data.fingerprint), *ids}
                for m, ids in zip(self.members, self.place.earlier_ids, strict=True)
            ]
            saved = checkpointing.joined([checkpointing.load(self.state)], [self.state], known)
            step = saved.step
            finished = is_finished(self.config, step, saved.monitors)
        with contextlib.ExitStack() as stack:
            self._begin(stack, step, finished)
            if not finished:
                show = stack.enter_context(self._progress(step))
                running = stack.enter_context(Workers(job, workers, self.out))
                for stop in (s for s in self.stops if s > step):
                    while running.alive and not self._saved(stop):
                        for line in running.news():
                            cli.console.print(line)
                        show_latest(self.members, show)
                        time.sleep(0.2)
                    if not self._saved(stop):
                        break
                    self._measure(stop, stop == self.config.training_steps)
                reason = running.join()
                if reason:
                    raise self._failed(reason)
            last = max(checkpoints(self.members[0].out))
            self._measure_what_is_missing(last, finished=True)
        self._end(last)

    def _begin(self, stack: contextlib.ExitStack, step: int, finished: bool) -> None:
        if step:
            cli.console.print(f"resuming at step {step} of {self.config.training_steps} ({self.out})")
        for number, member in enumerate(self.members):
            for config in self._tracker_configs:
                tracker = config.start(member.out, member.config, member.tracker_id, step)
                if tracker is not None:
                    stack.callback(tracker.close)
                    self._trackers.append((number, tracker))
        self._measure_what_is_missing(step, finished)

    def _failed(self, reason: str) -> cli.Failed:
        return cli.Failed(f"{reason}; the last good checkpoint is in {self.out}")

    def _end(self, step: int) -> None:
        for member in self.members:
            cli.console.print(f"policy: {member.bundle(step)}")

    @contextlib.contextmanager
    def _progress(self, step: int) -> Iterator[Callable[[int, float, float], None]]:
        """A bar; gives what moves it: (step, loss, steps per second)."""
        config = self.config
        columns = [
            *Progress.get_default_columns()[:2],
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        ]
        with Progress(*columns, console=cli.console) as progress:
            bar = progress.add_task("training", total=config.training_steps, completed=step, speed="")

            def show(step: int, loss: float, steps_per_sec: float) -> None:
                round_ = round_of(config, step)
                where = f"round {round_}/{config.num_rounds}, " if config.epochs_per_round else ""
                progress.update(bar, completed=step, speed=f"{where}loss {loss:.4f}, {steps_per_sec:.0f} steps/s")
                for _, tracker in self._trackers:
                    tracker.sync()

            yield show

    # --- measuring --------------------------------------------------------------------------------------------------

    def _saved(self, step: int) -> bool:
        return all((member.bundle(step) / META).is_file() for member in self.members)

    def _is_measured(self, step: int, finished: bool) -> bool:
        return finished or step % self.config.eval_interval == 0

    def _measure_what_is_missing(self, step: int, finished: bool) -> None:
        """Measure checkpoints that a run which was stopped had saved and not measured."""
        done = {int(r["step"]) for r in read_rows(self.members[-1].out / "eval.csv")}
        for earlier in sorted(s for s in checkpoints(self.members[-1].out) if s <= step and s not in done):
            if self._saved(earlier) and self._is_measured(earlier, finished and earlier == step):
                self._measure(earlier, finished and earlier == step)

    def _measure(self, step: int, finished: bool) -> None:
        if self._is_measured(step, finished):
            self._evaluate(step, finished)
        for member in self.members:
            member.point(step, finished)
            member.drop_old(step)

    def _evaluate(self, step: int, finished: bool) -> None:
        config = self.config
        specs = [EpisodeSpec(self.task, "search", i) for i in range(config.eval_episodes)]
        works = [Rollout(str(m.bundle(step).absolute()), config.sample_setting) for m in self.members]
        results = self.pool.evaluate(f"{self.out}/step {step}", works, specs)
        for member, episodes in zip(self.members, results, strict=True):
            counts = summarise(episodes)
            if not counts["episodes"]:
                raise cli.Failed(f"no episode could be run: {episodes[0]['message']}")
            low, high = wilson_interval(counts["successes"], counts["episodes"])
            length = sum(e["steps"] for e in episodes) / len(episodes)
            values = (step, counts["success_rate"], low, high, counts["mean_return"], length, counts["episodes"],
                      counts["errors"])  # fmt: skip
            append_row(member.out / "eval.csv", EVAL_COLUMNS, values)
            scalars = {n: float(v) for n, v in zip(EVAL_COLUMNS, values, strict=True) if n.startswith("eval/")}
            add_scalars(member.out / "tensorboard", scalars, step)
            who = f"seed {member.config.seed}: " if len(self.members) > 1 else ""
            cli.console.print(
                f"step {step}: {who}success {100 * counts['success_rate']:.1f} % ({counts['successes']}/"
                f"{counts['episodes']}, 95 % interval {100 * low:.1f} - {100 * high:.1f} %), length {length:.1f}"
            )
        if finished and config.video_episodes:
            self._film(step, works, specs[: config.video_episodes])

    def _film(self, step: int, works: Sequence[Rollout], specs: list[EpisodeSpec]) -> None:
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
        for number, tracker in self._trackers:
            folder, rows = Path(films[number].video), results[number]
            tracker.videos(step, [folder / r["video"] for r in rows if r["outcome"] != "error"])


def show_latest(members: Sequence[MemberRun], show: Callable[[int, float, float], None]) -> None:
    """Move the bar to the last row of train.csv, which another process writes."""
    rows = [read_rows(m.out / "train.csv")[-1:] for m in members]
    with contextlib.suppress(ValueError, TypeError, IndexError):  # no row yet, or half of one
        last = [r[0] for r in rows]
        losses = [float(r["train/actor_loss"]) for r in last]
        show(int(last[0]["step"]), sum(losses) / len(losses), float(last[0]["train/steps_per_sec"]))


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
