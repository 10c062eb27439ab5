"""Flags of commands that choose what cameras a task sees. They are part of the task's name (`raybc.envs.variant`)."""

from __future__ import annotations

from dataclasses import dataclass

from raybc.config.data import NO_ENVIRONMENT
from raybc.envs.variant import seen_by
from raybc.types import UserError


@dataclass(frozen=True)
class CameraFlags:
    """Cameras, and the size of their images."""

    cameras: tuple[str, ...] = ()
    """Cameras to observe, e.g. --cameras agentview robot0_eye_in_hand (default: the task's)."""
    image_height: int = 0
    """Height of observed images in pixels (0: the task's, or as image_width)."""
    image_width: int = 0
    """Width of observed images in pixels (0: the task's, or as image_height)."""

    def applied_to(self, name: str, images: bool = False) -> str:
        """The task or environment `name` with these cameras. images: whether it observes images in any case.

        Raises `UserError` without a simulator, and for sizes that no image has.
        """
        height, width = self.image_height or self.image_width, self.image_width or self.image_height
        if not (self.cameras or height or images):
            return name
        if name == NO_ENVIRONMENT:
            raise UserError(
                "--cameras, --image_height, --image_width: expected an environment, whose simulator renders; without "
                "one, choose the images of the data with --obs_keys and resize them with `raybc data convert`"
            )
        if min(self.image_height, self.image_width) < 0:
            raise UserError(f"--image_height, --image_width: expected at least 1, got {height} and {width}")
        return seen_by(name, self.cameras, (height, width) if height else None, images)
