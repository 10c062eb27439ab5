"""One network for all who ask at the same time.

While a batch is computed, those who ask meanwhile become the next one: nobody waits for a batch to fill. A chunk does
not depend on its companions (`raybc.inference.agent`). Letters: H chunk, A action dim.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from raybc.bundle import PolicyBundle
from raybc.inference.agent import SIZES, Agent, stack_rows
from raybc.types import Observation, SampleSetting

#: (observation, noise (H, A)), as `Session.request` gives them.
Question = tuple[Observation[np.ndarray], np.ndarray]


@dataclass
class _Batch:
    questions: list[Question] = field(default_factory=list)
    answer: asyncio.Task[np.ndarray] | None = None


class Batcher:
    """An `Agent` in a thread of its own. Must be used from one event loop."""

    def __init__(self, bundle: PolicyBundle, setting: SampleSetting, device: str = "cpu", threads: int = 1) -> None:
        """threads: of PyTorch on a CPU."""
        self.bundle = bundle
        self._setting = setting
        # The number of threads belongs to the thread that asks, and so do the batch sizes that were found out.
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
        # One who hangs up takes nothing from the others.
        chunks_BHA = await asyncio.shield(batch.answer)
        return chunks_BHA[place]

    async def _run(self, batch: _Batch) -> np.ndarray:
        async with self._lock:
            if self._open is batch:
                self._open = _Batch()
            self.batches += 1
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._chunks, batch.questions)

    def _chunks(self, questions: list[Question]) -> np.ndarray:
        noise_BHA = np.stack([noise for _, noise in questions])
        return self._agent.chunks(stack_rows([obs for obs, _ in questions]), noise_BHA, self._setting)

    def close(self) -> None:
        self._thread.shutdown()
