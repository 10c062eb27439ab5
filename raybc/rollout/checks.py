"""Whether a bundle fits the environment it is to act in; what does not is refused before a simulator starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raybc.data.action_form import AS_RECORDED
from raybc.data.episodes import format_shape
from raybc.data.units import far_dimensions, far_starts, other_actions
from raybc.envs.robosuite_control import physical_units
from raybc.strict import listed
from raybc.types import UserError

if TYPE_CHECKING:
    from raybc.bundle import PolicyBundle  # it imports torch
    from raybc.envs.spec import EnvSpec

#: Parts of a dataset's `env_args` that results depend on.
DATA_ENV = ("robots", "controller_configs", "control_freq")


def check_fits(bundle: PolicyBundle, env_spec: EnvSpec, path: Path, instruction: str = "") -> None:
    """Refuse a bundle whose observations, actions or statistics do not match the environment, or that does not know the
    instruction.

    instruction: what the policy reads in place of the environment's instruction; "": that one.
    """
    check_reads(bundle, path, instruction)
    check_task(bundle, env_spec, path, bundle.config.env_name, instruction or env_spec.instruction)
    check_statistics(bundle, env_spec, path)


def check_reads(bundle: PolicyBundle, path: Path, instruction: str) -> None:
    """Refuse an instruction for a policy that reads none."""
    if instruction and bundle.instructions is None:
        raise UserError(f"--instruction: has no effect, since this policy reads no instructions: {path}")


def check_task(bundle: PolicyBundle, env_spec: EnvSpec, path: Path, name: str, instruction: str) -> None:
    """Refuse a bundle whose observations or actions do not match the environment `name`, or that does not know its
    instruction."""
    own = name == bundle.config.env_name
    bundle.embed((instruction,), f"{path}: instruction" if own else f"{path}: instruction of {name}")
    other = other_observation({**{key: (size,) for key, size in bundle.obs_sizes.items()}, **bundle.images}, env_spec)
    if other is not None:
        key, expected, got = other
        raise UserError(
            f"{path}: observation {key!r}: the policy expects size {expected}, environment {name!r} has {got}"
        )
    if bundle.action_size != env_spec.action_size:
        raise UserError(
            f"{path}: actions: the policy gives {bundle.action_size} numbers, environment {name!r} takes "
            f"{env_spec.action_size}"
        )
    learned, units = bundle.config.action_units, ",".join(physical_units(env_spec.env_args))
    if learned != AS_RECORDED and units and learned != units:
        raise UserError(
            f"{path}: actions: the policy learned them in units of {learned}, environment {name!r} has {units}: the "
            "same action would move by another distance"
        )


def other_observation(expected: Mapping[str, tuple[int, ...]], env_spec: EnvSpec) -> tuple[str, str, str] | None:
    """(observation, expected size, what the environment has) of the first one that differs; None where all agree."""
    here = {**{key: (size,) for key, size in env_spec.obs_sizes.items()}, **env_spec.images}
    for key, shape in expected.items():
        if here.get(key) != shape:
            return key, format_shape(shape), format_shape(here[key]) if key in here else "none of that name"
    return None


def check_statistics(bundle: PolicyBundle, env_spec: EnvSpec, path: Path) -> None:
    """Refuse statistics in other units than the environment's: such a policy would run, and solve nothing.

    Starts of the environment must resemble the training data, and the actions that the statistics describe must lie in
    the action space and cover a fair part of it.
    """
    far = None
    if bundle.obs_sizes:
        starts = np.concatenate([env_spec.starts[key] for key in bundle.obs_sizes], axis=1)
        far = far_starts(starts, bundle.obs_normalizer.offset, bundle.obs_normalizer.scale)
    if far is not None:
        worst, distance = far
        key, place = _name_of(bundle.obs_sizes, worst)
        raise UserError(
            f"{path}: normalisation of observations does not fit environment {bundle.config.env_name!r}: "
            f"{key}[{place}] is {starts[0, worst]:g} at a start, {distance:.0f} scales from the "
            f"{bundle.obs_normalizer.offset[worst]:g} of the training data; was the data in other units, or normalised "
            "twice?"
        )
    places, learned = map(list, zip(*bundle.action_form.kept(), strict=True))
    ends = [bundle.action_form.in_learned_units(end) for end in (env_spec.action_low, env_spec.action_high)]
    low, high = np.minimum(*ends)[places], np.maximum(*ends)[places]
    offset, scale = bundle.action_normalizer.offset[learned], bundle.action_normalizer.scale[learned]
    other = other_actions(offset - 5 * scale, offset + 5 * scale, low, high)
    if other is not None:
        raise UserError(
            f"{path}: normalisation of actions does not fit environment {bundle.config.env_name!r}: action "
            f"{places[other]} is {offset[other]:g} -+ {scale[other]:g} in the training data, the environment takes "
            f"{low[other]:g} to {high[other]:g}; was the data in other units, or normalised twice?"
        )


def far_observations(bundle: PolicyBundle, env_spec: EnvSpec) -> list[str]:
    """Notes about single dimensions whose starts are far from all that the policy was trained on."""
    if not bundle.obs_sizes:
        return []
    starts = np.concatenate([env_spec.starts[key] for key in bundle.obs_sizes], axis=1)
    normalizer = bundle.obs_normalizer
    notes = []
    for place, distance in far_dimensions(starts, normalizer.offset, normalizer.scale):
        key, d = _name_of(bundle.obs_sizes, place)
        notes.append(
            f"{key}[{d}] is {starts[0, place]:g} at a start, {distance:.0f} scales from the "
            f"{normalizer.offset[place]:g} of the training data, where it hardly moved: the policy never saw this, and "
            "normalisation blows it up"
        )
    return notes


def _name_of(sizes: dict[str, int], place: int) -> tuple[str, int]:
    for key, size in sizes.items():
        if place < size:
            return key, place
        place -= size
    raise IndexError(place)


def check_camera(camera: str, env_spec: EnvSpec, task: str) -> None:
    """Refuse a camera that the simulator does not have. Where its cameras are not known, none is refused."""
    if not camera or env_spec.cameras is None or camera in env_spec.cameras:
        return
    if not env_spec.cameras:
        raise UserError(f"--camera: the simulator of {task} has no named cameras, got {camera!r}; leave the flag out")
    raise UserError(f"--camera: expected one of {listed(camera, env_spec.cameras)} of {task}, got {camera!r}")


def version_changes(bundle: PolicyBundle, env_spec: EnvSpec) -> list[tuple[str, str, str, str]]:
    """(since, name, then, now) for everything that a score depends on and that has changed since the policy was trained
    or its data was recorded."""
    now = env_spec.identity
    names = sorted(bundle.environment.keys() | now.keys())
    changes = [("the policy was trained", n, bundle.environment.get(n, "absent"), now.get(n, "absent")) for n in names]
    data, here = bundle.data_env, env_spec.env_args
    if data and here:
        pairs = [(n, data.get(n), here.get(n)) for n in ("env_name", "env_version")]
        old, new = data.get("env_kwargs", {}), here.get("env_kwargs", {})
        pairs += [(n, old[n], new.get(n)) for n in DATA_ENV if n in old and n in new]
        changes += [("the data was recorded", n, _short(a), _short(b)) for n, a, b in pairs]
    return [change for change in changes if change[2] != change[3]]


def _short(value: Any) -> str:
    """A value as a short text: a list of one as its member, and a controller's configuration as the kinds of its arms,
    which releases of robosuite spell differently."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return _short(value[0])
    if isinstance(value, dict):
        kinds = _arms(value)
        return json.dumps(sorted(kinds) or value, sort_keys=True)
    return str(value)


def _arms(value: Any) -> set[str]:
    """The kinds of controllers of the arms: of robosuite 1.5 below `body_parts`, of earlier ones at the top."""
    if not isinstance(value, dict):
        return set()
    parts = value.get("body_parts") or value.get("body_parts_controller_configs")
    if isinstance(parts, dict):
        parts = {**parts, **(parts["arms"] if isinstance(parts.get("arms"), dict) else {})}
        arms = [part for name, part in parts.items() if name in ("right", "left") and isinstance(part, dict)]
        return {str(part["type"]) for part in arms if part.get("type")}
    return {str(value["type"])} if value.get("type") else set()
