"""`PolicyBundle`: a trained policy as a self-contained folder.

    bundle.json           configuration, sizes, statistics, identity of data and environment, sha256 of the weights
    policy.safetensors    parameters (one member)
    instructions.safetensors    of a policy that reads instructions: the vectors of those that it knows

Nothing is unpickled. Missing, damaged or mismatched files raise `UserError`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from raybc._version import __version__
from raybc.causes import expect_file
from raybc.config import RunConfig, migrate
from raybc.data.action_form import ActionForm
from raybc.data.episodes import image_size
from raybc.data.normalize import Normalizer
from raybc.files import read_json, replacing, write_json
from raybc.language.table import Instructions
from raybc.policies.base import Policy, PolicySpec
from raybc.policies.build import build_policy
from raybc.run_folder import BUNDLE_FILE, POLICY_FILE
from raybc.strict import digest
from raybc.types import UserError

#: Release 0.1.0 wrote raybc-bundle-1, which is still read.
FORMAT, FORMAT_1 = "raybc-bundle-2", "raybc-bundle-1"
WEIGHTS, INSTRUCTIONS = "policy.safetensors", "instructions.safetensors"
META = BUNDLE_FILE
#: Most instructions that a message lists.
LISTED = 5


@dataclass(frozen=True)
class PolicyBundle:
    """One policy with everything that it needs to act."""

    config: RunConfig
    step: int
    """Gradient steps of training so far."""
    obs_sizes: dict[str, int]
    """Low-dimensional observation -> size, in the order in which they are concatenated."""
    action_size: int
    """A, of the environment."""
    obs_normalizer: Normalizer
    """Of the concatenated low-dimensional observations."""
    action_normalizer: Normalizer
    """Of actions in the form that the network learns (`action_form`)."""
    weights: Mapping[str, torch.Tensor]
    """Parameter name -> tensor with a member axis of 1."""
    data_fingerprint: str
    environment: dict[str, str]
    """`SimEnv.identity()` at training time: the versions of the simulator."""
    data_env: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """robomimic's `env_args`: the environment that the dataset was recorded in."""
    images: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    """Image -> (height, width, channels)."""
    instructions: Instructions | None = None
    """The instructions that the policy knows; None for a policy that reads none."""
    saved_as: str = ""
    """The run_id in the file, if an earlier release computed it by other rules; otherwise empty."""

    @property
    def run_id(self) -> str:
        return self.config.run_id(self.data_fingerprint)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The current run_id, and `saved_as` if that differs."""
        return (self.run_id, self.saved_as) if self.saved_as else (self.run_id,)

    def build(self) -> Policy:
        """The network (a pack of one member) with these weights, on the CPU, in evaluation mode."""
        policy = build_policy(self.config, self.spec, members=1)
        policy.load_state_dict(dict(self.weights), strict=True)
        return policy.eval().requires_grad_(False)

    @property
    def action_form(self) -> ActionForm:
        """What the network gives, and the environment's actions that are made from it."""
        return ActionForm.of(self.config, self.action_size)

    @property
    def spec(self) -> PolicySpec:
        config = self.config
        size = self.instructions.size if self.instructions is not None else 0
        sizes = self.action_form.size, config.chunk_length, config.obs_steps, size
        return PolicySpec.of(self.obs_sizes, self.images, *sizes, config.chunk_length - config.ahead_length)

    def embed(self, instructions: Sequence[str] | None, where: str = "instruction") -> np.ndarray | None:
        """The vectors of instructions, float32 (B, E); None for a policy that reads none.

        where: for messages. Raises `UserError` for a policy that reads instructions and gets none, or one that it does
        not know and cannot embed.
        """
        if self.instructions is None:
            return None
        if not instructions or not all(instructions):
            texts = self.instructions.texts
            some = ", ".join(map(repr, texts[:LISTED]))
            some += f" and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
            raise UserError(f"{where}: expected one, since this policy reads instructions, got none; known: {some}")
        return self.instructions.embed(instructions, where)

    def check_instruction(self, instruction: str) -> None:
        """Raise `UserError` for an instruction that cannot be embedded, and for a policy that reads none."""
        if self.instructions is None:
            raise UserError(f"instruction: has no effect, since this policy reads no instructions, got {instruction!r}")
        self.embed((instruction,))

    def save(self, folder: Path) -> None:
        """Write the bundle to `folder` atomically; an existing bundle is replaced."""
        with replacing(folder) as temporary:
            temporary.mkdir(parents=True)
            save_file({k: v.contiguous() for k, v in self.weights.items()}, temporary / WEIGHTS)
            more = {}
            if self.instructions is not None:
                save_file({"vectors": torch.from_numpy(self.instructions.vectors_KE)}, temporary / INSTRUCTIONS)
                more = {"texts": list(self.instructions.texts), "sha256": _sha256(temporary / INSTRUCTIONS)}
            meta = self._meta(_sha256(temporary / WEIGHTS)) | ({"instructions": more} if more else {})
            write_json(temporary / META, meta | {"sha256": digest(meta)})

    def _meta(self, weights_sha256: str) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "raybc": __version__,
            "run_id": self.run_id,
            "step": self.step,
            "config": self.config.to_plain(),
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

    @classmethod
    def load(cls, folder: Path) -> PolicyBundle:
        """Read a bundle.

        Raises `UserError` that names the file if something is missing, damaged or inconsistent.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: expected a policy bundle (a folder with {META} and {WEIGHTS}), found none")
        if (folder / POLICY_FILE).is_file():
            raise UserError(
                f"{folder}: expected a policy bundle, got a policy of others ({POLICY_FILE}), which raybc can only "
                "measure (raybc rollout, raybc compare)"
            )
        saved = read_json(folder / META)
        try:
            sha256 = saved["sha256"]
            if sha256 != digest({k: v for k, v in saved.items() if k != "sha256"}):
                raise UserError(f"{folder / META}: sha256 differs from its contents: the file was edited or damaged")
            meta = _current_format(saved, folder / META)
            run_id = str(meta["run_id"])
            config = _config(meta, folder / META)
            weights = _read_tensors(folder / WEIGHTS, meta["weights_sha256"], "the weights of the bundle")
            names = migrate.renamed(weights, config.policy.renamed_weights)
            bundle = cls(
                config=config,
                step=int(meta["step"]),
                obs_sizes={str(k): int(v) for k, v in meta["observations"].items()},
                action_size=int(meta["action_size"]),
                obs_normalizer=_normalizer(meta["normalization"]["observations"]),
                action_normalizer=_normalizer(meta["normalization"]["actions"]),
                weights={names[name]: weight for name, weight in weights.items()},
                data_fingerprint=str(meta["data_fingerprint"]),
                environment={str(k): str(v) for k, v in meta["environment"].items()},
                data_env=dict(meta["data_env"]),
                images={str(k): image_size(v) for k, v in meta["images"].items()},
                instructions=_read_instructions(folder / INSTRUCTIONS, config, meta.get("instructions")),
                saved_as=meta["saved_as"],
            )
        except KeyError as error:
            raise UserError(f"{folder / META}: expected the key {error.args[0]!r}, which is missing") from None
        except (TypeError, AttributeError, ValueError, LookupError, ArithmeticError) as error:
            if isinstance(error, UserError) and str(folder) in str(error):
                raise
            raise UserError(f"{folder / META}: damaged: {error}") from None
        bundle._check(folder, run_id)
        return bundle

    def _check(self, folder: Path, run_id: str) -> None:
        if run_id != self.run_id:
            raise UserError(_mixed(folder / META, run_id, self.run_id))
        for name, normalizer, size in (
            ("observations", self.obs_normalizer, sum(self.obs_sizes.values())),
            ("actions", self.action_normalizer, self.action_form.size),
        ):
            if len(normalizer.offset) != size:
                raise UserError(
                    f"{folder / META}: normalisation of {name}: expected {size} numbers, got {len(normalizer.offset)}"
                )
        expected = {k: tuple(v.shape) for k, v in build_policy(self.config, self.spec, 1).state_dict().items()}
        got = {k: tuple(v.shape) for k, v in self.weights.items()}
        if expected != got:
            differing = sorted(k for k in expected.keys() | got.keys() if expected.get(k) != got.get(k))
            raise UserError(
                f"{folder / WEIGHTS}: parameters do not fit the configuration: {differing[0]}: "
                f"expected {expected.get(differing[0])}, got {got.get(differing[0])}"
            )


def weights_sha256(folder: Path) -> str:
    """The sha256 of the weights of the bundle in `folder`. Raises `UserError` if there is no bundle."""
    if not (folder / META).is_file():
        raise UserError(f"{folder}: expected a policy bundle (a folder with {META} and {WEIGHTS}), found none")
    meta = read_json(folder / META)
    if not isinstance(meta, dict) or not isinstance(meta.get("weights_sha256"), str):
        raise UserError(f"{folder / META}: expected the description of a policy bundle, got another JSON file")
    return str(meta["weights_sha256"])


def _current_format(saved: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The contents of bundle.json, converted to the current format. Raises `UserError` for an unknown format."""
    meta = dict(saved)
    if meta["format"] == FORMAT:
        return meta | {"saved_as": ""}
    if meta["format"] == FORMAT_1:
        run_id = migrate.run_id_1(meta["config"], str(meta["data_fingerprint"]))
        if meta["run_id"] != run_id:
            raise UserError(_mixed(path, str(meta["run_id"]), run_id))
        config = RunConfig.from_plain(meta["config"], f"{path}: config")
        meta |= {"images": meta.pop("pictures"), "run_id": config.run_id(str(meta["data_fingerprint"]))}
        return meta | {"saved_as": run_id}
    if re.fullmatch(r"raybc-bundle-\d+", str(meta["format"])):
        raise UserError(
            f"{path}: expected format {FORMAT} or older, got {meta['format']}, made by raybc "
            f"{meta.get('raybc', 'of a newer release')}; install that release or a newer one"
        )
    raise UserError(f"{path}: expected format {FORMAT!r}, got {meta['format']!r}")


def _config(meta: Mapping[str, Any], path: Path) -> RunConfig:
    try:
        return RunConfig.from_plain(meta["config"], f"{path}: config")
    except UserError as error:
        made_by = meta.get("raybc", __version__)
        if made_by == __version__:
            raise
        raise UserError(f"{error} (this policy was made by raybc {made_by}, this is {__version__})") from None


def _mixed(path: Path, got: str, expected: str) -> str:
    return (
        f"{path}: run_id {got} does not belong to this configuration and data ({expected}); "
        "the file was edited or mixed from two bundles"
    )


def _normalizer(value: Mapping[str, Any]) -> Normalizer:
    return Normalizer(np.array(value["offset"], np.float32), np.array(value["scale"], np.float32))


def _read_tensors(path: Path, sha256: str, what: str) -> dict[str, torch.Tensor]:
    expect_file(path, what)
    if _sha256(path) != sha256:
        raise UserError(f"{path}: sha256 differs from the one in {META}: damaged, or from another bundle")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not readable as safetensors: {error}") from None


def _read_instructions(path: Path, config: RunConfig, described: Any) -> Instructions | None:
    if config.language.kind == "none":
        return None
    if described is None:
        raise UserError(f"{path.with_name(META)}: expected the key 'instructions', which is missing")
    what = "the vectors of instructions of the bundle"
    vectors_KE = _read_tensors(path, described["sha256"], what)["vectors"].numpy()
    texts = tuple(map(str, described["texts"]))
    if vectors_KE.ndim != 2 or len(vectors_KE) != len(texts):
        raise UserError(f"{path}: expected a vector for each of {len(texts)} instructions, got {vectors_KE.shape}")
    return Instructions(config.language, texts, vectors_KE)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
