"""Components of a run that are chosen by kind: policies, encoders of images, encoders of instructions, critics.

This module does not import PyTorch. A kind is a name (`flow`), or `module:Class` for a component of your own outside of
this package (docs/own_policy.md).
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from raybc.config.options import check_bounds
from raybc.strict import did_you_mean
from raybc.types import SampleSetting, UserError

if TYPE_CHECKING:
    from raybc.config.run import RunConfig

#: Sampling options that policies may have by themselves; `best_of_n` needs a critic as well (`RunConfig.sample_axes`).
SAMPLE_OPTIONS = ("flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble", "solver")
C = TypeVar("C", bound="type[Component]")


@dataclass(frozen=True)
class Component:
    """Options of a policy or an encoder, chosen by kind."""

    what: ClassVar[str] = "component"
    """The option that chooses the kind."""
    builder: ClassVar[str] = ""
    """`module:function` that builds the network; imported only when it is called."""

    @property
    def kind(self) -> str:
        """The name that chooses this class."""
        return kind_of(type(self))

    def validate(self, run: RunConfig, where: str) -> None:
        """Raise `UserError` for the first impossible value. run: the run that these options belong to."""
        check_bounds(self, where)

    def build(self, *inputs: Any) -> Any:
        """Call `builder` with `inputs`. Raises `UserError` if there is no such function."""
        module, _, name = self.builder.partition(":")
        build = getattr(importlib.import_module(module), name, None) if name else None
        if not callable(build):
            raise UserError(
                f"{self.what} {self.kind}: builder: expected 'module:function', got {self.builder!r}; check the class "
                f"with raybc.testing.check_config({type(self).__name__})"
            )
        return build(*inputs)


@dataclass(frozen=True)
class PolicyConfig(Component):
    """Options of one kind of policy.

    `builder` names `build(run: RunConfig, spec: PolicySpec, members: int) -> Policy`, a pack with uninitialised
    weights (raybc.policies.base).
    """

    what: ClassVar[str] = "policy"
    sample_axes: ClassVar[tuple[str, ...]] = SAMPLE_OPTIONS[:-1]
    """Sampling options that have an effect on this policy; a property where that depends on its options."""
    renamed_weights: ClassVar[Mapping[str, str]] = {}
    """Prefix of parameter names in earlier releases -> current prefix."""

    def evaluations(self, setting: SampleSetting) -> int:
        """Evaluations of the network per chunk."""
        return setting.evaluations if "flow_steps" in self.sample_axes else setting.best_of_n

    def without_effect(self, name: str) -> str:
        """Why the sampling option `name`, which is not in `sample_axes`, has no effect; part of a sentence."""
        return f"with policy {self.kind}"


@dataclass(frozen=True)
class EncoderConfig(Component):
    """Options of one kind of image encoder.

    `builder` names `build(config: EncoderConfig, image: tuple[int, int, int], members: int)`, a pack of encoders
    (raybc.policies.base.Encoder) of images of (height, width, channels of all observation steps, or of one step).
    """

    what: ClassVar[str] = "encoder"
    by_step: ClassVar[bool] = False
    """Whether the encoder sees one observation step at a time; must equal `by_step` of what is built."""
    smallest: ClassVar[int] = 1
    """Height and width, in pixels, of the smallest image that it can tell from others; a property where that depends on
    its options."""

    def check_available(self, where: str) -> None:
        """Raise `UserError` if something that the encoder needs, such as a package, is missing. Called before training
        reads data, and not where the options of a saved run are merely read."""

    def check_sizes(self, images: Mapping[str, tuple[int, ...]]) -> None:
        """Raise `UserError` for images that the encoder cannot see. Called before training reads weights.

        images: name -> (height, width, channels) of one step.
        """


@dataclass(frozen=True)
class LanguageConfig(Component):
    """Options of one kind of encoder of instructions.

    `builder` names `build(config: LanguageConfig)`, a `raybc.language.base.TextEncoder`.
    """

    what: ClassVar[str] = "language"

    def check_available(self, where: str) -> None:
        """Raise `UserError` if something that embedding needs, such as a package, is missing. Called before training
        reads data."""


@dataclass(frozen=True)
class CriticConfig(Component):
    """Options of one kind of critic.

    `builder` names `build(run: RunConfig, spec: PolicySpec, members: int)`, a pack of critics
    (raybc.policies.critic.Critic).
    """

    what: ClassVar[str] = "critic"
    learner: ClassVar[str] = ""
    """`module:Class` of the `raybc.train.learner.Learner` that trains the policy and the critic; empty: behaviour
    cloning."""

    @property
    def is_none(self) -> bool:
        """Whether there is no critic."""
        return not self.builder

    @property
    def online_updates(self) -> int:
        """Gradient steps of an online part, after `training_steps`."""
        return 0


_BASES: dict[str, type[Component]] = {
    "policy": PolicyConfig, "encoder": EncoderConfig, "language": LanguageConfig, "critic": CriticConfig,
}  # fmt: skip
_KINDS: dict[str, dict[str, type[Component]]] = {what: {} for what in _BASES}


def register(kind: str) -> Callable[[C], C]:
    """Class decorator: choose this class by the name `kind`."""

    def add(cls: C) -> C:
        _KINDS[cls.what][kind] = cls
        return cls

    return add


def kinds(what: str) -> Mapping[str, type[Component]]:
    """Name -> class of the built-in kinds. what: policy, encoder, language or critic."""
    return _KINDS[what]


def kind_of(cls: type[Component]) -> str:
    """The name that chooses `cls`."""
    known = [name for name, other in _KINDS[cls.what].items() if other is cls]
    return known[0] if known else f"{cls.__module__}:{cls.__qualname__}"


def find_kind(what: str, kind: str, where: str) -> type[Component]:
    """The class that `kind` names. Raises `UserError` if there is none.

    Args:
        what: policy, encoder, language or critic.
        kind: a built-in name, or module:Class.
        where: the option, for messages.
    """
    known = _KINDS[what]
    if kind in known:
        return known[kind]
    if ":" not in kind:
        raise UserError(
            f"{where}: expected one of {', '.join(known)} or module:Class of your own, got {kind!r}; "
            f"{did_you_mean(kind, known)}"
        )
    return _own_kind(what, kind, where)


def _own_kind(what: str, kind: str, where: str) -> type[Component]:
    module, _, name = kind.partition(":")
    base = _BASES[what]
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.split(".")[0]):
            raise UserError(f"{where}: {kind!r}: importing {module} failed: no module {error.name!r}") from error
        raise UserError(f"{where}: {kind!r}: there is no module {module!r} (is its folder in PYTHONPATH?)") from None
    except (AttributeError, ValueError):
        raise UserError(f"{where}: {kind!r}: module {module!r} has no {name!r}") from None
    except Exception as error:  # anything that the user's module raises during import
        raise UserError(f"{where}: {kind!r}: importing {module} raised {type(error).__name__}: {error}") from error
    check = f"check it with raybc.testing.check_config({name})"
    if not (isinstance(found, type) and issubclass(found, base) and dataclasses.is_dataclass(found)):
        raise UserError(f"{where}: {kind!r}: expected a frozen dataclass derived from {base.__name__}; {check}")
    if not found.builder:
        raise UserError(f"{where}: {kind!r}: expected `builder` to name 'module:function', got none; {check}")
    if kind_of(found) != kind:
        raise UserError(f"{where}: {kind!r}: this class is called {kind_of(found)!r}; use that name")
    return found
