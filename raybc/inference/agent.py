"""Batched inference with a bundle: physical observations in, physical actions out.

A chunk must not depend on the other rows of its batch; otherwise the result of an episode would depend on the number
of workers. Matrix products do depend on the number of rows, because libraries use different kernels for one row and for
many. An `Agent` therefore measures which batch sizes give bit-identical rows on this machine, and pads to one of these.

With best_of_n N above 1, the candidates of all observations are rows like any others, and what the critic says of an
observation's candidates does not depend on other observations either.

Letters: B batch, R rows of a network, N candidates, T observation steps, O observation dim, H chunk, A action dim (of
noise: of what the network gives, `ActionForm.size`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch

from raybc.bundle import PolicyBundle
from raybc.inference.predictor import Resolved
from raybc.policies.base import Policy, PolicySpec
from raybc.policies.best_of_n import critic_of
from raybc.policies.chunk import ChunkPolicy
from raybc.policies.critic import Critic
from raybc.types import Observation, SampleSetting

#: Candidate batch sizes; larger batches are split into pieces of the largest size.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
#: Pixels of all images in the largest batch on a CPU. Trying the sizes encodes about eleven times as many, so that a
#: batch of 64 images of 480 x 640 would take a minute in every process, and batches of large images save no time.
BATCH_PIXELS = 64 * 128 * 128
#: A batch that may not even have this many rows saves nothing; its rows are computed one by one.
SMALLEST_BATCH = 4
#: Cached results of `invariant_sizes`, and of those of a critic for N candidates, for each architecture, device and
#: number of threads.
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
        self._architecture = architecture
        if architecture not in _known_sizes:
            _known_sizes[architecture] = invariant_sizes(self._policy, self._device)
        self._sizes = _known_sizes[architecture]

    def predict(self, obs: Observation[np.ndarray], noise: np.ndarray, setting: SampleSetting) -> Resolved:
        return Resolved(self.chunks(obs, noise, setting))

    def chunks(self, obs: Observation[np.ndarray], noise: np.ndarray, setting: SampleSetting) -> np.ndarray:
        """The next chunk of each row from the current step on, physical, float32 (B, H, A). Arguments: see
        `Predictor.predict`."""
        seen, rows = self._normalized(obs), np.arange(len(obs.low_dim))
        if setting.best_of_n == 1:
            return self._physical(self._sampled(seen, rows, noise, setting))
        chunks_BNHA, scores_BN = self._candidates(seen, noise, setting)
        return self._physical(chunks_BNHA[rows, scores_BN.argmax(1)])  # of equals the first one

    def candidates(
        self, obs: Observation[np.ndarray], noise_BNHA: np.ndarray, setting: SampleSetting
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `chunks` chooses from with best_of_n N above 1: physical chunks, float32 (B, N, H, A), and their scores,
        float32 (B, N)."""
        chunks_BNHA, scores_BN = self._candidates(self._normalized(obs), noise_BNHA, setting)
        return self._physical(chunks_BNHA), scores_BN

    def _normalized(self, obs: Observation[np.ndarray]) -> Observation[np.ndarray]:
        low_dim = self.bundle.obs_normalizer.apply(obs.low_dim)
        return dataclasses.replace(obs, low_dim=low_dim, instruction=None, language=self.bundle.embed(obs.instruction))

    def _physical(self, chunks: np.ndarray) -> np.ndarray:
        """From the current step on; (..., H, A)."""
        ahead = chunks[..., self.bundle.spec.past :, :]
        return self.bundle.action_form.decode(self.bundle.action_normalizer.invert(ahead))

    def _sampled(
        self, obs: Observation[np.ndarray], rows: np.ndarray, noise_RHA: np.ndarray, setting: SampleSetting
    ) -> np.ndarray:
        """Normalised chunks (R, H, A). rows: the row of `obs` that each of them is for, int64 (R,)."""

        def sample(piece: slice, size: int) -> np.ndarray:
            part = obs.map(functools.partial(_piece, rows=rows[piece], size=size))
            return _sample(self._policy, part, _padded(noise_RHA[piece], size), setting, self._device)

        return _in_pieces(len(rows), self._sizes, sample)

    def _sampled_encoded(
        self,
        policy: ChunkPolicy,
        obs: Observation[np.ndarray],
        rows: np.ndarray,
        noise_RHA: np.ndarray,
        setting: SampleSetting,
    ) -> np.ndarray:
        """The same, where an observation is encoded once for all of its chunks: most of the work where there are
        images."""

        def encode(piece: slice, size: int) -> np.ndarray:
            return _encoded(policy, obs.map(functools.partial(_piece, rows=unique[piece], size=size)), self._device)

        def sample(piece: slice, size: int) -> np.ndarray:
            seen_BF = _piece(encoded_BF, rows[piece], size)
            return _sample_encoded(policy, seen_BF, _padded(noise_RHA[piece], size), setting, self._device)

        unique = np.arange(len(obs.low_dim))
        encoded_BF = _in_pieces(len(unique), self._sizes, encode)
        return _in_pieces(len(rows), self._sizes, sample)

    def _candidates(
        self, obs: Observation[np.ndarray], noise_BNHA: np.ndarray, setting: SampleSetting
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normalised chunks (B, N, H, A) and their scores (B, N)."""
        critic, count, rows = critic_of(self._policy), setting.best_of_n, np.arange(len(obs.low_dim))
        if noise_BNHA.shape[:2] != (len(rows), count):
            raise ValueError(f"expected noise of {len(rows)} x {count} candidates, got {noise_BNHA.shape}")
        owners, noise_RHA = np.repeat(rows, count), noise_BNHA.reshape(-1, *noise_BNHA.shape[2:])
        if isinstance(self._policy, ChunkPolicy):
            chunks = self._sampled_encoded(self._policy, obs, owners, noise_RHA, setting)
        else:
            chunks = self._sampled(obs, owners, noise_RHA, setting)
        chunks_BNHA = chunks.reshape(noise_BNHA.shape)
        key = (*self._architecture, "critic", count)
        if key not in _known_sizes:
            _known_sizes[key] = invariant_critic_sizes(self._policy, count, self._device)

        def scores(piece: slice, size: int) -> np.ndarray:
            part = obs.map(functools.partial(_piece, rows=rows[piece], size=size))
            return _scores(critic, part, _padded(chunks_BNHA[piece], size), self._device)

        return chunks_BNHA, _in_pieces(len(rows), _known_sizes[key], scores)


def _in_pieces(rows: int, sizes: tuple[int, ...], compute: Callable[[slice, int], np.ndarray]) -> np.ndarray:
    """What `compute` gives for all rows. It gets a piece and the size of the batch to which it must pad it."""
    pieces = []
    for first in range(0, rows, sizes[-1]):
        piece = slice(first, min(first + sizes[-1], rows))
        count = piece.stop - piece.start
        pieces.append(compute(piece, next(s for s in sizes if s >= count))[:count])
    return np.concatenate(pieces)


def _piece(array: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
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


def _encoded(policy: ChunkPolicy, obs: Observation[np.ndarray], device: torch.device) -> np.ndarray:
    with torch.inference_mode():
        encoded_MBF = policy.encode(obs.map(lambda array: torch.from_numpy(array).to(device)[None]))
        return encoded_MBF[0].cpu().numpy()


def _sample_encoded(
    policy: ChunkPolicy, encoded_BF: np.ndarray, noise_BHA: np.ndarray, setting: SampleSetting, device: torch.device
) -> np.ndarray:
    with torch.inference_mode():
        encoded, noise = (torch.from_numpy(array).to(device)[None] for array in (encoded_BF, noise_BHA))
        return policy.sample_encoded(encoded, noise, setting)[0].cpu().numpy()


def _scores(critic: Critic, obs: Observation[np.ndarray], chunks_BNHA: np.ndarray, device: torch.device) -> np.ndarray:
    """What a critic says of normalised candidates, (B, N)."""
    with torch.inference_mode():
        seen = obs.map(lambda array: torch.from_numpy(array).to(device)[None])
        found: np.ndarray = critic.score(seen, torch.from_numpy(chunks_BNHA).to(device)[None])[0].cpu().numpy()
        return found


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

    def sample(obs: Observation[np.ndarray], noise_BHA: np.ndarray) -> np.ndarray:
        return _sample(policy, obs, noise_BHA, SampleSetting(flow_steps=2), device)

    return _same_sizes(spec, sizes, (spec.horizon, spec.action_size), sample)


def invariant_critic_sizes(policy: Policy, candidates: int, device: torch.device) -> tuple[int, ...]:
    """The same for the critic of a policy, where a row is an observation with as many candidates. With more of them the
    sizes are smaller, since rows are larger."""
    spec, critic = policy.spec, critic_of(policy)
    sizes = tuple(s for s in candidate_sizes(spec, device) if s == 1 or s * candidates <= SIZES[-1])

    def score(obs: Observation[np.ndarray], chunks_BNHA: np.ndarray) -> np.ndarray:
        return _scores(critic, obs, chunks_BNHA, device)

    return _same_sizes(spec, sizes, (candidates, spec.horizon, spec.action_size), score)


def _same_sizes(
    spec: PolicySpec,
    sizes: tuple[int, ...],
    shape: tuple[int, ...],
    compute: Callable[[Observation[np.ndarray], np.ndarray], np.ndarray],
) -> tuple[int, ...]:
    """The `sizes` at which what is computed of an observation and of numbers of this shape is bit-identical."""
    largest = sizes[-1]
    if largest == 1:
        return sizes
    rng = np.random.default_rng(0)
    low_dim = rng.standard_normal((largest, spec.obs_steps, spec.low_dim_size)).astype(np.float32)
    numbers = rng.standard_normal((largest, *shape)).astype(np.float32)
    images = {name: rng.integers(0, 256, (largest, spec.obs_steps, *size), np.uint8) for name, size in spec.images}
    language = rng.standard_normal((largest, spec.language)).astype(np.float32) if spec.language else None
    obs: Observation[np.ndarray] = Observation(low_dim, images, language=language)

    def at(rows: np.ndarray | slice) -> np.ndarray:
        return compute(obs.map(lambda array: array[rows]), numbers[rows])

    wanted = at(slice(None))
    order = rng.permutation(largest)
    if not np.array_equal(at(order), wanted[order]):
        return (1,)

    def same(size: int) -> bool:
        starts = range(0, largest - size + 1, max(size, largest // 4))
        rows = [slice(s, s + size) for s in starts]
        return all(np.array_equal(at(r), wanted[r]) for r in rows)

    return (*(s for s in sizes[:-1] if same(s)), largest)
