"""One network for all concurrent requests.

Requests that arrive while a batch is computed form the next batch, so no request waits for a batch to fill. A chunk
does not depend on the rest of its batch (`raybc.inference.agent`).

Letters: H chunk, A action dim.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from raybc.bundle import PolicyBundle
from raybc.inference.agent import SIZES, Agent
from raybc.inference.predictor import stack_rows
from raybc.types import Observation, SampleSetting

#: (observation, noise (H, A) or (N, H, A)), the result of `Session.request`.
Request = tuple[Observation[np.ndarray], np.ndarray]


@dataclass
class _Batch:
    requests: list[Request] = field(default_factory=list)
    answer: asyncio.Task[np.ndarray] | None = None


class Batcher:
    """An `Agent` in a separate thread. Must be used from one event loop."""

    def __init__(self, bundle: PolicyBundle, setting: SampleSetting, device: str = "cpu", threads: int = 1) -> None:
        """threads: PyTorch threads on a CPU."""
        self.bundle = bundle
        self._setting = setting
        # PyTorch's number of threads, and so the batch sizes that `Agent` finds, belong to the calling thread.
        self._thread = ThreadPoolExecutor(1, "policy", torch.set_num_threads, (threads,))
        self._agent = self._thread.submit(Agent, bundle, device).result()
        self._lock = asyncio.Lock()
        self._open = _Batch()
        self.asked, self.batches = 0, 0

    async def predict(self, request: Request) -> np.ndarray:
        """The next chunk of a session, physical, float32 (H, A)."""
        self.asked += 1
        batch, place = self._open, len(self._open.requests)
        batch.requests.append(request)
        if batch.answer is None:
            batch.answer = asyncio.create_task(self._run(batch))
        if len(batch.requests) == SIZES[-1]:
            self._open = _Batch()
        # If a client disconnects, the others still get their chunks.
        chunks_BHA = await asyncio.shield(batch.answer)
        return chunks_BHA[place]

    async def _run(self, batch: _Batch) -> np.ndarray:
        async with self._lock:
            if self._open is batch:
                self._open = _Batch()
            self.batches += 1
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._chunks, batch.requests)

    def _chunks(self, requests: list[Request]) -> np.ndarray:
        noise = np.stack([one for _, one in requests])
        chunks_BHA = self._agent.chunks(stack_rows([obs for obs, _ in requests]), noise, self._setting)
        if len(chunks_BHA) != len(requests):  # rows are matched to requests by their place
            raise RuntimeError(f"expected {len(requests)} chunks, got {len(chunks_BHA)}")
        return chunks_BHA

    def close(self) -> None:
        self._thread.shutdown()
