"""`PolicySpec`: the sizes of a policy. No torch in here: simulator processes need them, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Features that a learned linear map makes of an instruction's embedding.
LANGUAGE_FEATURES = 128


@dataclass(frozen=True)
class PolicySpec:
    """Sizes of the inputs and outputs of a policy."""

    low_dim_size: int
    """O, the size of the concatenated low-dimensional observations of one step."""
    action_size: int
    """A."""
    horizon: int
    """H, the steps of a chunk."""
    obs_steps: int = 1
    """T, the number of observation steps."""
    images: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    """(name, (height, width, channels of one step)) of each image."""
    language: int = 0
    """E, the size of an instruction's embedding; 0 for a policy that reads none."""
    past: int = 0
    """Steps of a chunk before the current one, which are not executed."""

    @classmethod
    def of(
        cls,
        obs_sizes: Mapping[str, int],
        images: Mapping[str, tuple[int, int, int]],
        action_size: int,
        horizon: int,
        obs_steps: int,
        language: int = 0,
        past: int = 0,
    ) -> PolicySpec:
        """From name -> size and name -> (height, width, channels) of one step."""
        return cls(sum(obs_sizes.values()), action_size, horizon, obs_steps, tuple(images.items()), language, past)

    @property
    def ahead(self) -> int:
        """Steps of a chunk from the current one on."""
        return self.horizon - self.past

    @property
    def obs_size(self) -> int:
        """T * O, the size of the low-dimensional observations of all steps."""
        return self.obs_steps * self.low_dim_size

    @property
    def language_features(self) -> int:
        """Features of an instruction in an encoded observation."""
        return LANGUAGE_FEATURES if self.language else 0
