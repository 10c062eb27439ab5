"""What the sections share: sizes, recipes, data, trainers and clocks.

Letters: M members, B batch, T observation steps, H chunk, A action dim.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.peak import peak, set_precision, wait
from raybc.config import RunConfig
from raybc.config.component import find_kind, kinds
from raybc.config.options import options_in
from raybc.data.episodes import EpisodeStore
from raybc.policies.chunk import OBJECTIVES
from raybc.train.data import TrainingData
from raybc.train.loop import PackTrainer, with_seeds
from raybc.train.ranks import Ranks

OBS, ACT = 23, 7


@dataclass(frozen=True, eq=False)
class Size:
    """How large everything is."""

    name: str
    batch: int
    """B."""
    horizon: int
    """H."""
    packs: tuple[int, ...]
    """M."""
    middle: int
    """M where one size must do."""
    chunks: tuple[int, ...]
    """Rows of a batch for acting."""
    image: int
    """Height and width of images."""
    image_batch: int
    seconds: float
    """Of one measurement."""
    matmul: int
    """Size of the matrices that measure the peak."""
    options: dict[str, Any]
    """Options of policies, for the kinds that have them."""


SMALL = {
    "hidden_width": 8, "hidden_depth": 1, "unet_channels": "8,8", "unet_groups": 4, "unet_time_size": 8,
    "transformer_layers": 1, "transformer_heads": 2, "transformer_width": 8,
}  # fmt: skip
SIZES = {
    "full": Size("full", 256, 16, (1, 2, 4, 8, 16, 32), 8, (1, 32, 256), 84, 128, 0.6, 8192, {}),
    "tiny": Size("tiny", 8, 4, (1, 2, 4, 8, 16, 32), 2, (1, 32, 256), 12, 4, 0.01, 128, SMALL),
}


@dataclass(frozen=True, eq=False)
class Recipe:
    """One policy with one objective."""

    label: str
    kind: str
    changes: dict[str, Any]


def recipes(policies: Sequence[str], every_objective: bool = False) -> list[Recipe]:
    """Each kind of policy with its usual objective, or with each that it has."""
    found = []
    for kind in policies:
        found.append(Recipe(kind, kind, {}))
        known = options_in(find_kind("policy", kind, "--policies"))
        if every_objective and "objective" in known:
            others = [name for name in OBJECTIVES if name != known["objective"].default]
            found += [Recipe(f"{kind}, {name}", kind, {"objective": name}) for name in others]
    return found


def all_policies() -> tuple[str, ...]:
    """The kinds of policy."""
    return tuple(kinds("policy"))


@dataclass(frozen=True, eq=False)
class Bench:
    """Where and how large to measure."""

    device: torch.device
    size: Size
    policies: tuple[str, ...]

    def config(self, recipe: Recipe, **changes: Any) -> RunConfig:
        """The configuration of a recipe, eager unless `compile` says otherwise."""
        size, known = self.size, options_in(find_kind("policy", recipe.kind, "--policies"))
        options = {name: value for name, value in size.options.items() if name in known}
        # Diffusion clips chunks where actions are scaled to [-1, 1]; without that, its first steps are huge.
        normalization = "min_max" if recipe.changes.get("objective") == "diffusion" else "identity"
        common = {
            "training_steps": 10**9, "log_interval": 10**9, "batch_size": size.batch, "action_chunking": True,
            "horizon_length": size.horizon, "normalization": normalization, "compile": "off",
        }  # fmt: skip
        return RunConfig.of(policy=recipe.kind, **{**common, **options, **recipe.changes, **changes})

    def trainer(
        self, config: RunConfig, members: int, ranks: Ranks | None = None, device: torch.device | None = None
    ) -> PackTrainer:
        """A pack on random demonstrations, with images if the configuration has an encoder."""
        data = demonstrations(self.size.image if config.encoder.kind != "None" else 0)
        return PackTrainer(with_seeds(config, range(members)), data, device or self.device, ranks)

    def rate(self, run: Callable[[int], object]) -> float:
        """Steps per second. run: does a number of steps."""
        steps = 2
        while True:
            took = self.seconds_of(functools.partial(run, steps))
            if took > self.size.seconds / 2:
                return steps / took
            steps = max(steps * 2, int(steps * self.size.seconds / max(took, 1e-4) * 0.8))

    def seconds_of(self, run: Callable[[], object]) -> float:
        """Seconds until the device has finished `run`."""
        wait(self.device)
        started = time.perf_counter()
        run()
        wait(self.device)
        return time.perf_counter() - started

    def member_steps(self, trainer: PackTrainer) -> float:
        """Member-steps per second of training; two steps to warm up."""
        trainer.advance(trainer.step + 2)
        return self.rate(lambda steps: trainer.advance(trainer.step + steps)) * len(trainer.members)

    @functools.cache  # noqa: B019 (one bench a process)
    def peak(self, precision: str) -> tuple[float, str]:
        """See `peak.peak`; measured once a process."""
        most = self.size.matmul if self.device.type == "cuda" else min(self.size.matmul, 1024)
        found = peak(self.device, precision, most)
        set_precision("fp32")
        return found


@functools.cache
def demonstrations(image: int) -> TrainingData:
    """Random demonstrations: episodes of 50 steps, 200 of them, or 20 with images of `image` x `image` pixels."""
    rng, length = np.random.default_rng(0), 50
    n = length * (20 if image else 200)
    obs: dict[str, np.ndarray] = {"state": rng.normal(size=(n, OBS)).astype(np.float32)}
    if image:
        obs["image"] = rng.integers(0, 256, (n, image, image, 3), np.uint8)
    actions_NA = rng.uniform(-1, 1, (n, ACT)).astype(np.float32)
    ends = np.arange(length, n + 1, length)
    store = EpisodeStore(obs, actions_NA, np.zeros(n, np.float32), ends, source=Path("random"))
    return TrainingData(store, "0" * 64, tuple(obs), {})
