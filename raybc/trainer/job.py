"""`TrainerJob`: what a trainer of others gets, and how it hands over what it has learned. Neither torch nor Ray."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybc.foreign.folder import files_in
from raybc.run_folder import TrainingFolder
from raybc.trainer.handed import Handed, hand_over
from raybc.types import UserError


class TrainingStopped(SystemExit):
    """Raised by `TrainerJob.report` when the sweep needs no more of a training: it was pruned, or it is complete."""


@dataclass(frozen=True)
class Task:
    """What a trainer is asked to do, as JSON values."""

    function: str
    """The trainer: `module:function` or `FILE.py:function`."""
    options: dict[str, Any]
    seed: int
    dataset: str
    env_name: str
    task: str
    obs_keys: list[str]
    milestones: list[int]
    device: str
    folder: str
    """The member's run folder."""
    step: int
    """Of the checkpoint to continue from; 0: none."""


class TrainerJob:
    """One training: a recipe, a seed, a budget, and where everything is.

    A trainer calls `report` at every step of `milestones`, in order. The sweep then measures the policy, and `report`
    returns when training is to continue (after the last one at once).
    """

    options: Mapping[str, Any]
    """The trial's value of each option that the trainer declares."""
    seed: int
    """Train with this seed: the same options and seed should give the same policy."""
    dataset: Path
    """The demonstrations."""
    env_name: str
    """The environment, as the sweep names it."""
    task: str
    """The task on which policies are measured."""
    obs_keys: tuple[str, ...]
    """The observations that a policy sees."""
    steps: int
    """The budget: `train.training_steps`, in whatever the trainer counts (gradient steps, epochs)."""
    milestones: tuple[int, ...]
    """Steps at which a policy is expected, rising; the last is `steps`."""
    device: str
    """`train.device`: auto, cpu or cuda."""
    folder: Path
    """A folder of this training alone, which outlives the process; for states from which it can continue."""
    step: int
    """The step of `checkpoint`; 0 at the beginning."""
    checkpoint: Path | None
    """What was reported at `step` by an earlier process, if there was one: a bundle, or the folder of a policy. A
    trainer that cannot continue from it starts at 0 again: what it reports up to `step` is not measured again."""
    checkpoint_files: Path | None
    """The copy of `files` in it; None where there is none."""

    def __init__(self, task: Task, tell: Callable[[dict[str, Any]], None], wait: Callable[[], None]) -> None:
        """tell: sends a message to the sweep. wait: returns when training is to continue, or raises."""
        self._member, self._tell, self._wait = TrainingFolder(Path(task.folder)), tell, wait
        self.options, self.seed = dict(task.options), task.seed
        self.dataset, self.env_name, self.task = Path(task.dataset), task.env_name, task.task
        self.obs_keys, self.device = tuple(task.obs_keys), task.device
        self.milestones, self.steps = tuple(task.milestones), task.milestones[-1]
        self.folder = self._member.path / "trainer"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.step = task.step
        self.checkpoint = self._member.checkpoint(task.step) if task.step else None
        self.checkpoint_files = files_in(self.checkpoint) if self.checkpoint else None
        self._reported = 0
        self.done = task.step
        """The last milestone that was reported."""

    def report(
        self,
        step: int,
        policy: Handed | None = None,
        metrics: Mapping[str, float] | None = None,
        *,
        files: Path | str | None = None,
    ) -> None:
        """Hand over a policy, and values for people.

        Args:
            step: how far training is.
            policy: the folder of a bundle of raybc; a function `make_policy(about)` at the top of a module, or its name
                as `module:my_policy:make_policy`, as `raybc rollout` takes it (docs/foreign_policies.md); another text
                that `raybc rollout` takes and that is a file. None between milestones, for metrics alone.
            metrics: name -> number, for `train.csv` and TensorBoard; one called `loss` is drawn.
            files: a file or a folder with what `make_policy` needs, such as weights. It is copied, and the path of the
                copy is `about.argument`.

        Raises `TrainingStopped` when the sweep needs no more. Raises `UserError` for what cannot be measured.
        """
        if not hasattr(step, "__index__") or not self._reported <= step <= self.steps:
            raise UserError(f"report: expected a step of {self._reported} to {self.steps}, got {step!r}")
        self._reported = step = operator.index(step)  # numpy has whole numbers of its own
        values = _numbers(metrics or {})
        if step <= self.step:  # an earlier process got further
            return
        due = next((milestone for milestone in self.milestones if milestone > self.done), None)
        if due is not None and step > due:
            raise UserError(f"report at step {step}: expected a policy at step {due} first ({self._expected()})")
        if step != due:
            if values:
                self._tell({"step": step, "metrics": values})
            return
        if policy is None:
            raise UserError(f"report at step {step}: expected a policy at this step ({self._expected()}), got none")
        hand_over(policy, files, self.env_name, self._member.checkpoint(step), f"report at step {step}")
        self.done = step
        self._tell({"step": step, "metrics": values, "policy": True})
        if step < self.steps:  # the rest of the trainer is its own business
            self._wait()

    def returned(self, value: Any) -> None:
        """What the trainer returned: a policy at the last milestone, or None. Raises `UserError` where one is
        missing."""
        if value is not None and self.done < self.steps:
            self.report(self.steps, value)
        if not self.done:
            raise UserError(f"the trainer ended without a policy: expected job.report(step, policy) {self._expected()}")
        missing = [step for step in self.milestones if step > self.done]
        if missing:
            raise UserError(f"the trainer ended after step {self.done}, without a policy at step {missing[0]}")

    def _expected(self) -> str:
        return f"at each step of job.milestones: {listed(self.milestones)}"


def listed(steps: Sequence[int]) -> str:
    """Some steps, for messages."""
    return ", ".join(map(str, steps[:4])) + (
        f", ..., {steps[-1]}" if len(steps) > 5 else f", {steps[4]}" if len(steps) == 5 else ""
    )


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    """Finite numbers of metrics, also of arrays with one value."""
    found = {}
    for name, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise UserError(f"report: metrics: {name}: expected a number, got {value!r:.80}") from None
        if math.isfinite(number):
            found[str(name)] = number
    return found
