"""`ActionForm`: the form of actions that a network learns, made from the environment's actions and back.

As recorded, the two are the same. With `action_rotation: rotation_6d`, actions of arms, each a position (3), an
axis-angle (3) and a gripper (1), are learned as position (3), rotation_6d (6) and gripper (1): axis-angles jump at pi,
where a gripper that points down is. Letters: A numbers of an action, L numbers that are learned; any leading
dimensions.

With `action_units`, positions and rotations are learned in metres and radians instead of shares of what a controller
does in a step, and a gripper as its opening: 0 where the environment takes 1 (closed), 1 where it takes -1. This is the
only place that converts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raybc.config import Normalization, RunConfig
from raybc.envs.robosuite_control import OPEN, physical_units
from raybc.types import UserError

#: Numbers of an arm: position, axis-angle, gripper. Those that are learned: position, rotation_6d, gripper.
ARM, LEARNED_ARM = 7, 10
#: What is kept of an arm: (place in the action, place in what is learned).
KEPT = ((0, 0), (1, 1), (2, 2), (6, 9))
#: Longest axis-angle, in radians; longer ones would come back as others.
LONGEST = np.pi + 1e-3
#: Values of `action_units` that are no list of units.
AS_RECORDED, PHYSICAL = "as_recorded", "physical"


@dataclass(frozen=True)
class ActionForm:
    """The form of actions of A numbers."""

    action_size: int
    """A."""
    arms: int = 0
    """Arms whose rotations are learned as rotation_6d; 0: rotations are learned as they are."""
    gains: tuple[float, ...] = ()
    """In which units numbers are learned: that of the environment times its gain plus its offset; (): the
    environment's own."""
    offsets: tuple[float, ...] = ()

    @classmethod
    def of(cls, config: RunConfig, action_size: int) -> ActionForm:
        """The form that a run learns. Raises `UserError` for actions that are not of arms, or have other units."""
        gains, offsets = _units(config.action_units, action_size)
        if config.action_rotation == "as_recorded":
            return cls(action_size, 0, gains, offsets)
        if not action_size or action_size % ARM:
            raise UserError(
                f"action_rotation: expected actions of {ARM} numbers for each arm (position, axis-angle, gripper) with "
                f"{config.action_rotation}, got {action_size} numbers; use as_recorded"
            )
        return cls(action_size, action_size // ARM, gains, offsets)

    @property
    def size(self) -> int:
        """L."""
        return self.arms * LEARNED_ARM or self.action_size

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Actions (..., A) as they are learned (..., L), float32, physical.

        Raises `UserError` for axis-angles longer than pi, which are no rotations of an arm's actions.
        """
        actions = self.in_learned_units(actions)
        if not self.arms:
            return actions
        from raybc.data.rotations import convert  # scipy, which most trainings do without

        arms = actions.reshape(*actions.shape[:-1], self.arms, ARM)
        turns = arms[..., 3:6]
        longest = float(np.sqrt((turns.astype(np.float64) ** 2).sum(-1)).max(initial=0))
        if longest > LONGEST:
            raise UserError(
                f"action_rotation: expected axis-angles of at most pi in places 4 to 6 of each arm's {ARM} numbers, "
                f"got one of length {longest:.3g}; use as_recorded"
            )
        learned = np.empty((*arms.shape[:-1], LEARNED_ARM), np.float32)
        for place, mine in KEPT:
            learned[..., mine] = arms[..., place]
        learned[..., 3:9] = convert(turns, "axis_angle", "rotation_6d")
        return learned.reshape(*actions.shape[:-1], self.size)

    def decode(self, learned: np.ndarray) -> np.ndarray:
        """The inverse of `encode`: (..., L) -> actions (..., A), float32. Any six numbers become a rotation by
        Gram-Schmidt, with an axis-angle of at most pi."""
        if not self.arms:
            return self._in_own_units(learned)
        from raybc.data.rotations import convert

        parts = learned.reshape(*learned.shape[:-1], self.arms, LEARNED_ARM)
        arms = np.empty((*parts.shape[:-1], ARM), np.float32)
        for place, mine in KEPT:
            arms[..., place] = parts[..., mine]
        arms[..., 3:6] = convert(parts[..., 3:9], "rotation_6d", "axis_angle")
        return self._in_own_units(arms.reshape(*learned.shape[:-1], self.action_size))

    def in_learned_units(self, actions: np.ndarray) -> np.ndarray:
        """Actions (..., A) of the environment in the units that are learned, float32."""
        if not self.gains:
            return actions
        return actions * np.array(self.gains, np.float32) + np.array(self.offsets, np.float32)

    def _in_own_units(self, actions: np.ndarray) -> np.ndarray:
        if not self.gains:
            return actions
        return (actions - np.array(self.offsets, np.float32)) / np.array(self.gains, np.float32)

    def kinds(self, kind: Normalization) -> list[Normalization]:
        """The kind of statistics of each of the L numbers: `kind`, and none for rotation_6d, whose numbers are in
        [-1, 1] and belong together."""
        kept = {mine for _, mine in self.kept()}
        return [kind if place in kept else "identity" for place in range(self.size)]

    def kept(self) -> Sequence[tuple[int, int]]:
        """(place in the action, place in what is learned) of the numbers that are the same in both."""
        if not self.arms:
            return [(place, place) for place in range(self.action_size)]
        return [(arm * ARM + place, arm * LEARNED_ARM + mine) for arm in range(self.arms) for place, mine in KEPT]


def _units(text: str, action_size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Gains and offsets of the units `text`; () for those of the environment."""
    if text == AS_RECORDED:
        return (), ()
    if text == PHYSICAL:
        raise UserError(
            "action_units: physical: expected actions of a known controller; write what 1 means in each number "
            f"instead, such as 0.05,0.05,0.05,0.5,0.5,0.5,{OPEN}"
        )
    words = [word.strip() for word in text.split(",")]
    pairs = [(-0.5, 0.5) if word == OPEN else (_gain(word, text), 0.0) for word in words]
    if action_size and len(pairs) != action_size:
        raise UserError(
            f"action_units: expected {action_size} units, one for each number of an action, got {len(pairs)}"
        )
    return tuple(gain for gain, _ in pairs), tuple(offset for _, offset in pairs)


def _gain(word: str, text: str) -> float:
    try:
        gain = float(word)
    except ValueError:
        gain = 0.0
    if not (gain > 0 and np.isfinite(gain)):
        raise UserError(
            f"action_units: expected {AS_RECORDED}, {PHYSICAL}, or numbers above 0 and {OPEN}, separated by commas; "
            f"got {text!r}"
        )
    return gain


def with_units(config: RunConfig, *known: Mapping[str, Any]) -> RunConfig:
    """`config` with the units that `action_units: physical` means, as numbers.

    known: robomimic's `env_args` of the data, and of the environment; the first that describes a controller counts.
    Raises `UserError` if none does.
    """
    if config.action_units != PHYSICAL:
        return config
    for env_args in known:
        units = physical_units(env_args)
        if units:
            return dataclasses.replace(config, action_units=",".join(units))
    raise UserError(
        "action_units: physical: expected data that describe robosuite's controllers (`env_args`), got none; write "
        f"what 1 means in each number instead, such as 0.05,0.05,0.05,0.5,0.5,0.5,{OPEN}"
    )
