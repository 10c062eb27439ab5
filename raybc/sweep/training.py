"""What a trial needs of a training, and the loop: train to the next evaluation, measure, report. No Ray in here.

How policies are trained is somebody else's business (`Training`): `sweep.pack` trains recipes as one program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import time
from typing import Protocol

from raybc.config import MEMBER_FIELDS, RunConfig
from raybc.files import write_text
from raybc.sweep.ledger import Evaluation
from raybc.sweep.trial import AllEpisodesFailed, Evaluate, Rivals, TrialContext, evaluate_trial

#: Evaluations whose training states and checkpoints are kept: the current one and the one before.
KEEP = 2

#: `report(trial, evaluation)`: record a result; returns whether the trial continues. May not return if no trial that is
#: trained with it does.
Report = Callable[[int, Evaluation], bool]
#: `fail(trial, reason, errors)`: record that a trial failed. errors: its episodes, if all of them ended in errors. May
#: not return either.
Fail = Callable[[int, str, int], None]


@dataclass(frozen=True)
class Job:
    """A trial that is trained."""

    trial: int
    run: RunConfig
    done: int = 0
    """Number of its evaluations that are in the ledger."""


def alike(run: RunConfig) -> RunConfig:
    """What recipes have in common that can be trained as one program: equal for those, different for others."""
    if run.takes is not None:  # trained by others
        return run
    return run.changed(**{name: getattr(RunConfig, name) for name in MEMBER_FIELDS})


class TrialsFailed(Exception):
    """Some trials cannot be trained further; the others may continue in another `Training`."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        """reasons: number of the trial -> why."""
        super().__init__("; ".join(reasons.values()))
        self.reasons = dict(reasons)


class Training(Protocol):
    """Trials that are trained together, for as long as they stay the same."""

    @property
    def jobs(self) -> Sequence[Job]:
        """The trials, with everything about their recipes that the data decide."""

    def advance(self, k: int) -> None:
        """Train to the step of evaluation k. Raises `TrialsFailed`."""

    def save(self, k: int) -> None:
        """Leave on disk what is measured, of every trial and seed (`SweepFolder.checkpoint`), and what it takes to
        continue from there."""

    def log(self, trial: int, evaluation: Evaluation) -> None:
        """Show a result beside the curves of the training."""

    def drop_old(self, trial: int, k: int) -> None:
        """Delete what is older than the last `KEEP` evaluations; k: the newest that is in the ledger."""


Start = Callable[[TrialContext, Sequence[Job]], AbstractContextManager[Training]]


def run_trials(
    context: TrialContext,
    jobs: Sequence[Job],
    start: Start,
    evaluate: Evaluate,
    report: Report,
    fail: Fail,
    rivals: Rivals,
) -> None:
    """Train and measure, from the first evaluation that a trial lacks to the last. start: begins a training of jobs."""
    remaining = list(jobs)
    while remaining:
        with start(context, remaining) as training:
            remaining = _Loop(context, training).run(evaluate, report, fail, rivals)


class _Loop:
    """One training, for as long as its trials stay the same."""

    def __init__(self, context: TrialContext, training: Training) -> None:
        self.context, self.training = context, training
        self.jobs = list(training.jobs)

    def run(self, evaluate: Evaluate, report: Report, fail: Fail, rivals: Rivals) -> list[Job]:
        """Train until the end, or until a trial leaves; returns the trials that continue in another training."""
        context, training = self.context, self.training
        for k in range(min(job.done for job in self.jobs) + 1, len(context.steps) + 1):
            started = time()
            try:
                training.advance(k)
            except TrialsFailed as failed:
                for trial, reason in sorted(failed.reasons.items()):
                    fail(trial, reason, 0)
                return [job for job in self.jobs if job.trial not in failed.reasons]
            trained = started, time()
            training.save(k)
            stay = []
            for job, found in self._measure(k, trained, evaluate, rivals):
                if isinstance(found, AllEpisodesFailed):
                    write_text(context.folder.traceback(job.trial), f"{found}\n{found.traceback}\n")
                    fail(job.trial, f"{type(found).__name__}: {found}", found.episodes)
                    continue
                if found is not None:
                    training.log(job.trial, found)
                    training.drop_old(job.trial, k)
                    if not report(job.trial, found):
                        continue
                stay.append(dataclasses.replace(job, done=max(job.done, k)))
            if len(stay) < len(self.jobs):
                return stay
            self.jobs = stay
        return []

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
