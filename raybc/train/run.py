"""Training runs on disk: logs, checkpoints, evaluations and videos, with resume.

See `raybc.run_folder.TrainingFolder` for the files. With several seeds, the run folder holds the training state of all
members, and a folder without a state for each seed.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from raybc import cli
from raybc.config import RunConfig
from raybc.data.notes import write_data_notes
from raybc.metric_choice import resolve
from raybc.online.begin import online_part
from raybc.online.part import OnlinePart
from raybc.registry import get_task
from raybc.run_folder import BUNDLE_FILE, TrainingFolder
from raybc.suites import resolve_over, tasks_of_run
from raybc.train import checkpointing
from raybc.train.action_metrics import SampleError
from raybc.train.checkpointing import save_checkpoint
from raybc.train.csv_rows import read_rows
from raybc.train.data import TrainingData, prepare
from raybc.train.epoch_log import PackEpochLog
from raybc.train.epochs import epoch_of
from raybc.train.evaluate import RolloutEvaluation
from raybc.train.interrupt import interrupt_after_step
from raybc.train.log import MemberLog, log_pack
from raybc.train.loop import PackTrainer
from raybc.train.member import MemberRun
from raybc.train.offline import measure
from raybc.train.phases import Phase, described, notes, phase_at
from raybc.train.plans import note_plan
from raybc.train.progress import Progress as TrainProgress
from raybc.train.ranks import WorkerConfig
from raybc.train.resume import RunPlace
from raybc.train.schedule import is_finished, round_of
from raybc.train.scores import note_scores
from raybc.train.step import NonFiniteLoss
from raybc.train.text_log import TextLog
from raybc.train.trackers.base import Tracker, TrackerConfig
from raybc.types import UserError


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
        self.place, self.out, self.data = place, place.out, data
        self._tracker_configs = trackers
        self._trackers: list[tuple[int, Tracker]] = []  # (member index, tracker)
        self.config = place.members[0]
        config, tasks = self.config, tuple[str, ...]()
        if not config.has_environment:
            resolve(config.metric, None, "--metric")
        else:
            tasks = tasks_of_run(config.eval_suite, config.eval_tasks, config.env_name)
            metric = resolve_over(config.metric, [get_task(name) for name in tasks], "--metric", config.task_score)
        place.write_flags(data.fingerprint)
        self.members = [
            MemberRun(config, data, folder, ids[-1] if ids else config.run_id(data.fingerprint), threads)
            for config, folder, ids in zip(place.members, place.folders, place.earlier_ids, strict=True)
        ]
        self._rollouts: RolloutEvaluation | None = None
        if tasks:
            self._rollouts = RolloutEvaluation(self.out, tasks, pool, metric, self.members, self._trackers)
        note_plan(self.config, [m.out for m in self.members])
        note_scores(self.config, [m.out for m in self.members])
        for member in self.members:
            write_data_notes(member.folder.data_notes, data.store)
        self.state = place.state
        self._online: Callable[[PackTrainer], OnlinePart] | None = None
        if self.config.critic.online_updates:
            self._online = functools.partial(online_part, folders=[m.folder for m in self.members], pool=pool)
        self._where: Callable[[int], str] = lambda step: ""

    @property
    def stops(self) -> list[int]:
        """Steps after which bundles and the state are saved, ascending.

        These are the multiples of the evaluation and checkpoint intervals, the ends of rounds and of the offline part,
        and the last step.
        """
        config = self.config
        intervals = [interval for interval in (config.eval_interval, config.save_interval) if interval > 0]
        if config.epochs_per_round:
            intervals.append(config.training_steps // config.num_rounds)
        last = config.total_steps
        return sorted({s for i in intervals for s in range(i, last, i)} | {config.training_steps, last})

    def _is_kept(self, step: int) -> bool:
        """Whether the options ask for a checkpoint at `step`; others are saved to be evaluated."""
        config = self.config
        ends_round = bool(config.epochs_per_round) and step % (config.training_steps // config.num_rounds) == 0
        on_interval = config.save_interval > 0 and step % config.save_interval == 0
        return on_interval or ends_round or step in (config.training_steps, config.total_steps)

    def go(self, device: torch.device, begun: Callable[[], None]) -> None:
        """Train in this process; training pauses during evaluations. begun: called when nothing can be refused any
        more, see `raybc.run_start.starting`."""
        resumes = self.state.exists()
        if self.place.saved and not resumes:
            cli.console.print(f"{self.out}: no state was saved there, so the run begins at step 0")
        trainer = PackTrainer([m.config for m in self.members], self.data, device, resumes=resumes)
        if len(self.members) > 1 and self.config.encoder.kind != "None":
            cli.console.print("encoders of images run seed by seed: training them as a pack saves little time")
        if resumes:
            trainer.load_state(self.state, saved_as=self.place.earlier_ids)
        sampled = SampleError(trainer)  # on demonstrations, so before the windows grow
        online = None if self._online is None else self._online(trainer)
        sizes = {name: p[0].numel() for name, p in trainer.learner.parameters().items()}
        for said in (trainer.pretrained, str(trainer.start or ""), described(trainer.config, trainer.phases, sizes)):
            if said:
                cli.console.print(said)
        if not resumes:
            cli.print_notes(notes(trainer.config))
        begun()
        folders = [m.out for m in self.members]
        trainer.prepared.write_statistics(folders)
        with contextlib.ExitStack() as stack:
            self._begin(stack, trainer.step, trainer.finished)
            logs = [stack.enter_context(MemberLog(m.out, m.folder.tensorboard, trainer.step)) for m in self.members]
            on_epoch = PackEpochLog(trainer, folders, logs)
            self._where = functools.partial(_place_of, trainer.epochs.steps, self.config, trainer.phases)
            show, show_text = stack.enter_context(self._progress(trainer.step))
            if online is not None:
                online.on_wait = lambda steps, needed: show_text(
                    trainer.step, f"waiting for simulators: {steps}/{needed} steps"
                )

            def on_log(progress: TrainProgress) -> None:
                more = progress if online is None else online.added(progress)
                log_pack(logs, trainer, sampled.added(more))
                show(progress.step, sum(progress.losses) / len(progress.losses), progress.steps_per_sec)

            for stop in (s for s in self.stops if s > trainer.step):
                if trainer.finished:
                    break
                with interrupt_after_step() as interrupted:
                    try:
                        trainer.advance(stop, on_log, on_epoch, interrupted)
                    except NonFiniteLoss as error:
                        raise self._failed(str(error)) from None
                    except torch.cuda.OutOfMemoryError as error:
                        raise self._failed(out_of_memory(trainer, error)) from None
                    save_checkpoint(trainer, folders, self.state)
                    if online is not None:
                        online.saved()
                if interrupted():
                    raise self._interrupted(trainer.step)
                self._finish_stop(trainer.step, trainer.finished)
                if online is not None:
                    online.resumed()
        self._end(trainer.step)

    def go_with_workers(self, workers: WorkerConfig, dataset: Path, begun: Callable[[], None]) -> None:
        """Train in Ray Train workers; this process evaluates bundles as they appear, so workers never wait.

        dataset: path of the dataset, readable on every machine. begun: as for `go`. Raises `UserError` if the data do
        not fit the options, and `cli.Failed` if the workers fail.
        """
        from raybc.train.ray_train import Job, Workers

        members = [m.config for m in self.members]
        steps = prepare(self.config, self.data, torch.device("cpu")).steps_per_epoch(self.config.batch_size)
        self._where = functools.partial(_place_of, steps, self.config, ())
        begun()
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
                show, _ = stack.enter_context(self._progress(step))
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
        self._since = step
        self._text_log = stack.enter_context(TextLog(TrainingFolder(self.out).text_log))
        if step:
            cli.console.print(f"resuming at step {step} of {self.config.total_steps} ({self.out})")
        for number, member in enumerate(self.members):
            for config in self._tracker_configs:
                tracker = config.start(member.out, member.config, member.tracker_id, step)
                if tracker is not None:
                    stack.callback(tracker.close)
                    self._trackers.append((number, tracker))
        if self.config.action_metrics:
            stack.callback(self._draw_plots)
        self._evaluate_missing(step, finished)

    def _draw_plots(self) -> None:
        """Draw the curves of metrics.csv, also after Ctrl-C."""
        from raybc.report.plots import draw

        try:
            for member in self.members:
                draw(member.folder)
        except UserError as error:
            cli.print_notes([str(error)])

    def _failed(self, reason: str) -> cli.Failed:
        steps = [step for step in self.members[0].folder.checkpoints() if self._saved(step)]
        if not steps:
            return cli.Failed(f"{reason}; no checkpoint had been saved yet (see --save_interval and --eval_interval)")
        return cli.Failed(f"{reason}; the last good checkpoint is {self.members[0].bundle(max(steps))}")

    def _interrupted(self, step: int) -> cli.Interrupted:
        """What Ctrl-C ends with once `step` is saved; its evaluation, if it is due, belongs to the resume."""
        for member in self.members:
            member.point(step, False)
        return cli.Interrupted(
            f"step {step} of {self.config.total_steps} is saved; continue with --resume --out {self.out}"
        )

    def _end(self, step: int) -> None:
        for member in self.members:
            cli.console.print(f"policy: {member.bundle(step)}")
        if self._rollouts is not None and self._rollouts.notices.unusable:
            raise cli.Failed(
                f"the last evaluation says too little: {self._rollouts.notices.unusable}. The policy is saved: when "
                f"the simulator is mended, measure it with python -m raybc.rollout {self.out}"
            )

    @contextlib.contextmanager
    def _progress(self, step: int) -> Iterator[tuple[Callable[[int, float, float], None], Callable[[int, str], None]]]:
        """A progress bar; yields a function (step, loss, steps per second) that updates it, and one (step, text)."""
        config = self.config
        parts = [
            *Progress.get_default_columns()[:2],
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        ]
        with cli.progress(*parts) as progress:
            bar = progress.add_task("training", total=config.total_steps, completed=step, speed="")

            def show_text(step: int, text: str) -> None:
                progress.update(bar, completed=step, speed=text)
                self._text_log.write(f"step {step}/{config.total_steps}, {text}")

            def show(step: int, loss: float, steps_per_sec: float) -> None:
                show_text(step, f"{self._where(step)}loss {loss:.4f}, {steps_per_sec:.0f} steps/s")
                for _, tracker in self._trackers:
                    tracker.sync()

            yield show, show_text

    # --- evaluation -------------------------------------------------------------------------------------------------

    def _saved(self, step: int) -> bool:
        """Whether the bundles of all members at `step` are complete."""
        return all((member.bundle(step) / BUNDLE_FILE).is_file() for member in self.members)

    def _is_evaluated(self, step: int, finished: bool) -> bool:
        """Whether the checkpoint at `step` is one to evaluate."""
        if not self.config.eval_interval:
            return finished and not self.config.has_environment
        return finished or step % self.config.eval_interval == 0 or step == self.config.training_steps

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
        if finished and step < self.config.total_steps:
            cli.console.print(
                f"step {step}: stopped early: the monitored loss has not fallen by more than "
                f"{self.config.stop_min_delta:g} for {self.config.stop_patience} checks"
            )
        if self._is_evaluated(step, finished):
            self._evaluate(step, finished)
        for member in self.members:
            cli.console.print(f"checkpoint: {member.bundle(step)}")
        for member in self.members:
            member.point(step, finished)
            member.drop_old(step, self._since, self._is_kept)

    def _evaluate(self, step: int, finished: bool) -> None:
        if self._rollouts is not None:
            self._rollouts.run(step, finished)
            return
        for member in self.members:
            who = f"seed {member.config.seed}: " if len(self.members) > 1 else ""
            text = measure(member.folder, member.bundle(step), member.config, self.data.store, step)
            cli.console.print(f"step {step}: {who}{text}")


def _place_of(steps: int, config: RunConfig, phases: Sequence[Phase], step: int) -> str:
    """Round (where there are some), epoch and phase (where there are several) of the latest step, for the progress
    bar.

    steps: of an epoch.
    """
    if step > config.training_steps:
        return "online, "
    parts = [f"round {round_of(config, step)}/{config.num_rounds}"] if config.epochs_per_round else []
    parts.append(f"epoch {epoch_of(step, steps)}/{epoch_of(config.training_steps, steps)}")
    parts += [phase_at(phases, max(0, step - 1)).name] if len(phases) > 1 else []
    return ", ".join(parts) + ", "


def show_latest(members: Sequence[MemberRun], show: Callable[[int, float, float], None]) -> None:
    """Update the progress bar from the last row of train.csv, which another process writes."""
    rows = [read_rows(m.folder.train_csv)[-1:] for m in members]
    with contextlib.suppress(ValueError, TypeError, IndexError):  # no row yet, or an incomplete one
        last = [r[0] for r in rows]
        losses = [float(r["train/actor_loss"]) for r in last]
        show(int(last[0]["step"]), sum(losses) / len(losses), float(last[0]["train/steps_per_sec"]))
