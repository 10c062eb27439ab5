"""Training runs on disk: logs, checkpoints, evaluations and videos, with resume.

See `raybc.run_folder.TrainingFolder` for the files. With several seeds, the run folder holds the training state of all
members, and a folder without a state for each seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from raybc import cli
from raybc.config import RunConfig
from raybc.data.notes import write_data_notes
from raybc.envs.base import RenderOptions
from raybc.files import point_to, read_json, remove, write_json
from raybc.objective import OBJECTIVES, Objective, Score, resolve, score_of
from raybc.registry import get_task, parse_env_name
from raybc.rollout.engine import Rollout
from raybc.rollout.results import summarise
from raybc.rows import EpisodeSummary
from raybc.run_folder import BUNDLE_FILE, TrainingFolder
from raybc.statistics import wilson_interval
from raybc.train import checkpointing
from raybc.train.checkpointing import checkpoint_path, save_checkpoint
from raybc.train.csv_rows import append_row, read_rows
from raybc.train.data import TrainingData, prepare
from raybc.train.log import MemberLog, add_scalars, log_pack
from raybc.train.loop import PackTrainer, is_finished
from raybc.train.loop import Progress as TrainProgress
from raybc.train.offline import measure
from raybc.train.plans import note_plan
from raybc.train.ranks import WorkerConfig
from raybc.train.resume import RunPlace
from raybc.train.schedule import round_of
from raybc.train.step import NonFiniteLoss
from raybc.train.threads import available_cores
from raybc.train.trackers.base import Tracker, TrackerConfig
from raybc.types import EpisodeSpec
from raybc.versions import versions

#: `objective` names what `eval/score` and its interval are; cells of what the task does not tell are empty.
EVAL_COLUMNS = (
    "step", "eval/success", "wilson_low", "wilson_high", "eval/return", "eval/length", "episodes", "errors",
    "objective", "eval/score", "score_low", "score_high",
)  # fmt: skip


class MemberRun:
    """The run folder of one member."""

    def __init__(self, config: RunConfig, data: TrainingData, out: Path, tracker_id: str, threads: int = 1) -> None:
        self.config, self.out = config, out
        self.folder = TrainingFolder(out)
        self.tracker_id = tracker_id
        """The first run_id of this run; trackers know the run by it."""
        write_json(self.folder.versions, versions(data.environment) | {"threads": threads})

    def bundle(self, step: int) -> Path:
        """The bundle after `step` steps."""
        return checkpoint_path(self.out, self.config, step)

    def point(self, latest: int, finished: bool) -> None:
        """Update the links latest, best and final_model. latest: step of the newest checkpoint."""
        point_to(self.folder.latest, self.bundle(latest))
        best = self.folder.best_step()
        if best is not None:
            point_to(self.folder.best, self.bundle(best))
        if finished:
            point_to(self.folder.final_model, self.bundle(latest))

    def drop_old(self, latest: int) -> None:
        """Delete checkpoints before step `latest`, except the best and the newest `keep` others (0: keep all)."""
        if self.config.keep:
            best = self.folder.best_step()
            old = sorted(step for step in self.folder.checkpoints() if step < latest and step != best)
            for step in old[: -self.config.keep]:
                remove(self.bundle(step))


def saved_threads(folder: Path) -> int:
    """The PyTorch threads with which the run in `folder` trains, because sums depend on it; 0 if that is not recorded,
    or if this machine has fewer cores."""
    path = TrainingFolder(folder).versions
    threads = read_json(path).get("threads", 0) if path.is_file() else 0
    return threads if isinstance(threads, int) and threads <= available_cores() else 0


def out_of_memory(trainer: PackTrainer, error: torch.cuda.OutOfMemoryError) -> str:
    """Error message with advice."""
    config = trainer.config
    return (
        f"the GPU has not enough memory ({str(error).splitlines()[0]}); resume with a larger --accumulate (now "
        f"{config.accumulate}: the same training in smaller parts), or start a new run with a smaller --batch_size "
        f"(now {config.batch_size}) or fewer seeds (now {len(trainer.members)})"
    )


class PackRun:
    """Trains a pack of members and evaluates each of them on the search starts."""

    def __init__(
        self, place: RunPlace, data: TrainingData, pool: Any, trackers: Sequence[TrackerConfig] = (), threads: int = 1
    ) -> None:
        """
        Args:
            place: the run folders.
            data: what to train on.
            pool: simulators that evaluate checkpoints; None for a run without a simulator, see `raybc.train.offline`.
            trackers: where metrics are copied to.
            threads: PyTorch threads, to be recorded.
        """
        self.place, self.out, self.pool, self.data = place, place.out, pool, data
        self._tracker_configs = trackers
        self._trackers: list[tuple[int, Tracker]] = []  # (member index, tracker)
        self.config = place.members[0]
        self.task = parse_env_name(self.config.env_name).task if self.config.has_environment else ""
        task = get_task(self.task) if self.config.has_environment else None
        self.objective = resolve(self.config.objective, task, "--objective")
        place.write_flags(data.fingerprint)
        self.members = [
            MemberRun(config, data, folder, ids[-1] if ids else config.run_id(data.fingerprint), threads)
            for config, folder, ids in zip(place.members, place.folders, place.earlier_ids, strict=True)
        ]
        note_plan(self.config, [m.out for m in self.members])
        for member in self.members:
            write_data_notes(member.folder.data_notes, data.store)
        self.state = place.state

    @property
    def stops(self) -> list[int]:
        """Steps after which bundles and the state are saved, ascending.

        These are the multiples of the evaluation and checkpoint intervals, the ends of rounds, and the last step.
        """
        config = self.config
        intervals = [interval for interval in (config.eval_interval, config.save_interval) if interval > 0]
        if config.epochs_per_round:
            intervals.append(config.training_steps // config.num_rounds)
        return sorted({s for i in intervals for s in range(i, config.training_steps, i)} | {config.training_steps})

    def go(self, device: torch.device, begun: Callable[[], None]) -> None:
        """Train in this process; training pauses during evaluations. begun: called when nothing can be refused any
        more, see `raybc.run_start.starting`."""
        trainer = PackTrainer([m.config for m in self.members], self.data, device)
        if len(self.members) > 1 and self.config.encoder.kind != "None":
            cli.console.print("encoders of images run seed by seed: training them as a pack saves little time")
        if self.state.exists():
            trainer.load_state(self.state, saved_as=self.place.earlier_ids)
        begun()
        folders = [m.out for m in self.members]
        with contextlib.ExitStack() as stack:
            self._begin(stack, trainer.step, trainer.finished)
            logs = [stack.enter_context(MemberLog(m.out, m.folder.tensorboard, trainer.step)) for m in self.members]
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
                self._finish_stop(trainer.step, trainer.finished)
        self._end(trainer.step)

    def go_with_workers(self, workers: WorkerConfig, dataset: Path, begun: Callable[[], None]) -> None:
        """Train in Ray Train workers; this process evaluates bundles as they appear, so workers never wait.

        dataset: path of the dataset, readable on every machine. begun: see `go`. Raises `UserError` if the data do not
        fit the options, and `cli.Failed` if the workers fail.
        """
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
        begun()
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
                    self._finish_stop(stop, stop == self.config.training_steps)
                reason = running.join()
                if reason:
                    raise self._failed(reason)
            last = max(self.members[0].folder.checkpoints())
            self._evaluate_missing(last, finished=True)
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
        self._evaluate_missing(step, finished)

    def _failed(self, reason: str) -> cli.Failed:
        return cli.Failed(f"{reason}; the last good checkpoint is in {self.out}")

    def _end(self, step: int) -> None:
        for member in self.members:
            cli.console.print(f"policy: {member.bundle(step)}")

    @contextlib.contextmanager
    def _progress(self, step: int) -> Iterator[Callable[[int, float, float], None]]:
        """A progress bar; yields a function (step, loss, steps per second) that updates it."""
        config = self.config
        parts = [
            *Progress.get_default_columns()[:2],
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        ]
        with Progress(*parts, console=cli.console) as progress:
            bar = progress.add_task("training", total=config.training_steps, completed=step, speed="")

            def show(step: int, loss: float, steps_per_sec: float) -> None:
                round_ = round_of(config, step)
                where = f"round {round_}/{config.num_rounds}, " if config.epochs_per_round else ""
                progress.update(bar, completed=step, speed=f"{where}loss {loss:.4f}, {steps_per_sec:.0f} steps/s")
                for _, tracker in self._trackers:
                    tracker.sync()

            yield show

    # --- evaluation -------------------------------------------------------------------------------------------------

    def _saved(self, step: int) -> bool:
        """Whether the bundles of all members at `step` are complete."""
        return all((member.bundle(step) / BUNDLE_FILE).is_file() for member in self.members)

    def _is_evaluated(self, step: int, finished: bool) -> bool:
        """Whether the checkpoint at `step` is one to evaluate."""
        if not self.config.eval_interval:
            return finished and not self.config.has_environment
        return finished or step % self.config.eval_interval == 0

    def _evaluate_missing(self, step: int, finished: bool) -> None:
        """Evaluate saved checkpoints up to `step` that were not evaluated before the run was stopped."""
        folder = self.members[-1].folder
        rows = read_rows(folder.eval_csv if self.config.has_environment else folder.offline_csv)
        done = {int(r["step"]) for r in rows}
        for earlier in sorted(s for s in folder.checkpoints() if s <= step and s not in done):
            if self._saved(earlier) and self._is_evaluated(earlier, finished and earlier == step):
                self._finish_stop(earlier, finished and earlier == step)

    def _finish_stop(self, step: int, finished: bool) -> None:
        """Evaluate the checkpoint at `step` if it is due, update links, and delete old checkpoints."""
        if self._is_evaluated(step, finished):
            self._evaluate(step, finished)
        for member in self.members:
            member.point(step, finished)
            member.drop_old(step)

    def _evaluate(self, step: int, finished: bool) -> None:
        if not self.config.has_environment:
            for member in self.members:
                who = f"seed {member.config.seed}: " if len(self.members) > 1 else ""
                text = measure(member.folder, member.bundle(step), member.config, self.data.store, step)
                cli.console.print(f"step {step}: {who}{text}")
            return
        config = self.config
        objective = self.objective
        specs = [EpisodeSpec(self.task, "search", i) for i in range(config.eval_episodes)]
        works = [Rollout(str(m.bundle(step).absolute()), config.sample_setting) for m in self.members]
        results = self.pool.evaluate(f"{self.out}/step {step}", works, specs)
        for member, episodes in zip(self.members, results, strict=True):
            counts = summarise(episodes, objective)
            if not counts["episodes"]:
                raise cli.Failed(f"no episode could be run: {episodes[0]['message']}")
            score = score_of([counts], objective)
            length = sum(e["steps"] for e in episodes) / len(episodes)
            rates: tuple[float | None, ...] = (None, None, None)
            if objective.has_success:
                rates = (counts["success_rate"], *wilson_interval(counts["successes"], counts["episodes"]))
            values = (step, *rates, counts["mean_return"], length, counts["episodes"], counts["errors"],
                      objective.name, score.value, *(score.interval or (None, None)))  # fmt: skip
            append_row(member.folder.eval_csv, EVAL_COLUMNS, values)
            named = zip(EVAL_COLUMNS, values, strict=True)
            scalars = {n: float(v) for n, v in named if n.startswith("eval/") and isinstance(v, int | float)}
            add_scalars(member.folder.tensorboard, scalars, step)
            who = f"seed {member.config.seed}: " if len(self.members) > 1 else ""
            cli.console.print(
                f"step {step}: {who}{objective.label} {score.text} ({_solved(score)}"
                f"95 % interval {score.range_text}){_mean_return(objective, counts)}, length {length:.1f}"
            )
        if finished and config.video_episodes:
            self._record_videos(step, works, specs[: config.video_episodes])

    def _record_videos(self, step: int, works: Sequence[Rollout], specs: list[EpisodeSpec]) -> None:
        from raybc.rollout.pool import RolloutPool

        films = [
            dataclasses.replace(work, video=str(m.folder.videos.absolute()), video_frame_skip=m.config.video_frame_skip)
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


def _solved(score: Score) -> str:
    return f"{score.successes}/{score.episodes}, " if score.objective.is_rate else f"{score.episodes} episodes, "


def _mean_return(objective: Objective, counts: EpisodeSummary) -> str:
    mean = counts["mean_return"]
    return "" if mean is None or objective.name == "return" else f", return {OBJECTIVES['return'].show(mean)}"


def show_latest(members: Sequence[MemberRun], show: Callable[[int, float, float], None]) -> None:
    """Update the progress bar from the last row of train.csv, which another process writes."""
    rows = [read_rows(m.folder.train_csv)[-1:] for m in members]
    with contextlib.suppress(ValueError, TypeError, IndexError):  # no row yet, or an incomplete one
        last = [r[0] for r in rows]
        losses = [float(r["train/actor_loss"]) for r in last]
        show(int(last[0]["step"]), sum(losses) / len(losses), float(last[0]["train/steps_per_sec"]))
