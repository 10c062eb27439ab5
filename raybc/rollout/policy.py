"""`MeasuredPolicy`: what rollouts and comparisons need to know of a policy before any of its episodes runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from raybc.bundle import WEIGHTS, PolicyBundle, weights_sha256
from raybc.envs.spec import EnvSpec
from raybc.envs.variant import with_limit
from raybc.registry import parse_env_name
from raybc.rollout.checks import check_reads, check_statistics, check_task, far_observations, version_changes
from raybc.types import SampleSetting, UserError

#: (since, name, then, now) of something that a score depends on and that has changed.
Change = tuple[str, str, str, str]


class MeasuredPolicy(ABC):
    """A policy that is measured: a bundle, or a policy of others (`raybc.foreign`)."""

    env_name: str
    """The environment that it belongs to; "" where only its tasks are named."""

    @property
    @abstractmethod
    def reference(self) -> str:
        """What simulator processes load it by (`Rollout.policy`)."""

    @property
    @abstractmethod
    def shown(self) -> str:
        """How messages and metrics.json call it."""

    @property
    @abstractmethod
    def run_id(self) -> str:
        """What names it in folders and rows."""

    @property
    def run_ids(self) -> tuple[str, ...]:
        """`run_id`, and those that earlier releases gave it."""
        return (self.run_id,)

    @property
    def folder_names(self) -> list[str]:
        """How folders of its evaluations begin; the first one for new evaluations."""
        return [f"{run_id}_step_{self.step}" for run_id in self.run_ids]

    @property
    @abstractmethod
    def step(self) -> int:
        """Gradient steps of its training; 0 where they are not known."""

    @property
    @abstractmethod
    def setting(self) -> SampleSetting:
        """How its actions are sampled unless somebody asks for something else."""

    @property
    def metric(self) -> str | None:
        """The measure that it was trained for; None: the task's."""
        return None

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that every machine must see."""
        return ()

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files and folders that an evaluation reads, and must not replace."""
        return ()

    @property
    def parameters(self) -> int:
        """Parameters of its network, which decide where it is computed; 0 where they are not known."""
        return 0

    @property
    @abstractmethod
    def identity(self) -> tuple[Any, ...]:
        """Policies with the same are the same."""

    @abstractmethod
    def to_plain(self) -> dict[str, Any]:
        """What requests say about it, as JSON values; only the same policy has the same."""

    @abstractmethod
    def check_sampling(self, names: Iterable[str], where: str) -> None:
        """Raise `UserError` for the first of these sampling options that has no effect on it."""

    @abstractmethod
    def check_setting(self, setting: SampleSetting, where: str) -> None:
        """Raise `UserError` for a sample setting that it cannot act by."""

    @abstractmethod
    def evaluations(self, setting: SampleSetting) -> int:
        """Evaluations of its network for a chunk."""

    @abstractmethod
    def check_instruction(self, instruction: str) -> None:
        """Raise `UserError` for an instruction, in place of those of the tasks, that it would not read."""

    @abstractmethod
    def check_env(self, env_spec: EnvSpec, name: str, instruction: str) -> None:
        """Raise `UserError` where it does not fit the task `name`; instruction: what it will read there."""

    def remarks(self, env_specs: Sequence[EnvSpec]) -> list[str]:
        """What users should know about it on these tasks."""
        return []

    def changes(self, env_spec: EnvSpec) -> list[Change]:
        """What has changed since it was trained."""
        return []


class MeasuredBundle(MeasuredPolicy):
    """A `PolicyBundle` on disk."""

    def __init__(self, path: Path, bundle: PolicyBundle, chosen: SampleSetting | None = None) -> None:
        """chosen: the sample setting that a sweep chose. Raises `UserError` for a policy without a simulator."""
        if not bundle.config.has_environment:
            raise UserError(
                f"{path}: this policy was trained without a simulator (env_name none), so there is none to roll it out "
                f"in; train with --env_name NAME to measure success (its error on held-out episodes: {path.parent})"
            )
        self.path, self.bundle, self._chosen = path, bundle, chosen
        self.env_name = bundle.config.env_name

    @property
    def reference(self) -> str:
        return str(self.path.absolute())

    @property
    def shown(self) -> str:
        return str(self.path)

    @property
    def run_id(self) -> str:
        return self.bundle.run_id

    @property
    def run_ids(self) -> tuple[str, ...]:
        return self.bundle.run_ids

    @property
    def step(self) -> int:
        return self.bundle.step

    @property
    def setting(self) -> SampleSetting:
        return self._chosen or self.bundle.config.sample_setting

    @property
    def metric(self) -> str | None:
        return self.bundle.config.metric

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path / WEIGHTS,)

    @property
    def inputs(self) -> tuple[Path, ...]:
        return (self.path,)

    @cached_property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.bundle.weights.values())

    @cached_property
    def identity(self) -> tuple[Any, ...]:
        return weights_sha256(self.path), self.bundle.run_id

    def to_plain(self) -> dict[str, Any]:
        return {"bundle": self.reference, "run_id": self.run_id, "step": self.step}

    def check_sampling(self, names: Iterable[str], where: str) -> None:
        self.bundle.config.check_sampling(names, where)

    def check_setting(self, setting: SampleSetting, where: str) -> None:
        self.bundle.config.with_setting(setting).validate(where)

    def evaluations(self, setting: SampleSetting) -> int:
        return self.bundle.config.policy.evaluations(setting)

    def check_instruction(self, instruction: str) -> None:
        check_reads(self.bundle, self.path, instruction)

    def check_env(self, env_spec: EnvSpec, name: str, instruction: str) -> None:
        own = with_limit(name)[0] == with_limit(parse_env_name(self.env_name).task)[0]
        check_task(self.bundle, env_spec, self.path, self.env_name if own else name, instruction)
        if own:  # other tasks may look different from all that the policy was trained on
            check_statistics(self.bundle, env_spec, self.path)

    def remarks(self, env_specs: Sequence[EnvSpec]) -> list[str]:
        return far_observations(self.bundle, env_specs[0]) if len(env_specs) == 1 else []

    def changes(self, env_spec: EnvSpec) -> list[Change]:
        return version_changes(self.bundle, env_spec)
