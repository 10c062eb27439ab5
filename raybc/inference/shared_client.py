"""What a simulator process has of a network that many share (`raybc.inference.shared`). No torch in here."""

from __future__ import annotations

import functools

import numpy as np

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray
from ray.actor import ActorHandle

from raybc.inference.predictor import KEEP, PolicyInterface, Prediction, bundle_version
from raybc.types import Observation, SampleSetting


class SharedActor:
    """A `Predictor` that sends requests to an `InferenceServer`."""

    overlaps = True

    def __init__(self, server: ActorHandle, path: str) -> None:
        self.bundle = _interface(server, path, bundle_version(path))
        self._server, self._path = server, path

    def predict(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> Prediction:
        return _Remote(self._server.chunks.remote(self._path, obs, noise_BHA, setting))


@functools.lru_cache(maxsize=KEEP)
def _interface(server: ActorHandle, path: str, version: int) -> PolicyInterface:
    try:
        return ray.get(server.interface.remote(path))
    except ray.exceptions.RayTaskError as error:  # a damaged bundle
        raise error.cause from None


class _Remote:
    def __init__(self, ref: ray.ObjectRef) -> None:
        self._ref = ref

    def get(self) -> np.ndarray:
        return ray.get(self._ref)


class SharedLoader:
    """Picklable function: path of a bundle -> `SharedActor`."""

    def __init__(self, server: ActorHandle) -> None:
        self._server = server

    def __call__(self, path: str) -> SharedActor:
        return SharedActor(self._server, path)
