"""Which numbers of our observations LeRobot's inputs are made of.

A user writes FEATURE=PART+PART+..., where a part is one of our observations or, as KEY:START:END, some of its numbers:
`observation.state=robot0_eef_pos+robot0_gripper_qpos`. Every number is used once. Letters: O, the size of our
concatenated low-dimensional observations, T observation steps, F features of an encoded observation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raybc.lerobot.files import ENVIRONMENT_STATE, STATE
from raybc.strict import did_you_mean
from raybc.types import UserError

_PART = re.compile(r"(?P<key>[^:+=]+)(?::(?P<first>\d+):(?P<end>\d+))?")


@dataclass(frozen=True)
class Layout:
    """Where LeRobot's inputs are among ours."""

    vectors: Mapping[str, tuple[int, ...]]
    """Low-dimensional input of LeRobot's -> places in our O numbers."""
    images: Mapping[str, str]
    """Image of LeRobot's -> our name."""

    def columns(self, obs_size: int, steps: int, image_features: int) -> np.ndarray:
        """Our place of each of LeRobot's F numbers that condition its U-Net, int64 (F,).

        Theirs are, for each step, the state, the features of the images, and the state of the environment; ours are
        the O numbers of all steps, then all steps of each image. image_features: of an image and step.
        """
        found = list[int]()
        for step in range(steps):
            found += [step * obs_size + place for place in self.vectors.get(STATE, ())]
            for number in range(len(self.images)):
                first = steps * obs_size + (number * steps + step) * image_features
                found += range(first, first + image_features)
            found += [step * obs_size + place for place in self.vectors.get(ENVIRONMENT_STATE, ())]
        return np.array(found, np.int64)


def parsed(entries: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Input of LeRobot's -> what the user wrote behind `=`. Raises `UserError` for other inputs than those in `known`,
    and for one that stands twice."""
    found: dict[str, str] = {}
    for entry in entries:
        feature, equals, value = entry.partition("=")
        if not equals or not value:
            raise UserError(f"--observations: expected FEATURE=OBSERVATION, got {entry!r}")
        if feature not in known:
            raise UserError(f"--observations: {entry}: {did_you_mean(feature, known)}")
        if feature in found:
            raise UserError(f"--observations: expected {feature} once, got it twice")
        found[feature] = value
    return found


def layout(chosen: Mapping[str, str], images: Mapping[str, str], obs_sizes: Mapping[str, int]) -> Layout:
    """The layout of inputs.

    Args:
        chosen: low-dimensional input of LeRobot's -> parts of our observations, as a user writes them.
        images: image of LeRobot's -> our name.
        obs_sizes: our observations -> size, in order.

    Raises `UserError` for parts that do not exist, and numbers that are used twice or never.
    """
    first_of = dict(zip(obs_sizes, np.cumsum([0, *obs_sizes.values()]).tolist(), strict=False))
    vectors: dict[str, tuple[int, ...]] = {}
    for feature, text in chosen.items():
        places = list[int]()
        for part in text.split("+"):
            match = _PART.fullmatch(part.strip())
            if match is None:
                raise UserError(f"--observations: {feature}: expected KEY or KEY:START:END, joined by +, got {part!r}")
            key = match["key"]
            if key not in obs_sizes:
                raise UserError(f"--observations: {feature}: {did_you_mean(key, obs_sizes)}")
            first, end = int(match["first"] or 0), int(match["end"] or obs_sizes[key])
            if not first < end <= obs_sizes[key]:
                raise UserError(f"--observations: {feature}: {part}: {key} has the numbers 0:{obs_sizes[key]}")
            places += range(first_of[key] + first, first_of[key] + end)
        vectors[feature] = tuple(places)
    used = [place for places in vectors.values() for place in places]
    for key, size in obs_sizes.items():
        for place in range(size):
            times = used.count(first_of[key] + place)
            if times != 1:
                what = "none" if not times else "several"
                raise UserError(
                    f"--observations: expected {key}:{place}:{place + 1} in one input of LeRobot's, got {what}"
                )
    return Layout(vectors, images)
