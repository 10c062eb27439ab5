"""Options of policies and image encoders: one dataclass per kind. This module does not import PyTorch.

A kind is a name (`flow`), or `module:Class` for a custom policy outside of this package (docs/extending.md).
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from raybc.config.options import check_bounds, flag_path, option
from raybc.strict import did_you_mean
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.config.run import RunConfig

SAMPLE_OPTIONS = ("flow_steps", "execute_steps", "eval_temperature", "temporal_ensemble")
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
    sample_axes: ClassVar[tuple[str, ...]] = SAMPLE_OPTIONS
    """Sampling options that have an effect on this policy."""
    renamed_weights: ClassVar[Mapping[str, str]] = {}
    """Prefix of parameter names in earlier releases -> current prefix."""


@dataclass(frozen=True)
class EncoderConfig(Component):
    """Options of one kind of image encoder.

    `builder` names `build(config: EncoderConfig, image: tuple[int, int, int], members: int)`, a pack of encoders
    (raybc.policies.base.Encoder) of images of (height, width, channels of all observation steps).
    """

    what: ClassVar[str] = "encoder"


_KINDS: dict[str, dict[str, type[Component]]] = {"policy": {}, "encoder": {}}


def register(kind: str) -> Callable[[C], C]:
    """Class decorator: choose this class by the name `kind`."""

    def add(cls: C) -> C:
        _KINDS[cls.what][kind] = cls
        return cls

    return add


def kinds(what: str) -> Mapping[str, type[Component]]:
    """Name -> class of the built-in kinds. what: policy or encoder."""
    return _KINDS[what]


def kind_of(cls: type[Component]) -> str:
    """The name that chooses `cls`."""
    known = [name for name, other in _KINDS[cls.what].items() if other is cls]
    return known[0] if known else f"{cls.__module__}:{cls.__qualname__}"


def find_kind(what: str, kind: str, where: str) -> type[Component]:
    """The class that `kind` names. Raises `UserError` if there is none.

    Args:
        what: policy or encoder.
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
    base = {"policy": PolicyConfig, "encoder": EncoderConfig}[what]
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


# --- policies -------------------------------------------------------------------------------------------------------


@register("flow")
@dataclass(frozen=True)
class FlowConfig(PolicyConfig):
    """Flow matching with a multilayer perceptron."""

    builder: ClassVar[str] = "raybc.policies.flow:build"
    renamed_weights: ClassVar[Mapping[str, str]] = {"field.": "velocity_field."}

    hidden_width: int = option(512, at_least=1)
    """Units in a hidden layer of the velocity field."""
    hidden_depth: int = option(4, at_least=1)
    """Hidden layers of the velocity field."""
    use_fourier_features: bool = False
    """Feed the flow time as Fourier features instead of a scalar."""


@register("flow_unet")
@dataclass(frozen=True)
class FlowUNetConfig(PolicyConfig):
    """Flow matching with the conditional 1-D U-Net of Diffusion Policy."""

    builder: ClassVar[str] = "raybc.policies.fields.unet1d:build"

    unet_channels: str = "256,512,1024"
    """Channels of each level, comma-separated; horizon_length must be a multiple of 2^(levels - 1)."""
    unet_kernel: int = option(5, at_least=1)
    """Kernel of the convolutions, odd."""
    unet_groups: int = option(8, at_least=1)
    """Groups of GroupNorm; they divide the channels."""
    unet_time_size: int = option(256, at_least=4)
    """Size of the time embedding, even."""

    @property
    def channels(self) -> tuple[int, ...]:
        """unet_channels as integers."""
        return tuple(int(c) for c in self.unet_channels.split(","))

    def validate(self, run: RunConfig, where: str) -> None:
        super().validate(run, where)
        place = flag_path(where)
        if not all(c.strip().isdecimal() and int(c) > 0 for c in self.unet_channels.split(",")):
            raise UserError(f"{place}unet_channels: expected numbers such as 64,128,256, got {self.unet_channels!r}")
        for name in ("unet_kernel", "unet_time_size"):
            odd = name == "unet_kernel"
            if getattr(self, name) % 2 != odd:
                raise UserError(
                    f"{place}{name}: expected an {'odd' if odd else 'even'} number, got {getattr(self, name)}"
                )
        if any(c % self.unet_groups for c in self.channels):
            raise UserError(
                f"{place}unet_channels: expected multiples of unet_groups = {self.unet_groups}, "
                f"got {self.unet_channels!r}"
            )
        divisor = 2 ** (len(self.channels) - 1)
        if run.chunk_length % divisor:
            hint = "" if run.action_chunking else " (action_chunking is off, so a chunk has 1 step)"
            raise UserError(
                f"{place}horizon_length: expected a multiple of {divisor} with the {len(self.channels)} levels of "
                f"unet_channels, got {run.chunk_length}{hint}"
            )


@register("regression")
@dataclass(frozen=True)
class RegressionConfig(PolicyConfig):
    """Regression on the chunk with a multilayer perceptron."""

    builder: ClassVar[str] = "raybc.policies.regression:build"
    sample_axes: ClassVar[tuple[str, ...]] = ("execute_steps", "temporal_ensemble")

    regression_loss: Literal["mse", "l1"] = "mse"
    """Mean squared or mean absolute error."""
    hidden_width: int = option(512, at_least=1)
    """Units in a hidden layer."""
    hidden_depth: int = option(4, at_least=1)
    """Hidden layers."""


# --- encoders -------------------------------------------------------------------------------------------------------


@register("None")
@dataclass(frozen=True)
class NoEncoder(EncoderConfig):
    """No images."""


@dataclass(frozen=True)
class _Impala(EncoderConfig):
    builder: ClassVar[str] = "raybc.policies.encoders.impala:build"
    channels: ClassVar[tuple[int, ...]]
    blocks: ClassVar[int]
    """Residual blocks in each stack."""
    features: ClassVar[int]


@register("impala_small")
@dataclass(frozen=True)
class ImpalaSmall(_Impala):
    """IMPALA's residual network, one block per stack."""

    channels, blocks, features = (16, 32, 32), 1, 512


@register("impala")
@dataclass(frozen=True)
class Impala(_Impala):
    """IMPALA's residual network, two blocks per stack."""

    channels, blocks, features = (16, 32, 32), 2, 512


@register("impala_large")
@dataclass(frozen=True)
class ImpalaLarge(_Impala):
    """IMPALA's residual network, two wide blocks per stack."""

    channels, blocks, features = (64, 128, 128), 2, 1024
