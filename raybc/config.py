"""The only defaults of raybc, and what makes a configuration valid.

`RunConfig` is one policy trained with one seed: its fields are the flags of `python -m raybc.train`. `SweepConfig` is a
search over `RunConfig`s: its fields are the keys of `sweeps/*.yaml`. Both are checked by `validate()`, which raises
`UserError` with what was expected, what was got, where, and what to do; nothing is repaired silently.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from raybc.strict import check_type, digest, field_type, type_hints
from raybc.types import SPLIT_SIZE, SampleSetting, UserError

Normalization = Literal["mean_std", "min_max", "identity"]

#: Axes that do not make a new model: every value is scored from the same checkpoint.
SAMPLE_AXES = ("flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble")
#: Fields of a run that cannot be searched, with the reason.
NOT_AXES = {
    "seed": "seeds are members of a trial: list them under `seeds`",
    "env_name": "a sweep has one task",
    "dataset": "a sweep has one dataset",
    "save_dir": "the sweep owns its run folder",
    "run_group": "the sweep owns its run folder",
    "device": "the device is a resource, not a recipe",
    "training_steps": "pruning compares trials at equal training steps",
    "log_interval": "it does not change a policy",
    "eval_interval": "use eval.evaluations",
    "save_interval": "the sweep saves at every evaluation",
    "eval_episodes": "use eval.episodes",
    "video_episodes": "use final.videos",
    "video_frame_skip": "it does not change a policy",
}
#: Fields that say where results go, not what they are; they are no part of a run's identity.
_NOT_IDENTITY = ("save_dir", "run_group", "device")


def _in(where: str) -> str:
    """The place of a key, to be followed by its name: `space.lr.`, or `--` for the flags of a command."""
    return where if where == "--" else f"{where}."


@dataclass(frozen=True)
class RunConfig:
    """One policy, one seed."""

    env_name: str = "lift-scripted-low_dim"
    """Task, data and observation as TASK-DATA-OBS, e.g. lift-scripted-low_dim."""
    dataset: str = ""
    """Path of a dataset; empty: the one that env_name stands for."""
    seed: int = 0
    """Decides initial weights, training noise and data order."""
    run_group: str = "BC"
    """Folder (and tracker group) that collects related runs."""
    save_dir: str = "runs/fbc/"
    """Where run folders are made."""
    training_steps: int = 1_000_000
    """Gradient steps."""
    batch_size: int = 256
    """Examples in a gradient step."""
    log_interval: int = 1000
    """Steps between rows of train.csv."""
    eval_interval: int = 50_000
    """Steps between rollout evaluations."""
    save_interval: int = 100_000
    """Steps between checkpoints (-1: only the last)."""
    lr: float = 3e-4
    """Learning rate of AdamW."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """cosine: a linear warm-up over 3 % of training_steps (at least 50), then a cosine down to min_lr at the end."""
    min_lr: float = 1e-6
    """Where the cosine ends."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    grad_clip: float = 0.0
    """Largest gradient norm of a member (0: no clipping)."""
    horizon_length: int = 5
    """H, the steps of an action chunk (used with action_chunking)."""
    action_chunking: bool = False
    """Predict chunks of horizon_length steps; otherwise single actions."""
    obs_steps: int = 1
    """T, the observations (this one and those before it) that a policy sees."""
    hidden_width: int = 512
    """Units in a hidden layer of the vector field."""
    hidden_depth: int = 4
    """Hidden layers of the vector field."""
    use_fourier_features: bool = False
    """Feed the flow time as Fourier features instead of a scalar."""
    normalization: Normalization = "mean_std"
    """Statistics of observations and actions, fitted on the training split."""
    flow_steps: int = 10
    """Euler steps when sampling (needs no new training)."""
    execute_steps: int = 0
    """Steps of a chunk executed before the next is sampled (0: all; needs no new training)."""
    eval_temperature: float = 0.0
    """Scale of the initial noise when sampling (0: deterministic; needs no new training)."""
    temporal_ensemble: float = -1.0
    """m >= 0: average overlapping chunks with weights exp(-m i), i = 0 the oldest (-1: off; needs no new training)."""
    eval_episodes: int = 10
    """Episodes of an evaluation during training."""
    video_episodes: int = 0
    """Episodes of the last evaluation that are filmed."""
    video_frame_skip: int = 3
    """Film every n-th environment step."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto (cuda where there is one)."""

    @property
    def chunk_length(self) -> int:
        """H of the policy: horizon_length with action chunking, else 1."""
        return self.horizon_length if self.action_chunking else 1

    @property
    def sample_setting(self) -> SampleSetting:
        return SampleSetting(**{name: getattr(self, name) for name in SAMPLE_AXES})

    def with_setting(self, setting: SampleSetting) -> RunConfig:
        return dataclasses.replace(self, **dataclasses.asdict(setting))

    def validate(self, where: str = "run") -> None:
        """Raise `UserError` for the first impossible value."""
        at_least = {
            "training_steps": 1, "batch_size": 1, "log_interval": 1, "eval_interval": 1, "horizon_length": 1,
            "obs_steps": 1,
            "hidden_width": 1, "hidden_depth": 1, "flow_steps": 1, "eval_episodes": 1, "video_frame_skip": 1,
            "seed": 0, "execute_steps": 0, "video_episodes": 0,
        }  # fmt: skip
        for name, low in at_least.items():
            if getattr(self, name) < low:
                raise UserError(f"{_in(where)}{name}: expected at least {low}, got {getattr(self, name)}")
        if self.seed >= 2**31:
            raise UserError(f"{_in(where)}seed: expected less than 2**31, got {self.seed}")
        if self.save_interval != -1 and self.save_interval < 1:
            raise UserError(
                f"{_in(where)}save_interval: expected -1 (only the last) or at least 1, got {self.save_interval}"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"{_in(where)}lr: expected a finite number above 0, got {self.lr}")
        if self.min_lr > self.lr and self.lr_schedule != "constant":
            raise UserError(f"{_in(where)}min_lr: expected at most lr = {self.lr}, got {self.min_lr}")
        for name in ("min_lr", "weight_decay", "grad_clip", "eval_temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{_in(where)}{name}: expected a finite number of at least 0, got {value}")
        ensemble = self.temporal_ensemble
        if not (math.isfinite(ensemble) and (ensemble == -1 or ensemble >= 0)):
            raise UserError(f"{_in(where)}temporal_ensemble: expected -1 (off) or at least 0, got {ensemble}")
        if self.execute_steps > self.chunk_length:
            hint = "" if self.action_chunking else " (action_chunking is off, so a chunk has 1 step)"
            raise UserError(
                f"{_in(where)}execute_steps: expected at most the {self.chunk_length} step(s) of a chunk, "
                f"got {self.execute_steps}{hint}"
            )

    def run_id(self, data_fingerprint: str) -> str:
        """16 hex digits that name this training: whole configuration, seed and data."""
        hints = type_hints(RunConfig)  # 1 and 1.0 are the same learning rate
        identity = {k: check_type(getattr(self, k), hint, k) for k, hint in hints.items() if k not in _NOT_IDENTITY}
        return digest({"run": identity, "data": data_fingerprint})[:16]


@dataclass(frozen=True)
class Axis:
    """One axis of a search space: either `values`, or `low`..`high` (with `log`: on a logarithmic scale)."""

    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False

    def extremes(self) -> tuple[Any, ...]:
        """The values that corners of the space are made of (every one of a list: a list has no order)."""
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
                raise UserError(f"{_in(where)}values: expected different values, got {list(self.values)}")
            return
        if self.low is None or self.high is None:
            raise UserError(f"{where}: expected `values: [...]`, or `low: ` and `high: `")
        if kind not in (int, float):
            raise UserError(f"{where}: expected `values: [...]` for a {kind.__name__}, got a range")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"{where}: expected finite low < high, got low {self.low}, high {self.high}")
        if self.log and self.low <= 0:
            raise UserError(f"{_in(where)}low: expected more than 0 on a logarithmic axis, got {self.low}")
        if kind is int and (self.low != int(self.low) or self.high != int(self.high)):
            raise UserError(f"{where}: expected whole numbers, got low {self.low}, high {self.high}")


@dataclass(frozen=True)
class DemosConfig:
    """Demonstrations that are made by a scripted expert when the task's data is `scripted`."""

    episodes: int = 100
    """Successful demonstrations to keep."""
    noise: float = 1.0
    """Scale of the expert's variation (0: none)."""
    seed: int = 0
    """First start; start i of a set is seed + i."""

    def validate(self, where: str) -> None:
        if not 1 <= self.episodes <= SPLIT_SIZE // 4:
            raise UserError(f"{_in(where)}episodes: expected 1..{SPLIT_SIZE // 4}, got {self.episodes}")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise UserError(f"{_in(where)}noise: expected a finite number of at least 0, got {self.noise}")
        if not 0 <= self.seed < SPLIT_SIZE // 2:
            raise UserError(f"{_in(where)}seed: expected 0..{SPLIT_SIZE // 2 - 1}, got {self.seed}")


@dataclass(frozen=True)
class SearchConfig:
    """How recipes are proposed."""

    sampler: Literal["tpe", "random", "gp", "cmaes"] = "tpe"
    trials: int = 12
    seed: int = 0
    max_concurrent: int = 2
    points_to_evaluate: tuple[dict[str, Any], ...] = ()
    """Recipes to try right after the defaults; axes left out take their default."""

    def validate(self, where: str) -> None:
        if self.trials < 1:
            raise UserError(f"{_in(where)}trials: expected at least 1, got {self.trials}")
        if self.max_concurrent < 1:
            raise UserError(f"{_in(where)}max_concurrent: expected at least 1, got {self.max_concurrent}")
        if self.seed < 0:
            raise UserError(f"{_in(where)}seed: expected at least 0, got {self.seed}")


@dataclass(frozen=True)
class PruneConfig:
    """When a trial is given up. The measure is always the success rate of rollouts."""

    scheduler: Literal["asha", "median", "none"] = "asha"
    grace_evaluations: int = 1
    """Evaluations that every trial gets."""
    reduction_factor: float = 2.0
    """asha: one in so many goes on from each rung."""
    min_trials: int = 3
    """median: trials that must have been measured before one is stopped."""

    def validate(self, where: str) -> None:
        if self.grace_evaluations < 1:
            raise UserError(f"{_in(where)}grace_evaluations: expected at least 1, got {self.grace_evaluations}")
        if not self.reduction_factor > 1:
            raise UserError(f"{_in(where)}reduction_factor: expected more than 1, got {self.reduction_factor}")
        if self.min_trials < 1:
            raise UserError(f"{_in(where)}min_trials: expected at least 1, got {self.min_trials}")


@dataclass(frozen=True)
class EvalConfig:
    """Rollouts on the search starts."""

    episodes: int = 10
    """Starts for each seed and sample setting at each evaluation."""
    evaluations: int = 4
    """Evaluations of a full trial, at equal distances; the last is at training_steps."""
    race: bool = True
    """End the measurement of what is shown to be worse on the same starts (at most 5 % of sweeps drop the best)."""

    def validate(self, where: str) -> None:
        if not 1 <= self.episodes < SPLIT_SIZE:
            raise UserError(f"{_in(where)}episodes: expected 1..{SPLIT_SIZE - 1}, got {self.episodes}")
        if self.evaluations < 1:
            raise UserError(f"{_in(where)}evaluations: expected at least 1, got {self.evaluations}")


@dataclass(frozen=True)
class FinalConfig:
    """Rollouts of the top recipes on the final starts (never used to choose)."""

    top: int = 2
    """Recipes that are measured."""
    episodes: int = 50
    """Starts for each seed and sample setting."""
    videos: int = 4
    """Filmed episodes of the final starts (successes and failures)."""

    def validate(self, where: str) -> None:
        if self.top < 1:
            raise UserError(f"{_in(where)}top: expected at least 1, got {self.top}")
        if not 1 <= self.episodes < SPLIT_SIZE:
            raise UserError(f"{_in(where)}episodes: expected 1..{SPLIT_SIZE - 1}, got {self.episodes}")
        if self.videos < 0:
            raise UserError(f"{_in(where)}videos: expected at least 0, got {self.videos}")


@dataclass(frozen=True)
class ResourcesConfig:
    """What is run side by side. A trial either trains or waits for its rollouts, so half a core each is a full core."""

    workers: int = 0
    """Rollout processes (0: one for each core that the trials leave)."""
    worker_cpus: float = 0.5
    trial_cpus: float = 0.5
    episode_deadline: float = 120.0
    """Seconds after which an episode counts as hung and is run again in a fresh process."""
    trial_retries: int = 2
    """How often a trial is continued after its process died."""

    def validate(self, where: str) -> None:
        if self.workers < 0:
            raise UserError(f"{_in(where)}workers: expected at least 0 (0: as many as fit), got {self.workers}")
        for name in ("worker_cpus", "trial_cpus", "episode_deadline"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise UserError(f"{_in(where)}{name}: expected more than 0, got {getattr(self, name)}")
        if self.trial_retries < 0:
            raise UserError(f"{_in(where)}trial_retries: expected at least 0, got {self.trial_retries}")


@dataclass(frozen=True)
class SweepConfig:
    """A search over recipes; each is trained over all `seeds` as one trial."""

    name: str
    space: dict[str, Axis]
    train: RunConfig = field(default_factory=RunConfig)
    """What all recipes share; where an axis is searched, the value here is the default that is tried first."""
    seeds: tuple[int, ...] = (0, 1)
    demos: DemosConfig = field(default_factory=DemosConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    final: FinalConfig = field(default_factory=FinalConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)

    def validate(self) -> None:
        """Raise `UserError` for the first impossible value (corners: `raybc.sweep.space`)."""
        if not self.name or any(c in self.name for c in "/\\ ") or self.name.startswith("."):
            raise UserError(f"name: expected a word without spaces and slashes (it names a folder), got {self.name!r}")
        for name, axis in self.space.items():
            where = f"space.{name}"
            if name in NOT_AXES:
                raise UserError(f"{where}: cannot be searched: {NOT_AXES[name]}")
            kind = field_type(RunConfig, name, "space")
            axis.validate(where, kind)
            for value in axis.extremes():
                check_type(value, type_hints(RunConfig)[name], where)
            if name in SAMPLE_AXES and not axis.values:
                raise UserError(f"{where}: expected `values: [...]` (every value is scored from the same checkpoint)")
        if self.train.seed != 0:
            raise UserError("train.seed: expected `seeds: [...]` at the top level instead")
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

    def evaluation_step(self, evaluation: int) -> int:
        """Training step at which evaluation 1..evaluations happens."""
        return self.train.training_steps * evaluation // self.eval.evaluations

    def to_dict(self) -> dict[str, Any]:
        return to_plain(self)


def to_plain(value: Any) -> Any:
    """A dataclass as JSON values; axes without their unused keys."""
    if isinstance(value, Axis):
        if value.values:
            return {"values": list(value.values)}
        return {"low": value.low, "high": value.high, "log": value.log}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    return value
