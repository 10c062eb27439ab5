"""`onnx:FILE`: what `raybc export --onnx` wrote, or an ONNX file of others whose inputs are named as observations.

Rows are computed one by one, so that a chunk does not depend on its batch. Letters: B batch, T observation steps,
H chunk, A action dim.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raybc.data.action_form import ARM, ActionForm
from raybc.extras import require_extra
from raybc.foreign.base import OF_EPISODE, About, Kind
from raybc.foreign.reference import Reference
from raybc.inference.predictor import KEEP, PolicyError, PolicyInterface, Predictor, Resolved
from raybc.policies.spec import PolicySpec
from raybc.strict import listed
from raybc.types import Observation, SampleSetting, UserError

#: `format` in the metadata of files that raybc wrote, and names of inputs that are no observations.
FORMAT, NOISE, LANGUAGE = "raybc-onnx-1", "noise", "language"
#: Accepted types of inputs.
TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(uint8)": np.uint8}
_EXPECTED = (
    "expected inputs that are named as observations: float (B, size) or (B, T, size), and uint8 (B, height, width, "
    "channels) or (B, T, height, width, channels) for images, T the last steps, all but B fixed; optionally noise "
    "(B, H, A); and one output, the actions (B, A) or (B, H, A)"
)


@dataclass(frozen=True)
class _Input:
    name: str
    dtype: type
    shape: tuple[int, ...]
    """Without B."""
    timed: bool
    """Whether it has the axis T."""


class OnnxPredictor:
    """A network in an ONNX file."""

    overlaps = False

    def __init__(self, path: Path) -> None:
        where = f"onnx:{path}"
        (runtime,) = require_extra(where, "onnx", "onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = options.inter_op_num_threads = (
            1  # one process per core, the same sums everywhere
        )
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each reason
            raise UserError(f"{where}: onnxruntime cannot load it: {' '.join(str(error).split())}") from None
        texts = self._session.get_modelmeta().custom_metadata_map
        self.facts: dict[str, Any] = _facts(texts) if texts.get("format") == FORMAT else {}
        """What the file says about itself; {} of files of others."""
        self._inputs = [_input(where, found) for found in self._session.get_inputs() if found.name not in self._special]
        noise = [found for found in self._session.get_inputs() if found.name == NOISE]
        self._noise_shape = tuple(noise[0].shape[1:]) if noise else None
        if noise and not (len(noise[0].shape) == 3 and all(isinstance(n, int) for n in self._noise_shape or ())):
            raise UserError(f"{where}: {_EXPECTED}; got noise of the shape {noise[0].shape}")
        if len(self._session.get_outputs()) != 1 or not self._inputs:
            raise UserError(
                f"{where}: {_EXPECTED}; got the inputs {', '.join(i.name for i in self._session.get_inputs())} and "
                f"{len(self._session.get_outputs())} outputs"
            )
        self.vectors = {text: np.array(v, np.float32) for text, v in self.facts.get("embeddings", {}).items()}
        """Instruction -> its embedding; {} of policies that read none."""
        self.bundle = self._interface(where)

    @property
    def _special(self) -> tuple[str, ...]:
        return (NOISE, LANGUAGE) if self.facts else (NOISE,)

    def _interface(self, where: str) -> PolicyInterface:
        low = {found.name: found.shape[-1] for found in self._inputs if found.dtype != np.uint8}
        images = {found.name: _image(found.shape) for found in self._inputs if found.dtype == np.uint8}
        steps = {found.shape[0] for found in self._inputs if found.timed} or {1}
        if len(steps) > 1:
            raise UserError(f"{where}: {_EXPECTED}; got observations of {', '.join(map(str, sorted(steps)))} steps")
        zeros: Observation[np.ndarray] = Observation(
            np.zeros((1, max(steps), sum(low.values())), np.float32),
            {name: np.zeros((1, max(steps), *size), np.uint8) for name, size in images.items()},
            (next(iter(self.vectors)),) if self.vectors else None,
        )
        self._low = low
        noise_BHA = np.zeros((1, *(self._noise_shape or (1, 1))), np.float32)
        try:
            _, horizon, size = self.chunks(zeros, noise_BHA, SampleSetting(0)).shape
        except PolicyError as error:
            raise UserError(f"{where}: {_EXPECTED}; {error}") from None
        arms = size // ARM if self.facts.get("actions", {}).get("rotation") else 0
        learned = self._noise_shape[1] if self._noise_shape else size
        noise_horizon = self._noise_shape[0] if self._noise_shape else horizon
        if noise_horizon != horizon:
            raise UserError(f"{where}: {_EXPECTED}; got noise of {noise_horizon} steps and chunks of {horizon}")
        spec = PolicySpec.of(low, images, learned, horizon, max(steps))
        return PolicyInterface(low, images, spec, ActionForm(size, arms))

    def predict(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> Resolved:
        return Resolved(self.chunks(obs, noise_BHA, setting))

    def chunks(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, setting: SampleSetting) -> np.ndarray:
        """The next chunk of each row, physical, float32 (B, H, A). Raises `PolicyError` for what is no chunk."""
        return np.concatenate([self._row(obs, noise_BHA, row) for row in range(len(obs.low_dim))])

    def _row(self, obs: Observation[np.ndarray], noise_BHA: np.ndarray, row: int) -> np.ndarray:
        ends = np.cumsum(list(self._low.values()))
        parts = dict(zip(self._low, np.split(obs.low_dim[row], ends[:-1], axis=-1), strict=True)) if self._low else {}
        seen: dict[str, np.ndarray] = {**parts, **{name: image[row] for name, image in obs.images.items()}}
        inputs: dict[str, np.ndarray] = {
            one.name: (seen[one.name] if one.timed else seen[one.name][-1])[None].astype(one.dtype)
            for one in self._inputs
        }
        if self._noise_shape is not None:
            inputs[NOISE] = noise_BHA[row : row + 1].astype(np.float32)
        if self.vectors:
            text = (obs.instruction or ("",) * (row + 1))[row]
            if text not in self.vectors:
                raise PolicyError(f"instruction: expected one of {listed(text, self.vectors)}, got {text!r}")
            inputs[LANGUAGE] = self.vectors[text][None]
        try:
            found = np.asarray(self._session.run(None, inputs)[0])
        except Exception as error:
            raise PolicyError(f"onnxruntime: {' '.join(str(error).split())}") from None
        found = found[:, None] if found.ndim == 2 else found
        if found.ndim != 3 or found.dtype.kind != "f" or len(found) != 1:
            raise PolicyError(f"expected actions (1, A) or (1, H, A), got {found.dtype} {found.shape}")
        if not np.isfinite(found).all():
            raise PolicyError("the policy gave nan or inf")
        return found.astype(np.float32)


def _facts(texts: Mapping[str, str]) -> dict[str, Any]:
    """The metadata as `raybc export` had it: what is no text is JSON."""
    found: dict[str, Any] = {}
    for key, text in texts.items():
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def _input(where: str, found: Any) -> _Input:
    shape, dtype = found.shape[1:], TYPES.get(found.type)
    is_image = dtype == np.uint8
    ranks = (3, 4) if is_image else (1, 2)
    if dtype is None or len(shape) not in ranks or not all(isinstance(n, int) and n > 0 for n in shape):
        raise UserError(f"{where}: {_EXPECTED}; got {found.name} of {found.type} {found.shape}")
    return _Input(found.name, dtype, tuple(shape), len(shape) == ranks[1])


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width, channels = shape[-3:]
    return height, width, channels


@functools.lru_cache(maxsize=KEEP)
def _load(path: str, state: int) -> OnnxPredictor:
    return OnnxPredictor(Path(path))


class _Onnx(Kind):
    options = ()
    by_rows = True

    def parse(self, reference: Reference) -> Reference:
        path = Path(reference.where).expanduser().absolute()
        if not path.is_file():
            raise UserError(f"{reference.shown}: there is no file {path}; expected onnx:FILE.onnx")
        found = Reference(**{**vars(reference), "where": str(path)})
        self.loaded(found)
        return found

    def loaded(self, reference: Reference) -> OnnxPredictor:
        """The network in the file, in this process."""
        return _load(reference.where, Path(reference.where).stat().st_mtime_ns)

    def content(self, reference: Reference) -> str:
        return hashlib.sha256(Path(reference.where).read_bytes()).hexdigest()

    def files(self, reference: Reference) -> tuple[Path, ...]:
        return (Path(reference.where),)

    def env_name(self, reference: Reference) -> str:
        return str(self.loaded(reference).facts.get("env_name", ""))

    def sample_axes(self, reference: Reference) -> tuple[str, ...]:
        has_noise = any(found.name == NOISE for found in self.loaded(reference)._session.get_inputs())
        return (*OF_EPISODE, *(("eval_temperature",) if has_noise else ()))

    def setting(self, reference: Reference) -> SampleSetting:
        return SampleSetting(**self.loaded(reference).facts.get("setting", {"flow_steps": 0}))

    def predictor(self, reference: Reference, about: About | None) -> Predictor:
        found = self.loaded(reference)
        if about is not None and found.vectors and about.instruction not in found.vectors:
            known = ", ".join(map(repr, found.vectors))
            raise UserError(
                f"{reference.shown}: instruction: expected one that the file knows ({known}), got {about.instruction!r}"
            )
        return found


def loaded(text: str) -> OnnxPredictor:
    """The network that a reference means, in this process."""
    return KIND.loaded(Reference.read(text))


KIND = _Onnx()
