"""Starting a training from the weights of another policy (`init_from`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raybc.config import RunConfig
from raybc.data.episodes import format_shape
from raybc.files import expanded
from raybc.find_bundle import find_bundle
from raybc.language.table import Instructions
from raybc.strict import digest
from raybc.types import UserError

if TYPE_CHECKING:  # it reads files, which training itself does without
    from raybc.bundle import PolicyBundle
    from raybc.train.data import Prepared

#: Prefix of the names of a critic's weights.
CRITIC = "critic."


@dataclass(frozen=True)
class Start:
    """Which weights a training starts from."""

    source: str
    """The bundle."""
    loaded: tuple[str, ...]
    """Names of the weights that were loaded."""
    new: tuple[str, ...]
    """Weights of the new policy that the bundle does not have, or has in another shape."""
    left: tuple[str, ...]
    """Weights of the bundle that the new policy does not have."""
    new_critic: bool = False
    """Whether the new policy has a critic and the bundle has none."""
    no_critic: bool = False
    """Whether the bundle has a critic and the new policy has none."""

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} weights from {self.source}"]
        parts += [f"{len(self.new)} new ({_some(self.new)})"] if self.new else []
        parts += [f"{len(self.left)} of it not used ({_some(self.left)})"] if self.left else []
        parts += ["a critic with random weights"] if self.new_critic else []
        parts += ["its critic is not used"] if self.no_critic else []
        return "starting from " + "; ".join(parts)


def source_bundle(config: RunConfig) -> PolicyBundle:
    """The policy that `init_from` names. Raises `UserError` if it cannot be read."""
    from raybc.bundle import PolicyBundle

    path, _ = find_bundle(expanded(config.init_from, "init_from"))
    return PolicyBundle.load(path)


def sha256_of_start(config: RunConfig) -> str:
    """The sha256 of the weights that `init_from` names; must be `init_from_sha256` if that is set."""
    from raybc.bundle import weights_sha256

    path, _ = find_bundle(expanded(config.init_from, "init_from"))
    found = weights_sha256(path)
    if config.init_from_sha256 not in ("", found):
        raise UserError(
            f"init_from: expected the weights {config.init_from_sha256}, got {found} in {path}: the policy there has "
            "changed since; name the checkpoint itself"
        )
    return found


def load_start(config: RunConfig, prepared: Prepared, action_size: int, weights: Mapping[str, Tensor]) -> Start:
    """Copy the weights of the policy that `init_from` names into every member of a pack.

    Args:
        config: with `init_from` and `init_partial`.
        prepared: what the new policy sees.
        action_size: A.
        weights: name -> weight of the pack, with the member axis first; changed in place.

    Raises `UserError` if not everything fits and `init_partial` is not set, or if nothing fits.
    """
    bundle = source_bundle(config)
    shapes = {name: tuple(weight.shape[1:]) for name, weight in weights.items()}
    there = {name: tuple(weight.shape[1:]) for name, weight in bundle.weights.items()}
    if config.critic.is_none or bundle.config.critic.is_none:  # a critic that only one of them has is no difference
        shapes, there = ({n: s for n, s in of.items() if not n.startswith(CRITIC)} for of in (shapes, there))
    loaded = tuple(name for name in shapes if there.get(name) == shapes[name])
    start = Start(
        str(find_bundle(expanded(config.init_from))[0]),
        loaded,
        tuple(name for name in shapes if name not in loaded),
        tuple(name for name in there if name not in shapes),
        new_critic=not config.critic.is_none and bundle.config.critic.is_none,
        no_critic=config.critic.is_none and not bundle.config.critic.is_none,
    )
    differing = _differences(config, bundle, prepared, action_size)
    other = [
        f"{name} is {format_shape(there[name])} there and {format_shape(shapes[name])} here"
        for name in shapes
        if name in there and there[name] != shapes[name]
    ]
    if not loaded:
        raise UserError(f"init_from: {start.source}: none of its {len(there)} weights fits this policy")
    if (start.new or start.left or differing) and not config.init_partial:
        why = [*differing, *other[:2]]
        why += [f"new: {_some(start.new)}"] if start.new and not other else []
        why += [f"not used: {_some(start.left)}"] if start.left else []
        raise UserError(
            f"init_from: {start.source}: {len(loaded)} of {len(shapes)} weights fit ({'; '.join(why)}); use "
            "--init_partial to load those and start the others as usual"
        )
    with torch.no_grad():
        for name in loaded:
            weights[name].copy_(bundle.weights[name].expand_as(weights[name]))
    return start


def _differences(config: RunConfig, bundle: PolicyBundle, prepared: Prepared, action_size: int) -> list[str]:
    """What the two policies see and give, where that differs."""
    found = []
    for what, was, new in (
        ("observations", bundle.obs_sizes, prepared.obs_sizes),
        ("images", dict(bundle.images), prepared.images),
    ):
        if list(was.items()) != list(new.items()):
            found.append(f"{what}: {_named(was)} there, {_named(new)} here")
    if bundle.action_size != action_size:
        found.append(f"actions: {bundle.action_size} there, {action_size} here")
    if bundle.config.action_units != config.action_units:
        found.append(f"action_units: {bundle.config.action_units} there, {config.action_units} here")
    if bundle.config.action_rotation != config.action_rotation:
        found.append(f"action_rotation: {bundle.config.action_rotation} there, {config.action_rotation} here")
    if not config.critic.is_none and not bundle.config.critic.is_none:
        steps = bundle.config.ahead_length, config.ahead_length
        if steps[0] != steps[1]:
            found.append(f"the critic: of chunks of {steps[0]} steps there, of {steps[1]} here")
    before, now = _language(bundle.config, bundle.instructions), _language(config, prepared.instructions)
    if before != now:
        found.append(f"language: {before} there, {now} here")
    return found


def _language(config: RunConfig, instructions: Instructions | None) -> str:
    """What the embeddings of instructions depend on: the encoder, and where it numbers them the instructions."""
    if instructions is None:
        return "none"
    version = getattr(config.language, "language_sha256", "")[:8]
    if config.language.kind == "one_hot":
        return f"one_hot of {len(instructions.texts)} instructions ({digest(list(instructions.texts))[:8]})"
    return f"{config.language.kind} {version}".strip()


def _named(sizes: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "none"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
