"""LeRobot's own package, in a process of its own: `python -m tests.lerobot_oracle make FOLDER`, or `act FOLDER ...`.

`make oracles` installs it where only this process looks; its pins contradict ours, and it looks at transformers, whose
version here it does not know. `make` writes a small checkpoint with random weights of each kind in `CASES`; `act` has
checkpoints act on random observations. Both write the observations, the noise of each chunk and LeRobot's actions to
`expected.npz` beside the checkpoint: what `select_action` gives step by step.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ORACLE = Path(sys.prefix) / "oracles" / "lerobot"
IMAGES = Path(sys.prefix) / "oracles" / "images"
needed = pytest.mark.skipif(not (ORACLE.is_dir() and IMAGES.is_dir()), reason="no lerobot package: make oracles")
STATE, ENVIRONMENT, ACTION = "observation.state", "observation.environment_state", "action"
#: Steps of an episode; two chunks and a part of the third.
STEPS = 19
SMALL = {"down_dims": (16, 24, 32), "diffusion_step_embed_dim": 16, "noise_scheduler_type": "DDIM"}
TINY_VQBET = {
    "n_obs_steps": 2, "n_action_pred_token": 2, "action_chunk_size": 3, "crop_shape": (32, 32), "gpt_hidden_dim": 16,
    "gpt_input_dim": 16, "gpt_output_dim": 16, "gpt_n_head": 2, "gpt_n_layer": 1, "vqvae_n_embed": 4,
    "vqvae_embedding_dim": 8, "vqvae_enc_hidden_dim": 8,
}  # fmt: skip
TINY_ACT = {
    "chunk_size": 8, "n_action_steps": 8, "dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "latent_dim": 4,
    "n_encoder_layers": 1, "n_vae_encoder_layers": 1, "pretrained_backbone_weights": None,
}  # fmt: skip
#: What the point mass observes.
_POINT = {STATE: 4, ENVIRONMENT: 2}
_BOTH = {STATE: 3, ENVIRONMENT: 5}
_TOP = {"observation.image": (48, 64)}
_TWO = dict.fromkeys(("observation.images.top", "observation.images.wrist"), (40, 40))
_SEEING = {**SMALL, "num_inference_steps": 2, "spatial_softmax_num_keypoints": 4}
#: Name -> kind of policy, options, low-dimensional inputs -> size, images -> (height, width).
CASES: dict[str, tuple[str, dict[str, Any], dict[str, int], dict[str, tuple[int, int]]]] = {
    "state": ("diffusion", {**SMALL, "num_inference_steps": 25}, _BOTH, {}),
    "ddpm": ("diffusion", {**SMALL, "noise_scheduler_type": "DDPM"}, {ENVIRONMENT: 5, STATE: 3}, {}),
    "few steps": ("diffusion", {**SMALL, "num_inference_steps": 10, "prediction_type": "sample"}, _BOTH, {}),
    "mean_std": (
        "diffusion",
        {
            **SMALL, "clip_sample": False, "use_film_scale_modulation": False, "n_obs_steps": 3, "n_action_steps": 6,
            "down_dims": (32, 16), "kernel_size": 3, "num_train_timesteps": 20, "prediction_type": "sample",
            "normalization_mapping": {"STATE": "MEAN_STD", "ENV": "MIN_MAX", "ACTION": "MEAN_STD"},
        },
        _BOTH,
        {},
    ),
    "image": ("diffusion", {**_SEEING, "num_inference_steps": 5, "crop_shape": (44, 60)}, {STATE: 3}, _TOP),
    "cameras": ("diffusion", _SEEING, {STATE: 3, ENVIRONMENT: 2}, _TWO),
    "separate": (
        "diffusion",
        {**_SEEING, "use_group_norm": False, "use_separate_rgb_encoder_per_camera": True},
        {STATE: 3},
        _TWO,
    ),
    "act": ("act", TINY_ACT, _POINT, {}),
    "act ensemble": ("act", {**TINY_ACT, "n_action_steps": 1, "temporal_ensemble_coeff": 0.01}, _POINT, {}),
    "vqbet": ("vqbet", TINY_VQBET, {STATE: 3}, {"observation.image": (32, 32)}),
}  # fmt: skip


def run(*words: str | Path) -> None:
    """Run this module in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.lerobot_oracle", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def prepare() -> None:
    """Make `import lerobot` possible in this process."""
    sys.modules["transformers"] = None  # type: ignore[assignment]
    sys.path[:0] = [str(ORACLE)]
    sys.path.append(str(IMAGES))
    from tests.helpers import _operators

    globals()["kept"] = _operators()


def make(folder: Path) -> None:
    import torch
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

    for number, (name, (kind, options, vectors, images)) in enumerate(CASES.items()):
        torch.manual_seed(number)
        types = {STATE: FeatureType.STATE, ENVIRONMENT: FeatureType.ENV}
        inputs = {key: PolicyFeature(types[key], (size,)) for key, size in vectors.items()}
        inputs |= {key: PolicyFeature(FeatureType.VISUAL, (3, *size)) for key, size in images.items()}
        outputs = {ACTION: PolicyFeature(FeatureType.ACTION, (2,))}
        options = dict(options)
        if "normalization_mapping" in options:
            given = options["normalization_mapping"]
            options["normalization_mapping"] = {key: NormalizationMode(value) for key, value in given.items()}
        config = make_policy_config(
            kind, input_features=inputs, output_features=outputs, device="cpu", push_to_hub=False, **options
        )
        policy = get_policy_class(kind)(config)
        with torch.no_grad():
            for parameter in policy.parameters():  # also of norms and biases
                parameter.add_(0.02 * torch.randn_like(parameter))
        before, after = make_pre_post_processors(config, dataset_stats=statistics(inputs | outputs))
        for part in (policy, before, after):
            part.save_pretrained(folder / name)
        act(folder / name)


def statistics(features: Any) -> Any:
    import torch

    found = {}
    for key, feature in features.items():
        low, width = torch.randn(feature.shape[:1]), torch.rand(feature.shape[:1]) + 0.5
        found[key] = {"min": low, "max": low + 2 * width, "mean": low + width, "std": 0.7 * width}
        if len(feature.shape) == 3:
            mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
            found[key] = {"mean": mean.view(3, 1, 1), "std": std.view(3, 1, 1)}
    return found


def act(folder: Path) -> None:
    """Write `expected.npz`."""
    import numpy as np
    import torch
    from diffusers import DDIMScheduler
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    rng = np.random.default_rng(0)
    if config.type == "diffusion" and config.noise_scheduler_type == "DDPM":
        inner = policy.diffusion
        inner.noise_scheduler = DDIMScheduler.from_config(inner.noise_scheduler.config)
    found: dict[str, Any] = {}
    for key, feature in config.input_features.items():
        if len(feature.shape) == 3:
            found[key] = rng.integers(0, 256, (STEPS, *feature.shape[1:], 3), np.uint8)
        else:
            found[key] = rng.normal(size=(STEPS, *feature.shape)).astype(np.float32)
    shape = (STEPS, getattr(config, "horizon", 1), config.action_feature.shape[0])
    found["noise"] = rng.normal(size=shape).astype(np.float32)
    actions = []
    policy.reset()
    for step in range(STEPS):
        batch = {key: torch.from_numpy(found[key][step]) for key in config.input_features}
        batch = {k: v.permute(2, 0, 1) / 255 if v.dtype == torch.uint8 else v for k, v in batch.items()}
        more = {"noise": torch.from_numpy(found["noise"][step])[None]} if config.type == "diffusion" else {}
        actions.append(after(policy.select_action(before(batch), **more))[0].numpy())
    np.savez(folder / "expected.npz", actions=np.stack(actions), **found)


if __name__ == "__main__":
    prepare()
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        for one in sys.argv[2:]:
            act(Path(one))
