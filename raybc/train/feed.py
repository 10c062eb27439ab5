"""Images for the next steps, read by threads ahead of the trainer.

Which windows a step draws depends on the seed and the step alone, so they are known in advance. A thread gathers the
images of the next steps (from a mapped file, videos, or from main memory for a GPU, then into pinned memory), while
the trainer computes. The batches are the same to the bit as without it.

Letters: M members, B batch, T observation steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from raybc.data.lazy import LazyImages
from raybc.data.windows import Images, selected
from raybc.train.rotation import ShardRotation
from raybc.train.step import StepDraws
from raybc.train.threads import available_cores

#: Most steps to be ahead, and the bytes that they may take; at least one step is read ahead.
MOST_STEPS, MOST_BYTES = 8, 2**29
#: Threads that gather, and those that decode videos, which a GPU may wait for.
THREADS, DECODERS = 2, max(2, min(16, available_cores()))
#: Images in main memory below this are gathered by the trainer itself on a CPU: that takes less time than handing over.
WORTHWHILE_BYTES = 2**28


def feed_of(
    draws_at: Callable[[int], StepDraws],
    rotation: ShardRotation,
    last: int,
    device: torch.device,
    memory: int = 0,
    threads: int = 0,
) -> ImageFeed | None:
    """The feed of a training; None where the trainer gathers its images as fast. Arguments: see `ImageFeed`; threads
    0: `THREADS`, or `DECODERS` for videos."""
    images = rotation.at(0).images.values()
    lazy = any(isinstance(image, LazyImages) for image in images)
    size = sum(image.nbytes for image in images if isinstance(image, Tensor) and image.device.type == "cpu")
    if not lazy and (not size or (device.type == "cpu" and size < WORTHWHILE_BYTES)):
        return None
    if lazy:  # the other half is the cache's
        return ImageFeed(draws_at, rotation, last, device, memory // 2, threads or DECODERS)
    return ImageFeed(draws_at, rotation, last, device, memory, threads or THREADS)


class ImageFeed:
    """The images of each step, gathered ahead of it."""

    def __init__(
        self,
        draws_at: Callable[[int], StepDraws],
        rotation: ShardRotation,
        last: int,
        device: torch.device,
        memory: int = 0,
        threads: int = THREADS,
    ) -> None:
        """
        Args:
            draws_at: the windows that a step draws; used by the feed alone.
            rotation: the windows to draw from.
            last: steps of the whole training.
            device: where batches are computed.
            memory: bytes that the images of the steps ahead may take, at least those of one step (0: `MOST_BYTES`).
            threads: threads that gather.
        """
        self._draws_at, self._rotation, self._last, self._device = draws_at, rotation, last, device
        self._memory, self._most_steps = memory, max(MOST_STEPS, 2 * threads)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="images")
        self._ready: deque[tuple[int, Future[dict[str, Tensor]]]] = deque()
        self._ahead = 1

    def at(self, step: int) -> dict[str, Tensor]:
        """Name -> uint8 (M, B, T, height, width, channels) of the windows that step `step` (from 0) draws."""
        windows, file = self._rotation.at(step), self._rotation.file_at(step)
        while self._ready and self._ready[0][0] != step:  # after a step back
            self._ready.popleft()[1].cancel()
        following = self._ready[-1][0] + 1 if self._ready else step
        while len(self._ready) <= self._ahead and following < max(self._last, step + 1):
            if self._rotation.file_at(following) != file:  # which is loaded when it is its turn
                break
            rows_MBT = windows.seen(self._draws_at(following).indices_MB).cpu()
            self._ready.append((following, self._threads.submit(self._gather, windows.images, rows_MBT)))
            following += 1
        found = self._ready.popleft()[1].result()
        size = sum(image.nbytes for image in found.values())
        self._ahead = max(1, min(self._most_steps, (self._memory or MOST_BYTES) // max(1, size)))
        return {name: image.to(self._device, non_blocking=True) for name, image in found.items()}

    def _gather(self, images: Mapping[str, Images], rows_MBT: Tensor) -> dict[str, Tensor]:
        pin = self._device.type == "cuda"
        return {name: selected(image, rows_MBT, pin) for name, image in images.items()}
