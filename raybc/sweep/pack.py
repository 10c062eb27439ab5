"""Trials with similar recipes, trained as one pack and measured by rollouts at every evaluation. No Ray in here.

Recipes that differ only in `MEMBER_FIELDS` (learning rate, weight decay, ...), each with all seeds of the sweep, are
trained as one batched program. Each trial has its own state and bundles, so if its process dies it resumes from its
last evaluation in the ledger, in the same pack or in another one. How much time packs save is measured by
benchmarks/train_throughput.py, not in sweeps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from raybc.config import MEMBER_FIELDS, RunConfig, migrate
from raybc.files import write_text
from raybc.sweep.ledger import Evaluation
from raybc.sweep.trial import (
    AllEpisodesFailed,
    Evaluate,
    Rivals,
    TrialContext,
    evaluate_trial,
    load_data,
    setting_label,
)
from raybc.train.arithmetic import pick_device
from raybc.train.data import resolved
from raybc.train.epoch_log import PackEpochLog
from raybc.train.log import MemberLog, log_pack
from raybc.train.loop import PackTrainer, with_seeds
from raybc.train.progress import Progress
from raybc.train.step import NonFiniteLoss

#: Evaluations whose training states and bundles are kept: the current one and the one before.
KEEP = 2

#: `report(trial, evaluation)`: record a result; returns whether the trial continues. May not return if no trial of the
#: pack does.
Report = Callable[[int, Evaluation], bool]
#: `fail(trial, reason, errors)`: record that a trial failed. errors: its episodes, if all of them ended in errors. May
#: not return either.
Fail = Callable[[int, str, int], None]


@dataclass(frozen=True)
class Job:
    """A trial of a pack."""

    trial: int
    run: RunConfig
    done: int = 0
    """Number of its evaluations that are in the ledger."""


def alike(run: RunConfig) -> RunConfig:
    """What recipes have in common that can be trained as one program: equal for those, different for others."""
    return run.changed(**{name: getattr(RunConfig, name) for name in MEMBER_FIELDS})


def run_pack(
    context: TrialContext, jobs: Sequence[Job], evaluate: Evaluate, report: Report, fail: Fail, rivals: Rivals
) -> None:
    """Train and measure, from the first evaluation that a trial lacks to the last."""
    torch.set_num_threads(context.threads)
    remaining = list(jobs)
    while remaining:
        remaining = _Pack(context, remaining).run(evaluate, report, fail, rivals)


class _Pack:
    """One program, for as long as its members stay the same."""

    def __init__(self, context: TrialContext, jobs: Sequence[Job]) -> None:
        data = load_data(context)
        self.context = context
        self.jobs = [dataclasses.replace(job, run=resolved(job.run, data.store)) for job in jobs]
        self.count = len(context.seeds)
        members = [member for job in self.jobs for member in with_seeds(job.run, context.seeds)]
        self.trainer = PackTrainer(members, data, pick_device(jobs[0].run.device))
        # Load the newest states that are not beyond the next evaluation.
        next_one = min(job.done for job in jobs) + 1
        for k in range(min(next_one, len(context.steps)), 0, -1):
            states = [_state(context, job.trial, k) for job in jobs]
            if all(path.exists() for path in states):
                earlier = context.earlier_options
                saved_as = [migrate.known_ids(m, context.fingerprint, earlier) for m in self.trainer.members]
                self.trainer.load_state(*states, saved_as=saved_as)
                break
        self.next = next_one

    def run(self, evaluate: Evaluate, report: Report, fail: Fail, rivals: Rivals) -> list[Job]:
        """Train until the end, or until a trial leaves; returns the trials that continue in another pack."""
        context, trainer = self.context, self.trainer
        with contextlib.ExitStack() as stack:
            logs = [
                stack.enter_context(
                    MemberLog(
                        context.folder.member(job.trial, seed).path,
                        context.folder.tensorboard(job.trial, seed),
                        resume=trainer.step,
                    )
                )
                for job in self.jobs
                for seed in context.seeds
            ]
            members = [context.folder.member(job.trial, seed).path for job in self.jobs for seed in context.seeds]
            on_epoch = PackEpochLog(trainer, members, logs)
            for k in range(self.next, len(context.steps) + 1):
                started = time.time()
                try:
                    self._advance(k, logs, on_epoch)
                except NonFiniteLoss as error:
                    bad = {m // self.count for m in error.members}
                    for i in sorted(bad):
                        fail(self.jobs[i].trial, f"NonFiniteLoss: {error}", 0)
                    return [job for i, job in enumerate(self.jobs) if i not in bad]
                trained = started, time.time()
                self._save(k)
                stay = []
                for i, (job, found) in enumerate(self._measure(k, trained, evaluate, rivals)):
                    if isinstance(found, AllEpisodesFailed):
                        write_text(context.folder.traceback(job.trial), f"{found}\n{found.traceback}\n")
                        fail(job.trial, f"{type(found).__name__}: {found}", found.episodes)
                        continue
                    if found is not None:
                        self._log(found, logs[i * self.count : (i + 1) * self.count])
                        self._drop_old(job.trial, k)
                        if not report(job.trial, found):
                            continue
                    stay.append(dataclasses.replace(job, done=max(job.done, k)))
                if len(stay) < len(self.jobs):
                    return stay
                self.jobs = stay
        return []

    def _advance(self, k: int, logs: Sequence[MemberLog], on_epoch: PackEpochLog) -> None:
        """Train to the step of evaluation k."""

        def on_log(progress: Progress) -> None:
            log_pack(logs, self.trainer, progress)

        self.trainer.advance(self.context.steps[k - 1], on_log, on_epoch)

    def _save(self, k: int) -> None:
        for i, job in enumerate(self.jobs):
            members = slice(i * self.count, (i + 1) * self.count)
            for m, seed in zip(range(members.start, members.stop), self.context.seeds, strict=True):
                bundle = self.context.folder.checkpoint(job.trial, seed, self.trainer.step)
                if not bundle.exists():
                    self.trainer.bundle(m).save(bundle)
            if not _state(self.context, job.trial, k).exists():
                self.trainer.save_state(_state(self.context, job.trial, k), members)

    def _measure(
        self, k: int, trained: tuple[float, float], evaluate: Evaluate, rivals: Rivals
    ) -> list[tuple[Job, Evaluation | AllEpisodesFailed | None]]:
        """Measure at the same time all trials whose evaluation k is not in the ledger yet.

        trained: start and end of the training before it."""
        train_seconds = (trained[1] - trained[0]) / len(self.jobs)

        def one(job: Job) -> Evaluation | AllEpisodesFailed | None:
            if job.done >= k:
                return None
            try:
                others = rivals(job.trial, k)
                return evaluate_trial(self.context, job.trial, job.run, k, trained, train_seconds, evaluate, others)
            except AllEpisodesFailed as error:
                return error

        with ThreadPoolExecutor(len(self.jobs)) as threads:
            return list(zip(self.jobs, threads.map(one, self.jobs), strict=True))

    def _log(self, evaluation: Evaluation, logs: Sequence[MemberLog]) -> None:
        for log, seed in zip(logs, self.context.seeds, strict=True):
            for row in evaluation.rows:
                values = {"success": row["success_rate"], self.context.metric.name: row.get("score")}
                for name, value in values.items():
                    if row["seed"] == seed and value is not None:
                        log.scalar(f"eval/{name}/{setting_label(row)}", value, evaluation.step)

    def _drop_old(self, trial: int, k: int) -> None:
        for old in range(1, k - KEEP + 1):
            _state(self.context, trial, old).unlink(missing_ok=True)
            for seed in self.context.seeds:
                shutil.rmtree(
                    self.context.folder.checkpoint(trial, seed, self.context.steps[old - 1]), ignore_errors=True
                )


def _state(context: TrialContext, trial: int, k: int) -> Path:
    return context.folder.state(trial, context.steps[k - 1])
