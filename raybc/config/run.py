"""`RunConfig`: one policy trained with one seed. All defaults and checks of a run are here.

Options are grouped by component; the kinds of policy and encoder choose their groups. Users write all options flat:
`of()` and `to_plain()` convert. `validate()` raises `UserError` and never repairs a value silently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from raybc.config import flat, identity
from raybc.config.component import CriticConfig, EncoderConfig, LanguageConfig, PolicyConfig, kinds
from raybc.config.critic import NoCritic
from raybc.config.data import ACTIONS, INPUTS, NO_ENVIRONMENT, DataOptions, Normalization, PlanOptions
from raybc.config.encoders import NoEncoder, ResNetOptions
from raybc.config.language import NoLanguage
from raybc.config.options import OptionInfo, Role, check_bounds, check_relations, flag_path, options_in
from raybc.config.output import OutputOptions
from raybc.config.policy import FlowConfig
from raybc.config.sampling import ChunkOptions, SampleOptions
from raybc.config.training import ArithmeticOptions, BudgetOptions, InitOptions, OptimizerOptions, PhaseOptions
from raybc.files import expanded
from raybc.strict import check_type, did_you_mean
from raybc.types import SampleSetting, UserError


@dataclass(frozen=True)
class RunConfig(
    OutputOptions, ArithmeticOptions, SampleOptions, PlanOptions, InitOptions, PhaseOptions, OptimizerOptions,
    BudgetOptions, ChunkOptions, DataOptions,
):  # fmt: skip
    """One policy, one seed. (Fields are in the reverse order of the bases.)"""

    takes: ClassVar[frozenset[str] | None] = None
    """The options, beside those of the kinds, that a run has; None: all (others: `raybc.config.trainer`)."""

    policy: PolicyConfig = FlowConfig()  # noqa: RUF009 (frozen)
    """Which policy, and its options."""
    encoder: EncoderConfig = NoEncoder()  # noqa: RUF009
    """Which encoder of images, and its options (docs/images.md)."""
    language: LanguageConfig = NoLanguage()  # noqa: RUF009
    """Which encoder of instructions, and its options (docs/policies.md)."""
    critic: CriticConfig = NoCritic()  # noqa: RUF009
    """Which critic, and its options (docs/critic.md)."""

    # --- flat spelling ----------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, **values: Any) -> RunConfig:
        """From options written flat: RunConfig.of(lr=1e-3, policy="flow", hidden_width=64)."""
        return cls.from_plain(values, "run")

    @classmethod
    def from_plain(cls, values: Any, where: str) -> RunConfig:
        """From a flat mapping (YAML, JSON). Unknown options and wrong types raise `UserError` with their place."""
        return flat.read(cls, values, where)

    def to_plain(self) -> dict[str, Any]:
        """Option -> JSON value, flat; `policy`, `encoder`, `language` and `critic` are the kinds.

        A run without a critic does not name one, nor `best_of_n` at 1, so that its files are those of releases that
        knew neither.
        """
        values = flat.write(self)
        if self.critic.is_none:
            del values["critic"]
        if self.best_of_n == _AT_DEFAULT.best_of_n:
            del values["best_of_n"]
        return values

    def options(self) -> dict[str, OptionInfo]:
        """Name -> declaration of every option of this run, flat."""
        return flat.options_of(self)

    def get(self, name: str) -> Any:
        """The value of an option by its flat name."""
        return flat.get(self, name)

    def changed(self, **values: Any) -> RunConfig:
        """A copy with other values, written flat. A new kind keeps the options that both kinds have.

        Raises `UserError` for an unknown option.
        """
        return flat.replace(self, values)

    # --- sampling, data, checks -------------------------------------------------------------------------------------

    def inputs(self) -> list[Path]:
        """The files and folders on this machine that the options name."""
        values = self.to_plain()
        named = [expanded(values[name], name) for name in INPUTS if values.get(name)]
        return [path for path in named if path.exists()]

    @property
    def has_environment(self) -> bool:
        """Whether there is a simulator in which policies can be measured."""
        return self.env_name != NO_ENVIRONMENT

    @property
    def total_steps(self) -> int:
        """Gradient steps of the whole run: `training_steps`, and those of an online part."""
        return self.training_steps + self.critic.online_updates

    @property
    def sample_setting(self) -> SampleSetting:
        """How actions are sampled."""
        return self.in_effect(SampleSetting(**{name: getattr(self, name) for name in SAMPLE_AXES}))

    def in_effect(self, setting: SampleSetting) -> SampleSetting:
        """The setting as it acts on this policy: what has no effect has its default, and flow_steps is 0."""
        idle = {name: getattr(_AT_DEFAULT, name) for name in SAMPLE_AXES if name not in self.sample_axes}
        setting = dataclasses.replace(setting, **idle | ({"flow_steps": 0} if "flow_steps" in idle else {}))
        # Without noise all candidates are the same chunk.
        return setting if setting.eval_temperature else dataclasses.replace(setting, best_of_n=_AT_DEFAULT.best_of_n)

    @property
    def has_critic(self) -> bool:
        """Whether the policy carries a critic."""
        return not self.critic.is_none

    @property
    def sample_axes(self) -> tuple[str, ...]:
        """Sampling options that have an effect: those of the policy, and `best_of_n` where there is a critic and the
        samples vary."""
        axes = self.policy.sample_axes
        return (*axes, "best_of_n") if self.has_critic and "eval_temperature" in axes else axes

    def why_idle(self, name: str) -> str:
        """Why the sampling option `name`, which is not in `sample_axes`, has no effect; part of a sentence."""
        if name == "best_of_n" and "eval_temperature" in self.policy.sample_axes:
            return "without a critic, which chooses among the samples: train one with --critic q_chunking"
        return self.policy.without_effect(name)

    @property
    def warm_up(self) -> int:
        """W, the number of warm-up steps: `warmup_steps`, or with cosine and rsqrt a fraction of the N steps of
        the schedule.

        That fraction is clamp(max(minimum, round(ratio N)), 1, N / 2), where ratio is `budget_warmup_ratio` and minimum
        is `budget_min_warmup_steps`.
        """
        if self.warmup_steps >= 0:
            return self.warmup_steps
        if self.lr_schedule not in ("cosine", "rsqrt"):
            return 0
        total = self.schedule_steps or self.training_steps
        wanted = max(self.budget_min_warmup_steps, round(self.budget_warmup_ratio * total))
        return max(1, min(wanted, total // 2))

    @property
    def scales_actions_to_one(self) -> bool:
        """Whether actions are scaled to [-1, 1] by their smallest and largest value."""
        entries = [entry.partition("=") for entry in self.normalization_keys.split(",")]
        own = {key.strip(): kind.strip() for key, _, kind in entries}
        return own.get(ACTIONS, self.normalization) == "min_max"

    def with_setting(self, setting: SampleSetting) -> RunConfig:
        values = dataclasses.asdict(setting)
        if "flow_steps" not in self.policy.sample_axes:
            values["flow_steps"] = values["flow_steps"] or self.flow_steps
        return dataclasses.replace(self, **values)

    def check_sampling(self, names: Iterable[str], where: str) -> None:
        """Raise `UserError` for the first of these sampling options that has no effect on this policy."""
        for name in names:
            if name not in self.sample_axes:
                raise UserError(f"{flag_path(where)}{name}: has no effect {self.why_idle(name)}")

    def normalization_of(self, obs_keys: Sequence[str], where: str = "run") -> dict[str, Normalization]:
        """Name -> kind of statistics for `obs_keys` and `ACTIONS`. Raises `UserError` for an unknown key or kind."""
        found: dict[str, Normalization] = dict.fromkeys((*obs_keys, ACTIONS), self.normalization)
        place, named = f"{flag_path(where)}normalization_keys", set()
        for entry in filter(None, self.normalization_keys.split(",")):
            key, _, kind = map(str.strip, entry.partition("="))
            if key not in found:
                raise UserError(
                    f"{place}: expected KEY=KIND with keys of the policy, got {entry!r}: {did_you_mean(key, found)}"
                )
            if key in named:
                raise UserError(f"{place}: {key}: expected one kind, got two")
            named.add(key)
            found[key] = check_type(kind, Normalization, f"{place}: {key}")
        return found

    def check_encoder(self, images: Sequence[str], where: str = "run") -> None:
        """Raise `UserError` if there are images without an encoder, or an encoder without images.

        images: names of the images that the task observes.
        """
        kind = self.encoder.kind
        who, observes = (self.env_name, "observes") if self.has_environment else ("the dataset", "has")
        if images and kind == "None":
            known = ", ".join(name for name in kinds("encoder") if name != "None")
            raise UserError(
                f"{flag_path(where)}encoder: expected one of {known}, since {who} {observes} images "
                f"({', '.join(images)}), got None"
            )
        if kind != "None" and not images:
            raise UserError(f"{flag_path(where)}encoder: expected None, since {who} {observes} no images, got {kind}")
        self.encoder.check_available(where)

    def validate(self, where: str = "run") -> None:
        """Raise `UserError` for the first impossible value."""
        place = flag_path(where)
        if not self.has_environment and not self.dataset:
            raise UserError(f"{place}dataset: expected the data to train on with env_name {NO_ENVIRONMENT}, got none")
        if self.normalization_keys and self.has_environment:
            from raybc.registry import (
                get_task,
                parse_env_name,
            )  # imports adapters, so only if names of observations matter

            self.normalization_of(get_task(parse_env_name(self.env_name).task).obs_keys, where)
        check_bounds(self, where)
        if self.accumulate > self.batch_size:
            raise UserError(
                f"{place}accumulate: expected at most batch_size = {self.batch_size}, got {self.accumulate}"
            )
        if self.num_rounds > 1 and self.epochs_per_round == 0:
            raise UserError(f"{place}epochs_per_round: expected at least 1 with num_rounds = {self.num_rounds}")
        if self.epochs and self.epochs_per_round:
            raise UserError(
                f"{place}epochs: expected 0 with epochs_per_round, got {self.epochs}; leave one of them out"
            )
        if self.freeze_epochs and not self.freeze and self.encoder.kind == "None":
            raise UserError(
                f"{place}freeze_epochs: expected 0 without an encoder of images, got {self.freeze_epochs}; freeze says "
                "what else is frozen"
            )
        if self.unfreeze_layer4 and not isinstance(self.encoder, ResNetOptions):
            raise UserError(f"{place}unfreeze_layer4: expected a ResNet as encoder, got {self.encoder.kind}")
        if self.ogbench_dataset_dir and self.dataset:
            raise UserError(f"{place}ogbench_dataset_dir: expected either this or dataset, got both")
        if self.min_lr > self.lr and self.lr_schedule in ("cosine", "plateau"):
            raise UserError(f"{place}min_lr: expected at most lr = {self.lr}, got {self.min_lr}")
        if self.schedule_steps and self.lr_schedule not in ("cosine", "rsqrt"):
            raise UserError(
                f"{place}schedule_steps: has no effect with lr_schedule {self.lr_schedule}; use cosine or rsqrt"
            )
        if self.schedule_steps > self.training_steps:
            raise UserError(
                f"{place}schedule_steps: expected at most training_steps = {self.training_steps}, "
                f"got {self.schedule_steps}"
            )
        check_relations(self, vars(self), where)
        if self.action_chunking and self.past_actions >= self.chunk_length:
            raise UserError(
                f"{place}past_actions: expected less than horizon_length = {self.chunk_length}, got {self.past_actions}"
            )
        hint = "" if self.action_chunking else " (action_chunking is off, so a chunk has 1 step)"
        hint = f" (past_actions takes {self.past_actions} of {self.chunk_length})" if self.past_actions else hint
        if self.execute_steps > self.ahead_length:
            raise UserError(
                f"{place}execute_steps: expected at most the {self.ahead_length} step(s) of a chunk, "
                f"got {self.execute_steps}{hint}"
            )
        if self.pad_before >= self.obs_steps:
            raise UserError(
                f"{place}pad_before: expected at most obs_steps - 1 = {self.obs_steps - 1}, got {self.pad_before}"
            )
        if self.pad_after >= self.ahead_length:
            raise UserError(
                f"{place}pad_after: expected less than the {self.ahead_length} step(s) of a chunk, "
                f"got {self.pad_after}{hint}"
            )
        self.policy.validate(self, where)
        self.encoder.validate(self, where)
        self.language.validate(self, where)
        self.critic.validate(self, where)

    # --- identity ---------------------------------------------------------------------------------------------------

    def run_id(self, data_fingerprint: str) -> str:
        """16 hex digits that identify the run by its options, seed and data (`config.identity`)."""
        return identity.run_id(self, data_fingerprint)


_AT_DEFAULT = SampleSetting()
#: Options of sampling: all values can be evaluated with the same checkpoint.
SAMPLE_AXES = tuple(name for name, info in options_in(RunConfig).items() if info.option.role is Role.SAMPLE)
#: Options in which members of a pack may differ: they change neither network shapes nor batches.
MEMBER_FIELDS = tuple(name for name, info in options_in(RunConfig).items() if info.option.role is Role.MEMBER)


def check_alike(members: Sequence[RunConfig]) -> None:
    """Raise `UserError` if the members of a pack differ in more than `MEMBER_FIELDS`."""
    first = members[0].to_plain()
    for config in members[1:]:
        for name, value in config.to_plain().items():
            if name not in MEMBER_FIELDS and value != first.get(name):
                raise UserError(
                    f"{name}: members of a pack may differ in {', '.join(MEMBER_FIELDS)} only, "
                    f"got {first.get(name)!r} and {value!r}"
                )


def changed_options(run: RunConfig) -> Mapping[str, Any]:
    """Option -> value of the options that differ from their defaults, flat."""
    values = flat.write(run)
    return {name: values[name] for name, info in run.options().items() if values[name] != info.default}
