"""A policy of others as rollouts and comparisons measure it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.envs.spec import EnvSpec
from raybc.foreign import folder
from raybc.foreign.base import INSTRUCTION, About
from raybc.foreign.predictor import probe
from raybc.foreign.reference import TIMEOUT, Reference, prefix_of
from raybc.inference.predictor import ActingPolicy, PolicyError
from raybc.registry import get_task
from raybc.rollout.checks import other_observation
from raybc.rollout.policy import MeasuredBundle, MeasuredPolicy
from raybc.strict import digest
from raybc.types import SampleSetting, UserError


class MeasuredForeign(MeasuredPolicy):
    """A policy of others. Before anything starts it is asked once, for the first start of each task."""

    def __init__(self, reference: Reference, env_name: str = "", chosen: SampleSetting | None = None) -> None:
        """reference: as typed; it is completed. chosen: the sample setting that a sweep chose. Raises `UserError` if
        there is no such policy."""
        self._kind, self._chosen = reference.load_kind(), chosen
        for name in ("argument", "inputs"):
            if getattr(reference, name) and name not in self._kind.options:
                raise UserError(f"--policy_{name}: has no effect on {reference.shown}")
        self.of = self._kind.parse(reference)
        self.env_name = env_name or self._kind.env_name(self.of)
        self.horizon = 0
        """Steps of the shortest chunk that it has answered; 0: it was not asked yet."""

    @property
    def reference(self) -> str:
        return self.of.text

    @property
    def shown(self) -> str:
        return self.of.shown

    @cached_property
    def _content(self) -> str:
        return self._kind.content(self.of)

    @cached_property
    def run_id(self) -> str:
        last = re.sub(r"[^\w.-]+", "_", Path(self.of.where).name).strip("_.")
        return f"{self.of.kind}_{last}_{digest([last, self.of.argument, self.of.inputs, self._content])[:8]}"

    @property
    def folder_names(self) -> list[str]:
        return [self.run_id]

    @property
    def step(self) -> int:
        return 0

    @cached_property
    def setting(self) -> SampleSetting:
        return self._chosen or self._kind.setting(self.of)

    @property
    def files(self) -> tuple[Path, ...]:
        return self._kind.files(self.of)

    @property
    def inputs(self) -> tuple[Path, ...]:
        return self.files

    @property
    def identity(self) -> tuple[Any, ...]:
        return (self.run_id,)

    def to_plain(self) -> dict[str, Any]:
        about = {"argument": self.of.argument, "inputs": self.of.inputs, "content": self._content}
        return {
            "bundle": self.shown,
            "run_id": self.run_id,
            "step": 0,
            "policy": {name: value for name, value in about.items() if value},
        }

    def check_sampling(self, names: Iterable[str], where: str) -> None:
        axes = self._kind.sample_axes(self.of)
        for name in names:
            if name not in axes:
                raise UserError(f"{where}{name}: has no effect on {self.shown}; what has: {', '.join(axes) or 'none'}")

    def check_setting(self, setting: SampleSetting, where: str) -> None:
        if setting.execute_steps < 0 or (self.horizon and setting.execute_steps > self.horizon):
            most = f"0..{self.horizon}, the steps of its chunk" if self.horizon else "at least 0"
            raise UserError(f"{where}execute_steps: expected {most}, got {setting.execute_steps}")
        m = setting.temporal_ensemble
        if not (m == -1 or (m >= 0 and math.isfinite(m))):
            raise UserError(f"{where}temporal_ensemble: expected at least 0, or -1 (off), got {m:g}")
        if m >= 0 and self.horizon == 1:
            raise UserError(f"{where}temporal_ensemble: has no effect on {self.shown}, which answers single actions")

    def evaluations(self, setting: SampleSetting) -> int:
        return setting.evaluations or 1

    def check_instruction(self, instruction: str) -> None:
        """All of them get it; whether they read it is theirs."""

    def check_env(self, env_spec: EnvSpec, name: str, instruction: str) -> None:
        task = get_task(name)
        if INSTRUCTION in {*env_spec.obs_sizes, *env_spec.images}:
            raise UserError(
                f"{name}: expected no observation of the name {INSTRUCTION!r}, which a policy finds the text by"
            )
        about = About.of_spec(task, env_spec, instruction, self.setting.flow_steps, self.of.argument)
        if self._kind.by_rows:
            self._check_interface(self._kind.predictor(self.of, about).bundle, env_spec, name)
            return
        if not self.horizon:  # so that one that hangs is named
            cli.console.print(f"checking {self.shown} with one request, on a start of {name}")
        try:
            chunk_HA = probe(self.of, about, env_spec.first, self.setting)
        except PolicyError as error:
            where = f" (asked once for a start of {name}, before any episode)"
            named = str(error).removeprefix(f"{self.shown}: ")  # what a user's module does wrong is named already
            raise UserError(f"{self.shown}: {named}{where}") from error
        self.horizon = min(self.horizon or len(chunk_HA), len(chunk_HA))

    def _check_interface(self, policy: ActingPolicy, env_spec: EnvSpec, name: str) -> None:
        shapes = {**{key: (size,) for key, size in policy.obs_sizes.items()}, **policy.images}
        other = other_observation(shapes, env_spec)
        if other is not None:
            key, expected, got = other
            raise UserError(f"{self.shown}: observation {key!r}: the policy expects size {expected}, {name} has {got}")
        if policy.action_form.action_size != env_spec.action_size:
            raise UserError(
                f"{self.shown}: actions: the policy gives {policy.action_form.action_size} numbers, {name} takes "
                f"{env_spec.action_size}"
            )
        self.horizon = policy.spec.horizon


def seconds_to_wait(asked: float, deadline: float) -> float:
    """Seconds to wait for an answer of a policy on a server. asked: what the user wants; 0: the default. deadline:
    seconds after which an episode counts as hung. Raises `UserError` if that is less."""
    if not asked:
        return min(TIMEOUT, deadline / 2)
    if not 0 < asked < deadline:
        raise UserError(
            f"--policy_timeout: expected seconds above 0 and below --deadline ({deadline:g}), got {asked:g}"
        )
    return asked


def measured_policy(path: Path, chosen: SampleSetting | None = None) -> MeasuredPolicy:
    """The policy in a folder: a bundle, or a policy of others. chosen: the sample setting that a sweep chose.

    Raises `UserError` if there is none.
    """
    if folder.is_foreign(path):
        return MeasuredForeign(folder.reference_of(path), folder.env_name_of(path), chosen)
    return MeasuredBundle(path, PolicyBundle.load(path), chosen)


def foreign_policy(text: str, env_name: str = "", **options: Any) -> MeasuredForeign | None:
    """The policy of others that a text on a command line names; None for a path. options: fields of `Reference`.

    Raises `UserError` if there is no such policy.
    """
    prefix = prefix_of(text)
    if not prefix:
        return None
    reference = dataclasses.replace(Reference(prefix, text.partition(":")[2]), **options)
    return MeasuredForeign(reference, env_name)
