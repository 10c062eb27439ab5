"""How a training run uses its sampling plan, and what the run folder records about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from raybc.config import RunConfig
from raybc.data.plan.exposure import Exposure, exposure, plan_lr_scale
from raybc.data.plan.files import load_plan, save_plan
from raybc.data.plan.plan import SamplingPlan
from raybc.data.plan.sampler import IndexSampler, plan_sampler
from raybc.files import expanded, write_json
from raybc.run_folder import TrainingFolder
from raybc.types import UserError


def plan_of(config: RunConfig) -> SamplingPlan | None:
    """The sampling plan of a recipe, or None.

    Raises `UserError` if the file is not readable, or if it is not the plan `sampling_plan_sha256`.
    """
    if not config.sampling_plan_path:
        return None
    plan = load_plan(expanded(config.sampling_plan_path, "sampling_plan_path"))
    if config.sampling_plan_sha256 not in ("", plan.plan_sha256):
        raise UserError(
            f"{config.sampling_plan_path}: expected the plan {config.sampling_plan_sha256}, got {plan.plan_sha256}: "
            "the plan was rebuilt with other options; start a new run, or rebuild the plan with its old options"
        )
    return plan


def sampler_of(config: RunConfig, plan: SamplingPlan | None) -> IndexSampler | None:
    """The sampler of the plan, with the recipe's overrides; None: every window is drawn equally often."""
    if plan is None:
        return None
    seed = config.sampler_seed_override
    return plan_sampler(plan, seed if seed >= 0 else None, replaces(config, plan))


def replaces(config: RunConfig, plan: SamplingPlan) -> bool:
    """Whether the run draws with replacement."""
    override = config.sampler_replacement_override
    return plan.config.replacement if override == "plan" else override == "True"


def exposure_of(config: RunConfig, plan: SamplingPlan) -> Exposure:
    """How often the run draws the plan's windows."""
    return exposure(plan.weights_P, config.training_steps * config.batch_size, replaces(config, plan))


def lr_scale_of(config: RunConfig, plan: SamplingPlan | None) -> float:
    """Factor on the learning rates; 1 without `plan_aware_lr_scale`."""
    if plan is None or not config.plan_aware_lr_scale:
        return 1.0
    limits = (config.plan_target_effective_repeat, config.plan_lr_scale_power, config.plan_lr_min_scale)
    return plan_lr_scale(exposure_of(config, plan).repeat_eff, *limits)


def note_plan(config: RunConfig, folders: Sequence[Path]) -> None:
    """Write a summary and a copy of the plan to each run folder; no effect without a plan."""
    plan = plan_of(config)
    if plan is None:
        return
    summary = {
        "plan_sha256": plan.plan_sha256,
        "sampling_plan_path": config.sampling_plan_path,
        "replacement": replaces(config, plan),
        "sampler_seed": plan.config.sampler_seed if config.sampler_seed_override < 0 else config.sampler_seed_override,
        "plan_subset_mode": config.plan_subset_mode,
        "lr_scale": lr_scale_of(config, plan),
        **asdict(exposure_of(config, plan)),
    }
    for folder in map(TrainingFolder, folders):
        write_json(folder.plan_summary, summary)
        save_plan(plan, folder.plan, overwrite=True)
