"""Our diffusion U-Net as a checkpoint of LeRobot's diffusion policy, as LeRobot 0.4 writes one.

What LeRobot's policy cannot do is refused with the option that would have to be another one. Normalisation becomes the
statistics of its processors: mean and std, and for actions that are scaled to [-1, 1] min and max.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from raybc.bundle import PolicyBundle
from raybc.config.encoders import ImageOptions, ResNetOptions
from raybc.files import replacing
from raybc.lerobot.files import (
    ACTION,
    CONFIG,
    ENVIRONMENT_STATE,
    POSTPROCESSOR,
    PREPROCESSOR,
    STATE,
    WEIGHTS,
)
from raybc.lerobot.layout import Layout, layout, parsed
from raybc.lerobot.weights import Shapes, to_theirs
from raybc.policies.encoders.resnet import MEAN, SPREAD
from raybc.types import SampleSetting, UserError

#: Groups of GroupNorm in LeRobot's last block, whatever its configuration says.
GROUPS = 8
EPS = 1e-8
IMAGES = "observation.images."


def export_checkpoint(
    bundle: PolicyBundle, setting: SampleSetting, out: Path, observations: Sequence[str] = ()
) -> tuple[str, ...]:
    """Write the folder `out`; what to know about it.

    observations: FEATURE=PART+PART+..., see `raybc.lerobot.layout`, for `observation.state` and
    `observation.environment_state`. Raises `UserError` for what LeRobot's policy cannot do; nothing is written then.
    """
    _check(bundle)
    if setting.best_of_n > 1:
        raise UserError(
            f"--lerobot: best_of_n: expected 1, since LeRobot's diffusion policy has no critic to choose by, got "
            f"{setting.best_of_n}; export the policy without its critic with --best_of_n 1"
        )
    places = _layout(bundle, observations)
    config = _config(bundle, setting, places)
    options: Any = bundle.config.policy
    encoder: Any = bundle.config.encoder
    shapes = Shapes(
        channels=options.channels,
        action_size=bundle.action_size,
        time_size=options.unet_time_size,
        obs_size=sum(bundle.obs_sizes.values()),
        obs_steps=bundle.config.obs_steps,
        keypoints=encoder.image_keypoints if bundle.images else 0,
        separate=config["use_separate_rgb_encoder_per_camera"],
    )
    maps = {name: _map_size(bundle, bundle.images[own]) for name, own in places.images.items()}
    weights = to_theirs(bundle.weights, shapes, places, maps)
    statistics = _statistics(bundle, places)
    with replacing(out) as temporary:
        temporary.mkdir(parents=True)
        _write(temporary / CONFIG, config)
        save_file(weights, temporary / WEIGHTS)
        features = {**config["input_features"], **config["output_features"]}
        for name, steps in _processors(config, features).items():
            for number, step in enumerate(steps):
                if "features" in step["config"]:
                    step["state_file"] = (
                        f"{name.removesuffix('.json')}_step_{number}_{step['registry_name']}.safetensors"
                    )
                    save_file(statistics, temporary / step["state_file"])
            _write(temporary / name, {"name": name.removesuffix(".json"), "steps": steps})
    notes = []
    if setting.eval_temperature != 1:
        notes.append(
            f"LeRobot starts from noise of scale 1; this policy was used with eval_temperature "
            f"{setting.eval_temperature:g}"
        )
    if setting.temporal_ensemble >= 0:
        notes.append("LeRobot's diffusion policy has no ensembling (temporal_ensemble)")
    if not bundle.config.critic.is_none:
        notes.append("LeRobot's diffusion policy has no critic: that of this policy is left out")
    return tuple(notes)


def _check(bundle: PolicyBundle) -> None:
    """Raise `UserError` for the first thing that LeRobot's policy cannot do."""
    config = bundle.config
    options: Any = config.policy
    what = f"{options.kind} with objective {getattr(options, 'objective', 'none')}"
    if options.kind != "flow_unet" or options.objective != "diffusion":
        raise UserError(
            f"--lerobot: expected policy flow_unet with objective diffusion, which LeRobot has as diffusion, "
            f"got {what}: no policy of LeRobot's computes that; use --onnx"
        )

    def need(name: str, expected: Any, got: Any, why: str) -> None:
        if got != expected:
            raise UserError(
                f"--lerobot: {name}: expected {expected}, since {why}, got {got}; train with --{name} {expected}"
            )

    steps = config.obs_steps
    if options.diffusion_steps != 1000:  # where the two are the same
        need("diffusion_time", "index", options.diffusion_time, "LeRobot's network sees the level itself")
    need("past_actions", steps - 1, config.past_actions, "LeRobot's chunks begin at the first observation")
    need("unet_groups", GROUPS, options.unet_groups, "LeRobot's last block has as many")
    divisor = 2 ** len(options.channels)
    if config.chunk_length % divisor:
        above = -(-config.chunk_length // divisor) * divisor
        need("horizon_length", above, config.chunk_length, f"LeRobot takes multiples of {divisor} alone")
    need("action_rotation", "as_recorded", config.action_rotation, "LeRobot's actions are those of the environment")
    need("action_units", "as_recorded", config.action_units, "LeRobot's actions are those of the environment")
    if bundle.instructions is not None:
        raise UserError(
            "--lerobot: expected a policy without instructions, which LeRobot's diffusion policy cannot read"
        )
    if bundle.images:
        encoder = config.encoder
        if not isinstance(encoder, ResNetOptions):
            raise UserError(f"--lerobot: encoder: expected resnet18 or resnet34, as LeRobot has, got {encoder.kind}")
        need("image_pool", "spatial_softmax", encoder.image_pool, "LeRobot's encoder has it")
        need("image_head", "relu", encoder.image_head, "LeRobot's encoder has it")
        if len(set(bundle.images.values())) > 1:
            sizes = ", ".join(f"{name} {size}" for name, size in bundle.images.items())
            raise UserError(f"--lerobot: expected images of one size, as LeRobot needs them, got {sizes}")
        _check_crop(encoder, next(iter(bundle.images.values())))


def _check_crop(encoder: ImageOptions, image: tuple[int, int, int]) -> None:
    for size, crop in zip(image, encoder.crop or image, strict=False):
        if round((size - crop) / 2) != (size - crop) // 2:
            raise UserError(
                f"--lerobot: image_crop: expected a centre that LeRobot rounds alike, got {encoder.image_crop} of "
                f"images of {image[0]} x {image[1]}"
            )


def _layout(bundle: PolicyBundle, observations: Sequence[str]) -> Layout:
    chosen = parsed(observations, (STATE, ENVIRONMENT_STATE))
    known = ", ".join(f"{name} ({size})" for name, size in bundle.obs_sizes.items())
    if not chosen:
        if not bundle.images or not bundle.obs_sizes:
            raise UserError(
                f"--observations: expected what {STATE} and {ENVIRONMENT_STATE} are made of, since LeRobot's policy "
                "needs the former, and the latter where there are no images; this policy sees "
                f"{known or 'images alone'}; e.g. --observations {STATE}=KEY {ENVIRONMENT_STATE}=KEY+KEY:0:3"
            )
        chosen = {STATE: "+".join(bundle.obs_sizes)}
    needed = (STATE,) if bundle.images else (STATE, ENVIRONMENT_STATE)
    for name in needed:
        if name not in chosen:
            raise UserError(f"--observations: expected also {name}=..., made of {known}, which LeRobot's policy needs")
    return layout(chosen, {IMAGES + name: name for name in bundle.images}, bundle.obs_sizes)


def _config(bundle: PolicyBundle, setting: SampleSetting, places: Layout) -> dict[str, Any]:
    config = bundle.config
    options: Any = config.policy
    encoder: Any = config.encoder
    types = {STATE: "STATE", ENVIRONMENT_STATE: "ENV"}
    inputs = {
        name: {"type": types[name], "shape": [len(places.vectors[name])]} for name in types if name in places.vectors
    }
    for name, own in places.images.items():
        height, width, channels = bundle.images[own]
        inputs[name] = {"type": "VISUAL", "shape": [channels, height, width]}
    scaled = config.scales_actions_to_one
    found: dict[str, Any] = {
        "type": "diffusion",
        "n_obs_steps": config.obs_steps,
        "input_features": inputs,
        "output_features": {ACTION: {"type": "ACTION", "shape": [bundle.action_size]}},
        "device": "cpu",
        "use_amp": False,
        "push_to_hub": False,
        "horizon": config.chunk_length,
        "n_action_steps": setting.steps_between(config.ahead_length),
        "normalization_mapping": {
            "VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ENV": "MEAN_STD", "ACTION": "MIN_MAX" if scaled else "MEAN_STD",
        },
        "down_dims": list(options.channels),
        "kernel_size": options.unet_kernel,
        "n_groups": options.unet_groups,
        "diffusion_step_embed_dim": options.unet_time_size,
        "use_film_scale_modulation": True,
        "noise_scheduler_type": "DDIM",
        "num_train_timesteps": options.diffusion_steps,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": options.diffusion_prediction,
        "clip_sample": scaled,
        "clip_sample_range": 1.0,
        "num_inference_steps": setting.flow_steps,
        "do_mask_loss_for_padding": config.pad_loss == "mask",
        "optimizer_lr": config.lr,
        "optimizer_betas": [config.adam_beta1, config.adam_beta2],
        "optimizer_weight_decay": config.weight_decay,
        "use_separate_rgb_encoder_per_camera": False,
    }  # fmt: skip
    if bundle.images:
        found |= {
            "vision_backbone": encoder.kind,
            "crop_shape": list(encoder.crop) if encoder.crop else None,
            "pretrained_backbone_weights": None,
            "use_group_norm": encoder.image_norm == "group",
            "spatial_softmax_num_keypoints": encoder.image_keypoints,
            "use_separate_rgb_encoder_per_camera": len(bundle.images) > 1 and not encoder.image_shared,
        }
    return found


def _map_size(bundle: PolicyBundle, image: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of the feature maps of a ResNet: a 32nd of the image, rounded up."""
    encoder: Any = bundle.config.encoder
    height, width = encoder.crop or image[:2]
    return -(-height // 32), -(-width // 32)


def _statistics(bundle: PolicyBundle, places: Layout) -> dict[str, torch.Tensor]:
    """FEATURE.STATISTIC -> numbers, which give our normalisation in LeRobot's formulas."""
    found: dict[str, np.ndarray] = {}
    offset, scale = bundle.obs_normalizer.offset.astype(np.float64), bundle.obs_normalizer.scale.astype(np.float64)
    for name, where in places.vectors.items():
        found[f"{name}.mean"] = offset[list(where)]
        found[f"{name}.std"] = scale[list(where)] - EPS
    for name in places.images:
        found[f"{name}.mean"] = np.array(MEAN).reshape(3, 1, 1)
        found[f"{name}.std"] = np.array(SPREAD).reshape(3, 1, 1)
    of_actions = bundle.action_normalizer
    middle, half = of_actions.offset.astype(np.float64), of_actions.scale.astype(np.float64)
    found |= {f"{ACTION}.mean": middle, f"{ACTION}.std": half}
    found |= {f"{ACTION}.min": middle - half, f"{ACTION}.max": middle + half}
    return {name: torch.from_numpy(np.ascontiguousarray(values)).float() for name, values in found.items()}


def _processors(config: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    def normalize(of: Mapping[str, Any]) -> dict[str, Any]:
        return {"eps": EPS, "features": of, "norm_map": config["normalization_mapping"]}

    device = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    return {
        PREPROCESSOR: [
            {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
            {"registry_name": "to_batch_processor", "config": {}},
            device,
            {"registry_name": "normalizer_processor", "config": normalize(features)},
        ],
        POSTPROCESSOR: [
            {"registry_name": "unnormalizer_processor", "config": normalize(config["output_features"])},
            dict(device),
        ],
    }


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=4), encoding="utf-8")
