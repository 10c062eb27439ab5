"""One network for all concurrent requests.

Requests that arrive while a batch is computed form the next batch, so no request waits for a batch to fill. A chunk
does not depend on the rest of its batch (`inference.agent`).

Letters: T observation steps, O observation dim, H chunk, A action dim.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from raybc.bundle import PolicyBundle
from raybc.inference.agent import SIZES, Agent

#: (observations (T, O), noise (H, A), images by name), as `Session.question` gives them.
Question = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]


@dataclass
class _Batch:
    questions: list[Question] = field(default_factory=list)
    answer: asyncio.Task[np.ndarray] | None = None


class Batcher:
    """An `Agent` in a separate thread. Must be used from one event loop."""

    def __init__(self, bundle: PolicyBundle, flow_steps: int, device: str = "cpu", threads: int = 1) -> None:
        """threads: of PyTorch on a CPU."""
        self.bundle = bundle
        self._flow_steps = flow_steps
        # PyTorch's number of threads, and so the batch sizes that `Agent` finds, belong to the calling thread.
        self._thread = ThreadPoolExecutor(1, "policy", torch.set_num_threads, (threads,))
        self._agent = self._thread.submit(Agent, bundle, device).result()
        self._lock = asyncio.Lock()
        self._open = _Batch()
        self.asked, self.batches = 0, 0

    async def predict(self, question: Question) -> np.ndarray:
        """The chunk, physical (H, A)."""
        self.asked += 1
        batch, place = self._open, len(self._open.questions)
        batch.questions.append(question)
        if batch.answer is None:
            batch.answer = asyncio.create_task(self._run(batch))
        if len(batch.questions) == SIZES[-1]:
            self._open = _Batch()
        # If a client disconnects, the others still get their chunks.
        chunks_BHA = await asyncio.shield(batch.answer)
        return chunks_BHA[place]

    async def _run(self, batch: _Batch) -> np.ndarray:
        async with self._lock:
            if self._open is batch:
                self._open = _Batch()
            self.batches += 1
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._chunks, batch.questions)

    def _chunks(self, questions: list[Question]) -> np.ndarray:
        obs, noise, images = zip(*questions, strict=True)
        seen = {name: np.stack([p[name] for p in images]) for name in images[0]}
        return self._agent.chunks(np.stack(obs), np.stack(noise), self._flow_steps, seen)

    def close(self) -> None:
        self._thread.shutdown()
