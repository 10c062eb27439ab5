"""Acting with a bundle, for many simulators at once: physical observations in, physical actions out.

A chunk must not depend on which episodes happen to be asked together with it: the result of an episode would then
depend on the number of workers. Products of matrices do depend on the number of rows (libraries choose another kernel
for one row than for many), so an `Agent` tries out which batch sizes give bit-identical rows on this machine and pads
to one of these. Letters: B batch, T observation steps, O observation dim, H chunk, A action dim.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from raybc.bundle import META, PolicyBundle
from raybc.policies.base import Policy
from raybc.types import Observation, SampleSetting

#: Bundles that a process keeps in memory: the arms that are measured side by side.
KEEP = 16
#: Batch sizes that are tried; larger batches are cut into pieces of the largest.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
#: What was found out, for each architecture, device and number of threads (a process asks each only once).
_known_sizes: dict[tuple[object, ...], tuple[int, ...]] = {}


class Prediction(Protocol):
    """Chunks that were asked for; physical, float32 (B, H, A)."""

    def get(self) -> np.ndarray:
        """Wait for them."""


class Predictor(Protocol):
    """Predicts chunks: an `Agent` in this process, or one that is shared by many processes."""

    bundle: PolicyBundle
    #: Whether `predict` returns at once, so that simulators can step meanwhile.
    overlaps: bool

    def predict(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> Prediction:
        """The next chunk of each row. obs: physical, leading axis B; noise_BHA: float32."""


def bundle_version(path: str) -> int:
    """What changes when the bundle at `path` is replaced; loaders keep bundles by path and this."""
    return (Path(path) / META).stat().st_mtime_ns


class Resolved:
    """An answer that is there already."""

    def __init__(self, chunks_BHA: np.ndarray) -> None:
        self._chunks_BHA = chunks_BHA

    def get(self) -> np.ndarray:
        return self._chunks_BHA


class Agent:
    """A bundle's network in this process."""

    overlaps = False

    def __init__(self, bundle: PolicyBundle, device: str = "cpu") -> None:
        self.bundle = bundle
        self._device = torch.device(device)
        self._policy = bundle.build().to(self._device)
        self._policy.prepare_for_acting()
        sizes = (tuple(v.shape) for v in self._policy.state_dict().values())
        kind = bundle.config.policy, bundle.config.encoder
        architecture: tuple[object, ...] = (
            *kind,
            self._policy.spec,
            *sizes,
            device,
            torch.get_num_threads(),
        )  # threads cut products, too
        if architecture not in _known_sizes:
            _known_sizes[architecture] = invariant_sizes(self._policy, self._device)
        self._sizes = _known_sizes[architecture]

    def predict(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> Resolved:
        return Resolved(self.chunks(obs, noise_BHA, setting))

    def chunks(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> np.ndarray:
        """The next chunk of each row, physical, float32 (B, H, A); a row does not depend on the others."""
        rows = len(obs.low_dim)
        obs = dataclasses.replace(obs, low_dim=self.bundle.obs_normalizer.apply(obs.low_dim))
        pieces = []
        for first in range(0, rows, self._sizes[-1]):
            piece = slice(first, min(first + self._sizes[-1], rows))
            count = piece.stop - piece.start
            size = next(s for s in self._sizes if s >= count)
            part = obs.map(functools.partial(_piece, rows=piece, size=size))
            noise = _padded(noise_BHA[piece], size)
            pieces.append(_sample(self._policy, part, noise, setting, self._device)[:count])
        return self.bundle.action_normalizer.invert(np.concatenate(pieces))


def _piece(array: np.ndarray, rows: slice, size: int) -> np.ndarray:
    return _padded(array[rows], size)


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    """With rows of zeros behind them, `size` in all."""
    padded = np.zeros((size, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded


def _sample(
    policy: Policy, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting, device: torch.device
) -> np.ndarray:
    with torch.inference_mode():
        seen = obs.map(lambda array: torch.from_numpy(array).to(device)[None])
        noise = torch.from_numpy(noise_BHA).to(device)[None]
        return policy.sample(seen, noise, setting)[0].cpu().numpy()


def invariant_sizes(policy: Policy, device: torch.device, sizes: Sequence[int] = SIZES) -> tuple[int, ...]:
    """Those of `sizes` at which a row comes out the same bit for bit, wherever it stands and whatever the size.

    What matters is which kernels run, not the numbers, so random rows and two flow steps tell. The largest size is the
    measure. Where not even its rows are independent of their place, rows are computed one by one: (1,).
    """
    spec, largest = policy.spec, sizes[-1]
    rng = np.random.default_rng(0)
    low_dim = rng.standard_normal((largest, spec.obs_steps, spec.low_dim_size)).astype(np.float32)
    noise = rng.standard_normal((largest, spec.horizon, spec.action_size)).astype(np.float32)
    images = {name: rng.integers(0, 256, (largest, spec.obs_steps, *size), np.uint8) for name, size in spec.images}
    obs: Observation[np.ndarray] = Observation(low_dim, images)

    def sample(rows: np.ndarray | slice) -> np.ndarray:
        return _sample(policy, obs.map(lambda array: array[rows]), noise[rows], SampleSetting(flow_steps=2), device)

    wanted = sample(slice(None))
    order = rng.permutation(largest)
    if not np.array_equal(sample(order), wanted[order]):
        return (1,)

    def same(size: int) -> bool:
        starts = range(0, largest - size + 1, max(size, largest // 4))
        rows = [slice(s, s + size) for s in starts]
        return all(np.array_equal(sample(r), wanted[r]) for r in rows)

    return (*(s for s in sizes[:-1] if same(s)), largest)


def stack(observed: Sequence[Mapping[str, np.ndarray]], keys: Sequence[str], obs_steps: int) -> np.ndarray:
    """The last `obs_steps` low-dimensional observations, float32 (T, O); the first stands in for those before it."""
    if not keys:
        return np.zeros((obs_steps, 0), np.float32)
    return stack_steps([np.concatenate([obs[k] for k in keys]) for obs in observed[-obs_steps:]], obs_steps).astype(
        np.float32, copy=False
    )


def stack_steps(rows: Sequence[np.ndarray], obs_steps: int) -> np.ndarray:
    """The last `obs_steps` of what was seen step by step, (T, ...); the first stands in for those before it."""
    rows = list(rows[-obs_steps:])
    return np.stack([rows[0]] * (obs_steps - len(rows)) + rows)


def stack_rows(rows: Sequence[Observation[np.ndarray]]) -> Observation[np.ndarray]:
    """Several observations as one with a leading axis."""
    texts = tuple(text for row in rows for text in row.instruction or ())
    return Observation(
        np.stack([row.low_dim for row in rows]),
        {name: np.stack([row.images[name] for row in rows]) for name in rows[0].images},
        texts or None,
    )


def concatenated(parts: Sequence[Observation[np.ndarray]]) -> Observation[np.ndarray]:
    """Observations of several rows each, one after the other."""
    texts = tuple(text for part in parts for text in part.instruction or ())
    return Observation(
        np.concatenate([part.low_dim for part in parts]),
        {name: np.concatenate([part.images[name] for part in parts]) for name in parts[0].images},
        texts or None,
    )
