"""Description of a policy's inputs and outputs as JSON values, for ONNX files, servers and model cards."""

from __future__ import annotations

from typing import Any

from raybc._version import __version__
from raybc.bundle import PolicyBundle
from raybc.language.table import Instructions
from raybc.registry import get_task, parse_env_name
from raybc.types import SampleSetting, UserError

#: What to know about actions whose rotations are learned as rotation_6d.
ROTATION_6D = "axis-angle; learned as rotation_6d, whose statistics these are: each arm's position, rotation, gripper"


def policy_metadata(bundle: PolicyBundle, setting: SampleSetting) -> dict[str, Any]:
    """Describe a policy as JSON values.

    observations: name -> shape with T steps, dtype and meaning. actions: shape of a chunk, and the statistics of the
    training data. fps: control steps per second (None if the task is not installed). Also run_id and sample setting.
    """
    steps = bundle.config.obs_steps
    when = f"; the last {steps} steps, the oldest first" if steps > 1 else ""
    observations = {
        name: {"shape": [steps, size], "dtype": "float32", "meaning": f"physical units of the training data{when}"}
        for name, size in bundle.obs_sizes.items()
    } | {
        name: {"shape": [steps, *size], "dtype": "uint8", "meaning": f"image, height x width x channels{when}"}
        for name, size in bundle.images.items()
    }
    return {
        "raybc": __version__,
        "run_id": bundle.run_id,
        "step": bundle.step,
        "env_name": bundle.config.env_name,
        "obs_steps": steps,
        "observations": observations,
        **(_language(bundle.instructions) if bundle.instructions is not None else {}),
        "actions": {
            "shape": [bundle.spec.ahead, bundle.action_size],
            "dtype": "float32",
            "meaning": "the actions of the next steps, physical units of the training data, not clipped",
            "offset": bundle.action_normalizer.offset.tolist(),
            "scale": bundle.action_normalizer.scale.tolist(),
            **({"rotation": ROTATION_6D} if bundle.action_form.arms else {}),
        },
        "setting": setting.to_plain(),
        "fps": control_rate(bundle),
        "environment": bundle.environment,
        "controller": bundle.data_env.get("env_kwargs", {}).get("controller_configs"),
        "data_fingerprint": bundle.data_fingerprint,
    }


def _language(instructions: Instructions) -> dict[str, Any]:
    return {
        "language": {
            "encoder": instructions.config.kind,
            "size": instructions.size,
            "instructions": list(instructions.texts),
            "meaning": "what the robot should do, in words: one of these"
            + (", or another one where the encoder is installed" if instructions.config.kind != "one_hot" else ""),
        }
    }


def control_rate(bundle: PolicyBundle) -> float | None:
    """Control steps per second; None if the task is not installed."""
    try:
        return float(get_task(parse_env_name(bundle.config.env_name).task).fps)
    except UserError:
        return None
