"""LeRobot's diffusion policy as one of our bundles: the same U-Net, the same encoder of images, the same actions.

What has no counterpart here is refused with its name in LeRobot's configuration; LeRobot itself can still act
(`raybc rollout lerobot:FOLDER`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.config.data import NO_ENVIRONMENT
from raybc.data.normalize import Normalizer
from raybc.files import read_json
from raybc.lerobot.checkpoint import Checkpoint, Processing, read_checkpoint
from raybc.lerobot.files import ACTION, CONFIG, ENVIRONMENT_STATE, STATE, WEIGHTS, own_name
from raybc.lerobot.layout import Layout, layout, parsed
from raybc.lerobot.weights import Shapes, to_ours
from raybc.policies.build import build_policy
from raybc.policies.encoders.resnet import BLOCKS, MEAN, SPREAD
from raybc.registry import get_task, parse_env_name
from raybc.types import UserError

KIND = "diffusion"
#: Option of LeRobot's -> the values that have a counterpart here.
NEEDED: Mapping[str, tuple[Any, ...]] = {
    "beta_schedule": ("squaredcos_cap_v2",),
    "n_groups": (8,),
    "clip_sample_range": (1.0, 1),
    "prediction_type": ("epsilon", "sample"),
    "noise_scheduler_type": ("DDPM", "DDIM"),
    "resize_shape": (None,),
    "crop_ratio": (1.0, 1),
    "use_peft": (False,),
}
#: LeRobot's defaults of what a configuration may leave out.
DEFAULTS: Mapping[str, Any] = {
    "n_obs_steps": 2, "horizon": 16, "n_action_steps": 8, "down_dims": [512, 1024, 2048], "kernel_size": 5,
    "n_groups": 8, "diffusion_step_embed_dim": 128, "num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "epsilon", "clip_sample": True, "clip_sample_range": 1.0, "num_inference_steps": None,
    "noise_scheduler_type": "DDPM", "vision_backbone": "resnet18", "resize_shape": None, "crop_ratio": 1.0,
    "crop_shape": None, "use_group_norm": True, "spatial_softmax_num_keypoints": 32,
    "use_separate_rgb_encoder_per_camera": False, "do_mask_loss_for_padding": False, "drop_n_last_frames": 0,
    "optimizer_lr": 1e-4, "optimizer_betas": [0.95, 0.999], "optimizer_weight_decay": 1e-6, "scheduler_name": "cosine",
    "scheduler_warmup_steps": 500, "use_peft": False,
}  # fmt: skip
#: `dataset` where the checkpoint does not tell it.
UNKNOWN = "unknown"
#: Smallest scale of an action that never changes.
TINY = 1e-12


@dataclass(frozen=True)
class Imported:
    """A bundle, and what to know about it."""

    bundle: PolicyBundle
    notes: tuple[str, ...]


def import_checkpoint(folder: Path, env_name: str = NO_ENVIRONMENT, observations: Sequence[str] = ()) -> Imported:
    """The bundle of a checkpoint.

    Args:
        folder: of the checkpoint, or of a training of LeRobot's.
        env_name: the task that it is for.
        observations: FEATURE=PART+PART+..., see `raybc.lerobot.layout`; inputs that are not named have our usual name.

    Raises `UserError` for a checkpoint that is damaged, and for what has no counterpart here.
    """
    found = read_checkpoint(folder)
    options = {**DEFAULTS, **found.config}
    _check(found, options)
    places, obs_sizes = _layout(found, env_name, observations)
    images = {places.images[name]: size for name, size in found.images.items()}
    config = _config(found, options, env_name)
    obs, notes = _obs_normalizer(found, places, sum(obs_sizes.values()))
    actions, more = _action_normalizer(found)
    notes += more
    if options["noise_scheduler_type"] == "DDPM":
        notes.append(
            "LeRobot samples this policy with DDPM, which adds noise at each step; here it is sampled with DDIM, as "
            "LeRobot does with noise_scheduler_type DDIM"
        )
    has_images = bool(images)
    shapes = Shapes(
        channels=tuple(options["down_dims"]),
        action_size=found.action.shape[0],
        time_size=options["diffusion_step_embed_dim"],
        obs_size=sum(obs_sizes.values()),
        obs_steps=options["n_obs_steps"],
        keypoints=options["spatial_softmax_num_keypoints"] if has_images else 0,
        separate=options["use_separate_rgb_encoder_per_camera"] and has_images,
    )
    bundle = PolicyBundle(
        config=config,
        step=_step(found),
        obs_sizes=obs_sizes,
        action_size=shapes.action_size,
        obs_normalizer=obs,
        action_normalizer=actions,
        weights={},
        data_fingerprint=f"lerobot-{hashlib.sha256((found.folder / WEIGHTS).read_bytes()).hexdigest()[:16]}",
        environment={},
        images=images,
    )
    where = found.folder / WEIGHTS
    try:
        weights = to_ours(found.weights, shapes, places)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    expected = {k: tuple(v.shape) for k, v in build_policy(config, bundle.spec, 1).state_dict().items()}
    for name in sorted(expected.keys() | weights.keys()):
        got = tuple(weights[name].shape) if name in weights else None
        if expected.get(name) != got:
            raise UserError(f"{where}: does not fit {CONFIG}: {name}: expected {expected.get(name)}, got {got}")
    return Imported(PolicyBundle(**{**vars(bundle), "weights": weights}), tuple(notes))


def _check(found: Checkpoint, options: Mapping[str, Any]) -> None:
    """Raise `UserError` for what has no counterpart here."""
    path = found.folder / CONFIG

    def refuse(name: str, expected: str, got: Any) -> None:
        raise UserError(
            f"{path}: {name}: expected {expected}, which raybc's own network has, got {got!r}; LeRobot itself can act: "
            f"raybc rollout lerobot:{found.folder}"
        )

    if found.kind != KIND:
        raise UserError(
            f"{path}: type: expected {KIND}, since raybc has no network with the architecture of {found.kind}; LeRobot "
            f"itself can act: raybc rollout lerobot:{found.folder}"
        )
    for name, values in NEEDED.items():
        if options[name] not in values:
            refuse(name, " or ".join(map(str, values)), options[name])
    by_type = {one.type: name for name, one in found.inputs.items()}
    for kind, name in by_type.items():
        expected = {"STATE": STATE, "ENV": ENVIRONMENT_STATE}.get(kind)
        if kind != "VISUAL" and name != expected:
            refuse("input_features", f"{STATE}, {ENVIRONMENT_STATE} and images", name)
    if STATE not in found.inputs:
        refuse("input_features", f"{STATE} among them", ", ".join(found.inputs))
    mode = found.after.modes.get("ACTION", "IDENTITY")
    if options["clip_sample"] != (mode == "MIN_MAX"):
        refuse("clip_sample", f"{mode == 'MIN_MAX'} with normalization {mode} of actions", options["clip_sample"])
    if found.images:
        _check_images(found, options, refuse)


def _check_images(found: Checkpoint, options: Mapping[str, Any], refuse: Any) -> None:
    if options["vision_backbone"] not in BLOCKS:
        refuse("vision_backbone", " or ".join(BLOCKS), options["vision_backbone"])
    mode = found.before.modes.get("VISUAL", "IDENTITY")
    if mode != "MEAN_STD":
        refuse("normalization_mapping of VISUAL", "MEAN_STD with ImageNet's statistics", mode)
    for name, (height, width, channels) in found.images.items():
        given = found.before.statistics.get(name, {})
        for statistic, expected in (("mean", MEAN), ("std", SPREAD)):
            values = given.get(statistic, np.zeros(0)).ravel()
            if values.shape != (3,) or np.abs(values - expected).max() > 1e-4 or channels != len(MEAN):
                refuse(f"statistics of {name}: {statistic}", f"ImageNet's, {expected}", values.round(4).tolist())
        for size, crop in zip((height, width), options["crop_shape"] or (height, width), strict=True):
            if crop > size or round((size - crop) / 2) != (size - crop) // 2:
                refuse(
                    "crop_shape", f"a centre that rounds alike in images of {height} x {width}", options["crop_shape"]
                )


def _layout(found: Checkpoint, env_name: str, observations: Sequence[str]) -> tuple[Layout, dict[str, int]]:
    """Where the inputs are among our observations, and the sizes of these, in order."""
    chosen = parsed(observations, list(found.inputs))
    names = {name: chosen.get(name, own_name(name)) for name in found.inputs}
    images = {name: names[name] for name in found.images}
    if env_name == NO_ENVIRONMENT:
        sizes = {}
        for name, size in found.vectors.items():
            if "+" in names[name] or ":" in names[name]:
                raise UserError(f"--observations: {name}: expected --env_name, which knows the sizes of {names[name]}")
            sizes[names[name]] = size
    else:
        sizes = _of_task(found, env_name, names, images)
    places = layout({name: names[name] for name in found.vectors}, images, sizes)
    for name, size in found.vectors.items():
        if len(places.vectors[name]) != size:
            raise UserError(
                f"{name}: expected {size} numbers, as the checkpoint has, got {len(places.vectors[name])} of "
                f"{names[name]}; say what it is made of: --observations {name}=..."
            )
    return places, sizes


def _of_task(found: Checkpoint, env_name: str, names: Mapping[str, str], images: Mapping[str, str]) -> dict[str, int]:
    """The sizes of the observations of a task that inputs are made of. Raises `UserError` for others."""
    task = get_task(parse_env_name(env_name).task)
    env = task.make(None)
    try:
        spaces = dict(env.observation_space.items())
        actions = int(np.prod(env.action_space.shape or (0,)))
    finally:
        env.close()
    if actions != found.action.shape[0]:
        raise UserError(f"{env_name}: has actions of {actions} numbers, and this policy gives {found.action.shape[0]}")
    sizes = {key: int(np.prod(spaces[key].shape or (0,))) for key in task.obs_keys if key not in task.images}
    used = dict[str, int]()
    for name, text in names.items():
        if name in images:
            shape = spaces[text].shape if text in task.images else None
            if shape != found.images[name]:
                what = f"{', '.join(task.images) or 'no images'}" if shape is None else f"{text} of {shape}"
                raise UserError(
                    f"{name}: expected an image of {found.images[name]}, and {env_name} observes {what}; say which one "
                    f"it is: --observations {name}=..."
                )
            continue
        keys = [part.partition(":")[0] for part in text.split("+")]
        for key in keys:
            if key not in sizes:
                known = ", ".join(f"{own} ({size})" for own, size in sizes.items())
                raise UserError(
                    f"{name}: expected the observation {key!r} of {env_name}, which observes {known}; say what it is "
                    f"made of: --observations {name}=..."
                )
            used[key] = sizes[key]
    return {key: used[key] for key in sizes if key in used}


def _obs_normalizer(found: Checkpoint, places: Layout, size: int) -> tuple[Normalizer, list[str]]:
    offset, scale, notes = np.zeros(size), np.ones(size), list[str]()
    for name, where in places.vectors.items():
        own_offset, own_scale, note = _affine(found.before, name, found.inputs[name].type, acting=False)
        offset[list(where)], scale[list(where)] = own_offset, own_scale
        notes += note
    return Normalizer(offset.astype(np.float32), scale.astype(np.float32)), notes


def _action_normalizer(found: Checkpoint) -> tuple[Normalizer, list[str]]:
    offset, scale, notes = _affine(found.after, ACTION, "ACTION", acting=True)
    size = found.action.shape
    offset, scale = np.broadcast_to(offset, size), np.maximum(np.broadcast_to(scale, size), TINY)
    return Normalizer(offset.astype(np.float32), scale.astype(np.float32)), notes


def _affine(how: Processing, name: str, kind: str, acting: bool) -> tuple[Any, Any, list[str]]:
    """Offset and scale of LeRobot's normalisation of one input.

    acting: whether normalised values are turned back, where LeRobot leaves out the `eps` beside standard deviations.
    """
    mode = how.modes.get(kind, "IDENTITY")
    if mode == "IDENTITY":
        return 0.0, 1.0, []
    given = how.statistics.get(name)
    if given is None:
        return 0.0, 1.0, [f"{name}: the checkpoint has no statistics of it, so it is not normalised, as in LeRobot"]
    needed = {"MEAN_STD": ("mean", "std"), "MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99")}.get(mode)
    needed = ("q10", "q90") if mode == "QUANTILE10" else needed
    if needed is None or not set(needed) <= given.keys():
        raise UserError(f"normalization of {name}: expected statistics for {mode}, got {', '.join(sorted(given))}")
    low, high = (given[key] for key in needed)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UserError(f"normalization of {name}: expected finite statistics, got nan or inf in {' or '.join(needed)}")
    if mode == "MEAN_STD":
        return low, high + (0 if acting else how.eps), []
    constant = high == low
    if acting:  # whatever the network gives, the action is the constant
        return np.where(constant, low, (low + high) / 2), np.where(constant, TINY, (high - low) / 2), []
    # LeRobot maps a constant to -1. (And what differs from it far away; here it keeps its unit.)
    return np.where(constant, low + 1, (low + high) / 2), np.where(constant, 1.0, (high - low) / 2), []


def _config(found: Checkpoint, options: Mapping[str, Any], env_name: str) -> RunConfig:
    """The recipe, as far as the checkpoint tells it."""
    steps, horizon = options["n_obs_steps"], options["horizon"]
    modes = {"MIN_MAX": "min_max", "MEAN_STD": "mean_std", "IDENTITY": "identity"}
    values: dict[str, Any] = {
        "env_name": env_name,
        "policy": "flow_unet",
        "objective": "diffusion",
        "unet_channels": ",".join(map(str, options["down_dims"])),
        "unet_kernel": options["kernel_size"],
        "unet_groups": options["n_groups"],
        "unet_time_size": options["diffusion_step_embed_dim"],
        "diffusion_steps": options["num_train_timesteps"],
        "diffusion_prediction": options["prediction_type"],
        "diffusion_time": "index",
        "obs_steps": steps,
        "action_chunking": True,
        "horizon_length": horizon,
        "past_actions": steps - 1,
        "pad_after": max(0, horizon - steps - options["drop_n_last_frames"]),
        "pad_loss": "mask" if options["do_mask_loss_for_padding"] else "repeat",
        "execute_steps": options["n_action_steps"],
        "flow_steps": options["num_inference_steps"] or options["num_train_timesteps"],
        "eval_temperature": 1.0,
        "normalization": modes.get(found.after.modes.get("ACTION", "IDENTITY"), "quantile"),
        "optimizer": "adam",
        "lr": options["optimizer_lr"],
        "adam_beta1": options["optimizer_betas"][0],
        "adam_beta2": options["optimizer_betas"][1],
        "weight_decay": options["optimizer_weight_decay"],
    }
    if options["scheduler_name"] == "cosine":
        values |= {"lr_schedule": "cosine", "warmup_steps": options["scheduler_warmup_steps"], "min_lr": 0.0}
    values |= _of_training(found.folder / "train_config.json")
    if found.images:
        values |= {
            "encoder": options["vision_backbone"],
            "image_norm": "group" if options["use_group_norm"] else "batch",
            "image_keypoints": options["spatial_softmax_num_keypoints"],
            "image_head": "relu",
            "image_shared": not options["use_separate_rgb_encoder_per_camera"] and len(found.images) > 1,
            "image_crop": ",".join(map(str, options["crop_shape"])) if options["crop_shape"] else "",
        }
    try:
        config = RunConfig.of(**values)
        config.validate("import")
    except UserError as error:
        raise UserError(f"{found.folder / CONFIG}: {error}") from None
    return config


def _of_training(path: Path) -> dict[str, Any]:
    """Data, seed, steps and batch size, where the checkpoint tells them."""
    saved = read_json(path) if path.is_file() else {}
    named = {"seed": "seed", "steps": "training_steps", "batch_size": "batch_size"}
    if not isinstance(saved, dict):
        saved = {}
    data = saved.get("dataset")
    found: dict[str, Any] = {"dataset": str(data.get("repo_id") or UNKNOWN) if isinstance(data, dict) else UNKNOWN}
    return found | {
        own: saved[name] for name, own in named.items() if type(saved.get(name)) is int and saved[name] >= 0
    }


def _step(found: Checkpoint) -> int:
    """Gradient steps, by the name of the folder: LeRobot writes checkpoints/STEP/pretrained_model."""
    name = found.folder.resolve().parent.name
    return int(name) if name.isdecimal() else 0
