"""The defaults and checks of a sweep: the fields of `SweepConfig` are the keys of `sweeps/*.yaml`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from raybc.config import SAMPLE_AXES, DemosConfig, OptionInfo, RunConfig, flag_path
from raybc.config.component import find_kind
from raybc.config.flat import COMPONENTS, parts_of, unknown_option
from raybc.config.trainer import TrainerConfig
from raybc.metric import MetricName, OverTasks
from raybc.strict import check_type
from raybc.types import SPLIT_SIZE, UserError


@dataclass(frozen=True)
class Axis:
    """One axis of a search space: either `values`, or `low`..`high` (with `log`: on a logarithmic scale)."""

    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False
    when: dict[str, Any] = field(default_factory=dict)
    """Other axes -> a value or a list of values: the axis is part of a recipe only where all of them hold."""

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether `when` holds for a recipe."""
        return all(name in params and params[name] in _as_list(wanted) for name, wanted in self.when.items())

    def extremes(self) -> tuple[Any, ...]:
        """The values at the corners of the space: the bounds, or every value of a list, which has no order."""
        if self.values:
            return self.values
        return (self.low, self.high)

    def contains(self, value: Any) -> bool:
        if self.values:
            return value in self.values
        assert self.low is not None
        assert self.high is not None
        return isinstance(value, int | float) and self.low <= value <= self.high

    def validate(self, where: str, kind: type) -> None:
        if self.values:
            if self.low is not None or self.high is not None or self.log:
                raise UserError(f"{where}: expected either `values` or `low`/`high`, got both")
            if any(v in self.values[:i] for i, v in enumerate(self.values)):
                raise UserError(f"{flag_path(where)}values: expected different values, got {list(self.values)}")
            return
        if self.low is None or self.high is None:
            raise UserError(f"{where}: expected `values: [...]`, or `low: ` and `high: `")
        if kind not in (int, float):
            raise UserError(f"{where}: expected `values: [...]` for a {kind.__name__}, got a range")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"{where}: expected finite low < high, got low {self.low}, high {self.high}")
        if self.log and self.low <= 0:
            raise UserError(f"{flag_path(where)}low: expected more than 0 on a logarithmic axis, got {self.low}")
        if kind is int and (self.low != int(self.low) or self.high != int(self.high)):
            raise UserError(f"{where}: expected whole numbers, got low {self.low}, high {self.high}")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class SearchConfig:
    """How recipes are proposed."""

    sampler: Literal["tpe", "random", "gp", "cmaes"] = "tpe"
    trials: int = 12
    seed: int = 0
    max_concurrent: int = 2
    pack: int = 1
    """Recipes that are proposed together; those that differ only in `MEMBER_FIELDS` are trained as one program."""
    points_to_evaluate: tuple[dict[str, Any], ...] = ()
    """Recipes to try right after the defaults; omitted axes have their default."""

    def validate(self, where: str) -> None:
        if self.trials < 1:
            raise UserError(f"{flag_path(where)}trials: expected at least 1, got {self.trials}")
        if self.max_concurrent < 1:
            raise UserError(f"{flag_path(where)}max_concurrent: expected at least 1, got {self.max_concurrent}")
        if self.pack < 1:
            raise UserError(f"{flag_path(where)}pack: expected at least 1, got {self.pack}")
        if self.seed < 0:
            raise UserError(f"{flag_path(where)}seed: expected at least 0, got {self.seed}")


@dataclass(frozen=True)
class PruneConfig:
    """When a trial is stopped early, always by its score (see `SweepConfig.metric`)."""

    scheduler: Literal["asha", "median", "none"] = "asha"
    grace_evaluations: int = 1
    """Evaluations that every trial gets."""
    reduction_factor: float = 2.0
    """asha: one in this many trials continues after each rung."""
    min_trials: int = 3
    """median: minimum number of evaluated trials before one may be stopped."""

    def validate(self, where: str) -> None:
        if self.grace_evaluations < 1:
            raise UserError(f"{flag_path(where)}grace_evaluations: expected at least 1, got {self.grace_evaluations}")
        if not self.reduction_factor > 1:
            raise UserError(f"{flag_path(where)}reduction_factor: expected more than 1, got {self.reduction_factor}")
        if self.min_trials < 1:
            raise UserError(f"{flag_path(where)}min_trials: expected at least 1, got {self.min_trials}")


@dataclass(frozen=True)
class EvalConfig:
    """Rollouts on the search starts."""

    episodes: int = 10
    """Starts for each seed and sample setting at each evaluation."""
    evaluations: int = 4
    """Evaluations of a full trial, evenly spaced; the last is at training_steps."""
    race: bool = True
    """Stop evaluating a recipe that is shown to be worse on the same starts (at most 5 % of sweeps drop the best)."""
    suite: str = ""
    """Measure on the tasks of a suite (`raybc rollout --suite`) instead of the task of the data."""
    tasks: tuple[str, ...] = ()
    """Measure on these tasks instead of the task of the data; starts are counted for each."""
    task_score: OverTasks = "mean"
    """The score of a recipe over several tasks: their mean, or that of the worst."""

    def validate(self, where: str) -> None:
        if self.suite and self.tasks:
            raise UserError(f"{flag_path(where)}suite: expected either a suite or {flag_path(where)}tasks, got both")
        if self.task_score != "mean" and not (self.suite or self.tasks):
            raise UserError(f"{flag_path(where)}task_score: has no effect without {flag_path(where)}tasks or suite")
        if not 1 <= self.episodes < SPLIT_SIZE:
            raise UserError(f"{flag_path(where)}episodes: expected 1..{SPLIT_SIZE - 1}, got {self.episodes}")
        if self.evaluations < 1:
            raise UserError(f"{flag_path(where)}evaluations: expected at least 1, got {self.evaluations}")


@dataclass(frozen=True)
class FinalConfig:
    """Rollouts of the top recipes on the final starts, which are never used to choose."""

    top: int = 2
    """Recipes that are measured."""
    episodes: int = 50
    """Starts for each seed and sample setting."""
    videos: int = 4
    """Number of final episodes to film (successes and failures)."""

    def validate(self, where: str) -> None:
        if self.top < 1:
            raise UserError(f"{flag_path(where)}top: expected at least 1, got {self.top}")
        if not 1 <= self.episodes < SPLIT_SIZE:
            raise UserError(f"{flag_path(where)}episodes: expected 1..{SPLIT_SIZE - 1}, got {self.episodes}")
        if self.videos < 0:
            raise UserError(f"{flag_path(where)}videos: expected at least 0, got {self.videos}")


@dataclass(frozen=True)
class ResourcesConfig:
    """What runs at the same time. A trial either trains or waits for its rollouts, so half a core each is enough."""

    workers: int = 0
    """Simulator processes (0: as many as fit beside the trials)."""
    worker_cpus: float = 0.5
    trial_cpus: float = 0.5
    episode_deadline: float = 120.0
    """Seconds after which an episode counts as hung and is run again in a fresh process."""
    trial_retries: int = 2
    """How often a trial is resumed after its process died."""

    def validate(self, where: str) -> None:
        if self.workers < 0:
            raise UserError(f"{flag_path(where)}workers: expected at least 0 (0: as many as fit), got {self.workers}")
        for name in ("worker_cpus", "trial_cpus", "episode_deadline"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UserError(f"{flag_path(where)}{name}: expected more than 0, got {getattr(self, name)}")
        if self.trial_retries < 0:
            raise UserError(f"{flag_path(where)}trial_retries: expected at least 0, got {self.trial_retries}")


@dataclass(frozen=True)
class SweepConfig:
    """A search over recipes; each is trained over all `seeds` as one trial."""

    name: str
    space: dict[str, Axis]
    train: RunConfig = field(default_factory=RunConfig)
    """What all recipes share; the value of a searched axis is the default that is tried first."""
    seeds: tuple[int, ...] = (0, 1)
    recipe: str = ""
    """The recipe whose options are the defaults under `train`; they are in `train` when the file has been read."""
    trainer: TrainerConfig | None = None
    """What trains in place of raybc: `module:function` in the file."""
    metric: MetricName | None = None
    """What recipes are compared by (None: success where the task tells it, else D4RL's score or the return)."""
    demos: DemosConfig = field(default_factory=DemosConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    final: FinalConfig = field(default_factory=FinalConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)

    def validate(self) -> None:
        """Raise `UserError` for the first impossible value (corners: `raybc.sweep.space`)."""
        if self.trainer is not None:
            self._validate_trainer(self.trainer)
        if not self.name or any(c in self.name for c in "/\\ ") or self.name.startswith("."):
            raise UserError(f"name: expected a word without spaces and slashes (it names a folder), got {self.name!r}")
        for name, axis in self.space.items():
            self._validate_axis(name, axis)
        if self.train.seed != 0:
            raise UserError("train.seed: expected `seeds: [...]` at the top level instead")
        if self.train.metric is not None:
            raise UserError(f"train.metric: expected `metric: {self.train.metric}` at the top level instead")
        for name, key in (("eval_tasks", "tasks"), ("eval_suite", "suite"), ("task_score", "task_score")):
            if self.train.get(name) != self.train.options()[name].default:
                raise UserError(f"train.{name}: expected eval.{key} at the top level instead")
        if (self.eval.tasks or self.eval.suite) and not self.train.has_environment:
            raise UserError("eval.tasks: expected none without a simulator (env_name none)")
        for name in ("epochs", "epochs_per_round", "stop_patience"):
            if getattr(self.train, name):
                reason = self.train.options()[name].option.axis
                raise UserError(f"train.{name}: expected 0 in a sweep ({reason}), got {getattr(self.train, name)}")
        if self.train.critic.online_updates:
            raise UserError(
                f"train.online_steps: expected 0 in a sweep ({self.train.options()['online_steps'].option.axis}), got "
                f"{self.train.get('online_steps')}; continue the winner with raybc train --init_from RUN"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds: expected one or more different seeds, got {list(self.seeds)}")
        for seed in self.seeds:
            if not 0 <= seed < 2**31:
                raise UserError(f"seeds: expected 0..{2**31 - 1}, got {seed}")
        self.train.validate("train")
        for part in ("demos", "search", "prune", "eval", "final", "resources"):
            getattr(self, part).validate(part)
        if self.eval.evaluations > self.train.training_steps:
            raise UserError(
                f"eval.evaluations: expected at most train.training_steps = {self.train.training_steps}, "
                f"got {self.eval.evaluations}"
            )

    def _validate_trainer(self, trainer: TrainerConfig) -> None:
        if self.recipe:
            raise UserError(f"recipe: has no effect with trainer {trainer.function}")
        if self.search.pack != 1:
            raise UserError(
                f"search.pack: expected 1 with trainer {trainer.function}, which trains one seed at a time, "
                f"got {self.search.pack}"
            )
        for what in COMPONENTS:
            if what in self.space:
                raise UserError(f"space.{trainer.refusal(what)}")

    def kinds(self, what: str) -> list[str]:
        """The kinds of a component (`what`) that recipes may have."""
        return list(self.space[what].values) if what in self.space else [self.train.get(what)]

    def _sampled(self) -> list[RunConfig]:
        """What recipes may be, as far as sampling is concerned: every kind of policy, objective and critic."""
        found = []
        for kind, critic in itertools.product(self.kinds("policy"), self.kinds("critic")):
            run = self.train.changed(
                policy=check_type(kind, str, "space.policy"), critic=check_type(critic, str, "space.critic")
            )
            info = run.options().get("objective")
            values = self.space["objective"].values if "objective" in self.space and info is not None else ()
            for value in values:
                assert info is not None
                check_type(value, info.hint, "space.objective")
            found += [run.changed(objective=value) for value in values] or [run]
        return found

    def axis_option(self, name: str) -> OptionInfo:
        """The declaration of the option that an axis searches. Raises `UserError` where no recipe has it."""
        for kinds in itertools.product(*map(self.kinds, COMPONENTS)):
            run = self.train.changed(**dict(zip(COMPONENTS, kinds, strict=True)))
            if name in run.options():
                return run.options()[name]
        if self.trainer is not None:
            raise UserError(f"space.{self.trainer.refusal(name)}")
        raise UserError(f"space: {unknown_option(name, run.options(), parts_of(run))}")

    def _validate_axis(self, name: str, axis: Axis) -> None:
        where = f"space.{name}"
        for what in COMPONENTS:  # a kind that does not exist is refused before its options are
            for kind in self.space[what].values if what in self.space else ():
                find_kind(what, check_type(kind, str, f"space.{what}"), f"space.{what}")
        runs = self._sampled()
        info = self.axis_option(name)
        if info.option.axis is not True:
            raise UserError(f"{where}: cannot be searched: {info.option.axis}")
        axis.validate(where, info.plain_type)
        for value in axis.extremes():
            check_type(value, info.hint, where)
        if name in SAMPLE_AXES:
            if not axis.values:
                raise UserError(f"{where}: expected `values: [...]` (every value is scored from the same checkpoint)")
            idle = [run.why_idle(name) for run in runs if name not in run.sample_axes]
            if len(idle) == len(runs):
                raise UserError(f"{where}: has no effect {' or '.join(dict.fromkeys(idle))}")
        for other, wanted in axis.when.items():
            if other == name or other not in self.space or other in SAMPLE_AXES or not self.space[other].values:
                raise UserError(f"{where}.when: expected another train axis with `values`, got {other!r}")
            for value in _as_list(wanted):
                if value not in self.space[other].values:
                    known = list(self.space[other].values)
                    raise UserError(f"{where}.when.{other}: expected one of {known}, got {value!r}")

    def evaluation_step(self, evaluation: int) -> int:
        """Training step at which evaluation 1..evaluations happens."""
        return self.train.training_steps * evaluation // self.eval.evaluations

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = to_plain(self)
        if self.trainer is None:
            del values["trainer"]
        return values


def to_plain(value: Any) -> Any:
    """A dataclass as JSON values; axes without their unused keys."""
    if isinstance(value, Axis):
        when = {"when": value.when} if value.when else {}
        if value.values:
            return {"values": list(value.values), **when}
        return {"low": value.low, "high": value.high, "log": value.log, **when}
    if isinstance(value, RunConfig):
        return value.to_plain()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    return value
