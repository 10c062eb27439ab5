"""What to read of a data set, and the remarks of a reader: what it left out, assumed, or converted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raybc.data.episodes import Note, SkippedEpisode
from raybc.data.formats.images import NotCertain, Unfit, as_image, is_image, resembles_image
from raybc.strict import listed
from raybc.types import UserError


@dataclass
class Remarks:
    """What readers say about a data set while they read it."""

    notes: dict[tuple[str, str], Note] = field(default_factory=dict)
    """(kind, key) -> the first remark about it."""
    skipped: list[SkippedEpisode] = field(default_factory=list)
    """The episodes that `ReadOptions.skip_bad_episodes` left out, in order."""
    scales: dict[str, float] = field(default_factory=dict)
    """Image that is stored as floats -> the value of white, 1 or 255."""

    def note(self, kind: str, key: str, text: str) -> None:
        """Remember a remark; the first one about a key counts."""
        self.notes.setdefault((kind, key), Note(kind, key, text))


@dataclass(frozen=True)
class Keys:
    """Arrays that are chosen by hand, in place of those that a format knows by their names."""

    action: str = ""
    """The array that is the action, by its name in the file ("actions_abs"); "" for the format's."""
    observations: tuple[str, ...] = ()
    """The observations to read, by their names here ("state"); () for all."""

    @classmethod
    def of(cls, action: str = "", observations: str | tuple[str, ...] = "") -> Keys:
        """From what users write: names separated by commas, or several."""
        several = (observations,) if isinstance(observations, str) else observations
        return cls(action, tuple(name.strip() for text in several for name in text.split(",") if name.strip()))

    def chosen(self, names: Iterable[str], where: str) -> tuple[str, ...]:
        """Those of `names` that are chosen, all by default. Raises `UserError`, beginning with `where`, for chosen ones
        that are missing."""
        known = list(names)
        missing = [name for name in self.observations if name not in known]
        if missing:
            has = listed(missing[0], sorted(known))
            raise UserError(f"{where}: --obs_keys: expected an observation, got {missing[0]!r}; it has {has}")
        return self.observations or tuple(known)


@dataclass(frozen=True)
class ReadOptions:
    """What to read in addition to low-dimensional observations, actions and rewards."""

    images: bool | tuple[str, ...] = False
    """No images, all of them, or those of these names."""
    states: bool = False
    """Whether to read the simulator's states."""
    step_limit: int = 0
    """Step limit of the environment, for formats that do not mark where it cut an episode off (old D4RL files)."""
    skip_bad_episodes: bool = False
    """Whether episodes that cannot be read, or differ in names or sizes from most others, are left out."""
    needed: tuple[str, ...] | None = None
    """With `images` True: images that have to be readable; others that are not are left out. None: all."""
    image_size: tuple[int, int] | None = None
    """Height and width to which images are reduced or enlarged; None: as they are."""
    keys: Keys = Keys()
    """Arrays that are chosen by hand."""
    remarks: Remarks = field(default_factory=Remarks, compare=False)
    """Filled while reading."""

    def image(self, name: str) -> bool:
        """Whether to read the image observation `name`."""
        if name in self.keys.observations:
            return True
        return self.images if isinstance(self.images, bool) else name in self.images

    def named(self, name: str) -> bool:
        """Whether the image observation `name` is requested by its name."""
        return not isinstance(self.images, bool) and name in self.images

    def leave_out(self, name: str, reason: str, where: str, refuse: bool = False) -> None:
        """Note that an image which was requested is not read. Raises `UserError` if it is requested by name or,
        with `refuse`, if it is needed."""
        if self.named(name) or (refuse and (self.needed is None or name in self.needed)):
            advice = "read the others with --image_keys NAME ..." if not self.named(name) else "leave it out"
            raise UserError(
                f"{where}: {name}: expected images, uint8 height x width x 1, 3 or 4, got {reason}; {advice}"
            )
        self.remarks.note("image", name, f"not read: {reason}")

    def observation(self, name: str, array: Any, where: str) -> np.ndarray | None:
        """The observation `name` as it is stored: numbers as they are, images as uint8 (n, H, W, 1, 3 or 4); None where
        it is not read (text; images that are not requested, or no images after all).

        array: a numpy array, or an h5py data set that is not read yet. Raises `UserError`, beginning with `where`, for
        requested images that cannot be converted with certainty.
        """
        if array.dtype.kind in "OSU":
            self.remarks.note("text", name, "not read: text is no observation")
            return None
        if is_image(array):
            if "depth" in name.lower() and array.shape[-1] == 1 and self.image(name):
                self.leave_out(name, "depth by its name", where)
                return None
            return np.asarray(array[()])
        if not resembles_image(array.shape, array.dtype) and not self.named(name):
            return np.asarray(array[()])
        if not self.image(name):
            return None
        try:
            image, how = as_image(name, np.asarray(array[()]), self.remarks.scales)
        except Unfit as error:
            self.leave_out(name, str(error), where, refuse=isinstance(error, NotCertain))
            return None
        self.remarks.note("converted", name, how)
        return image
