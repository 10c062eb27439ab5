"""A policy as one ONNX file: physical observations and noise in, a physical chunk out.

Normalisation is included and the steps of the solver are unrolled, so the file needs nothing else. It is written
only if onnxruntime gives the same results as `Agent` in rollouts. PyTorch's TorchScript exporter needs no other
package; the newer one needs onnxscript and gives the same graph.

Letters: B batch, T observation steps, O observation dim, H chunk, A action dim (of noise: of what the network gives).
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybc.bundle import PolicyBundle
from raybc.cli import Failed
from raybc.export.rotations import decoded
from raybc.extras import require_extra
from raybc.files import replacing, write_json
from raybc.inference.agent import Agent
from raybc.inference.metadata import policy_metadata
from raybc.policies.best_of_n import sample_best
from raybc.types import Observation, SampleSetting, UserError

NOISE, ACTIONS, LANGUAGE = "noise", "actions", "language"
FORMAT = "raybc-onnx-1"
OPSET = 17
#: Maximum difference from `Agent`, as a fraction of the action's scale in the training data.
TOLERANCE = 1e-5
#: Batch sizes to compare: one row, a few, many.
BATCHES = (1, 3, 64)


class PhysicalPolicy(nn.Module):
    """A policy with its normalisation; inputs in the order of `input_shapes`."""

    def __init__(self, bundle: PolicyBundle, setting: SampleSetting) -> None:
        super().__init__()
        self._policy = bundle.build()
        self._setting = setting
        self._low_dim, self._images = list(bundle.obs_sizes), list(bundle.images)
        self._reads = bundle.instructions is not None
        self._form, self._past = bundle.action_form, bundle.spec.past
        observed, acted = bundle.obs_normalizer, bundle.action_normalizer
        self._obs_offset, self._obs_scale = torch.from_numpy(observed.offset), torch.from_numpy(observed.scale)
        self._action_offset, self._action_scale = torch.from_numpy(acted.offset), torch.from_numpy(acted.scale)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The physical chunk (B, H, A), float32.

        inputs: (B, T, size) float32 for each low-dimensional observation, (B, T, height, width, channels) uint8 for
        each image, for a policy that reads instructions their embeddings (B, E) float32, and noise (B, H, A) float32,
        or (B, N, H, A) with best_of_n N above 1.
        """
        *observed, noise = inputs
        language = observed.pop()[None] if self._reads else None
        low_dim, images = observed[: len(self._low_dim)], observed[len(self._low_dim) :]
        # Without low-dimensional observations: (B, 1, 0).
        obs_BTO = torch.cat(low_dim, dim=-1) if low_dim else noise.flatten(1, -2)[:, :1, :0]
        obs_BTO = (obs_BTO - self._obs_offset) / self._obs_scale
        seen = {name: image[None] for name, image in zip(self._images, images, strict=True)}
        obs = Observation(obs_BTO[None], seen, language=language)
        chunk_BHA = sample_best(self._policy, obs, noise[None], self._setting)[0]
        chunk_BHA = chunk_BHA[:, self._past :] if self._past else chunk_BHA
        return decoded(chunk_BHA * self._action_scale + self._action_offset, self._form)


def input_shapes(bundle: PolicyBundle, setting: SampleSetting) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each input without the batch axis, in order. Raises `UserError` for a reserved name."""
    steps = bundle.config.obs_steps
    shapes: dict[str, tuple[int, ...]] = {name: (steps, size) for name, size in bundle.obs_sizes.items()}
    shapes |= {name: (steps, *size) for name, size in bundle.images.items()}
    read = {} if bundle.instructions is None else {LANGUAGE: (bundle.instructions.size,)}
    taken = {NOISE, ACTIONS, *read} & shapes.keys()
    if taken:
        names = " and ".join((NOISE, ACTIONS, *read))
        raise UserError(f"--onnx: expected observations of other names than {names}, got {taken.pop()!r}")
    shapes |= read
    candidates = (setting.best_of_n,) if setting.best_of_n > 1 else ()
    return shapes | {NOISE: (*candidates, bundle.spec.horizon, bundle.spec.action_size)}


def export_onnx(bundle: PolicyBundle, setting: SampleSetting, out: Path) -> dict[str, Any]:
    """Write the ONNX file `out` and a JSON file of the same name with its metadata.

    Returns the metadata. Raises `UserError` if a package is missing, and `cli.Failed` if onnxruntime cannot run the
    policy or gives other results; nothing is written then.
    """
    require_extra("--onnx", "onnx", "onnx", "onnxruntime")
    import onnx  # here and in `compare`: the extra was just checked

    policy = PhysicalPolicy(bundle, setting).eval()
    shapes = input_shapes(bundle, setting)
    example = _draw(bundle, setting, 2, np.random.default_rng(0))
    with replacing(out) as temporary:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns that it is the older one
            try:
                torch.onnx.export(
                    policy,
                    tuple(torch.from_numpy(example[name]) for name in shapes),
                    str(temporary),
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=list(shapes),
                    output_names=[ACTIONS],
                    dynamic_axes={name: {0: "B"} for name in (*shapes, ACTIONS)},
                )
            except RuntimeError as error:  # also its own errors, which describe the graph at length
                reason = str(error).strip().splitlines()[0]
                raise Failed(f"--onnx: PyTorch cannot export this policy, so nothing was written: {reason}") from error
        model = onnx.load(str(temporary))
        facts = metadata(bundle, setting) | {"largest_difference": compare(bundle, setting, temporary)}
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
        onnx.helper.set_model_props(model, texts)
        onnx.checker.check_model(model)
        onnx.save(model, str(temporary))
    write_json(out.with_suffix(".json"), facts)
    return facts


def compare(bundle: PolicyBundle, setting: SampleSetting, path: Path) -> float:
    """The maximum difference between onnxruntime and `Agent`, as a fraction of the action's scale.

    Inputs are random with the statistics of the training data. Raises `cli.Failed` for a difference above `TOLERANCE`.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    agent, rng, worst, form = Agent(bundle), np.random.default_rng(1), 0.0, bundle.action_form
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for rows in BATCHES:
            inputs = _draw(bundle, setting, rows, rng)
            low_dim = [inputs[name] for name in bundle.obs_sizes]
            steps = bundle.config.obs_steps
            obs_BTO = np.concatenate(low_dim, -1) if low_dim else np.zeros((rows, steps, 0), np.float32)
            images = {name: inputs[name] for name in bundle.images}
            texts = None
            if bundle.instructions is not None:
                known = bundle.instructions
                numbers = rng.integers(0, len(known.texts), rows)
                texts, inputs[LANGUAGE] = tuple(known.texts[k] for k in numbers), known.vectors_KE[numbers]
            expected = _expected(agent, Observation(obs_BTO, images, texts), inputs[NOISE], setting)
            got = session.run([ACTIONS], inputs)[0]
            # Axis-angles of one rotation may differ.
            away = [np.abs(form.encode(got) - form.encode(chunks_BHA)) for chunks_BHA in expected]
            away_B = np.nanmin([(each / bundle.action_normalizer.scale).max((1, 2)) for each in away], axis=0)
            worst = max(worst, float(away_B.max()))
    except (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.NotImplemented,
        errors.RuntimeException,
    ) as e:
        raise Failed(f"--onnx: onnxruntime does not run this policy, so nothing was written: {e}") from None
    if not worst <= TOLERANCE:  # also nan
        raise Failed(
            f"--onnx: onnxruntime differs from the policy by {worst:.1e} of the action's scale, expected at most "
            f"{TOLERANCE:.0e}; nothing was written"
        )
    return worst


def _expected(
    agent: Agent, obs: Observation[np.ndarray], noise: np.ndarray, setting: SampleSetting
) -> list[np.ndarray]:
    """What the file may answer, each (B, H, A): what `agent` does, and candidates that its critic values as much up to
    rounding, of which onnxruntime may choose another one; nan where there are none."""
    if setting.best_of_n == 1:
        return [agent.chunks(obs, noise, setting)]
    chunks_BNHA, scores_BN = agent.candidates(obs, noise, setting)
    best_B1 = scores_BN.max(1, keepdims=True)
    is_best_BN = scores_BN >= best_B1 - TOLERANCE * (1 + np.abs(scores_BN).max(1, keepdims=True))
    allowed = np.where(is_best_BN[..., None, None], chunks_BNHA, np.nan)
    return list(np.moveaxis(allowed, 1, 0))


def _draw(bundle: PolicyBundle, setting: SampleSetting, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random inputs with the statistics of the training data; images are noise."""
    inputs: dict[str, np.ndarray] = {}
    shapes, first = input_shapes(bundle, setting), 0
    for name, shape in shapes.items():
        if name in bundle.images:
            inputs[name] = rng.integers(0, 256, (rows, *shape), np.uint8)
            continue
        inputs[name] = rng.standard_normal((rows, *shape)).astype(np.float32)
        if name in bundle.obs_sizes:
            part = slice(first, first + shape[-1])
            inputs[name] = inputs[name] * bundle.obs_normalizer.scale[part] + bundle.obs_normalizer.offset[part]
            first = part.stop
    return inputs


def metadata(bundle: PolicyBundle, setting: SampleSetting) -> dict[str, Any]:
    """The metadata of the file, as JSON values: `policy_metadata`, and its inputs and outputs."""
    described = policy_metadata(bundle, setting)
    seen, shapes = described["observations"], input_shapes(bundle, setting)
    inputs = {name: {**seen.get(name, {}), "shape": ["B", *shape]} for name, shape in shapes.items()}
    best = setting.best_of_n > 1
    inputs[NOISE] |= {
        "dtype": "float32",
        "meaning": "standard normal numbers times setting.eval_temperature (zeros where that is 0)"
        + ("; of each of the candidates, of which the one that the critic values most is given" if best else ""),
    }
    if bundle.instructions is not None:
        known = bundle.instructions
        inputs[LANGUAGE] |= {"dtype": "float32", "meaning": "the embedding of the instruction, see `embeddings`"}
        described["embeddings"] = dict(zip(known.texts, known.vectors_KE.tolist(), strict=True))
    actions = described["actions"]
    return {
        "format": FORMAT,
        "inputs": inputs,
        "outputs": {ACTIONS: {**actions, "shape": ["B", *actions["shape"]]}},
        **described,
    }
