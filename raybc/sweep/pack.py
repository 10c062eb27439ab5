"""Trials that are alike, trained as one pack and measured by rollouts at every evaluation. No Ray in here.

Recipes that differ in `MEMBER_FIELDS` only (learning rate, weight decay, ...), each with all seeds of the sweep, are
one batched program. Each trial has a state and bundles of its own, so that one whose process died goes on from its
last evaluation that is in the ledger, in the same pack or in another.
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
from typing import TYPE_CHECKING

from raybc.config import MEMBER_FIELDS, RunConfig
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

if TYPE_CHECKING:  # torch is imported in the processes that train
    from raybc.train.log import MemberLog
    from raybc.train.loop import OnLog, PackTrainer, Progress

#: Training states and bundles that are kept: the one that is measured now and the one before.
KEEP = 2
#: Seconds for each of the two looks at how long a member alone takes, and the steps that have to be left for them.
LOOK, FEWEST = 0.1, 20

#: `report(trial, evaluation)`: record a result; whether the trial goes on. May not return when none of the pack does.
Report = Callable[[int, Evaluation], bool]
#: `fail(trial, reason)`: record that a trial cannot go on. May not return either.
Fail = Callable[[int, str], None]


@dataclass(frozen=True)
class Job:
    """A trial of a pack; `done`: its evaluations that are in the ledger."""

    trial: int
    run: RunConfig
    done: int = 0


def alike(run: RunConfig) -> RunConfig:
    """What recipes that can be one program have in common."""
    return run.changed(**{name: getattr(RunConfig, name) for name in MEMBER_FIELDS})


def run_pack(
    plan: TrialContext, jobs: Sequence[Job], evaluate: Evaluate, report: Report, fail: Fail, rivals: Rivals
) -> None:
    """Train and measure from the first evaluation that a trial lacks to the last. `rivals(trial, k)`: what other trials
    did at evaluation k."""
    import torch

    torch.set_num_threads(plan.threads)
    going = list(jobs)
    while going:
        going = _Pack(plan, going).run(evaluate, report, fail, rivals)


class _Pack:
    """One program, for as long as its members stay the same."""

    def __init__(self, plan: TrialContext, jobs: Sequence[Job]) -> None:
        from raybc.train.data import resolved
        from raybc.train.loop import PackTrainer, pick_device, with_seeds

        data = load_data(plan)
        self.plan = plan
        self.jobs = [dataclasses.replace(job, run=resolved(job.run, data.store)) for job in jobs]
        self.count = len(plan.seeds)
        members = [member for job in self.jobs for member in with_seeds(job.run, plan.seeds)]
        self.trainer = PackTrainer(members, data, pick_device(jobs[0].run.device))
        # The newest states that are not beyond the evaluation to be measured next.
        next_one = min(job.done for job in jobs) + 1
        for k in range(min(next_one, len(plan.steps)), 0, -1):
            states = [_state(plan, job.trial, k) for job in jobs]
            if all(path.exists() for path in states):
                self.trainer.load_state(*states)
                break
        self.next = next_one

    def run(self, evaluate: Evaluate, report: Report, fail: Fail, rivals: Rivals) -> list[Job]:
        """To the end, or to where a trial leaves; gives the trials that are to go on in another pack."""
        from raybc.train.log import MemberLog
        from raybc.train.step import NonFiniteLoss

        plan, trainer = self.plan, self.trainer
        with contextlib.ExitStack() as stack:
            logs = [
                stack.enter_context(
                    MemberLog(
                        plan.folder(job.trial) / f"seed_{seed}", plan.tensorboard(job.trial, seed), resume=trainer.step
                    )
                )
                for job in self.jobs
                for seed in plan.seeds
            ]
            for k in range(self.next, len(plan.steps) + 1):
                started = time.time()
                try:
                    slower = self._advance(k, logs)
                except NonFiniteLoss as error:
                    bad = {m // self.count for m in error.members}
                    for i in sorted(bad):
                        fail(self.jobs[i].trial, f"NonFiniteLoss: {error}")
                    return [job for i, job in enumerate(self.jobs) if i not in bad]
                trained = time.time()
                self._save(k)
                saved = time.time()
                stay = []
                for i, (job, found) in enumerate(self._measure(k, evaluate, rivals)):
                    if isinstance(found, AllEpisodesFailed):
                        fail(job.trial, f"{type(found).__name__}: {found}")
                        continue
                    if found is not None:
                        share = (trained - started) / len(self.jobs)
                        found.timing = {
                            "train": [started, trained],
                            "rollout": [saved, time.time()],
                            "train_seconds": share,
                            "alone_seconds": share * slower,
                        }
                        self._log(found, logs[i * self.count : (i + 1) * self.count])
                        self._drop_old(job.trial, k)
                        if not report(job.trial, found):
                            continue
                    stay.append(dataclasses.replace(job, done=max(job.done, k)))
                if len(stay) < len(self.jobs):
                    return stay
                self.jobs = stay
        return []

    def _advance(self, k: int, logs: Sequence[MemberLog]) -> float:
        """Train to evaluation k; how many times as long its members would take one after another."""
        from raybc.train.log import log_pack

        def on_log(progress: Progress) -> None:
            log_pack(logs, self.trainer, progress)

        until = self.plan.steps[k - 1]
        slower = _one_after_another(self.trainer, until, on_log) if len(logs) > 1 else 1.0
        self.trainer.advance(until, on_log)
        return slower

    def _save(self, k: int) -> None:
        for i, job in enumerate(self.jobs):
            members = slice(i * self.count, (i + 1) * self.count)
            for m, seed in zip(range(members.start, members.stop), self.plan.seeds, strict=True):
                bundle = self.plan.bundle(job.trial, seed, self.trainer.step)
                if not bundle.exists():
                    self.trainer.bundle(m).save(bundle)
            if not _state(self.plan, job.trial, k).exists():
                self.trainer.save_state(_state(self.plan, job.trial, k), members)

    def _measure(
        self, k: int, evaluate: Evaluate, rivals: Rivals
    ) -> list[tuple[Job, Evaluation | AllEpisodesFailed | None]]:
        """Side by side, what of evaluation k is not in the ledger."""

        def one(job: Job) -> Evaluation | AllEpisodesFailed | None:
            if job.done >= k:
                return None
            try:
                return evaluate_trial(self.plan, job.trial, job.run, k, evaluate, rivals(job.trial, k))
            except AllEpisodesFailed as error:
                return error

        with ThreadPoolExecutor(len(self.jobs)) as threads:
            return list(zip(self.jobs, threads.map(one, self.jobs), strict=True))

    def _log(self, evaluation: Evaluation, logs: Sequence[MemberLog]) -> None:
        for log, seed in zip(logs, self.plan.seeds, strict=True):
            for row in (r for r in evaluation.rows if r["seed"] == seed and r["success_rate"] is not None):
                log.scalar(f"eval/success/{setting_label(row)}", row["success_rate"], evaluation.step)

    def _drop_old(self, trial: int, k: int) -> None:
        for old in range(1, k - KEEP + 1):
            _state(self.plan, trial, old).unlink(missing_ok=True)
            for seed in self.plan.seeds:
                shutil.rmtree(self.plan.bundle(trial, seed, self.plan.steps[old - 1]), ignore_errors=True)


def _state(plan: TrialContext, trial: int, k: int) -> Path:
    return plan.folder(trial) / f"state_{plan.steps[k - 1]:08d}.safetensors"


#: What `_one_after_another` found in this process: of recipes that are alike, and the size of their pack.
_FOUND: dict[tuple[RunConfig, int], float] = {}


def _one_after_another(trainer: PackTrainer, until: int, on_log: OnLog) -> float:
    """How many times as long the members of a pack would take one after another: steps of a member alone (which are
    thrown away) and of the pack (which are not, and are logged), by turns. Not looked at where programs are compiled:
    that takes longer than what would be learned is worth."""
    from raybc.train.loop import PackTrainer

    key = alike(trainer.config), len(trainer.members)
    if trainer.compiled:
        return 1.0
    if key not in _FOUND and until - trainer.step >= FEWEST:
        alone = PackTrainer(trainer.members[:1], trainer.data, trainer.device)
        both: tuple[tuple[PackTrainer, OnLog | None], ...] = ((alone, None), (trainer, on_log))
        for one, log in both:
            for _ in range(3):  # the first steps allocate
                _advance_one(one, log)
        each = [_seconds_a_step(one, until, log) for _ in range(2) for one, log in both]
        _FOUND[key] = len(trainer.members) * (each[0] + each[2]) / (each[1] + each[3])
    return _FOUND.get(key, 1.0)


def _seconds_a_step(trainer: PackTrainer, until: int, on_log: OnLog | None) -> float:
    began, first = time.perf_counter(), trainer.step
    while time.perf_counter() < began + LOOK and trainer.step < until - 1:
        _advance_one(trainer, on_log)
    return (time.perf_counter() - began) / max(1, trainer.step - first)


def _advance_one(trainer: PackTrainer, on_log: OnLog | None) -> None:
    """One step, which is logged if it would be logged in a longer advance."""
    is_logged = (trainer.step + 1) % trainer.config.log_interval == 0
    trainer.advance(trainer.step + 1, on_log if is_logged else None)
