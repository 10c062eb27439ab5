"""`PolicyBundle`: a trained policy as a folder that a fresh process can act with, knowing only its path.

    bundle.json           configuration, sizes, statistics, identity of data and environment, sha256 of the weights
    policy.safetensors    parameters (one member)

Nothing is unpickled. A missing, damaged or mismatched part is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from raybc.config import RunConfig
from raybc.data.episodes import image_size
from raybc.data.normalize import Normalizer
from raybc.files import read_json, replacing, write_json
from raybc.policies.base import PolicyShape
from raybc.policies.build import build_policy
from raybc.policies.flow import FlowPolicy
from raybc.strict import digest, from_mapping
from raybc.types import UserError

FORMAT = "raybc-bundle-1"
WEIGHTS = "policy.safetensors"
META = "bundle.json"


@dataclass(frozen=True)
class PolicyBundle:
    """One policy and all that it needs to act.

    obs_sizes: observation name -> size, in the order in which they are joined. images: name -> (height, width,
    channels). weights: parameter name -> tensor with a member axis of 1. environment: `SimEnv.identity()` where the
    policy was trained. data_env: what the dataset says about the environment it was recorded in (robomimic's
    `env_args`).
    """

    config: RunConfig
    step: int
    obs_sizes: dict[str, int]
    action_size: int
    obs_normalizer: Normalizer
    action_normalizer: Normalizer
    weights: Mapping[str, torch.Tensor]
    data_fingerprint: str
    environment: dict[str, str]
    data_env: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    images: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)

    @property
    def run_id(self) -> str:
        return self.config.run_id(self.data_fingerprint)

    def build(self) -> FlowPolicy:
        """The network (a pack of one) with these weights, on the CPU, ready to sample."""
        policy = build_policy(self.config, self.shape, members=1)
        policy.load_state_dict(dict(self.weights), strict=True)
        return policy.eval().requires_grad_(False)

    @property
    def shape(self) -> PolicyShape:
        config = self.config
        return PolicyShape.of(self.obs_sizes, self.images, self.action_size, config.chunk_length, config.obs_steps)

    def save(self, folder: Path) -> None:
        """Write the bundle; whole or not at all. An existing one is replaced."""
        with replacing(folder) as temporary:
            temporary.mkdir(parents=True)
            save_file({k: v.contiguous() for k, v in self.weights.items()}, temporary / WEIGHTS)
            write_json(temporary / META, self._meta(_sha256(temporary / WEIGHTS)))

    def _meta(self, weights_sha256: str) -> dict[str, Any]:
        meta = {
            "format": FORMAT,
            "run_id": self.run_id,
            "step": self.step,
            "config": dataclasses.asdict(self.config),
            "observations": self.obs_sizes,
            "images": {name: list(size) for name, size in self.images.items()},
            "action_size": self.action_size,
            "normalization": {
                name: {"offset": n.offset.tolist(), "scale": n.scale.tolist()}
                for name, n in (("observations", self.obs_normalizer), ("actions", self.action_normalizer))
            },
            "data_fingerprint": self.data_fingerprint,
            "environment": self.environment,
            "data_env": dict(self.data_env),
            "weights_sha256": weights_sha256,
        }
        return meta | {"sha256": digest(meta)}

    @classmethod
    def load(cls, folder: Path) -> PolicyBundle:
        """Read a bundle, or `UserError` that says which part is missing, damaged or does not fit."""
        if not folder.is_dir():
            raise UserError(f"{folder}: expected a policy bundle (a folder with {META} and {WEIGHTS}), found none")
        meta = read_json(folder / META)
        try:
            if meta["format"] != FORMAT:
                raise UserError(f"{folder / META}: expected format {FORMAT!r}, got {meta['format']!r}")
            run_id, sha256 = str(meta["run_id"]), meta["sha256"]
            bundle = cls(
                config=from_mapping(RunConfig, meta["config"], f"{folder / META}: config"),
                step=int(meta["step"]),
                obs_sizes={str(k): int(v) for k, v in meta["observations"].items()},
                action_size=int(meta["action_size"]),
                obs_normalizer=_normalizer(meta["normalization"]["observations"]),
                action_normalizer=_normalizer(meta["normalization"]["actions"]),
                weights=_read_weights(folder / WEIGHTS, meta["weights_sha256"]),
                data_fingerprint=str(meta["data_fingerprint"]),
                environment={str(k): str(v) for k, v in meta["environment"].items()},
                data_env=dict(meta["data_env"]),
                images={str(k): image_size(v) for k, v in (meta.get("images") or meta.get("pictures", {})).items()},
            )
        except KeyError as error:
            raise UserError(f"{folder / META}: expected the key {error.args[0]!r}, which is missing") from None
        except (TypeError, AttributeError, ValueError) as error:
            if isinstance(error, UserError) and str(folder) in str(error):
                raise
            raise UserError(f"{folder / META}: damaged: {error}") from None
        bundle._check(folder, run_id)
        if sha256 != digest({k: v for k, v in meta.items() if k != "sha256"}):
            raise UserError(f"{folder / META}: sha256 differs from its contents: the file was edited or damaged")
        return bundle

    def _check(self, folder: Path, run_id: str) -> None:
        if run_id != self.run_id:
            raise UserError(
                f"{folder / META}: run_id {run_id} does not belong to this configuration and data "
                f"({self.run_id}); the file was edited or mixed from two bundles"
            )
        for name, normalizer, size in (
            ("observations", self.obs_normalizer, sum(self.obs_sizes.values())),
            ("actions", self.action_normalizer, self.action_size),
        ):
            if len(normalizer.offset) != size:
                raise UserError(
                    f"{folder / META}: normalisation of {name}: expected {size} numbers, got {len(normalizer.offset)}"
                )
        expected = {k: tuple(v.shape) for k, v in build_policy(self.config, self.shape, 1).state_dict().items()}
        got = {k: tuple(v.shape) for k, v in self.weights.items()}
        if expected != got:
            differing = sorted(k for k in expected.keys() | got.keys() if expected.get(k) != got.get(k))
            raise UserError(
                f"{folder / WEIGHTS}: parameters do not fit the configuration: {differing[0]}: "
                f"expected {expected.get(differing[0])}, got {got.get(differing[0])}"
            )


def _normalizer(value: Mapping[str, Any]) -> Normalizer:
    return Normalizer(np.array(value["offset"], np.float32), np.array(value["scale"], np.float32))


def _read_weights(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: expected the weights of the bundle, found none")
    if _sha256(path) != sha256:
        raise UserError(f"{path}: sha256 differs from the one in {META}: damaged, or from another bundle")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not readable as safetensors: {error}") from None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
