"""A network that many simulator processes share: one actor, on a GPU if there is one, batches their requests.

Requests that arrive while the network is busy form the next batch, so no request waits for a batch to fill. Processes
of simulators in environments of their own import this module and have no torch: only the actor imports it.
"""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.actor import ActorHandle

import raybc.cluster
import raybc.env.numpy_pickles  # noqa: F401
from raybc.cluster.answers import answer_of
from raybc.foreign.reference import Reference, is_reference
from raybc.inference.episodes import SharedEpisodes
from raybc.inference.predictor import KEEP, PolicyError, PolicyInterface, Prediction, bundle_version, concatenated
from raybc.types import Observation, SampleSetting

if TYPE_CHECKING:
    from raybc.foreign.host import EpisodeHost, Question
    from raybc.foreign.onnx import OnnxPredictor
    from raybc.inference.agent import Agent

#: Policies with more parameters run on a shared GPU, smaller ones in each simulator process.
LARGE = 5_000_000
#: Episodes whose policies of others are asked at the same time; asyncio's own threads are few more than the cores.
MOST_EPISODES = 256


@dataclass(eq=False)  # compared by identity, because arrays have no truth value
class _Request:
    path: str
    obs: Observation[np.ndarray]
    noise: np.ndarray
    setting: SampleSetting
    done: asyncio.Future[np.ndarray]


def _waiting(requests: list[_Request]) -> list[_Request]:
    """Those that were not cancelled."""
    return [request for request in requests if not request.done.done()]


class InferenceServer:
    """An asyncio actor with the networks of up to `KEEP` bundles."""

    def __init__(self, device: str) -> None:
        import raybc.inference.agent  # noqa: F401  (now, because it takes seconds, which an episode would wait)

        self._device = device
        self._agent = functools.lru_cache(maxsize=KEEP)(self._load)
        self._requests: list[_Request] = []
        self._runner: asyncio.Task[None] | None = None
        self.calls, self.rows = 0, 0
        self._episodes: EpisodeHost | None = None
        self._threads = ThreadPoolExecutor(MOST_EPISODES)

    async def answer(self, path: str, question: Question) -> tuple[np.ndarray | PolicyError, bool]:
        """`EpisodeHost.answer` of a policy of others."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._host().answer, path, question)

    async def end(self, key: str, outcome: str) -> None:
        """`EpisodeHost.end`."""
        await asyncio.to_thread(self._host().end, key, outcome)

    def _host(self) -> EpisodeHost:
        from raybc.foreign.host import EpisodeHost

        self._episodes = self._episodes or EpisodeHost()
        return self._episodes

    async def chunks(
        self, path: str, obs: Observation[np.ndarray], noise: np.ndarray, setting: SampleSetting
    ) -> np.ndarray:
        """`Agent.chunks` of the bundle at `path`, batched with concurrent requests."""
        rows = {len(array) for array in (obs.low_dim, *obs.images.values())}
        if rows != {len(noise)}:  # the rows of all requests of a batch are matched by their place
            raise ValueError(f"expected {len(noise)} rows in every observation, got {sorted(rows)}")
        loop = asyncio.get_running_loop()
        request = _Request(path, obs, noise, setting, loop.create_future())
        self._requests.append(request)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.ensure_future(self._serve())
        return await request.done

    async def interface(self, path: str) -> PolicyInterface:
        """What episodes need to know of the policy at `path`. Raises `UserError` for a damaged bundle."""
        agent = await asyncio.to_thread(self._agent, path, bundle_version(path))
        return PolicyInterface.of(agent.bundle)

    async def stats(self) -> dict[str, int]:
        """calls: batches so far. rows: rows in them."""
        return {"calls": self.calls, "rows": self.rows}

    async def _serve(self) -> None:
        while self._requests:
            first = self._requests[0]
            together = [r for r in self._requests if (r.path, r.setting) == (first.path, first.setting)]
            self._requests = [r for r in self._requests if r not in together]
            try:
                chunks = await asyncio.to_thread(self._compute, together)
            except Exception as error:  # raised in the processes that sent the requests
                for request in _waiting(together):
                    request.done.set_exception(error)
                continue
            start = 0
            for request in together:
                if not request.done.done():  # cancelled, because its process has died
                    request.done.set_result(chunks[start : start + len(request.noise)])
                start += len(request.noise)

    def _compute(self, requests: list[_Request]) -> np.ndarray:
        noise = np.concatenate([r.noise for r in requests])
        self.calls, self.rows = self.calls + 1, self.rows + len(noise)
        path, setting = requests[0].path, requests[0].setting
        obs = concatenated([r.obs for r in requests])
        agent = self._agent(path, bundle_version(path))
        self._use_one_thread(path)  # each time, since it is a setting of the calling thread, and those vary
        return agent.chunks(obs, noise, setting)

    def _use_one_thread(self, path: str) -> None:
        """Have PyTorch round as in a simulator process."""
        if self._device == "cpu" and not is_reference(path):
            import torch

            torch.set_num_threads(1)

    def _load(self, path: str, state: int) -> Agent | OnnxPredictor:
        if is_reference(path):
            from raybc.foreign.onnx import loaded

            return loaded(path)
        from raybc.bundle import PolicyBundle
        from raybc.inference.agent import Agent

        self._use_one_thread(path)
        return Agent(PolicyBundle.load(Path(path)), self._device)


class SharedActor:
    """A `Predictor` that sends requests to an `InferenceServer`."""

    overlaps = True

    def __init__(self, server: ActorHandle, path: str) -> None:
        self.bundle = _interface(server, path, bundle_version(path))
        self._server, self._path = server, path

    def predict(self, obs: Observation[np.ndarray], noise: np.ndarray, setting: SampleSetting) -> Prediction:
        return _Remote(self._server.chunks.remote(self._path, obs, noise, setting))


@functools.lru_cache(maxsize=KEEP)
def _interface(server: ActorHandle, path: str, version: int) -> PolicyInterface:
    return answer_of(server.interface.remote(path))


class _Remote:
    def __init__(self, ref: ray.ObjectRef) -> None:
        self._ref = ref

    def get(self) -> np.ndarray:
        return answer_of(self._ref)


class SharedLoader:
    """Picklable function: path of a bundle -> `SharedActor`; policy of others -> who asks it."""

    def __init__(self, server: ActorHandle) -> None:
        self._server = server
        self._episodes: dict[str, SharedEpisodes] = {}

    def __call__(self, path: str) -> SharedActor | SharedEpisodes:
        if is_reference(path) and not Reference.read(path).load_kind().by_rows:
            return self._episodes.setdefault(path, SharedEpisodes(self._server, path))
        return SharedActor(self._server, path)


def start_server(gpus: float) -> Any:
    """Start an `InferenceServer`, which Ray restarts if it dies; lost requests are repeated.

    gpus: fraction of a GPU to reserve; 0: the CPU.
    """
    remote = ray.remote(InferenceServer).options(num_cpus=0, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)
    return remote.remote("cuda" if gpus else "cpu")
