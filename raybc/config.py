"""The only defaults of a run, and what makes it valid (of a sweep: `raybc.sweep.config`).

`RunConfig` is one policy trained with one seed: its fields are the flags of `python -m raybc.train`. `validate()`
raises `UserError` with what was expected, what was got, where, and what to do; nothing is repaired silently.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from raybc.strict import check_type, did_you_mean, digest, type_hints
from raybc.types import SPLIT_SIZE, SampleSetting, UserError

Normalization = Literal["mean_std", "min_max", "quantile", "identity"]
#: What the actions are called in `RunConfig.normalization_keys`.
ACTIONS = "actions"

#: Axes that do not make a new model: every value is scored from the same checkpoint.
SAMPLE_AXES = ("flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble")
#: Fields that members of a pack may differ in: they change no network's shape and no batch.
MEMBER_FIELDS = (
    "seed", "lr", "lr_schedule", "warmup_steps", "min_lr", "plateau_factor", "plateau_patience", "stop_patience",
    "stop_min_delta", "weight_decay", "grad_clip", "ema_decay", "budget_warmup_ratio", "budget_min_warmup_steps",
)  # fmt: skip
#: Fields that say where results go, not what they are; they are no part of a run's identity.
_NOT_IDENTITY = ("save_dir", "run_group", "device", "keep", "sampling_plan_path")
#: Fields that count only with a sampling plan.
_OF_A_PLAN = (
    "sampling_plan_sha256", "sampler_seed_override", "sampler_replacement_override", "plan_subset_mode",
    "plan_aware_lr_scale", "plan_target_effective_repeat", "plan_lr_scale_power", "plan_lr_min_scale",
)  # fmt: skip

#: Fields that say which episodes are trained on; a sampling plan says that itself.
_CHOICE = (
    "dataset_proportion", "dataset_proportion_seed", "only_successful", "top_percent", "holdout_seed",
    "dataset_replace_interval",
)  # fmt: skip


def flag_path(where: str) -> str:
    """The place of a key, to be followed by its name: `space.lr.`, or `--` for the flags of a command."""
    return where if where == "--" else f"{where}."


@dataclass(frozen=True)
class RunConfig:
    """One policy, one seed."""

    env_name: str = "halfcheetah-medium-v2"
    """Task and data: D4RL names, or TASK-DATA-OBS, e.g. lift-scripted-low_dim."""
    dataset: str = ""
    """Path or published name of a dataset in any known format; empty: the one that env_name stands for."""
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
    num_rounds: int = 1
    """Rounds of training; with epochs_per_round, each ends with a checkpoint that has its number in its name."""
    epochs_per_round: int = 0
    """Passes over the data in a round; training_steps is then num_rounds x epochs_per_round of them (0: no rounds)."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """adamw decays weights beside the gradient, adam adds the decay to it (equal without weight_decay)."""
    lr: float = 3e-4
    """Learning rate."""
    lr_schedule: Literal["constant", "cosine", "plateau"] = "constant"
    """cosine: down to min_lr at training_steps. plateau: times plateau_factor when the watched loss stops falling."""
    warmup_steps: int = -1
    """Steps in which the rate rises linearly (-1: with cosine 3 % of training_steps, at least 50; else none)."""
    budget_warmup_ratio: float = 0.03
    """Share of training_steps that cosine warms up in, where warmup_steps is -1."""
    budget_min_warmup_steps: int = 50
    """Least of such a warm-up (but at most half of training_steps)."""
    min_lr: float = 1e-6
    """Where the cosine ends; no plateau goes below."""
    plateau_factor: float = 0.5
    """What a plateau makes of the learning rate."""
    plateau_patience: int = 3
    """Looks without improvement (0.01 % of the loss) that a plateau may last."""
    stop_patience: int = 0
    """Looks without improvement after which a member learns no more (0: never)."""
    stop_min_delta: float = 0.0
    """Least fall of the watched loss that counts for stop_patience."""
    watch_interval: int = 0
    """Steps between looks at the loss (of the split `valid`; without one, the mean training loss); 0: an epoch."""
    weight_decay: float = 0.0
    """Weight decay."""
    grad_clip: float = 0.0
    """Largest gradient norm of a member (0: no clipping)."""
    accumulate: int = 1
    """Parts in which the gradient of a batch is computed: less memory, the same step."""
    ema_decay: float = 0.0
    """Policies are exponential moving averages of the weights with this decay (0: the weights themselves)."""
    freeze: str = ""
    """Parameters that do not learn, by the beginnings of their names, with commas between, e.g. field.layers.0."""
    freeze_steps: int = -1
    """Steps after which they learn, too (-1: never)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16 (autocast); parameters and optimiser stay in float32."""
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = "auto"
    """Mode of torch.compile. auto: reduce-overhead (CUDA graphs) on a GPU, off on a CPU."""
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
    normalization_keys: str = ""
    """Other kinds for some observations, or for `actions`, e.g. robot0_eef_pos=min_max,actions=quantile."""
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
    dataset_proportion: float = 1.0
    """Part of the training episodes that is used."""
    dataset_proportion_seed: int = -1
    """Which part: the first episodes (-1), or so many at random with this seed; a smaller part lies in a larger."""
    only_successful: bool = False
    """Use episodes that reached the goal only, where the data say so."""
    top_percent: float = 100.0
    """Use the episodes of highest return only, so many percent of them."""
    holdout_seed: int = -1
    """Hold out 20 % of all episodes at random with this seed as the split valid (-1: the data's own splits)."""
    sampling_plan_path: str = ""
    """A sampling plan (python -m raybc.plan): which windows are drawn and how often (empty: all, equally)."""
    sampling_plan_sha256: str = ""
    """The plan that is meant: another is refused (empty: any; filled in when the training begins)."""
    sampler_seed_override: int = -1
    """Sampler seed instead of the plan's (-1: the plan's)."""
    sampler_replacement_override: Literal["plan", "True", "False"] = "plan"
    """Draw with replacement (True), every anchor once an epoch (False), or as the plan says."""
    plan_subset_mode: Literal["all", "anchors", "episodes", "episodes_valid"] = "all"
    """Fit normalisation on all training episodes, or on a part of the plan's."""
    plan_aware_lr_scale: bool = False
    """Lower the learning rate where the plan's windows come back often."""
    plan_target_effective_repeat: float = 50.0
    """Effective repeats (draws / ESS) up to which the learning rate stays."""
    plan_lr_scale_power: float = 0.5
    """Learning rate is times (target / effective repeats)^power."""
    plan_lr_min_scale: float = 0.05
    """Least scale of the learning rate."""
    dataset_replace_interval: int = 0
    """Steps after which the next file of a dataset in several files is drawn from (0: all of them at any time)."""
    ogbench_dataset_dir: str = ""
    """Folder with OGBench's datasets, of which env_name names one."""
    sparse: bool = False
    """Sparse rewards (behaviour cloning does not look at rewards; recorded in flags.json)."""
    encoder: Literal["None", "impala_small", "impala", "impala_large"] = "None"
    """Network that reads images, where the task observes any (docs/training.md)."""
    keep: int = 0
    """Checkpoints to keep besides the latest and the best (0: all)."""
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

    def normalization_of(self, obs_keys: Sequence[str], where: str = "run") -> dict[str, Normalization]:
        """The kind of each of `obs_keys` and of `ACTIONS`; an unknown key or kind is refused."""
        kinds: dict[str, Normalization] = dict.fromkeys((*obs_keys, ACTIONS), self.normalization)
        place_of, named = f"{flag_path(where)}normalization_keys", set()
        for entry in filter(None, self.normalization_keys.split(",")):
            key, _, kind = map(str.strip, entry.partition("="))
            if key not in kinds:
                raise UserError(
                    f"{place_of}: expected KEY=KIND with keys of the policy, got {entry!r}: {did_you_mean(key, kinds)}"
                )
            if key in named:
                raise UserError(f"{place_of}: {key}: expected one kind, got two")
            named.add(key)
            kinds[key] = check_type(kind, Normalization, f"{place_of}: {key}")
        return kinds

    def check_encoder(self, images: Sequence[str], where: str = "run") -> None:
        """Images (the names of those that the task observes) need an encoder, and an encoder needs images."""
        known = ", ".join(str(name) for name in get_args(type_hints(RunConfig)["encoder"])[1:])
        if images and self.encoder == "None":
            raise UserError(
                f"{flag_path(where)}encoder: expected one of {known}, since {self.env_name} observes images "
                f"({', '.join(images)}), got None"
            )
        if self.encoder != "None" and not images:
            raise UserError(
                f"{flag_path(where)}encoder: expected None, since {self.env_name} observes no images, "
                f"got {self.encoder}"
            )

    def validate(self, where: str = "run") -> None:
        """Raise `UserError` for the first impossible value."""
        if self.normalization_keys:
            from raybc.registry import get_task, parse_env_name  # adapters: only where names of observations matter

            self.normalization_of(get_task(parse_env_name(self.env_name).task).obs_keys, where)
        at_least = {
            "training_steps": 1, "batch_size": 1, "log_interval": 1, "eval_interval": 1, "horizon_length": 1,
            "obs_steps": 1, "num_rounds": 1, "epochs_per_round": 0, "accumulate": 1, "plateau_patience": 0,
            "stop_patience": 0, "watch_interval": 0, "warmup_steps": -1, "freeze_steps": -1, "keep": 0,
            "dataset_replace_interval": 0, "budget_min_warmup_steps": 0, "sampler_seed_override": -1,
            "dataset_proportion_seed": -1, "holdout_seed": -1,
            "hidden_width": 1, "hidden_depth": 1, "flow_steps": 1, "eval_episodes": 1, "video_frame_skip": 1,
            "seed": 0, "execute_steps": 0, "video_episodes": 0,
        }  # fmt: skip
        for name, low in at_least.items():
            if getattr(self, name) < low:
                raise UserError(f"{flag_path(where)}{name}: expected at least {low}, got {getattr(self, name)}")
        if self.seed >= 2**31:
            raise UserError(f"{flag_path(where)}seed: expected less than 2**31, got {self.seed}")
        if self.save_interval != -1 and self.save_interval < 1:
            raise UserError(
                f"{flag_path(where)}save_interval: expected -1 (only the last) or at least 1, got {self.save_interval}"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"{flag_path(where)}lr: expected a finite number above 0, got {self.lr}")
        for name in ("plateau_factor", "dataset_proportion", "plan_lr_min_scale"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(
                    f"{flag_path(where)}{name}: expected more than 0 and at most 1, got {getattr(self, name)}"
                )
        if not 0 < self.top_percent <= 100:
            raise UserError(
                f"{flag_path(where)}top_percent: expected more than 0 and at most 100, got {self.top_percent}"
            )
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"{flag_path(where)}ema_decay: expected 0 (off) or a number below 1, got {self.ema_decay}")
        if self.accumulate > self.batch_size:
            raise UserError(
                f"{flag_path(where)}accumulate: expected at most batch_size = {self.batch_size}, got {self.accumulate}"
            )
        if self.num_rounds > 1 and self.epochs_per_round == 0:
            raise UserError(
                f"{flag_path(where)}epochs_per_round: expected at least 1 with num_rounds = {self.num_rounds}"
            )
        if self.ogbench_dataset_dir and self.dataset:
            raise UserError(f"{flag_path(where)}ogbench_dataset_dir: expected either this or dataset, got both")
        if self.min_lr > self.lr and self.lr_schedule != "constant":
            raise UserError(f"{flag_path(where)}min_lr: expected at most lr = {self.lr}, got {self.min_lr}")
        self._validate_plan(where)
        at_least_0 = (
            "min_lr", "weight_decay", "grad_clip", "eval_temperature", "stop_min_delta", "budget_warmup_ratio",
            "plan_lr_scale_power",
        )  # fmt: skip
        for name in at_least_0:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{flag_path(where)}{name}: expected a finite number of at least 0, got {value}")
        ensemble = self.temporal_ensemble
        if not (math.isfinite(ensemble) and (ensemble == -1 or ensemble >= 0)):
            raise UserError(f"{flag_path(where)}temporal_ensemble: expected -1 (off) or at least 0, got {ensemble}")
        if self.execute_steps > self.chunk_length:
            hint = "" if self.action_chunking else " (action_chunking is off, so a chunk has 1 step)"
            raise UserError(
                f"{flag_path(where)}execute_steps: expected at most the {self.chunk_length} step(s) of a chunk, "
                f"got {self.execute_steps}{hint}"
            )

    def _validate_plan(self, where: str) -> None:
        repeat = self.plan_target_effective_repeat
        if not (math.isfinite(repeat) and repeat > 0):
            raise UserError(
                f"{flag_path(where)}plan_target_effective_repeat: expected a finite number above 0, got {repeat}"
            )
        defaults = RunConfig()
        if self.sampling_plan_path:
            for name in _CHOICE:
                if getattr(self, name) != getattr(defaults, name):
                    raise UserError(
                        f"{flag_path(where)}{name}: expected {getattr(defaults, name)} with sampling_plan_path (the "
                        f"plan says which episodes are used), got {getattr(self, name)}"
                    )
            return
        for name in _OF_A_PLAN:
            if getattr(self, name) != getattr(defaults, name):
                raise UserError(
                    f"{flag_path(where)}{name}: has no effect without sampling_plan_path; name a plan there"
                )

    def run_id(self, data_fingerprint: str) -> str:
        """16 hex digits that name this training: whole configuration, seed and data."""
        hints = type_hints(RunConfig)  # 1 and 1.0 are the same learning rate
        identity = {k: check_type(getattr(self, k), hint, k) for k, hint in hints.items() if k not in _NOT_IDENTITY}
        return digest({"run": identity, "data": data_fingerprint})[:16]


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
            raise UserError(f"{flag_path(where)}episodes: expected 1..{SPLIT_SIZE // 4}, got {self.episodes}")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise UserError(f"{flag_path(where)}noise: expected a finite number of at least 0, got {self.noise}")
        if not 0 <= self.seed < SPLIT_SIZE // 2:
            raise UserError(f"{flag_path(where)}seed: expected 0..{SPLIT_SIZE // 2 - 1}, got {self.seed}")
