"""How arms are controlled in a robosuite environment, as robomimic's `env_args` describe it; imports no simulator.

Robosuite 1.5 describes a whole robot (`body_parts`), earlier releases an arm. Actions of OSC_POSE are deltas from the
current pose or absolute poses, in the frame of the robot's base or of the world.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DELTA, ABSOLUTE = "delta", "absolute"
OSC_POSE = "OSC_POSE"


@dataclass(frozen=True)
class Control:
    """What the actions of arms mean."""

    type: str
    """The kind of controller, such as OSC_POSE."""
    input_type: str
    """`DELTA` or `ABSOLUTE`."""
    frame: str
    """base or world."""

    @property
    def absolute(self) -> bool:
        """Whether actions are poses."""
        return self.input_type == ABSOLUTE

    def __str__(self) -> str:
        return f"{self.input_type} actions of {self.type} in the {self.frame}'s frame"


def is_old(version: str) -> bool:
    """Whether a version of robosuite is 1.4 or earlier: arms' controllers, deltas in the world's frame."""
    return re.match(r"(0|1\.[0-4])(\.|$)", version) is not None


def controls_of(env_args: Mapping[str, Any]) -> list[Control]:
    """The control of each arm; [] where `env_args` do not describe it."""
    kwargs = env_args.get("env_kwargs")
    configs = kwargs.get("controller_configs") if isinstance(kwargs, Mapping) else None
    frame = "world" if is_old(str(env_args.get("env_version", ""))) else "base"
    found = []
    for arm in _arms(configs):
        deltas = arm.get("control_delta", True)
        input_type = str(arm.get("input_type", DELTA if deltas else ABSOLUTE))
        found.append(Control(str(arm.get("type", "")), input_type, str(arm.get("input_ref_frame", frame))))
    return found


def is_absolute(env_args: Mapping[str, Any]) -> bool:
    """Whether the actions of all arms are poses, of OSC_POSE."""
    controls = controls_of(env_args)
    return bool(controls) and all(control.absolute and control.type == OSC_POSE for control in controls)


#: The unit of a gripper's opening: 1 where an action of -1 opens it, 0 where 1 closes it.
OPEN = "open"
#: Metres and radians of robosuite's own OSC_POSE.
DEFAULT_OSC_POSE = ("0.05",) * 3 + ("0.5",) * 3
#: Kind of controller -> numbers of an action.
_SIZES = {OSC_POSE: 6, "OSC_POSITION": 3, "JOINT_POSITION": 7}


def physical_units(env_args: Mapping[str, Any]) -> list[str]:
    """What 1 means in each number of an action: metres or radians in a step, or `OPEN`; [] where `env_args` do not
    describe it. Poses are in metres and radians already."""
    kwargs = env_args.get("env_kwargs")
    if not isinstance(kwargs, Mapping):
        return []
    configs = kwargs.get("controller_configs")
    if configs is None and kwargs.get("controller") == OSC_POSE:  # LIBERO's environments, which name it only
        return [*DEFAULT_OSC_POSE, OPEN]
    found: list[str] = []
    for arm, control in zip(_arms(configs), controls_of(env_args), strict=True):
        size = _SIZES.get(control.type, 0)
        ranges = [_each(arm.get(name), size) for name in ("output_max", "output_min", "input_max", "input_min")]
        if not size or not (control.absolute or all(ranges)):
            return []
        steps = [1.0] * size
        if not control.absolute:
            steps = [(high - low) / (to - since) for high, low, to, since in zip(*ranges, strict=True)]
        found += [*(f"{step:.6g}" for step in steps), OPEN]
    return found


def _each(value: Any, size: int) -> list[float]:
    """A number, or one for each dimension, as `size` numbers; [] for anything else."""
    values = list(value) if isinstance(value, list | tuple) else [value] * size
    return [float(v) for v in values] if len(values) == size and all(isinstance(v, int | float) for v in values) else []


def with_input_type(configs: Any, input_type: str) -> Any:
    """A copy of `controller_configs` in which arms take deltas or poses."""
    changed = copy.deepcopy(configs)
    for arm in _arms(changed):
        if "control_delta" in arm:
            arm["control_delta"] = input_type == DELTA
        if "input_type" in arm or "control_delta" not in arm:
            arm["input_type"] = input_type
    return changed


def _arms(configs: Any) -> Iterator[dict[str, Any]]:
    """The configuration of each arm in those of a robot, an arm, or a list of these."""
    if isinstance(configs, list | tuple):
        for config in configs:
            yield from _arms(config)
    if not isinstance(configs, dict):
        return
    parts = configs.get("body_parts") or configs.get("body_parts_controller_configs")
    if not isinstance(parts, dict):
        if configs.get("type"):
            yield configs
        return
    arms = parts.get("arms")
    for name, part in {**parts, **(arms if isinstance(arms, dict) else {})}.items():
        if name in ("right", "left") and isinstance(part, dict):
            yield part
