"""Names of variants of a task: NAME@500 (a step limit), NAME@image, NAME@128x128, NAME@cameras=front+wrist (images of
these cameras and this size), and combinations: NAME@500,128x128,cameras=front. No simulator is imported here."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from raybc.types import UserError

_PART = r"(?:\d+|\d+x\d+|image|cameras=[^@,+]+(?:\+[^@,+]+)*)"
_VARIANT = re.compile(rf"(?P<base>.+)@(?P<parts>{_PART}(?:,{_PART})*)")
#: Height and width of the largest images; more is a mistake, not a task.
LARGEST = 2048


@dataclass(frozen=True)
class Variant:
    """How a task differs from the one without @; all parts are optional."""

    limit: int = 0
    """Step limit; 0: the task's own."""
    image: bool = False
    """Whether it observes images; implied by `size` and `cameras`."""
    size: tuple[int, int] | None = None
    """Height and width of images in pixels; None: the task's own."""
    cameras: tuple[str, ...] = ()
    """Names of the cameras; (): the task's own."""

    @property
    def seen(self) -> bool:
        """Whether images are part of the variant."""
        return self.image or self.size is not None or bool(self.cameras)

    def applied_to(self, name: str) -> str:
        """The name of this variant of the task `name`, which has no variant itself."""
        parts = [str(self.limit)] if self.limit else []
        parts += [f"{self.size[0]}x{self.size[1]}"] if self.size else []
        parts += ["cameras=" + "+".join(self.cameras)] if self.cameras else []
        parts += ["image"] if self.image and not (self.size or self.cameras) else []
        return f"{name}@{','.join(parts)}" if parts else name

    def over(self, other: Variant) -> Variant:
        """This variant, with the parts of another one that are not its own."""
        return Variant(
            self.limit or other.limit, self.image or other.image, self.size or other.size, self.cameras or other.cameras
        )


def split(name: str) -> tuple[str, Variant]:
    """The name of a task without its variant, and the variant.

    Raises `UserError` for a limit of 0 steps, for sizes that no image has, and for a part that is written twice.
    """
    match = _VARIANT.fullmatch(name)
    if match is None:
        return name, Variant()
    found: dict[str, object] = {}
    for part in match["parts"].split(","):
        if part.isdecimal():
            key, value = "limit", int(part)
            if not value:
                raise UserError(f"{name}: expected a step limit of at least 1 after @, got {part}")
        elif part == "image":
            key, value = "image", True
        elif part.startswith("cameras="):
            key, value = "cameras", tuple(part.removeprefix("cameras=").split("+"))  # type: ignore[assignment]
        else:
            height, width = (int(number) for number in part.split("x"))
            key, value = "size", (height, width)  # type: ignore[assignment]
            if not (1 <= height <= LARGEST and 1 <= width <= LARGEST):
                raise UserError(f"{name}: expected HEIGHTxWIDTH from 1x1 to {LARGEST}x{LARGEST} pixels, got {part}")
        if key in found:
            raise UserError(f"{name}: expected one {key} after @, got two")
        found[key] = value
    return match["base"], Variant(**found)  # type: ignore[arg-type]


def with_limit(name: str) -> tuple[str, int]:
    """`name` without its step limit, and the limit, 0 where none is written. Raises `UserError` as `split` does."""
    base, variant = split(name)
    return dataclasses.replace(variant, limit=0).applied_to(base) if variant.limit else name, variant.limit


def limited(name: str, limit: int) -> str:
    """The name of the task `name` with another step limit."""
    base, variant = split(name)
    return dataclasses.replace(variant, limit=limit).applied_to(base)


def seen_by(name: str, cameras: tuple[str, ...] = (), size: tuple[int, int] | None = None, image: bool = False) -> str:
    """The name of the task or environment `name` with images of these cameras and this size."""
    base, variant = split(name)
    return Variant(image=image, size=size, cameras=cameras).over(variant).applied_to(base)
