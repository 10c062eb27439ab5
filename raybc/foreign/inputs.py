"""What a policy on a server is sent: `NAME=SOURCE,...`, made of the observations of a simulator.

A SOURCE is an observation, or several that are joined with +; `instruction` is the text. After an observation, `:OP`
changes it: `mirror` (left and right), `flip` (top and bottom), `SIZE` or `HEIGHTxWIDTH` (resized with a black border,
so that the whole image is kept), `axis_angle` (of a quaternion, scalar last), `float64`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raybc.foreign.base import INSTRUCTION
from raybc.strict import did_you_mean
from raybc.types import UserError

_SIZE = re.compile(r"(\d+)(?:x(\d+))?")
#: Robot state of LIBERO as openpi and others learn it: position, axis-angle, fingers.
LIBERO_STATE = "robot0_eef_pos+robot0_eef_quat:axis_angle+robot0_gripper_qpos"


@dataclass(frozen=True)
class Inputs:
    """Name on the server -> how it is made."""

    named: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
    """(name, ((observation, operation, ...), ...))."""

    @classmethod
    def read(cls, text: str) -> Inputs:
        """Parse `NAME=SOURCE,...`. Raises `UserError` for anything else."""
        found = []
        for entry in text.split(","):
            name, equals, source = (part.strip() for part in entry.partition("="))
            if not (name and equals and source):
                raise UserError(f"--policy_inputs: expected NAME=OBSERVATION, separated by commas, got {entry!r}")
            parts = tuple(tuple(part.split(":")) for part in source.split("+"))
            for observation, *operations in parts:
                for operation in operations:
                    if operation not in OPERATIONS and not _SIZE.fullmatch(operation):
                        raise UserError(
                            f"--policy_inputs: {name}: {observation}: expected an operation of "
                            f"{', '.join(OPERATIONS)} or a size such as 224, got {operation!r}"
                        )
            found.append((name, parts))
        return cls(tuple(found))

    @classmethod
    def plain(cls, observations: Mapping[str, tuple[int, ...]], instruction: str) -> Inputs:
        """Every observation under its own name, and the text as `instruction` ("": none)."""
        own = tuple((name, ((name,),)) for name in observations)
        return cls(own + (((instruction, ((INSTRUCTION,),)),) if instruction else ()))

    def check(self, observations: Mapping[str, tuple[int, ...]], task: str, where: str) -> None:
        """Raise `UserError` for an observation that the task does not have, and an operation that it does not allow."""
        for name, parts in self.named:
            for observation, *operations in parts:
                if observation == INSTRUCTION:
                    if len(parts) > 1 or operations:
                        raise UserError(
                            f"{where}: {name}: the instruction is a text, which cannot be changed or joined"
                        )
                    continue
                if observation not in observations:
                    hint = did_you_mean(observation, observations)
                    seen = (
                        "; a task observes images if its name says so, as in NAME@256x256"
                        if _looks(observation)
                        else ""
                    )
                    raise UserError(
                        f"{where}: {name} is made of the observation {observation!r}, which {task} does not have "
                        f"({hint}); say with --policy_inputs what it is made of{seen}"
                    )
                rank = len(observations[observation])
                for operation in operations:
                    if (operation == "axis_angle") != (rank == 1) and operation != "float64":
                        raise UserError(f"{where}: {name}: {operation} has no meaning for {observation}")
                if rank > 1 and len(parts) > 1:
                    raise UserError(f"{where}: {name}: images cannot be joined")

    def of(self, obs: Mapping[str, Any]) -> dict[str, Any]:
        """What is sent for an observation."""
        return {name: _made(parts, obs) for name, parts in self.named}


def _looks(observation: str) -> bool:
    return "image" in observation


def _made(parts: tuple[tuple[str, ...], ...], obs: Mapping[str, Any]) -> Any:
    if parts[0][0] == INSTRUCTION:
        return obs[INSTRUCTION]
    found = []
    for observation, *operations in parts:
        value = np.asarray(obs[observation])
        for operation in operations:
            size = _SIZE.fullmatch(operation)
            value = (
                OPERATIONS[operation](value) if size is None else padded(value, int(size[1]), int(size[2] or size[1]))
            )
        found.append(value)
    return np.ascontiguousarray(found[0] if len(found) == 1 else np.concatenate(found))


def padded(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (height, width, 3), uint8, in another size; a black border keeps its proportions."""
    from raybc.data.videos import resized

    share = min(height / image.shape[0], width / image.shape[1])
    inner = max(1, round(image.shape[0] * share)), max(1, round(image.shape[1] * share))
    whole = np.zeros((height, width, image.shape[2]), np.uint8)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    smaller = image if inner == image.shape[:2] else resized(image[None], *inner)[0]
    whole[top : top + inner[0], left : left + inner[1]] = smaller
    return whole


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """The axis-angle (3,) of a quaternion (4,), scalar last: of up to 2 pi, as robosuite and openpi compute it, so that
    it is what policies were trained with."""
    scalar = float(np.clip(quaternion[3], -1.0, 1.0))
    length = np.sqrt(1.0 - scalar * scalar)
    if np.isclose(length, 0.0):
        return np.zeros(3, np.float32)
    return (quaternion[:3] * 2.0 * np.arccos(scalar) / length).astype(np.float32)


#: Operation -> what it does.
OPERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirror": lambda image: image[:, ::-1],
    "flip": lambda image: image[::-1],
    "axis_angle": axis_angle,
    "float64": lambda value: value.astype(np.float64),
}
