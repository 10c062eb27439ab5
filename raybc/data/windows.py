"""Training windows: an observation and the chunk of actions that follows, gathered on the training device.

Letters: N transitions, O observation dim, A action dim, H chunk, T observation steps, B batch, M members.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from raybc.config import RunConfig
from raybc.data.lazy import LazyImages
from raybc.data.transitions import Transitions
from raybc.types import Batch, Observation, Transition

#: Images of all transitions, uint8 (N, height, width, channels): a tensor, or those that are read when they are needed.
Images = Tensor | LazyImages


@dataclass(frozen=True)
class Padding:
    """How far windows may reach beyond their episode, and whether padded steps of a chunk are trained on."""

    before: int = -1
    """Times that the first observation may be repeated; -1: as often as needed."""
    after: int = -1
    """Steps of a chunk beyond the end of the episode; -1: as many as needed."""
    in_loss: bool = False
    """Whether repeated actions are targets."""
    past: int = 0
    """Steps of a chunk before the window's own step; the first action is repeated before the episode."""

    @classmethod
    def of(cls, config: RunConfig) -> Padding:
        """The padding of a run."""
        return cls(
            config.pad_before, config.pad_after, config.pad_loss == "repeat", config.chunk_length - config.ahead_length
        )

    def range_of(self, lengths_E: np.ndarray, horizon: int, obs_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """The first step of each episode that begins a window, and the exclusive end of these steps, int64 (E,).

        lengths_E: steps of each episode. Where the two are equal, the episode has no window.
        """
        first = 0 if self.before < 0 else max(0, obs_steps - 1 - self.before)
        ahead = horizon - self.past
        last_E = lengths_E if self.after < 0 else np.minimum(lengths_E, lengths_E - ahead + self.after + 1)
        return np.full_like(lengths_E, first), np.maximum(last_E, first)

    def counts(self, lengths_E: np.ndarray, horizon: int, obs_steps: int) -> np.ndarray:
        """Windows of episodes of these lengths, int64 (E,)."""
        first_E, end_E = self.range_of(lengths_E, horizon, obs_steps)
        counts_E: np.ndarray = end_E - first_E
        return counts_E


#: A window begins at every step, and only recorded actions are targets.
EVERY_STEP = Padding()


@dataclass(frozen=True)
class Windows:
    """Normalised training data on one device, and the windows that may be drawn."""

    obs_NO: Tensor
    """float32 (N, O), normalised."""
    actions_NA: Tensor
    """float32 (N, A), normalised."""
    begins_N: Tensor
    """int64 (N,): the first transition of the episode of each transition."""
    ends_N: Tensor
    """int64 (N,): the exclusive end of the episode of each transition."""
    starts: Tensor
    """int64: the transitions at which a window may begin."""
    horizon: int
    """H, the actions of a window."""
    obs_steps: int = 1
    """T, the observations of a window: that of its first transition and those before it."""
    images: Mapping[str, Images] = field(default_factory=dict)
    """Name -> uint8 (N, height, width, channels), on the same device or, if they do not fit, in main memory (possibly
    mapped from a file), or in videos."""
    padding: Padding = EVERY_STEP
    """Which steps of an episode begin a window."""
    instruction_N: Tensor | None = None
    """int64 (N,): the instruction of each transition, a row of `language_KE`; None for a policy that reads none."""
    language_KE: Tensor | None = None
    """float32 (K, E): the embedding of each instruction."""
    transitions: Transitions | None = None
    """The rewards of the transitions and what follows them, for learners that need them."""

    @classmethod
    def build(
        cls,
        obs_NO: np.ndarray,
        actions_NA: np.ndarray,
        episode_ends: np.ndarray,
        episodes: np.ndarray,
        horizon: int,
        device: torch.device,
        obs_steps: int = 1,
        images: Mapping[str, np.ndarray] | None = None,
        padding: Padding = EVERY_STEP,
        instructions: tuple[np.ndarray, np.ndarray] | None = None,
        transitions: Transitions | None = None,
    ) -> Windows:
        """The windows of `episodes`; a chunk beyond the end of its episode is padded.

        obs_NO, actions_NA: normalised, float32. images: name -> uint8 (N, height, width, channels). instructions: the
        number of each episode's instruction, int64 (E,), and the embeddings, float32 (K, E).
        """
        lengths = np.diff(episode_ends, prepend=0)
        ends_N = np.repeat(episode_ends, lengths)
        begins = episode_ends - lengths
        return cls(
            torch.from_numpy(np.ascontiguousarray(obs_NO)).to(device),
            torch.from_numpy(np.ascontiguousarray(actions_NA)).to(device),
            torch.from_numpy(np.repeat(begins, lengths)).to(device),
            torch.from_numpy(ends_N).to(device),
            torch.from_numpy(_starts(episodes, episode_ends, padding, horizon, obs_steps)).to(device),
            horizon,
            obs_steps,
            to_device_if_it_fits(images or {}, device),
            padding,
            None if instructions is None else torch.from_numpy(np.repeat(instructions[0], lengths)).to(device),
            None if instructions is None else torch.from_numpy(instructions[1]).to(device),
            transitions,
        )

    def of_episodes(self, episodes: np.ndarray, episode_ends: np.ndarray, most: int) -> Windows:
        """The windows of other episodes of the same arrays, or `most` of them, evenly spaced, if there are more.

        They have no transitions.
        """
        starts = _starts(episodes, episode_ends, self.padding, self.horizon, self.obs_steps)
        if len(starts) > most:
            starts = starts[np.linspace(0, len(starts) - 1, most).round().astype(np.int64)]
        return dataclasses.replace(self, starts=torch.from_numpy(starts).to(self.starts.device), transitions=None)

    def first(self, indices_MB: Tensor) -> Tensor:
        """The transitions at which the windows `starts[indices_MB]` begin, int64 (M, B)."""
        return _rows(self.starts, indices_MB)

    def seen(self, indices_MB: Tensor) -> Tensor:
        """The transitions whose observations the windows at `starts[indices_MB]` see, int64 (M, B, T); those before the
        first one of an episode repeat it, as in a rollout."""
        first_MB1 = self.first(indices_MB)[..., None]
        if self.obs_steps == 1:
            return first_MB1
        back_T = torch.arange(1 - self.obs_steps, 1, device=first_MB1.device)
        return torch.maximum(first_MB1 + back_T, _rows(self.begins_N, first_MB1))

    def gather(self, indices_MB: Tensor, images: Mapping[str, Tensor] | None = None) -> Batch:
        """The windows that begin at `starts[indices_MB]`. Padding repeats the last action of the episode, and counts as
        recorded with `Padding.in_loss`. images: those of the windows, if they are gathered already."""
        seen_MBT = self.seen(indices_MB)
        first_MB1 = seen_MBT[..., -1:]
        steps_MBH = first_MB1 + torch.arange(self.horizon, device=first_MB1.device)
        last_MB1 = _rows(self.ends_N, first_MB1) - 1
        outside_MBH = steps_MBH > last_MB1
        if self.padding.past:
            steps_MBH, begin_MB1 = steps_MBH - self.padding.past, _rows(self.begins_N, first_MB1)
            outside_MBH = (steps_MBH > last_MB1) | (steps_MBH < begin_MB1)
            steps_MBH = torch.maximum(steps_MBH, begin_MB1)
        if images is None:
            images = {k: selected(v, seen_MBT).to(first_MB1.device) for k, v in self.images.items()}
        return Batch(
            obs=Observation(_rows(self.obs_NO, seen_MBT), images, language=self._language(first_MB1[..., 0])),
            actions_MBHA=_rows(self.actions_NA, torch.minimum(steps_MBH, last_MB1)),
            is_pad_MBH=torch.zeros_like(outside_MBH) if self.padding.in_loss else outside_MBH,
            transition=None if self.transitions is None else self._transition(first_MB1[..., 0], self.transitions),
        )

    def _transition(self, first_MB: Tensor, transitions: Transitions) -> Transition:
        """What the steps from transitions `first_MB` on, int64 (M, B), led to."""
        ahead = self.horizon - self.padding.past
        last_MB = _rows(self.ends_N, first_MB) - 1
        found = transitions.over(first_MB, last_MB, ahead)
        seen_MBT = found.next_MB[..., None]
        if self.obs_steps > 1:
            back_T = torch.arange(1 - self.obs_steps, 0, device=first_MB.device)
            before_MBT = torch.minimum(first_MB + ahead, last_MB + 1)[..., None] + back_T
            begin_MB1 = _rows(self.begins_N, first_MB)[..., None]
            seen_MBT = torch.cat([torch.maximum(before_MBT, begin_MB1), seen_MBT], dim=-1)
        images = {k: selected(v, seen_MBT).to(first_MB.device) for k, v in self.images.items()}
        obs = Observation(_rows(self.obs_NO, seen_MBT), images, language=self._language(first_MB))
        return Transition(found.reward_MB, obs, found.mask_MB, found.valid_MB)

    def _language(self, first_MB: Tensor) -> Tensor | None:
        """The embeddings of the instructions at some transitions, (M, B, E)."""
        if self.instruction_N is None or self.language_KE is None:
            return None
        return _rows(self.language_KE, _rows(self.instruction_N, first_MB))


def _rows(values: Tensor, indices: Tensor) -> Tensor:
    """values[indices], which `index_select` does in a third of the time on a CPU."""
    return values.index_select(0, indices.flatten()).unflatten(0, indices.shape)


def selected(images: Images, rows: Tensor, pinned: bool = False) -> Tensor:
    """The images of some transitions, uint8 (..., height, width, channels), where the images are; those of videos in
    main memory.

    rows: integers of any shape. pinned: whether the result is in pinned memory, for images in main memory.
    """
    if isinstance(images, Tensor) and images.device.type != "cpu":
        return images[rows.to(images.device)]
    rows = rows.cpu()
    out = torch.empty((rows.numel(), *images.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
    if isinstance(images, Tensor):
        torch.index_select(images, 0, rows.flatten(), out=out)
    else:
        images.read(rows.flatten().numpy(), out.numpy())
    return out.unflatten(0, rows.shape)


def to_device_if_it_fits(images: Mapping[str, np.ndarray | LazyImages], device: torch.device) -> dict[str, Images]:
    """Images as tensors, on a GPU if they take at most half of its free memory, else in main memory without a copy.
    Those of videos stay there."""
    lazy: dict[str, Images] = {name: array for name, array in images.items() if isinstance(array, LazyImages)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # nothing writes to them
        tensors = {name: torch.from_numpy(a) for name, a in images.items() if not isinstance(a, LazyImages)}
    if device.type == "cuda" and sum(t.nbytes for t in tensors.values()) < torch.cuda.mem_get_info(device)[0] / 2:
        return lazy | {name: tensor.to(device) for name, tensor in tensors.items()}
    return lazy | tensors


def _starts(
    episodes: np.ndarray, episode_ends: np.ndarray, padding: Padding, horizon: int, obs_steps: int
) -> np.ndarray:
    """Indices of the transitions of `episodes` that begin a window, int64."""
    begins = np.concatenate([[0], episode_ends[:-1]])
    first_E, end_E = padding.range_of(episode_ends - begins, horizon, obs_steps)
    return np.concatenate([np.arange(begins[e] + first_E[e], begins[e] + end_E[e]) for e in episodes])
