"""Trials with similar recipes, trained as one pack. No Ray in here.

Recipes that differ only in `MEMBER_FIELDS` (learning rate, weight decay, ...), each with all seeds of the sweep, are
trained as one batched program. Each trial has its own state and bundles, so if its process dies it resumes from its
last evaluation in the ledger, in the same pack or in another one. How much time packs save is measured by
benchmarks/train_throughput.py, not in sweeps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from raybc.config import migrate
from raybc.sweep.ledger import Evaluation
from raybc.sweep.training import KEEP, Fail, Job, Report, TrialsFailed, run_trials
from raybc.sweep.trial import Evaluate, Rivals, TrialContext, load_data, log_evaluation
from raybc.train.arithmetic import pick_device
from raybc.train.data import resolved
from raybc.train.epoch_log import PackEpochLog
from raybc.train.log import MemberLog, log_pack
from raybc.train.loop import PackTrainer, with_seeds
from raybc.train.progress import Progress
from raybc.train.step import NonFiniteLoss


def run_pack(
    context: TrialContext, jobs: Sequence[Job], evaluate: Evaluate, report: Report, fail: Fail, rivals: Rivals
) -> None:
    """Train and measure, from the first evaluation that a trial lacks to the last."""
    torch.set_num_threads(context.threads)
    run_trials(context, jobs, _started, evaluate, report, fail, rivals)


@contextlib.contextmanager
def _started(context: TrialContext, jobs: Sequence[Job]) -> Iterator[_Pack]:
    pack = _Pack(context, jobs)
    with contextlib.ExitStack() as stack:
        pack.open_logs(stack)
        yield pack


class _Pack:
    """One program, for as long as its members stay the same: a `Training`."""

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

    def open_logs(self, stack: contextlib.ExitStack) -> None:
        """Open the logs of all members until the stack is closed."""
        folder = self.context.folder
        members = [(job.trial, seed) for job in self.jobs for seed in self.context.seeds]
        paths = [folder.member(trial, seed).path for trial, seed in members]
        self._logs = [
            stack.enter_context(MemberLog(path, folder.tensorboard(trial, seed), resume=self.trainer.step))
            for path, (trial, seed) in zip(paths, members, strict=True)
        ]
        self._on_epoch = PackEpochLog(self.trainer, paths, self._logs)

    def advance(self, k: int) -> None:
        def on_log(progress: Progress) -> None:
            log_pack(self._logs, self.trainer, progress)

        try:
            self.trainer.advance(self.context.steps[k - 1], on_log, self._on_epoch)
        except NonFiniteLoss as error:
            bad = {self.jobs[m // self.count].trial for m in error.members}
            raise TrialsFailed(dict.fromkeys(sorted(bad), f"NonFiniteLoss: {error}")) from error

    def save(self, k: int) -> None:
        for i, job in enumerate(self.jobs):
            members = slice(i * self.count, (i + 1) * self.count)
            for m, seed in zip(range(members.start, members.stop), self.context.seeds, strict=True):
                bundle = self.context.folder.checkpoint(job.trial, seed, self.trainer.step)
                if not bundle.exists():
                    self.trainer.bundle(m).save(bundle)
            if not _state(self.context, job.trial, k).exists():
                self.trainer.save_state(_state(self.context, job.trial, k), members)

    def log(self, trial: int, evaluation: Evaluation) -> None:
        first = self.count * [job.trial for job in self.jobs].index(trial)
        for log, seed in zip(self._logs[first : first + self.count], self.context.seeds, strict=True):
            log_evaluation(log, self.context, seed, evaluation)

    def drop_old(self, trial: int, k: int) -> None:
        for old in range(1, k - KEEP + 1):
            _state(self.context, trial, old).unlink(missing_ok=True)
            for seed in self.context.seeds:
                shutil.rmtree(
                    self.context.folder.checkpoint(trial, seed, self.context.steps[old - 1]), ignore_errors=True
                )


def _state(context: TrialContext, trial: int, k: int) -> Path:
    return context.folder.state(trial, context.steps[k - 1])
