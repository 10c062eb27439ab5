"""Batched inference with a bundle: physical observations in, physical actions out.

A chunk must not depend on the other rows of its batch; otherwise the result of an episode would depend on the number
of workers. Matrix products do depend on the number of rows, because libraries use different kernels for one row and for
many. An `Agent` therefore measures which batch sizes give bit-identical rows on this machine, and pads to one of these.
Letters: B batch, T observation steps, O observation dim, H chunk, A action dim (of noise: of what the network gives,
`ActionForm.size`).
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch

from raybc.bundle import PolicyBundle
from raybc.inference.predictor import Resolved
from raybc.policies.base import Policy, PolicySpec
from raybc.types import Observation, SampleSetting

#: Candidate batch sizes; larger batches are split into pieces of the largest size.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
#: Pixels of all images in the largest batch on a CPU. Trying the sizes encodes about eleven times as many, so that a
#: batch of 64 images of 480 x 640 would take a minute in every process, and batches of large images save no time.
BATCH_PIXELS = 64 * 128 * 128
#: A batch that may not even have this many rows saves nothing; its rows are computed one by one.
SMALLEST_BATCH = 4
#: Cached results of `invariant_sizes` for each architecture, device and number of threads.
_known_sizes: dict[tuple[object, ...], tuple[int, ...]] = {}


class Agent:
    """The network of a bundle in this process."""

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
        )  # the number of threads also changes how products are computed
        if architecture not in _known_sizes:
            _known_sizes[architecture] = invariant_sizes(self._policy, self._device)
        self._sizes = _known_sizes[architecture]

    def predict(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> Resolved:
        return Resolved(self.chunks(obs, noise_BHA, setting))

    def chunks(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> np.ndarray:
        """The next chunk of each row from the current step on, physical, float32 (B, H, A). Arguments: see
        `Predictor.predict`."""
        rows = len(obs.low_dim)
        low_dim = self.bundle.obs_normalizer.apply(obs.low_dim)
        obs = dataclasses.replace(obs, low_dim=low_dim, instruction=None, language=self.bundle.embed(obs.instruction))
        pieces = []
        for first in range(0, rows, self._sizes[-1]):
            piece = slice(first, min(first + self._sizes[-1], rows))
            count = piece.stop - piece.start
            size = next(s for s in self._sizes if s >= count)
            part = obs.map(functools.partial(_piece, rows=piece, size=size))
            noise = _padded(noise_BHA[piece], size)
            pieces.append(_sample(self._policy, part, noise, setting, self._device)[:count])
        chunks_BHA = np.concatenate(pieces)[:, self.bundle.spec.past :]
        return self.bundle.action_form.decode(self.bundle.action_normalizer.invert(chunks_BHA))


def _piece(array: np.ndarray, rows: slice, size: int) -> np.ndarray:
    return _padded(array[rows], size)


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    """`rows`, padded with zeros to `size` rows."""
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


def candidate_sizes(spec: PolicySpec, device: torch.device) -> tuple[int, ...]:
    """The batch sizes that are worth trying, ascending; (1,) for large images on a CPU. A function of the sizes alone,
    so that all processes agree."""
    pixels = sum(height * width for _, (height, width, _) in spec.images)
    if device.type != "cpu" or not pixels:
        return SIZES
    sizes = tuple(size for size in SIZES if size * pixels <= BATCH_PIXELS)
    return sizes if sizes and sizes[-1] >= SMALLEST_BATCH else (1,)


def invariant_sizes(policy: Policy, device: torch.device) -> tuple[int, ...]:
    """The batch sizes at which each row has bit-identical results, independent of its position and of the batch size.

    Results depend on the kernels, not on the inputs, so random rows and two flow steps are a sufficient test. The
    largest size is the reference. Returns (1,) if even its results depend on the position of a row.
    """
    spec, sizes = policy.spec, candidate_sizes(policy.spec, device)
    largest = sizes[-1]
    if largest == 1:
        return sizes
    rng = np.random.default_rng(0)
    low_dim = rng.standard_normal((largest, spec.obs_steps, spec.low_dim_size)).astype(np.float32)
    noise = rng.standard_normal((largest, spec.horizon, spec.action_size)).astype(np.float32)
    images = {name: rng.integers(0, 256, (largest, spec.obs_steps, *size), np.uint8) for name, size in spec.images}
    language = rng.standard_normal((largest, spec.language)).astype(np.float32) if spec.language else None
    obs: Observation[np.ndarray] = Observation(low_dim, images, language=language)

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
