"""Trials that somebody else's trainer trains, one process for each seed. No Ray in here.

The seeds of a trial train one after the other, each to the next milestone, where its process waits; then all are
measured together, as trials of raybc's own training are.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from raybc.config.trainer import ALWAYS, TrainerRun, in_folder
from raybc.files import write_text
from raybc.foreign.measured import measured_policy
from raybc.registry import get_task
from raybc.rollout.policy import MeasuredBundle
from raybc.sweep.ledger import Evaluation
from raybc.sweep.space import settings_of
from raybc.sweep.training import KEEP, Fail, Job, Report, TrialsFailed, run_trials
from raybc.sweep.trial import Evaluate, Rivals, TrialContext, log_evaluation
from raybc.train.log import MemberLog
from raybc.trainer.job import Task
from raybc.trainer.process import TrainerFailed, TrainerProcess
from raybc.types import UserError


def run_trainer(
    context: TrialContext, jobs: Sequence[Job], evaluate: Evaluate, report: Report, fail: Fail, rivals: Rivals
) -> None:
    """Train and measure, from the first evaluation that a trial lacks to the last; one trial at a time."""
    for job in jobs:
        run_trials(context, [job], _started, evaluate, report, fail, rivals)


@contextlib.contextmanager
def _started(context: TrialContext, jobs: Sequence[Job]) -> Iterator[_Trainer]:
    with contextlib.ExitStack() as stack:
        (job,) = jobs
        yield _Trainer(context, job, stack)


class _Trainer:
    """The seeds of one trial: a `Training`."""

    def __init__(self, context: TrialContext, job: Job, stack: contextlib.ExitStack) -> None:
        assert isinstance(job.run, TrainerRun)
        self.context, self.jobs, self._run, self._stack = context, [job], job.run, stack
        self._reached = {seed: self._newest(job, seed) for seed in context.seeds}
        """Seed -> the evaluation whose policy is there."""
        self._processes: dict[int, TrainerProcess] = {}
        self._logs = {seed: stack.enter_context(self._log_of(seed)) for seed in context.seeds}

    def _log_of(self, seed: int) -> MemberLog:
        folder, trial = self.context.folder, self.jobs[0].trial
        return MemberLog(folder.member(trial, seed).path, folder.tensorboard(trial, seed), self._step_of(seed))

    def _step_of(self, seed: int) -> int:
        """The step of the newest policy of a seed; 0: none."""
        reached = self._reached[seed]
        return self.context.steps[reached - 1] if reached else 0

    def _newest(self, job: Job, seed: int) -> int:
        """The newest policy on disk that is not beyond the next evaluation; 0: none."""
        steps = self.context.steps[: job.done + 1]
        there = [k for k, step in enumerate(steps, 1) if self.context.folder.checkpoint(job.trial, seed, step).is_dir()]
        return max(there, default=0)

    def advance(self, k: int) -> None:
        for seed in self.context.seeds:
            try:
                if self._reached[seed] < k:
                    self._train(seed, k)
                self._check(seed, k)  # also where an earlier process was killed before it could
            except TrainerFailed as error:
                trial = self.jobs[0].trial
                if error.traceback:
                    write_text(self.context.folder.traceback(trial), error.traceback)
                raise TrialsFailed({trial: f"seed {seed}: {error}"}) from error
            self._reached[seed] = max(self._reached[seed], k)

    def _train(self, seed: int, k: int) -> None:
        """Train one seed to the step of evaluation k."""
        if seed in self._processes:
            self._processes[seed].proceed()
        else:
            process = self._processes[seed] = self._start(seed)
            self._stack.callback(process.close)
        for message in self._processes[seed].messages():
            if message.get("metrics"):
                named = {f"train/{name}": value for name, value in message["metrics"].items()}
                self._logs[seed].add(message["step"], named, {})
            if message.get("policy"):
                if message["step"] == self.context.steps[k - 1]:
                    return
                self._processes[seed].proceed()
        raise TrainerFailed(f"the trainer ended before step {self.context.steps[k - 1]}")

    def _check(self, seed: int, k: int) -> None:
        """Raise `TrainerFailed` for a policy that cannot be measured as the sweep says. One of others is asked once."""
        context, run = self.context, self._run
        step = context.steps[k - 1]
        try:
            policy = measured_policy(context.folder.checkpoint(self.jobs[0].trial, seed, step))
            if context.env_spec is not None:
                instruction = context.env_spec.instruction or get_task(context.task).instruction
                policy.check_env(context.env_spec, context.task, instruction)
            where = "train" if isinstance(policy, MeasuredBundle) else "train."
            named = [name for name in run.policy.sample_axes if name not in ALWAYS]
            policy.check_sampling(named, where)
            if policy.setting.flow_steps and isinstance(policy, MeasuredBundle) and "flow_steps" not in named:
                raise UserError("train.flow_steps: expected a number, since the reported policy has a flow, got none")
            for setting in settings_of(run, context.settings):
                policy.check_setting(setting, where)
        except UserError as error:
            raise TrainerFailed(f"policy of step {step}: {error}") from error

    def _start(self, seed: int) -> TrainerProcess:
        context, trial = self.context, self.jobs[0].trial
        member = context.folder.member(trial, seed)
        task = Task(
            function=in_folder(self._run.policy.kind, Path(context.working_folder)),
            options=self._run.own_options(),
            seed=seed,
            dataset=context.dataset,
            env_name=self._run.env_name,
            task=context.task,
            obs_keys=list(context.obs_keys),
            milestones=list(context.steps),
            device=self._run.device,
            folder=str(member.path),
            step=self._step_of(seed),
        )
        return TrainerProcess(task, member.text_log, context.threads, context.working_folder)

    def save(self, k: int) -> None:
        """What is measured was saved when it was reported."""

    def log(self, trial: int, evaluation: Evaluation) -> None:
        for seed in self.context.seeds:
            log_evaluation(self._logs[seed], self.context, seed, evaluation)

    def drop_old(self, trial: int, k: int) -> None:
        for old in range(1, k - KEEP + 1):
            for seed in self.context.seeds:
                path = self.context.folder.checkpoint(trial, seed, self.context.steps[old - 1])
                shutil.rmtree(path, ignore_errors=True)
